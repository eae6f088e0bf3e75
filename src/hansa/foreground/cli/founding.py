"""The genesis of a network that is not a sandbox: one founder, one node, a sealed key store."""

import os
from pathlib import Path
from typing import Final

import coincurve

from hansa.core.errors import Malformed
from hansa.core.finality import CheckpointSigner
from hansa.core.genesis import Genesis
from hansa.core.hashing import digester
from hansa.core.keys import compute_account
from hansa.core.keystore import KeyStore
from hansa.foreground.cli.failures import WrongUse
from hansa.node.composition import make_genesis
from hansa.node.home import create_home
from hansa.node.node import system_clock
from hansa.service.members.model import Founder, FounderAccount

VALIDATOR_KEY: Final = "validator"
RELAY_KEY: Final = "relay"
OWNER_KEY: Final = "owner"
"""Owns the founding organisation; it admits all others."""

_consortium_digest = digester("consortium")


def found_network(
    home: Path,
    name: str,
    *,
    organisation: str,
    country: str,
    licence: str,
    roles: tuple[str, ...],
    passphrase: str,
) -> Genesis:
    """Make a home whose network has one member, who admits the others.

    Raises: WrongUse for a founder that the members' rules would not have; OperatorError.
    """
    from hansa.core.codec import from_readable

    secrets = {key: coincurve.PrivateKey().secret for key in (OWNER_KEY, RELAY_KEY)}
    keys = KeyStore(seed=b"", keys={**secrets, VALIDATOR_KEY: os.urandom(32)}, is_sandbox=False)
    consortium = _consortium_digest(os.urandom(32))
    owner = compute_account(consortium, keys.get(OWNER_KEY).public)
    relay = compute_account(consortium, keys.get(RELAY_KEY).public)
    wanted = {
        "name": organisation,
        "country": country,
        "roles": sorted(roles),
        "licence": licence,
        "owner": owner.hex(),
        "accounts": [],
    }
    try:
        founder: Founder = from_readable(Founder, wanted)
    except Malformed as error:
        raise WrongUse(f"organisation: {error.text}") from None
    founder = Founder(
        name=founder.name,
        country=founder.country,
        roles=founder.roles,
        licence=founder.licence,
        owner=founder.owner,
        accounts=(FounderAccount(relay, ("relay",)),),
    )
    genesis = make_genesis(
        name,
        consortium=consortium,
        is_sandbox=False,
        time_ms=system_clock(),
        founders=[founder],
        validators=[CheckpointSigner(keys.get_secret(VALIDATOR_KEY)).public],
    )
    create_home(home, genesis, keys, passphrase=passphrase)
    return genesis
