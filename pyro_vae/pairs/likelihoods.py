"""Likelihoods by name: the head of p(x | ...) for given data.

To add one, write its `pyro_vae.conditionals.Head` and register here a function that builds it from
the data's description.
"""

from typing import Annotated

from pyro_vae.conditionals import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
    Head,
    Normal,
)
from pyro_vae.data import Spec
from pyro_vae.options import Registry, checked
from pyro_vae.pairs.units import InUnits, Scaling, Units, over_reals
from pyro_vae.program import PairError

LIKELIHOODS = Registry("likelihood")
Likelihood = Annotated[str | Head, LIKELIHOODS]


@checked(PairError)
def likelihood(spec: Spec, chosen: Likelihood = "auto", scaling: Scaling = "feature") -> Head:
    """Return the head of p(x | ...), in the data's units.

    Args:
        spec: describes x.
        chosen: a name in ``LIKELIHOODS``, or a head over as many features.
        scaling: of real x: see `pyro_vae.pairs.Units`.

    Raises:
        PairError: there is no such likelihood, or it does not suit the data.
    """
    head = LIKELIHOODS[chosen](spec) if isinstance(chosen, str) else chosen
    if head.features != spec.features:
        raise PairError(
            f"the likelihood {type(head).__name__} has {head.features} features, and x of {spec.name} has "
            f"{spec.features} here: build it with {spec.features}"
        )
    units = Units.of(spec, scaling)
    return head if units is None or isinstance(head, InUnits) or not over_reals(head) else InUnits(head, units)


def levels_of(spec: Spec, name: str) -> int:
    """Return the number of levels of x.

    Raises:
        PairError: the data are not on levels.
    """
    if spec.levels is None:
        raise PairError(
            f"likelihood {name} needs data on equally spaced levels, and {spec.name} is {spec.support}; "
            f"use --likelihood {'bernoulli' if spec.support == 'binary' else 'normal'}"
        )
    return spec.levels


@LIKELIHOODS.enter("auto", "bernoulli for binary data, else normal")
def auto(spec: Spec) -> Head:
    """Return the usual head for such data."""
    return bernoulli(spec) if spec.support == "binary" else normal(spec)


@LIKELIHOODS.enter("bernoulli", "x is 0 or 1")
def bernoulli(spec: Spec) -> Head:
    """Return a Bernoulli for each feature."""
    return Bernoulli(spec.features)


@LIKELIHOODS.enter("normal", "real x, one learned scale (of a table: in units of each feature's deviation)")
def normal(spec: Spec) -> Head:
    """Return a Normal with one learned scale."""
    return Normal(spec.features, "learned")


@LIKELIHOODS.enter("normal-per-feature", "real x, a learned scale for each feature")
def normal_per_feature(spec: Spec) -> Head:
    """Return a Normal with a learned scale for each feature."""
    return Normal(spec.features, "per_feature")


@LIKELIHOODS.enter("normal-predicted", "real x, scales predicted for each datum and feature")
def normal_predicted(spec: Spec) -> Head:
    """Return a Normal whose scales the decoder predicts."""
    return Normal(spec.features, "predicted")


@LIKELIHOODS.enter("continuous-bernoulli", "x between 0 and 1")
def continuous_bernoulli(spec: Spec) -> Head:
    """Return a continuous Bernoulli for each feature."""
    return ContinuousBernoulli(spec.features)


@LIKELIHOODS.enter("discretized-logistic", "x on levels: a logistic variable, rounded")
def discretized_logistic(spec: Spec) -> Head:
    """Return a discretized logistic for each feature."""
    return DiscretizedLogistic(spec.features, levels_of(spec, "discretized-logistic"))


@LIKELIHOODS.enter("logistic-mixture", "x on levels: a mixture of five of these")
def logistic_mixture(spec: Spec) -> Head:
    """Return a mixture of discretized logistics for each feature."""
    return DiscretizedLogisticMixture(spec.features, levels_of(spec, "logistic-mixture"))


@LIKELIHOODS.enter("categorical", "x on levels: a free probability for each")
def categorical(spec: Spec) -> Head:
    """Return a categorical over the levels for each feature."""
    return Categorical(spec.features, levels_of(spec, "categorical"), highest=1.0)
