"""Blocks come out the same on either engine: same core, same rules, same network hash."""

from __future__ import annotations

import random
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from tests.comet_member import Empower, Member
from tests.comet_world import make_set
from tests.simulation.simulator import Simulator
from tests.toy_chain import CHAINS as TOY_CHAINS
from tests.toy_chain import Add, Post, Remind, Spoil, Toy

from hansa.core.block import BlockRecord
from hansa.core.codec import encode
from hansa.core.errors import OperatorError
from hansa.core.finality import CheckpointSigner, trust_network, verify_header
from hansa.core.genesis import Genesis
from hansa.core.keys import verify_signatures
from hansa.core.ledger import Ledger, NetworkBlock
from hansa.core.module import Rulebook
from hansa.core.transaction import Message
from hansa.network.comet.application import Application
from hansa.network.comet.bundle import Item, pack
from hansa.network.comet.judged import Judged
from hansa.network.comet.proto.abci import types_pb2 as abci
from hansa.network.comet.snapshots import Snapshots
from hansa.node.composition import make_rulebook

SIGNER = CheckpointSigner(b"s" * 32)
BUNDLE = 3
"""Transactions in a bundle: a block has several, of mixed chains."""


class Follower:
    """A node's application, asked as CometBFT asks it, in one thread."""

    def __init__(self, folder: Path, genesis: Genesis, rulebooks: Mapping[str, Rulebook]) -> None:
        self.ledger = Ledger(folder, genesis, rulebooks, None)
        self._threads = ThreadPoolExecutor(1)
        self._snapshots = Snapshots(self.ledger, 0)
        self._application = Application(
            self.ledger,
            Judged(self.ledger, verify_signatures),
            self._snapshots,
            execution=self._threads,
            checking=self._threads,
            on_commit=self._take,
            on_misbehaviour=lambda _: None,
            retained_height=lambda _: 0,
        )
        self.blocks: list[NetworkBlock] = []

    def _take(self, block: NetworkBlock, _: float) -> None:
        self.blocks.append(block)

    def decide(self, record: BlockRecord, lot: random.Random) -> bytes:
        """Have the transactions of a block in one of CometBFT; returns the network hash.

        Those of a chain keep their order; how the chains are mixed is left to chance.
        """
        waiting = {part.chain: list(part.envelopes) for part in record.chains if part.envelopes}
        items: list[Item] = []
        while waiting:
            chain = lot.choice(sorted(waiting))
            items.append(Item(chain, waiting[chain].pop(0)))
            if not waiting[chain]:
                del waiting[chain]
        bundles = [
            pack(first, items[first : first + BUNDLE]) for first in range(0, len(items), BUNDLE)
        ]
        request = abci.RequestFinalizeBlock(txs=bundles, height=record.height)
        request.time.seconds, millis = divmod(record.time_ms, 1000)
        request.time.nanos = millis * 1_000_000
        response = self._application.finalize_block(request).result()
        self._application.commit(abci.RequestCommit()).result()
        return bytes(response.app_hash)

    def close(self) -> None:
        """Let go of the files."""
        self._snapshots.close()
        self._threads.shutdown()
        self.ledger.close()


def without_finality(record: BlockRecord) -> list[tuple[Any, ...]]:
    """What a block holds, but for what makes it final, which differs."""
    return [
        (part.chain, part.app_hash, part.header, part.envelopes, part.receipts, part.pages)
        for part in record.chains
    ]


def check_same(one: Ledger, other: Ledger) -> None:
    """The same blocks, the same state, the same logs."""
    assert one.height == other.height
    for mine, theirs in zip(one.iterate_blocks(0), other.iterate_blocks(0), strict=True):
        assert (mine.height, mine.time_ms, mine.network_hash) == (
            theirs.height, theirs.time_ms, theirs.network_hash,
        )  # fmt: skip
        assert without_finality(mine) == without_finality(theirs), f"block {mine.height}"
    for ledger in (one, other):
        ledger.flush()
    with one.store.snapshot() as state, other.store.snapshot() as other_state:
        assert list(state.scan(b"")) == list(other_state.scan(b""))
    for name, chain in one.chains.items():
        assert chain.log.root() == other.chains[name].log.root()


