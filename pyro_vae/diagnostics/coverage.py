"""Do samples hold all that data hold, and are they more than copies? On tensors alone.

Each function compares samples with data that nothing was trained on, and says what it gives for
samples that are such data themselves.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

NEAREST = 5
ROWS = 2**24  # distances held at a time
EQUAL = 1e-11  # of the mean squared distance from the mean: less is rounding
COVERED = 0.25  # of a class's share of the data: a class with less is not covered
LEAST_PER_CLASS = 8  # samples expected of each class, below which a missing one says nothing


class Coverage(NamedTuple):
    """Density and coverage (Naeem et al., 2020), arXiv 2002.09797."""

    density: float  # samples in the data's neighbourhoods, 1 on average for samples of the truth; may be more
    coverage: float  # share of data with a sample in their neighbourhood
    expected: float  # coverage of samples of the truth, exact for continuous data


class Copies(NamedTuple):
    """Whether samples lie nearer to training data than to data held out."""

    share: float  # 0.5: neither, 1: copies
    stderr: float
    score: float  # log odds of the share in standard errors: above 3, chance does not explain it


class Classes(NamedTuple):
    """Which classes samples have, as a classifier sees them."""

    covered: int
    of: int
    missed: list[int]
    shares: dict[int, float]  # of the samples


def coverage(samples: Tensor, data: Tensor, *, nearest: int = NEAREST) -> Coverage:
    """Return how samples, (samples, features), fill the neighbourhoods of data, (data, features).

    The neighbourhood of a datum reaches to its ``nearest``-th neighbour among the data. Where both
    are of one continuous distribution, the expected coverage is 1 - C(n - 1, k) / C(n + m - 1, k)
    for n data and m samples, whatever the distribution.

    Raises:
        ValueError: there are too few data for that many neighbours.
    """
    count, drawn = len(data), len(samples)
    if count <= nearest:
        raise ValueError(f"a neighbourhood of {nearest} data needs more data than that, and there are {count}")
    inside, covered = 0.0, 0
    for part in _pieces(data, max(count, drawn)):
        reach = _distances(part, data).kthvalue(nearest + 1, 1).values  # the nearest is the datum itself
        within = _distances(part, samples) <= reach[:, None]
        inside += within.sum().item()
        covered += int(within.any(1).sum())
    expected = 1 - math.comb(count - 1, nearest) / math.comb(count + drawn - 1, nearest)
    return Coverage(inside / (nearest * drawn), covered / count, expected)


def copies(samples: Tensor, train: Tensor, held_out: Tensor) -> Copies:
    """Return the share of samples, (samples, features), whose nearest datum is one of training.

    Of samples that were drawn like the data, a share n / (n + m) lies nearer to one of n training
    data than to any of m held out. The odds are therefore divided by n / m, so that 0.5 is what
    such samples have, and 1 what copies have. Data at the same least distance count each for its
    part. The error is that of log odds under new data of either kind, some of which are nearest to
    many samples. After A Non-Parametric Test to Detect Data-Copying (Meehan et al., 2020), arXiv
    2004.05675.
    """
    near, far = torch.zeros(len(train)).double(), torch.zeros(len(held_out)).double()
    for part in _pieces(samples, max(len(train), len(held_out))):
        counts = _nearest(part, train, held_out)
        near += counts[0]
        far += counts[1]
    odds = len(train) / len(held_out)
    ours, theirs = near.sum().item(), far.sum().item()
    # half a sample more on either side, so that where all are copies there is an error too
    log_odds = math.log((ours + 0.5) / (theirs + 0.5) / odds)
    spread = math.sqrt(sum((part.square().sum().item() + 1) / (part.sum().item() + 1) ** 2 for part in (near, far)))
    likely = 1 / (1 + math.exp(-log_odds))
    return Copies(ours / (ours + odds * theirs), likely * (1 - likely) * spread, log_odds / spread)


def _nearest(samples: Tensor, train: Tensor, held_out: Tensor) -> tuple[Tensor, Tensor]:
    """Return to how many samples each training and each held-out datum is the nearest, float64."""
    ours, theirs = _distances(samples, train), _distances(samples, held_out)
    least = torch.minimum(ours.amin(1), theirs.amin(1))[:, None]
    near, far = (ours <= least).double(), (theirs <= least).double()
    ties = near.sum(1, keepdim=True) + far.sum(1, keepdim=True)
    return (near / ties).sum(0), (far / ties).sum(0)


def classes_covered(samples: Tensor, data: Tensor) -> Classes:
    """Return which classes of ``data`` the samples have; both are classes, long, (number,).

    A class is covered if its share of the samples is at least a quarter of its share of the data.

    Raises:
        ValueError: there are too few samples for that many classes.
    """
    known, counts = data.unique(return_counts=True)
    expected = counts.double() / len(data) * len(samples)
    if expected.min() < LEAST_PER_CLASS:
        raise ValueError(
            f"{len(samples)} samples of {len(known)} classes are {expected.min():.1f} of the rarest, too few to say "
            f"that it is missing; at least {LEAST_PER_CLASS} are needed"
        )
    found = torch.stack([(samples == one).sum() for one in known]).double()
    missed = known[found < COVERED * expected].tolist()
    shares = {int(one): (number / len(samples)).item() for one, number in zip(known, found, strict=True)}
    return Classes(len(known) - len(missed), len(known), missed, shares)


def _distances(first: Tensor, second: Tensor) -> Tensor:
    """Return squared Euclidean distances, (first, second), so rounded that equal ones are equal.

    They are in a unit of the first: only distances of the same ``first`` are compared.
    """
    centre = first.double().mean(0)
    a, b = first.double() - centre, second.double() - centre
    squares = a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T
    unit = EQUAL * a.square().sum(1).mean().clamp(min=1e-300)
    return (squares / unit).round_().clamp_(min=0)


def _pieces(x: Tensor, against: int) -> Iterator[Tensor]:
    return iter(x.split(max(1, ROWS // max(1, against))))
