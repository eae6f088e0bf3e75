"""The anchor chain records what extends its memory, and on evidence alone what doesn't."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.chain_world import STALE_MS, TRUSTING_MS, World
from tests.comet_network import CometWorld
from tests.comet_world import make_set

from hansa.core.block import Header, compute_app_hash, decode_header
from hansa.core.codec import encode
from hansa.core.evidence import RewrittenPast, TwoBlocks, TwoCheckpoints
from hansa.core.lightblock import header_hash
from hansa.core.readmodel import Batch, Fact
from hansa.service.anchoring.model import (
    ERRORS,
    EVENTS,
    FORKED,
    LIVE,
    STALE,
    Anchor,
    Anchored,
    AnchoredChain,
    ForkConfirmed,
    ForkRecorded,
    ReportFork,
    ResetAnchor,
    WentStale,
    compute_subject,
)
from hansa.service.anchoring.rules import ANCHORS
from hansa.service.anchoring.views import ANCHORS as ANCHORS_VIEW
from hansa.service.anchoring.views import FORKS, VIEWS
from hansa.service.link.model import RecoverClient
from hansa.service.link.model import compute_subject as compute_link_subject
from hansa.service.link.rules import CLIENTS

RESOLUTION = b"r" * 16


FOUR = make_set(10, 10, 10, 10)
ENGINES: dict[str, Callable[[Path], World]] = {
    "solo": World,
    "comet": lambda folder: CometWorld(folder, FOUR),
}


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """The engine of the network: how blocks become final makes no difference to anchoring."""
    return str(request.param)


@pytest.fixture
def world(tmp_path: Path, engine: str) -> Iterator[World]:
    """Three chains of one network, of which product has some history."""
    world = ENGINES[engine](tmp_path / "honest")
    grow(world, 4)
    yield world
    world.close()


@pytest.fixture
def liar(tmp_path: Path, engine: str) -> Iterator[World]:
    """The same network run again by its validators with another history of product."""
    world = ENGINES[engine](tmp_path / "liar")
    world.run("product", world.letter("another past"))
    grow(world, 9)
    yield world
    world.close()


def grow(world: World, blocks: int) -> None:
    """Let product make blocks."""
    for n in range(blocks):
        world.run("product", world.letter(f"{n}"))


def record_of(world: World, chain: str = "product") -> AnchoredChain:
    """What the anchor chain remembers of a chain."""
    record = ANCHORS.get(world.ledger.chains["anchor"], chain.encode())
    assert record is not None
    return record


def make_anchor(world: World, old_size: int | None = None, **changes: Any) -> Anchor:
    """What a relay makes of product's newest block, and the size anchored before."""
    header, finality = world.last("product")
    log = world.ledger.chains["product"].log
    path = tuple(log.prove_consistency(old_size)) if old_size else ()
    message = Anchor(chain="product", header=header, finality=finality, path=path)
    return msgspec.structs.replace(message, **changes)


def anchor(world: World) -> AnchoredChain:
    """Anchor product as it stands."""
    world.run("anchor", make_anchor(world, record_of(world).log_size))
    return record_of(world)


def is_frozen(world: World, chain: str) -> bool:
    """Whether a chain believes product no more."""
    client = CLIENTS.get(world.ledger.chains[chain], b"product")
    assert client is not None
    return client.is_frozen


def test_each_anchor_extends_the_one_before(world: World) -> None:
    """Size, root and app_hash are those of the newest header."""
    first = anchor(world)
    grow(world, 7)
    events = world.run("anchor", make_anchor(world, first.log_size))
    second = record_of(world)
    header = decode_header(world.last("product")[0])
    assert (header.log_size, header.log_root) == (second.log_size, second.log_root)
    assert compute_app_hash(header) == second.app_hash
    assert [Anchored] == [type(event) for event in events]
    assert first.log_size + 7 == second.log_size


def test_silence_is_marked_and_forgiven(world: World) -> None:
    """A chain unheard for too long is stale, one event for each, and live again once heard."""
    anchor(world)
    assert [] == world.advance(STALE_MS)
    stale = [event.anchor.chain for event in world.advance(1) if isinstance(event, WentStale)]
    assert ["product", "trade"] == sorted(stale)
    assert STALE == record_of(world).status
    assert [] == world.advance(STALE_MS + 1)
    grow(world, 1)
    assert LIVE == anchor(world).status
    assert ["product"] == [event.anchor.chain for event in world.advance(STALE_MS + 1)]


