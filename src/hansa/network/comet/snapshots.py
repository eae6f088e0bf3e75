"""State sync: snapshots for new nodes, and the beginning of a node from one.

A snapshot of height s, a multiple of the state root's interval S, is the sorted state of each chain
in the chunks whose root the headers carry from block s + K on. It is taken from a frozen view of
the store, beside the blocks, and offered once a header with these roots is final.

A new node believes it for these reasons. The app_hash after s comes from CometBFT's light client;
it leads to the chains' headers, and these to their logs. The state roots are in the headers of a
later block, which a light block makes final; they lead to the list of chunks, and this to each
chunk. So a wrong piece is known when it arrives, and by whom it was sent.

    metadata   SnapshotMetadata; every honest node makes the same
    piece 0    SnapshotContents, with the proof of finality, of which there are several
    piece 1..  tuples of consecutive chunks of one chain
"""

import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Final, Literal

from msgspec import Meta

from hansa.core.block import Header, decode_header
from hansa.core.codec import U8, U32, Raw32, Value, encode, make_decoder
from hansa.core.errors import Malformed
from hansa.core.finality import (
    Finality,
    TrustedNetwork,
    decode_consensus_finality,
    trust_network,
    verify_final,
)
from hansa.core.ledger import Ledger, NetworkBlock
from hansa.core.merkle import HASH_BYTES, ProofError, compute_root, leaf_hash
from hansa.core.restoration import Restoration, make_base
from hansa.core.stateroot import decode_chunk, make_chunks
from hansa.core.tilelog import EdgeError, TileLog
from hansa.network.comet.proto.abci import types_pb2 as abci
from hansa.storage.durable import sync_folder
from hansa.storage.kv import Snapshot, SnapshotExpired
from hansa.storage.tiles import TileStore

_log = logging.getLogger(__name__)

FORMAT: Final = 1
PIECE_BYTES: Final = 2 * 1024 * 1024
"""Of chunks, after which a piece is full. CometBFT carries pieces of up to 16 MB."""
MAX_PIECES: Final = 1 << 20
PAUSE_S: Final = 0.005
"""Rest after each piece that is written: blocks go first."""

FOLDER: Final = "snapshots"
METADATA: Final = "metadata"
CONTENTS: Final = "contents"
UNFINISHED: Final = ".new"
HEIGHT_DIGITS: Final = 20

Piece = Annotated[tuple[bytes, ...], Meta(max_length=1 << 16)]
"""Encoded chunks of the state, consecutive ones of one chain."""


class SnapshotMetadata(Value):
    """What a snapshot claims to be. Chains are in the order of the genesis."""

    version: Literal[1]
    headers: Annotated[tuple[bytes, ...], Meta(max_length=64)]
    """In force after the snapshot's height; they lead to the app_hash."""
    state_roots: Annotated[tuple[Raw32, ...], Meta(max_length=64)]
    """Of the state at the snapshot's height."""


class PieceContent(Value):
    """Which chunks a piece holds; they follow those of the piece before."""

    chain: U8
    count: U32


class SnapshotContents(Value):
    """The list of all that follows, and why it is believed."""

    edges: Annotated[tuple[bytes, ...], Meta(max_length=64)]
    """Right edges of the logs."""
    leaves: Annotated[tuple[bytes, ...], Meta(max_length=64)]
    """Leaf hashes of the chunks of each chain, one after another."""
    pieces: Annotated[tuple[PieceContent, ...], Meta(max_length=MAX_PIECES)]
    headers: Annotated[tuple[bytes, ...], Meta(max_length=64)]
    """In force after a later block, with the state roots."""
    finality: Finality
    """Of that later block, for the first chain."""


class _Unproven(Value):
    """The contents of a snapshot that waits for its finality."""

    edges: Annotated[tuple[bytes, ...], Meta(max_length=64)]
    leaves: Annotated[tuple[bytes, ...], Meta(max_length=1 << 20)]
    pieces: Annotated[tuple[PieceContent, ...], Meta(max_length=1 << 20)]


