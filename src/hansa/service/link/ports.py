"""What link needs of other modules, and what they give it to call."""

from collections.abc import Callable, Mapping
from typing import Protocol

from hansa.core.module import Context
from hansa.core.packet import Acknowledgement


class Members(Protocol):
    """Governance."""

    def take_resolution(
        self, ctx: Context, resolution: bytes, purpose: str, subject: bytes
    ) -> None:
        """Consume a passed resolution for exactly this purpose and subject, or reject."""


OnPacket = Callable[[Context, str, bytes], None]
"""(ctx, source chain, payload); a Rejected is acknowledged to the sender as refused."""
OnAcknowledgement = Callable[[Context, str, int, Acknowledgement], None]
"""(ctx, destination chain, sequence, acknowledgement)."""
Routes = Mapping[int, tuple[OnPacket | None, OnAcknowledgement | None]]
"""By module number: who takes packets, and who hears what became of those it sent."""
