"""What is written for CometBFT to read, which CometBFT is taken, and the guard's log and lock."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import sys
import tomllib
from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from hansa.core.errors import OperatorError
from hansa.core.keys import ED25519
from hansa.core.validatorset import Validator
from hansa.network.comet import guard, process
from hansa.network.comet.config import (
    CometSettings,
    ConsensusLimits,
    StateSync,
    compute_node_id,
    make_config,
    make_genesis_document,
    write_home,
    write_validator_key,
)
from hansa.network.comet.process import find_binary, is_older_go, pick_ports

# RFC 8032 §7.1, test 1.
SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
PUBLIC = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
ADDRESS = sha256(PUBLIC).digest()[:20]

SETTINGS = CometSettings(
    moniker="node0",
    proxy_app="/home/hansa/app.sock",
    p2p_address="127.0.0.1:26656",
    rpc_address="127.0.0.1:26657",
)
SYNC = StateSync(
    rpc_servers=("10.0.0.1:26657", "10.0.0.2:26657"),
    trust_height=7,
    trust_hash=b"\xab" * 32,
    trust_period_ms=86_400_000,
)
VALIDATORS = (Validator(bytes([ED25519]) + PUBLIC, 10),)
TIME_MS = 1_700_000_000_007
GENESIS = make_genesis_document("hansa-0011", TIME_MS, VALIDATORS)


def read_config(settings: CometSettings) -> dict[str, Any]:
    """What a TOML reader makes of the settings."""
    return tomllib.loads(make_config(settings))


def read_mode(path: Path) -> int:
    """Who may do what with a file."""
    return stat.S_IMODE(path.stat().st_mode)


CHANGES: dict[str, tuple[dict[str, Any], str, str, Any]] = {
    "socket": ({}, "", "proxy_app", "unix:///home/hansa/app.sock"),
    "built-in": ({"proxy_app": "kvstore"}, "", "proxy_app", "kvstore"),
    "json log": ({}, "", "log_format", "json"),
    "signer": (
        {"priv_validator_address": "127.0.0.1:26659"},
        "",
        "priv_validator_laddr",
        "tcp://127.0.0.1:26659",
    ),
    "rpc": ({}, "rpc", "laddr", "tcp://127.0.0.1:26657"),
    "no unsafe": ({}, "rpc", "unsafe", False),
    "no grpc": ({}, "rpc", "grpc_laddr", ""),
    "peers": (
        {"persistent_peers": ("aa@10.0.0.1:1", "bb@10.0.0.2:2")},
        "p2p",
        "persistent_peers",
        "aa@10.0.0.1:1,bb@10.0.0.2:2",
    ),
    "no pex": ({}, "p2p", "pex", False),
    "commit": ({"timeout_commit_ms": 250}, "consensus", "timeout_commit", "250ms"),
    "no empty blocks": ({}, "consensus", "create_empty_blocks", False),
    "empty blocks": (
        {"create_empty_blocks_interval_ms": 60_000},
        "consensus",
        "create_empty_blocks_interval",
        "60000ms",
    ),
    "recheck": ({}, "mempool", "recheck", True),
    "never adaptive": ({}, "blocksync", "adaptive_sync", False),
    "no index": ({}, "tx_index", "indexer", "null"),
    "no metrics": ({}, "instrumentation", "prometheus", False),
    "metrics": (
        {"prometheus_address": "127.0.0.1:1"},
        "instrumentation",
        "prometheus_listen_addr",
        "127.0.0.1:1",
    ),
    "no sync": ({}, "statesync", "enable", False),
    "sync": ({"state_sync": SYNC}, "statesync", "trust_hash", "ab" * 32),
    "servers": (
        {"state_sync": SYNC},
        "statesync",
        "rpc_servers",
        "10.0.0.1:26657,10.0.0.2:26657",
    ),
    "discard": ({"discard_abci_responses": True}, "storage", "discard_abci_responses", True),
}


@pytest.mark.parametrize(
    ("change", "section", "name", "expected"), CHANGES.values(), ids=CHANGES.keys()
)
def test_settings_stand_in_the_file(
    change: dict[str, Any], section: str, name: str, expected: object
) -> None:
    """Each setting is found where CometBFT looks for it, in its form."""
    read = read_config(replace(SETTINGS, **change))
    assert expected == (read[section] if section else read)[name]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_name_survives(moniker: str) -> None:
    """No name of a node breaks out of its place in the file."""
    assert moniker == read_config(replace(SETTINGS, moniker=moniker))["moniker"]


REFUSED_SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "body": ({"mempool_max_tx_bytes": 4_000_000}, "rpc_max_body_bytes: expected over twice"),
    "socket": ({"proxy_app": "/" + "x" * 107}, "expected a path of at most 107 bytes"),
    "one server": (
        {"state_sync": replace(SYNC, rpc_servers=("10.0.0.1:1",))},
        "expected two or more, got 1",
    ),
    "hasty": ({"state_sync": replace(SYNC, discovery_ms=100)}, "at least 5000, got 100"),
}


@pytest.mark.parametrize(
    ("change", "message"), REFUSED_SETTINGS.values(), ids=REFUSED_SETTINGS.keys()
)
def test_settings_that_cannot_work_are_refused(change: dict[str, Any], message: str) -> None:
    """What CometBFT would stop at, or silently choke on, is said before it starts."""
    with pytest.raises(OperatorError, match=message):
        replace(SETTINGS, **change)


def test_the_genesis_is_as_cometbft_writes_one() -> None:
    """Numbers of 64 bits are strings, durations nanoseconds, the key base64, the address hex."""
    document = json.loads(GENESIS)
    assert "2023-11-14T22:13:20.007Z" == document["genesis_time"]
    assert "" == document["app_hash"]
    assert {"max_bytes": "4194304", "max_gas": "-1"} == document["consensus_params"]["block"]
    assert str(48 * 3600 * 10**9) == document["consensus_params"]["evidence"]["max_age_duration"]
    expected = {
        "address": ADDRESS.hex().upper(),
        "pub_key": {"type": "tendermint/PubKeyEd25519", "value": b64encode(PUBLIC).decode()},
        "power": "10",
        "name": "",
    }
    assert [expected] == document["validators"]


REFUSED_GENESES: dict[str, tuple[dict[str, Any], str]] = {
    "no name": ({"chain_id": ""}, "chain_id: expected 1 to 50 bytes"),
    "long name": ({"chain_id": "x" * 51}, "chain_id: expected 1 to 50 bytes"),
    "nobody": ({"validators": ()}, "validators: expected at least one"),
    "twice": ({"validators": VALIDATORS * 2}, "validators: expected each key once"),
    "vast": ({"limits": ConsensusLimits(max_block_bytes=2**30)}, "max_block_bytes: expected 1 to"),
    "evidence": (
        {"limits": ConsensusLimits(max_block_bytes=1_048_576)},
        "max_evidence_bytes: expected less than",
    ),
    "age": ({"limits": ConsensusLimits(evidence_max_age_blocks=0)}, "evidence_max_age: expected"),
}


@pytest.mark.parametrize(
    ("change", "message"), REFUSED_GENESES.values(), ids=REFUSED_GENESES.keys()
)
def test_a_genesis_that_cannot_work_is_refused(change: dict[str, Any], message: str) -> None:
    """What CometBFT would refuse on each node is refused where the genesis is made."""
    valid: dict[str, Any] = {"chain_id": "hansa-0", "time_ms": 0, "validators": VALIDATORS}
    with pytest.raises(OperatorError, match=message):
        make_genesis_document(**{**valid, **change})


def test_keys_are_written_for_their_owner_alone(tmp_path: Path) -> None:
    """The key files hold seed and public key, and nobody else can read them."""
    write_home(tmp_path, SETTINGS, GENESIS, node_seed=b"n" * 32, validator_seed=SEED)
    path = tmp_path / "config" / "priv_validator_key.json"
    key = json.loads(path.read_bytes())
    assert ADDRESS.hex().upper() == key["address"]
    assert b64encode(SEED + PUBLIC).decode() == key["priv_key"]["value"]
    secret = [path, path.with_name("node_key.json")]
    assert [0o600, 0o600] == [read_mode(file) for file in secret]
    assert ADDRESS.hex() == compute_node_id(SEED)


def test_what_was_signed_is_never_forgotten(tmp_path: Path) -> None:
    """Writing a home again, or another key in it, leaves the state of signing alone."""
    write_home(tmp_path, SETTINGS, GENESIS, node_seed=b"n" * 32, validator_seed=SEED)
    state = tmp_path / "data" / "priv_validator_state.json"
    signed = b'{"height": "9", "round": 1, "step": 3}'
    state.write_bytes(signed)
    slower = replace(SETTINGS, timeout_commit_ms=9_000)
    write_home(tmp_path, slower, GENESIS, node_seed=b"n" * 32, validator_seed=SEED)
    write_validator_key(tmp_path, b"w" * 32)
    assert signed == state.read_bytes()
    config = tomllib.loads((tmp_path / "config" / "config.toml").read_text())
    assert "9000ms" == config["consensus"]["timeout_commit"]


def test_a_home_of_another_network_is_left_alone(tmp_path: Path) -> None:
    """A home isn't moved to another network: its blocks and votes are of this one."""
    write_home(tmp_path, SETTINGS, GENESIS, node_seed=b"n" * 32)
    other = make_genesis_document("hansa-1", TIME_MS, VALIDATORS)
    with pytest.raises(OperatorError, match="expected the genesis of this network"):
        write_home(tmp_path, SETTINGS, other, node_seed=b"n" * 32)
    assert GENESIS == (tmp_path / "config" / "genesis.json").read_bytes()


