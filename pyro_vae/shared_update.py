"""The update of several processes, compiled: one piece of code from what they have added up to the new parameters.

Every process must make the very same update, or their parameters drift apart. The code that gives the gradients may differ between
them (another shape of the share, a compiler that failed), and what is fused with it rounds differently. So the update is code of its own, the
same in all of them, from the step on at which all of them have it.
"""

from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor

from pyro_vae.compiled import disagreement, in_short
from pyro_vae.distributed import Exchange
from pyro_vae.optim_graph import Update, owners
from pyro_vae.step_graph import Steps
from pyro_vae.update_code import UpdateCode


class SharedUpdate:
    """Takes the update from what the processes have added up, once they agree that each has the code for it.

    Args:
        svi: whose update it is, by a torch optimizer.
        exchange: what adds up.

    Attributes:
        why_not: why there is no code, and the optimizer takes its own step; None as long as nothing speaks against it.
    """

    def __init__(self, svi: Steps, exchange: Exchange) -> None:
        self._svi, self._exchange = svi, exchange
        self._code: UpdateCode | None = None
        self._made_for: tuple[Any, ...] = ()
        self.why_not: str | None = None

    def settled(self, params: Sequence[Tensor]) -> bool:
        """Tell whether there is code for these parameters and the optimizer as it now is."""
        return self._code is not None and self._made_for[:-1] == self._facts(params) and self._code.update.valid()

    def settle(self, sums: Tensor, params: Sequence[Tensor]) -> None:
        """Make the code, or compare it with its graph once more: all processes at the same step, and none uses it if one cannot."""
        try:
            if not self.settled(params):
                self._code = self._make(sums, params)
            code = cast(UpdateCode, self._code)
            why_not = disagreement(lambda seed: code.distance(1, [sums], seed))
        except Exception as error:  # whatever goes wrong in a compiler, the optimizer is there
            why_not = in_short(error)
        self.why_not = self._exchange.agree(why_not)
        if self.why_not is not None:
            self._code = None

    def take(self, sums: Tensor, params: Sequence[Tensor]) -> tuple[Tensor, Tensor] | None:
        """Take the update; return the loss and whether it was finite, or None: the optimizer is to take it."""
        if self._code is None or self._made_for != (*self._facts(params), self._exchange.reached):
            return None
        loss, finite = self._code([sums])
        for p in params:
            p.grad = None  # that of this process's share
        return loss, finite

    def _facts(self, params: Sequence[Tensor]) -> tuple[Any, ...]:
        return self._svi.optim, self._svi.clip, [*map(id, params)]

    def _make(self, sums: Tensor, params: Sequence[Tensor]) -> UpdateCode:
        """Return code for the parameters that gradients now reach.

        Raises:
            ValueError: the optimizer has no such form.
        """
        exchange, reached = self._exchange, list(self._exchange.reached)
        owner = owners(self._svi.optim)
        trained = [p for p, here in zip(params, reached, strict=True) if here]
        if not trained:
            raise ValueError("no gradient reaches a parameter")
        for p in trained:
            if (why_not := Update.why_not(*owner[id(p)])) is not None:
                raise ValueError(why_not)
        moving = self._code is not None and self._code.update.moves()
        update = Update([(p, *owner[id(p)]) for p in trained], self._svi.clip, moving=moving)
        made_for = *self._facts(params), reached
        if self._code is not None and self._made_for == made_for and self._code.update.plan == update.plan:
            return self._code.moved(update, [sums])
        self._made_for = made_for
        k, n, s = len(trained), len(trained) + len(exchange.buffers), len(update.state)

        def step(*inputs: Tensor) -> list[Tensor]:
            loss, grads, buffers = exchange.read(inputs[-1], params)
            for buffer, value in zip(inputs[k:n], buffers, strict=True):
                buffer.copy_(value)
            grads = [grad.to(p.dtype) for grad, p, here in zip(grads, params, reached, strict=True) if here]
            finite = update.apply(inputs[:k], grads, inputs[n : n + s], inputs[n + s], loss)
            return [loss, finite]

        return UpdateCode(step, update, [*trained, *exchange.buffers], exchange.buffers, range(k), [sums], 2)
