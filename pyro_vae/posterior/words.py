"""Latents that are words of codes: which codes data have, how many are in use, and a softer q."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae.conditionals import Quantize
from pyro_vae.distributions import Codebook, distances
from pyro_vae.program import Batch, Pair, PairError, evaluation, innermost, is_latent, trace_pair

WIDTHS = (0.03, 0.1, 0.3, 1.0, 3.0)  # temperatures tried, relative to the distance between best and second code


class CodeUse(NamedTuple):
    """How a split uses a codebook; counts are of all data and places."""

    codes: int  # in the codebook
    used: int  # by at least one datum
    perplexity: float  # exp of the entropy of the codes' frequencies, 1 to ``codes``
    by_place: list[float]  # the perplexity at each place


def codebooks(pair: Pair, batch: Batch) -> dict[str, Codebook]:
    """Return the prior of every latent site that is a word of codes, in the model's order."""
    with evaluation(pair, 0):
        model = poutine.trace(pair.bound_model).get_trace({name: field[:2] for name, field in batch.items()})
    return _codebooks(model)


def _codebooks(model: Trace) -> dict[str, Codebook]:
    sites = {name: innermost(site["fn"]) for name, site in model.nodes.items() if is_latent(site)}
    return {name: fn for name, fn in sites.items() if isinstance(fn, Codebook)}


def words(pair: Pair, batch: Batch) -> dict[str, Tensor]:
    """Return the codes of each datum, nearest to what the guide says: long, ``(batch, places)``."""
    with evaluation(pair, 0), at_temperature(pair, 0.0):
        guide, model = trace_pair(pair.bound_guide, pair.bound_model, batch)
    known = {name: fn for name, fn in _codebooks(model).items() if name in guide.nodes}
    return {name: fn.codes(model.nodes[name]["value"]) for name, fn in known.items()}


def code_use(pair: Pair, batches: Iterable[Batch]) -> dict[str, CodeUse]:
    """Return how data use every codebook of a pair, by latent site; empty where there is none.

    Of a single batch it would say little: codes that a batch leaves out may be common.
    """
    counts: dict[str, Tensor] = {}  # (places, codes)
    sizes: dict[str, int] | None = None
    for batch in batches:
        if sizes is None:
            sizes = {name: fn.num_codes for name, fn in codebooks(pair, batch).items()}
        if not sizes:
            return {}
        for name, codes in words(pair, batch).items():
            places = torch.arange(codes.shape[1], device=codes.device)
            flat = torch.bincount((places * sizes[name] + codes).flatten(), minlength=codes.shape[1] * sizes[name])
            mine = flat.reshape(-1, sizes[name]).cpu()
            counts[name] = counts[name] + mine if name in counts else mine
    return {
        name: CodeUse(
            sizes[name] if sizes else 0,
            int((count.sum(0) > 0).sum()),
            _perplexity(count.sum(0)).item(),
            _perplexity(count).tolist(),
        )
        for name, count in counts.items()
    }


def _perplexity(counts: Tensor) -> Tensor:
    """Return exp of the entropy of frequencies along the last dim."""
    share = counts.double() / counts.sum(-1, keepdim=True)
    return torch.special.entr(share).sum(-1).exp()


def use_in_words(site: str, use: CodeUse) -> str:
    """Return a sentence's worth of how codes are used.

    >>> use_in_words("z", CodeUse(16, 15, 11.24, [9.1, 12.3]))
    '15 of 16 codes of z are in use, perplexity 11.2 (9.1 to 12.3 at single places)'
    """
    inner = f" ({min(use.by_place):.1f} to {max(use.by_place):.1f} at single places)" if len(use.by_place) > 1 else ""
    return f"{use.used} of {use.codes} codes of {site} are in use, perplexity {use.perplexity:.1f}{inner}"


@contextmanager
def at_temperature(pair: Pair, temperature: float) -> Iterator[None]:
    """Let guides that choose codes draw them from softmax(-distance^2 / ``temperature``) inside;
    0 for the nearest, as in training.

    Raises:
        PairError: the pair chooses no codes and ``temperature`` is above 0.
        ValueError: ``temperature`` is negative.
    """
    if not temperature >= 0:
        raise ValueError(f"temperature must be a number, 0 or more, got {temperature}")
    heads = [part for module in pair.modules().values() for part in module.modules() if isinstance(part, Quantize)]
    if temperature and not heads:
        raise PairError(
            f"temperature {temperature:g} is of a guide that chooses codes, and this pair's guide chooses none; "
            "leave it out"
        )
    before = [head.temperature for head in heads]
    for head in heads:
        head.temperature = temperature
    try:
        yield
    finally:
        for head, own in zip(heads, before, strict=True):
            head.temperature = own


def temperatures(pair: Pair, batch: Batch) -> list[float]:
    """Return temperatures to choose from: multiples of the mean difference between the squared
    distances to the nearest code and to the one after it.

    Raises:
        PairError: the pair chooses no codes.
    """
    heads = [part for module in pair.modules().values() for part in module.modules() if isinstance(part, Quantize)]
    if not heads:
        raise PairError("a temperature is of a guide that chooses codes, and this pair's guide chooses none")
    with evaluation(pair, 0):
        head = heads[0]
        two = distances(head.prior.vectors, head.outputs(batch["x"])).topk(2, largest=False).values
        gap = (two[..., 1] - two[..., 0]).mean().item()
    return [width * gap for width in WIDTHS]
