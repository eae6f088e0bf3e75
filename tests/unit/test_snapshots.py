"""State sync: a node that begins from a snapshot is the node it was taken from, or none."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from msgspec.structs import replace
from tests import comet_world
from tests.comet_toy import CometToy
from tests.toy_chain import START_MS, Add

from hansa.core import ledger as ledger_module
from hansa.core.codec import encode
from hansa.core.errors import NotThere, OperatorError
from hansa.core.finality import (
    FinalHeader,
    decode_consensus_finality,
    make_consensus_finality,
    trust_network,
)
from hansa.core.proof import Outcome, Trust, pack_bundle, verify_bundle
from hansa.core.prover import Place, prove_places
from hansa.core.readmodel import TRANSACTIONS, ReadModel
from hansa.core.restoration import LIGHT_HOPS, make_base
from hansa.core.stateroot import compute_state_root
from hansa.core.tilelog import TILE_WIDTH
from hansa.network.comet import snapshots as module
from hansa.network.comet.proto.abci import types_pb2 as abci
from hansa.network.comet.snapshots import SnapshotContents, SnapshotMetadata
from hansa.storage.blocklog import BlockLog
from hansa.storage.sql import open_engine

INTERVAL = 5
"""The toy's state is rooted every five blocks, and shown two blocks later."""

ANSWER = abci.ResponseApplySnapshotChunk
OFFER = abci.ResponseOfferSnapshot


@pytest.fixture
def source(tmp_path: Path) -> Iterator[CometToy]:
    """A node with snapshots of heights 5 and 10, at height 14."""
    toy = CometToy(tmp_path / "source", interval=INTERVAL)
    toy.apply(toy.sign(Add("quiet", 7), chain="two"), chain="two")
    toy.drive(13)
    yield toy
    toy.close()


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[CometToy]:
    """A new node, at the genesis."""
    toy = CometToy(tmp_path / "fresh", interval=INTERVAL)
    yield toy
    toy.close()


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Snapshots of several pieces a chain would need a large state otherwise."""
    monkeypatch.setattr(module, "PIECE_BYTES", 1)


def state_of(toy: CometToy) -> list[tuple[bytes, bytes]]:
    """All pairs in the store."""
    toy.ledger.flush()
    return list(toy.ledger.store.scan(b""))


def facts_of(toy: CometToy) -> tuple[object, ...]:
    """All by which two nodes at one height could differ, but for where they began."""
    headers = {name: chain.header for name, chain in toy.ledger.chains.items()}
    logs = {name: chain.log.edge() for name, chain in toy.ledger.chains.items()}
    return (toy.ledger.height, toy.ledger.network_hash, toy.app_hashes(), headers, logs,
            toy.ledger.next_deadline_ms(), toy.total("n4"), state_of(toy))  # fmt: skip


def copy_blocks(source: CometToy, target: CometToy) -> None:
    """Have a restored node run the blocks it lacks."""
    for record in source.ledger.iterate_blocks(target.ledger.height + 1):
        submissions = {
            part.chain: [(target.decode(envelope, part.chain), True) for envelope in part.envelopes]
            for part in record.chains
        }
        block = target.ledger.apply(record.time_ms, submissions)
        assert record.network_hash == block.record.network_hash, record.height
        target.ledger.commit(block)
        target.ledger.block_log.sync()


# Restoring.


def test_a_restored_node_is_the_one_it_came_from(source: CometToy, fresh: CometToy) -> None:
    """Blocks, hashes, logs, deadlines and state are equal from the snapshot's height on."""
    chain = fresh.ledger.chains["one"]
    fresh.restore_from(source)
    assert (10, 11) == (fresh.ledger.height, fresh.ledger.first_height)
    assert source.ledger.read_block(10).network_hash == fresh.ledger.network_hash
    assert chain is fresh.ledger.chains["one"], "whoever holds a chain goes on to hold it"
    copy_blocks(source, fresh)
    assert facts_of(source) == facts_of(fresh)
    assert source.drive(8) == fresh.drive(8)
    assert facts_of(source) == facts_of(fresh)


