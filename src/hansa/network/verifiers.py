"""Signatures verified on all cores, by worker processes.

A thread that verifies gives up the interpreter's lock for 40 µs and then has to win it back from
the thread that executes; measured, that costs more than the verification (docs/decisions/0005). A
worker process has a lock of its own. It is told (public key, signature, hash) by the hundred
through a pipe, answers a byte for each, and ends when the pipe does.
"""

import subprocess
import sys
from collections.abc import Sequence
from typing import IO, Final

from hansa.core.keys import verify_signatures

Claim = tuple[bytes, bytes, bytes]
"""Public key (33 bytes), signature (65), hash (32)."""

CLAIM_BYTES: Final = 33 + 65 + 32
WORKERS: Final = 2

INLINE_CLAIMS: Final = 64
"""Up to so many are verified on the spot: 3 ms of work, not worth a trip."""


class Verifiers:
    """A pool of workers, started with the first large batch. One thread uses it."""

    def __init__(self, workers: int = WORKERS) -> None:
        self._count = workers
        self._workers: list[subprocess.Popen[bytes]] = []

    def verify(self, claims: Sequence[Claim]) -> list[bool]:
        """Judge claims in order. A worker that dies is replaced, its share judged here."""
        if len(claims) <= INLINE_CLAIMS:
            return verify_signatures(claims)
        if not self._workers:
            self._workers = [_start_worker() for _ in range(self._count)]
        size = -(-len(claims) // self._count)
        shares = [claims[i : i + size] for i in range(0, len(claims), size)]
        is_sent = [
            _send(worker, share) for worker, share in zip(self._workers, shares, strict=False)
        ]
        verdicts: list[bool] = []
        for index, share in enumerate(shares):
            answer = _receive(self._workers[index], len(share)) if is_sent[index] else None
            if answer is None:
                self._workers[index].kill()
                self._workers[index].wait()
                self._workers[index] = _start_worker()
            verdicts += verify_signatures(share) if answer is None else answer
        return verdicts

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            assert worker.stdin is not None
            assert worker.stdout is not None
            try:
                worker.stdin.close()
            except BrokenPipeError:
                worker.kill()  # It is dead already, or as good as.
            worker.wait()
            worker.stdout.close()
        self._workers = []


def _start_worker() -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "hansa.network.verifiers"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def _send(worker: subprocess.Popen[bytes], claims: Sequence[Claim]) -> bool:
    """Write a request; False if the worker is gone."""
    assert worker.stdin is not None
    parts = [key + signature + digest for key, signature, digest in claims]
    # A key or signature of another length can't be valid; the decoder lets none through.
    assert all(len(part) == CLAIM_BYTES for part in parts)
    try:
        worker.stdin.write(len(parts).to_bytes(4, "big") + b"".join(parts))
        worker.stdin.flush()
    except BrokenPipeError:
        return False
    return True


def _receive(worker: subprocess.Popen[bytes], count: int) -> list[bool] | None:
    """Read a verdict for each claim; None if the worker has died over it."""
    assert worker.stdout is not None
    answer = worker.stdout.read(count)
    return [verdict == 1 for verdict in answer] if len(answer) == count else None


def work(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Serve requests until there are no more."""
    while header := requests.read(4):
        data = requests.read(int.from_bytes(header, "big") * CLAIM_BYTES)
        claims = [
            (data[i : i + 33], data[i + 33 : i + 98], data[i + 98 : i + CLAIM_BYTES])
            for i in range(0, len(data), CLAIM_BYTES)
        ]
        answers.write(bytes(verify_signatures(claims)))
        answers.flush()


if __name__ == "__main__":
    import signal

    # An interrupt from the terminal reaches the whole group; the node ends its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A node that was killed reads no answer; that is no fault of the worker's to complain about.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    work(sys.stdin.buffer, sys.stdout.buffer)
