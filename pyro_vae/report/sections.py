"""The sections of ``report.html``: what was trained, how it went, and how to repeat it.

Each function returns HTML; ``document`` joins them to one page that needs no other file and no
network. ``pyro_vae.report`` writes it.
"""

import base64
import html
import inspect
import io
import platform
import shlex
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NamedTuple

from pyro_vae import __version__
from pyro_vae.data import Data
from pyro_vae.evidence import Figures, Meaning, baseline, remarks, rows
from pyro_vae.program import BatchProgram, Pair
from pyro_vae.runs import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 54em; margin: 2em auto; padding: 0 1em;
  color: #1a1a1a; background: #fff; }
h1 { line-height: 1.2; margin-bottom: .3em; }
h2 { margin-top: 2em; break-after: avoid; }
table { border-collapse: collapse; }
td, th { border-top: 1px solid #ddd; padding: .3em .9em .3em 0; text-align: left; vertical-align: top; }
th { font-weight: 600; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
pre { background: #f5f5f5; padding: .8em; overflow-x: auto; font-size: 13px; line-height: 1.45; }
pre.command { white-space: pre-wrap; overflow-wrap: anywhere; }
figure { margin: 1.6em 0; break-inside: avoid; }
img { display: block; height: auto; }
figcaption, .aside { color: #555; font-size: 14px; }
code { overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
@media (max-width: 600px) { body { margin: 1em auto; }
  .checks tr { display: block; padding: .4em 0; border-top: 1px solid #ddd; }
  .checks td { display: block; border: 0; padding: 0; } }
@media print { @page { margin: 15mm; } body { max-width: none; margin: 0; padding: 0; font-size: 11pt; }
  pre { white-space: pre-wrap; font-size: 8.5pt; } img { max-height: 22cm; } tr { break-inside: avoid; } }
"""

PIXEL = 0.75  # of a screen, for each of a picture
FIRST = ("graph", "curves")  # shown beside the programs and the training, the rest below


class Drawn(NamedTuple):
    """Every picture of a run: as PNG by name, and one sentence for each that does not apply."""

    pictures: dict[str, bytes]
    left_out: dict[str, str]


def draw_all(run: Run, pair: Pair, data: Data) -> Drawn:
    """Draw everything that can be drawn of one run."""
    from pyro_vae.plots import PICTURES
    from pyro_vae.posterior import NotDrawable

    drawn = Drawn({}, {})
    for name, draw in PICTURES.items():
        if name == "rate-distortion":  # compares runs
            continue
        try:
            drawn.pictures[name] = png(draw(run.history) if name == "curves" else draw(pair, data))
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


def document(title: str, parts: Iterable[str]) -> str:
    """Return one self-contained page, for phones and for paper."""
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><h1>{html.escape(title)}</h1>\n{body}\n</body></html>\n"
    )


def summary(run: Run, pair: Pair, data: Data, figures: Figures) -> str:
    """Return what was trained, on what, and what it reaches, beside PCA of the same size."""
    count = sum(parameter.numel() for parameter in pair.named_parameters().values())
    recipe = pair.recipe or {"name": "a pair from Python", "options": {}}
    options = ", ".join(f"{name} {value}" for name, value in recipe["options"].items() if value is not None)
    about = [
        ("pair", recipe["name"] + (f" ({options})" if options else "")),
        ("programs", f"{short(pair.bound_model)} and {short(pair.bound_guide)}, {count:,} parameters"),
        ("data", data.spec.description),
        ("training", _training(run, figures.meaning.bound)),
    ]
    pca = baseline(figures, data)
    heads = ["", recipe["name"], *([f"PCA, {figures.meaning.numbers} components"] if pca else [])]
    lines = [[row.label, row.value, *([row.baseline] if pca else [])] for row in rows(figures, pca)]
    caption = f"{figures.split} split, {figures.num_data:,} data; nats per datum at beta = 1"
    caption += ", the error in the data's unit" if figures.rms_error is not None else ""
    below = "".join(f"<li>{html.escape(remark)}</li>" for remark in [*_by_site(figures), *remarks(figures, pca)])
    return (
        f"{table(about)}\n<h2>What it reaches</h2>\n<p>{html.escape(caption)}</p>{table(lines, heads)}\n"
        f"<ul>{below}</ul>\n{_bound(figures.meaning)}"
    )


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
    said = f"ELBO = reconstruction - KL is a lower bound on {meaning.evidence}; larger is better.{compared}"
    return f"<p class='aside'>{html.escape(said)}</p>"


def _training(run: Run, bound: str) -> str:
    history = run.history
    if not history:
        return "no finished epoch"
    best = max(history, key=lambda row: row["elbo"])
    epochs = f"{len(history)} epoch{'s' if len(history) > 1 else ''}, {int(history[-1]['step']):,} steps"
    kept = f"epoch {int(best['epoch'])} are kept, whose validation {bound} {best['elbo']:.2f} is the best"
    return f"{epochs}; the parameters of {kept}"


def _by_site(figures: Figures) -> list[str]:
    """Say what each latent site costs, where there are several."""
    meaning = figures.meaning
    sites = {name: nats for name, nats in figures.sites.items() if name not in meaning.observed}
    if len(sites) < 2:
        return []
    return [
        f"{meaning.divergence} by site: " + ", ".join(f"{name} {-nats:.2f}" for name, nats in sites.items()) + " nats."
    ]


def training(run: Run, drawn: Drawn) -> str:
    """Return the curves."""
    return "<h2>How training went</h2>\n" + _shown(run, drawn, ["curves"])


def pictures(run: Run, drawn: Drawn) -> str:
    """Return the pictures of the trained pair, and why others do not apply."""
    others = [name for name in drawn.pictures if name not in FIRST]
    reasons = "".join(
        f"<li><b>{html.escape(name)}</b>: {html.escape(reason)}</li>" for name, reason in drawn.left_out.items()
    )
    missing = f"<p>Not drawn:</p><ul class='aside'>{reasons}</ul>" if reasons else ""
    return f"<h2>Pictures</h2>\n{_shown(run, drawn, others)}\n{missing}"


def _shown(run: Run, drawn: Drawn, names: Iterable[str]) -> str:
    return "\n".join(
        embedded(drawn.pictures[name], name, f"pyro-vae draw {shlex.quote(str(run))} {name}")
        for name in names
        if name in drawn.pictures
    )


def png(figure: "Figure") -> bytes:
    """Return a figure as a PNG file's content."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def embedded(picture: bytes, name: str, command: str = "") -> str:
    """Return a PNG as part of the page, with the command that draws it below."""
    caption = f"<figcaption><code>{html.escape(command)}</code></figcaption>" if command else ""
    # the width in a PNG's header; one scale for all, so that letters have one size
    pixels = int.from_bytes(picture[16:20])
    source = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    style = f"width: min(100%, {PIXEL * pixels:.0f}px)"
    return f"<figure><img alt='{html.escape(name)}' style='{style}' src='{source}'>{caption}</figure>"


def programs(run: Run, pair: Pair, drawn: Drawn) -> str:
    """Return the graphical model and the source of model and guide."""
    shown = [
        f"<h3>{title}: {html.escape(short(bound))}</h3>\n<pre>{html.escape(_source(bound))}</pre>"
        for title, bound in (("Model", pair.bound_model), ("Guide", pair.bound_guide))
    ]
    return "\n".join(["<h2>The programs</h2>", _shown(run, drawn, ["graph"]), *shown])


def repeat(run: Run, pair: Pair, data: Data) -> str:
    """Return the command that repeats the run, its settings, and the versions it was made with."""
    config = run.config
    settings = [
        (name.replace("_", " "), "none" if value is None else str(value)) for name, value in config["training"].items()
    ]
    versions = [("pyro_vae", __version__), ("python", platform.python_version())]
    versions += [(name, version(name)) for name in ("torch", "pyro-ppl", "numpy")]
    # as they were built anew: an older run's options may be refused today
    built = {"pair": pair.recipe or config["pair"], "data": data.recipe or config["data"]}
    line = command({**config, **built})
    how = (
        f"<pre class='command'>{html.escape(line)}</pre>"
        if line
        else "<p>Trained from Python, by a script that alone can build the pair or the data.</p>"
    )
    return (
        f"<h2>How to repeat it</h2>\n{how}\n<h3>All settings of the training</h3>\n{table(settings)}\n"
        f"<h3>Versions</h3>\n{table(versions)}"
    )


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


def table(cells: Iterable[Sequence[str]], heads: Sequence[str] = ()) -> str:
    """Return a table; with heads, all columns but the first are numbers."""
    lines = []
    if heads:
        lines.append("".join(f"<th{_kind(i, heads)}>{html.escape(head)}</th>" for i, head in enumerate(heads)))
    lines += ["".join(f"<td{_kind(i, heads)}>{html.escape(cell)}</td>" for i, cell in enumerate(row)) for row in cells]
    return f"<div class='wide'><table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table></div>"


def _kind(column: int, heads: Sequence[str]) -> str:
    return " class='number'" if heads and column else ""
