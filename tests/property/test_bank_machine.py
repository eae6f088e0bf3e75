"""Whatever is asked of the bank, in whatever order: money is conserved and every hold ends."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.ledger_harness import (
    BUYER,
    CARRIER,
    DAY_MS,
    ISSUER,
    SELLER,
    Harness,
    make_members_params,
    make_object,
)

from hansa.core.errors import Rejected
from hansa.core.transaction import Message
from hansa.service.bank.model import (
    AlreadyDone,
    BankParams,
    Issue,
    OpenCurrency,
    OpenHold,
    PostHold,
    Redeem,
    Transfer,
    VoidHold,
    compute_issuance_account,
)
from hansa.service.bank.rules import (
    BALANCES,
    CURRENCIES,
    HOLDS,
    BankRules,
    make_module,
    verify_conservation,
)
from hansa.service.bank.views import VIEWS
from hansa.service.members.rules import MembersRules
from hansa.service.members.rules import make_module as make_members_module
from hansa.service.members.views import VIEWS as MEMBERS_VIEWS

BANK = 3
MAX_HOLD_MS = 30 * DAY_MS
ACCOUNTS = st.sampled_from([BUYER, SELLER, CARRIER, ISSUER])
CURRENCY_CODES = ("EUR", "GBP")
CURRENCIES_OPEN = st.sampled_from(CURRENCY_CODES)
AMOUNTS = st.one_of(st.integers(1, 20), st.integers(1, 1_000), st.just((1 << 63) - 1))
REFERENCES = st.integers(0, 40).map(lambda number: make_object(f"reference {number}"))
PLACES = st.integers(0, 1_000)


class BankMachine(RuleBasedStateMachine):
    """A bank with four accounts in two currencies, beside the plainest books one can keep."""

    def __init__(self) -> None:
        super().__init__()
        members = MembersRules()
        self.bank = BankRules(members)
        modules = [make_members_module(members, MEMBERS_VIEWS), make_module(self.bank, VIEWS)]
        params = {"members": make_members_params(), "bank": BankParams(max_hold_ms=MAX_HOLD_MS)}
        self.harness = Harness("trade", modules, params)
        for currency in CURRENCY_CODES:
            self.harness.submit(OpenCurrency(currency=currency, exponent=2), by=ISSUER)
        self.owned: dict[tuple[bytes, str], int] = {}
        self.done: dict[tuple[bytes, bytes], Message] = {}

    def ask(self, message: Any, by: bytes) -> list[Any]:
        """Submit a message; a refusal must change nothing, a repetition must move nothing."""
        before = dict(self.harness.store.data)
        try:
            events = self.harness.submit(message, by=by)
        except Rejected:
            assert before == self.harness.store.data
            return []
        reference = getattr(message, "reference", None)
        if reference is not None and (by, reference) in self.done:
            assert self.done[by, reference] == message
            assert [AlreadyDone(by, reference)] == events
            assert before == self.harness.store.data
            return []
        if reference is not None:
            self.done[by, reference] = message
        return events

    def book(self, debit: bytes | None, credit: bytes | None, currency: str, amount: int) -> None:
        """Keep the plain books."""
        if debit is not None:
            self.owned[debit, currency] = self.owned.get((debit, currency), 0) - amount
        if credit is not None:
            self.owned[credit, currency] = self.owned.get((credit, currency), 0) + amount

    @rule(credit=ACCOUNTS, currency=CURRENCIES_OPEN, amount=AMOUNTS, reference=REFERENCES)
    def issue(self, credit: bytes, currency: str, amount: int, reference: bytes) -> None:
        """Put money into circulation."""
        if self.ask(Issue(credit, currency, amount, reference), ISSUER):
            self.book(None, credit, currency, amount)

    @rule(currency=CURRENCIES_OPEN, amount=AMOUNTS, reference=REFERENCES)
    def redeem(self, currency: str, amount: int, reference: bytes) -> None:
        """Take money out of circulation."""
        if self.ask(Redeem(currency, amount, reference), ISSUER):
            self.book(ISSUER, None, currency, amount)

    @rule(
        debit=ACCOUNTS, credit=ACCOUNTS, currency=CURRENCIES_OPEN, amount=AMOUNTS,
        reference=REFERENCES,
    )  # fmt: skip
    def pay(
        self, debit: bytes, credit: bytes, currency: str, amount: int, reference: bytes
    ) -> None:
        """Pay somebody."""
        if self.ask(Transfer(credit, currency, amount, reference), debit):
            self.book(debit, credit, currency, amount)

    @rule(
        account=ACCOUNTS, credit=ACCOUNTS, currency=CURRENCIES_OPEN, amount=AMOUNTS,
        lasts_ms=st.integers(0, MAX_HOLD_MS + 1), reference=REFERENCES,
    )  # fmt: skip
    def hold(
        self, account: bytes, credit: bytes, currency: str, amount: int, lasts_ms: int,
        reference: bytes,
    ) -> None:  # fmt: skip
        """Set money aside."""
        until_ms = self.harness.time_ms + lasts_ms
        self.ask(OpenHold(currency, amount, credit, until_ms, reference), account)

    @precondition(lambda self: self.harness.rows(HOLDS))
    @rule(place=PLACES, by=ACCOUNTS, amount=AMOUNTS)
    def post(self, place: int, by: bytes, amount: int) -> None:
        """Pay from some hold, whoever asks."""
        hold = self.pick_hold(place)
        if self.ask(PostHold(hold.id, amount), by):
            assert hold.account == by
            self.book(by, hold.credit, hold.currency, amount)

    @precondition(lambda self: self.harness.rows(HOLDS))
    @rule(place=PLACES, by=ACCOUNTS)
    def void(self, place: int, by: bytes) -> None:
        """Give some hold back, whoever asks."""
        hold = self.pick_hold(place)
        if self.ask(VoidHold(hold.id), by):
            assert hold.credit == by

    @rule(
        account=ACCOUNTS, currency=CURRENCIES_OPEN, amount=AMOUNTS,
        lasts_ms=st.none() | st.integers(1, MAX_HOLD_MS),
    )  # fmt: skip
    def open_contract(
        self, account: bytes, currency: str, amount: int, lasts_ms: int | None
    ) -> None:
        """Have another module set money aside, with or without an end."""
        until_ms = None if lasts_ms is None else self.harness.time_ms + lasts_ms
        reference = make_object("contract")
        arguments = (account, currency, amount, until_ms, reference)
        self.call(self.bank.open_hold, *arguments)

    @precondition(lambda self: self.harness.rows(HOLDS))
    @rule(place=PLACES, credit=ACCOUNTS, amount=AMOUNTS)
    def pay_from_contract(self, place: int, credit: bytes, amount: int) -> None:
        """Have another module pay from a hold."""
        hold = self.pick_hold(place)
        if hold.credit is None and self.call(self.bank.post_hold, hold.id, credit, amount):
            self.book(hold.account, credit, hold.currency, amount)

    @precondition(lambda self: self.harness.rows(HOLDS))
    @rule(place=PLACES)
    def end_contract(self, place: int) -> None:
        """Have another module give back what is left."""
        hold = self.pick_hold(place)
        if hold.credit is None:
            assert self.call(self.bank.void_hold, hold.id)

    @rule(by_ms=st.integers(0, 10 * DAY_MS))
    def wait(self, by_ms: int) -> None:
        """Let time pass."""
        self.harness.advance(by_ms)

    def pick_hold(self, place: int) -> Any:
        """Return one of the open holds."""
        holds = [*self.harness.rows(HOLDS).values()]
        return holds[place % len(holds)]

    def call(self, port: Any, *arguments: Any) -> bool:
        """Call the port; tells whether it was done."""
        before = dict(self.harness.store.data)
        try:
            self.harness.call(port, *arguments)
        except Rejected:
            assert before == self.harness.store.data
            return False
        return True

    @invariant()
    def conserves_money(self) -> None:
        """Sums are zero, holds are covered, nobody but the issuance is negative."""
        harness = self.harness
        fault = verify_conservation(
            harness.rows(CURRENCIES).values(),
            harness.rows(BALANCES).items(),
            harness.rows(HOLDS).values(),
        )
        assert fault is None

    @invariant()
    def agrees_with_plain_books(self) -> None:
        """Everybody has what was paid to him less what he paid."""
        rows = self.harness.rows(BALANCES)
        for (account, currency), expected in self.owned.items():
            assert expected == rows[account + currency.encode()].posted_minor
        for currency in CURRENCY_CODES:
            place = compute_issuance_account("trade", currency) + currency.encode()
            owed = sum(amount for (_, code), amount in self.owned.items() if code == currency)
            assert -owed == rows[place].posted_minor

    @invariant()
    def every_hold_has_its_end(self) -> None:
        """Each hold with an end has its deadline, and no deadline is without its hold."""
        holds = self.harness.rows(HOLDS).values()
        ends = sorted((hold.until_ms, hold.id) for hold in holds if hold.until_ms is not None)
        assert ends == self.harness.deadlines(BANK)

    def teardown(self) -> None:
        """Time alone ends every hold but those a module keeps without an end."""
        self.harness.advance(MAX_HOLD_MS + 1)
        assert all(hold.until_ms is None for hold in self.harness.rows(HOLDS).values())
        self.conserves_money()


TestBankMachine = BankMachine.TestCase
