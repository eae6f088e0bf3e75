"""A sandbox is made: its companies, their keys, and a genesis that says what it is."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from hansa.core.finality import CheckpointSigner
from hansa.core.genesis import Genesis
from hansa.core.hashing import digester
from hansa.core.keystore import KeyStore
from hansa.interface.sandbox.roster import COMPANIES, RELAY_KEY, VALIDATOR_KEY, make_founders
from hansa.node.composition import DAY_MS, GenesisTerms, make_genesis
from hansa.node.home import create_home
from hansa.node.node import system_clock

SANDBOX_TERMS: Final = GenesisTerms(trusting_period_ms=3_650 * DAY_MS)
"""A demo may lie switched off for years; governance to wake it would help nobody."""

_consortium_digest = digester("consortium")


def create_sandbox(
    home: Path, name: str, *, seed: bytes | None = None,
    clock: Callable[[], int] = system_clock, terms: GenesisTerms | None = None,
) -> Genesis:  # fmt: skip
    """Make a home of one node that plays every company; the key store needs no passphrase.

    ``seed`` (32 bytes) gives the same keys again; random where it is left out. Raises:
    OperatorError if the folder has a network already.
    """
    seed = seed or os.urandom(32)
    keys = KeyStore(seed=seed, keys={}, is_sandbox=True)
    for key in (VALIDATOR_KEY, RELAY_KEY, *(company.key for company in COMPANIES)):
        keys.add(key, keys.get_secret(key))  # Named, so that they can be listed.
    consortium = _consortium_digest(keys.get(VALIDATOR_KEY).public)
    genesis = make_genesis(
        name,
        consortium=consortium,
        is_sandbox=True,
        time_ms=clock(),
        founders=make_founders(keys, consortium),
        validators=[CheckpointSigner(keys.get_secret(VALIDATOR_KEY)).public],
        terms=terms or SANDBOX_TERMS,
    )
    create_home(home, genesis, keys)
    return genesis
