"""A pair's latent vectors: where data lie, what other values decode to, what each dimension
holds."""

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import Any

from pyro import poutine
from pyro.distributions import Delta
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import biject_to, kl_divergence

from pyro_vae.posterior.predictive import AtMean, mean_of, observed_sites
from pyro_vae.posterior.usage import posterior_means
from pyro_vae.program import Batch, Pair, PairError, evaluation, is_discrete, is_latent, uncondition

MOST_VECTORS = 8  # latent vectors up to which each can be a picture's


class NotDrawable(PairError):
    """A picture that does not apply to a pair or its data; the message says why and what to do."""


def latent_vectors(pair: Pair, batch: Batch) -> dict[str, int]:
    """Return the sizes of each datum's continuous latent vectors, in the model's order."""
    return {name: fn.event_shape[0] for name, fn in _per_datum(pair, batch) if len(fn.event_shape) == 1}


def latent_numbers(pair: Pair, batch: Batch) -> list[str]:
    """Return the names of each datum's continuous latent numbers, in the model's order."""
    return [name for name, fn in _per_datum(pair, batch) if not fn.event_shape]


def _per_datum(pair: Pair, batch: Batch) -> list[tuple[str, Any]]:
    """Return the continuous latent sites of each datum, with their distributions."""
    with evaluation(pair, 0):
        model = poutine.trace(pair.bound_model).get_trace({name: field[:2] for name, field in batch.items()})
    return [
        (name, site["fn"])
        for name, site in model.nodes.items()
        if is_latent(site)
        and not is_discrete(site)
        and site["value"].is_floating_point()
        and {frame.name for frame in site["cond_indep_stack"]} == {pair.data_plate}
    ]


def code_sites(pair: Pair, batch: Batch) -> dict[str, int]:
    """``latent_vectors``, for pictures that move in them.

    Raises:
        NotDrawable: when there are none, or a long chain of them.
    """
    found = latent_vectors(pair, batch)
    if not found:
        raise NotDrawable("the model has no continuous latent vector per datum, so there is no code to move in")
    refuse_chain(found)
    return found


def refuse_chain(found: Mapping[str, int]) -> None:
    """Refuse a long chain of latent vectors, for pictures of each or of one as a code.

    Raises:
        NotDrawable: there are more than ``MOST_VECTORS``.
    """
    if len(found) > MOST_VECTORS:
        raise NotDrawable(
            f"the model has a chain of {len(found)} latent vectors, none of which is a code by itself: see "
            "`pyro-vae draw RUN samples`, or denoising where it is a chain of noise"
        )


def centres(pair: Pair, batch: Batch, *, seed: int = 0) -> dict[str, Tensor]:
    """Return the centre of q(z | x) at every latent site.

    That is the mean, given the means of the levels above, or a draw where there is no mean.

    Raises:
        NotDrawable: the guide infers none of the model's latent vectors.
    """
    with evaluation(pair, seed), AtMean():
        guide = poutine.trace(pair.bound_guide).get_trace(batch)
    found = {name: site["value"] for name, site in guide.nodes.items() if is_latent(site)}
    if not found:
        require_codes(pair, batch)
    return found


def require_codes(pair: Pair, batch: Batch) -> None:
    """Refuse a pair whose guide infers none of the model's latent vectors, as a critic does.

    Raises:
        NotDrawable: it does not.
    """
    vectors = latent_vectors(pair, batch)
    with evaluation(pair, 0):
        guide = poutine.trace(pair.bound_guide).get_trace(batch).nodes
    if vectors and not vectors.keys() & guide.keys():
        raise NotDrawable(f"the guide does not infer {', '.join(map(repr, vectors))}, so data have no code")


def decode(
    pair: Pair, batch: Batch, values: Mapping[str, Tensor], *, seed: int = 0, draw_rest: bool = False
) -> dict[str, Tensor]:
    """Return E[x | z] at given latent values: ``(batch, features)`` for every observed site.

    Args:
        batch: the fields that the model is conditioned on, of the values' batch size; its ``x`` is
            not looked at.
        values: by site, ``(batch, latent)``. Sites that are not named follow p(z | what stands
            above): its mean, or a draw with ``draw_rest``.
    """
    with evaluation(pair, seed):
        names = observed_sites(pair, batch)
        known = {name: batch[name] for name in names if name != "x" and name in batch}
        with nullcontext() if draw_rest else AtMean(), Given({**known, **values}):
            model = poutine.trace(uncondition(pair.bound_model)).get_trace(batch)
        return {name: mean_of(model.nodes[name]) for name in names}


def draw_latents(pair: Pair, batch: Batch, values: Mapping[str, Tensor], *, seed: int = 0) -> dict[str, Tensor]:
    """Return draws from the model of all its latent sites, those in ``values`` as given."""
    with evaluation(pair, seed), Given(values):
        model = poutine.trace(pair.bound_model).get_trace(batch)
    return {name: site["value"] for name, site in model.nodes.items() if is_latent(site)}


