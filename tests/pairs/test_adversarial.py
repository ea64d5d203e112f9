"""Generator and critic: gradients in closed form, neither's step touches the other, and what such a pair cannot be asked."""

import copy
import dataclasses
import json
import math
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule
from scipy.integrate import quad
from torch import Tensor, nn
from torch.nn import functional as F
from zoo import BINARY, ROWS, batch, spec

import pyro_vae as pv
from pyro_vae.cli.commands import main
from pyro_vae.conditionals import BinaryDraws, Conditional, Draws, LevelDraws, StandardNormal
from pyro_vae.distributions import Implicit
from pyro_vae.evidence import evaluate
from pyro_vae.evidence.figures import remarks, rows
from pyro_vae.guides.critic import Critic
from pyro_vae.guides.nothing import Nothing
from pyro_vae.models.latent import LatentModel
from pyro_vae.objectives import Adversarial, critic_gain
from pyro_vae.program import declared, uncondition
from pyro_vae.runs import Run
from pyro_vae.training import SettingsError

SMALL: dict[str, Any] = {"latent": 2, "hidden": [16]}


class Shift(nn.Module):
    """z + theta, theta = 0: draws of N(0, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, z: Tensor) -> Implicit:
        return Implicit(z + self.theta)


class Line(PyroModule):
    """c(x) = m x - m^2 / 2 = log N(x; m, 1) / N(x; 0, 1)."""

    def __init__(self, mean: float) -> None:
        super().__init__()
        self.slope, self.constant = (
            nn.Parameter(torch.tensor(value, dtype=torch.float64)) for value in (mean, -(mean**2) / 2)
        )

    def forward(self, x: Tensor) -> Tensor:
        return (self.slope * x + self.constant).squeeze(-1)


def game(mean: float) -> pv.Pair:
    return pv.Pair(LatentModel(StandardNormal(1).double(), Shift()), Line(mean), Adversarial())


@pytest.mark.parametrize(
    ("mean", "half", "divergence"),
    [(1.0, 0.3006, 0.111421482185), (2.0, 0.7754, 0.336830820347), (4.0, 1.9305, 0.632720193737), (8.0, 3.9998, None)],
)
def test_gradients_at_the_best_critic(mean: float, half: float, divergence: float | None) -> None:
    """The generator goes towards the data, also where they are told apart for sure; the critic rests."""
    count = 100_000
    torch.manual_seed(0)
    pair, x = game(mean), torch.randn(count, 1, dtype=torch.float64) + mean
    found = -pair.objective.differentiable_loss(pair.bound_model, pair.bound_guide, {"x": x}) / count
    (-found).backward()
    theta = pair.model.decoder.theta.grad.item()  # type: ignore[union-attr]
    c = lambda at: mean * at - mean**2 / 2  # noqa: E731
    density = lambda at: math.exp(-(at**2) / 2) / math.sqrt(2 * math.pi)  # noqa: E731
    exact = quad(lambda at: -mean * density(at) / (1 + math.exp(c(at))), -12, 12)[0]
    assert exact == pytest.approx(-2 * half, abs=2e-3)  # the golden figures are of 200,000 draws
    spread = quad(lambda at: (mean / (1 + math.exp(c(at)))) ** 2 * density(at), -12, 12)[0] - exact**2
    assert theta == pytest.approx(exact, abs=4 * math.sqrt(spread / count))
    for parameter in (pair.guide.slope, pair.guide.constant):
        assert abs(parameter.grad.item()) < 4 * (1 + mean) / math.sqrt(count)
    if divergence is not None:
        assert found.item() == pytest.approx(divergence, abs=4 * math.log(2) / math.sqrt(count))


class Normed(nn.Module):
    """A net with running averages of what it has seen."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(inputs, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Linear(7, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def normed() -> pv.Pair:
    torch.manual_seed(0)
    generator = Conditional(Normed(3, 4), Draws(4))
    return pv.Pair(LatentModel(StandardNormal(3), generator), Critic(Normed(4, 1)), Adversarial()).train(True)


