"""The key tree: places and their numbers, what a node reaches, and what a leaked leaf doesn't."""

from __future__ import annotations

import copy
import hmac
import pickle
from collections.abc import Iterator
from hashlib import sha256, sha512

import pytest
from bip32 import BIP32, HARDENED_INDEX  # type: ignore[import-untyped]
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from hansa.core.keys import KeyLocked, SigningKey, verify_signature
from hansa.core.keytree import (
    FIRST_FREE,
    FUNCTIONS,
    LEVELS,
    PURPOSE,
    Branch,
    KeyNode,
    NotBelow,
    Place,
    Step,
    WrongPath,
    derive_encryption_key,
    locate_organisation,
    parse_place,
)

SEED = sha256(b"an organisation").digest()
ORDER = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
"""Of secp256k1's group (SEC 2, 2.4.1)."""


@pytest.fixture(scope="module")
def company() -> Branch:
    """An organisation's whole tree."""
    return Branch.from_seed(SEED, network=0, organisation=0)


# Places.

PLACES = [
    ("organisation", ()),
    ("sales", (2,)),
    ("sales/orders", (2, 8)),
    ("sales/orders/desk", (2, 8, 2)),
    ("sales/orders/desk-3", (2, 8, 2, 3)),
    ("customs/customs/machine-0", (5, 5, 3, 0)),
    ("1000/1001/2000-7", (1000, 1001, 2000, 7)),
    ("finance/payments/head-2147483647", (6, 10, 1, 2**31 - 1)),
]


@pytest.mark.parametrize(("text", "numbers"), PLACES, ids=[text for text, _ in PLACES])
def test_a_place_is_written_and_read(text: str, numbers: tuple[int, ...]) -> None:
    """One place has one name, and names lead to numbers that never change."""
    place = Place(tuple(Step(number) for number in numbers))
    assert place == parse_place(text)
    assert text == str(place)


def test_numbers_of_names_stay() -> None:
    """A table of names may grow; a number that was given is never given to another."""
    first = (
        *("management", "sales", "purchasing", "logistics", "customs", "finance", "labels"),
        *("orders", "shipments", "payments", "warehouse", "catalogue", "quality", "insurance"),
        *("personnel", "law", "audit", "computing"),
    )
    assert {name: number for number, name in enumerate(first, 1)}.items() <= FUNCTIONS.items()
    assert {"head": 1, "desk": 2, "machine": 3, "auditor": 4}.items() <= LEVELS.items()
    for table in (FUNCTIONS, LEVELS):
        assert len(table) == len(set(table.values()))
        assert max(table.values()) < FIRST_FREE


NO_PLACES = {
    "nothing": "",
    "a stranger's name": "carrier/sundby",
    "an unknown line": "sales/poetry",
    "a number that has a name": "2",
    "a number that is reserved": "999",
    "a number with a zero in front": "01000",
    "a number out of bounds": "2147483648",
    "digits of another script": "\u0661\u0660\u0660\u0660",
    "a negative number": "-1000",
    "capitals": "Sales",
    "a blank": "sales /orders",
    "a fourth part": "sales/orders/desk-3/1",
    "an empty part": "sales//desk",
    "a stroke at the end": "sales/",
    "a path of BIP-32": "m/2'/8'",
    "a step that isn't hardened": "sales/orders/desk-3h",
    "an unknown level": "sales/orders/chair-3",
    "a device without number": "sales/orders/desk-",
    "a device with a zero in front": "sales/orders/desk-03",
    "a device out of bounds": "sales/orders/desk-2147483648",
    "the whole with something below": "organisation/sales",
}


@pytest.mark.parametrize("name", NO_PLACES)
def test_other_names_are_no_places(name: str) -> None:
    """Whatever isn't a place's one name is refused and shown."""
    with pytest.raises(WrongPath, match="expected"):
        parse_place(NO_PLACES[name])


@given(st.lists(st.integers(FIRST_FREE, 2**31 - 1), max_size=4))
def test_free_numbers_come_back(numbers: list[int]) -> None:
    """Every place of free numbers has a name that leads to it."""
    place = Place(tuple(Step(number) for number in numbers))
    assert place == parse_place(str(place))


