"""Signed notes and the checkpoints of transparency logs, as public verifiers read them.

Source: C2SP signed-note v1 and tlog-checkpoint v1, Ed25519 signatures (type 0x01) alone. Stricter
than the source in one point: base64 must be canonical everywhere, so that no two texts say the
same and a note cannot be altered without it showing.
"""

import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, Self

from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair
from nacl.exceptions import BadSignatureError

from hansa.core.merkle import HASH_BYTES

ED25519: Final = b"\x01"
"""Signature type of Ed25519 over the note text (signed-note, "Signature types")."""

KEY_ID_BYTES: Final = 4
PUBLIC_KEY_BYTES: Final = 32
SEED_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64

MAX_NOTE_BYTES: Final = 1_000_000
"""Longest note that is looked at, as in Go's sumdb/note."""

MAX_SIGNATURES: Final = 100
"""Most signature lines of a note, as in Go's sumdb/note; signed-note asks for 16 at least."""

MAX_TREE_SIZE: Final = 2**63 - 1
"""Largest tree size, since Go's tlog and most other readers hold it in a signed 64 bit integer."""

_SIGNATURE_START: Final = "\N{EM DASH} "
_TREE_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,18}")
_KEY_ID: Final = re.compile(r"[0-9a-f]{8}")
_CONTROL: Final = re.compile(r"[\x00-\x09\x0b-\x1f]")


class NoteError(ValueError):
    """A note, verifier key or checkpoint is malformed, or is not signed as it must be."""


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """An Ed25519 key that notes are verified with.

    Raises: NoteError if the name is empty or has a space, plus or control character, or the
    public key is not of 32 bytes. Source: signed-note, "Verifier keys".
    """

    name: str
    """Who signs: a host and path without scheme, by habit the origin of the log."""

    public: bytes
    """Ed25519 public key, 32 bytes (RFC 8032)."""

    key_id: int = field(init=False)
    """First 4 bytes of SHA-256(name, newline, type, public key), big-endian."""

    def __post_init__(self) -> None:
        _check_name(self.name)
        if len(self.public) != PUBLIC_KEY_BYTES:
            raise NoteError(
                f"expected a public key of {PUBLIC_KEY_BYTES} bytes, got {len(self.public)}"
            )
        digest = sha256(self.name.encode() + b"\n" + ED25519 + self.public).digest()
        object.__setattr__(self, "key_id", int.from_bytes(digest[:KEY_ID_BYTES], "big"))

    @classmethod
    def parse(cls, vkey: str) -> Self:
        """Read a verifier key, `<name>+<key id, 8 hex digits>+<base64 of 0x01 and key>`.

        Raises: NoteError if a part is missing, the key id is not 8 lowercase hex digits, the
        base64 is not canonical, the type is not Ed25519, the name or the public key is not
        valid, or the key id is another's. Source: signed-note, "Verifier keys".
        """
        parts = vkey.split("+", 2)
        if len(parts) != 3:
            raise NoteError(f"expected a verifier key of three parts, got {vkey!r}")
        name, key_id, material = parts
        if not _KEY_ID.fullmatch(key_id):
            raise NoteError(f"expected a key id of 8 lowercase hex digits, got {key_id!r}")
        typed = _decode_base64(material, "key material")
        if typed[:1] != ED25519:
            raise NoteError(f"expected key type 01 (Ed25519), got {typed[:1].hex()!r}")
        key = cls(name, typed[1:])
        if key.key_id != int(key_id, 16):
            raise NoteError(f"expected key id {key.key_id:08x} for {name!r}, got {key_id}")
        return key

    def __str__(self) -> str:
        """Return the key as one line of text, which `parse` reads."""
        return f"{self.name}+{self.key_id:08x}+{_encode_base64(ED25519 + self.public)}"


