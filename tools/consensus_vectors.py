"""Vectors of finality by consensus: light blocks of a network that exists only here."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from msgspec.structs import replace
from nacl.bindings import crypto_sign, crypto_sign_seed_keypair

from hansa.core.block import Header, compute_app_hash, compute_network_hash
from hansa.core.codec import encode, to_readable
from hansa.core.errors import Malformed
from hansa.core.finality import (
    ConsensusFinality,
    TrustedNetwork,
    decode_consensus_finality,
    make_consensus_finality,
    verify_final,
)
from hansa.core.genesis import consensus_chain_id
from hansa.core.hashing import ZERO_DIGEST
from hansa.core.keys import ED25519
from hansa.core.lightblock import (
    COMMIT,
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
from hansa.core.lightclient import NotEnoughTrust, TrustExpired, trust_block, trust_genesis
from hansa.core.merkle import EMPTY_ROOT, ProofError
from hansa.core.validatorset import Validator

NETWORK = b"\x01" + sha256(b"a network of four").digest()
CHAIN_ID = consensus_chain_id(NETWORK)
START_NS = 1_760_000_000_000_000_000
SECOND_NS = 1_000_000_000
DAY_MS = 24 * 3600 * 1000
_SECRETS: dict[bytes, bytes] = {}


def _make_set(names: Sequence[str]) -> tuple[Validator, ...]:
    validators = []
    for power, name in enumerate(names, 7):
        public, secret = crypto_sign_seed_keypair(sha256(name.encode()).digest())
        key = bytes([ED25519]) + public
        _SECRETS[key] = secret
        validators.append(Validator(key, power))
    return sort_validators(validators)


FIRST = _make_set(["one", "two", "three", "four"])
SECOND = _make_set(["five", "six", "seven", "eight"])


def _make_block(
    height: int, own: tuple[Validator, ...], following: tuple[Validator, ...], app_hash: bytes
) -> LightBlock:
    time_ns = START_NS + height * SECOND_NS + 500
    header = CometHeader(
        version_block=11,
        version_app=1,
        chain_id=CHAIN_ID,
        height=height,
        time_ns=time_ns,
        last_block_id=NO_BLOCK,
        last_commit_hash=sha256(b"last commit").digest(),
        data_hash=sha256(b"data").digest(),
        validators_hash=validators_hash(own),
        next_validators_hash=validators_hash(following),
        consensus_hash=sha256(b"consensus").digest(),
        app_hash=app_hash,
        last_results_hash=sha256(b"results").digest(),
        evidence_hash=sha256(b"").digest(),
        proposer_address=validator_address(own[0].key),
    )
    digest = header_hash(header)
    block_id = BlockId(digest, 1, sha256(b"parts").digest())
    # The weakest did not vote in time.
    votes = [_vote(one.key, height, block_id, time_ns + at) for at, one in enumerate(own[:-1])]
    commit = Commit(height, 0, block_id, (*votes, NO_VOTE))
    return LightBlock(header, commit, own, None if following == own else following)


def _vote(key: bytes, height: int, block_id: BlockId, time_ns: int) -> CommitSignature:
    message = canonical_vote_bytes(CHAIN_ID, PRECOMMIT, height, 0, block_id, time_ns)
    signature = crypto_sign(message, _SECRETS[key])[:64]
    return CommitSignature(COMMIT, validator_address(key), time_ns, signature)


HEADER = Header(
    version=1,
    network=NETWORK,
    chain="trade",
    height=5,
    time_ms=START_NS // 1_000_000 + 5_000,
    log_size=3,
    log_root=sha256(b"log").digest(),
    outbox_size=0,
    outbox_root=EMPTY_ROOT,
    previous=ZERO_DIGEST,
    writes=ZERO_DIGEST,
    state_height=0,
    state_root=bytes(32),
)
APP_HASHES = {"anchor": ZERO_DIGEST, "product": ZERO_DIGEST, "trade": compute_app_hash(HEADER)}


def make_finality_vectors() -> dict[str, Any]:
    """The parts of a finality proof with a hop, and cases with the answer each must get."""
    network_hash = compute_network_hash(sorted(APP_HASHES.items()))
    hop = _make_block(3, FIRST, SECOND, sha256(b"an older network hash").digest())
    last = _make_block(6, SECOND, SECOND, network_hash)
    finality = make_consensus_finality([hop, last], APP_HASHES, "trade")
    return {
        "network": NETWORK.hex(),
        "chain_id": CHAIN_ID,
        "chain": "trade",
        "header": encode(HEADER).hex(),
        "app_hashes": {name: value.hex() for name, value in APP_HASHES.items()},
        "network_hash": network_hash.hex(),
        "finality": finality.hex(),
        "readable": to_readable(decode_consensus_finality(finality)),
        "header_hashes": [header_hash(block.header).hex() for block in (hop, last)],
        "sign_bytes": [
            canonical_vote_bytes(
                CHAIN_ID, PRECOMMIT, 6, 0, last.commit.block_id, last.commit.signatures[0].time_ns
            ).hex()
        ],
        "cases": _make_cases(decode_consensus_finality(finality), hop, last),
    }


def _make_cases(proof: ConsensusFinality, hop: LightBlock, last: LightBlock) -> list[Any]:
    genesis = trust_genesis(FIRST, START_NS, 21 * DAY_MS)
    beyond = trust_block(_make_block(9, SECOND, SECOND, bytes(32)), 21 * DAY_MS)
    now_ms = START_NS // 1_000_000 + DAY_MS
    unsigned = replace(last, commit=replace(last.commit, round=1))
    cases = (
        ("from the genesis", proof, genesis, now_ms),
        ("from the hop", proof, trust_block(hop, 21 * DAY_MS), now_ms),
        ("from beyond it", proof, beyond, now_ms),
        ("without the hop", replace(proof, hops=(last,)), genesis, now_ms),
        ("too late", proof, genesis, now_ms + 21 * DAY_MS),
        ("without a clock", proof, genesis, None),
        ("hops turned round", replace(proof, hops=(last, hop)), genesis, now_ms),
        ("another place", replace(proof, index=1), genesis, now_ms),
        ("a round nobody voted in", replace(proof, hops=(hop, unsigned)), genesis, now_ms),
    )
    return [
        {
            "case": name,
            "trust": to_readable(trust),
            "now_ms": now,
            "finality": (b"\x02" + encode(given)).hex(),
            "outcome": _judge(b"\x02" + encode(given), trust, now),
        }
        for name, given, trust, now in cases
    ]


def _judge(finality: bytes, trust: Any, now_ms: int | None) -> str:
    trusted = TrustedNetwork(NETWORK, (FIRST[0].key,), trust)
    try:
        verify_final(encode(HEADER), finality, "trade", trusted, now_ms=now_ms)
    except (NotEnoughTrust, TrustExpired):
        return "cannot tell"
    except (ProofError, Malformed):
        return "invalid"
    return "valid"
