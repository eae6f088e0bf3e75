"""CometBFT itself asks our server, and is killed at each call: it keeps to its own grammar."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from copy import deepcopy
from pathlib import Path
from typing import Any

from google.protobuf.message import Message
from tests.abci_engine import Engine, running, trade
from tests.abci_grammar import Call, check_grammar, check_heights
from tests.abci_world import KeyValueApplication, Recording

from hansa.network.comet.abci import AbciServer

KILLED_AT = (
    "init_chain",
    "prepare_proposal",
    "process_proposal",
    "extend_vote",
    "finalize_block",
    "commit",
)


def run(case: Coroutine[Any, Any, None]) -> None:
    """Run to the end within one minute: an engine that waits for ever has lost an answer."""
    asyncio.run(asyncio.wait_for(case, 60))


def check_runs(runs: list[list[Call]]) -> None:
    """The first run is a clean start, each other one a recovery."""
    for number, calls in enumerate(runs):
        check_grammar([call.method for call in calls], is_clean_start=number == 0)
        check_heights(calls)


def test_a_clean_start_and_its_users(tmp_path: Path) -> None:
    """Blocks, transactions, rechecks, queries: all that is asked of one validator alone."""

    async def case() -> None:
        application, recording = KeyValueApplication(), Recording()
        engine = Engine(tmp_path / "engine")
        async with running(engine, application, recording):
            await trade(engine, application)
        (calls,) = recording.runs()
        check_runs([calls])
        assert {
            "info",
            "init_chain",
            "check_tx",
            "prepare_proposal",
            "process_proposal",
            "extend_vote",
            "finalize_block",
            "commit",
            "query",
        } == {call.method for call in calls}

    run(case())


def test_the_engine_is_killed_at_every_call(tmp_path: Path) -> None:
    """Killed before it has the answer, it recovers as its grammar says, and no block is lost."""

    async def case() -> None:
        application, recording = KeyValueApplication(), Recording()
        engine = Engine(tmp_path / "engine")
        committed: list[int] = []
        target, earliest = KILLED_AT[0], 0

        def watch(method: str, request: Message) -> None:
            if method == "commit":
                committed.append(application.height)
            if method == target and application.height >= earliest:
                engine.kill()

        application.watch = watch
        async with running(engine, application, recording):
            for following in (*KILLED_AT[1:], ""):
                assert -9 == await engine.wait()
                target = following
                earliest = application.height + 2
                recording.begin_run()
                await engine.start()
            await application.reach(earliest)
        runs = recording.runs()
        assert len(KILLED_AT) + 1 == len(runs)
        # Killed in InitChain, it has no block yet: the second start is at genesis again.
        assert ["info", "init_chain"] == [call.method for call in runs[1][:2]]
        check_runs(runs)
        assert list(range(1, application.height + 1)) == committed

    run(case())


def test_an_application_that_fell_back_is_replayed_to(tmp_path: Path) -> None:
    """Blocks that the application lost come again, decided, before anything is proposed."""

    async def case() -> None:
        application, recording = KeyValueApplication(), Recording()
        engine = Engine(tmp_path / "engine")
        async with running(engine, application, recording):
            await application.reach(2)
            kept = (application.height, deepcopy(application.committed))
            await application.reach(5)
        lost = application.height
        check_runs(recording.runs())

        behind, recovery = KeyValueApplication(), Recording()
        behind.height, behind.committed = kept
        async with running(engine, behind, recovery):
            await behind.reach(lost + 1)
        (calls,) = recovery.runs()
        methods = [call.method for call in calls]
        check_grammar(methods, is_clean_start=False)
        check_heights(calls)
        replayed = ["info", *["finalize_block", "commit"] * (lost - kept[0])]
        assert replayed == methods[: len(replayed)]

    run(case())


def test_the_engine_stops_when_the_application_fails(tmp_path: Path) -> None:
    """It is told by an exception, ends by itself, and the block was never executed."""

    async def case() -> None:
        application, failures = KeyValueApplication(), list[BaseException]()
        engine = Engine(tmp_path / "engine")

        def watch(method: str, request: Message) -> None:
            if method == "finalize_block" and application.height == 2:
                raise ZeroDivisionError("a bug")

        application.watch = watch
        server = AbciServer(application, engine.application_socket, on_failure=failures.append)
        await server.start()
        await engine.start()
        await engine.wait()  # its status says nothing: it asks itself to end, and may end well
        await server.close()
        assert ["a bug"] == [str(error) for error in failures]
        assert 2 == application.height

    run(case())
