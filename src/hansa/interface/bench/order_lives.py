"""P2 and P5: whole order lives over three chains, and packets from sent to acknowledged."""

import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from hansa.core.errors import OperatorError
from hansa.core.ledger import NetworkBlock
from hansa.core.module import compute_object_id
from hansa.core.transaction import envelope_digest
from hansa.interface.bench.scratch import (
    CURRENCY,
    Party,
    Progress,
    compute_percentiles,
    open_bench_node,
    open_currency,
    register_customers,
    take,
    wait_until,
)
from hansa.interface.sandbox.lives import make_generous_terms
from hansa.interface.sandbox.roster import HAULIER, PARCELS, WHOLESALER
from hansa.network.intake import Inclusion
from hansa.node.node import Node, system_clock
from hansa.service.bank.model import Issue
from hansa.service.catalogue.model import Register
from hansa.service.link.model import Acknowledged, Received, Sent
from hansa.service.orders.model import (
    Accept,
    Confirm,
    Delivered,
    Dispatch,
    Fund,
    LineOffer,
    Place,
    Released,
)
from hansa.service.orders.rules import PRODUCTS
from hansa.service.shipments.model import HandOver, Opened

LINES: Final = 3
TOTAL_MINOR: Final = LINES * 2 * 255
TRANSACTIONS_OF_LIFE: Final = 9
BATCH: Final = 40
"""Lives begun at once."""
IN_FLIGHT: Final = 800
STUCK_S: Final = 120.0


@dataclass(slots=True)
class _Life:
    buyer: Party
    first: list[bytes]
    confirm: bytes
    order: bytes
    begun_s: float = 0.0


def measure_lives(is_quick: bool, progress: Progress, transfer_rate: float) -> dict[str, Any]:
    """Return the figure P2: value in lives a second, limit from P1's rate in the same run."""
    count = 1_000 if is_quick else 10_000
    with open_bench_node() as node:
        market = Market(node, count, progress)
        seconds = market.run(progress)
        rate = count / seconds
        share = rate * TRANSACTIONS_OF_LIFE / transfer_rate
        return {
            "value": round(rate, 1),
            "unit": "lives/s",
            "limit": round(0.45 * transfer_rate / TRANSACTIONS_OF_LIFE, 1),
            "limit_is": "lives/s at which their transactions reach 0.45 of P1's rate in this run",
            "conditions": {
                "share_of_p1": round(share, 3),
                "wanted": "signed transactions inside lives at 0.45 of P1's rate",
                "lives": count,
                "lines": LINES,
                "transactions_of_life": TRANSACTIONS_OF_LIFE,
                "signatures_of_life": 12,
                "packets_and_acknowledgements_of_life": 4,
                "packet_proofs_verified": market.pages,
                "signed_during_the_run": "the hand-overs: 3 transactions, 6 signatures of a life",
                "life_ms": compute_percentiles(market.latencies_ms),
                "in_flight": IN_FLIGHT,
                "cores": os.cpu_count(),
            },
        }


class Market:
    """Buyers, a seller, two carriers; each order goes on when the blocks say so."""

    def __init__(self, node: Node, count: int, progress: Progress) -> None:
        self.node = node
        self.latencies_ms: list[float] = []
        self.pages = 0
        self._by_order: dict[bytes, _Life] = {}
        self._opened: deque[tuple[bytes, bytes]] = deque()
        self._delivered: deque[bytes] = deque()
        self._released: deque[bytes] = deque()
        self._moved = threading.Condition()
        bank = open_currency(node)
        self.seller = Party(node, "trade", WHOLESALER.key)
        self.seller_hands = Party(node, "logistics", WHOLESALER.key)
        self.carriers = [Party(node, "logistics", c.key) for c in (HAULIER, PARCELS)]
        buyers = [Party(node, "trade", f"buyer/{i}", is_fresh=True) for i in range(count)]
        register_customers(node, buyers)
        products = register_products(node, LINES)
        lines = tuple(LineOffer(product, 2, 2_550_000) for product in products)
        self.lives: list[_Life] = []
        for index, buyer in enumerate(buyers):
            self.lives.append(self._sign(bank, buyer, lines, index))
            if index % 100 == 0:
                progress("signing lives", index, count)
        node.engine.on_block.append(self._hear)

    def _sign(self, bank: Party, buyer: Party, lines: tuple[LineOffer, ...], index: int) -> _Life:
        payment = bank.sign(Issue(buyer.account, CURRENCY, TOTAL_MINOR, index.to_bytes(16, "big")))
        place = buyer.sign(
            Place(
                seller=self.seller.account,
                currency=CURRENCY,
                lines=lines,
                terms=make_generous_terms(system_clock()),
                origin="GB",
                destination="DE",
                address=b"\x01" + bytes(32),
                reference=f"bench {index}",
                dated_ms=system_clock(),
            )
        )
        order = compute_object_id("trade", envelope_digest(place), 0)
        rest = [
            self.seller.sign(Accept(order)),
            buyer.sign(Fund(order)),
            self.seller.sign(Dispatch(order)),
        ]
        return _Life(buyer, [payment, place, *rest], buyer.sign(Confirm(order)), order)

    def _hear(self, block: NetworkBlock) -> None:
        """In the engine's thread: note what the block has moved."""
        for applied in block.chains.values():
            for verdict in applied.verdicts:
                for event in verdict.events:
                    self._note(event)
        with self._moved:
            self._moved.notify_all()

    def _note(self, event: object) -> None:
        if isinstance(event, Opened):
            self._opened.append((event.shipment.order, event.shipment.id))
        elif isinstance(event, Delivered):
            self._delivered.append(event.order.id)
        elif isinstance(event, Released):
            self._released.append(event.order.id)
        elif isinstance(event, Received):
            self.pages += 1

    def run(self, progress: Progress) -> float:
        """Return the seconds from the first order to the last release."""
        waiting = deque(self.lives)
        done = 0
        answers: list[Any] = []
        started = moved_s = time.perf_counter()
        while done < len(self.lives):
            if waiting and len(self._by_order) < IN_FLIGHT:
                answers.append(
                    self._begin([waiting.popleft() for _ in range(min(BATCH, len(waiting)))])
                )
            finished = self._finish()
            moved = finished + self._hand_over() + self._confirm()
            done += finished
            progress("order lives", done, len(self.lives))
            now = time.perf_counter()
            if moved:
                moved_s = now
            elif now - moved_s > STUCK_S:
                raise OperatorError(f"bench: lives got stuck at {done} of {len(self.lives)}")
            elif not (waiting and len(self._by_order) < IN_FLIGHT):
                with self._moved:
                    self._moved.wait(0.002)
        seconds = time.perf_counter() - started
        for answer in answers:
            for settled in answer.result():
                assert isinstance(settled, Inclusion), settled
                assert settled.receipt.error is None, settled.receipt.error
        return seconds

    def _begin(self, lives: Sequence[_Life]) -> Any:
        now = time.perf_counter()
        for life in lives:
            life.begun_s = now
            self._by_order[life.order] = life
        return self.node.submit_batch("trade", [e for life in lives for e in life.first])

    def _hand_over(self) -> int:
        ready = [self._opened.popleft() for _ in range(len(self._opened))]
        first, second = self.carriers
        envelopes: list[bytes] = []
        for order, shipment in ready:
            buyer = self._by_order[order].buyer
            chain = (self.seller_hands, first, second, buyer)
            for giver, taker in pairwise(chain):
                message = HandOver(shipment, taker.account, "GBFXT", "")
                envelopes.append(giver.sign(message, others=(taker,)))
        if envelopes:
            self.node.submit_batch("logistics", envelopes)
        return len(ready)

    def _confirm(self) -> int:
        ready = [self._delivered.popleft() for _ in range(len(self._delivered))]
        if ready:
            self.node.submit_batch("trade", [self._by_order[order].confirm for order in ready])
        return len(ready)

    def _finish(self) -> int:
        ready = [self._released.popleft() for _ in range(len(self._released))]
        now = time.perf_counter()
        for order in ready:
            self.latencies_ms.append((now - self._by_order.pop(order).begun_s) * 1_000)
        return len(ready)


