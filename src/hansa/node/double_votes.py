"""Evidence of double votes, brought before the registry.

CometBFT gathers the evidence and puts it in a block, but takes no power away. Every node that sees
such a block reports it to the anchor chain, whose rules judge the two signatures and jail the key;
the first report counts, the others are refused. Where this network doesn't host the anchor chain,
the report is left as a file for ``hansa validators report``.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hansa.core.codec import to_readable
from hansa.core.errors import Malformed, Refused
from hansa.core.keys import compute_account
from hansa.core.lightblock import DuplicateVote, duplicate_vote_from_rpc, validators_from_rpc
from hansa.core.transaction import Body, Signer, sign_transaction
from hansa.network.comet.rpc import RpcClient, RpcTrouble
from hansa.network.intake import EngineBusy, EngineStopped
from hansa.node.composition import REGISTRY
from hansa.node.relay_end import RELAY_KEY, VALIDITY_MS
from hansa.service.validators.model import Report, compute_evidence_digest

if TYPE_CHECKING:
    from hansa.node.node import Node

_log = logging.getLogger(__name__)

LANE: Final = 1
"""Of the relay's account: its lane 0 counts what the relay carries."""

RETRY_S: Final = 2.0


class DoubleVotes:
    """Reports what CometBFT has found, in a thread of its own."""

    def __init__(self, node: Node, rpc: RpcClient) -> None:
        self._node = node
        self._rpc = rpc
        self._heights: deque[int] = deque()
        self._changed = threading.Condition()
        self._is_over = False
        self._thread: threading.Thread | None = None
        self.reported: list[DuplicateVote] = []
        """What this node has brought forward since it was started."""

    def note(self, height: int) -> None:
        """Say that the block at this height holds evidence; returns at once."""
        with self._changed:
            self._heights.append(height)
            self._changed.notify_all()

    def start(self) -> None:
        """Begin to report."""
        self._thread = threading.Thread(target=self._run, name="double-votes", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop; what was not reported is in the block, and other nodes report it."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._heights or self._is_over)
                if self._is_over:
                    return
                height = self._heights[0]
            try:
                for evidence in self._read(height):
                    self._report(evidence)
            except (RpcTrouble, EngineBusy) as trouble:
                _log.info("evidence of block %d: %s; tried again", height, trouble)
                with self._changed:
                    self._changed.wait_for(lambda: self._is_over, RETRY_S)
                continue
            except EngineStopped:
                return
            with self._changed:
                self._heights.popleft()

    def _read(self, height: int) -> list[DuplicateVote]:
        """Return the double votes in a block. Raises: RpcTrouble."""
        block = self._rpc.block(height)["block"]
        found = []
        for evidence in block["evidence"]["evidence"]:
            try:
                at = int(evidence["value"]["vote_a"]["height"])
                validators = validators_from_rpc(self._rpc.validators(at))
                found.append(duplicate_vote_from_rpc(evidence, validators))
            except (KeyError, Malformed) as error:
                # Of another kind: an attack on light clients, which the link's evidence is for.
                _log.warning("evidence of block %d: %s", height, error)
        return found

    def _report(self, evidence: DuplicateVote) -> None:
        """Bring it before the registry. Raises: EngineBusy, EngineStopped."""
        digest = compute_evidence_digest(evidence).hex()
        _log.warning("validator %s has voted twice at height %d: %s", evidence.key.hex(),
                     evidence.height, digest)  # fmt: skip
        self.reported.append(evidence)
        if REGISTRY not in self._node.ledger.chains:
            self._leave(self._node.home / "evidence" / f"{digest[2:18]}.json", evidence)
            return
        key = self._node.keys.get(RELAY_KEY)
        account = compute_account(self._node.genesis.consortium, key.public)
        body = Body(
            version=1,
            network=self._node.network,
            chain=REGISTRY,
            signers=(Signer(account, key.public),),
            lane=LANE,
            sequence=self._node.get_sequence(REGISTRY, account, LANE),
            valid_until_ms=self._node.ledger.time_ms + VALIDITY_MS,
            messages=(Report(evidence=evidence),),
        )
        try:
            self._node.submit(REGISTRY, sign_transaction(body, [key])).result()
        except Refused as refusal:
            _log.warning("report %s: %s", digest, refusal.text)

    def _leave(self, path: Path, evidence: DuplicateVote) -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(to_readable(Report(evidence=evidence)), indent=2))
        _log.warning("%s: report it to the registry: hansa validators report", path)
