"""Is the model right? Its samples and predictions against data that it has not seen.

Everything here takes tensors, so that it can be used on anything; ``pyro_vae.diagnostics`` feeds it
with what a pair says.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_vae.diagnostics.judge import Judge
from pyro_vae.diagnostics.one_thread import one_thread


class TwoSample(NamedTuple):
    """Whether a classifier can tell two sets apart, judged on held-out halves."""

    accuracy: float  # 0.5: no
    pvalue: float  # that it only guesses
    stderr: float  # of the accuracy of one that only guesses


class Predictive(NamedTuple):
    """A statistic of the data beside its distribution under the model."""

    observed: float
    expected: float
    spread: float  # standard deviation over data sets that the model draws
    pvalue: float  # two-sided


class PixelCalibration(NamedTuple):
    """Predicted probabilities beside frequencies, for binary data."""

    predicted: Tensor  # (bins,) mean prediction
    frequency: Tensor  # (bins,) how often the pixel was on
    pixels: Tensor  # (bins,) how many
    error: float  # mean distance per pixel


class Neighbours(NamedTuple):
    """Distances to the nearest training datum."""

    samples: float  # median over samples
    test: float  # median over held-out data
    # share of samples nearer to the training data than the nearest 5 % of the held-out data:
    # 0.05 for honest samples
    closer: float


@one_thread()
def two_sample(first: Tensor, second: Tensor, *, components: int = 30, seed: int = 0) -> TwoSample:
    """Train a classifier to tell two sets apart, (data, features) each, on half of them.

    Logistic regression on principal components, their squares and products with neighbours: sees
    means, scales and correlations. Revisiting Classifier Two-Sample Tests (Lopez-Paz & Oquab,
    2017), arXiv 1610.06545.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    count = min(len(first), len(second))
    x = torch.cat([first[:count], second[:count]]).double().flatten(1).cpu().numpy()
    y = np.repeat([0, 1], count)
    order = np.random.default_rng(seed).permutation(2 * count)
    half = order[:count], order[count:]
    features = features_of(torch.as_tensor(x[half[0]]), components)(torch.as_tensor(x)).numpy()
    scaler = StandardScaler().fit(features[half[0]])
    features = np.clip(scaler.transform(features), -10, 10)
    model = LogisticRegression(C=0.1, max_iter=300).fit(features[half[0]], y[half[0]])
    accuracy = float(model.score(features[half[1]], y[half[1]]))
    stderr = 0.5 / math.sqrt(len(half[1]))
    return TwoSample(accuracy, 0.5 * math.erfc((accuracy - 0.5) / stderr / math.sqrt(2)), stderr)


def features_of(fitted: Tensor, components: int = 30) -> Callable[[Tensor], Tensor]:
    """Return what maps x, ``(data, features)``, to principal components, their squares and products
    with neighbours; components and units are those of ``fitted``.
    """
    from sklearn.decomposition import PCA

    base = fitted.double().cpu().numpy()
    pca = PCA(components, svd_solver="randomized", random_state=0).fit(base) if base.shape[1] > components else None
    base = base if pca is None else pca.transform(base)
    centre, scale = base.mean(0), base.std(0) + 1e-12

    def features(x: Tensor) -> Tensor:
        u = x.double().cpu().numpy()
        u = ((u if pca is None else pca.transform(u)) - centre) / scale
        products = [u[:, :-lag] * u[:, lag:] for lag in range(1, min(4, u.shape[1]))]
        return torch.as_tensor(np.concatenate([u, u**2, *products], 1))

    return features


def predictive_checks(observed: Tensor, drawn: Tensor) -> dict[str, Predictive]:
    """Compare statistics of a data set with those of data sets drawn from the model.

    Args:
        observed: (data, features).
        drawn: (sets, data, features), each set of the same size.
    """
    statistics = {
        "mean": lambda x: x.mean((-2, -1)),
        "standard deviation of a feature": lambda x: x.std(-2).mean(-1),
        "standard deviation between data": lambda x: x.mean(-1).std(-1),
        "correlation of neighbouring features": _neighbour_correlation,
        "largest share of one datum": lambda x: x.mean(-1).amax(-1),
        "smallest share of one datum": lambda x: x.mean(-1).amin(-1),
    }
    checks = {}
    for name, statistic in statistics.items():
        seen, sets = float(statistic(observed.double())), statistic(drawn.double())
        below = ((sets < seen).sum() + 0.5 * (sets == seen).sum()).item()
        tail = min(below, len(sets) - below)
        pvalue = min(1.0, 2 * (tail + 1) / (len(sets) + 1))
        checks[name] = Predictive(seen, sets.mean().item(), sets.std().item(), pvalue)
    return checks


