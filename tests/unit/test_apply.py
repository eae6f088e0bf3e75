"""One block after another: what is refused, what is rejected, what is undone, and what is due."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.toy_chain import (
    START_MS,
    Add,
    Added,
    AddTwice,
    Explode,
    Forget,
    Negative,
    Post,
    Remind,
    Reminded,
    Rotate,
    Spoil,
    Spoiled,
    Toy,
    Upgrade,
    account_of,
    key_of,
)

from hansa.core import apply
from hansa.core.apply import MAX_DEADLINES_PER_BLOCK, get_sequence
from hansa.core.block import DEADLINES, GENESIS, TRANSACTION, decode_entry, decode_receipt
from hansa.core.codec import encode
from hansa.core.errors import (
    DuplicateSigner,
    Expired,
    InactiveMessage,
    Malformed,
    Refused,
    TooFarAhead,
    TooLarge,
    UnknownKey,
    WrongChain,
    WrongNetwork,
    WrongNonce,
    WrongSignature,
)
from hansa.core.finality import trust_network
from hansa.core.proof import Outcome, Trust, pack_bundle, verify_bundle
from hansa.core.prover import Place, prove_places
from hansa.core.transaction import (
    MAX_TRANSACTION_BYTES,
    MAX_VALIDITY_MS,
    Body,
    Envelope,
    Signer,
    decode_envelope,
    sign_body,
)
from hansa.network.intake import UnknownChain
from hansa.network.solo import SoloEngine


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Toy]:
    """A fresh network of two chains."""
    toy = Toy(tmp_path)
    yield toy
    toy.close()


def test_apply_block_reads_like_a_table_of_contents() -> None:
    """The function is at most 40 lines long."""
    (function,) = [
        node
        for node in ast.parse(inspect.getsource(apply)).body
        if isinstance(node, ast.FunctionDef) and node.name == "apply_block"
    ]
    assert function.end_lineno is not None
    assert function.end_lineno - function.lineno + 1 <= 40


# Refusals.


def _body(toy: Toy, **changes: Any) -> bytes:
    return toy.sign(Add("x", 1), sequence=0, **changes)


def _unsigned(toy: Toy) -> bytes:
    envelope = decode_envelope(_body(toy))
    return encode(Envelope(envelope.body, (b"\x01" + bytes(64),)))


def _missing_signature(toy: Toy) -> bytes:
    envelope = decode_envelope(_body(toy, by=["anna", "bert"]))
    return encode(Envelope(envelope.body, envelope.signatures[:1]))


REFUSALS: dict[str, tuple[Callable[[Toy], bytes], type[Refused], int]] = {
    "bytes that are nothing": (lambda toy: b"\xc1", Malformed, 1),
    "no messages": (lambda toy: _body(toy, messages=()), Malformed, 1),
    "a signature too few": (_missing_signature, Malformed, 1),
    "over 64 KiB": (lambda toy: bytes(MAX_TRANSACTION_BYTES + 1), TooLarge, 2),
    "another network": (lambda toy: _body(toy, network=b"\x01" + bytes(32)), WrongNetwork, 3),
    "another chain": (lambda toy: _body(toy, chain="two"), WrongChain, 4),
    "one signer twice": (lambda toy: _body(toy, by=["anna", "anna"]), DuplicateSigner, 5),
    "another's key": (lambda toy: _body(toy, keys=[key_of("bert")]), UnknownKey, 6),
    "no signature": (_unsigned, WrongSignature, 7),
    "a sequence ahead": (lambda toy: toy.sign(Add("x", 1), sequence=1), WrongNonce, 8),
    "out of date": (lambda toy: _body(toy, valid_until_ms=START_MS), Expired, 9),
    "a version not in force": (lambda toy: toy.sign(AddTwice("x", 1)), InactiveMessage, 10),
    "valid for too long": (
        lambda toy: _body(toy, valid_until_ms=toy.time_ms + MAX_VALIDITY_MS + 1),
        TooFarAhead,
        11,
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_judged_leaves_nothing(toy: Toy, name: str) -> None:
    """Each refusal has its number, and the chain, its log and the nonce stay as they were."""
    make, error, number = REFUSALS[name]
    before = (toy.app_hashes(), toy.ledger.chains["one"].log.size, toy.ledger.block_log.height)
    engine = SoloEngine(toy.ledger, clock=lambda: toy.time_ms)
    answer = engine.submit("one", make(toy))
    assert engine.step() is None
    with pytest.raises(error) as caught:
        answer.result(0)
    assert number == caught.value.number
    assert "expected" in caught.value.text
    assert "got" in caught.value.text
    after = (toy.app_hashes(), toy.ledger.chains["one"].log.size, toy.ledger.block_log.height)
    assert before == after
    assert 0 == get_sequence(toy.ledger.chains["one"], account_of("anna"), 0)


def test_every_refusal_has_a_case() -> None:
    """The numbers 1 to 11 are in the table; 12 is the engine's, for a chain that is not here."""
    assert set(range(1, 12)) == {number for _, _, number in REFUSALS.values()}
    assert 12 == UnknownChain.number


