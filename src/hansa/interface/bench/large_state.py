"""P8 and P9: what a large state costs a transaction, and how fast a node is back."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from hansa.core.block import decode_stored_receipt
from hansa.core.codec import encode
from hansa.core.finality import CheckpointSigner
from hansa.core.hashing import tagged_hasher
from hansa.core.keys import compute_account
from hansa.core.ledger import Ledger
from hansa.core.transaction import Body, Envelope, Signer, Transaction
from hansa.interface.bench.scratch import CURRENCY, SEED, VALIDITY_MS, Progress
from hansa.interface.sandbox.home import create_sandbox
from hansa.interface.sandbox.roster import PLATFORM
from hansa.node.composition import make_rulebook
from hansa.node.home import load_genesis, load_keys
from hansa.node.node import Node, system_clock
from hansa.service.bank.model import Balance, Transfer
from hansa.service.bank.rules import BALANCES
from hansa.service.members.model import Customer, compute_founder_id
from hansa.service.members.rules import PARTIES

SMALL_KEYS: Final = 10_000
FILL_AT_ONCE: Final = 100_000
BLOCK: Final = 2_000
FUNDS_MINOR: Final = 10**12

_bench_key = tagged_hasher("bench-key")


class _Books:
    """A ledger whose trade chain holds many funded customers, filled in past the rules.

    Signatures are not looked at here: P8 and P9 are about state, log and read model.
    """

    def __init__(self, folder: Path, customers: int, progress: Progress) -> None:
        self.home = folder / f"home-{customers}"
        create_sandbox(self.home, "bench", seed=SEED)
        self.genesis = load_genesis(self.home)
        self.keys = load_keys(self.home, str)
        self.customers = customers
        self.ledger = self.open()
        self._fill(progress)
        self.ledger.close()
        self.ledger = self.open()
        self.trade = self.ledger.chains["trade"]
        self.sequences: dict[int, int] = {}
        self.references = 0

    def open(self) -> Ledger:
        """Open the ledger as a node would."""
        books = {chain.name: make_rulebook(chain.name) for chain in self.genesis.chains}
        signer = CheckpointSigner(self.keys.get_secret("validator"))
        return Ledger(self.home / "ledger", self.genesis, books, signer)

    def _fill(self, progress: Progress) -> None:
        platform = compute_account(self.genesis.consortium, self.keys.get(PLATFORM.key).public)
        organisation = compute_founder_id(platform)
        prefix = self.ledger.chains["trade"].prefix
        balance = encode(Balance(FUNDS_MINOR, 0))
        for start in range(0, self.customers, FILL_AT_ONCE):
            writes: list[tuple[bytes, bytes | None]] = []
            for index in range(start, min(self.customers, start + FILL_AT_ONCE)):
                account = self.account(index)[0]
                customer = Customer(account, organisation, "GB", b"\x01" + bytes(32), 1)
                writes.append((prefix + PARTIES.prefix + account, encode(customer)))
                code = CURRENCY.encode()
                writes.append((prefix + BALANCES.prefix + account + code, balance))
            writes.sort()
            store = self.ledger.store
            store.commit(writes, height=store.height, sync=False)
            progress("filling the state", start, self.customers)

    def account(self, index: int) -> tuple[bytes, bytes]:
        """Return account and public key of a customer; nobody holds the private key."""
        key = b"\x01" + _bench_key(index.to_bytes(8, "big"))
        return compute_account(self.genesis.consortium, key), key

    def make_transfers(self, count: int, seed: int = 1) -> list[Transaction]:
        """Return transfers among customers drawn evenly from all of them."""
        transfers: list[Transaction] = []
        draw = seed
        for _ in range(count):
            self.references += 1
            number = self.references
            draw = (draw * 6364136223846793005 + 1442695040888963407) % 2**64
            payer, payee = (draw >> 33) % self.customers, (draw >> 13) % self.customers
            payee = (payee + (payer == payee)) % self.customers
            transfers.append(self._make_transfer(payer, payee, number))
        return transfers

    def _make_transfer(self, payer: int, payee: int, number: int) -> Transaction:
        account, key = self.account(payer)
        sequence = self.sequences.get(payer, 0)
        self.sequences[payer] = sequence + 1
        reference = number.to_bytes(16, "big")
        body = Body(
            version=1,
            network=self.ledger.network,
            chain="trade",
            signers=(Signer(account, key),),
            lane=0,
            sequence=sequence,
            valid_until_ms=system_clock() + VALIDITY_MS,
            messages=(Transfer(self.account(payee)[0], CURRENCY, 1, reference),),
        )
        envelope = encode(Envelope(body=encode(body), signatures=(b"\x01" + bytes(64),)))
        return self.trade.decode_transaction(envelope)

    def run(self, transfers: Sequence[Transaction]) -> float:
        """Execute, commit, sync and flush; returns processor seconds a transaction."""
        started = time.process_time()
        for start in range(0, len(transfers), BLOCK):
            part = [(transfer, True) for transfer in transfers[start : start + BLOCK]]
            block = self.ledger.apply(system_clock(), {"trade": part})
            assert all(v.receipt.error is None for v in block.chains["trade"].verdicts)
            assert not block.chains["trade"].refusals
            self.ledger.commit(block)
            self.ledger.block_log.sync()
            self.ledger.publish(block)
        self.ledger.flush()
        return (time.process_time() - started) / len(transfers)


def measure_state_size(is_quick: bool, progress: Progress) -> dict[str, Any]:
    """Return the figure P8: cost of a transaction on a large state against a small one."""
    large = 200_000 if is_quick else 10_000_000
    count = 10_000 if is_quick else 50_000
    with tempfile.TemporaryDirectory(prefix="hansa-bench-") as folder:
        books = [_Books(Path(folder), keys // 2, progress) for keys in (SMALL_KEYS, large)]
        runs = [_cut(each.make_transfers(count), 5) for each in books]
        costs: list[list[float]] = [[], []]
        for number, parts in enumerate(zip(*runs, strict=True)):
            for each, part, cost in zip(books, parts, costs, strict=True):
                cost.append(each.run(part))
            progress("transfers on both states", number + 1, 5)
        for each in books:
            each.ledger.close()
        small, big = (sorted(cost)[len(cost) // 2] for cost in costs)
    return {
        "value": round(big / small, 3),
        "unit": "times",
        "limit": 1.5,
        "limit_is": "at most; cost on the large state over cost on the small one, same run",
        "conditions": {
            "small_keys": SMALL_KEYS,
            "large_keys": large,
            "small_us": round(small * 1e6, 1),
            "large_us": round(big * 1e6, 1),
            "transfers": count,
            "measured": "processor time of execution, commit, sync, flush; median of 5 turns each",
            "accounts": "drawn evenly from all; signatures not verified",
        },
    }


def _cut(transfers: list[Transaction], parts: int) -> Iterator[list[Transaction]]:
    size = len(transfers) // parts
    for start in range(0, parts * size, size):
        yield transfers[start : start + size]


def measure_restart(is_quick: bool, progress: Progress) -> dict[str, Any]:
    """Return the figure P9: seconds until a node that was killed is back."""
    count = 50_000 if is_quick else 1_000_000
    with tempfile.TemporaryDirectory(prefix="hansa-bench-") as folder:
        books = _Books(Path(folder), SMALL_KEYS, progress)
        for start in range(0, count, 50_000):
            books.run(books.make_transfers(50_000, seed=start + 1))
            progress("transactions before the restart", start + 50_000, count)
        _leave_unflushed(books)
        crashed = Path(folder) / "crashed"
        shutil.copytree(books.home, crashed)  # As a kill leaves it: the last blocks unflushed.
        height = books.ledger.height
        books.ledger.close()
        Node(crashed, keys=books.keys).stop()  # Builds the read model; its time is not this one's.
        shutil.rmtree(crashed / "ledger")
        shutil.copytree(books.home / "ledger", crashed / "ledger")
        started = time.perf_counter()
        node = Node(crashed, keys=books.keys)
        seconds = time.perf_counter() - started
        assert node.ledger.height == height, "the restart lost a block"
        rebuild_s, events = _rebuild(node, progress)
        node.stop()
    return {
        "value": round(seconds, 3),
        "unit": "s",
        "limit": 5,
        "limit_is": "at most, at 1,000,000 transactions",
        "conditions": {
            "transactions": count,
            "blocks": height,
            "read_model_rebuilt_events_s": round(events / rebuild_s),
            "wanted_events_s": 50_000,
            "events": events,
            "cores": os.cpu_count(),
        },
    }


def _leave_unflushed(books: _Books) -> None:
    part = [(transfer, True) for transfer in books.make_transfers(BLOCK, seed=7)]
    block = books.ledger.apply(system_clock(), {"trade": part})
    books.ledger.commit(block)
    books.ledger.block_log.sync()


def _rebuild(node: Node, progress: Progress) -> tuple[float, int]:
    """Return the seconds that the read model takes from nothing, and the events in it."""
    node.read_model.reset()
    started = time.perf_counter()
    node.project_pending()
    seconds = time.perf_counter() - started
    events = sum(
        len(chain_receipt_events)
        for record in node.ledger.iterate_blocks(0)
        for part in record.chains
        for chain_receipt_events in _events_of(part.receipts)
    )
    progress("read model rebuilt", events, events)
    return seconds, events


def _events_of(receipts: Sequence[bytes]) -> Iterator[tuple[bytes, ...]]:
    for receipt in receipts:
        yield decode_stored_receipt(receipt).events
