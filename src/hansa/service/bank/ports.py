"""What this module needs of others."""

from typing import Protocol

from hansa.core.module import Context


class Members(Protocol):
    """Who may do what."""

    def require(self, ctx: Context, account: bytes, right: str) -> bytes:
        """Return the admitted organisation for which an account may do this, or raise."""

    def require_party(self, ctx: Context, account: bytes) -> None:
        """Refuse an account that is neither a member's nor a customer's in good standing."""
