"""Checks that model, guide and data fit together; mistakes that Pyro lets pass are errors here."""

import difflib
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, overload

import pyro
import torch
from pyro.infer import ELBO, Trace_ELBO
from torch import Tensor

from pyro_vae.program.alone import alone
from pyro_vae.program.batches import one_batch, pair_and_data
from pyro_vae.program.chain import agrees
from pyro_vae.program.checking_runs import arguments, runs, sizes
from pyro_vae.program.checking_values import finite, gradients, supports, validates
from pyro_vae.program.contract import Look, Problem, first_line
from pyro_vae.program.declaration import declared
from pyro_vae.program.dependence import of_each_datum, on_latents, steady
from pyro_vae.program.handlers import uncondition
from pyro_vae.program.pair import Batch, Pair, PairError
from pyro_vae.program.sites import MANY_PASSES, is_enumerated, passes_of, samples
from pyro_vae.program.tracing import trace_of, trace_without_gradients
from pyro_vae.program.verbs import Verbs
from pyro_vae.runs import seeded

FEW_DATA = 4  # that are drawn where a draw costs many passes


@overload
def check_pair(model: Verbs, guide: Any = None, /) -> None: ...
@overload
def check_pair(
    model: Callable, guide: Callable, batch: Any, *, objective: ELBO | None = None, data_plate: str = "data"
) -> None: ...
def check_pair(
    model: Any, guide: Any = None, batch: Any = None, *, objective: ELBO | None = None, data_plate: str = "data"
) -> None:
    """Check on one batch that a pair keeps the contract of a model and its guide:
    ``check_pair(model, guide, batch)``, ``check_pair(pair, batch)`` or ``check_pair(fitted)``.

    Draws from the pair, replays, unconditions, takes one gradient, and runs it a few more times
    with other seeds, and with other data beside the same ones; in evaluation mode. Parameters,
    buffers, modes and the random state are left as they were. ``pyro.module`` and ``pyro.param``
    statements run in a store of their own.

    Raises:
        PairError: naming every problem found: the site, both facts, and the change to make.
    """
    if isinstance(model, Verbs):
        pair, data = pair_and_data(model, guide)
        batch = data if isinstance(data, Mapping) else one_batch(data)
        require_sound(pair, batch)
    else:
        batch = batch if isinstance(batch, Mapping) else one_batch(batch)  # fields that are no tensors are problems
        require_sound(Pair(model, guide, objective or Trace_ELBO(), data_plate), batch)


def require_sound(pair: Pair, batch: Batch) -> None:
    """``check_pair`` for a ``Pair``: also creates the parameters that its programs make on their
    first run.
    """
    problems = find_problems(pair, batch)
    if problems:
        raise PairError("\n".join(map(str, problems)))


def require_trainable(pair: Pair, batch: Batch) -> None:
    """``require_sound``, and that no parameter is of one batch's data alone: training has others.

    Raises:
        PairError: naming every problem found.
    """
    require_sound(pair, batch)
    with alone, seeded(0), _without_warnings(), pair.evaluating():
        for problem in sizes(Look(pair, batch)):
            raise PairError(str(problem))


def find_problems(pair: Pair, batch: Batch) -> list[Problem]:
    """Return what is wrong with the pair, or an empty list.

    Later checks rest on earlier ones, so only the first kind of mistake found is listed.
    """
    with alone, seeded(0), _without_warnings(), pair.evaluating():
        problems = list(arguments(pair, batch))
        if problems:
            return problems
        look = Look(pair, batch)
        for check in CHECKS:
            problems = list(check(look))
            if problems:
                return problems
    return []


