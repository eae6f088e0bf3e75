"""The node: one process that hosts all chains of a network on a home folder."""

import errno
import gc
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final, TypeVar

import sqlalchemy as sa

from hansa.core.apply import get_sequence
from hansa.core.block import BlockRecord, ChainRecord, compute_app_hash, decode_header
from hansa.core.codec import encode
from hansa.core.errors import Numbered, OperatorError
from hansa.core.finality import CheckpointSigner, FinalHeader, make_verifier_key, note_of
from hansa.core.keystore import KeyStore
from hansa.core.ledger import Ledger, NetworkBlock
from hansa.core.proof import pack_bundle
from hansa.core.prover import (
    Delivery,
    NotFinal,
    NotThere,
    Place,
    make_delivery,
    prove_places,
)
from hansa.core.readmodel import Kind, ReadModel, make_outbox_row
from hansa.core.tilelog import ENTRIES, TilePath
from hansa.core.transaction import Message
from hansa.network.comet.engine import CometEngine, CometTerms, Halted
from hansa.network.comet.lightblocks import LightBlocks
from hansa.network.intake import Engine, EngineStopped, Inclusion, Settled
from hansa.network.relay import Relay
from hansa.network.solo import SoloEngine
from hansa.node.composition import VIEWS, make_rulebook
from hansa.node.double_votes import DoubleVotes
from hansa.node.home import NodeConfig, load_config, load_genesis
from hansa.node.relay_end import LocalEnd, group_pages
from hansa.storage.errors import StorageError
from hansa.storage.lock import HomeLock
from hansa.storage.sql import open_engine, show_database

T = TypeVar("T")

REBUILD_BLOCKS: Final = 100
"""From so many blocks on, an empty read model is filled before it is indexed."""

REBUILD_GROUPS: Final = 5
REBUILD_RECEIPTS: Final = 50_000
"""Groups of blocks in one SQL transaction, and receipts in a group, while an empty read model is
filled: the more at a time, the fewer rows of an object are written that the next one replaces."""

PROJECTED_BLOCKS: Final = 64
PROJECTED_RECEIPTS: Final = 10_000
"""Blocks and receipts after which the read model closes an SQL transaction."""

MAX_LAG_BLOCKS: Final = 100
MAX_LAG_MS: Final = 3_000
"""How far the read model may fall behind while transactions are waiting."""

GC_ALLOCATIONS: Final = 50_000
"""New objects after which the youngest generation is collected; Python's default is 700."""

BUSY_WAITING: Final = 256
"""Unanswered transactions from which on the engine goes before the read model."""

BUSY_REST_S: Final = 2.0
"""How long after a full block the engine still goes first."""

PROJECTOR_REST_S: Final = 0.1

FINAL_WAIT_S: Final = 30.0
"""How long a proof waits for the block that makes its entries final."""

RELAY_PATIENCE_S: Final = 5.0
"""How long stopping waits for the relay's round; a network that halts answers nobody."""

READ_MODEL: Final = "readmodel.db"

_log = logging.getLogger(__name__)

KEPT_BLOCKS: Final = 256
KEPT_BYTES: Final = 32 * 1024 * 1024
"""Durable blocks kept in memory for the read model and the relay; older ones are read again."""


