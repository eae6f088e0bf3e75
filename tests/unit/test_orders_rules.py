"""Orders: who may do what, with every refusal, and where the money is after each step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from msgspec.structs import replace
from tests.ledger_harness import DAY_MS, START_MS, make_object
from tests.trade_world import (
    BANKER,
    BUYER,
    CLERK,
    COLLEAGUE,
    COLLEAGUE_TRAY,
    FUNDS_MINOR,
    KETTLE,
    OTHER_BUYER,
    PLATFORM,
    RIVAL,
    RIVAL_MUG,
    SELLER,
    SHIPMENT,
    STRANGER,
    TEAPOT,
    TOTAL_MINOR,
    WITHDRAWN_CUP,
    Market,
    make_place,
    make_terms,
)

from hansa.core.codec import encode
from hansa.core.errors import Malformed, Rejected
from hansa.core.packet import DONE, EXPIRED, REFUSED
from hansa.core.transaction import MAX_TRANSACTION_BYTES
from hansa.service.bank import model as bank
from hansa.service.members import model as members
from hansa.service.orders import model
from hansa.service.orders.model import (
    ERRORS,
    FINAL_STATUSES,
    MAX_LINES,
    MAX_TERM_MS,
    MODULE,
    Accept,
    AcceptReturn,
    Cancel,
    Confirm,
    Decline,
    Dispatch,
    Fund,
    IssueCreditNote,
    LateReport,
    Line,
    LineOffer,
    Refund,
    RefundLine,
    RefuseReturn,
    RequestReturn,
    ReturnLine,
    ShipmentDelivered,
    ShipmentLost,
    ShipmentNotOpened,
    ShipmentRefused,
    Status,
    Trigger,
)
from hansa.service.orders.ports import CancelShipment, OpenShipment
from hansa.service.orders.rules import CREDIT_NOTES, PRODUCTS, SHIPPINGS, compute_amount_minor
from hansa.service.orders.views import CREDIT_NOTES as CREDIT_NOTE_ROWS
from hansa.service.orders.views import KNOWN_PRODUCTS, ORDER_LINES, ORDERS, VIEWS

NO_ORDER = make_object("no order")
TERMS = make_terms()


@dataclass(frozen=True)
class Case:
    """One refused message: who says what about an order in which state, and what he is told."""

    name: str
    error: type[Rejected]
    says: type[Any]
    by: bytes
    status: Status = "placed"
    rest: tuple[Any, ...] = ()
    """Fields after the order's id."""


def _lines(*pairs: tuple[int, int]) -> tuple[tuple[ReturnLine, ...]]:
    return (tuple(ReturnLine(*pair) for pair in pairs),)


def _refunds(*triples: tuple[int, int, int]) -> tuple[tuple[RefundLine, ...]]:
    return (tuple(RefundLine(*triple) for triple in triples),)


