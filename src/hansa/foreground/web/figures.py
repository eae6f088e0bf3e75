"""How amounts, moments and digests are written on a page."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

from babel import Locale
from babel.numbers import format_currency, format_decimal

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def show_money(amount_minor: int, exponent: int, currency: str, locale: Locale) -> str:
    """Return an amount in its currency; ``exponent`` are the decimals of the minor unit."""
    amount = Decimal(amount_minor).scaleb(-exponent)
    pattern = f"#,##0.{'0' * exponent}" if exponent else "#,##0"
    return f"{currency} {format_decimal(amount, format=pattern, locale=locale)}"


def show_rounded_money(amount_minor: int, exponent: int, currency: str, locale: Locale) -> str:
    """Return an amount in whole major units with the currency's sign, for a headline."""
    amount = Decimal(amount_minor).scaleb(-exponent)
    return format_currency(amount, currency, format="¤#,##0", locale=locale, currency_digits=False)


def show_price(price_e6: int, currency: str, locale: Locale) -> str:
    """Return a unit price given in millionths of the major unit, without needless zeros."""
    price = Decimal(price_e6).scaleb(-6)
    return f"{currency} {format_decimal(price, format='#,##0.00####', locale=locale)}"


def show_count(number: int, locale: Locale) -> str:
    """Return a whole number with its thousands parted."""
    return str(format_decimal(number, locale=locale))


def to_moment(time_ms: int) -> datetime:
    """Return a time in UTC; exact, and right before 1970 too."""
    return _EPOCH + timedelta(milliseconds=time_ms)


def show_iso(time_ms: int) -> str:
    """Return a time as machines read it (RFC 3339)."""
    return to_moment(time_ms).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def show_date(time_ms: int) -> str:
    """Return the day."""
    return to_moment(time_ms).strftime("%Y-%m-%d")


def show_clock(time_ms: int) -> str:
    """Return the time of day to the second."""
    return to_moment(time_ms).strftime("%H:%M:%S")


def show_span(span_ms: int) -> str:
    """Return how long something took, in the unit that suits it."""
    seconds = span_ms // 1000
    if seconds < 10:
        return f"{Decimal(span_ms).scaleb(-3):.2f} s"
    if seconds < 120:
        return f"{seconds} s"
    if seconds < 7200:
        return f"{seconds // 60} min"
    if seconds < 48 * 3600:
        return f"{seconds // 3600} h"
    return f"{seconds // 86_400} d"


def shorten(text: str, head: int = 8, tail: int = 4) -> str:
    """Return both ends of a digest or id; one of that length or less stays whole."""
    if len(text) <= head + tail + 1:
        return text
    return f"{text[:head]}…{text[-tail:]}"


def shorten_digest(text: str) -> str:
    """Return both ends of a digest in hex, without the type byte of SHA-256."""
    return shorten(text.removeprefix("01") if len(text) == 66 else text)
