"""Link's nouns: clients, packets in flight, proofs of pages, and what can go wrong with them."""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from hansa.core.codec import (
    U8,
    U32,
    U63,
    ChainName,
    DurationMs,
    Name,
    ObjectId,
    Raw32,
    ShortText,
    TimeMs,
    Value,
    encode,
)
from hansa.core.errors import Rejected
from hansa.core.evidence import Evidence, HeaderBytes
from hansa.core.finality import Finality, TrustedNetwork
from hansa.core.hashing import ZERO_DIGEST, Digest, digester
from hansa.core.keys import PublicKey
from hansa.core.lightclient import TrustedConsensus
from hansa.core.merkle import EMPTY_ROOT
from hansa.core.packet import MAX_PAGE_BYTES
from hansa.core.transaction import Event, Message, message_number

MODULE: Final = 1
"""Module number."""
MAX_PEERS: Final = 63
MAX_PAGE_PROOFS: Final = 64
"""Pages in one message; the 64 KiB of a transaction usually end it sooner."""
MAX_PAGE_PATH: Final = 32
MAX_ENCODED_PAGE_BYTES: Final = 2 * MAX_PAGE_BYTES
MAX_REASON_BYTES: Final = 200
"""Of a proof's failure, as an error shows it."""

MAX_EARLIER: Final = 16
"""Changes of a network's validators that a client remembers; the oldest are forgotten."""

MAX_FROZEN_REASON: Final = 64
"""ASCII characters, as the record and its column hold them."""

# Records.


class Latest(Value):
    """The newest header a client has verified."""

    height: U63
    time_ms: TimeMs
    """Block time; from here the trusting period runs."""
    log_size: U63
    """0 while nothing was heard yet."""
    log_root: Raw32
    app_hash: Digest


class Client(Value):
    """What this chain knows of another: its light client."""

    chain: ChainName
    trusted: TrustedNetwork
    trusting_period_ms: DurationMs
    """How long after its newest header the client may still be used."""
    latest: Latest
    is_frozen: bool
    """True after a proven fork, until governance recovers the client."""
    frozen_reason: ShortText
    """What the evidence showed; empty unless frozen."""


class NextSequence(Value):
    """Place of the next item of a stream."""

    next: U63


class Pending(Value):
    """A packet sent and not yet acknowledged."""

    module: U8
    """Who sent it, at this chain."""
    deadline_ms: TimeMs
    height: U63
    """Block that sent it."""


class PeerGenesis(Value):
    """A chain that a client is opened of when the network starts."""

    chain: ChainName
    network: Digest | None
    """None for this same network, whose id can't stand in its own genesis."""
    validators: Annotated[tuple[PublicKey, ...], Meta(min_length=1, max_length=100)]
    consensus: TrustedConsensus | None
    """Whose votes make its blocks final; None for a network of the solo engine."""


class LinkParams(Value):
    """What the genesis says to link on a chain."""

    peers: Annotated[tuple[PeerGenesis, ...], Meta(max_length=MAX_PEERS)]
    trusting_period_ms: DurationMs
    max_clock_drift_ms: DurationMs
    """How far a header's time may lie ahead of this chain's block time."""
    heartbeat_ms: DurationMs
    """How often the chain makes an entry though nobody asks for one, so that its newest header
    stays young enough to renew the clients that others have of it; 0 for never."""
    open_purpose: Name
    """Purpose of a resolution that opens a client."""
    recover_purpose: Name
    """Purpose of a resolution that recovers one."""


class Peers(Value):
    """The chains with a client here, in byte order."""

    chains: Annotated[tuple[ChainName, ...], Meta(max_length=MAX_PEERS)]


class EarlierTrust(Value):
    """What a client trusted before its chain's validators changed, each time; heights rise.

    A block of then that comes late is signed by validators of whom hardly any may be left.
    """

    trusts: Annotated[tuple[TrustedConsensus, ...], Meta(max_length=MAX_EARLIER)]


# Messages.


