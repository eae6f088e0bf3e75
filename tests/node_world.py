"""A home of one node with a small market in it: its parties sign, its books can be looked at."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final, TypeVar

from hansa.core.codec import Value
from hansa.core.finality import CheckpointSigner
from hansa.core.genesis import Genesis
from hansa.core.hashing import digester
from hansa.core.keys import SigningKey, compute_account
from hansa.core.keystore import KeyStore
from hansa.core.module import compute_object_id
from hansa.core.state import Table
from hansa.core.transaction import Body, Message, Signer, envelope_digest, sign_transaction
from hansa.network.intake import Inclusion, Settled
from hansa.network.solo import SoloEngine
from hansa.node.composition import GenesisTerms, make_genesis
from hansa.node.home import create_home
from hansa.node.node import Node
from hansa.service.bank.model import Issue, OpenCurrency, Transfer
from hansa.service.bank.rules import BALANCES, CURRENCIES, HOLDS, verify_conservation
from hansa.service.catalogue.model import Register
from hansa.service.members.model import Founder
from hansa.service.orders.model import LineOffer, Place, Terms
from hansa.service.orders.rules import ORDERS
from hansa.storage.errors import StorageError

R = TypeVar("R", bound=Value)

START_MS: Final = 1_760_000_000_000
MINUTE_MS: Final = 60_000
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS
SEED: Final = b"\x05" * 32
CURRENCY: Final = "GBP"
FUNDS_MINOR: Final = 1_000_000
PRICE_E6: Final = 1_500_000
ESCROW_STATES: Final = ("funded", "dispatched", "delivered", "returning")

BUYERS: Final = ("buyer/one", "buyer/two", "buyer/three")
SELLERS: Final = ("seller/one", "seller/two")
CARRIERS: Final = ("carrier/one", "carrier/two")
BANK: Final = "bank"

_make_digest = digester("test")
CONSORTIUM: Final = _make_digest(b"consortium of the fault tests")
ADDRESS: Final = _make_digest(b"an address")


class Clock:
    """A clock that stands still until it is moved, in either direction."""

    def __init__(self, now_ms: int = START_MS) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms


class Keys:
    """The parties' keys, the same in every network of these tests."""

    def __init__(self) -> None:
        self.store = KeyStore(seed=SEED, keys={}, is_sandbox=True)
        self._accounts: dict[str, bytes] = {}

    def __getitem__(self, party: str) -> SigningKey:
        return self.store.get(party)

    def account(self, party: str) -> bytes:
        """Return the account of a party."""
        if party not in self._accounts:
            self._accounts[party] = compute_account(CONSORTIUM, self[party].public)
        return self._accounts[party]


KEYS: Final = Keys()


def account(party: str) -> bytes:
    """Return the account of a party by its name."""
    return KEYS.account(party)


def make_market_home(
    home: Path, *, time_ms: int = START_MS, terms: GenesisTerms | None = None, name: str = "market"
) -> Genesis:
    """Make a home whose genesis has a bank, sellers, buyers and carriers."""
    genesis = make_genesis(
        name,
        consortium=CONSORTIUM,
        is_sandbox=True,
        time_ms=time_ms,
        founders=[
            _make_founder(BANK, "bank"),
            *[_make_founder(party, "seller") for party in SELLERS],
            *[_make_founder(party, "buyer") for party in BUYERS],
            *[_make_founder(party, "carrier") for party in CARRIERS],
        ],
        validators=[CheckpointSigner(KEYS.store.get_secret("validator")).public],
        terms=terms,
    )
    create_home(home, genesis, KEYS.store)
    return genesis


def _make_founder(party: str, role: Any) -> Founder:
    return Founder(party, "GB", (role,), "", account(party), ())


