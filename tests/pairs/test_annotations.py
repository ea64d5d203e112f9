"""Every option is checked against its own annotation, in Python as on the command line, and a refusal says what was meant."""

import math
import typing
from inspect import isabstract, signature
from typing import Annotated, Literal

import numpy as np
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import nn
from zoo import FEW_LABELS, GROUPS, LABELS, spec

import pyro_vae as pv
from pyro_vae.conditionals import (
    MLP,
    Bernoulli,
    Conditional,
    FullCovariance,
    MixturePrior,
    Normal,
    NormalPrior,
    StandardNormal,
    from_scale,
    to_scale,
)
from pyro_vae.conditionals import conditional as conditionals
from pyro_vae.objectives import OBJECTIVES
from pyro_vae.objectives import registry as objectives
from pyro_vae.options import Registry, Within, accept, checked, plain, registries, suggestion
from pyro_vae.pairs import PAIRS
from pyro_vae.pairs.factory import COVARIANCES, PRIORS
from pyro_vae.pairs.likelihoods import LIKELIHOODS
from pyro_vae.pairs.nets import NETS
from pyro_vae.program import PairError
from pyro_vae.training import SettingsError, Training, optimizers, settings

SPEC = spec()
SPECS = {"conditional": LABELS, "attribute": LABELS, "semi_supervised": FEW_LABELS, "grouped": GROUPS}
SMALL = {"latent": 2, "hidden": [4]}


def options_of(name: str) -> dict[str, object]:
    kinds = typing.get_type_hints(PAIRS[name], include_extras=True)
    return {option: kinds[option] for option in signature(PAIRS[name]).parameters if option != "spec"}


EVERY = [(name, option) for name in PAIRS for option in options_of(name)]


def words_of(kind: object) -> list[str]:
    """Return what an option may be by name, as the command line has it."""
    kind = plain(kind)
    alternatives = typing.get_args(kind) if typing.get_origin(kind) is not Literal else (kind,)
    return [word for one in alternatives if typing.get_origin(one) is Literal for word in typing.get_args(one)]


@pytest.mark.parametrize(("name", "option"), EVERY)
def test_a_misspelling_of_every_option_is_refused(name, option):
    build, about = PAIRS[name], SPECS.get(name, SPEC)
    with pytest.raises(PairError, match=rf"{name} has no option '{option}x'; did you mean {option}\? Its options are "):
        build(about, **{f"{option}x": 1})
    words = words_of(options_of(name)[option])
    for word in words:
        for wrong in (word.upper(), f"{word}x", word[:-1] + "_"):
            if wrong not in words:
                with pytest.raises(PairError, match=f"{option} must be one of {', '.join(words)}; got {wrong!r}"):
                    build(about, **{option: wrong})
    for wrong in ("x y", math.nan, math.inf, -1, 2.5, [], {}, object(), True, [2.5], ["a"], [-1]):
        takes_any = (option, wrong) in [("hidden", []), ("latent", [])]
        if isinstance(wrong, float) and wrong == 2.5 and option in ("weight", "rate", "pull", "commitment", "penalty"):
            continue
        if option in ("first", "last") and type(wrong) in (int, float) and math.isfinite(wrong):
            continue  # log SNRs
        if not takes_any:
            with pytest.raises(PairError, match=f"^(the )?{option} (must be|has) "):
                build(about, **{option: wrong})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"likelihood": "Bernoulli"}, "got 'Bernoulli': did you mean 'bernoulli'?"),
        ({"likelihood": "gaussian"}, "got 'gaussian': did you mean 'normal'?"),
        ({"likelihood": "discretized_logistic"}, "did you mean 'discretized-logistic'?"),
        ({"prior": "vampp"}, "did you mean 'vamp'?"),
        ({"covariance": "diag"}, "did you mean 'diagonal'?"),
        ({"objective": "iwea"}, "did you mean 'iwae'?"),
        ({"net": "cnn"}, "net must be one of mlp, conv"),
        ({"latent": 2.5}, "latent must be a whole number; got 2.5"),
        ({"latent": True}, "latent must be a whole number; got True"),
        ({"hidden": [200, 0]}, "hidden must be at least 1, got [200, 0]"),
        ({"particles": -1}, "particles must be at least 1, got -1"),
        ({"latent_dim": 2}, "latent has no option 'latent_dim'; did you mean latent?"),
        ({"n_latent": 2}, "did you mean latent?"),
    ],
)
def test_what_was_meant_is_said(options, said):
    with pytest.raises(PairError) as refusal:
        pv.pairs.latent(SPEC, **options)
    assert said in str(refusal.value)


