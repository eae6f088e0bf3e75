"""Runs a command that must not outlive the process that started this one, and bounds its log.

Usage: guard.py PARENT LOCK LOG LOG_BYTES COMMAND...

A program of its own with nothing but the standard library. Prints the command's process id, or a
line that says why it was not started; ends as the command ends.

Why a program, and not PR_SET_PDEATHSIG on the command: that signal comes when the *thread* that
forked ends, and setting it between fork and exec in a process with threads (preexec_fn) can
deadlock. A pipe that the parent holds would be held by its forked workers too. Here the parent is
watched by a pidfd, which speaks of the process; and this program, which has one thread, sets
PR_SET_PDEATHSIG on the command, so that not even its own death leaves the command behind.
"""

import ctypes
import fcntl
import os
import select
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

PR_SET_PDEATHSIG: Final = 1
"""prctl(2)."""
LOCK_WAIT_S: Final = 10.0
CHUNK: Final = 65_536
FAILURE: Final = b'msg":"CONSENSUS FAILURE!!!"'
"""What CometBFT logs when it will decide nothing more, as on a full disk or with another state
than its peers; it goes on answering as if nothing were. With its quotes, for what a peer may have
logged comes with quotes escaped."""


class BoundedLog:
    """Appends to a file; when that is full it becomes ``NAME.1`` and a new one starts."""

    def __init__(self, path: str, limit: int) -> None:
        self.path = path
        self.limit = limit
        """Bytes of each of the two files."""
        self.lost = 0
        self._open()

    def _open(self) -> None:
        self.file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        self.size = os.fstat(self.file).st_size

    def write(self, data: bytes) -> None:
        """Append; what a full disk doesn't take is counted, for the log may not stop the engine."""
        try:
            if self.lost:
                data = b"%d bytes of this log were lost: the disk was full\n" % self.lost + data
            if self.size and self.size + len(data) > self.limit:
                self._rotate()
            written = os.write(self.file, data)
        except OSError:
            self.lost += len(data)
            return
        self.size += written
        self.lost = len(data) - written

    def _rotate(self) -> None:
        Path(self.path).replace(self.path + ".1")
        full = self.file
        self._open()
        os.close(full)


def say(line: str) -> None:
    """Tell the parent; nobody may be listening any more."""
    with suppress(BrokenPipeError):
        os.write(1, f"{line}\n".encode())


def take_lock(path: str) -> int | None:
    """Lock the file of a home, waiting for the last command on it to be gone for good.

    The command inherits the lock, so it is held while any of the two lives. Two engines with one
    key would sign two histories.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return None
            time.sleep(0.02)
        else:
            return lock


def run_command(command: list[str], guard: int, output: int, lock: int) -> NoReturn:
    """Become the command; it dies when its parent, this program, does."""
    try:
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard:  # It died before the line above.
            os._exit(1)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.set_inheritable(lock, True)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.execv(command[0], command)  # noqa: S606 - a list of arguments fixed by process.py
    finally:
        os._exit(127)


def keep_log(output: int, parent: int, child: int, log: BoundedLog) -> None:
    """Log what the command writes until it ends; kill it when it has failed, or the parent is gone.

    A command that is dead is noticed and started again; one that only looks alive is not.
    """
    tail = b""
    watched = select.poll()
    watched.register(output, select.POLLIN)
    watched.register(parent, select.POLLIN)
    while True:
        for descriptor, _ in watched.poll():
            if descriptor == parent:
                # Nobody is there to stop it in order; its write-ahead log is made for this.
                os.kill(child, signal.SIGKILL)
                watched.unregister(parent)
            elif data := os.read(output, CHUNK):
                log.write(data)
                if FAILURE in tail + data:
                    os.kill(child, signal.SIGKILL)
                tail = data[-len(FAILURE) :]
            else:
                return


def main(arguments: list[str]) -> int:
    """Run the command to its end; returns its status, 128 + N where signal N ended it."""
    parent_id, lock_path, log_path, log_bytes, *command = arguments
    parent = os.pidfd_open(int(parent_id))
    if os.getppid() != int(parent_id):
        return 1
    lock = take_lock(lock_path)
    if lock is None:
        say(f"{lock_path}: expected no other node on this home, got one that runs")
        return 1
    log = BoundedLog(log_path, int(log_bytes))
    output, write_end = os.pipe()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    guard = os.getpid()
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        run_command(command, guard, write_end, lock)

    def pass_on(number: int, _: FrameType | None) -> None:
        os.kill(child, number)  # Not yet waited for, so the number is still the command's.

    signal.signal(signal.SIGTERM, pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    os.close(write_end)
    say(str(child))
    keep_log(output, parent, child, log)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
