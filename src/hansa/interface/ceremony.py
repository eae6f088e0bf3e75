"""How organisations found a network together: by files, with no secret shared and nobody trusted.

Each makes its keys and hands out an invitation. Anybody puts invitations together into a draft:
the same files give the same bytes. Each compares the draft with what it has agreed to and signs
it; only the signatures of all make it a network, which each then adopts in its own home.
"""

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import coincurve
from msgspec import Meta
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey as Ed25519Key
from nacl.signing import VerifyKey

from hansa.core.codec import (
    Account,
    ChainName,
    Country,
    Name,
    ShortText,
    TimeMs,
    Value,
    encode,
    from_readable,
    make_decoder,
    to_readable,
)
from hansa.core.errors import Malformed, OperatorError
from hansa.core.genesis import Genesis, compute_network_id, consensus_chain_id, decode_genesis
from hansa.core.hashing import Digest, digester, tagged_hasher
from hansa.core.keys import ED25519, PublicKey, Signature, compute_account, verify_signature
from hansa.core.keystore import KeyStore
from hansa.core.ledger import Ledger
from hansa.core.merkle import ProofError
from hansa.network.comet.config import (
    CometSettings,
    compute_node_id,
    make_genesis_document,
    write_home,
)
from hansa.network.comet.rpc import split_address
from hansa.node.composition import CHAINS, GenesisTerms, make_genesis, make_rulebook
from hansa.node.home import (
    CometConfig,
    NodeConfig,
    create_home,
    make_readable_trust,
    write_private,
)
from hansa.service.members.model import Founder, FounderAccount, Roles, compute_founder_id
from hansa.service.validators.model import FirstValidator

OWNER_KEY: Final = "owner"
"""Speaks for the organisation; it signs the invitation and the draft."""
RELAY_KEY: Final = "relay"
VALIDATOR_KEY: Final = "validator"
"""Signs checkpoints."""
CONSENSUS_KEY: Final = "consensus"
"""Votes on blocks."""
NODE_KEY: Final = "node"
"""By which CometBFT's nodes know each other."""
KEYS: Final = (OWNER_KEY, RELAY_KEY, VALIDATOR_KEY, CONSENSUS_KEY, NODE_KEY)

POWER: Final = 10
"""Of each founder's validator: all have the same say."""
MAX_FOUNDERS: Final = 100
RELAY_PATIENCE_MS: Final = 4_000
"""How much longer each founder's node than the one before leaves packets to the others."""
EMPTY_BLOCKS_MS: Final = 10_000
RPC_ADDRESS: Final = "127.0.0.1:26657"

INVITATION: Final = "invitation.json"
CEREMONY: Final = "ceremony.json"
GENESIS: Final = "genesis.bin"
ENGINE_GENESIS: Final = "comet-genesis.json"
TRUST: Final = "hansa.trust"

_invitation_hash = tagged_hasher("invitation")
_draft_digest = digester("genesis-draft")
_draft_hash = tagged_hasher("genesis-signature")
_possession_hash = tagged_hasher("possession")
_consortium_digest = digester("consortium")


class NotAgreed(ProofError):
    """What was signed is something else, or somebody has not signed; nothing was written."""


class Invitation(Value):
    """What an organisation brings into a network: who it is, and the public half of its keys."""

    version: Literal[1]
    name: Name
    country: Country
    roles: Roles
    licence: ShortText
    owner_key: PublicKey
    """BIP-340; the account it owns follows from it once the founders are known."""
    relay_key: PublicKey
    """BIP-340; may relay packets and do nothing else."""
    checkpoint_key: PublicKey
    """Ed25519; signs checkpoints."""
    consensus_key: PublicKey
    """Ed25519; votes on blocks."""
    checkpoint_proof: Signature
    consensus_proof: Signature
    """That who holds the owner's key holds these too: else one could found with another's key."""
    node_id: Account
    """CometBFT's address of the node's key, 20 bytes."""
    address: Annotated[str, Meta(min_length=3, max_length=128)]
    """``HOST:PORT`` where the other nodes reach this one."""
    made_ms: TimeMs
    """By its own clock; the network's time begins at the latest of all."""


class SignedInvitation(Value):
    """An invitation and the owner's signature."""

    invitation: Invitation
    signature: Signature


