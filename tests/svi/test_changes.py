"""What changes between steps is noticed"""

from enum import Enum
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from svi_programs import BATCH, FEATURES, LATENT, Programs, batches, everything, programs, run
from tables import only, some
from torch import Tensor, nn

from pyro_vae.svi.svi import (
    SVI,
)


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


@pytest.mark.slow
@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("mode", ["recorded", "on"])
def test_tensors_may_lie_in_memory_as_they_like(mode, share, uncompiled):
    tensors_may_lie_in_memory_as_they_like(mode, share)


@pytest.mark.slow
def test_tensors_may_lie_in_memory_as_they_like_compiled():
    tensors_may_lie_in_memory_as_they_like("on", share=False)


@pytest.mark.slow
def test_tensors_may_share_memory_that_is_written_compiled():
    tensors_may_lie_in_memory_as_they_like("on", share=True)


def tensors_may_lie_in_memory_as_they_like(mode, share):
    data = [x.t().contiguous().t() for x in batches(12)]
    found = []
    for make in (pyro.infer.SVI, lambda *a: SVI(*a, compile=mode)):
        pyro.clear_param_store()
        torch.manual_seed(0)
        one = Awkward(share)
        svi = make(one.model, one.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
        losses = run(svi, data)
        found.append((losses, torch.cat([p.detach().flatten() for p in one.parameters()]), one.seen))
    assert svi.engine == {"on": "inductor", "recorded": "recorded"}[mode], svi.why_not
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


CHANGED = [("torch", what) for what in BETWEEN_STEPS]
CHANGED += [("pyro", what) for what in BETWEEN_STEPS if what not in ("another group", "one parameter fewer")]
QUICK = [
    ("torch", "freeze"),
    ("torch", "one parameter fewer"),
    ("torch", "number in a default argument"),
    ("pyro", "eval"),
]


# what is watched for is the same, compiled or not
@pytest.mark.filterwarnings("ignore:.*was not registered in the param store because requires_grad=False")
@pytest.mark.parametrize("mode", ["recorded", pytest.param("on", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("kind", "what"), only(CHANGED, QUICK))
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


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["recorded", "on"])
@pytest.mark.parametrize("what", some(EXCHANGED, 3))
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


@pytest.mark.slow
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


@pytest.mark.slow
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
