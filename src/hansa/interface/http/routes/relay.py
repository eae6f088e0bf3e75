"""What a relay reads of a chain over HTTP. Public: anyone may carry, nobody has to be trusted."""

from typing import Any

from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from hansa.interface.http.door import Asked, Door, read_integer, read_text
from hansa.interface.http.schemas import make_operation, make_query


def make_routes(door: Door) -> list[HTTPRouteHandler]:
    """Return the routes below /v1/relay/{chain}/."""
    answers = door.answers
    by_source = make_operation(parameters=[make_query("source", "The chain that sends.")])
    by_place = make_operation(
        parameters=[
            make_query("destination", "The chain that receives."),
            make_query("from", "First sequence wanted."),
            make_query("limit", "Blocks at most."),
        ]
    )

    @get(
        "/v1/relay/{chain:str}/next",
        sync_to_thread=True,
        operation_id="get_relay_next",
        summary="The sequence a chain expects from a source; null if it can't be taken now",
        operation_class=by_source,
        tags=["relay"],
    )
    def get_next(request: Asked, chain: FromPath[str]) -> dict[str, Any]:
        return answers.relay_next(chain, read_text(request, "source"))

    @get(
        "/v1/relay/{chain:str}/client",
        sync_to_thread=True,
        operation_id="get_relay_client",
        summary="What a chain knows of a source: newest header, trusting period, frozen or not",
        operation_class=by_source,
        tags=["relay"],
    )
    def get_client(request: Asked, chain: FromPath[str]) -> dict[str, Any]:
        return answers.relay_client(chain, read_text(request, "source"))

    @get(
        "/v1/relay/{chain:str}/anchored",
        sync_to_thread=True,
        operation_id="get_relay_anchored",
        summary="What the anchor chain has recorded of a source; null if it can't record",
        operation_class=by_source,
        tags=["relay"],
    )
    def get_anchored(request: Asked, chain: FromPath[str]) -> dict[str, Any]:
        return answers.relay_anchored(chain, read_text(request, "source"))

    @get(
        "/v1/relay/{chain:str}/deliveries",
        sync_to_thread=True,
        operation_id="get_relay_deliveries",
        summary="Blocks that hold items for a destination, with the proofs of their pages",
        operation_class=by_place,
        tags=["relay"],
    )
    def get_deliveries(request: Asked, chain: FromPath[str]) -> dict[str, Any]:
        destination, first = read_text(request, "destination"), read_integer(request, "from", 0)
        limit = read_integer(request, "limit", 12)
        return answers.relay_deliveries(chain, destination, first, limit)

    return [get_next, get_client, get_anchored, get_deliveries]
