"""CometBFT's home folder: its settings, genesis and keys, as 0.38.25 to 0.40 read them.

Only what these versions share is written; for the rest each takes its own default.
"""

import json
import os
from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from msgspec import Struct
from nacl.signing import SigningKey

from hansa.core.errors import OperatorError
from hansa.core.validatorset import Validator

Setting = str | int | bool | list[str]

MAX_CHAIN_ID: Final = 50
"""CometBFT's MaxChainIDLen."""
MAX_BLOCK_BYTES: Final = 100 * 1024 * 1024
"""CometBFT's MaxBlockSizeBytes."""
MAX_SOCKET_PATH: Final = 107
"""unix(7): sun_path, less the zero at its end."""
EVIDENCE_BYTES: Final = 1_048_576
HOUR_MS: Final = 3_600_000


class StateSync(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a new node takes its state from, and by which header it judges it."""

    rpc_servers: tuple[str, ...]
    """At least two ``HOST:PORT``: one supplies headers, the others witness them."""
    trust_height: int
    trust_hash: bytes
    """Of the header at that height, from a source that is trusted."""
    trust_period_ms: int
    discovery_ms: int = 5_000
    """How long to look for snapshots before one is chosen; CometBFT asks for 5 s at least."""
    chunk_request_timeout_ms: int = 10_000
    chunk_fetchers: int = 4


class CometSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What ``config.toml`` says; times in milliseconds, sizes in bytes."""

    moniker: str
    proxy_app: str
    """Path of the application's unix socket, from the root or from CometBFT's home, or the name of
    an application built into CometBFT."""
    p2p_address: str
    """``HOST:PORT`` to listen on."""
    rpc_address: str
    external_address: str = ""
    """``HOST:PORT`` under which others reach us, where it isn't the one we listen on."""
    persistent_peers: tuple[str, ...] = ()
    """``ID@HOST:PORT``; for the id see :func:`compute_node_id`."""
    private_peer_ids: tuple[str, ...] = ()
    """Never told to others: a sentry names its validator here."""
    unconditional_peer_ids: tuple[str, ...] = ()
    pex: bool = False
    """Whether to exchange addresses: the members of a consortium know each other's."""
    addr_book_strict: bool = False
    """Whether to refuse addresses that aren't routable, as those of loopback."""
    allow_duplicate_ip: bool = True
    max_inbound_peers: int = 40
    max_outbound_peers: int = 10
    max_peer_dial_ms: int = 2_000
    """Longest pause before a persistent peer is dialled again; 0 lets it grow to hours."""
    flush_throttle_ms: int = 10
    send_rate: int = 50_000_000
    """Bytes a second and peer."""
    recv_rate: int = 50_000_000

    create_empty_blocks: bool = False
    create_empty_blocks_interval_ms: int = 0
    """With no empty blocks otherwise: how long until there is one all the same; 0 is never."""
    timeout_propose_ms: int = 3_000
    timeout_propose_delta_ms: int = 500
    timeout_prevote_ms: int = 1_000
    timeout_prevote_delta_ms: int = 500
    timeout_precommit_ms: int = 1_000
    timeout_precommit_delta_ms: int = 500
    timeout_commit_ms: int = 500
    """How long to wait for more precommits once a block is decided: the pace of blocks."""
    skip_timeout_commit: bool = False
    peer_gossip_sleep_ms: int = 20
    double_sign_check_height: int = 0
    """How many blocks back a start looks for votes of our own key, and stops if there are any."""

    mempool_recheck: bool = True
    """Whether each waiting transaction is checked again after each block. Without it, what has
    become useless stays: nobody proposes it, nothing removes it."""
    mempool_broadcast: bool = True
    mempool_size: int = 5_000
    mempool_max_txs_bytes: int = 256 * 1024 * 1024
    mempool_max_tx_bytes: int = 262_144
    """As bundles have; what is larger is refused before it is sent to the application."""
    mempool_cache_size: int = 20_000
    """Hashes of transactions seen; one that has fallen out can be handed in again."""

    rpc_max_request_batch_size: int = 100
    rpc_max_body_bytes: int = 4_194_304
    """A transaction is handed in as hex, which doubles it."""
    rpc_max_open_connections: int = 900

    prometheus_address: str = ""
    """``HOST:PORT`` for CometBFT's own metrics; empty for none."""
    state_sync: StateSync | None = None
    discard_abci_responses: bool = False
    """Without them the RPC's block_results is refused, and much disk saved."""
    priv_validator_address: str = ""
    """``HOST:PORT`` or path of a unix socket where a remote signer connects to us; empty for the
    key in the home."""
    log_level: str = "info"
    """``debug``, ``info``, ``error`` or ``none``, also by module: ``consensus:debug,*:error``."""

    def __post_init__(self) -> None:
        """Raises: OperatorError for settings that CometBFT would refuse or choke on."""
        if len(os.fsencode(self.proxy_app)) > MAX_SOCKET_PATH:
            raise OperatorError(
                f"proxy_app: expected a path of at most {MAX_SOCKET_PATH} bytes, as unix sockets"
                f" have, got {self.proxy_app}; choose a home with a shorter path"
            )
        if self.rpc_max_body_bytes < 2 * self.mempool_max_tx_bytes + 1_000:
            raise OperatorError(
                f"rpc_max_body_bytes: expected over twice mempool_max_tx_bytes"
                f" ({self.mempool_max_tx_bytes}), got {self.rpc_max_body_bytes}"
            )
        sync = self.state_sync
        if sync is not None and len(sync.rpc_servers) < 2:
            raise OperatorError(
                f"state_sync.rpc_servers: expected two or more, got {len(sync.rpc_servers)}"
            )
        if sync is not None and 0 < sync.discovery_ms < 5_000:
            raise OperatorError(
                f"state_sync.discovery_ms: expected 0 or at least 5000, got {sync.discovery_ms}"
            )


class ConsensusLimits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The consensus parameters that a genesis sets."""

    max_block_bytes: int = 4_194_304
    max_evidence_bytes: int = EVIDENCE_BYTES
    """Of a block, and less than it: CometBFT takes it from the room for transactions."""
    evidence_max_age_blocks: int = 100_000
    evidence_max_age_ms: int = 48 * HOUR_MS
    """A vote that is older by both bounds can't be held against its validator any more."""


# Keys and ids.


def compute_address(public: bytes) -> bytes:
    """Return a validator's or a node's address of a raw Ed25519 key: 20 bytes of SHA-256."""
    return sha256(public).digest()[:20]


def compute_node_id(seed: bytes) -> str:
    """Return the id by which peers know the node whose key has this seed."""
    return compute_address(SigningKey(seed).verify_key.encode()).hex()


def _show_public(public: bytes) -> dict[str, str]:
    return {"type": "tendermint/PubKeyEd25519", "value": b64encode(public).decode()}


def _show_private(seed: bytes) -> dict[str, str]:
    private = seed + SigningKey(seed).verify_key.encode()
    return {"type": "tendermint/PrivKeyEd25519", "value": b64encode(private).decode()}


# The documents.


def make_config(settings: CometSettings) -> str:
    """Return the text of ``config.toml``."""
    sections = _make_sections(settings)
    lines = [f"{name} = {_to_toml(value)}" for name, value in sections.pop("").items()]
    for section, values in sections.items():
        lines += ["", f"[{section}]"]
        lines += [f"{name} = {_to_toml(value)}" for name, value in values.items()]
    return "\n".join(lines) + "\n"


def _to_toml(value: Setting) -> str:
    # Strings, numbers, booleans and lists of strings are written alike in TOML and in JSON, but
    # for U+007F, which TOML wants escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _make_sections(settings: CometSettings) -> dict[str, dict[str, Setting]]:
    return {
        "": _make_main(settings),
        "rpc": _make_rpc(settings),
        "p2p": _make_p2p(settings),
        "mempool": _make_mempool(settings),
        "statesync": _make_state_sync(settings.state_sync),
        # Never adaptive: a validator that votes while it catches up can contradict itself.
        "blocksync": {"version": "v0", "adaptive_sync": False},
        "consensus": _make_consensus(settings),
        "storage": {"discard_abci_responses": settings.discard_abci_responses},
        "tx_index": {"indexer": "null"},
        "instrumentation": {
            "prometheus": bool(settings.prometheus_address),
            "prometheus_listen_addr": settings.prometheus_address or "127.0.0.1:26660",
        },
    }


def _make_main(settings: CometSettings) -> dict[str, Setting]:
    app = settings.proxy_app
    signer = settings.priv_validator_address
    return {
        "proxy_app": f"unix://{app}" if "/" in app else app,
        "moniker": settings.moniker,
        "db_backend": "goleveldb",
        "db_dir": "data",
        "log_level": settings.log_level,
        "log_format": "json",
        "genesis_file": "config/genesis.json",
        "priv_validator_key_file": "config/priv_validator_key.json",
        "priv_validator_state_file": "data/priv_validator_state.json",
        "priv_validator_laddr": _to_address(signer) if signer else "",
        "node_key_file": "config/node_key.json",
        "abci": "socket",
        "filter_peers": False,
    }


def _make_rpc(settings: CometSettings) -> dict[str, Setting]:
    return {
        "laddr": _to_address(settings.rpc_address),
        "cors_allowed_origins": [],
        "grpc_laddr": "",
        "unsafe": False,
        "max_open_connections": settings.rpc_max_open_connections,
        "max_request_batch_size": settings.rpc_max_request_batch_size,
        "max_body_bytes": settings.rpc_max_body_bytes,
        "pprof_laddr": "",
    }


def _make_p2p(settings: CometSettings) -> dict[str, Setting]:
    return {
        "laddr": _to_address(settings.p2p_address),
        "external_address": settings.external_address,
        "seeds": "",
        "persistent_peers": ",".join(settings.persistent_peers),
        "private_peer_ids": ",".join(settings.private_peer_ids),
        "unconditional_peer_ids": ",".join(settings.unconditional_peer_ids),
        "addr_book_file": "config/addrbook.json",
        "addr_book_strict": settings.addr_book_strict,
        "allow_duplicate_ip": settings.allow_duplicate_ip,
        "pex": settings.pex,
        "seed_mode": False,
        "max_num_inbound_peers": settings.max_inbound_peers,
        "max_num_outbound_peers": settings.max_outbound_peers,
        "persistent_peers_max_dial_period": _to_duration(settings.max_peer_dial_ms),
        "flush_throttle_timeout": _to_duration(settings.flush_throttle_ms),
        "send_rate": settings.send_rate,
        "recv_rate": settings.recv_rate,
    }


def _make_mempool(settings: CometSettings) -> dict[str, Setting]:
    return {
        "type": "flood",
        "recheck": settings.mempool_recheck,
        "broadcast": settings.mempool_broadcast,
        "wal_dir": "",
        "size": settings.mempool_size,
        "max_txs_bytes": settings.mempool_max_txs_bytes,
        "max_tx_bytes": settings.mempool_max_tx_bytes,
        "cache_size": settings.mempool_cache_size,
        # A bundle that was refused may be right once the block before it is there.
        "keep-invalid-txs-in-cache": False,
    }


def _make_state_sync(sync: StateSync | None) -> dict[str, Setting]:
    if sync is None:
        return {"enable": False}
    return {
        "enable": True,
        "rpc_servers": ",".join(sync.rpc_servers),
        "trust_height": sync.trust_height,
        "trust_hash": sync.trust_hash.hex(),
        "trust_period": _to_duration(sync.trust_period_ms),
        "discovery_time": _to_duration(sync.discovery_ms),
        "chunk_request_timeout": _to_duration(sync.chunk_request_timeout_ms),
        "chunk_fetchers": sync.chunk_fetchers,
    }


def _make_consensus(settings: CometSettings) -> dict[str, Setting]:
    durations = {
        "timeout_propose": settings.timeout_propose_ms,
        "timeout_propose_delta": settings.timeout_propose_delta_ms,
        "timeout_prevote": settings.timeout_prevote_ms,
        "timeout_prevote_delta": settings.timeout_prevote_delta_ms,
        "timeout_precommit": settings.timeout_precommit_ms,
        "timeout_precommit_delta": settings.timeout_precommit_delta_ms,
        "timeout_commit": settings.timeout_commit_ms,
        "create_empty_blocks_interval": settings.create_empty_blocks_interval_ms,
        "peer_gossip_sleep_duration": settings.peer_gossip_sleep_ms,
    }
    return {
        "wal_file": "data/cs.wal/wal",
        **{name: _to_duration(value) for name, value in durations.items()},
        "double_sign_check_height": settings.double_sign_check_height,
        "skip_timeout_commit": settings.skip_timeout_commit,
        "create_empty_blocks": settings.create_empty_blocks,
    }


def _to_duration(milliseconds: int) -> str:
    return f"{milliseconds}ms"


def _to_address(address: str) -> str:
    return f"unix://{address}" if "/" in address else f"tcp://{address}"


def make_genesis_document(
    chain_id: str,
    time_ms: int,
    validators: Sequence[Validator],
    limits: ConsensusLimits | None = None,
) -> bytes:
    """Return ``genesis.json``, the same bytes for the same network.

    The app hash is empty: the application gives its own when CometBFT calls InitChain.

    Raises: OperatorError for what CometBFT would refuse.
    """
    limits = limits or ConsensusLimits()
    _check_genesis(chain_id, validators, limits)
    document = {
        "genesis_time": _to_time(time_ms),
        "chain_id": chain_id,
        "initial_height": "1",
        "consensus_params": _make_parameters(limits),
        "validators": [_show_validator(validator) for validator in validators],
        "app_hash": "",
    }
    return (json.dumps(document, indent=2) + "\n").encode()


def _check_genesis(chain_id: str, validators: Sequence[Validator], limits: ConsensusLimits) -> None:
    if not 1 <= len(chain_id.encode()) <= MAX_CHAIN_ID:
        raise OperatorError(f"chain_id: expected 1 to {MAX_CHAIN_ID} bytes, got {chain_id!r}")
    if not validators:
        raise OperatorError("validators: expected at least one, got none")
    if len({validator.key for validator in validators}) != len(validators):
        raise OperatorError("validators: expected each key once, got one twice")
    if not 1 <= limits.max_block_bytes <= MAX_BLOCK_BYTES:
        raise OperatorError(
            f"max_block_bytes: expected 1 to {MAX_BLOCK_BYTES}, got {limits.max_block_bytes}"
        )
    if not 0 <= limits.max_evidence_bytes < limits.max_block_bytes:
        raise OperatorError(
            f"max_evidence_bytes: expected less than max_block_bytes"
            f" ({limits.max_block_bytes}), got {limits.max_evidence_bytes}"
        )
    if min(limits.evidence_max_age_blocks, limits.evidence_max_age_ms) < 1:
        raise OperatorError(
            f"evidence_max_age: expected at least 1 block and 1 ms,"
            f" got {limits.evidence_max_age_blocks} and {limits.evidence_max_age_ms}"
        )


def _to_time(time_ms: int) -> str:
    # By whole numbers: a fraction of a second as a float would be off by some nanoseconds.
    time = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=time_ms)
    return time.strftime("%Y-%m-%dT%H:%M:%S") + f".{time_ms % 1000:03d}Z"


