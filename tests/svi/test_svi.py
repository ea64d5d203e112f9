"""`SVI` gives Pyro's and hand-written loops' numbers, and goes on with them after a stop."""

import copy
import itertools
import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from svi_programs import FEATURES, PYRO_OPTIMIZERS, batches, everything, programs, run, values
from tables import only
from torch import nn

from pyro_vae.svi.eager import EagerWarning
from pyro_vae.svi.svi import (
    MOST_RECORDINGS,
    SVI,
)

MODES = list(itertools.product(PYRO_OPTIMIZERS, ("off", "recorded", "on")))
QUICK = [("Adam", "recorded"), ("Adam", "off"), *itertools.product(("centered", "Rprop", "schedule"), ("off", "on"))]


@pytest.mark.parametrize(("name", "mode"), only(MODES, QUICK))
def test_same_numbers_as_pyro(name, mode, uncompiled):
    results = []
    for make in (pyro.infer.SVI, lambda *a: SVI(*a, compile=mode)):
        one, optim = programs(), PYRO_OPTIMIZERS[name]()
        svi = make(one.model, one.guide, optim, Trace_ELBO())
        losses = []
        torch.manual_seed(2)
        for x in batches(12):
            losses.append(svi.step(x))
            if name == "schedule":
                optim.step()
        results.append((losses, values(one), optim.get_state(), svi))
    (losses, params, state, _), (losses_2, params_2, state_2, svi) = results
    assert all(isinstance(loss, float) for loss in losses_2)
    assert losses == losses_2 or mode != "off"
    assert losses == pytest.approx(losses_2, rel=1e-6)
    assert torch.equal(params, params_2) or mode == "on"  # recorded gradients are Pyro's bit for bit
    torch.testing.assert_close(params, params_2, rtol=1e-4, atol=1e-6)
    assert state.keys() == state_2.keys()
    assert svi.compiled == (mode != "off")


TORCH_OPTIMIZERS = {
    "Adam": lambda p: torch.optim.Adam(p, lr=1e-2),
    "Adam with decay": lambda p: torch.optim.Adam(p, lr=1e-2, weight_decay=0.1),
    "fused": lambda p: torch.optim.Adam(p, lr=1e-2, fused=True),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=1e-2, amsgrad=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=1e-2),
    "SGD": lambda p: torch.optim.SGD(p, lr=1e-3),
    "Nesterov": lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9, nesterov=True, weight_decay=0.1),
    "damped": lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9, dampening=0.3),
    "Adamax": lambda p: torch.optim.Adamax(p, lr=1e-2),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2),
}


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "clip"), [("recorded", 5.0), ("on", None), ("on", 5.0)])
@pytest.mark.parametrize("name", TORCH_OPTIMIZERS)
def test_same_numbers_as_a_hand_written_loop(name, mode, clip, uncompiled):
    one = programs()
    optim = TORCH_OPTIMIZERS[name](everything(one))
    expected = []
    torch.manual_seed(2)
    for step, x in enumerate(batches(12)):
        optim.param_groups[0]["lr"] *= 0.9 if step > 5 else 1.0
        optim.zero_grad()
        expected.append(Trace_ELBO().loss_and_grads(one.model, one.guide, x))
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(everything(one), clip)
        optim.step()
    params, state = values(one), optim.state_dict()["state"]

    one = programs()
    optim = TORCH_OPTIMIZERS[name](everything(one))
    svi = SVI(one.model, one.guide, optim, Trace_ELBO(), compile=mode, clip=clip)
    found = []
    torch.manual_seed(2)
    for step, x in enumerate(batches(12)):
        optim.param_groups[0]["lr"] *= 0.9 if step > 5 else 1.0
        found.append(svi.step(x))
    assert svi.compiled
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=1e-5, atol=0)
    torch.testing.assert_close(values(one), params, rtol=1e-4, atol=1e-6)
    for key, slots in optim.state_dict()["state"].items():
        for slot, value in slots.items():
            torch.testing.assert_close(value, state[key][slot], rtol=1e-4, atol=1e-5)


