"""The pages: what is served where. Each handler parses, asks once, and renders.

Pages only read. Whatever changes the ledger comes as a signed transaction through the interface
floor; a page that offers it later will submit there like anybody else. What a page of a testnet
switches off and on are processes, not facts.
"""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Annotated, Any, Final

import msgspec
from litestar import Request, Response, Router, get, post
from litestar.datastructures import Cookie, ResponseHeader, UploadFile
from litestar.enums import MediaType, RequestEncodingType
from litestar.exceptions import NotFoundException, PermissionDeniedException
from litestar.handlers import BaseRouteHandler
from litestar.params import Body, FromPath, FromQuery
from litestar.response import ServerSentEvent, ServerSentEventMessage

from hansa.core.errors import OperatorError
from hansa.core.proof import MAX_BUNDLE_BYTES
from hansa.core.prover import NotThere
from hansa.core.readmodel import TRANSACTION, Kind
from hansa.foreground.web.assets import load_assets
from hansa.foreground.web.live import (
    FragmentCache,
    Fragments,
    Pulse,
    TooManyStreams,
    stream_fragments,
)
from hansa.foreground.web.organisations import Organisations
from hansa.foreground.web.questions import PAGE_ROWS, TALL_BAR, Questions, Row
from hansa.foreground.web.rendering import Rendering, draw_strip
from hansa.foreground.web.wording import LANGUAGES, choose_language
from hansa.interface.http.app import ON_STOP
from hansa.node.node import Node

CHAIN_ENTRIES: Final = 25
MAX_SEARCH: Final = 64
"""Characters of a search that are looked at."""
YEAR_S: Final = 366 * 24 * 3600

SECURITY_HEADERS: Final = {
    # Nothing but this node: no inline script or style, no frame, no form to elsewhere.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Vary": "Accept-Language, Cookie, HX-Request",
}

PARTY_COLUMNS: Final = (
    "buyer",
    "seller",
    "holder",
    "account",
    "owner",
    "debit",
    "credit",
    "signer",
)

AnyRequest = Request[Any, Any, Any]
Page = Response[str]


def make_pages(node: Node) -> Router:
    """Return the router of all pages, to be mounted at the root of the HTTP application."""
    site = Site(node)

    # A function, not a method: Litestar copies a router with all that hangs on it but functions.
    def answer_not_there(request: AnyRequest, error: Exception) -> Page:
        return site.answer_not_there(request, error)

    return Router(
        path="/",
        route_handlers=[
            *_make_handlers(site),
            *_make_streams(site),
            *_make_files(site),
            *_make_switches(site),
        ],
        response_headers=[
            ResponseHeader(name=name, value=value) for name, value in SECURITY_HEADERS.items()
        ],
        exception_handlers={
            NotThere: answer_not_there,
            NotFoundException: answer_not_there,
            TooManyStreams: _answer_too_many,
        },
        include_in_schema=False,
    )


