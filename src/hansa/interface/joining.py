"""How a node comes into a network that runs: as one that follows, until the members let it vote.

What the network is comes from its genesis, and whether that is the right one from a trust file.
With state sync CometBFT begins at a header that is judged here first, by the trust file.
"""

import socket
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

from msgspec.structs import replace

from hansa.core.errors import Malformed, OperatorError
from hansa.core.finality import MAX_DRIFT_MS, TrustedNetwork
from hansa.core.genesis import Genesis, compute_network_id, consensus_chain_id, decode_genesis
from hansa.core.keystore import KeyStore
from hansa.core.lightblock import LightBlock, header_hash, light_block_from_rpc
from hansa.core.lightclient import LightClientError, TrustedConsensus, bisect
from hansa.core.proof import Trust
from hansa.interface.ceremony import NotAgreed, make_settings, write_node_home
from hansa.network.comet.config import StateSync
from hansa.network.comet.rpc import RpcClient, RpcTrouble, split_address
from hansa.node.home import CometConfig

NODE_ID_DIGITS: Final = 40
REACH_TIMEOUT_S: Final = 3.0
JOINED_PATIENCE_MS: Final = 60_000
"""How long packets are left to the relays of the founders."""


class Checkpoint(NamedTuple):
    """A header that is believed, from which a node may begin."""

    height: int
    hash: bytes


def read_genesis(path: Path) -> Genesis:
    """Read a genesis. Raises: OperatorError for a file that is none, or of the solo engine."""
    try:
        genesis = decode_genesis(path.read_bytes())
    except Malformed as error:
        raise OperatorError(f"{path}: expected a genesis, got other bytes ({error.text})") from None
    if not genesis.consensus:
        raise OperatorError(f"{path}: expected a network on CometBFT, got one of one node")
    return genesis


def find_trusted(genesis: Genesis, trust: Trust) -> TrustedNetwork:
    """Return what is trusted of a genesis's network. Raises: NotAgreed if nothing is."""
    network = compute_network_id(genesis)
    for one in trust.networks:
        if one.network == network:
            return one
    known = ", ".join(one.network.hex() for one in trust.networks) or "none"
    raise NotAgreed(f"genesis: expected a network of the trust file ({known}), got {network.hex()}")


def check_peers(peers: Sequence[str]) -> None:
    """Look whether anybody is there to follow.

    Raises: OperatorError for one that is not ``ID@HOST:PORT``, and if none of them answers.
    """
    if not peers:
        raise OperatorError("peers: expected at least one ID@HOST:PORT, got none")
    failures = [failure for peer in peers if (failure := _try_peer(peer))]
    if len(failures) == len(peers):
        raise OperatorError(f"peers: expected one that can be reached, got {'; '.join(failures)}")


def _try_peer(peer: str) -> str:
    node_id, _, address = peer.partition("@")
    try:
        host, port = split_address(address)
        is_id = len(bytes.fromhex(node_id)) * 2 == NODE_ID_DIGITS
    except ValueError:
        is_id = False
    if not is_id:
        raise OperatorError(
            f"peer: expected {NODE_ID_DIGITS} hexadecimal digits, @ and HOST:PORT, got {peer!r}"
        )
    try:
        socket.create_connection((host, port), REACH_TIMEOUT_S).close()
    except OSError as error:
        return f"{address} ({error.strerror or error})"
    return ""


def join(
    home: Path, genesis: Genesis, trusted: TrustedNetwork, keys: KeyStore, passphrase: str, *,
    name: str, peers: Sequence[str], listen: str, rpc_address: str,
    state_sync: Sequence[str] = (), now_ms: int,
) -> Checkpoint | None:  # fmt: skip
    """Make a home for a node that follows; returns where it begins, None for block 0.

    ``state_sync`` are at least two ``HOST:PORT`` of the RPC of others: their snapshots save
    replaying all blocks. Raises: as :func:`check_peers` and :func:`find_checkpoint`; OperatorError
    if the home has a network already.
    """
    check_peers(peers)
    settings = make_settings(name, keys, listen, rpc_address, peers)
    checkpoint = None
    sync = None
    if state_sync:
        assert trusted.consensus is not None, "the genesis has validators"
        checkpoint = find_checkpoint(genesis, trusted.consensus, state_sync, now_ms)
        sync = StateSync(
            rpc_servers=tuple(state_sync),
            trust_height=checkpoint.height,
            trust_hash=checkpoint.hash,
            trust_period_ms=trusted.consensus.trusting_period_ms,
        )
    comet = CometConfig(
        settings=replace(settings, state_sync=sync), relay_patience_ms=JOINED_PATIENCE_MS
    )
    write_node_home(home, genesis, keys, passphrase, comet)
    return checkpoint


def find_checkpoint(
    genesis: Genesis, consensus: TrustedConsensus, servers: Sequence[str], now_ms: int
) -> Checkpoint:
    """Return a recent header that follows from what is trusted, and that all servers have.

    A server may lie: what the first says is judged by the validators' signatures, and the others
    are its witnesses.

    Raises: OperatorError for fewer than two servers and for one that doesn't answer, NotAgreed for
    headers that don't follow from the trust and for servers that disagree.
    """
    if len(servers) < 2:
        raise OperatorError(f"state sync: expected two RPC servers or more, got {len(servers)}")
    chain_id = consensus_chain_id(compute_network_id(genesis))
    try:
        with ExitStack() as stack:
            first, *others = [
                stack.enter_context(RpcClient(server, timeout_s=REACH_TIMEOUT_S))
                for server in servers
            ]
            target = max(consensus.height, 1, _read_earliest(first))
            found = _believe(consensus, target, first, chain_id, now_ms)
            for other in others:
                _compare(found, _fetch(other, found.height), first.address, other.address)
    except RpcTrouble as trouble:
        raise OperatorError(f"state sync: expected every server to answer, got {trouble}") from None
    except ValueError as error:
        raise OperatorError(f"state sync: {error}") from None
    return found


def _believe(
    consensus: TrustedConsensus, target: int, server: RpcClient, chain_id: str, now_ms: int
) -> Checkpoint:
    if target == consensus.height:
        return Checkpoint(consensus.height, consensus.header_hash)

    def fetch(height: int) -> LightBlock:
        return _fetch(server, height)

    try:
        *_, last = bisect(
            consensus, target, fetch, chain_id, now_ms=now_ms, max_clock_drift_ms=MAX_DRIFT_MS
        )
    except (LightClientError, Malformed) as error:
        raise NotAgreed(
            f"{server.address}: expected a header that follows from the trust file, got {error}"
        ) from None
    return Checkpoint(last.height, header_hash(last.header))


def _read_earliest(server: RpcClient) -> int:
    """Return the lowest block that a server still has."""
    answer = server.status()
    return int(answer.get("sync_info", {}).get("earliest_block_height", 1))


def _fetch(server: RpcClient, height: int) -> LightBlock:
    return light_block_from_rpc(
        server.commit(height), server.validators(height), server.validators(height + 1)
    )


def _compare(found: Checkpoint, block: LightBlock, first: str, other: str) -> None:
    given = header_hash(block.header)
    if given != found.hash:
        raise NotAgreed(
            f"state sync: expected {other} to have header {found.hash.hex()} at height"
            f" {found.height} as {first} has, got {given.hex()}"
        )
