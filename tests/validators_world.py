"""A registry that governs its own network's validators and those of another network's seat."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from nacl.bindings import crypto_sign, crypto_sign_seed_keypair
from tests.ledger_harness import (
    BUYER,
    DAY_MS,
    FOUNDERS,
    ISSUER,
    NETWORK,
    PLATFORM,
    SELLER,
    STRANGER,
    Harness,
    RecordingLink,
    Sent,
    make_digest,
    make_members_params,
)

from hansa.core.errors import Rejected
from hansa.core.genesis import consensus_chain_id
from hansa.core.keys import ED25519
from hansa.core.lightblock import PRECOMMIT, BlockId, DuplicateVote, SignedVote, VoteTemplate
from hansa.core.module import Context
from hansa.core.packet import DONE, EXPIRED, REFUSED
from hansa.core.validatorset import VALIDATORS, list_power_changes
from hansa.service.members.model import Decided, Propose, Resolve, Vote, compute_founder_id
from hansa.service.members.rules import MembersRules
from hansa.service.members.rules import make_module as make_members_module
from hansa.service.members.views import VIEWS as MEMBERS_VIEWS
from hansa.service.validators.model import (
    MODULE,
    PURPOSE,
    Action,
    Change,
    ChangeInForce,
    ChangeOrdered,
    FirstSeat,
    FirstValidator,
    Jailed,
    Report,
    Seat,
    SeatedValidator,
    SetChange,
    ValidatorChanged,
    ValidatorsParams,
    compute_subject,
)
from hansa.service.validators.rules import CHANGES, SEATED, SEATS, ValidatorsRules, make_module
from hansa.service.validators.views import VIEWS

OTHER_NETWORK = make_digest("the network of product")
OPERATORS = tuple(compute_founder_id(owner) for owner in FOUNDERS)
VOTERS = (BUYER, ISSUER, PLATFORM)
POWER = 30
HOME = tuple(f"home {number}" for number in range(4))
AWAY = tuple(f"away {number}" for number in range(4))
"""Names of the first validators' keys, at the registry's own seat and at product's."""


def make_key(name: str) -> bytes:
    """Return the consensus key of this name: 33 bytes."""
    return bytes([ED25519]) + _make_pair(name)[0]


def _make_pair(name: str) -> tuple[bytes, bytes]:
    public, secret = crypto_sign_seed_keypair(hashlib.sha256(name.encode()).digest())
    return public, secret


def make_evidence(name: str, network: bytes = NETWORK, signed_by: str = "") -> DuplicateVote:
    """Return two votes of a key at one height; ``signed_by`` is another key that signed them."""
    votes = []
    for letter in (b"a", b"b"):
        block = BlockId(hash=letter * 32, parts_total=1, parts_hash=letter * 32)
        template = VoteTemplate(consensus_chain_id(network), PRECOMMIT, 7, 0, block)
        message = template.sign_bytes(1_760_000_000_000_000_000)
        signature = crypto_sign(message, _make_pair(signed_by or name)[1])[:64]
        votes.append(SignedVote(block, 1_760_000_000_000_000_000, signature))
    return DuplicateVote(make_key(name), PRECOMMIT, 7, 0, votes[0], votes[1])


def make_first(names: tuple[str, ...], power: int = POWER) -> tuple[FirstValidator, ...]:
    """Return first validators of the founders, one each."""
    return tuple(
        FirstValidator(operator, make_key(name), power)
        for operator, name in zip(OPERATORS, names, strict=False)
    )


def make_params(chain: str, **changes: Any) -> ValidatorsParams:
    """Return the genesis of the registry, which is a seat, of product, a seat, or of others."""
    values: dict[str, Any] = {
        "registry": "anchor",
        "is_seat": chain in ("anchor", "product"),
        "max_changed_permille": 333,
        "packet_lifetime_ms": DAY_MS,
        "first": {"anchor": make_first(HOME), "product": make_first(AWAY)}.get(chain, ()),
        "seats": (FirstSeat("product", make_first(AWAY)),) if chain == "anchor" else (),
    }
    return ValidatorsParams(**{**values, **changes})


@dataclass(frozen=True)
class Known:
    """What a chain knows of another: its network, as client and as what is trusted of it."""

    network: bytes

    @property
    def trusted(self) -> Known:
        """What is trusted."""
        return self


class SeatLink(RecordingLink):
    """A link whose clients are all of chains on another network."""

    def get_client(self, ctx: Context, chain: str) -> Known | None:
        """Return what is known of a chain."""
        return Known(OTHER_NETWORK) if self.has_client(ctx, chain) else None


