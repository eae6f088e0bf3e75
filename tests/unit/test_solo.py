"""The solo engine: who is answered, in what order, and what happens when it must stop."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.toy_chain import START_MS, Add, Explode, Remind, Spoil, Toy, key_of

from hansa.core.errors import Malformed, WrongNonce, WrongSignature
from hansa.core.keys import SigningKey
from hansa.core.transaction import decode_envelope, sign_body
from hansa.network.intake import EngineBusy, EngineStopped, Inclusion
from hansa.network.solo import SoloEngine

PATIENCE_S = 30


class ManualClock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now_ms = START_MS + 1

    def __call__(self) -> int:
        """The time."""
        return self.now_ms


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Toy]:
    """A fresh network."""
    toy = Toy(tmp_path)
    yield toy
    toy.close()


@pytest.fixture
def clock() -> ManualClock:
    """A clock at the beginning."""
    return ManualClock()


@pytest.fixture
def engine(toy: Toy, clock: ManualClock) -> Iterator[SoloEngine]:
    """A running engine."""
    engine = SoloEngine(toy.ledger, clock=clock)
    engine.start()
    yield engine
    engine.stop()


def test_each_submitter_gets_its_own_durable_receipt(toy: Toy, engine: SoloEngine) -> None:
    """Included, rejected by a rule, refused at the door: each answer is to its own question."""
    included = engine.submit("one", toy.sign(Add("a", 1)))
    rejected = engine.submit("one", toy.sign(Spoil("x")))
    malformed = engine.submit("one", b"\xc1")
    elsewhere = engine.submit("two", toy.sign(Add("a", 1), chain="two"))
    first, second, third = [answer.result(PATIENCE_S) for answer in (included, rejected, elsewhere)]
    assert (None, True) == (first.receipt.error, second.receipt.error is not None)
    assert ("one", "two", 1, 2, 1) == (
        first.chain, third.chain, first.leaf, second.leaf, third.leaf,
    )  # fmt: skip
    with pytest.raises(Malformed):
        malformed.result(PATIENCE_S)
    assert toy.ledger.block_log.durable_height > max(first.height, second.height, third.height)
    assert (3, 1, 1) == (
        engine.numbers.included, engine.numbers.rejected, engine.numbers.refused,
    )  # fmt: skip


def test_of_two_racing_for_a_nonce_one_is_included(toy: Toy, engine: SoloEngine) -> None:
    """Many clients submit different transactions with one sequence: exactly one gets in."""
    rounds, clients = 10, 4
    with ThreadPoolExecutor(clients) as pool:
        for sequence in range(rounds):
            start = threading.Barrier(clients)
            envelopes = [toy.sign(Add(f"c{n}", 1), sequence=sequence) for n in range(clients)]

            def submit(envelope: bytes, start: threading.Barrier = start) -> str:
                start.wait(PATIENCE_S)
                try:
                    engine.submit("one", envelope).result(PATIENCE_S)
                except WrongNonce:
                    return "wrong nonce"
                return "included"

            outcomes = sorted(pool.map(submit, envelopes))
            assert ["included", *["wrong nonce"] * (clients - 1)] == outcomes
    assert rounds == sum(toy.total(f"c{n}") for n in range(clients))


def test_a_full_queue_turns_submitters_away(toy: Toy, clock: ManualClock) -> None:
    """Beyond its bound nothing is taken, of a batch not even a part; room made is room given."""
    engine = SoloEngine(toy.ledger, clock=clock, max_waiting=3)
    taken = [
        engine.submit("one", envelope) for envelope in [toy.sign(Add("a", 1)) for _ in range(2)]
    ]
    extra = [toy.sign(Add("a", 1)) for _ in range(2)]
    with pytest.raises(EngineBusy, match="expected room for 2, got none"):
        engine.submit_batch("one", extra)
    assert (2, 1) == (engine.waiting, EngineBusy.retry_after_s)
    engine.step()
    assert [0, 1] == [answer.result(0).receipt.index for answer in taken]
    assert not engine.submit_batch("one", extra).done()
    engine.step()
    assert 4 == toy.total("a")


def test_a_block_is_cut_when_it_is_full(toy: Toy, clock: ManualClock) -> None:
    """No block holds more transactions than the genesis allows."""
    engine = SoloEngine(toy.ledger, clock=clock)
    limit = toy.genesis.max_block_transactions
    answers = [
        engine.submit("one", envelope)
        for envelope in [toy.sign(Add("a", 1)) for _ in range(limit + 5)]
    ]
    engine.step()
    engine.step()
    heights = [answer.result(0).height for answer in answers]
    assert [1] * limit + [2] * 5 == heights


def test_deadlines_get_blocks_when_nobody_submits(
    toy: Toy, engine: SoloEngine, clock: ManualClock
) -> None:
    """Once the clock has passed a deadline, the engine makes a block for it by itself."""
    engine.submit("one", toy.sign(Remind(START_MS + 500, "r"))).result(PATIENCE_S)
    made = threading.Event()
    engine.on_block.append(lambda block: made.set())
    clock.now_ms = START_MS + 501
    assert made.wait(PATIENCE_S)
    assert engine.call(toy.ledger.next_deadline_ms) is None
    assert 2 == engine.call(lambda: toy.ledger.height)


def test_a_clock_that_jumps_back_stops_no_deadline(toy: Toy, clock: ManualClock) -> None:
    """What block time has passed is due, whatever the clock says now."""
    engine = SoloEngine(toy.ledger, clock=clock)
    engine.submit("one", toy.sign(Remind(START_MS + 50, "r")))
    engine.step()
    clock.now_ms = START_MS + 51
    assert engine.is_deadline_due()
    toy.ledger.time_ms = clock.now_ms
    clock.now_ms = START_MS - 100_000
    assert engine.is_deadline_due()
    block = engine.step()
    assert block is not None
    assert START_MS + 51 == block.time_ms
    assert engine.step() is None


def test_a_forged_signature_burns_no_nonce(toy: Toy, clock: ManualClock) -> None:
    """Of a forged and a true transaction with one nonce in one block, the true one is included."""
    engine = SoloEngine(toy.ledger, clock=clock)
    true = toy.sign(Add("a", 1))
    forged = bytearray(true)
    forged[-1] ^= 1
    answers = [engine.submit("one", envelope) for envelope in [bytes(forged), true]]
    engine.step()
    with pytest.raises(WrongSignature):
        answers[0].result(0)
    assert 1 == answers[1].result(0).leaf


def test_many_signatures_are_judged_each_for_its_own(toy: Toy, clock: ManualClock) -> None:
    """Over more than one slice of the verifying threads, every verdict meets its transaction."""
    engine = SoloEngine(toy.ledger, clock=clock)
    envelopes = []
    for number in range(95):
        names = ["anna", "bert", "carl"][: number % 3 + 1]
        envelope = toy.sign(Add("a", 1), by=[f"{name}{number}" for name in names])
        if number % 7 == 0:
            body = decode_envelope(envelope)
            forged = sign_body(body.body, [toy_key(number) for _ in names])
            envelope = forged
        envelopes.append(envelope)
    answers = [engine.submit("one", envelope) for envelope in envelopes]
    engine.step()
    assert [number % 7 == 0 for number in range(95)] == [
        isinstance(answer.exception(0), WrongSignature) for answer in answers
    ]
    engine.stop()


def toy_key(number: int) -> SigningKey:
    """A key that is nobody's."""

    return key_of(f"forger {number}")


