"""The key tree of an organisation: BIP-32 on secp256k1, every step hardened.

    m / purpose' / network' / organisation' / department' / line' / level' / device'

Whoever holds a node derives every node below it and no other: that is what supervision means. A
hardened child is computed from the parent's private key, so that neither a child's private key nor
all the public keys together give anything upwards or sideways. With a step that isn't hardened, a
child's private key and the parent's public key and chain code give the parent's private key; so
such a step can't be written: :class:`Step` has no form for it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from bip32 import (  # type: ignore[import-untyped]
    BIP32,
    HARDENED_INDEX,
    BIP32DerivationError,
)
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from hansa.core.errors import OperatorError
from hansa.core.keys import BIP340, X25519, KeyLocked, SigningKey

PURPOSE: Final = 0x48414E53
"""First step of every path (BIP-43): "HANS" in ASCII, no purpose that another scheme uses."""

ENCRYPTION_TAG: Final = b"hansa/encryption-key/x25519"
"""``info`` of HKDF: the same private key gives nothing else that looks like this."""

MIN_SEED_BYTES: Final = 16
MAX_SEED_BYTES: Final = 64
"""BIP-32, "Master key generation"."""

FUNCTIONS: Final = {
    "management": 1,
    "sales": 2,
    "purchasing": 3,
    "logistics": 4,
    "customs": 5,
    "finance": 6,
    "labels": 7,
    "orders": 8,
    "shipments": 9,
    "payments": 10,
    "warehouse": 11,
    "catalogue": 12,
    "quality": 13,
    "insurance": 14,
    "personnel": 15,
    "law": 16,
    "audit": 17,
    "computing": 18,
}
"""Departments and lines of business by number; a number is never given to another name."""

LEVELS: Final = {"head": 1, "desk": 2, "machine": 3, "auditor": 4}
"""What a key under a line is held by; below each, devices are numbered from 0."""

FIRST_FREE: Final = 1000
"""From here on, numbers of functions and levels are each organisation's own."""

WHOLE: Final = "organisation"
"""Name of the organisation's own node."""

_EXTENDED_KEY_CHARACTERS: Final = 111
"""Of every extended private key in Base58Check: 78 bytes that begin with the same four."""

_MAX_NUMBER: Final = HARDENED_INDEX - 1


class WrongPath(OperatorError):
    """A name that leads to no place in the tree."""


class NoExtendedKey(OperatorError):
    """Not a private node of a tree as BIP-32 writes it."""

    def __init__(self, reason: str) -> None:
        # The text given isn't quoted: it is a secret, or meant to be one.
        super().__init__(f"extended private key: expected one of BIP-32, got {reason}")


@dataclass(frozen=True, slots=True, order=True)
class Step:
    """One hardened step: a number from 0 to 2^31 - 1, written with a stroke.

    Raises: WrongPath for a number out of bounds; the numbers above are those of hardened steps
    themselves and would be hardened twice.
    """

    number: int

    def __post_init__(self) -> None:
        if not 0 <= self.number <= _MAX_NUMBER:
            raise WrongPath(f"step: expected a number from 0 to {_MAX_NUMBER}, got {self.number}")

    def __str__(self) -> str:
        return f"{self.number}'"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node stands in its organisation: department, line, level and device, in this order.

    Shorter places are those higher up; the empty one is the organisation itself.
    """

    steps: tuple[Step, ...] = ()

    def holds(self, other: "Place") -> bool:
        """Say whether another place is this one or below it."""
        return other.steps[: len(self.steps)] == self.steps

    def __str__(self) -> str:
        """Write the place by names: ``sales/orders/desk-3``."""
        if not self.steps:
            return WHOLE
        numbers = [step.number for step in self.steps]
        parts = [_name(FUNCTIONS, number) for number in numbers[:2]]
        if len(numbers) > 2:
            device = f"-{numbers[3]}" if len(numbers) > 3 else ""
            parts.append(_name(LEVELS, numbers[2]) + device)
        return "/".join(parts)


def parse_place(text: str) -> Place:
    """Read a place: ``DEPARTMENT/LINE/LEVEL-DEVICE``, or as many of these as it has.

    Each is a name of the table or a free number; ``organisation`` is the place above all
    departments. Raises: WrongPath.
    """
    if text == WHOLE:
        return Place()
    parts = text.split("/")
    if len(parts) > 3:
        raise WrongPath(f"place: expected at most DEPARTMENT/LINE/LEVEL-DEVICE, got {text!r}")
    steps = [_read_number(FUNCTIONS, part) for part in parts[:2]]
    if len(parts) == 3:
        level, dash, device = parts[2].partition("-")
        steps.append(_read_number(LEVELS, level))
        if dash:
            steps.append(_read_device(device))
    return Place(tuple(Step(number) for number in steps))


def locate_organisation(network: int, organisation: int) -> tuple[Step, ...]:
    """Return the steps from the words' root to an organisation.

    Raises: WrongPath for a number out of bounds.
    """
    return Step(PURPOSE), Step(network), Step(organisation)


class NotBelow(OperatorError):
    """A place that the node doesn't reach: it is above it or beside it."""

    def __init__(self, place: Place, given: Place) -> None:
        super().__init__(f"key: expected one below {place}, got {given}")


