"""`hansa import`: other people's books, played through the whole machine."""

import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from hansa.foreground.cli.failures import WrongUse
from hansa.foreground.cli.options import Home, Json, NodeUrl, example, resolve_home
from hansa.foreground.cli.output import Output

app: Final = typer.Typer(
    help="Real records, played through the whole machine.", no_args_is_help=True
)

DEFAULT_CAPITAL_MINOR: Final = 100_000_000
"""1,000,000.00 GBP."""

MAX_CAPITAL_MINOR: Final = 1 << 60
"""Leaves room for what the seller earns on top: an amount is an integer of 64 bits."""


@app.callback()
def importing() -> None:
    """Play real records through the whole machine, each party with its own key."""


@app.command(
    "online-retail", epilog=example("hansa import online-retail online_retail.csv.gz --limit 100")
)
def online_retail(
    *,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="csv, csv.gz or parquet.")],
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, metavar="INVOICES", help="Only the first ones.")
    ] = None,
    capital_minor: Annotated[
        int,
        typer.Option(
            "--capital-minor",
            min=0,
            max=MAX_CAPITAL_MINOR,
            help="The seller's working capital in pence.",
        ),
    ] = DEFAULT_CAPITAL_MINOR,
    home: Home = None,
    node_url: NodeUrl = None,
    as_json: Json = False,
) -> None:
    """Play a wholesaler's invoices: one invoice, one order with its whole life on three chains.

    Needs a sandbox, whose key store plays every party; makes one where there is none. Killed and
    started again with the same arguments, it goes on where it was. With --node the home needs the
    sandbox's genesis and keys; without its block log nobody can tell whether that is sound.
    """
    folder, out = resolve_home(home), Output(as_json=as_json)
    if not file.is_file():
        raise WrongUse(f"{file}: expected a file of invoices, got none")
    from hansa.foreground.cli.node import make_sandbox
    from hansa.foreground.cli.progress import show_progress
    from hansa.foreground.cli.session import open_session
    from hansa.interface.sandbox.online_retail import run_import
    from hansa.node.home import load_genesis

    if not (folder / "genesis.bin").exists() and node_url is None:
        make_sandbox(folder, "Online retail")
    if not load_genesis(folder).is_sandbox:
        raise WrongUse(f"{folder}: expected a sandbox, got a network of real parties")
    with open_session(folder, out, node_url=node_url) as session, show_progress(out) as progress:
        has_blocks = (folder / "ledger").is_dir()
        report = run_import(
            session.client,
            file,
            folder,
            limit=limit,
            working_capital_minor=capital_minor,
            fsck=(lambda: _is_sound(folder, out)) if has_blocks else None,
            progress=progress,
        )
    out.record(report)


def _is_sound(home: Path, out: Output) -> bool:
    """Have the files judged by a process of its own, which shares nothing with the node here."""
    import subprocess

    out.note("deriving everything again from the block log")
    module = "hansa.foreground.cli.main"
    command = [sys.executable, "-m", module, "fsck", "--home", str(home.resolve())]
    return subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode == 0
