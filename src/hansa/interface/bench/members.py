"""The nodes of a testnet as processes of their own, for the time of a measurement."""

import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from hansa.core.errors import OperatorError
from hansa.interface.bench.spent import read_spent
from hansa.interface.sandbox.testnet import NodePlace, load_testnet
from hansa.network.comet import guard
from hansa.network.comet.rpc import RpcClient, split_address
from hansa.node.home import load_keys
from hansa.node.node import Node

READY_S: Final = 60.0
STOP_S: Final = 30.0
POLL_S: Final = 0.05
LOG_BYTES: Final = 10_000_000


class Member:
    """A node of a testnet, run by ``hansa start`` in a process that doesn't outlive this one."""

    def __init__(self, folder: Path, place: NodePlace) -> None:
        self.place = place
        self.home = folder / place.home
        self._guard: subprocess.Popen[str] | None = None
        self.pid: int | None = None
        """Of the node itself, while it runs."""

    def start(self) -> None:
        """Start it; returns before it is ready."""
        log = self.home / "bench.log"
        watched = [sys.executable, "-I", "-S", guard.__file__, str(os.getpid())]
        watched += [str(self.home / "bench.lock"), str(log), str(LOG_BYTES)]
        node = [sys.executable, "-m", "hansa.foreground.cli.main", "start"]
        node += ["--home", str(self.home), "--port", str(self.place.port)]
        self._guard = subprocess.Popen(
            [*watched, *node],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        assert self._guard.stdout is not None
        with self._guard.stdout:
            line = self._guard.stdout.readline().strip()
        if not line.isdecimal():
            raise OperatorError(f"{self.place.home}: expected it to start, got {line}")
        self.pid = int(line)

    def wait_ready(self) -> None:
        """Return once it takes transactions. Raises: OperatorError."""
        assert self._guard is not None
        give_up = time.monotonic() + READY_S
        while not self._is_ready():
            if self._guard.poll() is not None or time.monotonic() > give_up:
                raise OperatorError(
                    f"{self.place.home}: expected it to get ready within {READY_S:.0f} s; its log"
                    f" is {self.home / 'bench.log'}"
                )
            time.sleep(POLL_S)

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection(*split_address(self.place.url), timeout=2)
        try:
            connection.request("GET", "/ready")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def stop(self) -> None:
        """End it in good order, or by force where that takes too long."""
        if self._guard is None or self.pid is None:
            return
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
        try:
            self._guard.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._guard.pid, signal.SIGKILL)
            self._guard.wait()
        self._guard, self.pid = None, None


class Members:
    """All nodes of a testnet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nodes = [Member(folder, place) for place in load_testnet(folder).nodes]

    @contextmanager
    def running(self, numbers: Sequence[int] | None = None) -> Iterator[list[Member]]:
        """Run some of them, by default all."""
        chosen = self.nodes if numbers is None else [self.nodes[number] for number in numbers]
        try:
            for member in chosen:
                member.start()
            if numbers is None:
                for member in chosen:
                    member.wait_ready()
            yield chosen
        finally:
            for member in reversed(chosen):
                member.stop()

    @contextmanager
    def with_first_here(self) -> Iterator[Node]:
        """Run them all, the first one in this process, where it can be asked directly."""
        others = range(1, len(self.nodes))
        home = self.nodes[0].home
        node = Node(home, keys=load_keys(home, str))
        with self.running(list(others)) as members, node:
            for member in members:
                member.wait_ready()
            yield node

    def read_spent(self) -> dict[str, float]:
        """Return the processor time of those in processes of their own, by role, in seconds."""
        return read_spent([member.pid for member in self.nodes if member.pid is not None])

    def read_sent_bytes(self) -> int:
        """Return what the engines have sent to their peers since they started."""
        total = 0
        for member in self.nodes:
            if member.pid is not None:
                with RpcClient(member.place.rpc) as rpc:
                    peers = rpc.net_info()["peers"]
                monitors = [peer["connection_status"]["SendMonitor"] for peer in peers]
                total += sum(int(monitor["Bytes"]) for monitor in monitors)
        return total