class Draft(Value):
    """A network that is proposed: everything that its genesis follows from."""

    version: Literal[1]
    name: Name
    chains: Annotated[tuple[ChainName, ...], Meta(min_length=1, max_length=64)]
    terms: GenesisTerms
    founders: Annotated[tuple[SignedInvitation, ...], Meta(min_length=1, max_length=MAX_FOUNDERS)]
    """In the order of their owners' keys."""


class DraftSignature(Value):
    """A founder's consent to a draft."""

    version: Literal[1]
    organisation: Name
    owner_key: PublicKey
    draft: Digest
    network: Digest
    """Id of the network that the draft makes."""
    signature: Signature


class Ceremony(Value):
    """A draft to which every founder has consented; whoever reads it can check it again."""

    draft: Draft
    signatures: Annotated[tuple[DraftSignature, ...], Meta(min_length=1, max_length=MAX_FOUNDERS)]
    """In the order of the founders."""


# An invitation.


def make_keys() -> KeyStore:
    """Return a new key store with all keys of an organisation's node, made by chance."""
    accounts = {name: coincurve.PrivateKey().secret for name in (OWNER_KEY, RELAY_KEY)}
    others = {name: os.urandom(32) for name in (VALIDATOR_KEY, CONSENSUS_KEY, NODE_KEY)}
    return KeyStore(seed=b"", keys={**accounts, **others}, is_sandbox=False)


def make_invitation(
    keys: KeyStore, *, name: str, country: str, roles: Sequence[str], licence: str, address: str,
    made_ms: int,
) -> SignedInvitation:  # fmt: skip
    """Return what the others need of an organisation, signed by its owner.

    Raises: OperatorError for what no network would have.
    """
    owner = keys.get(OWNER_KEY)
    readable = {
        "version": 1,
        "name": name,
        "country": country,
        "roles": sorted(set(roles)),
        "licence": licence,
        "owner_key": owner.public,
        "relay_key": keys.get(RELAY_KEY).public,
        "checkpoint_key": _public(keys, VALIDATOR_KEY),
        "consensus_key": _public(keys, CONSENSUS_KEY),
        "checkpoint_proof": _prove_possession(keys, VALIDATOR_KEY),
        "consensus_proof": _prove_possession(keys, CONSENSUS_KEY),
        "node_id": bytes.fromhex(compute_node_id(keys.get_secret(NODE_KEY))),
        "address": address,
        "made_ms": made_ms,
    }
    try:
        invitation: Invitation = from_readable(Invitation, readable)
    except Malformed as error:
        raise OperatorError(f"invitation: {error.text}") from None
    signed = SignedInvitation(invitation, owner.sign(_invitation_hash(encode(invitation))))
    check_invitation(signed)
    return signed


def _public(keys: KeyStore, name: str) -> bytes:
    return bytes([ED25519]) + Ed25519Key(keys.get_secret(name)).verify_key.encode()


def _prove_possession(keys: KeyStore, name: str) -> bytes:
    claim = _claim_possession(name, keys.get(OWNER_KEY).public)
    return bytes([ED25519]) + Ed25519Key(keys.get_secret(name)).sign(claim).signature


def _claim_possession(name: str, owner_key: bytes) -> bytes:
    # Words in front: no vote and no signed note begins like this, so it can't pass for either.
    return f"hansa: the {name} key of ".encode() + _possession_hash(owner_key)


def check_invitation(signed: SignedInvitation) -> None:
    """Judge an invitation by itself.

    Raises: OperatorError for an address that is none, NotAgreed for a wrong signature of the owner
    or of a key that it names as its own.
    """
    one = signed.invitation
    try:
        split_address(one.address)
    except ValueError as error:
        raise OperatorError(f"invitation of {one.name}: {error}") from None
    digest = _invitation_hash(encode(one))
    if not verify_signature(one.owner_key, signed.signature, digest):
        raise NotAgreed(f"invitation of {one.name}: expected the owner's signature, got another")
    for name, key, proof in (
        (VALIDATOR_KEY, one.checkpoint_key, one.checkpoint_proof),
        (CONSENSUS_KEY, one.consensus_key, one.consensus_proof),
    ):
        if not _verify_ed25519(key, proof, _claim_possession(name, one.owner_key)):
            raise NotAgreed(
                f"invitation of {one.name}: expected the {name} key's own signature, got another"
            )


