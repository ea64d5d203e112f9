"""The figures of a trained pair, worded so that what cannot be trusted says so."""

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple

from pyro_vae.distributions import LogZ
from pyro_vae.evidence.baselines import pca_figures
from pyro_vae.evidence.meaning import Meaning
from pyro_vae.evidence.particle_filter import FILTERS
from pyro_vae.evidence.psis import MAX_KHAT
from pyro_vae.posterior import CodeUse, use_in_words

if TYPE_CHECKING:
    from pyro_vae.data import Data

TOLERATED = 0.05  # share of data with a higher k-hat at which the mean over all data can still be trusted
SURE = 3.0  # standard errors
IDLE = 1.0  # nats of KL below which z tells no more than three data apart


class Own(NamedTuple):
    """An objective's own figure, of a pair whose x has no log p."""

    name: str
    value: float
    stderr: float | None  # over the data and as many draws of the model; None where no figure of a datum is known

    @property
    def words(self) -> str:
        """The value as tables show it, with its error."""
        return f"{self.value:.3f}" + ("" if self.stderr is None else f" ± {self.stderr:.3f}")


@dataclass(frozen=True)
class Figures:
    """What a pair reaches on a split, in nats per datum.

    ``elbo`` = ``reconstruction`` - ``kl`` = the sum of ``sites``, at beta = 1; nan where x has no
    log p. What else does not apply to a pair is None.
    """

    split: str
    num_data: int
    samples: int  # draws per datum for log p(x)
    elbo: float
    reconstruction: float
    kl: float
    sites: dict[str, float]
    rms_error: float | None  # of the reconstruction, per feature; None with many latent sites
    active_units: int | None
    latent: int | None  # continuous latent dimensions, of which ``active_units`` are active
    log_evidence: float | None  # log p of the observed given what the model is given, by importance sampling
    log_evidence_stderr: float | None  # Monte Carlo standard error of its mean, which sees only the draws made
    ess: float | None  # median effective number of draws
    # share of data with k-hat above 0.7, or whose particle filters differ; None where there are too
    # few draws to know
    khat_share: float | None
    proposal: str | None  # what was drawn from: "refined", "guide", "filter", or "exact" for nothing
    meaning: Meaning
    steps: float | None = None  # mean number of steps of sequences, padding not counted
    dimensions: int | None = None  # features of x, where log p(x) is of its grey levels; None otherwise
    codes: dict[str, CodeUse] | None = None  # how the split uses codebooks, by latent site; None without one
    log_z: LogZ | None = None  # of a model known up to its normaliser, as estimated for log p(x); None otherwise
    own: Own | None = None  # what stands for an ELBO where x has no log p

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as ``pyro-vae evaluate --json`` prints them.

        ``names`` says what ELBO and log p(x) are called for this pair.
        """
        plain = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "meaning"}
        plain["log_z"] = self.log_z and self.log_z.to_dict()
        plain |= {name: None for name in ("elbo", "reconstruction", "kl") if math.isnan(plain[name])}
        plain["own"] = self.own and self.own._asdict()
        plain["codes"] = self.codes and {site: use._asdict() for site, use in self.codes.items()}
        plain["bits_per_dimension"] = self.bits_per_dimension
        return plain | {"names": {"elbo": self.meaning.bound, "log_evidence": self.meaning.evidence}}

    @property
    def doubtful(self) -> bool:
        """Whether log p(x) is only a bound, whatever its standard error: from below, or from above
        where log Z is annealed.
        """
        if self.log_z is not None:
            return not self.log_z.agrees
        return self.log_evidence is not None and not believable(self.khat_share)

    @property
    def best(self) -> tuple[str, float]:
        """The name and the value of log p(x) where it can be trusted, else of the ELBO."""
        if self.log_evidence is None or self.doubtful:
            return self.meaning.bound, self.elbo
        return self.meaning.evidence, self.log_evidence

    @property
    def reached(self) -> str:
        """The answer in words: log p(x) where there is one, else the bound or the own figure."""
        if (own := self.own) is not None:
            return f"{own.name} {own.value:.3f}"
        if self.log_evidence is None:
            return f"{self.meaning.bound} {self.elbo:.2f}"
        words = self.evidence
        return f"{self.meaning.evidence} {'' if words[:1] in '<>' else '= '}{words}"

    @property
    def bits_per_dimension(self) -> float | None:
        """Bits that a feature of x costs, by ``best``: of grey levels, whose probabilities compare
        between models; else None.
        """
        return None if self.dimensions is None else bits_per_dimension(self.best[1], self.dimensions)

    @property
    def evidence(self) -> str:
        """log p(x) in words, see ``evidence_words``; empty where there is none."""
        if self.log_evidence is None:
            return ""
        if self.log_z is not None:
            return annealed_words(self.log_evidence, self.log_z)
        return evidence_words(self.log_evidence, self.log_evidence_stderr, self.khat_share, self.proposal)


class Row(NamedTuple):
    """A line of the table of figures."""

    label: str
    value: str
    baseline: str  # what PCA reaches, or "-"
    doubtful: bool


def bits_per_dimension(log_probability: float, features: int) -> float:
    """Return the bits that each of ``features`` costs, given log P(x) in nats per datum."""
    return -log_probability / (features * math.log(2))


def believable(khat_share: float | None) -> bool:
    """Return whether log p(x) and its error can be trusted, given the share of high k-hats."""
    return khat_share is not None and khat_share <= TOLERATED


def evidence_words(value: float, stderr: float | None, khat_share: float | None, proposal: str | None) -> str:
    """Return log p(x) in words: with its error if it can be trusted, else as a lower bound.

    >>> evidence_words(42.351, 0.012, 0.01, "refined")
    '42.35 ± 0.01'
    >>> evidence_words(42.351, 0.012, 0.12, "refined")
    '>= 42.4 (k-hat above 0.7 for 12 %)'
    >>> evidence_words(-22.861, 0.0, 0.0, "exact")
    '-22.86 (exact)'
    """
    if proposal == "exact":
        return f"{value:.2f} (exact)"
    if believable(khat_share):
        return f"{value:.2f} ± {stderr:.2f}"
    if proposal == "filter":
        return f">= {value:.1f} (particle filters differ by over a nat for {100 * (khat_share or 0.0):.0f} %)"
    why = (
        f"k-hat above {MAX_KHAT} for {100 * khat_share:.0f} %" if khat_share is not None else "too few draws for k-hat"
    )
    return f">= {value:.1f} ({why})"


def annealed_words(value: float, log_z: LogZ) -> str:
    """Return log p(x) in words, where log Z is estimated: with its error if both sides of log Z
    agree, else as an upper bound.
    """
    if log_z.agrees:
        return f"{value:.2f} ± {log_z.stderr:.2f}"
    why = "log Z from below only" if log_z.upper is None else f"log Z known to {log_z.upper - log_z.lower:.1f} nats"
    return f"<= {value:.1f} ({why})"


def rows(figures: Figures, pca: dict[str, float] | None = None) -> list[Row]:
    """Return the table of figures, each under the name of its quantity; ``pca`` holds those of
    PCA."""
    meaning, other = figures.meaning, pca or {}

    def row(key: str, label: str, value: str, doubtful: bool = False, decimals: int = 2) -> Row:
        return Row(label, value, f"{other[key]:.{decimals}f}" if key in other else "-", doubtful)

    found = []
    if (own := figures.own) is not None:
        return [Row(own.name, own.words, "-", False)]
    whole = meaning.is_evidence(figures.sites)  # an ELBO without parts
    if not whole or figures.log_evidence is None:
        found.append(row("elbo", meaning.bound, f"{figures.elbo:.2f}"))
    if not whole:
        found.append(row("reconstruction", "  reconstruction", f"{figures.reconstruction:.2f}"))
        found.append(row("kl", f"  {meaning.divergence}", f"{figures.kl:.2f}"))
    if figures.log_evidence is not None:
        found.append(row("log_evidence", meaning.evidence, figures.evidence, figures.doubtful))
    if figures.steps:
        name, best = figures.best
        found.append(Row(f"{name} per step", f"{best / figures.steps:.3f}", "-", False))
    if figures.bits_per_dimension is not None:
        found.append(
            Row(f"bits per dimension by the {figures.best[0]}", f"{figures.bits_per_dimension:.3f}", "-", False)
        )
    if figures.rms_error is not None:
        found.append(row("rms_error", "RMS error per feature", f"{figures.rms_error:.4f}", decimals=4))
    return found


def remarks(figures: Figures, pca: dict[str, float] | None = None) -> list[str]:
    """Return the remarks to print below the table, one or two sentences each."""
    meaning = figures.meaning
    said = []
    if meaning.unweighable and figures.log_evidence is None:
        said.append(f"No {meaning.evidence}: {meaning.unweighable}.")
        if figures.codes:
            said.append("`pyro-vae evaluate RUN --temperature auto` draws codes around it, whose weights give one.")
    elif figures.log_evidence is not None:
        said.append(f"{meaning.evidence} {_how(figures)}")
    if (own := figures.own) is not None:
        said.append(_judged(own, figures.split))
    elif meaning.is_density:
        said.append("The data are real values: their probability is a density, whose logarithm may be positive.")
    if figures.latent:
        said.append(f"{figures.active_units} of {figures.latent} latent dimensions are active.")
        if meaning.divergence == "KL" and figures.kl < IDLE:
            said.append(
                f"The KL is {figures.kl:.2f} nats: z says little of x, however many dimensions are active; "
                "a warm-up or free bits wake it."
            )
    if figures.steps:
        said.append(f"A sequence has {figures.steps:.1f} steps on average; per step means all nats over all steps.")
    said += [f"{use_in_words(site, use)}." for site, use in (figures.codes or {}).items()]
    if meaning.given:
        said.append(f"PCA is not shown beside it: it gives log p(x), and this is {meaning.evidence}.")
    if pca and "elbo" not in pca:
        why = "not all of these data are" if meaning.is_density else "p(x) here is the probability of discrete ones"
        said.append(f"PCA has no log p(x) here: it is a density of real values, and {why}.")
    return said


def _how(figures: Figures) -> str:
    if figures.log_z is not None:
        return _normalised(figures.log_evidence or 0.0, figures.log_z)
    if figures.proposal == "exact":
        return "is exact: no latent variable is drawn."
    if figures.proposal == "filter":
        draws = f"{FILTERS} particle filters of {max(2, figures.samples // FILTERS):,} draws each, weighed step by step"
    else:
        draws = f"{figures.samples:,} draws per datum from the {_PROPOSALS[figures.proposal or 'guide']}"
        draws += f", median effective number {figures.ess:.0f}"
    if not figures.doubtful:
        return f"= {figures.evidence}: {draws}."
    advice = "use more draws (--samples)" if figures.khat_share is None else "use more draws or a closer guide"
    return f"{figures.evidence}: {draws}. It is a lower bound, whose error the draws do not show; {advice}."


def _judged(own: Own, split: str) -> str:
    """Say what the figure of a pair without log p(x) is worth."""
    said = (
        f"The {own.name} is that of draws and {split} data, as the pair's own guide tells them apart: 0 where it "
        "cannot, log 2 = 0.693 where it always does."
    )
    if own.value < -SURE * (own.stderr or math.inf):
        said += " Below 0 the critic is too sure: it knows its training data by heart, and bounds nothing of others."
    return (
        f"{said} Another critic may tell more: `pyro-vae compare` holds draws against data, and "
        "pyro_vae.density_ratio learns one anew."
    )


def _normalised(value: float, log_z: LogZ) -> str:
    """Say how log Z is known, and between what log p(x) then lies."""
    found = f"{'= ' if log_z.agrees else ''}{annealed_words(value, log_z)}"
    how = (
        f"{found}: log Z = {log_z.lower:.2f} ± {log_z.stderr:.2f} by annealing through "
        f"{log_z.temperatures:,} temperatures with {len(log_z.forward)} chains, of which {log_z.ess:.0f} count; it "
        "errs low, and log p(x) high."
    )
    if log_z.upper is None:
        return f"{how} Nothing bounds it from the other side."
    start = "exact draws" if log_z.exact else "the chains' draws, a bound if these have mixed"
    advice = "" if log_z.agrees else "; use more temperatures (--temperatures)"
    return f"{how} The way back, from {start}, gives {value + log_z.lower - log_z.upper:.2f}{advice}."


_PROPOSALS = {"guide": "guide", "refined": "refined guide"}


def baseline(figures: Figures, data: "Data") -> dict[str, float] | None:
    """Return what PCA of the same size reaches, where both model all of x, given nothing."""
    meaning = figures.meaning
    if not meaning.whole or meaning.points or not meaning.numbers or figures.rms_error is None:
        return None
    found = pca_figures(data, meaning.numbers, figures.split)
    if found is None or meaning.is_density:
        return found
    return {"rms_error": found["rms_error"]}  # a density is no match for a probability
