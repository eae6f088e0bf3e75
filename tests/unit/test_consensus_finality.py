"""What makes a header final on CometBFT: light blocks that lead there from what is trusted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.chain_world import DAY_MS, START_MS
from tests.comet_network import CometWorld
from tests.comet_world import START_NS, make_block, make_set

from hansa.core.block import Header, compute_app_hash, compute_network_hash
from hansa.core.codec import encode
from hansa.core.finality import (
    COMET,
    GENESIS_TRUST_MS,
    MAX_DRIFT_MS,
    MAX_FINALITY_BYTES,
    MAX_HOPS,
    CheckpointSigner,
    TrustedNetwork,
    decode_consensus_finality,
    make_consensus_finality,
    shorten_finality,
    verify_final,
    verify_header,
)
from hansa.core.genesis import consensus_chain_id
from hansa.core.hashing import ZERO_DIGEST
from hansa.core.lightblock import LightBlock
from hansa.core.lightclient import (
    NS_PER_MS,
    HeaderFromFuture,
    InvalidLightBlock,
    NotEnoughTrust,
    TrustedConsensus,
    TrustExpired,
    TrustOutrun,
    look_back,
    trust_block,
    trust_genesis,
    verify_two_blocks,
)
from hansa.core.merkle import EMPTY_ROOT, ProofError
from hansa.core.proof import (
    Outcome,
    Trust,
    pack_bundle,
    unpack_bundle,
    verify_bundle,
)
from hansa.core.prover import Place, prove_consistency, prove_places
from hansa.core.transaction import MAX_TRANSACTION_BYTES
from hansa.core.validatorset import MAX_VALIDATORS, Validator

NETWORK = b"\x01" + b"n" * 32
CHAIN_ID = consensus_chain_id(NETWORK)
HEADER = Header(
    version=1,
    network=NETWORK,
    chain="trade",
    height=9,
    time_ms=1,
    log_size=3,
    log_root=b"r" * 32,
    outbox_size=0,
    outbox_root=EMPTY_ROOT,
    previous=ZERO_DIGEST,
    writes=ZERO_DIGEST,
    state_height=0,
    state_root=bytes(32),
)
APP_HASHES = {"anchor": ZERO_DIGEST, "trade": compute_app_hash(HEADER), "product": ZERO_DIGEST}
NETWORK_HASH = compute_network_hash(sorted(APP_HASHES.items()))

FIRST = make_set(10, 10, 10, 10, first=0)
SECOND = make_set(10, 10, 10, 10, first=10)
THIRD = make_set(10, 10, 10, 10, first=20)
MIXED = make_set(10, 10, 10, 10, first=2)
"""Two of the first set and two others."""
CHEATS = make_set(10, 10, 10, 10, first=50)
"""Never were validators."""
PERIOD_MS = 21 * DAY_MS


def block(
    height: int,
    own: tuple[Validator, ...] = FIRST,
    following: tuple[Validator, ...] | None = None,
    **changes: Any,
) -> LightBlock:
    """A light block of the network; its app hash is the header's network hash."""
    given: dict[str, Any] = {"app_hash": NETWORK_HASH, "chain_id": CHAIN_ID} | changes
    return make_block(height, own, following, **given)


def trust(validators: Sequence[Validator] = FIRST, period_ms: int = PERIOD_MS) -> TrustedNetwork:
    """Trust in a genesis with these validators."""
    signer = CheckpointSigner(b"s" * 32)
    consensus = trust_genesis(validators, START_NS, period_ms)
    return TrustedNetwork(NETWORK, (signer.public,), consensus)


def trust_in(one: LightBlock, period_ms: int = PERIOD_MS) -> TrustedNetwork:
    """Trust in a block that was believed before."""
    return replace(trust(), consensus=trust_block(one, period_ms))


def prove(*hops: LightBlock) -> bytes:
    """The proof that the header is final."""
    return make_consensus_finality(hops, APP_HASHES, "trade")


def judge(
    trusted: TrustedNetwork,
    *hops: LightBlock,
    now_ms: int | None = None,
    earlier: Sequence[TrustedConsensus] = (),
) -> TrustedConsensus:
    """Judge the header by light blocks; returns the trust reached."""
    header, reached = verify_final(
        encode(HEADER), prove(*hops), "trade", trusted, now_ms=now_ms, earlier=earlier
    )
    assert HEADER == header
    assert reached.consensus is not None
    return reached.consensus


# What is final.


