"""The root over a chain's sorted state, and proofs of a key's value or absence under it.

The sorted pairs are cut into chunks. Each chunk says after which key it begins, so that chunks
cover the key space without a gap and absence can be shown by the one chunk that would hold the key.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Annotated, Final

from msgspec import Meta

from hansa.core.codec import Value, encode, make_decoder
from hansa.core.merkle import (
    ProofError,
    compute_inclusion_path,
    compute_root,
    leaf_hash,
    verify_inclusion,
)

MAX_CHUNK_BYTES: Final = 64 * 1024
MAX_CHUNK_PAIRS: Final = 4_096
MAX_KEY_BYTES: Final = 480


class Chunk(Value):
    """Consecutive pairs of the sorted state."""

    after: Annotated[bytes, Meta(max_length=MAX_KEY_BYTES)]
    """Last key of the chunk before; empty for the first."""
    pairs: Annotated[tuple[tuple[bytes, bytes], ...], Meta(max_length=MAX_CHUNK_PAIRS)]
    is_last: bool
    """Nothing lies behind this chunk."""


class StateProof(Value):
    """The chunk that holds a key or would hold it, and its place under the root."""

    chunk: Annotated[bytes, Meta(max_length=4 * MAX_CHUNK_BYTES)]
    index: int
    size: int
    path: Annotated[tuple[bytes, ...], Meta(max_length=64)]


decode_chunk: Callable[[bytes], Chunk] = make_decoder(Chunk, "chunk")


def make_chunks(pairs: Iterable[tuple[bytes, bytes]]) -> Iterator[bytes]:
    """Yield the encoded chunks of a sorted state; an empty state is one empty chunk."""
    after, size = b"", 0
    batch: list[tuple[bytes, bytes]] = []
    for pair in pairs:
        pair_bytes = len(pair[0]) + len(pair[1])
        if batch and (size + pair_bytes > MAX_CHUNK_BYTES or len(batch) == MAX_CHUNK_PAIRS):
            yield encode(Chunk(after=after, pairs=tuple(batch), is_last=False))
            after, batch, size = batch[-1][0], [], 0
        batch.append(pair)
        size += pair_bytes
    yield encode(Chunk(after=after, pairs=tuple(batch), is_last=True))


def compute_state_root(pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the RFC 9162 root over the chunks, 32 bytes."""
    return compute_root([leaf_hash(chunk) for chunk in make_chunks(pairs)])


def prove_state(pairs: Iterable[tuple[bytes, bytes]], key: bytes) -> StateProof:
    """Return the proof of the value or absence of a key."""
    hashes: list[bytes] = []
    found = (b"", -1)
    for index, chunk in enumerate(make_chunks(pairs)):
        hashes.append(leaf_hash(chunk))
        if found[1] < 0 and _covers(decode_chunk(chunk), key):
            found = (chunk, index)
    path = tuple(compute_inclusion_path(hashes, found[1]))
    return StateProof(chunk=found[0], index=found[1], size=len(hashes), path=path)


def _covers(chunk: Chunk, key: bytes) -> bool:
    is_after = not chunk.after or key > chunk.after
    return is_after and (chunk.is_last or key <= max(pair[0] for pair in chunk.pairs))


def verify_state(proof: StateProof, root: bytes, key: bytes) -> bytes | None:
    """Return the proven value of a key, or None for proven absence.

    Raises: Malformed, ProofError.
    """
    chunk = decode_chunk(proof.chunk)
    verify_inclusion(leaf_hash(proof.chunk), proof.index, proof.size, proof.path, root)
    is_at_end = proof.index == proof.size - 1
    if chunk.is_last != is_at_end or (proof.index == 0) != (chunk.after == b""):
        raise ProofError("chunk: expected its place among the chunks to fit its bounds")
    if not chunk.pairs and proof.size != 1:
        raise ProofError("chunk: expected pairs, got none in a state of several chunks")
    if not _is_sorted(chunk) or not _covers(chunk, key):
        raise ProofError(f"chunk: expected one that covers the key {key.hex()}")
    return dict(chunk.pairs).get(key)


def _is_sorted(chunk: Chunk) -> bool:
    keys: Sequence[bytes] = [chunk.after, *(key for key, _ in chunk.pairs)]
    return all(left < right for left, right in pairwise(keys))
