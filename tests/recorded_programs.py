"""Programs that are recorded: VAEs, discrete and enumerated ones, flows; by name in `CASES`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as transforms
import torch
import torch.nn.functional as F
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer import (
    RenyiELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)
from torch import Tensor, nn

BATCH, FEATURES, LATENT = 12, 9, 3
Program = Callable[..., Any]


class Case(NamedTuple):
    elbo: Any
    model: Program
    guide: Program
    args: Callable[[], tuple[Any, ...]]


CASES: dict[str, Callable[[], Case]] = {}
REFUSED: dict[str, tuple[str, Callable[[], Case]]] = {}


def case(make: Callable[[], Case]) -> Callable[[], Case]:
    CASES[make.__name__.strip("_")] = make
    return make


def refused(reason: str) -> Callable[[Callable[[], Case]], Callable[[], Case]]:
    def keep(make: Callable[[], Case]) -> Callable[[], Case]:
        REFUSED[make.__name__.strip("_")] = reason, make
        return make

    return keep


def net(n_in: int, n_out: int, hidden: int = 8) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, hidden), nn.Softplus(), nn.Linear(hidden, n_out))


def bits() -> tuple[Tensor, ...]:
    return (torch.rand(BATCH, FEATURES).round(),)


def reals(columns: int = 4) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: (torch.randn(BATCH, columns),)


def standard(x: Tensor) -> Any:
    return dist.Normal(x.new_zeros(x.shape[0], LATENT), 1.0).to_event(1)


def vae(
    elbo: Any = None,
    encoder: nn.Module | None = None,
    decoder: nn.Module | None = None,
    likelihood: Callable[[Tensor], Any] = lambda logits: dist.Bernoulli(logits=logits),
) -> Case:
    encoder, decoder = encoder or net(FEATURES, 2 * LATENT), decoder or net(LATENT, FEATURES)

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", standard(x))
            pyro.sample("x", likelihood(decoder(z)).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", x.shape[0]):
            loc, log_scale = encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    return Case(elbo or Trace_ELBO(), model, guide, bits)


@case
def trace() -> Case:
    return vae()


@case
def mean_field() -> Case:
    return vae(TraceMeanField_ELBO())


@case
def looped_particles() -> Case:
    return vae(Trace_ELBO(num_particles=3))


@case
def vectorized_particles() -> Case:
    return vae(Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1))


@case
def renyi() -> Case:
    return vae(RenyiELBO(alpha=0.0, num_particles=4, vectorize_particles=True, max_plate_nesting=1))


@case
def renyi_looped() -> Case:
    return vae(RenyiELBO(alpha=0.5, num_particles=3))


@case
def probabilities() -> Case:
    return vae(decoder=nn.Sequential(net(LATENT, FEATURES), nn.Sigmoid()), likelihood=lambda p: dist.Bernoulli(p))


@case
def validated() -> Case:
    return vae(likelihood=lambda logits: dist.Bernoulli(logits=logits, validate_args=True))


@case
def continuous_bernoulli() -> Case:
    return vae(likelihood=lambda logits: dist.ContinuousBernoulli(logits=logits))


@case
def batch_norm_and_dropout() -> Case:
    encoder = nn.Sequential(
        nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2 * LATENT)
    )
    return vae(
        encoder=encoder,
        decoder=nn.Sequential(nn.Linear(LATENT, 8), nn.BatchNorm1d(8), nn.Linear(8, FEATURES)),
    )


@case
def convolutional() -> Case:
    encoder = nn.Sequential(
        nn.Unflatten(1, (1, 3, 3)), nn.Conv2d(1, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2 * LATENT)
    )
    decoder = nn.Sequential(
        nn.Linear(LATENT, 16), nn.Unflatten(1, (4, 2, 2)), nn.ConvTranspose2d(4, 1, 2), nn.Flatten()
    )
    return vae(encoder=encoder, decoder=decoder)


@case
def recurrent() -> Case:
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru = nn.GRU(3, 5, batch_first=True)
            self.out = nn.Linear(5, 2 * LATENT)

        def forward(self, x):
            return self.out(self.gru(x.view(-1, 3, 3))[0][:, -1])

    return vae(encoder=Encoder())


@case
def hierarchical() -> Case:
    nets = {"e1": net(FEATURES, 6), "e2": net(3, 4), "d1": net(2, 6), "d2": net(3, FEATURES)}

    def model(x):
        pyro.module("d1", nets["d1"])
        pyro.module("d2", nets["d2"])
        with pyro.plate("data", x.shape[0]):
            z2 = pyro.sample("z2", dist.Normal(x.new_zeros(x.shape[0], 2), 1.0).to_event(1))
            loc, log_scale = nets["d1"](z2).chunk(2, -1)
            z1 = pyro.sample("z1", dist.Normal(loc, log_scale.exp()).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=nets["d2"](z1)).to_event(1), obs=x)

    def guide(x):
        pyro.module("e1", nets["e1"])
        pyro.module("e2", nets["e2"])
        with pyro.plate("data", x.shape[0]):
            loc, log_scale = nets["e1"](x).chunk(2, -1)
            z1 = pyro.sample("z1", dist.Normal(loc, log_scale.exp()).to_event(1))
            loc, log_scale = nets["e2"](z1).chunk(2, -1)
            pyro.sample("z2", dist.Normal(loc, log_scale.exp()).to_event(1))

    return Case(Trace_ELBO(), model, guide, bits)


@case
def class_conditional() -> Case:
    encoder, decoder = net(FEATURES + 4, 2 * LATENT), net(LATENT + 4, FEATURES)

    def model(x, y):
        pyro.module("decoder", decoder)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", standard(x))
            logits = decoder(torch.cat([z, F.one_hot(y, 4).to(x.dtype)], -1))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(x, y):
        pyro.module("encoder", encoder)
        with pyro.plate("data", x.shape[0]):
            loc, log_scale = encoder(torch.cat([x, torch.eye(4, dtype=x.dtype)[y]], -1)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    return Case(Trace_ELBO(), model, guide, lambda: (*bits(), torch.randint(4, (BATCH,))))


@case
def subsampled_inside() -> Case:
    encoder, decoder = net(FEATURES, 2 * LATENT), net(LATENT, FEATURES)

    def model(full):
        pyro.module("decoder", decoder)
        with pyro.plate("data", BATCH, subsample_size=5) as rows:
            z = pyro.sample("z", standard(full[rows]))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=full[rows])

    def guide(full):
        pyro.module("encoder", encoder)
        with pyro.plate("data", BATCH, subsample_size=5) as rows:
            loc, log_scale = encoder(full[rows]).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    return Case(Trace_ELBO(), model, guide, bits)


@case
def subsampled_by_argument() -> Case:
    inner = vae()

    def scaled(program):
        def run(x, rows):
            with poutine.scale(scale=600 / BATCH):
                program(x)

        return run

    return Case(Trace_ELBO(), scaled(inner.model), scaled(inner.guide), lambda: (*bits(), torch.randperm(600)[:BATCH]))


@case
def masked_and_scaled() -> Case:
    encoder, decoder = net(FEATURES, 2 * LATENT), net(LATENT, FEATURES)

    def model(x, beta):
        pyro.module("decoder", decoder)
        with pyro.plate("data", x.shape[0]):
            with poutine.scale(scale=beta):
                z = pyro.sample("z", standard(x))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).mask(x.sum(-1, keepdim=True) > 4).to_event(1), obs=x)

    def guide(x, beta):
        pyro.module("encoder", encoder)
        with pyro.plate("data", x.shape[0]), poutine.scale(scale=beta):
            loc, log_scale = encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    return Case(Trace_ELBO(), model, guide, lambda: (*bits(), torch.rand(())))


def mixture(guide_enumerates: bool, elbo: Any = None, beta: bool = False) -> Case:
    encoder, decoder, classifier = net(FEATURES, 2 * LATENT), net(LATENT, FEATURES), net(FEATURES, 4)

    def model(x, beta=1.0):
        pyro.module("decoder", decoder)
        locs = pyro.param("locs", lambda: torch.randn(4, LATENT))
        scales = pyro.param("scales", lambda: torch.ones(4, LATENT), constraint=constraints.positive)
        weights = pyro.param("weights", lambda: torch.ones(4) / 4, constraint=constraints.simplex)
        with pyro.plate("data", x.shape[0]), poutine.scale(scale=beta):
            c = pyro.sample("c", dist.Categorical(weights), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(locs[c], scales[c]).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x, beta=1.0):
        pyro.module("encoder", encoder)
        with pyro.plate("data", x.shape[0]), poutine.scale(scale=beta):
            if guide_enumerates:
                pyro.module("classifier", classifier)
                pyro.sample("c", dist.Categorical(logits=classifier(x)), infer={"enumerate": "parallel"})
            loc, log_scale = encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    args = (lambda: (*bits(), torch.rand(()) + 0.1)) if beta else bits
    return Case(elbo or TraceEnum_ELBO(max_plate_nesting=1), model, guide, args)


@case
def enumerated_in_model() -> Case:
    return mixture(False)


@case
def enumerated_in_guide() -> Case:
    return mixture(True)


@case
def enumerated_and_tempered() -> Case:
    return mixture(False, beta=True)


@case
def enumerated_particles() -> Case:
    return mixture(True, TraceEnum_ELBO(max_plate_nesting=1, num_particles=2, vectorize_particles=True))


@case
def hidden_markov() -> Case:
    def model(x):
        rows = pyro.param("rows", lambda: torch.ones(3, 3) / 3, constraint=constraints.simplex)
        locs = pyro.param("locs", lambda: torch.randn(3))
        with pyro.plate("sequences", x.shape[0]):
            state = 0
            for t in pyro.markov(range(x.shape[1])):
                state = pyro.sample(f"state{t}", dist.Categorical(rows[state]), infer={"enumerate": "parallel"})
                pyro.sample(f"x{t}", dist.Normal(locs[state], 1.0), obs=x[:, t])

    return Case(TraceEnum_ELBO(max_plate_nesting=1), model, lambda x: None, reals())


def discrete(elbo: Any, baseline: dict[str, Any] | None = None) -> Case:
    encoder, decoder = net(FEATURES, 5), net(5, FEATURES)

    class Baseline(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net(FEATURES, 1)

        def forward(self, x):
            return self.net(x).squeeze(-1)

    learned = Baseline()

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", x.shape[0]):
            c = pyro.sample("c", dist.Bernoulli(torch.full((x.shape[0], 5), 0.5)).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(c.to(x.dtype))).to_event(1), obs=x)

    def guide(x, observations=None):
        x = x if observations is None else observations["x"]
        pyro.module("encoder", encoder)
        infer = {}
        if baseline is not None:
            infer = {"baseline": baseline or {"nn_baseline": pyro.module("baseline", learned), "nn_baseline_input": x}}
        with pyro.plate("data", x.shape[0]):
            pyro.sample("c", dist.Bernoulli(logits=encoder(x)).to_event(1), infer=infer)

    return Case(elbo, model, guide, bits)


@case
def score_function() -> Case:
    return discrete(Trace_ELBO())


@case
def graph() -> Case:
    return discrete(TraceGraph_ELBO())


@case
def graph_with_learned_baseline() -> Case:
    return discrete(TraceGraph_ELBO(), {})


@case
def wake_sleep() -> Case:
    return discrete(ReweightedWakeSleep(num_particles=3, vectorize_particles=False))


@case
def wake_sleep_vectorized() -> Case:
    return discrete(ReweightedWakeSleep(num_particles=3, max_plate_nesting=1, insomnia=0.5))


def flow(make: Callable[[], Any], to_event: int = 0) -> Case:
    encoder, decoder, flows = net(FEATURES, 2 * LATENT), net(LATENT, FEATURES), [make(), make()]

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", standard(x))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        for i, one in enumerate(flows):
            pyro.module(f"flow{i}", one)
        with pyro.plate("data", x.shape[0]):
            loc, log_scale = encoder(x).chunk(2, -1)
            q = dist.TransformedDistribution(dist.Normal(loc, log_scale.exp()), flows)
            pyro.sample("z", q.to_event(to_event))

    return Case(Trace_ELBO(), model, guide, bits)


@case
def planar() -> Case:
    return flow(lambda: transforms.planar(LATENT))


@case
def autoregressive() -> Case:
    return flow(lambda: transforms.affine_autoregressive(LATENT, hidden_dims=[8]))


@case
def coupling() -> Case:
    return flow(lambda: transforms.affine_coupling(LATENT, hidden_dims=[8]))


@case
def sylvester() -> Case:
    return flow(lambda: transforms.sylvester(LATENT, count_transforms=2))


@case
def spline() -> Case:
    return flow(lambda: transforms.spline(LATENT, count_bins=4, bound=0.5), to_event=1)


@case
def spline_coupling() -> Case:
    return flow(lambda: transforms.spline_coupling(LATENT, hidden_dims=[8], count_bins=4, bound=0.5))


@case
def spline_autoregressive() -> Case:
    return flow(lambda: transforms.spline_autoregressive(LATENT, hidden_dims=[8], count_bins=4, bound=0.5))
