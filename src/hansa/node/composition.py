"""What a network is made of: the modules of each chain, wired, and the genesis that says so."""

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from hansa.core.codec import encode
from hansa.core.errors import OperatorError
from hansa.core.genesis import ChainGenesis, Genesis, ModuleGenesis
from hansa.core.lightclient import TrustedConsensus, trust_genesis
from hansa.core.module import Module, Rulebook
from hansa.core.readmodel import Views
from hansa.core.validatorset import Validator
from hansa.service.anchoring import model as anchoring_model
from hansa.service.anchoring import rules as anchoring_rules
from hansa.service.anchoring.views import VIEWS as ANCHORING_VIEWS
from hansa.service.bank import model as bank_model
from hansa.service.bank import rules as bank_rules
from hansa.service.bank.views import VIEWS as BANK_VIEWS
from hansa.service.catalogue import model as catalogue_model
from hansa.service.catalogue import rules as catalogue_rules
from hansa.service.catalogue.views import VIEWS as CATALOGUE_VIEWS
from hansa.service.link import model as link_model
from hansa.service.link import rules as link_rules
from hansa.service.link.views import VIEWS as LINK_VIEWS
from hansa.service.members import model as members_model
from hansa.service.members import rules as members_rules
from hansa.service.members.views import VIEWS as MEMBERS_VIEWS
from hansa.service.orders import model as orders_model
from hansa.service.orders import rules as orders_rules
from hansa.service.orders.views import VIEWS as ORDERS_VIEWS
from hansa.service.shipments import model as shipments_model
from hansa.service.shipments import rules as shipments_rules
from hansa.service.shipments.views import VIEWS as SHIPMENTS_VIEWS
from hansa.service.validators import model as validators_model
from hansa.service.validators import rules as validators_rules
from hansa.service.validators.views import VIEWS as VALIDATORS_VIEWS

CHAINS: Final = ("product", "trade", "logistics", "anchor")
REGISTRY: Final = "anchor"

MINUTE_MS: Final = 60_000
DAY_MS: Final = 24 * 60 * MINUTE_MS

VIEWS: Final[Mapping[str, Views]] = {
    "link": LINK_VIEWS,
    "members": MEMBERS_VIEWS,
    "bank": BANK_VIEWS,
    "catalogue": CATALOGUE_VIEWS,
    "orders": ORDERS_VIEWS,
    "shipments": SHIPMENTS_VIEWS,
    "anchoring": ANCHORING_VIEWS,
    "validators": VALIDATORS_VIEWS,
}


def make_rulebook(chain: str) -> Rulebook:
    """Return the rules of one of the four chains, its modules wired to each other.

    Raises: OperatorError for a chain this release doesn't know.
    """
    link = link_rules.LinkRules()
    members = members_rules.MembersRules()
    members.connect(link.for_module(members_model.MODULE))
    anchoring = anchoring_rules.AnchoringRules(link.for_module(anchoring_model.MODULE), members)
    validators = validators_rules.ValidatorsRules(link.for_module(validators_model.MODULE), members)
    modules = [
        link_rules.make_module(link, LINK_VIEWS),
        members_rules.make_module(members, MEMBERS_VIEWS),
        anchoring_rules.make_module(anchoring, ANCHORING_VIEWS),
        *_make_trade_modules(chain, link, members),
        validators_rules.make_module(validators, VALIDATORS_VIEWS),
    ]
    routes = {m.number: (m.on_packet, m.on_acknowledgement) for m in modules}
    link.connect(routes, members)
    return Rulebook(tuple(modules))


def _make_trade_modules(
    chain: str, link: link_rules.LinkRules, members: members_rules.MembersRules
) -> list[Module]:
    if chain == "product":
        catalogue = catalogue_rules.CatalogueRules(members, link.for_module(catalogue_model.MODULE))
        return [catalogue_rules.make_module(catalogue, CATALOGUE_VIEWS)]
    if chain == "trade":
        bank = bank_rules.BankRules(members)
        orders = orders_rules.OrdersRules(members, bank, link.for_module(orders_model.MODULE))
        return [
            bank_rules.make_module(bank, BANK_VIEWS),
            orders_rules.make_module(orders, ORDERS_VIEWS),
        ]
    if chain == "logistics":
        shipments = shipments_rules.ShipmentsRules(members, link.for_module(shipments_model.MODULE))
        return [shipments_rules.make_module(shipments, SHIPMENTS_VIEWS)]
    if chain == "anchor":
        return []
    raise OperatorError(f"chain: expected one of {', '.join(CHAINS)}, got {chain!r}")


class GenesisTerms(Struct, frozen=True):
    """What may differ between networks; the defaults suit a sandbox and a small consortium."""

    trusting_period_ms: int = 30 * DAY_MS
    max_clock_drift_ms: int = MINUTE_MS
    heartbeat_ms: int = DAY_MS // 4
    quorum_permille: int = 500
    voting_period_ms: int = 7 * DAY_MS
    resolution_lifetime_ms: int = 7 * DAY_MS
    packet_lifetime_ms: int = DAY_MS
    anchor_every_blocks: int = 100
    stale_after_ms: int = DAY_MS
    return_answer_ms: int = 14 * DAY_MS
    delivery_grace_ms: int = 30 * DAY_MS
    max_hold_ms: int = 366 * DAY_MS
    max_changed_permille: int = 333
    max_block_transactions: int = 4_000
    state_root_interval: int = 1_000
    state_root_delay: int = 100


