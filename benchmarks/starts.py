"""Seconds to the end of the first step: of a new process, and of that the step itself, without imports (torch puts some off until
the first optimizer) and data."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CODE = """
import sys, time
import torch, pyro
sys.path.insert(0, {folder!r})
import cases
case = cases.CASES["mlp-128"]
x = case.batch()
if {mode!r} not in ("pyro", "by hand"):
    from pyro_vae.svi import SVI
torch.optim.Adam([torch.zeros(1, requires_grad=True)]).step()  # imports torch's compiler, whoever it is for
begun = time.time()
if {mode!r} == "by hand":
    module = torch.compile(case.hand())
    optim = torch.optim.Adam(module.parameters(), lr=1e-3, fused=True)
    module(x).backward()
    optim.step()
else:
    if {mode!r} == "pyro":
        from pyro.infer import SVI
        options = {{}}
    else:
        options = {{"steps": 100_000}} if {mode!r} == "planned" else {{"compile": {mode!r}}}
    elbo, model, guide = case.pair()
    SVI(model, guide, pyro.optim.Adam({{"lr": 1e-3}}), elbo, **options).step(x)
print(time.time(), time.time() - begun)
"""


def starts(quick: bool) -> dict[str, tuple[float, float]]:
    """Return (seconds from the start of the process, of the step itself): the median of three, or one where compiling makes it long."""
    wanted = [
        ("Pyro SVI", "pyro", 3),
        ("pyro_vae auto (the default)", "auto", 3),
        ("pyro_vae auto, 100,000 steps planned: recorded, compiled at step 100", "planned", 3),
    ]
    if not quick:
        wanted += [
            ("pyro_vae compiled before the first step, cold cache", "on", 1),
            ("the same, warm cache", "on", 1),
            ("by hand, torch.compile, cold cache", "by hand", 1),
            ("by hand, torch.compile, warm cache", "by hand", 1),
        ]
    found = {}
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache}
        for label, mode, times in wanted:
            code = CODE.format(folder=str(Path(__file__).parent), mode=mode)
            took = []
            for _ in range(times):
                begun = time.time()
                done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
                ended, step = map(float, done.stdout.split()[-2:])
                took.append((ended - begun, step))
            found[label] = sorted(took)[times // 2]
    return found
