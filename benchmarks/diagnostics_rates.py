"""How often each diagnostic rejects what is right and what is damaged, over repeated trials. Prints the tables of docs/diagnostics.md.

    python benchmarks/diagnostics_rates.py posterior|model|calibration [TRIALS [COLUMN]]

``posterior``: the lines of ``diagnose`` about q, on a linear-Gaussian pair of two latent dimensions with posterior correlation -0.8 and its
exact posterior, damaged as in tests/truths.py. ``model``: those about the model, whose data are drawn from a damaged one.
``calibration``: the calibration tests with fewer simulations. A column can be had alone, such as "exact", to share the work out.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from truths import damaged, linear

from pyro_vae import Pair
from pyro_vae.diagnostics import (
    BUDGETS,
    CHECKS,
    Nuts,
    Subject,
    averaged,
    calibrate,
    compare,
    neighbours,
    pixel_calibration,
    predictive_checks,
    two_sample,
)

LEVEL = 0.01
SIMULATIONS = (200, 500)
POSTERIORS = {
    "exact": "none",
    "scale x 0.9": "scale 0.9",
    "scale x 0.7": "scale",
    "mean + 0.4 sd": "shift",
    "no correlation": "correlation",
    "a dimension at its prior": "collapse",
}


def posterior_lines(pair: Pair, batch: dict[str, Tensor], seed: int) -> dict[str, bool]:
    """Whether each line about q says something other than good."""
    subject = Subject(pair, None, "test", batch, None, BUDGETS["quick"], seed, list(range(len(batch["x"]))))
    lines = {}
    for name in ("log p(x)", "gaps", "k-hat", "simulation-based calibration", "aggregate posterior"):
        torch.manual_seed(seed)
        lines |= {v.check: v.verdict in ("fair", "bad") for v in CHECKS[name](subject)}
    return lines | {"NUTS": told_from_posterior(pair, batch, seed)}


def told_from_posterior(pair: Pair, batch: dict[str, Tensor], seed: int) -> bool:
    """Whether the test against NUTS rejects, given perfect draws: what NUTS adds is its own error."""
    part = {"x": batch["x"][:3]}
    draws = linear().posterior(part["x"]).sample((4, 500)).detach().permute(2, 0, 1, 3)
    tests = compare(pair, part, Nuts(draws, torch.ones(3), torch.full((3,), 800.0)), seed=seed)
    return 3 * min(test.pvalue for test in tests) < LEVEL


def posteriors(trials: int, columns: dict[str, str]) -> None:
    """Print how often each line about q is not good."""
    rows: dict[str, dict[str, list[bool]]] = {}
    for label, how in columns.items():
        for seed in range(trials):
            torch.manual_seed(seed)
            model = linear()
            batch = {"x": model.marginal().sample((BUDGETS["quick"].data,)).detach()}
            for check, told in posterior_lines(damaged(model, how), batch, seed).items():
                rows.setdefault(check, {}).setdefault(label, []).append(told)
    table("line", list(columns), rows)


def models(trials: int, _: dict[str, str]) -> None:
    """Print how often each criticism of the model rejects, whose samples and data are 8 correlated numbers, or 64 pixels."""
    rows: dict[str, dict[str, list[bool]]] = {}
    for seed in range(trials):
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int, generator: torch.Generator = generator) -> Tensor:
            common = torch.randn(*shape[:-1], 1, generator=generator)
            return 0.6 * common + 0.8 * torch.randn(*shape, generator=generator)

        others: dict[str, Callable[[Tensor], Tensor]] = {
            "exact": lambda x: x,
            "scale x 0.7": lambda x: 0.7 * x,
            "mean + 0.4 sd": lambda x: x + 0.4,
            "no correlation": lambda x: torch.randn(x.shape, generator=generator),  # noqa: B023
            "a constant feature": lambda x: x * torch.tensor([0.0] + [1.0] * 7),
        }
        for label, damage in others.items():
            x = normal(1000, 8)
            checks = predictive_checks(x[:300], damage(normal(40, 300, 8)))
            far = max(abs(c.observed - c.expected) / c.spread for c in checks.values())
            note(rows, "prior predictive", label, far >= 4)
            note(rows, "classifier two-sample test", label, two_sample(damage(normal(1000, 8)), x).pvalue < LEVEL)
            train = normal(5000, 8)
            note(rows, "memorising", label, neighbours(damage(normal(500, 8)), train, x[:500]).closer >= 0.2)
        logits = 2 * torch.randn(500, 64, generator=generator)
        x = torch.bernoulli(logits.sigmoid(), generator=generator)
        noise = torch.randn(logits.shape, generator=generator)
        for label, said in {
            "exact": logits,
            "scale x 0.7": logits / 0.7,
            "mean + 0.4 sd": logits + 0.8,
            "no correlation": 2 * noise,
            "a constant feature": logits * torch.tensor([0.0] + [1.0] * 63),
        }.items():
            note(rows, "pixel calibration", label, pixel_calibration(said.sigmoid(), x).error >= 0.01)
        copies = normal(5000, 8)
        note(rows, "memorising", "copies", neighbours(copies[:500] + 0.01, copies, normal(500, 8)).closer >= 0.2)
    table("line", [*others, "copies"], rows)


def calibrations(trials: int, columns: dict[str, str]) -> None:
    """Print rejection rates by number of simulations: ranks, coverage, average."""
    rows: dict[str, dict[str, list[bool]]] = {}
    for label, how in columns.items():
        pair = damaged(linear(), how)
        for count in SIMULATIONS:
            like = {"x": torch.zeros(count, 3, dtype=torch.float64)}
            for seed in range(trials):
                ranks, coverage = calibrate(pair, like, seed=seed)
                note(rows, f"ranks, {count} simulations", label, ranks.pvalue < LEVEL)
                note(rows, f"coverage, {count} simulations", label, coverage.pvalue < LEVEL)
                test = averaged(pair, {"x": like["x"].repeat(4, 1)}, seed=seed)
                note(rows, f"average, {4 * count} simulations", label, test.pvalue < LEVEL)
    table("test", list(columns), rows)


def note(rows: dict[str, dict[str, list[bool]]], check: str, label: str, told: bool) -> None:
    """Keep one outcome."""
    rows.setdefault(check, {}).setdefault(label, []).append(told)


def table(corner: str, columns: list[str], rows: dict[str, dict[str, list[bool]]]) -> None:
    """Print percentages."""
    print(f"| {corner} | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for check, told in rows.items():
        cells = [f"{100 * sum(told[c]) / len(told[c]):.1f}" if c in told else "" for c in columns]
        print(f"| {check} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    torch.set_num_threads(1)
    what = {"posterior": posteriors, "model": models, "calibration": calibrations}
    chosen = {label: how for label, how in POSTERIORS.items() if label in (sys.argv[3:] or POSTERIORS)}
    what[sys.argv[1]](int(sys.argv[2]) if len(sys.argv) > 2 else 100, chosen)
