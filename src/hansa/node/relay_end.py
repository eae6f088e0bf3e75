"""A chain as a relay meets it: what to carry, when to anchor and renew, how to sign.

Where the chain is makes no difference to any of that. What does differ, how to read it and how to
hand something in, is behind :class:`ChainDoor`; the one for a chain of this process is here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeVar

from hansa.core.block import Header, decode_header
from hansa.core.codec import make_decoder
from hansa.core.errors import Malformed, Refused, WrongNonce
from hansa.core.finality import (
    COMET,
    FinalHeader,
    decode_consensus_finality,
    shorten_finality,
)
from hansa.core.genesis import Genesis, compute_network_id
from hansa.core.keys import SigningKey, compute_account
from hansa.core.merkle import ProofError
from hansa.core.prover import Delivery
from hansa.core.transaction import Body, Message, Signer, sign_transaction
from hansa.network.intake import EngineBusy, EngineStopped
from hansa.network.relay import Anchorage, Anchored, RelayEnd, RelayTrouble
from hansa.service.anchoring.model import FORKED, Anchor, AnchoredChain, AnchoringParams
from hansa.service.anchoring.model import MODULE as ANCHORING
from hansa.service.anchoring.rules import ANCHORS
from hansa.service.link.model import Client, PageProof, Receive, UpdateClient
from hansa.service.link.rules import CLIENTS, IN

if TYPE_CHECKING:
    from hansa.node.node import Node

T = TypeVar("T")

BLOCK_MS: Final = 250
"""About what a block of a network on CometBFT takes, for counting patience in blocks."""

VALIDITY_MS: Final = 10 * 60_000
MAX_PAGES: Final = 2
"""Pages of one block in one delivery, so that a delivery always fits a transaction."""

MAX_SIGNINGS: Final = 4
"""How often one thing is signed anew because somebody else signs on the same account and lane."""

RELAY_KEY: Final = "relay"
"""Name of the account that signs what the relay carries; nobody needs to trust it."""

_decode_anchoring: Callable[[bytes], AnchoringParams] = make_decoder(AnchoringParams, "params")


# What is said, and when.


def make_receive(source: str, delivery: Delivery) -> Receive:
    """Return the message that hands a delivery to its destination."""
    return Receive(
        source=source,
        header=delivery.final.header,
        finality=delivery.final.finality,
        pages=tuple(
            PageProof(page=proof.page, index=proof.index, path=proof.path)
            for proof in delivery.pages
        ),
    )


def group_pages(rows: Sequence[dict[str, int]]) -> list[tuple[int, list[int]]]:
    """Return (height, pages) for outbox rows in order, a few pages at a time."""
    groups = []
    for height, same in groupby(rows, key=lambda row: row["height"]):
        pages = [row["page"] for row in same]
        groups += [(height, pages[i : i + MAX_PAGES]) for i in range(0, len(pages), MAX_PAGES)]
    return groups


def make_anchored(record: AnchoredChain | None, client: Client | None) -> Anchored | None:
    """Return what matters of an anchor chain's record; None if it takes no anchor now.

    A chain let in after the genesis has a client before it has a record.
    """
    if client is None or client.is_frozen or (record and record.status == FORKED):
        return None
    if record is None:
        return Anchored(log_size=0, height=0, heard_ms=0)
    return Anchored(record.log_size, record.height, record.heard_ms)


def is_anchor_due(
    header: Header, anchored: Anchored, params: AnchoringParams, now_ms: int, patience_ms: int = 0
) -> bool:  # fmt: skip
    """Tell whether a chain that has grown should be anchored now.

    It should if it never was, if it is N blocks further, or if half the time is over after which it
    counts as stale: an honest chain with little to do must not look dead. With patience it is left
    to others for so long.
    """
    if header.log_size <= anchored.log_size:
        return False
    waited = patience_ms // BLOCK_MS
    is_late = patience_ms == 0 or now_ms - header.time_ms >= patience_ms
    is_first = anchored.log_size == 0 and is_late
    is_further = header.height >= anchored.height + params.every_blocks + waited
    is_old = (now_ms - anchored.heard_ms - patience_ms) * 2 >= params.stale_after_ms
    return is_first or (anchored.log_size > 0 and is_further) or is_old


def is_renewal_due(client: Client, header: Header, now_ms: int) -> bool:
    """Tell whether half a client's trusting period is over, and a newer header can be shown."""
    age_ms = now_ms - client.latest.time_ms
    is_newer = header.log_size > client.latest.log_size
    return not client.is_frozen and is_newer and age_ms * 2 >= client.trusting_period_ms


