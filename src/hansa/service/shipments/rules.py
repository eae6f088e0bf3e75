"""The verbs of shipments: what happens to the goods, and who must have signed for it."""

from typing import Final

from msgspec.structs import replace

from hansa.core.codec import encode, make_decoder
from hansa.core.errors import Malformed, Rejected
from hansa.core.module import Context, Deadlines, Module
from hansa.core.packet import DONE, REFUSED, Acknowledgement
from hansa.core.readmodel import Views
from hansa.core.state import Table
from hansa.service.shipments.model import (
    ERRORS,
    EVENTS,
    INITIAL,
    MAX_LEGS,
    MAX_TERM_MS,
    MODULE,
    NEXT,
    TRANSITIONS,
    Cancelled,
    CancelShipment,
    Delivered,
    DuplicateOrder,
    HandedOver,
    HandOver,
    Lapsed,
    Lost,
    MalformedPacket,
    MilestoneReported,
    MissingSigner,
    NotConsignee,
    NotHolder,
    Opened,
    OpenShipment,
    Refuse,
    Refused,
    ReportAcknowledged,
    ReportLost,
    ReportMilestone,
    Returned,
    SameHolder,
    SameParty,
    Shipment,
    ShipmentReference,
    ShipmentsParams,
    Status,
    TooLate,
    TooManyLegs,
    Trigger,
    UnexpectedSigner,
    UnknownOrder,
    UnknownShipment,
    WrongSource,
    WrongStatus,
    WrongTerm,
)
from hansa.service.shipments.ports import (
    ORDERS_MODULE,
    Link,
    Members,
    ShipmentDelivered,
    ShipmentLost,
    ShipmentRefused,
)

PARAMS: Final = Table(MODULE, 0, ShipmentsParams)
"""One record, under the empty key."""
SHIPMENTS: Final = Table(MODULE, 1, Shipment)
"""By shipment id."""
BY_ORDER: Final = Table(MODULE, 2, ShipmentReference)
"""By order id: an order has one shipment, ever."""
REPORTS: Final = Table(MODULE, 3, ShipmentReference)
"""Packets not acknowledged yet, by sequence (8 bytes)."""
DEADLINES: Final = Deadlines(MODULE)
"""By shipment id; a shipment that is not final has one entry, at its deadline_ms."""

_decode_packet = make_decoder(OpenShipment | CancelShipment, "payload")


