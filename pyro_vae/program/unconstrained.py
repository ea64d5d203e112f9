"""The latent variables of each datum as one real vector, and the model as a density over it.

What samplers, grids and refinements work on. A datum's continuous latent sites are mapped to unconstrained space and laid side by
side: ``u`` is ``(particles, batch, size)``. Sites that only the model has, and enumerates, are summed out.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyro
import pyro.poutine as poutine
import torch
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import Transform, biject_to, constraints
from torch.distributions.constraints import Constraint, MixtureSameFamilyConstraint

from pyro_vae.program.handlers import is_deterministic, is_enumerated, is_factor, is_latent, is_site, uncondition
from pyro_vae.program.pair import Batch, Pair, PairError
from pyro_vae.program.particle_plate import particles
from pyro_vae.program.weights import add_up, data_frame, plate_nesting, size_of, takes_particles

LARGEST_EXACT = 2**24  # whole numbers that single precision holds


class Site(NamedTuple):
    """How one latent site sits in ``u``."""

    shape: tuple[int, ...]  # of the unconstrained value, without particles
    data_dim: int  # where the data are in that shape, from the left
    transform: Any  # unconstrained -> value
    size: int  # numbers a datum
    event_dim: int  # of the unconstrained value


@dataclass(frozen=True)
class Latents:
    """The latent space of a pair on one batch; make it with ``latents_of``."""

    pair: Pair
    batch: Batch
    nesting: int
    sites: Mapping[str, Site]
    summed: frozenset[str]  # discrete sites that the guide enumerates: summed out of p and of q
    dtype: torch.dtype  # of ``u``

    @property
    def data(self) -> int:
        """Number of data."""
        return size_of(self.batch)

    @property
    def size(self) -> int:
        """Length of a datum's vector."""
        return sum(site.size for site in self.sites.values())

    def from_guide(self, num_samples: int) -> Tensor:
        """Draw ``u`` from q: ``(num_samples, batch, size)``."""
        return self.pack(
            poutine.trace(particles(self.pair.bound_guide, num_samples, self.nesting)).get_trace(self.batch)
        )

    def from_prior(self, num_samples: int) -> Tensor:
        """Draw ``u`` from p: ``(num_samples, batch, size)``."""
        fresh = uncondition(particles(self.pair.bound_model, num_samples, self.nesting))
        return self.pack(poutine.trace(fresh).get_trace(self.batch))

    def values(self, u: Tensor) -> dict[str, Tensor]:
        """Return the value of each site, as its program would draw it."""
        result = {}
        start = 0
        for name, site in self.sites.items():
            part = u[..., start : start + site.size]
            start += site.size
            moved = (*site.shape[: site.data_dim], *site.shape[site.data_dim + 1 :])
            result[name] = site.transform(part.reshape(*u.shape[:2], *moved).movedim(1, 1 + site.data_dim))
        return result

    def log_densities(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return log p(u) and log p(x | u), each ``(particles, batch)``, the first with the Jacobian of the map to ``u``."""
        prior, parts = self._parts(u)
        likelihood = torch.zeros_like(prior)
        for name, term in parts.items():
            inside = set(name.split(","))
            if inside <= self.sites.keys():
                prior = prior + term
            elif inside & self.sites.keys():
                both = ", ".join(sorted(inside & self.sites.keys()))
                raise PairError(
                    f"site {both!r} depends on enumerated sites, so its prior alone is not known; draw them in the guide"
                )
            else:
                likelihood = likelihood + term
        return prior, likelihood

    def log_joint(self, u: Tensor) -> Tensor:
        """Return log p(x, u): ``(particles, batch)``."""
        jacobian, parts = self._parts(u)
        return torch.stack(torch.broadcast_tensors(jacobian, *parts.values())).sum(0)

    def _parts(self, u: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The log Jacobian, and the log-probability of each site of the model with its latent sites at ``u``."""
        values = self.values(u)
        fixed = poutine.condition(self.pair.bound_model, data=values)
        fixed = poutine.infer_config(fixed, self._enumerates)
        program = poutine.enum(particles(fixed, len(u), self.nesting), first_available_dim=-self.nesting - 2)
        model = poutine.trace(program).get_trace(self.batch)
        return self.log_jacobian(u, values), add_up(self.pair, Trace(), model, len(u), self.data, self.nesting).sites

    def log_q(self, u: Tensor) -> Tensor:
        """Return the guide's log q(u | x): ``(particles, batch)``; of guides without auxiliary sites. Its factors are no density."""
        values = self.values(u)
        fixed = poutine.block(poutine.condition(self.pair.bound_guide, data=values), hide_fn=is_factor)
        program = particles(fixed, len(u), self.nesting)
        if self.summed:
            program = poutine.enum(program, first_available_dim=-self.nesting - 2)
        guide = poutine.trace(program).get_trace(self.batch)
        parts = add_up(self.pair, Trace(), guide, len(u), self.data, self.nesting).sites
        return torch.stack(list(parts.values())).sum(0) + self.log_jacobian(u, values)

    def _enumerates(self, site: Mapping) -> dict[str, str]:
        return {"enumerate": "parallel"} if site["name"] in self.summed else {}

    def log_jacobian(self, u: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """Return log |d values / d u|, ``(particles, batch)``; ``values`` as of ``u``."""
        total = torch.zeros(u.shape[:2], dtype=u.dtype, device=u.device)
        start = 0
        for name, site in self.sites.items():
            part = u[..., start : start + site.size]
            start += site.size
            moved = (*site.shape[: site.data_dim], *site.shape[site.data_dim + 1 :])
            raw = part.reshape(*u.shape[:2], *moved).movedim(1, 1 + site.data_dim)
            jacobian = site.transform.log_abs_det_jacobian(raw, values[name])
            total = (
                total + jacobian.movedim(1 + site.data_dim, 1).flatten(2).sum(-1)
                if jacobian.dim() > 2
                else total + jacobian
            )
        return total

    def pack(self, trace: Trace) -> Tensor:
        """Return the ``u`` of a trace with particles: ``(particles, batch, size)``."""
        parts = []
        for name, site in self.sites.items():
            raw = site.transform.inv(trace.nodes[name]["value"].detach())
            raw = raw.reshape((1,) * (len(site.shape) + 1 - raw.dim()) + raw.shape)
            raw = raw.expand(raw.shape[0], *site.shape)
            parts.append(raw.movedim(1 + site.data_dim, 1).flatten(2) if raw.dim() > 2 else raw.unsqueeze(-1))
        return torch.cat(parts, -1)


def latents_of(pair: Pair, batch: Batch, *, marginal: bool = False) -> Latents:
    """Look at a pair's latent sites on a batch.

    Args:
        marginal: discrete sites that the guide enumerates are summed out of p and q, and not refused.

    Raises:
        PairError: where they are not continuous, lie outside the data plate, or the programs take no particles.
    """
    nesting = plate_nesting(pair, batch)
    if not takes_particles(pair, batch, nesting):
        raise PairError(
            f"{pair.bound_model.name} or {pair.bound_guide.name} fails, or gives other values, with particles on the left of its "
            "plates, which this method needs; let it take any leading dimensions and count from the right, dim=-1"
        )
    with torch.no_grad(), torch.random.fork_rng():
        guide = poutine.trace(particles(pair.bound_guide, 2, nesting)).get_trace(batch)
        model = poutine.trace(poutine.replay(particles(pair.bound_model, 2, nesting), trace=guide)).get_trace(batch)
    sites = {}
    summed = set()
    dtype = torch.float32
    for name, node in model.nodes.items():
        if not is_latent(node):
            continue
        if name not in guide.nodes:
            if node["infer"].get("enumerate"):
                continue
            raise PairError(f"guide {pair.bound_guide.name} does not sample latent site {name!r}; add it to the guide")
        support = node["fn"].support
        if support.is_discrete and marginal and is_enumerated(guide.nodes[name]):
            summed.add(name)
            continue
        if support.is_discrete:
            raise PairError(f"site {name!r} is discrete, and this method needs continuous latent variables")
        frame = data_frame(node, pair)
        if frame is None:
            raise PairError(f"site {name!r} lies outside the plate {pair.data_plate!r}, so no datum has it for itself")
        transform = _bijection(name, support)
        with torch.no_grad():
            raw = transform.inv(guide.nodes[name]["value"])
        dtype = torch.promote_types(dtype, raw.dtype)
        event_dim = node["fn"].event_dim
        sizes = {f.dim: f.size for f in node["cond_indep_stack"] if f.vectorized}
        lead = [sizes.get(dim, 1) for dim in range(-nesting, 0)]
        shape = (*lead, *raw.shape[raw.dim() - event_dim :])
        data_dim = nesting + frame.dim
        sites[name] = Site(shape, data_dim, transform, math.prod(shape) // shape[data_dim], event_dim)
    if not sites:
        raise PairError(f"{pair.bound_model.name} has no continuous latent variable, which this method needs")
    return Latents(pair, batch, nesting, sites, frozenset(summed), dtype)


def _bijection(name: str, support: Constraint) -> Transform:
    """Return the map from unconstrained space to a support; a mixture has that of its components.

    Raises:
        PairError: where there is none, or the components of a mixture have bounds of their own.
    """
    base, mixed = support, False
    while isinstance(base, MixtureSameFamilyConstraint | constraints.independent):
        mixed = mixed or isinstance(base, MixtureSameFamilyConstraint)
        base = base.base_constraint
    if mixed and any(isinstance(bound, Tensor) and bound.dim() for bound in vars(base).values()):
        raise PairError(f"site {name!r} is a mixture whose components have bounds of their own; give them one support")
    try:
        return biject_to(base if mixed else support)
    except NotImplementedError as error:
        raise PairError(f"site {name!r} has support {support}, which no map from real numbers is known for") from error


def simulate(pair: Pair, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Draw latent values and data from the model: the latent sites' values, and a batch with the observed fields replaced.

    Raises:
        PairError: when the model cannot be run without its data.
    """
    try:
        given = poutine.trace(pair.bound_model).get_trace(batch)
        drawn = poutine.trace(uncondition(pair.bound_model)).get_trace(batch)
    except (RuntimeError, ValueError, TypeError, AttributeError, NotImplementedError, KeyError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PairError(
            f"{pair.bound_model.name} cannot be simulated: {first}; let it draw its observed sites"
        ) from error
    replaced = dict(batch)
    latent = {}
    for name, site in drawn.nodes.items():
        if not is_site(site) or is_deterministic(site) or is_factor(site):
            continue
        if not given.nodes[name]["is_observed"]:
            latent[name] = site["value"]
            continue
        field, index = _origin(pair, batch, name, given.nodes[name]["value"])
        new = site["value"].detach().to(batch[field].dtype)
        whole = replaced[field].flatten().clone()
        whole[index] = new.flatten()
        replaced[field] = whole.reshape(batch[field].shape)
    return replaced, latent


def _origin(pair: Pair, batch: Batch, name: str, value: Tensor) -> tuple[str, Tensor]:
    """Return the field that an observed site reads, and which of its numbers, in the site's order.

    A model may observe a part of a field, or all of it in another order. So it is run on a field that holds the numbers 0, 1, 2 ...:
    those that the site then observes are the places of what it reads.
    """
    for field, tensor in batch.items():
        if tensor is value:
            return field, torch.arange(tensor.numel(), device=tensor.device)
    for field, tensor in batch.items():
        if not tensor.is_floating_point() or tensor.numel() > LARGEST_EXACT:
            continue
        numbers = torch.arange(tensor.numel(), device=tensor.device)
        numbered = {**batch, field: numbers.to(tensor.dtype).reshape(tensor.shape)}
        try:
            with pyro.validation_enabled(False):
                seen = poutine.trace(pair.bound_model).get_trace(numbered).nodes[name]["value"].flatten()
        except (RuntimeError, ValueError, TypeError, IndexError, KeyError):
            continue  # a model that cannot take such numbers
        index = seen.round().long()
        inside = bool(((index >= 0) & (index < len(numbers))).all()) and len(index.unique()) == len(index)
        if inside and torch.equal(tensor.flatten()[index].to(value.dtype), value.flatten()):
            return field, index
    raise PairError(
        f"{pair.bound_model.name} cannot be simulated: its observed site {name!r} is no part of a field of the batch "
        f"({', '.join(batch)}) as it stands; give the site a field of its own"
    )
