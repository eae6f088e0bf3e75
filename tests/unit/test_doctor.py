"""What is wrong is named, with what to do; what is right is not."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.ceremony_world import found
from tests.comet_world import make_block, make_set
from tests.conftest import REPOSITORY
from typer.testing import CliRunner

from hansa.core.errors import OperatorError
from hansa.foreground.cli.application import app
from hansa.interface.doctor import (
    LOG_SIGNS,
    Finding,
    examine_home,
    examine_url,
    judge_home,
    judge_log,
    judge_numbers,
    read_numbers,
)
from hansa.interface.http.comet_metrics import find_vote, measure_offset, read_time
from hansa.interface.sandbox.home import create_sandbox
from hansa.network.comet.process import pick_ports
from hansa.storage.lock import HomeLock

NOW_S = 1_760_000_000.0
HEALTHY = {
    "hansa_disk_free_bytes": "50000000000",
    "hansa_disk_total_bytes": "100000000000",
    'hansa_client_frozen{client="trade:anchor"}': "0",
    'hansa_client_trusted_until_seconds{client="trade:anchor"}': f"{NOW_S + 1_000_000}",
    "hansa_comet_up": "1",
    "hansa_comet_restarts_total": "0",
    "hansa_comet_height": "90",
    "hansa_comet_block_timestamp_seconds": f"{NOW_S - 3}",
    "hansa_comet_blocks_behind": "0",
    "hansa_comet_catching_up": "0",
    "hansa_comet_peers": "3",
    "hansa_comet_peers_configured": "3",
    "hansa_comet_heard_ratio": "0.5",
    "hansa_comet_mempool_transactions": "12",
    "hansa_comet_mempool_limit": "5000",
    "hansa_validator_power": "10",
    "hansa_validator_jailed": "0",
    "hansa_validator_missed_signatures_total": "1",
    "hansa_blocks_total": "90",
    "hansa_clock_offset_seconds": "0.02",
}

NUMBERS: dict[str, tuple[dict[str, str], str, str]] = {
    "CometBFT is down": ({"hansa_comet_up": "0"}, "engine-down", "doesn't answer"),
    "disk nearly full": ({"hansa_disk_free_bytes": "2000000000"}, "disk-full", "2,000 MB left"),
    "little room at all": (
        {"hansa_disk_free_bytes": "1000", "hansa_disk_total_bytes": "2000"}, "disk-full", "0 MB",
    ),
    "nobody connected": ({"hansa_comet_peers": "0"}, "no-peers", "of 3 that should be"),
    "blocks behind": ({"hansa_comet_blocks_behind": "40"}, "behind", "40 blocks behind"),
    "catching up": ({"hansa_comet_catching_up": "1"}, "behind", "catching up"),
    "no block": (
        {"hansa_comet_block_timestamp_seconds": f"{NOW_S - 600}"}, "halted", "600 s.* 50% is heard",
    ),
    "a clock that is fast": (
        {"hansa_clock_offset_seconds": "600"}, "clock-off", "600 s ahead of the peers'",
    ),
    "a clock that is slow": (
        {"hansa_comet_block_timestamp_seconds": f"{NOW_S + 600}"}, "clock-off", "600 s behind",
    ),
    "a full mempool": (
        {"hansa_comet_mempool_transactions": "4800"}, "mempool-full", "4,800 bundles wait of 5,000",
    ),
    "no vote": ({"hansa_validator_power": "0"}, "not-validator", "has no vote"),
    "jailed": (
        {"hansa_validator_power": "0", "hansa_validator_jailed": "1"}, "jailed", "signed two",
    ),
    "votes missing": (
        {"hansa_validator_missed_signatures_total": "30"}, "missing-votes", "30 of the last 90",
    ),
    "trust nearly over": (
        {'hansa_client_trusted_until_seconds{client="trade:anchor"}': f"{NOW_S + 7200}"},
        "trust-expiring", "trade:anchor: trust in the other chain ends in 2 hours",
    ),
    "trust over": (
        {'hansa_client_trusted_until_seconds{client="trade:anchor"}': f"{NOW_S - 7200}"},
        "trust-expiring", "ended 2 hours ago",
    ),
    "a lie": (
        {'hansa_client_frozen{client="trade:anchor"}': "1"}, "client-frozen", "two histories",
    ),
}  # fmt: skip


def judge(changes: dict[str, str]) -> list[Finding]:
    """What is found in a validator's numbers with these changes."""
    page = "".join(f"{name} {value}\n" for name, value in {**HEALTHY, **changes}.items())
    return list(judge_numbers(read_numbers(page), NOW_S, should_vote=True))


