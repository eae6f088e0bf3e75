"""What a client says and asks, step by step, without any way to a node: sync and async share it.

A step yields a question and is sent its answer. What comes back is believed only after the checks
of believing.py; what could not be checked says so.
"""

import random
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import reduce
from operator import or_
from typing import Any, Final, Literal, TypeVar

from hansa.core.block import Header, Receipt, decode_receipt
from hansa.core.codec import make_decoder, to_readable
from hansa.core.errors import Malformed, OperatorError, WrongNonce
from hansa.core.finality import TrustedNetwork, note_of
from hansa.core.genesis import Genesis
from hansa.core.keys import compute_account
from hansa.core.keystore import KeyStore
from hansa.core.module import compute_object_id
from hansa.core.proof import Judgement, ProvenFact, Trust, verify_bundle
from hansa.core.proof import Outcome as Judged
from hansa.core.readmodel import TRANSACTION
from hansa.core.transaction import (
    Body,
    Message,
    Signer,
    Transaction,
    envelope_digest,
    make_transaction_decoder,
    sign_transaction,
)
from hansa.interface.client.believing import (
    SeenCheckpoints,
    Unbelievable,
    agrees,
    believe_header,
    believe_inclusion,
    believe_note,
    collect_records,
    salt_of_envelope,
)
from hansa.interface.client.outcomes import Included, Outcome, Problem, RuleRefused, Submitted
from hansa.interface.client.transports import Ask, Pause, SubmitBatch, Unreachable, is_numbered
from hansa.interface.client.trusting import believe_genesis
from hansa.node.composition import make_rulebook

T = TypeVar("T")
Question = Ask | SubmitBatch | Pause
Steps = Generator[Question, Any, T]
Verify = Literal["each", "sample", "none"]

VALIDITY_MS: Final = 3600 * 1000
"""How long a transaction may be under way."""
MAX_RESYNCS: Final = 5
"""Wrong nonces in a row before the client gives up: another signer races on the same lane."""
MAX_BUSY_WAITS: Final = 60
MAX_SENDS: Final = 2
"""How often the same bytes are sent when no answer comes; the chain takes them once."""
SAMPLE_EVERY: Final = 64
BATCH: Final = 1_000
"""Envelopes of one request."""

Row = dict[str, Any]


