"""The catalogue: who may describe what, with every refusal, and what other chains are told."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from stdnum import ean
from tests.ledger_harness import DAY_MS, START_MS, Harness, RecordingLink, make_account, make_object

from hansa.core.codec import encode
from hansa.core.errors import Malformed, Rejected
from hansa.core.packet import DONE, EXPIRED, REFUSED
from hansa.formats.gs1 import compute_check_digit, is_gtin
from hansa.service.catalogue import model
from hansa.service.catalogue import rules as catalogue_rules
from hansa.service.catalogue.model import (
    ERRORS,
    MAX_RESENDS,
    MODULE,
    AnnouncementFailed,
    CatalogueParams,
    Product,
    Register,
    Relist,
    Revise,
    Withdraw,
)
from hansa.service.catalogue.ports import ProductListed
from hansa.service.catalogue.views import PRODUCT_REVISIONS, PRODUCTS, VIEWS
from hansa.service.members import model as members
from hansa.service.members import rules as members_rules
from hansa.service.members.model import Founder, FounderAccount, MembersParams
from hansa.service.members.views import VIEWS as MEMBERS_VIEWS

SELLER = make_account("seller")
COLLEAGUE = make_account("colleague")
CLERK = make_account("clerk")
RIVAL = make_account("rival")
STRANGER = make_account("stranger")

KETTLE = Register(
    reference="K-1",
    gtin="4006381333931",
    name="Kettle",
    description="Holds two litres.",
    hs_code="732393",
    origin="CN",
    unit="C62",
)


def _revise(product: bytes, expected_revision: int, **changes: Any) -> Revise:
    fields = {**msgspec.structs.asdict(KETTLE), **changes}
    return Revise(product=product, expected_revision=expected_revision, **fields)


class Shop:
    """The product chain with two sellers and real members."""

    def __init__(self) -> None:
        self.link = RecordingLink("trade", "market")
        rules = members_rules.MembersRules(self.link)
        self.catalogue = catalogue_rules.CatalogueRules(rules, self.link)
        sellers = (
            Founder(
                "Seller",
                "GB",
                ("seller",),
                "",
                SELLER,
                (FounderAccount(COLLEAGUE, ("sell",)), FounderAccount(CLERK, ("trade",))),
            ),
            Founder("Rival", "CN", ("seller",), "", RIVAL, ()),
        )
        self.harness = Harness(
            "product",
            (
                members_rules.make_module(rules, MEMBERS_VIEWS),
                catalogue_rules.make_module(self.catalogue, VIEWS),
            ),
            {
                "members": MembersParams(
                    registry="product",
                    peers=(),
                    quorum_permille=500,
                    voting_period_ms=DAY_MS,
                    resolution_lifetime_ms=DAY_MS,
                    packet_lifetime_ms=DAY_MS,
                    founders=sellers,
                ),
                "catalogue": CatalogueParams(tell=("trade",), packet_lifetime_ms=DAY_MS),
            },
        )

    def register(self, by: bytes = SELLER, **changes: Any) -> Product:
        """Register a product; returns its record."""
        message = msgspec.structs.replace(KETTLE, **changes)
        product: Product = self.harness.submit(message, by=by)[-1].product
        return product

    def get(self, product: Product) -> Product:
        """Return a product as it now is."""
        record = self.harness.get(catalogue_rules.PRODUCTS, product.id)
        assert record is not None
        return record


NOBODYS = make_object("nobody's product")

CASES: tuple[tuple[str, type[Rejected], bytes, Any], ...] = (
    ("a wrong check digit", model.WrongCheckDigit, SELLER,
     msgspec.structs.replace(KETTLE, reference="K-2", gtin="4006381333932")),
    ("by one who may not sell", members.RightMissing, CLERK,
     msgspec.structs.replace(KETTLE, reference="K-2")),
    ("by nobody", members.UnknownAccount, STRANGER, KETTLE),
    ("the same again", model.ReferenceTaken, SELLER, KETTLE),
    ("the same by a colleague", model.ReferenceTaken, COLLEAGUE, KETTLE),
    ("revised what is not there", model.UnknownProduct, SELLER, lambda p: _revise(NOBODYS, 1)),
    ("revised a revision not seen", model.StaleRevision, SELLER, lambda p: _revise(p, 2)),
    ("revised by a rival", model.NotTheOwner, RIVAL, lambda p: _revise(p, 1)),
    ("revised by a clerk", members.RightMissing, CLERK, lambda p: _revise(p, 1)),
    ("revised to a wrong check digit", model.WrongCheckDigit, SELLER,
     lambda p: _revise(p, 1, gtin="12345678")),
    ("revised to a reference in use", model.ReferenceTaken, SELLER,
     lambda p: _revise(p, 1, reference="T-1")),
    ("withdrawn what is not there", model.UnknownProduct, SELLER, lambda p: Withdraw(NOBODYS)),
    ("withdrawn by a rival", model.NotTheOwner, RIVAL, Withdraw),
    ("relisted what is listed", model.AlreadyListed, SELLER, Relist),
    ("relisted what is not there", model.UnknownProduct, SELLER, lambda p: Relist(NOBODYS)),
)  # fmt: skip


@pytest.mark.parametrize(
    ("error", "by", "message"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_refused(error: type[Rejected], by: bytes, message: Any) -> None:
    """What is refused says why and leaves the catalogue as it was."""
    shop = Shop()
    shop.register(reference="T-1")
    product = shop.register()
    before = dict(shop.harness.store.data)
    said = message if isinstance(message, Register) else message(product.id)
    with pytest.raises(error):
        shop.harness.submit(said, by=by)
    assert before == shop.harness.store.data


def test_withdrawn_twice_is_refused() -> None:
    """What is off sale can't be taken off sale; relisting by a rival is refused."""
    shop = Shop()
    product = shop.register()
    shop.harness.submit(Withdraw(product.id), by=SELLER)
    with pytest.raises(model.NotListed):
        shop.harness.submit(Withdraw(product.id), by=SELLER)
    with pytest.raises(model.NotTheOwner):
        shop.harness.submit(Relist(product.id), by=RIVAL)


