"""Proposals for importance sampling, refined for each datum: Student-t's where p(u | x) is.

Two stages, both on the unconstrained vector of all latent variables. Scores first: each gradient of
log p(x, u) says as many numbers as u has, so that a few dozen draws fit a Gaussian of any
covariance, even from a guide that is far off. Then weighted draws, whose moments see the tails and
the skewness that gradients near the mode do not.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae.distributions import IMPOSSIBLE
from pyro_vae.evidence.many_levels import FEW
from pyro_vae.program import Batch, Latents, Pair, PairError, add_up, is_factor, is_masked, is_site, latents_of, run

DOF = 5.0  # of the Student-t, at least: tails heavier than any Gaussian's, and a covariance
# Degrees of freedom per dimension: in many dimensions a heavy tail leaves few draws at the distance
# where the density is.
THINNER = 3 / 8
MOST = 256  # dimensions that are refined: a long path would take minutes, and its weights fail all the same
BLOCK = 64  # dimensions up to which a covariance is full; larger vectors have blocks of this size
CENTRES = 64  # kernels of the mixture
WIDTH = 0.8  # of a kernel, relative to the mixture, in few dimensions
# Mean squared distance of a kernel's centre from the mean, in standard deviations: in many
# dimensions no draw is near a centre.
DISTANCE = 3.6
ROUNDS = 8  # of fitting to scores
DRAWS = (8, 32)  # fewest and most scores of a datum in a round
# The last rounds: how many, the scores in them per dimension, and at most how many times as many as
# before.
LATE = (2, 6, 8)
RATE = 0.1  # of moving, relative to scores and dimensions: slower averages over rounds
HELD = 10.0  # draws per dimension that the covariance of the scores is worth
STARTS = 32  # draws of the guide whose mean and scale are the start
SEEN = (
    3  # particles of a check: not the 2 that supports were read with, so that those which move with a latent do not fit
)
TURNS = 8  # around the circle, to tell an angle's density from a broad one
TOLERANCE = 1e-3  # nats in single precision, relative to the size of the densities


@dataclass(frozen=True)
class Students:
    """An equal mixture of multivariate Student-t's of one scale for each datum, in float64."""

    locs: Tensor  # (components, data, size)
    scale_trils: tuple[Tensor, ...]  # blocks along the diagonal, each (data, block, block)
    dof: float

    @property
    def blocks(self) -> list[int]:
        """Sizes of the blocks."""
        return [tril.shape[-1] for tril in self.scale_trils]

    def normal(self, num_samples: int) -> Tensor:
        """Return draws ``(num_samples, data, size)`` of Gaussians of the same locs and scale."""
        return self._chosen(num_samples) + self._stretched(self._noise(num_samples))

    def sample(self, num_samples: int) -> Tensor:
        """Return draws ``(num_samples, data, size)``."""
        noise = self._noise(num_samples)
        gamma = torch.distributions.Gamma(torch.full_like(noise[..., :1], self.dof / 2), 1.0).sample()
        return self._chosen(num_samples) + self._stretched(noise) * (self.dof / (2 * gamma)).sqrt()

    def log_prob(self, u: Tensor) -> Tensor:
        """Return log densities ``(num_samples, data)`` of ``u``, ``(num_samples, data, size)``."""
        centre = self.locs.mean(0)
        # both (data, draws or components, size)
        white, means = self._whitened(u - centre), self._whitened(self.locs - centre)
        distance = torch.cdist(white, means, compute_mode="donot_use_mm_for_euclid_dist").square()
        size, dof = u.shape[-1], self.dof
        constant = math.lgamma((dof + size) / 2) - math.lgamma(dof / 2) - size / 2 * math.log(dof * math.pi)
        log_scale = sum(tril.diagonal(dim1=-2, dim2=-1).log().sum(-1) for tril in self.scale_trils)
        each = -(dof + size) / 2 * torch.log1p(distance / dof)
        return constant - log_scale + each.logsumexp(-1).T - math.log(len(self.locs))

    def _noise(self, num_samples: int) -> Tensor:
        return torch.randn(num_samples, *self.locs.shape[1:], dtype=self.locs.dtype, device=self.locs.device)

    def _chosen(self, num_samples: int) -> Tensor:
        if len(self.locs) == 1:
            return self.locs
        which = torch.randint(len(self.locs), (num_samples, self.locs.shape[1], 1), device=self.locs.device)
        return self.locs.gather(0, which.expand(-1, -1, self.locs.shape[-1]))

    def _stretched(self, noise: Tensor) -> Tensor:
        parts = zip(self.scale_trils, noise.split(self.blocks, -1), strict=True)
        return torch.cat([torch.einsum("bij,nbj->nbi", tril, part) for tril, part in parts], -1)

    def _whitened(self, u: Tensor) -> Tensor:
        parts = zip(self.scale_trils, u.split(self.blocks, -1), strict=True)
        return torch.cat(
            [torch.linalg.solve_triangular(tril, part.movedim(0, -1), upper=False) for tril, part in parts], -2
        ).mT


