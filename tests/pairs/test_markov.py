"""Markov chains of states: Kalman's and the forward algorithm's values, padding, and what each guide sees."""

from dataclasses import replace
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyro_vae as pv
from pyro_vae import pairs
from pyro_vae.conditionals import (
    EachStep,
    LinearEmission,
    LinearMove,
    LinearSmoother,
    PathPrior,
)
from pyro_vae.distributions import Recurrent
from pyro_vae.guides.markov import MarkovGuide
from pyro_vae.models.markov import MarkovModel
from pyro_vae.nets import scan
from pyro_vae.program import PairError, log_weights
from tests.truths import KALMAN, A, Q, R, Seen, T, hidden_markov, sines, state_space
from tests.zoo import spec


@pytest.mark.parametrize("steps", [20, 23])
def test_every_draw_of_the_exact_smoother_weighs_what_kalman_says(steps: int) -> None:
    weights = log_weights(state_space(), sines(steps=steps), 5)
    for row, truth in enumerate(KALMAN):
        assert weights[:, row].tolist() == pytest.approx([truth] * 5, abs=5e-12)


def test_a_smoother_of_several_dimensions_is_the_joint_gaussian() -> None:
    torch.manual_seed(0)
    move, emission = LinearMove(2).double(), LinearEmission(2, torch.randn(3).double(), torch.rand(3).double() + 0.5)
    emission = emission.double()
    with torch.no_grad():
        for parameter in (*move.parameters(), *emission.parameters()):
            parameter.add_(0.3 * torch.randn_like(parameter))
    pair = pv.Pair(
        MarkovModel(3, PathPrior(move), EachStep(emission, 2)), MarkovGuide(3, LinearSmoother(move, emission))
    )
    weight, loc, noise = emission.in_data_units()
    first = move.first().base_dist
    mean, cov = [first.loc], [[torch.diag(first.scale**2)]]
    for t in range(1, 4):
        mean.append(move.matrix @ mean[-1])
        cov.append([move.matrix @ c for c in cov[-1]])
        cov[t].append(move.matrix @ cov[t - 1][t - 1] @ move.matrix.T + torch.diag(move.scale**2))
    blocks = [
        [weight @ (cov[max(i, j)][min(i, j)] if i >= j else cov[j][i].T) @ weight.T for j in range(4)] for i in range(4)
    ]
    joint = torch.cat([torch.cat(row, 1) for row in blocks]) + torch.diag((noise**2).repeat(4))
    x = torch.randn(2, 12).double()
    truth = dist.MultivariateNormal(torch.cat([weight @ m + loc for m in mean]), joint).log_prob(x)
    torch.testing.assert_close(log_weights(pair, {"x": x}, 3), truth.expand(3, 2), rtol=0, atol=1e-10)


def posteriors() -> dict[str, tuple[float, tuple[Tensor, Tensor, Tensor]]]:
    """Return gates, locs and scales of four approximate posteriors of sin t, and their KL to the exact one."""
    x = torch.sin(torch.arange(1.0, T + 1).double())
    power = (torch.arange(T)[:, None] - torch.arange(T)).abs()
    var = [1.0]
    for _ in range(T - 1):
        var.append(A * A * var[-1] + Q)
    prior = A**power * torch.tensor(var).double()[torch.minimum(torch.arange(T)[:, None], torch.arange(T))]
    precision = torch.linalg.inv(prior) + torch.eye(T).double() / R
    smoothed = torch.linalg.inv(precision)
    mean, none = smoothed @ (x / R), torch.zeros(T).double()
    m, p, filtered = 0.0, 1.0, []
    for t in range(T):
        m, p = (A * m, A * A * p + Q) if t else (m, p)
        gain = p / (p + R)
        m, p = m + gain * (x[t].item() - m), (1 - gain) * p
        filtered.append((m, p**0.5))
    local = torch.full((T,), 1 / (1 / Q + 1 / R)).double()
    local[0] = 1 / (1 + 1 / R)
    f = torch.tensor(filtered).double()
    return {
        "filtering marginals": (7.893873, (none, f[:, 0], f[:, 1])),
        "smoothed marginals": (3.268670, (none, mean, smoothed.diagonal().sqrt())),
        "causal": (2.148803, (local * A / Q, local * x / R, local.sqrt())),
        "mean field": (2.033234, (none, mean, precision.diagonal().rsqrt())),
    }


@pytest.mark.parametrize("name", posteriors())
def test_gaps_of_other_guides(name: str) -> None:
    gap, parts = posteriors()[name]
    gate, loc, scale = (part.reshape(1, T, 1) for part in parts)
    q = Recurrent(gate, loc, scale, torch.ones(1, T).bool(), scan)
    model = state_space().model
    noise = T**0.5 * torch.cat([torch.eye(T), -torch.eye(T)]).double()  # 2 T points: exact means of quadratics
    z = scan(gate, loc + scale * noise.unsqueeze(-1)).flatten(-2)
    there = torch.ones(1, T).bool()
    log_p = model.prior(there).log_prob(z) + model.emission(z, there).log_prob(sines()["x"][:1])
    assert KALMAN[0] - (log_p - q.log_prob(z)).mean().item() == pytest.approx(gap, abs=1e-6)


