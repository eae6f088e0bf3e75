"""Why a client believes a node: pure checks, and the memory of the checkpoints it has seen."""

import os
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import msgspec

from hansa.core.block import (
    TRANSACTION,
    Entry,
    Header,
    Receipt,
    compute_app_hash,
    compute_events_root,
    compute_salt,
    decode_receipt,
    receipt_digest,
)
from hansa.core.codec import encode
from hansa.core.errors import Malformed, OperatorError
from hansa.core.finality import (
    TrustedNetwork,
    make_checkpoint,
    make_verifier_key,
    verify_header,
)
from hansa.core.merkle import ProofError, leaf_hash, verify_consistency, verify_inclusion
from hansa.core.note import Checkpoint, NoteError, open_note
from hansa.interface.client.outcomes import Included


class Unbelievable(Exception):
    """The node said something that its proof doesn't show: it is broken, or it lies."""


class Seen(NamedTuple):
    """Size and root of a log, as signed validators stated them."""

    size: int
    root: bytes


class SeenCheckpoints:
    """The newest checkpoint seen of each chain, in memory and, where a path is given, in a file.

    A node that shows one past to one client and another to the next is found out by whoever
    remembers.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._lock = Lock()
        self._seen: dict[str, dict[str, Seen]] = {}
        if path is not None and path.exists():
            self._seen = _read_seen(path)

    def get(self, network: bytes, chain: str) -> Seen | None:
        """Return what was seen last."""
        with self._lock:
            return self._seen.get(network.hex(), {}).get(chain)

    def put(self, network: bytes, chain: str, seen: Seen) -> None:
        """Remember a checkpoint; one smaller than the last changes nothing."""
        with self._lock:
            chains = self._seen.setdefault(network.hex(), {})
            last = chains.get(chain)
            if last is None or seen.size > last.size:
                chains[chain] = seen
                self._save()

    def _save(self) -> None:
        if self.path is None:
            return
        content = {
            network: {
                chain: {"size": seen.size, "root": seen.root.hex()} for chain, seen in logs.items()
            }
            for network, logs in self._seen.items()
        }
        # Replaced whole, so that a reader never meets half of it. Not forced to disk: what a power
        # failure takes is the last seconds of memory, and the older one still binds the node.
        draft = self.path.with_name(f"{self.path.name}.{os.getpid()}.new")
        draft.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=2))
        draft.replace(self.path)


def _read_seen(path: Path) -> dict[str, dict[str, Seen]]:
    try:
        content = msgspec.json.decode(path.read_bytes(), type=dict[str, dict[str, dict[str, Any]]])
        return {
            network: {
                chain: Seen(int(log["size"]), bytes.fromhex(log["root"]))
                for chain, log in logs.items()
            }
            for network, logs in content.items()
        }
    except (msgspec.DecodeError, KeyError, TypeError, ValueError) as error:
        raise OperatorError(
            f"{path}: expected the checkpoints seen so far, got {error}; remove the file to begin "
            f"anew, and know that the node can then show you another past"
        ) from None


ConsistencyPath = Generator[tuple[int, int], list[bytes], None]
"""Asks for the path between two sizes, and is sent it."""


def believe_header(
    header_bytes: bytes, finality: bytes, chain: str, trusted: TrustedNetwork,
    seen: SeenCheckpoints, now_ms: int,
) -> Generator[tuple[int, int], list[bytes], Header]:  # fmt: skip
    """Judge a header: final by the trusted validators, and of one history with the last seen.

    ``now_ms`` is the client's time, by which trust in validators may have expired. Yields (old,
    new) where it needs a consistency path. Raises: Unbelievable.
    """
    try:
        header = verify_header(header_bytes, finality, chain, trusted, now_ms=now_ms)
        now = Seen(header.log_size, header.log_root)
        last = seen.get(trusted.network, chain)
        if last is not None and last != now:
            old, new = sorted((last, now))
            path = [] if old.size == new.size else (yield old.size, new.size)
            verify_consistency(old.size, old.root, new.size, new.root, path)
    except ProofError as error:
        raise Unbelievable(f"{chain}: {error}") from None
    seen.put(trusted.network, chain, now)
    return header


def believe_note(
    note: bytes, header: Header, trusted: TrustedNetwork
) -> Generator[tuple[int, int], list[bytes], None]:
    """Judge a note of one node of a network whose headers are final by consensus.

    One of the trusted keys has signed it, and its log is of one history with a believed header's.
    Yields (old, new) where it needs a consistency path. Raises: Unbelievable.
    """
    try:
        checkpoint = _open_node_note(note, header.chain, trusted)
        now = Seen(header.log_size, header.log_root)
        noted = Seen(checkpoint.size, checkpoint.root)
        if noted != now:
            old, new = sorted((noted, now))
            path = [] if old.size == new.size else (yield old.size, new.size)
            verify_consistency(old.size, old.root, new.size, new.root, path)
        elif checkpoint != make_checkpoint(header, compute_app_hash(header)):
            raise ProofError("note: expected the app_hash of the final header, got another")
    except ProofError as error:
        raise Unbelievable(f"note of {header.chain}: {error}") from None


def _open_node_note(note: bytes, chain: str, trusted: TrustedNetwork) -> Checkpoint:
    keys = [make_verifier_key(trusted.network, chain, key) for key in trusted.validators]
    try:
        opened = open_note(note, keys)
        if opened.unverified or len(opened.verified) != 1:
            raise ProofError("note: expected one signature, of a trusted node, got more")
        checkpoint = Checkpoint.parse(opened.text)
    except NoteError as error:
        raise ProofError(str(error)) from None
    if checkpoint.origin != keys[0].name:
        raise ProofError(f"note: expected the origin {keys[0].name}, got {checkpoint.origin}")
    return checkpoint


def believe_inclusion(included: Included, digest: bytes, salt: bytes, header: Header) -> Receipt:
    """Judge that a receipt is in the log of a believed header and is about this envelope.

    ``digest`` and ``salt`` are those of the envelope that was sent. Raises: Unbelievable.
    """
    data = included.receipt if isinstance(included.receipt, bytes) else encode(included.receipt)
    try:
        receipt = decode_receipt(data)
        if (receipt.source, receipt.salt) != (digest, salt):
            raise ProofError("receipt: expected that of the envelope sent, got another's")
        if receipt.height != included.height:
            raise ProofError(f"height: expected {receipt.height}, got {included.height}")
        if included.path is None:
            raise ProofError("path: expected an inclusion path, got none")
        leaf = leaf_hash(encode_entry(receipt, data))
        verify_inclusion(leaf, included.leaf, header.log_size, included.path, header.log_root)
    except (ProofError, Malformed) as error:
        raise Unbelievable(f"receipt of {digest.hex()} on {header.chain}: {error}") from None
    return receipt


def encode_entry(receipt: Receipt, receipt_bytes: bytes) -> bytes:
    """Return the log entry that a transaction's receipt must have."""
    return encode(
        Entry(
            version=1,
            height=receipt.height,
            index=receipt.index,
            kind=TRANSACTION,
            source=receipt.source,
            receipt=receipt_digest(receipt_bytes),
            event_count=len(receipt.events),
            events_root=compute_events_root(receipt.salt, receipt.events),
        )
    )


