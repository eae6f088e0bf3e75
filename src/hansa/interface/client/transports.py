"""Ways to a node: over HTTP, or in the same process without it. Both give the same answers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, NoReturn, Protocol
from urllib.parse import quote

import httpx
import msgspec

from hansa.core.errors import Numbered
from hansa.interface.answers import Answers
from hansa.interface.client.outcomes import Included, Problem, Submitted
from hansa.interface.http.problems import ANSWERED, ProblemDetails, describe
from hansa.network.intake import Inclusion
from hansa.node.node import Node

TIMEOUT_S: Final = 60.0
MSGPACK: Final = "application/msgpack"

Proven = Callable[[int], bool]
"""Tells which envelopes of a batch are to come with an inclusion path."""


class Ask(NamedTuple):
    """A question for a node, by the name of its answer."""

    what: str
    args: Mapping[str, Any]


class SubmitBatch(NamedTuple):
    """Envelopes for one chain, and which of them are to be proven."""

    chain: str
    envelopes: Sequence[bytes]
    proven: Proven


class Pause(NamedTuple):
    """Nothing to ask for a while: the node is busy."""

    seconds: float


class Transport(Protocol):
    """A way to a node."""

    def ask(self, ask: Ask) -> Any:
        """Return an answer: bytes or plain values. Raises: Problem, Unreachable."""

    def submit(self, batch: SubmitBatch) -> Submitted:
        """Hand in transactions. Raises: Problem, Unreachable."""

    def close(self) -> None:
        """Let go of connections."""


class AsyncTransport(Protocol):
    """A way to a node for programs that await."""

    async def ask(self, ask: Ask) -> Any:
        """Return an answer: bytes or plain values. Raises: Problem, Unreachable."""

    async def submit(self, batch: SubmitBatch) -> Submitted:
        """Hand in transactions. Raises: Problem, Unreachable."""

    async def close(self) -> None:
        """Let go of connections."""


class Unreachable(Exception):
    """No answer came from the node. What was sent may have been taken: send the same bytes again,
    and the receipt comes if it was."""


class LocalTransport:
    """The node of this process, without HTTP between."""

    def __init__(self, node: Node) -> None:
        self.answers = Answers(node)

    def ask(self, ask: Ask) -> Any:
        """Return an answer. Raises: Problem."""
        try:
            return getattr(self.answers, ask.what)(**ask.args)
        except ANSWERED as error:
            raise _to_problem(describe(error)) from error

    def submit(self, batch: SubmitBatch) -> Submitted:
        """Hand in transactions and wait for their receipts. Raises: Problem."""
        answers = self.answers
        try:
            answer = answers.submit(batch.chain, batch.envelopes)
        except ANSWERED as error:
            raise _to_problem(describe(error)) from error
        verdicts = answers.judge(batch.chain, batch.envelopes, answer)
        proven = [one for index, one in enumerate(verdicts) if batch.proven(index)]
        try:
            final = answers.final_for(batch.chain, proven)
        except ANSWERED as error:
            raise _to_problem(describe(error)) from error
        size = -1
        items: list[Included | Problem] = []
        for index, verdict in enumerate(verdicts):
            if isinstance(verdict, Inclusion):
                path = None
                if batch.proven(index):
                    if size < 0:
                        size = answers.log_size_of(final)
                    path = answers.inclusion_path(verdict, size)
                place = (verdict.height, verdict.leaf, verdict.digest, verdict.receipt)
                items.append(Included(*place, path))
            else:
                items.append(_verdict_to_problem(verdict))
        return Submitted(final.header, final.finality, items)

    def close(self) -> None:
        """Leave the node to who opened it."""


def _verdict_to_problem(error: Exception) -> Problem:
    if isinstance(error, ANSWERED):
        return _to_problem(describe(error))
    raise error


def _to_problem(details: ProblemDetails) -> Problem:
    return Problem(
        status=details.status,
        title=details.title,
        detail=details.detail,
        number=details.number,
        values=details.values,
        retry_after_s=details.retry_after_s,
    )


PATHS: Final[Mapping[str, str]] = {
    "genesis": "/v1/genesis",
    "status": "/v1/status",
    "trust": "/v1/trust",
    "block": "/v1/blocks/{height}",
    "sequence": "/v1/accounts/{account}/sequence",
    "page": "/v1/{plural}",
    "show": "/v1/{plural}/{id}",
    "search": "/v1/search",
    "transaction": "/v1/transactions/{digest}",
    "proof": "/v1/proofs/{kind}/{id}",
    "facts": "/v1/facts",
    "checkpoint": "/log/{chain}/checkpoint",
    "vkey": "/log/{chain}/vkey",
    "light_block": "/v1/light-blocks/{height}",
    "header": "/v1/chains/{chain}/header",
    "consistency": "/v1/chains/{chain}/consistency",
}
"""Where each answer is served; arguments that are not part of the path are its query."""


class _WireItem(msgspec.Struct):
    """One item of a batch's answer, as MessagePack carries it."""

    digest: bytes = b""
    height: int = 0
    leaf: int = 0
    receipt: bytes = b""
    path: list[bytes] = []
    problem: dict[str, Any] | None = None


class _WireBatch(msgspec.Struct):
    header: bytes
    finality: bytes
    items: list[_WireItem]


