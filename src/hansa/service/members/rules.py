"""How membership is decided, who may do what, and how the other chains hear of it."""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any, Final, assert_never, cast

from hansa.core.codec import encode, make_decoder
from hansa.core.errors import Malformed
from hansa.core.module import Context, Deadlines, Module
from hansa.core.packet import DONE, MAX_PAYLOAD_BYTES, REFUSED, Acknowledgement
from hansa.core.readmodel import Views
from hansa.core.state import Table
from hansa.service.members.model import (
    ACTIONS_OF_REGISTRY,
    ERRORS,
    EVENTS,
    MAX_ORGANISATIONS,
    MAX_REFUSALS,
    MODULE,
    AccountChanged,
    AccountGrant,
    AccountTaken,
    Action,
    Admit,
    AlreadyVoted,
    CountryInvalid,
    Customer,
    CustomerDiffers,
    CustomersRegistered,
    Decided,
    Dispatch,
    Expel,
    Founder,
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
    Party,
    Proposal,
    ProposalClosed,
    ProposalStatus,
    Propose,
    Proposed,
    RegisterCustomers,
    Reinstate,
    Republish,
    Reserved,
    ResolutionDiffers,
    ResolutionLapsed,
    ResolutionTaken,
    Resolve,
    Revoke,
    RightMissing,
    RightNotAllowed,
    Rights,
    RightsUnordered,
    Roles,
    RolesUnordered,
    Roster,
    Settings,
    Status,
    StatusUnfit,
    Suspend,
    TooManyOrganisations,
    UnknownAccount,
    UnknownOrganisation,
    UnknownPeer,
    UnknownProposal,
    UnknownResolution,
    Vote,
    Voted,
    WrongSeat,
    compute_founder_id,
    compute_rights,
)
from hansa.service.members.ports import Link

SETTINGS: Final = Table(MODULE, 0, Settings)
"""One record, under the empty key."""
ORGANISATIONS: Final = Table(MODULE, 1, Organisation)
"""By id."""
PARTIES: Final = Table(MODULE, 2, cast(type[Party], AccountGrant | Customer))
"""By account: one look-up tells member from customer from stranger."""
PROPOSALS: Final = Table(MODULE, 3, Proposal)
"""By id, which is the id of the resolution or of the organisation it makes."""
ROSTER: Final = Table(MODULE, 4, Roster)
"""One record, under the empty key."""
DISPATCHES: Final = Table(MODULE, 5, Dispatch)
"""By destination and sequence (8 bytes)."""
RESERVED: Final = Table(MODULE, 6, Reserved)
"""By account."""

DEADLINES: Final = Deadlines(MODULE)
"""Keys are ids of proposals."""

PAYLOAD_OVERHEAD_BYTES: Final = 16
"""Tag and list headers of a payload."""

_decode_news: Callable[[bytes], News] = make_decoder(News, "payload")


