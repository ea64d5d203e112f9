"""Why the ELBO is below log p(x): the family of q, or the encoder?

    log p(x) - ELBO = approximation gap  (the best q of the family for this x is not the posterior)
                    + amortization gap   (the encoder's q is not that best one)

Inference Suboptimality in Variational Autoencoders (Cremer, Li & Duvenaud, 2018), arXiv 1801.03558.
"""

import copy
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import transform_to

from pyro_vae.evidence import ElboTable, elbo, log_evidence
from pyro_vae.program import Batch, Pair, PairError, Wrapped, evaluation, is_enumerated, is_latent, log_weights, pieces


class Gaps(NamedTuple):
    """Parts of log p(x) - ELBO; tensors ``(data,)``, float64, nats."""

    log_evidence: Tensor
    best_elbo: Tensor  # of the guide refined for each datum
    elbo: Tensor  # of the guide as it is

    @property
    def approximation(self) -> float:
        """Mean log p(x) - best ELBO: what a richer family could gain."""
        return (self.log_evidence - self.best_elbo).mean().item()

    @property
    def amortization(self) -> float:
        """Mean best ELBO - ELBO: what a better encoder could gain."""
        return (self.best_elbo - self.elbo).mean().item()


def gaps(
    pair: Pair,
    batch: Batch,
    *,
    steps: int = 300,
    lr: float = 0.05,
    particles: int = 8,
    num_samples: int = 1000,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Gaps:
    """Split log p(x) - ELBO of every datum by refining q for each datum by itself, side by side.

    The parameters of every latent site's distribution get a free offset per datum that starts at 0:
    the encoder's output. A flow's base distribution is refined, its layers stay, so for flows the
    amortization gap is a lower bound.

    Args:
        particles: draws per step for the gradient.
        num_samples: draws for the ELBOs, from the two guides, and for log p(x), from the best
            proposal.
        progress: called with 1 after every step.

    Raises:
        PairError: for guides without reparameterised draws or of a kind that cannot be refined.
    """
    offsets: dict[str, Tensor] = {}
    refined = replace(pair)
    refined.__dict__["bound_guide"] = Wrapped(pair.bound_guide, lambda: _Offset(offsets))
    with evaluation(pair, seed):
        log_weights(refined, batch, 1)  # makes the offsets
        if not offsets:
            raise PairError(f"guide {pair.bound_guide.name} draws no latent site, so there is nothing to refine")
        frozen = [p for p in pair.named_parameters().values() if p.requires_grad]
        for parameter in frozen:
            parameter.requires_grad_(False)
        try:
            _refine(refined, batch, offsets, steps, lr, particles, progress)
        finally:
            for parameter in frozen:
                parameter.requires_grad_(True)
    rows = max(4096, _rows(batch))
    best, now = (
        log_evidence(one, batch, num_samples=num_samples, proposal="guide", rows=rows, seed=seed)
        for one in (refined, pair)
    )
    own = log_evidence(pair, batch, num_samples=num_samples, rows=rows, seed=seed)
    # each estimate is a lower bound in expectation: the highest of the means is nearest
    evidence = max((best, now, own), key=lambda found: found.mean).estimate
    # Adam's first steps are as long as any: where q was at its best already, they lead away from it
    return Gaps(evidence, torch.maximum(best.elbo, now.elbo), now.elbo)


def _rows(batch: Batch) -> int:
    return 64 * len(next(iter(batch.values())))  # the offsets belong to the batch as a whole: it is never cut


def _refine(
    pair: Pair,
    batch: Batch,
    offsets: dict[str, Tensor],
    steps: int,
    lr: float,
    particles: int,
    progress: Callable[[int], None] | None,
) -> None:
    with torch.enable_grad():
        free = [tensor.requires_grad_() for tensor in offsets.values()]
        optimizer = torch.optim.Adam(free, lr=lr)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = lr * (1 - step / steps)
            optimizer.zero_grad()
            (-log_weights(pair, batch, particles).mean(0).sum()).backward()
            for tensor in free:
                if tensor.grad is not None:
                    tensor.grad.nan_to_num_(0.0, 0.0, 0.0)
            optimizer.step()
            if progress is not None:
                progress(1)
        for tensor in free:
            tensor.requires_grad_(False)
            tensor.grad = None


class _Offset(Messenger):
    """Adds a free offset to the unconstrained parameters of every latent site's distribution."""

    def __init__(self, offsets: dict[str, Tensor]) -> None:
        super().__init__()
        self.offsets = offsets

    def _pyro_sample(self, msg: Any) -> None:
        if not is_latent(msg) or is_enumerated(msg):
            return
        if not msg["fn"].has_rsample:
            raise PairError(
                f"site {msg['name']!r} has no reparameterised draws ({type(msg['fn']).__name__}), "
                "so its guide cannot be refined by gradients"
            )
        msg["fn"] = self._moved(msg["fn"], msg["name"])

    def _moved(self, fn: Any, key: str) -> Any:
        if isinstance(fn, torch.distributions.Independent):
            return dist.Independent(self._moved(fn.base_dist, key), fn.reinterpreted_batch_ndims)
        if isinstance(fn, torch.distributions.TransformedDistribution):
            return dist.TransformedDistribution(self._moved(fn.base_dist, key), fn.transforms)
        if type(fn).__name__ == "ExpandedDistribution":
            return self._moved(fn.base_dist, key).expand(fn.batch_shape)
        names = [name for name in fn.arg_constraints if name in fn.__dict__]
        if not names or isinstance(fn, torch.distributions.MixtureSameFamily | dist.Delta):
            raise PairError(
                f"site {key!r} of the guide is a {type(fn).__name__}, which cannot be refined for each datum"
            )
        moved = {}
        for name in names:
            transform = transform_to(fn.arg_constraints[name])
            free = transform.inv(getattr(fn, name))
            # the first run is without particles, so an offset has the shape of the data
            offset = self.offsets.setdefault(f"{key}.{type(fn).__name__}.{name}", torch.zeros_like(free).detach())
            moved[name] = transform(free + offset)
        return type(fn)(**moved)


class Refit(NamedTuple):
    """The ELBO before and after the guide was trained on alone, the model frozen."""

    before: ElboTable
    after: ElboTable

    @property
    def gain(self) -> float:
        """Nats per datum that more training of the guide brings."""
        return self.after.elbo - self.before.elbo


def refit_guide(
    pair: Pair,
    train: Iterable[Batch],
    test: Batch | Iterable[Batch],
    *,
    lr: float = 1e-3,
    num_samples: int = 16,
    seed: int = 0,
) -> Refit:
    """Train the guide alone on ``train``, one step per batch, and compare ELBOs on ``test``.

    The pair is left as it was.

    Raises:
        PairError: when the guide has no parameters of its own.
    """
    state = copy.deepcopy(pair.state_dict())
    held = list(pieces(test, 1000))
    model = {id(p) for name, p in pair.named_parameters().items() if name.startswith("model")}
    own = [p for p in pair.named_parameters().values() if id(p) not in model]
    if not own:
        raise PairError(f"guide {pair.bound_guide.name} has no parameters of its own, so there is nothing to refit")
    before = elbo(pair, held, num_samples=num_samples, seed=seed)
    try:
        with evaluation(pair, seed), torch.enable_grad():
            optimizer = torch.optim.Adam(own, lr=lr)
            for batch in train:
                optimizer.zero_grad()
                loss = -log_weights(pair, batch, 1).mean()
                for parameter, slope in zip(own, torch.autograd.grad(loss, own, allow_unused=True), strict=True):
                    parameter.grad = slope
                optimizer.step()
        after = elbo(pair, held, num_samples=num_samples, seed=seed)
    finally:
        pair.load_state_dict(state)
        for parameter in own:
            parameter.grad = None
    return Refit(before, after)
