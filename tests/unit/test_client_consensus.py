"""What the SDK believes of a node of a network on CometBFT, and what trust files say of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from tests.comet_network import CometWorld
from tests.comet_world import make_set

from hansa.core.block import compute_app_hash, decode_header
from hansa.core.codec import encode
from hansa.core.errors import OperatorError
from hansa.core.finality import (
    GENESIS_TRUST_MS,
    CheckpointSigner,
    TrustedNetwork,
    note_of,
    trust_network,
)
from hansa.core.keystore import KeyStore
from hansa.core.lightclient import trust_block
from hansa.core.proof import Trust, pack_bundle
from hansa.core.prover import Place, prove_places
from hansa.foreground.cli.failures import DONE, REFUSED, WRONG_USE
from hansa.foreground.cli.judging import judge_files
from hansa.foreground.cli.output import Output
from hansa.foreground.cli.trusting import read_trust as read_trust_file
from hansa.interface.client import Client, SeenCheckpoints, Unbelievable, read_trust
from hansa.interface.client.outcomes import Submitted
from hansa.interface.client.transports import Ask, SubmitBatch
from hansa.node.home import make_readable_trust

FIRST = make_set(10, 10, 10, 10, first=0)
SECOND = make_set(10, 10, 10, 10, first=10)
KEYS = KeyStore(seed=b"k" * 32, keys={}, is_sandbox=True)


class Served:
    """A way to a node that has these chains; it may be told to lie."""

    def __init__(self, world: CometWorld) -> None:
        self.world = world
        self.signer = world.signer
        self.note: Callable[[bytes], bytes] = lambda note: note

    def ask(self, ask: Ask) -> Any:
        """Answer as a node does."""
        return getattr(self, ask.what)(**ask.args)

    def genesis(self) -> bytes:
        """The genesis."""
        return encode(self.world.ledger.genesis)

    def header(self, chain: str) -> dict[str, str]:
        """The newest final header."""
        header, finality = self.world.last(chain)
        return {"header": header.hex(), "finality": finality.hex()}

    def checkpoint(self, chain: str) -> bytes:
        """The node's own note of it."""
        header = decode_header(self.world.last(chain)[0])
        return self.note(note_of(self.signer.sign(header, compute_app_hash(header))))

    def consistency(self, chain: str, old: int, new: int) -> dict[str, list[str]]:
        """The path between two sizes of the log."""
        path = self.world.ledger.chains[chain].log.prove_consistency(old, new)
        return {"path": [node.hex() for node in path]}

    def submit(self, batch: SubmitBatch) -> Submitted:
        """Nothing is handed in here."""
        raise NotImplementedError

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[CometWorld]:
    """A network with some history."""
    made = CometWorld(tmp_path / "world", FIRST)
    made.run("product", made.letter("one"))
    yield made
    made.close()


def connect(served: Served, now_ms: int | None = None, trust: Trust | None = None) -> Client:
    """A client that remembers nothing yet."""
    time_ms = served.world.time_ms if now_ms is None else now_ms
    return Client(served, KEYS, trust, seen=SeenCheckpoints(), clock=lambda: time_ms)


# The note of a node.


def test_a_checkpoint_is_the_note_of_a_trusted_node(world: CometWorld) -> None:
    """It says size and root of the final header, and of one history with what comes after."""
    served = Served(world)
    with connect(served) as client:
        assert served.checkpoint("product") == client.checkpoint("product")
        world.change(SECOND)
        world.run("product", world.letter("two"))
        assert served.checkpoint("product") == client.checkpoint("product")
        # The node has gone on between the two questions.
        older = served.checkpoint("product")
        world.run("product", world.letter("three"))
        served.note = lambda _: older
        assert older == client.checkpoint("product")


def _lies(world: CometWorld) -> dict[str, Callable[[bytes], bytes]]:
    header = decode_header(world.last("product")[0])
    stranger = CheckpointSigner(b"x" * 32)

    def sign(signer: CheckpointSigner = world.signer, **changes: Any) -> bytes:
        changed = replace(header, **changes)
        return note_of(signer.sign(changed, compute_app_hash(changed)))

    return {
        "of a stranger": lambda _: sign(stranger),
        "with a stranger's line more": lambda note: note + sign(stranger).split(b"\n\n")[1],
        "of another chain": lambda _: sign(chain="trade"),
        "of another root": lambda _: sign(log_root=b"x" * 32),
        "of another app hash": lambda _: sign(writes=b"\x01" + b"x" * 32),
        "of a larger log that is not there": lambda _: sign(log_size=99),
        "no note": lambda _: b"hello\n",
    }


