"""A sandbox of four networks: one chain each, each with a validator of its own, on either engine.

One key store's companies are founders of all four, under one consortium, so that an account is the
same everywhere. The networks don't know each other at first: the founders of each let the other
three in by resolution, as members of a real one would.
"""

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace
from nacl.signing import SigningKey as Ed25519Key

from hansa.core.finality import CheckpointSigner, TrustedNetwork, trust_network
from hansa.core.genesis import Genesis
from hansa.core.hashing import digester
from hansa.core.keys import ED25519
from hansa.core.keystore import KeyStore
from hansa.core.proof import Trust
from hansa.interface.client import Client, Outcome
from hansa.interface.sandbox.desk import Desk, Request, Signed
from hansa.interface.sandbox.roster import COMPANIES, RELAY_KEY, VALIDATOR_KEY, make_founders
from hansa.interface.sandbox.testnet import (
    BLOCK_PAUSE_MS,
    CONSENSUS_KEY,
    EMPTY_BLOCKS_MS,
    LOOPBACK,
    NODE_KEY,
    POWER,
    make_engine_genesis,
)
from hansa.network.comet.config import CometSettings, write_home
from hansa.network.comet.process import pick_ports
from hansa.node.composition import (
    CHAINS,
    DAY_MS,
    REGISTRY,
    GenesisTerms,
    make_genesis,
    make_rulebook,
)
from hansa.node.home import CometConfig, NodeConfig, create_home, load_genesis, make_trust
from hansa.node.node import system_clock
from hansa.service.link.model import OpenClient, compute_subject
from hansa.service.members.model import Decided, Propose, Resolve, Vote, compute_founder_id
from hansa.service.validators.model import FirstSeat, FirstValidator

OPEN_PURPOSE: Final = "link.open"
TRUSTING_PERIOD_MS: Final = 30 * DAY_MS

_consortium_digest = digester("consortium")


def create_federation(
    folder: Path, name: str, *, comet: Collection[str] = (), seed: bytes | None = None,
    clock: Callable[[], int] = system_clock, terms: GenesisTerms | None = None,
) -> dict[str, Path]:  # fmt: skip
    """Make a home for each chain, in a folder of the chain's name; returns them by chain.

    ``comet`` names the chains whose networks run on CometBFT; the registry's members govern who
    validates there. ``seed`` (32 bytes) gives the same keys again; random where it is left out.
    Raises: OperatorError if one of the folders has a network already.
    """
    seed = seed or os.urandom(32)
    shared = KeyStore(seed=seed, keys={}, is_sandbox=True)
    consortium = _consortium_digest(shared.get(VALIDATOR_KEY).public)
    founders = make_founders(shared, consortium)
    stores = {chain: _make_keys(seed, chain) for chain in CHAINS}
    operator = compute_founder_id(founders[0].owner)
    first_sets = {
        chain: (FirstValidator(operator, show_consensus_key(stores[chain]), POWER),)
        for chain in CHAINS
        if chain in comet
    }
    homes = {chain: folder / chain for chain in CHAINS}
    for chain, home in homes.items():
        others = [FirstSeat(*first) for first in first_sets.items() if first[0] != chain]
        genesis = make_genesis(
            f"{name} {chain}",
            consortium=consortium,
            is_sandbox=True,
            time_ms=clock(),
            founders=founders,
            validators=[CheckpointSigner(stores[chain].get_secret(VALIDATOR_KEY)).public],
            consensus=first_sets.get(chain, ()),
            seats=others if chain == REGISTRY else (),
            chains=(chain,),
            terms=terms,
        )
        if chain in comet:
            _create_comet_home(home, genesis, stores[chain])
        else:
            create_home(home, genesis, stores[chain])
    return homes


def _create_comet_home(home: Path, genesis: Genesis, keys: KeyStore) -> None:
    p2p, rpc = pick_ports(2)
    settings = CometSettings(
        moniker=home.name,
        proxy_app="",
        p2p_address=f"{LOOPBACK}:{p2p}",
        rpc_address=f"{LOOPBACK}:{rpc}",
        create_empty_blocks_interval_ms=EMPTY_BLOCKS_MS,
        timeout_commit_ms=BLOCK_PAUSE_MS,
    )
    config = NodeConfig(comet=CometConfig(settings=settings, verifiers=1))
    create_home(home, genesis, keys, config=config)
    write_home(
        home / "comet",
        settings,
        make_engine_genesis(genesis),
        node_seed=keys.get_secret(NODE_KEY),
        validator_seed=keys.get_secret(CONSENSUS_KEY),
    )


def show_consensus_key(keys: KeyStore) -> bytes:
    """Return the public key, scheme byte first, by which a key store's validator votes."""
    return bytes([ED25519]) + Ed25519Key(keys.get_secret(CONSENSUS_KEY)).verify_key.encode()


