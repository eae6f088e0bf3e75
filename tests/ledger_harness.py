"""One chain's modules on a real state, without signatures, blocks or a clock of their own.

Every call is a block: messages and events pass through the strict codec, and what was written is
encoded and read back, so that a record out of its bounds fails in the test that wrote it.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa

from hansa.core.codec import Value, encode, make_decoder
from hansa.core.errors import Rejected
from hansa.core.merkle import EMPTY_ROOT
from hansa.core.module import DEADLINES_INDEX, Context, Module
from hansa.core.packet import Acknowledgement, Outgoing
from hansa.core.readmodel import Batch, Fact, event_name
from hansa.core.state import State, Table
from hansa.core.transaction import Event, Message
from hansa.service.bank.model import Issue, OpenCurrency
from hansa.service.bank.rules import CURRENCIES
from hansa.service.members.model import (
    MODULE,
    Customer,
    Founder,
    FounderAccount,
    MembersParams,
    NewCustomer,
    News,
    RegisterCustomers,
    Role,
    compute_founder_id,
    compute_rights,
)
from hansa.storage.sql import bulk_insert, bulk_upsert

R = TypeVar("R")
T = TypeVar("T")

START_MS = 1_760_000_000_000
"""Block time of the genesis, and of what follows until a test moves it."""
DAY_MS = 24 * 3600 * 1000
NETWORK = b"\x01" + bytes(31) + b"\x07"


def make_account(name: str) -> bytes:
    """Return the account id of somebody with this name: 20 bytes."""
    return hashlib.sha256(b"account " + name.encode()).digest()[:20]


def make_object(name: str) -> bytes:
    """Return an object id that no handler made: 16 bytes."""
    return hashlib.sha256(b"object " + name.encode()).digest()[:16]


def make_digest(name: str) -> bytes:
    """Return a typed digest: 33 bytes."""
    return b"\x01" + hashlib.sha256(b"digest " + name.encode()).digest()


def find_unnamed(errors: Sequence[type[Rejected]], file: str) -> list[str]:
    """Return the errors that a test file imports at most, but never expects."""
    tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    names = [node.id for node in ast.walk(tree) if isinstance(node, ast.Name)]
    return [error.__name__ for error in errors if error.__name__ not in names]


def expect(
    error: type[Rejected],
    harness: Harness,
    act: Callable[..., object],
    *arguments: Any,
    **named: Any,
) -> None:
    """Have something refused by this error, and nothing changed by it."""
    before = dict(harness.store.data)
    with pytest.raises(error):
        act(*arguments, **named)
    assert before == harness.store.data


class DictStore:
    """A state store in memory."""

    def __init__(self) -> None:
        self.data: dict[bytes, bytes] = {}

    def get(self, key: bytes) -> bytes | None:
        """Return the encoded value under a key."""
        return self.data.get(key)


@dataclass(frozen=True)
class Sent:
    """A packet as a module handed it to the link."""

    destination: str
    module: int
    payload: bytes
    deadline_ms: int
    sequence: int


class RecordingLink:
    """A link that keeps what it is given; `peers` are the chains it has a client of."""

    def __init__(self, *peers: str) -> None:
        self.peers = peers
        self.sent: list[Sent] = []
        self._next = dict.fromkeys(peers, 0)

    def send(
        self, ctx: Context, destination: str, module: int, payload: bytes, deadline_ms: int
    ) -> int:
        """Take a packet; returns its sequence, counted for each destination from 0."""
        sequence = self._next[destination]
        self._next[destination] = sequence + 1
        self.sent.append(Sent(destination, module, payload, deadline_ms, sequence))
        return sequence

    def has_client(self, ctx: Context, chain: str) -> bool:
        """Tell whether packets to a chain can be sent."""
        return chain in self.peers

    def get_peers(self, ctx: Context) -> tuple[str, ...]:
        """Return the chains that packets can be sent to."""
        return self.peers

    def take(self) -> list[Sent]:
        """Return what was sent since the last take."""
        taken, self.sent[:] = list(self.sent), []
        return taken


class Harness:
    """Modules of one chain, with a clock that the test moves.

    `params` are the genesis parameters by module name. A handler that raises a Rejected leaves the
    state as it was; anything else is a bug and comes out of the call as it is.
    """

    def __init__(
        self,
        chain: str,
        modules: Sequence[Module],
        params: Mapping[str, Value] | None = None,
        *,
        time_ms: int = START_MS,
    ) -> None:
        self.chain = chain
        self.modules = {module.number: module for module in modules}
        self.time_ms = time_ms
        self.height = -1
        self.store = DictStore()
        self.state = State(self.store)
        self.facts: list[Fact] = []
        """All that happened, oldest first, as the read model would be told."""
        self.sent: list[Outgoing] = []
        """Items a real link module put into the outbox, oldest first."""
        self._handlers = {
            cls: handler for module in modules for cls, handler in module.handlers.items()
        }
        self._decode_message = _make_union_decoder([*self._handlers], "message")
        event_types = [event for module in modules for event in module.events]
        self._decode_event = _make_union_decoder(event_types, "event")
        self._event_names = {
            event: event_name(module.name, event) for module in modules for event in module.events
        }
        self._run_genesis(params or {})

    # What comes from outside.

    def submit(self, *messages: Message, by: bytes | Sequence[bytes]) -> list[Any]:
        """Run messages as one transaction of these signers; returns the events.

        Raises: Malformed where a message is out of its bounds; Rejected, nothing changed.
        """
        signers = (by,) if isinstance(by, bytes) else tuple(by)
        decoded = [self._decode_message(encode(message)) for message in messages]
        with self.block(*signers) as ctx:
            for index, message in enumerate(decoded):
                ctx.enter_message(index)
                self._handlers[type(message)](ctx, message)
        return ctx.events

    def call(self, port: Callable[..., T], *arguments: Any, by: Sequence[bytes] = ()) -> T:
        """Call a port's method as another module would: `call(bank.transfer, debit, …)`."""
        with self.block(*by) as ctx:
            return port(ctx, *arguments)

    def deliver(self, source: str, module: int, payload: bytes) -> list[Any]:
        """Hand a packet to a module; returns the events. Raises: Rejected, nothing changed."""
        on_packet = self.modules[module].on_packet
        assert on_packet is not None, f"module {module} takes no packets"
        with self.block() as ctx:
            on_packet(ctx, source, payload)
        return ctx.events

    def acknowledge(
        self, destination: str, module: int, sequence: int, outcome: int, number: int = 0
    ) -> list[Any]:
        """Tell a module what became of a packet it sent; returns the events."""
        on_acknowledgement = self.modules[module].on_acknowledgement
        assert on_acknowledgement is not None, f"module {module} sends no packets"
        text = f"error {number}" if number else ""
        ack = Acknowledgement(sequence=sequence, outcome=outcome, number=number, text=text)  # type: ignore[arg-type]
        with self.block() as ctx:
            on_acknowledgement(ctx, destination, sequence, ack)
        return ctx.events

    def advance(self, by_ms: int) -> list[Any]:
        """Move the clock and run what is due, block by block; returns the events."""
        return self.advance_to(self.time_ms + by_ms)

    def advance_to(self, time_ms: int) -> list[Any]:
        """Move the clock to a time and run what lies before it; returns the events."""
        assert time_ms >= self.time_ms, "block time never goes back"
        self.time_ms = time_ms
        events: list[Any] = []
        while due := [key for at_ms, key in self._scan_deadlines() if at_ms < time_ms]:
            events += self._run_deadlines(due)
        return events

    # What can be looked at.

    def rows(self, table: Table[R]) -> dict[bytes, R]:
        """Return a table's records by key, sorted."""
        prefix = table.prefix
        return {
            key[len(prefix) :]: table.decode(self.store.data[key])
            for key in sorted(self.store.data)
            if key.startswith(prefix)
        }

    def get(self, table: Table[R], key: bytes) -> R | None:
        """Return one record, or None."""
        return table.get(self, key)

    def deadlines(self, module: int) -> list[tuple[int, bytes]]:
        """Return a module's deadlines as (time, the module's own key), earliest first."""
        return [(at_ms, key[9:]) for at_ms, key in self._scan_deadlines() if key[8] == module]

    def view(self, table: sa.Table) -> list[dict[str, Any]]:
        """Project all facts into an empty database; returns one table's rows by primary key."""
        engine = sa.create_engine("sqlite://")
        batch = Batch()
        for module in self.modules.values():
            if module.views is not None:
                module.views.metadata.create_all(engine)
        projections = {
            event: projection
            for module in self.modules.values()
            if module.views is not None
            for event, projection in module.views.projections.items()
        }
        for fact in self.facts:
            projections[type(fact.event)](batch, fact)
        with engine.begin() as connection:
            bulk_upsert(connection, table, list(batch.upserts[table].values()))
            bulk_insert(connection, table, batch.inserts[table])
            chosen = connection.execute(sa.select(table).order_by(*table.primary_key.columns))
            return [dict(row) for row in chosen.mappings()]

    # How a block runs.

    @contextmanager
    def block(self, *signers: bytes) -> Iterator[Context]:
        """Run the body as one transaction in a block of its own."""
        self.height += 1
        ctx = Context(
            self.state,
            network=NETWORK,
            chain=self.chain,
            height=self.height,
            time_ms=self.time_ms,
            log_size=self.height,
            log_root=EMPTY_ROOT,
        )
        digest = make_digest(f"{self.chain} {self.height}")
        ctx.enter(digest, signers, digest[1:17])
        try:
            yield ctx
            self._commit(ctx, digest if signers else None)
        finally:
            # A new one knows nothing, so that the next block reads what was encoded.
            self.state = State(self.store)

    def _commit(self, ctx: Context, digest: bytes | None) -> None:
        for key, value in self.state.block_writes():
            if value is None:
                self.store.data.pop(key, None)
            else:
                self.store.data[key] = value
        # A state of its own for each block: nothing is known but what was encoded and kept.
        self.state = State(self.store)
        self.sent += ctx.outbox
        for index, event in enumerate(ctx.events):
            assert event == self._decode_event(encode(event)), "expected an event in its bounds"
            self.facts.append(self._make_fact(ctx, digest, index, event))

    def _make_fact(self, ctx: Context, digest: bytes | None, index: int, event: Event) -> Fact:
        return Fact(
            chain=self.chain,
            height=ctx.height,
            time_ms=ctx.time_ms,
            leaf=ctx.height,
            event_index=index,
            transaction=digest.hex() if digest else None,
            event=event,
            name=self._event_names[type(event)],
        )

    def _run_genesis(self, params: Mapping[str, Value]) -> None:
        with self.block() as ctx:
            for module in self.modules.values():
                if module.on_genesis is not None:
                    decode = make_decoder(module.params, module.name)
                    module.on_genesis(ctx, decode(encode(params[module.name])))

    def _scan_deadlines(self) -> list[tuple[int, bytes]]:
        prefix = DEADLINES_INDEX.prefix
        keys = sorted(key[2:] for key in self.store.data if key.startswith(prefix))
        return [(int.from_bytes(key[:8], "big"), key) for key in keys]

    def _run_deadlines(self, due: Sequence[bytes]) -> list[Any]:
        with self.block() as ctx:
            for index, key in enumerate(due):
                if DEADLINES_INDEX.get(ctx, key) is None:
                    continue  # An earlier deadline of this block has cancelled it.
                DEADLINES_INDEX.delete(ctx, key)
                ctx.enter_message(index)
                on_deadline = self.modules[key[8]].on_deadline
                assert on_deadline is not None, f"module {key[8]} has no deadlines"
                try:
                    on_deadline(ctx, key[9:])
                except Rejected as error:
                    raise AssertionError(f"nobody asked, so nobody is told: {error}") from error
        return ctx.events


