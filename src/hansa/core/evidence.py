"""Evidence that a chain has told two stories, and the judging of it by someone who saw neither.

Every kind holds two statements that the chain's validators signed and that can't both be true. A
proof that merely fails is no evidence: anyone can write one about an honest chain.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Final

from msgspec import Meta

from hansa.core.block import Header, app_hash_of_bytes
from hansa.core.codec import ChainName, Raw32, Value, encode
from hansa.core.finality import (
    MAX_DRIFT_MS,
    Finality,
    TrustedNetwork,
    verify_finality,
    verify_header,
)
from hansa.core.genesis import consensus_chain_id
from hansa.core.hashing import digester
from hansa.core.lightblock import LightBlock
from hansa.core.lightclient import LightClientError, TrustedConsensus, verify_two_blocks
from hansa.core.merkle import ProofError, compute_roots_from_consistency

MAX_HEADER_BYTES: Final = 1_024
MAX_CONSISTENCY_PATH: Final = 64
"""Nodes; a log of 2^63 leaves needs 63."""

HeaderBytes = Annotated[bytes, Meta(min_length=1, max_length=MAX_HEADER_BYTES)]
"""An encoded header."""
ConsistencyPath = Annotated[tuple[Raw32, ...], Meta(max_length=MAX_CONSISTENCY_PATH)]
"""Nodes of an RFC 9162 consistency path, §2.1.4."""


class TwoCheckpoints(Value, tag=1):
    """Two signed checkpoints of one log size with different roots; of the solo engine alone."""

    first: Finality
    second: Finality


class TwoHeaders(Value, tag=2):
    """Two different final headers of one height or one log size."""

    first_header: HeaderBytes
    first_finality: Finality
    second_header: HeaderBytes
    second_finality: Finality


class RewrittenPast(Value, tag=3):
    """A final header whose log doesn't begin with the log of one that was final before."""

    old_header: HeaderBytes
    """Of the smaller log."""
    old_finality: Finality
    new_header: HeaderBytes
    """Of the larger log."""
    new_finality: Finality
    old_root: Raw32
    """Root that the larger log has at the smaller one's size, as the path shows."""
    path: ConsistencyPath


class TwoBlocks(Value, tag=4):
    """Two different light blocks of one height, each committed: of networks on CometBFT alone."""

    first: LightBlock
    second: LightBlock
    """Its header's hash is the greater: evidence has one form."""


Evidence = TwoCheckpoints | TwoHeaders | RewrittenPast | TwoBlocks

evidence_digest_of_bytes = digester("evidence")


class ForkFound(Value, tag=1):
    """What the anchor chain sends to the others; they judge the evidence themselves."""

    chain: ChainName
    evidence: Evidence


def compute_evidence_digest(evidence: Evidence) -> bytes:
    """Return the 33-byte digest evidence is known by."""
    return evidence_digest_of_bytes(encode(evidence))


def verify_evidence(
    evidence: Evidence, chain: str, trusted: TrustedNetwork,
    earlier: Sequence[TrustedConsensus] = (),
) -> str:  # fmt: skip
    """Judge evidence against a chain; returns in words what it shows.

    ``earlier`` is trust that has not expired, as for :func:`verify_final`. Raises: ProofError if a
    statement isn't one that the chain's validators made final, or the two can both be true.
    """
    return _VERIFIERS[type(evidence)](evidence, chain, trusted, earlier)


def _verify_two_checkpoints(
    evidence: TwoCheckpoints, chain: str, trusted: TrustedNetwork, _: Sequence[TrustedConsensus]
) -> str:
    if trusted.consensus is not None:
        # There a note is one node's word; it makes nothing final, so two deny nothing.
        raise ProofError("checkpoints: expected a network of the solo engine, got one on CometBFT")
    first = verify_finality(evidence.first, chain, trusted)
    second = verify_finality(evidence.second, chain, trusted)
    if first.size != second.size:
        raise ProofError(f"size: expected {first.size} in both, got {second.size}")
    if first.root == second.root:
        raise ProofError(f"root: expected two, got {first.root.hex()} twice")
    return f"two roots at log size {first.size}"


def _verify_two_headers(
    evidence: TwoHeaders, chain: str, trusted: TrustedNetwork, earlier: Sequence[TrustedConsensus]
) -> str:
    first, second = (
        verify_header(header, finality, chain, trusted, earlier=earlier)
        for header, finality in (
            (evidence.first_header, evidence.first_finality),
            (evidence.second_header, evidence.second_finality),
        )
    )
    # A block with a header has at least one leaf: one log size is one header, as one height is.
    if first.height != second.height and first.log_size != second.log_size:
        raise ProofError(
            f"height: expected {first.height} or log size {first.log_size} in both, got "
            f"{second.height} and {second.log_size}"
        )
    app_hash = app_hash_of_bytes(evidence.first_header)
    if app_hash == app_hash_of_bytes(evidence.second_header):
        raise ProofError(f"app_hash: expected two, got {app_hash.hex()} twice")
    if first.height == second.height:
        return f"two headers at height {first.height}"
    return f"two headers at log size {first.log_size}"


def _verify_rewritten_past(
    evidence: RewrittenPast, chain: str, trusted: TrustedNetwork,
    earlier: Sequence[TrustedConsensus],
) -> str:  # fmt: skip
    old: Header = verify_header(
        evidence.old_header, evidence.old_finality, chain, trusted, earlier=earlier
    )
    new: Header = verify_header(
        evidence.new_header, evidence.new_finality, chain, trusted, earlier=earlier
    )
    # All nodes from which the old root is computed also enter the new root, which is final; so
    # whoever can't break the hash has no choice in what they say of the old one (§2.1.4.2). Where
    # the old size is a power of two the path leaves its root out: hence old_root as a field.
    roots = compute_roots_from_consistency(
        old.log_size, new.log_size, evidence.path, evidence.old_root
    )
    if roots != (evidence.old_root, new.log_root):
        raise ProofError(
            f"path: expected {evidence.old_root.hex()} and the final {new.log_root.hex()}, got "
            f"{roots[0].hex()} and {roots[1].hex()}"
        )
    if evidence.old_root == old.log_root:
        raise ProofError(f"old_root: expected another than the final {old.log_root.hex()}, got it")
    return f"past of log size {old.log_size} rewritten at {new.log_size}"


def _verify_two_blocks(
    evidence: TwoBlocks, _: str, trusted: TrustedNetwork, earlier: Sequence[TrustedConsensus]
) -> str:
    if trusted.consensus is None:
        raise ProofError("blocks: expected a network on CometBFT, got one of the solo engine")
    chain_id = consensus_chain_id(trusted.network)
    failure: LightClientError | None = None
    for trust in (trusted.consensus, *reversed(earlier)):
        try:
            shown = verify_two_blocks(
                evidence.first,
                evidence.second,
                trust,
                chain_id,
                now_ms=None,
                max_clock_drift_ms=MAX_DRIFT_MS,
                exact=True,
            )
        except LightClientError as error:
            failure = failure or error
            continue
        if shown.first_hash > shown.second_hash:
            raise ProofError("blocks: expected their hashes to rise, got the contrary")
        return f"two blocks at height {shown.height}"
    assert failure is not None, "the trust of today is one at least"
    raise failure


_VERIFIERS: Final[dict[type[Value], Callable[..., str]]] = {
    TwoCheckpoints: _verify_two_checkpoints,
    TwoHeaders: _verify_two_headers,
    RewrittenPast: _verify_rewritten_past,
    TwoBlocks: _verify_two_blocks,
}
