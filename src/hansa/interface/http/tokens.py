"""Bearer tokens: shown once, kept as hashes, limited by scope, account and time."""

import fcntl
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Final

import msgspec
from msgspec import Struct

from hansa.core.errors import OperatorError
from hansa.node.home import write_private

PREFIX: Final = "hansa_"
"""So that a token left in a file is recognised for what it is."""
TOKEN_BYTES: Final = 32
MAX_TOKENS: Final = 10_000

READ: Final = "read"
SUBMIT: Final = "submit"


class Token(Struct, frozen=True, forbid_unknown_fields=True):
    """A token as it is stored; the secret itself is nowhere."""

    id: str
    hash: str
    """SHA-256 of the token in hex; 256 random bits need no slow hash."""
    scopes: tuple[str, ...]
    """``read``, ``submit`` or ``submit:MODULE``."""
    account: str
    """Name of the key that signs for the caller."""
    created_ms: int
    expires_ms: int | None
    """First moment at which it is worth nothing; None for never."""

    def allows(self, scope: str) -> bool:
        """Tell whether the token covers a scope; ``submit`` covers ``submit:orders``."""
        return scope in self.scopes or scope.partition(":")[0] in self.scopes


@dataclass(frozen=True)
class IssuedToken:
    """A new token: the only moment at which its secret can be read."""

    secret: str
    token: Token


class TokenStore:
    """``HOME/tokens.json``: also changed by commands while a node reads it."""

    def __init__(self, home: Path) -> None:
        self.path = home / "tokens.json"
        self._lock = Lock()
        self._stamp: tuple[int, int, int] | None = None
        self._by_hash: dict[str, Token] = {}

    def new(
        self, scopes: Sequence[str], *, account: str, now_ms: int, expires_ms: int | None = None
    ) -> IssuedToken:
        """Make a token and return its secret, which is shown this once.

        Raises: OperatorError for an unknown scope, or when there are too many tokens.
        """
        if not scopes:
            raise OperatorError("scope: expected at least one, got none")
        for scope in scopes:
            check_scope(scope)
        with self._writing():
            tokens = self._read()
            if len(tokens) >= MAX_TOKENS:
                raise OperatorError(f"tokens: expected at most {MAX_TOKENS}, got one more")
            secret = PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
            token = Token(
                id=secrets.token_hex(4),
                hash=_hash(secret),
                scopes=tuple(dict.fromkeys(scopes)),
                account=account,
                created_ms=now_ms,
                expires_ms=expires_ms,
            )
            self._write([*tokens, token])
        return IssuedToken(secret, token)

    def revoke(self, identifier: str) -> None:
        """Make a token worthless at once.

        Raises: OperatorError if there is none of that id.
        """
        with self._writing():
            tokens = self._read()
            left = [token for token in tokens if token.id != identifier]
            if len(left) == len(tokens):
                raise OperatorError(f"token: expected the id of one that exists, got {identifier}")
            self._write(left)

    def list_tokens(self) -> list[Token]:
        """Return all tokens, in the order they were made."""
        with self._lock:
            return self._read()

    def find(self, secret: str, now_ms: int) -> Token | None:
        """Return the token of a secret, or None if it is unknown, revoked or expired."""
        with self._lock:
            self._refresh()
            # Looked up by hash: how long it takes tells nothing about any stored token.
            token = self._by_hash.get(_hash(secret))
        if token is None or (token.expires_ms is not None and token.expires_ms <= now_ms):
            return None
        return token

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Keep other writers out, those of other processes too: none undoes a revocation."""
        with self._lock, self.path.with_suffix(".lock").open("a") as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            yield

    def _refresh(self) -> None:
        stamp = self._read_stamp()
        if stamp != self._stamp:
            self._by_hash = {token.hash: token for token in self._read()}
            self._stamp = stamp

    def _read_stamp(self) -> tuple[int, int, int] | None:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return None
        # The file is replaced, never rewritten: a new inode tells of changes within one tick.
        return status.st_ino, status.st_mtime_ns, status.st_size

    def _read(self) -> list[Token]:
        if not self.path.exists():
            return []
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=list[Token])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise OperatorError(f"{self.path}: {error}") from None

    def _write(self, tokens: Sequence[Token]) -> None:
        write_private(self.path, msgspec.json.format(msgspec.json.encode(tokens), indent=2))


def check_scope(scope: str) -> None:
    """Check that a scope is one that something asks for.

    Raises: OperatorError.
    """
    kind, _, module = scope.partition(":")
    is_module = module.isidentifier() and module.islower()
    if scope not in (READ, SUBMIT) and not (kind == SUBMIT and is_module):
        raise OperatorError(f"scope: expected read, submit or submit:MODULE, got {scope!r}")


def _hash(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()
