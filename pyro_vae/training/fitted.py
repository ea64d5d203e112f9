"""What training returns."""

import math
from dataclasses import dataclass
from typing import Any

from pyro_vae.data import Data
from pyro_vae.program import Pair, Verbs, declared
from pyro_vae.runs import Run
from pyro_vae.training.settings import Training


@dataclass(frozen=True, repr=False)
class Fitted(Verbs):
    """A trained pair; its methods are the pair's, and know the data.

    Its parameters are those with the best ELBO (beta = 1) on the validation split; those of the
    last epoch where the objective yields a figure that is comparable with no other: an unnormalised
    one, or a critic's.
    """

    pair: Pair
    """Model and guide, in evaluation mode."""
    data: Data
    """What it was trained on."""
    history: list[dict[str, float]]
    """A row per epoch: loss in training; elbo, reconstruction and kl on the validation split."""
    epochs: int
    """Epochs trained in all."""
    steps: int
    """Steps taken in all."""
    seconds: float
    """How long this call trained. Of a run that `pyro_vae.load` opened, how long its training took in
    all; NaN where the run does not know.
    """
    compiled: bool
    """Whether the steps were compiled; False for a run that `pyro_vae.load` opened."""
    run: Run | None
    """The run folder, where there is one."""
    training: Training
    """The settings."""

    def __repr__(self) -> str:
        name = self.pair.title
        took = "" if math.isnan(self.seconds) else f" in {self.seconds:.0f} s"
        kept = ""
        if self.best is not None:
            figure = declared(self.pair.objective).shown
            value = self.best.get("figure", self.best["elbo"])
            kept = f", kept epoch {self.best['epoch']:.0f}, validation {figure} {value:.2f}"
        epochs = f"{self.epochs} epoch{'' if self.epochs == 1 else 's'}"
        return f"Fitted({name} on {self.data.spec.name}: {epochs}{took}{kept})"

    def to_pandas(self) -> Any:
        """Return the history as a DataFrame, a row per epoch."""
        import pandas

        return pandas.DataFrame(self.history)

    @property
    def best(self) -> dict[str, float] | None:
        """The row of ``history`` whose parameters the pair has; None where there is none."""
        finite = [row for row in self.history if math.isfinite(row.get("figure", row["elbo"]))]
        if not declared(self.pair.objective).figure.comparable:
            return finite[-1] if finite else None
        return max(finite, key=lambda row: row.get("figure", row["elbo"]), default=None)
