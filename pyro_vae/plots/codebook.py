"""Pictures of a codebook: what each code looks like, and which codes data have.

See ``pyro_vae.plots``.
"""

import math
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae.data import Data
from pyro_vae.plots.calling import picture
from pyro_vae.plots.tiles import INCHES, NORMAL, SMALL, at_least, headline, is_image, mean_of_x, page, sheet
from pyro_vae.posterior import NotDrawable, code_use, codebooks, decode, reconstruct, repeat_batch, use_in_words, words
from pyro_vae.program import Pair


@picture
def codebook(pair: Pair, data: Data, *, count: int = 64, split: str | None = None) -> Figure:
    """Draw what each code decodes to: the mean of p(x | z) with the same code at every place.

    The codes that data use most come first; those that none uses are left out.

    Args:
        count: number of codes at most; of tables and sequences 6 are drawn.
        split: whose use counts: train, valid or test; by default test, or valid or train if that is
            empty.
    """
    at_least(1, count=count)
    split = data.choose(split)
    few = data.batch(split, 1)
    site, fn = _first(pair, few)
    counts = torch.zeros(fn.num_codes, dtype=torch.long)
    for batch in data.batches(split, 500):
        counts += torch.bincount(words(pair, batch)[site].flatten(), minlength=fn.num_codes).cpu()
    order = counts.argsort(descending=True, stable=True)[: min(count, int((counts > 0).sum()))]
    z = fn.words(order.unsqueeze(-1).expand(-1, fn.places))
    x = mean_of_x(decode(pair, repeat_batch(few, len(order)), {site: z}), data.spec)
    across = min(len(order), 16) if is_image(data.spec) else 1
    down = math.ceil(len(order) / across)
    x = torch.cat([x, torch.ones(down * across - len(order), x.shape[1])])
    title = f"Codebook: mean of p(x | {site}) with one code at every place, the most frequent first"
    if is_image(data.spec):
        return sheet(x.unflatten(0, (down, across)), data, title=title)
    shares = [f"code {k}: {100 * counts[k] / counts.sum():.1f} %" for k in order.tolist()]
    return sheet(x.unsqueeze(1)[:6], data, title=title, rows=shares[:6])


@picture
def code_map(pair: Pair, data: Data, *, count: int = 10, split: str | None = None) -> Figure:
    """Draw data, their reconstructions, and the codes between: a colour for each code.

    The codes of a convolutional pair lie on a grid over the image; others are shown in the
    squarest block that holds them.

    Args:
        count: number of data.
        split: train, valid or test; by default test, or valid or train if that is empty.
    """
    at_least(1, count=count)
    split = data.choose(split)
    if not is_image(data.spec):
        raise NotDrawable("a code map stands beside images, and these data are none; draw `codebook`")
    batch = data.batch(split, count)
    site, fn = _first(pair, batch)
    codes, again = words(pair, batch)[site].cpu(), mean_of_x(reconstruct(pair, batch), data.spec)
    grid = codes.reshape(len(codes), *block_of(fn.places, data.spec.image))
    use = code_use(pair, data.batches(split, 500))[site]
    width = INCHES / max(6, len(codes))
    figure = page(3 * width + 0.9)
    axes = figure.subplots(3, len(codes), squeeze=False)
    for j in range(len(codes)):
        _tile(axes[0, j], batch["x"][j], data)
        axes[1, j].imshow(
            grid[j].numpy(), cmap="gist_ncar", vmin=-0.5, vmax=fn.num_codes - 0.5, interpolation="nearest"
        )
        _tile(axes[2, j], again[j], data)
    for row, name in zip(axes[:, 0], ("data", "codes", "mean"), strict=True):
        row.set_ylabel(name, fontsize=SMALL)
    for one in axes.flat:
        one.set_xticks([])
        one.set_yticks([])
        one.spines[:].set_visible(False)
    figure.supxlabel(f"{split} split: {use_in_words(site, use)}", fontsize=NORMAL)
    headline(figure, f"Data, the codes of {site}, and the mean of p(x | {site}) at them")
    return figure


def _tile(axes: Any, x: Tensor, data: Data) -> None:
    assert data.spec.image is not None
    picture = x.detach().cpu().float().reshape(data.spec.image).permute(1, 2, 0).clamp(0, 1)
    shown = (picture[..., 0] if picture.shape[-1] == 1 else picture).numpy()
    axes.imshow(shown, cmap="gray", vmin=0, vmax=1)


def block_of(places: int, image: Any) -> tuple[int, int]:
    """Return rows and columns of the places: of a grid over the image where one has that size,
    else of the squarest block.

    >>> block_of(49, (1, 28, 28)), block_of(8, (1, 8, 8)), block_of(12, (1, 16, 12))
    ((7, 7), (2, 4), (4, 3))
    """
    for halvings in range(1, 8):
        rows, columns = (-(-side // 2**halvings) for side in image[1:])
        if rows * columns == places:
            return rows, columns
    rows = max(d for d in range(1, math.isqrt(places) + 1) if places % d == 0)
    return rows, places // rows


def _first(pair: Pair, batch: Any) -> tuple[str, Any]:
    """Return the first latent site that is a word of codes, and its prior."""
    found = codebooks(pair, batch)
    if not found:
        raise NotDrawable("the model has no codebook, so there are no codes to draw; draw `scatter` or `traversal`")
    return next(iter(found.items()))
