"""The public logs, as C2SP tlog-tiles: checkpoint, tiles, entry bundles. Readable by anyone."""

from typing import Final

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from hansa.core.prover import NotThere
from hansa.core.tilelog import TILE_WIDTH, TilePath, parse_tile_path
from hansa.interface.http.door import OCTETS, Door

TEXT: Final = "text/plain"
IMMUTABLE: Final = "public, max-age=31536000, immutable"
"""A full tile never changes."""
FRESH: Final = "no-store"
"""A checkpoint is asked for to learn what is new."""


def make_routes(door: Door) -> list[HTTPRouteHandler]:
    """Return the routes below /log/{chain}/."""

    @get(
        "/log/{chain:str}/checkpoint",
        sync_to_thread=True,
        operation_id="get_checkpoint",
        summary="The newest checkpoint, a C2SP signed note",
        media_type=TEXT,
        tags=["log"],
    )
    def get_checkpoint(chain: FromPath[str]) -> Response[bytes]:
        note = door.answers.checkpoint(chain)
        return Response(note, media_type=TEXT, headers={"Cache-Control": FRESH})

    @get(
        "/log/{chain:str}/vkey",
        sync_to_thread=True,
        operation_id="get_vkey",
        summary="The key that verifies checkpoints, in C2SP form",
        media_type=TEXT,
        tags=["log"],
    )
    def get_vkey(chain: FromPath[str]) -> Response[bytes]:
        return Response(door.answers.vkey(chain), media_type=TEXT)

    @get(
        "/log/{chain:str}/tile/{place:path}",
        sync_to_thread=True,
        operation_id="get_tile",
        summary="A tile of hashes or a bundle of entries, at its path of C2SP tlog-tiles",
        media_type=OCTETS,
        tags=["log"],
    )
    def get_tile(chain: FromPath[str], place: FromPath[str]) -> Response[bytes]:
        path = read_path(place)
        data = door.answers.tile(chain, path)
        # A partial tile may be dropped once it is full, so it isn't for ever.
        caching = IMMUTABLE if path.width == TILE_WIDTH else FRESH
        return Response(data, media_type=OCTETS, headers={"Cache-Control": caching})

    return [get_checkpoint, get_vkey, get_tile]


def read_path(place: str) -> TilePath:
    """Return what the rest of a URL names.

    Raises: NotThere if it isn't the one path of a tile.
    """
    try:
        return parse_tile_path(f"tile/{place.removeprefix('/')}")
    except ValueError as error:
        raise NotThere(str(error)) from None
