"""The Merkle tree of RFC 9162 section 2.1 over SHA-256: roots, paths, and what a path proves.

Everything here is a pure function of its arguments. The stored tree that grows is in
`hansa.core.tilelog`; the functions here check what it claims, and root the small trees that are
built anew each time, such as the events of one transaction.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Final

HASH_BYTES: Final = 32
"""Length of every leaf hash, node and root."""

EMPTY_ROOT: Final = sha256(b"").digest()
"""Root of the tree without a leaf (RFC 9162 section 2.1.1)."""

LEAF_PREFIX: Final = b"\x00"
"""Written before an entry, so that no entry can pass for a pair of nodes (RFC 9162 §2.1.1)."""

NODE_PREFIX: Final = b"\x01"
"""Written before a pair of nodes, so that no pair can pass for an entry (RFC 9162 §2.1.1)."""


class ProofError(ValueError):
    """A proof does not show what it is offered for; the text says at which step it fails."""


def leaf_hash(entry: bytes) -> bytes:
    """Return the 32 byte hash of an entry. Source: RFC 9162 §2.1.1."""
    return sha256(LEAF_PREFIX + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the 32 byte hash over two nodes of 32 bytes each. Source: RFC 9162 §2.1.1."""
    return sha256(NODE_PREFIX + left + right).digest()


def compute_root(leaf_hashes: Sequence[bytes]) -> bytes:
    """Return the root of the tree with these leaf hashes.

    Takes any number of hashes, each of 32 bytes; `EMPTY_ROOT` for none. Source: RFC 9162 §2.1.1.
    """
    size = len(leaf_hashes)
    # Most transactions have one to three events, and this runs for each transaction.
    if size == 1:
        return leaf_hashes[0]
    if size == 2:
        return node_hash(leaf_hashes[0], leaf_hashes[1])
    if size == 3:
        return node_hash(node_hash(leaf_hashes[0], leaf_hashes[1]), leaf_hashes[2])
    if size == 0:
        return EMPTY_ROOT
    nodes = leaf_hashes
    while len(nodes) > 1:
        nodes = _compute_parents(nodes)
    return nodes[0]


def compute_inclusion_path(leaf_hashes: Sequence[bytes], index: int) -> list[bytes]:
    """Return the path from the leaf at `index` to the root of the tree with these leaf hashes.

    The whole tree is hashed: meant for trees that fit in memory and live for one call.

    Raises: ProofError if `index` is not that of a leaf. Source: RFC 9162 §2.1.3.1.
    """
    if not 0 <= index < len(leaf_hashes):
        raise ProofError(f"expected a leaf index below {len(leaf_hashes)}, got {index}")
    path = []
    nodes = leaf_hashes
    while len(nodes) > 1:
        sibling = index ^ 1
        if sibling < len(nodes):
            path.append(nodes[sibling])
        nodes = _compute_parents(nodes)
        index >>= 1
    return path


def compute_root_from_inclusion(
    leaf_hash: bytes, index: int, size: int, path: Sequence[bytes]
) -> bytes:
    """Return the root to which the path leads from a leaf of a tree with `size` leaves.

    A root computed is a root proven only when it is compared with one that is trusted.

    Raises: ProofError if the index is not below the size, a hash is not of 32 bytes, or the path
    has an element too few or too many. Source: RFC 9162 §2.1.3.2.
    """
    if not 0 <= index < size:
        raise ProofError(f"expected a leaf index below the tree size {size}, got {index}")
    _check_hash(leaf_hash, "leaf hash")
    _check_path(path)
    node, last = index, size - 1
    root = leaf_hash
    for sibling in path:
        if last == 0:
            raise _too_long(path)
        if node & 1 or node == last:
            root = node_hash(sibling, root)
            # A node on the right edge without a sibling is its own parent (RFC 9162 §2.1.3.2).
            while not node & 1 and node:
                node >>= 1
                last >>= 1
        else:
            root = node_hash(root, sibling)
        node >>= 1
        last >>= 1
    if last:
        raise _too_short(path)
    return root


