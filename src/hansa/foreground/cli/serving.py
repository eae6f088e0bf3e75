"""A node in this process: opened on its home, served over HTTP, stopped in good order."""

import errno
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from hansa.foreground.cli.failures import WrongUse
from hansa.foreground.cli.output import Output
from hansa.foreground.cli.progress import show_progress

if TYPE_CHECKING:
    from hansa.core.ledger import NetworkBlock
    from hansa.node.home import NodeConfig
    from hansa.node.node import Node

DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8080
SANDBOX: Final = (
    "SANDBOX: one key store without a passphrase plays every party. Nothing here proves anything"
    " about the real world; for that, `hansa init --no-sandbox`."
)

PORTS_TRIED: Final = 100
LogForm = Literal["plain", "json", "quiet"]


@contextmanager
def open_node(
    home: Path, passphrase: Callable[[], str], out: Output, *, is_started: bool = True,
    halt_height: int = 0,
) -> "Iterator[Node]":  # fmt: skip
    """Open the node of a home, and stop it in the end.

    ``halt_height`` is the last block it makes, 0 for what its configuration says. Raises: WrongUse
    for one on a network of the solo engine, or one that is passed.
    """
    from hansa.node.home import load_keys
    from hansa.node.node import Node

    keys = load_keys(home, passphrase)
    is_opening = True
    with show_progress(out) as progress:

        def report(what: str, done: int, total: int) -> None:
            # Later on the read model follows every block, which is no news.
            if is_opening:
                progress(what, done, total)

        config = _set_halt_height(home, halt_height) if halt_height else None
        node = Node(home, keys=keys, on_progress=report, config=config)
        is_opening = False
    try:
        last = _find_last_height(node)
        if last and node.ledger.height >= last:
            raise WrongUse(
                f"halt height: expected one above {node.ledger.height}, where this node is, got"
                f" {last}; start the next release without it"
            )
        if is_started:
            node.start()
        yield node
    finally:
        node.stop()


def _set_halt_height(home: Path, halt_height: int) -> "NodeConfig":
    from msgspec.structs import replace

    from hansa.node.home import load_config

    config = load_config(home)
    if config.comet is None:
        raise WrongUse(f"--halt-height: expected a network on CometBFT, got that of {home}")
    return replace(config, comet=replace(config.comet, halt_height=halt_height))


def _find_last_height(node: "Node") -> int:
    """Return the last block that this release may make; 0 where there is none."""
    return node.config.comet.halt_height if node.config.comet is not None else 0


def find_port(host: str, first: int) -> int:
    """Return the first port from ``first`` on that is free.

    Raises: WrongUse if none is.
    """
    for port in range(first, first + PORTS_TRIED):
        try:
            socket.create_server((host, port)).close()
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise WrongUse(f"--host: expected an address of this machine, got {host}") from None
        else:
            return port
    raise WrongUse(f"--port: expected a free one from {first} on, got none among {PORTS_TRIED}")


def serve(node: "Node", host: str, port: int, out: Output, *, log: LogForm) -> None:
    """Serve a node over HTTP, pages included, until SIGINT, SIGTERM or the last block it may make.

    While it is served, HOME/node.url says where, so that commands on the home go through it.
    Raises: WrongUse for a port that is taken.
    """
    from hansa.foreground.web.pages import make_pages
    from hansa.interface.http.app import HttpServer

    _set_up_log(log)
    # The server hands the signal back once it is done; without a handler of ours SIGTERM would
    # then end the process before the node has stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        server = HttpServer(node, host, port, routes=[make_pages(node)])
    except OSError as error:
        raise WrongUse(
            f"--port: expected one that is free on {host}, got {port} ({error.strerror})"
        ) from None
    last = _find_last_height(node)

    def stop_after_last(block: "NetworkBlock") -> None:
        if block.height == last:
            server.stop()

    node.engine.on_block.append(stop_after_last)
    try:
        if last and node.ledger.height >= last:
            server.close()  # It was there before anybody was served.
        else:
            server.run(lambda url: _announce(node, url, out))
    except KeyboardInterrupt:
        out.note("stopping")
    if last and node.ledger.height >= last:
        out.note(
            f"block {last} is the last of this release: install the next one, then start again"
        )


def _announce(node: "Node", url: str, out: Output) -> None:
    if out.as_json:
        out.document({"url": url, "home": str(node.home), "network": node.network.hex()})
    else:
        kind = " (sandbox)" if node.is_sandbox else ""
        out.say(f"{node.genesis.name}{kind}: {url}")
    sys.stdout.flush()


def _set_up_log(form: LogForm) -> None:
    import structlog

    level = logging.WARNING if form == "quiet" else logging.INFO
    render: Any = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)


@contextmanager
def run_market(node: "Node") -> Iterator[None]:
    """Let the companies of a sandbox trade by themselves while the node is served."""
    from hansa.interface.client import Client, LocalTransport
    from hansa.interface.sandbox.market import Market
    from hansa.node.home import make_trust

    with Client(LocalTransport(node), node.keys, make_trust(node.genesis)) as client:
        market = Market(client)
        market.start()
        try:
            yield
        finally:
            market.stop()
