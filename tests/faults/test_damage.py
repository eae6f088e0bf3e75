"""Torn and flipped bytes in every file of a home: mended, or refused by name; never silently wrong.

What the start can't see without reading everything (a flipped byte deep in the state, in an old
tile or in a row of the read model), the file check names; doing what it says mends the home.
"""

from __future__ import annotations

import functools
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from tests.faults.nursery_door import Nursery
from tests.node_world import (
    BUYERS,
    KEYS,
    SELLERS,
    Clock,
    Market,
    SteppedNode,
    make_market_home,
    make_terms,
)

from hansa.core import ledger as ledger_module
from hansa.core.errors import OperatorError
from hansa.interface.http.tokens import TokenStore
from hansa.node.composition import GenesisTerms
from hansa.node.fsck import check_home
from hansa.storage.blocklog import BlockLog

ROUNDS = 1
"""Places tried for each kind of damage to each kind of file."""
SOAK_ROUNDS = 60
SEGMENT_BYTES = 40_000
SECTOR = 512

Damage = Callable[[Path, random.Random], None]


def flip_bit(path: Path, source: random.Random) -> None:
    """Turn one bit over."""
    data = bytearray(path.read_bytes())
    data[source.randrange(len(data))] ^= 1 << source.randrange(8)
    path.write_bytes(data)


def cut_short(path: Path, source: random.Random) -> None:
    """Leave only a beginning."""
    data = path.read_bytes()
    path.write_bytes(data[: source.randrange(len(data))])


def empty(path: Path, _: random.Random) -> None:
    """Leave nothing in it."""
    path.write_bytes(b"")


def lengthen(path: Path, source: random.Random) -> None:
    """Add bytes that belong to nothing."""
    path.write_bytes(path.read_bytes() + source.randbytes(source.randint(1, 2 * SECTOR)))


def zero_sector(path: Path, source: random.Random) -> None:
    """Lose one sector, as a disk does."""
    data = bytearray(path.read_bytes())
    start = source.randrange(len(data)) // SECTOR * SECTOR
    size = len(data[start : start + SECTOR])
    data[start : start + SECTOR] = bytes(size)
    path.write_bytes(data)


def remove(path: Path, _: random.Random) -> None:
    """Take it away."""
    path.unlink()


DAMAGES: Final[tuple[Damage, ...]] = (flip_bit, cut_short, empty, lengthen, zero_sector, remove)


@dataclass(frozen=True)
class FileClass:
    """Files of one kind and what may come of damage to them."""

    name: str
    pattern: str
    is_home_stopped: bool = True
    """Whether the home was left in order, or by a node that was killed before it flushed."""
    only: str = "any"
    """``last`` or ``but last`` of the files, by name."""
    may_refuse: tuple[str, ...] = ()
    """One of these stands in every refusal to start; where none are, a start is always possible."""
    remedy: str = ""
    """What the file check's finding or the refusal says to remove; relative to the home."""
    may_lose_tail: bool = False