def refinable(pair: Pair, batch: Batch, nesting: int) -> Latents | None:
    """Return the latent space of a pair whose proposal can be refined, else None.

    It needs few latent sites of at most ``MOST`` dimensions, of continuous variables (what the
    guide enumerates is summed out) that are neither angles nor masked, of supports that other
    latent variables do not move, data that the prior's draws give a probability, programs that
    take particles, a guide without auxiliary sites,
    and densities that are the same at given values as when the programs draw these values
    themselves.
    """
    try:
        space = latents_of(pair, batch, marginal=True)
        if len(space.sites) > FEW or space.size > MOST:
            return None
        guide, model = run(pair, batch, SEEN, nesting, enumerate_sites="model")
        drawn = {name for name, site in guide.nodes.items() if is_site(site) and not site["is_observed"]}
        if drawn != space.sites.keys() | space.summed:
            return None  # auxiliary sites
        if any(_is_circular(model.nodes[name]) or is_masked(model.nodes[name]) for name in space.sites):
            return None
        if _is_walled(space):
            return None
        for name in [name for name, site in guide.nodes.items() if is_factor(site)]:
            guide.remove_node(name)
        u = space.pack(guide)
        jacobian = space.log_jacobian(u, space.values(u))
        given = (space.log_joint(u) - jacobian, space.log_q(u) - jacobian)
        own = [
            torch.stack(list(add_up(pair, Trace(), trace, SEEN, space.data, nesting).sites.values())).sum(0)
            for trace in (model, guide)
        ]
    except (PairError, NotImplementedError, RuntimeError, ValueError, TypeError, IndexError, AttributeError, KeyError):
        return None
    for ours, theirs in zip(given, own, strict=True):
        short = theirs - ours if space.summed else (theirs - ours).abs()  # a sum is at least its largest term
        if not bool((short <= TOLERANCE * (1 + theirs.abs())).all()):
            return None
    return space


def _is_walled(space: Latents) -> bool:
    """Return whether every draw of the prior gives every datum probability 0, as where x is z
    rounded: scores do not tell where such a posterior ends.
    """
    with torch.random.fork_rng():
        log_p = space.log_joint(space.from_prior(SEEN))
    return bool((log_p < IMPOSSIBLE / 2).all())


def _is_circular(site: Mapping) -> bool:
    """Return whether a density on the real line is periodic, as that of an angle is."""
    value = site["value"]
    around = value + 2 * math.pi * TURNS
    if not bool(site["fn"].support.check(around).all()):
        return False  # a flat density on a bounded support
    turned = site["fn"].log_prob(around)
    return torch.allclose(turned, site["fn"].log_prob(value), rtol=TOLERANCE, atol=TOLERANCE)


