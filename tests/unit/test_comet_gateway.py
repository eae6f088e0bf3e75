"""The gateway on a real ledger: what was taken is answered, once, whatever becomes of bundles."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.comet_member import Member
from tests.toy_chain import START_MS, Add, Spoil

from hansa.core.errors import (
    Expired,
    Malformed,
    Refused,
    TooFarAhead,
    WrongNetwork,
    WrongNonce,
    WrongSignature,
)
from hansa.core.ledger import NetworkBlock
from hansa.core.transaction import MAX_VALIDITY_MS
from hansa.network.comet.bundle import Item, cut, pack
from hansa.network.comet.gateway import MAX_OTHERS, RESEND_AFTER_S, Gateway, _is_late
from hansa.network.comet.rpc import RpcClient
from hansa.network.intake import EngineBusy, EngineStopped, Inclusion, Intake, UnknownChain

PATIENCE_S = 30.0
NOBODY = "127.0.0.1:1"
"""An address where no CometBFT answers."""


class Gate:
    """A gateway over a member's ledger; the test carries its bundles into blocks."""

    is_behind = False

    def __init__(self, folder: Path, *, max_waiting: int = 1_000, interval_s: float = 0.0) -> None:
        self.member = Member(folder)
        self.intake = Intake(
            self.member.ledger, self.member.verify, max_waiting=max_waiting, interval_s=interval_s
        )
        self.failures: list[BaseException] = []
        self.gateway = Gateway(
            self.member.ledger,
            self.intake,
            self.member.judged,
            RpcClient(NOBODY),
            self.member.execution,
            on_failure=self.fail,
            is_behind=lambda: self.is_behind,
        )
        self.answers: list[tuple[bytes, Future[Any]]] = []
        self.bundles = 0

    def fail(self, error: BaseException) -> None:
        """As an engine does."""
        self.failures.append(error)
        self.intake.fail(error)
        self.gateway.give_up(EngineStopped("failed"))

    def submit(self, *envelopes: bytes, chain: str = "one") -> list[Future[Any]]:
        """Hand in, and let the gateway take it."""
        answers = []
        for envelope in envelopes:
            answers.append(self.intake.submit(chain, envelope))
            self.answers.append((envelope, answers[-1]))
        self.take()
        return answers

    def take(self) -> None:
        """Let the gateway take what waits, as its thread does."""
        batch = self.intake.take_now(1_000)
        self.intake.judge(batch)
        decoded = [item for item in batch if item.transaction is not None]
        self.member.execution.submit(self.gateway._admit, decoded).result()

    def send(self, limit: int = 500) -> list[bytes]:
        """The bundles of what is to be sent."""
        due = self.gateway._take_unsent()
        made = []
        for piece in cut([len(one.item.envelope) for one in due], limit):
            self.bundles += 1
            made.append(pack(self.bundles, [one.item for one in due[piece]]))
        for one in due:
            one.sent_at = time.monotonic()
        return made

    def decide(self, *bundles: bytes, time_ms: int | None = None) -> NetworkBlock:
        """A block of these, and the answers."""
        block = self.member.decide(*bundles, time_ms=time_ms or self.member.time_ms)
        self.gateway.answer(block)
        return block

    def wait_long(self) -> None:
        """Let what was sent be late, and the gateway see to it."""
        for one in self.gateway._pending.values():
            if one.sent_at:
                one.sent_at = 1e-9
        self.gateway._swept_at = -RESEND_AFTER_S
        self.gateway._sweep()

    def close(self) -> None:
        """Let go of everything."""
        self.gateway.stop(0)
        self.member.close()


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """A gateway at the genesis."""
    gate = Gate(tmp_path)
    yield gate
    gate.close()


def add(gate: Gate, count: int, **options: Any) -> list[bytes]:
    """Envelopes that follow each other in a lane."""
    return [gate.member.sign(Add("a", 1), **options) for _ in range(count)]


def refusal_of(answer: Future[Any]) -> Refused:
    """Why a transaction leaves nothing."""
    error = answer.exception(0)
    assert isinstance(error, Refused)
    return error


