"""What people ask about organisations, accounts and votes."""

from typing import Any, Final

import sqlalchemy as sa

from hansa.core.codec import readable_name, to_readable
from hansa.core.readmodel import Batch, Fact, Kind, Views, place_columns, place_of
from hansa.service.members.model import (
    AccountChanged,
    AccountGrant,
    Customer,
    CustomersRegistered,
    Decided,
    NewsUndelivered,
    OrganisationChanged,
    Proposal,
    Proposed,
    ResolutionLapsed,
    ResolutionTaken,
    Voted,
)

METADATA: Final = sa.MetaData()

ORGANISATIONS: Final = sa.Table(
    "organisations",
    METADATA,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("name", sa.String(128), nullable=False),
    sa.Column("country", sa.String(2), nullable=False),
    sa.Column("roles", sa.String(512), nullable=False),
    sa.Column("licence", sa.String(64), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("owner", sa.String(40), nullable=False),
    sa.Column("revision", sa.BigInteger, nullable=False),
    *place_columns(),
    sa.Index("organisations_by_status", "status", "id"),
    sa.Index("organisations_by_country", "country", "id"),
    sa.Index("organisations_by_owner", "owner"),
)
"""Where one read model holds several chains, as the chain knows it that heard last."""

ACCOUNTS: Final = sa.Table(
    "accounts",
    METADATA,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("organisation", sa.String(32), nullable=False),
    sa.Column("kind", sa.String(8), nullable=False),
    sa.Column("rights", sa.String(128), nullable=False),
    sa.Column("is_active", sa.Boolean, nullable=False),
    sa.Column("country", sa.String(2), nullable=True),
    sa.Column("reference", sa.String(66), nullable=True),
    sa.Column("revision", sa.BigInteger, nullable=False),
    *place_columns(),
    sa.Index("accounts_by_organisation", "organisation", "kind", "id"),
    sa.Index("accounts_by_kind", "kind", "id"),
)
"""Accounts of members and of customers; ``rights`` parted by spaces."""

PROPOSALS: Final = sa.Table(
    "proposals",
    METADATA,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("action", sa.String(16), nullable=False),
    sa.Column("details", sa.JSON, nullable=False),
    sa.Column("subject", sa.String(128), nullable=False),
    sa.Column("proposer", sa.String(32), nullable=False),
    sa.Column("approving", sa.Integer, nullable=False),
    sa.Column("refusing", sa.Integer, nullable=False),
    sa.Column("status", sa.String(8), nullable=False),
    sa.Column("until_ms", sa.BigInteger, nullable=False),
    *place_columns(),
    sa.Index("proposals_by_status", "status", "id"),
    sa.Index("proposals_by_proposer", "proposer", "id"),
)
"""``subject`` is the organisation's id or name, or the purpose of a resolution."""


def _project_organisation(batch: Batch, fact: Fact) -> None:
    organisation = fact.event.organisation
    row = {
        "id": organisation.id.hex(),
        "name": organisation.name,
        "country": organisation.country,
        "roles": " ".join(organisation.roles),
        "licence": organisation.licence,
        "status": organisation.status,
        "owner": organisation.owner.hex(),
        "revision": organisation.revision,
        **place_of(fact),
    }
    batch.put(ORGANISATIONS, (row["id"],), row)
    batch.note(fact, organisation.id)


def _project_account(batch: Batch, fact: Fact) -> None:
    grant: AccountGrant = fact.event.grant
    row = {
        "id": grant.account.hex(),
        "organisation": grant.organisation.hex(),
        "kind": "member",
        "rights": " ".join(grant.rights),
        "is_active": grant.is_active,
        "country": None,
        "reference": None,
        "revision": grant.revision,
        **place_of(fact),
    }
    batch.put(ACCOUNTS, (row["id"],), row)
    batch.note(fact, grant.account, grant.organisation)


def _project_customers(batch: Batch, fact: Fact) -> None:
    place = place_of(fact)
    for customer in fact.event.customers:
        row = _customer_row(customer, place)
        batch.put(ACCOUNTS, (row["id"],), row)
        batch.note(fact, customer.account)


def _customer_row(customer: Customer, place: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": customer.account.hex(),
        "organisation": customer.organisation.hex(),
        "kind": "customer",
        "rights": "",
        "is_active": True,
        "country": customer.country,
        "reference": customer.reference.hex(),
        "revision": customer.revision,
        **place,
    }


def _project_proposal(batch: Batch, fact: Fact) -> None:
    proposal: Proposal = fact.event.proposal
    details = to_readable(proposal.action)
    row = {
        "id": proposal.id.hex(),
        "action": readable_name(type(proposal.action)),
        "details": details,
        "subject": details.get("organisation") or details.get("name") or details.get("purpose"),
        "proposer": proposal.proposer.hex(),
        "approving": len(proposal.approving),
        "refusing": len(proposal.refusing),
        "status": proposal.status,
        "until_ms": proposal.until_ms,
        **place_of(fact),
    }
    batch.put(PROPOSALS, (row["id"],), row)
    batch.note(fact, proposal.id)


def _note_undelivered(batch: Batch, fact: Fact) -> None:
    event: NewsUndelivered = fact.event
    batch.note(fact, *event.organisations, *event.accounts)


VIEWS: Final = Views(
    metadata=METADATA,
    projections={
        OrganisationChanged: _project_organisation,
        AccountChanged: _project_account,
        CustomersRegistered: _project_customers,
        Proposed: _project_proposal,
        Voted: _project_proposal,
        Decided: _project_proposal,
        ResolutionTaken: _project_proposal,
        ResolutionLapsed: _project_proposal,
        NewsUndelivered: _note_undelivered,
    },
    kinds=(
        Kind(
            name="organisation",
            plural="organisations",
            table=ORGANISATIONS,
            search=("name", "licence"),
            filters=("status", "country", "owner"),
            columns=("id", "name", "country", "roles", "status"),
        ),
        Kind(
            name="account",
            plural="accounts",
            table=ACCOUNTS,
            filters=("organisation", "kind"),
            columns=("id", "kind", "organisation", "rights", "is_active"),
        ),
        Kind(
            name="proposal",
            plural="proposals",
            table=PROPOSALS,
            search=("subject",),
            filters=("status", "proposer"),
            columns=("id", "action", "subject", "approving", "refusing", "status"),
        ),
    ),
)
