"""`hansa token`: what lets a caller without a key use a node as its gateway."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from hansa.foreground.cli.failures import WrongUse
from hansa.foreground.cli.options import Home, Json, PassphraseFile, example, resolve_home
from hansa.foreground.cli.output import Output
from hansa.foreground.cli.passphrase import passphrase_reader

if TYPE_CHECKING:
    from hansa.core.genesis import Genesis
    from hansa.interface.http.tokens import Token

app: Final = typer.Typer(
    help="Tokens of the HTTP gateway: shown once, kept as hashes, revocable.", no_args_is_help=True
)

DAY_MS: Final = 24 * 3600 * 1000
DEFAULT_DAYS: Final = 90


@app.command(epilog=example("hansa token new --scope submit:orders --account seller/fenwold"))
def new(
    *,
    scopes: Annotated[
        list[str],
        typer.Option("--scope", help="read, submit or submit:MODULE; once for each scope."),
    ],
    account: Annotated[
        str | None,
        typer.Option(
            "--account", metavar="ACCOUNT", help="Key or account that signs; else the node's own."
        ),
    ] = None,
    days: Annotated[
        int, typer.Option("--days", min=1, max=3660, help="Days until it expires.")
    ] = DEFAULT_DAYS,
    home: Home = None,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Make a token and print it, this once."""
    import time

    from hansa.interface.http.tokens import TokenStore
    from hansa.node.home import load_genesis

    folder, out = resolve_home(home), Output(as_json=as_json)
    genesis = load_genesis(folder)
    now_ms = time.time_ns() // 1_000_000
    issued = TokenStore(folder).new(
        scopes,
        account=_find_key(folder, genesis, account, passphrase_file),
        now_ms=now_ms,
        expires_ms=now_ms + days * DAY_MS,
    )
    if as_json:
        out.document({"token": issued.secret, **_describe(issued.token)})
        return
    out.say(issued.secret)
    out.note("keep it now: only its hash is stored")


@app.command("list", epilog=example("hansa token list"))
def list_tokens(*, home: Home = None, as_json: Json = False) -> None:
    """List the tokens of a home, without their secrets."""
    from hansa.interface.http.tokens import TokenStore

    items = [_describe(token) for token in TokenStore(resolve_home(home)).list_tokens()]
    out = Output(as_json=as_json)
    if as_json:
        out.document({"items": items, "next": None})
        return
    out.table("tokens", ["id", "scopes", "account", "created_ms", "expires_ms"], items)


@app.command(epilog=example("hansa token revoke 1f0c9a3b"))
def revoke(
    *,
    identifier: Annotated[str, typer.Argument(metavar="ID", help="Its id; `hansa token list`.")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Make a token worthless at once."""
    from hansa.interface.http.tokens import TokenStore

    TokenStore(resolve_home(home)).revoke(identifier)
    Output(as_json=as_json).record({"id": identifier, "revoked": True})


def _find_key(
    home: Path, genesis: "Genesis", account: str | None, passphrase_file: Path | None
) -> str:
    """Return the name of the key that signs; without an account, of the node's organisation.

    Raises: WrongUse for an account that no key of the key store speaks for.
    """
    from hansa.core.keys import compute_account
    from hansa.foreground.cli.founding import OWNER_KEY
    from hansa.interface.sandbox.roster import OPERATOR
    from hansa.node.home import load_keys

    if account is None:
        return OPERATOR.key if genesis.is_sandbox else OWNER_KEY
    keys = load_keys(home, passphrase_reader(passphrase_file))
    if keys.holds(account):
        return account
    for name in keys.names:
        if compute_account(genesis.consortium, keys.get(name).public).hex() == account:
            return name
    raise WrongUse(f"--account: expected a key of {home} or its account, got {account!r}")


def _describe(token: "Token") -> dict[str, Any]:
    return {
        "id": token.id,
        "scopes": list(token.scopes),
        "account": token.account,
        "created_ms": token.created_ms,
        "expires_ms": token.expires_ms,
    }
