"""Disks that fill up or refuse under a running node, and two processes that want one home."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa
from tests.conftest import REPOSITORY
from tests.node_world import (
    BUYERS,
    KEYS,
    Clock,
    Market,
    find_unsound_books,
    make_market_home,
)

from hansa.core.errors import OperatorError
from hansa.network.intake import EngineStopped, Inclusion
from hansa.node.composition import GenesisTerms
from hansa.node.fsck import check_home
from hansa.node.home import NodeConfig
from hansa.node.node import Node
from hansa.storage.errors import StorageError
from hansa.storage.lock import HomeLocked

KIB = 1024
SIZES_KIB = (2_000, 2_600)
SOAK_SIZES_KIB = tuple(range(1_600, 6_000, 100))
ROOMY_KIB = 256 * KIB
PATIENCE_S = 60.0
BATCH = 40
MAX_BATCHES = 2_000
NOBODY = 65534
ALONE = NodeConfig(runs_relay=False)


@dataclass
class Disk:
    """A folder with little room: a mount of its own, or else files limited in size."""

    folder: Path
    is_mounted: bool

    def resize(self, kib: int) -> None:
        """Give it so much room."""
        if self.is_mounted:
            options = f"remount,size={kib}k"
            subprocess.run(["mount", "-o", options, str(self.folder)], check=True)
        else:
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (kib * KIB // 4, hard))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A roomy disk that a test makes small."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={ROOMY_KIB}k", "tmpfs", str(folder)]
    is_mounted = subprocess.run(mount, check=False, capture_output=True).returncode == 0
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield Disk(folder, is_mounted)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        if is_mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(node: Node, market: Market) -> list[Inclusion]:
    """Hand in payments until the node stops acknowledging; returns what it acknowledged."""
    acknowledged: list[Inclusion] = []
    for batch in range(MAX_BATCHES):
        envelopes = [
            market.sign("trade", BUYERS[0], market.make_transfer(BUYERS[1], 1, batch * BATCH + n))
            for n in range(BATCH)
        ]
        try:
            settled = node.submit_batch("trade", envelopes).result(PATIENCE_S)
        except EngineStopped:
            return acknowledged
        acknowledged += [place for place in settled if isinstance(place, Inclusion)]
        if node.ready() is not None:
            return acknowledged
    raise AssertionError("the disk never fills")


def check_all_there(home: Path, acknowledged: list[Inclusion]) -> None:
    """Start again and find everything that was acknowledged; the home is sound."""
    with Node(home, keys=KEYS.store, clock=Clock(), config=ALONE) as node:
        assert node.ready() is None
        for place in acknowledged:
            row = node.read_model.get_transaction(place.digest.hex())
            assert row is not None
            assert (place.height, place.leaf) == (row["height"], row["leaf"])
        assert find_unsound_books(node) is None
        Market(node).send("trade", BUYERS[2], Market(node).make_transfer(BUYERS[1], 1, 1 << 60))
    assert check_home(home).findings == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_disk_fills_up(disk: Disk, soak: bool, caplog: pytest.LogCaptureFixture) -> None:
    """A full disk stops acknowledging, aloud; with room made, a restart has all and goes on."""
    for size_kib in SOAK_SIZES_KIB if soak else SIZES_KIB:
        home = disk.folder / str(size_kib)
        disk.resize(ROOMY_KIB)
        make_market_home(home, terms=GenesisTerms(state_root_interval=10, state_root_delay=3))
        caplog.clear()
        node = Node(home, keys=KEYS.store, clock=Clock(), config=ALONE)
        node.start()
        try:
            market = Market(node)
            market.open()
            disk.resize(size_kib)
            acknowledged = fill(node, market)
            reason = node.ready()
            assert reason is not None
            assert "No space left" in reason or "full" in reason or "too large" in reason, reason
            assert "room" in reason, reason
            assert any("room" in record.getMessage() for record in caplog.records)
            assert not node.status()["ready"]
        finally:
            with contextlib.suppress(StorageError, sa.exc.OperationalError):
                node.stop()  # What it would still write is derived, and there is no room for it.
        fill_what_is_left(disk)
        with contextlib.suppress(OperatorError, StorageError):  # Nothing else may come out.
            Node(home, keys=KEYS.store, clock=Clock(), config=ALONE)._let_go()
        disk.resize(ROOMY_KIB)
        (disk.folder / "filler").unlink(missing_ok=True)
        check_all_there(home, acknowledged)
        shutil.rmtree(home)


def fill_what_is_left(disk: Disk) -> None:
    """Leave not a byte."""
    with (disk.folder / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(64 * KIB))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_medium_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A sync that fails is believed: the node stops, and after a restart nothing is missing."""
    home = tmp_path / "home"
    make_market_home(home)
    node = Node(home, keys=KEYS.store, clock=Clock(), config=ALONE)
    node.start()
    market = Market(node)
    market.open()
    before = market.send("trade", BUYERS[0], market.make_transfer(BUYERS[1], 1, 1))

    def fail(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(EngineStopped):
            market.send("trade", BUYERS[0], market.make_transfer(BUYERS[1], 1, 2))
        with pytest.raises(EngineStopped):
            node.submit("trade", b"whatever")
        assert "Input/output error" in str(node.ready())
        assert any("Input/output error" in record.getMessage() for record in caplog.records)
        node.stop()
    check_all_there(home, [before])


@pytest.mark.parametrize("part", ["", "ledger/blocks", "ledger/state"])
def test_folder_that_may_not_be_written(part: str) -> None:
    """A home or a part of it that lost its permissions is refused by name, unharmed."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    home = folder / "home"
    make_market_home(home)
    with Node(home, keys=KEYS.store, clock=Clock(), config=ALONE) as node:
        Market(node).open()
    is_root = os.geteuid() == 0
    paths = [home, *home.rglob("*")]
    for path in paths:
        path.chmod(path.stat().st_mode | 0o066 if path.is_file() else 0o777)
    closed = [path for path in paths if path.is_relative_to(home / part)]
    for path in closed:
        path.chmod(path.stat().st_mode & ~0o222)
    if is_root:
        os.seteuid(NOBODY)
    try:
        with pytest.raises((OperatorError, StorageError)) as refusal:
            Node(home, keys=KEYS.store, clock=Clock(), config=ALONE).stop()
    finally:
        if is_root:
            os.seteuid(0)
    filename = getattr(refusal.value, "filename", None) or ""
    assert str(home / part) in f"{refusal.value} {filename}"
    for path in closed:
        path.chmod(path.stat().st_mode | 0o200)
    check_all_there(home, [])
    shutil.rmtree(folder)


SECOND = """
import sys
from pathlib import Path
from tests.node_world import KEYS
from hansa.node.node import Node
Node(Path(sys.argv[1]), keys=KEYS.store)
"""


def test_two_processes_on_one_home(tmp_path: Path) -> None:
    """The second process is refused by the name of the lock and its holder, and harms nothing."""
    home = tmp_path / "home"
    make_market_home(home)
    with Node(home, keys=KEYS.store, clock=Clock(), config=ALONE) as node:
        market = Market(node)
        market.open()
        with pytest.raises(HomeLocked) as refusal:
            Node(home, keys=KEYS.store)
        assert str(os.getpid()) in str(refusal.value)
        assert refusal.value.file == home / "lock"
        path = os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY)])
        second = subprocess.run(
            [sys.executable, "-c", SECOND, str(home)],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert second.returncode != 0
        assert str(home / "lock") in second.stderr
        assert f"process {os.getpid()}" in second.stderr
        after = market.send("trade", BUYERS[0], market.make_transfer(BUYERS[1], 1, 1))
    check_all_there(home, [after])
