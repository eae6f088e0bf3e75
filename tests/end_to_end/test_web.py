"""The pages in a real browser: what people see, touch and take away."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from tests.web_market import TRADES, WebMarket

from hansa.core.proof import Outcome, verify_bundle
from hansa.foreground.web.pages import make_pages
from hansa.interface.http.app import HttpServer
from hansa.interface.sandbox.home import create_sandbox
from hansa.node.home import load_keys, make_trust
from hansa.node.node import Node

pytestmark = pytest.mark.browser

CHROMIUM: Final = "/usr/bin/chromium"
FLAGS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
expect.set_options(timeout=20_000)  # A busy machine is slow, not wrong.

PHONE: Final = {"width": 390, "height": 844}
DESK: Final = {"width": 1280, "height": 900}


class Shop:
    """A served market with one order that has lived its whole life."""

    def __init__(self, node: Node, market: WebMarket, url: str, order: bytes) -> None:
        self.node = node
        self.market = market
        self.url = url
        self.order = order.hex()

    def list_paths(self) -> list[str]:
        """One page of each sort."""
        transaction = self.node.read_model.get_history(self.order)[0]["transaction"]
        shipment = self.node.read_model.list_rows(self.node.kinds["shipment"])[0]["id"]
        organisation = self.node.read_model.list_rows(self.node.kinds["organisation"])[0]["id"]
        lists = [f"/{kind.plural}" for kind in self.node.kinds.values()]
        chains = [f"/chains/{name}" for name in self.node.ledger.chains]
        return [
            "/",
            f"/orders/{self.order}",
            f"/transactions/{transaction}",
            f"/shipments/{shipment}",
            f"/organisations/{organisation}",
            "/search?q=PO",
            "/verify",
            f"/verify/order/{self.order}",
            *lists,
            *chains,
        ]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """A node that serves its pages, with a small market on it."""
    home = tmp_path_factory.mktemp("market") / "home"
    create_sandbox(home, "Market of the tests", seed=bytes(32))
    with Node(home, keys=load_keys(home, lambda: "")) as node:
        market = WebMarket(node)
        market.open()
        order = market.live(TRADES[0], "PO-1")
        with HttpServer(node, routes=[make_pages(node)]) as server:
            yield Shop(node, market, server.url, order)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The system's Chromium with a profile of its own."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield chromium
        chromium.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A reader who speaks English, at a desk."""
    context = browser.new_context(viewport=cast("Any", DESK), locale="en-GB")
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext) -> Page:
    """A tab of that reader."""
    return context.new_page()


