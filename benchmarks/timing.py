"""Interleaved, paired timing: every round times all contestants, and a ratio is taken within rounds."""

import math
import os
import statistics
import sys
import time
from collections.abc import Callable

RETRIES = 5
LEAST = 10  # steps a round: the first one finds the caches full of another contestant's data

Stepper = Callable[[int], None]  # takes that many steps
Times = dict[str, list[float]]  # seconds a step, by contestant and round


def pin(threads: int, device: str) -> None:
    """Keep this process on its first cores; to be called before any library starts its threads. A device's is not kept."""
    if device != "cpu":
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # JAX would take most of its memory
        return
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    one = " --xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1" if threads == 1 else ""
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + one
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")


def wait(device: str) -> None:
    """Wait until the device has done what it was given."""
    if device != "cpu":
        import torch

        torch.cuda.synchronize()


def measure(steps: Stepper, count: int, threads: int, busy: bool, device: str) -> tuple[float, bool]:
    """Return seconds a step, and whether the process had its core to itself."""
    wall = cpu = 0.0
    for _ in range(RETRIES if threads == 1 and not busy else 1):
        wait(device)
        wall, cpu = time.perf_counter(), time.process_time()
        steps(count)
        wait(device)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        if threads == 1 and cpu > 0.97 * wall:
            return wall / count, True
        time.sleep(0.02)
    # processor time leaves out what others took, though not what they did to the caches
    return (cpu if (busy or threads == 1) and device == "cpu" else wall) / count, False


def rounds(
    found: dict[str, Stepper],
    count: int,
    seconds: float,
    *,
    threads: int,
    busy: bool = False,
    device: str = "cpu",
    least: int = 3,
) -> tuple[Times, int]:
    """Return the times, and how many of them were disturbed. A stepper may say how many steps a call takes (`unit`)."""
    sizes = {}
    for name, steps in found.items():
        unit = getattr(steps, "unit", 1)
        begun = time.perf_counter()
        steps(least * unit)  # compiles, warms up
        print(f"  {name}: ready after {time.perf_counter() - begun:.1f} s", file=sys.stderr, flush=True)
        wait(device)
        begun = time.perf_counter()
        steps(least * unit)
        wait(device)
        one = (time.perf_counter() - begun) / (least * unit)
        sizes[name] = unit * max(math.ceil(LEAST / unit), round(seconds / one / unit))
    times: Times = {name: [] for name in found}
    disturbed = 0
    for i in range(count):
        for name in list(found) if i % 2 == 0 else reversed(list(found)):
            took, alone = measure(found[name], sizes[name], threads, busy, device)
            times[name].append(took)
            disturbed += not alone
    return times, disturbed


def ratio(times: Times, name: str, base: str) -> tuple[float, float, float]:
    """Return the median ratio of paired rounds, and its quartiles."""
    found = sorted(a / b for a, b in zip(times[name], times[base], strict=True))
    if len(found) < 2:
        return found[0], found[0], found[0]
    low, _, high = statistics.quantiles(found, n=4, method="inclusive")
    return statistics.median(found), low, high
