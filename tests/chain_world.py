"""A network of real chains in one folder, with real signatures, blocks, headers and proofs.

Each chain has link, anchoring and a courier: a module that sends letters and keeps what arrives.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from hansa.core.block import BlockRecord, ChainRecord, Header, Receipt, compute_app_hash
from hansa.core.codec import ChainName, ShortText, TimeMs, Value, encode, make_decoder
from hansa.core.errors import Refused, Rejected
from hansa.core.finality import CheckpointSigner, TrustedNetwork, trust_network
from hansa.core.genesis import ChainGenesis, Genesis, ModuleGenesis
from hansa.core.keys import SigningKey, compute_account
from hansa.core.ledger import Ledger
from hansa.core.lightclient import NS_PER_MS, trust_genesis
from hansa.core.merkle import compute_inclusion_path, leaf_hash
from hansa.core.module import Context, Module, Rulebook
from hansa.core.packet import Acknowledgement, Page
from hansa.core.state import Table
from hansa.core.transaction import (
    Body,
    Event,
    Message,
    Signer,
    message_number,
    sign_transaction,
)
from hansa.core.validatorset import Validator
from hansa.service.anchoring.model import AnchoringParams
from hansa.service.anchoring.rules import AnchoringRules
from hansa.service.anchoring.rules import make_module as make_anchoring
from hansa.service.anchoring.views import VIEWS as ANCHORING_VIEWS
from hansa.service.link.model import LinkParams, PageProof, PeerGenesis, Receive
from hansa.service.link.rules import IN, LinkRules, ModuleLink
from hansa.service.link.rules import make_module as make_link
from hansa.service.link.views import VIEWS as LINK_VIEWS

START_MS = 1_760_000_000_000
DAY_MS = 24 * 3600 * 1000
TRUSTING_MS = 14 * DAY_MS
DRIFT_MS = 10_000
STALE_MS = 3 * DAY_MS
CONSORTIUM = b"\x01" + b"c" * 32
COURIER = 9
SEED = b"v" * 32


class Letter(Value, tag=1):
    """What a courier sends."""

    text: ShortText


class Note(Value):
    """What a courier keeps: texts in the order they came."""

    texts: tuple[str, ...]


class Outcomes(Value):
    """What a courier heard of its letters: (sequence, outcome, error number)."""

    heard: tuple[tuple[int, int, int], ...]


class Post(Message, tag=message_number(COURIER, 1)):
    """Send letters."""

    destination: ChainName
    texts: Annotated[tuple[ShortText, ...], Meta(max_length=1000)]
    deadline_ms: TimeMs


class PostRaw(Message, tag=message_number(COURIER, 2)):
    """Send bytes that are no letter, to any module."""

    destination: ChainName
    module: int
    payload: Annotated[bytes, Meta(max_length=4096)]


class Delivered(Event, tag=message_number(COURIER, 0x81)):
    """A letter came."""

    text: ShortText


class Unwelcome(Rejected):
    number = 9001
    says = "text: expected a friendly letter, got {text}"


class Deaf(Rejected):
    number = 9002
    says = "sequence: expected one that is cared for, got {sequence}"


NOTES = Table(COURIER, 0, Note)
HEARD = Table(COURIER, 1, Outcomes)
FRAMED = Table(COURIER, 2, Note)
decode_letter = make_decoder(Letter, "letter")


class Courier:
    """Sends letters; refuses the rude ones after having begun with them."""

    def __init__(self, link: ModuleLink) -> None:
        self._link = link
        self.is_deaf = False

    def post(self, ctx: Context, msg: Post) -> None:
        """Send letters, one packet each."""
        for text in msg.texts:
            payload = encode(Letter(text))
            self._link.send(ctx, msg.destination, COURIER, payload, msg.deadline_ms)

    def post_raw(self, ctx: Context, msg: PostRaw) -> None:
        """Send anything."""
        deadline_ms = ctx.time_ms + DAY_MS
        self._link.send(ctx, msg.destination, msg.module, msg.payload, deadline_ms)

    def on_packet(self, ctx: Context, source: str, payload: bytes) -> None:
        """Keep a letter; what a refusal must undo is done first."""
        letter = decode_letter(payload)
        assert () == ctx.signers, "a relay must not pass for an author"
        known = NOTES.get(ctx, source.encode()) or Note(())
        NOTES.put(ctx, source.encode(), Note((*known.texts, letter.text)))
        ctx.emit(Delivered(letter.text))
        if letter.text.startswith(("reply", "rude")):
            self._link.send(ctx, source, COURIER, encode(Letter("thanks")), ctx.time_ms + DAY_MS)
        if letter.text.startswith("rude"):
            raise Unwelcome(text=letter.text)
        if letter.text == "bug":
            raise ZeroDivisionError(letter.text)

    def on_acknowledgement(
        self, ctx: Context, destination: str, sequence: int, ack: Acknowledgement
    ) -> None:
        """Keep what became of a letter."""
        heard = HEARD.get(ctx, destination.encode()) or Outcomes(())
        item = (sequence, ack.outcome, ack.number)
        HEARD.put(ctx, destination.encode(), Outcomes((*heard.heard, item)))
        if self.is_deaf:
            raise Deaf(sequence=sequence)


class Parliament:
    """Governance that has passed what a test put down in `passed`, each once."""

    class NotPassed(Rejected):
        number = 2999
        says = "resolution: expected one passed for this, got {resolution}"

    def __init__(self) -> None:
        self.passed: list[tuple[bytes, str, bytes]] = []

    def take_resolution(
        self, ctx: Context, resolution: bytes, purpose: str, subject: bytes
    ) -> None:
        """Take a resolution from those that were put down."""
        if (resolution, purpose, subject) not in self.passed:
            raise self.NotPassed(resolution=resolution)


class World:
    """Chains of one network; `blocks` cuts a block whenever something is submitted."""

    def __init__(
        self,
        folder: Path,
        names: Sequence[str] = ("product", "trade", "anchor"),
        *,
        name: str = "world",
        networks: Mapping[str, bytes] | None = None,
        seed: bytes = SEED,
        trusting_period_ms: int = TRUSTING_MS,
        heartbeat_ms: int = 0,
        consensus: tuple[Validator, ...] = (),
    ) -> None:
        self.signer = CheckpointSigner(seed)
        self.parliament = Parliament()
        self.link: dict[str, LinkRules] = {}
        self.courier: dict[str, Courier] = {}
        rulebooks = {chain: self._make_rulebook(chain) for chain in names}
        genesis = Genesis(
            version=1,
            name=name,
            consortium=CONSORTIUM,
            is_sandbox=True,
            time_ms=START_MS,
            chains=tuple(
                _make_chain(
                    chain,
                    names,
                    self.signer.public,
                    networks or {},
                    trusting_period_ms,
                    heartbeat_ms,
                    consensus,
                )
                for chain in names
            ),
            validators=(self.signer.public,),
            consensus=consensus,
            max_block_transactions=1000,
            state_root_interval=1_000_000,
            state_root_delay=1000,
        )
        self.ledger = Ledger(folder, genesis, rulebooks, None if consensus else self.signer)
        self.time_ms = START_MS
        self._sequences: dict[tuple[str, bytes], int] = {}

    def _make_rulebook(self, chain: str) -> Rulebook:
        link = self.link[chain] = LinkRules()
        anchoring = AnchoringRules(link.for_module(7), self.parliament)
        courier = self.courier[chain] = Courier(link.for_module(COURIER))
        link.connect(
            {
                7: (anchoring.on_packet, anchoring.on_acknowledgement),
                COURIER: (courier.on_packet, courier.on_acknowledgement),
            },
            self.parliament,
        )
        return Rulebook(
            (
                make_link(link, LINK_VIEWS),
                make_anchoring(anchoring, ANCHORING_VIEWS),
                make_courier(courier),
            )
        )

    # What comes from outside.

    def submit(self, chain: str, *messages: Message, by: str = "anyone") -> Receipt:
        """Run one transaction in a block of its own; returns its receipt."""
        key = SigningKey(hashlib.sha256(by.encode()).digest())
        account = compute_account(CONSORTIUM, key.public)
        sequence = self._sequences.get((chain, account), 0)
        body = Body(
            version=1,
            network=self.ledger.network,
            chain=chain,
            signers=(Signer(account, key.public),),
            lane=0,
            sequence=sequence,
            valid_until_ms=self.time_ms + 1000,
            messages=messages,
        )
        envelope = sign_transaction(body, [key])
        transaction = self.ledger.chains[chain].decode_transaction(envelope)
        block = self.ledger.apply(self.time_ms, {chain: [(transaction, True)]})
        refusals: list[Refused] = [refusal for _, refusal in block.chains[chain].refusals]
        assert [] == refusals
        self.ledger.commit(block)
        self._sequences[chain, account] = sequence + 1
        return block.chains[chain].verdicts[-1].receipt

    def run(self, chain: str, *messages: Message) -> list[Any]:
        """Run a transaction that must succeed; returns its events."""
        receipt = self.submit(chain, *messages)
        assert receipt.error is None, receipt.error
        return [self.ledger.chains[chain].decode_event(event) for event in receipt.events]

    def fail(self, chain: str, *messages: Message) -> int:
        """Run a transaction; returns the number of the error it is refused with, or 0."""
        receipt = self.submit(chain, *messages)
        return receipt.error.number if receipt.error else 0

    def advance(self, by_ms: int) -> list[Any]:
        """Move the clock and run what is due; returns the events."""
        self.time_ms += by_ms
        block = self.ledger.apply(self.time_ms, {})
        self.ledger.commit(block)
        return [
            event
            for applied in block.chains.values()
            for verdict in applied.verdicts
            for event in verdict.events
        ]

    @property
    def trusted(self) -> TrustedNetwork:
        """What someone who knows the genesis trusts."""
        return trust_network(self.ledger.genesis)

    def finalize(self, header: Header) -> bytes:
        """Return what makes any header final, as the validators would lie."""
        return self.signer.sign(header, compute_app_hash(header))

    # What a relay does.

    def parts(self, chain: str) -> list[ChainRecord]:
        """Return a chain's part of each block in which something happened, oldest first."""
        records = [self.ledger.read_block(height) for height in range(self.ledger.height + 1)]
        return [part for record in records if (part := part_of(record, chain)).header]

    def last(self, chain: str) -> tuple[bytes, bytes]:
        """Return a chain's newest header and what makes it final."""
        part = self.parts(chain)[-1]
        return encode(part.header), part.finality

    def expected(self, source: str, destination: str) -> int:
        """Return the next sequence a destination takes."""
        place = IN.get(self.ledger.chains[destination], source.encode())
        return place.next if place else 0

    def receives(self, source: str, destination: str) -> list[Receive]:
        """Return one message for each block of the source that sent to the destination."""
        parts = [make_receive(part, destination) for part in self.parts(source)]
        return [message for message in parts if message]

    def relay(self, source: str, destination: str) -> list[Any]:
        """Carry all that waits one way; returns the events."""
        events: list[Any] = []
        for message in self.receives(source, destination):
            if get_end(message) > self.expected(source, destination):
                events += self.run(destination, message)
        return events

    def relay_all(self) -> None:
        """Carry everything everywhere until nothing waits."""
        names = list(self.ledger.chains)
        while any(self.relay(one, other) for one in names for other in names if one != other):
            pass

    def close(self) -> None:
        """Let go of the files."""
        self.ledger.close()

    # What can be looked at.

    def texts(self, chain: str, source: str) -> tuple[str, ...]:
        """Return the letters a chain has from another."""
        note = NOTES.get(self.ledger.chains[chain], source.encode())
        return note.texts if note else ()

    def heard(self, chain: str, destination: str) -> tuple[tuple[int, int, int], ...]:
        """Return what a chain's courier heard of its letters to another."""
        outcomes = HEARD.get(self.ledger.chains[chain], destination.encode())
        return tuple(tuple(item) for item in outcomes.heard) if outcomes else ()  # type: ignore[misc]

    def letter(self, *texts: str, to: str = "trade", wait_ms: int = DAY_MS) -> Post:
        """Return a message that sends letters."""
        return Post(destination=to, texts=texts, deadline_ms=self.time_ms + wait_ms)