def _make_parameters(limits: ConsensusLimits) -> dict[str, Any]:
    # CometBFT writes numbers of 64 bits as strings, and durations in nanoseconds.
    return {
        "block": {"max_bytes": str(limits.max_block_bytes), "max_gas": "-1"},
        "evidence": {
            "max_age_num_blocks": str(limits.evidence_max_age_blocks),
            "max_age_duration": str(limits.evidence_max_age_ms * 1_000_000),
            "max_bytes": str(limits.max_evidence_bytes),
        },
        "validator": {"pub_key_types": ["ed25519"]},
        "version": {"app": "0"},
        "abci": {"vote_extensions_enable_height": "0"},
    }


def _show_validator(validator: Validator) -> dict[str, Any]:
    public = validator.key[1:]
    return {
        "address": compute_address(public).hex().upper(),
        "pub_key": _show_public(public),
        "power": str(validator.power),
        "name": "",
    }


# The folder.


def write_home(
    home: Path,
    settings: CometSettings,
    genesis: bytes,
    *,
    node_seed: bytes,
    validator_seed: bytes | None = None,
) -> None:
    """Make CometBFT's home, or bring the settings of one up to date.

    Seeds are the 32 bytes of an Ed25519 key. Without ``validator_seed`` the node only follows, or
    signs by a remote signer.

    Raises: OperatorError if the home belongs to another network.
    """
    config, data = home / "config", home / "data"
    for folder in (home, config, data):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    genesis_path = config / "genesis.json"
    if genesis_path.exists() and genesis_path.read_bytes() != genesis:
        raise OperatorError(
            f"{genesis_path}: expected the genesis of this network, got another one;"
            f" remove {home} if it may start from nothing"
        )
    write_config(home, settings)
    _write(config / "node_key.json", _to_json({"priv_key": _show_private(node_seed)}), 0o600)
    if validator_seed is not None:
        write_validator_key(home, validator_seed)
    if not (data / "priv_validator_state.json").exists():
        # What was signed last is never reset: a key that forgets it can sign a second history.
        state = {"height": "0", "round": 0, "step": 0}
        _write(data / "priv_validator_state.json", _to_json(state), 0o600)
    _write(genesis_path, genesis, 0o644)


def write_config(home: Path, settings: CometSettings) -> None:
    """Write the settings into a home; they count from the next start."""
    _write(home / "config" / "config.toml", make_config(settings).encode(), 0o644)


def write_validator_key(home: Path, seed: bytes) -> None:
    """Put a validator key in a home, in place of the one there; it counts from the next start."""
    public = SigningKey(seed).verify_key.encode()
    key: Mapping[str, Any] = {
        "address": compute_address(public).hex().upper(),
        "pub_key": _show_public(public),
        "priv_key": _show_private(seed),
    }
    _write(home / "config" / "priv_validator_key.json", _to_json(key), 0o600)


def _to_json(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, indent=2) + "\n").encode()


def _write(path: Path, data: bytes, mode: int) -> None:
    # Whole or not at all, and never readable by others for a moment.
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
