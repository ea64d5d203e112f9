"""What a comparison holds."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from pyro_vae.comparison.cost import Cost
from pyro_vae.comparison.density import Density
from pyro_vae.comparison.representation import Representation
from pyro_vae.comparison.sampling import Sampling
from pyro_vae.data import Data


@dataclass(frozen=True)
class Row:
    """What one run, or one reference, reaches; None where there is nothing to say.

    Attributes:
        name: of the run.
        pair: the name that its pair was built by; empty of a reference.
        left_out: what there is nothing to say of, and why.
        shown: some of its samples, (samples, features), for pictures.
    """

    name: str
    pair: str
    density: Density | None = None
    sampling: Sampling | None = None
    representation: Representation | None = None
    cost: Cost | None = None
    left_out: dict[str, str] = field(default_factory=dict)
    shown: Tensor | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the row as the command line prints it."""
        parts = {name: getattr(self, name) for name in ("density", "sampling", "representation", "cost")}
        plain = {name: part and part.to_dict() for name, part in parts.items()}
        return {"name": self.name, "pair": self.pair, **plain, "left_out": self.left_out}


@dataclass(frozen=True)
class Table:
    """Runs side by side, and references."""

    data: Data
    split: str
    rows: list[Row]
    references: list[Row]  # real data as samples, x and PCA as codes
    samples: int | None  # that every row is judged by; None where none are
    judge: float | None  # accuracy of the classifier whose features are used, on the data held out
    left_out: dict[str, str]  # columns that these data do not allow, and why

    def __getitem__(self, name: str) -> Row:
        """Return the row of a name."""
        for row in (*self.rows, *self.references):
            if row.name == name:
                return row
        raise KeyError(f"no row {name!r}; there are {', '.join(row.name for row in (*self.rows, *self.references))}")

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as ``pyro-vae compare --json`` prints them."""
        return {
            "data": self.data.spec.name,
            "description": self.data.spec.description,
            "split": self.split,
            "num_data": self.data.size(self.split),
            "samples": self.samples,
            "classifier_accuracy": self.judge,
            "rows": [row.to_dict() for row in self.rows],
            "references": [row.to_dict() for row in self.references],
            "left_out": self.left_out,
        }
