"""What a node answers, as plain values: the same over HTTP and inside the process."""

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from hansa.core.block import Receipt, decode_header
from hansa.core.chain import Chain
from hansa.core.codec import encode, to_readable
from hansa.core.errors import WrongNonce
from hansa.core.finality import FinalHeader
from hansa.core.prover import (
    Delivery,
    NotThere,
    Place,
    get_receipt,
)
from hansa.core.readmodel import Kind
from hansa.core.tilelog import TilePath, tile_path
from hansa.core.transaction import envelope_digest
from hansa.interface.http.problems import BadParameter, ReadModelBehind
from hansa.network.intake import Inclusion, Settled
from hansa.network.relay import MAX_DELIVERIES
from hansa.node.home import make_readable_trust
from hansa.node.node import Node
from hansa.node.relay_end import make_anchored
from hansa.service.anchoring.rules import ANCHORS
from hansa.service.catalogue.views import select_revisions
from hansa.service.link.rules import CLIENTS, IN
from hansa.service.orders.views import select_lines
from hansa.service.shipments.views import custody_of, shipment_of_order

MAX_LIMIT: Final = 200
DEFAULT_LIMIT: Final = 50
MAX_FACTS_ASKED: Final = 500
MAX_CURSOR_CHARACTERS: Final = 400
MAX_SEARCH_CHARACTERS: Final = 100
FINAL_WAIT_S: Final = 30.0
"""How long an answer waits for a block that makes its receipts final."""

RESEND_WAIT_S: Final = 10.0
"""How long a repeated envelope waits for the read model, which knows the first one's receipt."""

READ_WAIT_S: Final = 10.0
"""How long a question with ``min_height`` waits for the read model."""

Row = dict[str, Any]
Verdict = Settled
"""What became of an envelope: a durable receipt, or why there is none."""


