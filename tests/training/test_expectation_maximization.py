"""EM of any pair: published figures, monotone steps, batches, resuming, and what it refuses."""

import itertools
import math
import warnings
from functools import cache, partial

import numpy as np
import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from sklearn.datasets import load_digits
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae import pairs
from pyro_vae.conditionals import (
    BernoulliComponents,
    Nearest,
    NormalComponents,
    Responsibilities,
    Seen,
    Table,
    Weights,
)
from pyro_vae.evidence import evaluate
from pyro_vae.guides.mixture import MixtureGuide
from pyro_vae.guides.nothing import Nothing
from pyro_vae.models.bayes_net import BayesNetModel
from pyro_vae.models.mixture import MixtureModel
from pyro_vae.training import SettingsError, Training, owners_of
from pyro_vae.training.expectation_maximization import EM
from pyro_vae.training.programs import weighted_programs
from pyro_vae.warning import Note

GRAPH = {"cloud": (), "sprinkler": ("cloud",), "rain": ("cloud",), "wet": ("sprinkler", "rain")}
MURPHY = {"cloud": [0.5], "sprinkler": [0.5, 0.1], "rain": [0.2, 0.8], "wet": [0.0, 0.9, 0.9, 0.99]}
START = {"cloud": [0.6], "sprinkler": [0.6, 0.3], "rain": [0.3, 0.6], "wet": [0.2, 0.6, 0.6, 0.8]}


@cache
def digits() -> pv.Data:
    return pv.load_data({"x": load_digits().data / 16}, valid=0, test=0)


def mixture(variance: str, encoder: type = Responsibilities, learned: bool = True) -> pv.Pair:
    x = torch.tensor(load_digits().data[:10] / 16)
    p_k, p_x = Weights(10, learned=learned), NormalComponents(x, 0.07**0.5, covariance=variance)  # type: ignore[arg-type]
    guide = MixtureGuide(encoder(p_k, p_x))
    return pv.Pair(MixtureModel(p_k, p_x), guide, TraceEnum_ELBO(max_plate_nesting=1))


def net(tables: dict[str, list[float]]) -> pv.Pair:
    made = {}
    for name, probs in tables.items():
        p = torch.tensor(probs, dtype=torch.float64)
        made[name] = Table(torch.stack([1 - p, p], -1).reshape(*[2] * len(GRAPH[name]), 2))
    return pv.Pair(BayesNetModel(GRAPH, made, Seen()), Nothing(), TraceEnum_ELBO(max_plate_nesting=1))


def complete_days() -> Tensor:
    """Every state of cloud, sprinkler, rain and wet as often in 10,000 days as its probability says."""
    rows = []
    for c, s, r, w in itertools.product((0, 1), repeat=4):
        p = 0.5
        for value, one in ((s, MURPHY["sprinkler"][c]), (r, MURPHY["rain"][c]), (w, MURPHY["wet"][2 * s + r])):
            p *= one if value else 1 - one
        rows += [[c, s, r, w]] * round(10_000 * p)
    return torch.tensor(rows).float()


def log_p(fitted: pv.Fitted) -> list[float]:
    return [-row["loss"] for row in fitted.history]


@pytest.mark.parametrize(
    ("variance", "golden"),
    [
        ("component", {0: -10.437125, 1: 5.710455, 2: 8.038118, 5: 9.722461}),
        ("shared", {0: -10.437125, 1: 5.556632, 2: 7.237901, 5: 8.626795}),
    ],
)
def test_em_of_a_mixture_reaches_the_figures_of_scikit_learn(variance, golden):
    fitted = pv.em(mixture(variance), digits(), 6)
    found = log_p(fitted)
    for step, value in golden.items():
        assert found[step] == pytest.approx(value, abs=1e-6)
    for now, then in itertools.pairwise(fitted.history):
        assert -now["loss"] < now["m_step"] < -then["loss"]  # the M step climbs, and the E step touches log p(x)
    assert [row["elbo"] for row in fitted.history[:-1]] == pytest.approx(found[1:], abs=1e-10)


@pytest.mark.slow
def test_a_hundred_steps_are_those_of_scikit_learn():
    from sklearn.mixture import GaussianMixture

    x, ten = load_digits().data / 16, np.full(10, 0.1)
    theirs = GaussianMixture(
        10,
        covariance_type="spherical",
        means_init=x[:10],
        precisions_init=ten / 0.007,
        weights_init=ten,
        tol=0,
        max_iter=100,
        reg_covar=0,
    )
    fitted = pv.em(mixture("component"), digits(), 101)
    assert log_p(fitted)[100] == pytest.approx(10.914396416591671, abs=1e-9)
    with pytest.warns(match="did not converge"):
        assert log_p(fitted)[100] == pytest.approx(theirs.fit(x).score(x), abs=1e-9)