class MembersRules:
    """The members' own rules, and what other modules ask about accounts."""

    def __init__(self, link: Link | None = None) -> None:
        self._link = link

    def connect(self, link: Link) -> None:
        """Hand in the link, which itself asks the members and so is made after them."""
        self._link = link

    # Messages.

    def propose(self, ctx: Context, msg: Propose) -> None:
        """Open a vote.

        Raises: UnknownAccount, OrganisationSuspended, RightMissing, WrongSeat; then what the action
        lacks: RolesUnordered, CountryInvalid, AccountTaken, TooManyOrganisations,
        UnknownOrganisation, StatusUnfit, LastOrganisation.
        """
        # CHECKS
        proposer = self.require(ctx, ctx.signer, "govern")
        if isinstance(msg.action, ACTIONS_OF_REGISTRY):
            _check_seat(ctx)
        _check_action(ctx, msg.action)
        # EFFECTS
        settings = _get_settings(ctx)
        proposal = Proposal(
            id=ctx.new_id(),
            action=msg.action,
            proposer=proposer,
            approving=(proposer,),
            refusing=(),
            status="open",
            until_ms=ctx.time_ms + settings.voting_period_ms,
        )
        PROPOSALS.put(ctx, proposal.id, proposal)
        DEADLINES.schedule(ctx, proposal.until_ms, proposal.id)
        if isinstance(msg.action, Admit):
            # Else one member could void the vote of all others: by making the newcomer's account
            # its own, or its customer's, before they have voted.
            RESERVED.put(ctx, msg.action.owner, Reserved(proposal.id, proposal.until_ms))
        # EVENTS
        ctx.emit(Proposed(proposal=proposal))
        self._decide(ctx, proposal, is_over=False)

    def vote(self, ctx: Context, msg: Vote) -> None:
        """Count a vote; the one that settles it has it executed.

        Raises: UnknownAccount, OrganisationSuspended, RightMissing, UnknownProposal,
        ProposalClosed, AlreadyVoted.
        """
        # CHECKS
        organisation = self.require(ctx, ctx.signer, "govern")
        proposal = PROPOSALS.get(ctx, msg.proposal)
        if proposal is None:
            raise UnknownProposal(proposal=msg.proposal)
        if proposal.status != "open" or ctx.time_ms > proposal.until_ms:
            raise ProposalClosed(
                proposal=proposal.id, status=proposal.status, until=proposal.until_ms
            )
        if organisation in proposal.approving or organisation in proposal.refusing:
            raise AlreadyVoted(proposal=proposal.id, organisation=organisation)
        # EFFECTS
        approving, refusing = proposal.approving, proposal.refusing
        if msg.approve:
            approving = (*approving, organisation)
        else:
            refusing = (*refusing, organisation)
        proposal = _change_proposal(proposal, approving=approving, refusing=refusing)
        PROPOSALS.put(ctx, proposal.id, proposal)
        # EVENTS
        ctx.emit(Voted(proposal=proposal, organisation=organisation, approve=msg.approve))
        self._decide(ctx, proposal, is_over=False)

    def grant(self, ctx: Context, msg: Grant) -> None:
        """Let an account act for the signer's organisation.

        Raises: WrongSeat, UnknownAccount, OrganisationSuspended, NotOwner, OwnerFixed,
        RightsUnordered, RightNotAllowed, AccountTaken.
        """
        # CHECKS
        _check_seat(ctx)
        organisation = _require_owner(ctx)
        _check_not_owner(organisation, msg.account)
        _check_rights(organisation.roles, msg.rights)
        old = PARTIES.get(ctx, msg.account)
        if old is not None and old.organisation != organisation.id:
            _check_free(ctx, msg.account)
        if isinstance(old, Customer):
            raise AccountTaken(account=msg.account, organisation=old.organisation)
        if old is None or not old.is_active:
            _check_unreserved(ctx, msg.account)
        # EFFECTS, EVENTS
        self._put_grant(ctx, _make_grant(old, msg.account, organisation.id, msg.rights, True))

    def revoke(self, ctx: Context, msg: Revoke) -> None:
        """End what an account may do for the signer's organisation.

        Raises: WrongSeat, UnknownAccount, OrganisationSuspended, NotOwner, OwnerFixed.
        """
        # CHECKS
        _check_seat(ctx)
        organisation = _require_owner(ctx)
        _check_not_owner(organisation, msg.account)
        old = PARTIES.get(ctx, msg.account)
        is_own = isinstance(old, AccountGrant) and old.organisation == organisation.id
        if not is_own or not cast(AccountGrant, old).is_active:
            raise UnknownAccount(account=msg.account)
        # EFFECTS, EVENTS
        self._put_grant(ctx, _make_grant(old, msg.account, organisation.id, (), False))

    def register_customers(self, ctx: Context, msg: RegisterCustomers) -> None:
        """Register those of the customers that are new.

        Raises: WrongSeat, UnknownAccount, OrganisationSuspended, RightMissing; for each entry in
        order CountryInvalid, AccountTaken, CustomerDiffers.
        """
        # CHECKS
        _check_seat(ctx)
        organisation = self.require(ctx, ctx.signer, "register")
        added: dict[bytes, Customer] = {}
        for entry in msg.customers:
            _check_country(entry.country)
            old = added.get(entry.account) or PARTIES.get(ctx, entry.account)
            if not _is_registered(ctx, organisation, entry, old):
                _check_unreserved(ctx, entry.account)
                added[entry.account] = _make_customer(old, organisation, entry)
        # EFFECTS
        customers = tuple(added.values())
        for customer in customers:
            PARTIES.put(ctx, customer.account, customer)
        # EVENTS
        if customers:
            ctx.emit(CustomersRegistered(customers=customers))
            self._tell_peers(ctx, (), customers)

    def republish(self, ctx: Context, msg: Republish) -> None:
        """Send a peer the records as they are now.

        Raises: WrongSeat, UnknownAccount, OrganisationSuspended, RightMissing, UnknownPeer,
        UnknownOrganisation, UnknownAccount.
        """
        # CHECKS
        _check_seat(ctx)
        self.require(ctx, ctx.signer, "relay")
        peers = _get_settings(ctx).peers
        if msg.destination not in peers or not self._get_link().has_client(ctx, msg.destination):
            raise UnknownPeer(expected=peers, given=msg.destination)
        organisations = [_require_organisation(ctx, key) for key in msg.organisations]
        parties = [_require_known(ctx, account) for account in msg.accounts]
        # EFFECTS
        for organisation in organisations:
            self._send(ctx, msg.destination, (organisation,), (), 0)
        for batch in _cut_batches(parties):
            self._send(ctx, msg.destination, (), batch, 0)

    # What other modules ask.

    def require(self, ctx: Context, account: bytes, right: str) -> bytes:
        """Return the admitted organisation for which an account may do this.

        Raises: UnknownAccount, OrganisationSuspended, RightMissing.
        """
        party = PARTIES.get(ctx, account)
        if not isinstance(party, AccountGrant) or not party.is_active:
            raise UnknownAccount(account=account)
        _check_admitted(ctx, party.organisation)
        if right not in party.rights:
            raise RightMissing(account=account, right=right, given=party.rights)
        return party.organisation

    def require_party(self, ctx: Context, account: bytes) -> None:
        """Refuse an account that is neither a member's nor a customer's in good standing.

        Raises: UnknownAccount, OrganisationSuspended.
        """
        party = PARTIES.get(ctx, account)
        if party is None or (type(party) is AccountGrant and not party.is_active):
            raise UnknownAccount(account=account)
        organisation = ORGANISATIONS.get(ctx, party.organisation)
        if organisation is None or organisation.status != "admitted":
            _check_admitted(ctx, party.organisation)

    def require_admitted(self, ctx: Context, organisation: bytes) -> None:
        """Refuse an organisation that is no member in good standing.

        Raises: UnknownOrganisation, OrganisationSuspended.
        """
        _require_organisation(ctx, organisation)
        _check_admitted(ctx, organisation)

    def get_holder(self, ctx: Context, account: bytes) -> bytes | None:
        """Return the organisation that answers for an account, admitted or not, or None."""
        party = PARTIES.get(ctx, account)
        if party is None or (isinstance(party, AccountGrant) and not party.is_active):
            return None
        return party.organisation

    def take_resolution(
        self, ctx: Context, resolution: bytes, purpose: str, subject: bytes
    ) -> None:
        """Use a resolution of this chain, once.

        Raises: UnknownResolution, ResolutionDiffers.
        """
        # CHECKS
        proposal = PROPOSALS.get(ctx, resolution)
        if proposal is None or not isinstance(proposal.action, Resolve):
            raise UnknownResolution(resolution=resolution, status="no resolution")
        if proposal.status != "passed" or ctx.time_ms > proposal.until_ms:
            raise UnknownResolution(resolution=resolution, status=proposal.status)
        action = proposal.action
        if action.purpose != purpose or action.subject != subject:
            given = (action.purpose, action.subject)
            raise ResolutionDiffers(
                resolution=resolution, purpose=purpose, subject=subject, given=given
            )
        # EFFECTS
        DEADLINES.cancel(ctx, proposal.until_ms, proposal.id)
        proposal = _change_proposal(proposal, status="taken")
        PROPOSALS.put(ctx, proposal.id, proposal)
        # EVENTS
        ctx.emit(ResolutionTaken(proposal=proposal))

    # What the chain calls.

    def found(self, ctx: Context, params: MembersParams) -> None:
        """Write the founders and settings at genesis.

        Raises: CountryInvalid, RolesUnordered, AccountTaken, RightsUnordered, RightNotAllowed.
        """
        SETTINGS.put(ctx, b"", Settings(*(getattr(params, name) for name in _SETTINGS_FIELDS)))
        ROSTER.put(ctx, b"", Roster(admitted=0))
        for founder in params.founders:
            _check_country(founder.country)
            _check_roles(founder.roles)
            _check_free(ctx, founder.owner)
            self._put_organisation(ctx, _make_founder(founder))
            self._put_owner(ctx, compute_founder_id(founder.owner), founder.owner, founder.roles)
            for entry in founder.accounts:
                _check_free(ctx, entry.account)
                _check_rights(founder.roles, entry.rights)
                organisation = compute_founder_id(founder.owner)
                grant = _make_grant(None, entry.account, organisation, entry.rights, True)
                self._put_grant(ctx, grant)

    def end(self, ctx: Context, key: bytes) -> None:
        """End a vote or a resolution whose time is over."""
        proposal = PROPOSALS.get(ctx, key)
        assert proposal is not None, f"a deadline without its proposal {key.hex()}"
        if proposal.status == "open":
            self._decide(ctx, proposal, is_over=True)
            return
        assert proposal.status == "passed", f"{proposal.status} has no deadline"
        proposal = _change_proposal(proposal, status="lapsed")
        PROPOSALS.put(ctx, proposal.id, proposal)
        ctx.emit(ResolutionLapsed(proposal=proposal))

    def learn(self, ctx: Context, source: str, payload: bytes) -> None:
        """Take over what the registry says, unless something newer is known already.

        Raises: NotRegistry, NewsMalformed.
        """
        # CHECKS
        registry = _get_settings(ctx).registry
        if source != registry:
            raise NotRegistry(expected=registry, given=source)
        try:
            news = _decode_news(payload)
        except Malformed:
            # The codec's words differ between its versions, and this text is part of a receipt.
            raise NewsMalformed(given=len(payload)) from None
        # EFFECTS, EVENTS
        # REORDERING: a packet sent again after it expired may come behind a newer one; the
        # revision keeps it from undoing, say, a suspension.
        for organisation in news.organisations:
            known = ORGANISATIONS.get(ctx, organisation.id)
            if known is None or known.revision < organisation.revision:
                self._put_organisation(ctx, organisation)
        customers: list[Customer] = []
        for party in news.parties:
            old = PARTIES.get(ctx, party.account)
            if old is not None and old.revision >= party.revision:
                continue
            PARTIES.put(ctx, party.account, party)
            if isinstance(party, Customer):
                customers.append(party)
            else:
                ctx.emit(AccountChanged(grant=party))
        if customers:
            ctx.emit(CustomersRegistered(customers=tuple(customers)))

    def handle_acknowledgement(
        self, ctx: Context, destination: str, sequence: int, ack: Acknowledgement
    ) -> None:
        """Forget what a peer has taken; tell it again, as things stand now, what it has not.

        An expired packet goes again each time: that is at most once in its lifetime. A refused one
        goes MAX_REFUSALS times, else two chains would say the same to each other for ever.
        """
        place = _dispatch_key(destination, sequence)
        dispatch = DISPATCHES.get(ctx, place)
        assert dispatch is not None, f"no packet {sequence} to {destination} was on its way"
        DISPATCHES.delete(ctx, place)
        if ack.outcome == DONE:
            return
        refusals = dispatch.refusals + (ack.outcome == REFUSED)
        if refusals >= MAX_REFUSALS:
            self._give_up(ctx, destination, dispatch.organisations, dispatch.accounts, ack.number)
            return
        organisations = [_require_organisation(ctx, key) for key in dispatch.organisations]
        parties = [_require_known(ctx, account) for account in dispatch.accounts]
        # Records may have grown since (a grant its rights), so they are cut anew.
        for organisation in organisations:
            self._send(ctx, destination, (organisation,), (), refusals)
        for batch in _cut_batches(parties):
            self._send(ctx, destination, (), batch, refusals)

    # Votes.

    def _decide(self, ctx: Context, proposal: Proposal, *, is_over: bool) -> None:
        """End the vote if it is settled or its time is over.

        Only organisations admitted now are counted, on both sides, so that nobody is outvoted by
        members who have been expelled since.
        """
        settings = _get_settings(ctx)
        admitted = _get_roster(ctx).admitted
        needed = settings.quorum_permille * admitted // 1000 + 1
        if _count_admitted(ctx, proposal.approving) >= needed:
            self._close(ctx, proposal, self._execute(ctx, proposal))
        elif is_over or admitted - _count_admitted(ctx, proposal.refusing) < needed:
            self._close(ctx, proposal, "failed")

    def _close(self, ctx: Context, proposal: Proposal, status: ProposalStatus) -> None:
        DEADLINES.cancel(ctx, proposal.until_ms, proposal.id)
        until_ms = proposal.until_ms
        if status == "passed" and isinstance(proposal.action, Resolve):
            until_ms = ctx.time_ms + _get_settings(ctx).resolution_lifetime_ms
            DEADLINES.schedule(ctx, until_ms, proposal.id)
        proposal = _change_proposal(proposal, status=status, until_ms=until_ms)
        PROPOSALS.put(ctx, proposal.id, proposal)
        ctx.emit(Decided(proposal=proposal))

    def _execute(self, ctx: Context, proposal: Proposal) -> ProposalStatus:
        """Do what was decided. A vote must never fail on it: what lost its ground is moot."""
        action = proposal.action
        try:
            _check_action(ctx, action)
        except _MOOT:
            return "moot"
        match action:
            case Admit():
                self._admit(ctx, proposal.id, action)
            case Suspend():
                self._set_status(ctx, action.organisation, "suspended")
            case Reinstate():
                self._set_status(ctx, action.organisation, "admitted")
            case Expel():
                self._set_status(ctx, action.organisation, "expelled")
            case Resolve():
                pass  # Whoever takes it does what it allows.
            case _:
                assert_never(action)
        return "passed"

    def _admit(self, ctx: Context, organisation_id: bytes, action: Admit) -> None:
        organisation = Organisation(
            id=organisation_id,
            name=action.name,
            country=action.country,
            roles=action.roles,
            licence=action.licence,
            status="admitted",
            owner=action.owner,
            revision=0,
        )
        self._put_organisation(ctx, organisation)
        self._put_owner(ctx, organisation_id, action.owner, action.roles)

    def _set_status(self, ctx: Context, organisation_id: bytes, status: Status) -> None:
        old = _require_organisation(ctx, organisation_id)
        self._put_organisation(ctx, _change_status(old, status))

    # Writing, and telling the others.

    def _put_owner(self, ctx: Context, organisation: bytes, owner: bytes, roles: Roles) -> None:
        old = PARTIES.get(ctx, owner)
        self._put_grant(ctx, _make_grant(old, owner, organisation, compute_rights(roles), True))

    def _put_organisation(self, ctx: Context, organisation: Organisation) -> None:
        """Write an organisation, keep the roster's count, and let it be known."""
        old = ORGANISATIONS.get(ctx, organisation.id)
        was_admitted = old is not None and old.status == "admitted"
        change = (organisation.status == "admitted") - was_admitted
        if change:
            ROSTER.put(ctx, b"", Roster(admitted=_get_roster(ctx).admitted + change))
        ORGANISATIONS.put(ctx, organisation.id, organisation)
        ctx.emit(OrganisationChanged(organisation=organisation))
        self._tell_peers(ctx, (organisation,), ())

    def _put_grant(self, ctx: Context, grant: AccountGrant) -> None:
        PARTIES.put(ctx, grant.account, grant)
        ctx.emit(AccountChanged(grant=grant))
        self._tell_peers(ctx, (), (grant,))

    def _tell_peers(
        self, ctx: Context, organisations: Sequence[Organisation], parties: Sequence[Party]
    ) -> None:
        settings = _get_settings(ctx)
        if ctx.chain != settings.registry or ctx.height == 0:
            return  # Every chain's genesis has the founders.
        for peer in settings.peers:
            if not self._get_link().has_client(ctx, peer):
                # Decisions must not wait for a peer that can't be reached.
                ids = tuple(organisation.id for organisation in organisations)
                self._give_up(ctx, peer, ids, tuple(party.account for party in parties), 0)
                continue
            for organisation in organisations:
                self._send(ctx, peer, (organisation,), (), 0)
            for batch in _cut_batches(parties):
                self._send(ctx, peer, (), batch, 0)

    def _send(
        self, ctx: Context, peer: str, organisations: tuple[Organisation, ...],
        parties: tuple[Party, ...], refusals: int,
    ) -> None:  # fmt: skip
        payload = encode(News(organisations=organisations, parties=parties))
        assert len(payload) <= MAX_PAYLOAD_BYTES, f"a payload of {len(payload)} bytes"
        deadline_ms = ctx.time_ms + _get_settings(ctx).packet_lifetime_ms
        sequence = self._get_link().send(ctx, peer, MODULE, payload, deadline_ms)
        dispatch = Dispatch(
            organisations=tuple(organisation.id for organisation in organisations),
            accounts=tuple(party.account for party in parties),
            refusals=refusals,
        )
        DISPATCHES.put(ctx, _dispatch_key(peer, sequence), dispatch)

    def _give_up(
        self, ctx: Context, peer: str, organisations: tuple[bytes, ...],
        accounts: tuple[bytes, ...], number: int,
    ) -> None:  # fmt: skip
        ctx.emit(
            NewsUndelivered(
                destination=peer, organisations=organisations, accounts=accounts, number=number
            )
        )

    def _get_link(self) -> Link:
        assert self._link is not None, "the link was not connected"
        return self._link


