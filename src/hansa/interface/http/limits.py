"""What one caller may take: requests a second, bytes a body, and a memory of idempotency keys."""

import time
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Any, Final

import msgspec
from msgspec import Struct

from hansa.core.errors import OperatorError
from hansa.interface.http.problems import IdempotencyKeyReused, RateExceeded, RequestInProgress

MAX_ADDRESSES: Final = 10_000
"""Addresses whose use is remembered; the one longest silent is forgotten first."""

MAX_BATCH: Final = 2_000
"""Envelopes in one request."""


class HttpLimits(Struct, frozen=True, forbid_unknown_fields=True):
    """``http`` in ``HOME/config.json``."""

    max_body_bytes: int = 16 * 1024 * 1024
    requests_per_s: int = 500
    """From one address, on average."""
    burst: int = 2_000
    """From one address, at once."""
    kept_answers: int = 10_000
    """Idempotency keys remembered, the newest."""
    feed_queue: int = 1_000
    """Events that may wait for one reader of the feed before it is cut off."""
    feed_clients: int = 200
    feed_heartbeat_s: float = 15.0
    account: str = "node"
    """Name of the key that signs for tokens that name none: the node's own organisation."""
    stop_timeout_s: int = 10
    """How long requests may take to end once the node is told to stop."""


def read_limits(values: dict[str, Any]) -> HttpLimits:
    """Return the limits that a configuration states.

    Raises: OperatorError for an unknown name or a value of another type.
    """
    try:
        return msgspec.convert(values, HttpLimits)
    except msgspec.ValidationError as error:
        raise OperatorError(f"config.json, http: {error}") from None


class RateLimiter:
    """A token bucket for each address."""

    def __init__(self, per_s: int, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._burst = burst
        self._clock = clock
        self._lock = Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, address: str) -> None:
        """Count one request.

        Raises: RateExceeded.
        """
        now = self._clock()
        with self._lock:
            level, at = self._buckets.pop(address, (float(self._burst), now))
            level = min(float(self._burst), level + (now - at) * self._per_s)
            is_within = level >= 1
            self._buckets[address] = (level - 1 if is_within else level, now)
            if len(self._buckets) > MAX_ADDRESSES:
                self._buckets.popitem(last=False)
        if not is_within:
            wait_s = max(1, round((1 - level) / self._per_s + 0.5))
            raise RateExceeded(limit=self._per_s, address=address, retry_after_s=wait_s)


class StoredAnswer(Struct, frozen=True):
    """An answer as it was sent."""

    status: int
    media_type: str
    content: bytes


class IdempotencyKeys:
    """Answers by key, for callers that lost theirs; the newest are kept, in memory.

    After a restart the transaction itself is what is idempotent: the same envelope gets its stored
    receipt. A gateway's caller whose node restarted asks before he repeats.
    """

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._lock = Lock()
        self._answers: OrderedDict[str, tuple[bytes, StoredAnswer | None]] = OrderedDict()

    def begin(self, key: str, fingerprint: bytes) -> StoredAnswer | None:
        """Return the answer given before, or None when the request is to be carried out now.

        Raises: IdempotencyKeyReused if the key came with another request, RequestInProgress if the
        first is not answered yet.
        """
        with self._lock:
            found = self._answers.get(key)
            if found is None:
                self._answers[key] = (fingerprint, None)
                while len(self._answers) > self._kept:
                    self._answers.popitem(last=False)
                return None
        known, answer = found
        if known != fingerprint:
            raise IdempotencyKeyReused(given=key.rpartition("\n")[2])
        if answer is None:
            raise RequestInProgress(given=key.rpartition("\n")[2])
        return answer

    def finish(self, key: str, fingerprint: bytes, answer: StoredAnswer | None) -> None:
        """Keep an answer; None forgets the key, so that the request may be tried again."""
        with self._lock:
            if answer is None:
                self._answers.pop(key, None)
            elif key in self._answers:
                self._answers[key] = (fingerprint, answer)
