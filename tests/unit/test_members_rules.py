"""Membership: who decides it, what it allows, and how the other chains come to know."""

from __future__ import annotations

from typing import Any

import pytest
from tests.ledger_harness import (
    BUYER,
    CARRIER,
    DAY_MS,
    FORWARDER,
    FOUNDERS,
    ISSUER,
    PLATFORM,
    SELLER,
    STRANGER,
    Harness,
    RecordingLink,
    expect,
    find_unnamed,
    make_account,
    make_clerk,
    make_digest,
    make_members_params,
    make_object,
    register_customers,
)

from hansa.core.codec import encode
from hansa.core.errors import Malformed, Rejected
from hansa.core.packet import DONE, EXPIRED, MAX_PAYLOAD_BYTES, REFUSED
from hansa.core.transaction import Message
from hansa.service.members.model import (
    ERRORS,
    MAX_ORGANISATIONS,
    MODULE,
    AccountChanged,
    AccountGrant,
    AccountTaken,
    Admit,
    AlreadyVoted,
    CountryInvalid,
    Customer,
    CustomerDiffers,
    CustomersRegistered,
    Decided,
    Expel,
    Founder,
    FounderAccount,
    Grant,
    LastOrganisation,
    MembersParams,
    NewCustomer,
    News,
    NewsMalformed,
    NewsUndelivered,
    NotOwner,
    NotRegistry,
    Organisation,
    OrganisationChanged,
    OrganisationSuspended,
    OwnerFixed,
    ProposalClosed,
    Propose,
    Proposed,
    RegisterCustomers,
    Reinstate,
    Republish,
    ResolutionDiffers,
    ResolutionLapsed,
    Resolve,
    Revoke,
    RightMissing,
    RightNotAllowed,
    RightsUnordered,
    RolesUnordered,
    Roster,
    StatusUnfit,
    Suspend,
    TooManyOrganisations,
    UnknownAccount,
    UnknownOrganisation,
    UnknownPeer,
    UnknownProposal,
    UnknownResolution,
    Vote,
    WrongSeat,
    compute_founder_id,
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
from hansa.service.members.views import ACCOUNTS, VIEWS
from hansa.service.members.views import ORGANISATIONS as ORGANISATION_ROWS
from hansa.service.members.views import PROPOSALS as PROPOSAL_ROWS

GUEST = make_account("guest")
NEWCOMER = make_account("newcomer")
PEERS = ("logistics", "product", "trade")


class Members(Harness):
    """The members on one chain; the registry unless said otherwise."""

    def __init__(self, chain: str = "anchor", peers: tuple[str, ...] = PEERS) -> None:
        self.link = RecordingLink(*peers)
        self.rules = MembersRules()
        self.rules.connect(self.link)
        params = {"members": make_members_params()}
        super().__init__(chain, [make_module(self.rules, VIEWS)], params)

    def decide(self, action: Any, voters: tuple[bytes, ...] = (SELLER, BUYER, ISSUER)) -> bytes:
        """Propose by the platform and have others vote yes; returns the proposal's id."""
        proposal: bytes = self.submit(Propose(action=action), by=PLATFORM)[0].proposal.id
        for voter in voters:
            self.submit(Vote(proposal=proposal, approve=True), by=voter)
        return proposal

    def get_status(self, proposal: bytes) -> str:
        """Return how a proposal stands."""
        record = self.get(PROPOSALS, proposal)
        assert record is not None
        return record.status

    def require(self, account: bytes, right: str) -> bytes:
        """Ask as another module would."""
        return self.call(self.rules.require, account, right)


@pytest.fixture
def members() -> Members:
    """A registry of its own for each case."""
    return Members()


def customer(account: bytes, **changes: Any) -> RegisterCustomers:
    """Return the registration of one customer."""
    fields = {"account": account, "country": "GB", "reference": make_digest(account.hex())}
    return RegisterCustomers(customers=(NewCustomer(**{**fields, **changes}),))


def admit(**changes: Any) -> Propose:
    """Return the proposal to admit the newcomer."""
    fields = {
        "name": "New Company",
        "country": "DE",
        "roles": ("carrier", "seller"),
        "licence": "HRB 1",
        "owner": NEWCOMER,
    }
    return Propose(action=Admit(**{**fields, **changes}))


SELLER_ID, PLATFORM_ID = compute_founder_id(SELLER), compute_founder_id(PLATFORM)
NOBODY = make_object("nobody")

REFUSALS: list[tuple[str, Message, bytes, type[Rejected]]] = [
    ("a stranger proposes", admit(), STRANGER, UnknownAccount),
    ("a customer proposes", admit(), GUEST, UnknownAccount),
    ("roles in disorder", admit(roles=("seller", "carrier")), SELLER, RolesUnordered),
    ("a role twice", admit(roles=("seller", "seller")), SELLER, RolesUnordered),
    ("country in lower case", admit(country="de"), SELLER, CountryInvalid),
    ("owner of a member", admit(owner=BUYER), SELLER, AccountTaken),
    ("clerk of a member", admit(owner=make_clerk(BUYER)), SELLER, AccountTaken),
    ("customer of a member", admit(owner=GUEST), SELLER, AccountTaken),
    ("suspend nobody", Propose(Suspend(NOBODY, "")), SELLER, UnknownOrganisation),
    ("reinstate an admitted", Propose(Reinstate(PLATFORM_ID)), SELLER, StatusUnfit),
    ("vote on nothing", Vote(NOBODY, True), SELLER, UnknownProposal),
    ("a stranger votes", Vote(NOBODY, True), STRANGER, UnknownAccount),
    ("a stranger grants", Grant(NEWCOMER, ()), STRANGER, UnknownAccount),
    ("a customer grants", Grant(NEWCOMER, ()), GUEST, UnknownAccount),
    ("a clerk grants", Grant(NEWCOMER, ()), make_clerk(SELLER), NotOwner),
    ("grant to the owner", Grant(SELLER, ()), SELLER, OwnerFixed),
    ("rights in disorder", Grant(NEWCOMER, ("trade", "sell")), SELLER, RightsUnordered),
    ("more than the role", Grant(NEWCOMER, ("issue",)), SELLER, RightNotAllowed),
    ("grant to another's clerk", Grant(make_clerk(BUYER), ()), SELLER, AccountTaken),
    ("grant to another's customer", Grant(GUEST, ()), SELLER, AccountTaken),
    ("grant to one's customer", Grant(GUEST, ()), PLATFORM, AccountTaken),
    ("revoke the owner", Revoke(SELLER), SELLER, OwnerFixed),
    ("revoke a stranger", Revoke(STRANGER), SELLER, UnknownAccount),
    ("revoke another's clerk", Revoke(make_clerk(BUYER)), SELLER, UnknownAccount),
    ("revoke a customer", Revoke(GUEST), PLATFORM, UnknownAccount),
    ("a clerk revokes", Revoke(NEWCOMER), make_clerk(SELLER), NotOwner),
    ("a customer registers", customer(NEWCOMER), GUEST, UnknownAccount),
    ("customer of no country", customer(NEWCOMER, country="1E"), SELLER, CountryInvalid),
    ("a member as customer", customer(BUYER), SELLER, AccountTaken),
    ("other content", customer(GUEST, country="FR"), PLATFORM, CustomerDiffers),
    ("another's customer", customer(GUEST), SELLER, CustomerDiffers),
    ("tell a stranger", Republish("moon", (), ()), SELLER, UnknownPeer),
    ("tell of nobody", Republish("trade", (NOBODY,), ()), SELLER, UnknownOrganisation),
    ("tell of a stranger", Republish("trade", (), (STRANGER,)), SELLER, UnknownAccount),
]


@pytest.mark.parametrize(
    ("message", "by", "error"), [case[1:] for case in REFUSALS], ids=[case[0] for case in REFUSALS]
)
def test_refuses(members: Members, message: Message, by: bytes, error: type[Rejected]) -> None:
    """Each handler refuses what its checks name, and leaves everything as it was."""
    register_customers(members, GUEST)
    expect(error, members, members.submit, message, by=by)


@pytest.mark.parametrize("message", [
    admit(),
    Propose(Suspend(SELLER_ID, "")),
    Propose(Reinstate(SELLER_ID)),
    Propose(Expel(SELLER_ID, "")),
    Grant(NEWCOMER, ()),
    Revoke(make_clerk(SELLER)),
    customer(NEWCOMER),
    Republish("anchor", (), ()),
], ids=lambda message: type(message).__name__)  # fmt: skip
def test_membership_is_decided_on_the_registry(message: Message) -> None:
    """No other chain takes what only the registry decides."""
    expect(WrongSeat, trade := Members("trade"), trade.submit, message, by=SELLER)


@pytest.mark.parametrize("role", ["astronaut", "Seller", ""])
def test_unknown_role(members: Members, role: str) -> None:
    """A role that is not on the list can't even be said."""
    with pytest.raises(Malformed):
        members.submit(admit(roles=(role,)), by=SELLER)


def test_rights_follow_from_roles() -> None:
    """The table of roles says who may sell, carry, issue, store and stand for customs."""
    assert compute_rights(("buyer",)) == ("govern", "register", "relay", "trade")
    assert "carry" in compute_rights(("carrier",))
    assert "sell" in compute_rights(("platform",))
    assert "issue" in compute_rights(("bank",))
    expected = ("govern", "issue", "register", "relay", "sell", "store", "trade")
    assert expected == compute_rights(("payment_institution", "seller", "warehouse"))


def test_admission_by_majority(members: Members) -> None:
    """With six members the fourth yes admits, at once, and its owner may act."""
    proposal = members.decide(admit().action, (SELLER, BUYER))
    assert "open" == members.get_status(proposal)
    expect(UnknownAccount, members, members.require, NEWCOMER, "trade")
    events = members.submit(Vote(proposal, True), by=make_clerk(ISSUER))
    assert "passed" == members.get_status(proposal)
    assert proposal == members.require(NEWCOMER, "carry")
    assert Roster(7) == members.get(ROSTER, b"")
    assert [] == members.deadlines(MODULE)
    kinds = [type(event).__name__ for event in events]
    assert ["Voted", "OrganisationChanged", "AccountChanged", "Decided"] == kinds


def test_one_vote_each(members: Members) -> None:
    """An organisation votes once, whoever of it votes, and a proposal is a vote."""
    proposal = members.decide(admit().action, (SELLER,))
    for voter in (PLATFORM, SELLER, make_clerk(SELLER)):
        vote = Vote(proposal, False)
        expect(AlreadyVoted, members, members.submit, vote, by=voter)


def test_vote_fails_when_it_cannot_pass(members: Members) -> None:
    """The third no of six settles it; later votes are refused."""
    proposal = members.decide(admit().action, ())
    for voter in (SELLER, BUYER):
        members.submit(Vote(proposal, False), by=voter)
    assert "open" == members.get_status(proposal)
    members.submit(Vote(proposal, False), by=ISSUER)
    assert "failed" == members.get_status(proposal)
    expect(ProposalClosed, members, members.submit, Vote(proposal, True), by=CARRIER)


def test_vote_ends_by_time_alone(members: Members) -> None:
    """A proposal nobody cares for fails after its period."""
    proposal = members.decide(admit().action, (SELLER,))
    assert [] == members.advance(7 * DAY_MS)
    (event,) = members.advance(1)
    assert isinstance(event, Decided)
    assert "failed" == members.get_status(proposal)


def test_late_vote_waiting_for_its_deadline(members: Members) -> None:
    """A vote after the period is refused even before the deadline is run."""
    proposal = members.decide(admit().action, (SELLER, BUYER))
    members.time_ms += 7 * DAY_MS + 1
    expect(ProposalClosed, members, members.submit, Vote(proposal, True), by=ISSUER)


def test_expelled_votes_do_not_count(members: Members) -> None:
    """Whoever is no member any more has not voted, on either side."""
    proposal = members.decide(admit().action, (SELLER, BUYER))
    members.decide(Expel(SELLER_ID, "left"), (BUYER, ISSUER, CARRIER))
    assert "open" == members.get_status(proposal)
    members.submit(Vote(proposal, True), by=ISSUER)  # Three of five.
    assert "passed" == members.get_status(proposal)


def test_moot_action_stops_nobody(members: Members) -> None:
    """A decision overtaken by another ends without effect; the last voter is not refused."""
    first = members.decide(admit().action, (SELLER, BUYER))
    second = members.decide(admit(name="Its Rival").action, (SELLER, BUYER))
    members.submit(Vote(first, True), by=ISSUER)
    members.submit(Vote(second, True), by=ISSUER)
    assert ("passed", "moot") == (members.get_status(first), members.get_status(second))
    assert "New Company" == members.rows(ORGANISATIONS)[first].name


def test_suspension_stops_accounts_and_customers(members: Members) -> None:
    """A suspended member's accounts and customers are refused until it is reinstated."""
    register_customers(members, GUEST)
    members.decide(Suspend(PLATFORM_ID, "licence expired"))
    for account in (PLATFORM, make_clerk(PLATFORM)):
        expect(OrganisationSuspended, members, members.require, account, "trade")
    for account in (PLATFORM, GUEST):
        ask = members.rules.require_party
        expect(OrganisationSuspended, members, members.call, ask, account)
    grant = Grant(NEWCOMER, ())
    expect(OrganisationSuspended, members, members.submit, grant, by=PLATFORM)
    assert PLATFORM_ID == members.call(members.rules.get_holder, GUEST)
    event = members.submit(Propose(Reinstate(PLATFORM_ID)), by=SELLER)[0]
    for voter in (BUYER, ISSUER, CARRIER):
        proposal = members.get(PROPOSALS, event.proposal.id)
        if proposal is not None and proposal.status == "open":
            members.submit(Vote(event.proposal.id, True), by=voter)
    members.call(members.rules.require_party, GUEST)
    assert PLATFORM_ID == members.require(PLATFORM, "sell")


def test_expelled_return_by_admission_alone(members: Members) -> None:
    """An expelled company is not reinstated; a new admission gives it a new membership."""
    register_customers(members, GUEST, by=SELLER)
    members.decide(Expel(SELLER_ID, "fraud"), (BUYER, ISSUER, CARRIER))
    again = Propose(Reinstate(SELLER_ID))
    expect(StatusUnfit, members, members.submit, again, by=BUYER)
    members.submit(customer(GUEST), by=PLATFORM)  # Somebody else answers for him now.
    assert PLATFORM_ID == members.call(members.rules.get_holder, GUEST)
    proposal = members.decide(admit(owner=SELLER).action, (BUYER, ISSUER))
    assert proposal == members.require(SELLER, "sell")
    grant = members.rows(PARTIES)[SELLER]
    assert 1 == grant.revision


def test_last_member_stays() -> None:
    """The last admitted organisation can't be voted out, for nobody could vote again."""
    lone = Members()
    owners = [owner for owner in FOUNDERS if owner != ISSUER]
    for index, owner in enumerate(owners):
        proposal = lone.submit(Propose(Expel(compute_founder_id(owner), "")), by=ISSUER)[0].proposal
        for voter in owners[index:]:
            if lone.get_status(proposal.id) == "open":
                lone.submit(Vote(proposal.id, True), by=voter)
    assert Roster(1) == lone.get(ROSTER, b"")
    last = Propose(Suspend(compute_founder_id(ISSUER), ""))
    expect(LastOrganisation, lone, lone.submit, last, by=ISSUER)


def test_membership_is_bounded(members: Members) -> None:
    """No more organisations are admitted than a proposal has room for their votes."""
    with members.block() as ctx:
        ROSTER.put(ctx, b"", Roster(MAX_ORGANISATIONS))
    expect(TooManyOrganisations, members, members.submit, admit(), by=SELLER)


def test_rights_are_granted_and_revoked(members: Members) -> None:
    """A clerk may do what the owner granted, no more, and nothing after it is revoked."""
    members.submit(Grant(NEWCOMER, ("sell",)), by=SELLER)
    assert SELLER_ID == members.require(NEWCOMER, "sell")
    expect(RightMissing, members, members.require, NEWCOMER, "trade")
    members.submit(Grant(NEWCOMER, ("trade",)), by=SELLER)
    expect(RightMissing, members, members.require, NEWCOMER, "sell")
    members.submit(Revoke(NEWCOMER), by=SELLER)
    expect(UnknownAccount, members, members.require, NEWCOMER, "trade")
    require_party = members.rules.require_party
    expect(UnknownAccount, members, members.call, require_party, NEWCOMER)
    assert members.call(members.rules.get_holder, NEWCOMER) is None
    expect(UnknownAccount, members, members.submit, Revoke(NEWCOMER), by=SELLER)
    (event,) = members.submit(Grant(NEWCOMER, ()), by=BUYER)  # Free for another employer.
    assert 3 == event.grant.revision


def test_right_to_govern_is_needed_to_vote(members: Members) -> None:
    """An account without the right speaks for nobody."""
    members.submit(Grant(NEWCOMER, ("trade",)), by=SELLER)
    expect(RightMissing, members, members.submit, admit(owner=STRANGER), by=NEWCOMER)


def test_customers_register_once(members: Members) -> None:
    """Entries known already change nothing, new ones beside them are taken."""
    register_customers(members, GUEST)
    both = (*customer(GUEST).customers, *customer(NEWCOMER).customers)
    (event,) = members.submit(RegisterCustomers(customers=both), by=PLATFORM)
    assert [NEWCOMER] == [entry.account for entry in event.customers]
    assert [] == members.submit(RegisterCustomers(customers=both), by=PLATFORM)
    members.call(members.rules.require_party, GUEST)
    expect(UnknownAccount, members, members.require, GUEST, "trade")
    twice = (*customer(STRANGER).customers, *customer(STRANGER, country="FR").customers)
    message = RegisterCustomers(customers=twice)
    expect(CustomerDiffers, members, members.submit, message, by=PLATFORM)


def test_resolution_is_used_once() -> None:
    """A resolution of any chain allows exactly what it says, one time."""
    trade = Members("trade")
    take = trade.rules.take_resolution
    proposal = trade.decide(Resolve("link.recover", b"checkpoint"), (SELLER, BUYER))
    expect(UnknownResolution, trade, trade.call, take, proposal, "link.recover", b"x")
    trade.submit(Vote(proposal, True), by=ISSUER)
    for wrong in (("link.recover", b"x"), ("link.freeze", b"checkpoint")):
        expect(ResolutionDiffers, trade, trade.call, take, proposal, *wrong)
    trade.call(take, proposal, "link.recover", b"checkpoint")
    assert "taken" == trade.get_status(proposal)
    again = ("link.recover", b"checkpoint")
    expect(UnknownResolution, trade, trade.call, take, proposal, *again)
    expect(UnknownResolution, trade, trade.call, take, NOBODY, *again)
    assert [] == trade.deadlines(MODULE)


def test_resolution_lapses(members: Members) -> None:
    """A resolution that nobody uses is over by time alone."""
    proposal = members.decide(Resolve("link.recover", b""))
    assert [] == members.advance(3 * DAY_MS)
    (event,) = members.advance(1)
    assert isinstance(event, ResolutionLapsed)
    assert "lapsed" == members.get_status(proposal)


def test_admission_is_no_resolution(members: Members) -> None:
    """What was passed for one purpose can't be taken for another kind of decision."""
    proposal = members.decide(admit().action)
    take = members.rules.take_resolution
    expect(UnknownResolution, members, members.call, take, proposal, "", b"")


def test_peers_learn_what_the_registry_decides(members: Members) -> None:
    """Packets of the registry make a peer believe the same as the registry."""
    trade = Members("trade")
    members.decide(admit().action)
    members.submit(Grant(GUEST, ("trade",)), by=SELLER)
    register_customers(members, *(make_account(str(index)) for index in range(300)))
    members.decide(Suspend(PLATFORM_ID, ""))
    sent = [packet for packet in members.link.sent if packet.destination == "trade"]
    assert all(len(packet.payload) <= MAX_PAYLOAD_BYTES for packet in sent)
    for packet in sent:
        trade.deliver("anchor", MODULE, packet.payload)
    assert members.rows(ORGANISATIONS) == trade.rows(ORGANISATIONS)
    assert members.rows(PARTIES) == trade.rows(PARTIES)
    assert members.rows(ROSTER) == trade.rows(ROSTER)
    assert [] == trade.link.sent


def test_older_news_never_wins(members: Members) -> None:
    """A packet that comes again, or behind a newer one, undoes nothing."""
    trade = Members("trade")
    members.decide(Suspend(SELLER_ID, ""))
    members.decide(Reinstate(SELLER_ID), (BUYER, ISSUER))
    members.submit(Grant(NEWCOMER, ("sell",)), by=SELLER)
    members.submit(Revoke(NEWCOMER), by=SELLER)
    packets = [packet.payload for packet in members.link.sent if packet.destination == "trade"]
    for payload in reversed(packets):
        trade.deliver("anchor", MODULE, payload)
    assert [[] for _ in packets] == [trade.deliver("anchor", MODULE, p) for p in packets]
    assert members.rows(ORGANISATIONS) == trade.rows(ORGANISATIONS)
    assert members.rows(PARTIES) == trade.rows(PARTIES)
    assert members.rows(ROSTER) == trade.rows(ROSTER)


def test_only_the_registry_is_believed() -> None:
    """News of another chain, or what is no news, is refused by number."""
    trade = Members("trade")
    grant = AccountGrant(STRANGER, SELLER_ID, ("sell",), True, 0)
    news = encode(News((), (grant,)))
    expect(NotRegistry, trade, trade.deliver, "logistics", MODULE, news)
    for payload in (b"", news + b"\0", encode([9, [], []])):
        expect(NewsMalformed, trade, trade.deliver, "anchor", MODULE, payload)
    trade.deliver("anchor", MODULE, news)
    assert SELLER_ID == trade.require(STRANGER, "sell")


def test_account_known_before_its_organisation() -> None:
    """An account whose organisation has not been heard of may do nothing yet."""
    trade = Members("trade")
    grant = AccountGrant(STRANGER, NOBODY, ("sell",), True, 0)
    trade.deliver("anchor", MODULE, encode(News((), (grant,))))
    expect(OrganisationSuspended, trade, trade.require, STRANGER, "sell")


def test_acknowledged_news_is_forgotten(members: Members) -> None:
    """A packet that was taken leaves nothing behind."""
    members.submit(Grant(NEWCOMER, ()), by=SELLER)
    for packet in members.link.take():
        members.acknowledge(packet.destination, MODULE, packet.sequence, DONE)
    assert ({}, []) == (members.rows(DISPATCHES), members.link.sent)


def test_expired_news_is_told_as_it_stands_now(members: Members) -> None:
    """What expired goes again with the records of today and a new deadline, each time."""
    members.submit(Grant(NEWCOMER, ("sell",)), by=SELLER)
    packet = next(sent for sent in members.link.sent if sent.destination == "trade")
    members.submit(Grant(NEWCOMER, ("trade",)), by=SELLER)
    for _ in range(5):
        members.advance(2 * DAY_MS)
        members.acknowledge("trade", MODULE, packet.sequence, EXPIRED)
        packet = members.link.sent[-1]
        grant = AccountGrant(NEWCOMER, SELLER_ID, ("trade",), True, 1)
        assert encode(News((), (grant,))) == packet.payload
        assert members.time_ms + DAY_MS == packet.deadline_ms


def test_refusals_are_bounded(members: Members) -> None:
    """A peer that keeps refusing is told three times; then it is said, and can be republished."""
    members.submit(Grant(NEWCOMER, ("sell",)), by=SELLER)
    packet = next(sent for sent in members.link.sent if sent.destination == "trade")
    for _ in range(2):
        assert [] == members.acknowledge("trade", MODULE, packet.sequence, REFUSED, 2006)
        packet = members.link.sent[-1]
    events = members.acknowledge("trade", MODULE, packet.sequence, REFUSED, 2006)
    assert [NewsUndelivered("trade", (), (NEWCOMER,), 2006)] == events
    before = len(members.link.sent)
    members.submit(Republish("trade", (SELLER_ID,), (NEWCOMER,)), by=FORWARDER)
    assert before + 2 == len(members.link.sent)


def test_unreachable_peer_stops_no_decision() -> None:
    """A decision takes effect though a peer can't be told; the event says who was not."""
    members = Members(peers=("product", "trade"))
    events = members.submit(Grant(NEWCOMER, ()), by=SELLER)
    assert NewsUndelivered("logistics", (), (NEWCOMER,), 0) in events
    assert ["product", "trade"] == [sent.destination for sent in members.link.sent]
    message = Republish("logistics", (), (NEWCOMER,))
    expect(UnknownPeer, members, members.submit, message, by=SELLER)


GENESES: list[tuple[str, dict[str, Any], type[Rejected]]] = [
    ("country", {"country": "gb"}, CountryInvalid),
    ("roles", {"roles": ("seller", "buyer")}, RolesUnordered),
    ("owner twice", {"accounts": (FounderAccount(BUYER, ()),)}, AccountTaken),
    ("rights", {"accounts": (FounderAccount(GUEST, ("issue",)),)}, RightNotAllowed),
]


@pytest.mark.parametrize(("changes", "error"), [case[1:] for case in GENESES],
                         ids=[case[0] for case in GENESES])  # fmt: skip
def test_genesis_is_checked(changes: dict[str, Any], error: type[Rejected]) -> None:
    """A genesis whose founders do not fit together starts no chain."""
    fields = {"name": "A", "country": "GB", "roles": ("buyer",), "licence": "", "owner": BUYER}
    founder = Founder(**{"accounts": (), **fields, **changes})
    good = make_members_params()
    settings = {name: getattr(good, name) for name in good.__struct_fields__}
    params = MembersParams(**{**settings, "founders": (founder,)})
    with pytest.raises(error):
        Harness("anchor", [make_module(MembersRules(), VIEWS)], {"members": params})


def test_founders_are_the_same_everywhere() -> None:
    """Every chain's genesis gives the founders the same ids and accounts."""
    anchor, trade = Members("anchor"), Members("trade")
    assert anchor.rows(ORGANISATIONS) == trade.rows(ORGANISATIONS)
    assert anchor.rows(PARTIES) == trade.rows(PARTIES)
    assert [] == anchor.link.sent


def test_views_show_the_members(members: Members) -> None:
    """Rows say what the state says: organisations, accounts, customers, votes."""
    register_customers(members, GUEST)
    proposal = members.decide(Suspend(SELLER_ID, "audit"), (BUYER, ISSUER, CARRIER))
    rows = {row["id"]: row["status"] for row in members.view(ORGANISATION_ROWS)}
    states = {key.hex(): record.status for key, record in members.rows(ORGANISATIONS).items()}
    assert states == rows
    kinds = {row["id"]: row["kind"] for row in members.view(ACCOUNTS)}
    parties = members.rows(PARTIES)
    assert {key.hex() for key in parties} == set(kinds)
    assert "customer" == kinds[GUEST.hex()]
    (row,) = members.view(PROPOSAL_ROWS)
    assert (proposal.hex(), "suspend", SELLER_ID.hex(), 4, "passed") == (
        row["id"],
        row["action"],
        row["subject"],
        row["approving"],
        row["status"],
    )


def test_events_carry_whole_records(members: Members) -> None:
    """One proven event shows the object's state."""
    events = members.submit(Propose(Resolve("p", b"s")), by=PLATFORM)
    (proposed,) = events
    assert isinstance(proposed, Proposed)
    assert proposed.proposal == members.rows(PROPOSALS)[proposed.proposal.id]
    (granted,) = members.submit(Grant(NEWCOMER, ()), by=SELLER)
    assert isinstance(granted, AccountChanged)
    assert granted.grant == members.rows(PARTIES)[NEWCOMER]
    (registered,) = members.submit(customer(GUEST), by=SELLER)
    assert isinstance(registered, CustomersRegistered)
    assert isinstance(members.rows(PARTIES)[GUEST], Customer)
    events = [fact.event for fact in members.facts if isinstance(fact.event, OrganisationChanged)]
    organisations: list[Organisation] = [event.organisation for event in events]
    assert list(members.rows(ORGANISATIONS)) == sorted(record.id for record in organisations)


def test_all_errors_are_reached() -> None:
    """Every numbered error of the members is expected above, and no number is used twice."""
    assert [] == find_unnamed(ERRORS, __file__)
    assert len(ERRORS) == len({error.number for error in ERRORS})
