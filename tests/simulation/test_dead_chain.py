"""A destination or relay that is dead for good: every order still ends by its own deadlines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.node_world import (
    BUYERS,
    CARRIERS,
    HOUR_MS,
    SELLERS,
    account,
    get_balances,
    make_terms,
    read_table,
)
from tests.simulation.simulator import Simulator, end_of

from hansa.core.module import compute_object_id
from hansa.core.transaction import Message
from hansa.network.relay import Relay
from hansa.service.bank.rules import HOLDS
from hansa.service.link.rules import PENDING
from hansa.service.orders.model import FINAL_STATUSES, Accept, Dispatch, Fund
from hansa.service.orders.rules import ORDERS
from hansa.service.shipments.model import HandOver

BUYER, SELLER, CARRIER = BUYERS[0], SELLERS[0], CARRIERS[0]
REACHED = ("placed", "accepted", "funded", "dispatched")
"""How far an order comes before everybody falls silent."""


@pytest.fixture
def simulator(tmp_path: Path, seed: int) -> Iterator[Simulator]:
    """Four chains with a market that is open."""
    print(f"HANSA_SEED={seed}")
    made = Simulator(tmp_path / "home", seed)
    yield made
    made.node.stop()


def place_and_lead(simulator: Simulator, status: str) -> bytes:
    """Place an order and lead it as far as the trade chain alone can."""
    market = simulator.market
    place = market.make_place(SELLER, make_terms(simulator.clock()))
    order = compute_object_id("trade", market.send("trade", BUYER, place).digest, 0)
    steps: list[tuple[str, Message]] = [
        (SELLER, Accept(order)),
        (BUYER, Fund(order)),
        (SELLER, Dispatch(order)),
    ]
    for party, message in steps[: REACHED.index(status)]:
        market.do("trade", party, message)
    assert get_status(simulator, order) == status
    return order


def get_status(simulator: Simulator, order: bytes) -> str:
    """Return the state an order is in."""
    return read_table(simulator.node, "trade", ORDERS)[order].status


def wait_without_relay(simulator: Simulator, hours: int) -> None:
    """Let time pass while nothing is carried."""
    for _ in range(hours):
        simulator.clock.now_ms += HOUR_MS
        simulator.node.settle()
        simulator.check()


@pytest.mark.parametrize("dead", [("logistics",), ("product", "logistics", "anchor")])
def test_orders_end_although_chains_are_dead(simulator: Simulator, dead: tuple[str, ...]) -> None:
    """Whatever state an order is in when a chain falls silent for ever, its money comes free."""
    before = get_balances(simulator.node)
    orders = [place_and_lead(simulator, status) for status in REACHED]
    living = {name: end for name, end in simulator.ends.items() if name not in dead}
    relay = Relay(living)
    for _ in range(30):
        simulator.clock.now_ms += HOUR_MS
        simulator.node.settle()
        relay.step()
        simulator.check()
    assert {get_status(simulator, order) for order in orders} <= set(FINAL_STATUSES)
    assert {} == read_table(simulator.node, "trade", HOLDS)
    assert before == get_balances(simulator.node)


def hand_over(simulator: Simulator, order: bytes, holder: str, taker: str) -> None:
    """Pass the goods of an order on."""
    shipment = simulator.find_shipment(order)
    assert shipment is not None
    message = HandOver(shipment.id, account(taker), "GBFXT", "")
    simulator.market.do("logistics", (holder, taker), message)


@pytest.mark.parametrize("silent_hours", [3, 40], ids=["packet still valid", "packet expired"])
def test_delivery_told_too_late(simulator: Simulator, silent_hours: int) -> None:
    """A delivery that the relay tells after the money went back moves none of it."""
    before = get_balances(simulator.node)
    order = place_and_lead(simulator, "funded")
    simulator.run_relay_until_quiet()
    simulator.market.do("trade", SELLER, Dispatch(order))
    hand_over(simulator, order, SELLER, CARRIER)
    wait_without_relay(simulator, 9)
    hand_over(simulator, order, CARRIER, BUYER)
    wait_without_relay(simulator, silent_hours)
    assert get_status(simulator, order) == "refunded"
    assert before == get_balances(simulator.node)
    simulator.wait_out(end_of(simulator))
    assert get_status(simulator, order) == "refunded"
    assert before == get_balances(simulator.node)
    for chain in simulator.ends:
        assert {} == read_table(simulator.node, chain, PENDING)


def test_idle_network_keeps_its_clients(simulator: Simulator) -> None:
    """A network where nothing is done for months can still be heard, as long as a relay runs."""
    for _ in range(120):
        simulator.clock.now_ms += 24 * HOUR_MS
        simulator.node.settle()
        simulator.run_relay_until_quiet()
    order = place_and_lead(simulator, "funded")
    simulator.run_relay_until_quiet()
    assert simulator.find_shipment(order) is not None
