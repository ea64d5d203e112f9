"""Whole sequences and one z for each: what a decoder says step by step, and what an encoder reads.

    decoder     z, mask -> p(x | z)     `StepDecoder`: each step given z and those before it
    encoder     x, mask -> q(z | x)     `SequenceEncoder`: what a net says at both ends and on average

``x`` holds all steps side by side, ``(..., steps * features)``; ``mask`` is bool ``(..., steps)``.
"""

from typing import Any, Self

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vae.conditionals.head import Head
from pyro_vae.distributions import Following
from pyro_vae.nets import RecurrentNet, start_at
from pyro_vae.options import Count, Fraction, checked

__all__ = ["Predictor", "SequenceEncoder", "StepDecoder"]


class Predictor(nn.Module):
    """What is said of each step by the steps before it and by z: a `pyro_vae.distributions.NextStep`.

    Args:
        net: of one direction; its inputs are a step, whether there was one, and z.
        read: what a step goes through first, such as units of its own.
        dropout: share of steps that are hidden from those after them, in training: what they said
            z then has to say. *Generating Sentences from a Continuous Space (Bowman et al., 2016)*,
            arXiv 1511.06349.
    """

    @checked()
    def __init__(self, net: RecurrentNet, read: nn.Module, dropout: Fraction = 0.0) -> None:
        super().__init__()
        self.net, self.read, self.dropout = net, read, nn.Dropout(dropout)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Return ``(..., steps, outputs)`` for ``x``, ``(..., steps, features)``, and z, ``(...,
        latent)``.
        """
        before = F.pad(self._inputs(x[..., :-1, :]), (0, 0, 1, 0))  # nothing is before the first
        lead = torch.broadcast_shapes(before.shape[:-2], z.shape[:-1])
        wide = z.unsqueeze(-2).expand(*lead, before.shape[-2], z.shape[-1])
        inputs = torch.cat([before.expand(*lead, *before.shape[-2:]), wide], -1)
        return self.net(inputs, torch.ones_like(inputs[..., 0]).bool())

    def step(self, previous: Tensor | None, z: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Return what is said of the next step, ``(..., outputs)``, and the net's states after it."""
        if previous is None:
            inputs = z.new_zeros(*z.shape[:-1], self.net.inputs - z.shape[-1])
        else:
            inputs = self._inputs(previous)
        return self.net.step(torch.cat([inputs, z], -1), state)

    def _inputs(self, x: Tensor) -> Tensor:
        """Return steps as the net reads them, and a 1 that says that there was a step."""
        seen = torch.cat([self.read(x), torch.ones_like(x[..., :1])], -1)
        return seen * self.dropout(torch.ones_like(x[..., :1]))


class StepDecoder(nn.Module):
    """p(x | z): each step given z and the steps before it.

    Args:
        predictor: ``x, z -> (..., steps, head.size)``.
        head: of one step.
    """

    @checked()
    def __init__(self, predictor: Predictor, head: Head) -> None:
        super().__init__()
        self.predictor, self.head = predictor, head

    def forward(self, z: Tensor, there: Tensor) -> TorchDistribution:
        """Return p(x | z) for ``z``, ``(..., latent)``, of the steps that are ``there``."""
        return Following(self.predictor, self.head, z, there, self.head.features)

    def start_at(self, mean: Tensor, std: Tensor) -> Self:
        """Begin near independent steps of this mean and standard deviation, ``(features,)``, for
        every z; in place.
        """
        start_at(self.predictor.net, self.head.start(mean, std))
        return self


class SequenceEncoder(nn.Module):
    """q(z | x): what a net says at the first step and at the last, and its mean over all steps that
    are there, through a head.

    Args:
        net: ``x, mask -> (..., steps, outputs)``, of both directions.
        head: of z.
        features: size of a step.
        read: what a step goes through first, such as units of its own.
    """

    @checked()
    def __init__(self, net: RecurrentNet, head: Head, features: Count, read: nn.Module) -> None:
        super().__init__()
        self.net, self.head, self.features, self.read = net, head, features, read
        self.last = nn.Linear(3 * net.outputs, head.size)

    def forward(self, x: Tensor, there: Tensor | None = None) -> TorchDistribution:
        """Return q(z | x) for ``x``, ``(..., steps * features)``, and the steps ``there``, True up
        to the length of each datum; by default all.
        """
        steps = self.read(x.unflatten(-1, (-1, self.features)))
        seen = torch.ones_like(steps[..., 0]).bool() if there is None else there
        each = F.silu(torch.where(seen.unsqueeze(-1), self.net(steps, seen), 0.0))
        length = seen.sum(-1, keepdim=True)
        end = (length - 1).unsqueeze(-1).expand(*each.shape[:-2], 1, each.shape[-1])
        last = each.gather(-2, end).squeeze(-2)
        return self.head(self.last(torch.cat([each[..., 0, :], last, each.sum(-2) / length], -1)))
