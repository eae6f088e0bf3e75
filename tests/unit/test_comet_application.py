"""Each call of CometBFT on a real ledger: what is computed, what is kept, what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import comet_world
from tests.comet_member import VALIDATORS, Empower, Member
from tests.toy_chain import START_MS, TALLIES, Add, Explode, Remind, Spoil, key_of

from hansa.core.block import DEADLINES
from hansa.core.errors import BlockFull, WrongNonce, WrongSignature
from hansa.network.comet.application import OK, REFUSED, SPENT, Application
from hansa.network.comet.bundle import BUNDLE_TYPE, Item, pack
from hansa.network.comet.proto.abci import types_pb2 as abci
from hansa.network.comet.proto.crypto import keys_pb2 as keys


@pytest.fixture
def member(tmp_path: Path) -> Iterator[Member]:
    """A node at its genesis."""
    member = Member(tmp_path / "first")
    yield member
    member.close()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Member]:
    """Another node of the same network."""
    other = Member(tmp_path / "second")
    yield other
    other.close()


def add(member: Member, count: int, **options: object) -> list[bytes]:
    """Envelopes that follow each other in a lane."""
    return [member.sign(Add("a", 1), **options) for _ in range(count)]  # type: ignore[arg-type]


def forge(member: Member, sequence: int = 0) -> bytes:
    """An envelope whose signature is wrong."""
    good = member.sign(Add("a", 1), sequence=sequence)
    return good[:-1] + bytes([good[-1] ^ 1])


# Info and InitChain.


def test_info_at_genesis(member: Member) -> None:
    """A node that has its genesis block alone is at height 0, which CometBFT begins with."""
    info = member.info()
    assert (0, b"", 1) == (info.last_block_height, info.last_block_app_hash, info.app_version)


def test_info_after_blocks(member: Member) -> None:
    """Height and hash are those of the last block committed."""
    member.decide(member.bundle(*add(member, 2)))
    member.decide()
    info = member.info()
    assert (2, member.ledger.network_hash) == (info.last_block_height, info.last_block_app_hash)


def test_info_between_finalize_and_commit(member: Member) -> None:
    """A block that was computed and not committed is nothing yet."""
    member.decide()
    before = member.info()
    member.finalize(member.bundle(*add(member, 1)))
    assert before == member.info()


@pytest.mark.parametrize("is_committed", [True, False], ids=["after Commit", "before Commit"])
def test_info_after_a_crash(tmp_path: Path, is_committed: bool) -> None:
    """After a crash a node is where its last Commit was, and comes to the same hash again."""
    first = Member(tmp_path)
    first.decide(first.bundle(*add(first, 2)))
    bundle = first.bundle(*add(first, 2))
    hashed = first.finalize(bundle, time_ms=first.time_ms + 5).app_hash
    if is_committed:
        first.commit()
    first.crash()
    again = Member(tmp_path)
    try:
        assert 1 + is_committed == again.info().last_block_height
        if not is_committed:
            assert hashed == again.finalize(bundle, time_ms=first.time_ms + 5).app_hash
            again.commit()
        assert (hashed, 4) == (again.info().last_block_app_hash, again.total("a"))
    finally:
        again.close()


def test_init_chain(member: Member) -> None:
    """The genesis of CometBFT has to be that of the network; the hash of the genesis block
    comes back, and CometBFT's own validators stay."""
    response = member.start()
    assert (member.ledger.network_hash, []) == (response.app_hash, list(response.validators))
    assert response == member.start()


def _update(key: bytes, power: int) -> abci.ValidatorUpdate:
    return abci.ValidatorUpdate(pub_key=keys.PublicKey(ed25519=key[1:]), power=power)


