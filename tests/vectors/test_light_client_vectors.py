"""Light client traces, bisections and a recorded node that others wrote, judged by ours."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from nacl.bindings import crypto_sign, crypto_sign_seed_keypair

from hansa.core.codec import encode
from hansa.core.errors import Malformed
from hansa.core.keys import ED25519
from hansa.core.lightblock import (
    COMMIT,
    NO_BLOCK,
    NO_VOTE,
    PRECOMMIT,
    BlockId,
    Commit,
    CommitSignature,
    LightBlock,
    canonical_vote_bytes,
    decode_light_block,
    duplicate_vote_from_rpc,
    header_hash,
    light_block_from_rpc,
    sort_validators,
    validator_address,
    validators_from_rpc,
    validators_hash,
)
from hansa.core.lightclient import (
    Attack,
    CrossCheck,
    InvalidLightBlock,
    NotEnoughPower,
    NotEnoughTrust,
    TrustedConsensus,
    TrustExpired,
    bisect,
    cross_check,
    detect_divergence,
    follow,
    follow_all,
    trim_commit,
    trust_genesis,
    verify_light_block,
)
from hansa.core.merkle import compute_root, leaf_hash
from hansa.core.validatorset import Validator

SINGLE_STEP_CASES = 25
RECORDED_HEADERS = 64
HOUR_MS = 3_600_000
MAX_CLOCK_DRIFT_MS = 1_000
"""As the authors' own runner of these traces sets it."""

REASONS: dict[tuple[str, int], type[Exception]] = {
    ("MC100_2_faulty_TestFailure", 0): TrustExpired,
    ("MC10_3_faulty_TestFailure", 1): Malformed,
    ("MC10_3_faulty_TestHeaderNotWithinTrustingPeriod", 1): TrustExpired,
    ("MC10_3_faulty_TestNonMonotonicHeight", 0): InvalidLightBlock,
    ("MC4_4_faulty_Test2NotEnoughTrustFailure", 2): InvalidLightBlock,
    ("MC4_4_faulty_Test3NotEnoughTrustFailure", 4): TrustExpired,
    ("MC4_4_faulty_TestHeaderNotWithinTrustingPeriod", 2): TrustExpired,
    ("MC4_4_faulty_TestLessThanTwoThirdsSign", 2): NotEnoughPower,
}
"""Of each step that is INVALID, why. Malformed is a commit whose list of signatures is null."""

AMINO_ED25519 = bytes.fromhex("1624DE6420")
"""What amino wrote before an Ed25519 key."""

BISECTIONS: dict[str, tuple[list[int], list[int], Attack, int]] = {
    "conflicting_headers": ([5], [5], Attack.EQUIVOCATION, 2),
    "conflicting_valid_commits_from_the_only_witness": (
        [5, 11],
        [5, 10, 11],
        Attack.LUNATIC,
        0,
    ),
    "malicious_validator_set": ([11], [5, 11], Attack.LUNATIC, 0),
}
"""Hops of primary and witness, how their histories differ at the end, how many signed both."""


def read_json(path: Path) -> Any:
    """The content of a JSON file."""
    return json.loads(path.read_bytes())


def to_rpc_block_id(block_id: dict[str, Any] | None) -> dict[str, Any]:
    """A block id as the RPC names its fields; the traces leave out the empty one."""
    if block_id is None:
        return {"hash": "", "parts": {"total": 0, "hash": ""}}
    return {"hash": block_id["hash"], "parts": block_id["part_set_header"]}


def to_rpc_signature(signature: dict[str, Any]) -> dict[str, Any]:
    """An absent vote as the RPC writes it: the traces give it another time than Go's zero."""
    if signature["block_id_flag"] != 1:
        return signature
    return {**signature, "timestamp": "0001-01-01T00:00:00Z"}


def sort_set(validator_set: dict[str, Any]) -> list[Any]:
    """A set in CometBFT's order, which the traces don't keep in their lists."""
    validators = validator_set["validators"] or []
    return sorted(validators, key=lambda item: (-int(item["voting_power"]), item["address"]))


def read_block(lite: dict[str, Any]) -> LightBlock:
    """A light block of the vectors, by way of the RPC's form of it."""
    signed = lite["signed_header"]
    header, commit = signed["header"], signed["commit"]
    rpc = {
        "header": {**header, "last_block_id": to_rpc_block_id(header["last_block_id"])},
        "commit": {
            **commit,
            "block_id": to_rpc_block_id(commit["block_id"]),
            "signatures": [to_rpc_signature(vote) for vote in commit["signatures"]]
            if commit["signatures"] is not None
            else None,
        },
    }
    return light_block_from_rpc(
        {"signed_header": rpc},
        sort_set(lite["validator_set"]),
        sort_set(lite["next_validator_set"]),
    )


