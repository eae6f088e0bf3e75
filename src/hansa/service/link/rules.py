"""Link's verbs: what is taken from other chains, what is sent there, and whom to believe."""

from collections.abc import Sequence
from typing import Any, Final, NoReturn

from msgspec.structs import replace

from hansa.core.block import Header, app_hash_of_bytes
from hansa.core.codec import clean_error_text, encode
from hansa.core.errors import Malformed, Numbered, Refused, Rejected
from hansa.core.evidence import Evidence, compute_evidence_digest, verify_evidence
from hansa.core.finality import TrustedNetwork, verify_final
from hansa.core.hashing import digester
from hansa.core.lightclient import NS_PER_MS, TrustedConsensus
from hansa.core.merkle import ProofError, leaf_hash, verify_inclusion
from hansa.core.module import Context, Deadlines, Module
from hansa.core.packet import (
    DONE,
    EXPIRED,
    MAX_PAYLOAD_BYTES,
    REFUSED,
    Acknowledgement,
    Outgoing,
    Packet,
    Page,
    decode_item,
    decode_page,
)
from hansa.core.readmodel import Views
from hansa.core.state import Table
from hansa.service.link.model import (
    ERRORS,
    EVENTS,
    MAX_EARLIER,
    MAX_FROZEN_REASON,
    MAX_PEERS,
    MAX_REASON_BYTES,
    MODULE,
    Acknowledged,
    AcknowledgementUnheard,
    AlreadyReceived,
    BadHeader,
    BadPage,
    BadPageProof,
    Beaten,
    Client,
    ClientExists,
    ClientExpired,
    ClientFrozen,
    ClientOpened,
    ClientRecovered,
    ClientUpdated,
    EarlierTrust,
    ForkRecorded,
    HeaderFromFuture,
    Latest,
    LinkParams,
    MalformedItem,
    MalformedPayload,
    NextSequence,
    NoSuchModule,
    NotEvidence,
    NotMonotonic,
    NotNewer,
    OpenClient,
    OtherNetwork,
    OwnChain,
    PacketRefused,
    PageProof,
    Peers,
    Pending,
    Receive,
    Received,
    RecoverClient,
    Sent,
    SequenceGap,
    SubmitEvidence,
    TooManyClients,
    UnknownClient,
    UnknownPacket,
    UpdateClient,
    WrongDestination,
    compute_subject,
    make_unheard,
)
from hansa.service.link.ports import Members, Routes

CLIENTS: Final = Table(MODULE, 0, Client)
"""By chain."""
OUT: Final = Table(MODULE, 1, NextSequence)
"""By destination: the sequence the next item gets."""
IN: Final = Table(MODULE, 2, NextSequence)
"""By source: the sequence the next item must have."""
PENDING: Final = Table(MODULE, 3, Pending)
"""By destination and sequence."""
HEARTBEAT: Final = Deadlines(MODULE)
PARAMS: Final = Table(MODULE, 4, LinkParams)
PEERS: Final = Table(MODULE, 5, Peers)
EARLIER: Final = Table(MODULE, 6, EarlierTrust)
"""By chain; only those on CometBFT whose validators have changed."""

_FIRST: Final = NextSequence(0)
_conflict_digest = digester("link-conflict")