def test_answered_with_its_place(gate: Gate) -> None:
    """Each submitter is told where its transaction stands, also where a rule said no."""
    answers = gate.submit(*add(gate, 2), gate.member.sign(Spoil("x")))
    elsewhere = gate.submit(gate.member.sign(Add("a", 1), chain="two"), chain="two")
    assert (4, False) == (gate.gateway.pending, any(answer.done() for answer in answers))
    gate.decide(*gate.send())
    places = [answer.result(0) for answer in answers + elsewhere]
    assert [("one", 1, 1), ("one", 1, 2), ("one", 1, 3), ("two", 1, 1)] == [
        (place.chain, place.height, place.leaf) for place in places
    ]
    assert [False, False, True, False] == [place.receipt.error is not None for place in places]
    assert (0, {}) == (gate.gateway.pending, gate.gateway._sequences)


def test_refused_at_once(gate: Gate) -> None:
    """What no block could take is refused without a bundle."""
    member = gate.member
    gate.decide(member.bundle(*add(gate, 2)))
    until_ms = member.ledger.time_ms
    good = member.sign(Add("a", 1), sequence=2)
    cases = {
        Malformed: b"\xc1",
        WrongNetwork: member.sign(Add("a", 1), network=b"\x01" + bytes(32), sequence=2),
        Expired: member.sign(Add("a", 1), valid_until_ms=until_ms - 1, sequence=2),
        TooFarAhead: member.sign(
            Add("a", 1), valid_until_ms=until_ms + MAX_VALIDITY_MS + 1, sequence=2
        ),
        WrongSignature: good[:-1] + bytes([good[-1] ^ 1]),
    }
    for kind, envelope in cases.items():
        (answer,) = gate.submit(envelope)
        assert isinstance(refusal_of(answer), kind), kind
    for sequence in (0, 1, 3, 99):
        (answer,) = gate.submit(member.sign(Add("a", 1), sequence=sequence))
        assert isinstance(refusal_of(answer), WrongNonce), sequence
    (unknown,) = gate.submit(good, chain="three")
    assert isinstance(refusal_of(unknown), UnknownChain)
    assert (0, [], 10) == (gate.gateway.pending, gate.send(), gate.intake.numbers.refused)


def test_a_node_that_is_behind_refuses_no_sequence_that_may_be_right(gate: Gate) -> None:
    """Where the others may know more it says so, and refuses what is wrong in any case."""
    gate.is_behind = True
    (ahead,) = gate.submit(gate.member.sign(Add("a", 1), sequence=7))
    with pytest.raises(EngineStopped, match="behind the others"):
        ahead.result(PATIENCE_S)
    gate.is_behind = False
    (again,) = gate.submit(gate.member.sign(Add("a", 1), sequence=7))
    assert isinstance(refusal_of(again), WrongNonce)


def test_pipelined(gate: Gate) -> None:
    """What follows something that is on its way is taken; what follows a gap is not."""
    first, second, third, _, fifth = add(gate, 5)
    taken = gate.submit(first, second)
    taken += gate.submit(third)
    (gap,) = gate.submit(fifth)
    assert isinstance(refusal_of(gap), WrongNonce)
    forged = gate.member.sign(Add("b", 1), sequence=3)
    (unsigned,) = gate.submit(forged[:-1] + bytes([forged[-1] ^ 1]))
    assert isinstance(refusal_of(unsigned), WrongSignature)
    gate.decide(*gate.send())
    assert [1, 2, 3] == [answer.result(0).leaf for answer in taken]


def test_overtaken_in_its_block(gate: Gate) -> None:
    """A proposer that turns bundles round refuses nothing: what was too early is sent again."""
    answers = gate.submit(*add(gate, 3))
    bundles = gate.send(1)
    gate.decide(*reversed(bundles))
    assert [True, False, False] == [answer.done() for answer in answers]
    again = gate.send()
    assert 1 == len(again)
    gate.decide(*again)
    assert [1, 2, 2] == [answer.result(0).height for answer in answers]
    assert 2 == gate.gateway.resent


