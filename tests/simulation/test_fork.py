"""A chain that rewrites its past: recorded, believed by nobody, recovered by the members' votes.

The past is rewritten as a thief of the validator's key would: two ledgers of one genesis and one
key tell two stories. Where the relay lies and the chain is honest, nothing freezes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.node_world import BUYERS, KEYS, SELLERS, Market, SteppedNode, read_table
from tests.simulation.simulator import Simulator

from hansa.core.block import Header, decode_header
from hansa.core.codec import encode
from hansa.core.evidence import RewrittenPast, TwoCheckpoints, TwoHeaders
from hansa.core.finality import FinalHeader
from hansa.core.module import compute_object_id
from hansa.core.prover import Delivery
from hansa.core.transaction import Message
from hansa.node.composition import CHAINS
from hansa.node.relay_end import LocalDoor, make_receive
from hansa.service.anchoring.model import (
    FORKED,
    LIVE,
    Anchor,
    BadConsistency,
    ReportFork,
    ResetAnchor,
)
from hansa.service.anchoring.model import compute_subject as compute_reset_subject
from hansa.service.anchoring.rules import ANCHORS
from hansa.service.link.model import (
    BadHeader,
    BadPageProof,
    ClientFrozen,
    NotEvidence,
    RecoverClient,
    SubmitEvidence,
    UpdateClient,
    compute_subject,
)
from hansa.service.link.rules import CLIENTS
from hansa.service.members.model import Propose, Resolve, Vote
from hansa.service.orders.model import Accept, Fund
from hansa.service.orders.rules import PRODUCTS

LIAR = "product"
"""The chain that tells two stories."""
OTHERS = tuple(chain for chain in CHAINS if chain != LIAR)
GOVERNORS = ("bank", *SELLERS, *BUYERS)
MANY = 1_000


class Fork:
    """The chains as all know them, and a copy of them that goes another way."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.true = Simulator(folder / "true", seed)
        self.true.node.crash()
        shutil.copytree(folder / "true", folder / "false")
        self.true.open()
        self.false = SteppedNode(folder / "false", keys=KEYS.store, clock=self.true.clock)
        self.common_size = self.false.ledger.chains[LIAR].header.log_size
        Market(self.false).register_product(SELLERS[0], "what never was")
        Market(self.false).register_product(SELLERS[1], "what never was either")
        self.product = self.true.market.register_product(SELLERS[0], "what was")
        self.true.run_relay_until_quiet()

    @property
    def market(self) -> Market:
        """Signs on the chains as all know them."""
        return self.true.market

    def get_false(self) -> FinalHeader:
        """Return the newest header of the false story, signed by the true key."""
        return self.false.ledger.published[LIAR]

    def get_true(self) -> FinalHeader:
        """Return the newest header of the true story."""
        return self.true.node.ledger.published[LIAR]

    def get_false_deliveries(self, destination: str) -> list[Delivery]:
        """Return what the false story sends; the path to the page is right."""
        return [*LocalDoor(self.false, LIAR).get_deliveries(destination, 0, MANY)]

    def is_frozen(self, chain: str) -> bool:
        """Tell whether a chain believes the liar no more."""
        return read_table(self.true.node, chain, CLIENTS)[LIAR.encode()].is_frozen

    def anchor_status(self) -> int:
        """Return what the anchor chain has recorded of the liar."""
        return read_table(self.true.node, "anchor", ANCHORS)[LIAR.encode()].status

    def make_anchor(self, final: FinalHeader, node: SteppedNode) -> Anchor:
        """Return an anchor of a story, consistent with what was anchored as that story has it."""
        old = read_table(self.true.node, "anchor", ANCHORS)[LIAR.encode()].log_size
        new = decode_header(final.header).log_size
        path = node.ledger.chains[LIAR].log.prove_consistency(old, new)
        return Anchor(LIAR, final.header, final.finality, tuple(path))

    def submit(self, chain: str, message: Message) -> int:
        """Hand something in as a stranger; returns the number of the refusal, or 0."""
        return self.market.fail(chain, "a stranger", message)

    # Governance.

    def resolve(self, chain: str, purpose: str, subject: bytes) -> bytes:
        """Have the members pass a resolution on a chain; returns its id."""
        proposal = Propose(Resolve(purpose, subject))
        inclusion = self.market.send(chain, GOVERNORS[0], proposal)
        assert inclusion.receipt.error is None, inclusion.receipt.error
        resolution = compute_object_id(chain, inclusion.digest, 0)
        for party in GOVERNORS[1:]:
            self.market.send(chain, party, Vote(resolution, approve=True))
        return resolution

    def recover(self, chain: str) -> None:
        """Have a chain believe the true story again, by the members' resolution."""
        final = self.get_true()
        client = read_table(self.true.node, chain, CLIENTS)[LIAR.encode()]
        message = RecoverClient(
            LIAR, client.trusted, client.trusting_period_ms, final.header, final.finality, bytes(16)
        )
        assert self.submit(chain, message) != 0, "recovered without a resolution"
        resolution = self.resolve(chain, "link.recover", compute_subject(message))
        assert self.submit(chain, replace(message, resolution=resolution)) == 0


