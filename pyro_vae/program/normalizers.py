"""Models whose log p(x) is not to be had: those known by their draws alone, and those known up to a
constant that nobody has estimated.
"""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

from pyro_vae.program.declaration import declared
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


def has_density(pair: Pair) -> bool:
    """Return whether a pair gives a datum a probability or density, at least up to a constant; the
    model of an adversarial pair gives draws and no more.
    """
    return "density" in declared(pair.objective).needs or any(True for _ in unnormalized(pair))


def no_density(pair: Pair) -> str:
    """Say why a pair without a density has no log p(x)."""
    return (
        f"{pair.bound_model.name} is known by its draws alone, so x has no log p(x), and no bound on it: judge its "
        "draws, by `pyro-vae diagnose`, `pyro-vae compare` or pyro_vae.density_ratio"
    )


def require_normalized(pair: Pair) -> None:
    """Refuse a pair that has no log p(x), or whose log p(x) lacks a constant that nobody has
    estimated.

    Raises:
        PairError: it is one.
    """
    if not has_density(pair):
        raise PairError(no_density(pair))
    for part in unnormalized(pair):
        if part.log_z is None:
            raise PairError(
                f"log p(x) of a {type(part).__name__} is known up to its normaliser log Z only, which is not estimated "
                "yet: use `with pyro_vae.evidence.normalized(pair):`, or `pyro-vae evaluate`"
            )