def _sites(look: Look) -> Iterator[Problem]:
    guide, model = look.structure
    for name, site in samples(guide).items():
        if site["is_observed"]:
            yield Problem(name, f"guide {look.guide_name} observes site {name!r}", "A guide only draws: remove obs=")
    mine = {n for n, s in samples(guide).items() if not s["infer"].get("is_auxiliary")}
    latent = {n: s for n, s in samples(model).items() if not s["is_observed"]}
    observed = {n for n, s in samples(model).items() if s["is_observed"]}
    drawn = ", ".join(map(repr, sorted(mine))) or "nothing"
    covered = "guide" in declared(look.pair.objective).needs
    for name in sorted(latent.keys() - mine):
        if is_enumerated(latent[name]) or not covered:
            continue
        near = difflib.get_close_matches(name, mine - latent.keys(), 1, 0.0)
        change = "Give the site the same name in both" if near else f"Add a sample statement for {name!r} to the guide"
        problem = (
            f"guide {look.guide_name} does not sample latent site {name!r} of {look.model_name} (it samples {drawn})"
        )
        yield Problem(name, problem, change)
    has = ", ".join(map(repr, sorted(latent))) or "none"
    for name in sorted(mine - latent.keys()):
        if name in observed:
            yield Problem(
                name,
                f"guide {look.guide_name} samples {name!r}, which {look.model_name} observes",
                "Remove it from the guide",
            )
        elif latent.keys() <= mine:  # otherwise it is the other half of a misspelling, reported above
            yield Problem(
                name,
                f"guide {look.guide_name} samples {name!r}, which {look.model_name} does not have (its "
                f"latent sites: {has})",
                'Remove it, or mark it infer={"is_auxiliary": True}',
            )
    if not observed:
        yield Problem("", f"model {look.model_name} observes nothing", "Give the data's site obs=x")


def _plates(look: Look) -> Iterator[Problem]:
    plate = look.pair.data_plate
    guide, model = look.structure
    frames = {f.name: f for t in (model, guide) for s in samples(t).values() for f in s["cond_indep_stack"]}
    if plate not in frames:
        names = ", ".join(map(repr, frames)) or "none"
        change = f"Open it with pyro.plate({plate!r}, len(x))"
        if len(frames) == 1:
            change += f", or pass data_plate={next(iter(frames))!r}"
        yield Problem("", f"no site of {look.model_name} lies in a plate {plate!r} (its plates: {names})", change)
        return
    frame = frames[plate]
    if frame.dim != -1:
        yield Problem(
            "",
            f"plate {plate!r} is at dim {frame.dim}, and data lie at dim -1",
            "Open it inside the other plates or give it dim=-1",
        )
    elif frame.size != look.size:
        yield Problem(
            "",
            f"plate {plate!r} has size {frame.size} and the batch {look.size} data",
            "Open it with the batch's size, len(x)",
        )
    for trace, who in ((guide, look.guide_name), (model, look.model_name)):
        for name, site in samples(trace).items():
            yield from _plates_explain(name, site, who)
    for name, site in samples(guide).items():
        other = samples(model).get(name)
        inside = {f.name for f in site["cond_indep_stack"]}
        if other is not None and inside != {f.name for f in other["cond_indep_stack"]}:
            theirs = sorted(f.name for f in other["cond_indep_stack"])
            yield Problem(
                name,
                f"site {name!r} lies in the plates {sorted(inside)} of the guide and {theirs} of the model",
                "Put it in the same plates",
            )


def _plates_explain(name: str, site: dict, who: str) -> Iterator[Problem]:
    shape = tuple(site["fn"].batch_shape)
    depth = max((-f.dim for f in site["cond_indep_stack"] if f.vectorized), default=0)
    if any(size > 1 for size in shape[: len(shape) - depth]):
        plates = ", ".join(repr(f.name) for f in site["cond_indep_stack"]) or "no plate"
        yield Problem(
            name,
            f"site {name!r} of {who} has batch shape {shape}, of which its plates ({plates}) explain {depth} "
            f"dim{'' if depth == 1 else 's'}",
            "Use .to_event(1) for a vector, or put the site inside the plate",
        )


