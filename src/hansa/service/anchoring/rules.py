"""Anchoring's verbs: record checkpoints, notice forks and silence, tell the other chains."""

from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from hansa.core.block import Header, app_hash_of_bytes
from hansa.core.codec import encode, make_decoder
from hansa.core.errors import Malformed
from hansa.core.evidence import (
    Evidence,
    ForkFound,
    RewrittenPast,
    TwoHeaders,
    compute_evidence_digest,
)
from hansa.core.hashing import ZERO_DIGEST
from hansa.core.merkle import EMPTY_ROOT, ProofError, compute_roots_from_consistency
from hansa.core.module import Context, Deadlines, Module
from hansa.core.packet import MAX_PAYLOAD_BYTES, Acknowledgement
from hansa.core.readmodel import Views
from hansa.core.state import Table
from hansa.service.anchoring.model import (
    ERRORS,
    EVENTS,
    FORKED,
    LIVE,
    MODULE,
    STALE,
    AlreadyAnchored,
    AlreadyForked,
    Anchor,
    Anchored,
    AnchoredChain,
    AnchoringParams,
    AnchorReset,
    BadConsistency,
    ForkConfirmed,
    ForkRecorded,
    MalformedPacket,
    NotForked,
    NotNewer,
    NotTheAnchor,
    ReportFork,
    ResetAnchor,
    SignedAnchor,
    WentStale,
    compute_subject,
)
from hansa.service.anchoring.ports import Link, Members

ANCHORS: Final = Table(MODULE, 0, AnchoredChain)
"""By chain."""
SIGNED: Final = Table(MODULE, 1, SignedAnchor)
"""By chain."""
PARAMS: Final = Table(MODULE, 2, AnchoringParams)
DEADLINES: Final = Deadlines(MODULE)

_decode_packet: Callable[[bytes], ForkFound] = make_decoder(ForkFound, "packet")


class AnchoringRules:
    """The anchor chain's memory of all others, and what each chain makes of a proven fork."""

    def __init__(self, link: Link, members: Members) -> None:
        self._link = link
        self._members = members

    def on_genesis(self, ctx: Context, params: AnchoringParams) -> None:
        """On the anchor chain, begin to wait for each peer; link's genesis has run before."""
        PARAMS.put(ctx, b"", params)
        if not params.is_anchor:
            return
        for chain in self._link.get_peers(ctx):
            self._put_heard(ctx, _make_unheard(chain), params)

    # Messages.

    def anchor(self, ctx: Context, msg: Anchor) -> None:
        """Record a newer checkpoint of a chain, or the fork that it proves.

        Raises: NotTheAnchor, AlreadyForked, the errors of link, NotNewer, AlreadyAnchored,
        BadConsistency.
        """
        # CHECKS
        params = self._require_anchor(ctx)
        known = ANCHORS.get(ctx, msg.chain.encode()) or _make_unheard(msg.chain)
        if known.status == FORKED:
            raise AlreadyForked(chain=msg.chain)
        header = self._link.verify_header(ctx, msg.chain, msg.header, msg.finality)
        signed = SIGNED.get(ctx, msg.chain.encode())
        if evidence := _judge_history(known, signed, header, msg):
            # A refusal would drop the record of the fork; so the message succeeds.
            reason = self._link.judge_evidence(ctx, msg.chain, evidence)
            self._record_fork(ctx, known, evidence, reason, params)
            return
        # EFFECTS
        record = _make_record(ctx, header, msg.header)
        self._put_heard(ctx, record, params)
        SIGNED.put(ctx, msg.chain.encode(), SignedAnchor(msg.header, msg.finality))
        # EVENTS
        ctx.emit(Anchored(_get(ctx, msg.chain)))

    def report_fork(self, ctx: Context, msg: ReportFork) -> None:
        """Record a fork on evidence from anywhere, freeze the client, tell the other chains.

        Raises: NotTheAnchor, AlreadyForked, the errors of link.
        """
        # CHECKS
        params = self._require_anchor(ctx)
        known = ANCHORS.get(ctx, msg.chain.encode()) or _make_unheard(msg.chain)
        if known.status == FORKED:
            raise AlreadyForked(chain=msg.chain)
        reason = self._link.judge_evidence(ctx, msg.chain, msg.evidence)
        # EFFECTS, EVENTS
        self._record_fork(ctx, known, msg.evidence, reason, params)

    def reset_anchor(self, ctx: Context, msg: ResetAnchor) -> None:
        """Begin a forked chain's record anew from the history that governance has settled on.

        Link must have recovered the client before: a frozen one verifies no header.

        Raises: NotTheAnchor, NotForked, the errors of link, the errors of members.
        """
        # CHECKS
        params = self._require_anchor(ctx)
        known = ANCHORS.get(ctx, msg.chain.encode())
        if known is None or known.status != FORKED:
            raise NotForked(chain=msg.chain)
        header = self._link.verify_header(ctx, msg.chain, msg.header, msg.finality)
        subject = compute_subject(msg)
        self._members.take_resolution(ctx, msg.resolution, params.reset_purpose, subject)
        # EFFECTS
        self._put_heard(ctx, _make_record(ctx, header, msg.header), params)
        SIGNED.put(ctx, msg.chain.encode(), SignedAnchor(msg.header, msg.finality))
        # EVENTS
        ctx.emit(AnchorReset(_get(ctx, msg.chain)))

    # Deadlines and packets.

    def on_deadline(self, ctx: Context, key: bytes) -> None:
        """Mark a chain stale that was unheard for too long; it is live again once heard."""
        known = ANCHORS.get(ctx, key)
        if known is None or known.status != LIVE:
            return
        stale = replace(known, status=STALE)
        ANCHORS.put(ctx, key, stale)
        ctx.emit(WentStale(stale))

    def on_packet(self, ctx: Context, _source: str, payload: bytes) -> None:
        """Judge the evidence that another chain sends; who sends it counts for nothing.

        Raises: MalformedPacket, the errors of link.
        """
        try:
            packet = _decode_packet(payload)
        except Malformed:
            raise MalformedPacket(given=len(payload)) from None
        reason = self._link.judge_evidence(ctx, packet.chain, packet.evidence)
        digest = compute_evidence_digest(packet.evidence)
        self._link.freeze(ctx, packet.chain, digest, reason)
        ctx.emit(ForkConfirmed(packet.chain, digest))

    def on_acknowledgement(
        self, ctx: Context, destination: str, sequence: int, ack: Acknowledgement
    ) -> None:
        """Change nothing: a chain that didn't get the news can be shown the evidence by anyone."""

    # Records.

    def _require_anchor(self, ctx: Context) -> AnchoringParams:
        params = PARAMS.get(ctx, b"")
        if params is None or not params.is_anchor:
            raise NotTheAnchor(here=ctx.chain)
        return params

    def _put_heard(self, ctx: Context, record: AnchoredChain, params: AnchoringParams) -> None:
        """Keep a record as heard now, and wait anew for the next."""
        key = record.chain.encode()
        if known := ANCHORS.get(ctx, key):
            DEADLINES.cancel(ctx, known.heard_ms + params.stale_after_ms, key)
        ANCHORS.put(ctx, key, replace(record, heard_ms=ctx.time_ms, status=LIVE))
        DEADLINES.schedule(ctx, ctx.time_ms + params.stale_after_ms, key)

    def _record_fork(
        self,
        ctx: Context,
        known: AnchoredChain,
        evidence: Evidence,
        reason: str,
        params: AnchoringParams,
    ) -> None:
        digest = compute_evidence_digest(evidence)
        key = known.chain.encode()
        DEADLINES.cancel(ctx, known.heard_ms + params.stale_after_ms, key)
        forked = replace(known, status=FORKED)
        ANCHORS.put(ctx, key, forked)
        self._link.freeze(ctx, known.chain, digest, reason)
        ctx.emit(ForkRecorded(forked, digest))
        payload = encode(ForkFound(known.chain, evidence))
        if len(payload) > MAX_PAYLOAD_BYTES:
            return  # Signatures of many validators; anyone brings it to each chain's link instead.
        for peer in self._link.get_peers(ctx):
            if peer != known.chain:
                deadline_ms = ctx.time_ms + params.packet_deadline_ms
                self._link.send(ctx, peer, MODULE, payload, deadline_ms)