_decode_metadata: Callable[[bytes], SnapshotMetadata] = make_decoder(SnapshotMetadata, "metadata")
_decode_contents: Callable[[bytes], SnapshotContents] = make_decoder(SnapshotContents, "contents")
_decode_unproven: Callable[[bytes], _Unproven] = make_decoder(_Unproven, "contents")
_decode_piece: Callable[[bytes], Piece] = make_decoder(Piece, "piece")


class BadPiece(Exception):
    """A piece is not what the snapshot says: its sender made it up, or broke it."""


class BadSnapshot(Exception):
    """A snapshot is not the state at its height, whoever sends it."""


@dataclass(frozen=True)
class _View:
    """What the ledger was after a block, to be written beside the blocks that follow."""

    height: int
    headers: tuple[bytes, ...]
    edges: tuple[bytes, ...]
    prefixes: tuple[bytes, ...]
    state: Snapshot


@dataclass
class _Incoming:
    """A snapshot that was accepted and comes in piece by piece."""

    height: int
    metadata: SnapshotMetadata
    headers: Sequence[Header]
    pieces: int
    restoration: Restoration
    contents: SnapshotContents | None = None
    next: int = 0
    """Index of the piece that is wanted."""
    taken: list[int] = field(default_factory=list)
    """How many chunks of each chain are in."""


