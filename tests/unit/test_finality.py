"""What makes a header final: exactly the validators' lines over exactly its checkpoint."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from hansa.core.block import Header, compute_app_hash
from hansa.core.codec import encode
from hansa.core.finality import (
    CheckpointSigner,
    TrustedNetwork,
    make_checkpoint,
    make_verifier_key,
    note_of,
    verify_finality,
    verify_header,
)
from hansa.core.hashing import ZERO_DIGEST
from hansa.core.merkle import EMPTY_ROOT, ProofError
from hansa.core.note import open_note, sign_note

NETWORK = b"\x01" + b"n" * 32
SIGNER = CheckpointSigner(b"s" * 32)
SECOND = CheckpointSigner(b"t" * 32)
TRUSTED = TrustedNetwork(NETWORK, (SIGNER.public,), None)
BOTH = TrustedNetwork(NETWORK, (SIGNER.public, SECOND.public), None)
HEADER = Header(
    version=1,
    network=NETWORK,
    chain="trade",
    height=7,
    time_ms=1,
    log_size=3,
    log_root=b"r" * 32,
    outbox_size=0,
    outbox_root=EMPTY_ROOT,
    previous=ZERO_DIGEST,
    writes=ZERO_DIGEST,
    state_height=0,
    state_root=bytes(32),
)


def sign(header: Header = HEADER, signer: CheckpointSigner = SIGNER) -> bytes:
    """The finality proof of a header."""
    return signer.sign(header, compute_app_hash(header))


def line_of(finality: bytes) -> bytes:
    """The signature line of a proof with one."""
    return finality.split(b"\n\n")[1]


def test_a_signed_header_is_final() -> None:
    """The header comes back, and the checkpoint says size, root and app_hash."""
    assert HEADER == verify_header(encode(HEADER), sign(), "trade", TRUSTED)
    checkpoint = verify_finality(sign(), "trade", TRUSTED)
    assert make_checkpoint(HEADER, compute_app_hash(HEADER)) == checkpoint
    assert (3, b"r" * 32) == (checkpoint.size, checkpoint.root)


def test_the_proof_is_a_note_that_anyone_reads() -> None:
    """Opened as a C2SP note with the verifier key, it names the log by its origin."""
    key = make_verifier_key(NETWORK, "trade", SIGNER.public)
    opened = open_note(note_of(sign()), [key])
    assert f"hansa/{'6e' * 8}/trade" == key.name == opened.text.split("\n")[0]


def test_all_validators_sign_in_order() -> None:
    """Two lines where two validators are trusted; one, or the other order, is not enough."""
    first, second = sign(), sign(signer=SECOND)
    both = first + line_of(second)
    assert HEADER == verify_header(encode(HEADER), both, "trade", BOTH)
    for wrong in (first, second, second + line_of(first), both + line_of(second)):
        with pytest.raises(ProofError):
            verify_header(encode(HEADER), wrong, "trade", BOTH)
    with pytest.raises(ProofError):
        verify_header(encode(HEADER), both, "trade", TRUSTED)


REPLACED: dict[str, tuple[Header, str]] = {
    "another network": (replace(HEADER, network=b"\x01" + b"m" * 32), "trade"),
    "another chain": (replace(HEADER, chain="product"), "trade"),
    "asked for another chain": (HEADER, "product"),
    "a chain whose name is no key's": (replace(HEADER, chain="tr de"), "tr de"),
    "a chain with a plus": (replace(HEADER, chain="tr+de"), "tr+de"),
    "a chain with a wide space": (replace(HEADER, chain="a\u3000b"), "a\u3000b"),
    "another height": (replace(HEADER, height=8), "trade"),
    "another size": (replace(HEADER, log_size=4), "trade"),
    "another state root": (replace(HEADER, state_root=b"x" * 32), "trade"),
}


@pytest.mark.parametrize("name", REPLACED)
def test_a_signature_is_for_one_header(name: str) -> None:
    """With the proof of the true header, no other header is final, and nothing crashes."""
    header, chain = REPLACED[name]
    with pytest.raises(ProofError):
        verify_header(encode(header), sign(), chain, TRUSTED)


ALTERED: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda proof: b"",
    "type byte alone": lambda proof: proof[:1],
    "another type": lambda proof: b"\x02" + proof[1:],
    "no type": lambda proof: proof[1:],
    "a line more": lambda proof: proof + line_of(proof),
    "a byte more": lambda proof: proof + b"\n",
    "a byte less": lambda proof: proof[:-1],
    "no signature": lambda proof: proof.split(b"\n\n")[0] + b"\n\n",
    "another signature": lambda proof: proof[:-10] + b"AAAAAAA==\n",
    "no UTF-8": lambda proof: proof.replace(b"hansa-app", b"hansa\xffapp"),
    "an extension more": lambda proof: proof.replace(b"\n\n", b"\nmore\n\n"),
}


@pytest.mark.parametrize("name", ALTERED)
def test_any_other_byte_makes_a_proof_invalid(name: str) -> None:
    """A finality proof is the one note, and nothing beside it."""
    with pytest.raises(ProofError):
        verify_header(encode(HEADER), ALTERED[name](sign()), "trade", TRUSTED)


def test_a_signed_note_of_another_text_is_no_proof() -> None:
    """What the validator's key signs under the same name must be this header's checkpoint."""
    checkpoint = make_checkpoint(HEADER, compute_app_hash(HEADER))
    text = checkpoint.to_text()
    for wrong in (text + "more\n", text.replace("hansa-app-hash", "app-hash"), "a\n3\n"):
        note = b"\x01" + sign_note(wrong, checkpoint.origin, b"s" * 32)
        with pytest.raises(ProofError):
            verify_header(encode(HEADER), note, "trade", TRUSTED)


def test_bytes_that_are_no_header_are_refused_in_fixed_words() -> None:
    """The text may end on a receipt, so it doesn't quote the codec."""
    with pytest.raises(ProofError, match="expected a well-formed header, got other bytes"):
        verify_header(b"\xc1", sign(), "trade", TRUSTED)


def test_a_signer_shows_no_secret() -> None:
    """Its repr is its public key."""
    assert SIGNER.public.hex() in repr(SIGNER)
    assert (b"s" * 32).hex() not in repr(SIGNER)
