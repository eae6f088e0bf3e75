"""What Prometheus learns of a node's CometBFT: height, peers, votes, mempool, and what it costs.

CometBFT is asked at most every few seconds, however often somebody scrapes; while it doesn't
answer, what only it knows is left out and ``hansa_comet_up`` is 0.
"""

import re
import threading
import time
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from hansa.core.keys import ED25519
from hansa.core.lightblock import COMMIT, LightBlock, validator_address
from hansa.network.comet.engine import CometEngine
from hansa.network.comet.rpc import RpcClient, RpcTrouble
from hansa.node.node import Node

ASK_EVERY_S: Final = 3.0
TIMEOUT_S: Final = 1.0
"""A scrape must not wait for an engine that hangs."""
INTERVAL_BLOCKS: Final = 20
"""Blocks over which the interval between blocks is taken."""

_VOTED = re.compile(r"(\d+)/(\d+) = ")
"""At the end of CometBFT's bit arrays: power heard and power in all."""


@dataclass(frozen=True)
class Sight:
    """What CometBFT said of itself."""

    height: int
    block_time_s: float
    is_catching_up: bool
    peers: int
    behind: int
    """Blocks that the peer furthest ahead has more."""
    round: int
    heard: float
    """Share of the voting power whose prevote of this round was heard, at most 1."""
    mempool: int
    mempool_bytes: int
    key: bytes
    """Consensus key by which this node votes, if it may."""
    power: int


def ask(rpc: RpcClient) -> Sight:
    """Ask CometBFT. Raises: RpcTrouble, KeyError, TypeError, ValueError for unknown answers."""
    status = rpc.status()
    sync, own = status["sync_info"], status["validator_info"]
    state = rpc.call("dump_consensus_state")
    waiting = rpc.num_unconfirmed_txs()
    height = int(sync["latest_block_height"])
    round_state = state["round_state"]
    return Sight(
        height=height,
        block_time_s=read_time(sync["latest_block_time"]),
        is_catching_up=bool(sync["catching_up"]),
        peers=int(rpc.net_info()["n_peers"]),
        behind=max([0, *(peer_height(peer) - 1 - height for peer in state["peers"] or ())]),
        round=int(round_state["round"]),
        heard=_read_heard(round_state),
        mempool=waiting.transactions,
        mempool_bytes=waiting.total_bytes,
        key=bytes([ED25519]) + b64decode(own["pub_key"]["value"]),
        power=int(own["voting_power"]),
    )


def peer_height(peer: dict[str, Any]) -> int:
    """Return the height a peer works at: one above its last block."""
    return int(peer["peer_state"]["round_state"]["height"])


def read_time(text: str) -> float:
    """Return seconds since 1970 of a time as Go writes it."""
    whole = datetime.strptime(text[:19], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)
    fraction = text[19:].rstrip("Z")
    return whole.timestamp() + (float(f"0{fraction}") if fraction else 0.0)


def _read_heard(round_state: dict[str, Any]) -> float:
    now = int(round_state["round"])
    for votes in round_state["votes"] or ():
        if int(votes["round"]) == now and (found := _VOTED.search(votes["prevotes_bit_array"])):
            heard, whole = int(found[1]), int(found[2])
            return heard / whole if whole else 0.0
    return 0.0


