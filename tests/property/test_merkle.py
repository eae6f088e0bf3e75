"""What holds of every tree: the stored log is the plain tree, and only true proofs verify."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hansa.core.merkle import (
    ProofError,
    compute_inclusion_path,
    compute_root,
    leaf_hash,
    verify_consistency,
    verify_inclusion,
)
from hansa.core.tilelog import TileLog
from hansa.storage.tiles import TileStore

ENTRIES = [number.to_bytes(3, "big") * (number % 5) for number in range(70_000)]
LEAVES = [leaf_hash(entry) for entry in ENTRIES]
BATCHES = st.lists(st.sampled_from([0, 1, 2, 3, 7, 255, 256, 257, 1000]), min_size=1, max_size=8)


def build_log(folder: str, batches: list[int]) -> TileLog:
    """A log of the first entries, appended in batches, exported and opened again after each."""
    log = TileLog(TileStore(Path(folder)))
    for batch in batches:
        log.append(ENTRIES[log.size : log.size + batch])
        log = TileLog(TileStore(Path(folder)), log.edge())
    return log


@given(st.integers(1, 40), st.data())
def test_every_true_inclusion_proof_verifies_and_no_flipped_bit_does(
    size: int, data: st.DataObject
) -> None:
    """A path leads to the root, and with one bit changed anywhere to none."""
    index = data.draw(st.integers(0, size - 1))
    root = compute_root(LEAVES[:size])
    path = compute_inclusion_path(LEAVES[:size], index)
    verify_inclusion(LEAVES[index], index, size, path, root)
    if path:
        element = data.draw(st.integers(0, len(path) - 1))
        bit = data.draw(st.integers(0, 255))
        flipped = int.from_bytes(path[element], "big") ^ (1 << bit)
        path[element] = flipped.to_bytes(32, "big")
        with pytest.raises(ProofError):
            verify_inclusion(LEAVES[index], index, size, path, root)


@given(BATCHES, st.data())
def test_the_log_is_the_plain_tree_whatever_the_batches(
    batches: list[int], data: st.DataObject
) -> None:
    """Roots, entries and inclusion paths of a log are those of the tree built at once."""
    with tempfile.TemporaryDirectory() as folder:
        log = build_log(folder, batches)
        assert sum(batches) == log.size
        assert compute_root(LEAVES[: log.size]) == log.root()
        if log.size == 0:
            return
        size = data.draw(st.integers(1, log.size))
        index = data.draw(st.integers(0, size - 1))
        assert compute_root(LEAVES[:size]) == log.root_at(size)
        assert compute_inclusion_path(LEAVES[:size], index) == log.prove_inclusion(index, size)
        assert ENTRIES[index] == log.entry(index)
        assert LEAVES[index] == log.leaf_hash_at(index)


@given(BATCHES.filter(sum), st.data())
def test_every_pair_of_sizes_is_proven_consistent(batches: list[int], data: st.DataObject) -> None:
    """A consistency path verifies from every old size to every later one, and to no other root."""
    with tempfile.TemporaryDirectory() as folder:
        log = build_log(folder, batches)
        new = data.draw(st.integers(1, log.size))
        old = data.draw(st.integers(1, new))
        path = log.prove_consistency(old, new)
        verify_consistency(old, log.root_at(old), new, log.root_at(new), path)
        with pytest.raises(ProofError):
            verify_consistency(old, log.root_at(old), new, LEAVES[0][::-1], path)


def test_three_levels_of_tiles() -> None:
    """At 70,000 entries the tiles reach their third level, and every boundary is proven."""
    with tempfile.TemporaryDirectory() as folder:
        log = build_log(folder, [65_535, 1, 1, 4_463])
        root = compute_root(LEAVES)
        assert root == log.root()
        for size in (1, 255, 256, 257, 65_535, 65_536, 65_537, 70_000):
            assert compute_root(LEAVES[:size]) == log.root_at(size)
            path = log.prove_consistency(size)
            verify_consistency(size, log.root_at(size), 70_000, root, path)
            path = log.prove_inclusion(size - 1)
            verify_inclusion(LEAVES[size - 1], size - 1, 70_000, path, root)
