"""A ledger that begins at a height of others: built beside the present one, then put in its place.

Until it is whole it lies in a folder of its own, and the present ledger stays as it was. The file
``ready`` is the commit point: a start that finds it finishes the exchange, one that doesn't
removes the folder.
"""

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from hansa.core.block import (
    BlockRecord,
    ChainRecord,
    Header,
    compute_app_hash,
    compute_network_hash,
)
from hansa.core.codec import encode
from hansa.storage.durable import make_folder, sync_folder
from hansa.storage.errors import as_storage_error
from hansa.storage.kv import StateStore

FOLDER: Final = "restore"
READY: Final = "ready"
LIGHT_HOPS: Final = "light-hops"
MOVED: Final = ("state", "blocks", LIGHT_HOPS)
"""What a restored ledger has of its own."""
DROPPED: Final = ("tiles", "light")
"""What it begins without."""


def make_base(height: int, headers: Sequence[Header]) -> BlockRecord:
    """Return what stands for the block a ledger begins after: the headers in force, no content.

    Its time is the latest of theirs: block time never goes back, so the next block comes out alike.
    """
    parts = tuple(
        ChainRecord(
            chain=header.chain,
            app_hash=compute_app_hash(header),
            header=header,
            envelopes=(),
            receipts=(),
            pages=(),
            finality=b"",
        )
        for header in headers
    )
    return BlockRecord(
        version=1,
        height=height,
        time_ms=max(header.time_ms for header in headers),
        network_hash=compute_network_hash([(part.chain, part.app_hash) for part in parts]),
        chains=parts,
    )


class Restoration:
    """A ledger in the making. What is given to it has been verified."""

    def __init__(self, ledger_folder: Path) -> None:
        """Begin anew: what an earlier attempt has left is removed. Raises: StorageError."""
        self.folder = ledger_folder / FOLDER
        try:
            _remove(self.folder)
        except OSError as error:
            raise as_storage_error(error.errno or 0, self.folder, "begin to restore") from error
        make_folder(self.folder / "blocks")
        self._store = StateStore(self.folder / "state")

    def add(self, prefix: bytes, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        """Take sorted pairs of the state of the chain with this prefix. Raises: StorageError."""
        writes = [(prefix + key, value) for key, value in pairs]
        self._store.commit(writes, height=0, sync=False)

    def finish(
        self, network: bytes, base: BlockRecord, edges: Mapping[str, bytes],
        roots: Mapping[tuple[str, int], bytes], light_hops: bytes,
    ) -> None:  # fmt: skip
        """Make it whole and durable; from here on it is this node's ledger.

        ``edges`` are those of the logs by chain, ``roots`` those of the state by chain and height,
        ``light_hops`` the light blocks that lead here, for the engine. Raises: StorageError.
        """
        meta = {
            b"network": network,
            b"time": base.time_ms.to_bytes(8, "big"),
            b"base": encode(base),
        }
        for part in base.chains:
            key = part.chain.encode()
            meta[b"edge/" + key] = meta[b"begin/" + key] = edges[part.chain]
            meta[b"header/" + key] = encode(part.header)
            meta[b"app/" + key] = part.app_hash
            meta[b"finality/" + key] = b""
        for (chain, height), root in roots.items():
            meta[b"root/" + chain.encode() + height.to_bytes(8, "big")] = root
        self._store.commit([], height=base.height + 1, meta=meta)
        self._store.close()
        _write_durable(self.folder / LIGHT_HOPS, light_hops)
        _write_durable(self.folder / READY, b"")

    def abandon(self) -> None:
        """Drop it. What can't be removed now is removed by the next start."""
        self._store.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def settle_restoration(ledger_folder: Path) -> None:
    """Put a restored ledger in its place, or remove one that isn't whole; nothing else is open.

    Raises: StorageError.
    """
    folder = ledger_folder / FOLDER
    try:
        if (folder / READY).exists():
            # Each step can be met half done, by whoever starts after a crash: a thing that isn't
            # in the folder any more is in its place already.
            for name in MOVED:
                _replace(folder / name, ledger_folder / name)
            for name in DROPPED:
                _remove(ledger_folder / name)
            sync_folder(ledger_folder)
        elif folder.exists():
            shutil.rmtree(folder)
            return
        else:
            return
        (folder / READY).unlink()
        folder.rmdir()
    except OSError as error:
        raise as_storage_error(error.errno or 0, folder, "restore the ledger") from error


def _replace(source: Path, target: Path) -> None:
    if source.exists():
        _remove(target)
        source.rename(target)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _write_durable(path: Path, data: bytes) -> None:
    try:
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        sync_folder(path.parent)
    except OSError as error:
        raise as_storage_error(error.errno or 0, path, "write what is restored") from error