class Site:
    """What the handlers share: the node's answers, the templates, the pulse of the live parts."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.questions = Questions(node)
        self.rendering = Rendering(self.questions)
        self.pulse = Pulse()
        self.organisations = Organisations(self.questions, self.pulse)
        self.cache = FragmentCache()
        node.on_projected.append(self.pulse.beat)

    def page(
        self, request: AnyRequest, template: str, context: Mapping[str, Any], status: int = 200
    ) -> Page:
        """Return a page in the reader's language; one asked for by name is remembered."""
        language = language_of(request)
        shown = {**context, "path": request.url.path, "query": _keep_query(request)}
        html = self.rendering.render(template, language, shown)
        cookies = []
        if _find_language(request.query_params.get("lang")) is not None:
            cookies = [
                Cookie(
                    key="lang",
                    value=language,
                    path="/",
                    max_age=YEAR_S,
                    samesite="lax",
                    httponly=True,
                )
            ]
        return Response(
            html,
            status_code=status,
            media_type=MediaType.HTML,
            cookies=cookies,
            headers={"Cache-Control": "no-store"},
        )

    def answer_not_there(self, request: AnyRequest, error: Exception) -> Page:
        """Say that there is nothing at this address."""
        reason = str(error) if isinstance(error, NotThere) else ""
        page = self.page(request, "not_there.html", {"reason": reason}, status=404)
        page.headers.update(SECURITY_HEADERS)
        return page

    # Live fragments.

    def render_market(self, language: str) -> Fragments:
        """Return the front page's live parts, once a moment for all readers of a language."""
        moment = (self.node.read_model.height, self.organisations.sighted)
        return self.cache.get(f"market/{language}", moment, lambda: self._render_market(language))

    def _render_market(self, language: str) -> Fragments:
        strips = self.questions.get_strips()
        tallest = max((bar.level for strip in strips for bar in strip.bars), default=1)
        tallest = min(TALL_BAR + 1, max(2, tallest))
        context: dict[str, Any] = {
            "strips": strips,
            "drawings": {
                strip.name: draw_strip(tuple(bar.level for bar in strip.bars), tallest)
                for strip in strips
            },
            "orders": self.questions.list_latest_orders(),
            "numbers": self.questions.get_numbers(),
            "height": self.node.read_model.height,
            "time_ms": self.node.ledger.time_ms,
        }
        names = ["pulse", "numbers", "chains", "orders"]
        if self.organisations.is_shown:
            names.append("organisations")
            context["seats"] = self.organisations.list_seats()
            context["can_act"] = self.organisations.can_act
        return {
            name: self.rendering.render(f"market/{name}.html", language, context) for name in names
        }

    def render_order(self, identifier: str, language: str) -> Fragments:
        """Return the live parts of an order's page."""
        context = {"order": self.questions.get_order(identifier)}
        return {
            name: self.rendering.render(f"orders/{name}.html", language, context)
            for name in ("head", "life")
        }

    def render_chain(self, chain: str, language: str) -> Fragments:
        """Return the live parts of a chain's page."""
        height = self.node.read_model.height
        return self.cache.get(
            f"chain/{chain}/{language}", height, lambda: self._render_chain(chain, language)
        )

    def _render_chain(self, chain: str, language: str) -> Fragments:
        status = self.node.status()["chains"]
        if chain not in status:
            raise NotThere(f"chain: expected one of {', '.join(status)}, got {chain}")
        context = {
            "chain": chain,
            "status": status[chain],
            "note": self.node.checkpoint(chain).decode(),
            "entries": self.questions.list_entries(chain, CHAIN_ENTRIES),
        }
        return {
            name: self.rendering.render(f"chains/{name}.html", language, context)
            for name in ("checkpoint", "entries")
        }

    # Objects.

    def list_page(
        self, kind: Kind, filters: Mapping[str, str], before: tuple[int, str] | None
    ) -> dict[str, Any]:
        """Return a page of a kind, with names in place of accounts. Raises: NotThere."""
        try:
            rows = self.node.read_model.list_rows(
                kind, filters=filters, before=before, limit=PAGE_ROWS + 1
            )
        except ValueError as error:
            raise NotThere(str(error)) from None
        shown = self._add_names(rows[:PAGE_ROWS])
        last = rows[PAGE_ROWS - 1] if len(rows) > PAGE_ROWS else None
        return {
            "kind": kind,
            "columns": kind.columns or tuple(kind.table.columns.keys()),
            "rows": shown,
            "filters": filters,
            "next": f"{last['updated_ms']}.{last['id']}" if last else None,
        }

    def _add_names(self, rows: Sequence[Row]) -> list[Row]:
        named = self.questions.add_parties(rows, PARTY_COLUMNS)
        organisations = self.questions.find_organisations(
            row[name]
            for row in rows
            for name in ("organisation", "issuer", "proposer")
            if row.get(name)
        )
        return [{**row, "organisations": organisations} for row in named]

    def object_page(self, kind: Kind, identifier: str) -> dict[str, Any]:
        """Return one object with its history."""
        row = self._add_names([self.questions.get_object(kind, identifier)])[0]
        custody = self.questions.list_custody(identifier) if kind.name == "shipment" else []
        return {
            "kind": kind,
            "row": row,
            "columns": kind.table.columns.keys(),
            "custody": custody,
            "steps": self.questions.list_steps(identifier),
        }


def _answer_too_many(_request: AnyRequest, error: Exception) -> Page:
    """Say that the live part is full; the browser comes back by itself."""
    return Response(
        str(error), status_code=503, media_type=MediaType.TEXT, headers={"Retry-After": "10"}
    )


def language_of(request: AnyRequest) -> str:
    """Return the language to answer a request in."""
    return choose_language(
        request.query_params.get("lang"),
        request.cookies.get("lang"),
        request.headers.get("accept-language", ""),
    )


def _find_language(asked: str | None) -> str | None:
    return asked if asked is not None and asked.replace("-", "_") in LANGUAGES else None


def _keep_query(request: AnyRequest) -> dict[str, str]:
    """Return the query without its language, for links that only change that."""
    return {name: value for name, value in request.query_params.items() if name != "lang"}


