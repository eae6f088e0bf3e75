"""Inclusion and consistency proofs that others wrote, right ones and wrong ones."""

import json
from base64 import b64decode
from pathlib import Path
from typing import Any

from hansa.core.merkle import ProofError, verify_consistency, verify_inclusion

INCLUSION_CASES = 55
CONSISTENCY_CASES = 52


def read_cases(folder: Path) -> dict[str, dict[str, Any]]:
    """All cases below a folder, by path."""
    return {
        str(file.relative_to(folder)): json.loads(file.read_bytes())
        for file in sorted(folder.rglob("*.json"))
    }


def decode_path(case: dict[str, Any]) -> list[bytes]:
    """The proof of a case, which some leave out or set to null."""
    return [b64decode(node) for node in case.get("proof") or []]


def accepts_inclusion(case: dict[str, Any]) -> bool:
    """Whether our verifier takes the inclusion proof."""
    try:
        verify_inclusion(
            b64decode(case["leafHash"]),
            case["leafIdx"],
            case["treeSize"],
            decode_path(case),
            b64decode(case["root"]),
        )
    except ProofError:
        return False
    return True


def accepts_consistency(case: dict[str, Any]) -> bool:
    """Whether our verifier takes the consistency proof."""
    try:
        verify_consistency(
            case["size1"],
            b64decode(case["root1"]),
            case["size2"],
            b64decode(case["root2"]),
            decode_path(case),
        )
    except ProofError:
        return False
    return True


def test_inclusion_agrees_with_every_case(vectors: Path) -> None:
    """Each inclusion proof is accepted or refused as its author says."""
    cases = read_cases(vectors / "merkle" / "inclusion")
    assert INCLUSION_CASES <= len(cases)
    expected = {name: not case["wantErr"] for name, case in cases.items()}
    assert expected == {name: accepts_inclusion(case) for name, case in cases.items()}


def test_consistency_agrees_with_every_case(vectors: Path) -> None:
    """Each consistency proof is accepted or refused as its author says."""
    cases = read_cases(vectors / "merkle" / "consistency")
    assert CONSISTENCY_CASES <= len(cases)
    expected = {name: not case["wantErr"] for name, case in cases.items()}
    assert expected == {name: accepts_consistency(case) for name, case in cases.items()}
