"""Finds CometBFT, starts it, and makes sure that it ends when we do."""

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from hansa.core.errors import OperatorError
from hansa.network.comet.rpc import RpcClient, RpcTrouble

TESTED_VERSION: Final = "0.39.4"
OLDEST: Final = (0, 38, 25)
TOO_NEW: Final = (0, 41, 0)
MODULE: Final = "github.com/cometbft/cometbft/cmd/cometbft"
GO_VERSION: Final = "1.25"
"""What the go.mod of the tested version names."""
USUAL_GO: Final = "/usr/local/go/bin"
"""Where Go's own releases are unpacked, by Go's instructions."""

LOG_BYTES: Final = 20_000_000
"""Of the log and of the one before it."""
STOP_S: Final = 10.0
POLL_S: Final = 0.02
TAIL_BYTES: Final = 4_000

_GUARD: Final = Path(__file__).with_name("guard.py")
_VERSION = re.compile(r"v?(\d+)\.(\d+)\.(\d+)")


# Finding it.


def find_binary() -> Path:
    """Return a CometBFT whose version fits: from $COMETBFT if that is set, else the first found.

    Looked for on the PATH, beside our Python, in $GOBIN and in the bin folder of Go's path.

    Raises: OperatorError that says what to install.
    """
    named = os.environ.get("COMETBFT")
    found = []
    for path in [Path(named)] if named else _list_candidates():
        version = read_version(path)
        if version is not None and OLDEST <= version < TOO_NEW:
            return path.absolute()
        shown = "no version" if version is None else ".".join(map(str, version))
        found.append(f"{path} ({shown})")
    oldest, too_new = (".".join(map(str, v)) for v in (OLDEST, TOO_NEW))
    raise OperatorError(
        f"expected CometBFT from {oldest} to before {too_new}, got {', '.join(found) or 'none'};"
        f" {explain_installation()}"
    )


def explain_installation() -> str:
    """Say what to install, for this machine as it is."""
    command = f"go install {MODULE}@v{TESTED_VERSION}"
    go = find_go()
    if go is None:
        return (
            f"install Go {GO_VERSION} or later (Debian: golang-go if it is as new, else unpack"
            f" Go's own release in /usr/local/go), then run: {command}"
        )
    version = _run([str(go), "env", "GOVERSION"]).removeprefix("go")
    if is_older_go(version):
        return (
            f"{go} is Go {version} and Go {GO_VERSION} or later is needed: put a newer one in its"
            f" place, or from 1.21 on let it fetch one (GOTOOLCHAIN=auto), then run: {command}"
        )
    return f"run: {'go' if shutil.which('go') else go}{command.removeprefix('go')}"


def find_go() -> Path | None:
    """Return where Go is, on the PATH or in its usual place."""
    go = shutil.which("go") or shutil.which("go", path=USUAL_GO)
    return None if go is None else Path(go)


def is_older_go(version: str) -> bool:
    """Judge a version such as 1.24.3; one that is no release (devel) is taken as new."""
    match = re.match(r"(\d+)\.(\d+)", version)
    if match is None:
        return False
    needed = tuple(map(int, GO_VERSION.split(".")))
    return (int(match[1]), int(match[2])) < needed


def read_version(binary: Path) -> tuple[int, int, int] | None:
    """Ask a CometBFT for its version; None if this is none."""
    match = _VERSION.match(_run([str(binary), "version"]))
    return None if match is None else (int(match[1]), int(match[2]), int(match[3]))


def _list_candidates() -> Iterator[Path]:
    for folder in dict.fromkeys(_list_folders()):
        if binary := shutil.which("cometbft", path=folder):
            yield Path(binary)


def _list_folders() -> Iterator[str]:
    yield from os.get_exec_path()
    yield str(Path(sys.executable).parent)
    if gobin := os.environ.get("GOBIN"):
        yield gobin
    go = find_go()
    paths = _run([str(go), "env", "GOPATH"]).split(os.pathsep) if go else []
    yield from (f"{path}/bin" for path in [*filter(None, paths), str(Path.home() / "go")])


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


# Running it.


