"""Whatever is resolved, reported, lost or late: no set is lost, and engine and records agree."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.ledger_harness import DAY_MS, NETWORK, STRANGER
from tests.validators_world import (
    AWAY,
    HOME,
    OPERATORS,
    OTHER_NETWORK,
    Consortium,
    Governed,
    make_evidence,
    make_key,
)

from hansa.core.errors import Rejected
from hansa.core.validatorset import MAX_TOTAL_POWER
from hansa.service.validators.model import (
    MODULE,
    Action,
    Admit,
    Remove,
    ReplaceKey,
    Report,
    SetPower,
)
from hansa.service.validators.rules import CHANGES, SEATED

FRESH = tuple(f"fresh {number}" for number in range(4))
NAMES = st.sampled_from([*HOME, *AWAY, *FRESH])
CHEATS = st.sampled_from([HOME[0], AWAY[0], *FRESH])
KEYS = NAMES.map(make_key)
POWERS = st.one_of(st.integers(10, 40), st.integers(10, 40), st.sampled_from([1, MAX_TOTAL_POWER]))
CHAINS = st.sampled_from(["anchor", "product"])
ACTIONS: st.SearchStrategy[Action] = st.one_of(
    st.builds(Admit, st.sampled_from(OPERATORS), KEYS, POWERS),
    st.builds(SetPower, KEYS, POWERS),
    st.builds(Remove, KEYS),
    st.builds(ReplaceKey, KEYS, KEYS),
)
COUNTS = st.integers(1, 3)


class ValidatorsMachine(RuleBasedStateMachine):
    """The registry and another network's seat; packets and answers come in order, late or not."""

    def __init__(self) -> None:
        super().__init__()
        self.both = Consortium()
        self.registry = self.both.registry
        self.seat = self.both.seat
        self.jailed: dict[str, set[bytes]] = {"anchor": set(), "product": set()}

    def ask(self, *messages: Any) -> None:
        """Submit messages; a refusal must change nothing."""
        before, sent = dict(self.registry.store.data), len(self.registry.link.sent)
        try:
            self.registry.submit(*messages, by=STRANGER)
        except Rejected:
            assert before == self.registry.store.data
            del self.registry.link.sent[sent:]

    @rule(chain=CHAINS, actions=st.lists(ACTIONS, min_size=1, max_size=2))
    def change(self, chain: str, actions: list[Action]) -> None:
        """Bring what members have resolved."""
        self.ask(self.registry.resolve(chain, *actions))

    @rule(name=CHEATS, network=st.sampled_from([NETWORK, OTHER_NETWORK]))
    def report(self, name: str, network: bytes) -> None:
        """Report a double vote."""
        self.ask(Report(make_evidence(name, network)))

    @rule(chain=CHAINS, name=CHEATS, power=POWERS)
    def change_and_report(self, chain: str, name: str, power: int) -> None:
        """Admit a key and report it in one block."""
        admission = self.registry.resolve(chain, Admit(OPERATORS[0], make_key(name), power))
        self.ask(admission, Report(make_evidence(name)))

    @precondition(lambda self: self.registry.link.sent)
    @rule()
    def carry(self) -> None:
        """Have the seat take what waits."""
        self.both.carry()

    @precondition(lambda self: self.both.answers)
    @rule(count=COUNTS)
    def answer(self, count: int) -> None:
        """Carry some answers back."""
        self.both.answer(count)

    @rule(by_ms=st.sampled_from([1, DAY_MS, 2 * DAY_MS]))
    def wait(self, by_ms: int) -> None:
        """Let time pass."""
        self.both.wait(by_ms)

    @invariant()
    def each_seat_is_sound(self) -> None:
        """Records, set, core and engine have the same keys and powers: some, and not too many."""
        for harness in (self.registry, self.seat):
            powers = harness.core_powers()
            assert powers == harness.engine == harness.powers(harness.chain)
            assert powers == list_seated(harness)
            assert 0 < sum(powers.values()) <= MAX_TOTAL_POWER

    @invariant()
    def the_jailed_stay_so(self) -> None:
        """A jailed key is jailed for ever and has no power where that is known."""
        for harness in (self.registry, self.seat):
            records = harness.rows(SEATED)
            now = {key for key, record in records.items() if record.status == "jailed"}
            assert self.jailed[harness.chain] <= now
            assert not [key for key in now if key in harness.core_powers()]
            self.jailed[harness.chain] = now

    @invariant()
    def what_is_pending_is_counted_and_ends(self) -> None:
        """Exactly the pending changes have a deadline, and the seat waits for as many."""
        changes = self.registry.rows(CHANGES).values()
        pending = sorted((c.until_ms, c.id) for c in changes if c.status == "pending")
        assert pending == self.registry.deadlines(MODULE)
        assert len(pending) == self.registry.seat("product").waiting
        assert {0} == {self.registry.seat("anchor").waiting, self.seat.seat("product").waiting}

    @invariant()
    def the_mirror_is_right_when_all_is_quiet(self) -> None:
        """Once every answer was heard, the registry knows the seat's set."""
        if not self.registry.link.sent and not self.both.answers:
            assert self.registry.powers("product") == self.seat.core_powers()
            assert not [r for r in self.registry.rows(SEATED).values() if r.status == "awaited"]

    def teardown(self) -> None:
        """Time alone ends every change; what is carried after it still sets the mirror right."""
        self.both.wait(10 * DAY_MS)
        assert [] == self.registry.deadlines(MODULE)
        self.both.relay()
        self.the_mirror_is_right_when_all_is_quiet()


def list_seated(harness: Governed) -> dict[bytes, int]:
    """The powers of a chain's own set, as its records have them."""
    return {
        key: record.power
        for key, record in harness.rows(SEATED).items()
        if record.seat == harness.chain and record.status == "seated"
    }


TestValidatorsMachine = ValidatorsMachine.TestCase
