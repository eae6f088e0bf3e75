"""State sync: snapshots for new nodes, and the beginning of a node from one."""

from hansa.core.ledger import Ledger, NetworkBlock
from hansa.network.comet.proto.abci import types_pb2 as abci


class Snapshots:
    """The snapshots of one node; all methods are called in the execution thread."""

    def __init__(self, ledger: Ledger, kept: int) -> None:
        self._ledger = ledger
        self._kept = kept

    def note_block(self, block: NetworkBlock) -> None:
        """Take a snapshot where this block is one to take it at; returns at once."""

    def list(self, _: abci.RequestListSnapshots | None = None) -> abci.ResponseListSnapshots:
        """Return the snapshots a new node can begin from."""
        return abci.ResponseListSnapshots()

    def take_offer(self, _: abci.RequestOfferSnapshot) -> abci.ResponseOfferSnapshot:
        """Take or refuse a snapshot that a peer offers."""
        return abci.ResponseOfferSnapshot(result=abci.ResponseOfferSnapshot.ABORT)

    def load(self, _: abci.RequestLoadSnapshotChunk) -> abci.ResponseLoadSnapshotChunk:
        """Return a chunk for a new node; an empty one where it isn't kept any more."""
        return abci.ResponseLoadSnapshotChunk()

    def apply(self, _: abci.RequestApplySnapshotChunk) -> abci.ResponseApplySnapshotChunk:
        """Check a chunk that a peer has sent, and restore with the last."""
        return abci.ResponseApplySnapshotChunk(result=abci.ResponseApplySnapshotChunk.ABORT)

    def close(self) -> None:
        """Finish or drop what is being written."""