def _read_cursor(cursor: str | None) -> tuple[int, str] | None:
    """Read where a page of a list begins. Raises: NotThere."""
    if cursor is None:
        return None
    time_ms, _, identifier = cursor.partition(".")
    if not time_ms.isascii() or not time_ms.isdigit() or len(time_ms) > 18 or not identifier:
        raise NotThere(f"before: expected the end of a page, got {cursor!r}")
    return int(time_ms), identifier


# Pages.


def _make_handlers(site: Site) -> list[BaseRouteHandler]:
    questions = site.questions

    @get("/", sync_to_thread=True)
    def show_market(request: AnyRequest) -> Page:
        fragments = site.render_market(language_of(request))
        return site.page(request, "market/show.html", {"organisations": "", **fragments})

    @get("/chains/{chain:str}", sync_to_thread=True)
    def show_chain(request: AnyRequest, chain: FromPath[str]) -> Page:
        fragments = site.render_chain(chain, language_of(request))
        context = {**fragments, "chain": chain, "vkey": site.node.vkey(chain)}
        return site.page(request, "chains/show.html", context)

    @get("/transactions/{digest:str}", sync_to_thread=True)
    def show_transaction(request: AnyRequest, digest: FromPath[str]) -> Page:
        entry, messages, signers = questions.get_transaction(digest)
        text = msgspec.json.format(msgspec.json.encode(messages), indent=2).decode()
        context = {"entry": entry, "messages": text, "signers": signers}
        return site.page(request, "chains/transaction.html", context)

    @get("/search", sync_to_thread=True)
    def show_search(request: AnyRequest, q: FromQuery[str] = "") -> Page:
        text = q.strip()[:MAX_SEARCH]
        found = site.node.read_model.search(text) if text else []
        return site.page(request, "objects/search.html", {"text": text, "found": found})

    @get("/verify", sync_to_thread=True)
    def show_verifier(request: AnyRequest) -> Page:
        return site.page(request, "proofs/show.html", {"verdict": None})

    @post("/verify", sync_to_thread=True, status_code=200, request_max_body_size=MAX_BUNDLE_BYTES)
    def judge_file(
        request: AnyRequest,
        data: Annotated[dict[str, UploadFile], Body(media_type=RequestEncodingType.MULTI_PART)],
    ) -> Page:
        file = data.get("file")
        content = file.file.read() if file is not None else b""
        title = file.filename if file is not None else ""
        return site.page(request, "proofs/show.html", {"verdict": questions.judge(title, content)})

    @get("/verify/{chain:str}/{height:int}/{leaf:int}", sync_to_thread=True)
    def verify_place(
        request: AnyRequest, chain: FromPath[str], height: FromPath[int], leaf: FromPath[int]
    ) -> Page:
        proof = questions.prove_place(chain, height, leaf)
        return _answer_verdict(site, request, _place_file(chain, leaf), proof)

    @get("/verify/{kind:str}/{identifier:str}", sync_to_thread=True)
    def verify_object(request: AnyRequest, kind: FromPath[str], identifier: FromPath[str]) -> Page:
        proof = site.node.prove(kind, identifier)
        return _answer_verdict(site, request, _object_file(kind, identifier), proof)

    @get("/transactions", sync_to_thread=True)
    def list_transactions(request: AnyRequest, before: FromQuery[str | None] = None) -> Page:
        # Their own pages' address would otherwise hide the list's.
        return _answer_list(site, request, TRANSACTION, before)

    @get("/{plural:str}", sync_to_thread=True)
    def list_objects(
        request: AnyRequest, plural: FromPath[str], before: FromQuery[str | None] = None
    ) -> Page:
        return _answer_list(site, request, questions.find_kind(plural), before)

    @get("/{plural:str}/{identifier:str}", sync_to_thread=True)
    def show_object(request: AnyRequest, plural: FromPath[str], identifier: FromPath[str]) -> Page:
        kind = questions.find_kind(plural)
        if kind.name == "order":
            fragments = site.render_order(identifier, language_of(request))
            context = {**fragments, "id": identifier}
            return site.page(request, "orders/show.html", context)
        return site.page(request, "objects/show.html", site.object_page(kind, identifier))

    return [
        show_market,
        show_chain,
        show_transaction,
        show_search,
        show_verifier,
        judge_file,
        verify_place,
        verify_object,
        list_transactions,
        list_objects,
        show_object,
    ]


def _answer_list(site: Site, request: AnyRequest, kind: Kind, before: str | None) -> Page:
    asked = {name: value for name, value in request.query_params.items() if name in kind.filters}
    context = site.list_page(kind, asked, _read_cursor(before))
    return site.page(request, "objects/list.html", context)


