"""Plays a wholesaler's invoices through the whole machine, and checks the books to the penny.

One invoice is one order with its whole life; an invoice with a C is what the seller pays back.
Every party signs with its own key and every transaction enters by the path that anybody's takes.
The work is journalled beside the ledger (staging.py): killed at any moment and started again with
the same arguments, it goes on and ends in the same books.
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from hansa.core.hashing import DIGEST_BYTES, tagged_hasher
from hansa.core.proof import compute_commitment
from hansa.formats.online_retail import REASONS
from hansa.interface.client import Client
from hansa.interface.sandbox.desk import Desk, Request, SandboxError, Signed, wait_for
from hansa.interface.sandbox.lives import (
    SIGNATURES_OF_LIFE,
    TRADE,
    TRANSACTIONS_OF_LIFE,
    Life,
    LifeDriver,
)
from hansa.interface.sandbox.roster import (
    PAYMENTS,
    PLATFORM,
    WHOLESALER,
    choose_carriers,
)
from hansa.interface.sandbox.staging import DONE, SIGNED, STAGED, Invoice, RefundItem, Staging
from hansa.service.bank.model import Issue, OpenCurrency
from hansa.service.catalogue.model import Register
from hansa.service.members.model import NewCustomer, RegisterCustomers
from hansa.service.orders.model import IssueCreditNote, LineOffer, Refund, RefundLine

CURRENCY: Final = "GBP"
EXPONENT: Final = 2
WORKING_CAPITAL_MINOR: Final = 100_000_000

IN_FLIGHT: Final = 1_500
"""Lives under way at once."""
BEGUN_AT_ONCE: Final = 128
REGISTERED_AT_ONCE: Final = 16
"""Products in one transaction: as many as it may hold messages."""
CUSTOMERS_AT_ONCE: Final = 400
MAX_REFUND_LINES: Final = 500
"""In one transaction, which holds at most 15 orders' refunds and a credit note."""
MAX_REFUND_MESSAGES: Final = 15
PACKET_TIMEOUT_S: Final = 300.0
QUEUE_TIMEOUT_S: Final = 60.0

Progress = Callable[[str, int, int | None], None]
"""(what, done, total); the total is None while it isn't known."""

_reference_hash = tagged_hasher("online-retail-reference")
_salt_hash = tagged_hasher("online-retail-salt")


def run_import(
    client: Client, file: Path, home: Path, *, limit: int | None = None,
    working_capital_minor: int = WORKING_CAPITAL_MINOR,
    fsck: Callable[[], bool] | None = None,
    progress: Progress = lambda _what, _done, _total: None,
) -> dict[str, Any]:  # fmt: skip
    """Play a file of invoices and return the report.

    ``limit`` takes the first so many invoices in order of date, then number; all lines of the file
    are read and judged nevertheless, and those of later invoices counted as ``lines_beyond_limit``.
    ``fsck`` tells whether the ledger is sound; where it is left out ``sound`` is None. Raises:
    UnreadableFile; SandboxError where anything comes out otherwise than the books say.
    """
    digest = compute_import_id(file, limit, working_capital_minor)
    staging = Staging(home / f"import-{digest.hex()[:16]}.db")
    run = _Import(client, staging, digest, working_capital_minor, progress)
    try:
        return run.run(file, limit, fsck)
    finally:
        run.close()


def compute_import_id(file: Path, limit: int | None, working_capital_minor: int) -> bytes:
    """Return the digest of a file's content and the arguments: 32 bytes."""
    with file.open("rb") as content:
        inner = hashlib.file_digest(content, "sha256").digest()
    return hashlib.sha256(inner + f"{limit}/{working_capital_minor}".encode()).digest()


