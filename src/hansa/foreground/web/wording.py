"""Every text of the pages in the reader's language: catalogues, negotiation, and names of things.

English is the source. A language is a folder below ``locale/``; a text without a translation stays
English, so that a new page is never blank. ``tools/update_catalogues.py`` collects the texts.
"""

import gettext
from collections.abc import Mapping
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Final

from babel import Locale, negotiate_locale
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po

LOCALES: Final = Path(__file__).parent / "locale"
DOMAIN: Final = "hansa"

LANGUAGES: Final[Mapping[str, str]] = {"en": "English", "de": "Deutsch", "zh_Hans": "简体中文"}
"""Catalogue by catalogue, each named in itself."""

_ASKED_FOR: Final = {"zh": "zh_Hans", "zh_cn": "zh_Hans", "zh_sg": "zh_Hans", "zh_hans": "zh_Hans"}
_MAX_PREFERENCES: Final = 16


def N_(text: str) -> str:  # noqa: N802 - the mark that every gettext tool looks for
    """Mark a text for the catalogue that is translated where it is shown."""
    return text


@lru_cache(maxsize=len(LANGUAGES))
def load_translations(language: str) -> gettext.NullTranslations:
    """Return the catalogue of a language; the source language has none.

    ``make setup`` compiles catalogues. One that isn't compiled, or is older than its source, is
    compiled in memory: what is shown never depends on which step was run last.
    """
    source = LOCALES / language / "LC_MESSAGES" / f"{DOMAIN}.po"
    if not source.exists():
        return gettext.NullTranslations()
    compiled = source.with_suffix(".mo")
    if compiled.exists() and compiled.stat().st_mtime >= source.stat().st_mtime:
        return gettext.GNUTranslations(BytesIO(compiled.read_bytes()))
    with source.open("rb") as file:
        catalogue = read_po(file, locale=language, domain=DOMAIN)
    buffer = BytesIO()
    write_mo(buffer, catalogue)
    buffer.seek(0)
    return gettext.GNUTranslations(buffer)


def choose_language(asked: str | None, remembered: str | None, accepted: str) -> str:
    """Return the language to answer in: asked for in the address, remembered, or accepted.

    ``accepted`` is the header Accept-Language (RFC 9110 §12.5.4).
    """
    for wish in (asked, remembered):
        if wish is not None and (known := _find_language(wish)):
            return known
    for wish in _read_preferences(accepted):
        if known := _find_language(wish):
            return known
    return "en"


def _find_language(tag: str) -> str | None:
    name = tag.strip().replace("-", "_").lower()
    if name in _ASKED_FOR:
        return _ASKED_FOR[name]
    if name.startswith("zh_hant") or name in ("zh_tw", "zh_hk", "zh_mo"):
        return None
    return negotiate_locale([name, name.split("_")[0]], list(LANGUAGES))


def _read_preferences(accepted: str) -> list[str]:
    """Return language tags, the most wanted first; those of quality 0 are left out."""
    weighed = []
    for place, part in enumerate(accepted.split(",")[:_MAX_PREFERENCES]):
        tag, _, parameter = part.partition(";")
        quality = parameter.strip().removeprefix("q=").strip() or "1"
        try:
            weight = round(float(quality) * 1000)
        except (ValueError, OverflowError):
            continue
        if tag.strip() and weight > 0:
            weighed.append((-weight, place, tag.strip()))
    return [tag for _, _, tag in sorted(weighed)]


def locale_of(language: str) -> Locale:
    """Return how numbers are written in a language."""
    return Locale.parse(language)


CHAINS: Final = {
    "product": N_("Product"),
    "trade": N_("Trade"),
    "logistics": N_("Logistics"),
    "anchor": N_("Anchor"),
}

CHAIN_TASKS: Final = {
    "product": N_("What is for sale, and what was said of it"),
    "trade": N_("Orders, escrow and money"),
    "logistics": N_("Who holds the goods, and where"),
    "anchor": N_("Members, and checkpoints of the others"),
}