def _answer_verdict(site: Site, request: AnyRequest, title: str, proof: bytes) -> Page:
    is_fragment = request.headers.get("hx-request") == "true"
    template = "proofs/verdict.html" if is_fragment else "proofs/show.html"
    return site.page(request, template, {"verdict": site.questions.judge(title, proof)})


# Switches.


def _make_switches(site: Site) -> list[BaseRouteHandler]:
    @post("/testnet/{number:int}/{deed:str}", sync_to_thread=True, status_code=303)
    def switch_node(request: AnyRequest, number: FromPath[int], deed: FromPath[str]) -> Page:
        # A page from elsewhere could send this form with the reader's browser.
        origin = request.headers.get("origin", "")
        if not site.organisations.is_own_origin(origin):
            raise PermissionDeniedException(f"origin: expected a page of this node, got {origin!r}")
        try:
            site.organisations.act(deed, number)
        except OperatorError as error:
            raise NotThere(str(error)) from None
        return Response("", status_code=303, headers={"Location": "/#organisations-title"})

    return [switch_node]


# Live parts.


def _make_streams(site: Site) -> list[BaseRouteHandler]:
    @get("/live/market")
    async def stream_market(request: AnyRequest) -> ServerSentEvent:
        return _stream(site, request, site.render_market)

    @get("/live/orders/{identifier:str}")
    async def stream_order(request: AnyRequest, identifier: FromPath[str]) -> ServerSentEvent:
        kind = site.node.kinds["order"]
        site.questions.get_object(kind, identifier)
        return _stream(site, request, lambda language: site.render_order(identifier, language))

    @get("/live/chains/{chain:str}")
    async def stream_chain(request: AnyRequest, chain: FromPath[str]) -> ServerSentEvent:
        site.node.vkey(chain)
        return _stream(site, request, lambda language: site.render_chain(chain, language))

    return [stream_market, stream_order, stream_chain]


def _stream(site: Site, request: AnyRequest, render: Callable[[str], Fragments]) -> ServerSentEvent:
    language = language_of(request)
    closers = request.app.state[ON_STOP]
    if site.pulse.close not in closers:
        closers.append(site.pulse.close)
    event = site.pulse.listen()
    messages: AsyncGenerator[ServerSentEventMessage, None] = stream_fragments(
        site.pulse, event, lambda: render(language)
    )
    return ServerSentEvent(messages, headers={"X-Accel-Buffering": "no"})


# Files.


def _make_files(site: Site) -> list[BaseRouteHandler]:
    questions = site.questions

    @get("/static/{version:str}/{name:str}", sync_to_thread=False)
    def send_asset(version: FromPath[str], name: FromPath[str]) -> Response[bytes]:
        asset = load_assets().get(name)
        if asset is None:
            raise NotThere(f"file: expected one of {', '.join(load_assets())}, got {name!r}")
        is_current = version == asset.version
        return Response(
            asset.content,
            media_type=asset.media_type,
            headers={
                "Cache-Control": "public, max-age=31536000, immutable" if is_current else "no-store"
            },
        )

    @get("/proofs/files/{digest:str}", sync_to_thread=True)
    def send_judged_file(digest: FromPath[str]) -> Response[bytes]:
        title, data = questions.get_judged(digest)
        return _send_proof(title, data)

    @get("/proofs/{chain:str}/{height:int}/{leaf:int}", sync_to_thread=True)
    def send_place_proof(
        chain: FromPath[str], height: FromPath[int], leaf: FromPath[int]
    ) -> Response[bytes]:
        return _send_proof(_place_file(chain, leaf), questions.prove_place(chain, height, leaf))

    @get("/proofs/{kind:str}/{identifier:str}", sync_to_thread=True)
    def send_object_proof(kind: FromPath[str], identifier: FromPath[str]) -> Response[bytes]:
        return _send_proof(_object_file(kind, identifier), site.node.prove(kind, identifier))

    return [send_asset, send_judged_file, send_place_proof, send_object_proof]


def _place_file(chain: str, leaf: int) -> str:
    return f"{chain}-{leaf}.proof"


def _object_file(kind: str, identifier: str) -> str:
    return f"{kind}-{identifier[:16]}.proof"


def _send_proof(title: str, data: bytes) -> Response[bytes]:
    name = "".join(c if c.isascii() and (c.isalnum() or c in "-._") else "-" for c in title)
    return Response(
        data,
        media_type="application/octet-stream",
        headers={
            "Content-Disposition": f'attachment; filename="{name[:80]}"',
            "Cache-Control": "no-store",
        },
    )