def verify_inclusion(
    leaf_hash: bytes, index: int, size: int, path: Sequence[bytes], root: bytes
) -> None:
    """Check that the leaf stands at `index` in the tree of `size` leaves with that root.

    Raises: ProofError as `compute_root_from_inclusion`, then if the path leads to another root.
    Source: RFC 9162 §2.1.3.2.
    """
    computed = compute_root_from_inclusion(leaf_hash, index, size, path)
    if computed != root:
        raise ProofError(f"expected an inclusion path to {root.hex()}, got {computed.hex()}")


def compute_roots_from_consistency(
    old_size: int, new_size: int, path: Sequence[bytes], old_root: bytes
) -> tuple[bytes, bytes]:
    """Return the old and the new root to which a consistency path leads.

    Where the new root is one that the log has signed and the old root is another than the one it
    signed before, path and signatures are the evidence of a fork. `old_root` is only used where
    the old tree is a whole subtree of the new one, which the path then leaves out.

    Raises: ProofError if the old size is not from 1 to the new size, a hash is not of 32 bytes,
    or the path has an element too few or too many. Source: RFC 9162 §2.1.4.2.
    """
    # Every tree extends the empty one: a path from it would prove nothing about either root.
    if old_size < 1:
        raise ProofError(f"expected an old size of 1 or more, got {old_size}")
    if old_size > new_size:
        raise ProofError(f"expected an old size up to the new size {new_size}, got {old_size}")
    _check_path(path)
    if old_size == new_size:
        if path:
            raise _too_long(path)
        return old_root, old_root
    return _walk_consistency(old_size, new_size, path, old_root)


def verify_consistency(
    old_size: int, old_root: bytes, new_size: int, new_root: bytes, path: Sequence[bytes]
) -> None:
    """Check that the new tree begins with the leaves of the old one.

    Raises: ProofError as `compute_roots_from_consistency`, then if the path leads to another old
    root, then to another new root. Source: RFC 9162 §2.1.4.2.
    """
    old, new = compute_roots_from_consistency(old_size, new_size, path, old_root)
    if old != old_root:
        raise ProofError(f"expected a consistency path from {old_root.hex()}, got {old.hex()}")
    if new != new_root:
        raise ProofError(f"expected a consistency path to {new_root.hex()}, got {new.hex()}")


def _walk_consistency(
    old_size: int, new_size: int, path: Sequence[bytes], old_root: bytes
) -> tuple[bytes, bytes]:
    node, last = old_size - 1, new_size - 1
    while node & 1:
        node >>= 1
        last >>= 1
    if node:
        if not path:
            raise _too_short(path)
        old = new = path[0]
        rest = path[1:]
    else:
        # A size that is a power of two: the old root is itself a node of the new tree.
        _check_hash(old_root, "old root")
        old = new = old_root
        rest = path
    for sibling in rest:
        if last == 0:
            raise _too_long(path)
        if node & 1 or node == last:
            old = node_hash(sibling, old)
            new = node_hash(sibling, new)
            while not node & 1 and node:
                node >>= 1
                last >>= 1
        else:
            new = node_hash(new, sibling)
        node >>= 1
        last >>= 1
    if last:
        raise _too_short(path)
    return old, new


def _compute_parents(nodes: Sequence[bytes]) -> list[bytes]:
    # The RFC splits at the largest power of two; carrying an odd last node up gives the same tree.
    nodes_in_turn = iter(nodes)
    parents = [
        sha256(b"\x01" + left + right).digest()
        for left, right in zip(nodes_in_turn, nodes_in_turn, strict=False)
    ]
    if len(nodes) & 1:
        parents.append(nodes[-1])
    return parents


def _check_hash(value: bytes, what: str) -> None:
    # Nodes of other lengths would let two different pairs hash the same bytes.
    if len(value) != HASH_BYTES:
        raise ProofError(f"expected a {what} of {HASH_BYTES} bytes, got {len(value)}")


def _check_path(path: Sequence[bytes]) -> None:
    for node in path:
        _check_hash(node, "path element")


def _too_long(path: Sequence[bytes]) -> ProofError:
    return ProofError(f"expected a shorter path, got {len(path)} elements")


def _too_short(path: Sequence[bytes]) -> ProofError:
    return ProofError(f"expected a longer path, got {len(path)} elements")
