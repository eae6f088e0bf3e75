"""The relay: carries packets, anchors and fresh headers between chains. Nobody has to trust it.

It reads what a source has made final, and submits it where it is due, signed by any account at
all. All it could do wrong is to be late, to repeat itself or to lie: the destination takes each
item once, in order, by proof. So anyone may run one, and two are as good as one.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from hansa.core.prover import Delivery

MAX_DELIVERIES: Final = 12
"""Blocks carried in one transaction; each is a message."""

MAX_CARRIED_BYTES: Final = 56 * 1024
"""What may lie in one transaction, whose limit is 64 KiB."""


@dataclass(frozen=True, slots=True)
class Anchorage:
    """A newer header of a chain, for the anchor chain."""

    header: bytes
    finality: bytes
    path: tuple[bytes, ...]
    """Consistency path from the size anchored last; empty the first time."""


class RelayEnd(Protocol):
    """A chain as a relay meets it: on this machine, or behind a node's HTTP door."""

    chain: str

    def get_next_expected(self, source: str) -> int | None:
        """Return the sequence this chain expects from a source; None if it can't be taken now."""

    def get_deliveries(self, destination: str, first: int, limit: int) -> Sequence[Delivery]:
        """Return blocks that hold items for a destination from a sequence on, in order."""

    def receive(self, source: str, deliveries: Sequence[Delivery]) -> str | None:
        """Submit deliveries here in one transaction; returns None or the refusal in words."""

    def get_due_anchor(self, anchor: "RelayEnd") -> Anchorage | None:
        """Return what the anchor chain should hear of this chain now, or None."""

    def get_anchored_size(self, chain: str) -> int | None:
        """As the anchor chain: return the log size recorded of a chain; None if it can't record."""

    def submit_anchor(self, chain: str, anchorage: Anchorage) -> str | None:
        """As the anchor chain: submit an anchor; returns None or the refusal in words."""

    def renew_client(self, source: "RelayEnd") -> str | None:
        """Show this chain a newer header of a source if half its trusting period is over."""

    def get_newest(self) -> Anchorage | None:
        """Return this chain's newest final header, with no path."""


class Relay:
    """Carries everything between the ends it is given."""

    def __init__(self, ends: Mapping[str, RelayEnd], anchor: str = "anchor") -> None:
        self._ends = dict(ends)
        self._anchor = anchor
        self._positions: dict[tuple[str, str], int] = {}
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self.carried = 0
        """Pages delivered."""
        self.troubles: list[str] = []
        """The last refusals and faults, newest last."""

    def step(self) -> int:
        """Go round once: every pair, then anchors. Returns how many transactions were taken."""
        taken = 0
        for source in self._ends.values():
            for destination in self._ends.values():
                if source.chain != destination.chain:
                    taken += self._carry(source, destination)
        return taken + self._anchor_all()

    def _carry(self, source: RelayEnd, destination: RelayEnd) -> int:
        """Deliver what waits between two chains; learns the place anew after any refusal."""
        pair = (source.chain, destination.chain)
        place = self._positions.get(pair)
        if place is None:
            place = destination.get_next_expected(source.chain)
            if place is None:
                return 0
        taken = 0
        while deliveries := _fit(source.get_deliveries(destination.chain, place, MAX_DELIVERIES)):
            refusal = destination.receive(source.chain, deliveries)
            if refusal is not None:
                self._note(f"{source.chain} to {destination.chain}: {refusal}")
                self._positions.pop(pair, None)
                return taken
            place = _end_of(deliveries)
            self._positions[pair] = place
            self.carried += sum(len(delivery.pages) for delivery in deliveries)
            taken += 1
        return taken

    def _anchor_all(self) -> int:
        anchor = self._ends.get(self._anchor)
        taken = 0
        for end in self._ends.values():
            if anchor is not None and end is not anchor:
                due = end.get_due_anchor(anchor)
                if due is not None:
                    refusal = anchor.submit_anchor(end.chain, due)
                    taken += refusal is None
                    if refusal is not None:
                        self._note(f"anchor of {end.chain}: {refusal}")
        return taken

    def renew_clients(self) -> None:
        """Show every chain newer headers of the others where their trusting period wears off."""
        for end in self._ends.values():
            for source in self._ends.values():
                if source is not end and (refusal := end.renew_client(source)):
                    self._note(f"client of {source.chain} on {end.chain}: {refusal}")

    def _note(self, trouble: str) -> None:
        self.troubles = [*self.troubles[-49:], trouble]

    # Running by itself.

    def start(self, poll_s: float = 0.25, renew_s: float = 60.0) -> None:
        """Run in a thread: at once when woken, else every ``poll_s``."""
        self._thread = threading.Thread(
            target=self._run, args=(poll_s, renew_s), name="relay", daemon=True
        )
        self._thread.start()

    def wake(self) -> None:
        """Say that there may be something to carry."""
        self._wake.set()

    def stop(self) -> None:
        """Stop after the present round."""
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self, poll_s: float, renew_s: float) -> None:
        rounds_to_renewal = 0.0
        while not self._stopping:
            self._wake.wait(poll_s)
            self._wake.clear()
            try:
                self.step()
                rounds_to_renewal -= poll_s
                if rounds_to_renewal <= 0:
                    self.renew_clients()
                    rounds_to_renewal = renew_s
            except RelayTrouble as trouble:
                # An end that doesn't answer is no reason to give up on the others.
                self._note(str(trouble))
                self._positions.clear()


class RelayTrouble(Exception):
    """An end can't be reached or has stopped; the relay comes back later."""


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
