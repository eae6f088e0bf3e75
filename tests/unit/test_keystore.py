"""The key store: sealed and opened again, and opened for nobody else."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest

from hansa.core.errors import OperatorError
from hansa.core.keys import KeyLocked, SigningKey
from hansa.core.keystore import KeyStore, StoreLocked
from hansa.core.keytree import Branch, NotBelow, WrongPath, parse_place

SECRET = sha256(b"secret").digest()
SEED = sha256(b"seed").digest()


class Counter:
    """Random bytes that aren't."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, count: int) -> bytes:
        """So many bytes, other ones each time."""
        self.calls += 1
        return bytes([self.calls]) * count


def never() -> str:
    """A passphrase that must not be asked for."""
    raise AssertionError("expected no question for a passphrase")


def sealed() -> bytes:
    """A sealed store with one key, under the passphrase `open`."""
    store = KeyStore(seed=SEED, keys={"anna": SECRET}, is_sandbox=False)
    return store.seal("open", Counter())


@pytest.fixture(scope="module")
def file() -> bytes:
    """A sealed store, made once: deriving its key is slow on purpose."""
    return sealed()


def test_a_store_comes_back_with_its_passphrase(file: bytes) -> None:
    """Names and keys are the same again; the file shows none of the secrets."""
    store = KeyStore.unseal(file, lambda: "open")
    assert (["anna"], SECRET) == (store.names, store.get_secret("anna"))
    assert SigningKey(SECRET).public == store.get("anna").public
    for hidden in (SECRET.hex(), SEED.hex(), "anna"):
        assert hidden not in file.decode()
        assert hidden not in repr(store)


def test_another_passphrase_opens_nothing(file: bytes) -> None:
    """The answer tells nothing but that it was the wrong one."""
    with pytest.raises(OperatorError, match="expected its passphrase, got another"):
        KeyStore.unseal(file, lambda: "opem")


def change(**changes: Any) -> Callable[[dict[str, Any]], None]:
    """Set fields of the file."""
    return lambda document: document.update(changes)


def flip(field: str) -> Callable[[dict[str, Any]], None]:
    """Change one digit of a field."""
    return lambda document: document.update(
        {field: ("1" if document[field][0] == "0" else "0") + document[field][1:]}
    )


