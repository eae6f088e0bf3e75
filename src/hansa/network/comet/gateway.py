"""The gateway: bundles what users submit, hands it to the engine, answers once it is in a block.

What was taken is answered. A bundle may be dropped on its way (a full mempool, a peer that dies):
so what stands in no block after a while is bundled again, until it is included, refused or expired.
"""

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Final

from hansa.core.apply import AppliedBlock, find_refusal, get_sequence
from hansa.core.errors import BlockFull, Expired, Refused, WrongNonce, WrongSignature
from hansa.core.ledger import Ledger, NetworkBlock
from hansa.core.transaction import Body
from hansa.network.comet.bundle import MAX_ITEMS, Item, cut, pack
from hansa.network.comet.judged import Judged
from hansa.network.comet.rpc import RpcClient, RpcTrouble
from hansa.network.intake import EngineStopped, Inclusion, Intake, Waiting, stopped_by

_log = logging.getLogger(__name__)

BUNDLE_INTERVAL_S: Final = 0.02
"""How long the first transaction of a bundle waits for company."""

COMPANY_S: Final = 0.25
"""How long the first of a bundle waits for company where many are on their way already: each bundle
costs every CometBFT 0.3 ms, and a block comes no sooner for it."""

BUSY: Final = 200
"""Transactions on their way from which on bundles wait for company."""

MAX_COLLECTED: Final = 1_000

MAX_PENDING_BLOCKS: Final = 4
"""Blocks' worth of transactions that may be on their way; beyond it the queue holds, and then
refuses, so that the mempool of no node is flooded."""

MIN_PENDING: Final = 1_000
MIN_WAITING: Final = 2_000
"""On their way, and in the queue: so many are taken whatever the pace, a batch at least."""

MAX_OTHERS: Final = 8
"""How often the same bytes may be handed in while they are on their way; all are answered alike."""

PATIENCE_S: Final = 2.0
"""How long what is on its way may take, and as long again what is queued, at the pace of late: who
comes when there is more is told to come back, instead of waiting for a minute."""

RESEND_AFTER_S: Final = 6.0
"""A transaction that is in no block by then is handed in again, and again after twice that."""

MAX_DOUBLINGS: Final = 6
"""Of the time to wait. A network that halts for minutes drops nothing, and what every node hands in
again every few seconds would be all that its mempools hold."""

RETRY_S: Final = 0.25

Lane = tuple[str, bytes, int]
"""Chain, account and lane: where sequences count."""


class _Pending:
    """A transaction on its way through the engine."""

    __slots__ = ("item", "lane", "others", "sent_at", "times_late", "waiting")

    def __init__(self, waiting: Waiting, item: Item, lane: Lane) -> None:
        self.waiting = waiting
        self.others: list[Waiting] = []
        """The same bytes, sent again by who had lost sight of the answer."""
        self.item = item
        self.lane = lane
        self.sent_at = 0.0
        """0 while it waits to be sent."""
        self.times_late = 0

    @property
    def body(self) -> Body:
        """What was signed."""
        assert self.waiting.transaction is not None
        return self.waiting.transaction.body


