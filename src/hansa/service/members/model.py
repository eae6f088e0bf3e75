"""Organisations, accounts, customers and votes: what can be said, and what is remembered."""

from typing import Annotated, Final, Literal

from msgspec import Meta

from hansa.core.codec import (
    U8,
    U32,
    Account,
    ChainName,
    Country,
    Name,
    ObjectId,
    ShortText,
    TimeMs,
    Value,
)
from hansa.core.errors import Rejected
from hansa.core.hashing import Digest, tagged_hasher
from hansa.core.transaction import Event, Message, message_number

MODULE: Final = 2

MAX_ORGANISATIONS: Final = 1_000
"""Admitted at one time: a proposal keeps the votes of all of them."""
MAX_CUSTOMERS: Final = 500
"""In one message."""
MAX_RECORDS: Final = 500
"""In one packet; its bytes bind earlier."""
MAX_REFUSALS: Final = 3
"""How often a peer may refuse the same news before somebody has to look."""
MAX_SUBJECT_BYTES: Final = 256

Role = Literal[
    "arbiter",
    "auditor",
    "bank",
    "buyer",
    "carrier",
    "credit_agency",
    "customs",
    "insurer",
    "licensing_authority",
    "manufacturer",
    "operator",
    "payment_institution",
    "platform",
    "regulator",
    "seller",
    "warehouse",
]
Right = Literal[
    "carry", "customs", "govern", "issue", "register", "relay", "sell", "store", "trade"
]
Status = Literal["admitted", "suspended", "expelled"]
ProposalStatus = Literal["open", "passed", "failed", "moot", "taken", "lapsed"]

RIGHTS_OF_ALL: Final[tuple[Right, ...]] = ("govern", "register", "relay", "trade")
"""What any organisation may let an account do."""

RIGHTS_OF_ROLE: Final[dict[Role, tuple[Right, ...]]] = {
    "bank": ("issue",),
    "carrier": ("carry",),
    "customs": ("customs",),
    "manufacturer": ("sell",),
    "payment_institution": ("issue",),
    "platform": ("sell",),
    "seller": ("sell",),
    "warehouse": ("store",),
}
"""What a role adds to that; a role not named here adds nothing."""

Roles = Annotated[tuple[Role, ...], Meta(min_length=1, max_length=16)]
"""Each once, in the order of the alphabet."""
Rights = Annotated[tuple[Right, ...], Meta(max_length=9)]
"""Each once, in the order of the alphabet."""
Votes = Annotated[tuple[ObjectId, ...], Meta(max_length=65_535)]

_founder_hash = tagged_hasher("founder")


def compute_founder_id(owner: bytes) -> bytes:
    """Return the organisation id of a founder: 16 bytes, the same on every chain."""
    return _founder_hash(owner)[:16]


def compute_rights(roles: tuple[Role, ...]) -> tuple[Right, ...]:
    """Return all that accounts of an organisation with these roles may do, sorted."""
    found = list(RIGHTS_OF_ALL)
    for role in roles:
        found += [right for right in RIGHTS_OF_ROLE.get(role, ()) if right not in found]
    return tuple(sorted(found))


# Records.


class Organisation(Value):
    """A company or authority, as the members admitted it."""

    id: ObjectId
    """The same on every chain."""
    name: Name
    country: Country
    """ISO 3166-1 alpha-2."""
    roles: Roles
    licence: ShortText
    """Reference of the licence it acts under; empty where it needs none."""
    status: Status
    owner: Account
    """Says what the other accounts may do; may itself do all that the roles allow."""
    revision: U32
    """Counts the changes from 0; an older one never overwrites a newer one."""


class AccountGrant(Value, tag=1):
    """An account of an organisation and what it may do."""

    account: Account
    organisation: ObjectId
    rights: Rights
    """Empty once it is revoked."""
    is_active: bool
    revision: U32


