"""Several organisations' nodes on this machine: made, started, one killed, and all gone again."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from tests.conftest import REPOSITORY

from hansa.interface.client import Client
from hansa.interface.sandbox.control import Command, NotRunning, ask
from hansa.interface.sandbox.desk import wait_for
from hansa.interface.sandbox.failover import FailoverTransport
from hansa.interface.sandbox.market import Market
from hansa.interface.sandbox.testnet import MAX_VALIDATORS, load_testnet
from hansa.network.comet.rpc import RpcClient, RpcTrouble, split_address
from hansa.node.composition import CHAINS
from hansa.node.home import load_genesis, load_keys, make_trust

VALIDATORS: Final = 4
LIMIT: Final = 6
READY_S: Final = 30.0
"""What a new user is promised; a machine that does other things besides is given more."""
PATIENCE_S: Final = 120.0
SUMS: Final = (
    *("orders", "lines_ordered", "ordered_minor", "lines_refunded", "refunded_minor"),
    *("credit_notes_minor", "seller_net_minor", "packets"),
)
"""Of the report: what the same invoices come to, whatever network they were played on."""

INVOICES: Final = """\
InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country
500001,A1,LANTERN,4,2010-12-01 09:00:00,2.50,17001,United Kingdom
500001,B2,TEA SET,3,2010-12-01 09:00:00,0.125,17001,United Kingdom
500002,A1,LANTERN,10,2010-12-02 09:00:00,2.55,17001,United Kingdom
500003,B2,TEA SET,1,2010-12-03 09:00:00,7.95,,France
C500004,A1,LANTERN,-12,2010-12-04 09:00:00,2.55,17001,United Kingdom
500010,A1,LANTERN,1,2010-12-10 09:00:00,0.5,17002,Germany
"""


class Program:
    """`hansa` in a process of its own."""

    def __init__(self, log: Path, *arguments: object) -> None:
        self.log = log
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                make_command(*arguments), stdout=file, stderr=file, env=make_environment()
            )

    def end(self, number: signal.Signals) -> int:
        """Send a signal and wait for the end; returns its status."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)


def make_command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "hansa.foreground.cli.main", *map(str, arguments)]


def make_environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HANSA_")}
    return {**kept, "PYTHONPATH": os.environ.get("PYTHONPATH", str(REPOSITORY / "src"))}


def hansa(*arguments: object, status: int = 0) -> Any:
    """The document that a command line answers with."""
    done = subprocess.run(
        make_command(*arguments, "--json"), capture_output=True, text=True, check=False,
        timeout=2 * PATIENCE_S, env=make_environment(),
    )  # fmt: skip
    assert status == done.returncode, done.stderr
    return json.loads(done.stdout)


def make_testnet(folder: Path, *options: object, validators: int = VALIDATORS) -> Any:
    """What `hansa testnet init` says."""
    return hansa("testnet", "init", "--output", folder, "--validators", validators, *options)


class Running:
    """A testnet that runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.began_s = time.monotonic()
        self.program = Program(folder / "start.log", "testnet", "start", folder)
        self.testnet = load_testnet(folder)
        wait_for(self.is_ready, "all nodes to be ready", PATIENCE_S)
        self.ready_s = time.monotonic() - self.began_s

    def is_ready(self) -> bool:
        """Whether every node takes transactions."""
        assert self.program.process.poll() is None, self.program.log.read_text()
        return all(is_ready(node.url) for node in self.testnet.nodes)

    def list_pids(self) -> list[int]:
        """The nodes and their engines: the node's child is a guard, the guard's child CometBFT."""
        nodes = [one.pid for one in ask(self.folder, Command("status")).nodes if one.pid]
        return [pid for node in nodes for pid in (node, *list_descendants(node))]

    def list_engine(self, number: int) -> list[int]:
        """A node's guard and engine."""
        pid = ask(self.folder, Command("status")).nodes[number].pid
        assert pid is not None
        return list_descendants(pid)

    def status(self) -> list[dict[str, Any]]:
        """What `hansa testnet status` says of the nodes."""
        return list(hansa("testnet", "status", self.folder)["nodes"])

    def close(self) -> None:
        """End everything, however the test ended."""
        if self.program.process.poll() is None:
            self.program.end(signal.SIGKILL)


