"""A step as one CUDA graph: on a GPU where there is one; elsewhere with a stand-in for the capture, which tests all but CUDA itself."""

import copy
import inspect
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor, nn

from pyro_vae.compiled.state import copies, put_back
from pyro_vae.svi import SVI, EagerWarning

FEATURES, LATENT, BATCH, STEPS = 7, 2, 10, 12


class Programs(nn.Module):
    """A VAE with running statistics, whose batches are drawn in part."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.BatchNorm1d(FEATURES), nn.Linear(FEATURES, 2 * LATENT))
        self.decoder = nn.Linear(LATENT, FEATURES)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(x.new_zeros(x.shape[0], LATENT), x.new_ones(())).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def train(mode: str, device: str = "cpu") -> tuple[Tensor, SVI]:
    """Take steps one by one, after a state is loaded, and many in one call; return losses, parameters and statistics."""
    torch.manual_seed(0)
    one = Programs().to(device)
    data = torch.rand(3 * STEPS, BATCH, FEATURES).round().to(device)
    optim = torch.optim.Adam(one.parameters(), lr=1e-2)
    svi = SVI(one.model, one.guide, optim, Trace_ELBO(), compile=mode, clip=10.0)  # type: ignore[arg-type]
    torch.manual_seed(1)
    losses = [svi.update(x) for x in data[:STEPS]]
    optim.load_state_dict(copy.deepcopy(optim.state_dict()))
    losses += [svi.update(x) for x in data[STEPS : 2 * STEPS]]
    losses += list(svi.steps(data[2 * STEPS :]))
    return torch.cat([torch.stack(losses), *(t.detach().flatten() for t in one.state_dict().values())]).cpu(), svi


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Let code run on the CPU in place of a CUDA graph: nothing is done at the capture, and results come back in the same tensors."""
    captured: list[Tensor] = []

    def capture(run: Callable, device: torch.device) -> tuple[Callable[[], None], list[Tensor]]:
        out = [t.clone() for t in run()]
        captured.append(out[0])

        def replay() -> None:
            for place, value in zip(out, run(), strict=True):
                place.copy_(value)

        return replay, out

    monkeypatch.setattr("pyro_vae.compiled.inductor.compile_graph", lambda graph, inputs: graph)
    monkeypatch.setattr("pyro_vae.compiled.cuda_graphs.capturable", lambda inputs: True)
    monkeypatch.setattr("pyro_vae.compiled.cuda_graphs.capture", capture)
    return captured


def test_a_replayed_step_is_the_step(stand_in: list[Tensor]) -> None:
    found, svi = train("on")
    assert svi.engine == "inductor"
    assert len(stand_in) == 2  # the optimizer's tensors are others after a state was loaded
    torch.testing.assert_close(found, train("recorded")[0], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault", ["nothing happens", "nothing comes back", "nothing is written", "data stand still", "no capture"]
)
def test_a_capture_that_fails_is_not_used(fault: str, stand_in: list[Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    import pyro_vae.compiled.cuda_graphs

    sound = pyro_vae.compiled.cuda_graphs.capture

    def capture(run: Callable, device: torch.device) -> tuple[Callable[[], None], list[Tensor]]:
        if fault == "no capture":
            raise RuntimeError("operation not permitted when stream is capturing")
        replay, out = sound(run, device)
        if fault == "nothing happens":
            return lambda: None, out
        if fault == "nothing comes back":
            return replay, [t.clone() for t in out]

        inputs = inspect.getclosurevars(run).nonlocals
        held, data = copies(inputs["still"]), copies(inputs["moving"])

        def half() -> None:
            if fault == "data stand still":
                put_back(data)
                replay()
            else:
                replay()
                put_back(held)

        return half, out

    monkeypatch.setattr("pyro_vae.compiled.cuda_graphs.capture", capture)
    with pytest.warns(EagerWarning, match="launches a step's kernels one by one: as a CUDA graph it failed"):
        found, svi = train("on")
    assert svi.engine == "inductor"
    torch.testing.assert_close(found, train("recorded")[0], rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_step_on_a_gpu_is_one_cuda_graph() -> None:
    found, svi = train("on", "cuda")  # a warning, which is an error here, would say that the capture failed
    assert svi.engine == "inductor"
    torch.testing.assert_close(found, train("off", "cuda")[0], rtol=1e-3, atol=1e-4)
