"""A clock that jumps both ways: block time never goes back, and deadlines follow block time."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.node_world import (
    BUYERS,
    DAY_MS,
    HOUR_MS,
    KEYS,
    MINUTE_MS,
    SELLERS,
    START_MS,
    Clock,
    Market,
    SteppedNode,
    find_unsound_books,
    make_market_home,
    own_minor,
    read_table,
)

from hansa.core.errors import Expired
from hansa.node.home import NodeConfig
from hansa.node.node import Node
from hansa.service.bank.model import OpenHold
from hansa.service.bank.rules import HOLDS

BUYER, SELLER = BUYERS[0], SELLERS[0]
JUMPS = 60
SOAK_JUMPS = 5_000
PATIENCE_S = 30.0


@pytest.fixture
def clock() -> Clock:
    """A clock that a test moves."""
    return Clock()


@pytest.fixture
def node(tmp_path: Path, clock: Clock) -> Iterator[SteppedNode]:
    """A node whose market is open."""
    make_market_home(tmp_path / "home")
    made = SteppedNode(tmp_path / "home", keys=KEYS.store, clock=clock)
    yield made
    made.stop()


@pytest.fixture
def market(node: SteppedNode) -> Market:
    """The market of the node."""
    made = Market(node)
    made.open()
    return made


def hold(market: Market, until_ms: int, reference: int, amount_minor: int = 100) -> None:
    """Set money of the buyer aside until a moment."""
    key = reference.to_bytes(16, "little")
    account = KEYS.account(SELLER)
    market.do("trade", BUYER, OpenHold("GBP", amount_minor, account, until_ms, key))


def test_block_time_never_goes_back(
    node: SteppedNode, market: Market, clock: Clock, soak: bool, seed: int
) -> None:
    """Whatever the clock does, each block is at least as late as the one before, and no later."""
    print(f"HANSA_SEED={seed}")
    source = random.Random(seed)
    latest_ms = node.ledger.time_ms
    for number in range(SOAK_JUMPS if soak else JUMPS):
        clock.now_ms = max(0, clock.now_ms + source.randint(-DAY_MS, DAY_MS))
        market.do("trade", BUYER, market.make_transfer(SELLER, 1, number))
        assert node.ledger.time_ms == max(latest_ms, clock.now_ms)
        latest_ms = node.ledger.time_ms
    times = [record.time_ms for record in node.ledger.iterate_blocks(0)]
    assert times == sorted(times)


def test_clock_that_goes_back_revives_nothing(
    node: SteppedNode, market: Market, clock: Clock
) -> None:
    """A deadline that has passed stays passed, and what has expired is not accepted again."""
    hold(market, START_MS + HOUR_MS, 1)
    late = market.sign("trade", BUYER, market.make_transfer(SELLER, 1, 99))
    clock.now_ms += 2 * HOUR_MS
    node.settle()
    assert {} == read_table(node, "trade", HOLDS)
    clock.now_ms = START_MS
    node.settle()
    assert {} == read_table(node, "trade", HOLDS)
    with pytest.raises(Expired):
        node.submit("trade", late).result(timeout=PATIENCE_S)
    market.forget_sequences()
    assert market.fail("trade", BUYER, market.make_transfer(SELLER, 1, 100)) == 0


def test_deadline_is_that_of_block_time(node: SteppedNode, market: Market, clock: Clock) -> None:
    """A deadline is not due in the block of its own time, and is in the first later one."""
    hold(market, START_MS + HOUR_MS, 1)
    for now_ms, count in (
        (START_MS + HOUR_MS - 1, 1),
        (START_MS + HOUR_MS, 1),
        (START_MS + HOUR_MS + 1, 0),
    ):
        clock.now_ms = now_ms
        node.settle()
        market.do("trade", BUYER, market.make_transfer(SELLER, 1, now_ms))
        assert count == len(read_table(node, "trade", HOLDS))


def test_clock_far_ahead_for_a_moment(node: SteppedNode, market: Market, clock: Clock) -> None:
    """After the clock was a day ahead for one block, deadlines go by the time of that block."""
    clock.now_ms += DAY_MS
    market.do("trade", BUYER, market.make_transfer(SELLER, 1, 5))
    clock.now_ms -= DAY_MS
    hold(market, node.ledger.time_ms + MINUTE_MS, 7)
    clock.now_ms += HOUR_MS
    node.settle()
    assert len(read_table(node, "trade", HOLDS)) == 1, "an hour of a clock that is a day behind"
    clock.now_ms += DAY_MS
    node.settle()
    assert {} == read_table(node, "trade", HOLDS)
    assert find_unsound_books(node) is None


def test_engine_makes_blocks_for_deadlines(tmp_path: Path) -> None:
    """A running node ends a hold although nobody submits anything any more."""
    clock = Clock()
    make_market_home(tmp_path / "home")
    expired = threading.Event()
    config = NodeConfig(runs_relay=False)
    with Node(tmp_path / "home", keys=KEYS.store, clock=clock, config=config) as node:
        market = Market(node)
        market.open()
        hold(market, START_MS + HOUR_MS, 1)
        height = node.ledger.height
        node.engine.on_block.append(lambda _: expired.set())
        clock.now_ms = START_MS + HOUR_MS + 1
        assert expired.wait(PATIENCE_S)
        assert height + 1 == node.call(lambda: node.ledger.height)
        assert node.call(lambda: read_table(node, "trade", HOLDS)) == {}
        assert own_minor(node, BUYER) > 0
