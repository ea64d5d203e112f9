"""What a model says of the probability of held-out data, and how far that can be believed."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pyro_vae.comparison.entries import Entry
from pyro_vae.evidence import Figures, bits_per_dimension, evaluate, latent_sites, quick_samples
from pyro_vae.program import PairError

Kind = Literal["exact", "importance-weighted", "ELBO", "annealed", "none"]


@dataclass(frozen=True)
class Density:
    """log p(x) of held-out data, or what bounds it, in nats per datum.

    Attributes:
        kind: "exact"; "importance-weighted"; the "ELBO" alone, where draws of the guide have no
            weights; "annealed", where the normaliser log Z is; or "none".
        quantity: what it is of, such as "log p(x)" or "log p(x | y)".
        value: None where there is none: an unnormalised figure is no likelihood.
        lower: what log p(x) is at least, minus infinity where nothing bounds it; in expectation,
            for estimates.
        upper: what it is at most, likewise.
        stderr: Monte Carlo standard error, where the value can be believed.
        khat_share: share of data with k-hat above 0.7, of importance weights.
        bits_per_dimension: -value / (features log 2), of probabilities of all of x alone.
        is_density: of real values, whose logarithm may be positive and depends on their unit.
        words: the figure as tables show it.
        why: the reason, where there is none.
    """

    kind: Kind
    quantity: str
    words: str
    value: float | None = None
    lower: float | None = None
    upper: float | None = None
    stderr: float | None = None
    khat_share: float | None = None
    bits_per_dimension: float | None = None
    is_density: bool | None = None
    why: str = ""
    num_samples: int | None = None  # draws per datum that it rests on

    @property
    def bits(self) -> str:
        """Bits per dimension in words: a bound on log p(x) from below is one from above on them."""
        if self.bits_per_dimension is None:
            return "-"
        sign = "" if self.stderr is not None else ">= " if self.kind == "annealed" else "<= "
        return f"{sign}{self.bits_per_dimension:.3f}"

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON holds them."""
        return asdict(self)


def figures_of(entry: Entry, split: str, *, num_samples: int | None, seed: int) -> Figures | str:
    """Return an entry's figures on a split, or why it has none."""
    if num_samples is None:
        sites = latent_sites(entry.pair, entry.data.batch(split, 2))
        num_samples = quick_samples(entry.data.size(split), sites)
    try:
        return evaluate(entry.pair, entry.data, split=split, num_samples=num_samples, seed=seed)
    except PairError as reason:
        return str(reason)


def density_of(figures: Figures | str, features: int) -> Density:
    """Return what figures, or the reason that there are none, say of ``features`` numbers."""
    if isinstance(figures, str):
        return Density("none", "log p(x)", "none", why=figures)
    meaning = figures.meaning
    known: dict[str, Any] = {
        "quantity": meaning.evidence,
        "is_density": meaning.is_density,
    }
    if (own := figures.own) is not None:
        why = f"{meaning.unweighable}; its own figure is the {own.name} {own.words}"
        return Density(**known, kind="none", words="none", why=why)
    if figures.log_evidence is None:
        if not meaning.normalised or meaning.points or meaning.shared or not meaning.modes:
            why = meaning.unweighable or f"{meaning.evidence} is known up to a constant alone"
            return Density(**known, kind="none", words="none", why=why)
        words = f"{meaning.evidence} >= {figures.elbo:.1f} (ELBO)"
        bits = _bits(figures.elbo, figures, features)
        return Density(
            **known, kind="ELBO", words=words, value=figures.elbo, lower=figures.elbo, bits_per_dimension=bits
        )
    value, said = figures.log_evidence, figures.evidence
    known |= {
        "value": value,
        "words": f"{meaning.evidence} {said if said[:2] in ('>=', '<=') else f'= {said}'}",
        "bits_per_dimension": _bits(value, figures, features),
        "num_samples": None if figures.proposal == "exact" or figures.log_z else figures.samples,
    }
    if figures.proposal == "exact":
        return Density(**known, kind="exact", lower=value, upper=value, stderr=0.0)
    if (log_z := figures.log_z) is not None:
        lower = None if log_z.upper is None else value + log_z.lower - log_z.upper
        stderr = None if figures.doubtful else log_z.stderr
        return Density(**known, kind="annealed", lower=lower, upper=value, stderr=stderr)
    stderr = None if figures.doubtful else figures.log_evidence_stderr
    upper = None if figures.doubtful else value
    return Density(
        **known, kind="importance-weighted", lower=value, upper=upper, stderr=stderr, khat_share=figures.khat_share
    )


def _bits(value: float, figures: Figures, features: int) -> float | None:
    """Return bits per dimension of a probability of all of x, given nothing."""
    meaning = figures.meaning
    if meaning.is_density or not meaning.whole or not math.isfinite(value):
        return None
    return bits_per_dimension(value, features)
