"""The usual decoder and encoder for given data: a net and a head chosen by name."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import torch
from pyro.infer import ELBO
from torch import Tensor, nn
from torch.nn import functional as F

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
from pyro_vae.nets import MLP, ConvDecoder, ConvEncoder, OneHot, Standardize, activation_named
from pyro_vae.objectives import OBJECTIVES
from pyro_vae.pairing import PairError
from pyro_vae.posteriors import FullCovariance, LowRank
from pyro_vae.priors import FlowPrior, MixturePrior, StandardNormal, VampPrior

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
Scaling = Literal["feature", "common"]
Prior = Literal["normal", "mixture", "vamp", "flow"]
Objective = Literal["elbo", "analytic-kl", "stl", "iwae", "dreg", "renyi", "rws", "total-correlation", "mmd"]


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
    return Conditional(nn.Sequential(*_standardize(spec, context), body), head)


def widths(hidden: Sequence[int] | None, net: Net) -> tuple[int, ...]:
    """Return the widths of hidden layers: ``hidden``, or 500 and 500.

    Raises:
        PairError: they are set for a convolutional net.
    """
    if net == "conv" and hidden is not None:
        raise PairError(
            f"hidden {list(hidden)} are widths of perceptrons, and --net is conv; leave --hidden out, or use --net mlp",
            unused="hidden",
        )
    return (500, 500) if hidden is None else tuple(hidden)


def activation(asked: str | None, net: Net, hidden: Sequence[int]) -> str:
    """Return the activation of nets: ``asked``, or silu.

    Raises:
        PairError: one is set for nets without a hidden layer.
    """
    if asked is not None and net == "mlp" and not hidden:
        raise PairError(
            f"activation {asked} follows a hidden layer, and --hidden is []; leave --activation out, or give a width such as [200]",
            unused="activation",
        )
    return asked or "silu"


def scaling(spec: Spec, asked: Scaling | None) -> Scaling:
    """Return how real data are scaled: ``asked``, or each feature by its own deviation.

    Raises:
        PairError: it is set for data that nets read as they are.
    """
    if asked is not None and spec.support != "real":
        raise PairError(
            f"scaling {asked} is for real x, and {spec.name} is {spec.support}, which nets read as it is; leave --scaling out",
            unused="scaling",
        )
    return asked or "feature"


def first(hidden: Sequence[int]) -> int:
    """Return the width of the first hidden layer.

    Raises:
        PairError: there is none.
    """
    if not hidden:
        raise PairError("this pair shares a hidden layer, and hidden is []: give at least one width, such as [200]")
    return hidden[0]


def up(
    spec: Spec, *, hidden: tuple[int, ...] = (500, 500), scaling: Scaling = "feature", activation: str = "silu"
) -> nn.Module:
    """Return a net ``x -> h``, ``(..., hidden[-1])``, for a guide whose parts share it."""
    first(hidden)
    body = MLP(spec.features, hidden[-1], hidden[:-1], activation)
    return nn.Sequential(*_standardize(spec, 0, scaling), body, activation_named(activation))


def to_numbers(
    spec: Spec,
    count: int,
    *,
    net: Net = "mlp",
    hidden: tuple[int, ...] = (500, 500),
    dropout: float = 0.0,
    scaling: Scaling = "feature",
    activation: str = "silu",
) -> nn.Module:
    """Return a net ``x -> count numbers``: a classifier's logits, or parameters of a distribution."""
    if net == "conv":
        return ConvEncoder(_image(spec), count, activation=activation, dropout=dropout)
    body = MLP(spec.features, count, hidden, activation, dropout=dropout)
    return nn.Sequential(*_standardize(spec, 0, scaling), body)


def step(width: int, activation: str = "silu") -> nn.Module:
    """Return a net ``h -> h`` of one layer: the way up from one level to the next."""
    return nn.Sequential(MLP(width, width, (), activation), activation_named(activation))


def between(
    inputs: int, head: Head, *, hidden: tuple[int, ...] = (500,), activation: str = "silu", start: bool = False
) -> Conditional:
    """Return a conditional of vectors given vectors; with ``start`` it begins near N(0, I), as a prior should."""
    conditional = Conditional(MLP(inputs, head.size, hidden, activation), head)
    return conditional.start_at(torch.zeros(head.features), torch.ones(head.features)) if start else conditional


def condition(spec: Spec) -> tuple[nn.Module, int]:
    """Return what makes a vector of ``y``, and the vector's size: class labels one-hot, attributes as they are.

    Raises:
        PairError: the data have no ``y``.
    """
    if "y" not in spec.fields:
        raise PairError(
            f"this pair is given labels or attributes, and {spec.name} has no field 'y', only "
            f"{', '.join(map(repr, spec.fields))}; use data with y, or the pair latent"
        )
    if spec.classes is not None:
        return OneHot(spec.classes), spec.classes
    return nn.Identity(), spec.fields["y"][0]


