"""Pairs of one latent vector per datum: z -> x."""

from typing import Any, Literal

from pyro_vae.conditionals import Flow, Kind, PointMass, StandardNormal
from pyro_vae.data import Spec
from pyro_vae.guides.latent import LatentGuide
from pyro_vae.models.latent import LatentModel
from pyro_vae.nets import Activation
from pyro_vae.options import Count
from pyro_vae.pairs import factory as parts
from pyro_vae.pairs import masked
from pyro_vae.pairs.likelihoods import Likelihood
from pyro_vae.pairs.likelihoods import likelihood as likelihood_of
from pyro_vae.pairs.nets import Net
from pyro_vae.pairs.registry import pair
from pyro_vae.program import Pair


@pair
def latent(
    spec: Spec,
    *,
    latent: Count | None = None,
    likelihood: Likelihood = "auto",
    prior: parts.Prior = "normal",
    components: Count | None = None,
    covariance: parts.Covariance = "diagonal",
    net: Net = "mlp",
    hidden: list[Count] | None = None,
    activation: Activation | None = None,
    decoder: Literal["independent", "autoregressive"] = "independent",
    field: Count | None = None,
    objective: parts.Objective = "elbo",
    particles: Count = 1,
) -> Pair:
    """The variational autoencoder: z -> x, with an encoder for q(z | x).

    Args:
        latent: size of z; 10 for small data and 40 from a hundred features on.
        likelihood: p(x | z); auto is Bernoulli for binary data, else Normal with one learned scale.
        prior: p(z); standard normal, or learned (mixture of Gaussians, of the encoder's posteriors,
            or a flow).
        components: of a mixture or vamp prior; 100 by default.
        covariance: of the Gaussian q(z | x).
        net: multilayer perceptrons, or convolutions for images.
        hidden: widths of the perceptrons' hidden layers, [500, 500] by default; the decoder has
            them in reverse.
        activation: of the nets; silu by default, relu in masked ones.
        decoder: features of x independent given z, or each given z and those before it (PixelVAE;
            masked perceptrons, or a PixelCNN with --net conv). Its likelihood auto is that of the
            pair autoregressive. Such a decoder can do without z: see --field and --free-bits.
        field: how far before itself a feature of an autoregressive decoder sees, in pixels or
            places; what lies farther is for z to say. By default as in the pair autoregressive.
        objective: what training maximises; see pyro_vae.objectives.registry.
        particles: draws per datum that the objective takes.
    """
    size = parts.latent_size(spec, latent)
    widths = parts.widths(hidden, net)
    nets: dict[str, Any] = {"net": net, "activation": parts.activation(activation, net, widths)}
    if decoder == "autoregressive":
        head = masked.given_codes(spec, likelihood, net, hidden, activation, field)
    else:
        head = likelihood_of(spec, likelihood)
        masked.refuse_field(field)
    p_x = parts.decoder(spec, size, head, hidden=widths[::-1], **nets)
    q_z = parts.encoder(spec, parts.posterior_head(size, covariance), hidden=widths, **nets)
    p_z = parts.prior(spec, prior, size, q_z, components)
    return Pair(LatentModel(p_z, p_x), LatentGuide(q_z), parts.objective(spec, objective, particles))


@pair
def flow(
    spec: Spec,
    *,
    latent: Count | None = None,
    likelihood: Likelihood = "auto",
    kind: Kind = "autoregressive",
    layers: Count = 4,
    hidden: list[Count] = [500, 500],  # noqa: B006 (read only; jsonargparse shows it)
    objective: parts.Objective = "elbo",
    particles: Count = 1,
) -> Pair:
    """The latent model with a flow for q(z | x), which can bend where a Gaussian cannot.

    Args:
        latent: size of z; 10 for small data and 40 from a hundred features on.
        likelihood: p(x | z).
        kind: of the transforms; see pyro_vae.conditionals.flows.
        layers: how many transforms.
        hidden: widths of the hidden layers.
        objective: what training maximises.
        particles: draws per datum that the objective takes.
    """
    size = parts.latent_size(spec, latent)
    p_x = parts.decoder(spec, size, likelihood_of(spec, likelihood), hidden=tuple(hidden[::-1]))
    q_z = parts.encoder(spec, Flow(size, kind, layers=layers), hidden=tuple(hidden))
    model = LatentModel(StandardNormal(size), p_x)
    return Pair(model, LatentGuide(q_z), parts.objective(spec, objective, particles))


@pair
def autoencoder(
    spec: Spec,
    *,
    latent: Count | None = None,
    likelihood: Likelihood = "auto",
    hidden: list[Count] = [500, 500],  # noqa: B006
) -> Pair:
    """The latent model with a point for q(z | x): the deterministic limit; PCA with --hidden [].

    Its "elbo" is log p(x, z) at that point, the point's (infinite) entropy left out: not a bound on
    log p(x).

    Args:
        latent: size of z; 10 for small data and 40 from a hundred features on.
        likelihood: p(x | z).
        hidden: widths of the hidden layers; [] for linear nets.
    """
    size = parts.latent_size(spec, latent)
    p_x = parts.decoder(spec, size, likelihood_of(spec, likelihood), hidden=tuple(hidden[::-1]))
    q_z = parts.encoder(spec, PointMass(size), hidden=tuple(hidden))
    return Pair(LatentModel(StandardNormal(size), p_x), LatentGuide(q_z))
