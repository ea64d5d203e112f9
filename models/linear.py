"""p(x, z) = p(z) p(x | z), linear and Gaussian

    z ~ Normal(0, I)                latent
    x ~ Normal(W z + loc, scale)    features

One noise scale for all features is probabilistic PCA (Tipping & Bishop, 1999), a scale a feature is factor analysis. Evidence,
posterior and (for PCA) maximum likelihood have closed forms, which makes this the ruler for everything else.
"""

import math

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae.baselines import MaximumLikelihood, maximum_likelihood

__all__ = ["LinearModel", "MaximumLikelihood", "maximum_likelihood"]


class LinearModel(PyroModule):
    """``z -> x`` through one linear layer.

    Args:
        latent: size of z.
        features: size of x.
        noise: number of noise scales: 1 (probabilistic PCA) or ``features`` (factor analysis).
    """

    def __init__(self, latent: int, features: int, noise: int = 1) -> None:
        super().__init__()
        if noise not in (1, features):
            raise ValueError(f"noise counts the noise scales, 1 or features = {features}, got {noise}")
        self.weight = nn.Parameter(0.1 * torch.randn(features, latent))
        self.loc = nn.Parameter(torch.zeros(features))
        self.log_scale = nn.Parameter(torch.full((noise,), -1.0))
        self.register_buffer("zeros", torch.zeros(latent))

    def forward(self, x: Tensor) -> Tensor:
        """Return the drawn or observed ``x``: ``(..., batch, features)``."""
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.zeros, 1.0).to_event(1))
            loc = z @ self.weight.T + self.loc
            return pyro.sample("x", dist.Normal(loc, self.log_scale.exp()).to_event(1), obs=x)

    def marginal(self) -> dist.LowRankMultivariateNormal:
        """p(x) = Normal(loc, W W' + diag(scale^2)), exactly: its ``log_prob(x)`` is the evidence in nats."""
        variance = (2 * self.log_scale).exp().expand(len(self.loc))
        return dist.LowRankMultivariateNormal(self.loc, self.weight, variance)

    def posterior(self, x: Tensor) -> dist.MultivariateNormal:
        """p(z | x) = Normal(L^-1 W' S^-1 (x - loc), L^-1) with L = I + W' S^-1 W and S the noise variance, exactly."""
        weighed = self.weight / (2 * self.log_scale).exp()[:, None]  # S^-1 W
        precision = torch.eye(len(self.zeros)).to(weighed) + self.weight.T @ weighed
        covariance = torch.linalg.inv(precision)
        loc = (x - self.loc) @ weighed @ covariance
        return dist.MultivariateNormal(loc, scale_tril=torch.linalg.cholesky(covariance))

    def set_to(self, solution: MaximumLikelihood) -> "LinearModel":
        """Write the closed-form solution into the parameters and return the model."""
        with torch.no_grad():
            self.weight.copy_(solution.weight)
            self.loc.copy_(solution.loc)
            self.log_scale.fill_(math.log(solution.scale))
        return self
