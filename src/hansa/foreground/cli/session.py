"""One command's way to the ledger: the files of a home, or a running node, through the same client.

While a node serves a home, its lock is taken and its answers are newer than the files; so commands
on that home go through it. With --node they go to any node, and believe what they can verify.
"""

import inspect
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hansa.core.codec import to_readable
from hansa.core.transaction import Message
from hansa.foreground.cli.failures import WrongUse
from hansa.foreground.cli.options import (
    Home,
    Json,
    NodeUrl,
    PassphraseFile,
    TrustFile,
    resolve_home,
)
from hansa.foreground.cli.output import Output
from hansa.foreground.cli.passphrase import passphrase_reader

if TYPE_CHECKING:
    from hansa.core.keystore import KeyStore
    from hansa.interface.client import Client
    from hansa.node.node import Node

SEEN: Final = "seen.json"
"""The checkpoints believed last: a node that forgets its past is found out."""

ANSWER_TIMEOUT_S: Final = 2.0
"""How long a node that says it serves a home may take to say that it is alive."""

TOKEN_VARIABLE: Final = "HANSA_TOKEN"  # noqa: S105 - the name of a variable, not what it holds
"""Where a token comes from for a node of real parties that isn't one's own."""

TOKEN_LIFE_MS: Final = 600_000
"""How long a command's own token may live, should the command die before it ends it."""

SETTLING_ROUNDS: Final = 100
"""Rounds the relay of a home without a node may make before the command ends."""


class Session:
    """What a command works with."""

    def __init__(
        self,
        *,
        home: Path,
        out: Output,
        keys: "KeyStore",
        client: "Client",
        node: "Node | None",
    ) -> None:
        self.home = home
        self.out = out
        self.keys = keys
        self.client = client
        self.node = node
        """The node on the files; None where another process runs it."""

    # Accounts by the words people use.

    def resolve_account(self, word: str) -> bytes:
        """Return the account meant: its digits, a key's name, or an organisation's name.

        Raises: OperatorError for none of them.
        """
        if len(word) == 40 and all(digit in "0123456789abcdef" for digit in word.lower()):
            return bytes.fromhex(word)
        # First: nobody may take the name of a department of ours by naming his company so.
        if self.keys.holds(word):
            return self.client.account(word)
        owner = self.find_owner(word)
        # Last, since a sandbox has a key for every word there is.
        return owner if owner is not None else self.client.account(word)

    def find_owner(self, name: str) -> bytes | None:
        """Return the owner's account of the organisation of exactly this name, or None."""
        wanted = name.casefold()
        for row in self.client.search(name)["items"]:
            if row["kind"] == "organisation" and str(row["name"]).casefold() == wanted:
                return bytes.fromhex(row["owner"])
        return None

    # Sending.

    def send(
        self, chain: str, messages: Sequence[Message], signers: Sequence[str], lane: int
    ) -> None:
        """Sign, send, wait for the receipt, and show it.

        Raises: RuleRefused if a rule refused it, and what else the client raises.
        """
        outcome = self.client.send(chain, messages, signers, lane=lane)
        self.settle()
        events = [to_readable(event) for event in outcome.events]
        place = {"chain": outcome.chain, "height": outcome.height, "leaf": outcome.leaf}
        receipt = {"digest": outcome.digest.hex(), **place, "verified": outcome.is_verified}
        if self.out.as_json:
            self.out.document({**receipt, "events": events})
            return
        self.out.record(receipt)
        for event in events:
            self.out.say("")
            self.out.record(flatten(event))

    def settle(self) -> None:
        """Carry the packets that a message on the files has caused; a running node does it."""
        node = self.node
        if node is None or node.relay is None:
            return
        from hansa.network.relay import RelayTrouble

        node.relay.stop()
        try:
            for _ in range(SETTLING_ROUNDS):
                node.wait_projected(node.ledger.height)
                if not node.relay.step():
                    return
        except RelayTrouble as trouble:
            self.out.note(f"packets wait for the next start: {trouble}")


