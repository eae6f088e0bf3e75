"""Clients of chains on CometBFT: they follow the validators, and only evidence freezes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.chain_world import DAY_MS, DRIFT_MS, TRUSTING_MS, Post, World
from tests.comet_network import CometWorld
from tests.comet_world import make_block, make_set

from hansa.core.block import decode_header
from hansa.core.codec import encode
from hansa.core.evidence import (
    Evidence,
    RewrittenPast,
    TwoBlocks,
    TwoCheckpoints,
    TwoHeaders,
    compute_evidence_digest,
    verify_evidence,
)
from hansa.core.finality import FinalHeader
from hansa.core.lightblock import LightBlock, header_hash
from hansa.core.lightclient import NS_PER_MS, trust_block
from hansa.core.merkle import ProofError
from hansa.service.link.model import (
    MAX_EARLIER,
    Client,
    ClientExpired,
    Receive,
    RecoverClient,
    SubmitEvidence,
    UpdateClient,
    compute_subject,
)
from hansa.service.link.rules import CLIENTS, EARLIER

FIRST = make_set(10, 10, 10, 10, first=0)
SECOND = make_set(10, 10, 10, 10, first=10)
THIRD = make_set(10, 10, 10, 10, first=20)
CHEATS = make_set(10, 10, 10, 10, first=50)
RESOLUTION = b"r" * 16
BAD_HEADER = 1008
NOT_EVIDENCE = 1013


@pytest.fixture
def world(tmp_path: Path) -> Iterator[CometWorld]:
    """Three chains of one network with four validators."""
    made = CometWorld(tmp_path / "world", FIRST)
    yield made
    made.close()


def client_of(world: World, chain: str = "trade", peer: str = "product") -> Client:
    """The client a chain has of a peer."""
    client = CLIENTS.get(world.ledger.chains[chain], peer.encode())
    assert client is not None
    return client


def post(world: World, *texts: str) -> Receive:
    """Send letters from product to trade in one block; returns what a relay makes of it."""
    world.run("product", world.letter(*texts))
    return world.receives("product", "trade")[-1]


def update(world: World) -> UpdateClient:
    """Product's newest final header, for a client."""
    return UpdateClient("product", *world.last("product"))


def final_of(world: World, at: int) -> tuple[bytes, bytes]:
    """One of product's final headers, counted by its blocks."""
    part = world.parts("product")[at]
    return encode(part.header), part.finality


# Following.


def test_clients_follow_validators_who_all_change(world: CometWorld) -> None:
    """Twice, with packets before, between and after; each is taken once and in order."""
    world.run("trade", post(world, "one"))
    world.change(SECOND)
    world.run("trade", post(world, "two"))
    trusted = client_of(world).trusted.consensus
    assert trusted is not None
    assert SECOND == trusted.validators
    world.change(THIRD)
    world.change(FIRST)
    world.run("trade", post(world, "three"))
    world.relay_all()
    assert ("one", "two", "three") == world.texts("trade", "product")
    assert 3 == len(world.heard("product", "trade"))


def test_a_client_moves_only_with_newer_headers(world: CometWorld) -> None:
    """What comes late is taken, and leaves trust and time where they are."""
    early = post(world, "early")
    late = post(world, "late")
    world.run("trade", update(world))
    known = client_of(world)
    world.run("trade", early)
    world.run("trade", late)
    assert known == client_of(world)
    assert ("early", "late") == world.texts("trade", "product")


def test_blocks_from_before_a_change_are_believed_after_it(world: CometWorld) -> None:
    """Nobody can stop a stream for good by showing the client new validators too soon."""
    early = post(world, "early")
    world.run("trade", update(world))
    world.change(SECOND)
    between = post(world, "between")
    world.run("trade", update(world))
    world.change(THIRD)
    world.run("product", Post("anchor", ("elsewhere",), world.time_ms + DAY_MS))
    world.run("trade", update(world))
    trusted = client_of(world).trusted.consensus
    assert trusted is not None
    assert THIRD == trusted.validators
    earlier = EARLIER.get(world.ledger.chains["trade"], b"product")
    assert earlier is not None
    assert [FIRST, SECOND] == [trust.validators for trust in earlier.trusts]
    world.run("trade", early)
    world.run("trade", between)
    assert ("early", "between") == world.texts("trade", "product")
    assert trusted == client_of(world).trusted.consensus


