"""Probabilistic PCA in closed form: what every pair of the same size is compared with.

    z ~ Normal(0, I)                latent
    x ~ Normal(W z + loc, scale)    features

Probabilistic Principal Component Analysis (Tipping & Bishop, 1999).
"""

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.distributions import LowRankMultivariateNormal

if TYPE_CHECKING:
    from pyro_vae.data import Data


class MaximumLikelihood(NamedTuple):
    """The best that probabilistic PCA can do on given data."""

    weight: Tensor  # (features, latent): principal directions, each times sqrt(its variance - scale^2)
    loc: Tensor  # (features,)
    scale: float  # standard deviation of the noise
    variances: Tensor  # (features,): eigenvalues of the data's covariance, falling
    log_likelihood: float  # mean over the data, nats per datum


def maximum_likelihood(x: Tensor, latent: int) -> MaximumLikelihood:
    """Fit probabilistic PCA in closed form to ``x``: (data, features).

    Tipping & Bishop (1999), eq. 7 and 8, with the covariance that divides by the number of data.

    Raises:
        ValueError: when ``latent`` leaves no direction for the noise, or the noise has no variance.
    """
    features = x.shape[1]
    if not 0 < latent < features:
        raise ValueError(f"probabilistic PCA needs 0 < latent < features = {features}, got latent = {latent}")
    x = x.double()
    loc = x.mean(0)
    variances, vectors = torch.linalg.eigh((x - loc).T @ (x - loc) / len(x))
    variances, vectors = variances.flip(0).clamp(min=0), vectors.flip(1)
    noise = variances[latent:].mean()
    if noise <= 0:
        raise ValueError(
            f"{latent} directions hold all variance of the data, so no noise is left to estimate; use fewer"
        )
    weight = vectors[:, :latent] * (variances[:latent] - noise).clamp(min=0).sqrt()
    log_likelihood = -0.5 * (
        features * math.log(2 * math.pi) + variances[:latent].log().sum() + (features - latent) * noise.log() + features
    )
    return MaximumLikelihood(weight, loc, noise.sqrt().item(), variances, log_likelihood.item())


def log_density(x: Tensor, fitted: MaximumLikelihood) -> Tensor:
    """Return log p(x) = log Normal(x; loc, W W' + scale^2 I), in nats: ``(data,)``."""
    noise = torch.full_like(fitted.loc, fitted.scale**2)
    return LowRankMultivariateNormal(fitted.loc, fitted.weight, noise).log_prob(x.double())


def reconstruction(x: Tensor, fitted: MaximumLikelihood) -> Tensor:
    """Return E log p(x | z) over the exact posterior, in nats: ``(data,)``.

    p(z | x) = Normal(M^-1 W' (x - loc), scale^2 M^-1) with M = W' W + scale^2 I (Tipping & Bishop
    1999, eq. 12).
    """
    weight, noise = fitted.weight, fitted.scale**2
    features, latent = weight.shape
    precision = weight.T @ weight + noise * torch.eye(latent, dtype=weight.dtype)  # M
    centred = x.double() - fitted.loc
    mean = torch.linalg.solve(precision, weight.T @ centred.T).T  # (data, latent)
    spread = noise * torch.linalg.solve(precision, weight.T @ weight).trace()  # E |W (z - mean)|^2
    square = (centred - mean @ weight.T).square().sum(-1) + spread
    return -0.5 * (features * math.log(2 * math.pi * noise) + square / noise)


def pca_figures(data: "Data", latent: int, split: str | None = None) -> dict[str, float] | None:
    """Return what PCA with ``latent`` components, fitted to the training split, reaches on a split.

    ``rms_error`` of its reconstruction and, where the data are numbers that are not binary,
    the figures of probabilistic PCA: log p(x) in closed form, which its exact posterior makes the
    ELBO too. None where ``latent`` is not below the number of features.
    """
    try:
        fitted = maximum_likelihood(data.batch("train")["x"], latent)
    except ValueError:
        return None
    x = data.batch(data.choose(split))["x"].double()
    directions = torch.linalg.qr(fitted.weight).Q
    centred = x - fitted.loc
    error = (centred - centred @ directions @ directions.T).square().mean().sqrt().item()
    if data.spec.support == "binary" or data.spec.categorical:
        return {"rms_error": error}
    evidence, explained = log_density(x, fitted).mean().item(), reconstruction(x, fitted).mean().item()
    return {
        "elbo": evidence,
        "reconstruction": explained,
        "kl": explained - evidence,
        "log_evidence": evidence,
        "rms_error": error,
    }
