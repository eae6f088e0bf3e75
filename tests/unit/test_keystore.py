"""The key store: sealed and opened again, and opened for nobody else."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest

from hansa.core.errors import OperatorError
from hansa.core.keys import SigningKey
from hansa.core.keystore import KeyStore

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
