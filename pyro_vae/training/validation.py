"""The figures of an epoch: the ELBO at beta = 1 on the validation split, always with the same
draws.

What `pyro_vae.evidence.bound` gives, to the bit, in less time: how the pair's plates lie and
whether it takes particles is found out once for each shape, not in every epoch.
"""

import math
from collections.abc import Iterator
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_vae.data import Data
from pyro_vae.evidence import FAILURES, Meaning, bound, global_sites, meaning_of, rows_together, table_of
from pyro_vae.evidence import MAX_ROWS as WIDTH
from pyro_vae.posterior import code_use
from pyro_vae.program import (
    NEVER,
    PerDatum,
    Terms,
    declared,
    evaluation,
    pieces,
    plate_nesting,
    size_of,
    takes_particles,
    terms,
)
from pyro_vae.training.trainer import Trainer

ROWS = 1000  # data of a batch

Batch = dict[str, Tensor]


class Figures(NamedTuple):
    """In nats per datum; the parts are nan where there are none: nothing is drawn from a guide or
    summed under it, or the objective's own figure stands for the ELBO.
    """

    elbo: float
    reconstruction: float
    kl: float


class Validation:
    """The validation split of a run, or the training split where there is none.

    Attributes:
        split: the name of the one that is looked at.
    """

    def __init__(self, trainer: Trainer, data: Data) -> None:
        self._trainer, self._data = trainer, data
        self.split = "valid" if data.size("valid") else "train"
        self._layouts: dict[Any, tuple[int, bool]] = {}
        self._width: int | None = None  # data that go together
        self._worded: bool | None = None  # whether there is a codebook
        self._shared: bool | None = None  # whether some latent sites lie outside the data plate

    def meaning(self) -> Meaning | None:
        """Return what the pair's figures are of; None for a pair that cannot be run, which training
        says in its own words.
        """
        try:
            return meaning_of(self._trainer.pair, self._trainer.place(self._data.batch("train", 2)))
        except FAILURES:
            return None

    def measure(self) -> Figures:
        """Return the figures; several processes take turns with the batches."""
        figures, count = self._mine()
        if self._trainer.world.size == 1:
            return figures
        *sums, total = self._trainer.world.add([*(value * count for value in figures), count])
        return Figures(*(value / total for value in sums))

    def codes(self) -> dict[str, float]:
        """Return how many codes the split uses, and their perplexity; empty without a codebook.

        Of several processes each looks at the whole split.
        """
        if self._worded is not False:
            total = self._data.size(self.split)
            found = code_use(self._trainer.pair, self._batches(range(0, total, ROWS), min(ROWS, total)))
            self._worded = bool(found)
            for use in found.values():
                return {"codes_used": float(use.used), "perplexity": use.perplexity}
        return {}

    def impossible(self) -> int | None:
        """Return the first datum of the split whose figure is -inf; None where none is, or where
        data have no figures of their own.
        """
        if self._shared is not False:
            return None
        total = self._data.size(self.split)
        with evaluation(self._trainer.pair, 0):
            for start in range(0, total, ROWS):
                for batch in self._batches(range(start, start + 1), min(ROWS, total - start)):
                    each = torch.stack([term.sum(0) for term in self._terms(batch).sites.values()]).sum(0)
                    if (never := (each <= NEVER).nonzero()).numel():
                        return start + int(never[0])
        return None

    def _mine(self) -> tuple[Figures, int]:
        """Return the figures of this process's share, and of how many data they are."""
        world, total = self._trainer.world, self._data.size(self.split)
        rows = min(ROWS, -(-total // world.size))
        starts = range(0, total, rows)[world.rank :: world.size]
        count = sum(min(rows, total - start) for start in starts)
        if not count:
            return Figures(0.0, 0.0, 0.0), 0
        pair = self._trainer.pair
        yields = declared(pair.objective)
        if yields.validates or not yields.has_elbo:
            return self._objective(self._batches(starts, rows), count), count
        if self._shared is None:
            self._shared = bool(global_sites(pair, next(self._batches(starts, rows))))
        if self._shared:
            table = bound(pair, self._batches(starts, rows), self._data.size("train"))
            return Figures(table.elbo, table.reconstruction, table.kl), count
        return self._elbo(self._batches(starts, rows), count), count

    def _batches(self, starts: range, rows: int) -> Iterator[Batch]:
        return (self._trainer.place(self._data.batch(self.split, rows, start=start)) for start in starts)

    def _elbo(self, batches: Iterator[Batch], count: int) -> Figures:
        """Return what `pyro_vae.evidence.elbo` does."""
        sums: dict[str, float] = {}
        observed: set[str] = set()
        with evaluation(self._trainer.pair, 0):
            first = next(batches)
            self._width = self._width or rows_together(self._trainer.pair, first, WIDTH)
            for piece in pieces(chain([first], batches), self._width):
                parts = self._terms(piece)
                observed |= parts.observed
                names = list(parts.sites)
                totals = torch.stack([parts.sites[name].double().sum() for name in names]).tolist()
                for name, total in zip(names, totals, strict=True):
                    sums[name] = sums.get(name, 0.0) + total
        table = table_of({name: value / count for name, value in sums.items()}, observed)
        whole = sums.keys() <= observed  # no term of a latent site: the ELBO is log p(x) itself
        return Figures(table.elbo, *((math.nan, math.nan) if whole else (table.reconstruction, table.kl)))

    def _terms(self, piece: Batch) -> Terms:
        pair = self._trainer.pair
        shapes = tuple((name, value.shape) for name, value in piece.items())
        if shapes not in self._layouts:
            nesting = plate_nesting(pair, piece)
            self._layouts[shapes] = nesting, takes_particles(pair, piece, nesting)
        nesting, vectorized = self._layouts[shapes]
        return terms(pair, piece, 1 if vectorized else None, nesting, marginal=False)

    def _objective(self, batches: Iterator[Batch], count: int) -> Figures:
        """Return minus the objective's loss: what there is where guide or model have no density to
        compare, and what is quicker where the objective says so.
        """
        pair, total = self._trainer.pair, 0.0
        with evaluation(pair, 0), PerDatum(self._data.size("train"), pair.data_plate):
            for batch in batches:
                total -= pair.objective.loss(pair.bound_model, pair.bound_guide, batch) * size_of(batch)
        return Figures(total / count, math.nan, math.nan)