def test_what_solo_has_decided_comes_out_the_same_on_comet(tmp_path: Path, seed: int) -> None:
    """The whole market: orders, shipments, packets between chains, deadlines, refusals."""
    print(f"HANSA_SEED={seed}")
    simulator = Simulator(tmp_path / "solo", seed)
    for _ in range(12):
        simulator.step()
    simulator.run_relay_until_quiet()
    solo = simulator.node.ledger
    solo.block_log.sync()
    rulebooks = {name: make_rulebook(name) for name in solo.chains}
    follower = Follower(tmp_path / "comet", solo.genesis, rulebooks)
    lot = random.Random(seed)
    for record in solo.iterate_blocks(1):
        assert record.network_hash == follower.decide(record, lot), f"block {record.height}"
    check_same(solo, follower.ledger)
    assert any(part.envelopes for record in solo.iterate_blocks(1) for part in record.chains)
    follower.close()
    simulator.node.stop()


def play(member: Member, seed: int) -> None:
    """Blocks on CometBFT: some empty, some with deadlines, pages, validators and refusals."""
    lot = random.Random(seed)
    for number in range(60):
        member.time_ms += lot.randrange(1, 2_000)
        bundles = []
        for _ in range(lot.randrange(3)):
            chain = lot.choice(TOY_CHAINS)
            signed = [
                member.sign(_choose(member, lot), chain=chain) for _ in range(lot.randrange(1, 4))
            ]
            bundles.append(member.bundle(*signed, chain=chain))
        if number % 7 == 0:
            bundles.append(b"no bundle")
        member.decide(*bundles)


def _choose(toy: Toy, lot: random.Random) -> Message:
    options = (
        Add("a", lot.randrange(-20, 20)),
        Spoil("x"),
        Post("elsewhere", "hello"),
        Remind(toy.time_ms + lot.randrange(1, 5_000), f"{lot.random()}"),
        Empower(make_set(1, first=lot.randrange(9))[0].key, lot.randrange(1, 9)),
    )
    return lot.choice(options)


def test_what_comet_has_decided_comes_out_the_same_on_solo(tmp_path: Path, seed: int) -> None:
    """Its block log, replayed through a ledger whose one validator signs each header."""
    print(f"HANSA_SEED={seed}")
    member = Member(tmp_path / "comet")
    member.start()
    play(member, seed)
    rulebooks = {name: chain.rulebook for name, chain in member.ledger.chains.items()}
    solo = Ledger(tmp_path / "solo", member.genesis, rulebooks, SIGNER)
    for record in member.ledger.iterate_blocks(1):
        submissions = {
            part.chain: [
                (solo.chains[part.chain].decode_transaction(envelope), True)
                for envelope in part.envelopes
            ]
            for part in record.chains
        }
        block = solo.apply(record.time_ms, submissions)
        assert record.network_hash == block.record.network_hash, f"block {record.height}"
        solo.commit(block)
    check_same(member.ledger, solo)
    trusted = replace(trust_network(member.genesis), consensus=None)
    for record in solo.iterate_blocks(0):
        for part in record.chains:
            if part.header is not None:
                verify_header(encode(part.header), part.finality, part.chain, trusted)
    solo.close()
    member.close()


def test_another_history_is_told_from_this_one(tmp_path: Path) -> None:
    """The comparison does see a transaction more."""
    member = Member(tmp_path / "comet")
    member.start()
    member.decide(member.bundle(member.sign(Add("a", 1))))
    rulebooks = {name: chain.rulebook for name, chain in member.ledger.chains.items()}
    solo = Ledger(tmp_path / "solo", member.genesis, rulebooks, SIGNER)
    record = replace(member.ledger.read_block(1), time_ms=member.ledger.time_ms + 1)
    with pytest.raises(OperatorError, match="expected network hash"):
        solo.replay(record)
    solo.close()
    member.close()
