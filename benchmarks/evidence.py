"""log p(x) of an MLP VAE by K = 5000 draws an image: eager chunks against compiled ones."""

import cases
import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from timing import Stepper
from torch import Tensor

import pyro_vae as pv
from pyro_vae.evidence import MAX_ROWS, Chunks
from pyro_vae.program import evaluation, weigh

WIDTH = 64  # images in a chunk, as log_evidence cuts them
DRAWS = MAX_ROWS // WIDTH  # of each in a chunk


class Model(PyroModule):
    def __init__(self, decoder: torch.nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), cases.LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)


class Guide(PyroModule):
    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc, scale = self.encoder(x)
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))


def evidence(device: str, quick: bool) -> dict[str, Stepper]:
    """Return contestants whose step is one chunk: `MAX_ROWS` draws, weighted and summed."""
    torch.manual_seed(0)
    encoder, decoder = cases.dense()
    pair = pv.Pair(Model(decoder), Guide(encoder))
    batch = {"x": cases.binary(WIDTH)().to(device)}
    found: dict[str, Stepper] = {}
    modes = [("eager chunks", "off", False)]
    if not quick:
        modes += [("compiled chunks", "on", False), ("compiled chunks, bf16", "on", True)]
    for label, mode, half in modes:
        chunks = Chunks(mode)  # type: ignore[arg-type]

        def steps(count: int, chunks: Chunks = chunks, half: bool = half) -> None:
            with evaluation(pair, 0), torch.autocast(torch.device(device).type, torch.bfloat16, enabled=half):
                for _ in range(count):
                    (log_w,) = chunks(lambda b: (weigh(pair, b, DRAWS, 1),), "guide", batch)
                    log_w.double().logsumexp(0)

        found[label] = steps
    operands = [
        (torch.randn(MAX_ROWS, n), torch.randn(n, m), torch.empty(MAX_ROWS, m))
        for n, m in zip((cases.LATENT, *cases.HIDDEN[::-1]), (*cases.HIDDEN[::-1], cases.FEATURES), strict=True)
    ]

    def products(count: int) -> None:
        for _ in range(count):
            for a, b, out in operands:
                torch.mm(a, b, out=out)

    return found | {"matrix products alone": products}
