"""How money moves: every entry has its counter-entry, and only issuing makes it more."""

from collections.abc import Iterable
from typing import Final

from hansa.core.module import Context, Deadlines, Module
from hansa.core.readmodel import Views
from hansa.core.state import Table
from hansa.service.bank.model import (
    ERRORS,
    EVENTS,
    HOLD,
    ISSUE,
    MAX_MINOR,
    MODULE,
    REDEEM,
    TRANSFER,
    AlreadyDone,
    AmountInvalid,
    Balance,
    BankParams,
    CurrencyExists,
    CurrencyInvalid,
    CurrencyOpened,
    CurrencyRecord,
    HeldByModule,
    Hold,
    HoldEnded,
    HoldExceeded,
    HoldExpired,
    HoldOpened,
    HoldPosted,
    HoldStatus,
    InsufficientFunds,
    Issue,
    IssueTooLarge,
    NotHolder,
    NotIssuer,
    OpenCurrency,
    OpenHold,
    PostHold,
    Redeem,
    ReferenceReused,
    SameAccount,
    Transfer,
    Transferred,
    UnknownCurrency,
    UnknownHold,
    UntilInvalid,
    Use,
    VoidHold,
    compute_issuance_account,
)
from hansa.service.bank.ports import Members

PARAMS: Final = Table(MODULE, 0, BankParams)
"""One record, under the empty key."""
CURRENCIES: Final = Table(MODULE, 1, CurrencyRecord)
"""By code."""
BALANCES: Final = Table(MODULE, 2, Balance)
"""By account (20 bytes) and currency (3)."""
HOLDS: Final = Table(MODULE, 3, Hold)
"""By id; open ones alone."""
USES: Final = Table(MODULE, 4, Use)
"""By account and reference. Never forgotten: a notice that comes twice may come late."""

DEADLINES: Final = Deadlines(MODULE)
"""Keys are ids of holds."""

NOTHING: Final = Balance(posted_minor=0, held_minor=0)


