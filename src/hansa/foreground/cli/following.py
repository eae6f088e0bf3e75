"""`hansa follow`: trust kept young, without running a node."""

from pathlib import Path
from typing import Annotated, Final

import typer

from hansa.foreground.cli.failures import Invalid, WrongUse
from hansa.foreground.cli.options import Json, example
from hansa.foreground.cli.output import Output, show_time

app: Final = typer.Typer()


@app.command(
    epilog=example(
        "hansa follow --trust hansa.trust --node http://a:8080 --witness http://b:8080 -o new.trust"
    )
)
def follow(
    *,
    trust_file: Annotated[
        Path, typer.Option("--trust", metavar="FILE", help="What you trust until now.")
    ],
    node_url: Annotated[
        str, typer.Option("--node", metavar="URL", help="The node that supplies light blocks.")
    ],
    witnesses: Annotated[
        list[str] | None,
        typer.Option("--witness", metavar="URL", help="A node to compare with; once for each."),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="New trust file.")],
    as_json: Json = False,
) -> None:
    """Judge a network's newest block by what you trust of it, and write down the newer trust.

    For networks on CometBFT: the validators may have changed since, and trust in them grows old. A
    light client's work: no node needs to be believed. Witnesses show that nobody tells two stories.
    Exit status: 0 done, 1 not believed.
    """
    import json

    from hansa.core.lightclient import LightClientError
    from hansa.foreground.cli.trusting import read_trust
    from hansa.interface.following import TwoStories, follow_network, make_fetch
    from hansa.node.home import describe_trust
    from hansa.node.node import system_clock

    networks = [one for one in read_trust(trust_file).networks if one.consensus is not None]
    if len(networks) != 1:
        raise WrongUse(f"{trust_file}: expected one network on CometBFT, got {len(networks)}")
    try:
        followed = follow_network(
            networks[0],
            make_fetch(node_url.rstrip("/")),
            {url: make_fetch(url.rstrip("/")) for url in witnesses or ()},
            system_clock(),
        )
    except (LightClientError, TwoStories) as error:
        raise Invalid(str(error)) from None
    document = {"networks": [describe_trust(followed.trusted)]}
    output.write_text(json.dumps(document, indent=2) + "\n")
    out = Output(as_json=as_json)
    out.record(
        {
            "file": str(output),
            "height": followed.height,
            "time": show_time(followed.time_ms),
            "light_blocks": followed.hops,
            "agreeing": list(followed.agreeing),
            "silent": list(followed.silent),
        }
    )
