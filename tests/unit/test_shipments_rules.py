"""Goods pass from hand to hand, each hand signs, and no shipment waits for ever."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from tests.ledger_harness import DAY_MS, START_MS, Sent, make_object
from tests.shipments_harness import (
    BUYER,
    DELIVER_BY_MS,
    GRACE_MS,
    LIFETIME_MS,
    LORRY,
    ORDER,
    SELLER,
    SHIP,
    SHIP_BY_MS,
    STORE,
    STRANGER,
    Logistics,
    make_packet,
)

from hansa.core.codec import encode
from hansa.core.errors import Malformed, Rejected
from hansa.core.packet import DONE, EXPIRED, REFUSED
from hansa.core.readmodel import HISTORY, Batch, Fact
from hansa.service import shipments
from hansa.service.members.model import OrganisationSuspended, RightMissing, UnknownAccount
from hansa.service.shipments.model import (
    ERRORS,
    EVENTS,
    FINAL,
    INITIAL,
    MAX_LEGS,
    MAX_TERM_MS,
    MODULE,
    TRANSITIONS,
    CancelShipment,
    DuplicateOrder,
    HandOver,
    MalformedPacket,
    MissingSigner,
    NotConsignee,
    NotHolder,
    ReportMilestone,
    SameHolder,
    SameParty,
    TooLate,
    TooManyLegs,
    UnexpectedSigner,
    UnknownOrder,
    UnknownShipment,
    WrongSource,
    WrongStatus,
    WrongTerm,
)
from hansa.service.shipments.ports import ShipmentDelivered, ShipmentLost, ShipmentRefused
from hansa.service.shipments.rules import REPORTS
from hansa.service.shipments.views import CUSTODY_LEGS, SHIPMENTS, VIEWS, custody_at

Act = Callable[[Logistics, bytes], Any]


@pytest.fixture
def market() -> Logistics:
    """A fresh logistics chain."""
    return Logistics()


# The ways to bring a shipment into each state.


def bring_to(market: Logistics, status: str, order: bytes = ORDER) -> bytes:
    """Open a shipment and bring it into a state."""
    shipment = market.open(order=order)
    for step in WAYS[status]:
        step(market, shipment)
    assert status == market.get(shipment).status
    return shipment


TRIGGERS: dict[str, Act] = {
    "hand_over_to_carrier": lambda market, shipment: market.hand_over(
        shipment, SHIP if market.get(shipment).holder == LORRY else LORRY
    ),
    "hand_over_to_buyer": lambda market, shipment: market.hand_over(shipment, BUYER),
    "hand_over_to_seller": lambda market, shipment: market.hand_over(shipment, SELLER),
    "report_milestone": lambda market, shipment: market.report(shipment),
    "report_lost": lambda market, shipment: market.lose(shipment),
    "refuse": lambda market, shipment: market.refuse(shipment),
    "cancel_packet": lambda market, shipment: market.take(
        CancelShipment(order=market.get(shipment).order)
    ),
    "deadline": lambda market, shipment: market.chain.advance_to(
        max(market.chain.time_ms, market.get(shipment).deadline_ms + 1)
    ),
}
CARRY, DELIVER, RETURN = (
    TRIGGERS["hand_over_to_carrier"],
    TRIGGERS["hand_over_to_buyer"],
    TRIGGERS["hand_over_to_seller"],
)
WAYS: dict[str, tuple[Act, ...]] = {
    "open": (),
    "in_transit": (CARRY,),
    "refused": (CARRY, TRIGGERS["refuse"]),
    "returning": (CARRY, TRIGGERS["refuse"], CARRY),
    "delivered": (CARRY, DELIVER),
    "lost": (CARRY, TRIGGERS["report_lost"]),
    "returned": (CARRY, TRIGGERS["refuse"], RETURN),
    "cancelled": (TRIGGERS["cancel_packet"],),
    "lapsed": (TRIGGERS["deadline"],),
}


def test_rules_do_what_the_table_says() -> None:
    """Every trigger in every state leads where TRANSITIONS says, and nowhere else."""
    found = []
    for status in WAYS:
        for trigger, act in TRIGGERS.items():
            market = Logistics()
            shipment = bring_to(market, status)
            try:
                act(market, shipment)
            except WrongStatus:
                continue
            if status in FINAL and trigger == "deadline":
                assert status == market.get(shipment).status
                continue
            found.append((status, trigger, market.get(shipment).status))
    assert sorted(TRANSITIONS) == sorted(found)


def test_every_state_is_reached() -> None:
    """From the first state the table leads to every state there is."""
    reached = {INITIAL}
    for _ in TRANSITIONS:
        reached |= {after for before, _, after in TRANSITIONS if before in reached}
    assert set(WAYS) == reached


@pytest.mark.parametrize("status", [status for status in WAYS if status not in FINAL])
def test_state_is_left_by_deadline_alone(market: Logistics, status: str) -> None:
    """Where nobody does anything any more the shipment ends, and the holder stays on record."""
    shipment = bring_to(market, status)
    before = market.get(shipment)
    market.chain.advance_to(before.deadline_ms)
    assert before == market.get(shipment)
    market.chain.advance(1)
    after = market.get(shipment)
    assert ("lapsed", before.holder, 0) == (after.status, after.holder, after.deadline_ms)
    assert [] == market.chain.deadlines(MODULE)


@pytest.mark.parametrize("status", FINAL)
def test_final_state_has_no_deadline(market: Logistics, status: str) -> None:
    """What is over waits for nothing."""
    shipment = bring_to(market, status)
    assert (0, []) == (market.get(shipment).deadline_ms, market.chain.deadlines(MODULE))


def test_readme_shows_the_table() -> None:
    """The README draws exactly the transitions of the code."""
    readme = (Path(shipments.__path__[0]) / "README.md").read_text()
    drawn = [tuple(line.split()) for line in readme.split("```")[1].strip().splitlines()]
    assert list(TRANSITIONS) == drawn


DEADLINES = {
    "open": SHIP_BY_MS + GRACE_MS,
    "in_transit": DELIVER_BY_MS + GRACE_MS,
    "refused": START_MS + (DELIVER_BY_MS - SHIP_BY_MS) + GRACE_MS,
    "returning": START_MS + (DELIVER_BY_MS - SHIP_BY_MS) + GRACE_MS,
}


@pytest.mark.parametrize(("status", "at_ms"), DEADLINES.items(), ids=DEADLINES.keys())
def test_deadline_of_state(market: Logistics, status: str, at_ms: int) -> None:
    """Each state has the one deadline that its terms give it."""
    shipment = bring_to(market, status)
    assert [(at_ms, shipment)] == market.chain.deadlines(MODULE)
    assert at_ms == market.get(shipment).deadline_ms


# Who must sign.

HAND_OVERS: dict[str, tuple[str, Act, type[Rejected] | None]] = {
    "giver first": ("open", lambda m, s: m.hand_over(s, LORRY, SELLER, LORRY), None),
    "taker first": ("open", lambda m, s: m.hand_over(s, LORRY, LORRY, SELLER), None),
    "to a warehouse": ("open", lambda m, s: m.hand_over(s, STORE), None),
    "by the seller himself": ("open", lambda m, s: m.hand_over(s, BUYER), None),
    "carrier to warehouse": ("in_transit", lambda m, s: m.hand_over(s, STORE), None),
    "unknown shipment": (
        "open",
        lambda m, s: m.chain.submit(
            HandOver(shipment=ORDER, to=LORRY, place="x", note=""), by=(SELLER, LORRY)
        ),
        UnknownShipment,
    ),
    "without who gives": ("open", lambda m, s: m.hand_over(s, LORRY, LORRY), MissingSigner),
    "without who takes": ("open", lambda m, s: m.hand_over(s, LORRY, SELLER), MissingSigner),
    "without the buyer": ("in_transit", lambda m, s: m.hand_over(s, BUYER, LORRY), MissingSigner),
    "by who held them before": (
        "in_transit",
        lambda m, s: m.hand_over(s, SHIP, SELLER, SHIP),
        MissingSigner,
    ),
    "with a third": (
        "open",
        lambda m, s: m.hand_over(s, LORRY, SELLER, LORRY, SHIP),
        UnexpectedSigner,
    ),
    "to oneself": ("in_transit", lambda m, s: m.hand_over(s, LORRY, LORRY), SameHolder),
    "to a stranger": ("open", lambda m, s: m.hand_over(s, STRANGER), UnknownAccount),
    "back before refusal": ("in_transit", lambda m, s: m.hand_over(s, SELLER), WrongStatus),
    "to the buyer who refused": ("refused", lambda m, s: m.hand_over(s, BUYER), WrongStatus),
    "after delivery": ("delivered", lambda m, s: m.hand_over(s, LORRY), WrongStatus),
    "milestone by the holder": ("in_transit", lambda m, s: m.report(s), None),
    "milestone by the seller": ("in_transit", lambda m, s: m.report(s, SELLER), NotHolder),
    "milestone of nothing": ("in_transit", lambda m, s: m.report(s[::-1], LORRY), UnknownShipment),
    "loss by another carrier": ("in_transit", lambda m, s: m.lose(s, SHIP), NotHolder),
    "loss of nothing": ("in_transit", lambda m, s: m.lose(s[::-1], LORRY), UnknownShipment),
    "loss before the first leg": ("open", lambda m, s: m.lose(s), WrongStatus),
    "refusal by the holder": ("in_transit", lambda m, s: m.refuse(s, LORRY), NotConsignee),
    "refusal of nothing": ("in_transit", lambda m, s: m.refuse(s[::-1], BUYER), UnknownShipment),
    "refusal before the first leg": ("open", lambda m, s: m.refuse(s), WrongStatus),
}


def make_packet_case(expected: type[Rejected] | None, **changes: Any) -> tuple[Act, Any]:
    """Return the act of taking a changed packet, and what it should come to."""
    return lambda m, _: m.take(make_packet(**{"order": make_object("2"), **changes})), expected


PACKETS: dict[str, tuple[Act, type[Rejected] | None]] = {
    "another order": make_packet_case(None),
    "the same order": make_packet_case(DuplicateOrder, order=ORDER),
    "sold to oneself": make_packet_case(SameParty, buyer=SELLER),
    "delivered before shipped": make_packet_case(WrongTerm, deliver_by_ms=SHIP_BY_MS),
    "at the longest term": make_packet_case(None, deliver_by_ms=START_MS + MAX_TERM_MS),
    "too long a term": make_packet_case(WrongTerm, deliver_by_ms=START_MS + MAX_TERM_MS + 1),
    "at the last moment": make_packet_case(None, ship_by_ms=START_MS - GRACE_MS),
    "too late": make_packet_case(TooLate, ship_by_ms=START_MS - GRACE_MS - 1),
    "another chain": (
        lambda m, _: m.take(make_packet(order=make_object("2")), source="product"),
        WrongSource,
    ),
    "no packet": (lambda m, _: m.chain.deliver("trade", MODULE, b"\x90"), MalformedPacket),
    "a byte too many": (
        lambda m, _: m.chain.deliver("trade", MODULE, encode(make_packet()) + b"\0"),
        MalformedPacket,
    ),
    "cancel": (lambda m, _: m.take(CancelShipment(order=ORDER)), None),
    "cancel the unknown": (
        lambda m, _: m.take(CancelShipment(order=make_object("2"))),
        UnknownOrder,
    ),
}


@pytest.mark.parametrize(("status", "act", "error"), HAND_OVERS.values(), ids=HAND_OVERS.keys())
def test_message(market: Logistics, status: str, act: Act, error: type[Rejected] | None) -> None:
    """A message does its work, or is refused by number and changes nothing."""
    shipment = bring_to(market, status)
    check_act(market, shipment, act, error)


@pytest.mark.parametrize(("act", "error"), PACKETS.values(), ids=PACKETS.keys())
def test_packet(market: Logistics, act: Act, error: type[Rejected] | None) -> None:
    """A packet does its work, or is refused by number and changes nothing."""
    check_act(market, market.open(), act, error)


def check_act(market: Logistics, shipment: bytes, act: Act, error: type[Rejected] | None) -> None:
    """Do something to a shipment and see it work, or fail without a trace."""
    before = dict(market.chain.store.data)
    market.link.take()
    if error is None:
        assert 1 == len(act(market, shipment))
        return
    with pytest.raises(error):
        act(market, shipment)
    assert before == market.chain.store.data
    assert [] == market.link.take()


def test_every_error_is_reached() -> None:
    """Each error of the module is expected by a case of this file."""
    expected = {case[-1] for case in (*HAND_OVERS.values(), *PACKETS.values())} | {TooManyLegs}
    assert [] == [error.__name__ for error in ERRORS if error not in expected]
    assert [6001 + index for index in range(len(ERRORS))] == [error.number for error in ERRORS]


@pytest.mark.parametrize(
    ("signers", "missing"),
    [((LORRY,), SELLER), ((SELLER,), LORRY), ((SELLER, STRANGER), LORRY)],
    ids=["giver", "taker", "somebody else instead"],
)
def test_missing_signer_is_named(
    market: Logistics, signers: tuple[bytes, ...], missing: bytes
) -> None:
    """The error says whose signature is missing."""
    shipment = market.open()
    with pytest.raises(MissingSigner, match=f"expected {missing.hex()}"):
        market.hand_over(shipment, LORRY, *signers)


def test_taker_needs_a_right_to_carry_or_store(market: Logistics) -> None:
    """A member who only sells takes no goods on the way."""
    clerk = make_object("clerk") + bytes(4)
    market.introduce(clerk, SELLER, "sell", "trade")
    shipment = market.open()
    with pytest.raises(RightMissing):
        market.hand_over(shipment, clerk)


def test_suspended_carrier_gives_but_does_not_take(market: Logistics) -> None:
    """Goods are never stranded with a carrier because he was suspended on the way."""
    first, second = market.open(), market.open(order=make_object("2"))
    market.hand_over(first, LORRY)
    market.suspend(LORRY, "carrier")
    with pytest.raises(OrganisationSuspended):
        market.hand_over(second, LORRY)
    market.hand_over(first, SHIP)
    assert SHIP == market.get(first).holder


def test_legs_are_bounded_and_the_end_is_not(market: Logistics) -> None:
    """After the last leg with a carrier the goods can still be delivered."""
    shipment = market.open()
    for index in range(MAX_LEGS):
        market.hand_over(shipment, (LORRY, SHIP)[index % 2])
    with pytest.raises(TooManyLegs):
        market.hand_over(shipment, LORRY)
    market.hand_over(shipment, BUYER)
    assert ("delivered", MAX_LEGS + 1) == (
        market.get(shipment).status,
        market.get(shipment).leg,
    )


@pytest.mark.parametrize(
    "message",
    [
        HandOver(shipment=ORDER, to=LORRY, place="", note=""),
        HandOver(shipment=ORDER, to=LORRY, place="DEHAM", note="x" * 65),
        HandOver(shipment=ORDER, to=LORRY[:19], place="DEHAM", note=""),
        ReportMilestone(shipment=ORDER, code="vanished", place="DEHAM", note=""),  # type: ignore[arg-type]
        ReportMilestone(shipment=ORDER, code="arrived", place="\u202eHAM", note=""),
    ],
    ids=["no place", "long note", "short account", "unknown code", "turned text"],
)
def test_malformed_message_is_refused(market: Logistics, message: Any) -> None:
    """What is out of its bounds never reaches a rule."""
    with pytest.raises(Malformed):
        market.chain.submit(message, by=(SELLER, LORRY))


# What is told to the trade chain.

REPORTED: dict[str, Callable[[bytes], Any]] = {
    "delivered": lambda s: ShipmentDelivered(order=ORDER, shipment=s, delivered_ms=START_MS),
    "lost": lambda s: ShipmentLost(order=ORDER, shipment=s, reason="fire"),
    "refused": lambda s: ShipmentRefused(order=ORDER, shipment=s),
}


@pytest.mark.parametrize(("status", "report"), REPORTED.items(), ids=REPORTED.keys())
def test_end_is_reported(market: Logistics, status: str, report: Callable[[bytes], Any]) -> None:
    """Delivery, loss and refusal go to the module orders of the trade chain."""
    shipment = bring_to(market, status)
    payload = encode(report(shipment))
    assert [Sent("trade", 5, payload, START_MS + LIFETIME_MS, 0)] == market.link.take()
    assert "sent" == market.get(shipment).report


@pytest.mark.parametrize("status", ["open", "in_transit", "cancelled", "lapsed"])
def test_nothing_else_is_reported(market: Logistics, status: str) -> None:
    """What the trade chain knows, or learns from its own deadline, is not sent."""
    bring_to(market, status)
    assert [] == market.link.take()


def test_loss_on_the_way_back_is_not_reported_twice(market: Logistics) -> None:
    """The order has ended with the refusal; a second report could only confuse it."""
    shipment = bring_to(market, "returning")
    market.link.take()
    market.lose(shipment)
    assert ([], "lost") == (market.link.take(), market.get(shipment).status)


@pytest.mark.parametrize(
    ("outcome", "number", "report"),
    [(DONE, 0, "done"), (REFUSED, 5017, "refused"), (EXPIRED, 0, "expired")],
    ids=["done", "refused", "expired"],
)
def test_answer_is_noted(market: Logistics, outcome: int, number: int, report: str) -> None:
    """Whatever the trade chain answers, the shipment says so and stays what it was."""
    shipment = bring_to(market, "delivered")
    (event,) = market.chain.acknowledge("trade", MODULE, 0, outcome, number)
    after = market.get(shipment)
    assert event.shipment == after
    assert ("delivered", report, number) == (after.status, after.report, after.report_error)
    assert {} == market.chain.rows(REPORTS)


def test_answer_does_not_stop_the_way_back(market: Logistics) -> None:
    """Goods that were refused still go home after the report was refused too."""
    shipment = bring_to(market, "refused")
    market.chain.acknowledge("trade", MODULE, 0, REFUSED, 5017)
    market.hand_over(shipment, SELLER)
    assert ("returned", "refused") == (market.get(shipment).status, market.get(shipment).report)


def test_answer_to_nothing_is_a_bug(market: Logistics) -> None:
    """The link answers what was sent, once; anything else stops the node."""
    with pytest.raises(AssertionError, match="no report 7"):
        market.chain.acknowledge("trade", MODULE, 7, DONE)


# What can be asked.


def test_record_says_who_held_the_goods_at_any_time(market: Logistics) -> None:
    """Legs join without gap or overlap, and each moment has one holder."""
    shipment = market.open()
    for to in (LORRY, STORE, SHIP, BUYER):
        market.chain.advance(DAY_MS)
        market.hand_over(shipment, to)
        market.chain.advance(1)
    legs = market.chain.view(CUSTODY_LEGS)
    assert [SELLER.hex(), LORRY.hex(), STORE.hex(), SHIP.hex(), BUYER.hex()] == [
        leg["holder"] for leg in legs
    ]
    assert [leg["to_ms"] for leg in legs] == [*[leg["from_ms"] for leg in legs[1:]], None]
    assert ["DE", "DEHAM", "DEHAM", "DEHAM", "DEHAM"] == [leg["place"] for leg in legs]
    moments = [START_MS, START_MS + DAY_MS - 1, START_MS + DAY_MS, START_MS + 9 * DAY_MS]
    holders = [ask_custody(legs, shipment, moment) for moment in moments]
    assert [SELLER.hex(), SELLER.hex(), LORRY.hex(), BUYER.hex()] == holders
    assert ask_custody(legs, shipment, START_MS - 1) is None


def test_hand_overs_in_one_block_leave_the_last_holder(market: Logistics) -> None:
    """Goods that change hands twice in a millisecond are with who took them last."""
    shipment = bring_to(market, "returning")
    legs = market.chain.view(CUSTODY_LEGS)
    assert market.get(shipment).holder.hex() == ask_custody(legs, shipment, START_MS)


def ask_custody(legs: list[dict[str, Any]], shipment: bytes, time_ms: int) -> str | None:
    """Return who held the goods at a time, as the read model answers."""
    engine = sa.create_engine("sqlite://")
    CUSTODY_LEGS.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(sa.insert(CUSTODY_LEGS), legs)
        row = connection.execute(custody_at(shipment.hex(), time_ms)).one_or_none()
    return None if row is None else str(row.holder)


@pytest.mark.parametrize("status", WAYS)
def test_read_model_shows_the_record(market: Logistics, status: str) -> None:
    """One row a shipment, equal to the record, whatever became of it."""
    shipment = market.get(bring_to(market, status))
    (row,) = market.chain.view(SHIPMENTS)
    for name in shipment.__struct_fields__:
        if name in row:
            value = getattr(shipment, name)
            assert row[name] == (value.hex() if isinstance(value, bytes) else value), name
    assert market.chain.facts[-1].leaf == row["leaf"]


def test_history_is_noted_for_shipment_and_order(market: Logistics) -> None:
    """Whoever asks for the order finds its shipment's events, and the other way about."""
    shipment = bring_to(market, "delivered")
    batch = Batch()
    for fact in market.chain.facts:
        if isinstance(fact.event, EVENTS):
            VIEWS.projections[type(fact.event)](batch, fact)
    noted = [(row[0], row[6]) for row in map(tuple, batch.upserts[HISTORY].values())]
    names = ["shipments.opened", "shipments.handed_over", "shipments.delivered"]
    assert [(s.hex(), name) for name in names for s in (shipment, ORDER)] == noted


def test_every_event_has_a_projection_and_every_filter_an_index() -> None:
    """Nothing that happens is lost to the read model, and no list scans a table."""
    assert set(EVENTS) == set(VIEWS.projections)
    for kind in VIEWS.kinds:
        led = {next(iter(index.columns)).name for index in kind.table.indexes}
        assert [] == [name for name in kind.filters if name not in led]


def test_whole_record_is_in_every_event(market: Logistics) -> None:
    """One proven event shows the shipment as it then was."""
    shipment = bring_to(market, "returned")
    facts: list[Fact] = [f for f in market.chain.facts if isinstance(f.event, EVENTS)]
    assert market.get(shipment) == facts[-1].event.shipment
    assert [0, 1, 1, 2] == [fact.event.shipment.leg for fact in facts]
