"""The HTTP door of a real node: what it answers, what it refuses, and by which number."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.end_to_end.node_world import (
    FUNDS_MINOR,
    account_of,
    make_home,
    make_keys,
    make_transfer,
    open_market,
    write_envelope,
)

from hansa.core.block import decode_header
from hansa.core.errors import OperatorError
from hansa.core.proof import Outcome, verify_bundle
from hansa.core.transaction import envelope_digest
from hansa.interface.http.app import HttpServer
from hansa.interface.http.limits import IdempotencyKeys, RateLimiter, StoredAnswer, read_limits
from hansa.interface.http.problems import IdempotencyKeyReused, RateExceeded, RequestInProgress
from hansa.interface.http.tokens import TokenStore
from hansa.node.home import NodeConfig, make_trust
from hansa.node.node import Node, system_clock

OCTETS = {"Content-Type": "application/octet-stream"}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A sandbox with a little market."""
    with open_market(tmp_path_factory.mktemp("home")) as opened:
        yield opened


@pytest.fixture(scope="module")
def http(node: Node) -> Iterator[httpx.Client]:
    """A way to it."""
    with HttpServer(node) as server, httpx.Client(base_url=server.url, timeout=30) as client:
        yield client


def submit(http: httpx.Client, envelope: bytes, chain: str = "trade") -> httpx.Response:
    """The answer to one envelope."""
    params = {"chain": chain}
    return http.post("/v1/transactions", params=params, content=envelope, headers=OCTETS)


def number_of(response: httpx.Response) -> tuple[int, int | None]:
    """Status and error number of a problem."""
    assert "application/problem+json" == response.headers["content-type"]
    return response.status_code, response.json()["number"]


def make_token(node: Node, *scopes: str, account: str = "alice") -> dict[str, str]:
    """The header of a new token."""
    issued = TokenStore(node.home).new(scopes, account=account, now_ms=system_clock())
    return {"Authorization": f"Bearer {issued.secret}"}


# Reading.


def test_status_and_blocks_agree(http: httpx.Client) -> None:
    """Status says the height, and that block has an app_hash for every chain."""
    status = http.get("/v1/status").json()
    block = http.get(f"/v1/blocks/{status['height']}").json()
    assert (status["height"], True) == (block["height"], status["is_sandbox"])
    assert ["product", "trade", "logistics", "anchor"] == [c["chain"] for c in block["chains"]]
    assert all(len(bytes.fromhex(chain["app_hash"])) == 33 for chain in block["chains"])


