"""CPU seconds of whole scripts, from their first step on: Pyro's SVI, ours, and ours told how many steps are planned.

    uv run python benchmarks/scripts.py [--steps 100 1500] [--rounds 5]

One thread, in one process that has imported everything; contestants take turns, and the median of their ratios to Pyro's
SVI in the same round is printed beside the medians.
"""

import argparse
import statistics
import time
import warnings
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import Trace_ELBO
from torch import nn

from pyro_vae import SVI

SIZES = {"small": (16, 8, 2, 20), "MNIST": (784, 400, 20, 256)}  # features, hidden, latent, batch


class Vae(nn.Module):
    """Pyro's first example."""

    def __init__(self, features: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.latent = latent
        self.encoder = nn.Sequential(nn.Linear(features, hidden), nn.Softplus(), nn.Linear(hidden, 2 * latent))
        self.decoder = nn.Sequential(nn.Linear(latent, hidden), nn.Softplus(), nn.Linear(hidden, features))

    def model(self, x: torch.Tensor) -> None:
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), self.latent), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x: torch.Tensor) -> None:
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def seconds(kind: Any, size: tuple[int, int, int, int], steps: int, told: bool = False, **options: Any) -> float:
    """Return the CPU time of a script's steps, of whose number it is told or not."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    vae = Vae(*size[:3])
    options = {**options, "steps": steps} if told else options
    svi = kind(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO(), **options)
    batches = torch.rand(50, size[3], size[0]).round()
    begun = time.process_time()
    for i in range(steps):
        svi.step(batches[i % 50])
    return time.process_time() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[100, 300, 1500])
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name, size in SIZES.items():
        seconds(SVI, size, 20, compile="recorded")
        for steps in given.steps:
            contestants = {
                "Pyro": (pyro.infer.SVI, {}),
                "ours": (SVI, {}),
                f"ours, steps={steps}": (SVI, {"told": True}),
            }
            rounds = [
                {who: seconds(kind, size, steps, **options) for who, (kind, options) in contestants.items()}
                for _ in range(given.rounds)
            ]
            shown = [
                f"{who} {statistics.median(r[who] for r in rounds):.2f} s"
                f" ({statistics.median(r[who] / r['Pyro'] for r in rounds):.2f})"
                for who in contestants
            ]
            print(f"{name}, {steps} steps: {', '.join(shown)}", flush=True)


if __name__ == "__main__":
    main()
