"""What p(z | x) really is: on a grid for one or two dimensions, by NUTS for more.

Slow, and the ruler for what is fast.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_vae.diagnostics.criticism import TwoSample, two_sample
from pyro_vae.program import Batch, Latents, Pair, PairError, evaluation, latents_of

MAX_POINTS = 20_000  # grid points times data that are decoded at a time


class Grid(NamedTuple):
    """The posterior on a grid over unconstrained space; float64."""

    log_evidence: Tensor  # (data,) nats: exact up to the grid
    mean: Tensor  # (data, size)
    covariance: Tensor  # (data, size, size)
    edge: float  # largest posterior mass of a datum on the grid's border: should be 0


class Nuts(NamedTuple):
    """Draws of NUTS for chosen data, and whether to trust them."""

    draws: Tensor  # (data, chains, draws, size), unconstrained, on the CPU
    rhat: Tensor  # (data,) the worst over dimensions; below 1.01 the chains agree
    ess: Tensor  # (data,) the least over dimensions; above 400 for tails to be read


def grid_posterior(
    pair: Pair, batch: Batch, *, points: int = 200, box: tuple[float, float] | None = None, seed: int = 0
) -> Grid:
    """Sum p(x, z) over a grid: log p(x) = logsumexp + log cell volume.

    Args:
        points: along each dimension.
        box: lowest and highest coordinate; by default beyond all of 2,000 prior draws.

    Raises:
        PairError: with more than two latent dimensions, or discrete ones.
    """
    with evaluation(pair, seed):
        space = latents_of(pair, batch)
        if space.size > 2:
            raise PairError(
                f"a grid needs one or two latent dimensions, and there are {space.size}; use NUTS or annealing"
            )
        if box is None:
            draws = torch.cat([space.from_prior(1 + 2000 // space.data), space.from_guide(8)]).flatten(0, 1)
            low, high = draws.amin(0), draws.amax(0)
            low, high = low - 0.5 * (high - low), high + 0.5 * (high - low)
        else:
            low, high = (torch.full((space.size,), value) for value in box)
        lines = [
            torch.linspace(a, b, points, dtype=torch.float64) for a, b in zip(low.tolist(), high.tolist(), strict=True)
        ]
        nodes = torch.cartesian_prod(*lines).reshape(-1, space.size)
        volume = sum(math.log((line[1] - line[0]).item()) for line in lines)
        start = space.from_prior(1)  # for its dtype and device
        parts = []
        for part in nodes.split(max(1, MAX_POINTS // space.data)):
            u = part.to(start)[:, None].expand(-1, space.data, -1)
            parts.append(space.log_joint(u).double().cpu())
        log_p = torch.cat(parts)
    evidence = log_p.logsumexp(0)
    weight = (log_p - evidence).exp()
    mean = torch.einsum("gb,gd->bd", weight, nodes)
    second = torch.einsum("gb,gd,ge->bde", weight, nodes, nodes)
    border = ((nodes == nodes.amin(0)) | (nodes == nodes.amax(0))).any(-1)
    return Grid(evidence + volume, mean, second - mean[:, :, None] * mean[:, None], weight[border].sum(0).max().item())


def nuts(pair: Pair, batch: Batch, *, chains: int = 4, warmup: int = 300, draws: int = 500, seed: int = 0) -> Nuts:
    """Sample p(z | x) of every datum of a small batch with NUTS, from draws of the guide.

    About a minute per datum on one core: choose a few data.

    Raises:
        PairError: for discrete latent variables.
    """
    found, rhats, sizes = [], [], []
    with evaluation(pair, seed):
        for i in range(len(next(iter(batch.values())))):
            space = latents_of(pair, {name: tensor[i : i + 1] for name, tensor in batch.items()})
            starts = space.from_guide(chains)
            runs = [_chain(space, start[0], warmup, draws) for start in starts]
            u = torch.stack(runs)
            found.append(u.cpu())
            rhat, ess = _agreement(u)
            rhats.append(rhat)
            sizes.append(ess)
    return Nuts(torch.stack(found), torch.tensor(rhats), torch.tensor(sizes))


def compare(pair: Pair, batch: Batch, reference: Nuts, *, seed: int = 0) -> list[TwoSample]:
    """Can a classifier tell draws of q(z | x) from those of NUTS?

    One test per datum, on as many of each as NUTS's draws are worth.

    Neighbouring draws of a chain are alike, so they are thinned to its effective sample size; with
    few of them little is seen.

    Args:
        batch: the data that ``reference`` was made for.
    """
    tests = []
    with evaluation(pair, seed):
        space = latents_of(pair, batch)
        draws = reference.draws.flatten(1, 2)
        ours = space.from_guide(draws.shape[1]).cpu()
        for i in range(space.data):
            step = max(1, math.ceil(draws.shape[1] / max(1.0, reference.ess[i].item())))
            theirs = draws[i, ::step]
            tests.append(two_sample(ours[: len(theirs), i], theirs, seed=seed))
    return tests


def _chain(space: Latents, start: Tensor, warmup: int, draws: int) -> Tensor:
    from pyro.infer import MCMC, NUTS

    def potential(values: dict[str, Tensor]) -> Tensor:
        return -space.log_joint(values["u"][None, None])[0, 0]

    with torch.enable_grad():
        kernel = NUTS(potential_fn=potential, full_mass=space.size <= 20, max_tree_depth=8)
        sampler = MCMC(kernel, draws, warmup, {"u": start.clone()}, disable_progbar=True)
        sampler.run()
    return sampler.get_samples()["u"].detach()


def _agreement(u: Tensor) -> tuple[float, float]:
    import arviz as az

    columns = u.double().cpu().numpy()  # (chains, draws, size)
    rhat = max(float(az.rhat(columns[..., j])) for j in range(columns.shape[-1]))
    return rhat, min(float(az.ess(columns[..., j])) for j in range(columns.shape[-1]))
