"""The verbs of the catalogue: a seller describes, revises, withdraws and relists."""

from typing import Final

from msgspec.structs import replace

from hansa.core.codec import encode
from hansa.core.module import Context, Module
from hansa.core.packet import DONE, Acknowledgement
from hansa.core.readmodel import Views
from hansa.core.state import Table
from hansa.formats.gs1 import compute_check_digit
from hansa.service.catalogue.model import (
    ERRORS,
    EVENTS,
    MAX_RESENDS,
    MODULE,
    AlreadyListed,
    Announcement,
    AnnouncementFailed,
    CatalogueParams,
    NotListed,
    NotTheOwner,
    Product,
    ProductRegistered,
    ProductRelisted,
    ProductRevised,
    ProductWithdrawn,
    ReferenceTaken,
    Register,
    Registered,
    Relist,
    Revise,
    StaleRevision,
    UnknownProduct,
    Withdraw,
    WrongCheckDigit,
)
from hansa.service.catalogue.ports import ORDERS_MODULE, SELL, Link, Members, ProductListed

SETTINGS: Final = Table(MODULE, 0, CatalogueParams)
"""Under the empty key."""
PRODUCTS: Final = Table(MODULE, 1, Product)
"""By product id."""
REFERENCES: Final = Table(MODULE, 2, Registered)
"""By organisation and the UTF-8 of its reference."""
ANNOUNCEMENTS: Final = Table(MODULE, 3, Announcement)
"""By destination, 0x00 and the packet's sequence."""


class CatalogueRules:
    """What sellers may do with their products, and how other chains learn of it."""

    def __init__(self, members: Members, link: Link) -> None:
        self.members = members
        self.link = link

    def start(self, ctx: Context, params: CatalogueParams) -> None:
        """Keep what the genesis says."""
        SETTINGS.put(ctx, b"", params)

    # Messages.

    def register(self, ctx: Context, msg: Register) -> None:
        """Enter a product and tell the chains that trade it.

        Raises: WrongCheckDigit, the errors of members, ReferenceTaken, the errors of link.
        """
        # CHECKS
        _check_gtin(msg.gtin)
        organisation = self.members.require(ctx, ctx.signer, SELL)
        place = _check_reference(ctx, organisation, msg.reference)
        # EFFECTS
        product = Product(
            id=ctx.new_id(),
            organisation=organisation,
            seller=ctx.signer,
            reference=msg.reference,
            gtin=msg.gtin,
            name=msg.name,
            description=msg.description,
            hs_code=msg.hs_code,
            origin=msg.origin,
            unit=msg.unit,
            is_listed=True,
            revision=1,
            registered_ms=ctx.time_ms,
            updated_ms=ctx.time_ms,
        )
        REFERENCES.put(ctx, place, Registered(product.id))
        self._store(ctx, product)
        # EVENTS
        ctx.emit(ProductRegistered(product))

    def revise(self, ctx: Context, msg: Revise) -> None:
        """Describe a product anew and tell the chains that trade it.

        Raises: WrongCheckDigit, UnknownProduct, StaleRevision, the errors of members, NotTheOwner,
        ReferenceTaken, the errors of link.
        """
        # CHECKS
        _check_gtin(msg.gtin)
        product = _get_product(ctx, msg.product)
        if msg.expected_revision != product.revision:
            raise StaleRevision(expected=product.revision, given=msg.expected_revision)
        self._check_owner(ctx, product)
        # EFFECTS
        if msg.reference != product.reference:
            place = _check_reference(ctx, product.organisation, msg.reference)
            REFERENCES.delete(ctx, product.organisation + product.reference.encode())
            REFERENCES.put(ctx, place, Registered(product.id))
        product = replace(
            product,
            seller=ctx.signer,
            reference=msg.reference,
            gtin=msg.gtin,
            name=msg.name,
            description=msg.description,
            hs_code=msg.hs_code,
            origin=msg.origin,
            unit=msg.unit,
            revision=product.revision + 1,
            updated_ms=ctx.time_ms,
        )
        self._store(ctx, product)
        # EVENTS
        ctx.emit(ProductRevised(product))

    def withdraw(self, ctx: Context, msg: Withdraw) -> None:
        """Take a product off sale and tell the chains that trade it.

        Raises: UnknownProduct, NotListed, the errors of members, NotTheOwner, the errors of link.
        """
        # CHECKS
        product = _get_product(ctx, msg.product)
        if not product.is_listed:
            raise NotListed(given=product.id)
        self._check_owner(ctx, product)
        # EFFECTS
        product = self._set_listed(ctx, product, is_listed=False)
        # EVENTS
        ctx.emit(ProductWithdrawn(product))

    def relist(self, ctx: Context, msg: Relist) -> None:
        """Put a withdrawn product on sale again and tell the chains that trade it.

        Raises: UnknownProduct, AlreadyListed, the errors of members, NotTheOwner, the errors of
        link.
        """
        # CHECKS
        product = _get_product(ctx, msg.product)
        if product.is_listed:
            raise AlreadyListed(given=product.id)
        self._check_owner(ctx, product)
        # EFFECTS
        product = self._set_listed(ctx, product, is_listed=True)
        # EVENTS
        ctx.emit(ProductRelisted(product))

    # Packets.

    def handle_acknowledgement(
        self, ctx: Context, destination: str, sequence: int, ack: Acknowledgement
    ) -> None:
        """Send an announcement again that was refused or came too late, a few times at most.

        The link keeps the order of packets, so what was sent last is what the destination knows
        last: where the product has changed since, the newer announcement is already on its way.
        """
        place = _announcement_place(destination, sequence)
        announcement = ANNOUNCEMENTS.get(ctx, place)
        if announcement is None:
            return
        # EFFECTS
        ANNOUNCEMENTS.delete(ctx, place)
        if ack.outcome == DONE:
            return
        product = PRODUCTS.get(ctx, announcement.product)
        assert product is not None, "an announced product stays in the catalogue"
        if product.revision != announcement.revision:
            return
        is_reachable = self.link.has_client(ctx, destination)
        if is_reachable and announcement.resends < MAX_RESENDS:
            self._announce_to(ctx, destination, product, announcement.resends + 1)
            return
        # EVENTS
        ctx.emit(AnnouncementFailed(product.id, product.revision, destination, ack.number))

    # Steps they share.

    def _check_owner(self, ctx: Context, product: Product) -> None:
        organisation = self.members.require(ctx, ctx.signer, SELL)
        if organisation != product.organisation:
            raise NotTheOwner(expected=product.organisation, given=organisation)

    def _set_listed(self, ctx: Context, product: Product, *, is_listed: bool) -> Product:
        product = replace(
            product,
            seller=ctx.signer,
            is_listed=is_listed,
            revision=product.revision + 1,
            updated_ms=ctx.time_ms,
        )
        self._store(ctx, product)
        return product

    def _store(self, ctx: Context, product: Product) -> None:
        """Write a changed product and announce it."""
        PRODUCTS.put(ctx, product.id, product)
        for destination in _get_settings(ctx).tell:
            self._announce_to(ctx, destination, product, 0)

    def _announce_to(self, ctx: Context, destination: str, product: Product, resends: int) -> None:
        deadline_ms = ctx.time_ms + _get_settings(ctx).packet_lifetime_ms
        payload = encode(make_listing(product))
        sequence = self.link.send(ctx, destination, ORDERS_MODULE, payload, deadline_ms)
        place = _announcement_place(destination, sequence)
        ANNOUNCEMENTS.put(ctx, place, Announcement(product.id, product.revision, resends))


