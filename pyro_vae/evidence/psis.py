"""The Pareto shape k-hat of importance weights, for many data at once."""

import math

import torch
from torch import Tensor

MAX_KHAT = 0.7  # up to which an estimate and its error can be trusted (Vehtari et al., 2024)
TAIL_FRACTION = 0.2
MIN_TAIL = 5  # weights
# a tail that varies less counts as equal weights: in float32 its shape would be that of rounding
# errors
EQUAL = 1e-4


def tail_size(num_samples: int) -> int:
    """Return how many of the largest weights the tail has (Vehtari et al., section 3)."""
    return math.floor(min(TAIL_FRACTION * num_samples, 3 * math.sqrt(num_samples)))


def khat_of_tail(largest: Tensor, num_samples: int) -> Tensor:
    """Fit k-hat to the largest log-weights of each datum.

    Below 0.5 importance sampling is reliable, up to 0.7 usable, above that not to be trusted.

    Args:
        largest: the ``tail_size(num_samples) + 1`` largest log-weights, ``(tail + 1, ...)``, in any
            order.
        num_samples: how many weights there were.

    Returns:
        k-hat, shape ``(...)``; nan where the tail has fewer than ``MIN_TAIL`` weights. Equal
        weights give -inf: nothing could be better.

    Pareto Smoothed Importance Sampling (Vehtari, Simpson, Gelman, Yao & Gabry, 2024), arXiv
    1507.02646.
    """
    size = tail_size(num_samples)
    shape = largest.shape[1:]
    if size < MIN_TAIL or len(largest) < size + 1:
        return torch.full(shape, math.nan, dtype=torch.float64)
    ordered = largest.double().flatten(1).sort(0).values
    ordered = (ordered - ordered[-1]).exp()
    excess = ordered[1:] - ordered[0]
    flat = excess[-1] <= EQUAL * ordered[-1]
    return torch.where(flat, -math.inf, _pareto_shape(excess.clamp(min=1e-300))).reshape(shape)


def _pareto_shape(x: Tensor) -> Tensor:
    """Return the posterior-mean shape of a generalized Pareto over sorted excesses ``(n, data)``.

    A New and Efficient Estimation Method for the Generalized Pareto Distribution (Zhang & Stephens,
    2009), with the weakly informative prior at 0.5 of ten observations' weight that Vehtari et al.
    add in their appendix.
    """
    n, prior, ten = len(x), 3.0, 10.0
    m = 30 + math.isqrt(n)
    grid = torch.arange(1, m + 1, dtype=x.dtype, device=x.device)[:, None]
    quartile = x[int(n / 4 + 0.5) - 1]
    b = (1 - (m / (grid - 0.5)).sqrt()) / (prior * quartile) + 1 / x[-1]  # (m, data)
    k = torch.stack([torch.log1p(-row * x).mean(0) for row in b])
    log_likelihood = n * (torch.log(-(b / k)) - k - 1)
    weight = torch.softmax(log_likelihood, 0)
    best = (b * weight).sum(0)
    shape = torch.log1p(-best * x).mean(0)
    return (n * shape + ten * 0.5) / (n + ten)
