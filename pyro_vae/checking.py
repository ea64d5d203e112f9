"""Does this model fit this guide, and both fit the data? Every mistake that Pyro lets pass is an error here."""

import difflib
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pyro
import pyro.poutine as poutine
import torch
from pyro.distributions import Unit
from pyro.infer import ELBO, Trace_ELBO
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae.handlers import is_enumerated, is_site
from pyro_vae.objective import declared
from pyro_vae.pairing import Batch, Pair, PairError


class Problem(NamedTuple):
    """One mistake: where, what is wrong with both facts, and what to change."""

    site: str
    problem: str
    change: str

    def __str__(self) -> str:
        return f"{self.problem}. {self.change}."


def check_pair(
    model: Callable, guide: Callable, batch: Batch, *, objective: ELBO | None = None, data_plate: str = "data"
) -> None:
    """Prove that a pair keeps the contract of a program, on one batch.

    Draws from the pair, replays, unconditions, and takes one gradient; parameters, buffers and the random state are left as
    they were. ``pyro.module`` and ``pyro.param`` statements run in a store of their own.

    Raises:
        PairError: naming every problem found: the site, both facts, and the change to make.
    """
    require_sound(Pair(model, guide, objective or Trace_ELBO(), data_plate), batch)


def require_sound(pair: Pair, batch: Batch) -> None:
    """``check_pair`` for a ``Pair``: also creates the parameters that its programs make on their first run."""
    problems = find_problems(pair, batch)
    if problems:
        raise PairError("\n".join(map(str, problems)))


def find_problems(pair: Pair, batch: Batch) -> list[Problem]:
    """Return what is wrong with the pair, or an empty list.

    Later checks rest on earlier ones, so the list ends with the first kind of mistake found.
    """
    training = pair.training
    with torch.random.fork_rng(), _without_warnings():
        pair.train(False)
        try:
            for check in (
                _arguments,
                _runs,
                _sites,
                _plates,
                _events,
                _supports,
                _finite,
                _validates,
                _gradients,
                _peeks,
            ):
                problems = list(check(_Look(pair, batch)))
                if problems:
                    return problems
        finally:
            pair.train(training)
    return []


class _Look:
    """The pair run once on the batch; traces are made when a check asks for them."""

    def __init__(self, pair: Pair, batch: Batch) -> None:
        self.pair = pair
        self.batch = batch
        self.size = len(next(iter(batch.values())))
        self.guide_name = pair.bound_guide.name
        self.model_name = pair.bound_model.name

    def apart(self) -> tuple[Trace, Trace]:
        """Guide and model each by itself: their structure, when the draws of one may not suit the other."""
        torch.manual_seed(0)
        with pyro.validation_enabled(False):
            return tuple(poutine.trace(b).get_trace(self.batch) for b in (self.pair.bound_guide, self.pair.bound_model))

    def traces(self, *, validate: bool = False) -> tuple[Trace, Trace]:
        """Guide, and model at the guide's draws."""
        torch.manual_seed(0)
        with pyro.validation_enabled(validate):
            guide = poutine.trace(self.pair.bound_guide).get_trace(self.batch)
            model = poutine.trace(poutine.replay(self.pair.bound_model, trace=guide)).get_trace(self.batch)
        return guide, model


def _arguments(look: _Look) -> Iterator[Problem]:
    for bound in (look.pair.bound_model, look.pair.bound_guide):
        for name in bound.required:
            if name not in look.batch:
                has = ", ".join(map(repr, look.batch))
                problem = f"{bound.name} needs the field {name!r} and the data have {has}"
                yield Problem(name, problem, f"Use data with {name!r}, or rename the parameter")
    for name, value in look.batch.items():
        if value.is_floating_point() and not value.isfinite().all():
            problem = f"{int((~value.isfinite()).sum())} of {value.numel()} values of the field {name!r} are not finite"
            yield Problem(name, problem, "Remove the NaN and infinite values from the data")


def _runs(look: _Look) -> Iterator[Problem]:
    for name, bound in ((look.guide_name, look.pair.bound_guide), (look.model_name, look.pair.bound_model)):
        try:
            with pyro.validation_enabled(False):
                bound(look.batch)
        except Exception as error:
            shapes = ", ".join(f"{k} {tuple(v.shape)}" for k, v in bound.arguments(look.batch).items())
            yield Problem(
                "",
                f"{name} fails on the batch ({shapes}): {_first_line(error)}",
                "Make it accept fields of these shapes",
            )


