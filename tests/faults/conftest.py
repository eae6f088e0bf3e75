"""What the fault tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.faults.nursery_door import Nursery


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    """A program that makes nodes quickly."""
    made = Nursery()
    yield made
    made.close()
