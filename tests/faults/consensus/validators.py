"""Forks validators that serve until they are killed, some of them with a fault; run as a program.

In: one line of JSON for each, an ``Order``. Out, each line with the validator's number first:
``born PID``, ``up``, ``block HEIGHT HASH``, ``evidence HEIGHT``, ``killed TARGET METHOD``, and of
this program ``dead STATUS``. Forking from a process that has imported everything is quick.
"""

from __future__ import annotations

import ctypes
import functools
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct
from tests.abci_world import read_call

from hansa.core.ledger import NetworkBlock
from hansa.interface.http.app import HttpServer
from hansa.network.comet import engine as engine_module
from hansa.network.comet.abci import METHODS, AbciServer, Direction
from hansa.network.comet.bundle import MAX_BUNDLE_BYTES, MAX_ITEMS, Item, pack
from hansa.network.comet.engine import CometEngine
from hansa.network.comet.proto.abci import types_pb2 as abci
from hansa.node.home import load_keys
from hansa.node.node import Node, system_clock

PR_SET_PDEATHSIG: Final = 1
"""prctl(2)."""
LOOK_S: Final = 0.05
INFO_RESPONSE: Final = 0x22
UNRECORDED: Final = frozenset({0x0A, 0x12, 0x42})
"""First bytes of an Echo, a Flush and a CheckTx, of which there are thousands."""

Target = Literal["app", "engine", "both"]
Misdeed = Literal["", "invalid blocks", "another hash"]


class Killing(Struct, frozen=True):
    """Who dies at which call of ABCI, counted from the start, and whether it was carried out."""

    method: str
    target: Target
    count: int = 1
    is_after: bool = False


class Order(Struct, frozen=True, kw_only=True):
    """A validator to be started."""

    number: int
    home: str
    port: int
    clock_offset_ms: int = 0
    killing: Killing | None = None
    misdeed: Misdeed = ""
    environment: dict[str, str] = {}


class Tampered:
    """An application between CometBFT and ours, which may die at a call or lie."""

    def __init__(self, application: object, killing: Killing | None, die: Callable[[], None]):
        self._killing = killing
        self._die = die
        self._seen = 0
        self._told = 0
        for method in METHODS:
            setattr(self, method, functools.partial(self._ask, method))
        self._application = application

    def _ask(self, method: str, request: Any) -> Any:
        killing = self._killing
        self._seen += killing is not None and method == killing.method
        is_due = killing is not None and method == killing.method and self._seen == killing.count
        if is_due and killing is not None and not killing.is_after:
            self._die()
        answer = self._carry_out(method, request)
        if is_due:
            if isinstance(answer, Future):
                answer.add_done_callback(lambda _: self._die())  # Before the answer leaves.
            else:
                self._die()
        return answer

    def _carry_out(self, method: str, request: Any) -> Any:
        return getattr(self._application, method)(request)


class InvalidProposer(Tampered):
    """Proposes nothing that others may accept, and accepts all of its own."""

    def _carry_out(self, method: str, request: Any) -> Any:
        if method == "prepare_proposal":
            self._told += 1
            return abci.ResponsePrepareProposal(txs=_make_invalid(self._told, request))
        if method == "process_proposal":
            status = abci.ResponseProcessProposal.ACCEPT
            return abci.ResponseProcessProposal(status=status)
        return super()._carry_out(method, request)


def _make_invalid(turn: int, request: abci.RequestPrepareProposal) -> list[bytes]:
    """Return, in turn: no bundle, one too large, more transactions or bytes than a block takes."""
    junk = [Item(chain="trade", envelope=b"%d" % number) for number in range(MAX_ITEMS)]
    return [
        lambda: [*request.txs, b"\xffnot a bundle"],
        lambda: [b"\x01" + bytes(MAX_BUNDLE_BYTES)],
        lambda: [pack(number, junk) for number in range(9)],
        lambda: [bytes(request.max_tx_bytes + 1)],
    ][turn % 4]()


