"""Draws deploy/grafana/hansa.json, the dashboard of a network's nodes, from the list below.

`python tools/draw_dashboard.py` writes it; a test compares the file with what this would write.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final, NamedTuple

PAGE: Final = Path(__file__).resolve().parent.parent / "deploy" / "grafana" / "hansa.json"
WIDTH: Final = 8
HEIGHT: Final = 7
COLUMNS: Final = 3


class Panel(NamedTuple):
    """A graph: its title, its unit, and what it shows by legend."""

    title: str
    unit: str
    lines: tuple[tuple[str, str], ...]


PANELS: Final = (
    Panel("Ready", "bool", (("hansa_ready", "{{instance}}"),)),
    Panel("Height", "none", (("hansa_height", "{{instance}}"),)),
    Panel(
        "Seconds since the last block",
        "s",
        (("time() - hansa_comet_block_timestamp_seconds", "{{instance}}"),),
    ),
    Panel("Between blocks", "s", (("hansa_comet_block_interval_seconds", "{{instance}}"),)),
    Panel("Blocks behind", "none", (("hansa_comet_blocks_behind", "{{instance}}"),)),
    Panel(
        "Peers",
        "none",
        (
            ("hansa_comet_peers", "{{instance}}"),
            ("hansa_comet_peers_configured", "{{instance}} should"),
        ),
    ),
    Panel(
        "Transactions a second",
        "ops",
        (("sum by (instance, verdict) (rate(hansa_transactions_total[1m]))", "{{verdict}}"),),
    ),
    Panel(
        "On their way",
        "none",
        (
            ("hansa_queue_transactions", "{{instance}} queue"),
            ("hansa_gateway_pending", "{{instance}} gateway"),
            ("hansa_comet_mempool_transactions", "{{instance}} mempool, bundles"),
        ),
    ),
    Panel(
        "Bundles",
        "ops",
        (
            ("rate(hansa_gateway_bundles_total[1m])", "{{instance}} sent"),
            ("rate(hansa_gateway_resent_total[1m])", "{{instance}} transactions again"),
        ),
    ),
    Panel(
        "Voting",
        "none",
        (
            ("hansa_comet_round", "{{instance}} round"),
            ("hansa_comet_heard_ratio", "{{instance}} heard"),
        ),
    ),
    Panel("Voting power", "none", (("hansa_validator_power", "{{instance}}"),)),
    Panel(
        "Missed signatures",
        "none",
        (("increase(hansa_validator_missed_signatures_total[5m])", "{{instance}}"),),
    ),
    Panel(
        "Time per call of CometBFT",
        "s",
        (
            (
                "rate(hansa_abci_seconds_total[1m]) / rate(hansa_abci_calls_total[1m])",
                "{{instance}} {{method}}",
            ),
        ),
    ),
    Panel("Longest call", "s", (("max by (method) (hansa_abci_longest_seconds)", "{{method}}"),)),
    Panel(
        "Share of time in calls",
        "percentunit",
        (("sum by (instance) (rate(hansa_abci_seconds_total[1m]))", "{{instance}}"),),
    ),
    Panel(
        "Making a block durable",
        "s",
        (
            (
                "hansa_recent_sync_seconds_sum / hansa_recent_sync_seconds_count",
                "{{instance}}",
            ),
        ),
    ),
    Panel("Lists behind the ledger", "none", (("hansa_read_model_lag_blocks", "{{instance}}"),)),
    Panel("Packets", "none", (("sum by (status) (hansa_packets)", "{{status}}"),)),
    Panel("Log entries", "none", (("hansa_log_entries", "{{instance}} {{chain}}"),)),
    Panel(
        "Trust left between chains",
        "s",
        (("hansa_client_trusted_until_seconds - time()", "{{instance}} {{client}}"),),
    ),
    Panel("Light blocks", "none", (("hansa_light_block_height", "{{instance}}"),)),
    Panel("Disk left", "bytes", (("hansa_disk_free_bytes", "{{instance}}"),)),
    Panel("Clock", "s", (("hansa_clock_offset_seconds", "{{instance}}"),)),
    Panel("CometBFT died", "none", (("increase(hansa_comet_restarts_total[1h])", "{{instance}}"),)),
)


def draw_page() -> str:
    """Return the dashboard."""
    document = {
        "uid": "hansa",
        "title": "Hansa",
        "schemaVersion": 39,
        "timezone": "utc",
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [{"name": "source", "type": "datasource", "query": "prometheus"}]},
        "panels": [_draw_panel(number, panel) for number, panel in enumerate(PANELS)],
    }
    return json.dumps(document, indent=2) + "\n"


def _draw_panel(number: int, panel: Panel) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${source}"}
    row, column = divmod(number, COLUMNS)
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "datasource": source,
        "gridPos": {"x": column * WIDTH, "y": row * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "datasource": source,
                "expr": expression,
                "legendFormat": legend,
            }
            for place, (expression, legend) in enumerate(panel.lines)
        ],
    }


def main() -> int:
    """Write the dashboard."""
    PAGE.write_text(draw_page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
