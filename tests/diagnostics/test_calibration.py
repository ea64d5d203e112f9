"""Calibration both ways: it passes the exact posterior, and rejects a scale of 0.7, a shift, a lost correlation, a collapse.

Rates over many trials are in docs/diagnostics.md; ``benchmarks/diagnostics_rates.py`` measures them.
"""

import pyro
import pyro.distributions as dist
import pytest
import torch
from truths import DAMAGES, damaged, data, exact_guide, linear, neural

import pyro_vae as pv
from pyro_vae.diagnostics.calibration import averaged, calibrate, uniform
from pyro_vae.models.linear import LinearModel
from pyro_vae.program import simulate


@pytest.fixture
def model() -> LinearModel:
    return linear()


def test_the_exact_posterior_is_calibrated(model):
    ranks, coverage = calibrate(damaged(model, "none"), data(model, 1000))
    assert set(ranks.ranks) == {"log p(x, z)", "z[0]", "z[1]"}
    assert ranks.pvalue > 0.01
    assert coverage.pvalue > 0.01
    assert coverage.at(0.9) == pytest.approx(0.9, abs=0.03)
    assert all(r.min() >= 0 and r.max() <= 63 for r in ranks.ranks.values())


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_posterior_is_not(model, how):
    ranks, _ = calibrate(damaged(model, how), data(model, 1000))
    assert ranks.pvalue < 1e-4
    if how in ("correlation", "collapse"):  # no dimension alone shows it
        assert ranks.worst == "log p(x, z)"


@pytest.mark.parametrize("how", ["none", *DAMAGES])
def test_the_average_over_data_is_told_from_the_prior(model, how):
    """A collapsed dimension is right on average: this test alone passes it."""
    pvalue = averaged(damaged(model, how), {"x": torch.zeros(4000, 3).double()}).pvalue
    assert pvalue > 0.01 if how in ("none", "collapse") else pvalue < 1e-3


@pytest.mark.slow
def test_a_neural_posterior_is_calibrated_on_the_grid_and_not_when_narrowed():
    """The posterior of a neural pair, summed over a grid, is no Gaussian: nothing here is made for one."""
    batch = {"x": torch.zeros(800, 8).double()}
    ranks, coverage = calibrate(exact_guide(neural()), batch)
    assert ranks.pvalue > 0.01
    assert coverage.pvalue > 0.01
    ranks, coverage = calibrate(exact_guide(neural(), 0.7), batch)
    assert max(ranks.pvalue, coverage.pvalue) < 1e-4


def test_batches_make_no_difference_and_inner_plates_are_told_from_the_data(model):
    pair, x = damaged(model, "shift"), torch.zeros(60, 3).double()
    whole, covered = calibrate(pair, {"x": x})
    parts, again = calibrate(pair, ({"x": x[i : i + 7]} for i in range(0, 60, 7)))
    assert all(torch.equal(whole.ranks[name], parts.ranks[name]) for name in whole.ranks)
    assert torch.equal(covered.fractions, again.fractions)
    assert averaged(pair, {"x": x}) == averaged(pair, [{"x": x[:50]}, {"x": x[50:]}])

    def model_of_words(x):
        with pyro.plate("data", len(x), dim=-1), pyro.plate("words", 60, dim=-2):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x.T)

    def guide(x):
        first = torch.tensor([0.3] + [1.0] * 59)[:, None]  # wrong for the first word alone
        with pyro.plate("data", len(x), dim=-1), pyro.plate("words", 60, dim=-2):
            pyro.sample("z", dist.Normal(x.T / 2, 0.5**0.5 * first))

    ranks, _ = calibrate(pv.Pair(model_of_words, guide), {"x": torch.zeros(60, 60)})
    assert set(ranks.ranks) == {"log p(x, z)", *(f"z[{j}]" for j in range(60))}
    assert ranks.pvalues["z[0]"] < 1e-3
    assert min(p for name, p in ranks.pvalues.items() if name.startswith("z[") and name != "z[0]") > 1e-4


