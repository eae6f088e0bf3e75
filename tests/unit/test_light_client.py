"""What the light client believes, what it refuses, and in which words."""

from base64 import b64encode
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest
from msgspec import structs
from tests.comet_world import (
    CHAIN_ID,
    DAY_MS,
    SECOND_NS,
    START_NS,
    fetch_from,
    make_block,
    make_history,
    make_set,
    make_signer,
    make_trust,
    sign_vote,
)

from hansa.core.codec import encode
from hansa.core.errors import Malformed
from hansa.core.lightblock import (
    COMMIT,
    NO_BLOCK,
    NO_VOTE,
    PRECOMMIT,
    BlockId,
    CommitSignature,
    DuplicateVote,
    LightBlock,
    SignedVote,
    block_id_order,
    canonical_vote_bytes,
    decode_duplicate_vote,
    decode_light_block,
    duplicate_vote_from_rpc,
    light_block_from_rpc,
    sort_validators,
    validator_address,
)
from hansa.core.lightclient import (
    Attack,
    HeaderFromFuture,
    InvalidLightBlock,
    LightClientError,
    NotEnoughPower,
    NotEnoughTrust,
    TrustedConsensus,
    TrustExpired,
    TrustOutrun,
    WrongSignature,
    bisect,
    follow,
    follow_all,
    trim_commit,
    verify_commit,
    verify_duplicate_vote,
    verify_light_block,
    verify_two_blocks,
)
from hansa.core.validatorset import MAX_TOTAL_POWER, Validator

FOUR = make_set(10, 10, 10, 10)
OTHERS = make_set(10, 10, 10, 10, first=100)
START_MS = START_NS // 1_000_000


def believe(
    trusted: TrustedConsensus, block: LightBlock, *, now_ms: int | None = None, exact: bool = False
) -> TrustedConsensus:
    """Follow with a drift of ten seconds."""
    return follow(trusted, block, CHAIN_ID, now_ms=now_ms, max_clock_drift_ms=10_000, exact=exact)


def change_header(block: LightBlock, **fields: Any) -> LightBlock:
    """The block with other header fields, nothing signed anew."""
    return structs.replace(block, header=structs.replace(block.header, **fields))


def change_commit(block: LightBlock, **fields: Any) -> LightBlock:
    """The block with other commit fields, nothing signed anew."""
    return structs.replace(block, commit=structs.replace(block.commit, **fields))


def change_vote(block: LightBlock, place: int, **fields: Any) -> LightBlock:
    """The block with other fields in one vote."""
    votes = list(block.commit.signatures)
    votes[place] = structs.replace(votes[place], **fields)
    return change_commit(block, signatures=tuple(votes))


def test_a_chain_of_neighbours_is_followed_from_the_genesis() -> None:
    """Trust moves to each block's hash and next set; the first block has the genesis time."""
    first = make_block(1, FOUR, OTHERS, time_ns=START_NS)
    after = follow_all(
        make_trust(FOUR),
        [first, make_block(2, OTHERS)],
        CHAIN_ID,
        now_ms=None,
        max_clock_drift_ms=0,
        exact=True,
    )
    assert (2, OTHERS) == (after.height, after.validators)
    assert verify_light_block(make_block(2, OTHERS), CHAIN_ID) == after.header_hash