def bits(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_each_learns_from_its_own_part_and_leaves_the_other_to_the_bit() -> None:
    """By hand: the critic sees data and draws, once each; the generator's gradient passes through a critic that is held."""
    pair, x = normed(), torch.randn(20, 4)
    model, guide = copy.deepcopy(pair.model), copy.deepcopy(pair.guide)
    torch.manual_seed(1)
    pair.objective.differentiable_loss(pair.bound_model, pair.bound_guide, {"x": x}).backward()
    torch.manual_seed(1)
    made = model.decoder.net(torch.randn(20, 3))
    shown = made.detach().requires_grad_()
    real, fake = guide(x), guide(shown)
    (-critic_gain(real, fake)).sum().backward(retain_graph=True)
    of_critic = {name: parameter.grad.clone() for name, parameter in guide.named_parameters()}
    (slope,) = torch.autograd.grad(F.softplus(-fake).sum(), shown)
    made.backward(slope)
    for name, parameter in pair.guide.named_parameters():
        torch.testing.assert_close(parameter.grad, of_critic[name], rtol=1e-6, atol=1e-7)
    for name, parameter in pair.model.named_parameters():
        torch.testing.assert_close(parameter.grad, model.get_parameter(name).grad, rtol=1e-5, atol=1e-6)
    assert same(bits(pair.guide), bits(guide)), "the critic's averages have seen data and draws, and nothing twice"
    assert same(bits(pair.model), bits(model))


@pytest.mark.parametrize(("moves", "rests"), [("model", "guide"), ("guide", "model")])
def test_a_step_of_one_leaves_the_parameters_of_the_other_to_the_bit(moves: str, rests: str) -> None:
    pair, x = normed(), torch.randn(20, 4)
    before = {name: p.detach().clone() for name, p in pair.named_parameters().items()}
    mine = [p for name, p in pair.named_parameters().items() if name.startswith(moves)]
    optimizer = torch.optim.Adam(mine, 0.1)
    for _ in range(3):
        pair.objective.differentiable_loss(pair.bound_model, pair.bound_guide, {"x": x}).backward()
        optimizer.step()
    after = pair.named_parameters()
    assert all(torch.equal(after[name], old) for name, old in before.items() if name.startswith(rests))
    assert not any(torch.equal(after[name], old) for name, old in before.items() if name.startswith(moves))


def test_the_penalty_is_on_the_critic_alone_and_in_units_of_the_data() -> None:
    x = torch.randn(50, 1, dtype=torch.float64)
    found = []
    for unit in (1.0, 100.0):
        pair = game(1.0)
        with torch.no_grad():
            pair.guide.slope.div_(unit)
        plain = copy.deepcopy(pair)
        losses = []
        for one, penalty in ((plain, 0.0), (pair, 2.0)):
            torch.manual_seed(0)
            loss = Adversarial(penalty).differentiable_loss(one.bound_model, one.bound_guide, {"x": unit * x})
            loss.backward()
            losses.append(loss.item())
        assert losses[0] == losses[1], "no part of the figure"
        assert torch.equal(plain.model.decoder.theta.grad, pair.model.decoder.theta.grad)
        found.append((pair.guide.slope.grad - plain.guide.slope.grad).item() / unit)
    # penalty / 2 sum over data of slope^2 var: its derivative per slope in units of the data
    assert found[0] == pytest.approx(2.0 * 50 * x.var(correction=0).item())
    assert found[1] == pytest.approx(found[0])


@pytest.mark.parametrize(
    ("head", "values"),
    [(BinaryDraws(5), [0.0, 1.0]), (LevelDraws(5, 4), [0.0, 1 / 3, 2 / 3, 1.0]), (LevelDraws(5, 2), [0.0, 1.0])],
)
def test_draws_lie_exactly_where_data_do_and_carry_a_gradient(head: Any, values: list[float]) -> None:
    outputs = torch.linspace(-4, 4, 500).reshape(100, 5).requires_grad_()
    fn = head(outputs)
    drawn = fn.rsample((3,))
    assert drawn.shape == (3, 100, 5)
    assert set(drawn.unique().tolist()) == set(torch.tensor(values).tolist())
    assert fn.support.check(drawn).all()
    (slope,) = torch.autograd.grad(drawn.sum(), outputs)
    p = torch.sigmoid(outputs.detach())
    torch.testing.assert_close(slope, 3 * p * (1 - p))
    assert torch.equal(fn.sample().unique(), drawn.unique())
    start = head.start(torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0]))
    torch.testing.assert_close(torch.sigmoid(start), torch.tensor([0.001, 0.2, 0.5, 0.9, 0.999]))
    with pytest.raises(NotImplementedError, match="no probability of a given x"):
        fn.log_prob(drawn)


NO_SUCH = "is known by its draws alone, so x has no log p"


