"""The relay: when it anchors and renews, and that no node's silence or lies keep it from others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest
from msgspec.structs import replace
from tests.node_world import DAY_MS, KEYS, Clock, SteppedNode, make_market_home

from hansa.core.block import Header, decode_header
from hansa.core.codec import encode
from hansa.core.finality import FinalHeader, TrustedNetwork
from hansa.core.hashing import ZERO_DIGEST
from hansa.core.merkle import EMPTY_ROOT
from hansa.core.prover import Delivery
from hansa.interface.relay_end import HttpEnd
from hansa.interface.relaying import run_relay
from hansa.network.relay import (
    MAX_REST_ROUNDS,
    Anchorage,
    Anchored,
    Relay,
    RelayEnd,
    RelayTrouble,
)
from hansa.node.composition import CHAINS
from hansa.node.relay_end import LocalEnd, is_anchor_due, is_renewal_due, make_anchored
from hansa.service.anchoring.model import FORKED, LIVE, STALE, AnchoredChain, AnchoringParams
from hansa.service.link.model import Client, Latest

PARAMS: Final = AnchoringParams(
    is_anchor=False,
    every_blocks=10,
    stale_after_ms=1_000,
    packet_deadline_ms=1,
    reset_purpose="anchoring.reset",
)
HEADER: Final = Header(
    version=1,
    network=ZERO_DIGEST,
    chain="trade",
    height=25,
    time_ms=5_000,
    log_size=40,
    log_root=EMPTY_ROOT,
    outbox_size=0,
    outbox_root=EMPTY_ROOT,
    previous=ZERO_DIGEST,
    writes=ZERO_DIGEST,
    state_height=0,
    state_root=bytes(32),
)
CLIENT: Final = Client(
    chain="trade",
    trusted=TrustedNetwork(network=ZERO_DIGEST, validators=(b"\x02" * 33,), consensus=None),
    trusting_period_ms=1_000,
    latest=Latest(height=20, time_ms=5_000, log_size=30, log_root=EMPTY_ROOT, app_hash=ZERO_DIGEST),
    is_frozen=False,
    frozen_reason="",
)
RECORD: Final = AnchoredChain(
    chain="trade",
    height=20,
    log_size=30,
    log_root=EMPTY_ROOT,
    app_hash=ZERO_DIGEST,
    time_ms=4_000,
    heard_ms=4_500,
    status=LIVE,
)

# What is due.

ANCHOR_CASES: Final = {
    "never anchored": (Anchored(0, 0, 0), 0, True),
    "not grown, and long unheard": (Anchored(40, 5, 0), 9_000, False),
    "smaller than what is recorded": (Anchored(41, 5, 0), 9_000, False),
    "one block short of N, heard lately": (Anchored(39, 16, 5_000), 5_499, False),
    "N blocks further, heard lately": (Anchored(39, 15, 5_000), 5_000, True),
    "one block further, half the time to staleness over": (Anchored(39, 24, 5_000), 5_500, True),
}


@pytest.mark.parametrize("name", ANCHOR_CASES)
def test_when_an_anchor_is_due(name: str) -> None:
    """A chain that has grown is anchored at first, every N blocks, and before it looks stale."""
    anchored, now_ms, expected = ANCHOR_CASES[name]
    assert expected == is_anchor_due(HEADER, anchored, PARAMS, now_ms)


RENEWAL_CASES: Final = {
    "half the period over": (CLIENT, HEADER, 5_500, True),
    "less than half over": (CLIENT, HEADER, 5_499, False),
    "nothing newer to show": (CLIENT, replace(HEADER, log_size=30), 9_000, False),
    "frozen": (replace(CLIENT, is_frozen=True), HEADER, 9_000, False),
}


@pytest.mark.parametrize("name", RENEWAL_CASES)
def test_when_a_renewal_is_due(name: str) -> None:
    """A client is shown a newer header in the second half of its trusting period."""
    client, header, now_ms, expected = RENEWAL_CASES[name]
    assert expected == is_renewal_due(client, header, now_ms)


RECORD_CASES: Final = {
    "live": (RECORD, CLIENT, Anchored(30, 20, 4_500)),
    "stale, and may come back": (replace(RECORD, status=STALE), CLIENT, Anchored(30, 20, 4_500)),
    "forked": (replace(RECORD, status=FORKED), CLIENT, None),
    "let in, not anchored yet": (None, CLIENT, Anchored(0, 0, 0)),
    "unknown": (None, None, None),
    "frozen": (RECORD, replace(CLIENT, is_frozen=True), None),
}


@pytest.mark.parametrize("name", RECORD_CASES)
def test_what_can_be_anchored(name: str) -> None:
    """An anchor chain takes anchors of chains that it has a client of and that haven't forked."""
    record, client, expected = RECORD_CASES[name]
    assert expected == make_anchored(record, client)


