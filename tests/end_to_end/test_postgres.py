"""PostgreSQL as read model: a real server answers what SQLite answers, from the same block log."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import pytest
import sqlalchemy as sa
from tests.postgres_server import PostgresServer, run_postgres
from tests.web_market import TRADES, WebMarket

from hansa.core.errors import OperatorError
from hansa.core.readmodel import PROGRESS, ReadModel
from hansa.foreground.web.pages import make_pages
from hansa.interface.answers import Answers
from hansa.interface.client import Client, LocalTransport, RuleRefused
from hansa.interface.http.app import HttpServer
from hansa.interface.http.problems import BadParameter
from hansa.interface.sandbox.home import create_sandbox
from hansa.interface.sandbox.roster import STORES
from hansa.node.composition import VIEWS
from hansa.node.fsck import check_home
from hansa.node.home import NodeConfig, load_keys, make_trust
from hansa.node.node import Node
from hansa.service.orders.model import Accept
from hansa.storage.sql import open_engine

Row = dict[str, Any]

SEARCHED: Final = (
    "PO-1", "po-1", "PO", "50%", "50_", "%", "_", "\\", "Größe", "größe", "GRÖSSE", "gbp", "GBP",
    "usd", "trade:", "TRADE:LOG", "01", "orders.place", "bowl", "5", "no such thing", "\0", "",
)  # fmt: skip
FINDING_NOTHING: Final = ("50_", "GRÖSSE", "no such thing", "\0")
"""Only the letters of ASCII are found in either case."""

NOT_ANSWERED: Final = (
    "/v1/orders/%00", "/v1/orders?status=%00", "/v1/transactions?error=x",
    "/orders/%00", "/orders?status=%00", "/orders?before=1.%00", "/transactions?error=x",
)  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server with no database yet."""
    with run_postgres() as running:
        yield running


@dataclass(frozen=True)
class Home:
    """A stopped node's folder, and the database its read model is in."""

    folder: Path
    url: str

    def open(self) -> Node:
        """The node, not started: it answers questions."""
        return Node(self.folder, keys=load_keys(self.folder, lambda: ""))

    def configure(self, url: str) -> None:
        """Have the read model elsewhere from the next start on."""
        config = msgspec.json.encode(NodeConfig(read_model=url))
        (self.folder / "config.json").write_bytes(config)