class NoteSigner:
    """A named Ed25519 key that signs notes, expanded once for many signatures.

    Raises: NoteError if the seed is not of 32 bytes, or the name is not valid. Source: RFC 8032.
    """

    __slots__ = ("_prefix", "_secret", "key")

    key: VerifierKey
    """What others verify the signatures with."""

    def __init__(self, name: str, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise NoteError(f"expected a seed of {SEED_BYTES} bytes, got {len(seed)}")
        public, self._secret = crypto_sign_seed_keypair(seed)
        self.key = VerifierKey(name, public)
        self._prefix = self.key.key_id.to_bytes(KEY_ID_BYTES, "big")

    def sign_line(self, text: str) -> str:
        """Return the signature line over a note text, with its newline.

        Raises: NoteError if the text cannot be that of a note. Source: signed-note, "Format".
        """
        _check_text(text)
        signature = crypto_sign(text.encode(), self._secret)[:SIGNATURE_BYTES]
        return f"{_SIGNATURE_START}{self.key.name} {_encode_base64(self._prefix + signature)}\n"


@dataclass(frozen=True, slots=True)
class OpenedNote:
    """What a note says, and which of the trusted keys have signed it."""

    text: str
    """The signed text, with its final newline."""

    verified: tuple[VerifierKey, ...]
    """The keys whose signature is valid, each once, in the order of their lines."""

    unverified: int
    """Number of signature lines of keys that are not known."""


def sign_note(text: str, name: str, seed: bytes) -> bytes:
    """Return the note over a text, signed by one key.

    Raises: NoteError if the seed, the name or the text is not valid. Source: signed-note, "Format".
    """
    return assemble_note(text, [NoteSigner(name, seed).sign_line(text)])


def assemble_note(text: str, signature_lines: Sequence[str]) -> bytes:
    """Return the note with these signature lines, each ending in a newline, in this order.

    Raises: NoteError if the text is not valid, or there is no signature line or more than
    `MAX_SIGNATURES`. Source: signed-note, "Format".
    """
    _check_text(text)
    if not 1 <= len(signature_lines) <= MAX_SIGNATURES:
        raise NoteError(
            f"expected 1 to {MAX_SIGNATURES} signature lines, got {len(signature_lines)}"
        )
    return f"{text}\n{''.join(signature_lines)}".encode()


def open_note(note: bytes, keys: Sequence[VerifierKey], *, exact: bool = False) -> OpenedNote:
    """Return the text of a note that at least one of the keys has signed.

    Lines of unknown keys are counted and otherwise ignored. With `exact`, the note must consist
    of its text and one valid line for each key, in the order of the keys, and of nothing else.

    Raises: NoteError if two keys share name and id, the note is malformed, a line of a known key
    does not verify, a line is not the one expected (with `exact`), or no known key has signed.
    Source: signed-note, "Signatures".
    """
    known = {(key.name, key.key_id): key for key in keys}
    if len(known) != len(keys):
        raise NoteError(f"expected keys of different name and id, got {[str(k) for k in keys]}")
    text, lines = _split_note(note)
    if exact:
        _check_signers([line[:2] for line in lines], [(key.name, key.key_id) for key in keys])
    verified: dict[VerifierKey, None] = {}
    unverified = 0
    for name, key_id, signature in lines:
        key = known.get((name, key_id))
        if key is None:
            unverified += 1
            continue
        _check_signature(text, key, signature)
        verified[key] = None
    if not verified:
        raise NoteError(f"expected a signature of a known key, got {unverified} of unknown keys")
    return OpenedNote(text, tuple(verified), unverified)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Size and root of a log at one moment: the text that a log signs.

    Raises: NoteError if the origin or an extension is empty or holds a control character, the
    size is not from 0 to `MAX_TREE_SIZE`, or the root is not of 32 bytes. Source:
    tlog-checkpoint, "Note text".
    """

    origin: str
    """Which log: a host and path without scheme."""

    size: int
    """Number of leaves, 0 to 2^63 - 1."""

    root: bytes
    """Root of the Merkle tree over these leaves, 32 bytes."""

    extensions: tuple[str, ...] = ()
    """Further lines, which monitors of logs in general cannot check."""

    def __post_init__(self) -> None:
        _check_line(self.origin, "origin")
        if not 0 <= self.size <= MAX_TREE_SIZE:
            raise NoteError(f"expected a tree size from 0 to {MAX_TREE_SIZE}, got {self.size}")
        if len(self.root) != HASH_BYTES:
            raise NoteError(f"expected a root of {HASH_BYTES} bytes, got {len(self.root)}")
        for line in self.extensions:
            _check_line(line, "extension line")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text of a checkpoint; `to_text` gives back the same text.

        Raises: NoteError if the last newline or one of the first three lines is missing, the
        size has a leading zero or another sign than digits, the root is not canonical base64,
        or as for the checkpoint itself. Source: tlog-checkpoint, "Note text".
        """
        if not text.endswith("\n"):
            raise NoteError("expected a checkpoint ending in a newline, got none")
        lines = text[:-1].split("\n")
        if len(lines) < 3:
            raise NoteError(f"expected a checkpoint of three lines or more, got {len(lines)}")
        origin, size, root, *extensions = lines
        if not _TREE_SIZE.fullmatch(size):
            raise NoteError(f"expected a tree size in digits without leading zero, got {size!r}")
        return cls(origin, int(size), _decode_base64(root, "root"), tuple(extensions))

    def to_text(self) -> str:
        """Return the text to be signed, each line with its newline."""
        lines = (self.origin, str(self.size), _encode_base64(self.root), *self.extensions)
        return "".join(f"{line}\n" for line in lines)


def _split_note(note: bytes) -> tuple[str, list[tuple[str, int, bytes]]]:
    if len(note) > MAX_NOTE_BYTES:
        raise NoteError(f"expected a note of up to {MAX_NOTE_BYTES} bytes, got {len(note)}")
    try:
        content = note.decode()
    except UnicodeDecodeError as error:
        raise NoteError(f"expected a note in UTF-8, got another byte at {error.start}") from error
    control = _CONTROL.search(content)
    if control:
        raise NoteError(
            f"expected no control character, got U+{ord(control[0]):04X} at {control.start()}"
        )
    # The last empty line separates: a text may hold empty lines, and even lines that look like
    # signatures, which must not count as such.
    body, separator, signatures = content.rpartition("\n\n")
    if not separator:
        raise NoteError("expected an empty line before the signatures, got none")
    if not signatures.endswith("\n"):
        raise NoteError("expected signature lines ending in a newline, got none")
    lines = signatures[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise NoteError(f"expected up to {MAX_SIGNATURES} signature lines, got {len(lines)}")
    return body + "\n", [_parse_signature(line) for line in lines]


def _parse_signature(line: str) -> tuple[str, int, bytes]:
    if not line.startswith(_SIGNATURE_START):
        raise NoteError(f"expected a signature line to start with an em dash, got {line!r}")
    name, separator, encoded = line.removeprefix(_SIGNATURE_START).partition(" ")
    if not separator:
        raise NoteError(f"expected a signature line with name and signature, got {line!r}")
    _check_name(name)
    blob = _decode_base64(encoded, "signature")
    if len(blob) <= KEY_ID_BYTES:
        raise NoteError(f"expected a key id and a signature, got {len(blob)} bytes")
    return name, int.from_bytes(blob[:KEY_ID_BYTES], "big"), blob[KEY_ID_BYTES:]


def _check_signers(got: list[tuple[str, int]], expected: list[tuple[str, int]]) -> None:
    if got != expected:
        raise NoteError(
            f"expected signature lines of {_name_signers(expected)}, got {_name_signers(got)}"
        )


def _name_signers(signers: list[tuple[str, int]]) -> str:
    return ", ".join(f"{name}+{key_id:08x}" for name, key_id in signers)


def _check_signature(text: str, key: VerifierKey, signature: bytes) -> None:
    # The binding takes signature and text as one run of bytes: a signature of another length
    # would move the boundary between them.
    if len(signature) != SIGNATURE_BYTES:
        raise NoteError(f"expected a signature of {SIGNATURE_BYTES} bytes, got {len(signature)}")
    try:
        crypto_sign_open(signature + text.encode(), key.public)
    except BadSignatureError as error:
        raise NoteError(f"expected a valid signature of {key}, got another") from error


def _check_text(text: str) -> None:
    if not text.endswith("\n"):
        raise NoteError("expected a text ending in a newline, got none")
    _check_characters(text, "text")


def _check_line(line: str, what: str) -> None:
    if not line:
        raise NoteError(f"expected an {what} that is not empty, got none")
    if "\n" in line:
        raise NoteError(f"expected an {what} of one line, got {line!r}")
    _check_characters(line, what)


def _check_name(name: str) -> None:
    if not name:
        raise NoteError("expected a key name that is not empty, got none")
    if "+" in name or any(character.isspace() for character in name):
        raise NoteError(f"expected a key name without space or plus, got {name!r}")
    _check_characters(name, "key name")


def _check_characters(value: str, what: str) -> None:
    if _CONTROL.search(value):
        raise NoteError(f"expected no control character in the {what}, got {value!r}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise NoteError(f"expected Unicode text in the {what}, got {value!r}") from error


def _encode_base64(value: bytes) -> str:
    return b64encode(value).decode("ascii")


def _decode_base64(encoded: str, what: str) -> bytes:
    try:
        value = b64decode(encoded, validate=True)
    except (Base64Error, ValueError) as error:
        raise NoteError(f"expected the {what} in base64, got {encoded!r}") from error
    # Trailing bits and padding can be written in several ways that decode to the same bytes.
    if _encode_base64(value) != encoded:
        raise NoteError(f"expected the {what} in canonical base64, got {encoded!r}")
    return value
