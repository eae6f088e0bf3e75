"""The HTTP door of a node: the application, and the server that runs it."""

import asyncio
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

import structlog
import uvicorn
from litestar import Litestar, Request, Response
from litestar.datastructures import State
from litestar.exceptions import HTTPException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme
from litestar.types import ASGIApp, ControllerRouterHandler, Receive, Scope, Send

import hansa
from hansa.interface.answers import Answers
from hansa.interface.client import Client, LocalTransport, Problem
from hansa.interface.http.access import Access
from hansa.interface.http.door import Door, make_problem
from hansa.interface.http.feed import Feed
from hansa.interface.http.limits import IdempotencyKeys, RateLimiter, read_limits
from hansa.interface.http.problems import (
    ANSWERED,
    ProblemDetails,
    describe,
    describe_status,
)
from hansa.interface.http.routes import (
    anchoring,
    bank,
    catalogue,
    feed,
    link,
    logs,
    members,
    messages,
    orders,
    proofs,
    relay,
    shipments,
    status,
    transactions,
    validators,
)
from hansa.interface.http.tokens import TokenStore
from hansa.node.home import make_trust
from hansa.node.node import Node

GATEWAY_LANES: Final = tuple(range(1, 33))
"""Lanes the gateway signs on: as many transactions of one account may be under way. Lane 0 is left
to who signs for himself."""

ON_STOP: Final = "on_stop"
"""In the application's state, a list of what is called when the server stops: whoever keeps streams
open ends them there, or the server would wait for its listeners."""

ROUTES: Final = (
    status, transactions, messages, proofs, logs, feed, relay,
    members, bank, catalogue, orders, shipments, link, anchoring, validators,
)  # fmt: skip

log = structlog.get_logger("hansa.http")


def make_door(node: Node) -> Door:
    """Return what the routes of a node share."""
    limits = read_limits(node.config.http)
    gateway = Client(
        LocalTransport(node),
        node.keys,
        make_trust(node.genesis),
        lanes=GATEWAY_LANES,
        clock=lambda: max(node.engine.clock(), node.ledger.time_ms),
    )
    return Door(
        node=node,
        answers=Answers(node),
        access=Access(node, TokenStore(node.home)),
        limits=limits,
        keys=IdempotencyKeys(limits.kept_answers),
        feed=Feed(node, limits),
        gateway=gateway,
    )


def make_app(
    node: Node, door: Door | None = None, routes: Sequence[ControllerRouterHandler] = ()
) -> Litestar:
    """Return the application of a node that is open; ``routes`` are those of a floor above."""
    door = door or make_door(node)
    own = [route for module in ROUTES for route in module.make_routes(door)]
    return Litestar(
        route_handlers=[*own, *routes],
        middleware=[_make_rate_limit(RateLimiter(door.limits.requests_per_s, door.limits.burst))],
        exception_handlers={
            **dict.fromkeys(ANSWERED, _answer_error),
            Problem: _answer_problem,
            HTTPException: _answer_http_error,
            Exception: _answer_bug,
        },
        openapi_config=OpenAPIConfig(
            title="Hansa",
            version=hansa.__version__,
            description=(
                "A ledger that companies on both sides of a border run together. Amounts are "
                "integers in minor units, times are milliseconds since 1970, bytes are hexadecimal."
            ),
            path="/schema",
            render_plugins=[JsonRenderPlugin()],
            components=Components(
                security_schemes={"bearer": SecurityScheme(type="http", scheme="bearer")}
            ),
        ),
        request_max_body_size=door.limits.max_body_bytes,
        state=State({ON_STOP: []}),
        logging_config=None,
    )


def _make_rate_limit(limiter: RateLimiter) -> Callable[[ASGIApp], ASGIApp]:
    def rate_limit(app: ASGIApp) -> ASGIApp:
        async def limited(scope: Scope, receive: Receive, send: Send) -> None:
            client = scope.get("client")
            limiter.take(client[0] if client else "unknown")
            await app(scope, receive, send)

        return limited

    return rate_limit


