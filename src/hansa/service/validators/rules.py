"""Validators' verbs: govern the sets of all networks, jail on evidence, take over at the seat."""

from collections.abc import Callable, Iterable
from typing import Final, assert_never

from msgspec.structs import replace

from hansa.core.codec import encode, make_decoder
from hansa.core.errors import Malformed
from hansa.core.genesis import consensus_chain_id
from hansa.core.keys import ED25519
from hansa.core.lightblock import DuplicateVote
from hansa.core.lightclient import verify_duplicate_vote
from hansa.core.merkle import ProofError
from hansa.core.module import Context, Deadlines, Module
from hansa.core.packet import DONE, Acknowledgement
from hansa.core.readmodel import Views
from hansa.core.state import Table
from hansa.core.validatorset import (
    MAX_TOTAL_POWER,
    MAX_VALIDATORS,
    Validator,
    set_power,
)
from hansa.service.validators.model import (
    ERRORS,
    EVENTS,
    MAX_REASON_BYTES,
    MODULE,
    PURPOSE,
    Action,
    Admit,
    AlreadyJailed,
    Assign,
    Assignment,
    Cause,
    Change,
    ChangeFailed,
    ChangeInForce,
    ChangeOrdered,
    ChangeUnderWay,
    Dispatch,
    FirstValidator,
    Jailed,
    KeyInUse,
    KeyJailed,
    KeyTwice,
    MalformedPacket,
    NotEvidence,
    NotTheRegistry,
    Remove,
    ReplaceKey,
    Report,
    SchemeUnfit,
    Seat,
    SeatedValidator,
    SeatTwice,
    SeatUnreachable,
    SetChange,
    SetEmpty,
    SetPower,
    Settings,
    SourceUnfit,
    Status,
    TooManyValidators,
    TooMuchChanged,
    TooMuchPower,
    TooSoon,
    UnknownSeat,
    UnknownValidator,
    ValidatorChanged,
    ValidatorsParams,
    compute_evidence_digest,
    compute_subject,
)
from hansa.service.validators.ports import Link, Members

SETTINGS: Final = Table(MODULE, 0, Settings)
"""One record, under the empty key."""
SEATED: Final = Table(MODULE, 1, SeatedValidator)
"""By consensus key, of all seats: no key ever votes on two networks."""
SEATS: Final = Table(MODULE, 2, Seat)
"""By chain; a network without a set has no record."""
CHANGES: Final = Table(MODULE, 3, SetChange)
"""By id."""
DISPATCHES: Final = Table(MODULE, 4, Dispatch)
"""By destination and sequence (8 bytes)."""
DEADLINES: Final = Deadlines(MODULE)
"""By id of a pending change."""

_decode_packet: Callable[[bytes], Assign] = make_decoder(Assign, "packet")

_Assigned = tuple[Assignment, ...]
_Members = tuple[Validator, ...]