_SETTINGS_FIELDS: Final = Settings.__struct_fields__

_MOOT: Final = (
    AccountTaken,
    TooManyOrganisations,
    UnknownOrganisation,
    StatusUnfit,
    LastOrganisation,
)
"""What may have happened between a proposal and its passing."""


# Reading.


def _get_settings(ctx: Context) -> Settings:
    settings = SETTINGS.get(ctx, b"")
    assert settings is not None, "the genesis writes the settings"
    return settings


def _get_roster(ctx: Context) -> Roster:
    roster = ROSTER.get(ctx, b"")
    assert roster is not None, "the genesis writes the roster"
    return roster


def _count_admitted(ctx: Context, organisations: Iterable[bytes]) -> int:
    records = (ORGANISATIONS.get(ctx, key) for key in organisations)
    return sum(record is not None and record.status == "admitted" for record in records)


# Checks.


def _check_seat(ctx: Context) -> None:
    registry = _get_settings(ctx).registry
    if ctx.chain != registry:
        raise WrongSeat(expected=registry, given=ctx.chain)


def _check_admitted(ctx: Context, organisation_id: bytes) -> None:
    organisation = ORGANISATIONS.get(ctx, organisation_id)
    # A peer may hear of an account before it hears of its organisation.
    status = "unknown" if organisation is None else organisation.status
    if status != "admitted":
        raise OrganisationSuspended(organisation=organisation_id, status=status)