# The way to a chain.


class NotTaken(Exception):
    """A transaction was refused at the door and left nothing."""

    def __init__(self, number: int, text: str, values: Mapping[str, object]) -> None:
        super().__init__(text)
        self.number = number
        self.text = text
        self.values = values


class ChainDoor(Protocol):
    """How a chain is read and written. Every method may raise RelayTrouble."""

    chain: str

    def get_genesis(self) -> Genesis:
        """Return the genesis of the chain's network."""

    def get_time_ms(self) -> int:
        """Return the time where the chain is, as far as it is known."""

    def get_final(self) -> FinalHeader | None:
        """Return the newest final header."""

    def get_deliveries(self, destination: str, first: int, limit: int) -> Sequence[Delivery]:
        """Return blocks that hold items for a destination from a sequence on, in order."""

    def get_consistency(self, old: int, new: int) -> Sequence[bytes]:
        """Return the path that ties two sizes of the log."""

    def get_next_expected(self, source: str) -> int | None:
        """Return the sequence expected of a source; None if it can't be taken now."""

    def get_client(self, source: str) -> Client | None:
        """Return what the chain knows of a source."""

    def get_anchored(self, chain: str) -> Anchored | None:
        """As the anchor chain: return what is recorded of a chain; None if it can't record."""

    def submit(self, envelope: bytes) -> str | None:
        """Hand in a transaction and wait; returns None or a rule's refusal in words.

        Raises: NotTaken.
        """


class _Identity(NamedTuple):
    """Who the relay is on a chain, as it follows from the genesis."""

    genesis: Genesis
    network: bytes
    account: bytes
    anchoring: AnchoringParams


