"""Templates and the words they share: one environment for each language."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from hansa.foreground.web import figures, wording
from hansa.foreground.web.assets import find_asset
from hansa.foreground.web.questions import PATH, UNHAPPY, Money, Questions

CSS_CHAINS: Final = frozenset(wording.CHAINS)
"""Chains with a colour of their own; others share the neutral one."""


class Rendering:
    """Renders the templates of one node's pages."""

    def __init__(self, questions: Questions) -> None:
        self._questions = questions
        self._environments: dict[str, Environment] = {}

    def render(self, template: str, language: str, context: Mapping[str, Any]) -> str:
        """Return a page or fragment in a language."""
        environment = self._environments.get(language)
        if environment is None:
            environment = self._environments[language] = self._make_environment(language)
        return environment.get_template(template).render(**context)

    def _make_environment(self, language: str) -> Environment:
        environment = Environment(
            loader=PackageLoader("hansa.foreground.web"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.i18n"],
        )
        translations = wording.load_translations(language)
        environment.install_gettext_translations(  # type: ignore[attr-defined]
            translations, newstyle=True
        )
        environment.globals.update(self._make_globals(language))
        environment.filters.update(_make_filters(language, self._questions))
        environment.filters.update(_make_names(translations.gettext))
        return environment

    def _make_globals(self, language: str) -> dict[str, Any]:
        node = self._questions.node
        return {
            "language": language,
            "language_tag": language.replace("_", "-"),
            "languages": wording.LANGUAGES,
            "asset": find_asset,
            "network": node.network.hex(),
            "network_name": node.genesis.name,
            "is_sandbox": node.is_sandbox,
            "chain_names": [chain.name for chain in node.genesis.chains],
            "kinds": sorted(node.kinds),
            "plurals": {kind.name: kind.plural for kind in node.kinds.values()},
            "PATH": PATH,
            "UNHAPPY": UNHAPPY,
        }


def _make_filters(language: str, questions: Questions) -> dict[str, Callable[..., Any]]:
    locale = wording.locale_of(language)

    def money(amount_minor: int, currency: str) -> str:
        exponent = questions.get_exponent(currency)
        return figures.show_money(amount_minor, exponent, currency, locale)

    def headline(amount: Money) -> str:
        return figures.show_rounded_money(
            amount.amount_minor, amount.exponent, amount.currency, locale
        )

    return {
        "money": money,
        "headline": headline,
        "price": lambda price_e6, currency: figures.show_price(price_e6, currency, locale),
        "count": lambda number: figures.show_count(number, locale),
        "iso": figures.show_iso,
        "date": figures.show_date,
        "clock": figures.show_clock,
        "span": figures.show_span,
        "short": figures.shorten,
        "short_digest": figures.shorten_digest,
        "chain_class": lambda chain: f"chain-{chain}" if chain in CSS_CHAINS else "chain-other",
    }


def _make_names(translate: Callable[[str], str]) -> dict[str, Callable[[str], str]]:
    """Return filters that name things; what has no name in the wording shows its own."""

    def look_up(names: Mapping[str, str]) -> Callable[[str], str]:
        def name_of(key: str) -> str:
            return translate(names[key]) if key in names else str(key).replace("_", " ")

        return name_of

    singular = {kind: names[0] for kind, names in wording.KINDS.items()}
    plural = {kind: names[1] for kind, names in wording.KINDS.items()}
    return {
        "chain_name": look_up(wording.CHAINS),
        "chain_task": look_up(wording.CHAIN_TASKS),
        "status_name": look_up(wording.STATUSES),
        "kind_name": look_up(singular),
        "kind_plural": look_up(plural),
        "column_name": look_up(wording.COLUMNS),
        "event_name": look_up(wording.EVENTS),
        "message_name": look_up(wording.MESSAGES),
    }


@lru_cache(maxsize=256)
def draw_strip(levels: tuple[int, ...], tallest: int) -> Markup:
    """Return a chain's strip as the path of a drawing 4 wide a block and 40 high.

    A path of one element is quick to send and to draw, however many blocks there are.
    """
    unit = 36 / tallest
    parts = []
    for place, level in enumerate(levels):
        height = max(1, round(level * unit)) if level else 1
        parts.append(f"M{place * 4} {40 - height}h3v{height}h-3z")
    return Markup("".join(parts))  # noqa: S704 - made of numbers
