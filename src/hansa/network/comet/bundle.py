"""A bundle: many user transactions in one transaction of the engine.

CometBFT pays for each of its transactions, about 100 µs over all nodes; one that carries fifty pays
that once. A bundle has no signature: each transaction in it stands alone, and a bad one in it is
refused alone.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Final, Literal

from msgspec import Meta

from hansa.core.codec import U63, ChainName, Value, encode, make_decoder
from hansa.core.errors import Malformed
from hansa.core.transaction import MAX_TRANSACTION_BYTES

BUNDLE_TYPE: Final = b"\x01"
"""First byte of an engine transaction, so that other kinds can come."""

MAX_ITEMS: Final = 500
MAX_BUNDLE_BYTES: Final = 256 * 1024
"""A bundle is gossiped whole: one that is too large holds up those behind it."""


FRAME_BYTES: Final = 48
"""More than the encoding adds to an item, with a chain's name of any length; and to a bundle."""


class Item(Value):
    """A user transaction and the chain it is for."""

    chain: ChainName
    envelope: Annotated[bytes, Meta(min_length=1, max_length=MAX_TRANSACTION_BYTES)]


class Bundle(Value):
    """What a gateway hands to the engine at once."""

    version: Literal[1]
    number: U63
    """Tells bundles of the same items apart: the engine takes no bytes twice, and a bundle that
    was dropped has to be handed in again."""
    items: Annotated[tuple[Item, ...], Meta(min_length=1, max_length=MAX_ITEMS)]


_decode: Callable[[bytes], Bundle] = make_decoder(Bundle, "bundle")


def pack(number: int, items: Sequence[Item]) -> bytes:
    """Return the engine transaction of a bundle."""
    return BUNDLE_TYPE + encode(Bundle(version=1, number=number, items=tuple(items)))


def unpack(data: bytes) -> tuple[Item, ...]:
    """Return the transactions of a bundle, in order.

    Raises: Malformed if it is too large, of another kind, or not in its one encoding.
    """
    if len(data) > MAX_BUNDLE_BYTES:
        raise Malformed(field="bundle", expected=f"{MAX_BUNDLE_BYTES} bytes", given=len(data))
    if data[:1] != BUNDLE_TYPE:
        raise Malformed(field="bundle", expected=f"type {BUNDLE_TYPE.hex()}", given=data[:1].hex())
    return _decode(data[1:]).items


def cut(sizes: Sequence[int], max_items: int = MAX_ITEMS) -> list[slice]:
    """Return how to cut transactions of these sizes, in bytes, into bundles of so many at most."""
    cuts: list[slice] = []
    start, size = 0, 0
    for index, item_bytes in enumerate(sizes):
        taken = item_bytes + FRAME_BYTES
        if index > start and (
            size + taken > MAX_BUNDLE_BYTES - FRAME_BYTES or index - start == max_items
        ):
            cuts.append(slice(start, index))
            start, size = index, 0
        size += taken
    if len(sizes) > start:
        cuts.append(slice(start, len(sizes)))
    return cuts
