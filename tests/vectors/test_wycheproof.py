"""Project Wycheproof's vectors: each file of the folder, and what of ours it judges."""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import coincurve
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from nacl import exceptions, secret
from nacl.bindings import (
    crypto_aead_chacha20poly1305_ietf_decrypt,
    crypto_aead_chacha20poly1305_ietf_encrypt,
)
from nacl.signing import VerifyKey

JUDGES: Final = {
    "hkdf_sha256_test.json": "in use: derives the encryption keys of the key tree",
    "ed25519_test.json": "in use: checkpoints, light blocks and invitations are verified by it",
    "chacha20_poly1305_test.json": "in use, under XChaCha20-Poly1305, which seals the key store:"
    " that is HChaCha20 and then this; a test below holds the two together",
    "ecdsa_secp256k1_sha256_bitcoin_test.json": "the curve under our BIP-340 signatures and BIP-32"
    " keys: we sign no ECDSA, but it is the same library's arithmetic",
    "aes_gcm_test.json": "not in use: the library that encrypts for readers is judged beforehand;"
    " nonces of 96 bits alone, the only ones HPKE has",
}
"""Every file of the folder. X25519 has none there: RFC 7748's own vectors stand below."""

Test = dict[str, Any]


def get(test: Test, name: str) -> bytes:
    """A field of a vector."""
    return bytes.fromhex(test[name])


@pytest.fixture(scope="module")
def load(vectors: Path) -> Callable[[str], Iterator[tuple[Test, Test]]]:
    """Read a file: every test with its group."""

    def read(name: str) -> Iterator[tuple[Test, Test]]:
        file = json.loads((vectors / "wycheproof" / name).read_text(encoding="utf-8"))
        assert file["numberOfTests"] == sum(len(group["tests"]) for group in file["testGroups"])
        return ((group, test) for group in file["testGroups"] for test in group["tests"])

    return read


Load = Callable[[str], Iterator[tuple[Test, Test]]]


def judge(
    cases: Iterator[tuple[Test, Test]], is_good: Callable[[Test, Test], bool]
) -> Counter[str]:
    """Compare every verdict with the file's; count them."""
    verdicts: Counter[str] = Counter()
    differing = []
    for group, test in cases:
        verdicts[test["result"]] += 1
        if is_good(group, test) != (test["result"] == "valid"):
            differing.append((test["tcId"], test["comment"], test["result"]))
    assert [] == differing
    return verdicts


def test_every_file_is_spoken_for(vectors: Path) -> None:
    """A new file in the folder has to be judged, or said why not."""
    there = {path.name for path in (vectors / "wycheproof").glob("*.json")}
    assert set(JUDGES) == there


def test_hkdf_sha256(load: Load) -> None:
    """Extract and expand; more than 255 blocks are refused."""

    def is_good(_group: Test, test: Test) -> bool:
        try:
            kdf = HKDF(SHA256(), test["size"], get(test, "salt"), get(test, "info"))
        except ValueError:
            return False
        return kdf.derive(get(test, "ikm")) == get(test, "okm")

    assert {"valid": 83, "invalid": 3} == judge(load("hkdf_sha256_test.json"), is_good)


def test_ed25519(load: Load) -> None:
    """Malleable, cut, lengthened and wrongly encoded signatures are refused."""

    def is_good(group: Test, test: Test) -> bool:
        try:
            key = VerifyKey(bytes.fromhex(group["publicKey"]["pk"]))
            key.verify(get(test, "msg"), get(test, "sig"))
        except (exceptions.BadSignatureError, exceptions.ValueError):
            return False
        return True

    assert {"valid": 88, "invalid": 63} == judge(load("ed25519_test.json"), is_good)


def test_chacha20_poly1305(load: Load) -> None:
    """Sealed as the file has it, opened again; changed tags and other nonces are refused."""

    def is_good(_group: Test, test: Test) -> bool:
        message, key, nonce = get(test, "msg"), get(test, "key"), get(test, "iv")
        sealed, header = get(test, "ct") + get(test, "tag"), get(test, "aad")
        try:
            opened = crypto_aead_chacha20poly1305_ietf_decrypt(sealed, header, nonce, key)
        except (exceptions.CryptoError, exceptions.TypeError):
            return False
        again = crypto_aead_chacha20poly1305_ietf_encrypt(message, header, nonce, key)
        return (opened, again) == (message, sealed)

    expected = {"valid": 256, "invalid": 69}
    assert expected == judge(load("chacha20_poly1305_test.json"), is_good)


