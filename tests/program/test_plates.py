"""Plates that choose a subsample, recorded values, and what lies outside the plate of the data."""

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import nn
from truths import rand

import pyro_vae as pv
from pyro_vae.evidence import bound, global_sites
from pyro_vae.program.handlers import FreeBits, uncondition

N, F, L = 20, 3, 2


def subsampled():
    def model(x):
        with pyro.plate("data", len(x), subsample_size=5) as i:
            z = pyro.sample("z", dist.Normal(torch.zeros(L).double(), 1.0).to_event(1))
            loc = z.sum(-1, keepdim=True).expand(*z.shape[:-1], F)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x[i])

    def guide(x):
        with pyro.plate("data", len(x), subsample_size=5) as i:
            pyro.sample("z", dist.Normal(x[i][:, :1].expand(-1, L) / 2, 0.5).to_event(1))

    return model, guide


def whole():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(L).double(), 1.0).to_event(1))
            loc = z.sum(-1, keepdim=True).expand(*z.shape[:-1], F)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, :1].expand(-1, L) / 2, 0.5).to_event(1))

    return model, guide


def test_a_plate_that_takes_a_subsample_holds_all_data_in_every_figure():
    x = (0.3 * torch.arange(float(N)))[:, None].expand(N, F).contiguous().double()
    mine, other = pv.Pair(*subsampled()), pv.Pair(*whole())
    batch = {"x": x}
    assert torch.equal(
        pv.log_evidence(mine, batch, num_samples=50).estimate, pv.log_evidence(other, batch, num_samples=50).estimate
    )
    assert pv.elbo(mine, batch, num_samples=5) == pv.elbo(other, batch, num_samples=5)
    tree, expected = (pv.to_datatree(pair, batch, num_samples=200) for pair in (mine, other))
    assert (tree["posterior"]["z"] == expected["posterior"]["z"]).all()
    assert (tree["observed_data"]["x"].values == x.numpy()).all()
    assert tree["posterior"].sizes["data"] == N
    plain = poutine.trace(mine.model).get_trace(x)  # and Pyro is as it was
    assert plain.nodes["x"]["value"].shape == (5, F)


def test_a_program_made_for_its_subsample_alone_is_refused():
    def model(x):
        with pyro.plate("data", len(x), subsample_size=5) as i:
            z = pyro.sample("z", dist.Normal(torch.zeros(5, L), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True).expand(5, F), 1.0).to_event(1), obs=x[i])

    def guide(x):
        with pyro.plate("data", len(x), subsample_size=5):
            pyro.sample("z", dist.Normal(torch.zeros(5, L), 1.0).to_event(1))

    for figure in (pv.elbo, pv.log_evidence, pv.to_datatree):
        with pytest.raises(pv.PairError, match="plate 'data' has size 5 and 20 to choose from"):
            figure(pv.Pair(model, guide), {"x": torch.zeros(N, F)})


def test_a_plate_of_another_size_is_refused_as_check_pair_does():
    def model(x):
        with pyro.plate("data", 5):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:5, 0])

    def guide(x):
        with pyro.plate("data", 5):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    for figure in (pv.elbo, pv.log_evidence):
        with pytest.raises(pv.PairError, match="plate 'data' has size 5 and the batch 20 data"):
            figure(pv.Pair(model, guide), {"x": torch.zeros(N, F)})


# --- recorded values ---------------------------------------------------------------------------------------------------


def recording(record, after=lambda: None):
    decoder = nn.Linear(L, F).double()

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(L).double(), 1.0).to_event(1))
            loc = decoder(z)
            loc = record(x, z, loc)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)
        after()

    def guide(x):
        with pyro.plate("data", len(x)):
            loc = pyro.param("loc", torch.zeros(L).double())
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

    return model, guide


def noted(name, value, event_dim):
    return lambda x, z, loc: (pyro.deterministic(name, value(x, z, loc), event_dim=event_dim), loc)[1]


@pytest.mark.parametrize("event_dim", [None, 1])
@pytest.mark.parametrize("data", [F, 7])
def test_recorded_means_are_in_the_posterior(event_dim, data):
    x = rand(data, F, seed=2)
    used = lambda x, z, loc: pyro.deterministic("mean", loc, event_dim=event_dim)  # noqa: E731
    for record in (noted("mean", lambda x, z, loc: loc, event_dim), used):
        model, guide = recording(record)
        pv.check_pair(model, guide, {"x": x})
        pair = pv.Pair(model, guide)
        tree = pv.to_datatree(pair, {"x": x}, num_samples=10)
        assert tree["posterior"]["mean"].dims == ("chain", "draw", "data", "mean_dim_0")
        log_p = dist.Normal(torch.tensor(tree["posterior"]["mean"].values[0]), 1.0).to_event(1).log_prob(x)
        torch.testing.assert_close(torch.tensor(tree["log_likelihood"]["x"].values[0]), log_p)
        assert set(tree["prior_predictive"]) == set(tree["posterior_predictive"]) == {"x"}
        assert set(pv.elbo(pair, {"x": x}).sites) == {"z", "x"}


