"""One writer per home: two nodes on one block log would acknowledge different blocks."""

import errno
import fcntl
import os
from pathlib import Path

from hansa.storage.durable import make_folder
from hansa.storage.errors import StorageError, as_storage_error

LOCK_NAME = "lock"
HOLDER_BYTES_MAX = 1024


class HomeLocked(StorageError):
    """Another holder has the home; `file`, `pid` (None when unknown) and `purpose` name it."""

    def __init__(self, file: Path, pid: int | None, purpose: str) -> None:
        holder = f"process {pid}" if pid is not None else "another process"
        text = f"expected a free home, got one locked by {holder} ({purpose}); stop that one first"
        super().__init__(errno.EWOULDBLOCK, text, str(file))
        self.file = file
        self.pid = pid
        self.purpose = purpose


class HomeLock:
    """Holds `<folder>/lock` until `release` or the death of the process.

    The kernel releases the lock with the last descriptor, so none is ever stale; the file is
    never removed, since a lock on a removed file would exclude nobody.
    Raises: HomeLocked, StorageFull, StorageUnwritable.
    """

    def __init__(self, folder: Path | str, purpose: str = "node") -> None:
        self.file = Path(folder) / LOCK_NAME
        make_folder(self.file.parent)
        try:
            self._descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise as_storage_error(error.errno or 0, self.file, "open the lock") from error
        try:
            self._take(purpose)
        except BaseException:
            self.release()
            raise

    def __enter__(self) -> "HomeLock":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Gives the home free; releasing twice does nothing."""
        if self._descriptor != -1:
            os.close(self._descriptor)
            self._descriptor = -1

    def _take(self, purpose: str) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise HomeLocked(self.file, *self._holder()) from error
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()} {purpose}\n".encode(), 0)
        except OSError as error:
            raise as_storage_error(error.errno or 0, self.file, "write the lock") from error

    def _holder(self) -> tuple[int | None, str]:
        raw = os.pread(self._descriptor, HOLDER_BYTES_MAX, 0).decode(errors="replace")
        pid, _, purpose = raw.strip().partition(" ")
        return (int(pid), purpose) if pid.isdecimal() else (None, "purpose unknown")