class ValidatorsRules:
    """The registry's word on who agrees on blocks, and the seats' obedience to it."""

    def __init__(self, link: Link, members: Members) -> None:
        self._link = link
        self._members = members

    def on_genesis(self, ctx: Context, params: ValidatorsParams) -> None:
        """Write the first sets; the genesis of members has run before.

        Raises: SeatTwice, SchemeUnfit, KeyInUse, the errors of members, TooMuchPower.
        """
        settings = Settings(*(getattr(params, name) for name in Settings.__struct_fields__))
        SETTINGS.put(ctx, b"", settings)
        if params.is_seat and params.first:
            self._found(ctx, ctx.chain, params.first)
        for seat in params.seats:
            self._found(ctx, seat.chain, seat.first)

    # Messages.

    def change(self, ctx: Context, msg: Change) -> None:
        """Change a network's set as members have resolved.

        Raises: NotTheRegistry, UnknownSeat, ChangeUnderWay; for each action in order SchemeUnfit,
        KeyJailed, KeyInUse, the errors of members on the operator, UnknownValidator; KeyTwice,
        SetEmpty, TooManyValidators, TooMuchPower, TooMuchChanged, the errors of members on the
        resolution, the errors of link.
        """
        # CHECKS
        settings = _require_registry(ctx)
        seat = _require_seat(ctx, msg.seat)
        _check_idle(ctx, seat)
        assignments: _Assigned = ()
        for action in msg.actions:
            assignments += self._make_assignments(ctx, seat, action)
        _check_change(seat, assignments, settings.max_changed_permille)
        self._members.take_resolution(ctx, msg.resolution, PURPOSE, compute_subject(msg))
        # EFFECTS, EVENTS
        self._order(ctx, seat, "governance", assignments)

    def report(self, ctx: Context, msg: Report) -> None:
        """Jail a validator that has voted twice, whatever share of the power it has.

        A key that governance has removed since is jailed too, so that it never comes back.

        Raises: NotTheRegistry, UnknownValidator, AlreadyJailed, TooSoon, SetEmpty, SeatUnreachable,
        NotEvidence.
        """
        # CHECKS
        _require_registry(ctx)
        key = msg.evidence.key
        record = SEATED.get(ctx, key)
        if record is None or record.status == "awaited":
            raise UnknownValidator(key=key)
        seat = _require_seat(ctx, record.seat)
        # Where the seat did not take it, and nothing is under way any more, it is told again.
        is_missed = _power_of(seat, key) and not seat.waiting
        if record.status == "jailed" and not is_missed:
            raise AlreadyJailed(key=key)
        _check_jailing(ctx, seat, key)
        self._verify(ctx, seat.chain, msg.evidence)
        # EFFECTS
        if record.status != "jailed":
            record = replace(record, power=0, status="jailed", since_height=ctx.height)
            SEATED.put(ctx, key, record)
        # EVENTS
        ctx.emit(Jailed(record, compute_evidence_digest(msg.evidence)))
        if _power_of(seat, key):
            self._order(ctx, seat, "evidence", (Assignment(key, record.operator, 0),))

    # Packets and deadlines.

    def on_packet(self, ctx: Context, source: str, payload: bytes) -> None:
        """Take a change over at the seat; one taken before changes nothing.

        The operators are not looked up again: the registry alone decides who is a member.

        Raises: SourceUnfit, MalformedPacket, UnknownSeat, SchemeUnfit, KeyJailed, KeyTwice,
        TooSoon, SetEmpty, TooManyValidators, TooMuchPower, TooMuchChanged.
        """
        # CHECKS
        settings = _get_settings(ctx)
        if source != settings.registry:
            raise SourceUnfit(expected=settings.registry, given=source)
        try:
            packet = _decode_packet(payload)
        except Malformed:
            raise MalformedPacket(given=len(payload)) from None
        seat = _require_seat(ctx, ctx.chain)
        # REPLAY PROTECTION: numbers only grow: what was taken or overtaken is never taken again.
        if packet.number <= seat.number:
            return
        for assignment in packet.assignments:
            _check_scheme(assignment.key)
            if assignment.power:
                _check_never_jailed(ctx, assignment.key)
        if packet.cause == "evidence":
            for assignment in packet.assignments:
                _check_jailing(ctx, seat, assignment.key)
        else:
            _check_change(seat, packet.assignments, settings.max_changed_permille)
        # EFFECTS, EVENTS
        self._enact(ctx, replace(seat, number=packet.number), packet.cause, packet.assignments)

    def on_acknowledgement(
        self, ctx: Context, destination: str, sequence: int, ack: Acknowledgement
    ) -> None:
        """Note what became of a change at its seat, even where that was given up on.

        The answers of a seat come in the order of its changes, so what is mirrored here is the set
        as it stood there after each of them.
        """
        place = _dispatch_key(destination, sequence)
        dispatch = DISPATCHES.get(ctx, place)
        assert dispatch is not None, f"no packet {sequence} to {destination} was on its way"
        DISPATCHES.delete(ctx, place)
        change = _get_change(ctx, dispatch.change)
        if change.status == "pending":
            self._stop_waiting(ctx, change)
        if ack.outcome == DONE:
            self._put_in_force(ctx, _require_seat(ctx, change.seat), change)
            return
        if change.status == "pending":
            self._fail(ctx, change, ack.number)
        for assignment in change.assignments:
            _release(ctx, assignment.key)

    def on_deadline(self, ctx: Context, key: bytes) -> None:
        """Wait no longer for a seat's answer.

        Keys that the change admits stay awaited: the seat may have taken it all the same.
        """
        change = _get_change(ctx, key)
        assert change.status == "pending", f"a change {change.status} has no deadline"
        self._stop_waiting(ctx, change)
        self._fail(ctx, change, 0)

    # Changes.

    def _make_assignments(self, ctx: Context, seat: Seat, action: Action) -> _Assigned:
        """Say what an action comes to, key by key.

        Raises: SchemeUnfit, KeyJailed, KeyInUse, the errors of members, UnknownValidator.
        """
        match action:
            case Admit():
                self._check_fresh(ctx, action.key, action.operator)
                return (Assignment(action.key, action.operator, action.power),)
            case SetPower():
                _check_never_jailed(ctx, action.key)
                operator = _require_operator(ctx, seat, action.key)
                return (Assignment(action.key, operator, action.power),)
            case Remove():
                operator = _require_operator(ctx, seat, action.key)
                return (Assignment(action.key, operator, 0),)
            case ReplaceKey():
                _check_never_jailed(ctx, action.key)
                operator = _require_operator(ctx, seat, action.key)
                self._check_fresh(ctx, action.fresh, operator)
                power = _power_of(seat, action.key)
                old = Assignment(action.key, operator, 0)
                return (old, Assignment(action.fresh, operator, power))
            case _:
                assert_never(action)

    def _check_fresh(self, ctx: Context, key: bytes, operator: bytes) -> None:
        """Refuse a key that can't be admitted, or an operator that isn't a member now.

        Raises: SchemeUnfit, KeyJailed, KeyInUse, the errors of members.
        """
        _check_scheme(key)
        _check_never_jailed(ctx, key)
        known = SEATED.get(ctx, key)
        # A key on two networks would be one secret to lose, and one history to tell apart.
        if known is not None and known.status != "removed":
            raise KeyInUse(key=key, status=known.status, seat=known.seat)
        self._members.require_admitted(ctx, operator)

    def _order(self, ctx: Context, seat: Seat, cause: Cause, assignments: _Assigned) -> None:
        """Put a checked change in force if this chain is the seat, else send it there.

        Raises: the errors of link.
        """
        seat = replace(seat, number=seat.number + 1)
        lifetime_ms = _get_settings(ctx).packet_lifetime_ms
        change = SetChange(
            id=ctx.new_id(),
            seat=seat.chain,
            number=seat.number,
            cause=cause,
            assignments=assignments,
            status="pending",
            until_ms=ctx.time_ms + 2 * lifetime_ms,
            error=0,
        )
        if seat.chain == ctx.chain:
            self._put_in_force(ctx, seat, replace(change, until_ms=ctx.time_ms))
            return
        payload = encode(Assign(change.number, cause, assignments))
        deadline_ms = ctx.time_ms + lifetime_ms
        sequence = self._link.send(ctx, seat.chain, MODULE, payload, deadline_ms)
        DISPATCHES.put(ctx, _dispatch_key(seat.chain, sequence), Dispatch(change.id))
        SEATS.put(ctx, seat.chain.encode(), replace(seat, waiting=seat.waiting + 1))
        CHANGES.put(ctx, change.id, change)
        DEADLINES.schedule(ctx, change.until_ms, change.id)
        ctx.emit(ChangeOrdered(change))
        for assignment in assignments:
            # Held for this seat, or the same key could be on its way to two.
            if assignment.power and not _power_of(seat, assignment.key):
                _keep(ctx, seat.chain, assignment, 0, "awaited")

    def _put_in_force(self, ctx: Context, seat: Seat, change: SetChange) -> None:
        change = replace(change, status="in_force", error=0)
        CHANGES.put(ctx, change.id, change)
        ctx.emit(ChangeInForce(change))
        self._enact(ctx, seat, change.cause, change.assignments)

    def _enact(self, ctx: Context, seat: Seat, cause: Cause, assignments: _Assigned) -> None:
        """Give each key its power: on its record, in the set and, at the seat, in the core's."""
        for assignment in assignments:
            if seat.chain == ctx.chain:
                set_power(ctx, assignment.key, assignment.power)
            known = SEATED.get(ctx, assignment.key)
            if cause == "governance" and known is not None and known.status == "jailed":
                continue  # Proven while the change was on its way; the jailing follows it.
            gone: Status = "jailed" if cause == "evidence" else "removed"
            status: Status = "seated" if assignment.power else gone
            _keep(ctx, seat.chain, assignment, assignment.power, status)
        members = _merge(seat.members, assignments)
        height = ctx.height if cause == "governance" else seat.changed_height
        SEATS.put(ctx, seat.chain.encode(), replace(seat, members=members, changed_height=height))

    def _stop_waiting(self, ctx: Context, change: SetChange) -> None:
        DEADLINES.cancel(ctx, change.until_ms, change.id)
        seat = _require_seat(ctx, change.seat)
        SEATS.put(ctx, change.seat.encode(), replace(seat, waiting=seat.waiting - 1))

    def _fail(self, ctx: Context, change: SetChange, error: int) -> None:
        failed = replace(change, status="failed", error=error)
        CHANGES.put(ctx, change.id, failed)
        ctx.emit(ChangeFailed(failed))

    # Genesis and evidence.

    def _found(self, ctx: Context, chain: str, first: Iterable[FirstValidator]) -> None:
        if SEATS.get(ctx, chain.encode()) is not None:
            raise SeatTwice(given=chain)
        seat = Seat(chain=chain, members=(), number=0, waiting=0, changed_height=0)
        for validator in first:
            self._check_fresh(ctx, validator.key, validator.operator)
            assignment = Assignment(validator.key, validator.operator, validator.power)
            seat = replace(seat, members=_merge(seat.members, (assignment,)))
            _check_total(seat.members)
            self._enact(ctx, seat, "governance", (assignment,))

    def _verify(self, ctx: Context, chain: str, evidence: DuplicateVote) -> None:
        """Judge evidence by the network of a seat. Raises: SeatUnreachable, NotEvidence."""
        # REPLAY PROTECTION: a vote names its network; one on a network's copy jails nobody here.
        network = ctx.network
        if chain != ctx.chain:
            client = self._link.get_client(ctx, chain)
            if client is None:
                raise SeatUnreachable(here=ctx.chain, given=chain)
            network = client.trusted.network
        try:
            verify_duplicate_vote(evidence, consensus_chain_id(network))
        except ProofError as error:
            # Escaped, for which characters can be shown differs between Python's versions.
            reason = str(error).encode("ascii", "backslashreplace")[:MAX_REASON_BYTES].decode()
            raise NotEvidence(key=evidence.key, reason=reason) from None