PROPOSER_SHORT = change_header(make_block(1, FOUR), proposer_address=b"\x01" * 19)
INVALID_BLOCKS: dict[str, tuple[LightBlock, str]] = {
    "another chain": (change_header(make_block(1, FOUR), chain_id="x"), "chain id"),
    "short address": (PROPOSER_SHORT, "proposer address"),
    "short hash": (change_header(make_block(1, FOUR), data_hash=b"\x01"), "hash in the header"),
    "no parts": (
        change_commit(
            make_block(1, FOUR),
            block_id=structs.replace(make_block(1, FOUR).commit.block_id, parts_total=0),
        ),
        "commit block id",
    ),
    "commit of another height": (change_commit(make_block(1, FOUR), height=2), "commit height"),
    "another header": (
        change_header(make_block(1, FOUR), app_hash=b"\x01" * 32),
        "commit block id",
    ),
    "another set": (structs.replace(make_block(1, FOUR), validators=OTHERS), "validators"),
    "a key twice": (
        make_block(1, (FOUR[0], FOUR[0], FOUR[1])),
        "validators: expected no key twice",
    ),
    "another scheme": (
        structs.replace(
            make_block(1, FOUR),
            validators=(Validator(b"\x01" + FOUR[0].key[1:], 10), *FOUR[1:]),
        ),
        "Ed25519",
    ),
    "too much power": (make_block(1, make_set(MAX_TOTAL_POWER, 1)), "power of validators"),
    "next set missing": (
        structs.replace(make_block(1, FOUR, OTHERS), next_validators=None),
        "next validators",
    ),
    "next set needless": (
        structs.replace(make_block(1, FOUR), next_validators=FOUR),
        "next validators",
    ),
    "another next set": (
        structs.replace(make_block(1, FOUR, OTHERS), next_validators=make_set(1)),
        "next validators",
    ),
    "a vote too few": (
        change_commit(make_block(1, FOUR), signatures=make_block(1, FOUR).commit.signatures[1:]),
        "signatures",
    ),
    "absent with content": (
        change_vote(make_block(1, FOUR, absent=[0]), 0, time_ns=1),
        "vote 0",
    ),
    "votes changed places": (
        change_vote(make_block(1, FOUR), 0, address=validator_address(FOUR[1].key)),
        "address of vote 0",
    ),
    "short signature": (
        change_vote(make_block(1, FOUR), 0, signature=b"\x01" * 63),
        "signature of vote 0",
    ),
}


@pytest.mark.parametrize("name", INVALID_BLOCKS)
def test_a_block_whose_parts_do_not_agree_is_invalid(name: str) -> None:
    """Each way in which the parts can disagree is refused and named."""
    block, words = INVALID_BLOCKS[name]
    with pytest.raises(InvalidLightBlock, match=words):
        believe(make_trust(FOUR), block)


SUCCESSIONS: dict[str, tuple[LightBlock, int | None, type[LightClientError]]] = {
    "same height": (make_block(5, FOUR), None, InvalidLightBlock),
    "lower height": (
        make_block(4, FOUR, time_ns=START_NS + 9 * SECOND_NS),
        None,
        InvalidLightBlock,
    ),
    "same time": (make_block(6, FOUR, time_ns=START_NS + 5 * SECOND_NS), None, InvalidLightBlock),
    "from the future": (
        make_block(6, FOUR, time_ns=START_NS + 20 * SECOND_NS),
        START_MS + 10_000,
        HeaderFromFuture,
    ),
    "expired by the clock": (make_block(6, FOUR), START_MS + 5_000 + 21 * DAY_MS, TrustExpired),
    "outrun by the header": (
        make_block(6, FOUR, time_ns=START_NS + 5 * SECOND_NS + 21 * DAY_MS * 1_000_000),
        None,
        TrustOutrun,
    ),
    "neighbour with another set": (make_block(6, OTHERS), None, InvalidLightBlock),
    "later with another set": (make_block(7, OTHERS), None, NotEnoughTrust),
}


@pytest.mark.parametrize("name", SUCCESSIONS)
def test_a_block_that_does_not_follow_is_refused(name: str) -> None:
    """By height, time, clock, trusting period, and set."""
    trusted = believe(make_trust(FOUR), make_block(5, FOUR))
    block, now_ms, expected = SUCCESSIONS[name]
    with pytest.raises(LightClientError) as raised:
        believe(trusted, block, now_ms=now_ms)
    assert expected is raised.type


def test_the_last_moments_within_drift_and_period_still_count() -> None:
    """A millisecond before each limit the block is believed."""
    trusted = believe(make_trust(FOUR), make_block(5, FOUR))
    soon = make_block(6, FOUR, time_ns=START_NS + 20 * SECOND_NS - 1)
    assert 6 == believe(trusted, soon, now_ms=START_MS + 10_000).height
    last_ms = START_MS + 5_000 + 21 * DAY_MS - 1
    assert 6 == believe(trusted, make_block(6, FOUR), now_ms=last_ms).height