def _make_union_decoder(types: Sequence[type], what: str) -> Callable[[bytes], Any]:
    if not types:
        return lambda data: (_ for _ in ()).throw(AssertionError(f"no {what} is known"))
    return make_decoder(reduce(or_, types), what)


# Who takes part in the tests. Each name is an organisation's owner account, who may do all that its
# roles allow; a clerk may do what the owner may, except for granting rights.

ISSUER = make_account("Payment Institution")
SELLER = make_account("Seller")
BUYER = make_account("Buyer")
PLATFORM = make_account("Platform")
CARRIER = make_account("Carrier")
FORWARDER = make_account("Forwarder")
STRANGER = make_account("Stranger")
"""Known to nobody."""

FOUNDERS: dict[bytes, tuple[str, str, tuple[Role, ...]]] = {
    ISSUER: ("Settlement House", "NL", ("payment_institution",)),
    SELLER: ("Porcelain Works", "CN", ("manufacturer", "seller")),
    BUYER: ("Import Company", "GB", ("buyer",)),
    PLATFORM: ("Market Place", "GB", ("platform",)),
    CARRIER: ("First Line", "CN", ("carrier",)),
    FORWARDER: ("Last Mile", "GB", ("carrier",)),
}
"""By owner: name, country, roles."""


def make_clerk(owner: bytes) -> bytes:
    """Return the account of a founder's clerk."""
    return make_account(f"clerk of {owner.hex()}")


