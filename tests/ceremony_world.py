"""Organisations that found a network together, each in a home of its own, over loopback."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from hansa.core.genesis import Genesis
from hansa.core.keystore import KeyStore
from hansa.interface.ceremony import (
    Ceremony,
    SignedInvitation,
    adopt,
    finish,
    init_node,
    make_draft,
    make_invitation,
    make_keys,
    sign_draft,
)
from hansa.network.comet.config import CometSettings
from hansa.network.comet.process import pick_ports
from hansa.node.composition import GenesisTerms

PASSPHRASE = "a passphrase of some length"
START_MS = 1_760_000_000_000


class Organisation(NamedTuple):
    """A founder: its keys, its home, and what it hands out."""

    keys: KeyStore
    home: Path
    invitation: SignedInvitation
    rpc: str


def hasten(settings: CometSettings) -> CometSettings:
    """Blocks follow each other quickly, and idle ones come every second."""
    return replace(settings, create_empty_blocks_interval_ms=1_000, timeout_commit_ms=100)


def make_organisation(
    folder: Path, name: str, *, keys: KeyStore | None = None, port: int = 12_000
) -> Organisation:
    """An organisation with sealed keys and an invitation."""
    keys = keys or make_keys()
    invitation = make_invitation(
        keys,
        name=name,
        country="GB",
        roles=["operator", "bank"],
        licence="GB-1",
        address=f"127.0.0.1:{port}",
        made_ms=START_MS + port,
    )
    return Organisation(keys, folder / name, invitation, f"127.0.0.1:{port + 1}")


def found(
    folder: Path, names: Sequence[str], *, time_ms: int
) -> tuple[list[Organisation], Genesis]:
    """A network whose founders have adopted it, ready to be started."""
    ports = pick_ports(2 * len(names))
    organisations = []
    for number, name in enumerate(names):
        keys = make_keys()
        invitation = make_invitation(
            keys,
            name=name,
            country="GB",
            roles=["operator"],
            licence="",
            address=f"127.0.0.1:{ports[2 * number]}",
            made_ms=time_ms,
        )
        home = folder / name
        init_node(home, keys, PASSPHRASE, invitation)
        rpc = f"127.0.0.1:{ports[2 * number + 1]}"
        organisations.append(Organisation(keys, home, invitation, rpc))
    # Snapshots are taken where the state is rooted: soon, for those who sync from one.
    terms = GenesisTerms(state_root_interval=5, state_root_delay=2)
    ceremony = hold(organisations, terms=terms)
    for one in organisations:
        genesis = adopt(
            one.home, ceremony, one.keys, PASSPHRASE, rpc_address=one.rpc, change=hasten
        )
    return organisations, genesis


def hold(organisations: Sequence[Organisation], *, terms: GenesisTerms | None = None) -> Ceremony:
    """The ceremony, in which everybody consents."""
    draft = make_draft("Hanse", [one.invitation for one in organisations], terms=terms)
    return finish(draft, [sign_draft(draft, one.invitation, one.keys) for one in organisations])
