"""q(z1 ... zT | x) = q(z1 | x) q(z2 | z1) ... q(zT | zT-1), noise that nothing learns:

z1 ~ q(z1 | x)              features
zl ~ q(zl | zl-1)           features, from l = 2 up to T

The program is the bottom-up guide's. ``jump`` and ``back`` make it a chain: see `docs/design.md`.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from pyro_vae.guides.bottom_up import BottomUpGuide


class NoisingGuide(BottomUpGuide):
    """``x -> z1 -> ... -> zT``, without parameters.

    Args:
        levels: ``x -> q(z1 | x)``, ``z1 -> q(z2 | z1)``, ..., from the bottom up.
        noise: has ``jump(s, l)`` for q(zl | x) and ``back(z, s, l)`` for q(zl-1 | zl, x).
        units: ``x -> s``, the data in units of order 1.
    """

    def __init__(self, levels: Sequence[nn.Module], noise: nn.Module, units: nn.Module) -> None:
        super().__init__(levels)
        self.noise, self.units = noise, units

    def jump(self, x: Tensor, level: Any) -> Any:
        """Return q(zl | x) for a level, an int or long ``(...)``, 1 to T."""
        return self.noise.jump(self.units(x), level)  # type: ignore[operator]

    def back(self, z: Tensor, x: Tensor, level: Any) -> Any:
        """Return q(zl-1 | zl, x) for a level, an int or long ``(...)``, 2 to T."""
        return self.noise.back(z, self.units(x), level)  # type: ignore[operator]