def _neighbour_correlation(x: Tensor) -> Tensor:
    centred = x - x.mean(-2, keepdim=True)
    product = (centred[..., 1:] * centred[..., :-1]).mean(-2)
    scale = centred.square().mean(-2).sqrt()
    return (product / (scale[..., 1:] * scale[..., :-1]).clamp(min=1e-6)).mean(-1)


def pixel_calibration(
    probability: Tensor, x: Tensor, bins: int = 10, *, sorted_by: Tensor | None = None
) -> PixelCalibration:
    """Compare predicted probabilities with binary data of the same shape.

    With the probabilities at one draw z ~ q(z | x): if model and guide are right, (x, z) are a draw
    from the model, and of the pixels given probability p a share p is on.

    Args:
        probability: that a pixel is on; or the share of some draws in which it is, with
            ``sorted_by``.
        sorted_by: the share of other draws, independent of the first. Sorted by their own errors,
            estimates would be too extreme in every bin; sorted by another's they are right on
            average.
    """
    p, x = probability.flatten().double(), x.flatten().double()
    index = ((p if sorted_by is None else sorted_by.flatten().double()) * bins).long().clamp(0, bins - 1)
    count = torch.bincount(index, minlength=bins).double()
    known = count.clamp(min=1)
    predicted = torch.bincount(index, p, minlength=bins) / known
    frequency = torch.bincount(index, x, minlength=bins) / known
    error = ((predicted - frequency).abs() * count).sum() / count.sum()
    return PixelCalibration(predicted, frequency, count, error.item())


def frechet(first: Tensor, second: Tensor) -> float:
    """Return the Frechet distance of Gaussians fitted to two sets of features, (data, features)
    each.

    Heusel et al. (2017), arXiv 1706.08500.
    """
    first, second = first.double(), second.double()
    a, b = torch.cov(first.T), torch.cov(second.T)
    values, vectors = torch.linalg.eigh(a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ b @ root).clamp(min=0).sqrt().sum()
    return ((first.mean(0) - second.mean(0)).square().sum() + a.trace() + b.trace() - 2 * cross).clamp(min=0).item()


def classifier_features(x: Tensor, y: Tensor, *sets: Tensor, width: int = 64, seed: int = 0) -> list[Tensor]:
    """Return the hidden layer ``(data, width)`` of a small classifier for each of ``sets``.

    It is trained on (x, y); the hidden layers are features for ``frechet``.
    """
    judge = Judge.train(x, y, width=width, seed=seed)  # fifteen passes are enough for features
    return [judge.features(part) for part in sets]


def neighbours(samples: Tensor, train: Tensor, test: Tensor) -> Neighbours:
    """Measure how near samples lie to training data, and how near held-out data do.

    Samples that lie nearer are memorised.
    """
    near, held = (torch.cdist(x.float(), train.float()).amin(1) for x in (samples, test))
    return Neighbours(near.median().item(), held.median().item(), (near < held.quantile(0.05)).double().mean().item())


@one_thread()
def probes(train: Tensor, train_y: Tensor, test: Tensor, test_y: Tensor) -> dict[str, float]:
    """Return how accurately labels are predicted from codes, linearly and by neighbours."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    parts = [part.detach().cpu().numpy() for part in (train, train_y, test, test_y)]
    models = {"linear": LogisticRegression(max_iter=500), "nearest neighbours": KNeighborsClassifier(10)}
    return {
        name: float(make_pipeline(StandardScaler(), model).fit(parts[0], parts[1]).score(parts[2], parts[3]))
        for name, model in models.items()
    }


def disentanglement(codes: Tensor, factors: Tensor, bins: int = 20) -> float:
    """Return the mutual information gap, 0 to 1, of codes (data, latent) and factors.

    For each factor the two codes that know most of it: the difference, over the factor's entropy
    (Chen et al., 2018, arXiv 1802.04942).
    """
    from sklearn.metrics import mutual_info_score

    if codes.shape[1] < 2:
        raise ValueError(f"a mutual information gap compares two latent dimensions, and there are {codes.shape[1]}")
    codes, factors = codes.cpu(), factors.cpu()
    levels = [_levels(column, bins).numpy() for column in codes.T]
    gaps = []
    for factor in factors.reshape(len(factors), -1).T:
        known = _levels(factor, bins).numpy()
        entropy = mutual_info_score(known, known)
        shared = sorted((mutual_info_score(level, known) for level in levels), reverse=True)
        if entropy > 0:
            gaps.append((shared[0] - shared[1]) / entropy)
    return float(sum(gaps) / len(gaps)) if gaps else 0.0


def _levels(values: Tensor, bins: int) -> Tensor:
    distinct = values.unique()
    if len(distinct) <= bins:
        return torch.searchsorted(distinct, values.contiguous())
    edges = values.double().quantile(torch.linspace(0, 1, bins + 1, dtype=torch.float64)[1:-1])
    return torch.searchsorted(edges, values.double().contiguous())