def make_request(ask: Ask) -> tuple[str, dict[str, Any]]:
    """Return path and query of a question."""
    template = PATHS[ask.what]
    names = [part[1:-1] for part in template.split("/") if part.startswith("{")]
    path = template.format(**{name: quote(str(ask.args[name]), safe="") for name in names})
    query = {
        name: value
        for name, value in ask.args.items()
        if name not in names and name != "filters" and value is not None
    }
    return path, {**(ask.args.get("filters") or {}), **query}


def read_answer(response: httpx.Response) -> Any:
    """Return what a node answered. Raises: Problem, Unreachable."""
    if response.is_success:
        if response.headers.get("content-type", "").startswith("application/json"):
            return _decode_json(response.content)
        return response.content
    raise _problem_of_response(response)


def read_submitted(response: httpx.Response, count: int) -> Submitted:
    """Return a node's answer to a batch. Raises: Problem, Unreachable."""
    if not response.is_success:
        raise _problem_of_response(response)
    try:
        batch = msgspec.msgpack.decode(response.content, type=_WireBatch)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Unreachable(f"expected the receipts of a batch, got {error}") from None
    if len(batch.items) != count:
        raise Unreachable(f"expected {count} receipts, got {len(batch.items)}")
    return Submitted(batch.header, batch.finality, [_read_item(item) for item in batch.items])


def _read_item(item: _WireItem) -> Included | Problem:
    if item.problem is not None:
        return _problem_of_json(item.problem, 400, None)
    return Included(item.height, item.leaf, item.digest, item.receipt, item.path)


def _decode_json(content: bytes) -> Any:
    try:
        return msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Unreachable(f"expected JSON, got {error}") from None


def _problem_of_response(response: httpx.Response) -> Problem:
    retry_after = response.headers.get("retry-after", "")
    wait_s = float(retry_after) if retry_after.isdigit() else None
    content: Any = {}
    if "json" in response.headers.get("content-type", ""):
        content = _decode_json(response.content)
    return _problem_of_json(content, response.status_code, wait_s)


def _problem_of_json(content: Any, status: int, retry_after_s: float | None) -> Problem:
    fields = content if isinstance(content, dict) else {}
    number = fields.get("number")
    values = fields.get("values")
    return Problem(
        status=int(fields.get("status", status)),
        title=str(fields.get("title", "")),
        detail=str(fields.get("detail", f"HTTP status {status}")),
        number=number if isinstance(number, int) else None,
        values=values if isinstance(values, dict) else {},
        retry_after_s=retry_after_s,
    )


def _encode_batch(batch: SubmitBatch) -> bytes:
    return msgspec.msgpack.encode({"chain": batch.chain, "envelopes": list(batch.envelopes)})


def _headers(token: str | None) -> dict[str, str]:
    return {} if token is None else {"Authorization": f"Bearer {token}"}


_BATCH_HEADERS: Final = {"Content-Type": MSGPACK, "Accept": MSGPACK}
SUBMIT_PATH: Final = "/v1/transactions"


class HttpTransport:
    """A node behind its HTTP door."""

    def __init__(self, url: str, token: str | None = None, timeout_s: float = TIMEOUT_S) -> None:
        self._http = httpx.Client(base_url=url, headers=_headers(token), timeout=timeout_s)
        self.url = url

    def ask(self, ask: Ask) -> Any:
        """Return an answer. Raises: Problem, Unreachable."""
        path, query = make_request(ask)
        try:
            return read_answer(self._http.get(path, params=query))
        except httpx.HTTPError as error:
            _refuse_unreachable(self.url, error)

    def submit(self, batch: SubmitBatch) -> Submitted:
        """Hand in transactions and wait for their receipts. Raises: Problem, Unreachable."""
        body = _encode_batch(batch)
        try:
            response = self._http.post(SUBMIT_PATH, content=body, headers=_BATCH_HEADERS)
        except httpx.HTTPError as error:
            _refuse_unreachable(self.url, error)
        return read_submitted(response, len(batch.envelopes))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


class AsyncHttpTransport:
    """A node behind its HTTP door, for programs that await."""

    def __init__(self, url: str, token: str | None = None, timeout_s: float = TIMEOUT_S) -> None:
        self._http = httpx.AsyncClient(base_url=url, headers=_headers(token), timeout=timeout_s)
        self.url = url

    async def ask(self, ask: Ask) -> Any:
        """Return an answer. Raises: Problem, Unreachable."""
        path, query = make_request(ask)
        try:
            return read_answer(await self._http.get(path, params=query))
        except httpx.HTTPError as error:
            _refuse_unreachable(self.url, error)

    async def submit(self, batch: SubmitBatch) -> Submitted:
        """Hand in transactions and wait for their receipts. Raises: Problem, Unreachable."""
        body = _encode_batch(batch)
        try:
            response = await self._http.post(SUBMIT_PATH, content=body, headers=_BATCH_HEADERS)
        except httpx.HTTPError as error:
            _refuse_unreachable(self.url, error)
        return read_submitted(response, len(batch.envelopes))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()


def _refuse_unreachable(url: str, error: httpx.HTTPError) -> NoReturn:
    raise Unreachable(f"{url}: {type(error).__name__}: {error}") from error


def is_numbered(error: Exception, number: int) -> bool:
    """Tell whether an error carries a number, wherever it was raised."""
    return isinstance(error, Problem | Numbered) and error.number == number