class BankRules:
    """The members' payments, and the port by which other modules pay.

    A sum can't overflow: a currency's circulation is bounded when it is issued, balances are never
    negative, so each is at most the circulation.
    """

    def __init__(self, members: Members) -> None:
        self._require = members.require
        self._require_party = members.require_party

    # Messages.

    def open_currency(self, ctx: Context, msg: OpenCurrency) -> None:
        """Make the signer's organisation the issuer of a currency.

        Raises: what ``members.require`` raises; CurrencyInvalid, CurrencyExists.
        """
        # CHECKS
        issuer = self._require(ctx, ctx.signer, "issue")
        code = msg.currency
        if not (code.isascii() and code.isalpha() and code.isupper()):
            raise CurrencyInvalid(currency=code)
        if CURRENCIES.get(ctx, code.encode()) is not None:
            raise CurrencyExists(currency=code)
        # EFFECTS
        issuance = compute_issuance_account(ctx.chain, code)
        record = CurrencyRecord(
            currency=code, exponent=msg.exponent, issuance=issuance, issuer=issuer
        )
        CURRENCIES.put(ctx, code.encode(), record)
        BALANCES.put(ctx, issuance + code.encode(), NOTHING)
        # EVENTS
        ctx.emit(CurrencyOpened(currency=record))

    def issue(self, ctx: Context, msg: Issue) -> None:
        """Credit an account and debit the currency's issuance account.

        Raises: what ``members.require`` raises; UnknownCurrency, NotIssuer, ReferenceReused; what
        ``members.require_party`` raises; IssueTooLarge.
        """
        # CHECKS
        currency = self._require_issuer(ctx, msg.currency)
        use = Use(ISSUE, msg.credit, msg.currency, msg.amount_minor, 0)
        if _is_done(ctx, msg.reference, use):
            return
        self._require_party(ctx, msg.credit)
        place = currency.issuance + msg.currency.encode()
        issuance = BALANCES.get(ctx, place) or NOTHING
        limit = MAX_MINOR + issuance.posted_minor
        if msg.amount_minor > limit:
            raise IssueTooLarge(limit=limit, currency=msg.currency, given=msg.amount_minor)
        # EFFECTS, EVENTS
        USES.put(ctx, ctx.signer + msg.reference, use)
        debited = Balance(issuance.posted_minor - msg.amount_minor, 0)
        BALANCES.put(ctx, place, debited)
        credited = _credit(ctx, msg.credit, msg.currency, msg.amount_minor)
        ctx.emit(
            Transferred(
                ISSUE, currency.issuance, msg.credit, msg.currency, msg.amount_minor,
                msg.reference, debited, credited,
            )
        )  # fmt: skip

    def redeem(self, ctx: Context, msg: Redeem) -> None:
        """Debit the signer's own account and credit the issuance account.

        Raises: what ``members.require`` raises; UnknownCurrency, NotIssuer, ReferenceReused,
        InsufficientFunds.
        """
        # CHECKS
        issuance = self._require_issuer(ctx, msg.currency).issuance
        use = Use(REDEEM, issuance, msg.currency, msg.amount_minor, 0)
        if _is_done(ctx, msg.reference, use):
            return
        # EFFECTS, EVENTS
        _move(ctx, REDEEM, ctx.signer, issuance, msg.currency, msg.amount_minor, msg.reference)
        USES.put(ctx, ctx.signer + msg.reference, use)

    def pay(self, ctx: Context, msg: Transfer) -> None:
        """Debit the signer and credit somebody.

        Raises: SameAccount; what ``members.require_party`` raises, of the signer, then of the
        credit account; ReferenceReused, UnknownCurrency, InsufficientFunds.
        """
        # CHECKS
        signer, credit, currency = ctx.signers[0], msg.credit, msg.currency
        if credit == signer:
            raise SameAccount(account=signer)
        self._require_party(ctx, signer)
        self._require_party(ctx, credit)
        amount_minor, reference = msg.amount_minor, msg.reference
        use = Use(TRANSFER, credit, currency, amount_minor, 0)
        if _is_done(ctx, reference, use):
            return
        # EFFECTS, EVENTS
        _move(ctx, TRANSFER, signer, credit, currency, amount_minor, reference)
        USES.put(ctx, signer + reference, use)

    def hold(self, ctx: Context, msg: OpenHold) -> None:
        """Set money of the signer aside for somebody.

        Raises: SameAccount; what ``members.require_party`` raises, of the signer, then of the
        credit account; ReferenceReused, UntilInvalid, UnknownCurrency, InsufficientFunds.
        """
        # CHECKS
        if msg.credit == ctx.signer:
            raise SameAccount(account=ctx.signer)
        self._require_party(ctx, ctx.signer)
        self._require_party(ctx, msg.credit)
        use = Use(HOLD, msg.credit, msg.currency, msg.amount_minor, msg.until_ms)
        if _is_done(ctx, msg.reference, use):
            return
        params = PARAMS.get(ctx, b"")
        assert params is not None, "the genesis writes the parameters"
        latest = ctx.time_ms + params.max_hold_ms
        if not ctx.time_ms < msg.until_ms <= latest:
            raise UntilInvalid(earliest=ctx.time_ms + 1, latest=latest, given=msg.until_ms)
        # EFFECTS, EVENTS
        _open_hold(
            ctx, ctx.signer, msg.currency, msg.amount_minor, msg.credit, msg.until_ms, msg.reference
        )
        USES.put(ctx, ctx.signer + msg.reference, use)

    def post(self, ctx: Context, msg: PostHold) -> None:
        """Pay from the signer's hold and give the rest back to the signer.

        Raises: UnknownHold, HeldByModule, NotHolder, HoldExpired, HoldExceeded; what
        ``members.require_party`` raises, of the signer, then of the credit account.
        """
        # CHECKS
        hold = _require_hold(ctx, msg.hold)
        if hold.credit is None:
            raise HeldByModule(hold=hold.id)
        _check_ender(ctx, hold, hold.account)
        if msg.amount_minor > hold.amount_minor:
            raise HoldExceeded(limit=hold.amount_minor, hold=hold.id, given=msg.amount_minor)
        self._require_party(ctx, ctx.signer)
        self._require_party(ctx, hold.credit)
        # EFFECTS, EVENTS
        _post(ctx, hold, hold.credit, msg.amount_minor, is_last=True)

    def void(self, ctx: Context, msg: VoidHold) -> None:
        """Give a hold back unpaid.

        Raises: UnknownHold, HeldByModule, NotHolder, HoldExpired.
        """
        # CHECKS
        hold = _require_hold(ctx, msg.hold)
        if hold.credit is None:
            raise HeldByModule(hold=hold.id)
        _check_ender(ctx, hold, hold.credit)
        # EFFECTS, EVENTS
        _end_hold(ctx, hold, "voided")

    # What other modules ask. They answer for who may pay whom, and for doing it once: deadlines
    # release and refund through here, and must not fail because a party was suspended meanwhile.

    def check_currency(self, ctx: Context, currency: str) -> None:
        """Refuse a currency that nobody issues here. Raises: UnknownCurrency."""
        _require_currency(ctx, currency)

    def get_exponent(self, ctx: Context, currency: str) -> int:
        """Return how many digits the minor unit of a currency has. Raises: UnknownCurrency."""
        return _require_currency(ctx, currency).exponent

    def get_balance(self, ctx: Context, account: bytes, currency: str) -> Balance:
        """Return what an account has, zero where it never had any."""
        return BALANCES.get(ctx, account + currency.encode()) or NOTHING

    def transfer(
        self, ctx: Context, debit: bytes, credit: bytes, currency: str, amount_minor: int,
        reference: bytes,
    ) -> None:  # fmt: skip
        """Move money between two accounts; the reference is only recorded.

        Raises: AmountInvalid, SameAccount, UnknownCurrency, InsufficientFunds.
        """
        _check_amount(amount_minor)
        if debit == credit:
            raise SameAccount(account=debit)
        _move(ctx, TRANSFER, debit, credit, currency, amount_minor, reference)

    def open_hold(
        self, ctx: Context, account: bytes, currency: str, amount_minor: int,
        until_ms: int | None, reference: bytes,
    ) -> bytes:  # fmt: skip
        """Set money aside in the calling module's care; returns the hold's id.

        Without ``until_ms`` the module ends it. Raises: AmountInvalid, UntilInvalid,
        UnknownCurrency, InsufficientFunds.
        """
        _check_amount(amount_minor)
        if until_ms is not None and until_ms <= ctx.time_ms:
            raise UntilInvalid(earliest=ctx.time_ms + 1, latest="any time", given=until_ms)
        return _open_hold(ctx, account, currency, amount_minor, None, until_ms, reference)

    def post_hold(self, ctx: Context, hold: bytes, credit: bytes, amount_minor: int) -> None:
        """Pay from a hold to somebody; it stays open while something is left of it.

        Raises: AmountInvalid, UnknownHold, SameAccount, HoldExceeded.
        """
        _check_amount(amount_minor)
        record = _require_hold(ctx, hold)
        if credit == record.account:
            raise SameAccount(account=credit)
        left = record.amount_minor - record.posted_minor
        if amount_minor > left:
            raise HoldExceeded(limit=left, hold=hold, given=amount_minor)
        _post(ctx, record, credit, amount_minor, is_last=amount_minor == left)

    def void_hold(self, ctx: Context, hold: bytes) -> int:
        """Give back what is left of a hold; returns how much, 0 where it has ended already."""
        record = HOLDS.get(ctx, hold)
        if record is None:
            return 0
        _end_hold(ctx, record, "voided")
        return record.amount_minor - record.posted_minor

    # What the chain calls.

    def found(self, ctx: Context, params: BankParams) -> None:
        """Keep the parameters."""
        PARAMS.put(ctx, b"", params)

    def expire(self, ctx: Context, key: bytes) -> None:
        """End a hold whose time is over."""
        hold = HOLDS.get(ctx, key)
        assert hold is not None, f"a deadline without its hold {key.hex()}"
        _end_hold(ctx, hold, "expired")

    def _require_issuer(self, ctx: Context, currency: str) -> CurrencyRecord:
        organisation = self._require(ctx, ctx.signer, "issue")
        record = _require_currency(ctx, currency)
        if record.issuer != organisation:
            raise NotIssuer(expected=record.issuer, currency=currency, given=organisation)
        return record