def test_every_draw_of_a_hidden_markov_model_weighs_what_the_forward_algorithm_says() -> None:
    x = torch.eye(3).double()[torch.tensor([0, 1, 2] * 4)].flatten().repeat(2, 1)
    mask = torch.arange(12) < torch.tensor([[12], [3]])
    weights = log_weights(hidden_markov(), {"x": x, "mask": mask}, 6)
    for row, truth in enumerate((-13.859079866870, -3.392872132916)):
        assert weights[:, row].tolist() == pytest.approx([truth] * 6, abs=5e-12)


def sequences(support: str = "real", **change: Any) -> pv.Spec:
    return replace(spec(support=support, mask=(4,)), sequence=(4, 4), **change)


CHOICES = [
    {"transition": "gated"},
    {"transition": "gated", "posterior": "filter"},
    {"transition": "gated", "posterior": "mean-field"},
    {"transition": "linear"},
    {"transition": "linear", "posterior": "smoother"},
    {"transition": "table"},
]


@pytest.mark.parametrize("options", CHOICES, ids=str)
def test_padding_changes_nothing(options: dict[str, Any]) -> None:
    """Log-probabilities of a path, step by step, with one padded step and with six that hold other numbers."""
    torch.manual_seed(0)
    pair = pairs.markov(sequences(), latent=2, **options)
    for module in pair.modules().values():
        module.double()
    x = torch.randn(5, 7, 4).double()
    there = torch.arange(10) < torch.tensor([7, 7, 3, 1, 5])[:, None]
    long = torch.cat([x, 9 * torch.ones(5, 3, 4).double()], 1)
    long = torch.where(there.unsqueeze(-1), long, 5.0)
    short, mask = long[:, :8], there[:, :8]
    z = pair.model.prior(there).sample()
    with torch.no_grad():
        found = [
            (
                pair.guide.encoder(x, m).by_step(z[:, : 2 * m.shape[1]])[:, :7],
                pair.model.prior(m).by_step(z[:, : 2 * m.shape[1]])[:, :7],
                pair.model.emission(z[:, : 2 * m.shape[1]], m).log_prob(x.flatten(1)),
            )
            for x, m in ((short, mask), (long, there))
        ]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("posterior", "sees"), [("filter", False), ("smoother", True)])
def test_a_filter_sees_nothing_of_the_future(posterior: Any, sees: bool) -> None:
    torch.manual_seed(0)
    encoder = pairs.markov(sequences(), latent=2, posterior=posterior).guide.encoder
    x, there = torch.randn(1, 4, 4), torch.ones(1, 4).bool()
    other = x.clone()
    other[:, 3] += 1.0
    changed = (encoder(x, there).loc - encoder(other, there).loc).abs().amax((0, 2)) > 0
    assert changed.tolist() == [sees, sees, sees, True]


@pytest.mark.parametrize(
    ("about", "options", "message"),
    [
        (spec(), {}, "this pair is of sequences, and test has none"),
        (sequences(), {"posterior": "exact"}, "posterior exact has no formula where a net gives the transition"),
        (sequences(), {"transition": "table", "posterior": "filter"}, "has states that are counted"),
        (sequences("binary"), {"transition": "linear"}, "test is binary; use --transition gated"),
        (sequences(), {"transition": "linear", "likelihood": "normal"}, "does not apply to --transition linear"),
        (sequences(), {"transition": "linear", "hidden": 3}, "hidden 3 is the width of nets"),
    ],
)
def test_parts_that_do_not_fit_are_refused(about: pv.Spec, options: dict[str, Any], message: str) -> None:
    with pytest.raises(PairError, match=message):
        pairs.markov(about, **options)


def test_training_a_hidden_markov_model_climbs_to_the_truth_of_its_data() -> None:
    """The gradient at draws of the exact posterior is, on average, that of log p(x)."""
    pair = hidden_markov()
    x = torch.eye(3).double()[torch.tensor([0, 1, 2] * 4)].flatten().repeat(4000, 1)
    pair.objective.loss_and_grads(pair.bound_model, pair.bound_guide, {"x": x})
    found = {name: p.grad.clone() for name, p in pair.named_parameters().items()}
    move = pair.model.prior.transition
    table, first = move.logits.detach().requires_grad_(), move.first_logits.detach().requires_grad_()
    said = Seen()(torch.eye(2).double()).log_prob(x[0].reshape(12, 1, 3))
    alpha = torch.log_softmax(first, -1) + said[0]
    for t in range(1, 12):
        alpha = (alpha[:, None] + torch.log_softmax(table, -1)).logsumexp(0) + said[t]
    (-alpha.logsumexp(0)).backward()
    for truth, (_, grad) in zip(
        (table.grad, first.grad), sorted(found.items(), key=lambda i: -i[1].dim()), strict=True
    ):
        assert truth is not None
        torch.testing.assert_close(grad / 4000, truth, rtol=0, atol=0.1)
