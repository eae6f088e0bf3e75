"""Measures the peer: ERC-20 transfers on anvil, an Ethereum node for development, on this machine.

The peer keeps everything in memory, alone, without consensus. It prints nothing and sorts nothing,
and the clock stops when the last transaction is in a block. All of its traffic stays
on the loopback; only the first run fetches its packages, into the user's cache folder.
"""

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

Progress = Callable[[str, int, int | None], None]
"""(what, done, total); the total is None while it isn't known."""

SOURCES: Final = Path(__file__).resolve().parents[4] / "benchmarks" / "peer"
BLOCK_TIME_S: Final = 1
BLOCK_GAS_LIMIT: Final = 4_000_000_000
INSTALL_LIMIT_S: Final = 180
START_LIMIT_S: Final = 20
STOP_LIMIT_S: Final = 5
POLL_S: Final = 0.05

NO_NODE: Final = "Node.js: apt-get install nodejs npm"


class PeerFailed(Exception):
    """The peer was there, and the measurement of it did not come to its end."""


@dataclass(frozen=True, slots=True)
class Load:
    """How much is sent to the peer, and how."""

    accounts: int
    transfers: int
    """Transactions of one transfer each."""
    batches: int
    batch_size: int
    """Transfers in one batch transaction."""
    connections: int = 4
    per_request: int = 100
    """Single transfers in one JSON-RPC batch request."""
    batches_per_request: int = 4
    in_flight: int = 20_000
    """Transactions sent and not yet in a block: a bound on the peer's pool, and on its memory."""
    timed_limit_s: int = 60
    """For each of the two timed parts."""
    whole_limit_s: int = 240


FULL: Final = Load(accounts=250, transfers=12_000, batches=1_200, batch_size=200)
QUICK: Final = Load(accounts=250, transfers=6_000, batches=300, batch_size=200, whole_limit_s=90)


def measure_peer(quick: bool, on_progress: Progress, *, load: Load | None = None) -> dict[str, Any]:
    """Run the peer and return `single_tx_s`, `batched_transfers_s` and `conditions`.

    Transfers a second, each way of sending them, from the first request to the last block. Where
    something that has to be installed is not there the answer is `missing` and what to do. The
    first run installs for at most `INSTALL_LIMIT_S`, each run ends within its load's
    `whole_limit_s`. ``load`` sends another amount than `FULL` or `QUICK`. Raises: PeerFailed.
    """
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return {"missing": NO_NODE}
    if not (SOURCES / "package.json").is_file():
        return {"missing": f"benchmarks/peer of a source tree: expected it at {SOURCES}"}
    try:
        modules = install_packages(npm, locate_cache(), on_progress)
    except PeerFailed as failure:
        return {"missing": f"packages of the peer: {failure}"}
    server = find_server(modules)
    if server is None:
        return {"missing": "anvil: expected its program for this platform from npm, got none"}
    chosen = load or (QUICK if quick else FULL)
    with run_server(server) as (process, port):
        measured = run_driver(node, _plan(modules, process.pid, port, chosen), chosen, on_progress)
    return _result(chosen, measured)


def locate_cache() -> Path:
    """The folder for the peer's packages below the user's cache (XDG Base Directory 0.8)."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    # The specification has relative paths ignored.
    root = Path(named) if Path(named).is_absolute() else Path.home() / ".cache"
    return root / "hansa" / "peer"


def install_packages(npm: str, cache: Path, on_progress: Progress) -> Path:
    """The folder that holds `node_modules`, filled by npm where it isn't there yet.

    No package's own code runs during the installation. Raises: PeerFailed.
    """
    manifest = (SOURCES / "package.json").read_bytes()
    target = cache / hashlib.sha256(manifest).hexdigest()[:16]
    if target.is_dir():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="install-", dir=cache) as place:
        fresh = Path(place) / "modules"
        fresh.mkdir()
        (fresh / "package.json").write_bytes(manifest)
        _npm_install(npm, fresh, on_progress)
        try:
            # Whole or not at all: an interrupted installation is never taken for a good one.
            fresh.rename(target)
        except OSError as failure:
            if not target.is_dir():
                raise PeerFailed(f"expected to place them in {target}, got {failure}") from failure
    return target


def _npm_install(npm: str, folder: Path, on_progress: Progress) -> None:
    command = [npm, "install", "--ignore-scripts", "--no-package-lock", "--no-audit", "--no-fund"]
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True,
        )  # fmt: skip
        begin = time.monotonic()
        try:
            while process.poll() is None:
                spent = time.monotonic() - begin
                if spent > INSTALL_LIMIT_S:
                    raise PeerFailed(f"expected npm install within {INSTALL_LIMIT_S} s, it ran on")
                on_progress("installing anvil, solc and ethers", int(spent), None)
                time.sleep(POLL_S)
        finally:
            _kill_group(process)
        if process.returncode != 0:
            output.seek(0)
            said = output.read().decode(errors="replace").strip()[-500:]
            raise PeerFailed(
                f"expected npm install to end with 0, got {process.returncode}: {said}"
            )


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """End npm and what it started; its group is its own, so nothing else is hit."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def find_server(modules: Path) -> Path | None:
    """Anvil's program for this platform, in the package that npm chose for it."""
    scope = modules / "node_modules" / "@foundry-rs"
    return next(iter(sorted(scope.glob("anvil-*/bin/anvil*"))), None)


