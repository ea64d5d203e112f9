"""``to_datatree``: what ArviZ reads is what the pair says, for VAEs and for any other Pyro model and guide."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from pyro.infer import TraceEnum_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal

import pyro_vae as pv
from pyro_vae.diagnostics.datatree import to_datatree
from pyro_vae.guides.linear import LinearGuide
from pyro_vae.models.linear import LinearModel

az = pytest.importorskip("arviz", reason="ArviZ is what these trees are for")

GROUPS = {
    "posterior",
    "posterior_predictive",
    "prior",
    "prior_predictive",
    "log_likelihood",
    "observed_data",
    "constant_data",
    "sample_stats",
}


def linear(latent: int = 2, features: int = 4) -> LinearModel:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = LinearModel(latent, features).double()
        torch.nn.init.normal_(model.weight)
    return model


@pytest.fixture
def model() -> LinearModel:
    return linear()


@pytest.fixture
def batch(model) -> dict[str, torch.Tensor]:
    x = model.marginal().sample((20,)).detach()
    return {"x": x, "y": torch.arange(20) % 3}


@pytest.fixture
def tree(model, batch) -> xr.DataTree:
    return to_datatree(pv.Pair(model, LinearGuide(model)), batch, num_samples=400)


def test_groups_and_dims_are_named_after_plates_and_sites(tree):
    assert set(tree.children) == GROUPS
    assert tree.posterior["z"].dims == ("chain", "draw", "data", "z_dim_0")
    assert tree.posterior["z"].shape == (1, 400, 20, 2)
    assert tree.posterior_predictive["x"].dims == ("chain", "draw", "data", "x_dim_0")
    assert tree.log_likelihood["x"].dims == ("chain", "draw", "data")
    assert tree.observed_data["x"].dims == ("data", "x_dim_0")
    assert tree.constant_data["y"].dims == ("data",)
    assert {name: v.dims for name, v in tree.sample_stats.data_vars.items()} == {
        "log_p": ("chain", "draw", "data"),
        "log_q": ("chain", "draw", "data"),
        "log_weight": ("chain", "draw", "data"),
        "khat": ("data",),
    }


def test_values_are_those_of_the_pair(tree, model, batch):
    x = batch["x"]
    z = torch.tensor(tree.posterior["z"].values[0])
    exact = model.posterior(x)
    assert torch.allclose(torch.tensor(tree.sample_stats["log_q"].values[0]), exact.log_prob(z))
    log_x = dist.Normal(z @ model.weight.T + model.loc, model.log_scale.exp()).to_event(1).log_prob(x).detach()
    assert torch.allclose(torch.tensor(tree.log_likelihood["x"].values[0]), log_x)
    log_w = torch.tensor(tree.sample_stats["log_weight"].values[0])
    assert torch.allclose(log_w, model.marginal().log_prob(x).detach().expand(400, 20))
    assert np.array_equal(tree.observed_data["x"].values, x.numpy())
    assert torch.allclose(z.mean(0), exact.loc.detach(), atol=5 * exact.variance.max().sqrt().item() / math.sqrt(400))
    replicated = torch.tensor(tree.prior_predictive["x"].values).reshape(-1, 4)
    covariance = model.marginal().covariance_matrix.detach()
    assert torch.allclose(torch.cov(replicated.T), covariance, atol=0.15 * covariance.diagonal().max().item())


def test_the_attributes_tell_where_it_comes_from(model, batch):
    tree = to_datatree(pv.Pair(model, LinearGuide(model)), batch, num_samples=5, run_folder="runs/a", seed=3)
    assert tree.attrs["model"] == "LinearModel"
    assert tree.attrs["guide"] == "LinearGuide"
    assert tree.attrs["inference_library_version"] == pyro.__version__
    assert tree.attrs["creation_library_version"] == pv.__version__
    assert (tree.attrs["run"], tree.attrs["seed"], tree.attrs["left_out"]) == ("runs/a", 3, "")


def test_the_same_seed_gives_the_same_tree_and_another_another(model, batch):
    pair = pv.Pair(model, LinearGuide(model))
    first, second, other = (to_datatree(pair, batch, num_samples=5, seed=seed) for seed in (0, 0, 1))
    assert first.equals(second)
    assert not first.posterior.equals(other.posterior)


@pytest.mark.usefixtures("unchanged_random_state")
def test_random_states_are_left_alone(model):
    to_datatree(pv.Pair(model, LinearGuide(model)), {"x": torch.zeros(3, 4).double()}, num_samples=5)


def test_saved_trees_come_back_the_same(tree, tmp_path):
    tree.to_netcdf(tmp_path / "posterior.nc")
    back = az.from_netcdf(tmp_path / "posterior.nc")
    assert back.identical(tree) or back.equals(tree)
    assert back.attrs["model"] == "LinearModel"


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_saved_trees_come_back_from_zarr(tree, tmp_path):
    pytest.importorskip("zarr", reason="zarr is not installed")
    tree.to_zarr(tmp_path / "posterior.zarr")
    assert xr.open_datatree(tmp_path / "posterior.zarr", engine="zarr").equals(tree)


@pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto")
def test_arviz_works_on_it_as_it_is(tree, monkeypatch):
    import matplotlib

    backend = matplotlib.get_backend()
    matplotlib.use("agg")
    try:
        summary = az.summary(tree)
        assert len(summary) == 40
        loo = az.loo(tree, pointwise=True)
        assert math.isfinite(loo.elpd)
        az.plot_khat(loo)
        az.plot_forest(tree, combined=True, var_names=["z"])
        az.plot_pair(tree, var_names=["z"], coords={"data": [0]})
        az.plot_ppc_dist(tree, num_samples=10)
        az.plot_ppc_tstat(tree)
        one = tree.isel(x_dim_0=0)  # these two read one number per datum
        az.plot_ppc_pit(one)
        az.plot_ppc_interval(one)
        az.plot_prior_posterior(tree, coords={"data": [0]})
    finally:
        import matplotlib.pyplot as plt

        plt.close("all")
        matplotlib.use(backend)


# --- beyond VAEs ------------------------------------------------------------------------------------------------------

EFFECT = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERROR = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def schools(effect, error):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfNormal(5.0))
    with pyro.plate("school", len(effect)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.deterministic("twice", 2 * theta)
        pyro.sample("effect", dist.Normal(theta, error), obs=effect)


@pytest.mark.parametrize("auto", [AutoNormal, AutoMultivariateNormal])
def test_any_model_and_autoguide(auto):
    pair = pv.Pair(schools, auto(schools))
    tree = to_datatree(pair, {"effect": EFFECT, "error": ERROR}, num_samples=50)
    assert set(tree.children) == GROUPS
    assert tree.posterior["mu"].dims == ("chain", "draw")
    assert tree.posterior["theta"].dims == ("chain", "draw", "school")
    assert tree.posterior["theta"].shape == (1, 50, 8)
    assert np.allclose(tree.posterior["twice"], 2 * tree.posterior["theta"])
    assert tree.constant_data["error"].dims == ("school",)
    assert tree.sample_stats["log_weight"].dims == ("chain", "draw")
    assert tree.sample_stats["khat"].dims == ()
    stats = tree.sample_stats
    mu, tau, theta = (torch.tensor(tree.posterior[name].values[0]) for name in ("mu", "tau", "theta"))
    log_p = dist.Normal(0.0, 5.0).log_prob(mu) + dist.HalfNormal(5.0).log_prob(tau)
    log_p = log_p + dist.Normal(mu[:, None], tau[:, None]).log_prob(theta).sum(1)
    log_p = log_p + dist.Normal(theta, ERROR).log_prob(EFFECT).sum(1)
    assert np.allclose(stats["log_p"].values[0], log_p.numpy(), atol=1e-3)
    assert np.allclose(stats["log_weight"], stats["log_p"] - stats["log_q"])


def regression(x, y):
    weight = pyro.sample("weight", dist.Normal(torch.zeros(2), 10.0).to_event(1))
    scale = pyro.sample("scale", dist.HalfNormal(2.0))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ weight, scale), obs=y)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto")
def test_a_plain_regression_with_an_autoguide_goes_through_arviz(tmp_path):
    """Trained by Pyro's own SVI; every plot and figure works on the tree as it is, also after it was saved."""
    x = torch.randn(60, 2)
    y = x @ torch.tensor([1.0, -2.0]) + 0.5 * torch.randn(60)
    guide = AutoNormal(regression)
    svi = pyro.infer.SVI(regression, guide, pyro.optim.Adam({"lr": 0.05}), pyro.infer.Trace_ELBO(num_particles=4))
    for _ in range(200):
        svi.step(x, y)
    pv.to_datatree(pv.Pair(regression, guide), {"x": x, "y": y}, num_samples=500).to_netcdf(tmp_path / "regression.nc")
    tree = az.from_netcdf(tmp_path / "regression.nc")
    assert tree.posterior["weight"].mean(("chain", "draw")).values == pytest.approx([1.0, -2.0], abs=0.3)
    assert tree.log_likelihood["y"].dims == ("chain", "draw", "data")
    assert tree.constant_data["x"].dims == ("data", "x_dim_0")

    import matplotlib
    import matplotlib.pyplot as plt

    backend = matplotlib.get_backend()
    matplotlib.use("agg")
    try:
        assert set(az.summary(tree).index) == {"weight[0]", "weight[1]", "scale"}
        loo = az.loo(tree, pointwise=True)
        assert (loo.pareto_k.values < 0.7).mean() > 0.9
        az.plot_khat(loo)
        az.plot_ppc_dist(tree, num_samples=20)
        az.plot_ppc_pit(tree)
        az.plot_ppc_interval(tree)
        az.plot_loo_pit(tree)
        az.plot_forest(tree, combined=True)
        az.plot_pair(tree, var_names=["weight"])
        az.plot_prior_posterior(tree, var_names=["scale"])
    finally:
        plt.close("all")
        matplotlib.use(backend)