CASES = (
    Case("the buyer accepts for the seller", model.NotTheSeller, Accept, BUYER),
    Case("a rival accepts", model.NotTheSeller, Accept, RIVAL),
    Case("a clerk accepts", members.RightMissing, Accept, CLERK),
    Case("accepted twice", model.WrongState, Accept, SELLER, "accepted"),
    Case("a rival declines", model.NotTheSeller, Decline, RIVAL, "placed", ("no",)),
    Case("declined too late", model.WrongState, Decline, SELLER, "accepted", ("no",)),
    Case("the seller funds", model.NotTheBuyer, Fund, SELLER, "accepted"),
    Case("funded before accepted", model.WrongState, Fund, BUYER),
    Case("the buyer dispatches", model.NotTheSeller, Dispatch, BUYER, "funded"),
    Case("dispatched unpaid", model.WrongState, Dispatch, SELLER, "accepted"),
    Case("the seller confirms", model.NotTheBuyer, Confirm, SELLER, "delivered"),
    Case("another buyer confirms", model.NotTheBuyer, Confirm, OTHER_BUYER, "delivered"),
    Case("confirmed before dispatch", model.WrongState, Confirm, BUYER, "funded"),
    Case("a stranger cancels", model.NotTheSeller, Cancel, STRANGER),
    Case("the seller cancels what he can decline", model.WrongState, Cancel, SELLER),
    Case("the buyer cancels what is on its way", model.WrongState, Cancel, BUYER, "dispatched"),
    Case("the seller cancels what is on its way", model.WrongState, Cancel, SELLER, "dispatched"),
    Case(
        "the seller asks for a return",
        model.NotTheBuyer, RequestReturn, SELLER, "delivered", _lines((0, 1)),
    ),
    Case(
        "returned before delivery",
        model.WrongState, RequestReturn, BUYER, "dispatched", _lines((0, 1)),
    ),
    Case(
        "a line claimed twice",
        model.LinesOutOfOrder, RequestReturn, BUYER, "delivered", _lines((0, 1), (0, 1)),
    ),
    Case(
        "lines claimed backwards",
        model.LinesOutOfOrder, RequestReturn, BUYER, "delivered", _lines((1, 1), (0, 1)),
    ),
    Case(
        "a line that is not there",
        model.UnknownLine, RequestReturn, BUYER, "delivered", _lines((3, 1)),
    ),
    Case(
        "more than was ordered",
        model.QuantityTooLarge, RequestReturn, BUYER, "delivered", _lines((0, 3)),
    ),
    Case("the buyer accepts his return", model.NotTheSeller, AcceptReturn, BUYER, "returning"),
    Case("nothing to accept", model.WrongState, AcceptReturn, SELLER, "delivered"),
    Case(
        "the buyer refuses his return",
        model.NotTheSeller, RefuseReturn, BUYER, "returning", ("no",),
    ),
    Case("nothing to refuse", model.WrongState, RefuseReturn, SELLER, "released", ("no",)),
    Case(
        "refunded before release",
        model.WrongState, Refund, SELLER, "delivered", _refunds((0, 1, 1)),
    ),
    Case(
        "the buyer refunds himself",
        model.NotTheSeller, Refund, BUYER, "released", _refunds((0, 1, 1)),
    ),
    Case(
        "a line refunded twice",
        model.LinesOutOfOrder, Refund, SELLER, "released", _refunds((0, 1, 1), (0, 1, 1)),
    ),
    Case(
        "refund of a line that is not there",
        model.UnknownLine, Refund, SELLER, "released", _refunds((3, 1, 1)),
    ),
    Case(
        "more came back than was ordered",
        model.QuantityTooLarge, Refund, SELLER, "released", _refunds((0, 3, 1)),
    ),
    Case(
        "more paid back than was paid",
        model.AmountTooLarge, Refund, SELLER, "released", _refunds((0, 2, 2_470)),
    ),
)  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_refused(case: Case) -> None:
    """What is refused says why, and leaves order, money and deadlines as they were."""
    market = Market()
    order = market.bring_to(case.status)
    before = dict(market.harness.store.data)
    with pytest.raises(case.error):
        market.harness.submit(case.says(order.id, *case.rest), by=case.by)
    assert before == market.harness.store.data


ORDER_MESSAGES: dict[type[Any], tuple[Any, ...]] = {
    Accept: (), Decline: ("",), Fund: (), Dispatch: (), Confirm: (), Cancel: (), AcceptReturn: (),
    RequestReturn: _lines((0, 1)), RefuseReturn: ("",), Refund: _refunds((0, 1, 1)),
}  # fmt: skip


@pytest.mark.parametrize("says", ORDER_MESSAGES, ids=lambda says: says.__name__)
def test_an_unknown_order_is_refused(says: type[Any]) -> None:
    """Every message about an order needs one."""
    with pytest.raises(model.UnknownOrder):
        Market().harness.submit(says(NO_ORDER, *ORDER_MESSAGES[says]), by=BUYER)


def _one(product: bytes, quantity: int = 1, price_e6: int = 1_000_000) -> dict[str, Any]:
    return {"lines": (LineOffer(KETTLE, 1, 10_000), LineOffer(product, quantity, price_e6))}


