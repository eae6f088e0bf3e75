"""Who may ask what: everyone in a sandbox and on the public log, else who has a token for it."""

from typing import Any, Final

from litestar.connection import ASGIConnection
from litestar.handlers.base import BaseRouteHandler

from hansa.interface.http.problems import ScopeMissing, TokenNeeded
from hansa.interface.http.tokens import READ, Token, TokenStore
from hansa.node.node import Node

Connection = ASGIConnection[Any, Any, Any, Any]

TOKEN: Final = "token"  # noqa: S105 - the name of a place, not a secret


class Access:
    """Judges a request by its bearer token."""

    def __init__(self, node: Node, tokens: TokenStore) -> None:
        self._node = node
        self._tokens = tokens

    def require(self, connection: Connection, scope: str) -> Token:
        """Return the request's token, which covers the scope.

        Raises: TokenNeeded, ScopeMissing.
        """
        header = connection.headers.get("authorization")
        if header is None:
            raise TokenNeeded(expected=f"with the scope {scope}", given="none")
        kind, _, secret = header.partition(" ")
        now_ms = self._node.engine.clock()
        token = self._tokens.find(secret, now_ms) if kind.lower() == "bearer" else None
        if token is None:
            # What was sent is not repeated: it may be a good token with one letter lost.
            raise TokenNeeded(expected="that is in force", given="another")
        if not token.allows(scope):
            raise ScopeMissing(expected=scope, given=", ".join(token.scopes))
        return token

    def guard_reading(self, connection: Connection, _: BaseRouteHandler) -> None:
        """Let a sandbox be read by everyone, and other networks with a token."""
        if not self._node.is_sandbox:
            self.require(connection, READ)
