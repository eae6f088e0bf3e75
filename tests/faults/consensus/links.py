"""TCP links between validators that can be slow, silent in one direction, stalled or reset.

Each node dials each other through a listener of its own, so what passes from one node to another
can be told from everything else, whoever of the two dialled. Bytes are held, never lost: to TCP a
partition is a long silence, after which what was written arrives or the connection is given up.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Iterable, Iterator
from functools import partial
from itertools import permutations
from typing import Any, Final, TypeVar

T = TypeVar("T")

HOST: Final = "127.0.0.1"
CHUNK_BYTES: Final = 65_536
MAX_CHUNKS: Final = 256
"""On their way in one direction of a connection; beyond it the sender has to wait."""

Pair = tuple[int, int]
"""Who sends, and who is to hear it."""
_Chunk = tuple[float, bytes]
"""Bytes and when they are due, by the loop's clock; no bytes are the end."""


class _Link:
    """What passes from one node to another, on all their connections."""

    def __init__(self) -> None:
        self.delay_s = 0.0
        self.flows = asyncio.Event()
        self.flows.set()


class Links:
    """A loop in a thread of its own that carries bytes between all pairs of nodes."""

    def __init__(self, ports: list[int]) -> None:
        """``ports`` are where the nodes listen for their peers, by number."""
        self._ports = ports
        self._loop = asyncio.new_event_loop()
        self._links = {pair: _Link() for pair in permutations(range(len(ports)), 2)}
        self._listeners: dict[Pair, asyncio.Server] = {}
        self._connections: dict[Pair, set[asyncio.Task[None]]] = {pair: set() for pair in self.all}
        self._thread = threading.Thread(target=self._loop.run_forever, name="links", daemon=True)
        self._thread.start()
        self._run(self._listen())

    @property
    def all(self) -> tuple[Pair, ...]:
        """Every direction there is."""
        return tuple(self._links)

    def address(self, dialling: int, dialled: int) -> str:
        """Where a node dials another."""
        port = self._listeners[dialling, dialled].sockets[0].getsockname()[1]
        return f"{HOST}:{port}"

    def between(self, left: Iterable[int], right: Iterable[int]) -> list[Pair]:
        """Both directions of every link between two groups of nodes."""
        right = list(right)
        return [pair for a in left for b in right for pair in ((a, b), (b, a))]

    def delay(self, pairs: Iterable[Pair], seconds: float) -> None:
        """Let bytes take so long in these directions."""
        for pair in pairs:
            self._links[pair].delay_s = seconds

    def hold(self, pairs: Iterable[Pair]) -> None:
        """Let nothing through in these directions, and no new connection that needs one of them."""
        self._tell([self._links[pair].flows.clear for pair in pairs])

    def release(self, pairs: Iterable[Pair]) -> None:
        """Let what was held go on."""
        self._tell([self._links[pair].flows.set for pair in pairs])

    def reset(self, pairs: Iterable[Pair]) -> None:
        """Break every connection that was dialled in one of these directions."""
        self._tell([task.cancel for pair in pairs for task in self._connections[pair]])

    def clear(self) -> None:
        """Make all links quick and open."""
        self.delay(self.all, 0.0)
        self.release(self.all)

    def close(self) -> None:
        """End every connection and the thread."""
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _tell(self, actions: list[Any]) -> None:
        async def act() -> None:
            for action in actions:
                action()

        self._run(act())

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    async def _listen(self) -> None:
        for pair in self.all:
            self._listeners[pair] = await asyncio.start_server(partial(self._accept, pair), HOST, 0)

    async def _end(self) -> None:
        for listener in self._listeners.values():
            listener.close()
        tasks = [task for found in self._connections.values() for task in found]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(
        self, pair: Pair, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[pair].add(task)
        dialling, dialled = pair
        with _ending(writer), contextlib.suppress(asyncio.CancelledError):
            try:
                for needed in (pair, (dialled, dialling)):
                    await self._links[needed].flows.wait()
                far_reader, far_writer = await asyncio.open_connection(HOST, self._ports[dialled])
                with _ending(far_writer):
                    await _carry_until_one_ends(
                        _carry(self._links[pair], reader, far_writer),
                        _carry(self._links[dialled, dialling], far_reader, writer),
                    )
            except OSError:
                pass  # The node dialled is down, or one of the two hung up.
            finally:
                self._connections[pair].discard(task)


@contextlib.contextmanager
def _ending(writer: asyncio.StreamWriter) -> Iterator[None]:
    try:
        yield
    finally:
        writer.transport.abort()  # A peer that dies doesn't say goodbye either.


async def _carry_until_one_ends(*directions: Coroutine[Any, Any, None]) -> None:
    tasks = [asyncio.create_task(direction) for direction in directions]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _carry(link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry one direction of a connection; a delay is that of each byte, not of the stream."""
    chunks: asyncio.Queue[_Chunk] = asyncio.Queue(MAX_CHUNKS)
    await _carry_until_one_ends(_take(link, reader, chunks), _give(link, chunks, writer))


async def _take(link: _Link, reader: asyncio.StreamReader, chunks: asyncio.Queue[_Chunk]) -> None:
    loop = asyncio.get_running_loop()
    while data := await reader.read(CHUNK_BYTES):
        await chunks.put((loop.time() + link.delay_s, data))
    await chunks.put((loop.time() + link.delay_s, b""))
    await asyncio.Event().wait()  # What was said before the end is still on its way.


async def _give(link: _Link, chunks: asyncio.Queue[_Chunk], writer: asyncio.StreamWriter) -> None:
    loop = asyncio.get_running_loop()
    while True:
        due, data = await chunks.get()
        await asyncio.sleep(max(0.0, due - loop.time()))
        await link.flows.wait()
        if not data:
            return
        writer.write(data)
        await writer.drain()
