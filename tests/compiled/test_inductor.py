"""Inductor's code: draws in their order, writes where they belong, and what it would compute in other forms than torch."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae.compiled.capture import trace
from pyro_vae.compiled.inductor import compile_graph, decompositions
from pyro_vae.compiled.recording import record


def several_draws(x, w):
    """The first draw has the longest way to go, so it would be drawn last if draws could move."""
    first, second, third = (torch.randn_like(x) for _ in range(3))
    return [torch.tanh(first @ w @ w @ w @ w + x), second @ w, third + second]


@pytest.mark.slow
def test_draws_stay_in_their_order():
    x, w = torch.randn(40, 40), torch.randn(40, 40) / 7
    code = compile_graph(trace(several_draws, [x, w]), [x, w])
    for seed in (1, 2):
        torch.manual_seed(seed)
        wanted = several_draws(x, w)
        torch.manual_seed(seed)
        for got, value in zip(code(x, w), wanted, strict=True):
            torch.testing.assert_close(got, value, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_what_code_writes_it_writes_once_and_lets_autograd_know():
    def step(p, x):
        p.add_(x * torch.tensor([1.0, 2.0, 3.0]))
        return [p.sum()]

    p, x = torch.zeros(3), torch.ones(3)
    code = compile_graph(trace(step, [p.clone(), x]), [p, x])
    for i in (1, 2, 3):
        before = p._version
        (total,) = code(p, x)
        assert p._version > before
        assert p.tolist() == [i, 2 * i, 3 * i]
        assert total.item() == 6 * i


@pytest.mark.slow
def test_what_is_stacked_alone_can_be_viewed_as_in_torch():
    x = torch.randn(12, 4, 3)
    recording = record(lambda x: torch.stack([x.transpose(0, 1).exp()], -2).view(48, 3) + 1, (x,))
    assert recording.compile(x) is None
    torch.testing.assert_close(recording(x), x.transpose(0, 1).exp().reshape(48, 3) + 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bits_are_drawn_as_torch_draws_them(dtype):
    p = torch.rand(5_000, dtype=dtype)
    graph = make_fx(torch.bernoulli, decomposition_table=decompositions())(p)
    assert not any("bernoulli" in str(node.target) for node in graph.graph.nodes)
    torch.manual_seed(3)
    expected = torch.bernoulli(p)
    torch.manual_seed(3)
    assert torch.equal(graph(p), expected)


def test_checks_of_values_are_compiled():
    graph = make_fx(torch.ops.aten._is_all_true, decomposition_table=decompositions())(torch.tensor([True, True]))
    assert not any("is_all_true" in str(node.target) for node in graph.graph.nodes)
    for values in ([True, True], [True, False], [False, True]):
        assert graph(torch.tensor(values)).item() == all(values)
