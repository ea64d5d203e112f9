"""Is the posterior any good, and the model?

Everything that applies to a pair, at a budget, with a verdict and advice a line.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Literal

import torch

from pyro_vae.data import Data
from pyro_vae.diagnostics.subject import Budget, LeftOut, Subject, Verdict
from pyro_vae.evidence import Figures, collect, normalized
from pyro_vae.posterior import reconstruct
from pyro_vae.program import Pair, PairError, Verbs, evaluation, has_density, log_weights, pair_and_data, size_of

if TYPE_CHECKING:
    from xarray import DataTree


BudgetName = Literal["quick", "standard", "thorough"]


BUDGETS: dict[str, Budget] = {
    "quick": Budget(data=500, draws=500, refined=48, steps=100, simulated=1000, samples=1000),
    "standard": Budget(
        data=1000, draws=1000, refined=100, steps=300, simulated=2000, samples=2000, temperatures=300, annealed=16
    ),
    "thorough": Budget(
        data=2000,
        draws=5000,
        refined=200,
        steps=500,
        simulated=5000,
        samples=5000,
        temperatures=1000,
        annealed=32,
        nuts=3,
        refit=3,
    ),
}


@dataclass(repr=False)
class Diagnosis:
    """The table, the figures behind it and the material of pictures.

    Figures are in nats per datum unless they say otherwise.
    """

    verdicts: list[Verdict]
    budget: str
    split: str
    num_data: int
    seconds: float
    subject: Subject
    tree: "DataTree | None" = None

    def to_json(self) -> dict[str, Any]:
        """Return everything that JSON can hold."""
        return {
            "verdicts": [verdict.to_json() for verdict in self.verdicts],
            "budget": self.budget,
            "split": self.split,
            "num_data": self.num_data,
            "seconds": round(self.seconds, 1),
        }

    def figures(self) -> Figures | None:
        """Return what ``evaluate`` would for these data; None where they have no log p(x)."""
        found, subject = self.subject.found, self.subject
        if "evidence" not in found:
            return None
        x, meaning = subject.test.get(subject.x), subject.meaning
        again = (
            reconstruct(subject.pair, subject.test, draw=False).get(subject.x)
            if meaning.latent and meaning.inferred
            else None
        )
        error = None
        if x is not None and again is not None and again.shape == x.shape:
            error = (again - x).square().mean().sqrt().item()
        return collect(
            subject.meaning,
            found["elbo"],
            found["evidence"],
            found.get("means", {}),
            error,
            split=self.split,
            num_data=self.num_data,
            samples=subject.budget.draws,
            steps=subject.steps,
            codes=found.get("codes"),
            log_z=found.get("log_z"),
        )

    def __repr__(self) -> str:
        counts = {name: sum(v.verdict == name for v in self.verdicts) for name in ("good", "fair", "bad")}
        told = ", ".join(f"{count} {name}" for name, count in counts.items())
        return f"Diagnosis({self.num_data:,} data of the {self.split} split: {told}; print it for the table)"

    def _repr_html_(self) -> str:
        cells = ((escape(v.check), escape(v.verdict), escape(v.advice)) for v in self.verdicts)
        rows = "".join(f"<tr><td>{'</td><td>'.join(row)}</td></tr>" for row in cells)
        return f"<table><tr><th>check</th><th>verdict</th><th>what it means</th></tr>{rows}</table>"

    def __str__(self) -> str:
        width = max(len(v.check) for v in self.verdicts)
        return "\n".join(f"{v.check:{width}}  {v.verdict:8}  {v.advice}" for v in self.verdicts)


def diagnose(
    pair: Verbs,
    data: Data | Mapping[str, torch.Tensor] | torch.Tensor | None = None,
    *,
    budget: BudgetName = "quick",
    split: str | None = None,
    seed: int = 0,
    dream: float | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Diagnosis:
    """Examine a pair on held-out data: evidence, gaps, calibration, and the model's own criticism.

    What does not apply to this pair or these data is said in one sentence, and the rest is still
    computed. The pair, its parameters and the global random states are left as they were.

    Args:
        pair: the pair, or what ``fit`` or ``load`` returned, which has data of its own.
        data: from ``load_data``; or one batch, without which nothing is compared with training
            data.
        budget: quick is a minute or two for MNIST on two cores, standard ten times that, thorough
            about an hour.
        split: whose data are examined: by default test, or valid or train if that is empty.
        dream: the setting of training by that name, so that what was done is not advised; what
            ``fit`` or ``load`` returned knows it.
        progress: called before each check with its name, its number and the number of checks.

    Raises:
        ValueError: for a budget or split that there is not.
    """
    from pyro_vae.diagnostics.checks import CHECKS

    if budget not in BUDGETS:
        raise ValueError(f"budget must be one of {', '.join(BUDGETS)}, got {budget!r}")
    begun = time.monotonic()
    dream = getattr(getattr(pair, "training", None), "dream", dream)  # of what fit returned
    pair, data = pair_and_data(pair, data)
    data = {"x": data} if isinstance(data, torch.Tensor) else data
    split = data.choose(split) if isinstance(data, Data) else split or "test"
    size = BUDGETS[budget]
    subject = _subject(pair, data, split, size, seed)
    subject.dream = dream
    verdicts: list[Verdict] = []
    with normalized(pair, seed=seed) as subject.found["log_z"]:
        for number, (name, check) in enumerate(CHECKS.items()):
            if progress is not None:
                progress(name, number, len(CHECKS))
            verdicts += _examine(name, check, subject)
    return Diagnosis(verdicts, budget, split, size_of(subject.test), time.monotonic() - begun, subject)


def expected_seconds(pair: Pair, data: Data, budget: BudgetName = "quick", split: str | None = None) -> float:
    """Guess how long ``diagnose`` takes here, from the time of a few thousand draws."""
    size = BUDGETS[budget]
    if not has_density(pair):
        return 20.0  # its draws are looked at, and nothing is weighted
    device = next((parameter.device for parameter in pair.named_parameters().values()), None)
    batch = data.batch(data.choose(split), 64, device=device)
    with normalized(pair, temperatures=1), evaluation(pair, 0):
        log_weights(pair, batch, 2)
        times = []
        for _ in range(3):  # the least: others may use the machine too
            begun = time.monotonic()
            log_weights(pair, batch, 32)
            times.append(time.monotonic() - begun)
    row = min(times) / (size_of(batch) * 32)
    forward = size.data * size.draws + 64 * size.simulated + 4 * size.draws * size.refined + 200 * size.samples
    backward = 2 * size.refined * size.steps * 8 + size.annealed * 8 * size.temperatures * 10 * 3 + size.nuts * 30_000
    return row * (forward + 3 * backward) + 10


def _examine(name: str, check: Callable[[Subject], Iterable[Verdict]], subject: Subject) -> list[Verdict]:
    """Run one check; what it said before it had to stop is kept."""
    lines: list[Verdict] = []
    try:
        with torch.random.fork_rng():
            torch.manual_seed(subject.seed)
            for line in check(subject):
                lines.append(line)
    except (LeftOut, PairError) as reason:
        # Pyro adds the shapes of all sites to an exception's first line
        lines.append(Verdict(name, None, "left out", str(reason).splitlines()[0]))
    except (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, NotImplementedError) as error:
        what = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
        lines.append(Verdict(name, None, "left out", f"could not be computed for this pair ({what})"))
    return lines


def _subject(pair: Pair, data: Data | Mapping[str, torch.Tensor], split: str, budget: Budget, seed: int) -> Subject:
    if isinstance(data, Mapping):
        test = {name: tensor[: budget.data] for name, tensor in data.items()}
        return Subject(pair, None, split, test, None, budget, seed, list(range(size_of(test))))
    device = next((parameter.device for parameter in pair.named_parameters().values()), None)
    test, positions = data.subset(split, budget.data, device=device)
    train, _ = data.subset("train", budget.data, device=device)
    return Subject(pair, data, split, test, train, budget, seed, positions)
