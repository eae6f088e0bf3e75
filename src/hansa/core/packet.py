"""What one chain says to another: packets, acknowledgements, and the pages they travel in.

A chain numbers all that it sends to one destination from 0, packets and acknowledgements alike, and
the destination takes them in that order, each once. The items of a block are cut into pages; the
outbox root of the block is the RFC 9162 root over its pages, and the block's header commits to it.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Final, Literal

from msgspec import Meta

from hansa.core.codec import (
    MAX_ERROR_BYTES,
    U8,
    U32,
    U63,
    ChainName,
    TimeMs,
    Value,
    encode,
    make_decoder,
)
from hansa.core.hashing import Digest
from hansa.core.merkle import compute_root, leaf_hash

MAX_PAYLOAD_BYTES: Final = 8 * 1024
MAX_PAGE_ITEMS: Final = 64
MAX_PAGE_BYTES: Final = 24 * 1024
"""A page closes before it passes this size, so that several fit a transaction."""

DONE: Final = 0
REFUSED: Final = 1
EXPIRED: Final = 2


class Packet(Value, tag=1):
    """A message to a module of another chain."""

    module: U8
    """Number of the module at the destination that takes it."""
    deadline_ms: TimeMs
    """Last block time of the destination at which it may take effect."""
    payload: Annotated[bytes, Meta(max_length=MAX_PAYLOAD_BYTES)]


class Acknowledgement(Value, tag=2):
    """What became of a packet; it is not acknowledged itself."""

    sequence: U63
    """Of the packet, in the opposite direction."""
    outcome: Literal[0, 1, 2]
    """DONE, REFUSED (by a rule of the destination) or EXPIRED."""
    number: U32
    """The error's number if refused, else 0."""
    text: Annotated[str, Meta(max_length=MAX_ERROR_BYTES)]
    """The error's text if refused, else empty."""


class Page(Value):
    """Items of one block for one destination, consecutive."""

    network: Digest
    """Of the destination: chains of two networks may bear one name."""
    destination: ChainName
    first: U63
    """Sequence of the first item; the others follow without a gap."""
    items: Annotated[
        tuple[Annotated[bytes, Meta(max_length=MAX_PAGE_BYTES)], ...],
        Meta(min_length=1, max_length=MAX_PAGE_ITEMS),
    ]
    """Encoded packets and acknowledgements."""


decode_item: Callable[[bytes], Packet | Acknowledgement] = make_decoder(
    Packet | Acknowledgement, "item"
)
decode_page: Callable[[bytes], Page] = make_decoder(Page, "page")


class Outgoing(Value):
    """An item with its place, as a handler hands it to the block."""

    network: Digest
    destination: ChainName
    sequence: U63
    item: bytes


def make_pages(outgoing: Sequence[Outgoing]) -> list[Page]:
    """Cut a block's items into pages: by destination in byte order, then by sequence.

    A chain has one client for a name, so the items for one name are for one network.
    """
    pages: list[Page] = []
    batch: list[Outgoing] = []
    size = 0
    for out in sorted(outgoing, key=lambda o: (o.destination.encode(), o.sequence)):
        is_full = len(batch) == MAX_PAGE_ITEMS or size + len(out.item) > MAX_PAGE_BYTES
        if batch and (is_full or batch[0].destination != out.destination):
            pages.append(_make_page(batch))
            batch, size = [], 0
        batch.append(out)
        size += len(out.item)
    if batch:
        pages.append(_make_page(batch))
    return pages


def _make_page(batch: Sequence[Outgoing]) -> Page:
    first = batch[0]
    return Page(
        network=first.network,
        destination=first.destination,
        first=first.sequence,
        items=tuple(o.item for o in batch),
    )


def compute_outbox_root(pages: Sequence[Page]) -> bytes:
    """Return the RFC 9162 root over the encoded pages, 32 bytes."""
    return compute_root([leaf_hash(encode(page)) for page in pages])