def classes(spec: Spec) -> int:
    """Return the number of classes of data of which few are labelled.

    Raises:
        PairError: the data have no classes, or nothing says which are labelled.
    """
    if spec.classes is None:
        raise PairError(f"this pair infers classes, and {spec.name} has none in 'y'; use data with class labels")
    if "labelled" not in spec.fields:
        raise PairError(
            f"this pair learns from few labels, and {spec.name} has no field 'labelled' to tell which count; "
            f"set --labels, such as --labels {10 * spec.classes}"
        )
    return spec.classes


def selected(spec: Spec, features: Tensor) -> Spec:
    """Return the description of some of x's ``features``, bool ``(features,)``."""
    return replace(spec, features=int(features.sum()), image=None, mean=spec.mean[features], std=spec.std[features])


def quadrants(spec: Spec, count: int) -> Tensor:
    """Return which features are given, bool ``(features,)``: the lower left quadrant of an image, the left half, all but the
    upper right.

    Raises:
        PairError: ``count`` is not 1, 2 or 3, or the data are no images.
    """
    channels, height, width = _image(spec)
    if count not in (1, 2, 3):
        raise PairError(f"quadrants is how many quarters of an image are given, 1, 2 or 3, got {count}")
    row = torch.arange(height).unsqueeze(-1) >= height // 2  # lower
    column = torch.arange(width) < width // 2  # left
    given = {1: row & column, 2: column.expand(height, width), 3: row | column}[count]
    return given.expand(channels, height, width).flatten()


def items(spec: Spec, count: int | None) -> tuple[int, Spec]:
    """Return the items a group, and the description of one; the data's field ``mask`` says how many when nobody does.

    Raises:
        PairError: nobody says, or x cannot be divided so.
    """
    if count is None and "mask" in spec.fields:
        count = spec.fields["mask"][0]
    if count is None:
        raise PairError(
            f"a grouped pair needs to know how many items of x a group has, and {spec.name} has no field 'mask' to tell; set --items"
        )
    if count < 1 or spec.features % count:
        raise PairError(f"{spec.features} features cannot be {count} items of equal size; set --items to a divisor")
    size = spec.features // count
    mean, std = spec.mean.reshape(count, size), spec.std.reshape(count, size)
    spread = (std.square().mean(0) + mean.var(0, correction=0)).sqrt()
    return count, replace(spec, features=size, image=None, mean=mean.mean(0), std=spread)


def prior(spec: Spec, name: Prior, latent: int, encoder: nn.Module, components: int | None = None) -> nn.Module:
    """Return p(z); ``vamp`` mixes what ``encoder``, the guide's, says of ``components`` pseudo-data, 100 by default.

    Raises:
        PairError: ``components`` are set for a prior that has none.
    """
    if components is not None and name not in ("mixture", "vamp"):
        raise PairError(
            f"components {components} are of a mixture, and --prior is {name}; leave --components out, or use --prior mixture or vamp",
            unused="components",
        )
    components = 100 if components is None else components
    if name == "mixture":
        return MixturePrior(latent, components)
    if name == "vamp":
        return VampPrior.around(encoder, spec.mean, spec.std, components)
    return FlowPrior(latent) if name == "flow" else StandardNormal(latent)


def objective(spec: Spec, name: Objective, particles: int = 1) -> ELBO:
    """Return the objective called ``name`` with ``particles`` draws a datum.

    Raises:
        PairError: it cannot be made with so few draws.
    """
    try:
        return OBJECTIVES[name](particles, spec.num_data)
    except ValueError as error:
        raise PairError(f"{error}; set --particles") from None


def posterior_head(latent: int, covariance: Covariance = "diagonal") -> Head:
    """Return the head of a Gaussian q(z | ...)."""
    heads: dict[str, Callable[[int], Head]] = {"diagonal": Normal, "low-rank": LowRank, "full": FullCovariance}
    return heads[covariance](latent)


def _standardize(spec: Spec, context: int, scaling: Scaling = "feature") -> list[nn.Module]:
    """The first layer of an encoder of real data; the ``context`` numbers behind x pass unchanged."""
    if spec.support != "real":
        return []
    std = Standardize(spec.mean, spec.std).std  # not too small anywhere
    if scaling == "common":
        std = std.square().mean().sqrt().expand_as(std)
    return [Standardize(F.pad(spec.mean, (0, context)), F.pad(std, (0, context), value=1.0), floor=0.0)]


def _image(spec: Spec) -> tuple[int, int, int]:
    if spec.image is None:
        raise PairError(
            f"a convolutional net needs images, and {spec.name} has {spec.features} features without a shape; use mlp"
        )
    return spec.image
