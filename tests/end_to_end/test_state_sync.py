"""A new node comes into step by state sync, with real CometBFTs, one of whose nodes lies."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import pytest
from msgspec.structs import replace
from nacl.signing import SigningKey as Ed25519Key
from tests.toy_chain import Add, Remind, Toy, make_genesis, make_rulebooks

from hansa.core import stateroot
from hansa.core.block import decode_header
from hansa.core.errors import NotThere
from hansa.core.finality import CheckpointSigner, trust_network
from hansa.core.genesis import Genesis, compute_network_id, consensus_chain_id
from hansa.core.keys import ED25519
from hansa.core.ledger import Ledger
from hansa.core.proof import Outcome, Trust, pack_bundle, verify_bundle
from hansa.core.prover import Place, prove_places
from hansa.core.validatorset import Validator
from hansa.network.comet import snapshots
from hansa.network.comet.config import (
    CometSettings,
    StateSync,
    compute_node_id,
    make_genesis_document,
    write_home,
)
from hansa.network.comet.engine import CometEngine, CometTerms
from hansa.network.comet.process import pick_ports
from hansa.network.comet.rpc import RpcClient

SEED = b"v" * 32
INTERVAL = 5
PATIENCE_S = 60.0
HOUR_MS = 3_600_000


class Addresses(NamedTuple):
    """Where a CometBFT is found."""

    name: str
    p2p: str
    rpc: str

    @property
    def seed(self) -> bytes:
        """Of the key by which its peers know it."""
        return sha256(self.name.encode()).digest()

    @property
    def peer(self) -> str:
        """How others dial it."""
        return f"{compute_node_id(self.seed)}@{self.p2p}"


def make_addresses(name: str) -> Addresses:
    """Two free ports."""
    p2p, rpc = pick_ports(2)
    return Addresses(name, f"127.0.0.1:{p2p}", f"127.0.0.1:{rpc}")


class LiveToy(Toy):
    """A node of the toy network with a CometBFT of its own."""

    def __init__(
        self, home: Path, genesis: Genesis, own: Addresses, peers: list[Addresses],
        *, is_validator: bool = False, state_sync: StateSync | None = None,
    ) -> None:  # fmt: skip
        settings = CometSettings(
            moniker=own.name,
            proxy_app="",
            p2p_address=own.p2p,
            rpc_address=own.rpc,
            persistent_peers=tuple(peer.peer for peer in peers),
            timeout_commit_ms=20,
            state_sync=state_sync,
        )
        network = compute_network_id(genesis)
        write_home(
            home / "comet",
            settings,
            make_genesis_document(consensus_chain_id(network), genesis.time_ms, genesis.consensus),
            node_seed=own.seed,
            validator_seed=SEED if is_validator else None,
        )
        self.genesis = genesis
        self.ledger = Ledger(home / "ledger", genesis, make_rulebooks(), None)
        terms = CometTerms(home=home / "comet", settings=settings, verifiers=1)
        self.engine = CometEngine(self.ledger, terms, clock=lambda: time.time_ns() // 1_000_000)
        self.engine.start()
        self.time_ms = genesis.time_ms + HOUR_MS
        self.sequences = {}
        self.is_open = True

    def send(self, name: str, amount: int) -> tuple[int, int]:
        """Have a transaction included; returns its height and leaf."""
        message = Add(name, amount)
        included = self.engine.submit("one", self.sign(message)).result(PATIENCE_S)
        return included.height, included.leaf

    def close(self) -> None:
        """Stop CometBFT and let go of the files; closing twice does nothing."""
        if self.is_open:
            self.engine.stop()
        super().close()


def wait_until(happened: Callable[[], object], what: str) -> None:
    """Wait for other processes."""
    deadline = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


MANY_KEYS = 60
"""So many pieces come of them that a peer is passed over in all of them by no chance at all."""


@pytest.fixture(autouse=True)
def many_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a small state, so that each peer is asked for some."""
    monkeypatch.setattr(stateroot, "MAX_CHUNK_BYTES", 100)
    monkeypatch.setattr(snapshots, "PIECE_BYTES", 1)


@pytest.fixture
def genesis() -> Genesis:
    """Of now, with one validator."""
    key = bytes([ED25519]) + Ed25519Key(SEED).verify_key.encode()
    toy = make_genesis(CheckpointSigner(b"s" * 32), interval=INTERVAL)
    now_ms = time.time_ns() // 1_000_000
    return replace(toy, time_ms=now_ms, consensus=(Validator(key, 10),))