def _sites(look: _Look) -> Iterator[Problem]:
    guide, model = look.apart()
    for name, site in _samples(guide).items():
        if site["is_observed"]:
            yield Problem(name, f"guide {look.guide_name} observes site {name!r}", "A guide only draws: remove obs=")
    mine = {n for n, s in _samples(guide).items() if not s["infer"].get("is_auxiliary")}
    latent = {n: s for n, s in _samples(model).items() if not s["is_observed"]}
    observed = {n for n, s in _samples(model).items() if s["is_observed"]}
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
                f"guide {look.guide_name} samples {name!r}, which {look.model_name} does not have (its latent sites: {has})",
                'Remove it, or mark it infer={"is_auxiliary": True}',
            )
    if not observed:
        yield Problem("", f"model {look.model_name} observes nothing", "Give the data's site obs=x")


def _plates(look: _Look) -> Iterator[Problem]:
    plate = look.pair.data_plate
    guide, model = look.apart()
    frames = {f.name: f for t in (model, guide) for s in _samples(t).values() for f in s["cond_indep_stack"]}
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
        for name, site in _samples(trace).items():
            yield from _plates_explain(name, site, who)
    for name, site in _samples(guide).items():
        other = _samples(model).get(name)
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
            f"site {name!r} of {who} has batch shape {shape}, of which its plates ({plates}) explain {depth} dim{'' if depth == 1 else 's'}",
            "Use .to_event(1) for a vector, or put the site inside the plate",
        )


def _events(look: _Look) -> Iterator[Problem]:
    guide, model = look.apart()
    for name, site in _samples(guide).items():
        other = _samples(model).get(name)
        if other is None:
            continue
        mine, theirs = tuple(site["fn"].event_shape), tuple(other["fn"].event_shape)
        if len(mine) != len(theirs):
            yield Problem(
                name,
                f"site {name!r} has event shape {mine} in {look.guide_name} and {theirs} in {look.model_name}",
                f"Give both the same .to_event(...): {max(len(mine), len(theirs))}",
            )
        elif mine != theirs:
            yield Problem(
                name,
                f"site {name!r} has size {mine} in {look.guide_name} and {theirs} in {look.model_name}",
                "Give both the same latent size",
            )
    for name, site in _samples(model).items():
        shape, event = tuple(site["value"].shape), tuple(site["fn"].event_shape)
        if site["is_observed"] and event and shape[len(shape) - len(event) :] != event:
            yield Problem(
                name,
                f"site {name!r} observes values of shape {shape} and its distribution has event shape {event}",
                "Build the decoder for the data's features",
            )


def _supports(look: _Look) -> Iterator[Problem]:
    _, model = look.traces()
    for name, site in _samples(model).items():
        value, fn = site["value"], site["fn"]
        if value.is_floating_point() and not value.isfinite().all():
            problem = f"the draws of {look.guide_name} at site {name!r} are not all finite"
            yield Problem(name, problem, "Keep its loc and scale finite")
            continue
        try:
            valid = fn.support.check(value)
        except NotImplementedError:
            continue
        if valid.all():
            continue
        low, high = value.min().item(), value.max().item()
        family = _family(fn)
        if site["is_observed"]:
            yield Problem(
                name,
                f"site {name!r} has values from {low:.4g} to {high:.4g} ({_example(value, valid, fn)}) outside the support of its likelihood {family}",
                _remedy(value, family),
            )
        else:
            yield Problem(
                name,
                f"{look.guide_name} draws values from {low:.4g} to {high:.4g} at site {name!r}, outside the support of its prior {family}",
                "Use a guide distribution with the prior's support",
            )


def _finite(look: _Look) -> Iterator[Problem]:
    if "density" not in declared(look.pair.objective).needs:
        return
    guide, model = look.traces()
    for trace, who in ((guide, look.guide_name), (model, look.model_name)):
        for name, site in _samples(trace).items():
            with pyro.validation_enabled(False):
                log_prob = site["fn"].log_prob(site["value"])
            if not log_prob.isfinite().all():
                yield Problem(
                    name,
                    f"the log-probability of site {name!r} of {who} is {log_prob[~log_prob.isfinite()][0].item()} for {int((~log_prob.isfinite()).sum())} of {log_prob.numel()} values",
                    "Keep its scale away from 0 and its parameters finite, or rescale the data",
                )


def _validates(look: _Look) -> Iterator[Problem]:
    try:
        look.traces(validate=True)
    except Exception as error:
        yield Problem(
            "",
            f"the pair does not pass Pyro's validation: {_first_line(error)}",
            "Correct the distribution's arguments",
        )