def read_time_ms(text: str) -> int:
    """A time of the vectors in milliseconds."""
    return int(datetime.fromisoformat(text[:19]).replace(tzinfo=UTC).timestamp()) * 1000


def read_initial(initial: dict[str, Any]) -> TrustedConsensus:
    """The trust with which a trace begins."""
    header = initial["signed_header"]["header"]
    return TrustedConsensus(
        height=int(header["height"]),
        time_ns=read_time_ms(header["time"]) * 1_000_000,
        header_hash=bytes.fromhex(initial["signed_header"]["commit"]["block_id"]["hash"]),
        validators=validators_from_rpc(sort_set(initial["next_validator_set"])),
        trusting_period_ms=int(initial["trusting_period"]) // 1_000_000,
    )


def judge_step(
    trusted: TrustedConsensus, step: dict[str, Any]
) -> tuple[str, TrustedConsensus, Exception | None]:
    """The verdict on one step of a trace in the traces' words, the trust after it, the reason."""
    try:
        after = follow(
            trusted,
            read_block(step["block"]),
            "test-chain",
            now_ms=read_time_ms(step["now"]),
            max_clock_drift_ms=MAX_CLOCK_DRIFT_MS,
        )
    except NotEnoughTrust as error:
        return "NOT_ENOUGH_TRUST", trusted, error
    except (InvalidLightBlock, TrustExpired, Malformed) as error:
        return "INVALID", trusted, error
    return "SUCCESS", after, None


def list_traces(vectors: Path) -> dict[str, dict[str, Any]]:
    """All model-based traces by name."""
    folder = vectors / "light_client" / "model_based" / "single_step"
    traces = {file.stem: read_json(file) for file in sorted(folder.glob("*.json"))}
    assert SINGLE_STEP_CASES <= len(traces)
    return traces


def test_every_step_is_judged_as_the_model_says(vectors: Path) -> None:
    """Verdict by verdict, the trust moving on as in the model."""
    for name, trace in list_traces(vectors).items():
        trusted = read_initial(trace["initial"])
        for number, step in enumerate(trace["input"]):
            verdict, trusted, error = judge_step(trusted, step)
            assert step["verdict"] == verdict, (name, number, error)


def test_every_refusal_has_its_own_reason(vectors: Path) -> None:
    """What is invalid is so for the reason that the trace is named for."""
    reasons = {}
    for name, trace in list_traces(vectors).items():
        trusted = read_initial(trace["initial"])
        for number, step in enumerate(trace["input"]):
            verdict, trusted, error = judge_step(trusted, step)
            if verdict == "INVALID":
                reasons[name, number] = type(error)
    assert REASONS == reasons


def test_trimmed_steps_are_judged_alike_and_exactly(vectors: Path) -> None:
    """With only the votes that are needed, each of them checked, a success stays one."""
    for name, trace in list_traces(vectors).items():
        trusted = read_initial(trace["initial"])
        for number, step in enumerate(trace["input"]):
            if step["verdict"] != "SUCCESS":
                continue
            block = read_block(step["block"])
            after = follow(
                trusted,
                trim_commit(trusted, block, "test-chain"),
                "test-chain",
                now_ms=None,
                max_clock_drift_ms=0,
                exact=True,
            )
            assert judge_step(trusted, step)[1] == after, (name, number)
            trusted = after


def read_bisections(vectors: Path) -> dict[str, dict[str, Any]]:
    """All bisections with several peers by name."""
    folder = vectors / "light_client" / "bisection" / "multi_peer"
    cases = {file.stem: read_json(file) for file in sorted(folder.glob("*.json"))}
    assert set(BISECTIONS) == set(cases)
    return cases


def test_bisections_are_of_an_older_engine_and_are_refused_as_recorded(vectors: Path) -> None:
    """They are in amino, as the sets' hashes show, which CometBFT and we no longer speak."""
    for name, case in read_bisections(vectors).items():
        for lite in case["primary"]["lite_blocks"]:
            block = read_block(lite)
            in_amino = [
                b"\x0a\x25" + AMINO_ED25519 + item.key[1:] + b"\x10" + bytes([item.power])
                for item in block.validators
            ]
            root = compute_root([leaf_hash(item) for item in in_amino])
            assert block.header.validators_hash == root, name
            with pytest.raises(InvalidLightBlock):
                verify_light_block(block, "test-chain-01")