def _require_organisation(ctx: Context, organisation_id: bytes) -> Organisation:
    organisation = ORGANISATIONS.get(ctx, organisation_id)
    if organisation is None:
        raise UnknownOrganisation(organisation=organisation_id)
    return organisation


def _require_known(ctx: Context, account: bytes) -> Party:
    party = PARTIES.get(ctx, account)
    if party is None:
        raise UnknownAccount(account=account)
    return party


def _require_owner(ctx: Context) -> Organisation:
    party = PARTIES.get(ctx, ctx.signer)
    if not isinstance(party, AccountGrant) or not party.is_active:
        raise UnknownAccount(account=ctx.signer)
    _check_admitted(ctx, party.organisation)
    organisation = _require_organisation(ctx, party.organisation)
    if organisation.owner != ctx.signer:
        raise NotOwner(expected=organisation.owner, given=ctx.signer)
    return organisation


def _check_not_owner(organisation: Organisation, account: bytes) -> None:
    if account == organisation.owner:
        raise OwnerFixed(account=account)


def _check_country(country: str) -> None:
    if not (country.isascii() and country.isalpha() and country.isupper()):
        raise CountryInvalid(given=country)


def _check_roles(roles: Roles) -> None:
    if not _is_ascending(roles):
        raise RolesUnordered(given=roles)


