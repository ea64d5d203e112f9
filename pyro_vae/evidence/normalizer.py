"""log Z of models that are known up to it, estimated from below and above."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pyro_vae.distributions import LogZ
from pyro_vae.program import Pair, PairError, unnormalized

__all__ = ["TEMPERATURES", "normalized"]

TEMPERATURES = 1000
CHAINS = 100


@contextmanager
def normalized(
    pair: Pair, *, temperatures: int = TEMPERATURES, chains: int = CHAINS, seed: int = 0
) -> Iterator[LogZ | None]:
    """Give a pair, inside, the log Z that its model lacks, and yield it; None if it lacks none.

    By annealed importance sampling: log Z errs low on average, and log p(x) so errs high, without
    any sign of it but the bound from the other side.

    Args:
        temperatures: between independent pixels and the model; up to 10,000 for figures to report.
        chains: independent ones.
        seed: of the draws; the global random state is left as it was.

    Raises:
        ValueError: there are no temperatures or no chains.
        PairError: the pair lacks several constants.
    """
    parts = list(unnormalized(pair))
    if len(parts) > 1:
        raise PairError(f"the pair lacks {len(parts)} normalisers, of which each would have to be known for one x")
    if not parts:
        yield None
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        found = parts[0].anneal(temperatures=temperatures, chains=chains)
    before, parts[0].log_z = parts[0].log_z, found.lower
    try:
        yield found
    finally:
        parts[0].log_z = before