def _verify_ed25519(key: bytes, signature: bytes, message: bytes) -> bool:
    if key[0] != ED25519 or signature[0] != ED25519:
        return False
    try:
        VerifyKey(key[1:]).verify(message, signature[1:])
    except BadSignatureError:
        return False
    return True


# A draft.


def make_draft(
    name: str, founders: Iterable[SignedInvitation], *, terms: GenesisTerms | None = None,
    chains: Sequence[str] = CHAINS,
) -> Draft:  # fmt: skip
    """Return the network that these organisations would found: the same for the same input.

    Raises: as :func:`check_draft`.
    """
    ordered = sorted(founders, key=lambda one: one.invitation.owner_key)
    draft = Draft(1, name, tuple(chains), terms or GenesisTerms(), tuple(ordered))
    check_draft(draft)
    return draft


def check_draft(draft: Draft) -> Genesis:
    """Judge a draft, and return the genesis that it makes.

    Raises: OperatorError for no founder, chains that this release doesn't know or has twice, and
    terms or founders that the rules refuse; NotAgreed for founders out of order, a wrong
    invitation, or a key, address or name that two of them have.
    """
    if not draft.founders:
        raise OperatorError("founders: expected at least one invitation, got none")
    if tuple(chain for chain in CHAINS if chain in draft.chains) != draft.chains:
        raise OperatorError(
            f"chains: expected some of {', '.join(CHAINS)}, each once and in this order, got"
            f" {', '.join(draft.chains)}"
        )
    owners = [signed.invitation.owner_key for signed in draft.founders]
    if owners != sorted(owners):
        raise NotAgreed("founders: expected the order of their owners' keys, got another")
    for signed in draft.founders:
        check_invitation(signed)
    _check_distinct(draft)
    genesis = _make_genesis(draft)
    _try_genesis(genesis)
    return genesis


def _check_distinct(draft: Draft) -> None:
    seen: dict[object, str] = {}
    for signed in draft.founders:
        one = signed.invitation
        for what in (
            one.owner_key, one.relay_key, one.checkpoint_key, one.consensus_key, one.node_id,
            one.address, ("name", one.name),
        ):  # fmt: skip
            if what in seen:
                shown = what.hex() if isinstance(what, bytes) else what
                raise NotAgreed(
                    f"founders: expected each key, address and name once, got {shown} of both"
                    f" {seen[what]} and {one.name}"
                )
            seen[what] = one.name


def _make_genesis(draft: Draft) -> Genesis:
    invitations = [signed.invitation for signed in draft.founders]
    consortium = _consortium_digest(b"".join(one.owner_key for one in invitations))
    founders = [_make_founder(one, consortium) for one in invitations]
    consensus = [
        FirstValidator(compute_founder_id(founder.owner), one.consensus_key, POWER)
        for founder, one in zip(founders, invitations, strict=True)
    ]
    return make_genesis(
        draft.name,
        consortium=consortium,
        is_sandbox=False,
        time_ms=max(one.made_ms for one in invitations),
        founders=founders,
        validators=[one.checkpoint_key for one in invitations],
        consensus=consensus,
        chains=draft.chains,
        terms=draft.terms,
    )


def _make_founder(one: Invitation, consortium: bytes) -> Founder:
    relay = compute_account(consortium, one.relay_key)
    return Founder(
        name=one.name,
        country=one.country,
        roles=one.roles,
        licence=one.licence,
        owner=compute_account(consortium, one.owner_key),
        accounts=(FounderAccount(relay, ("relay",)),),
    )


def _try_genesis(genesis: Genesis) -> None:
    """Run block 0 aside: what it refuses would else show when all have signed."""
    try:
        decode_genesis(encode(genesis))
        rulebooks = {chain.name: make_rulebook(chain.name) for chain in genesis.chains}
        for chain in genesis.chains:
            params = {module.number: module.params for module in rulebooks[chain.name].modules}
            for start in chain.modules:
                make_decoder(params[start.number], f"terms of {chain.name}")(start.params)
        with tempfile.TemporaryDirectory(prefix="hansa-") as folder:
            Ledger(Path(folder) / "ledger", genesis, rulebooks, None).close()
    except Malformed as error:
        raise OperatorError(f"draft: {error.text}") from None


