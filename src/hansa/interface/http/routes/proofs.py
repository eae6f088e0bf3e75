"""Proofs: files to take away, and what a client needs to believe the node."""

from typing import Any

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from hansa.interface.http.door import OCTETS, Asked, Door, read_integer, read_text
from hansa.interface.http.schemas import MIN_HEIGHT, make_operation, make_query


def make_routes(door: Door) -> list[HTTPRouteHandler]:
    """Return the routes of proofs, headers and consistency paths."""
    answers = door.answers
    reading = [door.access.guard_reading]

    @get(
        "/v1/proofs/{kind:str}/{identifier:str}",
        sync_to_thread=True,
        operation_id="get_proof",
        summary="The proof file of an object (its life, newest 500 facts) or a transaction",
        operation_class=make_operation(parameters=[MIN_HEIGHT]),
        media_type=OCTETS,
        guards=reading,
        tags=["proofs"],
    )
    def get_proof(
        request: Asked, kind: FromPath[str], identifier: FromPath[str]
    ) -> Response[bytes]:
        data = answers.proof(kind, identifier, read_integer(request, "min_height", 0))
        # Both names were found in the read model: no quote or line break gets into the header.
        name = f'attachment; filename="{kind}-{identifier[:16].replace(":", "-")}.hansa"'
        return Response(data, media_type=OCTETS, headers={"Content-Disposition": name})

    @get(
        "/v1/facts",
        sync_to_thread=True,
        operation_id="get_facts",
        summary="One proof file of the entries at chain:height:leaf, separated by commas",
        operation_class=make_operation(parameters=[make_query("places", "chain:height:leaf,...")]),
        media_type=OCTETS,
        guards=reading,
        tags=["proofs"],
    )
    def get_facts(request: Asked) -> Response[bytes]:
        return Response(answers.facts(read_text(request, "places")), media_type=OCTETS)

    @get(
        "/v1/chains/{chain:str}/header",
        sync_to_thread=True,
        operation_id="get_header",
        summary="The newest final header and what makes it final",
        tags=["proofs"],
    )
    def get_header(chain: FromPath[str]) -> dict[str, Any]:
        return answers.header(chain)

    @get(
        "/v1/chains/{chain:str}/consistency",
        sync_to_thread=True,
        operation_id="get_consistency",
        summary="The RFC 9162 path that ties two sizes of a log",
        operation_class=make_operation(
            parameters=[make_query("old", "Smaller size."), make_query("new", "Larger size.")]
        ),
        tags=["proofs"],
    )
    def get_consistency(request: Asked, chain: FromPath[str]) -> dict[str, Any]:
        old, new = read_integer(request, "old"), read_integer(request, "new")
        return answers.consistency(chain, old, new)

    @get(
        "/v1/light-blocks/{height:str}",
        sync_to_thread=True,
        operation_id="get_light_block",
        summary="The light block at a height, or the newest: header, votes and validators",
        media_type=OCTETS,
        tags=["proofs"],
    )
    def get_light_block(height: FromPath[str]) -> bytes:
        return answers.light_block(height)

    return [get_proof, get_facts, get_header, get_consistency, get_light_block]
