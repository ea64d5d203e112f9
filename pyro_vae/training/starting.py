"""Parts of a pair that begin at the data."""

from collections.abc import Mapping

from torch import Tensor

from pyro_vae.program import Pair
from pyro_vae.warning import warn

SEEN = 2000  # data that parts begin at


def start_from_data(pair: Pair, batch: Mapping[str, Tensor]) -> None:
    """Let every part of a pair that has a method ``start_from(x)`` begin at training data.

    A codebook begins at k-means of what the encoder makes of them, say. A state that is loaded
    afterwards overwrites it.

    Args:
        batch: some training data, in float type and place of the pair.
    """
    for module in pair.modules().values():
        for part in module.modules():
            start = getattr(part, "start_from", None)
            if callable(start):
                start(batch["x"])


def warn_of_symmetry(pair: Pair) -> None:
    """Warn of every part of a pair that says it begins ``symmetric``: its latent values can never be
    told apart.
    """
    for module in pair.modules().values():
        for name, part in module.named_modules():
            if getattr(part, "symmetric", False) is True:
                warn(
                    f"the start is symmetric in {name or type(part).__name__!r}: all components are equal, and "
                    "neither EM nor gradients will ever tell them apart; begin at data, such as start_at(x[:10]), or "
                    "at random"
                )
