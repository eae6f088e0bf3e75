"""Writes the table of all message, event and error numbers: `python -m tools.draw_numbers`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from hansa.core import errors
from hansa.core.errors import Refused
from hansa.core.module import Module
from hansa.network.intake import UnknownChain
from hansa.node.composition import CHAINS, make_rulebook

DOCUMENT: Final = Path("docs/spec/messages.md")

HEADER: Final = """\
# Numbers of messages, events and errors

Written by `python -m tools.draw_numbers` from the code; a test says when it is out of date. No
number is ever given to anything else again.

A message or event travels as an array: its number, then its fields in this order. The number is
module << 16 | ordinal << 8 | version; ordinals of events begin at 0x81. An error's number is module
x 1,000 plus its ordinal.

## Core (module 0): refused at the door

Leaves no receipt. In the order of the checks: see [transaction.md](transaction.md).

"""


def list_modules() -> list[tuple[Module, list[str]]]:
    """Each module version once, by number, with the chains that run it."""
    found: dict[tuple[int, int], tuple[Module, list[str]]] = {}
    for chain in CHAINS:
        for module in make_rulebook(chain).modules:
            found.setdefault((module.number, module.version), (module, []))[1].append(chain)
    return [found[key] for key in sorted(found)]


def draw_numbers() -> str:
    """The whole document."""
    refused: list[type[Refused]] = [
        cls
        for cls in vars(errors).values()
        if isinstance(cls, type) and issubclass(cls, Refused) and cls is not Refused
    ]
    refused.append(UnknownChain)
    rows = sorted((cls.number, cls.name(), cls.says) for cls in refused)
    lines = [*draw_table(("number", "error", "text"), rows)]
    for module, chains in list_modules():
        lines += ["", f"## {module.name} (module {module.number}, version {module.version})", ""]
        lines += [f"On {', '.join(chains)}.", ""]
        lines += draw_table(("number", "message", "fields"), list_types(module, "messages"))
        lines += ["", *draw_table(("number", "event", "fields"), list_types(module, "events")), ""]
        failures = [(cls.number, cls.name(), cls.says) for cls in module.errors]
        lines += draw_table(("number", "error", "text"), sorted(failures))
    return HEADER + "\n".join(lines) + "\n"


def list_types(module: Module, what: str) -> list[tuple[str, str, str]]:
    """Number, name and fields of a module's messages or events, by number."""
    names: dict[type[msgspec.Struct], str] = {
        cls: name for name, cls in module.message_names().items()
    }
    types = list(names) if what == "messages" else list(module.events)
    rows = []
    for cls in types:
        fields = ", ".join(info.name for info in msgspec.structs.fields(cls))
        number = cls.__struct_config__.tag
        assert isinstance(number, int), cls
        rows.append((f"0x{number:06x}", names.get(cls, cls.__name__), fields))
    return sorted(rows)


def draw_table(heads: Sequence[str], rows: Sequence[tuple[object, ...]]) -> list[str]:
    """A table of columns."""
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    return lines + [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]


def main(root: Path) -> int:
    """Write the document below `root`."""
    (root / DOCUMENT).write_text(draw_numbers(), encoding="utf-8")
    print(f"wrote {root / DOCUMENT}")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve().parent.parent))
