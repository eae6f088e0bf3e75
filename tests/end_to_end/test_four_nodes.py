"""Four nodes with one chain each and nothing but HTTP between them, and relays nobody trusts."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from tests.conftest import REPOSITORY

from hansa.core.keystore import KeyStore
from hansa.core.proof import compute_commitment
from hansa.interface.client import Client, HttpTransport
from hansa.interface.sandbox.desk import Request, wait_for
from hansa.interface.sandbox.federation import (
    FederatedDesk,
    create_federation,
    introduce,
    make_federation_trust,
)
from hansa.interface.sandbox.lives import Life, LifeDriver
from hansa.interface.sandbox.roster import FORWARDER, PARCELS, PAYMENTS, STORES, TOOLMAKER
from hansa.node.composition import GenesisTerms
from hansa.node.home import load_genesis, load_keys, make_readable_trust, write_private
from hansa.service.bank.model import OpenCurrency
from hansa.service.catalogue.model import Register
from hansa.service.orders.model import LineOffer

SEED: Final = b"\x0c" * 32
CURRENCY: Final = "EUR"
PRICE_E6: Final = 12_500_000
TOTAL_MINOR: Final = 2_500
ANCHOR_EVERY_BLOCKS: Final = 5
PATIENCE_S: Final = 60.0
SETTLED: Final = "released"


class Program:
    """`hansa` in a process of its own."""

    def __init__(self, folder: Path, *arguments: object) -> None:
        command = [sys.executable, "-m", "hansa.foreground.cli.main", *map(str, arguments)]
        self._path = folder / "stderr"
        self._log = self._path.open("ab")
        self.process = subprocess.Popen(
            [*command, "--json"],
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY / "src")},
        )

    def read_document(self) -> Any:
        """The JSON document that it prints."""
        assert self.process.stdout is not None
        lines: list[bytes] = []
        while not lines or lines[-1] != b"}\n":
            line = self.process.stdout.readline()
            assert line, f"it ended with {self.process.wait()} after {lines}"
            lines.append(line)
        return json.loads(b"".join(lines))

    def has_spoken(self) -> bool:
        """Whether it has said anything on stderr: then it runs, and hears signals."""
        assert self.process.poll() is None, self._path.read_text()
        return self._path.stat().st_size > 0

    def kill(self) -> None:
        """End it as a power failure would."""
        self._end(signal.SIGKILL)

    def stop(self) -> Any:
        """Have it end in good order; returns the document it prints."""
        self.process.send_signal(signal.SIGTERM)
        document = self.read_document()
        self._end(signal.SIGTERM)
        return document

    def _end(self, number: signal.Signals) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._log.close()


class Federation:
    """Four homes, their nodes, their clients, and relays."""

    def __init__(self, folder: Path, comet: Sequence[str] = (), **terms: int) -> None:
        self.folder = folder
        chosen = GenesisTerms(anchor_every_blocks=ANCHOR_EVERY_BLOCKS, **terms)
        self.homes = create_federation(folder, "Four", comet=comet, seed=SEED, terms=chosen)
        self.nodes = {chain: self._start_node(chain, 0) for chain in self.homes}
        self.relays: list[Program] = []
        self._lives = 0
        self.product = b""
        self.urls = {chain: node.read_document()["url"] for chain, node in self.nodes.items()}
        self.clients = self._connect()
        self.desk = FederatedDesk(self.clients)

    def _start_node(self, chain: str, port: int) -> Program:
        home = self.homes[chain]
        return Program(home, "start", "--home", home, "--port", port)

    def _connect(self) -> dict[str, Client]:
        trust = make_federation_trust(self.homes)
        return {
            chain: Client(HttpTransport(url), load_keys(self.homes[chain], _refuse), trust)
            for chain, url in self.urls.items()
        }

    def restart(self, chain: str) -> None:
        """Start the node of a chain again where it was."""
        self.nodes[chain] = self._start_node(chain, int(self.urls[chain].rpartition(":")[2]))
        assert self.urls[chain] == self.nodes[chain].read_document()["url"]

    def start_relays(self, count: int = 1) -> list[Program]:
        """Start relays at once, each with a key that no member knows, and wait until they run."""
        homes = [self._make_relay_home() for _ in range(count)]
        ends = [part for chain, url in self.urls.items() for part in ("--end", f"{chain}={url}")]
        relays = [Program(home, "relay", "--home", home, *ends) for home in homes]
        self.relays += relays
        for relay in relays:
            wait_for(relay.has_spoken, "a relay", PATIENCE_S)
        return relays

    def _make_relay_home(self) -> Path:
        seed = os.urandom(32)
        home = self.folder / f"relay-{seed.hex()[:8]}"
        home.mkdir()
        keys = KeyStore(seed=seed, keys={}, is_sandbox=True)
        write_private(home / "keys.json", keys.seal(None, os.urandom))
        return home

    def open_market(self) -> None:
        """Let the networks in, open the currency, register the product; a relay has to run."""
        introduce(self.clients)
        self.desk.send("trade", [Request((PAYMENTS.key,), (OpenCurrency(CURRENCY, 2),))])
        register = Register(
            reference="RK-1040",
            gtin="",
            name="Torque wrench",
            description="",
            hs_code="820411",
            origin="DE",
            unit="C62",
        )
        outcome = self.desk.send("product", [Request((TOOLMAKER.key,), (register,))])[0]
        self.product = outcome.object_id()
        self.wait_acknowledged()

    def make_lives(self, count: int) -> list[Life]:
        """Orders that nobody has placed yet."""
        first, self._lives = self._lives, self._lives + count
        return [self._make_life(position) for position in range(first, self._lives)]

    def _make_life(self, position: int) -> Life:
        mark = hashlib.sha256(b"%d" % position).digest()
        return Life(
            position=position,
            buyer=STORES.key,
            seller=TOOLMAKER.key,
            carriers=(FORWARDER.key, PARCELS.key),
            places=("DECGN", "DEHAM", "GBSOU"),
            payer=PAYMENTS.key,
            payment=mark[:16],
            currency=CURRENCY,
            lines=(LineOffer(self.product, 2, PRICE_E6),),
            total_minor=TOTAL_MINOR,
            origin="DE",
            destination="GB",
            address=compute_commitment(mark[16:], b"1 Quay"),
            reference=f"order {position}",
            dated_ms=1_760_000_000_000,
        )

    # What came of it.

    def list_rows(self, chain: str, plural: str) -> list[dict[str, Any]]:
        """Everything of a kind that a node has, each row verified."""
        page = self.clients[chain].list(plural, limit=200)
        assert page["next"] is None
        return list(page["items"])

    def list_packets(self) -> list[dict[str, Any]]:
        """Every packet that any of the four has sent."""
        return [row for chain in self.clients for row in self.list_rows(chain, "packets")]

    def wait_acknowledged(self) -> None:
        """Wait until no packet is on its way any more."""
        wait_for(
            lambda: all(row["status"] == "done" for row in self.list_packets()),
            "every packet to be acknowledged",
            PATIENCE_S,
        )

    def close(self) -> None:
        """End everything."""
        for client in self.clients.values():
            client.close()
        for program in (*self.relays, *self.nodes.values()):
            program.kill()


def _refuse() -> str:
    raise AssertionError("a sandbox has no passphrase")


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """Four nodes that know each other, with a market open, and no relay."""
    world = Federation(tmp_path_factory.mktemp("four"))
    try:
        (relay,) = world.start_relays()
        world.open_market()
        relay.kill()
        yield world
    finally:
        world.close()


@pytest.fixture
def driver(federation: Federation) -> Iterator[LifeDriver]:
    """Somebody who plays every party, over HTTP."""
    driver = LifeDriver(federation.desk, on_signed=_ignore, on_released=_ignore)
    yield driver
    driver.close()


def _ignore(_: Sequence[Life]) -> None:
    """Nothing has to be remembered here."""


def finish(driver: LifeDriver) -> None:
    """Play on until every life has ended."""
    while not driver.is_idle:
        driver.step()


def play_until_shipped(driver: LifeDriver, lives: Sequence[Life]) -> None:
    """Play on until packets have opened a shipment at least, and nothing is being handed in."""
    while not any(life.shipment for life in lives) or driver._pending:
        driver.step()


def count_by_order(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many shipments each order has."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["order"]] = counts.get(row["order"], 0) + 1
    return counts


def check_ended_once(federation: Federation, lives: Sequence[Life]) -> None:
    """Every order of these was released, shipped once and paid once; no packet is left."""
    federation.wait_acknowledged()
    orders = {row["id"]: row["status"] for row in federation.list_rows("trade", "orders")}
    assert {life.order.hex(): SETTLED for life in lives} == {
        life.order.hex(): orders[life.order.hex()] for life in lives
    }
    assert dict.fromkeys(orders, 1) == count_by_order(
        federation.list_rows("logistics", "shipments")
    )
    paid = federation.clients["trade"].balance(federation.desk.account(TOOLMAKER.key))
    assert [len(orders) * TOTAL_MINOR] == [row["posted_minor"] for row in paid["items"]]


def test_relays_killed_and_doubled(federation: Federation, driver: LifeDriver) -> None:
    """A relay killed in the middle and two in its place change nothing: every life ends once."""
    (relay,) = federation.start_relays()
    first = federation.make_lives(5)
    driver.begin(first)
    play_until_shipped(driver, first)
    relay.kill()
    second = federation.make_lives(5)
    driver.begin(second)
    pair = federation.start_relays(2)
    finish(driver)
    check_ended_once(federation, [*first, *second])
    reports = [relay.stop() for relay in pair]
    assert sum(report["pages"] for report in reports) > 0


def test_node_killed(federation: Federation, driver: LifeDriver) -> None:
    """While one node is dead the others go on, and once it is back every life ends once."""
    (relay,) = federation.start_relays()
    first = federation.make_lives(4)
    driver.begin(first)
    play_until_shipped(driver, first)
    federation.nodes["logistics"].kill()
    second = federation.make_lives(4)
    driver.begin(second)
    wait_for(
        lambda: all(federation.desk.find("orders", life.order.hex()) for life in second),
        "orders on the trade chain while the logistics node is dead",
        PATIENCE_S,
    )
    federation.restart("logistics")
    finish(driver)
    check_ended_once(federation, [*first, *second])
    relay.stop()


def test_anchors(federation: Federation) -> None:
    """The anchor chain hears of the three others from a relay that it doesn't know."""
    (relay,) = federation.start_relays()

    def list_anchored() -> list[str]:
        rows = federation.list_rows("anchor", "anchors")
        return sorted(row["id"] for row in rows if row["log_size"] and row["status"] == "live")

    expected = ["logistics", "product", "trade"]
    wait_for(lambda: expected == list_anchored(), "anchors of three chains", PATIENCE_S)
    relay.stop()


