"""A log is verified over HTTP by code that shares nothing with ours: in Go, and by hand."""

import base64
import hashlib
import os
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import nacl.signing
import pytest
from tests.end_to_end.go_verifier import find_go, run_go_verifier

from hansa.core.note import Checkpoint, NoteSigner, sign_note
from hansa.core.tilelog import TileLog, parse_tile_path
from hansa.storage.tiles import TileStore

ORIGIN = "hansa.example/trade"
SEED = b"\x07" * 32
OLD_SIZE, SIZE = 700, 66_000


def answer(log: TileLog, path: str) -> bytes | None:
    """The resource of tlog-tiles at a path below the log's prefix."""
    if path == "checkpoint":
        return sign_note(Checkpoint(ORIGIN, log.size, log.root()).to_text(), ORIGIN, SEED)
    try:
        level, number, width = parse_tile_path(path)
    except ValueError:
        return None
    if isinstance(level, str):
        return log.entry_bundle(number, width)
    return log.tile(level, number, width)


@dataclass
class Served:
    """A log on a port of this machine."""

    log: TileLog
    url: str
    vkey: str
    old: bytes


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A log of three tile levels, served as any web server would."""
    log = TileLog(TileStore(tmp_path_factory.mktemp("tiles")))
    entries = [b"entry %d" % number for number in range(SIZE)]
    log.append(entries[:OLD_SIZE])
    old = answer(log, "checkpoint")
    assert old is not None
    log.append(entries[OLD_SIZE:])

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = answer(log, self.path.removeprefix("/log/trade/"))
            self.send_response(404 if found is None else 200)
            self.end_headers()
            self.wfile.write(found or b"")

        def log_message(self, format: str, *args: object) -> None:
            """Stay silent: requests are no result."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/log/trade"
    yield Served(log, url, str(NoteSigner(ORIGIN, SEED).key), old)
    server.shutdown()
    thread.join()
    server.server_close()


def run_where_go_is(served: Served, vkey: str, old: Path | None = None) -> tuple[int, str]:
    """Status and output of the Go program."""
    done = run_go_verifier(served.url, vkey, old)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def go_is_here() -> bool:
    """Whether Go can be run; CI must have it, elsewhere the check by hand stands alone."""
    if find_go() is None and os.environ.get("CI"):
        pytest.fail("expected go in CI, got none", pytrace=False)
    return find_go() is not None


def test_go_verifies_the_log(served: Served, tmp_path: Path, go_is_here: bool) -> None:
    """Go's note and tlog accept checkpoint, records and older trees, and an earlier checkpoint."""
    if not go_is_here:
        return
    old = tmp_path / "old"
    old.write_bytes(served.old)
    expected = (0, "OK size=66000 records=11 trees=12\n")
    assert expected == run_where_go_is(served, served.vkey, old)


def test_go_refuses_another_key_and_another_past(
    served: Served, tmp_path: Path, go_is_here: bool
) -> None:
    """The Go program does not say OK to whatever it is given."""
    if not go_is_here:
        return
    status, output = run_where_go_is(served, str(NoteSigner(ORIGIN, b"\x08" * 32).key))
    assert (1, True) == (status, "note has no verifiable signatures" in output)
    forked = tmp_path / "forked"
    text = Checkpoint(ORIGIN, OLD_SIZE, hashlib.sha256(b"another past").digest()).to_text()
    forked.write_bytes(sign_note(text, ORIGIN, SEED))
    status, output = run_where_go_is(served, served.vkey, forked)
    assert (1, True) == (status, "checking tree 700" in output)


def fetch(served: Served, path: str) -> bytes:
    """The bytes at a path below the log's prefix."""
    with urllib.request.urlopen(f"{served.url}/{path}", timeout=30) as response:
        body: bytes = response.read()
    return body


def read_checkpoint(note: bytes, vkey: str) -> tuple[int, bytes]:
    """Size and root, once the signature has been verified, by the text of signed-note alone."""
    name, key_id, material = vkey.split("+", 2)
    typed = base64.b64decode(material)
    text, signature_line = note.decode().split("\n\n")
    dash, signer, blob = signature_line.rstrip("\n").split(" ")
    signature = base64.b64decode(blob)
    assert ("—", name, key_id) == (dash, signer, signature[:4].hex())
    assert key_id == hashlib.sha256(name.encode() + b"\n" + typed).hexdigest()[:8]
    nacl.signing.VerifyKey(typed[1:]).verify(text.encode() + b"\n", signature[4:])
    origin, size, root = text.split("\n")
    assert name == origin
    return int(size), base64.b64decode(root)


def hash_tree(hashes: list[bytes]) -> bytes:
    """MTH of RFC 9162 section 2.1.1, as it is written there."""
    if len(hashes) == 1:
        return hashes[0]
    split = 1 << ((len(hashes) - 1).bit_length() - 1)
    left, right = hash_tree(hashes[:split]), hash_tree(hashes[split:])
    return hashlib.sha256(b"\x01" + left + right).digest()


def fetch_all(served: Served, level: str, count: int) -> list[bytes]:
    """Every tile or bundle of a level that has `count` hashes or entries."""
    found = []
    for number in range((count + 255) // 256):
        width = min(256, count - number * 256)
        suffix = "" if width == 256 else f".p/{width}"
        found.append(fetch(served, f"tile/{level}/{number:03}{suffix}"))
    return found


def split_hashes(tile: bytes) -> list[bytes]:
    """The hashes of a tile."""
    return [tile[at : at + 32] for at in range(0, len(tile), 32)]


def test_every_entry_and_tile_leads_to_the_signed_root(served: Served) -> None:
    """A reader with a hash function and Ed25519 downloads the whole log and finds it sound."""
    size, root = read_checkpoint(fetch(served, "checkpoint"), served.vkey)
    assert SIZE == size
    leaves = []
    for bundle in fetch_all(served, "entries", size):
        while bundle:
            end = 2 + int.from_bytes(bundle[:2], "big")
            leaves.append(hashlib.sha256(b"\x00" + bundle[2:end]).digest())
            bundle = bundle[end:]  # noqa: PLW2901 (what is left of it)
    assert root == hash_tree(leaves)
    old_size, old_root = read_checkpoint(served.old, served.vkey)
    assert old_root == hash_tree(leaves[:old_size])
    nodes = leaves
    for level in ("0", "1", "2"):
        assert nodes == split_hashes(b"".join(fetch_all(served, level, len(nodes))))
        full = len(nodes) // 256 * 256
        nodes = [hash_tree(nodes[at : at + 256]) for at in range(0, full, 256)]
    assert [] == nodes
