"""Parts of pairs whose data are sequences."""

from torch import nn

from pyro_vae.data import Spec
from pyro_vae.nets import Standardize
from pyro_vae.pairs import factory as parts
from pyro_vae.pairs.units import Units
from pyro_vae.program import PairError


def step(spec: Spec) -> Spec:
    """Return the description of one step of a sequence.

    Raises:
        PairError: the data are no sequences.
    """
    if spec.sequence is None:
        raise PairError(
            f"this pair is of sequences, and {spec.name} has none; use chorales, sketches, pendulum or digit_rows, or give x "
            "of shape (data, steps, features) with a field 'lengths'"
        )
    return parts.items(spec, spec.sequence[0])[1]


def reader(one: Spec) -> nn.Module:
    """Return what brings x_t into units of its own; nothing where it has natural ones."""
    units = Units.of(one)
    return nn.Identity() if units is None else Standardize(units.loc, units.scale, floor=0.0)