CLASSES: Final = (
    FileClass("earlier segment", "ledger/blocks/*.log", only="but last", may_refuse=(".log",)),
    FileClass("last segment", "ledger/blocks/*.log", only="last", may_refuse=("blocks", ".log")),
    FileClass(
        "last segment, killed",
        "ledger/blocks/*.log",
        is_home_stopped=False,
        only="last",
        may_refuse=("blocks", ".log"),
        may_lose_tail=True,
    ),
    FileClass("index of a segment", "ledger/blocks/*.idx"),
    FileClass("state", "ledger/state/data.mdb", may_refuse=("state",), remedy="ledger/state"),
    FileClass("state's lock", "ledger/state/lock.mdb"),
    FileClass("tile", "ledger/tiles/trade/tile/0/*", remedy="ledger/tiles"),
    FileClass("entry bundle", "ledger/tiles/trade/tile/entries/*", remedy="ledger/tiles"),
    FileClass("read model", "readmodel.db", remedy="readmodel.db"),
    FileClass("genesis", "genesis.bin", may_refuse=("genesis",)),
    FileClass("readable genesis", "genesis.json"),
    FileClass("key store", "keys.json", may_refuse=("keys.json", "key 'validator'")),
    FileClass("configuration", "config.json", may_refuse=("config.json",)),
    FileClass("lock", "lock"),
)


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Two homes with full tiles and several segments: stopped in order (True), and killed."""
    folder = tmp_path_factory.mktemp("homes")
    with pytest.MonkeyPatch.context() as patch:
        small = functools.partial(BlockLog, segment_bytes=SEGMENT_BYTES)
        patch.setattr(ledger_module, "BlockLog", small)
        node = make_busy_node(folder / "killed")
        node.crash()
        shutil.copytree(folder / "killed", folder / "stopped")
        node = SteppedNode(folder / "stopped", keys=KEYS.store, clock=Clock())
        node.stop()
    with BlockLog(folder / "stopped" / "ledger" / "blocks") as log:
        for _ in log.verify():  # Writes the indexes.
            pass
    return {True: folder / "stopped", False: folder / "killed"}


def make_busy_node(home: Path) -> SteppedNode:
    """Make a node that has flushed some of its blocks and not the last."""
    make_market_home(home, terms=GenesisTerms(state_root_interval=20, state_root_delay=5))
    node = SteppedNode(home, keys=KEYS.store, clock=Clock())
    market = Market(node)
    market.open()
    for number in range(12):
        transfers = [
            market.sign("trade", BUYERS[0], market.make_transfer(BUYERS[1], 1, number * 50 + each))
            for each in range(50)
        ]
        node.submit_batch("trade", transfers).result()
    for seller in SELLERS:
        market.send("trade", BUYERS[2], market.make_place(seller, make_terms(Clock().now_ms)))
    return node


def find_files(home: Path, kind: FileClass) -> list[Path]:
    """Return the files of a class."""
    files = sorted(path for path in home.glob(kind.pattern) if path.is_file())
    chosen = {"last": files[-1:], "but last": files[:-1], "any": files}[kind.only]
    assert chosen, f"a home without a {kind.name}"
    return chosen


def copy_home(home: Path, copy: Path) -> Path:
    """Return a copy that may be damaged."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(home, copy)
    return copy


def get_height(home: Path) -> int:
    """Return how many blocks a home holds."""
    with BlockLog(home / "ledger" / "blocks", read_only=True) as log:
        return log.height


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.name)
def test_damaged_file(
    kind: FileClass, damage: Damage, homes: dict[bool, Path], nursery: Nursery,
    tmp_path: Path, soak: bool, seed: int,
) -> None:  # fmt: skip
    """A damaged file is mended, refused by name, or found by the check; then mended as told."""
    source = random.Random(f"{seed} {kind.name} {damage.__name__}")
    whole = homes[kind.is_home_stopped]
    for _ in range(SOAK_ROUNDS if soak else ROUNDS):
        home = copy_home(whole, tmp_path / "home")
        damage(source.choice(find_files(home, kind)), source)
        said = nursery.examine(home)
        story = f"HANSA_SEED={seed}, {kind.name}, {damage.__name__}: {said}"
        assert said[-1] == "dead 0", story
        if said[0].startswith("refused"):
            assert any(words in said[0] for words in kind.may_refuse), story
        elif said[1] == "sound":
            if not kind.may_lose_tail:
                assert get_height(whole) == get_height(home), story
            continue
        else:
            assert kind.remedy, story
            assert kind.remedy.split("/")[-1].split(".")[0] in said[1].replace(" ", ""), story
        if kind.remedy:
            take_remedy(home / kind.remedy)
            assert ["opened", "sound", "dead 0"] == nursery.examine(home), story
            assert get_height(whole) == get_height(home), story


@pytest.mark.parametrize("damage", DAMAGES[:-1], ids=lambda damage: damage.__name__)
def test_damaged_tokens(damage: Damage, tmp_path: Path, soak: bool, seed: int) -> None:
    """A damaged list of tokens is refused by name, or holds no token that was never made."""
    source = random.Random(f"{seed} {damage.__name__}")
    for _ in range(SOAK_ROUNDS if soak else 10):
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()
        store = TokenStore(tmp_path)
        secrets = [store.new(["read"], account="gateway", now_ms=0).secret for _ in range(3)]
        damage(store.path, source)
        try:
            left = TokenStore(tmp_path).list_tokens()
        except OperatorError as error:
            assert str(store.path) in str(error)  # noqa: PT017 - reading well is right, too
            continue
        assert len(left) <= len(secrets)
        for token in left:
            assert token.scopes


def take_remedy(path: Path) -> None:
    """Remove what can be derived again."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def test_undamaged_homes_are_sound(
    homes: dict[bool, Path], nursery: Nursery, tmp_path: Path
) -> None:
    """Both homes start and are sound, so that whatever is found elsewhere is the damage."""
    for whole in homes.values():
        home = copy_home(whole, tmp_path / "home")
        assert ["opened", "sound", "dead 0"] == nursery.examine(home)
        assert check_home(home).is_sound