def test_parameters_outside_the_optimizer_stay():
    one = programs()
    svi = SVI(one.model, one.guide, torch.optim.Adam(one.encoder.parameters()), Trace_ELBO(), compile="recorded")
    before = [p.detach().clone() for p in one.decoder.parameters()]
    run(svi, batches(3))
    assert all(torch.equal(p, q) for p, q in zip(one.decoder.parameters(), before, strict=True))


def interrupted_and_not(mode: str, stop: int = 7, smaller: bool = True) -> None:
    data = batches(10)
    if smaller:  # a batch in between
        data[4] = data[4][:6]
    one = programs()
    optim = torch.optim.Adam(everything(one), lr=1e-2)
    run(SVI(one.model, one.guide, optim, Trace_ELBO(), compile=mode, clip=50.0), data)
    expected = values(one)

    one = programs()
    optim = torch.optim.Adam(everything(one), lr=1e-2)
    svi = SVI(one.model, one.guide, optim, Trace_ELBO(), compile=mode, clip=50.0)
    run(svi, data[:stop])
    random, saved = (
        torch.get_rng_state(),
        copy.deepcopy((one.state_dict(), optim.state_dict(), svi.state_dict())),
    )
    shift = pyro.get_param_store()["shift"].detach().clone()

    one = programs()
    one.load_state_dict(saved[0])
    pyro.get_param_store()["shift"].data.copy_(shift)
    optim = torch.optim.Adam(everything(one), lr=1e-2)
    optim.load_state_dict(saved[1])
    svi = SVI(one.model, one.guide, optim, Trace_ELBO(), compile=mode, clip=50.0)
    svi.load_state_dict(saved[2])
    torch.set_rng_state(random)
    for x in data[stop:]:
        svi.step(x)
    assert svi.compiled == (mode != "off")
    assert torch.equal(values(one), expected)


RESUMED = [("off", True), ("recorded", False), ("recorded", True), ("on", True)]


@pytest.mark.parametrize(("mode", "smaller"), only(RESUMED, RESUMED[:2]))
def test_resumed_run_is_the_same_bit_for_bit(mode, smaller, uncompiled):
    interrupted_and_not(mode, smaller=smaller)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 2, 3, 5, 6, 8])
def test_auto_changes_over_at_the_same_step_wherever_a_run_was_stopped(stop, uncompiled, monkeypatch):
    monkeypatch.setattr("pyro_vae.svi.forecast.RECORDS_AT", 3)
    monkeypatch.setattr("pyro_vae.svi.forecast.COMPILES_AT", 6)
    engines: list[str] = []
    update = SVI.update

    def noted(self, *args):
        loss = update(self, *args)
        engines.append(self.engine)
        return loss

    monkeypatch.setattr(SVI, "update", noted)
    interrupted_and_not("auto", stop)
    whole, first, rest = engines[:10], engines[10 : 10 + stop], engines[10 + stop :]
    assert whole == [*first, *rest]
    assert whole == ["eager"] * 2 + ["recorded"] * 2 + ["eager", "recorded"] + ["inductor"] * 4


@pytest.mark.slow
def test_resumed_compiled_run_is_the_same_bit_for_bit():
    interrupted_and_not("on")


@pytest.mark.parametrize("mode", [pytest.param("recorded", marks=pytest.mark.slow), "on"])
def test_loading_into_a_running_optimizer_takes_effect(mode, uncompiled):
    one = programs()
    optim = torch.optim.Adam(everything(one), lr=1e-2)
    svi = SVI(one.model, one.guide, optim, Trace_ELBO(), compile=mode)
    data = batches(9)
    run(svi, data[:3])
    saved = copy.deepcopy((one.state_dict(), optim.state_dict()))
    shift = pyro.get_param_store()["shift"].detach().clone()
    run(svi, data[3:], seed=5)
    expected = values(one)
    one.load_state_dict(saved[0])
    optim.load_state_dict(saved[1])
    pyro.get_param_store()["shift"].data.copy_(shift)
    run(svi, data[3:], seed=5)
    assert torch.equal(values(one), expected)


