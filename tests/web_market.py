"""A market small enough to know by heart, on a real node: what the pages' tests look at."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from hansa.core.block import Receipt
from hansa.core.codec import encode
from hansa.core.hashing import digester
from hansa.core.keys import compute_account
from hansa.core.module import compute_object_id
from hansa.core.transaction import Body, Message, Signer, envelope_digest, sign_transaction
from hansa.interface.sandbox.roster import (
    FORWARDER,
    HAULIER,
    PAYMENTS,
    POTTERY,
    RETAILER,
    SHIPPING_LINE,
    STORES,
    TOOLMAKER,
    Company,
)
from hansa.network.intake import Inclusion
from hansa.node.node import Node
from hansa.service.bank.model import Issue, OpenCurrency
from hansa.service.catalogue.model import Register
from hansa.service.orders.model import (
    Accept,
    Cancel,
    Confirm,
    Dispatch,
    Fund,
    LineOffer,
    Place,
    Terms,
)
from hansa.service.orders.views import KNOWN_PRODUCTS
from hansa.service.shipments.model import HandOver

HOUR_MS: Final = 3_600_000
PATIENCE_S: Final = 30.0

_address = digester("address")


@dataclass(frozen=True)
class Trade:
    """Two companies and what one buys of the other."""

    buyer: Company
    seller: Company
    carriers: tuple[Company, Company]
    currency: str
    goods: tuple[tuple[str, str, int, int], ...]
    """Reference, name, quantity, price in millionths."""


TRADES: Final = (
    Trade(
        STORES,
        TOOLMAKER,
        (FORWARDER, HAULIER),
        "GBP",
        (
            ("RK-114", "Torque wrench", 24, 38_500_000),
            ("RK-090", "Hex key set", 60, 7_250_000),
        ),
    ),
    Trade(
        RETAILER,
        POTTERY,
        (SHIPPING_LINE, HAULIER),
        "USD",
        (("LC-7", "Celadon tea bowl", 400, 4_180_000),),
    ),
    Trade(
        STORES,
        POTTERY,
        (SHIPPING_LINE, HAULIER),
        "GBP",
        (("LC-12", "Blue-and-white dinner plate", 900, 2_975_000),),
    ),
)


class WebMarket:
    """Plays companies on a started node; a call returns once its effect is in the read model."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._sequences: dict[tuple[str, bytes], int] = {}
        self._moved = threading.Event()
        self._references = 0
        self.products: dict[str, bytes] = {}
        node.on_projected.append(lambda _height: self._moved.set())

    # Signing.

    def account(self, company: Company) -> bytes:
        """Return a company's account."""
        public = self.node.keys.get(company.key).public
        return compute_account(self.node.genesis.consortium, public)

    def send(self, chain: str, message: Message, *signers: Company) -> tuple[bytes, Receipt]:
        """Submit one message; returns the envelope's digest and the receipt."""
        keys = [self.node.keys.get(company.key) for company in signers]
        first = self.account(signers[0])
        sequence = self._sequences.get((chain, first), 0)
        self._sequences[chain, first] = sequence + 1
        body = Body(
            version=1,
            network=self.node.network,
            chain=chain,
            signers=tuple(
                Signer(self.account(company), key.public)
                for company, key in zip(signers, keys, strict=True)
            ),
            lane=0,
            sequence=sequence,
            valid_until_ms=self.node.engine.clock() + HOUR_MS,
            messages=(message,),
        )
        envelope = sign_transaction(body, keys)
        included: Inclusion = self.node.submit(chain, envelope).result(PATIENCE_S)
        assert self.node.wait_projected(included.height)
        return envelope_digest(envelope), included.receipt

    def do(self, chain: str, message: Message, *signers: Company) -> bytes:
        """Submit one message that no rule may refuse; returns the envelope's digest."""
        digest, receipt = self.send(chain, message, *signers)
        assert receipt.error is None, receipt.error
        return digest

    def wait_for(self, is_there: Callable[[], bool]) -> None:
        """Wait until the relay has brought something about."""
        while not is_there():
            self._moved.clear()
            if not is_there():
                assert self._moved.wait(PATIENCE_S), "expected the relay to bring it, got nothing"

    # Trading.

    def open(self) -> None:
        """Open currencies, register products, give every buyer money."""
        for currency in ("GBP", "USD"):
            self.do("trade", OpenCurrency(currency, 2), PAYMENTS)
            for buyer in (STORES, RETAILER):
                self._references += 1
                reference = self._references.to_bytes(16, "big")
                issue = Issue(self.account(buyer), currency, 1_000_000_000, reference)
                self.do("trade", issue, PAYMENTS)
        for trade in TRADES:
            for good, name, _, _ in trade.goods:
                message = Register(good, "", name, "", "691110", trade.seller.country, "C62")
                digest = self.do("product", message, trade.seller)
                self.products[good] = compute_object_id("product", digest, 0)
        self.wait_for(self._are_products_known)

    def _are_products_known(self) -> bool:
        with self.node.read_model.engine.connect() as connection:
            rows = connection.execute(KNOWN_PRODUCTS.select()).all()
        return len(rows) == len(self.products)

    def place(self, trade: Trade, reference: str) -> bytes:
        """Have an order placed; returns its id."""
        now = self.node.ledger.time_ms
        terms = Terms(
            accept_by_ms=now + HOUR_MS,
            fund_by_ms=now + 2 * HOUR_MS,
            ship_by_ms=now + 3 * HOUR_MS,
            deliver_by_ms=now + 4 * HOUR_MS,
            inspection_ms=HOUR_MS,
            return_cost="buyer",
        )
        message = Place(
            seller=self.account(trade.seller),
            currency=trade.currency,
            lines=tuple(
                LineOffer(self.products[good], quantity, price)
                for good, _, quantity, price in trade.goods
            ),
            terms=terms,
            origin=trade.seller.country,
            destination=trade.buyer.country,
            address=_address(encode(reference)),
            reference=reference,
            dated_ms=now,
        )
        return compute_object_id("trade", self.do("trade", message, trade.buyer), 0)

    def accept(self, trade: Trade, order: bytes) -> None:
        """The seller accepts."""
        self.do("trade", Accept(order), trade.seller)

    def cancel(self, trade: Trade, order: bytes) -> None:
        """The buyer steps back."""
        self.do("trade", Cancel(order), trade.buyer)

    def fund(self, trade: Trade, order: bytes) -> bytes:
        """The buyer pays into escrow; returns the shipment that this opens."""
        self.do("trade", Fund(order), trade.buyer)
        self.wait_for(lambda: self._find_shipment(order) is not None)
        shipment = self._find_shipment(order)
        assert shipment is not None
        return shipment

    def _find_shipment(self, order: bytes) -> bytes | None:
        kind = self.node.kinds["shipment"]
        rows = self.node.read_model.list_rows(kind, filters={"order": order.hex()})
        return bytes.fromhex(rows[0]["id"]) if rows else None

    def dispatch(self, trade: Trade, order: bytes) -> None:
        """The seller sends the goods."""
        self.do("trade", Dispatch(order), trade.seller)

    def carry(self, trade: Trade, order: bytes, shipment: bytes) -> None:
        """The goods pass through all hands to the buyer, and the trade chain hears of it."""
        hands = (trade.seller, *trade.carriers, trade.buyer)
        for giver, taker in pairwise(hands):
            message = HandOver(shipment, self.account(taker), giver.place, "")
            self.do("logistics", message, giver, taker)
        self.wait_for(lambda: self.get_status(order) == "delivered")

    def get_status(self, order: bytes) -> str:
        """Return an order's state."""
        row = self.node.read_model.get_row(self.node.kinds["order"], order.hex())
        assert row is not None
        return str(row["status"])

    def confirm(self, trade: Trade, order: bytes) -> None:
        """The buyer releases the money."""
        self.do("trade", Confirm(order), trade.buyer)

    def live(self, trade: Trade, reference: str) -> bytes:
        """Play an order's whole life; returns its id."""
        order = self.place(trade, reference)
        self.accept(trade, order)
        shipment = self.fund(trade, order)
        self.dispatch(trade, order)
        self.carry(trade, order, shipment)
        self.confirm(trade, order)
        return order
