"""P1: signed transfers through the engine, against what two threads can verify."""

import os
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Final

from hansa.core.keys import verify_signatures
from hansa.interface.bench.scratch import (
    CURRENCY,
    Party,
    Progress,
    compute_percentiles,
    fund,
    open_bench_node,
    open_currency,
    register_customers,
)
from hansa.network.intake import EngineBusy, Inclusion, Settled
from hansa.node.node import Node
from hansa.service.bank.model import Transfer

WARM_UP: Final = 4_000
CUSTOMERS: Final = 1_000
BATCH: Final = 250
"""Transfers that one submitter hands in at once."""
IN_FLIGHT: Final = 40
"""Batches that wait for their receipts at any time."""


def measure_transfers(is_quick: bool, progress: Progress) -> dict[str, Any]:
    """Return the figure P1: value in transactions a second, limit what two threads verify."""
    count = 20_000 if is_quick else 200_000
    with open_bench_node() as node:
        parties = [Party(node, "trade", f"payer/{i}", is_fresh=True) for i in range(CUSTOMERS)]
        register_customers(node, parties)
        fund(node, open_currency(node), parties, 10**12)
        envelopes = sign_transfers(parties, WARM_UP + count, progress)
        limit = measure_verification(node, envelopes[:8_000])
        _Run(node).submit_all(envelopes[:WARM_UP], progress)  # The engine starts its workers.
        envelopes = envelopes[WARM_UP:]
        node.wait_projected(node.ledger.height, 60.0)
        run = _Run(node)
        first_height = node.ledger.height
        seconds = run.submit_all(envelopes, progress)
        lag = node.ledger.height - node.read_model.height
        caught_up = time.perf_counter()
        node.wait_projected(node.ledger.height, 600.0)
        caught_up = time.perf_counter() - caught_up
        rate = count / seconds
        return {
            "value": round(rate),
            "unit": "transactions/s",
            "limit": round(limit),
            "limit_is": "signatures/s that two threads verify in this run",
            "conditions": {
                "ratio": round(rate / limit, 3),
                "wanted": "at least 20,000/s and 0.40 of the limit",
                "transactions": count,
                "bytes": round(sum(map(len, envelopes)) / count),
                "signatures_checked": count,
                "rejected": run.rejected,
                "conflict_rate": 0,
                "blocks": node.ledger.height - first_height,
                "fsync": "one fdatasync a block, before any receipt of it",
                "latency_ms": compute_percentiles(run.latencies_ms),
                "in_flight": BATCH * IN_FLIGHT,
                "read_model_lag_blocks": lag,
                "read_model_caught_up_s": round(caught_up, 2),
                "cores": os.cpu_count(),
            },
        }


def sign_transfers(parties: Sequence[Party], count: int, progress: Progress) -> list[bytes]:
    """Return transfers in a circle, each account paying in turn."""
    envelopes: list[bytes] = []
    for index in range(count):
        payer = parties[index % len(parties)]
        payee = parties[(index * 7 + 1 + (index % len(parties) == 0)) % len(parties)]
        if payee is payer:
            payee = parties[(index + 1) % len(parties)]
        reference = index.to_bytes(16, "big")
        envelopes.append(payer.sign(Transfer(payee.account, CURRENCY, 1 + index % 100, reference)))
        if index % 1_000 == 0:
            progress("signing transfers", index, count)
    return envelopes


def measure_verification(node: Node, envelopes: Sequence[bytes]) -> float:
    """Return how many signatures two threads verify in a second, doing nothing else."""
    decode = node.ledger.chains["trade"].decode_transaction
    claims = [claim for envelope in envelopes for claim in decode(envelope).claims]
    half = len(claims) // 2
    verify_signatures(claims[:1_000])
    with ThreadPoolExecutor(2) as pool:
        started = time.perf_counter()
        verdicts = list(pool.map(verify_signatures, (claims[:half], claims[half:])))
        seconds = time.perf_counter() - started
    assert all(all(part) for part in verdicts), "the bench signed wrongly"
    return len(claims) / seconds


class _Run:
    """Submits batch after batch, so many in flight, and notes how long each took."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.latencies_ms: list[float] = []
        self.rejected = 0
        self._open: deque[Future[list[Settled]]] = deque()

    def submit_all(self, envelopes: Sequence[bytes], progress: Progress) -> float:
        """Return the seconds from the first submission to the last receipt."""
        started = time.perf_counter()
        for start in range(0, len(envelopes), BATCH):
            self._submit(envelopes[start : start + BATCH])
            while len(self._open) >= IN_FLIGHT:
                self._settle()
            progress("transfers", start, len(envelopes))
        while self._open:
            self._settle()
        return time.perf_counter() - started

    def _submit(self, envelopes: Sequence[bytes]) -> None:
        while True:
            try:
                answer = self.node.submit_batch("trade", envelopes)
            except EngineBusy:
                self._settle()
                continue
            sent = time.perf_counter()
            answer.add_done_callback(partial(self._note_latency, sent))
            self._open.append(answer)
            return

    def _note_latency(self, sent: float, _: Future[list[Settled]]) -> None:
        self.latencies_ms.append((time.perf_counter() - sent) * 1_000)

    def _settle(self) -> None:
        for settled in self._open.popleft().result():
            is_done = isinstance(settled, Inclusion) and settled.receipt.error is None
            self.rejected += not is_done
