"""One member of a network on CometBFT over a toy ledger, and a CometBFT that the test plays."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from tests import comet_world
from tests.toy_chain import CHAINS, START_MS, TOY, Toy, make_genesis, make_toy

from hansa.core.finality import CheckpointSigner
from hansa.core.genesis import consensus_chain_id
from hansa.core.keys import PublicKey, verify_signatures
from hansa.core.ledger import Ledger, NetworkBlock
from hansa.core.module import Context, Module, Rulebook
from hansa.core.transaction import Message, message_number
from hansa.core.validatorset import set_power
from hansa.network.comet.application import Application
from hansa.network.comet.bundle import Item, pack
from hansa.network.comet.judged import Judged
from hansa.network.comet.proto.abci import types_pb2 as abci
from hansa.network.comet.proto.crypto import keys_pb2 as keys
from hansa.network.comet.snapshots import Snapshots
from hansa.network.intake import Claim

ROOM = 4_000_000
"""Bytes that CometBFT leaves for transactions in a block."""

VALIDATORS = comet_world.make_set(10, 10, 10, 10)
SIGNER = CheckpointSigner(b"s" * 32)


class Empower(Message, tag=message_number(TOY, 9)):
    """Give a consensus key a power, or none with 0."""

    key: PublicKey
    power: int


def empower(ctx: Context, msg: Empower) -> None:
    """Do so, as governance would."""
    set_power(ctx, msg.key, msg.power)


def make_governed_toy() -> Module:
    """The toy, with a way to change the validators."""
    toy = make_toy(1)
    return dataclasses.replace(toy, handlers={**toy.handlers, Empower: empower})


class Member(Toy):
    """A node's application, asked as CometBFT asks it; one opened again has had a crash."""

    def __init__(self, folder: Path, *, max_transactions: int = 100) -> None:
        self.signer = SIGNER
        self.genesis = replace(
            make_genesis(SIGNER), consensus=VALIDATORS, max_block_transactions=max_transactions
        )
        rulebooks = {name: Rulebook((make_governed_toy(),)) for name in CHAINS}
        self.ledger = Ledger(folder, self.genesis, rulebooks, None)
        self.snapshots = Snapshots(self.ledger, 0)
        self.verified = 0
        self.judged = Judged(self.ledger, self.verify)
        self.execution = ThreadPoolExecutor(1, "execution")
        self.committed: list[NetworkBlock] = []
        self.misbehaved: list[int] = []
        self.application = Application(
            self.ledger,
            self.judged,
            self.snapshots,
            execution=self.execution,
            checking=self.execution,
            on_commit=lambda block, _: self.committed.append(block),
            on_misbehaviour=self.misbehaved.append,
            retained_height=lambda height: max(0, height - 7),
        )
        self.time_ms = max(START_MS + 1, self.ledger.time_ms + 1)
        self.sequences = {}
        self.is_open = True
        self._bundles = 0

    @property
    def chain_id(self) -> str:
        """CometBFT's name for the network."""
        return consensus_chain_id(self.ledger.network)

    def verify(self, claims: Sequence[Claim]) -> list[bool]:
        """Judge signatures, and count them."""
        self.verified += len(claims)
        return verify_signatures(claims)

    def bundle(self, *envelopes: bytes, chain: str = "one") -> bytes:
        """Pack these, as no bundle before."""
        self._bundles += 1
        return pack(self._bundles, [Item(chain, envelope) for envelope in envelopes])

    # What CometBFT asks.

    def info(self) -> abci.ResponseInfo:
        """Where do you stand?"""
        return self.application.info(abci.RequestInfo()).result()

    def check(self, bundle: bytes, *, again: bool = False) -> tuple[int, str]:
        """May it wait in the mempool? Or stay there? Returns code and log."""
        kind = abci.RECHECK if again else abci.NEW
        answer = self.application.check_tx(abci.RequestCheckTx(tx=bundle, type=kind)).result()
        return answer.code, answer.log

    def propose(self, *bundles: bytes, room: int = ROOM) -> list[bytes]:
        """What shall the block hold, of what waits?"""
        request = abci.RequestPrepareProposal(
            txs=bundles, max_tx_bytes=room, height=self.ledger.height + 1
        )
        return list(self.application.prepare_proposal(request).result().txs)

    def accepts(self, *bundles: bytes) -> bool:
        """Do you vote for such a block?"""
        request = abci.RequestProcessProposal(txs=bundles, height=self.ledger.height + 1)
        status = self.application.process_proposal(request).result().status
        return status == abci.ResponseProcessProposal.ACCEPT

    def finalize(
        self, *bundles: bytes, height: int | None = None, time_ms: int | None = None,
        misbehaviours: int = 0,
    ) -> abci.ResponseFinalizeBlock:  # fmt: skip
        """This was decided: what comes of it?"""
        time_ms = self.time_ms if time_ms is None else time_ms
        request = abci.RequestFinalizeBlock(
            txs=bundles,
            height=self.ledger.height + 1 if height is None else height,
            misbehavior=[abci.Misbehavior()] * misbehaviours,
        )
        # CometBFT gives nanoseconds; those under a millisecond are cut off.
        request.time.seconds, millis = divmod(time_ms, 1000)
        request.time.nanos = millis * 1_000_000 + 999_999
        return self.application.finalize_block(request).result()

    def commit(self) -> abci.ResponseCommit:
        """Keep it."""
        return self.application.commit(abci.RequestCommit()).result()

    def decide(self, *bundles: bytes, **options: int) -> NetworkBlock:
        """Have a block from first to last; returns it."""
        response = self.finalize(*bundles, **options)
        self.commit()
        assert self.ledger.network_hash == response.app_hash
        return self.committed[-1]

    def start(self, **changes: Any) -> abci.ResponseInitChain:
        """Begin, as the genesis says but for these changes."""
        updates = [
            abci.ValidatorUpdate(pub_key=keys.PublicKey(ed25519=one.key[1:]), power=one.power)
            for one in VALIDATORS
        ]
        fields: dict[str, Any] = {
            "chain_id": self.chain_id,
            "initial_height": 1,
            "validators": updates,
            **changes,
        }
        return self.application.init_chain(abci.RequestInitChain(**fields)).result()

    def close(self) -> None:
        """Let go of everything; closing twice does nothing."""
        self.execution.shutdown()
        self.snapshots.close()
        super().close()

    def crash(self) -> None:
        """Let go of all files as the kernel does for a killed process: nothing is flushed."""
        self.execution.shutdown()
        self.snapshots.close()
        self.ledger._let_go()
        self.is_open = False
