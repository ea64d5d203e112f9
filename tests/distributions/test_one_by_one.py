"""Autoregressive transforms backwards: splines and affine ones, whatever the net's order and layers."""

from typing import Any

import pytest
import torch
from pyro.distributions import transforms
from pyro.nn import ConditionalAutoRegressiveNN

from pyro_vae.conditionals import FlowPrior
from pyro_vae.distributions import ConditionalAffineAutoregressive, ConditionalSplineAutoregressive
from pyro_vae.program import MANY_PASSES, passes_of

FEATURES, BINS = 6, 4
KINDS = {"affine": [1, 1], "spline": [3 * BINS - 1]}
NETS = [(0, [8], False), (3, [8, 9], False), (2, [7, 8], True)]


def net_of(kind: str, context: int, hidden: list[int], skip: bool) -> ConditionalAutoRegressiveNN:
    torch.manual_seed(0)
    net = ConditionalAutoRegressiveNN(
        FEATURES,
        context,
        hidden,
        KINDS[kind],
        permutation=torch.randperm(FEATURES),
        skip_connections=skip,
        nonlinearity=torch.nn.Tanh(),
    ).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(0.0, 0.4)  # wilder ones lose digits however they are inverted
    return net


def transform_of(kind: str, net: ConditionalAutoRegressiveNN) -> Any:
    conditional = {"affine": ConditionalAffineAutoregressive, "spline": ConditionalSplineAutoregressive}[kind]
    return conditional(net).condition(torch.randn(5, net.context_dim).double())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("context", "hidden", "skip"), NETS)
def test_the_inverse_undoes_the_transform(kind: str, context: int, hidden: list[int], skip: bool) -> None:
    transform = transform_of(kind, net_of(kind, context, hidden, skip))
    x = torch.randn(4, 5, FEATURES).double()
    y = transform(x).clone()  # another tensor, so that nothing is taken from the cache
    back = transform.inv(y)
    torch.testing.assert_close(back, x)
    log_slope = transform.log_abs_det_jacobian(back, y).clone()
    torch.testing.assert_close(log_slope, transform.log_abs_det_jacobian(x, transform(x)))
    assert log_slope.abs().min() > 1e-3  # not the identity


@pytest.mark.parametrize("steep", [1.0, 20.0])
def test_the_affine_inverse_is_that_of_pyro(steep: float) -> None:
    """With its clamp, beyond which gradients still pass."""
    net = net_of("affine", 2, [8], skip=False)
    with torch.no_grad():
        net.layers[-1].weight.mul_(steep)
    context, y = torch.randn(5, 2).double(), torch.randn(5, FEATURES).double()
    grads = []
    for kind in (ConditionalAffineAutoregressive, transforms.ConditionalAffineAutoregressive):
        net.zero_grad()
        transform = kind(net).condition(context)
        x = transform.inv(y.clone())
        (x.square().sum() + transform.log_abs_det_jacobian(x, y).sum()).backward()
        grads.append([x.detach(), *(parameter.grad.clone() for parameter in net.parameters())])
    for ours, pyros in zip(*grads, strict=True):
        torch.testing.assert_close(ours, pyros)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_flow_through_the_inverse(kind: str) -> None:
    net = net_of(kind, 2, [8], skip=True)
    transform = transform_of(kind, net)
    y = torch.randn(5, FEATURES).double().requires_grad_()
    weight = net.layers[0].weight

    def inverse(value: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
        assert of is weight  # which gradcheck moves
        return transform.inv(value.clone())

    assert torch.autograd.gradcheck(inverse, (y, weight))


@pytest.mark.parametrize(
    ("kind", "passes"),
    [("coupling", 1), ("spline_coupling", 1), ("autoregressive", 12), ("spline_autoregressive", 12)],
)
def test_a_flow_says_what_a_draw_costs(kind: str, passes: int) -> None:
    flow = FlowPrior(FEATURES, kind, layers=2, hidden=(8,))  # type: ignore[arg-type]
    for fn in (flow(), flow().expand(torch.Size([3])), flow().to_event(0)):
        assert passes_of(fn) == passes
    assert (passes > MANY_PASSES) == ("autoregressive" in kind)