def is_ready(url: str) -> bool:
    """Whether a node takes transactions."""
    try:
        return httpx.get(f"{url}/ready", timeout=2.0).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def list_descendants(pid: int) -> list[int]:
    """Children, and their children."""
    children = Path(f"/proc/{pid}/task").glob("*/children")
    direct = [int(child) for file in children for child in file.read_text().split()]
    return [one for child in direct for one in (child, *list_descendants(child))]


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for is dead."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Four organisations' nodes on one network."""
    folder = tmp_path_factory.mktemp("testnet") / "four"
    make_testnet(folder, "--name", "Four")
    testnet = Running(folder)
    try:
        yield testnet
    finally:
        testnet.close()


def open_client(running: Running, transport: Any) -> Client:
    """Somebody who plays every party and trusts the genesis of the first node's home."""
    home = running.folder / "node0"
    return Client(transport, load_keys(home, lambda: ""), make_trust(load_genesis(home)))


def test_ready_in_time(running: Running) -> None:
    """Four nodes with their engines take transactions within half a minute, and see each other."""
    print(f"ready after {running.ready_s:.1f} s")
    assert running.ready_s < READY_S
    wait_for(
        lambda: [3] * VALIDATORS == [node["peers"] for node in running.status()],
        "every engine to have three peers",
        PATIENCE_S,
    )
    assert [("ready", f"node{number}") for number in range(VALIDATORS)] == [
        (node["state"], node["home"]) for node in running.status()
    ]


def test_list_of_nodes(running: Running) -> None:
    """DIR/testnet.json names each node's address, home and process."""
    document = json.loads((running.folder / "testnet.json").read_text())
    assert VALIDATORS == len({node["url"] for node in document["nodes"]})
    assert [f"node{number}" for number in range(VALIDATORS)] == [
        node["home"] for node in document["nodes"]
    ]
    assert all(is_alive(node["pid"]) for node in document["nodes"])
    assert running.program.process.pid == document["pid"]


def test_orders_go_on_with_one_of_four_down(running: Running) -> None:
    """The node in use is killed with its engine: orders live on by another, and it comes back."""
    urls = [running.testnet.nodes[number].url for number in (1, 2, 3, 0)]
    transport = FailoverTransport(urls)
    with open_client(running, transport) as client:
        market = Market(client, pace_s=0.05)
        market.start()
        try:
            wait_for(lambda: market.placed >= 2, "orders on four nodes", PATIENCE_S)
            engine = running.list_engine(1)
            assert "down" == hansa("testnet", "kill", running.folder, "--node", 1)["state"]
            wait_for(lambda: not any(map(is_alive, engine)), "its engine to be gone", PATIENCE_S)
            placed = market.placed
            wait_for(lambda: market.placed >= placed + 3, "orders on three nodes", PATIENCE_S)
        finally:
            market.stop()
    assert transport.changes >= 1
    states = [node["state"] for node in running.status()]
    assert ["ready", "down", "ready", "ready"] == states
    assert "up" == hansa("testnet", "restart", running.folder, "--node", 1)["state"]
    wait_for(lambda: len(set(read_hashes(running))) == 1, "the same history on all", PATIENCE_S)


def read_hashes(running: Running) -> list[str]:
    """The hash after the lowest of the newest blocks, as each node has it."""
    nodes = running.testnet.nodes
    height = min(httpx.get(f"{node.url}/v1/status").json()["height"] for node in nodes[:1])
    blocks = [httpx.get(f"{node.url}/v1/blocks/{height}").json() for node in nodes]
    return [block.get("app_hash", str(number)) for number, block in enumerate(blocks)]


