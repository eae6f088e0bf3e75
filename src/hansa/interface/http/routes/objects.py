"""Reading the objects of one kind: a page of them, and one alone. Modules' route files use it."""

from typing import Any

from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from hansa.core.readmodel import Kind
from hansa.interface.answers import DEFAULT_LIMIT, MAX_LIMIT
from hansa.interface.http.door import Asked, Door, read_integer
from hansa.interface.http.schemas import MIN_HEIGHT, make_operation, make_page_operation


def make_kind_routes(door: Door, *names: str) -> list[HTTPRouteHandler]:
    """Return list and show of kinds, by singular name; those not hosted here have none."""
    kinds = [door.node.kinds[name] for name in names if name in door.node.kinds]
    return [
        route
        for kind in kinds
        for route in (make_list_route(door, kind), make_show_route(door, kind))
    ]


def make_list_route(door: Door, kind: Kind) -> HTTPRouteHandler:
    """Return the route of a kind's pages."""

    @get(
        f"/v1/{kind.plural}",
        operation_id=f"list_{kind.plural}",
        summary=f"A page of {kind.plural.replace('_', ' ')}, newest change first",
        operation_class=make_page_operation(kind, MAX_LIMIT),
        guards=[door.access.guard_reading],
        tags=[kind.plural],
        sync_to_thread=True,
    )
    def list_objects(request: Asked) -> dict[str, Any]:
        known = ("limit", "cursor", "min_height")
        query = request.query_params
        filters = {name: value for name, value in query.items() if name not in known}
        limit = read_integer(request, "limit", DEFAULT_LIMIT)
        height = read_integer(request, "min_height", 0)
        return door.answers.page(kind.plural, filters, query.get("cursor"), limit, height)

    return list_objects


def make_show_route(
    door: Door, kind: Kind, summary: str = "One {kind} with its timeline over all chains"
) -> HTTPRouteHandler:
    """Return the route of one object; ``summary`` says what is shown of it."""

    @get(
        f"/v1/{kind.plural}/{{identifier:str}}",
        operation_id=f"show_{kind.name}",
        summary=summary.format(kind=kind.name.replace("_", " ")),
        operation_class=make_operation(parameters=[MIN_HEIGHT]),
        guards=[door.access.guard_reading],
        tags=[kind.plural],
        sync_to_thread=True,
    )
    def show_object(request: Asked, identifier: FromPath[str]) -> dict[str, Any]:
        height = read_integer(request, "min_height", 0)
        return door.answers.show(kind.plural, identifier, height)

    return show_object
