"""Words for a seed, after BIP-39: entropy to words, words back to entropy, words to the seed.

The lists are those of the library, English and simplified Chinese. Refusals name positions and
counts, never a word: what was typed is meant to be the initial key of an organisation.
"""

from functools import lru_cache
from typing import Final, Literal

from mnemonic import Mnemonic

from hansa.core.errors import OperatorError

Language = Literal["english", "chinese_simplified"]

LANGUAGES: Final[tuple[Language, ...]] = ("english", "chinese_simplified")
ENTROPY_BYTES: Final = {12: 16, 15: 20, 18: 24, 21: 28, 24: 32}
"""Bytes of entropy by the number of words (BIP-39, "Generating the mnemonic")."""
SEED_BYTES: Final = 64


class WrongWordCount(OperatorError):
    """No phrase of BIP-39 has that many words."""

    def __init__(self, count: int) -> None:
        self.count = count
        super().__init__(f"words: expected 12, 15, 18, 21 or 24, got {count}")


class UnknownWord(OperatorError):
    """A word that isn't in the list of its language."""

    def __init__(self, position: int, count: int, language: Language) -> None:
        self.position = position
        """From 1."""
        super().__init__(
            f"word {position} of {count}: expected one of the {_name(language)} list, got another"
        )


class WrongChecksum(OperatorError):
    """Every word is in the list, but one of them or their order is not as it was written down."""

    def __init__(self, count: int) -> None:
        super().__init__(
            f"words: expected {count} whose checksum fits, got others; every word is in the list,"
            " so one is another word of it, or two have changed places"
        )


def make_words(entropy: bytes, language: Language = "english") -> tuple[str, ...]:
    """Return the words of an entropy of 16, 20, 24, 28 or 32 bytes.

    Raises: ValueError for another length. Source: BIP-39, "Generating the mnemonic".
    """
    return tuple(_load(language).to_mnemonic(entropy).split(" "))


def read_words(text: str, language: Language | None = None) -> tuple[str, ...]:
    """Return the words of a text as the list has them; the language is found where none is given.

    Blanks, line ends and capitals don't matter, and Chinese needs no blanks: each of its words is
    one character. Raises: WrongWordCount; UnknownWord; WrongChecksum.
    """
    plain = Mnemonic.normalize_string(text).lower()
    found = language or ("english" if plain.isascii() else "chinese_simplified")
    parts = plain.split()
    if found == "chinese_simplified":
        parts = list("".join(parts))
    recover_entropy(tuple(parts), found)
    return tuple(parts)


def recover_entropy(words: tuple[str, ...], language: Language) -> bytes:
    """Return the entropy that words stand for.

    Raises: WrongWordCount; UnknownWord; WrongChecksum.
    """
    count, known = len(words), _known_words(language)
    if count not in ENTROPY_BYTES:
        raise WrongWordCount(count)
    for position, word in enumerate(words, 1):
        if word not in known:
            raise UnknownWord(position, count, language)
    try:
        return bytes(_load(language).to_entropy(list(words)))
    except ValueError:
        # The cause is left out: the library's texts may quote what they were given.
        raise WrongChecksum(count) from None


def compute_seed(words: tuple[str, ...], extra: str = "") -> bytes:
    """Return the seed of 64 bytes: PBKDF2-HMAC-SHA512 of the words, 2,048 rounds.

    ``extra`` is what BIP-39 calls the passphrase: other words for another tree. Source: BIP-39,
    "From mnemonic to seed".
    """
    return Mnemonic.to_seed(" ".join(words), extra)


@lru_cache(maxsize=len(LANGUAGES))
def _load(language: Language) -> Mnemonic:
    return Mnemonic(language)


@lru_cache(maxsize=len(LANGUAGES))
def _known_words(language: Language) -> frozenset[str]:
    return frozenset(_load(language).wordlist)


def _name(language: Language) -> str:
    return {"english": "English", "chinese_simplified": "simplified Chinese"}[language]
