"""The ABCI server: framing, order, who goes first, failure, and its socket."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import stat
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.abci_grammar import Call, GrammarBroken, HeightBroken, check_grammar, check_heights
from tests.abci_world import EVERY_METHOD, AbciClient, KeyValueApplication, Recording, ask, frame
from tools.make_abci_stubs import TARGET, find_module, make_stubs

from hansa.network.comet.abci import (
    MAX_FRAME_BYTES,
    MAX_UNANSWERED,
    METHODS,
    AbciServer,
    Answer,
    Recorder,
    SocketPathTooLong,
    SocketTaken,
)
from hansa.network.comet.proto.abci import types_pb2 as abci

CLOSING_ORDER = ["finalize_block begins", "finalize_block ends", "info"]


class Held(KeyValueApplication):
    """Answers CheckTx and FinalizeBlock when the test says so."""

    def __init__(self) -> None:
        """Hold nothing yet."""
        super().__init__()
        self.checks: list[asyncio.Future[abci.ResponseCheckTx]] = []
        self.block: asyncio.Future[abci.ResponseFinalizeBlock]
        self.is_asked = asyncio.Event()
        self.order: list[str] = []

    def check_tx(self, request: abci.RequestCheckTx) -> Answer[abci.ResponseCheckTx]:
        """Promise an answer."""
        self.checks.append(asyncio.get_running_loop().create_future())
        self.is_asked.set()
        return self.checks[-1]

    def finalize_block(
        self, request: abci.RequestFinalizeBlock
    ) -> Answer[abci.ResponseFinalizeBlock]:
        """Promise a block."""
        self.block = asyncio.get_running_loop().create_future()
        self.order.append("finalize_block begins")
        self.is_asked.set()
        return self.block

    def info(self, request: abci.RequestInfo) -> abci.ResponseInfo:
        """Note when it was asked."""
        self.order.append("info")
        return super().info(request)

    def decide(self) -> None:
        """Answer FinalizeBlock."""
        self.order.append("finalize_block ends")
        self.block.set_result(abci.ResponseFinalizeBlock())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the server listens."""
    return tmp_path / "abci.sock"


@asynccontextmanager
async def serving(
    application: KeyValueApplication, path: Path, recorder: Recorder | None = None
) -> AsyncIterator[AbciServer]:
    """A server that has to end without a failure."""
    failures: list[BaseException] = []
    server = AbciServer(application, path, on_failure=failures.append, recorder=recorder)
    await server.start()
    try:
        yield server
    finally:
        await server.close()
    assert [] == failures


def run(case: Coroutine[Any, Any, None]) -> None:
    """Run to the end within ten seconds: a lost answer would otherwise wait for ever."""
    asyncio.run(asyncio.wait_for(case, 10))


def test_every_method_is_answered_with_its_response(path: Path) -> None:
    """The fourteen methods, Echo and Flush."""

    async def case() -> None:
        async with serving(KeyValueApplication(), path) as server:
            client = await AbciClient.connect(path)
            for method in EVERY_METHOD:
                client.send(ask(method))
            answered = [(await client.receive()).WhichOneof("value") for _ in EVERY_METHOD]
            assert list(EVERY_METHOD) == answered
            assert dict.fromkeys(METHODS, 1) == {
                method: spent.calls for method, spent in server.call_times.items()
            }
            await client.close()

    run(case())


def test_echo_returns_the_message(path: Path) -> None:
    """The text comes back, however long its length is written."""

    async def case() -> None:
        async with serving(KeyValueApplication(), path):
            client = await AbciClient.connect(path)
            for text in ("", "a", "ä" * 100, "x" * 300_000):
                client.send(ask("echo", message=text))
                assert text == (await client.receive()).echo.message
            await client.close()

    run(case())


@pytest.mark.parametrize("largest", [1, 7, 200])
def test_frames_may_arrive_in_pieces(path: Path, seed: int, largest: int) -> None:
    """However the bytes are cut, the same answers come in the same order."""

    async def case() -> None:
        generator = random.Random(seed)
        async with serving(KeyValueApplication(), path):
            client = await AbciClient.connect(path)
            texts = ["x" * generator.randrange(400) for _ in range(20)]
            stream = b"".join(ask("echo", message=text) for text in texts)
            while stream:
                size = generator.randint(1, largest)
                client.send(stream[:size])
                await client.writer.drain()
                stream = stream[size:]
                await asyncio.sleep(0)
            assert texts == [(await client.receive()).echo.message for _ in texts]
            await client.close()

    run(case())


