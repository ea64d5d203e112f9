"""Measure and test pyro_vae on one GPU: tests, steps, a training, its diagnosis, agreement with the CPU, and resuming.

    benchmarks/gpu.sh [--quick] [--device cuda] [--json gpu.json] [PART ...]

Each part runs in a process of its own with a limit of its own, prints a summary, and adds what it found to the JSON
file as it ends, so a part that fails or hangs takes no other with it. With `--device cpu --quick` everything but the
CUDA graphs runs on a CPU, on bundled data.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
AGREEMENT_STEPS = 100
CASES = ("mlp-128", "mlp-2048", "conv-128", "conv-2048", "hierarchical-128", "hierarchical-2048", "flow-128")
CASES += ("mixture-128", "full-covariance-128")
LIMITS = {
    "tests": 90,
    "agreement": 60,
    "resume": 120,
    "training": 240,
    "steps": 300,
}  # seconds; six times that on a CPU

Part = Callable[[argparse.Namespace, Path], dict[str, Any]]


def tests(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run the tests that need a GPU."""
    files = sorted(str(path) for path in (ROOT / "tests").rglob("test_*.py") if "mark.gpu" in path.read_text())
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-m", "gpu", "--no-header", *files]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    lines = found.stdout.strip().splitlines()
    if found.returncode:
        print(found.stdout[-6000:], found.stderr[-2000:])
    return {"passed": found.returncode == 0, "summary": lines[-1] if lines else found.stderr[-500:]}


