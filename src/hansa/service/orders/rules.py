"""The verbs of an order: from placing to the release of the money, and back again."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from msgspec.structs import replace

from hansa.core.codec import encode, make_decoder
from hansa.core.errors import Malformed
from hansa.core.module import Context, Deadlines, Module
from hansa.core.packet import DONE, Acknowledgement
from hansa.core.readmodel import Views
from hansa.core.state import Table
from hansa.service.orders.model import (
    ERRORS,
    EVENTS,
    FINAL_STATUSES,
    MAX_TERM_MS,
    MAX_TOTAL_MINOR,
    MODULE,
    STATUSES,
    TARGETS,
    TRANSITIONS,
    Accept,
    Accepted,
    AcceptReturn,
    AmountTooLarge,
    AmountTooSmall,
    BuyerIsSeller,
    Cancel,
    Cancelled,
    Cause,
    ChangedLine,
    Confirm,
    CreditNote,
    CreditNoteIssued,
    Decline,
    Declined,
    Delivered,
    Dispatch,
    Dispatched,
    ForeignProduct,
    Fund,
    Funded,
    IssueCreditNote,
    Lapsed,
    LateReport,
    Line,
    LineOffer,
    LinesOutOfOrder,
    LinesRefunded,
    MalformedPacket,
    NotTheBuyer,
    NotTheSeller,
    Order,
    OrderLines,
    OrdersParams,
    Place,
    Placed,
    ProductKnown,
    ProductListed,
    ProductWithdrawn,
    QuantityTooLarge,
    Refund,
    Refunded,
    RefundLine,
    RefuseReturn,
    Released,
    RequestReturn,
    ReturnLine,
    ReturnRequested,
    ShipmentDelivered,
    ShipmentLost,
    ShipmentNotOpened,
    ShipmentRefused,
    ShipmentReport,
    Shipping,
    Status,
    Terms,
    TermsOutOfOrder,
    TermsTooLong,
    TooLate,
    TotalTooLarge,
    Trigger,
    UnknownBuyer,
    UnknownLine,
    UnknownOrder,
    UnknownProduct,
    WrongSource,
    WrongState,
)
from hansa.service.orders.ports import (
    SELL,
    SHIPMENTS_MODULE,
    Bank,
    CancelShipment,
    Link,
    Members,
    OpenShipment,
)

SETTINGS: Final = Table(MODULE, 0, OrdersParams)
"""Under the empty key."""
ORDERS: Final = Table(MODULE, 1, Order)
"""By order id."""
LINES: Final = Table(MODULE, 2, OrderLines)
"""By order id."""
PRODUCTS: Final = Table(MODULE, 3, ProductListed)
"""By product id, as the catalogue last told."""
SHIPPINGS: Final = Table(MODULE, 4, Shipping)
"""By destination, 0x00 and the sequence of the OpenShipment, until it is acknowledged."""
CREDIT_NOTES: Final = Table(MODULE, 5, CreditNote)
"""By credit note id."""
DEADLINES: Final = Deadlines(MODULE)
"""By order id and the number of its state, so that the deadline of a state left behind is void."""

STATUS_BYTES: Final = {status: bytes((number,)) for number, status in enumerate(STATUSES)}
REPORT_TRIGGERS: Final[dict[type[Any], Trigger]] = {
    ShipmentDelivered: "shipment delivered",
    ShipmentLost: "shipment lost",
    ShipmentRefused: "shipment refused",
}

_decode_packet: Callable[[bytes], ProductListed | ShipmentReport] = make_decoder(
    ProductListed | ShipmentReport, "packet"
)


class OrdersRules:
    """What buyers and sellers may do with an order, and what time does without them."""

    def __init__(self, members: Members, bank: Bank, link: Link) -> None:
        self.members = members
        self.bank = bank
        self.link = link

    def start(self, ctx: Context, params: OrdersParams) -> None:
        """Keep what the genesis says."""
        SETTINGS.put(ctx, b"", params)

    # Messages of both sides, in the order of a life.

    def place(self, ctx: Context, msg: Place) -> None:
        """Place an order with a seller; nothing is owed yet.

        Raises: BuyerIsSeller, TermsOutOfOrder, TermsTooLong, the bank's error about the currency,
        AmountTooSmall, TotalTooLarge, the errors of members, UnknownProduct, ProductWithdrawn,
        ForeignProduct.
        """
        # CHECKS
        buyer = ctx.signer
        if buyer == msg.seller:
            raise BuyerIsSeller(given=msg.seller)
        _check_terms(ctx.time_ms, msg.terms)
        exponent = self.bank.get_exponent(ctx, msg.currency)
        lines = tuple([_make_line(i, offer, exponent) for i, offer in enumerate(msg.lines)])
        total_minor = sum([line.amount_minor for line in lines])
        if total_minor > MAX_TOTAL_MINOR:
            raise TotalTooLarge(expected=MAX_TOTAL_MINOR, given=total_minor)
        self.members.require_party(ctx, buyer)
        organisation = self.members.require(ctx, msg.seller, SELL)
        self._check_products(ctx, msg, organisation)
        # EFFECTS
        order = Order(
            id=ctx.new_id(),
            reference=msg.reference,
            buyer=buyer,
            seller=msg.seller,
            organisation=organisation,
            status="placed",
            deadline_ms=msg.terms.accept_by_ms,
            currency=msg.currency,
            total_minor=total_minor,
            refunded_minor=0,
            hold=None,
            terms=msg.terms,
            origin=msg.origin,
            destination=msg.destination,
            address=msg.address,
            line_count=len(lines),
            dated_ms=msg.dated_ms,
            placed_ms=ctx.time_ms,
            updated_ms=ctx.time_ms,
        )
        ORDERS.put(ctx, order.id, order)
        LINES.put(ctx, order.id, OrderLines(exponent, lines))
        DEADLINES.schedule(ctx, order.deadline_ms, order.id + STATUS_BYTES["placed"])
        # EVENTS
        ctx.emit(Placed(order, lines))

    def accept(self, ctx: Context, msg: Accept) -> None:
        """Take an order on.

        Raises: UnknownOrder, WrongState, TooLate, NotTheSeller, the errors of members.
        """
        # CHECKS
        order = _get_order(ctx, msg.order, "accept")
        self.members.require(ctx, self._get_seller(ctx, order), SELL)
        # EFFECTS
        order = _move(ctx, order, "accept", "accepted", order.terms.fund_by_ms)
        # EVENTS
        ctx.emit(Accepted(order))

    def decline(self, ctx: Context, msg: Decline) -> None:
        """Leave an order to others.

        Raises: UnknownOrder, WrongState, TooLate, NotTheSeller.
        """
        # CHECKS
        order = _get_order(ctx, msg.order, "decline")
        self._get_seller(ctx, order)
        # EFFECTS
        order = _move(ctx, order, "decline", "declined")
        # EVENTS
        ctx.emit(Declined(order, msg.reason))

    def fund(self, ctx: Context, msg: Fund) -> None:
        """Pay the total into escrow and open the shipment.

        Raises: UnknownOrder, WrongState, TooLate, NotTheBuyer, the errors of bank, those of link.
        """
        # CHECKS
        order = _get_order(ctx, msg.order, "fund")
        _check_buyer(ctx, order)
        # EFFECTS
        hold = self.bank.open_hold(
            ctx, order.buyer, order.currency, order.total_minor, None, order.id
        )
        order = _move(ctx, order, "fund", "funded", order.terms.ship_by_ms, hold=hold)
        self._open_shipment(ctx, order)
        # EVENTS
        ctx.emit(Funded(order))

    def dispatch(self, ctx: Context, msg: Dispatch) -> None:
        """Say that the goods are on their way; from now on neither side can cancel.

        Raises: UnknownOrder, WrongState, TooLate, NotTheSeller, the errors of members.
        """
        # CHECKS
        order = _get_order(ctx, msg.order, "dispatch")
        self.members.require(ctx, self._get_seller(ctx, order), SELL)
        # EFFECTS
        order = _move(ctx, order, "dispatch", "dispatched", order.terms.deliver_by_ms)
        # EVENTS
        ctx.emit(Dispatched(order))

    def confirm(self, ctx: Context, msg: Confirm) -> None:
        """Be content: the money goes to the seller.

        Raises: UnknownOrder, WrongState, TooLate, NotTheBuyer.
        """
        # CHECKS
        order = _get_order(ctx, msg.order, "confirm")
        _check_buyer(ctx, order)
        # EFFECTS, EVENTS
        self._release(ctx, order, "confirm", "confirmed")

    def cancel(self, ctx: Context, msg: Cancel) -> None:
        """Step back before the goods are dispatched; what is in escrow goes back whole.

        The buyer may while the order is placed, accepted or funded; the seller once he has
        accepted (before that he declines). Who signs for both steps back as the buyer.

        Raises: UnknownOrder, NotTheSeller, WrongState, TooLate.
        """
        # CHECKS
        order = _find_order(ctx, msg.order)
        is_buyer = order.buyer in ctx.signers
        if not is_buyer:
            self._get_seller(ctx, order)
        trigger: Trigger = "cancel by buyer" if is_buyer else "cancel by seller"
        _check_state(ctx, order, trigger)
        # EFFECTS, EVENTS
        if order.hold is None:
            order = _move(ctx, order, trigger, "cancelled")
            ctx.emit(Cancelled(order, "buyer" if is_buyer else "seller"))
            return
        self._cancel_shipment(ctx, order)
        cause: Cause = "cancelled by buyer" if is_buyer else "cancelled by seller"
        self._refund_all(ctx, order, trigger, cause)

    # Messages about goods that go back.

    def request_return(self, ctx: Context, msg: RequestReturn) -> None:
        """Ask to send goods back within the inspection window; the escrow waits for the answer.

        Raises: UnknownOrder, WrongState, TooLate, NotTheBuyer, LinesOutOfOrder, UnknownLine,
        QuantityTooLarge.
        """
        # CHECKS
        order = _get_order(ctx, msg.order, "request return")
        _check_buyer(ctx, order)
        _check_indexes(msg.lines, order.line_count)
        record = _get_lines(ctx, order)
        changed = tuple([_claim_line(item, record.lines[item.line]) for item in msg.lines])
        # EFFECTS
        LINES.put(ctx, order.id, _change_lines(record, changed))
        answer_by_ms = ctx.time_ms + _get_settings(ctx).return_answer_ms
        order = _move(ctx, order, "request return", "returning", answer_by_ms)
        # EVENTS
        ctx.emit(ReturnRequested(order, changed))

    def accept_return(self, ctx: Context, msg: AcceptReturn) -> None:
        """Take the claimed goods back: their price goes to the buyer, the rest to the seller.

        Raises: UnknownOrder, WrongState, TooLate, NotTheSeller.
        """
        # CHECKS
        order = _get_order(ctx, msg.order, "accept return")
        self._get_seller(ctx, order)
        # EFFECTS, EVENTS
        self._settle_return(ctx, order, "accept return", "return accepted")

    def refuse_return(self, ctx: Context, msg: RefuseReturn) -> None:
        """Take nothing back: the money goes to the seller whole.

        Raises: UnknownOrder, WrongState, TooLate, NotTheSeller.
        """
        # CHECKS
        order = _get_order(ctx, msg.order, "refuse return")
        self._get_seller(ctx, order)
        # EFFECTS
        record = _get_lines(ctx, order)
        changed = _close_claims(record, is_taken_back=False)
        LINES.put(ctx, order.id, _change_lines(record, changed))
        # EVENTS
        self._release(ctx, order, "refuse return", "return refused", changed, msg.reason)

    def refund(self, ctx: Context, msg: Refund) -> None:
        """Pay the buyer back after the release, line by line.

        Raises: UnknownOrder, WrongState, NotTheSeller, LinesOutOfOrder, UnknownLine,
        QuantityTooLarge, AmountTooLarge, the errors of bank.
        """
        # CHECKS
        order = _get_order(ctx, msg.order, "refund")
        payer = self._get_seller(ctx, order)
        _check_indexes(msg.lines, order.line_count)
        record = _get_lines(ctx, order)
        changed = tuple([_refund_line(item, record.lines[item.line]) for item in msg.lines])
        amount_minor = sum([item.amount_minor for item in msg.lines])
        # EFFECTS
        # The reference is an id of its own, since a seller may refund one order several times.
        self.bank.transfer(ctx, payer, order.buyer, order.currency, amount_minor, ctx.new_id())
        LINES.put(ctx, order.id, _change_lines(record, changed))
        refunded_minor = order.refunded_minor + amount_minor
        order = _move(ctx, order, "refund", "released", refunded_minor=refunded_minor)
        # EVENTS
        ctx.emit(LinesRefunded(order, payer, amount_minor, changed))

    def issue_credit_note(self, ctx: Context, msg: IssueCreditNote) -> None:
        """Pay a buyer for something that no order covers.

        Raises: BuyerIsSeller, the errors of members, UnknownBuyer, the errors of bank.
        """
        # CHECKS
        seller = ctx.signer
        if seller == msg.buyer:
            raise BuyerIsSeller(given=msg.buyer)
        organisation = self.members.require(ctx, seller, SELL)
        if self.members.get_holder(ctx, msg.buyer) is None:
            raise UnknownBuyer(given=msg.buyer)
        # EFFECTS
        note = CreditNote(
            id=ctx.new_id(),
            seller=seller,
            organisation=organisation,
            buyer=msg.buyer,
            currency=msg.currency,
            amount_minor=msg.amount_minor,
            reference=msg.reference,
            reason=msg.reason,
            issued_ms=ctx.time_ms,
        )
        self.bank.transfer(ctx, seller, msg.buyer, msg.currency, msg.amount_minor, note.id)
        CREDIT_NOTES.put(ctx, note.id, note)
        # EVENTS
        ctx.emit(CreditNoteIssued(note))

    # What time does.

    def handle_deadline(self, ctx: Context, key: bytes) -> None:
        """Leave a state whose time is over; nobody has to be there."""
        order = ORDERS.get(ctx, key[:16])
        assert order is not None, "orders are never deleted"
        if key[16:] != STATUS_BYTES[order.status]:
            return
        match order.status:
            case "placed" | "accepted":
                ctx.emit(Lapsed(_move(ctx, order, "deadline", "lapsed")))
            case "funded":
                self._refund_all(ctx, order, "deadline", "not dispatched in time")
            case "dispatched":
                self._refund_all(ctx, order, "deadline", "not delivered in time")
            case "delivered":
                self._release(ctx, order, "deadline", "inspection over")
            case "returning":
                self._settle_return(ctx, order, "deadline", "return unanswered")
            case status:
                raise AssertionError(f"no deadline waits for an order that is {status}")

    # Packets.

    def handle_packet(self, ctx: Context, source: str, payload: bytes) -> None:
        """Take what the catalogue says of a product, or logistics of a shipment.

        Raises: MalformedPacket, WrongSource, UnknownOrder.
        """
        # CHECKS
        try:
            packet = _decode_packet(payload)
        except Malformed:
            # The codec's words differ between its versions, and this text is part of a receipt.
            raise MalformedPacket(given=len(payload)) from None
        settings = _get_settings(ctx)
        is_product = isinstance(packet, ProductListed)
        expected = settings.catalogue_chain if is_product else settings.logistics_chain
        if source != expected:
            raise WrongSource(expected=expected, given=source)
        # EFFECTS, EVENTS
        if isinstance(packet, ProductListed):
            _learn_product(ctx, packet)
        else:
            self._take_report(ctx, packet)

    def handle_acknowledgement(
        self, ctx: Context, destination: str, sequence: int, ack: Acknowledgement
    ) -> None:
        """Refund an order whose shipment was not opened, if it has not been dispatched yet."""
        # CHECKS
        place = _shipping_place(destination, sequence)
        shipping = SHIPPINGS.get(ctx, place)
        if shipping is None:
            return  # The answer to a CancelShipment, which changes nothing.
        # EFFECTS, EVENTS
        SHIPPINGS.delete(ctx, place)
        if ack.outcome == DONE:
            return
        ctx.emit(ShipmentNotOpened(shipping.order, ack.number))
        order = _find_order(ctx, shipping.order)
        if _is_open_to(ctx, order, "shipment not opened"):
            self._refund_all(ctx, order, "shipment not opened", "shipment not opened")

    def _take_report(self, ctx: Context, report: ShipmentReport) -> None:
        """Act on a report while the order waits for it; else record that it came."""
        order = _find_order(ctx, report.order)
        trigger = REPORT_TRIGGERS[type(report)]
        if not _is_open_to(ctx, order, trigger):
            ctx.emit(LateReport(order.id, report.shipment, trigger, order.status))
        elif isinstance(report, ShipmentDelivered):
            # Counted on this chain's clock: a packet carried late must not eat the buyer's time.
            inspect_by_ms = ctx.time_ms + order.terms.inspection_ms
            order = _move(ctx, order, trigger, "delivered", inspect_by_ms)
            ctx.emit(Delivered(order, report.shipment, report.delivered_ms))
        elif isinstance(report, ShipmentLost):
            self._refund_all(ctx, order, trigger, "shipment lost")
        else:
            self._refund_all(ctx, order, trigger, "shipment refused")

    # How escrow ends.

    def _release(
        self, ctx: Context, order: Order, trigger: Trigger, cause: Cause,
        lines: tuple[ChangedLine, ...] = (), reason: str = "",
    ) -> None:  # fmt: skip
        """Pay the seller all that is held."""
        assert order.hold is not None, "money is released out of escrow"
        self.bank.post_hold(ctx, order.hold, order.seller, order.total_minor)
        order = _move(ctx, order, trigger, "released")
        ctx.emit(Released(order, cause, reason, lines))

    def _refund_all(
        self, ctx: Context, order: Order, trigger: Trigger, cause: Cause,
        lines: tuple[ChangedLine, ...] = (),
    ) -> None:  # fmt: skip
        """Give the buyer back all that is held."""
        assert order.hold is not None, "money is refunded out of escrow"
        self.bank.void_hold(ctx, order.hold)
        order = _move(ctx, order, trigger, "refunded", refunded_minor=order.total_minor)
        ctx.emit(Refunded(order, cause, lines))

    def _settle_return(self, ctx: Context, order: Order, trigger: Trigger, cause: Cause) -> None:
        """Give the price of the claimed goods back and the rest to the seller."""
        assert order.hold is not None, "only a funded order is delivered"
        record = _get_lines(ctx, order)
        changed = _close_claims(record, is_taken_back=True)
        LINES.put(ctx, order.id, _change_lines(record, changed))
        back_minor = sum([item.line.refunded_minor for item in changed])
        if back_minor == order.total_minor:
            self._refund_all(ctx, order, trigger, cause, changed)
            return
        if back_minor == 0:
            self._release(ctx, order, trigger, cause, changed)
            return
        self.bank.post_hold(ctx, order.hold, order.seller, order.total_minor - back_minor)
        self.bank.void_hold(ctx, order.hold)
        order = _move(ctx, order, trigger, "released", refunded_minor=back_minor)
        ctx.emit(Released(order, cause, "", changed))

    # What logistics is told.

    def _open_shipment(self, ctx: Context, order: Order) -> None:
        terms = order.terms
        packet = OpenShipment(
            order=order.id,
            seller=order.seller,
            buyer=order.buyer,
            origin=order.origin,
            destination=order.destination,
            ship_by_ms=terms.ship_by_ms,
            deliver_by_ms=terms.deliver_by_ms,
            address=order.address,
        )
        chain = _get_settings(ctx).logistics_chain
        payload = encode(packet)
        sequence = self.link.send(ctx, chain, SHIPMENTS_MODULE, payload, terms.ship_by_ms)
        SHIPPINGS.put(ctx, _shipping_place(chain, sequence), Shipping(order.id))

    def _cancel_shipment(self, ctx: Context, order: Order) -> None:
        """Call the shipment off; where logistics can't be reached its own deadline ends it."""
        chain = _get_settings(ctx).logistics_chain
        if self.link.has_client(ctx, chain):
            payload = encode(CancelShipment(order.id))
            self.link.send(ctx, chain, SHIPMENTS_MODULE, payload, order.terms.deliver_by_ms)

    # Who acts.

    def _get_seller(self, ctx: Context, order: Order) -> bytes:
        """Return the signer who acts for the seller: he himself, or a colleague who may sell.

        Raises: NotTheSeller, the errors of members.
        """
        if order.seller in ctx.signers:
            return order.seller
        for signer in ctx.signers:
            if self.members.get_holder(ctx, signer) == order.organisation:
                self.members.require(ctx, signer, SELL)
                return signer
        raise NotTheSeller(expected=order.seller, given=ctx.signers)

    def _check_products(self, ctx: Context, msg: Place, organisation: bytes) -> None:
        """Refuse goods that the catalogue has not told of, or that the seller does not sell."""
        checked: dict[bytes, None] = {}
        for index, line in enumerate(msg.lines):
            if line.product in checked:
                continue
            product = PRODUCTS.get(ctx, line.product)
            if product is None:
                raise UnknownProduct(line=index, given=line.product)
            if not product.is_listed:
                raise ProductWithdrawn(line=index, given=line.product)
            is_own = product.seller == msg.seller
            if not is_own and self.members.get_holder(ctx, product.seller) != organisation:
                raise ForeignProduct(line=index, given=line.product, seller=product.seller)
            checked[line.product] = None


