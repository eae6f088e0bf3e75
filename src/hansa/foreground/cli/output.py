"""What a command says: documents on stdout, progress and warnings on stderr."""

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

MAX_CELL: Final = 44
"""Characters of a table's cell; the whole value is in --json and in `show`."""
MAX_COLUMNS: Final = 12
"""Columns of a table inside an object; wider rows are shown one field a line."""
PIPE_WIDTH: Final = 240
"""Columns where no screen says how many there are: lines for grep aren't folded."""


class Output:
    """Speaks to a person, or with --json to a program."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def document(self, document: Any) -> None:
        """Print the one JSON document."""
        text = json.dumps(document, ensure_ascii=False, indent=2)
        sys.stdout.write(text + "\n")

    def say(self, text: str) -> None:
        """Print a line of the answer, for people."""
        sys.stdout.write(text + "\n")

    def note(self, text: str) -> None:
        """Print progress or a warning, which is never part of the answer."""
        sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def record(self, record: Mapping[str, Any]) -> None:
        """Show one object: its fields, one a line, and its lists as tables."""
        if self.as_json:
            self.document(record)
            return
        lists = {name: value for name, value in record.items() if is_table(value)}
        plain = {name: value for name, value in record.items() if name not in lists}
        width = max((len(name) for name in plain), default=0)
        for name, value in plain.items():
            self.say(f"{name:<{width}}  {show_value(name, value)}")
        for name, rows in lists.items():
            self.say("")
            if len(rows[0]) <= MAX_COLUMNS:
                self.table(name, list(rows[0]), rows)
                continue
            for number, row in enumerate(rows, 1):
                self.say(f"{name} {number}" if number == 1 else f"\n{name} {number}")
                self.record(row)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
        """Show rows as a table."""
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        self.say(title)  # As the table's own title it would be folded to the table's width.
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for column in columns:
            is_number = all(_is_number(row.get(column)) for row in rows)
            is_key = column in ("id", "kind")
            table.add_column(
                column, justify="right" if is_number else "left", no_wrap=is_key, overflow="fold"
            )
        for row in rows:
            cells = [shorten(show_value(column, row.get(column))) for column in columns]
            table.add_row(*[Text(cell) for cell in cells])
        Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH).print(table)


def is_table(value: Any) -> bool:
    """Say whether a value is a list of objects."""
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def show_value(name: str, value: Any) -> str:
    """Return a value as people read it: block times as dates, structures as JSON."""
    if value is None:
        return "-"
    if name.endswith("_ms") and isinstance(value, int) and value > 10**11:
        return show_time(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict | list | tuple):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def show_time(time_ms: int) -> str:
    """Return a time in UTC to the millisecond."""
    text = datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def show_minor(amount_minor: int, exponent: int) -> str:
    """Return an amount in its major unit, thousands set apart."""
    sign = "-" if amount_minor < 0 else ""
    major, minor = divmod(abs(amount_minor), 10**exponent)
    return f"{sign}{major:,}" + (f".{minor:0{exponent}d}" if exponent else "")


def shorten(text: str, limit: int = MAX_CELL) -> str:
    """Cut a long text so that a table stays readable."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
