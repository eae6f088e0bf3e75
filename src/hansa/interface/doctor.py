"""What is wrong with a node, and what to do, in words.

A running node is judged by what it tells Prometheus, so that it can be asked from anywhere; the
files of a home say why one doesn't run.
"""

import re
import shutil
import socket
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import httpx
from msgspec import Struct
from prometheus_client.parser import text_string_to_metric_families

from hansa.core.errors import OperatorError
from hansa.core.genesis import Genesis
from hansa.interface.ceremony import INVITATION, make_engine_genesis
from hansa.interface.http.tokens import READ, TokenStore
from hansa.network.comet.process import find_binary
from hansa.network.comet.rpc import split_address
from hansa.node.home import CometConfig, load_config, load_genesis
from hansa.storage.lock import HomeLock, HomeLocked

TIMEOUT_S: Final = 5.0
HALTED_S: Final = 60.0
"""Without a block for so long a network stands, where empty blocks are to come more often."""
EMPTY_BLOCKS_MISSED: Final = 4
MAX_BEHIND: Final = 5
MAX_OFFSET_S: Final = 5.0
MIN_DISK_SHARE: Final = 0.05
MIN_DISK_BYTES: Final = 1 << 30
MEMPOOL_SHARE: Final = 0.9
MAX_MISSED_SHARE: Final = 0.05
TRUST_LEFT_S: Final = 48 * 3_600
LOG_BYTES: Final = 65_536
PRIVATE: Final = (
    "keys.json",
    "tokens.json",
    "comet/config/priv_validator_key.json",
    "comet/config/node_key.json",
)

Numbers = Mapping[str, Sequence[tuple[Mapping[str, str], float]]]
"""By the name of a metric: its labels and its value."""


class Finding(Struct, frozen=True):
    """Something that is wrong."""

    name: str
    """One of those that the handbook lists."""
    says: str
    do: str


# A node that runs, by its numbers.