@pytest.mark.parametrize("hidden", [7, (7,), [7], np.array([7]), [np.int64(7)], (np.int32(7),)])
def test_one_width_or_any_sequence_of_widths_is_a_list(hidden):
    pair = pv.pairs.latent(SPEC, latent=np.int64(2), hidden=hidden)
    assert pair.recipe == {"name": "latent", "options": {"latent": 2, "hidden": [7]}}
    assert type(pair.recipe["options"]["latent"]) is int
    assert len(pv.pairs.hierarchical(SPEC, latent=3, hidden=[4]).guide.up) == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"max_epochs": 3}, "fit has no option 'max_epochs'; did you mean epochs?"),
        ({"learning_rate": 0.1}, "did you mean lr?"),
        ({"hooks": []}, "fit has no option 'hooks'; its options are epochs, batch_size, lr"),
        ({"resumes": True}, "did you mean resume?"),
        ({"epochs": 2.5}, "epochs must be a whole number; got 2.5"),
        ({"epochs": math.nan}, "epochs must be a whole number; got nan"),
        ({"epochs": "3"}, "epochs must be a whole number; got '3'"),
        ({"lr": "x"}, "lr must be a number; got 'x'"),
        ({"beta": math.nan}, "beta must be a finite number, got nan"),
        ({"seed": 1.5}, "seed must be a whole number; got 1.5"),
        ({"seed": -1}, "seed must be from 0 to 2^63 - 1, got -1"),
        ({"seed": 2**64}, "seed must be from 0"),
        ({"precision": "banana"}, "precision must be one of 32, 64, bf16-mixed; got 'banana'"),
        ({"precision": "16"}, "precision must be one of 32, 64, bf16-mixed; got '16'"),
        ({"compile": True}, "compile must be one of auto, recorded, on, off; got True"),
        ({"optimizer": "Adam"}, "did you mean 'adam'?"),
        ({"patience": 0.5}, "patience must be a whole number; got 0.5"),
        ({"device": 3}, "device must be a word; got 3"),
    ],
)
def test_every_setting_of_training_is_checked(given, said):
    with pytest.raises(SettingsError) as refusal:
        pv.fit(pv.pairs.latent(SPEC, **SMALL), {"x": np.zeros((8, 16))}, **given)
    assert said in str(refusal.value)


def test_settings_take_numbers_of_numpy():
    training = Training(epochs=np.int64(3), lr=np.float32(0.5), beta=1, precision=64)  # type: ignore[arg-type]
    assert training == Training(epochs=3, lr=0.5, beta=1.0, precision="64")
    assert type(training.epochs) is int


def test_the_words_of_settings_are_those_that_there_are():
    kinds = typing.get_type_hints(Training)
    words = {name: typing.get_args(typing.get_args(kinds[name])[0]) for name in ("schedule", "optimizer")}
    assert list(words["schedule"]) == list(settings.SCHEDULES)
    assert list(words["optimizer"]) == list(optimizers.OPTIMIZERS)


CLASSES = [
    getattr(module, name)
    for module in (conditionals, objectives)
    for name in module.__all__
    if isinstance(getattr(module, name), type) and not isabstract(getattr(module, name))
]
REQUIRED = {
    "features": 3,
    "levels": 4,
    "latent": 2,
    "inputs": 3,
    "outputs": 2,
    "classes": 3,
    "num_data": 10,
    "image": (1, 4, 4),
}


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_constructor_checks_its_numbers_and_words(kind):
    parameters = signature(kind.__init__).parameters
    kinds = typing.get_type_hints(kind.__init__, include_extras=True)
    needed = {name: REQUIRED[name] for name, p in parameters.items() if p.default is p.empty and name in REQUIRED}
    for name, annotation in kinds.items():
        if name in ("return", "self") or not accepts_numbers_or_words(annotation):
            continue
        for wrong in (object(), "x y", math.nan):
            if annotation is str and isinstance(wrong, str):
                continue
            with pytest.raises((TypeError, ValueError), match=f"^{name} must be "):
                kind(**{**needed, name: wrong})


