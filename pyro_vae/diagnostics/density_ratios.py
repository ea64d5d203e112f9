"""The ratio of two densities from draws of both, by telling them apart.

A classifier that knows p from q knows their ratio: with as much weight on either, its log-odds are
log p(x) / q(x). Nothing else of p and q is needed, so models without a density can be compared
with data, and with one another. *Density Ratio Estimation in Machine Learning (Sugiyama, Suzuki &
Kanamori, 2012)*.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_vae.diagnostics.criticism import features_of
from pyro_vae.diagnostics.one_thread import one_thread
from pyro_vae.objectives import divergence_bound

LEAST = 40  # draws of either, below which nothing can be learned and nothing judged
STRENGTHS = (1e-4, 1e-3, 0.01, 0.1, 1.0)  # of the prior on a critic's weights, inverse: how far they may go
INNER = 4  # parts of a training part, on which the strength and the scale of its critic are chosen
SURE = 3.0  # standard errors

Features = Callable[[Tensor], Tensor]


class _Critic(NamedTuple):
    """A logistic regression on standardised features."""

    features: Features
    centre: np.ndarray
    scale: np.ndarray
    weight: np.ndarray
    bias: float

    def logits(self, x: Tensor) -> np.ndarray:
        """Return log p(x) / q(x) for each row, as far as this critic can tell."""
        seen = _array(self.features(x))
        return np.clip((seen - self.centre) / self.scale, -10, 10) @ self.weight + self.bias


@dataclass(frozen=True, repr=False)
class DensityRatio:
    """log p(x) / q(x) as a function of x, with how far to believe it.

    Attributes:
        divergence: a lower bound on the Jensen-Shannon divergence of p and q, in nats: 0 where they
            are the same, log 2 where no x is likely under both. Every draw is judged by a critic
            that was not trained on it, so that the bound holds on average, and may come out
            negative where a critic is too sure of itself.
        stderr: its standard error, over the draws.
        accuracy: share of draws that are told to come from where they do, p and q counting alike.
        slope: what the log-ratios of draws that were not trained on would have to be multiplied
            by, to be right; below 1 the critics are too sure of themselves.
        slope_stderr: its standard error.
    """

    divergence: float
    stderr: float
    accuracy: float
    slope: float
    slope_stderr: float
    critics: tuple[_Critic, ...]
    features: int

    def __call__(self, x: Any) -> Tensor:
        """Return log p(x) / q(x) in nats, float64 ``(data,)``, for ``x`` of the draws' shape."""
        return self._each(x).mean(0)

    def uncertainty(self, x: Any) -> Tensor:
        """Return the standard error of log p(x) / q(x) at each ``x``, float64 ``(data,)``.

        It is the jackknife's over the folds: how much the answer changes with the draws, for this
        kind of critic. What no such critic can express is not in it; ``slope`` shows part of that.
        """
        each = self._each(x)
        return each.std(0, correction=0) * math.sqrt(len(each) - 1)

    @property
    def believable(self) -> bool:
        """Whether log-ratios are calibrated on draws that no critic was trained on: the slope is 1
        within its error, or 0.1.
        """
        return abs(self.slope - 1) <= max(0.1, SURE * self.slope_stderr) and self.divergence > -SURE * self.stderr

    def __repr__(self) -> str:
        tone = "calibrated" if self.believable else "not calibrated: do not believe single ratios"
        return (
            f"DensityRatio(Jensen-Shannon divergence >= {self.divergence:.4f} ± {self.stderr:.4f} nats; accuracy "
            f"{self.accuracy:.2f}; slope {self.slope:.2f} ± {self.slope_stderr:.2f}, {tone})"
        )

    def _each(self, x: Any) -> Tensor:
        rows = _rows(x, "x")
        if rows.shape[1] != self.features:
            raise ValueError(f"x has {rows.shape[1]} features, and the draws that were compared have {self.features}")
        return torch.as_tensor(np.stack([critic.logits(rows) for critic in self.critics]))