def _gradients(look: _Look) -> Iterator[Problem]:
    pair = look.pair
    parameters = pair.named_parameters()
    before = {name: p.grad for name, p in parameters.items()}
    for p in parameters.values():
        p.grad = None
    try:
        loss = pair.objective.loss_and_grads(pair.bound_model, pair.bound_guide, look.batch)
        total = sum(float(part) for part in loss) if isinstance(loss, tuple) else float(loss)
        if total - total != 0:
            yield Problem(
                "",
                f"the loss of {type(pair.objective).__name__} is {total}",
                "Start from parameters that give a finite ELBO",
            )
        for name, p in parameters.items():
            if p.grad is None:
                yield Problem(
                    name,
                    f"no gradient reaches the parameter {name!r} {tuple(p.shape)}",
                    "Use it in the program, remove it, or set requires_grad=False",
                )
        yield from _unregistered(look, parameters)
    except Exception as error:
        yield Problem(
            "",
            f"{type(pair.objective).__name__} fails on the pair: {_first_line(error)}",
            "Use an objective that suits its sites",
        )
    finally:
        for name, p in parameters.items():
            p.grad = before[name]


def _unregistered(look: _Look, parameters: dict[str, Any]) -> Iterator[Problem]:
    """Trainable tensors that the log-probabilities depend on and no optimizer would be given."""
    known = {id(p) for p in parameters.values()}
    for trace in look.traces():
        for name, site in _samples(trace).items():
            for leaf in _leaves(site["fn"].log_prob(site["value"])):
                if id(leaf) not in known:
                    known.add(id(leaf))
                    yield Problem(
                        name,
                        f"site {name!r} depends on a trainable tensor {tuple(leaf.shape)} that neither model nor guide registers, so it would never be trained",
                        "Assign its module as an attribute (not in a list or dict), or register it with pyro.module or pyro.param",
                    )


def _leaves(tensor: Tensor) -> Iterator[Tensor]:
    todo, seen = [tensor.grad_fn], set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        todo.extend(parent for parent, _ in node.next_functions)


def _peeks(look: _Look) -> Iterator[Problem]:
    """Draw without observing, from two batches that differ in the observed fields alone: nothing may change."""
    _, model = look.traces()
    observed = {n: s["value"] for n, s in _samples(model).items() if s["is_observed"]}
    fields = {
        name
        for name, tensor in look.pair.bound_model.arguments(look.batch).items()
        for value in observed.values()
        if value.numel() == tensor.numel() and torch.equal(value.reshape(tensor.shape).to(tensor.dtype), tensor)
    }
    changed = {name: tensor.roll(1, 0) if name in fields else tensor for name, tensor in look.batch.items()}
    first, second = _drawn(look, look.batch), _drawn(look, changed)
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
                f"drawn without observing, site {name!r} has shape {tuple(value.shape)} and the data have {tuple(observed[name].shape)}",
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


def _drawn(look: _Look, batch: Batch) -> dict[str, Tensor] | str:
    torch.manual_seed(1)
    try:
        with torch.no_grad(), pyro.validation_enabled(False):
            trace = poutine.trace(poutine.uncondition(look.pair.bound_model)).get_trace(batch)
    except Exception as error:
        return _first_line(error)
    return {name: site["value"] for name, site in _samples(trace).items()}


def _samples(trace: Trace) -> dict[str, dict]:
    """Random variables proper: no plates' subsampling, no factors."""
    return {n: s for n, s in trace.nodes.items() if is_site(s) and not isinstance(s["fn"], Unit)}


def _family(fn: Any) -> str:
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return type(fn).__name__


def _example(value: Tensor, valid: Tensor, fn: Any) -> str:
    rows = value.reshape(-1, *fn.event_shape)[~valid.reshape(-1)] if valid.dim() < value.dim() else value[~valid]
    flat = rows.reshape(-1)
    odd = flat[(flat != 0) & (flat != 1)]
    return f"such as {(odd if len(odd) else flat)[0].item():.4g}"


def _remedy(value: Tensor, family: str) -> str:
    unit = bool(((value >= 0) & (value <= 1)).all())
    if family == "Bernoulli" and unit:
        return "Binarize the data (--binarize dynamic or static), or use a likelihood for grey values (--likelihood normal)"
    if unit:
        return "Use a likelihood with these values in its support (--likelihood normal)"
    return "Rescale the data to the likelihood's support, or use one for real values (--likelihood normal)"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def _without_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
