"""Vectors of a codebook at several places: a mass function whose values are real vectors."""

from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

MOST_VALUES = 2**16  # that are listed one by one


def nearest(vectors: Tensor, z: Tensor) -> Tensor:
    """Return the number of the vector nearest to each part of ``z``: long, ``(..., places)``.

    The first of those at equal distance. Distances are computed in single precision at least and
    from differences, one part at a time: no code depends on what else is in the batch, and a vector
    of the codebook is its own nearest.

    Args:
        vectors: ``(codes, size)``.
        z: ``(..., places * size)``.
    """
    parts, vectors = _in_parts(vectors.detach(), z.detach())
    apart = torch.cdist(parts.reshape(-1, vectors.shape[-1]), vectors, compute_mode="donot_use_mm_for_euclid_dist")
    return apart.argmin(-1).reshape(parts.shape[:-1])


def distances(vectors: Tensor, z: Tensor) -> Tensor:
    """Return the squared distances of each part of ``z`` to each vector: ``(..., places, codes)``."""
    parts, vectors = _in_parts(vectors, z)
    return (parts.unsqueeze(-2) - vectors).square().sum(-1)


def _in_parts(vectors: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Return z as ``(..., places, size)`` and the vectors, in a precision that tells them apart."""
    dtype = torch.promote_types(torch.promote_types(vectors.dtype, z.dtype), torch.float32)
    return z.to(dtype).unflatten(-1, (-1, vectors.shape[-1])), vectors.to(dtype)


class _Codewords(constraints.Constraint):
    """Rows of a codebook side by side, to rounding."""

    is_discrete = True
    event_dim = 1

    def __init__(self, vectors: Tensor) -> None:
        self.vectors = vectors

    def check(self, value: Tensor) -> Tensor:
        """Return whether each value, ``(..., places * size)``, is made of the codebook's vectors."""
        word = self.vectors[nearest(self.vectors, value)].flatten(-2)
        scale = self.vectors.abs().max()
        return ((word - value).abs() <= 1e-5 * scale).all(-1)


class Codebook(TorchDistribution):
    """One of a codebook's vectors at each of several places, side by side: ``(places * size,)``.

    The values are vectors, so that nets can read them; the distribution is discrete, and
    ``log_prob`` is a log-probability, of the codes nearest to the value. The vectors are taken to
    differ: equal ones would share what is counted for the first.

    Args:
        vectors: the codebook, ``(codes, size)``.
        index: the distribution of the codes' numbers: event shape ``(places,)``.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (torch's own attribute)
    has_rsample = False
    has_enumerate_support = True

    def __init__(self, vectors: Tensor, index: TorchDistribution) -> None:
        self.vectors, self.index = vectors, index
        (self.places,), (self.num_codes, size) = index.event_shape, vectors.shape
        super().__init__(index.batch_shape, torch.Size([self.places * size]), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Codebook":
        """Return the same distribution with a larger batch shape."""
        return Codebook(self.vectors, self.index.expand(torch.Size(batch_shape)))

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        """The codebook's vectors, one at each place."""
        return _Codewords(self.vectors)

    def codes(self, value: Tensor) -> Tensor:
        """Return the numbers of the codes nearest to ``value``: long, ``(..., places)``."""
        return nearest(self.vectors, value)

    def words(self, codes: Tensor) -> Tensor:
        """Return the vectors of codes ``(..., places)``, side by side: ``(..., places * size)``."""
        return self.vectors[codes].flatten(-2)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log P of the codes nearest to ``value``, in nats; its gradient reaches the
        probabilities and not the vectors.
        """
        return self.index.log_prob(self.codes(value))

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 (torch's own default)
        """Return draws, ``sample_shape + batch_shape + (places * size,)``.

        Given the codes a draw is a function of the vectors, whose gradient it has.
        """
        return self.words(self.index.sample(torch.Size(sample_shape)).long())

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """Return all values, ``(codes ** places, ..., places * size)``.

        Raises:
            ValueError: there are too many.
        """
        if self.num_codes**self.places > MOST_VALUES:
            raise ValueError(
                f"{self.num_codes} codes at {self.places} places make more than {MOST_VALUES:,} values, too many to "
                "be summed over: draw them, or use fewer places."
            )
        every = [torch.arange(self.num_codes, device=self.vectors.device)] * self.places
        values = self.words(torch.cartesian_prod(*every).reshape(-1, self.places))
        values = values.reshape(-1, *(1 for _ in self.batch_shape), *self.event_shape)
        return values.expand(-1, *self.batch_shape, *self.event_shape) if expand else values
