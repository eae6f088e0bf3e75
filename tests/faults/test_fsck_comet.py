"""The file check of a node on CometBFT: its light blocks say what is final."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace
from tests import comet_world
from tests.faults.test_fsck_later import World

from hansa.core.codec import encode
from hansa.core.lightblock import LightBlock, decode_light_block
from hansa.core.readmodel import ReadModel
from hansa.node.composition import VIEWS
from hansa.node.fsck import check_home
from hansa.storage.blocklog import BlockLog
from hansa.storage.sql import open_engine

BLOCKS = 7


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A node that began with the genesis and stands at block 7; its newest light block is of 7."""
    made = World(tmp_path)
    made.make_blocks(0, BLOCKS)
    ledger = made.ledgers[0]
    hosted = {module.name for chain in ledger.chains.values() for module in chain.rulebook.modules}
    engine = open_engine(made.homes[0] / "readmodel.db")
    model = ReadModel(
        engine, ledger.chains, {name: view for name, view in VIEWS.items() if name in hosted}
    )
    model.project([[*ledger.iterate_blocks(0)]])
    model.finish_rebuild()
    engine.dispose()
    keep(made, [made.make_light_block(ledger.read_block(at)) for at in range(BLOCKS)])
    made.close()
    return made


def keep(world: World, blocks: list[LightBlock]) -> None:
    """Write light blocks as their keeper does, in place of those there."""
    folder = world.homes[0] / "ledger" / "light"
    for path in folder.iterdir() if folder.exists() else ():
        path.unlink()
    with BlockLog(folder, first_height=1) as log:
        for block in blocks:
            log.append(block.height, encode(block))
        log.sync()


def read(world: World) -> list[LightBlock]:
    """The light blocks that are kept."""
    with BlockLog(world.homes[0] / "ledger" / "light", read_only=True) as log:
        return [decode_light_block(data) for _, data in log.iterate(1)]


def test_a_sound_home_is_sound_though_its_last_block_is_not_final(world: World) -> None:
    """Nothing can make it final before the next one."""
    report = check_home(world.homes[0])
    assert ([], BLOCKS + 1) == (report.findings, report.blocks)


def test_a_home_whose_light_blocks_lag_is_sound(world: World) -> None:
    """They are fetched from CometBFT when it is there again."""
    keep(world, read(world)[:3])
    assert [] == check_home(world.homes[0]).findings


def test_no_byte_of_the_light_blocks_can_be_changed_unseen(world: World) -> None:
    """A flipped bit in every part of the file, the last record included."""
    folder = world.homes[0] / "ledger" / "light"
    (path,) = (one for one in folder.iterdir() if one.stat().st_size)
    good = path.read_bytes()
    step = max(1, len(good) // 12)
    for place in [*range(0, len(good), step), len(good) - 1, len(good) - 40]:
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        assert check_home(world.homes[0]).findings, f"byte {place} of {len(good)}"
    path.write_bytes(good)
    assert [] == check_home(world.homes[0]).findings


def test_light_blocks_of_strangers_or_of_another_history_are_found(world: World) -> None:
    """Whatever their digests say: the validators of the genesis have not signed them."""
    blocks = read(world)
    stranger = comet_world.make_block(
        3,
        comet_world.make_set(10, 10, 10, 10, first=50),
        chain_id=world.chain_id,
        time_ns=blocks[2].header.time_ns,
        app_hash=blocks[2].header.app_hash,
    )
    other = comet_world.make_block(
        3,
        world.validators,
        chain_id=world.chain_id,
        time_ns=blocks[2].header.time_ns,
        app_hash=b"x" * 32,
    )
    cases = {
        "a stranger's": [*blocks[:2], stranger, *blocks[3:]],
        "another hash": [*blocks[:2], other, *blocks[3:]],
        "a vote that is no vote": [
            *blocks[:2],
            replace(blocks[2], commit=replace(blocks[2].commit, round=1)),
            *blocks[3:],
        ],
    }
    for name, changed in cases.items():
        keep(world, changed)
        assert 1 == len(check_home(world.homes[0]).findings), name
