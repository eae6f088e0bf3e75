"""The live feed as server-sent events."""

from typing import Any

from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.response import ServerSentEvent

from hansa.interface.http.door import Asked, Door
from hansa.interface.http.problems import BadParameter, FeedFull


def make_routes(door: Door) -> list[HTTPRouteHandler]:
    """Return the route of the feed."""

    @get(
        "/v1/feed",
        operation_id="get_feed",
        summary="Events block, change, dropped; the id is the height, to go on from",
        media_type="text/event-stream",
        guards=[door.access.guard_reading],
        tags=["node"],
    )
    async def get_feed(request: Asked) -> ServerSentEvent:
        if door.feed.is_full:
            raise FeedFull(limit=door.limits.feed_clients)
        headers: dict[str, Any] = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        after = read_last_event(request.headers.get("last-event-id"))
        return ServerSentEvent(door.feed.listen(after), headers=headers)

    return [get_feed]


def read_last_event(text: str | None) -> int | None:
    """Return the height last heard.

    Raises: BadParameter.
    """
    if text is None or text == "":
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise BadParameter(field="last-event-id", expected="a height", given=text[:80])
    return int(text)
