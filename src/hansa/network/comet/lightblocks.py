"""The network's light blocks, kept on this node: what makes its own blocks final.

CometBFT signs block H in block H + 1: only then does a header hold the network hash after H. A
thread fetches each light block once its height is committed, and publishes what it makes final.
"""

import logging
import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from hansa.core.block import BlockRecord, Header
from hansa.core.codec import encode
from hansa.core.errors import Malformed
from hansa.core.finality import (
    MAX_DRIFT_MS,
    MAX_HOPS,
    FinalHeader,
    decode_consensus_finality,
    make_consensus_finality,
    trust_network,
)
from hansa.core.genesis import consensus_chain_id
from hansa.core.ledger import Ledger
from hansa.core.lightblock import (
    COMMIT,
    NO_VOTE,
    LightBlock,
    decode_light_block,
    light_block_from_rpc,
)
from hansa.core.lightclient import (
    LightClientError,
    TrustedConsensus,
    WrongSignature,
    bisect,
    follow_all,
    trim_commit,
    trust_block,
    verify_commit,
    verify_light_block,
)
from hansa.core.merkle import ProofError
from hansa.core.restoration import LIGHT_HOPS
from hansa.network.comet.rpc import RpcClient, RpcTrouble
from hansa.storage.blocklog import BlockLog, DamagedBlockLog

_log = logging.getLogger(__name__)

POLL_S: Final = 0.25
KEPT_DECODED: Final = 1_024


