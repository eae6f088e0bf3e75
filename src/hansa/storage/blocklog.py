"""The block log: what is durable; everything else can be derived again from it.

Layout. A folder of segment files `<first height, 20 digits>.log`, all integers big endian.

    file    = header | record*
    header  = magic 8 | version u32 | 0 u32 | first height u64 | previous digest 32 | SHA-256 32
              (the SHA-256 is of the 56 bytes before it)
    record  = magic u32 | payload length u32 | height u64 | digest 32 | payload
    digest  = SHA-256(height u64 | previous record's digest 32 | payload)

The digest before the first record is 32 zero bytes. Heights are consecutive over all segments.
`<first height>.idx` holds the offset of each record, u64 each, of a segment which is complete; it
is a convenience, never believed without looking at the record, and rebuilt when missing or wrong.

Durability. A segment is made durable before its successor exists, so a crash can tear only the
last one. Opening after a crash and opening after a clean stop run the same code.
"""

import errno
import os
import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from sys import byteorder
from threading import Lock

from hansa.storage.durable import make_folder, sync_folder, write_all
from hansa.storage.errors import StorageDamaged, StorageError, as_storage_error, still_failed

FILE_MAGIC = b"HANSALOG"
FORMAT_VERSION = 1
RECORD_MAGIC = b"HBLK"
FILE_HEADER = struct.Struct(">8sIIQ32s32s")
RECORD_HEADER = struct.Struct(">4sIQ32s")
DIGEST_BYTES = 32
SEGMENT_BYTES_DEFAULT = 32 * 1024 * 1024
PAYLOAD_BYTES_MAX = 256 * 1024 * 1024
HEIGHT_MAX = 2**63 - 1
HEIGHT_DIGITS = 20
NO_DIGEST = bytes(DIGEST_BYTES)

BytesLike = bytes | bytearray | memoryview

assert FILE_HEADER.size == 88
assert RECORD_HEADER.size == 48


class DamagedBlockLog(StorageDamaged):
    """A record or file header is not what was written; `file` and `offset` say where.

    `height` is the height of the record (for a file header, the first height of the file);
    `expected` is what the log says should be there, `found` what is there.
    """

    def __init__(self, file: Path, offset: int, height: int, expected: str, found: str) -> None:
        text = (
            f"damaged block log at offset {offset}, height {height}: expected {expected}, got "
            f"{found}; restore this file from a backup or another node, then start again; "
            "`hansa fsck` shows how far the log is sound"
        )
        # EBADMSG is what Linux file systems themselves answer when a checksum does not hold.
        super().__init__(errno.EBADMSG, text, str(file))
        self.file = file
        self.offset = offset
        self.height = height
        self.expected = expected
        self.found = found


@dataclass(frozen=True, slots=True)
class TornTail:
    """What opening cut off the end of the log: bytes of a write that was never acknowledged."""

    file: Path
    offset: int
    bytes_cut: int
    why: str


@dataclass(slots=True)
class Segment:
    """One file of the log; `offsets` is absent until somebody reads from the file."""

    path: Path
    first_height: int
    offsets: "array[int] | None" = None


@dataclass(frozen=True, slots=True)
class SegmentScan:
    """What reading one segment from its start found, up to the first byte that makes no record."""

    offsets: "array[int]"
    end: int
    last_digest: bytes
    damage: DamagedBlockLog | None


def record_digest(height: int, previous_digest: bytes, parts: Sequence[BytesLike]) -> bytes:
    """SHA-256(height u64 | previous digest | payload), the payload given in parts."""
    hasher = sha256(height.to_bytes(8, "big") + previous_digest)
    for part in parts:
        hasher.update(part)
    return hasher.digest()


def file_header(first_height: int, previous_digest: bytes) -> bytes:
    """The header of the segment that starts with `first_height`."""
    packed = FILE_HEADER.pack(
        FILE_MAGIC, FORMAT_VERSION, 0, first_height, previous_digest, NO_DIGEST
    )[:-DIGEST_BYTES]
    return packed + sha256(packed).digest()


