"""A linear-Gaussian model with its exact guide, or one that is not: pairs whose every bound is known."""

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae.guides.linear import LinearGuide
from pyro_vae.models.linear import LinearModel

FEATURES, LATENT = 4, 2


class DiagonalGuide(PyroModule):
    """z ~ Normal(A x + b, scale): not the posterior."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(FEATURES, LATENT)
        self.log_spread = nn.Parameter(
            torch.full((LATENT,), -0.3)
        )  # a PyroModule's own names must not meet the model's

    def forward(self, x: Tensor) -> Any:
        with pyro.plate("data", len(x)):
            return pyro.sample("z", dist.Normal(self.net(x), self.log_spread.exp()).to_event(1))


def pair(exact: bool = False) -> tuple[LinearModel, nn.Module, Tensor]:
    torch.manual_seed(0)
    model = LinearModel(LATENT, FEATURES).double()
    with torch.no_grad():
        model.weight.mul_(8)
    x = torch.randn(6, FEATURES).double()
    guide = LinearGuide(model) if exact else DiagonalGuide().double()
    return model, guide, x
