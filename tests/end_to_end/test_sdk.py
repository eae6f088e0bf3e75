"""The SDK against a real node, over HTTP and without: what it sends, believes and refuses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.end_to_end.node_world import (
    SANDBOX_KEYS,
    account_of,
    make_transfer,
    open_market,
    write_envelope,
)

from hansa.core.errors import OperatorError
from hansa.core.finality import TrustedNetwork
from hansa.core.keys import ED25519
from hansa.core.proof import Trust
from hansa.interface.client import (
    AsyncClient,
    AsyncHttpTransport,
    Client,
    HttpTransport,
    LocalTransport,
    Outcome,
    Problem,
    RuleRefused,
    SeenCheckpoints,
    Transport,
    Unbelievable,
    Unreachable,
    read_trust,
)
from hansa.interface.client.believing import Seen
from hansa.interface.client.outcomes import Included, Submitted
from hansa.interface.client.transports import Ask, SubmitBatch
from hansa.interface.http.app import HttpServer
from hansa.node.home import make_readable_trust, make_trust
from hansa.node.node import Node
from hansa.service.catalogue.model import ProductRegistered, Register


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A sandbox with a little market."""
    with open_market(tmp_path_factory.mktemp("home")) as opened:
        yield opened


@pytest.fixture(scope="module")
def url(node: Node) -> Iterator[str]:
    """Its address."""
    with HttpServer(node) as server:
        yield server.url


@pytest.fixture(params=["http", "local"])
def client(request: pytest.FixtureRequest, node: Node, url: str) -> Iterator[Client]:
    """A client over each transport, with a lane of its own."""
    transport: Transport = HttpTransport(url) if request.param == "http" else LocalTransport(node)
    lane = 20 if request.param == "http" else 21
    with Client(transport, SANDBOX_KEYS, make_trust(node.genesis), lanes=[lane]) as opened:
        yield opened


def test_what_is_sent_is_believed_and_listed(client: Client, request: Any) -> None:
    """A receipt is proven, its events are typed, its object has the id known beforehand."""
    reference = f"kettle {request.node.callspec.id}"
    message = Register(
        reference=reference, gtin="", name="Kettle", description="A kettle", hs_code="851610",
        origin="GB", unit="C62",
    )  # fmt: skip
    outcome = client.send("product", [message], ["alice"])
    assert outcome.is_verified
    product = next(e.product for e in outcome.events if isinstance(e, ProductRegistered))
    assert outcome.object_id() == product.id
    shown = client.show("products", product.id.hex())
    assert (True, reference) == (shown["verified"], shown["reference"])
    assert product.id.hex() in {item["id"] for item in client.list("products")["items"]}
    found = client.search("Kettle")["items"]
    assert all(item["verified"] for item in found)
    assert len(client.proof("product", product.id.hex())) > 0


def test_balances_are_compared_with_their_proofs(client: Client) -> None:
    """What an account has is what its newest proven transfer says."""
    before = client.balance(account_of("alice"))["items"][0]["posted_minor"]
    client.send("trade", [make_transfer(f"balance {id(client)}", 7)], ["alice"])
    after = client.balance(account_of("alice"))["items"]
    assert [(True, before - 7)] == [(item["verified"], item["posted_minor"]) for item in after]


def test_a_rules_no_is_raised_with_its_proof(client: Client) -> None:
    """A refusal by a rule carries number, text and a verified receipt; the lane goes on."""
    with pytest.raises(RuleRefused) as caught:
        client.send("trade", [make_transfer(f"too much {id(client)}", 10**12)], ["alice"])
    assert (3007, True) == (caught.value.number, caught.value.outcome.is_verified)
    assert client.send("trade", [make_transfer(f"after {id(client)}")], ["alice"]).is_verified


