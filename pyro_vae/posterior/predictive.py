"""What a pair says: codes of data, reconstructions, new data."""

from typing import Any

import pyro.poutine as poutine
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_vae.program import Batch, Pair, PairError, evaluation, innermost, is_data, is_latent, uncondition


def reconstruct(pair: Pair, batch: Batch, *, seed: int = 0, draw: bool = True) -> dict[str, Tensor]:
    """Return E[x | z] at the centre of q(z | x) for every observed site: ``(batch, features)``.

    The centre is the mean where the guide's distribution has one, else a draw.

    Args:
        draw: draws stand for the means of sites whose distribution has none; else they are left
            out.

    Raises:
        PairError: the guide leaves latent sites out, so that nothing of a datum is kept in them.
    """
    with evaluation(pair, seed):
        with AtMean():
            guide = poutine.trace(pair.bound_guide).get_trace(batch)
        model = poutine.trace(poutine.replay(pair.bound_model, trace=guide)).get_trace(batch)
    lacking = [name for name, site in model.nodes.items() if is_latent(site) and name not in guide.nodes]
    if lacking:
        raise PairError(
            f"the guide does not infer {', '.join(map(repr, lacking))}, so data have no reconstruction: x would be "
            "drawn as if nothing were known; draw samples"
        )
    sites = {name: site for name, site in model.nodes.items() if is_data(site)}
    return {name: mean_of(site) for name, site in sites.items() if draw or _has_mean(site["fn"])}


def shown(pair: Pair, batch: Batch) -> str:
    """Return what pictures show of p(x | z): "mean of", or "draw from" where it has no mean."""
    fn, _ = distribution_of_x(pair, batch)
    return "mean of" if fn is None or _has_mean(fn) else "draw from"


def distribution_of_x(pair: Pair, batch: Batch, *, seed: int = 0) -> tuple[Any, Tensor]:
    """Return p(x | z) of the data at one draw z ~ q(z | x), or p(x) without a z, and x itself; None
    where the model observes no ``x``.
    """
    with evaluation(pair, seed):
        guide = poutine.trace(pair.bound_guide).get_trace(batch)
        model = poutine.trace(poutine.replay(pair.bound_model, trace=guide)).get_trace(batch)
    site = model.nodes.get("x")
    return (site["fn"], site["value"]) if site is not None and is_data(site) else (None, torch.empty(0))


def _has_mean(fn: Any) -> bool:
    try:
        fn.mean  # noqa: B018
    except NotImplementedError:
        return False
    return True


def generate(pair: Pair, batch: Batch, *, seed: int = 0, draw: bool = False) -> dict[str, Tensor]:
    """Return one new datum from the model for each of ``batch``, whose observed fields are ignored.

    Args:
        batch: gives the number of data and the fields that the model is conditioned on.
        draw: values drawn from p(x | z) in place of its mean.

    Raises:
        PairError: draws are none of the model's, such as those of chains that were never trained.
    """
    with evaluation(pair, seed):
        observed = poutine.trace(pair.bound_model).get_trace(batch).nodes
        names = [name for name, site in observed.items() if is_data(site)]
        for name in names:  # before anything is drawn
            if refusal := getattr(innermost(observed[name]["fn"]), "refusal", None):
                raise PairError(refusal)
        model = poutine.trace(uncondition(pair.bound_model)).get_trace(batch)
    if draw:
        return {name: row_per_datum(model.nodes[name], model.nodes[name]["value"]) for name in names}
    return {name: mean_of(model.nodes[name]) for name in names}


def observed_sites(pair: Pair, batch: Batch) -> list[str]:
    """Return the names of the model's observed sites, factors left out."""
    model = poutine.trace(pair.bound_model).get_trace(batch)
    return [n for n, s in model.nodes.items() if is_data(s)]


class AtMean(Messenger):
    """Latent sites take the mean of their distribution instead of a draw, where there is one."""

    def _pyro_sample(self, msg: Any) -> None:
        if is_latent(msg) and msg["value"] is None and msg["fn"].has_rsample:
            try:
                msg["value"] = msg["fn"].mean
            except NotImplementedError:
                return
            msg["done"] = True


def mean_of(site: Any) -> Tensor:
    """Return the mean of a site's distribution, or a draw; never the observed value."""
    try:
        value = site["fn"].mean
    except NotImplementedError:
        value = site["fn"].sample() if site["is_observed"] else site["value"]
    return row_per_datum(site, value)


def row_per_datum(site: Any, value: Tensor) -> Tensor:
    """Return values ``(batch, numbers)``, those of plates inside the data's side by side."""
    data = value.dim() - len(site["fn"].event_shape) - 1
    return value.movedim(data, 0).flatten(1) if data > 0 else value


def repeat_batch(batch: Batch, count: int) -> dict[str, Tensor]:
    """Return a batch of ``count`` data, the given ones in turn, for ``generate``."""
    size = len(next(iter(batch.values())))
    index = torch.arange(count) % size
    return {name: tensor[index] for name, tensor in batch.items()}
