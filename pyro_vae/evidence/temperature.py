"""How soft a q over codes should be: the temperature with the best ELBO on held-out data."""

from pyro_vae.evidence.estimate import elbo
from pyro_vae.posterior import at_temperature, temperatures
from pyro_vae.program import Batch, Pair


def best_temperature(pair: Pair, batch: Batch, *, num_samples: int = 8, seed: int = 0) -> float:
    """Return the temperature at which q(codes | x) has the best ELBO; 0 where the nearest code has.

    A point says less than it could of log p(x): its ELBO counts a single word, and its draws have
    no weights. Choose on the validation split, and evaluate on another:
    ``with at_temperature(pair, best_temperature(pair, valid)): evaluate(pair, data)``.

    Args:
        pair: whose guide chooses codes.
        batch: to choose on.
        num_samples: draws per datum.
        seed: of the draws.

    Raises:
        PairError: the pair chooses no codes.
    """

    def reached(temperature: float) -> float:
        with at_temperature(pair, temperature):
            return elbo(pair, batch, num_samples=num_samples if temperature else 1, seed=seed).elbo

    return max([0.0, *temperatures(pair, batch)], key=reached)
