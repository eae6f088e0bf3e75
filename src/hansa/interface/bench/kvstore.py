"""CometBFT with its own Go application, saturated: what its engine can do where nothing is judged.

The same engine with the same settings as a testnet's, on the same machine in the same run; its
transactions are as long as a signed transfer, one to an engine transaction, and hold no signature.
"""

import threading
import time
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
from nacl.signing import SigningKey

from hansa.core.keys import ED25519
from hansa.core.validatorset import Validator
from hansa.interface.bench.scratch import Progress
from hansa.interface.bench.spent import read_spent, subtract
from hansa.interface.sandbox.testnet import BLOCK_PAUSE_MS, EMPTY_BLOCKS_MS, LOOPBACK, POWER
from hansa.network.comet.config import (
    CometSettings,
    compute_node_id,
    make_genesis_document,
    write_home,
)
from hansa.network.comet.process import CometProcess, pick_ports
from hansa.network.comet.rpc import RpcClient, split_address
from hansa.node.node import system_clock

PER_REQUEST: Final = 100
"""Transactions in one JSON-RPC batch: as many as the settings allow."""
REST_S: Final = 0.02
"""After a mempool was full."""
WARM_UP_S: Final = 2.0
PAGE: Final = 20
"""Blocks that CometBFT describes at once."""


class Engine(NamedTuple):
    """A CometBFT with the application built into it."""

    process: CometProcess
    rpc_address: str


def measure_kvstore(
    folder: Path, validators: int, seconds: float, size: int, progress: Progress
) -> dict[str, Any]:
    """Return the transactions a second that so many engines commit while they are flooded.

    ``size`` is of a transaction, in bytes.
    """
    with run_engines(folder, validators) as engines, RpcClient(engines[0].rpc_address) as rpc:
        with _flooded(engines, size) as flood:
            _wait(WARM_UP_S, "warming up the Go application", progress)
            before = read_spent(_pids(engines))
            first = _read_height(rpc)
            _wait(seconds, "flooding the Go application", progress)
            last = _read_height(rpc)
            spent = subtract(read_spent(_pids(engines)), before)
        blocks = list(_describe_blocks(rpc, first, last))
        peak = rpc.num_unconfirmed_txs().transactions
    taken = sum(int(block["num_txs"]) for block in blocks[1:])
    times = [_read_time(block["header"]["time"]) for block in blocks]
    passed = times[-1] - times[0]
    rate = taken / passed
    return {
        "tx_s": round(rate),
        "bytes": size,
        "seconds": round(passed, 1),
        "blocks": len(blocks) - 1,
        "transactions_of_block": round(taken / (len(blocks) - 1)),
        "cpu_us_of_tx_and_node": round(1e6 * spent["cometbft"] / taken / validators, 1),
        "handed_in": flood.handed_in,
        "refused_for_a_full_mempool": flood.refused,
        "left_in_mempool": peak,
    }


@contextmanager
def run_engines(folder: Path, validators: int) -> Iterator[list[Engine]]:
    """So many validators with the Go application, in step; stopped at the end."""
    seeds = [bytes([number]) * 32 for number in range(1, validators + 1)]
    ports = pick_ports(2 * validators)
    members = tuple(
        Validator(bytes([ED25519]) + SigningKey(seed).verify_key.encode(), POWER) for seed in seeds
    )
    genesis = make_genesis_document("hansa-bench-kvstore", system_clock(), members)
    peers = [
        f"{compute_node_id(seed)}@{LOOPBACK}:{port}"
        for seed, port in zip(seeds, ports, strict=False)
    ]
    with ExitStack() as stack:
        engines = []
        for place, seed in enumerate(seeds):
            settings = CometSettings(
                moniker=f"kvstore{place}",
                proxy_app="kvstore",
                p2p_address=f"{LOOPBACK}:{ports[place]}",
                rpc_address=f"{LOOPBACK}:{ports[validators + place]}",
                persistent_peers=tuple(peer for peer in peers if peer != peers[place]),
                create_empty_blocks_interval_ms=EMPTY_BLOCKS_MS,
                timeout_commit_ms=BLOCK_PAUSE_MS,
            )
            home = folder / f"kvstore{place}"
            write_home(home, settings, genesis, node_seed=seed, validator_seed=seed)
            process = CometProcess(home, settings.rpc_address)
            process.start()
            stack.callback(process.stop)
            engines.append(Engine(process, settings.rpc_address))
        for engine in engines:
            engine.process.wait_ready()
        yield engines


class _Flood:
    """Keeps every mempool full, by a connection to each engine."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.is_over = threading.Event()
        self.handed_in = 0
        self.refused = 0
        self._next = 0
        self._lock = threading.Lock()

    def run(self, address: str) -> None:
        """Hand in batch after batch until it is over."""
        connection = HTTPConnection(*split_address(address), timeout=30)
        try:
            while not self.is_over.is_set():
                self._hand_in(connection)
        except (OSError, HTTPException):
            if not self.is_over.is_set():
                raise
        finally:
            connection.close()

    def _hand_in(self, connection: HTTPConnection) -> None:
        with self._lock:
            first = self._next
            self._next += PER_REQUEST
        body = make_request(first, PER_REQUEST, self.size)
        connection.request("POST", "/", body, {"Content-Type": "application/json"})
        content = connection.getresponse().read()
        refused = content.count(b'"error"')
        with self._lock:
            self.handed_in += PER_REQUEST - refused
            self.refused += refused
        if refused:
            self.is_over.wait(REST_S)


def make_request(first: int, count: int, size: int) -> bytes:
    """Return a JSON-RPC batch that hands in so many new transactions of a size."""
    return msgspec.json.encode(
        [
            {
                "jsonrpc": "2.0",
                "id": number,
                "method": "broadcast_tx_async",
                "params": {"tx": b64encode(make_pair(number, size)).decode()},
            }
            for number in range(first, first + count)
        ]
    )


def make_pair(number: int, size: int) -> bytes:
    """Return a transaction of the Go application: a key of its own, ``=``, and a long value."""
    head = b"%012d=" % number
    return head + b"v" * (size - len(head))


@contextmanager
def _flooded(engines: Sequence[Engine], size: int) -> Iterator[_Flood]:
    flood = _Flood(size)
    threads = [
        threading.Thread(target=flood.run, args=[engine.rpc_address], daemon=True)
        for engine in engines
    ]
    for thread in threads:
        thread.start()
    try:
        yield flood
    finally:
        flood.is_over.set()
        for thread in threads:
            thread.join()


def _pids(engines: Sequence[Engine]) -> list[int]:
    return [engine.process.pid for engine in engines if engine.process.pid is not None]


def _wait(seconds: float, what: str, progress: Progress) -> None:
    ends = time.monotonic() + seconds
    while (left := ends - time.monotonic()) > 0:
        progress(what, round(seconds - left), round(seconds))
        time.sleep(min(left, 0.5))


def _read_height(rpc: RpcClient) -> int:
    return int(rpc.status()["sync_info"]["latest_block_height"])


def _describe_blocks(rpc: RpcClient, first: int, last: int) -> Iterator[dict[str, Any]]:
    for start in range(first, last + 1, PAGE):
        end = min(last, start + PAGE - 1)
        page = rpc.call("blockchain", minHeight=str(start), maxHeight=str(end))
        yield from reversed(page["block_metas"])


def _read_time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
