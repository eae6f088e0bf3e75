"""The invoices of a file, sorted and settled in a small database beside the ledger.

The file may be longer than memory, and the import may be killed at any moment: so lines are put in
order by SQLite, refunds are allotted before anything is traded, and the database remembers what was
signed before it is handed in.
"""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from hansa.formats.online_retail import Line, compute_amount_minor, read_lines
from hansa.service.orders.model import MAX_LINES

BAD_LINES_KEPT: Final = 100
BATCH: Final = 5_000

STAGED: Final = 0
SIGNED: Final = 1
DONE: Final = 2

_SCHEMA: Final = """
CREATE TABLE facts(name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE refusals(reason TEXT PRIMARY KEY, lines INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE bad_lines(number INTEGER PRIMARY KEY);
CREATE TABLE lines(
    number INTEGER PRIMARY KEY, invoice TEXT NOT NULL, is_refund INTEGER NOT NULL,
    stock TEXT NOT NULL, quantity INTEGER NOT NULL, price_e6 INTEGER NOT NULL,
    amount INTEGER NOT NULL, date_ms INTEGER NOT NULL, customer TEXT, country TEXT NOT NULL);
CREATE TABLE invoices(
    position INTEGER PRIMARY KEY, number TEXT NOT NULL, part INTEGER NOT NULL,
    is_refund INTEGER NOT NULL, date_ms INTEGER NOT NULL, buyer TEXT NOT NULL,
    country TEXT NOT NULL, amount INTEGER NOT NULL, credit INTEGER NOT NULL DEFAULT 0,
    state INTEGER NOT NULL DEFAULT 0, made BLOB, UNIQUE(number, part));
CREATE TABLE items(
    position INTEGER NOT NULL, line INTEGER NOT NULL, is_refund INTEGER NOT NULL,
    buyer TEXT NOT NULL, stock TEXT NOT NULL, quantity INTEGER NOT NULL,
    price_e6 INTEGER NOT NULL, amount INTEGER NOT NULL, left_quantity INTEGER NOT NULL,
    left_minor INTEGER NOT NULL, PRIMARY KEY(position, line)) WITHOUT ROWID;
CREATE TABLE refunds(
    position INTEGER NOT NULL, sold INTEGER NOT NULL, line INTEGER NOT NULL,
    quantity INTEGER NOT NULL, amount INTEGER NOT NULL,
    PRIMARY KEY(position, sold, line)) WITHOUT ROWID;
CREATE TABLE products(stock TEXT PRIMARY KEY, name TEXT NOT NULL, product BLOB) WITHOUT ROWID;
CREATE TABLE buyers(
    buyer TEXT PRIMARY KEY, country TEXT NOT NULL, is_known INTEGER NOT NULL DEFAULT 0
    ) WITHOUT ROWID;
"""

# Order of date, then number. Numbers are compared as numbers, however long, and an invoice with a C
# comes after those of the same minute without one: what it takes back was sold before.
_SORTED: Final = """
SELECT f.invoice, f.is_refund, f.date_ms, f.customer, f.country, g.lines FROM lines f JOIN
    (SELECT MIN(number) AS first, COUNT(*) AS lines FROM lines GROUP BY invoice) g
    ON f.number = g.first
ORDER BY f.date_ms, f.is_refund, LENGTH(LTRIM(LTRIM(f.invoice, 'C'), '0')),
    LTRIM(LTRIM(f.invoice, 'C'), '0'), f.invoice
"""

_SOLD: Final = """
SELECT position, line, left_quantity, left_minor FROM items
WHERE buyer = ? AND stock = ? AND is_refund = 0 AND position < ?
    AND left_quantity > 0 AND left_minor > 0
ORDER BY position DESC, line DESC
"""


class Invoice(NamedTuple):
    """An invoice, or the part of one too long for one order."""

    position: int
    """In order of date, then number, from 0."""
    number: str
    is_refund: bool
    date_ms: int
    buyer: str
    """Name in the key store."""
    country: str
    amount_minor: int
    """Of its lines."""
    credit_minor: int
    """What of a refund no earlier line covers."""
    made: bytes
    """Order id, or digests of the refunding transactions; empty before it is signed."""


class RefundItem(NamedTuple):
    """What of an earlier line goes back."""

    sold: int
    """Position of the invoice it was sold on."""
    order: bytes
    """Id of that order; empty before it is signed."""
    line: int
    quantity: int
    amount_minor: int


