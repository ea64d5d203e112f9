"""Handlers that change what an ELBO adds up, and at what scale; they work on any program.

An ELBO is a sum over sites. The handlers here change the scale of a site's log-probability and
nothing else, so they compose with every Pyro ELBO and with every pair.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pyro
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import SubsampleMessenger
from torch import Tensor

from pyro_vae.program.sites import is_data, is_enumerated, is_latent

Weight = float | Tensor


def uncondition(program: Callable) -> "Wrapped":
    """Return the program drawing its data anew; factors and recorded values, which are not data,
    stay.
    """
    return Wrapped(program, _Unobserved)


class _Unobserved(Messenger):
    def _pyro_sample(self, msg: Any) -> None:
        if is_data(msg):
            msg["is_observed"] = False
            msg["infer"] = {**msg["infer"], "was_observed": True, "obs": msg["value"]}
            msg["value"] = None
            msg["done"] = False


def whole_plates() -> AbstractContextManager[None]:
    """Let plates hold all data that they choose a subsample from: ``plate("data", N,
    subsample_size=B)`` is of size N.

    A messenger cannot: Pyro compares the subsample that it is given with the size that the plate
    was made with. Plates with a subsample of the caller's own keep it.
    """
    return _plates(_everything)


def subsampled_plates() -> AbstractContextManager[None]:
    """Let plates choose their subsample, as ever, within ``whole_plates``."""
    return _plates(_CHOOSE)


@contextmanager
def _plates(choose: Callable) -> Iterator[None]:
    before = SubsampleMessenger._subsample
    SubsampleMessenger._subsample = staticmethod(choose)  # type: ignore[method-assign]
    try:
        yield
    finally:
        SubsampleMessenger._subsample = staticmethod(before)  # type: ignore[method-assign]


_CHOOSE = SubsampleMessenger._subsample


def _everything(
    name: str, size: Any = None, subsample_size: Any = None, subsample: Any = None, *args: Any, **kwargs: Any
) -> Any:
    every = subsample is None and size is not None
    return _CHOOSE(name, size, None if every else subsample_size, subsample, *args, **kwargs)


class PerDatum(Messenger):
    """Scale sites so that the ELBO comes out in nats per datum.

    A site in the data plate counts once per datum of the batch, which stands for all data; a site
    outside counts once for all ``num_data``. So the first are divided by the batch's size, the
    second by ``num_data``: the ELBO of all data, local terms scaled up by N/B, divided by N. A
    plate that subsamples by itself has scaled up already and is only divided by its full size.
    """

    def __init__(self, num_data: int, data_plate: str = "data") -> None:
        super().__init__()
        self.num_data = num_data
        self.data_plate = data_plate

    def _pyro_sample(self, msg: Any) -> None:
        msg["scale"] = msg["scale"] / self._count(msg["cond_indep_stack"])

    def _count(self, frames: Any) -> int:
        for frame in frames:
            if frame.name == self.data_plate:
                return frame.full_size or frame.size
        return self.num_data


class Tempered(Messenger):
    """Scale the latent sites of model and guide by ``beta``: E log p(x|z) - beta KL(q || p).

    ``beta`` may be a 0-dim tensor that a schedule writes into, and may be 0 (the autoencoder's
    limit). Enumerated sites are not drawn and keep their weight.

    beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework (Higgins et
    al., 2017).
    """

    def __init__(self, beta: Weight) -> None:
        super().__init__()
        self.beta = beta

    def _pyro_sample(self, msg: Any) -> None:
        if is_latent(msg) and not is_enumerated(msg):
            msg["scale"] = msg["scale"] * self.beta


class FreeBits:
    """Let every latent site have ``nats`` of KL for free: KL_site becomes max(KL_site, nats).

    ``model(...)`` and ``guide(...)`` of one instance wrap the two programs of a pair. KL_site is
    log q(z) - log p(z) at the draw, summed as the wrapped programs scale it: in nats per datum
    around programs under ``PerDatum``.

    Improved Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016), arXiv
    1606.04934, eq. 15.
    """

    def __init__(self, nats: float) -> None:
        if nats < 0:
            raise ValueError(f"free bits are nats per latent site and cannot be negative, got {nats}")
        self.nats = nats
        self._log_q: dict[str, Tensor] = {}
        self._kl: dict[str, Tensor] = {}

    def guide(self, program: Callable) -> "Wrapped":
        """Return the guide, recording its latent sites' log-probabilities."""
        return Wrapped(program, lambda: _AfterSample(self._on_guide))

    def model(self, program: Callable) -> "Wrapped":
        """Return the model, followed by a factor min(KL_site - nats, 0) per site."""
        return Wrapped(program, lambda: _AfterSample(self._on_model), self._add_factors)

    def _on_guide(self, msg: Any) -> None:
        if is_latent(msg) and not is_enumerated(msg):
            self._log_q[msg["name"]] = _total(msg)

    def _on_model(self, msg: Any) -> None:
        if is_latent(msg) and msg["name"] in self._log_q:
            self._kl[msg["name"]] = self._log_q.pop(msg["name"]) - _total(msg)

    def _add_factors(self) -> None:
        for name, kl in self._kl.items():
            pyro.factor(f"{name}_free_bits", (kl - self.nats).clamp(max=0.0))
        self._kl.clear()


def _total(msg: Any) -> Tensor:
    """Return a site's scaled log-probability, summed over its plates and averaged over particles."""
    particles = [f.size for f in msg["cond_indep_stack"] if f.name == "num_particles_vectorized"]  # Pyro's own name
    nats = scale_and_mask(msg["fn"].log_prob(msg["value"]), msg["scale"], msg["mask"])
    return nats.sum() / (particles[0] if particles else 1)


class _AfterSample(Messenger):
    def __init__(self, action: Callable[[Any], None]) -> None:
        super().__init__()
        self.action = action

    def _pyro_post_sample(self, msg: Any) -> None:
        self.action(msg)


class Wrapped:
    """A program run inside handlers; ``program`` stays reachable, so that its modules are found."""

    def __init__(
        self,
        program: Callable,
        handler: Callable[[], AbstractContextManager],
        after: Callable[[], None] | None = None,
    ) -> None:
        self.program = program
        self.handler = handler
        self.after = after

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program under a fresh handler."""
        with self.handler():
            result = self.program(*args, **kwargs)
        if self.after is not None:
            self.after()
        return result


def unwrapped(program: Callable) -> Callable:
    """Return the program that handlers were put around."""
    while isinstance(program, Wrapped):
        program = program.program
    return program


def rewrapped(program: Callable, inner: Callable) -> Callable:
    """Return ``inner`` with the handlers that were put around ``program``."""
    if not isinstance(program, Wrapped):
        return inner
    return Wrapped(rewrapped(program.program, inner), program.handler, program.after)
