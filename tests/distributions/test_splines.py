"""Autoregressive splines: inverted coordinate by coordinate, whatever the net's order and layers."""

import pytest
import torch
from pyro.nn import ConditionalAutoRegressiveNN

from pyro_vae.conditionals import FlowPrior
from pyro_vae.distributions import ConditionalSplineAutoregressive
from pyro_vae.program import MANY_PASSES, passes_of

FEATURES, BINS = 6, 4


def transform_of(
    context: int, hidden: list[int], skip: bool
) -> tuple[ConditionalAutoRegressiveNN, torch.distributions.Transform]:
    torch.manual_seed(0)
    net = ConditionalAutoRegressiveNN(
        FEATURES,
        context,
        hidden,
        [3 * BINS - 1],
        permutation=torch.randperm(FEATURES),
        skip_connections=skip,
        nonlinearity=torch.nn.Tanh(),
    ).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(0.0, 0.4)  # wilder ones lose digits however they are inverted
    return net, ConditionalSplineAutoregressive(net).condition(torch.randn(5, context).double())


@pytest.mark.parametrize(("context", "hidden", "skip"), [(0, [8], False), (3, [8, 9], False), (2, [7, 8], True)])
def test_the_inverse_undoes_the_transform(context: int, hidden: list[int], skip: bool) -> None:
    _, transform = transform_of(context, hidden, skip)
    x = torch.randn(4, 5, FEATURES).double()
    y = transform(x).clone()  # another tensor, so that nothing is taken from the cache
    back = transform.inv(y)
    torch.testing.assert_close(back, x)
    log_slope = transform.log_abs_det_jacobian(back, y).clone()
    torch.testing.assert_close(log_slope, transform.log_abs_det_jacobian(x, transform(x)))
    assert log_slope.abs().min() > 1e-3  # not the identity


def test_gradients_flow_through_the_inverse() -> None:
    net, transform = transform_of(2, [8], skip=True)
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
