"""Processor time of processes and of those they started, by what they do; Linux's /proc."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")
TICKS: Final = os.sysconf("SC_CLK_TCK")

ROLES: Final = (
    ("hansa.network.verifiers", "verifier"),
    ("guard.py", "guard"),
    ("cometbft", "cometbft"),
)
"""By a word of the command line; the first that fits. Whatever else there is, is the node."""
NODE: Final = "node"


def read_spent(roots: Iterable[int]) -> dict[str, float]:
    """Return the seconds of processor time by role, of these processes and all below them.

    A process that has ended meanwhile counts no more.
    """
    children = _read_children()
    spent = {NODE: 0.0, "verifier": 0.0, "cometbft": 0.0, "guard": 0.0}
    due = list(roots)
    while due:
        pid = due.pop()
        due += children.get(pid, ())
        try:
            seconds = _read_seconds(pid)
            command = (PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        spent[find_role(command)] += seconds
    return spent


def find_role(command: str) -> str:
    """Return what a process does, by its command line."""
    return next((role for word, role in ROLES if word in command), NODE)


def subtract(after: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    """Return what was spent between two readings."""
    return {role: seconds - before.get(role, 0.0) for role, seconds in after.items()}


def read_machine() -> float:
    """Return the seconds that all processors together have been busy, whoever used them."""
    fields = (PROC / "stat").read_text().split("\n", 1)[0].split()[1:]
    ticks = [int(field) for field in fields[:8]]
    idle, waiting = ticks[3], ticks[4]
    return (sum(ticks) - idle - waiting) / TICKS


def _read_children() -> dict[int, list[int]]:
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            parent = int(_read_fields(int(entry.name))[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(parent, []).append(int(entry.name))
    return children


def _read_seconds(pid: int) -> float:
    fields = _read_fields(pid)
    return (int(fields[11]) + int(fields[12])) / TICKS


def _read_fields(pid: int) -> list[str]:
    """Return the fields of proc_pid_stat(5) from the third on; the second may hold spaces."""
    return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
