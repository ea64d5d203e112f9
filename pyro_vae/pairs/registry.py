"""The zoo: a function a variant, each building its model and its guide from finished parts.

Every function takes the description of the data and its own options; the command line reads both from here.
"""

import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pyro.infer import TraceEnum_ELBO
from torch import nn

from pyro_vae.conditionals import FixedPrior, Flow, Kind, Normal, PointMass, StandardNormal
from pyro_vae.data import Spec
from pyro_vae.guides.bottom_up import BottomUpGuide
from pyro_vae.guides.conditional import ConditionalGuide
from pyro_vae.guides.grouped import GroupedGuide
from pyro_vae.guides.hierarchical import HierarchicalGuide
from pyro_vae.guides.latent import LatentGuide
from pyro_vae.guides.linear import LinearGuide
from pyro_vae.guides.semi_amortized import SemiAmortizedGuide
from pyro_vae.guides.semi_supervised import SemiSupervisedGuide
from pyro_vae.models.conditional import ConditionalModel
from pyro_vae.models.grouped import GroupedModel
from pyro_vae.models.hierarchical import HierarchicalModel
from pyro_vae.models.latent import LatentModel
from pyro_vae.models.linear import LinearModel
from pyro_vae.models.semi_supervised import SemiSupervisedModel
from pyro_vae.models.structured import StructuredModel
from pyro_vae.nets import Activation, OneHot
from pyro_vae.options import Count, Fraction, Positive, Weight, Whole, checked, is_plain, suggestion, unknown
from pyro_vae.pairs import factory as parts
from pyro_vae.pairs.likelihoods import Likelihood
from pyro_vae.pairs.likelihoods import likelihood as likelihood_of
from pyro_vae.pairs.nets import NETS, Net
from pyro_vae.pairs.units import Scaling, Units
from pyro_vae.program import Pair, PairError

Builder = Callable[..., Pair]
PAIRS: dict[str, Builder] = {}


def recorded(name: str, build: Builder) -> Builder:
    """Let the pairs that ``build`` returns remember the name and options that they were built with.

    A pair with ready-made parts remembers nothing: only the program that made them can build it anew.
    """

    @functools.wraps(build)
    def built(spec: Spec, *args: Any, **options: Any) -> Pair:
        pair = build(spec, *args, **options)
        if not isinstance(pair, Pair):
            raise PairError(
                f"{name} returned {type(pair).__name__}, not a Pair; end it with `return Pair(model, guide)`"
            )
        told = not args and all(map(is_plain, options.values()))
        return replace(pair, recipe={"name": name, "options": options}) if told else pair

    return built


def pair(build: Builder) -> Builder:
    """Enter a function into the zoo under its own name; its options are checked against its annotations."""
    PAIRS[build.__name__] = checked(PairError)(recorded(build.__name__, build))
    return PAIRS[build.__name__]


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
    objective: parts.Objective = "elbo",
    particles: Count = 1,
) -> Pair:
    """The variational autoencoder: z -> x, with an encoder for q(z | x).

    Args:
        latent: size of z; 10 for small data and 40 from a hundred features on.
        likelihood: p(x | z); auto is Bernoulli for binary data, else Normal with one learned scale.
        prior: p(z); standard normal, or learned (mixture of Gaussians, of the encoder's posteriors, or a flow).
        components: of a mixture or vamp prior; 100 by default.
        covariance: of the Gaussian q(z | x).
        net: multilayer perceptrons, or convolutions for images.
        hidden: widths of the perceptrons' hidden layers, [500, 500] by default; the decoder has them in reverse.
        activation: of the nets; silu by default.
        objective: what training maximises; see pyro_vae.objectives.registry.
        particles: draws a datum that the objective takes.
    """
    size = parts.latent_size(spec, latent)
    widths = parts.widths(hidden, net)
    nets: dict[str, Any] = {"net": net, "activation": parts.activation(activation, net, widths)}
    p_x = parts.decoder(spec, size, likelihood_of(spec, likelihood), hidden=widths[::-1], **nets)
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
        particles: draws a datum that the objective takes.
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
    """The latent model with a point for q(z | x): the deterministic limit, and with --hidden [] PCA.

    Its "elbo" is log p(x, z) at that point, the point's (infinite) entropy left out: no bound on log p(x).

    Args:
        latent: size of z; 10 for small data and 40 from a hundred features on.
        likelihood: p(x | z).
        hidden: widths of the hidden layers; [] for linear nets.
    """
    size = parts.latent_size(spec, latent)
    p_x = parts.decoder(spec, size, likelihood_of(spec, likelihood), hidden=tuple(hidden[::-1]))
    q_z = parts.encoder(spec, PointMass(size), hidden=tuple(hidden))
    return Pair(LatentModel(StandardNormal(size), p_x), LatentGuide(q_z))