DAMAGE: dict[str, Callable[[dict[str, Any]], None]] = {
    "another version": change(version=2),
    "another key derivation": change(kdf="none"),
    "another cipher": change(cipher="none"),
    "said to be a sandbox": change(is_sandbox=True),
    "said to be a sandbox without cipher": change(is_sandbox=True, cipher="none"),
    "fewer passes": change(opslimit=1),
    "no memory": change(memlimit=0),
    "another salt": flip("salt"),
    "changed content": flip("sealed"),
    "more memory than anybody has": change(memlimit=2**40),
    "more passes than anybody waits for": change(opslimit=2**20),
    "no content": change(sealed=""),
    "no hexadecimal": change(sealed="xy"),
    "an unknown field": change(more=1),
    "a missing field": lambda document: document.pop("salt"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_changed_file_is_refused(file: bytes, name: str) -> None:
    """Whatever is changed, the store doesn't open, and the reason quotes no content."""
    document = json.loads(file)
    DAMAGE[name](document)
    with pytest.raises(OperatorError, match="key store: ") as caught:
        KeyStore.unseal(json.dumps(document).encode(), lambda: "open")
    assert SECRET.hex() not in str(caught.value)


def test_bytes_that_are_no_store_are_refused() -> None:
    """Nothing, text and half a file."""
    for data in (b"", b"keys", sandbox()[:-20]):
        with pytest.raises(OperatorError, match="not readable"):
            KeyStore.unseal(data, never)


def sandbox() -> bytes:
    """A sandbox's file."""
    store = KeyStore(seed=SEED, keys={"anna": SECRET}, is_sandbox=True)
    return store.seal(None, Counter())


def test_a_sandbox_has_a_key_for_every_name() -> None:
    """It asks for no passphrase, derives what it hasn't stored, always the same."""
    store = KeyStore.unseal(sandbox(), never)
    assert SECRET == store.get_secret("anna")
    assert store.get_secret("bert") == KeyStore.unseal(sandbox(), never).get_secret("bert")
    assert store.get_secret("bert") != store.get_secret("carl")


def test_another_store_has_the_keys_it_has() -> None:
    """An unknown name is answered with those that are known."""
    store = KeyStore(seed=SEED, keys={"anna": SECRET}, is_sandbox=False)
    with pytest.raises(OperatorError, match=r"\(anna\), got 'bert'"):
        store.get("bert")
    store.add("bert", SEED)
    assert ["anna", "bert"] == store.names
    with pytest.raises(OperatorError, match="'bert' which is taken"):
        store.add("bert", SEED)


@pytest.mark.parametrize(("is_sandbox", "passphrase"), [(True, "open"), (False, None)])
def test_a_passphrase_is_for_stores_that_are_no_sandbox(
    is_sandbox: bool, passphrase: str | None
) -> None:
    """One too many and one too few are refused before anything is written."""
    store = KeyStore(seed=SEED, keys={}, is_sandbox=is_sandbox)
    with pytest.raises(OperatorError, match="except in a sandbox"):
        store.seal(passphrase, Counter())


# A node of a key tree in the store.


@pytest.fixture(scope="module")
def company() -> Branch:
    """The whole tree of an organisation."""
    return Branch.from_seed(SEED, network=0, organisation=0)


@pytest.fixture(scope="module")
def planted(company: Branch) -> bytes:
    """A sealed store with a department's node and a key by name, under the passphrase `open`."""
    store = KeyStore(seed=b"", keys={"anna": SECRET}, is_sandbox=False)
    store.plant(company.cut(parse_place("sales")))
    return store.seal("open", Counter())


DESK = "sales/orders/desk-3"


def test_a_store_answers_for_every_place_below(planted: bytes, company: Branch) -> None:
    """By the names of places, from the node alone, beside its keys by name."""
    store = KeyStore.unseal(planted, lambda: "open")
    for name in ("sales", "sales/orders", DESK, "sales/1000/machine-7"):
        node = company.find(parse_place(name))
        assert node.secret == store.get_secret(name)
        assert node.public == store.get(name).public
        assert node.make_encryption_key().public == store.get_encryption_key(name).public
        assert parse_place(name) == store.locate(name)
    assert (SECRET, None, ["anna"]) == (store.get_secret("anna"), store.locate("anna"), store.names)
    there = ["anna", "sales", DESK, "bert", "finance", "organisation"]
    assert [True, True, True, False, False, False] == [store.holds(name) for name in there]


def test_a_store_answers_for_nothing_else(planted: bytes) -> None:
    """Places above and beside, and names that are neither, are refused with what there is."""
    store = KeyStore.unseal(planted, lambda: "open")
    for name in ("organisation", "finance", "finance/orders/desk-3"):
        for ask in (store.get, store.get_secret, store.get_encryption_key, store.locate):
            with pytest.raises(NotBelow, match=f"below sales, got {name}"):
                ask(name)
    with pytest.raises(WrongPath, match=r"\(anna\) or a place at or below sales; .* got 'bert'"):
        store.get("bert")


def test_a_store_has_one_tree(company: Branch, planted: bytes) -> None:
    """No second one, none in a sandbox's plain file, no name that hides a place."""
    with pytest.raises(OperatorError, match="without a key tree, got one with sales"):
        KeyStore.unseal(planted, lambda: "open").plant(company)
    with pytest.raises(OperatorError, match="got a sandbox's"):
        KeyStore(seed=SEED, keys={}, is_sandbox=True).plant(company)
    with pytest.raises(OperatorError, match=r"got \['sales'\]"):
        KeyStore(seed=b"", keys={"sales": SECRET}, is_sandbox=False).plant(company)
    with pytest.raises(OperatorError, match="'sales/orders' which is a place"):
        KeyStore.unseal(planted, lambda: "open").add("sales/orders", SECRET)


def test_a_file_with_a_tree_shows_nothing_of_it(planted: bytes, company: Branch) -> None:
    """Neither its place nor its keys."""
    node = company.find(parse_place("sales"))
    for hidden in ("sales", node.secret.hex(), node.to_extended_key(), node.public.hex()):
        assert hidden not in planted.decode()
        assert hidden.encode().hex() not in planted.decode()


# Locking.


class Watch:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now_ms = 1_000

    def __call__(self) -> int:
        """Milliseconds."""
        return self.now_ms


def open_watched(planted: bytes, idle_ms: int = 60_000) -> tuple[KeyStore, Watch]:
    """An open store that locks after a minute."""
    store, watch = KeyStore.unseal(planted, lambda: "open"), Watch()
    store.lock_after(idle_ms, watch)
    return store, watch


def test_an_idle_store_locks(planted: bytes) -> None:
    """After the time without use, no earlier; each use begins the time anew."""
    store, watch = open_watched(planted)
    for _ in range(3):
        watch.now_ms += 59_999
        store.get("anna")
    watch.now_ms += 60_000
    for ask in (store.get, store.get_secret, store.get_encryption_key, store.locate):
        with pytest.raises(StoreLocked, match="got a locked one"):
            ask("anna")
    for change_it in (
        lambda: store.seal("open", Counter()),
        lambda: store.add("bert", SEED),
        lambda: store.branch,
    ):
        with pytest.raises(StoreLocked):
            change_it()
    assert (True, ["anna"]) == (store.is_locked, store.names)


def test_a_timer_locks_a_store_that_nobody_asks(planted: bytes) -> None:
    """The secrets go on time, not with the next question; asking the timer is no use."""
    store, watch = open_watched(planted)
    watch.now_ms += 59_999
    assert not store.lock_if_idle()
    watch.now_ms += 1
    assert store.lock_if_idle()
    assert store.is_locked


def test_locking_takes_everything_back(planted: bytes) -> None:
    """The buffers are overwritten, and keys handed out before sign and decrypt no more."""
    store, _ = open_watched(planted)
    signing, encryption = store.get(DESK), store.get_encryption_key(DESK)
    assert store._branch is not None
    held = [store._secrets["anna"], store._branch.node._secret, store._branch.node._chain_code]
    assert all(any(buffer) for buffer in held)
    store.lock()
    assert [b"", b"", b""] == [bytes(buffer) for buffer in held]
    for use in (lambda: signing.sign(SEED), lambda: signing.secret, lambda: encryption.private):
        with pytest.raises(KeyLocked, match="expected an open key store, got a locked one"):
            use()
    assert signing.public.hex() in repr(signing)


def test_only_the_passphrase_opens_a_locked_store(planted: bytes) -> None:
    """A wrong one leaves it locked; the right one brings everything back."""
    store, watch = open_watched(planted)
    before = store.get(DESK).public
    store.lock()
    with pytest.raises(OperatorError, match="expected its passphrase, got another"):
        store.unlock("opem")
    with pytest.raises(StoreLocked):
        store.get("anna")
    watch.now_ms += 10**9
    store.unlock("open")
    assert (before, SECRET) == (store.get(DESK).public, store.get_secret("anna"))
    store.unlock("whatever: it is open")


def test_what_is_in_no_file_is_not_locked_away(planted: bytes) -> None:
    """A change that isn't sealed yet would be lost; sealed, it comes back with the rest."""
    store, watch = open_watched(planted)
    store.add("bert", SEED)
    watch.now_ms += 60_000
    assert not store.lock_if_idle()
    with pytest.raises(OperatorError, match="sealed since its last change"):
        store.lock()
    store.seal("another", Counter())
    store.lock()
    store.unlock("another")
    assert SEED == store.get_secret("bert")


def test_a_sandbox_is_never_locked() -> None:
    """It has no passphrase to come back with."""
    store = KeyStore.unseal(sandbox(), never)
    with pytest.raises(OperatorError, match="with a passphrase, got a sandbox's"):
        store.lock_after(1, Watch())
    with pytest.raises(OperatorError, match="with a passphrase, got a sandbox's"):
        store.lock()


def test_nothing_shows_a_secret(planted: bytes, company: Branch) -> None:
    """Neither what the store and its keys say of themselves, nor any refusal."""
    store = KeyStore.unseal(planted, lambda: "open")
    said = [repr(store), str(store), repr(store.get(DESK)), repr(store.get_encryption_key(DESK))]
    for name in ("finance", "bert", "", SECRET.hex()[:10]):
        with pytest.raises(OperatorError) as caught:
            store.get(name)
        said.append(repr(caught.value))
    store.lock()
    said.append(repr(store))
    node = company.find(parse_place("sales"))
    for hidden in (SECRET, node.secret, company.node.secret):
        assert not any(hidden.hex() in one for one in said)
    assert not any(node.to_extended_key() in one for one in said)
