"""Probabilities under a model: exact where they are a sum, within their errors where they are drawn."""

import json

import pytest
import torch
from zoo import ROWS, spec

import pyro_vae as pv
from pyro_vae import pairs
from pyro_vae.cli.commands import main

EXACT = [
    ("wet=1", None, 0.6471),
    ("sprinkler=1", "wet=1", 0.42976356),
    ("rain=1", "wet=1", 0.70792768),
    ("cloud=1", "wet=1", 0.57579972),
    ("sprinkler=1", "wet=1, rain=1", 0.19449902),  # explained away by the rain
    ("rain=1", "sprinkler=1", 0.3),
    ("cloud=1", "sprinkler=1", 1 / 6),
    ("rain=1, sprinkler=1", None, 0.09),
]


@pytest.fixture(scope="module")
def net() -> pv.Pair:
    return pairs.bayes_net(spec(support="binary", features=4, seen=(4,)))


@pytest.mark.parametrize(("event", "given", "p"), EXACT)
def test_what_can_be_summed_is_exact(net, event, given, p):
    answer = pv.query(net, event, given)
    assert answer.exact
    assert answer.stderr == 0
    assert answer.probability == pytest.approx(p, abs=1e-6)


@pytest.mark.parametrize(("event", "given", "p"), EXACT)
def test_what_is_drawn_lies_within_its_error(net, event, given, p):
    answer = pv.query(net, event.replace("=1", ">0"), given, num_samples=20_000)
    assert not answer.exact
    assert abs(answer.probability - p) < 4 * answer.stderr
    assert answer.stderr < 0.01


def test_a_variable_that_is_held_is_worth_more_than_one_that_is_waited_for(net):
    held = pv.query(net, "rain>0", "wet=1", num_samples=20_000)
    waited = pv.query(net, "rain>0", "wet>0", num_samples=20_000)
    assert held.ess / 20_000 == pytest.approx(0.71, abs=0.02)
    assert waited.ess / 20_000 == pytest.approx(0.6471, abs=0.02)
    assert held.stderr < waited.stderr


def test_a_mixtures_components_are_classes():
    row = ROWS["mixture"]
    pair, batch = row.build(), row.batch(4)
    q = pair.guide.encoder(batch["x"])
    for k in range(3):
        assert pv.query(pair, f"k={k}").probability == pytest.approx(1 / 3)
        answer = pv.query(pair, f"k={k}", {"x": batch["x"][0]})
        assert answer.exact
        assert answer.probability == pytest.approx(q.probs[0, k].item(), abs=1e-9)
    total = sum(pv.query(pair, "x[3]>0", f"k={k}", num_samples=4000).probability for k in range(3)) / 3
    assert pv.query(pair, "x[3]>0", num_samples=4000).probability == pytest.approx(total, abs=0.05)


def test_a_continuous_latent_vector_is_drawn():
    row = ROWS["latent"]
    answer = pv.query(row.build(), "z[0]>1", batch=row.batch(1), num_samples=20_000)
    assert abs(answer.probability - 0.158655) < 4 * answer.stderr


@pytest.mark.parametrize(
    ("event", "given", "said"),
    [
        ("rian=1", None, "no variable 'rian' .* did you mean 'rain'"),
        ("rain~1", None, "event 'rain~1' cannot be read"),
        ("rain=1", "wet", "given 'wet' cannot be read"),
        ("x=1", None, r"'x' has 4 numbers; say which, as x\[0\]"),
        ("x[4]=1", None, "'x' has 4 numbers, counted from 0"),
        ("rain=2", None, "rain=2: 'rain' takes values from 0 to 1; name one"),
        ("rain=-1", None, "'rain' takes values from 0 to 1"),
        ("rain=1", "wet=0.5", "wet=0.5: 'wet' takes values from 0 to 1"),
        ({"rain": 2}, None, "'rain' takes values from 0 to 1"),
        ("rain=1", "wet=1, rain=0, sprinkler=0", "given wet=1, rain=0, sprinkler=0 has probability 0"),
        ("rain>0", "wet=1, rain=0, sprinkler=0", "none of 1,000 draws agrees with wet=1, rain=0, sprinkler=0"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_sentence(net, event, given, said):
    with pytest.raises(pv.PairError, match=said):
        pv.query(net, event, given, num_samples=1000)


def test_a_density_gives_no_single_value_a_probability():
    row = ROWS["latent"]
    with pytest.raises(pv.PairError, match="has a density, of which a single value has probability 0"):
        pv.query(row.build(), "z[0]=1", batch=row.batch(1))
    with pytest.raises(pv.PairError, match="reads 'y', which the query has to know"):
        pv.query(ROWS["conditional"].build(), "z[0]>1")


def test_an_event_that_no_draw_shows_keeps_an_error(net):
    answer = pv.query(net, "wet>0", "rain=0, sprinkler=0", num_samples=1000)
    assert answer.probability == pytest.approx(0, abs=1e-6)
    assert answer.stderr == pytest.approx(1 / answer.ess)


def test_the_command_line_asks_too(capsys):
    assert main(["query", "bayes_net", "rain=1", "--given", "wet=1", "--data", "sprinkler", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["exact"]
    assert answer["probability"] == pytest.approx(0.70792768, abs=1e-6)
    assert main(["query", "bayes_net"]) == 2
    assert "query takes a run or a pair, and an event" in capsys.readouterr().err
    assert torch.is_grad_enabled()
