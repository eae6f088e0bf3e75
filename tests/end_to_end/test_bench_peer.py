"""The peer is measured where Node.js is there, and named as missing where it isn't."""

import shutil
from pathlib import Path

import pytest

from hansa.interface.bench.peer import (
    NO_NODE,
    SOURCES,
    Load,
    PeerFailed,
    find_server,
    install_packages,
    locate_cache,
    measure_peer,
    run_server,
)

TINY = Load(accounts=5, transfers=20, batches=3, batch_size=7, whole_limit_s=120)


def ignore(_what: str, _done: int, _total: int | None) -> None:
    """Progress that nobody looks at."""


def test_where_node_is_missing_the_answer_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With nothing on the PATH the answer is the name of the packages to install."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert {"missing": NO_NODE} == measure_peer(True, ignore)


def test_an_npm_that_fails_is_a_reason_and_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where npm can't install, its own words are the reason and the cache stays empty."""
    programs, cache = tmp_path / "bin", tmp_path / "cache"
    programs.mkdir()
    for name in ("node", "npm"):
        (programs / name).write_text("#!/bin/sh\necho no network; exit 7\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    reason = "packages of the peer: expected npm install to end with 0, got 7: no network"
    assert {"missing": reason} == measure_peer(True, ignore)
    assert [] == list(locate_cache().iterdir())


def test_a_relative_cache_folder_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """XDG_CACHE_HOME counts only as an absolute path."""
    monkeypatch.setenv("XDG_CACHE_HOME", "somewhere")
    assert Path.home() / ".cache" / "hansa" / "peer" == locate_cache()


def test_a_server_that_ends_at_once_is_a_failure_with_its_port() -> None:
    """A program that never opens its port is reported, not waited for."""
    false = shutil.which("false")
    assert false is not None
    with pytest.raises(PeerFailed, match="expected anvil on port"), run_server(Path(false)):
        pytest.fail("a server that has ended was taken for a running one")


def test_versions_are_pinned_and_no_lock_file_lies_beside_them() -> None:
    """The packages are named by exact version, without an address to fetch them from."""
    assert ["Token.sol", "driver.mjs", "package.json"] == sorted(
        path.name for path in SOURCES.iterdir()
    )
    text = (SOURCES / "package.json").read_text()
    assert [] == [sign for sign in ("^", "~", "*", "://", "latest") if sign in text]


def test_a_tiny_run_counts_every_transfer_and_stops_the_server() -> None:
    """Where Node.js is there both ways of sending are measured; elsewhere the reason is named."""
    node, npm = shutil.which("node"), shutil.which("npm")
    seen: list[str] = []
    measured = measure_peer(True, lambda what, _done, _total: seen.append(what), load=TINY)
    if node is None or npm is None:
        assert {"missing": NO_NODE} == measured
        return
    assert {"single_tx_s", "batched_transfers_s", "conditions"} == set(measured), measured
    conditions = measured["conditions"]
    assert (20, 20) == (conditions["single"]["transfers"], conditions["single"]["transactions"])
    assert (21, 3) == (conditions["batched"]["transfers"], conditions["batched"]["transactions"])
    assert "anvil/v1.7.1" == conditions["versions"]["anvil"]
    assert {"single transfers", "batched transfers"} <= set(seen)
    assert measured["single_tx_s"] > 0 < measured["batched_transfers_s"]


def test_a_driver_that_takes_too_long_is_ended() -> None:
    """A run beyond its limit is a failure, and the server is stopped with it."""
    npm = shutil.which("npm")
    if npm is None:
        assert {"missing": NO_NODE} == measure_peer(True, ignore)
        return
    assert find_server(install_packages(npm, locate_cache(), ignore)) is not None
    hopeless = Load(accounts=5, transfers=100_000, batches=1, batch_size=1, whole_limit_s=2)
    with pytest.raises(PeerFailed, match="expected the driver to end within 2 s"):
        measure_peer(True, ignore, load=hopeless)
