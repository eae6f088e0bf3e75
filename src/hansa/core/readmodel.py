"""The read model's frame: facts out of the log, and what a module makes of them in SQL.

A module's ``views.py`` declares tables, one projection per event, and the kinds of object people
ask for. Everything here can be rebuilt from the block log at any time; the rules never read it.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa
from msgspec import Struct

from hansa.core.block import BlockRecord, ChainRecord, Receipt, decode_stored_receipt
from hansa.core.chain import Chain
from hansa.core.codec import readable_name
from hansa.core.errors import OperatorError
from hansa.core.hashing import digester
from hansa.core.packet import Page
from hansa.core.transaction import Event
from hansa.storage.sql import (
    Row,
    bulk_insert,
    bulk_upsert,
    erase_tables,
    finish_filling,
    open_filler,
)

_log = logging.getLogger(__name__)

schema_digest = digester("schema")


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


def place_values(fact: Fact) -> tuple[str, int, int, int, int]:
    """Return the values of :func:`place_columns` for a fact, in their order."""
    return (fact.chain, fact.leaf, fact.event_index, fact.height, fact.time_ms)


NUL: Final = "\0"
"""No text of a ledger holds it, and PostgreSQL takes no question that does."""

MAX_DIGITS: Final = 9
"""Of a number that rows are filtered by: it fits in 32 bits."""

METADATA = sa.MetaData()

TRANSACTIONS = sa.Table(
    "transactions",
    METADATA,
    sa.Column("id", sa.String(66), primary_key=True),
    sa.Column("signer", sa.String(40), nullable=False),
    sa.Column("messages", sa.Text, nullable=False),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("error", sa.Integer, nullable=False),
    sa.Column("error_text", sa.Text, nullable=False),
    *place_columns(),
    sa.Index("transactions_by_id", "id", unique=True).ddl_if(dialect="sqlite"),
    sa.Index("transactions_by_signer", "signer", "updated_ms", "id"),
    sa.Index("transactions_by_chain", "chain", "updated_ms", "id"),
    sa.Index("transactions_by_error", "error", "updated_ms", "id"),
)
"""Every judged transaction; ``error`` is 0 for those that took effect.

A transaction never changes: its place is its own entry, ``event_index`` is 0 and says nothing.
"""
# Digests come in no order, and a primary key can't be added to a table of SQLite's when it is full.
# Its unique index can: to it both are the same.
TRANSACTIONS.primary_key.ddl_if(dialect="postgresql")

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


ORIGIN = sa.Table(
    "origin",
    sa.MetaData(),
    sa.Column("network", sa.String(66), primary_key=True),
    sa.Column("schema", sa.String(66), nullable=False),
    sa.Column("is_whole", sa.Boolean, nullable=False),
)
"""One row: the network whose blocks the rows come from, the digest of the tables' definitions, and
whether a rebuild is over. No rebuild is to be trusted before that; its writes aren't ordered."""

MAX_HISTORY: Final = 500
"""Facts told of one object at a time. Its owner can make as many as he likes, by paying one thing
again and again, and each costs whoever proves it all the reading of a block."""


class Batch:
    """Rows of many facts, gathered in memory and written at once: newest row per key wins.

    The rows of a table are all mappings of its columns, or all tuples in their order: these cost
    less, and are for what every transaction leaves behind.
    """

    def __init__(self) -> None:
        self.upserts: defaultdict[sa.Table, dict[tuple[Any, ...], Row]] = defaultdict(dict)
        self.inserts: defaultdict[sa.Table, list[Row]] = defaultdict(list)

    def put(self, table: sa.Table, key: tuple[Any, ...], row: Row) -> None:
        """Insert or replace a whole row; ``key`` are its primary key values in column order."""
        self.upserts[table][key] = row

    def append(self, table: sa.Table, row: Row) -> None:
        """Insert a row whose key no other fact ever writes."""
        self.inserts[table].append(row)

    def note(self, fact: Fact, *subjects: bytes | str) -> None:
        """Add the fact to the history of these objects, by id, or by name where that is text.

        One object named twice is one row: packets of another chain name what they like, and a
        second row with one key would stop the read model for good.
        """
        for subject in subjects:
            name = subject.hex() if isinstance(subject, bytes) else subject
            key = (name, fact.chain, fact.leaf, fact.event_index)
            row = (*key, fact.height, fact.time_ms, fact.name, fact.transaction)
            self.put(HISTORY, key, row)


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