@pytest.mark.parametrize(
    ("how", "name", "fault"),
    [
        ("scale", "z[0]", "q is too narrow"),
        ("scale 1.5", "z[0]", "q is too wide"),
        ("shift", "z[1]", "q is too high"),
        ("scale", "log p(x, z)", "draws of q are more probable than the truth"),
        ("correlation", "log p(x, z)", "draws of q are less probable than the truth"),
    ],
)
def test_the_fault_of_a_posterior_is_named(model, how, name, fault):
    assert calibrate(damaged(model, how), data(model, 500))[0].fault(name) == fault


def test_coverage_sees_a_narrow_posterior(model):
    _, coverage = calibrate(damaged(model, "scale"), data(model, 1000))
    assert coverage.pvalue < 1e-6
    assert coverage.at(0.9) < 0.85


def test_discrete_latents_are_calibrated_too():
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    centres = torch.tensor([-1.0, 0.0, 1.5]).double()

    def model(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(centres[c], 0.7), obs=x)

    def guide(power):
        def run(x):
            logits = weights.log() + dist.Normal(centres, 0.7).log_prob(x[:, None])
            with pyro.plate("data", len(x)):
                pyro.sample("c", dist.Categorical(logits=power * logits))

        return run

    batch = {"x": torch.zeros(2000).double()}
    assert calibrate(pv.Pair(model, guide(1.0)), batch)[0].pvalue > 0.01
    assert calibrate(pv.Pair(model, guide(2.0)), batch)[0].pvalue < 1e-4


@pytest.mark.usefixtures("unchanged_random_state")
def test_calibration_can_be_repeated_and_leaves_no_trace(model):
    first, second = (calibrate(damaged(model, "none"), {"x": torch.zeros(50, 3).double()})[0] for _ in range(2))
    assert all(torch.equal(first.ranks[name], second.ranks[name]) for name in first.ranks)


def test_arviz_draws_the_ranks(model):
    az = pytest.importorskip("arviz", reason="draws the ranks")
    import matplotlib
    import matplotlib.pyplot as plt

    backend = matplotlib.get_backend()
    matplotlib.use("agg")
    try:
        az.plot_ecdf_pit(calibrate(damaged(model, "none"), data(model, 200))[0].to_datatree())
    finally:
        plt.close("all")
        matplotlib.use(backend)


def test_the_uniformity_test_is_honest():
    generator = torch.Generator().manual_seed(0)
    pvalues = [uniform(torch.randint(0, 64, (500,), generator=generator), 64) for _ in range(400)]
    assert sum(p < 0.05 for p in pvalues) / 400 == pytest.approx(0.05, abs=0.035)
    assert uniform(torch.zeros(500), 64) < 1e-10


def test_a_model_that_observes_a_part_of_its_data_in_another_order_can_be_simulated():
    """The rest of the field stays: it is a condition."""

    def model(x):
        with pyro.plate("data", len(x)), pyro.plate("items", 2, dim=-2):
            z = pyro.sample("z", dist.Normal(x[:, 0], 0.01))
            pyro.sample("seen", dist.Normal(z, 0.01), obs=x[:, [3, 1]].T)

    def guide(x):
        with pyro.plate("data", len(x)), pyro.plate("items", 2, dim=-2):
            pyro.sample("z", dist.Normal(x[:, [3, 1]].T, 0.01))

    x = torch.randn(6, 4)
    drawn, latent = simulate(pv.Pair(model, guide), {"x": x})
    assert torch.equal(drawn["x"][:, [0, 2]], x[:, [0, 2]])
    assert torch.allclose(drawn["x"][:, [3, 1]], x[:, :1].expand(-1, 2), atol=0.1)
    assert torch.allclose(drawn["x"][:, [3, 1]], latent["z"].T, atol=0.06)
    assert not torch.equal(drawn["x"][:, 1], drawn["x"][:, 3])


def test_a_model_that_cannot_be_simulated_is_named():
    def other(y):
        with pyro.plate("data", len(y)):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=2 * y)

    # what the site observes is no number of the field: draws of it would not belong there
    with pytest.raises(
        pv.PairError, match=r"cannot be simulated: its observed site 'x' is no part of a field of the batch \(y\)"
    ):
        simulate(pv.Pair(other, lambda y: None), {"y": torch.zeros(4)})
