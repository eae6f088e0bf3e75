"""What can go wrong below everything else: each error names the file and says what to do."""

import errno
import os
from pathlib import Path

# EFBIG belongs here because a file-size limit stops a log as a full disk does, and the remedy is
# the same: room.
FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class StorageError(OSError):
    """Storage cannot do what was asked; `errno`, `strerror` and `filename` are set."""


class StorageFull(StorageError):
    """There is no room: disk, quota or file-size limit."""


class StorageUnwritable(StorageError):
    """The operating system refuses to write: permission, read-only mount or failing medium."""


class StorageDamaged(StorageError):
    """Stored bytes are not those which were written."""


def as_storage_error(code: int, path: Path, action: str) -> StorageError:
    """Turns an errno, met while doing `action` to `path`, into the error an operator can act on."""
    reason = os.strerror(code)
    if code in FULL_ERRNOS:
        remedy = "make room there, then start again"
        return StorageFull(code, f"cannot {action}: {reason}; {remedy}", str(path))
    remedy = "expected a writable folder on a sound disk; repair that, then start again"
    return StorageUnwritable(code, f"cannot {action}: {reason}; {remedy}", str(path))


def still_failed(failure: StorageError) -> StorageError:
    """The refusal given to every write after `failure`, of the same class."""
    text = f"refused since an earlier write failed ({failure.strerror}); start again to go on"
    return type(failure)(failure.errno, text, failure.filename)