def test_a_chain_that_is_not_hosted_is_refused(toy: Toy) -> None:
    """The engine answers for a chain it has not."""
    engine = SoloEngine(toy.ledger, clock=lambda: toy.time_ms)
    answer = engine.submit("three", _body(toy))
    engine.step()
    with pytest.raises(UnknownChain, match="expected one of one, two, got 'three'"):
        answer.result(0)


# Rejections.


def test_a_rejected_transaction_leaves_a_receipt_and_a_spent_nonce(toy: Toy) -> None:
    """Whatever its handler wrote, emitted, scheduled and sent is gone; the number is kept."""
    block = toy.apply(toy.sign(Spoil("bad")))
    (verdict,) = block.chains["one"].verdicts
    assert verdict.receipt.error is not None
    assert (Spoiled.number, "text: expected nothing, got 'bad'") == (
        verdict.receipt.error.number,
        verdict.receipt.error.text,
    )
    assert ((), 0) == (verdict.receipt.events, toy.total("spoil"))
    assert [] == list(block.chains["one"].pages)
    assert toy.ledger.next_deadline_ms() is None
    assert 1 == get_sequence(toy.ledger.chains["one"], account_of("anna"), 0)


def test_a_rejection_can_be_proven(toy: Toy) -> None:
    """The bundle of a rejected transaction is valid, and shows the number."""
    toy.run(Spoil("bad"))
    bundle = pack_bundle(prove_places(toy.ledger, [Place("one", 1, 1)]))
    trust = Trust((trust_network(toy.genesis),))
    judgement = verify_bundle(bundle, trust)
    assert (Outcome.VALID, "") == (judgement.outcome, judgement.reason)
    receipt = judgement.facts[0].receipt
    assert receipt is not None
    assert receipt.error is not None
    assert Spoiled.number == receipt.error.number


def test_several_messages_are_all_or_nothing(toy: Toy) -> None:
    """The third message's refusal undoes the first two, and the next transaction sees none."""
    verdict = toy.run(Add("a", 1), Add("b", 1), Add("a", -2))
    assert verdict.receipt.error is not None
    assert Negative.number == verdict.receipt.error.number
    assert (0, 0) == (toy.total("a"), toy.total("b"))
    verdict = toy.run(Add("a", 1), Add("a", 1), Add("b", 5))
    assert [Added("a", 1), Added("a", 2), Added("b", 5)] == list(verdict.events)
    assert (2, 5) == (toy.total("a"), toy.total("b"))


