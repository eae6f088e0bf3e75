"""The invoices of a wholesaler, as the data set "Online Retail" has them: read and judged by line.

The file is CSV (UTF-8, with or without a byte-order mark, any line ending that has a line feed),
gzipped CSV, or Parquet; which of them is told by its first bytes. The columns are found by name.

A line is unreadable (``bad_line``) where it has not as many fields as the header, is not UTF-8,
holds control or invisible characters, is longer than MAX_LINE_BYTES, opens a quote that is not
closed within MAX_RECORD_LINES, or where:

- InvoiceNo, StockCode, Quantity, InvoiceDate or UnitPrice is missing;
- Quantity is not a whole number (``6`` and ``6.0`` are) of at most MAX_QUANTITY either way;
- UnitPrice is not a decimal number, or is finer than a millionth: a price that cannot be kept
  exactly is not rounded behind the bookkeeper's back;
- InvoiceDate is not a date and time of the calendar from 1970 on;
- CustomerID is neither empty nor digits (``17850.0`` is 17850);
- quantity times price, in minor units, does not fit 63 bits.

An empty Description is allowed, and so is an empty Country. Blank lines are no lines.
"""

import csv
import gzip
import re
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Final, Literal

import duckdb
import msgspec

COLUMNS: Final = (
    "InvoiceNo",
    "StockCode",
    "Description",
    "Quantity",
    "InvoiceDate",
    "UnitPrice",
    "CustomerID",
    "Country",
)

MAX_RECORD_LINES: Final = 16
"""Physical lines a quoted field may run over; a stray quote costs one line, not the whole file."""
MAX_LINE_BYTES: Final = 64 * 1024
MAX_QUANTITY: Final = 0xFFFF_FFFF
MAX_AMOUNT_MINOR: Final = 0x7FFF_FFFF_FFFF_FFFF
PRICE_DECIMALS: Final = 6

Reason = Literal[
    "bad_line",
    "not_an_order",
    "stock_adjustment",
    "negative_price",
    "no_price",
    "below_minor_unit",
]
REASONS: Final[tuple[Reason, ...]] = (
    "bad_line",
    "not_an_order",
    "stock_adjustment",
    "negative_price",
    "no_price",
    "below_minor_unit",
)
"""Why a line is refused, in the order of the checks."""

COUNTRIES: Final = {
    "Australia": "AU",
    "Austria": "AT",
    "Bahrain": "BH",
    "Belgium": "BE",
    "Bermuda": "BM",
    "Brazil": "BR",
    "Canada": "CA",
    "Channel Islands": "JE",  # Jersey stands for Guernsey too: the islands share no code.
    "Cyprus": "CY",
    "Czech Republic": "CZ",
    "Denmark": "DK",
    "EIRE": "IE",
    "European Community": "EU",  # Exceptionally reserved in ISO 3166-1 for this very use.
    "Finland": "FI",
    "France": "FR",
    "Germany": "DE",
    "Greece": "GR",
    "Hong Kong": "HK",
    "Iceland": "IS",
    "Israel": "IL",
    "Italy": "IT",
    "Japan": "JP",
    "Korea": "KR",
    "Lebanon": "LB",
    "Lithuania": "LT",
    "Malta": "MT",
    "Netherlands": "NL",
    "Nigeria": "NG",
    "Norway": "NO",
    "Poland": "PL",
    "Portugal": "PT",
    "RSA": "ZA",
    "Saudi Arabia": "SA",
    "Singapore": "SG",
    "Spain": "ES",
    "Sweden": "SE",
    "Switzerland": "CH",
    "Thailand": "TH",
    "USA": "US",
    "United Arab Emirates": "AE",
    "United Kingdom": "GB",
}
"""ISO 3166-1 alpha-2 by the name the wholesaler uses."""
UNKNOWN_COUNTRY: Final = "ZZ"
"""For Unspecified, West Indies (no country of that name) and any name not in the table: ISO 3166-1
leaves this code to users, so that it will never be a country's."""

