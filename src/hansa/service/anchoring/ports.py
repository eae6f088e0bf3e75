"""What anchoring needs of other modules."""

from typing import Protocol

from hansa.core.block import Header
from hansa.core.evidence import Evidence
from hansa.core.module import Context


class Link(Protocol):
    """Light clients of other chains, and the way to them."""

    def get_peers(self, ctx: Context) -> tuple[str, ...]:
        """Return the chains with a client here, in byte order."""

    def verify_header(self, ctx: Context, chain: str, header: bytes, finality: bytes) -> Header:
        """Judge a header of a chain that may be believed now, or reject."""

    def judge_evidence(self, ctx: Context, chain: str, evidence: Evidence) -> str:
        """Return in words what evidence shows, or reject."""

    def freeze(self, ctx: Context, chain: str, evidence: bytes, reason: str) -> None:
        """Believe nothing more of a chain; frozen already, nothing changes."""

    def send(
        self, ctx: Context, destination: str, module: int, payload: bytes, deadline_ms: int
    ) -> int:
        """Send a packet; returns its sequence."""


class Members(Protocol):
    """Governance."""

    def take_resolution(
        self, ctx: Context, resolution: bytes, purpose: str, subject: bytes
    ) -> None:
        """Consume a passed resolution for exactly this purpose and subject, or reject."""
