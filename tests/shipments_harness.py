"""A logistics chain with carriers, a warehouse and one funded order, for the tests of shipments."""

from __future__ import annotations

from typing import Any

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
from hansa.service.members.model import (
    MODULE as MEMBERS,
)
from hansa.service.members.model import (
    AccountGrant,
    Founder,
    MembersParams,
    News,
    Organisation,
    Role,
    compute_founder_id,
)
from hansa.service.members.rules import MembersRules
from hansa.service.members.rules import make_module as make_members
from hansa.service.members.views import VIEWS as MEMBERS_VIEWS
from hansa.service.shipments.model import (
    MODULE,
    CancelShipment,
    HandOver,
    OpenShipment,
    Refuse,
    ReportLost,
    ReportMilestone,
    Shipment,
    ShipmentsParams,
)
from hansa.service.shipments.rules import SHIPMENTS, ShipmentsRules, make_module
from hansa.service.shipments.views import VIEWS

SELLER = make_account("seller")
BUYER = make_account("buyer")
LORRY = make_account("lorry")
SHIP = make_account("ship")
STORE = make_account("store")
STRANGER = make_account("stranger")
ORDER = make_object("order")
GRACE_MS = 2 * DAY_MS
LIFETIME_MS = 7 * DAY_MS
SHIP_BY_MS = START_MS + 5 * DAY_MS
DELIVER_BY_MS = START_MS + 30 * DAY_MS

MEMBERS_OF_THE_CHAIN: tuple[tuple[str, bytes, Role], ...] = (
    ("Weser Ceramics", SELLER, "seller"),
    ("Hinterland Lorries", LORRY, "carrier"),
    ("North Sea Ships", SHIP, "carrier"),
    ("Quay Store", STORE, "warehouse"),
)


def make_packet(**changes: Any) -> OpenShipment:
    """Return a valid opening of a shipment, with changes."""
    fields = {
        "order": ORDER,
        "seller": SELLER,
        "buyer": BUYER,
        "origin": "DE",
        "destination": "GB",
        "ship_by_ms": SHIP_BY_MS,
        "deliver_by_ms": DELIVER_BY_MS,
        "address": make_digest("address"),
    }
    return OpenShipment(**{**fields, **changes})


class Logistics:
    """The chain, with a short way to do each thing."""

    def __init__(self) -> None:
        self.link = RecordingLink("trade")
        members = MembersRules()
        self.rules = ShipmentsRules(members, self.link)
        founders = tuple(
            Founder(name=name, country="DE", roles=(role,), licence="", owner=owner, accounts=())
            for name, owner, role in MEMBERS_OF_THE_CHAIN
        )
        settings = MembersParams(
            registry="anchor",
            peers=(),
            quorum_permille=500,
            voting_period_ms=DAY_MS,
            resolution_lifetime_ms=DAY_MS,
            packet_lifetime_ms=DAY_MS,
            founders=founders,
        )
        shipments = ShipmentsParams(
            trade="trade", packet_lifetime_ms=LIFETIME_MS, grace_ms=GRACE_MS
        )
        self.chain = Harness(
            "logistics",
            (make_members(members, MEMBERS_VIEWS), make_module(self.rules, VIEWS)),
            {"members": settings, "shipments": shipments},
        )

    def open(self, **changes: Any) -> bytes:
        """Open a shipment; returns its id."""
        (event,) = self.take(make_packet(**changes))
        return bytes(event.shipment.id)

    def take(self, packet: OpenShipment | CancelShipment, source: str = "trade") -> list[Any]:
        """Take a packet; returns the events."""
        return self.chain.deliver(source, MODULE, encode(packet))

    def hand_over(self, shipment: bytes, to: bytes, *signers: bytes) -> list[Any]:
        """Hand the goods over, signed by the holder and the taker unless others are named."""
        by = signers or (self.get(shipment).holder, to)
        message = HandOver(shipment=shipment, to=to, place="DEHAM", note="seal 1")
        return self.chain.submit(message, by=by)

    def report(self, shipment: bytes, *signers: bytes) -> list[Any]:
        """Report a milestone, signed by the holder unless others are named."""
        by = signers or (self.get(shipment).holder,)
        message = ReportMilestone(shipment=shipment, code="departed", place="NLRTM", note="")
        return self.chain.submit(message, by=by)

    def lose(self, shipment: bytes, *signers: bytes) -> list[Any]:
        """Report the goods lost, signed by the holder unless others are named."""
        by = signers or (self.get(shipment).holder,)
        return self.chain.submit(ReportLost(shipment=shipment, reason="fire"), by=by)

    def refuse(self, shipment: bytes, *signers: bytes) -> list[Any]:
        """Refuse the goods, signed by the buyer unless others are named."""
        by = signers or (self.get(shipment).buyer,)
        return self.chain.submit(Refuse(shipment=shipment, reason="wet"), by=by)

    def get(self, shipment: bytes) -> Shipment:
        """Return a shipment as it now is."""
        found = self.chain.get(SHIPMENTS, shipment)
        assert found is not None, f"no shipment {shipment.hex()}"
        return found

    def suspend(self, owner: bytes, role: Role) -> None:
        """Have the registry say that an organisation is suspended."""
        organisation = Organisation(
            id=compute_founder_id(owner),
            name="Suspended",
            country="DE",
            roles=(role,),
            licence="",
            status="suspended",
            owner=owner,
            revision=1,
        )
        news = News(organisations=(organisation,), parties=())
        self.chain.deliver("anchor", MEMBERS, encode(news))

    def introduce(self, account: bytes, owner: bytes, *rights: Any) -> None:
        """Have the registry say what an account of an organisation may do."""
        grant = AccountGrant(
            account=account,
            organisation=compute_founder_id(owner),
            rights=rights,
            is_active=True,
            revision=0,
        )
        self.chain.deliver("anchor", MEMBERS, encode(News(organisations=(), parties=(grant,))))
