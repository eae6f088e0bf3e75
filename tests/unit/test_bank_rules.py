"""The bank: what it refuses, what it moves, and what its books look like afterwards."""

from __future__ import annotations

from typing import Any

import pytest
from tests.ledger_harness import (
    BUYER,
    CARRIER,
    DAY_MS,
    ISSUER,
    PLATFORM,
    SELLER,
    START_MS,
    STRANGER,
    Harness,
    expect,
    find_unnamed,
    fund,
    make_account,
    make_members_params,
    make_object,
    register_customers,
)

from hansa.core.errors import Malformed, Rejected
from hansa.core.transaction import Message
from hansa.service.bank.model import (
    ERRORS,
    ISSUE,
    MAX_MINOR,
    TRANSFER,
    AlreadyDone,
    AmountInvalid,
    Balance,
    BankParams,
    CurrencyExists,
    CurrencyInvalid,
    CurrencyRecord,
    HeldByModule,
    Hold,
    HoldEnded,
    HoldExceeded,
    HoldExpired,
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
    VoidHold,
    compute_issuance_account,
)
from hansa.service.bank.rules import (
    BALANCES,
    CURRENCIES,
    HOLDS,
    BankRules,
    get_currency_sums,
    make_module,
    verify_conservation,
)
from hansa.service.bank.views import BALANCES as BALANCE_ROWS
from hansa.service.bank.views import HOLDS as HOLD_ROWS
from hansa.service.bank.views import TRANSFERS, VIEWS
from hansa.service.members.model import RightMissing, UnknownAccount
from hansa.service.members.rules import MembersRules
from hansa.service.members.rules import make_module as make_members_module
from hansa.service.members.views import VIEWS as MEMBERS_VIEWS

GUEST = make_account("guest")
REFERENCE = make_object("reference")
OTHER_REFERENCE = make_object("other reference")
UNTIL_MS = START_MS + DAY_MS
ISSUANCE = compute_issuance_account("trade", "GBP")


class Books(Harness):
    """A trade chain on which the buyer has 1,000.00 and the guest is known."""

    def __init__(self) -> None:
        members = MembersRules()
        self.bank = BankRules(members)
        modules = [make_members_module(members, MEMBERS_VIEWS), make_module(self.bank, VIEWS)]
        params = {"members": make_members_params(), "bank": BankParams(max_hold_ms=30 * DAY_MS)}
        super().__init__("trade", modules, params)
        register_customers(self, GUEST)
        fund(self, BUYER, 100_000)

    def get_posted(self, account: bytes) -> int:
        """Return what an account has in GBP."""
        return self.call(self.bank.get_balance, account, "GBP").posted_minor

    def get_held(self, account: bytes) -> int:
        """Return what is held of it."""
        return self.call(self.bank.get_balance, account, "GBP").held_minor

    def open_hold(self, **changes: Any) -> bytes:
        """Have the buyer set money aside; returns the hold's id."""
        (event,) = self.submit(make(OpenHold, **changes), by=BUYER)
        identity: bytes = event.hold.id
        return identity

    def find_fault(self) -> str | None:
        """Judge the books from the bare state."""
        holds = self.rows(HOLDS).values()
        return verify_conservation(
            self.rows(CURRENCIES).values(), self.rows(BALANCES).items(), holds
        )


DEFAULTS: dict[type[Message], dict[str, Any]] = {
    OpenCurrency: {"currency": "EUR", "exponent": 2},
    Issue: {"credit": BUYER, "currency": "GBP", "amount_minor": 100, "reference": REFERENCE},
    Redeem: {"currency": "GBP", "amount_minor": 100, "reference": REFERENCE},
    Transfer: {"credit": SELLER, "currency": "GBP", "amount_minor": 100, "reference": REFERENCE},
    OpenHold: {
        "currency": "GBP",
        "amount_minor": 500,
        "credit": SELLER,
        "until_ms": UNTIL_MS,
        "reference": REFERENCE,
    },
    PostHold: {"amount_minor": 500},
    VoidHold: {},
}


def make(cls: type[Message], **changes: Any) -> Message:
    """Build a valid message, changed where the case says so."""
    return cls(**{**DEFAULTS[cls], **changes})


@pytest.fixture
def books() -> Books:
    """A chain of its own for each case."""
    return Books()


