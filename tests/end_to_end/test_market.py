"""The market that trades by itself: every kind of life is lived, and nothing is left hanging."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

from hansa.formats.gs1 import is_gtin
from hansa.interface.client import Client, LocalTransport
from hansa.interface.sandbox.home import create_sandbox
from hansa.interface.sandbox.market import FATES, Market
from hansa.interface.sandbox.roster import COMPANIES
from hansa.node.home import load_keys, make_trust
from hansa.node.node import Node

PACE_S = 0.02


def open_client(node: Node) -> Client:
    """A client that verifies what the node says."""
    return Client(LocalTransport(node), node.keys, make_trust(node.genesis))


def open_node(home: Path) -> Node:
    """A new sandbox."""
    create_sandbox(home, "market test")
    return Node(home, keys=load_keys(home, lambda: ""))


def test_a_dozen_companies_of_four_countries(tmp_path: Path) -> None:
    """Founders are admitted on every chain, with carriers, a warehouse, customs and a bank."""
    with open_node(tmp_path / "home") as node:
        rows = open_client(node).list("organisations", limit=200)["items"]
    assert len(COMPANIES) == len(rows) >= 12
    assert {"CN", "DE", "GB", "US"} == {row["country"] for row in rows}
    assert {"admitted"} == {row["status"] for row in rows}


def test_every_fate_is_lived(tmp_path: Path) -> None:
    """Orders are released, declined, cancelled, refunded or lapse; every one of them ends."""
    with open_node(tmp_path / "home") as node:
        client = open_client(node)
        market = Market(client, pace_s=PACE_S, max_orders=len(FATES))
        market.start()
        assert market.wait(60.0)
        market.stop()
        assert ([], len(FATES), len(FATES)) == (market.troubles, market.placed, market.ended)
        statuses: Counter[str] = Counter()
        give_up = time.monotonic() + 30.0
        while time.monotonic() < give_up:
            rows = client.list("orders", limit=200)["items"]
            statuses = Counter(row["status"] for row in rows)
            if not {"placed", "delivered"} & statuses.keys():
                break
        # The last two end by their deadlines alone: one unanswered, one never confirmed.
        expected = {"released": 16, "declined": 1, "lapsed": 1, "cancelled": 1, "refunded": 1}
        assert expected == dict(statuses)
        products = client.list("products", limit=200)["items"]
        assert all(is_gtin(row["gtin"]) and row["gtin"].startswith("2") for row in products)
        assert [] == client.list("holds", {"status": "open"})["items"]


def test_it_stops_when_told_and_goes_on_later(tmp_path: Path) -> None:
    """A second market on the same home finds currencies and products, and trades on."""
    with open_node(tmp_path / "home") as node:
        client = open_client(node)
        for count in (2, 3):
            market = Market(client, pace_s=PACE_S, max_orders=count)
            market.start()
            assert market.wait(60.0)
            assert ([], count) == (market.troubles, market.ended)
        assert 5 == len(client.list("orders", limit=200)["items"])


def test_trouble_does_not_end_it(tmp_path: Path) -> None:
    """Somebody else signs on the market's lane: it loses an order, reads anew and trades on."""
    with open_node(tmp_path / "home") as node:
        client = open_client(node)
        first = Market(client, pace_s=PACE_S, max_orders=4)
        second = Market(client, pace_s=PACE_S, max_orders=4, seed=7)
        first.start()
        second.start()
        assert first.wait(120.0)
        assert second.wait(120.0)
        assert 8 == first.placed + second.placed
