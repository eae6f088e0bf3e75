"""Each line of a wholesaler's file is read exactly, or refused for the first reason that holds."""

from __future__ import annotations

import gzip
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hansa.formats.online_retail import (
    COLUMNS,
    COUNTRIES,
    MAX_LINE_BYTES,
    MAX_QUANTITY,
    MAX_RECORD_LINES,
    REASONS,
    Line,
    Refusal,
    UnreadableFile,
    compute_amount_minor,
    judge,
    read_lines,
)

HEADER = ",".join(COLUMNS)
GOOD = {
    "InvoiceNo": "536365",
    "StockCode": "85123A",
    "Description": "WHITE HANGING HEART",
    "Quantity": "6.0",
    "InvoiceDate": "2010-12-01 08:26:00",
    "UnitPrice": "2.55",
    "CustomerID": "17850.0",
    "Country": "United Kingdom",
}
GOOD_LINE = Line(
    line_number=2,
    invoice="536365",
    is_cancellation=False,
    stock_code="85123A",
    description="WHITE HANGING HEART",
    quantity=6,
    price_e6=2_550_000,
    amount_minor=1_530,
    date_ms=1_291_191_960_000,
    customer="17850",
    country="GB",
)


def judge_changed(**changes: str) -> Line | Refusal:
    """Judge the good line with some fields changed."""
    fields = {**GOOD, **changes}
    return judge(2, [fields[column] for column in COLUMNS])


def test_good_line_is_read_whole() -> None:
    """Every field arrives, money and time as integers."""
    assert GOOD_LINE == judge_changed()


READ = {
    "quantity without decimals": ({"Quantity": "6"}, {"quantity": 6}),
    "quantity with an exponent": ({"Quantity": "6e0"}, {"quantity": 6}),
    "quantity with white space": ({"Quantity": " 6 "}, {"quantity": 6}),
    "greatest quantity": (
        {"Quantity": str(MAX_QUANTITY)},
        {"quantity": MAX_QUANTITY, "amount_minor": MAX_QUANTITY * 255},
    ),
    "half a penny up": (
        {"Quantity": "1", "UnitPrice": "0.005"},
        {"price_e6": 5_000, "amount_minor": 1, "quantity": 1},
    ),
    "just below half a penny more": (
        {"Quantity": "1", "UnitPrice": "1.004999"},
        {"price_e6": 1_004_999, "amount_minor": 100, "quantity": 1},
    ),
    "rounded once, not by the piece": (
        {"Quantity": "1000", "UnitPrice": "0.001"},
        {"price_e6": 1_000, "amount_minor": 100, "quantity": 1_000},
    ),
    "price of six decimals": (
        {"UnitPrice": "2.123456"},
        {"price_e6": 2_123_456, "amount_minor": 1_274},
    ),
    "noughts behind the sixth decimal": ({"UnitPrice": "2.55000000000"}, {}),
    "price with an exponent": (
        {"UnitPrice": "1e-02", "Quantity": "1"},
        {"price_e6": 10_000, "amount_minor": 1, "quantity": 1},
    ),
    "price without a nought": (
        {"UnitPrice": ".5"},
        {"price_e6": 500_000, "amount_minor": 300},
    ),
    "refund": (
        {"InvoiceNo": "C536379", "Quantity": "-6.0"},
        {"invoice": "C536379", "is_cancellation": True},
    ),
    "refund of a positive quantity": (
        {"InvoiceNo": "C536379"},
        {"invoice": "C536379", "is_cancellation": True},
    ),
    "no customer": ({"CustomerID": ""}, {"customer": None}),
    "customer not a number": ({"CustomerID": "nan"}, {"customer": None}),
    "customer without decimals": ({"CustomerID": "17850"}, {}),
    "no description": ({"Description": ""}, {"description": ""}),
    "description over two lines": ({"Description": "WHITE\r\nHANGING  HEART "}, {}),
    "pound sign": ({"Description": "Voucher £40.00"}, {"description": "Voucher £40.00"}),
    "date and T": ({"InvoiceDate": "2010-12-01T08:26:00"}, {}),
    "date without seconds": ({"InvoiceDate": "2010-12-01 08:26"}, {}),
    "date with a zone": ({"InvoiceDate": "2010-12-01 09:26:00+01:00"}, {}),
    "date alone": ({"InvoiceDate": "2010-12-01"}, {"date_ms": 1_291_161_600_000}),
    "part of a millisecond": ({"InvoiceDate": "2010-12-01 08:26:00.000900"}, {}),
    "first moment": ({"InvoiceDate": "1970-01-01 00:00:00"}, {"date_ms": 0}),
    "country by its old name": ({"Country": "EIRE"}, {"country": "IE"}),
    "country unspecified": ({"Country": "Unspecified"}, {"country": "ZZ"}),
    "no country": ({"Country": ""}, {"country": "ZZ"}),
    "unheard-of country": ({"Country": "Atlantis"}, {"country": "ZZ"}),
}


