"""Pictures of a trained pair: each function returns a matplotlib figure and needs no display.

A picture that does not apply to a pair or its data raises ``NotDrawable`` and says why. Images are
shown as tiles, tables and sequences as curves.
"""

import math
from collections.abc import Callable

import torch
from matplotlib.figure import Figure

from pyro_vae.data import Data
from pyro_vae.evidence import meaning_of
from pyro_vae.plots.adversarial import beside, critic
from pyro_vae.plots.boltzmann import bracket, chains, filters
from pyro_vae.plots.calling import picture
from pyro_vae.plots.charts import curves, kl, rate_distortion, scatter
from pyro_vae.plots.codebook import code_map, codebook
from pyro_vae.plots.completion import completions
from pyro_vae.plots.components import components, frames, steps
from pyro_vae.plots.diffusion import denoising, few_steps, nats_per_level, noising
from pyro_vae.plots.features import growth, nats
from pyro_vae.plots.graphical_model import graph
from pyro_vae.plots.labels import analogies, attributes, classes
from pyro_vae.plots.latent_space import interpolation, manifold, traversal
from pyro_vae.plots.reversible import through_noise
from pyro_vae.plots.sequences import rolls, states
from pyro_vae.plots.tables import tables
from pyro_vae.plots.tiles import at_least, is_image, is_tiled, mean_of_x, sheet, tiles_across
from pyro_vae.posterior import (
    NotDrawable,
    decode,
    draw_latents,
    generate,
    latent_vectors,
    reconstruct,
    refuse_chain,
    repeat_batch,
    shown,
)
from pyro_vae.program import Pair, structure

__all__ = ["OF_HISTORY", "PICTURES", "levels", "reconstructions", "samples"]


@picture
def samples(pair: Pair, data: Data, *, count: int = 48, seed: int = 0) -> Figure:
    """Draw new data from the model, and real data below them.

    At each z ~ p(z) the mean of p(x | z), and below it a draw of x; the draw alone where there is
    no z or no mean.

    Args:
        count: number of draws of z; of tables and sequences 20 at most are drawn.
        seed: of the draws.
    """
    at_least(1, count=count)
    split = data.choose()
    across = min(count, tiles_across(data.spec) if is_tiled(data.spec) else 20)
    batch = repeat_batch(data.batch(split, across), count)  # what is given is that of a column's datum
    meaning, what = meaning_of(pair, few := data.batch(split, 2)), shown(pair, few)
    looks = {"draw": True}
    if meaning.latent and what == "mean of":  # every mean of p(x) is the same
        looks = {"mean": False, **looks}
    made = {name: mean_of_x(generate(pair, batch, seed=seed, draw=drawn), data.spec) for name, drawn in looks.items()}
    down = math.ceil(count / across) if is_tiled(data.spec) else 1
    rows = [_row(x, n, across, float(is_image(data.spec))) for n in range(down) for x in made.values()]
    names = [*made] * down
    if rows[0].shape == batch["x"][:across].shape:
        rows, names = [*rows, batch["x"][:across]], [*names, "data"]
    title = "Samples: p(x | z) at z ~ p(z)" if meaning.latent else "Samples of p(x)"
    if given := [name for name in pair.bound_model.required if name != "x" and name not in meaning.latent]:
        whose = f"{split} data below" if "data" in names else f"first {split} data"
        title += f", given {' and '.join(given)} of the {whose}"
    return sheet(torch.stack(rows), data, title=title, rows=names)


def _row(x: torch.Tensor, number: int, across: int, blank: float) -> torch.Tensor:
    """Return a row of so many data, filled up where they end."""
    row = x[number * across : (number + 1) * across]
    return torch.cat([row, row.new_full((across - len(row), x.shape[1]), blank)])