# Amounts.


def compute_amount_minor(quantity: int, price_e6: int, exponent: int) -> int:
    """Return quantity times price in minor units, rounded half up.

    ``price_e6`` is in millionths of the major unit, which has 10^exponent minor units.
    """
    minor_units: int = 10**exponent
    return (quantity * price_e6 * minor_units + 500_000) // 1_000_000


def _make_line(index: int, offer: LineOffer, exponent: int) -> Line:
    amount_minor = compute_amount_minor(offer.quantity, offer.price_e6, exponent)
    if amount_minor < 1:
        raise AmountTooSmall(line=index, quantity=offer.quantity, price_e6=offer.price_e6)
    if amount_minor > MAX_TOTAL_MINOR:
        # Refused before it is stored: one line alone could pass the bounds of a record.
        raise TotalTooLarge(expected=MAX_TOTAL_MINOR, given=amount_minor)
    return Line(
        product=offer.product,
        quantity=offer.quantity,
        price_e6=offer.price_e6,
        amount_minor=amount_minor,
        claimed=0,
        returned=0,
        refunded_minor=0,
    )


# Lines that change.


def _check_indexes(items: Sequence[ReturnLine | RefundLine], count: int) -> None:
    """Refuse a line named twice: each claim would be within bounds, and their sum beyond."""
    previous = -1
    for item in items:
        if item.line <= previous:
            raise LinesOutOfOrder(given=item.line, previous=previous)
        if item.line >= count:
            raise UnknownLine(expected=count, given=item.line)
        previous = item.line


