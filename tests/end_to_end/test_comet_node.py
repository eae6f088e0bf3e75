"""A node on CometBFT itself, with one validator: answers, proofs, crashes, rest, and its end."""

from __future__ import annotations

import fcntl
import itertools
import os
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import pytest
from msgspec.structs import replace

from hansa.core.block import decode_header
from hansa.core.errors import Expired, Refused, TooFarAhead, WrongNonce, WrongSignature
from hansa.core.keys import compute_account
from hansa.core.proof import Outcome, verify_bundle
from hansa.core.transaction import Body, Message, Signer, sign_transaction
from hansa.interface.http.app import HttpServer
from hansa.interface.sandbox.home import SANDBOX_TERMS
from hansa.interface.sandbox.roster import PAYMENTS, STORES
from hansa.interface.sandbox.testnet import create_testnet
from hansa.network.comet.bundle import Item, pack
from hansa.network.comet.engine import CometEngine
from hansa.network.intake import EngineBusy, EngineStopped, Inclusion, UnknownChain
from hansa.node.home import load_config, load_keys, make_trust
from hansa.node.node import Node, system_clock
from hansa.service.bank.model import Issue, OpenCurrency, OpenHold
from hansa.service.bank.rules import BALANCES

PATIENCE_S: Final = 60.0
CURRENCY: Final = "EUR"
EMPTY_BLOCKS_MS: Final = 1_500
OCTETS: Final = {"Content-Type": "application/octet-stream"}


def refuse() -> str:
    """A sandbox has no passphrase."""
    raise AssertionError("nobody is asked")


def wait(condition: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> float:
    """Wait until something holds; returns how many seconds it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < patience_s, f"expected {what} in {patience_s} s"
        time.sleep(0.02)
    return time.monotonic() - began


class Household:
    """A home with a node on it, and a payment institution that signs."""

    def __init__(self, folder: Path, *, max_waiting: int = 20_000, **terms: Any) -> None:
        (self.home,) = create_testnet(
            folder, "Alone", 1, terms=msgspec.structs.replace(SANDBOX_TERMS, **terms)
        )
        self._configure(max_waiting)
        self.keys = load_keys(self.home, refuse)
        self._sequences = itertools.count()
        self._names = itertools.count()
        self.node = self.open()

    def _configure(self, max_waiting: int) -> None:
        config = load_config(self.home)
        assert config.comet is not None
        settings = replace(config.comet.settings, create_empty_blocks_interval_ms=EMPTY_BLOCKS_MS)
        comet = replace(config.comet, settings=settings)
        config = replace(config, comet=comet, max_waiting=max_waiting, runs_relay=False)
        (self.home / "config.json").write_bytes(msgspec.json.encode(config))

    def open(self) -> Node:
        """Open the node and start it."""
        self.node = Node(self.home, keys=self.keys)
        self.node.start()
        return self.node

    @property
    def engine(self) -> CometEngine:
        """What drives it."""
        assert isinstance(self.node.engine, CometEngine)
        return self.node.engine

    @property
    def comet(self) -> int:
        """The process id of CometBFT."""
        assert self.engine.process is not None
        assert self.engine.process.pid is not None
        return self.engine.process.pid

    def account(self, company: str = PAYMENTS.key) -> bytes:
        """A company's account."""
        return compute_account(self.node.genesis.consortium, self.keys.get(company).public)

    def sign(self, message: Message, **changes: Any) -> bytes:
        """An envelope of the institution's, with its next sequence unless another is given."""
        key = self.keys.get(PAYMENTS.key)
        fields: dict[str, Any] = {
            "version": 1,
            "network": self.node.network,
            "chain": "trade",
            "signers": (Signer(self.account(), key.public),),
            "lane": 0,
            "valid_until_ms": max(system_clock(), self.node.ledger.time_ms) + 300_000,
            "messages": (message,),
            **changes,
        }
        if "sequence" not in changes:
            fields["sequence"] = next(self._sequences)
        return sign_transaction(Body(**fields), [key])

    def issue(self, count: int, **changes: Any) -> list[bytes]:
        """Envelopes that put a cent each into circulation."""
        return [
            self.sign(Issue(self.account(STORES.key), CURRENCY, 1, self.reference()), **changes)
            for _ in range(count)
        ]

    def reference(self) -> bytes:
        """One nobody has used."""
        return sha256(b"%d" % next(self._names)).digest()[:16]

    def submit(self, *envelopes: bytes) -> list[Future[Inclusion]]:
        """Hand them in, one by one."""
        return [self.node.submit("trade", envelope) for envelope in envelopes]

    def open_market(self) -> None:
        """Have a currency."""
        (answer,) = self.submit(self.sign(OpenCurrency(CURRENCY, 2)))
        assert answer.result(PATIENCE_S).receipt.error is None

    def balance(self) -> int:
        """How many cents were issued."""
        trade = self.node.ledger.chains["trade"]
        place = self.account(STORES.key) + CURRENCY.encode()
        balance = self.node.call(lambda: BALANCES.get(trade, place))
        return balance.posted_minor if balance else 0

    def log_size(self) -> int:
        """Bytes of the durable blocks."""
        folder = self.node.ledger.block_log.folder
        return sum(path.stat().st_size for path in folder.iterdir())

    def close(self) -> None:
        """End it; once."""
        if not self.node._stopping:
            self.node.stop()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Household]:
    """A node that nobody kills."""
    house = Household(tmp_path_factory.mktemp("net"))
    house.open_market()
    yield house
    house.close()


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Household]:
    """A node to which something will happen; blocks of 50, so that little fills it."""
    victim = Household(tmp_path, max_waiting=100, max_block_transactions=50)
    victim.open_market()
    yield victim
    victim.close()


