"""What each family claims, against closed forms and against tampered data."""

import math
from typing import Any

import numpy as np
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from torch import Tensor, nn
from zoo import BINARY, FEATURES, FEW_LABELS, GROUPS, LABELS, ROWS, SMALL, spec
from zoo import batch as fields_of

from pyro_vae import Pair, PairError, load_data, log_weights, pairs
from pyro_vae.conditionals import FullCovariance, StandardNormal
from pyro_vae.data import DataError
from pyro_vae.evidence import evaluate, maximum_likelihood
from pyro_vae.guides.bottom_up import BottomUpGuide
from pyro_vae.guides.hierarchical import HierarchicalGuide
from pyro_vae.guides.latent import LatentGuide
from pyro_vae.guides.semi_amortized import SemiAmortizedGuide
from pyro_vae.guides.semi_supervised import SemiSupervisedGuide
from pyro_vae.models.conditional import ConditionalModel
from pyro_vae.models.hierarchical import HierarchicalModel
from pyro_vae.models.latent import LatentModel
from pyro_vae.models.linear import LinearModel
from pyro_vae.models.semi_supervised import SemiSupervisedModel
from pyro_vae.nets import OneHot


class Linear(nn.Module):
    """Normal(W (contexts side by side) + b, L L')."""

    def __init__(self, weight: Tensor, loc: Tensor | None = None, covariance: Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.loc = nn.Parameter(weight.new_zeros(len(weight)) if loc is None else loc)
        self.covariance = torch.eye(len(weight)).to(weight) if covariance is None else covariance

    def forward(self, *contexts: Tensor) -> dist.MultivariateNormal:
        lead = torch.broadcast_shapes(*(c.shape[:-1] for c in contexts))
        joined = torch.cat([c.expand(*lead, -1) for c in contexts], -1)
        return dist.MultivariateNormal(joined @ self.weight.T + self.loc, self.covariance)


def condition_on(covariance: Tensor, wanted: slice, given: list[int]) -> tuple[Tensor, Tensor]:
    """Weight and covariance of some coordinates of a centred Gaussian given others."""
    rows = list(range(len(covariance)))[wanted]
    cross = covariance[rows][:, given]
    weight = cross @ torch.linalg.inv(covariance[given][:, given])
    rest = covariance[rows][:, rows] - weight @ cross.T
    return weight, (rest + rest.T) / 2


def two_levels() -> tuple[HierarchicalModel, Tensor, Tensor]:
    """z2 (1) -> z1 (2) -> x (3), linear and Gaussian: the model, the joint covariance of (z2, z1, x), data."""
    torch.manual_seed(0)
    a, b = torch.randn(2, 1).double(), torch.randn(3, 2).double()
    model = HierarchicalModel(StandardNormal(1).double(), [Linear(a)], Linear(b))
    z1 = torch.cat([a, torch.eye(2).double(), torch.zeros(2, 3).double()], 1)  # as a function of the noises
    x = torch.cat([b @ z1[:, :3], torch.eye(3).double()], 1)
    root = torch.cat([torch.eye(6).double()[:1], z1, x])
    return model, root @ root.T, x @ torch.randn(6, 7).double()


def test_a_two_level_guide_can_be_the_posterior() -> None:
    model, joint, x = two_levels()
    top = Linear(*_with_zero_loc(condition_on(joint, slice(0, 1), [3, 4, 5])))
    below = Linear(*_with_zero_loc(condition_on(joint, slice(1, 3), [3, 4, 5, 0])))
    identity = nn.ModuleList([nn.Identity(), nn.Identity()])
    pair = Pair(model, HierarchicalGuide(list(identity), top, [below]))
    log_w = log_weights(pair, {"x": x.T}, 4)
    evidence = dist.MultivariateNormal(torch.zeros(3).double(), joint[3:, 3:]).log_prob(x.T)
    torch.testing.assert_close(log_w, evidence.expand(4, -1), rtol=0, atol=1e-10)


class OneMore(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1


class Around(nn.Module):
    """Normal(h, 1), whatever the level above."""

    def forward(self, h: Tensor, *above: Tensor) -> Any:
        return dist.Normal(h, 1.0).to_event(1)


def test_each_level_of_a_guide_reads_the_hidden_layer_of_its_own_depth() -> None:
    guide = HierarchicalGuide([OneMore(), OneMore(), OneMore()], Around(), [Around(), Around()])
    nodes = poutine.trace(guide).get_trace(torch.zeros(4, 2)).nodes
    means = {name: nodes[name]["fn"].mean.unique().tolist() for name in ("z3", "z2", "z1")}
    assert means == {"z3": [3.0], "z2": [2.0], "z1": [1.0]}


def test_a_bottom_up_guide_can_be_the_posterior_of_a_markov_chain_too() -> None:
    """q(z1 | x) q(z2 | z1): here z2 depends on x through z1 alone, and the guide's order does not matter."""
    model, joint, x = two_levels()
    first = Linear(*_with_zero_loc(condition_on(joint, slice(1, 3), [3, 4, 5])))
    second = Linear(*_with_zero_loc(condition_on(joint, slice(0, 1), [1, 2])))
    log_w = log_weights(Pair(model, BottomUpGuide([first, second])), {"x": x.T}, 4)
    evidence = dist.MultivariateNormal(torch.zeros(3).double(), joint[3:, 3:]).log_prob(x.T)
    torch.testing.assert_close(log_w, evidence.expand(4, -1), rtol=0, atol=1e-10)


def _with_zero_loc(parts: tuple[Tensor, Tensor]) -> tuple[Tensor, None, Tensor]:
    return parts[0], None, parts[1]


def test_a_guide_that_drops_a_level_has_the_gap_that_theory_says() -> None:
    """q(z1 | x) in place of q(z1 | x, z2), both marginals exact: the gap is the information I(z1; z2 | x)."""
    model, joint, x = two_levels()
    top = Linear(*_with_zero_loc(condition_on(joint, slice(0, 1), [3, 4, 5])))
    weight, covariance = condition_on(joint, slice(1, 3), [3, 4, 5])
    apart = Linear(torch.cat([weight, torch.zeros(2, 1).double()], 1), None, covariance)
    pair = Pair(model, HierarchicalGuide([nn.Identity(), nn.Identity()], top, [apart]))
    many = x.T[:1].expand(20_000, 3)
    log_w = log_weights(pair, {"x": many}, 1).detach()
    evidence = dist.MultivariateNormal(torch.zeros(3).double(), joint[3:, 3:]).log_prob(many[0])
    _, given_both = condition_on(joint, slice(1, 3), [3, 4, 5, 0])
    gap = 0.5 * (torch.logdet(covariance) - torch.logdet(given_both)).item()
    error = log_w.std().item() / math.sqrt(log_w.numel())
    assert 0.05 < gap == pytest.approx(evidence.item() - log_w.mean().item(), abs=4 * error + 1e-6)


def test_a_linear_conditional_pair_is_exact() -> None:
    """x = W z + M y + noise, given y: evidence Normal(M y, W W' + s^2)."""
    torch.manual_seed(0)
    linear = LinearModel(2, 4).double()
    shift = torch.randn(3, 4).double()
    s2 = (2 * linear.log_scale).exp()

    class Decoder(nn.Module):
        def forward(self, z: Tensor, y: Tensor) -> Any:
            return dist.Normal(z @ linear.weight.T + y @ shift, s2.sqrt()).to_event(1)

    class Encoder(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Any:
            return linear.posterior(x - y @ shift)

    from pyro_vae.conditionals import FixedPrior
    from pyro_vae.guides.conditional import ConditionalGuide

    embed = OneHot(3).double()
    pair = Pair(
        ConditionalModel(embed, FixedPrior(StandardNormal(2).double()), Decoder()), ConditionalGuide(embed, Encoder())
    )
    x, y = torch.randn(6, 4).double(), torch.arange(6) % 3
    evidence = linear.marginal().log_prob(x - embed(y) @ shift)
    torch.testing.assert_close(log_weights(pair, {"x": x, "y": y}, 3), evidence.expand(3, -1), rtol=0, atol=1e-10)


def test_a_label_out_of_range_is_refused() -> None:
    row = ROWS["conditional"]
    pair, batch = row.build(), row.batch()
    with pytest.raises(IndexError, match="out of range"):
        pair.bound_model({**batch, "y": batch["y"] + 3})


@pytest.mark.parametrize("build", [pairs.conditional, pairs.attribute])
def test_a_conditional_pair_needs_something_to_be_given(build: Any) -> None:
    with pytest.raises(PairError, match="test has no field 'y', only 'x'; use data with y, or the pair latent"):
        build(spec())


def test_attributes_of_another_width_are_refused() -> None:
    row = ROWS["conditional-attributes"]
    pair, batch = row.build(), row.batch()
    with pytest.raises(ValueError, match="was built for 5 inputs and got a tensor of shape"):
        pair.bound_model({**batch, "y": batch["y"][:, :1].repeat(1, 3)})


@pytest.mark.slow
def test_the_autoencoder_with_linear_nets_is_pca() -> None:
    torch.manual_seed(0)
    x = (torch.randn(400, 3) * torch.tensor([3.0, 2.0, 1.0])) @ torch.randn(3, FEATURES) + 0.1 * torch.randn(
        400, FEATURES
    )
    description = spec()
    pair = pairs.autoencoder(description, latent=2, likelihood="normal", hidden=[])
    optimizer = torch.optim.Adam(pair.named_parameters().values(), lr=0.02)
    for _ in range(1500):
        optimizer.zero_grad()
        pair.objective.differentiable_loss(pair.bound_model, pair.bound_guide, {"x": x}).backward()
        optimizer.step()
    with torch.no_grad():
        z = pair.guide.encoder(x).mean
        error = (pair.model.decoder(z).mean - x).square().mean().item()
    solution = maximum_likelihood(x, 2)
    best = solution.variances[2:].sum().item() / FEATURES
    assert best <= error < 1.02 * best
    angles = torch.linalg.svdvals(
        torch.linalg.qr(pair.model.decoder.net.last.weight.detach().double()).Q.T @ torch.linalg.qr(solution.weight).Q
    )
    assert angles.min() > 0.999


class Classes(nn.Module):
    """x ~ Normal(mean_y, 1), whatever z."""

    means: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("means", torch.tensor([[0.0, 2.0], [1.0, -1.0], [-2.0, 0.5]]).double())

    def forward(self, z: Tensor, y: Tensor) -> Any:
        return dist.Normal(y @ self.means + 0 * z, 1.0).to_event(1)


class Posterior(nn.Module):
    """log p(y | x) up to a constant."""

    def forward(self, x: Tensor) -> Tensor:
        return dist.Normal(Classes().means, 1.0).log_prob(x.unsqueeze(-2)).sum(-1)


class Prior(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Any:
        return dist.Normal(torch.zeros_like(x), 1.0).to_event(1)


def test_a_semi_supervised_bound_is_the_evidence_at_the_exact_guide() -> None:
    torch.manual_seed(0)
    model = SemiSupervisedModel(3, StandardNormal(2).double(), Classes()).double()
    guide = SemiSupervisedGuide(OneHot(3).double(), Posterior(), nn.Identity(), Prior(), weight=0.0)
    objective = TraceEnum_ELBO(max_plate_nesting=1)
    x, y = torch.randn(6, 2).double(), torch.tensor([0, 1, 2, 0, 1, 2])
    log_joint = dist.Normal(Classes().means, 1.0).log_prob(x.unsqueeze(-2)).sum(-1) - math.log(3)
    pair = Pair(model, guide, objective)
    for labelled, expected in (
        (torch.zeros(6).bool(), log_joint.logsumexp(-1)),
        (torch.ones(6).bool(), log_joint.gather(-1, y.unsqueeze(-1)).squeeze(-1)),
    ):
        batch = {"x": x, "y": y, "labelled": labelled}
        loss = objective.loss(pair.bound_model, pair.bound_guide, batch)
        assert -loss == pytest.approx(expected.sum().item())


def test_hidden_labels_are_not_looked_at() -> None:
    row = ROWS["semi_supervised"]
    pair, batch = row.build(), row.batch()
    labelled = batch["labelled"]
    assert labelled.any()
    assert not labelled.all()

    def gradients(y: Tensor) -> list[Tensor]:
        torch.manual_seed(1)
        loss = pair.objective.differentiable_loss(pair.bound_model, pair.bound_guide, {**batch, "y": y})
        return [loss.detach(), *torch.autograd.grad(loss, list(pair.named_parameters().values()))]

    original = gradients(batch["y"])
    other = gradients(torch.where(labelled, batch["y"], (batch["y"] + 1) % 3))
    assert all(torch.equal(a, b) for a, b in zip(original, other, strict=True))
    told = gradients(torch.where(labelled, (batch["y"] + 1) % 3, batch["y"]))
    assert not torch.equal(original[0], told[0])


def test_data_keep_only_the_labels_that_were_asked_for() -> None:
    full, few = load_data("digits"), load_data("digits", labels=50)
    train, test = few.batch("train"), few.batch("test")
    n = full.size("train")
    first = train["labelled"][:n]
    assert first.sum() == 50
    assert train["y"][:n][first].bincount().tolist() == [5] * 10
    assert (train["y"][:n][~first] == 0).all()
    assert torch.equal(train["y"][:n][first], full.batch("train")["y"][first])
    assert train["labelled"][n:].all()
    assert 0.05 < train["labelled"].double().mean() < 0.15
    assert not test["labelled"].any()
    assert torch.equal(test["y"], full.batch("test")["y"])
    other = load_data("digits", labels=50, label_seed=1).batch("train")["labelled"][:n]
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("labels", "message"), [(5, "multiple of 10, such as 10"), (15, "such as 10"), (10_000, "fewer labels")]
)
def test_impossible_numbers_of_labels_are_refused(labels: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data("digits", labels=labels)


def test_labels_of_data_without_classes_are_refused() -> None:
    with pytest.raises(DataError, match="needs data with classes in y"):
        load_data({"x": np.random.default_rng(0).random((50, 3))}, labels=10)
    with pytest.raises(PairError, match="no field 'labelled' to tell which count; set --labels, such as --labels 30"):
        pairs.semi_supervised(LABELS)
    with pytest.raises(PairError, match="has none in 'y'"):
        pairs.semi_supervised(spec())


@pytest.mark.parametrize("name", ["latent", "hierarchical", "semi_supervised", "grouped"])
@pytest.mark.parametrize("hidden", [[0], [8, -3]])
def test_impossible_widths_are_refused(name: str, hidden: list[int]) -> None:
    row = ROWS[name]
    with pytest.raises(PairError, match="hidden must be at least 1, got"):
        row.pair(row.spec, **{**row.options, "hidden": hidden})


@pytest.mark.parametrize("name", ["hierarchical", "semi_supervised", "grouped"])
def test_nets_that_share_a_layer_need_one(name: str) -> None:
    row = ROWS[name]
    with pytest.raises(PairError, match=r"shares a hidden layer, and hidden is \[\]"):
        row.pair(row.spec, **{**row.options, "hidden": []})


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("latent", {"particles": 0}),
        ("latent", {"prior": "mixture", "components": 0}),
        ("flow", {"layers": -1}),
        ("semi_amortized", {"steps": -1}),
    ],
)
def test_impossible_numbers_are_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(PairError, match=f"{list(options)[-1]} must be at least"):
        pairs.PAIRS[name](spec(), **options)


def test_structured_completions_do_not_look_at_what_they_complete() -> None:
    row = ROWS["structured-1"]
    pair, batch = row.build(), row.batch()
    given = pair.model.inside
    outside = pair.model.outside

    def completed(x: Tensor) -> Tensor:
        torch.manual_seed(3)
        with torch.no_grad():
            return poutine.uncondition(pair.bound_model)({"x": x})

    first = completed(batch["x"])
    flipped = batch["x"].clone()
    flipped[:, outside] = 1 - flipped[:, outside]
    assert torch.equal(first, completed(flipped))
    torch.testing.assert_close(first[:, given], batch["x"][:, given])
    assert sorted([*given.tolist(), *outside.tolist()]) == list(range(FEATURES))


def test_quadrants_are_counted_and_need_an_image() -> None:
    from dataclasses import replace

    for quadrants, share in ((1, 0.25), (2, 0.5), (3, 0.75)):
        assert len(pairs.structured(BINARY, **SMALL, quadrants=quadrants).model.inside) == share * FEATURES
    with pytest.raises(PairError, match="1, 2 or 3, got 4"):
        pairs.structured(BINARY, quadrants=4)
    with pytest.raises(PairError, match="without a shape"):
        pairs.structured(replace(BINARY, image=None))


def test_padding_of_a_group_does_not_matter() -> None:
    row = ROWS["grouped"]
    pair, batch = row.build(), row.batch()
    assert not batch["mask"].all()
    torch.manual_seed(1)
    before = log_weights(pair, batch, 2)
    item = FEATURES // 4
    padded = (~batch["mask"]).repeat_interleave(item, 1)
    torch.manual_seed(1)
    after = log_weights(pair, {**batch, "x": torch.where(padded, 7.0, batch["x"])}, 2)
    torch.testing.assert_close(before, after)


def test_the_order_of_items_does_not_matter_to_the_group() -> None:
    row = ROWS["grouped"]
    pair, batch = row.build(), row.batch()
    order = torch.tensor([2, 0, 3, 1])
    x = batch["x"].unflatten(-1, (4, -1))[:, order].flatten(1)

    def group(batch: dict[str, Tensor]) -> Tensor:
        return poutine.trace(pair.bound_guide).get_trace(batch).nodes["v"]["fn"].mean

    torch.testing.assert_close(group(batch), group({**batch, "x": x, "mask": batch["mask"][:, order]}))


def test_items_must_divide_the_features() -> None:
    with pytest.raises(PairError, match="cannot be 3 items of equal size"):
        pairs.grouped(spec(), items=3)
    with pytest.raises(PairError, match="no field 'mask' to tell; set --items"):
        pairs.grouped(spec())
    assert pairs.grouped(GROUPS, **SMALL).model.items == 4


@pytest.mark.slow
def test_groups_are_recovered() -> None:
    """Items of a group share a mean; v finds it, w what is left, with unequal groups."""
    torch.manual_seed(0)
    shared = 2 * torch.randn(600, 1, 2)
    mask = torch.arange(5) < torch.randint(2, 6, (600, 1))
    items = (shared + 0.5 * torch.randn(600, 5, 2)) * mask.unsqueeze(-1)
    data = load_data({"x": items.flatten(1).numpy(), "mask": mask.numpy()})
    from pyro_vae import fit

    pair = pairs.grouped(data.spec, group_latent=2, latent=2, hidden=[32])
    fit(pair, data, epochs=40, batch_size=60, lr=5e-3, compile="off")
    test = data.batch("test")
    v = poutine.trace(pair.bound_guide).get_trace(test).nodes["v"]["fn"].mean.detach().double()
    count = test["mask"].sum(1, keepdim=True)
    truth = (test["x"].unflatten(-1, (5, 2)).sum(1) / count).double()
    design = torch.cat([v, torch.ones(len(v), 1)], 1).double()
    left = truth - design @ torch.linalg.lstsq(design, truth).solution
    assert 1 - left.var() / truth.var() > 0.9


def test_refinement_climbs_towards_the_posterior_of_each_datum() -> None:
    torch.manual_seed(0)
    linear = LinearModel(2, 4).double()

    class Decoder(nn.Module):
        def forward(self, z: Tensor) -> Any:
            return dist.Normal(z @ linear.weight.T, 0.5).to_event(1)

    model = LatentModel(StandardNormal(2).double(), Decoder())
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0, 0], [0, 1.0], [1.0, 0], [0, -1.0]]))  # a diagonal posterior
    x = torch.randn(50, 4).double()

    class Nothing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.start = nn.Parameter(torch.zeros(4).double())

        def forward(self, x: Tensor) -> Tensor:
            return self.start.expand(len(x), 4)

    covariance = linear.weight.double() @ linear.weight.double().T + 0.25 * torch.eye(4).double()
    evidence = dist.MultivariateNormal(torch.zeros(4).double(), covariance).log_prob(x).mean().item()
    gaps = []
    for steps in (0, 5, 100):
        guide = SemiAmortizedGuide(model, Nothing(), 2, steps=steps, rate=0.3, draws=64).double()
        gaps.append(evidence - log_weights(Pair(model, guide), {"x": x}, 200).mean().item())
    assert gaps[0] > 2 * gaps[1] > 2 * gaps[2]
    assert gaps[2] < 0.02  # stochastic variational inference from scratch: the best Gaussian is the posterior


