"""The nouns of an order: what its parties say, what is remembered, and the table of its life."""

from typing import Annotated, Final, Literal, NamedTuple

from msgspec import Meta

from hansa.core.codec import (
    I64,
    U8,
    U16,
    U32,
    U63,
    Account,
    ChainName,
    Currency,
    DurationMs,
    FreeText,
    Name,
    ObjectId,
    ShortText,
    TimeMs,
    Value,
)
from hansa.core.errors import Rejected
from hansa.core.hashing import Digest
from hansa.core.transaction import Event, Message, message_number

MODULE: Final = 5

MAX_LINES: Final = 1_000
MAX_TOTAL_MINOR: Final = 10**15
"""An order's total in minor units; far from the ends of 64 bits however it is added up."""
MAX_TERM_MS: Final = 732 * 24 * 3600 * 1000
"""How far ahead of its placing an order's last deadline may lie: two years."""
MAX_INSPECTION_MS: Final = 366 * 24 * 3600 * 1000

CountryCode = Annotated[str, Meta(min_length=2, max_length=2, pattern=r"^[A-Z]{2}$")]
"""ISO 3166-1 alpha-2."""
CurrencyCode = Annotated[str, Meta(min_length=3, max_length=3, pattern=r"^[A-Z]{3}$")]
"""ISO 4217."""
Quantity = Annotated[int, Meta(ge=1, le=0xFFFF_FFFF)]
AmountMinor = Annotated[int, Meta(ge=1, le=MAX_TOTAL_MINOR)]
"""Money in the currency's minor unit."""


# The life of an order, as data. The rules look every step up here; tools/draw_states.py draws it.

Status = Literal[
    "placed",
    "accepted",
    "funded",
    "dispatched",
    "delivered",
    "returning",
    "declined",
    "cancelled",
    "lapsed",
    "refunded",
    "released",
]

STATUSES: Final[tuple[Status, ...]] = (
    "placed",
    "accepted",
    "funded",
    "dispatched",
    "delivered",
    "returning",
    "declined",
    "cancelled",
    "lapsed",
    "refunded",
    "released",
)
FINAL_STATUSES: Final[tuple[Status, ...]] = (
    "declined",
    "cancelled",
    "lapsed",
    "refunded",
    "released",
)
"""Nothing is held for such an order, and no deadline waits."""

Trigger = Literal[
    "place",
    "accept",
    "decline",
    "fund",
    "dispatch",
    "confirm",
    "cancel by buyer",
    "cancel by seller",
    "request return",
    "accept return",
    "refuse return",
    "refund",
    "shipment not opened",
    "shipment delivered",
    "shipment lost",
    "shipment refused",
    "deadline",
]


class Transition(NamedTuple):
    """A step that an order may take; from None it comes into being."""

    source: Status | None
    trigger: Trigger
    targets: tuple[Status, ...]
    """Two where the amounts decide: refunded if nothing is left for the seller, else released."""


TRANSITIONS: Final = (
    Transition(None, "place", ("placed",)),
    Transition("placed", "accept", ("accepted",)),
    Transition("placed", "decline", ("declined",)),
    Transition("placed", "cancel by buyer", ("cancelled",)),
    Transition("placed", "deadline", ("lapsed",)),
    Transition("accepted", "fund", ("funded",)),
    Transition("accepted", "cancel by buyer", ("cancelled",)),
    Transition("accepted", "cancel by seller", ("cancelled",)),
    Transition("accepted", "deadline", ("lapsed",)),
    Transition("funded", "dispatch", ("dispatched",)),
    Transition("funded", "cancel by buyer", ("refunded",)),
    Transition("funded", "cancel by seller", ("refunded",)),
    Transition("funded", "shipment not opened", ("refunded",)),
    Transition("funded", "shipment delivered", ("delivered",)),
    Transition("funded", "shipment lost", ("refunded",)),
    Transition("funded", "shipment refused", ("refunded",)),
    Transition("funded", "deadline", ("refunded",)),
    Transition("dispatched", "confirm", ("released",)),
    Transition("dispatched", "shipment delivered", ("delivered",)),
    Transition("dispatched", "shipment lost", ("refunded",)),
    Transition("dispatched", "shipment refused", ("refunded",)),
    Transition("dispatched", "deadline", ("refunded",)),
    Transition("delivered", "confirm", ("released",)),
    Transition("delivered", "request return", ("returning",)),
    Transition("delivered", "deadline", ("released",)),
    Transition("returning", "accept return", ("released", "refunded")),
    Transition("returning", "refuse return", ("released",)),
    Transition("returning", "deadline", ("released", "refunded")),
    Transition("released", "refund", ("released",)),
)

