"""No option is taken and passed over: it changes the program, its loss or its gradient, or is refused by name."""

import json
from dataclasses import replace
from functools import cache
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch
import yaml
from tables import only
from torch import Tensor
from zoo import ROWS, batch, spec

import pyro_vae as pv
from pyro_vae.cli.commands import main
from pyro_vae.data import DataError, Spec, load_data
from pyro_vae.pairs import PAIRS
from pyro_vae.program import PairError
from pyro_vae.report import command
from pyro_vae.training import SettingsError, Training, build_from_config, check_settings, weighted_programs

OTHER: dict[str, list[Any]] = {
    "latent": [2],
    "likelihood": ["normal-predicted"],
    "prior": ["flow", "vamp", "mixture"],
    "components": [5],
    "covariance": ["low-rank", "full"],
    "net": ["conv"],
    "hidden": [[], [7]],
    "activation": ["relu"],
    "objective": ["stl", "mmd"],
    "particles": [2],
    "kind": ["planar", "coupling", "spline_autoregressive", "spline_coupling"],
    "layers": [2],
    "guide": ["bottom-up"],
    "weight": [3.0],
    "classes": ["drawn"],
    "classifier": ["conv"],
    "dropout": [0.4],
    "scaling": ["common"],
    "quadrants": [2, 3],
    "items": [2],
    "group_latent": [2],
    "steps": [0, 1],
    "rate": [0.7],
    "noise": ["per-feature"],
    "decoder": ["autoregressive"],
    "field": [1],
    "order": ["random"],
    "order_seed": [3],
    "codes": [7],
    "places": [3],
    "size": [3],
    "codebook": ["gradient"],
    "pull": [3.0],
    "commitment": [0.7],
    "first": [2.0],
    "last": [-7.0],
    "spread": ["forward", "posterior"],
    "width": [5],
    "blocks": [3],
    "channels": [4],
    "posterior": ["nearest", "amortized"],
    "variance": ["shared", "diagonal"],
    "weights": ["equal"],
    "floor": [0.3],
    "units": [5],
    "gradient": ["divergence"],
    "gibbs": [2],
    "chains": [3],
    "graph": ["star", "sprinkler"],
    "start": ["given"],
    "transition": ["linear", "table"],
    "dequantization": ["uniform"],
    "penalty": [0.7],
}
"""A value or more that is not the default, by option; a new option needs one. The first is tried beside every other option."""
OTHER_OF = {
    "quantized.prior": ["uniform", "autoregressive"],
    "conditional.prior": ["learned"],
    "diffusion.noise": ["cosine", "linear"],
    "diffusion.net": ["conv"],
    "diffusion.steps": [3],
    "diffusion.objective": ["elbo"],
    "hierarchical.latent": [[3], [], [4, 2]],
    "grouped.items": [2, 0],
    "latent.likelihood": ["normal-per-feature"],
    "autoregressive.likelihood": ["normal-per-feature"],
    "autoregressive.net": ["pixelcnn"],
    "autoregressive.activation": ["silu"],
    "markov.posterior": ["filter", "mean-field", "exact"],
    "markov.hidden": [7],
    "sequence.hidden": [7],
    "reversible.kind": ["coupling", "autoregressive", "spline_coupling"],
    "reversible.hidden": [[40]],
    "reversible.layers": [3],
}
DEFAULT_BESIDE = {"markov": ({"transition": "linear"}, ("posterior", "exact"))}
"""What is the default beside another option, and so changes nothing there."""
FIELDS: dict[str, dict[str, Any]] = {
    "conditional": {"classes": 3, "y": ()},
    "attribute": {"classes": 3, "y": ()},
    "semi_supervised": {"classes": 3, "y": (), "labelled": ()},
    "grouped": {"mask": (4,)},
    "markov": {"mask": (4,), "sequence": (4, 4)},
    "sequence": {"mask": (4,), "sequence": (4, 4)},
}


def others(name: str, option: str) -> list[Any]:
    return OTHER_OF.get(f"{name}.{option}", OTHER[option])


def described(name: str, support: str) -> Spec:
    # nodes take whole numbers: real data have probability 0; units are binary
    found = spec(support="binary" if name in ("bayes_net", "boltzmann") else support, **FIELDS.get(name, {}))
    return replace(found, std=found.std * torch.linspace(0.5, 1.5, found.features))


def effect(name: str, spec: Spec, options: dict[str, Any]) -> list[Tensor] | PairError | None:
    """Return loss, parameters and gradients, or the refusal; None if the options do not go together, as a check would say."""
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            pair = PAIRS[name](spec, **options)
            for module in pair.modules().values():
                module.double()
            loss = pair.objective.loss_and_grads(pair.bound_model, pair.bound_guide, batch(spec, 4))
    except PairError as error:
        return error
    except (ValueError, RuntimeError):
        return None
    parameters = list(pair.named_parameters().values())
    gradients = [torch.zeros(()) if p.grad is None else p.grad for p in parameters]
    return [torch.as_tensor(loss).double(), *parameters, *gradients]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(
        a.shape == b.shape and torch.allclose(a, b, rtol=1e-7, atol=1e-9) for a, b in zip(one, other, strict=True)
    )


