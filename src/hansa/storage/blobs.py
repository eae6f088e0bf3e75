"""Blobs: large or personal bytes that stay off the chains, named by their SHA-256."""

import errno
import os
import tempfile
from hashlib import sha256
from pathlib import Path

from hansa.storage.durable import make_folder, sync_folder, write_all
from hansa.storage.errors import StorageDamaged, as_storage_error

BLOB_BYTES_MAX_DEFAULT = 64 * 1024 * 1024
DIGEST_BYTES = 32
UNFINISHED_SUFFIX = ".part"


class DamagedBlob(StorageDamaged):
    """A blob's bytes do not have the digest it is named by."""

    def __init__(self, file: Path, expected: bytes, found: bytes) -> None:
        text = f"damaged blob: expected digest {expected.hex()}, got {found.hex()}; put it again"
        super().__init__(errno.EBADMSG, text, str(file))


class BlobStore:
    """Content-addressed files, `<2 hex digits>/<62 hex digits>`; usable from several threads.

    Raises: StorageFull, StorageUnwritable.
    """

    def __init__(self, folder: Path | str, *, blob_bytes_max: int = BLOB_BYTES_MAX_DEFAULT) -> None:
        self.folder = Path(folder)
        self._blob_bytes_max = blob_bytes_max
        make_folder(self.folder)
        # What a crash left half written has no name yet, and nobody waits for it.
        for unfinished in self.folder.glob(f"*{UNFINISHED_SUFFIX}"):
            unfinished.unlink()

    def put(self, data: bytes) -> bytes:
        """Stores `data` durably and returns its SHA-256 digest, 32 bytes.

        Raises: ValueError over the size limit, StorageFull, StorageUnwritable.
        """
        if len(data) > self._blob_bytes_max:
            raise ValueError(f"expected at most {self._blob_bytes_max} bytes, got {len(data)}")
        digest = sha256(data).digest()
        path = self._path_of(digest)
        make_folder(path.parent)
        try:
            self._write(path, data)
        except OSError as error:
            raise as_storage_error(error.errno or 0, path, "store this blob") from error
        return digest

    def get(self, digest: bytes) -> bytes:
        """The bytes whose SHA-256 is `digest`.

        Raises: ValueError for a digest not of 32 bytes, KeyError when absent, DamagedBlob.
        """
        path = self._path_of(digest)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise KeyError(f"expected a stored blob, got digest {digest.hex()}") from None
        found = sha256(data).digest()
        if found != digest:
            raise DamagedBlob(path, digest, found)
        return data

    def delete(self, digest: bytes) -> bool:
        """Removes the blob durably; False when it was not there.

        Raises: ValueError for a digest not of 32 bytes, StorageUnwritable.
        """
        path = self._path_of(digest)
        try:
            path.unlink()
            sync_folder(path.parent)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise as_storage_error(error.errno or 0, path, "delete this blob") from error
        return True

    def _write(self, path: Path, data: bytes) -> None:
        descriptor, name = tempfile.mkstemp(suffix=UNFINISHED_SUFFIX, dir=self.folder)
        try:
            write_all(descriptor, [memoryview(data)] if data else [], 0)
            os.fsync(descriptor)
            # The commit point of a blob: the name appears only over bytes that are durable.
            Path(name).rename(path)
        except BaseException:
            Path(name).unlink()
            raise
        finally:
            os.close(descriptor)
        sync_folder(path.parent)

    def _path_of(self, digest: bytes) -> Path:
        if len(digest) != DIGEST_BYTES:
            raise ValueError(f"expected a digest of {DIGEST_BYTES} bytes, got {len(digest)}")
        return self.folder / digest.hex()[:2] / digest.hex()[2:]
