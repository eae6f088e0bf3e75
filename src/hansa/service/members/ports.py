"""What this module needs of others."""

from typing import Protocol

from hansa.core.module import Context


class Link(Protocol):
    """The way to other chains."""

    def has_client(self, ctx: Context, chain: str) -> bool:
        """Tell whether packets to a chain can be sent."""

    def send(
        self, ctx: Context, destination: str, module: int, payload: bytes, deadline_ms: int
    ) -> int:
        """Send a packet to a module of another chain; returns its sequence."""
