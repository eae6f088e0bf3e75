"""The toy's two chains under CometBFT's rules: every block counts, and light blocks make it final.

The light blocks are signed here; there is no CometBFT.
"""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace
from tests import comet_world
from tests.toy_chain import START_MS, Add, Post, Remind, Toy, make_genesis, make_rulebooks

from hansa.core.block import BlockRecord
from hansa.core.finality import CheckpointSigner, make_consensus_finality
from hansa.core.genesis import Genesis, compute_network_id, consensus_chain_id
from hansa.core.ledger import Ledger, NetworkBlock
from hansa.core.lightblock import LightBlock
from hansa.network.comet.proto.abci import types_pb2 as abci
from hansa.network.comet.snapshots import Snapshots

VALIDATORS = comet_world.make_set(10, 10, 10, 10)
SIGNER = CheckpointSigner(b"s" * 32)


def make_comet_genesis(interval: int) -> Genesis:
    """The toy's genesis with four validators."""
    return replace(make_genesis(SIGNER, interval=interval), consensus=VALIDATORS)


class CometToy(Toy):
    """A node of a network whose other nodes are taken for granted."""

    def __init__(self, folder: Path, *, interval: int = 5, kept: int = 2) -> None:
        self.signer = SIGNER
        self.genesis = make_comet_genesis(interval)
        self.chain_id = consensus_chain_id(compute_network_id(self.genesis))
        self.ledger = Ledger(folder, self.genesis, make_rulebooks(), None)
        self.light: dict[int, LightBlock] = {}
        self.ledger.find_finality = self.find_finality
        self.snapshots = Snapshots(self.ledger, kept)
        self.time_ms = START_MS + 1
        self.sequences = {}
        self.is_open = True

    def find_finality(self, record: BlockRecord, chain: str) -> bytes | None:
        """What makes a header final: the light block after, once the block after is there."""
        if record.height + 1 > self.ledger.height:
            return None
        app_hashes = {part.chain: part.app_hash for part in record.chains}
        return make_consensus_finality([self.get_light_block(record)], app_hashes, chain)

    def get_light_block(self, record: BlockRecord) -> LightBlock:
        """The light block that holds the network hash after a block."""
        height = record.height + 1
        if height not in self.light:
            self.light[height] = comet_world.make_block(
                height,
                VALIDATORS,
                time_ns=(START_MS + height * 1000) * 1_000_000,
                app_hash=record.network_hash,
                chain_id=self.chain_id,
            )
        return self.light[height]

    def apply(self, *envelopes: bytes, chain: str = "one", is_signed: bool = True) -> NetworkBlock:
        """Run a block of these, commit it, and let the snapshots know."""
        decoded = [(self.decode(envelope, chain), is_signed) for envelope in envelopes]
        block = self.ledger.apply(self.time_ms, {chain: decoded})
        self.ledger.commit(block)
        self.ledger.block_log.sync()
        self.snapshots.note_block(block)
        return block

    def drive(self, blocks: int) -> list[bytes]:
        """Make blocks in which much happens on one chain, little on the other; their hashes.

        Each waits for the snapshot in hand, so that it is known which there are.
        """
        hashes = []
        for _ in range(blocks):
            number = self.ledger.height + 1
            self.time_ms += 10
            first = self.sign(Add(f"n{number}", number), Remind(self.time_ms + 500, f"r{number}"))
            block = self.apply(first, self.sign(Post("two", f"p{number}")))
            hashes.append(block.record.network_hash)
            self.snapshots.settle()
        return hashes

    def offers(self) -> list[abci.Snapshot]:
        """The snapshots offered, newest first."""
        return list(self.snapshots.list().snapshots)

    def offer(self) -> abci.RequestOfferSnapshot:
        """The newest snapshot as CometBFT offers it to a new node."""
        newest = self.offers()[0]
        app_hash = self.ledger.read_block(newest.height).network_hash
        return abci.RequestOfferSnapshot(snapshot=newest, app_hash=app_hash)

    def load(self, index: int) -> bytes:
        """A piece of the newest snapshot."""
        newest = self.offers()[0]
        request = abci.RequestLoadSnapshotChunk(height=newest.height, format=1, chunk=index)
        return self.snapshots.load(request).chunk

    def give(self, index: int, chunk: bytes) -> abci.ResponseApplySnapshotChunk:
        """Receive a piece from the peer ``mallory``."""
        request = abci.RequestApplySnapshotChunk(index=index, chunk=chunk, sender="mallory")
        return self.snapshots.apply(request)

    def restore_from(self, source: CometToy) -> None:
        """Begin from the newest snapshot of another node."""
        offer = source.offer()
        accepted = abci.ResponseOfferSnapshot.ACCEPT
        assert accepted == self.snapshots.take_offer(offer).result
        for index in range(offer.snapshot.chunks):
            taken = self.give(index, source.load(index))
            assert abci.ResponseApplySnapshotChunk.ACCEPT == taken.result, index
        self.follow(source)

    def follow(self, source: CometToy) -> None:
        """Take over what parties know, as a node whose blocks are those of another."""
        self.time_ms = source.time_ms
        self.sequences = dict(source.sequences)

    def close(self) -> None:
        """Let go of the files; closing twice does nothing."""
        if self.is_open:
            self.snapshots.close()
        super().close()