def _claim_line(item: ReturnLine, line: Line) -> ChangedLine:
    if item.quantity > line.quantity:
        raise QuantityTooLarge(line=item.line, expected=line.quantity, given=item.quantity)
    return ChangedLine(item.line, replace(line, claimed=item.quantity))


def _refund_line(item: RefundLine, line: Line) -> ChangedLine:
    if item.quantity > (left := line.quantity - line.returned):
        raise QuantityTooLarge(line=item.line, expected=left, given=item.quantity)
    if item.amount_minor > (left := line.amount_minor - line.refunded_minor):
        raise AmountTooLarge(line=item.line, expected=left, given=item.amount_minor)
    returned = line.returned + item.quantity
    refunded_minor = line.refunded_minor + item.amount_minor
    return ChangedLine(item.line, replace(line, returned=returned, refunded_minor=refunded_minor))


def _close_claims(record: OrderLines, *, is_taken_back: bool) -> tuple[ChangedLine, ...]:
    """Return the claimed lines with their claims settled."""
    return tuple([
        ChangedLine(index, _close_claim(line, record.exponent, is_taken_back=is_taken_back))
        for index, line in enumerate(record.lines)
        if line.claimed
    ])  # fmt: skip


def _close_claim(line: Line, exponent: int, *, is_taken_back: bool) -> Line:
    if not is_taken_back:
        return replace(line, claimed=0)
    # Rounding is monotone, so fewer units never cost more than the line did.
    refunded_minor = compute_amount_minor(line.claimed, line.price_e6, exponent)
    return replace(line, claimed=0, returned=line.claimed, refunded_minor=refunded_minor)


