"""Checks that the calls of a run are among those that CometBFT's specification allows.

Source: spec/abci/abci++_comet_expected_behavior.md of CometBFT 0.38 to 0.40. The grammar describes
runs without end; a run that was stopped is the beginning of one. Calls that the grammar leaves out
(CheckTx, Query, Echo, ...) may be given, and so may the Info that an RPC client causes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_HEIGHT: Final = {
    # Since a round may lack any of its parts, every order of these is some sequence of rounds.
    "prepare_proposal": "height",
    "process_proposal": "height",
    "extend_vote": "height",
    "verify_vote_extension": "height",
    "finalize_block": "finalized",
}

_STEPS: Final[dict[str, dict[str, str]]] = {
    "clean start": {"info": "app-handshake", "offer_snapshot": "offered"},
    "app-handshake": {"init_chain": "height"},
    "recovery": {"info": "recovered"},
    "recovered": {"init_chain": "height"} | _HEIGHT,
    "offered": {"apply_snapshot_chunk": "applied", "offer_snapshot": "offered"},
    "applied": {
        "apply_snapshot_chunk": "applied",
        "offer_snapshot": "offered",
        "info": "height",
    },
    "height": _HEIGHT,
    "finalized": {"commit": "height"},
}
"""By place in the grammar: the calls that may follow, and the place each leads to."""

TERMINALS: Final = frozenset(call for steps in _STEPS.values() for call in steps)
"""What the grammar speaks of."""

_HANDSHAKEN: Final = frozenset({"recovered", "height", "finalized"})


class GrammarBroken(AssertionError):
    """A call that the engine may not make there."""

    def __init__(self, position: int, place: str, got: str) -> None:
        """Say the call's position in the run, what was allowed and what came."""
        expected = ", ".join(sorted(_STEPS[place]))
        super().__init__(f"call {position} ({place}): expected one of {expected}; got {got}")
        self.position = position
        self.expected = frozenset(_STEPS[place])
        self.got = got


class HeightBroken(AssertionError):
    """A call of another height than the one being decided."""

    def __init__(self, position: int, method: str, expected: int, got: int) -> None:
        """Say the call's position in the run, and both heights."""
        super().__init__(f"call {position} ({method}): expected height {expected}, got {got}")
        self.position = position


@dataclass(frozen=True)
class Call:
    """One call of a run, with what it says of heights."""

    method: str
    height: int = 0
    """Of the request; of Info, the height that was answered; 0 where there is none."""


def check_grammar(methods: Sequence[str], *, is_clean_start: bool) -> None:
    """Follow the calls of one run of the engine, from its start.

    Raises: GrammarBroken.
    """
    place = "clean start" if is_clean_start else "recovery"
    for position, method in enumerate(methods):
        if method not in TERMINALS or (method == "info" and place in _HANDSHAKEN):
            continue
        if method not in _STEPS[place]:
            raise GrammarBroken(position, place, method)
        place = _STEPS[place][method]


def check_heights(calls: Sequence[Call]) -> None:
    """Follow the heights of one run: none is skipped or repeated, none is worked on early.

    The first height is the one after what the first Info answered, or after what the last one
    answered where a snapshot was applied.

    Raises: HeightBroken.
    """
    deciding: int | None = None
    for position, call in enumerate(calls):
        if call.method == "apply_snapshot_chunk":
            deciding = None
        elif call.method == "info" and deciding is None:
            deciding = call.height + 1
        elif call.method == "init_chain" and deciding != 1:
            raise HeightBroken(position, call.method, 1, deciding or 0)
        elif call.method in _HEIGHT and call.height != deciding:
            raise HeightBroken(position, call.method, deciding or 0, call.height)
        elif call.method == "commit":
            assert deciding is not None
            deciding += 1
