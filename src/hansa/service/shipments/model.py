"""The nouns of shipments: states, messages, packets, records, events, errors."""

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from msgspec import Meta

from hansa.core.codec import (
    U16,
    U32,
    Account,
    ChainName,
    Country,
    ObjectId,
    ShortText,
    TimeMs,
    Value,
)
from hansa.core.errors import Rejected
from hansa.core.hashing import Digest
from hansa.core.transaction import Event, Message, message_number

MODULE: Final = 6

MAX_LEGS: Final = 64
"""Hand-overs to carriers and warehouses, out and back; the one that ends the journey is extra."""
MAX_TERM_MS: Final = 2 * 366 * 24 * 3600 * 1000
"""How far ahead of the block time a shipment may be due: two years."""
MAX_GRACE_MS: Final = 366 * 24 * 3600 * 1000
MAX_LIFETIME_MS: Final = 366 * 24 * 3600 * 1000

Place = Annotated[str, Meta(min_length=1, max_length=64)]
"""A UN/LOCODE (``GBFXT``) or the place in words; at most 64 bytes."""

# The life of a shipment.

Status = Literal[
    "open",
    "in_transit",
    "refused",
    "returning",
    "delivered",
    "lost",
    "returned",
    "cancelled",
    "lapsed",
]
Trigger = Literal[
    "hand_over_to_carrier",
    "hand_over_to_buyer",
    "hand_over_to_seller",
    "report_milestone",
    "report_lost",
    "refuse",
    "cancel_packet",
    "deadline",
]

TRANSITIONS: Final[tuple[tuple[Status, Trigger, Status], ...]] = (
    ("open", "hand_over_to_carrier", "in_transit"),
    ("open", "hand_over_to_buyer", "delivered"),
    ("open", "cancel_packet", "cancelled"),
    ("open", "deadline", "lapsed"),
    ("in_transit", "hand_over_to_carrier", "in_transit"),
    ("in_transit", "hand_over_to_buyer", "delivered"),
    ("in_transit", "report_milestone", "in_transit"),
    ("in_transit", "report_lost", "lost"),
    ("in_transit", "refuse", "refused"),
    ("in_transit", "deadline", "lapsed"),
    ("refused", "hand_over_to_carrier", "returning"),
    ("refused", "hand_over_to_seller", "returned"),
    ("refused", "report_milestone", "refused"),
    ("refused", "report_lost", "lost"),
    ("refused", "deadline", "lapsed"),
    ("returning", "hand_over_to_carrier", "returning"),
    ("returning", "hand_over_to_seller", "returned"),
    ("returning", "report_milestone", "returning"),
    ("returning", "report_lost", "lost"),
    ("returning", "deadline", "lapsed"),
)
"""Every step a shipment can take: from, by what, to. What is not here is WrongStatus."""

NEXT: Final[Mapping[tuple[Status, Trigger], Status]] = {
    (before, trigger): after for before, trigger, after in TRANSITIONS
}
INITIAL: Final[Status] = "open"
FINAL: Final[tuple[Status, ...]] = ("delivered", "lost", "returned", "cancelled", "lapsed")

# Parameters.


class ShipmentsParams(Value):
    """What the genesis says to shipments."""

    trade: ChainName
    """The chain whose funded orders open shipments, and which is told how they ended."""
    packet_lifetime_ms: Annotated[int, Meta(ge=1, le=MAX_LIFETIME_MS)]
    """How long a report to the trade chain may take effect."""
    grace_ms: Annotated[int, Meta(ge=0, le=MAX_GRACE_MS)]
    """How long after ship-by and deliver-by a shipment stays in its state."""


# Messages.


class HandOver(Message, tag=message_number(MODULE, 1)):
    """Pass the goods on: signed by exactly who holds them and who takes them, in either order.

    The seller holds them first. Whoever takes them is a carrier or warehouse; the buyer, which is
    the delivery; or after a refusal the seller, which is the return.
    """

    shipment: ObjectId
    to: Account
    """Who takes the goods."""
    place: Place
    """Where they change hands."""
    note: ShortText
    """About the leg that begins: vehicle, waybill, seal; at most 64 bytes, may be empty."""


class ReportMilestone(Message, tag=message_number(MODULE, 2)):
    """Say how far the goods have come; signed by who holds them."""

    shipment: ObjectId
    code: Literal[
        "loaded",
        "departed",
        "arrived",
        "unloaded",
        "stored",
        "customs_presented",
        "customs_held",
        "customs_cleared",
        "out_for_delivery",
        "delivery_attempted",
    ]
    place: Place
    """Where that was."""
    note: ShortText


class ReportLost(Message, tag=message_number(MODULE, 3)):
    """Say that the goods are gone; signed by who holds them, for he answers for them."""

    shipment: ObjectId
    reason: ShortText


class Refuse(Message, tag=message_number(MODULE, 4)):
    """Refuse the goods on their way; signed by the buyer. They stay with who holds them."""

    shipment: ObjectId
    reason: ShortText


# Packets that this module takes; their senders mirror them.


class OpenShipment(Value, tag=1):
    """A funded order wants its goods brought."""

    order: ObjectId
    seller: Account
    buyer: Account
    origin: Country
    destination: Country
    ship_by_ms: TimeMs
    deliver_by_ms: TimeMs
    """Later than ship_by_ms."""
    address: Digest
    """Salted commitment to the address; the address itself travels off the ledger."""


class CancelShipment(Value, tag=2):
    """The order has ended before its goods moved."""

    order: ObjectId


# Records.


