"""Packets between two networks on CometBFT: from sent to acknowledged, carried by one relay."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from hansa.core.keys import SigningKey
from hansa.interface.bench.members import Members
from hansa.interface.bench.order_lives import make_register
from hansa.interface.bench.scratch import SEED, Progress, compute_percentiles, wait_until
from hansa.interface.client import Client, HttpTransport, Problem
from hansa.interface.client.transports import Ask
from hansa.interface.relaying import run_relay
from hansa.interface.sandbox.desk import Desk, Request
from hansa.interface.sandbox.federation import introduce, make_federation_trust
from hansa.interface.sandbox.roster import WHOLESALER
from hansa.interface.sandbox.testnet import create_testnet
from hansa.node.home import load_keys

CHAINS: Final = ("product", "trade")
WANTED_MS: Final = 5_000


def measure_crossing(
    folder: Path, validators: int, singles: int, many: int, progress: Progress
) -> dict[str, Any]:
    """Return how long packets take, one at a time and many at once, in milliseconds."""
    homes = create_testnet(folder, "crossing", validators, chains=CHAINS, is_split=True, seed=SEED)
    members = Members(folder)
    with members.running(), ExitStack() as stack:
        first = {
            chain: next(m for m in members.nodes if m.place.chains == (chain,)) for chain in CHAINS
        }
        trust = make_federation_trust({chain: one.home for chain, one in first.items()})
        clients = {
            chain: stack.enter_context(
                Client(HttpTransport(one.place.url), load_keys(one.home, str), trust)
            )
            for chain, one in first.items()
        }
        progress("making two networks known to each other", 0, None)
        introduce(clients)
        stack.enter_context(_relaying({c: one.place.url for c, one in first.items()}))
        crossing = _Crossing(clients["product"], first["product"].place.url, progress)
        single_ms = [crossing.send(1) for _ in range(singles)]
        started = time.perf_counter()
        many_ms = crossing.send(many)
        seconds = time.perf_counter() - started
    return {
        "single_ms": compute_percentiles(single_ms),
        "many": many,
        "many_last_ms": round(many_ms, 1),
        "packets_s": round(many / seconds, 1),
        "wanted_ms": WANTED_MS,
        "validators": f"{validators} of each network, {len(homes)} nodes on this machine",
        "clock": "from the receipt of the transaction that sent it, to the acknowledgement in the"
        " read model of the network that sent it, looked at every 5 ms",
    }


@contextmanager
def _relaying(urls: dict[str, str]) -> Iterator[None]:
    stop = threading.Event()
    key = SigningKey(os.urandom(32))
    relay = threading.Thread(
        target=run_relay, args=(urls, key, lambda _event: None, stop), name="bench-relay"
    )
    relay.start()
    try:
        yield
    finally:
        stop.set()
        relay.join()


class _Crossing:
    """Sends packets by registering products, and waits for their acknowledgements."""

    def __init__(self, client: Client, url: str, progress: Progress) -> None:
        self._desk = Desk(client)
        self._asked = HttpTransport(url)
        self._progress = progress
        self._sent = 0

    def send(self, count: int) -> float:
        """Return the milliseconds until the last of so many packets is acknowledged."""
        requests = [
            Request((WHOLESALER.key,), (make_register(f"X{self._sent + index}"),))
            for index in range(count)
        ]
        self._desk.send("product", requests)
        started = time.perf_counter()
        self._sent += count
        self._progress("packets between two networks", self._sent, None)
        last = f"product:trade:{self._sent - 1}"
        wait_until(lambda: self._is_done(last), f"packet {last} to be acknowledged")
        return (time.perf_counter() - started) * 1_000

    def _is_done(self, packet: str) -> bool:
        try:
            row = self._asked.ask(Ask("show", {"plural": "packets", "id": packet}))
        except Problem:
            return False  # The read model has not come to it yet.
        return bool(row["status"] == "done")
