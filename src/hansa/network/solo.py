"""The solo engine: one process that orders, checks, makes durable and answers.

Two threads in a row. Intake takes what was submitted, decodes it and has the signatures verified
on all cores. Execution runs the block, makes it
durable and answers each submitter; while it waits for the disk, intake works on the next block.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from msgspec import Struct

from hansa.core.block import Receipt
from hansa.core.errors import BlockFull, Refused
from hansa.core.ledger import Ledger, NetworkBlock
from hansa.core.transaction import Transaction
from hansa.network.verifiers import Verifiers

_log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_WAITING: Final = 20_000
"""Transactions that may wait; beyond it submitters are told to come back."""

MAX_WAITING_BYTES: Final = 64 * 1024 * 1024

BLOCK_INTERVAL_S: Final = 0.004
"""How long intake waits for company once the first transaction of a block is there."""

RETRY_AFTER_S: Final = 1


class EngineBusy(Exception):
    """The queue is full: nothing was taken, come back in ``retry_after_s``."""

    retry_after_s = RETRY_AFTER_S


class EngineStopped(Exception):
    """The engine acknowledges nothing any more; the text says why."""


class Inclusion(Struct, frozen=True, gc=False):
    """A durable receipt and where it stands."""

    chain: str
    height: int
    leaf: int
    """Index of the entry in the chain's log."""
    digest: bytes
    """Of the envelope."""
    receipt: Receipt


Settled = Inclusion | Refused
"""What became of a transaction: a durable receipt, or why it leaves nothing."""


class _Answer(Future[Any]):
    """A future that a submitter can't cancel: what was taken is run, and has to be answered."""

    def cancel(self) -> bool:
        """Refuse; a web server cancels what it waits for when its client goes away."""
        return False


class _Single:
    """One transaction and the future that answers for it."""

    __slots__ = ("answer",)

    def __init__(self) -> None:
        self.answer = _Answer()

    def settle(self, _place: int, settled: Settled) -> None:
        """Answer: a receipt is the result, a refusal is raised."""
        if isinstance(settled, Inclusion):
            self.answer.set_result(settled)
        else:
            self.answer.set_exception(settled)

    def give_up(self, error: EngineStopped) -> None:
        """Tell the submitter that no answer will come."""
        if not self.answer.done():
            self.answer.set_exception(error)


class _Batch:
    """Transactions handed in together, and the one future that answers for all of them.

    A future for each would cost a tenth of what judging a transaction does.
    """

    __slots__ = ("_left", "_lock", "_settled", "answer")

    def __init__(self, count: int) -> None:
        self.answer = _Answer()
        self._settled: list[Any] = [None] * count
        self._left = count
        self._lock = threading.Lock()
        if count == 0:
            self.answer.set_result([])

    def settle(self, place: int, settled: Settled) -> None:
        """Answer for one of them; with the last, the submitter is told."""
        self._settled[place] = settled
        with self._lock:
            self._left -= 1
            is_last = self._left == 0
        if is_last:
            self.answer.set_result(self._settled)

    def give_up(self, error: EngineStopped) -> None:
        """Tell the submitter that no answer will come."""
        if not self.answer.done():
            self.answer.set_exception(error)


class _Waiting:
    __slots__ = ("batch", "chain", "envelope", "is_signed", "place", "transaction")

    def __init__(self, chain: str, envelope: bytes, batch: _Batch | _Single, place: int) -> None:
        self.chain = chain
        self.envelope = envelope
        self.batch = batch
        self.place = place
        self.transaction: Transaction | None = None
        self.is_signed = False

    def settle(self, settled: Settled) -> None:
        self.batch.settle(self.place, settled)


@dataclass
class EngineNumbers:
    """Counters for the metrics page."""

    blocks: int = 0
    included: int = 0
    rejected: int = 0
    refused: int = 0
    sync_seconds: list[float] = field(default_factory=list)


