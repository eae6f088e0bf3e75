"""The stored log: paths, tiles of every width, staging, the edge, and damaged files."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from hansa.core.merkle import compute_root, leaf_hash
from hansa.core.tilelog import (
    ENTRIES,
    MAX_ENTRY_BYTES,
    EdgeError,
    NotInLog,
    StaleStage,
    TileDamaged,
    TileLog,
    TileNotKept,
    parse_tile_path,
    tile_path,
)
from hansa.storage.tiles import TileConflict, TileStore

RECORDS = [number.to_bytes(4, "big") for number in range(1_000)]
HASHES = [leaf_hash(record) for record in RECORDS]


class FailingStore(TileStore):
    """A store on a disk that takes a number of files and is full then."""

    room = 0

    def write(self, path: str, data: bytes) -> None:
        """Write while there is room."""
        if self.room == 0:
            raise OSError(28, "No space left on device")
        self.room -= 1
        super().write(path, data)


@pytest.fixture
def store(tmp_path: Path) -> TileStore:
    """An empty folder of tiles."""
    return TileStore(tmp_path)


@pytest.fixture
def log(store: TileStore) -> TileLog:
    """A log of a thousand entries: three full tiles, and a partial one of 232."""
    log = TileLog(store)
    log.append(RECORDS)
    return log


PATHS = {
    "tile/0/000": (0, 0, 256),
    "tile/0/x001/x234/067": (0, 1_234_067, 256),
    "tile/0/x001/067": (0, 1_067, 256),
    "tile/63/999.p/1": (63, 999, 1),
    "tile/entries/x001/000.p/255": (ENTRIES, 1_000, 255),
}


@pytest.mark.parametrize(("path", "named"), PATHS.items())
def test_paths_are_those_of_the_specification(path: str, named: tuple[int, int, int]) -> None:
    """A path and what it names are each other's inverse."""
    assert path == tile_path(*named)
    assert named == parse_tile_path(path)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "tile",
        "/tile/0/000",
        "tile/0/000/",
        "tile/0/0",
        "tile/0/0000",
        "tile/00/000",
        "tile/64/000",
        "tile/-1/000",
        "tile/data/000",
        "tile/8/0/000",
        "tile/0/x000/001",
        "tile/0/001/001",
        "tile/0/x001",
        "tile/0/000.p/0",
        "tile/0/000.p/01",
        "tile/0/000.p/256",
        "tile/0/000.p/",
        "tile/0/000.p",
        "tile/0/../000",
        "tile/0/000\n",
        "tile/0/\u0660\u0660\u0660",
        "tile/0/" + "x001/" * 5_000 + "001",
    ],
)
def test_other_paths_are_refused(path: str) -> None:
    """What is not the one form of a tile path names no tile."""
    with pytest.raises(ValueError, match="tile"):
        parse_tile_path(path)


@pytest.mark.parametrize(
    ("level", "index", "width", "text"),
    [
        (64, 0, 1, "level from 0 to 63, got 64"),
        (-1, 0, 1, "level from 0 to 63, got -1"),
        (0, -1, 1, "index of 0 or more, got -1"),
        (0, 0, 0, "width from 1 to 256, got 0"),
        (0, 0, 257, "width from 1 to 256, got 257"),
    ],
)
def test_no_path_is_made_for_what_is_no_tile(level: int, index: int, width: int, text: str) -> None:
    """A path is only made within the bounds of the specification."""
    with pytest.raises(ValueError, match=text):
        tile_path(level, index, width)


def test_tiles_hold_the_hashes_at_every_width(log: TileLog) -> None:
    """Full tiles, the partial tile and each narrower one are served, and nothing beyond."""
    for number, known in ((0, 256), (2, 256), (3, 232)):
        for width in (1, 100, known):
            start = number * 256
            expected = b"".join(HASHES[start : start + width])
            assert expected == log.tile(0, number, width)
    roots = [compute_root(HASHES[start : start + 256]) for start in (0, 256, 512)]
    assert b"".join(roots) == log.tile(1, 0, 3)
    beyond = [(0, 3, 233), (0, 4, 1), (1, 0, 4), (2, 0, 1), (63, 0, 1), (64, 0, 1)]
    nonsense = [(0, 0, 0), (0, 0, 257), (0, -1, 1), (-1, 0, 1)]
    assert [None] * 10 == [log.tile(*named) for named in beyond + nonsense]


def test_bundles_hold_the_entries_at_every_width(log: TileLog) -> None:
    """Entries are framed by their length in 16 bits, in bundles as wide as the hash tiles."""
    for number, width in ((0, 1), (1, 256), (2, 100), (3, 232), (3, 5)):
        records = RECORDS[number * 256 : number * 256 + width]
        assert b"".join(b"\0\x04" + record for record in records) == log.entry_bundle(number, width)
    assert [None] * 4 == [log.entry_bundle(*named) for named in ((3, 233), (4, 1), (-1, 1), (0, 0))]