@pytest.fixture
def fork(tmp_path: Path, seed: int) -> Iterator[Fork]:
    """Chains of which one has two stories, and none of them knows yet."""
    print(f"HANSA_SEED={seed}")
    made = Fork(tmp_path, seed)
    yield made
    made.true.node.stop()
    made.false.stop()


def find_twins(fork: Fork) -> tuple[FinalHeader, FinalHeader]:
    """Return headers of both stories at one height."""
    by_height: dict[int, dict[bytes, tuple[Header, bytes]]] = {}
    for node in (fork.true.node, fork.false):
        for record in node.ledger.iterate_blocks(0):
            for part in record.chains:
                if part.chain == LIAR and part.header is not None:
                    found = by_height.setdefault(record.height, {})
                    found[part.app_hash] = (part.header, part.finality)
    twins = next(found for found in by_height.values() if len(found) > 1)
    return tuple(  # type: ignore[return-value]
        FinalHeader(header=encode(header), finality=finality) for header, finality in twins.values()
    )


def prove_by_anchor(fork: Fork) -> int:
    """Anchor the false story over the true one: the consistency path itself is the evidence."""
    anchor = fork.make_anchor(fork.get_true(), fork.true.node)
    fork.submit("anchor", anchor)
    size = read_table(fork.true.node, "anchor", ANCHORS)[LIAR.encode()].log_size
    for number in range(2 * size):
        if fork.false.ledger.chains[LIAR].header.log_size > size:
            break
        Market(fork.false).register_product(SELLERS[0], f"filler {number}")
    return fork.submit("anchor", fork.make_anchor(fork.get_false(), fork.false))


def prove_by_report(fork: Fork) -> int:
    """Report two headers of one height."""
    first, second = find_twins(fork)
    evidence = TwoHeaders(first.header, first.finality, second.header, second.finality)
    return fork.submit("anchor", ReportFork(LIAR, evidence))


@pytest.mark.parametrize("prove", [prove_by_anchor, prove_by_report])
def test_fork_is_recorded_disbelieved_and_recovered(
    fork: Fork, prove: Callable[[Fork], int]
) -> None:
    """Proven anywhere, a fork silences its chain everywhere; the members alone recover it."""
    assert prove(fork) == 0
    assert fork.anchor_status() == FORKED
    assert fork.is_frozen("anchor")
    fork.true.run_relay_until_quiet()
    assert all(fork.is_frozen(chain) for chain in OTHERS), "the others have not heard of it"

    final = fork.get_false()
    for chain in OTHERS:
        update = UpdateClient(LIAR, final.header, final.finality)
        assert fork.submit(chain, update) == ClientFrozen.number
    for delivery in fork.get_false_deliveries("trade"):
        assert fork.submit("trade", make_receive(LIAR, delivery)) == ClientFrozen.number
    late = fork.market.register_product(SELLERS[1], "not heard of")
    fork.true.run_relay_until_quiet()
    assert late not in read_table(fork.true.node, "trade", PRODUCTS)

    for chain in OTHERS:
        fork.recover(chain)
        assert not fork.is_frozen(chain)
    final = fork.get_true()
    reset = ResetAnchor(LIAR, final.header, final.finality, bytes(16))
    resolution = fork.resolve("anchor", "anchoring.reset", compute_reset_subject(reset))
    assert fork.submit("anchor", replace(reset, resolution=resolution)) == 0
    assert fork.anchor_status() == LIVE
    fork.true.run_relay_until_quiet()
    assert late in read_table(fork.true.node, "trade", PRODUCTS)
    assert fork.submit("anchor", replace(reset, resolution=resolution)) != 0, "used twice"


