"""Time a training step, an evidence estimate, loading and the first step of several contestants side by side.

    uv run --group bench python benchmarks/speed.py [--quick] [--json FILE] [--figure FILE]

Contestants run in one process, in rounds: each round times all of them, every other round in reverse. A ratio is the median
over rounds of two times from the same round. With one thread the process is pinned to one core, and a time during which it
did not have that core to itself is taken again. Two threads run after that, in a process of their own. See
README.md.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import tables
from timing import pin, rounds

TWO_THREADS = ("mlp-32", "mlp-128", "mlp-512", "conv-128", "evidence")  # elsewhere a step has too little for two
OTHERS = ("evidence", "loading")


def steps(names: list[str], threads: int, device: str, quick: bool, busy: bool) -> dict[str, Any]:
    """Return the times of these cases, taken in this process."""
    import torch

    torch.set_num_threads(threads)
    from contestants import contestants
    from evidence import evidence
    from loading import loading

    from pyro_vae.svi import EagerWarning

    warnings.filterwarnings("ignore")
    warnings.filterwarnings("always", category=EagerWarning)  # a contestant that is not what it is called
    found: dict[str, Any] = {"times": {}, "disturbed": 0, "of": 0}
    count, seconds = (5, 0.05) if quick else (11, 0.12)
    for name in names:
        print(f"{name}, {threads} thread(s)", file=sys.stderr, flush=True)
        one = {"evidence": lambda: evidence(device, quick), "loading": loading}.get(
            name, lambda name=name: contestants(name, device, quick)
        )()
        times, disturbed = rounds(one, count, seconds, threads=threads, busy=busy, device=device)
        found["times"][name] = times
        found["disturbed"] += disturbed
        found["of"] += sum(map(len, times.values()))
        torch._dynamo.reset()
    return found


def in_a_process(names: list[str], threads: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return the same, taken in a process of its own: libraries fix their threads when they start."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "times.json"
        flags = ["--quick"] * options.quick + ["--busy"] * options.busy
        command = [sys.executable, __file__, "--cases", *names, "--threads", str(threads), "--device", options.device]
        subprocess.run([*command, *flags, "--worker", str(path)], check=True)
        return json.loads(path.read_text())


def machine(device: str) -> str:
    """Return the machine and the versions in words."""
    from importlib.metadata import PackageNotFoundError, version

    import torch

    found = []
    for name in ("torch", "pyro-ppl", "numpyro", "jax"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} not installed")
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    where = f"{cpu}, {os.cpu_count()} cores" if device == "cpu" else torch.cuda.get_device_name()
    return f"{where}; Python {platform.python_version()}, {', '.join(found)}; {time.strftime('%Y-%m-%d')}"


def main() -> None:
    import cases

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="few short rounds, one thread, the MLP at 128 and small cases"
    )
    parser.add_argument("--cases", nargs="+", choices=[*(cases.CASES | cases.ON_A_GPU), *OTHERS], help="only these")
    parser.add_argument("--threads", type=int, nargs="+", choices=(1, 2), help="both by default")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument(
        "--busy", action="store_true", help="on a machine in use: count processor time, disturbed or not"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep all times")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw the ratios on one thread")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    quick = ["mlp-128", "hierarchical-64", "full-covariance-64", "evidence", "loading"]
    names = options.cases or (quick if options.quick else [*cases.CASES, *OTHERS])
    if options.device != "cpu" and not options.cases:
        names = [*cases.ON_A_GPU, "evidence"]  # loading is the same there
    if options.worker:
        (threads,) = options.threads
        pin(threads, options.device)
        options.worker.write_text(json.dumps(steps(names, threads, options.device, options.quick, options.busy)))
        return
    counts = options.threads or ([1] if options.quick or options.device != "cpu" else [1, 2])
    results: dict[str, Any] = {"machine": machine(options.device), "steps": {}, "starts": {}}
    disturbed = of = 0
    for threads in counts:
        wanted = names if threads == 1 or options.cases else [name for name in names if name in TWO_THREADS]
        found = in_a_process(wanted, threads, options)
        results["steps"][f"{threads} thread{'s' if threads > 1 else ''}"] = found["times"]
        if threads == 1:
            disturbed, of = disturbed + found["disturbed"], of + found["of"]
    results["undisturbed"] = f"{of - disturbed} of {of} times on one thread had the core to themselves."
    if not options.cases and options.device == "cpu":
        from starts import starts

        results["starts"] = starts(options.quick)
    print(tables.report(results))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    if options.figure:
        first = next(iter(results["steps"]))
        tables.draw(results["steps"][first], f"{first}; {results['machine'].split(';')[0]}", options.figure)


if __name__ == "__main__":
    main()
