"""The comet engine: CometBFT orders, many organisations agree, this node executes.

It has the face of the solo engine, so that a node needn't know which of them it has. One execution
thread does all that touches the ledger; the loop that talks to CometBFT, the checking of what peers
hand on, the gateway and the keeping of light blocks each have a thread of their own.
"""

import asyncio
import logging
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from msgspec.structs import replace

from hansa.core.errors import OperatorError
from hansa.core.ledger import Ledger, NetworkBlock
from hansa.network.comet.abci import AbciServer
from hansa.network.comet.application import Application
from hansa.network.comet.config import CometSettings, write_config
from hansa.network.comet.gateway import BUNDLE_INTERVAL_S, Gateway
from hansa.network.comet.judged import Judged
from hansa.network.comet.lightblocks import LightBlocks
from hansa.network.comet.process import CometProcess
from hansa.network.comet.rpc import RpcClient, RpcTrouble
from hansa.network.comet.snapshots import Snapshots
from hansa.network.intake import (
    MAX_WAITING,
    Claim,
    EngineNumbers,
    EngineStopped,
    Intake,
    stopped_by,
)
from hansa.network.verifiers import Verifiers

_log = logging.getLogger(__name__)

T = TypeVar("T")

STOP_PATIENCE_S: Final = 10.0
"""How long stopping waits for what was taken to be included."""

WATCH_S: Final = 0.5
"""How often CometBFT is asked whether it is in step."""

SILENCE_S: Final = 5.0
"""How much longer than two empty blocks no block may come before the network counts as unheard."""

PRUNED_EVERY: Final = 100
"""Blocks after which this node's own old blocks are dropped, where not all are kept."""

RESTART_AFTER_S: Final = 1.0
"""How long after CometBFT has died it is started again; doubled each time up to a minute."""

STEADY_S: Final = 60.0
"""How long CometBFT has to live for its deaths before to be forgotten."""


@dataclass(frozen=True)
class CometTerms:
    """What an operator decides about the engine of one node."""

    home: Path
    """CometBFT's own home: ``HOME/comet``."""
    settings: CometSettings
    """What its config.toml says; where the application listens is filled in."""
    is_ours: bool = True
    """Whether this node starts CometBFT and keeps it running; else somebody else does."""
    socket: Path | None = None
    """Where the application listens; by default in a folder of its own, for paths are short."""
    verifiers: int = 2
    """Worker processes that verify signatures."""
    halt_height: int = 0
    """After this block the node stops, to be started with another release; 0 for never."""
    kept_blocks: int = 0
    """Blocks that CometBFT keeps at least; 0 for all."""
    snapshots: int = 2
    """How many snapshots for new nodes are kept; 0 for none."""
    start_patience_s: float = 60.0


