"""What check_pair proves by running a pair more than once: each kind of mistake, its neighbours, and sound pairs beside them."""

import random

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import nn

import pyro_vae as pv

B, D, Z = 12, 5, 2
torch.manual_seed(3)
X = torch.randn(B, D)
BATCH = {"x": X, "y": torch.arange(B) % 3}
PLANAR = dist.transforms.planar(Z).requires_grad_(False)
NET, ENC = nn.Linear(Z, D), nn.Linear(D, Z)


def model(x):
    pyro.module("net", NET)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(Z), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(NET(z), 1.0).to_event(1), obs=x)


def guide_of(features, wrap=lambda loc: dist.Normal(loc, 0.5).to_event(1)):
    def guide(x, y):
        pyro.module("encoder", ENC)
        with pyro.plate("data", len(x)):
            pyro.sample("z", wrap(ENC(features(x, y))))

    return guide


def model_of(mean, net=NET):
    def model(x):
        pyro.module("net", net)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(Z), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(mean(z, x), 1.0).to_event(1), obs=x)

    return model


def said(model, guide, batch=BATCH, **options):
    return " | ".join(map(str, pv.find_problems(pv.Pair(model, guide, **options), batch)))


OTHER_DATA = {
    "shuffled": lambda x, y: x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))],
    "rolled": lambda x, y: x.roll(1, 0),
    "flipped": lambda x, y: x.flip(0),
    "mean": lambda x, y: x - x.mean(0),
    "a little of the mean": lambda x, y: x + 0.01 * x.mean(0),
    "max": lambda x, y: x / x.abs().max(),
    "cumsum": lambda x, y: x.cumsum(0),
    "cumsum backwards": lambda x, y: x.flip(0).cumsum(0).flip(0),
    "sort": lambda x, y: x.sort(0).values,
    "rank": lambda x, y: x.argsort(0).argsort(0).float(),
    "the first": lambda x, y: x + x[0],
    "the last": lambda x, y: x + x[-1],
    "attention": lambda x, y: (x @ x.T).softmax(-1) @ x,
    "y of others": lambda x, y: x + y.roll(1)[:, None],
    "share of y": lambda x, y: x + (y == 0).float().cumsum(0)[:, None],
    "batch statistics": lambda x, y: nn.functional.batch_norm(x, None, None, training=True),
}


@pytest.mark.parametrize(
    ("kind", "wrap"),
    [*((k, None) for k in OTHER_DATA), *((k, w) for k in ("mean", "cumsum") for w in ("point", "flow"))],
)
def test_a_guide_that_reads_other_data_is_refused(kind, wrap):
    wraps = {
        None: lambda loc: dist.Normal(loc, 0.5).to_event(1),
        "point": lambda loc: dist.Delta(loc, event_dim=1),
        "flow": lambda loc: dist.TransformedDistribution(dist.Normal(loc, 0.5).to_event(1), [PLANAR]),
    }
    message = said(model, guide_of(OTHER_DATA[kind], wraps[wrap]))
    assert "log q of site 'z'" in message
    assert "only other data of the batch change" in message


SOUND_FEATURES = {
    "itself": lambda x, y: x,
    "norm of a datum": lambda x, y: x / x.norm(dim=-1, keepdim=True),
    "sorted within a datum": lambda x, y: x.sort(-1).values,
    "y of its own": lambda x, y: x + y[:, None],
    "batch norm": lambda x, y: NORM(x),
    "dropout": lambda x, y: DROPOUT(x),
    "dropout that stays on": lambda x, y: nn.functional.dropout(x, 0.5),
}
NORM, DROPOUT = nn.BatchNorm1d(D), nn.Dropout(0.5)


@pytest.mark.parametrize("kind", SOUND_FEATURES)
def test_a_guide_that_reads_its_own_datum_passes(kind):
    assert not said(model, guide_of(SOUND_FEATURES[kind]))
    assert NORM.training
    assert DROPOUT.training


@pytest.mark.parametrize(
    "mean", [lambda z, x: NET(z.roll(1, 0)), lambda z, x: NET(z - z.mean(0)), lambda z, x: NET(z.cumsum(0))]
)
def test_a_model_whose_x_reads_the_latents_of_others_is_refused(mean):
    assert "log p of site 'x'" in said(model_of(mean), guide_of(lambda x, y: x))


ZERO = nn.Linear(Z, D)
nn.init.zeros_(ZERO.weight)


def test_a_model_whose_x_ignores_every_latent_is_refused_and_one_that_begins_at_zero_is_not():
    message = said(model_of(lambda z, x: NET(0 * z)), guide_of(lambda x, y: x))
    assert "no observed site" in message
    assert "log p of 'x' is the same whatever 'z' is" in message
    before = ZERO.weight.clone()
    assert not said(model_of(lambda z, x: ZERO(z), ZERO), guide_of(lambda x, y: x))
    assert torch.equal(ZERO.weight, before)