OWN_POWER: dict[str, tuple[tuple[int, ...], list[int], bool]] = {
    # Powers in the set's order, who is absent, whether the rest is more than two thirds.
    "exactly two thirds": ((1, 1, 1), [2], False),
    "one more than two thirds": ((1, 1, 1), [], True),
    "two of three, uneven": ((34, 33, 33), [2], True),
    "just two thirds, uneven": ((33, 33, 33), [0], False),
    "three of four": ((10, 10, 10, 10), [0], True),
    "two of four": ((10, 10, 10, 10), [0, 1], False),
    "one alone": ((5,), [], True),
    "largest": ((MAX_TOTAL_POWER // 3 * 2, MAX_TOTAL_POWER // 3), [1], False),
}


@pytest.mark.parametrize("name", OWN_POWER)
def test_more_than_two_thirds_of_its_own_power_commit_a_block(name: str) -> None:
    """Exactly two thirds is not enough."""
    powers, absent, is_enough = OWN_POWER[name]
    validators = make_set(*powers)
    block = make_block(1, validators, absent=absent)
    if is_enough:
        verify_commit(block, CHAIN_ID)
    else:
        with pytest.raises(NotEnoughPower):
            verify_commit(block, CHAIN_ID)


def test_exactly_a_third_of_the_trusted_power_is_not_enough() -> None:
    """One of three trusted validators in the new set is too little, two are enough."""
    trusted = make_trust(make_set(10, 10, 10))
    newcomers = [Validator(make_signer(name).key, 10) for name in (200, 201)]
    make_set(10, 10, first=200)
    kept = make_set(10, 10, 10)
    with pytest.raises(NotEnoughTrust):
        believe(trusted, make_block(3, sort_validators([kept[0], *newcomers])))
    after = believe(trusted, make_block(3, sort_validators([kept[0], kept[1], newcomers[0]])))
    assert 3 == after.height


@pytest.mark.parametrize("level", [(1, 4), (4, 3), (0, 1), (1, 0)])
def test_trust_levels_outside_a_third_to_one_are_refused(level: tuple[int, int]) -> None:
    """Below a third no honest validator need be among the signers."""
    with pytest.raises(ValueError, match="trust level"):
        follow(
            make_trust(FOUR),
            make_block(1, FOUR),
            CHAIN_ID,
            now_ms=None,
            max_clock_drift_ms=0,
            trust_level=level,
        )


def test_a_higher_trust_level_wants_more_of_the_trusted_power() -> None:
    """Half of the trusted power is more than a third and not more than a half."""
    trusted = make_trust(FOUR)
    mixed = sort_validators([FOUR[0], FOUR[1], OTHERS[0], OTHERS[1]])
    block = make_block(3, mixed)
    assert 3 == believe(trusted, block).height
    with pytest.raises(NotEnoughTrust):
        follow(trusted, block, CHAIN_ID, now_ms=None, max_clock_drift_ms=0, trust_level=(1, 2))


def test_votes_beyond_those_needed_are_judged_only_exactly() -> None:
    """The fourth of four is not looked at, unless nothing may be carried that isn't checked."""
    block = change_vote(make_block(1, FOUR), 3, signature=bytes(64))
    assert 1 == believe(make_trust(FOUR), block).height
    with pytest.raises(WrongSignature):
        believe(make_trust(FOUR), block, exact=True)


def test_a_wrong_signature_that_is_needed_is_refused() -> None:
    """As CometBFT does, even where the others would be enough."""
    with pytest.raises(WrongSignature):
        believe(make_trust(FOUR), change_vote(make_block(1, FOUR), 0, signature=bytes(64)))


def test_votes_for_no_block_count_nothing_and_are_not_carried_exactly() -> None:
    """Two of four with two for no block have decided nothing."""
    block = make_block(1, FOUR, nil=[3])
    assert 1 == believe(make_trust(FOUR), block).height
    with pytest.raises(InvalidLightBlock, match="no block"):
        believe(make_trust(FOUR), block, exact=True)
    with pytest.raises(NotEnoughPower):
        believe(make_trust(FOUR), make_block(1, FOUR, nil=[2, 3]))


def test_a_vote_for_no_block_does_not_pass_for_one_for_the_block() -> None:
    """The flag alone changes nothing: another text was signed."""
    with pytest.raises(WrongSignature):
        believe(make_trust(FOUR), change_vote(make_block(1, FOUR, nil=[0]), 0, flag=COMMIT))


def test_trimming_leaves_the_votes_that_are_needed_and_hold() -> None:
    """A cheat's bad signature and a vote for no block don't spoil the others."""
    seven = make_set(10, 10, 10, 10, 10, 10, 10)
    block = change_vote(make_block(4, seven, nil=[1]), 0, signature=bytes(64))
    trimmed = trim_commit(make_trust(seven), block, CHAIN_ID)
    kept = [vote != NO_VOTE for vote in trimmed.commit.signatures]
    assert [False, False, True, True, True, True, True] == kept
    assert 4 == believe(make_trust(seven), trimmed, exact=True).height


def test_bisection_reaches_a_set_that_has_changed_completely() -> None:
    """One validator leaves and one comes at each height; the hops suffice for a verifier."""
    sets = [make_set(*[10] * 4, first=first) for first in range(40)]
    blocks = make_history(sets)
    asked: list[int] = []
    trusted = make_trust(sets[0])
    hops = bisect(
        trusted, 40, fetch_from(blocks, asked), CHAIN_ID, now_ms=None, max_clock_drift_ms=0
    )
    after = follow_all(trusted, hops, CHAIN_ID, now_ms=None, max_clock_drift_ms=0, exact=True)
    assert (40, sets[39]) == (after.height, after.validators)
    assert 40 == asked[0]
    assert len(hops) <= 20
    assert () == bisect(
        after, 40, fetch_from(blocks, asked), CHAIN_ID, now_ms=None, max_clock_drift_ms=0
    )


def test_bisection_bridges_more_than_a_trusting_period_in_shorter_hops() -> None:
    """Without a clock a long history is followed in steps that each stay within the period."""
    blocks = [make_block(height, FOUR) for height in range(1, 31)]
    trusted = make_trust(FOUR, period_ms=12_000)
    hops = bisect(trusted, 30, fetch_from(blocks, []), CHAIN_ID, now_ms=None, max_clock_drift_ms=0)
    assert 30 == hops[-1].height
    assert len(hops) in (3, 4, 5)
    with pytest.raises(TrustOutrun):
        bisect(
            make_trust(FOUR, period_ms=500),
            30,
            fetch_from(blocks, []),
            CHAIN_ID,
            now_ms=None,
            max_clock_drift_ms=0,
        )


def test_bisection_refuses_a_source_that_answers_with_another_height() -> None:
    """Nor does it go backwards."""
    blocks = make_history([FOUR] * 3)
    with pytest.raises(InvalidLightBlock, match="height: expected 3, got 2"):
        bisect(
            make_trust(FOUR),
            3,
            lambda _: blocks[1],
            CHAIN_ID,
            now_ms=None,
            max_clock_drift_ms=0,
        )
    with pytest.raises(InvalidLightBlock, match="target height"):
        bisect(
            believe(make_trust(FOUR), blocks[2]),
            2,
            lambda height: blocks[height - 1],
            CHAIN_ID,
            now_ms=None,
            max_clock_drift_ms=0,
        )


ATTACKS: dict[str, tuple[LightBlock, LightBlock, Attack, int]] = {
    "lunatic": (
        make_block(3, FOUR),
        make_block(3, FOUR, app_hash=b"\x01" * 32, absent=[0]),
        Attack.LUNATIC,
        3,
    ),
    "equivocation": (
        make_block(3, FOUR, absent=[0]),
        make_block(3, FOUR, absent=[3], data_hash=b"\x01" * 32),
        Attack.EQUIVOCATION,
        2,
    ),
    "amnesia": (
        make_block(3, FOUR),
        make_block(3, FOUR, round_=1, data_hash=b"\x01" * 32),
        Attack.AMNESIA,
        0,
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_two_blocks_at_one_height_are_an_attack(name: str) -> None:
    """It is named, and so are those who signed both."""
    first, second, attack, double_signers = ATTACKS[name]
    found = verify_two_blocks(
        first, second, make_trust(FOUR), CHAIN_ID, now_ms=None, max_clock_drift_ms=0, exact=True
    )
    assert (attack, 3, double_signers) == (found.attack, found.height, len(found.double_signers))


NO_ATTACKS: dict[str, tuple[LightBlock, LightBlock, type[LightClientError]]] = {
    "same block": (make_block(3, FOUR), make_block(3, FOUR, absent=[1]), InvalidLightBlock),
    "other heights": (make_block(3, FOUR), make_block(4, FOUR), InvalidLightBlock),
    "one not committed": (
        make_block(3, FOUR),
        make_block(3, FOUR, app_hash=b"\x01" * 32, absent=[0, 1]),
        NotEnoughPower,
    ),
    "one by strangers": (make_block(3, FOUR), make_block(3, OTHERS), NotEnoughTrust),
}


@pytest.mark.parametrize("name", NO_ATTACKS)
def test_what_is_no_attack_freezes_nothing(name: str) -> None:
    """Nobody can freeze a client with blocks that it wouldn't believe."""
    first, second, expected = NO_ATTACKS[name]
    with pytest.raises(expected):
        verify_two_blocks(
            first, second, make_trust(FOUR), CHAIN_ID, now_ms=None, max_clock_drift_ms=0
        )


def make_duplicate_vote(one: BlockId, other: BlockId, vote_type: int = PRECOMMIT) -> DuplicateVote:
    """Two votes of the first of the four at height 9, round 2, in order."""
    key = FOUR[0].key
    first, second = (
        SignedVote(block_id, START_NS, sign_vote(key, 9, 2, block_id, START_NS, vote_type))
        for block_id in sorted((one, other), key=block_id_order)
    )
    return DuplicateVote(key, vote_type, 9, 2, first, second)  # type: ignore[arg-type]


SOME_BLOCK = BlockId(b"\x01" * 32, 1, b"\x02" * 32)
OTHER_BLOCK = BlockId(b"\x01" * 32, 2, b"\x02" * 32)


@pytest.mark.parametrize(
    "evidence",
    [
        make_duplicate_vote(SOME_BLOCK, OTHER_BLOCK),
        make_duplicate_vote(SOME_BLOCK, OTHER_BLOCK, 1),
        make_duplicate_vote(SOME_BLOCK, NO_BLOCK),
    ],
)
def test_two_votes_for_one_place_convict(evidence: DuplicateVote) -> None:
    """Precommits, prevotes, and a vote for no block against one for a block."""
    assert evidence == decode_duplicate_vote(encode(evidence))
    verify_duplicate_vote(evidence, CHAIN_ID)


GUILTY = make_duplicate_vote(SOME_BLOCK, OTHER_BLOCK)
INNOCENT: dict[str, tuple[DuplicateVote, str, type[LightClientError]]] = {
    "same vote twice": (structs.replace(GUILTY, second=GUILTY.first), CHAIN_ID, InvalidLightBlock),
    "wrong order": (
        structs.replace(GUILTY, first=GUILTY.second, second=GUILTY.first),
        CHAIN_ID,
        InvalidLightBlock,
    ),
    "another scheme": (
        structs.replace(GUILTY, key=b"\x01" + GUILTY.key[1:]),
        CHAIN_ID,
        InvalidLightBlock,
    ),
    "another's key": (structs.replace(GUILTY, key=FOUR[1].key), CHAIN_ID, WrongSignature),
    "another height": (structs.replace(GUILTY, height=8), CHAIN_ID, WrongSignature),
    "another round": (structs.replace(GUILTY, round=1), CHAIN_ID, WrongSignature),
    "another step": (structs.replace(GUILTY, type=1), CHAIN_ID, WrongSignature),
    "another chain": (GUILTY, "another", WrongSignature),
}


@pytest.mark.parametrize("name", INNOCENT)
def test_nobody_is_convicted_by_less(name: str) -> None:
    """Whatever was not signed as it stands convicts nobody."""
    evidence, chain_id, expected = INNOCENT[name]
    with pytest.raises(expected):
        verify_duplicate_vote(evidence, chain_id)


SIGN_BYTES: dict[str, tuple[tuple[int, int, int, BlockId, int], str]] = {
    # Type, height, round, block, time; then the parts: length, and each field that is not zero.
    "no block, round 0, a whole second": (
        (PRECOMMIT, 1, 0, NO_BLOCK, SECOND_NS),
        "12 0802 110100000000000000 2a020801 32017a",
    ),
    "round 2, time 0": (
        (PRECOMMIT, 1, 2, NO_BLOCK, 0),
        "19 0802 110100000000000000 190200000000000000 2a00 32017a",
    ),
    "a prevote for a block, nanoseconds": (
        (1, 258, 0, BlockId(b"\x01" * 32, 3, b"\x02" * 32), 300),
        f"5d0801110201000000000000 2248 0a20{'01' * 32} 122408031220{'02' * 32} 2a0310ac0232017a",
    ),
}


@pytest.mark.parametrize("name", SIGN_BYTES)
def test_sign_bytes_leave_out_what_is_zero(name: str) -> None:
    """Height and round are fixed in size where they are written at all."""
    (vote_type, height, round_, block_id, time_ns), expected = SIGN_BYTES[name]
    written = canonical_vote_bytes("z", vote_type, height, round_, block_id, time_ns)
    assert expected.replace(" ", "") == written.hex()


def rpc_json(block: LightBlock) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A block with whole seconds as CometBFT's RPC answers it: `/commit` and `/validators`."""

    def show_id(block_id: BlockId) -> dict[str, Any]:
        parts = {"total": block_id.parts_total, "hash": block_id.parts_hash.hex().upper()}
        return {"hash": block_id.hash.hex().upper(), "parts": parts}

    def show_vote(vote: CommitSignature) -> dict[str, Any]:
        if vote == NO_VOTE:
            time, signature = "0001-01-01T00:00:00Z", None
        else:
            nanos = f"{vote.time_ns % SECOND_NS:09d}".rstrip("0")
            time = f"2023-11-14T22:13:21{'.' if nanos else ''}{nanos}Z"
            signature = b64encode(vote.signature).decode()
        return {
            "block_id_flag": vote.flag,
            "validator_address": vote.address.hex().upper(),
            "timestamp": time,
            "signature": signature,
        }

    header = block.header
    names = [
        *("last_commit_hash", "data_hash", "validators_hash", "next_validators_hash"),
        *("consensus_hash", "app_hash", "last_results_hash", "evidence_hash", "proposer_address"),
    ]
    shown = {
        "version": {"block": "11", "app": "1"},
        "chain_id": header.chain_id,
        "height": str(header.height),
        "time": "2023-11-14T22:13:21Z",
        "last_block_id": show_id(header.last_block_id),
        **{name: getattr(header, name).hex().upper() for name in names},
    }
    commit = {
        "height": str(block.commit.height),
        "round": block.commit.round,
        "block_id": show_id(block.commit.block_id),
        "signatures": [show_vote(vote) for vote in block.commit.signatures],
    }
    validators = [
        {
            "address": validator_address(item.key).hex().upper(),
            "pub_key": {
                "type": "tendermint/PubKeyEd25519",
                "value": b64encode(item.key[1:]).decode(),
            },
            "voting_power": str(item.power),
            "proposer_priority": "0",
        }
        for item in block.validators
    ]
    return {"signed_header": {"header": shown, "commit": commit}, "canonical": True}, validators


def test_a_block_is_read_from_the_rpc_whole() -> None:
    """Times to the nanosecond, absent votes and a set that stays."""
    block = make_block(1, FOUR, absent=[2])
    commit, validators = rpc_json(block)
    assert block == light_block_from_rpc(commit, validators)
    assert block == light_block_from_rpc(commit, validators, validators)
    assert block == decode_light_block(encode(block))


def damage(path: str, value: Any) -> Callable[[dict[str, Any], list[dict[str, Any]]], None]:
    """Put a value at a path into the RPC's answers; a path into the validators starts with v."""

    def apply(commit: dict[str, Any], validators: list[dict[str, Any]]) -> None:
        target: Any = {"v": validators, **commit["signed_header"]}
        *parents, last = path.split("/")
        for name in parents:
            target = target[int(name) if name.isdigit() else name]
        target[int(last) if last.isdigit() else last] = value

    return apply


DAMAGES: dict[str, tuple[str, Any]] = {
    "number for a text": ("header/height", 1),
    "leading zero": ("header/height", "01"),
    "negative": ("header/height", "-1"),
    "height zero": ("header/height", "0"),
    "height beyond 63 bits": ("header/height", "9223372036854775808"),
    "lowercase hash": ("header/app_hash", "aa"),
    "short validators hash": ("header/validators_hash", "AA"),
    "long app hash": ("header/app_hash", "AA" * 65),
    "long chain id": ("header/chain_id", "x" * 51),
    "zone": ("header/time", "2023-11-14T22:13:21+00:00"),
    "no such day": ("header/time", "2023-02-30T22:13:21Z"),
    "no such hour": ("header/time", "2023-02-20T24:13:21Z"),
    "before 1970": ("header/time", "1969-12-31T23:59:59Z"),
    "beyond 2262": ("header/time", "2300-01-01T00:00:00Z"),
    "ten digits of a second": ("header/time", "2023-11-14T22:13:21.1234567890Z"),
    "no version": ("header/version", None),
    "text for a number": ("commit/round", "0"),
    "truth for a number": ("commit/round", False),
    "negative round": ("commit/round", -1),
    "no votes": ("commit/signatures", []),
    "null votes": ("commit/signatures", None),
    "unknown flag": ("commit/signatures/0/block_id_flag", 4),
    "no signature": ("commit/signatures/0/signature", None),
    "base64 without padding": ("commit/signatures/0/signature", "AA"),
    "base64 with spare bits": ("commit/signatures/0/signature", "AB=="),
    "long signature": ("commit/signatures/0/signature", "AAAA" * 22),
    "absent with a vote": ("commit/signatures/0/block_id_flag", 1),
    "another's address": ("v/0/address", "00" * 20),
    "another kind of key": ("v/0/pub_key/type", "tendermint/PubKeySecp256k1"),
    "short key": ("v/0/pub_key/value", "AAAA"),
    "no power": ("v/0/voting_power", "0"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_answers_of_the_rpc_are_malformed(name: str) -> None:
    """Strictly read: one form for each value, bounds as everywhere."""
    commit, validators = rpc_json(make_block(1, FOUR))
    damage(*DAMAGES[name])(commit, validators)
    with pytest.raises(Malformed):
        light_block_from_rpc(commit, validators)


def test_a_set_that_changes_must_be_given() -> None:
    """Without it the next header could not be judged."""
    commit, validators = rpc_json(make_block(1, FOUR, OTHERS))
    with pytest.raises(Malformed, match="next_validators"):
        light_block_from_rpc(commit, validators)


def duplicate_vote_json(evidence: DuplicateVote) -> dict[str, Any]:
    """The evidence as a block in CometBFT's JSON has it, the later vote first."""

    def show(vote: SignedVote) -> dict[str, Any]:
        return {
            "type": evidence.type,
            "height": str(evidence.height),
            "round": evidence.round,
            "block_id": {
                "hash": vote.block_id.hash.hex().upper(),
                "parts": {
                    "total": vote.block_id.parts_total,
                    "hash": vote.block_id.parts_hash.hex().upper(),
                },
            },
            "timestamp": "2023-11-14T22:13:20Z",
            "validator_address": validator_address(evidence.key).hex().upper(),
            "validator_index": 0,
            "signature": b64encode(vote.signature).decode(),
        }

    votes = {"vote_a": show(evidence.second), "vote_b": show(evidence.first)}
    return {"type": "tendermint/DuplicateVoteEvidence", "value": votes}


def test_a_duplicate_vote_is_read_from_json_in_its_one_order() -> None:
    """The key is found among the validators by its address."""
    read = duplicate_vote_from_rpc(duplicate_vote_json(GUILTY), FOUR)
    assert GUILTY == read
    verify_duplicate_vote(read, CHAIN_ID)


def test_votes_at_different_places_are_no_duplicate() -> None:
    """Nor is other evidence, nor that of a stranger."""
    other_round = duplicate_vote_json(GUILTY)
    other_round["value"]["vote_b"]["round"] = 3
    other_type = {**duplicate_vote_json(GUILTY), "type": "tendermint/LightClientAttackEvidence"}
    for evidence, validators in (
        (other_round, FOUR),
        (other_type, FOUR),
        (duplicate_vote_json(GUILTY), OTHERS),
    ):
        with pytest.raises(Malformed):
            duplicate_vote_from_rpc(evidence, validators)


def test_small_order_keys_sign_nothing_here() -> None:
    """ZIP-215 takes the signature of zeros under the key of the neutral element; we don't."""
    neutral = b"\x02" + b"\x01" + bytes(31)
    evidence = structs.replace(
        GUILTY,
        key=neutral,
        first=structs.replace(GUILTY.first, signature=b"\x01" + bytes(63)),
        second=structs.replace(GUILTY.second, signature=b"\x01" + bytes(63)),
    )
    with pytest.raises(WrongSignature):
        verify_duplicate_vote(evidence, CHAIN_ID)


def test_an_address_is_the_cut_hash_of_the_bare_key() -> None:
    """Without the scheme byte, as CometBFT has it."""
    key = FOUR[0].key
    assert sha256(key[1:]).digest()[:20] == validator_address(key)