# Nodes that lie.


class Liar:
    """A node that answers everything with the same bytes."""

    def __init__(self, status: int, kind: str, body: bytes, length: int | None = None) -> None:
        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body) if length is None else length))
                self.end_headers()
                self.wfile.write(body)
                self.close_connection = True

            do_GET = do_POST = answer  # noqa: N815 - the names are the server's

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self) -> None:
        """Stop answering."""
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


JSON: Final = "application/json"
PAGE: Final = b'{"page": "%s", "index": %s, "path": %s}'
ITEM: Final = b'{"items": [{"header": "00", "finality": "00", "pages": [%s]}]}'
LIES: Final[dict[str, tuple[Any, ...]]] = {
    "no JSON": (200, JSON, b"once upon a time"),
    "nothing": (200, JSON, b""),
    "a list": (200, JSON, b"[]"),
    "no field": (200, JSON, b"{}"),
    "too deep": (200, JSON, b"[" * 100_000),
    "below zero": (200, JSON, b'{"next": -1, "anchored": {"log_size": -1}}'),
    "beyond 64 bits": (200, JSON, b'{"next": 99999999999999999999, "path": 0, "error": 0}'),
    "half a digit": (200, JSON, b'{"header": "0", "finality": "00", "path": ["0"]}'),
    "no digits": (200, JSON, b'{"header": "xx", "finality": "00", "path": ["xx"]}'),
    "no page": (200, JSON, ITEM % (PAGE % (b"00", b"0", b"[]"))),
    "no pages": (200, JSON, ITEM % b""),
    "an index beyond 32 bits": (200, JSON, ITEM % (PAGE % (b"00", b"4294967296", b"[]"))),
    "half a client": (200, JSON, b'{"client": {"chain": "trade"}, "header": 1}'),
    "a megabyte too many": (200, JSON, b" " * (5 << 20)),
    "cut off": (200, JSON, b"{", 100),
    "an error of its own": (500, "text/plain", b"oops"),
    "a problem with no number": (400, JSON, b'{"detail": "no"}'),
    "a wrong sequence without the right one": (409, JSON, b'{"number": 8, "values": {}}'),
    "a wrong sequence for ever": (409, JSON, b'{"number": 8, "values": {"expected": "-5"}}'),
    "busy": (429, JSON, b'{"detail": "busy", "number": 3}'),
    "elsewhere": (302, "text/plain", b""),
}

ANCHORAGE: Final = Anchorage(encode(HEADER), b"\x01\x00", ())


QUESTIONS: Final[dict[str, Callable[[RelayEnd, RelayEnd], object]]] = {
    "next": lambda end, _: end.get_next_expected("product"),
    "deliveries": lambda end, _: end.get_deliveries("product", 0, 12),
    "receive": lambda end, _: end.receive("product", [Delivery(_final(), (), 1)]),
    "newest": lambda end, _: end.get_newest(),
    "due anchor": lambda end, other: end.get_due_anchor(other),
    "anchored": lambda end, _: end.get_anchored("product"),
    "submit anchor": lambda end, _: end.submit_anchor("product", ANCHORAGE),
    "renew": lambda end, other: end.renew_client(other),
}


