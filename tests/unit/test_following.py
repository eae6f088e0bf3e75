"""Following a network over several nodes: what is believed, and who is caught."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from tests import comet_world
from tests.comet_world import SECOND_NS, START_NS, make_block, make_history, make_set, make_trust

from hansa.core.errors import OperatorError
from hansa.core.finality import TrustedNetwork
from hansa.core.genesis import consensus_chain_id
from hansa.core.lightblock import LightBlock, sort_validators
from hansa.core.lightclient import LightClientError, TrustExpired
from hansa.interface.following import Fetch, TwoStories, follow_network

NETWORK = b"\x01" + b"\x5a" * 32
SET = make_set(10, 10, 10, 10)
NEXT = make_set(10, 10, 10, 10, first=4)
CHECKPOINT_KEY = b"\x02" + bytes(32)
LENGTH = 9
NOW_MS = START_NS // 1_000_000 + 60_000


@pytest.fixture(autouse=True)
def chain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the blocks signed for the network that is followed."""
    monkeypatch.setattr(comet_world, "CHAIN_ID", consensus_chain_id(NETWORK))


def trust() -> TrustedNetwork:
    """Trust in the genesis."""
    return TrustedNetwork(NETWORK, (CHECKPOINT_KEY,), make_trust(SET))


def serve(blocks: Sequence[LightBlock]) -> Fetch:
    """A node that has these blocks."""

    def fetch(height: int | None) -> LightBlock:
        if height is not None and not 1 <= height <= len(blocks):
            raise OperatorError(f"light block {height}: expected one of {len(blocks)}")
        return blocks[-1 if height is None else height - 1]

    return fetch


def history() -> list[LightBlock]:
    """Nine blocks over which the validators are replaced, one after another."""
    members = [*SET, *NEXT]
    sets = [sort_validators(members[place : place + 4]) for place in range(5)]
    return make_history([*sets, *[sets[-1]] * (LENGTH - len(sets))])


def fork_of(blocks: Sequence[LightBlock]) -> list[LightBlock]:
    """The same history but for its last block, which the same validators have signed too."""
    last = blocks[-1]
    other = make_block(
        last.height, last.validators, app_hash=b"\x07" * 32, time_ns=last.header.time_ns + SECOND_NS
    )
    return [*blocks[:-1], other]


def test_trust_is_brought_to_now_though_all_validators_changed() -> None:
    """The new trust names the validators of now; the witness agrees, a silent one is told of."""
    blocks = history()
    witnesses = {"honest": serve(blocks), "behind": serve(blocks[:4])}
    followed = follow_network(trust(), serve(blocks), witnesses, NOW_MS)
    assert followed.trusted.consensus is not None
    assert blocks[-1].validators == followed.trusted.consensus.validators
    assert (LENGTH, ("honest",), ("behind",)) == (
        followed.height,
        followed.agreeing,
        followed.silent,
    )
    assert followed.hops > 1
    again = follow_network(followed.trusted, serve(blocks), witnesses, NOW_MS)
    assert (followed.trusted, 0) == (again.trusted, again.hops)


def test_two_signed_stories_end_it() -> None:
    """A witness whose other block is signed as well shows that validators have cheated."""
    blocks = history()
    with pytest.raises(TwoStories, match=f"block {LENGTH}") as caught:
        follow_network(trust(), serve(blocks), {"other": serve(fork_of(blocks))}, NOW_MS)
    assert 3 == len(caught.value.divergence.double_signers)


def test_a_witness_that_merely_lies_is_passed_over() -> None:
    """What strangers have signed is no second story; another witness confirms the first."""
    blocks = history()
    stranger = make_set(10, 10, 10, 10, first=20)
    lie = [*blocks[:-1], make_block(LENGTH, stranger, app_hash=b"\x09" * 32)]
    witnesses = {"liar": serve(lie), "honest": serve(blocks)}
    followed = follow_network(trust(), serve(blocks), witnesses, NOW_MS)
    assert ("honest",) == followed.agreeing


def solo() -> TrustedNetwork:
    """Trust in a network of one node."""
    return TrustedNetwork(NETWORK, (CHECKPOINT_KEY,), None)


Case = tuple[str, Callable[[], TrustedNetwork], Callable[[], Fetch], int, type[Exception]]

REFUSALS: list[Case] = [
    ("a network of one node", solo, lambda: serve(history()), NOW_MS, OperatorError),
    (
        "strangers' blocks",
        trust,
        lambda: serve(make_history([make_set(10, first=30)] * 3)),
        NOW_MS,
        LightClientError,
    ),
    (
        "trust that has expired",
        trust,
        lambda: serve(history()),
        NOW_MS + 22 * 24 * 3_600_000,
        TrustExpired,
    ),
]


@pytest.mark.parametrize(
    ("trusted", "primary", "now_ms", "error"),
    [case[1:] for case in REFUSALS],
    ids=[case[0] for case in REFUSALS],
)
def test_what_is_not_believed(
    trusted: Callable[[], TrustedNetwork],
    primary: Callable[[], Fetch],
    now_ms: int,
    error: type[Exception],
) -> None:
    """No trust comes out of what isn't signed by who is trusted, or was too long ago."""
    with pytest.raises(error):
        follow_network(trusted(), primary(), {}, now_ms)


def test_without_a_witness_that_confirms_nothing_is_written() -> None:
    """Witnesses that were named and don't answer leave the question open."""
    blocks = history()
    with pytest.raises(OperatorError, match="witnesses: expected"):
        follow_network(trust(), serve(blocks), {"behind": serve(blocks[:2])}, NOW_MS)
