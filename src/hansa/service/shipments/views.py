"""The questions about shipments: where the goods are, and who held them when."""

from typing import Any

import sqlalchemy as sa

from hansa.core.readmodel import Batch, Fact, Kind, Views, place_columns, place_of
from hansa.service.shipments.model import (
    Cancelled,
    Delivered,
    HandedOver,
    Lapsed,
    Lost,
    MilestoneReported,
    Opened,
    Refused,
    ReportAcknowledged,
    Returned,
    Shipment,
)

METADATA = sa.MetaData()

SHIPMENTS = sa.Table(
    "shipments",
    METADATA,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("order", sa.String(32), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("seller", sa.String(40), nullable=False),
    sa.Column("buyer", sa.String(40), nullable=False),
    sa.Column("holder", sa.String(40), nullable=False),
    sa.Column("held_since_ms", sa.BigInteger, nullable=False),
    sa.Column("leg", sa.Integer, nullable=False),
    sa.Column("place", sa.String(64), nullable=False),
    sa.Column("milestone", sa.String(64), nullable=False),
    sa.Column("origin", sa.String(2), nullable=False),
    sa.Column("destination", sa.String(2), nullable=False),
    sa.Column("opened_ms", sa.BigInteger, nullable=False),
    sa.Column("ship_by_ms", sa.BigInteger, nullable=False),
    sa.Column("deliver_by_ms", sa.BigInteger, nullable=False),
    sa.Column("deadline_ms", sa.BigInteger, nullable=False),
    sa.Column("address", sa.String(66), nullable=False),
    sa.Column("reason", sa.String(64), nullable=False),
    sa.Column("report", sa.String(8), nullable=False),
    sa.Column("report_error", sa.BigInteger, nullable=False),
    *place_columns(),
    sa.Index("shipments_by_order", "order", "id"),
    sa.Index("shipments_by_status", "status", "id"),
    sa.Index("shipments_by_seller", "seller", "id"),
    sa.Index("shipments_by_buyer", "buyer", "id"),
    sa.Index("shipments_by_holder", "holder", "id"),
)
"""One row a shipment, as it now is."""

CUSTODY_LEGS = sa.Table(
    "custody_legs",
    METADATA,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("shipment", sa.String(32), nullable=False),
    sa.Column("order", sa.String(32), nullable=False),
    sa.Column("leg", sa.Integer, nullable=False),
    sa.Column("holder", sa.String(40), nullable=False),
    sa.Column("place", sa.String(64), nullable=False),
    sa.Column("from_ms", sa.BigInteger, nullable=False),
    sa.Column("to_ms", sa.BigInteger, nullable=True),
    *place_columns(),
    sa.Index("custody_legs_by_shipment", "shipment", "from_ms", "leg"),
    sa.Index("custody_legs_by_order", "order", "id"),
    sa.Index("custody_legs_by_holder", "holder", "id"),
)
"""One row for each time somebody held goods: from the moment he took them (included) until the next
did (excluded). Open at the end for who holds them now, or is the last who is known to have."""

HandOverFact = HandedOver | Delivered | Returned


def _show_shipment(shipment: Shipment) -> dict[str, Any]:
    return {
        "id": shipment.id.hex(),
        "order": shipment.order.hex(),
        "status": shipment.status,
        "seller": shipment.seller.hex(),
        "buyer": shipment.buyer.hex(),
        "holder": shipment.holder.hex(),
        "held_since_ms": shipment.held_since_ms,
        "leg": shipment.leg,
        "place": shipment.place,
        "milestone": shipment.milestone,
        "origin": shipment.origin,
        "destination": shipment.destination,
        "opened_ms": shipment.opened_ms,
        "ship_by_ms": shipment.ship_by_ms,
        "deliver_by_ms": shipment.deliver_by_ms,
        "deadline_ms": shipment.deadline_ms,
        "address": shipment.address.hex(),
        "reason": shipment.reason,
        "report": shipment.report,
        "report_error": shipment.report_error,
    }


def _project_shipment(batch: Batch, fact: Fact) -> None:
    shipment: Shipment = fact.event.shipment
    row = {**_show_shipment(shipment), **place_of(fact)}
    batch.put(SHIPMENTS, (row["id"],), row)
    batch.note(fact, shipment.id, shipment.order)


def _put_leg(
    batch: Batch, fact: Fact, leg: int, holder: bytes, place: str, from_ms: int, to_ms: int | None
) -> None:
    shipment: Shipment = fact.event.shipment
    leg_id = f"{shipment.id.hex()}-{leg:03d}"
    row = {
        "id": leg_id,
        "shipment": shipment.id.hex(),
        "order": shipment.order.hex(),
        "leg": leg,
        "holder": holder.hex(),
        "place": place,
        "from_ms": from_ms,
        "to_ms": to_ms,
        **place_of(fact),
    }
    batch.put(CUSTODY_LEGS, (leg_id,), row)


def _put_current_leg(batch: Batch, fact: Fact) -> None:
    now: Shipment = fact.event.shipment
    _put_leg(batch, fact, now.leg, now.holder, now.held_since_place, now.held_since_ms, None)


def _project_opened(batch: Batch, fact: Fact) -> None:
    _project_shipment(batch, fact)
    _put_current_leg(batch, fact)


def _project_hand_over(batch: Batch, fact: Fact) -> None:
    event: HandOverFact = fact.event
    now = event.shipment
    _project_shipment(batch, fact)
    _put_leg(
        batch,
        fact,
        now.leg - 1,
        event.previous_holder,
        event.previous_place,
        event.previous_since_ms,
        now.held_since_ms,
    )
    _put_current_leg(batch, fact)


def custody_at(shipment: str, time_ms: int) -> sa.Select[Any]:
    """Return the query of the leg on which a shipment (id in hex) was at a time: one row or none.

    Goods that changed hands in that very millisecond are with the last who took them.
    """
    legs = CUSTODY_LEGS.c
    return (
        sa.select(CUSTODY_LEGS)
        .where(legs.shipment == shipment, legs.from_ms <= time_ms)
        .where(sa.or_(legs.to_ms.is_(None), legs.to_ms > time_ms))
        .order_by(legs.leg.desc())
        .limit(1)
    )


def custody_of(shipment: str) -> sa.Select[Any]:
    """Return the query of all legs of a shipment (id in hex), first to last: at most 66 rows."""
    return (
        sa.select(CUSTODY_LEGS)
        .where(CUSTODY_LEGS.c.shipment == shipment)
        .order_by(CUSTODY_LEGS.c.leg)
    )


def shipment_of_order(order: str) -> sa.Select[Any]:
    """Return the query of the shipment of an order (id in hex): one row or none."""
    return sa.select(SHIPMENTS).where(SHIPMENTS.c.order == order)


VIEWS = Views(
    METADATA,
    {
        Opened: _project_opened,
        HandedOver: _project_hand_over,
        Delivered: _project_hand_over,
        Returned: _project_hand_over,
        MilestoneReported: _project_shipment,
        Lost: _project_shipment,
        Refused: _project_shipment,
        Cancelled: _project_shipment,
        Lapsed: _project_shipment,
        ReportAcknowledged: _project_shipment,
    },
    (
        Kind(
            name="shipment",
            plural="shipments",
            table=SHIPMENTS,
            search=("place", "reason"),
            filters=("holder", "seller", "buyer", "status", "order"),
            columns=("id", "order", "status", "holder", "leg", "place", "milestone", "deadline_ms"),
        ),
        Kind(
            name="custody_leg",
            plural="custody_legs",
            table=CUSTODY_LEGS,
            search=("place",),
            filters=("shipment", "order", "holder"),
            columns=("id", "leg", "holder", "place", "from_ms", "to_ms"),
        ),
    ),
)
