"""The client for programs that wait."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from hansa.core.genesis import Genesis
from hansa.core.keystore import KeyStore
from hansa.core.proof import Trust
from hansa.core.transaction import Message
from hansa.interface.client.believing import SeenCheckpoints
from hansa.interface.client.conversation import (
    Conversation,
    Lanes,
    Row,
    Steps,
    Verify,
    system_clock,
)
from hansa.interface.client.outcomes import Outcome, Problem
from hansa.interface.client.transports import Ask, Pause, SubmitBatch, Transport

T = TypeVar("T")


class Client:
    """Sends transactions and asks questions. Safe to use from several threads.

    ``trust`` is what the user was given beforehand; with None the network is taken as the node
    states it, once, and pinned from then on. ``lanes`` are those that ``send`` may choose from: as
    many transactions of one signer can be under way.
    """

    def __init__(
        self, transport: Transport, keys: KeyStore, trust: Trust | None = None, *,
        seen: SeenCheckpoints | None = None, lanes: Sequence[int] = (0,),
        clock: Callable[[], int] = system_clock,
    ) -> None:  # fmt: skip
        self.transport = transport
        self.keys = keys
        self._talk = Conversation(keys, trust, seen or SeenCheckpoints(), clock)
        self._lanes = Lanes(lanes)
        self._lane_freed = threading.Condition()

    def _run(self, steps: Steps[T]) -> T:
        try:
            question = next(steps)
            while True:
                try:
                    answer = self._ask(question)
                except Exception as error:  # noqa: BLE001 - handed to who asked
                    question = steps.throw(error)
                else:
                    question = steps.send(answer)
        except StopIteration as done:
            result: T = done.value
            return result

    def _ask(self, question: Ask | SubmitBatch | Pause) -> Any:
        if isinstance(question, SubmitBatch):
            return self.transport.submit(question)
        if isinstance(question, Pause):
            return time.sleep(question.seconds)
        return self.transport.ask(question)

    # Transactions.

    def send(
        self, chain: str, messages: Sequence[Message], signers: Sequence[str], *,
        lane: int | None = None,
    ) -> Outcome:  # fmt: skip
        """Sign with keys of the key store, hand in, return the believed receipt.

        The first signer's nonce is spent. Raises: RuleRefused where a rule says no (the receipt is
        in the log), Problem where nothing came of it, Unbelievable, Unreachable, OperatorError.
        """
        with self._lane(chain, signers[0] if signers else "", lane) as taken:
            return self._run(self._talk.send(chain, messages, signers, taken))

    @contextmanager
    def _lane(self, chain: str, signer: str, lane: int | None) -> Iterator[int]:
        with self._lane_freed:
            while (taken := self._lanes.take(chain, signer, lane)) is None:
                self._lane_freed.wait()
        try:
            yield taken
        finally:
            with self._lane_freed:
                self._lanes.free(chain, signer, taken)
                self._lane_freed.notify_all()

    def prepare(
        self, chain: str, messages: Sequence[Message], signers: Sequence[str], *, sequence: int,
        lane: int = 0, time_ms: int | None = None,
    ) -> bytes:  # fmt: skip
        """Build and sign a transaction without sending it; returns the envelope.

        It is valid for an hour from ``time_ms``, or from now.
        """
        return self._run(self._talk.prepare(chain, messages, signers, sequence, lane, time_ms))

    def submit_many(
        self, chain: str, envelopes: Sequence[bytes], *, verify: Verify = "each"
    ) -> list[Outcome | Problem]:
        """Hand in signed bytes in order; returns a receipt or a problem for each.

        A receipt may carry a rule's no. ``verify``: each receipt, an unforeseeable sample, or none.
        Raises: Problem for the batch as a whole, Unbelievable, Unreachable.
        """
        return self._run(self._talk.submit(chain, envelopes, verify))

    submit = submit_many

    def object_id(
        self, chain: str, envelope: bytes, message_index: int = 0, ordinal: int = 0
    ) -> bytes:
        """Return the id of an object that a message of an envelope will make."""
        return self._talk.object_id(chain, envelope, message_index, ordinal)

    def sequence(self, chain: str, account: bytes, lane: int = 0) -> int:
        """Return the sequence an account must use next on a lane."""
        return self._run(self._talk.sequence(chain, account, lane))

    def account(self, name: str) -> bytes:
        """Return the account of a key in the key store: 20 bytes."""
        return self._run(self._talk.account(name))

    # Questions.

    def genesis(self) -> Genesis:
        """Return the network's genesis; its digest was compared with the network trusted."""
        return self._run(self._talk.connect())

    def list(
        self, plural: str, filters: Mapping[str, str] | None = None, *, cursor: str | None = None,
        limit: int = 50, verify: bool = True,
    ) -> Row:  # fmt: skip
        """Return a page ``{"items": [...], "next": cursor}`` of a kind, newest change first.

        Every item is compared with the proven event it was made of: a contradiction raises
        Unbelievable, ``verified`` tells whether all of it could be compared. What a node leaves out
        of a page can't be noticed.
        """
        return self._run(self._talk.page(plural, filters or {}, cursor, limit, verify))

    def show(self, plural: str, identifier: str, *, verify: bool = True) -> Row:
        """Return one object with its timeline; ``verified`` as in :meth:`list`."""
        return self._run(self._talk.show(plural, identifier, verify))

    def search(self, text: str, *, verify: bool = True) -> Row:
        """Return a page of objects of any kind that fit a text."""
        return self._run(self._talk.search(text, verify))

    def balance(self, account: bytes, *, verify: bool = True) -> Row:
        """Return the page of an account's balances, one for each currency."""
        return self.list("balances", {"account": account.hex()}, limit=200, verify=verify)

    def proof(self, kind: str, identifier: str) -> bytes:
        """Return a proof file, judged to be valid.

        ``kind`` is singular (``order``), or ``transaction``.
        """
        return self._run(self._talk.proof(kind, identifier))

    def checkpoint(self, chain: str) -> bytes:
        """Return the newest signed note of a chain, which follows from the last one seen."""
        return self._run(self._talk.checkpoint(chain))

    def status(self) -> Row:
        """Return what the node says of itself; nothing of it is proven."""
        return dict(self.transport.ask(Ask("status", {})))

    def close(self) -> None:
        """Let go of connections."""
        self.transport.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
