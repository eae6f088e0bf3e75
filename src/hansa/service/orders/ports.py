"""What orders ask of other modules, and what they say to other chains."""

from typing import Final, Protocol

from hansa.core.codec import Account, Country, ObjectId, TimeMs, Value
from hansa.core.hashing import Digest
from hansa.core.module import Context

SELL: Final = "sell"
"""The right to offer goods in the name of one's organisation."""

SHIPMENTS_MODULE: Final = 6
"""Number of the module that takes OpenShipment and CancelShipment on the logistics chain."""


class Members(Protocol):
    """Who belongs to whom, and may do what."""

    def require(self, ctx: Context, account: bytes, right: str) -> bytes:
        """Return the account's organisation in good standing; raises if it lacks the right."""

    def require_party(self, ctx: Context, account: bytes) -> None:
        """Raise unless the account belongs to, or was registered by, a member in good standing."""

    def get_holder(self, ctx: Context, account: bytes) -> bytes | None:
        """Return the organisation that an account belongs to or was registered by."""


class Bank(Protocol):
    """All that moves money. What it refuses it refuses by errors of its own."""

    def get_exponent(self, ctx: Context, currency: str) -> int:
        """Return how many digits the currency's minor unit has; raises where nobody issues it."""

    def transfer(
        self,
        ctx: Context,
        debit: bytes,
        credit: bytes,
        currency: str,
        amount_minor: int,
        reference: bytes,
    ) -> None:
        """Move money between two accounts."""

    def open_hold(
        self,
        ctx: Context,
        account: bytes,
        currency: str,
        amount_minor: int,
        until_ms: int | None,
        reference: bytes,
    ) -> bytes:
        """Set money of an account apart; returns the hold's id."""

    def post_hold(self, ctx: Context, hold: bytes, credit: bytes, amount_minor: int) -> None:
        """Move some of what is held to an account; the hold ends when nothing is left."""

    def void_hold(self, ctx: Context, hold: bytes) -> int:
        """Give what is still held back to the account it came from; returns how much."""


class Link(Protocol):
    """The way to other chains."""

    def send(
        self, ctx: Context, destination: str, module: int, payload: bytes, deadline_ms: int
    ) -> int:
        """Send a packet; returns its sequence. Raises where the chain can't be reached."""

    def has_client(self, ctx: Context, chain: str) -> bool:
        """Tell whether packets to a chain can be sent."""


# What the logistics chain is told; the formats belong to the module shipments.


class OpenShipment(Value, tag=1):
    """An order is funded: its goods may be taken over."""

    order: ObjectId
    seller: Account
    """Who gives the goods away."""
    buyer: Account
    """Who receives them."""
    origin: Country
    destination: Country
    ship_by_ms: TimeMs
    deliver_by_ms: TimeMs
    address: Digest
    """Salted commitment to the address of delivery."""


class CancelShipment(Value, tag=2):
    """An order was cancelled: its goods stay where they are."""

    order: ObjectId
