"""How often calibration rejects a right posterior and a damaged one, over repeated trials. Prints the table of docs/diagnostics.md.

    python benchmarks/diagnostics_rates.py [TRIALS]

Linear-Gaussian pair, two latent dimensions, posterior correlation -0.8; level 0.01; the damages are those of tests/test_calibration.py.
"""

import math
import sys
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae import Pair
from pyro_vae.calibration import calibrate
from pyro_vae.models.linear import LinearModel

SIMULATIONS = (200, 500, 1000)
LEVEL = 0.01


def linear() -> LinearModel:
    """The model: three features, two of them nearly the same mixture of z."""
    model = LinearModel(2, 3).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.9], [0.9, 1.0], [0.2, -0.2]]))
        model.log_scale.fill_(math.log(0.7))
    return model


DAMAGES: dict[str, Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "exact": lambda loc, tril, std: (loc, tril),
    "scale x 0.9": lambda loc, tril, std: (loc, 0.9 * tril),
    "scale x 0.7": lambda loc, tril, std: (loc, 0.7 * tril),
    "mean + 0.4 sd": lambda loc, tril, std: (loc + 0.4 * std, tril),
    "no correlation": lambda loc, tril, std: (loc, torch.diag_embed(std)),
    "one dimension at its prior": lambda loc, tril, std: (
        loc * torch.tensor([1.0, 0.0]).double(),
        torch.diag_embed(torch.stack([std[..., 0], torch.ones_like(std[..., 0])], -1)),
    ),
}


def pair(damage: str) -> Pair:
    """The model and its posterior, damaged."""
    model = linear()

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            exact = model.posterior(x)
            loc, tril = DAMAGES[damage](exact.loc, exact.scale_tril, exact.variance.sqrt())
            pyro.sample("z", dist.MultivariateNormal(loc, scale_tril=tril))

    return Pair(model, guide)


def main(trials: int) -> None:
    """Print the rates."""
    torch.set_num_threads(1)
    print(f"rejections at p < {LEVEL} in {trials} trials: simulation-based calibration / TARP")
    print("| posterior | " + " | ".join(f"{n} simulations" for n in SIMULATIONS) + " |")
    print("|---" * (len(SIMULATIONS) + 1) + "|")
    for damage in DAMAGES:
        row = []
        for count in SIMULATIONS:
            like = {"x": torch.zeros(count, 3, dtype=torch.float64)}
            results = [calibrate(pair(damage), like, seed=seed) for seed in range(trials)]
            ranks = sum(r.pvalue < LEVEL for r, _ in results) / trials
            coverage = sum(c.pvalue < LEVEL for _, c in results) / trials
            row.append(f"{100 * ranks:.1f} % / {100 * coverage:.1f} %")
        print(f"| {damage} | " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
