"""An application, a client and a recording for the tests of the ABCI server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, Self

from google.protobuf.message import Message
from tests.abci_grammar import Call

from hansa.network.comet.abci import METHODS, Answer, Direction
from hansa.network.comet.proto.abci import types_pb2 as abci


class KeyValueApplication:
    """Keeps what transactions of the form key=value say; durable as long as the process."""

    def __init__(self) -> None:
        """Begin with no blocks."""
        self.height = 0
        self.committed: dict[bytes, bytes] = {}
        self.decided: dict[bytes, bytes] = {}
        self.deciding = 0
        self.watch: Callable[[str, Message], None] = lambda method, request: None
        """Is told of each call that belongs to a block, before it is answered."""
        self._progress = asyncio.Event()

    async def reach(self, height: int) -> None:
        """Wait until a block of that height is committed."""
        while self.height < height:
            self._progress = asyncio.Event()
            await self._progress.wait()

    def compute_hash(self, state: dict[bytes, bytes]) -> bytes:
        """Hash of the state: the same state at another height has the same."""
        return sha256(b"\n".join(key + b"=" + state[key] for key in sorted(state))).digest()

    def info(self, request: abci.RequestInfo) -> abci.ResponseInfo:
        """Say the last block."""
        last_hash = self.compute_hash(self.committed) if self.height else b""
        return abci.ResponseInfo(last_block_height=self.height, last_block_app_hash=last_hash)

    def init_chain(self, request: abci.RequestInitChain) -> Answer[abci.ResponseInitChain]:
        """Begin empty."""
        self.watch("init_chain", request)
        return abci.ResponseInitChain(app_hash=self.compute_hash({}))

    def prepare_proposal(
        self, request: abci.RequestPrepareProposal
    ) -> Answer[abci.ResponsePrepareProposal]:
        """Propose what the mempool has."""
        self.watch("prepare_proposal", request)
        return abci.ResponsePrepareProposal(txs=request.txs)

    def process_proposal(
        self, request: abci.RequestProcessProposal
    ) -> Answer[abci.ResponseProcessProposal]:
        """Accept whatever assigns."""
        self.watch("process_proposal", request)
        verdict = abci.ResponseProcessProposal.ProposalStatus.ACCEPT
        return abci.ResponseProcessProposal(status=verdict)

    def extend_vote(self, request: abci.RequestExtendVote) -> Answer[abci.ResponseExtendVote]:
        """Add the height."""
        self.watch("extend_vote", request)
        return abci.ResponseExtendVote(vote_extension=b"%d" % request.height)

    def verify_vote_extension(
        self, request: abci.RequestVerifyVoteExtension
    ) -> Answer[abci.ResponseVerifyVoteExtension]:
        """Accept the height only."""
        self.watch("verify_vote_extension", request)
        verdicts = abci.ResponseVerifyVoteExtension.VerifyStatus
        is_good = request.vote_extension == b"%d" % request.height
        return abci.ResponseVerifyVoteExtension(
            status=verdicts.ACCEPT if is_good else verdicts.REJECT
        )

    def finalize_block(
        self, request: abci.RequestFinalizeBlock
    ) -> Answer[abci.ResponseFinalizeBlock]:
        """Assign, beside what is committed."""
        self.watch("finalize_block", request)
        self.deciding = request.height
        self.decided = dict(self.committed)
        for transaction in request.txs:
            key, _, value = transaction.partition(b"=")
            self.decided[key] = value
        return abci.ResponseFinalizeBlock(
            tx_results=[abci.ExecTxResult(code=0)] * len(request.txs),
            app_hash=self.compute_hash(self.decided),
        )

    def commit(self, request: abci.RequestCommit) -> Answer[abci.ResponseCommit]:
        """Keep the decided state."""
        self.height, self.committed = self.deciding, self.decided
        self._progress.set()
        self.watch("commit", request)
        return abci.ResponseCommit()

    def check_tx(self, request: abci.RequestCheckTx) -> Answer[abci.ResponseCheckTx]:
        """Take what assigns; code 1 for the rest."""
        return abci.ResponseCheckTx(code=0 if b"=" in request.tx else 1)

    def query(self, request: abci.RequestQuery) -> Answer[abci.ResponseQuery]:
        """Read a committed value."""
        value = self.committed.get(request.data, b"")
        return abci.ResponseQuery(key=request.data, value=value, height=self.height)

    def list_snapshots(
        self, request: abci.RequestListSnapshots
    ) -> Answer[abci.ResponseListSnapshots]:
        """Have none."""
        return abci.ResponseListSnapshots()

    def offer_snapshot(
        self, request: abci.RequestOfferSnapshot
    ) -> Answer[abci.ResponseOfferSnapshot]:
        """Take none."""
        return abci.ResponseOfferSnapshot(result=abci.ResponseOfferSnapshot.Result.REJECT)

    def load_snapshot_chunk(
        self, request: abci.RequestLoadSnapshotChunk
    ) -> Answer[abci.ResponseLoadSnapshotChunk]:
        """Have none."""
        return abci.ResponseLoadSnapshotChunk()

    def apply_snapshot_chunk(
        self, request: abci.RequestApplySnapshotChunk
    ) -> Answer[abci.ResponseApplySnapshotChunk]:
        """Take none."""
        return abci.ResponseApplySnapshotChunk(result=abci.ResponseApplySnapshotChunk.Result.ABORT)


class Recorded(NamedTuple):
    """One message of a recording."""

    connection: int
    direction: Direction
    message: bytes


@dataclass
class Recording:
    """What passed between one server and the engines that came to it, one after the other."""

    messages: list[Recorded] = field(default_factory=list)
    _run: int = 0
    _run_of_connection: dict[int, int] = field(default_factory=dict)

    def __call__(self, connection: int, direction: Direction, message: bytes) -> None:
        """Take a message; this is the server's recorder."""
        self._run_of_connection.setdefault(connection, self._run)
        self.messages.append(Recorded(connection, direction, message))

    def begin_run(self) -> None:
        """Say that the connections seen from now on are another engine's."""
        self._run += 1

    def runs(self) -> list[list[Call]]:
        """The calls of each engine, in the order in which they were answered or begun."""
        runs: list[list[Call]] = [[] for _ in range(self._run + 1)]
        for connection, direction, message in self.messages:
            call = read_call(direction, message)
            if call is not None:
                runs[self._run_of_connection[connection]].append(call)
        return [run for run in runs if run]


