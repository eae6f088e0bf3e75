"""A sandbox of several organisations: each runs a node and a validator, none can be left alone.

All nodes are on this machine's loopback. One key store plays every party, so any of the homes will
do to act as any company; what differs is who signs checkpoints and who votes.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from msgspec import Struct
from nacl.signing import SigningKey as Ed25519Key

from hansa.core.errors import OperatorError
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
from hansa.node.composition import CHAINS, REGISTRY, GenesisTerms, make_genesis
from hansa.node.home import CometConfig, NodeConfig, create_home, write_private
from hansa.node.node import system_clock
from hansa.service.members.model import Founder, compute_founder_id
from hansa.service.validators.model import FirstSeat, FirstValidator

CONSENSUS_KEY: Final = "consensus"
"""Secret of the key that votes on blocks."""
NODE_KEY: Final = "node"
"""Secret of the key by which CometBFT's nodes know each other."""

MAX_VALIDATORS: Final = 16
"""Of each network; as many as a machine can be asked to run."""

LIST: Final = "testnet.json"
LOOPBACK: Final = "127.0.0.1"
MAX_PORT: Final = 65_535
POWER: Final = 10
EMPTY_BLOCKS_MS: Final = 5_000
BLOCK_PAUSE_MS: Final = 500
RELAY_PATIENCE_MS: Final = 15_000
"""How much longer each node than the one before leaves packets to the others."""
PORTS: Final = 3
"""Of each node: CometBFT's for its peers and for questions, and HTTP."""

_consortium_digest = digester("consortium")


