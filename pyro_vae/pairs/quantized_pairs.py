"""Pairs whose latent is a word of codes: VQ-VAE."""

from typing import Any, Literal

from pyro_vae.conditionals import CodebookPrior, Quantize
from pyro_vae.data import Spec
from pyro_vae.guides.latent import LatentGuide
from pyro_vae.models.latent import LatentModel
from pyro_vae.nets import Activation, GridDecoder, GridEncoder, MaskedLabels, grid_of
from pyro_vae.options import Count, Weight
from pyro_vae.pairs import factory as parts
from pyro_vae.pairs.likelihoods import Likelihood
from pyro_vae.pairs.likelihoods import likelihood as likelihood_of
from pyro_vae.pairs.nets import Net, image_of
from pyro_vae.pairs.registry import pair
from pyro_vae.program import Pair, PairError

Prior = Literal["uniform", "learned", "autoregressive"]


@pair
def quantized(
    spec: Spec,
    *,
    codes: Count = 32,
    places: Count | None = None,
    size: Count = 8,
    likelihood: Likelihood = "auto",
    prior: Prior = "learned",
    codebook: Literal["averages", "gradient"] = "averages",
    pull: Weight = 1.0,
    commitment: Weight = 0.25,
    net: Net = "mlp",
    hidden: list[Count] | None = None,
    activation: Activation | None = None,
) -> Pair:
    """The latent model whose z is a word of codes, the nearest to what the encoder says: VQ-VAE.

    q(z | x) is a point on a mass function, so its ELBO is a bound on log p(x).

    Args:
        codes: vectors in the codebook, at least 2.
        places: vectors that make up z; 8 for small data and 16 from a hundred features on. With
            convolutions there is one for every fourth row and column of the image.
        size: numbers in each vector.
        likelihood: p(x | z).
        prior: of the codes: all equally likely, with learned probabilities at each place, or each
            given those at the places before it, which is what makes samples worth looking at.
        codebook: learned as running averages of the encoder's outputs, or by gradient.
        pull: what the squared distance between outputs and codes weighs in training, in nats, times
            beta.
        commitment: the part of it that the encoder feels.
        net: multilayer perceptrons, or convolutions for images, whose codes lie on a grid.
        hidden: widths of the perceptrons' hidden layers, [500, 500] by default; the decoder has
            them in reverse.
        activation: of the nets; silu by default.
    """
    widths = parts.widths(hidden, net)
    shape: dict[str, Any] = {"activation": parts.activation(activation, net, widths)}
    places = _places(spec, places, net)
    p_z = _prior(spec, codes, places, size, prior, codebook)
    head = likelihood_of(spec, likelihood)
    if net == "conv":
        image = image_of(spec)
        net = (GridEncoder(image, size, **shape), GridDecoder(size, image, head.size, **shape))
    p_x = parts.decoder(spec, places * size, head, net=net, hidden=widths[::-1], **shape)
    q_z = Quantize(
        parts.to_numbers(spec, places * size, net=net, hidden=widths, **shape), p_z, pull=pull, commitment=commitment
    )
    return Pair(LatentModel(p_z, p_x), LatentGuide(q_z))


def _places(spec: Spec, asked: int | None, net: Net) -> int:
    """Return how many codes make up z.

    Raises:
        PairError: it is set for a net that has its own.
    """
    if net != "conv":
        return asked or (8 if spec.features < 100 else 16)
    height, width = grid_of(image_of(spec))
    if asked is not None:
        raise PairError(
            f"places {asked} cannot be chosen with convolutions, which make {height} x {width} of the image; "
            "leave --places out, or use --net mlp",
            unused="places",
        )
    return height * width


def _prior(spec: Spec, codes: int, places: int, size: int, prior: Prior, codebook: Any) -> CodebookPrior:
    net = MaskedLabels(places, codes) if prior == "autoregressive" else None
    kept: dict[str, Any] = {"learned": prior != "uniform", "codebook": codebook, "restart": max(1, spec.num_data)}
    try:
        return CodebookPrior(codes, places, size, net=net, **kept)
    except ValueError as error:
        raise PairError(str(error).rstrip(".")) from None
