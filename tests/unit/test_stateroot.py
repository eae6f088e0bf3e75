"""The root over the sorted state: values and absences proven, everything else refused."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from hansa.core.codec import encode
from hansa.core.errors import Malformed
from hansa.core.merkle import ProofError, compute_root, leaf_hash
from hansa.core.stateroot import (
    MAX_CHUNK_BYTES,
    MAX_CHUNK_PAIRS,
    Chunk,
    StateProof,
    compute_state_root,
    decode_chunk,
    make_chunks,
    prove_state,
    verify_state,
)

PAIRS = [(b"k%05d" % number, bytes([number % 256]) * 50) for number in range(0, 9_000, 2)]
ROOT = compute_state_root(PAIRS)


def test_chunks_cover_the_state_without_a_gap() -> None:
    """Each begins where the one before ended; sizes are bounded; the last says so."""
    chunks = [decode_chunk(chunk) for chunk in make_chunks(PAIRS)]
    assert len(chunks) > 3
    assert PAIRS == [pair for chunk in chunks for pair in chunk.pairs]
    ends = [chunk.pairs[-1][0] for chunk in chunks]
    assert [b"", *ends[:-1]] == [chunk.after for chunk in chunks]
    assert [False] * (len(chunks) - 1) + [True] == [chunk.is_last for chunk in chunks]
    sizes = [sum(len(key) + len(value) for key, value in chunk.pairs) for chunk in chunks]
    assert max(sizes) <= MAX_CHUNK_BYTES


def test_many_small_pairs_are_cut_by_number() -> None:
    """A chunk holds no more than so many pairs, and one large pair stands alone."""
    small = [(number.to_bytes(3, "big"), b"") for number in range(MAX_CHUNK_PAIRS + 1)]
    counts = [len(decode_chunk(chunk).pairs) for chunk in make_chunks(small)]
    assert [MAX_CHUNK_PAIRS, 1] == counts
    large = [(b"a", b""), (b"b", bytes(MAX_CHUNK_BYTES + 1)), (b"c", b"")]
    assert [1, 1, 1] == [len(decode_chunk(chunk).pairs) for chunk in make_chunks(large)]


@pytest.mark.parametrize("key", [PAIRS[0][0], PAIRS[1234][0], PAIRS[-1][0]])
def test_a_value_is_proven(key: bytes) -> None:
    """First, last and in between."""
    assert dict(PAIRS)[key] == verify_state(prove_state(PAIRS, key), ROOT, key)


@pytest.mark.parametrize("key", [b"", b"a", b"k00001", b"k05555", b"k08999", b"z", b"k00000\0"])
def test_an_absence_is_proven(key: bytes) -> None:
    """Before the first key, after the last, and anywhere between two."""
    assert verify_state(prove_state(PAIRS, key), ROOT, key) is None


def test_an_empty_state_has_a_root_and_no_keys() -> None:
    """It is one empty chunk, under which any key is absent."""
    assert verify_state(prove_state([], b"k"), compute_state_root([]), b"k") is None


def prove(key: bytes = b"k04000") -> StateProof:
    """A sound proof."""
    return prove_state(PAIRS, key)


WRONG: dict[str, tuple[StateProof, bytes]] = {
    "another key's chunk": (prove(), b"k08000"),
    "absence by a chunk before": (prove(b"k00000"), b"k04000"),
    "absence by the last chunk": (prove(b"z"), b"k00000"),
    "other index": (replace(prove(), index=prove().index + 1), b"k04000"),
    "index below zero": (replace(prove(), index=-1), b"k04000"),
    "other size": (replace(prove(), size=prove().index + 1), b"k04000"),
    "truncated path": (replace(prove(), path=prove().path[:-1]), b"k04000"),
    "extended path": (replace(prove(), path=(*prove().path, bytes(32))), b"k04000"),
    "short node": (replace(prove(), path=(b"", *prove().path[1:])), b"k04000"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_proof_is_refused(name: str) -> None:
    """Under the true root nothing but the right chunk at the right place convinces."""
    proof, key = WRONG[name]
    with pytest.raises(ProofError):
        verify_state(proof, ROOT, key)


def test_a_changed_value_is_refused() -> None:
    """Every byte of the chunk counts."""
    proof = prove()
    with pytest.raises((ProofError, Malformed)):
        verify_state(replace(proof, chunk=proof.chunk[:-2] + b"\x00\xc2"), ROOT, b"k04000")


CRAFTED: dict[str, list[Chunk]] = {
    "keys out of order": [Chunk(b"", ((b"m", b""), (b"k", b"1")), True)],
    "a key twice": [Chunk(b"", ((b"k", b"1"), (b"k", b"2")), True)],
    "a first chunk that begins late": [Chunk(b"a", ((b"k", b"1"),), True)],
    "a last chunk that isn't": [Chunk(b"", ((b"k", b"1"),), False)],
    "two first chunks": [Chunk(b"", ((b"k", b"1"),), False), Chunk(b"", ((b"k", b"2"),), True)],
    "two last chunks": [Chunk(b"", ((b"k", b"1"),), True), Chunk(b"k", ((b"m", b"2"),), True)],
    "an empty first chunk": [Chunk(b"", (), False), Chunk(b"k", ((b"m", b"2"),), True)],
}


@pytest.mark.parametrize("name", CRAFTED)
def test_a_root_that_was_made_wrong_convinces_nobody(name: str) -> None:
    """Chunks that break the rules are refused even under a root of their own."""
    encoded = [encode(chunk) for chunk in CRAFTED[name]]
    hashes = [leaf_hash(chunk) for chunk in encoded]
    refused = []
    for index, chunk in enumerate(encoded):
        path = tuple(each for at, each in enumerate(hashes) if at != index)
        proof = StateProof(chunk, index, len(encoded), path)
        try:
            verify_state(proof, compute_root(hashes), b"k")
        except ProofError:
            refused.append(index)
    assert refused
