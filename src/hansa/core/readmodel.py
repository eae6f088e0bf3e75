"""The read model's frame: facts out of the log, and what a module makes of them in SQL.

A module's ``views.py`` declares tables, one projection per event, and the kinds of object people
ask for. Everything here can be rebuilt from the block log at any time; the rules never read it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from msgspec import Struct

from hansa.core.block import BlockRecord, ChainRecord, Receipt, decode_stored_receipt
from hansa.core.chain import Chain
from hansa.core.codec import readable_name
from hansa.core.packet import Page
from hansa.core.transaction import Event
from hansa.storage.sql import bulk_insert, bulk_upsert


class Fact(Struct, frozen=True, gc=False):
    """One event with its place in the log: what a proof of it needs."""

    chain: str
    height: int
    time_ms: int
    leaf: int
    """Index of the entry in the chain's log."""
    event_index: int
    """Which event of the receipt."""
    transaction: str | None
    """Digest of the envelope in hex; None for genesis and deadlines."""
    event: Any
    name: str
    """``orders.placed``"""


def place_columns() -> list[sa.Column[Any]]:
    """Return the columns every kind's table ends with: where its newest fact stands in the log."""
    return [
        sa.Column("chain", sa.String(16), nullable=False),
        sa.Column("leaf", sa.BigInteger, nullable=False),
        sa.Column("event_index", sa.Integer, nullable=False),
        sa.Column("height", sa.BigInteger, nullable=False),
        sa.Column("updated_ms", sa.BigInteger, nullable=False),
    ]


def place_of(fact: Fact) -> dict[str, Any]:
    """Return the values of :func:`place_columns` for a fact."""
    return {
        "chain": fact.chain,
        "leaf": fact.leaf,
        "event_index": fact.event_index,
        "height": fact.height,
        "updated_ms": fact.time_ms,
    }


METADATA = sa.MetaData()

TRANSACTIONS = sa.Table(
    "transactions",
    METADATA,
    sa.Column("id", sa.String(66), primary_key=True),
    sa.Column("chain", sa.String(16), nullable=False),
    sa.Column("height", sa.BigInteger, nullable=False),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("leaf", sa.BigInteger, nullable=False),
    sa.Column("time_ms", sa.BigInteger, nullable=False),
    sa.Column("signer", sa.String(40), nullable=False),
    sa.Column("messages", sa.Text, nullable=False),
    sa.Column("error", sa.Integer, nullable=False),
    sa.Column("error_text", sa.Text, nullable=False),
    sa.Index("transactions_by_signer", "signer", "chain", "leaf"),
    sa.Index("transactions_by_leaf", "chain", "leaf"),
)
"""Every judged transaction; ``error`` is 0 for those that took effect."""

HISTORY = sa.Table(
    "history",
    METADATA,
    sa.Column("subject", sa.String(66), primary_key=True),
    sa.Column("chain", sa.String(16), primary_key=True),
    sa.Column("leaf", sa.BigInteger, primary_key=True),
    sa.Column("event_index", sa.Integer, primary_key=True),
    sa.Column("height", sa.BigInteger, nullable=False),
    sa.Column("time_ms", sa.BigInteger, nullable=False),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("transaction", sa.String(66), nullable=True),
)
"""What happened to an object, over all chains: subject is its id in hex."""

OUTBOX = sa.Table(
    "outbox",
    METADATA,
    sa.Column("chain", sa.String(16), primary_key=True),
    sa.Column("destination", sa.String(16), primary_key=True),
    sa.Column("first", sa.BigInteger, primary_key=True),
    sa.Column("end", sa.BigInteger, nullable=False),
    sa.Column("height", sa.BigInteger, nullable=False),
    sa.Column("page", sa.Integer, nullable=False),
    sa.Index("outbox_by_end", "chain", "destination", "end"),
)
"""Where the items one chain sent to another stand: sequences first to end - 1, page of a block."""

PROGRESS = sa.Table(
    "progress",
    METADATA,
    sa.Column("name", sa.String(16), primary_key=True),
    sa.Column("height", sa.BigInteger, nullable=False),
)
"""The height the read model stands at, written in the same SQL transaction as the rows."""


