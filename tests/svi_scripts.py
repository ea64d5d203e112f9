"""Scripts that run with Pyro's `SVI` and with ours, whose numbers must be the same."""

import re
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import nn

from pyro_vae import SVI
from pyro_vae.svi import EagerWarning

X = torch.randn(20, 6, generator=torch.Generator().manual_seed(5))


class Vae(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enc, self.dec = nn.Linear(6, 4), nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 6))

    def model(self, x, beta=1.0):
        pyro.module("dec", self.dec)
        with pyro.plate("data", len(x)):
            with poutine.scale(scale=beta):
                z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.dec(z), 1.0).to_event(1), obs=x)

    def guide(self, x, *rest):
        pyro.module("enc", self.enc)
        with pyro.plate("data", len(x)):
            loc, s = self.enc(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, nn.functional.softplus(s) + 1e-3).to_event(1))


class Case(NamedTuple):
    run: Callable[..., Any]
    said: str | None
    engine: str


class Cases(dict[str, Case]):
    """Scripts by name."""

    def add(
        self, said: str | None = None, engine: str | None = None
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Add a script: what is said, and what ran the last step ("eager" if something is said)."""

        def add(run: Callable[..., Any]) -> Callable[..., Any]:
            self[run.__name__] = Case(run, said, engine or ("recorded" if said is None else "eager"))
            return run

        return add

    def params(self, quick: set[str]) -> list[Any]:
        """Return the names, those that are not ``quick`` marked as slow."""
        return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in self]


def make(kind, model, guide, loss=None, lr=0.01):
    options = {} if kind is pyro.infer.SVI else {"compile": "recorded"}
    make.last = kind(model, guide, pyro.optim.Adam({"lr": lr}), loss or Trace_ELBO(), **options)
    return make.last


def agree(one: Case) -> None:
    """Run a script with Pyro's and with our SVI; all its numbers must be the same."""
    found = []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for kind in (pyro.infer.SVI, SVI):
            pyro.clear_param_store()
            torch.manual_seed(0)
            np.random.seed(0)
            found.append([*one.run(kind), float(torch.rand(()))])
    assert found[1] == pytest.approx(found[0], rel=1e-5)
    ours = [str(w.message) for w in said if issubclass(w.category, EagerWarning)]
    if one.said is None:
        assert ours == []
    else:
        assert len(ours) == 1
        assert re.search(one.said, ours[0]), ours
    assert make.last.engine == one.engine, make.last.why_not
