"""The usual parts for given data: nets, heads, priors and objectives, by name or ready-made."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

import torch
from pyro.infer import ELBO
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vae.conditionals import (
    Conditional,
    FlowPrior,
    FullCovariance,
    Head,
    LowRank,
    MixturePrior,
    Normal,
    StandardNormal,
    VampPrior,
)
from pyro_vae.data import Spec
from pyro_vae.nets import MLP, OneHot, Standardize, activation_named
from pyro_vae.objectives import OBJECTIVES
from pyro_vae.options import Registry
from pyro_vae.pairs.nets import Net, NetSize, built, image_of, nets_of
from pyro_vae.pairs.registry import refuse_categories
from pyro_vae.pairs.units import Scaling, Units
from pyro_vae.program import PairError

COVARIANCES = Registry("covariance")
PRIORS = Registry("prior")
Covariance = Annotated[str | Head, COVARIANCES]
Prior = Annotated[str | nn.Module, PRIORS]
Objective = Annotated[str | ELBO, OBJECTIVES]

COVARIANCES.enter("diagonal", "independent latents")(Normal)
COVARIANCES.enter("low-rank", "correlations along two directions")(LowRank)
COVARIANCES.enter("full", "any correlations")(FullCovariance)


def latent_size(spec: Spec, asked: int | None) -> int:
    """Return the number of latent dimensions: ``asked``, or 10 for small data and 40 from a hundred
    features on.

    Raises:
        PairError: when fewer than one is asked for.
    """
    if asked is None:
        return 10 if spec.features < 100 else 40
    if asked < 1:
        raise PairError(f"latent is the number of latent dimensions and must be at least 1, got {asked}")
    return asked


def decoder(
    spec: Spec,
    inputs: int,
    head: Head,
    *,
    given: Units | None = None,
    net: Net = "mlp",
    hidden: tuple[int, ...] = (500, 500),
    activation: str = "silu",
) -> Conditional:
    """Return p(x | ...) from ``inputs`` numbers, starting at the training data's mean and standard
    deviation.

    ``given`` are the units of the last of these numbers, where they are data.
    """
    body = built(nets_of(net), "decoder", NetSize(spec, inputs, head.size, hidden, activation))
    if given is not None:
        body = nn.Sequential(_reader(given.loc, given.scale, before=inputs - len(given.loc)), body)
    return Conditional(body, head).start_at(spec.mean, spec.std)


def encoder(
    spec: Spec,
    head: Head,
    *,
    context: int = 0,
    net: Net = "mlp",
    hidden: tuple[int, ...] = (500, 500),
    scaling: Scaling = "feature",
    activation: str = "silu",
) -> Conditional:
    """Return q(. | x, ...): ``x`` and ``context`` further numbers in, x in units of its own."""
    body = built(nets_of(net), "encoder", NetSize(spec, spec.features + context, head.size, hidden, activation))
    return Conditional(_after_units(spec, body, context, scaling), head)


def widths(hidden: Sequence[int] | None, net: Net) -> tuple[int, ...]:
    """Return the widths of hidden layers: ``hidden``, or 500 and 500.

    Raises:
        PairError: they are set for a convolutional net.
    """
    if net != "mlp" and hidden is not None:
        raise PairError(
            f"hidden {list(hidden)} sets the widths of perceptrons, and --net is "
            f"{net if isinstance(net, str) else 'ready-made'}; "
            "leave --hidden out, or use --net mlp",
            unused="hidden",
        )
    return (500, 500) if hidden is None else tuple(hidden)


def activation(asked: str | None, net: Net, hidden: Sequence[int]) -> str:
    """Return the activation of nets: ``asked``, or silu.

    Raises:
        PairError: one is set for nets without a hidden layer, or for ready-made ones.
    """
    if asked is not None and not isinstance(net, str):
        raise PairError(
            f"activation {asked} does not apply to a ready-made net; leave --activation out", unused="activation"
        )
    if asked is not None and net == "mlp" and not hidden:
        raise PairError(
            f"activation {asked} follows a hidden layer, and --hidden is []; leave --activation out, or give "
            "a width such as [200]",
            unused="activation",
        )
    return asked or "silu"


def scaling(spec: Spec, asked: Scaling | None) -> Scaling:
    """Return how real data are scaled: ``asked``, or each feature by its own deviation.

    Raises:
        PairError: it is set for data that nets read as they are.
    """
    if asked is not None and Units.of(spec) is None:
        raise PairError(
            f"scaling {asked} is for real x, and {spec.name} is {spec.support}, which nets read as it is; "
            "leave --scaling out",
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
    return nn.Sequential(*_units_first(spec, 0, scaling), body, activation_named(activation))


def to_numbers(
    spec: Spec,
    count: int,
    *,
    net: Net | nn.Module = "mlp",
    hidden: tuple[int, ...] = (500, 500),
    dropout: float = 0.0,
    scaling: Scaling = "feature",
    activation: str = "silu",
) -> nn.Module:
    """Return a net ``x -> count numbers``: a classifier's logits, or parameters of a distribution."""
    nets = nets_of((net, net) if isinstance(net, nn.Module) else net)
    body = built(nets, "encoder", NetSize(spec, spec.features, count, hidden, activation, dropout))
    return _after_units(spec, body, 0, scaling)


