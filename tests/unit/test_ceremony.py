"""What founders sign is what they get, and nothing becomes a network that one of them hasn't."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from tests.ceremony_world import (
    PASSPHRASE,
    Organisation,
    found,
    hold,
    make_organisation,
)

from hansa.core.codec import encode
from hansa.core.errors import OperatorError
from hansa.core.genesis import compute_network_id
from hansa.core.keystore import KeyStore
from hansa.core.merkle import ProofError
from hansa.interface.ceremony import (
    CEREMONY,
    CONSENSUS_KEY,
    KEYS,
    OWNER_KEY,
    Ceremony,
    Draft,
    SignedInvitation,
    adopt,
    check_ceremony,
    check_draft,
    check_invitation,
    finish,
    init_node,
    make_draft,
    make_engine_genesis,
    make_invitation,
    make_keys,
    make_settings,
    read_document,
    show_document,
    sign_draft,
    write_outcome,
)
from hansa.interface.joining import check_peers, find_checkpoint, find_trusted, join, read_genesis
from hansa.network.comet.process import pick_ports
from hansa.node.composition import GenesisTerms
from hansa.node.home import load_config, load_genesis, load_keys, make_trust

NAMES = ("Ash", "Beech", "Cedar")


@pytest.fixture(scope="module")
def founders(tmp_path_factory: pytest.TempPathFactory) -> list[Organisation]:
    """Three organisations that haven't met."""
    folder = tmp_path_factory.mktemp("homes")
    return [
        make_organisation(folder, name, port=12_000 + 2 * number)
        for number, name in enumerate(NAMES)
    ]


@pytest.fixture(scope="module")
def ceremony(founders: list[Organisation]) -> Ceremony:
    """Their consent."""
    return hold(founders)


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Organisation:
    """Somebody who isn't asked."""
    return make_organisation(tmp_path_factory.mktemp("stranger"), "Oak", port=12_100)


def test_the_same_files_give_the_same_bytes(founders: list[Organisation]) -> None:
    """Whatever the order in which the invitations are given."""
    invitations = [one.invitation for one in founders]
    first = show_document(make_draft("Hanse", invitations))
    assert first == show_document(make_draft("Hanse", reversed(invitations)))


def test_files_are_read_as_they_were_written(ceremony: Ceremony, tmp_path: Path) -> None:
    """Invitation, draft and consent come back from their readable form byte by byte."""
    for value, cls in (
        (ceremony.draft.founders[0], SignedInvitation),
        (ceremony.draft, Draft),
        (ceremony, Ceremony),
    ):
        path = tmp_path / "file.json"
        path.write_bytes(show_document(value))
        assert encode(value) == encode(read_document(path, cls))


def test_a_network_has_every_founder(ceremony: Ceremony, founders: list[Organisation]) -> None:
    """As a member, as a voter with the same power, and as a signer of checkpoints."""
    genesis = check_ceremony(ceremony)
    assert {one.invitation.invitation.consensus_key for one in founders} == {
        validator.key for validator in genesis.consensus
    }
    assert 1 == len({validator.power for validator in genesis.consensus})
    assert {one.invitation.invitation.checkpoint_key for one in founders} == set(genesis.validators)
    assert not genesis.is_sandbox


def test_the_terms_make_another_network(founders: list[Organisation]) -> None:
    """What is agreed about voting is part of what is signed."""
    invitations = [one.invitation for one in founders]
    usual = make_draft("Hanse", invitations)
    other = make_draft("Hanse", invitations, terms=GenesisTerms(quorum_permille=667))
    assert compute_network_id(check_draft(usual)) != compute_network_id(check_draft(other))


def test_a_home_that_adopts_can_start(ceremony: Ceremony, founders: list[Organisation]) -> None:
    """It has the genesis, the peers, CometBFT's files, and its keys are still sealed."""
    one = founders[0]
    init_node(one.home, one.keys, PASSPHRASE, one.invitation)
    genesis = adopt(one.home, ceremony, one.keys, PASSPHRASE, rpc_address=one.rpc)
    assert genesis == load_genesis(one.home)
    comet = load_config(one.home).comet
    assert comet is not None
    others = {
        f"{other.invitation.invitation.node_id.hex()}@{other.invitation.invitation.address}"
        for other in founders[1:]
    }
    assert others == set(comet.settings.persistent_peers)
    assert make_engine_genesis(genesis) == (one.home / "comet/config/genesis.json").read_bytes()
    assert sorted(KEYS) == load_keys(one.home, lambda: PASSPHRASE).names
    assert b"sealed" in (one.home / "keys.json").read_bytes()
    with pytest.raises(OperatorError, match="expected a folder without a network"):
        adopt(one.home, ceremony, one.keys, PASSPHRASE)


