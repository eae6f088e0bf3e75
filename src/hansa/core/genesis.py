"""The genesis: what a network is, before anything happened in it."""

from collections.abc import Callable
from typing import Annotated, Final, Literal

from msgspec import Meta

from hansa.core.codec import U8, U32, ChainName, Name, Value, encode, make_decoder
from hansa.core.hashing import Digest, digester
from hansa.core.keys import PublicKey
from hansa.core.validatorset import MAX_VALIDATORS, Validator

MAX_CHAINS: Final = 64
MAX_MODULES: Final = 64

StartMs = Annotated[int, Meta(ge=0, le=1 << 62)]
"""Time of block 0: far enough from the end of 63 bits for every deadline counted from it."""


class ModuleGenesis(Value):
    """A module of a chain, the version it starts with, and its parameters."""

    number: U8
    version: U8
    params: Annotated[bytes, Meta(max_length=1 << 20)]
    """Encoded parameters of that version; empty where it takes none."""


class ChainGenesis(Value):
    """A chain: its name and its rules."""

    name: ChainName
    modules: Annotated[tuple[ModuleGenesis, ...], Meta(min_length=1, max_length=MAX_MODULES)]


class Genesis(Value):
    """The first bytes of a network; its id is their digest, whatever engine runs it."""

    version: Literal[1]
    name: Name
    """For people."""
    consortium: Digest
    """The same in every network of the consortium; account ids derive from it."""
    is_sandbox: bool
    """True where one key store plays every party; shown everywhere."""
    time_ms: StartMs
    chains: Annotated[tuple[ChainGenesis, ...], Meta(min_length=1, max_length=MAX_CHAINS)]
    validators: Annotated[tuple[PublicKey, ...], Meta(min_length=1, max_length=100)]
    """Ed25519 keys that sign checkpoints; the solo engine has one."""
    consensus: Annotated[tuple[Validator, ...], Meta(max_length=MAX_VALIDATORS)]
    """Keys that vote on blocks at first, and their power; none for the solo engine."""
    max_block_transactions: Annotated[int, Meta(ge=1, le=0xFFFF)]
    state_root_interval: Annotated[int, Meta(ge=1, le=0xFFFF_FFFF)]
    """S: after each block whose height is a multiple of S the state is rooted."""
    state_root_delay: U32
    """K < S: the root enters the first header K or more blocks later."""


network_id_of_bytes = digester("genesis")
decode_genesis: Callable[[bytes], Genesis] = make_decoder(Genesis, "genesis")


def compute_network_id(genesis: Genesis) -> bytes:
    """Return the network's id: the 33-byte digest of its genesis."""
    return network_id_of_bytes(encode(genesis))


def checkpoint_origin(network: bytes, chain: str) -> str:
    """Return the origin line of a chain's checkpoints, which is its verifier key's name too."""
    return f"hansa/{network.hex()[2:18]}/{chain}"


def consensus_chain_id(network: bytes) -> str:
    """Return what CometBFT calls a network: at most 50 characters."""
    return f"hansa-{network.hex()[2:18]}"
