"""SVI: Pyro's numbers, eager and replayed, with Pyro's and torch's optimizers."""

import copy
import re
import warnings
from enum import Enum
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import ReweightedWakeSleep, Trace_ELBO, TraceEnum_ELBO
from pyro.optim.clipped_adam import ClippedAdam
from torch import Tensor, nn

from pyro_vae.compiled import OTHER_DRAWS
from pyro_vae.svi.blocks import Schedule
from pyro_vae.svi.eager import EagerWarning
from pyro_vae.svi.svi import (
    COMPILES_AT,
    MOST_RECORDINGS,
    PLANNED_COMPILES_AT,
    RECORDS_AT,
    SVI,
    WORTH_COMPILING,
    WORTH_RECORDING,
)

FEATURES, LATENT, BATCH = 7, 2, 10


@pytest.fixture(autouse=True)
def fresh():
    pyro.clear_param_store()
    torch.manual_seed(0)
    yield
    pyro.clear_param_store()


def net(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, n_out), nn.Tanh())


class Programs(nn.Module):
    """A VAE in the style of Pyro's examples: bound methods that register their nets in the store."""

    count = 0

    def __init__(self, *first: nn.Module):
        super().__init__()
        self.encoder = nn.Sequential(*first, *net(FEATURES, 2 * LATENT))
        self.decoder = net(LATENT, FEATURES)
        self.bonus = torch.tensor(0.0)
        self.epoch = 0
        self.weight = 1.0
        self.beta = torch.tensor(1.0)

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        shift = pyro.param("shift", torch.zeros(FEATURES))
        with pyro.plate("data", x.shape[0]), pyro.poutine.scale(scale=self.weight):
            with pyro.poutine.scale(scale=self.beta):
                z = pyro.sample("z", dist.Normal(x.new_zeros(x.shape[0], LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z) + shift).to_event(1), obs=x)
        pyro.factor("bonus", self.bonus)

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]), pyro.poutine.scale(scale=self.beta * self.weight):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def batches(count: int, seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(BATCH, FEATURES, generator=generator).round() for _ in range(count)]


def programs(*first: nn.Module) -> Programs:
    pyro.clear_param_store()
    torch.manual_seed(0)
    one = Programs(*first)
    pyro.poutine.trace(one.model).get_trace(batches(1)[0])  # so that `shift` exists
    return one


def everything(one: Programs) -> list[Tensor]:
    shift = pyro.get_param_store()["shift"].unconstrained()
    return [*one.parameters(), shift]


def run(svi, data: list[Tensor], seed: int = 2) -> list[float]:
    torch.manual_seed(seed)
    return [svi.step(x) for x in data]


def values(one: Programs) -> Tensor:
    return torch.cat([p.detach().flatten() for p in everything(one)])


PYRO_OPTIMIZERS = {
    "Adam": lambda: pyro.optim.Adam({"lr": 1e-2}),
    "AdamW": lambda: pyro.optim.AdamW({"lr": 1e-2, "weight_decay": 0.1}),
    "ClippedAdam": lambda: pyro.optim.ClippedAdam({"lr": 1e-2, "clip_norm": 0.5, "lrd": 0.9}),
    "centered": lambda: pyro.optim.ClippedAdam({"lr": 1e-2, "centered_variance": True, "weight_decay": 0.1}),
    "SGD": lambda: pyro.optim.SGD({"lr": 1e-3, "momentum": 0.9}),
    "Adamax": lambda: pyro.optim.Adamax({"lr": 1e-2}),
    "Rprop": lambda: pyro.optim.Rprop({"lr": 1e-3}),
    "clip_args": lambda: pyro.optim.Adam({"lr": 1e-2}, {"clip_norm": 0.1}),
    "per_parameter": lambda: pyro.optim.Adam(lambda name: {"lr": 1e-2 if "encoder" in name else 1e-3}),
    "schedule": lambda: pyro.optim.ExponentialLR(
        {"optimizer": torch.optim.Adam, "optim_args": {"lr": 1e-2}, "gamma": 0.8}
    ),
}


