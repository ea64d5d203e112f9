"""Hidden units that a model's own density has, as codes: a Boltzmann machine's."""

import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.distributions import Boltzmann
from pyro_vae.program import Batch, Pair, evaluation, innermost, is_data


def hidden_units(pair: Pair, batch: Batch, *, draw: bool = False, seed: int = 0) -> dict[str, Tensor]:
    """Return p(h = 1 | x), ``(batch, hidden)``, of every observed site that is a Boltzmann machine,
    by site; or draws, 0 or 1.
    """
    with evaluation(pair, seed):
        nodes = poutine.trace(pair.bound_model).get_trace(batch).nodes
        found = {
            name: innermost(site["fn"]).energy.hidden_given(site["value"])
            for name, site in nodes.items()
            if is_data(site) and isinstance(innermost(site["fn"]), Boltzmann)
        }
        return {name: torch.bernoulli(p) if draw else p for name, p in found.items()}
