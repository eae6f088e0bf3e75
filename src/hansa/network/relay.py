"""The relay: carries packets, anchors and fresh headers between chains. Nobody has to trust it.

It reads what a source has made final, and submits it where it is due, signed by any account at
all. All it could do wrong is to be late, to repeat itself or to lie: the destination takes each
item once, in order, by proof. So anyone may run one, and two are as good as one.

Nor does it trust: an end that is silent, broken or lying is noted and left alone for some rounds,
and the others are served.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from hansa.core.prover import Delivery

MAX_DELIVERIES: Final = 12
"""Blocks carried in one transaction; each is a message."""

MAX_CARRIED_BYTES: Final = 56 * 1024
"""What may lie in one transaction, whose limit is 64 KiB."""

MAX_VISIT: Final = 64
"""Transactions carried between two chains before it is the next pair's turn."""

MAX_REST_ROUNDS: Final = 15
"""How many rounds an end is left alone at most; each trouble in a row about doubles it."""

MAX_REFUSED_ROUNDS: Final = 255
"""The same for what a rule refuses again and again: each refusal is a leaf in a log for ever."""

KEPT_TROUBLES: Final = 50


@dataclass(frozen=True, slots=True)
class Anchorage:
    """A newer header of a chain, for the anchor chain."""

    header: bytes
    finality: bytes
    path: tuple[bytes, ...]
    """Consistency path from the size anchored last; empty the first time."""


@dataclass(frozen=True, slots=True)
class Anchored:
    """What the anchor chain has recorded of a chain."""

    log_size: int
    """0 while nothing was anchored yet."""
    height: int
    heard_ms: int
    """Block time of the anchor chain when it heard of it."""


class RelayEnd(Protocol):
    """A chain as a relay meets it: on this machine, or behind a node's HTTP door.

    Every method may raise RelayTrouble.
    """

    chain: str

    def get_next_expected(self, source: str) -> int | None:
        """Return the sequence this chain expects from a source; None if it can't be taken now."""

    def get_deliveries(self, destination: str, first: int, limit: int) -> Sequence[Delivery]:
        """Return blocks that hold items for a destination from a sequence on, in order."""

    def receive(self, source: str, deliveries: Sequence[Delivery]) -> str | None:
        """Submit deliveries here in one transaction; returns None or the refusal in words."""

    def get_due_anchor(self, anchor: "RelayEnd") -> Anchorage | None:
        """Return what the anchor chain should hear of this chain now, or None."""

    def get_anchored(self, chain: str) -> Anchored | None:
        """As the anchor chain: return what is recorded of a chain; None if it can't record."""

    def submit_anchor(self, chain: str, anchorage: Anchorage) -> str | None:
        """As the anchor chain: submit an anchor; returns None or the refusal in words."""

    def renew_client(self, source: "RelayEnd") -> str | None:
        """Show this chain a newer header of a source if half its trusting period is over."""

    def get_newest(self) -> Anchorage | None:
        """Return this chain's newest final header, with no path."""


class RelayTrouble(Exception):
    """An end can't be reached, has stopped or talks nonsense; the relay comes back later."""

    def __init__(self, chain: str, text: str) -> None:
        super().__init__(f"{chain}: {text}")
        self.chain = chain


class _Refusal(Exception):
    """A chain refused what was carried there."""

    def __init__(self, text: str, taken: int = 0) -> None:
        super().__init__(text)
        self.taken = taken
        """Transactions taken before it."""


@dataclass(slots=True)
class _Rest:
    """How long something is left alone."""

    limit: int
    failures: int = 0
    """In a row."""
    rounds: int = 0
    """Still to pass."""

    def pass_round(self) -> bool:
        """Tell whether this round is to be passed; counts it."""
        if self.rounds == 0:
            return False
        self.rounds -= 1
        return True

    def lengthen(self) -> None:
        """Rest after a failure, longer with each."""
        self.rounds = min((1 << self.failures) - 1, self.limit)
        self.failures = min(self.failures + 1, self.limit)

    def end(self) -> None:
        """Forget the failures."""
        self.failures = 0


