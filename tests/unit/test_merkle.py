"""The Merkle tree of RFC 9162: roots of small trees, and what strict verifiers refuse."""

from collections.abc import Sequence

import pytest

from hansa.core.merkle import (
    EMPTY_ROOT,
    ProofError,
    compute_inclusion_path,
    compute_root,
    compute_root_from_inclusion,
    compute_roots_from_consistency,
    leaf_hash,
    node_hash,
    verify_consistency,
    verify_inclusion,
)

LEAVES = [leaf_hash(bytes([number])) for number in range(8)]
A, B, C, D, E, F, G = LEAVES[:7]
ROOT_7 = compute_root(LEAVES[:7])
PATH_7 = compute_inclusion_path(LEAVES[:7], 4)


def test_hashes_of_nothing_and_of_an_empty_leaf_are_those_of_the_rfc() -> None:
    """The empty tree and the empty leaf have the hashes that every other log has for them."""
    assert "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" == EMPTY_ROOT.hex()
    assert (
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d" == leaf_hash(b"").hex()
    )


@pytest.mark.parametrize(
    ("leaves", "expected"),
    [
        ([], EMPTY_ROOT),
        ([A], A),
        ([A, B], node_hash(A, B)),
        ([A, B, C], node_hash(node_hash(A, B), C)),
        ([A, B, C, D], node_hash(node_hash(A, B), node_hash(C, D))),
        ([A, B, C, D, E], node_hash(node_hash(node_hash(A, B), node_hash(C, D)), E)),
        (
            [A, B, C, D, E, F, G],
            node_hash(node_hash(node_hash(A, B), node_hash(C, D)), node_hash(node_hash(E, F), G)),
        ),
    ],
    ids=["none", "one", "two", "three", "four", "five", "seven"],
)
def test_root_splits_at_the_largest_power_of_two(leaves: list[bytes], expected: bytes) -> None:
    """A tree splits as RFC 9162 section 2.1.1 says."""
    assert expected == compute_root(leaves)


@pytest.mark.parametrize(
    ("leaf", "index", "size", "path", "text"),
    [
        (E, 7, 7, PATH_7, "below the tree size 7, got 7"),
        (E, -1, 7, PATH_7, "below the tree size 7, got -1"),
        (E, 0, 0, [], "below the tree size 0, got 0"),
        (E[:31], 4, 7, PATH_7, "leaf hash of 32 bytes, got 31"),
        (E, 4, 7, [PATH_7[0] + b"\0", *PATH_7[1:]], "path element of 32 bytes, got 33"),
        (E, 4, 7, PATH_7[:-1], "longer path, got 2"),
        (E, 4, 7, [], "longer path, got 0"),
        (E, 4, 7, [*PATH_7, A], "shorter path, got 4"),
        (A, 0, 1, [A], "shorter path, got 1"),
        (F, 4, 7, PATH_7, "expected an inclusion path to"),
        (E, 5, 7, PATH_7, "expected an inclusion path to"),
        (E, 4, 7, PATH_7[::-1], "expected an inclusion path to"),
    ],
    ids=[
        "index at size",
        "negative index",
        "empty tree",
        "short leaf",
        "long node",
        "truncated path",
        "no path",
        "extra element",
        "path in a tree of one",
        "another leaf",
        "another index",
        "swapped siblings",
    ],
)
def test_inclusion_refuses(
    leaf: bytes, index: int, size: int, path: Sequence[bytes], text: str
) -> None:
    """A false or misshapen inclusion proof is refused with what was expected."""
    with pytest.raises(ProofError, match=text):
        verify_inclusion(leaf, index, size, path, ROOT_7)


def test_an_inner_node_is_no_leaf() -> None:
    """The pair of two leaves, offered as an entry, has another hash than their node."""
    assert node_hash(A, B) != leaf_hash(A + B)


@pytest.mark.parametrize(
    ("old", "new", "path", "text"),
    [
        (0, 0, [], "old size of 1 or more, got 0"),
        (0, 7, [], "old size of 1 or more, got 0"),
        (8, 7, [], "up to the new size 7, got 8"),
        (7, 7, [A], "shorter path, got 1"),
        (3, 7, [], "longer path, got 0"),
        (4, 7, [], "longer path, got 0"),
        (3, 7, [C, D, node_hash(A, B)], "longer path, got 3"),
        (4, 7, [node_hash(node_hash(E, F), G), A], "shorter path, got 2"),
        (4, 7, [A[:31]], "path element of 32 bytes, got 31"),
        (4, 7, [A], "expected a consistency path to"),
        (3, 7, [D, C, node_hash(A, B), node_hash(node_hash(E, F), G)], "path from"),
    ],
    ids=[
        "both empty",
        "from empty",
        "backwards",
        "path between equals",
        "no path",
        "no path from a power of two",
        "truncated",
        "extra element",
        "short node",
        "another new root",
        "another old root",
    ],
)
def test_consistency_refuses(old: int, new: int, path: Sequence[bytes], text: str) -> None:
    """A false or misshapen consistency proof is refused with what was expected."""
    with pytest.raises(ProofError, match=text):
        verify_consistency(old, compute_root(LEAVES[:old]), new, ROOT_7, path)


def test_a_path_to_another_old_root_is_evidence_of_a_fork() -> None:
    """The roots a path leads to are returned even where the old one is not the one signed."""
    path = [C, D, node_hash(A, B), node_hash(node_hash(E, F), G)]
    old_root = compute_root(LEAVES[:3])
    forked = compute_root([A, C, B])
    assert (old_root, ROOT_7) == compute_roots_from_consistency(3, 7, path, forked)
    verify_consistency(3, old_root, 7, ROOT_7, path)
    with pytest.raises(ProofError, match=f"path from {forked.hex()}, got {old_root.hex()}"):
        verify_consistency(3, forked, 7, ROOT_7, path)


def test_an_old_root_that_is_hashed_has_32_bytes() -> None:
    """Where the old root is a node of the new tree it is held to the length of a node."""
    with pytest.raises(ProofError, match="old root of 32 bytes, got 31"):
        compute_roots_from_consistency(4, 7, [A], A[:31])


def test_equal_sizes_need_equal_roots() -> None:
    """Two checkpoints of one size with different roots are no one's consistent history."""
    verify_consistency(7, ROOT_7, 7, ROOT_7, [])
    with pytest.raises(ProofError, match="expected a consistency path to"):
        verify_consistency(7, ROOT_7, 7, A, [])


def test_paths_are_only_made_for_leaves_of_the_tree() -> None:
    """There is no path for an index outside the tree."""
    for index in (-1, 7):
        with pytest.raises(ProofError, match=f"below 7, got {index}"):
            compute_inclusion_path(LEAVES[:7], index)
    assert ROOT_7 == compute_root_from_inclusion(E, 4, 7, PATH_7)
