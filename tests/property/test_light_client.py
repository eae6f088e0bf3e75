"""What holds of every light block: no bit can be changed unseen, and only enough power believes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.comet_world import CHAIN_ID, fetch_from, make_block, make_history, make_set, make_trust

from hansa.core.codec import encode
from hansa.core.errors import Malformed
from hansa.core.lightblock import decode_light_block, validators_hash
from hansa.core.lightclient import (
    LightClientError,
    NotEnoughPower,
    NotEnoughTrust,
    bisect,
    follow,
    follow_all,
    trim_commit,
    verify_commit,
)
from hansa.core.validatorset import Validator

POWERS = st.lists(st.integers(1, 50), min_size=1, max_size=7)
FOUR = make_set(10, 10, 10, 10)
NEIGHBOUR = make_block(1, FOUR, make_set(7, 5, 3, first=20))
LATER = make_block(9, make_set(10, 10, 10, 4), round_=3)
ENCODED = [encode(trim_commit(make_trust(FOUR), block, CHAIN_ID)) for block in (NEIGHBOUR, LATER)]


@given(st.sampled_from(ENCODED), st.data())
def test_no_bit_of_a_trimmed_block_can_be_changed(encoded: bytes, data: st.DataObject) -> None:
    """As it stands it is believed; with any bit flipped it is refused or cannot be read."""
    bit = data.draw(st.integers(0, len(encoded) * 8 - 1))
    damaged = bytearray(encoded)
    damaged[bit // 8] ^= 1 << bit % 8
    trusted = make_trust(FOUR)
    follow(
        trusted,
        decode_light_block(encoded),
        CHAIN_ID,
        now_ms=None,
        max_clock_drift_ms=0,
        exact=True,
    )
    with pytest.raises((Malformed, LightClientError)):
        follow(
            trusted,
            decode_light_block(bytes(damaged)),
            CHAIN_ID,
            now_ms=None,
            max_clock_drift_ms=0,
            exact=True,
        )


@given(POWERS, st.data())
def test_a_block_is_committed_by_more_than_two_thirds(
    powers: list[int], data: st.DataObject
) -> None:
    """Whoever is absent, the sum of the others decides, and trimming doesn't change that."""
    validators = make_set(*powers)
    absent = data.draw(st.sets(st.integers(0, len(powers) - 1)))
    signed = sum(item.power for place, item in enumerate(validators) if place not in absent)
    block = make_block(1, validators, absent=absent)
    trimmed = trim_commit(make_trust(validators), block, CHAIN_ID)
    for judged in (block, trimmed):
        if signed * 3 > sum(powers) * 2:
            verify_commit(judged, CHAIN_ID, exact=True)
        else:
            with pytest.raises(NotEnoughPower):
                verify_commit(judged, CHAIN_ID)


@given(POWERS, st.data())
def test_a_later_block_is_believed_by_more_than_a_third(
    powers: list[int], data: st.DataObject
) -> None:
    """Those of the trusted set who are still there and signed decide, by their trusted power."""
    trusted_set = make_set(*powers)
    stay = data.draw(st.sets(st.sampled_from(trusted_set)))
    strong = make_set(1_000_000, first=300)  # Commits the block alone.
    own = (*strong, *(Validator(item.key, 1) for item in trusted_set if item in stay))
    block = make_block(5, own)
    trusted = make_trust(trusted_set)
    kept = sum(item.power for item in stay)
    if kept * 3 > sum(powers):
        trimmed = trim_commit(trusted, block, CHAIN_ID)
        after = follow(trusted, trimmed, CHAIN_ID, now_ms=None, max_clock_drift_ms=0, exact=True)
        assert 5 == after.height
    else:
        with pytest.raises(NotEnoughTrust):
            follow(trusted, block, CHAIN_ID, now_ms=None, max_clock_drift_ms=0)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=24))
def test_bisection_always_reaches_the_end(shifts: list[int]) -> None:
    """However the set moves from block to block, the hops lead to the last and hold exactly."""
    firsts = [sum(shifts[:count]) for count in range(len(shifts))]
    sets = [make_set(10, 9, 8, 7, first=first) for first in firsts]
    trusted = make_trust(sets[0])
    hops = bisect(
        trusted,
        len(sets),
        fetch_from(make_history(sets), []),
        CHAIN_ID,
        now_ms=None,
        max_clock_drift_ms=0,
    )
    after = follow_all(trusted, hops, CHAIN_ID, now_ms=None, max_clock_drift_ms=0, exact=True)
    assert len(sets) == after.height
    assert validators_hash(sets[-1]) == validators_hash(after.validators)
