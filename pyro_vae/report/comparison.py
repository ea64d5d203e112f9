"""One page of a comparison: its tables, samples side by side, and every figure as bars."""

import os
from pathlib import Path

import torch

from pyro_vae.comparison import Comparison, Row, remarks, sections
from pyro_vae.plots import bars, sheet
from pyro_vae.report.page import embedded, png, rendered
from pyro_vae.runs import write_whole


def write_comparison(comparison: Comparison, path: str | os.PathLike) -> Path:
    """Write a comparison as one page that needs no other file and no network; return its path."""
    place = Path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    spec = comparison.data.spec
    page = rendered(
        "comparison.html.j2",
        title=f"{len(comparison.rows)} models of {spec.name}",
        about=f"{spec.description}; {comparison.split} split, {comparison.data.size(comparison.split):,} data.",
        sections=sections(comparison),
        remarks=remarks(comparison),
        pictures=[embedded(png(figure), name) for name, figure in pictures(comparison).items()],
    )
    write_whole(place, page.encode())
    return place


def pictures(comparison: Comparison) -> dict:
    """Return the figures of a comparison by name: its samples, and its figures as bars."""
    found = {}
    shown = {row.name: row.shown for row in (*comparison.rows, *comparison.references) if row.shown is not None}
    if shown:
        count = min(map(len, shown.values()))
        x = torch.stack([samples[:count] for samples in shown.values()])
        found["samples"] = sheet(x, comparison.data, title="Draws from each model", rows=list(shown))
    panels = _panels(comparison)
    if panels:
        found["figures"] = bars(panels)
    return found


def _log_p(row: Row) -> float | None:
    return row.density.value if row.density is not None and row.density.quantity == "log p(x)" else None


def _panels(comparison: Comparison) -> dict[str, dict[str, float]]:
    """Return each figure that two rows or more have, by row."""
    everything = (*comparison.rows, *comparison.references)
    of = {
        "log p(x) or its bound, nats": _log_p,
        "told apart (chance 0.5)": lambda row: row.sampling and row.sampling.two_sample,
        "Frechet distance": lambda row: row.sampling and row.sampling.frechet,
        "coverage": lambda row: row.sampling and row.sampling.coverage,
        "linear probe": lambda row: row.representation and row.representation.linear,
        "seconds of training": lambda row: row.cost and row.cost.train,
    }
    panels = {}
    for title, figure in of.items():
        values = {row.name: figure(row) for row in everything}
        known = {name: float(value) for name, value in values.items() if value is not None}
        if len(known) > 1:
            panels[title] = known
    return panels
