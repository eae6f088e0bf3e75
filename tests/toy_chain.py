"""A network of two small chains whose one module does what the core must cope with, and no more."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from hansa.core.apply import Verdict
from hansa.core.chain import schedule_version
from hansa.core.codec import I64, U8, U63, Account, ChainName, ShortText, TimeMs, Value, encode
from hansa.core.errors import Refused, Rejected
from hansa.core.finality import CheckpointSigner
from hansa.core.genesis import ChainGenesis, Genesis, ModuleGenesis
from hansa.core.keys import PublicKey, SigningKey, compute_account
from hansa.core.ledger import Ledger, NetworkBlock
from hansa.core.module import (
    KEYS,
    AccountKeys,
    Context,
    Deadlines,
    KeyValidity,
    Module,
    Rulebook,
)
from hansa.core.packet import Outgoing, Packet
from hansa.core.state import Table
from hansa.core.transaction import (
    Body,
    Event,
    Message,
    Signer,
    Transaction,
    message_number,
    sign_transaction,
)

TOY = 240
START_MS = 1_760_000_000_000
CONSORTIUM = b"\x01" + b"c" * 32
CHAINS = ("one", "two")


class Add(Message, tag=message_number(TOY, 1)):
    """Add to a tally that never falls below zero."""

    name: ShortText
    amount: I64


class AddTwice(Message, tag=message_number(TOY, 1, 2)):
    """Version 2 of Add: counts double."""

    name: ShortText
    amount: I64


class Spoil(Message, tag=message_number(TOY, 2)):
    """Write, emit, schedule and send, then be refused."""

    text: ShortText


class Explode(Message, tag=message_number(TOY, 3)):
    """Meet a bug, after writing."""

    name: ShortText


class Remind(Message, tag=message_number(TOY, 4)):
    """Have a deadline run."""

    at_ms: TimeMs
    name: ShortText


class Forget(Message, tag=message_number(TOY, 5)):
    """Cancel a deadline."""

    at_ms: TimeMs
    name: ShortText


class Upgrade(Message, tag=message_number(TOY, 6)):
    """Have another version in force from a height on."""

    at_height: U63
    version: U8


class Rotate(Message, tag=message_number(TOY, 7)):
    """Give an account a key from a height on, and no other."""

    account: Account
    key: PublicKey
    from_height: U63


class Post(Message, tag=message_number(TOY, 8)):
    """Send a packet."""

    destination: ChainName
    text: ShortText


class Added(Event, tag=message_number(TOY, 0x81)):
    """A tally has changed."""

    name: ShortText
    total: I64


class Reminded(Event, tag=message_number(TOY, 0x82)):
    """A deadline has run."""

    name: ShortText


class Negative(Rejected):
    number = TOY * 1000 + 1
    says = "amount: expected a total of 0 or more, got {given}"


class Spoiled(Rejected):
    number = TOY * 1000 + 2
    says = "text: expected nothing, got {given}"


class Tally(Value):
    """What has been added under a name."""

    total: int


TALLIES = Table(TOY, 1, Tally)
DEADLINES = Deadlines(TOY)


def _add(ctx: Context, name: str, amount: int) -> None:
    known = TALLIES.get(ctx, name.encode())
    total = (known.total if known else 0) + amount
    if total < 0:
        raise Negative(given=total)
    TALLIES.put(ctx, name.encode(), Tally(total))
    ctx.emit(Added(name, total))


def add(ctx: Context, msg: Add) -> None:
    """Add once."""
    _add(ctx, msg.name, msg.amount)


def add_twice(ctx: Context, msg: AddTwice) -> None:
    """Add double."""
    _add(ctx, msg.name, 2 * msg.amount)


def spoil(ctx: Context, msg: Spoil) -> None:
    """Leave something of every kind behind, then be refused."""
    _add(ctx, "spoil", 1)
    DEADLINES.schedule(ctx, ctx.time_ms + 1, b"spoil")
    post(ctx, Post("two", "spoil"))
    raise Spoiled(given=msg.text)


def explode(ctx: Context, msg: Explode) -> None:
    """Be a bug."""
    _add(ctx, msg.name, 1)
    raise ZeroDivisionError(msg.name)


def remind(ctx: Context, msg: Remind) -> None:
    """Schedule."""
    DEADLINES.schedule(ctx, msg.at_ms, msg.name.encode())


def forget(ctx: Context, msg: Forget) -> None:
    """Cancel."""
    DEADLINES.cancel(ctx, msg.at_ms, msg.name.encode())


def upgrade(ctx: Context, msg: Upgrade) -> None:
    """Schedule a version."""
    schedule_version(ctx, TOY, msg.at_height, msg.version)


def rotate(ctx: Context, msg: Rotate) -> None:
    """Replace the keys of an account."""
    KEYS.put(ctx, msg.account, AccountKeys((KeyValidity(msg.key, msg.from_height, 1 << 62),)))


def post(ctx: Context, msg: Post) -> None:
    """Put a packet into the outbox."""
    packet = Packet(module=TOY, deadline_ms=ctx.time_ms, payload=msg.text.encode())
    ctx.outbox.append(Outgoing(ctx.network, msg.destination, len(ctx.outbox), encode(packet)))


def on_deadline(ctx: Context, key: bytes) -> None:
    """Say so; a name that begins with `cancel ` cancels another that is due at the same time."""
    name = key.decode()
    if name.startswith("cancel "):
        DEADLINES.cancel(ctx, int(name.split(" ")[2]), name.split(" ")[1].encode())
    if name == "bug":
        raise ZeroDivisionError(name)
    ctx.emit(Reminded(name))


def on_genesis(ctx: Context, params: None) -> None:
    """Begin with a tally, so that the genesis has an event."""
    _add(ctx, "genesis", 1)


class NoParams(Value):
    """The toy takes no parameters."""


def make_toy(version: int) -> Module:
    """One of the two versions."""
    adding: dict[type[Message], Any] = {Add: add} if version == 1 else {AddTwice: add_twice}
    return Module(
        name="toy",
        number=TOY,
        version=version,
        handlers={
            **adding,
            Spoil: spoil,
            Explode: explode,
            Remind: remind,
            Forget: forget,
            Upgrade: upgrade,
            Rotate: rotate,
            Post: post,
        },
        events=(Added, Reminded),
        errors=(Negative, Spoiled),
        params=NoParams,
        on_genesis=on_genesis,
        on_deadline=on_deadline,
    )


def make_rulebooks(versions: Sequence[int] = (1, 2)) -> dict[str, Rulebook]:
    """The rules of both chains, in the versions of a release."""
    return {name: Rulebook(tuple(make_toy(version) for version in versions)) for name in CHAINS}


def make_genesis(signer: CheckpointSigner, name: str = "toy", interval: int = 5) -> Genesis:
    """Two chains that root their state every `interval` blocks, shown two blocks later."""
    modules = (ModuleGenesis(number=TOY, version=1, params=encode(NoParams())),)
    return Genesis(
        version=1,
        name=name,
        consortium=CONSORTIUM,
        is_sandbox=True,
        time_ms=START_MS,
        chains=tuple(ChainGenesis(name=chain, modules=modules) for chain in CHAINS),
        validators=(signer.public,),
        consensus=(),
        max_block_transactions=100,
        state_root_interval=interval,
        state_root_delay=2,
    )


def key_of(name: str) -> SigningKey:
    """The key of a name."""
    return SigningKey(sha256(name.encode()).digest())


def account_of(name: str) -> bytes:
    """The account of a name's key."""
    return compute_account(CONSORTIUM, key_of(name).public)