def test_what_changes_between_steps_takes_effect():
    """A tensor changed in place, a tensor put in its place, a Python number: each as in Pyro."""
    results = []
    for make in (pyro.infer.SVI, lambda *a: SVI(*a, compile="recorded")):
        one = programs()
        svi = make(one.model, one.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
        torch.manual_seed(2)
        losses = []
        for step, x in enumerate(batches(9)):
            if step == 2:
                one.beta.fill_(0.1)
            if step == 4:
                one.beta = torch.tensor(0.5)
            if step == 6:
                one.weight = 3.0
            if step == 8:
                x = x[:4]
            losses.append(svi.step(x))
        results.append(torch.tensor(losses))
    torch.testing.assert_close(*results, rtol=1e-5, atol=0)
    assert svi.compiled


def test_train_and_eval_mode_and_running_statistics():
    results = []
    for make in (pyro.infer.SVI, lambda *a: SVI(*a, compile="recorded")):
        one = programs(nn.BatchNorm1d(FEATURES), nn.Dropout(0.5))
        svi = make(one.model, one.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
        torch.manual_seed(2)
        losses = []
        for step, x in enumerate(batches(8)):
            one.train(step % 4 < 2)
            losses.append(svi.step(x))
        results.append((torch.tensor(losses), one.encoder[0].running_var))
    torch.testing.assert_close(*results, rtol=1e-5, atol=0)


def test_mixed_precision():
    results = []
    for mode in ("off", "recorded"):
        one = programs()

        def mixed(program):
            def run(x):
                with torch.autocast("cpu", torch.bfloat16):
                    program(x)

            return run

        svi = SVI(mixed(one.model), mixed(one.guide), torch.optim.Adam(everything(one)), Trace_ELBO(), compile=mode)
        results.append((run(svi, batches(4)), values(one)))
    assert svi.compiled
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("around", [pytest.param("a step", marks=pytest.mark.slow), "all steps"])
def test_within_the_callers_mixed_precision(around, uncompiled):
    results = []
    for mode in ("off", "recorded", "on"):
        one = programs()
        svi = SVI(one.model, one.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO(), compile=mode)
        torch.manual_seed(2)
        losses = []
        with torch.autocast("cpu", torch.bfloat16, enabled=around == "all steps", cache_enabled=mode != "off"):
            for x in batches(6):
                with torch.autocast("cpu", torch.bfloat16):
                    losses.append(svi.step(x))
        assert svi.engine == {"off": "eager", "recorded": "recorded", "on": "inductor"}[mode]
        results.append(losses)
    assert results[0] == pytest.approx(results[1], rel=1e-5)
    assert results[0] == pytest.approx(results[2], rel=1e-5)


@pytest.mark.slow
def test_too_many_shapes_run_eagerly():
    one = programs()
    svi = SVI(one.model, one.guide, torch.optim.Adam(everything(one)), Trace_ELBO(), compile="recorded")
    x = torch.rand(30, FEATURES).round()
    for size in range(1, MOST_RECORDINGS + 1):
        svi.step(x[:size])
    assert svi.compiled
    with pytest.warns(EagerWarning, match="another shape has come; pad it"):
        svi.step(x)
    assert not svi.compiled
    svi.step(x[:29])  # warns once
    svi.step(x[:3])
    assert svi.compiled


@pytest.mark.slow
def test_what_changes_at_every_step_is_not_recorded_again_and_again(monkeypatch):
    """Two recordings in vain are enough; the next is made when nothing has changed for a while."""
    monkeypatch.setattr("pyro_vae.svi.svi.PATIENCE", 5)
    one = programs()

    def model(x):
        with pyro.poutine.scale(scale=1.0 if one.epoch < 100 else 0.1):
            one.model(x)

    svi = SVI(model, one.guide, torch.optim.Adam(everything(one)), Trace_ELBO(), compile="recorded")
    engines = []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for step, x in enumerate(batches(40)):
            one.epoch = min(step, 9)  # such as a callback might keep
            svi.step(x)
            engines.append(svi.engine)
    (one_warning,) = (str(w.message) for w in said)
    assert "'epoch' keeps changing" in one_warning
    assert engines[:3] == ["recorded"] * 3
    assert engines[3:12] == ["eager"] * 9
    assert engines[-1] == "recorded"


@pytest.mark.slow
def test_recordings_make_room_for_one_another(monkeypatch):
    monkeypatch.setattr("pyro_vae.svi.svi.PATIENCE", 3)
    one = programs()
    svi = SVI(one.model, one.guide, torch.optim.Adam(everything(one)), Trace_ELBO(), compile="recorded")
    x = torch.rand(30, FEATURES).round()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for size in range(1, MOST_RECORDINGS + 1):
            svi.step(x[:size])
        svi.step(x[:1])
        for _ in range(12):
            svi.step(x)
    assert svi.compiled
    svi.step(x[:1])
    assert svi.compiled
    svi.step(x[:2])  # was used least recently
    assert not svi.compiled


def test_audit_notices_what_no_check_can_foresee(monkeypatch):
    one = programs()

    def model(x):
        with pyro.poutine.scale(scale=math.tau):
            one.model(x)

    svi = SVI(model, one.guide, torch.optim.Adam(everything(one)), Trace_ELBO(), compile="recorded")
    run(svi, batches(5))
    monkeypatch.setattr(math, "tau", 2.0)  # a library's
    with pytest.warns(EagerWarning, match="at call 10 its recording no longer gave what eager Pyro gives"):
        run(svi, batches(6))
    assert not svi.compiled


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.Rprop])  # in the graph, and beside it
def test_audit_notices_compiled_code_that_goes_wrong(optimizer, monkeypatch):
    one, off = programs(), [0.0]

    def code(graph, inputs):
        return lambda *tensors: [out + off[0] if out.is_floating_point() else out for out in graph(*tensors)]

    monkeypatch.setattr("pyro_vae.compiled.inductor.compile_graph", code)
    svi = SVI(one.model, one.guide, optimizer(everything(one)), Trace_ELBO(), compile="on")
    run(svi, batches(5))
    assert svi.engine == "inductor"
    off[0] = 0.1
    with pytest.warns(EagerWarning, match="replays its recording uncompiled from call 10: its code differs"):
        run(svi, batches(6))
    assert svi.engine == "recorded"


@pytest.mark.parametrize("mode", ["recorded", "on"])
def test_gradients_lie_in_memory_as_their_parameters_do(mode, uncompiled):
    """As autograd leaves them: torch's fused Adam takes it for granted, and so may any optimizer."""
    found = []
    for compile in ("off", mode):
        torch.manual_seed(0)
        weight, factor = nn.Parameter(torch.randn(3, 4)), torch.randn(4, 3)

        def model(x, weight=weight, factor=factor):
            pyro.sample("x", dist.Normal((weight.t() * factor).sum(-1), 1.0).to_event(1), obs=x)

        optim = torch.optim.Adam([weight], lr=0.1, fused=True, amsgrad=True)  # takes its steps itself
        svi = SVI(model, lambda x: None, optim, Trace_ELBO(), compile=compile)
        for x in torch.randn(5, 4):
            svi.step(x)
        assert weight.grad.stride() == weight.stride()
        found.append(weight.detach())
    assert svi.compiled
    torch.testing.assert_close(*found)
