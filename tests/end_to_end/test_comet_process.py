"""CometBFT itself, with the application built into it: started, asked, stopped, and orphaned."""

from __future__ import annotations

import os
import queue
import select
import signal
import subprocess
import sys
import time
import tomllib
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from nacl.signing import SigningKey

from hansa.core.errors import OperatorError
from hansa.core.keys import ED25519
from hansa.core.lightblock import light_block_from_rpc
from hansa.core.validatorset import Validator
from hansa.network.comet.config import CometSettings, make_genesis_document, write_home
from hansa.network.comet.process import CometProcess, pick_ports
from hansa.network.comet.rpc import RpcClient, RpcTrouble

SEED = b"v" * 32
VALIDATOR = Validator(bytes([ED25519]) + SigningKey(SEED).verify_key.encode(), 10)
CHAIN_ID = "hansa-end-to-end"
PATIENCE_S = 30.0

# Started from a thread that has ended by the time of the question: PR_SET_PDEATHSIG would have
# killed the engine with the thread.
PARENT = """
import sys, threading
from pathlib import Path
from hansa.network.comet.process import CometProcess

process = CometProcess(Path(sys.argv[1]), sys.argv[2])
thread = threading.Thread(target=process.start)
thread.start()
thread.join()
process.wait_ready()
print(process.pid, flush=True)
sys.stdin.read()
"""


def make_node(home: Path) -> CometProcess:
    """A single validator, not yet started."""
    p2p, rpc, metrics = pick_ports(3)
    settings = CometSettings(
        moniker='a "node"',
        proxy_app="kvstore",
        p2p_address=f"127.0.0.1:{p2p}",
        rpc_address=f"127.0.0.1:{rpc}",
        prometheus_address=f"127.0.0.1:{metrics}",
        timeout_commit_ms=20,
    )
    genesis = make_genesis_document(CHAIN_ID, time.time_ns() // 1_000_000, [VALIDATOR])
    write_home(home, settings, genesis, node_seed=b"n" * 32, validator_seed=SEED)
    return CometProcess(home, settings.rpc_address)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CometProcess]:
    """A running CometBFT."""
    process = make_node(tmp_path_factory.mktemp("node") / "comet")
    process.start()
    try:
        process.wait_ready(PATIENCE_S)
        yield process
    finally:
        process.stop()


@pytest.fixture
def rpc(node: CometProcess) -> Iterator[RpcClient]:
    """Its RPC."""
    with RpcClient(node.rpc_address) as client:
        yield client


def read_height(rpc: RpcClient) -> int:
    """The height of the last block."""
    return int(rpc.status()["sync_info"]["latest_block_height"])


def commit_block(rpc: RpcClient, tx: bytes) -> int:
    """Have a transaction committed; returns the height of its block."""
    height = read_height(rpc)
    assert 0 == rpc.broadcast_tx_sync(tx).code
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if read_height(rpc) > height:
            height += 1
            if b64encode(tx).decode() in (rpc.block(height)["block"]["data"]["txs"] or ()):
                return height
    raise AssertionError(f"expected {tx!r} in a block within {PATIENCE_S:g} s, got none")


def wait_gone(pid: int) -> bool:
    """Whether a process that isn't our child ends soon."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([process], [], [], PATIENCE_S)[0])
    finally:
        os.close(process)


def test_blocks_are_committed_and_answers_decode(rpc: RpcClient) -> None:
    """Our settings, genesis and keys make a validator; the client reads what it says."""
    earlier = commit_block(rpc, b"first=1")
    height = commit_block(rpc, b"second=2")
    block = light_block_from_rpc(rpc.commit(height), rpc.validators(height))
    assert (CHAIN_ID, height) == (block.header.chain_id, block.height)
    assert (VALIDATOR,) == block.validators
    assert "4194304" == rpc.consensus_params(height)["consensus_params"]["block"]["max_bytes"]
    assert CHAIN_ID == rpc.genesis()["chain_id"]
    assert "0" == rpc.net_info()["n_peers"]
    # A block can be seen before it is executed, but not before the one below it is.
    assert str(earlier) == rpc.block_results(earlier)["height"]
    assert b"first=1" not in rpc.unconfirmed_txs()
    assert rpc.num_unconfirmed_txs().transactions <= 1


def test_refusals_come_with_their_reason(rpc: RpcClient) -> None:
    """The same bytes twice, too many bytes, and a height that isn't there yet."""
    commit_block(rpc, b"once=1")
    with pytest.raises(RpcTrouble) as again:
        rpc.broadcast_tx_async(b"once=1")
    with pytest.raises(RpcTrouble) as large:
        rpc.broadcast_tx_async(bytes(1_048_577))
    with pytest.raises(RpcTrouble, match="must be less than or equal to the current"):
        rpc.commit(1_000_000)
    assert (True, True) == (again.value.is_in_cache, large.value.is_too_large)


