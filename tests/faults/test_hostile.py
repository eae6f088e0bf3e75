"""Validators of other chains, members and founders who try to stop a node, or to split replicas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from msgspec.structs import replace
from tests.ledger_harness import (
    BUYER,
    FORWARDER,
    ISSUER,
    PLATFORM,
    SELLER,
    Harness,
    RecordingLink,
    expect,
    make_account,
    make_digest,
    make_members_params,
)
from tests.toy_chain import Add, Toy
from tests.trade_world import Market

from hansa.core import apply
from hansa.core.block import (
    Entry,
    Header,
    compute_app_hash,
    compute_event_hash,
    decode_header,
)
from hansa.core.codec import encode, make_decoder
from hansa.core.errors import BlockFull, Malformed, Rejected
from hansa.core.finality import CheckpointSigner, FinalHeader, TrustedNetwork
from hansa.core.genesis import decode_genesis
from hansa.core.hashing import ZERO_DIGEST
from hansa.core.merkle import EMPTY_ROOT, leaf_hash
from hansa.core.packet import REFUSED
from hansa.core.proof import (
    Bundle,
    DisclosureFact,
    EventFact,
    Leaf,
    Outcome,
    Trust,
    pack_bundle,
    verify_bundle,
)
from hansa.core.readmodel import HISTORY, MAX_HISTORY, METADATA, Batch, ReadModel
from hansa.network.intake import Inclusion
from hansa.network.solo import SoloEngine
from hansa.service.anchoring.model import AnchoringParams
from hansa.service.catalogue.model import CatalogueParams
from hansa.service.link.model import LinkParams
from hansa.service.members import rules as members_rules
from hansa.service.members.model import (
    MAX_REFUSALS,
    AccountTaken,
    Admit,
    Customer,
    Grant,
    NewCustomer,
    News,
    NewsUndelivered,
    Propose,
    RegisterCustomers,
    Republish,
    Vote,
    compute_founder_id,
)
from hansa.service.members.model import MODULE as MEMBERS
from hansa.service.members.views import VIEWS as MEMBERS_VIEWS
from hansa.service.orders.model import MODULE as ORDERS
from hansa.service.orders.model import OrdersParams, ShipmentDelivered
from hansa.service.shipments import rules as shipments_rules
from hansa.service.shipments.model import MODULE as SHIPMENTS
from hansa.service.shipments.model import ShipmentsParams
from hansa.service.shipments.views import VIEWS as SHIPMENTS_VIEWS
from hansa.storage.sql import bulk_insert, bulk_upsert

FOR_EVER_MS = (1 << 63) - 1
NETWORK = b"\x01" * 33


def project_history(harness: Harness) -> list[str]:
    """Write all that happened into an empty history; returns what the last fact is noted for."""
    engine = sa.create_engine("sqlite://")
    METADATA.create_all(engine)
    batch = Batch()
    for fact in harness.facts:
        for module in harness.modules.values():
            if module.views is not None and type(fact.event) in module.views.projections:
                module.views.projections[type(fact.event)](batch, fact)
    with engine.begin() as connection:
        bulk_upsert(connection, HISTORY, list(batch.upserts.get(HISTORY, {}).values()))
        bulk_insert(connection, HISTORY, batch.inserts.get(HISTORY, []))
        last = harness.facts[-1]
        query = sa.select(HISTORY.c.subject).where(
            HISTORY.c.leaf == last.leaf, HISTORY.c.event_index == last.event_index
        )
        return list(connection.execute(query).scalars())


def make_members(chain: str, link: RecordingLink) -> Harness:
    """Return the members' module alone, on one chain."""
    rules = members_rules.MembersRules(link)
    module = members_rules.make_module(rules, MEMBERS_VIEWS)
    return Harness(chain, (module,), {"members": make_members_params()})


# The read model must take whatever the rules let through: one row it can't write stops it for good.


@pytest.mark.parametrize("status", ["funded", "released"])
def test_a_shipment_that_bears_its_orders_id(status: Any) -> None:
    """Logistics may call a shipment as it likes; the order then stands in the history once."""
    market = Market()
    order = market.bring_to(status)
    report = ShipmentDelivered(order.id, order.id, 1)
    market.harness.deliver("logistics", ORDERS, encode(report))
    assert [order.id.hex()] == project_history(market.harness)