def test_no_page_asks_another_host_or_breaks_its_policy(shop: Shop, page: Page) -> None:
    """Every page loads from this node alone, and the browser has nothing to complain of."""
    hosts: set[str] = set()
    complaints: list[str] = []
    page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    page.on("console", lambda message: complaints.append(f"{page.url}: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(f"{page.url}: {error}"))
    for path in shop.list_paths():
        answer = page.goto(shop.url + path)
        assert answer is not None
        assert 200 == answer.status, path
        expect(page.locator("h1")).to_have_count(1)
    assert {urlsplit(shop.url).netloc} == hosts
    assert [] == complaints


def test_the_market_moves_without_a_reload(shop: Shop, page: Page) -> None:
    """An order that is placed, then accepted, appears and changes its state by itself."""
    page.goto(shop.url)
    expect(page.locator("[data-live]")).to_have_attribute("data-state", "live")
    size = page.locator(".strip.chain-trade .size b")
    before = int(size.inner_text())
    order = shop.market.place(TRADES[1], "PO-LIVE")
    row = page.locator(".board tr", has_text="PO-LIVE")
    expect(row).to_contain_text("Placed")
    shop.market.accept(TRADES[1], order)
    expect(row).to_contain_text("Accepted")
    expect(size).to_have_text(str(before + 2))


def test_a_paused_page_stands_still(shop: Shop, page: Page) -> None:
    """What moves can be stopped (WCAG 2.2.2), and goes on where the market is by then."""
    page.goto(shop.url)
    expect(page.locator("[data-live]")).to_have_attribute("data-state", "live")
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("[data-live]")).to_have_attribute("data-state", "paused")
    shop.market.place(TRADES[2], "PO-PAUSED")
    expect(page.locator(".board tr", has_text="PO-PAUSED")).to_have_count(0)
    page.get_by_role("button", name="Resume").click()
    expect(page.locator(".board tr", has_text="PO-PAUSED")).to_have_count(1)


def test_an_order_shows_its_life_over_two_chains(shop: Shop, page: Page) -> None:
    """The timeline has every step with its chain and who signed, hand-overs with both."""
    page.goto(f"{shop.url}/orders/{shop.order}")
    steps = page.locator(".timeline li")
    expect(steps).to_have_count(11)
    expect(steps.first).to_contain_text("Order placed")
    expect(steps.first).to_contain_text("Marlow & Pike Stores")
    assert 6 == page.locator(".timeline li.chain-trade").count()
    assert 5 == page.locator(".timeline li.chain-logistics").count()
    hand_over = page.locator(".timeline li", has_text="Goods handed over").first
    expect(hand_over).to_contain_text("Rheinkontor Werkzeuge and Elbspur Spedition")
    expect(page.locator(".custody li")).to_have_count(4)
    expect(page.locator(".lines tfoot")).to_contain_text("GBP 1,359.00")


def test_a_fact_is_downloaded_and_verifies_elsewhere(shop: Shop, page: Page) -> None:
    """The file behind the button is a proof that the verifier of the core finds valid."""
    page.goto(f"{shop.url}/orders/{shop.order}")
    with page.expect_download() as download:
        page.locator(".timeline .proof a[download]").first.click()
    data = Path(download.value.path()).read_bytes()
    assert re.fullmatch(r"trade-\d+\.proof", download.value.suggested_filename)
    assert Outcome.VALID == verify_bundle(data, make_trust(shop.node.genesis)).outcome


def test_the_button_has_the_very_bytes_verified(shop: Shop, page: Page) -> None:
    """The verdict numbers its steps, and offers the bytes whose digest it names."""
    page.goto(f"{shop.url}/orders/{shop.order}")
    page.locator(".whole [data-verify]").click()
    verdict = page.locator("#verdict .verdict")
    expect(verdict).to_have_attribute("data-outcome", "valid")
    expect(verdict.locator(".steps li").first).to_contain_text("well-formed: 11 facts")
    with page.expect_download() as download:
        verdict.get_by_role("link", name="Download these very bytes").click()
    data = Path(download.value.path()).read_bytes()
    digest = verdict.locator("code").first.get_attribute("title")
    assert hashlib.sha256(data).hexdigest() == digest
    assert Outcome.VALID == verify_bundle(data, make_trust(shop.node.genesis)).outcome


def test_the_verdict_is_reached_and_left_by_keyboard(shop: Shop, page: Page) -> None:
    """Enter asks, the focus goes to the verdict, Escape brings it back."""
    page.goto(f"{shop.url}/orders/{shop.order}")
    asked = page.locator(".whole [data-verify]")
    asked.press("Enter")
    expect(page.locator("#verdict")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#verdict .verdict")).to_have_count(0)
    expect(asked).to_be_focused()


def test_a_changed_file_is_found_invalid(shop: Shop, page: Page) -> None:
    """A file with one bit turned is uploaded and refused with a reason."""
    proof = bytearray(shop.node.prove("order", shop.order))
    proof[len(proof) // 2] ^= 1
    page.goto(f"{shop.url}/verify")
    page.set_input_files(
        "#file", {"name": "x.proof", "mimeType": "application/octet-stream", "buffer": bytes(proof)}
    )
    page.locator("form.upload button").click()
    expect(page.locator(".verdict")).to_have_attribute("data-outcome", "invalid")
    expect(page.locator(".verdict .reason")).not_to_be_empty()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_a_telephone(shop: Shop, browser: Browser, scheme: Any) -> None:
    """No page scrolls sideways on a screen 390 wide."""
    context = browser.new_context(viewport=cast("Any", PHONE), color_scheme=scheme)
    page = context.new_page()
    for path in shop.list_paths():
        page.goto(shop.url + path)
        assert 390 == page.evaluate("document.documentElement.scrollWidth"), path
    context.close()


def test_the_pages_read_without_script(shop: Shop, browser: Browser) -> None:
    """Everything but the movement is there for a browser that runs no script."""
    context = browser.new_context(java_script_enabled=False, locale="en-GB")
    page = context.new_page()
    page.goto(shop.url)
    page.locator(".board a").first.click()
    page.locator("[data-verify]").first.click()
    assert "valid" == page.locator(".verdict").get_attribute("data-outcome")
    context.close()


def test_the_reader_is_answered_in_his_language(shop: Shop, browser: Browser) -> None:
    """By what the browser accepts, and once chosen, by what was chosen."""
    context = browser.new_context(locale="de-DE")
    page = context.new_page()
    page.goto(shop.url)
    assert "de" == page.locator("html").get_attribute("lang")
    expect(page.locator("#orders-title")).to_have_text("Neueste Bestellungen")
    page.get_by_role("link", name="简体中文").click()
    expect(page.locator("html")).to_have_attribute("lang", "zh-Hans")
    page.goto(f"{shop.url}/orders/{shop.order}")
    assert "zh-Hans" == page.locator("html").get_attribute("lang")
    expect(page.locator("#life-title")).to_have_text("全过程")
    context.close()


def test_a_sandbox_says_so_on_every_page(shop: Shop) -> None:
    """Nobody takes a market of one key store for a real one."""
    with httpx.Client(base_url=shop.url) as client:
        for path in shop.list_paths():
            assert 'class="sandbox"' in client.get(path).text, path


def test_every_page_forbids_what_it_does_not_need(shop: Shop) -> None:
    """The policy allows this node alone, on pages, on files and on what isn't there."""
    for path in ("/", f"/orders/{shop.order}", f"/proofs/order/{shop.order}", "/nowhere"):
        headers = httpx.get(shop.url + path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'"), path
        assert "'unsafe" not in headers["content-security-policy"], path
        assert "nosniff" == headers["x-content-type-options"], path


@pytest.mark.parametrize(
    "path",
    ["/nowhere", "/orders/00", "/chains/none", "/verify/trade/0/99", "/orders?before=x",
     "/transactions/00", "/static/0/none.js", "/live/orders/00", "/proofs/order/00"],
)  # fmt: skip
def test_what_is_not_there_is_said_on_a_page(shop: Shop, path: str) -> None:
    """An address without a thing behind it gives 404 and a page, never an error of the node."""
    answer = httpx.get(shop.url + path)
    assert 404 == answer.status_code
    assert "text/html" in answer.headers["content-type"]


def test_a_name_from_the_ledger_is_text_and_never_markup(shop: Shop, page: Page) -> None:
    """What a party writes into a reference is shown as it was written."""
    shop.market.place(TRADES[1], "<b>bold</b>")
    page.goto(shop.url)
    expect(page.locator(".board th a", has_text="<b>bold</b>")).to_have_count(1)
