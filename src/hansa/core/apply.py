"""One block of one chain: from transactions to state, receipts, log and roots."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from msgspec import Struct

from hansa.core.block import (
    DEADLINES,
    GENESIS,
    TRANSACTION,
    Fault,
    Header,
    Receipt,
    compute_app_hash,
    compute_salt,
    compute_writes_digest,
    deadlines_digest,
    make_entry,
)
from hansa.core.chain import Chain
from hansa.core.codec import clean_error_text, encode, readable_name
from hansa.core.errors import (
    BlockFull,
    Expired,
    InactiveMessage,
    Numbered,
    Refused,
    Rejected,
    TooFarAhead,
    UnknownKey,
    WrongChain,
    WrongNetwork,
    WrongNonce,
    WrongSignature,
)
from hansa.core.module import DEADLINES_INDEX, KEYS, NONCES, Context
from hansa.core.module import Sequence as LaneSequence
from hansa.core.packet import Page, compute_outbox_root, make_pages
from hansa.core.tilelog import Staged
from hansa.core.transaction import MAX_VALIDITY_MS, Event, Transaction

MAX_DEADLINES_PER_BLOCK: Final = 1_000
"""More that are due wait for the next block, which the engine makes at once."""

MAX_BLOCK_BYTES: Final = 32 * 1024 * 1024
"""Transactions, receipts and packets of a chain after which a block takes no more of them.

A message of a few bytes can make a large event, or a hundred packets. Without an end to it, one
member's block could be too large for the block log and stop the node.
"""


class Verdict(Struct, frozen=True, gc=False):
    """A receipt with its bytes and what it was about."""

    kind: int
    transaction: Transaction | None
    receipt: Receipt
    receipt_bytes: bytes
    events: Sequence[Event]


@dataclass(frozen=True)
class AppliedBlock:
    """What a block did to a chain; nothing of it is in force until the chain adopts it."""

    header: Header
    app_hash: bytes
    verdicts: Sequence[Verdict]
    refusals: Sequence[tuple[Transaction, Refused]]
    pages: Sequence[Page]
    log: Staged | None
    """None where nothing happened: the header before this one stays in force."""
    first_leaf: int
    writes: Sequence[tuple[bytes, bytes | None]]


def apply_block(
    chain: Chain, height: int, time_ms: int, transactions: Sequence[tuple[Transaction, bool]], *,
    shows_roots: bool = False,
) -> AppliedBlock:  # fmt: skip
    """Run a block on a chain: deadlines first, then each transaction on an overlay of its own.

    ``transactions`` come with the verdict on their signatures. Where a network ``shows_roots``, a
    chain with nothing to do gets a header all the same once the root of its state is another than
    the header in force says. Anything but a :class:`Rejected` that escapes a rule is a bug: it
    propagates, and the chain stays as it was.
    """
    ctx = chain.open_block(height, time_ms)
    verdicts: list[Verdict] = []
    refusals: list[tuple[Transaction, Refused]] = []
    try:
        if height == 0:
            verdicts.append(_run_genesis(chain, ctx))
        if due := chain.due_deadlines(time_ms, MAX_DEADLINES_PER_BLOCK):
            verdicts.append(_run_deadlines(chain, ctx, due))
        size = sum([len(verdict.receipt_bytes) for verdict in verdicts])
        for transaction, is_signed in transactions:
            if size > MAX_BLOCK_BYTES:
                refusals.append((transaction, BlockFull(limit=MAX_BLOCK_BYTES, given=size)))
            elif refusal := find_refusal(chain, ctx, transaction, is_signed):
                refusals.append((transaction, refusal))
            else:
                sent = len(ctx.outbox)
                verdict = _run_transaction(chain, ctx, transaction, len(verdicts))
                verdicts.append(verdict)
                size += len(transaction.envelope) + len(verdict.receipt_bytes)
                size += sum([len(outgoing.item) for outgoing in ctx.outbox[sent:]])
        return _close_block(chain, ctx, verdicts, refusals, shows_roots)
    except BaseException:
        chain.drop_block()
        raise


def _close_block(
    chain: Chain,
    ctx: Context,
    verdicts: Sequence[Verdict],
    refusals: list[tuple[Transaction, Refused]],
    shows_roots: bool,
) -> AppliedBlock:
    """Compute what the header commits to."""
    writes = chain.state.block_writes()
    pages = make_pages(ctx.outbox)
    first_leaf = chain.log.size
    rests = not shows_roots or chain.state_root_at(ctx.height)[1] == chain.header.state_root
    if not verdicts and not writes and rests:
        resting = chain.header
        return AppliedBlock(resting, chain.app_hash, (), refusals, (), None, first_leaf, ())
    staged = chain.log.stage([make_entry(v.kind, v.receipt, v.receipt_bytes) for v in verdicts])
    state_height, state_root = chain.state_root_at(ctx.height)
    header = Header(
        version=1,
        network=chain.network,
        chain=chain.name,
        height=ctx.height,
        time_ms=ctx.time_ms,
        log_size=staged.size,
        log_root=staged.root,
        outbox_size=len(pages),
        outbox_root=compute_outbox_root(pages),
        previous=chain.app_hash,
        writes=compute_writes_digest(writes),
        state_height=state_height,
        state_root=state_root,
    )
    app_hash = compute_app_hash(header)
    return AppliedBlock(header, app_hash, verdicts, refusals, pages, staged, first_leaf, writes)


def find_refusal(
    chain: Chain, ctx: Context, transaction: Transaction, is_signed: bool
) -> Refused | None:
    """Say why a transaction can't be judged at all, or None.

    In this order: WrongNetwork, WrongChain, Expired, TooFarAhead, InactiveMessage, UnknownKey,
    WrongNonce, WrongSignature.
    """
    body = transaction.body
    if body.network != chain.network:
        return WrongNetwork(expected=chain.network, given=body.network)
    if body.chain != chain.name:
        return WrongChain(expected=chain.name, given=body.chain)
    if body.valid_until_ms < ctx.time_ms:
        return Expired(time=ctx.time_ms, given=body.valid_until_ms)
    if body.valid_until_ms > ctx.time_ms + MAX_VALIDITY_MS:
        return TooFarAhead(limit=ctx.time_ms + MAX_VALIDITY_MS, given=body.valid_until_ms)
    for message in body.messages:
        if type(message) not in chain.handlers:
            version = message.__struct_config__.tag & 0xFF
            name = readable_name(type(message))
            return InactiveMessage(height=ctx.height, name=name, version=version)
    for signer in body.signers:
        if not is_key_of(chain, signer.account, signer.key, ctx.height):
            return UnknownKey(account=signer.account, height=ctx.height, key=signer.key)
    expected = get_sequence(chain, body.signers[0].account, body.lane)
    if body.sequence != expected:
        return WrongNonce(expected=expected, lane=body.lane, given=body.sequence)
    if not is_signed:
        key, signature, _ = transaction.claims[0]
        return WrongSignature(key=key, given=signature)
    return None


def is_key_of(chain: Chain, account: bytes, key: bytes, height: int) -> bool:
    """Tell whether a key may sign for an account at a height."""
    record = KEYS.get(chain, account)
    if record is None:
        return chain.first_accounts(key) == account
    return any(
        item.key == key and item.from_height <= height <= item.to_height for item in record.keys
    )


def get_sequence(chain: Chain, account: bytes, lane: int) -> int:
    """Return the sequence an account must use next on a lane."""
    record = NONCES.get(chain, account + lane.to_bytes(2, "big"))
    return 0 if record is None else record.next


def _run_transaction(chain: Chain, ctx: Context, transaction: Transaction, index: int) -> Verdict:
    """Run the messages, all or nothing, and spend the first signer's nonce either way."""
    body = transaction.body
    salt = compute_salt(transaction.envelope)
    signers = tuple([signer.account for signer in body.signers])
    ctx.enter(transaction.digest, signers, salt)
    place = signers[0] + body.lane.to_bytes(2, "big")
    NONCES.put(ctx, place, LaneSequence(body.sequence + 1))
    mark, sent = ctx.state.mark(), len(ctx.outbox)
    fault = None
    try:
        for message_index, message in enumerate(body.messages):
            ctx.enter_message(message_index)
            chain.handlers[type(message)](ctx, message)
    except Rejected as error:
        ctx.state.undo(mark)
        del ctx.outbox[sent:]
        ctx.events = []
        fault = make_fault(error)
    return _make_verdict(TRANSACTION, transaction, transaction.digest, ctx, index, fault)