PLACE_CASES: tuple[tuple[str, type[Rejected], bytes, dict[str, Any]], ...] = (
    ("from himself", model.BuyerIsSeller, SELLER, {}),
    ("accept-by has passed", model.TermsOutOfOrder, BUYER,
     {"terms": replace(TERMS, accept_by_ms=START_MS - 1)}),
    ("fund-by before accept-by", model.TermsOutOfOrder, BUYER,
     {"terms": replace(TERMS, fund_by_ms=TERMS.accept_by_ms - 1)}),
    ("ship-by before fund-by", model.TermsOutOfOrder, BUYER,
     {"terms": replace(TERMS, ship_by_ms=TERMS.fund_by_ms - 1)}),
    ("deliver-by with ship-by", model.TermsOutOfOrder, BUYER,
     {"terms": replace(TERMS, deliver_by_ms=TERMS.ship_by_ms)}),
    ("deliver-by beyond two years", model.TermsTooLong, BUYER,
     {"terms": replace(TERMS, deliver_by_ms=START_MS + MAX_TERM_MS + 1)}),
    ("a currency nobody issues", bank.UnknownCurrency, BUYER, {"currency": "EUR"}),
    ("less than half a penny", model.AmountTooSmall, BUYER, _one(TEAPOT, 1, 4_999)),
    ("no price", model.AmountTooSmall, BUYER, _one(TEAPOT, 1, 0)),
    ("a line too dear", model.TotalTooLarge, BUYER, _one(TEAPOT, 2**32 - 1, 2**63 - 1)),
    ("lines too dear together", model.TotalTooLarge, BUYER,
     _one(TEAPOT, 10**9, 10**10)),
    ("an unknown buyer", members.UnknownAccount, STRANGER, {}),
    ("an unknown seller", members.UnknownAccount, BUYER, {"seller": STRANGER}),
    ("a seller who may not sell", members.RightMissing, BUYER, {"seller": CLERK}),
    ("goods nobody listed", model.UnknownProduct, BUYER, _one(make_object("a unicorn"))),
    ("withdrawn goods", model.ProductWithdrawn, BUYER, _one(WITHDRAWN_CUP)),
    ("a rival's goods", model.ForeignProduct, BUYER, _one(RIVAL_MUG)),
)  # fmt: skip


@pytest.mark.parametrize(
    ("error", "by", "changes"),
    [case[1:] for case in PLACE_CASES],
    ids=[case[0] for case in PLACE_CASES],
)
def test_not_placed(error: type[Rejected], by: bytes, changes: dict[str, Any]) -> None:
    """An order that is not in order is refused and leaves nothing."""
    market = Market()
    before = dict(market.harness.store.data)
    with pytest.raises(error):
        market.harness.submit(make_place(**changes), by=by)
    assert before == market.harness.store.data


CREDIT_NOTE = IssueCreditNote(BUYER, "GBP", 250, "CN 7", "late")
CREDIT_NOTE_CASES: tuple[tuple[str, type[Rejected], bytes, dict[str, Any]], ...] = (
    ("to himself", model.BuyerIsSeller, SELLER, {"buyer": SELLER}),
    ("by one who may not sell", members.RightMissing, CLERK, {}),
    ("to nobody", model.UnknownBuyer, SELLER, {"buyer": STRANGER}),
    ("beyond his balance", bank.InsufficientFunds, SELLER, {"amount_minor": FUNDS_MINOR + 1}),
    ("in a currency nobody issues", bank.UnknownCurrency, SELLER, {"currency": "EUR"}),
)


@pytest.mark.parametrize(
    ("error", "by", "changes"),
    [case[1:] for case in CREDIT_NOTE_CASES],
    ids=[case[0] for case in CREDIT_NOTE_CASES],
)
def test_no_credit_note(error: type[Rejected], by: bytes, changes: dict[str, Any]) -> None:
    """A credit note is paid by one who sells, has the money, and knows whom he pays."""
    market = Market()
    with pytest.raises(error):
        market.harness.submit(replace(CREDIT_NOTE, **changes), by=by)
    assert {} == market.harness.rows(CREDIT_NOTES)


