"""Is q(z | x) calibrated?

Simulation-based calibration and coverage, on data drawn from the model itself.

Where z and x are drawn from the model, z is an exact posterior draw, so among draws of a right
guide it looks like the others: the rank of any function of it is uniform. Works for every guide
that can be sampled, with any kind of latent variable.
"""

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import pyro.poutine as poutine
import torch
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae.diagnostics.criticism import TwoSample, two_sample
from pyro_vae.program import (
    Batch,
    Pair,
    PairError,
    add_up,
    data_frame,
    evaluation,
    is_latent,
    pieces,
    plate_nesting,
    run,
    simulate,
    size_of,
    takes_particles,
)

if TYPE_CHECKING:
    from xarray import DataTree

DENSITY = "log p(x, z)"  # the rank of this sees what no single dimension shows, such as a lost correlation
BINS = 16
DRAWS = 63  # with the true value 64 ranks: four per bin


class Calibration(NamedTuple):
    """Ranks of the true latent values among draws from the guide; uniform if it is right."""

    ranks: dict[str, Tensor]  # quantity -> (data,) ranks 0 .. num_samples, ties broken at random
    num_samples: int
    pvalues: dict[str, float]  # of a chi-square test of uniformity, by quantity

    @property
    def pvalue(self) -> float:
        """The smallest p-value, Bonferroni-corrected: below 0.01 the guide is not calibrated."""
        return min(1.0, min(self.pvalues.values()) * len(self.pvalues))

    @property
    def worst(self) -> str:
        """The quantity whose ranks are least uniform."""
        return min(self.pvalues, key=lambda name: self.pvalues[name])

    def fault(self, name: str) -> str:
        """Return how the ranks of a quantity fail to be uniform: in mean or in width."""
        fractions = (self.ranks[name].double() + 0.5) / (self.num_samples + 1)
        # both in units of their standard error, but for sqrt(data)
        mean = (fractions.mean().item() - 0.5) * math.sqrt(12)
        spread = (fractions.var().item() - 1 / 12) * math.sqrt(180)
        if name == DENSITY:
            return (
                "draws of q are less probable than the truth"
                if mean > 0
                else "draws of q are more probable than the truth"
            )
        if abs(mean) > abs(spread):
            return "q is too low" if mean > 0 else "q is too high"
        return "q is too narrow" if spread > 0 else "q is too wide"

    def to_datatree(self) -> "DataTree":
        """The ranks as fractions in group ``prior_sbc``, which ``arviz.plot_ecdf_pit`` reads."""
        import xarray as xr

        fractions = {
            name: (("chain", "draw"), ((ranks.double() + 0.5) / (self.num_samples + 1)).numpy()[None])
            for name, ranks in self.ranks.items()
        }
        return xr.DataTree.from_dict({"prior_sbc": xr.Dataset(fractions)})


class Coverage(NamedTuple):
    """How often credible regions around random points hold the true value (TARP)."""

    # (data,) share of draws nearer to a random point than the true value is: uniform if q is right
    fractions: Tensor
    pvalue: float  # of a chi-square test that they are uniform

    def at(self, level: float) -> float:
        """Return how often the region of this credibility holds the truth."""
        return (self.fractions < level).double().mean().item()


