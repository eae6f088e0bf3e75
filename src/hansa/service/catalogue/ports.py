"""What the catalogue asks of other modules, and what it says to other chains."""

from typing import Annotated, Final, Protocol

from msgspec import Meta

from hansa.core.codec import U32, Account, Name, ObjectId, Value
from hansa.core.module import Context

SELL: Final = "sell"
"""The right to offer goods in the name of one's organisation."""

ORDERS_MODULE: Final = 5
"""Number of the module that takes :class:`ProductListed` on the chains that are told."""


class Members(Protocol):
    """Who belongs to whom, and may do what."""

    def require(self, ctx: Context, account: bytes, right: str) -> bytes:
        """Return the account's organisation in good standing; raises if it lacks the right."""


class Link(Protocol):
    """The way to other chains."""

    def send(
        self, ctx: Context, destination: str, module: int, payload: bytes, deadline_ms: int
    ) -> int:
        """Send a packet; returns its sequence. Raises where the chain can't be reached."""

    def has_client(self, ctx: Context, chain: str) -> bool:
        """Tell whether packets to a chain can be sent."""


class ProductListed(Value, tag=1):
    """A product as a chain that trades it knows it; the format belongs to the module orders."""

    product: ObjectId
    seller: Account
    """Account that described the product last."""
    revision: U32
    """Rises with every change, from 1."""
    is_listed: bool
    """False once withdrawn."""
    name: Name
    hs_code: Annotated[str, Meta(max_length=10)]
    """6 to 10 digits of the Harmonized System and its national extensions, or empty."""
    origin: Annotated[str, Meta(max_length=2)]
    """ISO 3166-1 alpha-2, or empty."""
