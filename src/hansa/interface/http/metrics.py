"""What Prometheus scrapes, read from the node at that moment."""

import shutil
from collections.abc import Iterator
from typing import Final

import sqlalchemy as sa
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from hansa.interface.http.comet_metrics import CometReader
from hansa.network.comet.engine import CometEngine
from hansa.node.node import Node

MEDIA_TYPE: Final = "text/plain; version=0.0.4"


class NodeCollector(Collector):
    """Reads a node's numbers when it is asked."""

    def __init__(self, node: Node) -> None:
        self._node = node
        engine = node.engine
        self._comet = CometReader(node, engine) if isinstance(engine, CometEngine) else None

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        node = self._node
        numbers = node.engine.numbers
        height = node.ledger.height
        yield GaugeMetricFamily("hansa_ready", "1 while transactions are taken.", _is_ready(node))
        yield GaugeMetricFamily("hansa_height", "Height of the newest block.", height)
        lag = max(0, height - node.read_model.height)
        yield GaugeMetricFamily("hansa_read_model_lag_blocks", "Blocks not yet projected.", lag)
        waiting = node.engine.waiting
        yield GaugeMetricFamily("hansa_queue_transactions", "Transactions that wait.", waiting)
        logs = GaugeMetricFamily("hansa_log_entries", "Entries of a chain's log.", labels=["chain"])
        for name, chain in node.ledger.chains.items():
            logs.add_metric([name], chain.log.size)
        yield logs
        yield self._packets()
        verdicts = CounterMetricFamily(
            "hansa_transactions",
            "Transactions by verdict: took effect, refused by a rule, left nothing.",
            labels=["verdict"],
        )
        verdicts.add_metric(["included"], numbers.included - numbers.rejected)
        verdicts.add_metric(["rejected"], numbers.rejected)
        verdicts.add_metric(["refused"], numbers.refused)
        yield verdicts
        yield CounterMetricFamily("hansa_blocks", "Blocks made.", numbers.blocks)
        recent = numbers.sync_seconds
        syncs = SummaryMetricFamily("hansa_recent_sync_seconds", "The last hundred block syncs.")
        syncs.add_metric([], len(recent), sum(recent))
        yield syncs
        yield from self._disk()
        yield from self._relay()
        if self._comet is not None:
            yield from self._comet.collect()

    def _disk(self) -> Iterator[Metric]:
        usage = shutil.disk_usage(self._node.home)
        yield GaugeMetricFamily("hansa_disk_free_bytes", "Room left beside the home.", usage.free)
        yield GaugeMetricFamily("hansa_disk_total_bytes", "Of the disk of the home.", usage.total)

    def _relay(self) -> Iterator[Metric]:
        relay = self._node.relay
        carried = relay.carried if relay is not None else 0
        yield CounterMetricFamily("hansa_relay_carried", "Pages of packets carried.", carried)
        trusted = GaugeMetricFamily(
            "hansa_client_trusted_until_seconds",
            "When a chain stops to believe another that shows nothing new.",
            labels=["client"],
        )
        frozen = GaugeMetricFamily(
            "hansa_client_frozen", "1 where a chain was caught lying.", labels=["client"]
        )
        kind = self._node.kinds.get("client")
        if kind is not None:
            columns = kind.table.c
            query = sa.select(columns.id, columns.status, columns.trusted_until_ms)
            with self._node.read_model.engine.connect() as connection:
                for name, status, until_ms in connection.execute(query.order_by(columns.id)):
                    trusted.add_metric([name], until_ms / 1_000)
                    frozen.add_metric([name], status == "frozen")
        yield from (trusted, frozen)

    def _packets(self) -> Metric:
        family = GaugeMetricFamily(
            "hansa_packets", "Packets by what became of them.", labels=["status"]
        )
        kind = self._node.kinds.get("packet")
        if kind is not None:
            status = kind.table.c.status
            query = sa.select(status, sa.func.count()).group_by(status)
            with self._node.read_model.engine.connect() as connection:
                for name, count in connection.execute(query):
                    family.add_metric([name], count)
        return family


def _is_ready(node: Node) -> float:
    return 1.0 if node.ready() is None else 0.0


def make_registry(node: Node) -> CollectorRegistry:
    """Return a registry of one node; several nodes of a process don't share one."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(NodeCollector(node))
    return registry


def render(registry: CollectorRegistry) -> bytes:
    """Return the metrics page."""
    return generate_latest(registry)
