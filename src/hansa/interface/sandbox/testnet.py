"""A sandbox of several organisations: each runs a node and a validator, none can be left alone.

All nodes are on this machine's loopback. One key store plays every party, so any of the homes will
do to act as any company; what differs is who signs checkpoints and who votes.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from nacl.signing import SigningKey as Ed25519Key

from hansa.core.finality import CheckpointSigner
from hansa.core.genesis import Genesis, compute_network_id, consensus_chain_id
from hansa.core.hashing import digester
from hansa.core.keys import ED25519
from hansa.core.keystore import KeyStore
from hansa.interface.sandbox.home import SANDBOX_TERMS
from hansa.interface.sandbox.roster import COMPANIES, RELAY_KEY, VALIDATOR_KEY, make_founders
from hansa.network.comet.config import (
    CometSettings,
    compute_node_id,
    make_genesis_document,
    write_home,
)
from hansa.network.comet.process import pick_ports
from hansa.node.composition import CHAINS, GenesisTerms, make_genesis
from hansa.node.home import CometConfig, NodeConfig, create_home
from hansa.node.node import system_clock
from hansa.service.members.model import compute_founder_id
from hansa.service.validators.model import FirstValidator

CONSENSUS_KEY: Final = "consensus"
"""Secret of the key that votes on blocks."""
NODE_KEY: Final = "node"
"""Secret of the key by which CometBFT's nodes know each other."""

MAX_VALIDATORS: Final = 16
"""As many as a machine can be asked to run."""

LOOPBACK: Final = "127.0.0.1"
POWER: Final = 10
EMPTY_BLOCKS_MS: Final = 5_000
BLOCK_PAUSE_MS: Final = 300
RELAY_PATIENCE_MS: Final = 4_000
"""How much longer each node than the one before leaves packets to the others."""

_consortium_digest = digester("consortium")


def create_testnet(
    folder: Path, name: str, validators: int, *, chains: Sequence[str] = CHAINS,
    seed: bytes | None = None, clock: Callable[[], int] = system_clock,
    terms: GenesisTerms | None = None,
) -> list[Path]:  # fmt: skip
    """Make a home for each validator, ``node0`` and so on, and return them.

    ``seed`` (32 bytes) gives the same keys again; random where it is left out. Raises:
    OperatorError if one of the folders has a network already.
    """
    seed = seed or os.urandom(32)
    stores = [_make_keys(seed, number) for number in range(validators)]
    consortium = _consortium_digest(stores[0].get(VALIDATOR_KEY).public)
    founders = make_founders(stores[0], consortium)
    consensus = [
        FirstValidator(
            operator=compute_founder_id(founders[number % len(founders)].owner),
            key=_public(keys),
            power=POWER,
        )
        for number, keys in enumerate(stores)
    ]
    genesis = make_genesis(
        name,
        consortium=consortium,
        is_sandbox=True,
        time_ms=clock(),
        founders=founders,
        validators=[CheckpointSigner(keys.get_secret(VALIDATOR_KEY)).public for keys in stores],
        consensus=consensus,
        chains=chains,
        terms=terms or SANDBOX_TERMS,
    )
    homes = [folder / f"node{number}" for number in range(validators)]
    ports = pick_ports(2 * validators)
    peers = [
        f"{compute_node_id(keys.get_secret(NODE_KEY))}@{LOOPBACK}:{ports[2 * number]}"
        for number, keys in enumerate(stores)
    ]
    document = make_engine_genesis(genesis)
    for number, (home, keys) in enumerate(zip(homes, stores, strict=True)):
        settings = CometSettings(
            moniker=home.name,
            proxy_app="",
            p2p_address=f"{LOOPBACK}:{ports[2 * number]}",
            rpc_address=f"{LOOPBACK}:{ports[2 * number + 1]}",
            persistent_peers=tuple(peer for peer in peers if peer != peers[number]),
            create_empty_blocks_interval_ms=EMPTY_BLOCKS_MS,
            timeout_commit_ms=BLOCK_PAUSE_MS,
        )
        comet = CometConfig(
            settings=settings, verifiers=1, relay_patience_ms=number * RELAY_PATIENCE_MS
        )
        create_home(home, genesis, keys, config=NodeConfig(comet=comet))
        write_home(
            home / "comet",
            settings,
            document,
            node_seed=keys.get_secret(NODE_KEY),
            validator_seed=keys.get_secret(CONSENSUS_KEY),
        )
    return homes


def make_engine_genesis(genesis: Genesis) -> bytes:
    """Return CometBFT's own genesis, which follows from ours."""
    return make_genesis_document(
        consensus_chain_id(compute_network_id(genesis)), genesis.time_ms, genesis.consensus
    )


def _make_keys(seed: bytes, number: int) -> KeyStore:
    """Return a key store that has every company, and what only this organisation's node has."""
    keys = KeyStore(seed=seed, keys={}, is_sandbox=True)
    for name in (VALIDATOR_KEY, CONSENSUS_KEY, NODE_KEY):
        keys.add(name, keys.get_secret(f"{name}/{number}"))
    keys.add(RELAY_KEY, keys.get_secret(RELAY_KEY if number == 0 else f"{RELAY_KEY}/{number}"))
    for company in COMPANIES:
        keys.add(company.key, keys.get_secret(company.key))
    return keys


def _public(keys: KeyStore) -> bytes:
    return bytes([ED25519]) + Ed25519Key(keys.get_secret(CONSENSUS_KEY)).verify_key.encode()