def read_numbers(text: str) -> Numbers:
    """Return the numbers of a metrics page."""
    numbers: dict[str, list[tuple[Mapping[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            numbers.setdefault(sample.name, []).append((sample.labels, sample.value))
    return numbers


def judge_numbers(
    numbers: Numbers, now_s: float, *, halted_s: float = HALTED_S, should_vote: bool = False
) -> Iterator[Finding]:
    """Yield what a node's numbers show to be wrong.

    ``halted_s`` is how old the newest block may be; ``should_vote`` whether the node is that of a
    validator. What a number isn't there for isn't judged: a node of the solo engine has no peers.
    """
    for judge in (_judge_disk, _judge_clients):
        yield from judge(numbers, now_s)
    if "hansa_comet_up" not in numbers:
        return
    if not _get(numbers, "hansa_comet_up"):
        yield Finding(
            "engine-down",
            "CometBFT doesn't answer"
            f" (it died {_get(numbers, 'hansa_comet_restarts_total'):.0f} times)",
            "read the end of HOME/comet/comet.log; free what it names there: a port, room, memory",
        )
        return
    yield from _judge_peers(numbers)
    yield from _judge_progress(numbers, now_s, halted_s)
    yield from _judge_clock(numbers, now_s)
    yield from _judge_mempool(numbers)
    yield from _judge_vote(numbers, should_vote)


def _get(numbers: Numbers, name: str) -> float:
    samples = numbers.get(name, ())
    return samples[0][1] if samples else 0.0


def _judge_disk(numbers: Numbers, _: float) -> Iterator[Finding]:
    if "hansa_disk_free_bytes" not in numbers:
        return
    free, total = _get(numbers, "hansa_disk_free_bytes"), _get(numbers, "hansa_disk_total_bytes")
    yield from _judge_room(int(free), int(total))


def _judge_room(free: int, total: int) -> Iterator[Finding]:
    if free < MIN_DISK_BYTES or free < total * MIN_DISK_SHARE:
        yield Finding(
            "disk-full",
            f"the disk of the home has {free // 1_000_000:,} MB left of {total // 1_000_000:,}",
            "make room, or move the home to a larger disk; with pruning (`kept_blocks`) CometBFT"
            " keeps fewer blocks. A full disk stops the node, and loses nothing acknowledged",
        )


def _judge_clients(numbers: Numbers, now_s: float) -> Iterator[Finding]:
    for labels, frozen in numbers.get("hansa_client_frozen", ()):
        if frozen:
            yield Finding(
                "client-frozen",
                f"{labels['client']}: the chain was caught with two histories and is not believed",
                "find out with its members which history holds, then recover the client by"
                " resolution (`hansa link recover-client`)",
            )
    for labels, until_s in numbers.get("hansa_client_trusted_until_seconds", ()):
        if until_s - now_s < TRUST_LEFT_S:
            hours = (until_s - now_s) / 3_600
            left = f"ends in {hours:.0f} hours" if hours > 0 else f"ended {-hours:.0f} hours ago"
            yield Finding(
                "trust-expiring",
                f"{labels['client']}: trust in the other chain {left}",
                "see that a relay runs between the two (`hansa relay`): it shows each chain newer"
                " headers of the other. Once it has ended, only a resolution renews it",
            )


def _judge_peers(numbers: Numbers) -> Iterator[Finding]:
    peers = _get(numbers, "hansa_comet_peers")
    expected = _get(numbers, "hansa_comet_peers_configured")
    if expected and not peers:
        yield Finding(
            "no-peers",
            f"no other node is connected, of {expected:.0f} that should be",
            "see that their addresses in config.json (`persistent_peers`) are right and can be"
            " reached from here, and that the firewall lets the P2P port in",
        )


def _judge_progress(numbers: Numbers, now_s: float, halted_s: float) -> Iterator[Finding]:
    behind = _get(numbers, "hansa_comet_blocks_behind")
    if behind > MAX_BEHIND or _get(numbers, "hansa_comet_catching_up"):
        yield Finding(
            "behind",
            f"the node is {behind:.0f} blocks behind a peer and catching up",
            "wait if it shrinks; else see what holds it up: disk, processor, or the way to peers",
        )
        return
    age_s = now_s - _get(numbers, "hansa_comet_block_timestamp_seconds")
    if age_s > halted_s and _get(numbers, "hansa_comet_height"):
        heard = _get(numbers, "hansa_comet_heard_ratio")
        yield Finding(
            "halted",
            f"no block for {age_s:,.0f} s: of the voting power {heard:.0%} is heard, and more than"
            " two thirds have to be",
            "ask the other organisations to start their nodes; nothing is lost, and blocks go on"
            " by themselves once enough of them are back",
        )


def _judge_clock(numbers: Numbers, now_s: float) -> Iterator[Finding]:
    offset_s = _get(numbers, "hansa_clock_offset_seconds")
    ahead_s = _get(numbers, "hansa_comet_block_timestamp_seconds") - now_s
    if abs(offset_s) > MAX_OFFSET_S or ahead_s > MAX_OFFSET_S:
        wrong = offset_s if abs(offset_s) > MAX_OFFSET_S else -ahead_s
        yield Finding(
            "clock-off",
            f"the clock is {abs(wrong):,.0f} s {'ahead of' if wrong > 0 else 'behind'} the peers'",
            "have the machine keep time (chrony or systemd-timesyncd); block time is the median of"
            " all validators' and stands as long as most are right",
        )


def _judge_mempool(numbers: Numbers) -> Iterator[Finding]:
    waiting = _get(numbers, "hansa_comet_mempool_transactions")
    limit = _get(numbers, "hansa_comet_mempool_limit")
    if limit and waiting >= limit * MEMPOOL_SHARE:
        yield Finding(
            "mempool-full",
            f"{waiting:,.0f} bundles wait of {limit:,.0f} that may",
            "see that blocks are being made; if they are, more comes in than the network can do,"
            " and submitters are told to come back",
        )


def _judge_vote(numbers: Numbers, should_vote: bool) -> Iterator[Finding]:
    if _get(numbers, "hansa_validator_jailed"):
        yield Finding(
            "jailed",
            "this node's consensus key signed two blocks of one height, and has no vote for ever",
            "find out who else has the key; then make another, and have the members admit it"
            " (`hansa validators change`)",
        )
    elif should_vote and not _get(numbers, "hansa_validator_power"):
        yield Finding(
            "not-validator",
            "this node's consensus key has no vote",
            "compare it with `hansa list validators`; the members admit a key by resolution",
        )
    missed = _get(numbers, "hansa_validator_missed_signatures_total")
    blocks = _get(numbers, "hansa_blocks_total")
    if blocks and missed / blocks > MAX_MISSED_SHARE:
        yield Finding(
            "missing-votes",
            f"{missed:,.0f} of the last {blocks:,.0f} blocks lack this node's vote",
            "see whether it is short of processor time, or far from its peers",
        )


# A home, by its files.


def judge_home(home: Path) -> Iterator[Finding]:
    """Yield what the files of a home show to be wrong; whether it runs or not."""
    yield from _judge_permissions(home)
    usage = shutil.disk_usage(home)
    yield from _judge_room(usage.free, usage.total)
    try:
        genesis, config = load_genesis(home), load_config(home)
    except OperatorError as error:
        yield Finding("home-damaged", str(error), "restore the file it names, then ask again")
        return
    if config.comet is None:
        if genesis.consensus:
            yield Finding(
                "home-damaged",
                f"{home / 'config.json'}: nothing under 'comet', though the network is run by it",
                "restore the file from a backup, or take the home anew by `hansa node adopt`",
            )
        return
    yield from _judge_engine(home, genesis, config.comet)


def _judge_permissions(home: Path) -> Iterator[Finding]:
    for name in PRIVATE:
        path = home / name
        if path.exists() and (mode := stat.S_IMODE(path.stat().st_mode)) & 0o077:
            yield Finding(
                "keys-open",
                f"{path}: others on this machine may read or write it ({mode:04o})",
                f"chmod 600 {path}; if others work on this machine, take the key for known to them",
            )


def _judge_engine(home: Path, genesis: Genesis, comet: CometConfig) -> Iterator[Finding]:
    if comet.is_ours:
        try:
            find_binary()
        except OperatorError as error:
            yield Finding("engine-missing", str(error), "install it as it says, then start again")
    path = home / "comet" / "config" / "genesis.json"
    if path.exists() and path.read_bytes() != make_engine_genesis(genesis):
        yield Finding(
            "wrong-genesis",
            f"{path}: not that of the network in genesis.bin",
            "one of the two is of another network: compare the network's id with the others"
            " (`hansa genesis finish` shows it), and take the home anew",
        )
    yield from judge_log(home / "comet" / "comet.log")


LOG_SIGNS: Final[Mapping[str, tuple[str, str, str]]] = {
    r"wrong Block\.Header\.AppHash[^\"]*": (
        "app-hash",
        "this node computed another state than the network",
        "keep the home for `hansa fsck` to judge; begin anew in another by `hansa node join`",
    ),
    r"listen tcp [^\"]*address already in use": (
        "cannot-bind",
        "CometBFT can't listen",
        "end what uses the port, or choose another in config.json",
    ),
    r"peer is on a different network[^\"]*": (
        "other-network",
        "a peer is of another network",
        "compare genesis.bin with the peer's; one of you has the wrong one",
    ),
    r"found signature from the same key[^\"]*": (
        "key-elsewhere",
        "this node's consensus key has voted elsewhere lately",
        "stop the other node that has this key before this one starts: two are a double vote",
    ),
}
"""What in CometBFT's log tells of a trouble: its words, the finding, what it means, what to do."""

STARTED: Final = "Version info"
"""CometBFT's first words."""


def judge_log(path: Path) -> Iterator[Finding]:
    """Yield what CometBFT's log says of its last start and the one before."""
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LOG_BYTES))
        text = file.read().decode(errors="replace")
    recent = STARTED.join(text.split(STARTED)[-2:])
    for words, (name, says, do) in LOG_SIGNS.items():
        if found := re.search(words, recent):
            yield Finding(name, f"{says}: {found[0].strip()}", do)


def judge_stopped(home: Path, url: str | None) -> Iterator[Finding]:
    """Yield why a home has no node that answers."""
    where = f"at {url}" if url else "nowhere"
    try:
        HomeLock(home, "hansa doctor").release()
        says = f"no node runs on {home}"
        do = f"hansa start --home {home}; if it ends again, its last words say why"
    except HomeLocked as lock:
        says = f"process {lock.pid} ({lock.purpose}) has {home}, and answers {where}"
        do = "wait if it is starting; else end that process and start again"
        yield Finding("not-running", says, do)
        return
    yield Finding("not-running", says, do)
    yield from _judge_ports(home)


def _judge_ports(home: Path) -> Iterator[Finding]:
    try:
        comet = load_config(home).comet
    except OperatorError:
        return
    if comet is None:
        return
    for address in (comet.settings.p2p_address, comet.settings.rpc_address):
        if failure := _try_bind(address):
            yield Finding(
                "cannot-bind",
                f"{address}: can't be listened on ({failure})",
                "end what uses the port, or choose another address in config.json",
            )


def _try_bind(address: str) -> str:
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.strerror or str(error)
    return ""


# All of it.


def examine_url(
    url: str, *, token: str | None = None, halted_s: float = HALTED_S, should_vote: bool = False,
    clock: Callable[[], float] = time.time,
) -> list[Finding]:  # fmt: skip
    """Return what is wrong with a node that is asked over HTTP."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    try:
        with httpx.Client(base_url=url, timeout=TIMEOUT_S, headers=headers) as client:
            ready, page = client.get("/ready"), client.get("/metrics")
            status = client.get("/v1/status")
    except httpx.HTTPError as error:
        says = f"{url}: expected an answer, got {type(error).__name__}"
        return [Finding("not-running", says, "start the node, or see to the way there")]
    findings: list[Finding] = []
    numbers = read_numbers(page.text)
    findings += judge_numbers(numbers, clock(), halted_s=halted_s, should_vote=should_vote)
    if not ready.is_success and not findings:
        reason = ready.json().get("detail", ready.text)
        findings.append(
            Finding("not-ready", f"the node takes no transactions: {reason}", "do as it says")
        )
    return findings + list(_judge_relay(numbers, status))


def _judge_relay(numbers: Numbers, status: httpx.Response) -> Iterator[Finding]:
    pending = sum(
        value for labels, value in numbers.get("hansa_packets", ())
        if labels.get("status") == "pending"
    )  # fmt: skip
    if not pending or not status.is_success:
        return
    troubles = status.json().get("relay", {}).get("troubles", [])
    if troubles:
        yield Finding(
            "relay-trouble",
            f"{pending:.0f} packets are on their way, and the relay says: {troubles[-1]}",
            "see that both networks make blocks and that `relay`'s account has the right to relay;"
            " any node's relay will do, and none is trusted",
        )


def examine_home(home: Path, *, clock: Callable[[], float] = time.time) -> list[Finding]:
    """Return what is wrong with a home and, where it runs, with its node.

    Raises: OperatorError if there is no home.
    """
    genesis = load_genesis(home) if (home / "genesis.bin").exists() else None
    if genesis is None:
        raise OperatorError(f"{home}: expected a home with a genesis, got none; see `hansa init`")
    findings = list(judge_home(home))
    url = _read_url(home)
    if url is None or not _is_alive(url):
        return [*findings, *judge_stopped(home, url)]
    comet = load_config(home).comet
    store, token = TokenStore(home), None
    if not genesis.is_sandbox:
        now_ms = int(clock() * 1_000)
        token = store.new([READ], account="", now_ms=now_ms, expires_ms=now_ms + 60_000)
    try:
        seen = examine_url(
            url,
            token=token.secret if token else None,
            halted_s=_halted_after(comet),
            should_vote=(home / INVITATION).exists(),
            clock=clock,
        )
    finally:
        if token is not None:
            store.revoke(token.token.id)
    known = {finding.name for finding in findings}
    return findings + [finding for finding in seen if finding.name not in known]


def _halted_after(comet: CometConfig | None) -> float:
    if comet is None:
        return HALTED_S
    settings = comet.settings
    if not settings.create_empty_blocks and not settings.create_empty_blocks_interval_ms:
        return float("inf")  # Then blocks come only when somebody does something.
    interval_s = settings.create_empty_blocks_interval_ms / 1_000
    return max(HALTED_S / 2, EMPTY_BLOCKS_MISSED * interval_s)


def _read_url(home: Path) -> str | None:
    path = home / "node.url"
    return path.read_text(encoding="utf-8").strip() if path.exists() else None


def _is_alive(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=TIMEOUT_S).is_success
    except httpx.HTTPError:
        return False


def to_document(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Return findings as JSON holds them."""
    return [{"name": one.name, "says": one.says, "do": one.do} for one in findings]