def make_courier(courier: Courier) -> Module:
    """Return the courier's module."""
    return Module(
        name="courier",
        number=COURIER,
        version=1,
        handlers={Post: courier.post, PostRaw: courier.post_raw},
        events=(Delivered,),
        errors=(Unwelcome, Deaf),
        on_packet=courier.on_packet,
        on_acknowledgement=courier.on_acknowledgement,
    )


def part_of(record: BlockRecord, chain: str) -> ChainRecord:
    """Return a chain's part of a block."""
    return next(part for part in record.chains if part.chain == chain)


def make_receive(part: ChainRecord, destination: str) -> Receive | None:
    """Return the message that brings a block's pages to their destination, or None."""
    return make_receive_of(encode(part.header), part.finality, part.pages, part.chain, destination)


def make_receive_of(
    header: bytes, finality: bytes, pages: Sequence[Page], source: str, destination: str
) -> Receive | None:
    """Return the message that brings pages to their destination, or None."""
    leaves = [leaf_hash(encode(page)) for page in pages]
    proofs = tuple(
        PageProof(
            page=encode(page),
            index=index,
            path=tuple(compute_inclusion_path(leaves, index)),
        )
        for index, page in enumerate(pages)
        if page.destination == destination
    )
    if not proofs:
        return None
    return Receive(source=source, header=header, finality=finality, pages=proofs)