# What a ledger's text may not hold (control, direction and invisible characters, the sign for a
# character that was lost), and the half characters by which Python marks bytes that are no UTF-8.
_UNREADABLE: Final = re.compile(
    "[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufeff\ufff0-\uffff\U000e0000-\U000e0fff]"
)
_NUMBER: Final = re.compile(
    r"[+-]?(?:[0-9]{1,30}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})(?:[eE][+-]?[0-9]{1,2})?"
)
_DATE: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"(?:[ T][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?(?:Z|[+-][0-9]{2}:?[0-9]{2})?)?"
)
_CUSTOMER: Final = re.compile(r"([0-9]{1,18})(?:\.0*)?")
_INVOICE: Final = re.compile(r"C?[0-9]+")
_POWERS: Final[tuple[int, ...]] = tuple(10**power for power in range(200))
"""More than _NUMBER lets through: 99 of the exponent, 30 decimals."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_GZIP_MAGIC: Final = b"\x1f\x8b"
_PARQUET_MAGIC: Final = b"PAR1"
_PARQUET_BATCH: Final = 8_192
_TOO_LONG: Final = b"\xff\n"
"""Stands for an overlong line: no UTF-8, and too few fields."""


class UnreadableFile(Exception):
    """The file as a whole is not what it should be; says what was expected and what was found."""


class Line(msgspec.Struct, frozen=True, gc=False):
    """A line that is somebody's order, or a refund of one."""

    line_number: int
    """In the file, from 1; the header is line 1. In Parquet as if a header stood before row 1."""
    invoice: str
    """Digits, or C and digits."""
    is_cancellation: bool
    """An invoice with a C: the line is a refund, whatever the sign of its quantity."""
    stock_code: str
    description: str
    """Runs of white space are one space; may be empty."""
    quantity: int
    """Pieces, 1 to MAX_QUANTITY; of a refund the absolute value."""
    price_e6: int
    """Millionths of a pound a piece, above 0, exact."""
    amount_minor: int
    """Quantity times price in pence, rounded half up, above 0."""
    date_ms: int
    """Milliseconds since 1970-01-01; the file names no time zone, so its time is taken as UTC."""
    customer: str | None
    """Digits; None for a guest."""
    country: str
    """ISO 3166-1 alpha-2; ZZ where the name is unknown."""


class Refusal(msgspec.Struct, frozen=True, gc=False):
    """A line that is no order, and why."""

    line_number: int
    reason: Reason
    detail: str
    """What was expected and what was found; at most 200 characters."""


class _BadLineError(Exception):
    """The line cannot be read; the text says what was expected and what was found."""


class _UnclosedError(Exception):
    """A quote was opened and not closed in time."""


def read_lines(path: Path) -> Iterator[Line | Refusal]:
    """Yield every line of a file of invoices, judged, in the order of the file.

    The memory used does not grow with the file. Raises: UnreadableFile (no such file, no header, a
    column missing or doubled, damaged Parquet at once; damaged or truncated gzip when reached).
    """
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise UnreadableFile(f"{path}: expected a readable file, got {error.strerror}") from error
    if magic == _PARQUET_MAGIC:
        return _judge_parquet(path)
    return _judge_csv(path, is_gzip=magic[:2] == _GZIP_MAGIC)


def judge(line_number: int, fields: Sequence[str]) -> Line | Refusal:
    """Judge one line: ``fields`` in the order of COLUMNS, empty where there is nothing.

    The first check that fails names the reason, in the order of REASONS.
    """
    try:
        return _judge_readable(line_number, fields)
    except _BadLineError as error:
        return Refusal(line_number, "bad_line", str(error)[:200])


def _judge_readable(line_number: int, fields: Sequence[str]) -> Line | Refusal:
    invoice = _require_text("InvoiceNo", fields[0])
    stock_code = _require_text("StockCode", fields[1])
    description = _tidy("Description", fields[2])
    quantity = _read_quantity(fields[3])
    date_ms = _read_date_ms(fields[4])
    price_e6 = _read_price_e6(fields[5])
    customer = _read_customer(fields[6])
    country = _read_country(fields[7])
    pieces = abs(quantity)
    amount_minor = compute_amount_minor(pieces, abs(price_e6))
    if amount_minor > MAX_AMOUNT_MINOR:
        raise _BadLineError(f"amount: expected at most {MAX_AMOUNT_MINOR}, got {amount_minor}")

    is_cancellation = invoice[0] == "C"
    if not _INVOICE.fullmatch(invoice):
        return _refuse(line_number, "not_an_order", "InvoiceNo: digits or C and digits", invoice)
    if not is_cancellation and quantity <= 0:
        return _refuse(line_number, "stock_adjustment", "Quantity: above zero", fields[3])
    if price_e6 < 0:
        return _refuse(line_number, "negative_price", "UnitPrice: above zero", fields[5])
    if price_e6 == 0:
        return _refuse(line_number, "no_price", "UnitPrice: above zero", fields[5])
    if amount_minor == 0:
        given = f"{fields[3]} at {fields[5]}"
        return _refuse(line_number, "below_minor_unit", "amount: a penny or more", given)
    return Line(
        line_number,
        invoice,
        is_cancellation,
        stock_code,
        description,
        pieces,
        price_e6,
        amount_minor,
        date_ms,
        customer,
        country,
    )