class Customer(Value, tag=2):
    """Somebody whom an organisation answers for: buys and pays, and does nothing else."""

    account: Account
    organisation: ObjectId
    """Which registered the customer."""
    country: Country
    """ISO 3166-1 alpha-2."""
    reference: Digest
    """Salted commitment to the organisation's own file on the customer; nothing personal."""
    revision: U32


Party = AccountGrant | Customer
"""What an account is: one of the two, never both, for they are one table."""


class Admit(Value, tag=1):
    """Make an organisation a member; its id is that of the proposal."""

    name: Name
    country: Country
    roles: Roles
    licence: ShortText
    owner: Account
    """Free: of no organisation that is not expelled, and no customer."""


class Suspend(Value, tag=2):
    """Stop all accounts and customers of an organisation until it is reinstated."""

    organisation: ObjectId
    reason: ShortText


class Reinstate(Value, tag=3):
    """End a suspension."""

    organisation: ObjectId


class Expel(Value, tag=4):
    """End a membership for good; the same company comes back only by a new admission."""

    organisation: ObjectId
    reason: ShortText


class Resolve(Value, tag=5):
    """Allow, once, what no single organisation may do; another module says what."""

    purpose: ShortText
    """What it is for, as the module that takes it calls it: ``link.recover``."""
    subject: Annotated[bytes, Meta(max_length=MAX_SUBJECT_BYTES)]
    """Exactly what is allowed, as that module encodes it."""


Action = Admit | Suspend | Reinstate | Expel | Resolve


class Proposal(Value):
    """An action put to the vote, and what became of it."""

    id: ObjectId
    action: Action
    proposer: ObjectId
    """Organisation, whose vote is the first."""
    approving: Votes
    """Organisations, in order of voting; those not admitted when it is counted do not count."""
    refusing: Votes
    status: ProposalStatus
    """passed: executed, or a resolution not used yet; moot: passed when there was nothing left to
    change; taken, lapsed: a resolution used, or not used in time."""
    until_ms: TimeMs
    """Last block time for votes; of a resolution that has passed, for its use."""


class Settings(Value):
    """How this chain's members decide, and where membership is decided."""

    registry: ChainName
    """The chain that decides on membership; the others believe its packets alone."""
    peers: Annotated[tuple[ChainName, ...], Meta(max_length=63)]
    """Chains that the registry tells; meaningless elsewhere."""
    quorum_permille: Annotated[int, Meta(ge=0, le=999)]
    """A proposal passes with more yes votes than this share of the admitted organisations."""
    voting_period_ms: Annotated[int, Meta(ge=1, le=366 * 24 * 3600 * 1000)]
    resolution_lifetime_ms: Annotated[int, Meta(ge=1, le=366 * 24 * 3600 * 1000)]
    packet_lifetime_ms: Annotated[int, Meta(ge=1, le=366 * 24 * 3600 * 1000)]
    """How long a peer has to take a packet before it is sent anew."""


class FounderAccount(Value):
    """An account of a founder besides the owner's."""

    account: Account
    rights: Rights


class Founder(Value):
    """An organisation that was there from the start; the same list in every chain's genesis."""

    name: Name
    country: Country
    roles: Roles
    licence: ShortText
    owner: Account
    accounts: Annotated[tuple[FounderAccount, ...], Meta(max_length=256)]


class MembersParams(Settings):
    """What the genesis says to this module."""

    founders: Annotated[tuple[Founder, ...], Meta(min_length=1, max_length=MAX_ORGANISATIONS)]


class Reserved(Value):
    """An account that an admission put to the vote names as the owner's."""

    organisation: ObjectId
    """The proposal, whose id the organisation will have."""
    until_ms: TimeMs
    """Last block time for votes; free again after it."""


class Roster(Value):
    """How many organisations are admitted now."""

    admitted: U32


