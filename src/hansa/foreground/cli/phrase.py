"""The words of an initial key: shown once, asked back, read."""

import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from hansa.foreground.cli.failures import WrongUse
from hansa.foreground.cli.output import Output

if TYPE_CHECKING:
    from hansa.core.mnemonic import Language

ASKED_BACK: Final = 3
"""Words that are asked back: a person who has not written them down knows none of them."""
IN_A_ROW: Final = 4


def find_language(given: str) -> "Language":
    """Return the language that is named.

    Raises: WrongUse.
    """
    from hansa.core.mnemonic import LANGUAGES

    for language in LANGUAGES:
        if language == given:
            return language
    raise WrongUse(f"--language: expected one of {', '.join(LANGUAGES)}, got {given!r}")


def show_words(words: Sequence[str], out: Output) -> None:
    """Print the words, numbered from 1, for a person with a pen."""
    out.say(f"Write these {len(words)} words on paper, in order. They are shown this once;")
    out.say("whoever has them has every key of the organisation.")
    out.say("")
    cells = [f"{number:>2} {word}" for number, word in enumerate(words, 1)]
    for start in range(0, len(cells), IN_A_ROW):
        out.say("  ".join(f"{cell:<11}" for cell in cells[start : start + IN_A_ROW]).rstrip())
    out.say("")


def check_can_ask() -> None:
    """Refuse to show words to nobody.

    Raises: WrongUse.
    """
    if not sys.stdin.isatty():
        raise WrongUse(
            "words: expected somebody who writes them down and is asked for some, got nobody;"
            " give --unconfirmed where a program keeps them"
        )


def ask_back(words: Sequence[str]) -> None:
    """Ask for some of the words.

    Raises: WrongUse for a wrong answer.
    """
    positions = random.SystemRandom().sample(range(len(words)), ASKED_BACK)
    for position in sorted(positions):
        typed = typer.prompt(f"Word {position + 1}", hide_input=True, err=True)
        if str(typed).strip().lower() != words[position]:
            raise WrongUse(
                f"word {position + 1}: expected the one shown, got another; nothing is kept, begin"
                " again with other words"
            )


def read_phrase(file: Path | None) -> str:
    """Return the text with the words: of a file, or as typed without being shown.

    Raises: WrongUse where there is nobody to ask.
    """
    if file is not None:
        return file.read_text(encoding="utf-8")
    if not sys.stdin.isatty():
        raise WrongUse("words: expected them, got nobody to ask; give --words-file FILE")
    return str(typer.prompt("Words", hide_input=True, err=True))
