"""Opening a ledger again: after a stop, a crash at any height, a loss of what can be derived."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.toy_chain import START_MS, Add, AddTwice, Post, Remind, Spoil, Toy, Upgrade, key_of

from hansa.core.block import decode_header, list_entries
from hansa.core.errors import OperatorError
from hansa.core.finality import trust_network
from hansa.core.proof import Outcome, Trust, pack_bundle, verify_bundle
from hansa.core.prover import Place, prove_consistency, prove_packets, prove_places
from hansa.core.stateroot import compute_state_root
from hansa.core.tilelog import tile_path

INTERVAL = 3
"""The toy's state is rooted every three blocks, and shown two blocks later."""


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Toy]:
    """A fresh network."""
    toy = Toy(tmp_path / "home", interval=INTERVAL)
    yield toy
    toy.close()


def drive(toy: Toy, blocks: int) -> None:
    """Make blocks in which something of every kind happens."""
    for number in range(blocks):
        toy.time_ms += 10
        first = toy.sign(Add(f"n{number}", number), Remind(toy.time_ms + 5, f"r{number}"))
        toy.apply(first, toy.sign(Spoil("x")), toy.sign(Post("two", f"p{number}")))
        if number % 2:
            toy.apply(toy.sign(Add("n", 1), chain="two"), chain="two")


def crash(toy: Toy, folder: Path) -> Path:
    """A copy of the home as it lies on the disk now, the process not having been asked."""
    shutil.copytree(toy.ledger.folder, folder)
    return folder


def facts_of(toy: Toy) -> tuple[object, ...]:
    """All by which two ledgers that stand at one height could differ."""
    headers = {name: chain.header for name, chain in toy.ledger.chains.items()}
    logs = {name: chain.log.edge() for name, chain in toy.ledger.chains.items()}
    return (toy.ledger.height, toy.ledger.time_ms, toy.app_hashes(), headers, logs,
            toy.ledger.published, toy.ledger.next_deadline_ms(), toy.total("n", "two"))  # fmt: skip


def without(part: str) -> Callable[[Path], None]:
    """Lose a folder."""
    return lambda home: shutil.rmtree(home / part)


def torn_tiles(home: Path) -> None:
    """Cut a tile short, empty one, and fill one with zeros, as a power failure does."""
    tiles = home / "tiles" / "one" / "tile"
    for path, data in (
        (tiles / "0" / "000", b"short"),
        (tiles / "entries" / "000", b""),
        (tiles / "0" / "001", bytes(8192)),
    ):
        assert path.exists()
        path.write_bytes(data)


def in_turn(*losses: Callable[[Path], None]) -> Callable[[Path], None]:
    """One loss after another."""

    def lose(home: Path) -> None:
        for loss in losses:
            loss(home)

    return lose


