"""Races and replays: of two who want the same, one gets it, and nothing counts twice."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path

import pytest
from tests.node_world import (
    BUYERS,
    FUNDS_MINOR,
    HOUR_MS,
    KEYS,
    SELLERS,
    Clock,
    Market,
    find_unsound_books,
    iterate_digests,
    make_market_home,
    make_terms,
    own_minor,
    read_table,
)

from hansa.core.errors import Refused, WrongChain, WrongNetwork, WrongNonce, WrongSignature
from hansa.core.module import compute_object_id
from hansa.core.transaction import Message
from hansa.network.intake import Inclusion
from hansa.node.home import NodeConfig
from hansa.node.node import Node
from hansa.service.bank.model import OpenHold, PostHold, VoidHold
from hansa.service.bank.rules import HOLDS
from hansa.service.members.model import Grant
from hansa.service.orders.model import Accept, Confirm, Dispatch, Fund, Refund, RefundLine
from hansa.service.orders.rules import ORDERS

PATIENCE_S = 60.0
THREADS = 4
ROUNDS = 15
SOAK_ROUNDS = 500
BUYER, PAYEE, OTHER = BUYERS
SELLER = SELLERS[0]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A running node on a clock that stands still."""
    make_market_home(tmp_path / "home")
    with Node(tmp_path / "home", keys=KEYS.store, clock=Clock()) as made:
        yield made


@pytest.fixture
def market(node: Node) -> Market:
    """The market of the node; trade has heard of the products."""
    made = Market(node)
    made.open()
    return made


