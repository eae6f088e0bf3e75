"""Governance alone changes who agrees on blocks, evidence alone jails, and no set is ever lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.ledger_harness import (
    DAY_MS,
    NETWORK,
    SELLER,
    STRANGER,
    Harness,
    expect,
    find_unnamed,
    make_account,
    make_object,
)
from tests.validators_world import (
    AWAY,
    HOME,
    OPERATORS,
    OTHER_NETWORK,
    POWER,
    VOTERS,
    Consortium,
    Governed,
    make_evidence,
    make_first,
    make_key,
)

from hansa.core.codec import encode, make_decoder
from hansa.core.errors import Rejected
from hansa.core.genesis import ChainGenesis, Genesis
from hansa.core.keys import BIP340
from hansa.core.ledger import Ledger
from hansa.core.validatorset import (
    MAX_TOTAL_POWER,
    MAX_VALIDATORS,
    VALIDATORS,
    Validator,
    list_power_changes,
)
from hansa.node.composition import CHAINS, find_seat, make_genesis, make_rulebook
from hansa.service.members.model import (
    Founder,
    OrganisationSuspended,
    Propose,
    ResolutionDiffers,
    Suspend,
    UnknownOrganisation,
    UnknownResolution,
    Vote,
    compute_founder_id,
)
from hansa.service.validators.model import (
    ERRORS,
    EVENTS,
    MODULE,
    Action,
    Admit,
    AlreadyJailed,
    Assign,
    Assignment,
    Change,
    ChangeFailed,
    ChangeInForce,
    ChangeOrdered,
    ChangeUnderWay,
    FirstSeat,
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
    SeatTwice,
    SeatUnreachable,
    SetEmpty,
    SetPower,
    SourceUnfit,
    TooManyValidators,
    TooMuchChanged,
    TooMuchPower,
    TooSoon,
    UnknownSeat,
    UnknownValidator,
    ValidatorsParams,
)
from hansa.service.validators.rules import SEATED
from hansa.service.validators.views import CHANGES, VIEWS
from hansa.service.validators.views import VALIDATORS as VALIDATOR_ROWS

NEW = "new"
JAILED = "jailed"
ACCOUNT_KEY = bytes([BIP340]) + bytes(32)
ADMISSION = Admit(OPERATORS[4], make_key(NEW), 20)
SUSPENDED = OPERATORS[5]


@pytest.fixture
def registry() -> Governed:
    """The registry of a network of four, which governs another of four."""
    return Governed("anchor")


@pytest.fixture
def consortium() -> Consortium:
    """The same with that other network's seat."""
    return Consortium()


def suspend(registry: Governed, organisation: bytes) -> None:
    """Suspend an organisation by vote."""
    action = Suspend(organisation, "unpaid")
    proposal = registry.submit(Propose(action), by=VOTERS[0])[0].proposal.id
    for voter in (*VOTERS[1:], SELLER):
        registry.submit(Vote(proposal, True), by=voter)


def check_sound(harness: Governed, chain: str) -> None:
    """The seat's records, its set and what the engine is told are one."""
    records = {
        key: record.power
        for key, record in harness.rows(SEATED).items()
        if record.seat == chain and record.power
    }
    assert records == harness.powers(chain) == harness.core_powers()


# Genesis.


def test_the_first_sets_stand_where_they_belong(consortium: Consortium) -> None:
    """Each seat's core table has its own set; the registry mirrors the other one."""
    for harness, names in ((consortium.registry, HOME), (consortium.seat, AWAY)):
        assert dict.fromkeys(map(make_key, names), POWER) == harness.core_powers()
        check_sound(harness, harness.chain)
    assert consortium.registry.powers("product") == consortium.seat.core_powers()
    assert ("seated", "product") == (
        consortium.registry.validator(AWAY[0]).status,
        consortium.registry.validator(AWAY[0]).seat,
    )


def test_a_solo_network_has_no_set() -> None:
    """Without first validators there is nothing to govern, on any chain."""
    registry = Governed("anchor", first=(), seats=())
    assert {} == registry.core_powers()
    change = Change("anchor", (ADMISSION,), bytes(16))
    expect(UnknownSeat, registry, registry.submit, change, by=STRANGER)
    assert {} == Governed("trade").core_powers()


