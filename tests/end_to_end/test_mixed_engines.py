"""Chains on networks of both engines: two run by real CometBFTs, two by nodes alone.

Between them there is nothing but HTTP, a relay nobody trusts, and the light client's proofs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from nacl.signing import SigningKey as Ed25519Key
from tests.end_to_end.test_four_nodes import (
    Federation,
    check_ended_once,
    finish,
    verify,
    write_trust,
)

from hansa.core.keys import ED25519
from hansa.core.lightblock import validators_from_rpc
from hansa.interface.sandbox.desk import Request, wait_for
from hansa.interface.sandbox.federation import show_consensus_key
from hansa.interface.sandbox.lives import Life, LifeDriver
from hansa.interface.sandbox.roster import COMPANIES, PAYMENTS, TOOLMAKER
from hansa.network.comet.config import write_validator_key
from hansa.network.comet.rpc import RpcClient
from hansa.node.home import load_config, load_keys
from hansa.service.catalogue.model import Register
from hansa.service.members.model import Decided, Propose, Resolve, Vote
from hansa.service.validators.model import PURPOSE, Change, ReplaceKey, compute_subject

COMET: Final = ("logistics", "product")
FRESH: Final = b"\x0f" * 32
"""Seed of the key that votes after the change."""
PATIENCE_S: Final = 60.0


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """Four networks that know each other, and a relay that runs."""
    world = Federation(tmp_path_factory.mktemp("mixed"), COMET, max_changed_permille=1_000)
    try:
        world.start_relays()
        world.open_market()
        yield world
    finally:
        world.close()


def make_fresh_key() -> bytes:
    """The public key that votes after the change."""
    return bytes([ED25519]) + Ed25519Key(FRESH).verify_key.encode()


def list_voters(world: Federation, chain: str) -> set[bytes]:
    """Who votes on the next block, as the chain's CometBFT says."""
    comet = load_config(world.homes[chain]).comet
    assert comet is not None
    rpc = RpcClient(comet.settings.rpc_address)
    try:
        height = int(rpc.status()["sync_info"]["latest_block_height"])
        return {one.key for one in validators_from_rpc(rpc.validators(height + 1))}
    finally:
        rpc.close()


def register(world: Federation, reference: str) -> bytes:
    """Register a product on its chain; returns its id."""
    message = Register(
        reference=reference, gtin="", name="Ratchet", description="", hs_code="820411",
        origin="DE", unit="C62",
    )  # fmt: skip
    return world.desk.send("product", [Request((TOOLMAKER.key,), (message,))])[0].object_id()


def replace_validators(world: Federation, chain: str) -> None:
    """Have the members replace all who vote on a chain's network, by the registry."""
    old = show_consensus_key(load_keys(world.homes[chain], lambda: ""))
    change = Change(seat=chain, actions=(ReplaceKey(old, make_fresh_key()),), resolution=bytes(16))
    anchor = world.clients["anchor"]
    proposal = Propose(Resolve(purpose=PURPOSE, subject=compute_subject(change)))
    outcome = anchor.send("anchor", [proposal], [COMPANIES[0].key])
    resolution = outcome.object_id()
    for company in COMPANIES[1:]:
        if any(isinstance(event, Decided) for event in outcome.events):
            break
        outcome = anchor.send("anchor", [Vote(resolution, approve=True)], [company.key])
    anchor.send(
        "anchor",
        [Change(seat=chain, actions=change.actions, resolution=resolution)],
        [PAYMENTS.key],
    )


def play(world: Federation, count: int) -> list[Life]:
    """Play so many orders to their end; each is released, shipped and paid once."""
    driver = LifeDriver(world.desk, on_signed=lambda _: None, on_released=lambda _: None)
    lives = world.make_lives(count)
    try:
        driver.begin(lives)
        finish(driver)
    finally:
        driver.close()
    return lives


def test_orders_live_on_chains_of_both_engines(federation: Federation) -> None:
    """Products and shipments stand on CometBFT, money and members do not; every life ends."""
    check_ended_once(federation, play(federation, 2))


def test_clients_follow_validators_who_are_all_replaced(
    federation: Federation, tmp_path: Path
) -> None:
    """By resolution on the registry, which is on another engine; packets go on both ways."""
    register(federation, "before the change")
    replace_validators(federation, "product")
    wait_for(
        lambda: list_voters(federation, "product") == {make_fresh_key()},
        "the change to be in force",
        PATIENCE_S,
    )
    # The old key's work is done; its node goes on with the fresh one.
    federation.nodes["product"].kill()
    write_validator_key(federation.homes["product"] / "comet", FRESH)
    federation.restart("product")
    product = register(federation, "after the change")
    federation.product = product  # Of which the market has heard since the change, or never.
    federation.wait_acknowledged()
    check_ended_once(federation, play(federation, 1))
    # Proofs are judged by whoever knows the genesis alone.
    file = tmp_path / "product.hansa"
    file.write_bytes(federation.clients["product"].proof("product", product.hex()))
    assert 0 == verify(file, write_trust(tmp_path / "all", [federation.homes["product"]]))
    note = federation.clients["product"].checkpoint("product")
    assert note.startswith(b"hansa/")
