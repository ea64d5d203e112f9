"""Likelihoods by name: the head of p(x | ...) for given data.

To add one, write its `pyro_vae.conditionals.Head` and register here a function that builds it from
the data's description.
"""

from typing import Annotated

from pyro_vae.conditionals import (
    Bernoulli,
    Categorical,
    Columns,
    ContinuousBernoulli,
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
    Head,
    NegativeBinomial,
    Normal,
    Poisson,
    Strokes,
    ZeroInflated,
)
from pyro_vae.data import DataNote, Spec
from pyro_vae.options import Registry, checked
from pyro_vae.pairs.units import InUnits, Scaling, Units, over_reals
from pyro_vae.program import PairError
from pyro_vae.warning import warn

LIKELIHOODS = Registry("likelihood")
PEN = 3  # features of a step of a pen
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
    if spec.categorical and isinstance(chosen, str):
        return _by_column(spec, chosen, scaling)
    head = LIKELIHOODS[chosen](spec) if isinstance(chosen, str) else chosen
    if head.features != spec.features:
        raise PairError(
            f"the likelihood {type(head).__name__} has {head.features} features, and x of {spec.name} has "
            f"{spec.features} here: build it with {spec.features}"
        )
    units = Units.of(spec, scaling)
    return head if units is None or isinstance(head, InUnits) or not over_reals(head) else InUnits(head, units)


def _by_column(spec: Spec, chosen: str, scaling: Scaling) -> Head:
    """Return the head of a table: the likelihood ``chosen`` of its numbers, and a categorical one of
    each column of categories.
    """
    if spec.numbers is None and chosen != "auto":
        raise PairError(
            f"likelihood {chosen} is that of columns of numbers, and {spec.name} has columns of categories alone; "
            "leave --likelihood out",
            unused="likelihood",
        )
    numbers = None if spec.numbers is None else likelihood(spec.numbers, chosen, scaling)
    return Columns(numbers, [len(column.categories) for column in spec.categorical])


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


def require_counts(spec: Spec, name: str) -> int:
    """Return the number of features of counts.

    Raises:
        PairError: x has other values than whole numbers from 0 on.
    """
    if not (spec.counts or spec.support == "binary"):
        scaled = spec.support == "levels"
        raise PairError(
            f"likelihood {name} needs counts 0, 1, 2, ..., and x of {spec.name} "
            + ("is scaled to [0, 1]; save counts as int64" if scaled else "has other values; use --likelihood normal")
        )
    return spec.features


@LIKELIHOODS.enter("auto", "bernoulli for binary data, strokes for steps of a pen, else normal")
def auto(spec: Spec) -> Head:
    """Return the usual head for such data."""
    if spec.counts:
        warn(
            f"x of {spec.name} is whole numbers from 0 on, for which likelihood auto is a Normal density; if they are "
            "counts, --likelihood negative-binomial or poisson gives them probabilities",
            DataNote,
        )
    if spec.support == "binary":
        return bernoulli(spec)
    return strokes(spec) if spec.strokes and spec.features == PEN else normal(spec)


@LIKELIHOODS.enter("bernoulli", "x is 0 or 1")
def bernoulli(spec: Spec) -> Head:
    """Return a Bernoulli for each feature."""
    return Bernoulli(spec.features)


@LIKELIHOODS.enter("strokes", "steps (dx, dy, pen up): a mixture of Gaussians for the move, a Bernoulli for the pen")
def strokes(spec: Spec) -> Head:
    """Return a `Strokes`, in units of the moves' deviations.

    Raises:
        PairError: the steps are no strokes.
    """
    if not spec.strokes or spec.features != PEN:
        raise PairError(
            f"likelihood strokes is of steps (dx, dy, pen up) with the pen at 0 or 1, and {spec.name} has "
            f"{'whole sequences of them' if spec.strokes else 'other features'} here; "
            f"use {'the pair sequence or markov' if spec.strokes else '--likelihood auto'}"
        )
    units = Units.of(spec)
    assert units is not None
    return Strokes(loc=units.loc[:2], unit=units.scale[:2])


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


@LIKELIHOODS.enter("poisson", "counts with the variance of their mean")
def poisson(spec: Spec) -> Head:
    """Return a Poisson for each feature."""
    return Poisson(require_counts(spec, "poisson"))


@LIKELIHOODS.enter("negative-binomial", "counts of any larger variance, learned for each feature")
def negative_binomial(spec: Spec) -> Head:
    """Return a negative binomial for each feature."""
    return NegativeBinomial(require_counts(spec, "negative-binomial"))


@LIKELIHOODS.enter("zero-inflated-poisson", "the same as poisson with extra zeros, their share predicted")
def zero_inflated_poisson(spec: Spec) -> Head:
    """Return a Poisson with extra zeros for each feature."""
    return ZeroInflated(Poisson(require_counts(spec, "zero-inflated-poisson")))


@LIKELIHOODS.enter("zero-inflated-negative-binomial", "the same as negative-binomial with extra zeros")
def zero_inflated_negative_binomial(spec: Spec) -> Head:
    """Return a negative binomial with extra zeros for each feature."""
    return ZeroInflated(NegativeBinomial(require_counts(spec, "zero-inflated-negative-binomial")))