def test_another_log_of_one_size_is_a_fork(world: World, liar: World) -> None:
    """The message that proves a fork succeeds: its effects must stay."""
    anchor(world)
    size = record_of(world).log_size
    part = next(part for part in liar.parts("product") if part.header.log_size == size)  # type: ignore[union-attr]
    message = make_anchor(world, header=encode(part.header), finality=part.finality, path=())
    check_fork(world, message)


def test_rewritten_past_is_a_fork(world: World, liar: World) -> None:
    """A path that leads to the signed new root and to another old one gives the liar away."""
    size = anchor(world).log_size
    assert 5 == size
    check_fork(world, make_anchor(liar, size))


def check_fork(world: World, message: Anchor | ReportFork) -> None:
    """The fork is recorded, everybody is told, judges, and believes product no more."""
    known = record_of(world)
    events = world.run("anchor", message)
    assert ForkRecorded in [type(event) for event in events]
    assert msgspec.structs.replace(known, status=FORKED) == record_of(world)
    assert is_frozen(world, "anchor")
    assert not is_frozen(world, "trade")
    events = world.relay("anchor", "trade")
    assert [ForkConfirmed] == [type(event) for event in events if isinstance(event, ForkConfirmed)]
    assert is_frozen(world, "trade")
    assert 7002 == world.fail("anchor", make_anchor(world, known.log_size))
    assert 1002 == world.fail("trade", world.receives("product", "trade")[0])


def evidence_of(world: World, liar: World) -> TwoCheckpoints | TwoBlocks:
    """Two checkpoints of one size, or two blocks of one height."""
    if isinstance(world, CometWorld) and isinstance(liar, CometWorld):
        pairs = zip(world.blocks, liar.blocks, strict=False)
        one, other = next((a, b) for a, b in pairs if a != b)
        first, second = sorted((one, other), key=lambda block: header_hash(block.header))
        return TwoBlocks(first, second)
    parts = zip(world.parts("product")[1:], liar.parts("product")[1:], strict=False)
    honest, lie = next(iter(parts))
    return TwoCheckpoints(honest.finality, lie.finality)


def test_fork_is_reported_by_anyone(world: World, liar: World) -> None:
    """Evidence counts although the anchor chain has seen neither story."""
    check_fork(world, ReportFork(chain="product", evidence=evidence_of(world, liar)))


def test_rewritten_past_at_a_power_of_two_is_reported(world: World, liar: World) -> None:
    """There the path alone can't tell; with the old root beside it the evidence holds."""
    parts = [part for part in world.parts("product") if part.header.log_size == 4]  # type: ignore[union-attr]
    world.run(
        "anchor", make_anchor(world, header=encode(parts[0].header), finality=parts[0].finality)
    )
    assert 7005 == world.fail("anchor", make_anchor(liar, 4))
    assert not is_frozen(world, "anchor")
    log = liar.ledger.chains["product"].log
    evidence = RewrittenPast(
        encode(parts[0].header),
        parts[0].finality,
        *liar.last("product"),
        old_root=log.root_at(4),
        path=tuple(log.prove_consistency(4)),
    )
    check_fork(world, ReportFork(chain="product", evidence=evidence))


def test_governance_recovers_a_forked_chain(world: World, liar: World) -> None:
    """Each chain recovers its client, the anchor chain its record; then all goes on."""
    check_fork(world, ReportFork(chain="product", evidence=evidence_of(world, liar)))
    header, finality = world.last("product")
    reset = ResetAnchor(chain="product", header=header, finality=finality, resolution=RESOLUTION)
    assert 1002 == world.fail("anchor", reset)
    recover = RecoverClient(
        chain="product",
        trusted=world.trusted,
        trusting_period_ms=TRUSTING_MS,
        header=header,
        finality=finality,
        resolution=RESOLUTION,
    )
    subject = compute_link_subject(recover)
    world.parliament.passed.append((RESOLUTION, "link.recover_client", subject))
    world.run("anchor", recover)
    world.run("trade", recover)
    assert 7002 == world.fail("anchor", make_anchor(world))
    assert 2999 == world.fail("anchor", reset)
    subject = compute_subject(reset)
    world.parliament.passed.append((RESOLUTION, "anchoring.reset_anchor", subject))
    world.run("anchor", reset)
    assert LIVE == record_of(world).status
    assert 7006 == world.fail("anchor", reset)
    grow(world, 1)
    anchor(world)
    world.relay_all()
    assert 5 == len(world.texts("trade", "product"))