def accepts_numbers_or_words(annotation: object) -> bool:
    found = plain(annotation)
    return found in (int, float, bool, str) or typing.get_origin(found) in (list, Literal)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Normal(3, "predictd"), "got 'predictd': did you mean 'predicted'?"),
        (lambda: Normal(3, scal="fixed"), "Normal has no option 'scal'; did you mean scale?"),
        (lambda: Normal(3, value=0.0), "value must be above 0, got 0.0"),
        (lambda: Normal(-1), "features must be at least 1, got -1"),
        (lambda: MLP(3, 2, activation="Tanh"), "did you mean 'tanh'?"),
        (lambda: MLP(3, 2, dropout=1.0), "dropout must be at least 0 and below 1, got 1.0"),
        (lambda: MixturePrior(2, 0), "components must be at least 1, got 0"),
        (lambda: objectives.ImportanceWeighted(0), "num_particles must be at least 1, got 0"),
        (lambda: objectives.ImportanceWeighted(2.5), "num_particles must be a whole number; got 2.5"),
        (lambda: to_scale(torch.zeros(1), "square"), "positive must be one of exp, softplus; got 'square'"),  # type: ignore[arg-type]
        (lambda: from_scale(torch.ones(1), "sofplus"), "did you mean 'softplus'?"),  # type: ignore[arg-type]
        (lambda: OBJECTIVES["iwea"], "did you mean 'iwae'?"),
    ],
)
def test_parts_refuse_in_one_sentence(make, said):
    with pytest.raises((TypeError, ValueError, KeyError)) as refusal:
        make()
    assert said in str(refusal.value).replace('\\"', '"')
    assert "\n" not in str(refusal.value)


def trains(pair: pv.Pair) -> None:
    x = np.random.default_rng(0).normal(size=(40, 16)).astype(np.float32)
    fitted = pv.fit(pair, {"x": x}, epochs=1, batch_size=16, compile="off")
    assert math.isfinite(fitted.history[-1]["elbo"])
    assert pair.recipe is None  # only the program that made the parts can build it anew


READY = {
    "likelihood": lambda: Normal(16, "fixed", value=0.5),
    "prior": lambda: NormalPrior(2),
    "covariance": lambda: FullCovariance(2),
    "objective": lambda: Trace_ELBO(num_particles=2),
}


@pytest.mark.parametrize("option", READY)
def test_ready_made_parts_are_taken_where_a_name_is(option):
    trains(pv.pairs.latent(SPEC, **SMALL, **{option: READY[option]()}))


@pytest.mark.parametrize(
    "net", [(nn.Linear(16, 4), nn.Linear(2, 16)), nn.Linear, lambda inputs, outputs: MLP(inputs, outputs, (5,))]
)
def test_ready_made_nets_are_taken_where_a_name_is(net):
    trains(pv.pairs.latent(SPEC, latent=2, net=net))


def test_other_pairs_take_them_too():
    head = Normal(16, "per_feature")
    assert pv.pairs.flow(SPEC, **SMALL, likelihood=head).model.decoder.head.head is head
    prior = Conditional(nn.Linear(3, 4), Normal(2))
    assert pv.pairs.conditional(LABELS, **SMALL, prior=prior).model.prior is prior
    logits = nn.Linear(16, 3)
    assert logits in pv.pairs.semi_supervised(FEW_LABELS, **SMALL, classifier=logits).guide.modules()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"likelihood": Bernoulli(7)}, "the likelihood Bernoulli has 7 features, and x of test has 16 here"),
        ({"likelihood": nn.Linear(2, 2)}, "likelihood must be one of auto, "),
        ({"prior": StandardNormal(3)}, r"the prior StandardNormal has the event shape (3,), and z has 2 dimensions"),
        ({"prior": nn.Linear(2, 2)}, "the prior Linear returns no distribution"),
        ({"covariance": Normal(3)}, "the head Normal has 3 features, and z has 2 dimensions"),
        ({"net": nn.Linear(16, 4)}, "net is one Linear, and a pair has an encoder's and a decoder's: give both"),
        ({"net": (nn.Linear(16, 4), nn.Linear(3, 16))}, "the decoder's net Linear does not take 2 numbers per datum"),
        ({"net": (nn.Linear(16, 5), nn.Linear(2, 16))}, "the encoder's net Linear makes (2, 5) of 2 data, and (2, 4)"),
        ({"objective": Trace_ELBO(), "particles": 3}, "particles 3 does not apply to a ready-made objective"),
        ({"prior": StandardNormal(2), "components": 3}, "components 3 apply to a mixture, and --prior is ready-made"),
    ],
)
def test_ready_made_parts_that_do_not_fit_are_refused(options, said):
    small = {"latent": 2} if "net" in options else SMALL
    with pytest.raises(PairError) as refusal:
        pv.pairs.latent(SPEC, **small, **options)
    assert said in str(refusal.value)


