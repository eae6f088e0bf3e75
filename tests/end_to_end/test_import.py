"""The wholesaler's invoices through the whole machine, against books kept in another way."""

from __future__ import annotations

import csv
import gzip
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import pytest

from hansa.core.keys import SigningKey
from hansa.interface.client import Client, LocalTransport
from hansa.interface.sandbox.desk import SandboxError
from hansa.interface.sandbox.home import create_sandbox
from hansa.interface.sandbox.lives import LifeDriver
from hansa.interface.sandbox.online_retail import run_import
from hansa.interface.sandbox.signing import QuickKey
from hansa.interface.sandbox.staging import allot
from hansa.node.home import load_keys, make_trust
from hansa.node.node import Node

HEADER = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country"
CAPITAL_MINOR = 100_000_000

# One of each kind of line, with what becomes of it.
SMALL = f"""{HEADER}
500002,A1,LANTERN,10,2010-12-02 09:00:00,2.55,17001,United Kingdom
500001,A1,LANTERN,4,2010-12-01 09:00:00,2.50,17001,United Kingdom
500001,B2,TEA SET,3,2010-12-01 09:00:00,0.125,17001,United Kingdom
500001,B2,TEA SET,3,2010-12-01 09:00:00,0.125,17001,United Kingdom
500003,B2,TEA SET,1,2010-12-03 09:00:00,7.95,,France
C500004,A1,LANTERN,-12,2010-12-04 09:00:00,2.55,17001,United Kingdom
C500005,A1,LANTERN,-9,2010-12-05 09:00:00,2.00,17001,United Kingdom
C500006,B2,TEA SET,-1,2010-12-06 09:00:00,7.95,,France
500007,A1,LANTERN,-2,2010-12-07 09:00:00,0,,United Kingdom
500008,A1,LANTERN,2,2010-12-08 09:00:00,-1.00,,United Kingdom
500009,A1,LANTERN,2,2010-12-09 09:00:00,0,,United Kingdom
500010,A1,LANTERN,1,2010-12-10 09:00:00,0.001,17002,Germany
A500011,M,ADJUST,1,2010-12-11 09:00:00,5.00,,United Kingdom
500012,A1,LANTERN,two,2010-12-12 09:00:00,5.00,17002,Germany
"""


class Opened:
    """A sandbox with its node running and a client that verifies."""

    def __init__(self, home: Path) -> None:
        if not home.exists():
            create_sandbox(home, "import test")
        self.home = home
        self.keys = load_keys(home, lambda: "")
        self.node = Node(home, keys=self.keys)
        self.client = Client(LocalTransport(self.node), self.keys, make_trust(self.node.genesis))

    def __enter__(self) -> Opened:
        self.node.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.node.stop()

    def play(self, file: Path, **options: Any) -> dict[str, Any]:
        """Import a file."""
        return run_import(self.client, file, self.home, **options)


def keep_books(file: Path, limit: int | None = None) -> dict[str, Any]:
    """The issue's rules once more, with decimals, lists and no ledger."""
    invoices: dict[str, list[dict[str, str]]] = defaultdict(list)
    refused: Counter[str] = Counter()
    with file.open(newline="", encoding="utf-8-sig") as text:
        for row in csv.DictReader(text):
            reason = judge(row)
            if reason is None:
                invoices[row["InvoiceNo"]].append(row)
            else:
                refused[reason] += 1
    ordered = sorted(
        invoices.items(), key=lambda item: (item[1][0]["InvoiceDate"], len(item[0]), item[0])
    )
    sold: dict[tuple[str, str], list[list[Decimal]]] = defaultdict(list)
    books: Counter[str] = Counter()
    for number, rows in ordered[:limit]:
        buyer = rows[0]["CustomerID"] or number
        books["orders"] += number[0] != "C"
        for row in rows:
            quantity, price = abs(Decimal(row["Quantity"])), Decimal(row["UnitPrice"])
            place = (buyer, row["StockCode"])
            amount = to_pence(quantity * price)
            if number[0] != "C":
                sold[place].append([quantity, amount])
                books["lines_ordered"] += 1
                books["ordered_minor"] += int(amount)
            else:
                books["lines_refunded"] += 1
                books["refunded_minor"] += int(amount)
                books["credit_notes_minor"] += int(take_back(sold[place], quantity, price, amount))
    net = CAPITAL_MINOR + books["ordered_minor"] - books["refunded_minor"]
    return {**books, "seller_net_minor": net, "lines_refused": dict(refused)}


