"""A chain on this machine, as a relay meets it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Final

from hansa.core.block import decode_header
from hansa.core.errors import Refused
from hansa.core.finality import FinalHeader
from hansa.core.keys import compute_account
from hansa.core.prover import Delivery, make_delivery
from hansa.core.transaction import Body, Message, Signer, sign_transaction
from hansa.network.relay import Anchorage, RelayEnd, RelayTrouble
from hansa.network.solo import EngineBusy, EngineStopped
from hansa.service.anchoring.model import FORKED, Anchor
from hansa.service.anchoring.rules import ANCHORS
from hansa.service.anchoring.rules import PARAMS as ANCHORING_PARAMS
from hansa.service.link.model import PageProof, Receive, UpdateClient
from hansa.service.link.rules import CLIENTS, IN

if TYPE_CHECKING:
    from hansa.node.node import Node

VALIDITY_MS: Final = 10 * 60_000
MAX_PAGES: Final = 2
"""Pages of one block in one delivery, so that a delivery always fits a transaction."""

RELAY_KEY: Final = "relay"
"""Name of the account that signs what the relay carries; nobody needs to trust it."""


def make_receive(source: str, delivery: Delivery) -> Receive:
    """Return the message that hands a delivery to its destination."""
    return Receive(
        source=source,
        header=delivery.final.header,
        finality=delivery.final.finality,
        pages=tuple(
            PageProof(page=proof.page, index=proof.index, path=proof.path)
            for proof in delivery.pages
        ),
    )


def group_pages(rows: Sequence[dict[str, int]]) -> list[tuple[int, list[int]]]:
    """Return (height, pages) for outbox rows in order, a few pages at a time."""
    groups = []
    for height, same in groupby(rows, key=lambda row: row["height"]):
        pages = [row["page"] for row in same]
        groups += [(height, pages[i : i + MAX_PAGES]) for i in range(0, len(pages), MAX_PAGES)]
    return groups


class LocalEnd(RelayEnd):
    """One of the chains a node hosts."""

    def __init__(self, node: Node, chain: str) -> None:
        self.chain = chain
        self._node = node
        self._key = node.keys.get(RELAY_KEY)
        self._account = compute_account(node.genesis.consortium, self._key.public)
        self._sequence: int | None = None

    # As a source.

    def get_deliveries(self, destination: str, first: int, limit: int) -> Sequence[Delivery]:
        """Return blocks that hold items for a destination from a sequence on, in order."""
        rows = self._node.read_model.get_outbox(self.chain, destination, first, limit)
        return [
            make_delivery(self._node.read_block(height), self.chain, pages)
            for height, pages in group_pages(rows)
        ]

    def get_newest(self) -> Anchorage | None:
        """Return this chain's newest final header, with no path."""
        final = self._node.ledger.published.get(self.chain)
        return Anchorage(final.header, final.finality, ()) if final else None

    def get_due_anchor(self, anchor: RelayEnd) -> Anchorage | None:
        """Return what the anchor chain should hear of this chain now, or None."""
        final = self._node.ledger.published.get(self.chain)
        if final is None or not self._has_grown(final):
            return None
        old = anchor.get_anchored_size(self.chain)
        header = decode_header(final.header)
        if old is None or header.log_size <= old:
            return None
        self._anchored_height = header.height
        log = self._node.ledger.chains[self.chain].log
        path = self._node.call(lambda: log.prove_consistency(old, header.log_size)) if old else ()
        return Anchorage(final.header, final.finality, tuple(path))

    _anchored_height = -1

    def _has_grown(self, final: FinalHeader) -> bool:
        """Tell whether the chain is N blocks past its last anchor, as its genesis wants."""
        chain = self._node.ledger.chains[self.chain]
        params = self._node.call(lambda: ANCHORING_PARAMS.get(chain, b""))
        height = decode_header(final.header).height
        every = params.every_blocks if params else 1
        return self._anchored_height < 0 or height >= self._anchored_height + every

    # As a destination.

    def get_next_expected(self, source: str) -> int | None:
        """Return the sequence this chain expects from a source; None if it has no client of it."""
        chain = self._node.ledger.chains[self.chain]
        key = source.encode()
        client, place = self._node.call(lambda: (CLIENTS.get(chain, key), IN.get(chain, key)))
        if client is None or client.is_frozen:
            return None
        return place.next if place else 0

    def receive(self, source: str, deliveries: Sequence[Delivery]) -> str | None:
        """Submit deliveries here in one transaction; returns None or the refusal in words."""
        return self._submit([make_receive(source, delivery) for delivery in deliveries])

    def get_anchored_size(self, chain: str) -> int | None:
        """As the anchor chain: return the log size recorded of a chain; None if unknown."""
        here = self._node.ledger.chains[self.chain]
        record = self._node.call(lambda: ANCHORS.get(here, chain.encode()))
        return record.log_size if record is not None and record.status != FORKED else None

    def submit_anchor(self, chain: str, anchorage: Anchorage) -> str | None:
        """As the anchor chain: submit an anchor; returns None or the refusal in words."""
        return self._submit(
            [
                Anchor(
                    chain=chain,
                    header=anchorage.header,
                    finality=anchorage.finality,
                    path=anchorage.path,
                )
            ]
        )

    def renew_client(self, source: RelayEnd) -> str | None:
        """Show this chain a newer header of a source if half its trusting period is over."""
        chain = self._node.ledger.chains[self.chain]
        client = self._node.call(lambda: CLIENTS.get(chain, source.chain.encode()))
        newest = source.get_newest()
        if client is None or client.is_frozen or newest is None:
            return None
        age = self._node.ledger.time_ms - client.latest.time_ms
        is_newer = decode_header(newest.header).log_size > client.latest.log_size
        if age * 2 < client.trusting_period_ms or not is_newer:
            return None
        update = UpdateClient(chain=source.chain, header=newest.header, finality=newest.finality)
        return self._submit([update])

    def _submit(self, messages: Sequence[Message]) -> str | None:
        """Sign and submit as the relay's account.

        Raises: RelayTrouble if the node has stopped or is too busy.
        """
        node = self._node
        if self._sequence is None:
            self._sequence = node.get_sequence(self.chain, self._account)
        body = Body(
            version=1,
            network=node.network,
            chain=self.chain,
            signers=(Signer(self._account, self._key.public),),
            lane=0,
            sequence=self._sequence,
            valid_until_ms=max(node.engine.clock(), node.ledger.time_ms) + VALIDITY_MS,
            messages=tuple(messages),
        )
        try:
            answer = node.submit_many(self.chain, [sign_transaction(body, [self._key])])[0]
            inclusion = answer.result()
        except Refused as refusal:
            self._sequence = None
            return refusal.text
        except (EngineBusy, EngineStopped) as trouble:
            self._sequence = None
            raise RelayTrouble(f"{self.chain}: {trouble}") from trouble
        self._sequence += 1
        error = inclusion.receipt.error
        return None if error is None else f"{error.number} {error.text}"
