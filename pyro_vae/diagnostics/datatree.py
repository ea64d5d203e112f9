"""A pair's posterior for ArviZ: an ``xarray.DataTree`` for any Pyro model and guide, VAE or not.

Draws are independent, so they are stored as one chain: R-hat and effective sample size say nothing
about them, k-hat does. Latent sites come from the guide. Those that only the model has, and
enumerates, are summed out: they are in the prior and in neither the posterior nor the
log-likelihood.
"""

import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import pyro
import pyro.poutine as poutine
import torch
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae.evidence import khat_of_tail, tail_size
from pyro_vae.program import (
    PARTICLES,
    Batch,
    Pair,
    PairError,
    Runs,
    Verbs,
    add_up,
    data_frame,
    evaluation,
    event_dim_of,
    has_density,
    is_data,
    is_deterministic,
    is_factor,
    is_latent,
    is_site,
    log_prob,
    no_density,
    one_batch,
    pair_and_data,
    particles,
    per_datum,
    plate_nesting,
    run,
    stacking,
    uncondition,
)

if TYPE_CHECKING:
    from xarray import Dataset, DataTree

MAX_DECODED = 8192  # draws times data that are decoded at a time
RESERVED = ("chain", "draw", "sample")  # names that ArviZ uses itself
CANNOT = (RuntimeError, ValueError, TypeError, AttributeError, NotImplementedError, KeyError, IndexError)


class Named(NamedTuple):
    """Values of one site and the names of their dims."""

    values: Tensor
    dims: tuple[str, ...]


Group = dict[str, Named]


TAKEN = 100  # data of a split


def to_datatree(
    pair: Verbs,
    data: Any = None,
    *,
    num_samples: int = 1000,
    prior_samples: int | None = None,
    seed: int = 0,
    run_folder: str | os.PathLike | None = None,
) -> "DataTree":
    """Draw from guide and model and return what ArviZ needs, dims named after plates and sites.

    Groups: posterior, posterior_predictive, prior, prior_predictive, log_likelihood (a number for
    each element of the plates), observed_data, constant_data, and sample_stats with ``log_p``,
    ``log_q``, ``log_weight`` (nats; one per datum where no latent variable is shared) and ``khat``.
    A group that this model cannot give is left out; the attribute ``left_out`` says why. Sizes grow
    with draws x data x features: for pictures of MNIST's size, 1000 draws of 100 data take 300 MB a
    predictive group.

    Args:
        pair: ``Pair(model, guide)`` of any Pyro model and guide, autoguides included, or what
            ``fit`` and ``load`` return.
        data: a batch of the fields that the programs name, ``x`` alone, or `Data`, of which a
            hundred are taken; by default those of ``pair``.
        num_samples: draws from the guide.
        prior_samples: draws from the model alone; as many as ``num_samples`` if not given, 0 for
            none.
        seed: of the draws; the global random state is left as it was.
        run_folder: recorded in the attributes.
    """
    import xarray as xr

    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}")
    pair, data = pair_and_data(pair, data)
    if not has_density(pair):
        raise PairError(no_density(pair))
    batch, left_out = one_batch(data.subset(data.choose(), TAKEN)[0] if hasattr(data, "subset") else data), []
    with evaluation(pair, seed):
        source = _Source.of(pair, batch)
        left_out += source.unlisted()
        groups = source.collect(source.at_guide, source.from_guide, num_samples)
        count = num_samples if prior_samples is None else prior_samples
        for name, runs, read, size in (
            ("posterior_predictive", source.again, source.replicated, num_samples),
            ("prior and prior_predictive", source.alone, source.from_model, count),
        ):
            try:
                groups |= source.collect(runs, read, size) if size else {}
            except CANNOT as error:
                what = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
                left_out.append(f"{name}: the model cannot be simulated ({what})")
    groups |= source.given()
    stats = groups["sample_stats"]
    log_w = stats["log_weight"]
    stats["khat"] = Named(_khat(log_w.values), log_w.dims[1:])
    if not groups["log_likelihood"]:
        left_out.append("log_likelihood: another latent site stands between the enumerated sites and the data")
    tree = {name: _dataset(sites) for name, sites in groups.items() if sites}
    attrs = _attributes(pair, seed, run_folder) | {"left_out": "; ".join(left_out)}
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs=attrs), **tree})