def test_news_of_one_customer_twice() -> None:
    """A registry that names a customer twice in one packet, each time newer, is taken once."""
    trade = make_members("trade", RecordingLink())
    account = make_account("twice")
    twice = tuple(
        Customer(account, compute_founder_id(SELLER), "GB", make_digest("file"), revision)
        for revision in (0, 1)
    )
    trade.deliver("anchor", MEMBERS, encode(News((), twice)))
    assert [account.hex()] == project_history(trade)


def test_republishing_one_account_twice() -> None:
    """A member who has an account told twice, to a peer that refuses, leaves one row of it."""
    link = RecordingLink("trade", "product", "logistics")
    registry = make_members("anchor", link)
    registry.submit(Republish("trade", (), (BUYER, BUYER)), by=SELLER)
    events: list[Any] = []
    for _ in range(MAX_REFUSALS):
        sequence = link.take()[-1].sequence
        events = registry.acknowledge("trade", MEMBERS, sequence, REFUSED, 2006)
    assert [NewsUndelivered] == [type(event) for event in events]
    assert (BUYER, BUYER) == events[0].accounts
    assert [BUYER.hex()] == project_history(registry)


# A time and a period must add up to a time: a record past its bounds can't be read back.


@pytest.mark.parametrize(
    "params",
    [
        OrdersParams("product", "logistics", FOR_EVER_MS),
        CatalogueParams(("trade",), FOR_EVER_MS),
        LinkParams((), FOR_EVER_MS, 1, 1, "open", "recover"),
        LinkParams((), 1, FOR_EVER_MS, 1, "open", "recover"),
        LinkParams((), 1, 1, FOR_EVER_MS, "open", "recover"),
        AnchoringParams(True, 1, FOR_EVER_MS, 1, "reset"),
        AnchoringParams(True, 1, 1, FOR_EVER_MS, "reset"),
    ],
    ids=str,
)
def test_no_period_lasts_for_ever(params: Any) -> None:
    """A founder who means never by the largest number is told before the first block."""
    with pytest.raises(Malformed):
        make_decoder(type(params), "params")(encode(params))


@pytest.mark.parametrize(
    "change",
    [{"time_ms": FOR_EVER_MS}, {"max_block_transactions": 0}, {"state_root_interval": 0}],
    ids=str,
)
def test_no_genesis_that_can_make_no_block(tmp_path: Path, change: dict[str, int]) -> None:
    """A genesis under which every block would fail, or none be made, is none."""
    toy = Toy(tmp_path)
    genesis = toy.ledger.genesis
    toy.close()
    fields = {name: getattr(genesis, name) for name in genesis.__struct_fields__}
    assert genesis == decode_genesis(encode(genesis))
    with pytest.raises(Malformed):
        decode_genesis(encode(type(genesis)(**{**fields, **change})))


# What ends on a receipt must be the same in every replica, whatever versions it is built of.


def test_no_words_of_the_codec_end_on_a_receipt() -> None:
    """What is said of a malformed packet is its length alone."""
    trade = Market().harness
    logistics = shipments_rules.ShipmentsRules(None, None)  # type: ignore[arg-type]
    params = ShipmentsParams("trade", 1, 1)
    shipments = Harness(
        "logistics",
        (shipments_rules.make_module(logistics, SHIPMENTS_VIEWS),),
        {"shipments": params},
    )
    members = make_members("trade", RecordingLink())
    cases = (
        (trade, "product", ORDERS),
        (shipments, "trade", SHIPMENTS),
        (members, "anchor", MEMBERS),
    )
    for harness, source, module in cases:
        with pytest.raises(Rejected, match=r"got 3 other bytes$"):
            harness.deliver(source, module, b"\x92\x01\xa1")


# A block has an end, however much its messages make of themselves.