def test_a_bug_stops_the_engine_and_tells_everybody(toy: Toy, clock: ManualClock) -> None:
    """The block in which it happens is untouched; whoever waits or comes later is told why."""
    engine = SoloEngine(toy.ledger, clock=clock)
    before = (toy.app_hashes(), toy.ledger.block_log.height, toy.ledger.chains["one"].log.size)
    envelopes = [toy.sign(Add("a", 1)), toy.sign(Explode("division"))]
    answers = [engine.submit("one", envelope) for envelope in envelopes]
    with pytest.raises(ZeroDivisionError):
        engine.step()
    for answer in answers:
        with pytest.raises(EngineStopped, match="stopped acknowledging: division"):
            answer.result(0)
    with pytest.raises(EngineStopped, match="division"):
        engine.submit("one", toy.sign(Add("a", 1), sequence=0))
    after = (toy.app_hashes(), toy.ledger.block_log.height, toy.ledger.chains["one"].log.size)
    assert before == after


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_running_engine_that_fails_leaves_nobody_waiting(toy: Toy, engine: SoloEngine) -> None:
    """With both threads at work, every answer comes, included or told that the engine stopped."""
    envelopes = [toy.sign(Add("a", 1)) for _ in range(350)]
    envelopes.insert(150, toy.sign(Explode("x"), by="bert"))
    answers = [engine.submit("one", envelope) for envelope in envelopes]
    outcomes: list[type] = []
    for answer in answers:
        try:
            outcomes.append(type(answer.result(PATIENCE_S)))
        except EngineStopped as stopped:
            outcomes.append(type(stopped))
    assert {Inclusion, EngineStopped} >= set(outcomes)
    assert EngineStopped is outcomes[150]
    assert outcomes.count(Inclusion) == toy.total("a")
    assert isinstance(engine.failed, ZeroDivisionError)


def test_an_answer_cannot_be_cancelled(toy: Toy, clock: ManualClock) -> None:
    """A submitter that goes away doesn't take the engine with it."""
    engine = SoloEngine(toy.ledger, clock=clock)
    answers = [engine.submit("one", envelope) for envelope in [toy.sign(Add("a", 1)), b"\xc1"]]
    assert [False, False] == [answer.cancel() for answer in answers]
    engine.step()
    assert (1, None) == (answers[0].result(0).leaf, engine.failed)


def test_stopping_finishes_what_was_taken(toy: Toy, clock: ManualClock) -> None:
    """All that was submitted before the stop is answered; afterwards nothing is taken."""
    engine = SoloEngine(toy.ledger, clock=clock)
    engine.start()
    answers = [
        engine.submit("one", envelope) for envelope in [toy.sign(Add("a", 1)) for _ in range(250)]
    ]
    engine.stop()
    engine.stop()
    assert list(range(1, 251)) == [answer.result(0).leaf for answer in answers]
    with pytest.raises(EngineStopped, match="shutting down"):
        engine.submit("one", toy.sign(Add("a", 1)))


def test_questions_are_answered_between_blocks(toy: Toy, engine: SoloEngine) -> None:
    """A function runs where the state stands still; what it raises is the asker's."""
    engine.submit("one", toy.sign(Add("a", 3))).result(PATIENCE_S)
    assert 3 == engine.call(lambda: toy.total("a"))
    with pytest.raises(KeyError, match="no such"):
        engine.call(lambda: toy.ledger.chains["no such"])
    assert engine.failed is None