def test_a_block_shows_each_transaction_what_came_before_it(toy: Toy) -> None:
    """Transactions of one block run in order, a rejected one in between leaving no trace."""
    block = toy.apply(toy.sign(Add("a", 1)), toy.sign(Spoil("x")), toy.sign(Add("a", 1), by="bert"))
    receipts = [verdict.receipt for verdict in block.chains["one"].verdicts]
    assert [0, 1, 2] == [receipt.index for receipt in receipts]
    assert [False, True, False] == [receipt.error is not None for receipt in receipts]
    assert 2 == toy.total("a")


# Signers, nonces, replay.


def test_several_signers_sign_one_body(toy: Toy) -> None:
    """All must sign; only the first one's nonce is spent."""
    toy.run(Add("a", 1), by=["anna", "bert", "carl"])
    chain = toy.ledger.chains["one"]
    assert [1, 0, 0] == [
        get_sequence(chain, account_of(name), 0) for name in ("anna", "bert", "carl")
    ]
    transaction = toy.decode(toy.sign(Add("a", 1), by=["anna", "bert"]))
    assert [key_of("anna").public, key_of("bert").public] == [c[0] for c in transaction.claims]


def test_one_wrong_signature_of_several_is_enough(toy: Toy) -> None:
    """A body signed by the first and not by the second signer is refused."""
    body = decode_envelope(toy.sign(Add("a", 1), by=["anna", "bert"], sequence=0)).body
    forged = sign_body(body, [key_of("anna"), key_of("mallory")])
    engine = SoloEngine(toy.ledger, clock=lambda: toy.time_ms)
    answer = engine.submit("one", forged)
    engine.step()
    with pytest.raises(WrongSignature):
        answer.result(0)


def test_lanes_have_sequences_of_their_own(toy: Toy) -> None:
    """An account sends on lanes 0 and 7 in any order; a gap in one is refused."""
    toy.run(Add("a", 1), lane=7)
    toy.run(Add("a", 1), lane=0)
    toy.run(Add("a", 1), lane=7)
    assert WrongNonce is type(toy.refuse(toy.sign(Add("a", 1), lane=7, sequence=3)))
    chain = toy.ledger.chains["one"]
    assert [1, 2, 0] == [get_sequence(chain, account_of("anna"), lane) for lane in (0, 7, 65_535)]


def test_a_transaction_is_worth_nothing_a_second_time(toy: Toy, tmp_path: Path) -> None:
    """Replayed on its chain, in its block, on another chain or network, it is refused."""
    envelope = toy.sign(Add("a", 1))
    block = toy.apply(envelope, envelope)
    assert [WrongNonce] == [type(refusal) for _, refusal in block.chains["one"].refusals]
    assert WrongNonce is type(toy.refuse(envelope))
    assert WrongChain is type(toy.refuse(envelope, chain="two"))
    other = Toy(tmp_path / "other", name="another network")
    assert WrongNetwork is type(other.refuse(envelope))
    other.close()
    assert 1 == toy.total("a")


def test_an_old_key_stops_at_a_height(toy: Toy) -> None:
    """Once an account has another key from height 3 on, neither key speaks before its time."""
    new = key_of("anna's new key")
    toy.run(Rotate(account_of("anna"), new.public, 3))
    assert UnknownKey is type(toy.refuse(toy.sign(Add("a", 1), sequence=1)))
    assert UnknownKey is type(toy.refuse(toy.sign(Add("a", 1), keys=[new], sequence=1)))
    toy.run(Add("b", 1), by="bert")
    toy.run(Add("a", 1), keys=[new])
    assert 1 == toy.total("a")


# Time.


def test_a_transaction_may_come_at_its_last_moment(toy: Toy) -> None:
    """valid_until_ms itself is in time, a millisecond later is not."""
    toy.run(Add("a", 1), valid_until_ms=toy.time_ms)
    envelope = toy.sign(Add("a", 1), valid_until_ms=toy.time_ms, sequence=1)
    toy.time_ms += 1
    assert Expired is type(toy.refuse(envelope))


