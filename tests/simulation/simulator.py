"""Four chains on a manual clock, a relay that fails in every way a seed says, and careless parties.

Everything is real but time and threads: the node, its ledger, its relay, its files. Whatever
happens in a block is witnessed, and what must always hold is looked at after every step.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from msgspec.structs import replace
from tests.node_world import (
    BUYERS,
    CARRIERS,
    FUNDS_MINOR,
    HOUR_MS,
    KEYS,
    MINUTE_MS,
    SELLERS,
    Clock,
    Market,
    SteppedNode,
    account,
    find_unsound_books,
    get_balances,
    make_market_home,
    make_terms,
    read_table,
)

from hansa.core.ledger import NetworkBlock
from hansa.core.module import compute_object_id
from hansa.core.prover import Delivery, PageProof
from hansa.core.transaction import Message
from hansa.network.relay import Relay
from hansa.node.composition import CHAINS, GenesisTerms
from hansa.node.relay_end import LocalEnd
from hansa.service.anchoring.model import FORKED
from hansa.service.anchoring.rules import ANCHORS
from hansa.service.bank.model import compute_issuance_account
from hansa.service.bank.rules import HOLDS
from hansa.service.link.model import Acknowledged, Received
from hansa.service.link.rules import CLIENTS, IN, OUT, PENDING
from hansa.service.orders.model import (
    FINAL_STATUSES,
    Accept,
    AcceptReturn,
    Cancel,
    Confirm,
    Decline,
    Dispatch,
    Fund,
    Order,
    RefuseReturn,
    RequestReturn,
    ReturnLine,
)
from hansa.service.orders.rules import ORDERS
from hansa.service.shipments.model import FINAL as FINAL_SHIPMENTS
from hansa.service.shipments.model import HandOver, Refuse, ReportLost, Shipment
from hansa.service.shipments.rules import SHIPMENTS

ISSUED_MINOR: Final = FUNDS_MINOR * (len(BUYERS) + len(SELLERS))
FAULTS: Final = ("drop", "delay", "duplicate", "reorder", "skip", "lie", "stale")
MAX_QUIET_ROUNDS: Final = 200


@dataclass
class Witness:
    """Has seen every block as it was made, and how far each stream of packets had come."""

    received: dict[tuple[str, str], int] = field(default_factory=dict)
    """By (source, destination): the sequence that must come next."""
    acknowledged: set[tuple[str, str, int]] = field(default_factory=set)
    time_ms: int = 0
    height: int = -1

    def see(self, block: NetworkBlock) -> None:
        """Check a block against all before it: time, and each packet once and in order."""
        assert block.time_ms >= self.time_ms, "block time went back"
        assert block.height == self.height + 1 or self.height == -1, "a block was made twice"
        self.time_ms, self.height = block.time_ms, block.height
        for chain, applied in block.chains.items():
            for verdict in applied.verdicts:
                for event in verdict.events:
                    self._see_event(chain, event)

    def _see_event(self, chain: str, event: object) -> None:
        if isinstance(event, Received):
            pair = (event.source, chain)
            assert self.received.get(pair, 0) == event.first, f"{pair}: a packet twice, or a gap"
            self.received[pair] = event.first + event.count
        elif isinstance(event, Acknowledged):
            place = (chain, event.destination, event.sequence)
            assert place not in self.acknowledged, f"{place}: acknowledged twice"
            self.acknowledged.add(place)


class FaultyEnd(LocalEnd):
    """A chain as a relay meets it that loses, repeats, mixes up, holds back and makes up."""

    def __init__(
        self, node: SteppedNode, chain: str, source: random.Random, done: Counter[str]
    ) -> None:
        super().__init__(node, chain)
        self.node = node
        self.random = source
        self.fault_rate = 0.0
        self.kept: list[tuple[str, Sequence[Delivery]]] = []
        """What was held back, to be handed in at some later time."""
        self.faults: Sequence[str] = FAULTS
        self.done = done
        """How often each fault was committed."""

    def receive(self, source: str, deliveries: Sequence[Delivery]) -> str | None:
        """Hand in what the relay carries, or something else."""
        if self.random.random() >= self.fault_rate:
            return super().receive(source, deliveries)
        fault = self.random.choice(self.faults)
        self.done[fault] += 1
        if fault == "drop":
            return "dropped"
        if fault == "delay":
            self.kept.append((source, deliveries))
            return "delayed"
        if fault == "duplicate":
            super().receive(source, deliveries)
            return super().receive(source, deliveries)
        if fault == "reorder":
            return super().receive(source, self.random.sample(deliveries, len(deliveries)))
        if fault == "skip":
            return super().receive(source, deliveries[1:]) if len(deliveries) > 1 else "skipped"
        if fault == "stale" and self.kept:
            return super().receive(*self.random.choice(self.kept))
        if fault == "stale":
            return "nothing is stale yet"
        return self._lie(source, deliveries)

    def _lie(self, source: str, deliveries: Sequence[Delivery]) -> str | None:
        """Hand in something that no chain has said; it must be refused and change nothing."""
        lying = self.random.randrange(len(deliveries))
        said = [*deliveries]
        said[lying] = falsify(deliveries[lying], self.random)
        before = self._look()
        refusal = super().receive(source, said)
        assert refusal is not None, f"a lie about {source} was believed on {self.chain}"
        assert before == self._look(), f"a lie about {source} changed {self.chain}"
        return refusal

    def _look(self) -> tuple[object, ...]:
        return (
            read_table(self.node, self.chain, IN),
            read_table(self.node, self.chain, CLIENTS),
            get_balances(self.node),
        )


def falsify(delivery: Delivery, source: random.Random) -> Delivery:
    """Return a delivery with one thing in it changed."""
    final, page = delivery.final, delivery.pages[0]
    changes: list[Callable[[], Delivery]] = [
        lambda: delivery._replace(final=replace(final, header=spoil(final.header, source))),
        lambda: delivery._replace(final=replace(final, finality=spoil(final.finality, source))),
        lambda: _with_page(delivery, PageProof(spoil(page.page, source), page.index, page.path)),
        lambda: _with_page(delivery, PageProof(page.page, page.index + 1, page.path)),
        lambda: _with_page(
            delivery, PageProof(page.page, page.index, (*page.path, source.randbytes(32)))
        ),
    ]
    return source.choice(changes)()


def _with_page(delivery: Delivery, page: PageProof) -> Delivery:
    return delivery._replace(pages=(page, *delivery.pages[1:]))


def spoil(data: bytes, source: random.Random) -> bytes:
    """Return other bytes: a bit flipped, or the end cut off."""
    if source.random() < 0.2:
        return data[: source.randrange(1, len(data))]
    spoilt = bytearray(data)
    spoilt[source.randrange(len(data))] ^= 1 << source.randrange(8)
    return bytes(spoilt)


@dataclass
class Deal:
    """An order and how far each of its parties still cares."""

    order: bytes
    buyer: str
    seller: str
    patience: dict[str, int]
    """Steps that a party takes before it vanishes."""


class Simulator:
    """Makes steps, each chosen by the seed; ``check`` says what always holds."""

    def __init__(self, home: Path, seed: int, *, step_ms: int = HOUR_MS) -> None:
        self.random = random.Random(seed)
        self.home = home
        self.step_ms = step_ms
        self.clock = Clock()
        self.witness = Witness()
        self.deals: list[Deal] = []
        self.products: dict[str, bytes] = {}
        self.fault_rate = 0.0
        self.done: Counter[str] = Counter()
        self.crashes = 0
        terms = GenesisTerms(
            state_root_interval=50, state_root_delay=10, anchor_every_blocks=20,
            packet_lifetime_ms=6 * step_ms, delivery_grace_ms=4 * step_ms,
            return_answer_ms=2 * step_ms,
        )  # fmt: skip
        make_market_home(home, terms=terms)
        self.open()
        self.market.open()
        self.run_relay_until_quiet()

    # The node.

    def open(self) -> None:
        """Open the home, after its making or a crash."""
        node = self.node = SteppedNode(self.home, keys=KEYS.store, clock=self.clock)
        node.engine.on_block.append(self.witness.see)
        self.market = Market(node)
        self.market.products = self.products
        self.ends = {chain: FaultyEnd(node, chain, self.random, self.done) for chain in CHAINS}
        self.relay = Relay(self.ends)

    def crash(self) -> None:
        """Kill the node and start it again: what was in a relay's memory is gone too."""
        height, app_hashes = self.node.ledger.height, self.get_app_hashes()
        self.node.crash()
        self.open()
        assert height == self.node.ledger.height
        assert app_hashes == self.get_app_hashes()
        self.crashes += 1

    def get_app_hashes(self) -> dict[str, bytes]:
        """Return the app hash of each chain."""
        return {name: chain.app_hash for name, chain in self.node.ledger.chains.items()}

    # Steps.

    def step(self) -> None:
        """Do one thing."""
        choices: list[tuple[int, Callable[[], object]]] = [
            (3, self.place),
            (12, self.act),
            (8, self.run_relay),
            (3, self.move_clock),
            (1, self.crash),
        ]
        weights, actions = zip(*choices, strict=True)
        self.random.choices(actions, weights)[0]()

    def place(self) -> None:
        """Begin an order whose parties care for a while."""
        buyer, seller = self.random.choice(BUYERS), self.random.choice(SELLERS)
        terms = make_terms(max(self.clock(), self.node.ledger.time_ms), self.step_ms)
        place = self.market.make_place(seller, terms, self.random.randint(1, 5))
        inclusion = self.market.send("trade", buyer, place)
        assert inclusion.receipt.error is None, inclusion.receipt.error
        patience = {
            party: self.random.choice((0, 1, 2, 9, 9, 9, 9)) for party in (buyer, seller, "carrier")
        }
        order = compute_object_id("trade", inclusion.digest, 0)
        self.deals.append(Deal(order, buyer, seller, patience))

    def act(self) -> None:
        """Let a party of some order do one of the things it might."""
        if not self.deals:
            return
        deal = self.random.choice(self.deals)
        order = read_table(self.node, "trade", ORDERS)[deal.order]
        options = [*self._trade_options(deal, order), *self._carry_options(deal)]
        if not options:
            return
        chain, parties, message = self.random.choice(options)
        first = parties[0] if parties[0] in deal.patience else "carrier"
        if deal.patience[first] > 0:
            deal.patience[first] -= 1
            self.market.send(chain, parties, message)  # A rule may refuse it: too late, too early.

    def _trade_options(
        self, deal: Deal, order: Order
    ) -> list[tuple[str, tuple[str, ...], Message]]:
        buyer, seller, id_ = (deal.buyer,), (deal.seller,), deal.order
        by_status: dict[str, list[tuple[tuple[str, ...], Message]]] = {
            "placed": [(seller, Accept(id_)), (seller, Accept(id_)), (seller, Decline(id_, ""))],
            "accepted": [(buyer, Fund(id_)), (buyer, Fund(id_)), (seller, Cancel(id_))],
            "funded": [(seller, Dispatch(id_)), (seller, Dispatch(id_)), (buyer, Cancel(id_))],
            "dispatched": [(buyer, Confirm(id_))],
            "delivered": [
                (buyer, Confirm(id_)),
                (buyer, RequestReturn(id_, (ReturnLine(0, 1),))),
            ],
            "returning": [(seller, AcceptReturn(id_)), (seller, RefuseReturn(id_, "used"))],
        }
        return [("trade", *option) for option in by_status.get(order.status, [])]

    def _carry_options(self, deal: Deal) -> list[tuple[str, tuple[str, ...], Message]]:
        shipment = self.find_shipment(deal.order)
        if shipment is None or shipment.status in FINAL_SHIPMENTS:
            return []
        names = {account(party): party for party in (*BUYERS, *SELLERS, *CARRIERS)}
        holder = names[shipment.holder]
        takers = [party for party in (*CARRIERS, deal.buyer, deal.seller) if party != holder]
        options: list[tuple[str, tuple[str, ...], Message]] = [
            ("logistics", (holder, taker), HandOver(shipment.id, account(taker), "GBFXT", ""))
            for taker in takers
        ]
        options.append(("logistics", (holder,), ReportLost(shipment.id, "storm")))
        options.append(("logistics", (deal.buyer,), Refuse(shipment.id, "broken")))
        return options

    def find_shipment(self, order: bytes) -> Shipment | None:
        """Return the shipment of an order; there is never more than one."""
        shipments = read_table(self.node, "logistics", SHIPMENTS).values()
        found = [shipment for shipment in shipments if shipment.order == order]
        assert len(found) <= 1, f"order {order.hex()} has {len(found)} shipments"
        return found[0] if found else None

    def move_clock(self) -> None:
        """Move the clock on, a little or much, and sometimes back."""
        self.clock.now_ms += self.random.choice(
            (MINUTE_MS, 10 * MINUTE_MS, self.step_ms // 2, self.step_ms, -self.step_ms)
        )
        self.node.settle()

    # The relay.

    def run_relay(self) -> None:
        """Let the relay go round once, with faults."""
        for end in self.ends.values():
            end.fault_rate = self.fault_rate
        if self.random.random() < 0.2:
            self.relay = Relay(self.ends)  # Another one, or the same after its own crash.
        self.relay.step()
        self.relay.renew_clients()

    def run_relay_until_quiet(self) -> None:
        """Let an honest relay carry all there is."""
        for end in self.ends.values():
            end.fault_rate = 0.0
        for _ in range(MAX_QUIET_ROUNDS):
            self.relay.renew_clients()
            if self.relay.step() == 0:
                return
        raise AssertionError(f"the relay never comes to rest: {self.relay.troubles[-3:]}")

    def wait_out(self, until_ms: int) -> None:
        """Let time pass up to a moment, with an honest relay and parties who do nothing."""
        while self.clock.now_ms < until_ms:
            self.clock.now_ms += self.step_ms // 2
            self.node.settle()
            self.run_relay_until_quiet()
            self.check()

    # What must hold.

    def check(self) -> None:
        """After every step: money is conserved, escrow is that of open orders, packets in order."""
        assert find_unsound_books(self.node) is None
        balances = get_balances(self.node)
        issuance = compute_issuance_account("trade", "GBP") + b"GBP"
        assert -ISSUED_MINOR == balances[issuance]
        for chain in CHAINS:
            self._check_streams(chain)
        for record in read_table(self.node, "anchor", ANCHORS).values():
            assert record.status != FORKED, f"honest chain {record.chain} is recorded as forked"

    def _check_streams(self, chain: str) -> None:
        taken = read_table(self.node, chain, IN)
        for client in read_table(self.node, chain, CLIENTS).values():
            assert not client.is_frozen, f"{chain}: the client of {client.chain} is frozen"
            sent = read_table(self.node, client.chain, OUT).get(chain.encode())
            place = taken.get(client.chain.encode())
            end = place.next if place else 0
            assert end <= (sent.next if sent else 0), f"{chain} took what was never sent"
            assert self.witness.received.get((client.chain, chain), 0) == end

    def check_ended(self) -> None:
        """At the end: every order is final, every hold closed, every packet answered."""
        self.check()
        orders = read_table(self.node, "trade", ORDERS)
        assert len(self.deals) == len(orders)
        assert [] == [o.status for o in orders.values() if o.status not in FINAL_STATUSES]
        assert {} == read_table(self.node, "trade", HOLDS)
        shipments = read_table(self.node, "logistics", SHIPMENTS).values()
        assert [] == [s.status for s in shipments if s.status not in FINAL_SHIPMENTS]
        for chain in CHAINS:
            assert {} == read_table(self.node, chain, PENDING), f"{chain} waits for ever"
        spent = sum(order.total_minor - order.refunded_minor for order in orders.values()
                    if order.status == "released")  # fmt: skip
        sellers = [get_balances(self.node)[account(s) + b"GBP"] for s in SELLERS]
        assert FUNDS_MINOR * len(SELLERS) + spent == sum(sellers)


def end_of(simulator: Simulator) -> int:
    """Return a moment by which everything has ended by itself, whoever has vanished."""
    return max(simulator.clock.now_ms, simulator.node.ledger.time_ms) + 30 * simulator.step_ms