def test_killed_node_answers_nobody(running: Running) -> None:
    """A node can't be killed twice, and its engine's door is shut until it is started again."""
    node = running.testnet.nodes[3]
    hansa("testnet", "kill", running.folder, "--node", 3)
    again = hansa("testnet", "kill", running.folder, "--node", 3, status=2)
    assert "expected a node that runs, got one that is down" in again["error"]["text"]
    wait_for(lambda: not is_answering(node.rpc), "the engine to be gone", PATIENCE_S)
    assert "up" == hansa("testnet", "restart", running.folder, "--node", 3)["state"]
    assert is_ready(node.url)


def is_answering(rpc: str) -> bool:
    """Whether somebody answers as an engine would."""
    try:
        with RpcClient(rpc, timeout_s=1.0) as client:
            client.health()
    except RpcTrouble:
        return False
    return True


def test_pages_stop_and_start_a_node(running: Running) -> None:
    """The market's page names the organisations; its form stops a node, but for nobody else."""
    here, other = running.testnet.nodes[0].url, running.testnet.nodes[2]
    page = httpx.get(here).text
    assert 'action="/testnet/2/kill"' in page
    assert "Quayside Market" in page
    form = f"{here}/testnet/2/kill"
    elsewhere: tuple[dict[str, str], ...] = (
        {},
        {"Origin": "http://elsewhere.example"},
        {"Origin": other.url},
    )
    assert [403, 403, 403] == [httpx.post(form, headers=one).status_code for one in elsewhere]
    assert is_ready(other.url)
    own = {"Origin": here}
    assert 404 == httpx.post(f"{here}/testnet/0/kill", headers=own).status_code
    assert 404 == httpx.post(f"{here}/testnet/2/format", headers=own).status_code
    assert 303 == httpx.post(form, headers=own).status_code
    assert not is_ready(other.url)
    assert 'action="/testnet/2/restart"' in httpx.get(here).text
    assert 303 == httpx.post(f"{here}/testnet/2/restart", headers=own).status_code
    wait_for(lambda: is_ready(other.url), "the node to be back", PATIENCE_S)


def test_import_comes_to_the_same_sums(running: Running, tmp_path: Path) -> None:
    """A wholesaler's invoices end in the same books as on one node alone."""
    file = tmp_path / "invoices.csv"
    file.write_text(INVOICES)
    command = ("import", "online-retail", file, "--limit", LIMIT)
    alone = hansa(*command, "--home", tmp_path / "solo")
    node = running.testnet.nodes[1]
    together = hansa(*command, "--home", running.folder / "node0", "--node", node.url)
    assert {name: alone[name] for name in SUMS} == {name: together[name] for name in SUMS}
    assert together["sound"]


def test_second_start(running: Running) -> None:
    """One folder is run once: whoever comes second is told who was first."""
    refusal = hansa("testnet", "start", running.folder, status=2)["error"]["text"]
    assert f"process {running.program.process.pid}" in refusal


def test_number_out_of_bounds(running: Running) -> None:
    """Nodes are counted from 0."""
    for command in ("kill", "restart"):
        answer = hansa("testnet", command, running.folder, "--node", VALIDATORS, status=2)
        assert "node: expected 0 to 3, got 4" == answer["error"]["text"]


def test_stopped_in_good_order(running: Running) -> None:
    """SIGTERM ends every node and every engine, and says so in the folder; it starts again."""
    pids = running.list_pids()
    assert len(pids) >= 3 * VALIDATORS
    assert 0 == running.program.end(signal.SIGTERM)
    assert [] == [pid for pid in pids if is_alive(pid)]
    document = json.loads((running.folder / "testnet.json").read_text())
    assert (None, [None] * VALIDATORS) == (
        document["pid"], [node["pid"] for node in document["nodes"]],
    )  # fmt: skip
    status = hansa("testnet", "status", running.folder)
    assert not status["is_running"]
    assert {"down"} == {node["state"] for node in status["nodes"]}
    answer = hansa("testnet", "kill", running.folder, "--node", 0, status=2)
    assert "expected a testnet that runs, got none" in answer["error"]["text"]


