"""One holder per home, named to whoever comes second."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hansa.storage.lock import HomeLock, HomeLocked

HOLDER = """
import sys
from hansa.storage.lock import HomeLock
lock = HomeLock(sys.argv[1], "importer")
print("held", flush=True)
sys.stdin.read()
"""


def test_second_in_the_same_process_is_refused_by_name(tmp_path: Path) -> None:
    """The refusal names the file, the process and what it does."""
    with HomeLock(tmp_path, "node"):
        with pytest.raises(HomeLocked, match=f"process {os.getpid()} \\(node\\)") as caught:
            HomeLock(tmp_path, "second")
        found = (caught.value.file, caught.value.pid, caught.value.purpose)
        assert (tmp_path / "lock", os.getpid(), "node") == found
    HomeLock(tmp_path, "third").release()


def test_second_process_is_refused_until_the_first_dies(tmp_path: Path) -> None:
    """A lock held elsewhere refuses, and is free as soon as its holder was killed."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as holder:
        assert holder.stdout is not None
        assert b"held\n" == holder.stdout.readline()
        with pytest.raises(HomeLocked) as caught:
            HomeLock(tmp_path, "node")
        assert (holder.pid, "importer") == (caught.value.pid, caught.value.purpose)
        holder.kill()
        holder.wait()
        HomeLock(tmp_path, "node").release()


def test_release_twice_and_unknown_holder(tmp_path: Path) -> None:
    """Releasing is idempotent; a holder that wrote nothing readable is refused all the same."""
    lock = HomeLock(tmp_path, "node")
    lock.file.write_bytes(b"\xff\xfe")
    with pytest.raises(HomeLocked, match="another process"):
        HomeLock(tmp_path, "node")
    lock.release()
    lock.release()
