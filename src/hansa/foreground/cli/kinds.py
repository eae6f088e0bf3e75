"""The kinds of object that people ask for, by the words they use."""

from functools import cache
from typing import Any

from hansa.core.readmodel import TRANSACTION, Kind
from hansa.foreground.cli.failures import WrongUse


@cache
def get_kinds() -> dict[str, Kind]:
    """Return all kinds by singular name, in the order of the names."""
    from hansa.node.composition import VIEWS

    kinds = {kind.name: kind for views in VIEWS.values() for kind in views.kinds}
    kinds[TRANSACTION.name] = TRANSACTION
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


def complete_kind(incomplete: str) -> list[str]:
    """Return the plurals that begin so, for the shell."""
    return [kind.plural for kind in get_kinds().values() if kind.plural.startswith(incomplete)]


def complete_singular(incomplete: str) -> list[str]:
    """Return the names that begin so, for the shell."""
    return [name for name in get_kinds() if name.startswith(incomplete)]


def first_columns(kind: Kind, rows: list[dict[str, Any]]) -> list[str]:
    """Return the columns of a kind's table that its rows have."""
    if not rows:
        return list(kind.columns)
    return [column for column in kind.columns if column in rows[0]]