def test_a_program_that_takes_no_particles_is_run_once_a_draw():
    def stubborn(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            if z.dim() != 1:
                raise RuntimeError("one at a time")
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))

    tree = to_datatree(pv.Pair(stubborn, guide), {"x": torch.randn(6)}, num_samples=30)
    assert tree.posterior["z"].shape == (1, 30, 6)
    assert float(tree.sample_stats["log_weight"].std("draw").max()) < 1e-5


def test_inner_plates_and_enumerated_sites():
    """Words in a document: topics are summed out of the likelihood and drawn in the prior."""
    topics = torch.softmax(torch.arange(15.0).reshape(3, 5).sin() * 2, -1)

    def model(x):
        with pyro.plate("data", len(x)):
            share = pyro.sample("share", dist.Dirichlet(torch.ones(3)))
            with pyro.plate("words", x.shape[1], dim=-2):
                t = pyro.sample("t", dist.Categorical(share), infer={"enumerate": "parallel"})
                pyro.sample("x", dist.Categorical(topics[t]), obs=x.T)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("share", dist.Dirichlet(torch.ones(3)))

    x = torch.tensor([[0, 1, 2, 2], [4, 4, 4, 4]])
    tree = to_datatree(pv.Pair(model, guide, TraceEnum_ELBO()), {"x": x}, num_samples=20)
    assert set(tree.posterior.data_vars) == {"share"}
    assert set(tree.prior.data_vars) == {"share", "t"}
    assert tree.prior["t"].dims == ("chain", "draw", "words", "data")
    assert tree.posterior_predictive["x"].shape == (1, 20, 4, 2)
    share = torch.tensor(tree.posterior["share"].values[0])
    exact = (share @ topics)[..., x].log().diagonal(dim1=1, dim2=2).sum(1)  # (draws, data)
    assert np.allclose(tree.log_likelihood["x"].values[0], exact, atol=1e-5)