def included(answers: list[Future[Inclusion]]) -> list[Inclusion]:
    """The places of these, each another one."""
    places = [answer.result(PATIENCE_S) for answer in answers]
    assert len(places) == len({(place.chain, place.leaf) for place in places})
    assert [None] * len(places) == [place.receipt.error for place in places]
    return places


# Answers.


def test_acknowledged_once_and_provable(house: Household) -> None:
    """Each is in one block, in the order of its lane, and proved to who trusts the genesis."""
    before = house.balance()
    places = included(house.submit(*house.issue(30)))
    assert sorted(place.leaf for place in places) == [place.leaf for place in places]
    assert before + 30 == house.balance()
    node, last = house.node, places[-1]
    node.wait_final("trade", last.leaf + 1, PATIENCE_S)
    assert node.wait_projected(last.height)
    judgement = verify_bundle(
        node.prove("transaction", last.digest.hex()), make_trust(node.genesis), system_clock()
    )
    assert Outcome.VALID == judgement.outcome


def test_pipelined_by_many(house: Household) -> None:
    """Many submit at once, each on a lane of his own with one sequence behind the other, without
    waiting: nothing is refused."""
    before = house.balance()
    lanes = [
        [
            envelope
            for sequence in range(40)
            for envelope in house.issue(1, lane=lane, sequence=sequence)
        ]
        for lane in range(1, 7)
    ]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda lane: house.submit(*lane), lanes))
    for lane in answers:
        included(lane)
    assert before + 240 == house.balance()


def test_batch(house: Household) -> None:
    """A batch is answered in its order, with the refusals in their places."""
    good = house.issue(2)
    bad = house.issue(1, sequence=999_999)
    answers = house.node.submit_batch("trade", [good[0], *bad, b"\xc1", good[1]]).result(PATIENCE_S)
    assert [True, False, False, True] == [isinstance(one, Inclusion) for one in answers]


def test_refused_soon(house: Household) -> None:
    """What no block could take is refused at once, without waiting for one."""
    now_ms = system_clock()
    (good,) = house.issue(1, sequence=house.node.get_sequence("trade", house.account()))
    cases = {
        "too high": (WrongNonce, house.issue(1, sequence=10_000)[0]),
        "too low": (WrongNonce, house.issue(1, sequence=0)[0]),
        "expired": (Expired, house.issue(1, valid_until_ms=now_ms - 3_600_000)[0]),
        "too far ahead": (TooFarAhead, house.issue(1, valid_until_ms=now_ms + 10**10)[0]),
        "unsigned": (WrongSignature, good[:-1] + bytes([good[-1] ^ 1])),
    }
    for _ in range(2):
        next(house._sequences)
    for name, (kind, envelope) in cases.items():
        began = time.monotonic()
        with pytest.raises(kind):
            house.node.submit("trade", envelope).result(PATIENCE_S)
        assert time.monotonic() - began < 5, name
    with pytest.raises(UnknownChain):
        house.node.submit("nowhere", good).result(PATIENCE_S)
    house._sequences = itertools.count(house.node.get_sequence("trade", house.account()))


def test_two_for_one_sequence(house: Household) -> None:
    """Of two with one sequence one is included, the other refused; the node goes on."""
    sequence = next(house._sequences)
    answers = house.submit(*house.issue(1, sequence=sequence), *house.issue(1, sequence=sequence))
    outcomes = {type(answer.exception(PATIENCE_S)) for answer in answers}
    assert {type(None), WrongNonce} == outcomes
    included(house.submit(*house.issue(3)))
    assert house.node.engine.failed is None