Case = tuple[str, type[Message], bytes, dict[str, Any], type[Rejected]]

REFUSALS: list[Case] = [
    ("a stranger opens", OpenCurrency, STRANGER, {}, UnknownAccount),
    ("a seller opens", OpenCurrency, SELLER, {}, RightMissing),
    ("lower case", OpenCurrency, ISSUER, {"currency": "eur"}, CurrencyInvalid),
    ("no letters", OpenCurrency, ISSUER, {"currency": "E1R"}, CurrencyInvalid),
    ("opened already", OpenCurrency, ISSUER, {"currency": "GBP"}, CurrencyExists),
    ("a seller issues", Issue, SELLER, {}, RightMissing),
    ("a guest issues", Issue, GUEST, {}, UnknownAccount),
    ("issue of nothing known", Issue, ISSUER, {"currency": "USD"}, UnknownCurrency),
    ("issue to a stranger", Issue, ISSUER, {"credit": STRANGER}, UnknownAccount),
    ("issue to issuance", Issue, ISSUER, {"credit": ISSUANCE}, UnknownAccount),
    ("issue too much", Issue, ISSUER, {"amount_minor": MAX_MINOR}, IssueTooLarge),
    ("a buyer redeems", Redeem, BUYER, {}, RightMissing),
    ("redeem what one has not", Redeem, ISSUER, {}, InsufficientFunds),
    ("redeem nothing known", Redeem, ISSUER, {"currency": "USD"}, UnknownCurrency),
    ("pay oneself", Transfer, BUYER, {"credit": BUYER}, SameAccount),
    ("a stranger pays", Transfer, STRANGER, {}, UnknownAccount),
    ("pay a stranger", Transfer, BUYER, {"credit": STRANGER}, UnknownAccount),
    ("pay into issuance", Transfer, BUYER, {"credit": ISSUANCE}, UnknownAccount),
    ("pay in no currency", Transfer, BUYER, {"currency": "USD"}, UnknownCurrency),
    ("pay too much", Transfer, BUYER, {"amount_minor": 100_001}, InsufficientFunds),
    ("pay without money", Transfer, SELLER, {"credit": BUYER}, InsufficientFunds),
    ("hold for oneself", OpenHold, BUYER, {"credit": BUYER}, SameAccount),
    ("hold for a stranger", OpenHold, BUYER, {"credit": STRANGER}, UnknownAccount),
    ("hold by a stranger", OpenHold, STRANGER, {}, UnknownAccount),
    ("hold until now", OpenHold, BUYER, {"until_ms": START_MS}, UntilInvalid),
    ("hold too long", OpenHold, BUYER, {"until_ms": START_MS + 31 * DAY_MS}, UntilInvalid),
    ("hold too much", OpenHold, BUYER, {"amount_minor": 100_001}, InsufficientFunds),
    ("hold in no currency", OpenHold, BUYER, {"currency": "USD"}, UnknownCurrency),
    ("post no hold", PostHold, BUYER, {"hold": make_object("none")}, UnknownHold),
    ("void no hold", VoidHold, SELLER, {"hold": make_object("none")}, UnknownHold),
]


@pytest.mark.parametrize(("cls", "by", "changes", "error"), [c[1:] for c in REFUSALS],
                         ids=[c[0] for c in REFUSALS])  # fmt: skip
def test_refuses(
    books: Books, cls: type[Message], by: bytes, changes: dict[str, Any], error: type[Rejected]
) -> None:
    """Each handler refuses what its checks name, and leaves the books as they were."""
    expect(error, books, books.submit, make(cls, **changes), by=by)


@pytest.mark.parametrize("cls", [Issue, Redeem, Transfer, OpenHold])
@pytest.mark.parametrize("amount_minor", [0, -1, MAX_MINOR + 1])
def test_amount_bounds(books: Books, cls: type[Message], amount_minor: int) -> None:
    """No message can ask for nothing, for less, or for more than 63 bits."""
    with pytest.raises(Malformed):
        books.submit(make(cls, amount_minor=amount_minor), by=BUYER)