class Toy:
    """A ledger of the two chains in a folder, and parties that sign."""

    def __init__(
        self,
        folder: Path,
        *,
        name: str = "toy",
        interval: int = 5,
        versions: Sequence[int] = (1, 2),
    ) -> None:
        self.signer = CheckpointSigner(b"s" * 32)
        self.genesis = make_genesis(self.signer, name, interval)
        self.ledger = Ledger(folder, self.genesis, make_rulebooks(versions), self.signer)
        self.time_ms = START_MS + 1
        self.sequences: dict[tuple[str, str, int], int] = {}
        self.is_open = True

    def sign(
        self,
        *messages: Message,
        by: str | Sequence[str] = "anna",
        chain: str = "one",
        lane: int = 0,
        keys: Sequence[SigningKey] | None = None,
        **changes: Any,
    ) -> bytes:
        """An envelope with the next sequence of its first signer, and `changes` to its body."""
        names = [by] if isinstance(by, str) else list(by)
        signing = keys or [key_of(name) for name in names]
        place = (chain, names[0], lane)
        fields: dict[str, Any] = {
            "version": 1,
            "network": self.ledger.network,
            "chain": chain,
            "signers": tuple(
                Signer(account_of(name), key.public)
                for name, key in zip(names, signing, strict=True)
            ),
            "lane": lane,
            "sequence": self.sequences.get(place, 0),
            "valid_until_ms": self.time_ms + 1000,
            "messages": messages,
        }
        if "sequence" not in changes:
            self.sequences[place] = fields["sequence"] + 1
        return sign_transaction(Body(**{**fields, **changes}), signing)

    def decode(self, envelope: bytes, chain: str = "one") -> Transaction:
        """The transaction in an envelope."""
        return self.ledger.chains[chain].decode_transaction(envelope)

    def apply(self, *envelopes: bytes, chain: str = "one", is_signed: bool = True) -> NetworkBlock:
        """Run a block of these, and commit it."""
        decoded = [(self.decode(envelope, chain), is_signed) for envelope in envelopes]
        block = self.ledger.apply(self.time_ms, {chain: decoded})
        if block.is_empty:
            self.ledger.discard()
            return block
        self.ledger.commit(block)
        self.ledger.block_log.sync()
        self.ledger.publish(block)
        return block

    def run(self, *messages: Message, **options: Any) -> Verdict:
        """Run one transaction in a block of its own; returns its verdict."""
        chain = options.get("chain", "one")
        applied = self.apply(self.sign(*messages, **options), chain=chain).chains[chain]
        assert not applied.refusals, applied.refusals
        return applied.verdicts[-1]

    def refuse(self, envelope: bytes, **options: Any) -> Refused:
        """Run one transaction that is refused; returns why."""
        chain = options.get("chain", "one")
        ((_, refusal),) = self.apply(envelope, **options).chains[chain].refusals
        return refusal

    def total(self, name: str, chain: str = "one") -> int:
        """What a tally stands at."""
        tally = TALLIES.get(self.ledger.chains[chain], name.encode())
        return tally.total if tally else 0

    def app_hashes(self) -> dict[str, bytes]:
        """The app_hash of each chain."""
        return {name: chain.app_hash for name, chain in self.ledger.chains.items()}

    def close(self) -> None:
        """Let go of the files; closing twice does nothing."""
        if self.is_open:
            self.ledger.close()
        self.is_open = False
