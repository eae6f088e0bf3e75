"""The log of one chain: an append-only Merkle tree kept as the tiles that the public reads.

Full tiles are files that never change. What is not full yet, the right edge, is in memory and
goes into the state store as bytes; with the tiles it is the whole log. Source: C2SP tlog-tiles;
RFC 9162 section 2.1.
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from threading import Lock
from typing import Final, Literal, NamedTuple, Protocol, TypeVar

import msgspec

from hansa.core.errors import NotThere
from hansa.core.merkle import (
    EMPTY_ROOT,
    HASH_BYTES,
    leaf_hash,
    node_hash,
)

TILE_HEIGHT: Final = 8
"""Levels of the binary tree in one tile (tlog-tiles, "Merkle Tree")."""

TILE_WIDTH: Final = 1 << TILE_HEIGHT
"""Hashes in a full tile, entries in a full bundle."""

TILE_BYTES: Final = TILE_WIDTH * HASH_BYTES
"""Length of a full tile of hashes."""

RECHECKED: Final = 64
"""Newest bundles whose content is read when the log is opened: some 16,000 entries."""

MAX_LEVEL: Final = 63
"""Highest tile level that a path may name (tlog-tiles, "Merkle Tree")."""

MAX_ENTRY_BYTES: Final = 512
"""Longest entry of a log; its length is written in 16 bits before it."""

MAX_TREE_SIZE: Final = 2**63 - 1
"""Largest number of entries, which is also the largest a checkpoint can state."""

EDGE_VERSION: Final = 1
"""First field of an exported edge."""

CACHED_TILES: Final = 64
"""Tiles kept with their inner nodes, about 40 kB each."""

ENTRIES: Final = "entries"

R = TypeVar("R")

_LENGTHS: Final = tuple(length.to_bytes(2, "big") for length in range(MAX_ENTRY_BYTES + 1))
_PATH: Final = re.compile(
    r"tile/(?P<level>entries|0|[1-9][0-9]?)/(?P<index>(?:x[0-9]{3}/)*[0-9]{3})"
    r"(?:\.p/(?P<width>[1-9][0-9]{0,2}))?"
)


class TilePath(NamedTuple):
    """What a tile path names."""

    level: int | Literal["entries"]
    """0 to 63, or that of the entry bundles."""

    number: int
    """Which tile of the level, from 0; N in the source."""

    width: int
    """Hashes or entries in it, 1 to 256."""


class NotInLog(ValueError):
    """An entry or a size is asked for that the log does not have."""


class TileNotKept(NotThere):
    """A tile is asked for that was full before this node began, and can't be derived here."""


class TileDamaged(RuntimeError):
    """A tile file is missing, or holds other bytes than the log wrote."""


class EdgeError(ValueError):
    """The bytes are not those of an exported edge."""


class StaleStage(RuntimeError):
    """Something else was appended since these entries were staged."""


class Tiles(Protocol):
    """Where full tiles are kept: bytes at a path, written once."""

    def write(self, path: str, data: bytes) -> None:
        """Store bytes; the same bytes again are fine, others at the same path an error."""

    def read(self, path: str) -> bytes | None:
        """Return the bytes stored at a path, or None."""

    def size(self, path: str) -> int | None:
        """Return the number of bytes stored at a path, or None."""


def tile_path(level: int | Literal["entries"], index: int, width: int = TILE_WIDTH) -> str:
    """Return the path of a tile of hashes, or of an entry bundle, below the prefix of the log.

    Raises: ValueError if the level is not from 0 to 63, the index is negative, or the width is
    not from 1 to 256. Source: tlog-tiles, "Merkle Tree" and "Log entries".
    """
    if level != ENTRIES and not 0 <= level <= MAX_LEVEL:
        raise ValueError(f"expected a tile level from 0 to {MAX_LEVEL}, got {level}")
    if index < 0:
        raise ValueError(f"expected a tile index of 0 or more, got {index}")
    if not 1 <= width <= TILE_WIDTH:
        raise ValueError(f"expected a tile width from 1 to {TILE_WIDTH}, got {width}")
    digits = f"{index % 1000:03}"
    while index >= 1000:
        index //= 1000
        digits = f"x{index % 1000:03}/{digits}"
    suffix = "" if width == TILE_WIDTH else f".p/{width}"
    return f"tile/{level}/{digits}{suffix}"