def test_a_model_that_cannot_be_simulated_says_so_and_the_rest_is_there():
    class NoDraws(dist.Normal):
        def sample(self, sample_shape=torch.Size()):  # noqa: B008
            raise NotImplementedError("cannot draw")

        rsample = sample

        def expand(self, batch_shape, _instance=None):
            return super().expand(batch_shape, self._get_checked_instance(NoDraws, _instance))

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", NoDraws(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.7))

    tree = to_datatree(pv.Pair(model, guide), {"x": torch.zeros(3)}, num_samples=4)
    assert set(tree.children) == {"posterior", "log_likelihood", "sample_stats", "observed_data"}
    assert "the model cannot be simulated (NotImplementedError" in tree.attrs["left_out"]


def test_reserved_names_are_changed():
    def model(x):
        with pyro.plate("data", len(x)):
            draw = pyro.sample("draw", dist.Normal(0.0, 1.0))
            pyro.sample("net/x", dist.Normal(draw, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("draw", dist.Normal(0.0, 1.0))

    tree = to_datatree(pv.Pair(model, guide), {"x": torch.zeros(3)}, num_samples=4)
    assert list(tree.posterior.data_vars) == ["draw_"]
    assert list(tree.observed_data.data_vars) == ["net.x"]


def test_no_draws_are_refused(model, batch):
    with pytest.raises(ValueError, match="num_samples must be at least 1, got 0"):
        to_datatree(pv.Pair(model, LinearGuide(model)), batch, num_samples=0)
