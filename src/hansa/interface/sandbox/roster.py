"""The companies of a sandbox: all invented, all founders, each with one key in the key store."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from hansa.core.keys import compute_account
from hansa.core.keystore import KeyStore
from hansa.service.members.model import Founder, FounderAccount, Role


class Company(NamedTuple):
    """A founder of a sandbox."""

    key: str
    """Name in the key store, of the account that owns the organisation."""
    name: str
    country: str
    """ISO 3166-1 alpha-2."""
    roles: tuple[Role, ...]
    """In the order of the alphabet."""
    place: str
    """UN/LOCODE where its goods change hands."""


OPERATOR: Final = Company(
    "operator/lantern", "Lantern Network Operations", "GB", ("operator",), "GBLON"
)
WHOLESALER: Final = Company("seller/fenwold", "Fenwold Giftware", "GB", ("seller",), "GBNHM")
"""Whose invoices are imported; the market never trades with it, so that its books stay clear."""
PLATFORM: Final = Company("platform/quayside", "Quayside Market", "GB", ("platform",), "GBMNC")
PAYMENTS: Final = Company(
    "payments/threadgold", "Threadgold Payments", "GB", ("payment_institution",), "GBLON"
)
CUSTOMS: Final = Company("customs/freihafen", "Zollstelle Freihafen", "DE", ("customs",), "DEHAM")
WAREHOUSE: Final = Company("warehouse/speicher", "Speicher Nord", "DE", ("warehouse",), "DEHAM")

HAULIER: Final = Company("carrier/tidewater", "Tidewater Haulage", "GB", ("carrier",), "GBFXT")
PARCELS: Final = Company("carrier/penmarsh", "Penmarsh Parcels", "GB", ("carrier",), "GBBHM")
FORWARDER: Final = Company("carrier/elbspur", "Elbspur Spedition", "DE", ("carrier",), "DEHAM")
SHIPPING_LINE: Final = Company(
    "carrier/eastgate", "Eastgate Ocean Lines", "CN", ("carrier",), "CNNGB"
)

TOOLMAKER: Final = Company(
    "seller/rheinkontor", "Rheinkontor Werkzeuge", "DE", ("manufacturer", "seller"), "DECGN"
)
POTTERY: Final = Company("seller/lanting", "Lanting Ceramics", "CN", ("manufacturer",), "CNSHA")
OUTFITTER: Final = Company(
    "seller/tallgrass", "Tallgrass Outdoor Supply", "US", ("seller",), "USCHI"
)

STORES: Final = Company("buyer/marlow", "Marlow & Pike Stores", "GB", ("buyer",), "GBSOU")
DEPARTMENT_STORE: Final = Company(
    "buyer/hanseboden", "Hanseboden Kaufhaus", "DE", ("buyer",), "DEBRE"
)
RETAILER: Final = Company("buyer/copperline", "Copperline Retail", "US", ("buyer",), "USNYC")

COMPANIES: Final = (
    OPERATOR,
    WHOLESALER,
    PLATFORM,
    PAYMENTS,
    CUSTOMS,
    WAREHOUSE,
    HAULIER,
    PARCELS,
    FORWARDER,
    SHIPPING_LINE,
    TOOLMAKER,
    POTTERY,
    OUTFITTER,
    STORES,
    DEPARTMENT_STORE,
    RETAILER,
)

RELAY_KEY: Final = "relay"
"""Account that signs what the node's own relay carries; of the operator, and trusted by nobody."""
VALIDATOR_KEY: Final = "validator"
"""Secret of the key that signs checkpoints."""

EUROPE: Final = tuple(
    "AT BE CH CY CZ DE DK ES EU FI FR GR IE IS IT LT MT NL NO PL PT SE".split()  # noqa: SIM905
)
"""Where the forwarder brings goods by road."""


def choose_carriers(origin: str, destination: str) -> tuple[Company, Company]:
    """Return who fetches the goods and who delivers them, two different companies."""
    first = {"GB": HAULIER, "DE": FORWARDER, "CN": SHIPPING_LINE}.get(origin, HAULIER)
    if destination in ("GB", "JE"):
        last = PARCELS
    elif destination in EUROPE and first is not FORWARDER:
        last = FORWARDER
    else:
        last = SHIPPING_LINE if first is not SHIPPING_LINE else PARCELS
    return first, last


def make_founders(keys: KeyStore, consortium: bytes) -> Sequence[Founder]:
    """Return the companies as a genesis names them, their accounts derived from the key store."""
    return [
        Founder(
            name=company.name,
            country=company.country,
            roles=company.roles,
            licence=f"SANDBOX-{number:03d}",
            owner=compute_account(consortium, keys.get(company.key).public),
            accounts=_list_accounts(company, keys, consortium),
        )
        for number, company in enumerate(COMPANIES, 1)
    ]


def _list_accounts(
    company: Company, keys: KeyStore, consortium: bytes
) -> tuple[FounderAccount, ...]:
    if company is not OPERATOR:
        return ()
    relay = compute_account(consortium, keys.get(RELAY_KEY).public)
    return (FounderAccount(relay, ("relay",)),)