def test_a_discrete_latent_that_nothing_reads_is_refused():
    def ignored(x):
        loc = pyro.param("loc", torch.zeros(3, D))
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(torch.ones(3) / 3), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(loc[k] if READS else loc.sum(0), 1.0).to_event(1), obs=x)

    objective = pyro.infer.TraceEnum_ELBO(max_plate_nesting=1)
    for READS in (False, True):
        assert ("no observed site" in said(ignored, lambda x: None, objective=objective)) is not READS


def test_pairs_without_local_latents_pass():
    loc = nn.Parameter(torch.zeros(D))

    class Density(nn.Module):
        def __init__(self):
            super().__init__()
            self.loc = loc

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(self.loc, 1.0).to_event(1), obs=x)

    def regression(x, y):
        w = pyro.sample("w", dist.Normal(torch.zeros(D), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal((x * w).sum(-1), 1.0), obs=y.float())

    assert not said(Density(), lambda x: None)
    assert not said(regression, AutoNormal(regression))
    assert not said(model, AutoNormal(model), {"x": X})


CHANCES = {
    "python": lambda: random.random() < 1 / 3,
    "numpy": lambda: np.random.rand() < 1 / 3,
    "torch": lambda: torch.rand(()) < 1 / 3,
    "counter": lambda calls=[]: calls.append(0) or len(calls) % 2 == 0,
}


@pytest.mark.parametrize("chance", CHANCES)
@pytest.mark.parametrize("where", ["model", "guide"])
def test_structure_that_differs_from_call_to_call_is_refused(chance, where):
    def extra(x):
        if CHANCES[chance]():
            pyro.sample("extra", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})

    def other_model(x):
        model(x)
        extra(x)

    def other_guide(x, y):
        guide_of(lambda x, y: x)(x, y)
        extra(x)

    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    pair = (other_model, guide_of(lambda x, y: x)) if where == "model" else (model, other_guide)
    message = said(*pair)
    assert "differ from call to call, first 'extra'" in message
    assert random.getstate() == states[0]
    assert (np.random.get_state()[1] == states[1]).all()
    assert torch.equal(torch.get_rng_state(), states[2])


def test_what_depends_on_the_number_of_data_is_refused_and_a_parameter_for_each_position_is_not():
    words = "at a datum changes when only other data of the batch are left out"
    assert f"log q of site 'z' of guide_of.<locals>.guide {words}" in said(model, guide_of(lambda x, y: x * len(x)))
    assert f"log p of site 'x' of model_of.<locals>.model {words}" in said(
        model_of(lambda z, x: NET(z) / len(z)), guide_of(lambda x, y: x)
    )
    places = nn.Embedding(2 * B, D).requires_grad_(False)
    assert not said(model, guide_of(lambda x, y: x + places(torch.arange(len(x)))))
    assert not said(model, guide_of(lambda x, y: x + torch.randn(len(x), D)))


def test_a_distribution_that_differs_from_call_to_call_is_refused():
    def family(loc):
        return (dist.Normal if torch.rand(()) < 0.5 else dist.Laplace)(loc, 0.5).to_event(1)

    message = said(model, guide_of(lambda x, y: x, family))
    assert "differ from call to call, first 'z' (its plates, its shape or its distribution)" in message


def twice(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(Z), 1.0).to_event(1))
        z = pyro.sample("z", dist.Normal(torch.zeros(Z), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(NET(z), 1.0).to_event(1), obs=x)


def two_plates(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(Z), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(NET(z), 1.0).to_event(1), obs=x)


def one_plate(x):
    pyro.module("net", NET)
    data = pyro.plate("data", len(x))
    with data:
        z = pyro.sample("z", dist.Normal(torch.zeros(Z), 1.0).to_event(1))
    with data:
        pyro.sample("x", dist.Normal(NET(z), 1.0).to_event(1), obs=x)


def param_and_site(x):
    pyro.param("z", torch.zeros(Z))
    model(x)


def no_event(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(Z), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(NET(z), 1.0), obs=x)


def no_event_image(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(Z), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(NET(z).reshape(-1, 1, 1, D), 1.0), obs=x)


def rows_of(likelihood, rows=3):
    def rows_model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(Z), 1.0).to_event(1))
            means, seen = (value[:, None].expand(-1, rows, -1) for value in (NET(z), x))
            pyro.sample("x", likelihood(means), obs=seen)

    return rows_model


def all_data(x):
    pyro.module("net", NET)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(Z), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(NET(z), 1.0).to_event(2), obs=x)


def wrong_plate(x):
    with pyro.plate("data", 100):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x), Z), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(NET(z), 1.0).to_event(1), obs=x)