class LinkRules:
    """Packets in and out, clients, and what is done on evidence of a fork."""

    def __init__(self) -> None:
        self._routes: Routes = {}
        self._members: Members | None = None

    def connect(self, routes: Routes, members: Members) -> None:
        """Set who takes packets and who governs; called once, when all modules exist."""
        self._routes = routes
        self._members = members

    def for_module(self, number: int) -> "ModuleLink":
        """Return link as the module of this number calls it."""
        return ModuleLink(self, number)

    # Genesis.

    def on_genesis(self, ctx: Context, params: LinkParams) -> None:
        """Open a client of each peer.

        Raises: OwnChain, ClientExists, TooManyClients.
        """
        PARAMS.put(ctx, b"", params)
        PEERS.put(ctx, b"", Peers(()))
        self._schedule_beat(ctx, params)
        for peer in params.peers:
            trusted = TrustedNetwork(peer.network or ctx.network, peer.validators, peer.consensus)
            self._check_openable(ctx, peer.chain)
            self._open(ctx, peer.chain, trusted, params.trusting_period_ms)

    def on_deadline(self, ctx: Context, _: bytes) -> None:
        """Beat, so that a chain nobody uses can still renew the clients that others have of it."""
        self._schedule_beat(ctx, self._params(ctx))
        ctx.emit(Beaten(ctx.time_ms + self._params(ctx).heartbeat_ms))

    def _schedule_beat(self, ctx: Context, params: LinkParams) -> None:
        if params.heartbeat_ms:
            HEARTBEAT.schedule(ctx, ctx.time_ms + params.heartbeat_ms, b"")

    # Messages.

    def receive(self, ctx: Context, msg: Receive) -> None:
        """Take packets and acknowledgements of one block of another chain, in order, each once.

        Raises: UnknownClient, ClientFrozen, ClientExpired, BadPage, WrongDestination, SequenceGap,
        AlreadyReceived, BadHeader, HeaderFromFuture, BadPageProof, NotMonotonic.
        """
        # CHECKS
        client = self.require_client(ctx, msg.source)
        source = msg.source.encode()
        expected = (IN.get(ctx, source) or _FIRST).next
        pages = _decode_pages(ctx, expected, msg.pages)
        header, trusted = self._verify_header(ctx, client, msg.header, msg.finality)
        for index, proof in enumerate(msg.pages):
            _verify_page(index, proof, header)
        latest = _make_latest(header, msg.header)
        if _is_fork(client.latest, latest):
            self._freeze_on_conflict(ctx, client, latest)
            return
        _check_monotonic(client.latest, latest)
        # EFFECTS
        # REPLAY PROTECTION: the place in the stream moves past every item of this message, whatever
        # becomes of it, so none can be taken again from this block, another one or another relay.
        items, first = _list_new_items(pages, expected)
        IN.put(ctx, source, NextSequence(first + len(items)))
        ctx.emit(Received(msg.source, header.height, first, len(items)))
        self._take_items(ctx, msg.source, first, items)
        # EVENTS
        self._advance(ctx, client, latest, trusted)

    def update_client(self, ctx: Context, msg: UpdateClient) -> None:
        """Verify a newer header, from whose time the trusting period runs anew.

        Raises: UnknownClient, ClientFrozen, ClientExpired, BadHeader, HeaderFromFuture,
        NotMonotonic, NotNewer.
        """
        # CHECKS
        client = self.require_client(ctx, msg.chain)
        header, trusted = self._verify_header(ctx, client, msg.header, msg.finality)
        latest = _make_latest(header, msg.header)
        if _is_fork(client.latest, latest):
            self._freeze_on_conflict(ctx, client, latest)
            return
        _check_monotonic(client.latest, latest)
        if latest.log_size <= client.latest.log_size:
            raise NotNewer(expected=client.latest.log_size, given=latest.log_size)
        # EFFECTS, EVENTS
        self._advance(ctx, client, latest, trusted)

    def submit_evidence(self, ctx: Context, msg: SubmitEvidence) -> None:
        """Freeze the client of a chain that is proven to have forked.

        An expired client is judged too: what it signed stays signed.

        Raises: UnknownClient, ClientFrozen, NotEvidence.
        """
        # CHECKS
        client = self._require_known(ctx, msg.chain)
        if client.is_frozen:
            raise ClientFrozen(chain=msg.chain, reason=client.frozen_reason)
        reason = self.judge_evidence(ctx, msg.chain, msg.evidence)
        # EFFECTS, EVENTS
        self.freeze(ctx, msg.chain, compute_evidence_digest(msg.evidence), reason)

    def open_client(self, ctx: Context, msg: OpenClient) -> None:
        """Begin to trust another chain.

        Raises: OwnChain, ClientExists, TooManyClients, the errors of members.
        """
        # CHECKS
        self._check_openable(ctx, msg.chain)
        purpose = self._params(ctx).open_purpose
        self._govern(ctx, msg.resolution, purpose, compute_subject(msg))
        # EFFECTS, EVENTS
        self._open(ctx, msg.chain, msg.trusted, msg.trusting_period_ms)

    def recover_client(self, ctx: Context, msg: RecoverClient) -> None:
        """Trust a chain again from a given header on, with these validators.

        Raises: UnknownClient, OtherNetwork, BadHeader, HeaderFromFuture, ClientExpired, the errors
        of members.
        """
        # CHECKS
        client = self._require_known(ctx, msg.chain)
        if msg.trusted.network != client.trusted.network:
            raise OtherNetwork(expected=client.trusted.network, given=msg.trusted.network)
        fresh = replace(
            client,
            trusted=msg.trusted,
            trusting_period_ms=msg.trusting_period_ms,
            is_frozen=False,
            frozen_reason="",
        )
        header, trusted = self._verify_header(ctx, fresh, msg.header, msg.finality)
        fresh = replace(fresh, trusted=trusted, latest=_make_latest(header, msg.header))
        _check_period(ctx, fresh)
        purpose = self._params(ctx).recover_purpose
        self._govern(ctx, msg.resolution, purpose, compute_subject(msg))
        # EFFECTS
        # REPLAY PROTECTION: the streams go on where they stood; beginning them anew would let every
        # packet of the past be taken a second time.
        CLIENTS.put(ctx, msg.chain.encode(), fresh)
        EARLIER.delete(ctx, msg.chain.encode())
        # EVENTS
        ctx.emit(ClientRecovered(fresh))

    # Ports, for other modules.

    def has_client(self, ctx: Context, chain: str) -> bool:
        """Tell whether packets to a chain can be sent."""
        return CLIENTS.get(ctx, chain.encode()) is not None

    def get_client(self, ctx: Context, chain: str) -> Client | None:
        """Return what is known of a chain, or None."""
        return CLIENTS.get(ctx, chain.encode())

    def get_peers(self, ctx: Context) -> tuple[str, ...]:
        """Return the chains with a client here, in byte order."""
        peers = PEERS.get(ctx, b"")
        return peers.chains if peers else ()

    def require_client(self, ctx: Context, chain: str) -> Client:
        """Return the client of a chain that may be believed now.

        Raises: UnknownClient, ClientFrozen, ClientExpired.
        """
        client = self._require_known(ctx, chain)
        if client.is_frozen:
            raise ClientFrozen(chain=chain, reason=client.frozen_reason)
        _check_period(ctx, client)
        return client

    def verify_header(self, ctx: Context, chain: str, header: bytes, finality: bytes) -> Header:
        """Judge a header of a chain that may be believed now; changes nothing.

        Raises: UnknownClient, ClientFrozen, ClientExpired, BadHeader, HeaderFromFuture.
        """
        return self._verify_header(ctx, self.require_client(ctx, chain), header, finality)[0]

    def judge_evidence(self, ctx: Context, chain: str, evidence: Evidence) -> str:
        """Return in words what evidence shows, whether the client is frozen already or not.

        Raises: UnknownClient, NotEvidence.
        """
        client = self._require_known(ctx, chain)
        try:
            return verify_evidence(evidence, chain, client.trusted, _list_earlier(ctx, client))
        except ProofError as error:
            raise NotEvidence(chain=chain, reason=_cut_reason(error)) from None

    def freeze(self, ctx: Context, chain: str, evidence: bytes, reason: str) -> None:
        """Believe nothing more of a chain; the caller has judged the evidence with this digest.

        Freezing it again changes nothing. Raises: UnknownClient.
        """
        client = self._require_known(ctx, chain)
        if not client.is_frozen:
            self._freeze(ctx, client, evidence, reason)

    def send(
        self, ctx: Context, sender: int, destination: str, module: int, payload: bytes,
        deadline_ms: int,
    ) -> int:  # fmt: skip
        """Put a packet of module ``sender`` for another chain's ``module`` into its stream.

        Packets to a frozen client's chain are sent too: what is doubted is what it says, and the
        sender's own deadline ends the wait.

        Raises: UnknownClient.
        """
        assert len(payload) <= MAX_PAYLOAD_BYTES, f"packet of {len(payload)} bytes"
        if not self.has_client(ctx, destination):
            raise UnknownClient(here=ctx.chain, chain=destination)
        packet = Packet(module=module, deadline_ms=deadline_ms, payload=payload)
        sequence = _append(ctx, destination, encode(packet))
        pending = Pending(module=sender, deadline_ms=deadline_ms, height=ctx.height)
        PENDING.put(ctx, _pending_key(destination, sequence), pending)
        ctx.emit(Sent(destination, sequence, sender, module, deadline_ms))
        return sequence

    # Items, one by one.

    def _take_items(self, ctx: Context, source: str, first: int, items: Sequence[bytes]) -> None:
        # The relay signed the transaction, not what it carries: a module that takes a packet must
        # never find the relay's account where it looks for the author's.
        relays, ctx.signers = ctx.signers, ()
        for sequence, data in enumerate(items, first):
            try:
                item = decode_item(data)
            except Malformed:
                # A stream that stopped here would hold back all that its source sends after it.
                error = MalformedItem(given=len(data))
                self._refuse(ctx, source, sequence, REFUSED, error)
                continue
            if isinstance(item, Packet):
                self._take_packet(ctx, source, sequence, item)
            else:
                self._take_acknowledgement(ctx, source, item)
        ctx.signers = relays

    def _take_packet(self, ctx: Context, source: str, sequence: int, packet: Packet) -> None:
        """Hand a packet to its module on a savepoint, and append what came of it."""
        if ctx.time_ms > packet.deadline_ms:
            self._refuse(ctx, source, sequence, EXPIRED, None)
            return
        on_packet = self._routes.get(packet.module, (None, None))[0]
        if on_packet is None:
            error = NoSuchModule(here=ctx.chain, module=packet.module)
            self._refuse(ctx, source, sequence, REFUSED, error)
            return
        mark, events, sent = ctx.state.mark(), len(ctx.events), len(ctx.outbox)
        try:
            on_packet(ctx, source, packet.payload)
        except (Rejected, Refused) as reason:
            ctx.state.undo(mark)
            del ctx.events[events:]
            del ctx.outbox[sent:]
            # What the codec says of bytes differs between its versions; what a rule says doesn't.
            refusal = (
                MalformedPayload(module=packet.module, given=len(packet.payload))
                if isinstance(reason, Refused)
                else reason
            )
            self._refuse(ctx, source, sequence, REFUSED, refusal)
            return
        ack = Acknowledgement(sequence=sequence, outcome=DONE, number=0, text="")
        _append(ctx, source, encode(ack))

    def _refuse(
        self, ctx: Context, source: str, sequence: int, outcome: Any, error: Numbered | None
    ) -> None:
        number, text = (error.number, clean_error_text(error)) if error else (0, "")
        ack = Acknowledgement(sequence=sequence, outcome=outcome, number=number, text=text)
        _append(ctx, source, encode(ack))
        ctx.emit(PacketRefused(source, sequence, outcome, number, text))

    def _take_acknowledgement(self, ctx: Context, source: str, ack: Acknowledgement) -> None:
        """End a pending packet, and tell the module that sent it."""
        key = _pending_key(source, ack.sequence)
        pending = PENDING.get(ctx, key)
        # REPLAY PROTECTION: a packet ends once. A second acknowledgement, or one of a packet never
        # sent, comes only from a chain that lies, and moves nothing here.
        if pending is None:
            _record_unheard(ctx, source, ack, UnknownPacket(chain=source, given=ack.sequence))
            return
        PENDING.delete(ctx, key)
        ctx.emit(
            Acknowledged(
                destination=source,
                sequence=ack.sequence,
                module=pending.module,
                deadline_ms=pending.deadline_ms,
                sent_height=pending.height,
                outcome=ack.outcome,
                number=ack.number,
                text=ack.text,
            )
        )
        on_acknowledgement = self._routes.get(pending.module, (None, None))[1]
        if on_acknowledgement is None:
            error = NoSuchModule(here=ctx.chain, module=pending.module)
            _record_unheard(ctx, source, ack, error)
            return
        mark, events, sent = ctx.state.mark(), len(ctx.events), len(ctx.outbox)
        try:
            on_acknowledgement(ctx, source, ack.sequence, ack)
        except Rejected as reason:
            ctx.state.undo(mark)
            del ctx.events[events:]
            del ctx.outbox[sent:]
            _record_unheard(ctx, source, ack, reason)

    # Clients.

    def _params(self, ctx: Context) -> LinkParams:
        params = PARAMS.get(ctx, b"")
        assert params is not None, "link runs on no chain without its genesis parameters"
        return params

    def _govern(self, ctx: Context, resolution: bytes, purpose: str, subject: bytes) -> None:
        assert self._members is not None, "link is connected before the first block"
        self._members.take_resolution(ctx, resolution, purpose, subject)

    def _require_known(self, ctx: Context, chain: str) -> Client:
        client = CLIENTS.get(ctx, chain.encode())
        if client is None:
            raise UnknownClient(here=ctx.chain, chain=chain)
        return client

    def _check_openable(self, ctx: Context, chain: str) -> None:
        if chain == ctx.chain:
            raise OwnChain(chain=chain)
        if self.has_client(ctx, chain):
            raise ClientExists(chain=chain)
        if len(self.get_peers(ctx)) >= MAX_PEERS:
            raise TooManyClients(limit=MAX_PEERS, chain=chain)

    def _open(self, ctx: Context, chain: str, trusted: TrustedNetwork, period_ms: int) -> None:
        client = Client(
            chain=chain,
            trusted=trusted,
            trusting_period_ms=period_ms,
            latest=make_unheard(ctx.time_ms),
            is_frozen=False,
            frozen_reason="",
        )
        CLIENTS.put(ctx, chain.encode(), client)
        chains = sorted((*self.get_peers(ctx), chain), key=str.encode)
        PEERS.put(ctx, b"", Peers(tuple(chains)))
        ctx.emit(ClientOpened(client))

    def _verify_header(
        self, ctx: Context, client: Client, header_bytes: bytes, finality: bytes
    ) -> tuple[Header, TrustedNetwork]:
        # REPLAY PROTECTION: header and checkpoint name network and chain, so one chain's blocks are
        # worthless as another's, and those of a network's copy (a test network, a fork) as its own.
        drift_ms = self._params(ctx).max_clock_drift_ms
        try:
            header, trusted = verify_final(
                header_bytes,
                finality,
                client.chain,
                client.trusted,
                now_ms=ctx.time_ms,
                max_drift_ms=drift_ms,
                earlier=_list_earlier(ctx, client),
            )
        except ProofError as error:
            raise BadHeader(chain=client.chain, reason=_cut_reason(error)) from None
        # A header from far ahead would stretch the trusting period by as much.
        limit = ctx.time_ms + drift_ms
        if header.time_ms > limit:
            raise HeaderFromFuture(limit=limit, given=header.time_ms)
        return header, trusted

    def _advance(
        self, ctx: Context, client: Client, latest: Latest, trusted: TrustedNetwork
    ) -> None:
        """Remember a verified header if it is newer; pages of older blocks come late, and may.

        With it goes the trust in who made it final, so that it follows the validators' changes.
        """
        if latest.log_size <= client.latest.log_size:
            return
        # One of the items may have had a module freeze this very client meanwhile.
        now = CLIENTS.get(ctx, client.chain.encode())
        assert now is not None, "no client is ever removed"
        _remember(ctx, now, trusted)
        client = replace(now, latest=latest, trusted=trusted)
        CLIENTS.put(ctx, client.chain.encode(), client)
        ctx.emit(ClientUpdated(client))

    def _freeze_on_conflict(self, ctx: Context, client: Client, latest: Latest) -> None:
        # Two final headers that can't both be true have met here. A refusal would drop the effect
        # and let the fork go on speaking; so the message succeeds, takes nothing and freezes.
        evidence = _conflict_digest(encode((client.latest, latest)))
        self._freeze(ctx, client, evidence, f"two headers at log size {latest.log_size}")

    def _freeze(self, ctx: Context, client: Client, evidence: bytes, reason: str) -> None:
        frozen = replace(client, is_frozen=True, frozen_reason=reason[:MAX_FROZEN_REASON])
        CLIENTS.put(ctx, client.chain.encode(), frozen)
        ctx.emit(ForkRecorded(frozen, evidence))