def test_k_means_is_classification_em_with_one_variance_and_equal_weights():
    from sklearn.cluster import KMeans

    pair, x = mixture("shared", Nearest, learned=False), load_digits().data / 16
    pv.em(pair, digits(), 14)
    theirs = KMeans(10, init=x[:10], n_init=1, tol=0, algorithm="lloyd").fit(x)
    distances = torch.cdist(torch.tensor(x), pair.model.decoder.means).square()
    assert distances.min(1)[0].sum().item() == pytest.approx(4561.950718775775, abs=1e-8)
    assert distances.argmin(1).tolist() == theirs.labels_.tolist()


def test_the_mixture_becomes_k_means_as_the_variance_vanishes():
    """inertia / N - 2 s2 log K <= -2 s2 (log p - const) <= inertia / N."""
    pair, x = mixture("shared", learned=False), torch.tensor(load_digits().data / 16)
    inertia = torch.cdist(x, x[:10]).square().min(1)[0].mean().item()
    for module in pair.modules().values():
        module.double()
    gaps = []
    for variance in (0.07, 0.01, 1e-3, 1e-4):
        with torch.no_grad():
            pair.model.decoder.log_scale.fill_(0.5 * np.log(variance))
        constant = -32 * np.log(2 * np.pi * variance) - np.log(10)
        gaps.append(inertia + 2 * variance * (pv.elbo(pair, {"x": x}).elbo - constant))
        assert -1e-9 <= gaps[-1] <= 2 * variance * np.log(10)
    assert gaps == sorted(gaps, reverse=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variance", "golden", "entropy"),
    [(0.07, 2.5361255, 0.0380), (0.01, 2.5383576, 0.00117), (0.003, 2.5384885, 0.000135), (1e-4, 2.538648146, 3e-6)],
)
def test_soft_em_at_a_fixed_small_variance_reaches_the_free_energy(variance, golden, entropy):
    """-2 s2 (log p - const) at the end of EM, from the first ten images, weights equal."""
    pair, x = mixture("shared", learned=False), torch.tensor(load_digits().data / 16)
    with torch.no_grad():
        pair.model.decoder.log_scale.fill_(0.5 * np.log(variance)).requires_grad_(requires_grad=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "log_scale was not registered")  # Pyro's, of what is held
        pv.em(pair, digits(), 60)
    constant = -32 * np.log(2 * np.pi * variance) - np.log(10)
    with torch.no_grad():
        log_p = pv.elbo(pair, {"x": x}).elbo
        q = pair.guide.encoder(x)
    assert -2 * variance * (log_p - constant) == pytest.approx(golden, abs=2e-7)
    assert q.entropy().mean().item() == pytest.approx(entropy, rel=0.05)