class FirstSets(Struct, frozen=True):
    """Who votes on blocks at first, here and on other networks."""

    seat: str
    """The chain that holds this network's set."""
    consensus: tuple[validators_model.FirstValidator, ...]
    seats: tuple[validators_model.FirstSeat, ...]
    trusted: TrustedConsensus | None
    """What the network's chains trust of each other; None for the solo engine."""


def find_seat(chains: Sequence[str]) -> str:
    """Return which of a network's chains holds its set of validators."""
    return REGISTRY if REGISTRY in chains else chains[0]


def make_genesis(
    name: str,
    *,
    consortium: bytes,
    is_sandbox: bool,
    time_ms: int,
    founders: Sequence[members_model.Founder],
    validators: Sequence[bytes],
    consensus: Sequence[validators_model.FirstValidator] = (),
    seats: Sequence[validators_model.FirstSeat] = (),
    chains: Sequence[str] = CHAINS,
    terms: GenesisTerms | None = None,
) -> Genesis:
    """Return the genesis of a network that hosts these chains.

    Chains of this network know each other from the start; those of other networks are let in by
    resolution (``link.open_client``). ``consensus`` votes on blocks at first; the solo engine has
    none. ``seats`` are the first sets of the other networks that the registry's own one governs.
    """
    terms = terms or GenesisTerms()
    first = tuple(Validator(one.key, one.power) for one in consensus)
    trusted = trust_genesis(first, time_ms * 1_000_000, terms.trusting_period_ms) if first else None
    sets = FirstSets(find_seat(chains), tuple(consensus), tuple(seats), trusted)
    return Genesis(
        version=1,
        name=name,
        consortium=consortium,
        is_sandbox=is_sandbox,
        time_ms=time_ms,
        chains=tuple(
            _make_chain_genesis(chain, chains, tuple(founders), tuple(validators), sets, terms)
            for chain in chains
        ),
        validators=tuple(validators),
        consensus=first,
        max_block_transactions=terms.max_block_transactions,
        state_root_interval=terms.state_root_interval,
        state_root_delay=terms.state_root_delay,
    )


def _make_chain_genesis(
    chain: str,
    chains: Sequence[str],
    founders: tuple[members_model.Founder, ...],
    validators: tuple[bytes, ...],
    sets: FirstSets,
    terms: GenesisTerms,
) -> ChainGenesis:
    siblings = [other for other in sorted(chains) if other != chain]
    params: dict[int, object] = {
        link_model.MODULE: link_model.LinkParams(
            peers=tuple(
                link_model.PeerGenesis(peer, None, validators, sets.trusted) for peer in siblings
            ),
            trusting_period_ms=terms.trusting_period_ms,
            max_clock_drift_ms=terms.max_clock_drift_ms,
            heartbeat_ms=terms.heartbeat_ms,
            open_purpose="link.open",
            recover_purpose="link.recover",
        ),
        members_model.MODULE: members_model.MembersParams(
            registry=REGISTRY,
            peers=tuple(peer for peer in CHAINS if peer != REGISTRY),
            quorum_permille=terms.quorum_permille,
            voting_period_ms=terms.voting_period_ms,
            resolution_lifetime_ms=terms.resolution_lifetime_ms,
            packet_lifetime_ms=terms.packet_lifetime_ms,
            founders=founders,
        ),
        anchoring_model.MODULE: anchoring_model.AnchoringParams(
            is_anchor=chain == REGISTRY,
            every_blocks=terms.anchor_every_blocks,
            stale_after_ms=terms.stale_after_ms,
            packet_deadline_ms=terms.packet_lifetime_ms,
            reset_purpose="anchoring.reset",
        ),
        bank_model.MODULE: bank_model.BankParams(max_hold_ms=terms.max_hold_ms),
        catalogue_model.MODULE: catalogue_model.CatalogueParams(
            tell=("trade",), packet_lifetime_ms=terms.packet_lifetime_ms
        ),
        orders_model.MODULE: orders_model.OrdersParams(
            catalogue_chain="product",
            logistics_chain="logistics",
            return_answer_ms=terms.return_answer_ms,
        ),
        shipments_model.MODULE: shipments_model.ShipmentsParams(
            trade="trade",
            packet_lifetime_ms=terms.packet_lifetime_ms,
            grace_ms=terms.delivery_grace_ms,
        ),
        validators_model.MODULE: validators_model.ValidatorsParams(
            registry=REGISTRY,
            is_seat=chain == sets.seat,
            max_changed_permille=terms.max_changed_permille,
            packet_lifetime_ms=terms.packet_lifetime_ms,
            first=sets.consensus if chain == sets.seat else (),
            seats=sets.seats if chain == REGISTRY else (),
        ),
    }
    modules = tuple(
        ModuleGenesis(module.number, module.version, encode(params[module.number]))
        for module in make_rulebook(chain).modules
    )
    return ChainGenesis(name=chain, modules=modules)
