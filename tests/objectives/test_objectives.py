"""Every objective is the bound that it claims to be, with the right gradient, on pairs whose evidence is known."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_pairs import FEATURES, LATENT, DiagonalGuide, pair
from pyro.infer import ELBO, Trace_ELBO
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae import Pair, PairError
from pyro_vae.conditionals import Flow
from pyro_vae.guides.linear import LinearGuide
from pyro_vae.models.linear import LinearModel
from pyro_vae.objectives import (
    OBJECTIVES,
    AnalyticKL,
    DoublyReparameterized,
    Dreaming,
    ImportanceWeighted,
    MaximumMeanDiscrepancy,
    Renyi,
    ReweightedWakeSleep,
    StickingTheLanding,
    TotalCorrelation,
)
from pyro_vae.program import PerDatum, Tempered, Wrapped


@pytest.fixture(autouse=True)
def own_store() -> Iterator[None]:
    """The programs run bare here, so what they register goes to a store of the test's."""
    with pyro.get_param_store().scope():
        yield


BOUNDS = {
    "elbo": Trace_ELBO(num_particles=3, vectorize_particles=True),
    "analytic-kl": AnalyticKL(3),
    "stl": StickingTheLanding(3),
    "iwae": ImportanceWeighted(3),
    "dreg": DoublyReparameterized(3),
    "renyi": Renyi(3, alpha=0.3),
    "rws": ReweightedWakeSleep(3),
}


def gradients(objective: ELBO, model: Any, guide: Any, x: Tensor, wanted: list[Tensor]) -> Tensor:
    """The gradient of the mean loss a datum, flat."""
    loss = objective.differentiable_loss(model, guide, x) / len(x)
    found = torch.autograd.grad(loss, wanted, allow_unused=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(wanted, found, strict=True)])


def mean_and_error(draw: Callable[[], Tensor], times: int = 40) -> tuple[Tensor, Tensor]:
    draws = torch.stack([draw() for _ in range(times)])
    return draws.mean(0), draws.std(0) / math.sqrt(times)


def assert_near(mean: Tensor, error: Tensor, expected: Tensor) -> None:
    """Within 4.5 standard errors each: for a hundred numbers, a false alarm in a thousand seeds."""
    assert ((mean - expected).abs() <= 4.5 * error + 1e-9).all(), (mean, error, expected)


def logsumexp_gradient(k: int, x: Tensor, model: LinearModel, guide: DiagonalGuide, power: float = 1.0) -> Tensor:
    """-log mean_k w_k^power / power, written without Pyro."""
    q = torch.distributions.Normal(guide.net(x), guide.log_spread.exp())
    z = q.rsample((k,))
    p_x = torch.distributions.Normal(z @ model.weight.T + model.loc, model.log_scale.exp())
    log_w = p_x.log_prob(x).sum(-1) + torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1) - q.log_prob(z).sum(-1)
    return -(torch.logsumexp(power * log_w, 0) - math.log(k)) / power