def compute_draft_digest(draft: Draft) -> bytes:
    """Return what the founders sign: 33 bytes, of every byte of the draft."""
    return _draft_digest(encode(draft))


# Consent.


def sign_draft(draft: Draft, own: SignedInvitation, keys: KeyStore) -> DraftSignature:
    """Consent to a draft for an organisation.

    Raises: as :func:`check_draft`; NotAgreed if the draft has not this organisation's invitation,
    byte by byte; OperatorError if the key store is another's.
    """
    genesis = check_draft(draft)
    if own not in draft.founders:
        raise NotAgreed(
            f"draft: expected the invitation of {own.invitation.name} as this home holds it, got"
            f" {', '.join(signed.invitation.name for signed in draft.founders)}, with others"
        )
    owner = keys.get(OWNER_KEY)
    if owner.public != own.invitation.owner_key:
        raise OperatorError(
            f"key 'owner': expected {own.invitation.owner_key.hex()}, got {owner.public.hex()}"
        )
    digest, network = compute_draft_digest(draft), compute_network_id(genesis)
    return DraftSignature(
        version=1,
        organisation=own.invitation.name,
        owner_key=owner.public,
        draft=digest,
        network=network,
        signature=owner.sign(_draft_hash(digest + network)),
    )


def finish(draft: Draft, signatures: Iterable[DraftSignature]) -> Ceremony:
    """Put the consent of all together.

    Raises: as :func:`check_ceremony`.
    """
    ordered = sorted(signatures, key=lambda one: one.owner_key)
    ceremony = Ceremony(draft, tuple(ordered))
    check_ceremony(ceremony)
    return ceremony


def check_ceremony(ceremony: Ceremony) -> Genesis:
    """Judge a draft and everybody's consent; returns the genesis.

    Raises: as :func:`check_draft`; NotAgreed for a signature of another draft or network, one that
    is wrong, of no founder, or there twice, and for a founder who has not signed.
    """
    genesis = check_draft(ceremony.draft)
    digest, network = compute_draft_digest(ceremony.draft), compute_network_id(genesis)
    missing = {
        signed.invitation.owner_key: signed.invitation.name for signed in ceremony.draft.founders
    }
    for one in ceremony.signatures:
        who = f"signature of {one.organisation}"
        if one.draft != digest or one.network != network:
            raise NotAgreed(
                f"{who}: expected one on the draft {digest.hex()}, got one on {one.draft.hex()}"
            )
        if not verify_signature(one.owner_key, one.signature, _draft_hash(digest + network)):
            raise NotAgreed(f"{who}: expected the owner's, got another")
        if missing.pop(one.owner_key, None) is None:
            raise NotAgreed(f"{who}: expected one of each founder, got one too many")
    if missing:
        raise NotAgreed(
            f"signatures: expected those of all founders, got none of {', '.join(missing.values())}"
        )
    return genesis


# Files.


def read_document(path: Path, cls: type[Any]) -> Any:
    """Read a file of the ceremony. Raises: OperatorError for one that is none."""
    try:
        return from_readable(cls, json.loads(path.read_bytes()))
    except ValueError as error:
        raise OperatorError(f"{path}: expected JSON, got {error}") from None
    except Malformed as error:
        raise OperatorError(f"{path}: {error.text}") from None


def show_document(value: Value) -> bytes:
    """Return a file of the ceremony, as people can read it and compare it."""
    return json.dumps(to_readable(value), indent=2, ensure_ascii=False).encode() + b"\n"


def make_engine_genesis(genesis: Genesis) -> bytes:
    """Return CometBFT's own genesis, which follows from ours."""
    return make_genesis_document(
        consensus_chain_id(compute_network_id(genesis)), genesis.time_ms, genesis.consensus
    )