def test_the_outcome_is_four_files(ceremony: Ceremony, tmp_path: Path) -> None:
    """Genesis, CometBFT's genesis, the trust file, and the consent they follow from."""
    genesis = write_outcome(tmp_path, ceremony)
    assert encode(genesis) == (tmp_path / "genesis.bin").read_bytes()
    assert ceremony == read_document(tmp_path / CEREMONY, Ceremony)
    trust = json.loads((tmp_path / "hansa.trust").read_bytes())
    assert compute_network_id(genesis).hex() == trust["networks"][0]["network"]
    assert 3 == len(json.loads((tmp_path / "comet-genesis.json").read_bytes())["validators"])


Change = Callable[[Ceremony, list[Organisation], Organisation], Any]


def _alter(ceremony: Ceremony, **changes: Any) -> Ceremony:
    return replace(ceremony, draft=replace(ceremony.draft, **changes))


def _swap_address(ceremony: Ceremony) -> Ceremony:
    first, *others = ceremony.draft.founders
    moved = replace(first, invitation=replace(first.invitation, address="127.0.0.1:1"))
    return _alter(ceremony, founders=(moved, *others))


def _sign_for(ceremony: Ceremony, by: Organisation) -> Ceremony:
    """The first signature, made with the key of another."""
    first, *others = ceremony.signatures
    forged = replace(first, signature=by.keys.get(OWNER_KEY).sign(bytes(32)))
    return replace(ceremony, signatures=(forged, *others))


def _with_copied_key(founders: list[Organisation], name: str) -> Draft:
    """A draft whose last founder brings a key that the first has, and holds it."""
    keys = make_keys()
    secrets = {key: keys.get_secret(key) for key in KEYS}
    secrets[name] = founders[0].keys.get_secret(name)
    copied = KeyStore(seed=b"", keys=secrets, is_sandbox=False)
    other = make_organisation(founders[0].home.parent, "Cedar", keys=copied, port=12_200)
    return make_draft("Hanse", [*(one.invitation for one in founders[:2]), other.invitation])


def _with_borrowed_key(founders: list[Organisation]) -> Draft:
    """A draft with somebody who names the consensus key of another, without holding it."""
    theirs = founders[0].invitation.invitation
    keys = make_keys()
    mine = make_organisation(founders[0].home.parent, "Cedar", keys=keys).invitation.invitation
    claimed = replace(mine, consensus_key=theirs.consensus_key)
    from hansa.interface.ceremony import _invitation_hash

    signed = SignedInvitation(claimed, keys.get(OWNER_KEY).sign(_invitation_hash(encode(claimed))))
    return make_draft("Hanse", [signed])


REFUSED: dict[str, tuple[Change, str]] = {
    "missing founder": (
        lambda c, f, s: finish(c.draft, c.signatures[:-1]),
        "expected those of all founders, got none of",
    ),
    "wrong signature": (lambda c, f, s: check_ceremony(_sign_for(c, s)), "expected the owner's"),
    "altered name": (
        lambda c, f, s: check_ceremony(_alter(c, name="Hansa")),
        "expected one on the draft",
    ),
    "altered terms": (
        lambda c, f, s: check_ceremony(_alter(c, terms=GenesisTerms(quorum_permille=1))),
        "expected one on the draft",
    ),
    "altered address": (lambda c, f, s: check_ceremony(_swap_address(c)), "the owner's signature"),
    "a founder left out": (
        lambda c, f, s: check_ceremony(_alter(c, founders=c.draft.founders[:-1])),
        "expected one on the draft",
    ),
    "a signature twice": (
        lambda c, f, s: finish(c.draft, [*c.signatures, c.signatures[0]]),
        "expected one of each founder, got one too many",
    ),
    "founders out of order": (
        lambda c, f, s: check_ceremony(_alter(c, founders=c.draft.founders[::-1])),
        "expected the order",
    ),
    "an invitation twice": (
        lambda c, f, s: make_draft("Hanse", [f[0].invitation, f[0].invitation]),
        "expected each key, address and name once",
    ),
    "one consensus key of two": (
        lambda c, f, s: _with_copied_key(f, CONSENSUS_KEY),
        "expected each key, address and name once",
    ),
    "one node key of two": (
        lambda c, f, s: _with_copied_key(f, "node"),
        "expected each key, address and name once",
    ),
    "a key that isn't held": (
        lambda c, f, s: _with_borrowed_key(f),
        "expected the consensus key's own signature",
    ),
    "a draft without oneself": (
        lambda c, f, s: sign_draft(c.draft, s.invitation, s.keys),
        "expected the invitation of Oak",
    ),
    "the home of a stranger": (
        lambda c, f, s: _adopt_stranger(c, s),
        "expected the home of a founder",
    ),
    "a genesis that isn't trusted": (
        lambda c, f, s: find_trusted(check_draft(c.draft), make_trust(check_draft(_other(f)))),
        "expected a network of the trust file",
    ),
}


def _adopt_stranger(ceremony: Ceremony, stranger: Organisation) -> None:
    if not stranger.home.exists():
        init_node(stranger.home, stranger.keys, PASSPHRASE, stranger.invitation)
    adopt(stranger.home, ceremony, stranger.keys, PASSPHRASE)