@pytest.mark.parametrize(("changes", "expected"), READ.values(), ids=READ.keys())
def test_line_is_read(changes: dict[str, str], expected: dict[str, object]) -> None:
    """What is readable is read to the integer that it says."""
    line = judge_changed(**changes)
    shown = {name: getattr(GOOD_LINE, name) for name in GOOD_LINE.__struct_fields__}
    assert Line(**{**shown, **expected}) == line


REFUSED = {
    "no invoice number": ({"InvoiceNo": ""}, "bad_line"),
    "no stock code": ({"StockCode": " "}, "bad_line"),
    "no quantity": ({"Quantity": ""}, "bad_line"),
    "no date": ({"InvoiceDate": ""}, "bad_line"),
    "no price": ({"UnitPrice": ""}, "bad_line"),
    "half a piece": ({"Quantity": "6.5"}, "bad_line"),
    "quantity not a number": ({"Quantity": "nan"}, "bad_line"),
    "infinite quantity": ({"Quantity": "inf"}, "bad_line"),
    "quantity in words": ({"Quantity": "six"}, "bad_line"),
    "quantity with commas": ({"Quantity": "1,000"}, "bad_line"),
    "quantity with underscores": ({"Quantity": "1_000"}, "bad_line"),
    "quantity in other digits": ({"Quantity": "\u0666"}, "bad_line"),
    "quantity too great": ({"Quantity": str(MAX_QUANTITY + 1)}, "bad_line"),
    "quantity far too great": ({"Quantity": "9e99"}, "bad_line"),
    "digits without end": ({"Quantity": "1" * 5_000}, "bad_line"),
    "price not a number": ({"UnitPrice": "NaN"}, "bad_line"),
    "infinite price": ({"UnitPrice": "-Infinity"}, "bad_line"),
    "price with a currency": ({"UnitPrice": "£2.55"}, "bad_line"),
    "price of seven decimals": ({"UnitPrice": "2.5500001"}, "bad_line"),
    "price of twenty decimals": ({"UnitPrice": "1e-20"}, "bad_line"),
    "amount beyond 63 bits": ({"UnitPrice": "9e18"}, "bad_line"),
    "month 13": ({"InvoiceDate": "2010-13-01 08:26:00"}, "bad_line"),
    "29 February of a common year": ({"InvoiceDate": "2011-02-29 08:26:00"}, "bad_line"),
    "date in another order": ({"InvoiceDate": "12/1/2010 8:26"}, "bad_line"),
    "date before 1970": ({"InvoiceDate": "1969-12-31 23:59:59"}, "bad_line"),
    "customer in words": ({"CustomerID": "Jones"}, "bad_line"),
    "broken customer": ({"CustomerID": "17850.5"}, "bad_line"),
    "bytes that are no UTF-8": ({"Description": "Voucher \udca340.00"}, "bad_line"),
    "character that was lost": ({"Description": "Voucher \ufffd40.00"}, "bad_line"),
    "control character": ({"Description": "A\x00B"}, "bad_line"),
    "direction override": ({"StockCode": "85\u202e123A"}, "bad_line"),
    "another letter": ({"InvoiceNo": "A563185"}, "not_an_order"),
    "small letter": ({"InvoiceNo": "c536379"}, "not_an_order"),
    "letter alone": ({"InvoiceNo": "C"}, "not_an_order"),
    "letter behind": ({"InvoiceNo": "536365C"}, "not_an_order"),
    "other digits": ({"InvoiceNo": "\u0665\u0663\u0666"}, "not_an_order"),
    "nothing sold": ({"Quantity": "0"}, "stock_adjustment"),
    "negative quantity": ({"Quantity": "-6.0"}, "stock_adjustment"),
    "negative price": ({"UnitPrice": "-11062.06"}, "negative_price"),
    "negative price on a refund": (
        {"InvoiceNo": "C1", "Quantity": "-1", "UnitPrice": "-1"},
        "negative_price",
    ),
    "given away": ({"UnitPrice": "0.0"}, "no_price"),
    "negative nought": ({"UnitPrice": "-0.0"}, "no_price"),
    "refund for nothing": ({"InvoiceNo": "C1", "Quantity": "-1", "UnitPrice": "0"}, "no_price"),
    "less than half a penny": ({"Quantity": "1", "UnitPrice": "0.001"}, "below_minor_unit"),
    "refund of no pieces": ({"InvoiceNo": "C1", "Quantity": "0"}, "below_minor_unit"),
    "unreadable before odd number": ({"InvoiceNo": "A1", "Quantity": "x"}, "bad_line"),
    "odd number before quantity": ({"InvoiceNo": "A1", "Quantity": "-1"}, "not_an_order"),
    "quantity before price": ({"Quantity": "-1", "UnitPrice": "-1"}, "stock_adjustment"),
    "quantity before no price": ({"Quantity": "-1", "UnitPrice": "0"}, "stock_adjustment"),
}