class ShipmentsRules:
    """What carriers, sellers and buyers may do with the goods of a funded order."""

    def __init__(self, members: Members, link: Link) -> None:
        self._members = members
        self._link = link

    # Messages.

    def hand_over(self, ctx: Context, msg: HandOver) -> None:
        """Pass the goods from the holder to who takes them.

        Custody is a fact, so the giver is asked for his signature and not for his standing: a
        suspended carrier must still be able to hand on what he holds. Who takes goods on the way
        must be admitted to carry or store.

        Raises: UnknownShipment, WrongStatus, SameHolder, MissingSigner, UnexpectedSigner,
        TooManyLegs, the members module's errors.
        """
        # CHECKS
        shipment = _get_shipment(ctx, msg.shipment)
        trigger = _name_hand_over(shipment, msg.to)
        status = _next_status(shipment, trigger)
        _check_hand_over_signers(ctx, shipment, msg.to)
        if trigger == "hand_over_to_carrier":
            if shipment.leg >= MAX_LEGS:
                raise TooManyLegs(limit=MAX_LEGS, given=shipment.leg + 1)
            self._require_carrier(ctx, msg.to)

        # EFFECTS
        after = replace(
            shipment,
            status=status,
            leg=shipment.leg + 1,
            holder=msg.to,
            held_since_ms=ctx.time_ms,
            held_since_place=msg.place,
            place=msg.place,
        )
        if status == "delivered":
            report = ShipmentDelivered(
                order=shipment.order, shipment=shipment.id, delivered_ms=ctx.time_ms
            )
            after = self._send_report(ctx, after, report)
        after = _keep(ctx, shipment, after)

        # EVENTS
        ctx.emit(
            _HAND_OVER_EVENTS[trigger](
                shipment=after,
                previous_holder=shipment.holder,
                previous_since_ms=shipment.held_since_ms,
                previous_place=shipment.held_since_place,
                note=msg.note,
            )
        )

    def report_milestone(self, ctx: Context, msg: ReportMilestone) -> None:
        """Note how far the goods have come.

        Raises: UnknownShipment, WrongStatus, NotHolder.
        """
        # CHECKS
        shipment = _get_shipment(ctx, msg.shipment)
        status = _next_status(shipment, "report_milestone")
        _check_holder(ctx, shipment)

        # EFFECTS
        after = replace(shipment, status=status, place=msg.place, milestone=msg.code)
        after = _keep(ctx, shipment, after)

        # EVENTS
        ctx.emit(MilestoneReported(shipment=after, note=msg.note))

    def report_lost(self, ctx: Context, msg: ReportLost) -> None:
        """End the journey: the goods are gone, and the holder says so.

        Goods lost on the way back were reported as refused already, and are not reported twice.

        Raises: UnknownShipment, WrongStatus, NotHolder.
        """
        # CHECKS
        shipment = _get_shipment(ctx, msg.shipment)
        status = _next_status(shipment, "report_lost")
        _check_holder(ctx, shipment)

        # EFFECTS
        after = replace(shipment, status=status, reason=msg.reason)
        if shipment.report == "none":
            report = ShipmentLost(order=shipment.order, shipment=shipment.id, reason=msg.reason)
            after = self._send_report(ctx, after, report)
        after = _keep(ctx, shipment, after)

        # EVENTS
        ctx.emit(Lost(shipment=after))

    def refuse(self, ctx: Context, msg: Refuse) -> None:
        """Turn the goods back: they stay with the holder, who may hand them towards the seller.

        Raises: UnknownShipment, WrongStatus, NotConsignee.
        """
        # CHECKS
        shipment = _get_shipment(ctx, msg.shipment)
        status = _next_status(shipment, "refuse")
        if shipment.buyer not in ctx.signers:
            raise NotConsignee(consignee=shipment.buyer, given=ctx.signers)

        # EFFECTS
        after = replace(shipment, status=status, reason=msg.reason)
        report = ShipmentRefused(order=shipment.order, shipment=shipment.id)
        after = self._send_report(ctx, after, report)
        after = _keep(ctx, shipment, after)

        # EVENTS
        ctx.emit(Refused(shipment=after))

    # Packets.

    def take_packet(self, ctx: Context, source: str, payload: bytes) -> None:
        """Take a packet of the trade chain.

        Raises: WrongSource, MalformedPacket, then what opening or cancelling raises.
        """
        trade = _get_params(ctx).trade
        if source != trade:
            # Any chain with a client here could otherwise open shipments that no order paid for.
            raise WrongSource(expected=trade, given=source)
        try:
            packet = _decode_packet(payload)
        except Malformed:
            # The codec's words differ between its versions, and this text is part of a receipt.
            raise MalformedPacket(given=len(payload)) from None
        if isinstance(packet, OpenShipment):
            self._open(ctx, packet)
        else:
            self._cancel(ctx, packet)

    def _open(self, ctx: Context, packet: OpenShipment) -> None:
        """Raises: DuplicateOrder, SameParty, WrongTerm, TooLate."""
        # CHECKS
        if (earlier := BY_ORDER.get(ctx, packet.order)) is not None:
            raise DuplicateOrder(order=packet.order, shipment=earlier.shipment)
        if packet.buyer == packet.seller:
            raise SameParty(given=packet.buyer)
        latest_ms = ctx.time_ms + MAX_TERM_MS
        if not packet.ship_by_ms < packet.deliver_by_ms <= latest_ms:
            given = packet.deliver_by_ms
            raise WrongTerm(earliest=packet.ship_by_ms, latest=latest_ms, given=given)
        grace_ms = _get_params(ctx).grace_ms
        if packet.ship_by_ms + grace_ms < ctx.time_ms:
            raise TooLate(earliest=ctx.time_ms - grace_ms, given=packet.ship_by_ms)

        # EFFECTS
        shipment = Shipment(
            id=ctx.new_id(),
            order=packet.order,
            seller=packet.seller,
            buyer=packet.buyer,
            origin=packet.origin,
            destination=packet.destination,
            ship_by_ms=packet.ship_by_ms,
            deliver_by_ms=packet.deliver_by_ms,
            address=packet.address,
            opened_ms=ctx.time_ms,
            status=INITIAL,
            deadline_ms=packet.ship_by_ms + grace_ms,
            leg=0,
            holder=packet.seller,
            held_since_ms=ctx.time_ms,
            held_since_place=packet.origin,
            place=packet.origin,
            milestone="",
            reason="",
            report="none",
            report_error=0,
        )
        SHIPMENTS.put(ctx, shipment.id, shipment)
        BY_ORDER.put(ctx, packet.order, ShipmentReference(shipment.id))
        DEADLINES.schedule(ctx, shipment.deadline_ms, shipment.id)

        # EVENTS
        ctx.emit(Opened(shipment=shipment))

    def _cancel(self, ctx: Context, packet: CancelShipment) -> None:
        """Raises: UnknownOrder, WrongStatus (the goods have moved, or all is over)."""
        # CHECKS
        reference = BY_ORDER.get(ctx, packet.order)
        if reference is None:
            raise UnknownOrder(given=packet.order)
        shipment = _get_shipment(ctx, reference.shipment)
        status = _next_status(shipment, "cancel_packet")

        # EFFECTS
        after = _keep(ctx, shipment, replace(shipment, status=status))

        # EVENTS
        ctx.emit(Cancelled(shipment=after))

    def take_acknowledgement(
        self, ctx: Context, destination: str, sequence: int, ack: Acknowledgement
    ) -> None:
        """Note what became of a report; nothing waits for it, so nothing else changes."""
        key = sequence.to_bytes(8, "big")
        reference = REPORTS.get(ctx, key)
        assert reference is not None, f"no report {sequence} to {destination} is underway"
        shipment = _get_shipment(ctx, reference.shipment)

        # EFFECTS
        REPORTS.delete(ctx, key)
        if ack.outcome == DONE:
            after = replace(shipment, report="done")
        elif ack.outcome == REFUSED:
            after = replace(shipment, report="refused", report_error=ack.number)
        else:
            after = replace(shipment, report="expired")
        SHIPMENTS.put(ctx, shipment.id, after)

        # EVENTS
        ctx.emit(ReportAcknowledged(shipment=after))

    # Deadlines and genesis.

    def lapse(self, ctx: Context, key: bytes) -> None:
        """End a shipment whose time has run out; the holder stays on record."""
        shipment = _get_shipment(ctx, key)
        status = _next_status(shipment, "deadline")

        # EFFECTS
        after = replace(shipment, status=status, deadline_ms=0)
        SHIPMENTS.put(ctx, key, after)

        # EVENTS
        ctx.emit(Lapsed(shipment=after))

    def begin(self, ctx: Context, params: ShipmentsParams) -> None:
        """Keep the parameters of the genesis."""
        PARAMS.put(ctx, b"", params)

    # What the handlers share.

    def _require_carrier(self, ctx: Context, account: bytes) -> None:
        """Whoever takes goods on the way carries or stores; the second error is the one told."""
        try:
            self._members.require(ctx, account, "carry")
        except Rejected:
            self._members.require(ctx, account, "store")

    def _send_report(
        self, ctx: Context, shipment: Shipment,
        report: ShipmentDelivered | ShipmentLost | ShipmentRefused,
    ) -> Shipment:  # fmt: skip
        """Tell the trade chain; returns the shipment with the report underway."""
        params = _get_params(ctx)
        deadline_ms = ctx.time_ms + params.packet_lifetime_ms
        sequence = self._link.send(ctx, params.trade, ORDERS_MODULE, encode(report), deadline_ms)
        REPORTS.put(ctx, sequence.to_bytes(8, "big"), ShipmentReference(shipment.id))
        return replace(shipment, report="sent")


