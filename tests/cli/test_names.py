"""Names on the command line: options with hyphens or underscores, and the list that is read from the source."""

import contextlib
import io
import json
from inspect import getdoc

import pytest

from pyro_vae.cli import catalogue, main
from pyro_vae.cli.options import parser_of
from pyro_vae.data import DATASETS
from pyro_vae.diagnostics import BUDGETS
from pyro_vae.pairs import PAIRS
from pyro_vae.plots import PICTURES
from pyro_vae.training import Training


def test_the_list_is_what_there_is(capsys):
    assert catalogue.pairs() == {name: getdoc(build).split("\n")[0] for name, build in PAIRS.items()}
    assert list(catalogue.pairs()) == list(PAIRS)
    lines = [*catalogue.pairs().values(), *(getdoc(draw).split("\n")[0] for draw in PICTURES.values())]
    assert all(line.endswith(".") for line in lines), "a line is cut"
    assert catalogue.data_sets() == DATASETS
    assert main(["list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"pairs": catalogue.pairs(), "data": DATASETS}


def help_of(*words):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main([*words, "--help"])
    return out.getvalue()


SOME = [
    *(("train", name) for name in [*PAIRS][::4]),
    *(("draw", "run", name) for name in [*PICTURES][::8]),
    *(("diagnose",), ("draw",), ("query",)),
]


@pytest.mark.parametrize(
    "pages",
    [
        SOME,
        pytest.param([("train", name) for name in PAIRS], marks=pytest.mark.slow),
        pytest.param([("draw", "run", name) for name in PICTURES], marks=pytest.mark.slow),
    ],
    ids=["some", "pairs", "pictures"],
)
def test_help_from_the_source_says_what_the_objects_say(pages, monkeypatch):
    read = [help_of(*words) for words in pages]
    monkeypatch.setattr(catalogue, "builder", PAIRS.get)
    monkeypatch.setattr(catalogue, "picture", PICTURES.get)
    monkeypatch.setattr(catalogue, "pictures", lambda: PICTURES)
    monkeypatch.setattr(catalogue, "training", lambda: Training)
    monkeypatch.setattr(catalogue, "budgets", lambda: BUDGETS)
    assert read == [help_of(*words) for words in pages]
    assert all(len(text) > 500 for text in read)


def test_refusals_from_the_source_are_those_of_the_objects(monkeypatch, capsys):
    """Each value is wrong in its own way: of the wrong kind, no such name, out of range."""
    wrong = [
        ["--likelihood", "bernouli"],
        ["--latent", "2.5"],
        ["--latent", "0"],
        ["--hidden", "wide"],
        ["--decoder", "auto"],
        ["--beta", "abc"],
        ["--schedule", "linear"],
        ["--activation", "rely"],
    ]

    def said():
        statuses = [main(["train", "latent", *words]) for words in wrong]
        assert statuses == [2] * len(wrong)
        return capsys.readouterr().err

    read = said()
    monkeypatch.setattr(catalogue, "builder", PAIRS.get)
    monkeypatch.setattr(catalogue, "training", lambda: Training)
    assert read == said()
    assert len(read.splitlines()) == len(wrong)


@pytest.mark.parametrize("words", [["--two-words", "3"], ["--two_words", "3"], ["--two-words=3"], ["--two_words=3"]])
def test_options_may_have_hyphens_or_underscores(words):
    parser = parser_of("train", "a test")
    parser.add_argument("--two_words", type=int, default=1)
    parser.add_argument("--text", type=str, default="")
    assert parser.parse_args([*words, "--text", "a-b_c"]).two_words == 3
    assert parser.parse_args([*words, "--text", "a-b_c"]).text == "a-b_c"
    assert "--two-words" in parser.format_help()


@pytest.mark.parametrize("typed", ["--batch-sise", "--batch_sise"])
def test_a_hint_has_hyphens(typed, capsys):
    assert main(["train", "latent", typed, "3"]) == 2
    assert f"there is no option {typed}; did you mean --batch-size?" in capsys.readouterr().err