def test_full_tiles_are_files_at_their_paths(log: TileLog, tmp_path: Path) -> None:
    """The folder holds what the log serves, and no partial or unfinished file."""
    files = sorted(
        str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()
    )
    expected = [tile_path(level, n) for level in (0, ENTRIES) for n in range(3)]
    assert expected == files
    for number in range(3):
        assert log.tile(0, number) == (tmp_path / tile_path(0, number)).read_bytes()


def test_a_tree_of_256_has_a_full_tile_and_one_of_width_one_above(store: TileStore) -> None:
    """The example of tlog-tiles, "Partial Tiles"."""
    log = TileLog(store)
    log.append(RECORDS[:256])
    assert b"".join(HASHES[:256]) == log.tile(0, 0)
    assert log.root() == log.tile(1, 0, 1)
    assert log.tile(0, 1, 1) is None


def test_staged_entries_are_seen_by_nobody(log: TileLog, tmp_path: Path) -> None:
    """Staging computes what would be and changes nothing, on disk or in memory."""
    before = (log.size, log.root(), log.edge(), sorted(tmp_path.rglob("*")))
    staged = log.stage(RECORDS[:30])
    assert (1_000, 1_030) == (staged.first, staged.size)
    assert compute_root(HASHES + HASHES[:30]) == staged.root
    assert before == (log.size, log.root(), log.edge(), sorted(tmp_path.rglob("*")))
    assert 1_000 == log.commit(staged)
    assert (staged.size, staged.root) == (log.size, log.root())


def test_entries_staged_before_an_append_are_stale(log: TileLog) -> None:
    """Committing to another edge than the one staged on would fork the log."""
    staged = log.stage([b"a"])
    log.append([b"b"])
    with pytest.raises(StaleStage, match="present edge, size 1001, got some staged at size 1000"):
        log.commit(staged)
    with pytest.raises(StaleStage):
        TileLog(TileStore(Path())).commit(staged)


@pytest.mark.parametrize("room", range(6))
def test_a_full_disk_leaves_the_log_as_it_was(tmp_path: Path, room: int) -> None:
    """Whichever file fails, nothing is appended, and the same commit works once there is room."""
    store = FailingStore(tmp_path)
    store.room = room
    log = TileLog(store)
    staged = log.stage(RECORDS)
    with pytest.raises(OSError, match="No space left"):
        log.commit(staged)
    assert 0 == log.size
    store.room = 6
    assert 0 == log.commit(staged)
    assert compute_root(HASHES) == log.root()


def test_replay_from_an_older_edge_finds_its_own_tiles(store: TileStore, log: TileLog) -> None:
    """After a crash the same entries are appended again, in whatever batches."""
    older = TileLog(store)
    replayed = TileLog(store, older.edge())
    for start in range(0, 1_000, 125):
        assert start == replayed.append(RECORDS[start : start + 125])
    assert (log.root(), log.edge()) == (replayed.root(), replayed.edge())


def test_replay_of_other_entries_is_a_conflict(store: TileStore, log: TileLog) -> None:
    """Two histories in one folder are noticed at the first tile, which is left alone."""
    tile = log.tile(0, 0)
    fork = TileLog(store)
    with pytest.raises(TileConflict, match=r"tile/entries/000: .* differ from offset 5"):
        fork.append([*RECORDS[1:257]])
    assert (0, tile) == (fork.size, store.read("tile/0/000"))


def test_entries_have_a_longest_length(store: TileStore) -> None:
    """An entry of 512 bytes fits, one of 513 is refused with all that came with it."""
    log = TileLog(store)
    assert 0 == log.append([b"x" * MAX_ENTRY_BYTES, b""])
    with pytest.raises(ValueError, match="up to 512 bytes, got 513 for 3"):
        log.append([b"a", b"x" * (MAX_ENTRY_BYTES + 1)])
    assert 2 == log.size
    assert [b"x" * 512, b""] == [log.entry(0), log.entry(1)]


def test_nothing_is_answered_beyond_the_log(log: TileLog) -> None:
    """Indices and sizes outside the log are refused by name."""
    for index in (-1, 1_000):
        with pytest.raises(NotInLog, match=f"below the size 1000, got {index}"):
            log.entry(index)
        with pytest.raises(NotInLog, match=f"below the size 1000, got {index}"):
            log.leaf_hash_at(index)
        with pytest.raises(NotInLog, match=f"below the size 1000, got {index}"):
            log.prove_inclusion(index)
    with pytest.raises(NotInLog, match="below the size 5, got 5"):
        log.prove_inclusion(5, 5)
    for size in (-1, 1_001):
        with pytest.raises(NotInLog, match=f"size up to 1000, got {size}"):
            log.root_at(size)
        with pytest.raises(NotInLog, match=f"size up to 1000, got {size}"):
            log.prove_consistency(1, size)
    for old in (0, 1_001):
        with pytest.raises(NotInLog, match=f"old size from 1 to 1000, got {old}"):
            log.prove_consistency(old)