class CometReader:
    """Reads what there is to know of a node's engine, CometBFT's part now and then."""

    def __init__(self, node: Node, engine: CometEngine) -> None:
        self._node = node
        self._engine = engine
        self._rpc = RpcClient(engine.terms.settings.rpc_address, timeout_s=TIMEOUT_S)
        self._lock = threading.Lock()
        self._sight: Sight | None = None
        self._asked_s = float("-inf")
        self._judged_height = engine.light_blocks.height
        self._missed = 0
        self._offset_s: float | None = None

    def _look(self) -> Sight | None:
        with self._lock:
            if time.monotonic() - self._asked_s > ASK_EVERY_S:
                try:
                    self._sight = ask(self._rpc)
                    self._judge_votes(self._sight.key)
                except (RpcTrouble, KeyError, TypeError, ValueError, Base64Error):
                    self._sight = None
                self._asked_s = time.monotonic()
            return self._sight

    def _judge_votes(self, key: bytes) -> None:
        """Count the blocks that should have this node's vote and don't."""
        blocks = self._engine.light_blocks
        for height in range(self._judged_height + 1, blocks.height + 1):
            vote = find_vote(blocks.get(height), key)
            if vote is not None:
                self._missed += vote.flag != COMMIT
                offset_s = measure_offset(blocks.get(height), key)
                self._offset_s = self._offset_s if offset_s is None else offset_s
            self._judged_height = height

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of the engine."""
        sight = self._look()
        yield _gauge("hansa_comet_up", "1 while CometBFT answers.", sight is not None)
        yield _counter(
            "hansa_comet_restarts", "How often CometBFT died by itself.", self._engine.deaths
        )
        yield from self._collect_own()
        if sight is not None:
            yield from self._collect_sight(sight)

    def _collect_own(self) -> Iterator[Metric]:
        engine = self._engine
        blocks, gateway = engine.light_blocks, engine.gateway
        yield _gauge("hansa_light_block_height", "Newest light block kept.", blocks.height)
        interval_s = self._measure_interval()
        if interval_s is not None:
            yield _gauge(
                "hansa_comet_block_interval_seconds", "Between the last blocks.", interval_s
            )
        yield _counter("hansa_gateway_bundles", "Bundles handed to CometBFT.", gateway.bundles)
        yield _counter(
            "hansa_gateway_resent", "Transactions handed in more than once.", gateway.resent
        )
        yield _gauge("hansa_gateway_pending", "Transactions on their way.", gateway.pending)
        yield from self._collect_calls()

    def _collect_calls(self) -> Iterator[Metric]:
        calls = CounterMetricFamily("hansa_abci_calls", "Calls of CometBFT.", labels=["method"])
        seconds = CounterMetricFamily(
            "hansa_abci_seconds", "Time from a call to its answer.", labels=["method"]
        )
        longest = GaugeMetricFamily(
            "hansa_abci_longest_seconds", "Longest of them since the start.", labels=["method"]
        )
        server = self._engine.server
        for method, times in (server.call_times if server else {}).items():
            calls.add_metric([method], times.calls)
            seconds.add_metric([method], times.seconds)
            longest.add_metric([method], times.longest_s)
        yield from (calls, seconds, longest)

    def _collect_sight(self, sight: Sight) -> Iterator[Metric]:
        settings = self._engine.terms.settings
        yield _gauge("hansa_comet_height", "CometBFT's last block.", sight.height)
        yield _gauge(
            "hansa_comet_block_timestamp_seconds", "Time of that block.", sight.block_time_s
        )
        yield _gauge("hansa_comet_catching_up", "1 while blocks are loaded.", sight.is_catching_up)
        yield _gauge("hansa_comet_blocks_behind", "Blocks that a peer has more.", sight.behind)
        yield _gauge("hansa_comet_peers", "Nodes connected.", sight.peers)
        expected = len(settings.persistent_peers)
        yield _gauge("hansa_comet_peers_configured", "Nodes that should be.", expected)
        yield _gauge("hansa_comet_round", "Attempts at the next block so far.", sight.round)
        yield _gauge("hansa_comet_heard_ratio", "Voting power heard in this one.", sight.heard)
        yield _gauge("hansa_comet_mempool_transactions", "Bundles that wait.", sight.mempool)
        yield _gauge("hansa_comet_mempool_bytes", "Their bytes.", sight.mempool_bytes)
        yield _gauge("hansa_comet_mempool_limit", "Bundles that may.", settings.mempool_size)
        yield _gauge("hansa_validator_power", "Power of this node's vote.", sight.power)
        yield _gauge("hansa_validator_jailed", "1 once its key is.", self._is_jailed(sight.key))
        yield _counter(
            "hansa_validator_missed_signatures", "Blocks that lack its vote.", self._missed
        )
        if self._offset_s is not None:
            yield _gauge(
                "hansa_clock_offset_seconds",
                "By how much this clock is ahead of those of the other validators.",
                self._offset_s,
            )

    def _measure_interval(self) -> float | None:
        blocks = self._engine.light_blocks
        last = blocks.height
        first = max(1, last - INTERVAL_BLOCKS)
        if last <= first:
            return None
        try:
            span_ns = blocks.get(last).header.time_ns - blocks.get(first).header.time_ns
        except ValueError:
            return None  # A node that began from a snapshot has none so old.
        return span_ns / (last - first) / 1e9

    def _is_jailed(self, key: bytes) -> bool:
        kind = self._node.kinds.get("validator")
        row = self._node.read_model.get_row(kind, key.hex()) if kind is not None else None
        return row is not None and row["status"] == "jailed"


def find_vote(block: LightBlock, key: bytes) -> Any:
    """Return the vote of a validator in a commit, absent ones included; None if it has no seat."""
    for validator, vote in zip(block.validators, block.commit.signatures, strict=True):
        if validator.key == key:
            return vote
    return None


def measure_offset(block: LightBlock, key: bytes) -> float | None:
    """Return how many seconds a validator's vote is dated after those of the others.

    Each dates its vote by its own clock; one that is slow dates it by the block at least, so that
    a slow clock shows only in part. None without votes to compare.
    """
    address = validator_address(key)
    own = [v.time_ns for v in block.commit.signatures if v.flag == COMMIT and v.address == address]
    others = sorted(
        v.time_ns for v in block.commit.signatures if v.flag == COMMIT and v.address != address
    )
    if not own or not others:
        return None
    return (own[0] - others[len(others) // 2]) / 1e9


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, float(value))


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, float(value))