def judge(row: dict[str, str]) -> str | None:
    """Why a readable line is no order."""
    number = row["InvoiceNo"]
    if not row["Quantity"].lstrip("-").replace(".", "").isdigit():
        return "bad_line"
    if not number.removeprefix("C").isdigit():
        return "not_an_order"
    quantity = Decimal(row["Quantity"])
    if number[0] != "C" and quantity <= 0:
        return "stock_adjustment"
    price = Decimal(row["UnitPrice"])
    if price < 0:
        return "negative_price"
    if price == 0:
        return "no_price"
    return None if to_pence(abs(quantity) * price) else "below_minor_unit"


def to_pence(pounds: Decimal) -> Decimal:
    """Rounded half up."""
    return (pounds * 100).quantize(Decimal(1), ROUND_HALF_UP)


def take_back(
    lines: list[list[Decimal]], quantity: Decimal, price: Decimal, amount: Decimal
) -> Decimal:
    """Take goods back, newest first; returns what is left for a credit note."""
    for line in reversed(lines):
        pieces = min(quantity, line[0])
        share = amount if pieces == quantity else min(amount, to_pence(pieces * price))
        paid = min(share, line[1])
        if pieces and paid:
            line[0] -= pieces
            line[1] -= paid
            quantity -= pieces
            amount -= paid
    return amount


def take_part(shared_data: Path, folder: Path, lines: int) -> Path:
    """The first lines of the real file."""
    source = next((shared_data / "online_retail").glob("*.csv.gz"))
    part = folder / "part.csv"
    with gzip.open(source, "rt", encoding="utf-8", newline="") as text:
        part.write_text("".join(itertools.islice(text, lines)), encoding="utf-8", newline="")
    return part


def pick(report: dict[str, Any], books: dict[str, Any]) -> dict[str, Any]:
    """The figures of a report that the books have, too."""
    picked = {name: report[name] for name in books}
    picked["lines_refused"] = {k: v for k, v in report["lines_refused"].items() if v}
    return picked


def test_every_kind_of_line_ends_in_the_books(tmp_path: Path) -> None:
    """Orders, guests, refunds over several lines, credit notes and every refusal add up."""
    file = tmp_path / "small.csv"
    file.write_text(SMALL)
    with Opened(tmp_path / "home") as sandbox:
        report = sandbox.play(file, fsck=lambda: True)
        assert keep_books(file) == pick(report, keep_books(file))
        assert [15] == report["bad_lines"]
        assert 14 == report["lines_read"]
        assert 0 == report["lines_beyond_limit"]
        assert report["sound"] is True
        assert report["proofs_verified"] >= report["transactions"]
        orders = sandbox.client.list("orders")["items"]
        assert {"500001", "500002", "500003"} == {row["reference"] for row in orders}
        assert {"released"} == {row["status"] for row in orders}
        assert [] == sandbox.client.list("holds", {"status": "open"})["items"]
        assert [] == sandbox.client.list("packets", {"status": "pending"})["items"]


def test_the_first_invoices_of_the_real_file_end_in_the_books(
    tmp_path: Path, shared_data: Path
) -> None:
    """A part of the real file comes out to the penny as books kept without a ledger say."""
    file = take_part(shared_data, tmp_path, 6_000)
    with Opened(tmp_path / "home") as sandbox:
        report = sandbox.play(file, limit=150)
    books = keep_books(file, 150)
    assert books == pick(report, books)
    read = report["lines_ordered"] + report["lines_refunded"] + report["lines_beyond_limit"]
    assert report["lines_read"] == read + sum(report["lines_refused"].values())


def test_a_finished_import_does_nothing_again(tmp_path: Path) -> None:
    """Started once more with the same arguments, it reports the same and sends nothing."""
    file = tmp_path / "small.csv"
    file.write_text(SMALL)
    with Opened(tmp_path / "home") as sandbox:
        first = sandbox.play(file)
        height = sandbox.node.status()["height"]
        assert first == sandbox.play(file)
        assert height == sandbox.node.status()["height"]


def test_two_imports_share_a_home(tmp_path: Path) -> None:
    """Other arguments make another import, which finds products, buyers and currency there."""
    file = tmp_path / "small.csv"
    file.write_text(SMALL)
    with Opened(tmp_path / "home") as sandbox:
        sandbox.play(file)
        report = sandbox.play(file, working_capital_minor=5_000)
    assert 3 == report["orders"]
    net = 5_000 + report["ordered_minor"] - report["refunded_minor"]
    assert net == report["seller_net_minor"]


