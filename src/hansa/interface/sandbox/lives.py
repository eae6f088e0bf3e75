"""The life of an order as signed transactions of its parties, and a driver for many lives at once.

A life is nine transactions with twelve signatures: the bank issues the buyer's money; he places,
the seller accepts, the buyer funds, the seller dispatches; the goods are handed over three times,
each time signed by who gives and who takes; the buyer confirms. Two packets tie the chains:
the funded order opens the shipment, the delivery starts the inspection window.

Object ids follow from the signed bytes, so everything up to the dispatch is signed and handed in at
one go; only the id of a shipment, made by a packet, has to be waited for.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Final

from hansa.core.module import compute_object_id
from hansa.interface.client import Outcome
from hansa.interface.sandbox.desk import Desk, Request, SandboxError, Signed, check_done
from hansa.service.bank.model import Issue
from hansa.service.orders.model import (
    Accept,
    Confirm,
    Dispatch,
    Fund,
    LineOffer,
    Place,
    Terms,
)
from hansa.service.shipments.model import HandOver

TRADE: Final = "trade"
LOGISTICS: Final = "logistics"

TRANSACTIONS_OF_LIFE: Final = 9
SIGNATURES_OF_LIFE: Final = 12

DAY_MS: Final = 24 * 3600 * 1000
POLL_S: Final = 0.02
STUCK_S: Final = 120.0
"""A life that has not moved for so long is reported, not waited for."""


@dataclass(slots=True)
class Life:
    """An order with all that its parties need to sign for it."""

    position: int
    """The caller's own number."""
    buyer: str
    """Names in the key store, here and below."""
    seller: str
    carriers: tuple[str, str]
    places: tuple[str, str, str]
    """Where the goods change hands."""
    payer: str
    """Issues the buyer's money."""
    payment: bytes
    """Reference of that, 16 bytes: what is issued once under it is never issued again."""
    currency: str
    lines: tuple[LineOffer, ...]
    total_minor: int
    origin: str
    destination: str
    address: bytes
    reference: str
    dated_ms: int
    order: bytes = b""
    shipment: bytes = b""
    touched_s: float = 0.0


def make_generous_terms(now_ms: int) -> Terms:
    """Return terms that nobody who is awake will miss."""
    return Terms(
        accept_by_ms=now_ms + 30 * DAY_MS,
        fund_by_ms=now_ms + 60 * DAY_MS,
        ship_by_ms=now_ms + 90 * DAY_MS,
        deliver_by_ms=now_ms + 180 * DAY_MS,
        inspection_ms=14 * DAY_MS,
        return_cost="buyer",
    )


# One life, step by step. Each step is what its parties sign.


def issue_money(desk: Desk, life: Life) -> Request:
    """The payment institution gives the buyer exactly the order's total."""
    credit = desk.account(life.buyer)
    return Request((life.payer,), (Issue(credit, life.currency, life.total_minor, life.payment),))


def place(desk: Desk, life: Life, terms: Terms) -> Request:
    """The buyer orders."""
    message = Place(
        seller=desk.account(life.seller),
        currency=life.currency,
        lines=life.lines,
        terms=terms,
        origin=life.origin,
        destination=life.destination,
        address=life.address,
        reference=life.reference,
        dated_ms=life.dated_ms,
    )
    return Request((life.buyer,), (message,))


def accept(life: Life) -> Request:
    """The seller takes the order on."""
    return Request((life.seller,), (Accept(life.order),))


def fund(life: Life) -> Request:
    """The buyer pays into escrow."""
    return Request((life.buyer,), (Fund(life.order),))


def dispatch(life: Life) -> Request:
    """The seller sends the goods."""
    return Request((life.seller,), (Dispatch(life.order),))