def refine(space: Latents, num_samples: int, together: int) -> Students:
    """Fit a proposal to p(u | x) of every datum.

    The effort grows with ``num_samples``; at most ``together`` draws are evaluated at once.

    No draw of the fit is handed on, so an estimate from the result's own draws stays unbiased.
    """
    fewest, most = DRAWS
    rounds, each, times = LATE
    count = min(max(num_samples // most, fewest), most)
    late = max(count, min(each * space.size, times * count))
    fitted = _start(space)
    for number in range(ROUNDS):
        u = fitted.normal(late if number >= ROUNDS - rounds else count)
        scores = torch.cat([_scores(space, part) for part in u.split(count)])
        fitted = _matched(fitted, u, scores, RATE * u.shape[0] * u.shape[-1] / (number + 1))
    u = fitted.sample(max(num_samples // 2, CENTRES))
    log_p = torch.cat([space.log_joint(part.to(space.dtype)).double() for part in u.split(together)])
    return _smoothed(fitted, u, log_p - fitted.log_prob(u))


def _start(space: Latents) -> Students:
    """The mean of the guide's draws, and their standard deviations without correlations."""
    u = space.from_guide(STARTS).double().nan_to_num(0.0, 0.0, 0.0)
    scale = u.std(0).clamp(1e-6, 1e6)
    trils = tuple(torch.diag_embed(part) for part in scale.split(BLOCK, -1))
    return Students(u.mean(0, keepdim=True), trils, max(DOF, THINNER * space.size))


def _scores(space: Latents, u: Tensor) -> Tensor:
    """Return d log p(x, u) / du, ``(draws, data, size)``, in float64."""
    with torch.enable_grad():
        leaf = u.to(space.dtype).requires_grad_()
        (slope,) = torch.autograd.grad(space.log_joint(leaf).sum(), leaf)
    return slope.double()


def _matched(now: Students, u: Tensor, scores: Tensor, rate: float) -> Students:
    """Take one step towards the Gaussian whose scores at ``u`` are those of p(u | x).

    Batch and Match: Black-Box Variational Inference with a Score-Based Divergence (Cai, Modi,
    Pillaud-Vivien, Margossian, Gower, Blei & Saul, 2024), arXiv 2402.14758, algorithm 1, a block at
    a time. A datum whose step is not finite stays where it is.
    """
    kept = scores.isfinite().all(-1, keepdim=True)
    weight, scores = kept / kept.sum(0).clamp(min=1), scores.where(kept, 0.0)
    mean, score = (weight * u).sum(0), (weight * scores).sum(0)
    parts = (t.split(now.blocks, -1) for t in (now.locs[0], mean, score, u - mean, scores - score))
    locs, trils = [], []
    for tril, loc, centre, g, around, slopes in zip(now.scale_trils, *parts, strict=True):
        share = rate / (1 + rate)
        first = rate * _outer(slopes, weight) + share * g[:, :, None] * g[:, None]
        off = loc - centre
        second = tril @ tril.mT + rate * _outer(around, weight) + share * off[:, :, None] * off[:, None]
        root = torch.linalg.cholesky_ex(second).L
        # S first S + S = second: with S = root X root', X (root' first root) X + X = 1
        values, vectors = torch.linalg.eigh(_symmetric((root.mT @ first @ root).nan_to_num(0.0, 0.0, 0.0)))
        turned = root @ vectors
        covariance = _symmetric(turned * (2 / (1 + (1 + 4 * values.clamp(min=0)).sqrt()))[:, None] @ turned.mT)
        moved = (1 - share) * loc + share * ((covariance @ g[:, :, None])[..., 0] + centre)
        factor, failed = torch.linalg.cholesky_ex(covariance)
        fine = kept.any(0)[:, 0] & (failed == 0) & moved.isfinite().all(-1) & factor.isfinite().flatten(1).all(-1)
        locs.append(torch.where(fine[:, None], moved, loc))
        trils.append(torch.where(fine[:, None, None], factor, tril))
    return Students(torch.cat(locs, -1)[None], tuple(trils), now.dof)


def _smoothed(now: Students, u: Tensor, log_w: Tensor) -> Students:
    """Return kernels around draws ``u`` of weights ``log_w``.

    They are pulled together so that the mixture keeps the draws' mean and covariance.

    Approximating Posterior Distributions by Mixtures (West, 1993). Weights are truncated at
    sqrt(draws) times their mean (Ionides, 2008), and the covariance is drawn towards the present
    one, the more so the fewer draws count.
    """
    log_w = log_w.nan_to_num(-math.inf, -math.inf, -math.inf)
    log_w = (log_w - log_w.logsumexp(0)).nan_to_num(0.0, 0.0, -math.inf)  # no draw counts: all do
    weight = log_w.clamp(max=-0.5 * math.log(len(u))).softmax(0)
    ess = 1 / weight.square().sum(0)
    mean = (weight[..., None] * u).sum(0)
    trils = []
    width = math.sqrt(max(WIDTH**2, 1 - DISTANCE / u.shape[-1]))
    for tril, around in zip(now.scale_trils, (u - mean).split(now.blocks, -1), strict=True):
        held = (HELD * tril.shape[-1] / (ess + HELD * tril.shape[-1]))[:, None, None]
        covariance = (1 - held) * _outer(around, weight[..., None]) + held * (tril @ tril.mT)
        factor, failed = torch.linalg.cholesky_ex(covariance)
        trils.append(width * torch.where((failed == 0)[:, None, None], factor, tril))
    which = weight.T.multinomial(CENTRES, replacement=True).T
    chosen = u.gather(0, which[..., None].expand(-1, -1, u.shape[-1]))
    return Students(mean + math.sqrt(1 - width**2) * (chosen - mean), tuple(trils), now.dof)


def _outer(u: Tensor, weight: Tensor) -> Tensor:
    return torch.einsum("nbi,nbj->bij", weight * u, u)


def _symmetric(matrix: Tensor) -> Tensor:
    return (matrix + matrix.mT) / 2
