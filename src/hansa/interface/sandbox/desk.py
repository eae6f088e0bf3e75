"""A desk at which the companies of a sandbox sign: it knows keys and counts sequences."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

from hansa.core.codec import encode
from hansa.core.errors import OperatorError
from hansa.core.genesis import compute_network_id
from hansa.core.keys import compute_account
from hansa.core.transaction import Body, Envelope, Message, Signer, envelope_digest, signing_hash
from hansa.interface.client import Client, Outcome, Problem
from hansa.interface.client.transports import Ask
from hansa.interface.sandbox.signing import QuickKey

VALIDITY_MS: Final = 24 * 3600 * 1000
MAX_BATCH: Final = 1_000
"""Envelopes handed in at once."""
MAX_BATCH_BYTES: Final = 768 * 1024
PAGE: Final = 200
NOT_FOUND: Final = 404
CACHED_KEYS: Final = 16_384
"""Signing keys kept; a sandbox derives any other again from its name."""


class SandboxError(OperatorError):
    """What was played did not come out as it must; the text says where and why."""


class Request(NamedTuple):
    """Messages that parties, by their names in the key store, want to sign together."""

    signers: tuple[str, ...]
    """The first one's sequence is spent."""
    messages: tuple[Message, ...]


class Signed(NamedTuple):
    """A signed transaction."""

    envelope: bytes
    digest: bytes


