"""`hansa bench`: measures this machine, with the limit of the same run beside each figure."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from hansa.foreground.cli.options import Json, example
from hansa.foreground.cli.output import Output

app: Final = typer.Typer()


@app.command(epilog=example("hansa bench --only P1,P6 --quick --json"))
def bench(
    *,
    only: Annotated[
        str | None, typer.Option("--only", metavar="P1,...", help="Only these figures.")
    ] = None,
    is_quick: Annotated[bool, typer.Option("--quick", help="End within five minutes.")] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write the figures as Markdown, too."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure speed end to end; every figure comes with its limit and conditions."""
    from hansa.foreground.cli.progress import show_progress
    from hansa.interface.bench import run

    out = Output(as_json=as_json)
    wanted = None if only is None else tuple(part.strip() for part in only.split(","))
    with show_progress(out) as progress:
        figures: dict[str, dict[str, Any]] = run(wanted, is_quick, progress)
    if output is not None:
        output.write_text(make_page(figures), encoding="utf-8")
        out.note(f"{output}: written")
    if as_json:
        out.document(figures)
        return
    rows = [{"figure": name, **figure} for name, figure in figures.items()]
    out.table("bench", ["figure", "value", "unit", "limit", "limit_is"], rows)


def make_page(figures: dict[str, dict[str, Any]]) -> str:
    """Return the page of the figures, as `docs/benchmarks.md` has it."""
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`. Machines differ and are noisy: the limit is measured in the same",
        "run, and the ratio is what counts.",
        "",
        "| figure | value | unit | limit | limit is |",
        "|---|---|---|---|---|",
    ]
    for name, figure in figures.items():
        cells = [
            name,
            *(str(figure.get(key, "")) for key in ("value", "unit", "limit", "limit_is")),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    for name, figure in figures.items():
        lines += ["", f"## {name}", ""]
        conditions = figure.get("conditions", {})
        lines += _list_conditions(conditions, "")
    return "\n".join(lines) + "\n"


def _list_conditions(conditions: Mapping[str, Any], indent: str) -> list[str]:
    """Return a list item for each; what holds figures of its own is a list below it."""
    lines: list[str] = []
    for condition, value in conditions.items():
        name = condition.replace("_", " ") if indent else condition
        if isinstance(value, Mapping) and any(_is_nested(one) for one in value.values()):
            lines += [f"{indent}- {name}:", *_list_conditions(value, indent + "  ")]
        elif isinstance(value, Mapping) and indent:
            shown = ", ".join(f"{key} {one}" for key, one in value.items())
            lines.append(f"{indent}- {name}: {shown}")
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            lines += [f"{indent}- {name}:", "", *_make_table(value, indent + "  "), ""]
        else:
            lines.append(f"{indent}- {name}: {value}")
    return lines


def _is_nested(value: object) -> bool:
    return isinstance(value, Mapping | list)


def _make_table(rows: Sequence[Mapping[str, Any]], indent: str) -> list[str]:
    columns = list(rows[0])
    lines = [f"{indent}| {' | '.join(column.replace('_', ' ') for column in columns)} |"]
    lines.append(f"{indent}|{'---|' * len(columns)}")
    shown = [" | ".join(str(row[column]) for column in columns) for row in rows]
    return lines + [f"{indent}| {cells} |" for cells in shown]
