"""A data set, split: what a pair needs to know of it, and its batches.

The order of an epoch and every binary draw are pure functions of (seed, epoch, step). So a run
resumes in the middle of an epoch without saved state, and each of several processes computes its
share of the same global batch.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.binarization import draw, key
from pyro_vae.data.columns import Column, as_known, some
from pyro_vae.data.fingerprint import fingerprint
from pyro_vae.data.objects import columns_of
from pyro_vae.data.readers import DataError
from pyro_vae.data.schema import Contents, flat
from pyro_vae.data.splits import SPLITS, Split

__all__ = ["Batch", "Data", "Spec"]

Batch = dict[str, Tensor]
Device = torch.device | str | None
STRETCHES = 50  # parts of a split that `Data.subset` takes data from


@dataclass(frozen=True, eq=False, repr=False)
class Spec:
    """What a pair needs to know of its data."""

    name: str
    features: int
    """``x`` is (batch, features)."""
    image: tuple[int, int, int] | None
    """(channels, height, width) where ``x`` is an image, flattened in this order."""
    support: str
    """The narrowest that holds every value of x.

    "binary" {0, 1}, "levels" {0, 1/(L-1), ..., 1}, "unit" [0, 1] or "real".
    """
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
    sequence: tuple[int, int] | None = None
    """(steps, features of a step) where ``x`` is a sequence, its steps side by side."""
    strokes: bool = False
    """Whether these steps are of a pen: (dx, dy, pen up), real moves and 0 or 1."""
    class_names: tuple[str, ...] | None = None
    """Of class 0, 1, ..., where the data bring names."""
    counts: bool = False
    """Whether real x are whole numbers from 0 on."""
    feature_names: tuple[str, ...] | None = None
    """Of the features, where the data bring names: columns of a table."""
    categorical: tuple[Column, ...] = ()
    """The columns of categories of a table: one-hot, behind all others."""

    def __repr__(self) -> str:
        return f"Spec({self.description})"

    @property
    def numbers(self) -> "Spec | None":
        """The description of x without its columns of categories; None where nothing is left."""
        if not self.categorical:
            return self
        count = self.categorical[0].start
        names = self.feature_names and self.feature_names[:count]
        fields = {**self.fields, "x": (count,)}
        first: dict[str, Any] = {
            "mean": self.mean[:count],
            "std": self.std[:count],
            "feature_names": names,
            "fields": fields,
        }
        return replace(self, features=count, categorical=(), **first) if count else None

    def class_label(self, number: int) -> str:
        """Return a class as pictures show it: its number and, where it has one, its name."""
        names = self.class_names or ()
        return f"{number} {names[number]}" if 0 <= number < len(names) else str(number)

    @property
    def class_list(self) -> str:
        """Which class is which number, "0 cat, 1 dog"; empty where classes have no names."""
        return listed_classes(self.class_names or ())

    @property
    def category_list(self) -> str:
        """The columns of categories and what they hold, "colour: blue, red; size: ..."."""
        return "; ".join(f"{column.name}: {some(column.categories)}" for column in self.categorical)


class Data:
    """The training, validation and test split of one data set.

    A batch is a ``dict`` of fields of the same leading size.

    Made by `load_data`. Every split has one fixed order. Evaluation (`batch`, `batches`) reads it
    in that order with binary draws made once and for all; training (`epoch`) reads the training
    split in an order drawn for each epoch.
    """

    def __init__(self, spec: Spec, splits: Mapping[str, Split], contents: Contents) -> None:
        self.spec = spec
        self.recipe: dict[str, Any] | None = None
        """What `load_data` needs to load the same data again; None for arrays from memory."""
        self._splits = splits
        self._contents = contents

    @cached_property
    def fingerprint(self) -> str:
        """What tells these data, cut in these splits, from others: see `data.fingerprint`."""
        return fingerprint(self._splits)

    def __repr__(self) -> str:
        return f"Data({self.spec.description})"

    def size(self, split: str) -> int:
        """Return the number of data in ``split``: "train", "valid" or "test"."""
        return len(self._split(split))

    def choose(self, split: str | None = None) -> str:
        """Return ``split`` if it has data; for None the first of test, valid, train that has some.

        Raises:
            DataError: no such split, or it is empty.
        """
        if split is None:
            return next(name for name in reversed(SPLITS) if self.size(name))
        if not self.size(split):
            raise DataError(
                f"The {split} split of {self.spec.name} is empty: choose {self.choose()}, "
                f"or load the data with a larger {split}."
            )
        return split

    def batch(self, split: str, n: int | None = None, *, start: int = 0, device: Device = None) -> Batch:
        """Return ``n`` data of ``split`` from ``start`` on (default: the rest), as in evaluation.

        Raises:
            DataError: no such split, or ``start`` is past its end.
        """
        size = self.size(split)
        if not 0 <= start < size or (n is not None and n < 1):
            raise DataError(f"The {split} split of {self.spec.name} has {size:,} data: no {n} from {start} on.")
        stop = size if n is None else min(size, start + n)
        return self._evaluation(split, np.arange(start, stop), device)

    def batches(self, split: str, batch_size: int, *, device: Device = None) -> Iterator[Batch]:
        """Return an iterator over all of ``split`` in order, as evaluation sees it.

        The last batch may be smaller.
        """
        size = self.size(split)
        check_count("batch_size", batch_size, 1)
        starts = range(0, size, batch_size)
        return (self._evaluation(split, np.arange(i, min(i + batch_size, size)), device) for i in starts)

    @property
    def has_unlabelled(self) -> bool:
        """Whether the training split has data whose ``y`` is not known."""
        split = self._split("train")
        return "labelled" in split.arrays and not split.take("labelled", np.arange(len(split))).all()

    @property
    def has_missing(self) -> bool:
        """Whether the training split has data of which some of ``x`` is not ``seen``."""
        split = self._split("train")
        return "seen" in split.arrays and not split.take("seen", np.arange(len(split))).all()

    def read(self, x: np.ndarray) -> Tensor:
        """Return other ``x`` as batches hold it, ``(data, features)``: scaled and laid out like the
        source's own. Nothing is binarized.

        Raises:
            DataError: its shape is another.
        """
        wanted = self.spec.features
        if x.ndim == 0 or math.prod(x.shape[1:]) != wanted:
            raise DataError(
                f"x has shape {x.shape}, and {self.spec.name} has {wanted} features: give one row per datum."
            )
        return _unit(flat(x, self._contents), None if x.dtype.kind == "f" else self._contents.top, None)

    def read_table(self, frame: Any) -> Tensor:
        """Return the ``x`` of another table, its columns found by name, as batches hold it.

        Raises:
            DataError: a column is missing, or holds a category that is not known.
        """
        return self.read(as_known(columns_of(frame), self.spec.feature_names or (), self.spec.categorical))

    def subset(self, split: str, count: int, *, device: Device = None) -> tuple[Batch, list[int]]:
        """Return ``count`` data from all over ``split``, as in evaluation, and their positions.

        A split may be sorted by origin, as MNIST's test split is, so data are taken from up to 50
        stretches at equal distances. A split of at most ``count`` data is returned whole.
        """
        size = self.size(split)
        check_count("count", count, 1)
        number = 1 if count >= size else min(count, STRETCHES)
        taken = min(count, size)
        positions = [
            size * i // number + j
            for i in range(number)
            for j in range(taken * (i + 1) // number - taken * i // number)
        ]
        return self._evaluation(split, np.array(positions), device), positions

    def num_batches(self, batch_size: int) -> int:
        """Return the number of steps in a training epoch.

        Batches all have one size, which keeps one compiled shape: what is left over after the last
        whole batch waits for another epoch, whose order differs. A training split smaller than
        ``batch_size`` is one batch.
        """
        check_count("batch_size", batch_size, 1)
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
            seed: with ``epoch`` and the step it decides the order and the binary draws, and nothing
                else does.
            start: number of steps to skip; the rest are bit for bit those of the whole epoch.
            device: where the tensors go.
            rank: this process's number among ``world``. It gets its share, of sizes that differ by
                one at most, of the batch that one process would get.
            world: number of processes.

        Raises:
            DataError: a negative or impossible number.
        """
        for name, value, least in (("epoch", epoch, 0), ("seed", seed, 0), ("start", start, 0), ("world", world, 1)):
            check_count(name, value, least)
        if not 0 <= rank < world:
            raise DataError(f"rank={rank} is not one of world={world} processes: ranks go from 0 to {world - 1}.")
        return self._training(self.num_batches(batch_size), epoch, batch_size, seed, start, device, rank, world)

    def _training(
        self, steps: int, epoch: int, size: int, seed: int, start: int, device: Device, rank: int, world: int
    ) -> Iterator[Batch]:
        split = self._split("train")
        generator = torch.Generator().manual_seed(key("order", seed, epoch) >> 1)
        order = split.order(generator)
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
        """Return the data at ``positions``.

        The binary draws of datum i are those at ``places[i]`` of the stream ``noise``.
        """
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
        """Return the raw value that means 1.0; None for memory-mapped floats, taken as they are."""
        return None if raw.dtype.kind == "f" else self._contents.top

    def _split(self, split: str) -> Split:
        if split not in self._splits:
            raise DataError(f"There is no split {split!r}: choose train, valid or test.")
        return self._splits[split]