class ModuleLink:
    """Link as one module calls it; what that module sends is known as its own."""

    __slots__ = (
        "_number",
        "_rules",
        "freeze",
        "get_client",
        "get_peers",
        "has_client",
        "judge_evidence",
        "verify_header",
    )

    def __init__(self, rules: LinkRules, number: int) -> None:
        self._rules = rules
        self._number = number
        self.has_client = rules.has_client
        self.get_client = rules.get_client
        self.get_peers = rules.get_peers
        self.verify_header = rules.verify_header
        self.judge_evidence = rules.judge_evidence
        self.freeze = rules.freeze

    def send(
        self, ctx: Context, destination: str, module: int, payload: bytes, deadline_ms: int
    ) -> int:
        """Send a packet to a module of another chain; returns its sequence.

        Raises: UnknownClient.
        """
        return self._rules.send(ctx, self._number, destination, module, payload, deadline_ms)


def _append(ctx: Context, destination: str, item: bytes) -> int:
    """Give an item the next place in the stream to a destination."""
    key = destination.encode()
    client = CLIENTS.get(ctx, key)
    assert client is not None, f"a stream to {destination} without a client of it"
    sequence = (OUT.get(ctx, key) or _FIRST).next
    OUT.put(ctx, key, NextSequence(sequence + 1))
    ctx.outbox.append(Outgoing(client.trusted.network, destination, sequence, item))
    return sequence