def _check_rights(roles: Roles, rights: Rights) -> None:
    if not _is_ascending(rights):
        raise RightsUnordered(given=rights)
    allowed = compute_rights(roles)
    for right in rights:
        if right not in allowed:
            raise RightNotAllowed(expected=allowed, given=right)


def _is_ascending(words: Sequence[str]) -> bool:
    return all(left < right for left, right in pairwise(words))


def _check_free(ctx: Context, account: bytes) -> None:
    """Refuse an account that is a customer's, or in use by a member who is not expelled."""
    party = PARTIES.get(ctx, account)
    if party is None:
        return
    if isinstance(party, AccountGrant) and (
        not party.is_active or _is_expelled(ctx, party.organisation)
    ):
        return
    raise AccountTaken(account=account, organisation=party.organisation)


def _check_unreserved(ctx: Context, account: bytes) -> None:
    reserved = RESERVED.get(ctx, account)
    if reserved is not None and ctx.time_ms <= reserved.until_ms:
        raise AccountTaken(account=account, organisation=reserved.organisation)


def _is_expelled(ctx: Context, organisation_id: bytes) -> bool:
    return _require_organisation(ctx, organisation_id).status == "expelled"


def _is_registered(
    ctx: Context, organisation: bytes, entry: NewCustomer, old: Party | None
) -> bool:
    """Tell whether a customer is registered so already. Raises: AccountTaken, CustomerDiffers."""
    if old is None:
        return False
    if isinstance(old, AccountGrant):
        raise AccountTaken(account=entry.account, organisation=old.organisation)
    if old.organisation != organisation and _is_expelled(ctx, old.organisation):
        return False  # Nobody answers for him any more; another member may.
    known = (old.organisation, old.country, old.reference)
    if known != (organisation, entry.country, entry.reference):
        given = (organisation, entry.country, entry.reference)
        raise CustomerDiffers(account=entry.account, organisation=old.organisation, given=given)
    return True


