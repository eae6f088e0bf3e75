"""Making of proofs out of a node's block log and tiles; the judging of them is in proof.py."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hansa.core.block import (
    TRANSACTION,
    BlockRecord,
    ChainRecord,
    Receipt,
    compute_event_hashes,
    compute_event_salt,
    decode_entry,
    decode_header,
    decode_stored_receipt,
)
from hansa.core.codec import encode
from hansa.core.errors import NotThere as NotThere  # noqa: PLC0414 - told on to those who ask
from hansa.core.finality import FinalHeader
from hansa.core.ledger import Ledger
from hansa.core.merkle import compute_inclusion_path, leaf_hash
from hansa.core.proof import (
    AnyFact,
    BlockFact,
    Bundle,
    ConsistencyFact,
    DisclosureFact,
    EventFact,
    Leaf,
    PageFact,
    TransactionFact,
)


class Place(NamedTuple):
    """Where a fact stands."""

    chain: str
    height: int
    leaf: int


@dataclass(frozen=True, slots=True)
class PageProof:
    """A page of a block's outbox and its path to the header's outbox root."""

    page: bytes
    index: int
    path: tuple[bytes, ...]


class Delivery(NamedTuple):
    """All that a destination needs to believe some pages of one block."""

    final: FinalHeader
    pages: tuple[PageProof, ...]
    end: int
    """Sequence after the last item."""


class NotFinal(NotThere):
    """A fact that nothing makes final yet; it will be, with one of the next blocks."""


def get_chain_record(ledger: Ledger, chain: str, height: int) -> ChainRecord:
    """Return a chain's part of a durable block.

    Raises: NotThere where the chain had no entry at that height.
    """
    if not 0 <= height < ledger.block_log.durable_height:
        raise NotThere(f"height: expected 0 to {ledger.height}, got {height}")
    return find_chain(ledger.read_block(height), chain)


def find_chain(record: BlockRecord, chain: str) -> ChainRecord:
    """Return a chain's part of a block.

    Raises: NotThere where the chain had no entry in it.
    """
    for part in record.chains:
        if part.chain == chain and part.header is not None:
            return part
    raise NotThere(f"height: expected a block of chain {chain}, got {record.height}")


def prove_places(ledger: Ledger, places: Sequence[Place]) -> Bundle:
    """Return one bundle of whole transactions or block receipts, under one header a chain.

    Raises: NotThere.
    """
    finals = {chain: ledger.published[chain] for chain in sorted({p.chain for p in places})}
    facts = [_prove_place(ledger, place, finals[place.chain]) for place in places]
    return _make_bundle(ledger, finals, facts)


def prove_event(ledger: Ledger, place: Place, event_index: int) -> Bundle:
    """Return the bundle of one event alone.

    Raises: NotThere.
    """
    final = ledger.published[place.chain]
    fact = _make_event_fact(ledger, place, event_index, final)
    return _make_bundle(ledger, {place.chain: final}, [fact])


def prove_disclosure(
    ledger: Ledger, place: Place, event_index: int, salt: bytes, content: bytes
) -> Bundle:
    """Return the bundle of content kept off the chain and the event that commits to it.

    Raises: NotThere.
    """
    final = ledger.published[place.chain]
    event = _make_event_fact(ledger, place, event_index, final)
    fact = DisclosureFact(event=event, salt=salt, content=content)
    return _make_bundle(ledger, {place.chain: final}, [fact])


def prove_consistency(ledger: Ledger, chain: str, old_height: int) -> Bundle:
    """Return the bundle that ties an earlier header of a chain to the newest.

    Raises: NotThere.
    """
    final = ledger.published[chain]
    part = get_chain_record(ledger, chain, old_height)
    assert part.header is not None
    new_size = decode_header(final.header).log_size
    path = ledger.chains[chain].log.prove_consistency(part.header.log_size, new_size)
    finality = require_finality(ledger, ledger.read_block(old_height), chain)
    fact = ConsistencyFact(
        chain=chain, header=encode(part.header), finality=finality, path=tuple(path)
    )
    return _make_bundle(ledger, {chain: final}, [fact])


def prove_packets(ledger: Ledger, chain: str, height: int, page: int) -> Bundle:
    """Return the bundle of one page of packets, under the header of its own block.

    Raises: NotThere.
    """
    delivery = make_delivery(ledger, ledger.read_block(height), chain, [page])
    proof = delivery.pages[0]
    fact = PageFact(chain=chain, page=proof.page, index=proof.index, path=proof.path)
    return _make_bundle(ledger, {chain: delivery.final}, [fact])


def require_finality(ledger: Ledger, record: BlockRecord, chain: str) -> bytes:
    """Return what makes a chain's header of a block final.

    Raises: NotFinal while nothing does: consensus shows it with the block after.
    """
    finality = ledger.find_finality(record, chain)
    if finality is None:
        raise NotFinal(f"height: expected a block that is final, got {record.height}")
    return finality


def make_delivery(
    ledger: Ledger, record: BlockRecord, chain: str, pages: Sequence[int]
) -> Delivery:
    """Return pages of a block's outbox with their proofs and the block's final header.

    Raises: NotThere, NotFinal.
    """
    part = find_chain(record, chain)
    encoded = [encode(page) for page in part.pages]
    hashes = [leaf_hash(page) for page in encoded]
    if any(not 0 <= page < len(encoded) for page in pages):
        raise NotThere(
            f"page: expected one of {len(encoded)} of block {record.height}, got {pages}"
        )
    proofs = tuple(
        PageProof(encoded[page], page, tuple(compute_inclusion_path(hashes, page)))
        for page in pages
    )
    last = part.pages[max(pages)]
    finality = require_finality(ledger, record, chain)
    final = FinalHeader(header=encode(part.header), finality=finality)
    return Delivery(final, proofs, last.first + len(last.items))


def _make_bundle(
    ledger: Ledger, finals: dict[str, FinalHeader], facts: Sequence[AnyFact]
) -> Bundle:
    headers = tuple(finals[chain] for chain in sorted(finals))
    ordered = {encode(fact): fact for fact in facts}
    return Bundle(
        version=1,
        network=ledger.network,
        headers=headers,
        facts=tuple(ordered[key] for key in sorted(ordered)),
    )


def _make_leaf(ledger: Ledger, place: Place, final: FinalHeader) -> Leaf:
    log = ledger.chains[place.chain].log
    size = decode_header(final.header).log_size
    if not 0 <= place.leaf < size:
        raise NotThere(f"entry: expected one of {size} of chain {place.chain}, got {place.leaf}")
    path = tuple(log.prove_inclusion(place.leaf, size))
    return Leaf(chain=place.chain, index=place.leaf, entry=log.entry(place.leaf), path=path)


def _find_receipt(part: ChainRecord, leaf: int) -> tuple[int, bytes]:
    """Return the position of an entry in its block, and its receipt."""
    assert part.header is not None
    position = leaf - (part.header.log_size - len(part.receipts))
    if not 0 <= position < len(part.receipts):
        raise NotThere(f"entry: expected one of block {part.header.height}, got {leaf}")
    return position, part.receipts[position]


def _prove_place(ledger: Ledger, place: Place, final: FinalHeader) -> AnyFact:
    part = get_chain_record(ledger, place.chain, place.height)
    leaf = _make_leaf(ledger, place, final)
    position, receipt = _find_receipt(part, place.leaf)
    if decode_entry(leaf.entry).kind != TRANSACTION:
        return BlockFact(leaf=leaf, receipt=receipt)
    before = len(part.receipts) - len(part.envelopes)
    envelope = part.envelopes[position - before]
    return TransactionFact(leaf=leaf, envelope=envelope, receipt=receipt)


def get_receipt(ledger: Ledger, place: Place) -> Receipt:
    """Return the receipt at a place.

    Raises: NotThere.
    """
    part = get_chain_record(ledger, place.chain, place.height)
    return decode_stored_receipt(_find_receipt(part, place.leaf)[1])


def _make_event_fact(
    ledger: Ledger, place: Place, event_index: int, final: FinalHeader
) -> EventFact:
    receipt = get_receipt(ledger, place)
    if not 0 <= event_index < len(receipt.events):
        raise NotThere(f"event: expected one of {len(receipt.events)}, got {event_index}")
    hashes = compute_event_hashes(receipt.salt, receipt.events)
    return EventFact(
        leaf=_make_leaf(ledger, place, final),
        event=receipt.events[event_index],
        salt=compute_event_salt(receipt.salt, event_index),
        index=event_index,
        path=tuple(compute_inclusion_path(hashes, event_index)),
    )
