"""The options that every command shares, and how a command gives its example."""

import re
from pathlib import Path
from typing import Annotated, Any, Final

import typer

DEFAULT_HOME: Final = Path("~/.hansa")
EXAMPLE: Final = "Example: "

_TAG: Final = re.compile(r"(\\*)(\[[a-z#/@][^\[]*?\])")
"""What rich would take for markup."""


def example(command: str) -> str:
    """Return the last line of a command's help: a call that a reader can adapt."""
    return EXAMPLE + _TAG.sub(r"\1\1\\\2", command)


def read_example(epilog: str | None) -> str:
    """Return the call inside the last line of a command's help; empty where there is none."""
    text = epilog or ""
    if not text.startswith(EXAMPLE):
        return ""
    return re.sub(r"\\(\[)", r"\1", text.removeprefix(EXAMPLE))


def _inherit(ctx: typer.Context, param: typer.CallbackParam, value: Any) -> Any:
    """Take what was said before the command's name where the command itself says nothing."""
    if value is not None and value is not False:
        return value
    return ctx.find_root().params.get(str(param.name), value)


Home = Annotated[
    Path | None,
    typer.Option(
        "--home",
        metavar="DIR",
        callback=_inherit,
        help="Keys and files; else HANSA_HOME, else ~/.hansa.",
    ),
]
NodeUrl = Annotated[
    str | None,
    typer.Option(
        "--node",
        metavar="URL",
        callback=_inherit,
        help="Ask this running node and believe only what is verified; else HANSA_NODE.",
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json", callback=_inherit, help="Print one JSON document and nothing else on stdout."
    ),
]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file",
        metavar="FILE",
        callback=_inherit,
        help="File with the key store's passphrase; a sandbox has none.",
    ),
]
TrustFile = Annotated[
    Path | None,
    typer.Option(
        "--trust",
        metavar="FILE",
        callback=_inherit,
        help="Trust file of the network; else the genesis of the home.",
    ),
]
Limit = Annotated[int, typer.Option("--limit", min=1, max=1000, help="At most that many.")]


def resolve_home(home: Path | None) -> Path:
    """Return the folder of keys and files that is meant."""
    return (home or DEFAULT_HOME).expanduser()
