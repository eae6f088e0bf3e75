"""The questions about the catalogue: which products there are, and what they said before."""

from typing import Any, Final

import sqlalchemy as sa

from hansa.core.readmodel import Batch, Fact, Kind, Views, place_columns, place_of
from hansa.service.catalogue.model import (
    AnnouncementFailed,
    Product,
    ProductRegistered,
    ProductRelisted,
    ProductRevised,
    ProductWithdrawn,
)

METADATA: Final = sa.MetaData()


def _product_columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("organisation", sa.String(32), nullable=False),
        sa.Column("seller", sa.String(40), nullable=False),
        sa.Column("reference", sa.String(64), nullable=False),
        sa.Column("gtin", sa.String(14), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("hs_code", sa.String(10), nullable=False),
        sa.Column("origin", sa.String(2), nullable=False),
        sa.Column("unit", sa.String(3), nullable=False),
        sa.Column("is_listed", sa.Boolean, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("registered_ms", sa.BigInteger, nullable=False),
    ]


PRODUCTS: Final = sa.Table(
    "products",
    METADATA,
    sa.Column("id", sa.String(32), primary_key=True),
    *_product_columns(),
    *place_columns(),
    # Lists show the newest change first, narrowed or not.
    sa.Index("products_by_time", "updated_ms", "id"),
    sa.Index("products_by_organisation", "organisation", "updated_ms", "id"),
    sa.Index("products_by_seller", "seller", "updated_ms", "id"),
    sa.Index("products_by_gtin", "gtin", "updated_ms", "id"),
    sa.Index("products_by_origin", "origin", "updated_ms", "id"),
    sa.Index("products_by_reference", "reference"),
)
"""Every product as it now is."""

PRODUCT_REVISIONS: Final = sa.Table(
    "product_revisions",
    METADATA,
    sa.Column("product", sa.String(32), primary_key=True),
    *[column for column in _product_columns() if column.name != "revision"],
    sa.Column("revision", sa.BigInteger, primary_key=True),
    *place_columns(),
)
"""Every product as it was after each change, with the fact that proves it."""


def select_revisions(product: str) -> sa.Select[Any]:
    """Return the query for a product's revisions, newest first."""
    table = PRODUCT_REVISIONS
    return sa.select(table).where(table.c.product == product).order_by(table.c.revision.desc())


def _project_product(batch: Batch, fact: Fact) -> None:
    product: Product = fact.event.product
    row = {
        "organisation": product.organisation.hex(),
        "seller": product.seller.hex(),
        "reference": product.reference,
        "gtin": product.gtin,
        "name": product.name,
        "description": product.description,
        "hs_code": product.hs_code,
        "origin": product.origin,
        "unit": product.unit,
        "is_listed": product.is_listed,
        "revision": product.revision,
        "registered_ms": product.registered_ms,
        **place_of(fact),
    }
    key = product.id.hex()
    batch.put(PRODUCTS, (key,), {"id": key, **row})
    batch.append(PRODUCT_REVISIONS, {"product": key, **row})
    batch.note(fact, product.id)


def _project_failure(batch: Batch, fact: Fact) -> None:
    batch.note(fact, fact.event.product)


VIEWS: Final = Views(
    metadata=METADATA,
    projections={
        ProductRegistered: _project_product,
        ProductRevised: _project_product,
        ProductWithdrawn: _project_product,
        ProductRelisted: _project_product,
        AnnouncementFailed: _project_failure,
    },
    kinds=(
        Kind(
            name="product",
            plural="products",
            table=PRODUCTS,
            search=("name", "reference", "gtin", "description"),
            filters=("organisation", "seller", "gtin", "origin"),
            columns=("id", "reference", "name", "gtin", "origin", "unit", "is_listed", "revision"),
        ),
    ),
)