TARGETS: Final = {(step.source, step.trigger): step.targets for step in TRANSITIONS}
"""Where a trigger leads from a state; absent where it leads nowhere."""


# What can be said.


class Terms(Value):
    """What the parties agree on, but for goods and price. Times rise in the order given."""

    accept_by_ms: TimeMs
    """Last block time at which the seller may accept."""
    fund_by_ms: TimeMs
    """Last block time at which the buyer may pay into escrow."""
    ship_by_ms: TimeMs
    """Last block time at which the seller may dispatch."""
    deliver_by_ms: TimeMs
    """Last block time at which delivery counts, later than ship-by; then the money goes back."""
    inspection_ms: Annotated[int, Meta(ge=0, le=MAX_INSPECTION_MS)]
    """How long from delivery the buyer may ask to return goods; then the seller is paid."""
    return_cost: Literal["buyer", "seller"]
    """Who bears the carriage of goods that go back; it is settled outside escrow."""


class LineOffer(Value):
    """One line as the buyer places it; the same product may stand on several lines."""

    product: ObjectId
    quantity: Quantity
    price_e6: U63
    """Price of one unit in millionths of the currency's major unit."""


class Place(Message, tag=message_number(MODULE, 1)):
    """Place an order; the first signer is the buyer."""

    seller: Account
    currency: CurrencyCode
    lines: Annotated[tuple[LineOffer, ...], Meta(min_length=1, max_length=MAX_LINES)]
    terms: Terms
    origin: CountryCode
    """From where the goods go."""
    destination: CountryCode
    address: Digest
    """Salted commitment to the address of delivery."""
    reference: ShortText
    """The buyer's own number of the order; need not be unique."""
    dated_ms: I64
    """The commercial date of the order; data, which no rule reads."""


class Accept(Message, tag=message_number(MODULE, 2)):
    """The seller takes the order on."""

    order: ObjectId


class Decline(Message, tag=message_number(MODULE, 3)):
    """The seller does not take the order on."""

    order: ObjectId
    reason: FreeText


class Fund(Message, tag=message_number(MODULE, 4)):
    """The buyer pays the total into escrow, and the shipment is opened."""

    order: ObjectId


class Dispatch(Message, tag=message_number(MODULE, 5)):
    """The seller says that the goods are on their way."""

    order: ObjectId


class Confirm(Message, tag=message_number(MODULE, 6)):
    """The buyer is content: the money goes to the seller now."""

    order: ObjectId


class Cancel(Message, tag=message_number(MODULE, 7)):
    """Either side steps back before the goods are dispatched; money in escrow goes back whole."""

    order: ObjectId


class ReturnLine(Value):
    """How much of a line the buyer sends back."""

    line: U16
    """Index in the order, from 0."""
    quantity: Quantity


class RequestReturn(Message, tag=message_number(MODULE, 8)):
    """The buyer wants to send goods back within the inspection window."""

    order: ObjectId
    lines: Annotated[tuple[ReturnLine, ...], Meta(min_length=1, max_length=MAX_LINES)]
    """Indexes rise."""


class AcceptReturn(Message, tag=message_number(MODULE, 9)):
    """The seller takes the goods back: their price goes back, the rest to the seller."""

    order: ObjectId


