"""The key-value state: atomic commits, deletions, scans, snapshots, growth of the map."""

from collections.abc import Mapping
from pathlib import Path
from threading import Thread

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa.storage.kv import HEIGHT_NAME, DamagedStateStore, SnapshotExpired, StateStore

Writes = list[tuple[bytes, bytes | None]]


def test_commit_is_read_back_with_its_height_and_meta(tmp_path: Path) -> None:
    """State, height and meta arrive together and are there after reopening."""
    with StateStore(tmp_path) as store:
        assert (0, 0, None) == (store.height, store.entries, store.get(b"a"))
        store.commit([(b"a", b"1"), (b"b", b"")], height=7, meta={b"root": b"r"})
        store.commit([(b"a", None), (b"c", b"3")], height=8, sync=False)
    with StateStore(tmp_path) as store:
        assert (8, 2, b"r") == (store.height, store.entries, store.get_meta(b"root"))
        assert [None, b"", b"3"] == store.get_many([b"a", b"b", b"c"])


WRONG_COMMITS: list[tuple[str, Writes, int, Mapping[bytes, bytes]]] = [
    ("unsorted", [(b"b", b""), (b"a", b"")], 2, {}),
    ("doubled", [(b"a", b""), (b"a", None)], 2, {}),
    ("empty key", [(b"", b"")], 2, {}),
    ("key too long", [(b"k" * 512, b"")], 2, {}),
    ("falling height", [], 0, {}),
    ("reserved meta name", [], 2, {HEIGHT_NAME: b""}),
]


@pytest.mark.parametrize(("name", "writes", "height", "meta"), WRONG_COMMITS)
def test_wrong_commits_change_nothing(
    tmp_path: Path, name: str, writes: Writes, height: int, meta: Mapping[bytes, bytes]
) -> None:
    """A commit that breaks the contract is refused whole."""
    with StateStore(tmp_path) as store:
        store.commit([(b"k" * 511, b"v")], height=1)
        with pytest.raises(ValueError, match="expected"):
            store.commit(writes, height=height, meta=meta)
        assert (1, 1, None) == (store.height, store.entries, store.failed)


def test_scan_is_in_key_order_within_the_prefix(tmp_path: Path) -> None:
    """A scan starts at its start, stays in its prefix, and survives commits made meanwhile."""
    with StateStore(tmp_path) as store:
        store.commit([(key, key) for key in (b"a1", b"b1", b"b2", b"b3", b"c")], height=1)
        assert [b"b1", b"b2", b"b3"] == [key for key, _ in store.scan(b"b")]
        assert [b"b2", b"b3"] == [key for key, _ in store.scan(b"b", b"b2")]
        assert [b"b1", b"b2", b"b3"] == [key for key, _ in store.scan(b"b", b"a")]
        assert [] == list(store.scan(b"d"))
        assert 5 == len(list(store.scan(b"")))
        running = store.scan(b"b")
        assert (b"b1", b"b1") == next(running)
        store.commit([(b"b2", None), (b"b9", b"")], height=2)
        assert [b"b2", b"b3"] == [key for key, _ in running]


def test_snapshot_stands_still_in_another_thread(tmp_path: Path) -> None:
    """A snapshot keeps its height and values while commits go on."""
    seen: list[tuple[int, bytes | None, int]] = []
    with StateStore(tmp_path) as store:
        store.commit([(b"k", b"old")], height=1)
        snapshot = store.snapshot()

        def read() -> None:
            with snapshot:
                seen.extend(
                    (snapshot.height, snapshot.get(b"k"), snapshot.entries) for _ in range(200)
                )

        reader = Thread(target=read)
        reader.start()
        for height in range(2, 30):
            store.commit([(b"k", b"%d" % height), (b"x%d" % height, b"")], height=height)
        reader.join()
        assert [(1, b"old", 1)] * 200 == seen
        assert b"29" == store.get(b"k")


def test_map_grows_without_losing_a_commit(tmp_path: Path) -> None:
    """A full map is doubled, as often as needed, and the commit is whole."""
    writes: Writes = [(b"%06d" % number, b"v" * 500) for number in range(4000)]
    with StateStore(tmp_path, map_bytes=64 * 1024) as store:
        store.commit([(b"%06d" % 0, b"first")], height=1)
        snapshot = store.snapshot()
        store.commit(writes, height=2)
        assert (2, 4000) == (store.height, store.entries)
        assert 64 * 1024 < store.map_bytes
        with pytest.raises(SnapshotExpired):
            snapshot.get(b"%06d" % 0)
        snapshot.close()
    with StateStore(tmp_path, map_bytes=64 * 1024) as store:
        assert writes == list(store.scan(b""))


def test_destroyed_file_is_named_with_the_remedy(tmp_path: Path) -> None:
    """A state that is no LMDB environment any more says that it can be derived again."""
    StateStore(tmp_path).close()
    (tmp_path / "data.mdb").write_bytes(b"\xff" * 8192)
    with pytest.raises(DamagedStateStore, match="replayed from the block log"):
        StateStore(tmp_path)


KEYS = st.binary(min_size=1, max_size=4)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.dictionaries(KEYS, st.none() | st.binary(max_size=8), max_size=12), max_size=6))
def test_store_equals_a_dictionary(
    tmp_path_factory: pytest.TempPathFactory, commits: list[dict[bytes, bytes | None]]
) -> None:
    """After any commits the store holds what a dictionary would."""
    model: dict[bytes, bytes] = {}
    with StateStore(tmp_path_factory.mktemp("state")) as store:
        for height, writes in enumerate(commits, 1):
            store.commit(sorted(writes.items()), height=height, sync=False)
            for key, value in writes.items():
                model.pop(key, None)
                if value is not None:
                    model[key] = value
        assert sorted(model.items()) == list(store.scan(b""))
        assert len(model) == store.entries