class EncryptionKey:
    """A private key of X25519; it shows itself to nobody."""

    __slots__ = ("_private", "public")

    def __init__(self, secret: bytes) -> None:
        key = X25519PrivateKey.from_private_bytes(secret)
        self._private: X25519PrivateKey | None = key
        self.public: bytes = bytes([X25519]) + key.public_key().public_bytes_raw()
        """Scheme byte and 32 bytes (RFC 7748)."""

    @property
    def private(self) -> X25519PrivateKey:
        """The private half, for the library that decrypts.

        Raises: KeyLocked once the key is forgotten.
        """
        if self._private is None:
            raise KeyLocked(self.public)
        return self._private

    def forget(self) -> None:
        """Let go of the private half, for good, wherever this object is held."""
        self._private = None

    def __repr__(self) -> str:
        return f"EncryptionKey(public={self.public.hex()})"


def derive_encryption_key(secret: bytes) -> EncryptionKey:
    """Return the encryption key that belongs to a private key of secp256k1 (32 bytes).

    HKDF-SHA256 (RFC 5869) without salt, under a tag; X25519 clamps the 32 bytes by itself.
    """
    kdf = HKDF(algorithm=SHA256(), length=32, salt=None, info=ENCRYPTION_TAG)
    return EncryptionKey(kdf.derive(secret))


class KeyNode:
    """A node of the tree: its keys, and everything below it.

    It knows nothing of what is above. Its secrets lie in buffers that :meth:`wipe` overwrites.
    """

    __slots__ = ("_chain_code", "_parent", "_secret", "_trace", "public")

    def __init__(self, key: Any, parent: bytes | None = None) -> None:
        """``key`` is a private node of the library, ``parent`` the public key above it, if known.

        The library need not know the parent's fingerprint, which is computed where it is written:
        its hash (RIPEMD-160) is missing in many builds of OpenSSL, and slow without it.
        """
        self._secret = bytearray(key.privkey)
        self._chain_code = bytearray(key.chaincode)
        self._trace: tuple[int, bytes, int] = (key.depth, key.parent_fingerprint, key.index)
        self._parent = parent
        self.public: bytes = bytes([BIP340]) + key.pubkey[1:]
        """Scheme byte and 32 bytes, as accounts have them."""

    @classmethod
    def from_seed(cls, seed: bytes) -> "KeyNode":
        """Return the root of the tree of a seed, 16 to 64 bytes.

        Raises: ValueError. Source: BIP-32, "Master key generation".
        """
        if not MIN_SEED_BYTES <= len(seed) <= MAX_SEED_BYTES:
            raise ValueError(f"seed: expected 16 to 64 bytes, got {len(seed)}")
        return cls(BIP32.from_seed(seed))

    @classmethod
    def from_extended_key(cls, text: str) -> "KeyNode":
        """Read a node as BIP-32 writes it (``xprv…``).

        Raises: NoExtendedKey.
        """
        # The library would take a private key under the version bytes of a public one.
        if not text.startswith("xprv") or len(text) != _EXTENDED_KEY_CHARACTERS:
            raise NoExtendedKey(f"{len(text)} characters that don't begin as one")
        try:
            return cls(BIP32.from_xpriv(text))
        except ValueError as error:
            # The cause is left out: it could quote the key.
            raise NoExtendedKey(type(error).__name__) from None

    def to_extended_key(self) -> str:
        """Write the node as BIP-32 does, for the key store alone: it gives everything below."""
        key = self._open()
        if self._parent is not None:
            above = BIP32(key.chaincode, pubkey=self._parent)
            key.parent_fingerprint = above.get_fingerprint()
        return str(key.get_xpriv())

    @property
    def secret(self) -> bytes:
        """The 32 private bytes, for the key store alone.

        Raises: KeyLocked once the node is wiped.
        """
        if not self._secret:
            raise KeyLocked(self.public)
        return bytes(self._secret)

    def derive(self, step: Step) -> "KeyNode":
        """Return the child that a hardened step leads to.

        Raises: TypeError for anything but a :class:`Step`; WrongPath for the one number in 2^127
        that leads nowhere.
        """
        if not isinstance(step, Step):
            raise TypeError(f"step: expected a hardened Step, got {type(step).__name__}")
        parent, index = self._open(), int(HARDENED_INDEX) + step.number
        try:
            chain_code, secret = parent.get_extended_privkey_from_path([index])
        except BIP32DerivationError:
            raise WrongPath(f"step {step}: expected a number with a key, got one without") from None
        child = BIP32(chain_code, secret, depth=parent.depth + 1, index=index)
        return KeyNode(child, parent.pubkey)

    def descend(self, steps: Iterable[Step]) -> "KeyNode":
        """Return the node that steps lead to, one after another."""
        node = self
        for step in steps:
            node = node.derive(step)
        return node

    def make_signing_key(self) -> SigningKey:
        """Return the key that signs for the account of this node."""
        return SigningKey(self.secret)

    def make_encryption_key(self) -> EncryptionKey:
        """Return the key that opens what is encrypted to this node."""
        return derive_encryption_key(self.secret)

    def wipe(self) -> None:
        """Overwrite the secrets; the public key stays."""
        for held in (self._secret, self._chain_code):
            held[:] = bytes(len(held))
            held.clear()

    def _open(self) -> Any:
        depth, fingerprint, index = self._trace
        return BIP32(bytes(self._chain_code), self.secret, None, fingerprint, depth, index)

    def __reduce__(self) -> NoReturn:
        # A copy or a pickle would carry the secrets where nobody wipes them.
        raise TypeError(f"{self!r}: expected to stay in this process, got a request for a copy")

    def __repr__(self) -> str:
        return f"KeyNode(public={self.public.hex()})"