def bernoulli(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(Z), 1.0).to_event(1))
        pyro.sample("x", dist.Bernoulli(logits=NET(z)).to_event(1), obs=x)


def no_x(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(Z), 1.0).to_event(1))


GUIDE = guide_of(lambda x, y: x)
SENTENCES = [
    (twice, GUIDE, BATCH, ["twice has two sites named 'z'", "a name of its own"]),
    (two_plates, GUIDE, BATCH, ["two_plates opens the plate 'data' twice", "data = pyro.plate('data', len(x))"]),
    (param_and_site, GUIDE, BATCH, ["'z'", "a name of its own"]),
    (no_event, GUIDE, BATCH, ["site 'x' of no_event has size 5 at dim -1", "'data' has 12", ".to_event(1)"]),
    (no_event_image, no_x, {**BATCH, "x": X[:, None, None]}, ["site 'x' of no_event_image", ".to_event(3)"]),
    (rows_of(lambda loc: dist.Normal(loc, 1.0).to_event(1)), GUIDE, BATCH, ["size 3 at dim -1", ".to_event(2)"]),
    (
        rows_of(lambda loc: dist.MultivariateNormal(loc, torch.eye(D))),
        GUIDE,
        BATCH,
        ["size 3 at dim -1", ".to_event(1)"],
    ),
    (all_data, GUIDE, BATCH, ["site 'x' has event shape (12, 5), which takes in all 12 data", ".to_event(1)"]),
    (
        model,
        guide_of(lambda x, y: x, lambda loc: dist.Normal(loc, 0.5).to_event(2)),
        BATCH,
        ["event shape (12, 2)", ".to_event(...): 1"],
    ),
    (wrong_plate, GUIDE, BATCH, ["plate 'data' of wrong_plate has size 100 and the batch 12 data", "len(x)"]),
    (model, GUIDE, {**BATCH, "x": X.numpy()}, ["the field 'x' is a numpy.ndarray", "torch.as_tensor(x)"]),
    (model, GUIDE, {**BATCH, "x": X.tolist()}, ["the field 'x' is a list", "torch.as_tensor(x)"]),
    (model, GUIDE, X, ["the batch is a Tensor and must be a dictionary", "{'x': ...}"]),
    (model, GUIDE, {"x": X[:0], "y": BATCH["y"][:0]}, ["'x' has shape (0, 5), which is no datum"]),
    (model, GUIDE, {"x": X, "y": BATCH["y"][:3]}, ["the field 'y' has 3 rows and the field 'x' has 12"]),
    (
        model,
        GUIDE,
        {**BATCH, "x": X.double()},
        ["'x' is float64", "needs float32", "x.to(torch.float32)", "or the nets"],
    ),
    (model, GUIDE, {**BATCH, "x": X.long()}, ["'x' is int64", "needs float32", "x.to(torch.float32)"]),
    (bernoulli, no_x, {"x": (X > 0).long()}, ["'x' is int64", "bernoulli needs float32"]),
    (
        model,
        guide_of(lambda x, y: x * torch.where(y, 1.0, 2.0)[:, None]),
        {"x": X, "y": BATCH["y"] // 2},
        ["'y' is int64", "needs bool", "y.to(torch.bool)"],
    ),
]


@pytest.mark.parametrize("row", range(len(SENTENCES)))
def test_what_pyro_and_torch_raise_is_said_in_words_of_the_pair(row):
    program, guide, batch, words = SENTENCES[row]
    message = said(program, guide, batch)
    for word in words:
        assert word in message
    with pytest.raises(pv.PairError):
        pv.check_pair(program, guide, batch)


def test_one_plate_may_be_entered_twice():
    assert not said(one_plate, GUIDE)


def test_the_check_takes_few_runs():
    calls = []

    def counted(x):
        calls.append(1)
        model(x)

    assert not said(counted, GUIDE)
    assert len(calls) <= 32


def test_a_costly_draw_is_not_made_in_every_run() -> None:
    """And a site that comes and goes beside it is still noticed."""
    draws: list[int] = []

    class Costly(dist.Normal):
        passes = 100

        def rsample(self, *args: object, **kwargs: object) -> torch.Tensor:
            draws.append(1)
            return super().rsample(*args, **kwargs)

    def model(x: torch.Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", Costly(torch.zeros(len(x)), 1.0))
            if comes_and_goes and torch.rand(()) < 0.3:
                pyro.sample("odd", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: torch.Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.7))

    comes_and_goes = False
    batch = {"x": torch.randn(8)}
    assert pv.find_problems(pv.Pair(model, guide), batch) == []
    assert 0 < len(draws) < 8
    comes_and_goes = True
    found = pv.find_problems(pv.Pair(model, guide), batch)
    assert any("differ from call to call, first 'odd'" in problem.problem for problem in found)