def test_only_issuer_issues(books: Books) -> None:
    """The right to issue is to issue one's own currency, not another's."""
    record = books.rows(CURRENCIES)[b"GBP"]
    foreign = CurrencyRecord("GBP", 2, record.issuance, make_object("another institution"))
    with books.block() as ctx:
        CURRENCIES.put(ctx, b"GBP", foreign)
    expect(NotIssuer, books, books.submit, make(Issue), by=ISSUER)
    expect(NotIssuer, books, books.submit, make(Redeem), by=ISSUER)


def test_transfer_event_shows_both_balances(books: Books) -> None:
    """The event of a payment is enough to know both accounts after it."""
    (event,) = books.submit(make(Transfer, amount_minor=2_500), by=BUYER)
    expected = Transferred(
        TRANSFER, BUYER, SELLER, "GBP", 2_500, REFERENCE, Balance(97_500, 0), Balance(2_500, 0)
    )
    assert expected == event


def test_issue_and_redeem_mirror(books: Books) -> None:
    """What is in circulation is what the issuance account owes, down to nothing."""
    assert books.get_posted(ISSUANCE) == -100_000
    books.submit(make(Transfer, credit=ISSUER, amount_minor=100_000), by=BUYER)
    books.submit(make(Redeem, amount_minor=100_000), by=ISSUER)
    assert (0, 0) == (books.get_posted(ISSUANCE), books.get_posted(ISSUER))
    assert books.find_fault() is None


def test_whole_range_can_be_issued(books: Books) -> None:
    """Circulation goes to the last minor unit of 63 bits and no further."""
    books.submit(make(Issue, amount_minor=MAX_MINOR - 100_000), by=ISSUER)
    assert -MAX_MINOR == books.get_posted(ISSUANCE)
    more = make(Issue, amount_minor=1, reference=OTHER_REFERENCE)
    expect(IssueTooLarge, books, books.submit, more, by=ISSUER)


@pytest.mark.parametrize(("cls", "by"), [(Issue, ISSUER), (Transfer, BUYER), (OpenHold, BUYER)])
def test_reference_stands_for_one_request(books: Books, cls: type[Message], by: bytes) -> None:
    """The same request again is already done; another one under its reference is refused."""
    books.submit(make(cls), by=by)
    before = books.rows(BALANCES)
    assert [AlreadyDone(by, REFERENCE)] == books.submit(make(cls), by=by)
    assert before == books.rows(BALANCES)
    expect(ReferenceReused, books, books.submit, make(cls, amount_minor=7), by=by)


def test_reference_is_the_signers_own(books: Books) -> None:
    """Two signers may use one reference, so nobody can spoil another's."""
    books.submit(make(Transfer), by=BUYER)
    (event,) = books.submit(make(Transfer, credit=GUEST), by=SELLER)
    assert Balance(0, 0) == event.debit_balance


def test_redeem_is_not_the_issue_of_its_reference(books: Books) -> None:
    """A reference of one kind of request is not good for another kind."""
    books.submit(make(Issue, credit=ISSUER), by=ISSUER)
    expect(ReferenceReused, books, books.submit, make(Redeem), by=ISSUER)


def test_hold_keeps_money_from_being_spent(books: Books) -> None:
    """What is held is the holder's still, but can't be paid or held twice."""
    books.open_hold(amount_minor=99_999)
    transfer = make(Transfer, amount_minor=2, reference=OTHER_REFERENCE)
    expect(InsufficientFunds, books, books.submit, transfer, by=BUYER)
    assert (100_000, 99_999) == (books.get_posted(BUYER), books.get_held(BUYER))
    assert books.find_fault() is None


def test_post_pays_part_and_returns_rest(books: Books) -> None:
    """Posting pays who was promised, and the rest is free again."""
    hold = books.open_hold()
    (event,) = books.submit(PostHold(hold=hold, amount_minor=200), by=BUYER)
    assert (Balance(99_800, 0), Balance(200, 0)) == (event.debit_balance, event.credit_balance)
    assert ("posted", 200) == (event.hold.status, event.hold.posted_minor)
    assert [] == books.deadlines(3)
    again = PostHold(hold=hold, amount_minor=200)
    expect(UnknownHold, books, books.submit, again, by=BUYER)


