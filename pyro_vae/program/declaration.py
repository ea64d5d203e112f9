"""What an objective needs of a pair and what it yields, declared where it is defined.

An objective declares by attributes: ``needs``, ``figure``, ``has_kl``, ``per_datum``,
``whole_batch``, ``validates`` and ``momentum``, each with the default of `Declaration`, which is
what Pyro's own ELBOs are. `declared` reads them, and nothing else asks what class an objective is.
"""

from dataclasses import dataclass, fields
from typing import Any, Literal

from pyro_vae.program.pair import PairError


@dataclass(frozen=True)
class Figure:
    """A figure that an objective yields.

    Attributes:
        name: what it is called where it is shown.
        kind: "bound" of log p(x); "exact" log p(x); "unnormalised", off by a constant that training
            moves; a "divergence", which is no log p(x).
        judged: whether a part of the pair that learns too measures it, as the critic of an
            adversarial pair does.
    """

    name: str
    kind: Literal["bound", "exact", "unnormalised", "divergence"]
    judged: bool = False

    @property
    def comparable(self) -> bool:
        """Whether a larger figure at another epoch means a better pair."""
        return self.kind != "unnormalised" and not self.judged


@dataclass(frozen=True)
class Declaration:
    """What an objective needs and yields.

    Attributes:
        needs: of "guide" (its sites cover the model's latent sites) and "density" (every site has a
            log-probability).
        figure: what minus its loss is.
        has_kl: whether it has a KL, or the log-ratio of q and p, for beta to weight.
        per_datum: whether it weights each datum by itself, so that a KL over the batch does not
            exist in it.
        whole_batch: whether it looks at the data of a batch together, so that pieces of the batch
            would be another objective.
        validates: whether its own figure is an unbiased estimate of the ELBO that takes less time
            than the programs' own, so that epochs are measured by it.
        momentum: how much of the mean gradient Adam and its kin keep from step to step. Where two
            parts of a pair work against each other, less than elsewhere.
    """

    needs: frozenset[str] = frozenset(["guide", "density"])
    figure: Figure = Figure("ELBO", "bound")
    has_kl: bool = True
    per_datum: bool = False
    whole_batch: bool = False
    validates: bool = False
    momentum: float = 0.9

    @property
    def has_elbo(self) -> bool:
        """Whether a pair that suits the objective has an ELBO; if not, its own figure stands for
        it.
        """
        return self.needs >= {"guide", "density"}

    @property
    def is_elbo(self) -> bool:
        """Whether the figure of an epoch is an ELBO, and not some other figure of its own."""
        return self.has_elbo and self.figure.comparable

    @property
    def shown(self) -> str:
        """What the figure of an epoch is called."""
        if not self.has_elbo or self.validates:
            return self.figure.name
        return "ELBO" if self.figure.comparable else "unnormalised ELBO"

    def __post_init__(self) -> None:
        unknown = self.needs - {"guide", "density"}
        if unknown:
            raise PairError(f"an objective needs {', '.join(sorted(unknown))}; it can need guide and density")


def declared(objective: Any) -> Declaration:
    """Return what an objective declares, with the values of Pyro's ELBOs as defaults.

    Raises:
        PairError: it needs something unknown.
    """
    given = {f.name: getattr(objective, f.name) for f in fields(Declaration) if hasattr(objective, f.name)}
    return Declaration(**given)