@pytest.mark.parametrize("name", BOUNDS)
def test_at_the_exact_guide_every_bound_is_the_evidence(name: str) -> None:
    model, guide, x = pair(exact=True)
    expected = model.marginal().log_prob(x).sum()
    if name == "analytic-kl":  # its KL is exact and its reconstruction drawn
        return
    torch.testing.assert_close(-BOUNDS[name].differentiable_loss(model, guide, x), expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("name", BOUNDS)
def test_bounds_lie_below_the_evidence_and_rise_with_the_draws(name: str) -> None:
    model, guide, x = pair()
    x = x[:1].expand(20_000, FEATURES)
    evidence = model.marginal().log_prob(x[0]).item()
    objective = BOUNDS[name]
    with torch.no_grad():
        bound = -objective.differentiable_loss(model, guide, x).item() / len(x)
        elbo = -Trace_ELBO().differentiable_loss(model, guide, x).item() / len(x)
    assert bound < evidence
    if name in ("iwae", "dreg", "renyi", "rws"):
        assert bound > elbo + 0.1
    else:
        assert bound == pytest.approx(elbo, abs=1.5)  # draws of log w spread over tens of nats here


def test_more_draws_bring_the_importance_weighted_bound_to_the_evidence() -> None:
    model, guide, x = pair()
    x = x[:1].expand(400, FEATURES)
    evidence = model.marginal().log_prob(x[0]).item()
    with torch.no_grad():
        loss = ImportanceWeighted(2000).differentiable_loss(model, guide, x).item() / len(x)
    assert -loss == pytest.approx(evidence, abs=0.02)


@pytest.mark.parametrize("name", BOUNDS)
def test_a_bound_is_a_module(name: str) -> None:
    model, guide, x = pair()
    module = BOUNDS[name](model, guide)
    module(x).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
    torch.manual_seed(1)
    loss = BOUNDS[name].loss(model, guide, x)
    torch.manual_seed(1)
    assert BOUNDS[name].loss_and_grads(model, guide, x) == pytest.approx(loss, rel=1e-12)


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_importance_weighted_gradients_are_those_written_by_hand(k: int, alpha: float) -> None:
    model, guide, x = pair()
    wanted = [*model.parameters(), *guide.parameters()]
    objective = ImportanceWeighted(k) if alpha == 0 else Renyi(k, alpha=alpha)
    objective.differentiable_loss(model, guide, x)
    torch.manual_seed(1)
    found = gradients(objective, model, guide, x, wanted)
    torch.manual_seed(1)
    by_hand = logsumexp_gradient(k, x, model, guide, 1 - alpha).mean()
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(by_hand, wanted)])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["stl", "dreg"])
def test_path_derivatives_have_the_mean_of_the_plain_gradient(name: str) -> None:
    model, guide, x = pair()
    wanted = [*model.parameters(), *guide.parameters()]
    many = x[:3].repeat(500, 1)
    k = 1 if name == "stl" else 3
    objective = StickingTheLanding(1) if name == "stl" else DoublyReparameterized(3)
    mean, error = mean_and_error(lambda: gradients(objective, model, guide, many, wanted))

    def by_hand() -> Tensor:
        loss = logsumexp_gradient(k, many.repeat(4, 1), model, guide).mean()
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, wanted)])

    expected, other = mean_and_error(by_hand)
    assert_near(mean, (error.square() + other.square()).sqrt(), expected)


@pytest.mark.parametrize("name", ["stl", "dreg"])
def test_path_derivatives_vanish_at_the_posterior_draw_by_draw(name: str) -> None:
    model, _, x = pair()

    class Posterior(PyroModule):
        """The posterior, its mean and Cholesky factor parameters of its own."""

        def __init__(self) -> None:
            super().__init__()
            q = model.posterior(x)
            self.loc = nn.Parameter(q.loc.detach().clone())
            self.tril = nn.Parameter(q.scale_tril.detach().clone())

        def forward(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.MultivariateNormal(self.loc, scale_tril=self.tril))

    guide = Posterior()
    path = gradients(BOUNDS[name], model, guide, x, list(guide.parameters()))
    plain = gradients(ImportanceWeighted(1), model, guide, x, list(guide.parameters()))
    assert path.abs().max() < 1e-10 < 0.01 < plain.abs().max()


class TwoLevelModel(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(0.8).double()), nn.Parameter(torch.tensor(-1.1).double())

    def forward(self, x: Tensor) -> None:
        zeros = x.new_zeros(1)
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(zeros, 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(self.a * z2, 0.7).to_event(1))
            pyro.sample("x", dist.Normal(self.b * z1, 0.5).to_event(1), obs=x)


class TwoLevelGuide(PyroModule):
    def __init__(self, order: str = "down") -> None:
        super().__init__()
        self.u, self.v = nn.Parameter(torch.tensor(0.3).double()), nn.Parameter(torch.tensor(-0.5).double())
        self.order = order

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            if self.order == "down":
                z2 = pyro.sample("z2", dist.Normal(self.u * x, 0.6).to_event(1))
                pyro.sample("z1", dist.Normal(self.v * x + 0.2 * z2, 0.4).to_event(1))
            else:
                z1 = pyro.sample("z1", dist.Normal(self.v * x, 0.4).to_event(1))
                above = z1 if self.order == "up" else x
                pyro.sample("z2", dist.Normal(self.u * above, 0.6).to_event(1))