def test_a_restored_node_can_be_stopped_before_its_first_block(
    source: CometToy, fresh: CometToy
) -> None:
    """It opens again at the snapshot's height, with nothing in the block log, and goes on."""
    fresh.restore_from(source)
    fresh.close()
    again = CometToy(fresh.ledger.folder, interval=INTERVAL)
    assert (10, 11, 0) == (again.ledger.height, again.ledger.first_height, again.ledger.replayed)
    copy_blocks(source, again)
    again.follow(source)
    assert source.drive(3) == again.drive(3)
    again.close()


def test_a_restored_node_replays_what_it_lost_from_its_own_begin(
    source: CometToy, fresh: CometToy, tmp_path: Path
) -> None:
    """After a crash the state is behind the block log, whose first block follows the snapshot."""
    fresh.restore_from(source)
    copy_blocks(source, fresh)
    shutil.copytree(fresh.ledger.folder, tmp_path / "crashed")
    again = CometToy(tmp_path / "crashed", interval=INTERVAL)
    assert 4 == again.ledger.replayed
    assert facts_of(source) == facts_of(again)
    again.close()


def test_a_restored_node_serves_the_next_ones(
    source: CometToy, fresh: CometToy, tmp_path: Path
) -> None:
    """Its own snapshots are those of everybody else, but for the votes that make them final."""
    fresh.restore_from(source)
    copy_blocks(source, fresh)
    assert source.drive(6) == fresh.drive(6)
    assert [15] == [offer.height for offer in fresh.offers()]
    assert source.offers()[0] == fresh.offers()[0]
    third = CometToy(tmp_path / "third", interval=INTERVAL)
    third.restore_from(fresh)
    copy_blocks(fresh, third)
    assert facts_of(source) == facts_of(third)
    third.close()


def test_the_way_from_the_genesis_is_kept_for_proofs(source: CometToy, fresh: CometToy) -> None:
    """The light blocks of the snapshot lie in the ledger's folder, for the engine."""
    fresh.restore_from(source)
    hops = decode_consensus_finality((fresh.ledger.folder / LIGHT_HOPS).read_bytes()).hops
    assert [13] == [hop.height for hop in hops]


def test_a_node_may_be_restored_twice(source: CometToy, fresh: CometToy) -> None:
    """CometBFT may have crashed before it noted the first time; an older one is refused."""
    fresh.restore_from(source)
    fresh.restore_from(source)
    source.drive(5)
    fresh.restore_from(source)
    assert 15 == fresh.ledger.height
    older = abci.RequestOfferSnapshot(
        snapshot=source.offers()[1], app_hash=source.ledger.read_block(10).network_hash
    )
    assert OFFER.REJECT == fresh.snapshots.take_offer(older).result


def test_a_read_model_begins_with_the_node(tmp_path: Path, fresh: CometToy) -> None:
    """It forgets the genesis, takes the blocks after the snapshot, and remembers where it is."""
    source = CometToy(tmp_path / "plain", interval=INTERVAL)
    for _ in range(14):
        source.apply(source.sign(Add("n", 1)))
        source.snapshots.settle()
    engine = open_engine(tmp_path / "readmodel.db")
    model = ReadModel(engine, fresh.ledger.chains, {})
    model.project([[fresh.ledger.read_block(0)]])
    fresh.restore_from(source)
    base = fresh.ledger.base
    assert base is not None
    model.begin_after(base.height)
    copy_blocks(source, fresh)
    again = ReadModel(engine, fresh.ledger.chains, {})
    assert 10 == again.height
    again.project([list(fresh.ledger.iterate_blocks(11))])
    assert 14 == again.height
    with engine.connect() as connection:
        heights = set(connection.execute(sa.select(TRANSACTIONS.c.height)).scalars())
    assert {11, 12, 13, 14} == heights
    engine.dispose()
    source.close()


# What a peer may send instead.


