"""How far something has got: a bar for a person, a line now and then for a log."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from hansa.foreground.cli.output import Output

OnProgress = Callable[[str, int, int | None], None]
"""(what, done, total); the total is None or 0 while it isn't known."""

LINE_EVERY_S: Final = 5.0


@contextmanager
def show_progress(out: Output) -> Iterator[OnProgress]:
    """Show what is reported until the work is over."""
    if not sys.stderr.isatty():
        yield _make_lines(out)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Remaining())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks = {}

        def report(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what)
            bars.update(tasks[what], completed=done, total=total or None)

        yield report


def _make_lines(out: Output) -> OnProgress:
    told: dict[str, float] = {}

    def report(what: str, done: int, total: int | None) -> None:
        # Work that is over within seconds needs no line: the first report only starts the clock.
        now = time.monotonic()
        if now - told.setdefault(what, now) < LINE_EVERY_S:
            return
        told[what] = now
        out.note(f"{what}: {done:,}" + (f" of {total:,}" if total else ""))

    return report
