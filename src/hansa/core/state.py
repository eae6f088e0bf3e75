"""The state of a chain while a block runs: typed tables over layers, with undo."""

from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar

import msgspec

from hansa.core.codec import encode

R = TypeVar("R")

MISSING: Final[Any] = object()

MAX_KNOWN: Final = 50_000
"""Decoded values kept for a chain after a flush."""


class StateReader(Protocol):
    """Where encoded values rest: the state store of the storage floor."""

    def get(self, key: bytes) -> bytes | None:
        """Return the encoded value under a key."""


class State:
    """Decoded values by key: this block's writes over known ones over the store.

    What committed blocks wrote stays known, and waits to be flushed, as does what was read from the
    store, so that keys in use are decoded once. A write made while a transaction runs is
    journalled, so that :meth:`undo` can take it back to any mark; marks nest.
    """

    __slots__ = ("_block", "_journal", "_known", "_prefix", "_store", "_unflushed")

    def __init__(self, store: StateReader, prefix: bytes = b"") -> None:
        self._store = store
        self._prefix = prefix
        self._known: dict[bytes, Any] = {}
        self._unflushed: dict[bytes, bytes | None] = {}
        self._block: dict[bytes, Any] = {}
        self._journal: list[tuple[bytes, Any]] = []

    def read(self, key: bytes, decode: Callable[[bytes], R]) -> R | None:
        """Return the value under a key, or None."""
        value = self._block.get(key, MISSING)
        if value is MISSING:
            value = self._known.get(key, MISSING)
            if value is MISSING:
                data = self._store.get(self._prefix + key)
                value = self._known[key] = None if data is None else decode(data)
        return value  # type: ignore[no-any-return]

    def write(self, key: bytes, value: object | None) -> None:
        """Set the value under a key; None deletes it."""
        block = self._block
        self._journal.append((key, block.get(key, MISSING)))
        block[key] = value

    def mark(self) -> int:
        """Return a point to which :meth:`undo` can go back."""
        return len(self._journal)

    def undo(self, mark: int) -> None:
        """Take back every write since the mark, newest first."""
        journal, block = self._journal, self._block
        while len(journal) > mark:
            key, old = journal.pop()
            if old is MISSING:
                del block[key]
            else:
                block[key] = old

    def block_writes(self) -> list[tuple[bytes, bytes | None]]:
        """Return this block's writes, encoded, sorted by key."""
        block = self._block
        return [(key, None if (v := block[key]) is None else encode(v)) for key in sorted(block)]

    def adopt_block(self, writes: Sequence[tuple[bytes, bytes | None]]) -> None:
        """Let this block's writes count as committed; they wait in memory to be flushed.

        ``writes`` are those of :meth:`block_writes`, so that nothing is encoded twice.
        """
        self._known.update(self._block)
        self._unflushed.update(writes)
        self.drop_block()

    def drop_block(self) -> None:
        """Forget this block's writes."""
        self._block = {}
        self._journal = []
        # What is refused leaves no block and so no flush, but is looked up all the same: without
        # this, anyone could fill the memory with accounts that don't exist.
        if len(self._known) > 2 * MAX_KNOWN:
            self._known = {key: self._known[key] for key in self._unflushed}

    def unflushed_writes(self) -> list[tuple[bytes, bytes | None]]:
        """Return all committed writes not yet in the store, encoded, with the chain's prefix."""
        prefix = self._prefix
        return [(prefix + key, value) for key, value in self._unflushed.items()]

    def mark_flushed(self) -> None:
        """Note that the store holds all of it; where much is known, forget it."""
        self._unflushed = {}
        if len(self._known) > MAX_KNOWN:
            self._known = {}

    @property
    def unflushed_count(self) -> int:
        """How many keys wait for a flush."""
        return len(self._unflushed)


class HasState(Protocol):
    """Anything a table can be read through: the context of a handler, a chain."""

    @property
    def state(self) -> State:
        """The state to read and write."""


class Table(Generic[R]):
    """A table of records of one type in a module's part of the state.

    Its keys start with the module's number and the table's, one byte each.
    """

    __slots__ = ("_decode", "prefix", "record")

    def __init__(self, module: int, table: int, record: type[R]) -> None:
        self.prefix = bytes((module, table))
        self.record = record
        self._decode: Callable[[bytes], R] = msgspec.msgpack.Decoder(record).decode

    def get(self, where: HasState, key: bytes) -> R | None:
        """Return the record under a key, or None."""
        return where.state.read(self.prefix + key, self._decode)

    def put(self, where: HasState, key: bytes, record: R) -> None:
        """Write the record under a key."""
        where.state.write(self.prefix + key, record)

    def delete(self, where: HasState, key: bytes) -> None:
        """Remove the record under a key."""
        where.state.write(self.prefix + key, None)

    def decode(self, data: bytes) -> R:
        """Decode a stored record, as a scan of the store meets it."""
        return self._decode(data)