MISMATCHES = {
    "another network": ({"chain_id": "hansa-0011223344556677"}, "chain_id: expected hansa-"),
    "no chain id": ({"chain_id": ""}, "chain_id: expected"),
    "another beginning": ({"initial_height": 5}, "initial_height: expected 1, got 5"),
    "a validator less": (
        {"validators": [_update(one.key, one.power) for one in VALIDATORS[1:]]},
        "validators: expected the 4 of the genesis, got 3",
    ),
    "another power": (
        {"validators": [_update(one.key, 11) for one in VALIDATORS]},
        "validators: expected the 4",
    ),
    "another key": (
        {"validators": [_update(b"\x02" + bytes(32), 10)] * 4},
        "validators: expected the 4",
    ),
    "keys of another kind": (
        {"validators": [abci.ValidatorUpdate(pub_key=keys.PublicKey(secp256k1=b"\x02" * 33))] * 4},
        "validators: expected the 4",
    ),
}


@pytest.mark.parametrize(("changes", "text"), MISMATCHES.values(), ids=MISMATCHES)
def test_init_chain_mismatch(member: Member, changes: dict[str, object], text: str) -> None:
    """Whoever was given another genesis is told what differs, before any block."""
    with pytest.raises(ValueError, match=text):
        member.start(**changes)


# CheckTx.


def test_good_bundle_may_wait(member: Member) -> None:
    """Transactions ahead of their lane's turn, and for several accounts, may wait."""
    bundle = member.bundle(
        *add(member, 3), member.sign(Add("a", 1), by="berta", sequence=40), member.sign(Spoil("x"))
    )
    assert (OK, "") == member.check(bundle)


def test_bad_bundles_may_not_wait(member: Member) -> None:
    """Nobody honest hands on what can't be read, isn't signed, or is too much for a block."""
    good = add(member, 101)
    bundles = {
        "no bundle": b"\x00",
        "cut off": member.bundle(good[0])[:-1],
        "no envelope in it": member.bundle(good[0], b"\xc1"),
        "chain": member.bundle(good[0], chain="three"),
        "signature": member.bundle(good[0], forge(member, 1)),
        "too many": member.bundle(*good),
    }
    verdicts = {name: member.check(bundle) for name, bundle in bundles.items()}
    assert dict.fromkeys(bundles, REFUSED) == {name: code for name, (code, _) in verdicts.items()}
    assert "a transaction is badly signed" == verdicts["signature"][1]
    assert "items: expected at most 100, as a block holds, got 101" == verdicts["too many"][1]


def test_cheap_tests_come_before_signatures(member: Member) -> None:
    """A bundle refused for its form, or replayed after its block, costs no verification."""
    included = add(member, 5)
    member.decide(member.bundle(*included))
    verified = member.verified
    fresh = add(member, 5)
    assert REFUSED == member.check(member.bundle(*fresh, b"\xc1"))[0]
    assert REFUSED == member.check(member.bundle(*fresh, *[b"\xc1"] * 96))[0]
    assert (REFUSED, SPENT) == member.check(member.bundle(*included))
    assert verified == member.verified


def test_replays_may_not_wait(member: Member) -> None:
    """What was included or has expired is refused, in whatever bundle; with one that is neither,
    it may wait."""
    first, second, third = add(member, 3)
    late = member.sign(Add("a", 1), by="berta", valid_until_ms=member.time_ms + 3)
    member.decide(member.bundle(first, second), time_ms=member.time_ms)
    assert (OK, "") == member.check(member.bundle(late))
    member.decide(time_ms=member.time_ms + 4)
    assert (REFUSED, SPENT) == member.check(member.bundle(second, first, late))
    assert (OK, "") == member.check(member.bundle(second, first, late, third))


def test_checked_again_after_a_block(member: Member) -> None:
    """A bundle leaves the mempool once other bundles have made it useless, and not before; its
    signatures are not verified for it."""
    first, second = add(member, 2)
    both, one, next_one = (
        member.bundle(first, second), member.bundle(first), member.bundle(second)
    )  # fmt: skip
    assert [OK] * 3 == [member.check(bundle)[0] for bundle in (both, one, next_one)]
    member.decide(one)
    verified = member.verified
    verdicts = [member.check(bundle, again=True) for bundle in (both, one, next_one)]
    assert [(OK, ""), (REFUSED, SPENT), (OK, "")] == verdicts
    member.decide(next_one)
    assert (REFUSED, SPENT) == member.check(both, again=True)
    assert REFUSED == member.check(b"of another release", again=True)[0]
    assert verified == member.verified


