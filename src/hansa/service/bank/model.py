"""Currencies, balances and holds: what can be said, and what is remembered."""

from typing import Annotated, Final, Literal

from msgspec import Meta

from hansa.core.codec import I64, U8, U63, Account, Currency, ObjectId, TimeMs, Value
from hansa.core.errors import Rejected
from hansa.core.hashing import tagged_hasher
from hansa.core.transaction import Event, Message, message_number

MODULE: Final = 3

MAX_MINOR: Final = (1 << 63) - 1
"""Of one currency issued in all, and so of any balance."""
MAX_EXPONENT: Final = 4
"""ISO 4217 has none above."""

Amount = Annotated[int, Meta(ge=1, le=MAX_MINOR)]
"""Minor units of the currency, at least one."""
Reference = Annotated[bytes, Meta(min_length=16, max_length=16)]
"""Chosen by the signer: what it has named once is done once."""
Exponent = Annotated[int, Meta(ge=0, le=MAX_EXPONENT)]

ISSUE: Final = 1
REDEEM: Final = 2
TRANSFER: Final = 3
HOLD: Final = 4

HoldStatus = Literal["open", "posted", "voided", "expired"]

_issuance_hash = tagged_hasher("issuance")


def compute_issuance_account(chain: str, currency: str) -> bytes:
    """Return the account a currency is issued from: 20 bytes, to which nobody holds a key."""
    return _issuance_hash(chain.encode() + b"\0" + currency.encode())[:20]


# Records.


class CurrencyRecord(Value):
    """A currency that somebody issues on this chain."""

    currency: Currency
    """ISO 4217."""
    exponent: Exponent
    """Digits of the minor unit: 2 where 100 minor units make one."""
    issuance: Account
    """The only account that may be negative; it stands at minus what is in circulation."""
    issuer: ObjectId
    """Organisation that alone issues and redeems it."""


class Balance(Value):
    """What an account has in one currency."""

    posted_minor: I64
    """Negative for the issuance account alone."""
    held_minor: U63
    """Part of it that open holds keep from being spent."""


class Hold(Value):
    """An amount set aside, to be paid (posted), given back (voided) or to expire."""

    id: ObjectId
    account: Account
    """Whose money it is until it is posted."""
    currency: Currency
    amount_minor: U63
    posted_minor: U63
    """Paid out of it so far; the rest is still held while the hold is open."""
    credit: Account | None
    """Who is paid when it is posted; None where another module decides."""
    until_ms: TimeMs | None
    """Last block time at which it may be posted; None where another module ends it."""
    reference: Reference
    status: HoldStatus
    """Only open holds are kept in the state."""


class Use(Value):
    """What a signer's reference stands for."""

    kind: U8
    """ISSUE, REDEEM, TRANSFER or HOLD."""
    credit: Account
    currency: Currency
    amount_minor: U63
    until_ms: TimeMs
    """Of a hold, else 0."""


class BankParams(Value):
    """What the genesis says to this module."""

    max_hold_ms: Annotated[int, Meta(ge=1, le=10 * 366 * 24 * 3600 * 1000)]
    """How far ahead the end of a hold may lie."""


# Messages.


class OpenCurrency(Message, tag=message_number(MODULE, 1)):
    """Begin to issue a currency; the signer's organisation is its only issuer. Right ``issue``."""

    currency: Currency
    exponent: Exponent


class Issue(Message, tag=message_number(MODULE, 2)):
    """Put money into circulation. Right ``issue``, of the issuer."""

    credit: Account
    currency: Currency
    amount_minor: Amount
    reference: Reference


class Redeem(Message, tag=message_number(MODULE, 3)):
    """Take money out of circulation, from the signer's own account. Right ``issue``, of the issuer.

    Who wants to be paid out transfers to the issuer, which pays and redeems.
    """

    currency: Currency
    amount_minor: Amount
    reference: Reference


class Transfer(Message, tag=message_number(MODULE, 4)):
    """Pay from the signer's account."""

    credit: Account
    currency: Currency
    amount_minor: Amount
    reference: Reference


class OpenHold(Message, tag=message_number(MODULE, 5)):
    """Set money of the signer aside for somebody: a promise that can't be spent elsewhere."""

    currency: Currency
    amount_minor: Amount
    credit: Account
    """Who may be paid from it."""
    until_ms: TimeMs
    """When it ends by itself and the money is the signer's again."""
    reference: Reference


