"""Recordings against eager Pyro: every objective and kind of program; and what must be refused."""

import re
import warnings
from typing import Any

import pyro
import pytest
import recorded_others  # noqa: F401 (enters its programs into CASES)
import torch
from pyro import poutine
from recorded_programs import BATCH, CASES, REFUSED, Case, vae
from tables import only
from torch import Tensor
from zoo import ROWS

from pyro_vae.compiled.recording import record, signature
from pyro_vae.compiled.state import RecordingError
from pyro_vae.compiled.watch import Watch
from pyro_vae.svi import SVI, EagerWarning


@pytest.fixture(autouse=True)
def fresh():
    pyro.clear_param_store()
    torch.manual_seed(0)
    yield
    pyro.clear_param_store()
    torch.set_default_dtype(torch.float32)


def eager(one: Case, args: tuple[Any, ...], params: list[Tensor]) -> tuple[list[Tensor], list[Tensor | None]]:
    for p in params:
        p.grad = None
    loss = one.elbo.loss_and_grads(one.model, one.guide, *args)
    losses = [torch.as_tensor(part) for part in (loss if isinstance(loss, tuple) else (loss,))]
    grads = [None if p.grad is None else p.grad.clone() for p in params]
    return losses, grads


def settle(one: Case, args: tuple[Any, ...]) -> list[Tensor]:
    """Create what the programs create at their first step; return the parameters."""
    with poutine.trace(param_only=True) as capture:
        one.elbo.loss_and_grads(one.model, one.guide, *args)
    return list({id(p): p for p in (s["value"].unconstrained() for s in capture.trace.nodes.values())}.values())


def buffers(one: Case) -> list[Tensor]:
    return [b for module in Watch(one.model, one.guide).modules for b in module._buffers.values() if b is not None]


def assert_equals_eager(one: Case, compile: bool, tolerance: float, steps: int = 10) -> None:
    args = one.args()
    params = settle(one, args)

    def loss_and_grads(grads, *args):
        loss = one.elbo.loss_and_grads(one.model, one.guide, *args)
        return loss, list(grads)

    def reference(*args):
        losses, grads = eager(one, args, params)
        return (tuple(losses) if len(losses) > 1 else losses[0]), grads

    recording = record(loss_and_grads, args, reference=reference, params=params)
    if compile:
        assert recording.compile(*signature(args, {})[1]) is None
    state = buffers(one)
    for step in range(steps):
        args = one.args()
        before = [b.clone() for b in state]
        torch.manual_seed(step)
        losses, grads = eager(one, args, params)
        after = [b.clone() for b in state]
        for b, old in zip(state, before, strict=True):
            b.data.copy_(old)
        torch.manual_seed(step)
        loss, found = recording(*args)
        for a, b in zip(losses, loss if isinstance(loss, tuple) else (loss,), strict=True):
            assert float(abs(a - b)) <= tolerance * max(float(abs(a)), 1.0)
        assert [g is None for g in grads] == [g is None for g in found]
        norm = torch.stack([g.norm() for g in grads if g is not None]).norm()
        gap = torch.stack([(a - b).norm() for a, b in zip(grads, found, strict=True) if a is not None]).norm()
        assert float(gap) <= tolerance * float(norm)
        for b, new in zip(state, after, strict=True):
            torch.testing.assert_close(b, new)


QUICK = ("trace", "renyi", "enumerated_in_model", "hierarchical", "graph_with_learned_baseline", "dirichlet")
QUICK += ("low_rank_covariance", "masked_and_scaled")


@pytest.mark.parametrize("name", only(CASES, QUICK))
def test_recording_equals_eager_pyro(name):
    assert_equals_eager(CASES[name](), compile=False, tolerance=1e-5)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", CASES)
def test_recording_equals_eager_pyro_in_double_precision(name):
    torch.set_default_dtype(torch.float64)
    assert_equals_eager(CASES[name](), compile=False, tolerance=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["trace", "enumerated_in_model", "correlation", "batch_norm_and_dropout"])