class RefuseReturn(Message, tag=message_number(MODULE, 10)):
    """The seller does not take the goods back: the money goes to him whole."""

    order: ObjectId
    reason: FreeText


class RefundLine(Value):
    """How much of a line is refunded after its release."""

    line: U16
    """Index in the order, from 0."""
    quantity: U32
    """Units that come back; 0 for an allowance on goods the buyer keeps."""
    amount_minor: AmountMinor


class Refund(Message, tag=message_number(MODULE, 11)):
    """The seller pays back after the release; the account that signs pays."""

    order: ObjectId
    lines: Annotated[tuple[RefundLine, ...], Meta(min_length=1, max_length=MAX_LINES)]
    """Indexes rise."""


class IssueCreditNote(Message, tag=message_number(MODULE, 12)):
    """A seller pays a buyer for something that no order covers; the account that signs pays."""

    buyer: Account
    currency: CurrencyCode
    amount_minor: AmountMinor
    reference: ShortText
    """The seller's own number of the note."""
    reason: FreeText


# What is remembered.


class OrdersParams(Value):
    """What the genesis says to this module."""

    catalogue_chain: ChainName
    """The only chain that is believed about products."""
    logistics_chain: ChainName
    """The only chain that is believed about shipments, and that opens them."""
    return_answer_ms: DurationMs
    """How long the seller may take to answer a request to return goods."""


class Order(Value):
    """An order as it now is, but for its lines."""

    id: ObjectId
    reference: ShortText
    buyer: Account
    seller: Account
    organisation: ObjectId
    """The seller's."""
    status: Status
    deadline_ms: TimeMs
    """Last block time of the present state; 0 in a final one."""
    currency: Currency
    total_minor: U63
    refunded_minor: U63
    """What the buyer has got back, from escrow or from the seller."""
    hold: ObjectId | None
    """The escrow in the bank; None until funded."""
    terms: Terms
    origin: CountryCode
    destination: CountryCode
    address: Digest
    line_count: U16
    dated_ms: I64
    placed_ms: TimeMs
    updated_ms: TimeMs


class Line(Value):
    """A line of an order as it now is."""

    product: ObjectId
    quantity: U32
    price_e6: U63
    """Price of one unit in millionths of the currency's major unit."""
    amount_minor: U63
    """Quantity times price, rounded half up to the minor unit."""
    claimed: U32
    """Units the buyer wants to send back and the seller has not answered for."""
    returned: U32
    """Units sent back."""
    refunded_minor: U63
    """What of the amount has gone back; at most the amount."""


class OrderLines(Value):
    """All lines of an order; they change only with returns and refunds."""

    exponent: U8
    """Decimals of the currency's minor unit when the order was placed."""
    lines: Annotated[tuple[Line, ...], Meta(max_length=MAX_LINES)]


class Shipping(Value):
    """Which order an unacknowledged OpenShipment is about."""

    order: ObjectId


class CreditNote(Value):
    """A payment of a seller to a buyer that no order covers."""

    id: ObjectId
    seller: Account
    """The account that paid."""
    organisation: ObjectId
    """The seller's."""
    buyer: Account
    currency: Currency
    amount_minor: U63
    reference: ShortText
    reason: FreeText
    issued_ms: TimeMs


# What other chains say; these formats are this module's.


class ProductListed(Value, tag=1):
    """A product as the catalogue now has it; the record of it here, too."""

    product: ObjectId
    seller: Account
    """Account that described the product last."""
    revision: U32
    """Rises with every change; an older one is passed over."""
    is_listed: bool
    """False once withdrawn."""
    name: Name
    hs_code: Annotated[str, Meta(max_length=10)]
    """6 to 10 digits of the Harmonized System and its national extensions, or empty."""
    origin: Annotated[str, Meta(max_length=2)]
    """ISO 3166-1 alpha-2, or empty."""