def flip(data: bytes) -> bytes:
    """Another byte in the middle."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


BAD_PIECES: dict[str, Callable[[CometToy, int], bytes]] = {
    "nothing": lambda source, index: b"",
    "truncated": lambda source, index: source.load(index)[:-1],
    "a byte more": lambda source, index: source.load(index) + b"\x00",
    "a bit flipped": lambda source, index: flip(source.load(index)),
    "another piece": lambda source, index: source.load(2 if index != 2 else 1),
    "no bytes of ours": lambda source, index: b"\xc1" * 100,
}


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize("name", BAD_PIECES)
def test_a_bad_piece_is_fetched_again_from_others(
    name: str, index: int, source: CometToy, fresh: CometToy
) -> None:
    """Its sender is refused; the true piece is taken after it."""
    fresh.snapshots.take_offer(source.offer())
    for before in range(index):
        fresh.give(before, source.load(before))
    refused = fresh.give(index, BAD_PIECES[name](source, index))
    assert ANSWER.RETRY == refused.result
    assert [index] == list(refused.refetch_chunks)
    assert ["mallory"] == list(refused.reject_senders)
    for after in range(index, source.offers()[0].chunks):
        assert ANSWER.ACCEPT == fresh.give(after, source.load(after)).result
    assert 10 == fresh.ledger.height


def change_contents(source: CometToy, **fields: Any) -> bytes:
    """The first piece with other fields."""
    contents = module._decode_contents(source.load(0))
    return encode(replace(contents, **fields))


def contents_of(source: CometToy) -> SnapshotContents:
    """The first piece."""
    return module._decode_contents(source.load(0))


def forge_finality(source: CometToy, height: int, validators: tuple[Any, ...]) -> bytes:
    """The finality of a block by these validators."""
    record = source.ledger.read_block(height)
    block = comet_world.make_block(
        height + 1,
        validators,
        time_ns=(START_MS + 60_000) * 1_000_000,
        app_hash=record.network_hash,
        chain_id=source.chain_id,
    )
    app_hashes = {part.chain: part.app_hash for part in record.chains}
    return make_consensus_finality([block], app_hashes, "one")


FORGED: dict[str, Callable[[CometToy], dict[str, Any]]] = {
    "strangers' votes": lambda source: {
        "finality": forge_finality(source, 12, comet_world.make_set(1, 1, 1, first=50))
    },
    "a block before the roots show": lambda source: {
        "finality": forge_finality(source, 11, comet_world.make_set(10, 10, 10, 10))
    },
    "the headers at the snapshot": lambda source: {
        "headers": tuple(
            encode(part.header)
            for part in make_base(10, [c.header for c in source.ledger.chains.values()]).chains
        )
    },
    "no headers": lambda source: {"headers": ()},
    "edges swapped": lambda source: {"edges": contents_of(source).edges[::-1]},
    "an edge less": lambda source: {"edges": contents_of(source).edges[:1]},
    "an edge of garbage": lambda source: {"edges": (b"\xc1", contents_of(source).edges[1])},
    "leaves swapped": lambda source: {"leaves": contents_of(source).leaves[::-1]},
    "a chain's leaves less": lambda source: {"leaves": contents_of(source).leaves[:1]},
    "leaves cut short": lambda source: {
        "leaves": tuple(leaves[:-1] for leaves in contents_of(source).leaves)
    },
    "another leaf": lambda source: {
        "leaves": tuple(flip(leaves) for leaves in contents_of(source).leaves)
    },
    "a piece less": lambda source: {"pieces": contents_of(source).pieces[:-1]},
    "pieces of a third chain": lambda source: {
        "pieces": tuple(replace(piece, chain=2) for piece in contents_of(source).pieces)
    },
    "empty pieces": lambda source: {
        "pieces": tuple(replace(piece, count=0) for piece in contents_of(source).pieces)
    },
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_list_is_its_sender_s_fault(name: str, source: CometToy, fresh: CometToy) -> None:
    """Each claim in the first piece is judged before any state is taken."""
    fresh.snapshots.take_offer(source.offer())
    refused = fresh.give(0, change_contents(source, **FORGED[name](source)))
    assert ANSWER.RETRY == refused.result
    assert ["mallory"] == list(refused.reject_senders)
    assert ANSWER.ACCEPT == fresh.give(0, source.load(0)).result


def test_pieces_repeated_and_out_of_order(source: CometToy, fresh: CometToy) -> None:
    """What is in already counts once; a gap begins the snapshot again, and nobody is blamed."""
    fresh.snapshots.take_offer(source.offer())
    assert ANSWER.RETRY_SNAPSHOT == fresh.give(1, source.load(1)).result
    assert ANSWER.ACCEPT == fresh.give(0, source.load(0)).result
    assert ANSWER.ACCEPT == fresh.give(0, b"garbage").result
    assert ANSWER.ACCEPT == fresh.give(1, source.load(1)).result
    skipped = fresh.give(3, source.load(3))
    assert (ANSWER.RETRY_SNAPSHOT, []) == (skipped.result, list(skipped.reject_senders))
    for index in range(source.offers()[0].chunks):
        assert ANSWER.ACCEPT == fresh.give(index, source.load(index)).result
    copy_blocks(source, fresh)
    assert facts_of(source) == facts_of(fresh)


def test_a_piece_without_an_offer_is_not_taken(source: CometToy, fresh: CometToy) -> None:
    """Nothing is written before a snapshot was accepted."""
    assert ANSWER.ABORT == fresh.give(0, source.load(0)).result
    assert 0 == fresh.ledger.height


def renamed(offer: abci.Snapshot, metadata: SnapshotMetadata) -> abci.Snapshot:
    """A snapshot with other metadata, and the hash of it."""
    data = encode(metadata)
    return abci.Snapshot(
        height=offer.height,
        format=offer.format,
        chunks=offer.chunks,
        hash=sha256(data).digest(),
        metadata=data,
    )


def changed(offer: abci.Snapshot, **fields: Any) -> abci.Snapshot:
    """A snapshot with other fields."""
    copy = abci.Snapshot()
    copy.CopyFrom(offer)
    for name, value in fields.items():
        setattr(copy, name, value)
    return copy


def metadata_of(offer: abci.Snapshot) -> SnapshotMetadata:
    """What a snapshot claims."""
    return module._decode_metadata(offer.metadata)


BAD_OFFERS: dict[str, tuple[Callable[[abci.Snapshot], abci.Snapshot], int]] = {
    "another format": (lambda offer: changed(offer, format=2), OFFER.REJECT_FORMAT),
    "a height between": (lambda offer: changed(offer, height=11), OFFER.REJECT),
    "the genesis": (lambda offer: changed(offer, height=0), OFFER.REJECT),
    "one piece": (lambda offer: changed(offer, chunks=1), OFFER.REJECT),
    "too many pieces": (lambda offer: changed(offer, chunks=1 << 31), OFFER.REJECT),
    "another hash": (lambda offer: changed(offer, hash=b"h" * 32), OFFER.REJECT),
    "no metadata": (lambda offer: changed(offer, metadata=b""), OFFER.REJECT),
    "metadata that is none": (
        lambda offer: changed(offer, metadata=b"\xc1", hash=sha256(b"\xc1").digest()),
        OFFER.REJECT,
    ),
    "a chain less": (
        lambda offer: renamed(
            offer, replace(metadata_of(offer), headers=metadata_of(offer).headers[:1])
        ),
        OFFER.REJECT,
    ),
    "no chains": (
        lambda offer: renamed(offer, replace(metadata_of(offer), headers=(), state_roots=())),
        OFFER.REJECT,
    ),
    "a root less": (
        lambda offer: renamed(
            offer, replace(metadata_of(offer), state_roots=metadata_of(offer).state_roots[:1])
        ),
        OFFER.REJECT,
    ),
    "a lower height than its headers": (
        lambda offer: changed(offer, height=5),
        OFFER.REJECT,
    ),
}


@pytest.mark.parametrize("name", BAD_OFFERS)
def test_a_bad_offer_is_refused(name: str, source: CometToy, fresh: CometToy) -> None:
    """Nothing is fetched for metadata that doesn't lead to the app_hash; the next may do."""
    change, expected = BAD_OFFERS[name]
    offer = source.offer()
    bad = abci.RequestOfferSnapshot(snapshot=change(offer.snapshot), app_hash=offer.app_hash)
    assert expected == fresh.snapshots.take_offer(bad).result
    fresh.restore_from(source)