def system_clock() -> int:
    """Return the machine's time in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class Node:
    """One process that hosts all chains of a network on a home folder.

    Opening it takes the lock and brings ledger and read model to the last durable block; it answers
    questions then. ``start`` lets it take transactions.
    """

    def __init__(
        self,
        home: Path,
        *,
        keys: KeyStore,
        clock: Callable[[], int] = system_clock,
        config: NodeConfig | None = None,
        on_progress: Callable[[str, int, int], None] | None = None,
        purpose: str = "node",
    ) -> None:
        self.home = home
        self.genesis = load_genesis(home)
        self.config = config or load_config(home)
        self.keys = keys
        self._progress = on_progress or (lambda _what, _done, _total: None)
        self._lock = HomeLock(home, purpose)
        try:
            self._open(clock)
        except BaseException:
            self._lock.release()
            raise

    def _open(self, clock: Callable[[], int]) -> None:
        self._signer = CheckpointSigner(self.keys.get_secret("validator"))
        is_known = self._signer.public in self.genesis.validators
        if not is_known and not self.genesis.consensus:
            raise OperatorError(
                f"key 'validator': expected one of the genesis, got {self._signer.public.hex()}"
            )
        try:
            self.rulebooks = {one.name: make_rulebook(one.name) for one in self.genesis.chains}
        except OperatorError as error:
            raise OperatorError(f"{self.home / 'genesis.bin'}: {error}") from None
        self.ledger = Ledger(
            self.home / "ledger",
            self.genesis,
            self.rulebooks,
            None if self.genesis.consensus else self._signer,
            on_replay=lambda done, total: self._progress("replaying blocks", done, total),
        )
        self.network = self.ledger.network
        self._final_condition = threading.Condition()
        self._awaited: list[tuple[str, int, Future[None]]] = []
        """Chain and log size that somebody waits to become final, and how he is told."""
        self.double_votes: DoubleVotes | None = None
        self.light_blocks: LightBlocks | None = None
        try:
            self.engine = self._make_engine(clock)
        except BaseException:
            self.ledger.close()
            raise
        self.engine.on_block.append(self._take_block)
        self.on_projected: list[Callable[[int], None]] = []
        self._recent: dict[int, BlockRecord] = {}
        self._recent_bytes = 0
        self._sent_ends: dict[tuple[str, str], int] = {}
        self._sent: dict[tuple[str, str], deque[dict[str, Any]]] = {}
        self._projected = threading.Condition()
        self._projector: threading.Thread | None = None
        self._stopping = False
        self._busy_until_s = 0.0
        self._readers_waiting = 0
        self.projection_failed: BaseException | None = None
        self.relay: Relay | None = None
        if cut := self.ledger.block_log.truncated:
            _log.warning(
                "%s: cut off %d bytes at offset %d, the end of a write that was never "
                "acknowledged: %s", cut.file, cut.bytes_cut, cut.offset, cut.why,
            )  # fmt: skip
        try:
            self._open_read_model()
        except BaseException:
            self.ledger.close()
            raise

    def _make_engine(self, clock: Callable[[], int]) -> Engine:
        """Return the engine that the genesis asks for."""
        comet, max_waiting = self.config.comet, self.config.max_waiting
        if not self.genesis.consensus:
            return SoloEngine(self.ledger, clock=clock, max_waiting=max_waiting)
        if comet is None:
            raise OperatorError(
                f"{self.home / 'config.json'}: expected how CometBFT is run, under 'comet', for "
                f"the genesis names {len(self.genesis.consensus)} validators; got nothing"
            )
        terms = CometTerms(
            home=self.home / "comet",
            settings=comet.settings,
            is_ours=comet.is_ours,
            socket=Path(comet.socket) if comet.socket else None,
            verifiers=comet.verifiers,
            halt_height=comet.halt_height,
            kept_blocks=comet.kept_blocks,
            snapshots=comet.snapshots,
        )
        engine = CometEngine(self.ledger, terms, clock=clock, max_waiting=max_waiting)
        self.light_blocks = engine.light_blocks
        engine.readers.append(lambda: self.read_model.height)
        self.light_blocks.on_final.append(self._take_final)
        self.double_votes = DoubleVotes(self, engine.rpc)
        engine.on_misbehaviour.append(self.double_votes.note)
        return engine

    def _take_final(self, _: int) -> None:
        with self._final_condition:
            self._final_condition.notify_all()
            awaited = self._awaited
            self._awaited = [
                one for one in awaited if self._final_size(one[0]) < one[1] and not one[2].done()
            ]
        for chain, log_size, told in awaited:
            if self._final_size(chain) >= log_size and not told.done():
                told.set_result(None)
        if self.relay is not None:
            self.relay.wake()

    def _open_read_model(self) -> None:
        """Open the read model and bring it to the last block; a damaged file is built again."""
        try:
            self._load_read_model()
        except sa.exc.DatabaseError as error:
            # Those derived from it are of the disk and of locks: no reason to throw a file away.
            if self.config.read_model or type(error) is not sa.exc.DatabaseError:
                raise OperatorError(
                    f"{show_database(self.config.read_model or self.home / READ_MODEL)}: expected "
                    f"a database that can be written, got {error.orig}; make room or mend that, "
                    f"then start again"
                ) from error
            path = self.home / READ_MODEL
            _log.warning(
                "%s: damaged (%s), is built again from the block log", path, error.orig
            )  # fmt: skip
            for suffix in ("", "-wal", "-shm"):
                path.with_name(READ_MODEL + suffix).unlink(missing_ok=True)
            self._load_read_model()

    def _load_read_model(self) -> None:
        hosted = {module.name for book in self.rulebooks.values() for module in book.modules}
        views = {name: view for name, view in VIEWS.items() if name in hosted}
        engine = open_engine(self.config.read_model or self.home / READ_MODEL)
        try:
            self.read_model = ReadModel(engine, self.ledger.chains, views)
            if self.read_model.height > self.ledger.height:
                self.read_model.reset()  # It belongs to a history that was never acknowledged.
            self.project_pending()
        except BaseException:
            engine.dispose()
            raise

    # What it is made of, by name.

    @property
    def is_sandbox(self) -> bool:
        """Whether one key store plays every party."""
        return self.genesis.is_sandbox

    @property
    def kinds(self) -> dict[str, Kind]:
        """The kinds of object that can be listed, by singular name."""
        return self.read_model.kinds

    @property
    def messages(self) -> dict[str, dict[str, type[Message]]]:
        """The messages of each chain by name: ``orders.place``."""
        return {
            chain: {
                name: cls for module in book.modules for name, cls in module.message_names().items()
            }
            for chain, book in self.rulebooks.items()
        }

    @property
    def errors(self) -> dict[int, type[Numbered]]:
        """Every numbered error of the modules hosted."""
        return {
            error.number: error
            for book in self.rulebooks.values()
            for module in book.modules
            for error in module.errors
        }

    # Life.

    def start(self) -> None:
        """Begin to take transactions, project and relay."""
        # Thousands of transactions in flight would have the collector walk over all that was ever
        # imported, again and again; nothing of it is garbage.
        gc.freeze()
        gc.set_threshold(GC_ALLOCATIONS, *gc.get_threshold()[1:])
        self.engine.start()
        if self.double_votes is not None:
            self.double_votes.start()
        self._projector = threading.Thread(
            target=self._run_projector, name="projector", daemon=True
        )
        self._projector.start()
        if self.config.runs_relay and len(self.genesis.chains) > 1:
            self.relay = Relay({name: LocalEnd(self, name) for name in self.ledger.chains})
            self.relay.start()
            self.relay.wake()

    def stop(self) -> None:
        """Finish what was taken, bring everything to the last block, let go of the home."""
        if self.relay is not None:
            self.relay.stop(RELAY_PATIENCE_S)
        self.engine.stop()
        if self.relay is not None:
            self.relay.stop()
        if self.double_votes is not None:
            self.double_votes.stop()
        with self._projected:
            self._stopping = True
            self._projected.notify_all()
        if self._projector is not None:
            self._projector.join()
        try:
            if self.projection_failed is None:
                self.project_pending()
        finally:
            self._let_go()
            # What stays frozen is never taken apart at exit; a library that counts would complain.
            gc.unfreeze()

    def _let_go(self) -> None:
        self.read_model.engine.dispose()
        try:
            self.ledger.close()
        finally:
            self._lock.release()

    def __enter__(self) -> "Node":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # Submitting.

    def submit(self, chain: str, envelope: bytes) -> "Future[Inclusion]":
        """Queue a transaction; see :meth:`SoloEngine.submit`."""
        return self.engine.submit(chain, envelope)

    def submit_batch(self, chain: str, envelopes: Sequence[bytes]) -> "Future[list[Settled]]":
        """Queue transactions in order; see :meth:`SoloEngine.submit_batch`."""
        return self.engine.submit_batch(chain, envelopes)

    def call(self, function: Callable[[], T]) -> T:
        """Run a function between two blocks, where it may read the state of any chain."""
        return self.engine.call(function)

    def get_sequence(self, chain: str, account: bytes, lane: int = 0) -> int:
        """Return the sequence an account must use next on a lane.

        Raises: NotThere for a chain that isn't hosted here.
        """
        if chain not in self.ledger.chains:
            raise NotThere(f"chain: expected one of {', '.join(self.ledger.chains)}, got {chain}")
        return self.call(lambda: get_sequence(self.ledger.chains[chain], account, lane))

    # The read model follows.

    def _take_block(self, block: NetworkBlock) -> None:
        if sum(len(part.receipts) for part in block.record.chains) >= BUSY_WAITING:
            self._busy_until_s = time.monotonic() + BUSY_REST_S
        for part in block.record.chains:
            for number, page in enumerate(part.pages):
                sent = self._sent.setdefault((part.chain, page.destination), deque())
                sent.append(make_outbox_row(part.chain, block.height, number, page))
                self._sent_ends[part.chain, page.destination] = page.first + len(page.items)
                while sent[0]["height"] <= block.height - KEPT_BLOCKS:
                    sent.popleft()
        with self._projected:
            self._recent[block.height] = block.record
            self._recent_bytes += size_of(block.record)
            while self._recent_bytes > KEPT_BYTES or len(self._recent) > KEPT_BLOCKS:
                self._recent_bytes -= size_of(self._recent.pop(next(iter(self._recent))))
            self._projected.notify_all()
        if self.relay is not None:
            self.relay.wake()

    def get_outbox(
        self, chain: str, destination: str, first: int, limit: int
    ) -> list[dict[str, Any]]:
        """Return the pages with items from sequence ``first`` on: from memory if all are recent.

        The relay must not wait for the read model, which may lag under a burst, nor ask it at every
        turn for what is not there.
        """
        if first >= self._get_sent_end(chain, destination):
            return []
        sent = list(self._sent.get((chain, destination), ()))
        if sent and sent[0]["first"] <= first:
            return [row for row in sent if row["end"] > first][:limit]
        return self.read_model.get_outbox(chain, destination, first, limit)

    def get_deliveries(
        self, chain: str, destination: str, first: int, limit: int, min_age_ms: int = 0
    ) -> list[Delivery]:
        """Return what makes a destination believe items from a sequence on; final blocks alone.

        With ``min_age_ms``, only blocks that are so old.
        """
        deliveries: list[Delivery] = []
        rows = self.get_outbox(chain, destination, first, limit)
        for height, pages in group_pages(rows):
            record = self.read_block(height)
            if min_age_ms and record.time_ms + min_age_ms > self.engine.clock():
                break
            try:
                deliveries.append(make_delivery(self.ledger, record, chain, pages))
            except NotFinal:
                break
        return deliveries

    def _get_sent_end(self, chain: str, destination: str) -> int:
        """Return the sequence after the last item ever sent; the read model knows what was there
        when the node was opened, the blocks since then say it themselves."""
        end = self._sent_ends.get((chain, destination))
        if end is None:
            end = self.read_model.get_outbox_end(chain, destination)
            end = self._sent_ends.setdefault((chain, destination), end)
        return end

    def read_block(self, height: int) -> BlockRecord:
        """Return a durable block, from memory if it is recent."""
        return self._recent.get(height) or self.ledger.read_block(height)

    def project_pending(self) -> None:
        """Bring the read model to the last durable block, in the calling thread.

        On a node that began from a snapshot it begins there: it knows what has happened since.
        """
        base = self.ledger.base
        if base is not None and self.read_model.height < base.height:
            self.read_model.begin_after(base.height)
        total = self.ledger.height
        groups, receipts = 1, PROJECTED_RECEIPTS
        if self.read_model.height < 0 and total >= REBUILD_BLOCKS:
            self.read_model.reset()
            groups, receipts = REBUILD_GROUPS, REBUILD_RECEIPTS
        while (first := self.read_model.height + 1) <= self.ledger.height:
            self.read_model.project(self._gather_groups(first, groups, receipts))
            self._progress("building the read model", self.read_model.height, total)
        self.read_model.finish_rebuild()

    def _gather_groups(self, first: int, limit: int, receipts: int) -> Iterator[list[BlockRecord]]:
        """Yield groups of blocks from a height on, of about so many receipts at most."""
        for _ in range(limit):
            if first > self.ledger.height:
                return
            records = self._gather_blocks(first, receipts)
            yield records
            first = records[-1].height + 1

    def _gather_blocks(self, first: int, limit: int) -> list[BlockRecord]:
        """Return some blocks from a height on: at least one, and not much more than is allowed."""
        records: list[BlockRecord] = []
        receipts = 0
        last = min(self.ledger.height, first + PROJECTED_BLOCKS - 1)
        for height in range(first, last + 1):
            record = self.read_block(height)
            records.append(record)
            receipts += sum(len(part.receipts) for part in record.chains)
            if receipts >= limit:
                break
        return records

    def _run_projector(self) -> None:
        while True:
            with self._projected:
                while self._may_rest() and not self._stopping:
                    self._projected.wait(PROJECTOR_REST_S)
                if self._stopping:
                    return
            try:
                self.project_pending()
            except BaseException as error:
                self.projection_failed = error
                _log.error("read model: %s", describe_failure(error))
                raise
            with self._projected:
                self._projected.notify_all()
            for callback in self.on_projected:
                callback(self.read_model.height)

    def _may_rest(self) -> bool:
        """Tell whether there is nothing to project, or transactions wait and the lag is small.

        Under a burst the engine goes first, unless somebody waits to read: receipts don't need the
        read model.
        """
        lag = self.ledger.height - self.read_model.height
        is_busy = self.engine.unanswered >= BUSY_WAITING or time.monotonic() < self._busy_until_s
        is_busy = is_busy and not self._readers_waiting
        return lag <= 0 or (is_busy and lag < MAX_LAG_BLOCKS and not self._lags_long())

    def _lags_long(self) -> bool:
        """Tell whether what is to be projected next is older than readers should see it."""
        following = self._recent.get(self.read_model.height + 1)
        return following is None or self.ledger.time_ms - following.time_ms > MAX_LAG_MS

    def wait_projected(self, height: int, timeout_s: float = 10.0) -> bool:
        """Wait until the read model has reached a height; False if it hasn't by then."""
        with self._projected:
            self._readers_waiting += 1
            self._projected.notify_all()
            try:
                return self._projected.wait_for(
                    lambda: self.read_model.height >= height or self._stopping, timeout_s
                )
            finally:
                self._readers_waiting -= 1

    # Answers about the node.

    def ready(self) -> str | None:
        """Return None if the node takes transactions, else the reason why it doesn't."""
        if self.engine.failed is not None:
            return f"stopped acknowledging: {describe_failure(self.engine.failed)}"
        if self.projection_failed is not None:
            return f"read model: {describe_failure(self.projection_failed)}"
        if self._projector is None:
            return "not started"
        return self.engine.trouble or None

    def status(self) -> dict[str, Any]:
        """Return what the node is and where it stands."""
        reason = self.ready()
        return {
            "network": self.network.hex(),
            "name": self.genesis.name,
            "is_sandbox": self.is_sandbox,
            "engine": "comet" if self.genesis.consensus else "solo",
            "height": self.ledger.height,
            "time_ms": self.ledger.time_ms,
            "ready": reason is None,
            "reason": reason or "",
            "read_model_height": self.read_model.height,
            "waiting": self.engine.waiting,
            "relay": {
                "carried": self.relay.carried if self.relay else 0,
                "troubles": self.relay.troubles[-5:] if self.relay else [],
            },
            "chains": {
                name: {
                    "height": chain.header.height,
                    "log_size": chain.header.log_size,
                    "log_root": chain.header.log_root.hex(),
                    "app_hash": chain.app_hash.hex(),
                }
                for name, chain in self.ledger.chains.items()
            },
        }

    def get_block(self, height: int) -> dict[str, Any]:
        """Return a block as people read it.

        Raises: NotThere.
        """
        if not 0 <= height <= self.ledger.block_log.durable_height - 1:
            raise NotThere(f"height: expected 0 to {self.ledger.height}, got {height}")
        record = self.read_block(height)
        return {
            "height": record.height,
            "time_ms": record.time_ms,
            "app_hash": record.network_hash.hex(),
            "chains": [_readable_chain_record(part) for part in record.chains],
        }

    def checkpoint(self, chain: str) -> bytes:
        """Return the newest signed note of a chain.

        Raises: NotThere.
        """
        final = self.get_final(chain)
        if not self.genesis.consensus:
            return note_of(final.finality)
        # Consensus needs no note; this node signs what it has seen become final, for those who
        # know of notes and of nothing else.
        header = decode_header(final.header)
        return note_of(self._signer.sign(header, compute_app_hash(header)))

    def get_final(self, chain: str) -> FinalHeader:
        """Return the newest final header of a chain.

        Raises: NotThere, NotFinal while there is none.
        """
        if chain not in self.ledger.chains:
            raise NotThere(f"chain: expected one of {', '.join(self.ledger.chains)}, got {chain}")
        final = self.ledger.published.get(chain)
        if final is None:
            raise NotFinal(f"chain: expected {chain} with a final block, got none yet")
        return final

    def get_light_block(self, height: int | None) -> bytes:
        """Return the light block at a height, or the newest: what others follow the network by.

        Raises: NotThere for a height that is not kept, or a network of the solo engine.
        """
        if self.light_blocks is None:
            raise NotThere("light block: expected a network on CometBFT, got one of a single node")
        try:
            block = self.light_blocks.get(self.light_blocks.height if height is None else height)
        except ValueError as error:
            raise NotThere(str(error)) from None
        return encode(block)

    def wait_final(self, chain: str, log_size: int, timeout_s: float) -> FinalHeader:
        """Return the newest final header of a chain, once there is one with so many entries.

        Raises: NotThere, NotFinal if there is none by then.
        """
        if chain in self.ledger.chains and self._final_size(chain) < log_size:
            with self._final_condition:
                self._final_condition.wait_for(
                    lambda: self._final_size(chain) >= log_size or self._stopping, timeout_s
                )
        final = self.get_final(chain)
        size = decode_header(final.header).log_size
        if size < log_size:
            raise NotFinal(f"log of {chain}: expected {log_size} final entries, got {size} yet")
        return final

    def when_final(self, chain: str, log_size: int) -> "Future[None]":
        """Return a future that is done once a chain has so many final entries.

        For those who must not hold a thread while they wait; it may never be done.
        """
        told: Future[None] = Future()
        with self._final_condition:
            if self._final_size(chain) < log_size:
                self._awaited.append((chain, log_size, told))
                return told
        told.set_result(None)
        return told

    def _final_size(self, chain: str) -> int:
        final = self.ledger.published.get(chain)
        return -1 if final is None else decode_header(final.header).log_size

    def vkey(self, chain: str) -> str:
        """Return the key that verifies a chain's checkpoints, in C2SP form.

        Raises: NotThere.
        """
        if chain not in self.ledger.chains:
            raise NotThere(f"chain: expected one of {', '.join(self.ledger.chains)}, got {chain}")
        return str(make_verifier_key(self.network, chain, self._signer.public))

    def tile(self, chain: str, path: TilePath) -> bytes | None:
        """Return a tile or an entry bundle, or None where the log doesn't reach."""
        log = self.ledger.chains[chain].log
        if path.level == ENTRIES:
            return log.entry_bundle(path.number, path.width)
        assert isinstance(path.level, int)
        return log.tile(path.level, path.number, path.width)

    # Proofs.

    def find_places(self, kind: str, identifier: str) -> list[Place]:
        """Return where the facts about an object stand, on every chain hosted here.

        Raises: NotThere.
        """
        if kind not in self.kinds:
            known = ", ".join(sorted(self.kinds))
            raise NotThere(f"kind: expected one of {known}, got {kind!r}")
        rows = self.read_model.get_history(identifier)
        if not rows and (row := self.read_model.get_row(self.kinds[kind], identifier)):
            rows = [row]
        if rows:
            places = [Place(row["chain"], row["height"], row["leaf"]) for row in rows]
            return list(dict.fromkeys(places))
        raise NotThere(f"{kind}: expected one that exists, got {identifier}")

    def prove(self, kind: str, identifier: str) -> bytes:
        """Return the proof file of an object: every fact about it, or one transaction.

        Raises: NotThere, NotFinal.
        """
        return self.prove_places(self.find_places(kind, identifier))

    def prove_places(self, places: Sequence[Place]) -> bytes:
        """Return the proof file of entries, once they are final.

        What is in a block can be read at once; where consensus makes it final, that is a block
        later. Raises: NotThere, NotFinal.
        """
        for place in places:
            chain = self.ledger.chains.get(place.chain)
            if chain is not None and place.leaf < chain.header.log_size:
                self.wait_final(place.chain, place.leaf + 1, FINAL_WAIT_S)
        return pack_bundle(self.call(lambda: prove_places(self.ledger, places)))


def size_of(record: BlockRecord) -> int:
    """Return about how many bytes a block takes: its envelopes and receipts."""
    return sum(
        sum(map(len, part.envelopes)) + sum(map(len, part.receipts)) for part in record.chains
    )


def describe_failure(error: BaseException) -> str:
    """Say what stopped the node and what to do."""
    if isinstance(error, sa.exc.DatabaseError):
        # Without the statement and its values, which SQLAlchemy would add.
        error = StorageError(errno.EIO, str(error.orig))
    if isinstance(error, StorageError):
        return (
            f"{error}; make room or mend the disk, then start again: nothing acknowledged is lost"
        )
    if isinstance(error, EngineStopped | Halted | OperatorError):
        return str(error)
    return f"{type(error).__name__}: {error}; this is a bug, the block it met was not made"


def _readable_chain_record(part: ChainRecord) -> dict[str, Any]:
    header = part.header
    return {
        "chain": part.chain,
        "is_resting": header is None,
        "app_hash": part.app_hash.hex(),
        "log_size": header.log_size if header else None,
        "log_root": header.log_root.hex() if header else None,
        "transactions": len(part.envelopes),
        "entries": len(part.receipts),
        "packets": sum(len(page.items) for page in part.pages),
    }