def test_transactions_are_listed_with_their_proofs(client: Client) -> None:
    """Who asked, what for and what came of it is that of the entry, taken or refused."""
    taken = client.send("trade", [make_transfer(f"listed {id(client)}")], ["alice"])
    with pytest.raises(RuleRefused) as caught:
        client.send("trade", [make_transfer(f"listed no {id(client)}", 10**12)], ["alice"])
    refused = caught.value.outcome
    mine = {"signer": account_of("alice").hex(), "chain": "trade"}
    listed = {item["id"]: item for item in client.list("transactions", mine)["items"]}
    assert {True} == {item["verified"] for item in listed.values()}
    assert [0, 3007] == [listed[o.digest.hex()]["error"] for o in (taken, refused)]
    shown = client.show("transactions", taken.digest.hex())
    assert (True, "bank.transfer") == (shown["verified"], shown["messages"])
    assert ["transferred"] == [event["type"] for event in shown["events"]]
    only = client.list("transactions", {"error": "3007"}, limit=200)["items"]
    assert refused.digest.hex() in {item["id"] for item in only}
    assert {3007} == {item["error"] for item in only}
    assert client.search(taken.digest.hex())["items"][0]["verified"]
    assert client.search(account_of("alice").hex())["items"]


def test_the_sequence_is_learned_anew(client: Client, node: Node) -> None:
    """Somebody else signing on the same lane costs a round, not the transaction."""
    client.send("trade", [make_transfer(f"mine {id(client)}")], ["alice"])
    lane = client._lanes._lanes[0]
    other = write_envelope(node, make_transfer(f"other {id(client)}"), lane=lane)
    node.submit("trade", other).result()
    assert client.send("trade", [make_transfer(f"next {id(client)}")], ["alice"]).is_verified


@pytest.mark.parametrize("verify", ["each", "sample", "none"])
def test_many_are_submitted_in_order(client: Client, node: Node, verify: Any) -> None:
    """Each envelope has its outcome; so many are verified as was asked."""
    first = node.get_sequence("trade", account_of("bob"), 9)
    name = f"{verify} {id(client)}"
    envelopes = [
        client.prepare(
            "trade", [make_transfer(f"{name} {i}", credit="alice")], ["bob"],
            sequence=first + i, lane=9,
        )
        for i in range(130)
    ]  # fmt: skip
    outcomes = client.submit_many("trade", [*envelopes, b"rubbish"], verify=verify)
    receipts = [outcome for outcome in outcomes if isinstance(outcome, Outcome)]
    assert sorted(o.leaf for o in receipts) == [o.leaf for o in receipts]
    assert (130, 1) == (len(receipts), getattr(outcomes[-1], "number", None))
    verified = sum(outcome.is_verified for outcome in receipts)
    assert {"each": verified == 130, "sample": 1 <= verified <= 3, "none": verified == 0}[verify]
    # Who lost the answers asks again and gets the same, not "wrong nonce".
    again = client.submit_many("trade", envelopes[:2], verify="each")
    assert [o.leaf for o in receipts[:2]] == [getattr(o, "leaf", None) for o in again]


def test_problems_are_the_same_over_both(client: Client) -> None:
    """What a node refuses is the same problem over HTTP and without it."""
    for act, expected in (
        (lambda: client.list("dragons"), (404, 913)),
        (lambda: client.list("orders", {"colour": "red"}), (400, 901)),
        (lambda: client.show("orders", "00"), (404, 913)),
        (lambda: client.send("mars", [make_transfer("mars")], ["alice"]), (404, 913)),
    ):
        with pytest.raises(Problem) as caught:
            act()
        assert expected == (caught.value.status, caught.value.number)


def test_signers_need_names(client: Client) -> None:
    """A transaction that nobody signs is refused before it is built."""
    with pytest.raises(OperatorError, match="signers: expected at least one"):
        client.send("trade", [make_transfer("nobody")], [])


def test_the_async_client_does_the_same(node: Node, url: str) -> None:
    """Several transactions under way at once, each on a lane of its own."""

    async def trade() -> list[Outcome]:
        transport = AsyncHttpTransport(url)
        trust = make_trust(node.genesis)
        async with AsyncClient(transport, SANDBOX_KEYS, trust, lanes=[30, 31, 32]) as client:
            sends = [
                client.send("trade", [make_transfer(f"async {i}")], ["alice"]) for i in range(9)
            ]
            outcomes = await asyncio.gather(*sends)
            shown = await client.balance(account_of("alice"))
            assert shown["items"][0]["verified"]
            assert await client.checkpoint("trade")
            return list(outcomes)

    outcomes = asyncio.run(trade())
    assert all(outcome.is_verified for outcome in outcomes)
    assert 9 == len({outcome.leaf for outcome in outcomes})


# What a client must not believe.


