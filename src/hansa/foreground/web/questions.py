"""What the pages ask of the node: answers as plain records, in no language.

Everything comes from the read model, but for blocks and signers, which come from the block log and
never change, so that they are remembered.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

import sqlalchemy as sa

from hansa.core.block import ChainRecord
from hansa.core.codec import to_readable
from hansa.core.proof import Judgement, verify_bundle
from hansa.core.prover import NotThere, Place
from hansa.core.readmodel import TRANSACTIONS, Kind
from hansa.core.transaction import Body
from hansa.node.home import make_trust
from hansa.node.node import Node, system_clock
from hansa.service.bank.views import CURRENCIES, HOLDS
from hansa.service.catalogue.views import PRODUCTS
from hansa.service.members.views import ACCOUNTS, ORGANISATIONS
from hansa.service.orders.model import STATUSES
from hansa.service.orders.views import ORDERS, select_lines
from hansa.service.shipments.views import SHIPMENTS, custody_of, shipment_of_order

Row = dict[str, Any]

STRIP_BLOCKS: Final = 64
"""Blocks that a chain's strip shows."""
STRIP_ENTRIES: Final = 3
LATEST_ORDERS: Final = 14
PAGE_ROWS: Final = 50
MAX_REMEMBERED: Final = 20_000
MAX_KEPT_PROOFS: Final = 64
MAX_KEPT_PROOF_BYTES: Final = 1 << 20
TALL_BAR: Final = 12
"""Doublings of the number of entries that fill a strip's height: 4,096 in one block."""

PATH: Final = ("placed", "accepted", "funded", "dispatched", "delivered", "released")
"""The states of an order that goes well, in order."""
UNHAPPY: Final = frozenset(STATUSES) - frozenset(PATH)


@dataclass(frozen=True, slots=True)
class Party:
    """Who is behind an account, as far as the ledger says."""

    account: str
    name: str
    """Of the organisation; empty for an account nobody knows."""
    organisation: str
    country: str
    is_customer: bool
    """Registered by the organisation named, not one of its own."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A block on a chain's strip."""

    height: int
    entries: int
    level: int
    """0 where the chain rested; else how tall the bar stands, 1 to TALL_BAR + 1."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A judged transaction in a list."""

    id: str
    chain: str
    leaf: int
    height: int
    time_ms: int
    messages: tuple[tuple[str, int], ...]
    """Each kind of message once, with how many of them there are."""
    signer: Party
    error: int
    error_text: str


@dataclass(frozen=True, slots=True)
class Strip:
    """A chain as the front page shows it."""

    name: str
    height: int
    log_size: int
    log_root: str
    bars: tuple[Bar, ...]
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Money:
    """An amount of one currency."""

    currency: str
    amount_minor: int
    exponent: int


@dataclass(frozen=True, slots=True)
class Numbers:
    """The market in figures."""

    orders: int
    underway: int
    by_status: Mapping[str, int]
    released: tuple[Money, ...]
    """Paid to sellers out of escrow, less what has gone back."""
    escrow: tuple[Money, ...]
    organisations: int
    products: int
    shipments_underway: int


@dataclass(frozen=True, slots=True)
class Step:
    """One entry of the log in an object's life."""

    chain: str
    height: int
    leaf: int
    time_ms: int
    since_ms: int
    """After the first step."""
    events: tuple[str, ...]
    transaction: str | None
    signers: tuple[Party, ...]
    cause: str
    """``signed``, ``carried`` by a relay, ``deadline`` or ``genesis``."""


@dataclass(frozen=True)
class Order:
    """One order with everything that belongs to it."""

    row: Row
    lines: Sequence[Row]
    shipment: Row | None
    custody: Sequence[Row]
    steps: Sequence[Step]
    parties: Mapping[str, Party]


@dataclass(frozen=True)
class Verdict:
    """What the verifier said of a proof file, and of which bytes."""

    title: str
    sha256: str
    size: int
    judgement: Judgement
    is_kept: bool
    """Whether these very bytes can be downloaded."""


