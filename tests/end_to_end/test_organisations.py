"""Three organisations found a network by files and run it; a fourth follows; a doctor is asked."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from tests.ceremony_world import PASSPHRASE, Organisation, found, hasten
from tests.conftest import REPOSITORY
from typer.testing import CliRunner

from hansa.core.genesis import Genesis
from hansa.foreground.cli.application import app
from hansa.interface.ceremony import make_keys, show_peer
from hansa.interface.doctor import examine_home, examine_url
from hansa.interface.http.app import HttpServer
from hansa.interface.joining import find_checkpoint, join
from hansa.interface.sandbox.desk import wait_for
from hansa.network.comet.engine import CometEngine
from hansa.network.comet.process import pick_ports
from hansa.node.home import load_config, make_trust
from hansa.node.node import Node, system_clock

PATIENCE_S = 60.0
NAMES = ("Ash", "Beech", "Cedar")
EXPRESSION_NAME = re.compile(r"\b(?:hansa|cometbft)_\w+")


class Running:
    """A node of an organisation, served over HTTP."""

    def __init__(self, one: Organisation) -> None:
        self.organisation = one
        self.node = Node(one.home, keys=one.keys)
        self.node.start()
        self.server = HttpServer(self.node)
        self.server.start()
        self._is_stopped = False

    @property
    def url(self) -> str:
        """Where it is asked."""
        return self.server.url

    @property
    def engine(self) -> CometEngine:
        """Its engine."""
        assert isinstance(self.node.engine, CometEngine)
        return self.node.engine

    def stop(self) -> None:
        """End it in good order."""
        if not self._is_stopped:
            self._is_stopped = True
            self.server.stop()
            self.node.stop()


class World:
    """The founders, the network, and what runs of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.founders, self.genesis = found(folder, NAMES, time_ms=system_clock())
        self.running = [Running(one) for one in self.founders]

    def wait_height(self, height: int) -> None:
        """Wait until everybody has this block."""
        wait_for(
            lambda: all(one.node.ledger.height >= height for one in self.running),
            f"block {height}",
            PATIENCE_S,
        )

    def stop(self) -> None:
        """End everybody."""
        for one in self.running:
            one.stop()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The network, with some blocks."""
    world = World(tmp_path_factory.mktemp("world"))
    try:
        world.wait_height(4)
        yield world
    finally:
        world.stop()


def find_names(findings: object) -> set[str]:
    """The names of findings."""
    return {finding.name for finding in findings}  # type: ignore[attr-defined]


def wait_found(name: str, ask: Callable[[], object]) -> None:
    """Wait until the doctor finds something."""
    wait_for(lambda: name in find_names(ask()), f"the finding {name}", PATIENCE_S)


def follow(world: World, name: str, genesis: Genesis, servers: tuple[str, ...] = ()) -> Running:
    """A later node that follows the founders."""
    p2p, rpc = pick_ports(2)
    keys = make_keys()
    home = world.folder / name
    join(
        home, genesis, make_trust(genesis).networks[0], keys, PASSPHRASE, name=name,
        peers=[show_peer(one.invitation.invitation) for one in world.founders],
        listen=f"127.0.0.1:{p2p}", rpc_address=f"127.0.0.1:{rpc}", state_sync=servers,
        now_ms=system_clock(),
    )  # fmt: skip
    return Running(Organisation(keys, home, world.founders[0].invitation, f"127.0.0.1:{rpc}"))


@pytest.mark.slow
def test_the_founders_make_the_same_blocks(world: World) -> None:
    """Each executes by itself and comes to the same hash."""
    height = min(one.node.ledger.height for one in world.running)
    hashes = {one.node.read_block(height).network_hash for one in world.running}
    assert 1 == len(hashes)
    comet = load_config(world.founders[0].home).comet
    assert comet is not None
    assert hasten(comet.settings) == comet.settings


@pytest.mark.slow
def test_a_later_node_follows(world: World) -> None:
    """It has nobody's secrets and no vote, and comes to the same blocks."""
    late = follow(world, "Oak", world.genesis)
    try:
        height = world.running[0].node.ledger.height
        wait_for(lambda: late.node.ledger.height >= height, "the late node", PATIENCE_S)
        expected = world.running[0].node.read_block(height)
        assert expected.network_hash == late.node.read_block(height).network_hash
        wait_for(lambda: not examine_home(late.organisation.home), "health", PATIENCE_S)
    finally:
        late.stop()