@picture
def reconstructions(pair: Pair, data: Data, *, count: int = 16, split: str | None = None, seed: int = 0) -> Figure:
    """Draw data above their reconstructions: the mean of p(x | z) at the centre of q(z | x).

    Args:
        count: number of data; of tables and sequences 6 at most are drawn.
        split: train, valid or test; by default test, or valid or train if that is empty.
        seed: of the draws, for guides without a mean.
    """
    split = data.choose(split)
    at_least(1, count=count)
    batch = data.batch(split, count)
    meaning = meaning_of(pair, batch)
    if not meaning.latent:
        raise NotDrawable("the model has no latent variable, so there is no code to reconstruct from; draw `samples`")
    if not meaning.inferred:
        raise NotDrawable("the guide leaves latent sites out, so there is no code to reconstruct from; draw `samples`")
    x, mean = batch["x"], mean_of_x(reconstruct(pair, batch, seed=seed), data.spec)
    title = f"Data ({split} split) and reconstructions: {shown(pair, batch)} p(x | z) at the centre of q(z | x)"
    if not is_tiled(data.spec):
        both = torch.stack([x, mean], 1)[:6]
        return sheet(both, data, title=title, columns=["data", "reconstruction"])
    across = min(count, tiles_across(data.spec), len(x))
    rows = [
        part for start in range(0, len(x) - across + 1, across) for part in (x[start:][:across], mean[start:][:across])
    ]
    return sheet(torch.stack(rows), data, title=title, rows=["data", shown(pair, batch).split()[0]] * (len(rows) // 2))


@picture
def levels(pair: Pair, data: Data, *, rows: int = 3, columns: int = 12, seed: int = 0) -> Figure:
    """Draw what each level of a hierarchy decides: it is drawn anew, all above it held.

    Every row has one draw of the levels above; below the level drawn, means are taken.

    Args:
        rows: draws of the levels above, for each level.
        columns: draws of the level.
        seed: of the draws.
    """
    at_least(1, rows=rows)
    at_least(2, columns=columns)
    few = data.batch(data.choose(), 2)
    vectors = latent_vectors(pair, few)
    refuse_chain(vectors)
    order = list(vectors)
    nodes = {node.name: node for node in structure(pair, pair.bound_model, few)}
    if len(order) < 2 or not any(set(nodes[name].parents) & set(order) for name in order):
        raise NotDrawable(
            f"levels need a latent vector that depends on another, and here there {'are' if len(order) > 1 else 'is'} "
            f"{' and '.join(map(repr, order)) or 'none'}; draw `samples` or `traversal`"
        )
    row = torch.arange(rows).repeat_interleave(columns)
    batch = {name: field[row] for name, field in repeat_batch(data.batch(data.choose(), rows), rows).items()}
    base = draw_latents(pair, batch, {}, seed=seed)
    held = {name: base[name][row] for name in order}
    pictures, labels = [], []
    for depth, name in enumerate(order):
        above = {other: held[other] for other in order[:depth]}
        fresh = draw_latents(pair, batch, above, seed=seed + 1 + depth)
        x = mean_of_x(decode(pair, batch, {**above, name: fresh[name]}, seed=seed), data.spec)
        pictures.append(x.unflatten(0, (rows, columns)))
        labels += [name] * rows
    return sheet(
        torch.cat(pictures),
        data,
        title="Levels: the named level is drawn anew across, those above are held along a row, those below take means",
        rows=labels,
        xlabel="draws of the level",
    )


PICTURES: dict[str, Callable[..., Figure]] = {
    "samples": samples,
    "reconstructions": reconstructions,
    "manifold": manifold,
    "scatter": scatter,
    "interpolation": interpolation,
    "through-noise": through_noise,
    "traversal": traversal,
    "classes": classes,
    "analogies": analogies,
    "attributes": attributes,
    "levels": levels,
    "completions": completions,
    "growth": growth,
    "nats": nats,
    "codebook": codebook,
    "code-map": code_map,
    "rolls": rolls,
    "states": states,
    "beside": beside,
    "critic": critic,
    "filters": filters,
    "chains": chains,
    "bracket": bracket,
    "noising": noising,
    "denoising": denoising,
    "few-steps": few_steps,
    "nats-per-level": nats_per_level,
    "components": components,
    "frames": frames,
    "curves": curves,
    "steps": steps,
    "kl": kl,
    "rate-distortion": rate_distortion,
    "graph": graph,
    "tables": tables,
}
"""Every picture by its name on the command line.

The arguments by position are "pair" and "data", "history" or "points".
"""

OF_HISTORY = ("curves", "steps")
"""Those that are drawn from a run's history alone."""
