"""The SQL engine of the read model: SQLite embedded, PostgreSQL by URL."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from pathlib import Path
from typing import Any

from sqlalchemy import Boolean, Connection, Engine, LargeBinary, Table, create_engine, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url

BUSY_MS = 10_000
CACHE_KIB = 64 * 1024
MMAP_BYTES = 1 << 30
POSTGRESQL_NAMES = frozenset({"postgres", "postgresql"})

# WAL lets readers go on while the one writer writes. In WAL, NORMAL cannot corrupt the file; an OS
# crash may lose the last transactions, which the read model replays from the block log.
SQLITE_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = NORMAL",
    f"PRAGMA busy_timeout = {BUSY_MS}",
    "PRAGMA foreign_keys = ON",
    f"PRAGMA cache_size = -{CACHE_KIB}",
    f"PRAGMA mmap_size = {MMAP_BYTES}",
    "PRAGMA temp_store = MEMORY",
)

# While an empty database is filled there is nothing that a journal could bring back: each page is
# written once, and the system chooses when.
FILLING_PRAGMAS = (
    "PRAGMA journal_mode = OFF",
    "PRAGMA synchronous = OFF",
    f"PRAGMA busy_timeout = {BUSY_MS}",
    f"PRAGMA cache_size = -{4 * CACHE_KIB}",
    "PRAGMA temp_store = MEMORY",
)

Row = Mapping[str, Any] | tuple[Any, ...]


def open_engine(url_or_path: str | Path) -> Engine:
    """The engine for a SQLite file, given as a path or URL, or for a PostgreSQL URL.

    Any number of threads may read and one may write at a time, each on its own connection.
    Raises: ValueError for a URL of another database.
    """
    url = database_url(url_or_path)
    if url.get_backend_name() == "sqlite":
        return _open_sqlite(url, SQLITE_PRAGMAS)
    # Its default lets two reads of one transaction see two heights, which SQLite's doesn't.
    return create_engine(url, pool_pre_ping=True, isolation_level="REPEATABLE READ")


def _open_sqlite(url: URL, pragmas: Sequence[str]) -> Engine:
    engine = create_engine(url)

    @event.listens_for(engine, "connect")
    def prepare(driver_connection: Any, _: object) -> None:
        # The driver's own rule when to begin leaves readers without a transaction, so that two
        # reads of one page could see two heights; without it SQLAlchemy's begin is the only one.
        driver_connection.isolation_level = None
        cursor = driver_connection.cursor()
        for pragma in pragmas:
            cursor.execute(pragma)
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine


def _sqlite_file(engine: Engine) -> Path | None:
    """The file of a SQLite database that has one."""
    is_sqlite = engine.url.get_backend_name() == "sqlite"
    path = engine.url.database
    return Path(path) if is_sqlite and path and path != ":memory:" else None


def erase_tables(engine: Engine, tables: Sequence[Table]) -> None:
    """Leaves none of the tables, given in the order they are made in.

    A SQLite file is removed whole: it may be past reading.
    Raises: OSError, sqlalchemy.exc.SQLAlchemyError.
    """
    path = _sqlite_file(engine)
    if path is not None:
        engine.dispose()
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        return
    with engine.begin() as connection:
        for table in reversed(tables):
            table.drop(connection, checkfirst=True)


def open_filler(engine: Engine) -> Engine:
    """The engine by which one thread fills an empty database, up to `finish_filling`.

    A SQLite file that is broken off meanwhile is of no use, and may not show it: whoever fills it
    keeps a mark there until it is full.
    """
    is_file = _sqlite_file(engine) is not None
    return _open_sqlite(engine.url, FILLING_PRAGMAS) if is_file else engine


def finish_filling(engine: Engine, filler: Engine) -> None:
    """Makes durable what the filler of a database has written, and closes it.

    Raises: OSError.
    """
    path = _sqlite_file(engine)
    if path is None:
        return
    filler.dispose()
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def database_url(url_or_path: str | Path) -> URL:
    """The URL with its driver: sqlite through the standard library, PostgreSQL through psycopg.

    Raises: ValueError for a URL of another database.
    """
    text = str(url_or_path)
    if isinstance(url_or_path, Path) or "://" not in text:
        return URL.create("sqlite+pysqlite", database=text)
    url = make_url(text)
    name = url.drivername.partition("+")[0]
    if name in POSTGRESQL_NAMES:
        return url.set(drivername="postgresql+psycopg")
    if name == "sqlite":
        return url.set(drivername="sqlite+pysqlite")
    raise ValueError(f"expected a path, sqlite:// or postgresql:// URL, got {name}://")


def show_database(url_or_path: str | Path) -> str:
    """The URL or path as people may read it: without the password."""
    url = database_url(url_or_path)
    is_sqlite = url.get_backend_name() == "sqlite"
    return str(url.database) if is_sqlite else url.render_as_string(hide_password=True)


def bulk_insert(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Inserts `rows` in the transaction of `connection`.

    Rows are all tuples, in the order of the table's columns, or all mappings with the same keys,
    each column's; a column left out of the mappings gets what the database gives it.
    Raises: sqlalchemy.exc.SQLAlchemyError.
    """
    if not rows:
        return
    if connection.dialect.name == "sqlite":
        _write_to_sqlite(connection, table, rows, replace=False)
        return
    connection.execute(table.insert(), _as_records(table, rows))


