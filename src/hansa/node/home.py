"""The home folder of a node: genesis, configuration, key store."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from hansa.core.codec import encode, to_readable
from hansa.core.errors import Malformed, OperatorError
from hansa.core.finality import TrustedNetwork, trust_network
from hansa.core.genesis import Genesis, compute_network_id, decode_genesis
from hansa.core.keystore import KeyStore
from hansa.core.proof import Trust
from hansa.network.comet.config import CometSettings


class CometConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """How this node's CometBFT listens, finds its peers and paces itself."""

    settings: CometSettings
    """What its own config.toml says; where the application listens is filled in at every start."""
    is_ours: bool = True
    """Whether the node starts CometBFT and keeps it running; else somebody else does."""
    socket: str = ""
    """Path where the application listens; empty for a fresh one at every start."""
    verifiers: int = 2
    """Worker processes that verify signatures."""
    halt_height: int = 0
    """After this block the node stops, to be started with another release; 0 for never."""
    kept_blocks: int = 0
    """Blocks that are kept at least; 0 for all."""
    snapshots: int = 2
    """Snapshots for new nodes that are kept; 0 for none."""
    relay_patience_ms: int = 0
    """How long packets are left to the relays of others before this node carries them: one after
    another takes over, instead of all carrying the same."""


class NodeConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """``HOME/config.json``."""

    read_model: str = ""
    """A SQLAlchemy URL; empty for SQLite in the home folder."""
    runs_relay: bool = True
    """Whether this node carries packets between its own chains."""
    max_waiting: int = 20_000
    http: dict[str, Any] = {}
    """Limits of the HTTP door."""
    comet: CometConfig | None = None
    """For a network that runs on CometBFT; None for the solo engine."""


def create_home(
    home: Path,
    genesis: Genesis,
    keys: KeyStore,
    *,
    passphrase: str | None = None,
    config: NodeConfig | None = None,
) -> None:
    """Write a new home folder: genesis, configuration, key store.

    Raises: OperatorError if there is one already.
    """
    if (home / "genesis.bin").exists():
        raise OperatorError(f"{home}: expected a folder without a network, got one that has one")
    home.mkdir(parents=True, exist_ok=True)
    write_private(home / "keys.json", keys.seal(passphrase, os.urandom))
    _write(home / "config.json", msgspec.json.format(msgspec.json.encode(config or NodeConfig())))
    readable = {"network": compute_network_id(genesis).hex(), **to_readable(genesis)}
    _write(home / "genesis.json", json.dumps(readable, indent=2).encode())
    _write(home / "genesis.bin", encode(genesis))  # Last: it makes the folder a home.


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def write_private(path: Path, data: bytes) -> None:
    """Write a file that its owner alone can read, whole or not at all."""
    draft = path.with_name(path.name + ".new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def load_genesis(home: Path) -> Genesis:
    """Read the genesis of a home.

    Raises: OperatorError if there is none, or none that can be read.
    """
    path = home / "genesis.bin"
    if not path.exists():
        raise OperatorError(f"{home}: expected a home with a genesis, got none; run `hansa init`")
    try:
        return decode_genesis(path.read_bytes())
    except Malformed as error:
        raise OperatorError(
            f"{path}: expected a genesis, got other bytes ({error.text}); restore this file from a "
            f"backup or another node of the network"
        ) from None


def load_keys(home: Path, passphrase: Callable[[], str]) -> KeyStore:
    """Open the key store of a home; ``passphrase`` is asked only where one is needed.

    Raises: OperatorError.
    """
    path = home / "keys.json"
    if not path.exists():
        raise OperatorError(f"{path}: expected a key store, got none; run `hansa init`")
    try:
        return KeyStore.unseal(path.read_bytes(), passphrase)
    except OperatorError as error:
        raise OperatorError(f"{path}: {error}") from None


def load_config(home: Path) -> NodeConfig:
    """Read the configuration of a home; a home without one has the defaults.

    Raises: OperatorError.
    """
    path = home / "config.json"
    if not path.exists():
        return NodeConfig()
    try:
        return msgspec.json.decode(path.read_bytes(), type=NodeConfig)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise OperatorError(f"{path}: {error}") from None


def make_trust(genesis: Genesis) -> Trust:
    """Return what a verifier must trust to judge proofs of this network."""
    return Trust((trust_network(genesis),))


def make_readable_trust(genesis: Genesis) -> dict[str, Any]:
    """Return the trust file's content, for ``hansa verify --trust``."""
    network = {
        "name": genesis.name,
        "is_sandbox": genesis.is_sandbox,
        "chains": [chain.name for chain in genesis.chains],
        **describe_trust(trust_network(genesis)),
    }
    return {"networks": [network]}


def describe_trust(trusted: TrustedNetwork) -> dict[str, Any]:
    """Return what is trusted of one network, as the trust file has it."""
    return {
        "network": trusted.network.hex(),
        "validators": [key.hex() for key in trusted.validators],
        "consensus": to_readable(trusted.consensus),
    }
