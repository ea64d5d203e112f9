"""Time a training step of several contestants side by side: `uv run --group bench python benchmarks/speed.py`.

Every contestant runs in this process, on one core that the process is pinned to, in rounds: each round times all of
them, every other round in reverse. A ratio is the median over rounds of two times from the same round. A time during
which this process did not have its core to itself is thrown away and taken again. See README.md.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

LEARNING_RATE = 1e-3
SCANNED = 100  # steps in one call of NumPyro's lax.scan
RETRIES = 20

Stepper = Callable[[int], None]  # takes that many steps


def pin(threads: int) -> None:
    """Keep this process on its first cores, before any library starts its threads."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    one = " --xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1" if threads == 1 else ""
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + one
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")


def contestants(name: str, compile_by_hand: bool) -> dict[str, Stepper]:
    """Return a stepper for each contestant of a case."""
    import cases
    import pyro
    import torch
    from pyro.infer import JitTrace_ELBO

    from pyro_vae.svi import SVI

    case = cases.CASES[name]
    batch = case.batch()
    found: dict[str, Stepper] = {}

    def svi(make: Callable[..., Any], pair: Callable[[], tuple], elbo: Any = None, **options: Any) -> Stepper:
        pyro.clear_param_store()
        torch.manual_seed(0)
        default, model, guide, _ = pair()
        default.loss(model, guide, batch)  # what is created lazily
        state = pyro.get_param_store().get_state()
        adam = pyro.optim.Adam({"lr": LEARNING_RATE})
        stepper = make(model, guide, adam, elbo or default, **options)
        pyro.clear_param_store()

        def steps(count: int) -> None:
            store = pyro.get_param_store()
            store.clear()
            store.set_state(state)
            for _ in range(count):
                stepper.step(batch)

        return steps

    def by_hand(loss: Any) -> Stepper:
        optim = torch.optim.Adam(loss.parameters(), lr=LEARNING_RATE, fused=True)

        def steps(count: int) -> None:
            for _ in range(count):
                optim.zero_grad()
                value = loss(batch)
                value.backward()
                optim.step()
                value.item()

        return steps

    if case.hand is not None:
        found["by hand, eager"] = by_hand(case.hand())
        if compile_by_hand:
            found["by hand, torch.compile"] = by_hand(torch.compile(case.hand()))
    found["Pyro SVI"] = svi(pyro.infer.SVI, case.pair)
    if case.numpyro:
        found["Pyro JitTrace_ELBO"] = svi(pyro.infer.SVI, case.pair, JitTrace_ELBO(ignore_jit_warnings=True))
    for mode in ("off", "recorded", "on"):
        label = {"off": "eager", "on": "compiled"}.get(mode, mode)
        found[f"pyro_vae {label}"] = svi(SVI, case.pair, compile=mode)
    if case.probabilities is not None:
        found["Pyro SVI, probs"] = svi(pyro.infer.SVI, case.probabilities)
        found["pyro_vae compiled, probs"] = svi(SVI, case.probabilities, compile="on")
    if case.numpyro:
        found.update(numpyro_contestants(batch))
    if case.products:
        found["matrix products alone"] = matrix_products(case.products)
    return found


def matrix_products(sizes: list[tuple[int, int, int]]) -> Stepper:
    """The floor: what no step can do without, at this machine's rate."""
    import torch

    operands = [(torch.randn(m, k), torch.randn(k, n), torch.empty(m, n)) for m, k, n in sizes]

    def steps(count: int) -> None:
        for _ in range(count):
            for a, b, out in operands:
                torch.mm(a, b, out=out)

    return steps