class CometEngine:
    """Drives a ledger by CometBFT. Submit from any thread; answers come as futures."""

    def __init__(
        self, ledger: Ledger, terms: CometTerms, *, clock: Callable[[], int],
        max_waiting: int = MAX_WAITING,
    ) -> None:  # fmt: skip
        self.ledger = ledger
        self.clock = clock
        """Milliseconds since 1970. It decides nothing here: block time is the network's."""
        self.terms = terms
        self.on_block: list[Callable[[NetworkBlock], None]] = []
        """Called in the execution thread after a block is durable; must be quick."""
        self.readers: list[Callable[[], int]] = []
        """Heights up to which others have read the block log; pruning leaves what they lack."""
        self.on_misbehaviour: list[Callable[[int], None]] = []
        """Called with the height of a block that holds evidence of a double vote."""
        self.rpc = RpcClient(terms.settings.rpc_address)
        self.light_blocks = LightBlocks(ledger, self.rpc)
        self.light_blocks.on_failure = self._fail
        self._verifiers = Verifiers(terms.verifiers)
        self._verifying = threading.Lock()
        self.judged = Judged(ledger, self._verify)
        self._intake = Intake(
            ledger, self._verify, max_waiting=max_waiting, interval_s=BUNDLE_INTERVAL_S
        )
        self.submit = self._intake.submit
        self.submit_batch = self._intake.submit_batch
        self._execution = ThreadPoolExecutor(1, "execution")
        self._execution_thread = self._execution.submit(threading.get_ident).result()
        self._checking = ThreadPoolExecutor(1, "checking")
        self.gateway = Gateway(
            ledger, self._intake, self.judged, self.rpc, self._execution, on_failure=self._fail,
            is_behind=self.is_behind,
        )  # fmt: skip
        self.snapshots = Snapshots(ledger, kept=terms.snapshots)
        self._application = Application(
            ledger,
            self.judged,
            self.snapshots,
            execution=self._execution,
            checking=self._checking,
            on_commit=self._take_block,
            on_misbehaviour=self._tell_misbehaviour,
            retained_height=self._retained_height,
        )
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._loop = asyncio.new_event_loop()
        self._loop_thread: threading.Thread | None = None
        self._keeper: threading.Thread | None = None
        self._watcher: threading.Thread | None = None
        self._lag = "CometBFT has not answered yet"
        self._last_block_s = time.monotonic()
        self.server: AbciServer | None = None
        self.process: CometProcess | None = None
        self.deaths = 0
        """How often CometBFT has died by itself."""
        self._is_stopping = threading.Event()

    # What it is doing.

    @property
    def failed(self) -> BaseException | None:
        """Why it acknowledges nothing any more."""
        return self._intake.failed

    @property
    def numbers(self) -> EngineNumbers:
        """Counters for the metrics page."""
        return self._intake.numbers

    @property
    def unanswered(self) -> int:
        """Transactions taken and not yet answered."""
        return self._intake.unanswered + self.gateway.pending

    @property
    def waiting(self) -> int:
        """Transactions in the queue."""
        return self._intake.waiting

    @property
    def trouble(self) -> str:
        """Why nothing moves at the moment; empty if it does."""
        if self.process is not None and not self.process.is_alive:
            return f"CometBFT is not running, see {self.process.log}"
        return self._lag or self.gateway.trouble

    def is_behind(self) -> bool:
        """Tell whether the others may know more than this node.

        It catches up, or has heard of no block for longer than the network makes one at least.
        """
        empty_s = self.terms.settings.create_empty_blocks_interval_ms / 1_000
        silent_s = time.monotonic() - self._last_block_s
        return bool(self._lag) or (empty_s > 0 and silent_s > 2 * empty_s + SILENCE_S)

    # Life.

    def start(self) -> None:
        """Listen for CometBFT, start it, and begin to take transactions.

        Raises: OperatorError if CometBFT can't be started.
        """
        self._loop_thread = threading.Thread(
            target=self._loop.run_forever, name="abci", daemon=True
        )
        self._loop_thread.start()
        path = self.terms.socket
        if path is None:
            self._folder = tempfile.TemporaryDirectory(prefix="hansa-")
            path = Path(self._folder.name) / "app.sock"
        self.server = AbciServer(self._application, path, on_failure=self._fail)
        asyncio.run_coroutine_threadsafe(self.server.start(), self._loop).result()
        if self.terms.is_ours:
            write_config(self.terms.home, replace(self.terms.settings, proxy_app=str(path)))
            self.process = CometProcess(self.terms.home, self.terms.settings.rpc_address)
            self.process.start()
            self._keeper = threading.Thread(target=self._keep_alive, name="keeper", daemon=True)
            self._keeper.start()
        self._watcher = threading.Thread(target=self._watch, name="watch", daemon=True)
        self._watcher.start()
        self.light_blocks.start()
        self.gateway.start()

    def stop(self) -> None:
        """Finish what was taken, then stop. Safe to call twice."""
        if self._is_stopping.is_set():
            return
        self.gateway.stop(STOP_PATIENCE_S if self._loop_thread else 0)
        self._is_stopping.set()
        for thread in (self._keeper, self._watcher):
            if thread is not None:
                thread.join()
        if self.process is not None:
            self.process.stop()
        self.light_blocks.stop()
        if self.server is not None:
            asyncio.run_coroutine_threadsafe(self.server.close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        if self._loop_thread is not None:
            self._loop_thread.join()
        self._loop.close()
        self._checking.shutdown()
        self._execution.submit(self.snapshots.close).result()
        self._execution.shutdown()
        self._verifiers.close()
        self.rpc.close()
        if self._folder is not None:
            self._folder.cleanup()

    def _keep_alive(self) -> None:
        """Start CometBFT again when it has died, unless the application has failed."""
        wait_s = RESTART_AFTER_S
        assert self.process is not None
        started = time.monotonic()
        while not self._is_stopping.wait(0.1):
            if self.process.is_alive:
                continue
            self.deaths += 1
            if self.failed is not None:
                return
            if time.monotonic() - started > STEADY_S:
                wait_s = RESTART_AFTER_S
            _log.warning("CometBFT has died; it is started again in %.0f s", wait_s)
            if self._is_stopping.wait(wait_s):
                return
            wait_s = min(2 * wait_s, 60.0)
            started = time.monotonic()
            try:
                self.process.start()
            except OperatorError as error:
                _log.error("CometBFT can't be started: %s", error)

    def _watch(self) -> None:
        """Ask CometBFT now and then whether it is in step with the others."""
        while not self._is_stopping.wait(WATCH_S):
            try:
                sync = self.rpc.status()["sync_info"]
            except RpcTrouble as trouble:
                self._lag = str(trouble)
                continue
            height = sync["latest_block_height"]
            is_behind = sync["catching_up"]
            self._lag = f"catching up with the network, at block {height}" if is_behind else ""

    # Work.

    def call(self, function: Callable[[], T]) -> T:
        """Run a function between two blocks, where the state stands still; returns its result.

        Raises: EngineStopped, what the function raises.
        """
        if threading.get_ident() == self._execution_thread:
            return function()
        if self.failed is not None:
            raise stopped_by(self.failed)
        try:
            return self._execution.submit(function).result()
        except RuntimeError as error:
            if self._is_stopping.is_set():
                raise EngineStopped("the node is shutting down") from error
            raise

    def _verify(self, claims: Sequence[Claim]) -> list[bool]:
        with self._verifying:
            return self._verifiers.verify(claims)

    def _take_block(self, block: NetworkBlock, sync_seconds: float) -> None:
        self._last_block_s = time.monotonic()
        self.numbers.count(block, sync_seconds)
        self.gateway.answer(block)
        self.light_blocks.wake()
        for callback in self.on_block:
            callback(block)
        if block.height == self.terms.halt_height:
            raise Halted(block.height)

    def _tell_misbehaviour(self, height: int) -> None:
        for callback in self.on_misbehaviour:
            callback(height)

    def _retained_height(self, height: int) -> int:
        """Return the lowest block CometBFT has to keep; 0 for all.

        What proofs need is in the light blocks; peers that lag by less can still catch up, and a
        new node begins at a snapshot.
        """
        kept = self.terms.kept_blocks
        if not kept:
            return 0
        floor = max(0, min(height - kept, self.light_blocks.height, self.snapshots.floor))
        if height % PRUNED_EVERY == 0:
            self.ledger.prune(min([floor, *[read() for read in self.readers]]))
        return floor

    def _fail(self, error: BaseException) -> None:
        """Stop acknowledging, for good: whoever waits is told why."""
        self._intake.fail(error)
        self.gateway.give_up(stopped_by(error))


class Halted(Exception):
    """The node has reached the height at which another release goes on."""

    def __init__(self, height: int) -> None:
        super().__init__(
            f"block {height} is the last of this release: install the next one, then start again"
        )