class Batch:
    """Rows of many facts, gathered in memory and written at once: newest row per key wins."""

    def __init__(self) -> None:
        self.upserts: dict[sa.Table, dict[tuple[Any, ...], Mapping[str, Any]]] = {}
        self.inserts: dict[sa.Table, list[Mapping[str, Any]]] = {}

    def put(self, table: sa.Table, key: tuple[Any, ...], row: Mapping[str, Any]) -> None:
        """Insert or replace a whole row; ``key`` are its primary key values in column order."""
        rows = self.upserts.get(table)
        if rows is None:
            rows = self.upserts[table] = {}
        rows[key] = row

    def append(self, table: sa.Table, row: Mapping[str, Any]) -> None:
        """Insert a row whose key no other fact ever writes."""
        rows = self.inserts.get(table)
        if rows is None:
            rows = self.inserts[table] = []
        rows.append(row)

    def note(self, fact: Fact, *subjects: bytes) -> None:
        """Add the fact to the history of these objects; each subject once."""
        for subject in subjects:
            self.append(
                HISTORY,
                {
                    "subject": subject.hex(),
                    "chain": fact.chain,
                    "leaf": fact.leaf,
                    "event_index": fact.event_index,
                    "height": fact.height,
                    "time_ms": fact.time_ms,
                    "name": fact.name,
                    "transaction": fact.transaction,
                },
            )


Projection = Callable[[Batch, Fact], None]


@dataclass(frozen=True)
class Kind:
    """A kind of object that people list, show, search and prove."""

    name: str
    """Singular, as typed on the command line: ``order``."""
    plural: str
    """As in the URL: ``/v1/orders``."""
    table: sa.Table
    """Has a text primary key ``id`` and ends with :func:`place_columns`."""
    search: tuple[str, ...] = ()
    """Text columns that ``search`` looks into."""
    filters: tuple[str, ...] = ()
    """Columns a list may be narrowed by; each has an index."""
    columns: tuple[str, ...] = ()
    """What a table on a terminal or page shows, in order; empty for all."""


@dataclass(frozen=True)
class Views:
    """What a module's views.py offers."""

    metadata: sa.MetaData
    projections: Mapping[type[Event], Projection]
    kinds: Sequence[Kind] = field(default=())


def event_name(module: str, event: type[Event]) -> str:
    """Return the name of an event as people read it: ``orders.placed``."""
    return f"{module}.{readable_name(event)}"


def index_by_change(table: sa.Table) -> None:
    """Give a kind's table the index that its lists, newest change first, are read by."""
    name = f"{table.name}_by_change"
    if name not in [index.name for index in table.indexes]:
        sa.Index(name, table.c.updated_ms, table.c.id)