@pytest.fixture
def honest(tmp_path: Path, genesis: Genesis) -> Iterator[LiveToy]:
    """The validator."""
    toy = LiveToy(tmp_path / "honest", genesis, make_addresses("honest"), [], is_validator=True)
    yield toy
    toy.close()


def own_addresses(toy: LiveToy, name: str) -> Addresses:
    """Where a node is found."""
    settings = toy.engine.terms.settings
    return Addresses(name, settings.p2p_address, settings.rpc_address)


def test_a_new_node_begins_from_a_snapshot_though_a_peer_serves_bad_pieces(
    tmp_path: Path, genesis: Genesis, honest: LiveToy, caplog: pytest.LogCaptureFixture
) -> None:
    """It refuses the liar, is restored from the other, follows, and can prove what it has.

    The liar has the same snapshot and has changed a byte in each piece.
    """
    source = own_addresses(honest, "honest")
    liar_place = make_addresses("liar")
    liar = LiveToy(tmp_path / "liar", genesis, liar_place, [source])
    new: LiveToy | None = None
    try:
        at_ms = honest.time_ms
        honest.engine.submit("one", honest.sign(Remind(at_ms, "later"))).result(PATIENCE_S)
        answers = [
            honest.engine.submit("one", honest.sign(Add(f"key{number}", 1)))
            for number in range(MANY_KEYS)
        ]
        for answer in answers:
            answer.result(PATIENCE_S)
        while not honest.engine.snapshots.list().snapshots:
            honest.send(f"first{honest.ledger.height}", 1)
            time.sleep(0.1)
        height = honest.ledger.height
        wait_until(lambda: liar.ledger.height >= height, "the liar in step")
        while not liar.engine.snapshots.list().snapshots:
            honest.send(f"first{honest.ledger.height}", 1)
            time.sleep(0.1)
        for piece in (tmp_path / "liar" / "ledger" / "snapshots").glob("*/[0-9]*"):
            data = piece.read_bytes()
            piece.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with RpcClient(source.rpc) as rpc:
            trusted = rpc.commit(1)["signed_header"]["commit"]["block_id"]["hash"]
        sync = StateSync(
            rpc_servers=(source.rpc, source.rpc),
            trust_height=1,
            trust_hash=bytes.fromhex(trusted),
            trust_period_ms=HOUR_MS,
        )
        peers, new_place = [source, liar_place], make_addresses("new")
        new = LiveToy(tmp_path / "new", genesis, new_place, peers, state_sync=sync)
        node = new
        wait_until(lambda: node.ledger.height >= honest.ledger.height, "the new node in step")
        assert f"from {compute_node_id(liar_place.seed)}, refused" in caplog.text
        assert node.ledger.first_height > INTERVAL
        assert node.ledger.first_height % INTERVAL == 1
        assert 0 == node.ledger.replayed
        place = honest.send("second", 2)
        wait_until(lambda: node.total("second") == 2, "the new node goes on")
        wait_until(
            lambda: decode_header(node.ledger.published["one"].header).log_size > place[1],
            "the block is final",
        )
        record = honest.ledger.read_block(place[0])
        assert record.network_hash == node.ledger.read_block(place[0]).network_hash
        assert honest.ledger.next_deadline_ms() == node.ledger.next_deadline_ms() == at_ms
        with pytest.raises(NotThere):
            node.ledger.read_block(1)
        assert {"one", "two"} == set(node.ledger.published), "quiet chains have a final header too"
        wanted = [Place("one", *place)]
        proof = node.engine.call(lambda: pack_bundle(prove_places(node.ledger, wanted)))
        judgement = verify_bundle(proof, Trust((trust_network(genesis),)))
        assert Outcome.VALID == judgement.outcome, judgement.reason
        # Once more as after any stop: nothing is fetched again, and it goes on.
        node.close()
        new = again = LiveToy(tmp_path / "new", genesis, new_place, peers, state_sync=sync)
        assert node.ledger.first_height == again.ledger.first_height
        assert {"one", "two"} == set(again.ledger.published)
        honest.send("third", 3)
        wait_until(lambda: again.total("third") == 3, "the new node goes on after a stop")
    finally:
        if new is not None:
            new.close()
        liar.close()
