"""What makes a header final, and the judging of it by someone who runs no node.

The solo engine's finality proof is the chain's checkpoint: a C2SP signed note over log size and
root, with the app_hash as an extension line, signed by the network's validator. That of a network
on CometBFT is the light block after: its header holds the root over the app_hash of every chain,
and more than two thirds of the voting power have signed it. The chain's header, which the app_hash
is the digest of, then opens to log, outbox and state.
"""

from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from hansa.core.block import Header, compute_app_hash, decode_header
from hansa.core.codec import U8, Raw32, Value, encode, make_decoder
from hansa.core.errors import Malformed
from hansa.core.genesis import (
    Genesis,
    checkpoint_origin,
    compute_network_id,
    consensus_chain_id,
)
from hansa.core.hashing import Digest
from hansa.core.keys import ED25519, PublicKey
from hansa.core.lightblock import LightBlock
from hansa.core.lightclient import (
    NotEnoughTrust,
    TrustedConsensus,
    follow,
    look_back,
    trust_block,
    trust_genesis,
    verify_commit,
    verify_light_block,
)
from hansa.core.merkle import (
    HASH_BYTES,
    ProofError,
    compute_inclusion_path,
    leaf_hash,
    verify_inclusion,
)
from hansa.core.note import Checkpoint, NoteError, NoteSigner, VerifierKey, open_note

SOLO: Final = 0x01
"""Type byte of a finality proof: a checkpoint signed by the validators."""

COMET: Final = 0x02
"""Type byte of a finality proof: light blocks, and the path to the app_hash in the last."""

MAX_FINALITY_BYTES: Final = 1024 * 1024
"""In files; what a transaction carries is bounded by its own 64 KiB, which hold the light blocks of
three hundred validators."""
MAX_HOPS: Final = 64
"""Light blocks in a proof: one, and one for each time that most of the power has changed since."""
MAX_CHAINS_PATH: Final = 6
"""Nodes; a network has 64 chains at most."""
GENESIS_TRUST_MS: Final = 366 * 24 * 3_600_000
"""Trusting period of who knows nothing but the genesis. The validators are organisations that are
known and under contract, not a stake that can be withdrawn in weeks."""
MAX_DRIFT_MS: Final = 60_000
"""How far a header may be ahead of the verifier's clock."""
APP_HASH_LINE: Final = "hansa-app-hash "

Finality = Annotated[bytes, Meta(min_length=2, max_length=MAX_FINALITY_BYTES)]
"""A type byte and the proof: for SOLO the signed note, for COMET a ConsensusFinality."""


class ConsensusFinality(Value):
    """Why a chain's header is final on a network that runs on CometBFT."""

    hops: Annotated[tuple[LightBlock, ...], Meta(min_length=1, max_length=MAX_HOPS)]
    """Of rising height. The last holds the network hash; those before lead to it where the
    validators have changed much since what the verifier trusts."""
    index: U8
    """Of the chain among those of the network, sorted by name."""
    size: U8
    path: Annotated[tuple[Raw32, ...], Meta(max_length=MAX_CHAINS_PATH)]
    """RFC 9162 inclusion path from (chain, app_hash) to the network hash."""


_decode_consensus: Callable[[bytes], ConsensusFinality] = make_decoder(
    ConsensusFinality, "finality"
)


class FinalHeader(Value):
    """An encoded header and what makes it final."""

    header: Annotated[bytes, Meta(max_length=1024)]
    finality: Finality


class TrustedNetwork(Value):
    """What someone must already trust to judge proofs of a network."""

    network: Digest
    validators: Annotated[tuple[PublicKey, ...], Meta(min_length=1, max_length=100)]
    """Ed25519 keys of checkpoints. On a network of the solo engine all of them sign, in this
    order; on one of CometBFT each signs what its own node has seen."""
    consensus: TrustedConsensus | None
    """Whose votes make blocks final; None for the solo engine."""


def trust_network(genesis: Genesis) -> TrustedNetwork:
    """Return what someone trusts of a network who knows its genesis."""
    consensus = None
    if genesis.consensus:
        time_ns = genesis.time_ms * 1_000_000
        consensus = trust_genesis(genesis.consensus, time_ns, GENESIS_TRUST_MS)
    return TrustedNetwork(compute_network_id(genesis), genesis.validators, consensus)


def make_checkpoint(header: Header, app_hash: bytes) -> Checkpoint:
    """Return the checkpoint that makes a header final once it is signed."""
    return Checkpoint(
        origin=checkpoint_origin(header.network, header.chain),
        size=header.log_size,
        root=header.log_root,
        extensions=(APP_HASH_LINE + b64encode(app_hash).decode(),),
    )


def make_verifier_key(network: bytes, chain: str, validator: bytes) -> VerifierKey:
    """Return a validator's key as C2SP note verifiers take it; its name is the chain's origin."""
    return VerifierKey(checkpoint_origin(network, chain), validator[1:])