def read_call(direction: Direction, message: bytes) -> Call | None:
    """The call that a message stands for: Info by its response, which bears the height.

    Echo and Flush are of the transport and stand for none.
    """
    if direction == "response":
        response = abci.Response.FromString(message)
        if response.WhichOneof("value") != "info":
            return None
        return Call("info", response.info.last_block_height)
    request = abci.Request.FromString(message)
    method = request.WhichOneof("value")
    assert method is not None
    if method in {"info", "echo", "flush"}:
        return None
    is_of_height = method not in {"query", "load_snapshot_chunk"}
    height = getattr(getattr(request, method), "height", 0) if is_of_height else 0
    return Call(method, height)


def render_recording(messages: Iterable[Recorded]) -> str:
    """A recording as lines of JSON, bytes in hexadecimal."""
    return "".join(
        json.dumps({"connection": number, "direction": direction, "message": message.hex()}) + "\n"
        for number, direction, message in messages
    )


def parse_recording(text: str) -> list[Recorded]:
    """What `render_recording` wrote."""
    lines = [json.loads(line) for line in text.splitlines()]
    return [
        Recorded(line["connection"], line["direction"], bytes.fromhex(line["message"]))
        for line in lines
    ]


def frame(payload: bytes) -> bytes:
    """A message with its length before it."""
    length, head = len(payload), bytearray()
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([*head, length]) + payload


def ask(method: str, **fields: Any) -> bytes:
    """A request in its frame."""
    names = {field.name: field for field in abci.Request.DESCRIPTOR.fields}
    message_type = names[method].message_type
    assert message_type is not None
    request = getattr(abci, message_type.name)(**fields)
    return frame(abci.Request(**{method: request}).SerializeToString())


EVERY_METHOD = (*METHODS, "echo", "flush")


class AbciClient:
    """One connection to the server, as an engine has four."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Speak over an open connection."""
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, path: Path) -> Self:
        """Open a connection."""
        return cls(*await asyncio.open_unix_connection(path, limit=1 << 20))

    def send(self, *frames: bytes) -> None:
        """Write requests without waiting."""
        self.writer.write(b"".join(frames))

    async def receive_payload(self) -> bytes:
        """The next message, without its length."""
        size = shift = 0
        while True:
            byte = (await self.reader.readexactly(1))[0]
            size |= (byte & 0x7F) << shift
            if byte < 0x80:
                return await self.reader.readexactly(size)
            shift += 7

    async def receive(self) -> abci.Response:
        """The next response."""
        return abci.Response.FromString(await self.receive_payload())

    async def is_closed(self) -> bool:
        """Whether the server ended it, with nothing left to read."""
        return await self.reader.read(1) == b""

    async def close(self) -> None:
        """Hang up."""
        self.writer.close()
        await self.writer.wait_closed()
