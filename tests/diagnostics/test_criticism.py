"""Criticism of the model both ways: it passes draws of the truth, and rejects what differs."""

import math

import pytest
import torch
from truths import rand as normal

from pyro_vae.diagnostics.criticism import (
    disentanglement,
    frechet,
    neighbours,
    pixel_calibration,
    predictive_checks,
    probes,
    two_sample,
)


def test_a_classifier_tells_only_what_differs():
    first, second = normal(1500, 4), normal(1500, 4, seed=1)
    assert two_sample(first, second).pvalue > 0.01
    mixed = second.clone()
    mixed[:, 1] = 0.8 * mixed[:, 0] + 0.6 * mixed[:, 1]
    for other in (0.7 * second, second + 0.4, mixed, second * torch.tensor([1.0, 1.0, 1.0, 0.0]).double()):
        assert two_sample(first, other).pvalue < 1e-3


def test_predictive_checks_see_a_scale_and_accept_the_model():
    sets = normal(50, 200, 6)
    assert min(check.pvalue for check in predictive_checks(normal(200, 6, seed=2), sets).values()) > 0.03
    wrong = predictive_checks(0.7 * normal(200, 6, seed=2), sets)["standard deviation of a feature"]
    assert wrong.pvalue < 0.05
    assert abs(wrong.observed - wrong.expected) > 6 * wrong.spread


def test_pixels_are_calibrated_where_probabilities_are_frequencies():
    p = torch.rand(2000, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = torch.bernoulli(p, generator=torch.Generator().manual_seed(1))
    assert pixel_calibration(p, x).error < 0.01
    assert pixel_calibration((p > 0.5).double() * 0.98 + 0.01, x).error > 0.1


def test_the_frechet_distance_is_that_of_gaussians():
    first, second = normal(4000, 3), 2 * normal(4000, 3, seed=1) + 1
    assert frechet(first, first) == pytest.approx(0.0, abs=1e-9)
    assert frechet(first, second) == pytest.approx(3 * 1 + 3 * (2 - 1) ** 2, rel=0.05)


def test_copies_are_nearer_than_held_out_data():
    train, test = normal(500, 5), normal(500, 5, seed=1)
    assert neighbours(normal(500, 5, seed=2), train, test).closer == pytest.approx(0.05, abs=0.05)
    assert neighbours(train[:200] + 1e-3, train, test).closer == 1.0


def test_probes_and_disentanglement():
    y = torch.arange(600) % 3
    codes = normal(600, 4)
    codes[:, 0] += 4 * y
    assert min(probes(codes[:300], y[:300], codes[300:], y[300:]).values()) > 0.9
    assert max(probes(normal(300, 4), y[:300], normal(300, 4, seed=1), y[300:]).values()) < 0.5
    assert disentanglement(codes, y[:, None]) > 0.5
    mixed = codes.clone()
    mixed[:, 1] += 4 * y
    assert disentanglement(mixed, y[:, None]) < 0.1
    with pytest.raises(ValueError, match="compares two latent dimensions, and there are 1"):
        disentanglement(codes[:, :1], y[:, None])


def test_the_gap_of_codes_that_know_known_shares_of_a_factor():
    y = torch.arange(600) % 3
    exact, nothing, half = y.double(), (torch.arange(600) // 3 % 2).double(), (y > 0).double()
    assert disentanglement(torch.stack([nothing, exact], 1), y) == pytest.approx(1.0)
    told = -(math.log(1 / 3) / 3 + 2 * math.log(2 / 3) / 3) / math.log(3)  # H(y > 0) / H(y)
    assert disentanglement(torch.stack([exact, half], 1), y) == pytest.approx(1 - told)
    assert disentanglement(torch.stack([exact, half], 1), torch.zeros(600)) == 0.0
    assert disentanglement(torch.stack([exact, exact], 1)[:24], torch.arange(24)) == 0.0
