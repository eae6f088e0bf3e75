"""The solo engine: one process that orders, checks, makes durable and answers.

Two threads in a row. Intake takes what was submitted, decodes it and has the signatures verified
on all cores. Execution runs the block, makes it durable and answers each submitter; while it waits
for the disk, intake works on the next block.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Final, TypeVar

from hansa.core.errors import BlockFull
from hansa.core.ledger import Ledger, NetworkBlock
from hansa.core.transaction import Transaction
from hansa.network.intake import (
    MAX_WAITING,
    EngineNumbers,
    EngineStopped,
    Inclusion,
    Intake,
    Waiting,
    stopped_by,
)
from hansa.network.verifiers import Verifiers

T = TypeVar("T")

BLOCK_INTERVAL_S: Final = 0.004
"""How long intake waits for company once the first transaction of a block is there."""


class SoloEngine:
    """Drives a ledger. Submit from any thread; answers come as futures."""

    def __init__(
        self, ledger: Ledger, *, clock: Callable[[], int], max_waiting: int = MAX_WAITING,
        block_interval_s: float = BLOCK_INTERVAL_S,
    ) -> None:  # fmt: skip
        self.ledger = ledger
        self.clock = clock
        """Milliseconds since 1970; may jump, block time never goes back."""
        self.on_block: list[Callable[[NetworkBlock], None]] = []
        """Called in the execution thread after a block is durable; must be quick."""
        self._verifiers = Verifiers()
        self._intake = Intake(
            ledger, self._verifiers.verify, max_waiting=max_waiting, interval_s=block_interval_s
        )
        self.submit = self._intake.submit
        self.submit_batch = self._intake.submit_batch
        self._ready: deque[list[Waiting]] = deque()
        self._ready_lock = threading.Condition()
        self._questions: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._threads: list[threading.Thread] = []

    # What it is doing.

    @property
    def failed(self) -> BaseException | None:
        """Why it acknowledges nothing any more."""
        return self._intake.failed

    @property
    def trouble(self) -> str:
        """Nothing: what this engine needs is in this process."""
        return ""

    @property
    def numbers(self) -> EngineNumbers:
        """Counters for the metrics page."""
        return self._intake.numbers

    @property
    def unanswered(self) -> int:
        """Transactions in the queue or being judged."""
        return self._intake.unanswered

    @property
    def waiting(self) -> int:
        """Transactions in the queue."""
        return self._intake.waiting

    # Threads.

    def start(self) -> None:
        """Start intake and execution."""
        for target, name in ((self._run_intake, "intake"), (self._run_execution, "execution")):
            thread = threading.Thread(target=target, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Finish what was taken, then stop. Safe to call twice."""
        self._intake.stop()
        with self._ready_lock:
            self._ready_lock.notify_all()
        for thread in self._threads:
            thread.join()
        self._threads = []
        self._verifiers.close()
        self._give_up(EngineStopped("the node is shutting down"))

    def _run_intake(self) -> None:
        batch: list[Waiting] | None = []
        limit = self.ledger.genesis.max_block_transactions
        try:
            while (batch := self._intake.collect(limit)) is not None:
                self._intake.judge(batch)
                with self._ready_lock:
                    while len(self._ready) >= 2 and self.failed is None:
                        self._ready_lock.wait(0.1)
                    self._ready.append(batch)
                    self._ready_lock.notify_all()
            if self.failed is not None:
                # Execution may have failed while this thread held a batch.
                self._give_up(stopped_by(self.failed))
        except BaseException as error:
            self._fail(error, batch or [])
            raise

    def _run_execution(self) -> None:
        batch: list[Waiting] = []
        try:
            while self.failed is None:
                with self._ready_lock:
                    if not self._ready and not self._questions:
                        self._ready_lock.wait(self._idle_seconds())
                    batch = self._ready.popleft() if self._ready else []
                    self._ready_lock.notify_all()
                self._answer_questions()
                if batch or self.is_deadline_due():
                    self._execute(batch)
                    self._intake.finish(len(batch))
                elif self._intake.is_stopping and not self._threads[0].is_alive():
                    return
        except BaseException as error:
            self._fail(error, batch)
            raise

    def step(self) -> NetworkBlock | None:
        """Make a block of what waits, or more if one is full; for simulations, never beside start.

        Returns None where there was nothing to do.
        """
        batch = self._intake.take_now(self.ledger.genesis.max_block_transactions)
        self._intake.judge(batch)
        if not batch and not self.is_deadline_due():
            return None
        try:
            return self._execute(batch)
        except BaseException as error:
            self._fail(error, batch)
            raise

    def is_deadline_due(self) -> bool:
        """Tell whether a block is owed to a deadline although nobody submits."""
        deadline = self.ledger.next_deadline_ms()
        return deadline is not None and deadline < max(self.clock(), self.ledger.time_ms)

    def _idle_seconds(self) -> float:
        if self._intake.is_stopping:
            return 0.01
        deadline = self.ledger.next_deadline_ms()
        if deadline is None:
            return 0.25
        return min(0.25, max(0.001, (deadline + 1 - self.clock()) / 1000))

    # Questions.

    def call(self, function: Callable[[], T]) -> T:
        """Run a function between two blocks, where the state stands still; returns its result.

        Raises: EngineStopped, what the function raises.
        """
        if not self._threads or threading.current_thread() is self._threads[-1]:
            return function()
        question: Future[Any] = Future()
        with self._ready_lock:
            self._intake.refuse_if_stopped()
            self._questions.append((function, question))
            self._ready_lock.notify_all()
        answer: T = question.result()
        return answer

    def _answer_questions(self) -> None:
        while self._questions:
            function, question = self._questions.popleft()
            try:
                question.set_result(function())
            except Exception as error:  # noqa: BLE001 - the asker's, and handed to the asker
                question.set_exception(error)

    # Execution.

    def _execute(self, batch: list[Waiting]) -> NetworkBlock | None:
        """Run what was taken in one block, or in several where the receipts fill one.

        Returns the last.
        """
        made: NetworkBlock | None = None
        left: list[Waiting] = batch
        while True:
            block, left = self._make_block(left)
            made = block or made
            if not left:
                return made

    def _make_block(self, batch: list[Waiting]) -> tuple[NetworkBlock | None, list[Waiting]]:
        """Run a block, make it durable, then answer; an empty outcome leaves no block.

        Returns it, and what it had no room for.
        """
        submissions: dict[str, list[tuple[Transaction, bool]]] = {}
        for item in batch:
            if item.transaction is not None:
                submissions.setdefault(item.chain, []).append((item.transaction, item.is_signed))
        block = self.ledger.apply(self.clock(), submissions)
        if block.is_empty:
            self.ledger.discard()
        else:
            self.ledger.commit(block)
            started = time.perf_counter()
            self.ledger.block_log.sync()
            self.ledger.publish(block)
            self.numbers.count(block, time.perf_counter() - started)
        left = self._answer(batch, block)
        if block.is_empty:
            return None, left
        for callback in self.on_block:
            callback(block)
        return block, left

    def _answer(self, batch: list[Waiting], block: NetworkBlock) -> list[Waiting]:
        """Tell each submitter what became of it; returns what waits for the next block."""
        left: list[Waiting] = []
        waiting = {id(item.transaction): item for item in batch if item.transaction is not None}
        for name, applied in block.chains.items():
            leaf = applied.first_leaf
            for offset, verdict in enumerate(applied.verdicts):
                if verdict.transaction is not None:
                    digest, receipt = verdict.transaction.digest, verdict.receipt
                    place = Inclusion(name, block.height, leaf + offset, digest, receipt)
                    waiting[id(verdict.transaction)].settle(place)
            for transaction, refusal in applied.refusals:
                if isinstance(refusal, BlockFull):
                    left.append(waiting[id(transaction)])
                    continue
                self.numbers.refused += 1
                waiting[id(transaction)].settle(refusal)
        return left

    # Failing.

    def _fail(self, error: BaseException, batch: Sequence[Waiting]) -> None:
        """Stop acknowledging, for good: whoever waits is told why."""
        self._intake.fail(error)
        self._give_up(stopped_by(error), batch)
        with self._ready_lock:
            self._ready_lock.notify_all()

    def _give_up(self, error: EngineStopped, batch: Sequence[Waiting] = ()) -> None:
        with self._ready_lock:
            leftovers = [*batch, *(item for ready in self._ready for item in ready)]
            self._ready.clear()
            questions = list(self._questions)
            self._questions.clear()
        self._intake.give_up(error, leftovers)
        for _, question in questions:
            question.set_exception(error)
