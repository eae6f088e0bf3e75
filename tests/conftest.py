"""What every test may ask for, and what a run has to say of itself."""

from __future__ import annotations

import os
import random
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

REPOSITORY = Path(__file__).resolve().parent.parent
SOAK = bool(os.environ.get("HANSA_SOAK"))

# A deadline in milliseconds would judge the machine's noise, not the code.
settings.register_profile("default", max_examples=50, deadline=None, print_blob=True)
settings.register_profile(
    "soak",
    max_examples=5_000,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("soak" if SOAK else "default")


def locate_shared(variable: str, folder: str) -> Path:
    """The folder of material made by others: named by `variable`, or beside the repository."""
    return Path(os.environ.get(variable) or REPOSITORY.parent / "shared" / folder)


def require_folder(path: Path, variable: str) -> Path:
    """`path`, or a failure that says what to do: a test without its vectors has tested nothing."""
    if not path.is_dir():
        pytest.fail(f"expected a folder at {path}, got none; name it by {variable}", pytrace=False)
    return path


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The test vectors that others wrote, read where they lie (HANSA_VECTORS)."""
    return require_folder(locate_shared("HANSA_VECTORS", "vectors"), "HANSA_VECTORS")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data of the trade, read where it lies (HANSA_DATA)."""
    return require_folder(locate_shared("HANSA_DATA", "data"), "HANSA_DATA")


@pytest.fixture(scope="session")
def soak() -> bool:
    """Whether this run is a long one (HANSA_SOAK)."""
    return SOAK


@pytest.fixture(scope="session")
def seed() -> int:
    """The seed of this run, the same on every worker; HANSA_SEED repeats an earlier run."""
    return int(os.environ["HANSA_SEED"])


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Draw the run's seed before the workers start and before hypothesis reads its own."""
    # The environment is what the workers inherit, so that all of them share one seed.
    os.environ.setdefault("HANSA_SEED", str(random.getrandbits(32)))
    if config.getoption("--hypothesis-seed", default=None) is None:
        config.option.hypothesis_seed = os.environ["HANSA_SEED"]


def pytest_report_header() -> str:
    """Say how to repeat this run."""
    return f"seed: HANSA_SEED={os.environ['HANSA_SEED']} repeats this run" + (
        " (soak)" if SOAK else ""
    )


def fail_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip into a failure: what was not run has not passed."""
    if report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.longrepr = f"expected every test to run under CI, got: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Under CI no test may skip itself."""
    report = yield
    if os.environ.get("CI"):
        fail_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Under CI no file may skip itself whole."""
    report = yield
    if os.environ.get("CI"):
        fail_skipped(report)
    return report
