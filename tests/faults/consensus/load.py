"""Load on a cluster: signed transfers whose every answer is kept, and a market that trades."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from tests.faults.consensus.cluster import Cluster

from hansa.core.keys import SigningKey, compute_account
from hansa.core.keystore import KeyStore
from hansa.core.transaction import Body, Message, Signer, envelope_digest, sign_transaction
from hansa.interface.client import Client, HttpTransport, Problem, Unreachable
from hansa.interface.client.outcomes import Included, Submitted
from hansa.interface.client.transports import Ask, SubmitBatch
from hansa.interface.sandbox.market import Market
from hansa.interface.sandbox.roster import (
    DEPARTMENT_STORE,
    OUTFITTER,
    PAYMENTS,
    POTTERY,
    RETAILER,
    STORES,
    TOOLMAKER,
    Company,
)
from hansa.node.home import load_keys, make_trust
from hansa.node.node import system_clock
from hansa.service.bank.model import Issue, OpenCurrency, Transfer

CHAIN: Final = "trade"
CURRENCY: Final = "NOK"
LANE: Final = 9
"""Not the market's."""
FUNDS_MINOR: Final = 1_000_000_000
BATCH: Final = 8
TIMEOUT_S: Final = 6.0
HOUR_MS: Final = 3_600_000
TRADERS: Final[tuple[Company, ...]] = (STORES, DEPARTMENT_STORE, RETAILER)
ACCOUNTS: Final[tuple[Company, ...]] = (*TRADERS, TOOLMAKER, POTTERY, OUTFITTER)
RETRY_S: Final = 0.2


@dataclass(frozen=True)
class Acknowledged:
    """What a node has said of a transaction."""

    digest: bytes
    height: int
    leaf: int
    node: int


class Failover:
    """A way to whichever node answers: the next one is asked when one does not."""

    def __init__(self, urls: Sequence[str], first: int, timeout_s: float = TIMEOUT_S) -> None:
        self._ways = [HttpTransport(url, timeout_s=timeout_s) for url in urls]
        self.at = first
        self.failures = 0

    def ask(self, ask: Ask) -> Any:
        """Return an answer. Raises: Problem, Unreachable."""
        try:
            return self._ways[self.at].ask(ask)
        except Unreachable:
            self.turn()
            raise

    def submit(self, batch: SubmitBatch) -> Submitted:
        """Hand in transactions. Raises: Problem, Unreachable."""
        try:
            return self._ways[self.at].submit(batch)
        except Unreachable:
            self.turn()
            raise

    def turn(self) -> None:
        """Go to the next node."""
        self.failures += 1
        self.at = (self.at + 1) % len(self._ways)

    def close(self) -> None:
        """Close the connections."""
        for way in self._ways:
            way.close()


class Party:
    """An account that signs, and counts its sequence."""

    def __init__(self, cluster: Cluster, keys: KeyStore, company: Company) -> None:
        self._network = cluster.members[0].place.network
        self.key: SigningKey = keys.get(company.key)
        self.account = compute_account(cluster.genesis.consortium, self.key.public)
        self.sequence = 0

    def sign(
        self, message: Message, *, sequence: int | None = None, life_ms: int = HOUR_MS
    ) -> bytes:
        """Return a signed transaction; its sequence is the next one unless another is given."""
        if sequence is None:
            sequence, self.sequence = self.sequence, self.sequence + 1
        body = Body(
            version=1,
            network=bytes.fromhex(self._network),
            chain=CHAIN,
            signers=(Signer(self.account, self.key.public),),
            lane=LANE,
            sequence=sequence,
            valid_until_ms=system_clock() + life_ms,
            messages=(message,),
        )
        return sign_transaction(body, [self.key])