def _pending_key(destination: str, sequence: int) -> bytes:
    return destination.encode() + b"\0" + sequence.to_bytes(8, "big")


def _decode_pages(ctx: Context, expected: int, proofs: Sequence[PageProof]) -> list[Page]:
    """Decode the pages; their items must join what was taken before, without a gap.

    Before any signature is looked at, so that a relay which comes second costs next to nothing.
    """
    pages: list[Page] = []
    following = expected
    for index, proof in enumerate(proofs):
        try:
            page = decode_page(proof.page)
        except Malformed:
            raise BadPage(index=index, given=len(proof.page)) from None
        # REPLAY PROTECTION: what was sent to one chain can't be delivered to another.
        if page.destination != ctx.chain:
            raise WrongDestination(index=index, expected=ctx.chain, given=page.destination)
        if page.network != ctx.network:
            raise WrongDestination(index=index, expected=ctx.network, given=page.network)
        # A relay that left out a page could hide a packet for ever: the order has no gaps.
        if page.first > following:
            raise SequenceGap(index=index, expected=following, given=page.first)
        following = max(following, page.first + len(page.items))
        pages.append(page)
    if following == expected:
        last = max(page.first + len(page.items) for page in pages) - 1
        raise AlreadyReceived(expected=expected, given=last)
    return pages


