"""Data sets with honest binarization: splits that never leak, batches that cost next to nothing.

The order of an epoch and every binary draw are pure functions of (seed, epoch, step), so a run resumes in the middle of an
epoch without saved state, and each of several processes computes its share of the same global batch.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.binarization import draw, key
from pyro_vae.data.partial_labels import hide_labels, mark_unknown
from pyro_vae.data.readers import DataError
from pyro_vae.data.schema import Contents, flat, inspect
from pyro_vae.data.sources import DATASETS, Source, open_source
from pyro_vae.data.splits import SPLITS, Split, cut

__all__ = ["Data", "Spec", "load_data"]

_BINARIZE = ("gray", "static", "dynamic")

Batch = dict[str, Tensor]
Device = torch.device | str | None


@dataclass(frozen=True, eq=False)
class Spec:
    """What a pair needs to know of its data."""

    name: str
    features: int
    """``x`` is (batch, features)."""
    image: tuple[int, int, int] | None
    """(channels, height, width) where ``x`` is an image, flattened in this order."""
    support: str
    """The narrowest that holds every value of x: "binary" {0, 1}, "levels" {0, 1/(L-1), ..., 1}, "unit" [0, 1], "real"."""
    levels: int | None
    """L of "levels"."""
    classes: int | None
    """``y`` is in 0 .. classes-1, when y is an integer."""
    fields: Mapping[str, tuple[int, ...]]
    """Event shape of each field, x included: ``{"x": (64,), "y": ()}``."""
    mean: Tensor
    """(features,) of training x, as the pair sees them."""
    std: Tensor
    """(features,) of training x, as the pair sees them; 0 where a feature never changes."""
    num_data: int
    """Size of the training split."""
    binarize: str
    """"gray" (values as they are), "static" or "dynamic"."""
    description: str
    class_names: tuple[str, ...] | None = None
    """Of class 0, 1, ..., where the data bring names."""


class Data:
    """The training, validation and test split of one data set, as batches: ``dict`` of fields of the same leading size.

    Made by `load_data`. Every split has one fixed order. Evaluation (`batch`, `batches`) reads it in that order with
    binary draws made once and for all; training (`epoch`) reads the training split in an order drawn for each epoch.
    """

    def __init__(self, spec: Spec, splits: Mapping[str, Split], contents: Contents) -> None:
        self.spec = spec
        self.recipe: dict[str, Any] | None = None
        """What `load_data` needs to load the same again, kept in run folders; None for arrays from memory."""
        self._splits = splits
        self._contents = contents

    def __repr__(self) -> str:
        return f"Data({self.spec.description})"

    def size(self, split: str) -> int:
        """Return the number of data in ``split``: "train", "valid" or "test"."""
        return len(self._split(split))

    def batch(self, split: str, n: int | None = None, *, start: int = 0, device: Device = None) -> Batch:
        """Return the ``n`` data of ``split`` from ``start`` on (all the rest by default), with evaluation's values.

        Raises:
            DataError: no such split, or ``start`` is past its end.
        """
        size = self.size(split)
        if not 0 <= start < size or (n is not None and n < 1):
            raise DataError(f"The {split} split of {self.spec.name} has {size:,} data: no {n} from {start} on.")
        stop = size if n is None else min(size, start + n)
        return self._evaluation(split, np.arange(start, stop), device)

    def batches(self, split: str, batch_size: int, *, device: Device = None) -> Iterator[Batch]:
        """Return an iterator over all of ``split`` in its order, with evaluation's values; the last batch may be smaller."""
        size = self.size(split)
        _check_count("batch_size", batch_size, 1)
        starts = range(0, size, batch_size)
        return (self._evaluation(split, np.arange(i, min(i + batch_size, size)), device) for i in starts)

    @property
    def has_unlabelled(self) -> bool:
        """Whether the training split has data whose ``y`` is not known."""
        split = self._split("train")
        return "labelled" in split.arrays and not split.take("labelled", np.arange(len(split))).all()

    def num_batches(self, batch_size: int) -> int:
        """Return the number of steps in a training epoch.

        Batches all have one size, which keeps one compiled shape: what is left over after the last whole batch waits for
        another epoch, whose order differs. A training split smaller than ``batch_size`` is one batch.
        """
        _check_count("batch_size", batch_size, 1)
        return max(1, self.size("train") // batch_size)

    def epoch(
        self,
        epoch: int,
        batch_size: int,
        *,
        seed: int,
        start: int = 0,
        device: Device = None,
        rank: int = 0,
        world: int = 1,
    ) -> Iterator[Batch]:
        """Return an iterator over the training batches of one epoch.

        Args:
            epoch: number of the epoch, from 0.
            batch_size: of the global batch.
            seed: with ``epoch`` and the step it decides the order and the binary draws, and nothing else does.
            start: number of steps to skip; the rest are bit for bit those of the whole epoch.
            device: where the tensors go.
            rank: this process's number among ``world``. It gets its share, of sizes that differ by one at most, of the
                batch that one process would get.
            world: number of processes.

        Raises:
            DataError: a negative or impossible number.
        """
        for name, value, least in (("epoch", epoch, 0), ("seed", seed, 0), ("start", start, 0), ("world", world, 1)):
            _check_count(name, value, least)
        if not 0 <= rank < world:
            raise DataError(f"rank={rank} is not one of world={world} processes: ranks go from 0 to {world - 1}.")
        return self._training(self.num_batches(batch_size), epoch, batch_size, seed, start, device, rank, world)

    def _training(
        self, steps: int, epoch: int, size: int, seed: int, start: int, device: Device, rank: int, world: int
    ) -> Iterator[Batch]:
        split = self._split("train")
        generator = torch.Generator().manual_seed(key("order", seed, epoch) >> 1)
        order = torch.randperm(len(split), generator=generator).numpy()
        for step in range(start, steps):
            chosen = order[step * size : (step + 1) * size]
            first, last = rank * len(chosen) // world, (rank + 1) * len(chosen) // world
            mine = chosen[first:last]
            if self.spec.binarize == "static":
                yield self._collate(split, mine, key("evaluation", "train"), mine, device)
            else:
                yield self._collate(split, mine, key("noise", seed, epoch, step), np.arange(first, last), device)

    def _evaluation(self, split: str, positions: np.ndarray, device: Device) -> Batch:
        return self._collate(self._split(split), positions, key("evaluation", split), positions, device)

    def _collate(self, split: Split, positions: np.ndarray, noise: int, places: np.ndarray, device: Device) -> Batch:
        """Return the data at ``positions``; datum i's binary draws are those at ``places[i]`` of the stream ``noise``."""
        batch = {}
        for name in split.arrays:
            raw = split.take(name, positions)
            if name != "x":
                batch[name] = _field(raw, self._contents.kinds[name], self._contents.fields[name]).to(device)
                continue
            x, top = flat(raw, self._contents), self._top(raw)
            if self.spec.binarize != "gray":
                x, top = draw(x, top, key=noise, positions=places), 1
            batch[name] = _unit(x, top, device)
        return batch

    def _top(self, raw: np.ndarray) -> int | None:
        """Return the raw value that means 1.0: floats of [0, 1] in a memory-mapped file mean what they say."""
        return None if raw.dtype.kind == "f" else self._contents.top

    def _split(self, split: str) -> Split:
        if split not in self._splits:
            raise DataError(f"There is no split {split!r}: choose train, valid or test.")
        return self._splits[split]


def load_data(
    source: object,
    *,
    data_dir: str | os.PathLike | None = None,
    binarize: str | None = None,
    valid: float | None = None,
    test: float | None = None,
    seed: int = 0,
    image_size: int | None = None,
    image: tuple[int, int, int] | None = None,
    levels: int | None = None,
    split_by: str | None = None,
    labels: int | None = None,
    label_seed: int | None = None,
) -> Data:
    """Return a data set, split and checked.

    Args:
        source: a name in `DATASETS`; a .npz file with ``x`` and any other field, or ``x_train``, ``x_test``, ...; a .npy
            file of ``x`` or a folder with one .npy file a field, both memory-mapped; a folder of images, flat or with a
            subfolder a class, if need be below train, valid and test; or a mapping of arrays or tensors by field.
            Arrays of uint8 mean k/255. Integer ``y`` of shape (data,) are classes, -1 or NaN where they are unknown, other ``y``
            attributes as floats.
        data_dir: where named sets lie or are downloaded to; ``$PYRO_VAE_DATA`` or ``~/.cache/pyro_vae`` by default.
        binarize: "gray": values as they are. "static": every value of [0, 1] is replaced by one binary draw with that
            probability. "dynamic": the same, drawn anew each time in training. Evaluation always sees the same draws.
            By default what the set's published figures use, and gray for colour images and for the user's own data.
        valid: size (or, below 1, fraction) of the validation split, cut from the training part.
        test: the same for the test split; named sets have their own.
        seed: decides which data are cut off.
        image_size: height and width for folders of images, omniglot and celeba, in pixels.
        image: (channels, height, width) of ``x`` that is given as (data, features).
        levels: integer ``x`` are 0 .. levels-1; 256 by default for uint8.
        split_by: name of a field, such as a patient's number; data that agree in it stay in one split.
        labels: how many training data keep their class, equally many a class; the others' are hidden, and a field
            ``labelled`` tells which: see `pyro_vae.data.partial_labels`.
        label_seed: decides which; 0 by default.

    Raises:
        DataError: one sentence about a name, file, array or option that cannot be used.
    """
    _check_count("seed", seed, 0)
    if binarize is not None and binarize not in _BINARIZE:
        raise DataError(f"There is no binarize={binarize!r}: choose gray, static or dynamic.")
    if levels is not None and not 2 <= levels <= 65536:
        raise DataError(f"levels={levels} are not possible: give 2 to 65536.")
    if label_seed is not None and labels is None:
        raise DataError(
            f"label_seed={label_seed} decides whose labels are kept, and without labels all are: give labels, or leave it out.",
            unused="label_seed",
        )
    opened = open_source(source, data_dir=data_dir, image_size=image_size)
    opened = replace(opened, parts=mark_unknown(opened.parts, opened.name))
    contents = inspect(
        opened.parts,
        opened.name,
        levels=levels or opened.levels,
        image=tuple(image) if image else opened.image,  # type: ignore[arg-type]
        classes=opened.classes,
    )
    mode = _binarization(binarize, opened, contents)
    splits = cut(opened, contents, valid, test, seed, split_by)
    if labels is not None:
        splits, contents = hide_labels(splits, contents, labels, label_seed or 0, opened.name)
    data = _described(opened, splits, contents, mode)
    options = {
        "data_dir": data_dir and os.path.abspath(Path(data_dir).expanduser()),
        "binarize": binarize,
        "valid": valid,
        "test": test,
        "seed": seed or None,
        "image_size": image_size,
        "image": image and list(image),
        "levels": levels,
        "split_by": split_by,
        "labels": labels,
        "label_seed": label_seed or None,
    }
    if isinstance(source, str | os.PathLike):
        place = os.fspath(source) if source in DATASETS else os.path.abspath(Path(source).expanduser())
        data.recipe = {"name": place, "options": {name: value for name, value in options.items() if value is not None}}
    return data


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
    kind = f"images {'x'.join(map(str, contents.image))}" if contents.image else f"data of {features} features"
    support = "binary" if mode != "gray" else contents.support
    levels = contents.levels if support == "levels" else None
    drawn = {"gray": support, "static": "binarized once", "dynamic": "binarized anew each epoch"}[mode]
    drawn = f"{levels} levels" if levels else drawn
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
        "description": f"{name}: {' / '.join(told)} {kind}, {drawn}",
    }
    nothing = torch.empty(features)
    # the moments of a fresh binary draw follow from the grey values' mean: a Bernoulli of that mean
    seen = "static" if mode == "static" else "gray"
    mean, std = _moments(Data(Spec(**facts | {"binarize": seen}, mean=nothing, std=nothing), splits, contents))
    if mode == "dynamic":
        std = (mean * (1 - mean)).sqrt()
    return Data(Spec(**facts, mean=mean.float(), std=std.float()), splits, contents)