GENESIS: dict[str, tuple[dict[str, Any], type[Rejected]]] = {
    "key of another scheme": (
        {"first": (FirstValidator(OPERATORS[0], ACCOUNT_KEY, 1),)},
        SchemeUnfit,
    ),
    "key twice": ({"first": make_first((NEW, NEW))}, KeyInUse),
    "key of two networks": ({"seats": (FirstSeat("product", make_first(HOME)),)}, KeyInUse),
    "seat twice": ({"seats": (FirstSeat("anchor", make_first(AWAY)),)}, SeatTwice),
    "unknown operator": (
        {"first": (FirstValidator(make_object("nobody"), make_key(NEW), 1),)},
        UnknownOrganisation,
    ),
    "more power than CometBFT takes": (
        {"first": make_first(HOME[:2], MAX_TOTAL_POWER)},
        TooMuchPower,
    ),
}


@pytest.mark.parametrize(("changes", "error"), GENESIS.values(), ids=GENESIS.keys())
def test_a_bad_genesis_is_refused(changes: dict[str, Any], error: type[Rejected]) -> None:
    """A network that could not run is not founded."""
    with pytest.raises(error):
        Governed("anchor", **changes)


OWNER = make_account("owner")
FOUNDER = Founder("Founder", "DE", ("operator",), "", OWNER, ())
FIRST = FirstValidator(compute_founder_id(OWNER), make_key(NEW), POWER)


def found(chains: Sequence[str], seats: Sequence[FirstSeat] = ()) -> Genesis:
    """The genesis of a network of one validator."""
    return make_genesis(
        "net", consortium=NETWORK, is_sandbox=True, time_ms=0, founders=(FOUNDER,),
        validators=(make_key("checkpoints"),), consensus=(FIRST,), seats=seats, chains=chains,
    )  # fmt: skip


def test_the_genesis_of_a_network_names_its_seat() -> None:
    """The anchor chain where hosted, else the first; genesis and module agree on the set."""
    assert "anchor" == find_seat(CHAINS)
    assert "trade" == find_seat(("trade", "product"))
    genesis = found(("product", "anchor"), (FirstSeat("logistics", (FIRST,)),))
    assert (Validator(make_key(NEW), POWER),) == genesis.consensus
    product, anchor = (read_params(chain) for chain in genesis.chains)
    assert (False, (), ()) == (product.is_seat, product.first, product.seats)
    assert (True, (FIRST,), 1) == (anchor.is_seat, anchor.first, len(anchor.seats))


@pytest.mark.parametrize(("chains", "seat"), [(CHAINS, "anchor"), (("trade", "product"), "trade")])
def test_the_set_stands_in_one_chain_of_a_ledger(
    tmp_path: Path, chains: tuple[str, ...], seat: str
) -> None:
    """The whole composition, founded for real: the core's table is filled at the seat alone."""
    genesis = found(chains)
    ledger = Ledger(tmp_path, genesis, {chain: make_rulebook(chain) for chain in chains}, None)
    try:
        powers = {
            name: VALIDATORS.get(chain, make_key(NEW)) for name, chain in ledger.chains.items()
        }
    finally:
        ledger.close()
    expected = {name: VALIDATORS.record(POWER) if name == seat else None for name in chains}
    assert expected == powers


def read_params(chain: ChainGenesis) -> ValidatorsParams:
    """What a chain's genesis says to this module."""
    encoded = next(module.params for module in chain.modules if module.number == MODULE)
    decode: Callable[[bytes], ValidatorsParams] = make_decoder(ValidatorsParams, "params")
    return decode(encoded)


# Changes at the registry's own seat.


CHANGES_AT_HOME: dict[str, tuple[tuple[Action, ...], dict[str, int]]] = {
    "admit": ((ADMISSION,), {NEW: 20}),
    "set power": ((SetPower(make_key(HOME[0]), 60),), {HOME[0]: 60}),
    "remove": ((Remove(make_key(HOME[0])),), {HOME[0]: 0}),
    "replace a key": (
        (ReplaceKey(make_key(HOME[0]), make_key(NEW)),),
        {HOME[0]: 0, NEW: POWER},
    ),
    "several at once": (
        (ADMISSION, Remove(make_key(HOME[1])), SetPower(make_key(HOME[2]), 40)),
        {NEW: 20, HOME[1]: 0, HOME[2]: 40},
    ),
}


