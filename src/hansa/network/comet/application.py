"""The one place where CometBFT's calls become calls of the core.

FinalizeBlock computes and Commit persists, so after a crash this node may be behind its CometBFT,
which then sends the blocks again, and is never ahead of it. All of it runs in one thread, the
execution thread; CheckTx, which comes in floods, runs beside it.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from typing import Final

from hansa.core.apply import get_sequence
from hansa.core.errors import Malformed
from hansa.core.genesis import consensus_chain_id
from hansa.core.keys import ED25519
from hansa.core.ledger import Ledger, NetworkBlock, Submission
from hansa.core.transaction import Transaction
from hansa.core.validatorset import list_power_changes
from hansa.network.comet.bundle import Item, unpack
from hansa.network.comet.judged import Judged
from hansa.network.comet.proto.abci import types_pb2 as abci
from hansa.network.comet.proto.crypto import keys_pb2 as keys
from hansa.network.comet.snapshots import Snapshots

APP_VERSION: Final = 1
"""Of the block protocol between these nodes; it stands in every CometBFT header."""

OK: Final = 0
REFUSED: Final = 1
SPENT: Final = "every transaction in it is spent or expired"

TARGET_BLOCK_S: Final = 0.5
"""How long this node, as proposer, lets a block take to execute."""

FRAME_BYTES: Final = 8
"""What CometBFT adds to a transaction in a block: a field's key and a length."""

FIRST_TRANSACTION_S: Final = 250e-6
FIRST_TRANSACTIONS: Final = 100
"""What a transaction is taken to cost before any was measured, and how many count as measured."""

MAX_LANES: Final = 50_000
"""Lanes whose next sequence is known to the checking thread, which may not read the state."""


