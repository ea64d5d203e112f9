"""The contestants of quality.py: each trains until its time is over, and hands over a pair to be evaluated.

All see the same images, drawn anew in each epoch. "Same nets" are those of our default pair, with its learning rate and
batch; what is "as published" keeps the nets, learning rate and batch of its library's own example.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from cases import Encoder, mlp
from torch import Tensor, nn

import pyro_vae as pv

if TYPE_CHECKING:
    from quality import Race

Train = Callable[["pv.Data", "Race", str], None]
ENDLESS = 1_000_000  # epochs: the clock ends them
PEAK = 4e-3  # learning rate of one cycle: better than 2e-3, and as good as 8e-3, after ten epochs of `latent`
NONE: Mapping[str, Any] = MappingProxyType({})


# ------------------------------------------------------------------------------------------------------------ ours
def ours(name: str, options: Mapping[str, Any], data: "pv.Data", race: "Race", device: str, **settings: Any) -> None:
    """Train a pair of the zoo by `fit`; a schedule that plans ahead is given the epochs that fit into the time."""
    if "schedule" in settings:
        settings["epochs"] = epochs_within(name, options, data, race, device)
    torch.manual_seed(0)
    pair = pv.pairs.PAIRS[name](data.spec, **options)
    race.begin()
    pv.fit(
        pair,
        data,
        **{"epochs": ENDLESS, **settings, "device": device, "progress": False},
        callbacks=[lambda _, trained: race.epoch(lambda: trained)],
    )
    race.finish(pair)


def epochs_within(name: str, options: Mapping[str, Any], data: "pv.Data", race: "Race", device: str) -> int:
    """Return how many epochs the time is enough for, by training a pair of the same kind for three."""
    times: list[float] = []
    begun = race.clock()
    pair = pv.pairs.PAIRS[name](data.spec, **options)
    note = [lambda *_: times.append(race.clock() - begun)]
    pv.fit(pair, data, epochs=3, device=device, progress=False, callbacks=note)
    epoch = (times[2] - times[0]) / 2
    return max(1, 1 + int((race.seconds - times[0]) / epoch))


# ------------------------------------------------------------------------------------------- peers, in torch and Pyro
def latent_pair(
    encode: Callable[[Tensor], tuple[Tensor, Tensor]], decode: Callable[[Tensor], Tensor], latent: int
) -> Any:
    """Return the pair of a VAE with N(0, I) before z: ``encode`` gives loc and scale, ``decode`` logits."""

    class Model(pyro.nn.PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = decode  # reached through the program, which is how Pyro learns of its parameters

        def forward(self, x: Tensor) -> Tensor:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(latent), 1.0).to_event(1))
                return pyro.sample("x", dist.Bernoulli(logits=self.net(z), validate_args=False).to_event(1), obs=x)

    class Guide(pyro.nn.PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = encode

        def forward(self, x: Tensor) -> Tensor:
            with pyro.plate("data", len(x)):
                return pyro.sample("z", dist.Normal(*self.net(x)).to_event(1))

    return pv.Pair(Model(), Guide())


class Halves(nn.Module):
    """The same nets as ours: one net, whose outputs are locations and the scales before their softplus."""

    def __init__(self, features: int, latent: int):
        super().__init__()
        self.net = pv.nets.MLP(features, 2 * latent)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        loc, scale = self.net(x).chunk(2, -1)
        return loc, F.softplus(scale) + 1e-4


def batches(data: "pv.Data", size: int, device: str) -> Iterator[Iterator[Tensor]]:
    """Yield the batches of each epoch, for ever."""
    for epoch in range(ENDLESS):
        yield (batch["x"].to(device) for batch in data.epoch(epoch, size, seed=0))


def same_nets(data: "pv.Data", device: str) -> tuple[nn.Module, nn.Module, int]:
    torch.manual_seed(0)
    latent = 40
    return Halves(data.spec.features, latent).to(device), pv.nets.MLP(latent, data.spec.features).to(device), latent


def descend(
    loss: Callable[[Tensor], Tensor], optim: torch.optim.Optimizer, epoch: Iterator[Tensor], schedule: Any = None
) -> None:
    """Take an epoch's steps, the plain way."""
    for x in epoch:
        optim.zero_grad()
        loss(x).backward()
        optim.step()
        if schedule is not None:
            schedule.step()


