"""Objectives that look at q(z), the codes of all data together, of which a batch is a sample."""

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae.objectives.objective import Objective, Site
from pyro_vae.options import Count, Weight, checked
from pyro_vae.program import Figure, PairError, innermost, is_latent, trace_of, uncondition


class TotalCorrelation(Objective):
    """E log p(x | z) - I(x; z) - beta TC(z) - sum_j KL(q(z_j) || p(z_j)): a KL weighted for
    independence.

    q(z) = mean_i q(z | x_i) is estimated from the batch with the stratified weights that are
    unbiased: 1/N for the datum itself, (N - M) / (N M) for one other, 1/M for the rest, with
    M = batch - 1. At beta = 1 it is the ELBO.

    *Isolating Sources of Disentanglement in VAEs (Chen, Li, Grosse & Duvenaud, 2018)*, arXiv
    1802.04942, appendix C.2; their code puts the weights in the wrong places.

    Args:
        num_data: N, size of the training data.
        beta: weight of the total correlation.
    """

    figure = Figure("ELBO with weighted total correlation", "bound")
    per_datum = True
    whole_batch = True

    @checked()
    def __init__(
        self, num_particles: Count = 1, *, num_data: Count, beta: Weight = 6.0, data_plate: str = "data"
    ) -> None:
        super().__init__(num_particles, data_plate=data_plate)
        self.num_data, self.beta = num_data, beta

    def differentiable_loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """Return minus the weighted ELBO.

        Raises:
            PairError: q(z | x) is no diagonal Gaussian, or the batch holds one datum.
        """
        runs = self._traces(model, guide, args, kwargs)
        weight = self._weight(runs[0][0])
        elbo = torch.cat([self._log_prob(p, weight) - self._log_prob(q, weight) for p, q in runs])
        total_correlation = torch.cat([self.total_correlation(q) for _, q in runs])
        latent = next(site["scale"] for _, site in self._sites(runs[0][1])) / weight
        return -(weight * (elbo - latent * (self.beta - 1) * total_correlation).mean(0)).sum()

    def total_correlation(self, guide_trace: Trace) -> Tensor:
        """Return log q(z) - sum_j log q(z_j) at the guide's draws: ``(particles, batch)``."""
        log_q = torch.cat([self._among(name, site) for name, site in self._sites(guide_trace)], -1)
        log_weight = stratified_weights(log_q.shape[-2], self.num_data).to(log_q).log()
        joint = (log_weight + log_q.sum(-1)).logsumexp(-1)
        each = (log_weight.unsqueeze(-1) + log_q).logsumexp(-2)
        total = joint - each.sum(-1)
        return total.reshape(-1, total.shape[-1])

    def _among(self, name: str, site: Site) -> Tensor:
        """log q(z_ij | x_k) for every datum i, k and dimension j: ``(..., batch, batch, latent)``."""
        z = site["value"]
        normal = innermost(site["fn"], (torch.distributions.Independent, dist.ExpandedDistribution))
        if not isinstance(normal, torch.distributions.Normal) or z.dim() != len(site["cond_indep_stack"]) + 1:
            raise PairError(
                "TotalCorrelation takes q's dimensions one by one and needs a diagonal Gaussian vector at "
                f"site {name!r}, "
                f"not {type(normal).__name__}; use --covariance diagonal, or the objective elbo"
            )
        if z.shape[-2] < 2:
            raise PairError(
                "TotalCorrelation compares the data of a batch and this one holds a single datum; raise --batch-size"
            )
        loc, scale = normal.loc.expand(z.shape), normal.scale.expand(z.shape)
        return dist.Normal(loc.unsqueeze(-3), scale.unsqueeze(-3)).log_prob(z.unsqueeze(-2))


def stratified_weights(batch: int, num_data: int) -> Tensor:
    """W[i, k], rows adding up to 1: the weight of q(z_i | x_k) in an unbiased estimate of q(z_i)."""
    n, m = max(num_data, batch), batch - 1
    rest = torch.full((batch, batch), 1 / m, dtype=torch.float64)
    own = torch.eye(batch, dtype=torch.float64)
    following = own.roll(1, 1)
    return rest + own * (1 / n - 1 / m) + following * ((n - m) / (n * m) - 1 / m)


class MaximumMeanDiscrepancy(Objective):
    """E log p(x | z) - kl KL - weight MMD^2(q(z), p(z)): a batch's codes should look like prior
    draws.

    MMD^2 is the unbiased estimate with the kernel c / (c + |a - b|^2), c = 2 latent. It is not a
    bound on log p(x).

    *InfoVAE (Zhao, Song & Ermon, 2017)*, arXiv 1706.02262, eq. 6; *Wasserstein Auto-Encoders
    (Tolstikhin et al., 2017)*, arXiv 1711.01558, for the kernel.

    Args:
        weight: of the discrepancy, nats per datum.
        kl: what is left of the KL's weight, 0 to 1.
    """

    figure = Figure("reconstruction less MMD", "divergence")
    per_datum = True
    whole_batch = True

    @checked()
    def __init__(
        self, num_particles: Count = 1, *, weight: Weight = 100.0, kl: Weight = 0.0, data_plate: str = "data"
    ) -> None:
        super().__init__(num_particles, data_plate=data_plate)
        self.weight, self.kl = weight, kl
        self.has_kl = kl != 0

    def differentiable_loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """Return minus the objective.

        Raises:
            PairError: the batch holds one datum.
        """
        runs = [
            (*self._get_trace(p, q, args, kwargs), trace_of(uncondition(p), *args, **kwargs))
            for p, q in self._programs(model, guide, args, kwargs)
        ]
        scale = self._weight(runs[0][0])
        return -(scale * torch.cat([self._gain(*run, scale) for run in runs]).mean(0)).sum()

    def _gain(self, model_trace: Trace, guide_trace: Trace, prior_trace: Trace, scale: Any) -> Tensor:
        """Return the objective of one run: ``(particles, batch)``."""
        gain = self._log_prob(model_trace, scale, lambda site: site["is_observed"])
        if self.kl:
            log_ratio = self._log_prob(model_trace, scale, is_latent) - self._log_prob(guide_trace, scale)
            gain = gain + self.kl * log_ratio
        names = [name for name, site in self._sites(guide_trace) if is_latent(site)]
        codes, draws = (torch.cat([t.nodes[n]["value"] for n in names], -1) for t in (guide_trace, prior_trace))
        if codes.shape[-2] < 2:
            raise PairError(
                "MaximumMeanDiscrepancy compares the codes of a batch and this one holds a single datum; "
                "raise --batch-size"
            )
        return gain - self.weight * squared_mmd(codes, draws).reshape(-1, 1)


def squared_mmd(a: Tensor, b: Tensor) -> Tensor:
    """Return the unbiased estimate of MMD^2, ``(...)``, from two ``(..., draws, latent)``."""
    n, latent = a.shape[-2:]

    def kernel(u: Tensor, v: Tensor) -> Tensor:
        squared = (u.unsqueeze(-2) - v.unsqueeze(-3)).square().sum(-1)
        return 2 * latent / (2 * latent + squared)

    # the kernel of a draw with itself is 1
    within = (kernel(a, a) + kernel(b, b)).sum((-2, -1)) - 2 * n
    return within / (n * (n - 1)) - 2 * kernel(a, b).mean((-2, -1))
