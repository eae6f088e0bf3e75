"""`hansa keys`: the names and public keys of a key store, and what goes in and out of it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from hansa.foreground.cli.failures import WrongUse
from hansa.foreground.cli.options import Home, Json, PassphraseFile, example, resolve_home
from hansa.foreground.cli.output import Output
from hansa.foreground.cli.passphrase import read_other_passphrase, read_passphrase
from hansa.foreground.cli.phrase import (
    ask_back,
    check_can_ask,
    find_language,
    read_phrase,
    show_words,
)

if TYPE_CHECKING:
    from hansa.core.keystore import KeyStore
    from hansa.core.keytree import Branch
    from hansa.core.mnemonic import Language

app: Final = typer.Typer(
    help="Keys of the home: named, sealed, shown by their public half.", no_args_is_help=True
)

SECRET_BYTES: Final = 32
MAX_NUMBER: Final = 2**31 - 1

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="Name of the key, or its place in the key tree.")
]
NewName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the key.")]


PlaceName = Annotated[
    str,
    typer.Argument(metavar="PATH", help="Place in the key tree: sales, or sales/orders/desk-3."),
]
Network = Annotated[
    int,
    typer.Option(
        "--network", metavar="N", min=0, max=MAX_NUMBER, help="0 for real, 1 for trials, or other."
    ),
]
Organisation = Annotated[
    int,
    typer.Option(
        "--organisation",
        metavar="N",
        min=0,
        max=MAX_NUMBER,
        help="Which of several organisations under the same words.",
    ),
]


@app.command(epilog=example("hansa keys new carrier/sundby"))
def new(
    *,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Name of a single key.")
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(
            "--words",
            metavar="N",
            help="Instead: an organisation's initial key, as 12, 15, 18, 21 or 24 words.",
        ),
    ] = None,
    language: Annotated[
        str, typer.Option("--language", help="Of the words: english or chinese_simplified.")
    ] = "english",
    is_unconfirmed: Annotated[
        bool,
        typer.Option("--unconfirmed", help="Ask for none of the words: a program keeps them."),
    ] = False,
    network: Network = 0,
    organisation: Organisation = 0,
    home: Home = None,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Make a new key by chance and keep it in the key store of the home.

    With a NAME it is a single key. With --words it is the initial key of an organisation, from
    which every department's and desk's key derives; the words are shown once, and some are asked
    back.
    """
    folder, out = resolve_home(home), Output(as_json=as_json)
    if (name is None) == (count is None):
        given = "neither" if name is None else "both"
        raise WrongUse(f"keys new: expected a NAME or --words, got {given}")
    if name is not None:
        _make_single(folder, passphrase_file, name)
        _show(folder, passphrase_file, name, out)
        return
    assert count is not None, "checked above"
    _make_initial(
        folder,
        passphrase_file,
        count,
        find_language(language),
        numbers=(network, organisation),
        is_unconfirmed=is_unconfirmed,
        out=out,
    )


def _make_single(home: Path, passphrase_file: Path | None, name: str) -> None:
    import coincurve

    _change(home, passphrase_file, lambda keys: keys.add(name, coincurve.PrivateKey().secret))


def _make_initial(
    home: Path,
    passphrase_file: Path | None,
    count: int,
    language: "Language",
    *,
    numbers: tuple[int, int],
    is_unconfirmed: bool,
    out: Output,
) -> None:
    from hansa.core.mnemonic import ENTROPY_BYTES, WrongWordCount, make_words

    if count not in ENTROPY_BYTES:
        raise WrongWordCount(count)
    if not is_unconfirmed:
        if out.as_json:
            raise WrongUse("--json: expected --unconfirmed with it, for a program keeps the words")
        check_can_ask()
    words = make_words(os.urandom(ENTROPY_BYTES[count]), language)
    keys, passphrase = _open_for_tree(home, passphrase_file)
    keys.plant(_grow(words, numbers))  # Refuses before anybody has written anything down.
    if not out.as_json:
        show_words(words, out)
    if not is_unconfirmed:
        ask_back(words)
    _write(home, keys, passphrase)
    document = _describe(home, keys, "organisation")
    if out.as_json:
        out.document({"words": list(words), "language": language, **document})
        return
    out.record(document)