def forge(world: World, **changes: Any) -> tuple[bytes, bytes]:
    """A header that product's validator signed though it is not of its log."""
    header: Header = decode_header(world.last("product")[0])
    header = msgspec.structs.replace(header, **changes)
    return encode(header), world.finalize(header)


REFUSALS: dict[str, tuple[Callable[[World], Any], int]] = {
    "unknown chain": (lambda w: make_anchor(w, 5, chain="nowhere"), 1001),
    "the anchor chain itself": (lambda w: make_anchor(w, 5, chain="anchor"), 1001),
    "another chain's header": (lambda w: make_anchor(w, 5, chain="trade"), 1008),
    "header nobody signed": (lambda w: make_anchor(w, 5, header=b"\xff"), 1008),
    "path from another size": (lambda w: make_anchor(w, 4), 7005),
    "no path": (make_anchor, 7005),
    "path with a wrong node": (lambda w: make_anchor(w, 5, path=(b"x" * 32,) * 4), 7005),
    "path too long": (
        lambda w: make_anchor(w, 5, path=(*make_anchor(w, 5).path, bytes(32))),
        7005,
    ),
    "path of a first anchor": (
        lambda w: Anchor("trade", *w.last("trade"), path=(bytes(32),)),
        7005,
    ),
    "older log": (
        lambda w: Anchor(
            "product", encode(w.parts("product")[1].header), w.parts("product")[1].finality, ()
        ),
        7004,
    ),
    "the same log": (
        lambda w: Anchor(
            "product", encode(w.parts("product")[4].header), w.parts("product")[4].finality, ()
        ),
        7003,
    ),
    "one checkpoint as evidence": (
        lambda w: ReportFork("product", TwoCheckpoints(w.last("product")[1], w.last("product")[1])),
        1013,
    ),
    "evidence against a stranger": (
        lambda w: ReportFork("nowhere", TwoCheckpoints(b"\x01x", b"\x01x")),
        1001,
    ),
    "reset of an honest chain": (
        lambda w: ResetAnchor("product", *w.last("product"), RESOLUTION),
        7006,
    ),
}


@pytest.mark.parametrize(("make", "number"), REFUSALS.values(), ids=REFUSALS.keys())
def test_anchor_chain_refuses(world: World, make: Callable[[World], Any], number: int) -> None:
    """A wrong proof for an honest chain is refused by number, and freezes nothing."""
    anchor(world)
    grow(world, 4)
    assert number == world.fail("anchor", make(world))
    assert LIVE == record_of(world).status
    assert not is_frozen(world, "anchor")
    anchor(world)


def test_only_the_anchor_chain_records(world: World, liar: World) -> None:
    """The other chains refuse all three messages, and take packets instead."""
    evidence = evidence_of(world, liar)
    reset = ResetAnchor("product", *world.last("product"), RESOLUTION)
    messages = (make_anchor(world), ReportFork("product", evidence), reset)
    assert [7001] * 3 == [world.fail("trade", message) for message in messages]


def test_fork_of_a_bare_header_is_no_news(world: World) -> None:
    """A root signed without a log behind it can't be anchored on a path, and freezes nothing."""
    anchor(world)
    header, finality = forge(world, log_size=50, log_root=b"x" * 32, height=60)
    path = (b"y" * 32,) * 6
    message = Anchor(chain="product", header=header, finality=finality, path=path)
    assert 7005 == world.fail("anchor", message)


def test_every_error_is_reached() -> None:
    """No error goes without a test; MalformedPacket is met in link's tests."""
    here = Path(__file__)
    source = here.read_text() + here.with_name("test_link_rules.py").read_text()
    assert [] == [error for error in ERRORS if str(error.number) not in source]
    assert [7000 + n for n in range(1, len(ERRORS) + 1)] == [error.number for error in ERRORS]


def test_views_show_anchors_and_forks(world: World, liar: World) -> None:
    """The anchor's row says where a chain stands; a fork has a row for each chain that judged."""
    batch = Batch()
    size = anchor(world).log_size
    events = world.run("anchor", make_anchor(liar, size))
    for event in events:
        if type(event) in VIEWS.projections:
            fact = Fact("anchor", 9, 0, 9, 0, None, event, "anchoring.fork_recorded")
            VIEWS.projections[type(event)](batch, fact)
    anchored, fork = (
        batch.upserts[ANCHORS_VIEW]["product",],
        batch.upserts[FORKS]["anchor:product",],
    )
    assert isinstance(anchored, Mapping)
    assert isinstance(fork, Mapping)
    assert ("forked", "product") == (anchored["status"], fork["peer"])
    assert set(EVENTS) == set(VIEWS.projections)