class Dispatch(Value):
    """What a packet on its way tells, so that it can be told again."""

    organisations: Annotated[tuple[ObjectId, ...], Meta(max_length=MAX_RECORDS)]
    accounts: Annotated[tuple[Account, ...], Meta(max_length=MAX_RECORDS)]
    refusals: U8
    """How often the peer has refused it."""


# Packets.


class News(Value, tag=1):
    """Current records, from the registry to a peer."""

    organisations: Annotated[tuple[Organisation, ...], Meta(max_length=MAX_RECORDS)]
    parties: Annotated[tuple[Party, ...], Meta(max_length=MAX_RECORDS)]


# Messages.


class Propose(Message, tag=message_number(MODULE, 1)):
    """Put an action to the vote; proposing is voting yes. Right ``govern``."""

    action: Action


class Vote(Message, tag=message_number(MODULE, 2)):
    """Vote for one's organisation, once and for good. Right ``govern``."""

    proposal: ObjectId
    approve: bool


class Grant(Message, tag=message_number(MODULE, 3)):
    """Let an account act for the organisation; replaces what it might do before. Owner only."""

    account: Account
    rights: Rights


class Revoke(Message, tag=message_number(MODULE, 4)):
    """End what an account may do for the organisation. Owner only."""

    account: Account


class NewCustomer(Value):
    """A customer as the registering organisation knows him."""

    account: Account
    country: Country
    reference: Digest
    """Salted commitment; nothing personal."""


class RegisterCustomers(Message, tag=message_number(MODULE, 5)):
    """Answer for customers. Right ``register``; entries known already change nothing."""

    customers: Annotated[tuple[NewCustomer, ...], Meta(min_length=1, max_length=MAX_CUSTOMERS)]


class Republish(Message, tag=message_number(MODULE, 6)):
    """Tell a peer again what it may have missed. Right ``relay``."""

    destination: ChainName
    organisations: Annotated[tuple[ObjectId, ...], Meta(max_length=100)]
    accounts: Annotated[tuple[Account, ...], Meta(max_length=MAX_RECORDS)]


# Events.


class OrganisationChanged(Event, tag=message_number(MODULE, 0x81)):
    """An organisation was admitted, suspended, reinstated or expelled, or so this chain heard."""

    organisation: Organisation


class AccountChanged(Event, tag=message_number(MODULE, 0x82)):
    """An account may do something else now."""

    grant: AccountGrant


class CustomersRegistered(Event, tag=message_number(MODULE, 0x83)):
    """Customers are known from now on."""

    customers: Annotated[tuple[Customer, ...], Meta(max_length=MAX_CUSTOMERS)]


class Proposed(Event, tag=message_number(MODULE, 0x84)):
    """A vote began."""

    proposal: Proposal


class Voted(Event, tag=message_number(MODULE, 0x85)):
    """An organisation voted."""

    proposal: Proposal
    organisation: ObjectId
    approve: bool


class Decided(Event, tag=message_number(MODULE, 0x86)):
    """A vote ended: passed, failed or moot."""

    proposal: Proposal


class ResolutionTaken(Event, tag=message_number(MODULE, 0x87)):
    """A resolution was used."""

    proposal: Proposal


class ResolutionLapsed(Event, tag=message_number(MODULE, 0x88)):
    """A resolution was not used in time."""

    proposal: Proposal


class NewsUndelivered(Event, tag=message_number(MODULE, 0x89)):
    """A peer was not told: it keeps refusing, or it can't be reached; republish once it can."""

    destination: ChainName
    organisations: Annotated[tuple[ObjectId, ...], Meta(max_length=MAX_RECORDS)]
    accounts: Annotated[tuple[Account, ...], Meta(max_length=MAX_RECORDS)]
    number: U32
    """Error number of the last refusal; 0 where the chain has no client of the peer."""


# Errors.


class UnknownAccount(Rejected):
    number = 2001
    says = "account: expected an active account of a member or a customer, got {account}"


class OrganisationSuspended(Rejected):
    number = 2002
    says = "organisation: expected {organisation} to be admitted, got {status}"