@pytest.mark.parametrize("encoder", [Responsibilities, Nearest])
def test_the_gradient_of_svi_is_that_of_the_expected_counts(encoder):
    """SVI on the mixture is gradient EM: its gradient is the M step's function's, at the same q."""
    pair, batch = mixture("component", encoder), {"x": torch.tensor(load_digits().data[:200] / 16)}
    for module in pair.modules().values():
        module.double()
    parameters = pair.named_parameters()
    loss = pair.objective.differentiable_loss(pair.bound_model, pair.bound_guide, batch) / 200
    found = torch.autograd.grad(loss, list(parameters.values()))
    owners = owners_of(pair)
    _, expected = EM(
        *weighted_programs(pair, Training(), 200, torch.tensor(1.0), torch.device("cpu")),
        torch.optim.SGD(parameters.values(), 1.0),
        pair.objective,
        owners=owners,
        stepwise=False,
    ).expect(batch)
    linear = sum(
        (expected[name][key] * value).sum() for name, o in owners.items() for key, value in o.natural().items()
    )
    by_counts = torch.autograd.grad(-linear, list(parameters.values()))
    assert max(gradient.abs().max() for gradient in found) > 0.1
    torch.testing.assert_close(found, by_counts, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("components", "train"),
    [
        (NormalComponents, partial(pv.em, iterations=1)),
        (BernoulliComponents, partial(pv.fit, epochs=1, compile="off")),
    ],
)
@pytest.mark.parametrize("spread", [0.0, 0.1])
def test_a_symmetric_start_of_a_mixture_is_warned_of_and_another_is_not(components, train, spread, recwarn):
    p_k, p_x = Weights(3), components((0.5 + spread * torch.randn(3, 64)).clamp(0.1, 0.9))
    guide = MixtureGuide(Responsibilities(p_k, p_x))
    pair = pv.Pair(MixtureModel(p_k, p_x), guide, TraceEnum_ELBO(max_plate_nesting=1))
    data = pv.load_data({"x": load_digits().data[:200].round() // 9}, valid=0, test=0)
    train(pair, data)
    assert (spread == 0) is any("all components are equal" in str(w.message) for w in recwarn)


def test_em_with_missing_entries_of_any_node():
    x = complete_days()
    seen = torch.ones_like(x, dtype=torch.bool)
    for node in range(4):
        seen[torch.arange(len(x)) % 5 == node, node] = False
    with pytest.warns(match="8,000 of 40,000 entries of x are missing"):
        data = pv.load_data({"x": torch.where(seen, x, torch.nan)}, valid=0, test=0, missing="mark")
    found = log_p(pv.em(net(START), data, 6))
    assert [found[i] for i in (0, 1, 2, 5)] == pytest.approx(
        [-1.917959717, -1.726544484, -1.691273743, -1.680009383], abs=1e-9
    )
    batch = {k: v.double() if v.is_floating_point() else v for k, v in data.batch("train").items()}
    assert pv.elbo(net(MURPHY), batch).elbo == pytest.approx(-1.678647288, abs=1e-9)


def of_two_nodes(counts: tuple[int, ...] = (29, 41, 21, 9)) -> pv.Data:
    """Return a hundred days of which only sprinkler and rain were seen."""
    x = torch.tensor(
        [
            [0.0, s, r, 0.0]
            for (s, r), n in zip(itertools.product((0, 1), (0, 1)), counts, strict=True)
            for _ in range(n)
        ]
    )
    seen = torch.tensor([False, True, True, False]).expand(100, 4)
    return pv.load_data({"x": x, "seen": seen}, valid=0, test=0)


def test_em_of_a_node_that_is_never_seen():
    found = log_p(pv.em(net(START), of_two_nodes(), 51))
    golden = {0: -1.316815189, 1: -1.280817446, 2: -1.276240399, 5: -1.269745667, 10: -1.268994169, 50: -1.268989924}
    assert [found[i] for i in golden] == pytest.approx(list(golden.values()), abs=1e-9)


def test_a_symmetric_start_stays_at_independence():
    half = {name: [0.5] * len(probs) for name, probs in START.items()}
    found = log_p(pv.em(net(half), of_two_nodes(), 5))
    assert found[1:] == pytest.approx([-1.304011483] * 4, abs=1e-9)
    table = {"probs": [[0.5, 0.5], [0.5, 0.5]], "parents": ["a"]}
    spec = pv.load_data({"x": np.eye(2, dtype=np.float32)}, valid=0, test=0).spec
    with pytest.warns(match="symmetric in node 'a'"):
        pairs.bayes_net(spec, graph={"a": {"probs": [0.3, 0.7]}, "b": table})


def test_batches_average_and_a_resumed_run_ends_with_the_same_bits(tmp_path):
    data = pv.load_data("sprinkler")
    make = lambda: net(START)  # noqa: E731
    whole = pv.em(make(), data, 4, batch_size=500, run=tmp_path / "whole")
    pv.em(make(), data, 2, batch_size=500, run=tmp_path / "parts")
    parts = pv.em(make(), data, 4, batch_size=500, run=tmp_path / "parts", resume=True)
    for name, value in whole.pair.state_dict().items():
        assert torch.equal(value, parts.pair.state_dict()[name])
    assert str(whole.history) == str(parts.history)  # with nan in both
    assert whole.history[-1]["lr"] == pytest.approx(32**-0.6)
    assert whole.history[-1]["elbo"] > whole.history[0]["elbo"]


@pytest.mark.parametrize(
    ("owner", "value", "given"),
    [
        (Weights(3), torch.eye(3), ()),
        (NormalComponents(torch.randn(3, 2), 0.7, covariance="diagonal"), torch.randn(3, 2), (torch.eye(3),)),
        (
            NormalComponents(torch.randn(3, 2), 0.7, floor=0.2),
            torch.randn(3, 2),
            (torch.eye(3), torch.eye(3)[:, :2] < 1),
        ),
        (BernoulliComponents(torch.rand(3, 2)), torch.eye(3)[:, :2], (torch.eye(3),)),
        (
            Table(torch.softmax(torch.randn(2, 3, 4), -1)),
            torch.tensor([0, 3]),
            (torch.tensor([1, 0]), torch.tensor([2, 1])),
        ),
    ],
)
def test_an_owners_log_probability_is_its_statistic_at_its_natural_parameters(owner, value, given):
    torch.testing.assert_close(owner.statistic(owner.natural(), value, *given), owner(*given).log_prob(value))


def test_a_parameter_that_nobody_owns_is_named():
    pair = pairs.mixture(digits().spec, posterior="amortized")
    with pytest.raises(pv.PairError, match=r"EM has no M step for the parameter 'guide\.encoder\.net"):
        pv.em(pair, digits(), 1)
    with pytest.raises(pv.PairError, match="nothing to do"):
        owners_of(pv.Pair(nn.Identity(), nn.Identity()))


@pytest.mark.parametrize("setting", [{"lr": 0.1}, {"beta": 0.5}, {"compile": "recorded"}, {"devices": 2}])
def test_settings_without_effect_are_refused(setting):
    with pytest.raises(SettingsError, match=f"{next(iter(setting))} .* the optimizer em"):
        pv.em(mixture("shared"), digits(), 1, **setting)


@pytest.mark.parametrize("train", [pv.em, pv.fit])
def test_a_datum_that_cannot_be_is_named(train):
    x = np.array([[1, 1, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]] * 4, np.float32)
    with pytest.raises(pv.PairError, match=r"datum 1 of the training data has log p = -inf"):
        train(net(MURPHY), pv.load_data({"x": x}, valid=0, test=0), precision="64")
    assert pv.log_weights(net(MURPHY), {"x": torch.tensor(x[:2]).double()})[0].isneginf().tolist() == [False, True]


@pytest.mark.parametrize(
    ("split", "precision"), [pytest.param("valid", "32", marks=pytest.mark.slow), ("valid", "64"), ("test", "64")]
)
def test_a_held_out_datum_that_cannot_be_is_named_where_it_is_met(split, precision, capsys):
    fine = np.array([[1, 1, 1, 1], [0, 0, 0, 0]] * 4, np.float32)
    held = {"valid": fine, "test": fine}
    held[split] = np.concatenate([fine[:3], [[0, 0, 0, 1]], fine], dtype=np.float32)
    data = pv.load_data({"x_train": fine} | {f"x_{name}": x for name, x in held.items()})
    pair = net(MURPHY)
    if precision == "32":
        pair.model.float()
    fitted = pv.em(pair, data, 3, precision=precision)
    said = capsys.readouterr().err
    assert [row["elbo"] == -math.inf for row in fitted.history] == [split == "valid"] * 3
    assert said.count("log p(x) = -inf on the valid split: the model gives datum 3 of it probability 0") == (
        split == "valid"
    )
    fitted.pair.model.float()
    first = pv.diagnose(fitted.pair, data, split=split).verdicts[0]
    assert (first.check, first.value, first.verdict) == ("log p(x)", -math.inf, "bad")
    assert f"1 of 12 data: the model gives what is seen of datum 3 of the {split} split" in first.advice
    with pytest.warns(Note, match=f"1 of 12 data of the {split} split, first for datum 3: "):
        found = evaluate(fitted.pair, data, split=split)
    assert found.log_evidence == -math.inf


def test_a_pair_comes_back_in_the_float_type_in_which_it_came():
    """EM counts in double precision; what it returns takes the data that it was trained on."""
    pair, data = pairs.mixture(digits().spec, components=2), digits()
    fitted = pv.em(pair, data, 2)
    assert {tensor.dtype for tensor in pair.state_dict().values()} == {torch.float32}
    assert np.isfinite(evaluate(fitted.pair, data).log_evidence)
    pv.em(pair, data, 1, precision="64")
    assert torch.float64 in {tensor.dtype for tensor in pair.state_dict().values()}


def test_blocks_of_data_add_up_to_the_same_step(monkeypatch):
    data = pv.load_data("sprinkler")
    batch = {
        name: value.double() if value.is_floating_point() else value for name, value in data.batch("train", 50).items()
    }
    found = []
    for numbers in (2**22, 7 * 8):  # all at once; seven data at a time
        monkeypatch.setattr("pyro_vae.training.expectation_maximization.NUMBERS", numbers)
        pair = net(START)
        programs = weighted_programs(pair, Training(), 50, torch.tensor(1.0), torch.device("cpu"))
        optim = torch.optim.SGD(list(pair.named_parameters().values()), 0.1)
        stepper = EM(*programs, optim, pair.objective, owners=owners_of(pair), stepwise=False)
        assert stepper._block() == (2**22 // 8 if numbers > 100 else 7)
        found.append((stepper.update(batch), {name: p.detach().clone() for name, p in pair.named_parameters().items()}))
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)
