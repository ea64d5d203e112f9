"""Programs, guides, losses and arguments of all kinds."""

import copy
import re
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import ReweightedWakeSleep, Trace_ELBO
from svi_programs import FEATURES, LATENT, PYRO_OPTIMIZERS, batches, everything, net, programs, run, values
from tables import only
from torch import nn

import pyro_vae as pv
from pyro_vae.svi.eager import EagerWarning
from pyro_vae.svi.svi import SVI


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


@pytest.mark.slow
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


@pytest.mark.slow
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
    assert re.search(r"writes into its own argument.*test_programs.py:.*x.div_", str(said[-1].message))
    assert found[0][0] == found[1][0]
    assert all(map(torch.equal, found[0][1:], found[1][1:]))


AUTOGUIDES = [
    "AutoDelta",
    "AutoNormal",
    "AutoDiagonalNormal",
    "AutoMultivariateNormal",
    "AutoLowRankMultivariateNormal",
]


@pytest.mark.parametrize("name", only(AUTOGUIDES, ["AutoNormal", "AutoMultivariateNormal"]))
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


@pytest.mark.parametrize(
    ("mode", "clip"),
    [
        ("off", 1.0),
        ("recorded", 1.0),
        ("on", None),
        *(pytest.param(*slow, marks=pytest.mark.slow) for slow in (("off", None), ("recorded", None), ("on", 1.0))),
    ],
)
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


@pytest.mark.parametrize("mode", ["off", "on"])
def test_a_pyro_optimizer_cannot_see_the_store_of_a_pair(mode):
    data = pv.load_data("digits")
    pair = pv.pairs.latent(data.spec, latent=2, hidden=[8])
    svi = SVI(pair.bound_model, pair.bound_guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO(), compile=mode)
    with pytest.raises(TypeError, match=r"these programs have a store of their own.*give a torch optimizer"):
        svi.step(data.batch("train", 8))
    svi = SVI(pair.bound_model, pair.bound_guide, torch.optim.Adam(pair.named_parameters().values()), Trace_ELBO())
    before = {name: p.detach().clone() for name, p in pair.named_parameters().items()}
    svi.step(data.batch("train", 8))
    assert [name for name, p in pair.named_parameters().items() if torch.equal(p, before[name])] == []
