"""`hansa keys`: the names and public keys of a key store, and what goes in and out of it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from hansa.foreground.cli.failures import WrongUse
from hansa.foreground.cli.options import Home, Json, PassphraseFile, example, resolve_home
from hansa.foreground.cli.output import Output
from hansa.foreground.cli.passphrase import read_passphrase

if TYPE_CHECKING:
    from hansa.core.keystore import KeyStore

app: Final = typer.Typer(
    help="Keys of the home: named, sealed, shown by their public half.", no_args_is_help=True
)

SECRET_BYTES: Final = 32

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the key.")]


@app.command(epilog=example("hansa keys new carrier/sundby"))
def new(
    *,
    name: Name,
    home: Home = None,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Make a new key by chance and keep it in the key store of the home."""
    import coincurve

    def add(keys: "KeyStore") -> None:
        keys.add(name, coincurve.PrivateKey().secret)

    _change(resolve_home(home), passphrase_file, add)
    _show(resolve_home(home), passphrase_file, name, Output(as_json=as_json))


@app.command("list", epilog=example("hansa keys list --json"))
def list_keys(
    *, home: Home = None, passphrase_file: PassphraseFile = None, as_json: Json = False
) -> None:
    """List the keys stored; a sandbox derives one for any other name, too."""
    folder = resolve_home(home)
    keys = _load(folder, passphrase_file)
    items = [_describe(folder, keys, name) for name in keys.names]
    out = Output(as_json=as_json)
    if as_json:
        out.document({"items": items, "next": None})
        return
    out.table("keys", ["id", "account", "public"], items)
    if keys.is_sandbox:
        out.note("sandbox: a key of any other name is derived when it is asked for")


@app.command(epilog=example("hansa keys show carrier/sundby"))
def show(
    *,
    name: Name,
    home: Home = None,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Show a key's public half and the account it speaks for."""
    _show(resolve_home(home), passphrase_file, name, Output(as_json=as_json))


@app.command("import", epilog=example("hansa keys import carrier/sundby --file sundby.key"))
def import_key(
    *,
    name: Name,
    file: Annotated[
        Path, typer.Option("--file", metavar="FILE", help="64 hexadecimal digits, the private key.")
    ],
    home: Home = None,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Take a private key from a file into the key store."""
    secret = _read_secret(file)
    _change(resolve_home(home), passphrase_file, lambda keys: keys.add(name, secret))
    _show(resolve_home(home), passphrase_file, name, Output(as_json=as_json))


@app.command(
    "export-public", epilog=example("hansa keys export-public carrier/sundby -o sundby.pub")
)
def export_public(
    *,
    name: Name,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Else stdout.")
    ] = None,
    home: Home = None,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Write the public half of a key in hexadecimal digits, for those who admit the account."""
    folder = resolve_home(home)
    keys = _load(folder, passphrase_file)
    document = _describe(folder, keys, name)
    out = Output(as_json=as_json)
    if output is not None:
        output.write_text(document["public"] + "\n", encoding="utf-8")
    if as_json:
        out.document(document)
    elif output is None:
        out.say(document["public"])


def _read_secret(file: Path) -> bytes:
    text = file.read_text(encoding="ascii", errors="replace").strip()
    try:
        secret = bytes.fromhex(text)
    except ValueError:
        secret = b""
    if len(secret) != SECRET_BYTES:
        # The content is a secret, or meant to be one: it is not quoted.
        raise WrongUse(f"{file}: expected 64 hexadecimal digits, got {len(text)} characters")
    return secret


def _load(home: Path, passphrase_file: Path | None) -> "KeyStore":
    from hansa.node.home import load_keys

    return load_keys(home, lambda: read_passphrase(passphrase_file))


def _change(home: Path, passphrase_file: Path | None, change: "Callable[[KeyStore], None]") -> None:
    """Open the key store, change it, and seal it again under the same passphrase."""
    from hansa.node.home import load_keys, write_private

    used: list[str] = []

    def ask() -> str:
        used.append(read_passphrase(passphrase_file))
        return used[0]

    keys = load_keys(home, ask)
    change(keys)
    sealed = keys.seal(None if keys.is_sandbox else used[0], os.urandom)
    write_private(home / "keys.json", sealed)


def _show(home: Path, passphrase_file: Path | None, name: str, out: Output) -> None:
    out.record(_describe(home, _load(home, passphrase_file), name))


def _describe(home: Path, keys: "KeyStore", name: str) -> dict[str, Any]:
    from hansa.core.keys import compute_account
    from hansa.node.home import load_genesis

    public = keys.get(name).public
    has_genesis = (home / "genesis.bin").exists()
    consortium = load_genesis(home).consortium if has_genesis else None
    account = compute_account(consortium, public).hex() if consortium is not None else None
    return {"id": name, "account": account, "public": public.hex()}
