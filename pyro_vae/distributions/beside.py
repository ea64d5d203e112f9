"""Several distributions of vectors as one, their events side by side: columns of different kinds."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor


class _SideBySide(constraints.Constraint):
    """Vectors of which every stretch meets its own constraint."""

    event_dim = 1

    def __init__(self, each: Sequence[Any], sizes: Sequence[int]) -> None:
        self.each, self.sizes = each, sizes

    @property
    def is_discrete(self) -> bool:  # type: ignore[override]
        """Whether every stretch is discrete: with one density the whole is a density."""
        return all(one.is_discrete for one in self.each)

    def check(self, value: Tensor) -> Tensor:
        """Return whether each vector is allowed, boolean ``(...)``."""
        stretches = value.split(list(self.sizes), -1)
        checked = [one.check(stretch) for one, stretch in zip(self.each, stretches, strict=True)]
        return torch.stack(torch.broadcast_tensors(*checked)).all(0)


class Beside(TorchDistribution):
    """Independent vectors, one behind the other: log p is the sum of the parts'.

    Args:
        parts: distributions of vectors, event shapes ``(size,)``, whose batch shapes broadcast.
        batch_shape: a larger one than theirs.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (torch's own attribute)
    has_rsample = False

    def __init__(self, parts: Sequence[Any], batch_shape: Any = None) -> None:
        self.parts = tuple(parts)
        self.sizes = [part.event_shape[0] for part in self.parts]
        shape = torch.broadcast_shapes(*(part.batch_shape for part in self.parts))
        super().__init__(
            torch.Size(shape if batch_shape is None else batch_shape),
            torch.Size([sum(self.sizes)]),
            validate_args=False,
        )

    @constraints.dependent_property(event_dim=1)
    def support(self) -> constraints.Constraint:
        """That of each part, where it lies."""
        return _SideBySide([part.support for part in self.parts], self.sizes)

    @property
    def unmasked(self) -> "Beside":
        """The same with everything counting."""
        bare = (getattr(part, "unmasked", None) or _bare(part) for part in self.parts)
        return Beside(list(bare), self.batch_shape)

    @property
    def _mask(self) -> Tensor | None:
        """All masks of the parts in a row, or None: as Pyro's own masked distributions have it."""
        masks = [mask for part in self.parts for mask in _masks(part)]
        return torch.cat([mask.reshape(-1) for mask in masks]) if masks else None

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Beside":
        """Return the same distributions with a larger batch shape."""
        return Beside(self.parts, batch_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of ``value``, in nats: a density where a part has one."""
        stretches = value.split(self.sizes, -1)
        total = sum(part.log_prob(stretch) for part, stretch in zip(self.parts, stretches, strict=True))
        return total.expand(torch.broadcast_shapes(total.shape, self.batch_shape))  # type: ignore[union-attr]

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 (torch's own default)
        """Return draws, ``sample_shape + batch_shape + event_shape``."""
        with torch.no_grad():
            return self._together(lambda part: part.expand(self.batch_shape).sample(torch.Size(sample_shape)))

    @property
    def mean(self) -> Tensor:
        """The parts' means; of one-hot categories, their probabilities: ``batch_shape + event_shape``."""
        return self._together(lambda part: part.mean)

    @property
    def variance(self) -> Tensor:
        """The parts' variances, ``batch_shape + event_shape``."""
        return self._together(lambda part: part.variance)

    def _together(self, of: Callable[[Any], Tensor]) -> Tensor:
        each = [of(part) for part in self.parts]
        shape = torch.broadcast_shapes(self.batch_shape, *(one.shape[:-1] for one in each))
        return torch.cat([one.expand(*shape, -1) for one in each], -1)


def _bare(part: Any) -> Any:
    """Return a part without its mask, which Pyro puts around it or around its features."""
    if hasattr(part, "_mask"):
        return part.base_dist
    inner = getattr(part, "base_dist", None)
    if inner is not None and hasattr(inner, "_mask"):
        return inner.base_dist.to_event(part.reinterpreted_batch_ndims)
    return part


def _masks(part: Any) -> list[Tensor]:
    found = []
    while part is not None:
        mask = getattr(part, "_mask", None)
        found += [] if mask is None else [torch.as_tensor(mask)]
        part = getattr(part, "base_dist", None)
    return found
