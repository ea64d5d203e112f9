"""What programs read of data, parameters and buffers is asked before each step: the same numbers as Pyro's, replayed."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from svi_scripts import Case, Cases, Vae, X, agree, make
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from pyro_vae import SVI

CASES = Cases()
QUICK = {"branches_on_data", "branches_on_a_buffer_that_it_has_written", "branches_on_a_draw"}
case = CASES.add
LENGTHS = torch.tensor([5, 4, 4, 2])
SEQUENCES = torch.rand(4, 5, 3, generator=torch.Generator().manual_seed(3)).round()


@case()
def branches_on_data(kind):
    v = Vae()
    svi = make(kind, lambda x: v.model(x, 1.0 if x.mean() > 0 else 0.1), v.guide)
    return [svi.step(X + (1 if i % 3 else -1)) for i in range(9)]


@case()
def branches_on_a_parameter(kind):
    v = Vae()
    v.dec[0].bias.data.fill_(0.0)

    def model(x):
        v.model(x, 1.0 if v.dec[0].bias.abs().max() > 0.035 else 0.1)

    svi = make(kind, model, v.guide)
    return [svi.step(X) for _ in range(12)]


@case()
def branches_on_a_buffer_before_it_is_written(kind):
    v = Vae()
    v.register_buffer("t", torch.tensor(0))

    def model(x):
        v.model(x, 1.0 if v.t > 6 else 0.1)
        v.t += 1

    svi = make(kind, model, v.guide)
    return [svi.step(X) for _ in range(12)]


@case("it reads the value of a tensor, which depends on draws")
def branches_on_a_buffer_that_it_has_written(kind):
    v = Vae()
    v.register_buffer("t", torch.tensor(0))

    def model(x):
        v.t += 1
        v.model(x, 1.0 if v.t > 6 else 0.1)

    svi = make(kind, model, v.guide)
    return [svi.step(X) for _ in range(12)]


@case("it reads the value of a tensor, which depends on draws")
def branches_on_a_draw(kind):
    v = Vae()
    svi = make(kind, lambda x: v.model(x, 1.0 if torch.rand(()) > 0.5 else 0.1), v.guide)
    return [svi.step(X) for _ in range(6)]


@case()
def branches_on_data_and_on_a_flag(kind):
    """What holds for one value of the flag may not hold for the other."""
    v = Vae()
    v.flag = False

    def model(x):
        positive = bool(x.mean() > 0)
        v.model(x, 0.1 if v.flag and positive else 1.0)

    svi = make(kind, model, v.guide)
    losses = []
    for flag, shift in ((0, 1), (0, 1), (1, -1), (0, -1), (1, -1), (1, 1), (0, 1), (1, 1), (1, -1)):
        v.flag = bool(flag)
        losses.append(svi.step(X + shift))
    return losses


@case()
def asks_twice(kind):
    v = Vae()

    def model(x, n):
        beta = 0.1
        if n.max() > 2:
            beta = 0.5 if n.sum() > 6 else 1.0
        v.model(x, beta)

    svi = make(kind, model, v.guide)
    numbers = [[1, 1], [1, 3], [1, 1], [4, 4], [1, 3], [2, 2], [3, 3], [4, 4], [3, 1]]
    return [svi.step(X, torch.tensor(n)) for n in numbers]


@case()
def as_many_steps_as_a_list_says(kind):
    v = Vae()

    def model(x, n):
        v.model(x)
        for i in range(sum(n.tolist())):
            pyro.sample(f"extra{i}", dist.Normal(v.dec[0].bias.sum(), 1.0), obs=torch.tensor(0.1))

    svi = make(kind, model, v.guide)
    return [svi.step(X, torch.tensor(n)) for n in ([1, 2], [1, 2], [2, 1], [1, 1], [1, 2], [1, 1])]


def packed(net: type[nn.Module], sorted_: bool, kind) -> list[float]:
    encoder, decoder = net(3, 4, batch_first=True), nn.Linear(4, 3)
    order = torch.arange(4) if sorted_ else torch.tensor([2, 0, 3, 1])

    def model(x, lengths):
        pyro.module("encoder", encoder)
        pyro.module("decoder", decoder)
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=sorted_)
        hidden, back = pad_packed_sequence(encoder(packed)[0], batch_first=True)
        mask = torch.arange(hidden.shape[1]) < back.unsqueeze(-1)
        with pyro.plate("data", len(x)), poutine.mask(mask=mask.any(-1)):
            d = dist.Bernoulli(logits=decoder(hidden)).mask(mask.unsqueeze(-1)).to_event(2)
            pyro.sample("x", d, obs=x[:, : hidden.shape[1]])

    svi = make(kind, model, lambda x, lengths: None)
    shorter = (LENGTHS - 1)[order]
    return [
        svi.step(SEQUENCES[order], lengths) for lengths in [LENGTHS[order]] * 4 + [shorter] * 3 + [LENGTHS[order]] * 2
    ]


@pytest.mark.slow
@pytest.mark.parametrize("sorted_", [True, False], ids=["sorted", "unsorted"])
@pytest.mark.parametrize("net", [nn.RNN, nn.GRU, nn.LSTM], ids=["RNN", "GRU", "LSTM"])
def test_packed_sequences(net, sorted_):
    agree(Case(lambda kind: packed(net, sorted_, kind), None, "recorded"))


@pytest.mark.slow
def test_many_steps_in_one_call_ask_before_each():
    def run(kind):
        v = Vae()
        svi = make(kind, lambda x: v.model(x, 1.0 if x.mean() > 0 else 0.1), v.guide)
        data = torch.stack([X + (1 if i % 3 else -1) for i in range(9)])
        return svi.steps(data).tolist() if kind is SVI else [svi.step(x) for x in data]

    agree(Case(run, None, "recorded"))


@pytest.mark.parametrize("name", CASES.params(QUICK))
def test_the_same_numbers_as_pyro(name):
    agree(CASES[name])