@pytest.mark.parametrize(
    ("actions", "expected"), CHANGES_AT_HOME.values(), ids=CHANGES_AT_HOME.keys()
)
def test_a_change_at_home_is_in_force_at_once(
    registry: Governed, actions: tuple[Action, ...], expected: dict[str, int]
) -> None:
    """Record, set and engine follow in the same block, and no packet is sent."""
    before = registry.core_powers()
    change = registry.change("anchor", *actions)
    wanted = {**before, **{make_key(name): power for name, power in expected.items()}}
    assert {key: power for key, power in wanted.items() if power} == registry.core_powers()
    check_sound(registry, "anchor")
    assert "in_force" == registry.status(change)
    assert [] == registry.link.take()
    for name, power in expected.items():
        record = registry.validator(name)
        assert ("seated" if power else "removed", power) == (record.status, record.power)
        assert registry.height == record.since_height
    if make_key(NEW) in registry.core_powers():
        assert registry.validator(NEW).operator in OPERATORS


def test_a_replaced_key_keeps_its_operator(registry: Governed) -> None:
    """The organisation goes on under the fresh key."""
    operator = registry.validator(HOME[0]).operator
    registry.change("anchor", ReplaceKey(make_key(HOME[0]), make_key(NEW)))
    assert operator == registry.validator(NEW).operator


def test_a_removed_key_may_come_back(registry: Governed) -> None:
    """Only jailing is for ever; another organisation may use it, too."""
    registry.change("anchor", Remove(make_key(HOME[0])))
    registry.change("anchor", Admit(OPERATORS[4], make_key(HOME[0]), 20))
    assert OPERATORS[4] == registry.validator(HOME[0]).operator
    check_sound(registry, "anchor")


def test_what_the_engine_is_told(registry: Governed) -> None:
    """A block's writes become power updates, 0 for a key removed and nothing for one unknown."""
    key = make_key(HOME[0])
    writes: list[tuple[bytes, bytes | None]] = [
        (VALIDATORS.prefix + key, None),
        (VALIDATORS.prefix + make_key(NEW), encode(VALIDATORS.record(power=9))),
        (SEATED.prefix + key, b""),
    ]
    assert [(key, 0), (make_key(NEW), 9)] == list_power_changes(writes)


REFUSED_CHANGES: dict[str, tuple[tuple[Action, ...], type[Rejected]]] = {
    "key of an account": ((Admit(OPERATORS[4], ACCOUNT_KEY, 1),), SchemeUnfit),
    "fresh key of an account": ((ReplaceKey(make_key(HOME[0]), ACCOUNT_KEY),), SchemeUnfit),
    "key in use": ((Admit(OPERATORS[4], make_key(HOME[0]), 1),), KeyInUse),
    "key in use elsewhere": ((Admit(OPERATORS[4], make_key(AWAY[0]), 1),), KeyInUse),
    "fresh key in use": ((ReplaceKey(make_key(HOME[0]), make_key(HOME[1])),), KeyInUse),
    "unknown operator": ((Admit(make_object("x"), make_key(NEW), 1),), UnknownOrganisation),
    "suspended operator": ((Admit(SUSPENDED, make_key(NEW), 1),), OrganisationSuspended),
    "power of an unknown key": ((SetPower(make_key(NEW), 1),), UnknownValidator),
    "removal of an unknown key": ((Remove(make_key(NEW)),), UnknownValidator),
    "replacing an unknown key": ((ReplaceKey(make_key(NEW), make_key("x")),), UnknownValidator),
    "power of another seat's key": ((SetPower(make_key(AWAY[0]), 1),), UnknownValidator),
    "a key twice": ((Remove(make_key(HOME[0])), SetPower(make_key(HOME[0]), 1)), KeyTwice),
    "one key admitted twice": ((ADMISSION, ADMISSION), KeyTwice),
    "nobody left": (tuple(Remove(make_key(name)) for name in HOME), SetEmpty),
    "more power than CometBFT takes": (
        (Admit(OPERATORS[4], make_key(NEW), MAX_TOTAL_POWER),),
        TooMuchPower,
    ),
    "more taken than may be": (
        (SetPower(make_key(HOME[0]), 1), SetPower(make_key(HOME[1]), 19)),
        TooMuchChanged,
    ),
    "more given than may be": ((SetPower(make_key(HOME[0]), POWER + 40),), TooMuchChanged),
}


