"""Bundles: one encoding, bounds, and how transactions are cut into them."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hansa.core.codec import encode
from hansa.core.errors import Malformed
from hansa.core.transaction import MAX_TRANSACTION_BYTES
from hansa.network.comet.bundle import (
    BUNDLE_TYPE,
    MAX_BUNDLE_BYTES,
    MAX_ITEMS,
    Bundle,
    Item,
    cut,
    pack,
    unpack,
)

ITEM = Item("trade", b"envelope")
GOOD = pack(7, [ITEM])

items = st.builds(Item, st.text("abcxyz", min_size=1, max_size=16), st.binary(min_size=1))


@given(st.integers(0, (1 << 63) - 1), st.lists(items, min_size=1, max_size=20))
def test_what_is_packed_comes_out(number: int, packed: list[Item]) -> None:
    """Items come out as they went in, in their order."""
    assert tuple(packed) == unpack(pack(number, packed))


def test_number_tells_bundles_of_the_same_items_apart() -> None:
    """CometBFT takes no bytes twice, so what is handed in again must differ."""
    assert pack(1, [ITEM]) != pack(2, [ITEM])
    assert unpack(pack(1, [ITEM])) == unpack(pack(2, [ITEM]))


def encode_unchecked(number: int = 7, *bundled: Item) -> bytes:
    """A bundle that may be out of bounds."""
    return BUNDLE_TYPE + encode(Bundle(version=1, number=number, items=bundled))


MALFORMED = {
    "nothing": b"",
    "a type alone": BUNDLE_TYPE,
    "another type": b"\x02" + GOOD[1:],
    "no type": GOOD[1:],
    "something after it": GOOD + b"\x00",
    "cut off": GOOD[:-1],
    "another version": BUNDLE_TYPE + encode((2, 7, (("trade", b"envelope"),))),
    "a negative number": BUNDLE_TYPE + encode((1, -1, (("trade", b"envelope"),))),
    "a number that is none": BUNDLE_TYPE + encode((1, True, (("trade", b"envelope"),))),
    "no items": encode_unchecked(),
    "too many items": encode_unchecked(7, *[ITEM] * (MAX_ITEMS + 1)),
    "an empty envelope": encode_unchecked(7, Item("trade", b"")),
    "an envelope too large": encode_unchecked(7, Item("trade", bytes(MAX_TRANSACTION_BYTES + 1))),
    "a chain without a name": encode_unchecked(7, Item("", b"envelope")),
    "a chain with a long name": encode_unchecked(7, Item("c" * 17, b"envelope")),
    "a field more": BUNDLE_TYPE + encode((1, 7, (("trade", b"envelope"),), 0)),
    "a longer encoding of its number": GOOD.replace(b"\x93\x01\x07", b"\x93\x01\xcc\x07"),
    "too large": encode_unchecked(7, *[Item("trade", bytes(60_000))] * 5),
    "millions of arrays in arrays": BUNDLE_TYPE + b"\x91" * 200_000,
    "an array of four milliards": BUNDLE_TYPE + b"\x93\x01\x07\xdd\xff\xff\xff\xff",
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_malformed(data: bytes) -> None:
    """Whatever isn't a bundle in its one encoding is refused by name, at little cost."""
    with pytest.raises(Malformed):
        unpack(data)


@given(st.binary(max_size=300))
def test_arbitrary_bytes(data: bytes) -> None:
    """Any bytes at all are a bundle in its one encoding, or Malformed."""
    try:
        bundled = unpack(data)
    except Malformed:
        return
    number = msgpack_number(data)
    assert data == pack(number, bundled)


def msgpack_number(data: bytes) -> int:
    """The number of a bundle that was unpacked."""
    return msgspec.msgpack.decode(data[1:], type=Bundle).number


@given(
    st.lists(st.integers(1, MAX_TRANSACTION_BYTES), max_size=60),
    st.integers(0, 1_200),
    st.integers(1, MAX_ITEMS),
)
def test_cut(large: list[int], small: int, limit: int) -> None:
    """Every transaction is in exactly one piece, in order, and each piece can be a bundle."""
    sizes = large + [200] * small
    cuts = cut(sizes, limit)
    assert list(range(len(sizes))) == [
        index for piece in cuts for index in range(piece.start, piece.stop)
    ]
    assert all(0 < piece.stop - piece.start <= limit for piece in cuts)


def test_pieces_fit() -> None:
    """The largest bundles that are cut, with the longest names and numbers, are no larger than a
    bundle may be; a transaction more would be too many."""
    for size in (1, 31, 32, 255, 256, 500, 65_535, MAX_TRANSACTION_BYTES):
        sizes = [size] * 2_000 if size <= 500 else [size] * 12
        for piece in cut(sizes):
            bundled = [Item("c" * 16, bytes(max(1, each))) for each in sizes[piece]]
            assert tuple(bundled) == unpack(pack((1 << 63) - 1, bundled))
    assert [slice(0, 3), slice(3, 4)] == cut([MAX_TRANSACTION_BYTES] * 4)
    assert 4 * (MAX_TRANSACTION_BYTES + 48) > MAX_BUNDLE_BYTES
    assert [] == cut([])