def by_hand(data: "pv.Data", race: "Race", device: str) -> None:
    """Plain PyTorch: logits, analytic KL, fused Adam, and our default learning rate that falls as ours does."""
    encoder, decoder, latent = same_nets(data, device)
    optim = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=2e-3, fused=True)
    falls = torch.optim.lr_scheduler.LambdaLR(optim, lambda step: 1 / (1 + step / 3000))

    def loss(x: Tensor) -> Tensor:
        loc, scale = encoder(x)
        logits = decoder(loc + scale * torch.randn_like(scale))
        kl = 0.5 * (loc.square() + scale.square() - 1) - scale.log()
        return (F.binary_cross_entropy_with_logits(logits, x, reduction="sum") + kl.sum()) / len(x)

    race.begin()
    for epoch in batches(data, 128, device):
        descend(loss, optim, epoch, falls)
        race.epoch(lambda: latent_pair(encoder, decoder, latent))


def by_pyro(data: "pv.Data", race: "Race", device: str) -> None:
    """Pyro's SVI on the pair of the same nets."""
    encoder, decoder, latent = same_nets(data, device)
    pair = latent_pair(encoder, decoder, latent)
    pyro.clear_param_store()
    falls = pyro.optim.LambdaLR(
        {
            "optimizer": torch.optim.Adam,
            "optim_args": {"lr": 2e-3},
            "lr_lambda": lambda step: 1 / (1 + step / 3000),
        }
    )
    loss = pyro.infer.Trace_ELBO()
    svi = pyro.infer.SVI(lambda x: pair.model(x), lambda x: pair.guide(x), falls, loss)
    race.begin()
    for epoch in batches(data, 128, device):
        for x in epoch:
            svi.step(x)
            falls.step()
        race.epoch(lambda: pair)


def pyro_example(data: "pv.Data", race: "Race", device: str) -> None:
    """examples/vae of Pyro: 784-400-50, softplus, Adam of 1e-3, batches of 256, a sigmoid before Bernoulli."""
    torch.manual_seed(0)
    encoder = Encoder(mlp([data.spec.features, 400]), 400, 50).to(device)
    decoder = mlp([50, 400, data.spec.features]).to(device)

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(x.new_zeros(x.shape[0], 50), x.new_ones(x.shape[0], 50)).to_event(1))
            probs = torch.sigmoid(decoder(z))
            pyro.sample("obs", dist.Bernoulli(probs, validate_args=False).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.Normal(*encoder(x)).to_event(1))

    pyro.clear_param_store()
    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), pyro.infer.Trace_ELBO())
    race.begin()
    for epoch in batches(data, 256, device):
        for x in epoch:
            svi.step(x)
        race.epoch(lambda: latent_pair(encoder, decoder, 50))


def pythae(objective: str, data: "pv.Data", race: "Race", device: str) -> None:
    """pythae's model of that name with its default nets (one layer of 512), trained by the plainest loop."""
    from pythae import models

    torch.manual_seed(0)
    shape, latent = (1, 28, 28), 40
    settings = {"input_dim": shape, "latent_dim": latent, "reconstruction_loss": "bce"}
    config = getattr(models, f"{objective}Config")(**settings)
    net = getattr(models, objective)(config).to(device)
    optim = torch.optim.Adam(net.parameters(), lr=1e-3)

    def encode(x: Tensor) -> tuple[Tensor, Tensor]:
        found = net.encoder(x.reshape(-1, *shape))
        lead = x.shape[:-1]
        return found.embedding.reshape(*lead, latent), (0.5 * found.log_covariance).exp().reshape(*lead, latent)

    def decode(z: Tensor) -> Tensor:
        probs = net.decoder(z.reshape(-1, latent)).reconstruction.reshape(*z.shape[:-1], -1)
        return torch.logit(probs.clamp(1e-7, 1 - 1e-7))

    race.begin()
    for epoch in batches(data, 128, device):
        net.train()
        descend(lambda x: net({"data": x.view(-1, *shape)}).loss, optim, epoch)
        net.eval()
        race.epoch(lambda: latent_pair(encode, decode, latent))