def test_the_block_after_makes_a_header_final() -> None:
    """Signed by the genesis' validators, it is believed, and it is what is trusted from now on."""
    last = block(10)
    assert trust_block(last, PERIOD_MS) == judge(trust(), last)
    assert HEADER == verify_header(encode(HEADER), prove(last), "trade", trust())


def test_it_stays_final_when_all_validators_have_changed() -> None:
    """Over hops, each signed by those trusted before it; without them one cannot tell."""
    hops = [block(3, FIRST, SECOND), block(6, SECOND, THIRD)]
    last = block(10, THIRD)
    assert trust_block(last, PERIOD_MS) == judge(trust(), *hops, last)
    with pytest.raises(NotEnoughTrust):
        judge(trust(), last)
    with pytest.raises(NotEnoughTrust):
        judge(trust(), hops[0], last)


def test_hops_that_a_verifier_does_not_need_do_no_harm() -> None:
    """Who trusts more passes over the first ones; who can leap over one does."""
    hops = [block(3, FIRST, MIXED), block(6, MIXED, SECOND)]
    last = block(10, SECOND)
    for trusted in (trust(), trust_in(hops[0]), trust_in(block(4, MIXED)), trust_in(hops[1])):
        assert 10 == judge(trusted, *hops, last).height


def test_a_verifier_with_newer_trust_reads_an_older_proof() -> None:
    """The trust stays where it is."""
    newer = trust_in(block(20))
    assert newer.consensus == judge(newer, block(10))
    assert newer.consensus == judge(newer, block(2), block(10))


def test_the_trusted_block_itself_needs_no_votes_of_those_who_come_next() -> None:
    """It is known by its hash, even where the validators after it are all others."""
    last = block(10, FIRST, SECOND)
    assert trust_in(last).consensus == judge(trust_in(last), last)


def test_earlier_trust_judges_what_is_older_than_a_change() -> None:
    """Blocks before all validators changed are believed by what was trusted then, and no newer."""
    old, new = block(5), block(20, SECOND)
    above, below = trust_block(block(15), PERIOD_MS), trust_block(block(3), PERIOD_MS)
    with pytest.raises(NotEnoughTrust):
        judge(trust_in(new), block(10))
    for earlier in ((above,), (below,), (below, above), (trust_block(old, PERIOD_MS), above)):
        assert trust_in(new).consensus == judge(trust_in(new), block(10), earlier=earlier)
    with pytest.raises(NotEnoughTrust):
        judge(trust_in(new), block(30, THIRD), earlier=(above,))
    with pytest.raises(NotEnoughTrust):
        judge(trust_in(new), block(10, CHEATS), earlier=(below, above))


# What is not.