def test_the_largest_transaction_passes_the_door(rpc: RpcClient) -> None:
    """A bundle of max_tx_bytes isn't stopped by a bound of the RPC."""
    tx = b"large=" + b"x" * (262_144 - 6)
    assert read_height(rpc) < commit_block(rpc, tx)


def test_metrics_are_served(node: CometProcess) -> None:
    """CometBFT's own numbers are where the settings say."""
    config = tomllib.loads((node.home / "config" / "config.toml").read_text())
    address = config["instrumentation"]["prometheus_listen_addr"]
    assert "cometbft_consensus_height" in httpx.get(f"http://{address}/metrics").text


def test_it_goes_on_after_a_stop_and_after_a_crash(tmp_path: Path) -> None:
    """Neither way to end it leaves a process, and each start goes on with the same blocks."""
    node = make_node(tmp_path / "comet")
    heights = [0]
    for end, status in ((node.stop, 0), (node.kill, 137), (node.stop, 0)):
        node.start()
        try:
            node.wait_ready(PATIENCE_S)
            with RpcClient(node.rpc_address) as rpc:
                heights.append(commit_block(rpc, b"height=%d" % heights[-1]))
            pid = node.pid
        finally:
            end()
        assert pid is not None
        assert (False, None, status) == (node.is_alive, node.pid, node.status)
        assert wait_gone(pid)
    assert sorted(set(heights)) == heights


def test_an_end_that_nobody_asked_for_is_told(tmp_path: Path) -> None:
    """Whoever started it hears of a crash, with its status, and decides."""
    told: queue.Queue[int] = queue.Queue()
    made = make_node(tmp_path / "comet")
    node = CometProcess(made.home, made.rpc_address, on_exit=told.put)
    node.start()
    try:
        assert node.pid is not None
        os.kill(node.pid, signal.SIGKILL)
        assert 137 == told.get(timeout=PATIENCE_S)
    finally:
        node.stop()


def test_why_it_did_not_start_is_told(tmp_path: Path) -> None:
    """What CometBFT says of its settings reaches the operator."""
    node = make_node(tmp_path / "comet")
    config = node.home / "config" / "config.toml"
    config.write_text(config.read_text().replace('"json"', '"xml"'))
    node.start()
    try:
        with pytest.raises(OperatorError, match="unknown log_format"):
            node.wait_ready(PATIENCE_S)
    finally:
        node.stop()


def test_it_ends_with_whoever_started_it(tmp_path: Path) -> None:
    """kill -9 of the parent ends the engine, and the next one can start on its home at once."""
    node = make_node(tmp_path / "comet")
    command = [sys.executable, "-c", PARENT, str(node.home), node.rpc_address]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        os.kill(pid, 0)
        parent.kill()
    node.start()
    try:
        assert wait_gone(pid)
        node.wait_ready(PATIENCE_S)
    finally:
        node.stop()


def test_it_ends_with_its_guard(tmp_path: Path) -> None:
    """Not even the death of the process between us leaves it behind."""
    node = make_node(tmp_path / "comet")
    node.start()
    try:
        assert node.pid is not None
        pid = node.pid
        status = Path(f"/proc/{pid}/status").read_text()
        guard = int(status.split("PPid:")[1].split()[0])
        os.kill(guard, signal.SIGKILL)
        assert wait_gone(pid)
    finally:
        node.stop()