class LyingTransport:
    """The way to an honest node, whose answers are changed on the way."""

    def __init__(self, node: Node, lie: Callable[[str, Any], Any]) -> None:
        self._honest = LocalTransport(node)
        self._lie = lie

    def ask(self, ask: Ask) -> Any:
        """An answer, changed."""
        return self._lie(ask.what, self._honest.ask(ask))

    def submit(self, batch: SubmitBatch) -> Submitted:
        """Receipts, changed."""
        answer: Submitted = self._lie("submit", self._honest.submit(batch))
        return answer

    def close(self) -> None:
        """Nothing to let go of."""


def change_item(answer: Submitted, **changes: Any) -> Submitted:
    """The first receipt of a batch with other fields."""
    item = answer.items[0]
    assert isinstance(item, Included)
    fields = {name: getattr(item, name) for name in Included.__slots__}
    return Submitted(answer.header, answer.finality, [Included(**{**fields, **changes})])


def change_receipt(answer: Submitted, **changes: Any) -> Submitted:
    """The first receipt of a batch, itself changed."""
    item = answer.items[0]
    assert isinstance(item, Included)
    return change_item(answer, receipt=msgspec.structs.replace(item.receipt, **changes))  # type: ignore[type-var]


SUBMIT_LIES: list[tuple[str, Callable[[Submitted], Submitted]]] = [
    ("no path", lambda a: change_item(a, path=None)),
    ("path cut short", lambda a: change_item(a, path=list(a.items[0].path or ())[:-1])),  # type: ignore[union-attr]
    ("another place", lambda a: change_item(a, leaf=0)),
    ("another height", lambda a: change_item(a, height=0)),
    ("another envelope", lambda a: change_item(a, digest=b"\x01" + bytes(32))),
    ("other events", lambda a: change_receipt(a, events=(b"\xc0",))),
    ("no error where there was none is fine, another source is not",
     lambda a: change_receipt(a, source=b"\x01" + bytes(32))),
    ("header cut", lambda a: Submitted(a.header[:-1], a.finality, a.items)),
    ("finality of nobody", lambda a: Submitted(a.header, a.finality[:-9] + b"AAAAAAA=\n", a.items)),
]  # fmt: skip


@pytest.mark.parametrize("lie", [c[1] for c in SUBMIT_LIES], ids=[c[0] for c in SUBMIT_LIES])
def test_a_lie_about_a_receipt_is_found_out(node: Node, lie: Callable[[Any], Any]) -> None:
    """A receipt is believed only as it stands in the signed log."""
    transport = LyingTransport(node, lambda what, a: lie(a) if what == "submit" else a)
    client = Client(transport, SANDBOX_KEYS, make_trust(node.genesis), lanes=[40])
    with pytest.raises(Unbelievable):
        client.send("trade", [make_transfer(f"lied about {id(lie)}")], ["alice"])


def test_a_lie_about_an_object_is_found_out(node: Node) -> None:
    """A balance or name that the proven event doesn't show is never passed on as verified."""

    def lie(what: str, answer: Any) -> Any:
        if what == "page":
            for item in answer["items"]:
                item.update(
                    {k: v for k, v in {"name": "Evil", "posted_minor": 1}.items() if k in item}
                )
        return answer

    client = Client(LyingTransport(node, lie), SANDBOX_KEYS, make_trust(node.genesis))
    with pytest.raises(Unbelievable, match="expected what its proven event says"):
        client.list("organisations")
    assert [False] == [item["verified"] for item in client.balance(account_of("alice"))["items"]]


TRANSACTION_LIES: list[tuple[str, Any]] = [
    ("id", "01" + "ab" * 32),
    ("signer", "ab" * 20),
    ("messages", "bank.issue"),
    ("position", 99),
    ("error", 3007),
    ("error_text", "never"),
    ("place", None),
]


@pytest.mark.parametrize(("name", "value"), TRANSACTION_LIES, ids=[c[0] for c in TRANSACTION_LIES])
def test_a_lie_about_a_transaction_is_found_out(node: Node, name: str, value: Any) -> None:
    """A row about a transaction is believed only as entry, receipt and envelope have it."""
    honest = Client(LocalTransport(node), SANDBOX_KEYS, make_trust(node.genesis), lanes=[43])
    honest.send("trade", [make_transfer(f"a lie about {name}")], ["alice"])

    def lie(what: str, answer: Any) -> Any:
        if what in ("page", "search"):
            first, other = answer["items"][:2]
            stolen = {part: other[part] for part in ("height", "leaf")}
            first.update(stolen if name == "place" else {name: value})
        return answer

    client = Client(LyingTransport(node, lie), SANDBOX_KEYS, make_trust(node.genesis))
    with pytest.raises(Unbelievable):
        client.list("transactions", {"chain": "trade"})
    with pytest.raises(Unbelievable):
        client.search("bank.transfer")


