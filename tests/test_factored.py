"""Matrices updated while their gradients are added up: the optimizer's very numbers, and only where a gradient is one product."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.optim.clipped_adam import ClippedAdam
from torch import nn
from torch.optim import SGD, Adam, Adamax, AdamW

import pyro_vae.factored
import pyro_vae.update_code
from pyro_vae.factored import MOST_DATA, Factored, Layout, _load, _wide, factored
from pyro_vae.factored_code import Matrix, rule_in_cpp, source
from pyro_vae.optim_graph import Update
from pyro_vae.recording import trace
from pyro_vae.svi import SVI

pytestmark = pytest.mark.skipif(not _wide([]), reason="needs a processor with AVX-512 and a C++ compiler")
OPTIMIZERS = {
    "Adam": lambda p: Adam(p, lr=0.1),
    "Adam, decaying weights": lambda p: Adam(p, lr=0.1, weight_decay=0.2),
    "AdamW": lambda p: AdamW(p, lr=0.1, weight_decay=0.2),
    "ClippedAdam": lambda p: ClippedAdam(p, lr=0.1, clip_norm=0.5, lrd=0.9, weight_decay=0.1, centered_variance=True),
    "Adamax": lambda p: Adamax(p, lr=0.1),
    "SGD": lambda p: SGD(p, lr=0.1),
    "SGD, momentum": lambda p: SGD(p, lr=0.1, momentum=0.9, nesterov=True),
}
# (depth, height, width): of one tile, of less, with rows and columns left over, wider than what is copied at a time
SHAPES = [(5, 6, 32), (1, 1, 1), (7, 13, 33), (64, 20, 50), (256, 8, 300), (3, 5, 16)]


@pytest.mark.parametrize("moving", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_makes_the_optimizers_steps(name, dtype, moving):
    """In C++ as in tensor operations, on two threads; none where the loss is not finite."""
    params = [torch.randn(height, width, dtype=dtype) for _, height, width in SHAPES]
    factors = [torch.randn(depth, n, dtype=dtype) for depth, *sizes in SHAPES for n in sizes]
    optimizer = OPTIMIZERS[name](params)
    update = Update([(p, optimizer, optimizer.param_groups[0]) for p in params], moving=moving)
    count = update.states[0]
    matrices = [Matrix(*shape, 2 * i, 2 * i + 1, 0, count) for i, shape in enumerate(SHAPES)]
    kernel = _load(*source(dtype, [rule_in_cpp(0, update.rule(0), count)], matrices, threads=2))
    states = [update.state[i * count : (i + 1) * count] for i in range(len(params))]
    held = [t for p, state in zip(params, states, strict=True) for t in (p, *state)]
    wanted = [(p.clone(), [t.clone() for t in state]) for p, state in zip(params, states, strict=True)]
    for _ in range(3):
        update.prepare()
        before = [t.clone() for t in held]
        kernel(*held, update.numbers, torch.tensor(False), *factors)
        assert all(map(torch.equal, before, held))
        kernel(*held, update.numbers, torch.tensor(True), *factors)
        n = update.numbers[0].to(dtype)
        wanted = [
            (new[0], new[1:])
            for i, (p, old) in enumerate(wanted)
            for new in [update.rule(i)(p, factors[2 * i].T @ factors[2 * i + 1], old, n)]
        ]
    tolerance = {torch.float32: 2e-5, torch.float64: 1e-12}[dtype]
    for t, value in zip(held, [t for p, state in wanted for t in (p, *state)], strict=True):
        assert (t - value).norm() <= tolerance * value.norm()
    assert not torch.equal(held[0], before[0])


def products_of(monkeypatch, step, params, data, momentum=0.0, clip=None):
    """Which parameters are updated with their gradients: (place, depth) of each, found without a compiler."""
    optimizer = SGD(params, lr=0.1, momentum=momentum)
    update = Update([(p, optimizer, optimizer.param_groups[0]) for p in params], clip)
    inputs = [*params, *update.state, update.numbers, *data]
    n, s = len(params), len(update.state)

    def whole(*given):
        loss, grads = step(given[:n], given[n + s + 1 :])
        finite = update.apply(given[:n], grads, given[n : n + s], given[n + s], loss)
        return [loss, finite, *grads]

    found = []
    monkeypatch.setattr(pyro_vae.factored, "source", lambda dtype, rules, matrices, threads: (matrices, ""))
    monkeypatch.setattr(pyro_vae.factored, "_load", lambda matrices, code: found.extend(matrices))
    graph = trace(whole, [t.clone() for t in inputs])
    code = factored(graph, update, Layout(range(n), n, 2), inputs)
    return code and [(code.held[i * (1 + bool(momentum))], m.depth) for i, m in enumerate(found)]


def derived(loss):
    """The gradients of a loss of parameters and data, as a step."""

    def step(params, data):
        params = [p.detach().requires_grad_() for p in params]
        with torch.enable_grad():
            value = loss(params, data)
            grads = torch.autograd.grad(value, params)
        return value.detach(), list(grads)

    return step


A, B, X = torch.randn(4, 3), torch.randn(3, 5), torch.randn(8, 4)


@pytest.mark.parametrize(
    ("loss", "params", "data", "expected"),
    [
        (lambda p, d: torch.tanh(d[0] @ p[0]).sum(), [A], [X], [(0, 8)]),
        (lambda p, d: torch.tanh(d[0] @ p[0].T).sum(), [A.T.contiguous()], [X], [(0, 8)]),
        (lambda p, d: torch.tanh(d[0].reshape(8, 4) @ p[0]).sum(), [A], [X.reshape(8, 2, 2)], [(0, 8)]),
        (lambda p, d: torch.tanh(torch.tanh(d[0] @ p[0]) @ p[1]).sum(), [A, B], [X], [(0, 8), (1, 8)]),
        (lambda p, d: torch.tanh(torch.randn_like(d[0]) @ p[0]).sum(), [A], [X], [(0, 8)]),
        # the gradient of one factor is a product with the other, which is itself written
        (lambda p, d: torch.tanh(d[0] @ (p[0] @ p[1])).sum(), [A, B], [X], None),
        (lambda p, d: torch.tanh(d[0] @ p[0]).sum() + (d[0] @ p[0]).square().sum(), [A], [X], None),  # a sum of two
        (lambda p, d: torch.tanh(d[0] @ p[0]).sum(), [A.T.contiguous().T], [X], None),  # column by column in memory
        (lambda p, d: torch.tanh(d[0].expand(8, 4) @ p[0]).sum(), [A], [X[:1]], None),
        (lambda p, d: torch.tanh(d[0] @ p[0]).sum(), [A], [torch.randn(MOST_DATA + 1, 4)], None),
        (lambda p, d: (p[0] * d[0][:4, :3]).sum(), [A], [X], None),
    ],
)
def test_updates_where_the_gradient_is_one_product(monkeypatch, loss, params, data, expected):
    assert products_of(monkeypatch, derived(loss), params, data) == expected


def test_clipping_by_the_norm_of_all_needs_all_gradients_first(monkeypatch):
    step = derived(lambda p, d: torch.tanh(d[0] @ p[0]).sum())
    assert products_of(monkeypatch, step, [A], [X], momentum=0.9) == [(0, 8)]
    assert products_of(monkeypatch, step, [A], [X], clip=1.0) is None


def test_a_factor_that_is_written_later_is_not_used(monkeypatch):
    def step(params, data):
        h = torch.tanh(data[0])
        grad = h.t() @ torch.ones(8, 3)
        h.add_(1.0)
        return h.sum(), [grad]

    assert products_of(monkeypatch, step, [A], [X]) is None


def vae(dtype):
    encoder = nn.Sequential(nn.Linear(9, 21), nn.Softplus(), nn.Linear(21, 6)).to(dtype)
    decoder = nn.Sequential(nn.Linear(3, 21), nn.Softplus(), nn.Linear(21, 9)).to(dtype)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 3), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        loc, log_scale = encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    return model, guide


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_svi_takes_eager_pyros_steps(monkeypatch, dtype, tolerance):
    """A compiled VAE, its four matrices updated with their gradients, over ten steps, of which five in one call; a loss that is not finite leaves them."""
    made = []

    def spy(*args):
        made.append(factored(*args))
        return made[-1]

    monkeypatch.setattr(pyro_vae.update_code, "factored", spy)
    x = torch.rand(16, 9, dtype=dtype).round()
    found = {}
    for mode in ("off", "on"):
        pyro.clear_param_store()
        torch.manual_seed(0)
        svi = SVI(*vae(dtype), pyro.optim.Adam({"lr": 0.05}), Trace_ELBO(), compile=mode)
        losses = [float(svi.step(x)) for _ in range(5)] + svi.steps(x.expand(5, 16, 9)).tolist()
        params = {name: p.detach().clone() for name, p in pyro.get_param_store().items()}
        found[mode] = losses, params
    (code,) = made
    assert isinstance(code, Factored)
    assert len(code.held) == 4 * 3 + 1
    losses, params = (dict(enumerate(torch.tensor(found["off"][0], dtype=torch.float64))), found["off"][1])
    for i, loss in losses.items():
        assert abs(loss - found["on"][0][i]) <= tolerance * abs(loss)
    for name, p in params.items():
        assert (found["on"][1][name] - p).norm() <= 10 * tolerance * p.norm(), name
    before = {name: p.detach().clone() for name, p in pyro.get_param_store().items()}
    versions = {name: p._version for name, p in pyro.get_param_store().named_parameters()}
    svi.step(torch.full_like(x, torch.nan))
    assert all(torch.equal(p, before[name]) for name, p in pyro.get_param_store().items())
    assert all(p._version > versions[name] for name, p in pyro.get_param_store().named_parameters())