class PostHold(Message, tag=message_number(MODULE, 6)):
    """Pay from a hold; what is left of it is given back. By whose money it is."""

    hold: ObjectId
    amount_minor: Amount


class VoidHold(Message, tag=message_number(MODULE, 7)):
    """Give a hold back unpaid. By who would have been paid: the promise was made to him."""

    hold: ObjectId


# Events.


class CurrencyOpened(Event, tag=message_number(MODULE, 0x81)):
    """A currency is known from now on."""

    currency: CurrencyRecord


class Transferred(Event, tag=message_number(MODULE, 0x82)):
    """Money was moved; both balances are those after it."""

    kind: Literal[1, 2, 3]
    """ISSUE (from the issuance account), REDEEM (to it) or TRANSFER."""
    debit: Account
    credit: Account
    currency: Currency
    amount_minor: U63
    reference: Reference
    debit_balance: Balance
    credit_balance: Balance


class HoldOpened(Event, tag=message_number(MODULE, 0x83)):
    """Money was set aside."""

    hold: Hold
    balance: Balance
    """Of the holder, after it."""


class HoldPosted(Event, tag=message_number(MODULE, 0x84)):
    """Money was paid from a hold; both balances are those after it."""

    hold: Hold
    credit: Account
    amount_minor: U63
    debit_balance: Balance
    credit_balance: Balance


class HoldEnded(Event, tag=message_number(MODULE, 0x85)):
    """What was left of a hold was given back: voided or expired."""

    hold: Hold
    balance: Balance
    """Of the holder, after it."""


class AlreadyDone(Event, tag=message_number(MODULE, 0x86)):
    """The same request was made under this reference before: nothing happened again."""

    account: Account
    reference: Reference


# Errors.


class UnknownCurrency(Rejected):
    number = 3001
    says = "currency: expected one that was opened on this chain, got {currency}"


class CurrencyExists(Rejected):
    number = 3002
    says = "currency: expected one that was not opened yet, got {currency}"


class CurrencyInvalid(Rejected):
    number = 3003
    says = "currency: expected three letters A to Z, got {currency}"


class NotIssuer(Rejected):
    number = 3004
    says = "signer: expected an account of {expected}, which issues {currency}, got one of {given}"


class AmountInvalid(Rejected):
    number = 3005
    says = "amount_minor: expected 1 to {limit}, got {given}"


class IssueTooLarge(Rejected):
    number = 3006
    says = "amount_minor: expected at most {limit} more of {currency}, got {given}"


class InsufficientFunds(Rejected):
    number = 3007
    says = "amount_minor: expected at most the {available} {currency} of {account}, got {given}"


class SameAccount(Rejected):
    number = 3008
    says = "credit: expected another account than {account}, which pays, got the same"


class ReferenceReused(Rejected):
    number = 3009
    says = "reference {reference}: expected the request it stands for, {expected}, got {given}"


class UntilInvalid(Rejected):
    number = 3010
    says = "until_ms: expected {earliest} to {latest}, got {given}"


class UnknownHold(Rejected):
    number = 3011
    says = "hold: expected one that is open, got {hold}"


class NotHolder(Rejected):
    number = 3012
    says = "signer: expected {expected} to end the hold {hold}, got {given}"


class HoldExceeded(Rejected):
    number = 3013
    says = "amount_minor: expected at most the {limit} left of the hold {hold}, got {given}"


class HeldByModule(Rejected):
    number = 3014
    says = "hold: expected one that its account opened, got {hold}, which a contract keeps"


class HoldExpired(Rejected):
    number = 3015
    says = "hold {hold}: expected a time up to {until}, got {time}"


EVENTS: Final[tuple[type[Event], ...]] = (
    CurrencyOpened,
    Transferred,
    HoldOpened,
    HoldPosted,
    HoldEnded,
    AlreadyDone,
)

ERRORS: Final[tuple[type[Rejected], ...]] = (
    UnknownCurrency,
    CurrencyExists,
    CurrencyInvalid,
    NotIssuer,
    AmountInvalid,
    IssueTooLarge,
    InsufficientFunds,
    SameAccount,
    ReferenceReused,
    UntilInvalid,
    UnknownHold,
    NotHolder,
    HoldExceeded,
    HeldByModule,
    HoldExpired,
)