def _refuse(line_number: int, reason: Reason, expected: str, given: str) -> Refusal:
    column, _, what = expected.partition(": ")
    return Refusal(line_number, reason, f"{column}: expected {what}, got {given.strip()}"[:200])


def compute_amount_minor(quantity: int, price_e6: int) -> int:
    """Return quantity times price in pence, rounded half up; neither may be negative."""
    return (quantity * price_e6 + 5_000) // 10_000


# Fields. The same texts come thousands of times, so each is read once; refused ones are not kept.


@lru_cache(maxsize=65_536)
def _tidy(column: str, text: str) -> str:
    tidy = " ".join(text.split())
    if found := _UNREADABLE.search(tidy):
        given = f"U+{ord(found.group()):04X} at {found.start()}"
        raise _BadLineError(f"{column}: expected readable UTF-8, got {given}")
    return tidy


def _require_text(column: str, text: str) -> str:
    tidy = _tidy(column, text)
    if not tidy:
        raise _BadLineError(f"{column}: expected a value, got nothing")
    return tidy


def _read_number(column: str, text: str) -> Decimal:
    tidy = _require_text(column, text)
    if not _NUMBER.fullmatch(tidy):
        raise _BadLineError(f"{column}: expected a decimal number, got {tidy}")
    return Decimal(tidy)


@lru_cache(maxsize=16_384)
def _read_quantity(text: str) -> int:
    number = _read_number("Quantity", text)
    quantity = int(number)
    if quantity != number or abs(quantity) > MAX_QUANTITY:
        raise _BadLineError(
            f"Quantity: expected a whole number of at most {MAX_QUANTITY}, got {text.strip()}"
        )
    return quantity


@lru_cache(maxsize=16_384)
def _read_price_e6(text: str) -> int:
    number = _read_number("UnitPrice", text)
    sign, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int), "the pattern lets no NaN or infinity through"
    price_e6, rest = _scale(int("".join(map(str, digits))), exponent + PRICE_DECIMALS)
    if rest:
        raise _BadLineError(
            f"UnitPrice: expected at most {PRICE_DECIMALS} decimals, got {text.strip()}"
        )
    return -price_e6 if sign else price_e6


def _scale(number: int, exponent: int) -> tuple[int, int]:
    """Return number x 10^exponent and what is cut off: integers, for a context would round."""
    if exponent >= 0:
        return number * _POWERS[exponent], 0
    return divmod(number, _POWERS[-exponent])


@lru_cache(maxsize=65_536)
def _read_date_ms(text: str) -> int:
    tidy = _require_text("InvoiceDate", text)
    if not _DATE.fullmatch(tidy):
        raise _BadLineError(f"InvoiceDate: expected YYYY-MM-DD HH:MM:SS, got {tidy}")
    try:
        date = datetime.fromisoformat(tidy)
        since = (date if date.tzinfo else date.replace(tzinfo=UTC)) - _EPOCH
    except (ValueError, OverflowError) as error:
        raise _BadLineError(f"InvoiceDate: expected a date of the calendar, got {tidy}") from error
    if since < timedelta(0):
        raise _BadLineError(f"InvoiceDate: expected 1970 or later, got {tidy}")
    return since // timedelta(milliseconds=1)


@lru_cache(maxsize=65_536)
def _read_customer(text: str) -> str | None:
    tidy = _tidy("CustomerID", text)
    if not tidy or tidy.lower() == "nan":  # How pandas writes that there is none.
        return None
    match = _CUSTOMER.fullmatch(tidy)
    if match is None:
        raise _BadLineError(f"CustomerID: expected digits or nothing, got {tidy}")
    return match.group(1)


@lru_cache(maxsize=1_024)
def _read_country(text: str) -> str:
    return COUNTRIES.get(_tidy("Country", text), UNKNOWN_COUNTRY)


# CSV.