def _events(look: Look) -> Iterator[Problem]:
    guide, model = look.structure
    for name, site in samples(guide).items():
        other = samples(model).get(name)
        if other is None:
            continue
        mine, theirs = tuple(site["fn"].event_shape), tuple(other["fn"].event_shape)
        if len(mine) != len(theirs):
            yield Problem(
                name,
                f"site {name!r} has event shape {mine} in {look.guide_name} and {theirs} in {look.model_name}",
                f"Give both the same .to_event(...): {_event_dims(mine, theirs, look.size)}",
            )
        elif mine != theirs:
            yield Problem(
                name,
                f"site {name!r} has size {mine} in {look.guide_name} and {theirs} in {look.model_name}",
                "Give both the same latent size",
            )
    for name, site in samples(model).items():
        shape, event = tuple(site["value"].shape), tuple(site["fn"].event_shape)
        if site["is_observed"] and event == shape and event[:1] == (look.size,) and _in_plate(site, look):
            yield Problem(
                name,
                f"site {name!r} has event shape {event}, which takes in all {look.size} data",
                f"Leave the data to the plate, .to_event({len(event) - 1})",
            )
        elif site["is_observed"] and event and shape[len(shape) - len(event) :] != event:
            yield Problem(
                name,
                f"site {name!r} observes values of shape {shape} and its distribution has event shape {event}",
                "Build the decoder for the data's features",
            )


def _event_dims(one: tuple[int, ...], other: tuple[int, ...], size: int) -> int:
    """Return the event dims that two shapes of a datum should have; one may take in all data."""
    fewer, more = sorted((one, other), key=len)
    return len(fewer) if more == (size, *fewer) else len(more)


def _in_plate(site: dict, look: Look) -> bool:
    return any(frame.name == look.pair.data_plate for frame in site["cond_indep_stack"])


def _peeks(look: Look) -> Iterator[Problem]:
    """Draw without observing, from two batches that differ in the observed fields alone: nothing
    may change.
    """
    (_, model), batch = look.traces(), look.batch
    if any(passes_of(site["fn"]) > MANY_PASSES for site in samples(model).values()):
        batch = {name: tensor[:FEW_DATA] for name, tensor in batch.items()}
        model = trace_without_gradients(look.pair.bound_model, batch)
    observed = {n: s["value"] for n, s in samples(model).items() if s["is_observed"]}
    fields = {
        name
        for name, tensor in look.pair.bound_model.arguments(batch).items()
        for value in observed.values()
        if value.numel() == tensor.numel() and torch.equal(value.reshape(tensor.shape).to(tensor.dtype), tensor)
    }
    changed = {name: tensor.roll(1, 0) if name in fields else tensor for name, tensor in batch.items()}
    first, second = _drawn(look, batch), _drawn(look, changed)
    if isinstance(first, str):
        yield Problem(
            "",
            f"model {look.model_name} cannot draw data when nothing is observed: {first}",
            "Read the data only in obs=",
        )
        return
    for name, value in first.items():
        if name in observed and value.shape != observed[name].shape:
            yield Problem(
                name,
                f"drawn without observing, site {name!r} has shape {tuple(value.shape)} and the data have "
                f"{tuple(observed[name].shape)}",
                "Open the data plate with the batch's size, len(x)",
            )
        elif isinstance(second, str) or not torch.equal(value, second[name]):
            seen = ", ".join(sorted(fields)) or "the data"
            yield Problem(
                name,
                f"model {look.model_name} peeks: its draw at site {name!r} changes when only {seen} changes",
                f"Use {seen} as obs= and nowhere else in the model",
            )
            return


def _drawn(look: Look, batch: Batch) -> dict[str, Tensor] | str:
    torch.manual_seed(1)
    try:
        with torch.no_grad(), pyro.validation_enabled(False):
            trace = trace_of(uncondition(look.pair.bound_model), batch)
    except Exception as error:
        return first_line(error)
    return {name: site["value"] for name, site in samples(trace).items()}


CHECKS: tuple[Callable[[Look], Iterator[Problem]], ...] = (
    runs,
    steady,
    _sites,
    _plates,
    _events,
    supports,
    finite,
    validates,
    gradients,
    _peeks,
    of_each_datum,
    on_latents,
    agrees,
)


@contextmanager
def _without_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
