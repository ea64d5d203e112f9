"""What is learned does not depend on the unit that real data happen to be given in."""

import itertools
import math
from functools import cache

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from tables import only, some
from torch import Tensor

import pyro_vae as pv
from pyro_vae.conditionals import Bernoulli, Conditional, Flow, FullCovariance, Head, LowRank, Normal
from pyro_vae.data import load_data
from pyro_vae.pairs.likelihoods import likelihood
from pyro_vae.pairs.units import InUnits, Units
from pyro_vae.posterior import reconstruct

D = 6


def table(kind: str = "plain") -> np.ndarray:
    """Return x in float64, ``(160, D)``: three latent directions and noise."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(160, 3)) @ rng.normal(size=(3, D)) + 0.3 * rng.normal(size=(160, D))
    if kind == "unit":
        x = (x - x.min()) / (x.max() - x.min())
    if kind == "constant":
        x[:, 2] = 0.1
    if kind == "doubled":
        x[:, 3] = x[:, 1]
    return x


def trained(x: np.ndarray, epochs: int = 3, **options):
    data = load_data({"x": x.astype(np.float32)}, seed=0)
    torch.manual_seed(0)
    pair = pv.pairs.latent(data.spec, **{"latent": 2, "hidden": [8], **options})
    return pv.fit(pair, data, epochs=epochs, batch_size=32, compile="off"), data


@cache
def elbo(kind: str, scale: float, likelihood: str = "auto", prior: str = "normal") -> float:
    fitted, _ = trained(table(kind) * scale, likelihood=likelihood, prior=prior)
    return fitted.history[-1]["elbo"]


SCALED = [*itertools.product(["plain", "unit", "constant", "doubled"], [1e-6, 1e-3, 2.0**20, 1e6])]
QUICK = [("plain", 1e-6), ("plain", 1e6), ("unit", 1e6), ("constant", 1e-6), ("doubled", 1e6)]


@pytest.mark.parametrize(("kind", "scale"), only(SCALED, QUICK))
def test_elbo_and_d_log_s_do_not_depend_on_s(kind, scale):
    assert elbo(kind, scale) + D * math.log(scale) == pytest.approx(elbo(kind, 1.0), abs=2e-3)


OTHERS = [("normal-predicted", "vamp"), ("normal-per-feature", "normal")]


@pytest.mark.parametrize(("likelihood", "prior"), some(OTHERS, 2))
def test_nor_with_other_scales_and_priors(likelihood, prior):
    found, expected = (elbo("plain", scale, likelihood, prior) for scale in (1e6, 1.0))
    assert found + D * math.log(1e6) == pytest.approx(expected, abs=2e-3)


def test_features_of_different_scales_are_learned_alike():
    each = 10.0 ** np.array([-3, 0, 1, 2, 4, 6])
    fitted, data = trained(table() * each)
    assert fitted.history[-1]["elbo"] + np.log(each).sum() == pytest.approx(elbo("plain", 1.0), abs=2e-3)
    batch = data.batch("test", 8)
    means = reconstruct(fitted.pair, batch)["x"]  # in the data's own units
    assert means.shape == batch["x"].shape
    assert ((means - data.spec.mean).abs() < 4 * data.spec.std).all()
    assert (means.std(0) > 1e-4 * data.spec.std).all()


def test_an_offset_costs_what_float32_loses():
    for offset, error in ((1e3, 0.01), (1e6, 1.0)):  # of 1e6 deviations float32 keeps a sixteenth of one
        fitted, _ = trained(table() + offset)
        assert fitted.history[-1]["elbo"] == pytest.approx(elbo("plain", 1.0), abs=error)


def test_the_linear_pair_is_pca_in_any_unit():
    found = []
    for scale in (1.0, 1e6, 1e-6):
        data = load_data({"x": (table() * scale).astype(np.float32)})
        torch.manual_seed(0)
        fitted = pv.fit(pv.pairs.linear(data.spec, latent=3), data, epochs=3, batch_size=32, compile="off")
        found.append(fitted.history[-1]["elbo"] + D * math.log(scale))
        model, batch = fitted.pair.model, data.batch("test", 16)
        exact = model.marginal().log_prob(batch["x"]).double()
        estimate = pv.log_evidence(fitted.pair, batch, num_samples=5, proposal="guide").estimate  # which is exact
        torch.testing.assert_close(estimate.double(), exact, atol=2e-2, rtol=1e-4)
    assert found[1:] == pytest.approx([found[0]] * 2, abs=2e-3)


HEADS = {
    "predicted": lambda: Normal(3),
    "fixed": lambda: Normal(3, "fixed", value=20.0),
    "learned": lambda: Normal(3, "learned", value=7.0),
    "low rank": lambda: LowRank(3),
    "full": lambda: FullCovariance(3),
    "flow": lambda: Flow(3, "coupling", layers=2),
}
UNITS = Units(torch.tensor([1e3, -5.0, 0.0]), torch.tensor([1e2, 1e-3, 7.0]))


@pytest.mark.parametrize("name", HEADS)
def test_the_change_of_variables_is_counted(name):
    torch.manual_seed(0)
    head = InUnits(HEADS[name](), UNITS)
    parameters = torch.randn(4, head.size)
    p, inner = head(parameters), head.head(parameters)
    x = p.rsample()
    jacobian = torch.distributions.AffineTransform(UNITS.loc, UNITS.scale, event_dim=1)
    moved = dist.TransformedDistribution(inner, [jacobian])
    torch.testing.assert_close(p.log_prob(x), moved.log_prob(x), atol=2e-3, rtol=1e-4)
    assert (p.batch_shape, p.event_shape, p.has_rsample) == ((4,), (3,), True)
    assert p.expand([5, 4]).log_prob(x).shape == (5, 4)
    if name != "flow":
        torch.testing.assert_close(p.mean, UNITS(inner.mean))
        torch.testing.assert_close(p.stddev, UNITS.scale * inner.stddev)


def test_a_fixed_scale_is_in_the_datas_units():
    p = InUnits(Normal(3, "fixed", value=20.0), UNITS)(torch.zeros(3))
    torch.testing.assert_close(p.stddev, torch.full((3,), 20.0))


@pytest.mark.parametrize("name", ["predicted", "learned", "low rank", "full"])
def test_a_decoder_starts_at_the_datas_mean_and_spread(name):
    torch.manual_seed(0)
    head = InUnits(HEADS[name](), UNITS)
    mean, std = UNITS.loc + 0.1 * UNITS.scale, 0.9 * UNITS.scale
    p = Conditional(torch.nn.Linear(2, head.size), head).start_at(mean, std, shrink=0.0)(torch.zeros(2))
    torch.testing.assert_close(p.mean, mean)
    torch.testing.assert_close(p.stddev, std, rtol=1e-4, atol=0)


def test_data_with_a_natural_unit_are_read_as_they_are():
    digits = load_data("digits").spec
    assert Units.of(digits) is None
    assert isinstance(likelihood(digits), Normal)
    assert not [name for name in pv.pairs.latent(digits).named_buffers() if "units" in name]


def test_units():
    spec = load_data({"x": table("constant").astype(np.float32)}).spec
    units = Units.of(spec)
    assert units is not None
    torch.testing.assert_close(units.inverse(units(torch.ones(D))), torch.ones(D))
    varying = torch.arange(D) != 2
    torch.testing.assert_close(units.scale[varying], spec.std[varying])
    torch.testing.assert_close(units.scale[2], spec.std[varying].median())
    common = Units.of(spec, "common")
    assert common is not None
    assert common.scale.unique().numel() == 1
    nothing = Units.of(load_data({"x": np.full((40, 2), 7.5, dtype=np.float32)}).spec)
    assert nothing is not None
    assert nothing.scale.tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match="units are positive, and the smallest here is 0"):
        Units(torch.zeros(2), torch.tensor([1.0, 0.0]))


class Laplace(Head):
    """A likelihood of a user's own."""

    def __init__(self, features: int) -> None:
        super().__init__(features, features)
        self.raw_scale = torch.nn.Parameter(torch.zeros(()))

    def forward(self, parameters: Tensor):
        return dist.Laplace(parameters, self.raw_scale.exp()).to_event(1)

    def start(self, mean: Tensor, std: Tensor | None = None) -> Tensor:
        return mean


def test_a_ready_made_head_over_the_reals_is_brought_into_units_and_others_are_not():
    found = []
    for scale in (1.0, 1e6):
        fitted, data = trained(table() * scale, likelihood=Laplace(D))
        found.append(fitted.history[-1]["elbo"] + D * math.log(scale))
        assert isinstance(fitted.pair.model.decoder.head, InUnits)
        assert isinstance(likelihood(data.spec, Bernoulli(D)), Bernoulli)
    assert found[1] == pytest.approx(found[0], abs=2e-3)