@pytest.mark.parametrize(("actions", "error"), REFUSED_CHANGES.values(), ids=REFUSED_CHANGES.keys())
def test_a_change_is_refused(
    registry: Governed, actions: tuple[Action, ...], error: type[Rejected]
) -> None:
    """A resolution lets members do much, but not everything; it stays unused."""
    suspend(registry, SUSPENDED)
    change = registry.resolve("anchor", *actions)
    expect(error, registry, registry.submit, change, by=STRANGER)
    check_sound(registry, "anchor")


def test_a_change_up_to_the_limit_is_taken(registry: Governed) -> None:
    """39 of 120 is within 333 permille; 40 is not."""
    registry.change("anchor", SetPower(make_key(HOME[0]), POWER + 39))
    assert POWER + 39 == registry.validator(HOME[0]).power


def test_too_many_validators_are_refused() -> None:
    """CometBFT and light clients are bounded; so are sets."""
    first = tuple(
        FirstValidator(OPERATORS[0], make_key(f"many {number}"), 10)
        for number in range(MAX_VALIDATORS)
    )
    registry = Governed("anchor", first=first)
    change = registry.resolve("anchor", ADMISSION)
    expect(TooManyValidators, registry, registry.submit, change, by=STRANGER)


def test_a_change_needs_its_resolution(registry: Governed) -> None:
    """Another purpose, another change, or a resolution used already lets nobody change anything."""
    bare = Change("anchor", (ADMISSION,), make_object("none"))
    expect(UnknownResolution, registry, registry.submit, bare, by=STRANGER)
    other = registry.resolve("anchor", ADMISSION, purpose="link.open")
    expect(ResolutionDiffers, registry, registry.submit, other, by=STRANGER)
    change = registry.resolve("anchor", ADMISSION)
    swapped = Change("product", change.actions, change.resolution)
    expect(ResolutionDiffers, registry, registry.submit, swapped, by=STRANGER)
    registry.submit(change, by=STRANGER)
    again = Change("anchor", (Remove(make_key(NEW)),), change.resolution)
    expect(UnknownResolution, registry, registry.submit, again, by=STRANGER)


def test_one_change_in_a_block(registry: Governed) -> None:
    """Two in one block could move more than light clients skip."""
    first = registry.resolve("anchor", SetPower(make_key(HOME[0]), 35))
    second = registry.resolve("anchor", SetPower(make_key(HOME[1]), 35))
    expect(ChangeUnderWay, registry, registry.submit, first, second, by=STRANGER)
    registry.submit(first, by=STRANGER)
    registry.submit(second, by=STRANGER)


def test_the_registry_alone_decides(consortium: Consortium) -> None:
    """Elsewhere neither message is taken, and an unknown seat nowhere."""
    change = Change("product", (ADMISSION,), bytes(16))
    evidence = make_evidence(AWAY[0], OTHER_NETWORK)
    for message in (change, Report(evidence)):
        expect(NotTheRegistry, consortium.seat, consortium.seat.submit, message, by=STRANGER)
    unknown = Change("trade", (ADMISSION,), bytes(16))
    expect(UnknownSeat, consortium.registry, consortium.registry.submit, unknown, by=STRANGER)


# Changes at another network's seat.


def test_a_change_elsewhere_waits_for_its_seat(consortium: Consortium) -> None:
    """Pending until the seat has answered; then both know the same set."""
    registry, seat = consortium.registry, consortium.seat
    change = registry.change("product", ADMISSION)
    assert "pending" == registry.status(change)
    assert ("awaited", 0) == (registry.validator(NEW).status, registry.validator(NEW).power)
    assert make_key(NEW) not in registry.powers("product")
    consortium.carry()
    assert 20 == seat.core_powers()[make_key(NEW)]
    assert "pending" == registry.status(change)
    (in_force, *_) = consortium.answer()
    assert isinstance(in_force, ChangeInForce)
    assert ("seated", 20) == (registry.validator(NEW).status, registry.validator(NEW).power)
    assert registry.powers("product") == seat.core_powers()
    assert [] == registry.deadlines(MODULE)
    check_sound(seat, "product")
    check_sound(registry, "anchor")


