"""`hansa list`, `show`, `search`, `balance`: what the ledger knows, for people and programs."""

from typing import Annotated, Any, Final

import typer

from hansa.core.readmodel import TRANSACTION
from hansa.foreground.cli.failures import WrongUse
from hansa.foreground.cli.kinds import (
    complete_kind,
    complete_singular,
    find_kind,
    first_columns,
)
from hansa.foreground.cli.options import Limit, example
from hansa.foreground.cli.output import show_minor
from hansa.foreground.cli.session import Session, with_session

app: Final = typer.Typer()

FOUND_COLUMNS: Final = ("name", "reference", "status", "title", "chain")
"""Of what a search finds, the columns worth a glance where a row has them."""


@app.command("list", epilog=example("hansa list orders --filter status=funded --limit 20"))
@with_session
def list_objects(
    session: Session,
    kind: Annotated[
        str,
        typer.Argument(metavar="KIND", autocompletion=complete_kind, help="orders, products, ..."),
    ],
    filters: Annotated[
        list[str] | None,
        typer.Option("--filter", metavar="NAME=VALUE", help="Only those; once for each filter."),
    ] = None,
    limit: Limit = 50,
    after: Annotated[
        str | None,
        typer.Option("--after", metavar="CURSOR", help="Go on where the page before ended."),
    ] = None,
) -> None:
    """List objects of a kind, newest change first, a page at a time."""
    found = find_kind(kind)
    wanted = dict(_read_filter(text, found.filters) for text in filters or [])
    page = session.client.list(found.plural, filters=wanted, cursor=after, limit=limit)
    if session.out.as_json:
        session.out.document(page)
        return
    session.out.table(found.plural, first_columns(found, page["items"]), page["items"])
    if page["next"]:
        session.out.note(f"more: --after {page['next']}")


def _read_filter(text: str, known: tuple[str, ...]) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or name not in known:
        expected = " or ".join(f"{name}=VALUE" for name in known) or "none for this kind"
        raise WrongUse(f"--filter: expected {expected}, got {text!r}")
    return name, value


@app.command("show", epilog=example("hansa show order 5f0c1a7e9b3d4c2f8e6a0b1c2d3e4f50"))
@with_session
def show_object(
    session: Session,
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND", autocompletion=complete_singular, help="order, product, ..."
        ),
    ],
    identifier: Annotated[str, typer.Argument(metavar="ID", help="Its id.")],
) -> None:
    """Show one object with all that belongs to it, and its life over all chains."""
    found = find_kind(kind)
    if found == TRANSACTION:
        session.out.record(_read_transaction(session, identifier))
        return
    shown = session.client.show(found.plural, identifier)
    if not session.out.as_json:
        shown["timeline"] = [_readable_step(step) for step in shown["timeline"]]
    session.out.record(shown)


def _readable_step(step: dict[str, Any]) -> dict[str, Any]:
    """Return when, what and where of a step; the object's id would only be said again."""
    return {
        "time_ms": step["time_ms"],
        "name": step["name"],
        "chain": step["chain"],
        "height": step["height"],
        "leaf": step["leaf"],
    }


def _read_transaction(session: Session, identifier: str) -> dict[str, Any]:
    """Return a transaction out of its own proof: nothing of it has to be believed otherwise."""
    from hansa.core.proof import verify_bundle
    from hansa.foreground.cli.judging import read_fact
    from hansa.node.home import make_trust

    data = session.client.proof(TRANSACTION.name, identifier)
    fact = verify_bundle(data, make_trust(session.client.genesis())).facts[0]
    return {"id": identifier, **read_fact(fact), "verified": True}


@app.command(epilog=example('hansa search "cotton bag"'))
@with_session
def search(
    session: Session,
    text: Annotated[
        str, typer.Argument(metavar="TEXT", help="The beginning of an id, or part of a text.")
    ],
) -> None:
    """Find objects of any kind by the beginning of their id or by their texts."""
    page = session.client.search(text)
    if session.out.as_json:
        session.out.document(page)
        return
    items = page["items"]
    present = [name for name in FOUND_COLUMNS if any(name in row for row in items)]
    session.out.table("found", ["kind", "id", *present], items)


@app.command(epilog=example("hansa balance seller/fenwold"))
@with_session
def balance(
    session: Session,
    account: Annotated[
        str,
        typer.Argument(
            metavar="ACCOUNT", help="40 hexadecimal digits, a key's name or an organisation's."
        ),
    ],
) -> None:
    """Show what an account has, and how much of it is held, by currency."""
    owner = session.resolve_account(account).hex()
    page = session.client.balance(bytes.fromhex(owner))
    if session.out.as_json:
        session.out.document({"account": owner, **page})
        return
    rows = [_readable_balance(session, item) for item in page["items"]]
    session.out.table(owner, ["currency", "posted", "held", "free"], rows)


def _readable_balance(session: Session, item: dict[str, Any]) -> dict[str, str]:
    exponent = int(session.client.show("currencies", item["currency"])["exponent"])
    posted, held = int(item["posted_minor"]), int(item["held_minor"])
    amounts = {"posted": posted, "held": held, "free": posted - held}
    shown = {name: show_minor(amount, exponent) for name, amount in amounts.items()}
    return {"currency": item["currency"], **shown}