def agreement(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Take the same steps on the CPU (eager) and on the device (compiled) in float64, with the same noise, and compare."""
    ways = ("cpu", "off"), (options.device, "on")
    losses, parameters = zip(*(_steps_with_given_noise(*way) for way in ways), strict=True)
    apart = [((a - b).abs().max() / a.abs().max()).item() for a, b in (losses, parameters)]
    return {"steps": AGREEMENT_STEPS, "losses": apart[0], "parameters": apart[1], "passed": max(apart) < 1e-9}


def _steps_with_given_noise(device: str, compile: str) -> tuple[Any, Any]:
    import pyro
    import pyro.distributions as dist
    import torch

    from pyro_vae.svi import SVI

    torch.manual_seed(0)
    features, latent, size = 50, 5, 64
    decoder = torch.nn.Sequential(torch.nn.Linear(latent, 32), torch.nn.Tanh(), torch.nn.Linear(32, features))
    encoder = torch.nn.Sequential(torch.nn.Linear(features, 32), torch.nn.Tanh(), torch.nn.Linear(32, 2 * latent))
    nets = torch.nn.ModuleList([decoder, encoder]).double()
    x = torch.rand(AGREEMENT_STEPS, size, features).round().double().to(device)
    noise = torch.randn(AGREEMENT_STEPS, size, latent).double().to(device)
    nets.to(device)

    def model(x: Any, noise: Any) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(x.new_zeros(x.shape[0], latent), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x: Any, noise: Any) -> None:
        with pyro.plate("data", x.shape[0]):
            loc, log_scale = encoder(x).chunk(2, -1)
            z = loc + log_scale.exp() * noise  # generators of two devices draw other numbers
            log_q = dist.Normal(loc, log_scale.exp()).log_prob(z).sum(-1)
            pyro.sample("z", dist.Delta(z, log_q, event_dim=1))

    optim = torch.optim.Adam(nets.parameters(), lr=1e-3)
    svi = SVI(model, guide, optim, pyro.infer.Trace_ELBO(), compile=compile)  # type: ignore[arg-type]
    losses = torch.stack([svi.update(a, b) for a, b in zip(x, noise, strict=True)])
    return losses.cpu(), torch.cat([p.detach().flatten().cpu() for p in nets.parameters()])


def resume(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train four epochs at once, and two and two, and compare every bit."""
    import torch

    import pyro_vae as pv

    data = pv.load_data("digits")
    found = {}
    for pair in ("latent", "hierarchical"):
        ends = []
        for name, stops in (("whole", (4,)), ("halves", (2, 4))):
            for i, epochs in enumerate(stops):
                torch.manual_seed(0)  # the nets' first weights
                built = pv.pairs.PAIRS[pair](data.spec)
                run = folder / f"{pair}-{name}"
                pv.fit(built, data, run=run, resume=i > 0, epochs=epochs, schedule="constant", device=options.device)
            ends.append(torch.cat([p.detach().flatten().cpu() for p in built.named_parameters().values()]))
        found[pair] = torch.equal(*ends)
    return {"to the bit": found, "passed": all(found.values())}


def training(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train the default pair on MNIST for so long, compiling included; evaluate and diagnose it."""
    data, seconds = ("digits", 10) if options.quick else ("mnist", options.seconds)
    device = ["--device", options.device]
    begun = time.perf_counter()
    epoch = _seconds_an_epoch(data, options.device)
    first = time.perf_counter() - begun - 3 * epoch  # starting and compiling
    epochs = max(3, int((seconds - first) / epoch))
    recipe = ["--epochs", str(epochs), "--schedule", "cosine", *device]
    begun = time.perf_counter()
    trained = _command("train", "latent", "--data", data, "--run", str(folder / "run"), *recipe)
    took = time.perf_counter() - begun
    print(f"trained for {took:.0f} s, {epochs} epochs of {epoch:.2f} s: {trained}", flush=True)
    begun = time.perf_counter()
    diagnosis = _command("diagnose", str(folder / "run"), "--budget", "quick")
    return {
        "epochs": epochs,
        "seconds an epoch": round(epoch, 3),
        "seconds in all": round(took, 1),
        "result": {name: trained.get(name) for name in ("elbo", "log_evidence", "khat_share", "proposal")},
        "diagnose": {"seconds": round(time.perf_counter() - begun, 1), "verdicts": _counted(diagnosis)},
        "passed": True,
    }


def _seconds_an_epoch(source: str, device: str) -> float:
    import pyro_vae as pv
    from pyro_vae.training import Silent

    ends = []

    class Clock(Silent):
        def epoch(self, row: dict[str, float]) -> None:
            ends.append(time.perf_counter())

    data = pv.load_data(source)
    pv.fit(pv.pairs.PAIRS["latent"](data.spec), data, epochs=4, device=device, progress=Clock())
    return (ends[-1] - ends[1]) / 2


def _counted(diagnosis: dict[str, Any]) -> dict[str, int]:
    found: dict[str, int] = {}
    for verdict in diagnosis.get("verdicts", []):
        found[verdict["verdict"]] = found.get(verdict["verdict"], 0) + 1
    return found


def _command(*words: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "pyro_vae", *words, "--json"], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"pyro-vae {' '.join(words)} ended with {done.returncode}: {done.stderr[-1500:]}")
    return json.loads(done.stdout)


def steps(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Time steps of all contestants, case by case, and the ratios that matter."""
    found: dict[str, Any] = {"ms": {}, "passed": True}
    on_a_cpu = options.device == "cpu"
    names = options.cases or (("mlp-128", "full-covariance-64") if on_a_cpu else CASES[: 3 if options.quick else None])
    for name in names:
        path = folder / f"{name}.json"
        command = [sys.executable, "benchmarks/speed.py", "--cases", name, "--threads", "1", "--device", options.device]
        flags = ["--quick"] * (options.quick or on_a_cpu) + ["--busy"] * on_a_cpu
        done = subprocess.run([*command, *flags, "--json", str(path)], cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            print(f"{name}: {done.stderr[-1500:]}")
            found["passed"] = False
            continue
        times = json.loads(path.read_text())["steps"]["1 thread"][name]
        found["ms"][name] = {who: round(1000 * sorted(took)[len(took) // 2], 4) for who, took in times.items()}
        warned = [line for line in done.stderr.splitlines() if "EagerWarning" in line]
        print(
            f"{name}: " + "; ".join(f"{who} {ms:.3f} ms" for who, ms in found["ms"][name].items()), *warned, flush=True
        )
        options.keep(found)  # a limit may end this part
    return found


PARTS: dict[str, Part] = {
    "tests": tests,
    "agreement": agreement,
    "resume": resume,
    "training": training,
    "steps": steps,
}


def in_a_process(part: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run one part under its limit; return what it found, whatever became of it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "found.json"
        flags = ["--quick"] * options.quick + (["--cases", *options.cases] if options.cases else [])
        command = [sys.executable, __file__, part, "--device", options.device, *flags]
        command += ["--seconds", str(options.seconds), "--worker", str(path)]
        limit = LIMITS[part] * (6 if options.device == "cpu" else 1)
        begun = time.perf_counter()
        worker = subprocess.Popen(command, start_new_session=True)
        try:
            status: int | str = worker.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(worker.pid, 9)
            worker.wait()
            status = f"ended after its limit of {limit} s"
        found = json.loads(path.read_text()) if path.exists() else {}
        if status != 0:
            found |= {"passed": False, "ended": status}
        return found | {"part took": round(time.perf_counter() - begun, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"only these: {', '.join(PARTS)}")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="digits for MNIST, few cases, short rounds")
    parser.add_argument("--seconds", type=float, default=120, help="of the part training")
    parser.add_argument("--cases", nargs="+", help="of the part steps")
    parser.add_argument("--json", type=Path, default=Path("gpu.json"), metavar="FILE")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if options.worker:
        options.keep = lambda found: options.worker.write_text(json.dumps(found))
        with tempfile.TemporaryDirectory() as folder:
            options.keep(PARTS[options.parts[0]](options, Path(folder)))
        return
    from speed import machine

    results: dict[str, Any] = {"machine": machine(options.device)}
    print(results["machine"], flush=True)
    for part in options.parts or PARTS:
        results[part] = in_a_process(part, options)
        print(f"\n{part}: {json.dumps(results[part], indent=1 if part == 'steps' else None)}\n", flush=True)
        options.json.write_text(json.dumps(results, indent=1))
    failed = [part for part in PARTS if part in results and not results[part].get("passed")]
    print(f"failed: {', '.join(failed)}" if failed else "all parts passed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
