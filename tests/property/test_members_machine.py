"""Whatever the members do: one outcome to each vote, each vote ends, peers come to agree."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.ledger_harness import (
    DAY_MS,
    FOUNDERS,
    Harness,
    RecordingLink,
    Sent,
    make_account,
    make_digest,
    make_members_params,
)

from hansa.core.errors import Rejected
from hansa.core.packet import DONE, EXPIRED, REFUSED
from hansa.service.members.model import (
    MODULE,
    Action,
    Admit,
    Decided,
    Expel,
    Grant,
    NewCustomer,
    NewsUndelivered,
    Propose,
    RegisterCustomers,
    Reinstate,
    Republish,
    ResolutionLapsed,
    ResolutionTaken,
    Resolve,
    Revoke,
    Suspend,
    Vote,
    compute_rights,
)
from hansa.service.members.rules import (
    DISPATCHES,
    ORGANISATIONS,
    PARTIES,
    PROPOSALS,
    ROSTER,
    MembersRules,
    make_module,
)
from hansa.service.members.views import VIEWS

OWNERS = (*FOUNDERS, *(make_account(f"newcomer {number}") for number in range(3)))
OTHERS = tuple(make_account(f"other {number}") for number in range(4))
ANYBODY = st.sampled_from([*OWNERS, *OTHERS])
PLACES = st.integers(0, 1_000)
VOTERS = st.lists(st.sampled_from(OWNERS), min_size=3, max_size=9, unique=True)
NEXT = {
    "open": ("open", "passed", "failed", "moot"),
    "passed": ("passed", "taken", "lapsed"),
    "failed": ("failed",),
    "moot": ("moot",),
    "taken": ("taken",),
    "lapsed": ("lapsed",),
}


class MembersMachine(RuleBasedStateMachine):
    """A registry and one peer; packets between them come late, doubled, refused or not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.link = RecordingLink("trade")
        self.members = MembersRules(self.link)
        params = {"members": make_members_params(peers=("trade",))}
        self.registry = Harness("anchor", [make_module(self.members, VIEWS)], params)
        self.peer = Harness("trade", [make_module(MembersRules(), VIEWS)], params)
        self.statuses: dict[bytes, str] = {}
        self.waiting: list[Sent] = []
        self.old: list[Sent] = []
        self.missed: tuple[list[bytes], list[bytes]] = ([], [])

    def ask(self, message: Any, by: bytes) -> None:
        """Submit a message; a refusal must change nothing."""
        before = dict(self.registry.store.data)
        try:
            self.registry.submit(message, by=by)
        except Rejected:
            assert before == self.registry.store.data
            self.link.take()
        self.waiting += self.link.take()

    def pick_organisation(self, place: int) -> bytes:
        """Return the id of some organisation."""
        ids = [*self.registry.rows(ORGANISATIONS)]
        return ids[place % len(ids)]

    @rule(by=ANYBODY, owner=ANYBODY)
    def propose_admission(self, by: bytes, owner: bytes) -> None:
        """Put an admission to the vote."""
        self.ask(Propose(Admit("New", "DE", ("carrier",), "", owner)), by)

    @rule(by=ANYBODY, place=PLACES, kind=st.sampled_from(["suspend", "reinstate", "expel"]))
    def propose_change(self, by: bytes, place: int, kind: str) -> None:
        """Put somebody's membership to the vote."""
        identity = self.pick_organisation(place)
        actions: dict[str, Action] = {
            "suspend": Suspend(identity, "s"),
            "reinstate": Reinstate(identity),
            "expel": Expel(identity, "e"),
        }
        self.ask(Propose(actions[kind]), by)

    @rule(by=ANYBODY)
    def propose_resolution(self, by: bytes) -> None:
        """Put a resolution to the vote."""
        self.ask(Propose(Resolve("purpose", b"subject")), by)

    @precondition(lambda self: self.statuses)
    @rule(place=PLACES, voters=VOTERS, approve=st.sampled_from([True, True, False]))
    def vote(self, place: int, voters: list[bytes], approve: bool) -> None:
        """Have some vote the same way."""
        proposal = [*self.statuses][place % len(self.statuses)]
        for voter in voters:
            self.ask(Vote(proposal, approve), voter)

    @precondition(lambda self: "passed" in self.statuses.values())
    @rule(place=PLACES)
    def take(self, place: int) -> None:
        """Use a resolution if it is one."""
        passed = [key for key, status in self.statuses.items() if status == "passed"]
        arguments = (passed[place % len(passed)], "purpose", b"subject")
        try:
            self.registry.call(self.members.take_resolution, *arguments)
        except Rejected:
            return

    @rule(by=ANYBODY, account=ANYBODY, rights=st.sampled_from([(), ("govern",), ("carry",)]))
    def grant(self, by: bytes, account: bytes, rights: Any) -> None:
        """Let an account act."""
        self.ask(Grant(account, rights), by)

    @rule(by=ANYBODY, account=ANYBODY)
    def revoke(self, by: bytes, account: bytes) -> None:
        """End what an account may do."""
        self.ask(Revoke(account), by)

    @rule(by=ANYBODY, accounts=st.lists(ANYBODY, min_size=1, max_size=4))
    def register(self, by: bytes, accounts: list[bytes]) -> None:
        """Register customers."""
        entries = [NewCustomer(account, "GB", make_digest(account.hex())) for account in accounts]
        self.ask(RegisterCustomers(tuple(entries)), by)

    @rule(by_ms=st.integers(0, 4 * DAY_MS))
    def wait(self, by_ms: int) -> None:
        """Let time pass."""
        self.registry.advance(by_ms)
        self.waiting += self.link.take()

    @precondition(lambda self: self.waiting)
    @rule(place=PLACES, outcome=st.sampled_from([DONE, DONE, EXPIRED, REFUSED]))
    def carry(self, place: int, outcome: int) -> None:
        """Have one of the packets arrive, or not, and the registry hear of it."""
        sent = self.waiting.pop(place % len(self.waiting))
        self.old.append(sent)
        if outcome == DONE:
            self.peer.deliver("anchor", MODULE, sent.payload)
        number = 2006 if outcome == REFUSED else 0
        events = self.registry.acknowledge("trade", MODULE, sent.sequence, outcome, number)
        for event in events:
            assert isinstance(event, NewsUndelivered)
            self.missed[0].extend(event.organisations)
            self.missed[1].extend(event.accounts)
        self.waiting += self.link.take()

    @precondition(lambda self: self.old)
    @rule(place=PLACES)
    def carry_again(self, place: int) -> None:
        """Have an old packet's content arrive once more."""
        self.peer.deliver("anchor", MODULE, self.old[place % len(self.old)].payload)

    @invariant()
    def each_vote_has_one_outcome(self) -> None:
        """A proposal only ever moves forward, and is decided at most once."""
        for key, proposal in self.registry.rows(PROPOSALS).items():
            assert proposal.status in NEXT[self.statuses.get(key, "open")]
            assert not [voter for voter in proposal.approving if voter in proposal.refusing]
            voters = (*proposal.approving, *proposal.refusing)
            assert len(voters) == len({*voters})
            self.statuses[key] = proposal.status
        for ends in (Decided, ResolutionTaken | ResolutionLapsed):
            ended = [f.event.proposal.id for f in self.registry.facts if isinstance(f.event, ends)]
            assert len(ended) == len({*ended})

    @invariant()
    def every_vote_ends(self) -> None:
        """Exactly what still waits for something has a deadline."""
        waiting = sorted(
            (proposal.until_ms, proposal.id)
            for proposal in self.registry.rows(PROPOSALS).values()
            if proposal.status == "open"
            or (proposal.status == "passed" and isinstance(proposal.action, Resolve))
        )
        assert waiting == self.registry.deadlines(MODULE)

    @invariant()
    def somebody_is_left(self) -> None:
        """The roster counts the admitted, on both chains, and the registry has one at least."""
        for harness in (self.registry, self.peer):
            records = harness.rows(ORGANISATIONS).values()
            admitted = sum(record.status == "admitted" for record in records)
            assert harness.rows(ROSTER)[b""].admitted == admitted
        assert self.registry.rows(ROSTER)[b""].admitted >= 1

    @invariant()
    def owners_may_all_and_no_more(self) -> None:
        """Nobody has a right his organisation's roles don't allow, and owners keep theirs."""
        organisations = self.registry.rows(ORGANISATIONS)
        parties = self.registry.rows(PARTIES)
        for party in parties.values():
            allowed = compute_rights(organisations[party.organisation].roles)
            assert all(right in allowed for right in getattr(party, "rights", ()))
        for organisation in organisations.values():
            if organisation.status != "expelled":
                owner = parties[organisation.owner]
                assert getattr(owner, "rights", None) == compute_rights(organisation.roles)

    def teardown(self) -> None:
        """Time alone ends every vote; once packets arrive the peer knows what the registry does."""
        self.wait(30 * DAY_MS)
        self.wait(30 * DAY_MS)
        assert [] == self.registry.deadlines(MODULE)
        assert all(p.status != "open" for p in self.registry.rows(PROPOSALS).values())
        while self.waiting:
            self.carry(0, DONE)
        assert {} == self.registry.rows(DISPATCHES)
        self.republish()
        while self.waiting:
            self.carry(0, DONE)
        assert self.registry.rows(ORGANISATIONS) == self.peer.rows(ORGANISATIONS)
        assert self.registry.rows(PARTIES) == self.peer.rows(PARTIES)

    def republish(self) -> None:
        """Tell what a peer refused for good."""
        organisations, accounts = self.missed
        member = next(
            record.owner
            for record in self.registry.rows(ORGANISATIONS).values()
            if record.status == "admitted"
        )
        for start in range(0, max(len(organisations), len(accounts)), 100):
            chosen = slice(start, start + 100)
            message = Republish("trade", tuple(organisations[chosen]), tuple(accounts[chosen]))
            self.registry.submit(message, by=member)
            self.waiting += self.link.take()


TestMembersMachine = MembersMachine.TestCase
