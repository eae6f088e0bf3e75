"""The key-value state: what the block log adds up to, with the height it stands at (LMDB).

Durability. The state may lag behind the block log and is replayed from it, but it must never be
torn. The environment is opened with MDB_NOMETASYNC: every commit flushes its pages before its meta
page is written, so an OS crash undoes at most the last commit, whole. MDB_NOSYNC, which lets the
kernel write the meta page before the pages it points to and so can destroy the tree, is not used.
A commit with `sync` flushes the meta page as well.
"""

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from operator import lt
from pathlib import Path
from threading import Lock
from types import TracebackType

import lmdb

from hansa.storage.durable import make_folder
from hansa.storage.errors import StorageDamaged, StorageError, as_storage_error, still_failed

KEY_BYTES_MAX = 511
# Address space, not disk: the file grows with what is in it.
MAP_BYTES_DEFAULT = 1 << 34
MAP_BYTES_MAX = 1 << 46
READERS_MAX = 1024
# With less room than this, a write that fails has failed for want of room.
FREE_BYTES_MIN = 256 * 1024
DATA_NAME = "data.mdb"
HEIGHT_NAME = b"\x00height"

DAMAGE_ERRORS = (
    lmdb.CorruptedError,
    lmdb.PageNotFoundError,
    lmdb.InvalidError,
    lmdb.VersionMismatchError,
    lmdb.PanicError,
)


class DamagedStateStore(StorageDamaged):
    """The state is not what was written; it can be derived again from the block log."""

    def __init__(self, folder: Path, found: str) -> None:
        text = (
            f"damaged state: expected an LMDB environment, got {found}; remove this folder and "
            "start again: the state is replayed from the block log"
        )
        super().__init__(errno.EBADMSG, text, str(folder))


_WALK = """
import sys, lmdb
environment = lmdb.Environment(sys.argv[1], max_dbs=2, readonly=True, lock=False, readahead=True)
for name in (b"state", b"meta"):
    try:
        table = environment.open_db(name, create=False)
    except lmdb.NotFoundError:
        continue
    with environment.begin(db=table) as transaction:
        found = sum(1 for _ in transaction.cursor().iternext(values=False))
        if found != transaction.stat(table)["entries"]:
            sys.exit(f"{name.decode()}: {found} keys")
"""
"""Goes through every key; run where it may die of what it finds."""

WALK_S_MAX = 600


class SnapshotExpired(RuntimeError):
    """The memory map had to move under the snapshot, or the store was closed; take a new one."""


def storage_error_of(error: lmdb.Error, folder: Path, action: str) -> StorageError:
    """The storage error for what LMDB reports; its codes over 0 are those of the OS."""
    if isinstance(error, DAMAGE_ERRORS):
        return DamagedStateStore(folder, str(error))
    code = error.code if error.code > 0 else errno.EIO
    if code == errno.EIO:
        code = short_write_errno(folder)
    return as_storage_error(code, folder, f"{action} ({error})")


def short_write_errno(folder: Path) -> int:
    """What stands behind an EIO of LMDB, which is also its word for a write that was cut short."""
    disk = os.statvfs(folder)
    if disk.f_bavail * disk.f_frsize < FREE_BYTES_MIN:
        return errno.ENOSPC
    file_bytes_max = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    file_bytes = (folder / DATA_NAME).stat().st_size
    if file_bytes_max != resource.RLIM_INFINITY and file_bytes >= file_bytes_max:
        return errno.EFBIG
    return errno.EIO


