"""The wholesaler's real file, counted a second time by a few lines that share nothing with ours."""

from __future__ import annotations

import csv
import gzip
import io
from collections import Counter
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import pytest

from hansa.formats.online_retail import COUNTRIES, Line, read_lines


@pytest.fixture(scope="module")
def invoices(shared_data: Path) -> Path:
    """The file of invoices."""
    (path,) = (shared_data / "online_retail").glob("*.csv.gz")
    return path


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read the file with the csv module alone."""
    with io.TextIOWrapper(gzip.open(path), encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def classify(row: dict[str, str]) -> tuple[str, int]:
    """Return what becomes of a row by the published rules, and the pence."""
    number, quantity, price = row["InvoiceNo"], Decimal(row["Quantity"]), Decimal(row["UnitPrice"])
    amount = (abs(quantity) * price * 100).quantize(Decimal(1), ROUND_HALF_UP)
    if not number.removeprefix("C").isdigit():
        return "not_an_order", 0
    if number[0] != "C" and quantity <= 0:
        return "stock_adjustment", 0
    if price < 0:
        return "negative_price", 0
    if price == 0:
        return "no_price", 0
    if amount == 0:
        return "below_minor_unit", 0
    return "refunded" if number[0] == "C" else "ordered", int(amount)


def test_counts_and_sums_agree_with_a_second_count(invoices: Path) -> None:
    """Lines and pence by what became of them, invoices, buyers: all as counted independently."""
    lines, pence = Counter[str](), Counter[str]()
    numbers: dict[str, set[str]] = {"ordered": set(), "refunded": set()}
    customers: set[str] = set()
    for row in read_rows(invoices):
        what, amount = classify(row)
        lines[what] += 1
        pence[what] += amount
        if what in numbers:
            numbers[what].add(row["InvoiceNo"])
            customers.add(row["CustomerID"].removesuffix(".0"))

    found, found_pence = Counter[str](), Counter[str]()
    found_numbers: dict[str, set[str]] = {"ordered": set(), "refunded": set()}
    found_customers: set[str] = set()
    for line in read_lines(invoices):
        if not isinstance(line, Line):
            found[line.reason] += 1
            continue
        what = "refunded" if line.is_cancellation else "ordered"
        found[what] += 1
        found_pence[what] += line.amount_minor
        found_numbers[what].add(line.invoice)
        found_customers.add(line.customer or "")
    assert lines == found
    assert +pence == +found_pence
    assert numbers == found_numbers
    assert customers == found_customers
    assert 370_931 == found.total()


def test_lines_are_numbered_as_in_the_file(invoices: Path) -> None:
    """The file has no quoted line ends, so that line numbers count from 2 without a gap."""
    count = 0
    for count, line in enumerate(read_lines(invoices), start=1):
        assert count + 1 == line.line_number
    assert 370_931 == count


def test_every_country_name_is_known(invoices: Path) -> None:
    """Each name of the file stands for a country, but for the one that says so itself."""
    names = {row["Country"] for row in read_rows(invoices)}
    assert {"Unspecified"} == names - set(COUNTRIES)
