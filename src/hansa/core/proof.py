"""Proof files: a fact, why it is in the log, why the log is final. Judged offline, by pure code.

A proof file is eight bytes of magic and one strict MessagePack value. It carries only what is
checked: changing any byte makes it invalid. Verifiers number their steps and answer valid, invalid,
or cannot tell (when nothing is wrong, but the trust given doesn't reach).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from hansa.core.block import (
    DEADLINES,
    GENESIS,
    TRANSACTION,
    Entry,
    Header,
    Receipt,
    Salt,
    compute_event_hash,
    compute_events_root,
    compute_salt,
    decode_entry,
    decode_header,
    decode_receipt,
    receipt_digest,
)
from hansa.core.codec import U32, U63, ChainName, Raw32, Value, encode, make_decoder
from hansa.core.errors import Malformed
from hansa.core.finality import FinalHeader, Finality, TrustedNetwork, verify_header
from hansa.core.hashing import Digest, digester
from hansa.core.keys import verify_signatures
from hansa.core.lightclient import HeaderFromFuture, NotEnoughTrust, TrustExpired
from hansa.core.merkle import ProofError, leaf_hash, verify_consistency, verify_inclusion
from hansa.core.packet import decode_page
from hansa.core.transaction import (
    MAX_TRANSACTION_BYTES,
    decode_envelope,
    envelope_digest,
    signing_hash,
)

MAGIC: Final = b"hansa\x00\xb1\x01"
"""Name, a zero, the type byte of a bundle, the version of the format."""

MAX_BUNDLE_BYTES: Final = 16 * 1024 * 1024
MAX_FACTS: Final = 10_000
MAX_PATH: Final = 63

Path = Annotated[tuple[Raw32, ...], Meta(max_length=MAX_PATH)]

commitment_digest = digester("commitment")


def compute_commitment(salt: bytes, content: bytes) -> bytes:
    """Return the salted commitment to content kept off the chain: 33 bytes.

    ``salt`` is 16 random bytes; once salt and content are destroyed the digest tells nothing.
    """
    return commitment_digest(salt + content)


class Leaf(Value):
    """An entry and its place in the log of a final header."""

    chain: ChainName
    index: U63
    entry: Annotated[bytes, Meta(max_length=512)]
    path: Path
    """RFC 9162 inclusion path up to the header's log root."""


class TransactionFact(Value, tag=1):
    """A transaction and its receipt, whole."""

    leaf: Leaf
    envelope: Annotated[bytes, Meta(max_length=MAX_TRANSACTION_BYTES)]
    receipt: Annotated[bytes, Meta(max_length=4 * 1024 * 1024)]


class BlockFact(Value, tag=2):
    """The receipt of a genesis or of a block's deadlines: there is no envelope."""

    leaf: Leaf
    receipt: Annotated[bytes, Meta(max_length=4 * 1024 * 1024)]


class EventFact(Value, tag=3):
    """One event alone; the others of its receipt stay hidden behind their salts."""

    leaf: Leaf
    event: Annotated[bytes, Meta(max_length=MAX_TRANSACTION_BYTES)]
    salt: Salt
    index: U32
    path: Path
    """Up to the entry's events root."""


class DisclosureFact(Value, tag=4):
    """Content kept off the chain, and the event that holds the salted commitment to it."""

    event: EventFact
    salt: Salt
    content: Annotated[bytes, Meta(max_length=1024 * 1024)]


class PageFact(Value, tag=5):
    """Packets that a chain sends to another, as its header commits to them."""

    chain: ChainName
    page: Annotated[bytes, Meta(max_length=64 * 1024)]
    index: U32
    path: Path
    """Up to the header's outbox root."""


class ConsistencyFact(Value, tag=6):
    """That an earlier final header and the one in the bundle belong to one history."""

    chain: ChainName
    header: Annotated[bytes, Meta(max_length=1024)]
    finality: Finality
    path: Path


AnyFact = TransactionFact | BlockFact | EventFact | DisclosureFact | PageFact | ConsistencyFact


class Bundle(Value):
    """Facts about one network, each under one of the final headers."""

    version: Literal[1]
    network: Digest
    headers: Annotated[tuple[FinalHeader, ...], Meta(min_length=1, max_length=64)]
    """One for each chain, sorted by the chain's name; each is used by a fact."""
    facts: Annotated[tuple[AnyFact, ...], Meta(min_length=1, max_length=MAX_FACTS)]
    """In rising order of their encodings, none twice."""


