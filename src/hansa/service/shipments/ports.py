"""What shipments need of other modules, and the packets they send to the trade chain."""

from typing import Annotated, Final, Protocol

from msgspec import Meta

from hansa.core.codec import ObjectId, TimeMs, Value
from hansa.core.module import Context

ORDERS_MODULE: Final = 5
"""Number of the module on the trade chain that takes the packets below."""


class Members(Protocol):
    """Who may carry and store."""

    def require(self, ctx: Context, account: bytes, right: str) -> bytes:
        """Return the organisation (16 bytes) whose account has the right.

        Raises: the members module's errors where it is unknown, suspended or without the right.
        """


class Link(Protocol):
    """The way to other chains."""

    def send(
        self, ctx: Context, destination: str, module: int, payload: bytes, deadline_ms: int
    ) -> int:
        """Send a packet; returns its sequence at the destination.

        Raises: the link module's error where the chain has no client of the destination.
        """


class ShipmentDelivered(Value, tag=2):
    """The consignee has signed for the goods."""

    order: ObjectId
    shipment: ObjectId
    delivered_ms: TimeMs
    """Block time of the last hand-over."""


class ShipmentLost(Value, tag=3):
    """Whoever held the goods says that they are gone."""

    order: ObjectId
    shipment: ObjectId
    reason: Annotated[str, Meta(max_length=64)]


class ShipmentRefused(Value, tag=4):
    """The consignee has refused the goods on their way."""

    order: ObjectId
    shipment: ObjectId