def _khat(log_w: Tensor) -> Tensor:
    columns = log_w.reshape(len(log_w), -1)
    tail = columns.topk(min(len(log_w), tail_size(len(log_w)) + 1), 0).values
    return khat_of_tail(tail, len(log_w)).reshape(log_w.shape[1:])


@dataclass(frozen=True)
class _Source:
    """Draws from one pair on one batch; ``n`` is the number of particles or None."""

    pair: Pair
    batch: Batch
    nesting: int
    given_model: Trace  # one run on the data as they are
    recorded: Mapping[str, int]  # sites of pyro.deterministic that differ from draw to draw, with their event dims
    constant: frozenset[str]  # those that do not

    @classmethod
    def of(cls, pair: Pair, batch: Batch) -> "_Source":
        nesting = plate_nesting(pair, batch)
        (guide, model), other = (run(pair, batch, None, nesting, enumerate_sites=False) for _ in range(2))
        first, second = ({**g.nodes, **m.nodes} for g, m in ((guide, model), other))
        recorded = {name: event_dim_of(site) for name, site in first.items() if is_deterministic(site)}
        constant = frozenset(n for n in recorded if torch.equal(first[n]["value"], second[n]["value"]))
        varying = {name: event_dim for name, event_dim in recorded.items() if name not in constant}
        return cls(pair, batch, nesting, model, varying, constant)

    def unlisted(self) -> list[str]:
        """What the posterior leaves out of the recorded values, and why."""
        _, model = run(self.pair, self.batch, None, self.nesting, enumerate_sites="model")
        summed = [name for name in self.recorded if name in model.nodes and not self._is_free(name, model.nodes[name])]
        return [f"posterior: {name!r} is the same in every draw" for name in sorted(self.constant)] + [
            f"posterior: {name!r} depends on enumerated sites, which are summed out" for name in summed
        ]

    def _is_free(self, name: str, site: Mapping[str, Any]) -> bool:
        """Return whether a recorded value has no enumerated dims, which lie left of all others."""
        return site["value"].dim() - self.recorded[name] <= self.nesting + 1

    @property
    def observed(self) -> dict[str, Mapping[str, Any]]:
        return {name: site for name, site in self.given_model.nodes.items() if is_data(site)}

    @property
    def size(self) -> int | None:
        """Number of data, where there is a data plate."""
        frames = (data_frame(site, self.pair) for site in self.given_model.nodes.values() if is_site(site))
        return next((frame.size for frame in frames if frame is not None), None)

    def collect(self, runs: Runs, read: Callable[..., dict[str, Group]], count: int) -> dict[str, Group]:
        """Draw in bounded pieces: side by side where the programs allow it, else one by one.

        Args:
            runs: traces of guide and model, or of the model, for a number of particles or None.
            read: makes groups of that number and these traces.
        """
        with torch.random.fork_rng():
            sound = stacking(runs, self.nesting).sound
        together = (
            max(1, MAX_DECODED // max((len(t) for t in self.batch.values() if t.dim()), default=1)) if sound else 1
        )
        parts = []
        while count:
            now = min(count, together)
            n = now if now > 1 else None
            parts.append(read(n, *runs(n)))
            count -= now
        return {
            group: {
                name: Named(torch.cat([part[group][name].values for part in parts]), first.dims)
                for name, first in parts[0][group].items()
            }
            for group in parts[0]
        }

    def at_guide(self, n: int | None) -> tuple[Trace, Trace]:
        """Trace the guide, and the model at its draws."""
        return run(self.pair, self.batch, n, self.nesting, enumerate_sites="model")

    def from_guide(self, n: int | None, guide: Trace, model: Trace) -> dict[str, Group]:
        posterior = {
            name: _named(site, name, site["value"], site["fn"].event_dim)
            for name, site in guide.nodes.items()
            if is_site(site) and is_latent(site)
        }
        posterior |= {
            name: _named(site, name, site["value"], self.recorded[name])
            for name, site in {**guide.nodes, **model.nodes}.items()
            if name in self.recorded and self._is_free(name, site)
        }
        likelihood, stats = self._log_probs(guide, model, n)
        return {"posterior": posterior, "log_likelihood": likelihood, "sample_stats": stats}

    def _log_probs(self, guide: Trace, model: Trace, n: int | None) -> tuple[Group, Group]:
        sites = [s for t in (guide, model) for s in t.nodes.values() if is_site(s) and not is_deterministic(s)]
        local = self.size is not None and all(data_frame(site, self.pair) is not None for site in sites)
        enumerated = [site for site in sites if site["infer"].get("_enumerate_dim") is not None]
        seen = {name: site for name, site in model.nodes.items() if is_data(site)}
        likelihood = {
            name: _named(site, name, value, 0)
            for name, site in seen.items()
            if (value := log_prob(site)).dim() <= self.nesting + 1 or not enumerated
        }
        if not local:
            if enumerated:
                raise PairError(
                    f"site {enumerated[0]['name']!r} is enumerated by the model beside latent variables "
                    f"that lie outside the plate {self.pair.data_plate!r}; let the guide draw it"
                )
            log_q, log_p = _total(guide, n), _total(model, n)
            dims: tuple[str, ...] = ()
        else:
            parts = add_up(self.pair, guide, model, n or 1, self.size or 1, self.nesting).sites
            log_q = torch.zeros(n or 1, self.size or 1, dtype=torch.float64)
            for site in guide.nodes.values():
                if is_site(site) and (frame := data_frame(site, self.pair)) is not None:
                    log_q = log_q.to(site["value"].device) + per_datum(log_prob(site), frame.dim, self.nesting)
            log_p = log_q + torch.stack(torch.broadcast_tensors(*parts.values())).double().sum(0)
            dims = (self.pair.data_plate,)
            for joint, value in parts.items():
                inside = joint.split(",")
                missing = [name for name in inside if name in seen and name not in likelihood]
                if len(missing) == 1 and not any(name in guide.nodes for name in inside):
                    likelihood[missing[0]] = Named(value.detach(), ("draw", *dims))
        stats = {"log_p": log_p, "log_q": log_q, "log_weight": log_p - log_q}
        return likelihood, {name: Named(value.detach(), ("draw", *dims)) for name, value in stats.items()}

    def again(self, n: int | None) -> tuple[Trace, Trace]:
        """Trace the guide, and the model at its draws with its data drawn anew."""
        guide = poutine.trace(particles(self.pair.bound_guide, n, self.nesting)).get_trace(self.batch)
        fresh = uncondition(particles(self.pair.bound_model, n, self.nesting))
        return guide, poutine.trace(poutine.replay(fresh, trace=guide)).get_trace(self.batch)

    def replicated(self, n: int | None, guide: Trace, model: Trace) -> dict[str, Group]:
        return {"posterior_predictive": _values(model, self.observed)}

    def alone(self, n: int | None) -> tuple[Trace]:
        """Trace the model alone, its data drawn."""
        fresh = uncondition(particles(self.pair.bound_model, n, self.nesting))
        return (poutine.trace(fresh).get_trace(self.batch),)

    def from_model(self, n: int | None, model: Trace) -> dict[str, Group]:
        latent = [
            name
            for name, site in model.nodes.items()
            if is_site(site) and name not in self.observed and not is_deterministic(site) and not is_factor(site)
        ]
        return {"prior": _values(model, latent), "prior_predictive": _values(model, self.observed)}

    def given(self) -> dict[str, Group]:
        """Observed sites, and the batch's other fields."""
        sites = self.observed
        observed = {}
        for name, site in sites.items():
            values, dims = _named(site, name, site["value"], site["fn"].event_dim)
            observed[name] = Named(values[0], dims[1:])
        seen = {id(site["value"]) for site in sites.values()}
        plates = self._plates_by_size()
        constant = {}
        for name, tensor in self.batch.items():
            if id(tensor) not in seen and name not in sites:
                first = tuple(plates.get(tensor.shape[0], ())) if tensor.dim() else ()
                rest = tuple(f"{name}_dim_{i}" for i in range(tensor.dim() - len(first)))
                constant[name] = Named(tensor.detach(), first + rest)
        return {"observed_data": observed, "constant_data": constant}

    def _plates_by_size(self) -> dict[int, list[str]]:
        """Return the plate of each size, the data plate first; none where two share a size."""
        frames = {
            f.name: f.size
            for site in self.given_model.nodes.values()
            if is_site(site)
            for f in site["cond_indep_stack"]
        }
        sizes = list(frames.values())
        named = {size: [name] for name, size in frames.items() if sizes.count(size) == 1}
        return named | ({self.size: [self.pair.data_plate]} if self.size is not None else {})


def _values(trace: Trace, names: Any) -> Group:
    sites = {name: trace.nodes[name] for name in names}
    return {name: _named(site, name, site["value"], site["fn"].event_dim) for name, site in sites.items()}


def _total(trace: Trace, n: int | None) -> Tensor:
    """Log-probability of all sites: ``(draws,)``."""
    total = torch.zeros(n or 1, dtype=torch.float64)
    for name, site in trace.nodes.items():
        if is_site(site) and not is_deterministic(site):
            value = _named(site, name, log_prob(site), 0).values.double()
            total = total.to(value.device) + value.reshape(n or 1, -1).sum(1)
    return total


def _named(site: Mapping[str, Any], name: str, value: Tensor, event_dim: int) -> Named:
    """Name the dims of a site's values: draw, plates from the outermost in, then the rest."""
    frames = {f.dim: f for f in site["cond_indep_stack"] if f.vectorized}
    lead = value.dim() - event_dim
    depth = max([lead, *(-dim for dim in frames)])
    value = value.detach().reshape((1,) * (depth - lead) + value.shape)
    sizes = [frames[i - depth].size if i - depth in frames else value.shape[i] for i in range(depth)]
    value = value.expand(torch.Size([*sizes, *value.shape[depth:]]))
    dims: list[str] = []
    shape: list[int] = []
    for i, size in enumerate([*sizes, *value.shape[depth:]]):
        if i < depth and i - depth in frames:
            dims.append(frames[i - depth].name)
        elif i < depth and size == 1:
            continue  # a dim that only makes room for a plate
        else:
            dims.append(f"{name}_dim_{sum(dim.startswith(f'{name}_dim_') for dim in dims)}")
        shape.append(size)
    value = value.reshape(shape)
    if PARTICLES not in dims:
        return Named(value.unsqueeze(0), ("draw", *dims))
    place = dims.index(PARTICLES)
    return Named(value.movedim(place, 0), ("draw", *dims[:place], *dims[place + 1 :]))


def _dataset(sites: Group) -> "Dataset":
    import xarray as xr

    variables = {}
    for name, (values, dims) in sites.items():
        array = values.cpu().numpy()
        named = tuple(dim if dim == "draw" else _safe(dim) for dim in dims)
        if named[:1] == ("draw",):
            array, named = array[None], ("chain", *named)
        variables[_safe(name) if _safe(name) not in named else f"{_safe(name)}_"] = xr.DataArray(array, dims=named)
    dataset = xr.Dataset(variables)
    return dataset.assign_coords({dim: range(size) for dim, size in dataset.sizes.items()})


def _safe(name: str) -> str:
    """Return a name that a DataTree and ArviZ can hold."""
    name = name.replace("/", ".")
    return f"{name}_" if name in RESERVED else name


def _attributes(pair: Pair, seed: int, run_folder: str | os.PathLike | None) -> dict[str, Any]:
    from pyro_vae import __version__

    return {
        "inference_library": "pyro-ppl",
        "inference_library_version": pyro.__version__,
        "creation_library": "pyro_vae",
        "creation_library_version": __version__,
        "torch_version": str(torch.__version__),
        "python_version": platform.python_version(),
        "model": pair.bound_model.name,
        "guide": pair.bound_guide.name,
        "seed": seed,
        "run": os.fspath(run_folder) if run_folder is not None else "",
    }
