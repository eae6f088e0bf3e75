"""Disks that fill up, refuse and fail, and processes that are killed: nothing acknowledged is lost.

For each write two cases: it fails and is not persisted; it fails but is persisted.
"""

import errno
import os
import random
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import pytest

from hansa.storage.blobs import BlobStore, DamagedBlob
from hansa.storage.blocklog import BlockLog
from hansa.storage.errors import StorageError, StorageFull, StorageUnwritable
from hansa.storage.kv import StateStore
from hansa.storage.lock import HomeLock

DISK_BYTES = 1024 * 1024
NOBODY = 65534
KILL_ROUNDS = 6

LOG_WRITER = """
import random, sys
from hansa.storage.blocklog import BlockLog
log = BlockLog(sys.argv[1], segment_bytes=20_000)
source = random.Random(int(sys.argv[2]))
while True:
    height = log.height + 1
    for each in range(height, height + source.randint(1, 3)):
        log.append(each, each.to_bytes(8, "big") * source.randint(1, 700))
    log.sync()
    print(log.durable_height, flush=True)
"""

STATE_WRITER = """
import sys
from hansa.storage.kv import StateStore
store = StateStore(sys.argv[1], map_bytes=64 * 1024)
while True:
    height = store.height + 1
    stamp = height.to_bytes(8, "big")
    keys = [b"fixed", b"h" + stamp] + [b"k%04d" % number for number in range(200)]
    store.commit([(key, stamp) for key in keys], height=height, meta={b"root": stamp})
    print(height, flush=True)
"""

UNACKNOWLEDGED = {
    "log": """
import os, signal, sys
from hansa.storage.blocklog import BlockLog
log = BlockLog(sys.argv[1])
log.append(log.height + 1, b"second")
os.kill(os.getpid(), signal.SIGKILL)
""",
    "state": """
import os, signal, sys
from hansa.storage.kv import StateStore
store = StateStore(sys.argv[1])
store.commit([(b"k", b"second")], height=2, meta={b"root": b"second"})
os.kill(os.getpid(), signal.SIGKILL)
""",
}