class Gateway:
    """Carries what the intake takes through the engine, and answers it."""

    def __init__(
        self, ledger: Ledger, intake: Intake, judged: Judged, rpc: RpcClient, execution: Executor,
        *, on_failure: Callable[[BaseException], None], is_behind: Callable[[], bool],
    ) -> None:  # fmt: skip
        self._ledger = ledger
        self._intake = intake
        self._judged = judged
        self._rpc = rpc
        self._execution = execution
        self._on_failure = on_failure
        self._is_behind = is_behind
        self._pending: dict[bytes, _Pending] = {}
        self._sequences: dict[Lane, dict[int, int]] = {}
        """How many of each sequence are on their way: several may race for one."""
        self._in_hand: Sequence[Waiting] = ()
        self._unsent: deque[_Pending] = deque()
        self._swept_at = time.monotonic()
        self._changed = threading.Condition()
        self._numbers = itertools.count(time.time_ns() % (1 << 62))
        self._threads: list[threading.Thread] = []
        self._max_waiting = intake.max_waiting
        self._pace = _Pace()
        self._is_over = False
        self.trouble = ""
        """Why the engine takes nothing at the moment; empty if it does."""
        self.bundles = 0
        self.resent = 0
        """Transactions handed in more than once."""

    @property
    def pending(self) -> int:
        """Transactions on their way, or in hand."""
        return len(self._pending)

    def start(self) -> None:
        """Start taking and sending."""
        for target, name in ((self._run_taking, "intake"), (self._run_sending, "gateway")):
            thread = threading.Thread(target=self._guard, args=(target,), name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self, patience_s: float) -> None:
        """Wait until what was taken is answered, as long as patience lasts; then give up."""
        self._intake.stop()
        with self._changed:
            self._changed.wait_for(lambda: self._is_drained() or self._is_failed, patience_s)
            self._is_over = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        self.give_up(EngineStopped("the node is shutting down"))

    def _is_drained(self) -> bool:
        return not self._pending and self._intake.unanswered == 0

    @property
    def _is_failed(self) -> bool:
        return self._intake.failed is not None

    def give_up(self, error: EngineStopped) -> None:
        """Tell all who wait that no answer will come."""
        with self._changed:
            pending = [
                each for one in self._pending.values() for each in (one.waiting, *one.others)
            ]
            self._pending.clear()
            self._sequences.clear()
            self._changed.notify_all()
        self._intake.give_up(error, pending)

    def _guard(self, target: Callable[[], None]) -> None:
        try:
            target()
        except BaseException as error:
            self._on_failure(error)
            # Whatever of these was answered stays so; the rest would wait for ever.
            self._intake.give_up(stopped_by(error), self._in_hand)
            raise

    # Taking.

    def _run_taking(self) -> None:
        most = MAX_PENDING_BLOCKS * self._ledger.genesis.max_block_transactions
        while (batch := self._intake.collect(MAX_COLLECTED)) is not None:
            self._in_hand = batch
            with self._changed:
                self._changed.wait_for(
                    lambda: (
                        len(self._pending) < min(most, max(MIN_PENDING, self._pace.in_patience))
                        or self._is_over
                        or self._is_failed
                    )
                )
            if self._is_over or self._is_failed:
                self._intake.give_up(self._explain_end(), batch)
                return
            self._intake.judge(batch)
            decoded = [item for item in batch if item.transaction is not None]
            self._execution.submit(self._admit, decoded).result()
            self._intake.finish(len(batch))
            with self._changed:
                self._changed.notify_all()

    def _explain_end(self) -> EngineStopped:
        if self._intake.failed is not None:
            return stopped_by(self._intake.failed)
        return EngineStopped("the node is shutting down")

    def _admit(self, batch: Sequence[Waiting]) -> None:
        """Refuse at once what no block could take; the rest is to be sent. Where state rests."""
        if self._is_failed:
            self._intake.give_up(self._explain_end(), batch)
            return
        contexts = {
            name: chain.open_block(self._ledger.height + 1, self._ledger.time_ms)
            for name, chain in self._ledger.chains.items()
        }
        for waiting in batch:
            transaction = waiting.transaction
            assert transaction is not None
            body = transaction.body
            chain = self._ledger.chains[waiting.chain]
            lane = (waiting.chain, body.signers[0].account, body.lane)
            refusal = find_refusal(chain, contexts[waiting.chain], transaction, waiting.is_signed)
            if isinstance(refusal, WrongNonce) and self._follows(lane, body.sequence):
                # What stands before it is on its way; there is no saying yet that it is wrong.
                key, signature, _ = transaction.claims[0]
                refusal = None if waiting.is_signed else WrongSignature(key=key, given=signature)
            if isinstance(refusal, WrongNonce) and self._may_not_know(body, refusal):
                waiting.give_up(EngineStopped("the node is behind the others; ask again"))
                continue
            if refusal is not None:
                self._intake.numbers.refused += 1
                waiting.settle(refusal)
                continue
            self._take(waiting, lane)

    def _may_not_know(self, body: Body, refusal: WrongNonce) -> bool:
        """Tell whether a sequence that seems too high may be right where the others are."""
        return body.sequence > int(str(refusal.values["expected"])) and self._is_behind()

    def _follows(self, lane: Lane, sequence: int) -> bool:
        with self._changed:
            return sequence - 1 in self._sequences.get(lane, ())

    def _take(self, waiting: Waiting, lane: Lane) -> None:
        transaction = waiting.transaction
        assert transaction is not None
        sequence = transaction.body.sequence
        item = Item(chain=waiting.chain, envelope=waiting.envelope)
        self._judged.remember(item, (transaction, True))
        with self._changed:
            known = self._pending.get(transaction.digest)
            is_late = self._is_failed
            is_too_many = known is not None and len(known.others) == MAX_OTHERS
            if known is not None and not is_too_many:
                known.others.append(waiting)
            elif known is None and not is_late:
                one = self._pending[transaction.digest] = _Pending(waiting, item, lane)
                self._unsent.append(one)
                counts = self._sequences.setdefault(lane, {})
                counts[sequence] = counts.get(sequence, 0) + 1
                self._changed.notify_all()
        if known is None and is_late:
            waiting.give_up(self._explain_end())
        elif is_too_many:
            self._intake.numbers.refused += 1
            waiting.settle(
                WrongNonce(expected=sequence + 1, lane=transaction.body.lane, given=sequence)
            )

    # Sending.

    def _run_sending(self) -> None:
        # A bundle that no block has room for would be proposed by nobody.
        limit = min(MAX_ITEMS, self._ledger.genesis.max_block_transactions)
        while not self._is_over:
            with self._changed:
                self._changed.wait_for(lambda: self._unsent or self._is_over, RETRY_S)
                if len(self._pending) >= BUSY:
                    self._changed.wait_for(
                        lambda: len(self._unsent) >= limit or self._is_over, COMPANY_S
                    )
            self._sweep()
            due = self._take_unsent()
            for chosen in cut([len(one.item.envelope) for one in due], limit):
                if not self._send(due[chosen]):
                    with self._changed:
                        self._unsent.extendleft(reversed(due[chosen.start :]))
                        self._changed.wait_for(lambda: self._is_over, RETRY_S)
                    break

    def _take_unsent(self) -> list[_Pending]:
        with self._changed:
            due = [one for one in self._unsent if self._is_pending(one)]
            self._unsent.clear()
        return due

    def _is_pending(self, one: _Pending) -> bool:
        assert one.waiting.transaction is not None
        return self._pending.get(one.waiting.transaction.digest) is one

    def _sweep(self) -> None:
        """Hand in again what stands in no block though it should; refuse what can't any more."""
        now = time.monotonic()
        if now - self._swept_at < RESEND_AFTER_S / 4:
            return
        self._swept_at = now
        with self._changed:
            pending = list(self._pending.values())
        late = [one for one in pending if _is_late(one, now)]
        if late and not self._is_failed:
            self._execution.submit(self._refuse_spent, late).result()
        time_ms = self._ledger.time_ms
        for one in pending:
            if one.body.valid_until_ms < time_ms:
                self._settle(one, Expired(time=time_ms, given=one.body.valid_until_ms))
        self._send_again([one for one in late if self._is_pending(one)])
        for one in late:
            one.times_late += 1
        with self._changed:
            self._changed.notify_all()

    def _refuse_spent(self, late: Sequence[_Pending]) -> None:
        """Refuse those that another has overtaken in their lane: nobody proposes them any more.

        In the execution thread.
        """
        for one in late:
            name, account, lane = one.lane
            chain = self._ledger.chains[name]
            if chain.state.mark():
                continue  # A block awaits its Commit, and may hold this very one.
            expected = get_sequence(chain, account, lane)
            if one.body.sequence < expected:
                self._intake.numbers.refused += 1
                self._settle(one, WrongNonce(expected=expected, lane=lane, given=one.body.sequence))

    def _send_again(self, ones: Sequence[_Pending]) -> None:
        with self._changed:
            again: list[_Pending] = []
            for one in ones:
                if one.sent_at:  # The others wait to be sent already.
                    one.sent_at = 0.0
                    again.append(one)
            self.resent += len(again)
            # Lane by lane in order, and before what follows: else that would be early once more.
            again.sort(key=lambda one: one.body.sequence, reverse=True)
            self._unsent.extendleft(again)

    def _send(self, sent: Sequence[_Pending]) -> bool:
        """Hand a bundle to the engine; False if it takes none now."""
        try:
            self._rpc.broadcast_tx_async(pack(next(self._numbers), [one.item for one in sent]))
        except RpcTrouble as trouble:
            self.trouble = str(trouble)
            return False
        self.trouble = ""
        self.bundles += 1
        now = time.monotonic()
        for one in sent:
            one.sent_at = now
        return True

    # Answering.

    def answer(self, block: NetworkBlock) -> None:
        """Tell each submitter what became of it, in the execution thread."""
        before = len(self._pending)
        for name, applied in block.chains.items():
            self._answer_chain(block, name, applied)
        self._pace.note(max(0, before - len(self._pending)), time.monotonic())
        self._intake.max_waiting = min(self._max_waiting, max(MIN_WAITING, self._pace.in_patience))
        with self._changed:
            self._changed.notify_all()

    def _answer_chain(self, block: NetworkBlock, name: str, applied: AppliedBlock) -> None:
        leaf = applied.first_leaf
        for offset, verdict in enumerate(applied.verdicts):
            if verdict.transaction is None:
                continue
            digest = verdict.transaction.digest
            if (one := self._pending.get(digest)) is not None:
                place = Inclusion(name, block.height, leaf + offset, digest, verdict.receipt)
                self._settle(one, place)
        again: list[_Pending] = []
        for transaction, refusal in applied.refusals:
            if (one := self._pending.get(transaction.digest)) is None:
                continue
            if isinstance(refusal, BlockFull) or self._is_early(one, refusal):
                again.append(one)
            else:
                self._intake.numbers.refused += 1
                self._settle(one, refusal)
        self._send_again(again)

    def _is_early(self, one: _Pending, refusal: Refused) -> bool:
        """Tell whether what comes before it in its lane was overtaken: is in this very block, or on
        its way."""
        if not isinstance(refusal, WrongNonce):
            return False
        name, account, lane = one.lane
        expected = get_sequence(self._ledger.chains[name], account, lane)
        return one.body.sequence == expected or (
            one.body.sequence > expected and self._follows(one.lane, one.body.sequence)
        )

    def _settle(self, one: _Pending, settled: Inclusion | Refused) -> None:
        transaction = one.waiting.transaction
        assert transaction is not None
        with self._changed:
            if self._pending.pop(transaction.digest, None) is None:
                return
            counts = self._sequences[one.lane]
            counts[one.body.sequence] -= 1
            if not counts[one.body.sequence]:
                del counts[one.body.sequence]
            if not counts:
                del self._sequences[one.lane]
        for waiting in (one.waiting, *one.others):
            waiting.settle(settled)


class _Pace:
    """How many of this gateway's transactions blocks include, of late."""

    __slots__ = ("_included", "_noted_s", "_seconds")

    def __init__(self) -> None:
        self._included = 0.0
        self._seconds = 1.0
        self._noted_s = time.monotonic()

    def note(self, included: int, now_s: float) -> None:
        """Note a block; the last eight count most."""
        self._included += included - self._included / 8
        self._seconds += now_s - self._noted_s - self._seconds / 8
        self._noted_s = now_s

    @property
    def in_patience(self) -> int:
        """How many are included in ``PATIENCE_S``."""
        return int(PATIENCE_S * self._included / max(self._seconds, 0.001))


def _is_late(one: _Pending, now: float) -> bool:
    patience_s = RESEND_AFTER_S * (1 << min(one.times_late, MAX_DOUBLINGS))
    return one.sent_at > 0 and now - one.sent_at > patience_s
