"""The contestants of a case, each as a function that takes a number of steps."""

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import cases
import pyro
import torch
from pyro.infer import JitTrace_ELBO
from timing import Stepper
from torch import Tensor, nn

from pyro_vae.svi import SVI

LEARNING_RATE = 1e-3
SCANNED = 3_200  # data in one call that takes many steps: NumPyro's lax.scan, and ours


def contestants(name: str, device: str, quick: bool) -> dict[str, Stepper]:
    """Return a stepper for each contestant of a case; `quick` leaves out those that compile for long."""
    case = (cases.CASES | cases.ON_A_GPU)[name]
    batch = case.batch().to(device)
    with torch.device(device):  # where nets are made; a default device would slow each step
        return built(case, batch, quick) if device == "cpu" else on_a_gpu(case, batch, quick)


def built(case: cases.Case, batch: Tensor, quick: bool) -> dict[str, Stepper]:
    found: dict[str, Stepper] = {}
    if case.hand is not None:
        found["by hand, eager"] = by_hand(case.hand(), batch)
        if not quick:
            module = case.hand()
            found["by hand, torch.compile"] = by_hand(module, batch, torch.compile(module))
    found["Pyro SVI"] = svi(pyro.infer.SVI, case.pair, batch)
    if case.numpyro and not quick:
        found["Pyro JitTrace_ELBO"] = svi(pyro.infer.SVI, case.pair, batch, JitTrace_ELBO(ignore_jit_warnings=True))
    for mode, label in (("off", "eager"), ("recorded", "recorded"), ("on", "compiled")):
        found[f"pyro_vae {label}"] = svi(SVI, case.pair, batch, compile=mode)
    scanned = max(1, SCANNED // len(batch))
    found["pyro_vae steps"] = svi(SVI, case.pair, batch, scanned=scanned, compile="on")
    if case.probabilities is not None and not quick:
        found["Pyro SVI, probs"] = svi(pyro.infer.SVI, case.probabilities, batch)
        found["pyro_vae compiled, probs"] = svi(SVI, case.probabilities, batch, compile="on")
        found["pyro_vae steps, probs"] = svi(SVI, case.probabilities, batch, scanned=scanned, compile="on")
    if case.products and not quick:
        found["pyro_vae compiled, bf16"] = svi(SVI, lambda: in_half_precision(*case.pair()), batch, compile="on")
    if case.numpyro:
        found |= in_numpyro(batch, probabilities=not quick)
    if case.products:
        found["matrix products alone"] = products(case.products)
    return found


def on_a_gpu(case: cases.Case, batch: Tensor, quick: bool) -> dict[str, Stepper]:
    """The contestants there: launching kernels is most of a small step, so who replays a CUDA graph matters most."""
    found: dict[str, Stepper] = {}
    if case.hand is not None:
        found["by hand, eager"] = by_hand(case.hand(), batch)
        found["by hand, CUDA graph"] = by_hand_as_a_graph(case.hand(), batch)
        if not quick:
            module = case.hand()
            found["by hand, torch.compile"] = by_hand(module, batch, torch.compile(module))
            module = case.hand()
            found["by hand, torch.compile, CUDA graph"] = by_hand_as_a_graph(module, batch, torch.compile(module))
    found["Pyro SVI"] = svi(pyro.infer.SVI, case.pair, batch)
    found["pyro_vae recorded"] = svi(SVI, case.pair, batch, compile="recorded")
    if not quick:
        found["pyro_vae compiled, no CUDA graph"] = launched_one_by_one(svi(SVI, case.pair, batch, compile="on"))
    found["pyro_vae compiled"] = svi(SVI, case.pair, batch, compile="on")
    found["pyro_vae steps"] = svi(SVI, case.pair, batch, scanned=100, compile="on")
    return found | (in_numpyro(batch, probabilities=False) if case.numpyro else {})


def launched_one_by_one(steps: Stepper) -> Stepper:
    """The same steps, of which no CUDA graph is made."""

    def run(count: int) -> None:
        with patch("pyro_vae.compiled.cuda_graphs.capturable", lambda inputs: False):
            steps(count)

    return run


def by_hand_as_a_graph(module: nn.Module, batch: Tensor, compiled: Callable[[Tensor], Tensor] | None = None) -> Stepper:
    """Forward, backward and Adam captured once and replayed, as torch's documentation shows it."""
    loss = module if compiled is None else compiled
    optim = torch.optim.Adam(module.parameters(), lr=LEARNING_RATE, fused=True, capturable=True)
    held: dict[str, Any] = {}

    def one() -> Tensor:
        optim.zero_grad(set_to_none=True)
        value = loss(batch)
        value.backward()
        optim.step()
        return value.detach()

    def capture() -> None:
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                one()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            held["loss"] = one()
        held["graph"] = graph

    def steps(count: int) -> None:
        if not held:
            capture()
        for _ in range(count):
            held["graph"].replay()
            held["loss"].item()

    return steps


def svi(
    make: Callable[..., Any],
    pair: Callable[[], tuple],
    batch: Tensor,
    elbo: Any = None,
    scanned: int | None = None,
    **options: Any,
) -> Stepper:
    """One step a call, or `scanned` of them."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    default, model, guide = pair()
    default.loss(model, guide, batch)  # what is created lazily
    state = pyro.get_param_store().get_state()
    stepper = make(model, guide, pyro.optim.Adam({"lr": LEARNING_RATE}), elbo or default, **options)
    pyro.clear_param_store()
    stack = None if scanned is None else batch.repeat(scanned, *[1] * batch.dim()).view(scanned, *batch.shape)

    def steps(count: int) -> None:
        store = pyro.get_param_store()
        store.clear()
        store.set_state(state)
        if stack is None:
            for _ in range(count):
                stepper.step(batch)
        else:
            for _ in range(count // len(stack)):
                stepper.steps(stack).tolist()

    steps.unit = scanned or 1  # type: ignore[attr-defined]
    return steps


def in_half_precision(elbo: Any, *programs: Callable[..., None]) -> tuple[Any, ...]:
    """The same pair under torch's autocast: products in bfloat16, parameters and likelihood in float32."""

    def mixed(program: Callable[..., None]) -> Callable[..., None]:
        def run(x: Tensor) -> None:
            with torch.autocast(x.device.type, torch.bfloat16):
                program(x)

        return run

    return elbo, *map(mixed, programs)


def by_hand(module: nn.Module, batch: Tensor, compiled: Callable[[Tensor], Tensor] | None = None) -> Stepper:
    loss = module if compiled is None else compiled
    optim = torch.optim.Adam(module.parameters(), lr=LEARNING_RATE, fused=True)

    def steps(count: int) -> None:
        for _ in range(count):
            optim.zero_grad()
            value = loss(batch)
            value.backward()
            optim.step()
            value.item()

    return steps


def products(sizes: list[tuple[int, int, int]]) -> Stepper:
    """The floor: what no step can do without, at this machine's rate."""
    operands = [(torch.randn(m, k), torch.randn(k, n), torch.empty(m, n)) for m, k, n in sizes]

    def steps(count: int) -> None:
        for _ in range(count):
            for a, b, out in operands:
                torch.mm(a, b, out=out)

    return steps


def in_numpyro(batch: Tensor, *, probabilities: bool) -> dict[str, Stepper]:
    """NumPyro with the same nets, a jitted step and a scan of many; none where it is not installed."""
    try:
        import jax
        import jax.numpy as jnp
        import numpyro
        import numpyro.distributions as dist
        from numpyro.infer import Trace_ELBO
    except ImportError:
        return {}
    sizes = [cases.FEATURES, *cases.HIDDEN]

    def layer(name: str, h: Any, n_out: int) -> Any:
        bound = h.shape[-1] ** -0.5
        key = jax.random.PRNGKey(sum(map(ord, name)))
        w = numpyro.param(f"{name}.w", jax.random.uniform(key, (h.shape[-1], n_out), minval=-bound, maxval=bound))
        return h @ w + numpyro.param(f"{name}.b", jnp.zeros(n_out))

    def programs(logits: bool) -> tuple[Callable, Callable]:
        def model(x: Any) -> None:
            with numpyro.plate("data", x.shape[0]):
                h = numpyro.sample("z", dist.Normal(jnp.zeros((x.shape[0], cases.LATENT)), 1.0).to_event(1))
                for i, size in enumerate(sizes[:0:-1]):
                    h = jax.nn.softplus(layer(f"d{i}", h, size))
                out = layer("out", h, sizes[0])
                likelihood = dist.Bernoulli(logits=out) if logits else dist.Bernoulli(probs=jax.nn.sigmoid(out))
                numpyro.sample("x", likelihood.to_event(1), obs=x)

        def guide(x: Any) -> None:
            h = x
            for i, size in enumerate(sizes[1:]):
                h = jax.nn.softplus(layer(f"e{i}", h, size))
            loc, scale = layer("loc", h, cases.LATENT), jnp.exp(layer("log_scale", h, cases.LATENT))
            with numpyro.plate("data", x.shape[0]):
                numpyro.sample("z", dist.Normal(loc, scale).to_event(1))

        return model, guide

    x = jnp.asarray(batch.cpu().numpy())
    scanned = max(1, SCANNED // len(batch))
    stack = jnp.broadcast_to(x, (scanned, *x.shape))
    found: dict[str, Stepper] = {}
    for suffix, logits in (("", True), (", probs", False)) if probabilities else (("", True),):
        svi = numpyro.infer.SVI(*programs(logits), numpyro.optim.Adam(LEARNING_RATE), Trace_ELBO())
        start = svi.init(jax.random.PRNGKey(0), x)
        update = jax.jit(svi.update)
        scan = jax.jit(lambda state, xs, svi=svi: jax.lax.scan(svi.update, state, xs))
        states = {"jit": start, "scan": start}

        def one_by_one(count: int, states: Any = states, update: Any = update) -> None:
            for _ in range(count):
                states["jit"], loss = update(states["jit"], x)
                loss.item()

        def many(count: int, states: Any = states, scan: Any = scan) -> None:
            for _ in range(count // scanned):
                states["scan"], losses = scan(states["scan"], stack)
                losses.block_until_ready()

        many.unit = scanned  # type: ignore[attr-defined]
        found[f"NumPyro jit{suffix}"] = one_by_one
        found[f"NumPyro scan{suffix}"] = many
    return found