def test_only_this_user_may_ask(house: Household) -> None:
    """The application's socket is this user's, in a folder of his; the RPC is on loopback."""
    assert house.engine.server is not None
    path = house.engine.server.path
    assert (0o600, 0o700) == tuple(stat.S_IMODE(one.stat().st_mode) for one in (path, path.parent))
    assert "127.0.0.1" == house.engine.rpc.address.rpartition(":")[0]


# Rest.


def test_rest(house: Household) -> None:
    """Where nobody submits there is a block an interval, no more; the hash rests, and next to
    nothing is written."""
    ledger = house.node.ledger
    house.submit(*house.issue(1))[0].result(PATIENCE_S)
    wait(lambda: house.engine.rpc.num_unconfirmed_txs().transactions == 0, "an empty mempool")
    resting = ledger.height + 2
    wait(lambda: ledger.height >= resting, "two empty blocks")
    height, app_hash, written = ledger.height, ledger.network_hash, house.log_size()
    took_s = wait(lambda: ledger.height >= height + 3, "three empty blocks")
    assert took_s > 2 * EMPTY_BLOCKS_MS / 1000
    assert app_hash == ledger.network_hash
    assert house.log_size() - written < 3 * 1_000


def test_rest_after_copies(victim: Household) -> None:
    """Copies of a bundle that has filled a block don't stay in the mempool, where nobody would
    propose them and they would keep the network at making blocks for ever."""
    items = [Item("trade", envelope) for envelope in victim.issue(50)]
    rpc = victim.engine.rpc
    before = victim.balance()
    for number in range(4):
        assert 0 == rpc.broadcast_tx_sync(pack(number, items)).code
    wait(lambda: victim.balance() == before + 50, "the transactions in a block")
    wait(lambda: rpc.num_unconfirmed_txs().transactions == 0, "an empty mempool", 10)
    assert 1 == rpc.broadcast_tx_sync(pack(9, items)).code
    assert before + 50 == victim.balance()


def test_deadlines_run(house: Household) -> None:
    """What is due by time alone happens within an empty block's interval, though nobody asks."""
    included(
        house.submit(
            house.sign(Issue(house.account(), CURRENCY, 500, house.reference())),
        )
    )
    until_ms = house.node.ledger.time_ms + 4_000
    hold = OpenHold(CURRENCY, 500, house.account(STORES.key), until_ms, house.reference())
    included(house.submit(house.sign(hold)))
    trade = house.node.ledger.chains["trade"]
    place = house.account() + CURRENCY.encode()

    def held() -> int:
        balance = house.node.call(lambda: BALANCES.get(trade, place))
        assert balance is not None
        return balance.held_minor

    assert 500 == held()
    wait(lambda: held() == 0, "the hold to end by itself")
    assert house.node.ledger.time_ms - until_ms < EMPTY_BLOCKS_MS + 2_500


# Load and crashes.


def test_busy(victim: Household) -> None:
    """With CometBFT stopped the queue fills, then submitters are told to come back, over HTTP by
    429; once it goes on all that was taken is included."""
    before = victim.balance()
    envelopes = victim.issue(600)
    taken: list[Future[Inclusion]] = []

    def is_full() -> bool:
        try:
            taken.extend(victim.submit(envelopes[len(taken)]))
        except EngineBusy:
            return victim.engine.gateway.pending >= 200
        return False

    os.kill(victim.comet, signal.SIGSTOP)
    try:
        with HttpServer(victim.node) as server, httpx.Client(base_url=server.url) as http:
            while not is_full():
                pass
            answer = http.post(
                "/v1/transactions",
                params={"chain": "trade"},
                content=envelopes[len(taken)],
                headers=OCTETS,
            )
    finally:
        os.kill(victim.comet, signal.SIGCONT)
    assert (429, "1") == (answer.status_code, answer.headers["retry-after"])
    assert 300 <= len(taken) < 600
    included(taken)
    assert before + len(taken) == victim.balance()


def test_engine_killed(victim: Household) -> None:
    """CometBFT is killed with transactions in its mempool: it is started again, they are handed in
    again, and each is included once."""
    before = victim.balance()
    first = victim.comet
    answers = []
    for _ in range(4):
        answers += victim.submit(*victim.issue(40))
        time.sleep(0.05)
    os.kill(first, signal.SIGKILL)
    included(answers)
    assert before + 160 == victim.balance()
    assert first != victim.comet
    assert (1, None) == (victim.engine.deaths, victim.node.engine.failed)
    included(victim.submit(*victim.issue(2)))


