"""Any objective, with the guide learning from data that the model draws too."""

from collections.abc import Callable, Mapping
from typing import Any

import pyro.poutine as poutine
import torch
from pyro.infer import ELBO
from torch import Tensor

from pyro_vae.options import Weight, checked
from pyro_vae.program import PairError, is_deterministic, is_site, trace_of, uncondition, unwrapped


class Dreaming(ELBO):
    """An objective plus a weight times log q(z | x) at z, x ~ p(z) p(x | z), one draw per datum.

    The second term moves the guide alone, towards p(z | x) on all that the model can draw, where
    the ELBO trains it on the same few data again and again: the sleep phase of *The Wake-Sleep
    Algorithm for Unsupervised Neural Networks* (Hinton, Dayan, Frey & Neal, 1995), beside whatever
    trains the pair by day. It is minimal where q(z | x) = p(z | x), and its divergence is the
    inclusive one, which covers.

    The loss's value is that of the objective; the gradient is that of both.

    Args:
        objective: what trains the pair otherwise.
        weight: of the second term, 0 or more.
    """

    @checked()
    def __init__(self, objective: ELBO, weight: Weight) -> None:
        super().__init__(num_particles=1)
        self.objective, self.weight = objective, weight

    def _get_trace(self, model: Callable, guide: Callable, args: Any, kwargs: Any) -> Any:
        return self.objective._get_trace(model, guide, args, kwargs)

    def differentiable_loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """Return the objective's loss, a 0-dim tensor that carries the gradient of both terms."""
        loss = self.objective.differentiable_loss(model, guide, *args, **kwargs)  # type: ignore[attr-defined]
        dreamt = -self.weight * dreamt_log_prob(unwrapped(model), unwrapped(guide), args[0])
        return loss + dreamt - dreamt.detach()

    def loss_and_grads(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """Fill the parameters' ``grad`` and return the loss, a 0-dim tensor that can be recorded."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        loss.backward()
        return loss.detach()

    def loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """Return the loss as a number."""
        with torch.no_grad():
            return self.differentiable_loss(model, guide, *args, **kwargs).item()


def dreamt_log_prob(model: Callable, guide: Callable, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the mean of log q(z | x) over one draw of z and x from the model per datum of a batch,
    which gives what the model is conditioned on.

    Raises:
        PairError: the guide cannot be asked for the density of what the model draws.
    """
    with torch.no_grad():
        drawn = trace_of(uncondition(model), batch)
    observed = [name for name, site in drawn.nodes.items() if is_site(site) and "was_observed" in site["infer"]]
    strangers = [name for name in observed if name not in batch]
    if strangers:
        raise PairError(
            f"dreams are data drawn from the model, and its site {strangers[0]!r} is no field of the batch that the "
            "guide could be given; leave --dream out"
        )
    fresh = {name: drawn.nodes[name]["value"].detach().to(batch[name].dtype) for name in observed}
    ran = trace_of(poutine.replay(guide, trace=drawn), {**batch, **fresh})
    total = torch.zeros(())
    for name, site in ran.nodes.items():
        if is_site(site) and not site["is_observed"] and not is_deterministic(site):
            if name not in drawn.nodes:
                raise PairError(
                    f"dreams need log q at what the model draws, and the guide's site {name!r} is none of the "
                    "model's; leave --dream out"
                )
            total = total + site["fn"].log_prob(site["value"]).sum()
    return total / len(next(iter(batch.values())))