class ChainEnd(RelayEnd):
    """A chain behind a door, and the account that signs what is carried there."""

    patience_ms = 0
    """How long anchors are left to others before this relay brings them."""

    def __init__(self, door: ChainDoor, key: SigningKey) -> None:
        self.chain = door.chain
        self._door = door
        self._key = key
        self._sequence = 0
        self._anchored: Anchored | None = None
        self._known: _Identity | None = None

    def _identify(self) -> _Identity:
        """Return who the relay is here, worked out once for each genesis that the door states.

        Raises: RelayTrouble.
        """
        genesis = self._door.get_genesis()
        if self._known is None or self._known.genesis is not genesis:
            self._known = _Identity(
                genesis=genesis,
                network=compute_network_id(genesis),
                account=compute_account(genesis.consortium, self._key.public),
                anchoring=_find_anchoring(genesis, self.chain),
            )
        return self._known

    # As a source.

    def get_deliveries(self, destination: str, first: int, limit: int) -> Sequence[Delivery]:
        """Return blocks that hold items for a destination from a sequence on, in order."""
        return self._door.get_deliveries(destination, first, limit)

    def get_newest(self) -> Anchorage | None:
        """Return this chain's newest final header, with no path."""
        final = self._door.get_final()
        return Anchorage(final.header, final.finality, ()) if final else None

    def get_due_anchor(self, anchor: RelayEnd) -> Anchorage | None:
        """Return what the anchor chain should hear of this chain now, or None."""
        final = self._door.get_final()
        if final is None:
            return None
        header = _decode_header(self.chain, final.header)
        # The anchor chain is asked only where what it said last makes an anchor due: for the most
        # part nobody is asked at all.
        if self._anchored is not None and not self._is_due(header, self._anchored):
            return None
        known = self._anchored = anchor.get_anchored(self.chain)
        if known is None or not self._is_due(header, known):
            return None
        old = known.log_size
        path = self._door.get_consistency(old, header.log_size) if old else ()
        return Anchorage(final.header, final.finality, tuple(path))

    def _is_due(self, header: Header, anchored: Anchored) -> bool:
        params = self._identify().anchoring
        now_ms = self._door.get_time_ms()
        return is_anchor_due(header, anchored, params, now_ms, self.patience_ms)

    # As a destination.

    def get_next_expected(self, source: str) -> int | None:
        """Return the sequence this chain expects from a source; None if it has no client of it."""
        return self._door.get_next_expected(source)

    def receive(self, source: str, deliveries: Sequence[Delivery]) -> str | None:
        """Submit deliveries here in one transaction; returns None or the refusal in words."""
        finalities = self._shorten(source, [one.final.finality for one in deliveries])
        return self._submit(
            [
                make_receive(source, one._replace(final=FinalHeader(one.final.header, finality)))
                for one, finality in zip(deliveries, finalities, strict=True)
            ]
        )

    def _shorten(self, source: str, finalities: Sequence[bytes]) -> list[bytes]:
        """Return finality proofs without what this chain's client of the source needn't see.

        All the hops since the genesis would outgrow a transaction some day.
        """
        try:
            if not any(map(_has_hops, finalities)):
                return [*finalities]
            client = self._door.get_client(source)
            if client is None or client.trusted.consensus is None:
                return [*finalities]
            height = client.trusted.consensus.height
            return [shorten_finality(finality, height) for finality in finalities]
        except ProofError as error:
            raise RelayTrouble(source, str(error)) from None

    def get_anchored(self, chain: str) -> Anchored | None:
        """As the anchor chain: return what is recorded of a chain; None if it can't record."""
        return self._door.get_anchored(chain)

    def submit_anchor(self, chain: str, anchorage: Anchorage) -> str | None:
        """As the anchor chain: submit an anchor; returns None or the refusal in words."""
        return self._submit(
            [
                Anchor(
                    chain=chain,
                    header=anchorage.header,
                    finality=self._shorten(chain, [anchorage.finality])[0],
                    path=anchorage.path,
                )
            ]
        )

    def renew_client(self, source: RelayEnd) -> str | None:
        """Show this chain a newer header of a source if half its trusting period is over."""
        client = self._door.get_client(source.chain)
        newest = source.get_newest()
        if client is None or newest is None:
            return None
        header = _decode_header(source.chain, newest.header)
        if header.log_size <= client.latest.log_size or client.is_frozen:
            return None
        is_due = is_renewal_due(client, header, self._door.get_time_ms())
        if not is_due and not _has_new_validators(client, newest, source.chain):
            return None
        finality = self._shorten(source.chain, [newest.finality])[0]
        update = UpdateClient(chain=source.chain, header=newest.header, finality=finality)
        return self._submit([update])

    # Signing.

    def _submit(self, messages: Sequence[Message]) -> str | None:
        """Sign and hand in as the relay's account; returns None or the refusal in words.

        Which sequence is next is not asked, for a reader without a token would not be told: a
        refusal for a wrong one names the right one.
        """
        text = ""
        for _ in range(MAX_SIGNINGS):
            try:
                refusal = self._door.submit(self._sign(messages))
            except NotTaken as refused:
                text = refused.text
                if refused.number != WrongNonce.number:
                    return text
                self._sequence = _read_expected(self.chain, refused)
            else:
                self._sequence += 1
                return refusal
        return text

    def _sign(self, messages: Sequence[Message]) -> bytes:
        here = self._identify()
        body = Body(
            version=1,
            network=here.network,
            chain=self.chain,
            signers=(Signer(here.account, self._key.public),),
            lane=0,
            sequence=self._sequence,
            valid_until_ms=self._door.get_time_ms() + VALIDITY_MS,
            messages=tuple(messages),
        )
        return sign_transaction(body, [self._key])


def _has_hops(finality: bytes) -> bool:
    """Tell whether a finality proof leads over several light blocks.

    Raises: ProofError.
    """
    is_consensus = finality[:1] == bytes([COMET])
    return is_consensus and len(decode_consensus_finality(finality).hops) > 1


def _has_new_validators(client: Client, newest: Anchorage, chain: str) -> bool:
    """Tell whether a network's validators are others than those the client trusts.

    Shown each change as it comes, a client never has to leap over several.
    """
    if client.trusted.consensus is None:
        return False
    try:
        block = decode_consensus_finality(newest.finality).hops[-1]
    except ProofError as error:
        raise RelayTrouble(chain, str(error)) from None
    return (block.next_validators or block.validators) != client.trusted.consensus.validators