TRANSACTION: Final = Kind(
    name="transaction",
    plural="transactions",
    table=TRANSACTIONS,
    search=("messages", "error_text"),
    filters=("signer", "chain", "error"),
    columns=("id", "signer", "messages", "error", "chain", "height"),
)
"""The one kind that no module makes: every chain has transactions."""


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


def sort_by_bytes(table: sa.Table) -> None:
    """Have PostgreSQL compare a table's texts by their bytes, as SQLite does.

    A database's own collation would put rows in another order than the one a page, or the file
    check beside another database, goes by; and no index could find the beginning of a text.
    """
    if table.info.get("sorts by bytes"):
        return
    table.info["sorts by bytes"] = True
    for column in table.columns:
        kind = column.type
        if isinstance(kind, sa.String):
            by_bytes = type(kind)(kind.length, collation="C")
            column.type = kind.with_variant(by_bytes, "postgresql")


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
        # Last, so that a search finds what transactions made before it finds the transactions.
        self.kinds[TRANSACTION.name] = TRANSACTION
        for kind in self.kinds.values():
            index_by_change(kind.table)
        for table in self.tables:
            sort_by_bytes(table)
        self._network = next((chain.network.hex() for chain in chains.values()), "")
        self._schema = compute_schema_digest(self.tables)
        self._writer = engine
        self._is_rebuilding = False
        reason = self._find_reason_to_rebuild()
        if reason is not None:
            _log.warning(
                "%s: %s; the read model is built again from the block log",
                engine.url, reason,
            )  # fmt: skip
            erase_tables(engine, [ORIGIN, *self.tables])
        if reason is not None or not sa.inspect(engine).has_table(ORIGIN.name):
            with engine.begin() as connection:
                self._create_tables(connection, is_whole=True)
                self._create_indexes(connection)
        self.height = self._read_height()

    def _find_reason_to_rebuild(self) -> str | None:
        """Say why the rows in the database can't be gone on from; None where they can.

        Raises: OperatorError for a database of another network or program.
        """
        with self.engine.connect() as connection:
            present = set(sa.inspect(connection).get_table_names())
            marked = ORIGIN.name in present
            origin = connection.execute(sa.select(ORIGIN)).one_or_none() if marked else None
        if origin is None:
            # Each of these names alone could be another program's.
            if present >= {PROGRESS.name, HISTORY.name, OUTBOX.name, TRANSACTIONS.name}:
                return "made by a release that left no mark of its tables"
            if strange := present & {ORIGIN.name, *(table.name for table in self.tables)}:
                raise OperatorError(
                    f"{self.engine.url}: expected an empty database or a read "
                    f"model, got another one's tables {', '.join(sorted(strange))}; name a "
                    f"database of its own as read_model in config.json"
                )
            return None
        if origin.network != self._network:
            raise OperatorError(
                f"{self.engine.url}: expected the read model of network "
                f"{self._network}, got that of {origin.network}; name another database as "
                f"read_model in config.json, or remove this one"
            )
        if not origin.is_whole:
            return "an earlier rebuild was broken off"
        if origin.schema != self._schema:
            return "made by a release with other tables"
        return None

    def _create_tables(self, connection: sa.Connection, *, is_whole: bool) -> None:
        for table in (ORIGIN, *self.tables):
            connection.execute(sa.schema.CreateTable(table))
        bulk_insert(connection, ORIGIN, [(self._network, self._schema, is_whole)])

    def _create_indexes(self, connection: sa.Connection) -> None:
        for table in self.tables:
            for index in sorted(table.indexes, key=lambda index: str(index.name)):
                index.create(connection)

    def _read_height(self) -> int:
        with self.engine.connect() as connection:
            height = connection.execute(sa.select(PROGRESS.c.height)).scalar()
        return -1 if height is None else int(height)

    @property
    def tables(self) -> list[sa.Table]:
        """All tables that blocks fill, those that others refer to first."""
        return [table for metadata in self._metadata for table in metadata.sorted_tables]

    def reset(self) -> None:
        """Drop every row, to be built again from the block log, and the indexes until it is.

        Filling many rows first and indexing them after takes half the time. Nobody may ask
        anything before :meth:`finish_rebuild`.
        """
        self._writer.dispose()  # An earlier reset's, if that was not followed by a rebuild.
        erase_tables(self.engine, [ORIGIN, *self.tables])
        self._writer = open_filler(self.engine)
        with self._writer.begin() as connection:
            self._create_tables(connection, is_whole=False)
        self._is_rebuilding = True
        self.height = -1

    def begin_after(self, height: int) -> None:
        """Drop every row; the next block due is the one after this height.

        For a node that begins from a snapshot: what was before is shown by others.
        """
        self.reset()
        batch = Batch()
        batch.put(PROGRESS, ("blocks",), ("blocks", height))
        with self._writer.begin() as connection:
            for table, keyed in batch.upserts.items():
                bulk_upsert(connection, table, list(keyed.values()))
        self.finish_rebuild()
        self.height = height

    def finish_rebuild(self) -> None:
        """Index the rows and make them durable; nothing to do but after a reset."""
        if not self._is_rebuilding:
            return
        with self._writer.begin() as connection:
            self._create_indexes(connection)
        finish_filling(self.engine, self._writer)
        with self.engine.begin() as connection:
            connection.execute(sa.update(ORIGIN).values(is_whole=True))
        self._writer = self.engine
        self._is_rebuilding = False

    def project(self, groups: Iterable[Sequence[BlockRecord]]) -> None:
        """Take consecutive blocks, the first being the next one due, in one SQL transaction.

        The rows of a group are gathered in memory. Several groups in one transaction spare the
        database writing the same pages at every commit: keys are digests and fall anywhere.
        """
        height = self.height
        with self._writer.begin() as connection:
            for records in groups:
                assert records[0].height == height + 1, "blocks are projected in order"
                self._project_group(connection, records)
                height = records[-1].height
        self.height = height

    def _project_group(self, connection: sa.Connection, records: Sequence[BlockRecord]) -> None:
        batch = Batch()
        for record in records:
            for part in record.chains:
                if part.header is not None:
                    self._project_chain(batch, record, part)
        batch.put(PROGRESS, ("blocks",), ("blocks", records[-1].height))
        for table, keyed in batch.upserts.items():
            bulk_upsert(connection, table, list(keyed.values()))
        for table, rows in batch.inserts.items():
            bulk_insert(connection, table, rows)

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
                row = _transaction_row(chain, record, receipt, next(envelopes), leaf, transaction)
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
        filter the kind doesn't have; ValueError for a value that no row can have.
        """
        table = kind.table
        query = sa.select(table).order_by(table.c.updated_ms.desc(), table.c.id.desc()).limit(limit)
        for name, value in (filters or {}).items():
            if name not in kind.filters:
                raise KeyError(name)
            query = query.where(table.c[name] == _read_filter(table.c[name], value))
        if before is not None:
            place = sa.tuple_(table.c.updated_ms, table.c.id)
            time_ms, identifier = before
            _refuse_nul("id", identifier)
            last = sa.tuple_(sa.literal(time_ms, sa.BigInteger), sa.literal(identifier))
            query = query.where(place < last)
        return self._rows(query)

    def get_row(self, kind: Kind, identifier: str) -> dict[str, Any] | None:
        """Return one object, or None."""
        if NUL in identifier:
            return None
        rows = self._rows(sa.select(kind.table).where(kind.table.c.id == identifier))
        return rows[0] if rows else None

    def search(self, text: str, limit: int = 50) -> list[dict[str, Any]]:
        """Return objects of any kind whose id begins with the text or whose texts hold it."""
        if NUL in text:
            return []
        escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        found: list[dict[str, Any]] = []
        for kind in self.kinds.values():
            columns = [kind.table.c[name] for name in kind.search]
            matches = [column.ilike(f"%{escaped}%", escape="\\") for column in columns]
            matches.append(kind.table.c.id.ilike(f"{escaped}%", escape="\\"))
            query = sa.select(kind.table).where(sa.or_(*matches)).limit(limit - len(found))
            # Some rows have a kind of their own, which is not the one to show them by.
            found += [{**row, "kind": kind.name} for row in self._rows(query)]
            if len(found) >= limit:
                break
        return found

    def get_history(self, subject: str, limit: int = MAX_HISTORY) -> list[dict[str, Any]]:
        """Return what happened last to an object on all chains, in order of time."""
        if NUL in subject:
            return []
        columns = ("time_ms", "height", "chain", "leaf", "event_index")
        newest_first = [HISTORY.c[name].desc() for name in columns]
        query = sa.select(HISTORY).where(HISTORY.c.subject == subject)
        return self._rows(query.order_by(*newest_first).limit(limit))[::-1]

    def get_transaction(self, digest: str) -> dict[str, Any] | None:
        """Return a judged transaction by its envelope's digest in hex, or None."""
        return self.get_row(TRANSACTION, digest)

    def get_outbox(
        self, chain: str, destination: str, first: int, limit: int
    ) -> list[dict[str, Any]]:
        """Return the pages that hold items from sequence ``first`` on, in order."""
        if NUL in destination or first >= 2**63:
            return []
        query = sa.select(OUTBOX).where(
            OUTBOX.c.chain == chain, OUTBOX.c.destination == destination, OUTBOX.c.end > first
        )
        return self._rows(query.order_by(OUTBOX.c.end).limit(limit))

    def get_outbox_end(self, chain: str, destination: str) -> int:
        """Return the sequence after the last item sent to a destination."""
        query = sa.select(sa.func.max(OUTBOX.c.end)).where(
            OUTBOX.c.chain == chain, OUTBOX.c.destination == destination
        )
        with self.engine.connect() as connection:
            return int(connection.execute(query).scalar() or 0)

    def _rows(self, query: sa.Select[Any]) -> list[dict[str, Any]]:
        with self.engine.connect() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]


