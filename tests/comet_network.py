"""Real chains of a network on CometBFT, without the engine: its light blocks are made here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from tests.chain_world import World
from tests.comet_world import make_block

from hansa.core.block import (
    BlockRecord,
    ChainRecord,
    Header,
    Receipt,
    compute_app_hash,
    compute_network_hash,
)
from hansa.core.codec import encode
from hansa.core.finality import FinalHeader, make_consensus_finality
from hansa.core.genesis import consensus_chain_id
from hansa.core.lightblock import LightBlock
from hansa.core.lightclient import NS_PER_MS
from hansa.core.transaction import Message
from hansa.core.validatorset import Validator


class CometWorld(World):
    """Chains whose blocks more than two thirds of some validators have signed."""

    def __init__(
        self, folder: Path, validators: tuple[Validator, ...], *args: Any, **named: Any
    ) -> None:
        self.validators = validators
        self.blocks: list[LightBlock] = []
        """The light block of height 1 and those after it."""
        self.hops: list[LightBlock] = []
        """Those from which on other validators vote."""
        super().__init__(folder, *args, consensus=validators, **named)
        self.ledger.find_finality = self.find_finality
        self.chain_id = consensus_chain_id(self.ledger.network)
        self._decide()

    def submit(self, chain: str, *messages: Message, by: str = "anyone") -> Receipt:
        """Run one transaction in a block of its own, which the next block makes final."""
        receipt = super().submit(chain, *messages, by=by)
        self._decide()
        return receipt

    def advance(self, by_ms: int) -> list[Any]:
        """Move the clock and run what is due; returns the events."""
        events = super().advance(by_ms)
        self._decide()
        return events

    def change(self, validators: tuple[Validator, ...]) -> None:
        """Let others vote from the block after the next one on."""
        self._decide_empty(validators)
        self.hops.append(self.blocks[-1])
        self.validators = validators

    def _decide_empty(self, following: tuple[Validator, ...]) -> None:
        block = self.ledger.apply(self.time_ms, {})
        self.ledger.commit(block)
        self._decide(following)

    def _decide(self, following: tuple[Validator, ...] | None = None) -> None:
        """Make the light block that shows the last block to be final."""
        self.ledger.block_log.sync()
        record = self.ledger.read_block(self.ledger.height)
        self.blocks.append(self.make_light_block(record.height + 1, following=following))
        for part in record.chains:
            if part.header is not None:
                finality = self.find_finality(record, part.chain)
                final = FinalHeader(header=encode(part.header), finality=finality)
                self.ledger.published[part.chain] = final

    def make_light_block(
        self, height: int, *, following: tuple[Validator, ...] | None = None, **changes: Any
    ) -> LightBlock:
        """Return the light block of a height as the present validators sign it."""
        record = self.ledger.read_block(height - 1)
        settings: dict[str, Any] = {
            "app_hash": record.network_hash,
            "time_ns": self.time_ms * NS_PER_MS + height,
            "chain_id": self.chain_id,
        }
        return make_block(height, self.validators, following, **(settings | changes))

    def find_finality(self, record: BlockRecord, chain: str) -> bytes:
        """Return what makes a chain's header of a block final."""
        return self.make_finality(record, chain, self.blocks[record.height])

    def make_finality(
        self, record: BlockRecord, chain: str, block: LightBlock,
        hops: Sequence[LightBlock] | None = None,
    ) -> bytes:  # fmt: skip
        """Return a finality proof by a light block, with all hops before it or these."""
        if hops is None:
            hops = [hop for hop in self.hops if hop.height < block.height]
        app_hashes = {part.chain: part.app_hash for part in record.chains}
        return make_consensus_finality([*hops, block], app_hashes, chain)

    def finalize(self, header: Header) -> bytes:
        """Return what makes any header final: all validators vote for a block that shows it."""
        hashes = {name: chain.app_hash for name, chain in self.ledger.chains.items()}
        hashes[header.chain] = compute_app_hash(header)
        root = compute_network_hash(sorted(hashes.items()))
        block = self.make_light_block(self.ledger.height + 1, app_hash=root)
        return make_consensus_finality([*self.hops, block], hashes, header.chain)

    def parts(self, chain: str) -> list[ChainRecord]:
        """Return a chain's part of each block in which something happened, with its finality."""
        found = []
        for height in range(self.ledger.height + 1):
            record = self.ledger.read_block(height)
            part = next(part for part in record.chains if part.chain == chain)
            if part.header is not None:
                found.append(replace(part, finality=self.find_finality(record, chain)))
        return found
