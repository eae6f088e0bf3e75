"""Evidence that a chain has told two stories, and the judging of it by someone who saw neither.

Every kind holds two statements that the chain's validators signed and that can't both be true. A
proof that merely fails is no evidence: anyone can write one about an honest chain.
"""

from collections.abc import Callable
from typing import Annotated, Final

from msgspec import Meta

from hansa.core.block import app_hash_of_bytes
from hansa.core.codec import ChainName, Raw32, Value, encode
from hansa.core.finality import Finality, TrustedNetwork, verify_finality, verify_header
from hansa.core.hashing import digester
from hansa.core.merkle import ProofError, compute_roots_from_consistency

MAX_HEADER_BYTES: Final = 1_024
MAX_CONSISTENCY_PATH: Final = 64
"""Nodes; a log of 2^63 leaves needs 63."""

HeaderBytes = Annotated[bytes, Meta(min_length=1, max_length=MAX_HEADER_BYTES)]
"""An encoded header."""
ConsistencyPath = Annotated[tuple[Raw32, ...], Meta(max_length=MAX_CONSISTENCY_PATH)]
"""Nodes of an RFC 9162 consistency path, §2.1.4."""


class TwoCheckpoints(Value, tag=1):
    """Two signed checkpoints of one log size with different roots."""

    first: Finality
    second: Finality


class TwoHeaders(Value, tag=2):
    """Two final headers of one height with different app_hash."""

    first_header: HeaderBytes
    first_finality: Finality
    second_header: HeaderBytes
    second_finality: Finality


class RewrittenPast(Value, tag=3):
    """A signed checkpoint whose log doesn't begin with the log of one signed before."""

    old: Finality
    """Checkpoint of the smaller log."""
    new: Finality
    """Checkpoint of the larger log."""
    old_root: Raw32
    """Root that the larger log has at the smaller one's size, as the path shows."""
    path: ConsistencyPath


Evidence = TwoCheckpoints | TwoHeaders | RewrittenPast

evidence_digest_of_bytes = digester("evidence")


class ForkFound(Value, tag=1):
    """What the anchor chain sends to the others; they judge the evidence themselves."""

    chain: ChainName
    evidence: Evidence


def compute_evidence_digest(evidence: Evidence) -> bytes:
    """Return the 33-byte digest evidence is known by."""
    return evidence_digest_of_bytes(encode(evidence))


def verify_evidence(evidence: Evidence, chain: str, trusted: TrustedNetwork) -> str:
    """Judge evidence against a chain; returns in words what it shows.

    Raises: ProofError if a statement isn't one that the chain's validators signed, or the two can
    both be true.
    """
    return _VERIFIERS[type(evidence)](evidence, chain, trusted)


def _verify_two_checkpoints(evidence: TwoCheckpoints, chain: str, trusted: TrustedNetwork) -> str:
    first = verify_finality(evidence.first, chain, trusted)
    second = verify_finality(evidence.second, chain, trusted)
    if first.size != second.size:
        raise ProofError(f"size: expected {first.size} in both, got {second.size}")
    if first.root == second.root:
        raise ProofError(f"root: expected two, got {first.root.hex()} twice")
    return f"two roots at log size {first.size}"


def _verify_two_headers(evidence: TwoHeaders, chain: str, trusted: TrustedNetwork) -> str:
    first = verify_header(evidence.first_header, evidence.first_finality, chain, trusted)
    second = verify_header(evidence.second_header, evidence.second_finality, chain, trusted)
    if first.height != second.height:
        raise ProofError(f"height: expected {first.height} in both, got {second.height}")
    app_hash = app_hash_of_bytes(evidence.first_header)
    if app_hash == app_hash_of_bytes(evidence.second_header):
        raise ProofError(f"app_hash: expected two, got {app_hash.hex()} twice")
    return f"two headers at height {first.height}"


def _verify_rewritten_past(evidence: RewrittenPast, chain: str, trusted: TrustedNetwork) -> str:
    old = verify_finality(evidence.old, chain, trusted)
    new = verify_finality(evidence.new, chain, trusted)
    # All nodes from which the old root is computed also enter the new root, which is signed; so
    # whoever can't break the hash has no choice in what they say of the old one (§2.1.4.2). Where
    # the old size is a power of two the path leaves its root out: hence old_root as a field.
    roots = compute_roots_from_consistency(old.size, new.size, evidence.path, evidence.old_root)
    if roots != (evidence.old_root, new.root):
        raise ProofError(
            f"path: expected {evidence.old_root.hex()} and the signed {new.root.hex()}, got "
            f"{roots[0].hex()} and {roots[1].hex()}"
        )
    if evidence.old_root == old.root:
        raise ProofError(f"old_root: expected another than the signed {old.root.hex()}, got it")
    return f"past of log size {old.size} rewritten at {new.size}"


_VERIFIERS: Final[dict[type[Value], Callable[..., str]]] = {
    TwoCheckpoints: _verify_two_checkpoints,
    TwoHeaders: _verify_two_headers,
    RewrittenPast: _verify_rewritten_past,
}