def test_every_error_is_tested() -> None:
    """Each error of the module is some case's, and its number is the module's and its own."""
    tested = {case[1] for case in CASES} | {model.NotListed}
    assert set() == set(ERRORS) - tested
    assert list(range(4_001, 4_001 + len(ERRORS))) == [error.number for error in ERRORS]


MALFORMED: tuple[dict[str, Any], ...] = (
    {"reference": ""},
    {"gtin": "40063813339"},
    {"gtin": "٤٠٠٦٣٨١٣٣٣٩٣١"},
    {"gtin": "4006381333931\n"},
    {"hs_code": "73239"},
    {"hs_code": "73239300001"},
    {"origin": "cn"},
    {"origin": "C"},
    {"unit": ""},
    {"unit": "each"},
    {"name": ""},
    {"description": "x" * 1_025},
    {"description": "left \u202e right"},
)


@pytest.mark.parametrize("changes", MALFORMED)
def test_malformed_fields_never_reach_the_rules(changes: dict[str, Any]) -> None:
    """What is not in its form is refused at the door."""
    with pytest.raises(Malformed):
        Shop().register(**changes)


def test_a_reference_taken_names_the_product() -> None:
    """Who registers twice learns which product it was; a rival may use the same reference."""
    shop = Shop()
    product = shop.register()
    with pytest.raises(model.ReferenceTaken, match=product.id.hex()):
        shop.register()
    assert product.id != shop.register(by=RIVAL).id


def test_every_revision_is_kept() -> None:
    """Whatever a product said can be read and proven, whoever of its owner's accounts said it."""
    shop = Shop()
    product = shop.register()
    shop.harness.submit(_revise(product.id, 1, reference="K-9", name="Pot"), by=COLLEAGUE)
    shop.harness.submit(Withdraw(product.id), by=SELLER)
    shop.harness.submit(Relist(product.id), by=COLLEAGUE)
    assert (4, "Pot", True, COLLEAGUE) == (
        shop.get(product).revision,
        shop.get(product).name,
        shop.get(product).is_listed,
        shop.get(product).seller,
    )
    rows = shop.harness.view(PRODUCT_REVISIONS)
    assert [(1, "Kettle", True), (2, "Pot", True), (3, "Pot", False), (4, "Pot", True)] == [
        (row["revision"], row["name"], row["is_listed"]) for row in rows
    ]
    (row,) = shop.harness.view(PRODUCTS)
    assert (product.id.hex(), 4, "K-9") == (row["id"], row["revision"], row["reference"])
    # The old reference is free again, the new one is not.
    shop.register(reference="K-1")
    with pytest.raises(model.ReferenceTaken):
        shop.register(reference="K-9")


