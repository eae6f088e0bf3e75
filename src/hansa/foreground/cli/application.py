"""The command line of a ledger that companies on both sides of a border run together."""

from pathlib import Path
from typing import Annotated, Final

import typer

from hansa import __version__
from hansa.foreground.cli.options import example
from hansa.foreground.cli.tree import LazyGroup

app: Final = typer.Typer(name="hansa", cls=LazyGroup, no_args_is_help=True, rich_markup_mode="rich")


def _show_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"hansa {__version__}")
        raise typer.Exit


@app.callback(epilog=example("hansa demo"))
def hansa(
    *,
    home: Annotated[
        Path | None,
        typer.Option("--home", metavar="DIR", envvar="HANSA_HOME", help="Keys and files."),
    ] = None,
    node_url: Annotated[
        str | None,
        typer.Option("--node", metavar="URL", envvar="HANSA_NODE", help="Ask this running node."),
    ] = None,
    trust_file: Annotated[
        Path | None,
        typer.Option("--trust", metavar="FILE", envvar="HANSA_TRUST", help="Trust file."),
    ] = None,
    passphrase_file: Annotated[
        Path | None,
        typer.Option(
            "--passphrase-file",
            metavar="FILE",
            envvar="HANSA_PASSPHRASE_FILE",
            help="File with the key store's passphrase.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """A ledger that companies on both sides of a border run together.

    Options given here hold for the command that follows. Exit status: 0 done, 1 refused or
    invalid, 2 wrong use or cannot tell.
    """
    del home, node_url, trust_file, passphrase_file, as_json, version