def numpyro_contestants(batch: Any) -> dict[str, Stepper]:
    """NumPyro with the same nets, a jitted step and a scan of many; none where it is not installed."""
    try:
        import jax
        import jax.numpy as jnp
        import numpyro
        import numpyro.distributions as dist
        from numpyro.infer import SVI, Trace_ELBO
    except ImportError:
        return {}
    import cases

    sizes = [cases.FEATURES, *cases.HIDDEN]

    def layer(name: str, h: Any, n_out: int) -> Any:
        bound = h.shape[-1] ** -0.5
        key = jax.random.PRNGKey(sum(map(ord, name)))
        w = numpyro.param(f"{name}.w", jax.random.uniform(key, (h.shape[-1], n_out), minval=-bound, maxval=bound))
        return h @ w + numpyro.param(f"{name}.b", jnp.zeros(n_out))

    def programs(logits: bool) -> tuple[Callable, Callable]:
        def model(x: Any) -> None:
            with numpyro.plate("data", x.shape[0]):
                h = numpyro.sample("z", dist.Normal(jnp.zeros((x.shape[0], cases.LATENT)), 1.0).to_event(1))
                for i, size in enumerate(sizes[:0:-1]):
                    h = jax.nn.softplus(layer(f"d{i}", h, size))
                out = layer("out", h, sizes[0])
                likelihood = dist.Bernoulli(logits=out) if logits else dist.Bernoulli(probs=jax.nn.sigmoid(out))
                numpyro.sample("x", likelihood.to_event(1), obs=x)

        def guide(x: Any) -> None:
            h = x
            for i, size in enumerate(sizes[1:]):
                h = jax.nn.softplus(layer(f"e{i}", h, size))
            loc, scale = layer("loc", h, cases.LATENT), jnp.exp(layer("log_scale", h, cases.LATENT))
            with numpyro.plate("data", x.shape[0]):
                numpyro.sample("z", dist.Normal(loc, scale).to_event(1))

        return model, guide

    x = jnp.asarray(batch.numpy())
    stack = jnp.broadcast_to(x, (SCANNED, *x.shape))
    found: dict[str, Stepper] = {}
    for suffix, logits in (("", True), (", probs", False)):
        svi = SVI(*programs(logits), numpyro.optim.Adam(LEARNING_RATE), Trace_ELBO())
        start = svi.init(jax.random.PRNGKey(0), x)
        update = jax.jit(svi.update)
        scan = jax.jit(lambda state, xs, svi=svi: jax.lax.scan(svi.update, state, xs))
        states = {"jit": start, "scan": start}

        def one_by_one(count: int, states: Any = states, update: Any = update) -> None:
            for _ in range(count):
                states["jit"], loss = update(states["jit"], x)
                loss.item()

        def many(count: int, states: Any = states, scan: Any = scan) -> None:
            for _ in range(max(1, count // SCANNED)):
                states["scan"], losses = scan(states["scan"], stack)
                losses.block_until_ready()

        found[f"NumPyro jit{suffix}"] = one_by_one
        found[f"NumPyro scan{suffix}"] = many
    return found


def measure(steps: Stepper, count: int, threads: int, busy: bool) -> tuple[float, bool]:
    """Return seconds a step, and whether the process had its core to itself."""
    for _ in range(RETRIES if threads == 1 and not busy else 1):
        wall, cpu = time.perf_counter(), time.process_time()
        steps(count)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        if threads == 1 and cpu > 0.97 * wall:
            return wall / count, True
        time.sleep(0.05)
    return (cpu if busy else wall) / count, False


def rounds(found: dict[str, Stepper], count: int, seconds: float, threads: int, busy: bool) -> tuple[dict, int]:
    """Return seconds a step for each contestant and round, and how many of them were disturbed."""
    sizes = {}
    for name, steps in found.items():
        steps(SCANNED if "scan" in name else 3)  # compile, warm up
        begun = time.perf_counter()
        steps(SCANNED if "scan" in name else 3)
        one = (time.perf_counter() - begun) / (SCANNED if "scan" in name else 3)
        sizes[name] = max(3, int(seconds / one))
        if "scan" in name:
            sizes[name] = max(1, sizes[name] // SCANNED) * SCANNED
    times: dict[str, list[float]] = {name: [] for name in found}
    disturbed = 0
    for i in range(count):
        for name in list(found) if i % 2 == 0 else reversed(list(found)):
            took, alone = measure(found[name], sizes[name], threads, busy)
            times[name].append(took)
            disturbed += not alone
    return times, disturbed


def ratios(times: dict[str, list[float]], name: str, base: str) -> tuple[float, float, float]:
    """Return the median ratio of paired rounds, and its quartiles."""
    found = sorted(a / b for a, b in zip(times[name], times[base], strict=True))
    if len(found) < 2:
        return found[0], found[0], found[0]
    low, _, high = statistics.quantiles(found, n=4, method="inclusive")
    return statistics.median(found), low, high


def table(name: str, times: dict[str, list[float]]) -> str:
    """Return a case's times as a Markdown table; ratios are to pyro_vae compiled."""
    base = "pyro_vae compiled"
    lines = [f"### {name}", "", "| contestant | ms a step | times of compiled (quartiles) |", "|---|---|---|"]
    for one in sorted(times, key=lambda n: statistics.median(times[n])):
        ratio, low, high = ratios(times, one, base)
        lines.append(f"| {one} | {statistics.median(times[one]) * 1e3:.3f} | {ratio:.2f} ({low:.2f}-{high:.2f}) |")
    return "\n".join(lines)


START = """
import sys, time
begun = time.perf_counter()
import torch, pyro
sys.path.insert(0, {folder!r})
import cases
from pyro.infer import SVI
if {mode!r} != "pyro":
    from pyro_vae.svi import SVI
options = {{}} if {mode!r} == "pyro" else {{"compile": {mode!r}}}
case = cases.CASES["mlp-128"]
elbo, model, guide, _ = case.pair()
SVI(model, guide, pyro.optim.Adam({{"lr": 1e-3}}), elbo, **options).step(case.batch())
print(time.perf_counter() - begun)
"""


def starts() -> dict[str, float]:
    """Return seconds from the start of Python's imports to the end of the first step, inductor's cache cold and warm."""
    folder, found = str(Path(__file__).parent), {}
    with tempfile.TemporaryDirectory() as cache:
        for label, mode in (
            ("Pyro SVI", "pyro"),
            ("pyro_vae recorded", "recorded"),
            ("pyro_vae compiled, cold cache", "on"),
            ("pyro_vae compiled, warm cache", "on"),
        ):
            code = START.format(folder=folder, mode=mode)
            environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache}
            done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
            found[label] = float(done.stdout.split()[-1])
    return found


def draw(results: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Draw every case's ratios to pyro_vae compiled."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(results), figsize=(3.6 * len(results), 3.6), layout="constrained", squeeze=False)
    for axis, (name, times) in zip(axes[0], results.items(), strict=True):
        names = sorted(times, key=lambda n: statistics.median(times[n]), reverse=True)
        values = [ratios(times, n, "pyro_vae compiled")[0] for n in names]
        colors = ["tab:red" if n.startswith("pyro_vae") else "0.6" for n in names]
        axis.barh(names, values, color=colors)
        axis.axvline(1, color="0.2", linewidth=0.8)
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("times of compiled", fontsize=8)
        axis.tick_params(labelsize=7)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three short rounds, no torch.compile by hand")
    parser.add_argument("--cases", nargs="+", help="only these")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--busy", action="store_true", help="on a machine in use: count processor time, disturbed or not"
    )
    parser.add_argument("--start", action="store_true", help="time also the first step of a new process")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--figure", type=Path, metavar="FILE")
    options = parser.parse_args()
    pin(options.threads)

    sys.path.insert(0, str(Path(__file__).parent))
    import cases
    import pyro
    import torch

    warnings.filterwarnings("ignore")
    torch.set_num_threads(options.threads)
    machine = f"{platform.machine()}, {options.threads} thread(s), torch {torch.__version__}, pyro {pyro.__version__}"
    print(f"## A training step ({machine})\n", flush=True)
    results = {}
    for name in options.cases or cases.CASES:
        found = contestants(name, compile_by_hand=not options.quick)
        count, seconds = (3, 0.1) if options.quick else (15, 0.4)
        results[name], disturbed = rounds(found, count, seconds, options.threads, options.busy)
        print(table(name, results[name]))
        total = sum(map(len, results[name].values()))
        print(f"\n{total - disturbed} of {total} times undisturbed\n", flush=True)
    first = starts() if options.start else {}
    if first:
        print("### First step done after\n\n| | seconds |\n|---|---|")
        print("\n".join(f"| {name} | {seconds:.1f} |" for name, seconds in first.items()))
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "seconds": results, "first_step": first}, indent=1))
    if options.figure:
        draw(results, options.figure)


if __name__ == "__main__":
    main()
