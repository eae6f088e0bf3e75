"""The nodes of a testnet, each a process with a CometBFT of its own, run by this process.

They are forked from it, so that what they all need is loaded once, and die with it: the kernel
kills them when it is gone, and their guards then end the engines. So this process has to stay with
one thread, for a fork copies no other; whatever needs threads is a process of its own.
"""

import ctypes
import gc
import http.client
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Final, NamedTuple

from msgspec.structs import replace

from hansa.core.errors import OperatorError
from hansa.interface.sandbox.control import Command, Reply, Sighting, answer, listen
from hansa.interface.sandbox.testnet import LIST, NodePlace, Testnet, load_testnet, save_testnet
from hansa.network.comet.process import find_binary
from hansa.network.comet.rpc import split_address
from hansa.storage.lock import HomeLock

PR_SET_PDEATHSIG: Final = 1
"""prctl(2)."""
TICK_S: Final = 0.1
LOOK_EVERY_S: Final = 2.0
"""At a node that was ready when it was looked at last."""
LOOK_TIMEOUT_S: Final = 0.5
KILL_S: Final = 2.0
STOP_S: Final = 30.0
"""For all nodes to end in good order; then they are killed."""
START_S: Final = 120.0
TAIL_BYTES: Final = 2_000
NODE_LOG: Final = "node.log"

RunNode = Callable[[NodePlace], int]
"""Serves a node until SIGTERM, which comes as a KeyboardInterrupt; returns an exit status."""


class Errand(NamedTuple):
    """What else is to be done while the nodes run, in a process of its own."""

    name: str
    run: Callable[[], int]
    """Begun when all nodes are ready; it ends at SIGTERM, which comes as a KeyboardInterrupt."""


class _Charge:
    """A process that is looked after."""

    def __init__(self, name: str, log: Path, run: Callable[[], int]) -> None:
        self.name = name
        self.log = log
        self.run = run
        self.pid: int | None = None
        self.started_s = 0.0
        self.ended = ""
        self.looked_s = 0.0
        self.is_ready = False
        self.is_wanted_again = False