def step(width: int, activation: str = "silu") -> nn.Module:
    """Return a net ``h -> h`` of one layer: the way up from one level to the next."""
    return nn.Sequential(MLP(width, width, (), activation), activation_named(activation))


def between(
    inputs: int, head: Head, *, hidden: tuple[int, ...] = (500,), activation: str = "silu", start: bool = False
) -> Conditional:
    """Return a conditional of vectors given vectors; with ``start`` it begins near N(0, I), as a
    prior should.
    """
    conditional = Conditional(MLP(inputs, head.size, hidden, activation), head)
    return conditional.start_at(torch.zeros(head.features), torch.ones(head.features)) if start else conditional


def condition(spec: Spec) -> tuple[nn.Module, int]:
    """Return what makes a vector of ``y``, and the vector's size: class labels one-hot, attributes
    as they are.

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
            f"set --labels, such as --labels {10 * spec.classes}, or give y = -1 where the class is unknown"
        )
    return spec.classes


def selected(spec: Spec, features: Tensor) -> Spec:
    """Return the description of some of x's ``features``, bool ``(features,)``."""
    return replace(spec, features=int(features.sum()), image=None, mean=spec.mean[features], std=spec.std[features])


def quadrants(spec: Spec, count: int) -> Tensor:
    """Return which features are given, bool ``(features,)``: the lower left quadrant of an image,
    the left half, all but the upper right.

    Raises:
        PairError: ``count`` is not 1, 2 or 3, or the data are not images.
    """
    channels, height, width = image_of(spec)
    if count not in (1, 2, 3):
        raise PairError(f"quadrants is how many quarters of an image are given, 1, 2 or 3, got {count}")
    row = torch.arange(height).unsqueeze(-1) >= height // 2  # lower
    column = torch.arange(width) < width // 2  # left
    given = {1: row & column, 2: column.expand(height, width), 3: row | column}[count]
    return given.expand(channels, height, width).flatten()


def items(spec: Spec, count: int | None) -> tuple[int, Spec]:
    """Return the number of items per group, by default that of the data's ``mask``, and one item's
    description.

    Raises:
        PairError: the number is not known, or does not divide the features of x.
    """
    refuse_categories(spec, "a grouped pair")
    if count is None and "mask" in spec.fields:
        count = spec.fields["mask"][0]
    if count is None:
        raise PairError(
            f"a grouped pair needs to know how many items of x a group has, and {spec.name} has no field "
            "'mask' to tell; set --items"
        )
    if count < 1 or spec.features % count:
        raise PairError(f"{spec.features} features cannot be {count} items of equal size; set --items to a divisor")
    size = spec.features // count
    mean, std = spec.mean.reshape(count, size), spec.std.reshape(count, size)
    spread = (std.square().mean(0) + mean.var(0, correction=0)).sqrt()
    return count, replace(spec, features=size, image=None, mean=mean.mean(0), std=spread)