class _Import:
    """One run of one import."""

    def __init__(
        self, client: Client, staging: Staging, digest: bytes, working_capital_minor: int,
        progress: Progress,
    ) -> None:  # fmt: skip
        self.client = client
        self.staging = staging
        self.digest = digest
        self.working_capital_minor = working_capital_minor
        self.progress = progress
        is_first = staging.get("began_height") is None
        # A lane of its own keeps the sequences of two programs that play the same company apart.
        lane = 256 + int.from_bytes(digest[:2], "big") % 65_000
        self.desk = Desk(client, lane=lane, is_fresh=is_first)
        self.driver = LifeDriver(
            self.desk, on_signed=self._journal_lives, on_released=self._finish_lives
        )
        self.seller = self.desk.account(WHOLESALER.key)
        self.refunding: list[_Refunding] = []
        """Refunds that wait for the release of what they refund, or for money."""
        self.under_way: dict[int, Life] = {}
        self.funds_minor = 0
        """What the seller certainly has."""
        self.next_position = 0
        self.done = 0
        self.total = 0
        self._counted = (0, 0)
        self._clock_s = time.monotonic()

    def close(self) -> None:
        """Wait for what is under way, close the journal."""
        self.driver.close()
        self.staging.close()

    def run(self, file: Path, limit: int | None, fsck: Callable[[], bool] | None) -> dict[str, Any]:
        """Play everything that is not through yet, then check the books."""
        report = self.staging.get("report")
        if report is None:
            self._do_all(file, limit)
            report = json.dumps(self._settle())
            self.staging.put("report", report)
        sound = None if fsck is None else fsck()
        if sound is False:
            raise SandboxError("fsck: expected a sound ledger, got one that is not")
        return {**json.loads(report), "sound": sound}

    def _do_all(self, file: Path, limit: int | None) -> None:
        if self.staging.get("began_height") is None:
            self.staging.put("began_height", int(self.client.status()["height"]))
        else:
            # What the run before this one handed in last may not be judged yet.
            wait_for(lambda: not self.client.status()["waiting"], "an empty queue", QUEUE_TIMEOUT_S)
        self.staging.fill(file, limit, lambda lines: self.progress("reading", lines, None))
        self._fund_seller()
        self._register_products()
        self._register_buyers()
        self.total, self.done = self.staging.count(), self.staging.count_done()
        self.progress("invoices", self.done, self.total)
        self._resume()
        self._play()

    # Before trading.

    def _fund_seller(self) -> None:
        """Open the currency, and give the seller his working capital, once."""
        if not self._has_currency():
            self._send_setup(TRADE, [Request((PAYMENTS.key,), (OpenCurrency(CURRENCY, EXPONENT),))])
        if self.staging.get("seller_before_minor") is None:
            self.staging.put("seller_before_minor", self._read_seller_minor())
        if self.working_capital_minor:
            capital = Issue(
                self.seller, CURRENCY, self.working_capital_minor, self._refer("capital")
            )
            # Done once, however often it is asked for.
            self._send_setup(TRADE, [Request((PAYMENTS.key,), (capital,))])
        self.funds_minor = (
            int(self.staging.get("seller_before_minor"))
            + self.working_capital_minor
            + self.staging.sum_done_minor()
        )

    def _has_currency(self) -> bool:
        return any(row["id"] == CURRENCY for row in self.desk.list_rows("currencies", {}))

    def _read_seller_minor(self) -> int:
        page = self.client.balance(self.seller)
        amounts = [row["posted_minor"] for row in page["items"] if row["currency"] == CURRENCY]
        return int(amounts[0]) if amounts else 0

    def _register_products(self) -> None:
        """Have the seller enter every product that his catalogue lacks."""
        products = self.staging.list_unmade_products()
        if not products:
            return
        rows = self.desk.list_rows("products", {"seller": self.seller.hex()}, verify=False)
        known = {row["reference"]: bytes.fromhex(row["id"]) for row in rows}
        while products:
            self.progress("products", len(known), None)
            missing = [item for item in products if _make_reference(item[0]) not in known]
            groups = [
                missing[i : i + REGISTERED_AT_ONCE]
                for i in range(0, len(missing), REGISTERED_AT_ONCE)
            ]
            requests = [
                Request((WHOLESALER.key,), tuple(_make_register(*item) for item in group))
                for group in groups
            ]
            outcomes = self._send_setup("product", requests)
            for group, outcome in zip(groups, outcomes, strict=True):
                for index, (stock, _) in enumerate(group):
                    known[_make_reference(stock)] = outcome.object_id(index)
            with self.staging:
                self.staging.put_products(
                    [(stock, known[_make_reference(stock)]) for stock, _ in products]
                )
            products = self.staging.list_unmade_products()
        self._wait_for_packets("product")

    def _register_buyers(self) -> None:
        """Have the platform answer for every buyer that nobody has registered."""
        buyers = self.staging.list_unknown_buyers()
        if not buyers:
            return
        known = {
            row["id"] for row in self.desk.list_rows("accounts", {"kind": "customer"}, verify=False)
        }
        while buyers:
            self.progress("buyers", len(known), None)
            customers = [
                NewCustomer(self.desk.account(name), country, self._commit_to(name))
                for name, country in buyers
                if self.desk.account(name).hex() not in known
            ]
            self._send_setup(
                "anchor",
                [
                    Request(
                        (PLATFORM.key,),
                        (RegisterCustomers(tuple(customers[i : i + CUSTOMERS_AT_ONCE])),),
                    )
                    for i in range(0, len(customers), CUSTOMERS_AT_ONCE)
                ],
            )
            with self.staging:
                self.staging.mark_buyers([name for name, _ in buyers])
            buyers = self.staging.list_unknown_buyers()
        self._wait_for_packets("anchor")

    def _send_setup(self, chain: str, requests: list[Request]) -> list[Any]:
        """Send, count, and wait until it can be listed."""
        if not requests:
            return []
        outcomes = self.desk.send(chain, requests)
        self._count(len(requests), sum(len(request.signers) for request in requests))
        self.desk.wait_projected(outcomes[-1].height)
        return outcomes

    def _wait_for_packets(self, sender: str) -> None:
        """Wait until every packet a chain has sent so far is acknowledged."""
        waiting = self._list_pending(sender)
        wait_for(
            lambda: not waiting & self._list_pending(sender),
            f"{len(waiting)} packets of the chain {sender} to be acknowledged",
            PACKET_TIMEOUT_S,
        )

    def _list_pending(self, sender: str | None = None) -> set[str]:
        rows = self.desk.list_rows("packets", {"status": "pending"}, verify=False)
        return {row["id"] for row in rows if sender is None or row["chain"] == sender}

    # Playing.

    def _resume(self) -> None:
        """Go on with what a run before this one had signed."""
        first = 0
        while invoices := self.staging.list_invoices(SIGNED, first, 1_000):
            for invoice in invoices:
                if invoice.is_refund:
                    self._resume_refund(invoice)
                else:
                    self._resume_life(invoice)
            first = invoices[-1].position + 1

    def _resume_life(self, invoice: Invoice) -> None:
        row = self.desk.find("orders", invoice.made.hex())
        if row is None:  # Signed, and never taken.
            self.staging.mark(STAGED, [(invoice.position, b"")])
            return
        life = self._make_life(invoice)
        life.order = invoice.made
        if row["status"] == "released":
            self.funds_minor += life.total_minor
            self._close_lives([life])
            return
        self.under_way[invoice.position] = life
        self.driver.resume(life, row["status"])

    def _resume_refund(self, invoice: Invoice) -> None:
        digests = _cut_digests(invoice.made)
        taken = [self.desk.is_done(digest) for digest in digests]
        if all(taken):
            self.funds_minor -= invoice.amount_minor
            self._close_refunds([invoice])
        else:
            self.refunding.append(_Refunding(invoice, self.staging, taken))

    def _play(self) -> None:
        """Begin lives in order and go on with all that are under way, until all are through."""
        while True:
            is_more = self._begin_next()
            self._send_refunds()
            if self.driver.is_idle and not is_more:
                if self.refunding:
                    self._refuse_unpayable()
                return
            self.driver.step()

    def _begin_next(self) -> bool:
        """Begin as many as there is room for; tells whether there are more."""
        while self.driver.in_flight < IN_FLIGHT:
            invoices = self.staging.list_invoices(STAGED, self.next_position, BEGUN_AT_ONCE)
            if not invoices:
                return False
            self.next_position = invoices[-1].position + 1
            lives = [self._make_life(invoice) for invoice in invoices if not invoice.is_refund]
            for life in lives:
                self.under_way[life.position] = life
            self.refunding += [
                _Refunding(invoice, self.staging) for invoice in invoices if invoice.is_refund
            ]
            if lives:
                self.driver.begin(lives)
        return True

    def _make_life(self, invoice: Invoice) -> Life:
        first, last = choose_carriers(WHOLESALER.country, invoice.country)
        return Life(
            position=invoice.position,
            buyer=invoice.buyer,
            seller=WHOLESALER.key,
            carriers=(first.key, last.key),
            places=(WHOLESALER.place, first.place, invoice.country),
            payer=PAYMENTS.key,
            payment=self._refer(f"payment/{invoice.position}"),
            currency=CURRENCY,
            lines=tuple(LineOffer(*line) for line in self.staging.list_lines(invoice.position)),
            total_minor=invoice.amount_minor,
            origin=WHOLESALER.country,
            destination=invoice.country,
            address=self._commit_to(f"{invoice.buyer}, {invoice.country}"),
            reference=invoice.number[:64],
            dated_ms=invoice.date_ms,
        )

    def _journal_lives(self, lives: Sequence[Life]) -> None:
        """Remember the ids before anything is handed in: what exists is found by them."""
        with self.staging:
            self.staging.mark(SIGNED, [(life.position, life.order) for life in lives])

    def _finish_lives(self, lives: Sequence[Life]) -> None:
        for life in lives:
            self.funds_minor += life.total_minor
            del self.under_way[life.position]
        self._close_lives(lives)

    def _close_lives(self, lives: Sequence[Life]) -> None:
        with self.staging:
            self.staging.mark(DONE, [(life.position, life.order) for life in lives])
            self._count(TRANSACTIONS_OF_LIFE * len(lives), SIGNATURES_OF_LIFE * len(lives))
        self.done += len(lives)
        self.progress("invoices", self.done, self.total)

    # Refunds.

    def _send_refunds(self) -> None:
        """Pay back what may be paid back by now: released before, and covered by the seller."""
        still: list[_Refunding] = []
        ready: list[_Refunding] = []
        for refunding in self.refunding:
            refunding.waits_for &= self.under_way.keys()
            amount = refunding.invoice.amount_minor
            if refunding.waits_for or amount > self.funds_minor:
                still.append(refunding)
            else:
                self.funds_minor -= amount
                ready.append(refunding)
        self.refunding = still
        if ready:
            self._hand_in_refunds(ready)

    def _hand_in_refunds(self, ready: Sequence["_Refunding"]) -> None:
        """Sign, remember the digests, then hand in: what was taken is found by them."""
        requests: list[Request] = []
        signed: list[Signed] = []
        done: list[Invoice] = []
        for refunding in ready:
            invoice, taken = refunding.invoice, refunding.taken
            items = self.staging.list_refunds(invoice.position)
            every = make_refund_requests(invoice, items, self.desk.account(invoice.buyer))
            taken = taken or (False,) * len(every)
            left = [request for request, is_taken in zip(every, taken, strict=True) if not is_taken]
            new = self.desk.sign(TRADE, left)
            digests = _merge_digests(invoice.made, taken, [item.digest for item in new])
            done.append(invoice._replace(made=digests))
            requests += left
            signed += new
        with self.staging:
            self.staging.mark(SIGNED, [(invoice.position, invoice.made) for invoice in done])
        self.driver.send(TRADE, requests, signed, lambda: self._close_refunds(done))

    def _close_refunds(self, invoices: Sequence[Invoice]) -> None:
        with self.staging:
            self.staging.mark(DONE, [(invoice.position, invoice.made) for invoice in invoices])
            transactions = sum(len(invoice.made) for invoice in invoices) // DIGEST_BYTES
            self._count(transactions, transactions)
        self.done += len(invoices)
        self.progress("invoices", self.done, self.total)

    def _refuse_unpayable(self) -> None:
        first = self.refunding[0].invoice
        raise SandboxError(
            f"invoice {first.number}: expected the seller to have its {first.amount_minor} minor "
            f"units, got {self.funds_minor}; give more working capital"
        )

    # The books.

    def _count(self, transactions: int, signatures: int) -> None:
        """Add to the counters in the journal, with the proofs and seconds since the last time."""
        now_s = time.monotonic()
        proofs = self.desk.proofs
        for name, more in (
            ("transactions", transactions),
            ("signatures", signatures),
            ("proofs_verified", proofs - self._counted[0]),
            ("seconds", now_s - self._clock_s),
        ):
            self.staging.put(name, self.staging.get(name, 0) + more)
        self._counted = (proofs, 0)
        self._clock_s = now_s

    def _settle(self) -> dict[str, Any]:
        """Compare the ledger with the books; every difference is an error."""
        pending = self._list_pending()
        wait_for(
            lambda: not pending & self._list_pending(),
            "every packet to be acknowledged",
            PACKET_TIMEOUT_S,
        )
        report = self.staging.summarise()
        net = self._read_seller_minor() - int(self.staging.get("seller_before_minor"))
        expected = self.working_capital_minor + report["ordered_minor"] - report["refunded_minor"]
        if net != expected:
            raise SandboxError(f"seller's net: expected {expected} minor units, got {net}")
        self._check_holds()
        self._count(0, 0)
        report["lines_refused"] = {
            reason: report["lines_refused"].get(reason, 0) for reason in REASONS
        }
        report |= {
            "seller_net_minor": net,
            "transactions": self.staging.get("transactions", 0),
            "signatures": self.staging.get("signatures", 0),
            **self._count_blocks(),
            "proofs_verified": self.staging.get("proofs_verified", 0),
            "seconds": round(float(self.staging.get("seconds", 0.0)), 3),
        }
        return report

    def _check_holds(self) -> None:
        """Escrow is empty: no hold of an order of ours is open."""
        for row in self.desk.list_rows("holds", {"status": "open"}):
            if self.staging.is_order(bytes.fromhex(row["reference"])):
                raise SandboxError(f"hold {row['id']}: expected it to be closed, got it open")

    def _count_blocks(self) -> dict[str, Any]:
        """Return the packets sent and each chain's blocks from the beginning to the end."""
        blocks = dict.fromkeys(sorted(self.client.status()["chains"]), 0)
        items = 0
        first = int(self.staging.get("began_height")) + 1
        for height in range(first, int(self.client.status()["height"]) + 1):
            for part in self.desk.get_block(height)["chains"]:
                blocks[part["chain"]] += not part["is_resting"]
                items += part["packets"]
        # Each packet is answered by one acknowledgement, which travels the same way back.
        return {"packets": items // 2, "blocks": blocks}

    # References that a second run makes again.

    def _refer(self, what: str) -> bytes:
        """Return a reference of this import for the bank: 16 bytes."""
        return _reference_hash(self.digest + what.encode())[:16]

    def _commit_to(self, content: str) -> bytes:
        """Return a salted commitment to something personal: 33 bytes.

        The salt follows from the sandbox's seed, so that whoever has only the ledger can't guess.
        """
        secret = self.client.keys.get_secret(PLATFORM.key)
        return compute_commitment(_salt_hash(secret + content.encode())[:16], content.encode())


class _Refunding:
    """A refund that waits for its turn."""

    def __init__(self, invoice: Invoice, staging: Staging, taken: Sequence[bool] = ()) -> None:
        self.invoice = invoice
        self.waits_for = {item.sold for item in staging.list_refunds(invoice.position)}
        """Positions of orders that have to be released first."""
        self.taken = tuple(taken)
        """Which of its transactions an earlier run got through."""


def make_refund_requests(
    invoice: Invoice, items: Sequence[RefundItem], buyer: bytes
) -> list[Request]:
    """Return what the seller signs for a refund: goods back order by order, then the credit note.

    The same items give the same transactions, so that a second run knows the first one's.
    """
    groups: list[list[Refund | IssueCreditNote]] = [[]]
    lines = 0
    for message in _make_refunds(items):
        is_full = lines + len(message.lines) > MAX_REFUND_LINES
        if groups[-1] and (is_full or len(groups[-1]) == MAX_REFUND_MESSAGES):
            groups.append([])
            lines = 0
        groups[-1].append(message)
        lines += len(message.lines)
    if invoice.credit_minor:
        note = IssueCreditNote(
            buyer=buyer,
            currency=CURRENCY,
            amount_minor=invoice.credit_minor,
            reference=invoice.number[:64],
            reason="no earlier purchase covers it",
        )
        groups[-1].append(note)
    return [Request((WHOLESALER.key,), tuple(group)) for group in groups]


def _make_refunds(items: Sequence[RefundItem]) -> list[Refund]:
    by_order: dict[bytes, list[RefundLine]] = {}
    for item in items:
        line = RefundLine(item.line, item.quantity, item.amount_minor)
        by_order.setdefault(item.order, []).append(line)
    return [
        Refund(order, tuple(lines[i : i + MAX_REFUND_LINES]))
        for order, lines in by_order.items()
        for i in range(0, len(lines), MAX_REFUND_LINES)
    ]


def _cut_digests(made: bytes) -> list[bytes]:
    return [made[i : i + DIGEST_BYTES] for i in range(0, len(made), DIGEST_BYTES)]


def _merge_digests(made: bytes, taken: Sequence[bool], new: Sequence[bytes]) -> bytes:
    """Keep the digests of what an earlier run got through, and fill in the new ones."""
    old, fresh = _cut_digests(made), iter(new)
    return b"".join([old[i] if is_taken else next(fresh) for i, is_taken in enumerate(taken)])


def _make_reference(stock: str) -> str:
    """Return a stock code as the catalogue takes it: at most 64 bytes."""
    if len(stock.encode()) <= 64:
        return stock
    return "sha256:" + hashlib.sha256(stock.encode()).hexdigest()[:56]


def _make_register(stock: str, name: str) -> Register:
    return Register(
        reference=_make_reference(stock),
        gtin="",
        name=_cut_text(name or stock, 128),
        description="",
        hs_code="",
        origin="",
        unit="C62",
    )


def _cut_text(text: str, limit: int) -> str:
    return text.encode()[:limit].decode(errors="ignore")
