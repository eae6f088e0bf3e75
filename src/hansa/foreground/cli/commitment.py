"""`hansa commitment`: what stands on a chain in place of something that must stay off it."""

import secrets
from pathlib import Path
from typing import Annotated, Final

import typer

from hansa.foreground.cli.failures import WrongUse
from hansa.foreground.cli.options import Json, example
from hansa.foreground.cli.output import Output

app: Final = typer.Typer()

SALT_BYTES: Final = 16


@app.command(epilog=example('hansa commitment "Bremer Strasse 5, 28195 Bremen"'))
def commitment(
    *,
    content: Annotated[
        str, typer.Argument(metavar="TEXT", help="What stays off the chain; or @FILE.")
    ],
    salt: Annotated[
        str | None,
        typer.Option("--salt", metavar="HEX", help="32 hexadecimal digits; else by chance."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compute the salted commitment to an address or a file, for messages that ask for one.

    Keep salt and content: together they show what was meant, and without them the commitment tells
    nothing. It asks no node and stores nothing.
    """
    from hansa.core.proof import compute_commitment

    salted = secrets.token_bytes(SALT_BYTES) if salt is None else _read_salt(salt)
    data = Path(content[1:]).read_bytes() if content.startswith("@") else content.encode()
    digest = compute_commitment(salted, data)
    Output(as_json=as_json).record({"commitment": digest.hex(), "salt": salted.hex()})


def _read_salt(given: str) -> bytes:
    try:
        salt = bytes.fromhex(given)
    except ValueError:
        salt = b""
    if len(salt) != SALT_BYTES:
        raise WrongUse(f"--salt: expected {2 * SALT_BYTES} hexadecimal digits, got {given[:80]!r}")
    return salt
