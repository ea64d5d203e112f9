"""The update of several processes: torch's numbers, and the same bits in each whatever gave its gradients."""

import json
import os
import subprocess
import sys
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor, nn

import pyro_vae.shared_update
from pyro_vae.distributed import Exchange, World
from pyro_vae.svi import SVI, EagerWarning

OPTIMIZERS = {
    "Adam": lambda params: torch.optim.Adam(params, lr=1e-2),
    "fused": lambda params: torch.optim.Adam(params, lr=1e-2, fused=True),
    "AdamW": lambda params: torch.optim.AdamW(params, lr=1e-2, weight_decay=0.1),
    "SGD": lambda params: torch.optim.SGD(params, lr=1e-3, momentum=0.9, dampening=0.2),
    "Adamax": lambda params: torch.optim.Adamax(params, lr=1e-2),
}


@pytest.fixture(autouse=True)
def fresh():
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


class Programs(nn.Module):
    """A VAE with running statistics, and a weight that only every third batch reaches."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Linear(7, 9, bias=False), nn.BatchNorm1d(9), nn.Tanh(), nn.Linear(9, 4))
        self.decoder = nn.Linear(2, 7)
        self.sometimes = nn.Parameter(torch.zeros(7))
        self.reached = True
        self.double()

    def model(self, x: Tensor) -> None:
        pyro.module("pair", self)
        with pyro.plate("data", len(x)), pyro.poutine.scale(scale=1 / len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            logits = self.decoder(z) + (self.sometimes if self.reached else 0.0)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)), pyro.poutine.scale(scale=1 / len(x)):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    def exchange(self) -> Exchange:
        return Exchange(World(), list(self.buffers()))


def train(
    optimizer: str, clip: float | None, reached: list[bool], **options: object
) -> tuple[list[float], Tensor, SVI]:
    """Train on twelve batches; return the losses, everything that training changes, and the SVI."""
    pyro.clear_param_store()
    pair = Programs()
    optim = OPTIMIZERS[optimizer](pair.parameters())
    exchange = pair.exchange() if options.pop("exchanged") else None
    moving = options.pop("moving", False)
    svi = SVI(pair.model, pair.guide, optim, Trace_ELBO(), clip=clip, exchange=exchange, **options)
    torch.manual_seed(1)
    losses = []
    for i, here in enumerate(reached):
        pair.reached = here
        group = optim.param_groups[0]
        group["lr"] *= 0.99
        if moving and "betas" in group:
            group["betas"] = 0.9 - 0.01 * i, 0.999
        elif moving:
            group["momentum"] = 0.9 - 0.01 * i
        x = torch.rand(10 if i % 4 != 2 else 6, 7, dtype=torch.float64).round()
        if exchange is not None:
            exchange.weight = len(x)
        losses.append(svi.step(x))
    state = [optim.state[p][name] for p in pair.parameters() for name in sorted(optim.state[p])]
    everything = [*pair.parameters(), *(b for b in pair.buffers() if b.is_floating_point()), *state]
    return losses, torch.cat([t.detach().double().flatten() for t in everything]), svi


@pytest.mark.parametrize("mode", ["off", "recorded", "on"])
@pytest.mark.parametrize(("optimizer", "clip"), [*((name, None) for name in OPTIMIZERS), ("Adam", 0.05)])
@pytest.mark.parametrize("reached", ["always", "every third"])
def test_the_numbers_are_torchs(optimizer, clip, mode, reached, uncompiled):
    pattern = [reached == "always" or i % 3 == 0 for i in range(12)]
    expected = train(optimizer, clip, pattern, exchanged=False, compile="off")
    found = train(optimizer, clip, pattern, exchanged=True, compile=mode)
    assert found[2].engine == {"off": "eager", "recorded": "recorded", "on": "inductor"}[mode]
    assert found[2]._shared.why_not is None
    assert (found[2]._shared._code is not None) == (mode == "on")
    torch.testing.assert_close(found[0], expected[0], rtol=1e-12, atol=0.0)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_betas_and_momentum_that_move_are_compiled_once_more(optimizer, uncompiled, monkeypatch):
    made = []
    code = pyro_vae.shared_update.UpdateCode
    monkeypatch.setattr(pyro_vae.shared_update, "UpdateCode", lambda *args: made.append(0) or code(*args))
    expected = train(optimizer, None, [True] * 12, exchanged=False, compile="off", moving=True)
    found = train(optimizer, None, [True] * 12, exchanged=True, compile="on", moving=True)
    assert found[2]._shared._code is not None
    assert len(made) == 2
    torch.testing.assert_close(found[0], expected[0], rtol=1e-12, atol=0.0)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-10, atol=1e-13)


def test_an_optimizer_without_such_code_takes_its_own_steps(uncompiled):
    OPTIMIZERS["Rprop"] = lambda params: torch.optim.Rprop(params, lr=1e-2)
    try:
        expected = train("Rprop", None, [True] * 12, exchanged=False, compile="off")
        with pytest.warns(
            EagerWarning, match="leaves the update of several processes to the optimizer: .*Rprop is not one of"
        ) as said:
            found = train("Rprop", None, [True] * 12, exchanged=True, compile="on")
    finally:
        del OPTIMIZERS["Rprop"]
    assert len([w for w in said if "Rprop" in str(w.message)]) == 1
    torch.testing.assert_close(found[1], expected[1], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("when", ["at first", "later"])
def test_code_that_is_wrong_is_not_used(when, monkeypatch):
    """Wrong from the start, or from the audit at step 10 on."""
    off = [1.0]

    def inductor(graph, inputs):
        return lambda *tensors: [t * off[0] for t in graph(*tensors)]

    monkeypatch.setattr("pyro_vae.update_code.inductor", inductor)
    monkeypatch.setattr("pyro_vae.compiled.inductor", lambda graph, inputs: graph)
    pair = Programs()
    svi = SVI(
        pair.model,
        pair.guide,
        OPTIMIZERS["Adam"](pair.parameters()),
        Trace_ELBO(),
        compile="on",
        exchange=pair.exchange(),
    )
    data = torch.rand(12, 10, 7, dtype=torch.float64).round()
    if when == "later":
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for x in data[:5]:
                svi.step(x)
        assert svi._shared._code is not None
    off[0] = 1.1
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for x in data[5:] if when == "later" else data:
            svi.step(x)
    assert any("to the optimizer: its code differs from the recorded graph" in str(w.message) for w in said)
    assert svi._shared._code is None


# Two processes that have nothing in common but parameters: shares of other sizes, one compiled, one eager by a program that cannot be recorded.
TWO = """
import json, sys, warnings
import pyro, torch
import torch.distributed as dist
from pyro.infer import Trace_ELBO
import pyro_vae.compiled, pyro_vae.update_code
import pyro_vae.shared_update
from pyro_vae.distributed import Exchange, World
from pyro_vae.svi import SVI
from test_shared_update import OPTIMIZERS, Programs