class Branch:
    """A node with its place in an organisation: it answers for every place at or below its own."""

    __slots__ = ("network", "node", "organisation", "place")

    def __init__(self, node: KeyNode, place: Place, *, network: int, organisation: int) -> None:
        self.node = node
        self.place = place
        self.network = network
        self.organisation = organisation

    @classmethod
    def from_seed(cls, seed: bytes, *, network: int, organisation: int) -> "Branch":
        """Return the initial key of an organisation: its whole tree, and of no other.

        Raises: ValueError for a seed of another length; WrongPath for a number out of bounds.
        """
        root = KeyNode.from_seed(seed)
        node = root.descend(locate_organisation(network, organisation))
        return cls(node, Place(), network=network, organisation=organisation)

    def check(self, place: Place) -> None:
        """Refuse a place that is above this branch or beside it.

        Raises: NotBelow.
        """
        if not self.place.holds(place):
            raise NotBelow(self.place, place)

    def find(self, place: Place) -> KeyNode:
        """Return the node of a place.

        Raises: NotBelow.
        """
        self.check(place)
        return self.node.descend(place.steps[len(self.place.steps) :])

    def cut(self, place: Place) -> "Branch":
        """Return the branch of a place, for somebody who is to have no more.

        Raises: NotBelow.
        """
        node = self.find(place)
        return Branch(node, place, network=self.network, organisation=self.organisation)

    def show_path(self, place: Place) -> str:
        """Write a place as BIP-32 does, from the root of the words: ``m/1212239443'/0'/0'/2'``."""
        steps = (*locate_organisation(self.network, self.organisation), *place.steps)
        return "/".join(["m", *map(str, steps)])

    def __repr__(self) -> str:
        return f"Branch({self.place}, public={self.node.public.hex()})"


def _name(table: dict[str, int], number: int) -> str:
    for name, listed in table.items():
        if listed == number:
            return name
    return str(number)


def _read_number(table: dict[str, int], text: str) -> int:
    if text in table:
        return table[text]
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else -1
    # One key has one name: neither a number in place of a name, nor zeros in front.
    if number < FIRST_FREE or number > _MAX_NUMBER or str(number) != text:
        known = ", ".join(table)
        raise WrongPath(
            f"place: expected a number from {FIRST_FREE} to {_MAX_NUMBER} or one of {known},"
            f" got {text!r}"
        )
    return number


def _read_device(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else -1
    if not 0 <= number <= _MAX_NUMBER or str(number) != text:
        raise WrongPath(f"device: expected a number from 0 to {_MAX_NUMBER}, got {text!r}")
    return number
