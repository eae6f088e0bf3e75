"""The transaction: one envelope of signed bytes, decoded strictly or not at all."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, Literal, cast

import msgspec
from msgspec import Meta, Raw, Struct, StructMeta

from hansa.core.codec import U16, U63, Account, ChainName, TimeMs, Value, encode, make_decoder
from hansa.core.errors import DuplicateSigner, Malformed, TooLarge
from hansa.core.hashing import Digest, digester, tagged_hasher
from hansa.core.keys import PublicKey, Signature, SigningKey

MAX_TRANSACTION_BYTES: Final = 64 * 1024
MAX_MESSAGES: Final = 16
MAX_SIGNATURES: Final = 8
MAX_VALIDITY_MS: Final = 7 * 24 * 3600 * 1000
"""How far ahead of the block time valid_until_ms may lie."""


def message_number(module: int, message: int, version: int = 1) -> int:
    """Return the number a message, event or record travels under: module, ordinal, version."""
    return module << 16 | message << 8 | version


class Message(Value):
    """Base of what someone asks for. Subclasses carry ``tag=message_number(...)``."""


class Event(Value):
    """Base of what came of it. An event about an object carries the whole record as it now is."""


class Signer(Value):
    """Who signs, and with which of the account's keys."""

    account: Account
    key: PublicKey


class Body(Value):
    """What is signed. Encoded once by the signer; these bytes are stored and served."""

    version: Literal[1]
    network: Digest
    """Hash of the network's genesis: worthless on any other network."""
    chain: ChainName
    """Worthless on any other chain of the network."""
    signers: Annotated[tuple[Signer, ...], Meta(min_length=1, max_length=MAX_SIGNATURES)]
    """In the order of the signatures; the first one's nonce is spent."""
    lane: U16
    """An account may send on several lanes at once; each has a sequence of its own."""
    sequence: U63
    """Next number on the lane, from 0."""
    valid_until_ms: TimeMs
    """Last block time at which it may be included; at most seven days ahead."""
    messages: Annotated[tuple[Any, ...], Meta(min_length=1, max_length=MAX_MESSAGES)]
    """All or nothing."""


class MessageHead(Struct, array_like=True, frozen=True, gc=False):
    """The beginning of a message; what follows is skipped."""

    number: int
    """See :func:`message_number`."""


class BodyHead(Struct, array_like=True, frozen=True, gc=False):
    """A body whose messages are told by their numbers alone."""

    version: int
    network: Raw
    chain: Raw
    signers: tuple[Signer, ...]
    lane: int
    sequence: int
    valid_until_ms: int
    messages: tuple[MessageHead, ...]


class Envelope(Value):
    """Body bytes and one signature for each signer, in order."""

    body: Annotated[bytes, Meta(min_length=1, max_length=MAX_TRANSACTION_BYTES)]
    signatures: Annotated[tuple[Signature, ...], Meta(min_length=1, max_length=MAX_SIGNATURES)]


envelope_digest = digester("envelope")
signing_hash = tagged_hasher("body")
decode_envelope: Callable[[bytes], Envelope] = make_decoder(Envelope, "envelope")
decode_stored_envelope: Callable[[bytes], Envelope] = msgspec.msgpack.Decoder(Envelope).decode
"""For envelopes out of our own block log, checked when they were taken."""
decode_body_head: Callable[[bytes], BodyHead] = msgspec.msgpack.Decoder(BodyHead).decode
"""For the bodies of these envelopes."""


class Transaction:
    """A decoded envelope with its digest; signatures not yet judged."""

    __slots__ = ("body", "claims", "digest", "envelope")

    def __init__(self, envelope: bytes, digest: bytes, body: Body, claims: Sequence[Any]) -> None:
        self.envelope = envelope
        self.digest = digest
        self.body = body
        self.claims: Sequence[tuple[bytes, bytes, bytes]] = claims
        """(public key, signature, signing hash) of each signer."""


def make_transaction_decoder(
    message_types: Sequence[type[Message]],
) -> Callable[[bytes], Transaction]:
    """Return the decoder of transactions that may hold these messages.

    Raises: TooLarge, Malformed, DuplicateSigner; in this order.
    """
    body_type = make_body_type(message_types)
    decode_body = make_decoder(body_type, "body")

    def decode_transaction(data: bytes) -> Transaction:
        if len(data) > MAX_TRANSACTION_BYTES:
            raise TooLarge(field="transaction", limit=MAX_TRANSACTION_BYTES, given=len(data))
        envelope = decode_envelope(data)
        body = decode_body(envelope.body)
        signers, signatures = body.signers, envelope.signatures
        if len(signers) != len(signatures):
            raise Malformed(field="signatures", expected=len(signers), given=len(signatures))
        digest = signing_hash(envelope.body)
        if len(signers) == 1:
            claims = [(signers[0].key, signatures[0], digest)]
        else:
            _check_signers(signers)
            pairs = zip(signers, signatures, strict=True)
            claims = [(signer.key, signature, digest) for signer, signature in pairs]
        return Transaction(data, envelope_digest(data), body, claims)

    return decode_transaction


def make_body_type(message_types: Sequence[type[Message]]) -> type[Body]:
    """Return the body whose messages are a union of these, told apart by their numbers."""
    union: Any = message_types[0]
    for message_type in message_types[1:]:
        union = union | message_type
    bounded = Annotated[tuple[union, ...], Meta(min_length=1, max_length=MAX_MESSAGES)]
    namespace = {"__annotations__": {"messages": bounded}, "__module__": __name__}
    return cast("type[Body]", StructMeta("Body", (Body,), namespace))


def _check_signers(signers: Sequence[Signer]) -> None:
    seen: list[bytes] = []
    for signer in signers:
        if signer.account in seen:
            raise DuplicateSigner(account=signer.account)
        seen.append(signer.account)


def sign_transaction(body: Body, keys: Sequence[SigningKey]) -> bytes:
    """Encode and sign a body; ``keys`` in the order of its signers. Returns the envelope."""
    return sign_body(encode(body), keys)


def sign_body(body: bytes, keys: Sequence[SigningKey]) -> bytes:
    """Sign encoded body bytes, in the order of the signers. Returns the envelope."""
    digest = signing_hash(body)
    return encode(Envelope(body=body, signatures=tuple(key.sign(digest) for key in keys)))