class _Records:
    """Records of a CSV file with the number of the line each begins on.

    csv.reader pulls physical lines from here, more than one only inside quotes. Where a quote stays
    open too long, the record's first line is given up and the ones after it are read afresh.
    """

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._path = path
        self._waiting: deque[str] = deque()
        """Lines handed back after an unclosed quote."""
        self._given: list[str] = []
        """Lines of the record being read."""
        self._next = 1
        """Number of the line that is given next."""

    def read(self) -> Iterator[tuple[int, list[str] | str]]:
        """Yield (line number, fields), or in place of the fields what is wrong with the line."""
        reader = csv.reader(self._give())
        while True:
            try:
                fields = next(reader)
            except StopIteration:
                return
            except (_UnclosedError, csv.Error) as error:
                yield self._give_up_line(), str(error)
                reader = csv.reader(self._give())
                continue
            number = self._next - len(self._given)
            self._given.clear()
            if fields:
                yield number, fields

    def _give(self) -> Iterator[str]:
        while True:
            line = self._waiting.popleft() if self._waiting else self._read_line()
            if line is None or len(self._given) == MAX_RECORD_LINES:
                if not self._given:
                    return
                if line is not None:
                    self._waiting.appendleft(line)
                limit = f"closed within {MAX_RECORD_LINES} lines"
                raise _UnclosedError(f"quotes: expected {limit}, got an open one")
            self._given.append(line)
            self._next += 1
            yield line

    def _read_line(self) -> str | None:
        try:
            line = self._file.readline(MAX_LINE_BYTES)
            if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
                self._skip_rest()
                line = _TOO_LONG
        except (EOFError, zlib.error, OSError) as error:  # BadGzipFile is an OSError.
            raise UnreadableFile(
                f"{self._path}: expected whole data after line {self._next - 1}, got: {error}"
            ) from error
        if not line:
            return None
        text = line.decode("utf-8", "surrogateescape")
        return text.removeprefix("\ufeff") if self._next == 1 else text

    def _skip_rest(self) -> None:
        """Read to the end of an overlong line in pieces, so that memory stays bounded."""
        while (piece := self._file.readline(MAX_LINE_BYTES)) and not piece.endswith(b"\n"):
            pass

    def _give_up_line(self) -> int:
        first = self._next - len(self._given)
        self._waiting.extendleft(reversed(self._given[1:]))
        self._given.clear()
        self._next = first + 1
        return first


def _judge_csv(path: Path, *, is_gzip: bool) -> Iterator[Line | Refusal]:
    raw = path.open("rb")
    file: BinaryIO = gzip.GzipFile(fileobj=raw) if is_gzip else raw  # type: ignore[assignment]
    records = _Records(file, path).read()
    try:
        _, header = next(records, (1, []))
        names = [name.strip() for name in header]
        places = _find_columns(path, names)
    except UnreadableFile:
        raw.close()
        raise
    return _judge_records(raw, records, len(names), places)


def _judge_records(
    raw: BinaryIO, records: Iterator[tuple[int, list[str] | str]], width: int,
    places: Sequence[int],
) -> Iterator[Line | Refusal]:  # fmt: skip
    is_in_order = places == [*range(width)]
    with raw:
        for number, fields in records:
            if isinstance(fields, str):
                yield Refusal(number, "bad_line", fields[:200])
            elif len(fields) != width:
                yield _refuse(number, "bad_line", f"fields: {width}", str(len(fields)))
            else:
                yield judge(number, fields if is_in_order else [fields[at] for at in places])


def _find_columns(path: Path, names: Sequence[str]) -> list[int]:
    for column in COLUMNS:
        if (count := names.count(column)) != 1:
            got = "none" if count == 0 else str(count)
            among = ",".join(names)[:200]
            raise UnreadableFile(f"{path}: expected one column {column}, got {got} among {among!r}")
    return [names.index(column) for column in COLUMNS]


# Parquet.


def _judge_parquet(path: Path) -> Iterator[Line | Refusal]:
    connection = duckdb.connect(config={"threads": 1})
    try:
        file = connection.execute("SELECT * FROM read_parquet(?) LIMIT 0", [str(path)])
        _find_columns(path, [column[0] for column in file.description or ()])
        chosen = ", ".join(f'CAST("{column}" AS VARCHAR)' for column in COLUMNS)
        connection.execute(f"SELECT {chosen} FROM read_parquet(?)", [str(path)])  # noqa: S608 - fixed names
    except UnreadableFile:
        connection.close()
        raise
    except duckdb.Error as error:
        connection.close()
        reason = str(error).partition("\n")[0]  # Below it our own SQL.
        raise UnreadableFile(f"{path}: expected a Parquet file, got: {reason}") from error
    return _judge_rows(path, connection)


def _judge_rows(path: Path, connection: duckdb.DuckDBPyConnection) -> Iterator[Line | Refusal]:
    number = 1
    try:
        while rows := connection.fetchmany(_PARQUET_BATCH):
            for row in rows:
                number += 1
                yield judge(number, ["" if text is None else text for text in row])
    except duckdb.Error as error:
        raise UnreadableFile(
            f"{path}: expected whole Parquet data after row {number - 1}, got: {error}"
        ) from error
    finally:
        connection.close()
