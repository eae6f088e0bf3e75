"""Signing thousands of times a second: the plain signer of core/keys.py without what repeats.

The plain one derives the key pair anew and verifies each signature after making it, which guards a
real key against a faulty machine. A sandbox's keys guard nothing, and every signature made here is
verified by the node. A test holds the two equal.
"""

from typing import Any, Final

from coincurve._libsecp256k1 import ffi, lib  # type: ignore[import-not-found]
from coincurve.context import GLOBAL_CONTEXT

from hansa.core.keys import BIP340

_SCHEME: Final = bytes([BIP340])
_NO_RANDOMNESS: Final = bytes(32)


class QuickKey:
    """A private key that keeps its pair at hand; it shows itself to nobody."""

    __slots__ = ("_pair", "public")

    def __init__(self, secret: bytes) -> None:
        """``secret`` are 32 bytes. Raises: ValueError for one that is no key."""
        context = GLOBAL_CONTEXT.ctx
        self._pair: Any = ffi.new("secp256k1_keypair *")
        if not lib.secp256k1_keypair_create(context, self._pair, secret):
            raise ValueError("secret: expected a number below the group's order, got another")
        point = ffi.new("secp256k1_xonly_pubkey *")
        lib.secp256k1_keypair_xonly_pub(context, point, ffi.NULL, self._pair)
        data = ffi.new("unsigned char[32]")
        lib.secp256k1_xonly_pubkey_serialize(context, data, point)
        self.public: bytes = _SCHEME + bytes(ffi.buffer(data))

    def sign(self, digest: bytes) -> bytes:
        """Sign a 32-byte hash; the same hash gives the same signature (aux_rand of zeros)."""
        signature = ffi.new("unsigned char[64]")
        context = GLOBAL_CONTEXT.ctx
        done = lib.secp256k1_schnorrsig_sign32(
            context, signature, digest, self._pair, _NO_RANDOMNESS
        )
        assert done, "a valid pair signs any hash"
        return _SCHEME + bytes(ffi.buffer(signature))

    def __repr__(self) -> str:
        return f"QuickKey(public={self.public.hex()})"