@contextmanager
def small_disk(parent: Path) -> Iterator[Path]:
    """A folder with room for a megabyte: a mount of its own, or else files limited in size."""
    folder = parent / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    is_mounted = subprocess.run(mount, check=False, capture_output=True).returncode == 0
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if not is_mounted:
        resource.setrlimit(resource.RLIMIT_FSIZE, (DISK_BYTES, limits[1]))
    try:
        yield folder
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        if is_mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def read_only_folder() -> Iterator[Path]:
    """A folder which this process may read and not write, even when it is root's."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    is_root = os.geteuid() == 0
    with BlockLog(folder / "log") as log, StateStore(folder / "state") as store:
        log.append(1, b"one")
        log.sync()
        store.commit([(b"k", b"v")], height=1)
    BlobStore(folder / "blobs").put(b"one")
    if is_root:
        os.seteuid(NOBODY)
    else:
        for path in [folder, *folder.rglob("*")]:
            path.chmod(path.stat().st_mode & ~0o222)
    try:
        yield folder
    finally:
        if is_root:
            os.seteuid(0)
        for path in [folder, *folder.rglob("*")]:
            path.chmod(path.stat().st_mode | 0o200)
        shutil.rmtree(folder)


def fail_with_eio(_: int) -> None:
    """What a sync answers when the medium fails."""
    raise OSError(errno.EIO, os.strerror(errno.EIO))


# Block log


def append_for_ever(log: BlockLog) -> None:
    """Appends and syncs until the log refuses."""
    while True:
        log.append(log.height + 1, b"x" * 100_001)
        log.sync()


def test_append_on_a_full_disk_fails_and_is_not_persisted(tmp_path: Path) -> None:
    """Nothing acknowledged is lost, the torn record is cut, and there is no append before that."""
    with small_disk(tmp_path) as disk:
        log = BlockLog(disk / "log", segment_bytes=8 * DISK_BYTES)
        with pytest.raises(StorageFull, match="make room there") as caught:
            append_for_ever(log)
        height = log.durable_height
        assert caught.value is log.failed
        assert height >= 5
        with pytest.raises(StorageFull, match="refused since an earlier write failed"):
            log.append(height + 1, b"small")
        with pytest.raises(StorageFull, match="refused since an earlier write failed"):
            log.sync()
        assert b"x" * 100_001 == log.read(height)
        log.close()
        with BlockLog(disk / "log", segment_bytes=8 * DISK_BYTES) as log:
            assert log.truncated is not None
            assert height == log.height == len(list(log.verify()))
            log.append(height + 1, b"small")
            log.sync()
            assert height + 1 == log.durable_height


def test_new_segment_on_a_full_disk_fails_and_is_not_persisted(tmp_path: Path) -> None:
    """Running out of room between two files is no different."""
    with small_disk(tmp_path) as disk:
        log = BlockLog(disk / "log", segment_bytes=1)
        (disk / "filler").write_bytes(b"")
        log.append(1, b"one")
        log.sync()
        if os.path.ismount(disk):
            free = shutil.disk_usage(disk).free
            (disk / "filler").write_bytes(b"\0" * free)
        with pytest.raises(StorageFull):
            log.append(2, b"x" * 2 * DISK_BYTES)
        log.close()
        (disk / "filler").unlink()
        with BlockLog(disk / "log", segment_bytes=1) as log:
            assert [(1, b"one")] == list(log.iterate(1))
            log.append(2, b"two")
            log.sync()


@pytest.mark.parametrize("is_persisted", [False, True])
def test_failed_sync_acknowledges_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_persisted: bool
) -> None:
    """After a failed fdatasync the record may be there or not; either way the log goes on."""
    log = BlockLog(tmp_path)
    log.append(1, b"one")
    log.sync()
    end = log._end
    log.append(2, b"two")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail_with_eio)
        with pytest.raises(StorageUnwritable, match="make block 2 durable"):
            log.sync()
    with pytest.raises(StorageUnwritable, match="refused since an earlier write failed"):
        log.sync()
    assert (1, b"two") == (log.durable_height, log.read(2))
    log.close()
    if not is_persisted:
        os.truncate(tmp_path / f"{1:020d}.log", end)
    with BlockLog(tmp_path) as log:
        assert (2 if is_persisted else 1) == log.height == log.durable_height
        assert log.truncated is None


def test_appended_but_unacknowledged_block_is_there_whole(tmp_path: Path) -> None:
    """A record whose process was killed before the sync is made durable by opening."""
    with BlockLog(tmp_path) as log:
        log.append(1, b"first")
        log.sync()
    subprocess.run([sys.executable, "-c", UNACKNOWLEDGED["log"], str(tmp_path)], check=False)
    with BlockLog(tmp_path) as log:
        assert (2, b"second", None) == (log.durable_height, log.read(2), log.truncated)


def acknowledged_before_kill(program: str, folder: Path, seed: int, lines: int) -> int:
    """Runs `program`, kills it after it acknowledged `lines` times; the last height it gave."""
    command = [sys.executable, "-c", program, str(folder), str(seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(lines):
            assert process.stdout.readline()
        process.kill()
        # What it acknowledged between the last line read and its death counts as well.
        rest = process.stdout.read().rpartition(b"\n")[0]
        process.wait()
    if rest:
        return int(rest.splitlines()[-1])
    return lines


def test_killed_log_writer_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """Rounds of kill -9 while appending over many files: every acknowledged height is sound."""
    seed = 20240229
    print("seed", seed)
    source = random.Random(seed)
    for _ in range(KILL_ROUNDS):
        acknowledged = acknowledged_before_kill(
            LOG_WRITER, tmp_path, source.randrange(2**32), source.randint(1, 60)
        )
        with BlockLog(tmp_path) as log:
            assert acknowledged <= log.height
            for height, payload in log.iterate(1):
                assert height.to_bytes(8, "big") == payload[:8]
            assert log.height == len(list(log.verify()))


# State


def test_commit_on_a_full_disk_fails_and_is_not_persisted(tmp_path: Path) -> None:
    """The state stays whole at the last height, is still read, and refuses until opened again."""
    with small_disk(tmp_path) as disk:
        store = StateStore(disk / "state")
        store.commit([(b"a", b"1")], height=1)
        with pytest.raises(StorageFull) as caught:
            store.commit(
                [(b"k%06d" % number, b"v" * 200) for number in range(8000)], height=2, meta={}
            )
        assert caught.value is store.failed
        with pytest.raises(StorageFull, match="refused since an earlier write failed"):
            store.commit([(b"b", b"2")], height=2)
        assert (b"1", 1, 1) == (store.get(b"a"), store.height, store.entries)
        store.close()
        with StateStore(disk / "state") as store:
            assert (b"1", 1, 1) == (store.get(b"a"), store.height, store.entries)
            store.commit([(b"b", b"2")], height=2)


def test_committed_but_unacknowledged_state_is_there_whole(tmp_path: Path) -> None:
    """A process killed after a commit and before its answer leaves value, height and meta."""
    with StateStore(tmp_path) as store:
        store.commit([(b"k", b"first")], height=1, meta={b"root": b"first"})
    subprocess.run([sys.executable, "-c", UNACKNOWLEDGED["state"], str(tmp_path)], check=False)
    with StateStore(tmp_path) as store:
        found = (store.height, store.get(b"k"), store.get_meta(b"root"))
        assert (2, b"second", b"second") == found


def test_killed_state_writer_leaves_whole_commits(tmp_path: Path) -> None:
    """Rounds of kill -9 while committing: every value belongs to the height the store says."""
    seed = 20240301
    print("seed", seed)
    source = random.Random(seed)
    height = 0
    for _ in range(KILL_ROUNDS):
        lines = source.randint(1, 25)
        acknowledged = acknowledged_before_kill(STATE_WRITER, tmp_path, 0, lines)
        with StateStore(tmp_path) as store:
            assert height + lines <= store.height
            assert acknowledged <= store.height
            height = store.height
            stamp = height.to_bytes(8, "big")
            assert [stamp] * 201 == [store.get(b"fixed"), *(v for _, v in store.scan(b"k"))]
            assert stamp == store.get_meta(b"root")
            assert height + 201 == store.entries


# Blobs


def test_blob_on_a_full_disk_fails_and_is_not_persisted(tmp_path: Path) -> None:
    """There is no blob, and no unfinished file takes up the room."""
    with small_disk(tmp_path) as disk:
        blobs = BlobStore(disk / "blobs")
        data = b"x" * (2 * DISK_BYTES)
        with pytest.raises(StorageFull):
            blobs.put(data)
        with pytest.raises(KeyError):
            blobs.get(sha256(data).digest())
        assert [] == [path for path in disk.rglob("*") if path.is_file()]
        assert b"small" == blobs.get(blobs.put(b"small"))


def test_blob_whose_folder_is_not_synced_fails_but_is_persisted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Putting it again succeeds, with the same name."""
    blobs = BlobStore(tmp_path)
    digest = blobs.put(b"data")
    assert blobs.delete(digest)
    real_fsync = os.fsync

    def fail_for_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            fail_with_eio(descriptor)
        real_fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail_for_folders)
        with pytest.raises(StorageUnwritable):
            blobs.put(b"data")
    assert b"data" == blobs.get(digest)
    assert digest == blobs.put(b"data")