def prior(spec: Spec, chosen: Prior, latent: int, encoder: nn.Module, components: int | None = None) -> nn.Module:
    """Return p(z); ``vamp`` mixes the guide's posteriors at ``components`` pseudo-data, 100 by
    default.

    Raises:
        PairError: ``components`` are set for a prior that has none, or a ready-made prior is of
            another size.
    """
    if components is not None and chosen not in ("mixture", "vamp"):
        raise PairError(
            f"components {components} apply to a mixture, and --prior is "
            f"{chosen if isinstance(chosen, str) else 'ready-made'}; "
            "leave --components out, or use --prior mixture or vamp",
            unused="components",
        )
    if not isinstance(chosen, str):
        return fitting_prior(chosen, latent)
    return PRIORS[chosen](spec, latent, encoder, 100 if components is None else components)


def fitting_prior(prior: nn.Module, latent: int, *contexts: Tensor) -> nn.Module:
    """Return a ready-made prior, if its vectors are of this size.

    Raises:
        PairError: it is not.
    """
    try:
        with torch.no_grad():
            shape: Any = tuple(prior(*contexts).event_shape)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise PairError(f"the prior {type(prior).__name__} returns no distribution: {reason}") from None
    if shape != (latent,):
        raise PairError(
            f"the prior {type(prior).__name__} has the event shape {shape}, and z has {latent} dimensions: "
            f"build it with {latent}, "
            f"or set latent={shape[-1] if shape else 1}"
        )
    return prior


@PRIORS.enter("normal", "the standard normal")
def normal_prior(spec: Spec, latent: int, encoder: nn.Module, components: int) -> nn.Module:
    """Return N(0, I)."""
    return StandardNormal(latent)


@PRIORS.enter("mixture", "a learned mixture of Gaussians")
def mixture_prior(spec: Spec, latent: int, encoder: nn.Module, components: int) -> nn.Module:
    """Return a mixture of ``components`` Gaussians."""
    return MixturePrior(latent, components)


@PRIORS.enter("vamp", "a learned mixture of the encoder's own posteriors")
def vamp_prior(spec: Spec, latent: int, encoder: nn.Module, components: int) -> nn.Module:
    """Return a mixture of the encoder's posteriors at ``components`` pseudo-data."""
    return VampPrior.around(encoder, spec.mean, spec.std, components, Units.of(spec))


@PRIORS.enter("flow", "a learned flow")
def flow_prior(spec: Spec, latent: int, encoder: nn.Module, components: int) -> nn.Module:
    """Return a standard normal pushed through a flow."""
    return FlowPrior(latent)


def objective(spec: Spec, chosen: Objective, particles: int = 1) -> ELBO:
    """Return the objective with ``particles`` draws per datum.

    Raises:
        PairError: it cannot be made with so few draws, or it is ready-made and has its own.
    """
    if not isinstance(chosen, str):
        if particles != 1:
            raise PairError(
                f"particles {particles} does not apply to a ready-made objective, which has "
                f"{chosen.num_particles}; leave --particles out",
                unused="particles",
            )
        return chosen
    try:
        return OBJECTIVES[chosen](particles, spec.num_data)
    except ValueError as error:
        raise PairError(f"{error}; set --particles") from None


def posterior_head(latent: int, covariance: Covariance = "diagonal") -> Head:
    """Return the head of a Gaussian q(z | ...), or a ready-made one.

    Raises:
        PairError: a ready-made one is of another size.
    """
    head = COVARIANCES[covariance](latent) if isinstance(covariance, str) else covariance
    if head.features != latent:
        raise PairError(
            f"the head {type(head).__name__} has {head.features} features, and z has {latent} dimensions: "
            f"build it with {latent}"
        )
    return head


def _after_units(spec: Spec, body: nn.Module, context: int, scaling: Scaling) -> nn.Module:
    first = _units_first(spec, context, scaling)
    return nn.Sequential(*first, body) if first else body


def _units_first(spec: Spec, context: int, scaling: Scaling = "feature") -> list[nn.Module]:
    """Return the first layer of an encoder of data without natural units; ``context`` stays as it
    is.
    """
    units = Units.of(spec, scaling)
    if units is None:
        return []
    scale = units.scale
    if spec.image is not None and scaling == "feature":  # pixels that vary less are brought up, but not all the way
        scale = Standardize(spec.mean, spec.std).std
    return [_reader(units.loc, scale, behind=context)]


def _reader(loc: Tensor, scale: Tensor, before: int = 0, behind: int = 0) -> Standardize:
    around = (before, behind)
    return Standardize(F.pad(loc, around), F.pad(scale, around, value=1.0), floor=0.0)