STATUSES: Final = {
    "placed": N_("Placed"),
    "accepted": N_("Accepted"),
    "funded": N_("Funded"),
    "dispatched": N_("Dispatched"),
    "delivered": N_("Delivered"),
    "returning": N_("Returning"),
    "declined": N_("Declined"),
    "cancelled": N_("Cancelled"),
    "lapsed": N_("Lapsed"),
    "refunded": N_("Refunded"),
    "released": N_("Released"),
    "open": N_("Open"),
    "in_transit": N_("In transit"),
    "refused": N_("Refused"),
    "lost": N_("Lost"),
    "returned": N_("Returned"),
    "admitted": N_("Admitted"),
    "suspended": N_("Suspended"),
    "expelled": N_("Expelled"),
    "pending": N_("Pending"),
    "done": N_("Done"),
    "expired": N_("Expired"),
    "live": N_("Live"),
    "stale": N_("Stale"),
    "forked": N_("Forked"),
    "frozen": N_("Frozen"),
    "posted": N_("Posted"),
    "voided": N_("Voided"),
    "passed": N_("Passed"),
    "failed": N_("Failed"),
    "taken": N_("Taken"),
    "moot": N_("Moot"),
    "awaited": N_("Awaited"),
    "seated": N_("Seated"),
    "removed": N_("Removed"),
    "jailed": N_("Jailed"),
    "in_force": N_("In force"),
}

KINDS: Final = {
    "order": (N_("Order"), N_("Orders")),
    "shipment": (N_("Shipment"), N_("Shipments")),
    "product": (N_("Product"), N_("Products")),
    "organisation": (N_("Organisation"), N_("Organisations")),
    "account": (N_("Account"), N_("Accounts")),
    "credit_note": (N_("Credit note"), N_("Credit notes")),
    "balance": (N_("Balance"), N_("Balances")),
    "transfer": (N_("Transfer"), N_("Transfers")),
    "hold": (N_("Hold"), N_("Holds")),
    "currency": (N_("Currency"), N_("Currencies")),
    "proposal": (N_("Proposal"), N_("Proposals")),
    "custody_leg": (N_("Leg of custody"), N_("Legs of custody")),
    "client": (N_("Light client"), N_("Light clients")),
    "packet": (N_("Packet"), N_("Packets")),
    "anchor": (N_("Anchored chain"), N_("Anchored chains")),
    "fork": (N_("Fork"), N_("Forks")),
    "validator": (N_("Validator"), N_("Validators")),
    "validator_change": (N_("Change of validators"), N_("Changes of validators")),
    "transaction": (N_("Transaction"), N_("Transactions")),
}
"""Singular and plural of each kind of object."""

