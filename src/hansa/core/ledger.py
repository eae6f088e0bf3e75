"""All chains of a network on one machine: blocks in, durable blocks out, the same after a crash."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec

from hansa.core.apply import AppliedBlock, apply_block
from hansa.core.block import (
    BlockRecord,
    ChainRecord,
    Header,
    compute_network_hash,
    decode_block_record,
    decode_header,
    list_entries,
)
from hansa.core.chain import Chain
from hansa.core.codec import encode
from hansa.core.errors import Malformed, NotThere, OperatorError
from hansa.core.finality import CheckpointSigner, FinalHeader
from hansa.core.genesis import Genesis, compute_network_id
from hansa.core.module import DEADLINES_INDEX, Rulebook
from hansa.core.restoration import make_base, settle_restoration
from hansa.core.stateroot import compute_state_root
from hansa.core.tilelog import EdgeError, TileLog
from hansa.core.transaction import Transaction
from hansa.storage.blocklog import BlockLog
from hansa.storage.kv import Snapshot, StateStore
from hansa.storage.tiles import TileStore

FLUSH_KEYS: Final = 50_000
"""Written keys that may wait in memory before the state store takes them."""

FLUSH_BLOCKS: Final = 2_000
"""Blocks that a restart may have to replay."""

Submission = tuple[Transaction, bool]
"""A transaction and the verdict on its signatures."""


@dataclass(frozen=True)
class NetworkBlock:
    """A block of the network as applied, and as it is made durable."""

    height: int
    time_ms: int
    chains: Mapping[str, AppliedBlock]
    record: BlockRecord

    @property
    def is_empty(self) -> bool:
        """Nothing happened on any chain."""
        return all(applied.log is None for applied in self.chains.values())


class Ledger:
    """The core object that an engine drives.

    The block log is what is durable. State store and tiles may lag behind it; opening replays what
    they lack, through the same code that ran it first.
    """

    def __init__(
        self, folder: Path, genesis: Genesis, rulebooks: Mapping[str, Rulebook],
        signer: CheckpointSigner | None, *, on_replay: Callable[[int, int], None] | None = None,
    ) -> None:  # fmt: skip
        self.folder = folder
        self.genesis = genesis
        self.network = compute_network_id(genesis)
        self._signer = signer
        self._roots: dict[int, Future[dict[str, bytes]]] = {}
        self._rooting = ThreadPoolExecutor(1, "state-root")
        self._unflushed_blocks = 0
        self._finality: dict[str, bytes] = {}
        self.height = -1
        self.time_ms = genesis.time_ms
        self.replayed = 0
        """Blocks that opening had to run again."""
        self.published: dict[str, FinalHeader] = {}
        """The newest durable header of each chain, and what makes it final."""
        self.find_finality: Callable[[BlockRecord, str], bytes | None] = find_recorded_finality
        """What makes a chain's header of a block final; None while nothing does. An engine whose
        blocks are final by consensus puts its own way in this place."""
        self.chains: dict[str, Chain] = {}
        settle_restoration(folder)
        self._open(rulebooks, on_replay)

    # Opening.

    def _open(
        self, rulebooks: Mapping[str, Rulebook], on_replay: Callable[[int, int], None] | None
    ) -> None:
        self.store = StateStore(self.folder / "state")
        try:
            base = self.store.get_meta(b"base")
            self.base: BlockRecord | None = decode_block_record(base) if base else None
            """What stands for the block before the first in the block log: headers alone. None
            where the log begins with the genesis."""
            self.block_log = self._open_block_log()
        except BaseException:
            self.store.close()
            raise
        try:
            self._check_network()
            for ordinal, start in enumerate(self.genesis.chains):
                fresh = self._open_chain(ordinal, rulebooks[start.name])
                # Those who hold a chain go on to hold it when another state takes its place.
                vars(self.chains.setdefault(start.name, fresh)).update(vars(fresh))
            self.height = self.store.height - 1
            self._catch_up(on_replay)
        except (EdgeError, Malformed, msgspec.DecodeError) as error:
            self._let_go()
            raise OperatorError(
                f"{self.folder}/state: expected what a node of this release has flushed, got other "
                f"bytes ({error}); remove this folder and start again: the state is replayed from "
                f"the block log"
            ) from error
        except BaseException:
            self._let_go()
            raise

    def _open_block_log(self) -> BlockLog:
        log = BlockLog(self.folder / "blocks")
        if log.height > 0 or self.base is None:
            return log
        log.close()
        return BlockLog(self.folder / "blocks", first_height=self.base.height + 2)

    def _check_network(self) -> None:
        stored = self.store.get_meta(b"network")
        if stored is not None and stored != self.network:
            raise OperatorError(
                f"{self.folder}: expected state of network {self.network.hex()}, got "
                f"{stored.hex()}; this folder belongs to another genesis"
            )
        if self.store.height > self.block_log.height:
            raise OperatorError(
                f"{self.folder}/state stands at record {self.store.height}, expected at most "
                f"{self.block_log.height} as in {self.folder}/blocks: the block log has lost its "
                f"end; restore it, or remove the state folder to replay what is left"
            )
        begin = self.base.height + 1 if self.base else 0
        if self.first_height > begin:
            raise OperatorError(
                f"{self.folder}/blocks: expected a block log from height {begin} on, got one from "
                f"{self.first_height} on, as a node has that began from a snapshot or dropped old "
                f"blocks: its state can't be replayed; restore {self.folder}/state from a backup, "
                f"or remove {self.folder} and join again"
            )
        if time := self.store.get_meta(b"time"):
            self.time_ms = int.from_bytes(time, "big")

    def _open_published(self, chain: str) -> None:
        header = self.store.get_meta(b"header/" + chain.encode())
        finality = self.store.get_meta(b"finality/" + chain.encode())
        if header is not None and finality:
            self.published[chain] = FinalHeader(header=header, finality=finality)
            self._finality[chain] = finality

    def _open_chain(self, ordinal: int, rulebook: Rulebook) -> Chain:
        start = self.genesis.chains[ordinal]
        meta = start.name.encode()
        header_bytes = self.store.get_meta(b"header/" + meta)
        self._open_published(start.name)
        tiles = self._open_tiles(start.name)
        prefix = bytes((ordinal,)) + DEADLINES_INDEX.prefix
        return Chain(
            start,
            rulebook,
            network=self.network,
            consortium=self.genesis.consortium,
            ordinal=ordinal,
            store=self.store,
            log=TileLog(
                tiles,
                self.store.get_meta(b"edge/" + meta),
                begin=self._begin_of(start.name).size,
                repair=lambda: self.rebuild_tiles(start.name),
            ),
            header=decode_header(header_bytes) if header_bytes else None,
            app_hash=self.store.get_meta(b"app/" + meta) or self.network,
            deadlines=[key[3:] for key, _ in self.store.scan(prefix)],
            state_roots=lambda height: self._state_root_at(start.name, height),
        )

    def _catch_up(self, on_replay: Callable[[int, int], None] | None) -> None:
        # Blocks behind the state are not replayed. A damaged one among them would be met by whoever
        # asks for it some day, and by then no other copy may be left to restore it from.
        for _ in self.block_log.verify():
            pass
        for name, chain in self.chains.items():
            if chain.log.find_damaged():
                self.rebuild_tiles(name)
        if self.block_log.height == 0:
            block = self.apply(self.genesis.time_ms, {})
            self.commit(block)
            self.block_log.sync()
            self.publish(block)
        elif self.height >= 0 and self.height % self.genesis.state_root_interval == 0:
            self._roots[self.height] = self._rooting.submit(
                self._compute_roots, self.store.snapshot()
            )  # The crash came between the flush and the root of its snapshot.
        last = self.block_log.height - 1
        while self.height < last:
            self.replay(self.read_block(self.height + 1))
            self.replayed += 1
            if on_replay:
                on_replay(self.height, last)

    def _begin_of(self, chain: str) -> TileLog:
        """Return a chain's log as it was before the first block in the block log."""
        return TileLog(self._open_tiles(chain), self.store.get_meta(b"begin/" + chain.encode()))

    def _open_tiles(self, chain: str) -> TileStore:
        # Tiles are not synced, and are written before their block is durable: after a power failure
        # some may be torn or missing, and others may belong to a block that was lost and whose
        # place another block takes. The block log is what counts.
        tiles = TileStore(self.folder / "tiles" / chain)
        tiles.may_replace = True
        return tiles

    def rebuild_tiles(self, name: str) -> None:
        """Derive all full tiles of a chain again from the block log, replacing those that differ.

        Raises: OperatorError if the block log leads to another root than its own headers state.
        """
        size = self.chains[name].log.size
        scratch = self._begin_of(name)
        blocks = self.iterate_blocks(self.base.height + 1 if self.base else 0)
        while scratch.size < size:
            part = next(part for part in next(blocks).chains if part.chain == name)
            if part.header is None:
                continue
            scratch.append(list_entries(part))
            if (scratch.size, scratch.root()) != (part.header.log_size, part.header.log_root):
                raise OperatorError(
                    f"{self.folder}/blocks: expected log root {part.header.log_root.hex()} of "
                    f"chain {name} at height {part.header.height}, got {scratch.root().hex()}; "
                    f"this block log was altered: restore it from a backup or another node"
                )

    def replay(self, record: BlockRecord) -> NetworkBlock:
        """Run a durable block again and take its effects.

        Raises: OperatorError if it comes out otherwise than it was recorded.
        """
        submissions = {
            part.chain: [
                (self.chains[part.chain].decode_transaction(envelope), True)
                for envelope in part.envelopes
            ]
            for part in record.chains
        }
        block = self.apply(record.time_ms, submissions)
        if block.record.network_hash != record.network_hash:
            raise OperatorError(
                f"replay of block {record.height}: expected network hash "
                f"{record.network_hash.hex()}, got {block.record.network_hash.hex()}; this release "
                f"and the one that made the block disagree, or the state folder was altered: "
                f"remove {self.folder}/state to replay from the genesis"
            )
        recorded = NetworkBlock(block.height, block.time_ms, block.chains, record)
        self._adopt(recorded)
        self.publish(recorded)
        return recorded

    # Blocks.

    def apply(self, time_ms: int, submissions: Mapping[str, Sequence[Submission]]) -> NetworkBlock:
        """Run the next block on all chains; nothing is in force until :meth:`commit`.

        Block time never goes back: a clock that does is overruled. An exception that is not a
        rule's stops everything with the block untouched.
        """
        height = self.height + 1
        time_ms = max(time_ms, self.time_ms)
        applied: dict[str, AppliedBlock] = {}
        try:
            for name, chain in self.chains.items():
                applied[name] = apply_block(
                    chain,
                    height,
                    time_ms,
                    submissions.get(name, ()),
                    # A new node judges the state it is given by the headers in force.
                    shows_roots=bool(self.genesis.consensus),
                )
        except BaseException:
            for chain in self.chains.values():
                chain.drop_block()
            raise
        parts = tuple(self._make_chain_record(name, block) for name, block in applied.items())
        hashes = [(name, block.app_hash) for name, block in applied.items()]
        record = BlockRecord(
            version=1,
            height=height,
            time_ms=time_ms,
            network_hash=compute_network_hash(hashes),
            chains=parts,
        )
        return NetworkBlock(height, time_ms, applied, record)

    def _make_chain_record(self, name: str, applied: AppliedBlock) -> ChainRecord:
        is_active = applied.log is not None
        finality = b""
        if is_active and self._signer is not None:
            finality = self._signer.sign(applied.header, applied.app_hash)
        return ChainRecord(
            chain=name,
            app_hash=applied.app_hash,
            header=applied.header if is_active else None,
            envelopes=tuple(
                verdict.transaction.envelope for verdict in applied.verdicts if verdict.transaction
            ),
            receipts=tuple(verdict.receipt_bytes for verdict in applied.verdicts),
            pages=tuple(applied.pages),
            finality=finality,
        )

    def discard(self) -> None:
        """Forget an applied block that is not to be committed."""
        for chain in self.chains.values():
            chain.drop_block()

    def commit(self, block: NetworkBlock) -> None:
        """Append a block to the block log and take its effects in memory.

        It may be acknowledged only after ``block_log.sync()`` has returned.
        """
        self.block_log.append(block.height + 1, encode(block.record))
        self._adopt(block)

    def _adopt(self, block: NetworkBlock) -> None:
        for name, applied in block.chains.items():
            self.chains[name].adopt(applied)
        for part in block.record.chains:
            if part.header is not None:
                self._finality[part.chain] = part.finality
        self.height = block.height
        self.time_ms = block.time_ms
        self._unflushed_blocks += 1
        if self.height % self.genesis.state_root_interval == 0:
            self._start_state_roots()
        elif self._unflushed_blocks >= FLUSH_BLOCKS or self._unflushed_keys >= FLUSH_KEYS:
            self.flush()

    def publish(self, block: NetworkBlock) -> None:
        """Let a block that has become durable be served: its headers are what proofs lead to.

        Where consensus makes a block final, the engine publishes it once the next one shows that.
        """
        for part in block.record.chains:
            if part.header is not None and part.finality:
                self.published[part.chain] = FinalHeader(
                    header=encode(part.header), finality=part.finality
                )

    # Reading.

    def read_block(self, height: int) -> BlockRecord:
        """Return a durable block: record height + 1 of the block log, which counts from 1.

        Raises: NotThere for a block before those this node has; KeyError for one to come.
        """
        if height < self.first_height:
            raise NotThere(
                f"height: expected one from {self.first_height} on, where this node begins, got "
                f"{height}; ask a node that keeps older blocks"
            )
        return decode_block_record(self.block_log.read(height + 1))

    def iterate_blocks(self, first_height: int) -> Iterator[BlockRecord]:
        """Yield the durable blocks from a height on, which must be kept here."""
        for _, payload in self.block_log.iterate(first_height + 1):
            yield decode_block_record(payload)

    def next_deadline_ms(self) -> int | None:
        """Return the earliest deadline on any chain, or None."""
        times = [chain.next_deadline_ms() for chain in self.chains.values()]
        return min((time for time in times if time is not None), default=None)

    @property
    def first_height(self) -> int:
        """The oldest block in the block log; 0 unless this node began from a snapshot, or has
        dropped old ones."""
        return self.block_log.first_height - 1

    @property
    def network_hash(self) -> bytes:
        """The root over the app_hash of every chain: 32 bytes."""
        return compute_network_hash([(name, one.app_hash) for name, one in self.chains.items()])

    @property
    def header_by_chain(self) -> dict[str, Header]:
        """The headers in force."""
        return {name: chain.header for name, chain in self.chains.items()}

    # The state store, which lags.

    @property
    def _unflushed_keys(self) -> int:
        return sum(chain.state.unflushed_count for chain in self.chains.values())

    def flush(self) -> None:
        """Bring the state store to the present height, in one atomic commit.

        The block log must be durable to this height first, or the state could outlive its block.
        """
        self.block_log.sync()
        writes = [pair for chain in self.chains.values() for pair in chain.state.unflushed_writes()]
        writes.sort()
        meta = {b"network": self.network, b"time": self.time_ms.to_bytes(8, "big")}
        for name, chain in self.chains.items():
            key = name.encode()
            meta[b"edge/" + key] = chain.log.edge()
            meta[b"header/" + key] = encode(chain.header)
            meta[b"app/" + key] = chain.app_hash
            meta[b"finality/" + key] = self._finality.get(name, b"")
        for height, roots in self._roots.items():
            for name, root in roots.result().items():
                meta[b"root/" + name.encode() + height.to_bytes(8, "big")] = root
        self.store.commit(writes, height=self.height + 1, meta=meta)
        for chain in self.chains.values():
            chain.state.mark_flushed()
        self._unflushed_blocks = 0

    def _start_state_roots(self) -> None:
        """Flush, then root a snapshot beside the path; the flush after this waits for the roots."""
        self.flush()
        height = self.height
        for old in [h for h in self._roots if h < height - self.genesis.state_root_interval]:
            del self._roots[old]
        self._roots[height] = self._rooting.submit(self._compute_roots, self.store.snapshot())

    def _compute_roots(self, snapshot: Snapshot) -> dict[str, bytes]:
        with snapshot:
            return {
                name: compute_state_root(
                    (key[1:], value) for key, value in snapshot.scan(chain.prefix)
                )
                for name, chain in self.chains.items()
            }

    def _state_root_at(self, chain: str, height: int) -> tuple[int, bytes]:
        """Return the root a header of this height carries, and the height it was taken at."""
        interval, delay = self.genesis.state_root_interval, self.genesis.state_root_delay
        taken_at = (height - delay) // interval * interval
        if height < delay or taken_at < 0 or height == 0:
            return 0, bytes(32)
        if future := self._roots.get(taken_at):
            return taken_at, future.result()[chain]
        stored = self.store.get_meta(b"root/" + chain.encode() + taken_at.to_bytes(8, "big"))
        assert stored is not None, f"state root of block {taken_at} was never stored"
        return taken_at, stored

    # Beginning later than the genesis.

    def restore(self) -> None:
        """Go on as the ledger that :class:`Restoration` has finished beside this one.

        Chains and all that hold them stay; whoever follows the blocks finds them to begin after
        ``base``. Call it where no block runs. Raises: StorageError, OperatorError.
        """
        rulebooks = {name: chain.rulebook for name, chain in self.chains.items()}
        for roots in self._roots.values():
            roots.result()
        self._roots.clear()
        self._finality.clear()
        self.published.clear()
        self._unflushed_blocks = 0
        self.store.close()
        self.block_log.close()
        settle_restoration(self.folder)
        self._open(rulebooks, None)

    def prune(self, below_height: int) -> int:
        """Drop whole files of blocks below a height; returns the first height that is left.

        The caller sees to it that nobody needs those blocks: neither the read model, nor snapshots,
        nor proofs. The state of this node can't be replayed from the genesis any more. Call it
        where no block runs. Raises: StorageError.
        """
        flushed = self.store.height - 1
        first = self.block_log.first_height_without(min(below_height, flushed) + 1) - 1
        if first <= self.first_height:
            return self.first_height
        base = make_base(first - 1, self._headers_before(first))
        meta = {b"base": encode(base)}
        for part in base.chains:
            assert part.header is not None
            edge = self.chains[part.chain].log.edge_at(part.header.log_size)
            meta[b"begin/" + part.chain.encode()] = edge
        self.store.commit([], height=self.store.height, meta=meta)
        self.base = base
        for name, chain in self.chains.items():
            chain.log.begin = self._begin_of(name).size
        self.block_log.drop_below(first + 1)
        return first

    def _headers_before(self, height: int) -> list[Header]:
        """Return the headers in force before a block, from those before the first in the log on."""
        parts = {part.chain: part.header for part in self.base.chains} if self.base else {}
        first = self.first_height
        for record in islice(self.iterate_blocks(first), height - first):
            parts |= {part.chain: part.header for part in record.chains if part.header is not None}
        return [header for name in self.chains if (header := parts[name]) is not None]

    def close(self) -> None:
        """Bring the state store up to date and let go of the files."""
        try:
            if self.block_log.failed is None and self.store.failed is None:
                self.flush()
        finally:
            self._let_go()

    def _let_go(self) -> None:
        self._rooting.shutdown(wait=True)
        self.store.close()
        self.block_log.close()


def find_recorded_finality(record: BlockRecord, chain: str) -> bytes | None:
    """Return the finality proof that was written with a block; None where there is none."""
    return next((part.finality for part in record.chains if part.chain == chain), b"") or None