decode_bundle: Callable[[bytes], Bundle] = make_decoder(Bundle, "bundle")


class Trust(Value):
    """The networks a verifier trusts, and by which keys."""

    networks: Annotated[tuple[TrustedNetwork, ...], Meta(max_length=1_000)]


class Outcome(Enum):
    """A verifier's answer."""

    VALID = "valid"
    INVALID = "invalid"
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True)
class ProvenFact:
    """What a valid bundle proves, decoded as far as no module is needed."""

    kind: str
    chain: str
    height: int
    time_ms: int
    """Of the header it is final under, which may be later than the fact's block."""
    index: int | None
    events: tuple[bytes, ...] = ()
    receipt: Receipt | None = None
    envelope: bytes | None = None
    content: bytes | None = None


@dataclass
class Judgement:
    """The answer, the steps that led to it, and what is proven."""

    outcome: Outcome
    steps: list[str] = field(default_factory=list)
    reason: str = ""
    facts: list[ProvenFact] = field(default_factory=list)


def pack_bundle(bundle: Bundle) -> bytes:
    """Return the bytes of a proof file."""
    return MAGIC + encode(bundle)


def unpack_bundle(data: bytes) -> Bundle:
    """Read a proof file strictly.

    Raises: ProofError if it is too large, not a proof file, or not in its one encoding.
    """
    if len(data) > MAX_BUNDLE_BYTES:
        raise ProofError(f"file: expected at most {MAX_BUNDLE_BYTES} bytes, got {len(data)}")
    if data[: len(MAGIC)] != MAGIC:
        raise ProofError(f"file: expected to begin with {MAGIC!r}, got {data[: len(MAGIC)]!r}")
    try:
        return decode_bundle(data[len(MAGIC) :])
    except Malformed as error:
        raise ProofError(error.text) from None


_DOUBTS: Final[dict[type[ProofError], str]] = {
    TrustExpired: "the trust in the network's validators has expired, newer trust may tell",
    NotEnoughTrust: "the trusted validators are not those of this proof, other trust may tell",
    HeaderFromFuture: "the proof is of a time to come, or this machine's clock is wrong",
}
"""Why a file may be good though it is not believed."""


def verify_bundle(data: bytes, trust: Trust, now_ms: int | None = None) -> Judgement:
    """Judge a proof file against what the verifier trusts; no I/O, no clock.

    ``now_ms`` is the verifier's time: trust in the validators of a network on CometBFT ends with
    its trusting period. Without it only the order of the headers' own times is judged.

    Steps: 1 the file is well-formed, its facts in order and none twice; 2 its network is trusted;
    3 each header is final; 4 each fact stands under its header; 5 nothing in the file is unused.
    """
    judgement = Judgement(Outcome.INVALID)
    try:
        bundle = unpack_bundle(data)
        _check_order(bundle.facts)
        judgement.steps.append(f"1 well-formed: {len(bundle.facts)} facts in {len(data)} bytes")
        trusted = next((t for t in trust.networks if t.network == bundle.network), None)
        if trusted is None:
            judgement.outcome = Outcome.CANNOT_TELL
            judgement.reason = f"network {bundle.network.hex()} is not among those trusted"
            return judgement
        judgement.steps.append(f"2 network {bundle.network.hex()} is trusted")
        headers = _verify_headers(bundle, trusted, now_ms)
        for name, header in headers.items():
            text = f"3 {name}: log of {header.log_size} entries at height {header.height} is final"
            judgement.steps.append(text)
        used: set[str] = set()
        for number, fact in enumerate(bundle.facts, 1):
            proven = _verify_fact(fact, headers, trusted, now_ms)
            used.add(proven.chain)
            judgement.facts.append(proven)
            judgement.steps.append(f"4.{number} {_describe(proven)}")
        _check_all_used(headers, used)
        judgement.steps.append("5 every byte of the file was needed")
    except ProofError as error:
        judgement.reason = str(error)
        judgement.facts = []
        for kind, doubt in _DOUBTS.items():
            if isinstance(error, kind):
                judgement.outcome = Outcome.CANNOT_TELL
                judgement.reason = f"{doubt}; {error}"
        return judgement
    judgement.outcome = Outcome.VALID
    return judgement


