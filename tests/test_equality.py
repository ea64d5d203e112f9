"""Compiled against eager Pyro: every pair of the zoo, with every objective that it takes, in both precisions.

One step at a time from the same parameters, with fresh data and draws: what is compared is one loss and one gradient, so that no
difference hides in, or is blamed on, the steps before it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from inspect import signature

import pytest
import torch
from torch import Tensor
from zoo import ROWS, Row

from pyro_vae import Pair, PairError
from pyro_vae.objectives import OBJECTIVES
from pyro_vae.program import require_sound
from pyro_vae.svi import SVI

STEPS = 10
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}  # relative, in the loss and in the norm of the gradient
REPRESENTATIVE = {"flow": "flow-coupling", "structured": "structured-2"}  # others of the kind are named like their pair

# What a pair cannot be trained with, by the first words of why.
UNSUPPORTED = {
    ("flow-coupling", "total-correlation"): "TotalCorrelation takes q's dimensions one by one",
    ("grouped", "total-correlation"): "TotalCorrelation takes q's dimensions one by one",
    ("latent", "one-level"): "the model LatentModel has no 'step', so the pair is no chain",
    ("grouped", "mmd"): "MaximumMeanDiscrepancy fails on the pair",
}


def with_objectives() -> Iterator[tuple[str, str, Row]]:
    """Yield each pair that takes an objective with each that needs no site to sum over; the rows themselves have the ELBO."""
    for pair in {row.pair.__name__: row.pair for row in ROWS.values()}.values():
        if "objective" not in signature(pair).parameters:
            continue
        name = REPRESENTATIVE.get(pair.__name__, pair.__name__)
        for objective in OBJECTIVES:
            if objective not in ("elbo", "enumeration") and f"{name}-{objective}" not in ROWS:
                options = {**ROWS[name].options, "objective": objective, "particles": 3}
                yield name, objective, replace(ROWS[name], options=options)


CHAINS_ALONE = "one-level"  # which the rows of diffusion have
ALL = ROWS | {
    f"{name}-{o}": row for name, o, row in with_objectives() if (name, o) not in UNSUPPORTED and o != CHAINS_ALONE
}


@pytest.mark.parametrize(("name", "objective"), UNSUPPORTED)
def test_what_is_left_out_cannot_be_trained(name: str, objective: str) -> None:
    (row,) = (row for n, o, row in with_objectives() if (n, o) == (name, objective))
    with pytest.raises(PairError, match=UNSUPPORTED[name, objective]):
        require_sound(row.build(), row.batch())


def build(row: Row, dtype: torch.dtype) -> Pair:
    pair = row.build()
    for module in pair.modules().values():
        module.to(dtype)
    return pair.train(True)


def drawn(row: Row, step: int, dtype: torch.dtype) -> Mapping[str, Tensor]:
    fresh = torch.Generator().manual_seed(step)
    batch = row.batch()
    rows = torch.randint(len(batch["x"]), (len(batch["x"]),), generator=fresh)
    return {name: v[rows].to(dtype) if v.is_floating_point() else v[rows] for name, v in batch.items()}


def differentiated(pair: Pair, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor | None]]:
    """Return the loss and the gradients of eager Pyro."""
    params = pair.named_parameters()
    for p in params.values():
        p.grad = None
    loss = pair.objective.loss_and_grads(pair.bound_model, pair.bound_guide, batch)
    return torch.as_tensor(loss, dtype=torch.float64), {name: p.grad for name, p in params.items()}


@pytest.mark.exhaustive
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("row", ALL.values(), ids=ALL)
def test_a_compiled_step_has_eager_pyros_loss_and_gradient(row: Row, dtype: torch.dtype) -> None:
    pair, eager = build(row, dtype), build(row, dtype)
    params = pair.named_parameters()
    # without a first momentum, Adam's average of the gradient is the gradient of the last step
    optim = torch.optim.Adam(params.values(), lr=1e-3, betas=(0.0, 0.999))
    svi = SVI(pair.bound_model, pair.bound_guide, optim, pair.objective, compile="on")
    require_sound(pair, drawn(row, 0, dtype))  # as training does; it settles what an objective learns of its programs
    for step in range(STEPS):
        batch = drawn(row, step, dtype)
        eager.load_state_dict(pair.state_dict())
        torch.manual_seed(step)
        wanted, gradients = differentiated(eager, batch)
        torch.manual_seed(step)
        loss = svi.update(batch)
        assert svi.engine == "inductor", svi.why_not
        assert float(abs(loss - wanted)) <= TOLERANCE[dtype] * float(abs(wanted))
        found = {name: optim.state[p]["exp_avg"] if p in optim.state else None for name, p in params.items()}
        assert [n for n, g in found.items() if g is None] == [n for n, g in gradients.items() if g is None]
        norm = torch.stack([g.norm() for g in gradients.values() if g is not None]).norm()
        gap = torch.stack([(g - found[n]).norm() for n, g in gradients.items() if g is not None]).norm()
        assert float(gap) <= TOLERANCE[dtype] * float(norm)
        for name, buffer in eager.named_buffers().items():
            torch.testing.assert_close(pair.named_buffers()[name], buffer, rtol=TOLERANCE[dtype], atol=1e-12)