def test_overtaken_by_a_block(gate: Gate) -> None:
    """The same where what comes before it is in a later block."""
    answers = gate.submit(*add(gate, 2))
    first, second = gate.send(1)
    gate.decide(second)
    gate.decide(first, *gate.send())
    assert [2, 2] == [answer.result(0).height for answer in answers]


def test_two_race_for_a_sequence(gate: Gate) -> None:
    """Of two that were taken for one sequence one is included, the other is refused, and the node
    lives."""
    answers = gate.submit(
        gate.member.sign(Add("a", 1), sequence=0), gate.member.sign(Add("b", 1), sequence=0)
    )
    assert 2 == gate.gateway.pending
    gate.decide(*gate.send())
    assert isinstance(answers[0].result(0), Inclusion)
    assert isinstance(refusal_of(answers[1]), WrongNonce)
    assert (0, {}) == (gate.gateway.pending, gate.gateway._sequences)


def test_racer_that_expires_leaves_the_other(gate: Gate) -> None:
    """One of two for a sequence is refused first: what follows the other is still taken."""
    until_ms = gate.member.time_ms
    short, long = (
        gate.member.sign(Add("a", 1), sequence=0, valid_until_ms=until_ms),
        gate.member.sign(Add("b", 1), sequence=0),
    )
    answers = gate.submit(short, long)
    gate.decide(time_ms=until_ms + 1)
    gate.wait_long()
    assert isinstance(refusal_of(answers[0]), Expired)
    answers = [answers[1], *gate.submit(gate.member.sign(Add("a", 1), sequence=1))]
    gate.decide(*gate.send())
    assert [1, 2] == [answer.result(0).leaf for answer in answers]


def test_same_bytes_twice(gate: Gate) -> None:
    """Sent again while they are on their way they get the same answer; without end they don't."""
    (envelope,) = add(gate, 1)
    first, *others = gate.submit(*[envelope] * (MAX_OTHERS + 2))
    assert isinstance(refusal_of(others.pop()), WrongNonce)
    gate.decide(*gate.send())
    assert isinstance(first.result(0), Inclusion)
    assert [first.result(0)] * MAX_OTHERS == [other.result(0) for other in others]
    assert 1 == gate.intake.numbers.refused


def test_spent_elsewhere(gate: Gate) -> None:
    """Where another node's transaction took the sequence, no proposer takes this one any more;
    its submitter is told all the same."""
    (answer,) = gate.submit(gate.member.sign(Add("a", 1), sequence=0))
    (bundle,) = gate.send()
    gate.decide(gate.member.bundle(gate.member.sign(Add("b", 1), sequence=0)))
    assert [] == gate.member.propose(bundle)
    gate.wait_long()
    assert isinstance(refusal_of(answer), WrongNonce)
    assert ([], 0) == (gate.send(), gate.gateway.resent)


def test_not_refused_between_finalize_and_commit(gate: Gate) -> None:
    """A block that awaits its Commit has spent sequences, by the very transactions that wait."""
    (answer,) = gate.submit(*add(gate, 1))
    (bundle,) = gate.send()
    gate.member.finalize(bundle)
    gate.wait_long()
    assert not answer.done()
    gate.member.commit()
    gate.gateway.answer(gate.member.committed[-1])
    assert 1 == answer.result(0).height


def test_dropped_bundle(gate: Gate) -> None:
    """What is in no block is handed in again, in a bundle of other bytes; it is included once
    though both arrive."""
    (answer,) = gate.submit(*add(gate, 1))
    (first,) = gate.send()
    gate.decide()
    assert [] == gate.send()
    gate.wait_long()
    (second,) = gate.send()
    assert first != second
    block = gate.decide(second, first)
    assert 1 == answer.result(0).height - 1
    assert 1 == sum(v.transaction is not None for v in block.chains["one"].verdicts)
    assert 1 == gate.gateway.resent


