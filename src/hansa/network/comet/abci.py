"""The server of ABCI 2.0: CometBFT asks, the application answers, over a unix socket.

CometBFT opens four connections (consensus, mempool, query, snapshot); which is which is known only
by what is asked on it. On each, answers leave in the order of the questions. CometBFT may have
thousands of CheckTx waiting while a block is to be proposed, so those that can wait are begun a
slice at a time, and between two slices the loop looks at the other connections.

Source: spec/abci of CometBFT 0.38 to 0.40; framing of `abci/types/messages.go` (length as an
unsigned varint, then the message).
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import socket
import stat
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeAlias, TypeVar

from google.protobuf.message import DecodeError, Message

from hansa.network.comet.proto.abci import types_pb2 as abci

_log = logging.getLogger(__name__)

MAX_FRAME_BYTES: Final = 128 * 1024 * 1024
"""A longer request is refused unread: twice what a block with its votes can hold."""

MAX_UNANSWERED: Final = 512
"""Questions begun on one connection and not answered; beyond it, those that follow wait. Each may
hold a transaction of CometBFT's ``max_tx_bytes``."""

MAX_BACKLOG_BYTES: Final = 1024 * 1024
"""What is read ahead of the question that waits; beyond it, CometBFT keeps the rest."""

SLICE_S: Final = 0.002
"""How long one turn of the loop may go on beginning calls that can wait."""

MAX_PATH_BYTES: Final = 107
"""Of a unix socket's path, as Linux has it (unix(7): `sun_path`, with its closing zero)."""

_MAX_LENGTH_BYTES: Final = 4
"""Of the varint before a frame: five would be for more than `MAX_FRAME_BYTES`."""

T = TypeVar("T")
Answer: TypeAlias = T | Awaitable[T] | concurrent.futures.Future[T]
"""A response, or the promise of one."""

Direction = Literal["request", "response"]
Recorder = Callable[[int, Direction, bytes], None]
"""Is given each message without its length, with the number of its connection, from 1."""


class Application(Protocol):
    """What CometBFT asks, method by method; source: spec/abci/abci++_methods.md.

    All methods are called on the loop's thread, so one that computes for long should return a
    future. `check_tx`, `query`, `list_snapshots` and `load_snapshot_chunk` are called while others
    are unanswered. Each of the rest is called only when no other of the rest is unanswered, on
    whatever connection: an engine that was killed and comes back waits for the block that the
    application still executes for its predecessor.
    """

    def info(self, request: abci.RequestInfo) -> Answer[abci.ResponseInfo]:
        """Say the last block committed, from which the engine replays."""

    def init_chain(self, request: abci.RequestInitChain) -> Answer[abci.ResponseInitChain]:
        """Begin at genesis; asked once in a network's life, again if no block followed."""

    def prepare_proposal(
        self, request: abci.RequestPrepareProposal
    ) -> Answer[abci.ResponsePrepareProposal]:
        """Choose what the block that this node proposes will hold."""

    def process_proposal(
        self, request: abci.RequestProcessProposal
    ) -> Answer[abci.ResponseProcessProposal]:
        """Accept or reject a block before it is voted on."""

    def extend_vote(self, request: abci.RequestExtendVote) -> Answer[abci.ResponseExtendVote]:
        """Add to this node's precommit; asked only where vote extensions are enabled."""

    def verify_vote_extension(
        self, request: abci.RequestVerifyVoteExtension
    ) -> Answer[abci.ResponseVerifyVoteExtension]:
        """Judge what another validator added to its precommit."""

    def finalize_block(
        self, request: abci.RequestFinalizeBlock
    ) -> Answer[abci.ResponseFinalizeBlock]:
        """Execute the decided block; nothing becomes durable."""

    def commit(self, request: abci.RequestCommit) -> Answer[abci.ResponseCommit]:
        """Make the executed block durable."""

    def check_tx(self, request: abci.RequestCheckTx) -> Answer[abci.ResponseCheckTx]:
        """Admit a transaction to the mempool, or keep it there after a block."""

    def query(self, request: abci.RequestQuery) -> Answer[abci.ResponseQuery]:
        """Read committed state."""

    def list_snapshots(
        self, request: abci.RequestListSnapshots
    ) -> Answer[abci.ResponseListSnapshots]:
        """Name the snapshots that a peer may load."""

    def offer_snapshot(
        self, request: abci.RequestOfferSnapshot
    ) -> Answer[abci.ResponseOfferSnapshot]:
        """Accept or reject a peer's snapshot to start from."""

    def load_snapshot_chunk(
        self, request: abci.RequestLoadSnapshotChunk
    ) -> Answer[abci.ResponseLoadSnapshotChunk]:
        """Read a part of a snapshot for a peer."""

    def apply_snapshot_chunk(
        self, request: abci.RequestApplySnapshotChunk
    ) -> Answer[abci.ResponseApplySnapshotChunk]:
        """Take a part of the snapshot that was accepted."""


