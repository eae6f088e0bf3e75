"""The end of the nursery that tests hold: has nodes made, kills them, hears what they said."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.conftest import REPOSITORY

SILENCE_S = 60.0
"""Longer than a node is silent, however slow the machine."""


class Nursery:
    """Makes nodes and kills them."""

    def __init__(self) -> None:
        path = os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY)])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": path},
        )
        self._rest = b""
        self._pid = 0

    def close(self) -> None:
        """Let the program end, and a node that a failed test left behind."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
        self.process.communicate(timeout=SILENCE_S)

    def examine(self, home: Path) -> list[str]:
        """Have a damaged home started, stopped and checked; returns what was said of it."""
        self._ask(f"{home} examine")
        lines: list[str] = []
        while not lines or not lines[-1].startswith("dead"):
            line = self._read_line(SILENCE_S)
            assert line is not None, f"nothing was said for {SILENCE_S} s after {lines}"
            lines.append(line)
        return lines

    def run_and_kill(
        self, home: Path, seed: int, hear: Callable[[str], None], after: str, delay_s: float
    ) -> None:
        """Run a node and kill it so long after it first said a word; passes on all it says."""
        self._ask(f"{home} {seed}")
        opening = self._read_line(SILENCE_S)
        assert opening is not None, "no node was made"
        self._pid = int(opening.split()[1])
        hear(opening)
        last = opening
        due_s: float | None = None
        is_killed = False
        while True:
            if due_s is None and last.startswith(after):
                due_s = time.monotonic() + delay_s
            if due_s is not None and not is_killed and time.monotonic() >= due_s:
                os.kill(self._pid, signal.SIGKILL)
                is_killed = True
            left_s = SILENCE_S
            if due_s is not None and not is_killed:
                left_s = max(0.0, due_s - time.monotonic())
            line = self._read_line(left_s)
            if line is None:
                assert left_s < SILENCE_S, f"the node said nothing for {SILENCE_S} s"
            elif line.startswith("dead"):
                self._pid = 0
                assert is_killed, f"the node ended by itself: {line}"
                return
            else:
                hear(line)
                last = line

    def _ask(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()

    def _read_line(self, wait_s: float) -> str | None:
        """Return the next line, or None once there was none for so long."""
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        while b"\n" not in self._rest:
            if not select.select([descriptor], [], [], wait_s)[0]:
                return None
            data = os.read(descriptor, 1 << 16)
            assert data, "the nursery has ended"
            self._rest += data
        line, self._rest = self._rest.split(b"\n", 1)
        return line.decode()
