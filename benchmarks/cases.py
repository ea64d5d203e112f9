"""What is timed: pairs written as their authors would, for Pyro, for NumPyro and by hand."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as transforms
import torch
import torch.nn.functional as F
from pyro.distributions import constraints
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal
from torch import Tensor, nn

FEATURES, LATENT, HIDDEN = 784, 20, (400, 400)


@dataclass(frozen=True)
class Case:
    """One model on one batch size.

    ``pair`` builds (ELBO, model, guide); ``hand`` builds a module whose forward is the loss.
    ``products`` are the sizes (m, k, n) of the step's matrix products, forward and backward.
    """

    batch: Callable[[], Tensor]
    pair: Callable[[], tuple[Any, Callable, Callable]]
    hand: Callable[[], nn.Module] | None = None
    numpyro: bool = False
    probabilities: Callable[[], tuple[Any, Callable, Callable]] | None = None
    products: list[tuple[int, int, int]] = field(default_factory=list)


def binary(size: int) -> Callable[[], Tensor]:
    return lambda: torch.rand(size, FEATURES, generator=torch.Generator().manual_seed(0), device="cpu").round()


def rows(size: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(size, 4, generator=torch.Generator().manual_seed(0), device="cpu")


def mlp(sizes: list[int], activation: Callable[[], nn.Module] = nn.Softplus) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), activation()]
    return nn.Sequential(*layers[:-1])


class Encoder(nn.Module):
    """Loc and scale by two heads, as in Pyro's VAE example."""

    def __init__(self, body: nn.Module, width: int, latent: int = LATENT):
        super().__init__()
        self.body, self.loc, self.log_scale = body, nn.Linear(width, latent), nn.Linear(width, latent)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = F.softplus(self.body(x))
        return self.loc(h), self.log_scale(h).exp()


def dense() -> tuple[nn.Module, nn.Module]:
    encoder = Encoder(mlp([FEATURES, *HIDDEN]), HIDDEN[-1])
    return encoder, mlp([LATENT, *HIDDEN[::-1], FEATURES])


