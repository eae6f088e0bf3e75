"""All figures, or some of them, one after the other."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from hansa.core.errors import OperatorError
from hansa.interface.bench.consensus import measure_consensus
from hansa.interface.bench.large_state import measure_restart, measure_state_size
from hansa.interface.bench.order_lives import measure_lives, measure_packets
from hansa.interface.bench.peer import PeerFailed, measure_peer
from hansa.interface.bench.proof_files import measure_verification
from hansa.interface.bench.scratch import Progress
from hansa.interface.bench.transfers import measure_transfers

Figure = dict[str, Any]

FIGURES: Final = ("P1", "P2", "P3", "P5", "P6", "P7", "P8", "P9")


def run(
    only: Sequence[str] | None = None,
    is_quick: bool = False,
    on_progress: Progress | None = None,
) -> dict[str, Figure]:
    """Measure; ``only`` names figures, ``is_quick`` ends within five minutes.

    P2 and P7 are judged against P1 of the same run, so P1 is taken along with them.
    Raises: OperatorError for a figure that doesn't exist.
    """
    wanted = list(FIGURES if only is None else only)
    for name in wanted:
        if name not in FIGURES:
            raise OperatorError(f"only: expected some of {', '.join(FIGURES)}, got {name!r}")
    progress = on_progress or (lambda _what, _done, _total: None)
    taken: dict[str, Figure] = {}
    for name in FIGURES:
        is_basis = name == "P1" and any(other in wanted for other in ("P2", "P7"))
        if name in wanted or is_basis:
            taken[name] = _MEASURES[name](is_quick, progress, taken)
    return taken


def _measure_peer(is_quick: bool, progress: Progress, taken: dict[str, Figure]) -> Figure:
    """P7: our transfers a second over a peer's, both in this run."""
    try:
        theirs = measure_peer(is_quick, progress)
    except PeerFailed as failure:
        theirs = {"failed": str(failure)}
    ours = taken["P1"]["value"]
    single = theirs.get("single_tx_s")
    return {
        "value": None if single is None else round(ours / single, 2),
        "unit": "times",
        "limit": 1,
        "limit_is": "the peer: anvil's ERC-20 transfers, single, in this run",
        "conditions": {"ours_tx_s": ours, **theirs},
    }


_MEASURES: Final[dict[str, Callable[[bool, Progress, dict[str, Figure]], Figure]]] = {
    "P1": lambda quick, progress, _: measure_transfers(quick, progress),
    "P2": lambda quick, progress, taken: measure_lives(quick, progress, taken["P1"]["value"]),
    "P3": lambda quick, progress, _: measure_consensus(quick, progress),
    "P5": lambda quick, progress, _: measure_packets(quick, progress),
    "P6": lambda quick, progress, _: measure_verification(quick, progress),
    "P7": _measure_peer,
    "P8": lambda quick, progress, _: measure_state_size(quick, progress),
    "P9": lambda quick, progress, _: measure_restart(quick, progress),
}
