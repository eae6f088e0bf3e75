"""Whatever anybody does in whatever order: goods have one holder, and every shipment ends."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.ledger_harness import DAY_MS, START_MS, make_object
from tests.shipments_harness import (
    BUYER,
    LORRY,
    SELLER,
    SHIP,
    STORE,
    STRANGER,
    Logistics,
    make_packet,
)

from hansa.core.errors import Rejected
from hansa.core.packet import DONE, EXPIRED, REFUSED
from hansa.service.shipments.model import (
    FINAL,
    MODULE,
    NEXT,
    CancelShipment,
    HandOver,
    Shipment,
)
from hansa.service.shipments.rules import REPORTS, SHIPMENTS
from hansa.service.shipments.views import CUSTODY_LEGS

PARTIES = (SELLER, BUYER, LORRY, SHIP, STORE, STRANGER)
parties = st.sampled_from(PARTIES)
orders = st.integers(0, 2).map(lambda n: make_object(f"order {n}"))
FROZEN = ("status", "holder", "held_since_ms", "leg", "place", "milestone", "reason", "deadline_ms")


class ShipmentsMachine(RuleBasedStateMachine):
    """Three orders, six accounts, any message by anybody, packets and time as they come."""

    def __init__(self) -> None:
        super().__init__()
        self.market = Logistics()
        self.seen: dict[bytes, Shipment] = {}
        self.custody: dict[bytes, list[tuple[int, bytes]]] = {}
        """For each shipment who took the goods when, as the two signatures said."""

    def pick(self, index: int) -> bytes:
        """Return some shipment's id, or one that is none."""
        known = sorted(self.seen)
        return known[index % len(known)] if known else make_object("none")

    def now(self) -> dict[bytes, Shipment]:
        """Return all shipments as they now are, by id."""
        return self.market.chain.rows(SHIPMENTS)

    def attempt(self, act: Any, *arguments: Any) -> bool:
        """Do something; True where no rule refused it."""
        try:
            act(*arguments)
        except Rejected:
            return False
        return True

    @rule(order=orders, days=st.integers(1, 20))
    def open(self, order: bytes, days: int) -> None:
        """The trade chain asks for a shipment, perhaps again."""
        now = self.market.chain.time_ms
        known = {shipment.order for shipment in self.seen.values()}
        packet = make_packet(
            order=order, ship_by_ms=now + days * DAY_MS, deliver_by_ms=now + 2 * days * DAY_MS
        )
        assert (order not in known) == self.attempt(self.market.take, packet)
        for key, shipment in self.market.chain.rows(SHIPMENTS).items():
            self.custody.setdefault(key, [(shipment.opened_ms, shipment.seller)])

    @rule(order=orders)
    def cancel(self, order: bytes) -> None:
        """The trade chain asks to cancel: only what has not moved is cancelled."""
        has_opened = [s for s in self.seen.values() if s.order == order and s.status == "open"]
        packet = CancelShipment(order=order)
        assert bool(has_opened) == self.attempt(self.market.take, packet)

    @rule(index=st.integers(0, 2), to=parties, signers=st.lists(parties, min_size=1, unique=True))
    def hand_over(self, index: int, to: bytes, signers: list[bytes]) -> None:
        """Anybody tries to pass goods on; it never works without giver and taker."""
        self.pass_on(self.pick(index), to, tuple(signers))

    @precondition(lambda self: self.seen)
    @rule(index=st.integers(0, 2), to=parties, is_taker_first=st.booleans())
    def hand_over_duly(self, index: int, to: bytes, is_taker_first: bool) -> None:
        """Giver and taker sign, in either order."""
        shipment = self.seen[self.pick(index)]
        pair = (to, shipment.holder) if is_taker_first else (shipment.holder, to)
        self.pass_on(shipment.id, to, pair if to != shipment.holder else (to,))

    def pass_on(self, key: bytes, to: bytes, signers: tuple[bytes, ...]) -> None:
        """Hand goods over, and remember who took them."""
        message = HandOver(shipment=key, to=to, place="DEHAM", note="")
        if self.attempt(lambda: self.market.chain.submit(message, by=signers)):
            assert sorted((self.seen[key].holder, to)) == sorted(signers)
            self.custody[key].append((self.market.chain.time_ms, to))

    @rule(index=st.integers(0, 2), by=parties)
    def report(self, index: int, by: bytes) -> None:
        """Anybody reports a milestone: only the holder is heard."""
        key = self.pick(index)
        if self.attempt(self.market.report, key, by):
            assert self.seen[key].holder == by

    @rule(index=st.integers(0, 2), by=parties)
    def lose(self, index: int, by: bytes) -> None:
        """Anybody reports a loss: only the holder is heard."""
        key = self.pick(index)
        if self.attempt(self.market.lose, key, by):
            assert self.seen[key].holder == by

    @rule(index=st.integers(0, 2), by=parties)
    def refuse(self, index: int, by: bytes) -> None:
        """Anybody refuses the goods: only the buyer is heard."""
        key = self.pick(index)
        if self.attempt(self.market.refuse, key, by):
            assert self.seen[key].buyer == by

    @precondition(lambda self: self.market.chain.rows(REPORTS))
    @rule(outcome=st.sampled_from((DONE, REFUSED, EXPIRED)))
    def answer(self, outcome: int) -> None:
        """The trade chain answers the oldest report."""
        key = min(self.market.chain.rows(REPORTS))
        number = 5017 if outcome == REFUSED else 0
        self.market.chain.acknowledge("trade", MODULE, int.from_bytes(key, "big"), outcome, number)

    @rule(days=st.integers(0, 15))
    def wait(self, days: int) -> None:
        """Time passes."""
        self.market.chain.advance(days * DAY_MS)

    @invariant()
    def steps_are_in_the_table(self) -> None:
        """Every change of status is a transition, and what is final stays as it is."""
        steps = {(before, after) for (before, _), after in NEXT.items()}
        now = self.now()
        for key, before in self.seen.items():
            after = now[key]
            if before.status in FINAL:
                assert [getattr(before, n) for n in FROZEN] == [getattr(after, n) for n in FROZEN]
            elif before.status != after.status:
                assert (before.status, after.status) in steps
        self.seen = now

    @invariant()
    def each_living_shipment_has_its_deadline(self) -> None:
        """One entry for what is not final, none for what is, and none that is overdue."""
        deadlines = [(s.deadline_ms, k) for k, s in self.now().items() if s.status not in FINAL]
        assert sorted(deadlines) == self.market.chain.deadlines(MODULE)
        assert all(at_ms >= self.market.chain.time_ms for at_ms, _ in deadlines)

    @invariant()
    def one_report_for_each_shipment_at_most(self) -> None:
        """The trade chain is told once how a shipment ended."""
        told = sum(1 for shipment in self.now().values() if shipment.report != "none")
        assert told == len(self.market.link.sent)

    @invariant()
    def holder_is_who_signed_last(self) -> None:
        """The record's holder is the last who signed for the goods."""
        assert {k: taken[-1][1] for k, taken in self.custody.items()} == {
            k: shipment.holder for k, shipment in self.now().items()
        }

    def teardown(self) -> None:
        """In the end nobody does anything, every shipment ends, and custody is without a gap."""
        self.market.chain.advance(400 * DAY_MS)
        assert all(s.status in FINAL for s in self.market.chain.rows(SHIPMENTS).values())
        rows = self.market.chain.view(CUSTODY_LEGS)
        for key, taken in self.custody.items():
            legs = [row for row in rows if row["shipment"] == key.hex()]
            assert taken == [(leg["from_ms"], bytes.fromhex(leg["holder"])) for leg in legs]
            assert [at_ms for at_ms, _ in taken[1:]] + [None] == [leg["to_ms"] for leg in legs]
            assert START_MS <= legs[0]["from_ms"]


ShipmentsMachine.TestCase.settings = settings(stateful_step_count=30)
TestShipments = ShipmentsMachine.TestCase