@app.command(epilog=example("hansa keys restore --words-file words.txt"))
def restore(
    *,
    words_file: Annotated[
        Path | None,
        typer.Option("--words-file", metavar="FILE", help="File with the words; else asked for."),
    ] = None,
    network: Network = 0,
    organisation: Organisation = 0,
    home: Home = None,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Bring an organisation's initial key back from its words into the key store of the home.

    The language is found by the words. The home may be empty: then a key store is made.
    """
    from hansa.core.mnemonic import read_words

    folder = resolve_home(home)
    words = read_words(read_phrase(words_file))
    keys, passphrase = _open_for_tree(folder, passphrase_file)
    keys.plant(_grow(words, (network, organisation)))
    _write(folder, keys, passphrase)
    Output(as_json=as_json).record(_describe(folder, keys, "organisation"))


@app.command(epilog=example("hansa keys derive sales -o sales/keys.json"))
def derive(
    *,
    path: PlaceName,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Where no file is yet.")
    ],
    other_file: Annotated[
        Path | None,
        typer.Option(
            "--new-passphrase-file",
            metavar="FILE",
            help="File with the passphrase of the new key store; else asked for.",
        ),
    ] = None,
    home: Home = None,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Write a sealed key store with one node of the key tree, for a department or a desk.

    Whoever opens it has the keys of that node and of all below it, and of nothing else.
    """
    from hansa.core.keystore import KeyStore
    from hansa.core.keytree import parse_place
    from hansa.node.home import write_private

    folder = resolve_home(home)
    place = parse_place(path)
    if output.exists():
        raise WrongUse(f"{output}: expected no file yet, got one; a key store is never overwritten")
    keys = _load(folder, passphrase_file)
    branch = keys.branch
    if branch is None:
        raise WrongUse(
            f"{folder}: expected a key store with a key tree, got one without; `hansa keys new"
            " --words 24` or `hansa keys restore` makes one"
        )
    part = KeyStore(seed=b"", keys={}, is_sandbox=False, branch=branch.cut(place))
    sealed = part.seal(read_other_passphrase(other_file, "--new-passphrase-file"), os.urandom)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_private(output, sealed)
    Output(as_json=as_json).record({**_describe(folder, keys, str(place)), "file": str(output)})


@app.command("list", epilog=example("hansa keys list --json"))
def list_keys(
    *, home: Home = None, passphrase_file: PassphraseFile = None, as_json: Json = False
) -> None:
    """List the keys stored, the node of a key tree first.

    A tree has a key for every place below its node, a sandbox for any other name.
    """
    folder = resolve_home(home)
    keys = _load(folder, passphrase_file)
    branch = keys.branch
    top = [] if branch is None else [str(branch.place)]
    items = [_describe(folder, keys, name) for name in [*top, *keys.names]]
    out = Output(as_json=as_json)
    if as_json:
        out.document({"items": items, "next": None})
        return
    out.table("keys", ["id", "account", "public"], items)
    if keys.is_sandbox:
        out.note("sandbox: a key of any other name is derived when it is asked for")
    if branch is not None:
        out.note(f"tree: a key of any place below {branch.place} is derived when it is asked for")


@app.command(epilog=example("hansa keys show carrier/sundby"))
def show(
    *,
    name: Name,
    home: Home = None,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Show a key's public half and the account it speaks for.

    Besides keys by name, those of every place in the key tree; and the key that others encrypt to.
    """
    _show(resolve_home(home), passphrase_file, name, Output(as_json=as_json))


@app.command("import", epilog=example("hansa keys import carrier/sundby --file sundby.key"))
def import_key(
    *,
    name: NewName,
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


def _grow(words: tuple[str, ...], numbers: tuple[int, int]) -> "Branch":
    from hansa.core.keytree import Branch
    from hansa.core.mnemonic import compute_seed

    network, organisation = numbers
    return Branch.from_seed(compute_seed(words), network=network, organisation=organisation)


def _open_for_tree(home: Path, passphrase_file: Path | None) -> tuple["KeyStore", str | None]:
    """Return the key store of a home, or a new one, and the passphrase it is sealed with."""
    from hansa.core.keystore import KeyStore

    if (home / "keys.json").exists():
        return _open(home, passphrase_file)
    passphrase = read_passphrase(passphrase_file, is_new=True)
    return KeyStore(seed=b"", keys={}, is_sandbox=False), passphrase


def _open(home: Path, passphrase_file: Path | None) -> tuple["KeyStore", str | None]:
    from hansa.node.home import load_keys

    used: list[str] = []

    def ask() -> str:
        used.append(read_passphrase(passphrase_file))
        return used[0]

    keys = load_keys(home, ask)
    return keys, None if keys.is_sandbox else used[0]


def _write(home: Path, keys: "KeyStore", passphrase: str | None) -> None:
    from hansa.node.home import write_private

    home.mkdir(parents=True, exist_ok=True)
    write_private(home / "keys.json", keys.seal(passphrase, os.urandom))


def _change(home: Path, passphrase_file: Path | None, change: "Callable[[KeyStore], None]") -> None:
    """Open the key store, change it, and seal it again under the same passphrase."""
    keys, passphrase = _open(home, passphrase_file)
    change(keys)
    _write(home, keys, passphrase)


def _show(home: Path, passphrase_file: Path | None, name: str, out: Output) -> None:
    out.record(_describe(home, _load(home, passphrase_file), name))


def _describe(home: Path, keys: "KeyStore", name: str) -> dict[str, Any]:
    from hansa.core.keys import compute_account
    from hansa.node.home import load_genesis

    place = keys.locate(name)
    public = keys.get(name).public
    has_genesis = (home / "genesis.bin").exists()
    consortium = load_genesis(home).consortium if has_genesis else None
    account = compute_account(consortium, public).hex() if consortium is not None else None
    path = keys.branch.show_path(place) if keys.branch is not None and place is not None else None
    return {
        "id": name if place is None else str(place),
        "account": account,
        "public": public.hex(),
        "encryption": keys.get_encryption_key(name).public.hex(),
        "path": path,
    }
