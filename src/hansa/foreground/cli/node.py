"""`hansa init`, `start`, `demo`, `fsck`: a node's life on its home."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from hansa.foreground.cli.failures import Invalid, WrongUse
from hansa.foreground.cli.options import (
    Home,
    Json,
    PassphraseFile,
    example,
    resolve_home,
)
from hansa.foreground.cli.output import Output
from hansa.foreground.cli.passphrase import passphrase_reader, read_passphrase
from hansa.foreground.cli.serving import DEFAULT_HOST, DEFAULT_PORT, SANDBOX

if TYPE_CHECKING:
    from hansa.core.genesis import Genesis

app: Final = typer.Typer()


Host = Annotated[str, typer.Option("--host", metavar="ADDRESS", help="Address to listen on.")]


@app.command(epilog=example("hansa init --home market"))
def init(
    *,
    name: Annotated[str, typer.Option("--name", help="Name of the network, for people.")] = "",
    is_sandbox: Annotated[
        bool,
        typer.Option("--sandbox/--no-sandbox", help="Play every party, or be one organisation."),
    ] = True,
    organisation: Annotated[
        str | None, typer.Option("--organisation", help="The founder's name; not for a sandbox.")
    ] = None,
    country: Annotated[
        str | None,
        typer.Option("--country", metavar="CC", help="The founder's country, ISO 3166-1 alpha-2."),
    ] = None,
    licence: Annotated[
        str, typer.Option("--licence", help="Reference of the founder's licence or registration.")
    ] = "",
    roles: Annotated[
        list[str] | None,
        typer.Option("--role", help="What the founder does; once for each. Else operator."),
    ] = None,
    home: Home = None,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Make a home: a genesis, a key store, and the network of one node that they define.

    A sandbox by default, which says so everywhere.
    """
    folder, out = resolve_home(home), Output(as_json=as_json)
    if (folder / "genesis.bin").exists():
        raise WrongUse(f"{folder}: expected a folder without a network, got one that has one")
    if is_sandbox:
        if organisation is not None:
            raise WrongUse("--organisation: expected with --no-sandbox, got it for a sandbox")
        genesis = make_sandbox(folder, name or "Sandbox")
        out.note(SANDBOX)
    else:
        if organisation is None or country is None:
            raise WrongUse("--no-sandbox: expected --organisation and --country, got none")
        from hansa.foreground.cli.founding import found_network

        genesis = found_network(
            folder,
            name or organisation,
            organisation=organisation,
            country=country,
            licence=licence,
            roles=tuple(roles or ["operator"]),
            passphrase=read_passphrase(passphrase_file, is_new=True),
        )
    out.record(_describe_home(folder, genesis))


def make_sandbox(folder: Path, name: str) -> "Genesis":
    from hansa.interface.sandbox.home import create_sandbox

    return create_sandbox(folder, name)


def _describe_home(folder: Path, genesis: "Genesis") -> dict[str, Any]:
    from hansa.core.genesis import compute_network_id

    return {
        "home": str(folder),
        "network": compute_network_id(genesis).hex(),
        "name": genesis.name,
        "is_sandbox": genesis.is_sandbox,
        "chains": [chain.name for chain in genesis.chains],
    }


@app.command(epilog=example("hansa start --home market --port 8080"))
def start(
    *,
    host: Host = DEFAULT_HOST,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0 for any.")
    ] = DEFAULT_PORT,
    log: Annotated[
        str, typer.Option("--log", metavar="FORM", help="Log lines on stderr: plain or json.")
    ] = "plain",
    halt_height: Annotated[
        int,
        typer.Option(
            "--halt-height",
            metavar="H",
            min=0,
            help="Stop after block H, where another release goes on.",
        ),
    ] = 0,
    home: Home = None,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Run the node of a home until it is told to stop, and serve it over HTTP."""
    if log not in ("plain", "json"):
        raise WrongUse(f"--log: expected plain or json, got {log!r}")
    form: Literal["plain", "json"] = "json" if log == "json" else "plain"
    folder, out = resolve_home(home), Output(as_json=as_json)
    from hansa.foreground.cli.serving import open_node, serve

    read = passphrase_reader(passphrase_file)
    with open_node(folder, read, out, halt_height=halt_height) as node:
        serve(node, host, port, out, log=form)


@app.command(epilog=example("hansa demo --port 8080"))
def demo(
    *,
    host: Host = DEFAULT_HOST,
    port: Annotated[
        int | None,
        typer.Option("--port", min=0, max=65535, help="Port; else 8080 or the next free one."),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            "--engine",
            metavar="solo|comet",
            help="One node; or four organisations' nodes that agree by CometBFT, in HOME/testnet.",
        ),
    ] = "solo",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show a market that trades by itself: makes a sandbox where there is none, and serves it.

    With four organisations, one node can be stopped, by a button or `hansa testnet kill`, while the
    orders go on.
    """
    folder, out = resolve_home(home), Output(as_json=as_json)
    if engine not in ("solo", "comet"):
        raise WrongUse(f"--engine: expected solo or comet, got {engine!r}")
    if engine == "comet":
        if host != DEFAULT_HOST:
            raise WrongUse(f"--host: expected {DEFAULT_HOST} for a testnet, got {host}")
        from hansa.foreground.cli.fleeting import show_testnet

        show_testnet(folder / "testnet", port, out)
        return
    from hansa.foreground.cli.serving import find_port, open_node, run_market, serve
    from hansa.node.home import load_genesis

    if not (folder / "genesis.bin").exists():
        out.note(f"making a sandbox in {folder}")
        make_sandbox(folder, "Demonstration market")
    if not load_genesis(folder).is_sandbox:
        raise WrongUse(f"{folder}: expected a sandbox, got a network of real parties")
    out.note(SANDBOX)
    free = find_port(host, DEFAULT_PORT) if port is None else port
    with open_node(folder, passphrase_reader(None), out) as node, run_market(node):
        serve(node, host, free, out, log="quiet")


@app.command(epilog=example("hansa fsck --home market --json"))
def fsck(*, home: Home = None, as_json: Json = False) -> None:
    """Derive everything again from the block log and name the first thing that differs.

    It writes nothing, and needs no key; beside a running node it judges what was there when it
    began. Exit status: 0 sound, 1 not.
    """
    from hansa.foreground.cli.progress import show_progress
    from hansa.node.fsck import check_home

    folder, out = resolve_home(home), Output(as_json=as_json)
    with show_progress(out) as progress:
        report = check_home(folder, progress)
    out.record({"home": str(folder), "sound": report.is_sound, **asdict(report)})
    if not report.is_sound:
        raise Invalid(f"not sound: {report.findings[0]}")
