"""log p(x) of sequences, step by step: from `log_evidence`, `evaluate` and `diagnose`, by name and by itself."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae import pairs
from pyro_vae.cli import main
from pyro_vae.diagnostics import BUDGETS
from pyro_vae.diagnostics.evidence_checks import evidence
from pyro_vae.diagnostics.subject import Subject
from pyro_vae.distributions import Recurrent
from pyro_vae.evidence import evaluate, evidence_words, filtered_evidence, remarks, rows
from pyro_vae.guides.markov import MarkovGuide
from pyro_vae.nets import scan
from pyro_vae.program import PairError
from tests.truths import KALMAN, hidden_markov, sines, state_space
from tests.zoo import spec


class Loose(nn.Module):
    """q(z_t | z_(t-1), x_t), wider than it should be, and off by ``shift``."""

    def __init__(self, shift: float = 0.0) -> None:
        super().__init__()
        self.shift = shift

    def forward(self, x: Tensor, there: Tensor) -> Recurrent:
        return Recurrent(0.5 * torch.ones_like(x), 0.4 * x + self.shift, 0.7 * torch.ones_like(x), there, scan)


def loose(shift: float = 0.0) -> pv.Pair:
    return pv.Pair(state_space().model, MarkovGuide(1, Loose(shift)))


def test_a_particle_filter_is_unbiased_and_exact_in_no_draws() -> None:
    pair, copies = state_space(), 1000
    found = filtered_evidence(pair, sines(copies), 20).reshape(2, copies)
    for row, truth in zip(found, KALMAN, strict=True):
        ratio = (row - truth).exp()
        assert ratio.std() > 0.01  # an estimate, not the exact weight of whole paths
        assert abs(ratio.mean() - 1) < 4 * ratio.std() / math.sqrt(copies)


def test_a_particle_filter_of_a_learned_guide_and_of_states_that_are_counted() -> None:
    x = torch.eye(3).double()[torch.tensor([0, 1, 2] * 4)].flatten().repeat(1000, 1)
    ratio = (filtered_evidence(hidden_markov(), {"x": x}, 10) + 13.859079866870).exp()
    torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=0, atol=1e-10)  # never few enough to be drawn anew
    ratio = (filtered_evidence(loose(), sines(1000), 20).reshape(2, -1) - torch.tensor(KALMAN)[:, None]).exp()
    assert ((ratio.mean(1) - 1).abs() < 4 * ratio.std(1) / math.sqrt(1000)).all()


def test_a_particle_filter_says_what_it_needs() -> None:
    pair = pairs.latent(spec(), hidden=[4])
    with pytest.raises(PairError, match="follows one path of states"):
        filtered_evidence(pair, {"x": torch.zeros(2, 16)})
    with pytest.raises(ValueError, match="at least 2, got 1"):
        filtered_evidence(state_space(), sines(), 1)


def test_filters_find_kalmans_value_with_their_error() -> None:
    found = pv.log_evidence(loose(), sines(100), num_samples=320, proposal="filter")
    assert found.proposal == "filter"
    for row, truth in zip(found.estimate.reshape(2, 100), KALMAN, strict=True):
        ratio = (row - truth).exp()
        assert abs(ratio.mean() - 1) < 4 * ratio.std() / 10
    errors = found.stderr.reshape(2, 100).square().mean(1).sqrt()
    actual = (found.estimate.reshape(2, 100) - torch.tensor(KALMAN)[:, None]).std(1)
    torch.testing.assert_close(errors, actual, rtol=0.35, atol=0)
    assert found.khat_share == 0
    assert "particle filters differ for 0 %" in repr(found)


def test_paths_whose_weights_spread_are_filtered_without_being_asked() -> None:
    batch = sines(2)
    exact = pv.log_evidence(state_space(), batch, num_samples=50)
    assert exact.proposal == "guide"  # every draw of a whole path has the same weight
    assert exact.estimate.tolist() == pytest.approx([KALMAN[0]] * 2 + [KALMAN[1]] * 2, abs=1e-9)
    far = pv.log_evidence(loose(0.8), batch, num_samples=800)
    assert far.proposal == "filter"
    assert (far.estimate - exact.estimate).abs().max() < 1.5
    assert pv.log_evidence(loose(0.8), batch, num_samples=800, proposal="guide").proposal == "guide"


def test_filters_that_differ_say_so() -> None:
    found = pv.log_evidence(loose(3.0), sines(4), num_samples=16, proposal="filter")
    assert found.khat_share > 0.5
    assert found.khat.max() == math.inf
    words = evidence_words(found.mean, found.mean_stderr, found.khat_share, "filter")
    assert words.startswith(f">= {found.mean:.1f} (particle filters differ by over a nat for ")


def test_a_pair_without_a_path_has_no_filter() -> None:
    with pytest.raises(PairError, match="a particle filter follows one path of states"):
        pv.log_evidence(pairs.latent(spec(), hidden=[4]), torch.zeros(2, 16), proposal="filter")
    with pytest.raises(ValueError, match="give 'refined', 'guide' or 'filter'"):
        pv.log_evidence(state_space(), sines(), proposal="kalman")  # type: ignore[arg-type]


def waves() -> pv.Data:
    x = torch.sin(torch.arange(30.0) + torch.arange(60.0)[:, None]).unsqueeze(-1)
    lengths = 10 + torch.arange(60) % 21
    return pv.load_data({"x": x.numpy(), "lengths": lengths.numpy()})


@pytest.mark.slow
def test_figures_name_the_filters_and_tell_nats_per_step() -> None:
    data = waves()
    pair = pairs.markov(data.spec, latent=2, hidden=4).train(False)
    figures = evaluate(pair, data, num_samples=160, proposal="filter")
    assert figures.proposal == "filter"
    assert figures.steps is not None
    assert any("8 particle filters of 20 draws each, weighed step by step" in line for line in remarks(figures))
    per_step = next(row for row in rows(figures) if row.label.endswith("per step"))
    assert float(per_step.value) == pytest.approx(figures.best[1] / figures.steps, abs=6e-4)


def test_diagnose_tells_nats_per_step() -> None:
    data = waves()
    pair = pairs.sequence(data.spec, latent=1, hidden=4).train(False)
    test = data.batch("test")
    subject = Subject(pair, data, "test", test, None, BUDGETS["quick"], 0, list(range(len(test["x"]))))
    bound, log_p, _ = evidence(subject)
    for verdict in (bound, log_p):
        assert verdict.value is not None
        assert f"({verdict.value / test['mask'].sum().item() * len(test['x']):.3f} per step)" in verdict.advice
    other = pv.load_data("digits")
    assert Subject(pair, other, "test", test, None, BUDGETS["quick"], 0, []).per_step(-1.0) == ""


@pytest.mark.slow
def test_the_command_line_filters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = waves()
    path = tmp_path / "waves.npz"
    x, mask = (data.batch("train")[key].numpy() for key in ("x", "mask"))
    np.savez(path, x=x[..., None], lengths=mask.sum(1))
    run = str(tmp_path / "run")
    words = ["train", "markov", "--data", str(path), "--latent", "2", "--hidden", "4", "--epochs", "1", "--run", run]
    assert main([*words, "--compile", "off"]) == 0
    capsys.readouterr()
    assert main(["evaluate", run, "--samples", "80", "--proposal", "filter", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["proposal"] == "filter"
    assert main(["evaluate", run, "--proposal", "filtre"]) == 2
    assert "filter" in capsys.readouterr().err