class Snapshot:
    """The state as it stood when the snapshot was taken, whatever is committed later.

    It may be used in another thread than it was taken in, but in one at a time. While it is open
    the space of what later commits replace is not used again: close it soon.
    """

    def __init__(
        self, transaction: "lmdb.Transaction[bytes]", state: "lmdb._Database", height: int
    ) -> None:
        self._transaction = transaction
        self._state = state
        self.height = height

    def __enter__(self) -> "Snapshot":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def entries(self) -> int:
        """The number of keys."""
        return self._transaction.stat(self._state)["entries"]

    def get(self, key: bytes) -> bytes | None:
        """The value of `key`, or None.

        Raises: SnapshotExpired.
        """
        try:
            return self._transaction.get(key)
        except lmdb.BadValsizeError:
            raise ValueError(
                f"expected a key of 1 to {KEY_BYTES_MAX} bytes, got {len(key)}"
            ) from None
        except lmdb.Error as error:
            raise SnapshotExpired(str(error)) from error

    def scan(self, prefix: bytes, start: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Entries whose key begins with `prefix`, in key order, from the key `start` on.

        Raises: SnapshotExpired.
        """
        first = prefix if start is None else max(prefix, start)
        try:
            with self._transaction.cursor() as cursor:
                is_found = cursor.set_range(first) if first else cursor.first()
                if not is_found:
                    return
                for key, value in cursor.iternext(keys=True, values=True):
                    if not key.startswith(prefix):
                        return
                    yield key, value
        except lmdb.Error as error:
            raise SnapshotExpired(str(error)) from error

    def close(self) -> None:
        """Releases the snapshot; closing twice does nothing."""
        self._transaction.abort()


class StateStore:
    """Keys of 1 to 511 bytes to values, committed per height.

    `get`, `get_many`, `get_meta`, `entries` and `commit` belong to one thread; other threads read
    through `snapshot` or `scan`. `failed` is the error after which commits are refused until the
    store is opened again; reading goes on, at the last height committed.

    Raises: StorageFull, StorageUnwritable, DamagedStateStore.
    """

    def __init__(self, folder: Path | str, map_bytes: int = MAP_BYTES_DEFAULT) -> None:
        self.folder = Path(folder)
        self.failed: StorageError | None = None
        self._remapping = Lock()
        make_folder(self.folder)
        self._check_pages()
        try:
            self._environment = lmdb.Environment(
                str(self.folder),
                map_size=max(map_bytes, 2 * self._file_bytes()),
                max_dbs=2,
                max_readers=READERS_MAX,
                max_spare_txns=8,
                metasync=False,
                sync=True,
                # The keys of one block are spread over the whole tree; reading ahead around each
                # would push out of memory what is wanted.
                readahead=False,
            )
            self._check_length()
            # Readers that were killed would otherwise keep old pages from ever being used again.
            self._environment.reader_check()
            self._state = self._environment.open_db(b"state")
            self._meta = self._environment.open_db(b"meta")
        except lmdb.Error as error:
            raise storage_error_of(error, self.folder, "open the state") from error
        self._transaction = self._environment.begin(db=self._state)
        self.height = self._read_height()

    def __enter__(self) -> "StateStore":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def entries(self) -> int:
        """The number of keys."""
        return self._transaction.stat(self._state)["entries"]

    @property
    def map_bytes(self) -> int:
        """The size to which the file may grow before the map is doubled."""
        return self._environment.info()["map_size"]

    def get(self, key: bytes) -> bytes | None:
        """The value of `key` at the last height committed, or None."""
        return self._transaction.get(key)

    def get_many(self, keys: Iterable[bytes]) -> list[bytes | None]:
        """The values of `keys`, in their order."""
        get = self._transaction.get
        return [get(key) for key in keys]

    def get_meta(self, name: bytes) -> bytes | None:
        """What was committed under `name` beside the state, or None."""
        return self._transaction.get(name, db=self._meta)

    def scan(self, prefix: bytes, start: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Entries whose key begins with `prefix`, in key order, from the key `start` on.

        They are those of the moment the first is asked for, whatever is committed meanwhile.
        Raises: SnapshotExpired.
        """
        with self.snapshot() as snapshot:
            yield from snapshot.scan(prefix, start)

    def snapshot(self) -> Snapshot:
        """The state as it stands now, to be read while later commits go on.

        Raises: StorageError when the store is closed or has too many snapshots open.
        """
        with self._remapping:
            try:
                transaction = self._environment.begin(db=self._state)
            except lmdb.Error as error:
                raise storage_error_of(error, self.folder, "read the state") from error
        raw_height = transaction.get(HEIGHT_NAME, db=self._meta)
        return Snapshot(transaction, self._state, int.from_bytes(raw_height or b"", "big"))

    def commit(
        self,
        writes: Sequence[tuple[bytes, bytes | None]],
        *,
        height: int,
        meta: Mapping[bytes, bytes] | None = None,
        sync: bool = True,
    ) -> None:
        """Applies `writes`, None meaning delete, with `height` and `meta`, all or nothing.

        With `sync=False` an OS crash may undo the commit, whole; never a part of it.
        Raises: StorageError if an earlier commit failed, ValueError for a falling height, a key
        out of order, doubled or of a wrong size, or a reserved meta name, StorageFull,
        StorageUnwritable, DamagedStateStore.
        """
        if self.failed is not None:
            raise still_failed(self.failed) from self.failed
        self._check_commit(writes, height, meta or {})
        stored_meta = {**(meta or {}), HEIGHT_NAME: height.to_bytes(8, "big")}
        while True:
            try:
                self._write(writes, stored_meta)
                if sync:
                    self._environment.sync(True)
                break
            except lmdb.MapFullError:
                self._grow()
            except lmdb.Error as error:
                self.failed = storage_error_of(error, self.folder, f"commit height {height}")
                raise self.failed from error
        self._renew()
        self.height = height

    def close(self) -> None:
        """Releases the environment; snapshots still open expire."""
        self._transaction.abort()
        self._environment.close()

    def _check_commit(
        self,
        writes: Sequence[tuple[bytes, bytes | None]],
        height: int,
        meta: Mapping[bytes, bytes],
    ) -> None:
        if height < self.height:
            raise ValueError(f"expected height {self.height} or over, got {height}")
        keys = [key for key, _ in writes]
        if not all(map(lt, keys, islice(keys, 1, None))):
            where = next(i for i in range(1, len(keys)) if keys[i - 1] >= keys[i])
            raise ValueError(f"expected a key after {keys[where - 1]!r}, got {keys[where]!r}")
        # Sorted, an empty key could only be the first.
        longest = max(map(len, keys), default=1)
        if longest > KEY_BYTES_MAX or (keys and not keys[0]):
            got = longest if longest > KEY_BYTES_MAX else 0
            raise ValueError(f"expected keys of 1 to {KEY_BYTES_MAX} bytes, got {got}")
        if HEIGHT_NAME in meta:
            raise ValueError(f"expected any meta name but {HEIGHT_NAME!r}, got it")

    def _write(
        self, writes: Sequence[tuple[bytes, bytes | None]], meta: Mapping[bytes, bytes]
    ) -> None:
        puts = [(key, value) for key, value in writes if value is not None]
        with self._environment.begin(db=self._state, write=True) as transaction:
            with transaction.cursor() as cursor:
                cursor.putmulti(puts)
            if len(puts) < len(writes):
                for key, value in writes:
                    if value is None:
                        transaction.delete(key)
            for name, value in meta.items():
                transaction.put(name, value, db=self._meta)

    def _renew(self) -> None:
        with self._remapping:
            previous = self._transaction
            self._transaction = self._environment.begin(db=self._state)
            previous.abort()

    def _grow(self) -> None:
        """Doubles the map; the write transaction is aborted already, readers lose their place."""
        map_bytes = self.map_bytes
        if map_bytes >= MAP_BYTES_MAX:
            action = f"grow the state over {MAP_BYTES_MAX} bytes"
            self.failed = as_storage_error(errno.EFBIG, self.folder, action)
            raise self.failed
        with self._remapping:
            self._transaction.abort()
            self._environment.set_mapsize(2 * map_bytes)
            self._transaction = self._environment.begin(db=self._state)

    def _read_height(self) -> int:
        return int.from_bytes(self.get_meta(HEIGHT_NAME) or b"", "big")

    def _check_pages(self) -> None:
        """Go through the tree once in a process of its own.

        LMDB ends the whole process at a page that can't be: here that is a child's death, and the
        node says which folder to remove instead of dying without a word.
        """
        if self._file_bytes() == 0:
            return
        try:
            walk = subprocess.run(
                [sys.executable, "-c", _WALK, str(self.folder)],
                capture_output=True, text=True, timeout=WALK_S_MAX, check=False,
            )  # fmt: skip
        except OSError:
            return  # No process can be started here: the file is taken as it is.
        if walk.returncode != 0:
            said = walk.stderr.strip().splitlines()
            raise DamagedStateStore(self.folder, said[-1] if said else f"{walk.returncode}")

    def _check_length(self) -> None:
        """A file cut short is mapped all the same, and kills whoever reads past its end."""
        pages = self._environment.info()["last_pgno"] + 1
        expected = pages * self._environment.stat()["psize"]
        found = self._file_bytes()
        if found < expected:
            self._environment.close()
            raise DamagedStateStore(self.folder, f"a {DATA_NAME} of {found} bytes for {expected}")

    def _file_bytes(self) -> int:
        try:
            return (self.folder / DATA_NAME).stat().st_size
        except FileNotFoundError:
            return 0
