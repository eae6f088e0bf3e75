"""A member that pours what it likes into its own CometBFT, past its application's door."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from itertools import count, cycle
from typing import Final

from tests.faults.consensus.cluster import Cluster, Member
from tests.faults.consensus.load import CHAIN, CURRENCY, Party

from hansa.core.block import decode_block_record
from hansa.interface.sandbox.roster import WHOLESALER
from hansa.network.comet.bundle import MAX_BUNDLE_BYTES, MAX_ITEMS, Item, pack
from hansa.network.comet.rpc import RpcClient, RpcTrouble
from hansa.node.home import load_keys
from hansa.service.bank.model import Transfer
from hansa.storage.blocklog import BlockLog

MINUTE_MS: Final = 60_000
SOME: Final = 20
"""Transactions in a bundle that is handed in again and again."""


class Flood:
    """Hands in without end: no bundles, too large ones, repeated, badly signed and stale ones."""

    def __init__(self, cluster: Cluster, member: Member, source: random.Random) -> None:
        keys = load_keys(member.home, str)
        self._party = Party(cluster, keys, WHOLESALER)
        self._member = member
        self._source = source
        self._rpc = RpcClient(member.place.rpc)
        self._numbers = count(source.getrandbits(40))
        self._included = [Item(chain=CHAIN, envelope=one) for one in self._read_included()]
        self._is_over = threading.Event()
        self._poured = 0
        self._thread = threading.Thread(target=self._run, name="flood", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def finish(self) -> int:
        """Stop; returns how many were handed in."""
        self._is_over.set()
        self._thread.join()
        self._rpc.close()
        return self._poured

    def _run(self) -> None:
        for data in self._invent():
            if self._is_over.is_set():
                return
            try:
                self._rpc.broadcast_tx_async(data)
            except RpcTrouble:
                continue  # Refused at the door, as it should be.
            finally:
                self._poured += 1

    def _invent(self) -> Iterator[bytes]:
        repeated = pack(next(self._numbers), self._included)
        kinds: tuple[Callable[[], bytes], ...] = (
            lambda: self._source.randbytes(self._source.randint(1, 2_000)),
            lambda: pack(next(self._numbers), [self._make_unsigned()]),
            lambda: repeated,
            lambda: pack(next(self._numbers), self._included),
            lambda: pack(next(self._numbers), [self._make_late(), *self._included]),
            lambda: pack(next(self._numbers), [self._make_far()] * MAX_ITEMS),
            lambda: pack(next(self._numbers), [Item(chain="nowhere", envelope=b"x")]),
            lambda: b"\x01" + self._source.randbytes(MAX_BUNDLE_BYTES),
            lambda: b"\x01" + bytes(2 * 1024 * 1024),
        )
        for make in cycle(kinds):
            yield make()

    def _make_unsigned(self) -> Item:
        envelope = bytearray(self._pay(sequence=0))
        envelope[-1] ^= 1
        return Item(chain=CHAIN, envelope=bytes(envelope))

    def _make_late(self) -> Item:
        return Item(chain=CHAIN, envelope=self._pay(sequence=0, life_ms=-MINUTE_MS))

    def _make_far(self) -> Item:
        """Return what is well signed, of a sequence that isn't due for long."""
        return Item(chain=CHAIN, envelope=self._pay(sequence=1_000_000))

    def _pay(self, *, sequence: int, life_ms: int = MINUTE_MS) -> bytes:
        transfer = Transfer(self._party.account, CURRENCY, 1, self._source.randbytes(16))
        return self._party.sign(transfer, sequence=sequence, life_ms=life_ms)

    def _read_included(self) -> list[bytes]:
        """Return what stands in blocks already."""
        found: list[bytes] = []
        with BlockLog(self._member.home / "ledger" / "blocks", read_only=True) as log:
            for height in range(log.height, 0, -1):
                for part in decode_block_record(log.read(height)).chains:
                    found += part.envelopes if part.chain == CHAIN else ()
                if len(found) >= SOME:
                    break
        return found[:SOME]