def _judge_history(
    known: AnchoredChain, signed: SignedAnchor | None, header: Header, msg: Anchor
) -> Evidence | None:
    """Compare a final header with what was anchored last; returns the evidence if it is denied.

    Raises: NotNewer, AlreadyAnchored, BadConsistency.
    """
    old_size, new_size = known.log_size, header.log_size
    if new_size < old_size:
        raise NotNewer(expected=old_size, given=new_size)
    bad = BadConsistency(old_size=old_size, new_size=new_size, given=len(msg.path))
    if signed is None:
        if msg.path:
            raise bad  # Nothing to be consistent with: a path here would be carried unchecked.
        return None
    if new_size == old_size:
        if header.log_root == known.log_root:
            raise AlreadyAnchored(expected=old_size, chain=msg.chain)
        return TwoHeaders(signed.header, signed.finality, msg.header, msg.finality)
    try:
        old, new = compute_roots_from_consistency(old_size, new_size, msg.path, known.log_root)
    except ProofError:
        raise bad from None
    # A path that doesn't even lead to the signed root was made up by whoever carried it.
    if new != header.log_root:
        raise bad
    if old != known.log_root:
        said = (signed.header, signed.finality, msg.header, msg.finality)
        return RewrittenPast(*said, old, msg.path)
    return None


def _make_unheard(chain: str) -> AnchoredChain:
    return AnchoredChain(
        chain=chain,
        height=0,
        log_size=0,
        log_root=EMPTY_ROOT,
        app_hash=ZERO_DIGEST,
        time_ms=0,
        heard_ms=0,
        status=LIVE,
    )


def _make_record(ctx: Context, header: Header, header_bytes: bytes) -> AnchoredChain:
    return AnchoredChain(
        chain=header.chain,
        height=header.height,
        log_size=header.log_size,
        log_root=header.log_root,
        app_hash=app_hash_of_bytes(header_bytes),
        time_ms=header.time_ms,
        heard_ms=ctx.time_ms,
        status=LIVE,
    )


def _get(ctx: Context, chain: str) -> AnchoredChain:
    record = ANCHORS.get(ctx, chain.encode())
    assert record is not None, "it was put a moment ago"
    return record


def make_module(rules: AnchoringRules, views: Views | None) -> Module:
    """Return version 1 of the module."""
    return Module(
        name="anchoring",
        number=MODULE,
        version=1,
        handlers={
            Anchor: rules.anchor,
            ReportFork: rules.report_fork,
            ResetAnchor: rules.reset_anchor,
        },
        events=EVENTS,
        errors=ERRORS,
        params=AnchoringParams,
        on_genesis=rules.on_genesis,
        on_deadline=rules.on_deadline,
        on_packet=rules.on_packet,
        on_acknowledgement=rules.on_acknowledgement,
        views=views,
    )