class PageProof(Value):
    """A page and its place under the outbox root of a header."""

    page: Annotated[bytes, Meta(min_length=1, max_length=MAX_ENCODED_PAGE_BYTES)]
    index: U32
    """Among the pages of that block, whose number its header states."""
    path: Annotated[tuple[Raw32, ...], Meta(max_length=MAX_PAGE_PATH)]
    """RFC 9162 inclusion path, §2.1.3."""


class Receive(Message, tag=message_number(1, 1)):
    """Take what another chain sent here; anyone may carry it."""

    source: ChainName
    header: HeaderBytes
    """Of the block that sent the pages."""
    finality: Finality
    pages: Annotated[tuple[PageProof, ...], Meta(min_length=1, max_length=MAX_PAGE_PROOFS)]
    """Of that one block, in the order of their sequences."""


class UpdateClient(Message, tag=message_number(1, 2)):
    """Show a client a newer header, so that its trusting period runs anew; anyone may."""

    chain: ChainName
    header: HeaderBytes
    finality: Finality


class SubmitEvidence(Message, tag=message_number(1, 3)):
    """Prove that a chain has forked; anyone may."""

    chain: ChainName
    evidence: Evidence


class OpenClient(Message, tag=message_number(1, 4)):
    """Begin to trust another chain, by resolution."""

    chain: ChainName
    trusted: TrustedNetwork
    trusting_period_ms: DurationMs
    resolution: ObjectId
    """Passed for the open purpose and :func:`compute_subject` of this message."""


class RecoverClient(Message, tag=message_number(1, 5)):
    """Trust a frozen or expired client's chain again, by resolution; its sequences stay."""

    chain: ChainName
    trusted: TrustedNetwork
    """Of the same network; the validators may be others than before."""
    trusting_period_ms: DurationMs
    header: HeaderBytes
    """The history that is believed from now on."""
    finality: Finality
    resolution: ObjectId
    """Passed for the recover purpose and :func:`compute_subject` of this message."""


_subject_digest = digester("link-resolution")


def compute_subject(message: OpenClient | RecoverClient) -> bytes:
    """Return what a resolution must be about: the digest of the message without its resolution."""
    return _subject_digest(encode(msgspec.structs.replace(message, resolution=bytes(16))))


# Events.


class ClientOpened(Event, tag=message_number(1, 0x81)):
    """A chain can be heard from now on."""

    client: Client


class ClientUpdated(Event, tag=message_number(1, 0x82)):
    """A newer header was verified."""

    client: Client


class ForkRecorded(Event, tag=message_number(1, 0x83)):
    """A chain was proven to have forked; its client is frozen."""

    client: Client
    evidence: Digest


class ClientRecovered(Event, tag=message_number(1, 0x84)):
    """Governance has settled which history of the chain holds."""

    client: Client


class Sent(Event, tag=message_number(1, 0x85)):
    """A packet waits for a relay."""

    destination: ChainName
    sequence: U63
    module: U8
    """Number of the module that sent it and of the one that takes it, which needn't be the same."""
    receiver: U8
    deadline_ms: TimeMs


class Acknowledged(Event, tag=message_number(1, 0x86)):
    """A packet sent from here has ended."""

    destination: ChainName
    sequence: U63
    module: U8
    deadline_ms: TimeMs
    sent_height: U63
    outcome: Literal[0, 1, 2]
    """DONE, REFUSED or EXPIRED at the destination."""
    number: U32
    text: Annotated[str, Meta(max_length=512)]


class Received(Event, tag=message_number(1, 0x87)):
    """Items of another chain were taken, in order."""

    source: ChainName
    height: U63
    """Block of the source that sent them."""
    first: U63
    """Sequence of the first item taken."""
    count: U32


class PacketRefused(Event, tag=message_number(1, 0x88)):
    """A packet arrived and took no effect."""

    source: ChainName
    sequence: U63
    outcome: Literal[1, 2]
    """REFUSED or EXPIRED."""
    number: U32
    text: Annotated[str, Meta(max_length=512)]


class AcknowledgementUnheard(Event, tag=message_number(1, 0x89)):
    """An acknowledgement ended a packet, or none, and the sending module made nothing of it."""

    destination: ChainName
    sequence: U63
    number: U32
    """Error of the sending module, or that of UnknownPacket or NoSuchModule."""
    text: Annotated[str, Meta(max_length=512)]