def _list_new_items(pages: Sequence[Page], expected: int) -> tuple[list[bytes], int]:
    """Return the items from ``expected`` on, and the sequence of the first of them.

    REPLAY PROTECTION: what stands before was taken already and is passed over.
    """
    items: list[bytes] = []
    for page in pages:
        skipped = expected + len(items) - page.first
        items += page.items[skipped:]
    return items, expected


def _verify_page(index: int, proof: PageProof, header: Header) -> None:
    page, root = leaf_hash(proof.page), header.outbox_root
    try:
        verify_inclusion(page, proof.index, header.outbox_size, proof.path, root)
    except ProofError as error:
        raise BadPageProof(index=index, reason=_cut_reason(error)) from None


def _make_latest(header: Header, header_bytes: bytes) -> Latest:
    return Latest(
        height=header.height,
        time_ms=header.time_ms,
        log_size=header.log_size,
        log_root=header.log_root,
        app_hash=app_hash_of_bytes(header_bytes),
    )


def _list_earlier(ctx: Context, client: Client) -> tuple[TrustedConsensus, ...]:
    """Return the client's earlier trust that has not expired.

    Keys of validators long gone may leak, and must not speak for the past either.
    """
    earlier = EARLIER.get(ctx, client.chain.encode())
    return tuple(
        trust
        for trust in (earlier.trusts if earlier else ())
        if trust.time_ns // NS_PER_MS + min(trust.trusting_period_ms, client.trusting_period_ms)
        > ctx.time_ms
    )


