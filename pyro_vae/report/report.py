"""``report.html``: what a run trained and, once it was diagnosed, whether to trust it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_vae.data import Data
from pyro_vae.diagnostics import Diagnosis
from pyro_vae.evidence import Figures, baseline
from pyro_vae.posterior import ACTIVE_VARIANCE
from pyro_vae.program import Pair
from pyro_vae.report.captions import answer, examined
from pyro_vae.report.evaluation import evaluated
from pyro_vae.report.page import embedded, png, rendered
from pyro_vae.report.sections import FIRST, draw_all, pictures, programs, repeat, summary
from pyro_vae.runs import Run, figures_in, replacing, write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_run_report(run: Run, pair: Pair, data: Data, figures: Figures, diagnosis: Diagnosis | None = None) -> Path:
    """Write ``report.html`` and ``figures/*.png`` into a run's folder and return the report's path.

    The report needs no other file and no network.

    Args:
        run: of the pair, finished or stopped.
        pair: with the parameters to be shown.
        data: that it was trained on.
        figures: what ``evaluate`` returned.
        diagnosis: its verdicts and pictures become part of the report; its tree becomes
            ``posterior.nc``.
    """
    drawn = draw_all(run, pair, data)
    folder = figures_in(run.folder)
    for name, picture in drawn.pictures.items():
        write_whole(folder / f"{name}.png", picture)
    shown = {
        "argument": run.argument,
        "summary": summary(run, pair, data, figures),
        "evaluation": evaluated(run),
        "curves": pictures(run, drawn, ["curves"]),
        "graph": pictures(run, drawn, ["graph"]),
        "programs": programs(pair),
        "pictures": pictures(run, drawn, [name for name in drawn.pictures if name not in FIRST]),
        "left_out": drawn.left_out,
        "repeat": repeat(run, pair, data),
    }
    verdicts = None if diagnosis is None else _diagnosed(diagnosis, run.folder)
    opening = answer(figures, baseline(figures, data), diagnosis)
    return _write(run.folder, title=f"{pair.title} on {data.spec.name}", answer=opening, run=shown, diagnosis=verdicts)


def write_report(diagnosis: Diagnosis, folder: str | os.PathLike, *, title: str = "Diagnosis") -> Path:
    """Write ``report.html`` of a diagnosis without a run; return its path."""
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    return _write(place, title=title, diagnosis=_diagnosed(diagnosis, place))


def _write(folder: Path, **shown: Any) -> Path:
    report = folder / "report.html"
    write_whole(report, rendered("report.html.j2", **shown).encode())
    return report


def _diagnosed(diagnosis: Diagnosis, folder: Path) -> dict[str, Any]:
    """Return verdicts and pictures; write ``figures/diagnose-*.png`` and ``posterior.nc`` too."""
    own = figures_in(folder)
    shown = []
    for name, figure in figures(diagnosis).items():
        picture = png(figure)
        write_whole(own / f"diagnose-{name}.png", picture)
        shown.append(embedded(picture, name, caption=examined(name, diagnosis)))
    if diagnosis.tree is not None:
        write_tree(diagnosis.tree, folder / "posterior.nc")
    about = f"{diagnosis.num_data} data of the {diagnosis.split} split, budget {diagnosis.budget}, "
    return {
        "about": f"{about}{diagnosis.seconds:.0f} s.",
        "verdicts": diagnosis.verdicts,
        "pictures": shown,
    }


def write_tree(tree: Any, path: str | os.PathLike) -> None:
    """Write a tree as compressed netCDF; binary pictures shrink thirtyfold."""
    encoding = {
        f"/{group}": {str(name): {"zlib": True, "complevel": 3} for name in node.data_vars}
        for group, node in tree.children.items()
    }
    with replacing(Path(path)) as temporary:
        tree.to_netcdf(temporary, encoding=encoding)


def figures(diagnosis: Diagnosis) -> "dict[str, Figure]":
    """Return a figure for everything that was found and can be drawn."""
    found = diagnosis.subject.found
    drawn: dict[str, Figure] = {}
    for name, (key, draw) in (PICTURES | (WITH_DATA if diagnosis.subject.data is not None else {})).items():
        if key in found:
            drawn[name] = draw(diagnosis)
    return drawn


def _axes(title: str, xlabel: str, ylabel: str, height: float = 3.0) -> tuple[Any, Any]:
    from pyro_vae.plots import NORMAL, page

    figure = page(height)
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=NORMAL + 1)
    axes.set_xlabel(xlabel, fontsize=NORMAL)
    axes.set_ylabel(ylabel, fontsize=NORMAL)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _khat(diagnosis: Diagnosis) -> "Figure":
    from pyro_vae.plots import BLUE, GREY, ORANGE

    khat = diagnosis.subject.found["khat"]
    top = 2.0  # larger values are shown there
    values = khat[khat.isfinite()].clamp(-0.5, top).cpu().numpy()
    figure, axes = _axes(
        "How far to trust q(z | x), by datum: not above 0.7", "Pareto k-hat (the last bar holds all above)", "data"
    )
    axes.hist(values, bins=40, range=(-0.5, top), color=BLUE)
    axes.axvline(0.5, color=GREY, lw=1, ls="--")
    axes.axvline(0.7, color=ORANGE, lw=1.5)
    return figure


def _worst(diagnosis: Diagnosis) -> "Figure":
    """The data that q serves worst, above those that it serves best."""
    from pyro_vae.plots import sheet

    subject = diagnosis.subject
    assert subject.data is not None
    order = subject.found["khat"].nan_to_num().argsort(descending=True)
    count = min(10, len(order) // 2)
    x = torch.stack([subject.test["x"][order[:count]], subject.test["x"][order[-count:]]])
    return sheet(x, subject.data, title="Data by k-hat", rows=["worst served", "best served"])


def _gaps(diagnosis: Diagnosis) -> "Figure":
    from pyro_vae.plots import BLUE, ORANGE, SMALL

    found = diagnosis.subject.found
    parts = {diagnosis.split: found["gaps"]} | ({"train": found["gaps_train"]} if "gaps_train" in found else {})
    figure, axes = _axes("What the ELBO loses", "nats per datum", "", 0.9 + 0.5 * len(parts))
    for i, (name, gap) in enumerate(parts.items()):
        first = i == 0
        axes.barh(name, gap.approximation, color=BLUE, label="family of q" if first else None)
        axes.barh(name, gap.amortization, left=gap.approximation, color=ORANGE, label="encoder" if first else None)
    axes.legend(fontsize=SMALL, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _ranks(diagnosis: Diagnosis) -> "Figure":
    """Draw the ranks' ECDF minus uniform, with a 99 % band for one quantity at one point."""
    from pyro_vae.plots import BLUE, GREY, ORANGE, SMALL

    found = diagnosis.subject.found["calibration"]
    figure, axes = _axes(
        "Ranks of the truth among draws from q: inside the band if q is right", "rank, as a fraction", "ECDF - uniform"
    )
    size = len(next(iter(found.ranks.values())))
    line = torch.linspace(0, 1, 101, dtype=torch.float64)
    band = 2.6 * (line * (1 - line) / size).sqrt()
    axes.fill_between(line.numpy(), -band.numpy(), band.numpy(), color=GREY, alpha=0.3, lw=0)
    for name, ranks in found.ranks.items():
        worst = name == found.worst
        difference = _ecdf((ranks + 0.5) / (found.num_samples + 1), line) - line
        axes.plot(
            line.numpy(),
            difference.numpy(),
            color=ORANGE if worst else BLUE,
            lw=1.8 if worst else 0.6,
            alpha=1.0 if worst else 0.5,
            label=f"worst: {name}" if worst else None,
        )
    axes.legend(fontsize=SMALL, frameon=False)
    return figure


def _ecdf(values: Tensor, at: Tensor) -> Tensor:
    return torch.searchsorted(values.double().sort().values, at, right=True).double() / len(values)


def _coverage(diagnosis: Diagnosis) -> "Figure":
    from pyro_vae.plots import BLUE, GREY

    coverage = diagnosis.subject.found["coverage"]
    figure, axes = _axes("Coverage of credible regions", "credibility", "how often they hold the truth", 3.4)
    line = torch.linspace(0, 1, 51, dtype=torch.float64)
    axes.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--")
    band = 2.6 * (line * (1 - line) / len(coverage.fractions)).sqrt()  # 99 % at one level, if q is right
    axes.fill_between(line.numpy(), (line - band).numpy(), (line + band).numpy(), color=GREY, alpha=0.3, lw=0)
    axes.plot(line.tolist(), [coverage.at(level) for level in line.tolist()], color=BLUE)
    axes.set_aspect("equal")
    return figure


def _units(diagnosis: Diagnosis) -> "Figure":
    from pyro_vae.plots import BLUE, ORANGE, SMALL

    means = diagnosis.subject.found["means"]
    figure, axes = _axes(
        "Activity of latent dimensions", "dimension, most active first", "variance of E[z | x] over the data"
    )
    start = 0
    for name, mean in means.items():
        variance = mean.double().var(0, correction=0).sort(descending=True).values.clamp(min=1e-6).tolist()
        axes.bar(range(start, start + len(variance)), variance, color=BLUE)
        axes.annotate(name, (start, variance[0]), (0, 3), textcoords="offset points", fontsize=9, ha="center")
        start += len(variance) + 1
    axes.axhline(ACTIVE_VARIANCE, color=ORANGE, lw=1)
    axes.annotate(
        "active above",
        (1.0, ACTIVE_VARIANCE),
        (0, 2),
        ("axes fraction", "data"),
        "offset points",
        fontsize=SMALL,
        ha="right",
    )
    axes.set_yscale("log")
    return figure


def _pixels(diagnosis: Diagnosis) -> "Figure":
    from pyro_vae.plots import BLUE, GREY

    found = diagnosis.subject.found["pixels"]
    known = found.pixels > 0
    figure, axes = _axes("Calibration of pixels", "predicted probability", "frequency", 3.4)
    axes.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--")
    axes.plot(found.predicted[known].tolist(), found.frequency[known].tolist(), "o-", color=BLUE)
    axes.set_aspect("equal")
    return figure


def _samples(diagnosis: Diagnosis) -> "Figure":
    from pyro_vae.plots import sheet

    subject = diagnosis.subject
    assert subject.data is not None
    x = torch.stack([subject.found["samples"][:12], subject.test["x"][:12]])
    return sheet(x, subject.data, title="Draws from the model beside data", rows=["model", "data"])


PICTURES: "dict[str, tuple[str, Callable[[Diagnosis], Figure]]]" = {
    "khat": ("khat", _khat),
    "gaps": ("gaps", _gaps),
    "ranks": ("calibration", _ranks),
    "coverage": ("coverage", _coverage),
    "units": ("means", _units),
    "pixels": ("pixels", _pixels),
}
WITH_DATA: "dict[str, tuple[str, Callable[[Diagnosis], Figure]]]" = {
    "worst": ("khat", _worst),
    "samples": ("samples", _samples),
}