def test_block_time_never_goes_back(toy: Toy) -> None:
    """A clock that jumps back is overruled; jumping on, it is believed."""
    toy.run(Add("a", 1))
    toy.time_ms -= 5_000
    block = toy.apply(toy.sign(Add("a", 1), valid_until_ms=START_MS + 60_000))
    assert START_MS + 1 == block.time_ms
    assert block.time_ms == toy.ledger.chains["one"].header.time_ms
    toy.time_ms += 10_000
    assert START_MS + 5_001 == toy.apply(toy.sign(Add("a", 1))).time_ms


def test_deadlines_run_in_order_under_an_entry_of_their_own(toy: Toy) -> None:
    """Earliest first, in the first block later than their time, ahead of its transactions."""
    toy.run(Remind(START_MS + 30, "c"), Remind(START_MS + 20, "b"), Remind(START_MS + 10, "a"))
    toy.time_ms = START_MS + 20
    block = toy.apply(toy.sign(Add("x", 1)))
    kinds = [verdict.kind for verdict in block.chains["one"].verdicts]
    assert [DEADLINES, TRANSACTION] == kinds
    assert [Reminded("a")] == list(block.chains["one"].verdicts[0].events)
    toy.time_ms = START_MS + 31
    assert [Reminded("b"), Reminded("c")] == list(toy.apply().chains["one"].verdicts[0].events)
    entry = decode_entry(toy.ledger.chains["one"].log.entry(2))
    assert (DEADLINES, 2, 0) == (entry.kind, entry.height, entry.index)
    assert toy.ledger.next_deadline_ms() is None


def test_a_block_runs_so_many_deadlines_and_no_more(toy: Toy) -> None:
    """What is over the cap waits for the next block, and nothing is lost."""
    total = MAX_DEADLINES_PER_BLOCK + 3
    reminders = [Remind(START_MS + 2, f"{number:04}") for number in range(total)]
    for start in range(0, total, 16):
        toy.run(*reminders[start : start + 16])
    toy.time_ms = START_MS + 3
    first = toy.apply().chains["one"].verdicts[0]
    second = toy.apply().chains["one"].verdicts[0]
    assert (MAX_DEADLINES_PER_BLOCK, 3) == (len(first.events), len(second.events))
    assert [Reminded(f"{number:04}") for number in range(total)] == [*first.events, *second.events]


def test_a_cancelled_deadline_does_not_run(toy: Toy) -> None:
    """Cancelled by a transaction, or by an earlier deadline of the same block."""
    due = START_MS + 10
    toy.run(Remind(due, "a"), Remind(due, "b"), Remind(due, f"cancel z {due}"), Remind(due, "z"))
    toy.run(Forget(due, "a"), Forget(due, "never scheduled"))
    toy.time_ms = due + 1
    assert ["b", f"cancel z {due}"] == [
        event.name
        for event in toy.apply().chains["one"].verdicts[0].events
        if isinstance(event, Reminded)
    ]


def test_scheduling_again_at_one_time_runs_once(toy: Toy) -> None:
    """The same deadline put down twice, and again after it was cancelled, runs a single time."""
    due = START_MS + 10
    toy.run(Remind(due, "a"))
    toy.run(Remind(due, "a"), Forget(due, "a"), Remind(due, "a"))
    toy.time_ms = due + 1
    assert [Reminded("a")] == list(toy.apply().chains["one"].verdicts[0].events)
    assert toy.apply().is_empty


# Entries, empty blocks, bugs.


def test_the_genesis_has_an_entry(toy: Toy) -> None:
    """The first leaf of each chain is the genesis, with the events of its modules."""
    record = toy.ledger.read_block(0)
    for part in record.chains:
        entry = decode_entry(toy.ledger.chains[part.chain].log.entry(0))
        receipt = decode_receipt(part.receipts[0])
        assert (GENESIS, 0, toy.ledger.network) == (entry.kind, entry.height, entry.source)
        assert (encode(Added("genesis", 1)),) == receipt.events


