"""What training returns."""

from dataclasses import dataclass

from pyro_vae.data import Data
from pyro_vae.program import Pair
from pyro_vae.runs import Run


@dataclass(frozen=True)
class Fitted:
    """A trained pair.

    Its parameters are those with the best ELBO (beta = 1) on the validation split; those of the
    last epoch where the objective yields an unnormalised figure, which is comparable with no other.
    """

    pair: Pair
    data: Data
    history: list[dict[str, float]]
    """A row per epoch: loss in training; elbo, reconstruction and kl on the validation split."""
    epochs: int
    steps: int
    seconds: float
    compiled: bool
    run: Run | None