rank, what, address = int(sys.argv[1]), sys.argv[2], sys.argv[3]
torch.set_num_threads(1)
made = []
if what != "inductor":
    real = pyro_vae.compiled.inductor
    pyro_vae.compiled.inductor = lambda graph, inputs: graph
    pyro_vae.update_code.inductor = lambda graph, inputs: made.append(graph) or graph
if what == "fails" and rank == 1:
    def fail(graph, inputs):
        raise RuntimeError("no compiler here")
    pyro_vae.update_code.inductor = fail
dist.init_process_group("gloo", init_method="file://" + address, rank=rank, world_size=2)
pair = Programs()
optim = OPTIMIZERS["Adam"](pair.parameters())
exchange = Exchange(World(rank, 2), list(pair.buffers()))

def model(x):
    if rank == 1 and x.sum() < 0:
        raise ValueError
    return pair.model(x)

svi = SVI(model, pair.guide, optim, Trace_ELBO(), compile="on", clip=1.0, exchange=exchange)
torch.manual_seed(rank)
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    for i in range(40):
        exchange.weight = [5, 8][rank] if i % 4 != 2 else 3
        if i == 20:  # as a run that goes back to the last sound step does
            optim.load_state_dict(optim.state_dict())
        svi.step(torch.rand(exchange.weight, 7, dtype=torch.float64).round())
bits = [t.detach().double().flatten() for t in (*pair.parameters(), *pair.buffers())]
bits += [optim.state[p][name].double().flatten() for p in pair.parameters() for name in sorted(optim.state[p])]
print(json.dumps({
    "bits": torch.cat(bits).tolist(),
    "engine": svi.engine,
    "compiled": svi._shared._code is not None,
    "said": [str(w.message) for w in said if "SVI" in str(w.message)],
}))
dist.destroy_process_group()
"""


@pytest.mark.parametrize("what", ["works", "fails", pytest.param("inductor", marks=pytest.mark.slow)])
def test_processes_that_differ_keep_the_same_parameters(what, tmp_path):
    (tmp_path / "two.py").write_text(TWO)
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])}
    jobs = [
        subprocess.Popen(
            [sys.executable, "two.py", str(rank), what, str(tmp_path / "address")],
            cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    outputs = [job.communicate(timeout=400) for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], outputs
    first, second = (json.loads(out.splitlines()[-1]) for out, _ in outputs)
    assert first["bits"] == second["bits"]
    assert (first["engine"], second["engine"]) == ("inductor", "eager")
    assert first["compiled"] == second["compiled"] == (what != "fails")
    for one in (first, second):
        assert any(
            "leaves the update of several processes to the optimizer: RuntimeError: no compiler here" in s
            for s in one["said"]
        ) == (what == "fails")
