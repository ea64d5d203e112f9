"""Reversible pairs: a flow as p(x), of real values or, by their cells, of levels."""

from typing import Literal

from pyro_vae.conditionals import CellsPrior, Conditional, Dequantize, Flow, FlowPrior, Rounding, Stretched
from pyro_vae.data import Spec
from pyro_vae.guides.latent import LatentGuide
from pyro_vae.guides.nothing import Nothing
from pyro_vae.models.density import DensityModel
from pyro_vae.models.latent import LatentModel
from pyro_vae.options import Count
from pyro_vae.pairs import factory as parts
from pyro_vae.pairs.registry import pair
from pyro_vae.pairs.units import Units
from pyro_vae.program import Pair, PairError

Kind = Literal["spline_autoregressive", "spline_coupling", "autoregressive", "coupling"]


@pair
def reversible(
    spec: Spec,
    *,
    kind: Kind = "spline_autoregressive",
    layers: Count = 2,
    hidden: list[Count] = [256],  # noqa: B006 (read only; jsonargparse shows it)
    dequantization: Literal["learned", "uniform"] | None = None,
) -> Pair:
    """A flow as p(x): exact for real x; of levels, which get the mass of their cells, a bound.

    On levels and binary data z is a point in the cell of x, and the ELBO a bound on log P(x) that
    compares with other discrete likelihoods.

    Args:
        kind: of the transforms. The density costs one pass of each; so does a draw by couplings,
            and one by an autoregressive kind as many as there are features.
        layers: how many transforms.
        hidden: widths of the hidden layers of each transform's net; of an autoregressive kind as
            many as there are features at least.
        dequantization: of levels, where in its cell z is: learned, by a flow given x, by default;
            or uniform.
    """
    try:
        flow = FlowPrior(spec.features, kind, layers=layers, hidden=tuple(hidden))
    except ValueError as error:
        raise PairError(str(error).rstrip(".")) from None
    levels = 2 if spec.support == "binary" else spec.levels
    if levels is None:
        if dequantization is not None:
            raise PairError(
                f"dequantization {dequantization} is of data on levels, and {spec.name} is {spec.support}; "
                "leave --dequantization out, or, where x holds whole numbers, load it with --levels",
                unused="dequantization",
            )
        units = Units.of(spec)
        assert units is not None  # of real data
        return Pair(DensityModel(Stretched(flow, units.loc, units.scale)), Nothing())
    inner = None if dequantization == "uniform" else _within_cell(spec)
    model = LatentModel(CellsPrior.around(flow, levels, spec.mean, spec.std), Rounding(spec.features, levels))
    return Pair(model, LatentGuide(Dequantize(levels, inner)))


def _within_cell(spec: Spec) -> Conditional:
    """Return q(e | x) of where in its cell z is: a flow that any value has a density under."""
    return parts.encoder(spec, Flow(spec.features, "coupling", layers=2, hidden=(128,)), hidden=(200,))
