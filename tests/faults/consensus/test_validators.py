"""Validators that die, hang, are cut off and cheat: nothing is lost, and there is one history.

All scenes are played on one network under load, one after another; the last test stops it and
judges what all of them together have left behind.
"""

from __future__ import annotations

import random
import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Final

import pytest
from nacl.signing import SigningKey
from tests.faults.consensus.clock_build import OFFSET, find_clock_build
from tests.faults.consensus.cluster import DOUBLED
from tests.faults.consensus.flood import Flood
from tests.faults.consensus.history import check_calls
from tests.faults.consensus.stage import Stage
from tests.faults.consensus.validators import Killing, Target
from tests.node_world import find_unsound_books

from hansa.interface.client import HttpTransport, Unreachable
from hansa.interface.client.transports import Ask
from hansa.interface.sandbox.testnet import CONSENSUS_KEY
from hansa.network.comet.config import compute_address
from hansa.network.comet.rpc import RpcClient
from hansa.node.fsck import check_home
from hansa.node.home import load_keys
from hansa.node.node import Node, system_clock

pytestmark = [pytest.mark.slow, pytest.mark.timeout(0)]

CALLS: Final = (
    ("info", False),
    ("info", True),
    ("check_tx", False),
    ("check_tx", True),
    ("prepare_proposal", False),
    ("prepare_proposal", True),
    ("process_proposal", False),
    ("process_proposal", True),
    ("finalize_block", False),
    ("finalize_block", True),
    ("commit", False),
    ("commit", True),
)
"""What a network in use asks, and whether the call was carried out; InitChain is the fixture's,
those of state sync are asked where a node is new, and vote extensions are off."""
DURABLE: Final = ("finalize_block", "commit")
TARGETS: Final[tuple[Target, ...]] = ("app", "engine", "both")
SLOW_S: Final = 0.15
MINUTE_MS: Final = 60_000
OFFSET_MINUTES: Final = 10


def others_than(stage: Stage, *numbers: int) -> list[int]:
    """Return the numbers of the other validators."""
    return [m.number for m in stage.cluster.members if m.number not in numbers]


def halves(stage: Stage) -> tuple[list[int], list[int]]:
    """Return two groups of validators of which neither can decide anything."""
    numbers = others_than(stage)
    stage.source.shuffle(numbers)
    middle = len(numbers) // 2
    return numbers[:middle], numbers[middle : 2 * middle]


def check_halted(stage: Stage, seconds: float) -> None:
    """No more than what was decided already becomes a block for so long."""
    height = stage.cluster.height
    stage.let_pass(seconds)
    assert stage.cluster.height <= height + 1


# Death.


def test_killed_at_every_call(stage: Stage) -> None:
    """Killed before or after any call's work, app or engine or both, a node comes back whole."""
    cluster, source = stage.cluster, stage.source
    victim = len(cluster.members) - 1
    member = cluster.members[victim]
    plan = list(CALLS)
    if not stage.is_soak:
        # Where nothing is durable, it makes no difference whether the work was done.
        is_after = source.random() < 0.5
        plan = [one for one in plan if one[0] in DURABLE or one[1] == is_after]
    source.shuffle(plan)
    rounds = [
        Killing(method, TARGETS[(place + turn) % len(TARGETS)], is_after=is_after)
        for turn in range(stage.choose(1, 30))
        for place, (method, is_after) in enumerate(plan)
    ]
    with stage.scene("kill -9 at every ABCI call, of app, engine and both") as scene:
        for killing in rounds:
            if member.pid is not None:
                cluster.kill(victim)
            is_killed = cluster.expect(victim, lambda one: len(one.killed))
            is_dead = cluster.expect(victim, lambda one: len(one.deaths))
            cluster.start(victim, killing=killing)
            cluster.wait(f"the killing at {killing}", is_killed)
            if killing.target == "engine":
                cluster.wait_blocks(1, [victim])  # It is started again by its node.
            else:
                cluster.wait(f"its death at {killing}", is_dead)
        scene.happened = f"{len(rounds)} kills; it came back each time, the others went on"