def _distinct(split: Split) -> int:
    """Count the data of a split, those that it repeats once."""
    return len(split) if split.rows is None else len(np.unique(split.rows))


def _moments(data: Data) -> tuple[Tensor, Tensor]:
    """Return (mean, standard deviation) of each feature of training x, in float64, piece by piece.

    Pieces are joined as in *Updating Formulae and a Pairwise Algorithm for Computing Sample Variances* (Chan, Golub &
    LeVeque, 1979), which stays exact where the mean is large.
    """
    count, mean, squares = 0, torch.zeros(()), torch.zeros(())
    for batch in data.batches("train", max(1, 2**21 // data.spec.features)):
        x = batch["x"].double()
        here = x.mean(0)
        total = count + len(x)
        squares = squares + (x - here).square().sum(0) + (here - mean).square() * (count * len(x) / total)
        mean = mean + (here - mean) * (len(x) / total)
        count = total
    return mean, (squares / count).sqrt()


def _unit(x: np.ndarray, top: int | None, device: Device) -> Tensor:
    """Return ``x / top`` as float32, correctly rounded on every device."""
    if x.dtype != np.uint8:
        x = x.astype(np.float32, copy=False)
    tensor = torch.from_numpy(x).to(device).float()  # bytes travel to the device, not floats
    if top in (None, 1):
        return tensor
    # by a tensor: on CUDA, division by a Python number multiplies with its reciprocal, which is off by one bit
    return tensor.div_(torch.full((), float(top or 1), device=tensor.device))


def _field(raw: np.ndarray, kind: str, shape: tuple[int, ...]) -> Tensor:
    wanted = {"class": np.int64, "integer": np.int64, "boolean": np.bool_, "float": np.float32}[kind]
    return torch.from_numpy(raw.astype(wanted, copy=False).reshape(len(raw), *shape))


def _check_count(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise DataError(f"{name}={value!r} is not possible: give a whole number from {least} on.")
