"""What the routes share: the node's answers, who may ask, how answers and problems are sent."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import msgspec
from litestar import Request, Response

from hansa.interface.answers import Answers
from hansa.interface.client import Client
from hansa.interface.http.access import Access
from hansa.interface.http.feed import Feed
from hansa.interface.http.limits import HttpLimits, IdempotencyKeys, StoredAnswer
from hansa.interface.http.problems import MEDIA_TYPE as PROBLEM
from hansa.interface.http.problems import BadParameter, ProblemDetails
from hansa.node.node import Node

JSON = "application/json"
OCTETS = "application/octet-stream"
Asked = Request[Any, Any, Any]


@dataclass(frozen=True)
class Door:
    """Everything a route may need; built once for an application."""

    node: Node
    answers: Answers
    access: Access
    limits: HttpLimits
    keys: IdempotencyKeys
    feed: Feed
    gateway: Client
    """Signs for callers with a token, with the keys of the node's own store."""


def read_integer(request: Asked, name: str, default: int | None = None) -> int:
    """Return an integer of the query.

    Raises: BadParameter.
    """
    text = request.query_params.get(name)
    if text is None and default is not None:
        return default
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 18:
        given = "nothing" if text is None else text[:80]
        raise BadParameter(field=name, expected="a whole number", given=given)
    return int(text)


def read_text(request: Asked, name: str) -> str:
    """Return a text of the query.

    Raises: BadParameter.
    """
    text = request.query_params.get(name)
    if text is None:
        raise BadParameter(field=name, expected="a value", given="nothing")
    return str(text)


def make_problem(details: ProblemDetails) -> Response[bytes]:
    """Return the response of a problem (RFC 9457)."""
    headers = {}
    if details.retry_after_s is not None:
        headers["Retry-After"] = str(details.retry_after_s)
    if details.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    content = msgspec.json.encode(details.to_json())
    return Response(content, status_code=details.status, media_type=PROBLEM, headers=headers)


async def wait_for(futures: "Sequence[Future[Any]]") -> None:
    """Wait until every future is done, without ever cancelling one.

    A caller who hangs up must not cancel what the engine has taken: it is about to be answered.
    """
    waiting = [future for future in futures if not future.done()]
    if not waiting:
        return
    loop = asyncio.get_running_loop()
    everything = asyncio.Event()
    left = len(waiting)

    def count() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            everything.set()

    def tell(_: "Future[Any]") -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(count)

    for future in waiting:
        future.add_done_callback(tell)
    await everything.wait()


async def answer_once(
    door: Door, request: Asked, caller: str, act: Callable[[], Awaitable[StoredAnswer]]
) -> Response[bytes]:
    """Carry out a request, or repeat the answer it got before under its Idempotency-Key.

    What failed left nothing, so its key is free again. Raises: IdempotencyKeyReused,
    RequestInProgress, what ``act`` raises.
    """
    given = request.headers.get("idempotency-key")
    if given is None:
        return _send(await act())
    if not 1 <= len(given) <= 128:
        expected = "1 to 128 characters"
        raise BadParameter(field="idempotency-key", expected=expected, given=len(given))
    key = f"{caller}\n{given}"
    parts = (request.url.path, request.url.query, request.headers.get("content-type", ""))
    fingerprint = sha256("\n".join(parts).encode() + b"\n" + await request.body()).digest()
    stored = door.keys.begin(key, fingerprint)
    if stored is None:
        try:
            stored = await act()
        finally:
            door.keys.finish(key, fingerprint, stored)
    return _send(stored)


def _send(answer: StoredAnswer) -> Response[bytes]:
    return Response(answer.content, status_code=answer.status, media_type=answer.media_type)
