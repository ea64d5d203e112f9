"""Optimizers within compiled steps, and what is done to them meanwhile."""

import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from pyro.optim.clipped_adam import ClippedAdam
from svi_programs import PYRO_OPTIMIZERS, batches, everything, programs, run, values
from tables import some
from torch import Tensor, nn

from pyro_vae.compiled.verify import OTHER_DRAWS
from pyro_vae.svi.eager import EagerWarning
from pyro_vae.svi.svi import (
    SVI,
)


@pytest.mark.slow
def test_shapes_that_share_an_optimizer_share_its_counts(uncompiled):
    data = [x if i % 3 else x[:4] for i, x in enumerate(batches(30))]
    results = []
    for mode in ("off", "on"):
        one, optim = programs(), PYRO_OPTIMIZERS["Adam"]()
        svi = SVI(one.model, one.guide, optim, Trace_ELBO(), compile=mode)
        torch.manual_seed(2)
        results.append((run(svi, data * 6), values(one), optim.get_state()))
        counts = {int(s["step"]) for one in optim.get_state().values() for s in one["state"].values()}
        assert counts == {180}
    assert svi.engine == "inductor"
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)


@pytest.mark.parametrize("optimizer", some([torch.optim.Adam, torch.optim.Adamax, ClippedAdam], 3))
def test_steps_that_train_only_some_parameters_age_only_them(optimizer, uncompiled):
    """Adam corrects its averages by how many steps each parameter has taken."""
    found = []
    for mode in ("off", "recorded", "on"):
        always, sometimes = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(4))
        settings = {"both": True}

        def model(x, always=always, sometimes=sometimes, settings=settings):
            loc = always + sometimes if settings["both"] else always
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

        optim = optimizer([always, sometimes], lr=0.1, **({"lrd": 0.9} if optimizer is ClippedAdam else {}))
        svi = SVI(model, lambda x: None, optim, Trace_ELBO(), compile=mode)
        for i, x in enumerate(torch.linspace(0, 9, 40).reshape(-1, 4)):
            settings["both"] = i % 6 < 2  # once compiled of one age, later of two
            svi.step(x)
        assert svi.engine == {"off": "eager", "recorded": "recorded", "on": "inductor"}[mode]
        found.append(torch.stack([always.detach(), sometimes.detach()]))
    torch.testing.assert_close(found[1:], found[:1] * 2)


def clamped(*tensors: Tensor) -> None:
    with torch.no_grad():
        for tensor in tensors:
            tensor.clamp_(-0.1, 0.1)


class Clamping(pyro.optim.PyroOptim):
    def __call__(self, params, *args, **kwargs):
        super().__call__(params, *args, **kwargs)
        clamped(*params)


OF_OPTIMIZERS = {
    "hook": lambda optim, params: optim.register_step_post_hook(lambda *_: clamped(*params)),
    "maximize": lambda optim, params: optim.param_groups[0].update(maximize=True),
    "no state": lambda optim, params: optim.state.clear(),
    "no state of a parameter": lambda optim, params: optim.state.update({params[0]: {}}),
    "another average of a parameter": lambda optim, params: optim.state.get(params[0], {}).update(
        exp_avg=torch.ones_like(params[0])
    ),
    "another for each parameter": lambda optim, params: optim.optim_objs.update(
        {p: torch.optim.SGD([p], lr=1e-3) for p in optim.optim_objs}
    ),
    "one's own": lambda optim, params: None,
}


@pytest.mark.slow
@pytest.mark.parametrize("first", [0, 12])
@pytest.mark.parametrize("what", OF_OPTIMIZERS)
def test_what_is_done_to_optimizers_is_noticed(what, first, uncompiled):
    found = []
    for mode in ("off", "on"):
        one = programs()
        optim = torch.optim.Adam(everything(one), lr=1e-2)
        if "for each" in what or "own" in what:
            kind = Clamping if "own" in what else pyro.optim.PyroOptim
            optim = kind(torch.optim.Adam, {"lr": 1e-2})
        svi = SVI(one.model, one.guide, optim, Trace_ELBO(), compile=mode)
        losses = run(svi, batches(first))
        OF_OPTIMIZERS[what](optim, everything(one))
        losses += run(svi, batches(6))
        found.append((losses, values(one)))
    assert svi.compiled
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("mode", [pytest.param("recorded", marks=pytest.mark.slow), "on"])
def test_pyros_optimizers_go_on_moving_what_a_step_does_not_reach(mode, first, uncompiled):
    found = []
    for compile in ("off", mode):
        pyro.clear_param_store()
        settings = {"both": first}

        def model(x, settings=settings):
            always, sometimes = pyro.param("always", torch.zeros(4)), pyro.param("sometimes", torch.zeros(4))
            loc = always + sometimes if settings["both"] else always
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

        svi = SVI(model, lambda x: None, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO(), compile=compile)
        for i, x in enumerate(torch.linspace(0, 9, 40).reshape(-1, 4)):
            settings["both"] = (i % 4 == 0) == first
            svi.step(x)
        found.append(torch.stack([pyro.param(name).detach() for name in ("always", "sometimes")]))
    torch.testing.assert_close(*found)