def test_inductor_equals_eager_pyro(name):
    assert_equals_eager(CASES[name](), compile=True, tolerance=1e-5)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", CASES)
def test_inductor_equals_eager_pyro_in_double_precision(name):
    torch.set_default_dtype(torch.float64)
    assert_equals_eager(CASES[name](), compile=True, tolerance=1e-10)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_programs_run_eagerly_and_say_why(name):
    reason, make = REFUSED[name]
    one = make()
    svi = SVI(one.model, one.guide, pyro.optim.Adam({"lr": 1e-3}), one.elbo, compile="recorded")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            svi.step(*one.args())
    (said,) = [str(w.message) for w in caught if w.category is EagerWarning]
    assert re.search(reason, said), said
    assert not svi.compiled
    assert svi.why_not is not None


def test_log_weights_can_be_recorded():
    one = vae()

    def log_weights(batch, particles):
        with torch.no_grad(), pyro.plate("particles", particles, dim=-2):
            guide = poutine.trace(one.guide).get_trace(batch["x"])
            model = poutine.trace(poutine.replay(one.model, trace=guide)).get_trace(batch["x"])
        guide.compute_log_prob()
        model.compute_log_prob()
        return sum(model.nodes[name]["log_prob"] for name in "zx") - guide.nodes["z"]["log_prob"]

    (x,) = one.args()
    recording = record(log_weights, ({"x": x},), {"particles": 4})
    for step in range(3):
        batch = {"x": one.args()[0]}
        torch.manual_seed(step)
        expected = log_weights(batch, 4)
        torch.manual_seed(step)
        found = recording(batch, particles=4)
        assert found.shape == (4, BATCH)
        torch.testing.assert_close(found, expected)


def test_two_arguments_may_be_the_same_tensor():
    x = torch.ones(3)
    recording = record(lambda a, b: a - 2 * b, (x, x))
    assert recording(x, 3 * x).tolist() == [-5.0] * 3


def test_constants_may_be_read():
    def ragged(x):
        mask = torch.arange(x.shape[0]) % 2 == 0
        return x[mask] * float(torch.tensor(2.0)) if mask.any() else x

    recording = record(ragged, (torch.ones(4),))
    assert recording(torch.arange(4.0)).tolist() == [0.0, 4.0]


def test_masked_assignment_has_a_fixed_shape():
    def clipped(x):
        out, mask = x * 2, x > 1
        out[mask] = x[mask]
        out[x < 0] = 0.5
        return out

    recording = record(clipped, (torch.ones(3),))
    assert recording(torch.tensor([3.0, 1.0, -1.0])).tolist() == [3.0, 2.0, 0.5]


def test_mask_selections_are_of_no_other_use():
    with pytest.raises(RecordingError, match="boolean mask"):
        record(lambda x: x[x > 0].sum(), (torch.ones(3),))

    def crossed(x):
        out = x.clone()
        out[x > 0] = x[x > 1]
        return out

    with pytest.raises(RecordingError, match="assigns what one boolean mask selects at another mask"):
        record(crossed, (torch.ones(3) * 2,))


def test_a_call_that_runs_twice_differently_is_no_constant():
    lengths = iter(range(1, 20))
    with pytest.raises(RecordingError, match="two recordings of one call differ"):
        record(lambda x: sum(x for _ in range(next(lengths))), (torch.ones(3),))


@pytest.mark.exhaustive
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_every_pair_of_the_zoo_trains_the_same_recorded(row):
    found = []
    for mode in ("off", "recorded"):
        pair, data = row.build().train(True), row.batch()
        optim = torch.optim.Adam(pair.named_parameters().values(), lr=1e-3)
        svi = SVI(pair.bound_model, pair.bound_guide, optim, pair.objective, compile=mode)
        torch.manual_seed(1)
        for step in range(4):
            loss = svi.step({name: values.roll(step, 0) for name, values in data.items()})
        found.append((loss, torch.cat([p.detach().flatten() for p in pair.named_parameters().values()])))
    assert svi.compiled, svi.why_not
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-10)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-9, atol=1e-11)
