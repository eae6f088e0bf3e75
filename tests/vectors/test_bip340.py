"""BIP-340's own vectors, judged by our keys."""

from __future__ import annotations

import csv
from pathlib import Path

import coincurve
import pytest

from hansa.core.keys import BIP340, SigningKey, verify_signature, verify_signatures

VERDICTS = {"TRUE": True, "FALSE": False}


@pytest.fixture(scope="module")
def rows(vectors: Path) -> list[dict[str, str]]:
    """The rows of the specification's table."""
    with (vectors / "bip" / "bip340_vectors.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def typed(hexadecimal: str) -> bytes:
    """Bytes with our scheme byte before them."""
    return bytes([BIP340]) + bytes.fromhex(hexadecimal)


def is_of_a_hash(row: dict[str, str]) -> bool:
    """Whether the message is 32 bytes long, as everything is that we sign."""
    return len(row["message"]) == 64


def test_every_signature_is_judged_as_the_table_says(rows: list[dict[str, str]]) -> None:
    """All rows, messages of other lengths than a hash included."""
    judged = {
        row["index"]: verify_signature(
            typed(row["public key"]), typed(row["signature"]), bytes.fromhex(row["message"])
        )
        for row in rows
    }
    assert {row["index"]: VERDICTS[row["verification result"]] for row in rows} == judged
    assert {True, False} == set(judged.values())
    assert len(rows) >= 19


def test_many_at_once_are_judged_alike(rows: list[dict[str, str]]) -> None:
    """The list of verdicts is in the order of the claims."""
    claims = [
        (typed(row["public key"]), typed(row["signature"]), bytes.fromhex(row["message"]))
        for row in rows
    ]
    assert [VERDICTS[row["verification result"]] for row in rows] == verify_signatures(claims)


def test_secret_keys_give_the_public_keys_and_signatures(rows: list[dict[str, str]]) -> None:
    """Where the table's aux_rand is ours, of zeros, our signature is the table's."""
    with_secret = [row for row in rows if row["secret key"]]
    compared = 0
    for row in with_secret:
        key = SigningKey(bytes.fromhex(row["secret key"]))
        message = bytes.fromhex(row["message"])
        assert typed(row["public key"]) == key.public
        if not is_of_a_hash(row):
            continue
        assert verify_signature(key.public, key.sign(message), message)
        aux = bytes.fromhex(row["aux_rand"])
        library = coincurve.PrivateKey(key.secret).sign_schnorr(message, aux)
        assert bytes.fromhex(row["signature"]) == library
        if aux == bytes(32):
            assert typed(row["signature"]) == key.sign(message)
            compared += 1
    assert compared >= 1
    assert len(with_secret) >= 4


def test_other_schemes_and_lengths_are_refused(rows: list[dict[str, str]]) -> None:
    """A sound signature under another scheme byte, or a byte longer or shorter, is none."""
    row = next(row for row in rows if is_of_a_hash(row) and row["verification result"] == "TRUE")
    public, signature = typed(row["public key"]), typed(row["signature"])
    message = bytes.fromhex(row["message"])
    assert verify_signature(public, signature, message)
    for wrong in (b"\x02" + public[1:], public + b"\0", public[1:], b""):
        assert not verify_signature(wrong, signature, message)
    for wrong in (b"\x02" + signature[1:], signature + b"\0", signature[1:], b""):
        assert not verify_signature(public, wrong, message)


def test_a_key_shows_no_secret() -> None:
    """Neither repr nor str of a signing key holds its secret."""
    key = SigningKey(bytes(31) + b"\x2a")
    assert key.secret.hex() not in repr(key) + str(key)
    assert key.public.hex() in repr(key)