def make_listing(product: Product) -> ProductListed:
    """Return what a chain that trades is told of a product."""
    return ProductListed(
        product=product.id,
        seller=product.seller,
        revision=product.revision,
        is_listed=product.is_listed,
        name=product.name,
        hs_code=product.hs_code,
        origin=product.origin,
    )


def _check_gtin(gtin: str) -> None:
    if gtin and gtin[-1] != (expected := compute_check_digit(gtin[:-1])):
        raise WrongCheckDigit(expected=expected, given=gtin)


def _check_reference(ctx: Context, organisation: bytes, reference: str) -> bytes:
    """Return the place of a reference that is free."""
    place = organisation + reference.encode()
    if taken := REFERENCES.get(ctx, place):
        raise ReferenceTaken(given=reference, product=taken.product)
    return place


def _get_product(ctx: Context, product_id: bytes) -> Product:
    product = PRODUCTS.get(ctx, product_id)
    if product is None:
        raise UnknownProduct(given=product_id)
    return product


def _get_settings(ctx: Context) -> CatalogueParams:
    settings = SETTINGS.get(ctx, b"")
    assert settings is not None, "the genesis wrote them"
    return settings


def _announcement_place(destination: str, sequence: int) -> bytes:
    return destination.encode() + b"\0" + sequence.to_bytes(8, "big")


def make_module(rules: CatalogueRules, views: Views) -> Module:
    """Return version 1 of the catalogue over its rules."""
    return Module(
        name="catalogue",
        number=MODULE,
        version=1,
        handlers={
            Register: rules.register,
            Revise: rules.revise,
            Withdraw: rules.withdraw,
            Relist: rules.relist,
        },
        events=EVENTS,
        errors=ERRORS,
        params=CatalogueParams,
        on_genesis=rules.start,
        on_acknowledgement=rules.handle_acknowledgement,
        views=views,
    )
