"""Random and near-valid requests at every door: no bug answers, and the ledger stays sound."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.core.result import Ok
from tests.end_to_end.node_world import make_transfer, open_market, write_envelope

from hansa.interface.http.app import HttpServer
from hansa.interface.http.tokens import TokenStore
from hansa.node.node import Node, system_clock

SOAK = bool(os.environ.get("HANSA_SOAK"))
PER_OPERATION = 200 if SOAK else 3
MUTATIONS = 20_000 if SOAK else 120
BUDGET_S = float("inf") if SOAK else 15.0
"""Operations are tried in an order the seed draws, until this is spent; a soak tries them all."""
GENEROUS = {"requests_per_s": 1_000_000, "burst": 1_000_000}

SEED = int(os.environ.get("HANSA_SEED", "0"))


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A sandbox with a little market, and no limit to how often it is asked."""
    with open_market(tmp_path_factory.mktemp("home"), http=GENEROUS) as opened:
        yield opened


@pytest.fixture(scope="module")
def url(node: Node) -> Iterator[str]:
    """Its address."""
    with HttpServer(node) as server:
        yield server.url


def check_answer(response: httpx.Response) -> None:
    """No answer is a bug of ours, and every refusal is a problem that says its status."""
    assert response.status_code < 500, response.text
    if response.status_code >= 400:
        assert "application/problem+json" == response.headers["content-type"]
        assert response.status_code == response.json()["status"]


def test_every_operation_survives_what_the_schema_allows_and_forbids(node: Node, url: str) -> None:
    """Requests generated from the OpenAPI, right and wrong, with a token that allows all."""
    print(f"HANSA_SEED={SEED}")
    issued = TokenStore(node.home).new(["read", "submit"], account="alice", now_ms=system_clock())
    document = httpx.get(f"{url}/schema/openapi.json").json()
    schema = schemathesis.openapi.from_dict(document)
    http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {issued.secret}"})
    results = list(schema.get_all_operations())
    assert len(results) > 60
    random.Random(SEED).shuffle(results)
    seen = forbidden = 0
    ends_at = time.monotonic() + BUDGET_S
    for result in results:
        if time.monotonic() > ends_at:
            break
        assert isinstance(result, Ok), result
        operation = result.ok()
        if operation.path == "/v1/feed":
            continue  # It never ends; its own tests read it.
        check_operation(operation, GenerationMode.POSITIVE, http)
        try:
            check_operation(operation, GenerationMode.NEGATIVE, http)
            forbidden += 1
        except Unsatisfiable:
            pass  # It takes nothing, or any text: its schema forbids nothing.
        seen += 1
    print(f"{seen} of {len(results)} operations, {forbidden} of them also against their schema")
    assert seen > 0
    assert node.ready() is None


def check_operation(operation: Any, mode: GenerationMode, http: httpx.Client) -> None:
    """Some generated requests of one operation."""
    strategy = operation.as_strategy(generation_mode=mode)

    @seed(SEED)
    @settings(
        max_examples=PER_OPERATION,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=strategy)
    def run(case: Any) -> None:
        arguments = case.as_transport_kwargs(base_url=str(http.base_url))
        arguments.pop("cookies", None)
        headers = {
            **dict(arguments.pop("headers", {})),
            "Authorization": http.headers["authorization"],
        }
        try:
            request = http.build_request(headers=headers, **translate(arguments))
        except (httpx.InvalidURL, UnicodeError, TypeError, ValueError):
            return  # No HTTP client can send it.
        check_answer(http.send(request))

    run()


def translate(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of one HTTP library in the names of the other."""
    data = arguments.pop("data", None)
    if isinstance(data, str | bytes):
        arguments["content"] = data
    elif data is not None:
        arguments["data"] = data
    return arguments


def test_mutated_envelopes_leave_nothing(node: Node, url: str) -> None:
    """A good envelope with any change is refused by number, and no log grows."""
    print(f"HANSA_SEED={SEED}")
    good = write_envelope(node, make_transfer("never mutated in"), sequence=0)
    size = node.ledger.chains["trade"].log.size
    http = httpx.Client(base_url=url, headers={"Content-Type": "application/octet-stream"})

    @seed(SEED)
    @settings(max_examples=MUTATIONS, deadline=None, database=None, phases=[Phase.generate])
    @given(
        at=st.integers(0, len(good) - 1),
        cut=st.integers(0, 3),
        put=st.binary(max_size=4),
    )
    def run(at: int, cut: int, put: bytes) -> None:
        mutated = good[:at] + put + good[at + cut :]
        if mutated != good:
            answer = http.post("/v1/transactions", params={"chain": "trade"}, content=mutated)
            check_answer(answer)
            assert answer.status_code >= 400
            assert answer.json()["number"] in range(1, 13)

    run()
    assert size == node.ledger.chains["trade"].log.size


def test_random_bytes_at_every_content_type(node: Node, url: str) -> None:
    """Whatever a body claims to be, its bytes are judged and refused."""
    http = httpx.Client(base_url=url, params={"chain": "trade"})
    kinds = ("application/octet-stream", "application/json", "application/msgpack", "text/html", "")

    @seed(SEED)
    @settings(max_examples=MUTATIONS // 3, deadline=None, database=None, phases=[Phase.generate])
    @given(body=st.binary(max_size=300), kind=st.sampled_from(kinds))
    def run(body: bytes, kind: str) -> None:
        answer = http.post("/v1/transactions", content=body, headers={"Content-Type": kind})
        check_answer(answer)
        assert answer.status_code >= 400

    run()
    assert node.ready() is None


def test_paths_lead_nowhere_else(url: str) -> None:
    """No path of the tiles leaves the log's own folder."""
    http = httpx.Client(base_url=url)
    for path in (
        "/log/trade/tile/..%2F..%2Fkeys.json",
        "/log/trade/tile/0/../../../keys.json",
        "/log/..%2Fkeys.json/checkpoint",
        "/log/trade/tile/entries/%2e%2e/%2e%2e/lock",
    ):
        answer = http.get(path)
        assert 404 == answer.status_code, path
