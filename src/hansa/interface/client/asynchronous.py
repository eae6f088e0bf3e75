"""The client for programs that await; it says and believes the same as the other."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
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
from hansa.interface.client.transports import Ask, AsyncTransport, Pause, SubmitBatch

T = TypeVar("T")


class AsyncClient:
    """As :class:`~hansa.interface.client.synchronous.Client`; for one event loop."""

    def __init__(
        self, transport: AsyncTransport, keys: KeyStore, trust: Trust | None = None, *,
        seen: SeenCheckpoints | None = None, lanes: Sequence[int] = (0,),
        clock: Callable[[], int] = system_clock,
    ) -> None:  # fmt: skip
        self.transport = transport
        self.keys = keys
        self._talk = Conversation(keys, trust, seen or SeenCheckpoints(), clock)
        self._lanes = Lanes(lanes)
        self._lane_freed = asyncio.Condition()

    async def _run(self, steps: Steps[T]) -> T:
        try:
            question = next(steps)
            while True:
                try:
                    answer = await self._ask(question)
                except Exception as error:  # noqa: BLE001 - handed to who asked
                    question = steps.throw(error)
                else:
                    question = steps.send(answer)
        except StopIteration as done:
            result: T = done.value
            return result

    async def _ask(self, question: Ask | SubmitBatch | Pause) -> Any:
        if isinstance(question, SubmitBatch):
            return await self.transport.submit(question)
        if isinstance(question, Pause):
            return await asyncio.sleep(question.seconds)
        return await self.transport.ask(question)

    async def send(
        self, chain: str, messages: Sequence[Message], signers: Sequence[str], *,
        lane: int | None = None,
    ) -> Outcome:  # fmt: skip
        """Sign, hand in, return the believed receipt; raises as the other client does."""
        async with self._lane(chain, signers[0] if signers else "", lane) as taken:
            return await self._run(self._talk.send(chain, messages, signers, taken))

    @asynccontextmanager
    async def _lane(self, chain: str, signer: str, lane: int | None) -> AsyncIterator[int]:
        async with self._lane_freed:
            while (taken := self._lanes.take(chain, signer, lane)) is None:
                await self._lane_freed.wait()
        try:
            yield taken
        finally:
            self._lanes.free(chain, signer, taken)
            async with self._lane_freed:
                self._lane_freed.notify_all()

    async def prepare(
        self, chain: str, messages: Sequence[Message], signers: Sequence[str], *, sequence: int,
        lane: int = 0, time_ms: int | None = None,
    ) -> bytes:  # fmt: skip
        """Build and sign a transaction without sending it; returns the envelope."""
        steps = self._talk.prepare(chain, messages, signers, sequence, lane, time_ms)
        return await self._run(steps)

    async def submit_many(
        self, chain: str, envelopes: Sequence[bytes], *, verify: Verify = "each"
    ) -> list[Outcome | Problem]:
        """Hand in signed bytes in order; returns a receipt or a problem for each."""
        return await self._run(self._talk.submit(chain, envelopes, verify))

    def object_id(
        self, chain: str, envelope: bytes, message_index: int = 0, ordinal: int = 0
    ) -> bytes:
        """Return the id of an object that a message of an envelope will make."""
        return self._talk.object_id(chain, envelope, message_index, ordinal)

    async def sequence(self, chain: str, account: bytes, lane: int = 0) -> int:
        """Return the sequence an account must use next on a lane."""
        return await self._run(self._talk.sequence(chain, account, lane))

    async def account(self, name: str) -> bytes:
        """Return the account of a key in the key store: 20 bytes."""
        return await self._run(self._talk.account(name))

    async def genesis(self) -> Genesis:
        """Return the network's genesis, judged."""
        return await self._run(self._talk.connect())

    async def list(
        self, plural: str, filters: Mapping[str, str] | None = None, *, cursor: str | None = None,
        limit: int = 50, verify: bool = True,
    ) -> Row:  # fmt: skip
        """Return a page of a kind, newest change first, its items compared with their proofs."""
        return await self._run(self._talk.page(plural, filters or {}, cursor, limit, verify))

    async def show(self, plural: str, identifier: str, *, verify: bool = True) -> Row:
        """Return one object with its timeline."""
        return await self._run(self._talk.show(plural, identifier, verify))

    async def search(self, text: str, *, verify: bool = True) -> Row:
        """Return a page of objects of any kind that fit a text."""
        return await self._run(self._talk.search(text, verify))

    async def balance(self, account: bytes, *, verify: bool = True) -> Row:
        """Return the page of an account's balances, one for each currency."""
        return await self.list("balances", {"account": account.hex()}, limit=200, verify=verify)

    async def proof(self, kind: str, identifier: str) -> bytes:
        """Return a proof file, judged to be valid."""
        return await self._run(self._talk.proof(kind, identifier))

    async def checkpoint(self, chain: str) -> bytes:
        """Return the newest signed note of a chain, which follows from the last one seen."""
        return await self._run(self._talk.checkpoint(chain))

    async def status(self) -> Row:
        """Return what the node says of itself; nothing of it is proven."""
        return dict(await self.transport.ask(Ask("status", {})))

    async def close(self) -> None:
        """Let go of connections."""
        await self.transport.close()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