class Questions:
    """Asks one node. Safe to use from many threads."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.trust = make_trust(node.genesis)
        self._blocks: OrderedDict[int, Mapping[str, int]] = OrderedDict()
        self._bodies: OrderedDict[tuple[str, int], tuple[tuple[str, ...], tuple[str, ...]]]
        self._bodies = OrderedDict()
        self._proofs: OrderedDict[str, tuple[str, bytes]] = OrderedDict()
        self._exponents: dict[str, int] = {}

    def _rows(self, query: sa.Select[Any]) -> list[Row]:
        with self.node.read_model.engine.connect() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    # The market.

    def get_strips(self) -> list[Strip]:
        """Return every chain with its latest blocks and entries."""
        last = self.node.read_model.height
        blocks = [
            (height, self._count_entries(height))
            for height in range(max(0, last - STRIP_BLOCKS + 1), last + 1)
        ]
        chains = self.node.status()["chains"]
        return [
            Strip(
                name=name,
                height=chain["height"],
                log_size=chain["log_size"],
                log_root=chain["log_root"],
                bars=tuple(_make_bar(height, counts.get(name, 0)) for height, counts in blocks),
                entries=tuple(self.list_entries(name, STRIP_ENTRIES)),
            )
            for name, chain in chains.items()
        ]

    def _count_entries(self, height: int) -> Mapping[str, int]:
        counts = self._blocks.get(height)
        if counts is None:
            record = self.node.read_block(height)
            counts = {part.chain: len(part.receipts) for part in record.chains if part.header}
            _remember(self._blocks, height, counts)
        return counts

    def list_entries(self, chain: str, limit: int) -> list[Entry]:
        """Return a chain's latest transactions, newest first."""
        table = TRANSACTIONS
        # By time first, which an index has; within a block, in the order of the log.
        newest = (table.c.updated_ms.desc(), table.c.leaf.desc())
        query = sa.select(table).where(table.c.chain == chain).order_by(*newest)
        rows = self._rows(query.limit(limit))
        parties = self.find_parties(row["signer"] for row in rows)
        return [_make_entry(row, parties) for row in rows]

    def list_latest_orders(self, limit: int = LATEST_ORDERS) -> list[Row]:
        """Return the orders that changed last, with their parties; by an index, however many."""
        table = ORDERS
        query = sa.select(table).order_by(
            table.c.chain.desc(), table.c.leaf.desc(), table.c.event_index.desc()
        )
        return self.add_parties(self._rows(query.limit(limit)), ("buyer", "seller"))

    def get_numbers(self) -> Numbers:
        """Return the market's figures."""
        by_status = {
            row["status"]: row["number"]
            for row in self._rows(
                sa.select(ORDERS.c.status, sa.func.count().label("number")).group_by(
                    ORDERS.c.status
                )
            )
        }
        moving = ("open", "in_transit", "refused", "returning")
        underway = sum(by_status.get(status, 0) for status in PATH[:-1])
        return Numbers(
            orders=sum(by_status.values()),
            underway=underway + by_status.get("returning", 0),
            by_status={status: by_status.get(status, 0) for status in STATUSES},
            released=self._sum_money(
                ORDERS, ORDERS.c.total_minor - ORDERS.c.refunded_minor, "released"
            ),
            escrow=self._sum_money(HOLDS, HOLDS.c.amount_minor - HOLDS.c.posted_minor, "open"),
            organisations=self._count(ORGANISATIONS),
            products=self._count(PRODUCTS),
            shipments_underway=self._count(SHIPMENTS, SHIPMENTS.c.status.in_(moving)),
        )

    def _count(self, table: sa.Table, *conditions: sa.ColumnElement[bool]) -> int:
        query = sa.select(sa.func.count().label("number")).select_from(table).where(*conditions)
        return int(self._rows(query)[0]["number"])

    def _sum_money(
        self, table: sa.Table, amount: sa.ColumnElement[int], status: str
    ) -> tuple[Money, ...]:
        # SQLite adds integers in 64 bits; PostgreSQL answers with a numeric, which int() takes.
        query = (
            sa.select(table.c.currency, sa.func.sum(amount).label("amount"))
            .where(table.c.status == status)
            .group_by(table.c.currency)
            .order_by(table.c.currency)
        )
        return tuple(
            Money(row["currency"], int(row["amount"]), self.get_exponent(row["currency"]))
            for row in self._rows(query)
        )

    def get_exponent(self, currency: str) -> int:
        """Return the decimals of a currency's minor unit; 2 where no chain has opened it."""
        known = self._exponents.get(currency)
        if known is None:
            rows = self._rows(sa.select(CURRENCIES.c.exponent).where(CURRENCIES.c.id == currency))
            if not rows:
                return 2
            known = self._exponents[currency] = int(rows[0]["exponent"])
        return known

    # Who.

    def find_parties(self, accounts: Iterable[str]) -> dict[str, Party]:
        """Return who is behind accounts (hex); those nobody knows have no name."""
        wanted = sorted(set(accounts))
        query = (
            sa.select(
                ACCOUNTS.c.id,
                ACCOUNTS.c.kind,
                ACCOUNTS.c.organisation,
                ACCOUNTS.c.country.label("own_country"),
                ORGANISATIONS.c.name,
                ORGANISATIONS.c.country,
            )
            .select_from(
                ACCOUNTS.outerjoin(ORGANISATIONS, ACCOUNTS.c.organisation == ORGANISATIONS.c.id)
            )
            .where(ACCOUNTS.c.id.in_(wanted))
        )
        found = {row["id"]: _make_party(row) for row in self._rows(query)}
        owners = sa.select(ORGANISATIONS).where(ORGANISATIONS.c.owner.in_(wanted))
        for row in self._rows(owners):
            party = Party(row["owner"], row["name"], row["id"], row["country"], is_customer=False)
            found.setdefault(row["owner"], party)
        return {
            account: found.get(account) or Party(account, "", "", "", is_customer=False)
            for account in wanted
        }

    def add_parties(self, rows: Sequence[Row], columns: Sequence[str]) -> list[Row]:
        """Return rows with a ``parties`` mapping of those columns' accounts."""
        parties = self.find_parties(
            row[name] for row in rows for name in columns if row.get(name) is not None
        )
        return [
            {**row, "parties": {name: parties.get(row.get(name) or "") for name in columns}}
            for row in rows
        ]

    def find_organisations(self, identifiers: Iterable[str]) -> dict[str, str]:
        """Return the names of organisations by id."""
        wanted = sorted(set(identifiers))
        query = sa.select(ORGANISATIONS.c.id, ORGANISATIONS.c.name)
        rows = self._rows(query.where(ORGANISATIONS.c.id.in_(wanted)))
        return {row["id"]: row["name"] for row in rows}

    # Objects.

    def find_kind(self, plural: str) -> Kind:
        """Return a kind by the name in its address. Raises: NotThere."""
        for kind in self.node.kinds.values():
            if kind.plural == plural:
                return kind
        raise NotThere(f"kind: expected one that this node has, got {plural!r}")

    def get_object(self, kind: Kind, identifier: str) -> Row:
        """Return an object. Raises: NotThere."""
        row = self.node.read_model.get_row(kind, identifier)
        if row is None:
            raise NotThere(f"{kind.name}: expected one that exists, got {identifier}")
        return row

    def get_order(self, identifier: str) -> Order:
        """Return an order's whole life. Raises: NotThere."""
        row = self.get_object(self.node.kinds["order"], identifier)
        shipments = self._rows(shipment_of_order(identifier))
        shipment = shipments[0] if shipments else None
        custody = self._rows(custody_of(shipment["id"])) if shipment else []
        accounts = [row["buyer"], row["seller"], *(leg["holder"] for leg in custody)]
        return Order(
            row=row,
            lines=self._rows(select_lines(identifier)),
            shipment=shipment,
            custody=custody,
            steps=self.list_steps(identifier),
            parties=self.find_parties(accounts),
        )

    def list_custody(self, shipment: str) -> list[Row]:
        """Return who held a shipment's goods, first to last."""
        return self.add_parties(self._rows(custody_of(shipment)), ("holder",))

    def list_steps(self, subject: str) -> list[Step]:
        """Return what happened to an object on all chains, one step for each entry of a log."""
        grouped: dict[tuple[str, int], list[Row]] = {}
        for row in self.node.read_model.get_history(subject):
            grouped.setdefault((row["chain"], row["leaf"]), []).append(row)
        bodies = {place: self._read_body(rows[0]) for place, rows in grouped.items()}
        parties = self.find_parties(a for signers, _ in bodies.values() for a in signers)
        first_ms = min((rows[0]["time_ms"] for rows in grouped.values()), default=0)
        return [
            _make_step(rows, bodies[place], parties, first_ms) for place, rows in grouped.items()
        ]

    def _read_body(self, row: Row) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return signers and message names of the transaction behind a row of the history."""
        if row["transaction"] is None:
            return (), ()
        key = (row["chain"], row["leaf"])
        known = self._bodies.get(key)
        if known is None:
            body = self.read_body(row["chain"], row["height"], row["leaf"])
            name = self.node.ledger.chains[row["chain"]].message_name
            known = (
                tuple(signer.account.hex() for signer in body.signers),
                tuple(name(type(message)) for message in body.messages),
            )
            _remember(self._bodies, key, known)
        return known

    def read_body(self, chain: str, height: int, leaf: int) -> Body:
        """Return what was signed, out of the block log. Raises: NotThere."""
        for part in self.node.read_block(height).chains:
            if part.chain == chain and part.header is not None:
                envelope = _find_envelope(part, leaf)
                return self.node.ledger.chains[chain].decode_stored_body(envelope)
        raise NotThere(f"height: expected a block of chain {chain}, got {height}")

    def get_transaction(self, digest: str) -> tuple[Entry, list[Any], list[Party]]:
        """Return a transaction, its messages as people read them, and all who signed.

        Raises: NotThere.
        """
        row = self.node.read_model.get_transaction(digest)
        if row is None:
            raise NotThere(f"transaction: expected one that was judged, got {digest}")
        body = self.read_body(row["chain"], row["height"], row["leaf"])
        signers = [signer.account.hex() for signer in body.signers]
        parties = self.find_parties([*signers, row["signer"]])
        name = self.node.ledger.chains[row["chain"]].message_name
        messages = [{name(type(item)): to_readable(item)} for item in body.messages]
        return _make_entry(row, parties), messages, [parties[account] for account in signers]

    # Proofs.

    def prove_place(self, chain: str, height: int, leaf: int) -> bytes:
        """Return the proof file of one entry. Raises: NotThere."""
        node = self.node
        if chain not in node.ledger.chains:
            raise NotThere(f"chain: expected one hosted here, got {chain!r}")
        return node.prove_places([Place(chain, height, leaf)])

    def judge(self, title: str, data: bytes) -> Verdict:
        """Have the verifier judge a file's bytes, as it would anywhere else."""
        digest = sha256(data).hexdigest()
        judgement = verify_bundle(data, self.trust, system_clock())
        is_kept = len(data) <= MAX_KEPT_PROOF_BYTES
        if is_kept:
            _remember(self._proofs, digest, (title, data), MAX_KEPT_PROOFS)
        return Verdict(title, digest, len(data), judgement, is_kept)

    def get_judged(self, digest: str) -> tuple[str, bytes]:
        """Return title and bytes of a file that was judged a short while ago. Raises: NotThere."""
        kept = self._proofs.get(digest)
        if kept is None:
            raise NotThere(f"file: expected one that was judged just now, got {digest}")
        return kept


