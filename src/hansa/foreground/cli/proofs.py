"""`hansa proof`, `trust`, `verify`, `checkpoint`: facts as files, and the judging of them.

`verify` uses no home, no node and no network.
"""

import sys
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from hansa.foreground.cli.judging import judge_files
from hansa.foreground.cli.options import (
    Home,
    Json,
    NodeUrl,
    PassphraseFile,
    TrustFile,
    example,
    resolve_home,
)
from hansa.foreground.cli.output import Output

app: Final = typer.Typer()

OutputFile = Annotated[
    Path, typer.Option("--output", "-o", metavar="FILE", help="File to write; - is stdout.")
]


@app.command(epilog=example("hansa proof order 5f0c1a7e9b3d4c2f8e6a0b1c2d3e4f50 -o order.proof"))
def proof(
    *,
    kind: Annotated[str, typer.Argument(metavar="KIND", help="order, product, transaction, ...")],
    identifier: Annotated[str, typer.Argument(metavar="ID", help="Its id.")],
    output: OutputFile,
    home: Home = None,
    node_url: NodeUrl = None,
    trust_file: TrustFile = None,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Take the facts about an object out of the ledger as one file that anyone can verify."""
    from hansa.foreground.cli.kinds import find_kind
    from hansa.foreground.cli.session import open_session

    out = Output(as_json=as_json)
    name = find_kind(kind).name
    with open_session(
        resolve_home(home),
        out,
        node_url=node_url,
        trust_file=trust_file,
        passphrase_file=passphrase_file,
    ) as session:
        data = session.client.proof(name, identifier)
    _write_file(output, data)
    document = {"kind": name, "id": identifier, "file": str(output), "bytes": len(data)}
    _say_written(out, output, document)


@app.command(epilog=example("hansa trust -o hansa.trust"))
def trust(
    *,
    output: OutputFile,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Write down which network to trust and by which keys, for `hansa verify`.

    Made from the genesis in the home; hand it to others by a way on which nobody can exchange it.
    """
    import json

    from hansa.node.home import load_genesis, make_readable_trust

    document = make_readable_trust(load_genesis(resolve_home(home)))
    _write_file(output, json.dumps(document, indent=2).encode() + b"\n")
    _say_written(Output(as_json=as_json), output, {"file": str(output), **document})


@app.command(epilog=example("hansa checkpoint trade"))
def checkpoint(
    *,
    chain: Annotated[str, typer.Argument(metavar="CHAIN", help="trade, product, ...")],
    home: Home = None,
    node_url: NodeUrl = None,
    trust_file: TrustFile = None,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Print the newest signed checkpoint of a chain's log, a C2SP note."""
    from hansa.foreground.cli.session import open_session

    out = Output(as_json=as_json)
    with open_session(
        resolve_home(home),
        out,
        node_url=node_url,
        trust_file=trust_file,
        passphrase_file=passphrase_file,
    ) as session:
        note = session.client.checkpoint(chain)
    text = note.decode()
    if not as_json:
        sys.stdout.write(text)
        return
    from hansa.core.note import Checkpoint

    parsed = Checkpoint.parse(text[: text.index("\n\n") + 1])
    out.document(
        {
            "chain": chain,
            "origin": parsed.origin,
            "size": parsed.size,
            "root": parsed.root.hex(),
            "note": text,
        }
    )


def _write_file(path: Path, data: bytes) -> None:
    if str(path) == "-":
        sys.stdout.buffer.write(data)
        return
    path.write_bytes(data)


def _say_written(out: Output, path: Path, document: dict[str, Any]) -> None:
    if str(path) == "-":
        return
    if out.as_json:
        out.document(document)
    else:
        out.say(f"{path}: written, {path.stat().st_size} bytes")


@app.command(epilog=example("hansa verify order.proof --trust hansa.trust"))
def verify(
    *,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Proof file.")],
    trust_file: Annotated[
        Path,
        typer.Option(
            "--trust",
            metavar="FILE",
            envvar="HANSA_TRUST",
            help="Whom you believe; `hansa trust` makes it.",
        ),
    ],
    as_json: Json = False,
) -> None:
    """Judge a proof file by itself: no node, no network, nothing but what you trust.

    Exit status: 0 valid, 1 invalid, 2 cannot tell.
    """
    raise typer.Exit(judge_files(file, trust_file, Output(as_json=as_json)))
