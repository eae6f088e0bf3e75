"""A way to a network that leads through another node when the one in use fails.

What was sent to a node that died may have been taken: the same bytes sent to the next one are
answered with the receipt if they were, and are taken if they weren't.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from hansa.interface.client import HttpTransport, Problem, Unreachable
from hansa.interface.client.outcomes import Submitted
from hansa.interface.client.transports import Ask, SubmitBatch

T = TypeVar("T")

TIMEOUT_S: Final = 15.0
"""For an answer; a node whose engine stands still gives none."""
REST_S: Final = 0.5
"""Before the next node is asked: it may be a block behind the one that died."""
MAX_TURNS: Final = 2
"""How often every node is tried."""
UNAVAILABLE: Final = 503


class FailoverTransport:
    """Speaks to one node of several, and to the next one when that doesn't answer."""

    def __init__(self, urls: Sequence[str], timeout_s: float = TIMEOUT_S) -> None:
        self._ways = [HttpTransport(url, timeout_s=timeout_s) for url in urls]
        self._current = 0
        self.changes = 0
        """How often another node was chosen."""

    @property
    def url(self) -> str:
        """Of the node in use."""
        return self._ways[self._current].url

    def ask(self, ask: Ask) -> Any:
        """Return an answer. Raises: Problem, Unreachable if no node answers."""
        return self._try(lambda way: way.ask(ask))

    def submit(self, batch: SubmitBatch) -> Submitted:
        """Hand in transactions and wait for their receipts. Raises: as :meth:`ask`."""
        return self._try(lambda way: way.submit(batch))

    def _try(self, say: Callable[[HttpTransport], T]) -> T:
        for _ in range(MAX_TURNS * len(self._ways) - 1):
            try:
                return say(self._ways[self._current])
            except Unreachable:
                pass
            except Problem as problem:
                if problem.status != UNAVAILABLE:
                    raise
            self._turn()
        return say(self._ways[self._current])

    def _turn(self) -> None:
        self._current = (self._current + 1) % len(self._ways)
        self.changes += 1
        time.sleep(REST_S)

    def close(self) -> None:
        """Close the connections."""
        for way in self._ways:
            way.close()
