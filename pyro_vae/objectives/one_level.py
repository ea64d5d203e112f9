"""The ELBO of a chain of many levels, estimated at one of them per datum."""

from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_vae.objectives.objective import Objective
from pyro_vae.options import Count, checked
from pyro_vae.program import Chain, Figure, chain_of, rewrapped, trace_of


class OneLevel(Objective):
    """E log p(x | z1) - KL(q(zT | x) || p(zT)) - (T - 1) KL(q(zl-1 | zl, x) || p(zl-1 | zl)).

    Its mean over l, uniform in 2 ... T, is the ELBO; the levels are spread evenly over the batch and
    its particles, with one random shift. It needs the methods of a chain (see `docs/design.md`). A
    datum's value is no log-weight: a log-mean-exp of such values bounds nothing.

    *Variational Diffusion Models (Kingma et al., 2021)*, arXiv 2107.00630, appendix I.1, for the
    spread levels.

    Args:
        num_particles: levels per datum.
        data_plate: the plate at dim -1.
    """

    figure = Figure("ELBO at one level per datum", "bound")
    has_kl = False
    per_datum = True
    validates = True

    @checked()
    def __init__(self, num_particles: Count = 1, *, data_plate: str = "data") -> None:
        super().__init__(num_particles, data_plate=data_plate)

    def differentiable_loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """Return minus the estimate, summed over the data as the programs scale them.

        Raises:
            PairError: the pair is no chain.
        """
        x = args[0]["x"] if isinstance(args[0], Mapping) else args[0]
        gain = self.per_level(chain_of(model, guide), x).mean(0)

        def scaled(*_: Any, **__: Any) -> None:
            with pyro.plate(self.data_plate, len(x)):
                pyro.factor("one_level", gain)

        site = trace_of(rewrapped(model, scaled), *args, **kwargs).nodes["one_level"]
        return -(site["scale"] * gain).sum()

    def per_level(self, chain: Chain, x: Tensor) -> Tensor:
        """Return the estimates ``(particles, batch)``, each at a level of its own."""
        x = x.expand(self.num_particles, *x.shape)
        gain = chain.reconstruction(x) - chain.prior(x)
        if chain.top == 1:
            return gain
        return gain - (chain.top - 1) * chain.step(x, self._levels(chain.top, x))

    def _levels(self, top: int, x: Tensor) -> Tensor:
        """Return levels 2 ... ``top``, long ``(particles, batch)``, evenly spread."""
        count = x.shape[0] * x.shape[1]
        even = torch.arange(count, device=x.device) / count + torch.rand(1, device=x.device)
        return 2 + (even % 1 * (top - 1)).long().clamp(max=top - 2).reshape(x.shape[:2])