def test_one_is_down_and_comes_back(stage: Stage) -> None:
    """While one of four is dead the others go on; it then takes what it has missed."""
    victim = stage.source.choice(others_than(stage))
    with stage.scene("one of four down for long, and back") as scene:
        stage.cluster.kill(victim)
        stage.cluster.wait_blocks(stage.choose(6, 600), others_than(stage, victim))
        scene.happened = "the others went on; it caught up"


def test_half_are_down_and_come_back(stage: Stage) -> None:
    """With two of four dead nothing is decided, nothing is wrong, and it goes on with them."""
    dead, _ = halves(stage)
    with stage.scene("two of four down, and back") as scene:
        for number in dead:
            stage.cluster.kill(number)
        check_halted(stage, stage.choose(4, 120))
        scene.happened = "halted; went on when they were back"


def test_one_hangs(stage: Stage) -> None:
    """A node stopped in its tracks is not waited for, and goes on where it stood."""
    victim = stage.source.choice(others_than(stage))
    with stage.scene("one stopped by SIGSTOP, and continued") as scene:
        with stage.cluster.paused(victim):
            stage.cluster.wait_blocks(stage.choose(6, 100), others_than(stage, victim))
        scene.happened = "the others went on; it caught up"


# The network between them.


def test_cut_in_half(stage: Stage) -> None:
    """Cut in two halves, neither decides anything; healed, they go on."""
    left, right = halves(stage)
    with stage.scene("partition 2 + 2, healed") as scene:
        pairs = stage.cluster.links.between(left, right)
        stage.cluster.links.hold(pairs)
        check_halted(stage, stage.choose(5, 120))
        stage.cluster.links.release(pairs)
        scene.happened = "halted on both sides; went on when healed"


def test_one_cut_off(stage: Stage) -> None:
    """Cut off from the rest, one stands still and the rest goes on; healed, it catches up."""
    cluster = stage.cluster
    lone = stage.source.choice(others_than(stage))
    rest = others_than(stage, lone)
    with stage.scene("partition 3 + 1, healed") as scene:
        cluster.links.hold(cluster.links.between([lone], rest))
        cluster.wait_blocks(1, rest)
        height = cluster.members[lone].height
        cluster.wait_blocks(stage.choose(5, 200), rest)
        assert cluster.members[lone].height <= height + 1
        scene.happened = "three went on, one stood still; it caught up when healed"


def test_cut_one_way(stage: Stage) -> None:
    """A node that hears and isn't heard, or is heard and hears nothing, holds nobody up."""
    cluster = stage.cluster
    lone = stage.source.choice(others_than(stage))
    rest = others_than(stage, lone)
    with stage.scene("partition in one direction, then in the other, healed") as scene:
        for pairs in ([(lone, other) for other in rest], [(other, lone) for other in rest]):
            cluster.links.hold(pairs)
            cluster.wait_blocks(stage.choose(4, 100), rest)
            cluster.links.release(pairs)
        scene.happened = "three went on; it caught up when healed"


