"""Validators' nouns: keys with power, the sets they make, changes on their way, and evidence."""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from hansa.core.codec import U32, U63, ChainName, ObjectId, TimeMs, Value, encode
from hansa.core.errors import Rejected
from hansa.core.hashing import Digest, digester
from hansa.core.keys import PublicKey
from hansa.core.lightblock import DuplicateVote
from hansa.core.transaction import Event, Message, message_number
from hansa.core.validatorset import MAX_TOTAL_POWER, MAX_VALIDATORS, Power, Validator

MODULE: Final = 8
"""Module number."""

PURPOSE: Final = "validators.change"
"""Purpose of a resolution that changes a set."""

MAX_SEATS: Final = 63
MAX_ACTIONS: Final = 50
"""In one change; replacing a key assigns two powers."""
MAX_ASSIGNMENTS: Final = 100
"""In one packet: 64 bytes each, so that they fit its 8 KiB."""
MAX_REASON_BYTES: Final = 200
"""Of why evidence fails, as an error shows it."""

Status = Literal["awaited", "jailed", "removed", "seated"]
Cause = Literal["evidence", "governance"]
ChangeStatus = Literal["failed", "in_force", "pending"]
PowerOrNone = Annotated[int, Meta(ge=0, le=MAX_TOTAL_POWER)]

# Records.


class SeatedValidator(Value):
    """A consensus key and what became of it; no key is ever forgotten."""

    key: PublicKey
    """Ed25519."""
    operator: ObjectId
    """Organisation that runs it."""
    seat: ChainName
    """The chain in whose state its network's set stands."""
    power: PowerOrNone
    """0 unless seated."""
    status: Status
    """awaited: admitted here, and the seat has not answered yet; jailed: for ever."""
    since_height: U63
    """Block of this chain that wrote this record."""


class Assignment(Value):
    """The power that a key is to have from now on, whatever it had before."""

    key: PublicKey
    operator: ObjectId
    power: PowerOrNone
    """0 removes it."""


Assignments = Annotated[tuple[Assignment, ...], Meta(min_length=1, max_length=MAX_ASSIGNMENTS)]


class Seat(Value):
    """A network's set, as this chain knows it: on the seat itself, and mirrored on the registry."""

    chain: ChainName
    members: Annotated[tuple[Validator, ...], Meta(max_length=MAX_VALIDATORS)]
    """In the order of the keys; on the registry, what the seat has acknowledged."""
    number: U63
    """Of the last change: given on the registry, taken on the seat."""
    waiting: U32
    """Changes that are pending; always 0 on the seat itself."""
    changed_height: U63
    """Block of this chain in which governance's last change came into force."""


class SetChange(Value):
    """A change of a network's set, and what became of it."""

    id: ObjectId
    seat: ChainName
    number: U63
    """Counts the changes of this seat from 1."""
    cause: Cause
    assignments: Assignments
    status: ChangeStatus
    """A failed one comes into force after all where the seat took it and was heard too late."""
    until_ms: TimeMs
    """Last block time at which an answer of the seat is waited for."""
    error: U32
    """Number of the seat's refusal; 0 if there was none."""


class Dispatch(Value):
    """Which change a packet on its way carries."""

    change: ObjectId


class FirstValidator(Value):
    """A validator that was there from the start."""

    operator: ObjectId
    """Founder."""
    key: PublicKey
    power: Power


FirstSet = Annotated[tuple[FirstValidator, ...], Meta(max_length=MAX_VALIDATORS)]


class FirstSeat(Value):
    """Another network that the registry governs from the start, and its first set."""

    chain: ChainName
    first: Annotated[tuple[FirstValidator, ...], Meta(min_length=1, max_length=MAX_VALIDATORS)]


class Settings(Value):
    """What every later block needs of the genesis."""

    registry: ChainName
    """The chain that decides; a seat believes its packets alone."""
    is_seat: bool
    """True on the one chain of each network that holds the network's set."""
    max_changed_permille: Annotated[int, Meta(ge=1, le=1_000)]
    """Share of a set's power that one change of governance may give, and that it may take. Up to a
    third, a light client skips over any one change: of those who sign after it, more than a third
    of the power before it is left."""
    packet_lifetime_ms: Annotated[int, Meta(ge=1, le=366 * 24 * 3600 * 1000)]
    """How long a seat has to take a change; its answer is waited for as long again."""


class ValidatorsParams(Settings):
    """What the genesis says to this module."""

    first: FirstSet
    """This chain's own network's set; empty off the seat and where the solo engine runs it."""
    seats: Annotated[tuple[FirstSeat, ...], Meta(max_length=MAX_SEATS)]
    """On the registry: the other networks that it governs."""


# Packets.


class Assign(Value, tag=1):
    """A change, from the registry to a seat."""

    number: U63
    """A seat takes none twice and none that is older than the last."""
    cause: Cause
    assignments: Assignments


# Messages.


class Admit(Value, tag=1):
    """Give an organisation a seat."""

    operator: ObjectId
    key: PublicKey
    """Ed25519; of no validator, and never jailed."""
    power: Power


class SetPower(Value, tag=2):
    """Change a validator's power."""

    key: PublicKey
    power: Power