# Checks.


def _require_currency(ctx: Context, currency: str) -> CurrencyRecord:
    record = CURRENCIES.get(ctx, currency.encode())
    if record is None:
        raise UnknownCurrency(currency=currency)
    return record


def _require_hold(ctx: Context, hold: bytes) -> Hold:
    record = HOLDS.get(ctx, hold)
    if record is None:
        raise UnknownHold(hold=hold)
    return record


def _check_ender(ctx: Context, hold: Hold, account: bytes) -> None:
    if ctx.signer != account:
        raise NotHolder(expected=account, hold=hold.id, given=ctx.signer)
    # Deadlines run in blocks of bounded size: its own may still be waiting.
    if hold.until_ms is not None and ctx.time_ms > hold.until_ms:
        raise HoldExpired(hold=hold.id, until=hold.until_ms, time=ctx.time_ms)


def _check_amount(amount_minor: int) -> None:
    if not 1 <= amount_minor <= MAX_MINOR:
        raise AmountInvalid(limit=MAX_MINOR, given=amount_minor)


def _is_done(ctx: Context, reference: bytes, use: Use) -> bool:
    """Tell whether this was done before. Raises: ReferenceReused.

    REPLAY: whoever did not see his receipt signs the same payment anew, with a new nonce.
    """
    known = USES.get(ctx, ctx.signers[0] + reference)
    if known is None:
        return False
    if known != use:
        expected, given = _describe(known), _describe(use)
        raise ReferenceReused(reference=reference, expected=expected, given=given)
    ctx.emit(AlreadyDone(account=ctx.signers[0], reference=reference))
    return True


