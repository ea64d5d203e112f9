"""Two processes that share each batch, beside one: a table in Markdown. One thread each, on a core of its own.

    uv run --group bench python benchmarks/processes.py [--batches 128 1024] [--rounds 15]

Every round times all contestants, ten steps each; a ratio is the median over rounds. The nets are those of speed.py (784-400-400-20), the optimizer
is what `fit` takes (torch's fused Adam).
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

STEPS = 10
ALONE = "one process, compiled"
CONTESTANTS = {
    ALONE: "on",
    "two, eager": "off",
    "two, recorded": "recorded",
    "two, compiled": "on",
}


def contestant(name: str, batch: int, rank: int) -> Callable[[], None]:
    """Return what takes ten steps."""
    import cases
    import pyro
    import torch

    from pyro_vae.svi import SVI, Exchange, World
    from pyro_vae.training import Training, optimizer

    pyro.clear_param_store()
    torch.manual_seed(0)
    elbo, model, guide = cases.CASES["mlp-128"].pair()
    size = batch if name == ALONE else batch // 2
    data = torch.rand(size, cases.FEATURES).round()
    elbo.loss(model, guide, data)  # which announces the parameters
    state = pyro.get_param_store().get_state()
    params = list(state["params"].values())
    exchange = None if name == ALONE else Exchange(World(rank, 2), [])
    svi = SVI(
        model, guide, optimizer(Training(lr=1e-4), params), elbo, compile=CONTESTANTS[name], clip=1e9, exchange=exchange
    )
    if exchange is not None:
        exchange.weight = size

    def steps() -> None:
        store = pyro.get_param_store()
        store.clear()
        store.set_state(state)
        if name == ALONE and rank:
            return
        for _ in range(STEPS):
            svi.step(data)

    return steps


def work(rank: int, address: str, batches: list[int], rounds: int) -> None:
    """Be one of the two."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[rank]})
    import torch
    import torch.distributed as dist

    import pyro_vae.svi.svi  # noqa: F401  (before there is a group)

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{address}", rank=rank, world_size=2)
    for batch in batches:
        found = {name: contestant(name, batch, rank) for name in CONTESTANTS}
        times: dict[str, list[float]] = {name: [] for name in found}
        for i in range(rounds + 1):
            for name in list(found) if i % 2 else reversed(list(found)):
                dist.barrier()
                begun = time.perf_counter()
                found[name]()
                if i:  # the first compiles
                    times[name].append((time.perf_counter() - begun) / STEPS * 1e3)
        if rank == 0:
            for name, took in times.items():
                ratios = sorted(a / b for a, b in zip(times[ALONE], took, strict=True))
                low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
                print(
                    f"| {batch} | {name} | {statistics.median(took):.2f} | {middle:.2f} ({low:.2f}-{high:.2f}) |",
                    flush=True,
                )
    dist.destroy_process_group()


def main() -> None:
    """Start both, or be one of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[128, 1024], help="global batches, even")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(int(args.worker[0]), args.worker[1], args.batches, args.rounds)
        return
    print("| global batch | | ms a step | times as fast as one process |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        again = [sys.executable, __file__, "--batches", *map(str, args.batches), "--rounds", str(args.rounds)]
        jobs = [
            subprocess.Popen(
                [*again, "--worker", str(rank), f"{folder}/address"], env=os.environ | {"OMP_NUM_THREADS": "1"}
            )
            for rank in range(2)
        ]
        if sum(job.wait() != 0 for job in jobs):
            raise SystemExit("a process failed; its message is above")


if __name__ == "__main__":
    main()