def write_outcome(folder: Path, ceremony: Ceremony) -> Genesis:
    """Write what the network is: its genesis, CometBFT's, the trust file, and who agreed to it.

    Raises: as :func:`check_ceremony`.
    """
    genesis = check_ceremony(ceremony)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / GENESIS).write_bytes(encode(genesis))
    (folder / ENGINE_GENESIS).write_bytes(make_engine_genesis(genesis))
    trust = json.dumps(make_readable_trust(genesis), indent=2).encode() + b"\n"
    (folder / TRUST).write_bytes(trust)
    (folder / CEREMONY).write_bytes(show_document(ceremony))  # Last: it makes the folder whole.
    return genesis


# The homes.


def init_node(home: Path, keys: KeyStore, passphrase: str, invitation: SignedInvitation) -> None:
    """Write an organisation's sealed keys and its invitation into a new home.

    Raises: OperatorError if there are keys already.
    """
    if (home / "keys.json").exists():
        raise OperatorError(f"{home}: expected a folder without keys, got one that has some")
    home.mkdir(parents=True, exist_ok=True)
    write_private(home / "keys.json", keys.seal(passphrase, os.urandom))
    (home / INVITATION).write_bytes(show_document(invitation))


def load_invitation(home: Path) -> SignedInvitation:
    """Read the invitation of a home. Raises: OperatorError if there is none."""
    path = home / INVITATION
    if not path.exists():
        raise OperatorError(f"{home}: expected an invitation, got none; run `hansa node init`")
    invitation: SignedInvitation = read_document(path, SignedInvitation)
    return invitation


def adopt(
    home: Path, ceremony: Ceremony, keys: KeyStore, passphrase: str, *, listen: str = "",
    rpc_address: str = RPC_ADDRESS, change: Callable[[CometSettings], CometSettings] | None = None,
) -> Genesis:  # fmt: skip
    """Make an organisation's home one of the network that it founded with others.

    ``listen`` is where CometBFT hears its peers; the address of the invitation where it is left
    out. ``change`` may alter CometBFT's settings. Raises: as :func:`check_ceremony`; NotAgreed if
    this home is of no founder; OperatorError if the home has a network already.
    """
    genesis = check_ceremony(ceremony)
    own = load_invitation(home)
    if own not in ceremony.draft.founders:
        raise NotAgreed(
            f"{home}: expected the home of a founder, got that of {own.invitation.name}"
        )
    place = ceremony.draft.founders.index(own)
    peers = [
        show_peer(signed.invitation) for signed in ceremony.draft.founders if signed != own
    ]  # fmt: skip
    settings = make_settings(
        own.invitation.name, keys, listen or own.invitation.address, rpc_address, peers
    )
    settings = change(settings) if change else settings
    comet = CometConfig(settings=settings, relay_patience_ms=place * RELAY_PATIENCE_MS)
    write_node_home(home, genesis, keys, passphrase, comet)
    return genesis


def show_peer(one: Invitation) -> str:
    """Return how CometBFT dials a founder's node."""
    return f"{one.node_id.hex()}@{one.address}"


def make_settings(
    name: str, keys: KeyStore, listen: str, rpc_address: str, peers: Sequence[str]
) -> CometSettings:
    """Return the settings of an organisation's CometBFT."""
    # CometBFT takes printable ASCII for a moniker, and nothing depends on it.
    moniker = "".join(letter for letter in name if letter.isascii() and letter.isprintable())
    return CometSettings(
        moniker=moniker.strip() or compute_node_id(keys.get_secret(NODE_KEY))[:8],
        proxy_app="",
        p2p_address=listen,
        rpc_address=rpc_address,
        persistent_peers=tuple(peers),
        create_empty_blocks_interval_ms=EMPTY_BLOCKS_MS,
    )


def write_node_home(
    home: Path, genesis: Genesis, keys: KeyStore, passphrase: str, comet: CometConfig
) -> None:
    """Write what a node of a network on CometBFT starts from; the genesis last.

    Raises: OperatorError if the home has a network already.
    """
    if (home / GENESIS).exists():
        raise OperatorError(f"{home}: expected a folder without a network, got one that has one")
    seed = None if comet.settings.priv_validator_address else keys.get_secret(CONSENSUS_KEY)
    write_home(
        home / "comet",
        comet.settings,
        make_engine_genesis(genesis),
        node_seed=keys.get_secret(NODE_KEY),
        validator_seed=seed,
    )
    create_home(home, genesis, keys, passphrase=passphrase, config=NodeConfig(comet=comet))
