"""A sandbox in a scratch folder, with funded customers and transactions signed beforehand."""

import copy
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from hansa.core.codec import encode
from hansa.core.errors import OperatorError
from hansa.core.keys import compute_account
from hansa.core.transaction import Body, Envelope, Message, Signer, signing_hash
from hansa.interface.sandbox.home import create_sandbox
from hansa.interface.sandbox.roster import PAYMENTS, PLATFORM
from hansa.interface.sandbox.signing import QuickKey
from hansa.network.intake import Inclusion
from hansa.node.composition import GenesisTerms
from hansa.node.home import load_keys
from hansa.node.node import Node, system_clock
from hansa.service.bank.model import Issue, OpenCurrency
from hansa.service.members.model import NewCustomer, RegisterCustomers
from hansa.service.members.rules import PARTIES

CURRENCY: Final = "GBP"
VALIDITY_MS: Final = 24 * 3600 * 1000
CUSTOMERS_A_MESSAGE: Final = 500
SEED: Final = bytes(31) + b"\x01"

Progress = Callable[[str, int, int | None], None]


@contextmanager
def open_bench_node(terms: GenesisTerms | None = None) -> Iterator[Node]:
    """A started node on a scratch home, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="hansa-bench-") as folder:
        home = Path(folder) / "home"
        create_sandbox(home, "bench", seed=SEED, terms=terms)
        with Node(home, keys=load_keys(home, str)) as node:
            yield node


class Party:
    """A key, its account, and where its sequence stands on one chain."""

    def __init__(self, node: Node, chain: str, name: str, *, is_fresh: bool = False) -> None:
        self.key = QuickKey(node.keys.get_secret(name))
        self.chain = chain
        self.network = node.network
        self.account = compute_account(node.genesis.consortium, self.key.public)
        self.signer = Signer(self.account, self.key.public)
        self.sequence = 0 if is_fresh else node.get_sequence(chain, self.account)
        self.lane = 0

    def on_lane(self, lane: int) -> "Party":
        """Return the same party on a lane that it has not used yet."""
        other = copy.copy(self)
        other.lane, other.sequence = lane, 0
        return other

    def sign(self, *messages: Message, others: Sequence["Party"] = ()) -> bytes:
        """Return this party's next envelope, signed by the others too."""
        body = encode(
            Body(
                version=1,
                network=self.network,
                chain=self.chain,
                signers=(self.signer, *(other.signer for other in others)),
                lane=self.lane,
                sequence=self.sequence,
                valid_until_ms=system_clock() + VALIDITY_MS,
                messages=messages,
            )
        )
        self.sequence += 1
        digest = signing_hash(body)
        keys = (self.key, *(other.key for other in others))
        return encode(Envelope(body=body, signatures=tuple(key.sign(digest) for key in keys)))


def take(node: Node, chain: str, envelopes: Sequence[bytes]) -> None:
    """Submit and expect that every one takes effect.

    Raises: OperatorError.
    """
    for start in range(0, len(envelopes), 1_000):
        answer = node.submit_batch(chain, envelopes[start : start + 1_000])
        for settled in answer.result():
            if not isinstance(settled, Inclusion):
                raise OperatorError(f"bench: {settled.text}")
            if settled.receipt.error is not None:
                raise OperatorError(f"bench: {settled.receipt.error.text}")


def register_customers(node: Node, parties: Sequence[Party]) -> None:
    """Have the platform register customers, and wait until trade and logistics know them."""
    platform = Party(node, "anchor", PLATFORM.key)
    customers = sorted(
        (NewCustomer(party.account, "GB", b"\x01" + bytes(32)) for party in parties),
        key=lambda customer: customer.account,
    )
    size = CUSTOMERS_A_MESSAGE
    messages = [
        RegisterCustomers(customers=tuple(customers[i : i + size]))
        for i in range(0, len(customers), size)
    ]
    take(node, "anchor", [platform.sign(message) for message in messages])
    for chain in ("trade", "logistics"):
        wait_until(partial(is_known, node, chain, parties), f"{chain} to know the customers")


def is_known(node: Node, chain: str, parties: Sequence[Party]) -> bool:
    """Tell whether a chain knows all these accounts."""
    here = node.ledger.chains[chain]
    return node.call(lambda: all(PARTIES.get(here, party.account) is not None for party in parties))


def wait_until(is_there: Callable[[], bool], what: str, timeout_s: float = 120.0) -> None:
    """Look every few milliseconds.

    Raises: OperatorError.
    """
    give_up = time.monotonic() + timeout_s
    while not is_there():
        if time.monotonic() > give_up:
            raise OperatorError(f"bench: expected {what} within {timeout_s:.0f} s")
        time.sleep(0.005)


def open_currency(node: Node) -> Party:
    """Open the currency; returns the institution that issues it."""
    bank = Party(node, "trade", PAYMENTS.key)
    take(node, "trade", [bank.sign(OpenCurrency(CURRENCY, 2))])
    return bank


def fund(
    node: Node, bank: Party, parties: Sequence[Party], amount_minor: int, *, first: int = 0
) -> None:  # fmt: skip
    """Issue money to every party, under references from ``first`` on."""
    issues = [
        bank.sign(Issue(party.account, CURRENCY, amount_minor, index.to_bytes(16, "big")))
        for index, party in enumerate(parties, first)
    ]
    take(node, "trade", issues)


def compute_percentiles(values: Sequence[float]) -> dict[str, float]:
    """Return p50, p95 and p99 of some measurements."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return {
        f"p{percent}": round(ordered[min(last, last * percent // 100)], 3)
        for percent in (50, 95, 99)
    }