# Steps.


@pytest.mark.parametrize("number", [-1, 2**31, 2**32])
def test_a_step_is_hardened_once(number: int) -> None:
    """A number that is already hardened, or none, makes no step."""
    with pytest.raises(WrongPath, match=f"got {number}"):
        Step(number)


def test_a_plain_number_is_no_step(company: Branch) -> None:
    """The type checker refuses it (the ignore would be an error if it didn't), and so do we."""
    for plain in (0, HARDENED_INDEX, "0"):
        with pytest.raises(TypeError, match="expected a hardened Step, got"):
            company.node.derive(plain)  # type: ignore[arg-type]


def test_the_path_is_that_of_the_design(company: Branch) -> None:
    """Seven hardened steps of BIP-32, as any other program derives them from the seed."""
    place = parse_place("sales/orders/desk-3")
    path = company.show_path(place)
    assert f"m/{PURPOSE}'/0'/0'/2'/8'/2'/3'" == path
    other = BIP32.from_seed(SEED)
    assert other.get_privkey_from_path(path) == company.find(place).secret
    assert other.get_xpriv_from_path(path) == company.find(place).to_extended_key()


def test_networks_and_organisations_are_apart() -> None:
    """The same words give other keys for a trial network and for a second organisation."""
    keys = {
        (network, number): Branch.from_seed(SEED, network=network, organisation=number).node.public
        for network in (0, 1)
        for number in (0, 1)
    }
    assert 4 == len(set(keys.values()))
    root = KeyNode.from_seed(SEED)
    assert keys[1, 1] == root.descend(locate_organisation(1, 1)).public


# What a node reaches.


def test_a_node_derives_what_is_below(company: Branch) -> None:
    """Supervision: the department's node gives the same keys as the organisation's."""
    sales = company.cut(parse_place("sales"))
    for name in ("sales", "sales/orders", "sales/orders/desk-3", "sales/1000/machine-1"):
        assert company.find(parse_place(name)).secret == sales.find(parse_place(name)).secret
    read = KeyNode.from_extended_key(sales.node.to_extended_key())
    assert sales.node.derive(Step(8)).secret == read.derive(Step(8)).secret


ABOVE_OR_BESIDE = ["organisation", "finance", "sales/payments", "sales", "sales/orders/head-3"]


@pytest.mark.parametrize("name", ABOVE_OR_BESIDE)
def test_a_node_derives_nothing_else(company: Branch, name: str) -> None:
    """Neither above nor beside; the refusal names both places."""
    branch = company.cut(parse_place("sales/orders/desk"))
    for ask in (branch.find, branch.cut):
        with pytest.raises(NotBelow, match=f"below sales/orders/desk, got {name}"):
            ask(parse_place(name))


def test_keys_of_a_node_sign_and_decrypt(company: Branch) -> None:
    """The account's key is the node's own; the encryption key is another, made of it."""
    node = company.find(parse_place("labels"))
    digest = sha256(b"message").digest()
    assert verify_signature(node.public, node.make_signing_key().sign(digest), digest)
    mine, other = node.make_encryption_key(), X25519PrivateKey.generate()
    theirs = other.exchange(mine.private.public_key())
    assert theirs == mine.private.exchange(other.public_key())
    assert (3, 33) == (mine.public[0], len(mine.public))
    assert node.secret != mine.private.private_bytes_raw()


def test_the_encryption_key_is_hkdf_of_the_private_key() -> None:
    """RFC 5869, written out: extract without salt, one block of expand under the tag."""
    secret = sha256(b"secret").digest()
    extracted = hmac.digest(bytes(32), secret, "sha256")
    expanded = hmac.digest(extracted, b"hansa/encryption-key/x25519" + b"\x01", "sha256")
    key = derive_encryption_key(secret)
    assert expanded == key.private.private_bytes_raw()
    assert SigningKey(secret).public[1:] != key.public[1:]


# What a leak gives.


