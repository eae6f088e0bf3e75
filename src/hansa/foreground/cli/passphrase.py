"""Where a key store's passphrase comes from: a file, a systemd credential, or a person."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import typer

from hansa.foreground.cli.failures import WrongUse

CREDENTIAL: Final = "hansa-passphrase"
MIN_CHARACTERS: Final = 12


def passphrase_reader(file: Path | None) -> Callable[[], str]:
    """Return the function that gets the passphrase the moment a key store needs it."""
    return lambda: read_passphrase(file)


def read_passphrase(file: Path | None, *, is_new: bool = False) -> str:
    """Return the passphrase: of the file given, of the systemd credential, or as typed.

    Raises: WrongUse where there is nobody to ask, or a new one is too short.
    """
    path = file or _credential()
    if path is not None:
        return _check(path.read_text(encoding="utf-8").rstrip("\r\n"), is_new=is_new)
    if not sys.stdin.isatty():
        raise WrongUse(
            "passphrase: expected one, got nobody to ask; give --passphrase-file FILE"
            f" or the systemd credential {CREDENTIAL}"
        )
    typed = typer.prompt("Passphrase", hide_input=True, confirmation_prompt=is_new, err=True)
    return _check(str(typed), is_new=is_new)


def read_other_passphrase(file: Path | None, option: str) -> str:
    """Return the new passphrase of a key store for somebody else: of a file, or as typed.

    The systemd credential isn't taken: it is that of this home. Raises: WrongUse as
    :func:`read_passphrase`.
    """
    if file is not None:
        return read_passphrase(file, is_new=True)
    if not sys.stdin.isatty():
        raise WrongUse(f"{option}: expected FILE, got none, and there is nobody to ask")
    typed = typer.prompt(
        "Passphrase of the new key store", hide_input=True, confirmation_prompt=True, err=True
    )
    return _check(str(typed), is_new=True)


def _credential() -> Path | None:
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    path = Path(folder) / CREDENTIAL if folder else None
    return path if path is not None and path.is_file() else None


def _check(passphrase: str, *, is_new: bool) -> str:
    if is_new and len(passphrase) < MIN_CHARACTERS:
        raise WrongUse(
            f"passphrase: expected at least {MIN_CHARACTERS} characters, got {len(passphrase)}"
        )
    return passphrase
