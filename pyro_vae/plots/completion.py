"""The picture of what may follow from a part of a datum. See ``pyro_vae.plots``."""

from collections.abc import Mapping

import torch
from matplotlib.figure import Figure
from pyro import poutine
from torch import Tensor

from pyro_vae.data import Data
from pyro_vae.distributions import Autoregressive
from pyro_vae.evidence import meaning_of
from pyro_vae.plots.calling import picture
from pyro_vae.plots.features import HIDDEN, until
from pyro_vae.plots.tiles import at_least, is_image, sheet
from pyro_vae.posterior import NotDrawable, distribution_of_x, generate, observed_sites
from pyro_vae.program import Batch, Pair, evaluation, innermost


@picture
def completions(
    pair: Pair,
    data: Data,
    *,
    count: int = 8,
    draws: int = 8,
    given: float | None = None,
    split: str | None = None,
    seed: int = 0,
) -> Figure:
    """Draw the given part of each datum and what may be the rest.

    A model that reads a part of x and returns x whole, such as the pair ``structured``, shows the
    mean of the rest at several z ~ p(z | given part). One without latent variables that draws x one
    feature after the other, such as ``autoregressive``, is given the first of them, and shows draws
    of the rest from their exact distribution given those.

    Args:
        count: number of data; of sequences 6 at most are drawn.
        draws: of z, or of the rest, for each datum.
        given: share of x that is given, where it is drawn one feature after the other; half by
            default.
        split: train, valid or test; by default test, or valid or train if that is empty.
        seed: of the draws.
    """
    split = data.choose(split)
    at_least(1, count=count, draws=draws)
    batch = data.batch(split, count)
    fn, _ = distribution_of_x(pair, batch)
    if isinstance(innermost(fn), Autoregressive) and not meaning_of(pair, batch).latent:
        share = 0.5 if given is None else given
        hidden, rows = _continued(fn, batch["x"], share, draws, seed)
        title = f"Completions: draws from p(the rest | the first {100 * share:.0f} % of x), exact"
        xlabel = "draw"
    else:
        if given is not None:
            raise NotDrawable("given is for models that draw x one feature after the other; leave --given out")
        hidden = _hidden(pair, batch)
        rows = [_filled(pair, batch, generate(pair, batch, seed=seed + i)) for i in range(draws)]
        title, xlabel = "Completions: mean of what is not given, at z ~ p(z | what is given)", "draw of z"
    columns, names = [batch["x"], *rows], ["data", *map(str, range(1, draws + 1))]
    if is_image(data.spec):
        columns.insert(1, torch.where(hidden, HIDDEN, batch["x"]))
        names.insert(1, "given")
    return sheet(torch.stack(columns, 1), data, title=title, columns=names, xlabel=xlabel)


def _continued(fn: Autoregressive, x: Tensor, share: float, draws: int, seed: int) -> tuple[Tensor, list[Tensor]]:
    """Return which features are hidden, and draws of them given the others."""
    if not 0 <= share < 1:
        raise NotDrawable(f"given is the share of x that is given, from 0 up to but not including 1, got {share:g}")
    order = innermost(fn).net.order.tolist()
    known = round(share * len(order))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        many = fn.complete(x.expand(draws, *x.shape), known)
    return ~until(order, known).to(x.device), list(many)


def _hidden(pair: Pair, batch: Batch) -> Tensor:
    """Return a mask ``(batch, features)`` of the features that the model is not given.

    It is found by marking the model's own values and looking where they end up.
    """
    with evaluation(pair, 0):
        names = observed_sites(pair, batch)
    means = generate(pair, batch)
    found = _filled(pair, batch, {name: torch.full_like(means[name], torch.nan) for name in names})
    hidden = found.isnan() if isinstance(found, Tensor) and found.shape == batch["x"].shape else None
    if hidden is None or hidden.all() or not hidden.any():
        raise NotDrawable("the model is given no part of x, so there is nothing to complete; draw `samples`")
    return hidden


def _filled(pair: Pair, batch: Batch, values: Mapping[str, Tensor]) -> Tensor:
    """Return what the model returns when its observed sites have these values."""
    with evaluation(pair, 0):
        return poutine.condition(pair.bound_model, data=dict(values))(batch)