DELIVERED = encode(ShipmentDelivered(NO_ORDER, SHIPMENT, START_MS))
LISTED = encode(model.ProductListed(KETTLE, SELLER, 9, True, "Kettle", "", ""))
PACKET_CASES: tuple[tuple[str, type[Rejected], str, bytes], ...] = (
    ("a product from logistics", model.WrongSource, "logistics", LISTED),
    ("a delivery from the catalogue", model.WrongSource, "product", DELIVERED),
    ("a delivery from elsewhere", model.WrongSource, "anchor", DELIVERED),
    ("an order nobody placed", model.UnknownOrder, "logistics", DELIVERED),
    ("a byte too many", model.MalformedPacket, "logistics", DELIVERED + b"\0"),
    ("a packet of another module", model.MalformedPacket, "logistics",
     encode(CancelShipment(NO_ORDER))),
    ("nothing", model.MalformedPacket, "product", b""),
)  # fmt: skip


@pytest.mark.parametrize(
    ("error", "source", "payload"),
    [case[1:] for case in PACKET_CASES],
    ids=[case[0] for case in PACKET_CASES],
)
def test_packet_refused(error: type[Rejected], source: str, payload: bytes) -> None:
    """A packet is believed from one chain only, and only if every byte is in its place."""
    market = Market()
    before = dict(market.harness.store.data)
    with pytest.raises(error):
        market.harness.deliver(source, MODULE, payload)
    assert before == market.harness.store.data


def test_every_error_is_tested() -> None:
    """Each error of the module is some case's, and its number is the module's and its own."""
    tested = {case.error for case in CASES} | {model.UnknownOrder, model.TooLate}
    for cases in (PLACE_CASES, CREDIT_NOTE_CASES, PACKET_CASES):
        tested |= {case[1] for case in cases}
    assert set() == set(ERRORS) - tested
    assert list(range(5_001, 5_001 + len(ERRORS))) == [error.number for error in ERRORS]


def test_too_late_names_the_deadline() -> None:
    """A message after its state's deadline is refused though the deadline has not run yet."""
    market = Market()
    order = market.place()
    market.harness.time_ms = order.deadline_ms + 1
    with pytest.raises(model.TooLate, match=str(order.deadline_ms)):
        market.harness.submit(Accept(order.id), by=SELLER)


# Where the money is.

FLOWS: tuple[tuple[tuple[Trigger, ...], int, Status, int], ...] = (
    # what happens, how many kettles of the first line go back, the end, what the seller gets
    (("accept", "fund", "dispatch", "shipment delivered", "confirm"), 0, "released", 5_438),
    (("accept", "fund", "dispatch", "confirm"), 0, "released", 5_438),
    (("accept", "fund", "dispatch", "shipment delivered", "deadline"), 0, "released", 5_438),
    (("accept", "fund", "shipment delivered", "deadline"), 0, "released", 5_438),
    (("accept", "fund", "dispatch", "deadline"), 0, "refunded", 0),
    (("accept", "fund", "deadline"), 0, "refunded", 0),
    (("accept", "fund", "cancel by buyer"), 0, "refunded", 0),
    (("accept", "fund", "cancel by seller"), 0, "refunded", 0),
    (("accept", "fund", "dispatch", "shipment lost"), 0, "refunded", 0),
    (("accept", "fund", "dispatch", "shipment refused"), 0, "refunded", 0),
    (("accept", "fund", "shipment not opened"), 0, "refunded", 0),
    (("accept", "cancel by buyer"), 0, "cancelled", 0),
    (("accept", "cancel by seller"), 0, "cancelled", 0),
    (("accept", "deadline"), 0, "lapsed", 0),
    (("accept", "fund", "shipment delivered", "request return", "accept return"),
     1, "released", 5_438 - 1_235),
    (("accept", "fund", "shipment delivered", "request return", "deadline"),
     2, "released", 5_438 - 2_469),
    (("accept", "fund", "shipment delivered", "request return", "refuse return"),
     2, "released", 5_438),
    (("accept", "fund", "dispatch", "confirm", "refund"), 0, "released", 5_438 - 100),
)  # fmt: skip


