"""The kinds of object that people ask for, by the words they use."""

from functools import cache
from typing import Any, Final

from hansa.core.readmodel import Kind
from hansa.foreground.cli.failures import WrongUse

TRANSACTION: Final = "transaction"
"""Provable like an object, but of no module's making."""


@cache
def get_kinds() -> dict[str, Kind]:
    """Return every module's kinds by singular name, in the order of the names."""
    from hansa.node.composition import VIEWS

    kinds = {kind.name: kind for views in VIEWS.values() for kind in views.kinds}
    return dict(sorted(kinds.items()))


def find_kind(word: str) -> Kind:
    """Return the kind that a singular or plural means; a hyphen is as good as an underscore.

    Raises: WrongUse naming those there are.
    """
    wanted = word.lower().replace("-", "_")
    for kind in get_kinds().values():
        if wanted in (kind.name, kind.plural):
            return kind
    known = ", ".join(kind.plural for kind in get_kinds().values())
    raise WrongUse(f"kind: expected one of {known}, got {word!r}")


def find_provable(word: str) -> str:
    """Return the name of a kind that can be proven: an object's, or transaction.

    Raises: WrongUse.
    """
    if word.lower() in (TRANSACTION, TRANSACTION + "s"):
        return TRANSACTION
    return find_kind(word).name


def complete_kind(incomplete: str) -> list[str]:
    """Return the plurals that begin so, for the shell."""
    return [kind.plural for kind in get_kinds().values() if kind.plural.startswith(incomplete)]


def complete_provable(incomplete: str) -> list[str]:
    """Return the names that begin so, for the shell."""
    names = [*get_kinds(), TRANSACTION]
    return [name for name in names if name.startswith(incomplete)]


def first_columns(kind: Kind, rows: list[dict[str, Any]]) -> list[str]:
    """Return the columns of a kind's table that its rows have."""
    if not rows:
        return list(kind.columns)
    return [column for column in kind.columns if column in rows[0]]
