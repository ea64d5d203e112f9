"""Which site made a loss or a gradient non-finite."""

from collections.abc import Callable, Mapping
from typing import Any

import pyro.distributions as dist
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_vae.program import innermost, is_site


class NonFinite(ArithmeticError):
    """A loss or gradient is non-finite; the parameters are those before it.

    Attributes:
        site: the first site with a non-finite value or log-probability; None when only a gradient
            is.
        step: number of the step, from 0.
        epoch: number of the epoch, from 1.
        batch: the data of the step.
    """

    def __init__(self, message: str, *, site: str | None, step: int, epoch: int, batch: Mapping[str, Tensor]) -> None:
        super().__init__(message)
        self.site, self.step, self.epoch, self.batch = site, step, epoch, batch


class Blame(Messenger):
    """Records the first site whose value or log-probability is non-finite.

    Attributes:
        site: its name, or None.
        reason: what is wrong with it, in words.
    """

    def __init__(self) -> None:
        super().__init__()
        self.site: str | None = None
        self.reason = ""

    def _pyro_post_sample(self, msg: Any) -> None:
        if self.site is not None or not is_site(msg):
            return
        value, fn = msg["value"], msg["fn"]
        if value is not None and not value.isfinite().all():
            what = "observed value" if msg["is_observed"] else "draw"
            reason = f"its {what} holds {_kinds(value)}{_parameters(fn)}"
        elif value is not None and not isinstance(fn, dist.Delta):
            log_prob = fn.log_prob(value)
            if log_prob.isfinite().all():
                return
            reason = f"its log-probability is {_kinds(log_prob)}{_rows(log_prob)}{_parameters(fn)}"
        else:
            return
        self.site, self.reason = msg["name"], reason


def gradients(named: Mapping[str, Tensor]) -> str | None:
    """Return in words which parameters have a non-finite gradient, None if none has."""
    bad = [name for name, p in named.items() if p.grad is not None and not p.grad.isfinite().all()]
    if not bad:
        return None
    first = named[bad[0]].grad
    assert first is not None
    more = f" (and of {len(bad) - 1} more parameters)" if len(bad) > 1 else ""
    return f"the gradient of {bad[0]}{more} holds {_kinds(first)}"


def parameters(named: Mapping[str, Tensor]) -> str | None:
    """Return in words which parameter is non-finite, None if none is."""
    bad = next((name for name, p in named.items() if not p.isfinite().all()), None)
    return None if bad is None else f"parameter {bad} holds {_kinds(named[bad])}"


def explain(run: Callable[[], Any], named: Mapping[str, Tensor]) -> tuple[str | None, str]:
    """Recompute a step's gradients; return the site to blame, if any, and what is wrong in words."""
    with Blame() as blame:
        run()
    if blame.site is not None:
        return blame.site, f"at site {blame.site!r} {blame.reason}"
    return None, gradients(named) or parameters(named) or "every site of an eager run is finite"


def _kinds(tensor: Tensor) -> str:
    count = int((~tensor.isfinite()).sum())
    names = [name for name, found in _kinds_of(tensor) if found]
    return f"{' and '.join(names)} ({count} of {tensor.numel()})"


def _kinds_of(tensor: Tensor) -> list[tuple[str, bool]]:
    return [
        ("nan", bool(tensor.isnan().any())),
        ("inf", bool((tensor == float("inf")).any())),
        ("-inf", bool((tensor == float("-inf")).any())),
    ]


def _rows(log_prob: Tensor) -> str:
    if log_prob.dim() != 1:
        return ""
    rows = (~log_prob.isfinite()).nonzero().flatten().tolist()
    shown = ", ".join(map(str, rows[:3])) + (", ..." if len(rows) > 3 else "")
    return f", first at datum {shown} of the batch" if len(rows) > 3 else f", at datum {shown} of the batch"


def _parameters(fn: Any) -> str:
    """Say which of a distribution's parameters is non-finite."""
    fn = innermost(fn)
    for name in getattr(fn, "arg_constraints", {}):
        value = fn.__dict__.get(name)  # not computed on demand, as probs from logits
        if isinstance(value, Tensor) and not value.isfinite().all():
            return f", since the {name} of its {type(fn).__name__} holds {_kinds(value)}"
    return ""
