"""Models that are known up to a constant: which parts of a pair they are, and when it is unknown."""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

from pyro_vae.program.pair import Pair, PairError


@runtime_checkable
class Unnormalized(Protocol):
    """A module whose density lacks a constant log Z until it is estimated.

    Attributes:
        log_z: for the parameters as they are; None while it is unknown.
    """

    log_z: float | None

    def anneal(self, *, temperatures: int, chains: int) -> Any:
        """Return an estimate of log Z, with ``lower``, ``upper``, ``stderr`` and ``ess``."""


def unnormalized(pair: Pair) -> Iterator[Unnormalized]:
    """Yield the parts of a pair whose density lacks a constant."""
    for module in pair.modules().values():
        for part in module.modules():
            if isinstance(part, Unnormalized):
                yield part


def require_normalized(pair: Pair) -> None:
    """Refuse a pair whose log p(x) lacks a constant that nobody has estimated.

    Raises:
        PairError: it does.
    """
    for part in unnormalized(pair):
        if part.log_z is None:
            raise PairError(
                f"log p(x) of a {type(part).__name__} is known up to its normaliser log Z only, which is not estimated "
                "yet: use `with pyro_vae.evidence.normalized(pair):`, or `pyro-vae evaluate`"
            )