@contextmanager
def run_server(program: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Anvil on a free loopback port, ready to be asked, and stopped at the end whatever happens.

    Raises: PeerFailed if it ends or keeps its port closed for `START_LIMIT_S`.
    """
    port = _choose_port()
    command = [
        str(program), "--host", "127.0.0.1", "--port", str(port), "--quiet", "--order", "fifo",
        "--accounts", "1", "--no-request-size-limit",
        "--gas-limit", str(BLOCK_GAS_LIMIT), "--block-time", str(BLOCK_TIME_S),
    ]  # fmt: skip
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            _wait_for_port(process, port)
            yield process, port
        finally:
            _stop(process)


def _choose_port() -> int:
    """A port that was free a moment ago: anvil does not tell which one it took when it is quiet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for_port(process: subprocess.Popen[bytes], port: int) -> None:
    end = time.monotonic() + START_LIMIT_S
    while process.poll() is None and time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(POLL_S)
    raise PeerFailed(f"expected anvil on port {port} within {START_LIMIT_S} s, got none")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _plan(modules: Path, pid: int, port: int, load: Load) -> str:
    """What the driver is told, as its head describes it."""
    plan: dict[str, object] = {
        "modules": str(modules), "source": str(SOURCES / "Token.sol"), "port": port, "pid": pid,
        "accounts": load.accounts, "transfers": load.transfers, "batches": load.batches,
        "batchSize": load.batch_size, "connections": load.connections,
        "perRequest": load.per_request, "batchesPerRequest": load.batches_per_request,
        "inFlight": load.in_flight, "timeoutMs": load.timed_limit_s * 1000,
    }  # fmt: skip
    return json.dumps(plan)


def run_driver(node: str, plan: str, load: Load, on_progress: Progress) -> dict[str, Any]:
    """Run the driver and return what it measured.

    Raises: PeerFailed if it takes longer than `whole_limit_s` or ends with anything but 0.
    """
    process = subprocess.Popen(
        [node, str(SOURCES / "driver.mjs"), plan],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    late = threading.Event()

    def end() -> None:
        late.set()
        process.kill()

    limit = threading.Timer(load.whole_limit_s, end)
    limit.start()
    try:
        said = _follow(process, on_progress)
        # One line of result: far below what a pipe holds, so the driver never waits to write it.
        answer = process.stdout.read() if process.stdout else ""
        status = process.wait()
    finally:
        limit.cancel()
        process.kill()
        process.wait()
    if late.is_set():
        raise PeerFailed(f"expected the driver to end within {load.whole_limit_s} s, at {said!r}")
    if status != 0:
        raise PeerFailed(f"expected the driver to end with 0, got {status}: {said}")
    measured: dict[str, Any] = json.loads(answer)
    return measured


def _follow(process: subprocess.Popen[str], on_progress: Progress) -> str:
    """Pass progress on until the driver closes stderr, and return its last line."""
    last = ""
    for line in process.stderr or ():
        last = line.strip()
        try:
            what, done, total = json.loads(last)
        except ValueError:
            continue  # A warning, or the reason of a failure: it is kept as the last line.
        on_progress(what, done, total)
    return last


def _result(load: Load, measured: dict[str, Any]) -> dict[str, Any]:
    single, batched = measured["single"], measured["batched"]
    return {
        "single_tx_s": single["transfers_s"],
        "batched_transfers_s": batched["transfers_s"],
        "conditions": {
            "versions": measured["versions"],
            "options": f"--gas-limit {BLOCK_GAS_LIMIT} --block-time {BLOCK_TIME_S} --order fifo",
            "block_time_s": BLOCK_TIME_S,
            "durable": False,
            "clock": "first request to last block; signing before it, receipts checked after it",
            "signatures": "one a transaction: one a transfer single, one a batch batched",
            "cores": os.cpu_count(),
            "load": asdict(load),
            "sign_ms": measured["sign_ms"],
            "single": single,
            "batched": batched,
        },
    }
