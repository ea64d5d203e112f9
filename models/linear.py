"""p(x, z) = p(z) p(x | z), linear and Gaussian

    z ~ Normal(0, I)                latent
    x ~ Normal(W z + loc, scale)    features

One noise scale for all features is probabilistic PCA (Tipping & Bishop, 1999), a scale per feature
is factor analysis. Evidence, posterior and (for PCA) maximum likelihood have closed forms, which
makes this the ruler for everything else.
"""

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn


class LinearModel(PyroModule):
    """``z -> x`` through one linear layer.

    Args:
        latent: size of z.
        features: size of x.
        noise: number of noise scales: 1 (probabilistic PCA) or ``features`` (factor analysis).
        units: of x, with ``loc`` and ``scale``, ``(features,)``, in which weight, loc and noise are
            learned; for probabilistic PCA one scale for all features. None for x of the size of 1.
    """

    def __init__(self, latent: int, features: int, noise: int = 1, units: Any = None) -> None:
        super().__init__()
        if latent < 1 or features < 1:
            raise ValueError(f"latent and features must be at least 1, got {latent} and {features}")
        if noise not in (1, features):
            raise ValueError(f"noise counts the noise scales, 1 or features = {features}, got {noise}")
        self.weight = nn.Parameter(0.1 * torch.randn(features, latent))
        self.loc = nn.Parameter(torch.zeros(features))
        self.log_scale = nn.Parameter(torch.full((noise,), -1.0))
        self.register_buffer("zeros", torch.zeros(latent))
        self.units = units

    def forward(self, x: Tensor) -> Tensor:
        """Return the drawn or observed ``x``: ``(..., batch, features)``."""
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.zeros, 1.0).to_event(1))
            weight, loc, scale = self.in_data_units()
            return pyro.sample("x", dist.Normal(z @ weight.T + loc, scale).to_event(1), obs=x)

    def in_data_units(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return W ``(features, latent)``, loc ``(features,)`` and noise scale ``(noise,)``."""
        if self.units is None:
            return self.weight, self.loc, self.log_scale.exp()
        unit = self.units.scale
        return unit[:, None] * self.weight, self.units(self.loc), unit * self.log_scale.exp()

    def marginal(self) -> dist.LowRankMultivariateNormal:
        """Return p(x) = Normal(loc, W W' + diag(scale^2)), exactly; ``log_prob(x)`` is the
        evidence.
        """
        weight, loc, scale = self.in_data_units()
        return dist.LowRankMultivariateNormal(loc, weight, scale.square().expand(len(loc)))

    def posterior(self, x: Tensor) -> dist.MultivariateNormal:
        """Return p(z | x) = Normal(L^-1 W' S^-1 (x - loc), L^-1), exactly; L = I + W' S^-1 W."""
        weighted = self.weight / (2 * self.log_scale).exp()[:, None]  # S^-1 W
        precision = torch.eye(len(self.zeros)).to(weighted) + self.weight.T @ weighted
        covariance = torch.linalg.inv(precision)
        loc = ((x if self.units is None else self.units.inverse(x)) - self.loc) @ weighted @ covariance
        return dist.MultivariateNormal(loc, scale_tril=torch.linalg.cholesky(covariance))

    def set_to(self, solution: Any) -> "LinearModel":
        """Copy a solution, such as `maximum_likelihood` returns, into the parameters."""
        unit = torch.ones(len(self.loc)).double() if self.units is None else self.units.scale.double()
        with torch.no_grad():
            self.weight.copy_(solution.weight / unit[:, None])
            self.loc.copy_(solution.loc if self.units is None else self.units.inverse(solution.loc))
            self.log_scale.copy_((solution.scale / unit).log()[: len(self.log_scale)])
        return self