class Relay:
    """Carries everything between the ends it is given."""

    def __init__(
        self, ends: Mapping[str, RelayEnd], anchor: str = "anchor", *,
        on_trouble: Callable[[str], None] | None = None,
    ) -> None:  # fmt: skip
        self._ends = dict(ends)
        self._anchor = anchor
        self._on_trouble = on_trouble
        self._positions: dict[tuple[str, str], int] = {}
        self._rests = {chain: _Rest(MAX_REST_ROUNDS) for chain in self._ends}
        self._refusals: dict[tuple[str, str, str], _Rest] = {}
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self.carried = 0
        """Pages delivered."""
        self.anchored = 0
        """Anchors taken."""
        self.troubles: list[str] = []
        """The last refusals and faults, newest last."""

    def step(self) -> int:
        """Go round once: every pair, then anchors. Returns how many transactions were taken."""
        awake = [
            end for chain, end in self._ends.items() if not self._rests[chain].pass_round()
        ]  # fmt: skip
        troubled: set[str] = set()
        taken = 0
        for source in awake:
            for destination in awake:
                taken += self._attempt(troubled, self._carry, source, destination)
        for end in awake:
            for anchor in awake:
                if anchor.chain == self._anchor:
                    taken += self._attempt(troubled, self._anchor_one, end, anchor)
        self._forgive(awake, troubled)
        return taken

    # What goes wrong.

    def _attempt(
        self, troubled: set[str], act: Callable[[RelayEnd, RelayEnd], int], one: RelayEnd,
        other: RelayEnd,
    ) -> int:  # fmt: skip
        """Do something between two ends; a fault of one is no reason to give up on the others."""
        if one is other or one.chain in troubled or other.chain in troubled:
            return 0
        what = (act.__name__, one.chain, other.chain)
        rest = self._refusals.setdefault(what, _Rest(MAX_REFUSED_ROUNDS))
        if rest.pass_round():
            return 0
        try:
            taken = act(one, other)
        except _Refusal as refusal:
            self._note(str(refusal))
            rest.lengthen()
            return refusal.taken
        except RelayTrouble as trouble:
            self._note(str(trouble))
            troubled.add(trouble.chain)
            return 0
        rest.end()
        return taken

    def _forgive(self, awake: Sequence[RelayEnd], troubled: set[str]) -> None:
        """Let those rest that gave trouble, and forget the past of those that didn't."""
        for end in awake:
            rest = self._rests[end.chain]
            if end.chain not in troubled:
                rest.end()
                continue
            rest.lengthen()
            # What it had expected may have been another truth than that of its next start.
            for pair in [pair for pair in self._positions if end.chain in pair]:
                del self._positions[pair]

    # What is carried.

    def _carry(self, source: RelayEnd, destination: RelayEnd) -> int:
        """Deliver what waits between two chains; learns the place anew after any refusal."""
        pair = (source.chain, destination.chain)
        place = self._positions.get(pair)
        if place is None:
            place = destination.get_next_expected(source.chain)
            if place is None:
                return 0
            self._positions[pair] = place
        for taken in range(MAX_VISIT):
            deliveries = _fit(source.get_deliveries(destination.chain, place, MAX_DELIVERIES))
            if not deliveries:
                return taken
            refusal = destination.receive(source.chain, deliveries)
            if refusal is not None:
                self._positions.pop(pair, None)
                raise _Refusal(f"{source.chain} to {destination.chain}: {refusal}", taken)
            place = self._positions[pair] = _end_of(deliveries)
            self.carried += sum(len(delivery.pages) for delivery in deliveries)
        return MAX_VISIT

    def _anchor_one(self, end: RelayEnd, anchor: RelayEnd) -> int:
        due = end.get_due_anchor(anchor)
        if due is None:
            return 0
        refusal = anchor.submit_anchor(end.chain, due)
        if refusal is not None:
            raise _Refusal(f"anchor of {end.chain}: {refusal}")
        self.anchored += 1
        return 1

    def renew_clients(self) -> None:
        """Show every chain newer headers of the others where their trusting period wears off."""
        troubled: set[str] = set()
        for end in self._ends.values():
            for source in self._ends.values():
                self._attempt(troubled, self._renew, end, source)

    def _renew(self, end: RelayEnd, source: RelayEnd) -> int:
        refusal = end.renew_client(source)
        if refusal is not None:
            raise _Refusal(f"client of {source.chain} on {end.chain}: {refusal}")
        return 1

    def _note(self, trouble: str) -> None:
        self.troubles = [*self.troubles[1 - KEPT_TROUBLES :], trouble]
        if self._on_trouble is not None:
            self._on_trouble(trouble)

    # Running by itself.

    def start(self, poll_s: float = 0.25, renew_s: float = 60.0) -> None:
        """Run in a thread: at once when woken, else every ``poll_s``."""
        self._thread = threading.Thread(
            target=self.run, args=(poll_s, renew_s), name="relay", daemon=True
        )
        self._thread.start()

    def wake(self) -> None:
        """Say that there may be something to carry."""
        self._wake.set()

    def stop(self, patience_s: float | None = None) -> None:
        """Stop after the present round; with patience, return by then all the same.

        A round waits for what it has submitted, which ends with the engine at the latest: so the
        engine is stopped in between, and this is called again. Safe to call twice.
        """
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(patience_s)

    def run(
        self, poll_s: float = 0.25, renew_s: float = 60.0,
        on_round: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        """Go round until stopped, in the calling thread; ``on_round`` is called after each."""
        renew_at = time.monotonic()
        while not self._stopping:
            if time.monotonic() >= renew_at:
                self.renew_clients()
                renew_at = time.monotonic() + renew_s
            self.step()
            if on_round is not None:
                on_round()
            self._wake.wait(poll_s)
            self._wake.clear()


def _fit(deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
    """Return as many as fit one transaction; the first always does."""
    size = 0
    for count, delivery in enumerate(deliveries):
        size += size_of(delivery)
        if size > MAX_CARRIED_BYTES and count:
            return deliveries[:count]
    return deliveries


def size_of(delivery: Delivery) -> int:
    """Return about how many bytes a delivery takes in a transaction."""
    pages = sum(len(proof.page) + 34 * len(proof.path) + 16 for proof in delivery.pages)
    return pages + len(delivery.final.header) + len(delivery.final.finality) + 64


def _end_of(deliveries: Sequence[Delivery]) -> int:
    return deliveries[-1].end
