"""What was measured, as Markdown and as a picture."""

import statistics
from pathlib import Path
from typing import Any

from timing import Times, ratio

BASE = "pyro_vae compiled"
# what a reader looks for first: (case, numerator, denominator)
RATIOS = [
    *((f"mlp-{size}", BASE, "by hand, eager") for size in (32, 128, 512)),
    *((f"mlp-{size}", BASE, "by hand, torch.compile") for size in (32, 128, 512)),
    *((f"mlp-{size}", "Pyro SVI", BASE) for size in (32, 128, 512)),
    *((f"mlp-{size}", "Pyro SVI, probs", f"{BASE}, probs") for size in (32, 128, 512)),
    *(
        (f"mlp-{size}", f"pyro_vae's best{suffix}", f"NumPyro's best{suffix}")
        for suffix in ("", ", probs")
        for size in (32, 128, 512)
    ),
    *((f"mlp-{size}", BASE, "NumPyro jit") for size in (32, 128, 512)),
    ("conv-128", BASE, "by hand, eager"),
    *(
        (name, "Pyro SVI", BASE)
        for name in ("conv-128", "hierarchical-64", "flow-64", "mixture-64", "tracegraph-64", "full-covariance-64")
    ),
    ("evidence", "eager chunks", "compiled chunks"),
    ("evidence", "eager chunks", "compiled chunks, bf16"),
]


def with_best(times: Times) -> Times:
    """Add the best of NumPyro and of pyro_vae by the median, a step a call or many, for either likelihood."""
    found = dict(times)
    for library, ways in (("NumPyro", ("jit", "scan")), ("pyro_vae", ("compiled", "steps"))):
        for suffix in ("", ", probs"):
            names = [name for way in ways if (name := f"{library} {way}{suffix}") in times]
            if names:
                best = min(names, key=lambda name: statistics.median(times[name]))
                found[f"{library}'s best{suffix}"] = times[best]
    return found


def ratios(steps: dict[str, dict[str, Times]]) -> str:
    """Return the table of ratios, a column a number of threads."""
    columns = list(steps)
    lines = [f"| ratio | case | {' | '.join(columns)} |", "|---" * (2 + len(columns)) + "|"]
    for case, name, base in RATIOS:
        cells = []
        for column in columns:
            times = with_best(steps[column].get(case, {}))
            if name in times and base in times:
                middle, low, high = ratio(times, name, base)
                cells.append(f"{middle:.2f} ({low:.2f}-{high:.2f})")
            else:
                cells.append("")
        if any(cells):
            lines.append(f"| {name} / {base} | {case} | {' | '.join(cells)} |")
    return "\n".join(lines)


def table(times: Times, base: str) -> str:
    """Return a case's times; ratios are to `base`."""
    lines = [f"| contestant | ms | times of {base} (quartiles) |", "|---|---|---|"]
    for name in sorted(times, key=lambda n: statistics.median(times[n])):
        middle, low, high = ratio(times, name, base)
        lines.append(f"| {name} | {statistics.median(times[name]) * 1e3:.3f} | {middle:.2f} ({low:.2f}-{high:.2f}) |")
    return "\n".join(lines)


def report(results: dict[str, Any]) -> str:
    """Return everything that was measured as Markdown."""
    steps: dict[str, dict[str, Times]] = results["steps"]
    out = [f"{results['machine']}\n", "### Ratios, paired in each round: median (quartiles)\n", ratios(steps)]
    for column, found in steps.items():
        for case, times in found.items():
            out.append(f"\n### {case}, {column}\n")
            if case == "loading":
                shown = (f"| {name} | {statistics.median(t) * 1e3:.3f} |" for name, t in times.items())
                out += ["| a batch of 128 | ms |\n|---|---|", *shown]
                step = statistics.median(found["mlp-128"][BASE]) if BASE in found.get("mlp-128", {}) else None
                if step:
                    batch = statistics.median(times["pyro_vae"])
                    out.append(f"\nShare of an epoch of compiled steps at batch 128: {batch / (batch + step):.2%}")
            else:
                out.append(table(times, BASE if BASE in times else "eager chunks"))
    if results.get("starts"):
        out += ["\n### First step done after\n", "| in a new process | s | the step itself, s |\n|---|---|---|"]
        out += [f"| {name} | {total:.1f} | {step:.2f} |" for name, (total, step) in results["starts"].items()]
    out.append(f"\n{results['undisturbed']}")
    return "\n".join(out)


def draw(times: dict[str, Times], title: str, path: Path) -> None:
    """Draw every case's ratios to pyro_vae compiled."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    marks = {
        "Pyro SVI": ("o", "tab:orange"),
        "by hand, eager": ("s", "tab:blue"),
        "by hand, torch.compile": ("D", "tab:cyan"),
        "NumPyro's best": ("^", "tab:green"),
        "matrix products alone": ("|", "0.3"),
        BASE: ("P", "tab:red"),
        "pyro_vae steps": ("x", "tab:red"),
    }
    shown = {case: with_best(found) for case, found in times.items() if BASE in found}
    figure, axis = plt.subplots(figsize=(7, 0.34 * len(shown) + 1.4), layout="constrained")
    for name, (mark, color) in marks.items():
        points = [(ratio(found, name, BASE)[0], -i) for i, found in enumerate(shown.values()) if name in found]
        if points:
            axis.plot(*zip(*points, strict=True), mark, color=color, label=name, markersize=7)
    axis.set_xscale("log")
    axis.set_xticks([0.5, 1, 2, 5, 10, 20, 50], ["0.5", "1", "2", "5", "10", "20", "50"])
    axis.set_yticks([-i for i in range(len(shown))], list(shown))
    axis.set_xlabel("time of a step, in times of pyro_vae compiled")
    axis.set_title(title, fontsize=9)
    axis.grid(axis="x", alpha=0.4)
    axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    plt.rcParams["svg.hashsalt"] = "benchmarks"
    figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)
