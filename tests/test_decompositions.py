"""What compiled code computes in other operations than torch does."""

import pytest
import torch
import torch.nn.functional as F
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae.compiled import record
from pyro_vae.decompositions import decompositions, log1p_of_exp

EVERYWHERE = torch.cat(
    [-torch.logspace(-30, 2, 50_000), torch.linspace(-100.0, 100.0, 50_001), torch.logspace(-30, 2, 50_000)]
)
ENDS = torch.tensor([float("-inf"), -1e30, -0.0, 0.0, 1e30, float("inf"), float("nan")])


def test_log1p_of_exp_is_right_to_the_rounding_of_float32():
    y = EVERYWHERE[EVERYWHERE <= 0]
    exact = y.double().exp().log1p()
    normal = exact > torch.finfo(torch.float32).tiny
    assert ((log1p_of_exp(y) - exact) / exact)[normal].abs().max() < 3e-7
    assert log1p_of_exp(y.double()).dtype == torch.float64


@pytest.mark.parametrize(
    "f",
    [
        F.softplus,
        lambda x: F.softplus(x, beta=2.0),
        lambda x: F.softplus(x, threshold=5.0),
        F.logsigmoid,
        lambda x: F.binary_cross_entropy_with_logits(x, torch.ones_like(x), reduction="none"),
    ],
)
@pytest.mark.parametrize("x", [EVERYWHERE, ENDS], ids=["everywhere", "ends"])
def test_same_as_torch(f, x):
    graph = make_fx(f, decomposition_table=decompositions())(x)
    names = {str(node.target) for node in graph.graph.nodes}
    assert not any("log1p" in name or "softplus" in name or "log_sigmoid" in name for name in names)
    exact = f(x.double())
    torch.testing.assert_close(graph(x).double(), exact, rtol=4e-7, atol=1e-37, equal_nan=True)


def test_float64_keeps_torchs_own():
    graph = make_fx(F.softplus, decomposition_table=decompositions())(EVERYWHERE.double())
    assert any("log1p" in str(node.target) for node in graph.graph.nodes)


def test_compiled_code_computes_them():
    x = EVERYWHERE[:1_000].clone()
    recording = record(lambda x: (F.softplus(x), F.logsigmoid(x)), (x,))
    assert recording.compile(x) is None
    for got, exact in zip(recording(x), (F.softplus(x.double()), F.logsigmoid(x.double())), strict=True):
        torch.testing.assert_close(got.double(), exact, rtol=4e-7, atol=1e-37)


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
