"""Packets between real chains: each at most once, in order, and never on a proof that fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from tests.chain_world import (
    COURIER,
    DAY_MS,
    DRIFT_MS,
    SEED,
    TRUSTING_MS,
    Letter,
    PostRaw,
    World,
    make_receive_of,
)

from hansa.core.block import Header, compute_app_hash
from hansa.core.codec import encode
from hansa.core.evidence import TwoCheckpoints, TwoHeaders
from hansa.core.finality import CheckpointSigner, TrustedNetwork
from hansa.core.packet import (
    DONE,
    EXPIRED,
    REFUSED,
    Acknowledgement,
    Outgoing,
    Packet,
    Page,
    compute_outbox_root,
    make_pages,
)
from hansa.core.readmodel import METADATA, Batch, Fact, event_name
from hansa.service.link import model
from hansa.service.link.model import (
    ERRORS,
    EVENTS,
    AcknowledgementUnheard,
    Beaten,
    Client,
    ForkRecorded,
    OpenClient,
    PacketRefused,
    Receive,
    RecoverClient,
    Sent,
    SubmitEvidence,
    UpdateClient,
    compute_subject,
)
from hansa.service.link.rules import CLIENTS, PENDING
from hansa.service.link.views import PACKETS, VIEWS
from hansa.storage.sql import bulk_upsert

RESOLUTION = b"r" * 16


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Three chains of one network."""
    world = World(tmp_path)
    yield world
    world.close()


def post(world: World, *texts: str) -> Receive:
    """Send letters from product to trade in one block; returns what a relay makes of it."""
    world.run("product", world.letter(*texts))
    return world.receives("product", "trade")[-1]


def client_of(world: World, chain: str, peer: str) -> Client:
    """The client a chain has of a peer."""
    client = CLIENTS.get(world.ledger.chains[chain], peer.encode())
    assert client is not None
    return client


def forge(
    world: World, items: list[bytes], *, first: int = 0, seed: bytes = SEED, **changes: Any
) -> Receive:
    """What product's validator could sign if it lied: a block that sends these items."""
    signer = CheckpointSigner(seed)
    part = world.parts("product")[-1]
    assert part.header is not None
    pages = make_pages(
        [Outgoing(part.header.network, "trade", first + i, item) for i, item in enumerate(items)]
    )
    header = msgspec.structs.replace(
        part.header,
        height=part.header.height + 1,
        log_size=part.header.log_size + 1,
        time_ms=world.time_ms,
        outbox_size=len(pages),
        outbox_root=compute_outbox_root(pages),
    )
    return sign(header, signer, pages, **changes)


def sign(header: Header, signer: CheckpointSigner, pages: list[Page], **changes: Any) -> Receive:
    """Sign a changed header and pack it with its pages."""
    header = msgspec.structs.replace(header, **changes)
    finality = signer.sign(header, compute_app_hash(header))
    receive = make_receive_of(encode(header), finality, pages, "product", "trade")
    assert receive is not None
    return receive


def test_packet_goes_there_and_its_acknowledgement_comes_back(world: World) -> None:
    """A letter is delivered once, and its sender hears of it."""
    post(world, "hello")
    world.relay("product", "trade")
    assert ("hello",) == world.texts("trade", "product")
    assert () == world.heard("product", "trade")
    world.relay("trade", "product")
    assert ((0, DONE, 0),) == world.heard("product", "trade")
    assert None is PENDING.get(world.ledger.chains["product"], b"trade\0" + bytes(8))


def test_refused_packet_leaves_nothing_but_its_acknowledgement(world: World) -> None:
    """What a module did before it refused is undone: state, events, and what it sent."""
    events = world.run("trade", post(world, "rude", "hello", "rude again"))
    names = [type(event).__name__ for event in events]
    assert ["Received", "PacketRefused", "Delivered", "PacketRefused", "ClientUpdated"] == names
    assert ("hello",) == world.texts("trade", "product")
    world.relay_all()
    heard = ((0, REFUSED, 9001), (1, DONE, 0), (2, REFUSED, 9001))
    assert heard == world.heard("product", "trade")
    assert () == world.texts("product", "trade")


def test_packet_past_its_deadline_expires(world: World) -> None:
    """At its deadline a packet still takes effect; a moment later it is acknowledged as expired."""
    world.run("product", world.letter("in time", wait_ms=50), world.letter("late", wait_ms=49))
    world.advance(50)
    world.relay_all()
    assert ("in time",) == world.texts("trade", "product")
    assert ((0, DONE, 0), (1, EXPIRED, 0)) == world.heard("product", "trade")


