"""Many orders of careless parties over a faulty relay, between crashes: the books hold."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from tests.simulation.simulator import Simulator, end_of

from hansa.node.fsck import check_home

RUNS = 2
SOAK_RUNS = 200
STEPS = 300
SOAK_STEPS = 2_000
FAULT_RATE = 0.5


@pytest.mark.timeout(0)
@pytest.mark.slow
def test_market_of_careless_parties(tmp_path: Path, soak: bool, seed: int) -> None:
    """Whatever the relay, the clock and the parties do, all ends well once the faults stop."""
    done: Counter[str] = Counter()
    for number in range(SOAK_RUNS if soak else RUNS):
        run_seed = seed + number
        print(f"HANSA_SEED={seed}, run {number}")
        simulator = Simulator(tmp_path / str(number), run_seed)
        simulator.fault_rate = FAULT_RATE
        for _ in range(SOAK_STEPS if soak else STEPS):
            simulator.step()
            simulator.check()
        simulator.wait_out(end_of(simulator))
        simulator.check_ended()
        simulator.node.stop()
        assert check_home(tmp_path / str(number)).findings == []
        done += simulator.done
        print(f"{len(simulator.deals)} orders, {simulator.crashes} crashes, {simulator.done}")
    assert done.total() > 0, "the relay did nothing wrong"