_HAND_OVER_EVENTS: Final = {
    "hand_over_to_carrier": HandedOver,
    "hand_over_to_buyer": Delivered,
    "hand_over_to_seller": Returned,
}


def _get_params(ctx: Context) -> ShipmentsParams:
    params = PARAMS.get(ctx, b"")
    assert params is not None, "the genesis wrote the parameters"
    return params


def _get_shipment(ctx: Context, shipment_id: bytes) -> Shipment:
    shipment = SHIPMENTS.get(ctx, shipment_id)
    if shipment is None:
        raise UnknownShipment(given=shipment_id)
    return shipment


def _next_status(shipment: Shipment, trigger: Trigger) -> Status:
    status = NEXT.get((shipment.status, trigger))
    if status is None:
        allowed = [before for before, by, _ in TRANSITIONS if by == trigger]
        raise WrongStatus(expected=" or ".join(allowed), given=shipment.status)
    return status


def _name_hand_over(shipment: Shipment, to: bytes) -> Trigger:
    if to == shipment.buyer:
        return "hand_over_to_buyer"
    if to == shipment.seller:
        return "hand_over_to_seller"
    return "hand_over_to_carrier"


def _check_hand_over_signers(ctx: Context, shipment: Shipment, to: bytes) -> None:
    """Who gives and who takes have both signed, in either order, and nobody else.

    A third signature is refused: it would look like a witness, and means nothing.
    """
    holder, signers = shipment.holder, ctx.signers
    if to == holder:
        raise SameHolder(to=to)
    if holder not in signers:
        raise MissingSigner(missing=holder, does="gives", given=signers)
    if to not in signers:
        raise MissingSigner(missing=to, does="takes", given=signers)
    if len(signers) != 2:
        raise UnexpectedSigner(holder=holder, to=to, given=signers)