class ReadModel:
    """The SQL side of a node: follows the blocks, one SQL transaction for many of them.

    One thread projects; any thread may query. It may lag; ``height`` says how far it is, and
    readers that need to see their own write wait for it.
    """

    def __init__(
        self,
        engine: sa.Engine,
        chains: Mapping[str, Chain],
        views: Mapping[str, Views],
    ) -> None:
        """``views`` by module name."""
        self.engine = engine
        self._chains = chains
        self._projections: dict[type[Event], tuple[str, Projection]] = {}
        self._metadata = [METADATA]
        self.kinds: dict[str, Kind] = {}
        for module, view in views.items():
            self._metadata.append(view.metadata)
            for event, projection in view.projections.items():
                self._projections[event] = (event_name(module, event), projection)
            for kind in view.kinds:
                self.kinds[kind.name] = kind
                index_by_change(kind.table)
        for metadata in self._metadata:
            metadata.create_all(engine)
        self.height = self._read_height()

    def _read_height(self) -> int:
        with self.engine.connect() as connection:
            height = connection.execute(sa.select(PROGRESS.c.height)).scalar()
        return -1 if height is None else int(height)

    @property
    def tables(self) -> list[sa.Table]:
        """All tables, those that others refer to first."""
        return [table for metadata in self._metadata for table in metadata.sorted_tables]

    def reset(self) -> None:
        """Drop every row, to be built again from the block log."""
        with self.engine.begin() as connection:
            for table in reversed(self.tables):
                connection.execute(sa.delete(table))
        self.height = -1

    def project(self, records: Sequence[BlockRecord]) -> None:
        """Take consecutive blocks, the first being the next one due, in one SQL transaction."""
        batch = Batch()
        for record in records:
            assert record.height == self.height + 1 + (record.height - records[0].height)
            for part in record.chains:
                if part.header is not None:
                    self._project_chain(batch, record, part)
        last = records[-1].height
        batch.put(PROGRESS, ("blocks",), {"name": "blocks", "height": last})
        with self.engine.begin() as connection:
            for table, keyed in batch.upserts.items():
                bulk_upsert(connection, table, list(keyed.values()))
            for table, rows in batch.inserts.items():
                bulk_insert(connection, table, rows)
        self.height = last

    def _project_chain(self, batch: Batch, record: BlockRecord, part: ChainRecord) -> None:
        chain = self._chains[part.chain]
        assert part.header is not None
        for number, page in enumerate(part.pages):
            batch.append(OUTBOX, make_outbox_row(part.chain, record.height, number, page))
        leaf = part.header.log_size - len(part.receipts)
        envelopes = iter(part.envelopes)
        # Genesis and deadlines come before the first transaction and have no envelope.
        before = len(part.receipts) - len(part.envelopes)
        for position, receipt_bytes in enumerate(part.receipts):
            receipt = decode_stored_receipt(receipt_bytes)
            transaction = None
            if position >= before:
                transaction = receipt.source.hex()
                envelope = next(envelopes)
                row = _transaction_row(chain, record, receipt, envelope, leaf, transaction)
                batch.append(TRANSACTIONS, row)
            for index, event_bytes in enumerate(receipt.events):
                event = chain.decode_stored_event(event_bytes)
                named = self._projections.get(type(event))
                if named is None:
                    continue
                name, projection = named
                fact = Fact(
                    part.chain, record.height, record.time_ms, leaf, index, transaction, event, name
                )
                projection(batch, fact)
            leaf += 1

    # Questions.

    def list_rows(
        self,
        kind: Kind,
        *,
        filters: Mapping[str, str] | None = None,
        before: tuple[int, str] | None = None,
        limit: int = 50,
    ) -> list[dict[str, Any]]:
        """Return a page of a kind, newest change first.

        ``before`` is (updated_ms, id) of the last row of the page before. Raises: KeyError for a
        filter the kind doesn't have.
        """
        table = kind.table
        query = sa.select(table).order_by(table.c.updated_ms.desc(), table.c.id.desc()).limit(limit)
        for name, value in (filters or {}).items():
            if name not in kind.filters:
                raise KeyError(name)
            query = query.where(table.c[name] == value)
        if before is not None:
            place = sa.tuple_(table.c.updated_ms, table.c.id)
            query = query.where(place < sa.tuple_(*(sa.literal(part) for part in before)))
        return self._rows(query)

    def get_row(self, kind: Kind, identifier: str) -> dict[str, Any] | None:
        """Return one object, or None."""
        rows = self._rows(sa.select(kind.table).where(kind.table.c.id == identifier))
        return rows[0] if rows else None

    def search(self, text: str, limit: int = 50) -> list[dict[str, Any]]:
        """Return objects of any kind whose id begins with the text or whose texts hold it."""
        escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        found: list[dict[str, Any]] = []
        for kind in self.kinds.values():
            columns = [kind.table.c[name] for name in kind.search]
            matches = [column.ilike(f"%{escaped}%", escape="\\") for column in columns]
            matches.append(kind.table.c.id.like(f"{escaped.lower()}%", escape="\\"))
            query = sa.select(kind.table).where(sa.or_(*matches)).limit(limit - len(found))
            found += [{"kind": kind.name, **row} for row in self._rows(query)]
            if len(found) >= limit:
                break
        return found

    def get_history(self, subject: str) -> list[dict[str, Any]]:
        """Return what happened to an object on all chains, in order of time."""
        query = sa.select(HISTORY).where(HISTORY.c.subject == subject)
        order = (HISTORY.c.time_ms, HISTORY.c.height, HISTORY.c.chain, HISTORY.c.leaf)
        return self._rows(query.order_by(*order, HISTORY.c.event_index))

    def get_transaction(self, digest: str) -> dict[str, Any] | None:
        """Return a judged transaction by its envelope's digest in hex, or None."""
        rows = self._rows(sa.select(TRANSACTIONS).where(TRANSACTIONS.c.id == digest))
        return rows[0] if rows else None

    def get_outbox(
        self, chain: str, destination: str, first: int, limit: int
    ) -> list[dict[str, Any]]:
        """Return the pages that hold items from sequence ``first`` on, in order."""
        query = sa.select(OUTBOX).where(
            OUTBOX.c.chain == chain, OUTBOX.c.destination == destination, OUTBOX.c.end > first
        )
        return self._rows(query.order_by(OUTBOX.c.end).limit(limit))

    def _rows(self, query: sa.Select[Any]) -> list[dict[str, Any]]:
        with self.engine.connect() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]


def make_outbox_row(chain: str, height: int, number: int, page: Page) -> dict[str, Any]:
    """Return the row of :data:`OUTBOX` for a page of a block."""
    return {
        "chain": chain,
        "destination": page.destination,
        "first": page.first,
        "end": page.first + len(page.items),
        "height": height,
        "page": number,
    }


def _transaction_row(
    chain: Chain, record: BlockRecord, receipt: Receipt, envelope: bytes, leaf: int, digest: str
) -> Mapping[str, Any]:
    body = chain.decode_stored_body(envelope)
    return {
        "id": digest,
        "chain": chain.name,
        "height": record.height,
        "position": receipt.index,
        "leaf": leaf,
        "time_ms": record.time_ms,
        "signer": body.signers[0].account.hex(),
        "messages": " ".join([chain.message_name(type(message)) for message in body.messages]),
        "error": receipt.error.number if receipt.error else 0,
        "error_text": receipt.error.text if receipt.error else "",
    }