def test_answers_keep_the_order_of_the_questions(path: Path) -> None:
    """CheckTx that is answered late holds back what was asked after it, Flush included."""

    async def case() -> None:
        application = Held()
        async with serving(application, path):
            client = await AbciClient.connect(path)
            client.send(*[ask("check_tx", tx=b"%d" % index) for index in range(5)])
            client.send(ask("flush"), ask("echo", message="last"))
            while len(application.checks) < 5:
                await application.is_asked.wait()
                application.is_asked.clear()
            for index in reversed(range(5)):
                application.checks[index].set_result(abci.ResponseCheckTx(code=index))
            answers = [await client.receive() for _ in range(7)]
            assert [0, 1, 2, 3, 4] == [answer.check_tx.code for answer in answers[:5]]
            assert ["flush", "echo"] == [answer.WhichOneof("value") for answer in answers[5:]]
            await client.close()

    run(case())


def test_more_may_wait_than_may_be_unanswered(path: Path) -> None:
    """Beyond the bound the application is not asked, and it goes on as answers leave."""

    async def case() -> None:
        application = Held()
        async with serving(application, path):
            client = await AbciClient.connect(path)
            count = MAX_UNANSWERED + 100
            client.send(*[ask("check_tx", tx=b"k=v")] * count, ask("info"))
            begun = 0
            while begun < count:
                while len(application.checks) < min(count, begun + MAX_UNANSWERED):
                    await application.is_asked.wait()
                    application.is_asked.clear()
                assert len(application.checks) <= begun + MAX_UNANSWERED
                for promise in application.checks[begun:]:
                    promise.set_result(abci.ResponseCheckTx())
                begun = len(application.checks)
            answers = [(await client.receive()).WhichOneof("value") for _ in range(count + 1)]
            assert ["check_tx"] * count + ["info"] == answers
            await client.close()

    run(case())


def test_consensus_goes_before_a_flood_of_checks(path: Path) -> None:
    """A block is finalized after a few slices of CheckTx, not after all that are waiting."""

    class Slow(KeyValueApplication):
        """Takes its time for each transaction."""

        checked = 0
        checked_before_block = -1

        def check_tx(self, request: abci.RequestCheckTx) -> Answer[abci.ResponseCheckTx]:
            """Compute for a while."""
            self.checked += 1
            sum(range(2_000))
            return super().check_tx(request)

        def finalize_block(
            self, request: abci.RequestFinalizeBlock
        ) -> Answer[abci.ResponseFinalizeBlock]:
            """Note how many went first."""
            self.checked_before_block = self.checked
            return super().finalize_block(request)

    async def case() -> None:
        application, count = Slow(), 10_000
        async with serving(application, path):
            mempool, consensus = await AbciClient.connect(path), await AbciClient.connect(path)
            mempool.send(*[ask("check_tx", tx=b"k=v")] * count)
            await mempool.receive()
            consensus.send(ask("finalize_block", height=1))
            assert "finalize_block" == (await consensus.receive()).WhichOneof("value")
            assert application.checked_before_block < count // 2
            for _ in range(count - 1):
                await mempool.receive()
            await mempool.close()
            await consensus.close()

    run(case())


def test_checks_go_on_while_a_block_is_executed(path: Path) -> None:
    """A FinalizeBlock under way on one connection holds back no CheckTx of another."""

    async def case() -> None:
        application = Held()
        async with serving(application, path):
            mempool, consensus = await AbciClient.connect(path), await AbciClient.connect(path)
            consensus.send(ask("finalize_block", height=1))
            await application.is_asked.wait()
            application.is_asked.clear()
            mempool.send(ask("check_tx", tx=b"k=v"))
            await application.is_asked.wait()
            application.checks[0].set_result(abci.ResponseCheckTx(code=3))
            assert 3 == (await mempool.receive()).check_tx.code
            application.decide()
            assert "finalize_block" == (await consensus.receive()).WhichOneof("value")
            await mempool.close()
            await consensus.close()

    run(case())