def make_fault(error: Numbered) -> Fault:
    """Return the numbered error as a receipt keeps it."""
    return Fault(number=error.number, text=clean_error_text(error))


def _make_verdict(
    kind: int, transaction: Transaction | None, source: bytes, ctx: Context, index: int,
    fault: Fault | None,
) -> Verdict:  # fmt: skip
    receipt = Receipt(
        version=1,
        source=source,
        height=ctx.height,
        index=index,
        salt=ctx.salt,
        error=fault,
        events=tuple([encode(event) for event in ctx.events]),
    )
    return Verdict(kind, transaction, receipt, encode(receipt), ctx.events)


def _run_deadlines(chain: Chain, ctx: Context, due: Sequence[bytes]) -> Verdict:
    """Run what is due; a Rejected here is a bug, for nobody asked."""
    salts = [DEADLINES_INDEX.get(ctx, key).salt for key in due]  # type: ignore[union-attr]
    source = deadlines_digest(encode(due))
    ctx.enter(source, (), compute_salt(b"".join(salts)))
    for index, key in enumerate(due):
        if DEADLINES_INDEX.get(ctx, key) is None:
            continue  # An earlier deadline of this block has cancelled it.
        DEADLINES_INDEX.delete(ctx, key)
        ctx.enter_message(index)
        chain.run_deadline(ctx, key)
    return _make_verdict(DEADLINES, None, source, ctx, 0, None)


def _run_genesis(chain: Chain, ctx: Context) -> Verdict:
    ctx.enter(chain.network, (), compute_salt(chain.network))
    chain.run_genesis(ctx)
    return _make_verdict(GENESIS, None, chain.network, ctx, 0, None)