@pytest.mark.parametrize("name", ["stl", "dreg", "analytic-kl"])
def test_draws_that_depend_on_draws_have_the_right_gradient(name: str) -> None:
    model, guide = TwoLevelModel(), TwoLevelGuide()
    wanted = [*model.parameters(), *guide.parameters()]
    x = torch.tensor([[0.7], [-1.2]]).double().repeat(2000, 1)
    plain = ImportanceWeighted(3 if name == "dreg" else 1)
    mean, error = mean_and_error(lambda: gradients(BOUNDS[name], model, guide, x, wanted))
    expected, other = mean_and_error(lambda: gradients(plain, model, guide, x, wanted))
    assert_near(mean, (error.square() + other.square()).sqrt(), expected)


def test_analytic_kl_is_the_kl() -> None:
    model, guide, x = pair()
    objective = AnalyticKL()
    torch.manual_seed(1)
    loss = objective.differentiable_loss(model, guide, x)
    torch.manual_seed(1)
    q = torch.distributions.Normal(guide.net(x), guide.log_spread.exp())
    z = q.rsample()
    log_p = torch.distributions.Normal(z @ model.weight.T + model.loc, model.log_scale.exp()).log_prob(x).sum()
    kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum()
    torch.testing.assert_close(loss, kl - log_p)


def test_analytic_kl_refuses_a_guide_that_draws_a_parent_after_its_child() -> None:
    x = torch.ones(3, 1).double()
    AnalyticKL().differentiable_loss(TwoLevelModel(), TwoLevelGuide("apart"), x)
    with pytest.raises(PairError, match=r"takes p\(z1 \| z2\) at a given 'z2', and the guide draws 'z2' given 'z1'"):
        AnalyticKL().differentiable_loss(TwoLevelModel(), TwoLevelGuide("up"), x)


class Switch(PyroModule):
    """y in {0, 1}, x ~ Normal(mean_y, 1): evidence and gradients by enumeration."""

    def __init__(self) -> None:
        super().__init__()
        self.logit, self.means = (
            nn.Parameter(torch.tensor(0.4).double()),
            nn.Parameter(torch.tensor([-1.0, 0.8]).double()),
        )

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Bernoulli(logits=self.logit))
            loc = torch.where(y.bool(), self.means[1], self.means[0])
            pyro.sample("x", dist.Normal(loc.unsqueeze(-1), 1.0).to_event(1), obs=x)


class SwitchGuide(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(1, 1).double()

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Bernoulli(logits=self.net(x).squeeze(-1)))


@pytest.mark.parametrize("k", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_draws_without_gradients_get_score_functions_with_the_right_mean(k: int) -> None:
    torch.manual_seed(0)
    model, guide = Switch(), SwitchGuide()
    wanted = [*model.parameters(), *guide.parameters()]
    x = torch.tensor([[0.5]]).double()

    exact = torch.zeros(()).double()  # over all outcomes of the k draws
    values = torch.tensor([0.0, 1.0]).double()
    log_p = dist.Bernoulli(logits=model.logit).log_prob(values) + dist.Normal(model.means, 1.0).log_prob(x[0])
    log_q = dist.Bernoulli(logits=guide.net(x)[0]).log_prob(values)
    for draws in torch.cartesian_prod(*[torch.arange(2)] * k).reshape(-1, k):
        log_w = (log_p - log_q)[draws]
        exact = exact - log_q[draws].sum().exp() * (log_w.logsumexp(0) - math.log(k))
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(exact, wanted)])

    many = x.expand(5000, 1)
    mean, error = mean_and_error(lambda: gradients(ImportanceWeighted(k), model, guide, many, wanted))
    assert_near(mean, error, expected)


@pytest.mark.parametrize("objective", [StickingTheLanding(), AnalyticKL()])
def test_objectives_that_follow_draws_refuse_jumps(objective: ELBO) -> None:
    with pytest.raises(PairError, match=r"draws' derivatives, and those of site 'y' \(Bernoulli\) have none"):
        objective.differentiable_loss(Switch(), SwitchGuide(), torch.ones(2, 1).double())


