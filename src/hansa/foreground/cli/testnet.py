"""`hansa testnet`: several organisations' nodes on this machine, in one command."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from hansa.foreground.cli.failures import WrongUse
from hansa.foreground.cli.options import Json, example
from hansa.foreground.cli.output import Output

if TYPE_CHECKING:
    from hansa.interface.sandbox.control import Command, Reply
    from hansa.interface.sandbox.testnet import NodePlace, Testnet

app: Final = typer.Typer(
    help="Several organisations' nodes on this machine: a sandbox that no one of them can stop.",
    no_args_is_help=True,
)

DEFAULT_VALIDATORS: Final = 4
PATIENCE_S: Final = 60.0
"""For a node to be down, or ready again."""
POLL_S: Final = 0.1

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the testnet.")]
Number = Annotated[int, typer.Option("--node", metavar="N", help="Which node, counted from 0.")]


@app.callback()
def testnet() -> None:
    """Run several organisations' nodes on this machine: a sandbox that no one of them can stop."""


@app.command(epilog=example("hansa testnet init --validators 4 --output four"))
def init(
    *,
    folder: Annotated[Path, typer.Option("--output", metavar="DIR", help="Folder to make it in.")],
    validators: Annotated[
        int, typer.Option("--validators", help="Organisations, each with a node; 1 to 16.")
    ] = DEFAULT_VALIDATORS,
    split: Annotated[
        str,
        typer.Option(
            "--chains-per-network",
            metavar="all|one",
            help="One network for all chains; or one for each, with so many validators of its own.",
        ),
    ] = "all",
    name: Annotated[str, typer.Option("--name", help="Its name, for people.")] = "Testnet",
    port: Annotated[
        int, typer.Option("--port", help="HTTP port of node 0, the others' follow; 0 for any.")
    ] = 0,
    as_json: Json = False,
) -> None:
    """Make the homes of a testnet; nothing is started yet.

    DIR/testnet.json lists its nodes. It is a sandbox: the key store of any home plays every party.
    """
    if split not in ("all", "one"):
        raise WrongUse(f"--chains-per-network: expected all or one, got {split!r}")
    from hansa.interface.sandbox.testnet import create_testnet, load_testnet

    out = Output(as_json=as_json)
    create_testnet(folder, name, validators, is_split=split == "one", first_port=port)
    made = load_testnet(folder)
    out.record(
        {
            "testnet": str(folder),
            "name": name,
            "networks": len(made.list_networks()),
            "nodes": [_describe_place(node) for node in made.nodes],
        }
    )
    if not as_json:
        out.note(f"start it: hansa testnet start {folder}")


def _describe_place(node: "NodePlace") -> dict[str, Any]:
    return {
        "node": node.number,
        "home": node.home,
        "url": node.url,
        "chains": " ".join(node.chains),
    }


@app.command(epilog=example("hansa testnet start four"))
def start(*, folder: Folder, as_json: Json = False) -> None:
    """Run all nodes of a testnet, and serve each over HTTP, until it is told to stop.

    Every node is a process with a CometBFT of its own; they end with this one. Where each chain is
    on a network of its own, it also makes them known to each other and runs two relays.
    """
    from hansa.foreground.cli.fleeting import run_fleet

    run_fleet(folder, Output(as_json=as_json))


@app.command(epilog=example("hansa testnet kill four --node 2"))
def kill(*, folder: Folder, number: Number, as_json: Json = False) -> None:
    """Kill a node and its engine as a power failure would."""
    from hansa.interface.sandbox.control import Command

    reply = _command(folder, Command("kill", number))
    Output(as_json=as_json).record(_describe_deed(folder, number, reply))


@app.command(epilog=example("hansa testnet restart four --node 2"))
def restart(*, folder: Folder, number: Number, as_json: Json = False) -> None:
    """Start a node again and wait until it is ready; one that runs is stopped before."""
    from hansa.interface.sandbox.control import Command
    from hansa.interface.sandbox.desk import wait_for

    before = _command(folder, Command("status")).nodes
    _command(folder, Command("restart", number))

    def is_back() -> bool:
        node = _command(folder, Command("status")).nodes[number]
        if node.ended and node.pid is None:
            raise WrongUse(f"node{number}: expected it to get ready, got one that {node.ended}")
        return node.is_ready and node.pid != before[number].pid

    wait_for(is_back, f"node{number} to be ready again", PATIENCE_S)
    reply = _command(folder, Command("status"))
    Output(as_json=as_json).record(_describe_deed(folder, number, reply))


def _command(folder: Path, command: "Command") -> "Reply":
    from hansa.interface.sandbox.control import ask
    from hansa.interface.sandbox.testnet import load_testnet

    load_testnet(folder).get(command.node)
    return ask(folder, command)


def _describe_deed(folder: Path, number: int, reply: "Reply") -> dict[str, Any]:
    node = reply.nodes[number]
    state: Literal["up", "down"] = "down" if node.pid is None else "up"
    return {"testnet": str(folder), "node": number, "state": state, "pid": node.pid}


@app.command(epilog=example("hansa testnet status four"))
def status(*, folder: Folder, as_json: Json = False) -> None:
    """Show every node: whether it is up, its height, its peers, and what troubles it."""
    from hansa.interface.sandbox.control import Command, NotRunning, ask
    from hansa.interface.sandbox.testnet import load_testnet

    made = load_testnet(folder)
    try:
        sightings = ask(folder, Command("status")).nodes
    except NotRunning:
        sightings = ()
    pids = {one.number: one.pid for one in sightings}
    Output(as_json=as_json).record(
        {
            "testnet": str(folder),
            "name": made.name,
            "is_running": bool(sightings),
            "nodes": [_describe_node(made, node, pids.get(node.number)) for node in made.nodes],
        }
    )


def _describe_node(made: "Testnet", node: "NodePlace", pid: int | None) -> dict[str, Any]:
    shown: dict[str, Any] = {"node": node.number, "state": "down", "height": None, "peers": None}
    if pid is not None:
        shown |= _ask_node(node)
    if len(made.list_networks()) > 1:
        shown["chains"] = " ".join(node.chains)
    return {**shown, "pid": pid, "url": node.url, "home": node.home}


def _ask_node(node: "NodePlace") -> dict[str, Any]:
    """Return what a node says of itself, and how many peers its engine has."""
    from hansa.interface.client import HttpTransport, Problem, Unreachable
    from hansa.interface.client.transports import Ask
    from hansa.network.comet.rpc import RpcClient, RpcTrouble

    transport = HttpTransport(node.url, timeout_s=2.0)
    try:
        status = transport.ask(Ask("status", {}))
    except (Problem, Unreachable):
        return {"state": "starting"}
    finally:
        transport.close()
    try:
        with RpcClient(node.rpc, timeout_s=2.0) as rpc:
            peers: int | None = int(rpc.net_info()["n_peers"])
    except RpcTrouble:
        peers = None
    state = "ready" if status["ready"] else f"troubled: {status['reason']}"
    return {"state": state, "height": status["height"], "peers": peers}
