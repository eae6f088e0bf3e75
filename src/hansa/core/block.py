"""What a block leaves behind: entries, receipts, headers, and what their digests commit to."""

from collections.abc import Callable, Sequence
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from hansa.core.codec import (
    MAX_ERROR_BYTES,
    U32,
    U63,
    ChainName,
    Raw32,
    TimeMs,
    Value,
    encode,
    make_decoder,
)
from hansa.core.hashing import Digest, digester, tagged_hasher
from hansa.core.merkle import compute_root, leaf_hash
from hansa.core.packet import Page

MAX_ENTRY_BYTES: Final = 512
MAX_EVENTS: Final = 65_535

GENESIS: Final = 0
TRANSACTION: Final = 1
DEADLINES: Final = 2

Salt = Annotated[bytes, Meta(min_length=16, max_length=16)]


class Fault(Value):
    """Why a rule said no."""

    number: U32
    """Module number x 1,000 plus the error's number in its module."""
    text: Annotated[str, Meta(max_length=MAX_ERROR_BYTES)]


class Receipt(Value):
    """The verdict on a transaction, on the genesis, or on a block's deadlines."""

    version: Literal[1]
    source: Digest
    """Digest of the envelope; the network id for the genesis; of the due keys for deadlines."""
    height: U63
    index: U32
    """Place in the block."""
    salt: Salt
    """Derived from the envelope, which is not public; without it the log's digests tell nothing."""
    error: Fault | None
    """None when all messages took effect."""
    events: Annotated[tuple[bytes, ...], Meta(max_length=MAX_EVENTS)]
    """Encoded events, in order; none when refused by a rule."""


class Entry(Value):
    """A leaf of the chain's log: public, at most 512 bytes, tells nothing of what was traded."""

    version: Literal[1]
    height: U63
    index: U32
    kind: Literal[0, 1, 2]
    """GENESIS, TRANSACTION or DEADLINES."""
    source: Digest
    receipt: Digest
    event_count: U32
    events_root: Raw32
    """RFC 9162 root over the salted event hashes."""


class Header(Value):
    """What a chain's app_hash commits to."""

    version: Literal[1]
    network: Digest
    chain: ChainName
    height: U63
    time_ms: TimeMs
    log_size: U63
    log_root: Raw32
    outbox_size: U32
    """How many pages this block sends to other chains."""
    outbox_root: Raw32
    """RFC 9162 root over these pages."""
    previous: Digest
    """app_hash of the chain's header before this one; the network id for the genesis."""
    writes: Digest
    """Of the block's sorted writes."""
    state_height: U63
    state_root: Raw32
    """Root of the sorted state as it stood after state_height; zeros before the first."""


receipt_digest = digester("receipt")
app_hash_of_bytes = digester("app")
writes_digest_of_bytes = digester("writes")
deadlines_digest = digester("deadlines")
_salt_hash = tagged_hasher("salt")
_event_salt_hash = tagged_hasher("event-salt")

decode_receipt: Callable[[bytes], Receipt] = make_decoder(Receipt, "receipt")
decode_entry: Callable[[bytes], Entry] = make_decoder(Entry, "entry")
decode_header: Callable[[bytes], Header] = make_decoder(Header, "header")


def compute_salt(secret: bytes) -> bytes:
    """Return the 16-byte salt of a receipt; ``secret`` is the envelope, which only parties hold."""
    return _salt_hash(secret)[:16]


def compute_event_salt(salt: bytes, index: int) -> bytes:
    """Return the 16-byte salt of one event, so that it can be shown without the others."""
    return _event_salt_hash(salt + index.to_bytes(2, "big"))[:16]


def compute_event_hash(event_salt: bytes, event: bytes) -> bytes:
    """Return the leaf hash of a salted event."""
    return leaf_hash(event_salt + event)


def compute_event_hashes(salt: bytes, events: Sequence[bytes]) -> list[bytes]:
    """Return the leaf hashes of a receipt's events, in order."""
    return [
        leaf_hash(_event_salt_hash(salt + index.to_bytes(2, "big"))[:16] + event)
        for index, event in enumerate(events)
    ]


def compute_events_root(salt: bytes, events: Sequence[bytes]) -> bytes:
    """Return the root over a receipt's salted events."""
    return compute_root(compute_event_hashes(salt, events))


def make_entry(kind: int, receipt: Receipt, receipt_bytes: bytes) -> bytes:
    """Return the encoded entry of a receipt."""
    entry = Entry(
        version=1,
        height=receipt.height,
        index=receipt.index,
        kind=kind,  # type: ignore[arg-type]
        source=receipt.source,
        receipt=receipt_digest(receipt_bytes),
        event_count=len(receipt.events),
        events_root=compute_root(compute_event_hashes(receipt.salt, receipt.events)),
    )
    return encode(entry)


def compute_app_hash(header: Header) -> bytes:
    """Return the 33-byte digest of a header."""
    return app_hash_of_bytes(encode(header))


def compute_writes_digest(writes: Sequence[tuple[bytes, bytes | None]]) -> bytes:
    """Return the digest of sorted (key, value or nil) pairs."""
    return writes_digest_of_bytes(encode(writes))


def compute_network_hash(app_hashes: Sequence[tuple[str, bytes]]) -> bytes:
    """Return the root over (chain, app_hash), sorted by chain: 32 bytes."""
    return compute_root([leaf_hash(encode(pair)) for pair in sorted(app_hashes)])


class ChainRecord(Value):
    """One chain's part of a block, as it is made durable."""

    chain: ChainName
    app_hash: Digest
    """In force after the block."""
    header: Header | None
    """None where the chain had no entry and no write: its app_hash rests."""
    envelopes: tuple[bytes, ...]
    """Included transactions in order."""
    receipts: tuple[bytes, ...]
    """Receipts in the order of the entries: deadlines first where there are any."""
    pages: tuple[Page, ...]
    finality: bytes
    """The solo engine's signed checkpoint; empty where the header is None."""


class BlockRecord(Value):
    """A network block: one height and one time for all its chains."""

    version: Literal[1]
    height: U63
    time_ms: TimeMs
    network_hash: Raw32
    chains: tuple[ChainRecord, ...]


decode_block_record: Callable[[bytes], BlockRecord] = msgspec.msgpack.Decoder(BlockRecord).decode
"""The block log has checked these bytes against their digest, the rules their content."""

decode_stored_receipt: Callable[[bytes], Receipt] = msgspec.msgpack.Decoder(Receipt).decode
"""For receipts out of our own block log, checked when they were made."""


def list_entries(part: ChainRecord) -> list[bytes]:
    """Return the entries of a chain's part of a block, derived again from its receipts."""
    others = len(part.receipts) - len(part.envelopes)
    entries = []
    for position, receipt_bytes in enumerate(part.receipts):
        receipt = decode_stored_receipt(receipt_bytes)
        kind = TRANSACTION if position >= others else DEADLINES
        if receipt.height == 0 and position == 0:
            kind = GENESIS
        entries.append(make_entry(kind, receipt, receipt_bytes))
    return entries