def _describe(use: Use) -> tuple[int, bytes, str, int, int]:
    return (use.kind, use.credit, use.currency, use.amount_minor, use.until_ms)


# Entries.


def _move(
    ctx: Context, kind: int, debit: bytes, credit: bytes, currency: str, amount_minor: int,
    reference: bytes,
) -> None:  # fmt: skip
    """Post an entry and its counter-entry. Raises: UnknownCurrency, InsufficientFunds."""
    code = currency.encode()
    place = debit + code
    payer = BALANCES.get(ctx, place)
    if payer is None or payer.posted_minor - payer.held_minor < amount_minor:
        raise _explain_lack(ctx, debit, currency, payer or NOTHING, amount_minor)
    debited = Balance(payer.posted_minor - amount_minor, payer.held_minor)
    BALANCES.put(ctx, place, debited)
    place = credit + code
    payee = BALANCES.get(ctx, place)
    if payee is None:
        credited = Balance(amount_minor, 0)
    else:
        credited = Balance(payee.posted_minor + amount_minor, payee.held_minor)
    BALANCES.put(ctx, place, credited)
    ctx.events.append(
        Transferred(kind, debit, credit, currency, amount_minor, reference, debited, credited)  # type: ignore[arg-type]
    )


def _explain_lack(
    ctx: Context, account: bytes, currency: str, balance: Balance, amount_minor: int
) -> InsufficientFunds:
    """Say why there is not enough; a currency nobody issues is looked for only here."""
    _require_currency(ctx, currency)
    available = max(0, balance.posted_minor - balance.held_minor)
    return InsufficientFunds(
        available=available, currency=currency, account=account, given=amount_minor
    )


def _credit(ctx: Context, account: bytes, currency: str, amount_minor: int) -> Balance:
    place = account + currency.encode()
    old = BALANCES.get(ctx, place) or NOTHING
    balance = Balance(old.posted_minor + amount_minor, old.held_minor)
    BALANCES.put(ctx, place, balance)
    return balance


def _open_hold(
    ctx: Context, account: bytes, currency: str, amount_minor: int, credit: bytes | None,
    until_ms: int | None, reference: bytes,
) -> bytes:  # fmt: skip
    place = account + currency.encode()
    old = BALANCES.get(ctx, place) or NOTHING
    if old.posted_minor - old.held_minor < amount_minor:
        raise _explain_lack(ctx, account, currency, old, amount_minor)
    hold = Hold(
        id=ctx.new_id(),
        account=account,
        currency=currency,
        amount_minor=amount_minor,
        posted_minor=0,
        credit=credit,
        until_ms=until_ms,
        reference=reference,
        status="open",
    )
    balance = Balance(old.posted_minor, old.held_minor + amount_minor)
    BALANCES.put(ctx, place, balance)
    HOLDS.put(ctx, hold.id, hold)
    if until_ms is not None:
        DEADLINES.schedule(ctx, until_ms, hold.id)
    ctx.emit(HoldOpened(hold=hold, balance=balance))
    return hold.id


def _post(ctx: Context, hold: Hold, credit: bytes, amount_minor: int, *, is_last: bool) -> None:
    """Pay from a hold; the last payment gives back what it leaves."""
    place = hold.account + hold.currency.encode()
    old = BALANCES.get(ctx, place)
    left = hold.amount_minor - hold.posted_minor
    assert old is not None, "a hold is of a balance"
    assert old.held_minor >= left, "a hold is covered by its balance"
    freed = left if is_last else amount_minor
    debited = Balance(old.posted_minor - amount_minor, old.held_minor - freed)
    BALANCES.put(ctx, place, debited)
    credited = _credit(ctx, credit, hold.currency, amount_minor)
    status: HoldStatus = "posted" if is_last else "open"
    hold = _change_hold(hold, hold.posted_minor + amount_minor, status)
    if is_last:
        _forget_hold(ctx, hold)
    else:
        HOLDS.put(ctx, hold.id, hold)
    ctx.emit(HoldPosted(hold, credit, amount_minor, debited, credited))


