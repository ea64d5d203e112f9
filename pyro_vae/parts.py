"""The usual decoder and encoder for given data: a net and a head chosen by name."""

from collections.abc import Callable
from typing import Literal

from torch import nn

from pyro_vae.conditionals import Conditional
from pyro_vae.data import Spec
from pyro_vae.heads import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
    Head,
    Normal,
)
from pyro_vae.nets import MLP, ConvDecoder, ConvEncoder, Standardize
from pyro_vae.pairing import PairError
from pyro_vae.posteriors import FullCovariance, LowRank

Likelihood = Literal[
    "auto",
    "bernoulli",
    "normal",
    "normal-per-feature",
    "normal-predicted",
    "continuous-bernoulli",
    "discretized-logistic",
    "logistic-mixture",
    "categorical",
]
Covariance = Literal["diagonal", "low-rank", "full"]
Net = Literal["mlp", "conv"]


def latent_size(spec: Spec, asked: int | None) -> int:
    """Return the number of latent dimensions: ``asked``, or 10 for small data and 40 from a hundred features on.

    Raises:
        PairError: when fewer than one is asked for.
    """
    if asked is None:
        return 10 if spec.features < 100 else 40
    if asked < 1:
        raise PairError(f"latent is the number of latent dimensions and must be at least 1, got {asked}")
    return asked


def likelihood(spec: Spec, name: Likelihood = "auto") -> Head:
    """Return the head of p(x | z); ``auto`` is Bernoulli for binary data and otherwise Normal with one learned scale.

    Raises:
        PairError: for a likelihood over levels on data that have none.
    """
    if name == "auto":
        name = "bernoulli" if spec.support == "binary" else "normal"
    features = spec.features
    if name in ("discretized-logistic", "logistic-mixture", "categorical"):
        if spec.levels is None:
            raise PairError(
                f"likelihood {name} needs data on equally spaced levels, and {spec.name} is {spec.support}; "
                f"use --likelihood {'bernoulli' if spec.support == 'binary' else 'normal'}"
            )
        if name == "categorical":
            return Categorical(features, spec.levels, highest=1.0)
        return (DiscretizedLogistic if name == "discretized-logistic" else DiscretizedLogisticMixture)(
            features, spec.levels
        )
    if name == "bernoulli":
        return Bernoulli(features)
    if name == "continuous-bernoulli":
        return ContinuousBernoulli(features)
    if name == "normal":
        return Normal(features, "learned")
    return Normal(features, "per_feature" if name == "normal-per-feature" else "predicted")


def decoder(
    spec: Spec,
    inputs: int,
    head: Head,
    *,
    net: Net = "mlp",
    hidden: tuple[int, ...] = (500, 500),
    activation: str = "silu",
) -> Conditional:
    """Return p(x | ...) from ``inputs`` numbers, starting at the training data's mean and spread."""
    if net == "conv":
        body: nn.Module = ConvDecoder(inputs, _image(spec), head.size, activation=activation)
    else:
        body = MLP(inputs, head.size, hidden, activation)
    return Conditional(body, head).start_at(spec.mean, spec.std)


def encoder(
    spec: Spec,
    head: Head,
    *,
    context: int = 0,
    net: Net = "mlp",
    hidden: tuple[int, ...] = (500, 500),
    activation: str = "silu",
) -> Conditional:
    """Return q(. | x, ...): ``x`` and ``context`` further numbers in, standardised where the data are real."""
    if net == "conv":
        return Conditional(ConvEncoder(_image(spec), head.size, extra=context, activation=activation), head)
    body: nn.Module = MLP(spec.features + context, head.size, hidden, activation)
    if spec.support == "real" and not context:
        body = nn.Sequential(Standardize(spec.mean, spec.std), body)
    return Conditional(body, head)


def posterior_head(latent: int, covariance: Covariance = "diagonal") -> Head:
    """Return the head of a Gaussian q(z | ...)."""
    heads: dict[str, Callable[[int], Head]] = {"diagonal": Normal, "low-rank": LowRank, "full": FullCovariance}
    return heads[covariance](latent)


def _image(spec: Spec) -> tuple[int, int, int]:
    if spec.image is None:
        raise PairError(
            f"--net conv needs images, and {spec.name} has {spec.features} features without a shape; use --net mlp"
        )
    return spec.image
