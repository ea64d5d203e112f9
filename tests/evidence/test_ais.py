"""Annealing from the prior: against closed forms and a neural pair summed over a grid, and its two bounds on simulated data."""

import pytest
import torch
from truths import damaged, data, grid_evidence, linear, neural, rand

import pyro_vae as pv
from pyro_vae.evidence.ais import anneal, sandwich, schedule
from pyro_vae.models.linear import LinearModel
from pyro_vae.program import evaluation, simulate


@pytest.fixture
def model() -> LinearModel:
    return linear()


@pytest.mark.slow
def test_annealing_agrees_with_the_closed_form_and_the_bounds_hold_it(model):
    batch = data(model, 8)
    exact = model.marginal().log_prob(batch["x"]).detach()
    pair = pv.Pair(model, damaged(model, "collapse").guide)  # the guide is not used
    result = anneal(pair, batch, temperatures=60, chains=16, leapfrog=5)
    assert ((result.estimate - exact).abs() < 4.5 * result.stderr + 0.05).all()
    assert 0.4 < result.acceptance.mean() < 0.95
    bounds = sandwich(pair, batch, temperatures=60, chains=16, leapfrog=5)
    with evaluation(pair, 0):
        drawn, _ = simulate(pair, batch)  # the same draws: the same seed
    truth = model.marginal().log_prob(drawn["x"]).detach()
    assert bounds.lower.mean() < truth.mean() + 0.05
    assert bounds.upper.mean() > truth.mean() - 0.05
    assert bounds.gap < 0.6


@pytest.mark.slow
def test_annealing_agrees_with_the_grid_of_a_neural_pair():
    pair, x = neural(), (rand(8, 8, seed=13) > 0).double()
    exact = grid_evidence(pair, x)
    seen = []
    result = anneal(pair, {"x": x}, temperatures=25, chains=16, leapfrog=4, progress=seen.append)
    assert sum(seen) == 25
    assert ((result.estimate - exact).abs() < 4.5 * result.stderr + 0.02).all()
    bounds = sandwich(pair, {"x": x}, temperatures=25, chains=16, leapfrog=4)
    with evaluation(pair, 0):
        drawn, _ = simulate(pair, {"x": x})
    truth = grid_evidence(pair, drawn["x"])
    assert ((bounds.lower - truth).abs() < 0.3).all()
    assert bounds.lower.mean() < truth.mean() + 0.02
    assert bounds.upper.mean() > truth.mean() - 0.02


@pytest.mark.slow
def test_more_temperatures_bring_the_bounds_together(model):
    pair, batch = damaged(model, "none"), data(model, 6)
    few, many = (sandwich(pair, batch, temperatures=n, chains=8, leapfrog=3).gap for n in (2, 30))
    assert many < 0.5 * few


@pytest.mark.slow
def test_data_in_another_order_give_the_same_estimate(model):
    pair, batch = damaged(model, "none"), data(model, 6)
    order = torch.tensor([5, 3, 1, 0, 2, 4])
    first = anneal(pair, batch, temperatures=30, leapfrog=3)
    second = anneal(pair, {"x": batch["x"][order]}, temperatures=30, leapfrog=3)
    error = (first.stderr[order].square() + second.stderr.square()).sqrt()
    assert ((first.estimate[order] - second.estimate).abs() < 4.5 * error + 0.05).all()


def test_the_schedule_goes_from_prior_to_posterior():
    betas = schedule(10)
    assert (betas[0], betas[-1]) == (0.0, 1.0)
    assert betas == sorted(betas)
    with pytest.raises(ValueError, match="temperatures must be at least 1, got 0"):
        schedule(0)