def test_who_may_end_a_hold(books: Books) -> None:
    """Only the payer pays, and only the payee lets go: else a hold would promise nothing."""
    hold = books.open_hold()
    post, void = PostHold(hold=hold, amount_minor=500), VoidHold(hold=hold)
    expect(NotHolder, books, books.submit, post, by=SELLER)
    expect(NotHolder, books, books.submit, void, by=BUYER)
    too_much = PostHold(hold=hold, amount_minor=501)
    expect(HoldExceeded, books, books.submit, too_much, by=BUYER)
    (event,) = books.submit(void, by=SELLER)
    assert (Balance(100_000, 0), "voided") == (event.balance, event.hold.status)


def test_hold_ends_by_time_alone(books: Books) -> None:
    """At its end a hold is good still; in the first block after it the money is free."""
    hold = books.open_hold()
    assert [] == books.advance_to(UNTIL_MS)
    (event,) = books.advance_to(UNTIL_MS + 1)
    assert isinstance(event, HoldEnded)
    assert (hold, "expired", Balance(100_000, 0)) == (
        event.hold.id,
        event.hold.status,
        event.balance,
    )


def test_late_hold_waiting_for_its_deadline(books: Books) -> None:
    """A hold past its end can't be used in the moment before its deadline is run."""
    hold = books.open_hold()
    books.time_ms = UNTIL_MS + 1  # As in a block with more deadlines due than it takes.
    post, void = PostHold(hold=hold, amount_minor=1), VoidHold(hold=hold)
    expect(HoldExpired, books, books.submit, post, by=BUYER)
    expect(HoldExpired, books, books.submit, void, by=SELLER)


def test_module_hold(books: Books) -> None:
    """A contract pays from its hold in parts, gives back the rest, and nobody else touches it."""
    bank = books.bank
    hold = books.call(bank.open_hold, BUYER, "GBP", 1_000, None, REFERENCE)
    post = PostHold(hold=hold, amount_minor=1)
    expect(HeldByModule, books, books.submit, post, by=BUYER)
    expect(HeldByModule, books, books.submit, VoidHold(hold=hold), by=SELLER)
    books.call(bank.post_hold, hold, SELLER, 600)
    expect(HoldExceeded, books, books.call, bank.post_hold, hold, SELLER, 401)
    expect(SameAccount, books, books.call, bank.post_hold, hold, BUYER, 1)
    books.call(bank.post_hold, hold, CARRIER, 100)
    assert books.find_fault() is None
    assert 300 == books.call(bank.void_hold, hold)
    assert 0 == books.call(bank.void_hold, hold)
    posted = [books.get_posted(account) for account in (BUYER, SELLER, CARRIER)]
    assert [99_300, 600, 100] == posted
    expect(UnknownHold, books, books.call, bank.post_hold, hold, SELLER, 1)


def test_module_hold_closes_when_empty(books: Books) -> None:
    """A hold of which nothing is left is over; giving it back is nothing then."""
    hold = books.call(books.bank.open_hold, BUYER, "GBP", 10, UNTIL_MS, REFERENCE)
    books.call(books.bank.post_hold, hold, SELLER, 10)
    assert ({}, []) == (books.rows(HOLDS), books.deadlines(3))
    assert 0 == books.call(books.bank.void_hold, hold)


def test_ports_refuse(books: Books) -> None:
    """The port checks amounts, accounts and currencies itself, for no decoder stands before it."""
    bank = books.bank
    transfers: list[tuple[tuple[Any, ...], type[Rejected]]] = [
        ((BUYER, SELLER, "GBP", 0, REFERENCE), AmountInvalid),
        ((BUYER, SELLER, "GBP", MAX_MINOR + 1, REFERENCE), AmountInvalid),
        ((BUYER, BUYER, "GBP", 1, REFERENCE), SameAccount),
        ((BUYER, SELLER, "USD", 1, REFERENCE), UnknownCurrency),
        ((SELLER, BUYER, "GBP", 1, REFERENCE), InsufficientFunds),
        ((ISSUANCE, BUYER, "GBP", 1, REFERENCE), InsufficientFunds),
    ]
    for arguments, error in transfers:
        expect(error, books, books.call, bank.transfer, *arguments)
    hold = (BUYER, "GBP", 1, START_MS, REFERENCE)
    expect(UntilInvalid, books, books.call, bank.open_hold, *hold)
    expect(UnknownCurrency, books, books.call, bank.check_currency, "USD")
    books.call(bank.check_currency, "GBP")