COLUMNS: Final = {
    "id": N_("Id"),
    "reference": N_("Reference"),
    "status": N_("State"),
    "currency": N_("Currency"),
    "total_minor": N_("Total"),
    "refunded_minor": N_("Paid back"),
    "amount_minor": N_("Amount"),
    "posted_minor": N_("Posted"),
    "held_minor": N_("Held"),
    "origin": N_("From"),
    "destination": N_("To"),
    "line_count": N_("Lines"),
    "buyer": N_("Buyer"),
    "seller": N_("Seller"),
    "holder": N_("Holder"),
    "held_since_ms": N_("Held since"),
    "order": N_("Order"),
    "shipment": N_("Shipment"),
    "hold": N_("Hold"),
    "organisation": N_("Organisation"),
    "owner": N_("Account of the owner"),
    "account": N_("Account"),
    "name": N_("Name"),
    "description": N_("Description"),
    "country": N_("Country"),
    "roles": N_("Roles"),
    "rights": N_("Rights"),
    "licence": N_("Licence"),
    "revision": N_("Revision"),
    "gtin": N_("GTIN"),
    "hs_code": N_("HS code"),
    "unit": N_("Unit"),
    "is_listed": N_("On sale"),
    "is_active": N_("Active"),
    "place": N_("Place"),
    "milestone": N_("Milestone"),
    "leg": N_("Leg"),
    "reason": N_("Reason"),
    "report": N_("Report to the trade chain"),
    "address": N_("Address (commitment)"),
    "return_cost": N_("Who pays a return"),
    "accept_by_ms": N_("Accept by"),
    "fund_by_ms": N_("Fund by"),
    "ship_by_ms": N_("Ship by"),
    "deliver_by_ms": N_("Deliver by"),
    "deadline_ms": N_("State ends by itself after"),
    "placed_ms": N_("Placed"),
    "dated_ms": N_("Dated"),
    "opened_ms": N_("Opened"),
    "issued_ms": N_("Issued"),
    "registered_ms": N_("Registered"),
    "updated_ms": N_("Last change"),
    "from_ms": N_("From"),
    "to_ms": N_("Until"),
    "until_ms": N_("Until"),
    "heard_ms": N_("Last heard"),
    "kind": N_("Kind"),
    "debit": N_("From account"),
    "credit": N_("To account"),
    "exponent": N_("Decimals"),
    "issuer": N_("Issuer"),
    "chain": N_("Chain"),
    "height": N_("Height"),
    "leaf": N_("Entry"),
    "inspection_ms": N_("Inspection"),
    "peer": N_("Other chain"),
    "peer_height": N_("Its height"),
    "peer_log_size": N_("Its entries"),
    "peer_time_ms": N_("Its time"),
    "peer_app_hash": N_("Its app hash"),
    "trusted_until_ms": N_("Trusted until"),
    "network": N_("Network"),
    "module": N_("Module"),
    "sequence": N_("Sequence"),
    "sent_height": N_("Sent at height"),
    "error": N_("Error"),
    "error_text": N_("Error in words"),
    "signer": N_("Signed by"),
    "messages": N_("Messages"),
    "position": N_("Place in the block"),
    "report_error": N_("Error of the report"),
    "action": N_("Action"),
    "subject": N_("About"),
    "details": N_("Details"),
    "proposer": N_("Proposer"),
    "approving": N_("For"),
    "refusing": N_("Against"),
    "log_size": N_("Entries"),
    "log_root": N_("Root"),
    "app_hash": N_("App hash"),
    "evidence": N_("Evidence"),
    "issuance": N_("Account of issuance"),
    "operator": N_("Run by"),
    "seat": N_("Chain that holds the set"),
    "power": N_("Voting power"),
    "since_height": N_("Since height"),
    "number": N_("Number"),
    "cause": N_("Cause"),
    "keys": N_("Keys"),
}

EVENTS: Final = {
    "orders.placed": N_("Order placed"),
    "orders.accepted": N_("Seller accepted"),
    "orders.declined": N_("Seller declined"),
    "orders.funded": N_("Money in escrow"),
    "orders.dispatched": N_("Goods dispatched"),
    "orders.delivered": N_("Delivery proven to the trade chain"),
    "orders.cancelled": N_("Order cancelled"),
    "orders.lapsed": N_("Order lapsed"),
    "orders.return_requested": N_("Return asked for"),
    "orders.released": N_("Money released to the seller"),
    "orders.refunded": N_("Money back to the buyer"),
    "orders.lines_refunded": N_("Seller paid lines back"),
    "orders.credit_note_issued": N_("Credit note issued"),
    "orders.shipment_not_opened": N_("Shipment could not be opened"),
    "orders.late_report": N_("Report came too late"),
    "orders.product_known": N_("Product known to the trade chain"),
    "shipments.opened": N_("Shipment opened"),
    "shipments.handed_over": N_("Goods handed over"),
    "shipments.delivered": N_("Buyer took the goods"),
    "shipments.returned": N_("Seller took the goods back"),
    "shipments.milestone_reported": N_("Milestone reported"),
    "shipments.lost": N_("Goods reported lost"),
    "shipments.refused": N_("Buyer refused the goods"),
    "shipments.cancelled": N_("Shipment cancelled"),
    "shipments.lapsed": N_("Shipment lapsed"),
    "shipments.report_acknowledged": N_("Report acknowledged by the trade chain"),
    "catalogue.product_registered": N_("Product registered"),
    "catalogue.product_revised": N_("Product revised"),
    "catalogue.product_withdrawn": N_("Product withdrawn"),
    "catalogue.product_relisted": N_("Product back on sale"),
    "members.organisation_changed": N_("Organisation recorded"),
    "members.account_changed": N_("Account recorded"),
    "members.customers_registered": N_("Customer registered"),
    "members.proposed": N_("Proposed"),
    "members.voted": N_("Voted"),
    "members.decided": N_("Decided"),
    "bank.hold_opened": N_("Hold opened"),
    "bank.hold_posted": N_("Hold paid out"),
    "bank.hold_ended": N_("Hold ended"),
    "bank.currency_opened": N_("Currency opened"),
    "link.client_opened": N_("Light client opened"),
    "link.client_recovered": N_("Light client recovered"),
    "link.fork_recorded": N_("Fork recorded"),
    "anchoring.anchored": N_("Checkpoint anchored"),
    "anchoring.went_stale": N_("Unheard for too long"),
    "anchoring.fork_recorded": N_("Fork recorded"),
    "anchoring.fork_confirmed": N_("Fork confirmed"),
    "anchoring.anchor_reset": N_("Anchor reset"),
    "validators.change_ordered": N_("Change of validators on its way"),
    "validators.change_in_force": N_("Change of validators in force"),
    "validators.change_failed": N_("Change of validators failed"),
    "validators.validator_changed": N_("Validator recorded"),
    "validators.jailed": N_("Validator jailed"),
    "bank.transferred": N_("Money transferred"),
    "bank.already_done": N_("Already done before"),
    "catalogue.announcement_failed": N_("Announcement not taken"),
    "link.acknowledged": N_("Packet acknowledged"),
    "link.acknowledgement_unheard": N_("Acknowledgement not heard"),
    "link.client_updated": N_("Light client updated"),
    "link.packet_refused": N_("Packet refused"),
    "link.received": N_("Packet received"),
    "link.sent": N_("Packet sent"),
    "members.news_undelivered": N_("News not delivered"),
    "members.resolution_taken": N_("Resolution used"),
    "members.resolution_lapsed": N_("Resolution lapsed"),
}
"""What happened, as a line of a timeline says it."""

