"""Keys that sign, and the accounts they speak for.

BIP-340 Schnorr signatures on secp256k1 for accounts. Every public key and signature starts with a
byte that names its scheme, so that another scheme can be added and none be confused with it.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Final

import coincurve
from msgspec import Meta

from hansa.core.errors import OperatorError
from hansa.core.hashing import tagged_hasher

BIP340: Final = 0x01
"""secp256k1, x-only keys, BIP-340 signatures."""
ED25519: Final = 0x02
"""Keys of checkpoints; never of an account."""
X25519: Final = 0x03
"""Keys that encrypt and sign nothing."""

PublicKey = Annotated[bytes, Meta(min_length=33, max_length=33)]
"""Scheme byte and 32 bytes."""
Signature = Annotated[bytes, Meta(min_length=65, max_length=65)]
"""Scheme byte and 64 bytes."""

_account_hash = tagged_hasher("account")


def compute_account(consortium: bytes, first_key: bytes, ordinal: int = 0) -> bytes:
    """Return the permanent account id of a first key: 20 bytes.

    ``consortium`` is the id that all networks of one consortium name in their genesis (33 bytes),
    so that one account is the same on every chain. ``ordinal`` (u32) tells apart accounts of one
    key.
    """
    return _account_hash(consortium + first_key + ordinal.to_bytes(4, "big"))[:20]


class KeyLocked(OperatorError):
    """A private key that its key store has locked away since."""

    def __init__(self, public: bytes) -> None:
        super().__init__(
            f"key {public.hex()}: expected an open key store, got a locked one; unlock it with its"
            " passphrase"
        )


class SigningKey:
    """A private key for BIP-340 signatures; it shows itself to nobody."""

    __slots__ = ("_key", "public")

    def __init__(self, secret: bytes) -> None:
        self._key: coincurve.PrivateKey | None = coincurve.PrivateKey(secret)
        self.public: bytes = bytes([BIP340]) + coincurve.PublicKeyXOnly.from_secret(secret).format()

    @property
    def secret(self) -> bytes:
        """The 32 private bytes, for the key store alone.

        Raises: KeyLocked once the key is forgotten.
        """
        return self._open().secret

    def sign(self, digest: bytes) -> bytes:
        """Sign a 32-byte hash; the same hash gives the same signature (aux_rand of zeros).

        Raises: KeyLocked once the key is forgotten.
        """
        return bytes([BIP340]) + self._open().sign_schnorr(digest, bytes(32))

    def forget(self) -> None:
        """Let go of the private half, for good, wherever this object is held."""
        self._key = None

    def _open(self) -> coincurve.PrivateKey:
        if self._key is None:
            raise KeyLocked(self.public)
        return self._key

    def __repr__(self) -> str:
        return f"SigningKey(public={self.public.hex()})"


@lru_cache(maxsize=65_536)
def _parse(public: bytes) -> coincurve.PublicKeyXOnly | None:
    # Lifting x to a curve point costs a square root, a sixth of a verification.
    if len(public) != 33 or public[0] != BIP340:
        return None
    try:
        return coincurve.PublicKeyXOnly(public[1:])
    except ValueError:
        return None


def verify_signature(public: bytes, signature: bytes, digest: bytes) -> bool:
    """Judge a BIP-340 signature (scheme byte first) over a 32-byte hash."""
    key = _parse(public)
    if key is None or len(signature) != 65 or signature[0] != BIP340:
        return False
    return bool(key.verify(signature[1:], digest))


def verify_signatures(claims: Sequence[tuple[bytes, bytes, bytes]]) -> list[bool]:
    """Judge many (public key, signature, digest); secp256k1 runs without the GIL."""
    return [verify_signature(*claim) for claim in claims]
