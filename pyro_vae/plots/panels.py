"""What a datum looks like where it is a sequence: lines of a pen, or a piano roll."""

from collections.abc import Iterator

import torch
from torch import Tensor

from pyro_vae.data import PITCHES, Spec


def is_drawing(spec: Spec) -> bool:
    """Return whether x is a drawing: steps (dx, dy, pen up)."""
    return spec.sequence is not None and spec.strokes


def is_roll(spec: Spec) -> bool:
    """Return whether x is a piano roll: steps of which key sounds."""
    return spec.sequence is not None and spec.support == "binary" and spec.sequence[1] == PITCHES


def lines_of(x: Tensor) -> Iterator[Tensor]:
    """Yield the lines of a drawing, ``(points, 2)`` each, from its steps ``(steps, 3)``; the pen is
    up until the first point, and after each step that says so.
    """
    place = x[:, :2].cumsum(0)
    ends = (x[:, 2] > 0.5).nonzero().flatten().tolist()
    for first, last in zip([-1, *ends], [*ends, len(x) - 1], strict=True):
        if last > first:
            yield place[first + 1 : last + 1]


def in_box(lines: list[Tensor], side: float, corner: tuple[float, float]) -> list[Tensor]:
    """Return lines moved and scaled, alike in both directions, to fill the middle of a square."""
    if not lines:
        return []
    points = torch.cat(lines)
    low, high = points.amin(0), points.amax(0)
    scale = 0.9 * side / float((high - low).max().clamp(min=1e-6))
    return [(line - (low + high) / 2) * scale + torch.tensor(corner) + side / 2 for line in lines]


def keys_in_use(spec: Spec) -> tuple[int, int]:
    """Return the first and the last key that sounds anywhere in training, and a little around."""
    assert spec.sequence is not None
    used = (spec.mean[: spec.sequence[1]] > 0).nonzero().flatten()
    if not len(used):
        return 0, spec.sequence[1] - 1
    return max(0, int(used[0]) - 1), min(spec.sequence[1] - 1, int(used[-1]) + 1)


def roll_images(x: Tensor, spec: Spec) -> tuple[Tensor, tuple[int, int, int]]:
    """Return piano rolls ``(..., steps * keys)`` as flat images, high keys above, sound dark; and
    the images' shape.
    """
    assert spec.sequence is not None
    low, high = keys_in_use(spec)
    keys = x.unflatten(-1, spec.sequence)[..., low : high + 1].flip(-1).transpose(-1, -2)
    return (1 - keys).flatten(-2), (1, high - low + 1, spec.sequence[0])