class Transcriber:
    """Makes the blocks of the bisections anew, in CometBFT's encoding and with keys of our own.

    Heights, times, sets, powers, who voted and what differs between the nodes stay as recorded;
    keys, and so hashes and signatures, are others, for the recorded private keys are not known.
    """

    def __init__(self) -> None:
        self._seeds: dict[str, bytes] = {}

    def transcribe(self, node: dict[str, Any]) -> dict[int, LightBlock]:
        """The blocks of a node by height, each linked to the one before."""
        blocks: dict[int, LightBlock] = {}
        last = NO_BLOCK
        for lite in node["lite_blocks"]:
            block = self._transcribe_block(lite, last)
            blocks[block.height] = block
            last = block.commit.block_id
        return blocks

    def _seed(self, address: str) -> bytes:
        return self._seeds.setdefault(address, sha256(address.encode()).digest())

    def _key(self, address: str) -> bytes:
        return bytes([ED25519]) + crypto_sign_seed_keypair(self._seed(address))[0]

    def _set(self, validator_set: dict[str, Any]) -> tuple[Validator, ...]:
        return sort_validators(
            [
                Validator(self._key(item["address"]), int(item["voting_power"]))
                for item in validator_set["validators"]
            ]
        )

    def _transcribe_block(self, lite: dict[str, Any], last: BlockId) -> LightBlock:
        recorded = read_block(lite)
        old = recorded.header
        own, following = self._set(lite["validator_set"]), self._set(lite["next_validator_set"])
        proposer = lite["signed_header"]["header"]["proposer_address"]
        header = structs.replace(
            old,
            version_block=11,
            last_block_id=last,
            validators_hash=validators_hash(own),
            next_validators_hash=validators_hash(following),
            proposer_address=validator_address(self._key(proposer)),
        )
        digest = header_hash(header)
        block_id = BlockId(digest, 1, digest)
        votes = {
            self._key(vote["validator_address"]): self._vote(vote, recorded, block_id)
            for vote in lite["signed_header"]["commit"]["signatures"]
            if vote["block_id_flag"] == COMMIT
        }
        signatures = tuple(votes.get(item.key, NO_VOTE) for item in own)
        commit = Commit(old.height, recorded.commit.round, block_id, signatures)
        return LightBlock(header, commit, own, following if following != own else None)

    def _vote(
        self, vote: dict[str, Any], recorded: LightBlock, block_id: BlockId
    ) -> CommitSignature:
        time_ns = read_time_ms(vote["timestamp"]) * 1_000_000
        message = canonical_vote_bytes(
            recorded.header.chain_id,
            PRECOMMIT,
            recorded.height,
            recorded.commit.round,
            block_id,
            time_ns,
        )
        address = vote["validator_address"]
        secret = crypto_sign_seed_keypair(self._seed(address))[1]
        return CommitSignature(
            COMMIT,
            validator_address(self._key(address)),
            time_ns,
            crypto_sign(message, secret)[:64],
        )


@pytest.mark.parametrize("name", sorted(BISECTIONS))
def test_a_bisection_with_a_conflicting_witness_ends_in_an_attack(name: str, vectors: Path) -> None:
    """Both histories are believed alone; together they convict, as the case expects an error."""
    case = read_bisections(vectors)[name]
    assert "error" == case["expected_output"]
    transcriber = Transcriber()
    primary = transcriber.transcribe(case["primary"])
    [witness] = [transcriber.transcribe(node["value"]) for node in case["witnesses"]]
    options, target = case["trust_options"], int(case["height_to_verify"])
    first = primary[int(options["height"])]
    assert witness[first.height] == first
    trusted = TrustedConsensus(
        height=first.height,
        time_ns=first.header.time_ns,
        header_hash=header_hash(first.header),
        validators=first.next_validators or first.validators,
        trusting_period_ms=int(options["period"]) // 1_000_000,
    )
    chain_id, now_ms = case["primary"]["chain_id"], read_time_ms(case["now"])
    hops = [
        bisect(
            trusted,
            target,
            blocks.__getitem__,
            chain_id,
            now_ms=now_ms,
            max_clock_drift_ms=MAX_CLOCK_DRIFT_MS,
        )
        for blocks in (primary, witness)
    ]
    expected_primary, expected_witness, attack, double_signers = BISECTIONS[name]
    assert expected_primary == [block.height for block in hops[0]]
    assert expected_witness == [block.height for block in hops[1]]
    checked = cross_check(primary[target], [witness[target], primary[target], None])
    assert CrossCheck(agreeing=(1,), diverging=(0,), silent=(2,)) == checked
    assert not checked.is_confirmed
    found = detect_divergence(
        hops[0],
        hops[1],
        trusted,
        chain_id,
        now_ms=now_ms,
        max_clock_drift_ms=MAX_CLOCK_DRIFT_MS,
        exact=True,
    )
    assert (attack, target) == (found.attack, found.height)
    assert double_signers == len(found.double_signers)


