"""The pages' words and colours: every language whole, every name named, everything legible."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tools.update_catalogues import collect, find_untranslated, list_catalogues

from hansa.core.codec import readable_name
from hansa.core.readmodel import TRANSACTION
from hansa.foreground.web import wording
from hansa.foreground.web.assets import STATIC
from hansa.foreground.web.figures import (
    shorten,
    shorten_digest,
    show_iso,
    show_money,
    show_price,
    show_rounded_money,
    show_span,
)
from hansa.foreground.web.live import FragmentCache
from hansa.foreground.web.wording import choose_language, load_translations, locale_of
from hansa.node.composition import CHAINS, make_rulebook

MODULES = {module.name: module for chain in CHAINS for module in make_rulebook(chain).modules}


@pytest.mark.parametrize(
    ("asked", "remembered", "accepted", "expected"),
    [
        (None, None, "", "en"),
        (None, None, "de-AT,de;q=0.9,en;q=0.8", "de"),
        (None, None, "fr, zh-CN;q=0.8, en;q=0.5", "zh_Hans"),
        (None, None, "en;q=0.1, de;q=0.2", "de"),
        (None, None, "de;q=0, en", "en"),
        (None, None, "zh-TW", "en"),
        (None, None, "de;q=x, en;q=0.1", "en"),
        (None, None, "de;q=nan;q=inf,;;,", "en"),
        (None, "de", "en", "de"),
        ("zh-Hans", "de", "en", "zh_Hans"),
        ("xx", "de", "en", "de"),
        ("../../etc/passwd", "\x00", "*", "en"),
    ],
)
def test_the_reader_gets_a_language_he_reads(
    asked: str | None, remembered: str | None, accepted: str, expected: str
) -> None:
    """Asked for, then remembered, then accepted by weight; English where nothing fits."""
    assert expected == choose_language(asked, remembered, accepted)


@pytest.mark.parametrize("path", list_catalogues(), ids=lambda path: path.parent.parent.name)
def test_every_text_is_translated(path: Path) -> None:
    """No language lacks a text of the pages: `tools/update_catalogues.py` collects them."""
    assert [] == find_untranslated(path, collect())


@pytest.mark.parametrize("path", list_catalogues(), ids=lambda path: path.parent.parent.name)
def test_translations_keep_their_places(path: Path) -> None:
    """A translation has the same places for values as its source, or it would fail when shown."""
    language = path.parent.parent.name
    for message in collect():
        if not message.id or not isinstance(message.id, str):
            continue
        translated = load_translations(language).gettext(message.id)
        places = [sorted(re.findall(r"%\(\w+\)[sd]", text)) for text in (message.id, translated)]
        assert places[0] == places[1], message.id


def test_every_message_event_kind_and_column_has_a_word() -> None:
    """A module that adds one adds its word, so that no page shows a name of the code."""
    messages = {name for module in MODULES.values() for name in module.message_names()}
    events = {
        f"{module.name}.{readable_name(event)}"
        for module in MODULES.values()
        for event in module.views.projections
    }
    kinds = [kind for module in MODULES.values() for kind in module.views.kinds]
    kinds.append(TRANSACTION)
    columns = {name for kind in kinds for name in (*kind.columns, *kind.table.columns.keys())}
    assert set() == messages - set(wording.MESSAGES)
    assert set() == events - set(wording.EVENTS)
    assert set() == {kind.name for kind in kinds} - set(wording.KINDS)
    assert set() == columns - set(wording.COLUMNS) - {"event_index"}


def _luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_every_colour_of_text_can_be_read(scheme: int) -> None:
    """Contrast of 4.5 to 1 on every ground (WCAG 2.2, 1.4.3)."""
    sheet = (STATIC / "hansa.css").read_text()
    blocks = re.findall(r":root \{(.*?)\}", sheet, re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", blocks[scheme]))
    texts = ("ink", "soft", "accent", "good", "bad", "product", "trade", "logistics", "anchor")
    weak = [
        (text, ground, round(_contrast(colours[text], colours[ground]), 2))
        for text in texts
        for ground in ("paper", "raised")
        if _contrast(colours[text], colours[ground]) < 4.5
    ]
    weak += (
        [("warn", "warn-paper", 0)]
        if _contrast(colours["warn"], colours["warn-paper"]) < 4.5
        else []
    )
    assert [] == weak


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (show_money(123_456_789, 2, "GBP", locale_of("en")), "GBP 1,234,567.89"),
        (show_money(123_456_789, 2, "EUR", locale_of("de")), "EUR 1.234.567,89"),
        (show_money(-5, 2, "GBP", locale_of("en")), "GBP -0.05"),
        (show_money(1_500, 0, "JPY", locale_of("zh_Hans")), "JPY 1,500"),
        (show_money(9_223_372_036_854_775_807, 4, "CLF", locale_of("en")),
         "CLF 922,337,203,685,477.5807"),
        (show_price(1_250_000, "GBP", locale_of("en")), "GBP 1.25"),
        (show_price(1_234_567, "GBP", locale_of("en")), "GBP 1.234567"),
        (show_rounded_money(4_304_250, 2, "GBP", locale_of("en")), "£43,042"),
        (show_iso(1_700_000_000_123), "2023-11-14T22:13:20.123Z"),
        (show_iso(-1), "1969-12-31T23:59:59.999Z"),
        (show_span(40), "0.04 s"),
        (show_span(3_600_000), "60 min"),
        (show_span(14 * 86_400_000), "14 d"),
        (shorten("0123456789abcdef"), "01234567…cdef"),
        (shorten("0123"), "0123"),
        (shorten_digest("01" + "ab" * 32), "abababab…abab"),
    ],
)  # fmt: skip
def test_figures_are_written_exactly(shown: str, expected: str) -> None:
    """Money to the minor unit and beyond 53 bits, times to the millisecond and before 1970."""
    assert expected == shown


def test_a_height_is_rendered_once_for_all_readers() -> None:
    """The second reader of a height gets the first one's rendering, the next height a new one."""
    cache = FragmentCache()
    rendered: list[int] = []

    def render() -> dict[str, str]:
        rendered.append(len(rendered))
        return {"chains": str(len(rendered))}

    shown = [cache.get("market/en", height, render)["chains"] for height in (7, 7, 8)]
    assert ["1", "1", "2"] == shown
