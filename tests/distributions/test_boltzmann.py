"""Restricted Boltzmann machines against sums over all states."""

import itertools
import math

import pytest
import torch

from pyro_vae.conditionals import Boltzmann, ContrastiveBoltzmann, PersistentBoltzmann
from pyro_vae.distributions import Energy, anneal_energy, states_of

LOG_Z = {
    (6, 4, 1.0): 9.134774886543793,
    (12, 8, 0.5): 14.70238479005334,
    (12, 8, 1.0): 17.226619945197527,
    (12, 8, 2.0): 25.11284556029507,
}


def machine(visible: int, hidden: int, scale: float) -> Energy:
    """W_ij = s sin(i j), a_i = s cos i, b_j = s sin(j / 2), counted from 1."""
    i, j = (torch.arange(1, n + 1, dtype=torch.float64) for n in (visible, hidden))
    return Energy(scale * torch.sin(i.unsqueeze(-1) * j), scale * torch.cos(i), scale * torch.sin(j / 2))


def turned(energy: Energy) -> Energy:
    return Energy(energy.weights.T, energy.hidden, energy.visible)


def module(kind: type, energy: Energy, **options: int) -> Boltzmann:
    found = kind(torch.full((len(energy.visible),), 0.5), len(energy.hidden), **options).double()
    with torch.no_grad():
        for mine, given in zip((found.weights, found.visible, found.hidden), energy, strict=True):
            mine.copy_(given)
    return found


@pytest.mark.parametrize(("size", "expected"), LOG_Z.items())
def test_log_z_is_the_same_over_either_side(size, expected) -> None:
    energy = machine(*size)
    over_h = energy.log_z(states_of(size[1]).double())
    over_x = -energy.free(states_of(size[0]).double())
    assert over_h.item() == pytest.approx(expected, abs=1e-11)
    assert over_x.logsumexp(0).item() == pytest.approx(expected, abs=1e-11)
    assert turned(energy).log_z(states_of(size[1]).double()).item() == pytest.approx(expected, abs=1e-11)


def test_states_are_all_of_them_in_order() -> None:
    assert states_of(3).tolist() == [list(map(float, row)) for row in itertools.product((0, 1), repeat=3)]


def test_probabilities_sum_to_one_and_have_the_known_entropy() -> None:
    log_p = module(Boltzmann, machine(12, 8, 1.0))().log_prob(states_of(12).double())
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-12)
    assert -(log_p.exp() * log_p).sum().item() == pytest.approx(7.184364139421618, abs=1e-10)


def test_the_gradient_is_that_of_maximum_likelihood() -> None:
    one = module(Boltzmann, machine(6, 4, 1.0))
    log_p = one().log_prob(states_of(6).double()[[1, 5, 9, 33, 62]]).mean()
    log_p.backward()
    assert log_p.item() == pytest.approx(-5.011246650175, abs=1e-11)
    assert one.weights.grad[0, 0].item() == pytest.approx(-0.262271881, abs=1e-8)


@pytest.mark.parametrize("size", [(5, 3), (3, 5)])
def test_exact_draws_follow_the_probabilities(size) -> None:
    torch.manual_seed(0)
    energy = machine(*size, 1.5)
    states = states_of(size[0]).double()
    p = (-energy.free(states)).softmax(0)
    drawn = module(Boltzmann, energy)().sample((40_000,))
    index = (drawn * 2.0 ** torch.arange(size[0] - 1, -1, -1)).sum(-1).long()
    share = torch.bincount(index, minlength=len(states)) / len(drawn)
    assert ((share - p).abs() < 5 * (p * (1 - p) / len(drawn)).sqrt() + 1e-9).all()


def transitions(energy: Energy) -> torch.Tensor:
    """P(x' | x) of a step of Gibbs sampling, over all states."""
    x, h = (states_of(len(side)).double() for side in (energy.visible, energy.hidden))
    given_x = torch.sigmoid(energy.hidden + x @ energy.weights).unsqueeze(1)
    given_h = torch.sigmoid(energy.visible + h @ energy.weights.T).unsqueeze(1)
    to_h = torch.where(h > 0, given_x, 1 - given_x).prod(-1)
    return to_h @ torch.where(x > 0, given_h, 1 - given_h).prod(-1)


