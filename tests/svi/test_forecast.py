"""When "auto" records and compiles: by counts, and with `steps=` by what the first steps took."""

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO
from svi_programs import batches, everything, programs
from svi_scripts import Vae, X

from pyro_vae import SVI
from pyro_vae.svi.forecast import (
    COMPILES_AT,
    PLANNED_COMPILES_AT,
    RECORDS_AT,
    SEEN,
    WORTH_COMPILING,
    WORTH_RECORDING,
    Forecast,
)


@pytest.fixture
def clock(monkeypatch):
    """A clock by which each eager step takes `clock.step` seconds."""

    class Clock:
        step, now = 0.01, 0.0

        def perf_counter(self):
            self.now += self.step
            return self.now

    one = Clock()
    monkeypatch.setattr("pyro_vae.svi.forecast.time", one)
    return one


def script(planned, steps, state=None):
    """Return the SVI and the engines of a script's steps; a resumed one begins with the state of the one before."""
    torch.manual_seed(0)
    v = Vae()
    svi = SVI(v.model, v.guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO(), steps=planned)
    if state is not None:
        svi.load_state_dict(state)
    engines = []
    for _ in range(steps):
        svi.step(X)
        engines.append(svi.engine)
    return svi, engines


def test_a_short_script_is_never_recorded(clock):
    svi, engines = script(WORTH_RECORDING - 1, 2 * SEEN)
    assert engines == ["eager"] * 2 * SEEN
    assert svi.why_not == f"{WORTH_RECORDING - 1} steps are too few to earn a recording"


def test_a_long_one_is_recorded_as_soon_as_its_steps_are_timed(clock):
    assert script(1_000, SEEN + 2)[1] == ["eager"] * SEEN + ["recorded"] * 2


def test_slow_steps_earn_their_recording_later(clock):
    clock.step = 0.5
    svi, engines = script(1_000, SEEN + 2)
    assert engines == ["eager"] * (SEEN + 2)
    assert svi.why_not == "1000 steps are too few to earn a recording, which pays after 3010"


@pytest.mark.parametrize("stop", [3, SEEN + 1])
def test_a_resumed_run_decides_as_the_one_before(clock, stop):
    svi, _ = script(1_000, stop)
    clock.step = 0.5  # a machine that is busy by now
    resumed = script(1_000, SEEN + 2, svi.state_dict())[0]
    assert (resumed.engine == "recorded") == (stop > SEEN)


def test_steps_that_are_worth_compiling_are_recorded_however_long_they_take(clock):
    clock.step = 10.0
    assert script(WORTH_COMPILING, SEEN + 1)[1][-1] == "recorded"


def test_without_a_plan_it_waits_for_as_long_as_a_recording_takes_to_pay():
    forecast = Forecast("auto", None)
    assert forecast.why_wait(RECORDS_AT - 1) == f"shapes are recorded at their call {RECORDS_AT}, when it pays"
    assert forecast.why_wait(RECORDS_AT) is None
    assert Forecast("recorded", None).why_wait(1) is None


@pytest.mark.slow
def test_auto_compiles_by_counts_alone(uncompiled):
    def engines(planned: int | None, *calls: int) -> list[str]:
        one = programs()
        svi = SVI(one.model, one.guide, torch.optim.Adam(everything(one)), Trace_ELBO(), steps=planned)
        found = []
        for call in calls:
            state = svi.state_dict()
            svi.load_state_dict({**state, "pays": 300, "calls": dict.fromkeys(state["calls"], call - 1)})
            svi.step(batches(1)[0])
            found.append(svi.engine)
        return found

    compiles = PLANNED_COMPILES_AT
    assert engines(1_000, SEEN + 1, compiles) == ["recorded"] * 2
    assert engines(WORTH_COMPILING, SEEN + 1, compiles - 1, compiles) == ["recorded", "recorded", "inductor"]
    calls = 1, RECORDS_AT - 1, RECORDS_AT, COMPILES_AT - 1, COMPILES_AT
    assert engines(None, *calls) == ["eager", "eager", "recorded", "recorded", "inductor"]