def density_ratio(p: Any, q: Any, *, features: Features | None = None, folds: int = 10, seed: int = 0) -> DensityRatio:
    """Return log p(x) / q(x) from draws of p and of q.

    Logistic regression on the principal components of x, their squares and products with
    neighbours, which knows the ratio of two normals exactly; or on ``features`` of your own. Each
    of ``folds`` critics leaves a part of the draws out and is judged on it; how far its weights may
    go and how sure of itself it may be is chosen inside the rest.

    Args:
        p: draws of p, such as held-out data: ``(data, features)``, or ``(data,)`` of single
            numbers; a tensor or an array.
        q: draws of q, such as `Pair.sample` gives.
        features: ``(data, features) -> (data, any)``, fitted to nothing of p and q.
        folds: how many critics.
        seed: of the folds.

    Raises:
        ValueError: draws are too few, of another shape, or not finite.
        TypeError: they are no numbers.
    """
    first, second = _rows(p, "p"), _rows(q, "q")
    _require_comparable(first, second, folds)
    x, label = torch.cat([first, second]), np.repeat([1.0, 0.0], [len(first), len(second)])
    weight = np.where(label == 1, 0.5 / len(first), 0.5 / len(second)) * len(x)
    rng = np.random.default_rng(seed)
    fold = np.concatenate([rng.permutation(len(part)) % folds for part in (first, second)])
    part = rng.permutation(len(x)) % INNER
    critics = []
    logit = np.empty(len(x))
    for number in range(folds):
        out = fold == number
        critics.append(_trained(x[torch.as_tensor(~out)], label[~out], weight[~out], part[~out], features))
        logit[out] = critics[-1].logits(x[torch.as_tensor(out)])
    divergence, stderr = divergence_bound(torch.as_tensor(logit[label == 1]), torch.as_tensor(logit[label == 0]))
    sides = np.sign(logit)  # 0 where a critic says nothing, which is right half of the time
    right = 0.5 + (sides[label == 1].mean() - sides[label == 0].mean()) / 4
    slope, slope_stderr = _slope(logit, label, weight)
    return DensityRatio(divergence, stderr, float(right), slope, slope_stderr, tuple(critics), x.shape[1])


@one_thread()
def _trained(x: Tensor, label: np.ndarray, weight: np.ndarray, part: np.ndarray, features: Features | None) -> _Critic:
    """Return a critic trained on these draws. How far its weights may go, and how sure of itself it
    may be, is chosen on parts of them that were left out in turn.
    """
    seen = features or features_of(x)
    numbers = _array(seen(x))
    centre, scale = numbers.mean(0), numbers.std(0)
    scale = np.where(scale > 1e-9 * (1 + abs(centre)), scale, 1.0)
    numbers = np.clip((numbers - centre) / scale, -10, 10)
    logits = np.empty((len(STRENGTHS), len(x)))
    for number in range(INNER):
        out = part == number
        for row, model in zip(logits, _models(numbers[~out], label[~out], weight[~out], STRENGTHS), strict=True):
            row[out] = model.decision_function(numbers[out])
    costs = (weight * np.logaddexp(0, np.where(label == 1, -logits, logits))).sum(1)
    best = int(costs.argmin())
    sure = float(np.clip(_slope(logits[best], label, weight)[0], 0, 1))
    (model,) = _models(numbers, label, weight, STRENGTHS[best : best + 1])
    return _Critic(seen, centre, scale, sure * model.coef_[0], sure * float(model.intercept_[0]))


def _models(numbers: np.ndarray, label: np.ndarray, weight: np.ndarray, strengths: Sequence[float]) -> Iterator[Any]:
    """Yield a logistic regression for each strength, in their order."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=1000, tol=1e-5, warm_start=True)
    for strength in strengths:
        yield model.set_params(C=strength).fit(numbers, label, sample_weight=weight)


def _slope(logit: np.ndarray, label: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    """Return what the log-odds of labels are per unit of ``logit``, by maximum likelihood, and its
    standard error.
    """
    slope = 1.0
    if not abs(logit).max() > 1e-6:
        return slope, math.inf  # a critic that says nothing is not wrong
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(slope * logit, -500, 500)))
        information = max(float((weight * p * (1 - p) * logit**2).sum()), 1e-12)
        step = float((weight * (label - p) * logit).sum()) / information
        slope += float(np.clip(step, -1, 1))
        if abs(step) < 1e-9:
            break
    return slope, information**-0.5


def _require_comparable(first: Tensor, second: Tensor, folds: int) -> None:
    """Refuse draws that cannot be told apart or judged.

    Raises:
        ValueError: they cannot.
    """
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"draws of p have {first.shape[1]} features and draws of q {second.shape[1]}; give the same x")
    fewest = min(len(first), len(second))
    if fewest < LEAST:
        raise ValueError(f"there are {fewest} draws of one of the two, and at least {LEAST} are needed; draw more")
    if not 2 <= folds <= fewest // 2:
        raise ValueError(f"folds must be from 2 to {fewest // 2}, half of the fewer draws, got {folds}")


def _rows(x: Any, name: str) -> Tensor:
    """Return draws as float64 ``(data, features)``."""
    if not isinstance(x, Tensor | np.ndarray | Sequence):
        raise TypeError(f"{name} is a {type(x).__name__}; give draws as a tensor or an array")
    rows = torch.as_tensor(x).detach().cpu().double()
    rows = rows.reshape(-1, 1) if rows.dim() < 2 else rows.flatten(1)
    if not rows.isfinite().all():
        raise ValueError(f"{int((~rows.isfinite()).any(1).sum()):,} of {len(rows):,} draws of {name} are not finite")
    return rows


def _array(x: Tensor) -> np.ndarray:
    return torch.as_tensor(x).detach().cpu().double().flatten(1).numpy()