def previous_digest_of(path: Path, first_height: int, header: bytes) -> bytes:
    """Checks a file header and returns the digest of the record before the file.

    Raises: DamagedBlockLog.
    """
    if len(header) < FILE_HEADER.size:
        expected = f"a file header of {FILE_HEADER.size} bytes"
        raise DamagedBlockLog(path, 0, first_height, expected, f"{len(header)} bytes")
    magic, version, _, height, previous_digest, digest = FILE_HEADER.unpack(header)
    computed = sha256(header[:-DIGEST_BYTES]).digest()
    if digest != computed:
        raise DamagedBlockLog(path, 0, first_height, f"digest {digest.hex()}", computed.hex())
    if (magic, version, height) != (FILE_MAGIC, FORMAT_VERSION, first_height):
        expected = f"{FILE_MAGIC!r} version {FORMAT_VERSION} height {first_height}"
        found = f"{magic!r} version {version} height {height}"
        raise DamagedBlockLog(path, 0, first_height, expected, found)
    return bytes(previous_digest)


def header_damage(
    path: Path, offset: int, height: int, header: bytes | memoryview, room: int
) -> DamagedBlockLog | None:
    """Why the bytes at `offset` cannot start the record of `height`, if they cannot.

    `room` is the number of bytes from `offset` to the end of the file.
    """
    if len(header) < RECORD_HEADER.size:
        expected = f"a record header of {RECORD_HEADER.size} bytes"
        return DamagedBlockLog(path, offset, height, expected, f"{len(header)} bytes")
    magic, length, found_height, _ = RECORD_HEADER.unpack(header)
    if (magic, found_height) != (RECORD_MAGIC, height):
        expected = f"{RECORD_MAGIC!r} height {height}"
        found = f"{magic!r} height {found_height}"
        return DamagedBlockLog(path, offset, height, expected, found)
    if RECORD_HEADER.size + length > room:
        expected = f"a payload of {length} bytes"
        found = f"{room - RECORD_HEADER.size} bytes to the end of the file"
        return DamagedBlockLog(path, offset, height, expected, found)
    return None


def scan_segment(path: Path, first_height: int, data: memoryview) -> SegmentScan:
    """Reads a whole segment and checks every digest, up to the first thing that does not hold.

    Raises: DamagedBlockLog for the file header.
    """
    digest = previous_digest_of(path, first_height, bytes(data[: FILE_HEADER.size]))
    offsets = array("Q")
    offset, height, size = FILE_HEADER.size, first_height, data.nbytes
    while offset < size:
        header = data[offset : offset + RECORD_HEADER.size]
        damage = header_damage(path, offset, height, header, size - offset)
        if damage is not None:
            return SegmentScan(offsets, offset, digest, damage)
        _, length, _, stored = RECORD_HEADER.unpack(header)
        start = offset + RECORD_HEADER.size
        computed = record_digest(height, digest, (data[start : start + length],))
        if stored != computed:
            damage = DamagedBlockLog(path, offset, height, f"digest {stored.hex()}", computed.hex())
            return SegmentScan(offsets, offset, digest, damage)
        offsets.append(offset)
        offset, height, digest = start + length, height + 1, stored
    return SegmentScan(offsets, offset, digest, None)


def frames_reach_end(
    data: memoryview, offset: int, height: int, dead_ends: set[int] | None = None
) -> bool:
    """Whether record frames of consecutive heights run from `offset` exactly to the end.

    Offsets from which they do not are added to `dead_ends`, and not walked from again.
    """
    passed: list[int] = []
    while offset < data.nbytes:
        header = data[offset : offset + RECORD_HEADER.size]
        is_known = dead_ends is not None and offset in dead_ends
        if is_known or header_damage(Path(), offset, height, header, data.nbytes - offset):
            if dead_ends is not None:
                dead_ends.update(passed)
            return False
        passed.append(offset)
        length = RECORD_HEADER.unpack(header)[1]
        offset, height = offset + RECORD_HEADER.size + length, height + 1
    return True


def record_follows(data: memoryview, offset: int, height: int) -> bool:
    """Whether whole records lie after the unreadable record of `height` at `offset`.

    A torn write has nothing behind it; a damaged length or magic hides records that were
    acknowledged, and cutting there would destroy them.
    """
    header = data[offset : offset + RECORD_HEADER.size]
    if len(header) < RECORD_HEADER.size:
        return False
    magic, length, found_height, stored = RECORD_HEADER.unpack(header)
    is_header_sound = (magic, found_height) == (RECORD_MAGIC, height)
    if is_header_sound and offset + RECORD_HEADER.size + length < data.nbytes:
        return True
    # FORGED TAIL: a client may place bytes that look like a record inside a payload, so that a
    # write torn at that point would pass for damage and keep the node down. With the header
    # intact we ask for a digest over the digest of the record around it, which nobody can compute
    # in advance; without it the frames must at least run exactly to the end of the file.
    return any(
        not is_header_sound or follows_digest(data, position, stored)
        for position in later_frames(data, offset, height)
    )