class ShipmentDelivered(Value, tag=2):
    """The buyer's side has taken the goods over."""

    order: ObjectId
    shipment: ObjectId
    delivered_ms: TimeMs
    """Block time of the logistics chain; the inspection window counts this chain's."""


class ShipmentLost(Value, tag=3):
    """The goods will not arrive."""

    order: ObjectId
    shipment: ObjectId
    reason: ShortText


class ShipmentRefused(Value, tag=4):
    """The consignee did not take the goods."""

    order: ObjectId
    shipment: ObjectId


ShipmentReport = ShipmentDelivered | ShipmentLost | ShipmentRefused


# What came of it.


class ChangedLine(Value):
    """A line with its index in the order."""

    index: U16
    line: Line


ChangedLines = Annotated[tuple[ChangedLine, ...], Meta(max_length=MAX_LINES)]
Cause = Literal[
    "confirmed",
    "inspection over",
    "return accepted",
    "return refused",
    "return unanswered",
    "cancelled by buyer",
    "cancelled by seller",
    "not dispatched in time",
    "not delivered in time",
    "shipment not opened",
    "shipment lost",
    "shipment refused",
]
"""Why escrow ended."""


class Placed(Event, tag=message_number(MODULE, 0x81)):
    """An order was placed."""

    order: Order
    lines: Annotated[tuple[Line, ...], Meta(max_length=MAX_LINES)]


class Accepted(Event, tag=message_number(MODULE, 0x82)):
    """The seller took the order on."""

    order: Order


class Declined(Event, tag=message_number(MODULE, 0x83)):
    """The seller did not take the order on."""

    order: Order
    reason: FreeText


class Funded(Event, tag=message_number(MODULE, 0x84)):
    """The total is in escrow."""

    order: Order


class Dispatched(Event, tag=message_number(MODULE, 0x85)):
    """The seller sent the goods."""

    order: Order


class Delivered(Event, tag=message_number(MODULE, 0x86)):
    """The logistics chain proved delivery; the inspection window is open."""

    order: Order
    shipment: ObjectId
    delivered_ms: TimeMs
    """Block time of the logistics chain."""


class Cancelled(Event, tag=message_number(MODULE, 0x87)):
    """A side stepped back before any money was in escrow."""

    order: Order
    by: Literal["buyer", "seller"]


class Lapsed(Event, tag=message_number(MODULE, 0x88)):
    """A deadline passed before any money was in escrow."""

    order: Order


class ReturnRequested(Event, tag=message_number(MODULE, 0x89)):
    """The buyer wants to send goods back."""

    order: Order
    lines: ChangedLines


class Released(Event, tag=message_number(MODULE, 0x8A)):
    """Escrow ended: the seller got the total but for what was returned."""

    order: Order
    cause: Cause
    reason: FreeText
    """The seller's words where he refused a return; else empty."""
    lines: ChangedLines
    """Lines that changed with it."""


class Refunded(Event, tag=message_number(MODULE, 0x8B)):
    """Escrow ended: the buyer got all of it back."""

    order: Order
    cause: Cause
    lines: ChangedLines
    """Lines that changed with it."""


class LinesRefunded(Event, tag=message_number(MODULE, 0x8C)):
    """The seller paid back after the release."""

    order: Order
    payer: Account
    amount_minor: U63
    lines: ChangedLines


class CreditNoteIssued(Event, tag=message_number(MODULE, 0x8D)):
    """A seller paid a buyer for something that no order covers."""

    credit_note: CreditNote


class ShipmentNotOpened(Event, tag=message_number(MODULE, 0x8E)):
    """The logistics chain did not open the shipment of an order."""

    order: ObjectId
    error: U32
    """Number of the refusal; 0 where the packet expired."""


class LateReport(Event, tag=message_number(MODULE, 0x8F)):
    """A report of the logistics chain came when it could change nothing; no money moved."""

    order: ObjectId
    shipment: ObjectId
    report: Trigger
    status: Status
    """Of the order, which stays."""