MESSAGES: Final = {
    "orders.place": N_("Place an order"),
    "orders.accept": N_("Accept"),
    "orders.decline": N_("Decline"),
    "orders.fund": N_("Pay into escrow"),
    "orders.dispatch": N_("Dispatch"),
    "orders.confirm": N_("Confirm"),
    "orders.cancel": N_("Cancel"),
    "orders.request_return": N_("Ask for a return"),
    "orders.accept_return": N_("Accept the return"),
    "orders.refuse_return": N_("Refuse the return"),
    "orders.refund": N_("Refund lines"),
    "orders.issue_credit_note": N_("Issue a credit note"),
    "shipments.hand_over": N_("Hand over goods"),
    "shipments.report_milestone": N_("Report a milestone"),
    "shipments.report_lost": N_("Report a loss"),
    "shipments.refuse": N_("Refuse goods"),
    "catalogue.register": N_("Register a product"),
    "catalogue.revise": N_("Revise a product"),
    "catalogue.withdraw": N_("Withdraw a product"),
    "catalogue.relist": N_("Relist a product"),
    "members.register_customers": N_("Register customers"),
    "members.grant": N_("Grant an account rights"),
    "members.revoke": N_("Revoke an account"),
    "members.republish": N_("Tell the other chains again"),
    "members.propose": N_("Propose"),
    "members.vote": N_("Vote"),
    "bank.open_currency": N_("Open a currency"),
    "bank.issue": N_("Issue money"),
    "bank.redeem": N_("Redeem money"),
    "bank.transfer": N_("Transfer money"),
    "bank.open_hold": N_("Hold money"),
    "bank.post_hold": N_("Pay out of a hold"),
    "bank.void_hold": N_("Void a hold"),
    "link.receive": N_("Bring proven packets"),
    "link.open_client": N_("Open a light client"),
    "link.recover_client": N_("Recover a light client"),
    "link.submit_evidence": N_("Submit evidence of a fork"),
    "link.update_client": N_("Bring a fresh header"),
    "anchoring.anchor": N_("Anchor a checkpoint"),
    "anchoring.report_fork": N_("Report a fork"),
    "anchoring.reset_anchor": N_("Reset an anchor"),
    "validators.change": N_("Change validators"),
    "validators.report": N_("Report a double vote"),
}
"""What was asked for, as the list of a chain's entries says it."""
