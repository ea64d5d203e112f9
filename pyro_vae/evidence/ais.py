"""log p(x) by annealed importance sampling from the prior, and between two bounds on simulated
data.

On the Quantitative Analysis of Decoder-Based Generative Models (Wu, Burda, Salakhutdinov & Grosse,
2017), arXiv 1611.04273. It needs no good guide, which makes it the check on importance sampling; it
costs ``chains * temperatures * leapfrog`` gradients per datum.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_vae.program import Batch, Latents, Pair, evaluation, latents_of, simulate

TARGET = 0.65  # acceptance rate at which HMC does best (Beskos et al., 2013)


class Annealed(NamedTuple):
    """log p(x) by annealing; tensors ``(data,)``, float64, nats."""

    estimate: Tensor  # a lower bound in expectation
    stderr: Tensor  # from the spread of the chains' weights
    ess: Tensor  # effective number of chains
    acceptance: Tensor  # mean acceptance rate of the HMC steps


class Sandwich(NamedTuple):
    """Two-sided bounds on data simulated from the model; tensors ``(data,)``, nats."""

    lower: Tensor  # E lower <= log p(x)
    upper: Tensor  # E upper >= log p(x)

    @property
    def gap(self) -> float:
        """Mean distance of the bounds: the possible error of annealing, in nats per datum."""
        return (self.upper - self.lower).mean().item()


def anneal(
    pair: Pair,
    batch: Batch,
    *,
    temperatures: int = 500,
    chains: int = 16,
    leapfrog: int = 10,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Annealed:
    """Estimate log p(x) of every datum by annealing from the prior to the posterior.

    Step sizes, one per datum and temperature, are adapted in a preliminary run and then fixed.

    Args:
        temperatures: between prior and posterior; up to 10,000 for figures to report.
        progress: called with 1 after every temperature.

    Raises:
        PairError: for discrete latent variables and others that HMC cannot move.
    """
    with evaluation(pair, seed), torch.enable_grad():
        space = latents_of(pair, batch)
        betas = schedule(temperatures)
        steps = _adapt(space, betas, chains, leapfrog)
        log_w, accepted = _forward(space, betas, steps, chains, leapfrog, progress)
    return _annealed(log_w, accepted)


def sandwich(
    pair: Pair, batch: Batch, *, temperatures: int = 500, chains: int = 16, leapfrog: int = 10, seed: int = 0
) -> Sandwich:
    """Bound log p(x) from both sides for data drawn from the model, as many as ``batch`` has.

    There an exact posterior draw is known, the z that made x, and annealing back from it gives an
    upper bound (bidirectional Monte Carlo; Grosse, Ghahramani & Adams, 2015, arXiv 1511.02543).
    """
    with evaluation(pair, seed), torch.enable_grad():
        with torch.no_grad():
            drawn, latent = simulate(pair, batch)
        space = latents_of(pair, drawn)
        betas = schedule(temperatures)
        steps = _adapt(space, betas, chains, leapfrog)
        log_w, accepted = _forward(space, betas, steps, chains, leapfrog, None)
        u = _stacked(space, latent).expand(chains, -1, -1).clone()
        total = torch.zeros(u.shape[:2], dtype=torch.float64)
        for i in range(len(betas) - 1, 0, -1):  # the forward run's transitions in reverse order
            u, _ = _move(space, u, betas[i], steps[i], leapfrog)
            with torch.no_grad():
                total += (betas[i] - betas[i - 1]) * space.log_densities(u)[1].double().cpu()
    upper = -(torch.logsumexp(-total, 0) - math.log(chains))
    return Sandwich(_annealed(log_w, accepted).estimate, upper)


def schedule(temperatures: int) -> list[float]:
    """Return inverse temperatures from 0 to 1 along a sigmoid (Wu et al., section 5)."""
    if temperatures < 1:
        raise ValueError(f"temperatures must be at least 1, got {temperatures}")
    x = torch.linspace(-4, 4, temperatures + 1, dtype=torch.float64).sigmoid()
    return ((x - x[0]) / (x[-1] - x[0])).tolist()


def _stacked(space: Latents, latent: dict[str, Tensor]) -> Tensor:
    """Return values drawn by the model as ``u``: ``(1, batch, size)``."""
    parts = []
    for name, site in space.sites.items():
        raw = site.transform.inv(latent[name]).reshape(1, *site.shape)
        parts.append(raw.movedim(1 + site.data_dim, 1).reshape(1, space.data, -1))
    return torch.cat(parts, -1)


def _adapt(space: Latents, betas: list[float], chains: int, leapfrog: int) -> list[Tensor]:
    """Return step sizes ``(batch, 1)``, one per temperature, near the target acceptance."""
    u = space.from_prior(chains)
    step = torch.full((space.data, 1), 0.5 / space.size**0.25, dtype=u.dtype, device=u.device)
    steps = [step]
    for beta in betas[1:]:
        for _ in range(1 if len(betas) > 50 else 10):
            u, rate = _move(space, u, beta, step, leapfrog)
            step = (step * torch.exp(0.1 * (rate.mean(0)[:, None] - TARGET))).clamp(1e-4, 2.0)
        steps.append(step)
    return steps


def _forward(
    space: Latents,
    betas: list[float],
    steps: list[Tensor],
    chains: int,
    leapfrog: int,
    progress: Callable[[int], None] | None,
) -> tuple[Tensor, Tensor]:
    u = space.from_prior(chains)
    log_w = torch.zeros(u.shape[:2], dtype=torch.float64)
    accepted = torch.zeros(space.data, dtype=torch.float64)
    for i in range(1, len(betas)):
        with torch.no_grad():
            log_w += (betas[i] - betas[i - 1]) * space.log_densities(u)[1].double().cpu()
        u, rate = _move(space, u, betas[i], steps[i], leapfrog)
        accepted += rate.mean(0).double().cpu()
        if progress is not None:
            progress(1)
    return log_w, accepted / (len(betas) - 1)


def _move(space: Latents, u: Tensor, beta: float, step: Tensor, leapfrog: int) -> tuple[Tensor, Tensor]:
    """Take one HMC step that leaves p(u) p(x

    u)^beta invariant.
    """

    def look(at: Tensor) -> tuple[Tensor, Tensor]:
        at = at.detach().requires_grad_()
        prior, likelihood = space.log_densities(at)
        value = prior + beta * likelihood
        return value.detach(), torch.autograd.grad(value.sum(), at)[0]

    momentum = torch.randn_like(u)
    before, slope = look(u)
    new, moving = u, momentum
    for _ in range(leapfrog):
        moving = moving + 0.5 * step * slope
        new = new + step * moving
        after, slope = look(new)
        moving = moving + 0.5 * step * slope
    change = after - before + 0.5 * (momentum.square() - moving.square()).sum(-1)
    rate = torch.nan_to_num(change, nan=-math.inf).clamp(max=0).exp()
    taken = torch.rand_like(rate) < rate
    return torch.where(taken[..., None], new, u).detach(), rate


def _annealed(log_w: Tensor, acceptance: Tensor) -> Annealed:
    chains = len(log_w)
    log_sum = log_w.logsumexp(0)
    ess = torch.exp(2 * log_sum - (2 * log_w).logsumexp(0))
    return Annealed(log_sum - math.log(chains), (1 / ess - 1 / chains).clamp(min=0).sqrt(), ess, acceptance)
