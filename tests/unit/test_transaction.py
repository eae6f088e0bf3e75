"""The transaction: limits, what is signed, and ids that follow from it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.toy_chain import START_MS, Add, Toy, account_of, key_of

from hansa.core.codec import MAX_FREE_TEXT_BYTES, encode
from hansa.core.errors import Malformed, TooLarge
from hansa.core.keys import compute_account, verify_signature
from hansa.core.module import Context, compute_object_id
from hansa.core.state import State
from hansa.core.transaction import (
    MAX_MESSAGES,
    MAX_SIGNATURES,
    MAX_TRANSACTION_BYTES,
    MAX_VALIDITY_MS,
    Envelope,
    decode_envelope,
    decode_stored_envelope,
    envelope_digest,
    message_number,
    sign_body,
    signing_hash,
)


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Toy]:
    """A fresh network."""
    toy = Toy(tmp_path)
    yield toy
    toy.close()


class NoStore:
    """A store without anything in it."""

    def get(self, key: bytes) -> bytes | None:
        """Return nothing."""
        return None


def test_the_limits_are_those_of_the_design() -> None:
    """64 KiB, 16 messages, 8 signatures, seven days, 1,024 bytes of free text."""
    limits = (MAX_TRANSACTION_BYTES, MAX_MESSAGES, MAX_SIGNATURES, MAX_FREE_TEXT_BYTES)
    assert (65_536, 16, 8, 1_024) == limits
    assert 7 * 24 * 3600 * 1000 == MAX_VALIDITY_MS


def test_a_number_is_module_ordinal_version() -> None:
    """Sixteen bits of module, eight of ordinal, eight of version."""
    assert 0x050203 == message_number(5, 2, 3)
    assert 0x058101 == message_number(5, 0x81)


def test_what_was_signed_is_what_is_stored(toy: Toy) -> None:
    """The body's bytes stand in the envelope as they were signed."""
    envelope = toy.sign(Add("a", 1))
    transaction = toy.decode(envelope)
    stored = decode_stored_envelope(envelope)
    assert (stored.body, envelope) == (encode(transaction.body), transaction.envelope)
    ((key, signature, digest),) = transaction.claims
    assert (key_of("anna").public, signing_hash(stored.body)) == (key, digest)
    assert verify_signature(key, signature, digest)
    assert envelope_digest(envelope) == transaction.digest


def test_the_largest_transaction_is_taken_and_a_byte_more_is_not(toy: Toy) -> None:
    """The limit is on the whole envelope."""
    with pytest.raises(TooLarge, match="expected at most 65536 bytes, got 65537"):
        toy.decode(bytes(MAX_TRANSACTION_BYTES + 1))
    with pytest.raises(Malformed):
        toy.decode(bytes(MAX_TRANSACTION_BYTES))


def test_eight_sign_and_nine_do_not(toy: Toy) -> None:
    """As many signatures as signers, at most eight."""
    names = [f"signer {number}" for number in range(MAX_SIGNATURES)]
    assert MAX_SIGNATURES == len(toy.decode(toy.sign(Add("a", 1), by=names)).claims)
    with pytest.raises(Malformed):
        toy.decode(toy.sign(Add("a", 1), by=[*names, "one more"]))


def test_signatures_are_not_part_of_what_is_signed(toy: Toy) -> None:
    """Signing the same body twice gives the same envelope: no randomness is asked for."""
    body = decode_envelope(toy.sign(Add("a", 1))).body
    first, second = (sign_body(body, [key_of("anna")]) for _ in range(2))
    assert first == second
    other = sign_body(body, [key_of("bert")])
    assert envelope_digest(first) != envelope_digest(other)


def test_each_signature_is_over_the_body_alone(toy: Toy) -> None:
    """Two signers' signatures change places with their order, and then don't verify."""
    envelope = decode_envelope(toy.sign(Add("a", 1), by=["anna", "bert"]))
    swapped = toy.decode(encode(Envelope(envelope.body, envelope.signatures[::-1])))
    assert [False, False] == [verify_signature(*claim) for claim in swapped.claims]


def test_object_ids_are_as_the_specification_says() -> None:
    """A handler's ids are those that anyone computes from the envelope's digest."""
    ctx = Context(
        State(NoStore()), network=b"", chain="one", height=1, time_ms=START_MS, log_size=0,
        log_root=b"",
    )  # fmt: skip
    digest = b"\x01" + bytes(32)
    ctx.enter(digest, (account_of("anna"),), bytes(16))
    for message in (0, 1):
        ctx.enter_message(message)
        expected = [compute_object_id("one", digest, message, ordinal) for ordinal in range(3)]
        assert expected == [ctx.new_id() for _ in range(3)]
    assert compute_object_id("one", digest, 0) != compute_object_id("two", digest, 0)


def test_one_key_has_as_many_accounts_as_it_likes() -> None:
    """Ordinals, keys and consortia tell accounts apart."""
    key = key_of("anna").public
    consortia = [b"\x01" + bytes([number]) * 32 for number in range(2)]
    accounts = {compute_account(one, key, n) for one in consortia for n in range(3)}
    assert 6 == len(accounts)
    assert {20} == {len(account) for account in accounts}