class ProductKnown(Event, tag=message_number(MODULE, 0x90)):
    """The catalogue said how a product now is."""

    product: ProductListed


# Why something was refused.


class UnknownOrder(Rejected):
    number = 5001
    says = "order: expected a placed order, got {given}"


class WrongState(Rejected):
    number = 5002
    says = "order: expected one that is {expected} to {trigger}, got {order}, which is {given}"


class TooLate(Rejected):
    number = 5003
    says = "order: expected a block time of at most {expected} while {status}, got {given}"


class NotTheBuyer(Rejected):
    number = 5004
    says = "signers: expected the buyer {expected}, got {given}"


class NotTheSeller(Rejected):
    number = 5005
    says = "signers: expected the seller {expected} or an account of its organisation, got {given}"


class BuyerIsSeller(Rejected):
    number = 5006
    says = "seller: expected someone other than the buyer, got {given}"


class TermsOutOfOrder(Rejected):
    number = 5007
    says = "terms.{field}: expected at least {expected}, got {given}"


class TermsTooLong(Rejected):
    number = 5008
    says = "terms.deliver_by_ms: expected at most {expected}, got {given}"


class AmountTooSmall(Rejected):
    number = 5009
    says = "lines[{line}]: expected at least 1 minor unit, got {quantity} x {price_e6} / 1000000"


class TotalTooLarge(Rejected):
    number = 5010
    says = "lines: expected a total of at most {expected} minor units, got {given}"


class UnknownProduct(Rejected):
    number = 5011
    says = "lines[{line}].product: expected one the catalogue has told of, got {given}"


class ProductWithdrawn(Rejected):
    number = 5012
    says = "lines[{line}].product: expected one on sale, got {given}, which is withdrawn"


class ForeignProduct(Rejected):
    number = 5013
    says = "lines[{line}].product: expected one of the seller's, got {given}, which {seller} sells"


class LinesOutOfOrder(Rejected):
    number = 5014
    says = "lines: expected indexes that rise, got {given} after {previous}"


class UnknownLine(Rejected):
    number = 5015
    says = "lines: expected an index below {expected}, got {given}"


class QuantityTooLarge(Rejected):
    number = 5016
    says = "lines[{line}].quantity: expected at most {expected}, got {given}"


class AmountTooLarge(Rejected):
    number = 5017
    says = "lines[{line}].amount_minor: expected at most {expected}, got {given}"


class UnknownBuyer(Rejected):
    number = 5018
    says = "buyer: expected an account of a member or its customer, got {given}"


class WrongSource(Rejected):
    number = 5019
    says = "packet: expected one from chain {expected}, got one from {given}"


class MalformedPacket(Rejected):
    number = 5020
    says = "packet: expected a report on a product or shipment, got {given} other bytes"


MESSAGES: Final = (
    Place,
    Accept,
    Decline,
    Fund,
    Dispatch,
    Confirm,
    Cancel,
    RequestReturn,
    AcceptReturn,
    RefuseReturn,
    Refund,
    IssueCreditNote,
)
EVENTS: Final = (
    Placed,
    Accepted,
    Declined,
    Funded,
    Dispatched,
    Delivered,
    Cancelled,
    Lapsed,
    ReturnRequested,
    Released,
    Refunded,
    LinesRefunded,
    CreditNoteIssued,
    ShipmentNotOpened,
    LateReport,
    ProductKnown,
)
ERRORS: Final = (
    UnknownOrder,
    WrongState,
    TooLate,
    NotTheBuyer,
    NotTheSeller,
    BuyerIsSeller,
    TermsOutOfOrder,
    TermsTooLong,
    AmountTooSmall,
    TotalTooLarge,
    UnknownProduct,
    ProductWithdrawn,
    ForeignProduct,
    LinesOutOfOrder,
    UnknownLine,
    QuantityTooLarge,
    AmountTooLarge,
    UnknownBuyer,
    WrongSource,
    MalformedPacket,
)