@pytest.mark.parametrize(("triggers", "quantity", "status", "seller_minor"), FLOWS)
def test_where_the_money_ends(
    triggers: tuple[Trigger, ...], quantity: int, status: Status, seller_minor: int
) -> None:
    """54.38 pounds: what the seller does not get the buyer has, and nothing stays held."""
    market = Market()
    order = market.place()
    assert 5_438 == TOTAL_MINOR == order.total_minor
    for trigger in triggers:
        market.pull(order, trigger, quantity=quantity)
    order = market.get(order)
    assert status == order.status
    assert FUNDS_MINOR + seller_minor == market.own_minor(SELLER)
    assert FUNDS_MINOR - seller_minor == market.own_minor(BUYER)
    if order.hold is not None:
        assert order.refunded_minor == TOTAL_MINOR - seller_minor
    assert sum(line.refunded_minor for line in market.get_lines(order)) == (
        order.refunded_minor if status == "released" else 0
    )
    assert 0 == market.held_minor()
    assert market.find_unsound() is None


AMOUNTS = (
    # quantity, price in millionths, digits of the minor unit, minor units
    (1, 2_550_000, 2, 255),
    (3, 1_000_000, 2, 300),
    (1, 5_000, 2, 1),
    (1, 4_999, 2, 0),
    (3, 335_000, 2, 101),
    (1, 1_500_000, 0, 2),
    (1, 1_499_999, 0, 1),
    (7, 1_234_567, 3, 8_642),
    (80_995, 2_080_000, 2, 16_846_960),
)


@pytest.mark.parametrize(("quantity", "price_e6", "exponent", "amount_minor"), AMOUNTS)
def test_amounts_are_rounded_half_up(
    quantity: int, price_e6: int, exponent: int, amount_minor: int
) -> None:
    """Quantity times price, to the minor unit of the currency."""
    assert amount_minor == compute_amount_minor(quantity, price_e6, exponent)


def test_a_placed_order_says_all() -> None:
    """The first event carries the whole order and its lines, identical ones included."""
    market = Market()
    event = market.harness.submit(make_place(), by=BUYER)[0]
    kettles = Line(KETTLE, 2, 12_345_000, 2_469, 0, 0, 0)
    teapots = Line(TEAPOT, 4, 1_250_000, 500, 0, 0, 0)
    assert (kettles, teapots, kettles) == event.lines == market.get_lines(event.order)
    assert event.order == market.get(event.order)
    assert (BUYER, SELLER, "placed", -1_000, 3) == (
        event.order.buyer,
        event.order.seller,
        event.order.status,
        event.order.dated_ms,
        event.order.line_count,
    )


def test_funding_opens_the_shipment() -> None:
    """Logistics is told parties, countries and times, until the day the goods must ship."""
    market = Market()
    order = market.bring_to("funded")
    (sent,) = market.link.sent
    opening = OpenShipment(
        order.id, SELLER, BUYER, "GB", "CN", TERMS.ship_by_ms, TERMS.deliver_by_ms, order.address
    )
    assert ("logistics", 6, encode(opening), TERMS.ship_by_ms) == (
        sent.destination,
        sent.module,
        sent.payload,
        sent.deadline_ms,
    )
    market.harness.acknowledge("logistics", MODULE, sent.sequence, DONE)
    assert "funded" == market.get(order).status
    assert {} == market.harness.rows(SHIPPINGS)


@pytest.mark.parametrize("outcome", [REFUSED, EXPIRED])
def test_a_shipment_that_is_not_opened_after_dispatch_waits(outcome: int) -> None:
    """Once dispatched, the goods are on their way: the order's own deadline decides."""
    market = Market()
    order = market.bring_to("dispatched")
    events = market.harness.acknowledge("logistics", MODULE, 0, outcome, 6_099)
    assert [ShipmentNotOpened(order.id, 6_099)] == events
    assert order == market.get(order)
    assert [] == market.harness.acknowledge("logistics", MODULE, 0, outcome)


