"""Orders over HTTP: each with its lines, its shipment and its whole life; credit notes."""

from litestar.handlers import HTTPRouteHandler

from hansa.interface.http.door import Door
from hansa.interface.http.routes.objects import make_kind_routes


def make_routes(door: Door) -> list[HTTPRouteHandler]:
    """Return the routes that read this module's objects."""
    return make_kind_routes(door, "order", "credit_note")