def test_proofs_of_four_networks(
    federation: Federation, driver: LifeDriver, tmp_path: Path
) -> None:
    """A file from each node is judged by one program that trusts all four, and nobody else."""
    (relay,) = federation.start_relays()
    (life,) = lives = federation.make_lives(1)
    driver.begin(lives)
    finish(driver)
    federation.wait_acknowledged()
    relay.stop()
    objects = {
        "product": ("product", federation.product.hex()),
        "trade": ("order", life.order.hex()),
        "logistics": ("shipment", life.shipment.hex()),
        "anchor": ("anchor", "trade"),
    }
    everyone = write_trust(tmp_path / "everyone.json", list(federation.homes.values()))
    stranger = write_trust(tmp_path / "stranger.json", [federation.homes["anchor"]])
    verdicts = {}
    for chain, (kind, identifier) in objects.items():
        file = tmp_path / f"{chain}.hansa"
        file.write_bytes(federation.clients[chain].proof(kind, identifier))
        verdicts[chain] = (verify(file, everyone), verify(file, stranger))
    cannot_tell = dict.fromkeys(("product", "trade", "logistics"), (0, 2))
    assert {**cannot_tell, "anchor": (0, 0)} == verdicts


def write_trust(file: Path, homes: Sequence[Path]) -> Path:
    """A trust file with the networks of these homes, each described by its own genesis."""
    networks = [network for home in homes for network in _describe(home)]
    file.write_bytes(msgspec.json.encode({"networks": networks}))
    return file


def _describe(home: Path) -> Any:
    return make_readable_trust(load_genesis(home))["networks"]


def verify(file: Path, trust: Path) -> int:
    """The exit status of `hansa verify`, in a process without any home."""
    command = [sys.executable, "-m", "hansa.foreground.cli.main", "verify", file, "--trust", trust]
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, check=False,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY / "src")},
    )  # fmt: skip
    return done.returncode