def test_an_empty_block_leaves_the_app_hash(toy: Toy) -> None:
    """Nothing submitted, or all of it refused: no header, no record, the same hash."""
    before = toy.app_hashes()
    assert toy.apply().is_empty
    assert toy.apply(toy.sign(Add("x", 1), sequence=9)).is_empty
    assert (before, 1) == (toy.app_hashes(), toy.ledger.block_log.height)


def test_a_resting_chain_keeps_its_header(toy: Toy) -> None:
    """A block in which only one chain moves leaves the other's header in force."""
    before = toy.ledger.header_by_chain
    toy.run(Add("x", 1))
    after = toy.ledger.header_by_chain
    assert before["two"] == after["two"]
    assert (1, before["one"].height + 1) == (after["one"].height, after["one"].height)
    part = toy.ledger.read_block(1).chains[1]
    assert (None, b"", ()) == (part.header, part.finality, part.receipts)


@pytest.mark.parametrize("message", [Explode("x"), Remind(START_MS + 2, "bug")])
def test_a_bug_leaves_the_block_untouched(toy: Toy, tmp_path: Path, message: Any) -> None:
    """An exception that is no rule's comes out; state, log and files are as they were."""
    if isinstance(message, Remind):
        toy.run(message)
        toy.time_ms = START_MS + 3
    files = _files(tmp_path)
    before = (toy.app_hashes(), toy.ledger.height, toy.total("x"), toy.total("y"))
    with pytest.raises(ZeroDivisionError):
        toy.apply(toy.sign(Add("y", 1), by="bert"), toy.sign(Explode("x"), by="carl"))
    assert before == (toy.app_hashes(), toy.ledger.height, toy.total("x"), toy.total("y"))
    assert files == _files(tmp_path)


def _files(folder: Path) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "lock.mdb"
    }


def test_packets_are_cut_into_pages_of_the_block(toy: Toy) -> None:
    """What a transaction sends is in the block's outbox, which the header commits to."""
    block = toy.apply(toy.sign(Post("two", "a"), Post("two", "b")))
    applied = block.chains["one"]
    assert [2] == [len(page.items) for page in applied.pages]
    assert 1 == applied.header.outbox_size
    assert 0 == toy.apply(toy.sign(Add("a", 1))).chains["one"].header.outbox_size


# Versions.


def test_a_new_version_is_in_force_from_its_height(toy: Toy, tmp_path: Path) -> None:
    """Version 1 is refused from that height on, and replay runs it as it was."""
    toy.run(Add("a", 1))
    toy.run(Upgrade(4, 2))
    toy.run(Add("a", 1))
    assert InactiveMessage is type(toy.refuse(toy.sign(Add("a", 1), sequence=3)))
    toy.sequences["one", "anna", 0] = 3
    toy.run(AddTwice("a", 10))
    assert (22, 1) == (toy.total("a"), len(toy.ledger.chains["one"].active))
    toy.run(Add("a", 1), chain="two")
    hashes = toy.app_hashes()
    toy.close()
    (tmp_path / "state" / "data.mdb").unlink()
    (tmp_path / "state" / "lock.mdb").unlink()
    again = Toy(tmp_path)
    assert (hashes, 22) == (again.app_hashes(), again.total("a"))
    assert InactiveMessage is type(again.refuse(again.sign(Add("a", 1), sequence=4)))
    again.close()


def test_old_and_new_version_do_not_mix_in_a_body(toy: Toy) -> None:
    """A message of either version is known to the decoder; the height alone decides."""
    body = Body(1, toy.ledger.network, "one", (Signer(account_of("a"), key_of("a").public),),
                0, 0, 0, (Add("a", 1), AddTwice("a", 1)))  # fmt: skip
    envelope = sign_body(encode(body), [key_of("a")])
    assert 2 == len(toy.decode(envelope).body.messages)