@pair
def conditional(
    spec: Spec,
    *,
    latent: Count | None = None,
    likelihood: Likelihood = "auto",
    prior: Literal["fixed", "learned"] | nn.Module = "fixed",
    hidden: list[Count] = [500, 500],  # noqa: B006
    objective: parts.Objective = "elbo",
    particles: Count = 1,
) -> Pair:
    """z, y -> x: given class labels or attributes y, with an encoder for q(z | x, y).

    Args:
        latent: size of z; 10 for small data and 40 from a hundred features on.
        likelihood: p(x | z, y).
        prior: p(z | y); fixed is standard normal whatever y, learned a Gaussian for each y.
        hidden: widths of the hidden layers.
        objective: what training maximises.
        particles: draws a datum that the objective takes.
    """
    size = parts.latent_size(spec, latent)
    embed, width = parts.condition(spec)
    if isinstance(prior, nn.Module):
        p_z = parts.fitting_prior(prior, size, torch.zeros(1, width))
    elif prior == "learned":
        p_z = parts.between(width, Normal(size), hidden=(), start=True)
    else:
        p_z = FixedPrior(StandardNormal(size))
    p_x = parts.decoder(spec, size + width, likelihood_of(spec, likelihood), hidden=tuple(hidden[::-1]))
    q_z = parts.encoder(spec, Normal(size), context=width, hidden=tuple(hidden))
    model, guide = ConditionalModel(embed, p_z, p_x), ConditionalGuide(embed, q_z)
    return Pair(model, guide, parts.objective(spec, objective, particles))


@pair
def attribute(
    spec: Spec,
    *,
    latent: Count | None = None,
    likelihood: Likelihood = "auto",
    hidden: list[Count] = [500, 500],  # noqa: B006
    objective: parts.Objective = "elbo",
    particles: Count = 1,
) -> Pair:
    """z, y -> x with an encoder for q(z | x) that is not told y: decode a datum's z with another y to edit it.

    Args:
        latent: size of z; 10 for small data and 40 from a hundred features on.
        likelihood: p(x | z, y).
        hidden: widths of the hidden layers.
        objective: what training maximises.
        particles: draws a datum that the objective takes.
    """
    size = parts.latent_size(spec, latent)
    embed, width = parts.condition(spec)
    p_x = parts.decoder(spec, size + width, likelihood_of(spec, likelihood), hidden=tuple(hidden[::-1]))
    q_z = parts.encoder(spec, Normal(size), hidden=tuple(hidden))
    model = ConditionalModel(embed, FixedPrior(StandardNormal(size)), p_x)
    return Pair(model, LatentGuide(q_z), parts.objective(spec, objective, particles))


