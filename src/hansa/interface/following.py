"""Following a network on CometBFT from an old trust to now, over several of its nodes.

One node supplies light blocks, the others are witnesses. What the first says is believed by its
votes; that the network has not told two stories is believed because the others say the same.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import httpx
from msgspec.structs import replace

from hansa.core.errors import Malformed, OperatorError
from hansa.core.finality import MAX_DRIFT_MS, TrustedNetwork
from hansa.core.genesis import consensus_chain_id
from hansa.core.lightblock import LightBlock, decode_light_block
from hansa.core.lightclient import (
    Divergence,
    LightClientError,
    TrustedConsensus,
    bisect,
    cross_check,
    detect_divergence,
    follow_all,
)

Fetch = Callable[[int | None], LightBlock]
"""Returns the light block at a height, or the newest. Raises: OperatorError."""

TIMEOUT_S: Final = 10.0


class TwoStories(Exception):
    """Two nodes of one network have shown blocks that were both signed and can't both be true."""

    def __init__(self, witness: str, divergence: Divergence) -> None:
        super().__init__(
            f"{witness}: its block {divergence.height} is another than the first node's, and both "
            f"are signed ({divergence.attack.value}); believe neither, and ask the members"
        )
        self.witness = witness
        self.divergence = divergence


@dataclass(frozen=True)
class Followed:
    """Where following has led."""

    trusted: TrustedNetwork
    height: int
    time_ms: int
    hops: int
    """Light blocks judged on the way."""
    agreeing: tuple[str, ...]
    """Witnesses with the same header."""
    silent: tuple[str, ...]
    """Witnesses that gave none."""


def make_fetch(url: str) -> Fetch:
    """Return how a node's light blocks are got over HTTP."""

    def fetch(height: int | None) -> LightBlock:
        place = "newest" if height is None else str(height)
        try:
            answer = httpx.get(f"{url}/v1/light-blocks/{place}", timeout=TIMEOUT_S)
            answer.raise_for_status()
            return decode_light_block(answer.content)
        except (httpx.HTTPError, httpx.InvalidURL, Malformed) as error:
            raise OperatorError(f"{url}: expected light block {place}, got {error}") from None

    return fetch


def follow_network(
    trusted: TrustedNetwork, primary: Fetch, witnesses: Mapping[str, Fetch], now_ms: int
) -> Followed:
    """Judge the newest block of a network, compare it with its witnesses; returns the new trust.

    Raises: OperatorError for a network without consensus, or if the first node gives nothing, or
    if no witness confirms it; LightClientError if its blocks are not believed; TwoStories.
    """
    if trusted.consensus is None:
        raise OperatorError("trust: expected a network on CometBFT, got one of a single node")
    chain_id = consensus_chain_id(trusted.network)
    target = primary(None)
    if target.height <= trusted.consensus.height:
        return Followed(trusted, trusted.consensus.height, _ms(trusted.consensus), 0, (), ())
    hops = _find_way(trusted.consensus, target.height, primary, chain_id, now_ms)
    reached = follow_all(
        trusted.consensus, hops, chain_id, now_ms=now_ms, max_clock_drift_ms=MAX_DRIFT_MS
    )
    blocks = {name: _try(fetch, target.height) for name, fetch in witnesses.items()}
    check = cross_check(hops[-1], list(blocks.values()))
    names = list(witnesses)
    for index in check.diverging:
        _judge_other(
            trusted.consensus, hops, names[index], witnesses[names[index]], now_ms, chain_id
        )
    agreeing = tuple(names[index] for index in check.agreeing)
    if witnesses and not agreeing:
        raise OperatorError(
            f"witnesses: expected one of {', '.join(names)} to confirm block {target.height}, got "
            "none that has it; ask again, or ask others"
        )
    silent = tuple(names[index] for index in check.silent)
    return Followed(
        replace(trusted, consensus=reached),
        reached.height,
        _ms(reached),
        len(hops),
        agreeing,
        silent,
    )


def _ms(consensus: TrustedConsensus) -> int:
    return consensus.time_ns // 1_000_000


def _find_way(
    trusted: TrustedConsensus, height: int, fetch: Fetch, chain_id: str, now_ms: int
) -> tuple[LightBlock, ...]:
    return bisect(trusted, height, fetch, chain_id, now_ms=now_ms, max_clock_drift_ms=MAX_DRIFT_MS)


def _try(fetch: Fetch, height: int) -> LightBlock | None:
    try:
        return fetch(height)
    except OperatorError:
        return None


def _judge_other(
    trusted: TrustedConsensus, hops: tuple[LightBlock, ...], name: str, fetch: Fetch, now_ms: int,
    chain_id: str,
) -> None:  # fmt: skip
    """Judge a witness that says otherwise: a liar is passed over, a second story ends all.

    Raises: TwoStories.
    """
    try:
        other = _find_way(trusted, hops[-1].height, fetch, chain_id, now_ms)
        divergence = detect_divergence(
            hops, other, trusted, chain_id, now_ms=now_ms, max_clock_drift_ms=MAX_DRIFT_MS
        )
    except (LightClientError, OperatorError):
        return  # What it says isn't signed by who is trusted.
    raise TwoStories(name, divergence)
