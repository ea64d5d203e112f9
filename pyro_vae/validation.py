"""The figures of an epoch: the ELBO at beta = 1 on the validation split, with the same draws each time."""

from pyro_vae.data import Data
from pyro_vae.evaluation import bound
from pyro_vae.trainer import Trainer

ROWS = 1000  # data of a batch


class Validation:
    """The validation split of a run, or the training split where there is none.

    Attributes:
        split: the name of the one that is looked at.
    """

    def __init__(self, trainer: Trainer, data: Data) -> None:
        self._trainer, self._data = trainer, data
        self.split = "valid" if data.size("valid") else "train"

    def measure(self) -> tuple[float, float, float]:
        """Return ELBO, reconstruction and KL; several processes take turns with the batches."""
        trainer, data, world = self._trainer, self._data, self._trainer.world
        total = data.size(self.split)
        rows = min(ROWS, -(-total // world.size))
        starts = range(0, total, rows)[world.rank :: world.size]
        batches = [trainer.place(data.batch(self.split, rows, start=start)) for start in starts]
        if world.size == 1:
            table = bound(trainer.pair, batches, data.size("train"))
            return table.elbo, table.reconstruction, table.kl
        sums = [0.0] * 4
        if batches:
            table, weight = bound(trainer.pair, batches, data.size("train")), sum(len(b["x"]) for b in batches)
            sums = [table.elbo * weight, table.reconstruction * weight, table.kl * weight, weight]
        *sums, count = world.add(sums)
        elbo, reconstruction, kl = (value / count for value in sums)
        return elbo, reconstruction, kl