def test_a_full_block_leaves_the_rest_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has no room is neither refused nor out of turn: the engine goes on with it at once."""
    monkeypatch.setattr(apply, "MAX_BLOCK_BYTES", 1_000)
    toy = Toy(tmp_path)
    envelopes = [toy.sign(Add("a", 1), sequence=sequence) for sequence in range(10)]
    refusals = toy.apply(*envelopes).chains["one"].refusals
    assert {BlockFull} == {type(refusal) for _, refusal in refusals}
    left = envelopes[-len(refusals) :]
    engine = SoloEngine(toy.ledger, clock=lambda: toy.ledger.time_ms)
    answer = engine.submit_batch("one", left)
    before = toy.ledger.height
    engine.step()
    settled = answer.result(timeout=10)
    heights = [item.height for item in settled if isinstance(item, Inclusion)]
    assert len(left) == len(heights)
    assert sorted(heights) == heights
    assert toy.ledger.height == heights[-1]
    assert toy.ledger.height - before > 1
    toy.close()


# A verifier answers, whatever it is given.


def test_an_event_nested_deeply_is_judged() -> None:
    """A chain that signs an event of lists within lists can't make the verifier fall over."""
    signer = CheckpointSigner(b"\x07" * 32)
    event, salt = b"\x91" * 900 + b"\xc0", bytes(16)
    entry = encode(Entry(1, 1, 0, 1, ZERO_DIGEST, ZERO_DIGEST, 1, compute_event_hash(salt, event)))
    header = Header(
        version=1,
        network=NETWORK,
        chain="trade",
        height=1,
        time_ms=1,
        log_size=1,
        log_root=leaf_hash(entry),
        outbox_size=0,
        outbox_root=EMPTY_ROOT,
        previous=ZERO_DIGEST,
        writes=ZERO_DIGEST,
        state_height=0,
        state_root=bytes(32),
    )
    assert header == decode_header(encode(header))
    final = FinalHeader(encode(header), signer.sign(header, compute_app_hash(header)))
    fact = EventFact(Leaf("trade", 0, entry, ()), event, salt, 0, ())
    trust = Trust((TrustedNetwork(NETWORK, (signer.public,), None),))
    outcomes = [
        verify_bundle(pack_bundle(Bundle(1, NETWORK, (final,), (claim,))), trust).outcome
        for claim in (fact, DisclosureFact(fact, salt, b"content"))
    ]
    assert [Outcome.VALID, Outcome.INVALID] == outcomes


# What most members decide, no single one undoes.


@pytest.mark.parametrize("way", ["as a customer's", "as its own"])
def test_one_member_cannot_void_an_admission(way: str) -> None:
    """The account of a newcomer's owner is nobody else's while the members vote on him."""
    registry = make_members("anchor", RecordingLink("trade", "product", "logistics"))
    owner = make_account("newcomer")
    entry = NewCustomer(owner, "GB", make_digest("file"))
    taking = RegisterCustomers((entry,)) if way == "as a customer's" else Grant(owner, ())
    admit = Admit("Newcomer", "GB", ("buyer",), "", owner)
    proposal = registry.submit(Propose(admit), by=SELLER)[0].proposal
    expect(AccountTaken, registry, registry.submit, taking, by=FORWARDER)
    for voter in (BUYER, ISSUER, PLATFORM):
        registry.submit(Vote(proposal.id, True), by=voter)
    expect(AccountTaken, registry, registry.submit, taking, by=FORWARDER)
    other = registry.submit(Propose(replace(admit, owner=make_account("other"))), by=SELLER)
    registry.advance_to(other[0].proposal.until_ms + 1)
    statuses = [row.status for row in registry.rows(members_rules.PROPOSALS).values()]
    assert ["failed", "passed"] == sorted(statuses)
    entry = NewCustomer(make_account("other"), "GB", make_digest("file"))
    assert registry.submit(RegisterCustomers((entry,)), by=FORWARDER)


def test_a_long_history_is_told_from_its_end() -> None:
    """An account that made a fact again and again can't have a node prove them all at once."""
    model = ReadModel(sa.create_engine("sqlite://", poolclass=sa.StaticPool), {}, {})
    rows = [
        {
            "subject": "aa",
            "chain": "trade",
            "leaf": leaf,
            "event_index": 0,
            "height": leaf,
            "time_ms": 1,
            "name": "bank.already_done",
            "transaction": None,
        }
        for leaf in range(MAX_HISTORY + 2)
    ]
    with model.engine.begin() as connection:
        bulk_insert(connection, HISTORY, rows)
    assert rows[2:] == model.get_history("aa")
