"""What an engine is handed: queued, decoded, its signatures verified, and answered in the end.

Every engine has one. What differs between engines is what becomes of a batch that was judged.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar

from msgspec import Struct

from hansa.core.block import Receipt
from hansa.core.errors import Refused
from hansa.core.ledger import Ledger, NetworkBlock
from hansa.core.transaction import Transaction

_log = logging.getLogger(__name__)

T = TypeVar("T")

Claim = tuple[bytes, bytes, bytes]
"""Public key (33 bytes), signature (65), hash (32)."""

MAX_WAITING: Final = 20_000
"""Transactions that may wait; beyond it submitters are told to come back."""

MAX_WAITING_BYTES: Final = 64 * 1024 * 1024

RETRY_AFTER_S: Final = 1


class EngineBusy(Exception):
    """The queue is full: nothing was taken, come back in ``retry_after_s``."""

    retry_after_s = RETRY_AFTER_S


class EngineStopped(Exception):
    """The engine acknowledges nothing any more; the text says why."""


class UnknownChain(Refused):
    """The chain named is not hosted here."""

    number = 12
    says = "chain: expected one of {known}, got {given}"


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


@dataclass
class EngineNumbers:
    """Counters for the metrics page."""

    blocks: int = 0
    included: int = 0
    rejected: int = 0
    refused: int = 0
    sync_seconds: list[float] = field(default_factory=list)

    def count(self, block: NetworkBlock, seconds: float) -> None:
        """Note a block, and how long it took to make it durable."""
        self.blocks += 1
        self.sync_seconds = [*self.sync_seconds[-99:], seconds]
        for applied in block.chains.values():
            for verdict in applied.verdicts:
                if verdict.transaction is not None:
                    self.included += 1
                    self.rejected += verdict.receipt.error is not None


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

    __slots__ = ("_is_told", "_left", "_lock", "_settled", "answer")

    def __init__(self, count: int) -> None:
        self.answer = _Answer()
        self._settled: list[Any] = [None] * count
        self._left = count
        self._is_told = False
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
        with self._lock:
            # Parts of it may be in several hands, and all of these give up at once.
            is_told, self._is_told = self._is_told, True
        if not is_told and not self.answer.done():
            self.answer.set_exception(error)


class Waiting:
    """A transaction that was taken, what is known of it, and who waits for its answer."""

    __slots__ = ("_batch", "_place", "chain", "envelope", "is_signed", "transaction")

    def __init__(self, chain: str, envelope: bytes, batch: _Batch | _Single, place: int) -> None:
        self.chain = chain
        self.envelope = envelope
        self._batch = batch
        self._place = place
        self.transaction: Transaction | None = None
        """None until it is decoded."""
        self.is_signed = False
        """The verdict on its signatures."""

    def settle(self, settled: Settled) -> None:
        """Answer, once."""
        self._batch.settle(self._place, settled)

    def give_up(self, error: EngineStopped) -> None:
        """Tell the submitter that no answer will come."""
        self._batch.give_up(error)


class Engine(Protocol):
    """What makes a network, as a node drives it: solo or comet."""

    clock: Callable[[], int]
    on_block: list[Callable[[NetworkBlock], None]]
    """Called in the execution thread after a block is durable; must be quick."""

    def submit(self, chain: str, envelope: bytes) -> "Future[Inclusion]":
        """As :meth:`Intake.submit`."""

    def submit_batch(self, chain: str, envelopes: Sequence[bytes]) -> "Future[list[Settled]]":
        """As :meth:`Intake.submit_batch`."""

    @property
    def failed(self) -> BaseException | None:
        """Why it acknowledges nothing any more."""

    @property
    def trouble(self) -> str:
        """Why nothing moves at the moment; empty if it does."""

    @property
    def numbers(self) -> EngineNumbers:
        """Counters for the metrics page."""

    @property
    def unanswered(self) -> int:
        """Transactions taken and not yet answered."""

    @property
    def waiting(self) -> int:
        """Transactions in the queue."""

    def start(self) -> None:
        """Begin to take transactions."""

    def stop(self) -> None:
        """Finish what was taken, then stop. Safe to call twice."""

    def call(self, function: Callable[[], T]) -> T:
        """Run a function between two blocks, where the state stands still; returns its result.

        Raises: EngineStopped, what the function raises.
        """


class Intake:
    """The queue in front of an engine. Submit from any thread; answers come as futures."""

    def __init__(
        self, ledger: Ledger, verify: Callable[[Sequence[Claim]], list[bool]], *,
        max_waiting: int = MAX_WAITING, interval_s: float,
    ) -> None:  # fmt: skip
        self._ledger = ledger
        self._verify = verify
        self.max_waiting = max_waiting
        """Transactions that may wait; an engine may lower it where it knows its pace."""
        self._interval_s = interval_s
        self._queue: deque[Waiting] = deque()
        self._waiting_bytes = 0
        self._in_hand = 0
        self._lock = threading.Condition()
        self._is_stopping = False
        self.failed: BaseException | None = None
        self.numbers = EngineNumbers()

    # Submitting.

    def submit(self, chain: str, envelope: bytes) -> "Future[Inclusion]":
        """Queue a transaction.

        The future gives the durable receipt (also of one that a rule refused), or raises Refused
        for one that leaves nothing, EngineStopped if the engine stops first. Raises:
        EngineStopped, EngineBusy.
        """
        single = _Single()
        self._queue_all([Waiting(chain, envelope, single, 0)])
        return single.answer

    def submit_batch(self, chain: str, envelopes: Sequence[bytes]) -> "Future[list[Settled]]":
        """Queue transactions in order, all or none.

        The future gives for each its durable receipt, or the Refused of one that leaves nothing.
        Raises: EngineStopped, EngineBusy.
        """
        batch = _Batch(len(envelopes))
        self._queue_all(
            [Waiting(chain, envelope, batch, place) for place, envelope in enumerate(envelopes)]
        )
        return batch.answer

    def _queue_all(self, waiting: Sequence[Waiting]) -> None:
        size = sum(len(item.envelope) for item in waiting)
        with self._lock:
            self.refuse_if_stopped()
            is_full = len(self._queue) + len(waiting) > self.max_waiting
            if is_full or self._waiting_bytes + size > MAX_WAITING_BYTES:
                raise EngineBusy(f"queue: expected room for {len(waiting)}, got none")
            self._queue.extend(waiting)
            self._waiting_bytes += size
            self._lock.notify()

    def refuse_if_stopped(self) -> None:
        """Raise EngineStopped if nothing is taken any more."""
        if self.failed is not None:
            raise stopped_by(self.failed)
        if self._is_stopping:
            raise EngineStopped("the node is shutting down")

    @property
    def unanswered(self) -> int:
        """Transactions in the queue or being judged."""
        return len(self._queue) + self._in_hand

    @property
    def waiting(self) -> int:
        """Transactions in the queue."""
        return len(self._queue)

    @property
    def is_stopping(self) -> bool:
        """Nothing new is taken; what was taken is finished."""
        return self._is_stopping

    # Taking batches.

    def collect(self, limit: int) -> list[Waiting] | None:
        """Wait for work; a batch is full, or as old as the interval. None when stopped."""
        with self._lock:
            while not self._queue:
                if self._is_stopping or self.failed is not None:
                    return None
                self._lock.wait(0.25)
            if len(self._queue) < limit and not self._is_stopping:
                due = time.monotonic() + self._interval_s
                while len(self._queue) < limit and (left := due - time.monotonic()) > 0:
                    self._lock.wait(left)
            batch = self._take(limit)
            self._in_hand += len(batch)
        return batch

    def take_now(self, limit: int) -> list[Waiting]:
        """Return what waits, without waiting for more; for simulations."""
        with self._lock:
            return self._take(limit)

    def _take(self, limit: int) -> list[Waiting]:
        batch = [self._queue.popleft() for _ in range(min(limit, len(self._queue)))]
        self._waiting_bytes -= sum(len(item.envelope) for item in batch)
        return batch

    def finish(self, count: int) -> None:
        """Note that so many of those collected are answered."""
        with self._lock:
            self._in_hand -= count

    def judge(self, batch: Sequence[Waiting]) -> None:
        """Decode, and verify every signature; what can't be decoded is answered here."""
        claims: list[Claim] = []
        for item in batch:
            chain = self._ledger.chains.get(item.chain)
            try:
                if chain is None:
                    known = ", ".join(self._ledger.chains)
                    raise UnknownChain(known=known, given=item.chain)
                item.transaction = chain.decode_transaction(item.envelope)
                claims += item.transaction.claims
            except Refused as refusal:
                self.numbers.refused += 1
                item.settle(refusal)
        verdicts = self._verify(claims)
        start = 0
        for item in batch:
            if item.transaction is not None:
                end = start + len(item.transaction.claims)
                item.is_signed = all(verdicts[start:end])
                start = end

    # Stopping.

    def stop(self) -> None:
        """Take nothing more."""
        with self._lock:
            self._is_stopping = True
            self._lock.notify_all()

    def fail(self, error: BaseException) -> None:
        """Take nothing more, for good, and say why."""
        with self._lock:
            if self.failed is None:
                self.failed = error
                _log.error("stopped acknowledging: %s", error)
            self._lock.notify_all()

    def give_up(self, error: EngineStopped, others: Sequence[Waiting] = ()) -> None:
        """Tell whoever is queued, and these others, that no answer will come."""
        with self._lock:
            leftovers = [*others, *self._queue]
            self._queue.clear()
            self._waiting_bytes = 0
        for item in leftovers:
            item.give_up(error)


def stopped_by(error: BaseException) -> EngineStopped:
    """Return what submitters are told once an engine has failed."""
    return EngineStopped(f"the node has stopped acknowledging: {error}")
