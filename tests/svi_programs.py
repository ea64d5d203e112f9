"""Programs and data that the tests of `SVI` share."""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

FEATURES, LATENT, BATCH = 7, 2, 10


def net(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, n_out), nn.Tanh())


class Programs(nn.Module):
    """A VAE in the style of Pyro's examples: bound methods that register their nets in the store."""

    count = 0

    def __init__(self, *first: nn.Module):
        super().__init__()
        self.encoder = nn.Sequential(*first, *net(FEATURES, 2 * LATENT))
        self.decoder = net(LATENT, FEATURES)
        self.bonus = torch.tensor(0.0)
        self.epoch = 0
        self.weight = 1.0
        self.beta = torch.tensor(1.0)

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        shift = pyro.param("shift", torch.zeros(FEATURES))
        with pyro.plate("data", x.shape[0]), pyro.poutine.scale(scale=self.weight):
            with pyro.poutine.scale(scale=self.beta):
                z = pyro.sample("z", dist.Normal(x.new_zeros(x.shape[0], LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z) + shift).to_event(1), obs=x)
        pyro.factor("bonus", self.bonus)

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]), pyro.poutine.scale(scale=self.beta * self.weight):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def batches(count: int, seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(BATCH, FEATURES, generator=generator).round() for _ in range(count)]


def programs(*first: nn.Module) -> Programs:
    pyro.clear_param_store()
    torch.manual_seed(0)
    one = Programs(*first)
    pyro.poutine.trace(one.model).get_trace(batches(1)[0])  # so that `shift` exists
    return one


def everything(one: Programs) -> list[Tensor]:
    shift = pyro.get_param_store()["shift"].unconstrained()
    return [*one.parameters(), shift]


def run(svi, data: list[Tensor], seed: int = 2) -> list[float]:
    torch.manual_seed(seed)
    return [svi.step(x) for x in data]


def values(one: Programs) -> Tensor:
    return torch.cat([p.detach().flatten() for p in everything(one)])


PYRO_OPTIMIZERS = {
    "Adam": lambda: pyro.optim.Adam({"lr": 1e-2}),
    "AdamW": lambda: pyro.optim.AdamW({"lr": 1e-2, "weight_decay": 0.1}),
    "ClippedAdam": lambda: pyro.optim.ClippedAdam({"lr": 1e-2, "clip_norm": 0.5, "lrd": 0.9}),
    "centered": lambda: pyro.optim.ClippedAdam({"lr": 1e-2, "centered_variance": True, "weight_decay": 0.1}),
    "SGD": lambda: pyro.optim.SGD({"lr": 1e-3, "momentum": 0.9}),
    "Adamax": lambda: pyro.optim.Adamax({"lr": 1e-2}),
    "Rprop": lambda: pyro.optim.Rprop({"lr": 1e-3}),
    "clip_args": lambda: pyro.optim.Adam({"lr": 1e-2}, {"clip_norm": 0.1}),
    "per_parameter": lambda: pyro.optim.Adam(lambda name: {"lr": 1e-2 if "encoder" in name else 1e-3}),
    "schedule": lambda: pyro.optim.ExponentialLR(
        {"optimizer": torch.optim.Adam, "optim_args": {"lr": 1e-2}, "gamma": 0.8}
    ),
}
