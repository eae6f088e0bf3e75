"""What people ask about balances, payments and holds."""

from typing import Any, Final

import sqlalchemy as sa

from hansa.core.readmodel import Batch, Fact, Kind, Views, place_columns, place_of, place_values
from hansa.service.bank.model import (
    ISSUE,
    REDEEM,
    TRANSFER,
    AlreadyDone,
    Balance,
    CurrencyOpened,
    Hold,
    HoldEnded,
    HoldOpened,
    HoldPosted,
    Transferred,
)

METADATA: Final = sa.MetaData()

CURRENCIES: Final = sa.Table(
    "currencies",
    METADATA,
    sa.Column("id", sa.String(3), primary_key=True),
    sa.Column("exponent", sa.Integer, nullable=False),
    sa.Column("issuance", sa.String(40), nullable=False),
    sa.Column("issuer", sa.String(32), nullable=False),
    *place_columns(),
)

BALANCES: Final = sa.Table(
    "balances",
    METADATA,
    sa.Column("id", sa.String(44), primary_key=True),
    sa.Column("account", sa.String(40), nullable=False),
    sa.Column("currency", sa.String(3), nullable=False),
    sa.Column("posted_minor", sa.BigInteger, nullable=False),
    sa.Column("held_minor", sa.BigInteger, nullable=False),
    *place_columns(),
    sa.Index("balances_by_currency", "currency", "id"),
)
"""``id`` is the account and the currency, so that an account's balances lie together."""

TRANSFERS: Final = sa.Table(
    "transfers",
    METADATA,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("kind", sa.String(8), nullable=False),
    sa.Column("debit", sa.String(40), nullable=False),
    sa.Column("credit", sa.String(40), nullable=False),
    sa.Column("currency", sa.String(3), nullable=False),
    sa.Column("amount_minor", sa.BigInteger, nullable=False),
    sa.Column("reference", sa.String(32), nullable=False),
    sa.Column("hold", sa.String(32), nullable=True),
    *place_columns(),
    sa.Index("transfers_by_debit", "debit", "id"),
    sa.Index("transfers_by_credit", "credit", "id"),
)
"""Every entry with its counter-entry; ``id`` is its place in the log, in order of time."""

HOLDS: Final = sa.Table(
    "holds",
    METADATA,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("account", sa.String(40), nullable=False),
    sa.Column("credit", sa.String(40), nullable=True),
    sa.Column("currency", sa.String(3), nullable=False),
    sa.Column("amount_minor", sa.BigInteger, nullable=False),
    sa.Column("posted_minor", sa.BigInteger, nullable=False),
    sa.Column("until_ms", sa.BigInteger, nullable=True),
    sa.Column("reference", sa.String(32), nullable=False),
    sa.Column("status", sa.String(8), nullable=False),
    *place_columns(),
    sa.Index("holds_by_account", "account", "id"),
    sa.Index("holds_by_status", "status", "id"),
)

KINDS_OF_TRANSFER: Final = {ISSUE: "issue", REDEEM: "redeem", TRANSFER: "transfer"}


def _put_balance(
    batch: Batch, account: str, currency: str, balance: Balance, place: tuple[Any, ...]
) -> None:
    key = f"{account}:{currency}"
    row = (key, account, currency, balance.posted_minor, balance.held_minor, *place)
    batch.put(BALANCES, (key,), row)


def _append_transfer(
    batch: Batch, fact: Fact, kind: str, debit: str, credit: str,
    currency: str, amount_minor: int, reference: bytes, hold: str | None,
) -> None:  # fmt: skip
    key = f"{fact.chain}-{fact.leaf:016d}-{fact.event_index:05d}"
    row = (
        key, kind, debit, credit, currency, amount_minor, reference.hex(), hold,
        *place_values(fact),
    )  # fmt: skip
    batch.append(TRANSFERS, row)


def _put_hold(batch: Batch, fact: Fact, hold: Hold) -> None:
    row = {
        "id": hold.id.hex(),
        "account": hold.account.hex(),
        "credit": None if hold.credit is None else hold.credit.hex(),
        "currency": hold.currency,
        "amount_minor": hold.amount_minor,
        "posted_minor": hold.posted_minor,
        "until_ms": hold.until_ms,
        "reference": hold.reference.hex(),
        "status": hold.status,
        **place_of(fact),
    }
    batch.put(HOLDS, (row["id"],), row)
    batch.note(fact, hold.id)


def _project_currency(batch: Batch, fact: Fact) -> None:
    record = fact.event.currency
    row = {
        "id": record.currency,
        "exponent": record.exponent,
        "issuance": record.issuance.hex(),
        "issuer": record.issuer.hex(),
        **place_of(fact),
    }
    batch.put(CURRENCIES, (row["id"],), row)
    batch.note(fact, record.issuance, record.issuer)


def _project_transfer(batch: Batch, fact: Fact) -> None:
    # No history rows: an account's payments are found by the indexes of the transfers, and every
    # payment of a busy chain comes through here.
    event: Transferred = fact.event
    place, currency = place_values(fact), event.currency
    debit, credit = event.debit.hex(), event.credit.hex()
    _put_balance(batch, debit, currency, event.debit_balance, place)
    _put_balance(batch, credit, currency, event.credit_balance, place)
    kind = KINDS_OF_TRANSFER[event.kind]
    _append_transfer(
        batch, fact, kind, debit, credit, currency, event.amount_minor, event.reference, None
    )


def _project_hold(batch: Batch, fact: Fact) -> None:
    event: HoldOpened | HoldEnded = fact.event
    hold, place = event.hold, place_values(fact)
    _put_balance(batch, hold.account.hex(), hold.currency, event.balance, place)
    _put_hold(batch, fact, hold)


def _project_posting(batch: Batch, fact: Fact) -> None:
    event: HoldPosted = fact.event
    hold, place = event.hold, place_values(fact)
    debit, credit = hold.account.hex(), event.credit.hex()
    _put_balance(batch, debit, hold.currency, event.debit_balance, place)
    _put_balance(batch, credit, hold.currency, event.credit_balance, place)
    _append_transfer(
        batch, fact, "post", debit, credit, hold.currency, event.amount_minor,
        hold.reference, hold.id.hex(),
    )  # fmt: skip
    _put_hold(batch, fact, hold)


def _note_repetition(batch: Batch, fact: Fact) -> None:
    batch.note(fact, fact.event.account)


VIEWS: Final = Views(
    metadata=METADATA,
    projections={
        CurrencyOpened: _project_currency,
        Transferred: _project_transfer,
        HoldOpened: _project_hold,
        HoldPosted: _project_posting,
        HoldEnded: _project_hold,
        AlreadyDone: _note_repetition,
    },
    kinds=(
        Kind(
            name="currency",
            plural="currencies",
            table=CURRENCIES,
            columns=("id", "exponent", "issuer"),
        ),
        Kind(
            name="balance",
            plural="balances",
            table=BALANCES,
            filters=("account", "currency"),
            columns=("account", "currency", "posted_minor", "held_minor"),
        ),
        Kind(
            name="transfer",
            plural="transfers",
            table=TRANSFERS,
            filters=("debit", "credit"),
            columns=("id", "kind", "debit", "credit", "currency", "amount_minor"),
        ),
        Kind(
            name="hold",
            plural="holds",
            table=HOLDS,
            filters=("account", "status"),
            columns=("id", "account", "currency", "amount_minor", "posted_minor", "status"),
        ),
    ),
)