class CheckpointSigner:
    """The validator's Ed25519 key, which signs nothing but checkpoints."""

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        self._signers: dict[str, NoteSigner] = {}
        self.public: bytes = bytes([ED25519]) + NoteSigner("validator", seed).key.public

    def sign(self, header: Header, app_hash: bytes) -> bytes:
        """Return the finality proof of a header."""
        checkpoint = make_checkpoint(header, app_hash)
        signer = self._signers.get(checkpoint.origin)
        if signer is None:
            signer = self._signers[checkpoint.origin] = NoteSigner(checkpoint.origin, self._seed)
        text = checkpoint.to_text()
        return bytes([SOLO]) + f"{text}\n{signer.sign_line(text)}".encode()

    def __repr__(self) -> str:
        return f"CheckpointSigner(public={self.public.hex()})"


def note_of(finality: bytes) -> bytes:
    """Return the signed note inside a finality proof.

    Raises: ProofError for another scheme.
    """
    if finality[:1] != bytes([SOLO]):
        raise ProofError(f"finality: expected type {SOLO:#04x}, got {finality[:1].hex()}")
    return finality[1:]


def verify_finality(finality: bytes, chain: str, trusted: TrustedNetwork) -> Checkpoint:
    """Judge a finality proof alone; returns the checkpoint that is final.

    Raises: ProofError for another scheme, a wrong signature, or any byte that is not needed.
    """
    try:
        # Inside, for the chain's name may come from the file: one with a space names no key.
        keys = [make_verifier_key(trusted.network, chain, key) for key in trusted.validators]
        opened = open_note(note_of(finality), keys, exact=True)
        checkpoint = Checkpoint.parse(opened.text)
    except NoteError as error:
        raise ProofError(f"finality: {error}") from None
    if checkpoint.origin != checkpoint_origin(trusted.network, chain):
        raise ProofError(f"finality: expected the origin of chain {chain}, got {checkpoint.origin}")
    return checkpoint


def make_consensus_finality(
    hops: Sequence[LightBlock], app_hashes: Mapping[str, bytes], chain: str
) -> bytes:
    """Return the finality proof of a chain's header.

    ``app_hashes`` are those of all chains of the network, whose root the last hop's header holds.
    """
    names = sorted(app_hashes)
    leaves = [_chain_leaf(name, app_hashes[name]) for name in names]
    index = names.index(chain)
    path = tuple(compute_inclusion_path(leaves, index))
    proof = ConsensusFinality(hops=tuple(hops), index=index, size=len(names), path=path)
    return bytes([COMET]) + encode(proof)


def _chain_leaf(chain: str, app_hash: bytes) -> bytes:
    return leaf_hash(encode((chain, app_hash)))


def decode_consensus_finality(finality: bytes) -> ConsensusFinality:
    """Read the finality proof of a network on CometBFT.

    Raises: ProofError for another scheme, or a proof that is not in its one encoding.
    """
    if finality[:1] != bytes([COMET]):
        raise ProofError(f"finality: expected type {COMET:#04x}, got {finality[:1].hex()}")
    try:
        return _decode_consensus(finality[1:])
    except Malformed:
        # The codec's words differ between its versions, and this text may end on a receipt.
        raise ProofError("finality: expected a well-formed proof, got other bytes") from None


def verify_final(
    header_bytes: bytes, finality: bytes, chain: str, trusted: TrustedNetwork, *,
    now_ms: int | None = None, max_drift_ms: int = MAX_DRIFT_MS,
    earlier: Sequence[TrustedConsensus] = (),
) -> tuple[Header, TrustedNetwork]:  # fmt: skip
    """Judge a header and what makes it final; returns the header, and what is trusted from now on.

    ``now_ms`` is the verifier's time, by which trust in validators may have expired; without it
    only the order of the headers' own times is judged. ``earlier`` is trust of rising height that
    the verifier had before and that has not expired: blocks below the present one are judged by it
    where the validators have changed too much since. Raises: ProofError if the header is malformed,
    is of another network or chain, the finality proof doesn't hold, or is about another header; of
    these NotEnoughTrust and TrustExpired say that nothing is wrong but the trust.
    """
    try:
        header = decode_header(header_bytes)
    except Malformed:
        # The codec's words differ between its versions, and this text may end on a receipt.
        raise ProofError("header: expected a well-formed header, got other bytes") from None
    if header.network != trusted.network:
        raise ProofError(f"network: expected {trusted.network.hex()}, got {header.network.hex()}")
    if header.chain != chain:
        raise ProofError(f"chain: expected {chain}, got {header.chain}")
    app_hash = compute_app_hash(header)
    if trusted.consensus is None:
        checkpoint = verify_finality(finality, chain, trusted)
        if checkpoint != make_checkpoint(header, app_hash):
            raise ProofError(
                "checkpoint: expected size, root and app_hash of the header, got others"
            )
        return header, trusted
    proof = decode_consensus_finality(finality)
    judge = _HopJudge(consensus_chain_id(trusted.network), now_ms, max_drift_ms)
    reached = judge.reach(proof.hops, trusted.consensus, earlier)
    network_hash = proof.hops[-1].header.app_hash
    if len(network_hash) != HASH_BYTES:
        raise ProofError(f"app_hash: expected {HASH_BYTES} bytes, got {len(network_hash)}")
    leaf = _chain_leaf(chain, app_hash)
    verify_inclusion(leaf, proof.index, proof.size, proof.path, network_hash)
    return header, msgspec.structs.replace(trusted, consensus=reached)


