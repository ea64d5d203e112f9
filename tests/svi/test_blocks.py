"""Many steps in one call."""

import pyro
import pytest
import torch
from pyro.infer import ReweightedWakeSleep, Trace_ELBO
from svi_programs import PYRO_OPTIMIZERS, batches, programs, values
from torch import Tensor

from pyro_vae.svi.blocks import Schedule
from pyro_vae.svi.svi import (
    SVI,
)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Adam", "ClippedAdam", "SGD", "per_parameter", "Rprop"])
@pytest.mark.parametrize("mode", ["off", "recorded", "on"])
def test_many_steps_in_one_call_are_the_same_steps(name, mode, uncompiled):
    xs = torch.stack(batches(130))  # further than the audits at calls 2, 10 and 100
    results = []
    for together in (False, True):
        one, optim = programs(), PYRO_OPTIMIZERS[name]()
        svi = SVI(one.model, one.guide, optim, Trace_ELBO(), compile=mode)
        torch.manual_seed(2)
        losses = svi.steps(xs) if together else torch.stack([svi.update(x) for x in xs])
        losses = torch.cat([losses, svi.update(xs[0]).reshape(1)])
        results.append((losses, values(one), optim.get_state(), svi.state_dict(), svi.engine))
    (losses, params, state, counts, engine), (losses_2, params_2, state_2, counts_2, engine_2) = results
    assert torch.equal(losses, losses_2)
    assert torch.equal(params, params_2)
    assert str(state) == str(state_2)
    assert counts == counts_2
    assert engine == engine_2


def test_many_steps_tell_whether_all_losses_were_finite(uncompiled):
    xs = torch.stack(batches(20))
    xs[15] = float("nan")
    one = programs()
    svi = SVI(one.model, one.guide, torch.optim.Adam(one.parameters(), lr=1e-2), Trace_ELBO(), compile="on")
    with pyro.validation_enabled(False):  # with it NaN raises, as in Pyro
        losses = svi.steps(xs)
    assert not svi.finite
    assert losses.isfinite().tolist() == [i != 15 for i in range(20)]
    assert values(one).isfinite().all()
    svi.steps(xs[:15])
    assert svi.finite


@pytest.mark.slow
def test_many_steps_take_nested_data_and_several_losses(uncompiled):
    xs = torch.stack(batches(12))
    one = programs()
    svi = SVI(one.model, one.guide, pyro.optim.Adam({"lr": 1e-2}), ReweightedWakeSleep(), compile="on")
    wake, sleep = svi.steps(x=xs)
    assert wake.shape == sleep.shape == (12,)
    with pytest.raises(ValueError, match=r"the tensors have first dims \[5, 12\]; give each one slice for each step"):
        svi.steps({"x": xs, "y": xs[:5]})
    with pytest.raises(ValueError, match=r"the tensors have first dims \[\]"):
        svi.steps(3)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["off", "recorded", "on"])
def test_a_schedule_is_the_same_as_setting_each_number_before_its_step(mode, uncompiled):
    xs = torch.stack(batches(25))
    rates, weights = torch.linspace(1e-2, 1e-3, 25, dtype=torch.float64), torch.linspace(0.5, 2, 25)
    results = []
    for together in (False, True):
        one = programs()
        optim = torch.optim.Adam(one.parameters(), lr=1.0)
        svi = SVI(one.model, one.guide, optim, Trace_ELBO(), compile=mode)
        torch.manual_seed(2)
        if together:
            losses = svi.steps(xs, schedule=Schedule(lr=rates, values=[(one.beta, weights)]))
        else:
            losses = []
            for x, rate, weight in zip(xs, rates.tolist(), weights, strict=True):
                optim.param_groups[0]["lr"] = rate
                one.beta.copy_(weight)
                losses.append(svi.update(x))
            losses = torch.stack(losses)
        results.append((losses, values(one), optim.param_groups[0]["lr"], one.beta.item()))
    (losses, params, *last), (losses_2, params_2, *last_2) = results
    assert torch.equal(losses, losses_2)
    assert torch.equal(params, params_2)
    assert last == last_2 == [1e-3, 2.0]
    one = programs()
    optim = torch.optim.Adam(one.parameters(), lr=1.0)
    constant = SVI(one.model, one.guide, optim, Trace_ELBO(), compile=mode)
    torch.manual_seed(2)
    constant.steps(xs, schedule=Schedule(lr=rates))
    assert not torch.equal(values(one), params), "beta must matter for this test to mean anything"


def test_schedules_that_do_not_fit_are_refused():
    xs, one = torch.stack(batches(5)), programs()
    svi = SVI(one.model, one.guide, torch.optim.Adam(one.parameters()), Trace_ELBO(), compile="off")
    with pytest.raises(ValueError, match=r"the schedule has \[4\] numbers, and the data are of 5 steps"):
        svi.steps(xs, schedule=Schedule(lr=torch.ones(4)))
    with pytest.raises(ValueError, match=r"the schedule has \[0\] numbers"):
        svi.steps(xs, schedule=Schedule(values=[(one.beta, torch.tensor(1.0))]))
    svi = SVI(one.model, one.guide, pyro.optim.Adam({}), Trace_ELBO(), compile="off")
    with pytest.raises(ValueError, match="a schedule of lr needs a torch optimizer, and optim is a Pyro one"):
        svi.steps(xs, schedule=Schedule(lr=torch.ones(5)))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["off", "on"])
@pytest.mark.parametrize("stop", [1, 2, 3, 12, 30])
def test_many_steps_stop_when_told_to(mode, stop, uncompiled):
    xs = torch.stack(batches(30))  # audits at calls 2 and 10
    results = []
    for together in (False, True):
        one, optim = programs(), PYRO_OPTIMIZERS["Adam"]()
        svi = SVI(one.model, one.guide, optim, Trace_ELBO(), compile=mode)
        torch.manual_seed(2)
        asked = iter(range(1, 100))
        if together:
            losses = svi.steps(xs, until=lambda asked=asked: next(asked) == stop)
            losses = torch.cat([losses, *(svi.steps(xs[stop:]) for _ in range(stop < 30))])
        else:
            losses = torch.stack([svi.update(x) for x in xs])
        results.append((losses, values(one), str(optim.get_state()), svi.state_dict()))
    for alone, many in zip(*results, strict=True):
        assert torch.equal(alone, many) if isinstance(alone, Tensor) else alone == many