def test_no_second_change_while_one_waits(consortium: Consortium) -> None:
    """Each is judged by the set that the one before has left; other seats don't wait."""
    registry = consortium.registry
    registry.change("product", SetPower(make_key(AWAY[0]), 40))
    second = registry.resolve("product", SetPower(make_key(AWAY[1]), 40))
    expect(ChangeUnderWay, registry, registry.submit, second, by=STRANGER)
    registry.change("anchor", SetPower(make_key(HOME[0]), 40))
    consortium.relay()
    registry.submit(second, by=STRANGER)
    consortium.relay()
    assert [30, 30, 40, 40] == sorted(consortium.seat.core_powers().values())


def test_an_awaited_key_is_held_for_its_seat(consortium: Consortium) -> None:
    """One key can't be on its way to two networks, nor be reported before it has voted."""
    registry = consortium.registry
    registry.change("product", ADMISSION)
    change = registry.resolve("anchor", ADMISSION)
    expect(KeyInUse, registry, registry.submit, change, by=STRANGER)
    expect(UnknownValidator, registry, registry.report, NEW, OTHER_NETWORK)


def test_a_change_that_expires_fails(consortium: Consortium) -> None:
    """The key is free again, the set is as it was."""
    registry = consortium.registry
    change = registry.change("product", ADMISSION)
    consortium.wait(DAY_MS + 1)
    (failed, released) = consortium.relay()
    assert isinstance(failed, ChangeFailed)
    assert "failed" == registry.status(change)
    assert "removed" == released.validator.status
    assert registry.powers("product") == consortium.seat.core_powers()
    registry.change("anchor", ADMISSION)


def test_a_change_that_the_seat_refuses_fails_with_its_number(consortium: Consortium) -> None:
    """The seat judges by its own set and its own genesis, whatever the registry says."""
    registry = consortium.registry
    consortium.seat = Governed("product", max_changed_permille=100)
    change = registry.change("product", ADMISSION)
    (failed, released) = consortium.relay()
    assert ("failed", TooMuchChanged.number) == (failed.change.status, failed.change.error)
    assert "failed" == registry.status(change)
    assert "removed" == released.validator.status
    assert registry.powers("product") == consortium.seat.core_powers()


def test_time_alone_ends_the_wait(consortium: Consortium) -> None:
    """Where no relay comes the change fails by its deadline, and governance goes on."""
    registry = consortium.registry
    change = registry.change("product", SetPower(make_key(AWAY[0]), 40))
    assert [] == registry.advance_to(change.until_ms)
    (failed,) = registry.advance(1)
    assert isinstance(failed, ChangeFailed)
    assert ("failed", 0) == (failed.change.status, failed.change.error)
    assert [] == registry.deadlines(MODULE)
    registry.change("product", SetPower(make_key(AWAY[1]), 40))


def test_an_answer_heard_late_still_counts(consortium: Consortium) -> None:
    """The seat has taken it, so the mirror has to follow; the key stayed held meanwhile."""
    registry = consortium.registry
    change = registry.change("product", ADMISSION)
    consortium.carry()
    registry.advance(3 * DAY_MS)
    assert "failed" == registry.status(change)
    elsewhere = registry.resolve("anchor", ADMISSION)
    expect(KeyInUse, registry, registry.submit, elsewhere, by=STRANGER)
    consortium.answer()
    assert "in_force" == registry.status(change)
    assert registry.powers("product") == consortium.seat.core_powers()
    assert 0 == registry.seat("product").waiting


def test_a_packet_taken_before_changes_nothing(consortium: Consortium) -> None:
    """Not even once newer ones have come: an old power doesn't return."""
    registry, seat = consortium.registry, consortium.seat
    registry.change("product", SetPower(make_key(AWAY[0]), 40))
    (old,) = registry.link.sent
    consortium.relay()
    registry.change("product", SetPower(make_key(AWAY[0]), 50))
    consortium.relay()
    before = dict(seat.store.data)
    assert [] == seat.deliver("anchor", MODULE, old.payload)
    assert before == seat.store.data


def make_packet(*assignments: tuple[str, int], number: int = 9, cause: Any = "governance") -> bytes:
    """An encoded change."""
    assigned = [Assignment(make_key(name), OPERATORS[4], power) for name, power in assignments]
    return encode(Assign(number, cause, tuple(assigned)))


