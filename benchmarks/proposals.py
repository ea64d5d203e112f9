"""How far log p(x) of trained runs is to be believed: the guide's own draws beside the refined proposal's.

    python benchmarks/proposals.py [--data N] [--draws K] RUN ...    one line per run and proposal, on N of its test data (180)

Seconds are the processor's. Both proposals of a run are measured one after the other in one process, after a first call that warms up.
"""

import argparse
import time

import torch
from families import restored

import pyro_vae as pv

HEAD = f"{'run':30} {'proposal':8} {'log p(x)':>9}   {'error':5}  {'k-hat > 0.7':>11}  {'ESS':>5}  {'seconds':>7}"


def compare(folder: str, count: int, num_samples: int) -> None:
    """Print what each proposal says of a run's best pair."""
    pair, data = restored(folder)
    batch, _ = data.subset("test", count)
    for proposal in ("guide", "refined"):
        pv.log_evidence(pair, {name: t[:8] for name, t in batch.items()}, num_samples=64, proposal=proposal)
        begun = time.process_time()
        found = pv.log_evidence(pair, batch, num_samples=num_samples, proposal=proposal)
        seconds = time.process_time() - begun
        print(
            f"{folder:30} {found.proposal:8} {found.mean:9.3f} ± {found.mean_stderr:.3f}  {found.khat_share:11.1%}"
            f"  {found.ess.median().item():5.0f}  {seconds:7.2f}",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=int, default=180)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(HEAD)
    for run in given.runs:
        compare(run, given.data, given.draws)
