"""The block log: layout, chaining, reading, segments, and its answer to torn and flipped bytes."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa.storage import blocklog
from hansa.storage.blocklog import (
    FILE_HEADER,
    NO_DIGEST,
    RECORD_HEADER,
    RECORD_MAGIC,
    BlockLog,
    DamagedBlockLog,
    record_digest,
)

PAYLOADS = [b"one", b"", b"three" * 9, b"four", b"five" * 5]
FIRST_FILE = f"{1:020d}.log"


def write_log(folder: Path, payloads: list[bytes] = PAYLOADS, segment_bytes: int = 10_000) -> None:
    """A log of `payloads`, synced record by record."""
    with BlockLog(folder, segment_bytes=segment_bytes) as log:
        for height, payload in enumerate(payloads, 1):
            log.append(height, payload)
            log.sync()


def last_offset(file: Path, payload: bytes) -> int:
    """Where the last record of `file` starts, its payload given."""
    return file.stat().st_size - len(payload) - RECORD_HEADER.size


def test_reads_back_what_was_appended_after_reopening(tmp_path: Path) -> None:
    """Records come back by height and in order, from a log that was closed and opened."""
    write_log(tmp_path)
    with BlockLog(tmp_path) as log:
        assert (5, 5, None, None) == (log.height, log.durable_height, log.truncated, log.failed)
        assert PAYLOADS == [log.read(height) for height in range(1, 6)]
        assert list(enumerate(PAYLOADS, 1))[2:] == list(log.iterate(3))
        assert [] == list(log.iterate(6))
        assert [1, 2, 3, 4, 5] == list(log.verify())


def test_layout_is_the_one_documented(tmp_path: Path) -> None:
    """The bytes of a file are the header and chained records that the module describes."""
    write_log(tmp_path, [b"one", b"two"])
    first = record_digest(1, NO_DIGEST, (b"one",))
    second = record_digest(2, first, (b"two",))
    expected = (
        blocklog.file_header(1, NO_DIGEST)
        + RECORD_HEADER.pack(RECORD_MAGIC, 3, 1, first)
        + b"one"
        + RECORD_HEADER.pack(RECORD_MAGIC, 3, 2, second)
        + b"two"
    )
    assert expected == (tmp_path / FIRST_FILE).read_bytes()


def test_payload_in_parts_is_the_payload_joined(tmp_path: Path) -> None:
    """A payload may be given in more parts than one system call takes."""
    parts = [bytes([number % 251]) * (number % 7) for number in range(5000)]
    with BlockLog(tmp_path) as log:
        log.append(1, parts)
        log.append(2, [memoryview(b"ab"), bytearray(b"cd")])
        assert [b"".join(parts), b"abcd"] == [log.read(1), log.read(2)]


def test_durable_height_follows_sync_only(tmp_path: Path) -> None:
    """An appended record is not durable before the commit point."""
    with BlockLog(tmp_path) as log:
        log.append(1, b"one")
        assert (1, 0) == (log.height, log.durable_height)
        log.sync()
        assert (1, 1) == (log.height, log.durable_height)


@pytest.mark.parametrize("segment_bytes", [1, 200, 300, 10_000])
def test_segments_are_one_log(tmp_path: Path, segment_bytes: int) -> None:
    """However small the files, reading, verifying, reopening and appending are the same."""
    write_log(tmp_path, segment_bytes=segment_bytes)
    with BlockLog(tmp_path, segment_bytes=segment_bytes) as log:
        log.append(6, b"six")
        assert [*enumerate(PAYLOADS, 1), (6, b"six")] == list(log.iterate(1))
        assert 6 == len(list(log.verify()))


@pytest.mark.parametrize("spoil", [b"", b"\0" * 8, b"\xff" * 16, b"odd"])
def test_index_is_rebuilt_when_missing_or_wrong(tmp_path: Path, spoil: bytes) -> None:
    """No content of the index changes what is read."""
    write_log(tmp_path, segment_bytes=200)
    for index in tmp_path.glob("*.idx"):
        index.unlink()
        if spoil:
            index.write_bytes(spoil)
    with BlockLog(tmp_path) as log:
        assert list(enumerate(PAYLOADS, 1)) == list(log.iterate(1))


def test_first_height_may_be_another(tmp_path: Path) -> None:
    """A log which starts from a snapshot begins above 1, and says so when asked for less."""
    with BlockLog(tmp_path, first_height=100) as log:
        assert (100, 99) == (log.first_height, log.height)
        log.append(100, b"x")
        with pytest.raises(KeyError, match="from 100 to 100, got 99"):
            log.read(99)
    with BlockLog(tmp_path) as log:
        assert (100, 100) == (log.first_height, log.height)
    with pytest.raises(ValueError, match="from height 1, got 100"):
        BlockLog(tmp_path, first_height=1)


WRONG_CALLS: list[tuple[str, Callable[[BlockLog], object], type[Exception]]] = [
    ("append a height again", lambda log: log.append(5, b""), ValueError),
    ("append past the next height", lambda log: log.append(7, b""), ValueError),
    ("read height 0", lambda log: log.read(0), KeyError),
    ("read past the end", lambda log: log.read(6), KeyError),
    ("iterate from past the end", lambda log: log.iterate(7), KeyError),
]


@pytest.mark.parametrize(("name", "call", "error"), WRONG_CALLS)
def test_wrong_calls_are_refused(
    tmp_path: Path, name: str, call: Callable[[BlockLog], object], error: type[Exception]
) -> None:
    """A wrong height is refused and leaves the log as it was."""
    write_log(tmp_path)
    with BlockLog(tmp_path) as log:
        with pytest.raises(error, match="expected"):
            call(log)
        assert 5 == log.height
        log.append(6, b"")


def test_torn_tail_at_every_offset_is_cut_and_reported(tmp_path: Path) -> None:
    """Wherever a crash stops the write of the last record, the records before it are whole."""
    write_log(tmp_path / "sound")
    size = (tmp_path / "sound" / FIRST_FILE).stat().st_size
    start = last_offset(tmp_path / "sound" / FIRST_FILE, PAYLOADS[-1])
    for end in range(start + 1, size):
        folder = tmp_path / f"torn-{end}"
        shutil.copytree(tmp_path / "sound", folder)
        with (folder / FIRST_FILE).open("r+b") as file:
            file.truncate(end)
        with BlockLog(folder) as log:
            assert log.truncated is not None
            found = (log.truncated.file, log.truncated.offset, log.truncated.bytes_cut)
            assert (folder / FIRST_FILE, start, end - start) == found
            assert list(enumerate(PAYLOADS[:-1], 1)) == list(log.iterate(1))
            log.append(5, b"again")
            log.sync()
        with BlockLog(folder) as log:
            assert (None, b"again") == (log.truncated, log.read(5))


def test_torn_file_header_is_removed_and_reported(tmp_path: Path) -> None:
    """A file torn before its header was complete goes; the log ends with the file before."""
    write_log(tmp_path / "sound", segment_bytes=1)
    for end in range(FILE_HEADER.size):
        folder = tmp_path / f"torn-{end}"
        shutil.copytree(tmp_path / "sound", folder)
        with (folder / f"{5:020d}.log").open("r+b") as file:
            file.truncate(end)
        with BlockLog(folder, segment_bytes=1) as log:
            assert log.truncated is not None
            assert (0, end, 4) == (log.truncated.offset, log.truncated.bytes_cut, log.height)
            log.append(5, b"again")
            assert 5 == len(list(log.verify()))


def damage_of(folder: Path) -> DamagedBlockLog | None:
    """Opens and verifies; the damage found, if any."""
    try:
        with BlockLog(folder) as log:
            list(log.verify())
    except DamagedBlockLog as damage:
        return damage
    return None


@pytest.mark.parametrize("segment_bytes", [230, 10_000])
@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
def test_every_flipped_byte_is_cut_or_named(tmp_path: Path, segment_bytes: int, mask: int) -> None:
    """A flip in the last record cuts it; any other stops, naming the file and the record."""
    sound = tmp_path / "sound"
    write_log(sound, segment_bytes=segment_bytes)
    files = sorted(sound.glob("*.log"))
    starts: dict[Path, list[int]] = {}
    with BlockLog(sound) as log:
        list(log.verify())
        for segment in log._segments:
            starts[segment.path] = [0, *(segment.offsets or [])]
    for file in files:
        for position in range(file.stat().st_size):
            folder = tmp_path / "flipped"
            shutil.copytree(sound, folder)
            flipped = bytearray((folder / file.name).read_bytes())
            flipped[position] ^= mask
            (folder / file.name).write_bytes(flipped)
            start = max(each for each in starts[file] if each <= position)
            is_last = file == files[-1] and start == starts[file][-1]
            damage = damage_of(folder)
            if is_last:
                assert damage is None, position
                with BlockLog(folder) as log:
                    assert 4 == log.height, position
            else:
                assert damage is not None, position
                assert (folder / file.name, start) == (damage.file, damage.offset), position
                assert "restore this file from a backup" in str(damage)
            shutil.rmtree(folder)


def test_missing_middle_file_is_named_at_opening(tmp_path: Path) -> None:
    """A file that vanished stops the start, with the file that should be followed by it."""
    write_log(tmp_path, segment_bytes=1)
    (tmp_path / f"{3:020d}.log").unlink()
    with pytest.raises(DamagedBlockLog, match="expected 2 records") as caught:
        BlockLog(tmp_path)
    assert (tmp_path / f"{2:020d}.log", 3) == (caught.value.file, caught.value.height)


def test_file_of_another_history_is_found_by_verify(tmp_path: Path) -> None:
    """A file taken from a log with other records does not chain to its neighbours."""
    write_log(tmp_path / "a", segment_bytes=1)
    write_log(tmp_path / "b", [b"other", *PAYLOADS[1:]], segment_bytes=1)
    shutil.copy(tmp_path / "b" / f"{3:020d}.log", tmp_path / "a")
    damage = damage_of(tmp_path / "a")
    assert damage is not None
    assert (tmp_path / "a" / f"{2:020d}.log", 2) == (damage.file, damage.height)


def test_forged_record_inside_a_torn_payload_is_cut(tmp_path: Path) -> None:
    """A client cannot make a torn write look like damage by putting a record into a payload."""
    forged = RECORD_HEADER.pack(RECORD_MAGIC, 5, 3, record_digest(3, NO_DIGEST, (b"fake!",)))
    write_log(tmp_path, [b"one", b"start" + forged + b"fake!" + b"rest"])
    file = tmp_path / FIRST_FILE
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size - len(b"rest"))
    with BlockLog(tmp_path) as log:
        assert log.truncated is not None
        assert 1 == log.height


def test_read_only_reports_a_torn_tail_and_leaves_it(tmp_path: Path) -> None:
    """An inspection changes no byte."""
    write_log(tmp_path)
    file = tmp_path / FIRST_FILE
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size - 1)
    before = file.read_bytes()
    with BlockLog(tmp_path, read_only=True) as log:
        assert log.truncated is not None
        assert list(enumerate(PAYLOADS[:-1], 1)) == list(log.iterate(1))
        with pytest.raises(OSError, match="opened to be read"):
            log.append(5, b"")
    assert before == file.read_bytes()


@settings(max_examples=30, deadline=None)
@given(
    payloads=st.lists(st.binary(max_size=300), max_size=12),
    segment_bytes=st.integers(min_value=1, max_value=1500),
)
def test_any_payloads_in_any_segments_come_back(
    tmp_path_factory: pytest.TempPathFactory, payloads: list[bytes], segment_bytes: int
) -> None:
    """Reading is the inverse of appending, whatever the payloads and the sizes of the files."""
    folder = tmp_path_factory.mktemp("log")
    write_log(folder, payloads, segment_bytes)
    with BlockLog(folder, segment_bytes=segment_bytes) as log:
        assert list(enumerate(payloads, 1)) == list(log.iterate(1))
        assert len(payloads) == len(list(log.verify()))


@pytest.mark.parametrize(("below", "first"), [(1, 1), (2, 2), (4, 4), (5, 5), (6, 5), (99, 5)])
def test_old_files_are_dropped_and_the_rest_is_one_log(
    tmp_path: Path, below: int, first: int
) -> None:
    """With a record a file, all below a height go but the last, open or opened again."""
    write_log(tmp_path, segment_bytes=1)
    with BlockLog(tmp_path, segment_bytes=1) as log:
        assert first == log.first_height_without(below)
        reading = log.iterate(5)
        log.drop_below(below)
        assert (first, 5) == (log.first_height, log.height)
        assert [(5, PAYLOADS[4])] == list(reading)
        assert list(range(first, 6)) == list(log.verify())
        if first > 1:
            with pytest.raises(KeyError, match=f"from {first} to 5, got {first - 1}"):
                log.read(first - 1)
        log.append(6, b"six")
        log.sync()
    assert 7 - first == len(list(tmp_path.glob("*.log")))
    with BlockLog(tmp_path) as log:
        assert (first, 6) == (log.first_height, log.height)
        assert list(range(first, 7)) == list(log.verify())


def test_a_file_goes_only_if_all_its_records_may(tmp_path: Path) -> None:
    """The height asked for stays readable."""
    write_log(tmp_path, segment_bytes=2 * (RECORD_HEADER.size + 5) + FILE_HEADER.size)
    with BlockLog(tmp_path) as log:
        firsts = [segment.first_height for segment in log._segments]
        for below in range(1, 6):
            assert max(at for at in firsts if at <= below) == log.first_height_without(below)
            log.drop_below(below)
            assert PAYLOADS[below - 1] == log.read(below)