def dimensions_of_prior(pair: Pair, batch: Batch, site: str) -> Any:
    """Return the distribution of single dimensions of p(site), None if they are dependent."""
    with evaluation(pair, 0):
        model = poutine.trace(pair.bound_model).get_trace(batch)
    return _factors(model.nodes[site]["fn"])


def kl_by_dimension(
    pair: Pair, batches: Iterable[Batch], *, num_samples: int = 8, seed: int = 0
) -> dict[str, Tensor | None]:
    """Return the mean KL(q(z_j | x) || p(z_j)) of each latent dimension, nats per datum:
    ``(latent,)``.

    In closed form where torch knows one, else over ``num_samples`` draws. None for a site whose q
    or p is correlated between dimensions (full covariance, flow, mixture): there, a dimension has
    no KL of its own.
    """
    sums: dict[str, Tensor | None] = {}
    count = 0
    with evaluation(pair, seed):
        for batch in batches:
            names = [*latent_vectors(pair, batch), *latent_numbers(pair, batch)]
            for _ in range(num_samples):
                guide = poutine.trace(pair.bound_guide).get_trace(batch)
                model = poutine.trace(poutine.replay(pair.bound_model, trace=guide)).get_trace(batch)
                for name in names:
                    if name not in guide.nodes or sums.get(name, 0) is None:
                        continue
                    nats = _by_dimension(guide.nodes[name], model.nodes[name]["fn"])
                    before = sums.get(name)
                    sums[name] = nats if before is None or nats is None else before + nats
            count += len(next(iter(batch.values()))) * num_samples
    return {name: None if total is None else total / count for name, total in sums.items()}


def prior_moments(pair: Pair, batch: Batch, values: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return mean and standard deviation ``(latent,)`` of p(z | levels above) at given values.

    Args:
        batch: of one datum.
        values: by site, ``(1, latent)``; of a number ``(1, 1)``.
    """
    names = [*latent_vectors(pair, batch), *latent_numbers(pair, batch)]
    with evaluation(pair, 0), Given(values):
        model = poutine.trace(pair.bound_model).get_trace(batch)
        return {name: _moments(model.nodes[name]["fn"]) for name in names}


def within_support(
    pair: Pair, batch: Batch, site: str, steps: Tensor, values: Mapping[str, Tensor], *, seed: int = 0
) -> Tensor:
    """Return values of a latent number at so many standard deviations of p(number | levels above),
    where it is real; else of what its support is mapped from, such as its logarithm.
    """
    with evaluation(pair, seed), Given(values):
        fn = poutine.trace(pair.bound_model).get_trace(batch).nodes[site]["fn"]
        plain = biject_to(fn.support)
        draws = plain.inv(fn.sample((1000,))).flatten()
    return plain(draws.mean() + draws.std() * steps)


def _moments(fn: Any) -> tuple[Tensor, Tensor]:
    try:
        mean, variance = fn.mean, fn.variance
    except NotImplementedError:  # a flow
        draws = fn.sample((1000,))
        mean, variance = draws.mean(0), draws.var(0)
    return mean.reshape(-1, mean.shape[-1])[0], variance.sqrt().reshape(-1, mean.shape[-1])[0]


def variance_of_means(pair: Pair, batch: Batch) -> dict[str, Tensor]:
    """Return Var_x E[z_j | x] of each dimension: near 0 where it says nothing about the data."""
    require_codes(pair, batch)
    return {name: mean.var(0, correction=0) for name, mean in posterior_means(pair, batch).items()}


def _by_dimension(site: Mapping[str, Any], prior: Any) -> Tensor | None:
    """Return the KL of each dimension, summed over the data: ``(latent,)``."""
    q, p = _factors(site["fn"]), _factors(prior)
    if q is None or p is None:
        return None
    value = site["value"]
    try:
        nats = kl_divergence(q, p)
    except NotImplementedError:
        nats = q.log_prob(value) - p.log_prob(value)
    return nats.expand(value.shape).reshape(-1, *(site["fn"].event_shape or (1,))).sum(0).double()


def _factors(fn: Any) -> Any:
    """Return the distribution of single dimensions, or None when they are not independent."""
    while type(fn).__name__ in ("Independent", "ExpandedDistribution"):
        fn = fn.base_dist
    if fn.event_shape or isinstance(fn, Delta):  # a point has no KL of its own either: it is infinite
        return None
    return fn


class Given(Messenger):
    """Sites take given values and stay latent; a number takes a vector of size 1."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.values:
            value, fn = self.values[msg["name"]], msg["fn"]
            one_each = not fn.event_shape and value.dim() == len(fn.batch_shape) + 1 and value.shape[-1] == 1
            msg["value"] = value.squeeze(-1) if one_each else value
            msg["done"] = True