def compute_schema_digest(tables: Iterable[sa.Table]) -> str:
    """Return the digest in hex of the tables' definitions, the same for every database."""
    parts: list[str] = []
    for table in tables:
        parts.append(str(sa.schema.CreateTable(table)))
        parts += sorted(str(sa.schema.CreateIndex(index)) for index in table.indexes)
    return schema_digest("\n".join(parts).encode()).hex()


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


def _read_filter(column: sa.Column[Any], value: str) -> str | int:
    """Return what a column is compared with. Raises: ValueError."""
    if isinstance(column.type, sa.Integer):
        if not (value.isascii() and value.isdigit() and len(value) <= MAX_DIGITS):
            raise ValueError(f"{column.name}: expected a number, got {value[:80]!r}")
        return int(value)
    _refuse_nul(column.name, value)
    return value


def _refuse_nul(name: str, value: str) -> None:
    if NUL in value:
        raise ValueError(f"{name}: expected no NUL character, got {value[:80]!r}")


def _transaction_row(
    chain: Chain, record: BlockRecord, receipt: Receipt, envelope: bytes, leaf: int, digest: str
) -> tuple[Any, ...]:
    """Return the row of :data:`TRANSACTIONS`."""
    account, messages = chain.read_stored_head(envelope)
    error = receipt.error
    number, text = (0, "") if error is None else (error.number, error.text)
    return (
        digest, account.hex(), messages, receipt.index, number, text,
        chain.name, leaf, 0, record.height, record.time_ms,
    )  # fmt: skip
