"""What a model costs: to train, to draw from, and to score data with."""

from dataclasses import asdict, dataclass
from time import perf_counter

from pyro_vae.comparison.density import Density
from pyro_vae.comparison.entries import Entry
from pyro_vae.evidence import elbo, log_evidence, normalized

SCORED = 50  # data that are timed


@dataclass(frozen=True)
class Cost:
    """Seconds on this machine, except for training, which may have been elsewhere.

    Attributes:
        train: in all; None where the run does not know.
        sample: per sample, of as many as the table is of; None where nothing is drawn.
        score: per datum, of the density's figure, with as many draws; None without one.
    """

    train: float | None
    sample: float | None
    score: float | None

    def to_dict(self) -> dict[str, float | None]:
        """Return the seconds as JSON holds them."""
        return asdict(self)


def seconds_to_score(entry: Entry, split: str, density: Density, *, seed: int) -> float | None:
    """Return the seconds that the density's figure takes per datum.

    That of log Z, once for all data, is left out.
    """
    if density.value is None:
        return None
    batch, _ = entry.data.subset(split, SCORED)
    with normalized(entry.pair, temperatures=1, chains=2, seed=seed):
        began = perf_counter()
        if density.kind == "ELBO":
            elbo(entry.pair, batch, seed=seed)
        else:
            log_evidence(entry.pair, batch, num_samples=density.num_samples or 1, seed=seed)
        return (perf_counter() - began) / len(batch["x"])