@pytest.fixture(scope="module")
def home(server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A market that has traded on PostgreSQL: orders lived, cancelled, half-way, refused."""
    made = Home(tmp_path_factory.mktemp("postgres") / "home", server.create("market"))
    create_sandbox(made.folder, "Market on PostgreSQL", seed=bytes(32))
    made.configure(made.url)
    with made.open() as node:
        market = WebMarket(node)
        market.open()
        market.live(TRADES[0], "PO-1")
        market.live(TRADES[1], "50% Größe_2")
        market.cancel(TRADES[2], market.place(TRADES[2], "PO-3"))
        half = market.place(TRADES[0], "po\\4")
        market.accept(TRADES[0], half)
        market.fund(TRADES[0], half)
        for order in (bytes(16), b"\xff" * 16):
            _, receipt = market.send("trade", Accept(order), STORES)
            assert receipt.error is not None
    return made


@pytest.fixture
def node(home: Home) -> Iterator[Node]:
    """That node again, stopped: what it knows stands still."""
    opened = home.open()
    yield opened
    opened.stop()


@pytest.fixture
def reference(node: Node, tmp_path: Path) -> Iterator[ReadModel]:
    """The same block log in SQLite."""
    model = build(node, tmp_path / "reference.db")
    yield model
    model.engine.dispose()


def build(node: Node, database: str | Path) -> ReadModel:
    """A read model of a node's whole block log."""
    model = ReadModel(open_engine(database), node.ledger.chains, VIEWS)
    for record in node.ledger.iterate_blocks(0):
        model.project([[record]])
    return model


def read_all(model: ReadModel) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table, by primary key."""
    with model.engine.connect() as connection:
        return {
            table.name: [
                tuple(row)
                for row in connection.execute(sa.select(table).order_by(*table.primary_key))
            ]
            for table in model.tables
        }


def turn_pages(model: ReadModel, kind: str, filters: dict[str, str], limit: int) -> list[Row]:
    """All rows of a kind, a page at a time."""
    rows: list[Row] = []
    before = None
    while page := model.list_rows(model.kinds[kind], filters=filters, before=before, limit=limit):
        assert len(page) <= limit
        rows += page
        before = (page[-1]["updated_ms"], page[-1]["id"])
    return rows


def test_every_row_is_that_of_sqlite(node: Node, reference: ReadModel) -> None:
    """Both databases hold the same values of the same types, in the same order of keys."""
    assert "postgresql" == node.read_model.engine.dialect.name
    expected, found = read_all(reference), read_all(node.read_model)
    assert expected == found
    assert {} == {
        name: (type(mine), type(theirs))
        for name, rows in expected.items()
        for row, other in zip(rows, found[name], strict=True)
        for mine, theirs in zip(row, other, strict=True)
        if type(mine) is not type(theirs)
    }
    filled = {name for name, rows in expected.items() if rows}
    assert {"transactions", "history", "outbox", "progress", "orders", "link_packets"} <= filled


@pytest.mark.parametrize("limit", [1, 3, 50])
def test_pages_are_those_of_sqlite(node: Node, reference: ReadModel, limit: int) -> None:
    """Keyset pages hold each row once, newest change first, under every filter."""
    for kind in reference.kinds.values():
        whole = turn_pages(reference, kind.name, {}, 200)
        choices = [{name: str(row[name])} for row in whole for name in kind.filters]
        for filters in ({}, *choices[:: max(1, len(choices) // 8)]):
            expected = turn_pages(reference, kind.name, filters, 200)
            assert expected == turn_pages(node.read_model, kind.name, filters, limit)
            assert len(expected) == len({row["id"] for row in expected})


def test_objects_histories_and_packets_are_those_of_sqlite(
    node: Node, reference: ReadModel
) -> None:
    """Each object is shown the same, with the same life, and the relay finds the same pages."""
    for kind in reference.kinds.values():
        for row in turn_pages(reference, kind.name, {}, 200):
            assert row == node.read_model.get_row(kind, row["id"])
            expected = reference.get_history(row["id"])
            assert expected == node.read_model.get_history(row["id"])
    for chain in node.ledger.chains:
        for destination in node.ledger.chains:
            for first in (0, 1, 5, 2**63 - 1, 2**63, 2**64):
                expected = reference.get_outbox(chain, destination, first, 3)
                assert expected == node.read_model.get_outbox(chain, destination, first, 3)
    assert node.read_model.get_outbox("trade", "logistics", 0, 3)


@pytest.mark.parametrize("text", SEARCHED)
def test_a_search_finds_what_sqlite_finds(node: Node, reference: ReadModel, text: str) -> None:
    """Capitals, wildcards, umlauts and prefixes of ids mean the same in both databases."""
    expected, found = (model.search(text, 10_000) for model in (reference, node.read_model))
    assert {(row["kind"], row["id"]) for row in expected} == {
        (row["kind"], row["id"]) for row in found
    }
    assert bool(expected) == (text not in FINDING_NOTHING)


@pytest.mark.parametrize(
    ("kind", "filters", "before"),
    [
        ("order", {"status": "\0"}, None),
        ("transaction", {"error": "many"}, None),
        ("transaction", {"error": "9" * 10}, None),
        ("transaction", {"error": "-1"}, None),
        ("order", {}, (0, "\0")),
    ],
)
def test_what_no_row_can_have_is_refused_alike(
    node: Node, reference: ReadModel, kind: str, filters: dict[str, str],
    before: tuple[int, str] | None,
) -> None:  # fmt: skip
    """A NUL, which PostgreSQL's texts can't hold, or a number out of bounds is named, not asked."""
    for model in (reference, node.read_model):
        with pytest.raises(ValueError, match="expected"):
            model.list_rows(model.kinds[kind], filters=filters, before=before)
        assert model.get_row(model.kinds[kind], "\0") is None
        assert [] == model.get_history("\0")
    if filters:
        with pytest.raises(BadParameter):
            Answers(node).page(node.kinds[kind].plural, filters)


def test_two_reads_of_a_transaction_see_one_height(node: Node) -> None:
    """What is written between two reads of a page isn't half shown by it."""
    progress = sa.select(PROGRESS.c.height)
    with node.read_model.engine.connect() as reader:
        before = reader.execute(progress).scalar_one()
        set_height(node, before + 1)
        assert before == reader.execute(progress).scalar_one()
    set_height(node, before)


def set_height(node: Node, height: int) -> None:
    """Have the read model say that it stands at a height."""
    with node.read_model.engine.begin() as writer:
        writer.execute(PROGRESS.update().values(height=height))


def test_a_restart_goes_on_where_it_stood(home: Home) -> None:
    """A node opened again has nothing to project, and takes the next order."""
    with home.open() as node:
        height, rows = node.read_model.height, read_all(node.read_model)
        assert height >= node.ledger.height - 1
        client = Client(LocalTransport(node), node.keys, make_trust(node.genesis))
        with pytest.raises(RuleRefused) as caught:
            client.send("trade", [Accept(b"\xfe" * 16)], [STORES.key])
        digest = caught.value.outcome.digest.hex()
        assert client.show("transactions", digest)["verified"]
    with home.open() as node:
        assert node.read_model.height > height
        later = read_all(node.read_model)["transactions"]
        assert set(rows["transactions"]) < set(later)


def test_a_reset_read_model_is_built_again(node: Node) -> None:
    """Dropping every row and projecting the block log gives the same rows."""
    rows = read_all(node.read_model)
    node.read_model.reset()
    assert {""} == {"".join(map(str, left)) for left in read_all(node.read_model).values()}
    node.project_pending()
    assert rows == read_all(node.read_model)


def test_an_empty_database_is_filled_at_the_start(home: Home, server: PostgresServer) -> None:
    """A node whose database is new, or gone, builds it from its block log."""
    with home.open() as node:
        assert node.wait_projected(node.ledger.height)
    opened = home.open()
    rows = read_all(opened.read_model)
    opened.stop()
    home.configure(server.create("elsewhere"))
    try:
        opened = home.open()
        again = read_all(opened.read_model)
        opened.stop()
    finally:
        home.configure(home.url)
    assert rows == again


def test_the_file_check_reads_postgresql(home: Home, server: PostgresServer) -> None:
    """It finds the read model sound, row by row, and names the table of one that was changed."""
    report = check_home(home.folder)
    assert [] == report.findings
    assert report.rows > 100
    changed = "UPDATE orders SET reference = reference || '!' WHERE reference = 'PO-1'"
    assert 1 == server.execute(changed, "market")
    try:
        assert "read model, orders: expected" in check_home(home.folder).findings[0]
    finally:
        server.execute("UPDATE orders SET reference = 'PO-1' WHERE reference = 'PO-1!'", "market")
    assert check_home(home.folder).is_sound


def test_pages_and_door_answer_from_postgresql(home: Home) -> None:
    """Every list of the pages and of the door, the figures of the market, a search, the metrics."""
    with home.open() as node:
        paths = ["/", "/search?q=PO", "/chains/trade", "/metrics", "/v1/search?q=PO"]
        for kind in node.kinds.values():
            paths += [f"/{kind.plural}", f"/v1/{kind.plural}"]
            for row in node.read_model.list_rows(kind, limit=1):
                paths += [f"/{kind.plural}/{row['id']}", f"/v1/{kind.plural}/{row['id']}"]
        with (
            HttpServer(node, routes=[make_pages(node)]) as served,
            httpx.Client(base_url=served.url, timeout=30) as http,
        ):
            statuses = {path: http.get(path).status_code for path in paths}
            assert {} == {path: status for path, status in statuses.items() if status != 200}
            for path in NOT_ANSWERED:
                assert http.get(path).status_code in (400, 404), path


def test_a_database_out_of_reach_is_named_without_its_password(home: Home, tmp_path: Path) -> None:
    """A node that can't reach its database says which, and keeps the password to itself."""
    home.configure(f"postgresql://hansa:pass%40word@/market?host={tmp_path}")
    try:
        with pytest.raises(OperatorError) as caught:
            home.open()
    finally:
        home.configure(home.url)
    assert str(tmp_path) in str(caught.value)
    assert "word" not in str(caught.value)
