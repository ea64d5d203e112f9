"""What a page can move: latent sites and labels, and which of them x depends on at each level."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.data import Spec
from pyro_vae.evidence import meaning_of
from pyro_vae.posterior import NotDrawable
from pyro_vae.program import Batch, Pair, evaluation, innermost, is_discrete, is_latent, structure

MOST_LEVELS = 8


class Control(NamedTuple):
    """A latent site or a label that can be set."""

    name: str
    kind: str
    """"vector": numbers to slide; "class": one of ``size`` values."""
    size: int
    event: tuple[int, ...]
    """Shape of one datum's value: a class is a whole number, ``()``, or an indicator vector."""
    latent: bool
    labels: tuple[str, ...] = ()
    """Of classes."""


class Level(NamedTuple):
    """One way to move x: some sites are set, and what depends on them follows at its mean."""

    name: str
    set_sites: tuple[str, ...]
    """Latent sites whose value is given."""
    moved: tuple[str, ...]
    """Of these and of the labels: those that x then depends on."""
    follows: tuple[str, ...]
    """Latent sites between, at their means."""


def controls_of(pair: Pair, batch: Batch, spec: Spec) -> dict[str, Control]:
    """Return the latent sites and labels that can be set, by name.

    Raises:
        NotDrawable: nothing can be moved, or the model is given more than labels.
    """
    with evaluation(pair, 0):
        nodes = poutine.trace(pair.bound_model).get_trace(batch).nodes
    found: dict[str, Control] = {}
    for name, site in nodes.items():
        if is_latent(site) and {frame.name for frame in site["cond_indep_stack"]} == {pair.data_plate}:
            control = _site(name, site, spec)
            found |= {} if control is None else {name: control}
    if not found:
        raise NotDrawable("the model has no latent value per datum, so there is nothing to move; draw `samples`")
    for name in meaning_of(pair, batch).given:
        if name != "y" or name in found:
            raise NotDrawable(
                f"the model is given {name}, and the explorer moves latent sites and labels y only; draw `completions`"
            )
        found[name] = _label(batch[name], spec)
    return found


def _site(name: str, site: Mapping[str, Any], spec: Spec) -> Control | None:
    fn = innermost(site["fn"])
    event = tuple(site["fn"].event_shape)
    if not is_discrete(site):
        if len(event) > 1 or not site["value"].is_floating_point():
            return None
        return Control(name, "vector", event[0] if event else 1, event, True)
    try:
        values = fn.enumerate_support(expand=False)
    except NotImplementedError:
        return None
    size = len(values)
    if len(event) > 1 or size > 1000 or (event and event != (size,)):
        return None
    if not event and not torch.equal(values.reshape(-1).long(), torch.arange(size, device=values.device)):
        return None
    named = name == "y" and spec.classes == size
    return Control(
        name, "class", size, event, True, tuple(spec.class_label(k) if named else str(k) for k in range(size))
    )


def _label(y: Tensor, spec: Spec) -> Control:
    if y.is_floating_point():
        event = tuple(y.shape[1:])
        return Control("y", "vector", y[0].numel(), event, False)
    classes = spec.classes or int(y.max()) + 1
    return Control("y", "class", classes, (), False, tuple(map(spec.class_label, range(classes))))


def levels_of(pair: Pair, batch: Batch, controls: Mapping[str, Control], site: str) -> list[Level]:
    """Return the ways to move ``site``, the observed one: all latent sites set, or only upper ones.

    Raises:
        NotDrawable: there are too many levels, or a site between has no mean.
    """
    nodes = structure(pair, pair.bound_model, batch)
    parents = {node.name: node.parents for node in nodes}
    latent = [node.name for node in nodes if node.kind == "latent"]
    found: dict[tuple[str, ...], Level] = {}
    for name in (n for n in latent if n in controls):
        below = _below(parents, name)
        fixed = tuple(other for other in latent if other not in below and other in controls)
        reached = _reached(parents, site, fixed)
        moved = tuple(
            other for other in controls if other in reached and (other in fixed or not controls[other].latent)
        )
        follows = tuple(other for other in latent if other in reached and other not in fixed)
        if moved and moved not in found:
            found[moved] = Level(" and ".join(moved), fixed, moved, follows)
    if len(found) > MOST_LEVELS:
        raise NotDrawable(f"the model has {len(found)} levels, and the explorer shows {MOST_LEVELS}; draw `denoising`")
    if not found:
        raise NotDrawable(f"{site} depends on no latent site that can be moved; draw `samples`")
    return list(found.values())


def _below(parents: Mapping[str, tuple[str, ...]], name: str) -> set[str]:
    found: set[str] = set()
    for other, above in parents.items():  # in the program's order
        if found & set(above) or name in above:
            found.add(other)
    return found


def _reached(parents: Mapping[str, tuple[str, ...]], site: str, stops: tuple[str, ...]) -> set[str]:
    """Return what a site depends on, not looking behind ``stops``."""
    found, waiting = set(), list(parents[site])
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += [] if name in stops else parents.get(name, ())
    return found