OWN_LIKELIHOOD = """
import pyro_vae as pv
from pyro_vae.conditionals import Normal
from pyro_vae.pairs.likelihoods import LIKELIHOODS, Likelihood

LIKELIHOODS.enter("narrow", "a Normal of scale 1/10")(lambda spec: Normal(spec.features, "fixed", value=0.1))


def narrow(spec, *, likelihood: Likelihood = "narrow"):
    \"\"\"A pair of my own.\"\"\"
    return pv.pairs.latent(spec, likelihood=likelihood)
"""


# --- registries and the mechanism itself ----------------------------------------------------------------------------------


def test_a_name_is_entered_once_and_all_follow(monkeypatch, capsys, tmp_path):
    from pyro_vae.cli import main

    monkeypatch.setattr(LIKELIHOODS, "_builders", dict(LIKELIHOODS._builders))
    monkeypatch.setattr(LIKELIHOODS, "lines", dict(LIKELIHOODS.lines))
    (tmp_path / "mine.py").write_text(OWN_LIKELIHOOD)
    with pytest.raises(SystemExit):
        main(["train", f"{tmp_path / 'mine.py'}:narrow", "--help"])
    assert pv.pairs.latent(SPEC, **SMALL, likelihood="narrow").model.decoder.head.head.scale == "fixed"
    shown = capsys.readouterr().out
    assert "narrow" in shown.split("Train a pair")[0]
    assert "  narrow                a Normal of scale 1/10" in shown
    with pytest.raises(ValueError, match="there is a likelihood called 'narrow' already"):
        LIKELIHOODS.enter("narrow", "again")


@pytest.mark.parametrize("registry", [LIKELIHOODS, PRIORS, NETS, COVARIANCES, OBJECTIVES], ids=lambda r: r.option)
def test_every_name_has_a_line_of_help(registry):
    assert list(registry) == list(registry.lines)
    assert all(line and line[-1] != "." for line in registry.lines.values())
    assert registry in registries(PAIRS["latent"]).values()


def test_the_mechanism():
    shapes = Registry("shape")
    shapes.enter("square", "four sides")(4)

    @checked()
    def draw(
        shape: Annotated[str | nn.Module, shapes],
        *,
        size: Annotated[int, Within(1)] | None = None,
        filled: bool = False,
    ) -> object:
        return shape, size, filled

    assert draw("square", size=np.int64(3), filled=np.bool_(True)) == ("square", 3, True)
    assert draw(module := nn.Identity()) == (module, None, False)
    for wrong, said in (
        ({"shape": "sqare"}, "shape must be one of square; got 'sqare': did you mean 'square'?"),
        ({"shape": 3}, "shape must be one of square, or a Module; got 3"),
        ({"shape": "square", "size": 0}, "size must be at least 1, got 0"),
        ({"shape": "square", "filled": 1}, "filled must be True or False; got 1"),
        ({"shape": "square", "sizes": 1}, "draw has no option 'sizes'; did you mean size? Its options are shape, size"),
    ):
        with pytest.raises((TypeError, ValueError)) as refusal:
            draw(**wrong)
        assert said in str(refusal.value)
    assert accept("hidden", 3, list[int]) == [3]
    assert suggestion("Learning-Rate", ["lr", "beta"]) == "lr"
    assert suggestion("qqqq", ["lr", "beta"]) is None


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--likelihood", "Bernoulli"], "likelihood must be one of auto, "),
        (["--likelihood", "Bernoulli"], "got 'Bernoulli': did you mean 'bernoulli'?"),
        (["--latent", "2.5"], "latent must be a whole number; got 2.5"),
        (["--hidden", "[0]"], "hidden must be at least 1, got [0]"),
        (["--hidden=a"], "hidden must be a list of whole numbers, such as [200, 200]; got 'a'"),
        (["--beta", "abc"], "beta must be a number; got 'abc'"),
        (["--optimizer", "Adam"], "did you mean 'adam'?"),
        (["--max_epochs", "3"], "there is no option --max_epochs; did you mean --epochs?"),
        (["--learning_rate", "3"], "did you mean --lr?"),
    ],
)
def test_the_command_line_says_the_same(capsys, argv, said):
    from pyro_vae.cli import main

    assert main(["train", "latent", *argv]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line


def test_lists_need_no_brackets(capsys):
    from pyro_vae.cli import main

    for argv in (["--hidden", "7,5"], ["--hidden=7"], ["--hidden", "[7]"]):
        assert main(["check", "latent", "--latent", "2", *argv]) == 0, capsys.readouterr().err