def test_engine_that_does_not_start(victim: Household) -> None:
    """Where CometBFT can't be started again, it is tried again until it can."""
    with (victim.home / "comet" / "comet.lock").open("rb+") as lock:
        os.kill(victim.comet, signal.SIGKILL)
        fcntl.flock(lock, fcntl.LOCK_EX)  # As a node does that is started by mistake.
        answers = victim.submit(*victim.issue(3))
        wait(lambda: victim.engine.deaths >= 2, "a start that fails")
        assert victim.engine.trouble.startswith("CometBFT is not running")
    included(answers)
    assert victim.node.engine.failed is None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_light_blocks_that_can_not_be_kept(victim: Household) -> None:
    """A node that can make nothing final any more says so, instead of going on for nobody."""
    victim.engine.light_blocks._store.close()
    with suppress(EngineStopped):
        included(victim.submit(*victim.issue(1)))
    wait(lambda: victim.node.engine.failed, "the engine to fail")
    with pytest.raises(EngineStopped):
        victim.submit(*victim.issue(1))


def test_stopped_and_opened_again(victim: Household) -> None:
    """A node that is opened again goes on where it was; what was final is so at once."""
    places = included(victim.submit(*victim.issue(20)))
    victim.node.wait_final("trade", places[-1].leaf + 1, PATIENCE_S)
    height, balance = victim.node.ledger.height, victim.balance()
    victim.node.stop()
    with pytest.raises(EngineStopped):
        victim.submit(*victim.issue(1, sequence=0))
    node = victim.open()
    assert decode_header(node.ledger.published["trade"].header).log_size >= places[-1].leaf + 1
    assert set(node.ledger.chains) == set(node.ledger.published)
    assert height <= node.ledger.height
    assert balance == victim.balance()
    included(victim.submit(*victim.issue(3)))
    assert balance + 3 == victim.balance()


def test_stops_while_the_network_halts(victim: Household) -> None:
    """A node whose CometBFT answers nobody stops in bounded time, and tells who waits; what was
    handed in may be in a block afterwards, but only once."""
    before = victim.balance()
    os.kill(victim.comet, signal.SIGSTOP)
    answers = victim.submit(*victim.issue(30))
    stopping = threading.Thread(target=victim.node.stop)
    began = time.monotonic()
    stopping.start()
    for answer in answers:
        assert isinstance(answer.exception(PATIENCE_S), EngineStopped)
    stopping.join(PATIENCE_S)
    assert not stopping.is_alive()
    assert time.monotonic() - began < 45
    victim.open()
    sequence = victim.node.get_sequence("trade", victim.account())
    assert before + sequence - 1 == victim.balance()


def test_stops_while_the_engine_is_gone(victim: Household) -> None:
    """The same where CometBFT was killed a moment ago."""
    answers = victim.submit(*victim.issue(10))
    os.kill(victim.comet, signal.SIGKILL)
    began = time.monotonic()
    victim.node.stop()
    assert time.monotonic() - began < 30
    for answer in answers:
        error = answer.exception(0)
        assert error is None or isinstance(error, EngineStopped | Refused)


def test_flood(victim: Household) -> None:
    """While one member floods the mempool with what is no bundle, badly signed, replayed or too
    much for a block, the others' transactions are included in time, and the flood in no block."""
    before = victim.balance()
    old = victim.issue(40)
    included(victim.submit(*old))
    forged = [one[:-1] + bytes([one[-1] ^ 1]) for one in victim.issue(49, lane=9, sequence=0)]
    junk = [
        [Item("trade", envelope) for envelope in old],
        [Item("trade", envelope) for envelope in forged],
        [Item("trade", envelope) for envelope in [*forged, *forged]],
        [Item("trade", b"\xc1" * 60_000)],
        [Item("nowhere", forged[0])],
    ]
    is_over = threading.Event()

    def flood(first: int) -> int:
        numbers = itertools.count(first)
        while not is_over.is_set():
            for items in junk:
                victim.engine.rpc.broadcast_tx_async(pack(next(numbers), items))
            victim.engine.rpc.broadcast_tx_async(b"\x02" + next(numbers).to_bytes(8, "big") * 9_000)
        return next(numbers) - first

    with ThreadPoolExecutor(2) as pool:
        floods = [pool.submit(flood, first << 40) for first in (1, 2)]
        try:
            latencies = []
            for _ in range(15):
                began = time.monotonic()
                included(victim.submit(*victim.issue(5)))
                latencies.append(time.monotonic() - began)
        finally:
            is_over.set()
    assert max(latencies) < 15, latencies
    assert all(flood.result() > 100 for flood in floods)
    assert before + 40 + 75 == victim.balance()
    assert victim.node.engine.failed is None
    wait(lambda: victim.engine.rpc.num_unconfirmed_txs().transactions == 0, "an empty mempool")