def _describe(proven: ProvenFact) -> str:
    place = "" if proven.index is None else f", entry {proven.index}"
    return f"{proven.kind} on {proven.chain}{place}, height {proven.height}"


def _verify_headers(
    bundle: Bundle, trusted: TrustedNetwork, now_ms: int | None
) -> dict[str, Header]:
    headers: dict[str, Header] = {}
    for final in bundle.headers:
        try:
            chain = decode_header(final.header).chain
        except Malformed as error:
            raise ProofError(error.text) from None
        if headers and chain <= max(headers):
            raise ProofError(f"headers: expected one a chain, sorted by name, got {chain!r} next")
        headers[chain] = verify_header(final.header, final.finality, chain, trusted, now_ms=now_ms)
    return headers


def _check_order(facts: Sequence[AnyFact]) -> None:
    # One order, so that no two files say the same, and no fact is counted twice.
    encoded = [encode(fact) for fact in facts]
    for index, (left, right) in enumerate(pairwise(encoded), 1):
        if left >= right:
            raise ProofError(f"facts: expected rising order of their encodings, got {index} out")


def _check_all_used(headers: dict[str, Header], used: Any) -> None:
    for name in headers:
        if name not in used:
            raise ProofError(f"headers: expected only those a fact needs, got {name} too")


def _header_of(chain: str, headers: dict[str, Header]) -> Header:
    header = headers.get(chain)
    if header is None:
        raise ProofError(f"fact: expected a header of chain {chain}, got none")
    return header


def _verify_fact(
    fact: AnyFact, headers: dict[str, Header], trusted: TrustedNetwork, now_ms: int | None
) -> ProvenFact:
    if isinstance(fact, TransactionFact):
        return _verify_transaction(fact, headers)
    if isinstance(fact, BlockFact):
        return _verify_block_fact(fact, headers)
    if isinstance(fact, EventFact):
        return verify_event_fact(fact, headers)
    if isinstance(fact, DisclosureFact):
        return _verify_disclosure(fact, headers)
    if isinstance(fact, PageFact):
        return _verify_page(fact, headers)
    return _verify_consistency_fact(fact, headers, trusted, now_ms)


def verify_leaf(leaf: Leaf, headers: dict[str, Header]) -> Entry:
    """Check that an entry is in the log of its chain's header.

    Raises: ProofError.
    """
    header = _header_of(leaf.chain, headers)
    verify_inclusion(leaf_hash(leaf.entry), leaf.index, header.log_size, leaf.path, header.log_root)
    try:
        return decode_entry(leaf.entry)
    except Malformed as error:
        raise ProofError(error.text) from None


def _verify_receipt(receipt_bytes: bytes, entry: Entry) -> Receipt:
    if receipt_digest(receipt_bytes) != entry.receipt:
        raise ProofError("receipt: expected the one the entry is the digest of, got another")
    try:
        receipt = decode_receipt(receipt_bytes)
    except Malformed as error:
        raise ProofError(error.text) from None
    place = (receipt.source, receipt.height, receipt.index)
    if place != (entry.source, entry.height, entry.index):
        raise ProofError("receipt: expected source, height and index of the entry, got others")
    root = compute_events_root(receipt.salt, receipt.events)
    if (len(receipt.events), root) != (entry.event_count, entry.events_root):
        raise ProofError("events: expected those the entry commits to, got others")
    return receipt


def _verify_transaction(fact: TransactionFact, headers: dict[str, Header]) -> ProvenFact:
    entry = verify_leaf(fact.leaf, headers)
    if entry.kind != TRANSACTION:
        raise ProofError(f"entry: expected kind {TRANSACTION}, got {entry.kind}")
    if envelope_digest(fact.envelope) != entry.source:
        raise ProofError("envelope: expected the one the entry is the digest of, got another")
    receipt = _verify_receipt(fact.receipt, entry)
    if compute_salt(fact.envelope) != receipt.salt:
        raise ProofError("salt: expected the one derived from the envelope, got another")
    _verify_envelope(fact.envelope, headers[fact.leaf.chain])
    return ProvenFact(
        "transaction",
        fact.leaf.chain,
        entry.height,
        headers[fact.leaf.chain].time_ms,
        fact.leaf.index,
        receipt.events,
        receipt,
        fact.envelope,
    )