def test_healthy_numbers_have_nothing() -> None:
    """Neither a validator's nor those of a node that only follows, nor a solo node's."""
    assert [] == judge({})
    assert [] == list(judge_numbers(read_numbers("hansa_validator_power 0\n"), NOW_S))
    solo = {name: value for name, value in HEALTHY.items() if "comet" not in name}
    page = "".join(f"{name} {value}\n" for name, value in solo.items())
    assert [] == list(judge_numbers(read_numbers(page), NOW_S))


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_that_are_wrong_are_named(name: str) -> None:
    """One thing wrong is one finding, which says how much and what to do."""
    changes, expected, words = NUMBERS[name]
    (finding,) = judge(changes)
    assert expected == finding.name
    assert re.search(words, finding.says)
    assert finding.do


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home of a founder that never ran."""
    organisations, _ = found(tmp_path, ["Ash", "Beech"], time_ms=1_760_000_000_000)
    return organisations[0].home


def _open_key(home: Path) -> None:
    (home / "comet/config/priv_validator_key.json").chmod(0o644)


def _swap_genesis(home: Path) -> None:
    path = home / "comet/config/genesis.json"
    path.write_bytes(path.read_bytes().replace(b"hansa-", b"other-"))


def _spoil_genesis(home: Path) -> None:
    (home / "genesis.bin").write_bytes(b"half a genesis")


def _forget_engine(home: Path) -> None:
    document = json.loads((home / "config.json").read_bytes())
    (home / "config.json").write_text(json.dumps({**document, "comet": None}))


FILES: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "a key that others can read": (_open_key, "keys-open", r"priv_validator_key.json.*\(0644\)"),
    "the genesis of another network": (_swap_genesis, "wrong-genesis", "comet/config/genesis.json"),
    "a genesis that is none": (_spoil_genesis, "home-damaged", "expected a genesis"),
    "no word on CometBFT": (_forget_engine, "home-damaged", "nothing under 'comet'"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_wrong_are_named(name: str, home: Path) -> None:
    """Each is found beside nothing else, whether the node runs or not."""
    spoil, expected, words = FILES[name]
    assert [] == list(judge_home(home))
    spoil(home)
    (finding,) = judge_home(home)
    assert expected == finding.name
    assert re.search(words, finding.says)


def test_a_missing_engine_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a version that doesn't fit as well; the finding says what to install."""
    monkeypatch.setenv("COMETBFT", "/bin/false")
    (finding,) = judge_home(home)
    assert "engine-missing" == finding.name
    assert "go install" in finding.says


LOG_LINES = {
    "app-hash": "wrong Block.Header.AppHash.  Expected 01AB, got 02CD",
    "cannot-bind": "listen tcp 127.0.0.1:26656: bind: address already in use",
    "other-network": "peer is on a different network. Got hansa-1, expected hansa-2",
    "key-elsewhere": "found signature from the same key",
}


@pytest.mark.parametrize("name", LOG_LINES)
def test_the_log_is_read(name: str, tmp_path: Path) -> None:
    """What CometBFT said in its last two starts counts, what it said before doesn't."""
    log = tmp_path / "comet.log"
    start = '{"_msg":"Version info"}\n'
    log.write_text(f'{start}{{"level":"error","err":"{LOG_LINES[name]}"}}\n{start}')
    (finding,) = judge_log(log)
    assert name == finding.name
    log.write_text(log.read_text() + start)
    assert [] == list(judge_log(log))
    assert LOG_LINES.keys() == {sign for sign, _, _ in LOG_SIGNS.values()}