def convolutional() -> tuple[nn.Module, nn.Module]:
    body = nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        nn.Conv2d(1, 32, 4, 2, 1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 4, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * 49, 128),
    )
    decoder = nn.Sequential(
        nn.Linear(LATENT, 64 * 49),
        nn.ReLU(),
        nn.Unflatten(1, (64, 7, 7)),
        nn.ConvTranspose2d(64, 32, 4, 2, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(32, 1, 4, 2, 1),
        nn.Flatten(),
    )
    return Encoder(body, 128), decoder


def vae(nets: Callable[[], tuple[nn.Module, nn.Module]], logits: bool = True) -> tuple:
    """Pyro's VAE example; ``logits=False`` is its likelihood as it stands: a sigmoid, then Bernoulli(probs)."""
    encoder, decoder = nets()
    if not logits:
        decoder = nn.Sequential(decoder, nn.Sigmoid())

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", x.shape[0]):
            zero, one = x.new_zeros(x.shape[0], LATENT), x.new_ones(x.shape[0], LATENT)
            z = pyro.sample("z", dist.Normal(zero, one).to_event(1))
            out = decoder(z)
            likelihood = dist.Bernoulli(logits=out) if logits else dist.Bernoulli(out, validate_args=False)
            pyro.sample("x", likelihood.to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", x.shape[0]):
            loc, scale = encoder(x)
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    return Trace_ELBO(), model, guide


class Hand(nn.Module):
    """The same loss by hand: logits, analytic KL."""

    def __init__(self, nets: Callable[[], tuple[nn.Module, nn.Module]]):
        super().__init__()
        self.encoder, self.decoder = nets()

    def forward(self, x: Tensor) -> Tensor:
        loc, scale = self.encoder(x)
        logits = self.decoder(loc + scale * torch.randn_like(scale))
        kl = 0.5 * (loc * loc + scale * scale - 1 - 2 * scale.log()).sum()
        return F.binary_cross_entropy_with_logits(logits, x, reduction="sum") + kl


def dense_products(batch: int) -> list[tuple[int, int, int]]:
    """Forward, gradient of the weights, and gradient of the input except at the first layer."""
    sizes = [(FEATURES, HIDDEN[0]), HIDDEN, (HIDDEN[1], LATENT), (HIDDEN[1], LATENT)]
    sizes += [(LATENT, HIDDEN[1]), HIDDEN[::-1], (HIDDEN[0], FEATURES)]
    found = []
    for i, (n_in, n_out) in enumerate(sizes):
        found += [(batch, n_in, n_out), (n_in, batch, n_out)]
        if i:
            found.append((batch, n_out, n_in))
    return found


def hierarchical() -> tuple:
    """Two levels, z2 -> z1 -> x, bottom-up guide."""
    e1, e2 = mlp([FEATURES, 64, 32]), mlp([16, 64, 16])
    d1, d2 = mlp([8, 64, 32]), mlp([16, 64, FEATURES])

    def model(x: Tensor) -> None:
        pyro.module("d1", d1)
        pyro.module("d2", d2)
        with pyro.plate("data", x.shape[0]):
            z2 = pyro.sample("z2", dist.Normal(x.new_zeros(x.shape[0], 8), 1.0).to_event(1))
            loc, log_scale = d1(z2).chunk(2, -1)
            z1 = pyro.sample("z1", dist.Normal(loc, log_scale.exp()).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=d2(z1)).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("e1", e1)
        pyro.module("e2", e2)
        with pyro.plate("data", x.shape[0]):
            loc, log_scale = e1(x).chunk(2, -1)
            z1 = pyro.sample("z1", dist.Normal(loc, log_scale.exp()).to_event(1))
            loc, log_scale = e2(z1).chunk(2, -1)
            pyro.sample("z2", dist.Normal(loc, log_scale.exp()).to_event(1))

    return Trace_ELBO(), model, guide


def flow() -> tuple:
    """A guide with two inverse autoregressive flows."""
    encoder, decoder = mlp([FEATURES, 64, 32]), mlp([16, 64, FEATURES])
    flows = [transforms.affine_autoregressive(16, hidden_dims=[32]) for _ in range(2)]

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(x.new_zeros(x.shape[0], 16), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        for i, one in enumerate(flows):
            pyro.module(f"flow{i}", one)
        with pyro.plate("data", x.shape[0]):
            loc, log_scale = encoder(x).chunk(2, -1)
            pyro.sample("z", dist.TransformedDistribution(dist.Normal(loc, log_scale.exp()), flows))

    return Trace_ELBO(), model, guide


def mixture() -> tuple:
    """A mixture prior whose component is summed out in the model."""
    encoder, decoder = mlp([FEATURES, 64, 32]), mlp([16, 64, FEATURES])

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        locs = pyro.param("locs", lambda: torch.randn(5, 16, device=x.device))
        scales = pyro.param("scales", lambda: x.new_ones(5, 16), constraint=constraints.positive)
        with pyro.plate("data", x.shape[0]):
            c = pyro.sample("c", dist.Categorical(x.new_ones(5)), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(locs[c], scales[c]).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", x.shape[0]):
            loc, log_scale = encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    return TraceEnum_ELBO(max_plate_nesting=1), model, guide


def discrete() -> tuple:
    """Ten binary latents by the score function with TraceGraph's variance reduction."""
    encoder, decoder = mlp([FEATURES, 64, 10]), mlp([10, 64, FEATURES])

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", x.shape[0]):
            c = pyro.sample("c", dist.Bernoulli(x.new_full((x.shape[0], 10), 0.5)).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(c)).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", x.shape[0]):
            pyro.sample("c", dist.Bernoulli(logits=encoder(x)).to_event(1))

    return TraceGraph_ELBO(), model, guide


def full_covariance() -> tuple:
    """Regression with a full-covariance Gaussian over its weights and noise."""

    def model(x: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(x.new_zeros(4), 1.0).to_event(1))
        s = pyro.sample("s", dist.HalfCauchy(x.new_ones(())))
        with pyro.plate("data", x.shape[0]):
            pyro.sample("y", dist.Normal(x @ w, s), obs=x.sum(-1))

    return Trace_ELBO(), model, AutoMultivariateNormal(model)


def dense_case(size: int) -> Case:
    return Case(
        binary(size),
        lambda: vae(dense),
        hand=lambda: Hand(dense),
        numpyro=True,
        probabilities=lambda: vae(dense, logits=False),
        products=dense_products(size),
    )


def convolutional_case(size: int) -> Case:
    return Case(binary(size), lambda: vae(convolutional), hand=lambda: Hand(convolutional))


SMALL = {"hierarchical": hierarchical, "flow": flow, "mixture": mixture, "tracegraph": discrete}

CASES: dict[str, Case] = {  # on a CPU
    **{f"mlp-{size}": dense_case(size) for size in (32, 128, 512)},
    "conv-128": convolutional_case(128),
    **{f"{name}-64": Case(binary(64), pair) for name, pair in SMALL.items()},
    "full-covariance-64": Case(rows(64), full_covariance),
}
ON_A_GPU: dict[str, Case] = {
    **{f"mlp-{size}": dense_case(size) for size in (128, 2048)},
    **{f"conv-{size}": convolutional_case(size) for size in (128, 2048)},
    **{f"{name}-{size}": Case(binary(size), pair) for name, pair in SMALL.items() for size in (128, 2048)},
    **{f"full-covariance-{size}": Case(rows(size), full_covariance) for size in (128, 2048)},
}