def test_cancelling_calls_the_shipment_off() -> None:
    """Logistics is told, and where it can't be reached the money goes back all the same."""
    for peers, packets in ((("logistics",), 2), ((), 1)):
        market = Market()
        order = market.bring_to("funded")
        market.link.peers = peers
        market.pull(order, "cancel by buyer")
        assert packets == len(market.link.sent)
        assert "refunded" == market.get(order).status
    assert [] == market.harness.acknowledge("logistics", MODULE, 1, REFUSED)


@pytest.mark.parametrize("status", FINAL_STATUSES)
@pytest.mark.parametrize("report", [ShipmentDelivered, ShipmentLost, ShipmentRefused])
def test_a_late_report_moves_no_money(status: Status, report: type[Any]) -> None:
    """What logistics says of an order that is over is recorded, and that is all."""
    market = Market()
    order = market.bring_to(status)
    funds = (market.own_minor(SELLER), market.own_minor(BUYER))
    fields: dict[type[Any], tuple[Any, ...]] = {
        ShipmentDelivered: (START_MS,), ShipmentLost: ("storm",), ShipmentRefused: (),
    }  # fmt: skip
    (event,) = market.harness.deliver(
        "logistics", MODULE, encode(report(order.id, SHIPMENT, *fields[report]))
    )
    assert isinstance(event, LateReport)
    assert (order.id, SHIPMENT, status) == (event.order, event.shipment, event.status)
    assert order == market.get(order)
    assert funds == (market.own_minor(SELLER), market.own_minor(BUYER))


def test_inspection_counts_from_this_chains_clock() -> None:
    """However late the packet is carried, the buyer has the whole window."""
    market = Market()
    order = market.bring_to("dispatched")
    market.harness.advance(10 * DAY_MS)
    market.pull(order, "shipment delivered")
    assert market.harness.time_ms + 14 * DAY_MS == market.get(order).deadline_ms


def test_a_colleague_acts_for_the_seller() -> None:
    """Any account of the seller's that may sell acts; for a refund, who signs pays."""
    market = Market()
    order = market.place(lines=(LineOffer(COLLEAGUE_TRAY, 1, 9_000_000),))
    market.harness.submit(Accept(order.id), by=COLLEAGUE)
    market.harness.submit(Fund(order.id), by=BUYER)
    market.harness.submit(Dispatch(order.id), by=COLLEAGUE)
    market.harness.submit(Confirm(order.id), by=BUYER)
    market.harness.submit(Refund(order.id, (RefundLine(0, 1, 400),)), by=COLLEAGUE)
    assert FUNDS_MINOR + 900 == market.own_minor(SELLER)
    assert FUNDS_MINOR - 400 == market.own_minor(COLLEAGUE)
    assert FUNDS_MINOR - 500 == market.own_minor(BUYER)


def test_refunds_add_up_to_what_was_paid() -> None:
    """A line is refunded in parts, each with its goods, up to its quantity and amount."""
    market = Market()
    order = market.bring_to("released")
    for quantity, amount_minor in ((1, 1_000), (0, 469), (1, 1_000)):
        lines = (RefundLine(0, quantity, amount_minor),)
        market.harness.submit(Refund(order.id, lines), by=SELLER)
    assert 2_469 == market.get(order).refunded_minor
    assert Line(KETTLE, 2, 12_345_000, 2_469, 0, 2, 2_469) == market.get_lines(order)[0]
    for lines, error in (
        ((RefundLine(0, 1, 1),), model.QuantityTooLarge),
        ((RefundLine(0, 0, 1),), model.AmountTooLarge),
    ):
        with pytest.raises(error):
            market.harness.submit(Refund(order.id, lines), by=SELLER)


