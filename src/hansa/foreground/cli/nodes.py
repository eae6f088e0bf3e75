"""`hansa node`: an organisation's own node in a network of several."""

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from hansa.foreground.cli.failures import WrongUse
from hansa.foreground.cli.options import (
    Home,
    Json,
    PassphraseFile,
    TrustFile,
    example,
    resolve_home,
)
from hansa.foreground.cli.output import Output
from hansa.foreground.cli.passphrase import read_passphrase

app: Final = typer.Typer(
    help="An organisation's node in a network of several: its keys, its place, its way in.",
    no_args_is_help=True,
)

DEFAULT_RPC: Final = "127.0.0.1:26657"

Listen = Annotated[
    str,
    typer.Option(
        "--listen",
        metavar="HOST:PORT",
        help="Where CometBFT hears its peers, where it isn't the address that they dial.",
    ),
]
Rpc = Annotated[
    str, typer.Option("--rpc", metavar="HOST:PORT", help="Where CometBFT is asked; keep it inside.")
]


@app.command(
    epilog=example(
        'hansa node init --organisation "Quayside Ltd" --country GB --p2p quayside.example:26656'
    )
)
def init(
    *,
    organisation: Annotated[str, typer.Option("--organisation", help="The organisation's name.")],
    country: Annotated[
        str, typer.Option("--country", metavar="CC", help="Its country, ISO 3166-1 alpha-2.")
    ],
    p2p: Annotated[
        str, typer.Option("--p2p", metavar="HOST:PORT", help="Where the others reach its node.")
    ],
    licence: Annotated[
        str, typer.Option("--licence", help="Reference of its licence or registration.")
    ] = "",
    roles: Annotated[
        list[str] | None,
        typer.Option("--role", help="What it does; once for each. Else operator."),
    ] = None,
    home: Home = None,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Make an organisation's sealed keys, and the invitation that the others need of it.

    The invitation holds nothing secret; hand it to them in a way that shows whose it is.
    """
    from hansa.interface.ceremony import INVITATION, init_node, make_invitation, make_keys
    from hansa.node.node import system_clock

    folder, keys = resolve_home(home), make_keys()
    invitation = make_invitation(
        keys,
        name=organisation,
        country=country,
        roles=roles or ["operator"],
        licence=licence,
        address=p2p,
        made_ms=system_clock(),
    )
    init_node(folder, keys, read_passphrase(passphrase_file, is_new=True), invitation)
    one = invitation.invitation
    Output(as_json=as_json).record(
        {
            "home": str(folder),
            "invitation": str(folder / INVITATION),
            "organisation": one.name,
            "owner_key": one.owner_key.hex(),
            "consensus_key": one.consensus_key.hex(),
            "peer": f"{one.node_id.hex()}@{one.address}",
        }
    )


@app.command(epilog=example("hansa node adopt --ceremony network/ceremony.json --home quayside"))
def adopt(
    *,
    ceremony_file: Annotated[
        Path,
        typer.Option("--ceremony", metavar="FILE", help="As `hansa genesis finish` wrote it."),
    ],
    listen: Listen = "",
    rpc: Rpc = DEFAULT_RPC,
    home: Home = None,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Check everybody's consent again and make this home one of the network; then start it."""
    from hansa.foreground.cli.genesis import describe_network
    from hansa.interface.ceremony import Ceremony, read_document
    from hansa.interface.ceremony import adopt as adopt_network
    from hansa.node.home import load_keys

    folder = resolve_home(home)
    ceremony = read_document(ceremony_file, Ceremony)
    passphrase = read_passphrase(passphrase_file)
    keys = load_keys(folder, lambda: passphrase)
    genesis = adopt_network(folder, ceremony, keys, passphrase, listen=listen, rpc_address=rpc)
    Output(as_json=as_json).record({"home": str(folder), **describe_network(genesis)})


@app.command(
    epilog=example(
        "hansa node join --genesis genesis.bin --trust hansa.trust --peers ID@HOST:PORT"
        " --listen 0.0.0.0:26656"
    )
)
def join(
    *,
    genesis_file: Annotated[
        Path, typer.Option("--genesis", metavar="FILE", help="The network's genesis.bin.")
    ],
    peers: Annotated[
        str,
        typer.Option(
            "--peers", metavar="ID@HOST:PORT,...", help="Nodes to follow, set apart by commas."
        ),
    ],
    listen: Listen = "0.0.0.0:26656",
    rpc: Rpc = DEFAULT_RPC,
    state_sync: Annotated[
        str,
        typer.Option(
            "--state-sync",
            metavar="HOST:PORT,...",
            help="RPC of two nodes or more, whose snapshot saves running all blocks again.",
        ),
    ] = "",
    name: Annotated[str, typer.Option("--name", help="What the others' logs call it.")] = "",
    trust_file: TrustFile = None,
    home: Home = None,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Make a node that follows a running network, judged by the trust file.

    It has keys of its own from the start; to vote, its consensus key has to be admitted
    (`hansa validators`). A home that `hansa node init` made keeps its keys.
    """
    from hansa.foreground.cli.trusting import read_trust
    from hansa.interface.joining import find_trusted, read_genesis
    from hansa.interface.joining import join as join_network
    from hansa.node.node import system_clock

    if trust_file is None:
        raise WrongUse("--trust: expected the network's trust file, got none")
    folder = resolve_home(home)
    genesis = read_genesis(genesis_file)
    trusted = find_trusted(genesis, read_trust(trust_file))
    has_keys = (folder / "keys.json").exists()
    passphrase = read_passphrase(passphrase_file, is_new=not has_keys)
    keys = _load_or_make(folder, passphrase)
    checkpoint = join_network(
        folder,
        genesis,
        trusted,
        keys,
        passphrase,
        name=name,
        peers=_split(peers),
        listen=listen,
        rpc_address=rpc,
        state_sync=_split(state_sync),
        now_ms=system_clock(),
    )
    from hansa.foreground.cli.genesis import describe_network

    Output(as_json=as_json).record(
        {
            "home": str(folder),
            **describe_network(genesis),
            "consensus_key": _show_consensus_key(keys),
            "from_height": checkpoint.height if checkpoint else 0,
            "from_header": checkpoint.hash.hex() if checkpoint else "",
        }
    )


def _load_or_make(folder: Path, passphrase: str) -> Any:
    from hansa.interface.ceremony import make_keys
    from hansa.node.home import load_keys

    if (folder / "keys.json").exists():
        return load_keys(folder, lambda: passphrase)
    return make_keys()


def _show_consensus_key(keys: Any) -> str:
    from hansa.core.finality import CheckpointSigner
    from hansa.interface.ceremony import CONSENSUS_KEY

    return CheckpointSigner(keys.get_secret(CONSENSUS_KEY)).public.hex()


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
