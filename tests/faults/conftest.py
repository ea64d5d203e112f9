"""A driver that stays, and the count of faults for docs/reliability.md."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from faults.trying import Driver


@pytest.fixture(scope="session")
def driver() -> Iterator[Driver]:
    """The command line in forked processes: `driver("train", ..., cwd=folder, after=0.3)`."""
    one = Driver()
    yield one
    one.close()


@pytest.fixture
def tally(record_property: Callable[[str, Any], None]) -> Callable[[str, int], None]:
    """Count faults that were tried; a test that fails has lost something, so all that are counted at its end survived."""

    def count(kind: str, tried: int) -> None:
        record_property("fault", [kind, tried])

    return count


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> int:
    """How many processes a test kills."""
    return request.config.getoption("--kills")
