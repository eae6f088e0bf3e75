"""Real validators on loopback: processes of ours with CometBFT beside each, and links between."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec.structs import replace
from tests.conftest import REPOSITORY
from tests.faults.consensus.links import HOST, Links
from tests.faults.consensus.validators import Order

from hansa.interface.sandbox.testnet import (
    CONSENSUS_KEY,
    NODE_KEY,
    NodePlace,
    create_testnet,
    load_testnet,
    make_engine_genesis,
)
from hansa.network.comet.config import CometSettings, compute_node_id, write_home
from hansa.network.comet.process import pick_ports
from hansa.node.home import (
    CometConfig,
    NodeConfig,
    create_home,
    load_config,
    load_genesis,
    load_keys,
    write_private,
)

PATIENCE_S: Final = 150.0
"""For what takes seconds on a machine that does nothing else."""
LOOK_S: Final = 0.05
PROC: Final = Path("/proc")
DOUBLED: Final = (0, 1)
"""Whose relays wait for nobody else's, so that they carry the same."""


class Member:
    """A validator as the harness sees it."""

    def __init__(self, place: NodePlace, home: Path) -> None:
        self.number = place.number
        self.place = place
        self.home = home
        self.pid: int | None = None
        """Of our own process; None while it is down."""
        self.is_up = False
        self.height = 0
        """Of the last block it has said; it says those that it commits, not those it has."""
        self.evidence: list[int] = []
        self.killed: list[str] = []
        self.deaths: list[int] = []


