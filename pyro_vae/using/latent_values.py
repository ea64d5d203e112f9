"""Values that users give to a model's sites: codes for `decode`, what is known for `sample`."""

from collections.abc import Mapping
from typing import Any

import pyro.poutine as poutine
from pyro.distributions import constraints
from torch import Tensor
from torch.nn import functional as F

from pyro_vae.distributions import Codebook
from pyro_vae.posterior import latent_vectors
from pyro_vae.program import Batch, PairError, evaluation, innermost, is_latent, is_site, structure
from pyro_vae.using.inputs import Used

HELD = "value of "  # begins the name under which a site's values travel with a batch; no field has a space


def as_sites(read: Used, batch: Batch, codes: Mapping[str, Tensor]) -> Batch:
    """Return codes as values of latent sites, under the names by which they travel with a batch.

    Args:
        read: the pair.
        batch: of stand-ins, as many as there are codes.
        codes: by site; under the name "" all latent vectors side by side, as ``encode`` returns
            them.

    Raises:
        PairError: they do not fit.
    """
    nodes = {name: site for name, site in _sites(read, batch).items() if is_latent(site)}
    if "" in codes:
        codes = _split(codes[""], latent_vectors(read.pair, batch), list(nodes))
    for name in codes:
        if name not in nodes:
            raise PairError(f"the model has no latent site {name!r}; it has {', '.join(map(repr, nodes)) or 'none'}")
    return {HELD + name: _value(name, code, nodes[name], batch) for name, code in codes.items()}


def given_sites(read: Used, batch: Batch, fields: Mapping[str, Any]) -> Batch:
    """Return the values of sites that are given, latent or observed, named as in `as_sites`.

    Raises:
        PairError: a site depends on variables that are not given.
    """
    if not fields:
        return {}
    for node in structure(read.pair, read.pair.bound_model, batch):
        unknown = [name for name in node.parents if name not in fields and name not in batch]
        if node.name in fields and unknown:
            raise PairError(
                f"{node.name} depends on {unknown[0]}, so data given {node.name} need draws of {unknown[0]} given it; "
                f"give {unknown[0]} too, or choose among draws: query(..., given=...)"
            )
    nodes = _sites(read, batch)
    given = {}
    for name, value in fields.items():
        latent = is_latent(nodes[name])
        given[HELD + name] = (
            _value(name, read.array(name, value), nodes[name], batch) if latent else nodes[name]["value"]
        )
    return given


def _sites(read: Used, batch: Batch) -> dict[str, Any]:
    with evaluation(read.pair, 0):
        nodes = poutine.trace(read.pair.bound_model).get_trace(batch).nodes
    return {name: site for name, site in nodes.items() if is_site(site)}


def _split(z: Tensor, sizes: Mapping[str, int], latents: list[str]) -> dict[str, Tensor]:
    """Return latent vectors that lie side by side by site; what else there is at the only site."""
    if not sizes:
        if len(latents) != 1:
            raise PairError(f"the model has the latent sites {', '.join(map(repr, latents))}; give z by site")
        return {latents[0]: z}
    total = sum(sizes.values())
    if z.dim() != 2 or z.shape[1] != total:
        told = ", ".join(f"{name} of {size}" for name, size in sizes.items())
        raise PairError(f"z has shape {tuple(z.shape)}, and codes are (data, {total}): {told}")
    return dict(zip(sizes, z.split([*sizes.values()], 1), strict=True))


def _value(name: str, value: Tensor, site: Mapping[str, Any], batch: Batch) -> Tensor:
    """Return one site's value: whole numbers as classes or codes where the site is of these."""
    fn, size, value = site["fn"], len(batch["x"]), value.to(batch["x"].device)
    shape = tuple(fn.event_shape)
    whole = not value.is_floating_point()
    if whole and isinstance(fn.support, type(constraints.one_hot)):
        value, found = value.long().expand(size) if value.dim() == 0 else value.long(), shape[-1]
        if value.numel() and not 0 <= int(value.min()) <= int(value.max()) < found:
            raise PairError(f"{name} has the classes 0 to {found - 1}, and {int(value.max())} is given")
        return F.one_hot(value, found).to(site["value"].dtype)
    if whole and isinstance(book := innermost(fn), Codebook):
        return book.words(value.long())
    value = value.to(site["value"].dtype)
    if value.dim() == len(shape):
        value = value.expand(size, *value.shape)
    if tuple(value.shape) != (size, *shape):
        raise PairError(f"{name} has shape {tuple(value.shape)}, and its values are {(size, *shape)}")
    return value
