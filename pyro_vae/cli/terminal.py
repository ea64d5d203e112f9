"""What commands print: tables, notes on one line, and no control characters from strangers."""

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO


def visible(text: str) -> str:
    r"""Return ``text`` with control characters written as escapes: no name may steer a terminal.

    >>> visible("a\x1b[31mb")
    'a\\x1b[31mb'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def say(text: object, file: TextIO | None = None) -> None:
    """Print ``text`` on stdout or ``file``; escape control characters but line breaks."""
    print("\n".join(map(visible, str(text).split("\n"))), file=file or sys.stdout)


@contextmanager
def notes_on_stderr() -> Iterator[None]:
    """Print this package's own warnings as one line each, without file and line number."""
    with warnings.catch_warnings():
        others = warnings.showwarning

        def show(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
            if category.__module__.partition(".")[0] == __name__.partition(".")[0]:
                say(f"pyro-vae: note: {' '.join(str(message).split())}", sys.stderr)
            else:
                others(message, category, *where, **more)

        warnings.showwarning = show
        yield


def show_figures(figures: Any, pair: Any, data: Any) -> None:
    """Print the figures as a table, beside what PCA of the same size reaches."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from pyro_vae.evidence import baseline, remarks, rows

    pca = baseline(figures, data)
    table = Table()
    table.add_column("", no_wrap=True)
    table.add_column(Text(visible(pair.title)), justify="right", no_wrap=True)
    if pca:
        table.add_column(f"PCA, {figures.meaning.numbers} components", justify="right")
    for row in rows(figures, pca):
        style = "yellow" if row.doubtful else ""
        cells = [Text(visible(cell), style) for cell in (row.label, row.value)]
        table.add_row(*cells, *([row.baseline] if pca else []))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120  # a file has room for the words beside a doubtful figure
    console.print(f"{figures.split} split, {figures.num_data:,} data, nats per datum", soft_wrap=True)
    console.print(table)
    for remark in remarks(figures, pca):
        doubted = figures.doubtful and remark.startswith(figures.meaning.evidence)
        console.print(Text(visible(remark), "yellow" if doubted else ""), soft_wrap=True)


def show_verdicts(verdicts: Sequence[Any], title: str) -> None:
    """Print the verdicts of a diagnosis as a table."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    colours = {"good": "green", "fair": "yellow", "bad": "red"}
    table = Table(title=title, title_justify="left")
    for column in ("check", "verdict", "what it means"):
        table.add_column(column)
    for verdict in verdicts:
        style = colours.get(verdict.verdict, "")
        table.add_row(Text(visible(verdict.check)), Text(verdict.verdict, style), Text(visible(verdict.advice)))
    Console().print(table)


def show_comparison(comparison: Any) -> None:
    """Print runs side by side, a table for each use that models are put to."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from pyro_vae.comparison import remarks, sections

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120
    console.print(Text(visible(f"{comparison.data.spec.description}; {comparison.split} split")), soft_wrap=True)
    references = {row.name for row in comparison.references}
    for section in sections(comparison):
        table = Table(title=section.title, title_justify="left")
        for i, head in enumerate(section.heads):
            table.add_column(Text(head), justify="right" if i else "left", no_wrap=not i)
        for line in section.lines:
            style = "dim" if line[0] in references else ""
            table.add_row(*(Text(visible(cell), style) for cell in line))
        console.print(table)
    for remark in remarks(comparison):
        console.print(Text(visible(remark)))
