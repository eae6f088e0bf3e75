"""The file check: everything a node claims is derived again from its block log, and compared."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from msgspec.structs import replace

from hansa.core.block import (
    BlockRecord,
    compute_app_hash,
    compute_network_hash,
    decode_block_record,
    list_entries,
)
from hansa.core.codec import encode
from hansa.core.errors import OperatorError, Refused
from hansa.core.finality import MAX_DRIFT_MS, decode_consensus_finality, verify_header
from hansa.core.genesis import consensus_chain_id
from hansa.core.keys import verify_signatures
from hansa.core.ledger import Ledger, NetworkBlock, Submission
from hansa.core.lightblock import LightBlock, decode_light_block
from hansa.core.lightclient import follow
from hansa.core.merkle import ProofError
from hansa.core.packet import compute_outbox_root
from hansa.core.readmodel import PROGRESS, ReadModel
from hansa.core.restoration import LIGHT_HOPS
from hansa.core.tilelog import TILE_WIDTH, TileLog, tile_path
from hansa.node.composition import VIEWS, make_rulebook
from hansa.node.home import load_config, load_genesis, make_trust
from hansa.service.bank.rules import BALANCES, CURRENCIES, HOLDS, verify_conservation
from hansa.storage.blocklog import BlockLog
from hansa.storage.errors import StorageError
from hansa.storage.kv import Snapshot, StateStore
from hansa.storage.sql import open_engine
from hansa.storage.tiles import TileStore

VERIFIERS: Final = 2
PROJECTED_AT_ONCE: Final = 64
ROWS_AT_ONCE: Final = 1_000

Progress = Callable[[str, int, int], None]


@dataclass
class FsckReport:
    """What was checked and the first thing that differs, if anything does."""

    findings: list[str] = field(default_factory=list)
    """Empty when sound; otherwise the first difference, named."""
    blocks: int = 0
    transactions: int = 0
    signatures: int = 0
    state_keys: int = 0
    tiles: int = 0
    rows: int = 0
    state_height: int = -1
    read_model_height: int = -1

    @property
    def is_sound(self) -> bool:
        """Nothing differs."""
        return not self.findings


class _Differs(Exception):
    pass


def check_home(home: Path, on_progress: Progress | None = None) -> FsckReport:
    """Derive everything in a home again from its genesis and block log, and compare.

    In this order: each record's digest and place in the chain of records; each transaction's form
    and signatures; each header, receipt, page and network hash; what makes each header final; the
    state store; the money; tiles and entry bundles; the read model. Where the block log begins
    later than the genesis nothing can be run again: headers are then checked against the receipts,
    pages and headers before, and state and read model are taken as they are. It writes nothing in
    the home, and may run beside a node: it judges what was there when it began. Raises:
    OperatorError where there is no home.
    """
    report = FsckReport()
    progress = on_progress or (lambda _what, _done, _total: None)
    load_genesis(home)
    with tempfile.TemporaryDirectory(prefix="hansa-fsck-") as scratch:
        try:
            _Check(home, Path(scratch), report, progress).run()
        except (_Differs, ProofError, OperatorError) as finding:
            report.findings.append(str(finding))
        except Refused as refusal:
            report.findings.append(f"block {report.blocks}: {refusal.text}")
        except StorageError as damage:
            report.findings.append(str(damage))
        except sa.exc.DatabaseError as damage:
            report.findings.append(
                f"read model: expected a database that can be read, got {damage.orig}; remove it "
                f"and start the node to build it again"
            )
    return report


class _Check:
    """One run: a second ledger in a scratch folder, fed from the first one's block log."""

    def __init__(self, home: Path, scratch: Path, report: FsckReport, progress: Progress) -> None:
        self.home = home
        self.scratch = scratch
        self.report = report
        self.progress = progress
        genesis = load_genesis(home)
        self.trusted = make_trust(genesis).networks[0]
        self.rulebooks = {one.name: make_rulebook(one.name) for one in genesis.chains}
        self._open_blocks()
        self.ledger = Ledger(scratch / "ledger", genesis, self.rulebooks, None)
        self.scratch_model = self._open_model(scratch / "readmodel.db")
        self.verifiers = ThreadPoolExecutor(VERIFIERS)
        self.network_hashes: dict[int, bytes] = {}
        """After each block that a light block makes final."""

    def _open_blocks(self) -> None:
        self.block_log = BlockLog(self.home / "ledger" / "blocks", read_only=True)
        self.last = self.block_log.height - 1

    def _open_model(self, url: str | Path) -> ReadModel:
        hosted = {module.name for book in self.rulebooks.values() for module in book.modules}
        views = {name: view for name, view in VIEWS.items() if name in hosted}
        return ReadModel(open_engine(url), self.ledger.chains, views)

    def run(self) -> None:
        """Go through the blocks once; compare state and read model at the height they stand at."""
        store = StateStore(self.home / "ledger" / "state")
        engine = open_engine(load_config(self.home).read_model or self.home / "readmodel.db")
        try:
            with store.snapshot() as snapshot, engine.connect() as connection:
                self.report.state_height = snapshot.height - 1
                self.report.read_model_height = _read_height(connection)
                # A running node has gone on since; its blocks are always there before the rest.
                self.block_log.close()
                self._open_blocks()
                stored = store.get_meta(b"base")
                base = decode_block_record(stored) if stored else None
                self.last = max(self.last, base.height if base else 0)
                self._check_heights(base.height + 1 if base else 0)
                self.network_hashes = self._check_light_blocks()
                if base is None:
                    self._replay(snapshot, connection)
                else:
                    self._follow(base, store, snapshot)
        finally:
            store.close()
            engine.dispose()
            self.verifiers.shutdown()
            self.ledger.close()
            self.scratch_model.engine.dispose()
            self.block_log.close()

    def _check_heights(self, begin: int) -> None:
        if self.block_log.height > 0 and self.block_log.first_height > begin + 1:
            raise _Differs(
                f"block log: expected blocks from height {begin} on, got them from height "
                f"{self.block_log.first_height - 1} on: its first file is missing"
            )
        for what, height in (
            ("state store", self.report.state_height),
            ("read model", self.report.read_model_height),
        ):
            if height > self.last:
                raise _Differs(f"{what}: expected at most height {self.last}, got {height}")

    def _replay(self, snapshot: Snapshot, connection: sa.Connection) -> None:
        waiting: list[BlockRecord] = []
        for height, payload in enumerate(self._payloads()):
            record = decode_block_record(payload)
            self._check_block(height, payload, record)
            waiting.append(record)
            at_model = height == self.report.read_model_height
            if at_model or height == self.last or len(waiting) >= PROJECTED_AT_ONCE:
                if height <= self.report.read_model_height:
                    self.scratch_model.project([waiting])
                waiting = []
            if height == self.report.state_height:
                self._check_state(snapshot)
            if at_model:
                self._check_model(connection)
            self.report.blocks = height + 1
            self.progress("checking blocks", height, self.last)
        self.ledger.flush()
        with self.ledger.store.snapshot() as derived:
            self._check_money(derived)
        self._check_tiles({name: chain.log for name, chain in self.ledger.chains.items()}, {})

    def _follow(self, base: BlockRecord, store: StateStore, snapshot: Snapshot) -> None:
        """Check a block log that begins later than the genesis."""
        begins: dict[str, int] = {}
        logs: dict[str, TileLog] = {}
        for part in base.chains:
            tiles = TileStore(self.scratch / part.chain)
            logs[part.chain] = TileLog(tiles, store.get_meta(b"begin/" + part.chain.encode()))
            begins[part.chain] = logs[part.chain].size
        for _ in self.block_log.verify():
            pass
        previous = base
        for height in range(base.height + 1, self.last + 1):
            payload = self.block_log.read(height + 1)
            record = decode_block_record(payload)
            self._check_form(height, payload, record)
            self._read_transactions(record)
            self._check_links(record, previous, logs)
            self._check_final(record)
            previous = record
            self.report.blocks += 1
            self.progress("checking blocks", record.height, self.last)
        self.report.state_keys = snapshot.entries
        self._check_money(snapshot)
        self._check_tiles(logs, begins)

    def _check_links(
        self, record: BlockRecord, previous: BlockRecord, logs: dict[str, TileLog]
    ) -> None:
        """Check each header against what it commits to, as far as the record holds it."""
        for part, before in zip_longest(record.chains, previous.chains):
            if part is None or before is None or part.chain != before.chain:
                raise _Differs(f"block {record.height}: expected the chains of the block before")
            header = part.header
            if header is None:
                is_linked = part.app_hash == before.app_hash and not part.receipts
            else:
                log = logs[part.chain]
                log.append(list_entries(part))
                linked = replace(
                    header,
                    network=self.trusted.network,
                    chain=part.chain,
                    height=record.height,
                    time_ms=record.time_ms,
                    log_size=log.size,
                    log_root=log.root(),
                    outbox_size=len(part.pages),
                    outbox_root=compute_outbox_root(part.pages),
                    previous=before.app_hash,
                )
                is_linked = header == linked and part.app_hash == compute_app_hash(header)
            if not is_linked:
                raise _Differs(
                    f"block {record.height}, {part.chain}: expected a header that follows from its "
                    f"receipts, pages and the header before, got another"
                )
        hashes = [(part.chain, part.app_hash) for part in record.chains]
        if record.network_hash != compute_network_hash(hashes):
            raise _Differs(f"block {record.height}: network hash differs")

    def _payloads(self) -> Iterator[bytes]:
        for _ in self.block_log.verify():
            pass
        for _, payload in self.block_log.iterate(1):
            yield payload

    # A block.

    def _check_block(self, height: int, payload: bytes, record: BlockRecord) -> None:
        self._check_form(height, payload, record)
        if height == 0:
            derived = self.ledger.read_block(0)
            self._compare(derived, record)
        else:
            block = self.ledger.apply(record.time_ms, self._read_transactions(record))
            self._compare(block.record, record)
            recorded = NetworkBlock(block.height, block.time_ms, block.chains, record)
            self.ledger.commit(recorded)
        self._check_final(record)

    def _check_form(self, height: int, payload: bytes, record: BlockRecord) -> None:
        if record.height != height or encode(record) != payload:
            raise _Differs(f"block {height}: expected the one encoding of height {height}")

    def _read_transactions(self, record: BlockRecord) -> dict[str, list[Submission]]:
        """Return a block's transactions, their signatures checked."""
        submissions: dict[str, list[Submission]] = {}
        for part in record.chains:
            decode = self.ledger.chains[part.chain].decode_transaction
            transactions = [decode(envelope) for envelope in part.envelopes]
            claims = [claim for transaction in transactions for claim in transaction.claims]
            self._check_signatures(record.height, part.chain, claims)
            submissions[part.chain] = [(transaction, True) for transaction in transactions]
            self.report.transactions += len(transactions)
        return submissions

    def _check_final(self, record: BlockRecord) -> None:
        """Check what makes a block final; the newest need not be it where consensus does."""
        if self.trusted.consensus is None:
            for part in record.chains:
                if part.header is not None:
                    verify_header(encode(part.header), part.finality, part.chain, self.trusted)
            return
        final = self.network_hashes.get(record.height, record.network_hash)
        if final != record.network_hash:
            raise _Differs(
                f"block {record.height}: expected network hash {final.hex()}, which the validators "
                f"have signed, got {record.network_hash.hex()}"
            )

    def _check_light_blocks(self) -> dict[int, bytes]:
        """Follow the light blocks from the genesis; returns the network hash after each block."""
        folder = self.home / "ledger" / "light"
        trust = self.trusted.consensus
        if trust is None or not folder.is_dir():
            return {}
        hashes: dict[int, bytes] = {}
        chain_id = consensus_chain_id(self.trusted.network)
        with BlockLog(folder, read_only=True) as log:
            if cut := log.truncated:
                raise _Differs(
                    f"{cut.file}: expected whole light blocks, got {cut.bytes_cut} other bytes "
                    f"from offset {cut.offset} on; start the node, and they are fetched again"
                )
            hops = _read_hops(self.home / "ledger" / LIGHT_HOPS, log.first_height)
            for block in chain(hops, (decode_light_block(log.read(at)) for at in _heights(log))):
                trust = follow(
                    trust, block, chain_id, now_ms=None, max_clock_drift_ms=MAX_DRIFT_MS, exact=True
                )
                hashes[block.height - 1] = block.header.app_hash
        return hashes

    def _check_signatures(
        self, height: int, chain: str, claims: Sequence[tuple[bytes, bytes, bytes]]
    ) -> None:
        half = (len(claims) + 1) // 2
        parts = [claims] if half < 16 else [claims[:half], claims[half:]]
        verdicts = [v for part in self.verifiers.map(verify_signatures, parts) for v in part]
        self.report.signatures += len(verdicts)
        if not all(verdicts):
            key = claims[verdicts.index(False)][0]
            raise _Differs(f"block {height}, {chain}: expected a valid signature of {key.hex()}")

    def _compare(self, derived: BlockRecord, found: BlockRecord) -> None:
        for mine, theirs in zip_longest(derived.chains, found.chains):
            for name in ("chain", "app_hash", "header", "envelopes", "receipts", "pages"):
                expected, given = getattr(mine, name, None), getattr(theirs, name, None)
                if expected != given:
                    chain = getattr(theirs, "chain", "missing")
                    raise _Differs(
                        f"block {found.height}, {chain}: {name} differs from what its transactions "
                        f"give: expected {_short(expected)}, got {_short(given)}"
                    )
        if derived.network_hash != found.network_hash or derived.time_ms != found.time_ms:
            raise _Differs(f"block {found.height}: network hash or time differs")

    # State, money, tiles, read model.

    def _check_state(self, snapshot: Snapshot) -> None:
        self.ledger.flush()
        with self.ledger.store.snapshot() as derived:
            pairs = zip_longest(derived.scan(b""), snapshot.scan(b""), fillvalue=(b"", b""))
            for expected, given in pairs:
                if expected != given:
                    raise _Differs(
                        f"state at height {self.report.state_height}: expected key "
                        f"{expected[0].hex()} = {_short(expected[1])}, got {given[0].hex()} = "
                        f"{_short(given[1])}"
                    )
                self.report.state_keys += 1

    def _check_money(self, state: Snapshot) -> None:
        trade = self.ledger.chains.get("trade")
        if trade is None:
            return

        def scan(table: Any) -> Iterator[tuple[bytes, Any]]:
            prefix = trade.prefix + table.prefix
            for key, value in state.scan(prefix):
                yield key[len(prefix) :], table.decode(value)

        fault = verify_conservation(
            [record for _, record in scan(CURRENCIES)],
            scan(BALANCES),
            [record for _, record in scan(HOLDS)],
        )
        if fault is not None:
            raise _Differs(f"money: {fault}")

    def _check_tiles(self, logs: Mapping[str, TileLog], begins: Mapping[str, int]) -> None:
        """Compare each full tile and entry bundle; the partial ones live in the state's edge."""
        for name, log in logs.items():
            found = TileStore(self.home / "ledger" / "tiles" / name)
            for path in _full_tiles(log.size, begins.get(name, 0)):
                level_path = tile_path(*path)
                expected = (
                    log.entry_bundle(path[1])
                    if path[0] == "entries"
                    else log.tile(path[0], path[1])
                )
                if found.read(level_path) != expected:
                    raise _Differs(
                        f"{self.home}/ledger/tiles/{name}/{level_path}: expected the tile of the "
                        f"log, got another or none; remove it and start the node to derive it again"
                    )
                self.report.tiles += 1

    def _check_model(self, connection: sa.Connection) -> None:
        with self.scratch_model.engine.connect() as derived:
            for table in self.scratch_model.tables:
                order = list(table.primary_key)
                query = sa.select(table).order_by(*order)
                # A part at a time: a driver may otherwise fetch the whole table first.
                parts = {"yield_per": ROWS_AT_ONCE}
                rows = zip_longest(
                    derived.execute(query, execution_options=parts),
                    connection.execute(query, execution_options=parts),
                )
                for expected, given in rows:
                    if expected is None or given is None or tuple(expected) != tuple(given):
                        raise _Differs(
                            f"read model, {table.name}: expected {_short(expected)}, got "
                            f"{_short(given)}; remove it and start the node to build it again"
                        )
                    self.report.rows += 1


def _full_tiles(size: int, begin: int) -> Iterator[tuple[Any, int]]:
    """Yield the tiles that became full between two sizes."""
    for index in range(begin // TILE_WIDTH, size // TILE_WIDTH):
        yield "entries", index
    level, first, count = 0, begin // TILE_WIDTH, size // TILE_WIDTH
    while count:
        for index in range(first, count):
            yield level, index
        level, first, count = level + 1, first // TILE_WIDTH, count // TILE_WIDTH


def _heights(log: BlockLog) -> range:
    return range(log.first_height, log.height + 1)


def _read_hops(path: Path, below: int) -> list[LightBlock]:
    """Return the light blocks that lead to the first one kept, as a snapshot came with them."""
    if not path.exists():
        return []
    hops = decode_consensus_finality(path.read_bytes()).hops
    return [hop for hop in hops if hop.height < below]


def _read_height(connection: sa.Connection) -> int:
    height = connection.execute(sa.select(PROGRESS.c.height)).scalar()
    return -1 if height is None else int(height)


def _short(value: object) -> str:
    text = value.hex() if isinstance(value, bytes) else repr(value)
    return text if len(text) <= 160 else text[:157] + "..."
