"""Each fault of a relay by itself: it delays at most, and nobody is harmed by it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.node_world import DAY_MS, get_balances, read_table
from tests.simulation.simulator import FAULTS, Simulator, end_of

from hansa.core.prover import Delivery
from hansa.network.relay import Relay
from hansa.node.relay_end import LocalDoor, make_receive
from hansa.service.link.model import AlreadyReceived, Receive
from hansa.service.link.rules import IN, PENDING
from hansa.service.orders.model import Accept, Dispatch, Fund
from hansa.service.orders.rules import ORDERS

STEPS = 25
SOAK_STEPS = 500
MANY = 1_000


@pytest.fixture
def simulator(tmp_path: Path, seed: int) -> Iterator[Simulator]:
    """Four chains with a market that is open."""
    print(f"HANSA_SEED={seed}")
    made = Simulator(tmp_path / "home", seed)
    yield made
    made.node.stop()


def fund_order(simulator: Simulator) -> bytes:
    """Bring an order as far as it comes on the trade chain alone."""
    market = simulator.market
    simulator.place()
    deal = simulator.deals[-1]
    market.do("trade", deal.seller, Accept(deal.order))
    market.do("trade", deal.buyer, Fund(deal.order))
    return deal.order


def get_waiting(simulator: Simulator, source: str, destination: str) -> list[Delivery]:
    """Return what a source has for a destination, all of it, taken or not."""
    return [*LocalDoor(simulator.node, source).get_deliveries(destination, 0, MANY)]


def submit(simulator: Simulator, chain: str, message: Receive) -> int:
    """Have a stranger carry a delivery; returns the number of the refusal, or 0."""
    return simulator.market.fail(chain, "a relay of a stranger", message)


@pytest.mark.parametrize("fault", FAULTS)
def test_one_fault_all_the_time(simulator: Simulator, fault: str, soak: bool) -> None:
    """A relay that does one thing wrong always: the books hold, and an honest one mends it."""
    simulator.fault_rate = 0.9
    for _ in range(SOAK_STEPS if soak else STEPS):
        for end in simulator.ends.values():
            end.faults = (fault,)
        simulator.step()
        simulator.check()
    fund_order(simulator)
    for end in simulator.ends.values():
        end.faults = (fault,)
    simulator.run_relay()
    simulator.check()
    assert simulator.done[fault] > 0
    simulator.wait_out(end_of(simulator))
    simulator.check_ended()


def test_two_relays_at_once(simulator: Simulator) -> None:
    """Two relays are as good as one: what the other has carried is not taken again."""
    relays = [Relay(simulator.ends), Relay(simulator.ends)]
    orders = [fund_order(simulator) for _ in range(5)]
    for relay in relays * 3:
        relay.step()
        simulator.check()
    assert all(simulator.find_shipment(order) for order in orders)


def test_second_delivery_of_the_same(simulator: Simulator) -> None:
    """What was taken once is refused by number, from whatever relay."""
    fund_order(simulator)
    simulator.run_relay_until_quiet()
    before, already = get_balances(simulator.node), AlreadyReceived.number
    for delivery in get_waiting(simulator, "trade", "logistics"):
        assert submit(simulator, "logistics", make_receive("trade", delivery)) == already
    assert before == get_balances(simulator.node)


def test_out_of_order(simulator: Simulator) -> None:
    """A later packet is refused until the earlier one was taken."""
    first, second = fund_order(simulator), fund_order(simulator)
    waiting = get_waiting(simulator, "trade", "logistics")[-2:]
    assert 0 != submit(simulator, "logistics", make_receive("trade", waiting[1]))
    assert simulator.find_shipment(second) is None
    for delivery in waiting:
        assert submit(simulator, "logistics", make_receive("trade", delivery)) == 0
    assert simulator.find_shipment(first) is not None
    assert simulator.find_shipment(second) is not None


def test_packet_on_another_chain_or_of_another(simulator: Simulator) -> None:
    """A packet is worth nothing on another chain than its own, nor as that of another source."""
    fund_order(simulator)
    delivery = get_waiting(simulator, "trade", "logistics")[-1]
    taken = {chain: read_table(simulator.node, chain, IN) for chain in simulator.ends}
    message = make_receive("trade", delivery)
    for chain in ("product", "anchor"):
        assert 0 != submit(simulator, chain, message)
    for source in ("product", "anchor", "logistics", "elsewhere"):
        assert 0 != submit(simulator, "logistics", replace(message, source=source))
    assert taken == {chain: read_table(simulator.node, chain, IN) for chain in simulator.ends}
    simulator.check()


def test_packet_past_its_deadline(simulator: Simulator) -> None:
    """A packet that comes too late does nothing but release its sender."""
    order = fund_order(simulator)
    simulator.clock.now_ms += DAY_MS
    simulator.node.settle()
    assert read_table(simulator.node, "trade", ORDERS)[order].status == "refunded"
    before = get_balances(simulator.node)
    assert read_table(simulator.node, "trade", PENDING) != {}
    simulator.run_relay_until_quiet()
    assert simulator.find_shipment(order) is None
    assert {} == read_table(simulator.node, "trade", PENDING)
    assert before == get_balances(simulator.node)
    simulator.check()


def test_sender_that_crashes_between(simulator: Simulator) -> None:
    """A packet sent and not yet carried when the sender dies is carried after its restart."""
    order = fund_order(simulator)
    simulator.crash()
    simulator.run_relay_until_quiet()
    shipment = simulator.find_shipment(order)
    assert shipment is not None
    simulator.market.do("trade", simulator.deals[-1].seller, Dispatch(order))
    simulator.crash()
    simulator.wait_out(end_of(simulator))
    simulator.check_ended()