def test_module_may_send_while_it_receives(world: World) -> None:
    """Packets and acknowledgements share one stream without a gap."""
    world.run("trade", post(world, "reply", "plain"))
    world.relay_all()
    assert ("thanks",) == world.texts("product", "trade")
    assert ((0, DONE, 0), (1, DONE, 0)) == world.heard("product", "trade")
    # The reply was sent before its own packet was acknowledged.
    assert ((0, DONE, 0),) == world.heard("trade", "product")


def test_unreadable_and_misdirected_packets_are_acknowledged(world: World) -> None:
    """Neither bytes no module reads, nor a module that isn't there, hold up the stream."""
    world.run(
        "product",
        PostRaw(destination="trade", module=COURIER, payload=b"\xff"),
        PostRaw(destination="trade", module=200, payload=b""),
        PostRaw(destination="trade", module=7, payload=b"\xff"),
        world.letter("hello"),
    )
    world.relay_all()
    outcomes = ((0, REFUSED, 1020), (1, REFUSED, 1018), (2, REFUSED, 7007), (3, DONE, 0))
    assert outcomes == world.heard("product", "trade")


def test_malformed_item_is_acknowledged(world: World) -> None:
    """A source that sends what is no item gets its number and is heard on."""
    payload = encode(Letter("after"))
    good = encode(Packet(module=COURIER, deadline_ms=world.time_ms, payload=payload))
    events = world.run("trade", forge(world, [b"\xff", good]))
    assert [1019] == [event.number for event in events if isinstance(event, PacketRefused)]
    assert ("after",) == world.texts("trade", "product")


def test_acknowledgement_of_nothing_is_recorded_and_ignored(world: World) -> None:
    """A chain that acknowledges what was never sent, or twice, moves nothing."""
    ack = encode(Acknowledgement(sequence=5, outcome=DONE, number=0, text=""))
    world.run("trade", world.letter("one", to="product"))
    first = encode(Acknowledgement(sequence=0, outcome=DONE, number=0, text=""))
    events = world.run("trade", forge(world, [ack, first, first]))
    unheard = [event for event in events if isinstance(event, AcknowledgementUnheard)]
    assert [(5, 1021), (0, 1021)] == [(event.sequence, event.number) for event in unheard]
    assert ((0, DONE, 0),) == world.heard("trade", "product")


def test_sender_that_refuses_its_acknowledgement_blocks_nothing(world: World) -> None:
    """The packet ends all the same, and the record says what the module said."""
    world.courier["product"].is_deaf = True
    world.run("trade", post(world, "hello"))
    events = world.relay("trade", "product")
    unheard = [event for event in events if isinstance(event, AcknowledgementUnheard)]
    assert [9002] == [event.number for event in unheard]
    assert () == world.heard("product", "trade")
    assert None is PENDING.get(world.ledger.chains["product"], b"trade\0" + bytes(8))


def test_acknowledgement_of_a_module_without_ears_is_recorded(world: World) -> None:
    """A module that sends and doesn't listen is named."""
    world.link["product"].connect({}, world.parliament)
    world.run("trade", post(world, "hello"))
    events = world.relay("trade", "product")
    assert [1018] == [e.number for e in events if isinstance(e, AcknowledgementUnheard)]


def test_bug_in_a_module_is_no_refusal(world: World) -> None:
    """An unexpected exception stops the block, and the stream stands where it stood."""
    message = post(world, "bug")
    with pytest.raises(ZeroDivisionError):
        world.submit("trade", message)
    assert 0 == world.expected("product", "trade")


def test_doubled_and_reordered_relays(world: World) -> None:
    """Packets out of order are refused by number and taken later; doubled ones change nothing."""
    one, two = post(world, "one"), post(world, "two")
    assert 1006 == world.fail("trade", two)
    world.run("trade", one)
    assert 1007 == world.fail("trade", one)
    world.run("trade", two)
    assert 1007 == world.fail("trade", two)
    assert 1007 == world.fail("trade", one)
    assert ("one", "two") == world.texts("trade", "product")


def test_older_block_is_taken_after_a_newer_header(world: World) -> None:
    """A client that is ahead still takes the pages of the blocks before."""
    one = post(world, "one")
    post(world, "two")
    header, finality = world.last("product")
    update = UpdateClient(chain="product", header=header, finality=finality)
    world.run("trade", update)
    assert 1012 == world.fail("trade", update)
    world.run("trade", one)
    height = client_of(world, "trade", "product").latest.height
    assert height == msgspec.msgpack.decode(header)[3]
    world.relay("product", "trade")
    assert ("one", "two") == world.texts("trade", "product")