def test_handed_in_again_ever_more_rarely(gate: Gate) -> None:
    """A network that stands for minutes isn't drowned in copies; what waits to be sent has none."""
    gate.submit(*add(gate, 1))
    (one,) = gate.gateway._pending.values()
    gate.send()
    times = []
    sent_at = now = time.monotonic()
    while now < sent_at + 1800:
        now += 1
        if _is_late(one, now):
            times.append(round(now - sent_at))
            one.times_late += 1
            one.sent_at = now
    assert 9 >= len(times)
    assert [7, 19, 44, 93] == pytest.approx(times[:4], abs=1)
    for _ in range(5):
        gate.wait_long()
    assert 1 == len(gate.gateway._unsent)


def test_expired_on_its_way(gate: Gate) -> None:
    """What expires in the mempool is refused once the network's time says so."""
    (answer,) = gate.submit(gate.member.sign(Add("a", 1), valid_until_ms=START_MS + 50))
    gate.send()
    gate.decide(time_ms=START_MS + 50)
    gate.wait_long()
    assert not answer.done()
    gate.decide(time_ms=START_MS + 51)
    gate.wait_long()
    assert isinstance(refusal_of(answer), Expired)


def test_block_without_room(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a block has no room for waits for the next ones, in order, and is never refused."""
    monkeypatch.setattr("hansa.core.apply.MAX_BLOCK_BYTES", 600)
    answers = gate.submit(*add(gate, 8))
    bundles = gate.send()
    blocks = 0
    while gate.gateway.pending:
        bundles = [*bundles, *gate.send()]
        block = gate.decide(*gate.member.propose(*bundles))
        blocks += 1
        assert any(verdict.transaction for verdict in block.chains["one"].verdicts)
    assert 2 < blocks <= 8
    assert list(range(1, 9)) == [answer.result(0).leaf for answer in answers]


# Its threads.


def test_stops_while_nobody_answers(gate: Gate) -> None:
    """Without a CometBFT what was taken waits; stopping takes no longer than was agreed, and all
    are told, those still in the queue as well."""
    gate.gateway.start()
    answers = [gate.intake.submit("one", envelope) for envelope in add(gate, 20)]
    batch = gate.intake.submit_batch("one", add(gate, 20))
    while not gate.gateway.trouble:
        time.sleep(0.01)
    assert "unreachable" in gate.gateway.trouble
    began = time.monotonic()
    gate.gateway.stop(0.3)
    assert 0.3 <= time.monotonic() - began < 5
    everybody: list[Future[Any]] = [*answers, batch]
    for answer in everybody:
        assert isinstance(answer.exception(0), EngineStopped)
    with pytest.raises(EngineStopped):
        gate.intake.submit("one", b"x")
    assert (0, 0) == (gate.gateway.pending, gate.intake.waiting)


def test_stops_at_once_when_the_last_is_refused(gate: Gate) -> None:
    """Nobody waits out the patience for a batch that leaves nothing."""
    gate.gateway.start()
    answer = gate.intake.submit("one", b"\xc1")
    began = time.monotonic()
    gate.gateway.stop(PATIENCE_S)
    assert time.monotonic() - began < 5
    assert isinstance(refusal_of(answer), Malformed)


def test_stops_with_a_full_house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where as much is on its way as may be, the queue holds, then refuses; stopping tells all."""
    monkeypatch.setattr("hansa.network.comet.gateway.MAX_COLLECTED", 50)
    gate = Gate(tmp_path, max_waiting=100)
    gate.gateway.start()
    taken: list[Future[Any]] = []
    busy = 0
    envelopes = add(gate, 700)
    while busy < 3:
        for envelope in envelopes[len(taken) :]:
            try:
                taken.append(gate.intake.submit("one", envelope))
            except EngineBusy:
                busy += gate.gateway.pending >= 400
                break
        time.sleep(0.01)
    assert 400 <= gate.gateway.pending <= 450
    assert gate.intake.waiting <= 100
    began = time.monotonic()
    gate.gateway.stop(0.1)
    assert time.monotonic() - began < 5
    assert {EngineStopped} == {type(answer.exception(0)) for answer in taken}
    gate.member.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_failure_tells_everybody(gate: Gate) -> None:
    """When the execution thread is gone, nobody waits for ever: on his way, in hand or queued."""
    on_its_way = gate.submit(*add(gate, 2))
    gate.member.execution.shutdown()
    gate.gateway.start()
    in_hand = [gate.intake.submit("one", envelope) for envelope in add(gate, 3)]
    for answer in (*on_its_way, *in_hand):
        assert isinstance(answer.exception(PATIENCE_S), EngineStopped)
    assert ["RuntimeError"] == [type(failure).__name__ for failure in gate.failures]


def test_failure_while_a_batch_is_admitted(gate: Gate) -> None:
    """What is taken after the engine has failed is told so, instead of waiting for a block."""
    answers = [gate.intake.submit("one", envelope) for envelope in add(gate, 2)]
    batch = gate.intake.take_now(10)
    gate.intake.judge(batch)
    gate.fail(ZeroDivisionError("a bug"))
    gate.gateway._admit(batch)
    for answer in answers:
        assert isinstance(answer.exception(0), EngineStopped)
    assert 0 == gate.gateway.pending


def test_a_batch_given_up_by_many_hands(gate: Gate) -> None:
    """A batch of which parts are on their way and others queued is told once."""
    answer = gate.intake.submit_batch("one", add(gate, 6))
    batch = gate.intake.take_now(3)
    gate.intake.judge(batch)
    gate.gateway._admit(batch)
    gate.decide(*gate.send(1)[:1])
    gate.gateway.give_up(EngineStopped("first"))
    gate.intake.give_up(EngineStopped("second"), batch)
    assert "first" == str(answer.exception(0))


# Whatever happens.

PEOPLE = ("anna", "berta")
Action = tuple[str, int, int]

actions = st.lists(
    st.tuples(
        st.sampled_from(
            (
                "submit", "submit", "submit", "gap", "rival", "again", "forged", "short",
                "elsewhere", "send", "send one by one", "drop", "copy", "turn round", "block",
                "block", "slow block", "wait",
            )
        ),
        st.integers(0, 5),
        st.integers(1, 4),
    ),
    max_size=40,
)  # fmt: skip


class Story:
    """What may happen to a gateway, in any order; every answer is held against the blocks."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.member = gate.member
        self.mempool: list[bytes] = []
        self.places: dict[bytes, tuple[int, int]] = {}
        self.expected: dict[int, tuple[int, int]] = {}

    def tell(self, action: Action) -> None:
        """Let it happen."""
        name, which, count = action
        by = PEOPLE[which % 2]
        lane = which % 3 // 2
        getattr(self, "do_" + name.replace(" ", "_"))(by, lane, count)

    def sequence(self, by: str, lane: int) -> int:
        """The next one nobody has used."""
        return self.member.sequences.get(("one", by, lane), 0)

    def do_submit(self, by: str, lane: int, count: int) -> None:
        self.gate.submit(*add(self.gate, count, by=by, lane=lane))

    def do_gap(self, by: str, lane: int, count: int) -> None:
        sequence = self.sequence(by, lane) + count
        self.gate.submit(self.member.sign(Add("g", 1), by=by, lane=lane, sequence=sequence))

    def do_rival(self, by: str, lane: int, count: int) -> None:
        sequence = max(0, self.sequence(by, lane) - count)
        self.gate.submit(self.member.sign(Add(f"r{count}", 2), by=by, lane=lane, sequence=sequence))

    def do_again(self, _by: str, lane: int, count: int) -> None:
        if self.gate.answers:
            self.gate.submit(self.gate.answers[(lane + count) % len(self.gate.answers)][0])

    def do_forged(self, by: str, lane: int, count: int) -> None:
        envelope = self.member.sign(Add("f", count), by=by, lane=lane)
        self.gate.submit(envelope[:-1] + bytes([envelope[-1] ^ 1]))

    def do_short(self, by: str, lane: int, count: int) -> None:
        until_ms = self.member.ledger.time_ms + 2 * count
        self.gate.submit(self.member.sign(Add("s", 1), by=by, lane=lane, valid_until_ms=until_ms))

    def do_elsewhere(self, by: str, lane: int, count: int) -> None:
        sequence = max(0, self.sequence(by, lane) - count)
        rival = self.member.sign(Add("e", 3), by=by, lane=lane, sequence=sequence)
        self.mempool.append(self.member.bundle(rival))

    def do_send(self, _by: str, _lane: int, _count: int) -> None:
        self.mempool += self.gate.send()

    def do_send_one_by_one(self, _by: str, _lane: int, _count: int) -> None:
        self.mempool += self.gate.send(1)

    def do_drop(self, _by: str, lane: int, count: int) -> None:
        del self.mempool[lane : lane + count]

    def do_copy(self, _by: str, lane: int, count: int) -> None:
        self.mempool += self.mempool[lane : lane + count]

    def do_turn_round(self, _by: str, _lane: int, _count: int) -> None:
        self.mempool.reverse()

    def do_block(self, _by: str, _lane: int, count: int) -> None:
        self.decide(self.mempool[: 2 * count], 1)
        del self.mempool[: 2 * count]

    def do_slow_block(self, _by: str, _lane: int, count: int) -> None:
        self.decide(self.member.propose(*self.mempool), 5 * count)

    def do_wait(self, _by: str, _lane: int, _count: int) -> None:
        self.gate.wait_long()

    def decide(self, bundles: list[bytes], later_ms: int) -> None:
        """Make a block; whoever waited for a transaction in it is told its place."""
        waiting = {
            digest: one.waiting._batch.answer for digest, one in self.gate.gateway._pending.items()
        }
        block = self.gate.decide(*bundles, time_ms=self.member.ledger.time_ms + later_ms)
        applied = block.chains["one"]
        for offset, verdict in enumerate(applied.verdicts):
            if verdict.transaction is None:
                continue
            digest = verdict.transaction.digest
            assert digest not in self.places, "included twice"
            self.places[digest] = (block.height, applied.first_leaf + offset)
            if digest in waiting:
                place = waiting[digest].result(0)
                assert self.places[digest] == (place.height, place.leaf)

    def finish(self) -> None:
        """With an honest proposer everything comes to an end."""
        for _ in range(30):
            if not self.gate.gateway.pending:
                break
            self.gate.wait_long()
            self.mempool += self.gate.send()
            self.decide(self.member.propose(*self.mempool), 1)
            self.mempool = [
                one for one in self.mempool if not self.member.check(one, again=True)[0]
            ]
        assert (0, {}) == (self.gate.gateway.pending, self.gate.gateway._sequences)
        for envelope, answer in self.gate.answers:
            assert answer.done()
            if answer.exception(0) is None:
                place = answer.result(0)
                digest = self.member.decode(envelope).digest
                assert self.places[digest] == (place.height, place.leaf)


@settings(max_examples=40, deadline=None)
@given(actions)
def test_whatever_happens_each_is_answered_once(told: list[Action]) -> None:
    """Bundles dropped, copied, turned round, overtaken from elsewhere: each submission has one
    answer, and it is what the blocks say."""
    with tempfile.TemporaryDirectory() as folder:
        gate = Gate(Path(folder))
        story = Story(gate)
        try:
            for action in told:
                story.tell(action)
            story.finish()
        finally:
            gate.close()


orderly = st.lists(
    st.tuples(
        st.sampled_from(
            ("submit", "submit", "send", "send one by one", "drop", "copy", "turn round", "block",
             "block", "wait")
        ),
        st.integers(0, 5),
        st.integers(1, 4),
    ),
    max_size=40,
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(orderly)
def test_whoever_keeps_order_is_never_refused(told: list[Action]) -> None:
    """Where submitters count right, no order of bundles and no loss of them refuses anything."""
    with tempfile.TemporaryDirectory() as folder:
        gate = Gate(Path(folder))
        story = Story(gate)
        try:
            for action in told:
                story.tell(action)
            story.finish()
            assert [] == [one for _, one in gate.answers if one.exception(0) is not None]
        finally:
            gate.close()


def test_items_are_what_was_signed(gate: Gate) -> None:
    """A bundle carries the bytes that were handed in, for the chain they were handed in for."""
    (envelope,) = add(gate, 1)
    gate.submit(envelope)
    assert [pack(1, [Item("one", envelope)])] == gate.send()
