"""What is compared, and whether it can be."""

import copy
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from pyro_vae.data import SPLITS, Data, DataError
from pyro_vae.evidence import Meaning, meaning_of
from pyro_vae.program import Pair, has_density
from pyro_vae.training import Fitted
from pyro_vae.using import load

BINARIZED = {"gray": "takes values as they are", "static": "binarizes once", "dynamic": "binarizes anew each epoch"}


@dataclass(frozen=True)
class Entry:
    """A trained pair, by a name."""

    name: str
    pair: Pair
    data: Data
    seconds: float | None  # of training; None where they are not known

    def meaning(self, split: str) -> Meaning:
        """Return what its figures are of."""
        return meaning_of(self.pair, self.data.batch(split, 2))


def entry_of(given: object) -> Entry:
    """Return what ``fit`` or ``load`` returned, or a run's folder, as an entry.

    Raises:
        TypeError: it is something else.
    """
    fitted = load(given) if isinstance(given, str | os.PathLike) else given
    if not isinstance(fitted, Fitted):
        raise TypeError(
            f"compare takes run folders and what fit or load returned, and got a {type(given).__name__}; "
            "a pair alone does not say what data it was trained on"
        )
    seconds = fitted.seconds if fitted.run is None else fitted.run.seconds
    name = os.path.basename(os.path.normpath(fitted.run)) if fitted.run else ""
    known = seconds if seconds is not None and math.isfinite(seconds) else None
    entry = Entry(name, _single(fitted.pair), fitted.data, known)
    return entry if name else replace(entry, name=entry.pair.title)


def _single(pair: Pair) -> Pair:
    """Return a pair that takes data of single precision: a copy of one trained in double."""
    if torch.float64 not in {tensor.dtype for tensor in pair.state_dict().values()}:
        return pair
    pair = copy.deepcopy(pair)
    for module in pair.modules().values():
        module.float()
    return pair


def with_names(entries: Sequence[Entry], names: Sequence[str] | None = None) -> list[Entry]:
    """Return the entries by names of their own: as given, or numbered where two have one.

    Raises:
        ValueError: there are not as many names, or two are the same.
    """
    if names is None:
        often = Counter(entry.name for entry in entries)
        seen: Counter[str] = Counter()
        names = []
        for entry in entries:
            seen[entry.name] += 1
            names.append(f"{entry.name} {seen[entry.name]}" if often[entry.name] > 1 else entry.name)
    if len(names) != len(entries):
        raise ValueError(f"there are {len(names)} names for {len(entries)} runs; give one for each")
    if len(set(names)) != len(names):
        raise ValueError("two runs have the same name; give each its own")
    return [replace(entry, name=name) for name, entry in zip(names, entries, strict=True)]


def require_comparable(entries: Sequence[Entry], split: str) -> None:
    """Refuse runs whose figures cannot stand in one table.

    Raises:
        DataError: naming two runs, and in what they differ.
    """
    first = entries[0]
    for other in entries[1:]:
        _require_same_data(first, other)
    kinds = [(entry, entry.meaning(split).is_density) for entry in entries if has_density(entry.pair)]
    for other, is_density in kinds[1:]:
        known, was_density = kinds[0]
        if is_density != was_density:
            told = {True: "a density of real values", False: "a probability"}
            raise DataError(
                f"{known.name} gives x {told[was_density]} and {other.name} {told[is_density]}, which are not "
                "comparable; compare runs of one kind, such as discretized likelihoods (--likelihood) on grey levels"
            )


def _require_same_data(first: Entry, other: Entry) -> None:
    ours, theirs = first.data, other.data
    if (ours.spec.name, ours.spec.features) != (theirs.spec.name, theirs.spec.features):
        raise _differ(first, other, "was trained on {} ({} features)", "name", "features")
    if ours.spec.binarize != theirs.spec.binarize:
        told = (f"{entry.name} {BINARIZED[entry.data.spec.binarize]}" for entry in (first, other))
        raise DataError(f"{' and '.join(told)}, so that their data differ; train both with the same --binarize")
    if (ours.spec.support, ours.spec.levels) != (theirs.spec.support, theirs.spec.levels):
        raise _differ(first, other, "takes x as {} ({} levels)", "support", "levels")
    if ours.fingerprint == theirs.fingerprint:
        return
    # where labels are hidden, the training split repeats those that are known
    splits = [split for split in SPLITS if split != "train" or ours.has_unlabelled == theirs.has_unlabelled]
    for split in splits:
        if ours.size(split) != theirs.size(split):
            raise DataError(
                f"{first.name} has {ours.size(split):,} data in its {split} split and {other.name} "
                f"{theirs.size(split):,}; train both on the same splits"
            )
    if not all(_same_x(ours, theirs, split) for split in splits):
        raise DataError(
            f"{first.name} and {other.name} hold other data in their splits of {ours.spec.name}: these were cut with "
            "another seed, or the source has changed; train both on the same splits"
        )


def _differ(first: Entry, other: Entry, text: str, *facts: str) -> DataError:
    told = (
        f"{entry.name} {text.format(*(getattr(entry.data.spec, fact) for fact in facts))}" for entry in (first, other)
    )
    return DataError(f"{' and '.join(told)}, and only runs on the same data can be compared")


def _same_x(first: Data, other: Data, split: str, rows: int = 2000) -> bool:
    """Return whether x of a split is the same, whatever other fields there are."""
    if not first.size(split):
        return True
    both = zip(first.batches(split, rows), other.batches(split, rows), strict=True)
    return all(torch.equal(one["x"], two["x"]) for one, two in both)
