"""The pair reversible: levels, binary and real data, its figures, pictures, and what is refused."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import test_battery as battery
import torch
from zoo import Row, spec

import pyro_vae as pv
from pyro_vae import plots
from pyro_vae.cli.commands import main
from pyro_vae.evidence import evaluate, rows
from pyro_vae.plots.reversible import flow_of
from pyro_vae.program import PairError

LEVELS = 5
GREY = {
    f"x_{part}": np.random.default_rng(i).integers(0, LEVELS, (40, 1, 4, 4)) for i, part in enumerate(("train", "test"))
}


@pytest.fixture(scope="module")
def grey() -> pv.Data:
    return pv.load_data(GREY, levels=LEVELS)


@pytest.mark.parametrize("support", ["levels", "binary", "real", "unit"])
def test_each_kind_of_data_has_its_form(support: str) -> None:
    about = spec(support=support) if support != "levels" else pv.load_data(GREY, levels=LEVELS).spec
    pair = pv.pairs.reversible(about, hidden=[8])
    latent = type(pair.model).__name__ == "LatentModel"
    assert latent == (support in ("levels", "binary"))
    assert not latent or pair.model.decoder.levels == (LEVELS if support == "levels" else 2)


def test_of_real_data_log_p_is_exact_and_begins_at_their_moments() -> None:
    about = spec(features=3)
    pair = pv.pairs.reversible(about, hidden=[8]).train(False)
    x = torch.tensor([[0.1, 1.3, -1.1], [5.0, 0.0, 0.2]])
    for module in pair.modules().values():
        for parameter in module.parameters():
            torch.nn.init.zeros_(parameter)
    normal = torch.distributions.Normal(about.mean, about.std).log_prob(x).sum(-1)
    found = pv.log_evidence(pair, {"x": x})
    assert found.proposal == "exact"
    torch.testing.assert_close(found.estimate, normal.double(), rtol=0, atol=0.1)  # slopes begin within 1 % of 1
    assert found.stderr.abs().max() == 0


def test_figures_are_of_probabilities_in_bits_too(grey: pv.Data) -> None:
    torch.manual_seed(0)
    pair = pv.pairs.reversible(grey.spec, hidden=[8], dequantization="uniform")
    figures = evaluate(pair, grey, num_samples=50)
    assert figures.reconstruction == 0
    assert figures.rms_error == 0
    assert figures.proposal == "guide", "scores do not tell where a cell ends"
    figures = replace(figures, khat_share=0.5)
    assert figures.best[0] == "ELBO"
    assert figures.bits_per_dimension == pytest.approx(-figures.elbo / 16 / math.log(2))
    assert figures.log_evidence > figures.elbo
    assert json.loads(json.dumps(figures.to_dict()))["bits_per_dimension"] == figures.bits_per_dimension
    (line,) = [row for row in rows(figures) if "bits" in row.label]
    assert line.label == "bits per dimension by the ELBO"
    assert line.value == f"{figures.bits_per_dimension:.3f}"
    assert replace(figures, khat_share=0.0).best == ("log p(x)", figures.log_evidence)
    exact = evaluate(pv.pairs.autoregressive(grey.spec, hidden=[8]), grey)
    assert [row.label for row in rows(exact) if "bits" in row.label] == ["bits per dimension by the log p(x)"]
    assert exact.bits_per_dimension == pytest.approx(-exact.log_evidence / 16 / math.log(2))


def test_densities_and_parts_have_no_bits(grey: pv.Data) -> None:
    for pair in (pv.pairs.latent(grey.spec, hidden=[8]), pv.pairs.structured(grey.spec, hidden=[8])):
        assert evaluate(pair, grey, num_samples=5).bits_per_dimension is None


def test_training_lowers_the_bits_of_what_has_structure() -> None:
    """Rows of one level each: a fifth of the bits of independent pixels says all."""
    x = np.random.default_rng(0).integers(0, 3, (400, 4, 1)).repeat(4, 2).reshape(400, 1, 4, 4)
    data = pv.load_data({"x_train": x[:300], "x_test": x[300:]}, levels=3)
    torch.manual_seed(0)
    pair = pv.pairs.reversible(data.spec, hidden=[32], kind="autoregressive", dequantization="uniform")
    pv.fit(pair, data, epochs=25, batch_size=100, lr=1e-2, compile="off")
    bound = pv.elbo(pair, data.batch("test"), num_samples=20).elbo
    assert -16 * math.log(3) + 6 < bound < -4 * math.log(3), (
        "independent pixels reach the first, the entropy is the last"
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["spline_autoregressive", "spline_coupling", "autoregressive", "coupling"])
def test_every_kind_keeps_the_contract_on_levels(grey: pv.Data, kind: str) -> None:
    for dequantization in ("learned", "uniform"):
        pair = pv.pairs.reversible(grey.spec, kind=kind, layers=2, hidden=[8], dequantization=dequantization)
        assert pv.find_problems(pair, grey.batch("train", 8)) == []


@pytest.mark.slow
def test_a_recorded_step_on_levels_is_the_eager_step(grey: pv.Data) -> None:
    class Grey(Row):
        def batch(self, size: int = 12) -> dict[str, torch.Tensor]:
            return {"x": grey.batch("train", size)["x"].double()}

    battery.test_a_recorded_step_is_the_eager_step(Grey(pv.pairs.reversible, {"hidden": [8]}, grey.spec))


@pytest.mark.parametrize(
    ("about", "options", "said"),
    [
        (spec(), {"dequantization": "uniform"}, "dequantization uniform is of data on levels, and test is real"),
        (spec(), {"dequantization": "learned"}, "leave --dequantization out"),
        (spec(features=1), {}, "moves one coordinate given another and needs 2 or more, not 1"),
        (spec(), {"kind": "planar"}, "kind must be one of spline_autoregressive"),
        (spec(), {"layers": 0}, "layers must be at least 1"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(about: pv.Spec, options: dict, said: str) -> None:
    with pytest.raises(PairError) as refusal:
        pv.pairs.reversible(about, **options)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.slow
def test_a_run_from_the_command_line(grey: pv.Data, tmp_path, capsys) -> None:
    np.savez(tmp_path / "x.npz", **GREY)
    run = str(tmp_path / "run")
    told = [
        "--data",
        str(tmp_path / "x.npz"),
        "--levels",
        str(LEVELS),
        "--epochs",
        "1",
        "--hidden",
        "[8]",
        "--run",
        run,
    ]
    assert main(["train", "reversible", *told]) == 0
    assert "bits per dimension by the ELBO" in capsys.readouterr().out
    assert main(["evaluate", run, "--json", "--samples", "20"]) == 0
    assert json.loads(capsys.readouterr().out)["bits_per_dimension"] > 0
    for what in ("samples", "through-noise", "curves"):
        assert main(["draw", run, what]) == 0, capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:.*taken as real numbers")
def test_whole_numbers_whose_levels_nobody_told(tmp_path, capsys) -> None:
    np.savez(tmp_path / "whole.npz", x=GREY["x_train"] + 300)
    told = ["--data", str(tmp_path / "whole.npz"), "--run", str(tmp_path / "run")]
    assert main(["train", "reversible", "--dequantization", "uniform", *told]) == 2
    said = capsys.readouterr().err
    assert "dequantization uniform is of data on levels, and whole is real" in said
    assert "load it with --levels" in said
    assert "Traceback" not in said


def test_the_way_through_noise_ends_at_the_data(grey: pv.Data) -> None:
    torch.manual_seed(0)
    for data in (grey, pv.load_data({"x": np.random.default_rng(0).normal(size=(40, 1, 4, 4)).astype(np.float32)})):
        pair = pv.pairs.reversible(data.spec, hidden=[8]).train(False)
        figure = plots.through_noise(pair, data, first=1, second=3, steps=3)
        figure.draw_without_rendering()
        flow = flow_of(pair, data.batch("test", 2))
        assert flow[0] == ("z" if data is grey else "x")
    with pytest.raises(plots.NotDrawable, match=r"p\(z\) is none"):
        plots.through_noise(pv.pairs.latent(grey.spec, prior="mixture", hidden=[4]), grey)
    with pytest.raises(plots.NotDrawable, match=r"p\(x\) is none"):
        plots.through_noise(pv.pairs.autoregressive(grey.spec, hidden=[4]), grey)
    plots.through_noise(pv.pairs.latent(grey.spec, prior="flow", latent=3, hidden=[4]), grey)


def test_draws_are_images_of_levels(grey: pv.Data) -> None:
    torch.manual_seed(0)
    x = pv.pairs.reversible(grey.spec, hidden=[8]).sample(7)
    assert x.shape == (7, 16)
    assert torch.equal((x * (LEVELS - 1)).round() / (LEVELS - 1), x)
    assert len(x.unique()) > 2
