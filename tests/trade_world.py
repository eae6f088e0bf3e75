"""A small market on the trade chain: real members, bank and orders, and orders in any state."""

from __future__ import annotations

from typing import Any

import msgspec
from tests.ledger_harness import (
    DAY_MS,
    START_MS,
    Harness,
    RecordingLink,
    make_account,
    make_digest,
    make_object,
)

from hansa.core.codec import encode
from hansa.core.packet import EXPIRED
from hansa.service.bank import rules as bank_rules
from hansa.service.bank.model import BankParams, Issue, OpenCurrency
from hansa.service.bank.views import VIEWS as BANK_VIEWS
from hansa.service.members import rules as members_rules
from hansa.service.members.model import (
    Founder,
    FounderAccount,
    MembersParams,
    NewCustomer,
    RegisterCustomers,
)
from hansa.service.members.views import VIEWS as MEMBERS_VIEWS
from hansa.service.orders import rules as orders_rules
from hansa.service.orders.model import (
    MODULE,
    Accept,
    AcceptReturn,
    Cancel,
    Confirm,
    Decline,
    Dispatch,
    Fund,
    LineOffer,
    Order,
    OrdersParams,
    Place,
    ProductListed,
    Refund,
    RefundLine,
    RefuseReturn,
    RequestReturn,
    ReturnLine,
    ShipmentDelivered,
    ShipmentLost,
    ShipmentRefused,
    Status,
    Terms,
    Trigger,
)
from hansa.service.orders.views import VIEWS as ORDERS_VIEWS

SELLER = make_account("seller")
COLLEAGUE = make_account("colleague of the seller")
CLERK = make_account("clerk of the seller, who may not sell")
RIVAL = make_account("another seller")
PLATFORM = make_account("platform")
BUYER = make_account("buyer, a customer of the platform")
OTHER_BUYER = make_account("another customer of the platform")
BANKER = make_account("bank")
STRANGER = make_account("nobody knows")

KETTLE = make_object("kettle")
TEAPOT = make_object("teapot")
RIVAL_MUG = make_object("a mug of the rival")
WITHDRAWN_CUP = make_object("a withdrawn cup")
COLLEAGUE_TRAY = make_object("a tray the colleague described")
SHIPMENT = make_object("shipment")

FUNDS_MINOR = 1_000_000
"""What each of seller, colleague, buyer and other buyer has at first, in pence."""

# The shortest way into each state, by messages, packets and time.
WAYS: dict[Status, tuple[Trigger, ...]] = {
    "placed": (),
    "accepted": ("accept",),
    "funded": ("accept", "fund"),
    "dispatched": ("accept", "fund", "dispatch"),
    "delivered": ("accept", "fund", "dispatch", "shipment delivered"),
    "returning": ("accept", "fund", "dispatch", "shipment delivered", "request return"),
    "declined": ("decline",),
    "cancelled": ("cancel by buyer",),
    "lapsed": ("deadline",),
    "refunded": ("accept", "fund", "cancel by seller"),
    "released": ("accept", "fund", "dispatch", "confirm"),
}


def make_terms(time_ms: int = START_MS) -> Terms:
    """Return terms with a day for each step but delivery, which has thirty."""
    return Terms(
        accept_by_ms=time_ms + DAY_MS,
        fund_by_ms=time_ms + 2 * DAY_MS,
        ship_by_ms=time_ms + 3 * DAY_MS,
        deliver_by_ms=time_ms + 33 * DAY_MS,
        inspection_ms=14 * DAY_MS,
        return_cost="buyer",
    )


def make_place(**changes: Any) -> Place:
    """Return an order that is in order: two kettles, four teapots, two more kettles."""
    order = Place(
        seller=SELLER,
        currency="GBP",
        lines=(
            LineOffer(KETTLE, 2, 12_345_000),
            LineOffer(TEAPOT, 4, 1_250_000),
            LineOffer(KETTLE, 2, 12_345_000),
        ),
        terms=make_terms(),
        origin="GB",
        destination="CN",
        address=make_digest("address"),
        reference="PO 4711",
        dated_ms=-1_000,
    )
    return msgspec.structs.replace(order, **changes)


TOTAL_MINOR = 2_469 + 500 + 2_469


def _make_founder(name: str, role: str, owner: bytes, *accounts: FounderAccount) -> Founder:
    return Founder(name, "GB", (role,), "", owner, accounts)  # type: ignore[arg-type]