class Snapshots:
    """The snapshots of one node; all methods are called in the execution thread.

    ``trusted`` is what a new node trusts of the network where it isn't the genesis.
    """

    def __init__(self, ledger: Ledger, kept: int, *, trusted: TrustedNetwork | None = None) -> None:
        self._ledger = ledger
        self._kept = kept
        self._trusted = trusted or trust_network(ledger.genesis)
        self._folder = ledger.folder / FOLDER
        self._delay = ledger.genesis.state_root_delay
        self._interval = ledger.genesis.state_root_interval
        if kept and not 0 < self._delay <= self._interval:
            # The root before would not be known from the headers.
            _log.warning(
                "no snapshots: expected a state_root_delay from 1 to %d, got %d",
                self._interval, self._delay,
            )  # fmt: skip
            self._kept = 0
        self._incoming: _Incoming | None = None
        self._job: Future[None] | None = None
        self._writer = ThreadPoolExecutor(1, "snapshots")
        self._is_over = threading.Event()
        self._offers: dict[int, abci.Snapshot] = {}
        self._waiting: list[int] = []
        self._read_folder()

    def _read_folder(self) -> None:
        if not self._folder.is_dir():
            return
        for folder in sorted(self._folder.iterdir()):
            if not folder.name.removesuffix(UNFINISHED).isdecimal():
                continue
            height = int(folder.name.removesuffix(UNFINISHED))
            if folder.suffix != UNFINISHED:
                self._offers[height] = _read_offer(folder)
            elif (folder / CONTENTS).exists() and height + 1 >= self._ledger.first_height:
                self._waiting.append(height)
            else:
                shutil.rmtree(folder)

    @property
    def floor(self) -> int:
        """The lowest height from which blocks must be kept, for snapshots that are offered or
        wait; that of the newest block where there are none."""
        return min([*self._offers, *self._waiting, self._ledger.height])

    # Taking them.

    def note_block(self, block: NetworkBlock) -> None:
        """Take a snapshot where this block is one to take it at; returns at once."""
        if not self._kept or (self._job is not None and not self._job.done()):
            return
        self._settle_job()
        height = block.height
        if height and height % self._interval == 0:
            self._job = self._writer.submit(self._write_state, self._view())
        elif self._waiting and height > self._waiting[0] + self._delay:
            self._job = self._writer.submit(self._prove, self._waiting[0])

    def settle(self) -> None:
        """Wait until what is being written is written."""
        if self._job is not None:
            self._job.exception()
            self._settle_job()

    def _settle_job(self) -> None:
        job, self._job = self._job, None
        if job is None:
            return
        try:
            job.result()
        except (OSError, SnapshotExpired) as error:
            # Without snapshots a node serves all the same; there will be another.
            _log.warning("snapshot: expected to be written, got %s", error)

    def _view(self) -> _View:
        chains = self._ledger.chains.values()
        return _View(
            height=self._ledger.height,
            headers=tuple(encode(chain.header) for chain in chains),
            edges=tuple(chain.log.edge() for chain in chains),
            prefixes=tuple(chain.prefix for chain in chains),
            state=self._ledger.store.snapshot(),
        )

    def _write_state(self, view: _View) -> None:
        """Write all but the proof, which takes some more blocks."""
        with view.state:
            assert view.state.height == view.height + 1, "every S blocks the state is flushed"
            folder = self._folder / f"{view.height:0{HEIGHT_DIGITS}}{UNFINISHED}"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            leaves: list[list[bytes]] = [[] for _ in view.prefixes]
            pieces: list[PieceContent] = []
            for chain, chunks in _cut_pieces(view.state, view.prefixes):
                if self._is_over.wait(PAUSE_S):
                    return
                leaves[chain] += [leaf_hash(chunk) for chunk in chunks]
                pieces.append(PieceContent(chain, len(chunks)))
                _write_file(folder / str(len(pieces)), encode(chunks))
        roots = tuple(compute_root(hashes) for hashes in leaves)
        metadata = SnapshotMetadata(version=1, headers=view.headers, state_roots=roots)
        _write_file(folder / METADATA, encode(metadata))
        joined = tuple(b"".join(hashes) for hashes in leaves)
        _write_file(folder / CONTENTS, encode(_Unproven(view.edges, joined, tuple(pieces))))
        sync_folder(folder)
        self._waiting = [*self._waiting, view.height]

    def _prove(self, height: int) -> None:
        """Finish a snapshot once the header that carries its state roots is final."""
        folder = self._folder / f"{height:0{HEIGHT_DIGITS}}{UNFINISHED}"
        metadata = _decode_metadata((folder / METADATA).read_bytes())
        names = [chain.name for chain in self._ledger.genesis.chains]
        final = self._ledger.read_block(height + self._delay)
        finality = self._ledger.find_finality(final, names[0])
        if finality is None:
            return
        headers = dict(zip(names, metadata.headers, strict=True))
        for later in range(height + 1, height + self._delay + 1):
            for part in self._ledger.read_block(later).chains:
                if part.header is not None:
                    headers[part.chain] = encode(part.header)
        unproven = _decode_unproven((folder / CONTENTS).read_bytes())
        contents = SnapshotContents(
            edges=unproven.edges,
            leaves=unproven.leaves,
            pieces=unproven.pieces,
            headers=tuple(headers[name] for name in names),
            finality=finality,
        )
        _write_file(folder / "0", encode(contents))
        (folder / CONTENTS).unlink()
        sync_folder(folder)
        finished = folder.with_suffix("")
        shutil.rmtree(finished, ignore_errors=True)
        folder.rename(finished)
        sync_folder(self._folder)
        self._waiting = [other for other in self._waiting if other != height]
        kept = sorted({*self._offers, height})[-self._kept :]
        offers = {**self._offers, height: _read_offer(finished)}
        self._offers = {other: offers[other] for other in kept}
        for other in set(offers) - set(kept):
            shutil.rmtree(self._folder / f"{other:0{HEIGHT_DIGITS}}", ignore_errors=True)

    # Serving them.

    def list(self, _: abci.RequestListSnapshots | None = None) -> abci.ResponseListSnapshots:
        """Return the snapshots a new node can begin from, the newest first."""
        offers = self._offers
        return abci.ResponseListSnapshots(
            snapshots=[offers[height] for height in sorted(offers, reverse=True)]
        )

    def load(self, request: abci.RequestLoadSnapshotChunk) -> abci.ResponseLoadSnapshotChunk:
        """Return a piece for a new node; an empty one where it isn't kept any more."""
        offer = self._offers.get(request.height)
        if offer is None or request.format != FORMAT or request.chunk >= offer.chunks:
            return abci.ResponseLoadSnapshotChunk()
        path = self._folder / f"{request.height:0{HEIGHT_DIGITS}}" / str(request.chunk)
        try:
            return abci.ResponseLoadSnapshotChunk(chunk=path.read_bytes())
        except FileNotFoundError:  # Removed this moment, for a newer one.
            return abci.ResponseLoadSnapshotChunk()

    # Beginning from one.

    def take_offer(self, request: abci.RequestOfferSnapshot) -> abci.ResponseOfferSnapshot:
        """Take or refuse a snapshot that a peer offers.

        ``app_hash`` is that after its height, as CometBFT's light client has verified it. A node
        that has crashed after it was restored, and before CometBFT had noted it, is offered one
        once more, at its own height or a later one.
        """
        answer = abci.ResponseOfferSnapshot
        if request.snapshot.format != FORMAT:
            return answer(result=answer.REJECT_FORMAT)
        self._abandon()
        try:
            self._incoming = self._judge_offer(request.snapshot, request.app_hash)
        except (BadSnapshot, Malformed) as error:
            _log.warning("snapshot of height %d refused: %s", request.snapshot.height, error)
            return answer(result=answer.REJECT)
        return answer(result=answer.ACCEPT)

    def _judge_offer(self, offer: abci.Snapshot, app_hash: bytes) -> _Incoming:
        height = offer.height
        if not height > 0 or height % self._interval or height < self._ledger.height:
            raise BadSnapshot(
                f"height: expected a multiple of {self._interval} from {self._ledger.height} on, "
                f"got {height}"
            )
        if not 1 < offer.chunks <= MAX_PIECES:
            raise BadSnapshot(f"pieces: expected 2 to {MAX_PIECES}, got {offer.chunks}")
        if offer.hash != sha256(offer.metadata).digest():
            raise BadSnapshot(f"hash: expected that of the metadata, got {offer.hash.hex()}")
        metadata = _decode_metadata(offer.metadata)
        headers = self._decode_headers(metadata.headers, height)
        base = make_base(height, headers)
        if base.network_hash != app_hash:
            raise BadSnapshot(
                f"headers: expected some that lead to {app_hash.hex()}, got "
                f"{base.network_hash.hex()}"
            )
        if len(metadata.state_roots) != len(headers):
            raise BadSnapshot(
                f"state roots: expected {len(headers)}, got {len(metadata.state_roots)}"
            )
        return _Incoming(
            height=height,
            metadata=metadata,
            headers=headers,
            pieces=offer.chunks,
            restoration=Restoration(self._ledger.folder),
            taken=[0] * len(headers),
        )

    def _decode_headers(self, encoded: Sequence[bytes], height: int) -> Sequence[Header]:
        headers = [decode_header(data) for data in encoded]
        expected = [chain.name for chain in self._ledger.genesis.chains]
        found = [header.chain for header in headers]
        if found != expected:
            raise BadSnapshot(f"chains: expected {', '.join(expected)}, got {', '.join(found)}")
        for header in headers:
            if header.network != self._ledger.network or header.height > height:
                raise BadSnapshot(
                    f"header of {header.chain}: expected one of network "
                    f"{self._ledger.network.hex()} up to height {height}, got height "
                    f"{header.height} of {header.network.hex()}"
                )
        return headers

    def _abandon(self) -> None:
        if self._incoming is not None:
            self._incoming.restoration.abandon()
            self._incoming = None

    def apply(self, request: abci.RequestApplySnapshotChunk) -> abci.ResponseApplySnapshotChunk:
        """Check a piece that a peer has sent, and restore with the last.

        A piece that isn't the one promised is fetched again, and never from its sender. Raises:
        StorageError, which stops the node: a crash on the way leaves it as it was before.
        """
        answer = abci.ResponseApplySnapshotChunk
        incoming = self._incoming
        if incoming is None:
            return answer(result=answer.ABORT)
        if request.index < incoming.next:
            return answer(result=answer.ACCEPT)
        if request.index > incoming.next:
            self._incoming = _begin_again(incoming, self._ledger.folder)
            return answer(result=answer.RETRY_SNAPSHOT)
        try:
            self._take_piece(incoming, request.chunk)
        except (BadPiece, Malformed, ProofError, EdgeError) as error:
            _log.warning(
                "piece %d of the snapshot of height %d, from %s, refused: %s",
                request.index, incoming.height, request.sender, error,
            )  # fmt: skip
            return answer(
                result=answer.RETRY,
                refetch_chunks=[request.index],
                reject_senders=[request.sender] if request.sender else [],
            )
        except BadSnapshot as error:
            _log.warning("snapshot of height %d refused: %s", incoming.height, error)
            self._abandon()
            return answer(result=answer.REJECT_SNAPSHOT)
        incoming.next += 1
        if incoming.next == incoming.pieces:
            self._finish(incoming)
        return answer(result=answer.ACCEPT)

    def _take_piece(self, incoming: _Incoming, data: bytes) -> None:
        if incoming.next == 0:
            contents = _decode_contents(data)
            self._judge_contents(incoming, contents)
            incoming.contents = contents
            return
        assert incoming.contents is not None
        content = incoming.contents.pieces[incoming.next - 1]
        chunks = _decode_piece(data)
        start = incoming.taken[content.chain]
        leaves = incoming.contents.leaves[content.chain]
        expected = leaves[start * HASH_BYTES : (start + content.count) * HASH_BYTES]
        if b"".join([leaf_hash(chunk) for chunk in chunks]) != expected:
            raise BadPiece(f"expected {content.count} chunks from {start} on as listed, got others")
        name = self._ledger.genesis.chains[content.chain].name
        for chunk in chunks:
            incoming.restoration.add(self._ledger.chains[name].prefix, decode_chunk(chunk).pairs)
        incoming.taken[content.chain] += len(chunks)

    def _judge_contents(self, incoming: _Incoming, contents: SnapshotContents) -> None:
        """Check the list of contents, from the finality of a later block down.

        The light blocks are judged without a clock: CometBFT's light client has judged the app_hash
        with it, and what follows on a history that isn't that one's ends at the first block.
        Raises: BadPiece, Malformed, ProofError, EdgeError; BadSnapshot where it is the metadata
        that is wrong.
        """
        names = [chain.name for chain in self._ledger.genesis.chains]
        later_height = decode_consensus_finality(contents.finality).hops[-1].header.height - 1
        first = incoming.height + self._delay
        if not first <= later_height < first + self._interval:
            raise BadPiece(
                f"later block: expected one of {first} to {first + self._interval - 1}, whose "
                f"headers carry these roots, got {later_height}"
            )
        try:
            headers = self._decode_headers(contents.headers, later_height)
        except BadSnapshot as error:
            raise BadPiece(str(error)) from error
        verify_final(contents.headers[0], contents.finality, names[0], self._trusted)
        proven = decode_consensus_finality(contents.finality).hops[-1].header.app_hash
        if make_base(later_height, headers).network_hash != proven:
            raise BadPiece(f"headers: expected some that lead to {proven.hex()}, got others")
        _check_edges(contents.edges, incoming.headers, self._ledger.folder)
        if tuple(header.state_root for header in headers) != incoming.metadata.state_roots:
            raise BadSnapshot("state roots: expected those of the later headers, got others")
        _check_list(contents, incoming)

    def _finish(self, incoming: _Incoming) -> None:
        """Become the ledger that has come in."""
        contents = incoming.contents
        assert contents is not None
        base = make_base(incoming.height, incoming.headers)
        names = [header.chain for header in incoming.headers]
        roots: dict[tuple[str, int], bytes] = {}
        for header, root in zip(incoming.headers, incoming.metadata.state_roots, strict=True):
            # The headers of the next blocks still carry the root before, as the one in force does.
            roots[header.chain, incoming.height - self._interval] = header.state_root
            roots[header.chain, incoming.height] = root
        incoming.restoration.finish(
            self._ledger.network,
            base,
            dict(zip(names, contents.edges, strict=True)),
            roots,
            contents.finality,
        )
        self._incoming = None
        self.settle()
        self._waiting = []
        self._ledger.restore()

    def close(self) -> None:
        """Drop what is being written, and what has come in by half."""
        self._is_over.set()
        self._writer.shutdown()
        self._settle_job()
        self._abandon()