def test_bad_links(stage: Stage) -> None:
    """Slow links, links that stall and connections that break slow the network down, no more."""
    links, source = stage.cluster.links, stage.source
    with stage.scene("150 ms on every link, stalls and resets") as scene:
        links.delay(links.all, SLOW_S)
        for _ in range(stage.choose(5, 200)):
            stalled = source.sample(links.all, len(links.all) // 3)
            links.hold(stalled)
            links.reset(source.sample(links.all, len(links.all) // 4))
            stage.let_pass(source.uniform(0.2, 1.5))
            links.release(stalled)
            stage.cluster.wait_blocks(1, [0])
        scene.happened = "slower blocks"


# The machine under one of them.


@contextmanager
def full_disk(stage: Stage) -> Iterator[None]:
    """Leave no room where a node writes: on its file system, or by a limit on its files."""
    home = stage.cluster.members[stage.disk_number].home
    if not stage.is_mounted:
        longest = max(path.stat().st_size for path in home.rglob("*") if path.is_file())
        for pid in stage.cluster.list_processes(stage.disk_number):
            hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (longest // 8, hard))
        yield
        return
    filler = home / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(65_536))
    try:
        yield
    finally:
        filler.unlink()


def test_disk_full(stage: Stage) -> None:
    """A node without room acknowledges nothing more and says why; with room it catches up."""
    cluster, victim = stage.cluster, stage.disk_number
    with stage.scene("disk full on one") as scene:
        with full_disk(stage):
            cluster.wait_blocks(stage.choose(5, 100), others_than(stage, victim))
            reason = wait_unready(stage, victim)
        cluster.stop(victim)
        cluster.start(victim)
        assert "room" in reason or "CometBFT is not running" in reason, reason
        scene.happened = "it stopped aloud, the others went on; with room it caught up"


def wait_unready(stage: Stage, number: int) -> str:
    """Wait until a node says that it takes nothing; returns why."""
    way = HttpTransport(stage.cluster.members[number].place.url)
    reasons: list[str] = []

    def is_unready() -> bool:
        with suppress(Unreachable):
            reasons.append(way.ask(Ask("status", {}))["reason"])
        return bool(reasons) and bool(reasons[-1])

    stage.cluster.wait("a node that says that it takes nothing", is_unready)
    way.close()
    return reasons[-1]


@pytest.mark.parametrize("sign", [1, -1], ids=["ahead", "behind"])
def test_wrong_clock(stage: Stage, sign: int) -> None:
    """A clock ten minutes off on one node moves the time of no block."""
    binary = find_clock_build()
    cluster = stage.cluster
    victim = stage.source.choice(others_than(stage))
    minutes = sign * OFFSET_MINUTES
    name = "ahead" if sign > 0 else "behind"
    with stage.scene(f"clock of one {OFFSET_MINUTES} minutes {name}") as scene:
        cluster.stop(victim)
        cluster.start(
            victim,
            clock_offset_ms=minutes * MINUTE_MS,
            environment={"COMETBFT": str(binary), OFFSET: f"{minutes}m"},
        )
        rest = others_than(stage, victim)
        cluster.wait_blocks(stage.choose(8, 300), rest)
        way = HttpTransport(cluster.members[rest[0]].place.url)
        off_ms = way.ask(Ask("status", {}))["time_ms"] - system_clock()
        way.close()
        # By honest clocks: a median, of which a third can move no minute.
        assert abs(off_ms) < OFFSET_MINUTES * MINUTE_MS // 2
        is_in_step = cluster.members[victim].height >= cluster.height - 2
        scene.happened = (
            "block time stayed right, the others went on; it "
            + ("kept up" if is_in_step else "stood still")
            + " and was in step with its clock set"
        )
        cluster.stop(victim)


# Those who cheat.


def test_invalid_proposals(stage: Stage) -> None:
    """Whoever proposes blocks that nobody may accept loses his turn, and nothing else happens."""
    cluster = stage.cluster
    cheat = stage.source.choice(others_than(stage))
    with stage.scene("a proposer whose app builds invalid blocks") as scene:
        cluster.stop(cheat)
        cluster.start(cheat, misdeed="invalid blocks")
        cluster.wait_blocks(stage.choose(10, 300), others_than(stage, cheat))
        scene.happened = "its rounds came to nothing, the others proposed"
        cluster.stop(cheat)


def test_another_hash(stage: Stage) -> None:
    """A node that computes another state stops; the others go on, and it begins from nothing."""
    cluster = stage.cluster
    wrong = stage.source.choice(others_than(stage, stage.disk_number))
    member = cluster.members[wrong]
    with stage.scene("an app that computes another hash") as scene:
        cluster.stop(wrong)
        cluster.excused.add(wrong)
        cluster.start(wrong, misdeed="another hash")
        cluster.wait_blocks(3, others_than(stage, wrong))
        height = member.height
        cluster.wait_blocks(stage.choose(5, 50), others_than(stage, wrong))
        assert member.height <= height + 1
        cluster.kill(wrong)
        cluster.forget(wrong)
        cluster.excused.discard(wrong)
        scene.happened = "it stopped, the others went on; from nothing it came to the same history"


def test_flood(stage: Stage) -> None:
    """What one member pours into its engine reaches no block, and the others trade on."""
    cluster = stage.cluster
    member = stage.source.choice(cluster.members)
    with stage.scene("flood of invalid, oversized, repeated and stale transactions") as scene:
        flood = Flood(cluster, member, random.Random(stage.source.getrandbits(64)))
        flood.start()
        cluster.wait_blocks(stage.choose(8, 300))
        poured = flood.finish()
        scene.happened = f"{poured} handed in beside the load; the others traded on"


def test_relays_doubled_and_killed(stage: Stage) -> None:
    """Two relays carry the same and one is killed: what is on its way arrives, and once."""
    cluster = stage.cluster
    with stage.scene("relay doubled, and each of the two killed") as scene:
        for number in DOUBLED:
            cluster.kill(number)
            rest = others_than(stage, number)
            before = count_carried(stage, rest)
            cluster.wait(
                "packets that others carry", partial(has_carried, stage, rest, before)
            )  # fmt: skip
            cluster.start(number)
            cluster.wait_up([number])
        scene.happened = "the others carried; every packet arrived, and once"


def count_carried(stage: Stage, numbers: Sequence[int]) -> int:
    """Return how many pages the relays of these nodes have carried since they were started."""
    carried = 0
    for number in numbers:
        way = HttpTransport(stage.cluster.members[number].place.url)
        carried += way.ask(Ask("status", {}))["relay"]["carried"]
        way.close()
    return carried


def has_carried(stage: Stage, numbers: Sequence[int], before: int) -> bool:
    """Tell whether these relays have carried more than before."""
    return count_carried(stage, numbers) > before


def test_double_votes(stage: Stage) -> None:
    """Two nodes with one key are found out: evidence in a block, and the key has no power left."""
    cluster = stage.cluster
    number = stage.source.choice(others_than(stage, stage.disk_number))
    keys = load_keys(cluster.members[number].home, str)
    witness = cluster.members[others_than(stage, number)[0]]
    address = find_address(stage, keys.get_secret(CONSENSUS_KEY))
    with stage.scene("equivocation with a duplicated key") as scene:
        twin = cluster.add_twin(number)
        cluster.excused.add(twin)
        cluster.start(twin)
        cluster.wait("evidence in a block", lambda: bool(witness.evidence))
        with RpcClient(witness.place.rpc) as rpc:
            block = rpc.block(witness.evidence[0])["block"]
            (first, *_) = block["evidence"]["evidence"]
            assert address == first["value"]["vote_a"]["validator_address"]
            cluster.wait(
                "the key to be jailed",
                lambda: address not in {one["address"] for one in rpc.validators()},
            )
        cluster.kill(twin)
        scene.happened = "evidence in a block, the key jailed; the others went on"


def find_address(stage: Stage, seed: bytes) -> str:
    """Return the address of a consensus key as CometBFT shows it."""
    return compute_address(SigningKey(seed).verify_key.encode()).hex().upper()


# What all of that has left behind.


def test_what_is_left(stage: Stage) -> None:
    """One history in every node, everything acknowledged in it once, books sound, proofs kept."""
    cluster, load, history = stage.cluster, stage.load, stage.history
    stage.write_table()
    load.finish()
    way = HttpTransport(cluster.members[0].place.url)
    pending = {"plural": "packets", "filters": {"status": "pending"}, "limit": 1}
    cluster.wait(
        "every packet to be acknowledged",
        lambda: not way.ask(Ask("page", pending))["items"],
    )
    way.close()
    assert [] == stage.find_lost()
    handed_in = {digest for trader in load.traders for digest in trader.handed_in}
    assert handed_in == {one.digest for one in load.acknowledged}
    surprises = {one for trader in load.traders for one in trader.surprises}
    # A node that is behind can't know better; what it refused was included through another.
    assert set() == {one for one in surprises if ": sequence: " not in one}
    assert [] == stage.watch.troubles
    assert stage.watch.confirmed > 0
    for member in cluster.members:
        cluster.stop(member.number)
    history.read_on()
    for member in cluster.members:
        assert check_calls(member.home) > 0
        history.check_light_blocks(member)
        node = Node(member.home, keys=load_keys(member.home, str))
        try:
            assert find_unsound_books(node) is None
        finally:
            node.stop()
    assert [] == check_home(cluster.members[stage.disk_number].home).findings