def flatten(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return an event's fields with those of the one record it is about beside them."""
    flat: dict[str, Any] = {}
    for name, value in event.items():
        flat.update(value if isinstance(value, dict) else {name: value})
    return flat


@contextmanager
def open_session(
    home: Path,
    out: Output,
    *,
    node_url: str | None = None,
    trust_file: Path | None = None,
    passphrase_file: Path | None = None,
) -> Iterator[Session]:
    """Open the way to the ledger that suits: a node's URL, the node of the home, or its files."""
    url = node_url or find_running(home)
    if url is None:
        with _open_files(home, out, passphrase_file) as session:
            yield session
    else:
        with _open_remote(url, home, out, trust_file, passphrase_file) as session:
            yield session


def find_running(home: Path) -> str | None:
    """Return the address of the node that runs on a home, if it is alive."""
    url = _read_address(home)
    if url is None:
        return None
    import httpx

    try:
        answer = httpx.get(f"{url}/health", timeout=ANSWER_TIMEOUT_S)
    except httpx.HTTPError:
        return None  # It died without taking its note away; the lock tells if that is wrong.
    return url if answer.is_success else None


def _read_address(home: Path) -> str | None:
    """Return the address that the node of a home left there, be it alive or not."""
    try:
        return (home / "node.url").read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None


@contextmanager
def _open_files(home: Path, out: Output, passphrase_file: Path | None) -> Iterator[Session]:
    from hansa.interface.client import Client, LocalTransport, SeenCheckpoints
    from hansa.node.home import load_genesis, load_keys, make_trust
    from hansa.node.node import Node

    genesis = load_genesis(home)
    keys = load_keys(home, passphrase_reader(passphrase_file))
    with Node(home, keys=keys, purpose="hansa") as node:
        seen = SeenCheckpoints(home / SEEN)
        with Client(LocalTransport(node), keys, make_trust(genesis), seen=seen) as client:
            yield Session(home=home, out=out, keys=keys, client=client, node=node)


@contextmanager
def _open_remote(
    url: str, home: Path, out: Output, trust_file: Path | None, passphrase_file: Path | None
) -> Iterator[Session]:
    from hansa.core.keystore import KeyStore
    from hansa.interface.client import Client, HttpTransport, SeenCheckpoints
    from hansa.node.home import load_genesis, load_keys, make_trust

    genesis = load_genesis(home) if (home / "genesis.bin").exists() else None
    if trust_file is not None:
        from hansa.foreground.cli.trusting import read_trust

        trust = read_trust(trust_file)
    elif genesis is not None:
        trust = make_trust(genesis)
    else:
        raise WrongUse(
            f"trust: expected the genesis in {home} or --trust FILE, got neither;"
            " `hansa trust -o FILE` on a node you believe makes one"
        )
    keys = KeyStore(seed=b"", keys={}, is_sandbox=False)
    if (home / "keys.json").exists():
        keys = load_keys(home, passphrase_reader(passphrase_file))
    # Asking makes no home: without one, what was seen is forgotten with the command.
    seen = SeenCheckpoints(home / SEEN if home.is_dir() else None)
    is_own = genesis is not None and not genesis.is_sandbox and url == _read_address(home)
    with (
        _own_token(home) if is_own else nullcontext(os.environ.get(TOKEN_VARIABLE)) as token,
        Client(HttpTransport(url, token), keys, trust, seen=seen) as client,
    ):
        yield Session(home=home, out=out, keys=keys, client=client, node=None)


@contextmanager
def _own_token(home: Path) -> Iterator[str]:
    """Let one command read from the node of its own home, whose files it may read anyway."""
    from hansa.interface.http.tokens import READ, TokenStore

    store, now_ms = TokenStore(home), time.time_ns() // 1_000_000
    issued = store.new([READ], account="", now_ms=now_ms, expires_ms=now_ms + TOKEN_LIFE_MS)
    try:
        yield issued.secret
    finally:
        store.revoke(issued.token.id)


_SHARED: Final[dict[str, Any]] = {
    "home": Home,
    "node_url": NodeUrl,
    "trust_file": TrustFile,
    "passphrase_file": PassphraseFile,
}


def with_session(command: Callable[..., None]) -> Callable[..., None]:
    """Turn ``command(session, ...)`` into a command with the options that a session needs."""
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]

    def run(**given: Any) -> None:
        out = Output(as_json=given.pop("as_json"))
        shared = {name: given.pop(name) for name in _SHARED}
        home = resolve_home(shared.pop("home"))
        with open_session(home, out, **shared) as session:
            command(session, **given)

    kind = inspect.Parameter.KEYWORD_ONLY
    more = [
        inspect.Parameter(name, kind, annotation=annotation, default=None)
        for name, annotation in _SHARED.items()
    ]
    more.append(inspect.Parameter("as_json", kind, annotation=Json, default=False))
    parameters = [*[parameter.replace(kind=kind) for parameter in own], *more]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__name__ = command.__name__
    run.__doc__ = command.__doc__
    return run