# Which CometBFT.

VERSIONS = {
    "oldest": ("0.38.25", True),
    "with its commit": ("0.39.4+1234abcd", True),
    "with a v": ("v0.40.0", True),
    "too old": ("0.38.24", False),
    "too new": ("0.41.0", False),
    "another major": ("1.0.1", False),
    "none": ("command not found", False),
}


def install(folder: Path, version: str) -> Path:
    """A program that says it is CometBFT of a version."""
    folder.mkdir(exist_ok=True)
    binary = folder / "cometbft"
    binary.write_text(f"#!/bin/sh\necho '{version}'\n")
    binary.chmod(0o755)
    return binary


@pytest.mark.parametrize(("version", "fits"), VERSIONS.values(), ids=VERSIONS.keys())
def test_a_binary_is_used_only_if_its_version_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, fits: bool
) -> None:
    """One that is named is used or refused; another is never taken in its place."""
    binary = install(tmp_path, version)
    monkeypatch.setenv("COMETBFT", str(binary))
    if fits:
        assert binary == find_binary()
    else:
        with pytest.raises(OperatorError, match=r"from 0\.38\.25 to before 0\.41\.0"):
            find_binary()


def test_the_first_that_fits_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A binary on the PATH whose version doesn't fit hides none that does."""
    install(tmp_path / "old", "0.37.0")
    fitting = install(tmp_path / "fitting", "0.40.0")
    monkeypatch.delenv("COMETBFT", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}/old:{tmp_path}/fitting:{os.environ['PATH']}")
    assert fitting == find_binary()


