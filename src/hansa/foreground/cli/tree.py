"""The command tree: each command's file is read when the command is asked for, and failures end
in one sentence.

`hansa verify` has to answer in a fraction of a second, so it must not pay for the others' imports.
"""

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Final

import typer
from typer.core import TyperGroup

from hansa.foreground.cli.failures import describe, tell

PACKAGE: Final = "hansa.foreground.cli"

FILES: Final[Mapping[str, tuple[str, ...]]] = {
    "node": ("init", "start", "demo", "fsck"),
    "testnet": ("testnet",),
    "nodes": ("node",),
    "genesis": ("genesis",),
    "doctor": ("doctor",),
    "importing": ("import",),
    "objects": ("list", "show", "search", "balance"),
    "proofs": ("proof", "trust", "verify", "checkpoint"),
    "following": ("follow",),
    "commitment": ("commitment",),
    "keys": ("keys",),
    "tokens": ("token",),
    "relay": ("relay",),
    "bench": ("bench",),
    "members": ("members",),
    "bank": ("bank",),
    "catalogue": ("catalogue",),
    "orders": ("orders",),
    "shipments": ("shipments",),
    "link": ("link",),
    "anchoring": ("anchoring",),
    "validators": ("validators",),
}
"""Which file holds which commands, in the order of the help."""

GROUPS: Final = frozenset(
    {"import", "keys", "token", "members", "bank", "catalogue", "orders", "shipments", "link"}
    | {"anchoring", "validators", "testnet", "node", "genesis"}
)
"""Commands that have commands of their own: the file's whole app."""

_FILE_OF: Final = {name: file for file, names in FILES.items() for name in names}


class LazyGroup(TyperGroup):
    """Finds a command by importing its file."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return all names; the context is not needed for that."""
        del ctx
        return list(_FILE_OF)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command, or None."""
        file = _FILE_OF.get(cmd_name)
        if file is None:
            # What the framework suggests for a typing error comes from here.
            self.commands.update(dict.fromkeys(_FILE_OF, typer.main.get_command(_EMPTY)))
            return None
        group = typer.main.get_group(import_module(f"{PACKAGE}.{file}").app)
        if cmd_name in GROUPS:
            group.name = cmd_name
            return group
        return group.get_command(ctx, cmd_name)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run one command line; ends in SystemExit with 0, 1 or 2."""
        del standalone_mode  # The framework would tell failures in a box, and bugs in colours.
        given = list(sys.argv[1:] if args is None else args)
        try:
            status = super().main(
                given, prog_name, complete_var, False, windows_expand_args, **extra
            )
        except Exception as error:
            failure = describe(error)
            if failure is None:
                raise
            tell(failure, as_json="--json" in given)
            sys.exit(failure.status)
        sys.exit(status if isinstance(status, int) else 0)


_EMPTY: Final = typer.Typer()


@_EMPTY.command()
def _nothing() -> None:
    """Stand for a command whose file isn't read."""
