"""What the benchmark of four organisations is made of: offers, shares, and a model that adds up."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec
import pytest

from hansa.core.block import Fault, Receipt
from hansa.core.codec import encode
from hansa.core.errors import OperatorError
from hansa.foreground.cli.bench import make_page
from hansa.interface.bench.busy_threads import share_threads
from hansa.interface.bench.kvstore import make_pair, make_request
from hansa.interface.bench.offering import (
    BATCH,
    Group,
    Offered,
    Offerer,
    expect_no_faults,
    find_fault,
)
from hansa.interface.bench.scaling import Parts, Place, forecast, forecast_here, make_model
from hansa.interface.bench.spent import find_role, read_spent, subtract

PARTS = Parts(
    validators=4,
    node_us=100,
    verify_us=50,
    engine_us=60,
    driver_us=40,
    sent_bytes=900,
    bytes_each=250,
)


def ignore(_what: str, _done: int, _total: int | None) -> None:
    """Progress that nobody looks at."""


def make_answer(error: Fault | None = None, count: int = BATCH) -> bytes:
    """The answer to a batch, in which the first receipt may state an error."""
    items = [
        {"receipt": encode(make_receipt(error if place == 0 else None))} for place in range(count)
    ]
    return msgspec.msgpack.encode({"header": b"", "finality": b"", "items": items})


def make_receipt(error: Fault | None) -> Receipt:
    """A receipt of nothing in particular."""
    return Receipt(
        version=1, source=bytes(33), height=1, index=0, salt=bytes(16), error=error, events=()
    )


@pytest.mark.parametrize(
    ("command", "role"),
    [
        ("python\0-m\0hansa.network.verifiers", "verifier"),
        ("python\0-I\0-S\0/x/guard.py\07\0lock\0/bin/cometbft\0start", "guard"),
        ("/bin/cometbft\0start\0--home\0x", "cometbft"),
        ("python\0-m\0hansa.foreground.cli.main\0start", "node"),
    ],
)
def test_a_process_has_the_role_its_command_says(command: str, role: str) -> None:
    """What a process is counted as follows from its command line."""
    assert role == find_role(command)


def test_processor_time_is_read_of_a_living_process_and_not_of_one_that_is_gone() -> None:
    """This process has spent something; a number that nobody has spends nothing."""
    sum(range(2_000_000))
    assert read_spent([os.getpid()])["node"] > 0
    assert 0 == sum(read_spent([2**22 + 1]).values())


def test_what_was_spent_between_two_readings_is_their_difference() -> None:
    """A role that comes later has spent all of it since."""
    assert {"node": 2.0, "verifier": 1.0} == subtract({"node": 5.0, "verifier": 1.0}, {"node": 3.0})


def test_a_transaction_of_the_go_application_is_one_pair_of_the_size_asked_for() -> None:
    """It holds one equals sign, as that application wants, and no two are the same."""
    pair = make_pair(7, 250)
    assert (250, 1) == (len(pair), pair.count(b"="))
    assert pair != make_pair(8, 250)


def test_a_request_hands_in_as_many_transactions_as_were_asked_for() -> None:
    """A JSON-RPC batch, each question with a number of its own."""
    questions = msgspec.json.decode(make_request(200, 100, 250))
    assert list(range(200, 300)) == [question["id"] for question in questions]


def test_the_rate_is_up_to_the_last_answer() -> None:
    """What came after the offers ended took its time as well."""
    taken = Offered(seconds=1.0, answers=[(1.0, 0.5), (2.0, 1.5)])
    assert BATCH == taken.rate()


@pytest.mark.parametrize(
    ("late_s", "is_growing"), [(1.0, False), (1.4, False), (2.0, True)], ids=["same", "bit", "yes"]
)
def test_a_queue_grows_if_what_is_offered_late_waits_clearly_longer(
    late_s: float, is_growing: bool
) -> None:
    """The last third of the offers is compared with the two thirds before the end."""
    offers = [float(second) for second in range(30)]
    waits = [late_s if at >= 20 else 1.0 for at in offers]
    answers = [(at + took, took) for at, took in zip(offers, waits, strict=True)]
    assert is_growing == Offered(seconds=30.0, answers=answers).is_growing()


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (make_answer(), ""),
        (make_answer(Fault(number=1, text="no funds")), "no funds"),
        (make_answer(count=3), "3 receipts"),
        (
            msgspec.msgpack.encode({"items": [{"problem": {"title": "WrongNonce"}}] * BATCH}),
            "WrongNonce",
        ),
    ],
    ids=["good", "rule", "short", "problem"],
)
def test_an_answer_to_a_batch_is_judged(content: bytes, fault: str) -> None:
    """Anything but a receipt without an error, for each transaction, is a fault."""
    assert fault == find_fault(content)


def test_what_was_refused_otherwise_than_by_429_is_no_measurement() -> None:
    """The error says what came, and how often."""
    taken = Offered()
    taken.faults["no funds"] += 200
    with pytest.raises(OperatorError, match="200 of no funds"):
        expect_no_faults(taken)


@contextmanager
def gateway(statuses: list[int]) -> Iterator[tuple[str, list[bytes]]]:
    """A server that answers with these statuses, and then with receipts; notes what it was sent."""
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            status = statuses.pop(0) if statuses else 200
            content = make_answer() if status == 200 else b""
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", bodies
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_batch_answered_with_429_is_offered_again_before_the_next_of_its_group() -> None:
    """The accounts of a group sign in order, so nothing of it may be left out."""
    with gateway([429]) as (url, bodies):
        offerer = Offerer([url], [Group([b"first", b"second"])], ignore)
        taken = offerer.saturate(BATCH, 5.0, "")
    assert [b"first", b"first", b"second"] == bodies
    assert (BATCH, 2 * BATCH, 3 * BATCH) == (taken.busy, taken.acknowledged, taken.offered)


def test_what_no_group_is_free_to_offer_is_counted() -> None:
    """An offer that could not be made is no offer that was answered."""
    with gateway([]) as (url, _):
        taken = Offerer([url], [Group([b"only"])], ignore).offer(20 * BATCH, 0.2, "")
    assert (BATCH, 3 * BATCH) == (taken.acknowledged, taken.skipped)


def test_threads_share_the_samples_in_which_they_did_something() -> None:
    """A thread that waits, in Python or for a worker, is left out; those of a pool are one."""
    stacks = "\n".join(
        [
            "thread (1): execution_0;run (a.py:1);apply (b.py:2) 6",
            "thread (2): asyncio_0;run (a.py:1);prove (b.py:3) 1",
            "thread (3): asyncio_5;run (a.py:1);prove (b.py:3) 1",
            "thread (4): intake;run (a.py:1);Condition.wait (threading.py:331) 90",
        ]
    )
    expected = {"executing blocks": 0.75, "answering with proofs": 0.25}
    assert expected == share_threads(stacks)


PLACE = Place(validators=4, cores=8, delay_ms=110, bandwidth=125e6, block_pause_ms=300)


@pytest.mark.parametrize(
    ("changes", "bound"),
    [
        ({"cores": 0.5}, "cores"),
        ({"cores": 64.0}, "pace"),
        ({"bandwidth": 1e6}, "network"),
        ({"cores": 64.0, "delay_ms": 0.0, "block_pause_ms": 0.0}, "interpreter"),
    ],
)
def test_the_least_of_four_bounds_is_forecast(changes: dict[str, float], bound: str) -> None:
    """Which of them it is depends on where the network runs."""
    found = forecast(PARTS, replace(PLACE, **changes))  # type: ignore[arg-type]
    bounds = {
        "cores": found.cores_tx_s,
        "interpreter": found.interpreter_tx_s,
        "network": found.network_tx_s,
        "pace": found.pace_tx_s,
    }
    assert (bound, bounds[bound]) == (found.bound, found.tx_s)
    assert found.tx_s == min(bounds.values())


def test_nodes_that_share_a_machine_share_its_cores() -> None:
    """Two cores, four nodes at 210 us and a driver at 40 us: 2e6 over 880."""
    assert round(2e6 / 880) == forecast_here(PARTS, 4, 2.0)


def test_seven_nodes_on_a_machine_cost_their_peers_too() -> None:
    """The engine's part grows with the peers: 60 us at three are 120 at six."""
    assert round(2e6 / (7 * 270 + 40)) == forecast_here(PARTS, 7, 2.0)


def test_the_model_names_its_assumptions_and_three_networks() -> None:
    """What it rests on is said with the figures."""
    model = make_model(PARTS, 300)
    assert [4, 20, 100] == [one["validators"] for one in model["forecasts"]]
    assert model["assumed"].startswith("every node has a machine of its own")


def test_the_page_shows_nested_figures_as_lists_and_tables() -> None:
    """A figure within a figure is a list below it, rows with the same columns are a table."""
    page = make_page(
        {
            "P3": {
                "value": 1,
                "conditions": {
                    "held": {"tx_s": 7, "latency_ms": {"p50": 1, "p95": 2}},
                    "rows": [{"validators": 4, "tx_s": 9}],
                    "latency_ms": {"p50": 3},
                },
            }
        }
    )
    assert "- held:\n  - tx s: 7\n  - latency ms: p50 1, p95 2\n" in page
    assert "  | validators | tx s |\n  |---|---|\n  | 4 | 9 |\n" in page
    assert "- latency_ms: {'p50': 3}\n" in page
