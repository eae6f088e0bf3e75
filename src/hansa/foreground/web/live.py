"""The live part of a page: fragments sent as server-sent events whenever the read model moved."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Hashable, Mapping
from typing import Final

from litestar.response import ServerSentEventMessage

MIN_INTERVAL_S: Final = 0.5
"""Faster than this nobody reads."""
LOAD_FACTOR: Final = 8
"""A stream rests so many times as long as its rendering took: readers never slow the market."""
HEARTBEAT_S: Final = 15.0
"""How often a silent stream says that it is alive, so that proxies keep it open."""
MAX_STREAMS: Final = 200
"""Open streams of one node; each costs a little work per block."""

Fragments = Mapping[str, str]
"""HTML by the name of the place on the page it belongs to."""


class TooManyStreams(Exception):
    """As many readers as this node serves live; the page works without, by reloading."""


class Pulse:
    """Wakes the streams of all readers; beaten by the projector's thread."""

    def __init__(self) -> None:
        self._listeners: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}
        self._lock = threading.Lock()
        self.is_closed = False

    def close(self) -> None:
        """End every stream: a server that stops doesn't wait for its readers."""
        self.is_closed = True
        self.beat(0)

    def beat(self, _height: int) -> None:
        """Wake every stream; from any thread."""
        with self._lock:
            listeners = list(self._listeners.items())
        for event, loop in listeners:
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)

    def listen(self) -> asyncio.Event:
        """Return an event that every beat sets, until it is dropped.

        Raises: TooManyStreams.
        """
        event = asyncio.Event()
        with self._lock:
            if len(self._listeners) >= MAX_STREAMS:
                raise TooManyStreams(f"streams: expected at most {MAX_STREAMS}, got one more")
            self._listeners[event] = asyncio.get_running_loop()
        return event

    def drop(self, event: asyncio.Event) -> None:
        """Stop waking an event."""
        with self._lock:
            self._listeners.pop(event, None)

    @property
    def streams(self) -> int:
        """How many streams are open."""
        return len(self._listeners)


async def stream_fragments(
    pulse: Pulse, event: asyncio.Event, render: Callable[[], Fragments]
) -> AsyncGenerator[ServerSentEventMessage, None]:
    """Yield each fragment that has changed, at once and then after every beat.

    ``render`` runs in a thread; it reads the database.
    """
    sent: dict[str, str] = {}
    try:
        while not pulse.is_closed:
            event.clear()
            started = time.monotonic()
            fragments = await asyncio.to_thread(render)
            took = time.monotonic() - started
            for name, html in fragments.items():
                if sent.get(name) != html:
                    sent[name] = html
                    yield ServerSentEventMessage(event=name, data=html)
            await asyncio.sleep(max(MIN_INTERVAL_S, LOAD_FACTOR * took))
            while not event.is_set() and not pulse.is_closed:
                try:
                    await asyncio.wait_for(event.wait(), HEARTBEAT_S)
                except TimeoutError:
                    yield ServerSentEventMessage(comment="still here")
    finally:
        pulse.drop(event)


class FragmentCache:
    """Renders once a moment for all readers of one language."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[Hashable, Fragments]] = {}

    def get(self, key: str, moment: Hashable, render: Callable[[], Fragments]) -> Fragments:
        """Return the fragments of a moment: a height, and what else they depend on.

        A second reader waits for the first one's.
        """
        with self._lock:
            kept = self._kept.get(key)
            if kept is None or kept[0] != moment:
                kept = self._kept[key] = (moment, render())
        return kept[1]