class NodePlace(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A node of a testnet, and where it is found."""

    number: int
    home: str
    """Relative to the folder of the testnet."""
    url: str
    p2p: str
    """``HOST:PORT`` where its CometBFT hears its peers."""
    rpc: str
    """``HOST:PORT`` where its CometBFT is asked."""
    network: str
    """Id, in hexadecimal."""
    chains: tuple[str, ...]
    pid: int | None = None
    """Of its process; None while it is down."""

    @property
    def port(self) -> int:
        """Where it serves HTTP."""
        return int(self.url.rpartition(":")[2])


class Testnet(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``DIR/testnet.json``: what a testnet is made of."""

    name: str
    nodes: tuple[NodePlace, ...]
    pid: int | None = None
    """Of the process that runs them all; None while none does."""

    def get(self, number: int) -> NodePlace:
        """Return a node. Raises: OperatorError for one that isn't there."""
        if not 0 <= number < len(self.nodes):
            raise OperatorError(f"node: expected 0 to {len(self.nodes) - 1}, got {number}")
        return self.nodes[number]

    def list_networks(self) -> list[tuple[NodePlace, ...]]:
        """Return the nodes of each network, in order."""
        ids = dict.fromkeys(node.network for node in self.nodes)
        return [tuple(node for node in self.nodes if node.network == one) for one in ids]


def load_testnet(folder: Path) -> Testnet:
    """Read what a folder holds. Raises: OperatorError if it holds no testnet."""
    path = folder / LIST
    if not path.exists():
        raise OperatorError(f"{folder}: expected a testnet, got none; run `hansa testnet init`")
    try:
        return msgspec.json.decode(path.read_bytes(), type=Testnet)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise OperatorError(f"{path}: {error}") from None


def save_testnet(folder: Path, testnet: Testnet) -> None:
    """Write what a folder holds, whole or not at all."""
    write_private(folder / LIST, msgspec.json.format(msgspec.json.encode(testnet)) + b"\n")


# Making one.


class _Organisation(NamedTuple):
    """Who runs a node, and what only this one has."""

    number: int
    keys: KeyStore
    home: Path
    p2p: str
    rpc: str
    url: str

    @property
    def peer(self) -> str:
        """How others dial it."""
        return f"{compute_node_id(self.keys.get_secret(NODE_KEY))}@{self.p2p}"


def create_testnet(
    folder: Path, name: str, validators: int, *, chains: Sequence[str] = CHAINS,
    is_split: bool = False, first_port: int = 0, seed: bytes | None = None,
    clock: Callable[[], int] = system_clock, terms: GenesisTerms | None = None,
) -> list[Path]:  # fmt: skip
    """Make a home for each validator, ``node0`` and so on, and return them.

    One network hosts all chains; ``is_split`` gives each a network with so many validators of its
    own. They serve HTTP from ``first_port`` on, on any free port where it is 0. ``seed`` (32 bytes)
    gives the same keys again; random where it is left out. Raises: OperatorError if the folder has
    a testnet already, for a number of validators or a port out of bounds, or if one of the homes
    has a network already.
    """
    hosted = [(chain,) for chain in chains] if is_split else [tuple(chains)]
    _check(folder, validators, first_port, len(hosted) * validators)
    seed = seed or os.urandom(32)
    groups = [
        [_make_keys(seed, number, group[0] if is_split else "") for number in range(validators)]
        for group in hosted
    ]
    consortium = _consortium_digest(groups[0][0].get(VALIDATOR_KEY).public)
    founders = make_founders(groups[0][0], consortium)
    time_ms = clock()
    organisations = _settle(folder, groups, first_port)
    first_sets = {
        group[0]: _choose_first(founders, own)
        for group, own in zip(hosted, groups, strict=True)
    }  # fmt: skip
    nodes: list[NodePlace] = []
    for group, members in zip(hosted, organisations, strict=True):
        others = {chain: first for chain, first in first_sets.items() if chain not in group}
        genesis = make_genesis(
            f"{name} {group[0]}" if is_split else name,
            consortium=consortium,
            is_sandbox=True,
            time_ms=time_ms,
            founders=founders,
            validators=[_show_checkpoint_key(one.keys) for one in members],
            consensus=first_sets[group[0]],
            # The registry governs everybody's sets.
            seats=[FirstSeat(*other) for other in others.items()] if REGISTRY in group else (),
            chains=group,
            terms=terms or SANDBOX_TERMS,
        )
        nodes += _write_homes(genesis, members)
    save_testnet(folder, Testnet(name=name, nodes=tuple(nodes)))
    return [folder / node.home for node in nodes]


def _check(folder: Path, validators: int, first_port: int, nodes: int) -> None:
    if (folder / LIST).exists():
        raise OperatorError(f"{folder}: expected a folder without a testnet, got one that has one")
    if not 1 <= validators <= MAX_VALIDATORS:
        raise OperatorError(f"validators: expected 1 to {MAX_VALIDATORS}, got {validators}")
    if not 0 <= first_port <= MAX_PORT + 1 - nodes:
        raise OperatorError(
            f"port: expected 0 to {MAX_PORT + 1 - nodes}, for there are {nodes} nodes, got"
            f" {first_port}"
        )


def _settle(
    folder: Path, groups: Sequence[Sequence[KeyStore]], first_port: int
) -> list[list[_Organisation]]:
    """Give every organisation its number, home and addresses."""
    ports = pick_ports(PORTS * sum(map(len, groups)))
    settled: list[list[_Organisation]] = []
    number = 0
    for group in groups:
        settled.append([])
        for keys in group:
            p2p, rpc, http = ports[PORTS * number : PORTS * (number + 1)]
            settled[-1].append(
                _Organisation(
                    number=number,
                    keys=keys,
                    home=folder / f"node{number}",
                    p2p=f"{LOOPBACK}:{p2p}",
                    rpc=f"{LOOPBACK}:{rpc}",
                    url=f"http://{LOOPBACK}:{first_port + number if first_port else http}",
                )
            )
            number += 1
    return settled


def _write_homes(genesis: Genesis, members: Sequence[_Organisation]) -> list[NodePlace]:
    """Write the homes of one network; returns what is to be known of its nodes."""
    document = make_engine_genesis(genesis)
    nodes = []
    for place, one in enumerate(members):
        settings = CometSettings(
            moniker=one.home.name,
            proxy_app="",
            p2p_address=one.p2p,
            rpc_address=one.rpc,
            persistent_peers=tuple(other.peer for other in members if other is not one),
            create_empty_blocks_interval_ms=EMPTY_BLOCKS_MS,
            timeout_commit_ms=BLOCK_PAUSE_MS,
        )
        comet = CometConfig(
            settings=settings, verifiers=1, relay_patience_ms=place * RELAY_PATIENCE_MS
        )
        create_home(one.home, genesis, one.keys, config=NodeConfig(comet=comet))
        write_home(
            one.home / "comet",
            settings,
            document,
            node_seed=one.keys.get_secret(NODE_KEY),
            validator_seed=one.keys.get_secret(CONSENSUS_KEY),
        )
        nodes.append(
            NodePlace(
                number=one.number,
                home=one.home.name,
                url=one.url,
                p2p=one.p2p,
                rpc=one.rpc,
                network=compute_network_id(genesis).hex(),
                chains=tuple(chain.name for chain in genesis.chains),
            )
        )
    return nodes


def make_engine_genesis(genesis: Genesis) -> bytes:
    """Return CometBFT's own genesis, which follows from ours."""
    return make_genesis_document(
        consensus_chain_id(compute_network_id(genesis)), genesis.time_ms, genesis.consensus
    )


def _choose_first(
    founders: Sequence[Founder], stores: Sequence[KeyStore]
) -> tuple[FirstValidator, ...]:
    return tuple(
        FirstValidator(
            operator=compute_founder_id(founders[number % len(founders)].owner),
            key=_public(keys),
            power=POWER,
        )
        for number, keys in enumerate(stores)
    )


def _make_keys(seed: bytes, number: int, chain: str) -> KeyStore:
    """Return a key store that has every company, and what only this organisation's node has.

    ``chain`` tells networks apart that host one each: no key votes on two of them.
    """
    keys = KeyStore(seed=seed, keys={}, is_sandbox=True)
    own = f"{chain}/{number}" if chain else f"{number}"
    for name in (VALIDATOR_KEY, CONSENSUS_KEY, NODE_KEY):
        keys.add(name, keys.get_secret(f"{name}/{own}"))
    keys.add(RELAY_KEY, keys.get_secret(RELAY_KEY if number == 0 else f"{RELAY_KEY}/{own}"))
    for company in COMPANIES:
        keys.add(company.key, keys.get_secret(company.key))
    return keys


def _show_checkpoint_key(keys: KeyStore) -> bytes:
    return CheckpointSigner(keys.get_secret(VALIDATOR_KEY)).public


def _public(keys: KeyStore) -> bytes:
    return bytes([ED25519]) + Ed25519Key(keys.get_secret(CONSENSUS_KEY)).verify_key.encode()