LOSSES: dict[str, Callable[[Path], None]] = {
    "nothing": lambda home: None,
    "state": without("state"),
    "tiles": without("tiles"),
    "state and tiles": in_turn(without("state"), without("tiles")),
    "torn tiles": torn_tiles,
    "torn tiles and state": in_turn(torn_tiles, without("state")),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("is_clean", [True, False], ids=["stopped", "crashed"])
def test_whatever_is_not_the_block_log_is_derived_again(
    toy: Toy, tmp_path: Path, loss: str, is_clean: bool
) -> None:
    """Opened without its state or its tiles, or with torn ones, the ledger is the same again."""
    for _ in range(3):
        toy.apply(*(toy.sign(Add(f"k{number}", 1)) for number in range(100)))
    drive(toy, 80)
    expected = facts_of(toy)
    home = crash(toy, tmp_path / "copy")
    if is_clean:
        toy.close()
        shutil.rmtree(home)
        shutil.copytree(tmp_path / "home", home)
    LOSSES[loss](home)
    again = Toy(home, interval=INTERVAL)
    assert expected == facts_of(again)
    check_proofs(again)
    again.close()


def check_proofs(toy: Toy) -> None:
    """Prove every entry of the first chain, and history from the first block."""
    part = toy.ledger.published["one"]
    size = decode_header(part.header).log_size
    places: list[Place] = []
    for record in toy.ledger.iterate_blocks(0):
        (part_one,) = [chain for chain in record.chains if chain.chain == "one"]
        first = len(places)
        entries = list_entries(part_one)
        assert entries == [
            toy.ledger.chains["one"].log.entry(first + offset) for offset in range(len(entries))
        ]
        places += [Place("one", record.height, first + at) for at in range(len(entries))]
    assert size == len(places)
    trust = Trust((trust_network(toy.genesis),))
    bundles = [
        prove_places(toy.ledger, places),
        prove_consistency(toy.ledger, "one", 0),
        prove_packets(toy.ledger, "one", 4, 0),
    ]
    for bundle in bundles:
        judgement = verify_bundle(pack_bundle(bundle), trust)
        assert (Outcome.VALID, "") == (judgement.outcome, judgement.reason)


def test_a_crash_at_any_height_ends_in_the_same_ledger(toy: Toy, tmp_path: Path) -> None:
    """Copied after each block and opened, each copy goes on to the same roots and hashes."""
    heights = 4 * INTERVAL + 2
    copies, hashes, bodies = [], [], []
    for height in range(1, heights):
        toy.time_ms += 10
        envelope = toy.sign(Add("a", 1), Remind(toy.time_ms + 3, "r"))
        bodies.append((toy.time_ms, envelope))
        toy.apply(envelope)
        hashes.append(toy.app_hashes())
        copies.append(crash(toy, tmp_path / f"crash{height}"))
    for height, home in enumerate(copies, 1):
        again = Toy(home, interval=INTERVAL)
        assert hashes[height - 1] == again.app_hashes()
        for later in range(height + 1, heights):
            again.time_ms, envelope = bodies[later - 1]
            again.apply(envelope)
            assert hashes[later - 1] == again.app_hashes(), f"block {later} after {height}"
        again.close()


def test_the_state_root_enters_so_many_blocks_later(toy: Toy) -> None:
    """Taken after a multiple of the interval, shown from the delay on, until the next one."""
    expected, taken = {}, {}
    for height in range(1, 12):
        toy.apply(toy.sign(Add("a", 1)))
        if height % INTERVAL == 0:
            taken[height] = compute_state_root(
                (key[1:], value) for key, value in toy.ledger.store.scan(b"\0")
            )
        at = (height - toy.genesis.state_root_delay) // INTERVAL * INTERVAL
        header = toy.ledger.chains["one"].header
        if at > 0:
            expected[height] = (at, taken[at])
            assert expected[height] == (header.state_height, header.state_root)
    assert {3, 6, 9} == {at for at, _ in expected.values()}


def test_a_replayed_upgrade_runs_the_old_rules_first(tmp_path: Path) -> None:
    """The blocks of version 1 replay under version 1 after version 2 came in force."""
    toy = Toy(tmp_path / "home")
    toy.run(Add("a", 1))
    toy.run(Upgrade(3, 2))
    toy.run(AddTwice("a", 1))
    hashes = toy.app_hashes()
    home = crash(toy, tmp_path / "copy")
    toy.close()
    shutil.rmtree(home / "state")
    again = Toy(home)
    assert (hashes, 3, 3) == (again.app_hashes(), again.total("a"), again.ledger.replayed - 1)
    again.close()


def test_a_release_without_the_version_in_force_says_so(tmp_path: Path) -> None:
    """Opened by a release that lacks version 2, the ledger asks for the one that has it."""
    toy = Toy(tmp_path)
    toy.run(Upgrade(1, 2))
    toy.run(AddTwice("a", 1))
    toy.close()
    with pytest.raises(OperatorError, match="expected version 2 in this release"):
        Toy(tmp_path, versions=(1,))
    again = Toy(tmp_path)
    assert 2 == again.total("a")
    again.close()


@pytest.mark.parametrize("part", ["with state", "without state"])
def test_the_home_of_another_genesis_is_refused(tmp_path: Path, part: str) -> None:
    """By the state's word or, without it, by the first block's replay; nothing is written."""
    Toy(tmp_path, name="first").close()
    if part == "without state":
        shutil.rmtree(tmp_path / "state")
    with pytest.raises(OperatorError, match=r"expected (state of network|network hash)"):
        Toy(tmp_path, name="second")


def test_a_state_ahead_of_its_block_log_is_refused(tmp_path: Path) -> None:
    """A block log that lost blocks which the state has seen is not taken for an older one."""
    toy = Toy(tmp_path / "home", interval=1)
    toy.run(Add("a", 1))
    old = crash(toy, tmp_path / "old")
    toy.run(Add("a", 1))
    toy.close()
    shutil.rmtree(tmp_path / "home" / "blocks")
    shutil.copytree(old / "blocks", tmp_path / "home" / "blocks")
    with pytest.raises(OperatorError, match="the block log has lost its end"):
        Toy(tmp_path / "home", interval=1)


def test_an_altered_state_is_found_by_replay(tmp_path: Path) -> None:
    """A tally changed by hand leads to another hash in the first block that is run again."""
    toy = Toy(tmp_path / "home", interval=1_000)
    toy.run(Add("a", 1))
    toy.ledger.flush()
    toy.run(Add("a", 1))
    home = crash(toy, tmp_path / "copy")
    toy.close()
    data = home / "state" / "data.mdb"
    altered = data.read_bytes().replace(b"\x91\x01", b"\x91\x05")
    data.write_bytes(altered)
    with pytest.raises(OperatorError, match="expected network hash"):
        Toy(home, interval=1_000)


def test_tiles_of_a_lost_block_give_way(tmp_path: Path) -> None:
    """A full tile left behind by a block that never became durable does not stop the chain."""
    toy = Toy(tmp_path / "home", interval=1_000)
    toy.apply(*(toy.sign(Add("a", 1)) for _ in range(100)))
    tile = tmp_path / "home" / "tiles" / "one" / tile_path(0, 0)
    tile.parent.mkdir(parents=True)
    tile.write_bytes(b"of another block")
    for _ in range(2):
        toy.apply(*(toy.sign(Add("a", 1)) for _ in range(100)))
    assert 8192 == tile.stat().st_size
    toy.close()


@pytest.mark.parametrize("kind", ["0", "entries"])
def test_a_tile_damaged_while_running_is_derived_again(tmp_path: Path, kind: str) -> None:
    """Met by a reader, a torn tile is mended from the block log, and the reader is answered."""
    toy = Toy(tmp_path, interval=1_000)
    toy.apply(*(toy.sign(Add("a", 1)) for _ in range(300)))
    toy.close()
    toy = Toy(tmp_path, interval=1_000)
    path = tmp_path / "tiles" / "one" / "tile" / kind / "000"
    sound = path.read_bytes()
    for damaged in (b"", sound[:-40], sound[:-1] + b"\xff"):
        path.write_bytes(damaged)
        log = toy.ledger.chains["one"].log
        log._cache.clear()
        if kind == "0":
            assert 9 == len(log.prove_inclusion(17))
        else:
            assert log.entry(255)
        assert sound == path.read_bytes()
    path.unlink()
    served = toy.ledger.chains["one"].log
    assert sound == (served.tile(0, 0) if kind == "0" else served.entry_bundle(0))
    toy.close()


def test_reads_of_what_is_refused_do_not_fill_the_memory(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accounts that don't exist are looked up and forgotten again, though no block comes of it."""
    monkeypatch.setattr("hansa.core.state.MAX_KNOWN", 10)
    toy.run(Add("a", 1))
    for number in range(30):
        key = key_of(f"stranger {number}")
        toy.refuse(toy.sign(Add("a", 1), keys=[key], by=f"nobody {number}", sequence=0))
    assert len(toy.ledger.chains["one"].state._known) <= 30
    assert 1 == toy.total("a")
    assert START_MS < toy.ledger.time_ms
