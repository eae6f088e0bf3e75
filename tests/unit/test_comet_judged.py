"""What was decoded and verified is remembered until it stands in a block, within bounds."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.comet_member import Member
from tests.toy_chain import Add, key_of

from hansa.network.comet.bundle import Item
from hansa.network.comet.judged import Judged

UNDECODABLE = {
    "no envelope": Item("one", b"\xc1"),
    "no such chain": Item("three", b"\xc1"),
}


@pytest.fixture
def member(tmp_path: Path) -> Iterator[Member]:
    """A node."""
    member = Member(tmp_path)
    yield member
    member.close()


def make_items(member: Member, count: int) -> list[Item]:
    """Transactions of one lane."""
    return [Item("one", member.sign(Add("a", 1))) for _ in range(count)]


def test_signatures_are_verified_once(member: Member) -> None:
    """What is met again costs nothing."""
    items = make_items(member, 3)
    first = member.judged.judge(items)
    second = member.judged.judge(items)
    assert first == second
    assert [True] * 3 == [submission is not None and submission[1] for submission in first]
    assert (3, 3, 3) == (member.verified, member.judged.judged, member.judged.known)


def test_order_is_kept(member: Member) -> None:
    """Known and new, good and bad: each verdict is in the place of its transaction."""
    known, fresh, forged = make_items(member, 3)
    forged = Item("one", member.sign(Add("a", 1), keys=[key_of("mallory")], sequence=9))
    fake = Item("one", forged.envelope[:-1] + bytes([forged.envelope[-1] ^ 1]))
    member.judged.judge([known])
    verdicts = member.judged.judge([fake, known, UNDECODABLE["no envelope"], fresh])
    assert [False, True, None, True] == [one and one[1] for one in verdicts]
    decoded = [one[0].envelope for one in verdicts if one is not None]
    assert [fake.envelope, known.envelope, fresh.envelope] == decoded


def test_same_twice_in_one_question(member: Member) -> None:
    """A transaction that is there twice has two verdicts, and is remembered once."""
    (item,) = make_items(member, 1)
    first, second = member.judged.judge([item, item])
    assert first is not None
    assert second is not None
    assert (True, True) == (first[1], second[1])
    member.judged.forget([item, item])
    member.judged.judge([item])
    assert 3 == member.judged.judged


@pytest.mark.parametrize("item", UNDECODABLE.values(), ids=UNDECODABLE)
def test_undecodable(member: Member, item: Item) -> None:
    """What can't be decoded has no verdict, and takes no place in the memory."""
    assert [None] == member.judged.judge([item])
    assert member.judged.decode(item) is None
    assert 0 == member.judged.known + member.judged.judged


def test_chain_is_part_of_what_is_judged(member: Member) -> None:
    """The bytes of one chain say nothing about those bytes on another."""
    (item,) = make_items(member, 1)
    member.judged.judge([item])
    member.judged.judge([Item("two", item.envelope)])
    assert 2 == member.judged.judged


def test_decoding_verifies_nothing(member: Member) -> None:
    """To look at a transaction costs no signature; what is decoded can be judged afterwards."""
    (item,) = make_items(member, 1)
    transaction = member.judged.decode(item)
    assert transaction is not None
    assert 0 == member.verified
    ((judged, is_signed),) = member.judged.judge([item], [transaction])  # type: ignore[misc]
    assert (True, True) == (judged is transaction, is_signed)
    assert member.judged.decode(item) is transaction


def test_forgotten(member: Member) -> None:
    """What stands in a block is judged anew should it ever come again; the rest stays known."""
    kept, gone = make_items(member, 2)
    member.judged.judge([kept, gone])
    member.judged.forget([gone, Item("one", b"never seen")])
    member.judged.judge([kept, gone])
    assert (1, 3) == (member.judged.known, member.judged.judged)


def test_bounded(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest go first, by number as by bytes, and are judged again when they are met again."""
    items = make_items(member, 6)
    monkeypatch.setattr("hansa.network.comet.judged.MAX_JUDGED", 4)
    member.judged.judge(items)
    member.judged.judge(items[2:])
    assert (4, 6) == (member.judged.known, member.judged.judged)
    member.judged.judge(items[:1])
    assert 7 == member.judged.judged
    room = 2 * len(items[0].envelope) + 10
    monkeypatch.setattr("hansa.network.comet.judged.MAX_JUDGED_BYTES", room)
    later = make_items(member, 4)
    member.judged.judge(later)
    member.judged.judge(later[2:])
    assert (6, 11) == (member.judged.known, member.judged.judged)
    member.judged.judge(later[:1])
    assert 12 == member.judged.judged


def test_told_from_elsewhere(member: Member) -> None:
    """A gateway that has verified a transaction spares the block from it."""
    (item,) = make_items(member, 1)
    transaction = member.decode(item.envelope)
    member.judged.remember(item, (transaction, True))
    member.judged.remember(item, (transaction, True))
    assert [(transaction, True)] == member.judged.judge([item])
    assert 0 == member.verified
    member.judged.forget([item])
    assert 0 == member.judged._bytes


def test_from_many_threads(member: Member) -> None:
    """Checking and execution use it at once: verdicts stay right and the memory adds up."""
    items = make_items(member, 40)
    judged = Judged(member.ledger, member.verify)

    def work(number: int) -> bool:
        part = items[number % 4 :]
        verdicts = judged.judge(part)
        judged.forget(part[::3])
        return all(one is not None and one[1] for one in verdicts)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(40)))
    judged.forget(items)
    assert ({}, 0) == (judged._verdicts, judged._bytes)