def system_clock() -> int:
    """Return the machine's time in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class Conversation:
    """A client's memory: what network it is, who signs, which sequence is next."""

    def __init__(
        self, keys: KeyStore, trust: Trust | None, seen: SeenCheckpoints, clock: Callable[[], int]
    ) -> None:
        self.keys = keys
        self.seen = seen
        self._trust = trust
        self._clock = clock
        self._known: tuple[Genesis, TrustedNetwork, bytes] | None = None
        self._sequences: dict[tuple[str, bytes, int], int] = {}
        self._accounts: dict[str, bytes] = {}
        self._event_decoders: dict[str, Callable[[bytes], Any]] = {}
        self._transaction_decoders: dict[str, Callable[[bytes], Transaction]] = {}
        self._message_names: dict[str, Mapping[type[Message], str]] = {}
        self._height = 0
        """Of the newest block that this client wrote in."""

    # The network.

    def connect(self) -> Steps[Genesis]:
        """Learn the genesis, once, and judge it."""
        if self._known is None:
            data = yield Ask("genesis", {})
            genesis, trusted = believe_genesis(data, self._trust)
            self._known = (genesis, trusted, trusted.network)
        return self._known[0]

    def _trusted(self) -> TrustedNetwork:
        assert self._known is not None, "asked before connect"
        return self._known[1]

    def account(self, name: str) -> Steps[bytes]:
        """Return the account of a key in the key store."""
        genesis = yield from self.connect()
        return self._account_of(genesis, name)

    def _account_of(self, genesis: Genesis, name: str) -> bytes:
        account = self._accounts.get(name)
        if account is None:
            key = self.keys.get(name).public
            account = self._accounts[name] = compute_account(genesis.consortium, key)
        return account

    # Transactions.

    def prepare(
        self, chain: str, messages: Sequence[Message], signers: Sequence[str], sequence: int,
        lane: int, time_ms: int | None,
    ) -> Steps[bytes]:  # fmt: skip
        """Build and sign a transaction; returns the envelope."""
        genesis = yield from self.connect()
        if not signers:
            raise OperatorError("signers: expected at least one name, got none")
        keys = [self.keys.get(name) for name in signers]
        accounts = [self._account_of(genesis, name) for name in signers]
        body = Body(
            version=1,
            network=self._trusted().network,
            chain=chain,
            signers=tuple(
                Signer(account, key.public) for account, key in zip(accounts, keys, strict=True)
            ),
            lane=lane,
            sequence=sequence,
            valid_until_ms=(self._clock() if time_ms is None else time_ms) + VALIDITY_MS,
            messages=tuple(messages),
        )
        return sign_transaction(body, keys)

    def send(
        self, chain: str, messages: Sequence[Message], signers: Sequence[str], lane: int
    ) -> Steps[Outcome]:
        """Sign, hand in, and return the believed receipt; learns the sequence anew if it is off."""
        genesis = yield from self.connect()
        if not signers:
            raise OperatorError("signers: expected at least one name, got none")
        place = (chain, self._account_of(genesis, signers[0]), lane)
        for attempt in range(MAX_RESYNCS):
            sequence = yield from self._next_sequence(place)
            envelope = yield from self.prepare(chain, messages, signers, sequence, lane, None)
            try:
                results = yield from self.submit(chain, [envelope], "each")
            except BaseException:
                self._sequences.pop(place, None)  # Whether it was taken isn't known.
                raise
            result = results[0]
            if isinstance(result, Outcome):
                self._sequences[place] = sequence + 1
                if result.receipt.error is not None:
                    raise RuleRefused(result)
                return result
            self._sequences.pop(place, None)
            if not is_numbered(result, WrongNonce.number) or attempt == MAX_RESYNCS - 1:
                raise result
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _next_sequence(self, place: tuple[str, bytes, int]) -> Steps[int]:
        known = self._sequences.get(place)
        if known is not None:
            return known
        chain, account, lane = place
        return (yield from self.sequence(chain, account, lane))

    def sequence(self, chain: str, account: bytes, lane: int) -> Steps[int]:
        """Ask which sequence an account must use next."""
        answer = yield Ask("sequence", {"chain": chain, "account": account.hex(), "lane": lane})
        return int(answer["sequence"])

    def submit(
        self, chain: str, envelopes: Sequence[bytes], verify: Verify
    ) -> Steps[list[Outcome | Problem]]:
        """Hand in signed bytes in order; a node that is busy is given time."""
        yield from self.connect()
        results: list[Outcome | Problem] = []
        for start in range(0, len(envelopes), BATCH):
            results += yield from self._submit_batch(
                chain, envelopes[start : start + BATCH], verify
            )
        return results

    def _submit_batch(
        self, chain: str, envelopes: Sequence[bytes], verify: Verify
    ) -> Steps[list[Outcome | Problem]]:
        proven = choose_proven(verify, len(envelopes))
        answer = yield from self._deliver(SubmitBatch(chain, envelopes, proven))
        header = None
        if verify != "none" and any(isinstance(item, Included) for item in answer.items):
            header = yield from self._believe_header(chain, answer.header, answer.finality)
        decode_event = self._event_decoder(chain)
        results: list[Outcome | Problem] = []
        for index, item in enumerate(answer.items):
            if isinstance(item, Problem):
                results.append(item)
                continue
            judge = header if proven(index) else None
            receipt = _believe_item(item, envelopes[index], judge)
            place = (chain, item.height, item.leaf, item.digest)
            results.append(Outcome(*place, receipt, judge is not None, decode_event))
            if judge is not None:
                self._height = max(self._height, item.height)
        return results

    def _deliver(self, batch: SubmitBatch) -> Steps[Submitted]:
        waits = sends = 0
        while True:
            try:
                answer: Submitted = yield batch
            except Problem as problem:
                waits += 1
                if problem.status != 429 or waits > MAX_BUSY_WAITS:
                    raise
                yield Pause(problem.retry_after_s or 1.0)
            except Unreachable:
                sends += 1
                if sends == MAX_SENDS:
                    raise
            else:
                return answer

    def object_id(self, chain: str, envelope: bytes, message_index: int, ordinal: int) -> bytes:
        """Return the id of an object that a message of an envelope will make."""
        return compute_object_id(chain, envelope_digest(envelope), message_index, ordinal)

    def _event_decoder(self, chain: str) -> Callable[[bytes], Any]:
        decoder = self._event_decoders.get(chain)
        if decoder is None:
            union: Any = reduce(or_, make_rulebook(chain).event_types)
            decoder = self._event_decoders[chain] = make_decoder(union, "event")
        return decoder

    def _transaction_decoder(self, chain: str) -> Callable[[bytes], Transaction]:
        decoder = self._transaction_decoders.get(chain)
        if decoder is None:
            rulebook = make_rulebook(chain)
            self._message_names[chain] = {
                cls: name for part in rulebook.modules for name, cls in part.message_names().items()
            }
            decoder = make_transaction_decoder(rulebook.message_types)
            self._transaction_decoders[chain] = decoder
        return decoder

    # Believing.

    def _believe_header(self, chain: str, header: bytes, finality: bytes) -> Steps[Header]:
        judging = believe_header(header, finality, chain, self._trusted(), self.seen, self._clock())
        return (yield from self._bring_paths(chain, judging))

    def _bring_paths(
        self, chain: str, judging: Generator[tuple[int, int], list[bytes], T]
    ) -> Steps[T]:
        """Ask for the consistency paths that a judgement needs; returns what it returns."""
        try:
            old, new = next(judging)
            while True:
                answer = yield Ask("consistency", {"chain": chain, "old": old, "new": new})
                old, new = judging.send(_read_path(answer))
        except StopIteration as done:
            judged: T = done.value
            return judged

    def _believe_bundle(self, data: bytes) -> Judgement:
        judgement = verify_bundle(data, Trust((self._trusted(),)), self._clock())
        if judgement.outcome is not Judged.VALID:
            raise Unbelievable(f"proof: {judgement.outcome.value}: {judgement.reason}")
        return judgement

    # Questions.

    def page(
        self, plural: str, filters: Mapping[str, str], cursor: str | None, limit: int, verify: bool
    ) -> Steps[Row]:
        """Ask for a page of objects; each says whether it was verified."""
        yield from self.connect()
        args = {"plural": plural, "filters": filters, "cursor": cursor, "limit": limit}
        answer = yield Ask("page", {**args, "min_height": self._height})
        if verify:
            answer["items"] = yield from self._verify_rows(plural, answer["items"])
        page: Row = answer
        return page

    def show(self, plural: str, identifier: str, verify: bool) -> Steps[Row]:
        """Ask for one object; says whether it was verified."""
        yield from self.connect()
        args = {"plural": plural, "id": identifier, "min_height": self._height}
        row: Row = yield Ask("show", args)
        if str(row.get("id")) != identifier:
            raise Unbelievable(f"id: expected {identifier}, got {row.get('id')}")
        return (yield from self._verify_rows(plural, [row]))[0] if verify else row

    def search(self, text: str, verify: bool) -> Steps[Row]:
        """Search; each object found says whether it was verified."""
        yield from self.connect()
        answer: Row = yield Ask("search", {"q": text, "min_height": self._height})
        if verify:
            answer["items"] = yield from self._verify_found(answer["items"])
        return answer

    def _verify_found(self, found: Sequence[Row]) -> Steps[list[Row]]:
        """Verify objects of several kinds; the kind is none of their own fields."""
        plain = [{name: row[name] for name in row if name != "kind"} for row in found]
        is_transaction = [row["kind"] == TRANSACTION.name for row in found]
        judged = yield from self._judge_rows(plain, is_transaction)
        return [{"kind": row["kind"], **item} for row, item in zip(found, judged, strict=True)]

    def _verify_rows(self, plural: str, rows: Sequence[Row]) -> Steps[list[Row]]:
        is_transaction = plural == TRANSACTION.plural
        return (yield from self._judge_rows(rows, [is_transaction] * len(rows)))

    def _judge_rows(self, rows: Sequence[Row], is_transaction: Sequence[bool]) -> Steps[list[Row]]:
        """Compare rows with the proven events they were made of. Raises: Unbelievable."""
        places = dict.fromkeys(f"{row['chain']}:{row['height']}:{row['leaf']}" for row in rows)
        facts: dict[tuple[str, int | None], ProvenFact] = {}
        if places:
            data = yield Ask("facts", {"places": ",".join(places)})
            facts = {(fact.chain, fact.index): fact for fact in self._believe_bundle(data).facts}
        judged = []
        for row, is_entry in zip(rows, is_transaction, strict=True):
            judge = self._is_proven_transaction if is_entry else self._is_proven
            judged.append({**row, "verified": judge(row, facts.get((row["chain"], row["leaf"])))})
        return judged

    def _is_proven_transaction(self, row: Row, fact: ProvenFact | None) -> bool:
        """Compare a transaction with its entry, receipt and envelope. Raises: Unbelievable."""
        receipt = fact.receipt if fact is not None else None
        if fact is None or fact.envelope is None or receipt is None:
            raise Unbelievable(f"{row['id']}: expected the proof of its entry, got another fact")
        try:
            body = self._transaction_decoder(fact.chain)(fact.envelope).body
            events = [to_readable(self._event_decoder(fact.chain)(e)) for e in receipt.events]
        except Malformed as error:
            raise Unbelievable(f"{row['id']}: {error.text}") from None
        names = self._message_names[fact.chain]
        proven = {
            "id": receipt.source.hex(),
            "signer": body.signers[0].account.hex(),
            "messages": " ".join(names[type(message)] for message in body.messages),
            "height": receipt.height,
            "position": receipt.index,
            "error": receipt.error.number if receipt.error else 0,
            "error_text": receipt.error.text if receipt.error else "",
            **({"events": events} if "events" in row else {}),
        }
        for name, value in proven.items():
            if row.get(name) != value:
                raise Unbelievable(
                    f"{row['id']}: {name}: expected what its proven entry says, got otherwise"
                )
        return True

    def _is_proven(self, row: Row, fact: ProvenFact | None) -> bool:
        if fact is None or not 0 <= row["event_index"] < len(fact.events):
            raise Unbelievable(f"{row['id']}: expected the proof of its newest fact, got others")
        try:
            event = self._event_decoder(fact.chain)(fact.events[row["event_index"]])
        except Malformed as error:
            raise Unbelievable(f"{row['id']}: {error.text}") from None
        verdict = agrees(row, collect_records(to_readable(event)))
        if verdict is False:
            raise Unbelievable(f"{row['id']}: expected what its proven event says, got otherwise")
        return verdict is True

    def proof(self, kind: str, identifier: str) -> Steps[bytes]:
        """Ask for a proof file, and judge it before it is handed on."""
        yield from self.connect()
        args = {"kind": kind, "id": identifier, "min_height": self._height}
        data: bytes = yield Ask("proof", args)
        self._believe_bundle(data)
        return data

    def checkpoint(self, chain: str) -> Steps[bytes]:
        """Ask for the newest checkpoint; it has to follow from the last one seen.

        Where consensus makes headers final it is the word of the node asked, which is one of those
        trusted, and is compared with the final header.
        """
        yield from self.connect()
        answer = yield Ask("header", {"chain": chain})
        try:
            data, finality = (bytes.fromhex(answer[name]) for name in ("header", "finality"))
        except (KeyError, TypeError, ValueError) as error:
            raise Unbelievable(f"header of {chain}: {error}") from None
        header = yield from self._believe_header(chain, data, finality)
        if self._trusted().consensus is None:
            return note_of(finality)
        note: bytes = yield Ask("checkpoint", {"chain": chain})
        judging = believe_note(note, header, self._trusted())
        yield from self._bring_paths(chain, judging)
        return note


