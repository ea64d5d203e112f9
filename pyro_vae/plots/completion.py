"""The picture of what may follow from a part of a datum. See ``pyro_vae.plots``."""

from collections.abc import Mapping

import torch
from matplotlib.figure import Figure
from pyro import poutine
from torch import Tensor

from pyro_vae.data import Data
from pyro_vae.plots.tiles import at_least, is_image, sheet
from pyro_vae.posterior import NotDrawable, generate, observed_sites
from pyro_vae.program import Batch, Pair, evaluation

HIDDEN = 0.5  # grey: what is not given


def completions(
    pair: Pair, data: Data, *, count: int = 8, draws: int = 8, split: str | None = None, seed: int = 0
) -> Figure:
    """Draw the given part of each datum and the mean of the rest at several z ~ p(z | given part).

    For models that read a part of x and return x whole, such as the pair ``structured``.

    Args:
        count: number of data; of sequences 6 at most are drawn.
        draws: of z, for each datum.
        split: train, valid or test; by default test, or valid or train if that is empty.
        seed: of the draws.
    """
    split = data.choose(split)
    at_least(1, count=count, draws=draws)
    batch = data.batch(split, count)
    hidden = _hidden(pair, batch)
    rows = [_filled(pair, batch, generate(pair, batch, seed=seed + i)) for i in range(draws)]
    columns, names = [batch["x"], *rows], ["data", *map(str, range(1, draws + 1))]
    if is_image(data.spec):
        columns.insert(1, torch.where(hidden, HIDDEN, batch["x"]))
        names.insert(1, "given")
    return sheet(
        torch.stack(columns, 1),
        data,
        title="Completions: mean of what is not given, at z ~ p(z | what is given)",
        columns=names,
        xlabel="draw of z",
    )


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