def test_evidence_may_be_brought_to_any_chain(fork: Fork) -> None:
    """Without an anchor chain, anybody shows each chain the evidence itself."""
    first, second = find_twins(fork)
    evidence = TwoHeaders(first.header, first.finality, second.header, second.finality)
    for chain in OTHERS:
        assert fork.submit(chain, SubmitEvidence(LIAR, evidence)) == 0
        assert fork.is_frozen(chain)


def test_two_stories_that_meet_at_a_client(fork: Fork) -> None:
    """A client that is shown both stories at one place freezes by itself."""
    deliveries = fork.get_false_deliveries("trade")
    known = read_table(fork.true.node, "trade", CLIENTS)[LIAR.encode()].latest
    twins = [
        FinalHeader(header=encode(part.header), finality=part.finality)
        for record in fork.false.ledger.iterate_blocks(0)
        for part in record.chains
        if part.chain == LIAR and part.header is not None and part.header.height == known.height
    ]
    assert deliveries
    for twin in twins:
        assert fork.submit("trade", UpdateClient(LIAR, twin.header, twin.finality)) == 0
        assert fork.is_frozen("trade")
    assert twins, "the false story has no block at the height that trade knows of"


# An honest chain and a lying relay.


def _lies(fork: Fork) -> list[tuple[str, str, Message, int]]:
    """Return (name, chain, lie, number of the refusal) about the true story."""
    final, honest = fork.get_true(), fork.make_anchor(fork.get_true(), fork.true.node)
    waiting = LocalDoor(fork.true.node, "trade").get_deliveries("logistics", 0, MANY)
    receive = make_receive("trade", waiting[-1])
    wrong = (bytes(32),)
    strange = replace(receive.pages[0], path=wrong)
    other = fork.true.node.ledger.published["anchor"]
    same = TwoHeaders(final.header, final.finality, final.header, final.finality)
    past = RewrittenPast(
        final.header, final.finality, final.header, final.finality, bytes(32), wrong
    )
    checkpoints = TwoCheckpoints(final.finality, final.finality)
    return [
        (
            "path made up",
            "anchor",
            replace(honest, path=(*honest.path, *wrong)),
            BadConsistency.number,
        ),
        ("path missing", "anchor", replace(honest, path=()), BadConsistency.number),
        ("header of another", "anchor", replace(honest, header=other.header), BadHeader.number),
        ("note of another", "anchor", replace(honest, finality=other.finality), BadHeader.number),
        ("no fork in one header", "anchor", ReportFork(LIAR, same), NotEvidence.number),
        ("no fork in one note", "anchor", ReportFork(LIAR, checkpoints), NotEvidence.number),
        ("no past rewritten", "anchor", ReportFork(LIAR, past), NotEvidence.number),
        ("no fork for trade", "trade", SubmitEvidence(LIAR, same), NotEvidence.number),
        ("other note", "trade", UpdateClient(LIAR, final.header, other.finality), BadHeader.number),
        ("wrong page", "logistics", replace(receive, pages=(strange,)), BadPageProof.number),
    ]


def test_lies_about_an_honest_chain_freeze_nothing(fork: Fork) -> None:
    """Wrong proofs for an honest chain are refused by number, and nobody is silenced by them."""
    market = fork.market
    fork.true.place()
    deal = fork.true.deals[-1]
    market.register_product(SELLERS[0], "one more")
    market.do("trade", deal.seller, Accept(deal.order))
    market.do("trade", deal.buyer, Fund(deal.order))
    for name, chain, lie, number in _lies(fork):
        assert number == fork.submit(chain, lie), name
    for chain in CHAINS:
        for client in read_table(fork.true.node, chain, CLIENTS).values():
            assert not client.is_frozen
    assert fork.anchor_status() == LIVE
    fork.true.run_relay_until_quiet()
    assert fork.true.find_shipment(deal.order) is not None
