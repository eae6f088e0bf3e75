"""What was decoded and verified, remembered until it stands in a block.

A transaction is met three times on a node: when a peer hands it on, when it is proposed, and when
it is executed. Its signatures are verified once.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Final

from hansa.core.errors import Refused
from hansa.core.ledger import Ledger, Submission
from hansa.core.transaction import Transaction
from hansa.network.comet.bundle import Item
from hansa.network.intake import Claim

MAX_JUDGED: Final = 60_000
MAX_JUDGED_BYTES: Final = 64 * 1024 * 1024
"""Of envelopes. Oldest first out; what was forgotten is judged again."""


class Judged:
    """A memory of verdicts. Any thread may ask."""

    def __init__(self, ledger: Ledger, verify: Callable[[Sequence[Claim]], list[bool]]) -> None:
        self._ledger = ledger
        self._verify = verify
        self._verdicts: dict[Item, Submission] = {}
        self._bytes = 0
        self._lock = threading.Lock()
        self.known = 0
        """Verdicts that were remembered when they were asked for."""
        self.judged = 0
        """Verdicts that had to be made."""

    def remember(self, item: Item, submission: Submission) -> None:
        """Keep a verdict that was made elsewhere."""
        with self._lock:
            if item not in self._verdicts:
                self._verdicts[item] = submission
                self._bytes += len(item.envelope)
            while len(self._verdicts) > MAX_JUDGED or self._bytes > MAX_JUDGED_BYTES:
                oldest = next(iter(self._verdicts))
                self._drop(oldest)

    def decode(self, item: Item) -> Transaction | None:
        """Return a transaction without judging its signatures; None if it can't be decoded."""
        known = self._verdicts.get(item)
        return self._decode(item) if known is None else known[0]

    def judge(
        self, items: Sequence[Item], decoded: Sequence[Transaction] | None = None
    ) -> list[Submission | None]:
        """Return each transaction with the verdict on its signatures; None if it can't be decoded.

        Order is kept. ``decoded`` are the transactions of all items, where they are known.
        """
        found = [self._verdicts.get(item) for item in items]
        fresh: list[tuple[int, Transaction]] = []
        for index, item in enumerate(items):
            if found[index] is not None:
                continue
            transaction = decoded[index] if decoded else self._decode(item)
            if transaction is not None:
                fresh.append((index, transaction))
        self.known += len(items) - found.count(None)
        self.judged += len(fresh)
        verdicts = self._verify([claim for _, one in fresh for claim in one.claims])
        start = 0
        for index, transaction in fresh:
            end = start + len(transaction.claims)
            submission = (transaction, all(verdicts[start:end]))
            start = end
            found[index] = submission
            self.remember(items[index], submission)
        return found

    def forget(self, items: Sequence[Item]) -> None:
        """Drop what stands in a block."""
        with self._lock:
            for item in items:
                if item in self._verdicts:
                    self._drop(item)

    def _drop(self, item: Item) -> None:
        del self._verdicts[item]
        self._bytes -= len(item.envelope)

    def _decode(self, item: Item) -> Transaction | None:
        chain = self._ledger.chains.get(item.chain)
        if chain is None:
            return None
        try:
            return chain.decode_transaction(item.envelope)
        except Refused:
            return None
