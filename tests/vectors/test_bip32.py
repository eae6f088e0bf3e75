"""BIP-32's vectors: every chain, hardened or not, and the keys that must be refused.

Our nodes take hardened steps alone; the library beneath them is judged on the others, too.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from bip32 import BIP32  # type: ignore[import-untyped]

from hansa.core.keytree import KeyNode, NoExtendedKey, Step


@pytest.fixture(scope="module")
def file(vectors: Path) -> dict[str, Any]:
    """The vectors."""
    read: dict[str, Any] = json.loads((vectors / "bip" / "bip32_vectors.json").read_text())
    assert (4, 14) == (len(read["valid"]), len(read["invalid"]))
    return read


def test_hardened_chains_are_the_specification_s(file: dict[str, Any]) -> None:
    """From each vector's seed or last node before, step by step, leading zeros retained."""
    compared = 0
    for vector in file["valid"]:
        nodes = {"m": KeyNode.from_seed(bytes.fromhex(vector["seed"]))}
        for chain in vector["chains"]:
            above, _, last = chain["path"].rpartition("/")
            if last.endswith("'"):
                step = Step(int(last.removesuffix("'")))
                nodes[chain["path"]] = nodes[above].derive(step)
                compared += 1
            elif above:
                # A step we don't have: the next hardened one starts from the vector's own node.
                nodes[chain["path"]] = KeyNode.from_extended_key(chain["xprv"])
            node = nodes[chain["path"]]
            assert chain["xprv"] == node.to_extended_key()
            public = BIP32.from_xpub(chain["xpub"]).pubkey
            assert public[1:] == node.public[1:]
    assert 7 == compared


def test_all_chains_are_the_library_s(file: dict[str, Any]) -> None:
    """Each path from its seed; and public children from public parents alone."""
    for vector in file["valid"]:
        root = BIP32.from_seed(bytes.fromhex(vector["seed"]))
        for chain in vector["chains"]:
            assert chain["xprv"] == root.get_xpriv_from_path(chain["path"])
            assert chain["xpub"] == root.get_xpub_from_path(chain["path"])
        for above, below in zip(vector["chains"], vector["chains"][1:], strict=False):
            index = re.fullmatch(r".*/(\d+)", below["path"])
            if index is not None:
                child = BIP32.from_xpub(above["xpub"]).get_xpub_from_path([int(index[1])])
                assert below["xpub"] == child


def test_invalid_keys_are_refused(file: dict[str, Any]) -> None:
    """By our nodes, whichever half they claim to be; by the library, each as what it claims."""
    for row in file["invalid"]:
        with pytest.raises(NoExtendedKey) as caught:
            KeyNode.from_extended_key(row["key"])
        assert row["key"] not in str(caught.value), row["why"]
        assert caught.value.__cause__ is None
        read = BIP32.from_xpub if row["key"].startswith("xpub") else BIP32.from_xpriv
        with pytest.raises(ValueError):  # noqa: PT011 - the library has several, all of them these
            read(row["key"])


def test_a_public_version_before_a_private_key_is_refused(file: dict[str, Any]) -> None:
    """The library alone would take it for a private node; ours doesn't."""
    mixed = next(row["key"] for row in file["invalid"] if row["why"].startswith("pubkey version"))
    assert BIP32.from_xpriv(mixed).privkey is not None
    with pytest.raises(NoExtendedKey):
        KeyNode.from_extended_key(mixed)


OTHER_TEXTS = ["", "xprv", "xprv" + "1" * 107, "xprv" + "0" * 107, "tprv" + "9" * 107, "x" * 111]


@pytest.mark.parametrize("text", OTHER_TEXTS)
def test_other_texts_are_refused(text: str) -> None:
    """Too short, another network's, characters that Base58 hasn't."""
    with pytest.raises(NoExtendedKey):
        KeyNode.from_extended_key(text)


@pytest.mark.parametrize("size", [0, 15, 65])
def test_other_sizes_of_seed_are_refused(size: int) -> None:
    """BIP-32 has 128 to 512 bits."""
    with pytest.raises(ValueError, match=f"16 to 64 bytes, got {size}"):
        KeyNode.from_seed(bytes(size))