def _as_records(table: Table, rows: Sequence[Row]) -> list[Mapping[str, Any]]:
    names = [column.name for column in table.columns]
    return [row if isinstance(row, Mapping) else dict(zip(names, row, strict=True)) for row in rows]


def _write_to_sqlite(
    connection: Connection, table: Table, rows: Sequence[Row], *, replace: bool
) -> None:
    first = rows[0]
    names = tuple(first) if isinstance(first, Mapping) else tuple(table.columns.keys())
    statement, converters, pick = _sqlite_insert(table, names, replace=replace)
    if isinstance(first, Mapping):
        rows = [pick(row) for row in rows]
    if any(converters):
        rows = [
            tuple(
                value if convert is None else convert(value)
                for convert, value in zip(converters, row, strict=True)
            )
            for row in rows
        ]
    connection.exec_driver_sql(statement, rows)


@lru_cache(maxsize=1024)
def _sqlite_insert(
    table: Table, names: tuple[str, ...], *, replace: bool
) -> tuple[str, tuple[Callable[[Any], Any] | None, ...], Callable[[Any], tuple[Any, ...]]]:
    """The statement, what each column's type asks of a value, and what picks a row's values."""
    # The statement has its places in the table's order, whatever the order of the mappings.
    names = tuple(sorted(names, key=list(table.columns.keys()).index))
    dialect = sqlite.dialect(paramstyle="qmark")
    insert = table.insert().prefix_with("OR REPLACE") if replace else table.insert()
    statement = str(insert.compile(dialect=dialect, column_keys=list(names)))
    converters = []
    for name in names:
        kind = table.columns[name].type.dialect_impl(dialect)
        # The driver takes bytes and truth values as they are.
        is_plain = isinstance(kind, LargeBinary | Boolean)
        converters.append(None if is_plain else kind.bind_processor(dialect))
    pick = itemgetter(*names) if len(names) > 1 else lambda row: (row[names[0]],)
    return statement, tuple(converters), pick


def bulk_upsert(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Inserts `rows`, replacing those whose primary key is there already.

    Rows as for `bulk_insert`, but whole: each column has a value.
    Raises: sqlalchemy.exc.SQLAlchemyError.
    """
    if not rows:
        return
    if connection.dialect.name == "sqlite":
        _write_to_sqlite(connection, table, rows, replace=True)
        return
    statement = postgresql.insert(table)
    keys = {column.name for column in table.primary_key}
    changed = {c.name: statement.excluded[c.name] for c in table.columns if c.name not in keys}
    place = list(table.primary_key)
    upsert = (
        statement.on_conflict_do_update(index_elements=place, set_=changed)
        if changed
        else statement.on_conflict_do_nothing(index_elements=place)
    )
    connection.execute(upsert, _as_records(table, rows))