@pytest.mark.parametrize("name", PYRO_OPTIMIZERS)
@pytest.mark.parametrize("mode", ["off", "recorded", "on"])
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


def interrupted_and_not(mode: str, stop: int = 7) -> None:
    data = batches(10)
    data[4] = data[4][:6]  # a smaller batch in between
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


@pytest.mark.parametrize("mode", ["off", "recorded", "on"])
def test_resumed_run_is_the_same_bit_for_bit(mode, uncompiled):
    interrupted_and_not(mode)


@pytest.mark.parametrize("stop", [1, 2, 3, 5, 6, 8])
def test_auto_changes_over_at_the_same_step_wherever_a_run_was_stopped(stop, uncompiled, monkeypatch):
    monkeypatch.setattr("pyro_vae.svi.svi.RECORDS_AT", 3)
    monkeypatch.setattr("pyro_vae.svi.svi.COMPILES_AT", 6)
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


@pytest.mark.parametrize("mode", ["recorded", "on"])
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


@pytest.mark.parametrize("around", ["a step", "all steps"])
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


def test_what_makes_no_difference_is_recorded_once():
    one = programs()
    svi = SVI(one.model, one.guide, torch.optim.Adam(everything(one)), Trace_ELBO(), compile="recorded")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for step, x in enumerate(batches(MOST_RECORDINGS + 2)):
            one.epoch = step  # such as a callback might keep
            one.train(step % 2 == 0)
            svi.step(x)
            assert svi.compiled
    (one_warning,) = (str(w.message) for w in said)
    assert one_warning.startswith("SVI looks no more at 'epoch', which keeps changing and has made no difference")


def test_audit_notices_what_no_check_can_foresee():
    class Hidden:
        scale = 1.0

    one, hidden = programs(), Hidden()

    def model(x):
        with pyro.poutine.scale(scale=hidden.scale):
            one.model(x)

    svi = SVI(model, one.guide, torch.optim.Adam(everything(one)), Trace_ELBO(), compile="recorded")
    run(svi, batches(5))
    hidden.scale = 2.0
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


class Awkward(Programs):
    """Tensors from outside that lie in memory in unusual ways, or share it, and a buffer that is written in part."""

    def __init__(self, share: bool):
        super().__init__()
        self.register_buffer("seen", torch.zeros(3))
        self.loc = torch.zeros(()).expand(LATENT)
        self.turned = torch.linspace(-1, 1, FEATURES * BATCH).reshape(FEATURES, BATCH).t()
        self.sliced = torch.linspace(0, 1, 3 * FEATURES)[::3]
        self.last = self.seen[2] if share else torch.zeros(())

    def model(self, x: Tensor) -> None:
        with torch.no_grad():
            self.seen[0] += 1
            self.seen[1:2].add_(x.mean())
            self.last.copy_(self.seen[1] / self.seen[0])
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(self.loc.expand(x.shape[0], LATENT), 1.0).to_event(1))
            logits = self.decoder(z) + self.turned * self.sliced + self.last
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("mode", ["recorded", "on"])
def test_tensors_may_lie_in_memory_as_they_like(mode, share, uncompiled):
    tensors_may_lie_in_memory_as_they_like(mode, share)


@pytest.mark.slow
def test_tensors_may_lie_in_memory_as_they_like_compiled():
    tensors_may_lie_in_memory_as_they_like("on", share=False)


@pytest.mark.slow
def test_code_that_does_not_know_of_shared_memory_is_refused():
    with pytest.warns(EagerWarning, match="its code differs from the recorded graph"):
        tensors_may_lie_in_memory_as_they_like("on", share=True, engine="recorded")


def tensors_may_lie_in_memory_as_they_like(mode, share, engine=None):
    data = [x.t().contiguous().t() for x in batches(12)]
    found = []
    for make in (pyro.infer.SVI, lambda *a: SVI(*a, compile=mode)):
        pyro.clear_param_store()
        torch.manual_seed(0)
        one = Awkward(share)
        svi = make(one.model, one.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
        losses = run(svi, data)
        found.append((losses, torch.cat([p.detach().flatten() for p in one.parameters()]), one.seen))
    assert svi.engine == (engine or {"on": "inductor", "recorded": "recorded"}[mode]), svi.why_not
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found[0][2], found[1][2])


