"""The SQL engine: SQLite with readers beside a writer, bulk insertion, URLs."""

import datetime
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pytest
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    func,
    select,
    text,
)
from sqlalchemy.exc import IntegrityError

from hansa.storage.sql import (
    bulk_insert,
    bulk_upsert,
    database_url,
    open_engine,
    show_database,
)

METADATA = MetaData()
ACCOUNTS = Table(
    "accounts",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("name", String, nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    Column("digest", LargeBinary),
    Column("is_open", Boolean),
    Column("since", DateTime),
    Column("notes", JSON),
    Column("parent", ForeignKey("accounts.id")),
)
# SQLite keeps no zone.
SINCE = datetime.datetime(2024, 2, 29, 12, 30)  # noqa: DTZ001
ROWS = [
    (1, "anna", 2**62, b"\x00\xff", True, SINCE, {"a": [1]}, None),
    (2, "bert", -5, None, False, None, None, 1),
]

URLS = [
    ("/srv/hansa/read.db", "sqlite+pysqlite:////srv/hansa/read.db"),
    ("sqlite:////srv/read.db", "sqlite+pysqlite:////srv/read.db"),
    ("postgresql://node@db/hansa", "postgresql+psycopg://node@db/hansa"),
    ("postgres://node@db/hansa", "postgresql+psycopg://node@db/hansa"),
    ("postgresql+psycopg://node@db/hansa", "postgresql+psycopg://node@db/hansa"),
]


@pytest.mark.parametrize(("given", "expected"), URLS)
def test_urls_get_their_driver(given: str, expected: str) -> None:
    """A path is SQLite; a URL gets the driver that is installed."""
    assert expected == database_url(given).render_as_string(hide_password=False)


def test_a_shown_database_has_no_password() -> None:
    """What a message says of a database is its path, or its URL without the secret."""
    assert "/srv/read.db" == show_database("/srv/read.db")
    shown = show_database("postgresql://node:secret@db/hansa")
    assert "postgresql+psycopg://node:***@db/hansa" == shown


def test_other_databases_are_refused() -> None:
    """A URL of a database nobody tested is refused by name."""
    with pytest.raises(ValueError, match="got mysql://"):
        open_engine("mysql://db/hansa")


def test_sqlite_is_set_up_on_every_connection(tmp_path: Path) -> None:
    """Each connection writes ahead, waits for the writer and checks foreign keys."""
    engine = open_engine(tmp_path / "read.db")
    expected = {"journal_mode": "wal", "synchronous": 1, "foreign_keys": 1, "busy_timeout": 10_000}
    for _ in range(2):
        with engine.connect() as connection:
            found = {
                name: connection.execute(text(f"PRAGMA {name}")).scalar_one() for name in expected
            }
            connection.detach()
        assert expected == found


@pytest.mark.parametrize("as_mappings", [False, True])
def test_bulk_insert_converts_as_the_types_ask(tmp_path: Path, as_mappings: bool) -> None:
    """Rows come back as they were given, for tuples and for mappings."""
    engine = open_engine(tmp_path / "read.db")
    METADATA.create_all(engine)
    names = ACCOUNTS.columns.keys()
    with engine.begin() as connection:
        bulk_insert(connection, ACCOUNTS, [])
        bulk_insert(
            connection,
            ACCOUNTS,
            [dict(zip(names, row, strict=True)) for row in ROWS] if as_mappings else ROWS,
        )
    with engine.connect() as connection:
        found = connection.execute(select(ACCOUNTS).order_by(ACCOUNTS.c.id))
        assert ROWS == [tuple(row) for row in found]


@pytest.mark.parametrize("write", [bulk_insert, bulk_upsert])
def test_mappings_go_by_name(tmp_path: Path, write: Callable[..., None]) -> None:
    """Mappings in another order than the table's columns, or without some, land where they say."""
    engine = open_engine(tmp_path / "read.db")
    METADATA.create_all(engine)
    row = dict(zip(ACCOUNTS.columns.keys(), ROWS[0], strict=True))
    turned = {name: row[name] for name in sorted(row, reverse=True)}
    with engine.begin() as connection:
        write(connection, ACCOUNTS, [turned])
        write(connection, ACCOUNTS, [{"amount_minor": 9, "name": "carl", "id": 3}])
    with engine.connect() as connection:
        found = connection.execute(select(ACCOUNTS).order_by(ACCOUNTS.c.id))
        assert [ROWS[0], (3, "carl", 9, *[None] * 5)] == [tuple(row) for row in found]


def test_failed_bulk_insert_leaves_nothing(tmp_path: Path) -> None:
    """A broken foreign key undoes the transaction it is in."""
    engine = open_engine(tmp_path / "read.db")
    METADATA.create_all(engine)
    orphan = (3, "carl", 0, None, True, None, None, 99)
    with pytest.raises(IntegrityError), engine.begin() as connection:
        bulk_insert(connection, ACCOUNTS, [*ROWS, orphan])
    with engine.connect() as connection:
        assert 0 == connection.execute(select(func.count()).select_from(ACCOUNTS)).scalar_one()


def test_readers_in_threads_see_whole_transactions(tmp_path: Path) -> None:
    """While one thread writes ten rows at a time, no reader ever counts a part of ten."""
    engine = open_engine(tmp_path / "read.db")
    METADATA.create_all(engine)
    counts: list[int] = []

    def read() -> None:
        for _ in range(50):
            with engine.connect() as connection:
                count = select(func.count()).select_from(ACCOUNTS)
                first, second = connection.execute(count), connection.execute(count)
                counts.append(first.scalar_one() % 10)
                counts.append(second.scalar_one() % 10)

    readers = [Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for batch in range(30):
        with engine.begin() as connection:
            for number in range(10):
                row = (batch * 10 + number, "x", 0, None, True, None, None, None)
                bulk_insert(connection, ACCOUNTS, [row])
    for reader in readers:
        reader.join()
    assert [0] * 300 == counts
