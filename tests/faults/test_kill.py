"""Nodes that are killed at random moments: everything acknowledged is there, once, and sound."""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.faults.nursery_door import Nursery
from tests.node_world import (
    KEYS,
    Market,
    find_unsound_books,
    get_network_hashes,
    iterate_digests,
    make_market_home,
    short_hash,
)

from hansa.node.composition import GenesisTerms
from hansa.node.fsck import check_home
from hansa.node.node import Node, system_clock

ROUNDS = 20
SOAK_ROUNDS = 1_000
ROUNDS_OF_HOME = 20
"""A home is begun anew after so many, lest checking it takes longer than making it."""
CHECKED_EVERY = 7
OPENING_S = 0.15
LOAD_S = 0.35


@dataclass
class Promise:
    """What a node has said before it died."""

    acknowledged: dict[str, tuple[str, int, int, str]] = field(default_factory=dict)
    """By digest: chain, height, leaf, hash of the receipt."""
    blocks: dict[int, str] = field(default_factory=dict)

    def hear(self, line: str) -> None:
        """Take a line that the node said."""
        kind, *words = line.split()
        if kind == "ack":
            chain, digest, height, leaf, receipt = words
            place = (chain, int(height), int(leaf), receipt)
            assert self.acknowledged.setdefault(digest, place) == place, f"{digest} said twice"
        elif kind == "block":
            assert self.blocks.setdefault(int(words[0]), words[1]) == words[1]


def make_home(home: Path) -> None:
    """Make a home whose market is open and whose products trade has heard of."""
    terms = GenesisTerms(state_root_interval=10, state_root_delay=3)
    make_market_home(home, time_ms=system_clock(), terms=terms)
    with Node(home, keys=KEYS.store) as node:
        Market(node).open()
    with Node(home, keys=KEYS.store) as node:  # The relay carries what is left before it stops.
        node.wait_projected(node.ledger.height)


def check_kept(home: Path, promise: Promise) -> None:
    """Restart a copy of the home, so that the next node meets what this one's death left."""
    with Node(home, keys=KEYS.store) as node:
        for height, network_hash in promise.blocks.items():
            assert network_hash == node.read_block(height).network_hash.hex()
        for digest, (chain, height, leaf, receipt) in promise.acknowledged.items():
            row = node.read_model.get_transaction(digest)
            assert row is not None, f"{digest}, acknowledged at height {height}, is gone"
            assert (chain, height, leaf) == (row["chain"], row["height"], row["leaf"])
            assert receipt == find_receipt(node, chain, height, leaf)
        assert find_unsound_books(node) is None


def find_receipt(node: Node, chain: str, height: int, leaf: int) -> str:
    """Return what stands for the receipt at a place of the log."""
    part = next(part for part in node.read_block(height).chains if part.chain == chain)
    assert part.header is not None
    return short_hash(part.receipts[leaf - (part.header.log_size - len(part.receipts))])


def check_sound(home: Path) -> None:
    """Have everything derived again, and each transaction found once."""
    report = check_home(home)
    assert report.findings == []
    with Node(home, keys=KEYS.store) as node:
        digests = list(iterate_digests(node))
        assert len(digests) == len(set(digests))
        hashes = get_network_hashes(node)
    shutil.rmtree(home / "ledger" / "state")
    # A log of fewer entries than fill a tile has none.
    shutil.rmtree(home / "ledger" / "tiles", ignore_errors=True)
    (home / "readmodel.db").unlink()
    with Node(home, keys=KEYS.store) as node:
        assert node.ledger.replayed + 1 >= len(hashes)
        assert hashes == get_network_hashes(node)[: len(hashes)]
        assert find_unsound_books(node) is None


def copy_home(home: Path, copy: Path) -> Path:
    """Return a copy that may be worked on."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(home, copy)
    return copy


@pytest.mark.timeout(0)
@pytest.mark.slow
def test_killed_nodes_keep_what_they_acknowledged(
    tmp_path: Path, nursery: Nursery, soak: bool, seed: int
) -> None:
    """Killed while opening, replaying, flushing and working, a node loses nothing acknowledged."""
    print(f"HANSA_SEED={seed}")
    source = random.Random(seed)
    home, copy = tmp_path / "home", tmp_path / "copy"
    rounds = SOAK_ROUNDS if soak else ROUNDS
    acknowledged = 0
    for number in range(rounds):
        if number % ROUNDS_OF_HOME == 0:
            shutil.rmtree(home, ignore_errors=True)
            make_home(home)
        promise = Promise()
        after, longest_s = source.choice([("opening", OPENING_S), ("ack", LOAD_S)])
        delay_s = source.uniform(0, longest_s)
        nursery.run_and_kill(home, source.getrandbits(32), promise.hear, after, delay_s)
        check_kept(copy_home(home, copy), promise)
        acknowledged += len(promise.acknowledged)
        is_last = number % ROUNDS_OF_HOME == ROUNDS_OF_HOME - 1
        if is_last or number % CHECKED_EVERY == CHECKED_EVERY - 1:
            check_sound(copy)
    print(f"{rounds} kills, {acknowledged} transactions acknowledged")
    assert acknowledged > rounds
