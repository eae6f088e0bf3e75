"""What comes of asking a node: outcomes that were verified, and the ways in which it says no."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hansa.core.block import Receipt
from hansa.core.module import compute_object_id


@dataclass(frozen=True, slots=True)
class Outcome:
    """A durable receipt and where it stands."""

    chain: str
    height: int
    leaf: int
    """Index of the entry in the chain's log."""
    digest: bytes
    """Of the envelope."""
    receipt: Receipt
    is_verified: bool
    """Whether it was shown to be in the log of a checkpoint that the trusted validators signed."""
    decode_event: Callable[[bytes], Any] = field(repr=False, compare=False)

    @property
    def events(self) -> tuple[Any, ...]:
        """Return what came of the messages, typed."""
        return tuple(self.decode_event(event) for event in self.receipt.events)

    def object_id(self, message_index: int = 0, ordinal: int = 0) -> bytes:
        """Return the id of an object that a message of this transaction made."""
        return compute_object_id(self.chain, self.digest, message_index, ordinal)


class Problem(Exception):
    """The node did not do what it was asked; the number names the error."""

    def __init__(
        self, *, status: int, title: str, detail: str, number: int | None = None,
        values: Mapping[str, str] | None = None, retry_after_s: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__(detail or title)
        self.status = status
        self.title = title
        self.detail = detail
        self.number = number
        self.values = dict(values or {})
        self.retry_after_s = retry_after_s


class RuleRefused(Exception):
    """A rule said no: the receipt is in the log, the nonce is spent, nothing else changed."""

    def __init__(self, outcome: Outcome) -> None:
        fault = outcome.receipt.error
        assert fault is not None
        super().__init__(f"{fault.number}: {fault.text}")
        self.number = fault.number
        self.text = fault.text
        self.outcome = outcome


@dataclass(frozen=True, slots=True)
class Included:
    """A receipt as the node states it; not believed yet."""

    height: int
    leaf: int
    digest: bytes
    receipt: Receipt | bytes
    """Bytes where they came over a wire; decoded only once they are believed."""
    path: Sequence[bytes] | None
    """Inclusion path to the log root of the answer's header; None where it wasn't asked for."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """A node's answer to a batch: a header, and what became of each envelope under it."""

    header: bytes
    finality: bytes
    items: Sequence[Included | Problem]
