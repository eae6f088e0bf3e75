"""Submitting: signed bytes, one transaction or a batch, answered with durable receipts."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any, Final

import msgspec
from litestar import Response, post
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.spec import OpenAPIType, Schema
from msgspec import Meta, Struct

from hansa.core.block import Receipt
from hansa.core.codec import encode
from hansa.core.finality import FinalHeader
from hansa.core.readmodel import TRANSACTION
from hansa.core.transaction import MAX_TRANSACTION_BYTES
from hansa.interface.answers import FINAL_WAIT_S, Verdict
from hansa.interface.http.door import (
    JSON,
    OCTETS,
    Asked,
    Door,
    answer_once,
    read_text,
    wait_for,
)
from hansa.interface.http.limits import MAX_BATCH, StoredAnswer
from hansa.interface.http.problems import (
    BadParameter,
    BatchTooLong,
    UnsupportedMediaType,
    describe,
)
from hansa.interface.http.routes.objects import make_list_route, make_show_route
from hansa.interface.http.schemas import BINARY, STRING, make_operation, make_query
from hansa.network.intake import Inclusion

MSGPACK: Final = "application/msgpack"

HexEnvelope = Annotated[str, Meta(max_length=4 * MAX_TRANSACTION_BYTES)]


class JsonBatch(Struct, forbid_unknown_fields=True):
    """A batch as JSON carries it."""

    chain: str
    envelopes: list[HexEnvelope]


class BinaryBatch(Struct, forbid_unknown_fields=True):
    """A batch as MessagePack carries it."""

    chain: str
    envelopes: list[bytes]


_json_batch = msgspec.json.Decoder(JsonBatch)
_binary_batch = msgspec.msgpack.Decoder(BinaryBatch)

JSON_BATCH_SCHEMA: Final = Schema(
    type=OpenAPIType.OBJECT,
    properties={
        "chain": STRING,
        "envelopes": Schema(
            type=OpenAPIType.ARRAY,
            items=Schema(type=OpenAPIType.STRING, pattern="^([0-9a-f]{2})*$"),
            min_items=1,
            max_items=MAX_BATCH,
        ),
    },
    required=["chain", "envelopes"],
    additional_properties=False,
)


def make_routes(door: Door) -> list[HTTPRouteHandler]:
    """Return the routes that take signed bytes and show what was judged."""
    submit_operation = make_operation(
        body={OCTETS: BINARY, JSON: JSON_BATCH_SCHEMA, MSGPACK: BINARY},
        parameters=[make_query("chain", "Where one envelope goes; a batch says it itself.")],
    )

    @post(
        "/v1/transactions",
        status_code=200,
        operation_id="submit",
        summary="Submit one signed envelope as bytes, or a batch; answers durable receipts",
        description=(
            "A transaction that a rule refuses is in the log and spends its nonce: its receipt "
            "has an `error`, and the status is 200. One that leaves nothing (malformed, wrongly "
            "signed, out of order, expired) is a problem: of its item in a batch, else of the "
            "request. The same bytes again are answered with the receipt they have already."
        ),
        operation_class=submit_operation,
        tags=["transactions"],
    )
    async def submit(request: Asked) -> Response[bytes]:
        caller = request.client.host if request.client else ""
        return await answer_once(door, request, caller, lambda: _submit(door, request))

    summary = "A judged transaction by the digest of its envelope, with its events"
    return [
        submit,
        make_list_route(door, TRANSACTION),
        make_show_route(door, TRANSACTION, summary),
    ]


async def _submit(door: Door, request: Asked) -> StoredAnswer:
    body = await request.body()
    kind = request.headers.get("content-type", OCTETS).partition(";")[0].strip().lower()
    if kind in (OCTETS, ""):
        chain, envelopes = read_text(request, "chain"), [body]
    else:
        chain, envelopes = read_batch(kind, body)
    answer = door.answers.submit(chain, envelopes)
    await wait_for([answer])
    verdicts = await asyncio.to_thread(door.answers.judge, chain, envelopes, answer)
    await wait_final(door, chain, verdicts)
    if kind in (OCTETS, ""):
        if isinstance(verdicts[0], Exception):
            raise verdicts[0]
        return await asyncio.to_thread(make_single, door, chain, verdicts[0])
    is_binary = kind == MSGPACK
    return await asyncio.to_thread(make_batch, door, chain, verdicts, is_binary)


async def wait_final(door: Door, chain: str, verdicts: Sequence[Verdict]) -> None:
    """Wait until receipts can be proven, without a thread: there are few, and blocks take long.

    Returns all the same where it takes too long; what then asks for the header says so.
    """
    leaves = [verdict.leaf for verdict in verdicts if isinstance(verdict, Inclusion)]
    if leaves:
        told = door.node.when_final(chain, max(leaves) + 1)
        with suppress(TimeoutError):
            await asyncio.wait_for(wait_for([told]), FINAL_WAIT_S)


def read_batch(kind: str, body: bytes) -> tuple[str, list[bytes]]:
    """Return chain and envelopes of a batch.

    Raises: UnsupportedMediaType, BadParameter, BatchTooLong.
    """
    try:
        if kind == MSGPACK:
            binary = _binary_batch.decode(body)
            chain, envelopes = binary.chain, binary.envelopes
        elif kind == JSON:
            batch = _json_batch.decode(body)
            chain, envelopes = batch.chain, [bytes.fromhex(item) for item in batch.envelopes]
        else:
            raise UnsupportedMediaType(expected=f"{OCTETS}, {JSON} or {MSGPACK}", given=kind[:80])
    except (msgspec.DecodeError, ValueError) as error:
        given = str(error)[:200]
        raise BadParameter(field="body", expected="chain and envelopes", given=given) from None
    if not 1 <= len(envelopes) <= MAX_BATCH:
        raise BatchTooLong(limit=MAX_BATCH, given=len(envelopes))
    return chain, envelopes


def make_single(door: Door, chain: str, included: Inclusion) -> StoredAnswer:
    """Return the answer to one envelope."""
    final = door.answers.final_for(chain, [included])
    shown = show_inclusion(door, included, final)
    content = {**shown, "header": final.header.hex(), "finality": final.finality.hex()}
    return StoredAnswer(200, JSON, msgspec.json.encode(content))


def show_inclusion(door: Door, included: Inclusion, final: FinalHeader) -> dict[str, Any]:
    """Return a receipt as JSON holds it, with all that proves it under a header."""
    receipt = included.receipt
    path = door.answers.inclusion_path(included, door.answers.log_size_of(final))
    return {
        "chain": included.chain,
        "digest": included.digest.hex(),
        "height": included.height,
        "leaf": included.leaf,
        "error": show_fault(receipt),
        "events": door.answers.readable_events(included.chain, receipt),
        "receipt": encode(receipt).hex(),
        "path": [node.hex() for node in path],
    }


def show_fault(receipt: Receipt) -> dict[str, Any] | None:
    """Return why a rule said no, or None."""
    fault = receipt.error
    return None if fault is None else {"number": fault.number, "text": fault.text}


def make_batch(
    door: Door, chain: str, verdicts: Sequence[Verdict], is_binary: bool
) -> StoredAnswer:  # fmt: skip
    """Return the answer to a batch; in MessagePack with bytes, and no readable events."""
    final = door.answers.final_for(chain, verdicts)
    show = _show_binary if is_binary else show_inclusion
    items = [
        show(door, verdict, final)
        if isinstance(verdict, Inclusion)
        else {"problem": describe(verdict).to_json()}
        for verdict in verdicts
    ]
    if is_binary:
        content = {"header": final.header, "finality": final.finality, "items": items}
        return StoredAnswer(200, MSGPACK, msgspec.msgpack.encode(content))
    text = {"header": final.header.hex(), "finality": final.finality.hex(), "items": items}
    return StoredAnswer(200, JSON, msgspec.json.encode(text))


def _show_binary(door: Door, included: Inclusion, final: FinalHeader) -> dict[str, Any]:
    size = door.answers.log_size_of(final)
    return {
        "digest": included.digest,
        "height": included.height,
        "leaf": included.leaf,
        "receipt": encode(included.receipt),
        "path": door.answers.inclusion_path(included, size),
    }