def _check_action(ctx: Context, action: Action) -> None:
    """Refuse an action that could not be executed now."""
    match action:
        case Admit():
            _check_roles(action.roles)
            _check_country(action.country)
            _check_free(ctx, action.owner)
            _check_room(ctx)
        case Suspend():
            _check_status(ctx, action.organisation, ("admitted",))
            _check_not_last(ctx, action.organisation)
        case Reinstate():
            _check_status(ctx, action.organisation, ("suspended",))
            _check_room(ctx)
        case Expel():
            _check_status(ctx, action.organisation, ("admitted", "suspended"))
            _check_not_last(ctx, action.organisation)
        case Resolve():
            pass
        case _:
            assert_never(action)


def _check_room(ctx: Context) -> None:
    if _get_roster(ctx).admitted >= MAX_ORGANISATIONS:
        raise TooManyOrganisations(limit=MAX_ORGANISATIONS)


def _check_status(ctx: Context, organisation_id: bytes, expected: tuple[Status, ...]) -> None:
    status = _require_organisation(ctx, organisation_id).status
    if status not in expected:
        raise StatusUnfit(organisation=organisation_id, expected=expected, given=status)


def _check_not_last(ctx: Context, organisation_id: bytes) -> None:
    # With nobody admitted nobody could vote again: the network would be lost.
    is_admitted = _require_organisation(ctx, organisation_id).status == "admitted"
    if is_admitted and _get_roster(ctx).admitted == 1:
        raise LastOrganisation(organisation=organisation_id)