class Plain:
    """A pair of plain modules with its nets in a list and its numbers in containers, as scripts have them."""

    def __init__(self):
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Linear(FEATURES, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 2 * LATENT))
        self.decoder = nn.Linear(LATENT, FEATURES)
        nets, scales, powers, options = [self.encoder], {"kl": 1.0}, [1.0, [1.0]], SimpleNamespace(shift=0.0)
        self.scales, self.powers, self.options, self.more = scales, powers, options, {"shift": 0.0}

        def model(x, more=self.more):
            pyro.module("decoder", self.decoder)
            with pyro.plate("data", x.shape[0]), pyro.poutine.scale(scale=powers[1][0]):
                with pyro.poutine.scale(scale=scales["kl"]):
                    z = pyro.sample("z", dist.Normal(x.new_zeros(x.shape[0], LATENT), 1.0).to_event(1))
                pyro.sample(
                    "x", dist.Bernoulli(logits=self.decoder(z) + options.shift + more["shift"]).to_event(1), obs=x
                )

        def guide(x):
            pyro.module("encoder", nets[0])
            with pyro.plate("data", x.shape[0]), pyro.poutine.scale(scale=powers[1][0]):
                loc, log_scale = nets[0](x).chunk(2, -1)
                with pyro.poutine.scale(scale=scales["kl"]):
                    pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

        self.model, self.guide = model, guide

    def parameters(self):
        return [*self.encoder.parameters(), *self.decoder.parameters()]


BETWEEN_STEPS = {
    "freeze": lambda one, optim: one.encoder.requires_grad_(False),
    "freeze a bias": lambda one, optim: one.encoder[0].bias.requires_grad_(False),
    "eval": lambda one, optim: one.encoder.eval(),
    "number in a dictionary": lambda one, optim: one.scales.update(kl=0.5),
    "number in a list of lists": lambda one, optim: one.powers[1].__setitem__(0, 0.5),
    "option": lambda one, optim: setattr(one.options, "shift", 0.5),
    "number in a default argument": lambda one, optim: one.more.update(shift=0.5),
    "hook": lambda one, optim: one.decoder.weight.register_hook(lambda grad: 0 * grad),
    "another group": lambda one, optim: optim.add_param_group({"params": one.decoder.parameters(), "lr": 1e-3}),
    "one parameter fewer": lambda one, optim: optim.param_groups[0]["params"].pop(),
}


@pytest.mark.filterwarnings("ignore:.*was not registered in the param store because requires_grad=False")
@pytest.mark.parametrize("mode", ["recorded", "on"])
@pytest.mark.parametrize(
    ("kind", "what"),
    [
        *(("torch", what) for what in BETWEEN_STEPS),
        *(("pyro", what) for what in BETWEEN_STEPS if what not in ("another group", "one parameter fewer")),
    ],
)
def test_what_is_changed_between_steps_is_noticed(kind, what, mode, uncompiled):
    found = []
    for compile in ("off", mode):
        pyro.clear_param_store()
        one = Plain()
        optim = pyro.optim.Adam({"lr": 1e-2})
        if kind == "torch":
            given = one.encoder.parameters() if what == "another group" else one.parameters()
            optim = torch.optim.Adam(given, lr=1e-2)
        svi = SVI(one.model, one.guide, optim, Trace_ELBO(), compile=compile)
        losses = run(svi, batches(12))  # the next audit would be at call 100
        BETWEEN_STEPS[what](one, optim)
        losses += run(svi, batches(6))
        found.append((losses, torch.cat([p.detach().flatten() for p in one.parameters()])))
    assert svi.compiled, svi.why_not
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-5, atol=1e-7)


class Kind(Enum):
    WIDE = 1.0
    NARROW = 2.0


class Options:
    power = 1.0


POWER = 1.0


