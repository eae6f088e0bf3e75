"""An upgrade at a height, rehearsed on real CometBFT: halt, the next release, go on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace
from nacl.signing import SigningKey as Ed25519Key
from tests.ceremony_world import PASSPHRASE, found
from tests.conftest import REPOSITORY
from tests.toy_chain import (
    TALLIES,
    Add,
    AddTwice,
    Upgrade,
    account_of,
    key_of,
    make_genesis,
    make_rulebooks,
)

from hansa.core.apply import get_sequence
from hansa.core.errors import OperatorError
from hansa.core.finality import CheckpointSigner
from hansa.core.genesis import Genesis
from hansa.core.keys import ED25519
from hansa.core.ledger import Ledger
from hansa.core.transaction import Body, Message, Signer, sign_transaction
from hansa.core.validatorset import Validator
from hansa.interface.ceremony import make_engine_genesis
from hansa.interface.sandbox.desk import wait_for
from hansa.network.comet.config import CometSettings, write_home
from hansa.network.comet.engine import CometEngine, CometTerms, Halted
from hansa.network.comet.process import pick_ports
from hansa.node.composition import make_rulebook
from hansa.node.node import system_clock

SEED = b"u" * 32
HALT_HEIGHT = 6
PATIENCE_S = 60.0


class Release:
    """A node of a network of one validator, run by a release that knows some versions."""

    def __init__(
        self, home: Path, genesis: Genesis, settings: CometSettings, versions: Sequence[int],
        halt_height: int = 0,
    ) -> None:  # fmt: skip
        self.ledger = Ledger(home / "ledger", genesis, make_rulebooks(versions), None)
        terms = CometTerms(home / "comet", settings, verifiers=1, halt_height=halt_height)
        try:
            self.engine = CometEngine(self.ledger, terms, clock=system_clock)
            self.engine.start()
        except BaseException:
            self.ledger.close()
            raise

    def send(self, message: Message) -> int:
        """Have a transaction included; returns the height."""
        chain = self.ledger.chains["one"]
        account = account_of("anna")
        body = Body(
            version=1,
            network=self.ledger.network,
            chain="one",
            signers=(Signer(account, key_of("anna").public),),
            lane=0,
            sequence=self.engine.call(lambda: get_sequence(chain, account, 0)),
            valid_until_ms=system_clock() + 600_000,
            messages=(message,),
        )
        inclusion = self.engine.submit("one", sign_transaction(body, [key_of("anna")]))
        placed = inclusion.result(PATIENCE_S)
        assert placed.receipt.error is None, placed.receipt
        return placed.height

    @property
    def total(self) -> int:
        """What the tally stands at."""
        tally = TALLIES.get(self.ledger.chains["one"], b"a")
        return tally.total if tally else 0

    def stop(self) -> None:
        """End it in good order."""
        self.engine.stop()
        self.ledger.close()


def make_network(home: Path) -> tuple[Genesis, CometSettings]:
    """A network of the two small chains, with one validator."""
    key = bytes([ED25519]) + Ed25519Key(SEED).verify_key.encode()
    toy = make_genesis(CheckpointSigner(b"s" * 32))
    genesis = replace(toy, consensus=(Validator(key, 10),), time_ms=system_clock())
    p2p, rpc = pick_ports(2)
    settings = CometSettings(
        moniker="toy",
        proxy_app="",
        p2p_address=f"127.0.0.1:{p2p}",
        rpc_address=f"127.0.0.1:{rpc}",
        create_empty_blocks_interval_ms=200,
        timeout_commit_ms=50,
    )
    write_home(
        home / "comet",
        settings,
        make_engine_genesis(genesis),
        node_seed=b"n" * 32,
        validator_seed=SEED,
    )
    return genesis, settings


@pytest.mark.slow
def test_an_upgrade_at_a_height(tmp_path: Path) -> None:
    """Every node stops after the same block; the next release goes on from it by the new rules."""
    genesis, settings = make_network(tmp_path)
    old = Release(tmp_path, genesis, settings, versions=(1,), halt_height=HALT_HEIGHT)
    try:
        old.send(Add("a", 1))
        old.send(Upgrade(HALT_HEIGHT + 1, 2))
        wait_for(lambda: old.engine.failed is not None, "the halt", PATIENCE_S)
        assert isinstance(old.engine.failed, Halted)
        assert "install the next one" in str(old.engine.failed)
        assert (HALT_HEIGHT, 1) == (old.ledger.height, old.total)
    finally:
        old.stop()

    # The old release can't go on by mistake: it lacks the rules of the next block.
    stale = Ledger(tmp_path / "ledger", genesis, make_rulebooks((1,)), None)
    with pytest.raises(OperatorError, match="expected version 2 in this release"):
        stale.apply(system_clock(), {})
    stale.close()

    new = Release(tmp_path, genesis, settings, versions=(1, 2), halt_height=HALT_HEIGHT)
    try:
        assert new.send(AddTwice("a", 1)) > HALT_HEIGHT
        assert 3 == new.total
    finally:
        new.stop()


def run_until_it_ends(home: Path, halt_height: int) -> tuple[int, str]:
    """`hansa start` on a home; returns the status it ends with, and what it said on stderr."""
    secret = home.parent / "passphrase"
    secret.write_text(PASSPHRASE)
    command = [sys.executable, "-m", "hansa.foreground.cli.main", "start", "--home", str(home)]
    command += ["--port", "0", "--passphrase-file", str(secret)]
    done = subprocess.run(
        [*command, "--halt-height", str(halt_height)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "src")},
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr


@pytest.mark.slow
def test_a_node_ends_in_good_order_at_its_height(tmp_path: Path) -> None:
    """With status 0, so that nothing starts it again; and goes no further by the same command."""
    (ash,), genesis = found(tmp_path, ["Ash"], time_ms=system_clock())
    status, said = run_until_it_ends(ash.home, 3)
    assert (0, True) == (status, "block 3 is the last of this release" in said), said
    rulebooks = {chain.name: make_rulebook(chain.name) for chain in genesis.chains}
    ledger = Ledger(ash.home / "ledger", genesis, rulebooks, None)
    height = ledger.height
    ledger.close()
    assert 3 == height
    status, said = run_until_it_ends(ash.home, 3)
    assert (2, True) == (status, "halt height: expected one above 3" in said), said