class Application:
    """The core as CometBFT drives it, one method a call of ABCI 2.0."""

    def __init__(
        self, ledger: Ledger, judged: Judged, snapshots: Snapshots, *, execution: Executor,
        checking: Executor, on_commit: Callable[[NetworkBlock, float], None],
        on_misbehaviour: Callable[[int], None], retained_height: Callable[[int], int],
    ) -> None:  # fmt: skip
        self._ledger = ledger
        self._judged = judged
        self._snapshots = snapshots
        self._execution = execution
        self._checking = checking
        self._on_commit = on_commit
        self._on_misbehaviour = on_misbehaviour
        self._retained_height = retained_height
        self._finalized: NetworkBlock | None = None
        self._items: list[Item] = []
        self._seconds = FIRST_TRANSACTIONS * FIRST_TRANSACTION_S
        self._executed = float(FIRST_TRANSACTIONS)
        self._next: dict[tuple[str, bytes, int], int] = {}
        """By chain, account and lane, as of the last block."""

    # Info and genesis.

    def info(self, _: abci.RequestInfo) -> Future[abci.ResponseInfo]:
        """Say where this node stands, so that CometBFT sends what it lacks."""
        return self._execution.submit(self._info)

    def _info(self) -> abci.ResponseInfo:
        height = self._ledger.height
        return abci.ResponseInfo(
            data="hansa",
            app_version=APP_VERSION,
            last_block_height=height,
            last_block_app_hash=self._ledger.network_hash if height else b"",
        )

    def init_chain(self, request: abci.RequestInitChain) -> Future[abci.ResponseInitChain]:
        """Begin: the genesis block stands already, CometBFT's own genesis has to fit it."""
        return self._execution.submit(self._init_chain, request)

    def _init_chain(self, request: abci.RequestInitChain) -> abci.ResponseInitChain:
        genesis = self._ledger.genesis
        chain_id = consensus_chain_id(self._ledger.network)
        if request.chain_id != chain_id:
            raise ValueError(f"chain_id: expected {chain_id}, got {request.chain_id}")
        if request.initial_height != 1:
            raise ValueError(f"initial_height: expected 1, got {request.initial_height}")
        given = {(update.pub_key.ed25519, update.power) for update in request.validators}
        expected = {(first.key[1:], first.power) for first in genesis.consensus}
        if given != expected:
            raise ValueError(
                f"validators: expected the {len(expected)} of the genesis, got {len(given)} others"
            )
        return abci.ResponseInitChain(app_hash=self._ledger.network_hash)

    # The mempool.

    def check_tx(self, request: abci.RequestCheckTx) -> Future[abci.ResponseCheckTx]:
        """Judge a bundle before it is handed on to peers.

        A gateway verifies what it bundles, so a bundle with one wrong signature comes from nobody
        honest and is not passed on. One that waits is judged again after each block: what another
        has made useless is proposed by nobody, and would keep its place in the mempool, and the
        network at making empty blocks, for ever. All else of nonces and rules is for the block.
        """
        if request.type == abci.RECHECK:
            return self._execution.submit(self._check_again, request.tx)
        return self._checking.submit(self._check_tx, request.tx)

    def _check_tx(self, data: bytes) -> abci.ResponseCheckTx:
        try:
            items = unpack(data)
        except Malformed as error:
            return _refuse(error.text)
        limit = self._ledger.genesis.max_block_transactions
        if len(items) > limit:
            return _refuse(f"items: expected at most {limit}, as a block holds, got {len(items)}")
        # In order of cost: signatures are worth a hundred times the rest.
        decoded = [self._judged.decode(item) for item in items]
        known = [transaction for transaction in decoded if transaction is not None]
        if len(known) < len(items):
            return _refuse("a transaction can't be decoded")
        if all(self._was_spent(transaction) for transaction in known):
            return _refuse(SPENT)
        if not all(submission and submission[1] for submission in self._judged.judge(items, known)):
            return _refuse("a transaction is badly signed")
        return abci.ResponseCheckTx(code=OK)

    def _was_spent(self, transaction: Transaction) -> bool:
        """Tell whether a block has made it useless, as far as the checking thread knows."""
        body = transaction.body
        lane = (body.chain, body.signers[0].account, body.lane)
        return body.sequence < self._next.get(lane, 0) or body.valid_until_ms < self._ledger.time_ms

    def _check_again(self, data: bytes) -> abci.ResponseCheckTx:
        try:
            items = unpack(data)
        except Malformed as error:  # Taken by a release that knew more.
            return _refuse(error.text)
        for item in items:
            transaction = self._judged.decode(item)
            if transaction is not None and not self._is_spent(transaction):
                return abci.ResponseCheckTx(code=OK)
        return _refuse(SPENT)

    # A block.

    def prepare_proposal(
        self, request: abci.RequestPrepareProposal
    ) -> Future[abci.ResponsePrepareProposal]:
        """Choose bundles in the order they came, until the block would take too long to execute."""
        return self._execution.submit(self._prepare_proposal, request)

    def _prepare_proposal(
        self, request: abci.RequestPrepareProposal
    ) -> abci.ResponsePrepareProposal:
        limit = self._ledger.genesis.max_block_transactions
        room = max(1, min(limit, int(TARGET_BLOCK_S * self._executed / self._seconds)))
        room_bytes = request.max_tx_bytes
        chosen: list[bytes] = []
        for data in request.txs:
            items = self._unpack_useful(data)
            if not items or len(items) > limit:
                continue
            room_bytes -= len(data) + FRAME_BYTES
            if room_bytes < 0 or (len(items) > room and chosen):
                break
            room -= len(items)
            chosen.append(data)
        return abci.ResponsePrepareProposal(txs=chosen)

    def _unpack_useful(self, data: bytes) -> tuple[Item, ...]:
        """Return the items of a bundle; none if not one of them could be judged in a block.

        Else one member could fill every block with what was included long ago.
        """
        try:
            items = unpack(data)
        except Malformed:
            return ()
        is_useful = any(
            submission is not None and submission[1] and not self._is_spent(submission[0])
            for submission in self._judged.judge(items)
        )
        return items if is_useful else ()

    def _is_spent(self, transaction: Transaction) -> bool:
        body = transaction.body
        chain = self._ledger.chains.get(body.chain)
        if chain is None or body.valid_until_ms < self._ledger.time_ms:
            return True
        return body.sequence < get_sequence(chain, body.signers[0].account, body.lane)

    def process_proposal(
        self, request: abci.RequestProcessProposal
    ) -> Future[abci.ResponseProcessProposal]:
        """Accept a proposal of well-formed bundles within the limit; verify while others do."""
        return self._execution.submit(self._process_proposal, request)

    def _process_proposal(
        self, request: abci.RequestProcessProposal
    ) -> abci.ResponseProcessProposal:
        try:
            items = [item for data in request.txs for item in unpack(data)]
        except Malformed:
            return abci.ResponseProcessProposal(status=abci.ResponseProcessProposal.REJECT)
        if len(items) > self._ledger.genesis.max_block_transactions:
            return abci.ResponseProcessProposal(status=abci.ResponseProcessProposal.REJECT)
        self._judged.judge(items)
        return abci.ResponseProcessProposal(status=abci.ResponseProcessProposal.ACCEPT)

    def finalize_block(
        self, request: abci.RequestFinalizeBlock
    ) -> Future[abci.ResponseFinalizeBlock]:
        """Run a decided block; nothing of it is in force until Commit."""
        return self._execution.submit(self._finalize_block, request)

    def _finalize_block(self, request: abci.RequestFinalizeBlock) -> abci.ResponseFinalizeBlock:
        if request.height != self._ledger.height + 1:
            raise ValueError(f"height: expected {self._ledger.height + 1}, got {request.height}")
        if self._finalized is not None:
            self._ledger.discard()
            self._finalized = None
        started = time.perf_counter()
        codes, self._items = _unpack_all(request.txs)
        time_ms = request.time.seconds * 1_000 + request.time.nanos // 1_000_000
        block = self._ledger.apply(time_ms, self._submissions(self._items))
        self._finalized = block
        if self._items:
            self._measure(time.perf_counter() - started, len(self._items))
        if request.misbehavior:
            self._on_misbehaviour(request.height)
        return abci.ResponseFinalizeBlock(
            tx_results=[abci.ExecTxResult(code=code) for code in codes],
            validator_updates=list_validator_updates(block),
            app_hash=block.record.network_hash,
        )

    def _measure(self, seconds: float, executed: int) -> None:
        # By count: a block of one costs what a block costs, and says little of the next thousand.
        self._seconds += seconds - self._seconds / 4
        self._executed += executed - self._executed / 4

    def _submissions(self, items: Sequence[Item]) -> dict[str, list[Submission]]:
        submissions: dict[str, list[Submission]] = {}
        for item, submission in zip(items, self._judged.judge(items), strict=True):
            if submission is not None:
                submissions.setdefault(item.chain, []).append(submission)
        return submissions

    def commit(self, _: abci.RequestCommit) -> Future[abci.ResponseCommit]:
        """Make the block durable; only now is anybody told."""
        return self._execution.submit(self._commit)

    def _commit(self) -> abci.ResponseCommit:
        block = self._finalized
        assert block is not None, "Commit follows FinalizeBlock"
        self._ledger.commit(block)
        started = time.perf_counter()
        self._ledger.block_log.sync()  # The commit point: from here the block is there for good.
        seconds = time.perf_counter() - started
        self._finalized = None
        self._judged.forget(self._items)
        self._items = []
        self._note_sequences(block)
        self._on_commit(block, seconds)
        self._snapshots.note_block(block)
        return abci.ResponseCommit(retain_height=self._retained_height(block.height))

    def _note_sequences(self, block: NetworkBlock) -> None:
        if len(self._next) > MAX_LANES:
            self._next = {}
        for name, applied in block.chains.items():
            for verdict in applied.verdicts:
                if verdict.transaction is not None:
                    body = verdict.transaction.body
                    self._next[name, body.signers[0].account, body.lane] = body.sequence + 1

    def extend_vote(self, _: abci.RequestExtendVote) -> abci.ResponseExtendVote:
        """Add nothing to a vote; extensions are switched off."""
        return abci.ResponseExtendVote()

    def verify_vote_extension(
        self, request: abci.RequestVerifyVoteExtension
    ) -> abci.ResponseVerifyVoteExtension:
        """Accept a vote without an extension, and no other."""
        status = abci.ResponseVerifyVoteExtension
        is_bare = not request.vote_extension
        return abci.ResponseVerifyVoteExtension(status=status.ACCEPT if is_bare else status.REJECT)

    # Questions come over HTTP, not through the engine.

    def query(self, request: abci.RequestQuery) -> abci.ResponseQuery:
        """Answer where questions are answered."""
        return abci.ResponseQuery(
            code=REFUSED, log=f"path: expected a question to the node's HTTP, got {request.path}"
        )

    # State sync.

    def list_snapshots(self, _: abci.RequestListSnapshots) -> Future[abci.ResponseListSnapshots]:
        """Return the snapshots a new node can begin from."""
        return self._execution.submit(self._snapshots.list)

    def offer_snapshot(
        self, request: abci.RequestOfferSnapshot
    ) -> Future[abci.ResponseOfferSnapshot]:
        """Take or refuse a snapshot that a peer offers."""
        return self._execution.submit(self._snapshots.take_offer, request)

    def load_snapshot_chunk(
        self, request: abci.RequestLoadSnapshotChunk
    ) -> Future[abci.ResponseLoadSnapshotChunk]:
        """Return a chunk for a new node."""
        return self._execution.submit(self._snapshots.load, request)

    def apply_snapshot_chunk(
        self, request: abci.RequestApplySnapshotChunk
    ) -> Future[abci.ResponseApplySnapshotChunk]:
        """Check a chunk that a peer has sent, and restore with the last."""
        return self._execution.submit(self._snapshots.apply, request)


def _refuse(why: str) -> abci.ResponseCheckTx:
    return abci.ResponseCheckTx(code=REFUSED, log=why)


def list_validator_updates(block: NetworkBlock) -> Iterator[abci.ValidatorUpdate]:
    """Yield what a block changed in the set; one chain of the network holds it."""
    for applied in block.chains.values():
        for key, power in list_power_changes(applied.writes):
            assert key[0] == ED25519, "consensus keys are Ed25519"
            yield abci.ValidatorUpdate(pub_key=keys.PublicKey(ed25519=key[1:]), power=power)


def _unpack_all(bundles: Sequence[bytes]) -> tuple[list[int], list[Item]]:
    """Return a code for each bundle, and the transactions of those well-formed, in order.

    Proposals with any other are rejected; should two thirds accept one all the same, every node
    must skip it alike.
    """
    codes: list[int] = []
    items: list[Item] = []
    for data in bundles:
        try:
            items += unpack(data)
            codes.append(OK)
        except Malformed:
            codes.append(REFUSED)
    return codes, items
