"""The shape of a module, and what a handler is given to work with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from hansa.core.codec import Value, readable_name
from hansa.core.errors import Rejected
from hansa.core.hashing import tagged_hasher
from hansa.core.packet import Acknowledgement, Outgoing
from hansa.core.state import State, Table
from hansa.core.transaction import Event, Message

CORE_MODULE: Final = 0

_object_hash = tagged_hasher("object")
_deadline_salt_hash = tagged_hasher("deadline-salt")


def compute_object_id(chain: str, digest: bytes, message_index: int, ordinal: int = 0) -> bytes:
    """Return the id of the ordinal-th object made by a message: 16 bytes.

    H(chain | 0x00 | digest of the envelope | message index u16 | ordinal u16), cut to 128 bits; so
    whoever signs can know the id beforehand, and nobody can choose it.
    """
    place = (message_index << 16 | ordinal).to_bytes(4, "big")
    return _object_hash(chain.encode() + b"\0" + digest + place)[:16]


class Context:
    """What a handler sees: the chain, the block's time, who signed, and the state.

    The clock is the block's. Events and packets are kept only if all messages succeed.
    """

    __slots__ = (
        "_id_prefix",
        "_id_seed",
        "_ids",
        "chain",
        "events",
        "height",
        "log_root",
        "log_size",
        "message_index",
        "network",
        "outbox",
        "salt",
        "signers",
        "state",
        "time_ms",
    )

    def __init__(
        self, state: State, *, network: bytes, chain: str, height: int, time_ms: int,
        log_size: int, log_root: bytes,
    ) -> None:  # fmt: skip
        self.state = state
        self.network = network
        self.chain = chain
        self.height = height
        self.time_ms = time_ms
        self.log_size = log_size
        """Size and root of the chain's log before this block."""
        self.log_root = log_root
        self.signers: tuple[bytes, ...] = ()
        """Accounts that signed, in order; empty for deadlines and genesis."""
        self.salt = b""
        self.events: list[Event] = []
        self.outbox: list[Outgoing] = []
        self.message_index = 0
        self._id_seed = b""
        self._id_prefix = chain.encode() + b"\0"
        self._ids = 0

    def enter(self, digest: bytes, signers: tuple[bytes, ...], salt: bytes) -> None:
        """Begin a transaction, a deadline or the genesis: object ids follow from its digest."""
        self.signers = signers
        self.salt = salt
        self.events = []
        self._id_seed = self._id_prefix + digest
        self.message_index = 0
        self._ids = 0

    def enter_message(self, index: int) -> None:
        """Begin a message of the transaction: ids are counted anew."""
        self.message_index = index
        self._ids = 0

    @property
    def signer(self) -> bytes:
        """The first signer, whose nonce is spent."""
        return self.signers[0]

    def new_id(self) -> bytes:
        """Return the next object id of this message: 16 bytes, chosen by nobody."""
        ordinal = self._ids
        self._ids = ordinal + 1
        place = (self.message_index << 16 | ordinal).to_bytes(4, "big")
        return _object_hash(self._id_seed + place)[:16]

    def emit(self, event: Event) -> None:
        """Record what came of the message."""
        self.events.append(event)


Handler = Callable[[Context, Any], None]


class Sequence(Value):
    """Next sequence of an account on a lane."""

    next: int


class KeyValidity(Value):
    """A key of an account and the heights at which it may sign, both inclusive."""

    key: bytes
    from_height: int
    to_height: int


class AccountKeys(Value):
    """Keys attached to an account; an account without a record has its first key alone."""

    keys: tuple[KeyValidity, ...]


class Salted(Value):
    """A deadline's entry in the index: the salt its effects will be hidden under."""

    salt: bytes


class ActiveVersion(Value):
    """From which height which version of a module is in force."""

    versions: tuple[tuple[int, int], ...]
    """(height, version), heights rising."""


NONCES: Final = Table(CORE_MODULE, 0, Sequence)
"""By account and lane."""
KEYS: Final = Table(CORE_MODULE, 1, AccountKeys)
"""By account."""
DEADLINES_INDEX: Final = Table(CORE_MODULE, 2, Salted)
"""By time, module and the module's own key."""
VERSIONS: Final = Table(CORE_MODULE, 3, ActiveVersion)
"""By module name."""


class Deadlines:
    """A module's entries in the index by time."""

    __slots__ = ("_module",)

    def __init__(self, module: int) -> None:
        self._module = bytes((module,))

    def schedule(self, ctx: Context, at_ms: int, key: bytes) -> None:
        """Have on_deadline called with ``key`` in the first block later than ``at_ms``."""
        place = at_ms.to_bytes(8, "big") + self._module + key
        DEADLINES_INDEX.put(ctx, place, Salted(_deadline_salt_hash(ctx.salt + place)[:16]))

    def cancel(self, ctx: Context, at_ms: int, key: bytes) -> None:
        """Remove an entry; removing one that is gone already changes nothing."""
        place = at_ms.to_bytes(8, "big") + self._module + key
        if DEADLINES_INDEX.get(ctx, place) is not None:
            DEADLINES_INDEX.delete(ctx, place)


@dataclass(frozen=True)
class Module:
    """One version of a module: everything the core needs to run it."""

    name: str
    number: int
    version: int
    handlers: Mapping[type[Message], Handler]
    events: tuple[type[Event], ...] = ()
    errors: tuple[type[Rejected], ...] = ()
    params: type[Value] | None = None
    """What the genesis says to this module on this chain."""
    on_genesis: Callable[[Context, Any], None] | None = None
    on_deadline: Callable[[Context, bytes], None] | None = None
    on_packet: Callable[[Context, str, bytes], None] | None = None
    """(ctx, source chain, payload); a Rejected is acknowledged to the sender as refused."""
    on_acknowledgement: Callable[[Context, str, int, Acknowledgement], None] | None = None
    """(ctx, destination chain, sequence, acknowledgement) of a packet this module sent."""
    views: Any = None
    """The module's views.Views, for the read model; the rules never see it."""

    def message_names(self) -> dict[str, type[Message]]:
        """Return the messages by the name people use: ``orders.place``."""
        return {f"{self.name}.{readable_name(cls)}": cls for cls in self.handlers}


@dataclass
class Rulebook:
    """All modules of one chain, all versions that its history needs."""

    modules: tuple[Module, ...]
    by_number: dict[int, list[Module]] = field(init=False)

    def __post_init__(self) -> None:
        self.by_number = {}
        for module in self.modules:
            self.by_number.setdefault(module.number, []).append(module)

    @property
    def message_types(self) -> list[type[Message]]:
        """Every message of every version, each once."""
        return list(dict.fromkeys(cls for module in self.modules for cls in module.handlers))

    @property
    def event_types(self) -> list[type[Event]]:
        """Every event of every version, each once."""
        return list(dict.fromkeys(cls for module in self.modules for cls in module.events))

    def get(self, number: int, version: int) -> Module | None:
        """Return one version of a module."""
        versions = self.by_number.get(number, [])
        return next((module for module in versions if module.version == version), None)
