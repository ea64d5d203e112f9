"""Restricted Boltzmann machines as densities, by how the gradient of log Z is come by.

The gradient of log Z is minus the mean of dF over the machine's own draws. `Boltzmann` sums over all
states; `PersistentBoltzmann` keeps chains of draws that follow the parameters as they move (Tieleman,
2008, Training Restricted Boltzmann Machines using Approximations to the Likelihood Gradient);
`ContrastiveBoltzmann` takes a few steps from the data, whose gradient is biased (Hinton, 2002,
Training Products of Experts by Minimizing Contrastive Divergence).

Of the last two log Z is not known while they train: `log_prob` then is how much more probable x is
than the chains' draws, no likelihood. `anneal` estimates log Z.
"""

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_vae.distributions import boltzmann
from pyro_vae.distributions.boltzmann import MOST_UNITS, Energy, LogZ, anneal_energy, states_of
from pyro_vae.options import Count, checked

__all__ = ["Boltzmann", "ContrastiveBoltzmann", "PersistentBoltzmann"]

EDGE = 1e-3  # the least and, from 1, the largest mean of a pixel that biases begin at
STEPS_OF_DRAW = 500  # of Gibbs sampling, from a chain to a draw


class Boltzmann(nn.Module):
    """p(x) of a restricted Boltzmann machine whose Z is a sum over all states of its smaller side.

    Args:
        mean: of the data, ``(visible,)``: where it begins, all hidden units nearly idle.
        hidden: how many hidden units.

    Raises:
        ValueError: both sides have more than 14 units, too many for a sum.
    """

    base: Tensor

    @checked()
    def __init__(self, mean: Tensor, hidden: Count) -> None:
        super().__init__()
        base = torch.logit(mean.clamp(EDGE, 1 - EDGE))
        self.weights = nn.Parameter(torch.randn(len(mean), hidden) * 0.5 / (len(mean) + hidden) ** 0.5)
        self.visible = nn.Parameter(base.clone())
        self.hidden = nn.Parameter(torch.zeros(hidden))
        self.register_buffer("base", base)
        self._prepare(min(len(mean), hidden))

    def _prepare(self, units: int) -> None:
        if units > MOST_UNITS:
            raise ValueError(
                f"a sum over all states of {units} units has {2.0**units:.1g} terms, and can be taken for up to "
                f"{MOST_UNITS}: use fewer hidden units, or PersistentBoltzmann."
            )
        self.register_buffer("states", states_of(units), persistent=False)

    @property
    def energy(self) -> Energy:
        """The parameters."""
        return Energy(self.weights, self.visible, self.hidden)

    def forward(self) -> TorchDistribution:
        """Return p(x), event shape ``(visible,)``."""
        energy, states = self.energy, self.get_buffer("states")
        log_z = energy.log_z(states)
        return boltzmann.Boltzmann(energy, lambda x: log_z, lambda shape: energy.exact(states, shape))

    @torch.no_grad()
    def anneal(self, *, temperatures: int = 1000, chains: int = 100) -> LogZ:
        """Estimate log Z from both sides by annealing from independent pixels, and back.

        The way back begins at draws: exact ones where the smaller side has up to 14 units, else the
        chains', which bound log Z from above only if the chains have mixed.

        Raises:
            ValueError: there are no temperatures or no chains.
        """
        units, shape = min(self.weights.shape), torch.Size([max(chains, 1)])
        exact = units <= MOST_UNITS
        start = self.energy.exact(states_of(units).to(self.base), shape) if exact else self._at_hand(shape)
        found = anneal_energy(self.energy, self.base, temperatures=temperatures, chains=chains, start=start)
        return found._replace(exact=exact)

    def _at_hand(self, shape: torch.Size) -> Tensor | None:
        """Return draws where none are exact, or None."""
        return None


class _Unnormalized(Boltzmann):
    """A machine whose log Z is unknown until it is estimated.

    Args:
        mean: of the data, ``(visible,)``.
        hidden: how many hidden units.
        steps: of Gibbs sampling, for each gradient.

    Attributes:
        log_z: as estimated for the parameters as they are, see `pyro_vae.evidence.normalized`; None
            while it is unknown.
        moved: how many steps of training chains have gone; before the first their
            draws are refused where they are shown.
    """

    moved: Tensor

    @checked()
    def __init__(self, mean: Tensor, hidden: Count, *, steps: Count = 1) -> None:
        super().__init__(mean, hidden)
        self.steps = steps
        self.log_z: float | None = None
        self.register_buffer("moved", torch.zeros(()))

    def _prepare(self, units: int) -> None:
        """Take no sum."""

    def forward(self) -> TorchDistribution:
        """Return p(x), event shape ``(visible,)``; in training mode chains move."""
        if self.training:
            self.log_z = None  # of parameters that training moves
            self._count()
        known = self.log_z
        stands = self._contrast() if known is None else lambda x: x.new_tensor(known)
        return boltzmann.Boltzmann(self.energy, stands, self._draw, passes=STEPS_OF_DRAW, moved=self.moved)

    def _count(self) -> None:
        with torch.no_grad():
            self.moved.copy_(self.moved + self.steps)

    def _contrast(self) -> Any:
        """Return x -> minus the mean free energy of the chains, whose gradient is log Z's."""
        raise NotImplementedError

    def _start(self, count: int) -> Tensor:
        """Return states that draws begin at, ``(count, visible)``."""
        return torch.bernoulli(torch.sigmoid(self.base).expand(count, -1))

    def _draw(self, shape: Any) -> Tensor:
        return self.energy.gibbs(self._start(shape.numel()), STEPS_OF_DRAW).reshape(*shape, -1)

    def _at_hand(self, shape: torch.Size) -> Tensor | None:
        return self._draw(shape) if self.moved else None

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.log_z = None
        super()._load_from_state_dict(*args, **kwargs)


class PersistentBoltzmann(_Unnormalized):
    """p(x) trained with chains that go on from step to step (persistent contrastive divergence).

    Args:
        mean: of the data, ``(visible,)``.
        hidden: how many hidden units.
        steps: of Gibbs sampling, for each step of training.
        chains: how many, kept in a buffer.
    """

    chains: Tensor

    @checked()
    def __init__(self, mean: Tensor, hidden: Count, *, steps: Count = 1, chains: Count = 128) -> None:
        super().__init__(mean, hidden, steps=steps)
        self.register_buffer("chains", super()._start(chains))

    def _contrast(self) -> Any:
        if self.training:
            with torch.no_grad():
                self.chains.copy_(self.energy.gibbs(self.chains.clone(), self.steps))
        held = -self.energy.free(self.chains.clone()).mean()
        return lambda x: held

    def _start(self, count: int) -> Tensor:
        return self.chains[torch.randint(len(self.chains), (count,), device=self.chains.device)]


class ContrastiveBoltzmann(_Unnormalized):
    """p(x) trained with a few steps from each datum (contrastive divergence, CD-k).

    Args:
        mean: of the data, ``(visible,)``.
        hidden: how many hidden units.
        steps: k, of Gibbs sampling; a small k is fast and biased.
    """

    def _contrast(self) -> Any:
        energy = self.energy

        def minus_free(x: Tensor) -> Tensor:
            with torch.no_grad():
                after = energy.gibbs(x, self.steps)
            return -energy.free(after)

        return minus_free
