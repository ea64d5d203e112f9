"""What is said of samples: right where the answer is known in closed form, and against damaged samples."""

import math

import pytest
import torch
from truths import rand as normal

import pyro_vae as pv
from pyro_vae.diagnostics import Judge, classes_covered, copies, coverage, frechet, judge_of, two_sample


def with_moments(x: torch.Tensor, mean: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:
    """Data whose sample mean and covariance are exactly these."""
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(torch.cov(x.T)), (x - x.mean(0)).T, upper=False)
    return (torch.linalg.cholesky(covariance) @ white).T + mean


def test_the_frechet_distance_of_covariances_that_do_not_commute():
    first, second = (
        torch.tensor(m, dtype=torch.float64) for m in ([[2.0, 0.6], [0.6, 0.5]], [[1.0, -0.7], [-0.7, 3.0]])
    )
    shift = torch.tensor([1.0, -2.0], dtype=torch.float64)
    product = first @ second
    root = math.sqrt(product.trace() + 2 * math.sqrt(torch.linalg.det(product)))  # of a 2 x 2 matrix: tr sqrt(AB)
    wanted = 5.0 + (first.trace() + second.trace()).item() - 2 * root
    x, y = with_moments(normal(50, 2), 0 * shift, first), with_moments(normal(60, 2, seed=1), shift, second)
    assert frechet(x, y) == pytest.approx(wanted, abs=1e-9)
    assert frechet(x, x) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.0])
def test_the_two_sample_test_reaches_the_accuracy_of_bayes(shift):
    found = two_sample(normal(4000, 1), normal(4000, 1, seed=1) + shift)
    bayes = 0.5 * math.erfc(-shift / 2 / math.sqrt(2))
    assert found.accuracy == pytest.approx(bayes, abs=4 * found.stderr)
    assert found.stderr == 0.5 / math.sqrt(4000)
    assert (found.pvalue < 1e-6) == (shift > 0)


@pytest.mark.parametrize(("data", "samples"), [(300, 300), (200, 500), (500, 100)])
@pytest.mark.parametrize("nearest", [1, 5])
def test_coverage_of_samples_of_the_truth_is_the_closed_form(data, samples, nearest):
    found = [
        coverage(normal(samples, 3, seed=2 * seed), normal(data, 3, seed=2 * seed + 1), nearest=nearest)
        for seed in range(8)
    ]
    values = torch.tensor([one.coverage for one in found])
    assert values.mean().item() == pytest.approx(found[0].expected, abs=4 * values.std().item() / math.sqrt(8) + 1e-3)
    assert sum(one.density for one in found) / 8 == pytest.approx(1.0, abs=0.08)


def test_the_closed_form_of_coverage_against_a_sum_by_hand():
    found = coverage(normal(3, 1), normal(4, 1, seed=1), nearest=1)
    assert found.expected == pytest.approx(1 - 3 / 6)  # of 3 other data and 3 samples the nearest is a datum


def test_lost_modes_and_narrow_samples_are_not_covered():
    data = normal(400, 2)
    data[::2] += 8
    half = normal(400, 2, seed=1)
    assert coverage(half, data).coverage < 0.55 < 0.9 < coverage(half, data).expected
    narrow = coverage(0.2 * normal(400, 2, seed=1), normal(400, 2, seed=2))
    assert narrow.coverage < 0.4
    assert narrow.density > 1
    assert coverage(normal(400, 2) + 30, normal(400, 2, seed=1))[:2] == (0.0, 0.0)
    with pytest.raises(ValueError, match="neighbourhood of 5 data needs more data than that, and there are 5"):
        coverage(half, data[:5])


@pytest.mark.parametrize(("train", "held_out"), [(300, 300), (2000, 150), (100, 400)])
@pytest.mark.parametrize("binary", [False, True])
def test_honest_samples_are_as_near_to_training_as_to_held_out_data(train, held_out, binary):
    make = (
        (lambda n, seed: (normal(n, 8, seed=seed) > 0.3).float())
        if binary
        else (lambda n, seed: normal(n, 8, seed=seed))
    )
    found = [copies(make(300, 3 * s), make(train, 3 * s + 1), make(held_out, 3 * s + 2)) for s in range(6)]
    shares = torch.tensor([one.share for one in found], dtype=torch.float64)
    assert shares.mean().item() == pytest.approx(0.5, abs=4 * shares.std().item() / math.sqrt(6) + 0.01)
    scores = torch.tensor([one.score for one in found])
    assert scores.abs().max() < 3
    assert found[0].stderr > 0.4 * shares.std().item(), "of data with ties it may be larger"


def test_copies_are_found_however_few_held_out_data_there_are():
    train, held_out = normal(2000, 8), normal(150, 8, seed=1)
    all_copied = copies(train[:300], train, held_out)
    assert all_copied.share == 1.0
    assert all_copied.score > 3
    blurred = copies(train[:300] + 0.05 * normal(300, 8, seed=2), train, held_out)
    assert blurred.share > 0.95
    half = copies(torch.cat([train[:150], normal(150, 8, seed=3)]), train, held_out)
    assert 0.55 < half.share < 0.85
    unlike = copies(held_out, train, held_out)
    assert unlike.share == 0.0
    assert unlike.score < -3


def test_classes_that_samples_lack_are_named():
    data = torch.arange(300) % 3
    assert classes_covered(data[:90], data)[:3] == (3, 3, [])
    only = classes_covered(torch.ones(90, dtype=torch.long), data)
    assert only[:3] == (1, 3, [0, 2])
    assert only.shares == {0: 0.0, 1: 1.0, 2: 0.0}
    rare = torch.cat([torch.zeros(25), torch.ones(50), torch.full((5,), 2)]).long()
    assert classes_covered(rare, data).missed == [2]
    with pytest.raises(ValueError, match=r"20 samples of 3 classes are 6.7 of the rarest, too few"):
        classes_covered(data[:20], data)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_classifier_knows_its_classes_and_is_the_same_each_time(classes, unchanged_random_state):
    y = torch.arange(600) % classes + 4  # whatever numbers classes have
    x = normal(600, 5).float() + 3 * (y[:, None] == torch.arange(4, 9))
    judge, again = (Judge.train(x[:400], y[:400], passes=60) for _ in range(2))
    assert (judge.classes(x[400:]) == y[400:]).double().mean() > 0.95
    assert judge.features(x).shape == (600, 64)
    assert torch.equal(judge.features(x), again.features(x))


def test_one_classifier_serves_a_data_set_however_often_it_is_loaded(monkeypatch):
    monkeypatch.setattr("pyro_vae.diagnostics.judge.STEPS", 20)
    arrays = {"x": normal(200, 4).float(), "y": torch.arange(200) % 2}
    first, second = (pv.load_data(arrays) for _ in range(2))
    assert judge_of(first) is judge_of(second)
    assert judge_of(first) is not judge_of(first, seed=1)
    assert judge_of(pv.load_data({**arrays, "x": arrays["x"] + 1})) is not judge_of(first)