class SoloEngine:
    """Drives a ledger. Submit from any thread; answers come as futures."""

    def __init__(
        self, ledger: Ledger, *, clock: Callable[[], int], max_waiting: int = MAX_WAITING,
        block_interval_s: float = BLOCK_INTERVAL_S,
    ) -> None:  # fmt: skip
        self.ledger = ledger
        self.clock = clock
        """Milliseconds since 1970; may jump, block time never goes back."""
        self.max_waiting = max_waiting
        self.block_interval_s = block_interval_s
        self.on_block: list[Callable[[NetworkBlock], None]] = []
        """Called in the execution thread after a block is durable; must be quick."""
        self.failed: BaseException | None = None
        self.numbers = EngineNumbers()
        self._queue: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        self._in_hand = 0
        self._lock = threading.Condition()
        self._ready: deque[list[_Waiting]] = deque()
        self._ready_lock = threading.Condition()
        self._questions: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._verifiers = Verifiers()
        self._threads: list[threading.Thread] = []
        self._stopping = False

    # Submitting.

    def submit(self, chain: str, envelope: bytes) -> "Future[Inclusion]":
        """Queue a transaction.

        The future gives the durable receipt (also of one that a rule refused), or raises Refused
        for one that leaves nothing, EngineStopped if the engine stops first. Raises:
        EngineStopped, EngineBusy.
        """
        single = _Single()
        self._queue_all([_Waiting(chain, envelope, single, 0)])
        return single.answer

    def submit_batch(self, chain: str, envelopes: Sequence[bytes]) -> "Future[list[Settled]]":
        """Queue transactions in order, all or none.

        The future gives for each its durable receipt, or the Refused of one that leaves nothing.
        Raises: EngineStopped, EngineBusy.
        """
        batch = _Batch(len(envelopes))
        self._queue_all(
            [_Waiting(chain, envelope, batch, place) for place, envelope in enumerate(envelopes)]
        )
        return batch.answer

    def _queue_all(self, waiting: Sequence[_Waiting]) -> None:
        envelopes = [item.envelope for item in waiting]
        size = sum(len(envelope) for envelope in envelopes)
        with self._lock:
            self._refuse_if_stopped()
            is_full = len(self._queue) + len(waiting) > self.max_waiting
            if is_full or self._waiting_bytes + size > MAX_WAITING_BYTES:
                raise EngineBusy(f"queue: expected room for {len(waiting)}, got none")
            self._queue.extend(waiting)
            self._waiting_bytes += size
            self._lock.notify()

    def _refuse_if_stopped(self) -> None:
        if self.failed is not None:
            raise _stopped_by(self.failed)
        if self._stopping:
            raise EngineStopped("the node is shutting down")

    @property
    def unanswered(self) -> int:
        """Transactions in the queue or being judged."""
        return len(self._queue) + self._in_hand

    @property
    def waiting(self) -> int:
        """Transactions in the queue."""
        return len(self._queue)

    # Threads.

    def start(self) -> None:
        """Start intake and execution."""
        for target, name in ((self._run_intake, "intake"), (self._run_execution, "execution")):
            thread = threading.Thread(target=target, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Finish what was taken, then stop. Safe to call twice."""
        with self._lock:
            self._stopping = True
            self._lock.notify_all()
        with self._ready_lock:
            self._ready_lock.notify_all()
        for thread in self._threads:
            thread.join()
        self._threads = []
        self._verifiers.close()
        self._answer_leftovers(EngineStopped("the node is shutting down"))

    def _run_intake(self) -> None:
        batch: list[_Waiting] | None = []
        try:
            while (batch := self._collect()) is not None:
                self._judge(batch)
                with self._ready_lock:
                    while len(self._ready) >= 2 and self.failed is None:
                        self._ready_lock.wait(0.1)
                    self._ready.append(batch)
                    self._ready_lock.notify_all()
            if self.failed is not None:
                # Execution may have failed while this thread held a batch.
                self._answer_leftovers(_stopped_by(self.failed))
        except BaseException as error:
            self._fail(error, batch or [])
            raise

    def _run_execution(self) -> None:
        batch: list[_Waiting] = []
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
                    with self._lock:
                        self._in_hand -= len(batch)
                elif self._stopping and not self._threads[0].is_alive():
                    return
        except BaseException as error:
            self._fail(error, batch)
            raise

    def step(self) -> NetworkBlock | None:
        """Make a block of what waits, or more if one is full; for simulations, never beside start.

        Returns None where there was nothing to do.
        """
        limit = self.ledger.genesis.max_block_transactions
        batch = [self._queue.popleft() for _ in range(min(limit, len(self._queue)))]
        self._waiting_bytes -= sum(len(item.envelope) for item in batch)
        self._judge(batch)
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
        if self._stopping:
            return 0.01
        deadline = self.ledger.next_deadline_ms()
        if deadline is None:
            return 0.25
        return min(0.25, max(0.001, (deadline + 1 - self.clock()) / 1000))

    # Intake.

    def _collect(self) -> list[_Waiting] | None:
        """Wait for work; a batch is full, or as old as the block interval. None when stopped."""
        limit = self.ledger.genesis.max_block_transactions
        with self._lock:
            while not self._queue:
                if self._stopping or self.failed is not None:
                    return None
                self._lock.wait(0.25)
            if len(self._queue) < limit and not self._stopping:
                due = time.monotonic() + self.block_interval_s
                while len(self._queue) < limit and (left := due - time.monotonic()) > 0:
                    self._lock.wait(left)
            batch = [self._queue.popleft() for _ in range(min(limit, len(self._queue)))]
            self._waiting_bytes -= sum(len(item.envelope) for item in batch)
            self._in_hand += len(batch)
        return batch

    def _judge(self, batch: list[_Waiting]) -> None:
        """Decode, and verify every signature; what can't be decoded is answered here."""
        claims: list[tuple[bytes, bytes, bytes]] = []
        for item in batch:
            chain = self.ledger.chains.get(item.chain)
            try:
                if chain is None:
                    known = ", ".join(self.ledger.chains)
                    raise UnknownChain(known=known, given=item.chain)
                item.transaction = chain.decode_transaction(item.envelope)
                claims += item.transaction.claims
            except Refused as refusal:
                self.numbers.refused += 1
                item.settle(refusal)
        verdicts = self._verifiers.verify(claims)
        start = 0
        for item in batch:
            if item.transaction is not None:
                end = start + len(item.transaction.claims)
                item.is_signed = all(verdicts[start:end])
                start = end

    # Questions.

    def call(self, function: Callable[[], T]) -> T:
        """Run a function between two blocks, where the state stands still; returns its result.

        Raises: EngineStopped, what the function raises.
        """
        if not self._threads or threading.current_thread() is self._threads[-1]:
            return function()
        question: Future[Any] = Future()
        with self._ready_lock:
            self._refuse_if_stopped()
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

    def _execute(self, batch: list[_Waiting]) -> NetworkBlock | None:
        """Run what was taken in one block, or in several where the receipts fill one.

        Returns the last.
        """
        made: NetworkBlock | None = None
        left: list[_Waiting] = batch
        while True:
            block, left = self._make_block(left)
            made = block or made
            if not left:
                return made

    def _make_block(self, batch: list[_Waiting]) -> tuple[NetworkBlock | None, list[_Waiting]]:
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
            self._count(block, time.perf_counter() - started)
        left = self._answer(batch, block)
        if block.is_empty:
            return None, left
        for callback in self.on_block:
            callback(block)
        return block, left

    def _count(self, block: NetworkBlock, seconds: float) -> None:
        numbers = self.numbers
        numbers.blocks += 1
        numbers.sync_seconds = [*numbers.sync_seconds[-99:], seconds]
        for applied in block.chains.values():
            for verdict in applied.verdicts:
                if verdict.transaction is not None:
                    numbers.included += 1
                    numbers.rejected += verdict.receipt.error is not None

    def _answer(self, batch: list[_Waiting], block: NetworkBlock) -> list[_Waiting]:
        """Tell each submitter what became of it; returns what waits for the next block."""
        left: list[_Waiting] = []
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

    def _fail(self, error: BaseException, batch: Sequence[_Waiting]) -> None:
        """Stop acknowledging, for good: whoever waits is told why."""
        if self.failed is None:
            self.failed = error
            _log.error("stopped acknowledging: %s", error)
        self._answer_leftovers(_stopped_by(error), batch)
        with self._lock:
            self._lock.notify_all()
        with self._ready_lock:
            self._ready_lock.notify_all()

    def _answer_leftovers(self, error: EngineStopped, batch: Sequence[_Waiting] = ()) -> None:
        with self._lock:
            leftovers = [*batch, *self._queue]
            self._queue.clear()
            self._waiting_bytes = 0
        with self._ready_lock:
            for ready in self._ready:
                leftovers += ready
            self._ready.clear()
            questions = list(self._questions)
            self._questions.clear()
        for item in leftovers:
            item.batch.give_up(error)
        for _, question in questions:
            question.set_exception(error)


def _stopped_by(error: BaseException) -> EngineStopped:
    return EngineStopped(f"the node has stopped acknowledging: {error}")


class UnknownChain(Refused):
    """The chain named is not hosted here."""

    number = 12
    says = "chain: expected one of {known}, got {given}"