def _refused() -> Iterator[tuple[str, Callable[[], object], type[ProofError], str]]:
    last = block(10)
    cheated = replace(
        last.commit, signatures=(last.commit.signatures[1], *last.commit.signatures[1:])
    )
    fresh = START_NS // NS_PER_MS + DAY_MS
    yield "own votes missing", lambda: judge(trust(), block(10, absent=(0, 1))), ProofError, "power"
    yield "own votes for no block", lambda: judge(trust(), block(10, nil=(0,))), ProofError, "vote"
    yield (
        "signature of another",
        lambda: judge(trust(), replace(last, commit=cheated)),
        InvalidLightBlock,
        "address",
    )
    yield "strangers", lambda: judge(trust(), block(10, CHEATS)), NotEnoughTrust, "trusted"
    yield (
        "heights fall",
        lambda: judge(trust(), block(12), block(10)),
        ProofError,
        "rising heights",
    )
    yield "a height twice", lambda: judge(trust(), last, last), ProofError, "rising heights"
    yield (
        "another network's blocks",
        lambda: judge(trust(), block(10, chain_id="hansa-0000000000000000")),
        InvalidLightBlock,
        "chain id",
    )
    yield (
        "another network hash",
        lambda: judge(trust(), block(10, app_hash=b"x" * 32)),
        ProofError,
        "inclusion path",
    )
    yield (
        "no network hash",
        lambda: judge(trust(), block(10, app_hash=b"")),
        ProofError,
        "expected 32 bytes, got 0",
    )
    yield (
        "expired by the clock",
        lambda: judge(trust(), last, now_ms=START_NS // NS_PER_MS + PERIOD_MS),
        TrustExpired,
        "now",
    )
    yield (
        "older block, trust expired",
        lambda: judge(trust_in(block(20)), last, now_ms=fresh + PERIOD_MS),
        TrustExpired,
        "now",
    )
    yield (
        "later than the trusting period",
        lambda: judge(trust(), block(10, time_ns=START_NS + PERIOD_MS * NS_PER_MS)),
        TrustOutrun,
        "header time",
    )
    yield (
        "ahead of the clock",
        lambda: judge(
            trust(),
            block(10, time_ns=(fresh + MAX_DRIFT_MS) * NS_PER_MS),
            now_ms=fresh,
        ),
        HeaderFromFuture,
        "header time",
    )
    yield (
        "first block, other validators",
        lambda: judge(trust(), block(1, SECOND)),
        InvalidLightBlock,
        "validators",
    )
    yield (
        "older block, later time",
        lambda: judge(trust_in(block(20)), block(10, time_ns=START_NS + 20 * 10**9)),
        InvalidLightBlock,
        "height and time",
    )
    yield (
        "another block at the trusted height",
        lambda: judge(trust_in(block(10, data_hash=b"d" * 32)), last),
        InvalidLightBlock,
        "header",
    )
    yield (
        "older block of strangers",
        lambda: judge(trust_in(block(20)), block(10, CHEATS)),
        NotEnoughTrust,
        "trusted",
    )
    yield (
        "older block, the trusted did not vote",
        lambda: judge(trust_in(block(20, SECOND)), last),
        NotEnoughTrust,
        "trusted",
    )
    yield (
        "a made-up hop before a good block",
        lambda: judge(trust(), block(3, CHEATS), last),
        ProofError,
        "each to lead to the next",
    )
    yield (
        "a made-up hop below newer trust",
        lambda: judge(trust_in(block(20)), block(3, CHEATS), last),
        ProofError,
        "each to lead to the next",
    )
    yield (
        "a hop passed over with a bad vote",
        lambda: judge(trust_in(block(5)), block(3, nil=(1,)), last),
        ProofError,
        "vote",
    )


REFUSED = {name: (act, error, words) for name, act, error, words in _refused()}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    """Each for its own reason."""
    act, error, words = REFUSED[name]
    with pytest.raises(error, match=words):
        act()


def test_a_proof_in_other_bytes_is_refused_in_fixed_words() -> None:
    """Another scheme, another encoding, no hop: the text doesn't quote the codec."""
    good = prove(block(10))
    empty = bytes([COMET]) + encode((1, (), 0, 1, ()))
    for wrong in (b"", b"\x02", good[1:], b"\x01" + good[1:], good + b"\0", good[:-1], empty):
        with pytest.raises(ProofError, match=r"expected (type 0x02|a well-formed proof)"):
            verify_header(encode(HEADER), wrong, "trade", trust())


def test_a_proof_is_for_one_header_of_one_chain() -> None:
    """Another header, chain, place or path is not what the network hash was made of."""
    finality = prove(block(10))
    proof = decode_consensus_finality(finality)
    others = (
        replace(proof, index=0),
        replace(proof, size=4),
        replace(proof, path=proof.path[:-1]),
        replace(proof, path=(*proof.path, bytes(32))),
    )
    for other in others:
        with pytest.raises(ProofError):
            verify_header(encode(HEADER), bytes([COMET]) + encode(other), "trade", trust())
    for wrong in (replace(HEADER, height=8), replace(HEADER, log_size=4)):
        with pytest.raises(ProofError):
            verify_header(encode(wrong), finality, "trade", trust())
    with pytest.raises(ProofError, match="chain: expected product"):
        verify_header(encode(HEADER), finality, "product", trust())
    other_network = replace(trust(), network=b"\x01" + b"o" * 32)
    with pytest.raises(ProofError, match="network: expected"):
        verify_header(encode(HEADER), finality, "trade", other_network)
    solo = replace(trust(), consensus=None)
    with pytest.raises(ProofError, match="type 0x01"):
        verify_header(encode(HEADER), finality, "trade", solo)


# A hostile validator, against whoever follows.


def test_a_fork_needs_more_than_a_third_of_the_trusted_power() -> None:
    """Hops that are passed over move nothing: what comes after is judged by the same trust.

    The cheats have one validator of the true set, and sets of their own behind it.
    """
    traitor = next(one for one in FIRST if one in make_set(10, first=0))
    cheats = (traitor, *make_set(10, 10, 10, first=50))
    from_cheats = make_set(10, 10, 10, 10, first=60)
    hops = [block(3, _ordered(cheats), from_cheats), block(6, from_cheats)]
    last = block(10, from_cheats)
    for fork in ((last,), (hops[1], last), (*hops, last)):
        with pytest.raises(ProofError):
            judge(trust(), *fork)
        with pytest.raises(ProofError):
            judge(trust_in(block(20)), *fork)


def _ordered(validators: Sequence[Validator]) -> tuple[Validator, ...]:
    return trust_genesis(validators, 0, 1).validators


def test_an_older_block_shows_what_the_chain_determines_and_no_fork() -> None:
    """An honest validator may have voted for two blocks of one height, in different rounds.

    With the keys of those long gone both can be committed. Either may be read, for both hold the
    app hash of the one history; as evidence of a fork they don't count.
    """
    # The two who stayed voted for both; the others' keys are for sale.
    one, other = block(10, MIXED), block(10, MIXED, round_=1, data_hash=b"d" * 32)
    stayed = make_set(10, 10, 10, 10, first=0)
    trusted = trust_block(block(20, stayed), PERIOD_MS)
    for each in (one, other):
        look_back(trusted, each, CHAIN_ID, now_ms=None, exact=True)
    first, second = one, other
    with pytest.raises(NotEnoughTrust):
        verify_two_blocks(
            first, second, trusted, CHAIN_ID, now_ms=None, max_clock_drift_ms=0, exact=True
        )
    same = trust_block(block(20, MIXED), PERIOD_MS)
    shown = verify_two_blocks(
        first, second, same, CHAIN_ID, now_ms=None, max_clock_drift_ms=0, exact=True
    )
    assert 10 == shown.height
    with pytest.raises(InvalidLightBlock, match="another than the first"):
        verify_two_blocks(one, one, same, CHAIN_ID, now_ms=None, max_clock_drift_ms=0)


# Sizes.


def test_a_proof_of_a_hundred_validators_fits_a_transaction_with_hops_left_out() -> None:
    """A relay leaves out what the destination has seen; the rest fits beside some pages."""
    many = [make_set(*(10,) * MAX_VALIDATORS, first=100 * number) for number in range(3)]
    hops = [block(3, many[0], many[1]), block(6, many[1], many[2])]
    whole = prove(*hops, block(10, many[2]))
    assert 10 == judge(trust(many[0]), *hops, block(10, many[2])).height
    short = shorten_finality(whole, 6)
    assert 1 == len(decode_consensus_finality(short).hops)
    assert len(short) < MAX_TRANSACTION_BYTES // 2
    verify_header(encode(HEADER), short, "trade", trust_in(hops[1]))
    with pytest.raises(NotEnoughTrust):
        verify_header(encode(HEADER), short, "trade", trust(many[0]))


def test_a_proof_holds_so_many_hops_and_no_more() -> None:
    """Each is a whole change of the validators."""
    sets = [make_set(1, first=number) for number in range(MAX_HOPS + 1)]
    hops = [block(1 + at, sets[at], sets[at + 1]) for at in range(MAX_HOPS)]
    last = block(MAX_HOPS, sets[MAX_HOPS - 1])
    proof = prove(*hops[:-1], last)
    assert len(proof) < MAX_FINALITY_BYTES
    assert MAX_HOPS == judge(trust(sets[0]), *hops[:-1], last).height
    with pytest.raises(ProofError, match="well-formed"):
        judge(trust(sets[0]), *hops, block(MAX_HOPS + 1, sets[MAX_HOPS]))


# Bundles, offline.


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CometWorld]:
    """A network of four validators who were all replaced, twice."""
    made = CometWorld(tmp_path_factory.mktemp("world"), FIRST, name="bundles")
    made.run("product", made.letter("before"))
    made.change(SECOND)
    made.run("product", made.letter("between"))
    made.change(THIRD)
    made.run("product", made.letter("after"))
    yield made
    made.close()