def test_reweighted_wake_sleep_trains_the_model_on_the_importance_weighted_bound() -> None:
    model, guide, x = pair()
    wanted = list(model.parameters())
    found = []
    for objective in (ReweightedWakeSleep(4), ImportanceWeighted(4)):
        objective.differentiable_loss(model, guide, x)
        torch.manual_seed(1)
        found.append(gradients(objective, model, guide, x, wanted))
    torch.testing.assert_close(found[0], found[1])


def test_reweighted_wake_sleep_trains_the_guide_on_the_posterior() -> None:
    model, guide, x = pair()
    wanted = list(guide.parameters())
    posterior = model.posterior(x)
    # E_p(z | x) log q(z | x), in closed form
    loc, scale = guide.net(x), guide.log_spread.exp()
    second = (posterior.mean - loc).square() + posterior.variance
    expected = -(-guide.log_spread - 0.5 * second / scale.square()).sum(-1).mean()
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(expected, wanted)])
    mean, _error = mean_and_error(lambda: gradients(ReweightedWakeSleep(4000), model, guide, x, wanted))
    # normalising the weights biases by about 1 / draws
    torch.testing.assert_close(mean.detach(), expected, rtol=0.02, atol=0.02)


def test_sleep_trains_the_guide_on_what_the_model_dreams() -> None:
    model, guide, _ = pair()
    bound_model, bound_guide = Pair(model, guide).bound_model, Pair(model, guide).bound_guide
    batch = {"x": torch.zeros(4000, FEATURES).double()}
    wake = ReweightedWakeSleep(2)
    wake.differentiable_loss(bound_model, bound_guide, batch)  # the first call looks at the plates, with draws
    wanted = list(guide.parameters())

    def dream() -> Tensor:
        with torch.no_grad():
            z = torch.randn(4000, LATENT).double()
            x = z @ model.weight.T + model.loc + model.log_scale.exp() * torch.randn(4000, FEATURES).double()
        loss = -dist.Normal(guide.net(x), guide.log_spread.exp()).log_prob(z).sum(-1).mean()
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, wanted)])

    def found() -> Tensor:
        """The gradient that dreaming adds to that of the same draws."""
        seed, slopes = int(torch.randint(2**31, ())), []
        for objective in (wake, Dreaming(wake, 1.0)):
            torch.manual_seed(seed)
            loss = objective.differentiable_loss(bound_model, bound_guide, batch)
            slopes.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, wanted)]))
        return slopes[1] - slopes[0]

    mean, error = mean_and_error(found)
    expected, other = mean_and_error(dream)
    assert_near(mean, (error.square() + other.square()).sqrt(), expected)


@pytest.mark.parametrize("name", [n for n in OBJECTIVES if n not in ("enumeration", "one-level")])
def test_losses_are_in_nats_a_datum_when_the_programs_are_weighed_so(name: str) -> None:
    model, guide, x = pair()
    objective = OBJECTIVES[name](3, 100)
    objective.differentiable_loss(model, guide, x)  # sees the plates
    torch.manual_seed(1)
    total = objective.differentiable_loss(model, guide, x)
    weighed = [Wrapped(program, lambda: PerDatum(100)) for program in (model, guide)]
    torch.manual_seed(1)
    mean = objective.differentiable_loss(*weighed, x)
    torch.testing.assert_close(mean, total / len(x))


def test_importance_weights_do_not_depend_on_the_rest_of_the_batch() -> None:
    """Pyro's RenyiELBO fails this: scales inside the logarithm pool the data."""
    model, guide, x = pair()

    def subsampled(x: Tensor) -> None:
        with pyro.poutine.scale(scale=10.0):
            model(x)

    def guide_of(x: Tensor) -> None:
        with pyro.poutine.scale(scale=10.0):
            guide(x)

    objective = ImportanceWeighted(5)
    objective.differentiable_loss(model, guide, x)
    torch.manual_seed(1)
    plain = objective.differentiable_loss(model, guide, x)
    torch.manual_seed(1)
    torch.testing.assert_close(objective.differentiable_loss(subsampled, guide_of, x), 10 * plain)