class Beaten(Event, tag=message_number(1, 0x8A)):
    """The heart beat: nothing happened but time, and the log shows it."""

    next_ms: TimeMs
    """When it beats again."""


# Errors.


class UnknownClient(Rejected):
    number = 1001
    says = "chain: expected one that chain {here} has a client of, got {chain}"


class ClientFrozen(Rejected):
    number = 1002
    says = "chain: expected a client that isn't frozen, got {chain}: {reason}"


class ClientExpired(Rejected):
    number = 1003
    says = "time: expected a block time up to {limit} for the client of {chain}, got {given}"


class BadPage(Rejected):
    number = 1004
    says = "pages[{index}]: expected a well-formed page, got {given} other bytes"


class WrongDestination(Rejected):
    number = 1005
    says = "pages[{index}].destination: expected {expected}, got {given}"


class SequenceGap(Rejected):
    number = 1006
    says = "pages[{index}].first: expected {expected} or less, got {given}"


class AlreadyReceived(Rejected):
    number = 1007
    says = "pages: expected an item with sequence {expected}, got the last with {given}"


class BadHeader(Rejected):
    number = 1008
    says = "header: expected a final one of chain {chain}; {reason}"


class HeaderFromFuture(Rejected):
    number = 1009
    says = "header.time_ms: expected at most {limit}, got {given}"


class BadPageProof(Rejected):
    number = 1010
    says = "pages[{index}]: expected a page under the header's outbox root; {reason}"


class NotMonotonic(Rejected):
    number = 1011
    says = "header: expected height, time and log to grow from {expected}, got {given}"


class NotNewer(Rejected):
    number = 1012
    says = "header.log_size: expected more than {expected}, got {given}"


class NotEvidence(Rejected):
    number = 1013
    says = "evidence: expected two statements of {chain} that can't both be true; {reason}"


class ClientExists(Rejected):
    number = 1014
    says = "chain: expected one without a client here, got {chain}"


class OtherNetwork(Rejected):
    number = 1015
    says = "trusted.network: expected {expected}, got {given}"


class OwnChain(Rejected):
    number = 1016
    says = "chain: expected another chain than this one, got {chain}"


class TooManyClients(Rejected):
    number = 1017
    says = "chain: expected at most {limit} clients, got {chain} as one more"


class NoSuchModule(Rejected):
    number = 1018
    says = "module: expected one that takes packets on chain {here}, got {module}"


class MalformedItem(Rejected):
    number = 1019
    says = "item: expected a packet or an acknowledgement, got {given} other bytes"


class MalformedPayload(Rejected):
    number = 1020
    says = "payload: expected one that module {module} can read, got {given} other bytes"


class UnknownPacket(Rejected):
    number = 1021
    says = "sequence: expected a packet to {chain} that waits, got {given}"


ERRORS: Final[tuple[type[Rejected], ...]] = (
    UnknownClient,
    ClientFrozen,
    ClientExpired,
    BadPage,
    WrongDestination,
    SequenceGap,
    AlreadyReceived,
    BadHeader,
    HeaderFromFuture,
    BadPageProof,
    NotMonotonic,
    NotNewer,
    NotEvidence,
    ClientExists,
    OtherNetwork,
    OwnChain,
    TooManyClients,
    NoSuchModule,
    MalformedItem,
    MalformedPayload,
    UnknownPacket,
)

EVENTS: Final[tuple[type[Event], ...]] = (
    ClientOpened,
    ClientUpdated,
    ForkRecorded,
    ClientRecovered,
    Sent,
    Acknowledged,
    Received,
    PacketRefused,
    AcknowledgementUnheard,
    Beaten,
)


def make_unheard(time_ms: int) -> Latest:
    """Return what a client starts with: nothing heard, trusted from now on."""
    return Latest(height=0, time_ms=time_ms, log_size=0, log_root=EMPTY_ROOT, app_hash=ZERO_DIGEST)
