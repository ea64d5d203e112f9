"""Pairs without latent variables: densities p(x), exact or known up to a constant."""

from typing import Literal

from pyro_vae.conditionals import Boltzmann, ContrastiveBoltzmann, Density, PersistentBoltzmann
from pyro_vae.data import Spec
from pyro_vae.distributions import MOST_UNITS
from pyro_vae.guides.nothing import Nothing
from pyro_vae.models.density import DensityModel
from pyro_vae.nets import Activation
from pyro_vae.objectives import FreeEnergyContrast
from pyro_vae.options import Count, Whole
from pyro_vae.pairs import factory as parts
from pyro_vae.pairs import masked
from pyro_vae.pairs.likelihoods import Likelihood
from pyro_vae.pairs.registry import pair
from pyro_vae.program import Pair, PairError


@pair
def autoregressive(
    spec: Spec,
    *,
    likelihood: Likelihood = "auto",
    net: masked.MaskedKind = "made",
    order: masked.Order = "raster",
    order_seed: Whole | None = None,
    field: Count | None = None,
    hidden: list[Count] | None = None,
    activation: Activation | None = None,
) -> Pair:
    """p(x) itself, one feature after the other: no latent variable, and log p(x) is exact.

    Args:
        likelihood: of a feature given those before it; auto is Bernoulli for binary data,
            categorical for up to 32 levels, a logistic mixture for more, else Normal with a
            predicted scale.
        net: a masked perceptron (MADE), or masked convolutions for images (PixelCNN).
        order: in which features are drawn: raster (row by row), random, or all their numbers.
        order_seed: of a random order; 0 by default.
        field: how far before itself a feature sees, in pixels down and across or, in a table, in
            places of the order; by default a MADE sees everything, a PixelCNN what its layers do.
        hidden: widths of the MADE's hidden layers, [500] by default; or channels of the PixelCNN's
            layers, [32, 32, 32, 32, 32] by default.
        activation: of the net; relu by default.
    """
    widths = masked.widths(hidden, net)
    head = masked.autoregressive(
        spec,
        likelihood,
        net=net,
        hidden=widths,
        activation="relu" if activation is None else parts.activation(activation, "mlp", widths),
        order=masked.order_of(spec, order, order_seed, net),
        field=field,
    )
    return Pair(DensityModel(Density(head, spec.mean, spec.std)), Nothing())


@pair
def boltzmann(
    spec: Spec,
    *,
    units: Count = 100,
    gradient: Literal["auto", "exact", "persistent", "divergence"] = "auto",
    gibbs: Count | None = None,
    chains: Count | None = None,
) -> Pair:
    """p(x) of a restricted Boltzmann machine, for binary x: exact if small, else by persistent chains.

    Args:
        units: hidden ones.
        gradient: of log Z: exact, a sum over all states, for up to 14 units on the smaller side;
            persistent, from chains that go on from step to step; divergence, from a few steps from
            the data, which is biased. auto is exact where it can be, else persistent. Without the
            exact one log p(x) is known only after annealing, which evaluate does.
        gibbs: steps of Gibbs sampling for each gradient by chains; 1 by default.
        chains: persistent ones; 128 by default.
    """
    if spec.support != "binary":
        raise PairError(
            f"a Boltzmann machine has binary units, and x of {spec.name} is {spec.support}: load the data with "
            "--binarize dynamic, or use the pair autoregressive"
        )
    smaller = min(units, spec.features)
    if gradient == "auto":
        gradient = "exact" if smaller <= MOST_UNITS else "persistent"
    for name, value, kinds in (("gibbs", gibbs, ("persistent", "divergence")), ("chains", chains, ("persistent",))):
        if value is not None and gradient not in kinds:
            raise PairError(
                f"{name} {value} is for --gradient {' or '.join(kinds)}, and here it is {gradient}; leave --{name} out",
                unused=name,
            )
    if gradient == "exact" and smaller > MOST_UNITS:
        raise PairError(
            f"an exact gradient sums over all states of {smaller} units, and can for up to {MOST_UNITS}; lower --units, or "
            "use --gradient persistent"
        )
    if gradient == "exact":
        return Pair(DensityModel(Boltzmann(spec.mean, units)), Nothing())
    density = (
        ContrastiveBoltzmann(spec.mean, units, steps=gibbs or 1)
        if gradient == "divergence"
        else PersistentBoltzmann(spec.mean, units, steps=gibbs or 1, chains=chains or 128)
    )
    return Pair(DensityModel(density), Nothing(), FreeEnergyContrast())
