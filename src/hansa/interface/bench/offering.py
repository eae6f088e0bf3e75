"""Offers signed transfers to several gateways over HTTP, and notes what becomes of each batch.

Every group of accounts has one batch on its way at most: the next one's sequences count on it. A
batch that was answered with 429 is what its group offers next, as a client that comes back does.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import httpx
import msgspec

from hansa.core.block import Receipt
from hansa.core.codec import make_decoder
from hansa.core.errors import OperatorError
from hansa.interface.bench.scratch import Progress, compute_percentiles

BATCH: Final = 100
"""Transfers in one request."""
TIMEOUT_S: Final = 60.0
KEPT_S: Final = 2.0
"""How long an idle connection is used again: less than the node keeps it, 5 s."""
ATTEMPTS: Final = 3
"""With the same bytes where no answer comes; the node answers them with what it has."""
SAMPLED: Final = 25
"""Of so many receipts one is decoded: to decode all would cost the machine that is measured."""
HEADERS: Final = {"Content-Type": "application/msgpack", "Accept": "application/msgpack"}
BUSY: Final = 429

_decode_receipt = make_decoder(Receipt, "receipt")


class Group:
    """Accounts whose transfers go in the same batches, and the batches that are left."""

    __slots__ = ("bodies",)

    def __init__(self, bodies: Sequence[bytes]) -> None:
        self.bodies = deque(bodies)


class _Item(msgspec.Struct):
    receipt: bytes = b""
    problem: dict[str, object] | None = None


class _Answer(msgspec.Struct):
    items: list[_Item]


_decode_answer = msgspec.msgpack.Decoder(_Answer).decode


@dataclass
class Offered:
    """What became of what was offered in a while."""

    seconds: float = 0.0
    """From the first offer to the last."""
    offered: int = 0
    """Transactions."""
    answers: list[tuple[float, float]] = field(default_factory=list)
    """When each batch was acknowledged, from the first offer on, and after how long: seconds."""
    busy: int = 0
    """Transactions answered with 429."""
    skipped: int = 0
    """Transactions that no group was free to offer."""
    broken: int = 0
    """Requests whose connection broke; the same bytes were sent again."""
    faults: Counter[str] = field(default_factory=Counter)
    """Transactions answered in any other way."""

    @property
    def acknowledged(self) -> int:
        """Transactions with a receipt."""
        return BATCH * len(self.answers)

    def rate(self) -> float:
        """Return the transactions acknowledged a second, from the first offer to the last answer.

        The end, when nothing more is offered, counts in full: it is short where nothing piled up.
        """
        return self.acknowledged / max((at for at, _ in self.answers), default=1.0)

    def latencies_ms(self) -> dict[str, float]:
        """Return p50, p95 and p99 from the offer to the receipts, in milliseconds."""
        return compute_percentiles([1_000 * took for _, took in self.answers])

    def is_growing(self) -> bool:
        """Tell whether the queue grew: the last third waited clearly longer than the second."""
        third = self.seconds / 3
        thirds = [
            [took for at, took in self.answers if start <= (at - took) / third < start + 1]
            for start in (1, 2)
        ]
        middle, late = (sorted(part)[len(part) // 2] if part else 0.0 for part in thirds)
        return not late or late > 1.3 * middle + 0.2


class Offerer:
    """Offers what groups have, in turn, to gateways in turn."""

    def __init__(self, urls: Sequence[str], groups: Sequence[Group], progress: Progress) -> None:
        self._urls = [f"{url}/v1/transactions" for url in urls]
        self._idle = deque(groups)
        self._gateways = self._turn()
        self._progress = progress

    @property
    def left(self) -> int:
        """Transactions that idle groups have left."""
        return BATCH * sum(len(group.bodies) for group in self._idle)

    def _turn(self) -> Iterator[str]:
        while True:
            yield from self._urls

    def offer(self, rate: float, seconds: float, what: str) -> Offered:
        """Offer so many transactions a second for a while, whatever becomes of them."""
        return asyncio.run(self._offer(rate, seconds, what))

    def saturate(self, in_flight: int, seconds: float, what: str) -> Offered:
        """Keep so many transactions on their way for a while."""
        return asyncio.run(self._saturate(in_flight, seconds, what))

    async def _offer(self, rate: float, seconds: float, what: str) -> Offered:
        taken = Offered()
        async with self._connect() as client, asyncio.TaskGroup() as tasks:
            began = time.perf_counter()
            for number in range(int(rate * seconds / BATCH)):
                due = began + number * BATCH / rate
                if (early := due - time.perf_counter()) > 0:
                    await asyncio.sleep(early)
                if (group := self._take_group()) is None:
                    taken.skipped += BATCH
                    continue
                tasks.create_task(self._hand_in(client, group, began, taken))
                self._progress(what, round(due - began), round(seconds))
            taken.seconds = time.perf_counter() - began
        return taken

    async def _saturate(self, in_flight: int, seconds: float, what: str) -> Offered:
        taken = Offered()
        began = time.perf_counter()

        async def keep_on() -> None:
            while time.perf_counter() - began < seconds and (group := self._take_group()):
                await self._hand_in(client, group, began, taken)
                self._progress(what, round(time.perf_counter() - began), round(seconds))

        async with self._connect() as client, asyncio.TaskGroup() as tasks:
            for _ in range(in_flight // BATCH):
                tasks.create_task(keep_on())
        taken.seconds = seconds
        return taken

    def _connect(self) -> httpx.AsyncClient:
        limits = httpx.Limits(
            max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEPT_S
        )
        return httpx.AsyncClient(headers=HEADERS, timeout=TIMEOUT_S, limits=limits)

    def _take_group(self) -> Group | None:
        while self._idle:
            group = self._idle.popleft()
            if group.bodies:
                return group
        return None

    async def _hand_in(
        self, client: httpx.AsyncClient, group: Group, began: float, taken: Offered
    ) -> None:
        sent = time.perf_counter()
        taken.offered += BATCH
        response = await post(client, next(self._gateways), group.bodies[0], taken)
        if response is None:
            return  # Nobody knows where its sequences stand: this group offers nothing more.
        if response.status_code == BUSY:
            taken.busy += BATCH
            self._idle.append(group)
            return
        if response.status_code != httpx.codes.OK:
            taken.faults[f"status {response.status_code}"] += BATCH
            return
        now = time.perf_counter()
        fault = find_fault(response.content)
        if fault:
            taken.faults[fault] += BATCH
            return
        taken.answers.append((now - began, now - sent))
        group.bodies.popleft()
        self._idle.append(group)


async def post(
    client: httpx.AsyncClient, url: str, body: bytes, taken: Offered
) -> httpx.Response | None:
    """Send a batch, again where the connection breaks; None if no answer comes at all."""
    for _ in range(ATTEMPTS):
        try:
            return await client.post(url, content=body)
        except httpx.TransportError as error:
            name = type(error).__name__
            taken.broken += 1
    taken.faults[name] += BATCH
    return None


def find_fault(content: bytes) -> str:
    """Return what is wrong with an answer to a batch; empty if every transaction took effect."""
    items = _decode_answer(content).items
    if len(items) != BATCH:
        return f"{len(items)} receipts"
    for place, item in enumerate(items):
        if item.problem is not None:
            return str(item.problem.get("title", item.problem))
        if place % SAMPLED == 0 and (fault := _read_fault(item.receipt)):
            return fault
    return ""


def _read_fault(receipt: bytes) -> str:
    decoded: Receipt = _decode_receipt(receipt)
    return "" if decoded.error is None else decoded.error.text


def expect_no_faults(taken: Offered) -> None:
    """Raise OperatorError if anything but receipts and 429 came."""
    if taken.faults:
        shown = ", ".join(f"{count} of {fault}" for fault, count in taken.faults.items())
        raise OperatorError(f"bench: expected receipts or 429, got {shown}")
