"""Messages by name: a gateway signs for a caller with a token, with a key of its own store.

Every message of every chain hosted here has a route, made from the node's messages.
"""

from typing import Any, Final

import msgspec
from litestar import Response, post
from litestar.concurrency import sync_to_thread
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.spec import OpenAPIType, Schema

from hansa.core.codec import from_readable
from hansa.core.transaction import MAX_SIGNATURES, Message
from hansa.interface.client import Outcome, RuleRefused
from hansa.interface.http.door import JSON, Asked, Door, answer_once, read_text
from hansa.interface.http.limits import StoredAnswer
from hansa.interface.http.problems import BadParameter, KeyNotAllowed, UnsupportedMediaType
from hansa.interface.http.routes.transactions import make_single
from hansa.interface.http.schemas import make_operation, make_query, make_schema
from hansa.interface.http.tokens import SUBMIT, Token
from hansa.network.intake import Inclusion

SIGNERS = make_query(
    "signer",
    "Name of a key in the gateway's store, once for each signature, the first being the token's "
    "account; the token's account alone where absent.",
    Schema(type=OpenAPIType.ARRAY, items=Schema(type=OpenAPIType.STRING), max_items=MAX_SIGNATURES),
)

SAID_BY_CURL: Final = "application/x-www-form-urlencoded"
"""What curl calls a body when nobody tells it otherwise; it is read as JSON all the same."""


def make_routes(door: Door) -> list[HTTPRouteHandler]:
    """Return one route for each message."""
    chains: dict[str, list[str]] = {}
    types: dict[str, type[Message]] = {}
    for chain, messages in door.node.messages.items():
        for name, cls in messages.items():
            chains.setdefault(name, []).append(chain)
            types[name] = cls
    return [_make_route(door, name, cls, chains[name]) for name, cls in types.items()]


def _make_route(
    door: Door, name: str, cls: type[Message], chains: list[str]
) -> HTTPRouteHandler:  # fmt: skip
    module, _, verb = name.partition(".")
    chain_query = make_query(
        "chain", f"Where it goes: {', '.join(chains)}.", Schema(enum=list(chains))
    )

    @post(
        f"/v1/messages/{module}/{verb}",
        status_code=200,
        operation_id=f"{module}_{verb}",
        summary=(cls.__doc__ or name).strip().split("\n")[0],
        operation_class=make_operation(
            body={JSON: make_schema(cls)}, parameters=[chain_query, SIGNERS]
        ),
        security=[{"bearer": []}],
        tags=[module],
    )
    async def send_message(request: Asked) -> Response[bytes]:
        token = door.access.require(request, f"{SUBMIT}:{module}")

        kind = request.headers.get("content-type", JSON).partition(";")[0].strip().lower()
        if kind not in (JSON, SAID_BY_CURL):
            raise UnsupportedMediaType(expected=JSON, given=kind[:80])

        async def act() -> StoredAnswer:
            body = await request.body()
            return await sync_to_thread(_send, door, request, token, cls, chains, body)

        return await answer_once(door, request, token.id, act)

    return send_message


def _send(
    door: Door, request: Asked, token: Token, cls: type[Message], chains: list[str], body: bytes
) -> StoredAnswer:
    chain = chains[0] if len(chains) == 1 else read_text(request, "chain")
    given_chain = request.query_params.get("chain", chain)
    if given_chain not in chains:
        raise BadParameter(field="chain", expected=" or ".join(chains), given=given_chain[:80])
    signers = read_signers(door, request, token)
    message = from_readable(cls, read_json(body))
    try:
        outcome = door.gateway.send(chain, [message], signers)
    except RuleRefused as refused:
        outcome = refused.outcome
    return make_single(door, chain, to_inclusion(outcome))


def to_inclusion(outcome: Outcome) -> Inclusion:
    """Return where a receipt stands, as the engine says it."""
    place = (outcome.chain, outcome.height, outcome.leaf)
    return Inclusion(*place, outcome.digest, outcome.receipt)


def read_signers(door: Door, request: Asked, token: Token) -> list[str]:
    """Return the names of the keys that sign.

    Raises: KeyNotAllowed if the token's account isn't the first, or a key isn't for this token.
    """
    account = token.account or door.limits.account
    signers = [str(name) for name in request.query_params.getall("signer", [account])]
    if len(signers) > MAX_SIGNATURES or signers[0] != account:
        raise KeyNotAllowed(expected=f"{account} first", given=", ".join(signers)[:200])
    # A sandbox plays every party; elsewhere a token speaks for its own account and no other.
    if not door.node.is_sandbox and signers != [account]:
        raise KeyNotAllowed(expected=account, given=", ".join(signers)[:200])
    return signers


def read_json(body: bytes) -> Any:
    """Return the fields of a message.

    Raises: BadParameter.
    """
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadParameter(field="body", expected="JSON", given=str(error)[:200]) from None
