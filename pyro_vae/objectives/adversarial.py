"""The objective of a generator and its critic, and the divergence that a critic bounds."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_vae.objectives.objective import Objective
from pyro_vae.options import Weight, checked
from pyro_vae.program import Figure, PairError, program_name, trace_of, uncondition, unwrapped

LOG_2 = math.log(2)


def critic_gain(real: Tensor, fake: Tensor) -> Tensor:
    """Return log 2 - the loss of a critic c, pair by pair, in nats.

    With ``real`` = c(x) at data and ``fake`` = c(x) at draws, its mean over both is a lower bound on
    the Jensen-Shannon divergence JSD(p, q) = (KL(p || m) + KL(q || m)) / 2, m = (p + q) / 2, whatever
    c is; it is JSD itself at c = log p / q. 0 for c = 0, at most log 2.
    """
    return LOG_2 - (F.softplus(-real) + F.softplus(fake)) / 2


def divergence_bound(real: Tensor, fake: Tensor) -> tuple[float, float]:
    """Return a lower bound on the Jensen-Shannon divergence of p and q, and its standard error, in
    nats; the bound holds on average, and a critic that is too sure of itself makes it negative.

    Args:
        real: log p / q as a critic says, at draws of p that it was not trained on: ``(data,)``.
        fake: the same at draws of q.
    """
    at_p, at_q = F.softplus(-real.double()) / 2, F.softplus(fake.double()) / 2
    stderr = (at_p.var() / len(at_p) + at_q.var() / len(at_q)).sqrt()
    return LOG_2 - (at_p.mean() + at_q.mean()).item(), stderr.item()


class _Round(NamedTuple):
    """What one call of both programs gives."""

    real: Tensor  # c at data, (batch,)
    fake: Tensor  # c at the draws as leaves of the graph, (batch,)
    seen: dict[str, Tensor]  # the data, by field; leaves of the graph where slopes are asked for
    made: dict[str, Tensor]  # draws that gradients reach the generator through, by field
    shown: dict[str, Tensor]  # the same draws as leaves
    weight: Any  # what one datum counts


class Adversarial(Objective):
    """A model that is known by its draws learns from a guide that tells them from data.

    The guide returns c, one number per datum: log p(x) / p_model(x) as well as it can tell. Both
    learn from one loss, each from a part of it that does not reach the other:

        guide   log 2 - E softplus(-c(x)) / 2 - E softplus(c(made)) / 2     up
        model   E softplus(-c(made))                                        down, with c held

    The first is the figure, a lower bound on the Jensen-Shannon divergence of data and draws: how
    far apart this critic can tell them. It says nothing of which epoch is better, since the critic
    moves too. The second, non-saturating, has a gradient where the critic is sure (Goodfellow et
    al., 2014, arXiv 1406.2661).

    A critic that grows steeper than any two data are apart leaves the generator without a way to
    go. The penalty holds it: half of it times E sum_j (s_j dc/dx_j)^2 at the data, s_j the
    deviations of the batch, so that it does not depend on the unit of x. *Which Training Methods for
    GANs do actually Converge? (Mescheder, Geiger & Nowozin, 2018)*, arXiv 1801.04406, R1. A critic
    held tightly bounds the divergence loosely.

    Args:
        penalty: on the critic's slope, 0 or more; no part of the figure.
        data_plate: the plate at dim -1.
    """

    needs = frozenset[str]()
    figure = Figure("Jensen-Shannon divergence (lower bound)", "divergence", judged=True)
    has_kl = False
    per_datum = True
    whole_batch = True  # the penalty has the batch's deviations for its unit
    momentum = 0.5  # at 0.9 both run past each other: on digits the generator lost three classes of ten

    @checked()
    def __init__(self, penalty: Weight = 0.0, *, data_plate: str = "data") -> None:
        super().__init__(1, data_plate=data_plate)
        self.penalty = penalty

    def differentiable_loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """Return minus the figure, summed over the data as the programs scale them; the generator's
        part and the penalty have a gradient and the value 0.
        """
        with torch.enable_grad():  # the generator's gradient is part of the loss
            played = self._play(model, guide, args, kwargs, slopes=self.penalty > 0)
            gain = critic_gain(played.real, played.fake)
            leaves = list(played.shown.values())
            slopes = torch.autograd.grad(F.softplus(-played.fake).sum(), leaves, retain_graph=True)
            towards = zip(played.made.values(), slopes, strict=True)
            pull = torch.stack([(value * slope).flatten(1).sum(1) for value, slope in towards]).sum(0)
            if self.penalty:
                pull = pull + self.penalty / 2 * _steepness(played.real, played.seen)
        return -(played.weight * (gain - (pull - pull.detach()))).sum()

    def loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """Return minus the figure."""
        with torch.no_grad():
            played = self._play(model, guide, args, kwargs)
            return -(played.weight * critic_gain(played.real, played.fake)).sum().item()

    def judge(self, model: Callable, guide: Callable, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the critic's c at the data and at a draw of the model for each: ``(batch,)`` both."""
        with torch.no_grad():
            played = self._play(model, guide, (batch,), {})
            return played.real, played.fake

    def _play(self, model: Callable, guide: Callable, args: Any, kwargs: Any, slopes: bool = False) -> _Round:
        if len(args) != 1 or not isinstance(args[0], Mapping):
            raise PairError("a critic is given draws by field; call the objective with the batch as a dict")
        (batch,) = args
        drawn = trace_of(uncondition(model), batch, **kwargs).nodes
        sites = {name: drawn[name] for name in batch if name in drawn and drawn[name]["infer"].get("was_observed")}
        if not sites:
            raise PairError(
                f"the model {_name(model)} draws no field of the data ({', '.join(batch)}) that a critic could judge"
            )
        for name, site in sites.items():
            if not site["fn"].has_rsample:
                raise PairError(
                    f"draws of site {name!r} ({type(site['fn']).__name__}) carry no gradient to the model "
                    f"{_name(model)}; end its net in a head such as Draws or BinaryDraws"
                )
        made = {name: site["value"] for name, site in sites.items()}
        shown = {name: value.detach().requires_grad_() for name, value in made.items()}
        seen = {name: batch[name].detach().requires_grad_() if slopes else batch[name] for name in sites}
        real = self._critic(guide, {**batch, **seen}, kwargs)
        fake = self._critic(guide, {**batch, **shown}, kwargs)
        return _Round(real, fake, seen, made, shown, next(site["scale"] for site in sites.values()))

    def _critic(self, guide: Callable, batch: Mapping[str, Tensor], kwargs: Any) -> Tensor:
        found = guide(batch, **kwargs)
        size = len(next(iter(batch.values())))
        if not isinstance(found, Tensor) or found.shape != (size,):
            what = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise PairError(
                f"the guide {_name(guide)} returns {what}, and a critic returns one number for each of the {size} "
                "data, log p(x) / p_model(x); use a guide such as pyro_vae.guides.critic.Critic"
            )
        return found


def _steepness(real: Tensor, seen: Mapping[str, Tensor]) -> Tensor:
    """Return the squared slope of the critic at each datum, in deviations of the batch: ``(batch,)``."""
    fields = list(seen.values())
    slopes = torch.autograd.grad(real.sum(), fields, create_graph=True)
    total = torch.zeros_like(real)
    for field, slope in zip(fields, slopes, strict=True):
        total = total + (slope.square() * field.detach().var(0, correction=0)).flatten(1).sum(1)
    return total


def _name(program: Callable) -> str:
    bare = unwrapped(program)
    return getattr(bare, "name", None) or program_name(bare)