class RightMissing(Rejected):
    number = 2003
    says = "account: expected {account} to have the right {right}, got {given}"


class WrongSeat(Rejected):
    number = 2004
    says = "chain: expected membership to be decided on {expected}, got {given}"


class NotRegistry(Rejected):
    number = 2005
    says = "source: expected news of the chain {expected}, got {given}"


class NewsMalformed(Rejected):
    number = 2006
    says = "payload: expected news, got {given} other bytes"


class UnknownOrganisation(Rejected):
    number = 2007
    says = "organisation: expected one that was admitted, got {organisation}"


class StatusUnfit(Rejected):
    number = 2008
    says = "organisation: expected {organisation} to be {expected}, got {given}"


class AccountTaken(Rejected):
    number = 2009
    says = "account: expected one that is free, got {account} of organisation {organisation}"


class RolesUnordered(Rejected):
    number = 2010
    says = "roles: expected each once in the order of the alphabet, got {given}"


class RightsUnordered(Rejected):
    number = 2011
    says = "rights: expected each once in the order of the alphabet, got {given}"


class RightNotAllowed(Rejected):
    number = 2012
    says = "rights: expected some of {expected}, which the roles allow, got {given}"


class NotOwner(Rejected):
    number = 2013
    says = "signer: expected the owner {expected} of the organisation, got {given}"


class OwnerFixed(Rejected):
    number = 2014
    says = "account: expected another than the owner's own, got {account}"


class CustomerDiffers(Rejected):
    number = 2015
    says = "customer {account}: expected what {organisation} registered, got {given}"


class UnknownProposal(Rejected):
    number = 2016
    says = "proposal: expected one that was made on this chain, got {proposal}"


class ProposalClosed(Rejected):
    number = 2017
    says = "proposal: expected {proposal} to be open, got {status} until {until} ms"


class AlreadyVoted(Rejected):
    number = 2018
    says = "proposal {proposal}: expected one vote of {organisation}, got another"


class LastOrganisation(Rejected):
    number = 2019
    says = "organisation: expected another to remain admitted, got {organisation}, the last"


class TooManyOrganisations(Rejected):
    number = 2020
    says = "organisations: expected at most {limit} admitted at a time, got one more"


class UnknownResolution(Rejected):
    number = 2021
    says = "resolution: expected one that has passed and is not used, got {resolution}: {status}"


class ResolutionDiffers(Rejected):
    number = 2022
    says = "resolution {resolution}: expected {purpose} {subject}, got {given}"


class UnknownPeer(Rejected):
    number = 2023
    says = "destination: expected one of {expected} that this chain has a client of, got {given}"


class CountryInvalid(Rejected):
    number = 2024
    says = "country: expected two letters A to Z, got {given}"


ACTIONS_OF_REGISTRY: Final = (Admit, Suspend, Reinstate, Expel)
"""Decided on the registry alone; resolutions are of the chain that makes them."""

EVENTS: Final[tuple[type[Event], ...]] = (
    OrganisationChanged,
    AccountChanged,
    CustomersRegistered,
    Proposed,
    Voted,
    Decided,
    ResolutionTaken,
    ResolutionLapsed,
    NewsUndelivered,
)

ERRORS: Final[tuple[type[Rejected], ...]] = (
    UnknownAccount,
    OrganisationSuspended,
    RightMissing,
    WrongSeat,
    NotRegistry,
    NewsMalformed,
    UnknownOrganisation,
    StatusUnfit,
    AccountTaken,
    RolesUnordered,
    RightsUnordered,
    RightNotAllowed,
    NotOwner,
    OwnerFixed,
    CustomerDiffers,
    UnknownProposal,
    ProposalClosed,
    AlreadyVoted,
    LastOrganisation,
    TooManyOrganisations,
    UnknownResolution,
    ResolutionDiffers,
    UnknownPeer,
    CountryInvalid,
)
