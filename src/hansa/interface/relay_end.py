"""A chain behind a node's HTTP door, as a relay meets it.

Nothing that the node says is taken for more than it is: answers are bounded in time and size,
decoded strictly, and whatever doesn't fit is this end's trouble alone.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, TypeVar

import httpx
import msgspec
from msgspec import Meta, Struct

from hansa.core.codec import U32, U63, TimeMs, from_readable
from hansa.core.errors import Malformed
from hansa.core.finality import MAX_FINALITY_BYTES, FinalHeader
from hansa.core.genesis import Genesis, decode_genesis
from hansa.core.keys import SigningKey
from hansa.core.packet import decode_page
from hansa.core.prover import Delivery, PageProof
from hansa.network.relay import MAX_DELIVERIES, Anchored, RelayTrouble
from hansa.node.node import system_clock
from hansa.node.relay_end import MAX_PAGES, ChainDoor, ChainEnd, NotTaken
from hansa.service.link.model import MAX_ENCODED_PAGE_BYTES, MAX_PAGE_PATH, Client

T = TypeVar("T")

TIMEOUT_S: Final = 5.0
"""For a node to say anything more."""
MAX_ANSWER_S: Final = 20.0
"""For a whole answer: a node that drips bytes must not hold up what others wait for."""
MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024
MAX_SHOWN: Final = 200

OCTETS: Final = "application/octet-stream"

Hex = Annotated[str, Meta(pattern="^([0-9a-f]{2})*$", max_length=2 * MAX_ENCODED_PAGE_BYTES)]
HexFinality = Annotated[str, Meta(pattern="^([0-9a-f]{2})*$", max_length=2 * MAX_FINALITY_BYTES)]
HexPath = Annotated[list[Hex], Meta(max_length=2 * MAX_PAGE_PATH)]


class _Next(Struct):
    next: U63 | None


class _Client(Struct):
    client: dict[str, Any] | None


class _Recorded(Struct):
    log_size: U63
    height: U63
    heard_ms: TimeMs


class _Anchored(Struct):
    anchored: _Recorded | None


class _Header(Struct):
    header: Hex
    finality: HexFinality


class _Consistency(Struct):
    path: Annotated[list[Hex], Meta(max_length=2 * 63)]


class _Page(Struct):
    page: Hex
    index: U32
    path: HexPath


class _Delivery(Struct):
    header: Hex
    finality: HexFinality
    pages: Annotated[list[_Page], Meta(min_length=1, max_length=MAX_PAGES)]


class _Deliveries(Struct):
    items: Annotated[list[_Delivery], Meta(max_length=MAX_DELIVERIES)]


class _Fault(Struct):
    number: int
    text: str


class _Judged(Struct):
    error: _Fault | None


class _Problem(Struct):
    detail: str = ""
    number: int | None = None
    values: dict[str, str] = {}


class HttpDoor(ChainDoor):
    """The door of a node that hosts a chain."""

    def __init__(
        self, url: str, chain: str, clock: Callable[[], int] = system_clock
    ) -> None:  # fmt: skip
        self.chain = chain
        self.url = url
        self._clock = clock
        self._http = httpx.Client(base_url=url, timeout=TIMEOUT_S)
        self._genesis: Genesis | None = None

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    # What the chain is.

    def get_genesis(self) -> Genesis:
        """Return the genesis as the node states it; asked anew after any trouble."""
        if self._genesis is None:
            try:
                self._genesis = decode_genesis(self._ask("/v1/genesis"))
            except Malformed as error:
                raise RelayTrouble(self.chain, error.text) from None
        return self._genesis

    def get_time_ms(self) -> int:
        """Return the time of this machine: what the node says of time may be anything."""
        return self._clock()

    # As a source.

    def get_final(self) -> FinalHeader | None:
        """Return the newest final header."""
        answer = self._read(f"/v1/chains/{self.chain}/header", _Header)
        return _make_final(answer.header, answer.finality)

    def get_deliveries(self, destination: str, first: int, limit: int) -> Sequence[Delivery]:
        """Return blocks that hold items for a destination from a sequence on, in order."""
        query = {"destination": destination, "from": first, "limit": limit}
        answer = self._read(f"/v1/relay/{self.chain}/deliveries", _Deliveries, query)
        return [self._make_delivery(item) for item in answer.items]

    def _make_delivery(self, item: _Delivery) -> Delivery:
        proofs = tuple(
            PageProof(bytes.fromhex(page.page), page.index, _read_path(page.path))
            for page in item.pages
        )
        try:
            last = decode_page(proofs[-1].page)
        except Malformed as error:
            raise RelayTrouble(self.chain, error.text) from None
        end = last.first + len(last.items)
        return Delivery(_make_final(item.header, item.finality), proofs, end)

    def get_consistency(self, old: int, new: int) -> Sequence[bytes]:
        """Return the path that ties two sizes of the log."""
        query = {"old": old, "new": new}
        return _read_path(
            self._read(f"/v1/chains/{self.chain}/consistency", _Consistency, query).path
        )

    # As a destination.

    def get_next_expected(self, source: str) -> int | None:
        """Return the sequence expected of a source; None if it can't be taken now."""
        return self._read(f"/v1/relay/{self.chain}/next", _Next, {"source": source}).next

    def get_client(self, source: str) -> Client | None:
        """Return what the chain knows of a source."""
        query = {"source": source}
        known = self._read(f"/v1/relay/{self.chain}/client", _Client, query).client
        try:
            client: Client | None = None if known is None else from_readable(Client, known)
        except Malformed as error:
            raise RelayTrouble(self.chain, error.text) from None
        return client

    def get_anchored(self, chain: str) -> Anchored | None:
        """As the anchor chain: return what is recorded of a chain; None if it can't record."""
        query = {"source": chain}
        known = self._read(f"/v1/relay/{self.chain}/anchored", _Anchored, query).anchored
        if known is None:
            return None
        return Anchored(known.log_size, known.height, known.heard_ms)

    def submit(self, envelope: bytes) -> str | None:
        """Hand in a transaction and wait; returns None or a rule's refusal in words.

        Raises: NotTaken.
        """
        status, data = self._request(
            "POST", "/v1/transactions", {"chain": self.chain}, content=envelope
        )
        if status == httpx.codes.OK:
            error = self._decode(data, _Judged).error
            return None if error is None else f"{error.number} {error.text[:MAX_SHOWN]}"
        problem = self._decode(data, _Problem)
        is_final = status not in (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE)
        if is_final and problem.number is not None:
            raise NotTaken(problem.number, problem.detail[:MAX_SHOWN], problem.values)
        raise self._trouble(f"status {status}: {problem.detail[:MAX_SHOWN]}")

    # Asking.

    def _read(self, path: str, kind: type[T], query: Mapping[str, Any] | None = None) -> T:
        return self._decode(self._ask(path, query), kind)

    def _decode(self, data: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(data, type=kind)
        except (msgspec.DecodeError, RecursionError) as error:
            raise self._trouble(f"expected {kind.__name__[1:].lower()}, got {error}") from None

    def _ask(self, path: str, query: Mapping[str, Any] | None = None) -> bytes:
        status, data = self._request("GET", path, query or {})
        if status != httpx.codes.OK:
            problem = self._decode(data, _Problem)
            raise self._trouble(f"{path}: status {status}: {problem.detail[:MAX_SHOWN]}")
        return data

    def _request(
        self, method: str, path: str, query: Mapping[str, Any], content: bytes | None = None
    ) -> tuple[int, bytes]:
        """Return the status and the whole answer.

        Raises: RelayTrouble.
        """
        give_up = time.monotonic() + MAX_ANSWER_S
        headers = {} if content is None else {"Content-Type": OCTETS}
        answer = bytearray()
        try:
            with self._http.stream(
                method, path, params=dict(query), content=content, headers=headers
            ) as response:
                for part in response.iter_bytes():
                    answer += part
                    if len(answer) > MAX_ANSWER_BYTES or time.monotonic() > give_up:
                        raise self._trouble(f"{path}: expected a short answer, got {len(answer)} B")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._trouble(f"{path}: {type(error).__name__}: {error}") from error
        return response.status_code, bytes(answer)

    def _trouble(self, text: str) -> RelayTrouble:
        # Another network may answer at this address next time.
        self._genesis = None
        return RelayTrouble(self.chain, f"{self.url}: {text}")


def _make_final(header: str, finality: str) -> FinalHeader:
    return FinalHeader(header=bytes.fromhex(header), finality=bytes.fromhex(finality))


def _read_path(path: Sequence[str]) -> tuple[bytes, ...]:
    return tuple(bytes.fromhex(node) for node in path)


class HttpEnd(ChainEnd):
    """A chain behind a node's HTTP door; any key at all signs what is carried there."""

    def __init__(
        self, url: str, chain: str, key: SigningKey, clock: Callable[[], int] = system_clock
    ) -> None:
        self._http_door = HttpDoor(url, chain, clock)
        super().__init__(self._http_door, key)

    def close(self) -> None:
        """Let go of the connections."""
        self._http_door.close()