def test_a_stopped_node_is_told_from_a_taken_one(home: Path) -> None:
    """By the lock; and a port that somebody else has is named before the start fails."""
    (finding,) = examine_home(home)
    assert ("not-running", f"no node runs on {home}") == (finding.name, finding.says)
    with HomeLock(home, "hansa import"):
        (finding,) = examine_home(home)
    assert f"process {os.getpid()} (hansa import)" in finding.says
    port = int(json.loads((home / "config.json").read_bytes())["comet"]["settings"][
        "p2p_address"
    ].rpartition(":")[2])  # fmt: skip
    with socket.create_server(("127.0.0.1", port)):
        assert ["not-running", "cannot-bind"] == [one.name for one in examine_home(home)]


def test_an_address_nobody_serves_is_told() -> None:
    """From afar nothing more can be said."""
    (finding,) = examine_url(f"http://127.0.0.1:{pick_ports(1)[0]}")
    assert "not-running" == finding.name


def test_a_sandbox_is_examined_as_well(tmp_path: Path) -> None:
    """It has no CometBFT to be asked; a folder without a network is no patient."""
    create_sandbox(tmp_path / "home", "solo")
    assert ["not-running"] == [one.name for one in examine_home(tmp_path / "home")]
    with pytest.raises(OperatorError, match="expected a home with a genesis"):
        examine_home(tmp_path)


def test_the_command_ends_with_1_where_something_is_wrong(tmp_path: Path) -> None:
    """With --json the findings are a list."""
    create_sandbox(tmp_path, "solo")
    said = CliRunner().invoke(app, ["doctor", "--home", str(tmp_path), "--json"])
    document = json.loads(said.stdout)
    assert (1, False) == (said.exit_code, document["healthy"])
    assert ["not-running"] == [one["name"] for one in document["findings"]]


def test_the_commands_it_advises_exist() -> None:
    """Nobody with a sick node should be sent to a command that there is not."""
    code = (REPOSITORY / "src/hansa/interface/doctor.py").read_text()
    page = (REPOSITORY / "docs/cli.md").read_text()
    known = set(re.findall(r"^##+ (hansa .*)$", page, re.MULTILINE))
    advised = set(re.findall(r"`(hansa [a-z]+(?: [a-z-]+)?)`", code))
    assert set() == {words for words in advised if words not in known} - {"hansa list validators"}


def test_every_finding_is_in_the_handbook() -> None:
    """And the handbook lists no other."""
    code = (REPOSITORY / "src/hansa/interface/doctor.py").read_text()
    names = set(re.findall(r'Finding\(\s*"([a-z-]+)"', code)) | LOG_LINES.keys()
    page = (REPOSITORY / "docs/operating.md").read_text()
    section = page.partition("## What is wrong: the doctor")[2].partition("\n## ")[0]
    assert names == set(re.findall(r"^\| `([a-z-]+)` \|", section, re.MULTILINE))


# Votes, by which a clock is judged.


def test_a_vote_is_found_by_its_key() -> None:
    """Absent ones too; who has no seat has none."""
    validators = make_set(10, 10, 10, 10)
    block = make_block(5, validators, absent=[2])
    assert 2 == find_vote(block, validators[1].key).flag
    assert 1 == find_vote(block, validators[2].key).flag
    assert None is find_vote(block, bytes(33))


def test_a_clock_is_compared_with_the_others() -> None:
    """With the middle one of the other votes, which are a nanosecond apart."""
    validators = make_set(10, 10, 10)
    block = make_block(5, validators)
    assert -2e-9 == pytest.approx(measure_offset(block, validators[0].key))
    assert None is measure_offset(block, bytes([2]) + bytes(32))
    assert None is measure_offset(make_block(5, make_set(10)), make_set(10)[0].key)


TIMES = {
    "2026-11-21T07:13:48Z": 1_795_245_228.0,
    "2026-11-21T07:13:48.25Z": 1_795_245_228.25,
    "2026-11-21T07:13:48.000000001Z": 1_795_245_228.000000001,
}


@pytest.mark.parametrize("text", TIMES)
def test_times_are_read_as_go_writes_them(text: str) -> None:
    """With as many digits after the second as there are, or none."""
    assert TIMES[text] == pytest.approx(read_time(text))