def _change_lines(record: OrderLines, changed: Iterable[ChangedLine]) -> OrderLines:
    lines = list(record.lines)
    for item in changed:
        lines[item.index] = item.line
    return replace(record, lines=tuple(lines))


# States and deadlines.


def _move(
    ctx: Context, order: Order, trigger: Trigger, status: Status, deadline_ms: int = 0,
    **changes: Any,
) -> Order:  # fmt: skip
    """Take a step of TRANSITIONS: write the order, end the old deadline, set the new one."""
    assert status in TARGETS[order.status, trigger], f"{order.status} to {status} by {trigger}"
    assert (deadline_ms == 0) == (status in FINAL_STATUSES), "every state has an exit by time"
    if order.deadline_ms:
        DEADLINES.cancel(ctx, order.deadline_ms, order.id + STATUS_BYTES[order.status])
    if deadline_ms:
        DEADLINES.schedule(ctx, deadline_ms, order.id + STATUS_BYTES[status])
    order = replace(
        order, status=status, deadline_ms=deadline_ms, updated_ms=ctx.time_ms, **changes
    )
    ORDERS.put(ctx, order.id, order)
    return order


def _find_order(ctx: Context, order_id: bytes) -> Order:
    order = ORDERS.get(ctx, order_id)
    if order is None:
        raise UnknownOrder(given=order_id)
    return order


