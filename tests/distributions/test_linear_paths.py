"""Paths that are drawn by doubling: their draws follow their density, and their cost grows with the logarithm of their length."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae.distributions import LinearPath

SIZE = 2


def path(steps: int, lengths: tuple[int, ...] = (5, 3)) -> LinearPath:
    torch.manual_seed(0)
    batch = len(lengths)
    gate, loc = torch.randn(batch, steps, SIZE, SIZE).double(), torch.randn(batch, steps, SIZE).double()
    tril = torch.randn(batch, steps, SIZE, SIZE).double().tril(-1) + torch.diag_embed(
        0.3 + torch.rand(batch, steps, SIZE).double()
    )
    there = torch.arange(steps) < torch.tensor(lengths)[:, None]
    return LinearPath(gate, loc, tril, there, dist.Normal(torch.zeros(SIZE).double(), 1.0).to_event(1))


@pytest.mark.parametrize("steps", [1, 2, 5, 6])
def test_with_the_same_noise_a_draw_is_the_loops(steps: int) -> None:
    one = path(steps)
    torch.manual_seed(3)
    drawn = one.rsample((4,)).unflatten(-1, (steps, SIZE))
    torch.manual_seed(3)
    noise = one.loc.new_empty(4, 2, steps, SIZE).normal_()
    z = torch.zeros(4, 2, SIZE).double()
    for t in range(steps):
        moved = torch.einsum("bij,nbj->nbi", one.gate[:, t], z) if t else 0.0
        z = moved + one.loc[:, t] + torch.einsum("bij,nbj->nbi", one.tril[:, t], noise[:, :, t])
        seen = one.there[:, t]
        torch.testing.assert_close(drawn[:, seen, t], z[:, seen], rtol=0, atol=1e-12)


def test_draws_have_the_entropy_that_their_density_says() -> None:
    """-E log q of Gaussian steps, of those that are padded too."""
    one = path(6)
    torch.manual_seed(1)
    log_q = one.log_prob(one.rsample((20_000,)))
    per_number = 0.5 * torch.log(torch.tensor(2 * torch.pi)).double() + 0.5
    scales = torch.where(one.there[..., None], one.tril.diagonal(dim1=-2, dim2=-1).log(), 0.0)
    truth = -(scales.sum((1, 2)) + 6 * SIZE * per_number)
    assert ((log_q.mean(0) - truth).abs() < 5 * log_q.std(0) / 20_000**0.5).all()


def test_a_draw_of_many_steps_is_few_operations() -> None:
    def count(steps: int) -> int:
        one = path(steps, (steps,))

        def draw(gate: torch.Tensor) -> torch.Tensor:
            return LinearPath(gate, one.loc, one.tril, one.there, one.one).rsample()

        with pyro.validation_enabled(False):
            return len(make_fx(draw)(one.gate).graph.nodes)

    assert count(160) < 1.5 * count(40)