@pytest.mark.parametrize(("changes", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_line_is_refused(changes: dict[str, str], reason: str) -> None:
    """The first check that fails names the reason, and says what it found."""
    refusal = judge_changed(**changes)
    assert isinstance(refusal, Refusal)
    assert (2, reason) == (refusal.line_number, refusal.reason)
    assert "expected" in refusal.detail
    assert len(refusal.detail) <= 200


def test_every_reason_has_a_case() -> None:
    """No reason goes untested."""
    assert set(REASONS) == {reason for _, reason in REFUSED.values()}


@given(st.integers(1, MAX_QUANTITY), st.integers(0, 10**12))
def test_amount_is_rounded_half_up(quantity: int, price_e6: int) -> None:
    """The integers round as decimal arithmetic does, to the penny."""
    exact = quantity * (Decimal(price_e6) / 1_000_000)
    penny = exact.quantize(Decimal("0.01"), ROUND_HALF_UP)
    assert int(penny * 100) == compute_amount_minor(quantity, price_e6)


@given(st.lists(st.text(max_size=12), min_size=8, max_size=8))
def test_any_text_is_judged(fields: list[str]) -> None:
    """Whatever stands in a line, it is judged and nothing breaks."""
    assert isinstance(judge(2, fields), Line | Refusal)


# Whole files.

ROW = ",".join(GOOD.values())


def write(path: Path, *lines: str, end: str = "\n") -> Path:
    """Write a file of these lines."""
    path.write_bytes("".join(line + end for line in lines).encode())
    return path


def numbers_and_reasons(path: Path) -> list[tuple[int, str]]:
    """Read a file; returns each line's number and what became of it."""
    return [
        (found.line_number, found.reason if isinstance(found, Refusal) else found.description)
        for found in read_lines(path)
    ]


FORMS = {
    "line feeds": (HEADER + "\n" + ROW + "\n").encode(),
    "carriage returns": (HEADER + "\r\n" + ROW + "\r\n").encode(),
    "no end of line": (HEADER + "\n" + ROW).encode(),
    "byte-order mark": ("\ufeff" + HEADER + "\n" + ROW + "\n").encode(),
    "blank lines": (HEADER + "\n" + ROW + "\n\n\r\n").encode(),
    "quoted": ('"' + HEADER.replace(",", '","') + '"\n' + ROW + "\n").encode(),
    "gzip": gzip.compress((HEADER + "\r\n" + ROW + "\r\n").encode()),
    "columns in another order": (
        ",".join(reversed(COLUMNS)) + ",Note\n" + ",".join([*reversed(GOOD.values()), "x"]) + "\n"
    ).encode(),
}


@pytest.mark.parametrize("data", FORMS.values(), ids=FORMS.keys())
def test_form_of_file_makes_no_difference(tmp_path: Path, data: bytes) -> None:
    """The same line is read from every form a file may have."""
    path = tmp_path / "file"
    path.write_bytes(data)
    assert [GOOD_LINE] == list(read_lines(path))


def test_parquet_reads_as_csv_does(tmp_path: Path) -> None:
    """Typed columns give the same lines and numbers as text does; null is nothing."""
    path = tmp_path / "invoices.parquet"
    with duckdb.connect() as connection:
        connection.execute(
            "COPY (SELECT * FROM (VALUES"
            " ('536365', '85123A', 'WHITE HANGING HEART', 6::BIGINT,"
            " TIMESTAMP '2010-12-01 08:26:00', 2.55::DOUBLE, 17850.0::DOUBLE, 'United Kingdom'),"
            " ('536365', '85123A', NULL, 1, TIMESTAMP '2010-12-01 08:26:00', 1e-05, 'nan', NULL),"
            " (NULL, '85123A', NULL, 1, TIMESTAMP '2010-12-01 08:26:00', 1, NULL, NULL))"
            f" AS t({', '.join(COLUMNS)})) TO '{path}' (FORMAT parquet)"
        )
    good, small, bad = read_lines(path)
    assert GOOD_LINE == good
    assert (
        Refusal(3, "below_minor_unit", "amount: expected a penny or more, got 1 at 1e-05") == small
    )
    assert Refusal(4, "bad_line", "InvoiceNo: expected a value, got nothing") == bad


def test_quoted_field_may_hold_line_ends(tmp_path: Path) -> None:
    """A record is numbered by its first line, and the next one by its own."""
    long = ROW.replace("WHITE HANGING HEART", '"one\ntwo, ""three"""')
    path = write(tmp_path / "file", HEADER, long, ROW)
    assert [(2, 'one two, "three"'), (4, "WHITE HANGING HEART")] == numbers_and_reasons(path)


def test_stray_quote_costs_one_line(tmp_path: Path) -> None:
    """A quote that nobody closes takes neither the next lines nor the rest of the file along."""
    stray = ROW.replace("WHITE", '"WHITE')
    many = [ROW] * (MAX_RECORD_LINES + 3)
    found = numbers_and_reasons(write(tmp_path / "file", HEADER, stray, *many, stray, ROW))
    assert [2, len(many) + 3] == [number for number, what in found if what == "bad_line"]
    assert [*range(2, len(many) + 5)] == [number for number, _ in found]


def test_wrong_encoding_costs_one_line(tmp_path: Path) -> None:
    """A line in another encoding is refused, and those around it are read."""
    path = tmp_path / "file"
    odd = ROW.replace("WHITE", "£40").encode("latin-1")
    path.write_bytes(b"\n".join([HEADER.encode(), ROW.encode(), odd, ROW.encode()]))
    assert [(2, "WHITE HANGING HEART"), (3, "bad_line"), (4, "WHITE HANGING HEART")] == (
        numbers_and_reasons(path)
    )


@pytest.mark.parametrize(
    "line",
    ["", "x", ROW + ",", ROW.rpartition(",")[0], "y" * 3 * MAX_LINE_BYTES, "," * 100_000, " "],
    ids=["blank", "one field", "nine fields", "seven fields", "endless", "all commas", "space"],
)
def test_odd_line_leaves_the_next_alone(tmp_path: Path, line: str) -> None:
    """A line of the wrong shape is refused; a blank one is no line."""
    found = numbers_and_reasons(write(tmp_path / "file", HEADER, line, ROW))
    odd = [(2, "bad_line")] if line else []
    assert [*odd, (3, "WHITE HANGING HEART")] == found


WITHOUT = HEADER.replace("UnitPrice", "Price")
UNREADABLE = {
    "empty": (b"", "expected one column InvoiceNo, got none"),
    "column missing": (WITHOUT.encode(), "expected one column UnitPrice, got none"),
    "column twice": ((HEADER + ",Country").encode(), "expected one column Country, got 2"),
    "no parquet": (b"PAR1 and nothing else", "expected a Parquet file"),
    "no gzip": (b"\x1f\x8b and nothing else", "expected whole data after line 0"),
}


@pytest.mark.parametrize(("data", "says"), UNREADABLE.values(), ids=UNREADABLE.keys())
def test_unreadable_file_is_named(tmp_path: Path, data: bytes, says: str) -> None:
    """A file that is not what it should be is refused as a whole, and the error says why."""
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(UnreadableFile, match=says):
        read_lines(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    """A path that leads nowhere is an error with the path."""
    with pytest.raises(UnreadableFile, match="nowhere: expected a readable file"):
        read_lines(tmp_path / "nowhere")


def test_parquet_without_a_column_is_named(tmp_path: Path) -> None:
    """Parquet too says which column is missing."""
    path = tmp_path / "file"
    with duckdb.connect() as connection:
        connection.execute(f"COPY (SELECT 1 AS InvoiceNo) TO '{path}' (FORMAT parquet)")
    with pytest.raises(UnreadableFile, match="expected one column StockCode, got none"):
        read_lines(path)


@pytest.mark.parametrize("cut", [12, 40, 2_000], ids=["the end", "the checksum", "the data"])
def test_truncated_gzip_is_an_error(tmp_path: Path, cut: int) -> None:
    """A file that ends too early is never taken for the whole."""
    rows = [ROW.replace("HEART", f"{number * number}") for number in range(3_000)]
    path = tmp_path / "file"
    path.write_bytes(gzip.compress("\n".join([HEADER, *rows]).encode())[:-cut])
    with pytest.raises(UnreadableFile, match="expected whole data after line"):
        list(read_lines(path))


def test_damaged_gzip_is_an_error(tmp_path: Path) -> None:
    """A flipped bit is found by the checksum at the latest."""
    rows = [ROW.replace("HEART", f"{number * number}") for number in range(3_000)]
    data = bytearray(gzip.compress("\n".join([HEADER, *rows]).encode()))
    data[len(data) // 2] ^= 0x10
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(UnreadableFile, match="expected whole data after line"):
        list(read_lines(path))


def test_country_codes_are_codes() -> None:
    """Two capital letters each, and no name twice in another case."""
    assert [] == [code for code in COUNTRIES.values() if not (len(code) == 2 and code.isupper())]
    assert len(COUNTRIES) == len({name.lower() for name in COUNTRIES})
