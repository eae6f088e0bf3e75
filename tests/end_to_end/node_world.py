"""A home with a bank, two traders and their money, and ways to write what a node must refuse."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hansa.core.finality import CheckpointSigner
from hansa.core.genesis import Genesis
from hansa.core.keys import compute_account
from hansa.core.keystore import KeyStore
from hansa.core.transaction import Body, Message, Signer, sign_transaction
from hansa.interface.client import Client, LocalTransport
from hansa.node.composition import make_genesis
from hansa.node.home import NodeConfig, create_home, make_trust
from hansa.node.node import Node, system_clock
from hansa.service.bank.model import Issue, OpenCurrency, Transfer
from hansa.service.members.model import Founder, Role

CONSORTIUM = b"\x01" + b"c" * 32
SANDBOX_KEYS = KeyStore(seed=b"s" * 32, keys={}, is_sandbox=True)
NAMES = ("bank", "alice", "bob", "node", "relay", "validator")
FUNDS_MINOR = 1_000_000


def make_keys(*, is_sandbox: bool) -> KeyStore:
    """The same keys, in a sandbox's store or in one that holds these names alone."""
    if is_sandbox:
        return KeyStore(seed=b"s" * 32, keys={}, is_sandbox=True)
    secrets = {name: SANDBOX_KEYS.get_secret(name) for name in NAMES}
    return KeyStore(seed=b"", keys=secrets, is_sandbox=False)


def account_of(name: str) -> bytes:
    """The account of a name."""
    return compute_account(CONSORTIUM, SANDBOX_KEYS.get(name).public)


def make_home(
    home: Path, *, is_sandbox: bool = True, http: dict[str, Any] | None = None
) -> Genesis:
    """A new home; returns its genesis."""
    roles: dict[str, Role] = {"bank": "payment_institution", "alice": "seller", "bob": "seller"}
    founders = [
        Founder(name, "GB", (role,), "", account_of(name), ()) for name, role in roles.items()
    ]
    validator = CheckpointSigner(SANDBOX_KEYS.get_secret("validator")).public
    genesis = make_genesis(
        "a market for tests",
        consortium=CONSORTIUM,
        is_sandbox=is_sandbox,
        time_ms=system_clock(),
        founders=founders,
        validators=[validator],
    )
    passphrase = None if is_sandbox else "correct horse"
    config = NodeConfig(http=http or {})
    create_home(
        home, genesis, make_keys(is_sandbox=is_sandbox), passphrase=passphrase, config=config
    )
    return genesis


@contextmanager
def open_market(
    home: Path, *, is_sandbox: bool = True, http: dict[str, Any] | None = None
) -> Iterator[Node]:
    """A running node on a new home, where alice and bob have money."""
    genesis = make_home(home, is_sandbox=is_sandbox, http=http)
    keys = make_keys(is_sandbox=is_sandbox)
    with Node(home, keys=keys) as node:
        client = Client(LocalTransport(node), keys, make_trust(genesis))
        client.send("trade", [OpenCurrency("GBP", 2)], ["bank"])
        for name in ("alice", "bob"):
            issue = Issue(account_of(name), "GBP", FUNDS_MINOR, make_reference(f"issue {name}"))
            client.send("trade", [issue], ["bank"])
        assert node.wait_projected(node.ledger.height)
        yield node


def make_reference(text: str) -> bytes:
    """A transfer's own reference: 16 bytes."""
    return hashlib.sha256(text.encode()).digest()[:16]


def make_transfer(text: str, amount_minor: int = 1, credit: str = "bob") -> Transfer:
    """A payment in pounds."""
    return Transfer(account_of(credit), "GBP", amount_minor, make_reference(text))


def write_envelope(
    node: Node,
    message: Message,
    signer: str = "alice",
    *,
    chain: str = "trade",
    lane: int = 7,
    sequence: int | None = None,
    validity_ms: int = 60_000,
    network: bytes | None = None,
    signed_by: str | None = None,
) -> bytes:
    """A signed envelope, right in all that isn't named."""
    account, key = account_of(signer), SANDBOX_KEYS.get(signer)
    next_sequence = node.get_sequence(chain, account, lane) if sequence is None else sequence
    body = Body(
        version=1,
        network=network or node.network,
        chain=chain,
        signers=(Signer(account, key.public),),
        lane=lane,
        sequence=next_sequence,
        valid_until_ms=max(system_clock(), node.ledger.time_ms) + validity_ms,
        messages=(message,),
    )
    return sign_transaction(body, [SANDBOX_KEYS.get(signed_by or signer)])