@pytest.mark.slow
def test_a_checkpoint_follows_from_the_trust_file(world: World) -> None:
    """What state sync begins from was judged by the validators' signatures, on two servers."""
    trusted = make_trust(world.genesis).networks[0].consensus
    assert trusted is not None
    servers = [one.rpc for one in world.founders]
    checkpoint = find_checkpoint(world.genesis, trusted, servers, system_clock())
    header = world.running[0].engine.rpc.commit(checkpoint.height)
    given = header["signed_header"]["commit"]["block_id"]["hash"]
    assert given == checkpoint.hash.hex().upper()


@pytest.mark.slow
def test_a_later_node_begins_from_a_snapshot(world: World) -> None:
    """With state sync it has no early block, and makes the later ones like everybody."""
    world.wait_height(12)
    servers = tuple(one.rpc for one in world.founders)
    late = follow(world, "Elm", world.genesis, servers)
    try:
        height = world.running[0].node.ledger.height
        wait_for(lambda: late.node.ledger.height > height, "the late node", PATIENCE_S)
        assert late.node.ledger.base is not None
        expected = world.running[0].node.read_block(height + 1)
        assert expected.network_hash == late.node.read_block(height + 1).network_hash
    finally:
        late.stop()


@pytest.mark.slow
def test_a_healthy_node_has_nothing(world: World) -> None:
    """Neither by its files nor from afar, and the command ends with status 0."""
    first = world.running[0]
    wait_for(lambda: not examine_home(first.organisation.home), "health", PATIENCE_S)
    assert [] == examine_url(first.url)
    said = CliRunner().invoke(app, ["doctor", "--home", str(first.organisation.home)])
    assert (0, "healthy\n") == (said.exit_code, said.output)


def list_alert_names() -> set[str]:
    """Every metric that the alerts and the dashboard name."""
    import yaml

    names: set[str] = set()
    rules = yaml.safe_load((REPOSITORY / "deploy/prometheus/alerts.yml").read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            names |= set(EXPRESSION_NAME.findall(rule["expr"]))
    for path in sorted((REPOSITORY / "deploy/grafana").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", []):
                names |= set(EXPRESSION_NAME.findall(target["expr"]))
    return names


@pytest.mark.slow
def test_alerts_and_dashboard_ask_for_what_there_is(world: World) -> None:
    """Every metric that they name is on the page of a running node."""

    def is_read() -> bool:
        return "hansa_clock_offset_seconds" in httpx.get(f"{world.running[0].url}/metrics").text

    wait_for(is_read, "votes to compare", PATIENCE_S)
    page = httpx.get(f"{world.running[0].url}/metrics").text
    given = set(re.findall(r"^(?:# TYPE )?(hansa_\w+)", page, re.MULTILINE))
    assert set() == list_alert_names() - given
    assert len(list_alert_names()) > 20


@pytest.mark.slow
def test_one_of_three_down_halts_and_loses_nothing(world: World) -> None:
    """More than two thirds are needed: the doctor says so, and why, until it is back."""
    first, _, last = world.running
    last.stop()
    assert {"not-running"} == find_names(examine_home(last.organisation.home))
    wait_found("halted", lambda: examine_url(first.url, halted_s=4.0))
    halted = next(f for f in examine_url(first.url, halted_s=4.0) if f.name == "halted")
    assert "two thirds" in halted.says
    stood = first.node.ledger.height
    world.running[2] = Running(last.organisation)
    world.wait_height(stood + 2)
    wait_for(lambda: not examine_url(first.url, halted_s=10.0), "health", PATIENCE_S)


@pytest.mark.slow
def test_a_node_alone_has_no_peers(world: World) -> None:
    """With both others down there is nobody to hear from."""
    first, second, third = world.running
    second.stop()
    third.stop()
    wait_found("no-peers", lambda: examine_url(first.url))
    world.running = [first, Running(second.organisation), Running(third.organisation)]
    world.wait_height(first.node.ledger.height + 1)