@pytest.mark.parametrize("name", ["elbo", "analytic-kl", "stl", "iwae", "dreg"])
def test_a_tempered_kl_of_weight_zero_leaves_the_reconstruction(name: str) -> None:
    model, guide, x = pair()
    objective = OBJECTIVES[name](1, 100)
    weighed = [Wrapped(program, lambda: Tempered(torch.tensor(0.0))) for program in (model, guide)]
    torch.manual_seed(1)
    loss = objective.differentiable_loss(*weighed, x)
    torch.manual_seed(1)
    z = guide(x)
    expected = -dist.Normal(z @ model.weight.T + model.loc, model.log_scale.exp()).log_prob(x).sum()
    torch.testing.assert_close(loss, expected)


def test_sites_outside_the_data_plate_have_no_weight_of_their_own() -> None:
    def model(x: Tensor) -> None:
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(m.unsqueeze(-1), 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("m", dist.Normal(0.0, 1.0))

    with pytest.raises(PairError, match="ImportanceWeighted weights each datum by itself, and site 'm' lies outside"):
        ImportanceWeighted(2).differentiable_loss(model, guide, torch.zeros(3, 1))
    AnalyticKL().differentiable_loss(model, guide, torch.zeros(3, 1))


def test_inner_plates_are_summed_into_their_datum() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            v = pyro.sample("v", dist.Normal(0.0, 1.0))
            with pyro.plate("items", 3, dim=-2):
                w = pyro.sample("w", dist.Normal(v, 1.0))
                pyro.sample("x", dist.Normal(w, 1.0), obs=x.T)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("v", dist.Normal(0.0, 1.0))
            with pyro.plate("items", 3, dim=-2):
                pyro.sample("w", dist.Normal(0.0, 1.0))

    x = torch.randn(5, 3)
    for name in ("iwae", "stl", "dreg", "rws", "renyi"):
        objective = OBJECTIVES[name](4, 100)
        assert objective.differentiable_loss(model, guide, x).isfinite()
    objective = ImportanceWeighted(4)
    objective.differentiable_loss(model, guide, x)
    torch.manual_seed(1)
    loss = objective.differentiable_loss(model, guide, x)
    torch.manual_seed(1)
    v = torch.randn(4, 1, 5)
    w = torch.randn(4, 3, 5)
    normal = torch.distributions.Normal(0.0, 1.0)
    log_w = (normal.log_prob(w - v) + normal.log_prob(x.T - w) - normal.log_prob(w)).sum(1)
    torch.testing.assert_close(loss, -(log_w.logsumexp(0) - math.log(4)).sum())


def test_a_flow_without_inverse_has_no_density_at_given_values() -> None:
    model, _, x = pair()

    class Bent(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.head = Flow(LATENT, "planar", layers=2, context=3)
            self.net = nn.Linear(FEATURES, self.head.size)

        def forward(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("z", self.head(self.net(x)))

    guide = Bent().double()
    assert ImportanceWeighted(2).differentiable_loss(model, guide, x).isfinite()
    with pytest.raises(PairError, match=r"needs the density of site 'z' at given values.*no inverse"):
        DoublyReparameterized(2).differentiable_loss(model, guide, x)


def test_what_cannot_be_is_said() -> None:
    model, guide, x = pair()
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        ImportanceWeighted(0)
    with pytest.raises(ValueError, match="needs at least 2, got 1"):
        ReweightedWakeSleep(1)
    with pytest.raises(ValueError, match="alpha = 1 is the ELBO"):
        Renyi(alpha=1)
    with pytest.raises(PairError, match="single datum; raise --batch-size"):
        TotalCorrelation(num_data=10).differentiable_loss(model, guide, x[:1])
    with pytest.raises(PairError, match="single datum; raise --batch-size"):
        MaximumMeanDiscrepancy().differentiable_loss(model, guide, x[:1])
    with pytest.raises(PairError, match="needs a diagonal Gaussian vector at site 'z', not MultivariateNormal"):
        TotalCorrelation(num_data=10).differentiable_loss(model, LinearGuide(model), x)