# Making records.


def _make_founder(founder: Founder) -> Organisation:
    return Organisation(
        id=compute_founder_id(founder.owner),
        name=founder.name,
        country=founder.country,
        roles=founder.roles,
        licence=founder.licence,
        status="admitted",
        owner=founder.owner,
        revision=0,
    )


def _make_grant(
    old: Party | None, account: bytes, organisation: bytes, rights: Rights, is_active: bool
) -> AccountGrant:
    return AccountGrant(
        account=account,
        organisation=organisation,
        rights=rights,
        is_active=is_active,
        revision=0 if old is None else old.revision + 1,
    )


def _make_customer(old: Party | None, organisation: bytes, entry: NewCustomer) -> Customer:
    return Customer(
        account=entry.account,
        organisation=organisation,
        country=entry.country,
        reference=entry.reference,
        revision=0 if old is None else old.revision + 1,
    )


def _change_status(old: Organisation, status: Status) -> Organisation:
    return Organisation(
        id=old.id,
        name=old.name,
        country=old.country,
        roles=old.roles,
        licence=old.licence,
        status=status,
        owner=old.owner,
        revision=old.revision + 1,
    )


def _change_proposal(old: Proposal, **changes: Any) -> Proposal:
    fields = {name: getattr(old, name) for name in Proposal.__struct_fields__}
    return Proposal(**{**fields, **changes})