class Market:
    """The trade chain with its parties; packets are handed over by the test."""

    def __init__(self) -> None:
        self.link = RecordingLink("product", "logistics")
        members = members_rules.MembersRules(self.link)
        self.bank = bank_rules.BankRules(members)
        self.orders = orders_rules.OrdersRules(members, self.bank, self.link)
        self.harness = Harness(
            "trade",
            (
                members_rules.make_module(members, MEMBERS_VIEWS),
                bank_rules.make_module(self.bank, BANK_VIEWS),
                orders_rules.make_module(self.orders, ORDERS_VIEWS),
            ),
            {
                "members": MembersParams(
                    registry="trade",
                    peers=(),
                    quorum_permille=500,
                    voting_period_ms=DAY_MS,
                    resolution_lifetime_ms=DAY_MS,
                    packet_lifetime_ms=DAY_MS,
                    founders=(
                        _make_founder(
                            "Seller",
                            "seller",
                            SELLER,
                            FounderAccount(COLLEAGUE, ("sell",)),
                            FounderAccount(CLERK, ("trade",)),
                        ),
                        _make_founder("Rival", "seller", RIVAL),
                        _make_founder("Platform", "platform", PLATFORM),
                        _make_founder("Bank", "bank", BANKER),
                    ),
                ),
                "bank": BankParams(max_hold_ms=366 * DAY_MS),
                "orders": OrdersParams("product", "logistics", 7 * DAY_MS),
            },
        )
        self._references = 0
        self._open()

    def _open(self) -> None:
        customers = tuple(
            NewCustomer(account, "CN", make_digest("file")) for account in (BUYER, OTHER_BUYER)
        )
        self.harness.submit(RegisterCustomers(customers), by=PLATFORM)
        self.harness.submit(OpenCurrency("GBP", 2), by=BANKER)
        for account in (SELLER, COLLEAGUE, BUYER, OTHER_BUYER):
            self._references += 1
            reference = self._references.to_bytes(16, "big")
            self.harness.submit(Issue(account, "GBP", FUNDS_MINOR, reference), by=BANKER)
        self.list_product(KETTLE, SELLER)
        self.list_product(TEAPOT, SELLER)
        self.list_product(COLLEAGUE_TRAY, COLLEAGUE)
        self.list_product(RIVAL_MUG, RIVAL)
        self.list_product(WITHDRAWN_CUP, SELLER, is_listed=False)

    def list_product(
        self, product: bytes, seller: bytes, revision: int = 1, *, is_listed: bool = True
    ) -> list[Any]:
        """Have the catalogue tell of a product."""
        packet = ProductListed(product, seller, revision, is_listed, "Thing", "691200", "GB")
        return self.harness.deliver("product", MODULE, encode(packet))

    def place(self, by: bytes = BUYER, **changes: Any) -> Order:
        """Place an order, in terms that begin now."""
        changes.setdefault("terms", make_terms(self.harness.time_ms))
        order: Order = self.harness.submit(make_place(**changes), by=by)[-1].order
        return order

    def bring_to(self, status: Status) -> Order:
        """Place an order and lead it to a state."""
        order = self.place()
        for trigger in WAYS[status]:
            self.pull(order, trigger)
        order = self.get(order)
        assert status == order.status
        return order

    def pull(self, order: Order, trigger: Trigger, *, quantity: int = 1) -> list[Any]:
        """Do what is called `trigger` to an order; returns the events. `quantity` is sent back.

        For `deadline` the clock moves past that of the present state.
        """
        message: dict[Trigger, tuple[Any, bytes]] = {
            "accept": (Accept(order.id), SELLER),
            "decline": (Decline(order.id, "sold out"), SELLER),
            "fund": (Fund(order.id), BUYER),
            "dispatch": (Dispatch(order.id), SELLER),
            "confirm": (Confirm(order.id), BUYER),
            "cancel by buyer": (Cancel(order.id), BUYER),
            "cancel by seller": (Cancel(order.id), SELLER),
            "request return": (
                RequestReturn(order.id, (ReturnLine(0, quantity),)),
                BUYER,
            ),
            "accept return": (AcceptReturn(order.id), SELLER),
            "refuse return": (RefuseReturn(order.id, "used"), SELLER),
            "refund": (Refund(order.id, (RefundLine(0, 1, 100),)), SELLER),
        }
        packets: dict[Trigger, Any] = {
            "shipment delivered": ShipmentDelivered(order.id, SHIPMENT, START_MS),
            "shipment lost": ShipmentLost(order.id, SHIPMENT, "storm"),
            "shipment refused": ShipmentRefused(order.id, SHIPMENT),
        }
        if trigger in message:
            said, signer = message[trigger]
            return self.harness.submit(said, by=signer)
        if trigger in packets:
            return self.harness.deliver("logistics", MODULE, encode(packets[trigger]))
        if trigger == "shipment not opened":
            return self.refuse_opening(order)
        assert trigger == "deadline"
        return self.harness.advance_to(max(self.harness.time_ms, self.get(order).deadline_ms + 1))

    def refuse_opening(self, order: Order) -> list[Any]:
        """Let the packet that opens an order's shipment expire at the logistics chain."""
        waiting = self.harness.rows(orders_rules.SHIPPINGS)
        for place, shipping in waiting.items():
            if shipping.order == order.id:
                sequence = int.from_bytes(place[-8:], "big")
                return self.harness.acknowledge("logistics", MODULE, sequence, EXPIRED)
        return []

    # What can be looked at.

    def get(self, order: Order) -> Order:
        """Return an order as it now is."""
        record = self.harness.get(orders_rules.ORDERS, order.id)
        assert record is not None
        return record

    def get_lines(self, order: Order) -> tuple[Any, ...]:
        """Return an order's lines as they now are."""
        record = self.harness.get(orders_rules.LINES, order.id)
        assert record is not None
        return record.lines

    def own_minor(self, account: bytes, currency: str = "GBP") -> int:
        """Return what an account has, held money included."""
        balance = self.harness.get(bank_rules.BALANCES, account + currency.encode())
        return 0 if balance is None else balance.posted_minor

    def held_minor(self) -> int:
        """Return the sum of what all open holds still hold."""
        holds = self.harness.rows(bank_rules.HOLDS).values()
        return sum(hold.amount_minor - hold.posted_minor for hold in holds)

    def find_unsound(self) -> str | None:
        """Return what is wrong with the books, or None."""
        return bank_rules.verify_conservation(
            self.harness.rows(bank_rules.CURRENCIES).values(),
            self.harness.rows(bank_rules.BALANCES).items(),
            self.harness.rows(bank_rules.HOLDS).values(),
        )
