"""How long a compiled step looks whether everything is where it was, within steps and by itself.

    uv run python benchmarks/looking.py [mlp-32 mlp-128 full-covariance-64]

Within steps, matrix products have emptied the caches, and looking takes ten times as long as when it is repeated by itself.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import cases
import pyro
import torch
from timing import pin

STEPS = 500
PARTS = ("the whole step", "looking at programs and tensors", "looking at the optimizer", "its numbers", "the code")


def timed(times: list[float], do: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that does the same and notes how long it took, in us."""

    def run(*args: Any) -> Any:
        start = time.perf_counter_ns()
        result = do(*args)
        times.append((time.perf_counter_ns() - start) / 1e3)
        return result

    return run


def looking(name: str) -> dict[str, tuple[float, float | None]]:
    """Return for each part the median of its times within steps, and that of looks that follow each other."""
    from pyro_vae.svi import SVI

    case = cases.CASES[name]
    batch = case.batch()
    pyro.clear_param_store()
    torch.manual_seed(0)
    elbo, model, guide = case.pair()
    elbo.loss(model, guide, batch)  # what is created lazily
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-4}), elbo, compile="on")
    for _ in range(20):
        svi.step(batch)
    graph = svi._last
    assert graph is not None, svi.why_not
    code = graph._whole
    assert code is not None, svi.why_not
    alone = {
        PARTS[1]: median_of(graph.valid),
        PARTS[2]: median_of(code.update.valid),
    }
    times: dict[str, list[float]] = {part: [] for part in PARTS}
    step = timed(times[PARTS[0]], svi.step)
    for part, holder, method in (
        (PARTS[1], graph, "valid"),
        (PARTS[2], code.update, "valid"),
        (PARTS[3], code.update, "prepare"),
        (PARTS[4], code, "_run"),
    ):
        setattr(holder, method, timed(times[part], getattr(holder, method)))
    for _ in range(STEPS):
        step(batch)
    return {part: (statistics.median(found), alone.get(part)) for part, found in times.items()}


def median_of(look: Callable[[], Any]) -> float:
    """Return the median time of a look when nothing comes between, in us."""
    times: list[float] = []
    look = timed(times, look)
    for _ in range(STEPS):
        look()
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", default=["mlp-32", "mlp-128", "full-covariance-64"], metavar="case")
    names = parser.parse_args().cases
    pin(1, "cpu")
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    print("| us | part | within steps | by itself |\n|---|---|---|---|")
    for name in names:
        for part, (within, alone) in looking(name).items():
            print(f"| {name} | {part} | {within:.0f} | {'' if alone is None else f'{alone:.1f}'} |")


if __name__ == "__main__":
    main()
