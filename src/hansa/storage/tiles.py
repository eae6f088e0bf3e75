"""A folder of immutable files: the tiles of one transparency log, served as they lie there."""

import os
import re
from pathlib import Path
from typing import Final

_ELEMENT: Final = re.compile(r"[0-9a-z]+(\.p)?")


class TileConflict(RuntimeError):
    """Other bytes stand already where a tile is to be written: two histories met in one folder."""

    def __init__(self, path: str, existing: bytes, offered: bytes) -> None:
        """Name the file and what differs."""
        difference = next(
            (
                at
                for at, pair in enumerate(zip(existing, offered, strict=False))
                if pair[0] != pair[1]
            ),
            min(len(existing), len(offered)),
        )
        super().__init__(
            f"{path}: expected the {len(offered)} bytes offered, got {len(existing)} bytes"
            f" on disk that differ from offset {difference}"
        )
        self.path = path


class TileStore:
    """Files below one folder, at the paths of C2SP tlog-tiles; written once, never changed.

    There is no fsync: whatever is lost with the power is derived again from the block log. One
    process writes; any number may read.
    """

    def __init__(self, folder: Path) -> None:
        """Use a folder; it is made with the first file."""
        self._folder = os.fspath(folder)
        self.may_replace = False
        """Whether other bytes at a path give way: true where the block log is what counts."""

    def write(self, path: str, data: bytes) -> None:
        """Store the bytes of a tile, or do nothing where the same bytes are stored.

        Raises: ValueError if the path could lead out of the folder; TileConflict if other bytes
        are stored there and may not be replaced; OSError if the disk does not take the file.
        """
        existing = self.read(path)
        if existing is not None:
            if existing == data:
                return
            if not self.may_replace:
                raise TileConflict(path, existing, data)
        target = f"{self._folder}/{path}"
        # Renamed only when whole, so that a reader never sees half a tile. The name is fixed: what
        # a crash leaves behind is overwritten by the next attempt.
        unfinished = f"{target}.new"
        try:
            _write_file(unfinished, data)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            _write_file(unfinished, data)
        os.replace(unfinished, target)

    def read(self, path: str) -> bytes | None:
        """Return the bytes stored at a path, or None.

        Raises: ValueError if the path could lead out of the folder; OSError if the disk does not
        give the file.
        """
        _check_path(path)
        try:
            with open(f"{self._folder}/{path}", "rb", buffering=0) as file:
                return file.readall()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def size(self, path: str) -> int | None:
        """Return the number of bytes stored at a path, or None."""
        _check_path(path)
        try:
            return os.stat(f"{self._folder}/{path}").st_size
        except (FileNotFoundError, NotADirectoryError):
            return None


def _write_file(name: str, data: bytes) -> None:
    # Bare system calls: a log writes two files for 256 entries, and Python's file objects would
    # cost as much again as the hashing.
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    finally:
        os.close(descriptor)


def _check_path(path: str) -> None:
    # Paths come from requests: nothing absolute, no parent folder, no hidden or unfinished file.
    for element in path.split("/"):
        if not _ELEMENT.fullmatch(element):
            raise ValueError(f"expected a tile path, got {path!r}")
