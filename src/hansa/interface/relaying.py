"""A relay between nodes: a process that anyone can run, with any key at all."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from threading import Event
from typing import Final

from hansa.core.keys import SigningKey
from hansa.interface.relay_end import HttpEnd
from hansa.network.relay import Relay

POLL_S: Final = 0.25
RENEW_S: Final = 60.0
MAX_ROUNDS: Final = 10_000
"""Rounds of a run that ends by itself; something is always carried in each of them."""


@dataclass(frozen=True, slots=True)
class RelayReport:
    """What a run of the relay has done."""

    pages: int
    """Delivered, of packets and acknowledgements."""
    anchors: int
    troubles: tuple[str, ...]
    """The last refusals and faults, newest last."""


def run_relay(
    ends: Mapping[str, str], key: SigningKey, on_event: Callable[[str], None], stop: Event, *,
    is_once: bool = False, poll_s: float = POLL_S,
) -> RelayReport:  # fmt: skip
    """Carry between nodes, given by chain and URL, until ``stop`` is set.

    ``on_event`` hears in words what was carried and what went wrong; the same trouble again is not
    repeated to it. With ``is_once`` it ends as soon as nothing is left to carry.
    """
    events = _Events(on_event)
    on_event(f"carrying between {', '.join(ends)}")
    with ExitStack() as stack:
        doors = {chain: HttpEnd(url, chain, key) for chain, url in ends.items()}
        for end in doors.values():
            stack.enter_context(closing(end))
        relay = Relay(doors, on_trouble=events.hear_trouble)
        if is_once:
            _run_once(relay, stop)
        else:
            relay.run(poll_s, RENEW_S, on_round=lambda: _look_up(relay, events, stop))
        events.hear_carried(relay)
    return RelayReport(relay.carried, relay.anchored, tuple(relay.troubles))


def _run_once(relay: Relay, stop: Event) -> None:
    relay.renew_clients()
    for _ in range(MAX_ROUNDS):
        if stop.is_set() or relay.step() == 0:
            return


def _look_up(relay: Relay, events: "_Events", stop: Event) -> None:
    events.hear_carried(relay)
    if stop.is_set():
        relay.stop()


class _Events:
    """Says what is new."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._last = ""
        self._told = (0, 0)

    def hear_trouble(self, trouble: str) -> None:
        if trouble != self._last:
            self._say(trouble)
        self._last = trouble

    def hear_carried(self, relay: Relay) -> None:
        now = (relay.carried, relay.anchored)
        if now != self._told:
            self._say(f"carried {now[0]} pages and {now[1]} anchors so far")
            self._told = now
            self._last = ""
