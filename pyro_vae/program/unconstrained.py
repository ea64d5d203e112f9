"""The latent variables of each datum as one real vector, and the model as its density.

What samplers, grids and refinements work on. A datum's continuous latent sites are mapped to
unconstrained space and laid side by side: ``u`` is ``(particles, batch, size)``. Sites that only
the model has, and enumerates, are summed out.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyro
import pyro.poutine as poutine
import torch
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import Transform, biject_to, constraints
from torch.distributions.constraints import Constraint, MixtureSameFamilyConstraint

from pyro_vae.program.handlers import uncondition
from pyro_vae.program.pair import Batch, Pair, PairError, size_of
from pyro_vae.program.particle_plate import particles
from pyro_vae.program.sites import is_enumerated, is_factor, is_latent, samples
from pyro_vae.program.tracing import trace_of, trace_pair
from pyro_vae.program.weights import add_up, data_frame, plate_nesting, takes_particles

LARGEST_EXACT = 2**24  # whole numbers that single precision holds


class Site(NamedTuple):
    """How one latent site sits in ``u``."""

    shape: tuple[int, ...]  # of the unconstrained value, without particles
    data_dim: int  # where the data are in that shape, from the left
    transform: Any  # unconstrained -> value
    size: int  # numbers per datum
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
        """The number of data."""
        return size_of(self.batch)

    @property
    def size(self) -> int:
        """Length of a datum's vector."""
        return sum(site.size for site in self.sites.values())

    def from_guide(self, num_samples: int) -> Tensor:
        """Draw ``u`` from q: ``(num_samples, batch, size)``."""
        return self.pack(trace_of(particles(self.pair.bound_guide, num_samples, self.nesting), self.batch))

    def from_prior(self, num_samples: int) -> Tensor:
        """Draw ``u`` from p: ``(num_samples, batch, size)``."""
        fresh = uncondition(particles(self.pair.bound_model, num_samples, self.nesting))
        return self.pack(trace_of(fresh, self.batch))

    def values(self, u: Tensor) -> dict[str, Tensor]:
        """Return the value of each site, as its program would draw it."""
        return {name: site.transform(raw) for name, site, raw in self._raw(u)}

    def _raw(self, u: Tensor) -> Iterator[tuple[str, Site, Tensor]]:
        """Yield each site with its part of ``u``, in the shape of its unconstrained value."""
        start = 0
        for name, site in self.sites.items():
            part = u[..., start : start + site.size]
            start += site.size
            others = (*site.shape[: site.data_dim], *site.shape[site.data_dim + 1 :])
            yield name, site, part.reshape(*u.shape[:2], *others).movedim(1, 1 + site.data_dim)

    def log_densities(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return log p(u), with the Jacobian of the map, and log p(x | u), each ``(particles,
        batch)``.
        """
        prior, parts = self._parts(u)
        likelihood = torch.zeros_like(prior)
        for name, term in parts.items():
            inside = set(name.split(","))
            if inside <= self.sites.keys():
                prior = prior + term
            elif inside & self.sites.keys():
                both = ", ".join(sorted(inside & self.sites.keys()))
                raise PairError(
                    f"site {both!r} depends on enumerated sites, so its prior alone is not known; draw them "
                    "in the guide"
                )
            else:
                likelihood = likelihood + term
        return prior, likelihood

    def log_joint(self, u: Tensor) -> Tensor:
        """Return log p(x, u): ``(particles, batch)``."""
        jacobian, parts = self._parts(u)
        return torch.stack(torch.broadcast_tensors(jacobian, *parts.values())).sum(0)

    def _parts(self, u: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the log Jacobian, and the log-probability of each of the model's sites at ``u``."""
        values = self.values(u)
        fixed = poutine.condition(self.pair.bound_model, data=values)
        fixed = poutine.infer_config(fixed, self._enumerates)
        program = poutine.enum(particles(fixed, len(u), self.nesting), first_available_dim=-self.nesting - 2)
        model = trace_of(program, self.batch)
        return self.log_jacobian(u, values), add_up(self.pair, Trace(), model, len(u), self.data, self.nesting).sites

    def log_q(self, u: Tensor) -> Tensor:
        """Return log q(u | x), ``(particles, batch)``, without factors; for guides without
        auxiliary sites.
        """
        values = self.values(u)
        fixed = poutine.block(poutine.condition(self.pair.bound_guide, data=values), hide_fn=is_factor)
        program = particles(fixed, len(u), self.nesting)
        if self.summed:
            program = poutine.enum(program, first_available_dim=-self.nesting - 2)
        guide = trace_of(program, self.batch)
        parts = add_up(self.pair, Trace(), guide, len(u), self.data, self.nesting).sites
        return torch.stack(list(parts.values())).sum(0) + self.log_jacobian(u, values)

    def _enumerates(self, site: Mapping) -> dict[str, str]:
        return {"enumerate": "parallel"} if site["name"] in self.summed else {}

    def log_jacobian(self, u: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """Return log |d values / d u|, ``(particles, batch)``; ``values`` as of ``u``."""
        total = torch.zeros(u.shape[:2], dtype=u.dtype, device=u.device)
        for name, site, raw in self._raw(u):
            jacobian = site.transform.log_abs_det_jacobian(raw, values[name])
            inner = jacobian.dim() > 2  # plates inside the data's
            total = total + (jacobian.movedim(1 + site.data_dim, 1).flatten(2).sum(-1) if inner else jacobian)
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
        marginal: discrete sites that the guide enumerates are summed out of p and q, and not
            refused.

    Raises:
        PairError: where they are not continuous, lie outside the data plate, or the programs take
            no particles.
    """
    nesting = plate_nesting(pair, batch)
    if not takes_particles(pair, batch, nesting):
        raise PairError(
            f"{pair.bound_model.name} or {pair.bound_guide.name} fails, or gives other values, with "
            "particles on the left of its "
            "plates, which this method needs; let it take any leading dimensions and count from the right, dim=-1"
        )
    with torch.no_grad(), torch.random.fork_rng(), pair.evaluating():
        guide, model = trace_pair(*(particles(p, 2, nesting) for p in (pair.bound_guide, pair.bound_model)), batch)
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
        discrete = node["fn"].support.is_discrete
        if discrete and marginal and is_enumerated(guide.nodes[name]):
            summed.add(name)
            continue
        if discrete:
            raise PairError(f"site {name!r} is discrete, and this method needs continuous latent variables")
        sites[name], kind = _layout(pair, node, guide.nodes[name]["value"], nesting)
        dtype = torch.promote_types(dtype, kind)
    if not sites:
        raise PairError(f"{pair.bound_model.name} has no continuous latent variable, which this method needs")
    return Latents(pair, batch, nesting, sites, frozenset(summed), dtype)


def _layout(pair: Pair, node: Mapping, value: Tensor, nesting: int) -> tuple[Site, torch.dtype]:
    """Return how a continuous latent site sits in ``u``, and the dtype of its unconstrained value."""
    frame = data_frame(node, pair)
    if frame is None:
        raise PairError(
            f"site {node['name']!r} lies outside the plate {pair.data_plate!r}, so no datum has one of its own"
        )
    transform = _bijection(node["name"], node["fn"].support)
    with torch.no_grad():
        raw = transform.inv(value)
    event_dim = node["fn"].event_dim
    sizes = {f.dim: f.size for f in node["cond_indep_stack"] if f.vectorized}
    lead = [sizes.get(dim, 1) for dim in range(-nesting, 0)]
    shape = (*lead, *raw.shape[raw.dim() - event_dim :])
    data_dim = nesting + frame.dim
    return Site(shape, data_dim, transform, math.prod(shape) // shape[data_dim], event_dim), raw.dtype


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
    """Draw from the model: latent values, and a batch with the observed fields replaced.

    Raises:
        PairError: when the model cannot be run without its data.
    """
    try:
        given, drawn = trace_of(pair.bound_model, batch), trace_of(uncondition(pair.bound_model), batch)
    except (RuntimeError, ValueError, TypeError, AttributeError, NotImplementedError, KeyError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PairError(
            f"{pair.bound_model.name} cannot be simulated: {first}; let it draw its observed sites"
        ) from error
    replaced = dict(batch)
    latent = {}
    for name, site in samples(drawn).items():
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

    A model may observe a part of a field, or all of it in another order. So it is run on a field
    that holds the numbers 0, 1, 2 ...: those that the site then observes are the places of what it
    reads.
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
                seen = trace_of(pair.bound_model, numbered).nodes[name]["value"].flatten()
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
