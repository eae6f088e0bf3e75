"""Evidence of a fork is what two true signatures can't both say; nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.comet_world import make_block, make_set

from hansa.core.block import Header, compute_app_hash
from hansa.core.codec import encode, make_decoder
from hansa.core.errors import Malformed
from hansa.core.evidence import (
    Evidence,
    RewrittenPast,
    TwoBlocks,
    TwoCheckpoints,
    TwoHeaders,
    compute_evidence_digest,
    verify_evidence,
)
from hansa.core.finality import CheckpointSigner, TrustedNetwork
from hansa.core.hashing import ZERO_DIGEST
from hansa.core.merkle import ProofError, compute_root, leaf_hash
from hansa.core.tilelog import TileLog

BLOCK = make_block(1, make_set(1))
NETWORK = b"\x01" + b"n" * 32
SIGNER = CheckpointSigner(b"v" * 32)
STRANGER = CheckpointSigner(b"s" * 32)
TRUSTED = TrustedNetwork(NETWORK, (SIGNER.public,), None)


class DictTiles:
    """Tiles in memory."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}

    def write(self, path: str, data: bytes) -> None:
        """Keep a tile."""
        self.data[path] = data

    def read(self, path: str) -> bytes | None:
        """Return a tile, or None."""
        return self.data.get(path)

    def size(self, path: str) -> int | None:
        """Return the length of a tile, or None."""
        return len(self.data[path]) if path in self.data else None


def make_log(entries: list[bytes]) -> TileLog:
    """A log with these entries."""
    log = TileLog(DictTiles())
    log.append(entries)
    return log


def make_header(size: int, root: bytes, **changes: Any) -> Header:
    """A header of chain product over a log."""
    header = Header(
        version=1,
        network=NETWORK,
        chain="product",
        height=size,
        time_ms=1000 + size,
        log_size=size,
        log_root=root,
        outbox_size=0,
        outbox_root=bytes(32),
        previous=ZERO_DIGEST,
        writes=ZERO_DIGEST,
        state_height=0,
        state_root=bytes(32),
    )
    return msgspec.structs.replace(header, **changes)


def sign(header: Header, signer: CheckpointSigner = SIGNER) -> tuple[bytes, bytes]:
    """A header's bytes and what makes it final."""
    return encode(header), signer.sign(header, compute_app_hash(header))


def entries_of(tag: str, count: int) -> list[bytes]:
    """Entries that tell one story."""
    return [f"{tag}{n}".encode() for n in range(count)]


def rewrite(old_size: int, new_size: int, changed: int) -> RewrittenPast:
    """Evidence that a log, of which entry `changed` was another, was signed at both sizes."""
    honest = entries_of("entry", new_size)
    liar = [*honest]
    liar[changed] = b"rewritten"
    log = make_log(liar)
    old_root = compute_root([leaf_hash(entry) for entry in honest[:old_size]])
    return RewrittenPast(
        *sign(make_header(old_size, old_root)),
        *sign(make_header(new_size, log.root())),
        old_root=log.root_at(old_size),
        path=tuple(log.prove_consistency(old_size, new_size)),
    )


def two_headers(**changes: Any) -> TwoHeaders:
    """Two headers of which the second is changed."""
    header = make_header(5, b"a" * 32)
    return TwoHeaders(*sign(header), *sign(msgspec.structs.replace(header, **changes)))


GOOD: dict[str, tuple[Evidence, str]] = {
    "two roots": (
        TwoCheckpoints(sign(make_header(5, b"a" * 32))[1], sign(make_header(5, b"b" * 32))[1]),
        "two roots at log size 5",
    ),
    "two headers": (two_headers(time_ms=7), "two headers at height 5"),
    "two headers of one size": (two_headers(height=6), "two headers at log size 5"),
    "two headers of other sizes": (two_headers(log_size=9), "two headers at height 5"),
    "rewritten past": (rewrite(5, 9, 2), "past of log size 5 rewritten at 9"),
    "rewritten past at a power of two": (rewrite(8, 13, 0), "past of log size 8 rewritten at 13"),
    "rewritten first entry": (rewrite(1, 2, 0), "past of log size 1 rewritten at 2"),
}


@pytest.mark.parametrize(("evidence", "shows"), GOOD.values(), ids=GOOD.keys())
def test_evidence_of_a_fork_holds(evidence: Evidence, shows: str) -> None:
    """Whoever trusts the validators' keys must conclude that they told two stories."""
    assert shows == verify_evidence(evidence, "product", TRUSTED)


def change(evidence: Evidence, **changes: Any) -> Evidence:
    """The evidence with fields replaced."""
    return msgspec.structs.replace(evidence, **changes)


HONEST_LOG = make_log(entries_of("entry", 13))