METHODS: Final = (
    "info",
    "init_chain",
    "prepare_proposal",
    "process_proposal",
    "extend_vote",
    "verify_vote_extension",
    "finalize_block",
    "commit",
    "check_tx",
    "query",
    "list_snapshots",
    "offer_snapshot",
    "load_snapshot_chunk",
    "apply_snapshot_chunk",
)
"""Of `Application`, by the name that the request has in `abci.Request`."""

_CAN_WAIT: Final = frozenset({"check_tx", "query", "list_snapshots", "load_snapshot_chunk"})
"""Begun in slices and answered whenever; none of them changes what a block does."""


class RequestRefused(Exception):
    """Bytes that are no request of this server; the connection ends."""


class WrongAnswer(Exception):
    """The application answered with something else than the response to its request."""


class SocketPathTooLong(Exception):
    """The operating system has no room for such a path."""

    def __init__(self, path: Path) -> None:
        """Say the path and the bound."""
        size = len(os.fsencode(path))
        super().__init__(f"expected at most {MAX_PATH_BYTES} bytes of path, got {size}: {path}")


class SocketTaken(Exception):
    """Something stands where the socket should; it is left as it is."""

    def __init__(self, path: Path, found: str) -> None:
        """Say what was found there."""
        super().__init__(f"expected nobody at {path}, got {found}")


@dataclass
class CallTime:
    """What the calls of one method took, from the call to its answer."""

    calls: int = 0
    seconds: float = 0.0
    longest_s: float = 0.0

    def note(self, seconds: float) -> None:
        """Count one answered call."""
        self.calls += 1
        self.seconds += seconds
        self.longest_s = max(self.longest_s, seconds)


class _Response(NamedTuple):
    """How the response to a method is written."""

    tag: bytes
    """Key of the field in `abci.Response` that holds it."""
    message: type[Message]


def _encode_uvarint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


_LENGTH_DELIMITED: Final = 2
_RESPONSES: Final[dict[str, _Response]] = {
    field.name: _Response(
        _encode_uvarint(field.number << 3 | _LENGTH_DELIMITED),
        getattr(abci, field.message_type.name),
    )
    for field in abci.Response.DESCRIPTOR.oneofs_by_name["value"].fields
    if field.message_type is not None
}


def _encode_response(method: str, response: Message) -> bytes:
    """The bytes of an `abci.Response`, put together by hand: filling one would copy the answer."""
    body = response.SerializeToString()
    return _RESPONSES[method].tag + _encode_uvarint(len(body)) + body


_FLUSHED: Final = _encode_response("flush", abci.ResponseFlush())


class _Slot:
    """The place of an answer in the order of its connection; empty until it is there."""

    __slots__ = ("payload",)

    def __init__(self) -> None:
        self.payload: bytes | None = None


