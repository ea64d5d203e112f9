"""Names on the command line: options with hyphens or underscores, and the list that is read from the source."""

import json
from inspect import getdoc

import pytest

from pyro_vae.cli import catalogue, main
from pyro_vae.cli.options import parser_of
from pyro_vae.data import DATASETS
from pyro_vae.pairs import PAIRS


def test_the_list_is_what_there_is(capsys):
    assert catalogue.pairs() == {name: getdoc(build).split("\n")[0] for name, build in PAIRS.items()}
    assert list(catalogue.pairs()) == list(PAIRS)
    assert catalogue.data_sets() == DATASETS
    assert main(["list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"pairs": catalogue.pairs(), "data": DATASETS}


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
