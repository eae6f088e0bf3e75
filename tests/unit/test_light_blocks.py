"""Light blocks kept by a node lead whoever knows the genesis to every block it has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.comet_network import CometWorld
from tests.comet_world import make_set

from hansa.core.block import ChainRecord, decode_header
from hansa.core.codec import encode
from hansa.core.finality import (
    MAX_HOPS,
    decode_consensus_finality,
    make_consensus_finality,
    shorten_finality,
    verify_final,
    verify_header,
)
from hansa.core.validatorset import Validator
from hansa.network.comet.lightblocks import LightBlocks
from hansa.network.comet.rpc import RpcClient
from hansa.storage.blocklog import BlockLog

FIRST = make_set(10, 10, 10, 10, first=0)
SECOND = make_set(10, 10, 10, 10, first=10)
THIRD = make_set(10, 10, 10, 10, first=20)
NOBODY = "127.0.0.1:1"
"""Where no CometBFT answers: what is kept has to do."""

HISTORIES: dict[str, Sequence[tuple[Validator, ...]]] = {
    "nobody changes": (),
    "one by one": [make_set(10, 10, 10, 10, first=number) for number in range(1, 9)],
    "all at once": (SECOND, THIRD),
    "all at once and back": (SECOND, FIRST, THIRD, FIRST, SECOND),
}


def make_world(folder: Path, sets: Sequence[tuple[Validator, ...]]) -> CometWorld:
    """A network whose validators change so, with a letter between any two changes."""
    world = CometWorld(folder, FIRST)
    world.run("product", world.letter("first"))
    for validators in sets:
        world.change(validators)
        world.run("product", world.letter("next"))
        world.advance(1)
    with BlockLog(world.ledger.folder / "light", first_height=1) as log:
        # The last block's own light block is CometBFT's to make.
        for block in world.blocks[: world.ledger.height]:
            log.append(block.height, encode(block))
        log.sync()
    world.ledger.published.clear()
    return world


@pytest.mark.parametrize("name", HISTORIES)
def test_every_final_block_is_believed_by_who_knows_the_genesis(tmp_path: Path, name: str) -> None:
    """And the newest of each chain is published at the start; the last block is not final."""
    world = make_world(tmp_path, HISTORIES[name])
    rpc = RpcClient(NOBODY)
    kept = LightBlocks(world.ledger, rpc)
    kept.start()
    try:
        for height in range(world.ledger.height):
            record = world.ledger.read_block(height)
            for part in record.chains:
                if part.header is not None:
                    finality = kept.find_finality(record, part.chain)
                    assert finality is not None
                    verify_header(encode(part.header), finality, part.chain, world.trusted)
        last = world.ledger.read_block(world.ledger.height)
        assert kept.find_finality(last, "product") is None
        assert {"anchor", "product", "trade"} == set(world.ledger.published)
        newest = world.ledger.published["product"]
        header = verify_header(newest.header, newest.finality, "product", world.trusted)
        assert decode_header(newest.header) == header
    finally:
        kept.stop()
        rpc.close()
        world.close()


def test_hops_are_no_more_than_needed(tmp_path: Path) -> None:
    """None while those trusted still have a third; a relay leaves out what a client has passed."""
    hops = {}
    for name in ("nobody changes", "one by one", "all at once"):
        world = make_world(tmp_path / name, HISTORIES[name])
        rpc = RpcClient(NOBODY)
        kept = LightBlocks(world.ledger, rpc)
        kept.start()
        newest = world.ledger.published["product"]
        proof = decode_consensus_finality(newest.finality)
        hops[name] = len(proof.hops) - 1
        client = world.trusted
        for hop in proof.hops[:-1]:
            short = shorten_finality(newest.finality, hop.height)
            assert len(short) < len(newest.finality)
            names = sorted(world.ledger.chains)
            assert proof.index == names.index("product")
            app_hashes = {part.chain: part.app_hash for part in _record_of(world, hop.height)}
            step = make_consensus_finality([hop], app_hashes, "product")
            _, client = verify_final(_header_at(world, hop.height), step, "product", client)
            verify_header(newest.header, short, "product", client)
        kept.stop()
        rpc.close()
        world.close()
    assert 0 == hops["nobody changes"]
    assert 2 == hops["all at once"]
    assert 0 < hops["one by one"] < len(HISTORIES["one by one"]) < MAX_HOPS


def _record_of(world: CometWorld, height: int) -> tuple[ChainRecord, ...]:
    return world.ledger.read_block(height - 1).chains


def _header_at(world: CometWorld, height: int) -> bytes:
    """Product's header in force before a height."""
    parts = [part for part in world.parts("product") if part.header is not None]
    headers = [part.header for part in parts if part.header is not None]
    return encode(next(one for one in reversed(headers) if one.height < height))


def test_a_damaged_file_is_fetched_again(tmp_path: Path) -> None:
    """What was kept of it is thrown away with it."""
    world = make_world(tmp_path, ())
    folder = world.ledger.folder / "light"
    (path,) = (one for one in folder.iterdir() if one.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(bytes(data))
    rpc = RpcClient(NOBODY)
    kept = LightBlocks(world.ledger, rpc)
    kept.start()
    assert 0 == kept.height
    assert {} == world.ledger.published
    kept.stop()
    rpc.close()
    world.close()