# Reading.


def _get_settings(ctx: Context) -> Settings:
    settings = SETTINGS.get(ctx, b"")
    assert settings is not None, "the genesis writes the settings"
    return settings


def _get_change(ctx: Context, key: bytes) -> SetChange:
    change = CHANGES.get(ctx, key)
    assert change is not None, f"no change {key.hex()} was ever made"
    return change


def _power_of(seat: Seat, key: bytes) -> int:
    return next((member.power for member in seat.members if member.key == key), 0)


def _dispatch_key(destination: str, sequence: int) -> bytes:
    return destination.encode() + b"\0" + sequence.to_bytes(8, "big")


# Checks.


def _require_registry(ctx: Context) -> Settings:
    settings = _get_settings(ctx)
    if ctx.chain != settings.registry:
        raise NotTheRegistry(expected=settings.registry, here=ctx.chain)
    return settings


def _require_seat(ctx: Context, chain: str) -> Seat:
    seat = SEATS.get(ctx, chain.encode())
    if seat is None:
        raise UnknownSeat(given=chain)
    return seat


def _require_operator(ctx: Context, seat: Seat, key: bytes) -> bytes:
    record = SEATED.get(ctx, key)
    if record is None or not _power_of(seat, key):
        raise UnknownValidator(key=key)
    return record.operator