def _end_hold(ctx: Context, hold: Hold, status: HoldStatus) -> None:
    place = hold.account + hold.currency.encode()
    old = BALANCES.get(ctx, place)
    left = hold.amount_minor - hold.posted_minor
    assert old is not None, "a hold is of a balance"
    assert old.held_minor >= left, "a hold is covered by its balance"
    balance = Balance(old.posted_minor, old.held_minor - left)
    BALANCES.put(ctx, place, balance)
    _forget_hold(ctx, hold)
    ctx.emit(HoldEnded(hold=_change_hold(hold, hold.posted_minor, status), balance=balance))


def _forget_hold(ctx: Context, hold: Hold) -> None:
    HOLDS.delete(ctx, hold.id)
    if hold.until_ms is not None:
        DEADLINES.cancel(ctx, hold.until_ms, hold.id)


def _change_hold(old: Hold, posted_minor: int, status: HoldStatus) -> Hold:
    return Hold(
        id=old.id,
        account=old.account,
        currency=old.currency,
        amount_minor=old.amount_minor,
        posted_minor=posted_minor,
        credit=old.credit,
        until_ms=old.until_ms,
        reference=old.reference,
        status=status,
    )


# The books as a whole.


def get_currency_sums(balances: Iterable[tuple[bytes, Balance]]) -> dict[str, int]:
    """Return the sum of all balances by currency: zero each, where the books are right."""
    sums: dict[str, int] = {}
    for key, balance in balances:
        currency = key[20:].decode()
        sums[currency] = sums.get(currency, 0) + balance.posted_minor
    return sums


def verify_conservation(
    currencies: Iterable[CurrencyRecord],
    balances: Iterable[tuple[bytes, Balance]],
    holds: Iterable[Hold],
) -> str | None:
    """Judge the books from the bare state: the first thing wrong, or None.

    In order: holds are open and not overdrawn; what is held of a balance is the sum of its open
    holds, and covered; only issuance accounts are negative, and never above zero; each currency is
    known and sums to zero. ``balances`` is read once and may be long.
    """
    held: dict[bytes, int] = {}
    for hold in holds:
        left = hold.amount_minor - hold.posted_minor
        if hold.status != "open" or left <= 0:
            return f"hold {hold.id.hex()}: expected open with something left, got {hold.status}"
        place = hold.account + hold.currency.encode()
        held[place] = held.get(place, 0) + left
    issuance = {record.issuance + record.currency.encode() for record in currencies}
    sums: dict[str, int] = {}
    for key, balance in balances:
        if fault := _find_fault(key, balance, held.pop(key, 0), key in issuance):
            return fault
        currency = key[20:].decode()
        sums[currency] = sums.get(currency, 0) + balance.posted_minor
    for place in sorted(held):
        return f"balance {_name_balance(place)}: expected {held[place]} held, got no balance"
    known = sorted(key[20:].decode() for key in issuance)
    for currency, total in sorted(sums.items()):
        if currency not in known:
            return f"currency {currency}: expected one that was opened, got balances of it"
        if total != 0:
            return f"currency {currency}: expected all balances to sum to 0, got {total}"
    return None


def _find_fault(key: bytes, balance: Balance, held: int, is_issuance: bool) -> str | None:
    name = _name_balance(key)
    if balance.held_minor != held:
        return f"balance {name}: expected {held} held, as its open holds, got {balance.held_minor}"
    if is_issuance and balance.posted_minor > 0:
        return f"balance {name}: expected at most 0 to issue from, got {balance.posted_minor}"
    if not is_issuance and balance.posted_minor < held:
        return f"balance {name}: expected at least the {held} held, got {balance.posted_minor}"
    return None


def _name_balance(key: bytes) -> str:
    return f"{key[:20].hex()}:{key[20:].decode()}"


def make_module(rules: BankRules, views: Views) -> Module:
    """Return the module as the core runs it."""
    return Module(
        name="bank",
        number=MODULE,
        version=1,
        handlers={
            OpenCurrency: rules.open_currency,
            Issue: rules.issue,
            Redeem: rules.redeem,
            Transfer: rules.pay,
            OpenHold: rules.hold,
            PostHold: rules.post,
            VoidHold: rules.void,
        },
        events=EVENTS,
        errors=ERRORS,
        params=BankParams,
        on_genesis=rules.found,
        on_deadline=rules.expire,
        views=views,
    )
