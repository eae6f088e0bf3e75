"""The read model's database: whose it is, by which tables, and whether a rebuild was finished."""

import logging
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from tests.node_world import KEYS, Clock, Market, SteppedNode, make_market_home

from hansa.core.errors import OperatorError
from hansa.node.node import READ_MODEL
from hansa.storage.sql import open_engine

OUTDATED = {
    "a rebuild broken off": ("UPDATE origin SET is_whole = 0", "broken off"),
    "other tables": ("UPDATE origin SET schema = 'another'", "a release with other tables"),
    "no mark": ("DROP TABLE origin", "left no mark"),
}


@pytest.fixture
def node(tmp_path: Path) -> SteppedNode:
    """A node whose market has opened; each test lets go of it."""
    make_market_home(tmp_path / "home")
    opened = open_node(tmp_path)
    Market(opened).open()
    return opened


def open_node(folder: Path) -> SteppedNode:
    """Open the node of these tests."""
    return SteppedNode(folder / "home", keys=KEYS.store, clock=Clock())


def read_all(node: SteppedNode) -> dict[str, list[tuple[Any, ...]]]:
    """Return the rows of all tables and the names of all indexes."""
    with node.read_model.engine.connect() as connection:
        rows = {
            table.name: [
                tuple(row)
                for row in connection.execute(sa.select(table).order_by(*table.primary_key))
            ]
            for table in node.read_model.tables
        }
        indexes = "SELECT name FROM sqlite_master WHERE type = 'index' ORDER BY name"
        return {**rows, "indexes": [tuple(row) for row in connection.execute(sa.text(indexes))]}


def execute(folder: Path, statement: str) -> None:
    """Change the database of a stopped node."""
    engine = open_engine(folder / "home" / READ_MODEL)
    with engine.begin() as connection:
        connection.execute(sa.text(statement))
    engine.dispose()


def test_a_rebuild_gives_what_following_gave(node: SteppedNode) -> None:
    """Filled at once and indexed after, the database has the same rows and the same indexes."""
    expected = read_all(node)
    assert len(expected["transactions"]) > 5
    assert ("transactions_by_id",) in expected["indexes"]
    node.read_model.reset()
    node.project_pending()
    assert expected == read_all(node)
    node.stop()


def test_a_rebuilt_database_is_written_ahead(node: SteppedNode) -> None:
    """What follows a rebuild is safe against a crash again, and a row has its key once."""
    node.read_model.reset()
    node.project_pending()
    Market(node).register_product("seller/one", "SKU-2")
    with node.read_model.engine.connect() as connection:
        assert "wal" == connection.execute(sa.text("PRAGMA journal_mode")).scalar_one()
    doubled = "INSERT INTO transactions SELECT * FROM transactions"
    with pytest.raises(sa.exc.IntegrityError), node.read_model.engine.begin() as connection:
        connection.execute(sa.text(doubled))
    node.stop()


@pytest.mark.parametrize("case", OUTDATED)
def test_an_outdated_database_is_built_again(
    case: str, node: SteppedNode, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A node says why it doesn't go on from what it finds, and builds it from its blocks."""
    change, reason = OUTDATED[case]
    expected = read_all(node)
    node.stop()
    execute(tmp_path, change)
    execute(tmp_path, "DELETE FROM transactions")
    with caplog.at_level(logging.WARNING):
        again = open_node(tmp_path)
    assert reason in caplog.text
    assert expected == read_all(again)
    again.stop()
    caplog.clear()
    open_node(tmp_path).stop()
    assert "" == caplog.text


def test_a_rebuild_that_was_broken_off_begins_again(node: SteppedNode, tmp_path: Path) -> None:
    """A process that dies between two groups of blocks leaves nothing that is gone on from."""
    expected = read_all(node)
    node.read_model.reset()
    node.read_model.project([[node.read_block(0), node.read_block(1)]])
    node.crash()
    again = open_node(tmp_path)
    assert expected == read_all(again)
    again.stop()


def test_a_database_of_another_network_is_refused(node: SteppedNode, tmp_path: Path) -> None:
    """Two networks that name one database don't take turns in wiping it."""
    node.stop()
    execute(tmp_path, "UPDATE origin SET network = '01aa'")
    with pytest.raises(
        OperatorError, match=r"expected the read model of network [0-9a-f]+, got that of 01aa"
    ):
        open_node(tmp_path)


def test_a_database_of_another_program_is_refused(node: SteppedNode, tmp_path: Path) -> None:
    """Tables that merely have our names are left as they are."""
    node.stop()
    for table in ("origin", "progress"):
        execute(tmp_path, f"DROP TABLE {table}")
    with pytest.raises(OperatorError, match="expected an empty database or a read model"):
        open_node(tmp_path)
    execute(tmp_path, "DELETE FROM transactions")