def test_another_app_hash_than_consensus_says_is_refused(source: CometToy, fresh: CometToy) -> None:
    """The app_hash is CometBFT's word; the snapshot has to fit it."""
    offer = source.offer()
    bad = abci.RequestOfferSnapshot(snapshot=offer.snapshot, app_hash=b"x" * 32)
    assert OFFER.REJECT == fresh.snapshots.take_offer(bad).result


def test_a_state_root_that_no_header_carries_is_refused(source: CometToy, fresh: CometToy) -> None:
    """The snapshot is refused as a whole with its first piece, before any state is taken."""
    offer = source.offer()
    metadata = metadata_of(offer.snapshot)
    wrong = replace(metadata, state_roots=(b"r" * 32, metadata.state_roots[1]))
    bad = abci.RequestOfferSnapshot(
        snapshot=renamed(offer.snapshot, wrong), app_hash=offer.app_hash
    )
    assert OFFER.ACCEPT == fresh.snapshots.take_offer(bad).result
    assert ANSWER.REJECT_SNAPSHOT == fresh.give(0, source.load(0)).result
    assert ANSWER.ABORT == fresh.give(1, source.load(1)).result
    fresh.restore_from(source)


# Crashes.


def test_a_crash_among_the_pieces_leaves_the_node_as_it_was(
    source: CometToy, fresh: CometToy, tmp_path: Path
) -> None:
    """After each piece but the last a start finds the genesis, and the snapshot is taken anew."""
    offer = source.offer()
    fresh.snapshots.take_offer(offer)
    for index in range(offer.snapshot.chunks - 1):
        fresh.give(index, source.load(index))
        home = tmp_path / f"crash{index}"
        shutil.copytree(fresh.ledger.folder, home)
        again = CometToy(home, interval=INTERVAL)
        assert (0, 0) == (again.ledger.height, again.ledger.first_height)
        assert not (home / "restore").exists()
        again.restore_from(source)
        assert 10 == again.ledger.height
        again.close()


