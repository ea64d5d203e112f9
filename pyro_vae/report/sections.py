"""The sections of ``report.html``: what was trained, how it went, and how to repeat it.

Each function returns what ``report.html.j2`` shows of it; the template holds all HTML and escapes
whatever it is given.
"""

import inspect
import math
import platform
import shlex
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any, NamedTuple

from torch import nn

from pyro_vae import __version__
from pyro_vae.data import Data
from pyro_vae.evidence import FEW, Figures, Meaning, baseline, folded, remarks, rows
from pyro_vae.program import BatchProgram, Pair
from pyro_vae.report.captions import GOOD
from pyro_vae.report.page import Picture, embedded, png
from pyro_vae.runs import Run

FIRST = ("graph", "curves")  # shown beside the programs and the training, the rest below


class Drawn(NamedTuple):
    """Every picture of a run: as PNG by name, and one sentence for each that does not apply."""

    pictures: dict[str, bytes]
    left_out: dict[str, str]


def draw_all(run: Run, pair: Pair, data: Data) -> Drawn:
    """Draw everything that can be drawn of one run."""
    from pyro_vae.plots import OF_HISTORY, PICTURES
    from pyro_vae.posterior import NotDrawable

    drawn = Drawn({}, {})
    for name, draw in PICTURES.items():
        if name == "rate-distortion":  # compares runs
            continue
        try:
            drawn.pictures[name] = png(draw(run.history) if name in OF_HISTORY else draw(pair, data))
        except NotDrawable as reason:
            drawn.left_out[name] = str(reason)
        except (
            RuntimeError,
            ValueError,
            TypeError,
            KeyError,
            IndexError,
            AttributeError,
            NotImplementedError,
        ) as error:
            # a pair from elsewhere may do what no picture expects; the run is whole without it
            drawn.left_out[name] = f"could not be drawn for this pair ({type(error).__name__}: {first_line(error)})"
    return drawn


def summary(run: Run, pair: Pair, data: Data, figures: Figures) -> dict[str, Any]:
    """Return what was trained, on what, and what it reaches, beside PCA of the same size."""
    meaning, whole = figures.meaning, figures.meaning.is_evidence(figures.sites)
    count = sum(parameter.numel() for parameter in pair.named_parameters().values())
    recipe = pair.recipe or {"options": {}}
    options = ", ".join(f"{name} {value}" for name, value in recipe["options"].items() if value is not None)
    about = [
        ("pair", (pair.title if pair.recipe else "from Python") + (f" ({options})" if options else "")),
        ("programs", f"{short(pair.bound_model)} and {short(pair.bound_guide)}, {count:,} parameters"),
        *([("parts", "; ".join(found))] if (found := parts(pair)) else []),
        ("data", data.spec.description),
        *([("classes", data.spec.class_list)] if data.spec.class_names else []),
        *([("categories", data.spec.category_list)] if data.spec.categorical else []),
        ("training", _training(run, meaning.evidence if whole else meaning.bound)),
        *([("machine", where)] if (where := _machine(run.machine)) else []),
    ]
    pca = baseline(figures, data)
    heads = ["", pair.title, *([f"PCA, {meaning.numbers} components"] if pca else [])]
    lines = [[row.label, row.value, *([row.baseline] if pca else [])] for row in rows(figures, pca)]
    caption = (
        f"{figures.split} split, {figures.num_data:,} data; nats per datum{'' if meaning.implicit else ' at beta = 1'}"
    )
    caption += ", the error in the data's unit" if figures.rms_error is not None else ""
    return {
        "about": about,
        "caption": caption,
        "heads": heads,
        "lines": lines,
        "remarks": [*_by_site(figures), *remarks(figures, pca)],
        "bound": "" if whole or meaning.implicit else _bound(meaning),
        "movable": bool(meaning.real) and not meaning.implicit and len(meaning.latent) <= FEW,
    }


def parts(pair: Pair) -> list[str]:
    """Return each conditional of the pair in words: its place, the widths of its net, its head."""
    from pyro_vae.conditionals import Conditional

    found = []
    for side, program in pair.modules().items():
        for name, module in program.named_modules():
            if isinstance(module, Conditional):
                linear = [layer for layer in module.net.modules() if isinstance(layer, nn.Linear)]
                widths = [linear[0].in_features, *(layer.out_features for layer in linear)] if linear else []
                net = f"{type(module.net).__name__} {'-'.join(map(str, widths))}".rstrip()
                found.append(f"{'.'.join(filter(None, (side, name)))}: {net}, {' '.join(repr(module.head).split())}")
    return found


def _bound(meaning: Meaning) -> str:
    """Say what the ELBO is, where it is one."""
    if meaning.points or not meaning.latent:
        return ""
    how = (
        ""
        if meaning.unweighable
        else (
            f" {meaning.evidence} is summed over the latent values exactly"
            if meaning.exact
            else f" {meaning.evidence} is estimated by importance sampling"
        )
    )
    compared = f"{how}; two pairs are compared by it, not by the ELBO." if how else ""
    return f"ELBO = reconstruction - KL is a lower bound on {meaning.evidence}; larger is better.{compared}"