def hchacha20(key: bytes, nonce: bytes) -> bytes:
    """The key for the rest of the nonce (draft-irtf-cfrg-xchacha-03 §2.2), 16 bytes of nonce."""
    state = [*struct.unpack("<4I", b"expand 32-byte k"), *struct.unpack("<8I4I", key + nonce)]

    def turn(value: int, by: int) -> int:
        return ((value << by) | (value >> (32 - by))) & 0xFFFFFFFF

    def quarter(a: int, b: int, c: int, d: int) -> None:
        for to, add, mixed, by in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            state[to] = (state[to] + state[add]) & 0xFFFFFFFF
            state[mixed] = turn(state[mixed] ^ state[to], by)

    for _ in range(10):
        for column in range(4):
            quarter(column, column + 4, column + 8, column + 12)
        for row in range(4):
            quarter(row, 4 + (row + 1) % 4, 8 + (row + 2) % 4, 12 + (row + 3) % 4)
    return struct.pack("<8I", *state[:4], *state[12:])


def test_the_key_store_s_cipher_is_that_one_under_a_derived_key(load: Load) -> None:
    """XChaCha20-Poly1305 of libsodium, opened by the cipher that the file has judged."""
    compared = 0
    for group, test in load("chacha20_poly1305_test.json"):
        if group["ivSize"] != 96 or test["result"] != "valid" or not test["msg"]:
            continue
        key, header, message = get(test, "key"), get(test, "aad"), get(test, "msg")
        nonce = get(test, "iv") + key[:12]
        sealed = secret.Aead(key).encrypt(message, header, nonce).ciphertext
        inner = hchacha20(key, nonce[:16])
        rest = bytes(4) + nonce[16:]
        assert message == crypto_aead_chacha20poly1305_ietf_decrypt(sealed, header, rest, inner)
        compared += 1
    assert compared > 200


def test_ecdsa_on_secp256k1(load: Load) -> None:
    """Points, ranges and encodings, with the strictness of Bitcoin (the lower s alone)."""

    def is_good(group: Test, test: Test) -> bool:
        key = coincurve.PublicKey(bytes.fromhex(group["publicKey"]["uncompressed"]))
        try:
            return key.verify(get(test, "sig"), get(test, "msg"))
        except ValueError:
            return False

    expected = {"valid": 162, "invalid": 301}
    assert expected == judge(load("ecdsa_secp256k1_sha256_bitcoin_test.json"), is_good)


def test_aes_gcm(load: Load) -> None:
    """Nonces of 96 bits, keys of all three sizes."""

    def is_good(_group: Test, test: Test) -> bool:
        cipher, nonce = AESGCM(get(test, "key")), get(test, "iv")
        sealed, header = get(test, "ct") + get(test, "tag"), get(test, "aad")
        try:
            opened = cipher.decrypt(nonce, sealed, header)
        except InvalidTag:
            return False
        again = cipher.encrypt(nonce, opened, header)
        return (opened, again) == (get(test, "msg"), sealed)

    cases = ((g, t) for g, t in load("aes_gcm_test.json") if g["ivSize"] == 96)
    verdicts = judge(cases, is_good)
    assert min(verdicts["valid"], verdicts["invalid"]) > 50


RFC_7748: Final = (
    (
        "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
        "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
        "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
    ),
    (
        "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
        "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
        "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
    ),
)
"""§5.2: scalar, point, product."""


@pytest.mark.parametrize(("scalar", "point", "product"), RFC_7748)
def test_x25519(scalar: str, point: str, product: str) -> None:
    """RFC 7748's vectors; a point that would give zeros is refused."""
    key = X25519PrivateKey.from_private_bytes(bytes.fromhex(scalar))
    theirs = X25519PublicKey.from_public_bytes(bytes.fromhex(point))
    assert product == key.exchange(theirs).hex()
    with pytest.raises(ValueError, match="shared"):
        key.exchange(X25519PublicKey.from_public_bytes(bytes(32)))