# ------------------------------------------------------------------------------------------------------------ NumPyro
def numpyro_example(data: "pv.Data", race: "Race", device: str) -> None:
    """examples/vae.py of NumPyro: 784-400-50, softplus, Adam of 1e-3, batches of 128, an epoch in one scan."""
    import jax
    import numpy as np
    import numpyro
    import numpyro.distributions as jdist
    from jax.example_libraries import stax

    features, latent = data.spec.features, 50
    heads = stax.parallel(stax.Dense(latent), stax.serial(stax.Dense(latent), stax.Exp))
    encoder_net = stax.serial(stax.Dense(400), stax.Softplus, stax.FanOut(2), heads)
    decoder_net = stax.serial(stax.Dense(400), stax.Softplus, stax.Dense(features))

    def model(x: Any) -> None:
        decode = numpyro.module("decoder", decoder_net, (x.shape[0], latent))
        with numpyro.plate("batch", x.shape[0]):
            z = numpyro.sample("z", jdist.Normal(0, 1).expand([latent]).to_event(1))
            numpyro.sample("obs", jdist.Bernoulli(logits=decode(z)).to_event(1), obs=x)

    def guide(x: Any) -> None:
        encode = numpyro.module("encoder", encoder_net, (x.shape[0], features))
        with numpyro.plate("batch", x.shape[0]):
            numpyro.sample("z", jdist.Normal(*encode(x)).to_event(1))

    svi = numpyro.infer.SVI(model, guide, numpyro.optim.Adam(1e-3), numpyro.infer.Trace_ELBO())
    scan = jax.jit(lambda state, xs: jax.lax.scan(svi.update, state, xs))
    state, started = None, False
    race.begin()
    for epoch in batches(data, 128, "cpu"):
        stack = np.stack([x.numpy() for x in epoch if len(x) == 128])
        if not started:
            state, started = svi.init(jax.random.PRNGKey(0), stack[0]), True
        state, losses = scan(state, stack)
        losses.block_until_ready()
        race.epoch(lambda now=state: from_jax(svi.get_params(now), features, latent, device))


def from_jax(params: Mapping[str, Any], features: int, latent: int, device: str) -> Any:
    """Return the pair of NumPyro's example with these parameters."""

    def linear(weights: Any) -> nn.Linear:
        w, b = (torch.tensor(jax_array.__array__()) for jax_array in weights)
        layer = nn.Linear(*w.shape)
        with torch.no_grad():
            layer.weight.copy_(w.T)
            layer.bias.copy_(b)
        return layer

    (first, _, _, (loc, (log_scale, _))) = params["encoder$params"]
    encoder = Encoder(linear(first), 400, latent)
    encoder.loc, encoder.log_scale = linear(loc), linear(log_scale)
    hidden, _, last = params["decoder$params"]
    decoder = nn.Sequential(linear(hidden), nn.Softplus(), linear(last))
    return latent_pair(encoder.to(device), decoder.to(device), latent)


def own(name: str, options: Mapping[str, Any] = NONE, **settings: Any) -> Train:
    return partial(ours, name, options, **settings)


TRAINEES: dict[str, Train] = {
    "pyro_vae latent": own("latent"),
    "by hand, same nets": by_hand,
    "Pyro SVI, same nets": by_pyro,
    "Pyro's example, as published": pyro_example,
    "NumPyro's example, as published": numpyro_example,
    "pythae VAE, as published": partial(pythae, "VAE"),
    "pythae IWAE, as published": partial(pythae, "IWAE"),
    "pyro_vae latent, one-cycle": own("latent", schedule="one-cycle", lr=PEAK),
    "pyro_vae latent, vamp": own("latent", {"prior": "vamp"}, schedule="one-cycle", lr=PEAK),
    "pyro_vae latent, flow prior": own("latent", {"prior": "flow"}, schedule="one-cycle", lr=PEAK),
    "pyro_vae hierarchical": own("hierarchical", {"latent": [40, 20]}, schedule="one-cycle", lr=PEAK),
    "pyro_vae flow": own("flow", schedule="one-cycle", lr=PEAK),
    "pyro_vae latent, iwae": own("latent", {"objective": "iwae", "particles": 10}, schedule="one-cycle", lr=PEAK),
}
