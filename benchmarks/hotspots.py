"""Where the time of a compiled step goes: a table in Markdown, by Linux's `perf`, one thread.

    uv run --group bench python benchmarks/hotspots.py [--cases mlp-32 mlp-128] [--probs] [--seconds 8]

A process takes the steps of `svi.steps`, pinned to one core, while `perf` looks where it is.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from timing import pin

# (library, function) as perf names them; the first that matches counts
PARTS = [
    ("matrix products", r"", r"[sd]gemm|gemm_|_brgemm"),
    ("Adam", r"\.main\.so$", r"sqrt"),
    ("softplus, likelihood and their derivatives", r"\.main\.so$", r""),
    ("softplus, likelihood and their derivatives", r"", r"Sleef"),
    ("draws", r"libtorch_cpu", r"normal|uniform|bernoulli|function_ref"),
    ("Python", r"libpython|torch_python|umath", r""),
    ("the rest: allocation, dispatch, biases", r"", r""),
]


def take_steps(name: str, probabilities: bool) -> None:
    """Step for ever; print a line once compiled."""
    pin(1, "cpu")
    import torch

    torch.set_num_threads(1)
    import cases
    from contestants import SCANNED, svi

    from pyro_vae.svi import SVI

    case = cases.CASES[name]
    batch = case.batch()
    count = max(1, SCANNED // len(batch))
    pair = case.probabilities if probabilities else case.pair
    steps = svi(SVI, pair, batch, scanned=count, compile="on")
    for _ in range(3):
        steps(count)
    print("ready", flush=True)
    while True:
        steps(count)


def shares(name: str, probabilities: bool, seconds: float) -> dict[str, float]:
    """Return the share of each part of a step, in per cent."""
    command = [sys.executable, __file__, "--worker", name, *["--probs"] * probabilities]
    with tempfile.TemporaryDirectory() as folder, subprocess.Popen(command, stdout=subprocess.PIPE) as worker:
        try:
            assert worker.stdout is not None
            if not worker.stdout.readline():
                raise SystemExit(f"the process that takes the steps of {name} ended; its message is above")
            data = str(Path(folder) / "perf.data")
            watch = ["perf", "record", "-q", "-o", data, "-p", str(worker.pid), "--", "sleep", str(seconds)]
            subprocess.run(watch, check=True, stderr=subprocess.DEVNULL)
            report = ["perf", "report", "-i", data, "--no-children", "--stdio", "-F", "overhead,dso,symbol"]
            lines = subprocess.run(report, check=True, capture_output=True, text=True).stdout.splitlines()
        finally:
            worker.kill()
    found = dict.fromkeys((part for part, _, _ in PARTS), 0.0)
    for line in lines:
        match = re.match(r"\s*([\d.]+)%\s+(\S+)\s+\[.\] (.*)", line)
        if match:
            share, library, function = float(match[1]), match[2], match[3]
            part = next(p for p, where, what in PARTS if re.search(where, library) and re.search(what, function))
            found[part] += share
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=["mlp-32", "mlp-128"])
    parser.add_argument("--probs", action="store_true", help="a sigmoid and Bernoulli(probs)")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        take_steps(options.worker, options.probs)
    if shutil.which("perf") is None:
        raise SystemExit("perf is not installed; it comes with the kernel's tools (linux-perf, linux-tools)")
    found = {name: shares(name, options.probs, options.seconds) for name in options.cases}
    print(f"| part of a step | {' | '.join(found)} |\n|---|{'---|' * len(found)}")
    for part in dict.fromkeys(part for part, _, _ in PARTS):
        print(f"| {part} | {' | '.join(f'{one[part]:.0f} %' for one in found.values())} |")


if __name__ == "__main__":
    main()
