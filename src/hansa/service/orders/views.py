"""The questions about orders: who ordered what from whom, how far it is, and what went back."""

from collections.abc import Iterable
from typing import Any, Final

import sqlalchemy as sa

from hansa.core.readmodel import Batch, Fact, Kind, Projection, Views, place_columns, place_of
from hansa.core.transaction import Event
from hansa.service.orders.model import (
    Accepted,
    Cancelled,
    CreditNote,
    CreditNoteIssued,
    Declined,
    Delivered,
    Dispatched,
    Funded,
    Lapsed,
    LateReport,
    Line,
    LinesRefunded,
    Order,
    Placed,
    ProductKnown,
    ProductListed,
    Refunded,
    Released,
    ReturnRequested,
    ShipmentNotOpened,
)

METADATA: Final = sa.MetaData()

ORDERS: Final = sa.Table(
    "orders",
    METADATA,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("reference", sa.String(64), nullable=False),
    sa.Column("buyer", sa.String(40), nullable=False),
    sa.Column("seller", sa.String(40), nullable=False),
    sa.Column("organisation", sa.String(32), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("deadline_ms", sa.BigInteger, nullable=False),
    sa.Column("currency", sa.String(3), nullable=False),
    sa.Column("total_minor", sa.BigInteger, nullable=False),
    sa.Column("refunded_minor", sa.BigInteger, nullable=False),
    sa.Column("hold", sa.String(32), nullable=True),
    sa.Column("accept_by_ms", sa.BigInteger, nullable=False),
    sa.Column("fund_by_ms", sa.BigInteger, nullable=False),
    sa.Column("ship_by_ms", sa.BigInteger, nullable=False),
    sa.Column("deliver_by_ms", sa.BigInteger, nullable=False),
    sa.Column("inspection_ms", sa.BigInteger, nullable=False),
    sa.Column("return_cost", sa.String(8), nullable=False),
    sa.Column("origin", sa.String(2), nullable=False),
    sa.Column("destination", sa.String(2), nullable=False),
    sa.Column("address", sa.String(66), nullable=False),
    sa.Column("line_count", sa.Integer, nullable=False),
    sa.Column("dated_ms", sa.BigInteger, nullable=False),
    sa.Column("placed_ms", sa.BigInteger, nullable=False),
    *place_columns(),
    # Lists show the newest change first, narrowed or not.
    sa.Index("orders_by_time", "updated_ms", "id"),
    sa.Index("orders_by_buyer", "buyer", "updated_ms", "id"),
    sa.Index("orders_by_seller", "seller", "updated_ms", "id"),
    sa.Index("orders_by_status", "status", "updated_ms", "id"),
    sa.Index("orders_by_reference", "reference"),
    sa.Index("orders_by_leaf", "chain", "leaf", "event_index"),
)
"""Every order as it now is."""

ORDER_LINES: Final = sa.Table(
    "order_lines",
    METADATA,
    sa.Column("order_id", sa.String(32), primary_key=True),
    sa.Column("line", sa.Integer, primary_key=True),
    sa.Column("product", sa.String(32), nullable=False),
    sa.Column("quantity", sa.BigInteger, nullable=False),
    sa.Column("price_e6", sa.BigInteger, nullable=False),
    sa.Column("amount_minor", sa.BigInteger, nullable=False),
    sa.Column("claimed", sa.BigInteger, nullable=False),
    sa.Column("returned", sa.BigInteger, nullable=False),
    sa.Column("refunded_minor", sa.BigInteger, nullable=False),
    sa.Index("order_lines_by_product", "product"),
)
"""Every line as it now is; the fact that proves it is one of its order's."""

CREDIT_NOTES: Final = sa.Table(
    "credit_notes",
    METADATA,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("seller", sa.String(40), nullable=False),
    sa.Column("organisation", sa.String(32), nullable=False),
    sa.Column("buyer", sa.String(40), nullable=False),
    sa.Column("currency", sa.String(3), nullable=False),
    sa.Column("amount_minor", sa.BigInteger, nullable=False),
    sa.Column("reference", sa.String(64), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("issued_ms", sa.BigInteger, nullable=False),
    *place_columns(),
    sa.Index("credit_notes_by_time", "updated_ms", "id"),
    sa.Index("credit_notes_by_buyer", "buyer", "updated_ms", "id"),
    sa.Index("credit_notes_by_seller", "seller", "updated_ms", "id"),
    sa.Index("credit_notes_by_reference", "reference"),
)
"""Every credit note."""

KNOWN_PRODUCTS: Final = sa.Table(
    "known_products",
    METADATA,
    sa.Column("product", sa.String(32), primary_key=True),
    sa.Column("seller", sa.String(40), nullable=False),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("is_listed", sa.Boolean, nullable=False),
    sa.Column("name", sa.String(128), nullable=False),
    sa.Column("hs_code", sa.String(10), nullable=False),
    sa.Column("origin", sa.String(2), nullable=False),
    *place_columns(),
    sa.Index("known_products_by_seller", "seller", "product"),
)
"""What this chain knows of the products that can be ordered on it."""


def select_lines(order: str) -> sa.Select[Any]:
    """Return the query for an order's lines, by index, with the name the product goes by."""
    lines, products = ORDER_LINES, KNOWN_PRODUCTS
    joined = lines.outerjoin(products, lines.c.product == products.c.product)
    return (
        sa.select(lines, products.c.name)
        .select_from(joined)
        .where(lines.c.order_id == order)
        .order_by(lines.c.line)
    )


def _put_order(batch: Batch, fact: Fact) -> None:
    order: Order = fact.event.order
    key = order.id.hex()
    terms = order.terms
    row = {
        "id": key,
        "reference": order.reference,
        "buyer": order.buyer.hex(),
        "seller": order.seller.hex(),
        "organisation": order.organisation.hex(),
        "status": order.status,
        "deadline_ms": order.deadline_ms,
        "currency": order.currency,
        "total_minor": order.total_minor,
        "refunded_minor": order.refunded_minor,
        "hold": None if order.hold is None else order.hold.hex(),
        "accept_by_ms": terms.accept_by_ms,
        "fund_by_ms": terms.fund_by_ms,
        "ship_by_ms": terms.ship_by_ms,
        "deliver_by_ms": terms.deliver_by_ms,
        "inspection_ms": terms.inspection_ms,
        "return_cost": terms.return_cost,
        "origin": order.origin,
        "destination": order.destination,
        "address": order.address.hex(),
        "line_count": order.line_count,
        "dated_ms": order.dated_ms,
        "placed_ms": order.placed_ms,
        **place_of(fact),
    }
    batch.put(ORDERS, (key,), row)
    batch.note(fact, order.id)


def _put_lines(batch: Batch, order: bytes, lines: Iterable[tuple[int, Line]]) -> None:
    key = order.hex()
    for index, line in lines:
        row = {
            "order_id": key,
            "line": index,
            "product": line.product.hex(),
            "quantity": line.quantity,
            "price_e6": line.price_e6,
            "amount_minor": line.amount_minor,
            "claimed": line.claimed,
            "returned": line.returned,
            "refunded_minor": line.refunded_minor,
        }
        batch.put(ORDER_LINES, (key, index), row)


def _project_placed(batch: Batch, fact: Fact) -> None:
    _put_order(batch, fact)
    _put_lines(batch, fact.event.order.id, enumerate(fact.event.lines))


def _project_changed_lines(batch: Batch, fact: Fact) -> None:
    _put_order(batch, fact)
    changed = [(item.index, item.line) for item in fact.event.lines]
    _put_lines(batch, fact.event.order.id, changed)


def _project_delivered(batch: Batch, fact: Fact) -> None:
    _put_order(batch, fact)
    batch.note(fact, fact.event.shipment)


def _project_not_opened(batch: Batch, fact: Fact) -> None:
    batch.note(fact, fact.event.order)


def _project_late_report(batch: Batch, fact: Fact) -> None:
    batch.note(fact, fact.event.order, fact.event.shipment)


def _project_credit_note(batch: Batch, fact: Fact) -> None:
    note: CreditNote = fact.event.credit_note
    key = note.id.hex()
    row = {
        "id": key,
        "seller": note.seller.hex(),
        "organisation": note.organisation.hex(),
        "buyer": note.buyer.hex(),
        "currency": note.currency,
        "amount_minor": note.amount_minor,
        "reference": note.reference,
        "reason": note.reason,
        "issued_ms": note.issued_ms,
        **place_of(fact),
    }
    batch.put(CREDIT_NOTES, (key,), row)
    batch.note(fact, note.id)


def _project_product(batch: Batch, fact: Fact) -> None:
    product: ProductListed = fact.event.product
    key = product.product.hex()
    row = {
        "product": key,
        "seller": product.seller.hex(),
        "revision": product.revision,
        "is_listed": product.is_listed,
        "name": product.name,
        "hs_code": product.hs_code,
        "origin": product.origin,
        **place_of(fact),
    }
    batch.put(KNOWN_PRODUCTS, (key,), row)
    batch.note(fact, product.product)


PROJECTIONS: Final[dict[type[Event], Projection]] = {
    Placed: _project_placed,
    Accepted: _put_order,
    Declined: _put_order,
    Funded: _put_order,
    Dispatched: _put_order,
    Delivered: _project_delivered,
    Cancelled: _put_order,
    Lapsed: _put_order,
    ReturnRequested: _project_changed_lines,
    Released: _project_changed_lines,
    Refunded: _project_changed_lines,
    LinesRefunded: _project_changed_lines,
    CreditNoteIssued: _project_credit_note,
    ShipmentNotOpened: _project_not_opened,
    LateReport: _project_late_report,
    ProductKnown: _project_product,
}

VIEWS: Final = Views(
    metadata=METADATA,
    projections=PROJECTIONS,
    kinds=(
        Kind(
            name="order",
            plural="orders",
            table=ORDERS,
            search=("reference",),
            filters=("buyer", "seller", "status"),
            columns=(
                "id",
                "reference",
                "status",
                "currency",
                "total_minor",
                "refunded_minor",
                "origin",
                "destination",
                "line_count",
            ),
        ),
        Kind(
            name="credit_note",
            plural="credit_notes",
            table=CREDIT_NOTES,
            search=("reference",),
            filters=("buyer", "seller"),
            columns=("id", "reference", "currency", "amount_minor", "reason", "issued_ms"),
        ),
    ),
)