class Cluster:
    """Several validators, what they say, and the ways to harm them."""

    def __init__(self, folder: Path, count: int, seed: bytes) -> None:
        self.folder = folder
        self._changed = threading.Condition()
        create_testnet(folder, "Faults", count, seed=seed)
        places = load_testnet(folder).nodes
        self.members = [Member(place, folder / place.home) for place in places]
        self.everyone = {member.number: member for member in self.members}
        """Members, and whoever else pretends to be one."""
        self.excused: set[int] = set()
        """Who may say another hash than the others."""
        self.genesis = load_genesis(self.members[0].home)
        self.links = Links([int(place.p2p.rpartition(":")[2]) for place in places])
        for member in self.members:
            self._put_links_between(member)
        for number in DOUBLED:
            self.change_engine(number, relay_patience_ms=0)
        self.hashes: dict[int, str] = {}
        """The network hash of each height, as whoever was first has said it."""
        self.arrivals: list[tuple[float, int]] = []
        """When each height was first heard of."""
        self.troubles: list[str] = []
        """What may never be: two hashes at one height."""
        path = os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY)])
        self._nursery = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.consensus.validators"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / "nursery.log").open("wb"),
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": path},
        )
        self._listener = threading.Thread(target=self._listen, name="cluster", daemon=True)
        self._listener.start()

    def _put_links_between(self, member: Member) -> None:
        config = load_config(member.home)
        assert config.comet is not None
        others = [other for other in self.members if other is not member]
        ids = {
            address.partition("@")[2]: address.partition("@")[0]
            for address in config.comet.settings.persistent_peers
        }
        peers = tuple(
            f"{ids[other.place.p2p]}@{self.links.address(member.number, other.number)}"
            for other in others
        )
        self.change_settings(member.number, persistent_peers=peers)

    def change_settings(self, number: int, **changes: Any) -> None:
        """Change what the node's CometBFT is told; it counts from the next start."""
        home = self.members[number].home
        config = load_config(home)
        assert config.comet is not None
        settings: CometSettings = replace(config.comet.settings, **changes)
        self.write_config(home, replace(config, comet=replace(config.comet, settings=settings)))

    def change_engine(self, number: int, **changes: Any) -> None:
        """Change how the node runs its engine; it counts from the next start."""
        home = self.members[number].home
        config = load_config(home)
        comet: CometConfig | None = config.comet
        assert comet is not None
        self.write_config(home, replace(config, comet=replace(comet, **changes)))

    def write_config(self, home: Path, config: NodeConfig) -> None:
        """Write a node's configuration."""
        write_private(home / "config.json", msgspec.json.encode(config))

    # What they say.

    def _listen(self) -> None:
        assert self._nursery.stdout is not None
        for line in self._nursery.stdout:
            number, kind, *words = line.decode().split()
            with self._changed:
                self._hear(self.everyone[int(number)], kind, words)
                self._changed.notify_all()

    def _hear(self, member: Member, kind: str, words: list[str]) -> None:
        if kind == "born":
            member.pid = int(words[0])
        elif kind == "up":
            member.is_up = True
        elif kind == "dead":
            member.pid, member.is_up = None, False
            member.deaths.append(int(words[0]))
        elif kind == "evidence":
            member.evidence.append(int(words[0]))
        elif kind == "killed":
            member.killed.append(" ".join(words))
        elif kind == "block":
            member.height = int(words[0])
            self._hear_block(member, words[1])

    def _hear_block(self, member: Member, network_hash: str) -> None:
        if member.number in self.excused:
            return
        if member.height not in self.hashes:
            self.hashes[member.height] = network_hash
            self.arrivals.append((time.monotonic(), member.height))
        elif self.hashes[member.height] != network_hash:
            self.troubles.append(
                f"block {member.height} of node {member.number}: expected the hash"
                f" {self.hashes[member.height]}, got {network_hash}"
            )

    @property
    def height(self) -> int:
        """The highest block that anybody has said."""
        return max((member.height for member in self.members), default=0)

    def wait(self, what: str, is_so: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
        """Wait until something is so. Raises: AssertionError if it isn't in time."""
        with self._changed:
            # Not everything that is waited for is said by a node.
            deadline = time.monotonic() + patience_s
            while not is_so():
                assert time.monotonic() < deadline, f"{what}: not within {patience_s} s: {self}"
                self._changed.wait(LOOK_S)

    def expect(self, number: int, count: Callable[[Member], int]) -> Callable[[], bool]:
        """Return a question: whether something has been counted since now."""
        member = self.everyone[number]
        before = count(member)
        return lambda: count(member) > before

    def wait_blocks(self, count: int, numbers: Iterable[int] | None = None) -> None:
        """Wait until each of these nodes, by default all, is so many blocks after the present."""
        goal = self.height + count
        chosen = [self.members[number] for number in numbers or range(len(self.members))]
        self.wait(f"block {goal}", lambda: all(member.height >= goal for member in chosen))

    def __str__(self) -> str:
        seen = ", ".join(
            f"node{m.number} pid {m.pid} height {m.height} deaths {m.deaths} killed {m.killed}"
            for m in self.members
        )
        return f"{seen}; {self.folder}"

    def longest_gap(self, since: float, until: float) -> float:
        """Return the longest time without a block in a span, in seconds."""
        times = [at for at, _ in self.arrivals if since <= at <= until]
        return max(right - left for left, right in pairwise([since, *times, until]))

    # What is done to them.

    def start(self, number: int, **fields: Any) -> None:
        """Start a node, and don't wait for it; fields as those of an ``Order``."""
        member = self.everyone[number]
        assert member.pid is None, f"node{number} runs"
        order = Order(
            number=number, home=str(member.home), port=member.place.port, **fields
        )  # fmt: skip
        assert self._nursery.stdin is not None
        member.is_up = False
        is_dead = self.expect(number, lambda one: len(one.deaths))
        self._nursery.stdin.write(msgspec.json.encode(order) + b"\n")
        self._nursery.stdin.flush()
        self.wait(f"node{number} born", lambda: member.pid is not None or is_dead())

    def start_all(self) -> None:
        """Start whoever is down, and wait until all of them serve."""
        for member in self.members:
            if member.pid is None:
                self.start(member.number)
        self.wait_up()

    def wait_up(self, numbers: Iterable[int] | None = None) -> None:
        """Wait until these nodes, by default all, serve."""
        chosen = [self.members[number] for number in numbers or range(len(self.members))]
        self.wait("nodes that serve", lambda: all(member.is_up for member in chosen))

    def kill(self, number: int) -> None:
        """Kill -9 a node; its engine ends with it."""
        member = self.everyone[number]
        deaths = len(member.deaths)
        assert member.pid is not None, f"node{number} is down"
        os.kill(member.pid, signal.SIGKILL)
        self.wait(f"node{number} dead", lambda: len(member.deaths) > deaths)

    def stop(self, number: int) -> None:
        """End a node in good order."""
        member = self.everyone[number]
        if member.pid is None:
            return
        deaths = len(member.deaths)
        os.kill(member.pid, signal.SIGTERM)
        self.wait(f"node{number} to end", lambda: len(member.deaths) > deaths)

    def list_processes(self, number: int) -> list[int]:
        """Return the node's own process and all that it has started."""
        pid = self.members[number].pid
        assert pid is not None, f"node{number} is down"
        children: dict[int, list[int]] = {}
        for path in PROC.iterdir():
            if path.name.isdecimal():
                with suppress(OSError):
                    parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
                    children.setdefault(parent, []).append(int(path.name))
        found = [pid]
        for one in found:
            found += children.get(one, [])
        return found

    def find_engine(self, number: int) -> int:
        """Return the process of the node's CometBFT."""
        for pid in self.list_processes(number):
            with suppress(OSError):
                if "cometbft" in (PROC / str(pid) / "exe").readlink().name:
                    return pid
        raise AssertionError(f"node{number} has no CometBFT")

    @contextmanager
    def paused(self, number: int) -> Iterator[None]:
        """Stop all processes of a node where they stand, as a machine that hangs."""
        processes = self.list_processes(number)
        for pid in processes:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in processes:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def add_twin(self, number: int) -> int:
        """Make a node that votes with the key of another and has forgotten that it has voted.

        It dials the others itself, past the links. Returns its number.
        """
        original = self.members[number]
        p2p, rpc, http = pick_ports(3)
        home = self.folder / f"twin{number}"
        keys = load_keys(original.home, str)
        config = load_config(original.home)
        assert config.comet is not None
        node_seed = sha256(b"twin" + keys.get_secret(NODE_KEY)).digest()
        peers = [
            f"{compute_node_id(load_keys(other.home, str).get_secret(NODE_KEY))}@{other.place.p2p}"
            for other in self.members
            if other is not original
        ]
        settings = replace(
            config.comet.settings,
            moniker=home.name,
            p2p_address=f"{HOST}:{p2p}",
            rpc_address=f"{HOST}:{rpc}",
            persistent_peers=tuple(peers),
        )
        comet = replace(config.comet, settings=settings)
        create_home(home, self.genesis, keys, config=replace(config, comet=comet))
        write_home(
            home / "comet",
            settings,
            make_engine_genesis(self.genesis),
            node_seed=node_seed,
            validator_seed=keys.get_secret(CONSENSUS_KEY),
        )
        twin = len(self.everyone)
        place = replace(original.place, number=twin, home=home.name, url=f"http://{HOST}:{http}")
        self.everyone[twin] = Member(place, home)
        return twin

    def forget(self, number: int) -> None:
        """Take everything from a node that is down but its genesis, keys and last vote."""
        member = self.members[number]
        assert member.pid is None, f"node{number} runs"
        for path in (member.home / "ledger", member.home / "comet" / "data" / "cs.wal"):
            shutil.rmtree(path, ignore_errors=True)
        for path in (member.home / "comet" / "data").glob("*.db"):
            shutil.rmtree(path)
        for path in member.home.glob("readmodel.db*"):
            path.unlink()
        member.height = 0

    def heal(self) -> None:
        """Open all links, start whoever is down, and wait until all are in step."""
        self.links.clear()
        self.start_all()
        self.wait_blocks(1)
        assert [] == self.troubles

    def close(self) -> None:
        """Kill everything."""
        assert self._nursery.stdin is not None
        self._nursery.stdin.close()  # The kernel kills whom it leaves behind.
        self._nursery.wait(30)
        self._listener.join(30)
        self.links.close()

    def urls(self, numbers: Sequence[int] | None = None) -> list[str]:
        """Return where these nodes serve HTTP, by default all."""
        return [self.members[number].place.url for number in numbers or range(len(self.members))]