class Miscalculating(Tampered):
    """Leaves out the last bundle of a block, once: a bug that no other node has."""

    def _carry_out(self, method: str, request: Any) -> Any:
        if method != "finalize_block" or not request.txs or self._told:
            return super()._carry_out(method, request)
        self._told += 1
        short = abci.RequestFinalizeBlock()
        short.CopyFrom(request)
        del short.txs[-1]
        computed: Future[abci.ResponseFinalizeBlock] = super()._carry_out(method, short)
        answer: Future[abci.ResponseFinalizeBlock] = Future()

        def complete(done: Future[abci.ResponseFinalizeBlock]) -> None:
            response = done.result()
            response.tx_results.append(abci.ExecTxResult(code=0))
            answer.set_result(response)

        computed.add_done_callback(complete)
        return answer


KINDS: Final[dict[Misdeed, type[Tampered]]] = {
    "": Tampered,
    "invalid blocks": InvalidProposer,
    "another hash": Miscalculating,
}


class Recorder:
    """Writes the calls of ABCI to a file as they come, so that none is lost by a kill."""

    def __init__(self, home: Path) -> None:
        path = home / f"calls-{time.time_ns()}.txt"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)

    def __call__(self, _: int, direction: Direction, message: bytes) -> None:
        """Take a message; this is the server's recorder."""
        kind = message[0] if message else 0
        if kind in UNRECORDED if direction == "request" else kind != INFO_RESPONSE:
            return
        if (call := read_call(direction, message)) is not None:
            os.write(self._file, b"%s %d\n" % (call.method.encode(), call.height))


class Validator:
    """What one forked process is."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.home = Path(order.home)
        self.node: Node | None = None

    def say(self, line: str) -> None:
        """Write a line whole, or not at all, whenever the process dies."""
        os.write(1, f"{self.order.number} {line}\n".encode())

    def serve(self) -> None:
        """Run until SIGTERM."""
        self.say(f"born {os.getpid()}")
        os.environ.update(self.order.environment)
        setattr(engine_module, "AbciServer", self._make_server)  # noqa: B010 - a test seam
        self.node = node = Node(self.home, keys=load_keys(self.home, str), clock=self._clock)
        assert isinstance(node.engine, CometEngine)
        node.engine.on_block.append(self._tell_block)
        node.engine.on_misbehaviour.append(lambda height: self.say(f"evidence {height}"))
        try:
            node.start()
            HttpServer(node, port=self.order.port).run(lambda _: self.say("up"))
        except KeyboardInterrupt:
            pass
        finally:
            node.stop()

    def _clock(self) -> int:
        return system_clock() + self.order.clock_offset_ms

    def _tell_block(self, block: NetworkBlock) -> None:
        self.say(f"block {block.height} {block.record.network_hash.hex()}")

    def _make_server(
        self, application: object, path: Path, *, on_failure: Callable[[BaseException], None]
    ) -> AbciServer:
        tampered = KINDS[self.order.misdeed](application, self.order.killing, self._die)
        recorder = Recorder(self.home)
        return AbciServer(
            tampered,  # type: ignore[arg-type]
            path,
            on_failure=on_failure,
            recorder=recorder,
        )

    def _die(self) -> None:
        killing = self.order.killing
        assert killing is not None
        assert self.node is not None
        assert isinstance(self.node.engine, CometEngine)
        self.say(f"killed {killing.target} {killing.method}")
        if killing.target != "app":
            process = self.node.engine.process
            assert process is not None
            while (pid := process.pid) is None:  # It has called before its guard said its number.
                time.sleep(0.001)
            os.kill(pid, signal.SIGKILL)
        if killing.target != "engine":
            os.kill(os.getpid(), signal.SIGKILL)


def fork(order: Order) -> int:
    """Start a validator in a process and a group of its own; returns its process id."""
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        os.setsid()
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        log = os.open(Path(order.home) / "node.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(log, 2)
        os.dup2(nothing, 0)
        Validator(order).serve()
        status = 0
    except BaseException:  # noqa: BLE001 - the process ends with it
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def main() -> None:
    """Serve until the input ends; what was started ends with this program."""
    import logging

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    numbers: dict[int, int] = {}
    rest = b""
    while True:
        if select.select([0], [], [], LOOK_S)[0]:
            data = os.read(0, 65_536)
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                order = msgspec.json.decode(line, type=Order)
                numbers[fork(order)] = order.number
        for pid in list(numbers):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                os.write(1, f"{numbers.pop(pid)} dead {status}\n".encode())


if __name__ == "__main__":
    main()