class SteppedNode(Node):
    """A node without threads: whatever is submitted is in a block before submitting returns."""

    def submit(self, chain: str, envelope: bytes) -> Future[Inclusion]:
        """Queue a transaction and make blocks until nothing waits."""
        answer = super().submit(chain, envelope)
        self.settle()
        return answer

    def submit_batch(self, chain: str, envelopes: Sequence[bytes]) -> Future[list[Settled]]:
        """Queue transactions and make blocks until nothing waits."""
        answer = super().submit_batch(chain, envelopes)
        self.settle()
        return answer

    def settle(self) -> None:
        """Make every block that is due, and bring the read model up to it."""
        assert isinstance(self.engine, SoloEngine)
        while self.engine.step() is not None:
            pass
        self.project_pending()

    def crash(self) -> None:
        """Let go of all files as the kernel does for a process that is killed: nothing is flushed.

        What was not synced to the block log before is not there afterwards; all that was is.
        """
        self.engine.stop()
        self.ledger._let_go()
        self.read_model.engine.dispose()
        self._lock.release()


class Market:
    """Signs for the parties of a node and counts their sequences."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._sequences: dict[tuple[str, str, int], int] = {}
        self.products: dict[str, bytes] = {}

    def sign(
        self, chain: str, parties: str | tuple[str, ...], *messages: Message, lane: int = 0,
        sequence: int | None = None, network: bytes | None = None, named_chain: str | None = None,
    ) -> bytes:  # fmt: skip
        """Return a signed transaction; its sequence is the next one unless another is given."""
        signers = (parties,) if isinstance(parties, str) else parties
        if sequence is None:
            sequence = self.next_sequence(chain, signers[0], lane)
            self._sequences[chain, signers[0], lane] = sequence + 1
        body = Body(
            version=1,
            network=network or self.node.network,
            chain=named_chain or chain,
            signers=tuple(Signer(account(party), KEYS[party].public) for party in signers),
            lane=lane,
            sequence=sequence,
            valid_until_ms=max(self.node.engine.clock(), self.node.ledger.time_ms) + HOUR_MS,
            messages=messages,
        )
        return sign_transaction(body, [KEYS[party] for party in signers])

    def next_sequence(self, chain: str, party: str, lane: int = 0) -> int:
        """Return the sequence a party uses next."""
        known = self._sequences.get((chain, party, lane))
        return self.node.get_sequence(chain, account(party), lane) if known is None else known

    def forget_sequences(self) -> None:
        """Ask the node again where everybody stands."""
        self._sequences.clear()

    def send(self, chain: str, parties: str | tuple[str, ...], *messages: Message) -> Inclusion:
        """Hand in a transaction; returns its receipt, be it a refusal of a rule."""
        return self.node.submit(chain, self.sign(chain, parties, *messages)).result(timeout=60)

    def do(self, chain: str, parties: str | tuple[str, ...], *messages: Message) -> list[Any]:
        """Hand in a transaction that must succeed; returns its events."""
        receipt = self.send(chain, parties, *messages).receipt
        assert receipt.error is None, receipt.error
        return [self.node.ledger.chains[chain].decode_event(event) for event in receipt.events]

    def fail(self, chain: str, parties: str | tuple[str, ...], *messages: Message) -> int:
        """Hand in a transaction; returns the number of the error it is refused with, or 0."""
        error = self.send(chain, parties, *messages).receipt.error
        return error.number if error else 0

    # The market opens.

    def open(self) -> None:
        """Open the currency, give everybody money, register a product of each seller."""
        self.do("trade", BANK, OpenCurrency(CURRENCY, 2))
        for number, party in enumerate((*BUYERS, *SELLERS)):
            reference = number.to_bytes(16, "big")
            self.do("trade", BANK, Issue(account(party), CURRENCY, FUNDS_MINOR, reference))
        for seller in SELLERS:
            self.register_product(seller, "SKU-1")

    def register_product(self, seller: str, reference: str) -> bytes:
        """Register a product; returns its id."""
        register = Register(
            reference=reference,
            gtin="",
            name="Kettle",
            description="holds a litre",
            hs_code="732399",
            origin="GB",
            unit="C62",
        )
        product = compute_object_id("product", self.send("product", seller, register).digest, 0)
        self.products[seller] = product
        return product

    def make_place(self, seller: str, terms: Terms, quantity: int = 2) -> Place:
        """Return an order for the seller's product."""
        return Place(
            seller=account(seller),
            currency=CURRENCY,
            lines=(LineOffer(self.products[seller], quantity, PRICE_E6),),
            terms=terms,
            origin="GB",
            destination="DE",
            address=ADDRESS,
            reference="order",
            dated_ms=0,
        )

    def make_transfer(self, to: str, amount_minor: int, reference: int) -> Transfer:
        """Return a payment."""
        return Transfer(account(to), CURRENCY, amount_minor, reference.to_bytes(16, "big"))


