"""Tables of cases of which a quick run tries some and a slow one all."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def some(cases: Iterable[Any], every: int) -> list[Any]:
    """Mark all cases but each ``every``-th as slow."""
    return [case if i % every == 0 else _slow(case) for i, case in enumerate(cases)]


def only(cases: Iterable[Any], quick: Collection[Any]) -> list[Any]:
    """Mark all cases but those in ``quick`` as slow."""
    cases = list(cases)
    assert set(quick) <= set(cases), "a quick case is none of the table"
    return [case if case in quick else _slow(case) for case in cases]


def _slow(case: Any) -> Any:
    return pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)
