"""Pairs of many latent sites or states: how many data and draws go together, how sites are told.

A chain of a hundred levels draws a hundred vectors where others draw one. What is spent on a datum
is kept, so it is run with fewer draws, fewer data at a time, and a table of a few groups. A sum of
a hundred states has a hundred terms, and fewer data at a time too.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain

import pyro.poutine as poutine
from torch import Tensor

from pyro_vae.program import Batch, Pair, batches, evaluation, is_enumerated, is_latent, is_site, pieces, size_of

FEW = 8  # latent sites up to which each is told by name, drawn as often as asked, and refined
STATES = 16  # of a summed site, up to which as many data go together as otherwise
GROUPS = 10  # that more of them are told in
_NUMBERED = re.compile(r"(.*?)(\d+)")


def latent_sites(pair: Pair, batch: Batch) -> int:
    """Return the number of the guide's latent sites; 0 where it does not run: others say why."""
    pair.begin(batch)
    try:
        with evaluation(pair, 0):  # all of the batch: an autoguide is made for the first data that it sees
            nodes = poutine.trace(pair.bound_guide).get_trace(batch).nodes
    except Exception:
        return 0
    return sum(is_site(site) and is_latent(site) for site in nodes.values())


def draws_for(sites: int, usual: int, least: int = 1) -> int:
    """Return how many draws per datum of so many sites cost what ``usual`` draws of one do.

    >>> draws_for(2, 5000), draws_for(100, 5000), draws_for(100, 16)
    (5000, 50, 1)
    """
    return usual if sites <= FEW else max(least, usual // sites)


def in_pieces(pair: Pair, data: Batch | Iterable[Batch], rows: int) -> Iterator[dict[str, Tensor]]:
    """Yield data in pieces of ``rows``, or of fewer, see `rows_together`."""
    rest = (batch for batch in batches(data) if size_of(batch))
    for first in rest:
        yield from pieces(chain([first], rest), rows_together(pair, first, rows))


def rows_together(pair: Pair, batch: Batch, rows: int) -> int:
    """Return how many data go together: ``rows``, or fewer where a run keeps many latent vectors or
    sums over many states.
    """
    sites = latent_sites(pair, batch)
    if sites > FEW:
        return max(1, rows * FEW // sites)
    return max(1, min(rows, rows * STATES // _most_states(pair, batch)))


def _most_states(pair: Pair, batch: Batch) -> int:
    """Return the number of states of the summed site that has most; 1 without one, and where the
    programs do not run.
    """
    few = {name: tensor[:2] for name, tensor in batch.items()}
    most = 1
    for program in (pair.bound_guide, pair.bound_model):
        try:
            with evaluation(pair, 0):
                nodes = poutine.trace(program).get_trace(few).nodes
        except Exception:
            continue
        summed = (site["fn"] for site in nodes.values() if is_site(site) and is_enumerated(site))
        most = max([most, *(len(fn.enumerate_support(expand=False)) for fn in summed)])
    return most


def folded(sites: Mapping[str, float]) -> dict[str, float]:
    """Return what sites add, with long runs of numbered names in groups: ``z1 ... z1000`` in ten.

    >>> folded({f"z{n}": 1.0 for n in range(1, 101)} | {"x": 2.0})["z11 ... z20"]
    10.0
    """
    runs: dict[str, list[int]] = {}
    for name in sites:
        if (match := _NUMBERED.fullmatch(name)) and str(int(match[2])) == match[2]:
            runs.setdefault(match[1], []).append(int(match[2]))
    runs = {stem: sorted(numbers) for stem, numbers in runs.items() if len(numbers) > FEW}
    found: dict[str, float] = {}
    for name, value in sites.items():
        match = _NUMBERED.fullmatch(name)
        numbers = runs.get(match[1], []) if match else []
        if not match or int(match[2]) not in numbers:
            found[name] = value
            continue
        size = -(-len(numbers) // GROUPS)
        start = numbers.index(int(match[2])) // size * size
        group = numbers[start : start + size]
        label = f"{match[1]}{group[0]} ... {match[1]}{group[-1]}" if len(group) > 1 else name
        found[label] = found.get(label, 0.0) + value
    return found