class CometProcess:
    """CometBFT on one home, as a child in a session of its own.

    A guard (``guard.py``) stands between: it ends the engine as soon as this process is gone,
    however that came, and bounds the log.
    """

    def __init__(
        self,
        home: Path,
        rpc_address: str,
        *,
        binary: Path | None = None,
        log_bytes: int = LOG_BYTES,
        on_exit: Callable[[int], None] | None = None,
    ) -> None:
        """``home`` is CometBFT's, as ``config.write_home`` made it.

        ``on_exit`` is called in a thread of its own with the status (128 + N where signal N ended
        it) whenever the engine ends without ``stop`` or ``kill``; it may call ``start`` again.
        """
        self.home = home.absolute()
        self.rpc_address = rpc_address
        self.log = self.home / "comet.log"
        """Lines as CometBFT writes them; ``comet.log.1`` is the part before."""
        self.pid: int | None = None
        """Of CometBFT itself, from start until it has ended."""
        self.status: int | None = None
        """How it ended the last time."""
        self._binary = binary
        self._log_bytes = log_bytes
        self._on_exit = on_exit
        self._guard: subprocess.Popen[str] | None = None
        self._watcher: threading.Thread | None = None
        self._is_wanted = False
        self._lock = threading.Lock()

    @property
    def is_alive(self) -> bool:
        """Whether it was started and hasn't ended."""
        return self.pid is not None

    def start(self) -> None:
        """Start it; returns before it is ready.

        Waits up to 10 s for an engine that still dies on the same home.

        Raises: OperatorError if there is no fitting CometBFT, or another node on this home.
        """
        with self._lock:
            assert self.pid is None, f"{self.home}: started twice"
            self._binary = self._binary or find_binary()
            guard = subprocess.Popen(
                self._make_command(self._binary),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                cwd=self.home,
                env=_make_environment(),
                start_new_session=True,  # Ctrl-C is for us; we end it in our own order.
            )
            self.pid = _read_pid(guard)
            self.status, self._guard, self._is_wanted = None, guard, True
            name = f"comet-{self.home.name}"
            self._watcher = threading.Thread(target=self._watch, args=[guard], name=name)
            self._watcher.daemon = True  # It waits for a child that may outlive an interpreter.
            self._watcher.start()

    def _make_command(self, binary: Path) -> list[str]:
        guard = [sys.executable, "-I", "-S", str(_GUARD), str(os.getpid())]
        guard += [str(self.home / "comet.lock"), str(self.log), str(self._log_bytes)]
        return [*guard, str(binary), "start", "--home", str(self.home)]

    def _watch(self, guard: subprocess.Popen[str]) -> None:
        status = guard.wait()
        with self._lock:
            # The guard's own death by a signal counts as that of the engine, which follows it.
            self.pid, self.status = None, status if status >= 0 else 128 - status
            is_surprise = self._is_wanted
        if is_surprise and self._on_exit is not None:
            self._on_exit(self.status)

    def wait_ready(self, timeout_s: float = 30.0) -> None:
        """Return when its RPC answers; whether it has caught up is in the RPC's status.

        Raises: OperatorError if it ends before, or isn't ready in time.
        """
        deadline = time.monotonic() + timeout_s
        with RpcClient(self.rpc_address, timeout_s=2.0) as rpc:
            while True:
                if not self.is_alive:
                    raise OperatorError(
                        f"CometBFT on {self.home} ended with status {self.status}:\n{self.tail()}"
                    )
                try:
                    rpc.health()
                except RpcTrouble as trouble:
                    if time.monotonic() > deadline:
                        raise OperatorError(
                            f"expected CometBFT on {self.home} to answer at {self.rpc_address}"
                            f" within {timeout_s:g} s, got {trouble}:\n{self.tail()}"
                        ) from None
                else:
                    return
                time.sleep(POLL_S)

    def stop(self, timeout_s: float = STOP_S) -> None:
        """End it in order, or by force if that takes longer than the time given."""
        self._end(signal.SIGTERM, timeout_s)

    def kill(self) -> None:
        """End it as a crash would: kill -9."""
        self._end(signal.SIGKILL, STOP_S)

    def _end(self, number: int, timeout_s: float) -> None:
        with self._lock:
            self._is_wanted = False
            guard, watcher, pid = self._guard, self._watcher, self.pid
        if guard is None or watcher is None or pid is None:
            return
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        watcher.join(timeout_s)
        if watcher.is_alive():
            with suppress(ProcessLookupError):
                os.killpg(guard.pid, signal.SIGKILL)
            watcher.join()

    def tail(self) -> str:
        """Return the end of the log, for a message."""
        if not self.log.exists():
            return "(no log)"
        with self.log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            return file.read().decode(errors="replace").strip()


def _read_pid(guard: subprocess.Popen[str]) -> int:
    assert guard.stdout is not None
    with guard.stdout:
        line = guard.stdout.readline()
        if line.strip().isdecimal():
            return int(line)
        text = line + guard.stdout.read()
    raise OperatorError(f"CometBFT was not started (status {guard.wait()}): {text.strip()}")


def _make_environment() -> dict[str, str]:
    # CometBFT lets CMTHOME go before --home, and any CMT_... before its file of settings.
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("CMT") and name != "TMHOME"
    }


# Ports for networks on one machine.


def pick_ports(count: int) -> list[int]:
    """Return loopback ports that nobody uses now.

    They lie under those that the system gives to outgoing connections: else one of those could
    sit on the port of a node that is down for a moment.

    Raises: OperatorError if there aren't as many.
    """
    source = random.SystemRandom()
    ports = [p for p in source.sample(range(12_000, 32_000), 20 * count + 200) if _is_free(p)]
    if len(ports) < count:
        raise OperatorError(f"expected {count} free ports on 127.0.0.1, got {len(ports)}")
    return ports[:count]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As CometBFT does itself; connections that are closing don't matter.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
