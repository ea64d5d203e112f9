"""What training costs beside its steps: whole epochs of `pv.fit`, and `svi.steps` on the same batches.

    uv run --group bench python benchmarks/training.py [--steps 429] [--rounds 7] [--threads 1]

An epoch includes its validation. Both sides run in one process, an epoch of the one after an epoch of the
other, and the ratio is the median over rounds. Processor time is that of all threads: it holds on a machine in
use, and counts the thread that reads ahead as if the steps waited for it.
"""

import argparse
import statistics
import time
from typing import Any

from timing import pin

BATCH = 128
VALID = 11  # training data per validation datum, as in MNIST's 55,000 and 5,000


class Rounds:
    """Notes what each epoch of `fit` takes, and has the steps run after each."""

    def __init__(self, rival: "Rival") -> None:
        self.rival, self.found = rival, []  # type: ignore[var-annotated]

    def mark(self) -> None:
        self.began = time.process_time(), time.perf_counter()

    def since(self) -> tuple[float, float]:
        cpu, wall = self.began
        return time.process_time() - cpu, time.perf_counter() - wall

    def epoch(self, row: dict[str, float]) -> None:
        whole = self.since()
        batches = self.rival.batches(int(row["epoch"]) - 1)
        self.mark()
        self.rival.steps(batches)
        self.found.append((whole, self.since()))
        self.mark()


class Rival:
    """The same pair, trained by nothing but `svi.steps`."""

    def __init__(self, data: Any) -> None:
        import torch

        import pyro_vae as pv
        from pyro_vae.training import Training, optimizer, weighted_programs

        self.data, self.torch = data, torch
        self.pair = pv.pairs.PAIRS["latent"](data.spec)
        parameters = list(self.pair.named_parameters().values())
        training, cpu = Training(), torch.device("cpu")
        programs = weighted_programs(self.pair, training, data.size("train"), torch.tensor(1.0), cpu)
        adam = optimizer(training, parameters)
        self.svi = pv.SVI(*programs, adam, self.pair.objective, clip=float("inf"), compile="on")

    def batches(self, epoch: int) -> Any:
        return self.torch.stack([batch["x"] for batch in self.data.epoch(epoch, BATCH, seed=0)])

    def steps(self, batches: Any) -> None:
        import pyro

        with pyro.validation_enabled(False):
            self.svi.steps({"x": batches}).sum().item()


def images(steps: int) -> Any:
    """Return MNIST, or as much of it as that many steps take, with a validation split in proportion."""
    import pyro_vae as pv

    grey = pv.load_data("mnist", binarize="gray")
    size = min(steps * BATCH, grey.size("train"))
    parts = {"train": (size, "train"), "valid": (max(1, size // VALID), "valid"), "test": (BATCH, "test")}
    arrays = {f"x_{name}": (grey.batch(of, n)["x"] * 255).round().byte().numpy() for name, (n, of) in parts.items()}
    return pv.load_data(arrays, binarize="dynamic", image=(1, 28, 28))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=429, help="per epoch, of 128 images")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    pin(args.threads, "cpu")
    import torch

    import pyro_vae as pv
    from pyro_vae.training import Silent

    torch.set_num_threads(args.threads)
    data = images(args.steps)
    rounds = Rounds(Rival(data))

    class Watch(Silent):
        def start(self, *_: int) -> None:
            rounds.mark()

        def epoch(self, row: dict[str, float]) -> None:
            rounds.epoch(row)

    pair = pv.pairs.PAIRS["latent"](data.spec)
    fitted = pv.fit(pair, data, epochs=args.rounds + 1, device="cpu", compile="on", progress=Watch())
    steps = fitted.steps // fitted.epochs
    print(f"{data}; {steps} steps per epoch, {args.rounds} rounds, {args.threads} threads\n")
    print("| clock | an epoch of fit, per step | svi.steps, per step | ratio |\n|---|---|---|---|")
    for i, clock in enumerate(("processor", "wall")):
        whole, alone = ([times[side][i] for times in rounds.found[1:]] for side in (0, 1))  # the first compiles
        ratio = statistics.median(a / b for a, b in zip(whole, alone, strict=True))
        cells = [f"{1000 * statistics.median(times) / steps:.2f} ms" for times in (whole, alone)]
        print(f"| {clock} | {cells[0]} | {cells[1]} | {ratio:.3f} |")


if __name__ == "__main__":
    main()
