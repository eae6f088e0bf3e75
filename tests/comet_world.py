"""Light blocks of a CometBFT network that exists only here: real keys, hashes and signatures."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256

from nacl.bindings import crypto_sign, crypto_sign_seed_keypair

from hansa.core.keys import ED25519
from hansa.core.lightblock import (
    COMMIT,
    NIL,
    NO_BLOCK,
    NO_VOTE,
    PRECOMMIT,
    BlockId,
    CometHeader,
    Commit,
    CommitSignature,
    LightBlock,
    canonical_vote_bytes,
    header_hash,
    sort_validators,
    validator_address,
    validators_hash,
)
from hansa.core.lightclient import TrustedConsensus, trust_genesis
from hansa.core.validatorset import Validator

CHAIN_ID = "hansa-0011223344556677"
START_NS = 1_700_000_000_000_000_000
SECOND_NS = 1_000_000_000
DAY_MS = 24 * 3600 * 1000


@dataclass(frozen=True)
class Signer:
    """A validator's key pair."""

    key: bytes
    secret: bytes

    def sign(self, message: bytes) -> bytes:
        """The 64 bytes of its signature."""
        return crypto_sign(message, self.secret)[:64]


@cache
def make_signer(name: int | str) -> Signer:
    """The signer of a name, always the same."""
    public, secret = crypto_sign_seed_keypair(sha256(f"validator {name}".encode()).digest())
    return Signer(bytes([ED25519]) + public, secret)


_SECRETS: dict[bytes, Signer] = {}


def make_set(*powers: int, first: int = 0) -> tuple[Validator, ...]:
    """A set of these powers; its signers are numbered from ``first``."""
    made = []
    for number, power in enumerate(powers, first):
        signer = make_signer(number)
        _SECRETS[signer.key] = signer
        made.append(Validator(signer.key, power))
    return sort_validators(made)


def sign_vote(
    key: bytes,
    height: int,
    round_: int,
    block_id: BlockId,
    time_ns: int,
    vote_type: int = PRECOMMIT,
    chain_id: str | None = None,
) -> bytes:
    """The signature of a key from `make_set` on a vote."""
    message = canonical_vote_bytes(
        chain_id or CHAIN_ID, vote_type, height, round_, block_id, time_ns
    )
    return _SECRETS[key].sign(message)


def make_block(
    height: int,
    validators: tuple[Validator, ...],
    following: tuple[Validator, ...] | None = None,
    *,
    absent: Collection[int] = (),
    nil: Collection[int] = (),
    round_: int = 0,
    time_ns: int | None = None,
    app_hash: bytes = bytes(32),
    data_hash: bytes = sha256(b"").digest(),
    chain_id: str | None = None,
) -> LightBlock:
    """A block committed by all validators but the absent ones and those who vote for no block.

    Those are given by place in the set; ``following`` is the next set where it is another.
    """
    time_ns = START_NS + height * SECOND_NS if time_ns is None else time_ns
    following = validators if following is None else following
    header = CometHeader(
        version_block=11,
        version_app=1,
        chain_id=chain_id or CHAIN_ID,
        height=height,
        time_ns=time_ns,
        last_block_id=NO_BLOCK,
        last_commit_hash=sha256(b"").digest(),
        data_hash=data_hash,
        validators_hash=validators_hash(validators),
        next_validators_hash=validators_hash(following),
        consensus_hash=sha256(b"parameters").digest(),
        app_hash=app_hash,
        last_results_hash=sha256(b"").digest(),
        evidence_hash=sha256(b"").digest(),
        proposer_address=validator_address(validators[0].key),
    )
    digest = header_hash(header)
    block_id = BlockId(digest, 1, sha256(digest).digest())
    signatures = tuple(
        NO_VOTE
        if place in absent
        else _make_vote(
            validator.key, height, round_, block_id, time_ns + place, place in nil, chain_id
        )
        for place, validator in enumerate(validators)
    )
    return LightBlock(
        header=header,
        commit=Commit(height, round_, block_id, signatures),
        validators=validators,
        next_validators=None if following == validators else following,
    )


def _make_vote(
    key: bytes, height: int, round_: int, block_id: BlockId, time_ns: int, is_nil: bool,
    chain_id: str | None,
) -> CommitSignature:  # fmt: skip
    said = NO_BLOCK if is_nil else block_id
    signature = sign_vote(key, height, round_, said, time_ns, chain_id=chain_id)
    return CommitSignature(NIL if is_nil else COMMIT, validator_address(key), time_ns, signature)


def make_trust(validators: Sequence[Validator], period_ms: int = 21 * DAY_MS) -> TrustedConsensus:
    """Trust in a genesis with this set."""
    return trust_genesis(validators, START_NS, period_ms)


def make_history(sets: Sequence[tuple[Validator, ...]]) -> list[LightBlock]:
    """Blocks from height 1 on, whose sets are these; the last one's stays."""
    return [
        make_block(height, own, following)
        for height, (own, following) in enumerate(zip(sets, [*sets[1:], sets[-1]], strict=True), 1)
    ]


def fetch_from(blocks: Sequence[LightBlock], asked: list[int]) -> Callable[[int], LightBlock]:
    """Answer with the block at a height, and note which were asked for."""

    def fetch(height: int) -> LightBlock:
        asked.append(height)
        return blocks[height - 1]

    return fetch