class LightBlocks:
    """Light blocks by height, from the first this node has; fetched in order, never changed."""

    def __init__(self, ledger: Ledger, rpc: RpcClient) -> None:
        self._ledger = ledger
        self._rpc = rpc
        self._chain_id = consensus_chain_id(ledger.network)
        self._store = self._open_store()
        trusted = trust_network(ledger.genesis).consensus
        assert trusted is not None, "the genesis of a network on CometBFT names its validators"
        self._genesis_trust: TrustedConsensus = trusted
        self._trusted, self._hops = self._begin()
        """What someone who knows the genesis trusts after these hops."""
        self._decoded: OrderedDict[int, LightBlock] = OrderedDict()
        self._leading: dict[tuple[int, int], bool] = {}
        """Whether a hop leads to a block, by their heights."""
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._is_over = False
        self._thread: threading.Thread | None = None
        self.trouble = ""
        """Why none could be fetched; empty if it could."""
        self.on_final: list[Callable[[int], None]] = []
        """Called with the height of a block that has become final."""
        self.on_failure: Callable[[BaseException], None] | None = None
        """Called when fetching has ended for good; no block would become final any more."""
        ledger.find_finality = self.find_finality

    def _open_store(self) -> BlockLog:
        # Blocks a node has dropped were final before; those before a snapshot it never had.
        first = max(1, self._ledger.first_height)
        lost = self._ledger.base.height if self._ledger.base else 0
        return _open_store(self._ledger.folder / "light", first, lost)

    def _begin(self) -> tuple[TrustedConsensus, list[LightBlock]]:
        """Return the hops that a snapshot came with, and the trust they lead to."""
        path = self._ledger.folder / LIGHT_HOPS
        if not path.exists():
            return self._genesis_trust, []
        try:
            *hops, last = decode_consensus_finality(path.read_bytes()).hops
            reached = self._follow(self._genesis_trust, hops)
            trusted = self._follow(reached, [last])
        except ProofError as error:
            # A node that was told whom to trust, because the genesis is too old for that.
            _log.warning("%s: no way from the genesis: %s", path, error)
            return self._genesis_trust, []
        age_ms = (trusted.time_ns - reached.time_ns) // 1_000_000
        if trusted.validators != reached.validators or age_ms * 4 > reached.trusting_period_ms:
            hops.append(last)
        return trusted, hops

    def _follow_base(self) -> None:
        """Begin anew where the ledger has been restored from a snapshot."""
        base = self._ledger.base
        if base is None or base.height <= self.height:
            return
        with self._lock:
            self._store.close()
            self._store = self._open_store()
            self._decoded.clear()
            self._trusted, self._hops = self._begin()

    @property
    def height(self) -> int:
        """Of the newest light block; the block before it is final."""
        return self._store.height

    # Life.

    def start(self) -> None:
        """Publish what is final, and begin to fetch."""
        self._publish_at_start()
        self._thread = threading.Thread(target=self._guard, name="light-blocks", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Say that a block was committed."""
        self._wake.set()

    def stop(self) -> None:
        """Stop fetching and let go of the file."""
        self._is_over = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        self._store.close()

    def _guard(self) -> None:
        try:
            self._run()
        except BaseException as error:
            if self.on_failure is not None:
                self.on_failure(error)
            raise

    def _run(self) -> None:
        while not self._is_over:
            try:
                self._follow_base()
                while self.height < self._ledger.height and not self._is_over:
                    self._take(self._fetch(self.height + 1))
                self.trouble = ""
            except (RpcTrouble, Malformed, LightClientError) as error:
                # CometBFT starts later than we do, and may be restarted meanwhile.
                self.trouble = str(error)
            self._wake.wait(POLL_S)
            self._wake.clear()

    def _fetch(self, height: int) -> LightBlock:
        commit = self._rpc.commit(height)
        own = self._rpc.validators(height)
        following = self._rpc.validators(height + 1)
        block = light_block_from_rpc(commit, own, following)
        # What is kept is what proofs carry: votes that make the block final, and no others.
        signatures = tuple(
            vote if vote.flag == COMMIT else NO_VOTE for vote in block.commit.signatures
        )
        bare = replace(block, commit=replace(block.commit, signatures=signatures))
        verify_light_block(bare, self._chain_id)
        try:
            verify_commit(bare, self._chain_id, exact=True)
        except WrongSignature:
            # Of a cheat: the engine takes signatures that verifiers of proofs don't.
            bare = trim_commit(self._trusted, block, self._chain_id)
            verify_commit(bare, self._chain_id, exact=True)
        return bare

    def _take(self, block: LightBlock) -> None:
        self._store.append(block.height, encode(block))
        self._store.sync()
        self._reach(block)
        height = block.height - 1
        record = self._record_at(height)
        if record is not None:
            for part in record.chains:
                if part.header is not None:
                    self._publish(record, part.chain, part.header)
        for callback in self.on_final:
            callback(height)

    def _record_at(self, height: int) -> BlockRecord | None:
        base = self._ledger.base
        if base is not None and height <= base.height:
            return base if height == base.height else None
        return self._ledger.read_block(height)

    # What the genesis leads to.

    def _reach(self, block: LightBlock) -> None:
        """Note which light blocks someone who trusts the genesis needs on the way to this one."""
        consensus = self._trusted
        if block.height <= consensus.height:
            return  # Its hops came with the snapshot.
        age_ms = (block.header.time_ns - consensus.time_ns) // 1_000_000
        if age_ms * 2 < consensus.trusting_period_ms and block.validators == consensus.validators:
            return
        try:
            hops = self._find_way(block.height)
        except (LightClientError, ValueError) as error:
            _log.warning("no way from the genesis to light block %d: %s", block.height, error)
            return
        if age_ms * 2 < consensus.trusting_period_ms:
            hops = hops[:-1]
        self._trusted = self._follow(consensus, hops)
        # With every vote: who trusts other validators than we did may need others of them.
        self._hops += [self.get(hop.height) for hop in hops]

    def _find_way(self, height: int) -> tuple[LightBlock, ...]:
        return bisect(
            self._trusted,
            height,
            self.get,
            self._chain_id,
            now_ms=None,
            max_clock_drift_ms=MAX_DRIFT_MS,
        )

    def _follow(self, trusted: TrustedConsensus, hops: Sequence[LightBlock]) -> TrustedConsensus:
        return follow_all(
            trusted, hops, self._chain_id, now_ms=None, max_clock_drift_ms=MAX_DRIFT_MS
        )

    # Publishing.

    def _publish(self, record: BlockRecord, chain: str, header: Header) -> None:
        finality = self.find_finality(record, chain)
        if finality is not None:
            self._ledger.published[chain] = FinalHeader(header=encode(header), finality=finality)

    def _publish_at_start(self) -> None:
        """Publish of each chain the newest header that is final."""
        for height in range(self._store.first_height, self.height + 1):
            self._reach(self.get(height))
        first = self._ledger.base.height if self._ledger.base else 0
        newest = min(self.height - 1, self._ledger.height)
        for name, chain in self._ledger.chains.items():
            # From its own last header on: a chain may have rested for a million blocks.
            height = max(first, min(newest, chain.header.height))
            while height >= first and not self._publish_from(height, name):
                height -= 1

    def _publish_from(self, height: int, chain: str) -> bool:
        """Publish a chain's header of a block, if it has one there."""
        record = self._record_at(height)
        for part in record.chains if record else ():
            if part.chain == chain and part.header is not None:
                assert record is not None
                self._publish(record, chain, part.header)
                return True
        return False

    def find_finality(self, record: BlockRecord, chain: str) -> bytes | None:
        """Return what makes a chain's header of a block final; None while nothing does."""
        height = record.height + 1
        if not self._store.first_height <= height <= self.height:
            return None
        app_hashes = {part.chain: part.app_hash for part in record.chains}
        return make_consensus_finality(self._lead_to(self.get(height)), app_hashes, chain)

    def _lead_to(self, block: LightBlock) -> list[LightBlock]:
        """Return the hops from the genesis to a block, and the block.

        A hop found later, on the way to a newer block, may lead past this one, which those before
        it reach.
        """
        hops = [hop for hop in list(self._hops) if hop.height < block.height]
        while hops and not self._leads(hops[-1], block):
            hops.pop()
        return [*hops[1 - MAX_HOPS :], block]

    def _leads(self, hop: LightBlock, block: LightBlock) -> bool:
        pair = (hop.height, block.height)
        known = self._leading.get(pair)
        if known is None:
            if len(self._leading) >= KEPT_DECODED:
                self._leading.clear()
            known = self._leading[pair] = self._judge_lead(hop, block)
        return known

    def _judge_lead(self, hop: LightBlock, block: LightBlock) -> bool:
        trust = trust_block(hop, self._genesis_trust.trusting_period_ms)
        if trust.validators == block.validators:
            return True
        try:
            self._follow(trust, [block])
        except LightClientError:
            return False
        return True

    def get(self, height: int) -> LightBlock:
        """Return a light block that is kept.

        Raises: ValueError for a height that is not.
        """
        with self._lock:
            block = self._decoded.get(height)
            if block is None:
                if not self._store.first_height <= height <= self._store.height:
                    raise ValueError(
                        f"height: expected {self._store.first_height} to {self._store.height}, "
                        f"got {height}"
                    )
                block = self._decoded[height] = decode_light_block(self._store.read(height))
                if len(self._decoded) > KEPT_DECODED:
                    self._decoded.popitem(last=False)
            return block


def _open_store(folder: Path, first_height: int, lost_height: int) -> BlockLog:
    """Open the file of light blocks; one that is damaged is fetched again from CometBFT.

    So is one that ends at ``lost_height`` or before, for it can't be continued.
    """
    try:
        if folder.exists():
            store = BlockLog(folder)
            if store.height > lost_height:
                return store
            store.close()
            shutil.rmtree(folder)
    except (DamagedBlockLog, ValueError) as error:
        _log.warning("%s: is fetched again: %s", folder, error)
        shutil.rmtree(folder)
    return BlockLog(folder, first_height=first_height)