def test_recorded_errors_of_the_data_and_constants():
    x = rand(7, F, seed=2)
    model, guide = recording(noted("error", lambda x, z, loc: (x - loc).square().sum(-1), 0))
    pv.check_pair(model, guide, {"x": x})
    tree = pv.to_datatree(pv.Pair(model, guide), {"x": x}, num_samples=10)
    assert tree["posterior"]["error"].dims == ("chain", "draw", "data")
    for where, value in (("in", lambda x, z, loc: torch.arange(float(F))), ("in", lambda x, z, loc: x.sum(-1))):
        model, guide = recording(noted("same", value, None))
        pv.check_pair(model, guide, {"x": x})
        tree = pv.to_datatree(pv.Pair(model, guide), {"x": x}, num_samples=F)
        assert "same" not in tree["posterior"], where
        assert "'same' is the same in every draw" in tree.attrs["left_out"]
    model, guide = recording(lambda x, z, loc: loc, after=lambda: pyro.deterministic("w", torch.ones(3)))
    pv.check_pair(model, guide, {"x": x})
    pair = pv.Pair(model, guide)
    assert pv.log_evidence(pair, {"x": x}, num_samples=10).estimate.shape == (7,)
    assert "'w' is the same" in pv.to_datatree(pair, {"x": x}, num_samples=4).attrs["left_out"]


def test_a_program_without_its_data_keeps_factors_and_recorded_values():
    def program():
        value = pyro.deterministic("value", torch.ones(4, 2))
        pyro.factor("factor", torch.tensor(1.0))
        return value, pyro.sample("x", dist.Normal(0.0, 1.0), obs=torch.tensor(100.0))

    value, x = uncondition(program)()
    assert value.shape == (4, 2)
    assert x < 50


# --- outside the plate -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("where", ["model", "guide", "inside", "observed", "latent"])
def test_what_lies_outside_the_plate_counts_once_for_all_data(where):
    x = rand(N, F, seed=2)
    guide_loc = torch.zeros(L).double()

    def model(x):
        if where == "latent":
            pyro.sample("shift", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(L).double(), 1.0).to_event(1))
            if where == "inside":
                pyro.factor("l2", torch.full((len(x),), -0.5))
            pyro.sample("x", dist.Normal(z[..., :1].expand(*z.shape[:-1], F), 1.0).to_event(1), obs=x)
        if where == "model":
            pyro.factor("l2", torch.tensor(-3.0))
        if where == "observed":
            pyro.sample("total", dist.Normal(0.0, 1.0), obs=torch.tensor(2.0))

    def guide(x):
        if where == "latent":
            pyro.sample("shift", dist.Normal(1.0, 0.5))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(guide_loc, 1.0).to_event(1))
        if where == "guide":
            pyro.factor("l2", torch.tensor(-3.0), has_rsample=True)

    pair = pv.Pair(model, guide)
    assert bool(global_sites(pair, {"x": x})) == (where != "inside")
    table = bound(pair, [{"x": x[:8]}, {"x": x[8:]}], N, num_samples=200)
    plain = -Trace_ELBO(num_particles=200).loss(model, guide, x) / N
    assert table.elbo == pytest.approx(plain, abs=0.25)
    assert table.reconstruction - table.kl == pytest.approx(table.elbo)
    exact = {
        "model": -3.0 / N,
        "guide": 3.0 / N,
        "inside": -0.5,
        "observed": dist.Normal(0.0, 1.0).log_prob(torch.tensor(2.0)).item() / N,
    }
    if where in exact:
        name = "total" if where == "observed" else "l2"
        assert table.sites[name] == pytest.approx(exact[where], abs=1e-9)


def test_free_bits_heed_masks():
    seen = torch.tensor([1.0, 0.0, 1.0, 0.0]).bool()

    def model():
        with pyro.plate("data", 4), poutine.mask(mask=seen):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    def guide():
        with pyro.plate("data", 4), poutine.mask(mask=seen):
            pyro.sample("z", dist.Delta(torch.full((4,), 2.0)))

    free = FreeBits(100.0)
    guided = poutine.trace(free.guide(guide)).get_trace()
    trace = poutine.trace(free.model(poutine.replay(model, trace=guided))).get_trace()
    kl = -dist.Normal(0.0, 1.0).log_prob(torch.tensor(2.0)) * 2  # of the two that are seen
    assert trace.nodes["z_free_bits"]["fn"].log_factor.item() == pytest.approx(kl.item() - 100.0, rel=1e-6)