class _Head(Value):
    """The front of a body, whatever its messages."""

    version: int
    network: bytes
    chain: str
    signers: tuple[tuple[bytes, bytes], ...]


def _verify_envelope(data: bytes, header: Header) -> None:
    """Check the signatures again; the log proves acceptance, this proves who asked."""
    try:
        envelope = decode_envelope(data)
        parts = msgspec.msgpack.decode(envelope.body, type=tuple[Any, ...])
        head = msgspec.convert(parts[:4], _Head)
    except (Malformed, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProofError(f"envelope: expected a well-formed one, got {error}") from None
    if (head.network, head.chain) != (header.network, header.chain):
        raise ProofError(f"body: expected network and chain of the header, got {head.chain}")
    digest = signing_hash(envelope.body)
    if len(head.signers) != len(envelope.signatures):
        raise ProofError(
            f"signatures: expected {len(head.signers)}, got {len(envelope.signatures)}"
        )
    pairs = zip(head.signers, envelope.signatures, strict=True)
    claims = [(key, signature, digest) for (_, key), signature in pairs]
    if not all(verify_signatures(claims)):
        raise ProofError("signatures: expected one of each signer over the body, got another")


def _verify_block_fact(fact: BlockFact, headers: dict[str, Header]) -> ProvenFact:
    entry = verify_leaf(fact.leaf, headers)
    if entry.kind not in (GENESIS, DEADLINES):
        raise ProofError(f"entry: expected kind {GENESIS} or {DEADLINES}, got {entry.kind}")
    receipt = _verify_receipt(fact.receipt, entry)
    kind = "genesis" if entry.kind == GENESIS else "deadlines"
    time_ms = headers[fact.leaf.chain].time_ms
    chain, index = fact.leaf.chain, fact.leaf.index
    return ProvenFact(kind, chain, entry.height, time_ms, index, receipt.events, receipt)


def verify_event_fact(fact: EventFact, headers: dict[str, Header]) -> ProvenFact:
    """Check one event against its entry and the log.

    Raises: ProofError.
    """
    entry = verify_leaf(fact.leaf, headers)
    event_hash = compute_event_hash(fact.salt, fact.event)
    verify_inclusion(event_hash, fact.index, entry.event_count, fact.path, entry.events_root)
    time_ms = headers[fact.leaf.chain].time_ms
    chain, index = fact.leaf.chain, fact.leaf.index
    return ProvenFact("event", chain, entry.height, time_ms, index, (fact.event,))


def _verify_disclosure(fact: DisclosureFact, headers: dict[str, Header]) -> ProvenFact:
    proven = verify_event_fact(fact.event, headers)
    commitment = compute_commitment(fact.salt, fact.content)
    try:
        event = msgspec.msgpack.decode(fact.event.event)
        is_held = _holds(event, commitment)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProofError(f"event: expected MessagePack, got {error}") from None
    if not is_held:
        raise ProofError("content: expected the one the event commits to, got another")
    return ProvenFact(
        "disclosure",
        proven.chain,
        proven.height,
        proven.time_ms,
        proven.index,
        proven.events,
        content=fact.content,
    )


def _holds(value: Any, wanted: bytes) -> bool:
    if isinstance(value, list | tuple):
        return any(_holds(item, wanted) for item in value)
    return bool(value == wanted)


def _verify_page(fact: PageFact, headers: dict[str, Header]) -> ProvenFact:
    header = _header_of(fact.chain, headers)
    page_hash, size = leaf_hash(fact.page), header.outbox_size
    verify_inclusion(page_hash, fact.index, size, fact.path, header.outbox_root)
    try:
        page = decode_page(fact.page)
    except Malformed as error:
        raise ProofError(error.text) from None
    return ProvenFact("packets", fact.chain, header.height, header.time_ms, None, page.items)


def _verify_consistency_fact(
    fact: ConsistencyFact, headers: dict[str, Header], trusted: TrustedNetwork, now_ms: int | None
) -> ProvenFact:
    new = _header_of(fact.chain, headers)
    old = verify_header(fact.header, fact.finality, fact.chain, trusted, now_ms=now_ms)
    verify_consistency(old.log_size, old.log_root, new.log_size, new.log_root, fact.path)
    return ProvenFact("consistency", fact.chain, old.height, old.time_ms, None)