def test_earlier_trust_ends_with_the_trusting_period(world: CometWorld) -> None:
    """Keys of validators long gone convince nobody, not even of the past."""
    early = post(world, "early")
    world.run("trade", update(world))
    world.change(SECOND)
    world.advance(TRUSTING_MS // 2)
    world.run("product", Post("anchor", ("elsewhere",), world.time_ms + DAY_MS))
    world.run("trade", update(world))
    world.advance(TRUSTING_MS // 2)
    world.run("product", Post("anchor", ("elsewhere",), world.time_ms + DAY_MS))
    world.run("trade", update(world))
    assert BAD_HEADER == world.fail("trade", early)


def test_only_so_many_changes_are_remembered(world: CometWorld) -> None:
    """The oldest are forgotten."""
    sets = [make_set(10, 10, 10, 10, first=100 + 4 * n) for n in range(MAX_EARLIER + 2)]
    for validators in sets:
        world.change(validators)
        world.run("product", Post("anchor", ("elsewhere",), world.time_ms + DAY_MS))
        world.run("trade", update(world))
    earlier = EARLIER.get(world.ledger.chains["trade"], b"product")
    assert earlier is not None
    assert sets[1:-1] == [trust.validators for trust in earlier.trusts]


def test_an_expired_client_believes_nothing(world: CometWorld) -> None:
    """Neither by its newest header nor by what the light blocks say of their own time."""
    message = post(world, "late")
    world.advance(TRUSTING_MS + 1)
    assert ClientExpired.number == world.fail("trade", message)
    assert ClientExpired.number == world.fail("trade", update(world))


def test_a_light_block_ahead_of_the_clock_is_refused(world: CometWorld) -> None:
    """It would stretch the trusting period by as much."""
    message = post(world, "hello")
    record = world.ledger.read_block(world.ledger.height)
    ahead = (world.time_ms + DRIFT_MS) * NS_PER_MS
    block = world.make_light_block(record.height + 1, time_ns=ahead)
    finality = world.make_finality(record, "product", block)
    assert BAD_HEADER == world.fail("trade", replace(message, finality=finality))
    world.run("trade", message)


def test_governance_recovers_a_client_with_other_validators(world: CometWorld) -> None:
    """What was trusted before counts no more."""
    message = post(world, "hello")
    world.run("trade", update(world))
    world.change(SECOND)
    world.run("product", Post("anchor", ("elsewhere",), world.time_ms + DAY_MS))
    world.run("trade", update(world))
    trusted = replace(world.trusted, consensus=trust_block(world.blocks[-2], TRUSTING_MS))
    recover = RecoverClient("product", trusted, TRUSTING_MS, *world.last("product"), RESOLUTION)
    subject = compute_subject(recover)
    world.parliament.passed.append((RESOLUTION, "link.recover_client", subject))
    world.run("trade", recover)
    assert EARLIER.get(world.ledger.chains["trade"], b"product") is None
    assert BAD_HEADER == world.fail("trade", message)


# Evidence.


class Liars:
    """One network's validators, who tell two stories from some block on."""

    def __init__(self, folder: Path) -> None:
        self.true = CometWorld(folder / "true", FIRST)
        self.false = CometWorld(folder / "false", FIRST)
        for world in (self.true, self.false):
            world.run("product", world.letter("common"))
        self.false.run("product", self.false.letter("what never was"))
        for number in range(6):
            self.true.run("product", self.true.letter(f"{number}"))
            self.false.run("product", self.false.letter(f"{number}"))

    def twins(self) -> tuple[LightBlock, LightBlock]:
        """Two blocks of one height."""
        pairs = zip(self.true.blocks, self.false.blocks, strict=False)
        return next((one, other) for one, other in pairs if one != other)


@pytest.fixture
def liars(tmp_path: Path) -> Iterator[Liars]:
    """Validators who have told two stories."""
    made = Liars(tmp_path)
    yield made
    made.true.close()
    made.false.close()


def in_order(one: LightBlock, other: LightBlock) -> TwoBlocks:
    """Evidence of two blocks in its one form."""
    return TwoBlocks(*sorted((one, other), key=lambda block: header_hash(block.header)))


def rewritten(old_world: World, old: int, new_world: World, new: int) -> RewrittenPast:
    """That the newer header's log does not begin with the older one's."""
    size = decode_header(final_of(old_world, old)[0]).log_size
    larger = decode_header(final_of(new_world, new)[0]).log_size
    log = new_world.ledger.chains["product"].log
    return RewrittenPast(
        *final_of(old_world, old),
        *final_of(new_world, new),
        log.root_at(size),
        tuple(log.prove_consistency(size, larger)),
    )


TRUE: dict[str, Callable[[Liars], Evidence]] = {
    "two blocks": lambda w: in_order(*w.twins()),
    "two headers of a size": lambda w: TwoHeaders(*final_of(w.true, 3), *final_of(w.false, 3)),
    "a past rewritten": lambda w: rewritten(w.true, 3, w.false, 6),
    "a past rewritten at a power of two": lambda w: rewritten(w.true, 4, w.false, 6),
}


@pytest.mark.parametrize("name", TRUE)
@pytest.mark.parametrize("is_late", [False, True], ids=["ahead of the client", "behind it"])
def test_evidence_freezes(liars: Liars, name: str, is_late: bool) -> None:
    """Wherever the client's trust stands; and evidence against one chain counts for it alone."""
    world = liars.true
    if is_late:
        world.run("trade", update(world))
    evidence = TRUE[name](liars)
    assert NOT_EVIDENCE == world.fail("trade", SubmitEvidence("anchor", evidence)) or (
        isinstance(evidence, TwoBlocks)
    )
    world.run("trade", SubmitEvidence("product", evidence))
    assert client_of(world).is_frozen
    assert 33 == len(compute_evidence_digest(evidence))


def test_two_stories_that_meet_at_a_client_freeze_it(liars: Liars) -> None:
    """A header of a log size that the client knows, with another app hash."""
    true, false = liars.true, liars.false
    true.run("product", true.letter("as many as in the other story"))
    true.run("trade", update(true))
    latest = client_of(true).latest
    header, finality = false.last("product")
    assert latest.log_size == decode_header(header).log_size
    # At the very height of the trust it is refused: it may be a block that was voted for, and not
    # decided. Two committed blocks are for TwoBlocks to show.
    assert BAD_HEADER == true.fail("trade", UpdateClient("product", header, finality))
    assert not client_of(true).is_frozen
    false.advance(1)
    false.advance(1)
    record = false.ledger.read_block(false.ledger.height)
    later = false.make_finality(record, "product", false.blocks[-1])
    true.run("trade", UpdateClient("product", header, later))
    assert client_of(true).is_frozen


def _lies(world: CometWorld) -> dict[str, Evidence]:
    """What can be said of an honest chain, with its own words and a stranger's."""
    blocks, note = world.blocks, b"\x01" + b"x" * 99
    first, last = final_of(world, 1), final_of(world, -1)
    signed = [
        world.signer.sign(decode_header(last[0]), b"\x01" + bytes([n]) * 32) for n in range(2)
    ]
    fake = make_block(5, CHEATS, chain_id=world.chain_id, time_ns=blocks[4].header.time_ns)
    height = blocks[4].height
    few = world.make_light_block(height, absent=(0, 1), data_hash=b"d" * 32)
    later = replace(blocks[4], commit=replace(blocks[4].commit, round=1))
    other = world.make_light_block(height, chain_id="hansa-0000000000000000", data_hash=b"d" * 32)
    honest = rewritten(world, 1, world, -1)
    forged = replace(decode_header(last[0]), log_root=b"x" * 32)
    return {
        "one block twice": TwoBlocks(blocks[4], blocks[4]),
        "blocks of two heights": in_order(blocks[4], blocks[5]),
        "a block of strangers": in_order(blocks[4], fake),
        "a block of few": in_order(blocks[4], few),
        "a block of another round without its votes": TwoBlocks(blocks[4], later),
        "a block of another network": in_order(blocks[4], other),
        "one header twice": TwoHeaders(*last, *last),
        "two honest headers": TwoHeaders(*first, *last),
        "a forged header": TwoHeaders(*last, encode(forged), last[1]),
        "two notes of one node": TwoCheckpoints(*signed),
        "no notes": TwoCheckpoints(note, note),
        "an honest past": honest,
        "an honest past, another root": replace(honest, old_root=b"x" * 32),
        "an honest past, another path": replace(honest, path=honest.path[:-1]),
        "an honest past, turned round": replace(
            honest, old_header=last[0], old_finality=last[1], new_header=first[0],
            new_finality=first[1],
        ),
    }  # fmt: skip


@pytest.mark.parametrize("is_late", [False, True], ids=["ahead of the client", "behind it"])
def test_lies_about_an_honest_chain_freeze_nothing(world: CometWorld, is_late: bool) -> None:
    """None of them is evidence, whoever tells it, and the chain goes on."""
    for number in range(6):
        world.run("product", world.letter(f"{number}"))
    if is_late:
        world.run("trade", update(world))
    lies = _lies(world)
    for name, lie in lies.items():
        with pytest.raises(ProofError):
            verify_evidence(lie, "product", world.trusted)
        assert NOT_EVIDENCE == world.fail("trade", SubmitEvidence("product", lie)), name
        assert not client_of(world).is_frozen, name
    assert len(lies) >= 10
    world.relay_all()
    assert 6 == len(world.texts("trade", "product"))


def test_two_blocks_have_one_form(liars: Liars) -> None:
    """Turned round they would be other evidence of the same."""
    evidence = in_order(*liars.twins())
    turned = TwoBlocks(evidence.second, evidence.first)
    assert verify_evidence(evidence, "product", liars.true.trusted).startswith("two blocks")
    with pytest.raises(ProofError, match="to rise"):
        verify_evidence(turned, "product", liars.true.trusted)


def test_no_flipped_bit_leaves_evidence_standing(liars: Liars) -> None:
    """A bit of each byte of the two light blocks."""
    evidence = in_order(*liars.twins())
    final = FinalHeader(*final_of(liars.true, 1))
    assert final.finality
    for name in ("first", "second"):
        block = getattr(evidence, name)
        for field in ("header", "commit"):
            for part in getattr(block, field).__struct_fields__:
                value = getattr(getattr(block, field), part)
                if not isinstance(value, bytes) or not value:
                    continue
                changed = bytes([value[0] ^ 1]) + value[1:]
                part_changed = replace(getattr(block, field), **{part: changed})
                lie = replace(evidence, **{name: replace(block, **{field: part_changed})})
                with pytest.raises(ProofError):
                    verify_evidence(lie, "product", liars.true.trusted)
