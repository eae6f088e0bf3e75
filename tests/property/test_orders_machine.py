"""Orders under any sequence of messages, packets and time: money is conserved, and all ends."""

from __future__ import annotations

from typing import Any, get_args

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from tests.conftest import SOAK
from tests.ledger_harness import DAY_MS
from tests.trade_world import (
    BUYER,
    COLLEAGUE,
    FUNDS_MINOR,
    KETTLE,
    OTHER_BUYER,
    SELLER,
    TEAPOT,
    Market,
)

from hansa.core.errors import Rejected
from hansa.service.orders.model import (
    FINAL_STATUSES,
    MODULE,
    STATUSES,
    TARGETS,
    AmountTooSmall,
    LineOffer,
    Order,
    Refund,
    RefundLine,
    RequestReturn,
    ReturnLine,
    Trigger,
)
from hansa.service.orders.rules import ORDERS, SHIPPINGS

TRIGGERS: tuple[Trigger, ...] = get_args(Trigger)[1:]
ESCROW = tuple(status for status in STATUSES[2:] if status not in FINAL_STATUSES)
OFFERS = st.builds(
    LineOffer,
    st.sampled_from((KETTLE, TEAPOT)),
    st.integers(1, 12),
    st.integers(1, 40_000_000),
)
SHARES = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 13)), min_size=1, max_size=3)


class OrdersMachine(RuleBasedStateMachine):
    """A market in which anybody does anything at any time."""

    orders = Bundle("orders")

    @initialize()
    def open(self) -> None:
        """Open the market."""
        self.market = Market()

    @rule(
        target=orders,
        offers=st.lists(OFFERS, min_size=1, max_size=4),
        buyer=st.sampled_from((BUYER, OTHER_BUYER)),
    )
    def place(self, offers: list[LineOffer], buyer: bytes) -> bytes:
        """Place an order; a line below the minor unit is refused, and remembered as no order."""
        try:
            return self.market.place(by=buyer, lines=tuple(offers)).id
        except AmountTooSmall:
            return b""

    @rule(order_id=orders, trigger=st.sampled_from(TRIGGERS), quantity=st.integers(1, 13))
    def do_anything(self, order_id: bytes, trigger: Trigger, quantity: int) -> None:
        """Anything happens to an order; what the table does not know changes nothing."""
        if order_id:
            self._pull(order_id, trigger, quantity)

    def _pull(self, order_id: bytes, trigger: Trigger, quantity: int) -> None:
        order = self._get(order_id)
        before = dict(self.market.harness.store.data)
        try:
            self.market.pull(order, trigger, quantity=quantity)
        except Rejected:
            assert before == self.market.harness.store.data
            return
        expected = TARGETS.get((order.status, trigger), (order.status,))
        assert self._get(order_id).status in expected

    @rule(order_id=orders, choice=st.integers(0, 20), quantity=st.integers(1, 12))
    def proceed(self, order_id: bytes, choice: int, quantity: int) -> None:
        """Something the table allows happens, so that orders get far."""
        if not order_id:
            return
        status = self._get(order_id).status
        allowed = [trigger for trigger in TRIGGERS if (status, trigger) in TARGETS]
        if allowed:
            self._pull(order_id, allowed[choice % len(allowed)], quantity)

    @rule(order_id=orders, shares=SHARES)
    def request_return(self, order_id: bytes, shares: list[tuple[int, int]]) -> None:
        """The buyer claims parts of some lines, within bounds or not."""
        lines = tuple(ReturnLine(line, max(1, quantity)) for line, quantity in shares)
        if order_id:
            self._submit(RequestReturn(order_id, lines), BUYER)

    @rule(order_id=orders, shares=SHARES, payer=st.sampled_from((SELLER, COLLEAGUE)))
    def refund(self, order_id: bytes, shares: list[tuple[int, int]], payer: bytes) -> None:
        """The seller's side refunds parts of some lines, within bounds or not."""
        lines = tuple(
            RefundLine(line, quantity, 1 + 97 * quantity) for line, quantity in sorted(shares)
        )
        if order_id:
            self._submit(Refund(order_id, lines), payer)

    @rule(days=st.integers(0, 20))
    def wait(self, days: int) -> None:
        """Time passes."""
        self.market.harness.advance(days * DAY_MS)

    @precondition(lambda self: hasattr(self, "market"))
    @invariant()
    def money_is_where_the_orders_say(self) -> None:
        """The books are sound, escrow is the total of open funded orders, and buyers have paid
        exactly what sellers have got.
        """
        orders = self._list()
        assert self.market.find_unsound() is None
        escrow = sum(order.total_minor for order in orders if order.status in ESCROW)
        assert escrow == self.market.held_minor()
        for buyer in (BUYER, OTHER_BUYER):
            paid = sum(
                order.total_minor - order.refunded_minor
                for order in orders
                if order.buyer == buyer and order.status == "released"
            )
            assert FUNDS_MINOR - paid == self.market.own_minor(buyer)
        total = sum(map(self.market.own_minor, (BUYER, OTHER_BUYER, SELLER, COLLEAGUE)))
        assert 4 * FUNDS_MINOR == total

    @precondition(lambda self: hasattr(self, "market"))
    @invariant()
    def every_open_order_has_one_deadline(self) -> None:
        """One deadline for each order that is not final, and none besides."""
        expected = sorted(order.deadline_ms for order in self._list() if order.deadline_ms)
        assert expected == [at_ms for at_ms, _ in self.market.harness.deadlines(MODULE)]

    @precondition(lambda self: hasattr(self, "market"))
    @invariant()
    def lines_agree_with_their_order(self) -> None:
        """What lines say is refunded is what a released order says; no line is overdrawn."""
        for order in self._list():
            lines = self.market.get_lines(order)
            assert order.total_minor == sum(line.amount_minor for line in lines)
            for line in lines:
                assert 0 <= line.refunded_minor <= line.amount_minor
                assert 0 <= line.returned <= line.quantity
                assert order.status == "returning" or line.claimed == 0
            if order.status == "released":
                assert order.refunded_minor == sum(line.refunded_minor for line in lines)

    def teardown(self) -> None:
        """Once all time is over every order is final and no money is held."""
        if not hasattr(self, "market"):
            return
        self.market.harness.advance(1_000 * DAY_MS)
        assert all(order.status in FINAL_STATUSES for order in self._list())
        assert 0 == self.market.held_minor()
        self.money_is_where_the_orders_say()
        self.every_open_order_has_one_deadline()
        funded = [order for order in self._list() if order.hold is not None]
        assert len(self.market.harness.rows(SHIPPINGS)) <= len(funded)

    def _submit(self, message: Any, by: bytes) -> None:
        before = dict(self.market.harness.store.data)
        try:
            self.market.harness.submit(message, by=by)
        except Rejected:
            assert before == self.market.harness.store.data

    def _get(self, order_id: bytes) -> Order:
        order = self.market.harness.get(ORDERS, order_id)
        assert order is not None
        return order

    def _list(self) -> list[Order]:
        return list(self.market.harness.rows(ORDERS).values())


TestOrders = OrdersMachine.TestCase
TestOrders.settings = settings(max_examples=500 if SOAK else 40, stateful_step_count=40)