def test_pages_hold_every_object_once(node: Node, http: httpx.Client) -> None:
    """Turning pages of one item gives the same objects as one long page."""
    whole = [item["id"] for item in http.get("/v1/accounts?limit=200").json()["items"]]
    turned, cursor = [], None
    while True:
        params = {"limit": 1} if cursor is None else {"limit": 1, "cursor": cursor}
        page = http.get("/v1/accounts", params=params).json()
        turned += [item["id"] for item in page["items"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert whole == turned
    assert len(whole) == len(set(whole)) == 3


def test_a_filter_narrows(http: httpx.Client) -> None:
    """Balances of one account are those of this account, in minor units."""
    account = account_of("bob").hex()
    items = http.get("/v1/balances", params={"account": account}).json()["items"]
    assert [account] == [item["account"] for item in items]
    assert items[0]["posted_minor"] >= FUNDS_MINOR


def test_every_transaction_is_on_a_page(node: Node, http: httpx.Client) -> None:
    """Pages of transactions hold each that was judged once, refused ones too, and are narrowed."""
    refused = submit(http, write_envelope(node, make_transfer("a list", 10**12), lane=70)).json()
    assert node.wait_projected(refused["height"])
    listed: list[dict[str, Any]] = []
    cursor: str | None = None
    while cursor is not None or not listed:
        params: dict[str, Any] = {"limit": 3, **({"cursor": cursor} if cursor else {})}
        page = http.get("/v1/transactions", params=params).json()
        listed, cursor = listed + page["items"], page["next"]
    judged = {
        envelope_digest(envelope).hex()
        for record in node.ledger.iterate_blocks(0)
        for part in record.chains
        for envelope in part.envelopes
    }
    assert judged == {item["id"] for item in listed}
    assert len(judged) == len(listed)
    number = refused["error"]["number"]
    filters = {"signer": account_of("alice").hex(), "chain": "trade", "error": number}
    narrowed = http.get("/v1/transactions", params=filters).json()["items"]
    assert refused["digest"] in {item["id"] for item in narrowed}
    assert {number} == {item["error"] for item in narrowed}
    shown = http.get(f"/v1/transactions/{refused['digest']}").json()
    row = next(item for item in listed if item["id"] == refused["digest"])
    assert row == {name: shown[name] for name in row}
    assert [] == shown["events"]
    found = http.get("/v1/search", params={"q": refused["digest"][:20]}).json()["items"]
    assert [("transaction", refused["digest"])] == [(i["kind"], i["id"]) for i in found]


def test_what_is_found_says_its_kind(http: httpx.Client) -> None:
    """An account has a kind of its own, which is not the one it is asked for by."""
    account = account_of("alice").hex()
    found = http.get("/v1/search", params={"q": account}).json()["items"]
    assert ("account", account) in {(item["kind"], item["id"]) for item in found}


BAD_QUESTIONS = [
    ("filter no number", "/v1/transactions?error=many", (400, 901)),
    ("filter no row can have", "/v1/orders?status=%00", (400, 901)),
    ("id no row can have", "/v1/orders/%00", (404, 913)),
    ("unknown filter", "/v1/orders?colour=red", (400, 901)),
    ("limit of zero", "/v1/orders?limit=0", (400, 901)),
    ("limit too high", "/v1/orders?limit=201", (400, 901)),
    ("limit no number", "/v1/orders?limit=many", (400, 901)),
    ("cursor not ours", "/v1/orders?cursor=%21%21", (400, 901)),
    ("cursor of another shape", "/v1/orders?cursor=e30", (400, 901)),
    ("block no number", "/v1/blocks/first", (400, 901)),
    ("block in the future", "/v1/blocks/999999999", (404, 913)),
    ("height in the future", "/v1/orders?min_height=999999999", (400, 901)),
    ("unknown kind", "/v1/dragons", (404, 913)),
    ("unknown object", "/v1/orders/00", (404, 913)),
    ("unknown transaction", "/v1/transactions/00", (404, 913)),
    ("unknown proof", "/v1/proofs/order/00", (404, 913)),
    ("unknown kind of proof", "/v1/proofs/dragon/00", (404, 913)),
    ("places of another shape", "/v1/facts?places=trade", (400, 901)),
    ("place on no chain", "/v1/facts?places=mars:0:0", (404, 913)),
    ("place beyond the log", "/v1/facts?places=trade:0:999999", (404, 913)),
    ("search for nothing", "/v1/search?q=", (400, 901)),
    ("account of another length", "/v1/accounts/00/sequence?chain=trade", (400, 901)),
    ("log of no chain", "/log/mars/checkpoint", (404, 913)),
    ("tile with a leading zero", "/log/trade/tile/00/000", (404, 913)),
    ("tile that the log doesn't have", "/log/trade/tile/5/000", (404, 913)),
    ("consistency backwards", "/v1/chains/trade/consistency?old=2&new=1", (400, 901)),
    ("consistency beyond the log", "/v1/chains/trade/consistency?old=1&new=99999", (400, 901)),
    ("relay of too much", "/v1/relay/trade/deliveries?destination=product&limit=99", (400, 901)),
]


@pytest.mark.parametrize(("path", "expected"), [c[1:] for c in BAD_QUESTIONS],
                         ids=[c[0] for c in BAD_QUESTIONS])  # fmt: skip
def test_bad_questions_are_problems(
    http: httpx.Client, path: str, expected: tuple[int, int | None]
) -> None:
    """What can't be answered is a problem with a status and, where it has one, a number."""
    assert expected == number_of(http.get(path))


def test_wrong_verb_and_wrong_kind_of_body_have_numbers(http: httpx.Client) -> None:
    """What the framework refuses, and a body nobody reads, are numbered problems too."""
    assert (405, 914) == number_of(http.delete("/v1/orders"))
    text = {"content-type": "text/plain"}
    answer = http.post("/v1/transactions?chain=trade", content=b"x", headers=text)
    assert (415, 911) == number_of(answer)


def test_unknown_filter_names_the_allowed(http: httpx.Client) -> None:
    """The problem says which filters there are."""
    detail = http.get("/v1/orders?colour=red").json()["detail"]
    assert all(name in detail for name in ("buyer", "seller", "status"))


def test_logs_are_served_as_tiles(node: Node, http: httpx.Client) -> None:
    """Checkpoint and key are text, tiles bytes; only what never changes may be cached for ever."""
    note = http.get("/log/trade/checkpoint")
    assert ("text/plain; charset=utf-8", node.checkpoint("trade")) == (
        note.headers["content-type"],
        note.content,
    )
    assert node.vkey("trade") == http.get("/log/trade/vkey").text.strip()
    size = int(note.text.split("\n")[1])
    tile = http.get(f"/log/trade/tile/0/000.p/{size}")
    assert (32 * size, "no-store") == (len(tile.content), tile.headers["cache-control"])


# Submitting.


def test_one_envelope_gets_its_receipt_and_again_the_same(node: Node, http: httpx.Client) -> None:
    """The same bytes twice have one effect and one receipt, which leads to the signed header."""
    envelope = write_envelope(node, make_transfer("once"))
    first, second = submit(http, envelope), submit(http, envelope)
    assert (200, 200) == (first.status_code, second.status_code)
    place = ("digest", "height", "leaf", "receipt")
    assert [first.json()[name] for name in place] == [second.json()[name] for name in place]
    assert decode_header(bytes.fromhex(first.json()["header"])).log_size > first.json()["leaf"]
    assert "transferred" == first.json()["events"][0]["type"]


def test_a_rules_no_is_a_receipt(node: Node, http: httpx.Client) -> None:
    """A transaction that a rule refuses is in the log: 200, with the error's number."""
    answer = submit(http, write_envelope(node, make_transfer("too much", 10**12)))
    assert (200, 3007) == (answer.status_code, answer.json()["error"]["number"])


def write_refused(node: Node) -> dict[str, tuple[bytes, tuple[int, int]]]:
    """Envelopes that leave nothing, with status and number."""
    message = make_transfer("never")
    good = write_envelope(node, message)
    foreign = write_envelope(node, message, network=b"\x01" + b"x" * 32)
    return {
        "no envelope": (b"rubbish", (400, 1)),
        "empty": (b"", (400, 1)),
        "one byte more": (good + b"\0", (400, 1)),
        "too large": (bytes(70_000), (413, 2)),
        "another network": (foreign, (400, 3)),
        "signed by somebody else": (write_envelope(node, message, signed_by="bob"), (403, 7)),
        "out of order": (write_envelope(node, message, sequence=10**6), (409, 8)),
        "expired": (write_envelope(node, message, validity_ms=-3_600_000), (410, 9)),
        "too far ahead": (write_envelope(node, message, validity_ms=10**10), (400, 11)),
    }


def test_what_leaves_nothing_is_a_problem(node: Node, http: httpx.Client) -> None:
    """Each way of being refused has its status and number, and moves no log."""
    size = node.ledger.chains["trade"].log.size
    cases = write_refused(node)
    found = {name: number_of(submit(http, envelope)) for name, (envelope, _) in cases.items()}
    assert {name: expected for name, (_, expected) in cases.items()} == found
    assert size == node.ledger.chains["trade"].log.size


def test_a_transaction_of_another_chain_is_worthless(node: Node, http: httpx.Client) -> None:
    """Bytes signed for one chain are refused by the others."""
    envelope = write_envelope(node, make_transfer("wrong chain"))
    assert (400, 1) == number_of(submit(http, envelope, "anchor"))  # It has no such message.
    assert (404, 913) == number_of(submit(http, envelope, "mars"))


def test_a_batch_has_a_verdict_for_each(node: Node, http: httpx.Client) -> None:
    """One bad envelope spoils no other; receipts and problems stand in the order given."""
    first = node.get_sequence("trade", account_of("bob"), 7)
    good = [
        write_envelope(node, make_transfer(f"batch {i}", credit="alice"), "bob", sequence=first + i)
        for i in range(3)
    ]
    envelopes = [good[0], b"rubbish", good[1], good[2]]
    body = {"chain": "trade", "envelopes": [envelope.hex() for envelope in envelopes]}
    items = http.post("/v1/transactions", json=body).json()["items"]
    assert [None, 1, None, None] == [item.get("problem", {}).get("number") for item in items]
    leaves = [item["leaf"] for item in items if "leaf" in item]
    assert sorted(leaves) == leaves


BAD_BATCHES = [
    ("no JSON", b"{", "application/json", (400, 901)),
    (
        "unknown field",
        b'{"chain":"trade","envelopes":["00"],"x":1}',
        "application/json",
        (400, 901),
    ),
    ("no hexadecimal", b'{"chain":"trade","envelopes":["zz"]}', "application/json", (400, 901)),
    ("nothing", b'{"chain":"trade","envelopes":[]}', "application/json", (413, 907)),
    ("no MessagePack", b"\xc1", "application/msgpack", (400, 901)),
    ("another type", b"x", "text/csv", (415, 911)),
    ("no chain", b"x", "application/octet-stream", (400, 901)),
]


@pytest.mark.parametrize(("body", "kind", "expected"), [c[1:] for c in BAD_BATCHES],
                         ids=[c[0] for c in BAD_BATCHES])  # fmt: skip
def test_bad_batches_are_problems(
    http: httpx.Client, body: bytes, kind: str, expected: tuple[int, int]
) -> None:
    """A batch that can't be read is refused whole."""
    answer = http.post("/v1/transactions", content=body, headers={"Content-Type": kind})
    assert expected == number_of(answer)


def test_two_clients_race_for_one_nonce(node: Node, http: httpx.Client) -> None:
    """Of two envelopes with one sequence one is taken, the other is told the next."""
    sequence = node.get_sequence("trade", account_of("alice"), 7)
    envelopes = [
        write_envelope(node, make_transfer(f"race {i}"), sequence=sequence) for i in range(2)
    ]
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda e=e: answers.append(submit(http, e).status_code))
        for e in envelopes
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [200, 409] == sorted(answers)


# Idempotency keys.


def test_idempotency_key_gives_the_same_answer(node: Node, http: httpx.Client) -> None:
    """Same key and request, same answer; the same key with another request is refused."""
    token = make_token(node, "submit:bank")
    fields = {
        "credit": account_of("bob").hex(), "currency": "GBP", "amount_minor": 3,
        "reference": "ab" * 16,
    }  # fmt: skip
    headers = {**token, "Idempotency-Key": "order 4711"}
    first = http.post("/v1/messages/bank/transfer", json=fields, headers=headers)
    again = http.post("/v1/messages/bank/transfer", json=fields, headers=headers)
    assert (200, first.content) == (first.status_code, again.content)
    other = http.post(
        "/v1/messages/bank/transfer", json={**fields, "amount_minor": 4}, headers=headers
    )
    assert (422, 905) == number_of(other)


def test_keys_are_forgotten_in_order_and_freed_on_failure() -> None:
    """The store is bounded, knows what is under way, and frees a key whose request failed."""
    keys = IdempotencyKeys(kept=2)
    answer = StoredAnswer(200, "application/json", b"{}")
    assert keys.begin("a", b"1") is None
    with pytest.raises(RequestInProgress):
        keys.begin("a", b"1")
    keys.finish("a", b"1", answer)
    assert answer == keys.begin("a", b"1")
    with pytest.raises(IdempotencyKeyReused):
        keys.begin("a", b"2")
    assert keys.begin("b", b"1") is None
    keys.finish("b", b"1", None)
    assert keys.begin("b", b"2") is None
    assert keys.begin("c", b"1") is None  # a is the oldest of three.
    assert keys.begin("a", b"2") is None


# Messages through the gateway.


def test_every_message_has_a_route_with_a_schema_of_its_own(node: Node, http: httpx.Client) -> None:
    """OpenAPI lists every message of every chain, with exactly its fields."""
    paths = http.get("/schema/openapi.json").json()["paths"]
    for messages in node.messages.values():
        for name, cls in messages.items():
            operation = paths[f"/v1/messages/{name.replace('.', '/')}"]["post"]
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            assert list(cls.__struct_fields__) == schema.get("required", [])
    known = {name for messages in node.messages.values() for name in messages}
    served = {path for path in paths if path.startswith("/v1/messages/")}
    assert {f"/v1/messages/{name.replace('.', '/')}" for name in known} == served


def test_every_kind_can_be_listed_and_shown(node: Node, http: httpx.Client) -> None:
    """OpenAPI has list and show of every kind of object, with its filters."""
    paths = http.get("/schema/openapi.json").json()["paths"]
    for kind in node.kinds.values():
        parameters = paths[f"/v1/{kind.plural}"]["get"]["parameters"]
        names = {parameter["name"] for parameter in parameters}
        assert {*kind.filters, "limit", "cursor", "min_height"} == names
        assert f"/v1/{kind.plural}/{{identifier}}" in paths


def test_the_gateway_signs_for_a_token(node: Node, http: httpx.Client) -> None:
    """A caller with a token sends fields; the account of the token pays."""
    fields = {
        "credit": account_of("bob").hex(), "currency": "GBP", "amount_minor": 5,
        "reference": "cd" * 16,
    }  # fmt: skip
    answer = http.post(
        "/v1/messages/bank/transfer", json=fields, headers=make_token(node, "submit")
    )
    assert (200, None) == (answer.status_code, answer.json()["error"])
    assert account_of("alice").hex() == answer.json()["events"][0]["debit"]
    digest, height = answer.json()["digest"], answer.json()["height"]
    proof = http.get(f"/v1/proofs/transaction/{digest}", params={"min_height": height})
    assert Outcome.VALID is verify_bundle(proof.content, make_trust(node.genesis)).outcome


def test_tokens_are_limited(node: Node, http: httpx.Client) -> None:
    """No token, a wrong one, one for other things, one revoked or expired: each is told so."""
    path, body = "/v1/messages/bank/transfer", {"x": 1}
    tokens = TokenStore(node.home)
    revoked = tokens.new(["submit"], account="alice", now_ms=0)
    expired = tokens.new(["submit"], account="alice", now_ms=0, expires_ms=1)
    tokens.revoke(revoked.token.id)
    headers: dict[str, dict[str, str]] = {
        "none": {},
        "unknown": {"Authorization": "Bearer hansa_nobody"},
        "another scheme": {"Authorization": "Basic YTpi"},
        "revoked": {"Authorization": f"Bearer {revoked.secret}"},
        "expired": {"Authorization": f"Bearer {expired.secret}"},
        "another module": make_token(node, "submit:orders"),
        "reading only": make_token(node, "read"),
        "good, but no such field": make_token(node, "submit:bank"),
    }
    found = {name: number_of(http.post(path, json=body, headers=h)) for name, h in headers.items()}
    expected = dict.fromkeys(
        ("none", "unknown", "another scheme", "revoked", "expired"), (401, 902)
    )
    expected |= {"another module": (403, 903), "reading only": (403, 903)}
    assert expected | {"good, but no such field": (400, 1)} == found


def test_tokens_are_kept_as_hashes(tmp_path: Path) -> None:
    """The file is the owner's alone and doesn't hold the secret; scopes are checked."""
    tokens = TokenStore(tmp_path)
    issued = tokens.new(["read", "submit:orders"], account="alice", now_ms=5)
    assert issued.secret.encode() not in tokens.path.read_bytes()
    assert 0o600 == tokens.path.stat().st_mode & 0o777
    assert issued.token == TokenStore(tmp_path).find(issued.secret, 5)
    with pytest.raises(OperatorError, match="scope: expected read, submit"):
        tokens.new(["admin"], account="alice", now_ms=5)
    with pytest.raises(OperatorError, match="token: expected the id"):
        tokens.revoke("nobody")


# Networks that are no sandbox.


def test_only_the_public_part_is_read_without_a_token(tmp_path: Path) -> None:
    """Outside a sandbox objects and receipts need a token; status, blocks, trust, logs do not."""
    with open_market(tmp_path, is_sandbox=False) as node, HttpServer(node) as server:
        http = httpx.Client(base_url=server.url, timeout=30)
        closed = ("/v1/orders", "/v1/search?q=a", "/v1/facts?places=trade:0:0", "/v1/feed",
                  "/v1/proofs/order/00", "/v1/transactions/00")  # fmt: skip
        assert [(401, 902)] * len(closed) == [number_of(http.get(path)) for path in closed]
        public = ("/v1/status", "/v1/blocks/0", "/v1/trust", "/v1/genesis", "/log/trade/checkpoint",
                  "/log/trade/vkey", "/v1/relay/trade/next?source=product", "/health", "/ready",
                  "/v1/chains/trade/header")  # fmt: skip
        assert [200] * len(public) == [http.get(path).status_code for path in public]
        token = make_token(node, "read")
        assert 200 == http.get("/v1/orders", headers=token).status_code
        signer = {"signer": ["alice", "bob"]}
        both = http.post("/v1/messages/bank/transfer", params=signer, json={},
                         headers=make_token(node, "submit"))  # fmt: skip
        assert (403, 904) == number_of(both)


# Limits and life.


def test_an_address_has_its_share(tmp_path: Path) -> None:
    """Beyond the burst an address is told when to come back; large bodies are not read."""
    limits = {"requests_per_s": 1, "burst": 5, "max_body_bytes": 1000}
    with open_market(tmp_path, http=limits) as node, HttpServer(node) as server:
        http = httpx.Client(base_url=server.url, timeout=30)
        assert 413 == submit(http, bytes(2000)).status_code
        answers = [http.get("/v1/status") for _ in range(8)]
        assert 200 == answers[0].status_code
        assert (429, 906) == number_of(answers[-1])
        assert int(answers[-1].headers["retry-after"]) >= 1


def test_a_bucket_fills_again() -> None:
    """One address waits while another doesn't; time gives back what was used."""
    now = [0.0]
    limiter = RateLimiter(2, 2, lambda: now[0])
    for _ in range(2):
        limiter.take("here")
    with pytest.raises(RateExceeded):
        limiter.take("here")
    limiter.take("there")
    now[0] = 0.5
    limiter.take("here")


def test_unknown_limits_are_named() -> None:
    """A mistyped limit stops the start instead of being forgotten."""
    with pytest.raises(OperatorError, match=r"http: .*burts"):
        read_limits({"burts": 1})


def test_a_full_queue_and_a_stopped_node_say_so(tmp_path: Path) -> None:
    """Beyond the queue 429 with Retry-After; once stopped 503, on /ready too."""
    make_home(tmp_path)
    config = NodeConfig(max_waiting=0)
    node = Node(tmp_path, keys=make_keys(is_sandbox=True), config=config)
    with HttpServer(node) as server:
        http = httpx.Client(base_url=server.url, timeout=30)
        assert (503, 919) == number_of(http.get("/ready"))
        envelope = write_envelope(node, make_transfer("late"))
        busy = submit(http, envelope)
        assert ((429, 918), "1") == (number_of(busy), busy.headers["retry-after"])
        node.stop()
        assert (503, 919) == number_of(submit(http, envelope))
        assert 200 == http.get("/health").status_code


def test_the_address_is_written_while_the_node_serves(tmp_path: Path) -> None:
    """HOME/node.url is there while commands can go through the node, and gone after."""
    with open_market(tmp_path) as node:
        with HttpServer(node) as server:
            assert server.url == (tmp_path / "node.url").read_text().strip()
        assert not (tmp_path / "node.url").exists()


def test_metrics_count(http: httpx.Client) -> None:
    """The metrics page has height, logs, verdicts, lag and packets."""
    lines = http.get("/metrics").text.splitlines()
    names = {line.split("{")[0].split(" ")[0] for line in lines if not line.startswith("#")}
    expected = {
        "hansa_ready", "hansa_height", "hansa_log_entries", "hansa_transactions_total",
        "hansa_queue_transactions", "hansa_read_model_lag_blocks", "hansa_blocks_total",
        "hansa_recent_sync_seconds_sum", "hansa_recent_sync_seconds_count",
    }  # fmt: skip
    assert expected <= names


# The feed.


def read_events(response: httpx.Response, wanted: int) -> list[dict[str, Any]]:
    """The next events of a feed, with their ids."""
    events: list[dict[str, Any]] = []
    current: dict[str, Any] = {}
    for line in response.iter_lines():
        name, _, value = line.partition(": ")
        if name in ("event", "id"):
            current[name] = value
        elif name == "data":
            current["data"] = json.loads(value)
        elif line == "" and "data" in current:
            events.append(current)
            current = {}
            if len(events) == wanted:
                break
    return events


def test_the_feed_goes_on_from_the_last_event(node: Node, http: httpx.Client) -> None:
    """Who resumes at a height hears every later block, each under its own id."""
    submit(http, write_envelope(node, make_transfer("for the feed")))
    assert node.wait_projected(node.ledger.height)
    height = node.ledger.height
    with http.stream("GET", "/v1/feed", headers={"Last-Event-ID": str(height - 2)}) as response:
        events = [e for e in read_events(response, 2) if e["event"] == "block"]
    assert [str(height - 1), str(height)] == [event["id"] for event in events]
    assert [height - 1, height] == [event["data"]["height"] for event in events]


def test_the_feed_tells_of_changes(node: Node, http: httpx.Client) -> None:
    """The genesis is told as changes of the organisations it made."""
    with http.stream("GET", "/v1/feed", headers={"Last-Event-ID": "abc"}) as response:
        assert 400 == response.status_code
    feed = HttpServer(node)
    messages = feed.door.feed.tell(0, 0)
    feed.close()
    changes = [json.loads(str(m.data)) for m in messages if m.event == "change"]
    organisations = {c["id"] for c in changes if c["kind"] == "organisation"}
    listed = http.get("/v1/organisations").json()["items"]
    assert {item["id"] for item in listed} == organisations
