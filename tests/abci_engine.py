"""A single CometBFT validator for the tests of the ABCI server, reached by sockets in a folder.

`python -m tests.abci_engine` records `tests/vectors/hansa/abci_traffic.jsonl` anew.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
from tests.abci_world import KeyValueApplication, Recording, render_recording

from hansa.network.comet.abci import AbciServer
from hansa.network.comet.process import find_binary

TRAFFIC: Final = Path(__file__).resolve().parent / "vectors" / "hansa" / "abci_traffic.jsonl"

SETTINGS: Final = {
    "timeout_commit": "50ms",
    "pex": "false",
    "indexer": "null",
    "addr_book_strict": "false",
}
"""Of config.toml: blocks in quick succession, and nobody looked for."""


class Engine:
    """One validator alone: a process that is started, killed and started again on its files."""

    def __init__(self, home: Path) -> None:
        """Make its keys, genesis and configuration."""
        self.home = home
        self.binary = find_binary()
        self.application_socket = home / "abci.sock"
        self.rpc_socket = home / "rpc.sock"
        self._process: asyncio.subprocess.Process | None = None
        subprocess.run([self.binary, "init", "--home", home], check=True, capture_output=True)
        self._configure()

    def _configure(self) -> None:
        path = self.home / "config" / "config.toml"
        text = path.read_text(encoding="utf-8")
        for name, value in SETTINGS.items():
            rendered = value if value == "false" else f'"{value}"'
            text, count = re.subn(rf"(?m)^{name} = .*$", f"{name} = {rendered}", text)
            assert 1 == count, name
        path.write_text(text, encoding="utf-8")
        path = self.home / "config" / "genesis.json"
        genesis = json.loads(path.read_text(encoding="utf-8"))
        genesis["chain_id"] = "hansa-0000000000000000"
        genesis["consensus_params"]["abci"]["vote_extensions_enable_height"] = "1"
        path.write_text(json.dumps(genesis), encoding="utf-8")

    async def start(self) -> None:
        """Run it; it connects to the application by itself."""
        log = await asyncio.to_thread((self.home / "engine.log").open, "ab")
        with log:
            self._process = await asyncio.create_subprocess_exec(
                *(self.binary, "start", "--home", self.home),
                f"--proxy_app=unix://{self.application_socket}",
                f"--rpc.laddr=unix://{self.rpc_socket}",
                "--p2p.laddr=tcp://127.0.0.1:0",
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        """As kill -9 does."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.kill()

    async def wait(self) -> int:
        """Until it is gone; its status."""
        assert self._process is not None
        status = await self._process.wait()
        self.rpc_socket.unlink(missing_ok=True)
        return status

    async def ask(self, method: str, **parameters: Any) -> Any:
        """Call its RPC."""
        transport = httpx.AsyncHTTPTransport(uds=str(self.rpc_socket))
        async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
            question = {"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}
            answer = await client.post("/", json=question, timeout=10)
            return answer.json()["result"]


@asynccontextmanager
async def running(
    engine: Engine, application: KeyValueApplication, recording: Recording
) -> AsyncIterator[None]:
    """Serve the application and start the engine; both are gone afterwards, without a failure."""
    failures: list[BaseException] = []
    server = AbciServer(
        application, engine.application_socket, on_failure=failures.append, recorder=recording
    )
    await server.start()
    await engine.start()
    try:
        yield
    finally:
        engine.kill()
        await engine.wait()
        await server.close()
    assert [] == failures


async def trade(engine: Engine, application: KeyValueApplication) -> None:
    """Ask what users ask: submit good and bad transactions, read, and see them rechecked."""
    await application.reach(1)
    for index in range(3):
        result = await engine.ask("broadcast_tx_sync", tx=to_base64(b"key%d=value" % index))
        assert 0 == result["code"]
    assert 1 == (await engine.ask("broadcast_tx_sync", tx=to_base64(b"nonsense")))["code"]
    await application.reach(application.height + 2)
    answer = await engine.ask("abci_query", path="", data=b"key1".hex())
    assert to_base64(b"value") == answer["response"]["value"]
    info = await engine.ask("abci_info")
    assert int(info["response"]["last_block_height"]) <= application.height


def to_base64(data: bytes) -> str:
    """As the RPC writes bytes."""
    return base64.b64encode(data).decode()


async def record_traffic(home: Path) -> Recording:
    """A clean start, users, kill -9 and a recovery."""
    engine, application, recording = Engine(home), KeyValueApplication(), Recording()
    async with running(engine, application, recording):
        await trade(engine, application)
        engine.kill()
        await engine.wait()
        recording.begin_run()
        await engine.start()
        await application.reach(application.height + 2)
    return recording


def main() -> int:
    """Record the traffic that `tests/vectors/test_abci_traffic.py` reads."""
    with tempfile.TemporaryDirectory() as folder:
        recording = asyncio.run(record_traffic(Path(folder)))
    TRAFFIC.write_text(render_recording(recording.messages), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
