"""GS1 identification keys: the check digit that catches a mistyped number."""

from typing import Final

GTIN_LENGTHS: Final = (8, 12, 13, 14)
"""GTIN-8, GTIN-12, GTIN-13 and GTIN-14."""


def compute_check_digit(digits: str) -> str:
    """Return the check digit that belongs after ``digits``, one or more of 0 to 9.

    From the right, digits weigh 3 and 1 in turn; the check digit fills the sum up to a multiple of
    ten. GS1 General Specifications §7.9.1; the same for GTIN, GLN and SSCC.
    """
    assert is_digits(digits), f"expected digits, got {digits!r}"
    total = 0
    for place, digit in enumerate(reversed(digits)):
        total += int(digit) * (1 if place % 2 else 3)
    return str(-total % 10)


def is_gtin(text: str) -> bool:
    """Tell whether a text is a GTIN: 8, 12, 13 or 14 digits of which the last checks the others."""
    if len(text) not in GTIN_LENGTHS or not is_digits(text):
        return False
    return text[-1] == compute_check_digit(text[:-1])


def is_digits(text: str) -> bool:
    """Tell whether a text is one or more of 0 to 9; other scripts' digits are none of GS1's."""
    return text.isascii() and text.isdigit()