def later_frames(data: memoryview, offset: int, height: int) -> Iterator[int]:
    """Offsets behind `offset` from which frames of heights over `height` run to the end."""
    whole = bytes(data)
    dead_ends: set[int] = set()
    position = whole.find(RECORD_MAGIC, offset + 1)
    while position != -1 and position + RECORD_HEADER.size <= len(whole):
        found_height: int = RECORD_HEADER.unpack_from(whole, position)[2]
        heights_between_max = (position - offset) // RECORD_HEADER.size + 1
        is_later = height < found_height <= height + heights_between_max
        if is_later and frames_reach_end(data, position, found_height, dead_ends):
            yield position
        position = whole.find(RECORD_MAGIC, position + 1)


def follows_digest(data: memoryview, position: int, previous_digest: bytes) -> bool:
    """Whether the record at `position` is chained to `previous_digest`."""
    start = position + RECORD_HEADER.size
    _, length, height, stored = RECORD_HEADER.unpack(data[position:start])
    computed = record_digest(height, previous_digest, (data[start : start + length],))
    return bool(stored == computed)


def read_exactly(descriptor: int, size: int, offset: int) -> bytes:
    """Up to `size` bytes from `offset`; fewer only at the end of the file."""
    chunk = os.pread(descriptor, size, offset)
    if len(chunk) == size or not chunk:
        return chunk
    chunks = [chunk]
    while chunk:
        size, offset = size - len(chunk), offset + len(chunk)
        chunk = os.pread(descriptor, size, offset)
        chunks.append(chunk)
    return b"".join(chunks)


def read_file(path: Path) -> memoryview:
    """The whole file."""
    return memoryview(path.read_bytes())


