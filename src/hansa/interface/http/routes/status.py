"""What a node is and how it fares: status, blocks, trust, genesis, health, metrics."""

from typing import Any

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from hansa.interface.http import metrics
from hansa.interface.http.door import OCTETS, Asked, Door, make_problem, read_integer, read_text
from hansa.interface.http.problems import BadParameter, describe_status
from hansa.interface.http.schemas import MIN_HEIGHT, make_operation, make_query


def make_routes(door: Door) -> list[HTTPRouteHandler]:
    """Return the routes about the node; only search and sequences need a token."""
    answers = door.answers
    registry = metrics.make_registry(door.node)
    search_query = [make_query("q", "Beginning of an id, or part of a name."), MIN_HEIGHT]
    sequence_query = [make_query("chain", "Name of the chain."), make_query("lane", "0 if absent.")]

    @get("/v1/status", sync_to_thread=True, operation_id="get_status", tags=["node"])
    def get_status() -> dict[str, Any]:
        return answers.status()

    @get(
        "/v1/blocks/{height:str}",
        sync_to_thread=True,
        operation_id="get_block",
        summary="A block with the app_hash of every chain and of the network",
        tags=["node"],
    )
    def get_block(height: FromPath[str]) -> dict[str, Any]:
        if not (height.isascii() and height.isdigit() and len(height) < 19):
            raise BadParameter(field="height", expected="a whole number", given=height[:80])
        return answers.block(int(height))

    @get("/v1/trust", sync_to_thread=False, operation_id="get_trust", tags=["node"])
    def get_trust() -> dict[str, Any]:
        return answers.trust()

    @get(
        "/v1/genesis",
        sync_to_thread=False,
        operation_id="get_genesis",
        summary="The genesis as bytes; their digest is the network's id",
        media_type=OCTETS,
        tags=["node"],
    )
    def get_genesis() -> bytes:
        return answers.genesis()

    @get(
        "/v1/search",
        sync_to_thread=True,
        operation_id="search",
        operation_class=make_operation(parameters=search_query),
        guards=[door.access.guard_reading],
        tags=["node"],
    )
    def search(request: Asked) -> dict[str, Any]:
        return answers.search(read_text(request, "q"), read_integer(request, "min_height", 0))

    @get(
        "/v1/accounts/{account:str}/sequence",
        sync_to_thread=True,
        operation_id="get_sequence",
        summary="The sequence an account must use next on a lane",
        operation_class=make_operation(parameters=sequence_query),
        guards=[door.access.guard_reading],
        tags=["node"],
    )
    def get_sequence(request: Asked, account: FromPath[str]) -> dict[str, Any]:
        chain = read_text(request, "chain")
        return answers.sequence(chain, account, read_integer(request, "lane", 0))

    @get("/health", sync_to_thread=False, operation_id="get_health", tags=["node"])
    def get_health() -> dict[str, Any]:
        return {"alive": True}

    @get(
        "/ready",
        sync_to_thread=True,
        operation_id="get_ready",
        summary="200 while transactions are taken, else 503 and the reason",
        tags=["node"],
    )
    def get_ready() -> Response[Any]:
        reason = door.node.ready()
        if reason is None:
            return Response({"ready": True})
        return make_problem(describe_status(503, reason))

    @get(
        "/metrics",
        sync_to_thread=True,
        operation_id="get_metrics",
        media_type=metrics.MEDIA_TYPE,
        tags=["node"],
    )
    def get_metrics() -> bytes:
        return metrics.render(registry)

    return [
        get_status, get_block, get_trust, get_genesis, search, get_sequence, get_health, get_ready,
        get_metrics,
    ]  # fmt: skip