def _get_order(ctx: Context, order_id: bytes, trigger: Trigger) -> Order:
    order = _find_order(ctx, order_id)
    _check_state(ctx, order, trigger)
    return order


def _check_state(ctx: Context, order: Order, trigger: Trigger) -> None:
    if (order.status, trigger) not in TARGETS:
        expected = [step.source for step in TRANSITIONS if step.trigger == trigger]
        raise WrongState(expected=expected, trigger=trigger, order=order.id, given=order.status)
    if _is_overdue(ctx, order):
        raise TooLate(expected=order.deadline_ms, status=order.status, given=ctx.time_ms)


def _is_overdue(ctx: Context, order: Order) -> bool:
    """Tell whether the state's time is over: its deadline may run some blocks late under load."""
    return 0 < order.deadline_ms < ctx.time_ms


def _is_open_to(ctx: Context, order: Order, trigger: Trigger) -> bool:
    return (order.status, trigger) in TARGETS and not _is_overdue(ctx, order)


def _check_terms(time_ms: int, terms: Terms) -> None:
    """Refuse deadlines that do not rise from the block time, or lie too far ahead."""
    steps = (
        ("accept_by_ms", terms.accept_by_ms, time_ms),
        ("fund_by_ms", terms.fund_by_ms, terms.accept_by_ms),
        ("ship_by_ms", terms.ship_by_ms, terms.fund_by_ms),
        ("deliver_by_ms", terms.deliver_by_ms, terms.ship_by_ms + 1),
    )
    for field, given, earliest in steps:
        if given < earliest:
            raise TermsOutOfOrder(field=field, expected=earliest, given=given)
    if terms.deliver_by_ms > time_ms + MAX_TERM_MS:
        raise TermsTooLong(expected=time_ms + MAX_TERM_MS, given=terms.deliver_by_ms)


