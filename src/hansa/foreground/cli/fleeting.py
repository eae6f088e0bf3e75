"""A testnet in processes of this one: its nodes served over HTTP, and what runs beside them."""

import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Final

from hansa.foreground.cli.output import Output
from hansa.foreground.cli.passphrase import passphrase_reader
from hansa.foreground.cli.serving import (
    DEFAULT_HOST,
    DEFAULT_PORT,
    SANDBOX,
    find_port,
    open_node,
    serve,
)

if TYPE_CHECKING:
    from hansa.interface.sandbox.fleet import Errand
    from hansa.interface.sandbox.testnet import NodePlace, Testnet

ORGANISATIONS: Final = 4
"""Of a demonstration: the fewest of which one may fail."""
MARKETS: Final = 4
"""At once: each waits for its receipts, which takes two blocks."""
PACE_S: Final = 1.0
RELAYS: Final = 2
"""Between networks, each through other nodes: one of them may be killed."""


def run_fleet(folder: Path, out: Output, *, has_market: bool = False) -> None:
    """Run a testnet until SIGINT or SIGTERM, with a market that trades by itself or without.

    Raises: OperatorError, StorageError as :meth:`Fleet.run`.
    """
    # Forked nodes have at hand what is imported here.
    import hansa.foreground.web.pages
    import hansa.interface.http.app
    import hansa.interface.sandbox.market
    import hansa.node.node  # noqa: F401
    from hansa.interface.sandbox.fleet import Errand, Fleet
    from hansa.interface.sandbox.testnet import load_testnet

    made = load_testnet(folder)
    errands = _make_relays(folder, made)
    if has_market:
        errands.append(Errand("market", partial(_attempt, partial(_run_market, folder, made))))
    fleet = Fleet(
        folder,
        lambda node: _attempt(partial(_serve_node, folder / node.home, node.port)),
        tell=out.note,
        on_ready=partial(_announce, folder, out),
        errands=errands,
    )
    out.note(f"starting {len(made.nodes)} nodes; their logs are {folder}/node*/node.log")
    fleet.run()
    out.note("stopped")


def show_testnet(folder: Path, port: int | None, out: Output) -> None:
    """Show a market on a testnet of four, made where there is none, until SIGINT or SIGTERM.

    Raises: OperatorError, StorageError as :meth:`Fleet.run`.
    """
    from hansa.interface.sandbox.testnet import LIST, create_testnet
    from hansa.network.comet.process import find_binary

    find_binary()  # Before anything is made: the message says what to install.
    if not (folder / LIST).exists():
        out.note(f"making a testnet of {ORGANISATIONS} organisations in {folder}")
        first = find_port(DEFAULT_HOST, DEFAULT_PORT) if port is None else port
        create_testnet(folder, "Demonstration market", ORGANISATIONS, first_port=first)
    out.note(SANDBOX)
    run_fleet(folder, out, has_market=True)


def _announce(folder: Path, out: Output, made: "Testnet") -> None:
    if out.as_json:
        nodes = [
            {"node": node.number, "url": node.url, "home": node.home, "pid": node.pid}
            for node in made.nodes
        ]
        out.document({"testnet": str(folder), "name": made.name, "nodes": nodes})
    else:
        out.say(f"{made.name} (sandbox):")
        for node in made.nodes:
            chains = f"  {' '.join(node.chains)}" if len(made.list_networks()) > 1 else ""
            out.say(f"  {node.home}  {node.url}{chains}")
        out.note(f"kill one: hansa testnet kill {folder} --node {len(made.nodes) - 1}")
    sys.stdout.flush()


def _attempt(work: Callable[[], None]) -> int:
    """Do something in a process of its own; a failure is told in its log as a sentence."""
    from hansa.foreground.cli.failures import describe, tell

    try:
        work()
    except Exception as error:
        failure = describe(error)
        if failure is None:
            raise
        tell(failure, as_json=False)
        return failure.status
    return 0


def _serve_node(home: Path, port: int) -> None:

    out = Output(as_json=False)
    with open_node(home, passphrase_reader(None), out) as node:
        serve(node, DEFAULT_HOST, port, out, log="plain")


# Beside the nodes.


def _run_market(folder: Path, made: "Testnet") -> None:
    """Let the companies trade until SIGTERM, through whichever node answers."""
    from contextlib import ExitStack

    from hansa.interface.client import Client
    from hansa.interface.sandbox.failover import FailoverTransport
    from hansa.interface.sandbox.market import LANE, SEED, Market
    from hansa.node.home import load_genesis, load_keys, make_trust

    home = folder / made.nodes[0].home
    keys = load_keys(home, passphrase_reader(None))
    trust = make_trust(load_genesis(home))
    urls = [node.url for node in made.nodes]
    with ExitStack() as stack:
        for number in range(MARKETS):
            # Each goes to another node first.
            transport = FailoverTransport(urls[number % len(urls) :] + urls[: number % len(urls)])
            client = stack.enter_context(Client(transport, keys, trust))
            market = Market(client, pace_s=PACE_S, seed=SEED + number, lane=LANE + number)
            market.start()
            stack.callback(market.stop)
            while market.placed == 0:  # The first one opens the currencies for all.
                time.sleep(PACE_S)
        Event().wait()


def _make_relays(folder: Path, made: "Testnet") -> "list[Errand]":
    """Return what carries between the networks, where there are several."""
    from hansa.interface.sandbox.fleet import Errand

    networks = made.list_networks()
    if len(networks) < 2:
        return []
    errands = []
    for place in range(min(RELAYS, len(networks[0]))):
        ends = [network[place] for network in networks]
        work = partial(_run_relay, folder, ends, introduces=place == 0)
        errands.append(Errand(f"relay{place}", partial(_attempt, work)))
    return errands


def _run_relay(folder: Path, ends: "Sequence[NodePlace]", *, introduces: bool) -> None:
    """Carry between networks until SIGTERM; the first relay makes them known to each other."""
    import os

    from hansa.core.keys import SigningKey
    from hansa.interface.relaying import run_relay

    if introduces:
        _introduce(folder, ends)
    places = {chain: node.url for node in ends for chain in node.chains}
    run_relay(places, SigningKey(os.urandom(32)), Output(as_json=False).note, Event())


def _introduce(folder: Path, ends: "Sequence[NodePlace]") -> None:
    """Have every network let the others in by resolution, unless that has been done."""
    from contextlib import ExitStack

    from hansa.interface.client import Client, HttpTransport
    from hansa.interface.sandbox.federation import introduce, make_federation_trust
    from hansa.node.home import load_keys

    trust = make_federation_trust({node.home: folder / node.home for node in ends})
    with ExitStack() as stack:
        clients = {
            node.chains[0]: stack.enter_context(
                Client(
                    HttpTransport(node.url),
                    load_keys(folder / node.home, passphrase_reader(None)),
                    trust,
                )
            )
            for node in ends
        }
        if not any(client.list("clients")["items"] for client in clients.values()):
            introduce(clients)