def _answer_error(_: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    return make_problem(describe(error))


def _answer_problem(_: Request[Any, Any, Any], problem: Problem) -> Response[bytes]:
    """Pass on what the gateway's own client was told."""
    wait_s = problem.retry_after_s
    return make_problem(
        ProblemDetails(
            type=f"urn:hansa:error:{problem.number}" if problem.number else "about:blank",
            title=problem.title,
            status=problem.status,
            detail=problem.detail,
            number=problem.number,
            values=problem.values,
            retry_after_s=None if wait_s is None else round(wait_s),
        )
    )


def _answer_http_error(_: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    return make_problem(describe_status(error.status_code, error.detail))


def _answer_bug(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    # The caller learns that it happened, the operator what: an error's text may quote secrets.
    log.error("request failed", path=request.url.path, exc_info=error)
    return make_problem(describe_status(500, "an error of the node; its log says more"))


Ready = Callable[[str], None]
"""Called with the node's address once it can be reached."""


class _Server(uvicorn.Server):
    """A server that says when it is there, and lets its listeners go before it waits for them."""

    def __init__(
        self, config: uvicorn.Config, on_ready: Callable[[], None], feed: Feed,
        on_stop: Sequence[Callable[[], None]],
    ) -> None:  # fmt: skip
        super().__init__(config)
        self._on_ready = on_ready
        self._feed = feed
        self._on_stop = on_stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._feed.close()
        for close in self._on_stop:
            close()
        await super().shutdown(sockets)


class HttpServer:
    """Serves a node on an address until it is told to stop; the node itself stays as it is."""

    def __init__(
        self, node: Node, host: str = "127.0.0.1", port: int = 0, *,
        routes: Sequence[ControllerRouterHandler] = (),
    ) -> None:  # fmt: skip
        """Takes the port, any free one for 0. Raises: OSError if it is taken."""
        self._node = node
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=1024)
        self.port: int = self._socket.getsockname()[1]
        name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - a comparison
        self.url = f"http://{f'[{name}]' if ':' in name else name}:{self.port}"
        self.door = make_door(node)
        app = make_app(node, self.door, routes)
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            # An address that the caller states himself is no address to count by.
            proxy_headers=False,
            timeout_graceful_shutdown=self.door.limits.stop_timeout_s,
        )
        self._is_up = threading.Event()
        self._ready: Ready | None = None
        self._server = _Server(config, self._announce, self.door.feed, app.state[ON_STOP])
        self._thread: threading.Thread | None = None

    def _announce(self) -> None:
        # Commands on this home find the node by this file and go through it.
        (self._node.home / "node.url").write_text(self.url + "\n")
        self._is_up.set()
        if self._ready is not None:
            self._ready(self.url)

    def run(self, ready: Ready | None = None) -> None:
        """Serve in this thread until stopped, in the main thread also by SIGINT or SIGTERM."""
        self._ready = ready
        try:
            asyncio.run(self._server.serve(sockets=[self._socket]))
        finally:
            (self._node.home / "node.url").unlink(missing_ok=True)
            self._socket.close()
            self._is_up.set()

    def start(self) -> None:
        """Serve in a thread; returns once the node can be reached."""
        self._thread = threading.Thread(target=self.run, name="http", daemon=True)
        self._thread.start()
        self._is_up.wait()

    def stop(self) -> None:
        """Take no more requests, answer those that were taken, let go of the port."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join()

    def close(self) -> None:
        """Let go of the port without having served."""
        self.door.feed.close()
        self._socket.close()

    def __enter__(self) -> "HttpServer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def serve(
    node: Node, host: str, port: int, ready: Ready | None = None, *,
    routes: Sequence[ControllerRouterHandler] = (),
) -> None:  # fmt: skip
    """Serve a node until SIGINT or SIGTERM; ``ready`` is called with its address."""
    HttpServer(node, host, port, routes=routes).run(ready)