class Loose(Programs):
    """With what scripts have in classes, globals, helpers and containers."""

    shift = 0.0

    def __init__(self):
        super().__init__()
        self.activation, self.kind, self.options, self.pair = torch.tanh, Kind.WIDE, {"shift": 0.0}, (0.0,)
        self.flags = set()

    def power(self):
        return POWER

    def powers(self):
        return self.power() * Options.power * self.kind.value * (lambda: POWER)() * (1 + len(self.flags))

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        shift = (
            self.shift + self.options["shift"] + self.options.get("more", 0.0) + self.pair[0] + hasattr(self, "cold")
        )
        with pyro.plate("data", x.shape[0]), pyro.poutine.scale(scale=self.powers()):
            z = pyro.sample("z", dist.Normal(x.new_zeros(x.shape[0], LATENT), 1.0).to_event(1))
            logits = self.activation(self.decoder(z)) + shift
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)


EXCHANGED = {
    "attribute in place of the class's": lambda one, svi, patch: setattr(one, "shift", 0.5),
    "attribute of a class": lambda one, svi, patch: patch.setattr(Options, "power", 2.0),
    "method of an object": lambda one, svi, patch: setattr(one, "power", lambda: 2.0),
    "method of a class": lambda one, svi, patch: patch.setattr(Loose, "power", lambda self: 2.0),
    "global of a method": lambda one, svi, patch: patch.setitem(globals(), "POWER", 2.0),
    "function": lambda one, svi, patch: setattr(one, "activation", torch.sigmoid),
    "enum": lambda one, svi, patch: setattr(one, "kind", Kind.NARROW),
    "dictionary": lambda one, svi, patch: setattr(one, "options", {"shift": 0.5}),
    "set": lambda one, svi, patch: one.flags.add("doubled"),
    "new entry": lambda one, svi, patch: one.options.update(more=0.5),
    "tuple": lambda one, svi, patch: setattr(one, "pair", (0.5,)),
    "new attribute": lambda one, svi, patch: setattr(one, "cold", True),
    "module": lambda one, svi, patch: one.decoder.__setitem__(1, nn.ReLU()),
    "hook of a module": lambda one, svi, patch: one.decoder.register_forward_hook(lambda *a: a[-1] / 2),
    "model": lambda one, svi, patch: setattr(svi, "model", pyro.poutine.scale(svi.model, scale=2.0)),
    "clip": lambda one, svi, patch: setattr(svi, "clip", 0.1),
}


@pytest.mark.parametrize("mode", ["recorded", "on"])
@pytest.mark.parametrize("what", EXCHANGED)
def test_what_is_exchanged_between_steps_is_noticed(what, mode, monkeypatch, uncompiled):
    found = []
    for compile in ("off", mode):
        pyro.clear_param_store()
        torch.manual_seed(0)
        one = Loose()
        optim = torch.optim.Adam(one.parameters(), lr=1e-2)
        svi = SVI(one.model, one.guide, optim, Trace_ELBO(), compile=compile, clip=5.0)
        losses = run(svi, batches(12))  # the next audit would be at call 100
        with monkeypatch.context() as patch:
            EXCHANGED[what](one, svi, patch)
            losses += run(svi, batches(6))
        found.append((losses, torch.cat([p.detach().flatten() for p in one.parameters()])))
    assert svi.compiled, svi.why_not
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-5, atol=1e-7)


def test_a_number_that_has_made_no_difference_may_make_one():
    found = []
    for mode in ("off", "recorded"):
        one = programs()

        def model(x, one=one):
            with pyro.poutine.scale(scale=1.0 if one.epoch < 4 else 0.1):
                one.model(x)

        svi = SVI(model, one.guide, torch.optim.Adam(everything(one)), Trace_ELBO(), compile=mode)
        losses = []
        for one.epoch in range(6):
            losses += run(svi, batches(6))
        found.append(losses)
    assert svi.compiled
    assert found[0] == pytest.approx(found[1], rel=1e-6)


