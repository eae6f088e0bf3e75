"""The cluster that the scenes share."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from tests.faults.consensus.cluster import Cluster
from tests.faults.consensus.history import History, Watch
from tests.faults.consensus.load import Load
from tests.faults.consensus.stage import Stage
from tests.faults.consensus.validators import Killing

VALIDATORS = 4
SOAK_VALIDATORS = 7
DISK = 2
"""Number of the node whose home is a file system of its own, where mounting is allowed."""
DISK_OPTIONS = "size=1g"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, soak: bool, seed: int) -> Iterator[Stage]:
    """Validators under load; one was killed as its network began."""
    folder = tmp_path_factory.mktemp("consensus")
    source = random.Random(seed)
    disk = folder / f"node{DISK}"
    disk.mkdir()
    is_mounted = _mount(disk)
    try:
        count = SOAK_VALIDATORS if soak else VALIDATORS
        cluster = Cluster(folder, count, sha256(b"%d" % seed).digest())
        try:
            yield from _play(cluster, source, soak, is_mounted)
        finally:
            cluster.close()
    finally:
        if is_mounted:
            subprocess.run(["umount", "--lazy", str(disk)], check=True)


def _mount(folder: Path) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", DISK_OPTIONS, "tmpfs", str(folder)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def _play(cluster: Cluster, source: random.Random, soak: bool, is_mounted: bool) -> Iterator[Stage]:
    last = len(cluster.members) - 1
    cluster.start(last, killing=Killing("init_chain", "app", is_after=source.random() < 0.5))
    cluster.wait("a node killed at its genesis", lambda: bool(cluster.members[last].deaths))
    cluster.start_all()
    load = Load(cluster, source)
    watch = Watch(cluster)
    try:
        load.start()
        yield Stage(
            cluster=cluster,
            load=load,
            history=History(cluster),
            watch=watch,
            source=source,
            is_soak=soak,
            disk_number=DISK,
            is_mounted=is_mounted,
        )
    finally:
        load.finish()
        watch.close()