def _remember(ctx: Context, client: Client, trusted: TrustedNetwork) -> None:
    """Keep what a client trusts where other validators take its place.

    Else whoever shows it a change could keep it from ever believing the blocks before: the stream
    of packets has no gaps, and would stop for good.
    """
    old, new = client.trusted.consensus, trusted.consensus
    if old is None or new is None or old.validators == new.validators:
        return
    trusts = (*_list_earlier(ctx, client), old)[-MAX_EARLIER:]
    EARLIER.put(ctx, client.chain.encode(), EarlierTrust(trusts))


def _check_period(ctx: Context, client: Client) -> None:
    # Keys of validators long gone may leak; what they sign after the period convinces nobody.
    limit = client.latest.time_ms + client.trusting_period_ms
    if ctx.time_ms > limit:
        raise ClientExpired(limit=limit, chain=client.chain, given=ctx.time_ms)


def _is_fork(known: Latest, given: Latest) -> bool:
    """Tell whether two final headers can't both be of one history.

    Each block with a header has at least one leaf, so one log size or one height is one header.
    """
    if known.log_size == 0:
        return False  # Nothing was heard yet.
    is_same_place = known.log_size == given.log_size or known.height == given.height
    return is_same_place and known.app_hash != given.app_hash


def _check_monotonic(known: Latest, given: Latest) -> None:
    if known.log_size == 0:
        return
    older, newer = sorted((known, given), key=lambda latest: latest.log_size)
    if newer.height < older.height or newer.time_ms < older.time_ms:
        _reject_order(known, given)


