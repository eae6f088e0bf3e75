"""The nouns of the catalogue: what sellers say of their products, and what is remembered."""

from typing import Annotated, Final

from msgspec import Meta

from hansa.core.codec import (
    U8,
    U32,
    Account,
    ChainName,
    DurationMs,
    FreeText,
    Name,
    ObjectId,
    TimeMs,
    Value,
)
from hansa.core.errors import Rejected
from hansa.core.transaction import Event, Message, message_number

MODULE: Final = 4
MAX_CHAINS_TOLD: Final = 8
MAX_RESENDS: Final = 3
"""How often one announcement is sent again before the seller has to change the product."""

Reference = Annotated[str, Meta(min_length=1, max_length=64)]
"""The seller's own number of the product (SKU)."""
Gtin = Annotated[str, Meta(max_length=14, pattern=r"^([0-9]{8}|[0-9]{12,14})?$")]
"""Global Trade Item Number of 8, 12, 13 or 14 digits, or empty."""
HsCode = Annotated[str, Meta(max_length=10, pattern=r"^([0-9]{6,10})?$")]
"""6 digits of the Harmonized System and up to 4 of a national extension, or empty."""
Origin = Annotated[str, Meta(max_length=2, pattern=r"^([A-Z]{2})?$")]
"""ISO 3166-1 alpha-2, or empty where the seller does not say."""
Unit = Annotated[str, Meta(min_length=1, max_length=3, pattern=r"^[A-Z0-9]{1,3}$")]
"""Unit in which the product is counted: code of UN/ECE Recommendation 20, C62 for one piece."""


# What can be said.


class Register(Message, tag=message_number(MODULE, 1)):
    """Enter a product; the signer's organisation owns it from then on."""

    reference: Reference
    """Unique among the organisation's products."""
    gtin: Gtin
    name: Name
    description: FreeText
    hs_code: HsCode
    origin: Origin
    unit: Unit


class Revise(Message, tag=message_number(MODULE, 2)):
    """Describe a product anew; what it said before stays in its history."""

    product: ObjectId
    expected_revision: U32
    """The revision the signer has seen, so that two revisers never overwrite each other."""
    reference: Reference
    gtin: Gtin
    name: Name
    description: FreeText
    hs_code: HsCode
    origin: Origin
    unit: Unit


class Withdraw(Message, tag=message_number(MODULE, 3)):
    """Take a product off sale; orders already placed go on."""

    product: ObjectId


class Relist(Message, tag=message_number(MODULE, 4)):
    """Put a withdrawn product on sale again."""

    product: ObjectId


# What is remembered.


class CatalogueParams(Value):
    """What the genesis says to the catalogue."""

    tell: Annotated[tuple[ChainName, ...], Meta(max_length=MAX_CHAINS_TOLD)]
    """Chains whose module orders is told of every change."""
    packet_lifetime_ms: DurationMs
    """How long after the block an announcement may still take effect."""


class Product(Value):
    """A product as it now is."""

    id: ObjectId
    organisation: ObjectId
    """Owner; any of its accounts with the right to sell may change the product."""
    seller: Account
    """Account that made the last change."""
    reference: Reference
    gtin: Gtin
    name: Name
    description: FreeText
    hs_code: HsCode
    origin: Origin
    unit: Unit
    is_listed: bool
    """Whether it can be ordered."""
    revision: U32
    """1 when registered; one more with every change, withdrawal and relisting included."""
    registered_ms: TimeMs
    updated_ms: TimeMs


class Registered(Value):
    """Which product an organisation's reference stands for."""

    product: ObjectId


class Announcement(Value):
    """A packet about a product that has not been acknowledged yet."""

    product: ObjectId
    revision: U32
    resends: U8
    """How often it has been sent again, 0 to MAX_RESENDS."""


# What came of it.


class ProductRegistered(Event, tag=message_number(MODULE, 0x81)):
    """A product was entered."""

    product: Product


class ProductRevised(Event, tag=message_number(MODULE, 0x82)):
    """A product was described anew."""

    product: Product


class ProductWithdrawn(Event, tag=message_number(MODULE, 0x83)):
    """A product was taken off sale."""

    product: Product


class ProductRelisted(Event, tag=message_number(MODULE, 0x84)):
    """A product was put on sale again."""

    product: Product


class AnnouncementFailed(Event, tag=message_number(MODULE, 0x85)):
    """A chain did not take an announcement, however often it was sent."""

    product: ObjectId
    revision: U32
    chain: ChainName
    error: U32
    """Number of the last refusal; 0 where the announcement expired."""


# Why something was refused.


class UnknownProduct(Rejected):
    number = 4001
    says = "product: expected a registered product, got {given}"


class NotTheOwner(Rejected):
    number = 4002
    says = "signer: expected an account of organisation {expected}, got one of {given}"


class ReferenceTaken(Rejected):
    number = 4003
    says = "reference: expected one that is not in use, got {given}, which is product {product}"


class WrongCheckDigit(Rejected):
    number = 4004
    says = "gtin: expected check digit {expected}, got {given}"


class StaleRevision(Rejected):
    number = 4005
    says = "expected_revision: expected {expected}, got {given}"


class NotListed(Rejected):
    number = 4006
    says = "product: expected one that is on sale, got {given}, which is withdrawn"


class AlreadyListed(Rejected):
    number = 4007
    says = "product: expected a withdrawn one, got {given}, which is on sale"


MESSAGES: Final = (Register, Revise, Withdraw, Relist)
EVENTS: Final = (
    ProductRegistered,
    ProductRevised,
    ProductWithdrawn,
    ProductRelisted,
    AnnouncementFailed,
)
ERRORS: Final = (
    UnknownProduct,
    NotTheOwner,
    ReferenceTaken,
    WrongCheckDigit,
    StaleRevision,
    NotListed,
    AlreadyListed,
)
