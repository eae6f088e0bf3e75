"""What can be asked of validators: who has which power where, and what became of each change."""

from typing import Final

import sqlalchemy as sa

from hansa.core.readmodel import Batch, Fact, Kind, Views, place_columns, place_of
from hansa.service.validators.model import (
    ChangeFailed,
    ChangeInForce,
    ChangeOrdered,
    Jailed,
    SetChange,
    ValidatorChanged,
)

METADATA: Final = sa.MetaData()

VALIDATORS: Final = sa.Table(
    "validators_validators",
    METADATA,
    sa.Column("id", sa.String(66), primary_key=True),
    sa.Column("operator", sa.String(32), nullable=False),
    sa.Column("seat", sa.String(16), nullable=False),
    sa.Column("power", sa.BigInteger, nullable=False),
    sa.Column("status", sa.String(8), nullable=False),
    sa.Column("since_height", sa.BigInteger, nullable=False),
    *place_columns(),
    sa.Index("validators_validators_by_operator", "operator", "id"),
    sa.Index("validators_validators_by_seat", "seat", "id"),
    sa.Index("validators_validators_by_status", "status", "id"),
)
"""One row per consensus key, which is the id."""

CHANGES: Final = sa.Table(
    "validators_changes",
    METADATA,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("seat", sa.String(16), nullable=False),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("cause", sa.String(16), nullable=False),
    sa.Column("keys", sa.Integer, nullable=False),
    sa.Column("status", sa.String(8), nullable=False),
    sa.Column("until_ms", sa.BigInteger, nullable=False),
    sa.Column("error", sa.BigInteger, nullable=False),
    *place_columns(),
    sa.Index("validators_changes_by_seat", "seat", "id"),
    sa.Index("validators_changes_by_status", "status", "id"),
)
"""One row per change, on the chain that decided on it."""


def _put_validator(batch: Batch, fact: Fact) -> None:
    validator = fact.event.validator
    row = {
        "id": validator.key.hex(),
        "operator": validator.operator.hex(),
        "seat": validator.seat,
        "power": validator.power,
        "status": validator.status,
        "since_height": validator.since_height,
        **place_of(fact),
    }
    batch.put(VALIDATORS, (row["id"],), row)
    batch.note(fact, validator.key, validator.operator)


def _put_change(batch: Batch, fact: Fact) -> None:
    change: SetChange = fact.event.change
    row = {
        "id": change.id.hex(),
        "seat": change.seat,
        "number": change.number,
        "cause": change.cause,
        "keys": len(change.assignments),
        "status": change.status,
        "until_ms": change.until_ms,
        "error": change.error,
        **place_of(fact),
    }
    batch.put(CHANGES, (row["id"],), row)
    batch.note(fact, change.id, *(assignment.key for assignment in change.assignments))


VIEWS: Final = Views(
    METADATA,
    {
        ChangeOrdered: _put_change,
        ChangeInForce: _put_change,
        ChangeFailed: _put_change,
        ValidatorChanged: _put_validator,
        Jailed: _put_validator,
    },
    (
        Kind(
            name="validator",
            plural="validators",
            table=VALIDATORS,
            search=("id",),
            filters=("operator", "seat", "status"),
            columns=("id", "operator", "seat", "power", "status", "since_height"),
        ),
        Kind(
            name="validator_change",
            plural="validator_changes",
            table=CHANGES,
            search=("id",),
            filters=("seat", "status"),
            columns=("id", "seat", "number", "cause", "keys", "status", "error"),
        ),
    ),
)