@pytest.mark.parametrize("between", ["second", "removed"])
def test_hooks_that_are_added_or_removed_are_noticed(between):
    found = []
    for mode in ("off", "recorded"):
        one = programs()
        hook = one.decoder[0].weight.register_hook(lambda grad: grad / 2)
        svi = SVI(one.model, one.guide, torch.optim.Adam(everything(one), lr=1e-2), Trace_ELBO(), compile=mode)
        losses = run(svi, batches(12))
        hook.remove() if between == "removed" else one.decoder[0].weight.register_hook(lambda grad: 0 * grad)
        found.append(losses + run(svi, batches(6)))
    assert found[0] == pytest.approx(found[1], rel=1e-6)
    assert svi.compiled


def test_an_emptied_store_is_filled_with_the_same_draws():
    def model(x):
        z = pyro.sample("z", dist.Normal(pyro.param("loc", lambda: torch.randn(FEATURES)), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x.sum(0))

    def guide(x):
        pyro.sample("z", dist.Normal(pyro.param("mean", lambda: torch.randn(FEATURES)), 1.0).to_event(1))

    found = []
    for mode in ("off", "recorded"):
        pyro.clear_param_store()
        svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO(), compile=mode)
        losses = run(svi, batches(6))
        pyro.clear_param_store()
        found.append(losses + run(svi, batches(6), seed=3))
    assert svi.compiled
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_a_gradient_that_goes_through_an_argument_arrives():
    found = []
    for mode in ("off", "recorded"):
        one = programs()
        shift = nn.Parameter(torch.zeros(FEATURES))
        svi = SVI(
            lambda x, y, one=one: one.model(x),
            lambda x, y, one=one: one.guide(x + y),
            torch.optim.Adam([shift]),
            Trace_ELBO(),
            compile=mode,
        )
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", EagerWarning)
            for x in batches(3):
                svi.step(x, shift)
        found.append(shift.detach())
    assert [str(w.message) for w in said if w.category is EagerWarning] == [
        "SVI runs eagerly: an argument requires a gradient, which would not get through; detach it."
    ]
    assert found[0].any()
    assert torch.equal(*found)


def test_steps_without_gradients_train_nothing():
    found = []
    for mode in ("off", "recorded"):
        one = programs()
        svi = SVI(one.model, one.guide, torch.optim.Adam(everything(one)), Trace_ELBO(), compile=mode)
        run(svi, batches(3))
        with torch.no_grad():
            run(svi, batches(3))
        found.append(values(one))
    assert torch.equal(*found)


def test_what_a_refused_program_replaces_is_replaced_once():
    found = []
    for mode in ("off", "recorded"):
        one = programs()

        def model(x, one=one):
            one.beta = 0.9 * one.beta + 0.1 * x.mean()
            one.count += 1  # the class's at first
            with pyro.poutine.scale(scale=1 / one.count):
                one.model(x)

        svi = SVI(model, one.guide, torch.optim.Adam(everything(one)), Trace_ELBO(), compile=mode)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", EagerWarning)
            found.append([*run(svi, batches(4)), float(one.beta)])
    assert len(said) == 1
    assert found[0] == found[1]


def test_conjugates_are_data_of_another_kind():
    found = []
    for mode in ("off", "recorded"):
        one = programs()
        svi = SVI(
            lambda x, one=one: one.model(x.imag.abs()),
            lambda x, one=one: one.guide(x.imag.abs()),
            torch.optim.Adam(everything(one)),
            Trace_ELBO(),
            compile=mode,
        )
        data = [torch.complex(x, x) for x in batches(4)]
        with warnings.catch_warnings(action="ignore", category=EagerWarning):
            found.append(run(svi, [data[0], data[1].conj(), data[2], data[3].conj()]))
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_copies_record_anew(uncompiled):
    one = programs()
    svi = SVI(one.model, one.guide, torch.optim.Adam(one.parameters()), Trace_ELBO(), compile="on")
    run(svi, batches(3))
    other = copy.deepcopy(svi)
    assert run(other, batches(3)) == run(svi, batches(3))
    assert other.engine == "inductor"


