"""Expectation maximisation, of any pair whose parameters belong to conditionals with an M step.

Such a conditional is an exponential family: log p(v | given) is linear in its natural parameters
eta, up to what does not depend on them. The E step adds to it the same linear function of a tensor
of zeros, so that the gradient of the enumerated ELBO with respect to the zeros is the expectation of
the sufficient statistics under q, whatever the program around it is and whatever data are missing.
The M step hands these to `Maximizable.maximize`. Nothing is derived by hand for any pair.

Maximum Likelihood from Incomplete Data via the EM Algorithm (Dempster, Laird & Rubin, 1977); in
batches, averaged over steps: On-line Expectation-Maximization Algorithm for Latent Data Models
(Cappe & Moulines, 2009), arXiv 0712.4273.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from pyro_vae.distributions import Tilted
from pyro_vae.program import Pair, PairError, Wrapped, pieces, size_of

NUMBERS = 2**22  # of a block, 32 MB in double precision; a sum over states holds some ten such tensors
FORGETTING = 0.6  # step t in batches counts (t + 1)^-0.6: convergence needs an exponent in (1/2, 1]

Expected = dict[str, Tensor]


@runtime_checkable
class Maximizable(Protocol):
    """What a conditional (a module that returns a distribution) needs to own its parameters."""

    def natural(self) -> Expected:
        """Return the natural parameters by name, computed from the parameters."""

    def statistic(self, eta: Expected, value: Tensor, *given: Tensor) -> Tensor:
        """Return the sum over ``eta`` of parameter times sufficient statistic, in the batch shape.

        ``given`` is what ``forward`` was called with. At ``eta = natural()`` it is log p(value |
        given), up to a term that does not depend on the parameters.
        """

    def maximize(self, expected: Expected) -> None:
        """Set the parameters to those of the largest expected log-probability; gradients are off.

        ``expected`` has the sufficient statistics' expectations per datum, by the names and in the
        shapes of ``natural``.
        """


def owners_of(pair: Pair) -> dict[str, nn.Module]:
    """Return the conditionals of a pair that own parameters, by name.

    Raises:
        PairError: a trainable parameter belongs to none of them.
    """
    owners: dict[str, nn.Module] = {}
    known: set[int] = set()
    for path, module in pair.modules().items():
        for name, part in module.named_modules(prefix=path):
            owns = isinstance(part, Maximizable)
            if owns and not any(part is other for other in owners.values()):
                owners[name] = part
                known |= {id(p) for p in part.parameters()}
    for name, parameter in pair.named_parameters().items():
        if id(parameter) not in known:
            raise PairError(
                f"EM has no M step for the parameter {name!r} {tuple(parameter.shape)}: no conditional with natural(), "
                "statistic() and maximize() owns it; train the pair with --optimizer adam, or give it such a conditional"
            )
    if not owners:
        raise PairError("EM has nothing to do: the pair has no trainable parameters")
    return owners


class EM:
    """The E step and the M step as one step of the training loop.

    Args:
        model: a program of a batch; log-probabilities are scaled to nats per datum.
        guide: likewise.
        optim: holds the learning rate, which is set to how much a step counts; otherwise unused.
        objective: an ELBO with ``differentiable_loss``; ``TraceEnum_ELBO`` for exact expectations.
        owners: by name, see `owners_of`.
        stepwise: batches are parts of the data, so that expectations are averaged over steps; else
            each step sees all data and forgets the last.

    Attributes:
        finite: whether the last step's loss and expectations were finite.
        figures: of the last step: ``m_step``, the ELBO after the M step under the q before it.
    """

    compiled = False

    def __init__(
        self,
        model: Callable,
        guide: Callable,
        optim: torch.optim.Optimizer,
        objective: Any,
        *,
        owners: Mapping[str, nn.Module],
        stepwise: bool,
        **_: Any,
    ) -> None:
        self.model, self.guide, self.optim, self.objective = model, guide, optim, objective
        self.owners, self.stepwise = dict(owners), stepwise
        self.finite = torch.tensor(True)
        self.figures: dict[str, float] = {}
        self._average: dict[str, Expected] = {}
        self._steps = 0

    def update(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Take an E step and an M step; return minus the E step's ELBO, nats per datum."""
        loss, expected = self.expect(batch)
        values = [value for one in expected.values() for value in one.values()]
        self.finite = torch.stack([loss.isfinite(), *(value.isfinite().all() for value in values)]).all()
        if not self.finite:
            return loss
        share = (self._steps + 1) ** -FORGETTING if self.stepwise else 1.0
        self._steps += 1
        self.optim.param_groups[0]["lr"] = share
        self._average = _mixed(self._average, expected, share)
        with torch.no_grad():
            before = self._linear(expected)
            for name, owner in self.owners.items():
                owner.maximize(self._average[name])  # type: ignore[operator]
            self.figures = {"m_step": (self._linear(expected) - before - loss).item()}
        return loss

    def expect(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Expected]]:
        """Return minus the ELBO, a 0-dim tensor, and each owner's expected statistics per datum.

        The data are looked at in blocks, so that memory does not grow with their number.
        """
        total, loss = size_of(batch), torch.zeros(())
        expected: dict[str, Expected] = {}
        for piece in pieces(dict(batch), self._block()):
            share = size_of(piece) / total
            cost, found = self._expect(piece)
            loss = loss + share * cost
            expected = {
                name: {key: share * value + (expected[name][key] if expected else 0) for key, value in one.items()}
                for name, one in found.items()
            }
        return loss, expected

    def _block(self) -> int:
        """Return how many data are looked at together: as many as have `NUMBERS` statistics, since
        a sum over states computes every one for each datum.
        """
        with torch.no_grad():
            most = max(value.numel() for owner in self.owners.values() for value in owner.natural().values())  # type: ignore[operator]
        return max(NUMBERS // most, 1)

    def _expect(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Expected]]:
        with torch.no_grad():
            zeros = {
                name: {key: torch.zeros_like(value).requires_grad_() for key, value in owner.natural().items()}  # type: ignore[operator]
                for name, owner in self.owners.items()
            }
        leaves = [value for one in zeros.values() for value in one.values()]
        with torch.enable_grad():
            model = Wrapped(self.model, lambda: self._counting(zeros))
            loss = self.objective.differentiable_loss(model, self.guide, batch)
            found = torch.autograd.grad(-loss, leaves, allow_unused=True)
        taken = iter(torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, found, strict=True))
        return loss.detach(), {name: {key: next(taken) for key in one} for name, one in zeros.items()}

    def _counting(self, zeros: Mapping[str, Expected]) -> AbstractContextManager[None]:
        """Add to every owner's log-probability, inside, its linear function of ``zeros``."""
        stack: Any = ExitStack()
        for name, owner in self.owners.items():
            stack.enter_context(_Hooked(owner, zeros[name]))
        return stack

    def _linear(self, expected: Mapping[str, Expected]) -> Tensor:
        """Return E_q log p of all owners' sites at their parameters, up to what these do not change."""
        parts = [
            (expected[name][key] * value).double().sum()
            for name, owner in self.owners.items()
            for key, value in owner.natural().items()  # type: ignore[operator]
        ]
        return torch.stack(parts).sum()

    def gradients(self, args: Any, kwargs: Any) -> None:
        """Run the E step of ``update(*args, **kwargs)`` without the M step."""
        self.expect(*args, **kwargs)

    def state_dict(self) -> dict[str, Any]:
        """Return the averaged expectations and the number of steps."""
        return {
            "average": self._average if self.stepwise else {},
            "steps": self._steps,
            "figures": dict(self.figures),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""
        like = {name: next(owner.parameters()) for name, owner in self.owners.items()}
        self._average = {
            name: {key: value.to(like[name]) for key, value in one.items()} for name, one in state["average"].items()
        }
        self._steps, self.figures = state["steps"], dict(state["figures"])


class _Hooked(AbstractContextManager[None]):
    """What a conditional returns is tilted inside."""

    def __init__(self, owner: nn.Module, eta: Expected) -> None:
        self.owner, self.eta = owner, eta

    def __enter__(self) -> None:
        self.handle = self.owner.register_forward_hook(self._tilt)

    def __exit__(self, *_: Any) -> None:
        self.handle.remove()

    def _tilt(self, owner: Any, given: tuple[Tensor, ...], fn: Any) -> Tilted:
        return Tilted(fn, lambda value: owner.statistic(self.eta, value, *given))


def _mixed(old: Mapping[str, Expected], new: Mapping[str, Expected], share: float) -> dict[str, Expected]:
    """Return the average of two expectations, of which the new one counts ``share``."""
    if share == 1:
        return {name: dict(one) for name, one in new.items()}
    return {
        name: {key: (1 - share) * old[name][key] + share * value for key, value in one.items()}
        for name, one in new.items()
    }