def test_each_change_is_announced() -> None:
    """The chains that trade learn of every change, by a revision that rises."""
    shop = Shop()
    product = shop.register()
    shop.harness.submit(Withdraw(product.id), by=COLLEAGUE)
    first = ProductListed(product.id, SELLER, 1, True, "Kettle", "732393", "CN")
    second = ProductListed(product.id, COLLEAGUE, 2, False, "Kettle", "732393", "CN")
    assert [
        ("trade", 5, encode(first), START_MS + DAY_MS),
        ("trade", 5, encode(second), START_MS + DAY_MS),
    ] == [(s.destination, s.module, s.payload, s.deadline_ms) for s in shop.link.sent]


def test_an_announcement_done_is_forgotten() -> None:
    """Nothing is sent again once the chain has taken it, nor for an answer to nothing."""
    shop = Shop()
    shop.register()
    assert [] == shop.harness.acknowledge("trade", MODULE, 0, DONE)
    assert [] == shop.harness.acknowledge("trade", MODULE, 0, EXPIRED)
    assert {} == shop.harness.rows(catalogue_rules.ANNOUNCEMENTS)
    assert 1 == len(shop.link.sent)


@pytest.mark.parametrize(("outcome", "number"), [(REFUSED, 5_020), (EXPIRED, 0)])
def test_an_announcement_that_fails_is_sent_again_a_few_times(outcome: int, number: int) -> None:
    """Then the failure is recorded, and the next change of the product starts anew."""
    shop = Shop()
    product = shop.register()
    for sequence in range(MAX_RESENDS):
        shop.harness.advance(DAY_MS)
        assert [] == shop.harness.acknowledge("trade", MODULE, sequence, outcome, number)
        assert shop.harness.time_ms + DAY_MS == shop.link.sent[-1].deadline_ms
    (event,) = shop.harness.acknowledge("trade", MODULE, MAX_RESENDS, outcome, number)
    assert AnnouncementFailed(product.id, 1, "trade", number) == event
    assert 1 + MAX_RESENDS == len(shop.link.sent)
    assert {} == shop.harness.rows(catalogue_rules.ANNOUNCEMENTS)
    shop.harness.submit(Withdraw(product.id), by=SELLER)
    assert 2 + MAX_RESENDS == len(shop.link.sent)


def test_an_announcement_overtaken_is_not_sent_again() -> None:
    """Where a newer change is on its way, the failure of the older one does not matter."""
    shop = Shop()
    product = shop.register()
    shop.harness.submit(Withdraw(product.id), by=SELLER)
    assert [] == shop.harness.acknowledge("trade", MODULE, 0, EXPIRED)
    assert 2 == len(shop.link.sent)


def test_an_announcement_to_a_chain_out_of_reach_fails() -> None:
    """No packet is sent where there is no client any more; the failure is recorded."""
    shop = Shop()
    product = shop.register()
    shop.link.peers = ()
    events = shop.harness.acknowledge("trade", MODULE, 0, EXPIRED)
    assert [AnnouncementFailed(product.id, 1, "trade", 0)] == events


def test_every_event_is_projected() -> None:
    """No event of the module is lost on the read model."""
    assert set(model.EVENTS) == set(VIEWS.projections)


GTINS = (
    ("4006381333931", True),
    ("96385074", True),
    ("614141000036", True),
    ("10614141000415", True),
    ("4006381333930", False),
    ("400638133393", False),
    ("", False),
    ("٩٦٣٨٥٠٧٤", False),
    ("9638507x", False),
)


@pytest.mark.parametrize(("text", "expected"), GTINS)
def test_gtin(text: str, expected: bool) -> None:
    """GTINs of every length, and what only looks like one."""
    assert expected == is_gtin(text)


def test_check_digits_agree_with_another_implementation() -> None:
    """Every check digit that python-stdnum computes is ours."""
    for length in (7, 11, 12, 13):
        for number in range(0, 10**7, 333_331):
            digits = str(number).zfill(length)
            assert ean.calc_check_digit(digits) == compute_check_digit(digits)
