"""Whatever relays do, each packet takes effect at most once, in order, and ends when relayed."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from tests.chain_world import DAY_MS, World, get_end

from hansa.core.packet import DONE, EXPIRED, REFUSED, decode_page
from hansa.service.link.model import PageProof, Receive, UpdateClient
from hansa.service.link.rules import CLIENTS, PENDING

WAYS = (("product", "trade"), ("trade", "product"))
WAIT_MS = 1000


def mutate(data: bytes, place: int, bit: int) -> bytes:
    """Flip one bit."""
    place %= len(data)
    return data[:place] + bytes([data[place] ^ (1 << bit)]) + data[place + 1 :]


def mutate_receive(message: Receive, part: str, place: int, bit: int) -> Receive | None:
    """Flip one bit of a message, or None where there is none of that kind."""
    page = message.pages[0]
    if part in ("header", "finality"):
        changed = mutate(getattr(message, part), place, bit)
        return msgspec.structs.replace(message, **{part: changed})
    if part == "page":
        page = msgspec.structs.replace(page, page=mutate(page.page, place, bit))
    elif part == "index":
        page = msgspec.structs.replace(page, index=page.index ^ (1 << bit))
    elif page.path:
        nodes = list(page.path)
        nodes[place % len(nodes)] = mutate(nodes[place % len(nodes)], place, bit)
        page = msgspec.structs.replace(page, path=tuple(nodes))
    else:
        return None
    return msgspec.structs.replace(message, pages=(page, *message.pages[1:]))


class LinkMachine(RuleBasedStateMachine):
    """Two chains that send to each other, and relays that come late, doubled, or lying."""

    @initialize()
    def start(self) -> None:
        """Start a network."""
        self.folder = tempfile.TemporaryDirectory()
        self.world = World(Path(self.folder.name), ("product", "trade"))
        self.sent: dict[tuple[str, str], list[str]] = {way: [] for way in WAYS}
        self.count = 0

    @rule(
        way=st.sampled_from(WAYS),
        kinds=st.lists(st.sampled_from(("kind", "rude")), min_size=1, max_size=70),
        wait_ms=st.sampled_from((0, WAIT_MS, DAY_MS)),
    )
    def post(self, way: tuple[str, str], kinds: list[str], wait_ms: int) -> None:
        """Send letters, some of which will be refused."""
        texts = [f"{kind} {self.count + n}" for n, kind in enumerate(kinds)]
        self.count += len(texts)
        source, destination = way
        self.world.run(source, self.world.letter(*texts, to=destination, wait_ms=wait_ms))
        self.sent[way] += texts

    @rule(by_ms=st.sampled_from((1, WAIT_MS + 1)))
    def advance(self, by_ms: int) -> None:
        """Let time go by, so that some packets come too late."""
        self.world.advance(by_ms)

    @rule(way=st.sampled_from(WAYS), pick=st.integers(0, 100))
    def carry_any(self, way: tuple[str, str], pick: int) -> None:
        """Carry any block's items: new, known, or out of order; a receipt with a number follows."""
        source, destination = way
        messages = self.world.receives(source, destination)
        if not messages:
            return
        message = messages[pick % len(messages)]
        before = self.world.expected(source, destination)
        number = self.world.fail(destination, message)
        start = _get_start(message)
        expected = 1006 if start > before else 1007 if get_end(message) <= before else 0
        assert expected == number
        after = self.world.expected(source, destination)
        assert (before if number else get_end(message)) == after

    @rule(
        way=st.sampled_from(WAYS),
        pick=st.integers(0, 100),
        part=st.sampled_from(("header", "finality", "page", "index", "path")),
        place=st.integers(0, 1 << 16),
        bit=st.integers(0, 7),
    )
    def carry_mutated(
        self, way: tuple[str, str], pick: int, part: str, place: int, bit: int
    ) -> None:
        """A relay that changes one bit is refused by number, and freezes nothing."""
        source, destination = way
        messages = self.world.receives(source, destination)
        if not messages:
            return
        message = mutate_receive(messages[pick % len(messages)], part, place, bit)
        if message is None:
            return
        before = self.world.expected(source, destination)
        assert 1004 <= self.world.fail(destination, message) <= 1010
        assert before == self.world.expected(source, destination)

    @rule(way=st.sampled_from(WAYS))
    def carry_elsewhere(self, way: tuple[str, str]) -> None:
        """What was sent to one chain is refused by the one that sent it."""
        source, destination = way
        for message in self.world.receives(source, destination)[-1:]:
            backwards = msgspec.structs.replace(message, source=destination)
            assert self.world.fail(source, message)
            assert self.world.fail(source, backwards)

    @rule(way=st.sampled_from(WAYS))
    def carry_all(self, way: tuple[str, str]) -> None:
        """Carry all that waits one way."""
        self.world.relay(*way)

    @rule(way=st.sampled_from(WAYS))
    def update(self, way: tuple[str, str]) -> None:
        """Show a newer header; what older blocks sent may still come."""
        source, destination = way
        header, finality = self.world.last(source)
        message = UpdateClient(chain=source, header=header, finality=finality)
        assert self.world.fail(destination, message) in (0, 1012)

    @invariant()
    @precondition(lambda self: hasattr(self, "world"))
    def each_at_most_once_and_in_order(self) -> None:
        """Letters that took effect, and what senders heard, are in the order of sending."""
        for source, destination in WAYS:
            sent = self.sent[source, destination]
            got = self.world.texts(destination, source)
            places = [sent.index(text) for text in got]
            assert sorted(set(places)) == places
            assert not any(text.startswith("rude") for text in got)
            heard = [sequence for sequence, _, _ in self.world.heard(source, destination)]
            assert sorted(set(heard)) == heard
            client = CLIENTS.get(self.world.ledger.chains[destination], source.encode())
            assert client is not None
            assert not client.is_frozen

    def teardown(self) -> None:
        """Once all is relayed every packet has ended, and its sender knows how."""
        if not hasattr(self, "world"):
            return
        self.world.relay_all()
        for source, destination in WAYS:
            self.check_ends(source, destination)
        self.world.close()
        self.folder.cleanup()

    def check_ends(self, source: str, destination: str) -> None:
        """Compare what a sender heard with what took effect."""
        sent = self.sent[source, destination]
        heard = self.world.heard(source, destination)
        assert len(sent) == len(heard)
        chain = self.world.ledger.chains[source]
        got = set(self.world.texts(destination, source))
        for text, (sequence, outcome, number) in zip(sent, heard, strict=True):
            key = destination.encode() + b"\0" + sequence.to_bytes(8, "big")
            assert PENDING.get(chain, key) is None
            assert (text in got) == (outcome == DONE)
            refusal = (REFUSED, 9001) if text.startswith("rude") else (DONE, 0)
            assert (outcome, number) in (refusal, (EXPIRED, 0))


def _get_start(message: Receive) -> int:
    return decode_page(message.pages[0].page).first


LinkMachine.TestCase.settings = settings(max_examples=20, stateful_step_count=25, deadline=None)
TestLinkMachine: Any = LinkMachine.TestCase


@given(
    part=st.sampled_from(("header", "finality", "page", "index", "path")),
    place=st.integers(0, 1 << 16),
    bit=st.integers(0, 7),
)
@settings(deadline=None)
def test_any_mutated_proof_is_refused(part: str, place: int, bit: int) -> None:
    """Whichever bit of header, finality, page, place or path is flipped, nothing is taken."""
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), ("product", "trade"))
        world.run("product", world.letter(*(f"{n}" for n in range(130))))
        (message,) = world.receives("product", "trade")
        assert isinstance(message.pages[0], PageProof)
        mutated = mutate_receive(message, part, place, bit)
        assert mutated is not None
        assert 1004 <= world.fail("trade", mutated) <= 1010
        assert 0 == world.expected("product", "trade")
        world.run("trade", message)
        world.close()