CRASHED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    # What had been moved into its place, and what had been removed.
    "before any step": ((), ()),
    "the old state gone": ((), ("state",)),
    "the state moved": (("state",), ()),
    "the old blocks gone": (("state",), ("blocks",)),
    "all moved": (("state", "blocks", LIGHT_HOPS), ()),
    "old tiles gone": (("state", "blocks", LIGHT_HOPS), ("tiles",)),
    "the mark gone": (("state", "blocks", LIGHT_HOPS), ("tiles", "restore/ready")),
}


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def move(home: Path, *names: str) -> None:
    """Do some of the exchange."""
    for name in names:
        remove(home / name)
        (home / "restore" / name).rename(home / name)


@pytest.mark.parametrize("name", CRASHED)
def test_a_crash_in_the_exchange_is_finished_by_the_next_start(
    name: str, source: CometToy, fresh: CometToy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once all is in, the node is the restored one, whichever step it was stopped at."""
    monkeypatch.setattr(fresh.ledger, "restore", lambda: None)
    offer = source.offer()
    fresh.snapshots.take_offer(offer)
    for index in range(offer.snapshot.chunks):
        fresh.give(index, source.load(index))
    home = tmp_path / "crashed"
    shutil.copytree(fresh.ledger.folder, home)
    moved, removed = CRASHED[name]
    move(home, *moved)
    for gone in removed:
        remove(home / gone)
    again = CometToy(home, interval=INTERVAL)
    assert (10, 11) == (again.ledger.height, again.ledger.first_height)
    assert not (home / "restore").exists()
    copy_blocks(source, again)
    assert facts_of(source) == facts_of(again)
    again.close()


# Taking them.


def test_a_snapshot_is_of_its_height_whatever_comes_after(tmp_path: Path) -> None:
    """Blocks go on while it is written: none waits for it, none gets into it."""
    toy = CometToy(tmp_path / "toy", interval=INTERVAL)
    toy.drive(4)
    toy.apply(toy.sign(Add("before", 1)))
    for _ in range(2):
        toy.apply(toy.sign(Add("after", 1)))
    toy.snapshots.settle()
    toy.drive(3)
    fresh = CometToy(tmp_path / "fresh", interval=INTERVAL)
    fresh.restore_from(toy)
    assert (5, 1, 0) == (fresh.ledger.height, fresh.total("before"), fresh.total("after"))
    fresh.close()
    toy.close()


def test_so_many_snapshots_are_kept(tmp_path: Path) -> None:
    """Of three the two newest; each is offered only once its state roots are final."""
    toy = CometToy(tmp_path / "toy", interval=INTERVAL, kept=2)
    heights = []
    for _ in range(19):
        toy.drive(1)
        heights.append([offer.height for offer in toy.offers()])
    # Block 5 is rooted, block 7 shows it, the light block of 8 makes that final.
    assert [[]] * 7 + [[5]] * 5 + [[10, 5]] * 5 + [[15, 10]] * 2 == heights
    folders = sorted(folder.name for folder in (toy.ledger.folder / "snapshots").iterdir())
    assert [f"{height:020}" for height in (10, 15)] == folders
    assert 10 == toy.snapshots.floor
    toy.close()


def test_a_node_that_keeps_none_takes_none(tmp_path: Path) -> None:
    """With 0 there is no folder."""
    toy = CometToy(tmp_path / "toy", interval=INTERVAL, kept=0)
    toy.drive(9)
    assert [] == toy.offers()
    assert not (toy.ledger.folder / "snapshots").exists()
    toy.close()


def test_snapshots_outlive_a_restart(tmp_path: Path) -> None:
    """What is offered is offered again; one that waits for its proof gets it; half ones go."""
    toy = CometToy(tmp_path / "toy", interval=INTERVAL)
    toy.drive(11)
    light = toy.light
    half = toy.ledger.folder / "snapshots" / f"{20:020}.new"
    half.mkdir()
    (half / "1").write_bytes(b"half")
    toy.close()
    again = CometToy(tmp_path / "toy", interval=INTERVAL)
    again.light = light
    again.follow(toy)
    assert [5] == [offer.height for offer in again.offers()]
    assert not half.exists()
    again.drive(2)
    assert [10, 5] == [offer.height for offer in again.offers()]
    again.close()


def test_what_is_not_kept_is_answered_with_nothing(source: CometToy) -> None:
    """A peer may ask for anything."""
    for height, form, chunk in ((10, 1, 1 << 20), (10, 2, 0), (15, 1, 0), (1 << 60, 1, 0)):
        request = abci.RequestLoadSnapshotChunk(height=height, format=form, chunk=chunk)
        assert b"" == source.snapshots.load(request).chunk


def test_a_quiet_chain_gets_a_header_with_its_new_root(source: CometToy) -> None:
    """Block 7 has nothing on chain two, whose state has changed in block 1: its header says so."""
    quiet = [
        record.height
        for record in source.ledger.iterate_blocks(0)
        for part in record.chains
        if part.chain == "two" and part.header is not None
    ]
    assert [0, 1, 2, 7] == quiet
    pairs = [(key[1:], value) for key, value in state_of(source) if key[0] == 1]
    assert compute_state_root(pairs) == source.ledger.chains["two"].header.state_root


# Old blocks.


def publish(toy: CometToy, height: int) -> None:
    """Do what the keeper of light blocks does for a block of chain one."""
    record = toy.ledger.read_block(height)
    finality = toy.find_finality(record, "one")
    assert finality is not None
    toy.ledger.published["one"] = FinalHeader(
        header=encode(record.chains[0].header), finality=finality
    )


def is_proven(toy: CometToy, height: int, leaf: int) -> bool:
    """Whether a proof of an entry, made by a node, convinces who knows the genesis."""
    bundle = pack_bundle(prove_places(toy.ledger, [Place("one", height, leaf)]))
    trust = Trust((trust_network(toy.genesis),))
    return verify_bundle(bundle, trust).outcome is Outcome.VALID


def test_old_facts_are_not_there_and_new_ones_are_proven(source: CometToy, fresh: CometToy) -> None:
    """A restored node says where it began; what came after, it proves to whoever knows the genesis.

    Its log is long enough for full tiles before and after that height.
    """
    for _ in range(4):
        source.apply(*[source.sign(Add("many", 1)) for _ in range(100)])
    source.drive(5)
    fresh.restore_from(source)
    log = fresh.ledger.chains["one"].log
    assert log.size > TILE_WIDTH
    copy_blocks(source, fresh)
    for _ in range(3):
        envelopes = [source.sign(Add("many", 1)) for _ in range(100)]
        source.apply(*envelopes)
        last = fresh.apply(*envelopes)
    source.drive(2)
    fresh.follow(source)
    copy_blocks(source, fresh)
    assert fresh.ledger.chains["one"].log.find_damaged() == []
    with pytest.raises(NotThere, match="where this node begins"):
        fresh.ledger.read_block(3)
    with pytest.raises(NotThere, match="where this node begins"):
        log.entry(3)
    with pytest.raises(NotThere, match="where this node begins"):
        log.tile(0, 0)
    with pytest.raises(NotThere, match="where this node begins"):
        log.entry_bundle(0)
    publish(fresh, last.height)
    assert is_proven(fresh, last.height, last.chains["one"].first_leaf)


def test_tiles_of_a_restored_node_are_derived_from_its_begin(
    source: CometToy, fresh: CometToy
) -> None:
    """Those it has can be lost; those before its begin are nobody's damage."""
    source.apply(*[source.sign(Add("many", 1)) for _ in range(100)])
    source.drive(8)
    fresh.restore_from(source)
    fresh.follow(source)
    copy_blocks(source, fresh)
    for _ in range(4):
        envelopes = [source.sign(Add("many", 1)) for _ in range(100)]
        source.apply(*envelopes)
        fresh.apply(*envelopes)
    size = fresh.ledger.chains["one"].log.size
    path = size - TILE_WIDTH
    expected = source.ledger.chains["one"].log.entry(path)
    fresh.close()
    shutil.rmtree(fresh.ledger.folder / "tiles")
    again = CometToy(fresh.ledger.folder, interval=INTERVAL)
    assert expected == again.ledger.chains["one"].log.entry(path)
    again.close()


def test_a_state_that_can_t_be_replayed_is_not_lost_silently(
    source: CometToy, fresh: CometToy
) -> None:
    """Without its state folder a restored node can't start, and says what to do."""
    fresh.restore_from(source)
    copy_blocks(source, fresh)
    fresh.close()
    shutil.rmtree(fresh.ledger.folder / "state")
    with pytest.raises(OperatorError, match="join again"):
        CometToy(fresh.ledger.folder, interval=INTERVAL)


def test_old_blocks_are_dropped_by_whole_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left is what a restart needs; proofs of what was dropped are not there."""
    monkeypatch.setattr(ledger_module, "BlockLog", partial(BlockLog, segment_bytes=8_000))
    toy = CometToy(tmp_path / "toy", interval=INTERVAL)
    toy.apply(toy.sign(Add("quiet", 7), chain="two"), chain="two")
    for _ in range(4):
        toy.apply(*[toy.sign(Add("many", 1)) for _ in range(100)])
    toy.drive(25)
    files = len(list((tmp_path / "toy" / "blocks").glob("*.log")))
    assert 0 == toy.ledger.prune(1), "the first file holds that block"
    first = toy.ledger.prune(22)
    assert first == toy.ledger.first_height
    assert 10 < first <= 22
    assert files > len(list((tmp_path / "toy" / "blocks").glob("*.log")))
    assert first == toy.ledger.prune(22), "once more is nothing more"
    with pytest.raises(NotThere, match=f"expected one from {first} on"):
        toy.ledger.read_block(first - 1)
    assert first == next(toy.ledger.iterate_blocks(first)).height
    base = toy.ledger.base
    assert base is not None
    quiet = base.chains[1].header
    assert quiet is not None
    assert (first - 1, toy.ledger.chains["two"].header) == (base.height, quiet)
    before = facts_of(toy)
    toy.close()
    shutil.rmtree(tmp_path / "toy" / "tiles")
    again = CometToy(tmp_path / "toy", interval=INTERVAL)
    assert before == facts_of(again)
    assert first == again.ledger.first_height
    again.follow(toy)
    again.drive(2)
    height = again.ledger.height - 1
    publish(again, height)
    assert is_proven(again, height, again.ledger.chains["one"].header.log_size - 4)
    assert first + 1 == next(again.ledger.block_log.verify())
    again.close()


def test_a_node_never_drops_what_its_state_has_not_taken(tmp_path: Path) -> None:
    """Only what was flushed may go, whatever is asked for."""
    toy = CometToy(tmp_path / "toy", interval=INTERVAL)
    toy.drive(7)
    assert 0 == toy.ledger.prune(1 << 60)
    toy.close()
    again = CometToy(tmp_path / "toy", interval=INTERVAL)
    assert 7 == again.ledger.height
    again.close()