def _final() -> FinalHeader:
    return FinalHeader(ANCHORAGE.header, ANCHORAGE.finality)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[SteppedNode]:
    """A node with all four chains."""
    make_market_home(tmp_path)
    node = SteppedNode(tmp_path, keys=KEYS.store, clock=Clock())
    yield node
    node.stop()


@pytest.fixture(params=LIES)
def liar(request: pytest.FixtureRequest) -> Iterator[Liar]:
    """A node for each lie."""
    node = Liar(*LIES[request.param])
    yield node
    node.close()


def test_lies_are_trouble(node: SteppedNode, liar: Liar) -> None:
    """Whatever a node answers, a relay is told of trouble with it, and of nothing else."""
    end = HttpEnd(liar.url, "trade", KEYS["relay"])
    anchor = LocalEnd(node, "anchor")
    for name, question in QUESTIONS.items():
        with pytest.raises(RelayTrouble) as caught:
            question(end, anchor)
        assert (name, "trade") == (name, caught.value.chain)
    end.close()


def test_liar_keeps_no_relay_from_others(node: SteppedNode, liar: Liar) -> None:
    """One end that lies is noted and left to rest; the others are anchored in the same round."""
    lying = HttpEnd(liar.url, "product", KEYS["relay"])
    honest = {chain: LocalEnd(node, chain) for chain in CHAINS if chain != "product"}
    relay = Relay({"product": lying, **honest})
    assert 2 == relay.step()
    assert ["product"] == [trouble.partition(":")[0] for trouble in relay.troubles]
    relay.renew_clients()
    lying.close()


def test_silent_end_is_asked_ever_more_rarely(node: SteppedNode) -> None:
    """An end that can't be reached is tried again soon at first, then once in so many rounds."""
    gone = Liar(200, JSON, b"")
    gone.close()
    end = HttpEnd(gone.url, "product", KEYS["relay"])
    relay = Relay({"product": end, "trade": LocalEnd(node, "trade")})
    tried = []
    for number in range(40):
        before = len(relay.troubles)
        relay.step()
        if len(relay.troubles) > before:
            tried.append(number)
    gaps = [later - sooner for sooner, later in pairwise(tried)]
    assert [1, 2, 4, 8, MAX_REST_ROUNDS + 1] == gaps
    end.close()


def test_anchors_follow_the_chain(node: SteppedNode) -> None:
    """After the first anchor nothing is due until the chain has grown enough."""
    relay = Relay({chain: LocalEnd(node, chain) for chain in CHAINS})
    assert 3 == relay.step()
    node.settle()
    assert 0 == relay.step()
    assert [] == relay.troubles
    end = LocalEnd(node, "trade")
    newest = end.get_newest()
    assert newest is not None
    recorded = LocalEnd(node, "anchor").get_anchored("trade")
    assert recorded is not None
    assert decode_header(newest.header).log_size == recorded.log_size


def test_refusals_leave_few_leaves(node: SteppedNode) -> None:
    """What a rule keeps refusing is handed in ever more rarely, for each refusal is a leaf."""
    expired = node.engine.clock() + 31 * DAY_MS
    node.engine.clock = Clock(expired)
    relay = Relay({chain: LocalEnd(node, chain) for chain in ("trade", "anchor")})
    for _ in range(64):
        relay.step()
    assert ["anchor of trade: 1003"] * 7 == [trouble[:21] for trouble in relay.troubles]


def test_one_run_ends_and_reports() -> None:
    """A relay that is to carry what waits ends by itself, and says what it met."""
    liar = Liar(*LIES["no JSON"])
    heard: list[str] = []
    ends = {"product": liar.url, "trade": liar.url}
    report = run_relay(ends, KEYS["relay"], heard.append, threading.Event(), is_once=True)
    liar.close()
    assert (0, 0) == (report.pages, report.anchors)
    assert ["carrying between product, trade", *report.troubles] == heard
    assert {"product", "trade"} == {trouble.partition(":")[0] for trouble in report.troubles}