PACKETS: dict[str, tuple[str, bytes, type[Rejected]]] = {
    "of another chain": ("trade", make_packet((NEW, 1)), SourceUnfit),
    "malformed": ("anchor", b"\xff", MalformedPacket),
    "key of another scheme": (
        "anchor",
        encode(Assign(9, "governance", (Assignment(ACCOUNT_KEY, OPERATORS[0], 1),))),
        SchemeUnfit,
    ),
    "jailed key": ("anchor", make_packet((JAILED, 1)), KeyJailed),
    "key twice": ("anchor", make_packet((NEW, 1), (NEW, 2)), KeyTwice),
    "nobody left": ("anchor", make_packet(*[(name, 0) for name in AWAY]), SetEmpty),
    "too much power": ("anchor", make_packet((NEW, MAX_TOTAL_POWER)), TooMuchPower),
    "too much moved": ("anchor", make_packet((NEW, 41)), TooMuchChanged),
}


@pytest.mark.parametrize(("source", "payload", "error"), PACKETS.values(), ids=PACKETS.keys())
def test_the_seat_refuses(source: str, payload: bytes, error: type[Rejected]) -> None:
    """What the registry would never send, a seat never takes."""
    seat = Governed("product")
    seat.deliver("anchor", MODULE, make_packet((JAILED, 0), number=1, cause="evidence"))
    expect(error, seat, seat.deliver, source, MODULE, payload)
    check_sound(seat, "product")


def test_a_chain_without_a_set_takes_no_change() -> None:
    """A packet that strays changes nothing."""
    chain = Governed("trade")
    expect(UnknownSeat, chain, chain.deliver, "anchor", MODULE, make_packet((NEW, 1)))


# Evidence.


def test_a_double_vote_is_jailed_at_once(registry: Governed) -> None:
    """All its power goes, though governance may not move so much; a second report is refused."""
    registry.change("anchor", SetPower(make_key(HOME[0]), 69))
    registry.change("anchor", SetPower(make_key(HOME[0]), 120))
    events = registry.report(HOME[0])
    assert [Jailed, ChangeInForce] == [type(event) for event in events]
    record = registry.validator(HOME[0])
    assert ("jailed", 0, registry.height) == (record.status, record.power, record.since_height)
    assert make_key(HOME[0]) not in registry.core_powers()
    check_sound(registry, "anchor")
    expect(AlreadyJailed, registry, registry.report, HOME[0])


JAILED_FOR_EVER: dict[str, tuple[Action, type[Rejected]]] = {
    "admitted": (Admit(OPERATORS[4], make_key(HOME[0]), 5), KeyJailed),
    "given power": (SetPower(make_key(HOME[0]), 5), KeyJailed),
    "as a fresh key": (ReplaceKey(make_key(HOME[1]), make_key(HOME[0])), KeyJailed),
    "replaced": (ReplaceKey(make_key(HOME[0]), make_key(NEW)), KeyJailed),
    "removed": (Remove(make_key(HOME[0])), UnknownValidator),
}


@pytest.mark.parametrize(("action", "error"), JAILED_FOR_EVER.values(), ids=JAILED_FOR_EVER.keys())
def test_a_jailed_key_never_comes_back(
    registry: Governed, action: Action, error: type[Rejected]
) -> None:
    """Its operator does, with a fresh key."""
    registry.report(HOME[0])
    change = registry.resolve("anchor", action)
    expect(error, registry, registry.submit, change, by=STRANGER)
    operator = registry.validator(HOME[0]).operator
    registry.change("anchor", Admit(operator, make_key(NEW), 20))
    assert 20 == registry.core_powers()[make_key(NEW)]


def test_a_removed_key_is_jailed_too(registry: Governed) -> None:
    """Else it could be admitted again; the set doesn't change, and the engine isn't told."""
    registry.change("anchor", Remove(make_key(HOME[0])))
    before = registry.core_powers()
    assert [Jailed] == [type(event) for event in registry.report(HOME[0])]
    assert before == registry.core_powers()
    expect(AlreadyJailed, registry, registry.report, HOME[0])


def test_the_last_validator_is_not_jailed(registry: Governed) -> None:
    """Nobody could agree on a block again; once another is admitted it is jailed."""
    for name in HOME[:3]:
        registry.report(name)
    expect(SetEmpty, registry, registry.report, HOME[3])
    registry.change("anchor", Admit(OPERATORS[4], make_key(NEW), 5))
    registry.report(HOME[3])
    assert {make_key(NEW): 5} == registry.core_powers()


