"""A market that trades by itself, so that there is something to watch.

The companies of the sandbox order from each other and carry each other's goods, at a pace that an
eye can follow. Most orders end well; some are declined, cancelled, sent back or disputed, as in
life. The choices are drawn from a seed. Whatever goes wrong is logged, and the market goes on.
"""

import heapq
import logging
import random
import threading
import time
from collections.abc import Generator
from typing import Final, Literal, NamedTuple

from msgspec.structs import replace

from hansa.core.errors import OperatorError
from hansa.core.hashing import tagged_hasher
from hansa.core.proof import compute_commitment
from hansa.core.transaction import Message
from hansa.formats.gs1 import compute_check_digit
from hansa.interface.client import Client, Outcome, Problem, Unbelievable, Unreachable
from hansa.interface.sandbox.desk import Desk, Request, SandboxError
from hansa.interface.sandbox.lives import (
    LOGISTICS,
    TRADE,
    Life,
    accept,
    confirm,
    dispatch,
    fund,
    hand_over,
    issue_money,
    make_generous_terms,
    place,
)
from hansa.interface.sandbox.roster import (
    DEPARTMENT_STORE,
    OUTFITTER,
    PAYMENTS,
    POTTERY,
    RETAILER,
    STORES,
    TOOLMAKER,
    Company,
    choose_carriers,
)
from hansa.service.bank.model import OpenCurrency
from hansa.service.catalogue.model import Register
from hansa.service.orders.model import (
    AcceptReturn,
    Cancel,
    Decline,
    LineOffer,
    RefuseReturn,
    RequestReturn,
    ReturnLine,
    Terms,
)
from hansa.service.shipments.model import ReportMilestone

LANE: Final = 1
"""Of every company's transactions here, so that a person's own commands don't race with them."""
SEED: Final = 20_260_101
MAX_ALIVE: Final = 40
PATIENCE_S: Final = 60.0
"""How long an order waits for a packet before the market gives it up."""

CURRENCIES: Final = {"GB": "GBP", "DE": "EUR", "US": "USD", "CN": "CNY"}
DECIMALS: Final = 2
PRODUCT: Final = "product"

Milestone = Literal["departed", "arrived", "customs_held", "customs_cleared"]

_reference_hash = tagged_hasher("market-reference")
_log = logging.getLogger(__name__)


class Article(NamedTuple):
    """Something invented that a company sells."""

    reference: str
    name: str
    hs_code: str
    price_minor: int
    """In the seller's own currency."""


ARTICLES: Final[dict[Company, tuple[Article, ...]]] = {
    TOOLMAKER: (
        Article("RK-1040", "Torque wrench 20-100 Nm", "820411", 8_990),
        Article("RK-2210", "Bench vice, forged, 125 mm", "820570", 13_450),
        Article("RK-3105", "Twist drill set, 25 pieces", "820750", 4_290),
        Article("RK-4477", "Hand saw, hardpoint, 550 mm", "820210", 1_875),
    ),
    POTTERY: (
        Article("LC-0017", "Porcelain teapot, celadon, 0.9 l", "691110", 16_800),
        Article("LC-0032", "Stoneware bowl, ash glaze", "691200", 4_200),
        Article("LC-0058", "Porcelain cup with saucer", "691110", 3_600),
        Article("LC-0101", "Vase, cobalt brushwork, 30 cm", "691390", 24_500),
    ),
    OUTFITTER: (
        Article("TG-A12", "Two-person tent, three seasons", "630622", 21_900),
        Article("TG-B03", "Down sleeping bag, -5 C", "940430", 17_400),
        Article("TG-C44", "Trekking poles, carbon, pair", "950699", 8_950),
        Article("TG-D27", "Enamel camping kettle, 1.5 l", "732394", 2_650),
    ),
}
BUYERS: Final = (STORES, DEPARTMENT_STORE, RETAILER)