class BlockLog:
    """An append-only, digest-chained log of records with consecutive heights.

    One thread appends; another may sync meanwhile; any thread may read. Append one record per
    sync where a restart must never need an operator: records of several appends under one sync
    may reach the disk in any order, and a hole among them is reported as damage, since nothing
    tells it from the loss of an acknowledged record.

    `truncated` is what opening cut off; `failed` is the error after which appends are refused.
    With `read_only` nothing is written, cut or locked: a torn tail is reported and passed over.

    Raises: ValueError for a `first_height` other than that of the log, StorageFull,
    StorageUnwritable, DamagedBlockLog.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        first_height: int | None = None,
        segment_bytes: int = SEGMENT_BYTES_DEFAULT,
        read_only: bool = False,
    ) -> None:
        if first_height is not None and not 0 < first_height <= HEIGHT_MAX:
            raise ValueError(f"expected first_height from 1 to {HEIGHT_MAX}, got {first_height}")
        if segment_bytes < 1:
            raise ValueError(f"expected segment_bytes of at least 1, got {segment_bytes}")
        self.folder = Path(folder)
        self.truncated: TornTail | None = None
        self.failed: StorageError | None = None
        self._segment_bytes = segment_bytes
        self._read_only = read_only
        self._descriptor = -1
        self._is_closed = False
        self._rotation = Lock()
        if not read_only:
            make_folder(self.folder)
        self._segments = self._list_segments()
        self._dropped = 0
        """How many of them are gone; they stay in the list, whose places readers go by."""
        self._check_first_height(first_height)
        self._height = (first_height or 1) - 1
        self._last_digest = NO_DIGEST
        self._end = 0
        self._folder_is_dirty = False
        try:
            self._open_last_segment()
            self._check_seams()
        except BaseException:
            self.close()
            raise
        self._durable_height = self._height

    def __enter__(self) -> "BlockLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def first_height(self) -> int:
        """The height of the first record, whether or not it has been written."""
        if not self._segments:
            return self._height + 1
        return self._segments[self._dropped].first_height

    @property
    def height(self) -> int:
        """The height of the last record appended; one less than the first height when empty."""
        return self._height

    @property
    def durable_height(self) -> int:
        """The height of the last record that survives a power failure."""
        return self._durable_height

    # Writing

    def append(self, height: int, payload: BytesLike | Sequence[BytesLike]) -> None:
        """Writes the record of `height`, which must be the next; it is durable only after `sync`.

        Raises: StorageError if an earlier write failed, ValueError for another height or a
        payload over PAYLOAD_BYTES_MAX, StorageFull, StorageUnwritable.
        """
        self._refuse_if_failed()
        if height != self._height + 1:
            raise ValueError(f"expected height {self._height + 1}, got {height}")
        parts = [payload] if isinstance(payload, BytesLike) else list(payload)
        views = [memoryview(part).cast("B") for part in parts if len(part)]
        length = sum(view.nbytes for view in views)
        if length > PAYLOAD_BYTES_MAX:
            raise ValueError(f"expected at most {PAYLOAD_BYTES_MAX} bytes, got {length}")
        digest = record_digest(height, self._last_digest, views)
        header = RECORD_HEADER.pack(RECORD_MAGIC, length, height, digest)
        self._rotate_if_full(RECORD_HEADER.size + length)
        segment = self._segments[-1]
        try:
            write_all(self._descriptor, [memoryview(header), *views], self._end)
        except OSError as error:
            # What was written of the record stays: the next opening cuts it as a torn tail, and
            # cutting it here would be one more write to a disk that has just refused one.
            raise self._fail(error, segment.path, f"append block {height}") from error
        assert segment.offsets is not None
        segment.offsets.append(self._end)
        self._end += RECORD_HEADER.size + length
        self._last_digest = digest
        self._height = height

    def sync(self) -> None:
        """Makes everything appended so far durable.

        Raises: StorageError if an earlier write failed, StorageFull, StorageUnwritable.
        """
        self._refuse_if_failed()
        with self._rotation:
            height = self._height
            if height == self._durable_height:
                return
            path = self._segments[-1].path
            try:
                # THE COMMIT POINT of the node: when this fdatasync (and, for a new file, the
                # fsync of its folder) has returned, the blocks up to `height` exist and may be
                # acknowledged; before, they may not. After a failure the kernel may have marked
                # the lost pages clean, so a second fdatasync would succeed without having written
                # them: the log is therefore done with until it is opened again.
                os.fdatasync(self._descriptor)
                if self._folder_is_dirty:
                    sync_folder(self.folder)
                    self._folder_is_dirty = False
            except OSError as error:
                raise self._fail(error, path, f"make block {height} durable") from error
            self._durable_height = height

    def first_height_without(self, height: int) -> int:
        """The first height left after `drop_below(height)`: that of a file, at most `height`."""
        firsts = [segment.first_height for segment in self._segments[self._dropped :]]
        return max([first for first in firsts if first <= height], default=self.first_height)

    def drop_below(self, height: int) -> None:
        """Removes, oldest first, the files that hold only records below `height`.

        Raises: StorageError if an earlier write failed, StorageUnwritable.
        """
        self._refuse_if_failed()
        first_height = self.first_height_without(height)
        with self._rotation:
            while self.first_height < first_height:
                segment = self._segments[self._dropped]
                try:
                    segment.path.unlink()
                    self._index_path(segment).unlink(missing_ok=True)
                    # In this order after a power failure too: a gap would be taken for damage.
                    sync_folder(self.folder)
                except OSError as error:
                    action = "remove a file of old blocks"
                    raise as_storage_error(error.errno or 0, segment.path, action) from error
                self._dropped += 1

    def close(self) -> None:
        """Releases the file; what was not synced is as good as never appended."""
        if self._descriptor != -1:
            os.close(self._descriptor)
            self._descriptor = -1
        self._is_closed = True

    def _refuse_if_failed(self) -> None:
        if self.failed is not None:
            raise still_failed(self.failed) from self.failed
        if self._is_closed:
            raise StorageError(errno.EBADF, "the block log is closed", str(self.folder))
        if self._read_only:
            raise as_storage_error(errno.EROFS, self.folder, "write a log opened to be read")

    def _fail(self, error: OSError, path: Path, action: str) -> StorageError:
        self.failed = as_storage_error(error.errno or errno.EIO, path, action)
        return self.failed

    def _rotate_if_full(self, frame_bytes: int) -> None:
        is_empty = self._end == FILE_HEADER.size
        if self._segments and (is_empty or self._end + frame_bytes <= self._segment_bytes):
            return
        if self._segments:
            # The old file is durable before the new one exists: only the last can be torn.
            self.sync()
        with self._rotation:
            if self._segments:
                self._write_index(self._segments[-1])
            path = self._path_of(self._height + 1)
            try:
                self._create_segment(path, self._height + 1)
            except OSError as error:
                raise self._fail(error, path, "start this file of the block log") from error

    def _create_segment(self, path: Path, first_height: int) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        if self._descriptor != -1:
            os.close(self._descriptor)
        self._descriptor = descriptor
        self._folder_is_dirty = True
        header = file_header(first_height, self._last_digest)
        write_all(descriptor, [memoryview(header)], 0)
        self._segments.append(Segment(path, first_height, array("Q")))
        self._end = FILE_HEADER.size

    # Opening

    def _list_segments(self) -> list[Segment]:
        try:
            names = sorted(path.name for path in self.folder.iterdir() if path.suffix == ".log")
        except OSError as error:
            raise as_storage_error(error.errno or 0, self.folder, "list the block log") from error
        stems = [name.removesuffix(".log") for name in names]
        return [
            Segment(self.folder / f"{stem}.log", int(stem))
            for stem in stems
            if len(stem) == HEIGHT_DIGITS and stem.isdecimal()
        ]

    def _check_first_height(self, first_height: int | None) -> None:
        if first_height is None or not self._segments:
            return
        if first_height != self._segments[0].first_height:
            found = self._segments[0].first_height
            raise ValueError(f"expected a log from height {first_height}, got {found}")

    def _open_last_segment(self) -> None:
        while self._segments:
            segment = self._segments[-1]
            self._open_to_end(segment)
            data = read_file(segment.path)
            self._height = segment.first_height - 1
            if not self._is_torn_at_birth(segment, data):
                self._adopt(segment, data)
                return
            self._drop_last_segment(segment, data.nbytes)

    def _open_to_end(self, segment: Segment) -> None:
        mode = os.O_RDONLY if self._read_only else os.O_RDWR
        try:
            self._descriptor = os.open(segment.path, mode | os.O_CLOEXEC)
            if not self._read_only:
                # A process that was killed left records in the page cache only: they become
                # durable here, before anybody is told of them.
                os.fdatasync(self._descriptor)
                sync_folder(self.folder)
        except OSError as error:
            raise as_storage_error(error.errno or 0, segment.path, "open the block log") from error
        # After a failed fdatasync the cache may hold, as clean, pages the disk never got. They are
        # dropped, so that what is checked below is what the disk has.
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def _is_torn_at_birth(self, segment: Segment, data: memoryview) -> bool:
        """Whether the file was never finished as far as its header, and holds no record."""
        try:
            previous_digest_of(segment.path, segment.first_height, bytes(data[: FILE_HEADER.size]))
        except DamagedBlockLog:
            if data.nbytes > FILE_HEADER.size and self._holds_records(segment, data):
                raise
            return True
        return False

    def _holds_records(self, segment: Segment, data: memoryview) -> bool:
        start, height = FILE_HEADER.size, segment.first_height
        return frames_reach_end(data, start, height) or record_follows(data, start, height)

    def _drop_last_segment(self, segment: Segment, size: int) -> None:
        why = "the file was torn before its header was complete"
        self.truncated = TornTail(segment.path, 0, size, why)
        os.close(self._descriptor)
        self._descriptor = -1
        self._segments.pop()
        if self._read_only:
            return
        try:
            segment.path.unlink()
            sync_folder(self.folder)
        except OSError as error:
            raise as_storage_error(error.errno or 0, segment.path, "remove a torn file") from error

    def _adopt(self, segment: Segment, data: memoryview) -> None:
        scan = scan_segment(segment.path, segment.first_height, data)
        height = segment.first_height + len(scan.offsets) - 1
        if scan.damage is not None:
            # A file whose successor had been started was durable to its end: no write was torn.
            had_successor = self.truncated is not None
            if had_successor or record_follows(data, scan.end, height + 1):
                raise scan.damage
            self._cut_tail(segment, scan, data.nbytes)
        segment.offsets = scan.offsets
        self._height = height
        self._last_digest = scan.last_digest
        self._end = scan.end

    def _cut_tail(self, segment: Segment, scan: SegmentScan, size: int) -> None:
        damage = scan.damage
        assert damage is not None
        why = f"torn record {damage.height}: expected {damage.expected}, got {damage.found}"
        self.truncated = TornTail(segment.path, scan.end, size - scan.end, why)
        if self._read_only:
            return
        try:
            os.ftruncate(self._descriptor, scan.end)
            os.fsync(self._descriptor)
        except OSError as error:
            raise as_storage_error(error.errno or 0, segment.path, "cut a torn record") from error

    def _check_seams(self) -> None:
        """Checks that no file is missing or short, by the size of the indexes alone."""
        for position, segment in enumerate(self._segments[:-1]):
            try:
                index_bytes = self._index_path(segment).stat().st_size
            except FileNotFoundError:
                index_bytes = -1
            if index_bytes != 8 * self._count_of(position):
                self._rebuild_index(position)

    # Reading

    def read(self, height: int) -> bytes:
        """The payload of the record of `height`, its digest checked.

        Raises: KeyError for a height that the log does not hold, DamagedBlockLog.
        """
        self._check_holds(height)
        position = self._position_of(height)
        with self._segments[position].path.open("rb", buffering=0) as file:
            return self._read_checked(file.fileno(), position, height)

    def iterate(self, first_height: int) -> Iterator[tuple[int, bytes]]:
        """The records from `first_height` to the last at the time of the call, digests checked.

        Raises: KeyError for a height below the first or over one after the last, DamagedBlockLog.
        """
        last_height = self._height
        if first_height != last_height + 1:
            self._check_holds(first_height)
        return self._iterate(first_height, last_height)

    def verify(self, first_height: int | None = None) -> Iterator[int]:
        """Checks every record and every seam between files, yielding each height once it holds.

        Raises: KeyError for a height that the log does not hold, DamagedBlockLog.
        """
        if not self._segments:
            return
        for position, segment in enumerate(self._segments):
            if position < self._dropped:
                continue
            if position > self._dropped:
                self._check_seam(position)
            else:
                self._header_digest(segment)
        for height, _ in self.iterate(self.first_height if first_height is None else first_height):
            yield height

    def _iterate(self, height: int, last_height: int) -> Iterator[tuple[int, bytes]]:
        while height <= last_height:
            position = self._position_of(height)
            end = min(last_height, height - 1 + self._remaining(position, height))
            with self._segments[position].path.open("rb", buffering=0) as file:
                for each in range(height, end + 1):
                    yield each, self._read_checked(file.fileno(), position, each)
            height = end + 1

    def _remaining(self, position: int, height: int) -> int:
        first_height = self._segments[position].first_height
        return first_height + self._count_of(position) - height

    def _check_holds(self, height: int) -> None:
        if not self.first_height <= height <= self._height:
            raise KeyError(
                f"expected a height from {self.first_height} to {self._height}, got {height}"
            )

    def _position_of(self, height: int) -> int:
        return bisect_right(self._segments, height, key=lambda segment: segment.first_height) - 1

    def _count_of(self, position: int) -> int:
        segment = self._segments[position]
        if position + 1 < len(self._segments):
            return self._segments[position + 1].first_height - segment.first_height
        return self._height + 1 - segment.first_height

    def _read_checked(self, descriptor: int, position: int, height: int) -> bytes:
        offset = self._offset_of(position, height)
        segment = self._segments[position]
        payload, stored, computed = self._read_record(descriptor, position, height, offset)
        if stored == computed:
            return payload
        if height > segment.first_height:
            # The digest this record is chained to may itself be what is damaged; the error must
            # name the culprit, not its neighbour.
            before = self._offset_of(position, height - 1)
            _, expected, found = self._read_record(descriptor, position, height - 1, before)
            if expected != found:
                raise DamagedBlockLog(
                    segment.path, before, height - 1, f"digest {expected.hex()}", found.hex()
                )
        raise DamagedBlockLog(
            segment.path, offset, height, f"digest {stored.hex()}", computed.hex()
        )

    def _read_record(
        self, descriptor: int, position: int, height: int, offset: int
    ) -> tuple[bytes, bytes, bytes]:
        """The payload, the digest stored with it, and the digest computed from it."""
        segment = self._segments[position]
        header = read_exactly(descriptor, RECORD_HEADER.size, offset)
        room = os.fstat(descriptor).st_size - offset
        damage = header_damage(segment.path, offset, height, header, room)
        if damage is not None:
            raise damage
        _, length, _, stored = RECORD_HEADER.unpack(header)
        payload = read_exactly(descriptor, length, offset + RECORD_HEADER.size)
        if height == segment.first_height:
            previous_digest = self._header_digest(segment)
        else:
            before = self._offset_of(position, height - 1)
            previous_digest = read_exactly(descriptor, RECORD_HEADER.size, before)[-DIGEST_BYTES:]
        return payload, stored, record_digest(height, previous_digest, (payload,))

    def _header_digest(self, segment: Segment) -> bytes:
        with segment.path.open("rb", buffering=0) as file:
            header = read_exactly(file.fileno(), FILE_HEADER.size, 0)
        return previous_digest_of(segment.path, segment.first_height, header)

    def _check_seam(self, position: int) -> None:
        segment = self._segments[position]
        previous_digest = self._header_digest(segment)
        last_height = segment.first_height - 1
        before = self._segments[position - 1]
        offset = self._offset_of(position - 1, last_height)
        with before.path.open("rb", buffering=0) as file:
            header = read_exactly(file.fileno(), RECORD_HEADER.size, offset)
        found = header[-DIGEST_BYTES:]
        if previous_digest != found:
            expected = f"digest {previous_digest.hex()}"
            raise DamagedBlockLog(before.path, offset, last_height, expected, found.hex())

    # The index of a complete segment

    def _offset_of(self, position: int, height: int) -> int:
        segment = self._segments[position]
        if segment.offsets is None:
            segment.offsets = self._load_index(position)
        return segment.offsets[height - segment.first_height]

    def _load_index(self, position: int) -> "array[int]":
        segment = self._segments[position]
        try:
            raw = self._index_path(segment).read_bytes()
        except FileNotFoundError:
            return self._rebuild_index(position)
        offsets = array("Q")
        if len(raw) != 8 * self._count_of(position):
            return self._rebuild_index(position)
        offsets.frombytes(raw)
        if byteorder == "little":
            offsets.byteswap()
        if self._index_agrees(segment, offsets):
            return offsets
        return self._rebuild_index(position)

    def _index_agrees(self, segment: Segment, offsets: "array[int]") -> bool:
        """Whether each offset is that of a record of the right height; only headers are read."""
        with segment.path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            expected = FILE_HEADER.size
            for height, offset in enumerate(offsets, segment.first_height):
                if offset != expected:
                    return False
                header = read_exactly(file.fileno(), RECORD_HEADER.size, offset)
                if header_damage(segment.path, offset, height, header, size - offset) is not None:
                    return False
                expected = offset + RECORD_HEADER.size + RECORD_HEADER.unpack(header)[1]
        return expected == size

    def _rebuild_index(self, position: int) -> "array[int]":
        segment = self._segments[position]
        data = read_file(segment.path)
        scan = scan_segment(segment.path, segment.first_height, data)
        if scan.damage is not None:
            raise scan.damage
        count = self._count_of(position)
        if len(scan.offsets) != count:
            last_height = segment.first_height + len(scan.offsets)
            expected = f"{count} records up to the file {self._segments[position + 1].path.name}"
            found = f"{len(scan.offsets)} records"
            raise DamagedBlockLog(segment.path, scan.end, last_height, expected, found)
        segment.offsets = scan.offsets
        if not self._read_only:
            self._write_index(segment)
        return scan.offsets

    def _write_index(self, segment: Segment) -> None:
        assert segment.offsets is not None
        big_endian = array("Q", segment.offsets)
        if byteorder == "little":
            big_endian.byteswap()
        path = self._index_path(segment)
        try:
            path.write_bytes(big_endian.tobytes())
        except OSError as error:
            raise self._fail(error, path, "write the index of the block log") from error

    def _index_path(self, segment: Segment) -> Path:
        return segment.path.with_suffix(".idx")

    def _path_of(self, first_height: int) -> Path:
        return self.folder / f"{first_height:0{HEIGHT_DIGITS}d}.log"
