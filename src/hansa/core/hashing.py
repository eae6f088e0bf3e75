"""SHA-256, tagged by purpose, so that no hash of one kind can be passed off as another."""

import hashlib
from collections.abc import Callable
from typing import Annotated, Final

from msgspec import Meta

SHA256_TYPE: Final = b"\x01"
"""Type byte in front of every stored SHA-256 digest."""

Digest = Annotated[bytes, Meta(min_length=33, max_length=33)]
"""A type byte (0x01, SHA-256) and 32 bytes."""

DIGEST_BYTES: Final = 33

ZERO_DIGEST: Final = SHA256_TYPE + bytes(32)
"""Stands where a digest is due and nothing was hashed; no preimage is known."""


def tagged_hasher(tag: str) -> Callable[[bytes], bytes]:
    """Return a function from bytes to the 32-byte tagged hash of BIP-340.

    The hash is SHA-256(SHA-256(tag) | SHA-256(tag) | data); the tag's 64 bytes are one
    block of SHA-256, absorbed once here and copied for each call.
    """
    name = hashlib.sha256(f"hansa/{tag}".encode()).digest()
    copy_prefix = hashlib.sha256(name + name).copy

    def compute(data: bytes) -> bytes:
        hasher = copy_prefix()
        hasher.update(data)
        return hasher.digest()

    return compute


def digester(tag: str) -> Callable[[bytes], bytes]:
    """Return a function from bytes to the 33-byte typed digest under this tag."""
    compute = tagged_hasher(tag)
    return lambda data: SHA256_TYPE + compute(data)
