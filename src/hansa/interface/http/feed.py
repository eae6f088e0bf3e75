"""The live feed: blocks and changes of objects, pushed to whoever listens."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Final

import msgspec
from litestar.response import ServerSentEventMessage
from msgspec import Struct

from hansa.core.block import BlockRecord, ChainRecord, decode_stored_receipt
from hansa.core.codec import readable_name
from hansa.core.readmodel import event_name
from hansa.interface.http.limits import HttpLimits
from hansa.node.node import Node

MAX_BLOCKS: Final = 64
"""Blocks that are told one by one after a pause; of a longer one only the newest."""

MAX_CHANGES: Final = 500
"""Changes told of one chain in one block; a flood is better read as pages."""


@dataclass
class Listener:
    """One reader of the feed."""

    loop: asyncio.AbstractEventLoop
    limit: int
    waiting: deque[ServerSentEventMessage] = field(default_factory=deque)
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    is_cut_off: bool = False
    is_over: bool = False

    def push(self, messages: list[ServerSentEventMessage]) -> None:
        """Queue messages, in the loop's thread; who is too slow is told so and cut off."""
        if len(self.waiting) + len(messages) > self.limit:
            self.is_cut_off = True
            self.waiting.clear()
        elif not self.is_cut_off:
            self.waiting.extend(messages)
        self.woken.set()

    def end(self) -> None:
        """Let the reader go, in the loop's thread."""
        self.is_over = True
        self.woken.set()


class Feed:
    """Turns projected blocks into events, once for all listeners, and only if there are any."""

    def __init__(self, node: Node, limits: HttpLimits) -> None:
        self._node = node
        self._limits = limits
        self._lock = Lock()
        self._listeners: list[Listener] = []
        self._told = node.read_model.height
        self._names = {
            event: event_name(module.name, event)
            for book in node.rulebooks.values()
            for module in book.modules
            for event in module.events
        }
        node.on_projected.append(self._take)

    @property
    def is_full(self) -> bool:
        """Whether no more listeners are taken."""
        return len(self._listeners) >= self._limits.feed_clients

    def close(self) -> None:
        """Let every listener go; from any thread."""
        if self._take in self._node.on_projected:
            self._node.on_projected.remove(self._take)
        with self._lock:
            listeners = list(self._listeners)
        for listener in listeners:
            self._call(listener, listener.end)

    def _take(self, height: int) -> None:
        with self._lock:
            listeners = list(self._listeners)
            first, self._told = self._told + 1, height
        if not listeners:
            return
        messages = self.tell(first, height)
        for listener in listeners:
            self._call(listener, lambda listener=listener: listener.push(messages))

    def _call(self, listener: Listener, callback: Any) -> None:
        if listener.loop.is_closed():
            self._drop(listener)
            return
        listener.loop.call_soon_threadsafe(callback)

    def _drop(self, listener: Listener) -> None:
        with self._lock:
            if listener in self._listeners:
                self._listeners.remove(listener)

    async def listen(self, after: int | None) -> AsyncIterator[ServerSentEventMessage]:
        """Yield events; ``after`` is the last height heard, from which to go on if it is recent."""
        limits = self._limits
        listener = Listener(asyncio.get_running_loop(), limits.feed_queue)
        with self._lock:
            self._listeners.append(listener)
            told = self._told
        try:
            yield ServerSentEventMessage(comment="hansa feed", data=None, retry=2000)
            if after is not None and after < told:
                for message in await asyncio.to_thread(self.tell, after + 1, told):
                    yield message
            while not listener.is_over:
                while listener.waiting:
                    yield listener.waiting.popleft()
                if listener.is_cut_off:
                    yield make_message("dropped", {"reason": "this reader is too slow"})
                    return
                if not await _wait(listener, limits.feed_heartbeat_s):
                    yield ServerSentEventMessage(comment="still here", data=None)
        finally:
            self._drop(listener)

    def tell(self, first: int, last: int) -> list[ServerSentEventMessage]:
        """Return the events of blocks; of many only the newest."""
        messages: list[ServerSentEventMessage] = []
        for height in range(max(first, last - MAX_BLOCKS + 1, 0), last + 1):
            record = self._node.read_block(height)
            changes = [change for part in record.chains for change in self._changes(record, part)]
            messages += [make_message("change", change) for change in changes]
            # The id comes with the block, last: who resumes after it has heard all of it.
            messages.append(make_message("block", _describe(record), height))
        return messages

    def _changes(self, record: BlockRecord, part: ChainRecord) -> Iterator[dict[str, Any]]:
        if part.header is None:
            return
        told = 0
        decode = self._node.ledger.chains[part.chain].decode_stored_event
        leaf = part.header.log_size - len(part.receipts)
        for offset, data in enumerate(part.receipts):
            for index, encoded in enumerate(decode_stored_receipt(data).events):
                event = decode(encoded)
                place = {
                    "event": self._names.get(type(event), ""),
                    "chain": part.chain,
                    "height": record.height,
                    "leaf": leaf + offset,
                    "event_index": index,
                    "time_ms": record.time_ms,
                }
                for change in find_objects(event, self._node.kinds):
                    yield {**change, **place}
                    told += 1
                if told >= MAX_CHANGES:
                    return


def find_objects(event: Struct, kinds: Any) -> Iterator[dict[str, Any]]:
    """Yield kind, id and status of the whole records that an event carries."""
    for name in event.__struct_fields__:
        record = getattr(event, name)
        identifier = getattr(record, "id", None)
        kind = readable_name(type(record))
        if isinstance(identifier, bytes) and kind in kinds:
            status = getattr(record, "status", None)
            yield {"kind": kind, "id": identifier.hex(), "status": status}


def make_message(
    event: str, data: dict[str, Any], identifier: int | None = None
) -> ServerSentEventMessage:  # fmt: skip
    """Return one event of the feed."""
    text = msgspec.json.encode(data).decode()
    return ServerSentEventMessage(data=text, event=event, id=identifier)


def _describe(record: BlockRecord) -> dict[str, Any]:
    return {
        "height": record.height,
        "time_ms": record.time_ms,
        "app_hash": record.network_hash.hex(),
        "chains": {
            part.chain: {
                "log_size": part.header.log_size,
                "transactions": len(part.envelopes),
                "entries": len(part.receipts),
            }
            for part in record.chains
            if part.header is not None
        },
    }


async def _wait(listener: Listener, seconds: float) -> bool:
    try:
        await asyncio.wait_for(listener.woken.wait(), seconds)
    except TimeoutError:
        return False
    listener.woken.clear()
    return True