def hide_everything(monkeypatch: pytest.MonkeyPatch, empty: Path) -> None:
    """A machine with neither CometBFT nor Go."""
    for name in ("COMETBFT", "GOBIN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(empty))
    monkeypatch.setenv("HOME", str(empty))
    monkeypatch.setattr(sys, "executable", str(empty / "python"))
    monkeypatch.setattr(process, "USUAL_GO", str(empty))


INSTALL = "go install github.com/cometbft/cometbft/cmd/cometbft@v0.39.4"
GO_VERSIONS = {
    "none": (None, "install Go 1.25 or later"),
    "too old": ("go1.22.2", "is Go 1.22.2 and Go 1.25 or later is needed"),
    "new": ("go1.26.1", "got none; run: "),
}


@pytest.mark.parametrize(("go", "says"), GO_VERSIONS.values(), ids=GO_VERSIONS.keys())
def test_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, go: str | None, says: str
) -> None:
    """Without CometBFT the message has the command, and what Go it takes."""
    hide_everything(monkeypatch, tmp_path)
    if go is not None:
        install(tmp_path, go).rename(tmp_path / "go")
    with pytest.raises(OperatorError) as caught:
        find_binary()
    assert says in str(caught.value)
    assert str(caught.value).endswith(INSTALL)


def test_go_versions_are_compared_as_numbers() -> None:
    """1.9 is older than 1.25, and what is no release is taken as new."""
    versions = ["1.9", "1.24.13", "1.25rc1", "1.25.0", "2.0", "devel go1.27-abc", ""]
    assert [True, True, False, False, False, False, False] == [is_older_go(v) for v in versions]


def test_ports_are_free_and_differ() -> None:
    """As many ports as asked for, each once, under those of outgoing connections."""
    ports = pick_ports(40)
    assert 40 == len(set(ports))
    assert max(ports) < 32_768


# The guard.


def test_the_log_is_bounded(tmp_path: Path) -> None:
    """A full log becomes the one before it, and no more than two are kept."""
    log = guard.BoundedLog(str(tmp_path / "log"), 100)
    for number in range(10):
        log.write(b"%039d\n" % number)
    assert {"log": 80, "log.1": 80} == {
        file.name: file.stat().st_size for file in tmp_path.iterdir()
    }
    assert (tmp_path / "log").read_bytes().endswith(b"9\n")
    os.close(log.file)


def test_a_full_disk_costs_lines_and_says_so(tmp_path: Path) -> None:
    """What can't be written is counted; the first line that can be says how much is missing."""
    path = tmp_path / "log"
    log = guard.BoundedLog(str(path), 1_000)
    room, log.file = log.file, os.open("/dev/full", os.O_WRONLY)
    log.write(b"lost\n")
    os.close(log.file)
    log.file = room
    log.write(b"kept\n")
    assert b"5 bytes of this log were lost: the disk was full\nkept\n" == path.read_bytes()
    os.close(log.file)


def test_a_home_is_locked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While an engine lives on a home no other is started there, and then one is."""
    monkeypatch.setattr(guard, "LOCK_WAIT_S", 0.0)
    path = tmp_path / "lock"
    with path.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert guard.take_lock(str(path)) is None
    lock = guard.take_lock(str(path))
    assert lock is not None
    os.close(lock)