class Shipment(Value):
    """A shipment as it now is, with who holds the goods."""

    id: ObjectId
    order: ObjectId
    """On the trade chain; one shipment each."""
    seller: Account
    """The shipper, who holds the goods first."""
    buyer: Account
    """The consignee."""
    origin: Country
    destination: Country
    ship_by_ms: TimeMs
    deliver_by_ms: TimeMs
    address: Digest
    """Salted commitment to the consignee's address."""
    opened_ms: TimeMs
    status: Status
    deadline_ms: TimeMs
    """After this block time the status ends by itself; 0 once it is final."""
    leg: U16
    """Hand-overs so far; 0 while the seller still holds the goods."""
    holder: Account
    """Who holds the goods now, or held them when they were lost or lapsed."""
    held_since_ms: TimeMs
    held_since_place: ShortText
    """Where the holder took the goods; the country of origin for leg 0."""
    place: ShortText
    """Where the goods were last reported."""
    milestone: ShortText
    """Code of the last milestone; empty before the first."""
    reason: ShortText
    """Why the goods were refused or lost; empty otherwise."""
    report: Literal["none", "sent", "done", "refused", "expired"]
    """What became of the one packet that tells the trade chain how the shipment ended."""
    report_error: U32
    """Number of the trade chain's refusal; 0 otherwise."""


class ShipmentReference(Value):
    """Points from an order, or from a packet underway, to its shipment."""

    shipment: ObjectId


# Events: each carries the whole shipment as it then is.


class Opened(Event, tag=message_number(MODULE, 0x81)):
    """A funded order has opened a shipment; the seller holds the goods."""

    shipment: Shipment


class HandedOver(Event, tag=message_number(MODULE, 0x82)):
    """The goods are with the next carrier or warehouse; with what the leg before was."""

    shipment: Shipment
    previous_holder: Account
    previous_since_ms: TimeMs
    previous_place: ShortText
    """Where the leg before began."""
    note: ShortText


class Delivered(Event, tag=message_number(MODULE, 0x83)):
    """The buyer has taken the goods; with what the leg before was."""

    shipment: Shipment
    previous_holder: Account
    previous_since_ms: TimeMs
    previous_place: ShortText
    note: ShortText


class Returned(Event, tag=message_number(MODULE, 0x84)):
    """The seller has taken refused goods back; with what the leg before was."""

    shipment: Shipment
    previous_holder: Account
    previous_since_ms: TimeMs
    previous_place: ShortText
    note: ShortText


class MilestoneReported(Event, tag=message_number(MODULE, 0x85)):
    """The goods have come this far: code and place are in the shipment."""

    shipment: Shipment
    note: ShortText


class Lost(Event, tag=message_number(MODULE, 0x86)):
    """The holder has reported the goods lost."""

    shipment: Shipment


class Refused(Event, tag=message_number(MODULE, 0x87)):
    """The buyer has refused the goods; they stay with the holder."""

    shipment: Shipment


class Cancelled(Event, tag=message_number(MODULE, 0x88)):
    """The order ended before the goods moved."""

    shipment: Shipment


class Lapsed(Event, tag=message_number(MODULE, 0x89)):
    """Nobody did anything in time; the record says who held the goods."""

    shipment: Shipment


class ReportAcknowledged(Event, tag=message_number(MODULE, 0x8A)):
    """The trade chain has answered, or the report has expired."""

    shipment: Shipment


# Errors. Numbers are never reused.


class UnknownShipment(Rejected):
    number = 6001
    says = "shipment: expected one on this chain, got {given}"


class WrongStatus(Rejected):
    number = 6002
    says = "status: expected {expected}, got {given}"


class NotHolder(Rejected):
    number = 6003
    says = "signers: expected {holder} who holds the goods, got {given}"


class NotConsignee(Rejected):
    number = 6004
    says = "signers: expected the consignee {consignee}, got {given}"


class MissingSigner(Rejected):
    number = 6005
    says = "signers: expected {missing} who {does} the goods too, got {given}"


class UnexpectedSigner(Rejected):
    number = 6006
    says = "signers: expected only {holder} who gives and {to} who takes, got {given}"


class SameHolder(Rejected):
    number = 6007
    says = "to: expected another account than the holder, got {to}"


class TooManyLegs(Rejected):
    number = 6008
    says = "to: expected the end of the journey after {limit} legs, got leg {given}"


class WrongSource(Rejected):
    number = 6009
    says = "source: expected a packet of {expected}, got one of {given}"


class MalformedPacket(Rejected):
    number = 6010
    says = "payload: expected a packet for shipments, got {given} other bytes"


class DuplicateOrder(Rejected):
    number = 6011
    says = "order: expected one without a shipment, got {order} which has {shipment}"


class SameParty(Rejected):
    number = 6012
    says = "buyer: expected another account than the seller, got {given}"


class WrongTerm(Rejected):
    number = 6013
    says = "deliver_by_ms: expected after {earliest} and at most {latest}, got {given}"


class TooLate(Rejected):
    number = 6014
    says = "ship_by_ms: expected at least {earliest}, got {given}"


class UnknownOrder(Rejected):
    number = 6015
    says = "order: expected one with a shipment, got {given}"


EVENTS: Final[tuple[type[Event], ...]] = (
    Opened,
    HandedOver,
    Delivered,
    Returned,
    MilestoneReported,
    Lost,
    Refused,
    Cancelled,
    Lapsed,
    ReportAcknowledged,
)

ERRORS: Final[tuple[type[Rejected], ...]] = (
    UnknownShipment,
    WrongStatus,
    NotHolder,
    NotConsignee,
    MissingSigner,
    UnexpectedSigner,
    SameHolder,
    TooManyLegs,
    WrongSource,
    MalformedPacket,
    DuplicateOrder,
    SameParty,
    WrongTerm,
    TooLate,
    UnknownOrder,
)