def bundle_of(world: CometWorld) -> bytes:
    """Two transactions of other times than the validators who sign for them now."""
    places = [
        Place("product", part.header.height, part.header.log_size - 1)
        for part in world.parts("product")
        if part.header is not None and part.envelopes
    ]
    return pack_bundle(prove_places(world.ledger, places[:2]))


def verifiers(world: CometWorld) -> dict[str, Trust]:
    """Trust in the genesis, between two hops, and beyond all of them."""
    period_ms = GENESIS_TRUST_MS
    points = {
        "genesis": world.trusted,
        "between the hops": replace(world.trusted, consensus=trust_block(world.hops[0], period_ms)),
        "after the hops": replace(
            world.trusted, consensus=trust_block(world.blocks[-1], period_ms)
        ),
    }
    return {name: Trust((trusted,)) for name, trusted in points.items()}


VERIFIERS = ("genesis", "between the hops", "after the hops")


@pytest.mark.parametrize("name", VERIFIERS)
def test_a_bundle_verifies_offline_after_all_validators_have_changed(
    world: CometWorld, name: str
) -> None:
    """Whoever knows the genesis, or anything after it."""
    trusted = verifiers(world)[name]
    judgement = verify_bundle(bundle_of(world), trusted, world.time_ms)
    assert (Outcome.VALID, "") == (judgement.outcome, judgement.reason)
    consistency = pack_bundle(prove_consistency(world.ledger, "product", 1))
    judgement = verify_bundle(consistency, trusted, world.time_ms)
    # Its older header is signed by those of whom nobody is left: only the genesis names them.
    told = Outcome.VALID if name == "genesis" else Outcome.CANNOT_TELL
    assert told == judgement.outcome