@pytest.mark.parametrize("mode", ["off", "recorded"])
def test_the_first_step_of_plain_modules_runs_their_statistics_once(mode):
    torch.manual_seed(0)
    norm, decoder = nn.BatchNorm1d(FEATURES), nn.Linear(FEATURES, FEATURES)

    def model(x):
        with pyro.plate("data", x.shape[0]):
            pyro.sample("x", dist.Bernoulli(logits=decoder(norm(x))).to_event(1), obs=x)

    optim = torch.optim.Adam([*norm.parameters(), *decoder.parameters()])
    svi = SVI(model, lambda x: None, optim, Trace_ELBO(), compile=mode)
    for step, x in enumerate(batches(3), 1):
        svi.step(x)
        assert int(norm.num_batches_tracked) == step


def test_a_program_that_writes_into_its_argument_runs_eagerly_and_the_data_stay_whole():
    found = []
    for mode in ("off", "recorded"):
        one, data = programs(), batches(12)

        def guide(x, one=one):
            x.div_(2.0)
            one.guide(x)

        svi = SVI(one.model, guide, torch.optim.Adam(everything(one)), Trace_ELBO(), compile=mode)
        with warnings.catch_warnings(record=True) as said, pyro.validation_enabled(False):
            warnings.simplefilter("always")
            found.append((run(svi, data), values(one), torch.stack(data)))
    assert re.search(r"writes into its own argument.*test_svi.py:.*x.div_", str(said[-1].message))
    assert found[0][0] == found[1][0]
    assert all(map(torch.equal, found[0][1:], found[1][1:]))


AUTOGUIDES = [
    "AutoDelta",
    "AutoNormal",
    "AutoDiagonalNormal",
    "AutoMultivariateNormal",
    "AutoLowRankMultivariateNormal",
]


@pytest.mark.parametrize("name", AUTOGUIDES)
def test_guides_that_make_their_parameters_at_the_first_step(name):
    def model(x):
        w = pyro.sample("w", dist.Normal(torch.zeros(FEATURES), 1.0).to_event(1))
        s = pyro.sample("s", dist.HalfCauchy(torch.tensor(1.0)))
        with pyro.plate("data", x.shape[0]):
            pyro.sample("y", dist.Normal(x @ w, s), obs=x.sum(-1))

    losses = {}
    for make, options in ((pyro.infer.SVI, {}), (SVI, {"compile": "recorded"})):
        pyro.clear_param_store()
        svi = make(
            model, getattr(pyro.infer.autoguide, name)(model), PYRO_OPTIMIZERS["Adam"](), Trace_ELBO(), **options
        )
        losses[make] = run(svi, batches(8))
    assert svi.engine == "recorded"
    assert losses[SVI] == pytest.approx(losses[pyro.infer.SVI], rel=1e-5)


@pytest.mark.parametrize("mode", ["off", "recorded", "on"])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_no_parameter_changes_when_the_loss_is_not_finite(mode, clip, uncompiled):
    one = programs()
    svi = SVI(
        one.model,
        one.guide,
        torch.optim.Adam(everything(one), lr=1e-2),
        Trace_ELBO(),
        compile=mode,
        clip=clip,
    )
    run(svi, batches(3))
    assert bool(svi.finite)
    before = values(one)
    one.bonus.fill_(float("inf"))
    with warnings.catch_warnings(action="ignore"):
        svi.step(batches(1)[0])
    assert not bool(svi.finite)
    assert torch.equal(values(one), before)
    one.bonus.fill_(0.0)
    svi.step(batches(1)[0])
    assert bool(svi.finite)
    assert not torch.equal(values(one), before)
    assert bool(values(one).isfinite().all())


def test_loss_may_be_a_function():
    def loss(model, guide, x):
        return Trace_ELBO().differentiable_loss(model, guide, x)

    results = []
    for make in (pyro.infer.SVI, lambda *a: SVI(*a, compile="recorded")):
        one = programs()
        results.append(torch.tensor(run(make(one.model, one.guide, pyro.optim.Adam({"lr": 1e-2}), loss), batches(6))))
    torch.testing.assert_close(*results, rtol=1e-5, atol=0)


