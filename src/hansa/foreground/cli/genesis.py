"""`hansa genesis`: several organisations found a network by files that each of them signs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from hansa.foreground.cli.failures import WrongUse
from hansa.foreground.cli.options import Home, Json, PassphraseFile, example, resolve_home
from hansa.foreground.cli.output import Output
from hansa.foreground.cli.passphrase import passphrase_reader

if TYPE_CHECKING:
    from hansa.core.genesis import Genesis
    from hansa.interface.ceremony import Draft
    from hansa.node.composition import GenesisTerms

app: Final = typer.Typer(
    help="Found a network with others: a draft, a signature of each, a genesis.",
    no_args_is_help=True,
)

DraftFile = Annotated[
    Path, typer.Option("--draft", metavar="FILE", help="As `hansa genesis propose` wrote it.")
]


@app.command(
    epilog=example("hansa genesis propose --name Hanse --from a.json --from b.json -o draft.json")
)
def propose(
    *,
    name: Annotated[str, typer.Option("--name", help="Name of the network, for people.")],
    invitations: Annotated[
        list[Path],
        typer.Option("--from", metavar="FILE", help="A founder's invitation; once for each."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The draft.")],
    terms: Annotated[
        Path | None,
        typer.Option(
            "--terms",
            metavar="FILE",
            help="JSON with those of the terms that differ from the usual.",
        ),
    ] = None,
    chains: Annotated[
        list[str] | None,
        typer.Option("--chain", metavar="CHAIN", help="A chain to host, once for each; else all."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Put invitations together into a draft; the same files give everybody the same bytes."""
    from hansa.interface.ceremony import (
        SignedInvitation,
        make_draft,
        read_document,
        show_document,
    )
    from hansa.node.composition import CHAINS

    founders = [read_document(path, SignedInvitation) for path in invitations]
    draft = make_draft(
        name, founders, terms=_read_terms(terms), chains=tuple(chains) if chains else CHAINS
    )
    output.write_bytes(show_document(draft))
    Output(as_json=as_json).record({"file": str(output), **_describe(draft)})


def _read_terms(path: Path | None) -> "GenesisTerms | None":
    if path is None:
        return None
    import msgspec

    from hansa.node.composition import GenesisTerms

    class Given(GenesisTerms, frozen=True, forbid_unknown_fields=True):
        """The same, but no field that it doesn't know."""

    try:
        given = msgspec.json.decode(path.read_bytes(), type=Given)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WrongUse(f"{path}: {error}") from None
    return GenesisTerms(**msgspec.structs.asdict(given))


def _describe(draft: "Draft") -> dict[str, Any]:
    """Return what a founder has to compare with what was agreed."""
    import msgspec

    from hansa.core.genesis import compute_network_id
    from hansa.interface.ceremony import check_draft, compute_draft_digest

    genesis = check_draft(draft)
    return {
        "draft": compute_draft_digest(draft).hex(),
        "network": compute_network_id(genesis).hex(),
        "name": draft.name,
        "chains": list(draft.chains),
        "time_ms": genesis.time_ms,
        "terms": msgspec.structs.asdict(draft.terms),
        "founders": [
            {
                "organisation": signed.invitation.name,
                "country": signed.invitation.country,
                "address": signed.invitation.address,
                "owner_key": signed.invitation.owner_key.hex(),
            }
            for signed in draft.founders
        ],
    }


@app.command(epilog=example("hansa genesis sign --draft draft.json -o quayside.signature.json"))
def sign(
    *,
    draft_file: DraftFile,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The signature.")],
    home: Home = None,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Show what a draft makes, check it against this home's invitation, and consent to it."""
    from hansa.interface.ceremony import (
        Draft,
        load_invitation,
        read_document,
        show_document,
        sign_draft,
    )
    from hansa.node.home import load_keys

    folder = resolve_home(home)
    draft, own = read_document(draft_file, Draft), load_invitation(folder)
    keys = load_keys(folder, passphrase_reader(passphrase_file))
    signature = sign_draft(draft, own, keys)
    output.write_bytes(show_document(signature))
    Output(as_json=as_json).record(
        {"file": str(output), "signed_by": own.invitation.name, **_describe(draft)}
    )


@app.command(
    epilog=example(
        "hansa genesis finish --draft draft.json --signature a.signature.json"
        " --signature b.signature.json -o network"
    )
)
def finish(
    *,
    draft_file: DraftFile,
    signatures: Annotated[
        list[Path],
        typer.Option("--signature", metavar="FILE", help="A founder's signature; once for each."),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Folder for genesis, trust file and consent."
        ),
    ],
    as_json: Json = False,
) -> None:
    """Make the genesis once every founder has signed; `hansa node adopt` takes it into a home."""
    from hansa.interface.ceremony import (
        Draft,
        DraftSignature,
        read_document,
        write_outcome,
    )
    from hansa.interface.ceremony import finish as put_together

    given = [read_document(path, DraftSignature) for path in signatures]
    genesis = write_outcome(output, put_together(read_document(draft_file, Draft), given))
    Output(as_json=as_json).record({"folder": str(output), **describe_network(genesis)})


def describe_network(genesis: "Genesis") -> dict[str, Any]:
    """Return what a network is, for people."""
    from hansa.core.genesis import compute_network_id

    return {
        "network": compute_network_id(genesis).hex(),
        "name": genesis.name,
        "chains": [chain.name for chain in genesis.chains],
        "validators": len(genesis.consensus),
    }