class AbciServer:
    """Listens on a unix socket and asks the application what CometBFT asks.

    An exception of the application, or a wrong answer, is the end: CometBFT is told by
    ResponseException, which stops it, `on_failure` is called once with the error, and the
    application is asked nothing more. Runs on the loop that awaits `start`.
    """

    def __init__(
        self,
        application: Application,
        path: Path,
        *,
        on_failure: Callable[[BaseException], None],
        recorder: Recorder | None = None,
    ) -> None:
        """Prepare; nothing listens yet."""
        self.path = path
        self.call_times: dict[str, CallTime] = {method: CallTime() for method in METHODS}
        self._methods: dict[str, Callable[[Any], Any]] = {
            method: getattr(application, method) for method in METHODS
        }
        self._on_failure = on_failure
        self._recorder = recorder
        self._failure: BaseException | None = None
        self._listener: asyncio.Server | None = None
        self._inode = 0
        self._connections: dict[int, _Connection] = {}
        self._accepted = 0
        self._exclusive: asyncio.Future[Any] | None = None
        self._tasks: set[asyncio.Future[Any]] = set()

    @property
    def failure(self) -> BaseException | None:
        """What ended it, if anything did."""
        return self._failure

    async def start(self) -> None:
        """Listen; only this user may connect, and a socket that nobody listens on is replaced.

        Raises: SocketPathTooLong, SocketTaken.
        """
        listener = _bind(self.path)
        self._inode = self.path.stat().st_ino
        self._listener = await asyncio.get_running_loop().create_unix_server(
            self._accept, sock=listener
        )

    async def close(self) -> None:
        """Stop listening, end the connections, and wait for the one call that changes state."""
        if self._listener is None:
            return
        self._listener.close()
        self._listener = None
        for connection in list(self._connections.values()):
            connection.abort()
        if self._exclusive is not None:
            await asyncio.wait({self._exclusive})
        for task in self._tasks:
            task.cancel()
        if self.path.is_socket() and self.path.stat().st_ino == self._inode:
            self.path.unlink()

    def _accept(self) -> _Connection:
        self._accepted += 1
        connection = _Connection(self, self._accepted)
        self._connections[self._accepted] = connection
        return connection

    # What follows is the connections' side.

    @property
    def is_exclusive(self) -> bool:
        """Whether a call is under way beside which no other may change state."""
        return self._exclusive is not None

    def call(self, method: str, request: Message) -> Any:
        """Ask the application."""
        return self._methods[method](request)

    def follow(self, method: str, promise: Any) -> asyncio.Future[Any]:
        """The promise as a future of this loop.

        Raises: WrongAnswer.
        """
        if isinstance(promise, concurrent.futures.Future):
            future = asyncio.wrap_future(promise)
        elif isinstance(promise, Awaitable):
            future = asyncio.ensure_future(promise)
        else:
            raise _wrong_answer(method, promise)
        if future is not promise and method in _CAN_WAIT:
            self._tasks.add(future)
            future.add_done_callback(self._tasks.discard)
        if method not in _CAN_WAIT:
            self._exclusive = future
        return future

    def release(self) -> None:
        """The call that stood alone is answered: whoever waited for it goes on."""
        self._exclusive = None
        loop = asyncio.get_running_loop()
        for connection in self._connections.values():
            loop.call_soon(connection.work)

    def fail(self, method: str, error: BaseException) -> None:
        """Ask nothing any more."""
        if self._failure is not None:
            return
        self._failure = error
        _log.critical("the application failed in %s", method, exc_info=error)
        self._on_failure(error)

    def record(self, number: int, direction: Direction, message: bytes) -> None:
        """Give a message to who records the traffic."""
        if self._recorder is not None:
            self._recorder(number, direction, message)

    def forget(self, number: int) -> None:
        """A connection is gone."""
        self._connections.pop(number, None)


