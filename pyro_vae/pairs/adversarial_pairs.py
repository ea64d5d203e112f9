"""Pairs of a generator and its critic: models that are known by their draws alone."""

from typing import Any

from pyro_vae.conditionals import BinaryDraws, Draws, Head, LevelDraws, StandardNormal
from pyro_vae.data import Spec
from pyro_vae.guides.critic import Critic
from pyro_vae.models.latent import LatentModel
from pyro_vae.nets import Activation
from pyro_vae.objectives import Adversarial
from pyro_vae.options import Count, Weight
from pyro_vae.pairs import factory as parts
from pyro_vae.pairs.nets import Net
from pyro_vae.pairs.registry import pair
from pyro_vae.pairs.units import InUnits, Units
from pyro_vae.program import Pair, PairError


@pair
def adversarial(
    spec: Spec,
    *,
    latent: Count | None = None,
    net: Net = "mlp",
    hidden: list[Count] | None = None,
    activation: Activation | None = None,
    penalty: Weight = 3.0,
) -> Pair:
    """z -> x without a density (GAN): a generator, and a critic that tells its draws from data.

    Args:
        latent: size of z; 10 for small data and 40 from a hundred features on.
        net: multilayer perceptrons, or convolutions for images.
        hidden: widths of the perceptrons' hidden layers, [256, 128] by default; the generator has
            them in reverse.
        activation: of the nets; silu by default.
        penalty: on the slope of the critic (R1), which keeps it from learning the data by heart and
            the generator from losing its way; 0 for none.
    """
    if "mask" in spec.fields or "seen" in spec.fields:
        what = "sequences of different lengths" if "mask" in spec.fields else "data of which entries are missing"
        raise PairError(f"a critic compares whole x, and {spec.name} holds {what}; use another pair")
    size = parts.latent_size(spec, latent)
    widths = (256, 128) if hidden is None and net == "mlp" else parts.widths(hidden, net)
    shape: dict[str, Any] = {"net": net, "activation": parts.activation(activation, net, widths)}
    generator = parts.decoder(spec, size, _draws(spec), hidden=widths[::-1], **shape)
    critic = parts.to_numbers(spec, 1, hidden=widths, **shape)
    return Pair(LatentModel(StandardNormal(size), generator), Critic(critic), Adversarial(penalty))


def _draws(spec: Spec) -> Head:
    """Return the head whose draws lie where x does."""
    if spec.support == "binary":
        return BinaryDraws(spec.features)
    if spec.levels is not None:
        return LevelDraws(spec.features, spec.levels)
    units = Units.of(spec)
    return Draws(spec.features) if units is None else InUnits(Draws(spec.features), units)