def _other(founders: list[Organisation]) -> Draft:
    return make_draft("Other", [one.invitation for one in founders])


@pytest.mark.parametrize("name", REFUSED)
def test_what_was_not_agreed_is_refused(
    name: str, ceremony: Ceremony, founders: list[Organisation], stranger: Organisation
) -> None:
    """Each way to slip something in is named, and the command ends with status 1."""
    attempt, words = REFUSED[name]
    with pytest.raises(ProofError, match=words):
        attempt(ceremony, founders, stranger)


MISTAKES: dict[str, tuple[Change, str]] = {
    "no founders": (lambda c, f, s: make_draft("Hanse", []), "expected at least one"),
    "an unknown chain": (
        lambda c, f, s: make_draft("Hanse", [f[0].invitation], chains=("gold",)),
        "chains: expected some of product",
    ),
    "terms that the rules refuse": (
        lambda c, f, s: make_draft(
            "Hanse", [f[0].invitation], terms=GenesisTerms(quorum_permille=1_000)
        ),
        "terms of product: expected a well-formed value, got .* <= 999",
    ),
    "an address without a port": (
        lambda c, f, s: make_invitation(
            make_keys(), name="Oak", country="GB", roles=["operator"], licence="",
            address="oak.example", made_ms=0,
        ),
        "expected HOST:PORT",
    ),
    "a role there is not": (
        lambda c, f, s: make_invitation(
            make_keys(), name="Oak", country="GB", roles=["pirate"], licence="",
            address="127.0.0.1:1", made_ms=0,
        ),
        "roles",
    ),
    "the keys of another": (
        lambda c, f, s: sign_draft(c.draft, f[0].invitation, s.keys),
        "key 'owner': expected",
    ),
    "no peer": (lambda c, f, s: check_peers([]), "expected at least one ID@HOST:PORT"),
    "a peer without an id": (
        lambda c, f, s: check_peers(["127.0.0.1:26656"]),
        "expected 40 hexadecimal digits",
    ),
    "peers that can't be reached": (
        lambda c, f, s: check_peers([f"{'ab' * 20}@127.0.0.1:{pick_ports(1)[0]}"]),
        "expected one that can be reached",
    ),
    "one server for state sync": (
        lambda c, f, s: find_checkpoint(check_draft(c.draft), _trust(c), ["127.0.0.1:1"], 0),
        "expected two RPC servers",
    ),
    "servers that can't be reached": (
        lambda c, f, s: find_checkpoint(
            check_draft(c.draft), _trust(c), [f"127.0.0.1:{port}" for port in pick_ports(2)], 0
        ),
        "expected every server to answer",
    ),
}  # fmt: skip


def _trust(ceremony: Ceremony) -> Any:
    return make_trust(check_draft(ceremony.draft)).networks[0].consensus


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_told(
    name: str, ceremony: Ceremony, founders: list[Organisation], stranger: Organisation
) -> None:
    """What can't work says what was expected, before anything is written."""
    attempt, words = MISTAKES[name]
    with pytest.raises(OperatorError, match=words):
        attempt(ceremony, founders, stranger)


def test_a_file_of_another_kind_is_told(tmp_path: Path) -> None:
    """Neither JSON that is none of ours nor a genesis that is none is taken."""
    path = tmp_path / "file"
    path.write_text("{}")
    with pytest.raises(OperatorError, match="version: expected a value"):
        read_document(path, Draft)
    path.write_text("no")
    with pytest.raises(OperatorError, match="expected JSON"):
        read_document(path, Draft)
    with pytest.raises(OperatorError, match="expected a genesis"):
        read_genesis(path)


def test_a_later_node_only_follows(tmp_path: Path) -> None:
    """It has the network's genesis and keys of its own, and nothing is asked of the founders."""
    organisations, genesis = found(tmp_path, ["Ash"], time_ms=1_760_000_000_000)
    ash = organisations[0].invitation.invitation
    keys = make_keys()
    host, _, port = ash.address.partition(":")
    with socket.create_server((host, int(port))):
        begun = join(
            tmp_path / "late", genesis, make_trust(genesis).networks[0], keys, PASSPHRASE,
            name="late", peers=[f"{ash.node_id.hex()}@{ash.address}"],
            listen="127.0.0.1:12999", rpc_address="127.0.0.1:12998", now_ms=0,
        )  # fmt: skip
    assert None is begun
    assert genesis == load_genesis(tmp_path / "late")


def test_invitations_are_judged_alone(founders: list[Organisation]) -> None:
    """One that is whole passes."""
    for one in founders:
        check_invitation(one.invitation)


def test_names_that_cometbft_refuses_are_folded() -> None:
    """A moniker is printable ASCII, whatever the organisation is called."""
    keys = make_keys()
    assert "Mller" == make_settings("Müller", keys, "127.0.0.1:1", "127.0.0.1:2", []).moniker
    assert 8 == len(make_settings("漢薩", keys, "127.0.0.1:1", "127.0.0.1:2", []).moniker)