def recorded_node(vectors: Path) -> Path:
    """Where the answers of a recorded node lie."""
    return vectors / "light_client" / "kvstore_v0_38"


def list_recorded_headers(folder: Path) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """File, header and block id of each block that the node's answers show whole."""
    for file in sorted(folder.glob("*.json")):
        result = read_json(file).get("result", {})
        for meta in result.get("block_metas", []):
            yield file.stem, meta["header"], meta["block_id"]
        data = result.get("data")
        event = data.get("value", {}) if isinstance(data, dict) else {}
        for item in [result, event, *result.get("blocks", [])]:
            if item.get("block") and "block_id" in item:
                yield file.stem, item["block"]["header"], item["block_id"]


def test_recorded_headers_hash_to_their_block_ids(vectors: Path) -> None:
    """Every header that the node answered has the hash under which it answered it."""
    commit = read_json(recorded_node(vectors) / "commit_at_height_10.json")["result"]
    validators = list_recorded_validators(vectors)
    count = 0
    for name, header, block_id in list_recorded_headers(recorded_node(vectors)):
        rpc = {"signed_header": {**commit["signed_header"], "header": header}}
        block = light_block_from_rpc(rpc, validators, validators)
        assert block_id["hash"] == header_hash(block.header).hex().upper(), name
        count += 1
    assert RECORDED_HEADERS == count


def list_recorded_validators(vectors: Path) -> list[dict[str, Any]]:
    """The recorded network's validators as `/validators` would list them."""
    genesis = read_json(recorded_node(vectors) / "genesis.json")["result"]["genesis"]
    return [{**item, "voting_power": item["power"]} for item in genesis["validators"]]


def build_recorded_blocks(vectors: Path) -> list[LightBlock]:
    """Light blocks 9 and 10 of the recorded node; the commit of 9 stands in block 10."""
    folder = recorded_node(vectors)
    validators = list_recorded_validators(vectors)
    metas = read_json(folder / "blockchain_from_1_to_10.json")["result"]["block_metas"]
    [header] = [meta["header"] for meta in metas if meta["header"]["height"] == "9"]
    block = read_json(folder / "block_at_height_10.json")["result"]["block"]
    ninth = {"signed_header": {"header": header, "commit": block["last_commit"]}}
    tenth = read_json(folder / "commit_at_height_10.json")["result"]
    return [light_block_from_rpc(answer, validators) for answer in (ninth, tenth)]


def test_a_recorded_node_is_followed_from_its_genesis(vectors: Path) -> None:
    """Skipping to 9, then on to 10: the node's own signatures hold over our sign bytes."""
    genesis = read_json(recorded_node(vectors) / "genesis.json")["result"]["genesis"]
    trusted = trust_genesis(
        validators_from_rpc(list_recorded_validators(vectors)),
        read_time_ms(genesis["genesis_time"]) * 1_000_000,
        HOUR_MS,
    )
    blocks = build_recorded_blocks(vectors)
    after = follow_all(
        trusted, blocks, "dockerchain", now_ms=None, max_clock_drift_ms=0, exact=True
    )
    assert 10 == after.height
    assert header_hash(blocks[1].header) == after.header_hash
    with pytest.raises(InvalidLightBlock):
        follow(trusted, blocks[1], "other-chain", now_ms=None, max_clock_drift_ms=0)


def test_recorded_light_blocks_have_one_encoding(vectors: Path) -> None:
    """What is decoded is what was encoded."""
    for block in build_recorded_blocks(vectors):
        assert block == decode_light_block(encode(block))


def test_recorded_duplicate_vote_is_refused_without_its_validator(vectors: Path) -> None:
    """The evidence holds no key; the recording doesn't have that network's validators."""
    result = read_json(recorded_node(vectors) / "block_search_evidence.json")["result"]
    [evidence] = result["blocks"][0]["block"]["evidence"]["evidence"]
    known = validators_from_rpc(list_recorded_validators(vectors))
    with pytest.raises(Malformed, match="c888306a908a217b9a943d1dad8790044d0947a4"):
        duplicate_vote_from_rpc(evidence, known)
