"""Random graphical models: sound ones pass the linter, and a random mistake in one is caught and named."""

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyro.nn import PyroModule
from torch import nn

import pyro_vae as pv

BATCH, FEATURES = 6, 4


@dataclass(frozen=True)
class Graph:
    """A directed graph: latent site i has a size, a family, and parents among the sites before it; x has some of all."""

    sizes: tuple[int, ...]
    families: tuple[str, ...]
    parents: tuple[frozenset[int], ...]
    of_x: frozenset[int]


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    count = draw(st.integers(1, 4))
    sizes = tuple(draw(st.integers(1, 3)) for _ in range(count))
    families = tuple(draw(st.sampled_from(["normal", "lognormal", "beta"])) for _ in range(count))
    parents = tuple(frozenset(draw(st.sets(st.sampled_from(range(i))))) if i else frozenset() for i in range(count))
    childless = set(range(count)) - set().union(*parents)
    return Graph(sizes, families, parents, frozenset(childless | draw(st.sets(st.sampled_from(range(count))))))


def distribution(family: str, raw: torch.Tensor) -> dist.Distribution:
    loc, scale = raw.chunk(2, -1)
    if family == "beta":
        return dist.Beta(loc.exp().clamp(0.2, 5), scale.exp().clamp(0.2, 5))
    return (dist.Normal if family == "normal" else dist.LogNormal)(loc.clamp(-3, 3), scale.clamp(-3, 3).exp())


class Model(PyroModule):
    def __init__(self, graph: Graph, mistake: str | None, victim: int):
        super().__init__()
        self.graph, self.mistake, self.victim = graph, mistake, victim
        inputs = [sum(graph.sizes[j] for j in parents) + 1 for parents in (*graph.parents, graph.of_x)]
        sizes = [2 * size for size in graph.sizes] + [FEATURES]
        self.nets = nn.ModuleList(nn.Linear(a, b) for a, b in zip(inputs, sizes, strict=True))
        if mistake == "unreached":
            self.spare = nn.Linear(2, 2)

    def raw(self, i, values, x):
        parents = self.graph.parents[i] if i < len(self.graph.sizes) else self.graph.of_x
        return self.nets[i](torch.cat([torch.ones(len(x), 1), *(values[j] for j in sorted(parents))], -1))

    def forward(self, x):
        wrong = {self.victim: self.mistake}
        values, plate = {}, pyro.plate("data", len(x))
        with plate:
            for i, family in enumerate(self.graph.families):
                raw = self.raw(i, values, x)
                if wrong.get(i) == "peek":
                    raw = raw + x.mean(-1, keepdim=True)
                fn = distribution(family, raw)
                values[i] = pyro.sample(f"z{i}", fn if wrong.get(i) == "event" else fn.to_event(1))
            loc = self.raw(len(self.graph.sizes), values, x)
            if self.mistake == "infinite":
                loc = loc / 0.0
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)
        if self.mistake == "unseen":
            with plate:
                pyro.sample("z_more", dist.Normal(torch.zeros(2), 1.0).to_event(1))


class Guide(PyroModule):
    def __init__(self, graph: Graph, mistake: str | None, victim: int):
        super().__init__()
        self.graph, self.mistake, self.victim = graph, mistake, victim
        self.nets = nn.ModuleList(nn.Linear(FEATURES, 2 * (size + (mistake == "size" and i == victim)))
                                  for i, size in enumerate(graph.sizes))  # fmt: skip

    def forward(self, x):
        plate = pyro.plate("data", len(x))
        for i, family in enumerate(self.graph.families):
            wrong = self.mistake if i == self.victim else None
            if wrong == "forgotten":
                continue
            name = f"zz{i}" if wrong == "misspelled" else f"z{i}"
            kind = {"normal": "lognormal"}.get(family, "normal") if wrong == "support" else family
            fn = distribution(kind, self.nets[i](x)).to_event(1)
            if wrong == "no plate":
                pyro.sample(name, fn)
                continue
            with plate:
                pyro.sample(name, fn)
        if self.mistake == "observes":
            with plate:
                pyro.sample("seen", dist.Normal(x, 1.0).to_event(1), obs=x)


# what the problems must be named after, given the victim
MISTAKES = {
    "forgotten": lambda i: f"z{i}",
    "misspelled": lambda i: f"z{i}",
    "event": lambda i: f"z{i}",
    "size": lambda i: f"z{i}",
    "support": lambda i: f"z{i}",
    "no plate": lambda i: f"z{i}",
    "peek": lambda i: "x",
    "unreached": lambda i: "spare",
    "unseen": lambda i: "z_more",
    "observes": lambda i: "seen",
    "infinite": lambda i: "x",
}
QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)


def problems(graph: Graph, mistake: str | None, victim: int):
    torch.manual_seed(0)
    pair = pv.Pair(Model(graph, mistake, victim), Guide(graph, mistake, victim))
    return pv.find_problems(pair, {"x": torch.randn(BATCH, FEATURES)})


@pytest.mark.slow
@given(graph=graphs())
@QUICK
def test_sound_graphs_pass(graph):
    assert problems(graph, None, -1) == []


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES)
@given(graph=graphs(), data=st.data())
@QUICK
def test_a_random_mistake_is_caught_and_named(mistake, graph, data):
    if mistake == "support":  # a guide narrower than the prior is only half as wrong, so a wider one is drawn
        graph = Graph(
            graph.sizes, tuple("beta" if f == "normal" else f for f in graph.families), graph.parents, graph.of_x
        )
    victim = data.draw(st.integers(0, len(graph.sizes) - 1))
    found = problems(graph, mistake, victim)
    assert found, f"{mistake} at z{victim} of {graph}"
    said = "\n".join(f"{p.site}: {p}" for p in found)
    # a site of size 1 without .to_event(1) is broadcast over the batch, and the program itself fails where it is used
    broadcast = mistake == "event" and graph.sizes[victim] == 1 and "Model fails on the batch" in said
    assert MISTAKES[mistake](victim) in said or broadcast, said