def _find_anchoring(genesis: Genesis, name: str) -> AnchoringParams:
    for chain in genesis.chains:
        for module in chain.modules:
            if chain.name == name and module.number == ANCHORING:
                try:
                    return _decode_anchoring(module.params)
                except Malformed as error:
                    raise RelayTrouble(name, error.text) from None
    raise RelayTrouble(name, f"genesis: expected chain {name} with anchoring, got {genesis.name}")


def _decode_header(chain: str, data: bytes) -> Header:
    try:
        return decode_header(data)
    except Malformed as error:
        raise RelayTrouble(chain, error.text) from None


def _read_expected(chain: str, refused: NotTaken) -> int:
    given = str(refused.values.get("expected"))
    if not given.isascii() or not given.isdigit() or len(given) > 18:
        raise RelayTrouble(chain, f"sequence: expected a number that is right, got {given[:40]!r}")
    return int(given)


# Chains of this process.


class LocalDoor(ChainDoor):
    """One of the chains a node hosts."""

    def __init__(self, node: Node, chain: str) -> None:
        self.chain = chain
        self._node = node
        self._here = node.ledger.chains[chain]

    def get_genesis(self) -> Genesis:
        """Return the genesis of the chain's network."""
        return self._node.genesis

    def get_time_ms(self) -> int:
        """Return the time that the chain's next block will have at least."""
        return max(self._node.engine.clock(), self._node.ledger.time_ms)

    def get_final(self) -> FinalHeader | None:
        """Return the newest final header."""
        return self._node.ledger.published.get(self.chain)

    def get_deliveries(self, destination: str, first: int, limit: int) -> Sequence[Delivery]:
        """Return blocks that hold items for a destination from a sequence on, in order."""
        comet = self._node.config.comet
        patience_ms = comet.relay_patience_ms if comet else 0
        return self._node.get_deliveries(self.chain, destination, first, limit, patience_ms)

    def get_consistency(self, old: int, new: int) -> Sequence[bytes]:
        """Return the path that ties two sizes of the log."""
        return self._here.log.prove_consistency(old, new)

    def get_next_expected(self, source: str) -> int | None:
        """Return the sequence expected of a source; None if it can't be taken now."""
        key = source.encode()
        client, place = self._ask(
            lambda: (CLIENTS.get(self._here, key), IN.get(self._here, key))
        )  # fmt: skip
        if client is None or client.is_frozen:
            return None
        return place.next if place else 0

    def get_client(self, source: str) -> Client | None:
        """Return what the chain knows of a source."""
        return self._ask(lambda: CLIENTS.get(self._here, source.encode()))

    def get_anchored(self, chain: str) -> Anchored | None:
        """As the anchor chain: return what is recorded of a chain; None if it can't record."""
        key = chain.encode()
        return make_anchored(
            *self._ask(lambda: (ANCHORS.get(self._here, key), CLIENTS.get(self._here, key)))
        )

    def _ask(self, question: Callable[[], T]) -> T:
        try:
            return self._node.call(question)
        except EngineStopped as stopped:
            raise RelayTrouble(self.chain, str(stopped)) from stopped

    def submit(self, envelope: bytes) -> str | None:
        """Hand in a transaction and wait; returns None or a rule's refusal in words.

        Raises: NotTaken.
        """
        try:
            inclusion = self._node.submit(self.chain, envelope).result()
        except Refused as refusal:
            raise NotTaken(refusal.number, refusal.text, refusal.values) from None
        except (EngineBusy, EngineStopped) as trouble:
            raise RelayTrouble(self.chain, str(trouble)) from trouble
        error = inclusion.receipt.error
        return None if error is None else f"{error.number} {error.text}"


class LocalEnd(ChainEnd):
    """One of the chains a node hosts, as its own relay meets it."""

    def __init__(self, node: Node, chain: str) -> None:
        super().__init__(LocalDoor(node, chain), node.keys.get(RELAY_KEY))
        if node.config.comet is not None:
            self.patience_ms = node.config.comet.relay_patience_ms