class _HopJudge:
    """Judges the light blocks of a finality proof by what somebody trusts."""

    def __init__(self, chain_id: str, now_ms: int | None, max_drift_ms: int) -> None:
        self._chain_id = chain_id
        self._now_ms = now_ms
        self._max_drift_ms = max_drift_ms

    def reach(
        self, hops: Sequence[LightBlock], consensus: TrustedConsensus,
        earlier: Sequence[TrustedConsensus],
    ) -> TrustedConsensus:  # fmt: skip
        """Judge the last light block by the hops before it; returns the newest trust reached.

        Older trust is used for older blocks only, and never comes to stand for the newest.
        """
        height = hops[-1].height
        try:
            return self._take(hops, consensus)
        except NotEnoughTrust:
            nearest = _find_nearest(earlier, height) if height <= consensus.height else ()
            for trust in nearest:
                with suppress(NotEnoughTrust):
                    self._take(hops, trust)
                    return consensus
            raise

    def _take(self, hops: Sequence[LightBlock], consensus: TrustedConsensus) -> TrustedConsensus:
        for hop, following in pairwise(hops):
            if hop.height >= following.height:
                raise ProofError(
                    f"hops: expected rising heights, got {hop.height} before {following.height}"
                )
        for hop, following in pairwise(hops):
            reached = self._try_hop(hop, consensus)
            if reached is None:
                self._check_leads(hop, following)
            else:
                consensus = reached
        if hops[-1].height > consensus.height:
            return self._follow(consensus, hops[-1])
        look_back(consensus, hops[-1], self._chain_id, now_ms=self._now_ms, exact=True)
        return consensus

    def _try_hop(self, hop: LightBlock, consensus: TrustedConsensus) -> TrustedConsensus | None:
        """Return the trust in a hop; None if it is for others, who trust less or something else."""
        if hop.height <= consensus.height:
            return None
        try:
            return self._follow(consensus, hop)
        except NotEnoughTrust:
            return None

    def _follow(self, consensus: TrustedConsensus, block: LightBlock) -> TrustedConsensus:
        return follow(
            consensus,
            block,
            self._chain_id,
            now_ms=self._now_ms,
            max_clock_drift_ms=self._max_drift_ms,
            exact=True,
        )

    def _check_leads(self, hop: LightBlock, following: LightBlock) -> None:
        """Check a hop that this verifier needn't believe: it is sound, and leads to the next.

        Made-up validators can sign a hop of their own, but not have a believed block signed by more
        than a third of it as well: so nobody can put hops into a proof that prove nothing.
        """
        verify_light_block(hop, self._chain_id)
        verify_commit(hop, self._chain_id, exact=True)
        try:
            follow(
                trust_block(hop, _EVER_MS),
                following,
                self._chain_id,
                now_ms=None,
                max_clock_drift_ms=self._max_drift_ms,
            )
        except NotEnoughTrust as error:
            raise ProofError(f"hops: expected each to lead to the next; {error}") from None


_EVER_MS: Final = 1_000 * GENESIS_TRUST_MS


def _find_nearest(
    earlier: Sequence[TrustedConsensus], height: int
) -> Iterator[TrustedConsensus]:  # fmt: skip
    """Yield the first trust at or above a height and the last below: a changed set is near them."""
    above = next((trust for trust in earlier if trust.height >= height), None)
    below = next((trust for trust in reversed(earlier) if trust.height < height), None)
    yield from (trust for trust in (above, below) if trust is not None)


def shorten_finality(finality: bytes, height: int) -> bytes:
    """Return a finality proof without the hops that a verifier with trust of a height passes over.

    Raises: ProofError as :func:`decode_consensus_finality`.
    """
    proof = decode_consensus_finality(finality)
    *hops, last = proof.hops
    needed = (*(hop for hop in hops if hop.height > height), last)
    return bytes([COMET]) + encode(msgspec.structs.replace(proof, hops=needed))


def verify_header(
    header_bytes: bytes, finality: bytes, chain: str, trusted: TrustedNetwork, *,
    now_ms: int | None = None, earlier: Sequence[TrustedConsensus] = (),
) -> Header:  # fmt: skip
    """Judge a header and what makes it final; returns the header.

    Raises: as :func:`verify_final`.
    """
    return verify_final(header_bytes, finality, chain, trusted, now_ms=now_ms, earlier=earlier)[0]
