"""Codes as data of their own: what a pair has learned, for the next pair (M1+M2) or other
programs."""

import io
import os
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import torch
from pyro import poutine
from pyro.distributions import constraints

from pyro_vae.data import SPLITS, Data
from pyro_vae.posterior.latents import centres, latent_vectors, refuse_chain
from pyro_vae.posterior.units import hidden_units
from pyro_vae.posterior.usage import ACTIVE_VARIANCE
from pyro_vae.posterior.words import words
from pyro_vae.program import Batch, Pair, PairError, evaluation, is_latent
from pyro_vae.runs import write_whole

BATCH_SIZE = 2000


def encode(
    pair: Pair,
    data: Data,
    *,
    draws: bool = False,
    idle: bool = False,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> dict[str, np.ndarray]:
    """Return the codes of every split with the data's other fields, as `load_data` takes them.

    Args:
        draws: one draw of q(z | x) per datum, in aggregate near the prior, in place of its
            mean.
        idle: keep the dimensions that are not in use, where q(z | x) is the prior whatever x is.
            Standardised, as the next pair takes them, their means are as large as the others' and
            say nothing.
        seed: of the draws.
        progress: called with the number of data of each finished batch.

    Returns:
        ``x_train``, ``x_valid``, ``x_test``: ``(data, dimensions)``, the model's latent vectors
            side by side, top level first, or ``(data, places)`` whole numbers where they are words
            of a codebook; and the other fields by the same names. Of a model with neither, the
            probabilities of q(k | x), or draws, of its one-hot sites; else p(h = 1 | x), or draws,
            of the hidden units of a Boltzmann machine.

    Raises:
        PairError: the model has neither a continuous latent vector nor a word of codes per datum,
            the guide infers no class, and the model has no hidden units; none of the vector's
            dimensions is in use; they are a long chain; or an option has no effect on such codes.
    """
    few = data.batch("train", 2)
    vectors = latent_vectors(pair, few)
    refuse_chain(vectors)
    sites = list(vectors)
    if not sites and not class_sites(pair, few):
        if words(pair, few):
            _refuse("continuous codes, and these are the numbers of vectors", draws=draws, idle=idle)
        elif hidden_units(pair, few):
            _refuse("continuous codes, and these are the probabilities of hidden units, all kept", idle=idle)
    if not sites:
        return _arrays(data, lambda batch, number: codes_of(pair, batch, draw=draws, seed=seed + number), progress)
    some = centres(pair, data.batch("train", BATCH_SIZE), seed=seed)
    kept = torch.cat([some[site].var(0) for site in sites], -1) > ACTIVE_VARIANCE
    if idle:
        kept = torch.ones_like(kept)
    elif not kept.any():
        raise PairError(
            f"none of the {len(kept)} latent dimensions is in use, so codes say nothing of the data; "
            "train longer or with a smaller --beta, or keep idle dimensions"
        )
    return _arrays(
        data,
        lambda batch, number: codes_of(pair, batch, draw=draws, seed=seed + number if draws else seed)[:, kept],
        progress,
    )


def codes_of(pair: Pair, batch: Batch, *, site: str | None = None, draw: bool = False, seed: int = 0) -> torch.Tensor:
    """Return the codes of one batch, idle dimensions among them: see `encode`.

    Args:
        site: only this latent site.
        draw: one draw per datum, in place of the mean.
        seed: of the draws.

    Raises:
        PairError: the model has no code per datum, or not at this site.
    """
    found = list(latent_vectors(pair, batch)) or class_sites(pair, batch)
    if not found:
        numbers = words(pair, batch) or hidden_units(pair, batch, draw=draw, seed=seed)
        _require_site(site, numbers)
        return torch.cat([*numbers.values()] if site is None else [numbers[site]], -1)
    _require_site(site, found)
    sites = found if site is None else [site]
    if set(sites) & set(class_sites(pair, batch)):
        return _classes(pair, batch, sites, draw, seed)
    values = _drawn(pair, batch, seed) if draw else centres(pair, batch, seed=seed)
    return torch.cat([values[name] for name in sites], -1)


def _require_site(site: str | None, found: Collection[str]) -> None:
    if not found:
        raise PairError(
            "the model has no continuous latent vector per datum and no hidden units, and the guide infers no class, "
            "so data have no code"
        )
    if site is not None and site not in found:
        raise PairError(f"there are no codes at the site {site!r}; there are at {', '.join(map(repr, found))}")


def _refuse(why: str, **options: bool) -> None:
    """Refuse options that codes leave no choice for."""
    for name, given in options.items():
        if given:
            raise PairError(f"{name} is for {why}; leave {name} out")


def kind_of_codes(pair: Pair, batch: Batch, *, draw: bool = False) -> str:
    """Return what `codes_of` returns of a batch, in words."""
    if latent_vectors(pair, batch):
        return "draws of q(z | x)" if draw else "means of q(z | x)"
    what = "draws" if draw else "probabilities"
    if class_sites(pair, batch):
        return f"{what} of classes"
    return "numbers of codebook vectors" if words(pair, batch) else f"{what} of hidden units given x"


def _arrays(
    data: Data, code: Callable[[Batch, int], torch.Tensor], progress: Callable[[int], None] | None
) -> dict[str, np.ndarray]:
    """Return what ``code`` makes of all batches, each with a number of its own, and the other
    fields.
    """
    arrays: dict[str, list[np.ndarray]] = {}
    for number, split in enumerate(SPLITS):
        for i, batch in enumerate(data.batches(split, BATCH_SIZE)):
            arrays.setdefault(f"x_{split}", []).append(code(batch, 1000 * number + i).cpu().numpy())
            for field in batch.keys() - {"x", "seen"}:  # codes have no entry that is missing
                arrays.setdefault(f"{field}_{split}", []).append(batch[field].cpu().numpy())
            if progress is not None:
                progress(len(batch["x"]))
    return {name: np.concatenate(pieces) for name, pieces in arrays.items()}


def class_sites(pair: Pair, batch: Batch) -> list[str]:
    """Return the guide's one-hot latent sites."""
    with evaluation(pair, 0):
        guide = poutine.trace(pair.bound_guide).get_trace(batch)
    one_hot = type(constraints.one_hot)
    return [n for n, s in guide.nodes.items() if is_latent(s) and isinstance(s["fn"].support, one_hot)]


def _classes(pair: Pair, batch: Batch, sites: list[str], draws: bool, seed: int) -> torch.Tensor:
    """Return the probabilities of one-hot sites side by side, or draws."""
    with evaluation(pair, seed):
        nodes = poutine.trace(pair.bound_guide).get_trace(batch).nodes
    return torch.cat([nodes[site]["value"] if draws else nodes[site]["fn"].mean for site in sites], -1)


def write_codes(arrays: dict[str, np.ndarray], out: str | os.PathLike) -> None:
    """Write the codes as one .npz, whole or not at all."""
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]
    write_whole(Path(out), content.getvalue())


def _drawn(pair: Pair, batch: Batch, seed: int) -> dict[str, torch.Tensor]:
    with evaluation(pair, seed):
        return {
            name: site["value"]
            for name, site in poutine.trace(pair.bound_guide).get_trace(batch).nodes.items()
            if site["type"] == "sample"
        }