def test_killed_start_leaves_nobody(running: Running) -> None:
    """With kill -9 of the process that runs them, all nodes and engines are gone at once."""
    again = Running(running.folder)
    try:
        pids = again.list_pids()
        again.program.end(signal.SIGKILL)
        wait_for(lambda: not any(map(is_alive, pids)), "nodes and engines to be gone", 10.0)
    finally:
        again.close()


# Refusals, which need nobody to run.


def test_folder_with_a_testnet(tmp_path: Path) -> None:
    """A folder holds one testnet."""
    make_testnet(tmp_path, validators=1)
    again = hansa("testnet", "init", "--output", tmp_path, status=2)
    assert "expected a folder without a testnet" in again["error"]["text"]


@pytest.mark.parametrize("count", [0, MAX_VALIDATORS + 1])
def test_validators_out_of_bounds(tmp_path: Path, count: int) -> None:
    """A network has at least one validator, and no more than a machine can run."""
    answer = hansa(
        "testnet", "init", "--output", tmp_path / "none", "--validators", count, status=2
    )
    assert f"validators: expected 1 to 16, got {count}" == answer["error"]["text"]
    assert not (tmp_path / "none").exists()


def test_folder_without_a_testnet(tmp_path: Path) -> None:
    """Nothing can be started, asked or killed where there is none."""
    for command in (("start",), ("status",), ("kill", "--node", 0), ("restart", "--node", 0)):
        verb, *options = command
        answer = hansa("testnet", verb, tmp_path, *options, status=2)
        assert "expected a testnet, got none; run `hansa testnet init`" in answer["error"]["text"]
    with pytest.raises(NotRunning):
        ask(tmp_path, Command("status"))


def test_port_taken(tmp_path: Path) -> None:
    """A port that somebody else sits on is named, and nothing is left running."""
    make_testnet(tmp_path, validators=1)
    (node,) = load_testnet(tmp_path).nodes
    for place in (node.url, node.p2p, node.rpc):
        host, port = split_address(place)
        with socket.create_server((host, port)):
            answer = hansa("testnet", "start", tmp_path, status=2)
        assert f"node0: expected a free port {port}" in answer["error"]["text"]


def test_no_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without CometBFT the message says what to install."""
    make_testnet(tmp_path, validators=1)
    monkeypatch.setenv("COMETBFT", str(tmp_path / "nothing"))
    answer = hansa("testnet", "start", tmp_path, status=2)
    assert "expected CometBFT from 0.38.25 to before 0.41.0" in answer["error"]["text"]
    assert "go install" in answer["error"]["text"]


def test_ports_in_a_row(tmp_path: Path) -> None:
    """--port names the first node's HTTP port; the others follow."""
    made = make_testnet(tmp_path, "--port", 28_400, validators=3)
    assert [f"http://127.0.0.1:{28_400 + number}" for number in range(3)] == [
        node["url"] for node in made["nodes"]
    ]
    answer = hansa(
        "testnet", "init", "--output", tmp_path / "high", "--port", 65_534, "--validators", 3,
        status=2,
    )  # fmt: skip
    assert "port: expected 0 to 65533" in answer["error"]["text"]


def test_a_network_for_each_chain(tmp_path: Path) -> None:
    """Chains on networks of their own: other validators each, and packets between them by relay."""
    made = make_testnet(tmp_path, "--chains-per-network", "one", validators=1)
    assert (4, list(CHAINS)) == (made["networks"], [node["chains"] for node in made["nodes"]])
    assert 4 == len({load_genesis(tmp_path / f"node{n}").consensus[0].key for n in range(4)})
    running = Running(tmp_path)
    try:
        urls = {node.chains[0]: node.url for node in running.testnet.nodes}
        wait_for(lambda: count_clients(urls) == 12, "all to know each other", PATIENCE_S)
        assert 0 == running.program.end(signal.SIGTERM)
    finally:
        running.close()


def count_clients(urls: dict[str, str]) -> int:
    """How many light clients of others the networks have."""
    pages = [httpx.get(f"{url}/v1/clients?limit=200").json() for url in urls.values()]
    return sum(len(page["items"]) for page in pages)