def test_losses_may_be_several():
    def model(x, observations=None):
        z = pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(())), 1.0))
        pyro.sample("x", dist.Normal(z.unsqueeze(-1), 1.0).expand([*z.shape, len(x)]).to_event(1), obs=x)

    def guide(x, observations=None):
        pyro.sample("z", dist.Normal(pyro.param("mean", torch.zeros(())), 1.0))

    results = []
    for make in (pyro.infer.SVI, lambda *a: SVI(*a, compile="recorded")):
        pyro.clear_param_store()
        torch.manual_seed(2)
        loss = ReweightedWakeSleep(num_particles=2, max_plate_nesting=0)
        svi = make(model, guide, pyro.optim.SGD({"lr": 1e-2}), loss)
        results.append([svi.step(torch.ones(3)) for _ in range(4)])
    assert isinstance(results[1][0], tuple)
    torch.testing.assert_close(torch.tensor(results[0]), torch.tensor(results[1]))


def test_parameters_of_plain_modules_train():
    encoder, decoder = net(FEATURES, 2 * LATENT), net(LATENT, FEATURES)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).expand([len(x), LATENT]).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(encoder(x)[:, :LATENT], 1.0).to_event(1))

    for mode in ("off", "recorded"):
        svi = SVI(
            model,
            guide,
            torch.optim.Adam([*encoder.parameters(), *decoder.parameters()]),
            Trace_ELBO(),
            compile=mode,
        )
        before = [p.detach().clone() for p in encoder.parameters()]
        run(svi, batches(2))
        assert not any(torch.equal(p, q) for p, q in zip(encoder.parameters(), before, strict=True))


def test_programs_may_run_in_a_scope_of_the_store():
    """As `fit` runs them: parameters live in a scope that is entered at each call."""

    class Bound:
        def __init__(self, program):
            self.program, self.state = program, None

        def __call__(self, batch):
            with pyro.get_param_store().scope(self.state) as self.state:
                return self.program(batch["x"])

    results = []
    for mode in ("off", "recorded"):
        one = programs()
        pyro.clear_param_store()
        model, guide = Bound(one.model), Bound(one.guide)
        svi = SVI(model, guide, torch.optim.Adam(one.parameters(), lr=1e-2), Trace_ELBO(), compile=mode)
        torch.manual_seed(2)
        results.append(torch.tensor([svi.step({"x": x}) for x in batches(6)]))
    assert svi.compiled
    torch.testing.assert_close(*results, rtol=1e-5, atol=0)


def test_evaluate_loss_is_pyros():
    one = programs()
    svi = SVI(one.model, one.guide, pyro.optim.Adam({}), Trace_ELBO())
    theirs = pyro.infer.SVI(one.model, one.guide, pyro.optim.Adam({}), Trace_ELBO())
    x = batches(1)[0]
    torch.manual_seed(3)
    a = svi.evaluate_loss(x)
    torch.manual_seed(3)
    assert a == theirs.evaluate_loss(x)


def test_auto_goes_by_the_number_of_steps(uncompiled):
    def engines(planned: int | None, *calls: int) -> list[str]:
        one = programs()
        svi = SVI(one.model, one.guide, torch.optim.Adam(everything(one)), Trace_ELBO(), steps=planned)
        found = []
        for call in calls:
            state = svi.state_dict()
            svi.load_state_dict({**state, "calls": dict.fromkeys(state["calls"], call - 1)})
            svi.step(batches(1)[0])
            found.append(svi.engine)
        return found

    assert engines(WORTH_RECORDING - 1, 1, 50) == ["eager"] * 2
    assert engines(WORTH_RECORDING, 1, PLANNED_COMPILES_AT) == ["recorded"] * 2
    compiles = PLANNED_COMPILES_AT
    assert engines(WORTH_COMPILING, 1, compiles - 1, compiles) == ["recorded", "recorded", "inductor"]
    calls = 1, RECORDS_AT - 1, RECORDS_AT, COMPILES_AT - 1, COMPILES_AT
    assert engines(None, *calls) == ["eager", "eager", "recorded", "recorded", "inductor"]