class Answers:
    """The questions a node answers. Safe to ask from any thread."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._by_plural = {kind.plural: kind for kind in node.kinds.values()}
        self._details: dict[str, Callable[[str], Row]] = {
            "order": self._order_details,
            "shipment": self._shipment_details,
            "product": self._product_details,
            "transaction": self._transaction_details,
        }

    # The network.

    def genesis(self) -> bytes:
        """Return the encoded genesis; its digest is the network's id, so nobody can forge it."""
        return encode(self.node.genesis)

    def status(self) -> Row:
        """Return what the node is and where it stands."""
        return self.node.status()

    def trust(self) -> Row:
        """Return what a verifier needs, readable. To be compared with what others were given."""
        return make_readable_trust(self.node.genesis)

    def block(self, height: int) -> Row:
        """Return a block.

        Raises: NotThere.
        """
        return self.node.get_block(height)

    def light_block(self, height: str) -> bytes:
        """Return the light block at a height, or the ``newest``.

        Raises: BadParameter, NotThere.
        """
        is_number = height.isascii() and height.isdigit() and len(height) < 19
        if not is_number and height != "newest":
            expected = "a whole number or newest"
            raise BadParameter(field="height", expected=expected, given=height[:80])
        return self.node.get_light_block(int(height) if is_number else None)

    def sequence(self, chain: str, account: str, lane: int = 0) -> Row:
        """Return the sequence an account must use next on a lane.

        Raises: BadParameter, NotThere.
        """
        key = _read_account(account)
        if not 0 <= lane <= 0xFFFF:
            raise BadParameter(field="lane", expected="0 to 65535", given=lane)
        sequence = self.node.get_sequence(chain, key, lane)
        time_ms = max(self.node.ledger.time_ms, self.node.engine.clock())
        return {
            "chain": chain,
            "account": account,
            "lane": lane,
            "sequence": sequence,
            "time_ms": time_ms,
        }

    # Objects.

    def page(
        self,
        plural: str,
        filters: Mapping[str, str] | None = None,
        cursor: str | None = None,
        limit: int = DEFAULT_LIMIT,
        min_height: int = 0,
    ) -> Row:
        """Return a page of objects, newest change first.

        Raises: NotThere for an unknown kind; BadParameter for an unknown filter, a limit out of
        bounds, a cursor that isn't one of ours; ReadModelBehind.
        """
        kind = self.kind_of(plural)
        for name in filters or {}:
            if name not in kind.filters:
                known = ", ".join((*kind.filters, "limit", "cursor"))
                raise BadParameter(field=name, expected=f"one of the filters {known}", given=name)
        if not 1 <= limit <= MAX_LIMIT:
            raise BadParameter(field="limit", expected=f"1 to {MAX_LIMIT}", given=limit)
        before = None if cursor is None else decode_cursor(cursor)
        self._wait(min_height)
        rows = self._list_rows(kind, filters, before, limit + 1)
        items = rows[:limit]
        last = items[-1] if len(rows) > limit else None
        return {"items": items, "next": None if last is None else encode_cursor(last)}

    def _list_rows(
        self, kind: Kind, filters: Mapping[str, str] | None, before: tuple[int, str] | None,
        limit: int,
    ) -> list[Row]:  # fmt: skip
        try:
            return self.node.read_model.list_rows(kind, filters=filters, before=before, limit=limit)
        except ValueError as error:
            expected = "a value that a row can have"
            raise BadParameter(field="filter", expected=expected, given=str(error)) from None

    def show(self, plural: str, id: str, min_height: int = 0) -> Row:
        """Return one object, its timeline over all chains, and what belongs to its kind.

        Raises: NotThere.
        """
        kind = self.kind_of(plural)
        self._wait(min_height)
        row = self.node.read_model.get_row(kind, id)
        if row is None:
            raise NotThere(f"{kind.name}: expected the id of one that exists, got {id[:80]!r}")
        details = self._details.get(kind.name)
        extra = details(id) if details else {}
        return {
            **row,
            **extra,
            "timeline": self.timeline(id),
            "proof": f"/v1/proofs/{kind.name}/{id}",
        }

    def timeline(self, subject: str) -> list[Row]:
        """Return what happened to an object on all chains, in order of time."""
        facts = self.node.read_model.get_history(subject)
        for fact in facts:
            place = f"{fact['chain']}:{fact['height']}:{fact['leaf']}"
            fact["proof"] = f"/v1/facts?places={place}"
        return facts

    def search(self, q: str, min_height: int = 0) -> Row:
        """Return objects of any kind whose id begins with the text or whose texts hold it.

        Raises: BadParameter.
        """
        if not 1 <= len(q) <= MAX_SEARCH_CHARACTERS:
            expected = f"1 to {MAX_SEARCH_CHARACTERS} characters"
            raise BadParameter(field="q", expected=expected, given=len(q))
        self._wait(min_height)
        return {"items": self.node.read_model.search(q), "next": None}

    def transaction(self, digest: str, min_height: int = 0) -> Row:
        """Return a judged transaction with its events.

        Raises: NotThere.
        """
        return self.show("transactions", digest, min_height)

    def _wait(self, min_height: int) -> None:
        """Let a caller read what he has written: wait for the block that holds it."""
        durable = self.node.ledger.block_log.durable_height - 1
        if min_height > durable:
            raise BadParameter(field="min_height", expected=f"at most {durable}", given=min_height)
        if not self.node.wait_projected(min_height, READ_WAIT_S):
            raise ReadModelBehind(expected=min_height, given=self.node.read_model.height)

    def kind_of(self, plural: str) -> Kind:
        """Return a kind by its name in the URL.

        Raises: NotThere.
        """
        kind = self._by_plural.get(plural)
        if kind is None:
            known = ", ".join(sorted(self._by_plural))
            raise NotThere(f"kind: expected one of {known}, got {plural[:80]!r}")
        return kind

    def _order_details(self, order: str) -> Row:
        shipments = self._rows("shipment", shipment_of_order(order))
        return {"lines": self._rows("order", select_lines(order)), "shipments": shipments}

    def _shipment_details(self, shipment: str) -> Row:
        return {"custody": self._rows("shipment", custody_of(shipment))}

    def _product_details(self, product: str) -> Row:
        return {"revisions": self._rows("product", select_revisions(product))}

    def _transaction_details(self, digest: str) -> Row:
        [place] = self.node.find_places("transaction", digest)
        return {"events": self.readable_events(place.chain, self._read_receipt(place))}

    def _rows(self, kind: str, query: sa.Select[Any]) -> list[Row]:
        if kind not in self.node.kinds:
            return []  # Its chain is hosted by another node.
        with self.node.read_model.engine.connect() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    # Proofs.

    def proof(self, kind: str, id: str, min_height: int = 0) -> bytes:
        """Return the proof file of an object or a transaction.

        Raises: NotThere.
        """
        self._wait(min_height)
        return self.node.prove(kind, id)

    def facts(self, places: str) -> bytes:
        """Return one proof file of the entries at ``chain:height:leaf``, separated by commas.

        Raises: BadParameter, NotThere, NotFinal.
        """
        parsed = [_read_place(place) for place in places.split(",")]
        if len(parsed) > MAX_FACTS_ASKED:
            given = len(parsed)
            raise BadParameter(field="places", expected=f"1 to {MAX_FACTS_ASKED}", given=given)
        for place in parsed:
            self._check_chain(place.chain)
        wanted = list(dict.fromkeys(parsed))
        return self.node.prove_places(wanted)

    def checkpoint(self, chain: str) -> bytes:
        """Return the newest signed note of a chain.

        Raises: NotThere.
        """
        return self.node.checkpoint(chain)

    def vkey(self, chain: str) -> bytes:
        """Return the key that verifies a chain's checkpoints, in C2SP form.

        Raises: NotThere.
        """
        return self.node.vkey(chain).encode() + b"\n"

    def tile(self, chain: str, path: TilePath) -> bytes:
        """Return a tile of hashes or a bundle of entries.

        Raises: NotThere.
        """
        self._check_chain(chain)
        data = self.node.tile(chain, path)
        if data is None:
            raise NotThere(
                f"tile: expected one that the log of {chain} has, got {tile_path(*path)}"
            )
        return data

    def header(self, chain: str) -> Row:
        """Return the newest final header of a chain.

        Raises: NotThere.
        """
        final = self.node.get_final(chain)
        return {"header": final.header.hex(), "finality": final.finality.hex()}

    def consistency(self, chain: str, old: int, new: int) -> Row:
        """Return the path that ties two sizes of a chain's log.

        Raises: NotThere, BadParameter.
        """
        self._check_chain(chain)
        log = self.node.ledger.chains[chain].log
        # What is not durable yet is shown to nobody.
        size = self.log_size_of(self.node.get_final(chain))
        if not 1 <= old <= new <= size:
            expected = f"1 <= old <= new <= {size}"
            raise BadParameter(field="old, new", expected=expected, given=[old, new])
        return {"path": [node.hex() for node in log.prove_consistency(old, new)]}

    # For relays.

    def relay_next(self, chain: str, source: str) -> Row:
        """Return the sequence a chain expects from a source; None if it can't be taken now.

        Raises: NotThere.
        """
        here, key = self._chain(chain), source.encode()
        client, place = self.node.call(lambda: (CLIENTS.get(here, key), IN.get(here, key)))
        if client is None or client.is_frozen:
            return {"next": None}
        return {"next": place.next if place else 0}

    def relay_client(self, chain: str, source: str) -> Row:
        """Return what a chain knows of a source.

        Raises: NotThere.
        """
        here = self._chain(chain)
        client = self.node.call(lambda: CLIENTS.get(here, source.encode()))
        return {"client": None if client is None else to_readable(client)}

    def relay_anchored(self, chain: str, source: str) -> Row:
        """Return what is recorded of a source on the anchor chain; None if it can't record.

        Raises: NotThere.
        """
        here, key = self._chain(chain), source.encode()
        anchored = make_anchored(
            *self.node.call(lambda: (ANCHORS.get(here, key), CLIENTS.get(here, key)))
        )
        return {"anchored": None if anchored is None else asdict(anchored)}

    def relay_deliveries(self, chain: str, destination: str, first: int, limit: int) -> Row:
        """Return blocks that hold items for a destination from a sequence on, in order.

        Raises: NotThere, BadParameter.
        """
        self._check_chain(chain)
        if not 1 <= limit <= MAX_DELIVERIES:
            raise BadParameter(field="limit", expected=f"1 to {MAX_DELIVERIES}", given=limit)
        deliveries = self.node.get_deliveries(chain, destination, first, limit)
        return {"items": [_show_delivery(delivery) for delivery in deliveries]}

    def _chain(self, chain: str) -> Chain:
        self._check_chain(chain)
        return self.node.ledger.chains[chain]

    def _check_chain(self, chain: str) -> None:
        if chain not in self.node.ledger.chains:
            known = ", ".join(self.node.ledger.chains)
            raise NotThere(f"chain: expected one of {known}, got {chain[:80]!r}")

    # Submitting.

    def submit(self, chain: str, envelopes: Sequence[bytes]) -> "Future[list[Settled]]":
        """Queue transactions, all or none.

        Raises: NotThere for an unknown chain; EngineStopped, EngineBusy.
        """
        self._check_chain(chain)
        return self.node.submit_batch(chain, envelopes)

    def judge(
        self, chain: str, envelopes: Sequence[bytes], answer: "Future[list[Settled]]"
    ) -> list[Settled]:
        """Wait for the verdicts; a repeated envelope gets the receipt it has already.

        Raises: EngineStopped.
        """
        settled = answer.result()
        if all(type(item) is Inclusion for item in settled):
            return settled
        return [
            # Who lost the answer sends the same bytes again, and must not be told they failed.
            self._find_included(chain, envelope) or item if isinstance(item, WrongNonce) else item
            for envelope, item in zip(envelopes, settled, strict=True)
        ]

    def _find_included(self, chain: str, envelope: bytes) -> Inclusion | None:
        digest = envelope_digest(envelope)
        self.node.wait_projected(self.node.ledger.block_log.durable_height - 1, RESEND_WAIT_S)
        row = self.node.read_model.get_transaction(digest.hex())
        if row is None or row["chain"] != chain:
            return None
        place = Place(row["chain"], row["height"], row["leaf"])
        return Inclusion(*place, digest, self._read_receipt(place))

    def _read_receipt(self, place: Place) -> Receipt:
        return get_receipt(self.node.ledger, place)

    def final_for(self, chain: str, verdicts: Sequence[object]) -> FinalHeader:
        """Return a final header that these receipts can be proven under, once there is one.

        Where consensus makes blocks final, that is a block later. Raises: NotThere, NotFinal.
        """
        leaves = [verdict.leaf for verdict in verdicts if isinstance(verdict, Inclusion)]
        return self.node.wait_final(chain, max(leaves, default=-1) + 1, FINAL_WAIT_S)

    def log_size_of(self, final: FinalHeader) -> int:
        """Return the log size that a header states."""
        return decode_header(final.header).log_size

    def inclusion_path(self, included: Inclusion, log_size: int) -> list[bytes]:
        """Return the path of a receipt's entry to the root of the log at a size."""
        return self.node.ledger.chains[included.chain].log.prove_inclusion(included.leaf, log_size)

    def readable_events(self, chain: str, receipt: Receipt) -> list[Any]:
        """Return a receipt's events as people read them, with the name of each."""
        decode = self.node.ledger.chains[chain].decode_stored_event
        return [to_readable(decode(event)) for event in receipt.events]


