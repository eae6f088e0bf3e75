"""A cluster under load on which one scene after another is played, and what came of each."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.faults.consensus.cluster import PATIENCE_S, Cluster
from tests.faults.consensus.history import History, Watch
from tests.faults.consensus.load import Load

TABLE: Final = "HANSA_FAULT_TABLE"
"""Names a file that the table is written to."""
HEAD: Final = (
    "| Scenario | What happened | Longest time without a block, s | Blocks |"
    " Acknowledged meanwhile | Lost |"
)
SHARE_FOR_LOAD: Final = 3
"""Transactions that have to be acknowledged in a scene, so that it was played under load."""


@dataclass
class Scene:
    """One row of the table."""

    name: str
    happened: str = ""
    quiet_s: float = 0.0
    blocks: int = 0
    acknowledged: int = 0
    lost: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lost = "nothing" if not self.lost else f"{len(self.lost)} transactions"
        return (
            f"| {self.name} | {self.happened} | {self.quiet_s:.1f} | {self.blocks} |"
            f" {self.acknowledged} | {lost} |"
        )


@dataclass
class Stage:
    """What the scenes share."""

    cluster: Cluster
    load: Load
    history: History
    watch: Watch
    source: random.Random
    is_soak: bool
    disk_number: int
    is_mounted: bool
    scenes: list[Scene] = field(default_factory=list)

    def choose(self, short: int, long: int) -> int:
        """Return how much of something there is to be in this run."""
        return long if self.is_soak else short

    @contextmanager
    def scene(self, name: str) -> Iterator[Scene]:
        """Play a scene; then all is mended, and nothing may be lost or told in two ways."""
        print(f"HANSA_SEED={os.environ['HANSA_SEED']}")
        cluster, scene = self.cluster, Scene(name)
        began, height = time.monotonic(), cluster.height
        before = len(self.load.acknowledged)
        yield scene
        cluster.heal()
        self.wait_acknowledged(before + SHARE_FOR_LOAD)
        scene.quiet_s = cluster.longest_gap(began, time.monotonic())
        scene.blocks = cluster.height - height
        scene.acknowledged = len(self.load.acknowledged) - before
        scene.lost = self.find_lost()
        self.scenes.append(scene)
        print(scene)
        assert [] == scene.lost
        assert [] == cluster.troubles
        assert [] == self.watch.troubles

    def wait_acknowledged(self, count: int) -> None:
        """Wait until so many transactions were acknowledged in all."""
        self.cluster.wait(
            f"{count} acknowledged transactions", lambda: len(self.load.acknowledged) >= count
        )

    def find_lost(self) -> list[str]:
        """Compare all nodes up to what is acknowledged by now; return what isn't there."""
        acknowledged = self.load.acknowledged

        def is_compared() -> bool:
            self.history.read_on()
            return self.history.has_all(acknowledged)

        self.cluster.wait("all nodes to have what was acknowledged", is_compared, PATIENCE_S)
        return self.history.find_lost(acknowledged)

    def let_pass(self, seconds: float) -> None:
        """Let time go by where nothing is expected to happen; there is nothing to wait for."""
        began = time.monotonic()
        self.cluster.wait(
            "time to pass", lambda: time.monotonic() - began >= seconds, 2 * seconds + PATIENCE_S
        )

    def write_table(self) -> None:
        """Write what came of the scenes where it is wanted."""
        lines = [
            HEAD,
            "| --- | --- | --- | --- | --- | --- |",
            *map(str, self.scenes),
        ]
        print("\n".join(lines))
        if path := os.environ.get(TABLE):
            Path(path).write_text("\n".join(lines) + "\n")