def test_nobody_is_jailed_in_the_block_that_seats_him(registry: Governed) -> None:
    """CometBFT stops on the removal of a validator it never had; a block later is early enough."""
    change = registry.resolve("anchor", ADMISSION)
    report = Report(make_evidence(NEW))
    expect(TooSoon, registry, registry.submit, change, report, by=STRANGER)
    registry.submit(change, by=STRANGER)
    registry.submit(report, by=STRANGER)
    assert "jailed" == registry.validator(NEW).status


BAD_EVIDENCE: dict[str, tuple[Report, type[Rejected]]] = {
    "nobody's key": (Report(make_evidence(NEW)), UnknownValidator),
    "votes on another network": (Report(make_evidence(HOME[0], OTHER_NETWORK)), NotEvidence),
    "votes that another signed": (
        Report(make_evidence(HOME[0], signed_by=HOME[1])),
        NotEvidence,
    ),
    "votes of product's on this one": (Report(make_evidence(AWAY[0])), NotEvidence),
}


@pytest.mark.parametrize(("report", "error"), BAD_EVIDENCE.values(), ids=BAD_EVIDENCE.keys())
def test_what_is_no_evidence_jails_nobody(
    registry: Governed, report: Report, error: type[Rejected]
) -> None:
    """Anyone may report, so anyone may lie."""
    expect(error, registry, registry.submit, report, by=STRANGER)


def test_evidence_needs_a_network_to_be_judged_by() -> None:
    """Without a client of the seat nobody knows what its validators sign."""
    registry = Governed("anchor")
    registry.link.peers = ()
    expect(SeatUnreachable, registry, registry.report, AWAY[0], OTHER_NETWORK)


def test_a_jailing_elsewhere_is_taken_there(consortium: Consortium) -> None:
    """The registry's record says so at once, its mirror once the seat has answered."""
    registry, seat = consortium.registry, consortium.seat
    events = registry.report(AWAY[0], OTHER_NETWORK)
    assert [Jailed, ChangeOrdered] == [type(event) for event in events]
    assert ("jailed", 0) == (registry.validator(AWAY[0]).status, registry.validator(AWAY[0]).power)
    expect(AlreadyJailed, registry, registry.report, AWAY[0], OTHER_NETWORK)
    consortium.relay()
    assert "jailed" == seat.validator(AWAY[0]).status
    assert registry.powers("product") == seat.core_powers()
    assert make_key(AWAY[0]) not in seat.core_powers()
    check_sound(seat, "product")
    expect(AlreadyJailed, registry, registry.report, AWAY[0], OTHER_NETWORK)


def test_a_jailing_overtakes_the_change_before_it(consortium: Consortium) -> None:
    """Power that was on its way to the key neither returns to it nor lifts its jailing."""
    registry = consortium.registry
    registry.change("product", SetPower(make_key(AWAY[0]), 50))
    registry.report(AWAY[0], OTHER_NETWORK)
    consortium.carry()
    # Both packets came in one block each; the seat took the power, then all of it again.
    consortium.answer(1)
    assert "jailed" == registry.validator(AWAY[0]).status
    consortium.answer(1)
    assert "jailed" == registry.validator(AWAY[0]).status
    assert make_key(AWAY[0]) not in consortium.seat.core_powers()
    assert registry.powers("product") == consortium.seat.core_powers()


def test_a_jailing_that_did_not_arrive_is_reported_again(consortium: Consortium) -> None:
    """The key keeps its power at the seat until the second packet comes; governance may help."""
    registry, seat = consortium.registry, consortium.seat
    registry.report(AWAY[0], OTHER_NETWORK)
    consortium.wait(DAY_MS + 1)
    assert [ChangeFailed] == [type(event) for event in consortium.relay()]
    assert POWER == seat.core_powers()[make_key(AWAY[0])]
    change = registry.resolve("product", SetPower(make_key(AWAY[0]), 31))
    expect(KeyJailed, registry, registry.submit, change, by=STRANGER)
    registry.report(AWAY[0], OTHER_NETWORK)
    consortium.relay()
    assert make_key(AWAY[0]) not in seat.core_powers()
    assert registry.powers("product") == seat.core_powers()