@pytest.mark.slow
def test_settings_that_never_stand_still_are_not_compiled_again_and_again(uncompiled):
    found = []
    for mode in ("off", "on"):
        one = programs()
        optim = torch.optim.Adam(everything(one))
        svi = SVI(one.model, one.guide, optim, Trace_ELBO(), compile=mode)
        losses = []
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", EagerWarning)
            for x in batches(20):
                losses.append(svi.step(x))
                optim.param_groups[0]["weight_decay"] += 0.1
        found.append(losses)
    assert ["change again and again" in str(w.message) for w in said] == [True]
    assert svi.engine == "recorded"
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@pytest.mark.slow
def test_betas_or_momentum_that_move_are_left_to_the_optimizer(uncompiled):
    """As OneCycleLR moves them: one warning, no code compiled again, and torch's numbers."""
    for make in (torch.optim.Adam, torch.optim.Adamax, lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9)):
        found = []
        for mode in ("off", "on"):
            one = programs()
            optim = make(everything(one))
            schedule = torch.optim.lr_scheduler.OneCycleLR(optim, max_lr=0.1, total_steps=30)  # moves beta1 or momentum
            svi = SVI(one.model, one.guide, optim, Trace_ELBO(), compile=mode)
            losses, said = [], []
            for x in batches(20):
                with warnings.catch_warnings(record=True) as new:
                    warnings.simplefilter("always", EagerWarning)
                    losses.append(svi.step(x))
                said += new
                schedule.step()
            found.append([*losses, *(p.detach().norm().item() for p in everything(one))])
        assert ["betas or momentum change between steps" in str(w.message) for w in said] == [True]
        assert svi.engine == "recorded"
        assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_no_gradient_is_left_from_a_step_before(uncompiled):
    one = programs()
    svi = SVI(one.model, one.guide, torch.optim.Adam(everything(one)), Trace_ELBO(), compile="on")
    for p in everything(one):
        p.grad = torch.ones_like(p)
    run(svi, batches(2))
    assert all(p.grad is None for p in everything(one))


def test_a_step_that_is_refused_is_not_counted(uncompiled):
    one, optim = programs(), PYRO_OPTIMIZERS["ClippedAdam"]()
    svi = SVI(one.model, one.guide, optim, Trace_ELBO(), compile="on")
    run(svi, batches(3))
    before = str(optim.get_state())
    with pytest.raises(ValueError, match="support"):
        svi.step(batches(1)[0] + 0.5)
    assert str(optim.get_state()) == before


@pytest.mark.parametrize(("off", "refused"), [({None}, False), ({None, OTHER_DRAWS}, True)])
def test_compiled_code_must_differ_on_two_draws_to_be_refused(off, refused, monkeypatch, uncompiled):
    def distance(self, tensors, seed=None):
        return 2.0 if seed in off else 0.5

    monkeypatch.setattr("pyro_vae.compiled.inductor.Code.distance", distance)
    one = programs()
    svi = SVI(one.model, one.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO(), compile="on")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        svi.step(batches(1)[0])
    assert svi.engine == ("recorded" if refused else "inductor")
    assert any("its code differs from the recorded graph" in str(w.message) for w in said) == refused


@pytest.mark.slow
def test_inductor_follows_pyro():
    data = batches(30)
    one = programs()
    expected = run(pyro.infer.SVI(one.model, one.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO()), data)
    one = programs()
    svi = SVI(one.model, one.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO(), compile="on")
    found = run(svi, data)
    assert svi.engine == "inductor"
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_inductor_follows_pyro_in_mixed_precision():
    results = []
    for mode in ("off", "on"):
        one = programs()
        svi = SVI(one.model, one.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO(), compile=mode)
        torch.manual_seed(2)
        losses = []
        for x in batches(10):
            with torch.autocast("cpu", torch.bfloat16):
                losses.append(svi.step(x))
        results.append(losses)
    assert svi.engine == "inductor"
    assert results[0] == pytest.approx(results[1], rel=1e-2)


@pytest.mark.slow
def test_data_may_lie_in_a_parameters_memory():
    found = []
    for mode in ("off", "on"):
        torch.manual_seed(0)
        nets = nn.Linear(4, 6).double(), nn.Linear(3, 4).double()

        def model(x, nets=nets):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 3).double(), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(nets[1](z).tanh(), 1.0).to_event(1), obs=x)

        def guide(x, nets=nets):
            with pyro.plate("data", len(x)):
                loc, log_scale = nets[0](x).chunk(2, -1)
                pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

        optim = torch.optim.Adam([p for net in nets for p in net.parameters()], lr=1e-2)
        svi = SVI(model, guide, optim, Trace_ELBO(), compile=mode)
        torch.manual_seed(2)
        losses = [svi.step(nets[1].weight.detach().t()) for _ in range(20)]
        found.append((torch.tensor(losses), nets[1].weight.detach()))
    assert svi.engine == "inductor"
    torch.testing.assert_close(*found)


@pytest.mark.slow
def test_enumerated_mixture_compiles():
    def model(x):
        locs = pyro.param("locs", lambda: torch.randn(3, x.shape[1]))
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(torch.ones(3)), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(locs[c], 1.0).to_event(1), obs=x)

    results = []
    for make in (pyro.infer.SVI, lambda *a: SVI(*a, compile="on")):
        pyro.clear_param_store()
        svi = make(model, lambda x: None, pyro.optim.Adam({"lr": 1e-2}), TraceEnum_ELBO(max_plate_nesting=1))
        results.append(run(svi, batches(10)))
    assert svi.engine == "inductor"
    assert results[0] == pytest.approx(results[1], rel=1e-5)