@pytest.mark.slow
@pytest.mark.parametrize("support", ["real", "binary"])
@pytest.mark.parametrize("name", PAIRS)
def test_an_option_has_an_effect_or_is_refused(name: str, support: str) -> None:
    """Beside the defaults, and beside every other option."""
    about = described(name, support)
    options = [option for option in signature(PAIRS[name]).parameters if option != "spec"]

    @cache
    def tried(chosen: str) -> list[Tensor] | PairError | None:
        given = json.loads(chosen)
        narrow = 8 if name in ("markov", "sequence") else [8]  # of a recurrent net, which has one width
        small = {"hidden": narrow} if "hidden" in options and given.get("net") != "conv" else {}
        found = effect(name, about, {**small, **given})
        refused = isinstance(found, PairError) and found.unused == "hidden" and "hidden" not in given
        return effect(name, about, given) if refused else found

    for beside in [{}, *({option: others(name, option)[0]} for option in options)]:
        before = tried(json.dumps(beside))
        assert beside or isinstance(before, list)
        if not isinstance(before, list):
            continue
        for option, value in ((o, value) for o in options if o not in beside for value in others(name, o)):
            if (beside, (option, value)) == DEFAULT_BESIDE.get(name):
                continue
            chosen = {**beside, option: value}
            after = tried(json.dumps(chosen))
            if isinstance(after, list):
                assert not same(before, after), f"{name}: {option} {value} has no effect beside {beside}"
            elif isinstance(after, PairError) and after.unused:
                assert after.unused in chosen
                assert f"{after.unused} {chosen[after.unused]}" in str(after)


REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    ("latent", {"components": 7}, "components", "apply to a mixture, and --prior is normal"),
    ("latent", {"components": 7, "prior": "flow"}, "components", "apply to a mixture, and --prior is flow"),
    ("latent", {"hidden": [8], "net": "conv"}, "hidden", "sets the widths of perceptrons, and --net is conv"),
    ("latent", {"activation": "relu", "hidden": []}, "activation", "follows a hidden layer, and --hidden is []"),
    ("latent", {"field": 2}, "field", "limits what an autoregressive decoder sees, and --decoder is independent"),
    ("autoregressive", {"order_seed": 2}, "order_seed", "draws a random order, and --order is raster"),
    ("autoregressive", {"order": "random", "net": "pixelcnn"}, "order", "is not that of a PixelCNN"),
    ("hierarchical", {"latent": []}, "latent", "names no level; give at least one size"),
    ("semi_supervised", {"scaling": "common"}, "scaling", "is for real x, and test is binary"),
    ("diffusion", {"channels": 8}, "channels", "are those of convolutions, and --net is mlp"),
    ("diffusion", {"noise": "cosine", "last": -5.0}, "last", "of even or logistic steps, and --noise is cosine"),
    ("markov", {"transition": "table", "particles": 2}, "particles", "since the posterior is exact"),
    ("semi_amortized", {"rate": 0.7, "steps": 0}, "rate", "is the size of the steps, and --steps is 0"),
]


@pytest.mark.parametrize(("name", "options", "unused", "said"), REFUSED)
def test_an_option_without_effect_is_refused_by_name(name, options, unused, said):
    about = described(name, "binary")
    with pytest.raises(PairError) as refusal:
        PAIRS[name](about, **options)
    assert said in str(refusal.value)
    assert refusal.value.unused == unused
    pair = build_from_config(lambda **given: PAIRS[name](about, **given), options)  # a run of old holds it
    assert pair.recipe == {"name": name, "options": {o: value for o, value in options.items() if o != unused}}


def test_the_defaults_are_the_ones_that_are_shown():
    """Where the signature says None, the help names what that is."""
    for name, given in {
        "latent": {"prior": "vamp", "components": 100, "hidden": [500, 500], "activation": "silu"},
        "semi_supervised": {"scaling": "feature"},
        "semi_amortized": {"rate": 0.2},
        "autoregressive": {"hidden": [500], "activation": "relu"},
    }.items():
        about = described(name, "real")
        plain = {"prior": "vamp"} if name == "latent" else {}
        one, other = effect(name, about, plain), effect(name, about, given)
        assert isinstance(one, list)
        assert isinstance(other, list)
        assert same(one, other)
        for option, value in given.items():
            if option != "prior":
                assert f"{option}: " in (PAIRS[name].__doc__ or "")
                line = (PAIRS[name].__doc__ or "").split(f" {option}: ")[1].split("\n        ")[0]
                assert {"feature": "own deviation (the default)"}.get(str(value), f"{value} by default") in line


X = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
SPLIT = {
    "x_train": X[:40],
    "x_valid": X[40:50],
    "x_test": X[50:],
    "who_train": np.arange(40),
    "who_valid": np.arange(10),
    "who_test": np.arange(10),
}


@pytest.mark.parametrize(
    ("source", "options", "said"),
    [
        ("digits", {"label_seed": 3}, "without labels all are: give labels"),
        (SPLIT, {"split_by": "who"}, "none is cut from arrays: leave it out"),
        ({"x": X, "who": np.arange(60)}, {"split_by": "who", "valid": 0, "test": 0}, "none is cut from arrays"),
        ({"x": (X > 0).astype(np.float32)}, {"levels": 17}, "0 and 1 alone, of which levels=17 says nothing"),
    ],
)
def test_an_option_of_data_without_effect_is_refused(source, options, said):
    with pytest.raises(DataError) as refusal:
        load_data(source, **options)
    assert said in str(refusal.value)
    assert refusal.value.unused == next(iter(options))
    assert build_from_config(lambda **given: load_data(source, **given), options).size("train")


WITH_A_KL = [row for row in ROWS if row.startswith("latent")] + ["autoencoder", "linear", "grouped-iwae"]


@pytest.mark.parametrize("setting", [{"beta": 3.0}, {"warm_up": 2.0}, {"free_bits": 50.0}], ids=str)
@pytest.mark.parametrize(
    "row", only(WITH_A_KL, [r for r in WITH_A_KL if r == "latent" or "objective" in ROWS[r].options])
)
def test_a_setting_of_the_kl_has_an_effect_or_is_refused(row, setting):
    def gradients(training: Training, beta: float) -> list[Tensor]:
        pair, data = ROWS[row].build(), ROWS[row].batch()
        weight = torch.tensor(beta, dtype=torch.float64)
        programs = weighted_programs(pair, training, 1000, weight, torch.device("cpu"))
        with torch.random.fork_rng(), pyro.validation_enabled(False):
            torch.manual_seed(1)
            pair.objective.loss_and_grads(*programs, data)
        return [torch.zeros(()) if p.grad is None else p.grad for p in pair.named_parameters().values()]

    training, pair = Training(**setting), ROWS[row].build()
    (name,) = setting
    kl_by_datum = name == "free_bits" and row.endswith(("stl", "iwae", "dreg", "renyi", "rws", "correlation"))
    if kl_by_datum or row == "latent-mmd":
        with pytest.raises(SettingsError, match=f"leave --{name.replace('_', '-')} out"):
            pv.fit(pair, {"x": X}, **setting)
    else:
        check_settings(training, pair, load_data({"x": X}))
        assert not same(gradients(Training(), 1.0), gradients(training, setting.get("beta", 0.3)))


# --- the command line -----------------------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(capsys, *argv: str) -> str:
    assert main(list(argv)) == 2
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.strip().splitlines()
    return line


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (
            ["latent", "--components", "7"],
            "components 7 apply to a mixture, and --prior is normal; leave --components out",
        ),
        (["latent", "--net", "conv", "--hidden", "[8]"], "leave --hidden out, or use --net mlp"),
        (
            ["latent", "--objective", "mmd", "--beta", "3"],
            "beta 3.0 weights the KL, and MaximumMeanDiscrepancy has none",
        ),
        (["latent", "--objective", "stl", "--free_bits", "1"], "StickingTheLanding weights each datum by itself"),
        (
            ["semi_supervised", "--labels", "100", "--scaling", "common"],
            "scaling common is for real x, and digits is levels",
        ),
        (["latent", "--label_seed", "1"], "label_seed=1 decides whose labels are kept"),
        (["conditional", "--labels", "100"], "reads y, which --labels 100 hides"),
    ],
)
def test_train_refuses_before_anything_is_written(capsys, elsewhere, argv, said):
    assert said in refusal(capsys, "train", *argv)
    assert not list(elsewhere.iterdir())


@pytest.mark.slow
def test_a_saved_run_with_options_without_effect_still_loads(capsys, elsewhere):
    data = load_data("digits")
    pv.fit(PAIRS["latent"](data.spec, latent=2, hidden=[8], components=None), data, run="run", epochs=1, compile="off")
    path = Path("run/config.yaml")
    config = yaml.safe_load(path.read_text())
    assert config["pair"]["options"]["components"] is None
    assert command(config) == "pyro-vae train latent --data digits --latent 2 --hidden '[8]' --epochs 1 --compile off"
    config["pair"]["options"] |= {"components": 7}
    config["data"]["options"] |= {"label_seed": 3}
    path.write_text(yaml.safe_dump(config))
    for argv in (
        ["evaluate", "run", "--samples", "10", "--json"],
        ["draw", "run", "samples"],
        ["resume", "run", "--epochs", "2", "--json"],
    ):
        assert main(argv) == 0, capsys.readouterr().err
    assert "--components" not in Path("run/report.html").read_text()