class Staging:
    """The database of one import."""

    def __init__(self, path: Path) -> None:
        self.path = path
        is_new = not path.exists()
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("PRAGMA cache_size=-65536")
        if is_new:
            self._db.executescript("BEGIN;" + _SCHEMA + "COMMIT;")

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def __enter__(self) -> "Staging":
        self._db.execute("BEGIN IMMEDIATE")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._db.execute("COMMIT" if kind is None else "ROLLBACK")

    # Single facts.

    def get(self, name: str, default: Any = None) -> Any:
        """Return a fact."""
        row = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return default if row is None else row[0]

    def put(self, name: str, value: Any) -> None:
        """Write a fact."""
        self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    # Filling.

    def fill(self, file: Path, limit: int | None, progress: Callable[[int], None]) -> None:
        """Read a file whole, in one SQL transaction; ``progress`` hears of lines read.

        Raises: UnreadableFile.
        """
        if self.get("is_filled"):
            return
        with self:
            self._read(file, progress)
            self._sort(limit)
            self._allot()
            self.put("is_filled", 1)

    def _read(self, file: Path, progress: Callable[[int], None]) -> None:
        lines: list[tuple[Any, ...]] = []
        names: dict[str, str] = {}
        refusals: dict[str, int] = {}
        bad = count = 0
        for item in read_lines(file):
            count += 1
            if isinstance(item, Line):
                lines.append(_line_row(item))
                if not names.get(item.stock_code):
                    names[item.stock_code] = item.description
                if len(lines) == BATCH:
                    self._store(lines, names)
                    progress(count)
            else:
                refusals[item.reason] = refusals.get(item.reason, 0) + 1
                if item.reason == "bad_line" and bad < BAD_LINES_KEPT:
                    bad += 1
                    self._db.execute("INSERT INTO bad_lines VALUES (?)", (item.line_number,))
        self._store(lines, names)
        self._db.executemany("INSERT INTO refusals VALUES (?, ?)", refusals.items())
        self.put("lines_read", count)
        progress(count)

    def _store(self, lines: list[tuple[Any, ...]], names: dict[str, str]) -> None:
        """Write what was gathered; of a product's names the first that says anything stays."""
        self._db.executemany("INSERT INTO lines VALUES (?,?,?,?,?,?,?,?,?,?)", lines)
        self._db.executemany(
            "INSERT INTO products(stock, name) VALUES (?, ?) ON CONFLICT(stock) DO UPDATE "
            "SET name = excluded.name WHERE products.name = ''",
            names.items(),
        )
        lines.clear()
        names.clear()

    def _sort(self, limit: int | None) -> None:
        """Give invoices their positions and lines their places in them."""
        sql = _SORTED if limit is None else f"{_SORTED} LIMIT {int(limit)}"
        position = 0
        for number, is_refund, date_ms, customer, country, lines in self._db.execute(sql):
            buyer = f"guest/{number}" if customer is None else f"customer/{customer}"
            for part in range(-(-lines // MAX_LINES)):
                row = (position, number, part, is_refund, date_ms, buyer, country)
                self._db.execute(
                    "INSERT INTO invoices(position, number, part, is_refund, date_ms, buyer, "
                    "country, amount) VALUES (?, ?, ?, ?, ?, ?, ?, 0)",
                    row,
                )
                position += 1
        self._db.execute(
            "INSERT INTO items SELECT i.position, w.place % :most, i.is_refund, i.buyer, w.stock, "
            "w.quantity, w.price_e6, w.amount, w.quantity, w.amount FROM "
            "(SELECT *, ROW_NUMBER() OVER (PARTITION BY invoice ORDER BY number) - 1 AS place "
            "FROM lines) w JOIN invoices i ON i.number = w.invoice AND i.part = w.place / :most",
            {"most": MAX_LINES},
        )
        self._db.execute("DROP TABLE lines")
        self._db.execute(
            "UPDATE invoices SET amount = (SELECT SUM(amount) FROM items "
            "WHERE items.position = invoices.position)"
        )
        self._db.execute("CREATE INDEX items_sold ON items(buyer, stock, position, line)")
        self._db.execute("CREATE INDEX invoices_by_state ON invoices(state, position)")
        # Products and buyers of invoices beyond the limit are none of this import's.
        self._db.execute("CREATE INDEX items_by_stock ON items(stock)")
        self._db.execute("DELETE FROM products WHERE stock NOT IN (SELECT stock FROM items)")
        self._db.execute(
            "INSERT OR IGNORE INTO buyers(buyer, country) "
            "SELECT buyer, country FROM invoices ORDER BY position"
        )

    def _allot(self) -> None:
        """Set every refunded line against what the buyer bought before, newest first."""
        refunded = self._db.execute(
            "SELECT position FROM invoices WHERE is_refund = 1 ORDER BY position"
        )
        for (position,) in refunded:
            self._allot_invoice(position)

    def _allot_invoice(self, position: int) -> None:
        lines = self._db.execute(
            "SELECT buyer, stock, quantity, price_e6, amount FROM items "
            "WHERE position = ? ORDER BY line",
            (position,),
        ).fetchall()
        for buyer, stock, quantity, price_e6, amount in lines:
            sold = self._db.execute(_SOLD, (buyer, stock, position)).fetchall()
            parts, credit = allot(quantity, price_e6, amount, [(row[2], row[3]) for row in sold])
            for index, part_quantity, part_minor in parts:
                earlier, line = sold[index][:2]
                self._db.execute(
                    "INSERT INTO refunds VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                    "quantity = quantity + excluded.quantity, amount = amount + excluded.amount",
                    (position, earlier, line, part_quantity, part_minor),
                )
                self._db.execute(
                    "UPDATE items SET left_quantity = left_quantity - ?, "
                    "left_minor = left_minor - ? WHERE position = ? AND line = ?",
                    (part_quantity, part_minor, earlier, line),
                )
            self._db.execute(
                "UPDATE invoices SET credit = credit + ? WHERE position = ?", (credit, position)
            )

    # Products and buyers.

    def list_unmade_products(self) -> list[tuple[str, str]]:
        """Return (stock code, name) of some products with no id yet, in order of code."""
        sql = "SELECT stock, name FROM products WHERE product IS NULL ORDER BY stock LIMIT ?"
        return self._db.execute(sql, (BATCH,)).fetchall()

    def put_products(self, products: Sequence[tuple[str, bytes]]) -> None:
        """Write ids of products by stock code."""
        rows = [(product, stock) for stock, product in products]
        self._db.executemany("UPDATE products SET product = ? WHERE stock = ?", rows)

    def list_unknown_buyers(self) -> list[tuple[str, str]]:
        """Return (name, country) of some buyers that nobody has registered yet, by name."""
        sql = "SELECT buyer, country FROM buyers WHERE is_known = 0 ORDER BY buyer LIMIT ?"
        return self._db.execute(sql, (BATCH,)).fetchall()

    def mark_buyers(self, buyers: Sequence[str]) -> None:
        """Note that buyers are registered."""
        rows = [(buyer,) for buyer in buyers]
        self._db.executemany("UPDATE buyers SET is_known = 1 WHERE buyer = ?", rows)

    # Invoices.

    def list_invoices(self, state: int, first: int, limit: int) -> list[Invoice]:
        """Return invoices in a state from a position on, in order."""
        rows = self._db.execute(
            "SELECT position, number, is_refund, date_ms, buyer, country, amount, credit, made "
            "FROM invoices WHERE state = ? AND position >= ? ORDER BY position LIMIT ?",
            (state, first, limit),
        )
        return [
            Invoice(
                row[0], row[1], bool(row[2]), row[3], row[4], row[5], row[6], row[7], row[8] or b""
            )
            for row in rows
        ]

    def list_lines(self, position: int) -> list[tuple[bytes, int, int]]:
        """Return (product, quantity, price in millionths) of an invoice's lines, in order."""
        return self._db.execute(
            "SELECT product, quantity, price_e6 FROM items JOIN products USING(stock) "
            "WHERE position = ? ORDER BY line",
            (position,),
        ).fetchall()

    def list_refunds(self, position: int) -> list[RefundItem]:
        """Return what a refund takes back, by earlier invoice and line."""
        rows = self._db.execute(
            "SELECT r.sold, i.made, r.line, r.quantity, r.amount FROM refunds r "
            "JOIN invoices i ON i.position = r.sold WHERE r.position = ? ORDER BY r.sold, r.line",
            (position,),
        )
        return [RefundItem(row[0], row[1] or b"", *row[2:]) for row in rows]

    def mark(self, state: int, made: Sequence[tuple[int, bytes]]) -> None:
        """Write the state of invoices, and what was made of them."""
        rows = [(state, data, position) for position, data in made]
        self._db.executemany("UPDATE invoices SET state = ?, made = ? WHERE position = ?", rows)

    def count(self) -> int:
        """Return how many invoices there are to play."""
        return int(self._db.execute("SELECT COUNT(*) FROM invoices").fetchone()[0])

    def count_done(self) -> int:
        """Return how many are through."""
        sql = "SELECT COUNT(*) FROM invoices WHERE state = ?"
        return int(self._db.execute(sql, (DONE,)).fetchone()[0])

    def sum_done_minor(self) -> int:
        """Return what invoices that are through have brought the seller, less what they took."""
        return int(
            self._db.execute(
                "SELECT COALESCE(SUM(CASE WHEN is_refund THEN -amount ELSE amount END), 0) "
                "FROM invoices WHERE state = ?",
                (DONE,),
            ).fetchone()[0]
        )

    def is_order(self, order: bytes) -> bool:
        """Tell whether an order id is one of this import's."""
        sql = "SELECT 1 FROM invoices WHERE is_refund = 0 AND made = ?"
        return self._db.execute(sql, (order,)).fetchone() is not None

    def iterate_orders(self) -> Iterator[tuple[int, bytes]]:
        """Yield (position, order id) of every order made."""
        sql = "SELECT position, made FROM invoices WHERE is_refund = 0 AND made IS NOT NULL"
        yield from self._db.execute(sql)

    # What the report says of the file.

    def summarise(self) -> dict[str, Any]:
        """Return the figures of the books that follow from the file alone."""
        orders, ordered_minor, credit_minor = self._db.execute(
            "SELECT COALESCE(SUM(1 - is_refund), 0), "
            "COALESCE(SUM(CASE WHEN is_refund THEN 0 ELSE amount END), 0), "
            "COALESCE(SUM(credit), 0) FROM invoices"
        ).fetchone()
        refunded_minor = self._sum_items("SUM(amount)", is_refund=1)
        lines_ordered = self._sum_items("COUNT(*)", is_refund=0)
        lines_refunded = self._sum_items("COUNT(*)", is_refund=1)
        refused = dict(self._db.execute("SELECT reason, lines FROM refusals ORDER BY reason"))
        lines_read = self.get("lines_read")
        return {
            "lines_read": lines_read,
            "orders": orders,
            "lines_ordered": lines_ordered,
            "ordered_minor": ordered_minor,
            "lines_refunded": lines_refunded,
            "refunded_minor": refunded_minor,
            "credit_notes_minor": credit_minor,
            "lines_refused": refused,
            "bad_lines": [row[0] for row in self._db.execute("SELECT number FROM bad_lines")],
            "lines_beyond_limit": lines_read
            - lines_ordered
            - lines_refunded
            - sum(refused.values()),
        }

    def _sum_items(self, what: str, *, is_refund: int) -> int:
        sql = f"SELECT COALESCE({what}, 0) FROM items WHERE is_refund = ?"  # noqa: S608 - ours
        return int(self._db.execute(sql, (is_refund,)).fetchone()[0])


def allot(
    quantity: int, price_e6: int, amount_minor: int, sold: Sequence[tuple[int, int]]
) -> tuple[list[tuple[int, int, int]], int]:
    """Set a refund against earlier lines, as far as quantity and what was paid reach.

    ``sold`` are (quantity left, minor units left) of the lines, newest first. Returns (index,
    quantity, minor units) of each line that something goes back of, and the rest, which is a credit
    note. What goes back of a line is its share at the refund's price; the last share is what is
    left, so that nothing is lost in rounding.
    """
    parts: list[tuple[int, int, int]] = []
    left_quantity, left_minor = quantity, amount_minor
    for index, (sold_quantity, sold_minor) in enumerate(sold):
        if left_quantity == 0 or left_minor == 0:
            break
        part_quantity = min(left_quantity, sold_quantity)
        share = left_minor
        if part_quantity < left_quantity:
            share = min(left_minor, compute_amount_minor(part_quantity, price_e6))
        part_minor = min(share, sold_minor)
        if part_minor == 0:
            continue
        parts.append((index, part_quantity, part_minor))
        left_quantity -= part_quantity
        left_minor -= part_minor
    return parts, left_minor


def _line_row(line: Line) -> tuple[Any, ...]:
    return (
        line.line_number,
        line.invoice,
        int(line.is_cancellation),
        line.stock_code,
        line.quantity,
        line.price_e6,
        line.amount_minor,
        line.date_ms,
        line.customer,
        line.country,
    )