def make_register(reference: str) -> Register:
    """Return the entry of an invented product."""
    return Register(
        reference=reference,
        gtin="",
        name=f"Mug {reference}",
        description="Stoneware, glazed",
        hs_code="691200",
        origin="GB",
        unit="C62",
    )


def register_products(node: Node, count: int) -> list[bytes]:
    """Have the seller register products, and wait until the trade chain knows them."""
    seller = Party(node, "product", WHOLESALER.key)
    envelopes = [seller.sign(make_register(f"B{index}")) for index in range(count)]
    take(node, "product", envelopes)
    products = [compute_object_id("product", envelope_digest(e), 0) for e in envelopes]
    trade = node.ledger.chains["trade"]
    wait_until(
        lambda: node.call(lambda: all(PRODUCTS.get(trade, p) is not None for p in products)),
        "trade to know the products",
    )
    return products


def measure_packets(is_quick: bool, progress: Progress) -> dict[str, Any]:
    """Return the figure P5: packets a second when many are sent, and the time of a single one."""
    many, singles = (2_000, 30) if is_quick else (20_000, 200)
    with open_bench_node() as node:
        seller = Party(node, "product", WHOLESALER.key)
        clock = _PacketClock()
        node.engine.on_block.append(clock.hear)
        for index in range(singles):
            take(node, "product", [seller.sign(make_register(f"S{index}"))])
            wait_until(lambda: not clock.sent, "an acknowledgement")
            progress("single packets", index, singles)
        single_ms = list(clock.latencies_ms)
        envelopes = [seller.sign(make_register(f"M{index}")) for index in range(many)]
        started = time.perf_counter()
        for start in range(0, many, 500):
            node.submit_batch("product", envelopes[start : start + 500])
        wait_until(lambda: len(clock.latencies_ms) == singles + many, "all acknowledgements")
        rate = many / (time.perf_counter() - started)
        return {
            "value": round(rate),
            "unit": "packets/s",
            "limit": 1_000,
            "limit_is": "packets/s from sent to acknowledged; one alone under 100 ms",
            "conditions": {
                "single_ms": compute_percentiles(single_ms),
                "under_load_ms": compute_percentiles(clock.latencies_ms[singles:]),
                "packets": many,
                "proofs": "header and page verified at both ends, in the rules",
                "one packet is": "a product registered, told to the trade chain, acknowledged",
                "cores": os.cpu_count(),
            },
        }


class _PacketClock:
    """Notes when each packet was sent and acknowledged, block by block."""

    def __init__(self) -> None:
        self.sent: dict[tuple[str, str, int], float] = {}
        self.latencies_ms: list[float] = []

    def hear(self, block: NetworkBlock) -> None:
        """In the engine's thread, once the block is durable."""
        now = time.perf_counter()
        for chain, applied in block.chains.items():
            for verdict in applied.verdicts:
                for event in verdict.events:
                    if isinstance(event, Sent):
                        self.sent[chain, event.destination, event.sequence] = now
                    elif isinstance(event, Acknowledged):
                        sent = self.sent.pop((chain, event.destination, event.sequence))
                        self.latencies_ms.append((now - sent) * 1_000)