def test_views_show_the_books(books: Books) -> None:
    """Rows say what the state says: balances, payments in order, a hold's end."""
    hold = books.open_hold()
    books.submit(PostHold(hold=hold, amount_minor=200), by=BUYER)
    rows = {row["id"]: row for row in books.view(BALANCE_ROWS)}
    for key, balance in books.rows(BALANCES).items():
        row = rows[f"{key[:20].hex()}:GBP"]
        assert (balance.posted_minor, balance.held_minor) == (
            row["posted_minor"],
            row["held_minor"],
        )
    kinds = [(row["kind"], row["amount_minor"]) for row in books.view(TRANSFERS)]
    assert [("issue", 100_000), ("post", 200)] == kinds
    (row,) = books.view(HOLD_ROWS)
    assert (hold.hex(), "posted", 200) == (row["id"], row["status"], row["posted_minor"])


def _hold(status: str, left: int) -> Hold:
    return Hold(make_object("h"), BUYER, "GBP", left, 0, None, None, REFERENCE, status)  # type: ignore[arg-type]


GOOD = {
    ISSUANCE + b"GBP": Balance(-1_000, 0),
    BUYER + b"GBP": Balance(700, 50),
    SELLER + b"GBP": Balance(300, 0),
}

FAULTS: list[tuple[str, dict[bytes, Balance], list[Hold], str]] = [
    ("a penny more", {SELLER + b"GBP": Balance(301, 0)}, [_hold("open", 50)], "sum to 0, got 1"),
    ("a penny less", {SELLER + b"GBP": Balance(299, 0)}, [_hold("open", 50)], "sum to 0, got -1"),
    ("held without hold", {}, [], "expected 0 held"),
    ("hold without held", {}, [_hold("open", 50), _hold("open", 1)], "expected 51 held"),
    ("closed hold kept", {}, [_hold("voided", 50)], "got voided"),
    ("empty hold kept", {}, [_hold("open", 0)], "something left"),
    ("negative", {SELLER + b"GBP": Balance(-1, 0)}, [_hold("open", 50)], "at least the 0 held"),
    ("overheld", {BUYER + b"GBP": Balance(49, 50)}, [_hold("open", 50)], "at least the 50 held"),
    ("issuance positive", {ISSUANCE + b"GBP": Balance(1, 0)}, [_hold("open", 50)], "at most 0"),
    ("unknown currency", {BUYER + b"USD": Balance(0, 0)}, [_hold("open", 50)], "was opened"),
]


@pytest.mark.parametrize(("changes", "holds", "text"), [case[1:] for case in FAULTS],
                         ids=[case[0] for case in FAULTS])  # fmt: skip
def test_conservation_names_the_fault(
    changes: dict[bytes, Balance], holds: list[Hold], text: str
) -> None:
    """Whatever is wrong with the books is found from the state alone and named."""
    record = CurrencyRecord("GBP", 2, ISSUANCE, make_object("issuer"))
    fault = verify_conservation([record], {**GOOD, **changes}.items(), holds)
    assert fault is not None
    assert text in fault


def test_conservation_holds_for_good_books() -> None:
    """Books that are right have no fault, and each currency sums to zero."""
    record = CurrencyRecord("GBP", 2, ISSUANCE, make_object("issuer"))
    assert verify_conservation([record], GOOD.items(), [_hold("open", 50)]) is None
    assert {"GBP": 0} == get_currency_sums(GOOD.items())


def test_hold_without_balance_is_a_fault() -> None:
    """A hold of money that is nowhere is found."""
    fault = verify_conservation([], [], [_hold("open", 50)])
    assert fault is not None
    assert "got no balance" in fault


def test_issue_is_named_in_its_event(books: Books) -> None:
    """An issue can be told from a payment by its event alone."""
    (event,) = books.submit(make(Issue, credit=PLATFORM), by=ISSUER)
    assert (ISSUE, ISSUANCE, PLATFORM) == (event.kind, event.debit, event.credit)


def test_all_errors_are_reached() -> None:
    """Every numbered error of the bank is expected above, and no number is used twice."""
    assert [] == find_unnamed(ERRORS, __file__)
    assert len(ERRORS) == len({error.number for error in ERRORS})