def _remember(
    kept: OrderedDict[Any, Any], key: Any, value: Any, limit: int = MAX_REMEMBERED
) -> None:
    # Two threads may both drop an old entry; that one less is remembered harms nobody.
    kept[key] = value
    while len(kept) > limit:
        kept.popitem(last=False)


def _make_bar(height: int, entries: int) -> Bar:
    return Bar(height, entries, min(entries.bit_length(), TALL_BAR + 1))


def _make_entry(row: Row, parties: Mapping[str, Party]) -> Entry:
    counts: dict[str, int] = {}
    for name in row["messages"].split():
        counts[name] = counts.get(name, 0) + 1
    return Entry(
        id=row["id"],
        chain=row["chain"],
        leaf=row["leaf"],
        height=row["height"],
        time_ms=row["updated_ms"],
        messages=tuple(counts.items()),
        signer=parties[row["signer"]],
        error=row["error"],
        error_text=row["error_text"],
    )


def _make_party(row: Row) -> Party:
    is_customer = row["kind"] == "customer"
    country = row["own_country"] if is_customer else row["country"]
    return Party(
        row["id"], row["name"] or "", row["organisation"], country or "", is_customer=is_customer
    )


def _make_step(
    rows: Sequence[Row],
    body: tuple[tuple[str, ...], tuple[str, ...]],
    parties: Mapping[str, Party],
    first_ms: int,
) -> Step:
    row = rows[0]
    signers, messages = body
    return Step(
        chain=row["chain"],
        height=row["height"],
        leaf=row["leaf"],
        time_ms=row["time_ms"],
        since_ms=row["time_ms"] - first_ms,
        events=tuple(dict.fromkeys(item["name"] for item in rows)),
        transaction=row["transaction"],
        signers=tuple(parties[account] for account in signers),
        cause=_find_cause(row, messages),
    )


def _find_cause(row: Row, messages: Sequence[str]) -> str:
    if row["transaction"] is None:
        return "genesis" if row["height"] == 0 else "deadline"
    if all(name.startswith("link.") for name in messages):
        return "carried"
    return "signed"


def _find_envelope(part: ChainRecord, leaf: int) -> bytes:
    assert part.header is not None
    first_leaf = part.header.log_size - len(part.envelopes)
    if not 0 <= leaf - first_leaf < len(part.envelopes):
        raise NotThere(f"entry: expected a transaction of block {part.header.height}, got {leaf}")
    return part.envelopes[leaf - first_leaf]
