"""Reweighted wake-sleep: a guide that learns without gradients of its draws."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import pyro.poutine as poutine
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_vae.objectives.objective import IMPORTANCE_WEIGHTED, Objective
from pyro_vae.options import Count, checked
from pyro_vae.program import PairError, trace_of, uncondition


class ReweightedWakeSleep(Objective):
    """log mean_k w_k for the model; the guide learns from weighted draws, without their gradients.

    The loss is minus the importance-weighted bound; the guide's gradient is that of sum_k w~_k log
    q(z_k | x) (wake) and, by the fraction ``sleep``, of log q(z | x) at data drawn from the model.

    *Reweighted Wake-Sleep (Bornschein & Bengio, 2014)*, arXiv 1406.2751; *Revisiting Reweighted
    Wake-Sleep (Le et al., 2018)*, arXiv 1805.10469. ``pyro.infer.ReweightedWakeSleep`` adds up the
    batch before it weights.
    """

    figure = IMPORTANCE_WEIGHTED
    per_datum = True

    @checked()
    def __init__(self, num_particles: Count = 10, *, sleep: float = 0.0, data_plate: str = "data") -> None:
        if num_particles < 2:
            raise ValueError(f"reweighted wake-sleep compares draws and needs at least 2, got {num_particles}")
        if not 0 <= sleep <= 1:
            raise ValueError(f"sleep is a fraction, from 0 to 1, got {sleep}")
        super().__init__(num_particles, data_plate=data_plate)
        self.sleep = sleep

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
        surrogate = (log_w.softmax(0) * (log_p + (1 - self.sleep) * log_q)).sum(0)
        if self.sleep:
            surrogate = surrogate + self.sleep * self._dream(model, guide, weight, args, kwargs)
        return -(weight * (bound + surrogate - surrogate.detach())).sum()

    def _dream(self, model: Callable, guide: Callable, weight: Any, args: Any, kwargs: Any) -> Tensor:
        """Return log q(z | x) at z, x drawn from the model: ``(batch,)``."""
        if len(args) != 1 or not isinstance(args[0], Mapping):
            raise PairError("sleep gives the guide data drawn from the model, by field; call with the batch as a dict")
        with torch.no_grad():
            dream = trace_of(uncondition(model), *args, **kwargs)
        drawn = {name: site["value"] for name, site in self._sites(dream) if name in args[0]}
        replayed = trace_of(poutine.replay(guide, trace=dream), {**args[0], **drawn}, **kwargs)
        return self._log_prob(replayed, weight).sum(0)


class _DetachDraws(Messenger):
    """Draws that carry no gradient; to be entered before the trace is, so that the trace sees them
    detached.
    """

    def _pyro_post_sample(self, msg: Any) -> None:
        if not msg["is_observed"]:
            msg["value"] = msg["value"].detach()