def get_end(message: Receive) -> int:
    """Return the sequence after the last item of a message."""
    page = make_decoder(Page, "page")(message.pages[-1].page)
    return int(page.first + len(page.items))


def _make_chain(
    chain: str,
    names: Sequence[str],
    validator: bytes,
    networks: Mapping[str, bytes],
    trusting_period_ms: int,
    heartbeat_ms: int,
    consensus: tuple[Validator, ...],
) -> ChainGenesis:
    trust = trust_genesis(consensus, START_MS * NS_PER_MS, trusting_period_ms)
    peers = tuple(
        PeerGenesis(
            chain=peer,
            network=networks.get(peer),
            validators=(validator,),
            consensus=trust if consensus else None,
        )
        for peer in names
        if peer != chain
    )
    link = LinkParams(
        peers=peers,
        trusting_period_ms=trusting_period_ms,
        max_clock_drift_ms=DRIFT_MS,
        heartbeat_ms=heartbeat_ms,
        open_purpose="link.open_client",
        recover_purpose="link.recover_client",
    )
    anchoring = AnchoringParams(
        is_anchor=chain == "anchor",
        every_blocks=10,
        stale_after_ms=STALE_MS,
        packet_deadline_ms=DAY_MS,
        reset_purpose="anchoring.reset_anchor",
    )
    return ChainGenesis(
        name=chain,
        modules=(
            ModuleGenesis(number=1, version=1, params=encode(link)),
            ModuleGenesis(number=7, version=1, params=encode(anchoring)),
            ModuleGenesis(number=COURIER, version=1, params=b""),
        ),
    )