def test_who_cannot_tell_is_told_so(world: CometWorld) -> None:
    """Expired trust, too little of it, and a clock that is wrong are no fault of the file."""
    data = bundle_of(world)
    genesis = verifiers(world)["genesis"]
    late = verify_bundle(data, genesis, START_MS + GENESIS_TRUST_MS)
    assert Outcome.CANNOT_TELL == late.outcome
    assert late.reason.startswith("the trust in the network's validators has expired")
    early = verify_bundle(data, genesis, START_MS - 2 * MAX_DRIFT_MS)
    assert Outcome.CANNOT_TELL == early.outcome
    assert "clock is wrong" in early.reason
    bundle = unpack_bundle(data)
    final = bundle.headers[0]
    bare = replace(final, finality=shorten_finality(final.finality, world.blocks[-1].height))
    without = pack_bundle(replace(bundle, headers=(bare,)))
    judgement = verify_bundle(without, genesis, world.time_ms)
    assert Outcome.CANNOT_TELL == judgement.outcome
    assert "trusted validators of height 1" in judgement.reason
    assert () == tuple(judgement.facts)


@pytest.mark.parametrize("name", VERIFIERS)
def test_no_flipped_bit_leaves_a_bundle_valid(world: CometWorld, name: str) -> None:
    """One bit of each byte in turn, for verifiers who need all hops, some, or none."""
    data, trusted = bundle_of(world), verifiers(world)[name]
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << (place % 8)
        outcome = verify_bundle(bytes(flipped), trusted, world.time_ms).outcome
        assert Outcome.VALID != outcome, f"{name}: bit {place % 8} of byte {place}"


@settings(deadline=None, max_examples=150)
@given(data=st.data(), name=st.sampled_from(VERIFIERS))
def test_no_other_change_leaves_a_bundle_valid(
    world: CometWorld, data: st.DataObject, name: str
) -> None:
    """Any bit, or some bytes cut out, doubled or set to others."""
    good = bundle_of(world)
    start = data.draw(st.integers(0, len(good) - 1))
    end = data.draw(st.integers(start, min(len(good), start + 40)))
    put = data.draw(st.one_of(st.binary(max_size=40), st.just(good[start:end] * 2)))
    changed = good[:start] + put + good[end:]
    if changed != good:
        outcome = verify_bundle(changed, verifiers(world)[name], world.time_ms).outcome
        assert Outcome.VALID != outcome


def test_a_bundle_with_hops_put_in_or_taken_out_is_judged_by_what_is_left(
    world: CometWorld,
) -> None:
    """Hops of strangers, of another order or of another network make it invalid."""
    bundle = unpack_bundle(bundle_of(world))
    final = bundle.headers[0]
    proof = decode_consensus_finality(final.finality)
    stranger = make_block(3, CHEATS, chain_id=world.chain_id, time_ns=proof.hops[0].header.time_ns)
    hops = {
        "a stranger's first": (replace_height(stranger, 1), *proof.hops),
        "turned round": proof.hops[::-1],
        "twice": (proof.hops[0], *proof.hops),
    }
    for name, changed in hops.items():
        finality = bytes([COMET]) + encode(replace(proof, hops=changed))
        made = replace(bundle, headers=(replace(final, finality=finality),))
        for who in VERIFIERS:
            outcome = verify_bundle(pack_bundle(made), verifiers(world)[who], None).outcome
            assert Outcome.INVALID == outcome, f"{name}: {who}"


def replace_height(one: LightBlock, height: int) -> LightBlock:
    """The same validators' block of another height."""
    return make_block(
        height, one.validators, chain_id=one.header.chain_id, time_ns=one.header.time_ns - 1
    )