def test_part_of_a_message_that_was_taken_before_is_passed_over(world: World) -> None:
    """Of two pages the first may be known; only the rest takes effect."""
    message = post(world, *(f"{n}" for n in range(70)))
    assert 2 == len(message.pages)
    early = msgspec.structs.replace(message, pages=message.pages[:1])
    late = msgspec.structs.replace(message, pages=message.pages[1:])
    assert 1006 == world.fail("trade", late)
    world.run("trade", early)
    world.run("trade", message)
    assert tuple(f"{n}" for n in range(70)) == world.texts("trade", "product")


def test_conflicting_header_freezes_the_client(world: World) -> None:
    """A second story told to the client itself is believed no more than the first's successor."""
    world.run("trade", post(world, "one"))
    known = client_of(world, "trade", "product").latest
    item = encode(Packet(module=COURIER, deadline_ms=2**60, payload=encode(Letter("lie"))))
    lie = forge(world, [item], first=1, height=known.height, log_size=known.log_size)
    assert [ForkRecorded] == [type(event) for event in world.run("trade", lie)]
    assert ("one",) == world.texts("trade", "product")
    assert 1002 == world.fail("trade", post(world, "two"))


def test_expired_client_believes_nothing(world: World) -> None:
    """Past its trusting period a client waits for governance; renewed in time it goes on."""
    world.advance(TRUSTING_MS)
    message = post(world, "one")
    world.run("trade", message)
    world.advance(TRUSTING_MS + 1)
    assert 1003 == world.fail("trade", post(world, "two"))


def recover(world: World, **changes: Any) -> RecoverClient:
    """A resolution's message that has trade trust product again."""
    header, finality = world.last("product")
    message = RecoverClient(
        chain="product",
        trusted=TrustedNetwork(world.ledger.network, (world.signer.public,), None),
        trusting_period_ms=TRUSTING_MS,
        header=header,
        finality=finality,
        resolution=RESOLUTION,
    )
    return msgspec.structs.replace(message, **changes)


def pass_resolution(world: World, purpose: str, message: OpenClient | RecoverClient) -> None:
    """Have governance agree to a message."""
    world.parliament.passed.append((RESOLUTION, purpose, compute_subject(message)))


def test_governance_recovers_a_client_and_its_streams_go_on(world: World) -> None:
    """A recovered client takes what comes next, and nothing that it took before."""
    one = post(world, "one")
    world.run("trade", one)
    known = client_of(world, "trade", "product").latest
    world.run("trade", forge(world, [b""], first=1, height=known.height, log_size=known.log_size))
    two = post(world, "two")
    message = recover(world)
    assert 2999 == world.fail("trade", message)
    pass_resolution(world, "link.recover_client", message)
    assert 2999 == world.fail("trade", recover(world, trusting_period_ms=1))
    world.run("trade", message)
    assert 1007 == world.fail("trade", one)
    world.run("trade", two)
    assert ("one", "two") == world.texts("trade", "product")


def test_governance_opens_a_client(world: World) -> None:
    """A chain of another network is heard once it was agreed on."""
    trusted = TrustedNetwork(b"\x01" + b"n" * 32, (world.signer.public,), None)
    message = OpenClient(
        chain="harbour", trusted=trusted, trusting_period_ms=1, resolution=RESOLUTION
    )
    assert 2999 == world.fail("trade", message)
    pass_resolution(world, "link.open_client", message)
    world.run("trade", message)
    assert 1014 == world.fail("trade", message)
    chain = world.ledger.chains["trade"]
    ctx = chain.open_block(world.ledger.height + 1, world.time_ms)
    assert ("anchor", "harbour", "product") == world.link["trade"].get_peers(ctx)


def test_relay_that_lies_of_an_honest_chain_freezes_nothing(world: World) -> None:
    """Wrong proofs are refused by number, and the honest relay that comes after is heard."""
    message = post(world, "one")
    lie = forge(world, [b""], seed=b"s" * 32)
    assert 1008 == world.fail("trade", lie)
    evidence = TwoHeaders(lie.header, lie.finality, message.header, message.finality)
    assert 1013 == world.fail("trade", SubmitEvidence(chain="product", evidence=evidence))
    assert not client_of(world, "trade", "product").is_frozen
    world.run("trade", message)


Change = Callable[[World, Receive], Receive]


