"""What a model's draws are worth beside data that nothing was trained on."""

from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_vae.comparison.entries import Entry
from pyro_vae.data import Data
from pyro_vae.diagnostics import Judge, classes_covered, copies, coverage, frechet, judge_of, two_sample
from pyro_vae.posterior import generate, repeat_batch
from pyro_vae.program import PairError, pieces

MOST = 1000  # samples
SURE = 3.0  # standard errors
LEAST = 40  # samples and held-out data, below which nothing can be said
WARM_UP = 4  # data drawn before the clock runs


@dataclass(frozen=True)
class Sampling:
    """Samples beside as many held-out data.

    Attributes:
        samples: how many.
        two_sample: accuracy of a classifier that tells them apart, 0.5 by chance.
        two_sample_stderr: its standard error.
        frechet: Frechet distance in the hidden layer of a fixed classifier; None without labels.
        density: how often samples lie where data do, 1 for samples of the truth.
        coverage: share of data with a sample near them.
        classes: how many classes the samples have, as the classifier sees them; None without
            labels.
        num_classes: of how many.
        missed: those that they lack.
        copies: share of samples nearer to training than to held-out data, at equal odds: 0.5 by
            chance, 1 for copies.
        copies_stderr: its standard error.
        copies_score: its log odds, in standard errors.
    """

    samples: int
    two_sample: float
    two_sample_stderr: float
    frechet: float | None
    density: float
    coverage: float
    coverage_expected: float
    classes: int | None
    num_classes: int | None
    missed: tuple[int, ...]
    copies: float
    copies_stderr: float
    copies_score: float

    @property
    def memorised(self) -> bool:
        """Whether samples are nearer to the training data than chance explains."""
        return self.copies_score > SURE

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON holds them."""
        return asdict(self) | {"missed": list(self.missed), "chance": 0.5, "memorised": self.memorised}


class Yardstick(NamedTuple):
    """The data that samples are held against."""

    held_out: Tensor  # (count, features)
    unseen: Tensor  # (data, features), more of them where there are: for the nearest of all
    train: Tensor  # (data, features)
    y: Tensor | None  # (count,), classes of the data held out
    judge: Judge | None
    accuracy: float | None  # of the judge, on these data
    left_out: dict[str, str]  # columns that cannot be had, and why

    @property
    def wanted(self) -> int:
        """How many samples are asked for."""
        return len(self.held_out)


def yardstick(data: Data, split: str, *, most: int = MOST) -> Yardstick | str:
    """Return what samples are held against, or why samples cannot be looked at."""
    if data.spec.sequence is not None:
        return "sequences of different lengths have no distance here"
    if data.has_missing:
        return "some entries of x are missing, and samples are compared with whole data"
    sizes = [data.size(name) for name in (split, "valid") if data.size(name)]
    if (count := min(*sizes, most)) < LEAST:
        return f"there are {count} data to compare samples with, and at least {LEAST} are needed"
    held, _ = data.subset(split, count)
    (unseen, _), (train, _) = data.subset(split, 10_000), data.subset("train", 50_000)
    why = why_unlabelled(data)
    if why:
        told = dict.fromkeys(("Frechet distance", "classes covered"), why)
        return Yardstick(held["x"], unseen["x"], train["x"], None, None, None, told)
    judge = judge_of(data)
    accuracy = (judge.classes(held["x"]) == held["y"]).double().mean().item()
    return Yardstick(held["x"], unseen["x"], train["x"], held["y"], judge, accuracy, {})


def why_unlabelled(data: Data) -> str:
    """Return why there is no classifier of these data; empty where there is one."""
    if "y" not in data.spec.fields:
        return "the data have no labels"
    if data.spec.classes is None:
        return "their y is no class"
    return "some labels are hidden" if data.has_unlabelled else ""


def judged(samples: Tensor, against: Yardstick) -> Sampling:
    """Return what samples, (samples, features), are worth beside the data held out."""
    held, judge = against.held_out, against.judge
    test = two_sample(samples, held)
    near = copies(samples, against.train, against.unseen)
    # in the classifier's features where there are some; else in x itself
    ours, theirs = (samples, held) if judge is None else (judge.features(samples), judge.features(held))
    cover = coverage(ours, theirs)
    classes = None
    if judge is not None and against.y is not None:
        try:
            classes = classes_covered(judge.classes(samples), against.y)
        except ValueError as reason:
            against.left_out["classes covered"] = str(reason)
    return Sampling(
        samples=len(samples),
        two_sample=test.accuracy,
        two_sample_stderr=test.stderr,
        frechet=None if judge is None else frechet(ours, theirs),
        density=cover.density,
        coverage=cover.coverage,
        coverage_expected=cover.expected,
        classes=classes and classes.covered,
        num_classes=classes and classes.of,
        missed=tuple(classes.missed) if classes else (),
        copies=near.share,
        copies_stderr=near.stderr,
        copies_score=near.score,
    )


def drawn(entry: Entry, split: str, count: int, *, seed: int) -> tuple[Tensor, float]:
    """Return ``count`` draws of x, (count, features), and the seconds that each took.

    Raises:
        PairError: the model draws no x, not all of it, or values that are no numbers.
    """
    meaning = entry.meaning(split)
    if not set(meaning.given).isdisjoint(("x", "x_in", "the rest of x")) or "x" not in meaning.observed:
        raise PairError(f"it models {meaning.evidence}, and draws no x from nothing")
    like = repeat_batch(entry.data.batch(split), count)
    few = repeat_batch(like, WARM_UP)
    generate(entry.pair, few, seed=seed, draw=True)
    began = perf_counter()
    parts = [generate(entry.pair, part, seed=seed + n, draw=True)["x"] for n, part in enumerate(pieces(like, 4096))]
    x = torch.cat(parts).reshape(count, -1)
    seconds = (perf_counter() - began) / count
    if not x.isfinite().all():
        raise PairError("some of its draws are not finite")
    return x, seconds