def climb(child: bytes, parent: bytes, chain_code: bytes, index: int) -> bytes:
    """The attack: what the parent's private key would be, if the step weren't hardened.

    `parent` is the compressed public key. A child's key is the parent's plus a number that for
    such a step is computed from public things alone; so the thief subtracts it.
    """
    number = hmac.digest(chain_code, parent + index.to_bytes(4, "big"), "sha512")[:32]
    return ((int.from_bytes(child) - int.from_bytes(number)) % ORDER).to_bytes(32)


def test_the_classic_mistake_gives_the_parent_away() -> None:
    """Without hardening: one desk's key and the extended public key above are the department's."""
    department = BIP32.from_seed(SEED).get_xpriv_from_path(f"m/{PURPOSE}'/0'/0'/2'")
    victim = BIP32.from_xpriv(department)
    leaked = victim.get_privkey_from_path([3])
    shown = BIP32.from_xpub(victim.get_xpub())
    stolen = climb(leaked, shown.pubkey, shown.chaincode, 3)
    assert victim.privkey == stolen
    thief = BIP32(shown.chaincode, stolen)
    for index in (0, 4, HARDENED_INDEX):
        # The whole department: the other desks, and what is hardened below it, too.
        assert victim.get_privkey_from_path([index]) == thief.get_privkey_from_path([index])


def walk(node: KeyNode, depth: int) -> Iterator[KeyNode]:
    """A node and all below it, two children each."""
    yield node
    for number in (0, 1) if depth else ():
        yield from walk(node.derive(Step(number)), depth - 1)


def test_a_leaf_gives_nothing_upwards_or_sideways(company: Branch) -> None:
    """The same attack on our tree, with every public key, and more than we ever publish.

    The thief has a leaf's private key, all public keys of the organisation (both points of each),
    even all chain codes, and tries every step: no key but the leaf's own comes of it.
    """
    nodes = list(walk(company.node, 4))
    assert 31 == len(nodes)
    leaf = nodes[-1]
    others = {node.secret for node in nodes} - {leaf.secret}
    indices = [*range(4), *(HARDENED_INDEX + number for number in range(4))]
    points = [
        (parity + node.public[1:], bytes(node._chain_code))
        for node in nodes
        for parity in (b"\x02", b"\x03")
    ]
    found = {
        climb(leaf.secret, point, chain_code, index)
        for point, chain_code in points
        for index in indices
    }
    assert 31 * 2 * 8 == len(found)
    assert set() == found & others
    # Downwards it does work, which is what supervision means: the leaf's parent has the leaf.
    parent = nodes[-3]
    assert leaf.secret == parent.derive(Step(1)).secret


def test_the_attack_finds_the_hardened_number_only_with_the_private_key(company: Branch) -> None:
    """What a hardened child adds is computed from the parent's private key: nothing to subtract."""
    child = company.node.derive(Step(1))
    secret, index = company.node.secret, HARDENED_INDEX + 1
    data = b"\x00" + secret + index.to_bytes(4, "big")
    number = hmac.new(bytes(company.node._chain_code), data, sha512).digest()[:32]
    expected = (int.from_bytes(secret) + int.from_bytes(number)) % ORDER
    assert expected.to_bytes(32) == child.secret


# What is shown.


def test_nothing_shows_a_secret(company: Branch) -> None:
    """Neither repr nor str; no pickle and no copy."""
    node = company.cut(parse_place("sales")).node
    shown = [*map(repr, (company, node, node.make_encryption_key())), f"{node}", f"{company}"]
    hidden = (node.secret, company.node.secret, bytes(node._chain_code))
    for secret in hidden:
        assert not any(secret.hex() in text or repr(secret)[2:-1] in text for text in shown)
    assert node.public.hex() in repr(node)
    for take in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="expected to stay in this process"):
            take(node)


def test_a_wiped_node_has_no_secrets(company: Branch) -> None:
    """Its buffers are overwritten; what is asked of it afterwards is refused."""
    node = company.cut(parse_place("sales")).node
    held = (node._secret, node._chain_code)
    node.wipe()
    assert (b"", b"") == tuple(map(bytes, held))
    for ask in (node.to_extended_key, node.make_signing_key, node.make_encryption_key):
        with pytest.raises(KeyLocked, match=node.public.hex()):
            ask()
    with pytest.raises(KeyLocked):
        node.derive(Step(0))