def _page(message: Receive, **changes: Any) -> Receive:
    pages = (msgspec.structs.replace(message.pages[0], **changes), *message.pages[1:])
    return msgspec.structs.replace(message, pages=pages)


def _flip(data: bytes, index: int) -> bytes:
    return data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :]


def _with(**changes: Any) -> Change:
    return lambda _, message: msgspec.structs.replace(message, **changes)


PACKET = encode(Packet(module=COURIER, deadline_ms=2**60, payload=encode(Letter("x"))))


def _forged(world: World, destination: str = "trade", first: int = 0) -> bytes:
    network = world.ledger.network
    return encode(Page(network=network, destination=destination, first=first, items=(PACKET,)))


REFUSALS: dict[str, tuple[Change, int]] = {
    "unknown source": (_with(source="nowhere"), 1001),
    "itself as the source": (_with(source="trade"), 1001),
    "another chain's packets": (_with(source="anchor"), 1008),
    "malformed page": (lambda _, m: _page(m, page=m.pages[0].page + b"\0"), 1004),
    "page for another chain": (
        lambda w, m: _page(m, page=_forged(w, "anchor")),
        1005,
    ),
    "page out of order": (lambda w, m: _page(m, page=_forged(w, "trade", 1)), 1006),
    "malformed header": (_with(header=b"\xff"), 1008),
    "flipped header": (lambda _, m: msgspec.structs.replace(m, header=_flip(m.header, -1)), 1008),
    "flipped signature": (
        lambda _, m: msgspec.structs.replace(m, finality=_flip(m.finality, -10)),
        1008,
    ),
    "other finality scheme": (
        lambda _, m: msgspec.structs.replace(m, finality=b"\x02" + m.finality[1:]),
        1008,
    ),
    "extra bytes after the finality": (
        lambda _, m: msgspec.structs.replace(m, finality=m.finality + b"\n"),
        1008,
    ),
    "signed by a stranger": (lambda w, _: forge(w, [PACKET], seed=b"s" * 32), 1008),
    "header from the future": (
        lambda w, _: forge(w, [PACKET], time_ms=w.time_ms + DRIFT_MS + 1),
        1009,
    ),
    "forged page": (lambda w, m: _page(_with(pages=m.pages[:1])(w, m), page=_forged(w)), 1010),
    "other index": (lambda _, m: _page(m, index=1), 1010),
    "index outside": (lambda _, m: _page(m, index=9), 1010),
    "path too long": (lambda _, m: _page(m, path=(*m.pages[0].path, bytes(32))), 1010),
    "path cut": (lambda _, m: _page(m, path=m.pages[0].path[:-1]), 1010),
    "flipped path": (
        lambda _, m: _page(m, path=(_flip(m.pages[0].path[0], 0), *m.pages[0].path[1:])),
        1010,
    ),
    "longer log of an earlier time": (lambda w, _: forge(w, [PACKET], time_ms=w.time_ms - 1), 1011),
}


@pytest.mark.parametrize(("change", "number"), REFUSALS.values(), ids=REFUSALS.keys())
def test_receive_refuses(world: World, change: Change, number: int) -> None:
    """Each way to be wrong has its number, changes nothing, and doesn't stop the right one."""
    header, finality = world.last("product")
    world.run("trade", UpdateClient(chain="product", header=header, finality=finality))
    message = post(world, *(f"{n}" for n in range(70)))
    assert number == world.fail("trade", change(world, message))
    assert 0 == world.expected("product", "trade")
    assert not client_of(world, "trade", "product").is_frozen
    world.run("trade", message)


OTHER_REFUSALS: dict[str, tuple[str, Callable[[World], Any], int]] = {
    "letter to a stranger": ("product", lambda w: w.letter("x", to="nowhere"), 1001),
    "evidence against a stranger": (
        "trade",
        lambda w: SubmitEvidence(chain="nowhere", evidence=TwoCheckpoints(b"\x01x", b"\x01x")),
        1001,
    ),
    "update of a stranger": (
        "trade",
        lambda w: UpdateClient(chain="nowhere", header=b"\xff", finality=b"\x01x"),
        1001,
    ),
    "client of itself": (
        "trade",
        lambda w: OpenClient(
            "trade", TrustedNetwork(w.ledger.network, (w.signer.public,), None), 1, RESOLUTION
        ),
        1016,
    ),
    "recovery of a stranger": ("trade", lambda w: recover(w, chain="nowhere"), 1001),
    "recovery into another network": (
        "trade",
        lambda w: recover(w, trusted=TrustedNetwork(b"\x01" + b"n" * 32, (w.signer.public,), None)),
        1015,
    ),
    "recovery with a header nobody signed": ("trade", lambda w: recover(w, header=b"\xff"), 1008),
}