class Fleet:
    """Runs the nodes of a testnet until SIGINT or SIGTERM."""

    def __init__(
        self, folder: Path, run_node: RunNode, *, tell: Callable[[str], None],
        on_ready: Callable[[Testnet], None], errands: Sequence[Errand] = (),
    ) -> None:  # fmt: skip
        """``tell`` hears of the progress, ``on_ready`` once that all nodes take transactions."""
        self.folder = folder
        self.testnet = load_testnet(folder)
        self._tell = tell
        self._on_ready = on_ready
        self._nodes = [
            _Charge(node.home, folder / node.home / NODE_LOG, partial(run_node, node))
            for node in self.testnet.nodes
        ]
        self._errands = [_Charge(one.name, folder / f"{one.name}.log", one.run) for one in errands]
        self._is_up = False
        self._is_stopping = False
        self._close_in_child: list[Callable[[], None]] = []

    def run(self) -> None:
        """Start all nodes, and look after them until told to stop.

        Raises: OperatorError if there is no fitting CometBFT, a port is taken, or a node doesn't
        get ready; StorageError if another process runs this testnet.
        """
        # Each of the nodes would look for it again.
        os.environ["COMETBFT"] = str(find_binary())
        with HomeLock(self.folder, "hansa testnet start") as lock, _handled(self._ask_to_stop):
            for node in self.testnet.nodes:
                _check_ports(node)
            listener = listen(self.folder)
            self._close_in_child = [lock.release, listener.close]
            # What is loaded by now is shared by all; the collector would touch and so copy it.
            gc.collect()
            gc.freeze()
            try:
                self._look_after(listener)
            finally:
                self._stop_all()
                listener.close()
                save_testnet(self.folder, self._describe(pid=None))

    def _ask_to_stop(self, _number: int, _frame: FrameType | None) -> None:
        self._is_stopping = True

    def _look_after(self, listener: socket.socket) -> None:
        began_s = time.monotonic()
        for charge in self._nodes:
            self._start(charge)
        self._note()
        with selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            while not self._is_stopping:
                if selector.select(TICK_S):
                    answer(listener, self._carry_out)
                if self._reap() | self._start_again():
                    self._note()
                self._look()
                if not self._is_up:
                    self._wait_up(began_s)

    def _wait_up(self, began_s: float) -> None:
        """Begin the errands once all nodes are ready. Raises: OperatorError if one isn't."""
        for charge in self._nodes:
            if charge.ended:
                raise OperatorError(
                    f"{charge.name}: expected it to get ready, got one that {charge.ended}:"
                    f" {_read_tail(charge.log)}"
                )
        if all(charge.is_ready for charge in self._nodes):
            self._is_up = True
            for charge in self._errands:
                self._start(charge)
            self._on_ready(self._describe(pid=os.getpid()))
        elif time.monotonic() - began_s > START_S:
            late = next(charge for charge in self._nodes if not charge.is_ready)
            raise OperatorError(
                f"{late.name}: expected it to get ready within {START_S:g} s, got silence:"
                f" {_read_tail(late.log)}"
            )

    # Processes.

    def _start(self, charge: _Charge) -> None:
        charge.pid = self._fork(charge)
        charge.started_s = time.monotonic()
        charge.is_ready, charge.looked_s, charge.ended = False, 0.0, ""

    def _fork(self, charge: _Charge) -> int:
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        pid = os.fork()
        if pid:
            return pid
        status = 1
        try:
            _become_child(parent, charge.log)
            for close in self._close_in_child:
                close()
            status = charge.run()
        except KeyboardInterrupt:
            status = 0
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            # Whatever the parent had opened is its own to close, and its exit handlers too.
            with suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)

    def _reap(self) -> bool:
        """Note who has ended; tells whether anybody has."""
        is_changed = False
        for charge in (*self._nodes, *self._errands):
            if charge.pid is None:
                continue
            pid, status = os.waitpid(charge.pid, os.WNOHANG)
            if pid:
                is_changed = True
                charge.pid, charge.is_ready = None, False
                charge.ended = _describe_end(os.waitstatus_to_exitcode(status))
                if not (self._is_stopping or charge.is_wanted_again):
                    self._tell(f"{charge.name}: {charge.ended}")
        return is_changed

    def _start_again(self) -> bool:
        due = [one for one in self._nodes if one.is_wanted_again and one.pid is None]
        for charge in due:
            charge.is_wanted_again = False
            self._start(charge)
            self._tell(f"{charge.name}: started again")
        return bool(due)

    def _stop_all(self) -> None:
        """End the errands, then the nodes: nothing is on its way then."""
        self._is_stopping = True
        for charges in (self._errands, self._nodes):
            running = [charge for charge in charges if charge.pid is not None]
            for charge in running:
                _signal(charge, signal.SIGTERM)
            if not self._wait_ended(running, STOP_S):
                for charge in running:
                    _signal(charge, signal.SIGKILL)
                self._wait_ended(running, STOP_S)

    def _wait_ended(self, charges: Sequence[_Charge], timeout_s: float) -> bool:
        give_up_s = time.monotonic() + timeout_s
        while any(charge.pid is not None for charge in charges):
            self._reap()
            if time.monotonic() > give_up_s:
                return False
            time.sleep(TICK_S / 5)
        return True

    # Looking.

    def _look(self) -> None:
        """Ask some nodes whether they are ready."""
        now = time.monotonic()
        for charge, node in zip(self._nodes, self.testnet.nodes, strict=True):
            rest_s = LOOK_EVERY_S if charge.is_ready else 2 * TICK_S
            if charge.pid is None or now - charge.looked_s < rest_s:
                continue
            charge.looked_s = now
            was_ready, charge.is_ready = charge.is_ready, _is_ready(node)
            if charge.is_ready and not was_ready:
                took_s = time.monotonic() - charge.started_s
                self._tell(f"{charge.name}: ready after {took_s:.1f} s at {node.url}")

    # Commands.

    def _carry_out(self, command: Command) -> Reply:
        if command.do != "status":
            charge = self._nodes[self.testnet.get(command.node).number]
            if command.do == "kill":
                self._kill(charge)
            else:
                self._restart(charge)
        return Reply(tuple(self._sight(number) for number in range(len(self._nodes))))

    def _kill(self, charge: _Charge) -> None:
        if charge.pid is None:
            raise OperatorError(f"{charge.name}: expected a node that runs, got one that is down")
        charge.is_wanted_again = False
        _signal(charge, signal.SIGKILL)
        self._wait_ended([charge], KILL_S)
        self._note()

    def _restart(self, charge: _Charge) -> None:
        charge.is_wanted_again = True
        if charge.pid is not None:
            charge.is_ready = False
            _signal(charge, signal.SIGTERM)
        self._reap()
        if self._start_again():
            self._note()

    def _sight(self, number: int) -> Sighting:
        charge = self._nodes[number]
        return Sighting(number, charge.pid, charge.is_ready, charge.ended)

    # What others find in the folder.

    def _note(self) -> None:
        save_testnet(self.folder, self._describe(pid=os.getpid()))

    def _describe(self, *, pid: int | None) -> Testnet:
        pids = [charge.pid for charge in self._nodes]
        nodes = zip(self.testnet.nodes, pids, strict=True)
        return replace(
            self.testnet, nodes=tuple(replace(node, pid=pid) for node, pid in nodes), pid=pid
        )


def _become_child(parent: int, log: Path) -> None:
    """Leave the terminal to the parent, write to a log, and die with the parent."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # It died before the line above.
        os._exit(1)
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    nothing = os.open(os.devnull, os.O_RDONLY)
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
    os.dup2(nothing, 0)
    os.dup2(written, 1)
    os.dup2(written, 2)
    os.close(nothing)
    os.close(written)


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, handler) for number in numbers]
    try:
        yield
    finally:
        for number, old in zip(numbers, before, strict=True):
            signal.signal(number, old)


def _signal(charge: _Charge, number: signal.Signals) -> None:
    if charge.pid is not None:
        os.kill(charge.pid, number)  # Not yet waited for, so the number is still its own.


def _describe_end(code: int) -> str:
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with status {code}"


def _check_ports(node: NodePlace) -> None:
    """Raises: OperatorError if somebody else sits on a port of the node."""
    for place in (node.url, node.p2p, node.rpc):
        host, port = split_address(place)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise OperatorError(
                    f"{node.home}: expected a free port {port}, got {error.strerror}; end what uses"
                    f" it, or make another testnet ({LIST} names the ports)"
                ) from None


def _is_ready(node: NodePlace) -> bool:
    host, port = split_address(node.url)
    connection = http.client.HTTPConnection(host, port, timeout=LOOK_TIMEOUT_S)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _read_tail(log: Path) -> str:
    """Return the last words of a log."""
    if not log.exists():
        return "(no log)"
    lines = log.read_bytes()[-TAIL_BYTES:].decode(errors="replace").strip().splitlines()
    return f"{lines[-1] if lines else '(empty)'} ({log})"
