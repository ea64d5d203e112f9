"""Pairs that infer classes y of which few are known: y, z -> x."""

from typing import Annotated, Literal

from pyro.infer import TraceEnum_ELBO
from torch import nn

from pyro_vae.conditionals import Normal, StandardNormal
from pyro_vae.data import Spec
from pyro_vae.guides.semi_supervised import SemiSupervisedGuide
from pyro_vae.models.semi_supervised import SemiSupervisedModel
from pyro_vae.nets import OneHot
from pyro_vae.options import Count, Fraction, Weight
from pyro_vae.pairs import factory as parts
from pyro_vae.pairs.likelihoods import Likelihood
from pyro_vae.pairs.likelihoods import likelihood as likelihood_of
from pyro_vae.pairs.nets import NETS
from pyro_vae.pairs.registry import pair
from pyro_vae.pairs.units import Scaling
from pyro_vae.program import Pair


@pair
def semi_supervised(
    spec: Spec,
    *,
    latent: Count | None = None,
    likelihood: Likelihood = "auto",
    weight: Weight = 50.0,
    classes: Literal["enumerated", "drawn"] = "enumerated",
    classifier: Annotated[str | nn.Module, NETS] = "mlp",
    dropout: Fraction = 0.0,
    scaling: Scaling | None = None,
    hidden: list[Count] = [200, 200],  # noqa: B006
) -> Pair:
    """y, z -> x: classes y known for few data (--labels 100), inferred for the others.

    Args:
        latent: size of z; 10 for small data and 40 from a hundred features on.
        likelihood: p(x | z, y).
        weight: of the auxiliary classification term on labelled data.
        classes: y summed over exactly, or drawn.
        classifier: net of q(y | x): mlp, or conv for images.
        dropout: probability, in the hidden layers of q(y | x).
        scaling: of real x in p and q: each feature by its own deviation (the default), or all by a
            common one, so that features that vary little stay small, as the codes of M1+M2 should.
        hidden: widths of the perceptrons' hidden layers.
    """
    size, known, scaling = parts.latent_size(spec, latent), parts.classes(spec), parts.scaling(spec, scaling)
    head = likelihood_of(spec, likelihood, scaling)
    p_x = parts.decoder(spec, size + known, head, hidden=tuple(hidden[::-1]))
    logits = parts.to_numbers(spec, known, net=classifier, hidden=tuple(hidden), dropout=dropout, scaling=scaling)
    reader = parts.up(spec, hidden=tuple(hidden[:1]), scaling=scaling)
    q_z = parts.between(parts.first(hidden) + known, Normal(size), hidden=tuple(hidden[1:]))
    enumerated = classes == "enumerated"
    guide = SemiSupervisedGuide(OneHot(known), logits, reader, q_z, weight=weight, enumerate_y=enumerated)
    objective = TraceEnum_ELBO(max_plate_nesting=1) if enumerated else parts.objective(spec, "elbo")
    return Pair(SemiSupervisedModel(known, StandardNormal(size), p_x), guide, objective)