def test_an_engine_that_returns_waits_for_the_block_of_the_one_before(path: Path) -> None:
    """Info would otherwise tell the height before a block that is about to be executed."""

    async def case() -> None:
        application = Held()
        async with serving(application, path):
            killed = await AbciClient.connect(path)
            killed.send(ask("finalize_block", height=1))
            await application.is_asked.wait()
            await killed.close()
            returned = await AbciClient.connect(path)
            returned.send(ask("echo", message="here"), ask("info"))
            assert "here" == (await returned.receive()).echo.message
            application.decide()
            assert "info" == (await returned.receive()).WhichOneof("value")
            assert CLOSING_ORDER == application.order
            await returned.close()

    run(case())


def test_close_waits_for_the_block_under_way(path: Path) -> None:
    """Nothing changes state after the server is closed."""

    async def case() -> None:
        application = Held()
        async with serving(application, path) as server:
            client = await AbciClient.connect(path)
            client.send(ask("finalize_block", height=1))
            await application.is_asked.wait()
            closing = asyncio.ensure_future(server.close())
            assert await client.is_closed()
            assert not closing.done()
            application.decide()
            await closing
            await client.close()

    run(case())


def test_a_thread_may_answer(path: Path) -> None:
    """A future of concurrent.futures and a coroutine are as good as a response."""

    class Elsewhere(KeyValueApplication):
        """Answers from other threads and tasks."""

        threads = ThreadPoolExecutor(1)

        def commit(self, request: abci.RequestCommit) -> Answer[abci.ResponseCommit]:
            """Answer from a thread."""
            return self.threads.submit(abci.ResponseCommit, retain_height=7)

        async def query(self, request: abci.RequestQuery) -> abci.ResponseQuery:
            """Answer as a coroutine."""
            return abci.ResponseQuery(code=5)

    async def case() -> None:
        async with serving(Elsewhere(), path):
            client = await AbciClient.connect(path)
            client.send(ask("commit"), ask("query"))
            assert 7 == (await client.receive()).commit.retain_height
            assert 5 == (await client.receive()).query.code
            await client.close()

    run(case())
    Elsewhere.threads.shutdown()


def _raise(request: abci.RequestCheckTx) -> Answer[abci.ResponseCheckTx]:
    raise KeyError("no such key")


async def _raise_later(request: abci.RequestCheckTx) -> abci.ResponseCheckTx:
    raise KeyError("no such key")


def _cancel(request: abci.RequestCheckTx) -> Answer[abci.ResponseCheckTx]:
    promise = asyncio.get_running_loop().create_future()
    promise.cancel()
    return promise


def _answer_otherwise(request: abci.RequestCheckTx) -> Any:
    return abci.ResponseCommit()


async def _answer_otherwise_later(request: abci.RequestCheckTx) -> Any:
    return abci.ResponseCommit()