class Remove(Value, tag=3):
    """End a validator; its key may be admitted again."""

    key: PublicKey


class ReplaceKey(Value, tag=4):
    """Let a validator go on under a fresh key, with the power it has."""

    key: PublicKey
    fresh: PublicKey


Action = Admit | SetPower | Remove | ReplaceKey


class Change(Message, tag=message_number(MODULE, 1)):
    """Change a network's validators, by resolution; anyone may bring it."""

    seat: ChainName
    actions: Annotated[tuple[Action, ...], Meta(min_length=1, max_length=MAX_ACTIONS)]
    """All or none; each key once."""
    resolution: ObjectId
    """Passed for ``validators.change`` and :func:`compute_subject` of this message."""


class Report(Message, tag=message_number(MODULE, 2)):
    """Prove that a validator has voted twice; anyone may."""

    evidence: DuplicateVote
    """It names the key; whichever network that votes on."""


_subject_digest = digester("validators-resolution")
_evidence_digest = digester("validators-evidence")


def compute_subject(message: Change) -> bytes:
    """Return what a resolution must be about: the digest of the message without its resolution."""
    return _subject_digest(encode(msgspec.structs.replace(message, resolution=bytes(16))))


def compute_evidence_digest(evidence: DuplicateVote) -> bytes:
    """Return the 33-byte digest evidence is known by."""
    return _evidence_digest(encode(evidence))


# Events.


class ChangeOrdered(Event, tag=message_number(MODULE, 0x81)):
    """A change is on its way to its seat."""

    change: SetChange


class ChangeInForce(Event, tag=message_number(MODULE, 0x82)):
    """The seat has taken a change; its engine follows two blocks later."""

    change: SetChange


class ChangeFailed(Event, tag=message_number(MODULE, 0x83)):
    """The seat has refused a change, or was not heard of in time."""

    change: SetChange


class ValidatorChanged(Event, tag=message_number(MODULE, 0x84)):
    """A key was seated, given another power, awaited or removed."""

    validator: SeatedValidator


class Jailed(Event, tag=message_number(MODULE, 0x85)):
    """A validator was proven to have voted twice."""

    validator: SeatedValidator
    evidence: Digest


# Errors.


class NotTheRegistry(Rejected):
    number = 8001
    says = "chain: expected the chain {expected}, which decides on validators, got {here}"


class UnknownSeat(Rejected):
    number = 8002
    says = "seat: expected a chain with a set of validators that is known here, got {given}"


class ChangeUnderWay(Rejected):
    number = 8003
    says = "seat: expected {seat} to wait for no change and have none this block, got {given}"


class SchemeUnfit(Rejected):
    number = 8004
    says = "key: expected scheme {expected} (Ed25519), got {given}"


class KeyJailed(Rejected):
    number = 8005
    says = "key: expected one that was never jailed, got {key}"


class KeyInUse(Rejected):
    number = 8006
    says = "key: expected one of no validator, got {key}, {status} at {seat}"


class KeyTwice(Rejected):
    number = 8007
    says = "key: expected each once in a change, got {key} again"


class UnknownValidator(Rejected):
    number = 8008
    says = "key: expected one of a validator, got {key}"


class SetEmpty(Rejected):
    number = 8009
    says = "validators: expected one to remain at {seat}, got none"


class TooManyValidators(Rejected):
    number = 8010
    says = "validators: expected at most {limit}, got {given}"


class TooMuchPower(Rejected):
    number = 8011
    says = "power: expected a total of at most {limit}, got {given}"


class TooMuchChanged(Rejected):
    number = 8012
    says = "power: expected at most {permille} permille of {total} given or taken, got {given}"


class AlreadyJailed(Rejected):
    number = 8013
    says = "key: expected one not jailed yet, got {key}"


class TooSoon(Rejected):
    number = 8014
    says = "key: expected one seated before height {height}, got {key}"


class NotEvidence(Rejected):
    number = 8015
    says = "evidence: expected two votes of {key} for two blocks; {reason}"


class SeatUnreachable(Rejected):
    number = 8016
    says = "seat: expected one that chain {here} has a client of, got {given}"


class SourceUnfit(Rejected):
    number = 8017
    says = "source: expected changes of the chain {expected}, got {given}"


class MalformedPacket(Rejected):
    number = 8018
    says = "packet: expected a change of validators, got {given} other bytes"


class SeatTwice(Rejected):
    number = 8019
    says = "seats: expected each once, got {given} again"


ERRORS: Final[tuple[type[Rejected], ...]] = (
    NotTheRegistry,
    UnknownSeat,
    ChangeUnderWay,
    SchemeUnfit,
    KeyJailed,
    KeyInUse,
    KeyTwice,
    UnknownValidator,
    SetEmpty,
    TooManyValidators,
    TooMuchPower,
    TooMuchChanged,
    AlreadyJailed,
    TooSoon,
    NotEvidence,
    SeatUnreachable,
    SourceUnfit,
    MalformedPacket,
    SeatTwice,
)

EVENTS: Final[tuple[type[Event], ...]] = (
    ChangeOrdered,
    ChangeInForce,
    ChangeFailed,
    ValidatorChanged,
    Jailed,
)