class Governed(Harness):
    """Members and validators on one chain."""

    def __init__(self, chain: str, **changes: Any) -> None:
        self.engine: dict[bytes, int] = {}
        """The set as CometBFT has it, from what each block has told it."""
        self.link = SeatLink("product")
        self.members = MembersRules()
        self.members.connect(RecordingLink())
        self.rules = ValidatorsRules(self.link, self.members)
        modules = [
            make_members_module(self.members, MEMBERS_VIEWS),
            make_module(self.rules, VIEWS),
        ]
        params = {
            "members": make_members_params(peers=()),
            "validators": make_params(chain, **changes),
        }
        super().__init__(chain, modules, params)

    def _commit(self, ctx: Context, digest: bytes | None) -> None:
        before = dict(self.engine)
        for key, power in list_power_changes(self.state.block_writes()):
            if power:
                self.engine[key] = power
            else:
                # CometBFT stops for good if it is to remove what it doesn't have.
                del self.engine[key]
        super()._commit(ctx, digest)
        changed = [event.validator for event in ctx.events if isinstance(event, ValidatorChanged)]
        is_jailing = any(isinstance(event, Jailed) for event in ctx.events)
        if before and not is_jailing and all(record.status != "jailed" for record in changed):
            self._check_skippable(before)

    def _check_skippable(self, before: dict[bytes, int]) -> None:
        """Of whoever signs for the new set, more than a third of the old power is left."""
        given = sum(max(0, power - before.get(key, 0)) for key, power in self.engine.items())
        signing = 2 * sum(self.engine.values())
        assert signing - 3 * given >= sum(before.values())

    def resolve(self, seat: str, *actions: Action, purpose: str = PURPOSE) -> Change:
        """Return a change that members have resolved."""
        change = Change(seat, actions, bytes(16))
        action = Resolve(purpose, compute_subject(change))
        proposal: bytes = self.submit(Propose(action), by=SELLER)[0].proposal.id
        for voter in VOTERS:
            events = self.submit(Vote(proposal, True), by=voter)
            if any(isinstance(event, Decided) for event in events):
                return Change(seat, actions, proposal)
        raise AssertionError("expected the votes to suffice")

    def change(self, seat: str, *actions: Action) -> SetChange:
        """Resolve and bring a change; returns its record."""
        events = self.submit(self.resolve(seat, *actions), by=STRANGER)
        (change,) = [
            event.change for event in events if isinstance(event, ChangeOrdered | ChangeInForce)
        ]
        return change

    def report(self, name: str, network: bytes = NETWORK) -> list[Any]:
        """Report a double vote of a key; returns the events."""
        return self.submit(Report(make_evidence(name, network)), by=STRANGER)

    def validator(self, name: str) -> SeatedValidator:
        """Return what is known of a key."""
        record = self.get(SEATED, make_key(name))
        assert record is not None, name
        return record

    def seat(self, chain: str) -> Seat:
        """Return a seat's set as it is known here."""
        seat = self.get(SEATS, chain.encode())
        assert seat is not None, chain
        return seat

    def powers(self, chain: str) -> dict[bytes, int]:
        """Return the powers of a seat's set, as they are known here."""
        return {member.key: member.power for member in self.seat(chain).members}

    def core_powers(self) -> dict[bytes, int]:
        """Return what the engine is told."""
        return {key: record.power for key, record in self.rows(VALIDATORS).items()}

    def status(self, change: SetChange) -> str:
        """Return how a change stands."""
        record = self.get(CHANGES, change.id)
        assert record is not None
        return record.status


class Consortium:
    """The registry, product as a seat on a network of its own, and what is on its way there."""

    def __init__(self) -> None:
        self.registry = Governed("anchor")
        self.seat = Governed("product")
        self.answers: list[tuple[Sent, int, int]] = []

    def carry(self) -> list[tuple[Sent, int, int]]:
        """Have the seat take all packets that wait; the answers wait to be carried back."""
        for sent in self.registry.link.take():
            self.answers.append((sent, *self._take(sent)))
        return self.answers

    def _take(self, sent: Sent) -> tuple[int, int]:
        """Return outcome and error number."""
        if self.seat.time_ms > sent.deadline_ms:
            return EXPIRED, 0
        try:
            self.seat.deliver("anchor", MODULE, sent.payload)
        except Rejected as error:
            return REFUSED, error.number
        return DONE, 0

    def answer(self, count: int = 1_000) -> list[Any]:
        """Carry answers back, oldest first; returns the events."""
        events: list[Any] = []
        for sent, outcome, number in self.answers[:count]:
            events += self.registry.acknowledge("product", MODULE, sent.sequence, outcome, number)
        del self.answers[:count]
        return events

    def relay(self) -> list[Any]:
        """Carry everything both ways; returns the registry's events."""
        self.carry()
        return self.answer()

    def wait(self, by_ms: int) -> None:
        """Let time pass on both chains."""
        self.registry.advance(by_ms)
        self.seat.advance(by_ms)