def damage(edge: bytes, position: int, value: object) -> bytes:
    """An edge with one field replaced."""
    fields = msgspec.msgpack.decode(edge)
    fields[position] = value
    return msgspec.msgpack.encode(fields)


def test_the_edge_is_decoded_strictly(store: TileStore, log: TileLog) -> None:
    """Only bytes that an export can have made open a log."""
    edge = log.edge()
    entries = RECORDS[768:]
    tail = log.tile(1, 0, 3)
    assert msgspec.msgpack.encode([1, 1_000, entries, [tail]]) == edge
    refused = {
        "expected an edge in MessagePack": [b"", edge[:-1], edge + b"\0", b"\x90", b"\xc0"],
        "version 1, got 2": [damage(edge, 0, 2)],
        "size from 0 to": [damage(edge, 1, -1), damage(edge, 1, 2**63)],
        "232 entries at the edge": [damage(edge, 2, entries[1:])],
        "up to 512 bytes, got 513": [damage(edge, 2, [*entries[1:], bytes(513)])],
        "partial tiles of": [damage(edge, 3, []), damage(edge, 3, [tail, b""])],
        "shortest MessagePack": [edge.replace(b"\xcd\x03\xe8", b"\xce\x00\x00\x03\xe8", 1)],
    }
    for text, cases in refused.items():
        for case in cases:
            with pytest.raises(EdgeError, match=text):
                TileLog(store, case)
    with pytest.raises(EdgeError, match="in MessagePack"):
        TileLog(store, msgspec.msgpack.encode([1, 1_000, entries, [tail], 0]))


def test_a_damaged_tile_is_named_and_proves_nothing(
    log: TileLog, store: TileStore, tmp_path: Path
) -> None:
    """A flipped, torn or lost file is found by its hash before anything is proven from it."""
    cases: dict[str, Callable[[TileLog], object]] = {
        "tile/0/001": lambda opened: opened.prove_inclusion(300),
        "tile/entries/001": lambda opened: opened.entry(300),
    }
    for path, ask in cases.items():
        file = tmp_path / path
        whole = file.read_bytes()
        at = whole.index(RECORDS[300]) if "entries" in path else 44 * 32
        flipped = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        for damaged in (flipped, whole[:-1], b""):
            file.write_bytes(damaged)
            with pytest.raises(TileDamaged, match=path):
                ask(TileLog(store, log.edge()))
        file.unlink()
        with pytest.raises(TileDamaged, match=f"{path}: expected a full tile, got no file"):
            ask(TileLog(store, log.edge()))
        file.write_bytes(whole)
        ask(TileLog(store, log.edge()))


def test_the_store_keeps_to_its_folder(store: TileStore, tmp_path: Path) -> None:
    """A path from a request cannot lead out of the folder or to an unfinished file."""
    for path in ("../x", "/etc/passwd", "tile//0", "tile/./0", "tile/0.new", "", "tile/\0"):
        with pytest.raises(ValueError, match="tile path"):
            store.read(path)
        with pytest.raises(ValueError, match="tile path"):
            store.write(path, b"")
    store.write("tile/0/000", b"a")
    store.write("tile/0/000", b"a")
    with pytest.raises(TileConflict, match="tile/0/000: expected the 2 bytes offered, got 1"):
        store.write("tile/0/000", b"ab")
    assert [b"a", None, None, None] == [
        store.read(path) for path in ("tile/0/000", "tile/0", "tile/0/001", "tile/0/000/0")
    ]
    assert ["000"] == [file.name for file in (tmp_path / "tile" / "0").iterdir()]


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 512, 767, 768, 999, 1_000])
def test_an_earlier_edge_is_made_from_the_tiles(log: TileLog, tmp_path: Path, size: int) -> None:
    """It is the edge that the log had then, to the byte."""
    earlier = TileLog(TileStore(tmp_path / "earlier"))
    earlier.append(RECORDS[:size])
    assert earlier.edge() == log.edge_at(size)


@pytest.mark.parametrize("begin", [1, 255, 256, 300, 512, 700])
def test_a_log_goes_on_from_an_edge_without_the_tiles_before(
    log: TileLog, tmp_path: Path, begin: int
) -> None:
    """It proves all that came after; what was full before is named as not kept, and not derived."""
    repairs: list[int] = []
    later = TileLog(
        TileStore(tmp_path / "later"),
        log.edge_at(begin),
        begin=begin,
        repair=lambda: repairs.append(1),
    )
    later.append(RECORDS[begin:])
    assert log.edge() == later.edge()
    assert [] == later.find_damaged()
    for index in range(begin, 1_000, 37):
        assert RECORDS[index] == later.entry(index)
        assert log.prove_inclusion(index) == later.prove_inclusion(index)
        assert log.prove_consistency(index) == later.prove_consistency(index)
    if begin >= 256:
        for ask in (later.tile, lambda _, index: later.entry_bundle(index)):
            with pytest.raises(TileNotKept, match=f"some from {begin} on"):
                ask(0, 0)
        with pytest.raises(TileNotKept, match=f"some from {begin} on"):
            later.entry(0)
    assert [] == repairs