salt_of_envelope = compute_salt
"""The salt of a receipt follows from the envelope, which only its parties hold."""


def agrees(row: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> bool | None:
    """Compare an object as it was shown with the records of the event that proves it.

    True if a record about this very object says the same in every field they share; False if it
    says otherwise; None if no record names the object, so that nothing can be said.
    """
    parts = str(row["id"]).split(":")
    verdict = None
    for record in records:
        # A record that doesn't name the object may be about another one, honestly proven.
        if not all(part in record.values() for part in parts):
            continue
        shared = [name for name, value in record.items() if name in row and _is_plain(value)]
        if len(shared) >= 2 and all(row[name] == record[name] for name in shared):
            return True
        if "id" in shared and row["id"] == record["id"]:
            verdict = False
    return verdict


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | bool | type(None))


def collect_records(value: Any) -> list[Mapping[str, Any]]:
    """Return every object inside a readable event, with its own nested fields laid flat.

    A balance stands beside the account it is of: ``debit`` and ``debit_balance``.
    """
    if isinstance(value, list):
        return [record for item in value for record in collect_records(item)]
    if not isinstance(value, dict):
        return []
    plain = {name: item for name, item in value.items() if name != "type"}
    flat = dict(plain)
    for name, item in plain.items():
        if isinstance(item, dict) and not name.endswith("_balance"):
            flat.update({key: part for key, part in item.items() if key not in plain})
    balances = [
        {**item, "account": plain.get(name.removesuffix("_balance")), **_currency_of(plain)}
        for name, item in plain.items()
        if name.endswith("_balance") and isinstance(item, dict)
    ]
    nested = [record for item in plain.values() for record in collect_records(item)]
    return [flat, *balances, *nested]


def _currency_of(plain: Mapping[str, Any]) -> dict[str, Any]:
    return {"currency": plain["currency"]} if "currency" in plain else {}
