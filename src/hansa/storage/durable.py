"""Making names survive a power failure: a file is durable only once its folder is."""

import os
from pathlib import Path

from hansa.storage.errors import as_storage_error


def sync_folder(folder: Path) -> None:
    """Makes the names in `folder` durable.

    Raises: OSError.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Creates `folder` and its missing parents, each durable in its own parent.

    Raises: StorageFull, StorageUnwritable.
    """
    missing = [path for path in (folder, *folder.parents) if not path.is_dir()]
    try:
        for path in reversed(missing):
            path.mkdir(exist_ok=True)
            sync_folder(path.parent)
    except OSError as error:
        raise as_storage_error(error.errno or 0, folder, "create this folder") from error


def write_all(descriptor: int, parts: list[memoryview], offset: int) -> None:
    """Writes `parts` one after another from `offset`, however the kernel splits the work.

    Raises: OSError; then any prefix of the parts may have been written.
    """
    while parts:
        # A short write is legal, and is what a nearly full disk gives before it gives ENOSPC.
        written = os.pwritev(descriptor, parts[:IOV_MAX], offset)
        offset += written
        while parts and written >= parts[0].nbytes:
            written -= parts[0].nbytes
            parts.pop(0)
        if written:
            parts[0] = parts[0][written:]


IOV_MAX = min(1024, os.sysconf("SC_IOV_MAX"))