def honest_past(old_size: int, new_size: int, **changes: Any) -> RewrittenPast:
    """What a relay can say of an honest chain's two checkpoints."""
    evidence = RewrittenPast(
        *sign(make_header(old_size, HONEST_LOG.root_at(old_size))),
        *sign(make_header(new_size, HONEST_LOG.root_at(new_size))),
        old_root=HONEST_LOG.root_at(old_size),
        path=tuple(HONEST_LOG.prove_consistency(old_size, new_size)),
    )
    return msgspec.structs.replace(evidence, **changes)


CHECKPOINT = sign(make_header(5, b"a" * 32))[1]

BAD: dict[str, Callable[[], Evidence]] = {
    "one checkpoint twice": lambda: TwoCheckpoints(CHECKPOINT, CHECKPOINT),
    "checkpoints of two sizes": lambda: TwoCheckpoints(
        CHECKPOINT, sign(make_header(6, b"b" * 32))[1]
    ),
    "checkpoint of a stranger": lambda: TwoCheckpoints(
        CHECKPOINT, sign(make_header(5, b"b" * 32), STRANGER)[1]
    ),
    "checkpoint of another chain": lambda: TwoCheckpoints(
        CHECKPOINT, sign(make_header(5, b"b" * 32, chain="trade"))[1]
    ),
    "checkpoint of another network": lambda: TwoCheckpoints(
        CHECKPOINT, sign(make_header(5, b"b" * 32, network=b"\x01" + b"o" * 32))[1]
    ),
    "one header twice": two_headers,
    "headers of two heights": lambda: two_headers(height=6, log_size=6),
    "header with another's checkpoint": lambda: change(
        two_headers(time_ms=7), second_finality=CHECKPOINT
    ),
    "header of another chain": lambda: two_headers(chain="trade"),
    "header nobody signed": lambda: change(two_headers(time_ms=7), second_header=b"\xff"),
    "honest past": lambda: honest_past(5, 13),
    "honest past at a power of two": lambda: honest_past(8, 13),
    "honest past with another old root": lambda: honest_past(5, 13, old_root=b"x" * 32),
    "honest power of two with another old root": lambda: honest_past(8, 13, old_root=b"x" * 32),
    "honest past, wrong path": lambda: honest_past(5, 13, path=(b"x" * 32,) * 5),
    "honest past, no path": lambda: honest_past(5, 13, path=()),
    "honest past, path too long": lambda: honest_past(5, 13, path=(b"x" * 32,) * 60),
    "same size and no path": lambda: change(
        honest_past(5, 13),
        new_header=honest_past(5, 13).old_header,
        new_finality=honest_past(5, 13).old_finality,
        path=(),
    ),
    "sizes the wrong way round": lambda: change(
        honest_past(5, 13),
        old_header=honest_past(5, 13).new_header,
        old_finality=honest_past(5, 13).new_finality,
        new_header=honest_past(5, 13).old_header,
        new_finality=honest_past(5, 13).old_finality,
    ),
    "blocks of another engine": lambda: TwoBlocks(BLOCK, BLOCK),
}


@pytest.mark.parametrize("make", BAD.values(), ids=BAD.keys())
def test_anything_else_is_no_evidence(make: Callable[[], Evidence]) -> None:
    """A lie about an honest chain is refused, whoever tells it."""
    with pytest.raises(ProofError):
        verify_evidence(make(), "product", TRUSTED)


@pytest.mark.parametrize("evidence", [case[0] for case in GOOD.values()], ids=GOOD.keys())
def test_evidence_counts_for_its_chain_and_network_alone(evidence: Evidence) -> None:
    """Evidence against one chain says nothing of another."""
    with pytest.raises(ProofError):
        verify_evidence(evidence, "trade", TRUSTED)
    other = TrustedNetwork(b"\x01" + b"o" * 32, (SIGNER.public,), None)
    with pytest.raises(ProofError):
        verify_evidence(evidence, "product", other)
    with pytest.raises(ProofError):
        verify_evidence(evidence, "product", TrustedNetwork(NETWORK, (STRANGER.public,), None))


@given(old=st.integers(1, 40), more=st.integers(1, 40), changed=st.integers(0, 39), data=st.data())
def test_rewritten_past_is_proven_at_every_size(
    old: int, more: int, changed: int, data: st.DataObject
) -> None:
    """Whatever the sizes, a rewritten entry is proven, and any other byte proves nothing."""
    evidence = rewrite(old, old + more, changed % old)
    verify_evidence(evidence, "product", TRUSTED)
    encoded = encode(evidence)
    place = data.draw(st.integers(0, len(encoded) - 1))
    bit = 1 << data.draw(st.integers(0, 7))
    mutated = encoded[:place] + bytes([encoded[place] ^ bit]) + encoded[place + 1 :]
    with pytest.raises((Malformed, ProofError)):
        verify_evidence(make_decoder(Evidence, "evidence")(mutated), "product", TRUSTED)


def test_evidence_is_known_by_its_digest() -> None:
    """Each piece of evidence has a digest of its own."""
    digests = [compute_evidence_digest(evidence) for evidence, _ in GOOD.values()]
    assert len(digests) == len(set(digests))
    assert {33} == {len(digest) for digest in digests}