def make_members_params(
    registry: str = "anchor", peers: tuple[str, ...] = ("logistics", "product", "trade")
) -> MembersParams:
    """Return a genesis of the members with all founders; a majority decides."""
    founders = tuple(
        Founder(
            name=name,
            country=country,
            roles=roles,
            licence="",
            owner=owner,
            accounts=(FounderAccount(account=make_clerk(owner), rights=compute_rights(roles)),),
        )
        for owner, (name, country, roles) in FOUNDERS.items()
    )
    return MembersParams(
        registry=registry,
        peers=peers,
        quorum_permille=500,
        voting_period_ms=7 * DAY_MS,
        resolution_lifetime_ms=3 * DAY_MS,
        packet_lifetime_ms=DAY_MS,
        founders=founders,
    )


def register_customers(
    harness: Harness, *accounts: bytes, by: bytes = PLATFORM, registry: str = "anchor"
) -> None:
    """Have an organisation answer for customers, as this chain would come to know them."""
    if harness.chain == registry:
        entries = tuple(
            NewCustomer(account, "GB", make_digest(account.hex())) for account in accounts
        )
        harness.submit(RegisterCustomers(customers=entries), by=by)
        return
    organisation = compute_founder_id(by)
    customers = tuple(
        Customer(account, organisation, "GB", make_digest(account.hex()), 0) for account in accounts
    )
    harness.deliver(registry, MODULE, encode(News(organisations=(), parties=customers)))


def fund(harness: Harness, account: bytes, amount_minor: int, currency: str = "GBP") -> None:
    """Issue money to an account; opens the currency, of two digits, where it is not open yet."""
    if harness.get(CURRENCIES, currency.encode()) is None:
        harness.submit(OpenCurrency(currency=currency, exponent=2), by=ISSUER)
    reference = make_object(f"funding {harness.height}")
    issue = Issue(credit=account, currency=currency, amount_minor=amount_minor, reference=reference)
    harness.submit(issue, by=ISSUER)
