"""Judges what a cluster has left behind: one history, and everything acknowledged in it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.abci_grammar import Call, check_grammar, check_heights
from tests.faults.consensus.cluster import Cluster, Member
from tests.faults.consensus.load import Acknowledged

from hansa.core.block import BlockRecord, decode_block_record
from hansa.core.errors import Malformed
from hansa.core.finality import MAX_DRIFT_MS, trust_network
from hansa.core.genesis import consensus_chain_id
from hansa.core.lightblock import LightBlock, decode_light_block, header_hash, light_block_from_rpc
from hansa.core.lightclient import LightClientError, TrustedConsensus, cross_check, follow
from hansa.core.transaction import envelope_digest
from hansa.network.comet.rpc import RpcClient, RpcTrouble
from hansa.node.node import system_clock
from hansa.storage.blocklog import BlockLog

LOOK_S: Final = 1.0


class History:
    """The blocks of all nodes, read from their logs as these grow."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.height = -1
        """Up to which the logs of all nodes were compared."""
        self.hashes: list[bytes] = []
        self._places: dict[bytes, tuple[int, int]] = {}
        """By digest, of all transactions: height and leaf."""
        self._settled: set[bytes] = set()

    def read_on(self) -> None:
        """Compare what all nodes have by now. Raises: AssertionError where two differ."""
        logs = [
            BlockLog(member.home / "ledger" / "blocks", read_only=True)
            for member in self._cluster.members
        ]
        try:
            for height in range(self.height + 1, min(log.height for log in logs)):
                payloads = [log.read(height + 1) for log in logs]
                for number, payload in enumerate(payloads[1:], 1):
                    assert payloads[0] == payload, f"block {height}: node0 and node{number} differ"
                self._take(decode_block_record(payloads[0]))
        finally:
            for log in logs:
                log.close()

    def _take(self, record: BlockRecord) -> None:
        self.height = record.height
        self.hashes.append(record.network_hash)
        for part in record.chains:
            if part.header is None:
                continue
            # Deadlines come before transactions, in the log and among the receipts.
            first = part.header.log_size - len(part.envelopes)
            for offset, envelope in enumerate(part.envelopes):
                digest = envelope_digest(envelope)
                assert digest not in self._places, f"{digest.hex()} stands in two blocks"
                self._places[digest] = (record.height, first + offset)

    def find_lost(self, acknowledged: Sequence[Acknowledged]) -> list[str]:
        """Return what was acknowledged and isn't where it was said to be, in every node."""
        lost = []
        for one in acknowledged:
            if one.digest in self._settled:
                continue
            found = self._places.get(one.digest)
            if found == (one.height, one.leaf):
                self._settled.add(one.digest)
            elif found is not None or one.height <= self.height:
                lost.append(f"{one}: expected there, got {found}")
        return lost

    def has_all(self, acknowledged: Sequence[Acknowledged]) -> bool:
        """Tell whether everything acknowledged was compared."""
        return all(one.height <= self.height for one in acknowledged)

    def check_light_blocks(self, member: Member) -> None:
        """What a node keeps as proof holds the network hash of each block before it."""
        chain_id = consensus_chain_id(bytes.fromhex(member.place.network))
        log = BlockLog(member.home / "ledger" / "light", read_only=True)
        with log:
            for height in range(max(log.first_height, 2), min(log.height, self.height) + 1):
                block = decode_light_block(log.read(height))
                assert chain_id == block.header.chain_id
                assert self.hashes[height - 1] == block.header.app_hash, f"height {height}"


def check_calls(home: Path) -> int:
    """Judge all that the engine has asked of a node by its own grammar; returns how many runs."""
    runs: list[list[Call]] = []
    for path in sorted(home.glob("calls-*.txt")):
        for line in path.read_text().splitlines():
            method, height = line.split()
            if method == "info" or not runs:
                runs.append([])
            runs[-1].append(Call(method, int(height)))
    for number, calls in enumerate(runs):
        # Whoever has lost everything starts clean again.
        methods = [call.method for call in calls]
        is_clean = number == 0 or (calls[0].height == 0 and "init_chain" in methods[1:2])
        check_grammar(methods, is_clean_start=is_clean)
        check_heights(calls)
    return len(runs)


class Watch:
    """Light clients, each following one node and asking the others what they have there."""

    def __init__(self, cluster: Cluster) -> None:
        trusted = trust_network(cluster.genesis).consensus
        assert trusted is not None
        self._chain_id = consensus_chain_id(bytes.fromhex(cluster.members[0].place.network))
        self._doors = [RpcClient(m.place.rpc, timeout_s=2.0) for m in cluster.members]
        self._trust: list[TrustedConsensus] = [trusted] * len(self._doors)
        self.believed: dict[int, bytes] = {}
        """By height, the hash of the header."""
        self.confirmed = 0
        """Headers that another node had too."""
        self.troubles: list[str] = []
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="light client", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop looking."""
        self._is_over.set()
        self._thread.join()
        for door in self._doors:
            door.close()

    def _run(self) -> None:
        while not self._is_over.wait(LOOK_S):
            for number in range(len(self._doors)):
                try:
                    self._look(number)
                except (RpcTrouble, Malformed):
                    continue  # Down, or asked for what it hasn't yet.
                except LightClientError as error:
                    self.troubles.append(f"node{number}: {error}")

    def _look(self, number: int) -> None:
        height = int(self._doors[number].status()["sync_info"]["latest_block_height"]) - 1
        trusted = self._trust[number]
        if height <= trusted.height:
            return
        block = self._fetch(number, height)
        self._trust[number] = follow(
            trusted, block, self._chain_id, now_ms=system_clock(), max_clock_drift_ms=MAX_DRIFT_MS
        )
        digest = header_hash(block.header)
        if self.believed.setdefault(height, digest) != digest:
            self.troubles.append(f"height {height}: two headers are believed")
        others = [n for n in range(len(self._doors)) if n != number]
        check = cross_check(block, [self._fetch_if_there(other, height) for other in others])
        self.confirmed += check.is_confirmed
        if check.diverging:
            self.troubles.append(f"height {height}: node{number} has another than {check}")

    def _fetch(self, number: int, height: int) -> LightBlock:
        door = self._doors[number]
        return light_block_from_rpc(
            door.commit(height), door.validators(height), door.validators(height + 1)
        )

    def _fetch_if_there(self, number: int, height: int) -> LightBlock | None:
        try:
            return self._fetch(number, height)
        except (RpcTrouble, Malformed):
            return None
