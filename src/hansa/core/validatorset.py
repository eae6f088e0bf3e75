"""The validators that agree on a network's blocks, as its state holds them.

The set stands in the state of exactly one chain of a network. Governance alone changes it; the
engine takes over what a block has written, two blocks later as CometBFT does.
"""

from collections.abc import Sequence
from typing import Annotated, Final

from msgspec import Meta

from hansa.core.codec import Value
from hansa.core.keys import ED25519, PublicKey
from hansa.core.module import CORE_MODULE, Context
from hansa.core.state import Table

MAX_VALIDATORS: Final = 100

MAX_TOTAL_POWER: Final = (1 << 63) // 8 - 1
"""CometBFT's MaxTotalVotingPower: an eighth of what an int64 holds."""

Power = Annotated[int, Meta(ge=1, le=MAX_TOTAL_POWER)]


class Validator(Value):
    """A consensus key and its voting power."""

    key: PublicKey
    """Ed25519: scheme byte 0x02 and 32 bytes. It signs votes and nothing else."""
    power: Power


class VotingPower(Value):
    """The power of a key; a key without a record has none."""

    power: Power


VALIDATORS: Final = Table(CORE_MODULE, 4, VotingPower)
"""By consensus key."""


def set_power(ctx: Context, key: bytes, power: int) -> None:
    """Give a consensus key a power, or none with 0; governance alone calls this.

    A key must not get power and lose all of it within one block: the engine would be told to
    remove a validator that it never had, at which CometBFT stops for good.
    """
    assert key[0] == ED25519, f"consensus keys are Ed25519, got scheme {key[0]}"
    if power:
        VALIDATORS.put(ctx, key, VotingPower(power))
    elif VALIDATORS.get(ctx, key) is not None:
        VALIDATORS.delete(ctx, key)


def list_power_changes(
    writes: Sequence[tuple[bytes, bytes | None]],
) -> list[tuple[bytes, int]]:
    """Return (key, power) for what a block's sorted writes changed; power 0 for one removed."""
    return [
        (key[2:], 0 if value is None else VALIDATORS.decode(value).power)
        for key, value in writes
        if key.startswith(VALIDATORS.prefix)
    ]