def _check_holder(ctx: Context, shipment: Shipment) -> None:
    if shipment.holder not in ctx.signers:
        raise NotHolder(holder=shipment.holder, given=ctx.signers)


def _compute_deadline(ctx: Context, shipment: Shipment) -> int:
    """Return when the shipment's state, just entered, ends by itself; 0 where it is final."""
    if shipment.status == "in_transit":
        return shipment.deliver_by_ms + _get_params(ctx).grace_ms
    if shipment.status == "refused":
        # The way back may take as long as the way out was given.
        way_out_ms = shipment.deliver_by_ms - shipment.ship_by_ms
        return ctx.time_ms + way_out_ms + _get_params(ctx).grace_ms
    if shipment.status == "returning":
        return shipment.deadline_ms  # Runs from the refusal, however many legs it takes.
    return 0


def _keep(ctx: Context, before: Shipment, after: Shipment) -> Shipment:
    """Write a shipment, and move its deadline where it has entered another state."""
    if after.status != before.status:
        deadline_ms = _compute_deadline(ctx, after)
        if deadline_ms != before.deadline_ms:
            DEADLINES.cancel(ctx, before.deadline_ms, before.id)
            after = replace(after, deadline_ms=deadline_ms)
            if deadline_ms:
                DEADLINES.schedule(ctx, deadline_ms, after.id)
    SHIPMENTS.put(ctx, after.id, after)
    return after


def make_module(rules: ShipmentsRules, views: Views) -> Module:
    """Return the module as chains run it."""
    return Module(
        name="shipments",
        number=MODULE,
        version=1,
        handlers={
            HandOver: rules.hand_over,
            ReportMilestone: rules.report_milestone,
            ReportLost: rules.report_lost,
            Refuse: rules.refuse,
        },
        events=EVENTS,
        errors=ERRORS,
        params=ShipmentsParams,
        on_genesis=rules.begin,
        on_deadline=rules.lapse,
        on_packet=rules.take_packet,
        on_acknowledgement=rules.take_acknowledgement,
        views=views,
    )
