"""Forks nodes that work until they are killed; run as a program, one line in is one node.

In: ``HOME SEED``, or ``HOME examine``, for which see there. Out, of the node: ``opening PID``,
``started``, ``block HEIGHT HASH`` and ``ack CHAIN DIGEST HEIGHT LEAF RECEIPT``; then of this
program: ``dead STATUS``. Forking from a process that has imported everything is quick.
"""

from __future__ import annotations

import functools
import os
import random
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import NoReturn

import pytest
from msgspec.structs import replace
from tests.node_world import (
    BUYERS,
    DAY_MS,
    KEYS,
    SELLERS,
    Clock,
    Market,
    account,
    make_terms,
    short_hash,
)

from hansa.core import ledger as ledger_module
from hansa.core.codec import encode
from hansa.core.errors import OperatorError
from hansa.core.module import compute_object_id
from hansa.core.transaction import Message, envelope_digest
from hansa.network.intake import Inclusion
from hansa.node.fsck import check_home
from hansa.node.home import load_config, load_keys
from hansa.node.node import Node, system_clock
from hansa.service.catalogue.rules import PRODUCTS
from hansa.service.orders.model import Accept, Cancel, Dispatch, Fund
from hansa.storage.blocklog import BlockLog
from hansa.storage.errors import StorageError

SEGMENT_BYTES = 60_000
FLUSH_BLOCKS = 7
FLUSH_KEYS = 150
MAX_OUTSTANDING = 200


def say(line: str) -> None:
    """Write a line whole, or not at all, whenever the process dies."""
    os.write(1, f"{line}\n".encode())


class Load:
    """Submits transfers and orders without end."""

    def __init__(self, node: Node, source: random.Random) -> None:
        self.node = node
        self.market = Market(node)
        self.source = source
        self.room = threading.Semaphore(MAX_OUTSTANDING)
        owners = {account(seller): seller for seller in SELLERS}
        products = node.call(lambda: [*node.ledger.store.scan(_products_prefix(node))])
        for _, value in products:
            product = PRODUCTS.decode(value)
            self.market.products[owners[product.seller]] = product.id

    def run(self) -> NoReturn:
        """Go on until the process ends."""
        while True:
            if self.source.random() < 0.3:
                self.trade()
            else:
                payer, payee = self.source.sample(BUYERS, 2)
                for _ in range(self.source.randint(1, 20)):
                    reference = self.source.getrandbits(128)
                    self.submit(payer, self.market.make_transfer(payee, 1, reference))

    def trade(self) -> None:
        """Hand in an order with the steps that follow, as far as its parties care to go."""
        buyer, seller = self.source.choice(BUYERS), self.source.choice(SELLERS)
        terms = make_terms(system_clock(), DAY_MS)
        order = compute_object_id(
            "trade", self.submit(buyer, self.market.make_place(seller, terms)), 0
        )
        steps: list[tuple[str, Message]] = [(seller, Accept(order)), (buyer, Fund(order))]
        steps.append(self.source.choice([(seller, Dispatch(order)), (buyer, Cancel(order))]))
        for party, message in steps[: self.source.randint(0, 3)]:
            self.submit(party, message)

    def submit(self, party: str, message: Message) -> bytes:
        """Hand in a transaction; says so when it is acknowledged."""
        self.room.acquire()
        envelope = self.market.sign("trade", party, message)
        self.node.submit("trade", envelope).add_done_callback(self._hear)
        return envelope_digest(envelope)

    def _hear(self, answer: Future[Inclusion]) -> None:
        self.room.release()
        place = answer.result()
        receipt = short_hash(encode(place.receipt))
        say(f"ack {place.chain} {place.digest.hex()} {place.height} {place.leaf} {receipt}")


def _products_prefix(node: Node) -> bytes:
    return node.ledger.chains["product"].prefix + PRODUCTS.prefix


def work(home: Path, source: random.Random) -> NoReturn:
    """Open the home and work on it."""
    patch = pytest.MonkeyPatch()
    patch.setattr(ledger_module, "FLUSH_BLOCKS", FLUSH_BLOCKS)
    patch.setattr(ledger_module, "FLUSH_KEYS", FLUSH_KEYS)
    small = functools.partial(BlockLog, segment_bytes=SEGMENT_BYTES)
    patch.setattr(ledger_module, "BlockLog", small)
    say(f"opening {os.getpid()}")
    with Node(home, keys=KEYS.store) as node:
        node.engine.on_block.append(
            lambda block: say(f"block {block.height} {block.record.network_hash.hex()}")
        )
        say("started")
        Load(node, source).run()


def examine(home: Path) -> None:
    """Start the node of a damaged home, then stop it and have the home checked; say how it went.

    ``refused TEXT``, or ``opened``; then ``sound``, or ``finding TEXT``. The clock stands still and
    no relay runs, so that the node makes no block of its own.
    """
    try:
        config = replace(load_config(home), runs_relay=False)
        with Node(home, keys=load_keys(home, str), clock=Clock(), config=config) as node:
            node.wait_projected(node.ledger.height)
            assert node.ready() is None, node.ready()
    except (OperatorError, StorageError) as error:
        say(f"refused {to_line(error)}")
        return
    say("opened")
    try:
        report = check_home(home)
    except (OperatorError, StorageError) as error:
        say(f"finding {to_line(error)}")
        return
    say("sound" if report.is_sound else f"finding {' '.join(report.findings[0].split())}")


def to_line(error: BaseException) -> str:
    """Return an error on one line."""
    return " ".join(str(error).split())


def fork(action: Callable[[], object]) -> int:
    """Run an action in a process of its own; returns how it ended."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            action()
            status = 0
        except BaseException:  # noqa: BLE001 - the process ends with it
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    return os.waitpid(pid, 0)[1]


def main() -> None:
    """Serve until the input ends."""
    for line in sys.stdin:
        home, task = line.split()
        if task == "examine":
            status = fork(functools.partial(examine, Path(home)))
        else:
            status = fork(functools.partial(work, Path(home), random.Random(int(task))))
        say(f"dead {status}")


if __name__ == "__main__":
    main()
