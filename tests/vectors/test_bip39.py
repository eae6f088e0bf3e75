"""BIP-39's vectors: words of both languages we offer, and the seed for phrases of all ten."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hansa.core.keytree import KeyNode
from hansa.core.mnemonic import (
    LANGUAGES,
    Language,
    UnknownWord,
    WrongChecksum,
    WrongWordCount,
    compute_seed,
    make_words,
    read_words,
    recover_entropy,
)

EXTRA = "TREZOR"
"""The passphrase of every vector."""

Row = tuple[str, str, str, str]
"""Entropy, words, seed and root of the tree."""


@pytest.fixture(scope="module")
def rows(vectors: Path) -> dict[str, list[Row]]:
    """The vectors by language."""
    text = (vectors / "bip" / "bip39_vectors.json").read_text(encoding="utf-8")
    read: dict[str, list[Row]] = json.loads(text)
    assert {24} == {len(of_one) for of_one in read.values()}
    return read


@pytest.mark.parametrize("language", LANGUAGES)
def test_entropy_gives_the_words_and_back(rows: dict[str, list[Row]], language: Language) -> None:
    """Both ways, by the language given and by the language found."""
    for entropy, words, _, _ in rows[language]:
        made = make_words(bytes.fromhex(entropy), language)
        assert words == " ".join(made)
        assert made == read_words(words, language) == read_words(words)
        assert entropy == recover_entropy(made, language).hex()


def test_words_give_the_seed_and_the_root(rows: dict[str, list[Row]]) -> None:
    """The seed needs no list, so that phrases of the other languages are judged as well."""
    for of_one in rows.values():
        for _, words, seed, root in of_one:
            computed = compute_seed(tuple(words.split()), EXTRA)
            assert seed == computed.hex()
            assert root == KeyNode.from_seed(computed).to_extended_key()


def test_a_seed_without_extra_words_is_another(rows: dict[str, list[Row]]) -> None:
    """What BIP-39 calls the passphrase leads to another tree."""
    _, words, seed, _ = rows["english"][0]
    assert seed != compute_seed(tuple(words.split())).hex()


TWELVE = ("abandon " * 11 + "about").split()
ZH = "的" * 11 + "在"

WRITTEN = [
    ("line ends", "\n".join(TWELVE) + "\n", TWELVE),
    ("capitals", " ".join(TWELVE).upper(), TWELVE),
    ("tabs and blanks", "  " + " \t ".join(TWELVE), TWELVE),
    ("Chinese without blanks", ZH, list(ZH)),
    ("Chinese with wide blanks", "\u3000".join(ZH), list(ZH)),
    ("Chinese in groups", " ".join([ZH[:4], ZH[4:8], ZH[8:]]), list(ZH)),
]


@pytest.mark.parametrize(("name", "text", "words"), WRITTEN, ids=[row[0] for row in WRITTEN])
def test_words_are_read_as_people_write_them(name: str, text: str, words: list[str]) -> None:
    """What doesn't change which words are meant doesn't matter."""
    assert tuple(words) == read_words(text), name


REFUSED = [
    ("none", "", WrongWordCount, "got 0"),
    ("eleven", " ".join(TWELVE[:11]), WrongWordCount, "got 11"),
    ("thirteen", " ".join([*TWELVE, "about"]), WrongWordCount, "got 13"),
    ("joined by commas", ",".join(TWELVE), WrongWordCount, "got 1"),
    ("an unknown word", " ".join([*TWELVE[:2], "hunter", *TWELVE[3:]]), UnknownWord, "word 3 of"),
    ("a prefix of a word", " ".join([*TWELVE[:11], "abou"]), UnknownWord, "word 12 of 12"),
    ("an unknown character", "的" * 11 + "鲸", UnknownWord, "word 12 of 12: .*simplified Chinese"),
    ("another language", " ".join(["abaisser"] * 12), UnknownWord, "word 1 of 12"),
    ("another last word", " ".join([*TWELVE[:11], "zoo"]), WrongChecksum, "every word is in"),
    ("words changed about", " ".join(TWELVE[::-1]), WrongChecksum, "changed places"),
    ("Chinese checksum", "的" * 12, WrongChecksum, "checksum"),
]


@pytest.mark.parametrize(
    ("name", "text", "error", "says"), REFUSED, ids=[row[0] for row in REFUSED]
)
def test_other_words_are_refused(name: str, text: str, error: type[Exception], says: str) -> None:
    """The answer says which word by its position and quotes none: they are a secret."""
    with pytest.raises(error, match=says) as caught:
        read_words(text)
    assert not any(word in str(caught.value) for word in {*text.split(), "hunter"}), name
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("size", [0, 15, 17, 33])
def test_other_sizes_of_entropy_are_refused(size: int) -> None:
    """BIP-39 has five sizes."""
    with pytest.raises(ValueError, match="16, 20, 24, 28, 32"):
        make_words(bytes(size))
