"""How many transactions a second larger networks could hold: a model, from parts measured here.

It takes the least of four bounds. Cores: what each node spends on a transaction (verified, judged,
executed, projected, and carried by the engine) against the cores it has. Interpreter: what of that
runs in one Python process, which has one core's worth. Network: the bytes each node sends, for the
engine floods. Pace: a block holds so many at most, and takes its timeout and its round trips.

Assumed: every node has a machine of its own and the load is spread over all gateways; each link
carries a transaction as often as here; beyond ``MESH`` validators a node has ``MESH`` peers, so
that votes take two hops; a vote costs its verification; nothing is lost on the way.
"""

from dataclasses import asdict, dataclass
from typing import Any, Final

USED: Final = 0.85
"""Share of a core that can be had before queues grow."""
MESH: Final = 40
"""Validators up to which everybody is a peer of everybody; CometBFT's own bound on peers."""
FEW_PEERS: Final = 20
"""Peers of each node in a larger network."""
VOTE_US: Final = 80
"""To verify and note a vote; each is Ed25519."""
VOTE_BYTES: Final = 250
BLOCK_TRANSACTIONS: Final = 4_000
"""As the genesis of a sandbox says."""
ROUNDS: Final = 3
"""Of messages for a block: proposal, prevotes, precommits."""

CONTINENTS_MS: Final = 110
"""One way between the two farthest of three continents: over two thirds of the votes need all
three."""

PUBLISHED_NODES: Final = 200
PUBLISHED_TX_S: Final = 400
PUBLISHED_BYTES: Final = 1_024
"""CometBFT's own quality report for 0.38 and 1.0: where 200 nodes saturate, with transactions of
one KiB (docs/references/qa of its source)."""


@dataclass(frozen=True)
class Parts:
    """What was measured with so many validators on one machine."""

    validators: int
    node_us: float
    """Of a transaction at each node, in the Python process."""
    verify_us: float
    engine_us: float
    """In CometBFT, with all of its peers."""
    driver_us: float
    """At the client, once for each transaction."""
    sent_bytes: float
    """Sent by each node to all of its peers, for a transaction."""
    bytes_each: float
    """Of a transaction."""


@dataclass(frozen=True)
class Place:
    """Where a network is to run."""

    validators: int
    cores: float
    """Of each node."""
    delay_ms: float
    """One way between the farthest."""
    bandwidth: float
    """Bytes a second that a node can send."""
    block_pause_ms: float


@dataclass(frozen=True)
class Forecast:
    """What the model says of a place: transactions a second by each bound, and the times."""

    validators: int
    tx_s: int
    bound: str
    cores_tx_s: int
    interpreter_tx_s: int
    network_tx_s: int
    pace_tx_s: int
    block_ms: int
    latency_ms: int
    """From the offer to a receipt with its proof: half a block of waiting, and two blocks."""


def count_peers(validators: int) -> int:
    """Return the peers of each node."""
    return validators - 1 if validators <= MESH else FEW_PEERS


def engine_us(parts: Parts, validators: int) -> float:
    """Return what CometBFT spends on a transaction: as much for each peer as was measured."""
    return parts.engine_us * count_peers(validators) / count_peers(parts.validators)


def forecast(parts: Parts, place: Place) -> Forecast:
    """Return what a network of machines could hold."""
    peers = count_peers(place.validators)
    hops = 1 if place.validators <= MESH else 2
    round_ms = hops * place.delay_ms
    votes_ms = 2 * place.validators * VOTE_US / 1_000
    block_ms = place.block_pause_ms + ROUNDS * round_ms + votes_ms
    each_us = parts.node_us + parts.verify_us + engine_us(parts, place.validators)
    votes_share = votes_ms / block_ms
    votes_bytes = 2 * place.validators * VOTE_BYTES * peers * 1_000 / block_ms
    sent = parts.sent_bytes * peers / count_peers(parts.validators)
    bounds = {
        "cores": USED * (place.cores - votes_share) * 1e6 / each_us,
        "interpreter": USED * 1e6 / parts.node_us,
        "network": max(0.0, USED * place.bandwidth - votes_bytes) / sent,
    }
    # A block is executed before the next is proposed.
    bounds["pace"] = BLOCK_TRANSACTIONS / (
        block_ms / 1e3 + BLOCK_TRANSACTIONS * parts.node_us / 1e6
    )
    bound = min(bounds, key=lambda name: bounds[name])
    rate = bounds[bound]
    # At this rate a block executes what came while the one before was agreed on.
    full_ms = block_ms / max(0.05, 1 - min(0.95, rate * parts.node_us / 1e6))
    return Forecast(
        validators=place.validators,
        tx_s=round(rate),
        bound=bound,
        cores_tx_s=round(bounds["cores"]),
        interpreter_tx_s=round(bounds["interpreter"]),
        network_tx_s=round(bounds["network"]),
        pace_tx_s=round(bounds["pace"]),
        block_ms=round(full_ms),
        latency_ms=round(2.5 * full_ms),
    )


def forecast_here(parts: Parts, validators: int, cores: float) -> int:
    """Return the transactions a second of so many nodes that share the cores of one machine."""
    each_us = parts.node_us + parts.verify_us + engine_us(parts, validators)
    return round(cores * 1e6 / (validators * each_us + parts.driver_us))


def published_bound(parts: Parts) -> int:
    """Return our transactions in the bytes a second that the engine's authors measured."""
    return round(PUBLISHED_TX_S * PUBLISHED_BYTES / parts.bytes_each)


def make_model(parts: Parts, block_pause_ms: float) -> dict[str, Any]:
    """Return the forecasts for three continents, with what they rest on."""
    places = [
        Place(
            validators=validators,
            cores=8,
            delay_ms=CONTINENTS_MS,
            bandwidth=125e6,
            block_pause_ms=block_pause_ms,
        )
        for validators in (4, 20, 100)
    ]
    return {
        "measured": {name: _shorten(value) for name, value in asdict(parts).items()},
        "assumed": " ".join((__doc__ or "").split("Assumed: ")[1].split()),
        "machines": "8 cores and 1 Gbit/s a node, three continents,"
        f" {CONTINENTS_MS} ms one way between the farthest",
        "forecasts": [asdict(forecast(parts, place)) for place in places],
        "published_by_the_engine": f"{PUBLISHED_TX_S} tx/s of {PUBLISHED_BYTES} bytes on"
        f" {PUBLISHED_NODES} nodes: {published_bound(parts)} of ours in as many bytes, which the"
        " forecasts for large networks should be held against: flooding alone is no bound in them",
    }


def _shorten(value: float) -> float:
    return round(value, 1)