def test_blob_is_checked_on_read(tmp_path: Path) -> None:
    """A flipped byte is found; size, presence and the length of a digest are checked."""
    blobs = BlobStore(tmp_path, blob_bytes_max=4)
    digest = blobs.put(b"data")
    path = tmp_path / digest.hex()[:2] / digest.hex()[2:]
    path.write_bytes(b"dada")
    with pytest.raises(DamagedBlob, match=digest.hex()):
        blobs.get(digest)
    assert b"data" == blobs.get(blobs.put(b"data"))
    assert (True, False) == (blobs.delete(digest), blobs.delete(digest))
    with pytest.raises(KeyError, match=digest.hex()):
        blobs.get(digest)
    with pytest.raises(ValueError, match="at most 4 bytes, got 5"):
        blobs.put(b"12345")
    with pytest.raises(ValueError, match="32 bytes, got 3"):
        blobs.get(b"abc")


# Permissions


def test_read_only_folder_is_refused_with_the_file(tmp_path: Path) -> None:
    """Every store says which file it cannot write; the log can still be inspected."""
    with read_only_folder() as folder:
        openings: dict[str, Callable[[], object]] = {
            "log": lambda: BlockLog(folder / "log"),
            "new log": lambda: BlockLog(folder / "new"),
            "state": lambda: StateStore(folder / "state"),
            "lock": lambda: HomeLock(folder),
            "blob": lambda: BlobStore(folder / "blobs").put(b"two"),
        }
        refusals: dict[str, StorageError] = {}
        for name, opening in openings.items():
            with pytest.raises(StorageUnwritable, match="repair that") as caught:
                opening()
            refusals[name] = caught.value
        assert [errno.EACCES] * len(openings) == [error.errno for error in refusals.values()]
        assert all(str(folder) in str(error) for error in refusals.values())
        with BlockLog(folder / "log", read_only=True) as log:
            assert [(1, b"one")] == list(log.iterate(1))