def calibrate(
    pair: Pair, data: Batch | Iterable[Batch], *, num_samples: int = DRAWS, seed: int = 0
) -> tuple[Calibration, Coverage]:
    """Run calibration and coverage tests on as many simulated data as ``data`` has.

    Ranked are every dimension of every latent site, and log p(x, z), which depends on the data and
    on all dimensions together. The tests have power from about 500 data; 1,000 show a scale wrong
    by 10 %.

    Validating Bayesian Inference Algorithms with Simulation-Based Calibration (Talts et al., 2018),
    arXiv 1804.06788; Simulation-Based Calibration Checking (Modrak et al., 2023), arXiv 2211.02383;
    Sampling-Based Accuracy Testing of Posterior Estimators (Lemos et al., 2023), arXiv 2302.03026.

    Args:
        data: gives the number of data and the fields that are conditions.
        num_samples: draws from the guide for each.

    Raises:
        PairError: when the model cannot be simulated.
    """
    ranks: dict[str, list[Tensor]] = {}
    fractions = []
    with evaluation(pair, seed):
        for batch in pieces(data, max(1, 20_000 // num_samples)):
            if not ranks:
                _require_latents(pair, batch)
            drawn, latent = simulate(pair, batch)
            truth, draws = _compared(pair, drawn, latent, num_samples)
            if truth.keys() == {DENSITY}:
                raise _nothing(pair)
            for name, value in truth.items():
                ranks.setdefault(name, []).append(_rank(draws[name], value).cpu())
            fractions.append(_nearer(truth, draws).cpu())
    joined = {name: torch.cat(parts) for name, parts in ranks.items()}
    pvalues = {name: uniform(r, num_samples + 1) for name, r in joined.items()}
    f = torch.cat(fractions)
    levels = (f * num_samples).round().long()
    return Calibration(joined, num_samples, pvalues), Coverage(f, uniform(levels, num_samples + 1))


def averaged(pair: Pair, data: Batch | Iterable[Batch], *, seed: int = 0) -> TwoSample:
    """Can draws of q(z | x), averaged over data that the model draws, be told from the prior?

    For the posterior they cannot.

    It costs one draw per datum, so it can use many, and shows which way q is wrong over
    all data; what is wrong for each datum and right on average it cannot see, such as a guide that
    is the prior. ``calibrate`` can.

    Args:
        data: gives the number of data and the fields that are conditions; 2,000 show a scale of
            0.7.

    Raises:
        PairError: when the model cannot be simulated.
    """
    ours: list[Tensor] = []
    theirs: list[Tensor] = []
    with evaluation(pair, seed):
        for batch in pieces(data, 2000):
            if not ours:
                _require_latents(pair, batch)
            drawn, _ = simulate(pair, batch)
            _, prior = simulate(pair, batch)
            nodes = poutine.trace(pair.bound_guide).get_trace(drawn).nodes
            known = [name for name in prior if name in nodes]
            if not known:
                raise _nothing(pair)
            for columns, values in ((ours, {name: nodes[name]["value"] for name in known}), (theirs, prior)):
                parts = [_numbers(values[name][None], nodes[name], pair)[0] for name in known]
                columns.append(torch.cat([part.double() for part in parts], -1))
    return two_sample(torch.cat(ours), torch.cat(theirs), seed=seed)


def _require_latents(pair: Pair, batch: Batch) -> None:
    """Refuse a pair without latent sites, before any data are drawn."""
    with torch.random.fork_rng():
        model = poutine.trace(pair.bound_model).get_trace(batch)
    if not any(is_latent(site) for site in model.nodes.values()):
        raise _nothing(pair)


def _nothing(pair: Pair) -> PairError:
    return PairError(
        f"guide {pair.bound_guide.name} draws no latent site of the model, so there is nothing to calibrate"
    )


def uniform(ranks: Tensor, values: int) -> float:
    """Return the p-value of a chi-square test that integers 0 ..

    values-1 are uniform, in at most 16 bins.
    """
    bins = max(2, min(BINS, values, len(ranks) // 10))
    index = ranks.long() * bins // values
    expected = torch.bincount(torch.arange(values) * bins // values, minlength=bins).double() * len(ranks) / values
    observed = torch.bincount(index, minlength=bins).double()
    statistic = ((observed - expected).square() / expected).sum()
    # the chi-square distribution's upper tail
    return torch.special.gammaincc(torch.tensor((bins - 1) / 2, dtype=torch.float64), statistic / 2).item()


def _compared(
    pair: Pair, batch: Batch, latent: dict[str, Tensor], num_samples: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return true value ``(batch,)`` and draws ``(num_samples, batch)`` of all that is ranked."""
    nesting = plate_nesting(pair, batch)
    size = size_of(batch)
    together = takes_particles(pair, batch, nesting)
    values: dict[str, list[Tensor]] = {}
    densities = []
    sites: dict[str, Mapping] = {}
    for _ in range(1 if together else num_samples):
        guide, model = run(pair, batch, num_samples if together else None, nesting, enumerate_sites="model")
        for name in (name for name in latent if name in guide.nodes):
            sites[name] = guide.nodes[name]
            values.setdefault(name, []).append(guide.nodes[name]["value"])
        width = num_samples if together else 1
        parts = add_up(pair, Trace(), model, width, size, nesting).sites
        densities.append(torch.stack(torch.broadcast_tensors(*parts.values())).sum(0))
    known = {name: value for name, value in latent.items() if name in values}
    fixed = poutine.enum(poutine.condition(pair.bound_model, data=known), first_available_dim=-nesting - 2)
    model = poutine.trace(fixed).get_trace(batch)
    parts = add_up(pair, Trace(), model, 1, size, nesting).sites
    truth = {DENSITY: torch.stack(torch.broadcast_tensors(*parts.values())).sum(0)[0]}
    draws = {DENSITY: torch.cat(densities)}
    for name, runs in values.items():
        drawn = _numbers(runs[0] if together else torch.stack(runs), sites[name], pair)
        for j, column in enumerate(_numbers(known[name][None], sites[name], pair)[0].unbind(-1)):
            key = name if drawn.shape[-1] == 1 else f"{name}[{j}]"
            truth[key], draws[key] = column, drawn[..., j]
    return truth, draws


def _numbers(value: Tensor, site: Mapping, pair: Pair) -> Tensor:
    """Return a site's values, each datum's side by side: ``(draws, data, numbers)``."""
    frame = data_frame(site, pair)
    assert frame is not None  # log-weights would have refused it
    return value.movedim(frame.dim - site["fn"].event_dim, 1).flatten(2) if value.dim() > 2 else value[..., None]


def _rank(draws: Tensor, truth: Tensor) -> Tensor:
    """Return how many draws are below the truth, with ties broken at random."""
    ties = (draws == truth).sum(0)
    return (draws < truth).sum(0) + (torch.rand(truth.shape, device=truth.device) * (ties + 1)).long()


def _nearer(truth: dict[str, Tensor], draws: dict[str, Tensor]) -> Tensor:
    """Return the share of draws nearer than the truth to a point near another datum's."""
    names = [name for name in truth if name != DENSITY]
    theta = torch.stack([truth[name].double() for name in names], -1)  # (batch, size)
    drawn = torch.stack([draws[name].double() for name in names], -1)
    spread = theta.std(0).clamp(min=1e-12) if len(theta) > 1 else torch.ones(theta.shape[1])
    point = theta[torch.randperm(len(theta), device=theta.device)] + 0.1 * spread * torch.randn_like(theta)
    far = ((theta - point) / spread).square().sum(-1)
    near = ((drawn - point) / spread).square().sum(-1)
    ranks = _rank(near, far)
    return ranks.double() / len(near)
