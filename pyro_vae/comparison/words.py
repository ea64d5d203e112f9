"""The comparison as tables of words, one for each of the uses that models are put to."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from pyro_vae.comparison.sampling import Sampling
from pyro_vae.comparison.table import Row, Table
from pyro_vae.data import Spec


class Section(NamedTuple):
    """A table: a line for each row, its name first."""

    title: str
    heads: list[str]
    lines: list[list[str]]


def sections(comparison: Table) -> list[Section]:
    """Return the tables: density, sampling, representation and cost."""
    rows, everything = comparison.rows, [*comparison.rows, *comparison.references]
    parts = [
        _section("Density", ["nats per datum", "bits/dim"], rows, _density),
        _section(
            f"Sampling, {comparison.samples} samples" if comparison.samples else "Sampling",
            ["told apart", "Frechet", "density", "coverage", "classes", "nearer to training"],
            [row for row in everything if row.sampling or row in rows],
            _sampling,
        ),
        _section(
            "Representation",
            ["linear probe", "neighbours", "active units", "numbers"],
            [row for row in everything if row.representation or row in rows],
            _representation,
        ),
        _section("Cost", ["training", "a sample", "a datum's log p(x)"], rows, _cost),
    ]
    return [part for part in parts if comparison.samples or not part.title.startswith("Sampling")]


def _section(title: str, heads: list[str], rows: Sequence[Row], cells: Callable[[Row], list[str]]) -> Section:
    return Section(title, ["", *heads], [[row.name, *cells(row)] for row in rows])


def _density(row: Row) -> list[str]:
    return ["-", "-"] if row.density is None else [row.density.words, row.density.bits]


def _sampling(row: Row) -> list[str]:
    if (found := row.sampling) is None:
        return ["-"] * 6
    return [
        f"{found.two_sample:.2f} ± {found.two_sample_stderr:.2f}",
        "-" if found.frechet is None else f"{found.frechet:.2f}",
        f"{found.density:.2f}",
        f"{found.coverage:.2f}",
        "-" if found.classes is None else f"{found.classes} of {found.num_classes}",
        f"{found.copies:.2f} ± {found.copies_stderr:.2f}" + (" copies" if found.memorised else ""),
    ]


def _representation(row: Row) -> list[str]:
    if (found := row.representation) is None:
        return ["no codes" if row.left_out.get("representation", "").startswith("no codes") else "-", "-", "-", "-"]
    units = "-" if found.active_units is None else f"{found.active_units} of {found.latent}"
    return [_percent(found.linear), _percent(found.neighbours), units, str(found.size)]


def _cost(row: Row) -> list[str]:
    return ["-"] * 3 if row.cost is None else [*map(seconds, (row.cost.train, row.cost.sample, row.cost.score))]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def seconds(value: float | None) -> str:
    """Return seconds as tables show them.

    >>> seconds(None), seconds(754.0), seconds(12.34), seconds(0.0123), seconds(0.0000045)
    ('-', '754 s', '12.3 s', '12.3 ms', '4.5 us')
    """
    if value is None:
        return "-"
    scale, unit = (1.0, "s") if value >= 1 else (1e3, "ms") if value >= 1e-3 else (1e6, "us")
    return f"{value * scale:.0f} {unit}" if value * scale >= 99.95 else f"{value * scale:.3g} {unit}"


def remarks(comparison: Table) -> list[str]:
    """Return what has to be said below the tables, a sentence or two each."""
    said = [_how_sampled(comparison)] if comparison.samples else []
    known = [row.density for row in comparison.rows if row.density and row.density.value is not None]
    if any(density.is_density for density in known):
        said.append("x are real values, so log p(x) is a density, may be positive, and has no bits per dimension.")
    quantities = {density.quantity for density in known}
    if len(quantities) > 1:
        said.append(f"{', '.join(sorted(quantities))} are different quantities: compare like with like.")
    if any(density.upper is None for density in known):
        said.append("A figure with >= is a bound: log p(x) may be larger than it, and than others that are smaller.")
    for row in comparison.rows:
        said += _of_row(row, comparison.data.spec)
    said += [f"No {column}: {why}." for column, why in comparison.left_out.items()]
    return said


def _how_sampled(comparison: Table) -> str:
    eyes = "x itself"
    if comparison.judge is not None:
        eyes = (
            "the hidden layer of one perceptron, trained on the training split with a fixed seed and right on "
            f"{_percent(comparison.judge)} of the held-out data"
        )
    chance = next((row.sampling.coverage_expected for row in comparison.rows if row.sampling), None)
    cover = "" if chance is None else f" (for samples of the truth 1 and {chance:.2f})"
    return (
        f"Told apart: accuracy of a classifier of samples and as many data of the {comparison.split} split, 0.5 by "
        f"chance. Nearer to training: share of samples, 0.5 by chance, 1 for copies. Frechet distance, density and "
        f"coverage{cover} are in {eyes}; a Frechet distance is to be read beside that of real data."
    )


def _of_row(row: Row, spec: Spec) -> list[str]:
    names = {"density": "log p(x)", "sampling": "samples", "representation": ""}
    said = [f"{row.name}: {f'no {names[part]}: ' if names[part] else ''}{why}." for part, why in row.left_out.items()]
    if row.sampling is not None:
        said += _of_samples(row.name, row.sampling, spec)
    return said


def _of_samples(name: str, found: Sampling, spec: Spec) -> list[str]:
    said = []
    if found.missed:
        missed = ", ".join(map(spec.class_label, found.missed))
        said.append(f"{name}: its samples lack {'the class' if len(found.missed) == 1 else 'the classes'} {missed}.")
    if found.memorised:
        said.append(
            f"{name}: its samples lie nearer to training data than to data held out, as copies do; look at them."
        )
    return said


def as_text(comparison: Table) -> str:
    """Return the tables as plain text."""
    lines = [f"{comparison.data.spec.description}; {comparison.split} split"]
    for section in sections(comparison):
        cells = [section.heads, *section.lines]
        widths = [max(len(line[i]) for line in cells) for i in range(len(section.heads))]
        lines += ["", section.title]
        for line in cells:
            first, *rest = (
                cell.rjust(width) if i else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            lines.append("  ".join([first, *rest]).rstrip())
    return "\n".join([*lines, "", *remarks(comparison)])
