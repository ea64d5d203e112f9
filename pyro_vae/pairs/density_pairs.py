"""Pairs without latent variables: densities p(x), exact."""

from pyro_vae.conditionals import Density
from pyro_vae.data import Spec
from pyro_vae.guides.nothing import Nothing
from pyro_vae.models.density import DensityModel
from pyro_vae.nets import Activation
from pyro_vae.options import Count, Whole
from pyro_vae.pairs import factory as parts
from pyro_vae.pairs import masked
from pyro_vae.pairs.likelihoods import Likelihood
from pyro_vae.pairs.registry import pair
from pyro_vae.program import Pair


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
