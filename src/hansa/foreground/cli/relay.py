"""`hansa relay`: carries packets between nodes; nobody has to trust who runs it."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated, Final

import typer

from hansa.foreground.cli.failures import WrongUse
from hansa.foreground.cli.options import Home, Json, PassphraseFile, example, resolve_home
from hansa.foreground.cli.output import Output
from hansa.foreground.cli.passphrase import passphrase_reader

if TYPE_CHECKING:
    from hansa.core.keys import SigningKey

app: Final = typer.Typer()


@app.command(
    epilog=example(
        "hansa relay --end trade=http://127.0.0.1:8081 --end logistics=http://127.0.0.1:8082"
    )
)
def relay(
    *,
    ends: Annotated[
        list[str] | None,
        typer.Option("--end", metavar="CHAIN=URL", help="A chain and its node; once for each."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help='JSON: {"ends": {"CHAIN": "URL"}}.'),
    ] = None,
    key: Annotated[str, typer.Option("--key", metavar="NAME", help="Key that signs.")] = "relay",
    is_once: Annotated[bool, typer.Option("--once", help="Carry what waits, then stop.")] = False,
    home: Home = None,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Carry packets, anchors and fresh headers between chains on different nodes.

    It holds no key that anybody has to trust: the destination believes proofs, not carriers. Where
    the home has no key store it signs with a key of the moment.
    """
    from hansa.interface.relaying import run_relay

    out = Output(as_json=as_json)
    places = read_ends(ends or [], config)
    signing_key = _load_key(resolve_home(home), key, passphrase_file)
    stop = Event()
    with _stopped_by_signals(stop):
        report = run_relay(places, signing_key, out.note, stop, is_once=is_once)
    out.record(
        {
            "pages": report.pages,
            "anchors": report.anchors,
            "troubles": list(report.troubles),
        }
    )


@contextmanager
def _stopped_by_signals(stop: Event) -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: stop.set()) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _load_key(home: Path, name: str, passphrase_file: Path | None) -> "SigningKey":
    """Return the key of that name; without a key store one of the moment does as well."""
    import os

    from hansa.core.keys import SigningKey
    from hansa.node.home import load_keys

    if (home / "keys.json").exists():
        return load_keys(home, passphrase_reader(passphrase_file)).get(name)
    return SigningKey(os.urandom(32))


def read_ends(given: list[str], config: Path | None) -> dict[str, str]:
    """Return the nodes by chain, from the options and the configuration.

    Raises: WrongUse for a part that isn't CHAIN=URL, a chain named twice, or fewer than two chains.
    """
    places = _read_config(config) if config is not None else {}
    for text in given:
        chain, sign, url = text.partition("=")
        if not sign or not chain or not url.startswith(("http://", "https://")):
            raise WrongUse(f"--end: expected CHAIN=URL, got {text!r}")
        if chain in places:
            raise WrongUse(f"--end: expected each chain once, got {chain!r} again")
        places[chain] = url
    if len(places) < 2:
        raise WrongUse(f"--end: expected two chains or more, got {len(places)}")
    return places


def _read_config(path: Path) -> dict[str, str]:
    import json

    try:
        ends = json.loads(path.read_bytes())["ends"]
        return {str(chain): str(url) for chain, url in ends.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise WrongUse(f'{path}: expected JSON like {{"ends": {{"trade": "URL"}}}}') from None