def test_a_balance_of_somebody_else_is_no_proof(node: Node) -> None:
    """An honest proof of another's balance doesn't make a row about this account verified."""
    other = LocalTransport(node).ask(
        Ask("page", {"plural": "balances", "filters": {"account": account_of("bob").hex()}})
    )["items"][0]
    stranger = account_of("carol").hex()
    stolen = {**other, "id": f"{stranger}:GBP", "account": stranger}
    lie = {"items": [stolen], "next": None}
    transport = LyingTransport(node, lambda what, a: lie if what == "page" else a)
    client = Client(transport, SANDBOX_KEYS, make_trust(node.genesis))
    assert [False] == [item["verified"] for item in client.balance(account_of("carol"))["items"]]


def test_a_damaged_proof_is_not_handed_on(node: Node) -> None:
    """A proof file is judged before the user gets it."""
    transport = LyingTransport(node, lambda what, a: a[:-1] if what == "proof" else a)
    client = Client(transport, SANDBOX_KEYS, make_trust(node.genesis))
    digest = client.send("trade", [make_transfer("damaged")], ["alice"], lane=41).digest
    with pytest.raises(Unbelievable, match="proof: invalid"):
        client.proof("transaction", digest.hex())


def test_another_network_or_validator_is_refused(node: Node) -> None:
    """Trust is pinned: a node of another network, or signed by other keys, is not believed."""
    other_network = Trust((TrustedNetwork(b"\x01" + bytes(32), node.genesis.validators, None),))
    other_keys = Trust((TrustedNetwork(node.network, (bytes([ED25519]) + b"\x09" * 32,), None),))
    for trust in (other_network, other_keys):
        client = Client(LocalTransport(node), SANDBOX_KEYS, trust, lanes=[42])
        with pytest.raises(Unbelievable):
            client.send("trade", [make_transfer(f"untrusted {id(trust)}")], ["alice"])


def test_another_past_is_found_out(node: Node, tmp_path: Path) -> None:
    """A checkpoint that doesn't follow from the one remembered in the file is refused."""
    path = tmp_path / "seen.json"
    client = Client(LocalTransport(node), SANDBOX_KEYS, make_trust(node.genesis),
                    seen=SeenCheckpoints(path))  # fmt: skip
    client.checkpoint("trade")
    remembered = SeenCheckpoints(path).get(node.network, "trade")
    assert remembered is not None
    forged = SeenCheckpoints()
    forged.put(node.network, "trade", Seen(remembered.size - 1, b"\x05" * 32))
    client = Client(LocalTransport(node), SANDBOX_KEYS, make_trust(node.genesis), seen=forged)
    with pytest.raises(Unbelievable, match="trade"):
        client.checkpoint("trade")
    forged_now = SeenCheckpoints()
    forged_now.put(node.network, "trade", Seen(remembered.size, b"\x05" * 32))
    client = Client(LocalTransport(node), SANDBOX_KEYS, make_trust(node.genesis), seen=forged_now)
    with pytest.raises(Unbelievable, match="trade"):
        client.checkpoint("trade")


def test_a_damaged_memory_is_named(tmp_path: Path) -> None:
    """A file of checkpoints that can't be read stops the client instead of being forgotten."""
    path = tmp_path / "seen.json"
    path.write_text("{")
    with pytest.raises(OperatorError, match=r"seen\.json"):
        SeenCheckpoints(path)


def test_trust_files_are_read(node: Node) -> None:
    """The readable trust file gives the same trust; a damaged one is named."""
    data = json.dumps(make_readable_trust(node.genesis)).encode()
    assert make_trust(node.genesis) == read_trust(data)
    for damaged in (b"{", b"[]", b'{"networks":[{"network":"00","validators":[]}]}'):
        with pytest.raises(OperatorError, match="trust file"):
            read_trust(damaged)


def test_no_node_is_unreachable() -> None:
    """Where nobody answers the client says so by address."""
    client = Client(HttpTransport("http://127.0.0.1:9", timeout_s=2), SANDBOX_KEYS)
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:9"):
        client.account("alice")