class Desk:
    """Signs for parties of one key store and hands in what they signed."""

    def __init__(self, client: Client, *, lane: int = 0, is_fresh: bool = False) -> None:
        """``is_fresh`` says that nobody has ever signed on this lane, so nobody has to be asked."""
        self.client = client
        self.genesis = client.genesis()
        self.network = compute_network_id(self.genesis)
        self.lane = lane
        self.is_fresh = is_fresh
        self.transactions = 0
        """Handed in and acknowledged, those that a rule refused included."""
        self.signatures = 0
        self.proofs = 0
        """Receipts and records verified to be in the log of a checkpoint the validators signed."""
        self._sequences: dict[tuple[str, bytes], int] = {}
        self._load_key = lru_cache(CACHED_KEYS)(self._derive_key)
        self._load_party = lru_cache(CACHED_KEYS)(self._derive_party)

    def _derive_key(self, name: str) -> QuickKey:
        return QuickKey(self.client.keys.get_secret(name))

    def _derive_party(self, name: str) -> Signer:
        public = self._load_key(name).public
        return Signer(compute_account(self.genesis.consortium, public), public)

    def account(self, name: str) -> bytes:
        """Return the account of a name in the key store: 20 bytes."""
        return self._load_party(name).account

    # Signing.

    def sign(self, chain: str, requests: Sequence[Request]) -> list[Signed]:
        """Sign requests in the order in which they will be handed in."""
        until_ms = time.time_ns() // 1_000_000 + VALIDITY_MS
        return [self._sign(chain, request, until_ms) for request in requests]

    def _sign(self, chain: str, request: Request, until_ms: int) -> Signed:
        signers = tuple([self._load_party(name) for name in request.signers])
        body = Body(
            version=1,
            network=self.network,
            chain=chain,
            signers=signers,
            lane=self.lane,
            sequence=self._next_sequence(chain, signers[0].account),
            valid_until_ms=until_ms,
            messages=request.messages,
        )
        keys = [self._load_key(name) for name in request.signers]
        data = encode(body)
        digest = signing_hash(data)
        envelope = encode(Envelope(data, tuple([key.sign(digest) for key in keys])))
        return Signed(envelope, envelope_digest(envelope))

    def _next_sequence(self, chain: str, account: bytes) -> int:
        key = (chain, account)
        sequence = self._sequences.get(key)
        if sequence is None:
            sequence = 0
            if not self.is_fresh:
                sequence = self.client.sequence(chain, account, self.lane)
        self._sequences[key] = sequence + 1
        return sequence

    def forget_sequences(self) -> None:
        """Ask the node again where everybody stands, after something was not taken."""
        self._sequences.clear()
        self.is_fresh = False

    # Handing in.

    def submit(self, chain: str, signed: Sequence[Signed]) -> list[Outcome]:
        """Hand in transactions in order and wait for all their receipts, each verified.

        Raises: SandboxError for one that the node did not take; a receipt that a rule wrote
        may still hold a refusal.
        """
        outcomes: list[Outcome] = []
        for batch in _cut(signed):
            outcomes += self._submit_batch(chain, batch)
        return outcomes

    def _submit_batch(self, chain: str, batch: Sequence[bytes]) -> list[Outcome]:
        try:
            answers = self.client.submit_many(chain, batch)
        except Problem as problem:
            raise SandboxError(f"{chain}: expected receipts, got {problem}") from problem
        outcomes = []
        for answer in answers:
            if isinstance(answer, Problem):
                raise SandboxError(f"{chain}: expected a receipt, got {answer}") from answer
            outcomes.append(answer)
        self.transactions += len(outcomes)
        self.proofs += sum([outcome.is_verified for outcome in outcomes])
        return outcomes

    def send(self, chain: str, requests: Sequence[Request]) -> list[Outcome]:
        """Sign, hand in and expect that no rule refuses.

        Raises: SandboxError.
        """
        outcomes = self.submit(chain, self.sign(chain, requests))
        for outcome, request in zip(outcomes, requests, strict=True):
            check_done(outcome, request)
        self.signatures += sum([len(request.signers) for request in requests])
        return outcomes

    # Asking.

    def list_rows(
        self, plural: str, filters: Mapping[str, str], *, verify: bool = True
    ) -> Iterator[dict[str, Any]]:
        """Yield every row of a kind, newest change first, page by page.

        Each is compared with the proven event that it was made of.
        """
        cursor: str | None = None
        while True:
            page = self.client.list(plural, filters, cursor=cursor, limit=PAGE, verify=verify)
            self.proofs += sum([bool(row.get("verified")) for row in page["items"]])
            yield from page["items"]
            cursor = page["next"]
            if cursor is None:
                return

    def find(self, plural: str, identifier: str) -> dict[str, Any] | None:
        """Return one object, compared with the proven event it was made of, or None."""
        try:
            row = self.client.show(plural, identifier)
        except Problem as problem:
            if problem.status != NOT_FOUND:
                raise
            return None
        self.proofs += bool(row["verified"])
        return row

    def is_done(self, digest: bytes) -> bool:
        """Tell whether a transaction is proven to be in its log, and no rule refused it."""
        question = Ask("transaction", {"digest": digest.hex()})
        try:
            row = self.client.transport.ask(question)
        except Problem as problem:
            if problem.status != NOT_FOUND:
                raise
            return False
        self.client.proof("transaction", digest.hex())
        self.proofs += 1
        return int(row["error"]) == 0

    def get_block(self, height: int) -> dict[str, Any]:
        """Return a block as the node states it."""
        return dict(self.client.transport.ask(Ask("block", {"height": height})))

    def wait_projected(self, height: int, timeout_s: float = 60.0) -> None:
        """Wait until what can be listed has reached a height.

        Raises: SandboxError.
        """
        wait_for(
            lambda: int(self.client.status()["read_model_height"]) >= height,
            f"the read model to reach height {height}",
            timeout_s,
        )


def check_done(outcome: Outcome, request: Request) -> None:
    """Raises: SandboxError where a rule refused."""
    fault = outcome.receipt.error
    if fault is not None:
        names = ", ".join(request.signers)
        kinds = ", ".join(type(message).__name__ for message in request.messages)
        raise SandboxError(
            f"{kinds} of {names}: expected to be done, got {fault.number} {fault.text}"
        )


def wait_for(is_there: Callable[[], bool], what: str, timeout_s: float) -> None:
    """Look every few milliseconds until something is there.

    Raises: SandboxError.
    """
    give_up = time.monotonic() + timeout_s
    while not is_there():
        if time.monotonic() > give_up:
            raise SandboxError(f"expected {what} within {timeout_s:.0f} s, got nothing")
        time.sleep(0.02)


def _cut(signed: Sequence[Signed]) -> Iterator[list[bytes]]:
    """Yield batches that fit a node's door."""
    batch: list[bytes] = []
    size = 0
    for envelope, _ in signed:
        if batch and (len(batch) == MAX_BATCH or size + len(envelope) > MAX_BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(envelope)
        size += len(envelope)
    if batch:
        yield batch