def test_recording_leaves_no_trace():
    """Random states, buffers, gradients and the store are after the first step what Pyro leaves."""
    import random

    import numpy as np

    one = programs(nn.BatchNorm1d(FEATURES))
    svi = SVI(one.model, one.guide, torch.optim.Adam(everything(one)), Trace_ELBO(), compile="recorded")
    states = random.getstate(), np.random.get_state()[1].tolist()

    torch.manual_seed(2)
    svi.step(batches(1)[0])
    after = torch.get_rng_state()
    names = list(pyro.get_param_store().keys())
    torch.manual_seed(2)
    Trace_ELBO().loss_and_grads(one.model, one.guide, batches(1)[0])
    assert torch.equal(torch.get_rng_state(), after)
    assert list(pyro.get_param_store().keys()) == names
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states
    assert one.encoder[0].num_batches_tracked == 2  # the step's, and the line above


def test_a_step_inside_a_pyro_handler_is_eager():
    one = programs()
    svi = SVI(one.model, one.guide, torch.optim.Adam(everything(one)), Trace_ELBO(), compile="recorded")
    with pyro.poutine.scale(scale=2.0), warnings.catch_warnings():
        svi.step(batches(1)[0])
    assert svi.why_not == "the step was called inside a Pyro handler"
    svi.step(batches(1)[0])
    assert svi.compiled


def test_arguments_that_cannot_be_compared_are_refused():
    class Batch:
        x = torch.ones(3, FEATURES)

    one = programs()
    svi = SVI(lambda b: one.model(b.x), lambda b: one.guide(b.x), torch.optim.Adam(everything(one)), Trace_ELBO())
    with pytest.warns(EagerWarning, match="an argument is a Batch, which may change without notice"):
        svi.step(Batch())


def test_mistakes_are_answered():
    one = programs()
    with pytest.raises(TypeError, match="optim is a float; give a Pyro optimizer"):
        SVI(one.model, one.guide, 1e-3, Trace_ELBO())
    with pytest.raises(ValueError, match="clip needs a torch optimizer, and optim is a Pyro one"):
        SVI(one.model, one.guide, pyro.optim.Adam({}), Trace_ELBO(), clip=1.0)
    with pytest.raises(ValueError, match="compile is 'yes'; give 'auto', 'on', 'off' or 'recorded'"):
        SVI(one.model, one.guide, pyro.optim.Adam({}), Trace_ELBO(), compile="yes")


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
    svi = SVI(one.model, one.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO(), compile="on")
    losses = svi.steps(xs)
    assert not svi.finite
    assert losses.isfinite().tolist() == [i != 15 for i in range(20)]
    assert values(one).isfinite().all()
    svi.steps(xs[:15])
    assert svi.finite


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


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.Adamax, ClippedAdam])
def test_steps_that_train_only_some_parameters_age_only_them(optimizer, uncompiled):
    """Adam corrects its averages by how many steps each parameter has taken."""
    found = []
    for mode in ("off", "recorded", "on"):
        always, sometimes = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(4))
        settings = {"both": True}

        def model(x, always=always, sometimes=sometimes, settings=settings):
            loc = always + sometimes if settings["both"] else always
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

        svi = SVI(model, lambda x: None, optimizer([always, sometimes], lr=0.1), Trace_ELBO(), compile=mode)
        for i, x in enumerate(torch.linspace(0, 9, 40).reshape(-1, 4)):
            settings["both"] = i % 4 == 0
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
    "another for each parameter": lambda optim, params: optim.optim_objs.update(
        {p: torch.optim.SGD([p], lr=1e-3) for p in optim.optim_objs}
    ),
    "one's own": lambda optim, params: None,
}


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
@pytest.mark.parametrize("mode", ["recorded", "on"])
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


@pytest.mark.parametrize(("off", "refused"), [({None}, False), ({None, OTHER_DRAWS}, True)])
def test_compiled_code_must_differ_on_two_draws_to_be_refused(off, refused, monkeypatch, uncompiled):
    def distance(self, losses, tensors, seed=None):
        return 2.0 if seed in off else 0.5

    monkeypatch.setattr("pyro_vae.svi.whole_step.UpdateCode.distance", distance)
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
