"""Who agrees on the blocks: the organisations' nodes, as the votes in the blocks show them.

On a testnet this node also knows where the others' pages are and which of them run, and lets its
reader stop one and start it again.
"""

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from hansa.core.errors import OperatorError
from hansa.core.lightblock import COMMIT, validator_address
from hansa.core.prover import NotThere
from hansa.foreground.web.live import Pulse
from hansa.foreground.web.questions import Questions
from hansa.interface.sandbox.control import Command, NotRunning, Sighting, ask
from hansa.interface.sandbox.testnet import LIST, NodePlace, load_testnet
from hansa.network.comet.engine import CometEngine
from hansa.node.composition import find_seat
from hansa.node.node import Node

SILENT_BLOCKS: Final = 3
"""Whoever has voted for none of so many blocks counts as down."""
FIRST_LOOK_BLOCKS: Final = 50
"""How far back votes are looked for at first."""
LOOK_EVERY_S: Final = 1.0
LOCAL_NAMES: Final = ("localhost",)

DEEDS: Final = ("kill", "restart")


@dataclass(frozen=True, slots=True)
class Seat:
    """A validator as the market page shows it."""

    organisation: str
    """Id of who runs it."""
    name: str
    power: int
    voted_height: int
    """Of the last block that is known to have its vote; 0 for none."""
    state: str
    """``up``, ``down``, or ``behind`` where it runs and doesn't vote, or not yet."""
    number: int | None
    """Which node of the testnet it is; None where it is none that this page can reach."""
    url: str
    is_here: bool
    """Whether it is the node that serves this page."""


class Organisations:
    """Knows the network's validators and, on a testnet, their nodes. Safe to use from threads."""

    def __init__(self, questions: Questions, pulse: Pulse) -> None:
        self._node = questions.node
        self._questions = questions
        self._pulse = pulse
        self._votes: dict[bytes, int] = {}
        """Last block voted for, by the validator's address."""
        self._seen_height = 0
        self._lock = threading.Lock()
        self._sightings: dict[int, Sighting] = {}
        self._watcher: threading.Thread | None = None
        self._folder = self._node.home.absolute().parent
        self._places = _find_places(self._folder, self._node)

    @property
    def is_shown(self) -> bool:
        """Whether there are several who agree, or could be."""
        return bool(self._node.genesis.consensus)

    @property
    def sighted(self) -> tuple[Sighting, ...]:
        """What no block tells of."""
        return tuple(self._sightings.values())

    def list_seats(self) -> list[Seat]:
        """Return the validators that have power, or had it at first."""
        self._watch()
        with self._lock:
            self._count_votes()
        seat = find_seat(tuple(self._node.ledger.chains))
        kind = self._node.kinds["validator"]
        rows = self._node.read_model.list_rows(kind, filters={"seat": seat}, limit=200)
        names = self._questions.find_organisations(row["operator"] for row in rows)
        shown = [
            self._make_seat(bytes.fromhex(row["id"]), row["operator"], names, row["power"])
            for row in rows
        ]
        return sorted(shown, key=lambda one: (one.number is None, one.number or 0, one.name))

    def _make_seat(self, key: bytes, operator: str, names: dict[str, str], power: int) -> Seat:
        voted = self._votes.get(validator_address(key), 0)
        place = self._places.get(key)
        return Seat(
            organisation=operator,
            name=names.get(operator, ""),
            power=power,
            voted_height=voted,
            state=self._judge(place, voted),
            number=place.number if place else None,
            url=place.url if place else "",
            is_here=place is not None and place.home == self._node.home.name,
        )

    def _judge(self, place: NodePlace | None, voted: int) -> str:
        sighting = self._sightings.get(place.number) if place else None
        if sighting is not None and sighting.pid is None:
            return "down"
        if self._seen_height - voted < SILENT_BLOCKS and (sighting is None or sighting.is_ready):
            return "up"
        return "down" if sighting is None else "behind"

    def _count_votes(self) -> None:
        """Look through the light blocks that have come since the last time."""
        engine = self._node.engine
        if not isinstance(engine, CometEngine):
            return
        newest = engine.light_blocks.height
        first = max(self._seen_height + 1, newest - FIRST_LOOK_BLOCKS)
        for height in range(first, newest + 1):
            try:
                votes = engine.light_blocks.get(height).commit.signatures
            except ValueError:
                continue  # From before this node's first block.
            for vote in votes:
                if vote.flag == COMMIT:
                    self._votes[vote.address] = height
        self._seen_height = max(newest, self._seen_height)

    # On a testnet.

    def _watch(self) -> None:
        """Begin to look which nodes run; no block tells of it while there are none."""
        if not self._places or self._watcher is not None:
            return
        self._look()
        self._watcher = threading.Thread(target=self._run, name="organisations", daemon=True)
        self._watcher.start()

    def _run(self) -> None:
        while not self._pulse.is_closed:
            time.sleep(LOOK_EVERY_S)
            before = self.sighted
            if self._pulse.streams:
                self._look()
            if before != self.sighted:
                self._pulse.beat(0)

    def _look(self) -> None:
        try:
            nodes = ask(self._folder, Command("status")).nodes
        except OperatorError:
            nodes = ()  # Started by hand: then there is nobody to ask.
        self._sightings = {one.number: one for one in nodes}

    @property
    def can_act(self) -> bool:
        """Whether nodes can be stopped from here: on a testnet that somebody runs."""
        return self._node.is_sandbox and bool(self._sightings)

    def act(self, deed: str, number: int) -> None:
        """Kill or restart another node of this testnet.

        Raises: NotThere for what can't be done here, OperatorError.
        """
        other = [one for one in self._places.values() if one.home != self._node.home.name]
        known = [one.number for one in other]
        if not self._node.is_sandbox or deed not in DEEDS or number not in known:
            raise NotThere(f"node: expected to kill or restart one of {known}, got {deed} {number}")
        try:
            reply = ask(self._folder, Command("kill" if deed == "kill" else "restart", number))
        except NotRunning as error:
            raise NotThere(str(error)) from None
        self._sightings = {one.number: one for one in reply.nodes}
        self._pulse.beat(0)

    def is_own_origin(self, origin: str) -> bool:
        """Tell whether a form was sent by a page of this node.

        The address it was reached at doesn't tell: any name can be made to lead here, and a page
        of that name would be of its own origin. So the names are those that were given out.
        """
        own = next((one for one in self._places.values() if one.home == self._node.home.name), None)
        if own is None:
            return False
        here, asked = urlsplit(own.url), urlsplit(origin)
        is_name = asked.hostname in (here.hostname, *LOCAL_NAMES)
        return asked.scheme == here.scheme and is_name and asked.port == here.port


def _find_places(folder: Path, node: Node) -> dict[bytes, NodePlace]:
    """Return the nodes of the testnet that this one belongs to, by the key that votes.

    The first validators stand in the genesis in the order of their nodes.
    """
    if not (folder / LIST).exists():
        return {}
    try:
        nodes = load_testnet(folder).nodes
    except OperatorError:
        return {}
    own = [place for place in nodes if place.network == node.network.hex()]
    if node.home.name not in [place.home for place in own]:
        return {}
    return dict(zip((one.key for one in node.genesis.consensus), own, strict=False))
