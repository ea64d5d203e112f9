"""Pictures of what a label does: classes, analogies, attributes. See ``pyro_vae.plots``."""

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae.data import Data
from pyro_vae.plots.calling import picture
from pyro_vae.plots.tiles import at_least, mean_of_x, numbers, sheet
from pyro_vae.posterior import NotDrawable, centres, code_sites, decode, repeat_batch, shown
from pyro_vae.program import Batch, Pair


@picture
def classes(pair: Pair, data: Data, *, count: int = 12, seed: int = 0) -> Figure:
    """Draw samples of every class, style across and class down: a column has one z, a row one y.

    Args:
        count: number of styles.
        seed: of the draws.
    """
    at_least(1, count=count)
    number = _conditioned_on_class(pair, data)
    batch = repeat_batch(data.batch(data.choose(), count), count)
    rows = [
        mean_of_x(decode(pair, {**batch, "y": torch.full((count,), label)}, {}, seed=seed, draw_rest=True), data.spec)
        for label in range(number)
    ]
    return sheet(
        torch.stack(rows),
        data,
        title=f"Classes: {shown(pair, batch)} p(x | z, y), one z per column and one y per row",
        rows=[data.spec.class_label(label) for label in range(number)],
        ylabel="class y",
        xlabel="style z ~ p(z | y), the same random numbers in every row",
    )


@picture
def analogies(pair: Pair, data: Data, *, count: int = 8, split: str | None = None, seed: int = 0) -> Figure:
    """Draw data as the other classes: the code of q(z | x, y) decoded with every y.

    Args:
        count: number of data; of tables and sequences 6 at most are drawn.
        split: train, valid or test; by default test, or valid or train if that is empty.
        seed: of draws, for a guide without a mean.
    """
    split = data.choose(split)
    at_least(1, count=count)
    number = _conditioned_on_class(pair, data)
    batch = data.batch(split, count)
    sites = code_sites(pair, batch)
    code = {name: z for name, z in centres(pair, batch, seed=seed).items() if name in sites}
    columns = [batch["x"]] + [
        mean_of_x(decode(pair, {**batch, "y": torch.full((len(batch["x"]),), label)}, code, seed=seed), data.spec)
        for label in range(number)
    ]
    return sheet(
        torch.stack(columns, 1),
        data,
        title="Analogies: each datum's style z, decoded as every class",
        columns=["data", *map(data.spec.class_label, range(number))],
        rows=[data.spec.class_label(label) for label in batch["y"].tolist()],
        xlabel="class y that it is decoded as",
        ylabel="class of the datum",
    )


@picture
def attributes(
    pair: Pair,
    data: Data,
    *,
    attribute: int = 0,
    count: int = 6,
    extent: float = 2.0,
    steps: int = 7,
    split: str | None = None,
    seed: int = 0,
) -> Figure:
    """Draw data with an attribute added and removed.

    A strength times (mean code with the attribute - mean code without) is added to each code.

    Args:
        attribute: number of the attribute, or of the class where y is a class.
        count: number of data; of tables and sequences 6 at most are drawn.
        extent: from minus to plus this strength.
        steps: images per datum.
        split: train, valid or test; by default test, or valid or train if that is empty; the
            mean codes come from the training split.
        seed: of draws, for a guide without a mean.
    """
    split = data.choose(split)
    at_least(1, count=count)
    at_least(2, steps=steps)
    known = data.batch("train", min(5000, data.size("train")))
    has = _has_attribute(pair, data, known, attribute)
    sites = code_sites(pair, known)
    code = {name: z for name, z in centres(pair, known, seed=seed).items() if name in sites}
    direction = {name: z[has].mean(0) - z[~has].mean(0) for name, z in code.items()}
    batch = data.batch(split, count)
    own = centres(pair, batch, seed=seed)
    strengths = torch.linspace(-extent, extent, steps).tolist()
    columns = [batch["x"]] + [
        mean_of_x(decode(pair, batch, {name: own[name] + s * d for name, d in direction.items()}, seed=seed), data.spec)
        for s in strengths
    ]
    what = f"class {data.spec.class_label(attribute)}" if data.spec.classes else f"attribute {attribute}"
    return sheet(
        torch.stack(columns, 1),
        data,
        title=f"Attributes: codes of {split} data plus a strength times (mean code with {what} - mean code without)",
        columns=["data", *numbers(torch.tensor(strengths))],
        xlabel=f"strength of {what}",
    )


def _conditioned_on_class(pair: Pair, data: Data) -> int:
    """Return the number of classes that the model can be given."""
    if "y" not in pair.bound_model.fields or not data.spec.classes:
        reads = "reads y, which is not a class in these data" if "y" in pair.bound_model.fields else "reads no field y"
        raise NotDrawable(
            f"the model {reads}, so it draws no class on request; train a class-conditional pair on data with classes"
        )
    return min(data.spec.classes, 12)


def _has_attribute(pair: Pair, data: Data, batch: Batch, attribute: int) -> Tensor:
    if "y" not in batch or (not data.spec.classes and not batch["y"].is_floating_point()):
        raise NotDrawable(f"attributes need data with classes or attributes y, and {data.spec.name} has none")
    if "y" in pair.bound_guide.fields:
        raise NotDrawable(
            "the guide reads y, so its codes hold only what y leaves open and no attribute to move along; "
            "draw `classes` or `analogies`"
        )
    y = batch["y"]
    number = data.spec.classes or (1 if y.dim() == 1 else y.shape[1])
    if not 0 <= attribute < number:
        raise NotDrawable(f"attribute must be 0 to {number - 1}, got {attribute}")
    has = y == attribute if data.spec.classes else (y if y.dim() == 1 else y[:, attribute]) > 0.5
    if has.all() or not has.any():
        raise NotDrawable(f"of the training data {'all' if has.all() else 'none'} have attribute {attribute}")
    return has