def test_checked_again_knows_all_lanes(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the checking thread has forgotten, the state has not."""
    monkeypatch.setattr("hansa.network.comet.application.MAX_LANES", 0)
    (envelope,) = add(member, 1)
    replayed = member.bundle(envelope)
    member.decide(member.bundle(envelope))
    member.decide(member.bundle(member.sign(Add("a", 1), by="berta")))
    assert OK == member.check(replayed)[0]
    assert [] == member.propose(replayed)
    assert (REFUSED, SPENT) == member.check(replayed, again=True)


# PrepareProposal.


def test_proposal_keeps_order(member: Member) -> None:
    """Bundles are proposed as they came."""
    bundles = [member.bundle(*add(member, 2)) for _ in range(3)]
    assert bundles == member.propose(*bundles)
    assert member.accepts(*bundles)


def test_proposal_by_count(member: Member) -> None:
    """A block holds as many transactions as the genesis says, in whole bundles; the first that
    has no room ends it, so that what is behind it doesn't overtake."""
    bundles = [member.bundle(*add(member, count)) for count in (60, 30, 20, 5)]
    chosen = member.propose(*bundles)
    assert bundles[:2] == chosen
    assert member.accepts(*chosen)


def test_proposal_by_bytes(member: Member) -> None:
    """What CometBFT has no room for is left, the framing counted."""
    bundles = [member.bundle(*add(member, 2)) for _ in range(3)]
    framed = sum(len(field_of(bundle)) for bundle in bundles)
    assert 3 == len(member.propose(*bundles, room=framed + 3 * 8))
    for room in (0, 10, framed // 3 - 1, framed // 2, framed - 1):
        chosen = member.propose(*bundles, room=room)
        assert chosen == bundles[: len(chosen)]
        assert sum(len(field_of(bundle)) for bundle in chosen) <= room


def field_of(bundle: bytes) -> bytes:
    """As a block of CometBFT holds it."""
    return abci.RequestProcessProposal(txs=[bundle]).SerializeToString()


def test_proposal_by_work(member: Member) -> None:
    """A node that has found itself slow proposes less, but never nothing."""
    bundles = [member.bundle(*add(member, 20)) for _ in range(4)]
    member.application._seconds, member.application._executed = 1.0, 50.0
    assert bundles[:1] == member.propose(*bundles)
    member.application._seconds, member.application._executed = 1.0, 100.0
    assert bundles[:2] == member.propose(*bundles)
    member.application._seconds, member.application._executed = 1e6, 1.0
    assert bundles[:1] == member.propose(*bundles)


def test_work_is_measured_by_count(member: Member) -> None:
    """Blocks of one transaction, which cost what a block costs, don't make a node propose less."""
    for _ in range(30):
        member.application._measure(0.02, 1)
    member.application._measure(0.1, 500)
    each = member.application._seconds / member.application._executed
    assert each < 0.001
    for _ in range(30):
        member.application._measure(0.1, 50)
    assert 0.0019 < member.application._seconds / member.application._executed < 0.0021


def test_proposal_drops_what_no_block_needs(member: Member) -> None:
    """Included, expired, unsigned, undecodable, of another form: none of them takes room."""
    included = add(member, 2)
    expired = member.sign(Add("a", 1), by="berta", valid_until_ms=member.time_ms)
    member.decide(member.bundle(*included), time_ms=member.time_ms + 1)
    (good,) = add(member, 1)
    useless = [
        member.bundle(*included),
        member.bundle(expired),
        member.bundle(forge(member, 2)),
        member.bundle(b"\xc1"),
        member.bundle(good, chain="three"),
        b"",
        b"\x02nonsense",
    ]
    useful = member.bundle(included[0], expired, b"\xc1", good)
    assert [useful] == member.propose(*useless, useful)


def test_proposal_is_not_stopped_by_what_never_fits(member: Member) -> None:
    """A bundle of more than a block holds is passed over: else it would stand in front for ever."""
    giant = member.bundle(*add(member, 101, by="mallory"))
    useful = member.bundle(*add(member, 1))
    assert [useful] == member.propose(giant, useful)
    assert not member.accepts(giant)


def test_spent_bundles_before_useful_ones(member: Member) -> None:
    """However many replays stand in front, what is useful is proposed."""
    included = add(member, 3)
    member.decide(member.bundle(*included))
    useful = member.bundle(*add(member, 1))
    assert [useful] == member.propose(*[member.bundle(*included) for _ in range(500)], useful)


# ProcessProposal.


def test_proposals_accepted(member: Member) -> None:
    """Nothing; much; a bad transaction in a good bundle, which is refused alone."""
    bad = member.bundle(*add(member, 1), forge(member, 1), b"\xc1")
    assert member.accepts()
    assert member.accepts(member.bundle(*add(member, 100)))
    assert member.accepts(bad, bad)


def test_proposals_rejected(member: Member) -> None:
    """No block holds what isn't a bundle, or more than a block may."""
    good = member.bundle(*add(member, 60))
    rejected = {
        "bytes": [b""],
        "a bad one behind a good one": [good, good[:-1]],
        "another type": [b"\x02" + good[1:]],
        "too many": [good, member.bundle(*add(member, 41))],
    }
    assert dict.fromkeys(rejected, False) == {
        name: member.accepts(*bundles) for name, bundles in rejected.items()
    }


def test_a_vote_verifies_for_the_block(member: Member) -> None:
    """What was verified for the proposal is not verified again for the block."""
    bundle = member.bundle(*add(member, 5))
    member.accepts(bundle)
    member.decide(bundle)
    assert 5 == member.verified


# FinalizeBlock and Commit.


def test_block(member: Member) -> None:
    """A block stands at CometBFT's height, with its time to the millisecond, rounded down."""
    response = member.finalize(member.bundle(*add(member, 2)), time_ms=START_MS + 77)
    assert [OK] == [result.code for result in response.tx_results]
    assert (0, []) == (member.ledger.height, member.committed)
    member.commit()
    (block,) = member.committed
    assert (1, START_MS + 77, 2) == (block.height, block.time_ms, member.total("a"))
    assert (response.app_hash, 1) == (member.ledger.network_hash, member.ledger.height)


def test_time_never_goes_back(member: Member) -> None:
    """A block whose time is before the last one's has the last one's."""
    member.decide(time_ms=START_MS + 50)
    assert START_MS + 50 == member.decide(time_ms=START_MS + 20).time_ms


def test_finalized_again_without_commit(member: Member) -> None:
    """An engine that was killed in between asks again: the first answer leaves nothing behind."""
    bundle = member.bundle(*add(member, 3), member.sign(Remind(START_MS + 60, "r")))
    answers = [member.finalize(bundle, time_ms=START_MS + 5) for _ in range(3)]
    assert answers[0] == answers[1] == answers[2]
    member.commit()
    assert 3 == member.total("a")
    other = member.finalize(member.bundle(*add(member, 1)), time_ms=START_MS + 6)
    instead = member.finalize(time_ms=START_MS + 6)
    assert other.app_hash != instead.app_hash
    member.commit()
    assert 3 == member.total("a")


@pytest.mark.parametrize("height", [0, 1, 3, 10_000])
def test_wrong_height(member: Member, height: int) -> None:
    """A block that is not the next one stops the node instead of forking it."""
    member.decide()
    with pytest.raises(ValueError, match=f"height: expected 2, got {height}"):
        member.finalize(height=height)
    assert 1 == member.ledger.height


def test_undecodable_bundle_in_a_decided_block(member: Member, other: Member) -> None:
    """Should two thirds have accepted it, every node skips it alike, and keeps the rest."""
    good = member.bundle(*add(member, 2))
    mixed = member.bundle(b"\xc1", *add(member, 1), forge(member, 3))
    bundles = [b"", good, BUNDLE_TYPE, mixed, member.bundle(b"\xc1"), pack(1, [Item("x", b"y")])]
    response = member.finalize(*bundles)
    assert [1, 0, 1, 0, 0, 0] == [result.code for result in response.tx_results]
    assert response == other.finalize(*bundles)
    member.commit()
    assert 3 == member.total("a")


def test_a_bad_one_in_a_good_bundle(member: Member) -> None:
    """It is refused alone, and for its own reason."""
    first, second = add(member, 2)
    block = member.decide(member.bundle(first, forge(member, 1), first, second))
    reasons = [type(refusal) for _, refusal in block.chains["one"].refusals]
    assert [WrongSignature, WrongNonce] == reasons
    assert 2 == member.total("a")


def test_nodes_agree(member: Member, other: Member) -> None:
    """What a node has seen, checked, forgotten or met first makes no difference to a block."""
    for number in range(12):
        envelopes = [*add(member, 4), member.sign(Spoil("x")), forge(member, 99)]
        elsewhere = [member.sign(Add("b", 2), chain="two") for _ in range(2)]
        bundles = [member.bundle(*envelopes), member.bundle(*elsewhere, chain="two")]
        time_ms = START_MS + 10 * number
        for bundle in bundles[:: 1 if number % 2 else -1]:
            member.check(bundle)
        if number % 3:
            member.propose(*bundles)
            member.accepts(*bundles)
            member.finalize(bundles[0], time_ms=time_ms)
        answers = [one.finalize(*bundles, time_ms=time_ms) for one in (member, other)]
        assert answers[0].SerializeToString() == answers[1].SerializeToString()
        assert member.commit() == other.commit()
    assert member.app_hashes() == other.app_hashes()


def test_hash_rests(member: Member) -> None:
    """Empty blocks are kept, and leave the hash as it is once the headers show the state's root."""
    member.decide(member.bundle(*add(member, 1)))
    for _ in range(8):
        member.decide()
    resting = member.ledger.network_hash
    size = sum(path.stat().st_size for path in member.ledger.block_log.folder.iterdir())
    hashes = {member.decide().record.network_hash for _ in range(20)}
    written = sum(path.stat().st_size for path in member.ledger.block_log.folder.iterdir()) - size
    assert {resting} == hashes
    assert written < 20 * 250


def test_deadline_runs_in_an_empty_block(member: Member) -> None:
    """Time alone makes a block that has something in it."""
    member.decide(member.bundle(member.sign(Remind(START_MS + 60, "r"))), time_ms=START_MS + 1)
    kinds = [
        [verdict.kind for verdict in member.decide(time_ms=START_MS + at).chains["one"].verdicts]
        for at in (59, 60, 61, 62)
    ]
    assert [[], [], [DEADLINES], []] == kinds


def test_block_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a chain's block has no room for is refused as such, alike at each run, and goes into
    the next."""
    monkeypatch.setattr("hansa.core.apply.MAX_BLOCK_BYTES", 600)
    member = Member(tmp_path)
    try:
        bundle = member.bundle(*add(member, 8))
        first = member.decide(bundle)
        refusals = [type(refusal) for _, refusal in first.chains["one"].refusals]
        assert {BlockFull} == set(refusals)
        assert [bundle] == member.propose(bundle)
        while member.total("a") < 8:
            before = member.total("a")
            member.decide(bundle)
            assert before < member.total("a")
    finally:
        member.close()


def test_validator_updates(member: Member) -> None:
    """What a block has written to the table of validators is told to CometBFT, by key."""
    mine, new = VALIDATORS[0], comet_world.make_set(7, first=9)[0]
    changes = [
        member.sign(Empower(new.key, 7)),
        member.sign(Empower(mine.key, 12), Empower(mine.key, 13)),
        member.sign(Add("a", 1)),
    ]
    response = member.finalize(member.bundle(*changes))
    told = {update.pub_key.ed25519: update.power for update in response.validator_updates}
    assert {new.key[1:]: 7, mine.key[1:]: 13} == told
    assert sorted(told) == [update.pub_key.ed25519 for update in response.validator_updates]
    member.commit()
    removed = member.finalize(member.bundle(member.sign(Empower(new.key, 0))))
    assert [(new.key[1:], 0)] == [
        (update.pub_key.ed25519, update.power) for update in removed.validator_updates
    ]
    member.commit()
    assert [] == list(member.finalize().validator_updates)


def test_misbehaviour_is_told(member: Member) -> None:
    """Evidence in a block is told with the block's height, once for a block."""
    member.decide()
    member.decide(misbehaviours=2)
    assert [2] == member.misbehaved


def test_commit_forgets_and_says_what_to_keep(member: Member) -> None:
    """After Commit no verdict is kept for what stands in the block; the height to keep is the
    caller's."""
    member.decide(member.bundle(*add(member, 3)))
    assert 0 == len(member.judged._verdicts)
    for _ in range(9):
        member.decide()
    member.finalize()
    assert 11 - 7 == member.commit().retain_height


def test_commit_without_a_block(member: Member) -> None:
    """Commit keeps what FinalizeBlock has computed, once."""
    member.decide()
    with pytest.raises(AssertionError, match="Commit follows FinalizeBlock"):
        member.commit()


def test_bug_leaves_nothing(member: Member) -> None:
    """A rule that breaks stops the call with the ledger untouched."""
    member.decide()
    before = member.app_hashes()
    with pytest.raises(ZeroDivisionError):
        member.finalize(member.bundle(*add(member, 1), member.sign(Explode("x"))))
    assert (before, 1, 0) == (member.app_hashes(), member.ledger.height, member.total("a"))
    assert 0 == member.ledger.chains["one"].state.mark()
    assert TALLIES.get(member.ledger.chains["one"], b"x") is None


# The rest.


def test_votes_carry_nothing(member: Member) -> None:
    """Votes are extended by nothing, and one with an extension is not accepted."""
    application: Application = member.application
    assert b"" == application.extend_vote(abci.RequestExtendVote()).vote_extension
    verdicts = [
        application.verify_vote_extension(
            abci.RequestVerifyVoteExtension(vote_extension=extension)
        ).status
        for extension in (b"", b"x")
    ]
    status = abci.ResponseVerifyVoteExtension
    assert [status.ACCEPT, status.REJECT] == verdicts


def test_questions_are_for_http(member: Member) -> None:
    """CometBFT's own way of asking says where to ask."""
    answer = member.application.query(abci.RequestQuery(path="/orders"))
    assert REFUSED == answer.code
    assert "got /orders" in answer.log


def test_no_snapshots(member: Member) -> None:
    """A node that takes none offers none, and takes no offer unread."""
    application = member.application
    assert [] == list(application.list_snapshots(abci.RequestListSnapshots()).result().snapshots)
    offer = abci.RequestOfferSnapshot(snapshot=abci.Snapshot(height=5, format=9))
    assert abci.ResponseOfferSnapshot.ACCEPT != application.offer_snapshot(offer).result().result
    load = abci.RequestLoadSnapshotChunk(height=5, format=1, chunk=0)
    assert b"" == application.load_snapshot_chunk(load).result().chunk


def test_wrong_key_is_no_signature(member: Member) -> None:
    """A key that isn't the account's signs nothing for it."""
    stolen = member.sign(Add("a", 1), keys=[key_of("mallory")])
    block = member.decide(member.bundle(stolen))
    assert [] == [verdict for verdict in block.chains["one"].verdicts if verdict.transaction]