def test_a_suspended_seller_can_only_give_back() -> None:
    """He takes on and sends nothing more, but may cancel; the escrow ends without him."""
    market = Market()
    placed, funded = market.place(), market.bring_to("funded")
    seller = members.compute_founder_id(SELLER)
    proposal = market.harness.submit(members.Propose(members.Suspend(seller, "")), by=RIVAL)
    vote = members.Vote(proposal[0].proposal.id, True)
    market.harness.submit(vote, by=PLATFORM)
    market.harness.submit(vote, by=BANKER)
    for message in (Accept(placed.id), Dispatch(funded.id)):
        with pytest.raises(members.OrganisationSuspended):
            market.harness.submit(message, by=SELLER)
    with pytest.raises(members.OrganisationSuspended):
        market.place()
    market.harness.submit(Cancel(funded.id), by=SELLER)
    assert "refunded" == market.get(funded).status


def test_a_credit_note_is_paid_and_kept() -> None:
    """The buyer has the money, and the note is a record of its own."""
    market = Market()
    (*_, event) = market.harness.submit(CREDIT_NOTE, by=SELLER)
    note = event.credit_note
    assert note == market.harness.get(CREDIT_NOTES, note.id)
    assert (SELLER, BUYER, 250, "CN 7") == (
        note.seller,
        note.buyer,
        note.amount_minor,
        note.reference,
    )
    assert FUNDS_MINOR + 250 == market.own_minor(BUYER)


def test_only_a_newer_listing_is_taken() -> None:
    """A product's listing that was sent again late does not undo what came after it."""
    market = Market()
    assert 1 == len(market.list_product(KETTLE, SELLER, 3, is_listed=False))
    assert [] == market.list_product(KETTLE, SELLER, 2)
    assert [] == market.list_product(KETTLE, SELLER, 3)
    known = market.harness.get(PRODUCTS, KETTLE)
    assert known is not None
    assert (3, False) == (known.revision, known.is_listed)
    assert 1 == len(market.list_product(KETTLE, SELLER, 4))


# What can be asked.


def test_the_views_show_each_order_as_it_is() -> None:
    """Orders, lines, credit notes and products in SQL are what the state holds."""
    market = Market()
    orders = [market.bring_to(status) for status in ("placed", "returning", "released")]
    market.pull(orders[1], "accept return")
    market.harness.submit(CREDIT_NOTE, by=SELLER)
    rows = {row["id"]: row for row in market.harness.view(ORDERS)}
    for order in orders:
        record, row = market.get(order), rows[order.id.hex()]
        assert (record.status, record.refunded_minor, record.deadline_ms) == (
            row["status"],
            row["refunded_minor"],
            row["deadline_ms"],
        )
    lines = market.harness.view(ORDER_LINES)
    assert 9 == len(lines)
    for order in orders:
        shown = [line for line in lines if line["order_id"] == order.id.hex()]
        assert [
            (line.product.hex(), line.amount_minor, line.returned, line.refunded_minor)
            for line in market.get_lines(order)
        ] == [
            (line["product"], line["amount_minor"], line["returned"], line["refunded_minor"])
            for line in shown
        ]
    assert [250] == [row["amount_minor"] for row in market.harness.view(CREDIT_NOTE_ROWS)]
    assert 5 == len(market.harness.view(KNOWN_PRODUCTS))


def test_every_event_is_projected() -> None:
    """No event of the module is lost on the read model."""
    assert set(model.EVENTS) == set(VIEWS.projections)


def test_a_thousand_lines_fit() -> None:
    """The longest order fits a transaction and its events; one line more is refused at the door."""
    market = Market()
    lines = tuple(LineOffer(KETTLE, 4_294, 2_000_000 + number) for number in range(MAX_LINES))
    assert len(encode(make_place(lines=lines))) < MAX_TRANSACTION_BYTES - 512
    order = market.place(lines=lines, terms=make_terms())
    assert MAX_LINES == order.line_count == len(market.get_lines(order))
    with pytest.raises(Malformed):
        market.place(lines=(*lines, lines[0]))
