"""A chain: its rules, its state, its log, and the header that commits to them."""

import heapq
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from hansa.core.block import Header
from hansa.core.codec import make_decoder
from hansa.core.errors import OperatorError, Rejected
from hansa.core.genesis import ChainGenesis
from hansa.core.hashing import ZERO_DIGEST
from hansa.core.keys import compute_account
from hansa.core.merkle import EMPTY_ROOT
from hansa.core.module import (
    DEADLINES_INDEX,
    VERSIONS,
    ActiveVersion,
    Context,
    Handler,
    Module,
    Rulebook,
)
from hansa.core.state import State, StateReader
from hansa.core.tilelog import TileLog
from hansa.core.transaction import (
    Body,
    Message,
    Transaction,
    decode_body_head,
    decode_stored_envelope,
    make_body_type,
    make_transaction_decoder,
)


class Chain:
    """One logical ledger. Blocks are applied to it by :func:`hansa.core.apply.apply_block`."""

    def __init__(
        self, genesis: ChainGenesis, rulebook: Rulebook, *, network: bytes, consortium: bytes,
        ordinal: int, store: StateReader, log: TileLog, header: Header | None, app_hash: bytes,
        deadlines: Sequence[bytes], state_roots: Callable[[int], tuple[int, bytes]],
    ) -> None:  # fmt: skip
        self.genesis = genesis
        self.name = genesis.name
        self.network = network
        self.consortium = consortium
        self.rulebook = rulebook
        self.prefix = bytes((ordinal,))
        """First byte of all the chain's keys in the node's state store."""
        self.state = State(store, self.prefix)
        self.log = log
        self.header = header or make_resting_header(network, self.name)
        self.app_hash = app_hash
        self.state_root_at = state_roots
        self.decode_transaction: Callable[[bytes], Transaction] = make_transaction_decoder(
            rulebook.message_types
        )
        event_type = _union(rulebook.event_types)
        self.decode_event: Callable[[bytes], Any] = make_decoder(event_type, "event")
        # What lies in our own block log was checked when it was made.
        self.decode_stored_event: Callable[[bytes], Any] = msgspec.msgpack.Decoder(
            event_type
        ).decode
        self._decode_stored_body = msgspec.msgpack.Decoder(
            make_body_type(rulebook.message_types)
        ).decode
        self._message_names = {
            cls.__struct_config__.tag: name
            for module in rulebook.modules
            for name, cls in module.message_names().items()
        }
        self.handlers: dict[type[Message], Handler] = {}
        self.active: dict[int, Module] = {}
        self._version_changes: list[int] = []
        self._deadlines = list(deadlines)
        heapq.heapify(self._deadlines)
        self._accounts: dict[bytes, bytes] = {}
        self.activate_modules(self.header.height + 1)

    def first_accounts(self, key: bytes) -> bytes:
        """Return the account that a key has without any registration."""
        account = self._accounts.get(key)
        if account is None:
            if len(self._accounts) > 100_000:
                self._accounts.clear()
            account = self._accounts[key] = compute_account(self.consortium, key)
        return account

    def decode_stored_body(self, envelope: bytes) -> Body:
        """Decode the body of an envelope out of our own block log."""
        return self._decode_stored_body(decode_stored_envelope(envelope).body)

    def message_name(self, message: type[Message]) -> str:
        """Return the name of a message as people type it: ``orders.place``."""
        return self._message_names[message.__struct_config__.tag]

    def read_stored_head(self, envelope: bytes) -> tuple[bytes, str]:
        """Return who signed first and the messages' names (``orders.place``), parted by spaces.

        Of an envelope out of our own block log; what the messages say isn't read.
        """
        head = decode_body_head(decode_stored_envelope(envelope).body)
        names = self._message_names
        messages = " ".join([names[message.number] for message in head.messages])
        return head.signers[0].account, messages

    # Modules and their versions.

    def activate_modules(self, height: int) -> None:
        """Take the versions in force at a height: handlers of all others are out of reach."""
        self.active = {}
        self._version_changes = []
        for start in self.genesis.modules:
            changes = VERSIONS.get(self, bytes((start.number,)))
            plan = ((0, start.version), *(changes.versions if changes else ()))
            self._version_changes += [at for at, _ in plan if at > height]
            version = [version for at, version in plan if at <= height][-1]
            module = self.rulebook.get(start.number, version)
            if module is None:
                raise OperatorError(
                    f"module {start.number} on chain {self.name}: expected version {version} in "
                    f"this release, got none; install the release that has it, then start again"
                )
            self.active[start.number] = module
        self.handlers = {
            cls: handler
            for module in self.active.values()
            for cls, handler in module.handlers.items()
        }

    def open_block(self, height: int, time_ms: int) -> Context:
        """Begin a block; returns the context its handlers share."""
        if any(at <= height for at in self._version_changes):
            self.activate_modules(height)
        return Context(
            self.state,
            network=self.network,
            chain=self.name,
            height=height,
            time_ms=time_ms,
            log_size=self.header.log_size,
            log_root=self.header.log_root,
        )

    def drop_block(self) -> None:
        """Forget an unfinished block."""
        self.state.drop_block()

    def adopt(self, applied: Any) -> None:
        """Put an applied block in force (in memory; the block log makes it durable)."""
        if applied.log is None:
            self.drop_block()
            return
        prefix = DEADLINES_INDEX.prefix
        for key, value in applied.writes:
            if value is not None and key.startswith(prefix):
                heapq.heappush(self._deadlines, key[2:])
        if any(key.startswith(VERSIONS.prefix) for key, _ in applied.writes):
            self._version_changes.append(applied.header.height + 1)
        self.state.adopt_block(applied.writes)
        self.log.commit(applied.log)
        self.header = applied.header
        self.app_hash = applied.app_hash

    # Deadlines.

    def next_deadline_ms(self) -> int | None:
        """Return the time of the earliest deadline, or None."""
        heap = self._deadlines
        while heap and DEADLINES_INDEX.get(self, heap[0]) is None:
            heapq.heappop(heap)  # Cancelled since.
        return int.from_bytes(heap[0][:8], "big") if heap else None

    def due_deadlines(self, time_ms: int, limit: int) -> list[bytes]:
        """Return the keys of deadlines before ``time_ms``, earliest first; they stay scheduled."""
        heap = self._deadlines
        if not heap or int.from_bytes(heap[0][:8], "big") >= time_ms:
            return []
        due: list[bytes] = []
        while heap and len(due) < limit and int.from_bytes(heap[0][:8], "big") < time_ms:
            key = heapq.heappop(heap)
            is_repeated = due and due[-1] == key
            if not is_repeated and DEADLINES_INDEX.get(self, key) is not None:
                due.append(key)
        for key in due:
            heapq.heappush(heap, key)  # Until the block is adopted; then they are found gone.
        return due

    def run_deadline(self, ctx: Context, key: bytes) -> None:
        """Call the module whose deadline it is."""
        module = self.active[key[8]]
        assert module.on_deadline is not None, f"module {module.name} has no deadlines"
        module.on_deadline(ctx, key[9:])

    # Genesis.

    def run_genesis(self, ctx: Context) -> None:
        """Let each module write its first state."""
        for start in self.genesis.modules:
            module = self.active[start.number]
            if module.on_genesis is None:
                continue
            params = make_decoder(module.params, f"{self.name}.{module.name}")(start.params)
            try:
                module.on_genesis(ctx, params)
            except Rejected as error:
                raise OperatorError(f"genesis of {self.name}: {error.text}") from error


def make_resting_header(network: bytes, chain: str) -> Header:
    """Return what stands before the genesis block."""
    return Header(
        version=1,
        network=network,
        chain=chain,
        height=0,
        time_ms=0,
        log_size=0,
        log_root=EMPTY_ROOT,
        outbox_size=0,
        outbox_root=EMPTY_ROOT,
        previous=ZERO_DIGEST,
        writes=ZERO_DIGEST,
        state_height=0,
        state_root=bytes(32),
    )


def schedule_version(ctx: Context, module: int, at_height: int, version: int) -> None:
    """Have a version of a module in force from a height on; governance alone calls this."""
    record = VERSIONS.get(ctx, bytes((module,)))
    earlier = tuple(item for item in record.versions if item[0] < at_height) if record else ()
    VERSIONS.put(ctx, bytes((module,)), ActiveVersion((*earlier, (at_height, version))))


def _union(types: Sequence[type]) -> Any:
    union: Any = types[0]
    for item in types[1:]:
        union = union | item
    return union
