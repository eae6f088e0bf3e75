"""Where the time of a node goes, thread by thread, as py-spy samples it where it is installed."""

import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

SAMPLES_A_SECOND: Final = 100
END_S: Final = 20.0

MISSING: Final = "py-spy: pip install py-spy, beside the Python that runs this"

WAITING: Final = (
    "Condition.wait (",
    "EpollSelector.select (",
    "_worker (concurrent/futures/thread.py",
    "_receive (hansa/network/verifiers.py",
    "SocketIO.readinto (",
    "Popen._try_wait (",
)
"""What a thread does that waits, though py-spy takes it for busy: system calls it can't tell."""

NAMES: Final = {
    "MainThread": "HTTP",
    "execution": "executing blocks",
    "checking": "judging what peers hand on",
    "intake": "judging what is submitted",
    "gateway": "handing in bundles",
    "abci": "talking to CometBFT",
    "asyncio": "answering with proofs",
    "projector": "read model",
    "light-blocks": "light blocks",
    "relay": "relay",
    "state-root": "state roots",
}


@contextmanager
def sampled(pid: int, seconds: float) -> Iterator[dict[str, Any]]:
    """Sample a process meanwhile; the dict is filled at the end."""
    found: dict[str, Any] = {}
    program = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which(
        "py-spy"
    )
    if program is None:
        yield found
        found["missing"] = MISSING
        return
    with tempfile.TemporaryDirectory(prefix="hansa-bench-") as folder:
        raw = Path(folder) / "stacks"
        command = [program, "record", "--pid", str(pid), "--duration", str(max(1, int(seconds)))]
        command += ["--rate", str(SAMPLES_A_SECOND), "--format", "raw", "--threads"]
        process = subprocess.Popen(
            [*command, "--output", str(raw)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield found
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if raw.exists():
            found.update(share_threads(raw.read_text(encoding="utf-8", errors="replace")))
        else:
            found["missing"] = "py-spy may not look at another process here (ptrace)"


def share_threads(stacks: str) -> dict[str, float]:
    """Return each thread's share of the samples in which it did something, the largest first."""
    counts: Counter[str] = Counter()
    for line in stacks.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = stack.split(";")
        if any(waiting in frames[-1] for waiting in WAITING):
            continue
        # "thread (4711): execution_0"
        thread = frames[0].rpartition(": ")[2].partition("_")[0]
        counts[NAMES.get(thread, thread)] += int(count)
    total = sum(counts.values())
    return {name: round(count / total, 3) for name, count in counts.most_common() if count}