def hand_over(desk: Desk, life: Life, leg: int) -> Request:
    """The goods pass on: leg 0 to the first carrier, 1 to the second, 2 to the buyer."""
    chain = (life.seller, *life.carriers, life.buyer)
    message = HandOver(
        shipment=life.shipment,
        to=desk.account(chain[leg + 1]),
        place=life.places[leg],
        note=life.reference[:64],
    )
    return Request((chain[leg], chain[leg + 1]), (message,))


def confirm(life: Life) -> Request:
    """The buyer is content: the seller is paid."""
    return Request((life.buyer,), (Confirm(life.order),))


@dataclass(slots=True)
class _Pending:
    requests: list[Request]
    future: "Future[list[Outcome]]"
    then: Callable[[], None]


class LifeDriver:
    """Drives many lives at once, each stage of each as soon as the one before has its receipts.

    All is signed and decided in the caller's thread; one thread for each chain hands in and
    verifies the receipts, so that what was signed first is judged first.
    """

    def __init__(
        self, desk: Desk, *, on_signed: Callable[[Sequence[Life]], None],
        on_released: Callable[[Sequence[Life]], None],
    ) -> None:  # fmt: skip
        """``on_signed`` is called with lives whose order id is known, before they are handed in."""
        self.desk = desk
        self._on_signed = on_signed
        self._on_released = on_released
        self._doors = {chain: ThreadPoolExecutor(1, f"to-{chain}") for chain in (TRADE, LOGISTICS)}
        self._pending: deque[_Pending] = deque()
        self._unshipped: dict[str, Life] = {}
        """Dispatched, with no shipment known yet; by order id in hex."""
        self._undelivered: dict[str, Life] = {}
        """Handed to the buyer, with no word of it on the trade chain yet; by order id in hex."""
        self._looked_s = 0.0
        self.in_flight = 0

    def close(self) -> None:
        """Wait for what was handed in, and let go of the threads."""
        for door in self._doors.values():
            door.shutdown(wait=True, cancel_futures=True)

    def begin(self, lives: Sequence[Life]) -> None:
        """Sign and hand in the first five steps of new lives."""
        desk = self.desk
        terms = make_generous_terms(time.time_ns() // 1_000_000)
        requests: list[Request] = []
        signed: list[Signed] = []
        for life in lives:
            first = [issue_money(desk, life), place(desk, life, terms)]
            signed_first = desk.sign(TRADE, first)
            life.order = compute_object_id(TRADE, signed_first[1].digest, 0)
            rest = [accept(life), fund(life), dispatch(life)]
            requests += first + rest
            signed += signed_first + desk.sign(TRADE, rest)
        self.in_flight += len(lives)
        self._on_signed(lives)
        self._hand_in(TRADE, requests, signed, lambda: self._await(self._unshipped, lives))

    def resume(self, life: Life, status: str) -> None:
        """Go on with a life that a program before this one began; its order exists."""
        steps = {
            "placed": [accept(life), fund(life), dispatch(life)],
            "accepted": [fund(life), dispatch(life)],
            "funded": [dispatch(life)],
            "dispatched": [],
            "delivered": [],
        }.get(status)
        if steps is None:
            raise SandboxError(f"order {life.order.hex()}: expected one that goes on, got {status}")
        if status in ("placed", "accepted"):
            steps.insert(0, issue_money(self.desk, life))
        self.in_flight += 1
        if status == "delivered":
            self._await(self._undelivered, [life])
        elif steps:
            signed = self.desk.sign(TRADE, steps)
            self._hand_in(TRADE, steps, signed, lambda: self._await(self._unshipped, [life]))
        else:
            self._resume_shipment(life)

    def _resume_shipment(self, life: Life) -> None:
        """Find out who holds the goods of a dispatched order, and go on from there."""
        rows = list(self.desk.list_rows("shipments", {"order": life.order.hex()}))
        if not rows:
            self._await(self._unshipped, [life])
        elif rows[0]["status"] == "delivered":
            self._await(self._undelivered, [life])
        else:
            life.shipment = bytes.fromhex(rows[0]["id"])
            self._hand_over_all([(life, int(rows[0]["leg"]))])

    def send(self, chain: str, requests: list[Request], signed: list[Signed],
             then: Callable[[], None]) -> None:  # fmt: skip
        """Hand in something else in the same order, and be called when it has its receipts."""
        self._hand_in(chain, requests, signed, then)

    def _hand_in(
        self, chain: str, requests: list[Request], signed: list[Signed], then: Callable[[], None]
    ) -> None:
        future = self._doors[chain].submit(self.desk.submit, chain, signed)
        self._pending.append(_Pending(requests, future, then))

    def _await(self, waiting: dict[str, Life], lives: Sequence[Life]) -> None:
        now_s = time.monotonic()
        for life in lives:
            life.touched_s = now_s
            waiting[life.order.hex()] = life

    # Going on.

    @property
    def is_idle(self) -> bool:
        """Whether nothing is on its way any more."""
        return not (self._pending or self._unshipped or self._undelivered)

    def step(self) -> None:
        """Go on with every life whose answers are there; waits a moment where there are none.

        Raises: SandboxError as soon as anything comes out otherwise than it must.
        """
        moved = self._take_answers()
        if time.monotonic() - self._looked_s > POLL_S:
            moved += self._find_shipments() if self._unshipped else 0
            moved += self._find_deliveries() if self._undelivered else 0
            self._looked_s = time.monotonic()
        if moved:
            return
        self._refuse_if_stuck()
        if self._pending:
            wait([item.future for item in self._pending], POLL_S, FIRST_COMPLETED)
        else:
            time.sleep(POLL_S)

    def _take_answers(self) -> int:
        done = [item for item in self._pending if item.future.done()]
        for item in done:
            self._pending.remove(item)
            for outcome, request in zip(item.future.result(), item.requests, strict=True):
                check_done(outcome, request)
                self.desk.signatures += len(request.signers)
            item.then()
        return len(done)

    def _find_shipments(self) -> int:
        """Hand the goods of every shipment that a packet has opened from hand to hand."""
        ready: list[tuple[Life, int]] = []
        for row in self.desk.list_rows("shipments", {"status": "open"}):
            life = self._unshipped.pop(row["order"], None)
            if life is not None:
                life.shipment = bytes.fromhex(row["id"])
                ready.append((life, 0))
        if ready:
            self._hand_over_all(ready)
        return len(ready)

    def _hand_over_all(self, ready: Sequence[tuple[Life, int]]) -> None:
        """Sign every hand-over that is left of each; the number is the leg to begin with."""
        lives = [life for life, _ in ready]
        requests = [
            hand_over(self.desk, life, leg) for life, first in ready for leg in range(first, 3)
        ]
        signed = self.desk.sign(LOGISTICS, requests)
        self._hand_in(LOGISTICS, requests, signed, lambda: self._await(self._undelivered, lives))

    def _find_deliveries(self) -> int:
        """Confirm every order whose delivery a packet has told of."""
        rows = self.desk.list_rows("orders", {"status": "delivered"})
        found = [self._undelivered.pop(row["id"], None) for row in rows]
        lives = [life for life in found if life is not None]
        if lives:
            requests = [confirm(life) for life in lives]
            signed = self.desk.sign(TRADE, requests)
            self._hand_in(TRADE, requests, signed, lambda: self._finish(lives))
        return len(lives)

    def _finish(self, lives: Sequence[Life]) -> None:
        self.in_flight -= len(lives)
        self._on_released(lives)

    def _refuse_if_stuck(self) -> None:
        oldest = time.monotonic() - STUCK_S
        for waiting, what in (
            (self._unshipped, "a shipment to be opened"),
            (self._undelivered, "word of the delivery"),
        ):
            for life in waiting.values():
                if life.touched_s < oldest:
                    order = life.order.hex()
                    raise SandboxError(
                        f"order {order}: expected {what} within {STUCK_S:.0f} s, got none; is a "
                        f"relay running?"
                    )
