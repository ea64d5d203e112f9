"""Pairs that are mixtures: k -> x, with the posterior computed, hardened or learned."""

from typing import Literal

import torch
from pyro.infer import TraceEnum_ELBO
from torch import nn

from pyro_vae.conditionals import (
    BernoulliComponents,
    Covariance,
    Nearest,
    NormalComponents,
    OneHotLogits,
    Responsibilities,
    Weights,
)
from pyro_vae.data import Spec
from pyro_vae.guides.mixture import MixtureGuide
from pyro_vae.models.mixture import MixtureModel
from pyro_vae.options import Count, Fraction
from pyro_vae.pairs import factory as parts
from pyro_vae.pairs.registry import pair, takes_missing
from pyro_vae.pairs.units import Units
from pyro_vae.program import Pair, PairError


@takes_missing
@pair
def mixture(
    spec: Spec,
    *,
    components: Count = 10,
    posterior: Literal["exact", "nearest", "amortized"] = "exact",
    variance: Literal["shared", "component", "diagonal"] | None = None,
    weights: Literal["learned", "equal"] = "learned",
    floor: Fraction = 1e-2,
) -> Pair:
    """k -> x: a mixture of Gaussians, or of Bernoullis for binary x; k-means with --posterior nearest.

    Args:
        components: how many; they begin at random around the data's mean.
        posterior: q(k | x) exact, all on the nearest component (with --variance shared and --weights
            equal this is k-means), or that of a net with 200 hidden units.
        variance: of Gaussians: one shared by all, one for each component (the default), or one for
            each feature of each component.
        weights: p(k), learned or equal.
        floor: smallest standard deviation, as a share of the data's, without which a likelihood is
            unbounded; of Bernoullis, how near to 0 and 1 their probabilities go.
    """
    if components > spec.num_data:
        raise PairError(
            f"components {components} are more than the {spec.num_data:,} training data of {spec.name}, of which each "
            "would need one; lower --components"
        )
    p_k, p_x = Weights(components, learned=weights == "learned"), _components(spec, components, variance, floor)
    if posterior == "amortized":
        encoder: nn.Module = OneHotLogits(parts.to_numbers(spec, components, hidden=(200,)))
    else:
        encoder = (Responsibilities if posterior == "exact" else Nearest)(p_k, p_x)
    return Pair(MixtureModel(p_k, p_x), MixtureGuide(encoder), TraceEnum_ELBO(max_plate_nesting=1))


def _components(spec: Spec, components: int, variance: Covariance | None, floor: float) -> nn.Module:
    """Return p(x | k), the components at random around the data's mean."""
    noise = torch.randn(components, spec.features)
    if spec.support == "binary":
        if variance is not None:
            raise PairError(
                f"variance {variance} is one of Gaussians, and x of {spec.name} is binary, of which components are "
                "Bernoulli; leave --variance out",
                unused="variance",
            )
        return BernoulliComponents(torch.sigmoid(torch.logit(spec.mean.clamp(0.01, 0.99)) + noise), floor=floor)
    units = Units.of(spec, "feature" if variance == "diagonal" else "common")
    std, mean = (spec.std, spec.mean) if units is None else (spec.std / units.scale, torch.zeros(spec.features))
    spread = std.square().mean().sqrt().clamp_min(1e-6).item()
    return NormalComponents(
        mean + std * noise, spread, covariance=variance or "component", floor=floor * spread, unit=units
    )