def test_a_pair_without_a_density_says_so_wherever_it_is_asked() -> None:
    pair, x = ROWS["adversarial"].build(), ROWS["adversarial"].batch()
    for ask in (pv.log_evidence, pv.elbo, lambda *a: pv.log_weights(*a, 3)):
        with pytest.raises(pv.PairError, match=NO_SUCH):
            ask(pair, x)
    with pytest.raises(pv.PairError, match=NO_SUCH):
        pair.log_evidence(x["x"])
    with pytest.raises(pv.PairError, match="the guide does not infer 'z', so data have no code"):
        pair.encode(x["x"])
    with pytest.raises(pv.PairError, match="does not infer 'z', so data have no reconstruction"):
        pair.reconstruct(x["x"])
    assert pair.sample(5, seed=1).shape == (5, 16)
    assert pair.decode(torch.zeros(2, 3)).shape == (2, 16)


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        (
            pv.Pair(LatentModel(StandardNormal(2), Conditional(nn.Linear(2, 16), Draws(16))), Nothing(), Trace_ELBO()),
            "guide Nothing does not sample latent site 'z'",
        ),
        (
            pv.Pair(LatentModel(StandardNormal(2), Conditional(nn.Linear(2, 16), Draws(16))), Nothing(), Adversarial()),
            "the guide Nothing returns NoneType, and a critic returns one number for each of the 12 data",
        ),
        (
            pv.Pair(
                LatentModel(StandardNormal(2), Conditional(nn.Linear(2, 16), Draws(16))),
                Critic(nn.Linear(16, 3)),
                Adversarial(),
            ),
            r"returns shape \(12, 3\), and a critic",
        ),
    ],
)
def test_what_is_no_critic_is_refused(pair: pv.Pair, said: str) -> None:
    with pytest.raises(pv.PairError, match=said):
        pv.check_pair(pair, {"x": torch.randn(12, 16)})


def test_a_likelihood_without_gradients_is_no_generator() -> None:
    pair = pv.pairs.latent(BINARY, latent=2, hidden=[8])
    other = pv.Pair(pair.model, Critic(nn.Linear(16, 1)), Adversarial())
    with pytest.raises(pv.PairError, match=r"draws of site 'x' \(Independent\) carry no gradient.*BinaryDraws"):
        pv.check_pair(other, {"x": batch(BINARY)["x"].float()})


def test_a_density_is_asked_of_what_has_none_in_a_sentence() -> None:
    class Both(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.q = Conditional(nn.Linear(16, 4), pv.conditionals.Normal(2))

        def forward(self, x: Tensor) -> Tensor:
            with pyro.plate("data", len(x)):
                return pyro.sample("z", self.q(x))

    model = LatentModel(StandardNormal(2), Conditional(nn.Linear(2, 16), Draws(16)))
    with pytest.raises(pv.PairError, match="site 'x' of LatentModel is a Implicit, which has no log-probability"):
        pv.check_pair(pv.Pair(model, Both()), {"x": torch.randn(12, 16)})


@pytest.fixture(scope="module")
def blobs() -> pv.Data:
    rng = np.random.default_rng(0)
    y = np.arange(400) % 2
    x = np.array([[-1.0, 0.5, 0.0], [1.0, -0.5, 0.0]])[y] + 0.3 * rng.standard_normal((400, 3))
    return pv.load_data({"x": x.astype(np.float32), "y": y})


@pytest.fixture(scope="module")
def fitted(blobs: pv.Data, tmp_path_factory: pytest.TempPathFactory) -> pv.Fitted:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("gan") / "run"
    return pv.fit(pv.pairs.adversarial(blobs.spec, **SMALL), blobs, epochs=6, run=folder, compile="off")


def test_the_last_epoch_counts_and_its_figure_is_no_elbo(fitted: pv.Fitted, blobs: pv.Data) -> None:
    assert not declared(fitted.pair.objective).figure.comparable
    assert fitted.best is not None
    assert fitted.best["epoch"] == 6
    assert all(math.isnan(row["elbo"]) and -0.5 < row["figure"] < math.log(2) for row in fitted.history)
    assert "validation Jensen-Shannon divergence (lower bound)" in repr(fitted)
    with pytest.raises(SettingsError, match="measured by a critic that learns too"):
        pv.fit(pv.pairs.adversarial(blobs.spec, **SMALL), blobs, epochs=1, patience=2)
    with pytest.raises(SettingsError, match="weights the KL, and Adversarial has none"):
        pv.fit(pv.pairs.adversarial(blobs.spec, **SMALL), blobs, epochs=1, beta=0.5)


def test_a_resumed_run_ends_with_the_same_bits(fitted: pv.Fitted, blobs: pv.Data, tmp_path: Any) -> None:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"run": tmp_path / "run", "compile": "off"}
    pv.fit(pv.pairs.adversarial(blobs.spec, **SMALL), blobs, epochs=2, **settings)
    again = pv.fit(pv.pairs.adversarial(blobs.spec, **SMALL), blobs, epochs=6, resume=True, **settings)
    assert same(fitted.pair.state_dict(), again.pair.state_dict())
    assert str(fitted.history) == str(again.history)


