"""Pairs of sequences whose states form a Markov chain: z_1 -> z_2 -> ..., z_t -> x_t."""

from typing import Literal

import torch
from torch import nn

from pyro_vae.conditionals import (
    EachStep,
    GatedMove,
    LinearEmission,
    LinearMove,
    LinearSmoother,
    PathEncoder,
    PathPrior,
    TableMove,
    TableSmoother,
)
from pyro_vae.data import Spec
from pyro_vae.guides.markov import MarkovGuide
from pyro_vae.models.markov import MarkovModel
from pyro_vae.nets import RecurrentNet
from pyro_vae.options import Count
from pyro_vae.pairs import factory as parts
from pyro_vae.pairs import sequences
from pyro_vae.pairs.likelihoods import Likelihood
from pyro_vae.pairs.likelihoods import likelihood as likelihood_of
from pyro_vae.pairs.registry import pair
from pyro_vae.pairs.units import Units
from pyro_vae.program import Pair, PairError

Transition = Literal["gated", "linear", "table"]
Posterior = Literal["smoother", "filter", "mean-field", "exact"]


@pair
def markov(
    spec: Spec,
    *,
    transition: Transition = "gated",
    posterior: Posterior | None = None,
    latent: Count | None = None,
    likelihood: Likelihood = "auto",
    hidden: Count | None = None,
    objective: parts.Objective = "elbo",
    particles: Count = 1,
) -> Pair:
    """z_1 -> z_2 -> ..., z_t -> x_t: a sequence whose states are a Markov chain.

    Args:
        transition: p(z_t | z_(t-1)) is gated, by a net (a deep Markov model); linear and Gaussian,
            as is then p(x_t | z_t) (a linear state space); or a table of states (a hidden Markov
            model).
        posterior: q(z | x) is a smoother, which sees all of x; a filter, whose state at a step
            sees x up to there; a mean-field, of independent states; or exact, for linear and table,
            which is their default.
        latent: size of z_t, or number of states; 10 for small steps and 40 from a hundred features
            on.
        likelihood: p(x_t | z_t); of a linear chain Normal, a scale per feature.
        hidden: width of the nets' layers; 64 by default.
        objective: what training maximises.
        particles: draws per sequence that the objective takes.
    """
    one = sequences.step(spec)
    size = parts.latent_size(one, latent)
    form = posterior or ("smoother" if transition == "gated" else "exact")
    _refuse(spec, transition, form)
    _refuse_unused(transition, form, likelihood, hidden, particles if objective == "elbo" else 1)
    width = 64 if hidden is None else hidden
    emission = _emission(one, transition, likelihood, size, width)
    move = {
        "gated": lambda: GatedMove(size, width),
        "linear": lambda: LinearMove(size),
        "table": lambda: TableMove(size),
    }
    prior = PathPrior(move[transition]())
    model = MarkovModel(one.features, prior, EachStep(emission, size))
    encoder = _encoder(one, form, prior.transition, emission, size, width)
    return Pair(model, MarkovGuide(one.features, encoder), parts.objective(spec, objective, particles))


def _refuse(spec: Spec, transition: Transition, form: Posterior) -> None:
    """Refuse parts that do not fit each other.

    Raises:
        PairError: they do not.
    """
    if transition == "gated" and form == "exact":
        raise PairError(
            "posterior exact has no formula where a net gives the transition; use --posterior smoother, or "
            "--transition linear or table"
        )
    if transition == "table" and form != "exact":
        raise PairError(
            f"posterior {form} is of real states, and --transition table has states that are counted; "
            "leave --posterior out, or use --transition gated or linear"
        )
    if transition == "linear" and spec.support == "binary":
        raise PairError(
            f"transition linear is of real x with Gaussian noise, and {spec.name} is binary; use --transition gated"
        )


def _refuse_unused(
    transition: Transition, form: Posterior, likelihood: Likelihood, hidden: int | None, particles: int
) -> None:
    """Refuse options that change nothing beside the others; ``particles`` are those of the ELBO.

    Raises:
        PairError: with the option's name.
    """
    if transition == "linear" and likelihood != "auto":
        raise PairError(
            f"likelihood {likelihood} does not apply to --transition linear, whose x is Normal, a scale per "
            "feature; leave --likelihood out",
            unused="likelihood",
        )
    if form == "exact" and transition == "linear" and hidden is not None:
        raise PairError(
            f"hidden {hidden} is the width of nets, and a linear transition with its exact posterior has none; "
            "leave --hidden out",
            unused="hidden",
        )
    if form == "exact" and particles > 1:
        raise PairError(
            f"particles {particles} give what one gives, since the posterior is exact and log p(x, z) - log q(z | x) the "
            "same for every draw; leave --particles out",
            unused="particles",
        )


def _emission(one: Spec, transition: Transition, likelihood: Likelihood, size: int, width: int) -> nn.Module:
    if transition == "linear":
        units = Units.of(one)
        unit = torch.ones(one.features) if units is None else units.scale
        return LinearEmission(size, one.mean, unit)
    return parts.decoder(one, size, likelihood_of(one, likelihood), hidden=(width,))


def _encoder(
    one: Spec, form: Posterior, transition: nn.Module, emission: nn.Module, size: int, width: int
) -> nn.Module:
    if isinstance(transition, TableMove):
        return TableSmoother(transition, emission)
    if form == "exact":
        assert isinstance(transition, LinearMove)
        assert isinstance(emission, LinearEmission)
        return LinearSmoother(transition, emission)
    outputs = 2 * size if form == "mean-field" else 3 * size
    net = RecurrentNet(one.features, outputs, width, both=form != "filter")
    return PathEncoder(net, size, sequences.reader(one))