def _check_idle(ctx: Context, seat: Seat) -> None:
    # Several changes on their way, or in one block, could together move more than light clients of
    # other networks can skip; and each must be judged by the set that the one before has left.
    if seat.waiting or seat.changed_height == ctx.height:
        raise ChangeUnderWay(seat=seat.chain, given=seat.number)


def _check_scheme(key: bytes) -> None:
    if key[0] != ED25519:
        raise SchemeUnfit(expected=ED25519, given=key[0])


def _check_never_jailed(ctx: Context, key: bytes) -> None:
    known = SEATED.get(ctx, key)
    if known is not None and known.status == "jailed":
        raise KeyJailed(key=key)


def _check_jailing(ctx: Context, seat: Seat, key: bytes) -> None:
    """Refuse to jail a key yet, or at all. Raises: TooSoon, SetEmpty."""
    if not _power_of(seat, key):
        return
    known = SEATED.get(ctx, key)
    # CometBFT stops for good on the removal of a validator that it never heard of, as one would be
    # whose power came and went within a block; its owner could bring that about at will.
    is_seat = seat.chain == ctx.chain
    if is_seat and known is not None and known.since_height == ctx.height:
        raise TooSoon(height=ctx.height, key=key)
    others = [member.key for member in seat.members if member.key != key]
    left = [other for other in others if not _is_jailed(ctx, other)]
    # Nobody could agree on a block again, not even on one that admits another.
    if not left:
        raise SetEmpty(seat=seat.chain)


