"""Reweighted wake-sleep: a guide that learns without gradients of its draws."""

import math
from collections.abc import Callable
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_vae.objectives.objective import IMPORTANCE_WEIGHTED, Objective
from pyro_vae.options import Count, checked


class ReweightedWakeSleep(Objective):
    """log mean_k w_k for the model; the guide learns from weighted draws, without their gradients.

    The loss is minus the importance-weighted bound; the guide's gradient is that of sum_k w~_k log
    q(z_k | x), the wake phase. `Dreaming` adds the sleep phase, to this objective as to any other.

    *Reweighted Wake-Sleep (Bornschein & Bengio, 2014)*, arXiv 1406.2751; *Revisiting Reweighted
    Wake-Sleep (Le et al., 2018)*, arXiv 1805.10469. ``pyro.infer.ReweightedWakeSleep`` adds up the
    batch before it weights.
    """

    figure = IMPORTANCE_WEIGHTED
    per_datum = True

    @checked()
    def __init__(self, num_particles: Count = 10, *, data_plate: str = "data") -> None:
        if num_particles < 2:
            raise ValueError(f"reweighted wake-sleep compares draws and needs at least 2, got {num_particles}")
        super().__init__(num_particles, data_plate=data_plate)

    def differentiable_loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """Return minus the importance-weighted bound, summed over the data as the programs scale
        them.
        """
        programs = self._programs(model, guide, args, kwargs)
        with _DetachDraws():
            runs = [self._get_trace(p, q, args, kwargs) for p, q in programs]
        weight = self._weight(runs[0][0])
        log_p, log_q = (torch.cat([self._log_prob(run[i], weight) for run in runs]) for i in (0, 1))
        log_w = (log_p - log_q).detach()
        bound = log_w.logsumexp(0) - math.log(len(log_w))
        surrogate = (log_w.softmax(0) * (log_p + log_q)).sum(0)
        return -(weight * (bound + surrogate - surrogate.detach())).sum()


class _DetachDraws(Messenger):
    """Draws that carry no gradient; to be entered before the trace is, so that the trace sees them
    detached.
    """

    def _pyro_post_sample(self, msg: Any) -> None:
        if not msg["is_observed"]:
            msg["value"] = msg["value"].detach()