WRONG = "WrongAnswer: expected ResponseCheckTx to check_tx, got ResponseCommit"
FAILURES: dict[str, tuple[Callable[[abci.RequestCheckTx], Any], str]] = {
    "raises": (_raise, "KeyError: 'no such key'"),
    "raises later": (_raise_later, "KeyError: 'no such key'"),
    "is cancelled": (_cancel, "CancelledError: "),
    "answers another question": (_answer_otherwise, WRONG),
    "answers another question later": (_answer_otherwise_later, WRONG),
    "returns nothing": (
        lambda request: None,
        "WrongAnswer: expected ResponseCheckTx to check_tx, got NoneType",
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failing_application_is_asked_nothing_more(
    path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """CometBFT gets the exception, the node is told once, other connections learn it too."""
    check_tx, expected = FAILURES[name]

    async def case() -> None:
        application, failures = KeyValueApplication(), list[BaseException]()
        vars(application)["check_tx"] = check_tx
        asked: list[str] = []
        application.watch = lambda method, request: asked.append(method)
        server = AbciServer(application, path, on_failure=failures.append)
        await server.start()
        mempool, consensus = await AbciClient.connect(path), await AbciClient.connect(path)
        mempool.send(ask("echo", message="before"), *[ask("check_tx", tx=b"k=v")] * 3)
        assert "before" == (await mempool.receive()).echo.message
        assert expected == (await mempool.receive()).exception.error
        assert await mempool.is_closed()
        consensus.send(ask("finalize_block", height=1))
        assert expected == (await consensus.receive()).exception.error
        assert await consensus.is_closed()
        assert [server.failure] == failures
        assert [] == asked
        await mempool.close()
        await consensus.close()
        await server.close()

    with caplog.at_level(logging.CRITICAL, "hansa"):
        run(case())
    assert ["the application failed in check_tx"] == caplog.messages


LONG = MAX_FRAME_BYTES + 1
REFUSED = {
    "too large": (
        bytes([LONG & 0x7F | 0x80, LONG >> 7 & 0x7F | 0x80, LONG >> 14 & 0x7F | 0x80, LONG >> 21]),
        f"expected at most {MAX_FRAME_BYTES} bytes in a frame, got {LONG}",
    ),
    "endless length": (b"\x80" * 16, "expected a length of 4 bytes, got a longer one"),
    "no message": (frame(b"\xff\xff"), "expected a request, got 2 bytes: Error parsing message"),
    "empty": (frame(b""), "expected a request of ABCI 2.0, got nothing"),
    "retired method": (frame(b"\x3a\x00"), "expected a request of ABCI 2.0, got 3a00"),
    "application's own mempool": (
        ask("insert_tx", tx=b"k=v"),
        "expected mempool.type = flood, got the call insert_tx",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_request_ends_the_connection(path: Path, name: str) -> None:
    """It is told why; the application is not asked, and other connections go on."""
    sent, expected = REFUSED[name]

    async def case() -> None:
        async with serving(KeyValueApplication(), path) as server:
            good, bad = await AbciClient.connect(path), await AbciClient.connect(path)
            bad.send(ask("echo", message="before"), sent, ask("check_tx", tx=b"k=v"))
            assert "before" == (await bad.receive()).echo.message
            assert expected == (await bad.receive()).exception.error.partition(" with ")[0]
            good.send(ask("commit"))
            assert "commit" == (await good.receive()).WhichOneof("value")
            assert 0 == server.call_times["check_tx"].calls
            await good.close()
            bad.writer.close()

    run(case())


def test_traffic_is_recorded_in_both_directions(path: Path) -> None:
    """Each message without its length, by the number of its connection."""

    async def case() -> None:
        recording = Recording()
        async with serving(KeyValueApplication(), path, recording):
            for number in (1, 2):
                client = await AbciClient.connect(path)
                client.send(ask("query", data=b"%d" % number))
                await client.receive()
                await client.close()
        assert [(1, "request"), (1, "response"), (2, "request"), (2, "response")] == [
            message[:2] for message in recording.messages
        ]
        keys = [
            abci.Request.FromString(recording.messages[0].message).query.data,
            abci.Response.FromString(recording.messages[1].message).query.key,
        ]
        assert [b"1", b"1"] == keys

    run(case())


def rights(path: Path) -> int | None:
    """Who may do what with a file; None where there is none."""
    return stat.S_IMODE(path.stat().st_mode) if path.exists() else None


def test_only_this_user_may_connect(path: Path) -> None:
    """The socket is made with rights 0600 and taken away with the server."""

    async def case() -> None:
        async with serving(KeyValueApplication(), path):
            assert 0o600 == rights(path)
        assert rights(path) is None

    run(case())


def test_a_socket_that_nobody_listens_on_is_replaced(path: Path) -> None:
    """A killed node leaves its socket behind."""
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(os.fspath(path))

    async def case() -> None:
        async with serving(KeyValueApplication(), path):
            client = await AbciClient.connect(path)
            client.send(ask("flush"))
            assert "flush" == (await client.receive()).WhichOneof("value")
            await client.close()

    run(case())


def test_a_server_that_listens_is_left_alone(path: Path) -> None:
    """Two nodes on one socket would answer for each other."""

    async def case() -> None:
        async with serving(KeyValueApplication(), path):
            second = AbciServer(KeyValueApplication(), path, on_failure=lambda error: None)
            with pytest.raises(SocketTaken, match=r"expected nobody at .*, got a server"):
                await second.start()
            await second.close()
            assert 0o600 == rights(path)

    run(case())


def test_a_file_in_the_way_is_left_alone(path: Path) -> None:
    """What is no socket was not left by a node."""
    path.write_text("precious", encoding="utf-8")
    server = AbciServer(KeyValueApplication(), path, on_failure=lambda error: None)
    with pytest.raises(SocketTaken, match=r"expected nobody at .*, got a file that is no socket"):
        run(server.start())
    assert "precious" == path.read_text(encoding="utf-8")


def test_a_path_too_long_is_named(tmp_path: Path) -> None:
    """The operating system would say only that it is invalid."""
    path = tmp_path / ("x" * 120)
    server = AbciServer(KeyValueApplication(), path, on_failure=lambda error: None)
    with pytest.raises(SocketPathTooLong, match="expected at most 107 bytes of path, got"):
        run(server.start())


def test_the_stubs_are_what_the_tool_makes() -> None:
    """Compared wherever the Go module is at hand; without Go the engine can't be built at all."""
    module = find_module()
    if module is not None:
        found = {
            path.relative_to(TARGET).as_posix(): path.read_text(encoding="utf-8")
            for path in TARGET.rglob("*.py*")
            if path.suffix != ".pyc"
        }
        assert make_stubs(module) == found


ALLOWED = {
    "genesis": (True, "info init_chain prepare_proposal process_proposal finalize_block commit"),
    "stopped in a height": (True, "info init_chain process_proposal finalize_block"),
    "two rounds": (
        True,
        "info init_chain process_proposal prepare_proposal process_proposal finalize_block commit",
    ),
    "vote extensions": (
        False,
        "info process_proposal extend_vote verify_vote_extension finalize_block commit extend_vote",
    ),
    "state sync": (
        True,
        "offer_snapshot offer_snapshot apply_snapshot_chunk info finalize_block commit",
    ),
    "state sync at the second attempt": (
        True,
        "offer_snapshot apply_snapshot_chunk offer_snapshot apply_snapshot_chunk info",
    ),
    "recovery": (False, "info finalize_block commit finalize_block commit process_proposal"),
    "recovery before the first block": (False, "info init_chain finalize_block commit"),
    "asked by a user": (False, "info info check_tx finalize_block info query commit"),
    "nothing yet": (False, ""),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_the_grammar_allows(name: str) -> None:
    """Runs as the specification describes them."""
    is_clean_start, methods = ALLOWED[name]
    check_grammar(methods.split(), is_clean_start=is_clean_start)


BROKEN = {
    "no handshake": (True, "init_chain", 0, {"info", "offer_snapshot"}),
    "no genesis": (True, "info finalize_block", 1, {"init_chain"}),
    "snapshot in a recovery": (False, "offer_snapshot", 0, {"info"}),
    "no chunk": (True, "offer_snapshot info", 1, {"offer_snapshot", "apply_snapshot_chunk"}),
    "unverified snapshot": (
        True,
        "offer_snapshot apply_snapshot_chunk finalize_block",
        2,
        {"info", "offer_snapshot", "apply_snapshot_chunk"},
    ),
    "two blocks at once": (False, "info finalize_block finalize_block", 2, {"commit"}),
    "no commit": (False, "info finalize_block check_tx process_proposal", 3, {"commit"}),
}


@pytest.mark.parametrize("name", BROKEN)
def test_the_grammar_refuses(name: str) -> None:
    """The position and what was expected there are told."""
    is_clean_start, methods, position, expected = BROKEN[name]
    with pytest.raises(GrammarBroken) as caught:
        check_grammar(methods.split(), is_clean_start=is_clean_start)
    assert (position, frozenset(expected)) == (caught.value.position, caught.value.expected)


HEIGHTS = {
    "in step": ([("info", 4), ("process_proposal", 5), ("finalize_block", 5), ("commit", 0)], -1),
    "skipped": ([("info", 4), ("finalize_block", 6)], 1),
    "repeated": ([("info", 4), ("finalize_block", 5), ("commit", 0), ("finalize_block", 5)], 3),
    "genesis over blocks": ([("info", 4), ("init_chain", 0)], 1),
    "early proposal": ([("info", 0), ("init_chain", 0), ("prepare_proposal", 2)], 2),
    "synced": (
        [("offer_snapshot", 0), ("apply_snapshot_chunk", 0), ("info", 9), ("finalize_block", 10)],
        -1,
    ),
}


@pytest.mark.parametrize("name", HEIGHTS)
def test_heights_follow_one_another(name: str) -> None:
    """A height that is skipped, repeated or worked on early is told by its position."""
    calls, position = HEIGHTS[name]
    steps = [Call(method, height) for method, height in calls]
    if position < 0:
        check_heights(steps)
        return
    with pytest.raises(HeightBroken) as caught:
        check_heights(steps)
    assert position == caught.value.position
