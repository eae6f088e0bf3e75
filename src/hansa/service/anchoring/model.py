"""Anchoring's nouns: what the anchor chain remembers of each other chain."""

from typing import Final, Literal

import msgspec

from hansa.core.codec import (
    U32,
    U63,
    ChainName,
    DurationMs,
    Name,
    ObjectId,
    Raw32,
    TimeMs,
    Value,
    encode,
)
from hansa.core.errors import Rejected
from hansa.core.evidence import ConsistencyPath, Evidence, HeaderBytes
from hansa.core.finality import Finality
from hansa.core.hashing import Digest, digester
from hansa.core.transaction import Event, Message, message_number

MODULE: Final = 7
"""Module number."""

LIVE: Final = 0
STALE: Final = 1
"""Unheard for longer than the network allows; nothing is wrong with what was heard before."""
FORKED: Final = 2

# Records.


class AnchoredChain(Value):
    """A chain as it stood when it was last anchored."""

    chain: ChainName
    height: U63
    log_size: U63
    """0 while nothing was anchored yet."""
    log_root: Raw32
    app_hash: Digest
    time_ms: TimeMs
    """Block time of the chain at that height."""
    heard_ms: TimeMs
    """Block time of the anchor chain when it heard of it."""
    status: Literal[0, 1, 2]
    """LIVE, STALE or FORKED."""


class SignedAnchor(Value):
    """The final header that was last anchored: half of the evidence should it be denied."""

    header: HeaderBytes
    finality: Finality


class AnchoringParams(Value):
    """What the genesis says to anchoring on a chain."""

    is_anchor: bool
    """True on the chain that records the others."""
    every_blocks: U32
    """A relay anchors a chain whenever it has grown by this many blocks."""
    stale_after_ms: DurationMs
    """How long a chain may be unheard."""
    packet_deadline_ms: DurationMs
    """How long news of a fork may take to the other chains."""
    reset_purpose: Name
    """Purpose of a resolution that resets an anchor."""


# Messages.


class Anchor(Message, tag=message_number(7, 1)):
    """Record a newer checkpoint of a chain; anyone may."""

    chain: ChainName
    header: HeaderBytes
    finality: Finality
    path: ConsistencyPath
    """From the log size recorded last; empty for a chain's first anchor."""


class ReportFork(Message, tag=message_number(7, 2)):
    """Prove to the anchor chain that a chain has forked; anyone may."""

    chain: ChainName
    evidence: Evidence


class ResetAnchor(Message, tag=message_number(7, 3)):
    """Record a forked chain's settled history, by resolution, once its client was recovered."""

    chain: ChainName
    header: HeaderBytes
    finality: Finality
    resolution: ObjectId
    """Passed for the reset purpose and :func:`compute_subject` of this message."""


_subject_digest = digester("anchoring-resolution")


def compute_subject(message: ResetAnchor) -> bytes:
    """Return what a resolution must be about: the digest of the message without its resolution."""
    return _subject_digest(encode(msgspec.structs.replace(message, resolution=bytes(16))))


# Events.


class Anchored(Event, tag=message_number(7, 0x81)):
    """A chain's checkpoint extends the one before it."""

    anchor: AnchoredChain


class WentStale(Event, tag=message_number(7, 0x82)):
    """A chain wasn't heard of for too long."""

    anchor: AnchoredChain


class ForkRecorded(Event, tag=message_number(7, 0x83)):
    """A chain has rewritten its past."""

    anchor: AnchoredChain
    """As it was last anchored before."""
    evidence: Digest
    """Of the evidence in the message or packet that proved it."""


class ForkConfirmed(Event, tag=message_number(7, 0x84)):
    """A chain other than the anchor has judged evidence of a fork and found it good."""

    chain: ChainName
    evidence: Digest


class AnchorReset(Event, tag=message_number(7, 0x85)):
    """Governance has settled a forked chain's history."""

    anchor: AnchoredChain


# Errors.


class NotTheAnchor(Rejected):
    number = 7001
    says = "chain: expected the anchor chain, got {here}"


class AlreadyForked(Rejected):
    number = 7002
    says = "chain: expected one not recorded as forked, got {chain}"


class AlreadyAnchored(Rejected):
    number = 7003
    says = "header.log_size: expected more than {expected} of chain {chain}, got the same log"


class NotNewer(Rejected):
    number = 7004
    says = "header.log_size: expected more than {expected}, got {given}"


class BadConsistency(Rejected):
    number = 7005
    says = "path: expected one from log size {old_size} to {new_size}, got {given} other nodes"


class NotForked(Rejected):
    number = 7006
    says = "chain: expected one recorded as forked, got {chain}"


class MalformedPacket(Rejected):
    number = 7007
    says = "packet: expected evidence of a fork, got {given} other bytes"


ERRORS: Final[tuple[type[Rejected], ...]] = (
    NotTheAnchor,
    AlreadyForked,
    AlreadyAnchored,
    NotNewer,
    BadConsistency,
    NotForked,
    MalformedPacket,
)

EVENTS: Final[tuple[type[Event], ...]] = (
    Anchored,
    WentStale,
    ForkRecorded,
    ForkConfirmed,
    AnchorReset,
)