def _reject_order(known: Latest, given: Latest) -> NoReturn:
    raise NotMonotonic(
        expected=(known.height, known.time_ms, known.log_size),
        given=(given.height, given.time_ms, given.log_size),
    )


def _record_unheard(ctx: Context, source: str, ack: Acknowledgement, error: Numbered) -> None:
    ctx.emit(AcknowledgementUnheard(source, ack.sequence, error.number, clean_error_text(error)))


def _cut_reason(error: ProofError) -> str:
    """Return why a proof fails, in ASCII.

    Such texts show what was given, escaped where it isn't printable; which characters count as that
    differs between Python's versions. Escaping all but ASCII gives one text everywhere.
    """
    return str(error).encode("ascii", "backslashreplace")[:MAX_REASON_BYTES].decode()


def make_module(rules: LinkRules, views: Views | None) -> Module:
    """Return version 1 of the module."""
    return Module(
        name="link",
        number=MODULE,
        version=1,
        handlers={
            Receive: rules.receive,
            UpdateClient: rules.update_client,
            SubmitEvidence: rules.submit_evidence,
            OpenClient: rules.open_client,
            RecoverClient: rules.recover_client,
        },
        events=EVENTS,
        errors=ERRORS,
        params=LinkParams,
        on_genesis=rules.on_genesis,
        on_deadline=rules.on_deadline,
        views=views,
    )
