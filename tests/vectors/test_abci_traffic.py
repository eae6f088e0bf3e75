"""What CometBFT 0.39.4 sent is read as it meant it, and answered with the same bytes again.

`hansa/abci_traffic.jsonl` holds a clean start with users, a kill -9 and the recovery, as one
validator asked and the key-value application answered (`python -m tests.abci_engine`).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from tests.abci_engine import TRAFFIC
from tests.abci_grammar import check_grammar, check_heights
from tests.abci_world import (
    AbciClient,
    KeyValueApplication,
    Recorded,
    Recording,
    frame,
    parse_recording,
    render_recording,
)

from hansa.network.comet.abci import AbciServer
from hansa.network.comet.proto.abci import types_pb2 as abci

FIRST_OF_SECOND_ENGINE = 5
"""An engine opens four connections."""


@pytest.fixture(scope="module")
def traffic() -> list[Recorded]:
    """Every message, in the order in which it passed."""
    return parse_recording(TRAFFIC.read_text(encoding="utf-8"))


def test_the_engine_opens_four_connections(traffic: list[Recorded]) -> None:
    """What is asked on each tells which it is; the two engines ask alike."""
    asked: dict[int, set[str]] = {}
    for connection, direction, message in traffic:
        if direction == "request":
            method = abci.Request.FromString(message).WhichOneof("value")
            asked.setdefault(connection, set()).add(str(method))
    assert {"check_tx", "flush"} in asked.values()
    assert {"info", "query", "flush"} in asked.values()
    blocks = {"prepare_proposal", "process_proposal", "extend_vote", "finalize_block", "commit"}
    of_blocks = [connection for connection, methods in asked.items() if blocks <= methods]
    assert [True, False] == [connection < FIRST_OF_SECOND_ENGINE for connection in of_blocks]


def test_requests_are_read_to_the_last_byte(traffic: list[Recorded]) -> None:
    """Go's encoding and ours agree: nothing in a request is unknown to the stubs."""
    sent = [message for _, direction, message in traffic if direction == "request"]
    written = [abci.Request.FromString(message).SerializeToString() for message in sent]
    assert sent == written


def test_responses_are_what_protobuf_would_write(traffic: list[Recorded]) -> None:
    """The server puts the outer message together by hand."""
    sent = [message for _, direction, message in traffic if direction == "response"]
    written = [abci.Response.FromString(message).SerializeToString() for message in sent]
    assert sent == written


def test_the_same_questions_get_the_same_answers(traffic: list[Recorded], tmp_path: Path) -> None:
    """Replayed over a socket, in the recorded order, on as many connections."""

    async def replay() -> list[Recorded]:
        recording, failures = Recording(), list[BaseException]()
        path = tmp_path / "abci.sock"
        server = AbciServer(
            KeyValueApplication(), path, on_failure=failures.append, recorder=recording
        )
        await server.start()
        clients: dict[int, AbciClient] = {}
        numbers: list[int] = []
        for connection, direction, message in traffic:
            if connection not in clients:
                clients[connection] = await AbciClient.connect(path)
                numbers.append(connection)
            if direction == "request":
                clients[connection].send(frame(message))
            else:
                assert message == await clients[connection].receive_payload()
        for client in clients.values():
            await client.close()
        await server.close()
        assert [] == failures
        return [message._replace(connection=numbers[message.connection - 1])
                for message in recording.messages]  # fmt: skip

    answered = asyncio.run(asyncio.wait_for(replay(), 30))
    assert Counter(traffic) == Counter(answered)


def test_the_recording_keeps_to_the_grammar(traffic: list[Recorded]) -> None:
    """A clean start first, then a recovery."""
    recording = Recording()
    second_begins = [message.connection for message in traffic].index(FIRST_OF_SECOND_ENGINE)
    for message in traffic[:second_begins]:
        recording(*message)
    recording.begin_run()
    for message in traffic[second_begins:]:
        recording(*message)
    first, second = recording.runs()
    check_grammar([call.method for call in first], is_clean_start=True)
    check_grammar([call.method for call in second], is_clean_start=False)
    check_heights(first)
    check_heights(second)


def test_a_recording_is_read_as_it_was_written(traffic: list[Recorded]) -> None:
    """What the file says is all there is to a message."""
    assert traffic == parse_recording(render_recording(traffic))