def make_terms(now_ms: int, step_ms: int = HOUR_MS) -> Terms:
    """Return terms with one step of time for each deadline, and delivery within ten."""
    return Terms(
        accept_by_ms=now_ms + step_ms,
        fund_by_ms=now_ms + 2 * step_ms,
        ship_by_ms=now_ms + 3 * step_ms,
        deliver_by_ms=now_ms + 10 * step_ms,
        inspection_ms=2 * step_ms,
        return_cost="buyer",
    )


# What can be looked at.


def read_table(node: Node, chain: str, table: Table[R]) -> dict[bytes, R]:
    """Return all records of a table as of the last block, by key."""
    home = node.ledger.chains[chain]
    prefix = home.prefix + table.prefix
    rows = dict(node.ledger.store.scan(prefix))
    for key, value in home.state.unflushed_writes():
        if key.startswith(prefix):
            if value is None:
                rows.pop(key, None)
            else:
                rows[key] = value
    return {key[len(prefix) :]: table.decode(rows[key]) for key in sorted(rows)}


def find_unsound_books(node: Node) -> str | None:
    """Return what is wrong with the money, or None: conserved, escrow that of open orders."""
    holds = read_table(node, "trade", HOLDS)
    fault = verify_conservation(
        read_table(node, "trade", CURRENCIES).values(),
        read_table(node, "trade", BALANCES).items(),
        holds.values(),
    )
    if fault is not None:
        return fault
    for order in read_table(node, "trade", ORDERS).values():
        hold = holds.pop(order.hold, None) if order.hold is not None else None
        held_minor = hold.amount_minor - hold.posted_minor if hold is not None else 0
        due_minor = order.total_minor if order.status in ESCROW_STATES else 0
        if held_minor != due_minor:
            return f"order {order.id.hex()}, {order.status}: {held_minor} held of {due_minor}"
    loose = [hold for hold in holds.values() if hold.until_ms is None]
    return f"holds of no order: {loose}" if loose else None


def get_balances(node: Node) -> dict[bytes, int]:
    """Return what each account has, held money included."""
    return {key: row.posted_minor for key, row in read_table(node, "trade", BALANCES).items()}


def own_minor(node: Node, party: str) -> int:
    """Return what a party has, held money included."""
    return get_balances(node).get(account(party) + CURRENCY.encode(), 0)


def get_network_hashes(node: Node) -> list[bytes]:
    """Return the app hash of the whole network at every height."""
    return [record.network_hash for record in node.ledger.iterate_blocks(0)]


def iterate_digests(node: Node) -> Iterator[bytes]:
    """Yield the digest of every transaction in the block log, on all chains."""
    for record in node.ledger.iterate_blocks(0):
        for part in record.chains:
            for envelope in part.envelopes:
                yield envelope_digest(envelope)


def describe_error(error: BaseException) -> str:
    """Return an error's text, with the file it names."""
    named = f" {error.filename}" if isinstance(error, StorageError) else ""
    return f"{type(error).__name__}: {error}{named}"


def short_hash(data: bytes) -> str:
    """Return a few characters that stand for bytes."""
    return hashlib.sha256(data).hexdigest()[:16]
