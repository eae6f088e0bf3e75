"""Draws the life of an order from the table that its rules look every step up in."""

from __future__ import annotations

import sys
from pathlib import Path

from hansa.service.orders.model import FINAL_STATUSES, TRANSITIONS

DOCUMENT = Path("docs/modules/orders-states.md")

HEADER = """\
# The life of an order

Drawn by `tools/draw_states.py` from `TRANSITIONS` in `src/hansa/service/orders/model.py`; a test
says when it is out of date. Words on the arrows are messages, `shipment …` what the logistics chain
says, `deadline` the passing of time. Every state that is not final is left by `deadline` alone.

"""


def draw_orders() -> str:
    """The whole document, with one arrow for each step and target."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for step in TRANSITIONS:
        for target in step.targets:
            arrows.setdefault((step.source or "[*]", target), []).append(step.trigger)
    lines = ["```mermaid", "stateDiagram-v2"]
    lines += [
        f"    {source} --> {target}: {', '.join(triggers)}"
        for (source, target), triggers in arrows.items()
    ]
    lines += [f"    {status} --> [*]" for status in FINAL_STATUSES]
    return HEADER + "\n".join([*lines, "```", "", *draw_table()]) + "\n"


def draw_table() -> list[str]:
    """The same as a table, for readers without a renderer."""
    rows = [
        f"| {step.source or ''} | {step.trigger} | {' or '.join(step.targets)} |"
        for step in TRANSITIONS
    ]
    return ["| from | by | to |", "|---|---|---|", *rows]


def main(root: Path) -> int:
    """Write the document below `root`."""
    path = root / DOCUMENT
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(draw_orders(), encoding="utf-8")
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve().parent.parent))