def parse_tile_path(path: str) -> TilePath:
    """Return what a tile path names; `tile_path` gives back the same path.

    Raises: ValueError if the path is not in the one form that names a tile. Source: tlog-tiles,
    "Merkle Tree" and "Log entries".
    """
    match = _PATH.fullmatch(path)
    # No log has an index of more than 18 digits: refused before it is made a number.
    if match is None or len(path) > 64 or not path.isascii():
        raise ValueError(f"expected a tile path, got {path[:100]!r}")
    level: int | Literal["entries"] = ENTRIES
    if match["level"] != ENTRIES:
        level = int(match["level"])
    index = int(match["index"].replace("/", "").replace("x", ""))
    width = int(match["width"]) if match["width"] else TILE_WIDTH
    named = TilePath(level, index, width)
    if match["width"] and width >= TILE_WIDTH:
        raise ValueError(f"expected a partial tile width below {TILE_WIDTH}, got {path!r}")
    if tile_path(level, index, width) != path:
        raise ValueError(f"expected a tile path without leading zeros, got {path!r}")
    return named


@dataclass(frozen=True, slots=True, eq=False)
class _Edge:
    """The log but for its full tiles. Never changed: the next edge takes its place."""

    size: int
    rows: tuple[Sequence[bytes], ...]
    """By level of the binary tree, eight to a tile level: the complete nodes below the partial
    tile. Whatever lies left of them is in full tiles."""
    entries: Sequence[bytes]
    """Entries of the partial bundle."""
    root: bytes


@dataclass(frozen=True, slots=True, eq=False)
class Staged:
    """Entries hashed and not yet in the log; dropping it leaves no trace."""

    first: int
    """Index that the first of the entries will have."""
    size: int
    """Number of entries the log will have."""
    root: bytes
    """Root the log will have."""
    tiles: Mapping[str, bytes]
    """Full tiles and bundles to be written, by path."""
    before: _Edge
    after: _Edge
    nodes: Mapping[tuple[int, int], Sequence[Sequence[bytes]]]