class Trader:
    """Pays the others without end; hands the same bytes in until they are acknowledged."""

    def __init__(
        self, party: Party, payees: Sequence[bytes], way: Failover, source: random.Random
    ) -> None:
        self.party = party
        self.acknowledged: list[Acknowledged] = []
        self.handed_in: list[bytes] = []
        """Digests of all that was ever sent."""
        self.surprises: list[str] = []
        """Refusals of what is right."""
        self._payees = payees
        self._way = way
        self._source = source
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trader", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def finish(self) -> None:
        """Stop signing; returns when all that was handed in is answered."""
        self._is_over.set()
        self._thread.join(180)
        assert not self._thread.is_alive(), "a transaction is never acknowledged"
        self._way.close()

    def _run(self) -> None:
        while not self._is_over.is_set():
            waiting = [self._sign() for _ in range(BATCH)]
            self.handed_in += map(envelope_digest, waiting)
            while waiting:
                waiting = self._hand_in(waiting)
                if waiting:
                    time.sleep(RETRY_S)

    def _sign(self) -> bytes:
        payee = self._source.choice(self._payees)
        reference = self._source.randbytes(16)
        return self.party.sign(Transfer(payee, CURRENCY, 1, reference))

    def _hand_in(self, envelopes: list[bytes]) -> list[bytes]:
        """Return those that are not acknowledged."""
        at = self._way.at
        try:
            submitted = self._way.submit(SubmitBatch(CHAIN, envelopes, lambda _: False))
        except Unreachable:
            return envelopes
        except Problem as problem:
            if problem.status < 500 and problem.status != 429:
                self.surprises.append(f"node{at}: {problem}")
            self._way.turn()
            return envelopes
        left = []
        for envelope, item in zip(envelopes, submitted.items, strict=True):
            if isinstance(item, Included):
                place = Acknowledged(envelope_digest(envelope), item.height, item.leaf, at)
                self.acknowledged.append(place)
            else:
                self._note(at, item)
                left.append(envelope)
        return left

    def _note(self, at: int, problem: Problem) -> None:
        # Whoever hands bytes in twice may be told that the sequence is spent: it is, by them. The
        # receipt comes once that block has reached the node asked.
        self.surprises.append(f"node{at}: {problem}")


class Load:
    """Traders, and the market, on all nodes of a cluster."""

    def __init__(self, cluster: Cluster, source: random.Random) -> None:
        self._cluster = cluster
        keys = load_keys(cluster.members[0].home, str)
        urls = cluster.urls()
        parties = [Party(cluster, keys, company) for company in ACCOUNTS]
        self.bank = Party(cluster, keys, PAYMENTS)
        self._fund(parties, urls)
        accounts = [party.account for party in parties]
        self.traders = [
            Trader(
                party,
                [account for account in accounts if account != party.account],
                Failover(urls, number % len(urls)),
                random.Random(source.getrandbits(64)),
            )
            for number, party in enumerate(parties[: len(TRADERS)], 1)
        ]
        self._client = Client(Failover(urls, 0, timeout_s=20.0), keys, make_trust(cluster.genesis))
        self.market = Market(self._client, pace_s=0.5, seed=source.getrandbits(32))

    def _fund(self, parties: Sequence[Party], urls: Sequence[str]) -> None:
        envelopes = [self.bank.sign(OpenCurrency(CURRENCY, 2))]
        for number, party in enumerate(parties):
            issue = Issue(party.account, CURRENCY, FUNDS_MINOR, number.to_bytes(16, "big"))
            envelopes.append(self.bank.sign(issue))
        way = HttpTransport(urls[0], timeout_s=60.0)
        submitted = way.submit(SubmitBatch(CHAIN, envelopes, lambda _: False))
        way.close()
        assert all(isinstance(item, Included) for item in submitted.items), submitted.items

    def start(self) -> None:
        """Begin to trade."""
        for trader in self.traders:
            trader.start()
        self.market.start()

    def finish(self) -> None:
        """Stop; returns when all that was handed in is answered."""
        self.market.stop()
        self._client.close()
        for trader in self.traders:
            trader.finish()

    @property
    def acknowledged(self) -> list[Acknowledged]:
        """All that was acknowledged so far."""
        return [place for trader in self.traders for place in list(trader.acknowledged)]
