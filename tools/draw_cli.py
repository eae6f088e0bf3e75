"""Draws docs/cli.md from the commands themselves: what a reader sees is what the program does.

`python tools/draw_cli.py` writes it; a test compares the file with what this would write.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import typer

from hansa.foreground.cli.application import app
from hansa.foreground.cli.options import read_example

PAGE: Final = Path(__file__).resolve().parent.parent / "docs" / "cli.md"

HEAD: Final = """\
# The command line

Drawn by `tools/draw_cli.py` from the commands; change them, not this page.

`hansa --home DIR` (or HANSA_HOME; `~/.hansa` if neither is given) names the folder of keys and
files. While a node runs on it, commands go through the node. With `--node URL` (or HANSA_NODE) the
same command goes to any node; it signs with the keys of the home and believes only what it has
verified against the home's genesis or `--trust FILE`. A node of real parties answers
readers with a token, taken from HANSA_TOKEN; the home's own node needs none.

Exit status: 0 done, 1 refused or invalid, 2 wrong use or cannot tell. With `--json` standard output
carries one JSON document and nothing else; progress and errors go to standard error. An error's
document is `{"error": {"number": ..., "text": ...}}`.

`hansa --install-completion` makes the shell complete commands, options and kinds.

Where a command takes an account, give 40 hexadecimal digits, the name of a key or the name of an
organisation. Where it takes a time, give milliseconds since 1970 or a time ahead: `+14d`, `+8h`,
`+30m`; so, too, as a text inside JSON, in fields that end in `_ms`.
"""

SHARED: Final = frozenset({"home", "node_url", "trust_file", "passphrase_file", "as_json"})
"""Options of nearly every command, told once in the head."""


def draw_page() -> str:
    """Return the page."""
    root = typer.main.get_command(app)
    context = typer.Context(root, info_name="hansa")
    return "\n".join([HEAD, *_draw_group(root, context, "hansa", 2)])


def walk(command: Any, context: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield every command that does something: its words, itself, its context."""
    if not hasattr(command, "list_commands"):
        yield path, command, context
        return
    for name in command.list_commands(context):
        child = command.get_command(context, name)
        inner = typer.Context(child, info_name=name, parent=context)
        yield from walk(child, inner, f"{path} {name}")


def list_commands() -> list[tuple[str, Any, Any]]:
    """Return every command of the program."""
    root = typer.main.get_command(app)
    return list(walk(root, typer.Context(root, info_name="hansa"), "hansa"))


def _draw_group(group: Any, context: Any, path: str, level: int) -> Iterator[str]:
    for name in group.list_commands(context):
        child = group.get_command(context, name)
        inner = typer.Context(child, info_name=name, parent=context)
        yield from _draw(child, inner, f"{path} {name}", level)


def _draw(command: Any, context: Any, path: str, level: int) -> Iterator[str]:
    yield f"{'#' * level} {path}"
    yield ""
    yield _plain(command.help)
    yield ""
    if hasattr(command, "list_commands"):
        yield from _draw_group(command, context, path, level + 1)
        return
    call = read_example(command.epilog)
    yield from ("```", call, "```", "")
    rows = [_describe(parameter) for parameter in command.params if _is_own(parameter)]
    if rows:
        yield from ("| | |", "|---|---|", *rows, "")


def _is_own(parameter: Any) -> bool:
    return parameter.name not in SHARED and parameter.name != "help"


def _describe(parameter: Any) -> str:
    names = (
        parameter.opts + parameter.secondary_opts if parameter.param_type_name == "option" else []
    )
    shown = ", ".join(f"`{name}`" for name in names) or f"`{parameter.metavar or parameter.name}`"
    needed = "required. " if parameter.required else ""
    words = _plain(getattr(parameter, "help", "") or "").replace("|", "\\|")
    return f"| {shown} | {needed}{words} |"


def _plain(text: str | None) -> str:
    paragraphs = (text or "").strip().split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def main() -> int:
    """Write the page."""
    PAGE.write_text(draw_page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