def test_the_seat_keeps_its_last_validator(consortium: Consortium) -> None:
    """Jailings on their way count at the registry; the seat judges for itself."""
    registry, seat = consortium.registry, consortium.seat
    for name in AWAY[:3]:
        registry.report(name, OTHER_NETWORK)
    expect(SetEmpty, registry, registry.report, AWAY[3], OTHER_NETWORK)
    consortium.relay()
    packet = make_packet((AWAY[3], 0), number=50, cause="evidence")
    expect(SetEmpty, seat, seat.deliver, "anchor", MODULE, packet)


# The life of a change.


def bring(status: str) -> tuple[Consortium, Any]:
    """A change at another seat in one of its states."""
    consortium = Consortium()
    change = consortium.registry.change("product", ADMISSION)
    if status == "in_force":
        consortium.relay()
    if status == "failed":
        consortium.wait(2 * DAY_MS + 1)
    assert status == consortium.registry.status(change)
    return consortium, change


LIFE: dict[tuple[str, str], str] = {
    ("pending", "deadline"): "failed",
    ("pending", "done"): "in_force",
    ("pending", "expired"): "failed",
    ("failed", "deadline"): "failed",
    ("failed", "done"): "in_force",
    ("failed", "expired"): "failed",
    ("in_force", "deadline"): "in_force",
}
"""State and trigger lead where; in force nothing is on its way any more."""


@pytest.mark.parametrize(("state", "trigger"), LIFE.keys())
def test_a_change_lives_as_drawn(state: str, trigger: str) -> None:
    """Each state under each trigger; what is not pending waits for nothing and holds no place."""
    consortium, change = bring(state)
    registry = consortium.registry
    if trigger == "deadline":
        registry.advance(5 * DAY_MS)
    else:
        # The seat's clock stands where the packet is in time, or not.
        consortium.seat.time_ms = change.until_ms - DAY_MS + (trigger == "expired")
        consortium.relay()
    reached = registry.status(change)
    assert LIFE[state, trigger] == reached
    assert [] == registry.deadlines(MODULE)
    assert 0 == registry.seat("product").waiting
    if trigger != "deadline":
        assert registry.powers("product") == consortium.seat.core_powers()


@pytest.mark.parametrize("state", ["pending"])
def test_time_alone_ends_every_state(state: str) -> None:
    """The one state that waits is left though nobody comes."""
    consortium, change = bring(state)
    assert [MODULE] == [MODULE for _ in consortium.registry.deadlines(MODULE)]
    consortium.registry.advance(100 * DAY_MS)
    assert "failed" == consortium.registry.status(change)


# Views.


def test_views_show_validators_and_changes(consortium: Consortium) -> None:
    """A row for each key and change; the seat's own node shows the set, too."""
    registry = consortium.registry
    registry.change("product", ADMISSION)
    registry.report(HOME[0])
    consortium.relay()
    rows = {row["id"]: row for row in view(registry, VALIDATOR_ROWS)}
    assert ("jailed", 0) == pick(rows[make_key(HOME[0]).hex()], "status", "power")
    assert ("seated", 20) == pick(rows[make_key(NEW).hex()], "status", "power")
    assert OPERATORS[4].hex() == rows[make_key(NEW).hex()]["operator"]
    shown = [pick(row, "seat", "cause", "status", "keys") for row in view(registry, CHANGES)]
    expected = [("anchor", "evidence", "in_force", 1), ("product", "governance", "in_force", 1)]
    assert expected == sorted(shown)
    seated = [row["id"] for row in view(consortium.seat, VALIDATOR_ROWS)]
    assert sorted(make_key(name).hex() for name in (*AWAY, NEW)) == sorted(seated)
    assert set(EVENTS) == set(VIEWS.projections)


def view(harness: Harness, table: Any) -> Sequence[dict[str, Any]]:
    """The rows of a table."""
    return harness.view(table)


def pick(row: dict[str, Any], *names: str) -> tuple[Any, ...]:
    """Some of a row's values."""
    return tuple(row[name] for name in names)


def test_all_errors_are_reached() -> None:
    """Every numbered error is expected above, and numbered in order."""
    assert [] == find_unnamed(ERRORS, __file__)
    assert [8000 + n for n in range(1, len(ERRORS) + 1)] == [error.number for error in ERRORS]