@pytest.mark.parametrize(
    ("chain", "make", "number"), OTHER_REFUSALS.values(), ids=OTHER_REFUSALS.keys()
)
def test_other_message_refuses(
    world: World, chain: str, make: Callable[[World], Any], number: int
) -> None:
    """Each other message names what is wrong with it."""
    assert number == world.fail(chain, make(world))


def test_packet_of_another_network_is_refused(world: World, tmp_path: Path) -> None:
    """A network with the same names and the same validator key is still another network."""
    copy = World(tmp_path / "copy", name="copy")
    message = post(copy, "hello")
    copy.close()
    assert 1005 == world.fail("trade", message)
    relabelled = _page(message, page=_forged(world))
    assert 1008 == world.fail("trade", relabelled)
    assert 0 == world.expected("product", "trade")


def test_heartbeat_keeps_the_client_of_an_idle_chain(tmp_path: Path) -> None:
    """A chain nobody uses still makes headers to renew its clients with, however idle it is."""
    world = World(tmp_path, trusting_period_ms=10 * DAY_MS, heartbeat_ms=DAY_MS)
    for _ in range(4):
        beaten = [event for event in world.advance(6 * DAY_MS) if isinstance(event, Beaten)]
        assert [Beaten(world.time_ms + DAY_MS)] * 3 == beaten
        header, finality = world.last("product")
        world.run("trade", UpdateClient(chain="product", header=header, finality=finality))
        assert world.time_ms == client_of(world, "trade", "product").latest.time_ms
    world.close()


def test_without_heartbeat_a_chain_makes_nothing_of_time(world: World) -> None:
    """Zero means never: no deadline, no entry."""
    events = world.advance(400 * DAY_MS)
    assert [] == [event for event in events if isinstance(event, Beaten)]


def test_too_many_clients_are_refused(world: World) -> None:
    """The number of clients is bounded, so that the list of peers is."""
    trusted = TrustedNetwork(b"\x01" + b"n" * 32, (world.signer.public,), None)
    numbers = []
    for n in range(model.MAX_PEERS - 1):
        message = OpenClient(f"chain{n}", trusted, 1, RESOLUTION)
        pass_resolution(world, "link.open_client", message)
        numbers.append(world.fail("trade", message))
    assert [0] * (model.MAX_PEERS - 2) + [1017] == numbers


def test_every_error_is_reached() -> None:
    """No error of the module goes without a test that raises it."""
    source = Path(__file__).read_text()
    assert [] == [error for error in ERRORS if str(error.number) not in source]
    assert [1000 + n for n in range(1, len(ERRORS) + 1)] == [error.number for error in ERRORS]


def test_views_show_each_packet_and_client(world: World) -> None:
    """A packet's row stands on the sending chain and says what became of it."""
    post(world, "hello", "rude")
    sent = [event for event in _events(world, "product") if isinstance(event.event, Sent)]
    assert ["pending", "pending"] == [row["status"] for row in _rows(sent, PACKETS)]
    world.relay_all()
    rows = _rows(_events(world, "product"), PACKETS)
    shown = [(row["id"], row["status"], row["error"]) for row in rows]
    assert [("product:trade:0", "done", 0), ("product:trade:1", "refused", 9001)] == shown
    assert set(EVENTS) - {Beaten} == set(VIEWS.projections)


def _events(world: World, chain: str) -> list[Fact]:
    facts = []
    for part in world.parts(chain):
        assert part.header is not None
        for receipt in part.receipts:
            for index, data in enumerate(msgspec.msgpack.decode(receipt)[6]):
                event = world.ledger.chains[chain].decode_event(data)
                name = event_name("link", type(event))
                height = part.header.height
                facts.append(Fact(chain, height, 0, height, index, None, event, name))
    return facts


def _rows(facts: list[Fact], table: sa.Table) -> list[dict[str, Any]]:
    batch = Batch()
    engine = sa.create_engine("sqlite://")
    for metadata in (METADATA, VIEWS.metadata):
        metadata.create_all(engine)
    for fact in facts:
        if type(fact.event) in VIEWS.projections:
            VIEWS.projections[type(fact.event)](batch, fact)
    with engine.begin() as connection:
        for rows_of, rows in batch.upserts.items():
            bulk_upsert(connection, rows_of, list(rows.values()))
        found = connection.execute(sa.select(table).order_by(table.c.id)).mappings()
        return [dict(row) for row in found]