def encode_cursor(row: Mapping[str, Any]) -> str:
    """Return the opaque place after a row, for the next page."""
    place = msgspec.json.encode([row["updated_ms"], row["id"]])
    return urlsafe_b64encode(place).rstrip(b"=").decode()


def decode_cursor(cursor: str) -> tuple[int, str]:
    """Return the place a cursor stands for.

    Raises: BadParameter.
    """
    try:
        if len(cursor) > MAX_CURSOR_CHARACTERS:
            raise ValueError("too long")
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        place = msgspec.json.decode(urlsafe_b64decode(padded), type=tuple[int, str])
        if not -(2**63) <= place[0] < 2**63:
            raise ValueError("out of range")
    except (ValueError, binascii.Error, msgspec.DecodeError):
        given = cursor[:80]
        raise BadParameter(
            field="cursor", expected="the next of a page before", given=given
        ) from None
    return place


def _show_delivery(delivery: Delivery) -> Row:
    return {
        "header": delivery.final.header.hex(),
        "finality": delivery.final.finality.hex(),
        "end": delivery.end,
        "pages": [
            {
                "page": proof.page.hex(),
                "index": proof.index,
                "path": [node.hex() for node in proof.path],
            }
            for proof in delivery.pages
        ],
    }


def _read_account(text: str) -> bytes:
    try:
        account = bytes.fromhex(text)
    except ValueError:
        account = b""
    if len(account) != 20 or account.hex() != text:
        expected = "40 lower-case hexadecimal digits"
        raise BadParameter(field="account", expected=expected, given=text[:80])
    return account


def _read_place(text: str) -> Place:
    chain, _, rest = text.partition(":")
    height, _, leaf = rest.partition(":")
    digits = (height, leaf)
    if not all(part.isascii() and part.isdigit() and len(part) < 19 for part in digits):
        raise BadParameter(field="places", expected="chain:height:leaf", given=text[:80])
    return Place(chain, int(height), int(leaf))
