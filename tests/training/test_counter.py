"""The counter of finished data: what it says of the time left."""

import pytest

from pyro_vae.training import Counter, progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the time, in a list, that the counter reads."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_the_time_left_is_that_of_the_rest(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with Counter(1000, "log p(x)") as counter:
        for _ in range(5):
            clock[0] += 21
            counter.add(100)
    assert capsys.readouterr().err.splitlines()[-1] == "log p(x): 500 of 1000 data, 105 s left"


@pytest.mark.parametrize("once", [0.0, 140.0, 3600.0])
def test_what_is_done_once_does_not_count_for_the_rest(
    once: float, clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with Counter(1000, "log p(x)") as counter:
        clock[0] += once
        for _ in range(3):
            clock[0] += 30
            counter.add(100)
    assert capsys.readouterr().err.splitlines()[-1] == "log p(x): 300 of 1000 data, 210 s left"


def test_nothing_is_said_of_what_takes_a_moment(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with Counter(1000, "log p(x)") as counter:
        for _ in range(10):
            clock[0] += 0.1
            counter.add(100)
    assert capsys.readouterr().err == ""