def test_a_seller_who_cannot_pay_is_named(tmp_path: Path) -> None:
    """A refund beyond all that the seller has ends the import with the invoice's number."""
    file = tmp_path / "poor.csv"
    file.write_text(f"{HEADER}\nC1,A,X,-2,2010-12-01 09:00:00,5.00,17001,France\n")
    with Opened(tmp_path / "home") as sandbox, pytest.raises(SandboxError, match="invoice C1"):
        sandbox.play(file, working_capital_minor=999)


class Interrupted(Exception):
    """The import is broken off here."""


def test_an_import_broken_off_anywhere_goes_on(
    tmp_path: Path, shared_data: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken off between any two steps and started again, it ends in the same books."""
    file = take_part(shared_data, tmp_path, 1_500)
    rng = random.Random(seed)
    books = keep_books(file)
    step = LifeDriver.step
    left = [0]

    def step_or_break(driver: LifeDriver) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Interrupted
        step(driver)

    monkeypatch.setattr(LifeDriver, "step", step_or_break)
    with Opened(tmp_path / "home") as sandbox:
        for _ in range(6):
            left[0] = rng.randint(1, 25)
            try:
                sandbox.play(file)
            except Interrupted:
                continue
            break
        left[0] = -1
        report = sandbox.play(file)
    assert books == pick(report, books)


CHILD = """
import sys
from pathlib import Path
from tests.end_to_end.test_import import Opened
with Opened(Path(sys.argv[1])) as sandbox:
    print("ready", flush=True)
    sandbox.play(Path(sys.argv[2]))
"""


def run_child(home: Path, file: Path) -> subprocess.Popen[str]:
    """The import in a process of its own, up to the point where its node is open."""
    root = Path(__file__).resolve().parents[2]
    path = os.pathsep.join([str(root), str(root / "src")])
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(home), str(file)],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert "ready\n" == child.stdout.readline()
    return child


def test_an_import_killed_at_random_goes_on(
    tmp_path: Path, shared_data: Path, seed: int, soak: bool
) -> None:
    """kill -9 of node and importer at random moments: started again it ends in the same books."""
    file = take_part(shared_data, tmp_path, 3_000)
    home = tmp_path / "home"
    rng = random.Random(seed)
    with Opened(home):
        pass
    for _ in range(30 if soak else 3):
        child = run_child(home, file)
        time.sleep(rng.uniform(0.0, 2.5))  # The moment of the kill, not a wait for anything.
        child.send_signal(signal.SIGKILL)
        child.wait()
    with Opened(home) as sandbox:
        report = sandbox.play(file)
    books = keep_books(file)
    assert books == pick(report, books)


ALLOTMENTS: list[tuple[str, tuple[int, int, int], list[tuple[int, int]], Any]] = [
    ("one line covers it", (2, 2_500_000, 500), [(5, 1250)], ([(0, 2, 500)], 0)),
    ("newest first, then older", (3, 1_000_000, 300), [(2, 200), (5, 500)],
     ([(0, 2, 200), (1, 1, 100)], 0)),
    ("the rest is a credit note", (3, 1_000_000, 300), [(2, 200)], ([(0, 2, 200)], 100)),
    ("never more than was paid", (2, 9_000_000, 1800), [(2, 1000)], ([(0, 2, 1000)], 800)),
    ("a line paid back in full is passed over", (1, 1_000_000, 100), [(4, 0), (1, 100)],
     ([(1, 1, 100)], 0)),
    ("nothing was bought", (1, 1_000_000, 100), [], ([], 100)),
    ("rounding ends with the last share", (3, 5_000, 2), [(1, 1), (1, 1), (1, 1)],
     ([(0, 1, 1), (1, 1, 1)], 0)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("refund", "sold", "expected"),
    [case[1:] for case in ALLOTMENTS],
    ids=[c[0] for c in ALLOTMENTS],
)
def test_refunds_are_allotted(
    refund: tuple[int, int, int], sold: list[tuple[int, int]], expected: Any
) -> None:
    """Goods go back against what was bought, as far as quantity and what was paid reach."""
    assert expected == allot(*refund, sold)


def draw_secrets(rng: random.Random) -> Iterator[bytes]:
    """Some private keys."""
    for _ in range(20):
        yield rng.randbytes(32)


def test_the_quick_signer_equals_the_plain_one(seed: int) -> None:
    """Same public keys and same signatures as core.keys makes."""
    rng = random.Random(seed)
    for secret in draw_secrets(rng):
        plain, quick = SigningKey(secret), QuickKey(secret)
        digest = rng.randbytes(32)
        assert plain.public == quick.public
        assert plain.sign(digest) == quick.sign(digest)