def test_a_correlated_posterior_is_found_by_a_full_covariance_and_not_by_a_diagonal_one() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 4).double()
    linear = LinearModel(2, 4).double()
    with torch.no_grad():
        linear.weight.mul_(10)
    head = FullCovariance(2).double()
    target = linear.posterior(x)
    scale = target.variance.sqrt().detach()
    tril = target.scale_tril.detach()
    ratio = tril[:, 1, 0] / tril[:, 1, 1]
    parameters = torch.cat([target.loc.detach(), 10 * torch.tan(torch.asin(scale.log() / 10)), ratio.unsqueeze(-1)], -1)

    class Encoder(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return head(parameters)

    log_w = log_weights(Pair(linear, LatentGuide(Encoder())), {"x": x}, 50)
    assert log_w.std(0).max() < 0.2


def test_figures_of_a_pair_whose_items_lie_in_an_inner_plate() -> None:
    data = load_data("digits")
    pair = pairs.grouped(data.spec, items=8, group_latent=2, latent=1, hidden=[8])
    figures = evaluate(pair, data, num_samples=2)
    assert math.isfinite(figures.log_evidence)
    assert figures.rms_error == pytest.approx(data.batch("test")["x"].std().item(), rel=0.5)


def test_every_pair_says_in_one_line_what_it_is() -> None:
    for name, build in pairs.PAIRS.items():
        line = (build.__doc__ or "").splitlines()[0]
        assert 20 < len(line) < 120, name
    assert fields_of(FEW_LABELS)["labelled"].dtype == torch.bool


def test_a_point_has_no_evidence() -> None:
    data = load_data("digits")
    figures = evaluate(pairs.autoencoder(data.spec, latent=2, hidden=[8]), data, num_samples=10)
    assert figures.log_evidence is None
    assert figures.ess is None
    assert figures.latent == 2
    assert evaluate(pairs.latent(data.spec, latent=2, hidden=[8]), data, num_samples=10).log_evidence is not None
