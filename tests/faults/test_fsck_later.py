"""The file check of a node whose block log begins later than the genesis."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace
from nacl.bindings import crypto_sign_seed_keypair
from tests import comet_world

from hansa.core.block import (
    BlockRecord,
    compute_app_hash,
    compute_network_hash,
    decode_block_record,
)
from hansa.core.codec import encode
from hansa.core.finality import make_consensus_finality
from hansa.core.genesis import compute_network_id, consensus_chain_id
from hansa.core.keys import ED25519
from hansa.core.ledger import Ledger
from hansa.core.lightblock import LightBlock, sort_validators
from hansa.core.readmodel import ReadModel
from hansa.interface.sandbox.testnet import CONSENSUS_KEY, create_testnet
from hansa.network.comet.proto.abci import types_pb2 as abci
from hansa.network.comet.snapshots import Snapshots
from hansa.node.composition import VIEWS, GenesisTerms, make_rulebook
from hansa.node.fsck import check_home
from hansa.node.home import load_genesis, load_keys
from hansa.storage.blocklog import BlockLog
from hansa.storage.sql import open_engine

INTERVAL = 5
SEED = b"\x05" * 32


def refuse_passphrase() -> str:
    """A sandbox's keys need none."""
    raise AssertionError("expected keys that are open")


class World:
    """Homes of a testnet whose blocks are made here, without CometBFT."""

    def __init__(self, folder: Path) -> None:
        terms = GenesisTerms(state_root_interval=INTERVAL, state_root_delay=2)
        self.homes = create_testnet(folder, "later", 4, seed=SEED, terms=terms)
        self.genesis = load_genesis(self.homes[0])
        self.chain_id = consensus_chain_id(compute_network_id(self.genesis))
        for home in self.homes:
            seed = load_keys(home, refuse_passphrase).get_secret(CONSENSUS_KEY)
            public, secret = crypto_sign_seed_keypair(seed)
            signer = comet_world.Signer(bytes([ED25519]) + public, secret)
            comet_world._SECRETS[signer.key] = signer
        self.validators = sort_validators(self.genesis.consensus)
        self.ledgers = [self.open(home) for home in self.homes[:2]]
        self.snapshots = [Snapshots(ledger, 1) for ledger in self.ledgers]

    def open(self, home: Path) -> Ledger:
        """The ledger of a home."""
        books = {chain.name: make_rulebook(chain.name) for chain in self.genesis.chains}
        ledger = Ledger(home / "ledger", self.genesis, books, None)
        ledger.find_finality = self.find_finality
        hosted = {module.name for book in books.values() for module in book.modules}
        views = {name: view for name, view in VIEWS.items() if name in hosted}
        engine = open_engine(home / "readmodel.db")
        ReadModel(engine, ledger.chains, views)
        engine.dispose()
        return ledger

    def find_finality(self, record: BlockRecord, chain: str) -> bytes | None:
        """The light block after."""
        app_hashes = {part.chain: part.app_hash for part in record.chains}
        return make_consensus_finality([self.make_light_block(record)], app_hashes, chain)

    def make_light_block(self, record: BlockRecord) -> LightBlock:
        """The light block that holds the network hash after a block."""
        height = record.height + 1
        return comet_world.make_block(
            height,
            self.validators,
            time_ns=(self.genesis.time_ms + height * 1000) * 1_000_000,
            app_hash=record.network_hash,
            chain_id=self.chain_id,
        )

    def make_blocks(self, number: int, count: int) -> None:
        """Have a ledger make empty blocks, an hour apart."""
        ledger = self.ledgers[number]
        for _ in range(count):
            block = ledger.apply(ledger.time_ms + 3_600_000, {})
            ledger.commit(block)
            ledger.block_log.sync()
            self.snapshots[number].note_block(block)
            self.snapshots[number].settle()

    def restore(self) -> None:
        """Have the second ledger begin from the first one's snapshot."""
        source, target = self.snapshots
        offer = source.list().snapshots[0]
        app_hash = self.ledgers[0].read_block(offer.height).network_hash
        target.take_offer(abci.RequestOfferSnapshot(snapshot=offer, app_hash=app_hash))
        for index in range(offer.chunks):
            ask = abci.RequestLoadSnapshotChunk(height=offer.height, format=1, chunk=index)
            piece = source.load(ask).chunk
            target.apply(abci.RequestApplySnapshotChunk(index=index, chunk=piece, sender="a"))

    def keep_light_blocks(self) -> None:
        """Write the second ledger's light blocks, as its keeper does."""
        ledger = self.ledgers[1]
        assert ledger.base is not None
        first = ledger.base.height + 1
        with BlockLog(ledger.folder / "light", first_height=first) as log:
            records = [ledger.base, *ledger.iterate_blocks(first)]
            for record in records[:-1]:
                block = self.make_light_block(record)
                log.append(block.height, encode(block))
            log.sync()

    def close(self) -> None:
        """Let go of the files."""
        for snapshots, ledger in zip(self.snapshots, self.ledgers, strict=True):
            snapshots.close()
            ledger.close()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The home of a node that began at height 10 and stands at 16."""
    world = World(tmp_path)
    world.make_blocks(0, 13)
    world.restore()
    world.make_blocks(1, 6)
    world.keep_light_blocks()
    world.close()
    return world.homes[1]


def test_a_sound_home_is_sound(home: Path) -> None:
    """The blocks after the beginning are checked, and only those."""
    report = check_home(home)
    assert [] == report.findings
    assert (6, 16) == (report.blocks, report.state_height)


def test_so_is_one_with_no_block_yet(tmp_path: Path) -> None:
    """A node may be stopped between the snapshot and its first block."""
    world = World(tmp_path)
    world.make_blocks(0, 13)
    world.restore()
    world.close()
    report = check_home(world.homes[1])
    assert ([], 0, 10) == (report.findings, report.blocks, report.state_height)


def rewrite(home: Path, change: Callable[[int, bytes], bytes]) -> None:
    """Write the block log again with other records."""
    blocks = home / "ledger" / "blocks"
    with BlockLog(blocks) as log:
        first, records = log.first_height, list(log.iterate(log.first_height))
    for path in blocks.iterdir():
        path.unlink()
    with BlockLog(blocks, first_height=first) as log:
        for height, payload in records:
            log.append(height, change(height, payload))
        log.sync()


def test_another_network_hash_than_was_signed_is_found(home: Path) -> None:
    """Records that are chained anew still have to be those the validators signed."""

    def change(height: int, payload: bytes) -> bytes:
        record = decode_block_record(payload)
        parts = list(record.chains)
        at = next((n for n, part in enumerate(parts) if part.header is not None), None)
        if at is None:
            return payload
        given = parts[at].header
        assert given is not None
        header = replace(given, state_root=b"x" * 32)
        parts[at] = replace(parts[at], header=header, app_hash=compute_app_hash(header))
        hashes = [(part.chain, part.app_hash) for part in parts]
        network_hash = compute_network_hash(hashes)
        return encode(replace(record, chains=tuple(parts), network_hash=network_hash))

    rewrite(home, change)
    (finding,) = check_home(home).findings
    assert "which the validators have signed" in finding


def test_a_receipt_that_is_missing_is_found(home: Path) -> None:
    """A record that says less than its header commits to."""

    def change(height: int, payload: bytes) -> bytes:
        record = decode_block_record(payload)
        return encode(
            replace(record, chains=tuple(replace(part, header=None) for part in record.chains))
        )

    rewrite(home, change)
    (finding,) = check_home(home).findings
    assert "expected a header that follows" in finding
