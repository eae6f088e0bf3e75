"""What validators need of other modules."""

from typing import Protocol

from hansa.core.module import Context


class Trusted(Protocol):
    """What this chain trusts of a network."""

    @property
    def network(self) -> bytes:
        """The network's id."""


class Client(Protocol):
    """What this chain knows of another."""

    @property
    def trusted(self) -> Trusted:
        """The network that the chain belongs to."""


class Link(Protocol):
    """The way to the seats."""

    def get_client(self, ctx: Context, chain: str) -> Client | None:
        """Return what is known of a chain, or None."""

    def send(
        self, ctx: Context, destination: str, module: int, payload: bytes, deadline_ms: int
    ) -> int:
        """Send a packet; returns its sequence."""


class Members(Protocol):
    """Membership and governance."""

    def require_admitted(self, ctx: Context, organisation: bytes) -> None:
        """Refuse an organisation that is no member in good standing."""

    def take_resolution(
        self, ctx: Context, resolution: bytes, purpose: str, subject: bytes
    ) -> None:
        """Consume a passed resolution for exactly this purpose and subject, or reject."""
