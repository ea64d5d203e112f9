"""Bayes nets: evidence is a sum by brute force, bounds have their gaps, and bad graphs are refused in a sentence."""

import itertools
import json
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from pyro.nn import PyroModule
from torch import Tensor
from zoo import spec

import pyro_vae as pv
from pyro_vae import pairs
from pyro_vae.conditionals import Table
from pyro_vae.data import SPRINKLER

GRAPH = {
    "d": {"parents": ["a", "b"], "values": 3},
    "a": {"values": 3},
    "b": {"parents": ["a"]},
    "c": {"parents": ["b", "d"]},
    "e": {"parents": ["c"]},
}


def described(features: int, support: str = "binary") -> pv.Spec:
    return spec(support=support, features=features, seen=(features,))


def brute_force(pair: pv.Pair, x: Tensor, seen: Tensor) -> Tensor:
    """Return log p of what is seen, summed over every state of all nodes."""
    model = pair.model
    total = torch.full((len(x),), -math.inf, dtype=torch.float64)
    for state in itertools.product(*(range(model.tables[name].shape[-1]) for name in model.graph)):
        v = dict(zip(model.graph, state, strict=True))
        p = math.prod(
            model.tables[name].probs[(*(v[parent] for parent in parents), v[name])].item()
            for name, parents in model.graph.items()
        )
        agrees = (~seen | (x == torch.tensor(state))).all(-1)
        total = torch.where(agrees, torch.logaddexp(total, torch.tensor(p, dtype=torch.float64).log()), total)
    return total


def test_log_p_with_any_missing_nodes_is_the_sum_over_all_states():
    pair = pairs.bayes_net(described(5, "real"), graph=GRAPH)
    pair.model.double()
    values = torch.tensor([3, 3, 2, 2, 2])
    generator = torch.Generator().manual_seed(1)
    x = (torch.rand(64, 5, generator=generator) * values).floor().double()
    seen = torch.rand(64, 5, generator=generator) < 0.6
    seen[0], seen[1] = True, False
    found = pv.log_weights(pair, {"x": x, "seen": seen})[0]
    torch.testing.assert_close(found, brute_force(pair, x, seen), rtol=0, atol=1e-12)
    assert found[1].item() == pytest.approx(0, abs=1e-12)


class Clouds(PyroModule):
    """q(cloud | sprinkler, rain) of given log-odds; the other nodes are left to the model's sum."""

    def __init__(self, constant: float, sprinkler: float, rain: float) -> None:
        super().__init__()
        self.odds = constant, sprinkler, rain

    def forward(self, x: Tensor) -> None:
        constant, sprinkler, rain = self.odds
        odds = constant + sprinkler * x[..., 1] + rain * x[..., 2]
        with pyro.plate("data", len(x)):
            logits = torch.stack([torch.zeros_like(odds), odds], -1)
            pyro.sample("cloud", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})


A, B, C = math.log(9 / 20), math.log(1 / 9), math.log(16)  # log-odds of a cloud: A + B sprinkler + C rain


def logit(p: float) -> float:
    return math.log(p / (1 - p))


@pytest.mark.parametrize(
    ("guide", "gap"),
    [
        (Clouds(0, 0, 0), 0.376138343),
        (Clouds(logit(0.482162), 0, 0), 0.375501577),
        # the best q that does not see a node averages the log-odds over it
        (Clouds(A + C * 41 / 70, B + C * (0.3 - 41 / 70), 0), 0.168869441),
        (Clouds(A + B * 0.42, 0, C + B * (0.18 - 0.42)), 0.068279845),
        (Clouds(A, B, C), 0.0),
    ],
)
def test_the_gap_of_each_q_is_zero_for_the_one_that_is_linear_in_the_odds(guide, gap):
    model = pairs.bayes_net(described(4)).model.double()
    pair = pv.Pair(model, guide, TraceEnum_ELBO(max_plate_nesting=1))
    days = [[0.0, s, r, 0.0] for (s, r), n in (((0, 0), 29), ((0, 1), 41), ((1, 0), 21), ((1, 1), 9)) for _ in range(n)]
    batch = {"x": torch.tensor(days).double(), "seen": torch.tensor([False, True, True, False]).expand(100, 4)}
    log_p = pv.log_weights(pair, batch).mean().item()
    assert log_p == pytest.approx(-1.268989924061, abs=1e-7)
    assert log_p - pv.elbo(pair, batch).elbo == pytest.approx(gap, abs=1e-7)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"rain": {"parents": ["cloud"], "probs": [[0.8, 0.3], [0.2, 0.8]]}},
            "probs of node 'rain' sum to 1.1 at cloud = 0",
        ),
        ({"cloud": {"parents": ["wet"]}}, "the graph has a circle: "),
        ({"cloud": {"parents": ["cloud"]}}, "the graph has a circle: cloud -> cloud"),
        ({"rain": {"parents": ["clouds"]}}, "node 'rain' has the parent 'clouds', which the graph"),
        (
            {"rain": {"parents": ["cloud"], "probs": [0.8, 0.2]}},
            r"of shape \(2,\), and its parents' values and its own ask for \(2, 2\)",
        ),
        ({"cloud": {"probs": [1.5, -0.5]}}, "hold 1.5, which is no probability"),
        ({"cloud": {"probs": "half"}}, "no table of numbers"),
        ({"cloud": {"values": 1}}, "node 'cloud' has 1 values"),
        ({"cloud": {"values": 3, "probs": [0.5, 0.5]}}, "has values 3 and probs of 2"),
        ({"cloud": {"proba": [0.5, 0.5]}}, "it takes parents, values and probs"),
        ({"my cloud": {}}, "a node cannot be called 'my cloud'"),
        ({"x": {}}, "a node cannot be called 'x'"),
        ({"moon": {}}, "the graph has 5 nodes .* has 4 features"),
        ({f"v{i}": {} for i in range(20)}, "24 nodes have 16,777,216 joint values"),
    ],
)
def test_a_graph_that_cannot_be_is_refused_in_one_sentence(change, said):
    with pytest.raises(pv.PairError, match=said) as refusal:
        pairs.bayes_net(described(4), graph={**SPRINKLER, **change})
    assert "\n" not in str(refusal.value)


def test_a_graph_comes_from_a_file_and_its_pair_is_built_anew_without_it(tmp_path):
    path = tmp_path / "net.json"
    path.write_text(json.dumps(SPRINKLER))
    pair = pairs.bayes_net(described(4), graph=str(path))
    again = pairs.find("bayes_net")(described(4), **pair.recipe["options"])
    assert torch.equal(pair.model.tables["wet"].probs, again.model.tables["wet"].probs)
    for name, said in (("nets.json", "cannot be read"), ("sprinklr", "did you mean 'sprinkler'")):
        with pytest.raises(pv.PairError, match=said):
            pairs.bayes_net(described(4), graph=name)
    with pytest.raises(pv.PairError, match="start given needs the tables of all nodes"):
        pairs.bayes_net(described(4), graph="chain", start="given")


def test_more_components_than_data_are_refused():
    with pytest.raises(pv.PairError, match="components 1001 are more than the 1,000 training data"):
        pairs.mixture(described(4), components=1001)


@pytest.mark.parametrize(("row", "said"), [([0.5, 0.7], "sums to 1.2"), ([-0.5, 1.5], r"\[-0.5, 1.5\]")])
def test_a_table_that_is_none_is_refused_in_python_too(row, said):
    with pytest.raises(ValueError, match=f"row 1 of the table is .*{said}"):
        Table(torch.tensor([[0.5, 0.5], row]))