def test_a_note_that_denies_the_final_header_is_not_believed(world: CometWorld) -> None:
    """Whoever signed it."""
    served = Served(world)
    for name, lie in _lies(world).items():
        served.note = lie
        if name == "of a larger log that is not there":
            served.consistency = lambda **_: {"path": []}  # type: ignore[method-assign]
        with connect(served) as client, pytest.raises(Unbelievable):
            client.checkpoint("product")


def test_a_header_is_judged_by_the_clients_clock(world: CometWorld) -> None:
    """Trust that has expired believes no node any more."""
    served = Served(world)
    late = world.time_ms + GENESIS_TRUST_MS
    with connect(served, late) as client, pytest.raises(Unbelievable, match="now: expected"):
        client.checkpoint("product")


# Trust files.


def trusts(world: CometWorld) -> dict[str, TrustedNetwork]:
    """Trust in a genesis, in a later block, and in a network of the solo engine."""
    genesis = trust_network(world.ledger.genesis)
    later = replace(genesis, consensus=trust_block(world.blocks[-1], 1_000))
    return {"genesis": genesis, "later": later, "solo": replace(genesis, consensus=None)}


def write(trusted: TrustedNetwork) -> bytes:
    """A trust file as `hansa trust` writes it."""
    from hansa.node.home import describe_trust

    return json.dumps({"networks": [describe_trust(trusted)]}).encode()


def test_trust_files_are_read_as_they_were_written(world: CometWorld, tmp_path: Path) -> None:
    """By the SDK and by the command line, whatever the engine."""
    file = tmp_path / "hansa.trust"
    for name, trusted in trusts(world).items():
        file.write_bytes(write(trusted))
        assert (trusted,) == read_trust(file.read_bytes()).networks, name
        assert (trusted,) == read_trust_file(file).networks, name
    shown = make_readable_trust(world.ledger.genesis)["networks"][0]
    assert 0 == shown["consensus"]["height"]
    assert 4 == len(shown["consensus"]["validators"])
    file.write_text(json.dumps({"networks": [shown]}))
    assert (trust_network(world.ledger.genesis),) == read_trust_file(file).networks


SPOILT: dict[str, Callable[[dict[str, Any]], object]] = {
    "no validators": lambda trust: trust["consensus"].update(validators=[]),
    "a power of zero": lambda trust: trust["consensus"]["validators"][0].update(power=0),
    "a short key": lambda trust: trust["consensus"]["validators"][0].update(key="02ff"),
    "a negative time": lambda trust: trust["consensus"].update(time_ns=-1),
    "no period": lambda trust: trust["consensus"].pop("trusting_period_ms"),
    "a field more": lambda trust: trust["consensus"].update(more=1),
    "no object": lambda trust: trust.update(consensus="all"),
    "a hash too long": lambda trust: trust["consensus"].update(header_hash="00" * 33),
}


@pytest.mark.parametrize("name", SPOILT)
def test_trust_files_that_say_something_else_are_refused(
    world: CometWorld, tmp_path: Path, name: str
) -> None:
    """Before anything is judged by them."""
    document = json.loads(write(trusts(world)["genesis"]))
    SPOILT[name](document["networks"][0])
    file = tmp_path / "hansa.trust"
    file.write_text(json.dumps(document))
    with pytest.raises(OperatorError):
        read_trust(file.read_bytes())
    with pytest.raises(OperatorError):
        read_trust_file(file)


# What `hansa verify` says.


def test_verify_says_in_words_why_it_cannot_tell(
    world: CometWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 2 for expired trust, 1 for a bad file, 0 for a good one."""
    part = world.parts("product")[-1]
    assert part.header is not None
    bundle = prove_places(world.ledger, [Place("product", part.header.height, 1)])
    file, trust_file = tmp_path / "one.proof", tmp_path / "hansa.trust"
    file.write_bytes(pack_bundle(bundle))
    trusted = trust_network(world.ledger.genesis)
    assert trusted.consensus is not None
    patient = replace(trusted.consensus, trusting_period_ms=100 * GENESIS_TRUST_MS)
    trust_file.write_bytes(write(replace(trusted, consensus=patient)))
    assert DONE == judge_files(file, trust_file, Output(as_json=False))
    assert "VALID" in capsys.readouterr().out
    short = replace(trusted.consensus, trusting_period_ms=1)
    trust_file.write_bytes(write(replace(trusted, consensus=short)))
    assert WRONG_USE == judge_files(file, trust_file, Output(as_json=False))
    said = capsys.readouterr().out
    assert "CANNOT TELL: the trust in the network's validators has expired" in said
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    trust_file.write_bytes(write(replace(trusted, consensus=patient)))
    assert REFUSED == judge_files(file, trust_file, Output(as_json=False))
