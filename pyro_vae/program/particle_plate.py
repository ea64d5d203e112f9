"""Draws in parallel: a plate on the left of a program's own, where that changes nothing but speed.

Programs that count dimensions from the left (``softmax(dim=1)``, ``x.shape[0]``) are right for
``(data, features)`` and something else for ``(particles, data, features)``, often without an error.
So values decide: draws made one by one are replayed side by side, and every site's log-probability
has to come out as it did alone.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from weakref import WeakSet

import pyro
import torch
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_vae.program.sites import event_dim_of, is_deterministic, is_site
from pyro_vae.warning import warn

PARTICLES = "_particles"
CANNOT = (
    RuntimeError,
    ValueError,
    IndexError,
    TypeError,
    KeyError,
    AssertionError,
    AttributeError,
    NotImplementedError,
)

Runs = Callable[[int | None], Sequence[Trace]]


class Stacking(NamedTuple):
    """Whether draws may be made in parallel, and if not, why."""

    sound: bool
    program: int | None = None  # which of the traces came out otherwise, where none of them failed
    own_randomness: bool = False  # a program draws random numbers outside its sites: two runs at one draw differ


def particles(program: Callable, num_samples: int | None, nesting: int) -> Callable:
    """Return the program with ``num_samples`` particles on the left of its plates; as it is for
    None or 1.
    """
    if num_samples is None or num_samples == 1:
        return program
    return pyro.plate(PARTICLES, num_samples, dim=-nesting - 1)(program)


def stacking(runs: Runs, nesting: int) -> Stacking:
    """Compare draws made one by one with the same draws in parallel.

    Args:
        runs: traces of the programs, for a number of particles or, given None, without. Its draws
            move the random state.
        nesting: batch dimensions that the programs' plates use; particles lie at dim ``-nesting -
            1``.
    """
    alone = [runs(None), runs(None)]
    if 2 in _plate_sizes(alone[0]):  # a program that takes the particles for the data would come out right
        alone.append(runs(None))
    drawn = [_drawn(traces) for traces in alone]
    try:
        with Given({name: _side_by_side([d[name] for d in drawn], nesting) for name in drawn[0]}):
            together = runs(len(alone))
        odd = next((i for i in range(len(together)) if not _agree([t[i] for t in alone], together[i], nesting)), None)
    except CANNOT:
        return Stacking(False)
    if odd is None:
        return Stacking(True)
    with Given({name: value for name, (value, _) in drawn[0].items()}):
        again = runs(None)
    same = all(_agree([first], second, nesting) for first, second in zip(alone[0], again, strict=True))
    return Stacking(False, odd, own_randomness=not same)


def warn_of_left(program: Any, name: str) -> None:
    """Warn, once per program, that it counts dimensions from the left."""
    if program in _WARNED:
        return
    _WARNED.add(program)
    warn(
        f"{name} gives other values when draws lie side by side, (draws, data, ...): it counts dimensions "
        "from the left. It is run "
        "once for every draw, which is right and slow; count from the right, dim=-1 in place of dim=1"
    )


_WARNED: WeakSet[Any] = WeakSet()  # Python's own memory of warnings is lost with every catch_warnings


class Given(Messenger):
    """Gives latent sites values; observed, replayed and enumerated sites are left alone."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and not msg["done"] and msg["name"] in self.values:
            msg["value"] = self.values[msg["name"]]
            msg["done"] = True


def _drawn(traces: Sequence[Trace]) -> dict[str, tuple[Tensor, int]]:
    """The drawn values of all sites, with their event dims."""
    return {
        name: (site["value"].detach(), site["fn"].event_dim)
        for trace in traces
        for name, site in trace.nodes.items()
        if is_site(site) and not site["is_observed"] and site["infer"].get("_enumerate_dim") is None
    }


def _plate_sizes(traces: Sequence[Trace]) -> set[int]:
    return {f.size for t in traces for s in t.nodes.values() if is_site(s) for f in s["cond_indep_stack"]}


def _side_by_side(values: list[tuple[Tensor, int]], nesting: int) -> Tensor:
    """Stack values along the particles' dim, which is of size 1 in each: enumerated dims lie
    further left.
    """
    padded = [_padded(value, nesting + 1 + event_dim) for value, event_dim in values]
    return torch.cat(padded, -nesting - 1 - values[0][1])


def _padded(value: Tensor, dims: int) -> Tensor:
    return value.reshape((1,) * (dims - value.dim()) + value.shape)


def _agree(alone: list[Trace], together: Trace, nesting: int) -> bool:
    """Return whether every site of one trace has the values that the single runs had."""
    names = [[name for name, site in trace.nodes.items() if is_site(site)] for trace in (*alone, together)]
    if any(other != names[0] for other in names):
        return False
    for name in names[0]:
        sites = [trace.nodes[name] for trace in (*alone, together)]
        numbers = [_numbers(site) for site in sites]
        if None in numbers:
            continue
        *single, joint = (number for number in numbers if number is not None)
        if not _close(_side_by_side(single, nesting), joint[0]):
            return False
    return True


def _numbers(site: Mapping[str, Any]) -> tuple[Tensor, int] | None:
    """Return what must agree at a site, with its event dims: log-probability, or a recorded value."""
    if is_deterministic(site):
        given = site["fn"].event_dim < site["value"].dim()
        return (site["value"].detach(), event_dim_of(site)) if given else None
    return site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"]).detach(), 0


def _close(alone: Tensor, together: Tensor) -> bool:
    """Return whether values agree to half of their digits: other shapes are added up in other
    orders.
    """
    alone, together = torch.broadcast_tensors(alone, together)
    if not alone.is_floating_point():
        return torch.equal(alone, together)
    finite = alone.isfinite()
    if not torch.equal(finite, together.isfinite()) or not finite.any():
        return torch.equal(finite, together.isfinite())
    a, b = alone[finite].double(), together[finite].double()
    tolerance = math.sqrt(torch.finfo(alone.dtype).eps)
    return bool(((a - b).abs() <= tolerance * (1 + a.abs() + a.abs().mean())).all())