# How lives go; what most of them do comes first.
WELL: Final = "well"
DECLINED: Final = "declined"
UNANSWERED: Final = "unanswered"
CANCELLED_BY_BUYER: Final = "cancelled by the buyer"
CANCELLED_BY_SELLER: Final = "cancelled by the seller"
HELD_BY_CUSTOMS: Final = "held by customs"
RETURNED: Final = "returned"
RETURN_REFUSED: Final = "return refused"
UNCONFIRMED: Final = "unconfirmed"
FATES: Final = (
    *(WELL,) * 12,
    DECLINED,
    UNANSWERED,
    CANCELLED_BY_BUYER,
    CANCELLED_BY_SELLER,
    HELD_BY_CUSTOMS,
    RETURNED,
    RETURN_REFUSED,
    UNCONFIRMED,
)

Story = Generator[float, None, None]
"""What happens over time: yields how many seconds it rests before the next step."""


class Market:
    """Trades in a thread of its own until it is stopped."""

    def __init__(
        self, client: Client, *, pace_s: float = 1.0, seed: int = SEED,
        max_orders: int | None = None, lane: int = LANE,
    ) -> None:  # fmt: skip
        """``pace_s`` is about the time between two orders; a life rests about as long each step.

        With ``max_orders`` the market closes when so many orders have ended. Of several markets on
        one network each has a ``lane`` and a seed of its own.
        """
        self.desk = Desk(client, lane=lane)
        self.pace_s = pace_s
        self.max_orders = max_orders
        self.placed = 0
        self.ended = 0
        """Orders whose story was told to its end."""
        self.troubles: list[str] = []
        """The last things that went wrong, newest last."""
        self._random = random.Random(seed)  # noqa: S311 - a play, not a secret
        self._session = time.time_ns()
        self._fates: list[str] = []
        self._products: dict[str, bytes] = {}
        self._due: list[tuple[float, int, Story]] = []
        self._told = 0
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to trade."""
        self._begin(self._open())
        self._thread = threading.Thread(target=self._run, name="market", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop after the present step; orders under way stay where they are."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def wait(self, timeout_s: float) -> bool:
        """Wait until a market with ``max_orders`` has closed; False if it hasn't by then."""
        assert self._thread is not None, "not started"
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # One thread tells all stories in turn, so that sequences need no locks.

    def _begin(self, story: Story, rest_s: float = 0.0) -> None:
        self._told += 1
        heapq.heappush(self._due, (time.monotonic() + rest_s, self._told, story))

    def _run(self) -> None:
        while self._due:
            at_s, _, story = heapq.heappop(self._due)
            if self._stopping.wait(max(0.0, at_s - time.monotonic())):
                return
            rest_s = self._step(story)
            if rest_s is not None:
                self._begin(story, rest_s)

    def _step(self, story: Story) -> float | None:
        """Go on with a story; returns its rest, or None where it has ended, well or badly."""
        try:
            return next(story, None)
        except (OperatorError, Problem, Unreachable, Unbelievable) as error:
            # Nothing that goes wrong with one order may end the others'.
            _log.warning("the market gave an order up: %s", error)
            self.troubles = [*self.troubles[-49:], str(error)]
            self.desk.forget_sequences()
            return None

    def _rest(self) -> float:
        return self.pace_s * self._random.uniform(0.6, 2.4)

    # Opening.

    def _open(self) -> Story:
        """Open currencies and enter products, then begin to order; tries until it can."""
        while True:
            try:
                self._open_currencies()
                self._register_articles()
                break
            except (OperatorError, Problem, Unreachable, Unbelievable) as error:
                _log.warning("the market cannot open yet: %s", error)
                self.troubles = [*self.troubles[-49:], str(error)]
                self.desk.forget_sequences()
                yield 5 * self.pace_s
        while any(
            row["chain"] == PRODUCT
            for row in self.desk.list_rows("packets", {"status": "pending"}, verify=False)
        ):
            yield 0.1
        self._begin(self._order_on())

    def _open_currencies(self) -> None:
        known = [row["id"] for row in self.desk.list_rows("currencies", {})]
        missing = [code for code in CURRENCIES.values() if code not in known]
        requests = [Request((PAYMENTS.key,), (OpenCurrency(code, DECIMALS),)) for code in missing]
        if requests:
            self.desk.send(TRADE, requests)

    def _register_articles(self) -> None:
        for number, (company, articles) in enumerate(ARTICLES.items(), 1):
            seller = self.desk.account(company.key).hex()
            for row in self.desk.list_rows("products", {"seller": seller}):
                self._products[row["reference"]] = bytes.fromhex(row["id"])
            missing = [item for item in articles if item.reference not in self._products]
            if not missing:
                continue
            entries = tuple(
                _describe(company, item, make_gtin(number, articles.index(item) + 1))
                for item in missing
            )
            outcome = self.desk.send(PRODUCT, [Request((company.key,), entries)])[0]
            for index, item in enumerate(missing):
                self._products[item.reference] = outcome.object_id(index)

    # Ordering.

    def _order_on(self) -> Story:
        """Have somebody order something, again and again."""
        while self.max_orders is None or self.placed < self.max_orders:
            if len(self._due) < MAX_ALIVE:
                self.placed += 1
                self._begin(self._live(self._invent(), self._draw_fate()))
            yield self.pace_s * self._random.uniform(0.5, 1.5)

    def _draw_fate(self) -> str:
        """Draw from a bag that is filled again when empty, so that every fate has its turn."""
        if not self._fates:
            self._fates = list(FATES)
            self._random.shuffle(self._fates)
        return self._fates.pop()

    def _invent(self) -> Life:
        seller = self._random.choice(tuple(ARTICLES))
        buyer = self._random.choice([b for b in BUYERS if b.country != seller.country])
        articles = self._random.sample(ARTICLES[seller], self._random.randint(1, 4))
        lines = tuple(
            LineOffer(
                product=self._products[article.reference],
                quantity=self._random.choice((6, 10, 12, 24, 36, 48)),
                price_e6=article.price_minor * 10_000,
            )
            for article in articles
        )
        first, last = choose_carriers(seller.country, buyer.country)
        name = f"{self._session}/{self.placed}"
        return Life(
            position=self.placed,
            buyer=buyer.key,
            seller=seller.key,
            carriers=(first.key, last.key),
            places=(seller.place, first.place, buyer.place),
            payer=PAYMENTS.key,
            payment=_reference_hash(name.encode())[:16],
            currency=CURRENCIES[seller.country],
            lines=lines,
            total_minor=sum(line.quantity * line.price_e6 // 10_000 for line in lines),
            origin=seller.country,
            destination=buyer.country,
            address=compute_commitment(self._random.randbytes(16), buyer.place.encode()),
            reference=f"PO-{self._random.randrange(10**6):06d}",
            dated_ms=time.time_ns() // 1_000_000,
        )

    # The stories.

    def _live(self, life: Life, fate: str) -> Story:
        """One order from its placing to its end."""
        self._send(TRADE, issue_money(self.desk, life))
        life.order = self._send(TRADE, place(self.desk, life, self._make_terms(fate))).object_id()
        yield self._rest()
        goes_on = yield from self._agree(life, fate)
        if goes_on:
            self._send(TRADE, dispatch(life))
            yield self._rest()
            yield from self._carry(life, fate)
            yield from self._await_delivery(life)
            yield self._rest()
            yield from self._inspect(life, fate)
        self.ended += 1

    def _make_terms(self, fate: str) -> Terms:
        now_ms = time.time_ns() // 1_000_000
        terms = make_generous_terms(now_ms)
        soon_ms = int(self.pace_s * 4_000)
        if fate == UNANSWERED:
            return replace(terms, accept_by_ms=now_ms + soon_ms)
        if fate == UNCONFIRMED:
            return replace(terms, inspection_ms=soon_ms)
        return terms

    def _agree(self, life: Life, fate: str) -> Generator[float, None, bool]:
        """Accept and fund, or not; tells whether goods are to be sent."""
        if fate == UNANSWERED:
            return False
        if fate == DECLINED:
            self._say(life.seller, Decline(life.order, "sold out until next season"))
            return False
        self._send(TRADE, accept(life))
        yield self._rest()
        if fate == CANCELLED_BY_BUYER:
            self._say(life.buyer, Cancel(life.order))
            return False
        self._send(TRADE, fund(life))
        yield self._rest()
        if fate == CANCELLED_BY_SELLER:
            self._say(life.seller, Cancel(life.order))
            return False
        return True

    def _carry(self, life: Life, fate: str) -> Story:
        """Hand the goods from the seller over two carriers to the buyer."""
        life.shipment = yield from self._await_shipment(life)
        for leg, carrier in enumerate(life.carriers):
            self._send(LOGISTICS, hand_over(self.desk, life, leg))
            yield self._rest()
            self._report(life, carrier, "departed", life.places[leg])
            yield self._rest()
            self._report(life, carrier, "arrived", life.places[leg + 1])
            yield self._rest()
        if fate == HELD_BY_CUSTOMS:
            self._report(life, life.carriers[1], "customs_held", life.places[2])
            yield 2 * self._rest()
            self._report(life, life.carriers[1], "customs_cleared", life.places[2])
            yield self._rest()
        self._send(LOGISTICS, hand_over(self.desk, life, 2))

    def _inspect(self, life: Life, fate: str) -> Story:
        """The buyer looks at the goods."""
        if fate == UNCONFIRMED:
            return  # The window closes by itself, and the seller is paid.
        if fate not in (RETURNED, RETURN_REFUSED):
            self._send(TRADE, confirm(life))
            return
        claim = ReturnLine(line=0, quantity=max(1, life.lines[0].quantity // 3))
        self._say(life.buyer, RequestReturn(life.order, (claim,)))
        yield self._rest()
        if fate == RETURNED:
            self._say(life.seller, AcceptReturn(life.order))
        else:
            self._say(life.seller, RefuseReturn(life.order, "made to order, as agreed"))

    def _await_shipment(self, life: Life) -> Generator[float, None, bytes]:
        """Return the id of the shipment that a packet opens."""
        give_up = time.monotonic() + PATIENCE_S
        while time.monotonic() < give_up:
            for row in self.desk.list_rows("shipments", {"order": life.order.hex()}):
                return bytes.fromhex(row["id"])
            yield 0.1 * self.pace_s
        raise SandboxError(f"order {life.order.hex()}: expected a shipment, got none")

    def _await_delivery(self, life: Life) -> Story:
        """Wait until the trade chain has heard of the delivery."""
        give_up = time.monotonic() + PATIENCE_S
        while time.monotonic() < give_up:
            row = self.desk.find("orders", life.order.hex())
            if row is not None and row["status"] != "dispatched":
                return
            yield 0.1 * self.pace_s
        raise SandboxError(f"order {life.order.hex()}: expected word of its delivery, got none")

    # Signing.

    def _send(self, chain: str, request: Request) -> Outcome:
        return self.desk.send(chain, [request])[0]

    def _say(self, signer: str, message: Message) -> None:
        self._send(TRADE, Request((signer,), (message,)))

    def _report(self, life: Life, carrier: str, code: Milestone, place_name: str) -> None:
        message = ReportMilestone(life.shipment, code, place_name, "")
        self._send(LOGISTICS, Request((carrier,), (message,)))


def make_gtin(company: int, article: int) -> str:
    """Return a GTIN-13 that no shop will ever meet: GS1 leaves 20 to 29 to a company's own use."""
    digits = f"20{company:04d}{article:06d}"
    return digits + compute_check_digit(digits)


def _describe(company: Company, article: Article, gtin: str) -> Register:
    return Register(
        reference=article.reference,
        gtin=gtin,
        name=article.name,
        description=f"{article.name}, by {company.name}",
        hs_code=article.hs_code,
        origin=company.country,
        unit="C62",
    )