def _make_keys(seed: bytes, chain: str) -> KeyStore:
    """Return a key store that has every company, and what only this chain's node has."""
    keys = KeyStore(seed=seed, keys={}, is_sandbox=True)
    for name in (VALIDATOR_KEY, CONSENSUS_KEY, NODE_KEY):
        keys.add(name, keys.get_secret(f"{name}/{chain}"))
    for key in (RELAY_KEY, *(company.key for company in COMPANIES)):
        keys.add(key, keys.get_secret(key))
    return keys


def make_federation_trust(homes: Mapping[str, Path]) -> Trust:
    """Return the trust of somebody who was given the genesis of every network."""
    trusts = [make_trust(load_genesis(home)) for home in homes.values()]
    return Trust(tuple(network for trust in trusts for network in trust.networks))


# The networks are made known to each other.


def introduce(
    clients: Mapping[str, Client], voters: Sequence[str] | None = None, *,
    trusting_period_ms: int = TRUSTING_PERIOD_MS,
) -> None:  # fmt: skip
    """Open a client of every chain on every other: proposed, voted for, and opened.

    ``clients`` are by chain, ``voters`` names in their key store, the first of which proposes; all
    companies of the sandbox vote where it is left out. Raises: RuleRefused, what clients raise.
    """
    names = [company.key for company in COMPANIES] if voters is None else voters
    trusted = {chain: _state_network(client) for chain, client in clients.items()}
    for here, client in clients.items():
        wanted = [
            OpenClient(
                chain=chain,
                trusted=network,
                trusting_period_ms=trusting_period_ms,
                resolution=bytes(16),
            )
            for chain, network in trusted.items()
            if chain != here
        ]
        _let_in(client, here, wanted, names)


def _state_network(client: Client) -> TrustedNetwork:
    """Return what others must trust to believe a network; its client has judged the genesis."""
    genesis = client.genesis()
    return trust_network(genesis)


def _let_in(
    client: Client, here: str, wanted: Sequence[OpenClient], voters: Sequence[str]
) -> None:  # fmt: skip
    actions = [Resolve(purpose=OPEN_PURPOSE, subject=compute_subject(one)) for one in wanted]
    outcome = client.send(here, [Propose(action) for action in actions], voters[:1])
    proposals = [outcome.object_id(index) for index in range(len(actions))]
    votes = [Vote(proposal=proposal, approve=True) for proposal in proposals]
    for voter in voters[1:]:
        if _is_decided(outcome):
            break
        outcome = client.send(here, votes, [voter])
    opening = [
        replace(one, resolution=proposal)
        for one, proposal in zip(wanted, proposals, strict=True)
    ]  # fmt: skip
    client.send(here, opening, voters[:1])


def _is_decided(outcome: Outcome) -> bool:
    """Tell whether this vote was the last one needed: one more would be refused."""
    return any(isinstance(event, Decided) for event in outcome.events)


class FederatedDesk(Desk):
    """A desk whose chains are behind several nodes: each thing goes to the node that has it."""

    def __init__(
        self, clients: Mapping[str, Client], *, lane: int = 0, is_fresh: bool = False
    ) -> None:  # fmt: skip
        """``clients`` are by chain, with the same keys."""
        super().__init__(next(iter(clients.values())), lane=lane, is_fresh=is_fresh)
        self._desks = {
            chain: Desk(client, lane=lane, is_fresh=is_fresh) for chain, client in clients.items()
        }
        self._chains: dict[str, str] = {}
        """Where each kind is asked for, by its plural: the first chain that has it."""
        for chain in clients:
            for module in make_rulebook(chain).modules:
                for kind in module.views.kinds if module.views else ():
                    self._chains.setdefault(kind.plural, chain)

    def sign(self, chain: str, requests: Sequence[Request]) -> list[Signed]:
        """Sign requests for a chain of whichever network hosts it."""
        return self._desks[chain].sign(chain, requests)

    def forget_sequences(self) -> None:
        """Ask the nodes again where everybody stands, after something was not taken."""
        for desk in self._desks.values():
            desk.forget_sequences()

    def submit(self, chain: str, signed: Sequence[Signed]) -> list[Outcome]:
        """Hand in transactions at the node of their chain; as :meth:`Desk.submit`."""
        outcomes = self._desks[chain].submit(chain, signed)
        self._count()
        return outcomes

    def list_rows(
        self, plural: str, filters: Mapping[str, str], *, verify: bool = True
    ) -> Iterator[dict[str, Any]]:
        """Yield every row of a kind, from the node that has it; as :meth:`Desk.list_rows`."""
        yield from self._desks[self._chains[plural]].list_rows(plural, filters, verify=verify)
        self._count()

    def find(self, plural: str, identifier: str) -> dict[str, Any] | None:
        """Return one object from the node that has its kind; as :meth:`Desk.find`."""
        row = self._desks[self._chains[plural]].find(plural, identifier)
        self._count()
        return row

    def _count(self) -> None:
        self.transactions = sum(desk.transactions for desk in self._desks.values())
        self.proofs = sum(desk.proofs for desk in self._desks.values())