def _is_jailed(ctx: Context, key: bytes) -> bool:
    record = SEATED.get(ctx, key)
    return record is not None and record.status == "jailed"


def _check_change(seat: Seat, assignments: _Assigned, max_changed_permille: int) -> None:
    """Refuse a change that would leave no sound set, or that moves too much of it.

    Raises: KeyTwice, SetEmpty, TooManyValidators, TooMuchPower, TooMuchChanged.
    """
    seen: list[bytes] = []
    for assignment in assignments:
        if assignment.key in seen:
            raise KeyTwice(key=assignment.key)
        seen.append(assignment.key)
    after = _merge(seat.members, assignments)
    if not after:
        raise SetEmpty(seat=seat.chain)
    _check_total(after)
    steps = [item.power - _power_of(seat, item.key) for item in assignments]
    given = sum(step for step in steps if step > 0)
    taken = -sum(step for step in steps if step < 0)
    total = sum(member.power for member in seat.members)
    moved = max(given, taken)
    if moved * 1_000 > max_changed_permille * total:
        raise TooMuchChanged(permille=max_changed_permille, total=total, given=moved)


def _check_total(members: _Members) -> None:
    """Raises: TooManyValidators, TooMuchPower."""
    if len(members) > MAX_VALIDATORS:
        raise TooManyValidators(limit=MAX_VALIDATORS, given=len(members))
    total = sum(member.power for member in members)
    if total > MAX_TOTAL_POWER:
        raise TooMuchPower(limit=MAX_TOTAL_POWER, given=total)


# Writing.


def _merge(members: _Members, assignments: _Assigned) -> _Members:
    """Return the set after the assignments, in the order of the keys."""
    powers = {member.key: member.power for member in members}
    powers.update((assignment.key, assignment.power) for assignment in assignments)
    return tuple(Validator(key, powers[key]) for key in sorted(powers) if powers[key])


def _keep(ctx: Context, seat: str, assignment: Assignment, power: int, status: Status) -> None:
    """Write a key's record and let it be known, unless it says so already."""
    known = SEATED.get(ctx, assignment.key)
    is_same = known is not None and (known.seat, known.power, known.status) == (seat, power, status)
    if is_same:
        return
    record = SeatedValidator(
        key=assignment.key,
        operator=assignment.operator,
        seat=seat,
        power=power,
        status=status,
        since_height=ctx.height,
    )
    SEATED.put(ctx, record.key, record)
    ctx.emit(ValidatorChanged(record))


def _release(ctx: Context, key: bytes) -> None:
    """Let a key go that its seat did not take."""
    record = SEATED.get(ctx, key)
    if record is not None and record.status == "awaited":
        record = replace(record, status="removed", since_height=ctx.height)
        SEATED.put(ctx, key, record)
        ctx.emit(ValidatorChanged(record))


def make_module(rules: ValidatorsRules, views: Views | None) -> Module:
    """Return version 1 of the module."""
    return Module(
        name="validators",
        number=MODULE,
        version=1,
        handlers={Change: rules.change, Report: rules.report},
        events=EVENTS,
        errors=ERRORS,
        params=ValidatorsParams,
        on_genesis=rules.on_genesis,
        on_deadline=rules.on_deadline,
        on_packet=rules.on_packet,
        on_acknowledgement=rules.on_acknowledgement,
        views=views,
    )
