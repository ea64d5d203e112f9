"""Recurrences over steps, all at once."""

import pytest
import torch

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


def test_what_is_padding_reaches_no_other_step_and_directions_see_what_they_should() -> None:
    torch.manual_seed(0)
    x, there = torch.randn(1, 6, 2, requires_grad=True), torch.tensor([[True] * 4 + [False] * 2])
    for both in (False, True):
        net = RecurrentNet(2, 1, 5, both=both)
        (grad,) = torch.autograd.grad(net(x, there)[0, 1].sum(), x)
        seen = (grad[0].abs().sum(-1) > 0).tolist()
        assert seen == [True, True, both, both, False, False]
