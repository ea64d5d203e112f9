"""``load_data``: any source as one data set, split, checked and described."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.columns import say
from pyro_vae.data.dataset import Data, Spec, check_count
from pyro_vae.data.missing import mark_missing
from pyro_vae.data.partial_labels import hide_labels, mark_unknown
from pyro_vae.data.readers import DataError
from pyro_vae.data.schema import Contents, inspect
from pyro_vae.data.sequences import keep_short
from pyro_vae.data.shards import is_url
from pyro_vae.data.sources import DATASETS, Source, open_source
from pyro_vae.data.splits import SPLITS, Split, cut
from pyro_vae.options import checked

Binarization = Literal["gray", "static", "dynamic"]
Missing = Literal["refuse", "mark"]


def _refusal(message: str) -> DataError:
    return DataError(message if message.endswith("?") else f"{message}.")


@checked(_refusal)
def load_data(
    source: object,
    *,
    data_dir: str | os.PathLike | None = None,
    binarize: Binarization | None = None,
    valid: int | float | None = None,
    test: int | float | None = None,
    seed: int = 0,
    image_size: int | None = None,
    image: tuple[int, int, int] | None = None,
    levels: int | None = None,
    split_by: str | None = None,
    labels: int | None = None,
    label_seed: int | None = None,
    missing: Missing | None = None,
    y: str | None = None,
    longest: int | None = None,
    categories: Sequence[str] | Mapping[str, Sequence[Any]] | None = None,
) -> Data:
    """Return a data set, split and checked.

    Args:
        source: a name in `DATASETS`; a .npz file with ``x`` and any other field, or ``x_train``,
            ``x_test``, ...; a .npy file of ``x`` or a folder with one .npy file per field, both
            memory-mapped; a folder of images, flat or with one subfolder per class, below train,
            valid and test if need be; a table in a .csv or .tsv file; or what holds data: an
            array, tensor or sparse matrix ``x``, a pair ``(x, y)``, a mapping of them by field, a
            DataFrame, AnnData, a data set of Hugging Face or of torch (map-style, of items x, (x,
            y) or dicts), or its DataLoader. All but memory-mapped files is read into memory. Arrays
            of uint8 mean k/255. Integer or text ``y`` of shape (data,) are classes, -1, NaN or
            empty where unknown; other ``y`` are attributes as floats.
        data_dir: where named sets lie or are downloaded to; ``$PYRO_VAE_DATA`` or
            ``~/.cache/pyro_vae`` by default.
        binarize: "gray": values as they are. "static": every value of [0, 1] is replaced by one
            binary draw with that probability. "dynamic": the same, drawn anew each time in
            training. Evaluation always sees the same draws. By default what the set's published
            figures use, and gray for colour images and for the user's own data.
        valid: size (or, below 1, fraction) of the validation split, cut from the training part.
        test: the same for the test split; named sets have their own.
        seed: decides which data are cut off.
        image_size: height and width for folders of images, omniglot and celeba, in pixels.
        image: (channels, height, width) of ``x`` that is given as (data, features).
        levels: integer ``x`` are 0 .. levels-1; 256 by default for uint8.
        split_by: name of a field, such as a patient's number; data that agree in it stay in one
            split.
        labels: how many training data keep their class, equally many per class; the others' are
            hidden, and a field ``labelled`` says which: see `pyro_vae.data.partial_labels`.
        label_seed: decides which; 0 by default.
        missing: "mark": NaN in x are missing entries, and a field ``seen`` of x's shape says which
            are not. By default NaN are refused.
        y: the column of a table, or of AnnData's ``obs``, that is y and no part of x; of Hugging
            Face's data ``label`` by default.
        longest: steps; sequences of more are left out, and the others padded to so many.
        categories: columns of a table that are categories though they hold numbers, by name; or
            all columns of categories with these, in order. By default those that hold text, and,
            beside others, booleans.

    Raises:
        DataError: one sentence about a name, file, array or option that cannot be used.
    """
    named = {name: list(held) for name, held in categories.items()} if isinstance(categories, Mapping) else categories
    place = data_dir and os.path.abspath(Path(data_dir).expanduser())
    options: dict[str, Any] = {"data_dir": place, "binarize": binarize, "valid": valid, "test": test}
    options |= {"seed": seed or None, "image_size": image_size, "image": image and list(image), "levels": levels}
    options |= {"split_by": split_by, "labels": labels, "label_seed": label_seed or None}
    options |= {"missing": missing if missing == "mark" else None, "y": y, "longest": longest}
    options |= {"categories": named if isinstance(named, Mapping) else named and list(named)}
    _check_options(seed, levels, image, labels, label_seed)
    opened = _marked(open_source(source, data_dir=data_dir, image_size=image_size, y=y, categories=named), missing)
    _check_categories(opened, named, levels)
    if longest is not None:
        parts, sequence = keep_short(opened.parts, opened.sequence, longest, opened.name)
        opened = replace(opened, parts=parts, sequence=sequence)
    contents = _inspected(opened, image, levels)
    mode = _binarization(binarize, opened, contents)
    splits = cut(opened, contents, valid, test, seed, split_by)
    if labels is not None:
        splits, contents = hide_labels(splits, contents, labels, label_seed or 0, opened.name)
    data = _described(opened, splits, contents, mode)
    data.recipe = _recipe(source, options)
    return data


def _marked(opened: Source, missing: str | None) -> Source:
    """Return the source with fields that say which labels, and which entries of x, are known."""
    parts = mark_unknown(opened.parts, opened.name)
    return replace(opened, parts=mark_missing(parts, opened.name, opened.categorical) if missing == "mark" else parts)


def _check_options(
    seed: int, levels: int | None, image: tuple[int, ...] | None, labels: int | None, label_seed: int | None
) -> None:
    check_count("seed", seed, 0)
    if image is not None and (len(image) != 3 or min(image) < 1):
        raise DataError(f"image={tuple(image)} is not a shape: give (channels, height, width).")
    if levels is not None and not 2 <= levels <= 65536:
        raise DataError(f"levels={levels} are not possible: give 2 to 65536.")
    if label_seed is not None and labels is None:
        raise DataError(
            f"label_seed={label_seed} decides whose labels are kept, and without labels all are: "
            "give labels, or leave it out.",
            unused="label_seed",
        )


def _check_categories(opened: Source, named: object, levels: int | None) -> None:
    if named and not opened.categorical:
        raise DataError(
            f"categories name columns of a table, and {opened.name} is none: leave them out.", unused="categories"
        )
    if opened.categorical and levels is not None:
        raise DataError(
            f"levels={levels} are those of images, and {opened.name} is a table with columns of categories: leave "
            "the option out."
        )
    if opened.categorical:
        say(opened.categorical, opened.name)


def _inspected(opened: Source, image: tuple[int, int, int] | None, levels: int | None) -> Contents:
    return inspect(
        opened.parts,
        opened.name,
        levels=levels or opened.levels,
        image=tuple(image) if image else opened.image,  # type: ignore[arg-type]
        classes=opened.classes,
    )


def _recipe(source: object, options: dict[str, Any]) -> dict[str, Any] | None:
    """Return what loads the same data again, or None for arrays from memory."""
    if not isinstance(source, str | os.PathLike):
        return None
    place = os.fspath(source) if source in DATASETS or is_url(source) else os.path.abspath(Path(source).expanduser())
    return {"name": place, "options": {name: value for name, value in options.items() if value is not None}}


def _binarization(binarize: str | None, opened: Source, contents: Contents) -> str:
    if binarize in ("static", "dynamic") and contents.support == "real":
        raise DataError(
            f"binarize={binarize!r} needs values between 0 and 1, and x of {opened.name} goes from {contents.low:g} to "
            f"{contents.high:g}: scale x, or use binarize='gray'."
        )
    return "gray" if contents.support == "binary" else binarize or opened.binarize


def _described(opened: Source, splits: dict[str, Split], contents: Contents, mode: str) -> Data:
    """Return the data with their `Spec`, for which the training split is read once."""
    name = opened.name
    sizes = [len(splits[split]) for split in SPLITS]
    told = [f"{_distinct(splits[split]):,}" for split in SPLITS]
    if sizes[0] > _distinct(splits["train"]):
        told[0] += " (labelled ones repeated)"
    features = contents.fields["x"][0]
    support = "binary" if mode != "gray" else contents.support
    levels = contents.levels if support == "levels" else None
    drawn = {"gray": support, "static": "binarized once", "dynamic": "binarized anew each epoch"}[mode]
    drawn = f"{levels} levels" if levels else "whole numbers from 0" if contents.counts else drawn
    facts: dict[str, Any] = {
        "name": name,
        "features": features,
        "image": contents.image,
        "support": support,
        "levels": levels,
        "classes": contents.classes,
        "fields": dict(contents.fields),
        "num_data": sizes[0],
        "binarize": mode,
        "class_names": opened.class_names,
        "counts": contents.counts,
        "feature_names": opened.feature_names,
        "categorical": opened.categorical,
        "sequence": opened.sequence,
        "description": f"{name}: {' / '.join(told)} {_kind(opened, contents)}, {drawn}",
    }
    nothing = torch.empty(features)
    # the moments of a fresh binary draw follow from the grey values' mean: a Bernoulli of that mean
    seen = "static" if mode == "static" else "gray"
    read = Data(Spec(**facts | {"binarize": seen}, mean=nothing, std=nothing), splits, contents)
    facts["strokes"] = support == "real" and _are_strokes(read)
    mean, std = _moments(read)
    if mode == "dynamic":
        std = (mean * (1 - mean)).sqrt()
    return Data(Spec(**facts, mean=mean.float(), std=std.float()), splits, contents)


def _kind(opened: Source, contents: Contents) -> str:
    """Say what one datum is."""
    if opened.sequence:
        return "sequences of {} steps of {} features".format(*opened.sequence)
    features = contents.fields["x"][0]
    kind = f"images {'x'.join(map(str, contents.image))}" if contents.image else f"data of {features} features"
    if opened.categorical:
        kind += f" (columns of categories one-hot: {len(opened.categorical)})"
    return kind + (" (resized)" if opened.resized else "")


def _are_strokes(data: Data) -> bool:
    """Return whether the steps of training sequences are strokes: three features, the last always 0
    or 1.
    """
    if data.spec.sequence is None or data.spec.sequence[1] != 3:
        return False
    batches = data.batches("train", max(1, 2**21 // data.spec.features))
    pens = (batch["x"][:, 2::3] for batch in batches)
    return all(bool(((pen == 0) | (pen == 1)).all()) for pen in pens)


def _distinct(split: Split) -> int:
    """Count the data of a split, those that it repeats once."""
    return len(split) if split.rows is None else len(np.unique(split.rows))


def _moments(data: Data) -> tuple[Tensor, Tensor]:
    """Return (mean, standard deviation) of each feature of training x, in float64, piece by piece;
    of sequences over all steps that are there, the same for each.

    Pieces are joined as in *Updating Formulae and a Pairwise Algorithm for Computing Sample
    Variances* (Chan, Golub & LeVeque, 1979), which stays exact where the mean is large.
    """
    count, mean, squares = 0, torch.zeros(()), torch.zeros(())
    for batch in data.batches("train", max(1, 2**21 // data.spec.features)):
        x = batch["x"].to(torch.float64, copy=True)
        if data.spec.sequence is not None:
            x = x.unflatten(-1, data.spec.sequence)[batch["mask"]]
        here = x.mean(0)
        total = count + len(x)
        x.sub_(here).square_()  # in place: new memory takes longer than the sums
        squares = squares + x.sum(0) + (here - mean).square() * (count * len(x) / total)
        mean = mean + (here - mean) * (len(x) / total)
        count = total
    std = (squares / count).sqrt()
    times = 1 if data.spec.sequence is None else data.spec.sequence[0]
    return mean.repeat(times), std.repeat(times)