@pair
def hierarchical(
    spec: Spec,
    *,
    latent: list[Count] | None = None,
    likelihood: Likelihood = "auto",
    guide: Literal["top-down", "bottom-up"] = "top-down",
    hidden: list[Count] = [500, 500],  # noqa: B006
    objective: parts.Objective = "elbo",
    particles: Count = 1,
) -> Pair:
    """zL -> ... -> z1 -> x, levels of latent vectors; q draws them from the top down after one pass up.

    Args:
        latent: sizes of z1, z2, ...; [10, 5] for small data and [40, 20] from a hundred features on.
        likelihood: p(x | z1).
        guide: top-down, which can be the posterior, or bottom-up, to compare.
        hidden: widths of the hidden layers next to x; between levels there is one layer of the first width.
        objective: what training maximises.
        particles: draws a datum that the objective takes.
    """
    if latent is not None and not latent:
        raise PairError("latent [] names no level; give at least one size, such as [10, 5]", unused="latent")
    sizes = latent or [parts.latent_size(spec, None), parts.latent_size(spec, None) // 2]
    wide = (parts.first(hidden),)
    above = list(zip(sizes[1:], sizes[:-1], strict=True))[::-1]  # (size of zl+1, size of zl), from the top down
    p_z = [parts.between(up, Normal(size), hidden=wide, start=True) for up, size in above]
    p_x = parts.decoder(spec, sizes[0], likelihood_of(spec, likelihood), hidden=tuple(hidden[::-1]))
    model = HierarchicalModel(StandardNormal(sizes[-1]), p_z, p_x)
    if guide == "bottom-up":
        steps = [parts.between(size, Normal(up), hidden=wide) for up, size in above[::-1]]
        q = BottomUpGuide([parts.encoder(spec, Normal(sizes[0]), hidden=tuple(hidden)), *steps])
        return Pair(model, q, parts.objective(spec, objective, particles))
    nets = [parts.up(spec, hidden=tuple(hidden)), *(parts.step(hidden[-1]) for _ in above)]
    q_top = parts.between(hidden[-1], Normal(sizes[-1]), hidden=())
    q_z = [parts.between(hidden[-1] + up, Normal(size), hidden=wide) for up, size in above]
    return Pair(model, HierarchicalGuide(nets, q_top, q_z), parts.objective(spec, objective, particles))


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
    """y, z -> x: classes y known of few data (--labels 100), inferred of the others.

    Args:
        latent: size of z; 10 for small data and 40 from a hundred features on.
        likelihood: p(x | z, y).
        weight: of the auxiliary classification term on labelled data.
        classes: y summed over exactly, or drawn.
        classifier: net of q(y | x): mlp, or conv for images.
        dropout: probability, in the hidden layers of q(y | x).
        scaling: of real x in p and q: each feature by its own deviation (the default), or all by a common one, so that
            features that vary little stay small, as the codes of M1+M2 should.
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


@pair
def structured(
    spec: Spec,
    *,
    latent: Count | None = None,
    likelihood: Likelihood = "auto",
    quadrants: Count = 1,
    hidden: list[Count] = [500, 500],  # noqa: B006
    objective: parts.Objective = "elbo",
    particles: Count = 1,
) -> Pair:
    """x_in -> z, x_in, z -> x_out: complete an image of which 1, 2 or 3 quadrants are given.

    Args:
        latent: size of z; 10 for small data and 40 from a hundred features on.
        likelihood: p(x_out | x_in, z).
        quadrants: how many are given.
        hidden: widths of the hidden layers.
        objective: what training maximises.
        particles: draws a datum that the objective takes.
    """
    size = parts.latent_size(spec, latent)
    given = parts.quadrants(spec, quadrants)
    x_in, x_out = parts.selected(spec, given), parts.selected(spec, ~given)
    p_z = parts.encoder(x_in, Normal(size), hidden=tuple(hidden), scaling="common")
    p_z.start_at(torch.zeros(size), torch.ones(size))
    head = likelihood_of(x_out, likelihood, "common")  # parts of an image have one unit, as the whole
    inputs, units = size + x_in.features, Units.of(x_in, "common")
    p_x = parts.decoder(x_out, inputs, head, given=units, hidden=tuple(hidden[::-1]))
    q_z = parts.encoder(spec, Normal(size), hidden=tuple(hidden))
    return Pair(StructuredModel(given, p_z, p_x), LatentGuide(q_z), parts.objective(spec, objective, particles))


@pair
def grouped(
    spec: Spec,
    *,
    items: Count | None = None,
    group_latent: Count | None = None,
    latent: Count | None = None,
    likelihood: Likelihood = "auto",
    hidden: list[Count] = [200, 200],  # noqa: B006
    objective: parts.Objective = "elbo",
    particles: Count = 1,
) -> Pair:
    """v, w -> x: a datum is a group of items, v is what they share and w each item's own.

    Args:
        items: items a group, which x holds side by side; the size of the data's field mask if there is one.
        group_latent: size of v; 10 for small data and 40 from a hundred features on.
        latent: size of w; likewise.
        likelihood: p(x | v, w) of an item.
        hidden: widths of the hidden layers.
        objective: what training maximises.
        particles: draws a group that the objective takes.
    """
    count, item = parts.items(spec, items)
    shared, own = parts.latent_size(item, group_latent), parts.latent_size(item, latent)
    p_x = parts.decoder(item, shared + own, likelihood_of(item, likelihood), hidden=tuple(hidden[::-1]))
    up = parts.up(item, hidden=tuple(hidden))
    q_v = parts.between(hidden[-1] + 1, Normal(shared), hidden=tuple(hidden[:1]))
    q_w = parts.encoder(item, Normal(own), context=shared, hidden=tuple(hidden))
    model = GroupedModel(count, StandardNormal(shared), StandardNormal(own), p_x)
    guide = GroupedGuide(count, up, q_v, q_w)
    return Pair(model, guide, parts.objective(spec, objective, particles))


@pair
def semi_amortized(
    spec: Spec,
    *,
    latent: Count | None = None,
    likelihood: Likelihood = "auto",
    steps: Whole = 3,
    rate: Positive | None = None,
    hidden: list[Count] = [200, 200],  # noqa: B006
    objective: parts.Objective = "elbo",
    particles: Count = 1,
) -> Pair:
    """The latent model with an encoder whose answer is refined by a few gradient steps for each datum.

    Args:
        latent: size of z; 10 for small data and 40 from a hundred features on.
        likelihood: p(x | z).
        steps: of refinement; 0 is the latent pair.
        rate: of the steps; 0.2 by default.
        hidden: widths of the hidden layers.
        objective: what training maximises.
        particles: draws a datum that the objective takes.
    """
    if rate is not None and steps == 0:
        raise PairError(f"rate {rate} is of the steps, and --steps is 0; leave --rate out", unused="rate")
    size = parts.latent_size(spec, latent)
    p_x = parts.decoder(spec, size, likelihood_of(spec, likelihood), hidden=tuple(hidden[::-1]))
    model = LatentModel(StandardNormal(size), p_x)
    net = parts.to_numbers(spec, 2 * size, hidden=tuple(hidden))
    guide = SemiAmortizedGuide(model, net, size, steps=steps, rate=0.2 if rate is None else rate)
    return Pair(model, guide, parts.objective(spec, objective, particles))


@pair
def linear(spec: Spec, *, latent: Count | None = None, noise: Literal["scalar", "per-feature"] = "scalar") -> Pair:
    """Probabilistic PCA or factor analysis, with its exact posterior as guide.

    Args:
        latent: size of z; 10 for small data and 40 from a hundred features on.
        noise: scalar (probabilistic PCA) or per-feature (factor analysis).
    """
    size, scalar = parts.latent_size(spec, latent), noise == "scalar"
    units = Units.of(spec, "common" if scalar else "feature")  # one noise scale is one in the data's own units
    model = LinearModel(size, spec.features, 1 if scalar else spec.features, units)
    return Pair(model, LinearGuide(model))


def find(name: str) -> Builder:
    """Return the function behind a pair's name, ``file.py:function`` or ``package.module:function``.

    Raises:
        PairError: when there is none; near names are suggested.
    """
    if name in PAIRS:
        return PAIRS[name]
    if ":" not in name:
        own = "" if suggestion(name, PAIRS) else "; your own is named file.py:function"
        raise PairError(unknown("pair", name, PAIRS) + own)
    place, function = name.rsplit(":", 1)
    module = _load_file(Path(place)) if place.endswith(".py") else _import(place)
    build = getattr(module, function, None)
    if not callable(build):
        raise PairError(
            f"{place} has no function {function!r}; it should take the data's description and return a Pair"
        )
    return recorded(name, build)


def _load_file(path: Path) -> Any:
    if not path.is_file():
        raise PairError(f"there is no file {path}; a pair of your own is named file.py:function")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise PairError(f"{path} cannot be loaded: {type(error).__name__}: {error}") from error
    return module


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise PairError(f"module {name!r} cannot be imported: {error}") from error