# Records of others.


def _check_buyer(ctx: Context, order: Order) -> None:
    if order.buyer not in ctx.signers:
        raise NotTheBuyer(expected=order.buyer, given=ctx.signers)


def _get_lines(ctx: Context, order: Order) -> OrderLines:
    record = LINES.get(ctx, order.id)
    assert record is not None, "every order has lines"
    return record


def _get_settings(ctx: Context) -> OrdersParams:
    settings = SETTINGS.get(ctx, b"")
    assert settings is not None, "the genesis wrote them"
    return settings


def _learn_product(ctx: Context, product: ProductListed) -> None:
    """Keep a product as the catalogue has it; what is older than known came by a resend."""
    known = PRODUCTS.get(ctx, product.product)
    if known is not None and known.revision >= product.revision:
        return
    PRODUCTS.put(ctx, product.product, product)
    ctx.emit(ProductKnown(product))


def _shipping_place(destination: str, sequence: int) -> bytes:
    return destination.encode() + b"\0" + sequence.to_bytes(8, "big")


def make_module(rules: OrdersRules, views: Views) -> Module:
    """Return version 1 of the orders over its rules."""
    return Module(
        name="orders",
        number=MODULE,
        version=1,
        handlers={
            Place: rules.place,
            Accept: rules.accept,
            Decline: rules.decline,
            Fund: rules.fund,
            Dispatch: rules.dispatch,
            Confirm: rules.confirm,
            Cancel: rules.cancel,
            RequestReturn: rules.request_return,
            AcceptReturn: rules.accept_return,
            RefuseReturn: rules.refuse_return,
            Refund: rules.refund,
            IssueCreditNote: rules.issue_credit_note,
        },
        events=EVENTS,
        errors=ERRORS,
        params=OrdersParams,
        on_genesis=rules.start,
        on_deadline=rules.handle_deadline,
        on_packet=rules.handle_packet,
        on_acknowledgement=rules.handle_acknowledgement,
        views=views,
    )