def test_figures_are_of_held_out_data_with_their_error(fitted: pv.Fitted, blobs: pv.Data) -> None:
    found = evaluate(fitted.pair, blobs)
    (row,) = rows(found)
    own = found.own
    assert own is not None
    assert row.label == own.name == "Jensen-Shannon divergence (lower bound)"
    assert row.value == f"{own.value:.3f} ± {own.stderr:.3f}"
    with torch.no_grad():
        torch.manual_seed(0)
        x = blobs.batch("test")["x"]
        drawn = pv.program.trace_of(uncondition(fitted.pair.bound_model), {"x": x}).nodes["x"]["value"]
        gain = critic_gain(fitted.pair.guide(x), fitted.pair.guide(drawn))
    assert own.value == pytest.approx(gain.mean().item(), abs=1e-6)
    assert own.stderr == pytest.approx(gain.std().item() / math.sqrt(len(x)), rel=0.3)
    said = " ".join(remarks(found))
    assert "No log p(x): the model is known by its draws alone" in said
    assert "as the pair's own guide tells them apart" in said
    assert ("too sure" in said) == (own.value < -3 * own.stderr)
    too_sure = dataclasses.replace(found, own=own._replace(value=-0.1, stderr=0.03))
    assert "Below 0 the critic is too sure" in " ".join(remarks(too_sure))
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert told["elbo"] is None
    assert told["own"]["value"] == own.value


def test_a_diagnosis_judges_draws_and_leaves_the_rest_out_by_name(fitted: pv.Fitted) -> None:
    found = {verdict.check: verdict for verdict in pv.diagnose(fitted).verdicts}
    assert found["Jensen-Shannon divergence (lower bound)"].verdict == "note"
    for name in ("log p(x)", "gaps", "k-hat", "active units", "aggregate posterior", "simulation-based calibration"):
        assert found[name].verdict == "left out", name
        assert "could not be computed" not in found[name].advice
    assert "known by its draws alone" in found["log p(x)"].advice
    assert "classes among" in found["classes covered"].advice
    assert {"prior predictive", "classifier two-sample test", "memorising", "Frechet distance"} <= found.keys()


@pytest.mark.parametrize("what", sorted(pv.plots.PICTURES))
def test_every_picture_is_drawn_or_says_why_not(fitted: pv.Fitted, blobs: pv.Data, what: str) -> None:
    if what == "rate-distortion":
        return
    draw = pv.plots.PICTURES[what]
    try:
        figure = draw(fitted.history) if what in pv.plots.OF_HISTORY else draw(fitted.pair, blobs)
        assert figure.axes
    except pv.plots.NotDrawable:
        assert what not in ("samples", "beside", "critic", "curves", "graph", "manifold")


def test_pictures_of_a_critic_need_one(blobs: pv.Data) -> None:
    pair = pv.pairs.latent(blobs.spec, latent=2, hidden=[8])
    for what in ("beside", "critic"):
        with pytest.raises(pv.plots.NotDrawable, match="no critic that tells draws from data"):
            pv.plots.PICTURES[what](pair, blobs)


@pytest.mark.slow
def test_on_the_command_line(tmp_path: Any, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    run = str(tmp_path / "run")
    words = ["--latent", "2", "--hidden", "[8]", "--epochs", "2", "--compile", "off", "--run", run]
    assert main(["train", "adversarial", *words]) == 0
    said = capsys.readouterr()
    assert "validation Jensen-Shannon divergence (lower bound) " in said.err
    assert "Jensen-Shannon divergence (lower bound)" in said.out
    assert "ELBO" not in said.out
    assert main(["evaluate", run, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["own"]["stderr"] > 0
    assert main(["diagnose", run]) == 0
    assert "posterior.nc is left out: LatentModel is known by its draws alone" in capsys.readouterr().err
    assert main(["encode", run]) == 2
    assert "data have no code" in capsys.readouterr().err
    assert main(["draw", run, "reconstructions"]) == 2
    assert "explore" not in (Run.open(run).folder / "report.html").read_text()
    loaded = pv.load(run)
    assert loaded.sample(3).shape == (3, 64)
    assert ((16 * loaded.sample(50)).frac() == 0).all(), "draws are on the digits' levels"


def test_data_that_a_critic_cannot_compare_are_refused() -> None:
    for fields, said in (({"mask": (4,)}, "sequences of different lengths"), ({"seen": (16,)}, "entries are missing")):
        with pytest.raises(pv.PairError, match=f"a critic compares whole x, and test holds .*{said}"):
            pv.pairs.adversarial(spec(**fields))
    with pytest.raises(ValueError, match="penalty"):
        Adversarial(-1.0)


@pytest.mark.slow
def test_it_draws_every_digit() -> None:
    from pyro_vae.diagnostics import classes_covered, judge_of

    digits = pv.load_data("digits")
    torch.manual_seed(0)
    fitted = pv.fit(pv.pairs.adversarial(digits.spec), digits, epochs=200)
    found = classes_covered(judge_of(digits).classes(fitted.sample(1000)), digits.batch("test")["y"])
    assert found.covered == 10
    assert fitted.history[-1]["figure"] < 0.06
