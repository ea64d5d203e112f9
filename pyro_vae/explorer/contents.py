"""What a page of the latent explorer holds: programs, weights, codes of data and draws."""

import base64
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.data import Data
from pyro_vae.evidence import meaning_of
from pyro_vae.explorer.controls import Control, Level, controls_of, levels_of
from pyro_vae.explorer.recording import record
from pyro_vae.posterior import (
    AtMean,
    Given,
    NotDrawable,
    centres,
    draw_latents,
    kl_by_dimension,
    observed_sites,
    repeat_batch,
)
from pyro_vae.program import Batch, Pair, PairError, evaluation, is_latent, uncondition

DRAWS = 200  # of the prior, to walk through


def contents(pair: Pair, data: Data, *, count: int, split: str | None, seed: int) -> dict[str, Any]:
    """Return all that the page shows, ready for JSON.

    Raises:
        NotDrawable: the pair has nothing to move.
        PairError: the mean of x needs an operation that pages do not know.
    """
    split = data.choose(split)
    batch = data.batch(split, min(count, data.size(split)))
    few = {name: value[:2] for name, value in batch.items()}
    controls = controls_of(pair, few, data.spec)
    with evaluation(pair, 0):
        observed = observed_sites(pair, few)
    if "x" not in observed:
        raise NotDrawable(f"the model observes {', '.join(map(repr, observed))} and no 'x' to be shown")
    one = {name: value[:1] for name, value in batch.items()}
    levels = levels_of(pair, few, controls, "x")
    weights: list[Tensor] = []
    programs = []
    for level in levels:
        mean = partial(_mean, pair, one, controls, level)
        recording = record(mean, _inputs(controls, level), sum(map(len, weights)))
        weights += recording.constants
        programs.append({"steps": recording.steps, "result": recording.result})
    codes = _codes(pair, batch, controls, seed)
    drawn = _values(controls, draw_latents(pair, many := repeat_batch(batch, DRAWS), {}, seed=seed), many)
    return {
        **_described(data, split, batch),
        "controls": [_shown(pair, batch, control, codes, drawn) for control in controls.values()],
        "levels": [
            {"name": level.name, "moved": level.moved, "follows": level.follows, "program": program}
            for level, program in zip(levels, programs, strict=True)
        ],
        "weights": packed(torch.cat(weights) if weights else torch.empty(0)),
        "codes": {name: packed(value) for name, value in codes.items()},
        "draws": {name: packed(value) for name, value in drawn.items()},
        "rows": len(batch["x"]) if codes else 0,
        "draw_rows": DRAWS,
    }


def _inputs(controls: Mapping[str, Control], level: Level) -> dict[str, Tensor]:
    """Return stand-ins of the values that a page gives: sizes alone count."""
    return {name: _stand_in(controls[name]) for name in level.moved}


def _stand_in(control: Control) -> Tensor:
    whole = control.kind == "class" and not control.event  # a class by its number
    return torch.zeros(1, dtype=torch.long) if whole else torch.zeros(1, control.size)


def _mean(pair: Pair, batch: Batch, controls: Mapping[str, Control], level: Level, given: dict[str, Tensor]) -> Tensor:
    """Return E[x | z] of one datum, ``(1, features)``, where ``level``'s sites are given."""
    values = {name: given[name].reshape(1, *controls[name].event) for name in given}
    fields = {**batch, **{name: value for name, value in values.items() if not controls[name].latent}}
    sites = {name: value for name, value in values.items() if controls[name].latent}
    held = {name: batch[name] for name in observed_sites(pair, batch) if name in batch}
    with evaluation(pair, 0), pyro.validation_enabled(False), AtMean(), Given({**held, **sites}):
        nodes = poutine.trace(uncondition(pair.bound_model)).get_trace(fields).nodes
    for name in level.follows:
        if is_latent(nodes[name]) and not nodes[name]["fn"].has_rsample:
            raise PairError(f"{name} has no mean to follow at, so that {level.name} cannot be moved alone")
    try:
        return nodes["x"]["fn"].mean.reshape(1, -1)
    except NotImplementedError:
        raise PairError(
            "p(x | z) has no mean in closed form, and the explorer shows means; draw `samples` or `traversal`"
        ) from None


def _codes(pair: Pair, batch: Batch, controls: Mapping[str, Control], seed: int) -> dict[str, Tensor]:
    """Return where the guide puts data, ``(data, size)`` or classes ``(data, 1)``; nothing where it
    leaves a latent site out.
    """
    if not meaning_of(pair, batch).inferred:
        return {}
    return _values(controls, centres(pair, batch, seed=seed), batch)


def _values(controls: Mapping[str, Control], sites: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
    rows = len(batch["x"])
    found = {}
    for name, control in controls.items():
        value = sites[name] if control.latent else batch[name]
        if control.kind == "class":
            value = value.argmax(-1) if control.event else value
            found[name] = value.expand(rows).reshape(rows, 1)
        else:
            found[name] = value.expand(rows, *control.event).reshape(rows, control.size)
    return found


def _shown(
    pair: Pair, batch: Batch, control: Control, codes: Mapping[str, Tensor], drawn: Mapping[str, Tensor]
) -> dict[str, Any]:
    """Return a control as the page draws it: where sliders begin and end, largest worth first."""
    name = control.name
    fixed = {
        "name": name,
        "kind": control.kind,
        "size": control.size,
        "latent": control.latent,
        "indicator": bool(control.event),
        "labels": control.labels,
    }
    if control.kind == "class":
        return fixed
    known = drawn[name].double() if control.latent or not codes else codes[name].double()
    low, high = known.mean(0) - 3 * known.std(0, correction=0), known.mean(0) + 3 * known.std(0, correction=0)
    if not control.latent:
        low, high = known.min(0).values, known.max(0).values
    if codes:
        low, high = low.minimum(codes[name].double().min(0).values), high.maximum(codes[name].double().max(0).values)
    worth = kl_by_dimension(pair, [batch], num_samples=2).get(name) if control.latent and codes else None
    return {
        **fixed,
        "low": low.tolist(),
        "high": torch.where(high > low, high, low + 1).tolist(),
        "start": known.mean(0).tolist(),
        "worth": None if worth is None else worth.tolist(),
    }


def _described(data: Data, split: str, batch: Batch) -> dict[str, Any]:
    spec, x = data.spec, batch["x"]
    image = spec.image if spec.image is not None and min(spec.image[1:]) > 1 else None
    low, high = x.double().quantile(0.05, 0), x.double().quantile(0.95, 0)
    y = batch["y"] if "y" in batch and batch["y"].dim() == 1 and not batch["y"].is_floating_point() else None
    return {
        "data": spec.name,
        "split": split,
        "image": image,
        "features": spec.features,
        "sequence": spec.sequence,
        "names": spec.feature_names,
        "low": low.tolist(),
        "high": high.tolist(),
        "x": packed((x.clamp(0, 1) * 255).round().byte() if image else x),
        "y": None if y is None else y.tolist(),
        "classes": [] if y is None else [spec.class_label(k) for k in range(spec.classes or int(y.max()) + 1)],
    }


def packed(values: Tensor) -> str:
    """Return numbers as the base64 of little-endian float32, or of bytes where they are bytes."""
    kind = "<u1" if values.dtype == torch.uint8 else "<f4"
    return base64.b64encode(np.ascontiguousarray(values.detach().cpu().numpy(), kind).tobytes()).decode()