def race(node: Node, chain: str, envelopes: Sequence[bytes]) -> list[Inclusion | Refused]:
    """Hand in each envelope from a thread of its own, all at once; returns what became of them."""
    start = threading.Barrier(len(envelopes))
    answers: list[Future[Inclusion] | None] = [None] * len(envelopes)

    def submit(place: int) -> None:
        start.wait(PATIENCE_S)
        answers[place] = node.submit(chain, envelopes[place])

    threads = [threading.Thread(target=submit, args=(n,)) for n in range(len(envelopes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    return [_wait(answer) for answer in answers if answer is not None]


def _wait(answer: Future[Inclusion]) -> Inclusion | Refused:
    try:
        return answer.result(PATIENCE_S)
    except Refused as refusal:
        return refusal


def count_done(outcomes: Sequence[Inclusion | Refused]) -> int:
    """Return how many took effect."""
    return sum(isinstance(o, Inclusion) and o.receipt.error is None for o in outcomes)


def get_numbers(outcomes: Sequence[Inclusion | Refused]) -> set[int]:
    """Return the numbers of the rules' refusals."""
    return {
        outcome.receipt.error.number
        for outcome in outcomes
        if isinstance(outcome, Inclusion) and outcome.receipt.error is not None
    }


def test_same_nonce(node: Node, market: Market, soak: bool, seed: int) -> None:
    """Of transactions with one nonce, one is judged; the others leave nothing."""
    print(f"HANSA_SEED={seed}")
    source = random.Random(seed)
    for number in range(SOAK_ROUNDS if soak else ROUNDS):
        before, sequence = own_minor(node, BUYER), node.get_sequence("trade", KEYS.account(BUYER))
        amounts = source.sample(range(1, 50), THREADS)
        envelopes = [
            market.sign("trade", BUYER, transfer, sequence=sequence)
            for transfer in [
                market.make_transfer(PAYEE, amount, number * 100 + amount) for amount in amounts
            ]
        ]
        outcomes = race(node, "trade", envelopes)
        assert count_done(outcomes) == 1
        losers = [outcome for outcome in outcomes if isinstance(outcome, Refused)]
        assert {WrongNonce} == {type(loser) for loser in losers}
        done = next(n for n, outcome in enumerate(outcomes) if isinstance(outcome, Inclusion))
        assert before - amounts[done] == node.call(lambda: own_minor(node, BUYER))
        assert sequence + 1 == node.get_sequence("trade", KEYS.account(BUYER))


def test_same_balance(node: Node, market: Market) -> None:
    """Of payments that each need more than half of a balance, one is made."""
    transfers = [market.make_transfer(PAYEE, FUNDS_MINOR * 2 // 3, n) for n in range(THREADS)]
    envelopes = [
        market.sign("trade", BUYER, transfer, lane=lane, sequence=0)
        for lane, transfer in enumerate(transfers)
    ]
    outcomes = race(node, "trade", envelopes)
    assert count_done(outcomes) == 1
    assert len(get_numbers(outcomes)) == 1
    assert FUNDS_MINOR - FUNDS_MINOR * 2 // 3 == own_minor(node, BUYER)


def test_same_reference(node: Node, market: Market) -> None:
    """One payment handed in over several lanes is made once, whichever comes first."""
    transfer = market.make_transfer(PAYEE, 10, 1)
    envelopes = [
        market.sign("trade", BUYER, transfer, lane=lane, sequence=0) for lane in range(THREADS)
    ]
    assert count_done(race(node, "trade", envelopes)) == THREADS
    assert FUNDS_MINOR - 10 == own_minor(node, BUYER)


def test_same_hold(node: Node, market: Market) -> None:
    """Of those who post and void one hold, one ends it."""
    until_ms = node.engine.clock() + HOUR_MS
    opened = OpenHold("GBP", 100, KEYS.account(PAYEE), until_ms, bytes(16))
    market.do("trade", BUYER, opened)
    hold = next(iter(read_table(node, "trade", HOLDS)))
    envelopes = [
        *[
            market.sign("trade", BUYER, PostHold(hold, 100), lane=n + 1, sequence=0)
            for n in range(2)
        ],
        *[market.sign("trade", PAYEE, VoidHold(hold), lane=n + 1, sequence=0) for n in range(2)],
    ]
    outcomes = race(node, "trade", envelopes)
    assert count_done(outcomes) == 1
    assert len(get_numbers(outcomes)) == 1
    assert {} == read_table(node, "trade", HOLDS)
    assert own_minor(node, BUYER) in (FUNDS_MINOR, FUNDS_MINOR - 100)
    assert find_unsound_books(node) is None


def test_same_goods_returned(node: Node, market: Market) -> None:
    """Of refunds that each take back more than half of what was sold, one is made."""
    assert wait_for_products(node)
    place = market.make_place(SELLER, make_terms(node.engine.clock()), quantity=3)
    order = compute_object_id("trade", market.send("trade", BUYER, place).digest, 0)
    steps: list[tuple[str, Message]] = [
        (SELLER, Accept(order)),
        (BUYER, Fund(order)),
        (SELLER, Dispatch(order)),
        (BUYER, Confirm(order)),
    ]
    for party, message in steps:
        market.do("trade", party, message)
    refund = Refund(order, (RefundLine(0, 2, 300),))
    envelopes = [
        market.sign("trade", SELLER, refund, lane=n + 1, sequence=0) for n in range(THREADS)
    ]
    outcomes = race(node, "trade", envelopes)
    assert count_done(outcomes) == 1
    assert {5016} == get_numbers(outcomes)
    assert read_table(node, "trade", ORDERS)[order].refunded_minor == 300


def wait_for_products(node: Node) -> bool:
    """Wait until the relay has told trade of the products."""
    heard = threading.Event()
    kind = node.kinds["packet"]

    def look(_height: int) -> None:
        rows = node.read_model.list_rows(kind)
        sent = [row for row in rows if row["chain"] == "product"]
        if len(sent) == len(SELLERS) and all(row["status"] != "pending" for row in sent):
            heard.set()

    node.on_projected.append(look)
    look(0)
    return heard.wait(PATIENCE_S)


def test_replays(node: Node, market: Market, tmp_path: Path) -> None:
    """A transaction counts once: not again here, not on another chain, not on another network."""
    transfer = market.sign("trade", BUYER, market.make_transfer(PAYEE, 10, 1))
    node.submit("trade", transfer).result(PATIENCE_S)
    own = own_minor(node, BUYER)
    with pytest.raises(WrongNonce):
        node.submit("trade", transfer).result(PATIENCE_S)
    for chain in ("product", "logistics", "anchor"):
        with pytest.raises(Refused):
            node.submit(chain, transfer).result(PATIENCE_S)
    assert own == own_minor(node, BUYER)

    make_market_home(tmp_path / "other", name="another network")
    config = NodeConfig(runs_relay=False)
    with Node(tmp_path / "other", keys=KEYS.store, clock=Clock(), config=config) as other:
        Market(other).open()
        with pytest.raises(WrongNetwork):
            other.submit("trade", transfer).result(PATIENCE_S)
        assert own_minor(other, BUYER) == FUNDS_MINOR
    digests = list(iterate_digests(node))
    assert len(digests) == len(set(digests))


def test_message_of_all_chains_replayed_on_another(node: Node, market: Market) -> None:
    """Also a message that every chain knows is worthless elsewhere; renamed, its signature is."""
    grant = Grant(KEYS.account("colleague"), ("trade",))
    here = market.sign("anchor", SELLER, grant)
    with pytest.raises(WrongChain):
        node.submit("trade", here).result(PATIENCE_S)
    there = market.sign("trade", SELLER, grant, sequence=0)
    spoilt = there.replace(b"trade", b"trede", 1)
    with pytest.raises(Refused):
        node.submit("trade", spoilt).result(PATIENCE_S)
    forged = bytearray(there)
    forged[-1] ^= 1
    with pytest.raises(WrongSignature):
        node.submit("trade", bytes(forged)).result(PATIENCE_S)
    node.submit("anchor", here).result(PATIENCE_S)
