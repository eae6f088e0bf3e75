"""`hansa bench`: measures this machine, with the limit of the same run beside each figure."""

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
        lines += [f"- {condition}: {value}" for condition, value in conditions.items()]
    return "\n".join(lines) + "\n"