# Packets.


def _dispatch_key(destination: str, sequence: int) -> bytes:
    return destination.encode() + sequence.to_bytes(8, "big")


def _cut_batches(parties: Sequence[Party]) -> Iterable[tuple[Party, ...]]:
    """Cut records into batches that each fit a payload."""
    batch: list[Party] = []
    room = MAX_PAYLOAD_BYTES - PAYLOAD_OVERHEAD_BYTES
    for party in parties:
        size = len(encode(party))
        if size > room:
            yield tuple(batch)
            batch, room = [], MAX_PAYLOAD_BYTES - PAYLOAD_OVERHEAD_BYTES
        batch.append(party)
        room -= size
    if batch:
        yield tuple(batch)


def make_module(rules: MembersRules, views: Views) -> Module:
    """Return the module as the core runs it."""
    return Module(
        name="members",
        number=MODULE,
        version=1,
        handlers={
            Propose: rules.propose,
            Vote: rules.vote,
            Grant: rules.grant,
            Revoke: rules.revoke,
            RegisterCustomers: rules.register_customers,
            Republish: rules.republish,
        },
        events=EVENTS,
        errors=ERRORS,
        params=MembersParams,
        on_genesis=rules.found,
        on_deadline=rules.end,
        on_packet=rules.learn,
        on_acknowledgement=rules.handle_acknowledgement,
        views=views,
    )