def _training(run: Run, bound: str) -> str:
    history = run.history
    if not history:
        return "no finished epoch"
    took = "" if (seconds := run.seconds) is None else f" in {_duration(seconds)}"
    epochs = f"{len(history)} epoch{'s' if len(history) > 1 else ''}, {int(history[-1]['step']):,} steps{took}"
    if "figure" in history[0]:
        return f"{epochs}; the objective's figure is no ELBO, and curves show it"
    finite = [row for row in history if math.isfinite(row["elbo"])]
    if not finite:
        return f"{epochs}; no epoch's validation {bound} is finite, and the last parameters are kept"
    best = max(finite, key=lambda row: row["elbo"])
    kept = f"epoch {int(best['epoch'])} are kept, whose validation {bound} {best['elbo']:.2f} is the best"
    return f"{epochs}; the parameters of {kept}"


def _machine(known: Mapping[str, Any]) -> str:
    """Return in words where and when a run was trained last.

    >>> _machine({"processor": "AMD EPYC", "threads": 2, "torch": "2.11.0", "date": "2026-11-27"})
    'AMD EPYC, 2 threads, torch 2.11.0, on 2026-11-27'
    """
    threads = known.get("threads")
    said = [known.get("card"), known.get("processor"), threads and f"{threads} thread{'' if threads == 1 else 's'}"]
    said += [f"{what}{known[name]}" for name, what in (("torch", "torch "), ("date", "on ")) if name in known]
    return ", ".join(str(part) for part in said if part)


def _duration(seconds: float) -> str:
    """Return a time in words.

    >>> _duration(23.4), _duration(400)
    ('23 s', '6.7 minutes')
    """
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} minutes"


def _by_site(figures: Figures) -> list[str]:
    """Say what each latent site costs, where there are several."""
    meaning = figures.meaning
    sites = {name: nats for name, nats in figures.sites.items() if name not in meaning.observed}
    if len(sites) < 2:
        return []
    return [
        f"{meaning.divergence} by site: "
        + ", ".join(f"{name} {-nats:.2f}" for name, nats in folded(sites).items())
        + " nats."
    ]


def pictures(run: Run, drawn: Drawn, names: Iterable[str]) -> list[Picture]:
    """Return those of the named pictures that were drawn."""
    return [
        embedded(drawn.pictures[name], name, f"pyro-vae draw {run.argument} {name}", GOOD[name])
        for name in names
        if name in drawn.pictures
    ]


def programs(pair: Pair) -> list[dict[str, str]]:
    """Return the names and the sources of model and guide."""
    return [
        {"title": title, "name": short(bound), "source": _source(bound)}
        for title, bound in (("Model", pair.bound_model), ("Guide", pair.bound_guide))
    ]


def repeat(run: Run, pair: Pair, data: Data) -> dict[str, Any]:
    """Return the command that repeats the run, its settings, and the versions it was made with."""
    config = run.config
    settings = [
        (name.replace("_", " "), "none" if value is None else str(value)) for name, value in config["training"].items()
    ]
    versions = [("pyro_vae", __version__), ("python", platform.python_version())]
    versions += [(name, version(name)) for name in ("torch", "pyro-ppl", "numpy")]
    # as they were built anew: an older run's options may be refused today
    built = {"pair": pair.recipe or config["pair"], "data": data.recipe or config["data"]}
    return {"command": command({**config, **built}), "settings": settings, "versions": versions}


def command(config: Mapping[str, Any]) -> str | None:
    """Return the ``pyro-vae train`` that repeats a run; None if only a script can build it."""
    from pyro_vae.pairs import PAIRS
    from pyro_vae.training import Training

    if config["pair"] is None or config["data"] is None:
        return None
    words = ["pyro-vae", "train", config["pair"]["name"]]
    default = Training()
    training = {name: value for name, value in config["training"].items() if value != getattr(default, name, None)}
    known = inspect.signature(PAIRS[config["pair"]["name"]]).parameters if config["pair"]["name"] in PAIRS else {}
    usual = {name: parameter.default for name, parameter in known.items()}
    chosen = {name: value for name, value in config["pair"]["options"].items() if usual.get(name, ...) != value}
    options = {"data": config["data"]["name"], **config["data"]["options"], **chosen, **training}
    for name, value in options.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join(words)


def _source(bound: BatchProgram) -> str:
    program = bound.program
    while hasattr(program, "program"):  # under a handler
        program = program.program
    try:
        target = program if inspect.isroutine(program) else type(program)
        return inspect.getsource(target)
    except (OSError, TypeError):
        return "the source is not available"


def short(bound: BatchProgram) -> str:
    """Return a program's name without the module that it is from."""
    return bound.name.rsplit(".", 1)[-1]


def first_line(error: Exception) -> str:
    """Return the first line of what an error says."""
    return (str(error).splitlines() or ["no message"])[0]
