"""Validators over HTTP: who agrees on each network's blocks, and the changes of that."""

from litestar.handlers import HTTPRouteHandler

from hansa.interface.http.door import Door
from hansa.interface.http.routes.objects import make_kind_routes


def make_routes(door: Door) -> list[HTTPRouteHandler]:
    """Return the routes that read this module's objects."""
    return make_kind_routes(door, "validator", "validator_change")