class _EdgeRecord(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    version: int
    size: int
    entries: list[bytes]
    """Of the partial bundle; the partial tile of level 0 is hashed from them."""
    tails: list[bytes]
    """Partial tiles of level 1 and up, each the hashes one after the other."""


_EMPTY: Final = _Edge(0, (), (), EMPTY_ROOT)


class TileLog:
    """An append-only log stored as tlog-tiles.

    One thread appends. Others may read meanwhile: each read sees the log before or after an
    append, never between. Appends cost O(new entries + log size), proofs O(log size).
    """

    def __init__(
        self, store: Tiles, edge: bytes | None = None, *, begin: int = 0,
        repair: Callable[[], object] | None = None,
    ) -> None:  # fmt: skip
        """Open the log that was exported as `edge`, or an empty one.

        Tiles that were full when the log had `begin` entries may be missing for good. `repair`
        derives all others again; it is called once when a damaged one is met.

        Raises: EdgeError if the bytes are not those of an edge.
        """
        self._store = store
        self.begin = begin
        self._edge = _EMPTY if edge is None else _decode_edge(edge)
        self._cache: OrderedDict[tuple[int, int], Sequence[Sequence[bytes]]] = OrderedDict()
        self._cache_lock = Lock()
        self._repair = repair

    @property
    def size(self) -> int:
        """Number of entries."""
        return self._edge.size

    def root(self) -> bytes:
        """Return the root over all entries, 32 bytes."""
        return self._edge.root

    def edge(self) -> bytes:
        """Return the right edge as bytes, from which the log is opened again.

        At most 132 kB of entries and 8 kB a tile level. Source: MessagePack, an array of
        `EDGE_VERSION`, size, entries of the partial bundle, partial tiles of level 1 and up.
        """
        edge = self._edge
        tails = [b"".join(row) for row in edge.rows[TILE_HEIGHT::TILE_HEIGHT]]
        record = _EdgeRecord(EDGE_VERSION, edge.size, list(edge.entries), tails)
        return msgspec.msgpack.encode(record)

    def edge_at(self, size: int) -> bytes:
        """Return the right edge as it was when the log had `size` entries.

        Raises: NotInLog if the size is not from 0 to that of the log; TileDamaged, TileNotKept.
        """
        edge = self._edge
        _check_size(size, edge)
        entries = [self.entry(index) for index in range(size - size % TILE_WIDTH, size)]
        tails = []
        for level in range(1, (size.bit_length() + TILE_HEIGHT - 1) // TILE_HEIGHT):
            height = level * TILE_HEIGHT
            end = size >> height
            nodes = range(end - end % TILE_WIDTH, end)
            tails.append(b"".join([self._node(edge, height, index) for index in nodes]))
        return msgspec.msgpack.encode(_EdgeRecord(EDGE_VERSION, size, entries, tails))

    def stage(self, entries: Sequence[bytes]) -> Staged:
        """Return what the log would be with these entries after its own; nothing changes.

        Each entry has at most `MAX_ENTRY_BYTES`.

        Raises: ValueError if an entry is longer, or the log would exceed `MAX_TREE_SIZE`.
        """
        edge = self._edge
        size = edge.size + len(entries)
        _check_entries(entries, edge.size)
        if size > MAX_TREE_SIZE:
            raise ValueError(f"expected a log of up to {MAX_TREE_SIZE} entries, got {size}")
        leaves = [sha256(b"\x00" + entry).digest() for entry in entries]
        rows = _grow(edge.rows, leaves)
        tiles: dict[str, bytes] = {}
        nodes: dict[tuple[int, int], Sequence[Sequence[bytes]]] = {}
        bundled = _cut_bundles([*edge.entries, *entries], edge.size // TILE_WIDTH, tiles)
        for level in range((len(rows) + TILE_HEIGHT - 1) // TILE_HEIGHT):
            index = edge.size >> TILE_HEIGHT * (level + 1)
            for full in _cut_rows(rows, level):
                tiles[tile_path(level, index)] = b"".join(full[0])
                nodes[level, index] = full
                index += 1
        after = _Edge(size, tuple(rows), bundled, _fold(size, rows))
        return Staged(edge.size, size, after.root, tiles, edge, after, nodes)

    def commit(self, staged: Staged) -> int:
        """Make staged entries part of the log, and return the index of the first.

        Where the store fails, the log stays as it was and the same commit can be tried again.

        Raises: StaleStage if the log has changed since; what the store raises.
        """
        if staged.before is not self._edge:
            raise StaleStage(
                f"expected entries staged at the present edge, size {self.size},"
                f" got some staged at size {staged.first}"
            )
        for path, data in staged.tiles.items():
            self._store.write(path, data)
        # The commit point: readers see all of the new entries from here on. The tiles are there
        # already, and nobody looks at a tile that is beyond the edge.
        self._edge = staged.after
        for key, nodes in staged.nodes.items():
            self._remember(key, nodes)
        return staged.first

    def append(self, entries: Sequence[bytes]) -> int:
        """Append entries and return the index of the first.

        Raises: as `stage` and `commit`.
        """
        return self.commit(self.stage(entries))

    def root_at(self, size: int) -> bytes:
        """Return the root over the first `size` entries.

        Raises: NotInLog if the size is not from 0 to that of the log; TileDamaged.
        """
        edge = self._edge
        _check_size(size, edge)
        if size == edge.size:
            return edge.root
        return self._hash_range(edge, 0, size) if size else EMPTY_ROOT

    def prove_inclusion(self, index: int, size: int | None = None) -> list[bytes]:
        """Return the path from an entry to the root over the first `size` entries, or over all.

        Raises: NotInLog if the size is not from 0 to that of the log, or the index is not below
        it; TileDamaged. Source: RFC 9162 §2.1.3.1.
        """
        edge = self._edge
        size = edge.size if size is None else size
        _check_size(size, edge)
        if not 0 <= index < size:
            raise NotInLog(f"expected an index below the size {size}, got {index}")
        path = []
        height, last = 0, size - 1
        while last:
            sibling = index ^ 1
            if sibling < last:
                path.append(self._node(edge, height, sibling))
            elif sibling == last:
                path.append(self._hash_range(edge, last << height, size))
            height += 1
            index >>= 1
            last >>= 1
        return path

    def prove_consistency(self, old: int, new: int | None = None) -> list[bytes]:
        """Return the path showing that the first `new` entries, or all, begin with the first `old`.

        Raises: NotInLog if the new size is not from 0 to that of the log, or the old size is not
        from 1 to the new one; TileDamaged. Source: RFC 9162 §2.1.4.1.
        """
        edge = self._edge
        new = edge.size if new is None else new
        _check_size(new, edge)
        if not 1 <= old <= new:
            raise NotInLog(f"expected an old size from 1 to {new}, got {old}")
        start, end = 0, new
        siblings: list[tuple[int, int]] = []
        # From the root down to the subtree that ends with the old tree, as SUBPROOF descends.
        while old != end:
            middle = start + (1 << (end - start - 1).bit_length() - 1)
            if old <= middle:
                siblings.append((middle, end))
                end = middle
            else:
                siblings.append((start, middle))
                start = middle
        # Starting at 0, the subtree is the old tree itself, whose root the verifier has.
        path = [self._hash_range(edge, start, end)] if start else []
        path.extend(self._hash_range(edge, *sibling) for sibling in reversed(siblings))
        return path

    def leaf_hash_at(self, index: int) -> bytes:
        """Return the leaf hash of an entry.

        Raises: NotInLog if there is none at the index; TileDamaged.
        """
        edge = self._edge
        _check_index(index, edge)
        return self._node(edge, 0, index)

    def entry(self, index: int) -> bytes:
        """Return an entry, checked against its leaf hash.

        Raises: NotInLog if there is none at the index; TileDamaged.
        """
        edge = self._edge
        _check_index(index, edge)
        bundle, offset = divmod(index, TILE_WIDTH)
        if bundle == edge.size // TILE_WIDTH:
            return edge.entries[offset]
        return self._mended(lambda: self._entry_of_bundle(edge, bundle, offset), 0, bundle)

    def _entry_of_bundle(self, edge: _Edge, bundle: int, offset: int) -> bytes:
        path = tile_path(ENTRIES, bundle)
        found = _split_bundle(self._read(path), path)[offset]
        index = bundle * TILE_WIDTH + offset
        if leaf_hash(found) != self._node(edge, 0, index):
            raise TileDamaged(f"{path}: expected entry {index} with its leaf hash, got another")
        return found

    def tile(self, level: int, index: int, width: int = TILE_WIDTH) -> bytes | None:
        """Return the first `width` hashes of a tile, or None if the tree has no such tile.

        Raises: TileDamaged. Source: tlog-tiles, "Merkle Tree" and "Partial Tiles".
        """
        edge = self._edge
        if not 0 <= level <= MAX_LEVEL:
            return None
        known = _known_width(edge.size >> TILE_HEIGHT * level, index, width)
        if known == 0:
            return None
        if known < TILE_WIDTH:
            return b"".join(edge.rows[level * TILE_HEIGHT][:width])
        data = self._mended(lambda: self._read_tile(level, index), level, index)
        return data[: width * HASH_BYTES]

    def entry_bundle(self, index: int, width: int = TILE_WIDTH) -> bytes | None:
        """Return the first `width` entries of a bundle, or None if the log has no such bundle.

        Raises: TileDamaged. Source: tlog-tiles, "Log entries".
        """
        edge = self._edge
        known = _known_width(edge.size, index, width)
        if known == 0:
            return None
        if known < TILE_WIDTH:
            return _frame(edge.entries[:width])
        path = tile_path(ENTRIES, index)
        entries = self._mended(lambda: _split_bundle(self._read(path), path), 0, index)
        return _frame(entries[:width])

    def find_damaged(self) -> list[str]:
        """Return the paths of full tiles that are missing or torn, as sizes show.

        Those that could not be derived again are passed over. Of the newest `RECHECKED` the content
        is read as well: a file may have got its length and not its bytes before the power failed.
        """
        edge = self._edge
        damaged = []
        for level in range(MAX_LEVEL + 1):
            count = edge.size >> TILE_HEIGHT * (level + 1)
            if count == 0:
                break
            begin = self.begin >> TILE_HEIGHT * (level + 1)
            paths = [tile_path(level, index) for index in range(begin, count)]
            damaged += [path for path in paths if self._store.size(path) != TILE_BYTES]
        bundles = edge.size // TILE_WIDTH
        for index in range(self.begin // TILE_WIDTH, bundles):
            path = tile_path(ENTRIES, index)
            is_new = index >= bundles - RECHECKED
            if not self._store.size(path) or (is_new and not self._is_bundle_sound(index)):
                damaged.append(path)
        return damaged

    def _is_bundle_sound(self, index: int) -> bool:
        path = tile_path(ENTRIES, index)
        try:
            hashes = [leaf_hash(entry) for entry in _split_bundle(self._read(path), path)]
        except TileDamaged:
            return False
        return b"".join(hashes) == self._store.read(tile_path(0, index))

    def _mended(self, read: Callable[[], R], level: int, index: int) -> R:
        try:
            return read()
        except TileDamaged:
            # Anyone may ask for such a tile: nothing is derived in vain for it.
            if index < self.begin >> TILE_HEIGHT * (level + 1):
                raise TileNotKept(
                    f"entries: expected some from {self.begin} on, where this node begins, got "
                    f"tile {index} of level {level}"
                ) from None
            if self._repair is None:
                raise
            self._repair()
            return read()

    def _read_tile(self, level: int, index: int) -> bytes:
        path = tile_path(level, index)
        data = self._read(path)
        if len(data) != TILE_BYTES:
            raise TileDamaged(f"{path}: expected {TILE_BYTES} bytes, got {len(data)}")
        return data

    def _read(self, path: str) -> bytes:
        data = self._store.read(path)
        if data is None:
            raise TileDamaged(f"{path}: expected a full tile, got no file")
        return data

    def _hash_range(self, edge: _Edge, start: int, end: int) -> bytes:
        """Root over the entries from start to end, a subtree of some tree of the log."""
        nodes = []
        while start < end:
            height = (end - start).bit_length() - 1
            nodes.append(self._node(edge, height, start >> height))
            start += 1 << height
        root = nodes.pop()
        while nodes:
            root = node_hash(nodes.pop(), root)
        return root

    def _node(self, edge: _Edge, height: int, index: int) -> bytes:
        """Root of the complete subtree of 2^height entries with this index."""
        level, row = divmod(height, TILE_HEIGHT)
        tile, offset = divmod(index, TILE_WIDTH >> row)
        if tile == edge.size >> TILE_HEIGHT * (level + 1):
            return edge.rows[height][offset]
        return self._load(edge, level, tile)[row][offset]

    def _load(self, edge: _Edge, level: int, index: int) -> Sequence[Sequence[bytes]]:
        with self._cache_lock:
            nodes = self._cache.get((level, index))
            if nodes is not None:
                self._cache.move_to_end((level, index))
                return nodes
        rows = self._mended(lambda: self._load_rows(edge, level, index), level, index)
        self._remember((level, index), rows)
        return rows

    def _load_rows(self, edge: _Edge, level: int, index: int) -> Sequence[Sequence[bytes]]:
        rows = _compute_rows(self._read_tile(level, index))
        # A proof from a damaged tile would be refused by everybody; here the file can be named.
        # The chain of checks ends at the edge, which the state store keeps.
        if node_hash(*rows[-1]) != self._node(edge, TILE_HEIGHT * (level + 1), index):
            path = tile_path(level, index)
            raise TileDamaged(f"{path}: expected hashes that lead to the root, got others")
        return rows

    def _remember(self, key: tuple[int, int], nodes: Sequence[Sequence[bytes]]) -> None:
        with self._cache_lock:
            self._cache[key] = nodes
            self._cache.move_to_end(key)
            if len(self._cache) > CACHED_TILES:
                self._cache.popitem(last=False)


def _grow(rows: Sequence[Sequence[bytes]], leaves: Sequence[bytes]) -> list[Sequence[bytes]]:
    """Rows with new leaves and every node they complete; tiles not cut off yet."""
    grown = list(rows)
    height, fresh = 0, leaves
    while fresh:
        if height == len(grown):
            grown.append(())
        before = grown[height]
        row = [*before, *fresh]
        grown[height] = row
        # Pairs left of these have their parents already. In the last row of a tile there is at
        # most one node, since two would have been cut off with the full tile.
        nodes = iter(row[len(before) & ~1 :])
        fresh = [
            sha256(b"\x01" + left + right).digest()
            for left, right in zip(nodes, nodes, strict=False)
        ]
        height += 1
    # Whole tile levels, so that a cut finds all eight rows.
    grown.extend(() for _ in range(-len(grown) % TILE_HEIGHT))
    return grown


def _cut_rows(rows: list[Sequence[bytes]], level: int) -> list[Sequence[Sequence[bytes]]]:
    """Cut the full tiles of a level off the rows, and return the rows of each."""
    base = level * TILE_HEIGHT
    count = len(rows[base]) // TILE_WIDTH
    if count == 0:
        return []
    widths = [TILE_WIDTH >> row for row in range(TILE_HEIGHT)]
    tiles = [
        tuple(
            rows[base + row][tile * width : (tile + 1) * width] for row, width in enumerate(widths)
        )
        for tile in range(count)
    ]
    for row, width in enumerate(widths):
        rows[base + row] = rows[base + row][count * width :]
    return list(tiles)


def _cut_bundles(entries: list[bytes], index: int, tiles: dict[str, bytes]) -> list[bytes]:
    """Add the full bundles to the tiles, and return the entries of the partial one."""
    full = len(entries) - len(entries) % TILE_WIDTH
    for start in range(0, full, TILE_WIDTH):
        tiles[tile_path(ENTRIES, index)] = _frame(entries[start : start + TILE_WIDTH])
        index += 1
    return entries[full:]


def _fold(size: int, rows: Sequence[Sequence[bytes]]) -> bytes:
    """Root of a tree, from the last complete node of each level at which the size has a one."""
    root = b""
    for height, row in enumerate(rows):
        if size >> height & 1:
            root = node_hash(row[-1], root) if root else row[-1]
    return root or EMPTY_ROOT


def _compute_rows(tile: bytes) -> list[list[bytes]]:
    """Rows of a tile, full or partial: its hashes, and the complete nodes above them."""
    rows = [[tile[at : at + HASH_BYTES] for at in range(0, len(tile), HASH_BYTES)]]
    while len(rows) < TILE_HEIGHT:
        nodes = iter(rows[-1])
        rows.append(
            [
                sha256(b"\x01" + left + right).digest()
                for left, right in zip(nodes, nodes, strict=False)
            ]
        )
    return rows


def _frame(entries: Sequence[bytes]) -> bytes:
    return b"".join([part for entry in entries for part in (_LENGTHS[len(entry)], entry)])


def _split_bundle(data: bytes, path: str) -> list[bytes]:
    entries = []
    position = 0
    while position < len(data):
        start = position + 2
        position = start + int.from_bytes(data[position:start], "big")
        entries.append(data[start:position])
    if position != len(data) or len(entries) != TILE_WIDTH:
        raise TileDamaged(f"{path}: expected {TILE_WIDTH} whole entries, got {len(entries)}")
    return entries


def _known_width(count: int, index: int, width: int) -> int:
    """How many of `count` hashes or entries a tile has, or 0 if it has not the width wanted."""
    if index < 0 or width < 1:
        return 0
    known = min(TILE_WIDTH, count - index * TILE_WIDTH)
    return known if width <= known else 0


def _check_entries(entries: Sequence[bytes], first: int) -> None:
    if max(map(len, entries), default=0) <= MAX_ENTRY_BYTES:
        return
    for index, entry in enumerate(entries, first):
        if len(entry) > MAX_ENTRY_BYTES:
            raise ValueError(
                f"expected entries of up to {MAX_ENTRY_BYTES} bytes, got {len(entry)} for {index}"
            )


def _check_size(size: int, edge: _Edge) -> None:
    if not 0 <= size <= edge.size:
        raise NotInLog(f"expected a size up to {edge.size}, got {size}")


def _check_index(index: int, edge: _Edge) -> None:
    if not 0 <= index < edge.size:
        raise NotInLog(f"expected an index below the size {edge.size}, got {index}")


def _decode_edge(data: bytes) -> _Edge:
    try:
        record = msgspec.msgpack.decode(data, type=_EdgeRecord)
    except msgspec.DecodeError as error:
        raise EdgeError(f"expected an edge in MessagePack: {error}") from error
    if record.version != EDGE_VERSION:
        raise EdgeError(f"expected an edge of version {EDGE_VERSION}, got {record.version}")
    if not 0 <= record.size <= MAX_TREE_SIZE:
        raise EdgeError(f"expected a size from 0 to {MAX_TREE_SIZE}, got {record.size}")
    _check_tails(record)
    if msgspec.msgpack.encode(record) != data:
        raise EdgeError("expected the shortest MessagePack forms, got longer ones")
    leaves = b"".join([leaf_hash(entry) for entry in record.entries])
    tails = [leaves, *record.tails] if record.size else []
    rows = [row for tail in tails for row in _compute_rows(tail)]
    return _Edge(record.size, tuple(rows), record.entries, _fold(record.size, rows))


def _check_tails(record: _EdgeRecord) -> None:
    if len(record.entries) != record.size % TILE_WIDTH:
        raise EdgeError(
            f"expected {record.size % TILE_WIDTH} entries at the edge of size {record.size},"
            f" got {len(record.entries)}"
        )
    longest = max(map(len, record.entries), default=0)
    if longest > MAX_ENTRY_BYTES:
        raise EdgeError(f"expected entries of up to {MAX_ENTRY_BYTES} bytes, got {longest}")
    levels = range(1, (record.size.bit_length() + TILE_HEIGHT - 1) // TILE_HEIGHT)
    expected = [(record.size >> TILE_HEIGHT * level) % TILE_WIDTH * HASH_BYTES for level in levels]
    if [len(tail) for tail in record.tails] != expected:
        raise EdgeError(
            f"expected partial tiles of {expected} bytes at the edge of size {record.size},"
            f" got {[len(tail) for tail in record.tails]}"
        )