def _begin_again(incoming: _Incoming, folder: Path) -> _Incoming:
    incoming.restoration.abandon()
    return _Incoming(
        height=incoming.height,
        metadata=incoming.metadata,
        headers=incoming.headers,
        pieces=incoming.pieces,
        restoration=Restoration(folder),
        taken=[0] * len(incoming.headers),
    )


def _check_edges(edges: Sequence[bytes], headers: Sequence[Header], folder: Path) -> None:
    if len(edges) != len(headers):
        raise BadPiece(f"edges: expected {len(headers)}, got {len(edges)}")
    for edge, header in zip(edges, headers, strict=True):
        log = TileLog(TileStore(folder), edge)
        if (log.size, log.root()) != (header.log_size, header.log_root):
            raise BadPiece(
                f"edge of {header.chain}: expected size {header.log_size} and root "
                f"{header.log_root.hex()}, got {log.size} and {log.root().hex()}"
            )


def _check_list(contents: SnapshotContents, incoming: _Incoming) -> None:
    roots = incoming.metadata.state_roots
    if len(contents.leaves) != len(roots) or len(contents.pieces) != incoming.pieces - 1:
        raise BadPiece(
            f"list: expected {len(roots)} chains and {incoming.pieces - 1} pieces, got "
            f"{len(contents.leaves)} and {len(contents.pieces)}"
        )
    counts = [0] * len(roots)
    for content in contents.pieces:
        if content.chain >= len(roots) or not content.count:
            raise BadPiece(f"pieces: expected chunks of {len(roots)} chains, got {content}")
        counts[content.chain] += content.count
    for joined, root, count in zip(contents.leaves, roots, counts, strict=True):
        if len(joined) != count * HASH_BYTES:
            raise BadPiece(f"leaves: expected {count * HASH_BYTES} bytes, got {len(joined)}")
        leaves = [joined[at : at + HASH_BYTES] for at in range(0, len(joined), HASH_BYTES)]
        if compute_root(leaves) != root:
            raise BadPiece(f"leaves: expected those under {root.hex()}, got others")


def _cut_pieces(state: Snapshot, prefixes: Sequence[bytes]) -> Iterator[tuple[int, Piece]]:
    for chain, prefix in enumerate(prefixes):
        piece: list[bytes] = []
        size = 0
        for chunk in make_chunks((key[1:], value) for key, value in state.scan(prefix)):
            piece.append(chunk)
            size += len(chunk)
            if size >= PIECE_BYTES:
                yield chain, tuple(piece)
                piece, size = [], 0
        if piece:
            yield chain, tuple(piece)


def _read_offer(folder: Path) -> abci.Snapshot:
    metadata = (folder / METADATA).read_bytes()
    return abci.Snapshot(
        height=int(folder.name),
        format=FORMAT,
        chunks=sum(path.name != METADATA for path in folder.iterdir()),
        hash=sha256(metadata).digest(),
        metadata=metadata,
    )


def _write_file(path: Path, data: bytes) -> None:
    """Write a file that survives a power failure: a torn piece would pass for a cheat's."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