def choose_proven(verify: Verify, count: int) -> Callable[[int], bool]:
    """Return which envelopes of a batch are judged; a sample can't be foreseen by the node."""
    if verify == "each":
        return lambda _: True
    if verify == "none":
        return lambda _: False
    offset = random.SystemRandom().randrange(min(SAMPLE_EVERY, max(count, 1)))
    return lambda index: index % SAMPLE_EVERY == offset


def _believe_item(item: Included, envelope: bytes, header: Header | None) -> Receipt:
    if header is not None:
        digest = envelope_digest(envelope)
        if item.digest != digest:
            raise Unbelievable(f"digest: expected {digest.hex()}, got {item.digest.hex()}")
        return believe_inclusion(item, digest, salt_of_envelope(envelope), header)
    if isinstance(item.receipt, bytes):
        try:
            return decode_receipt(item.receipt)
        except Malformed as error:
            raise Unbelievable(error.text) from None
    return item.receipt


def _read_path(answer: Any) -> list[bytes]:
    try:
        return [bytes.fromhex(node) for node in answer["path"]]
    except (KeyError, TypeError, ValueError) as error:
        raise Unbelievable(f"path: expected hashes, got {error}") from None


class Lanes:
    """Which lanes of an account are free: one transaction at a time on each keeps nonces in order.

    Not safe by itself; who uses it holds a lock.
    """

    def __init__(self, lanes: Sequence[int]) -> None:
        self._lanes = tuple(lanes)
        self._busy: set[tuple[str, str, int]] = set()

    def take(self, chain: str, signer: str, lane: int | None) -> int | None:
        """Return a lane and mark it busy; None if those allowed are busy."""
        for candidate in self._lanes if lane is None else (lane,):
            if (chain, signer, candidate) not in self._busy:
                self._busy.add((chain, signer, candidate))
                return candidate
        return None

    def free(self, chain: str, signer: str, lane: int) -> None:
        """Give a lane back."""
        self._busy.discard((chain, signer, lane))
