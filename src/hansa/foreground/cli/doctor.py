"""`hansa doctor`: what is wrong with a node, and what to do."""

from typing import Final

import typer

from hansa.foreground.cli.failures import Invalid
from hansa.foreground.cli.options import Home, Json, NodeUrl, example, resolve_home
from hansa.foreground.cli.output import Output

app: Final = typer.Typer()


@app.command(epilog=example("hansa doctor --home quayside"))
def doctor(*, home: Home = None, node_url: NodeUrl = None, as_json: Json = False) -> None:
    """Say in words what is wrong with a node and what to do: files, engine, peers, clock, vote.

    It changes nothing and needs no key. With --node it asks any node by its address, and sees no
    files. Exit status: 0 healthy, 1 something is wrong.
    """
    from hansa.interface.doctor import examine_home, examine_url, to_document

    out, folder = Output(as_json=as_json), resolve_home(home)
    findings = examine_url(node_url) if node_url else examine_home(folder)
    if as_json:
        out.document(
            {
                "node": node_url or str(folder),
                "healthy": not findings,
                "findings": to_document(findings),
            }
        )
    for finding in () if as_json else findings:
        out.say(f"{finding.name}: {finding.says}")
        out.say(f"    {finding.do}")
    if findings:
        raise Invalid("")
    if not as_json:
        out.say("healthy")