def listed_classes(names: Sequence[str], most: int = 12) -> str:
    """Return which class is which number, of ``most`` classes.

    >>> listed_classes(["cat", "dog", "eel"], most=2)
    '0 cat, 1 dog, ... 2 eel'
    """
    told = [f"{number} {name}" for number, name in enumerate(names)]
    return ", ".join(told if len(told) <= most else [*told[:most], f"... {told[-1]}"])


def _unit(x: np.ndarray, top: int | None, device: Device) -> Tensor:
    """Return ``x / top`` as float32, correctly rounded on every device."""
    if x.dtype != np.uint8:
        x = x.astype(np.float32, copy=False)
    tensor = torch.from_numpy(x).to(device).float()  # bytes travel to the device, not floats
    if top in (None, 1):
        return tensor
    # by a tensor: on CUDA, division by a Python number multiplies with its reciprocal, which is off
    # by one bit
    return tensor.div_(torch.full((), float(top or 1), device=tensor.device))


def _field(raw: np.ndarray, kind: str, shape: tuple[int, ...]) -> Tensor:
    wanted = {"class": np.int64, "integer": np.int64, "boolean": np.bool_, "float": np.float32}[kind]
    return torch.from_numpy(raw.astype(wanted, copy=False).reshape(len(raw), *shape))


def check_count(name: str, value: int, least: int) -> None:
    """Refuse an option that is not a whole number from ``least`` on."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise DataError(f"{name}={value!r} is not possible: give a whole number from {least} on.")
