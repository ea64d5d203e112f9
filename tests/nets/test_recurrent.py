"""Recurrences over steps, all at once."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae.nets import RecurrentNet, scan


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 8, 9, 33])
def test_a_scan_is_the_loop(steps: int) -> None:
    torch.manual_seed(0)
    gate, update = torch.rand(2, steps, 3).double(), torch.randn(2, steps, 3).double()
    h, loop = torch.zeros(2, 3).double(), []
    for t in range(steps):
        h = gate[:, t] * h + update[:, t]
        loop.append(h)
    torch.testing.assert_close(scan(gate, update), torch.stack(loop, 1), rtol=0, atol=1e-13)
    other = scan(gate.flip(1), update.flip(1), backward=True).flip(1)
    torch.testing.assert_close(other, torch.stack(loop, 1), rtol=0, atol=1e-13)


@pytest.mark.parametrize("backward", [False, True])
def test_gradients_of_a_scan_are_those_of_the_loop(backward: bool) -> None:
    """By finite differences, those of the gradient too, and where one gate serves several sequences."""
    torch.manual_seed(0)
    gate, update = (f(2, 4, 3).double().requires_grad_() for f in (torch.rand, torch.randn))
    one = torch.rand(4, 3).double().requires_grad_()

    def scanned(g: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return scan(g, u, backward=backward)

    for inputs in ((gate, update), (one, update)):
        assert torch.autograd.gradcheck(scanned, inputs)
        assert torch.autograd.gradgradcheck(scanned, inputs)


def test_a_scan_of_many_steps_is_one_operation() -> None:
    """Recorded, forwards and backwards: a step of 160 time steps does not unroll."""

    def loss(g: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        g = g.requires_grad_()
        return torch.autograd.grad(scan(g, u).square().sum(), g)[0]

    graph = make_fx(loss)(torch.rand(1, 160, 2), torch.randn(1, 160, 2)).graph
    assert sum(node.op == "call_function" for node in graph.nodes) < 15


def test_the_next_step_is_the_one_that_all_steps_together_give() -> None:
    torch.manual_seed(0)
    net, x, state = RecurrentNet(2, 3, 5, both=False).double(), torch.randn(4, 6, 2).double(), None
    whole = net(x, torch.ones(4, 6).bool())
    for t in range(6):
        said, state = net.step(x[:, t], state)
        torch.testing.assert_close(said, whole[:, t], rtol=0, atol=1e-13)
    with pytest.raises(ValueError, match="has no next step: build it with both=False"):
        RecurrentNet(2, 3, 5, both=True).step(torch.zeros(4, 2), None)


def test_what_is_padding_reaches_no_other_step_and_directions_see_what_they_should() -> None:
    torch.manual_seed(0)
    x, there = torch.randn(1, 6, 2, requires_grad=True), torch.tensor([[True] * 4 + [False] * 2])
    for both in (False, True):
        net = RecurrentNet(2, 1, 5, both=both)
        (grad,) = torch.autograd.grad(net(x, there)[0, 1].sum(), x)
        seen = (grad[0].abs().sum(-1) > 0).tolist()
        assert seen == [True, True, both, both, False, False]