@pytest.mark.parametrize(
    ("scale", "expected"), [(1.0, {1: 0.1406, 5: 0.0002}), (2.0, {1: 0.3243, 5: 0.0053}), (4.0, {1: 0.4943, 5: 0.0126})]
)
def test_the_bias_of_contrastive_divergence_is_known(scale, expected) -> None:
    energy, x = machine(6, 4, scale), states_of(6).double()
    p = (-energy.free(x)).softmax(0)
    step = transitions(energy)
    torch.testing.assert_close(p @ step, p)
    data = torch.zeros(64, dtype=torch.float64)
    data[[1, 5, 9, 33, 62]] = 0.2

    def moment(q: torch.Tensor) -> torch.Tensor:
        return (q.unsqueeze(-1) * x).T @ torch.sigmoid(energy.hidden + x @ energy.weights)

    exact = moment(data) - moment(p)
    for k, bias in expected.items():
        cd = moment(data) - moment(data @ torch.linalg.matrix_power(step, k))
        assert ((cd - exact).norm() / exact.norm()).item() == pytest.approx(bias, abs=6e-5)


def test_the_gradient_by_divergence_is_cds_and_by_chains_at_rest_the_exact_one() -> None:
    energy, x, count = machine(6, 4, 2.0), states_of(6).double(), 20_000
    shown = x[[1, 5, 9, 33, 62]].repeat(count // 5, 1)
    data = torch.zeros(64, dtype=torch.float64)
    data[[1, 5, 9, 33, 62]] = 0.2
    p = (-energy.free(x)).softmax(0)

    def moment(q: torch.Tensor) -> torch.Tensor:
        return (q.unsqueeze(-1) * x).T @ torch.sigmoid(energy.hidden + x @ energy.weights)

    def gradient(one: Boltzmann) -> torch.Tensor:
        torch.manual_seed(1)
        one().log_prob(shown).mean().backward()
        return one.weights.grad

    tolerance = 5 * 0.5 / count**0.5
    divergence = gradient(module(ContrastiveBoltzmann, energy))
    cd, exact = moment(data) - moment(data @ transitions(energy)), moment(data) - moment(p)
    assert (divergence - cd).abs().max() < tolerance < (cd - exact).abs().max()
    chains = module(PersistentBoltzmann, energy, chains=count, steps=60)
    assert (gradient(chains) - exact).abs().max() < tolerance


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_annealing_brackets_log_z(scale) -> None:
    torch.manual_seed(0)
    energy, states, chains = machine(12, 8, scale), states_of(8).double(), 200
    gaps = []
    for temperatures in (10, 100, 1000):
        start = energy.exact(states, (chains,))
        base = torch.zeros(12, dtype=torch.float64)
        found = anneal_energy(energy, base, temperatures=temperatures, chains=chains, start=start)
        below, above = (w.mean().item() for w in (found.forward, found.reverse))
        errors = [4 * w.std().item() / math.sqrt(chains) for w in (found.forward, found.reverse)]
        assert below - errors[0] < LOG_Z[12, 8, scale] < above + errors[1]
        assert abs(found.lower - LOG_Z[12, 8, scale]) < 4 * found.stderr + 0.02
        gaps.append(above - below)
    assert gaps[0] > gaps[1] > gaps[2] - 0.05
    assert gaps[0] > 0.2, "few temperatures leave a gap, or there is nothing to close"


def test_a_base_with_the_datas_mean_changes_the_path_only() -> None:
    torch.manual_seed(0)
    found = anneal_energy(machine(12, 8, 1.0), torch.linspace(-2, 1, 12).double(), temperatures=300, chains=300)
    assert found.lower == pytest.approx(LOG_Z[12, 8, 1.0], abs=4 * found.stderr + 0.01)
    assert found.upper is None
    assert not found.agrees


@pytest.mark.parametrize(("name", "value"), [("temperatures", 0), ("chains", 0), ("temperatures", -3)])
def test_annealing_through_nothing_is_refused(name, value) -> None:
    with pytest.raises(ValueError, match=f"needs at least one of {name}, got {value}: set {name}"):
        anneal_energy(machine(6, 4, 1.0), torch.zeros(6).double(), **{name: value})


def test_a_sum_over_too_many_states_is_refused() -> None:
    with pytest.raises(ValueError, match=r"all states of 15 units has 3e\+04 terms, and can be taken for up to 14"):
        Boltzmann(torch.full((20,), 0.5), 15)


def test_chains_move_in_training_only_and_are_never_averaged() -> None:
    torch.manual_seed(0)
    one = PersistentBoltzmann(torch.full((9,), 0.4), 20, chains=50)
    before = one.chains.clone()
    one.eval()()
    assert torch.equal(one.chains, before)
    one.train()()
    assert not torch.equal(one.chains, before)
    assert set(one.chains.unique().tolist()) == {0.0, 1.0}
    assert one.moved == 1