class _Connection(asyncio.Protocol):
    """One of CometBFT's connections: frames in, answers out in the same order."""

    def __init__(self, server: AbciServer, number: int) -> None:
        self._server = server
        self._number = number
        self._transport: asyncio.Transport
        self._buffer = bytearray()
        self._at = 0
        """Where in the buffer the next frame begins."""
        self._next: tuple[str, Message] | None = None
        """The question that is to be begun."""
        self._slots: deque[_Slot] = deque()
        self._output: list[bytes] = []
        self._is_alone = False
        """Whether the last question begun stands alone and is unanswered."""
        self._is_held = False
        """Whether CometBFT doesn't read what is written."""
        self._has_turn = False
        """Whether the loop is asked for another slice."""
        self._is_over = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the questions; calls under way end by themselves and answer to nobody."""
        self._is_over = True
        self._slots.clear()
        self._server.forget(self._number)
        if exc is not None:
            _log.info("connection %d of CometBFT broke: %s", self._number, exc)

    def pause_writing(self) -> None:
        """Begin nothing while answers pile up."""
        self._is_held = True

    def resume_writing(self) -> None:
        """Go on: the answers were taken."""
        self._is_held = False
        self.work()

    def data_received(self, data: bytes) -> None:
        """Keep the bytes, and begin what may be begun."""
        self._buffer += data
        self.work()

    def abort(self) -> None:
        """End without another word."""
        self._is_over = True
        self._transport.abort()

    def work(self) -> None:
        """Begin questions until one has to wait, and write what is answered."""
        if self._is_over:
            return
        self._collect()  # first: a question may wait for the place of an answer
        try:
            self._begin_slice()
        except RequestRefused as error:
            _log.error("connection %d of CometBFT: %s", self._number, error)
            self._end(str(error))
            return
        self._write()
        self._read_or_wait()

    def _begin_slice(self) -> None:
        ends = time.perf_counter() + SLICE_S
        while not self._is_over and (self._next is not None or self._take()):
            assert self._next is not None
            method, request = self._next
            if not self._may_begin(method):
                return
            if method in _CAN_WAIT and time.perf_counter() > ends:
                self._ask_for_turn()
                return
            self._next = None
            self._begin(method, request)

    def _ask_for_turn(self) -> None:
        if not self._has_turn:
            self._has_turn = True
            asyncio.get_running_loop().call_soon(self._take_turn)

    def _take_turn(self) -> None:
        self._has_turn = False
        self.work()

    def _may_begin(self, method: str) -> bool:
        if self._is_held or len(self._slots) >= MAX_UNANSWERED:
            return False
        if method in _CAN_WAIT:
            return not self._is_alone
        if method in self._server.call_times:
            return not self._slots and not self._server.is_exclusive
        return True

    def _take(self) -> bool:
        """Move the next question out of the buffer, if it is there in full.

        Raises: RequestRefused.
        """
        begin = self._at
        size = 0
        for place in range(_MAX_LENGTH_BYTES):
            if begin + place >= len(self._buffer):
                return self._is_incomplete()
            byte = self._buffer[begin + place]
            size |= (byte & 0x7F) << 7 * place
            if byte < 0x80:
                break
        else:
            raise RequestRefused(
                f"expected a length of {_MAX_LENGTH_BYTES} bytes, got a longer one"
            )
        if size > MAX_FRAME_BYTES:
            raise RequestRefused(f"expected at most {MAX_FRAME_BYTES} bytes in a frame, got {size}")
        begin += place + 1
        if begin + size > len(self._buffer):
            return self._is_incomplete()
        self._at = begin + size
        frame = bytes(self._buffer[begin : self._at])
        self._server.record(self._number, "request", frame)
        self._next = _decode_request(frame)
        return True

    def _is_incomplete(self) -> bool:
        # Once a slice, not once a frame: what is left has to move to the front.
        del self._buffer[: self._at]
        self._at = 0
        return False

    def _begin(self, method: str, request: Message) -> None:
        if method == "flush":
            self._answer_now(_FLUSHED)
        elif isinstance(request, abci.RequestEcho):
            response = abci.ResponseEcho(message=request.message)
            self._answer_now(_encode_response("echo", response))
        elif self._server.failure is not None:
            self._end(_describe(self._server.failure))
        else:
            self._call(method, request)

    def _call(self, method: str, request: Message) -> None:
        began = time.perf_counter()
        try:
            answer = self._server.call(method, request)
            if isinstance(answer, _RESPONSES[method].message):
                self._server.call_times[method].note(time.perf_counter() - began)
                self._answer_now(_encode_response(method, answer))
                return
            promise = self._server.follow(method, answer)
        except Exception as error:  # noqa: BLE001 - ends the node, by on_failure
            self._fail(method, error)
            return
        slot = _Slot()
        self._slots.append(slot)
        self._is_alone = method not in _CAN_WAIT
        promise.add_done_callback(partial(self._settle, method, slot, began))

    def _settle(self, method: str, slot: _Slot, began: float, promise: asyncio.Future[Any]) -> None:
        if method not in _CAN_WAIT:
            self._is_alone = False
            self._server.release()
        error = asyncio.CancelledError() if promise.cancelled() else promise.exception()
        if error is None and not isinstance(promise.result(), _RESPONSES[method].message):
            error = _wrong_answer(method, promise.result())
        if error is not None:
            self._fail(method, error)
            return
        self._server.call_times[method].note(time.perf_counter() - began)
        slot.payload = _encode_response(method, promise.result())
        if self._slots and self._slots[0] is slot:
            # Answers that come in one turn of the loop leave in one write.
            self._ask_for_turn()

    def _answer_now(self, payload: bytes) -> None:
        if not self._slots:
            self._put(payload)
            return
        slot = _Slot()
        slot.payload = payload
        self._slots.append(slot)

    def _put(self, payload: bytes) -> None:
        self._server.record(self._number, "response", payload)
        self._output += (_encode_uvarint(len(payload)), payload)

    def _collect(self) -> None:
        while self._slots and (payload := self._slots[0].payload) is not None:
            self._slots.popleft()
            self._put(payload)

    def _write(self) -> None:
        if self._output:
            # One write for a turn of the loop: a system call for each answer costs more than the
            # answer itself.
            self._transport.write(b"".join(self._output))
            self._output.clear()

    def _read_or_wait(self) -> None:
        if self._is_over:
            return
        if self._next is None:
            self._transport.resume_reading()
        elif len(self._buffer) - self._at > MAX_BACKLOG_BYTES:
            self._transport.pause_reading()

    def _fail(self, method: str, error: BaseException) -> None:
        self._server.fail(method, error)
        self._end(_describe(error))

    def _end(self, reason: str) -> None:
        """Say why and close, ahead of answers that are missing: CometBFT stops in any case."""
        if self._is_over:
            return
        self._collect()
        self._put(_encode_response("exception", abci.ResponseException(error=reason)))
        self._slots.clear()
        self._write()
        self._is_over = True
        self._transport.close()


def _decode_request(frame: bytes) -> tuple[str, Message]:
    """The method asked and its request.

    Raises: RequestRefused.
    """
    try:
        envelope = abci.Request.FromString(frame)
    except DecodeError as error:
        raise RequestRefused(f"expected a request, got {len(frame)} bytes: {error}") from error
    method = envelope.WhichOneof("value")
    if method is None:
        raise RequestRefused(f"expected a request of ABCI 2.0, got {frame[:32].hex() or 'nothing'}")
    if method not in METHODS and method not in {"echo", "flush"}:
        # InsertTx and ReapTxs are of 0.39 alone, and asked only for a mempool of the application's.
        raise RequestRefused(f"expected mempool.type = flood, got the call {method}")
    request: Message = getattr(envelope, method)
    return method, request


def _wrong_answer(method: str, answer: object) -> WrongAnswer:
    expected = _RESPONSES[method].message.__name__
    return WrongAnswer(f"expected {expected} to {method}, got {type(answer).__name__}")


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _bind(path: Path) -> socket.socket:
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise SocketPathTooLong(path)
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(os.fspath(path))
        # Nobody can connect before the server listens, so there is no moment with wider rights.
        path.chmod(stat.S_IRUSR | stat.S_IWUSR)
    except OSError:
        listener.close()
        raise
    return listener


def _remove_stale(path: Path) -> None:
    if not path.exists() and not path.is_symlink():
        return
    if not path.is_socket() or path.is_symlink():
        raise SocketTaken(path, "a file that is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            pass  # somebody listens, with a full queue
    raise SocketTaken(path, "a server that listens")
