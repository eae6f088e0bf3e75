"""The table of an order's life says exactly what the rules do, and no state is a dead end."""

from __future__ import annotations

from typing import get_args

import pytest
from tests.conftest import REPOSITORY
from tests.ledger_harness import DAY_MS
from tests.trade_world import FUNDS_MINOR, SELLER, Market
from tools.draw_states import DOCUMENT, draw_orders

from hansa.service.orders.model import (
    FINAL_STATUSES,
    MODULE,
    STATUSES,
    TARGETS,
    TRANSITIONS,
    LateReport,
    RequestReturn,
    ReturnLine,
    ShipmentNotOpened,
    Status,
    TooLate,
    Trigger,
    WrongState,
)
from hansa.service.orders.rules import STATUS_BYTES

TRIGGERS: tuple[Trigger, ...] = get_args(Trigger)[1:]
"""All but place, which needs no state."""
PAIRS = [(status, trigger) for status in STATUSES for trigger in TRIGGERS]
OPEN_STATUSES = [status for status in STATUSES if status not in FINAL_STATUSES]


def reach(status: Status, trigger: Trigger, returned: dict[int, int]) -> Status:
    """Return the state an order in `status` is in after `trigger`; the quantity of each line that
    the buyer wants to send back, where it is already in return, is `returned`.
    """
    market = Market()
    order = market.bring_to(status if status != "returning" else "delivered")
    if status == "returning":
        lines = tuple(ReturnLine(line, quantity) for line, quantity in returned.items())
        market.harness.submit(RequestReturn(order.id, lines), by=order.buyer)
    before = market.get(order)
    try:
        events = market.pull(order, trigger)
    except WrongState:
        assert before == market.get(order)
        return before.status
    after = market.get(order)
    if (status, trigger) not in TARGETS:
        assert before == after
        assert all(isinstance(event, LateReport | ShipmentNotOpened) for event in events), events
    assert market.find_unsound() is None
    assert (after.status in FINAL_STATUSES) == (market.harness.deadlines(MODULE) == [])
    assert (0 if after.hold is None or after.status in FINAL_STATUSES else after.total_minor) == (
        market.held_minor()
    )
    return after.status


@pytest.mark.parametrize(("status", "trigger"), PAIRS)
def test_a_trigger_leads_where_the_table_says(status: Status, trigger: Trigger) -> None:
    """Each state under each trigger, on the real rules: allowed as tabled, else nothing changes."""
    returns = ({0: 1}, {0: 2, 1: 4, 2: 2})
    reached = {reach(status, trigger, returned) for returned in returns}
    assert set(TARGETS.get((status, trigger), (status,))) == reached


def test_every_state_is_reached() -> None:
    """Following the table from the placing leads into every state, and each state is named once."""
    reached: set[Status] = set()
    todo = [target for step in TRANSITIONS if step.source is None for target in step.targets]
    while todo:
        status = todo.pop()
        if status not in reached:
            reached.add(status)
            todo += [
                target for step in TRANSITIONS if step.source == status for target in step.targets
            ]
    assert set(get_args(Status)) == set(STATUSES) == reached
    assert len(TRANSITIONS) == len(TARGETS)


@pytest.mark.parametrize("status", OPEN_STATUSES)
def test_time_alone_ends_every_state(status: Status) -> None:
    """Whoever vanishes, whatever chain falls silent: time leads to an end and frees the money."""
    market = Market()
    order = market.bring_to(status)
    market.harness.advance(1_000 * DAY_MS)
    assert market.get(order).status in FINAL_STATUSES
    assert 0 == market.held_minor()
    assert [] == market.harness.deadlines(MODULE)
    assert market.find_unsound() is None


@pytest.mark.parametrize("status", OPEN_STATUSES)
def test_too_late_is_too_late(status: Status) -> None:
    """A message in the block before the deadline's own, however late that runs, changes nothing."""
    triggers = [step.trigger for step in TRANSITIONS if step.source == status]
    for trigger in triggers:
        if trigger == "deadline":
            continue
        market = Market()
        order = market.bring_to(status)
        market.harness.time_ms = order.deadline_ms + 1
        if trigger.startswith("shipment"):
            events = market.pull(order, trigger)
            assert all(isinstance(event, LateReport | ShipmentNotOpened) for event in events)
        else:
            with pytest.raises(TooLate):
                market.pull(order, trigger)
        assert order == market.get(order)


@pytest.mark.parametrize("status", STATUSES)
def test_a_stale_deadline_does_nothing(status: Status) -> None:
    """A deadline of a state that the order has left changes nothing, whichever it was."""
    market = Market()
    order = market.bring_to(status)
    for other in STATUSES:
        if other != status:
            market.harness.call(market.orders.handle_deadline, order.id + STATUS_BYTES[other])
    assert order == market.get(order)


def test_the_last_moment_is_still_in_time() -> None:
    """A seller may accept in a block whose time is the deadline itself."""
    market = Market()
    order = market.bring_to("placed")
    market.harness.advance_to(order.deadline_ms)
    market.pull(order, "accept")
    assert "accepted" == market.get(order).status
    assert FUNDS_MINOR == market.own_minor(SELLER)


def test_the_drawing_is_current() -> None:
    """The diagram in the docs is what tools/draw_states.py draws now."""
    assert draw_orders() == (REPOSITORY / DOCUMENT).read_text(encoding="utf-8")
