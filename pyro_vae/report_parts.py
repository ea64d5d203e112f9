"""What a run's ``report.html`` says of the run itself: what was trained, with which programs, how it went, and how to repeat it.

Each function returns HTML; ``write_run_report`` joins them to one file that needs no other and no network. The diagnosis adds its own part.
"""

import base64
import html
import inspect
import io
import platform
import shlex
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyro_vae import __version__
from pyro_vae.data import Data
from pyro_vae.pairing import Bound, Pair
from pyro_vae.runs import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 52em; margin: 2em auto; padding: 0 1em; color: #1a1a1a; }
table { border-collapse: collapse; }
td, th { border-top: 1px solid #ddd; padding: .3em .8em .3em 0; text-align: left; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
pre { background: #f5f5f5; padding: .8em; overflow-x: auto; font-size: 13px; line-height: 1.4; }
img { max-width: 100%; height: auto; }
figure { margin: 1.2em 0; break-inside: avoid; }
h2 { margin-top: 2em; break-after: avoid; }
.wide { overflow-x: auto; }
@media print { body { max-width: none; margin: 0; } pre { white-space: pre-wrap; } }
"""

ROWS = {
    "elbo": "ELBO",
    "reconstruction": "reconstruction",
    "kl": "KL",
    "log_evidence": "log p(x)",
    "log_evidence_stderr": "its standard error",
}


def write_run_report(run: Run, pair: Pair, data: Data, figures: Mapping[str, Any]) -> Path:
    """Write ``report.html`` into a run's folder and return its path.

    Args:
        run: of the pair, finished or stopped.
        pair: with the parameters to be shown.
        data: that it was trained on.
        figures: what ``evaluate`` returned.
    """
    name = pair.recipe["name"] if pair.recipe else "pair"
    title = f"{name} on {data.spec.name}"
    parts = [summary(run, data, figures), pictures(run, pair, data), programs(pair), repeat(run)]
    report = run.folder / "report.html"
    report.write_text(document(title, parts), encoding="utf-8")
    return report


def document(title: str, parts: Iterable[str]) -> str:
    """Return one self-contained page, for phones and for paper."""
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><h1>{html.escape(title)}</h1>\n{body}\n</body></html>\n"
    )


def summary(run: Run, data: Data, figures: Mapping[str, Any]) -> str:
    """Return what was trained, on what, and what it reaches."""
    history = run.history
    epochs = f"{len(history)} epochs, {int(history[-1]['step']):,} steps" if history else "no finished epoch"
    best = max(history, key=lambda row: row["elbo"]) if history else None
    kept = f"; the parameters of epoch {int(best['epoch'])}, with the best validation ELBO, are kept" if best else ""
    rows = [(label, f"{figures[key]:.2f}") for key, label in ROWS.items() if figures.get(key) is not None]
    if figures.get("latent"):
        rows.append(("active latent dimensions", f"{figures['active_units']} of {figures['latent']}"))
    if figures.get("rms_error") is not None:
        rows.append(("RMS error a feature", f"{figures['rms_error']:.4f}"))
    if figures.get("khat_above_0.7") is not None:
        rows.append(
            ("data whose log p(x) is not to be trusted (k-hat above 0.7)", f"{100 * figures['khat_above_0.7']:.0f} %")
        )
    return (
        f"<p>{html.escape(data.spec.description)}.<br>{epochs}{kept}.</p>\n"
        f"<h2>Figures of the {html.escape(str(figures['split']))} split, nats per datum</h2>\n{_table(rows)}"
    )


def pictures(run: Run, pair: Pair, data: Data) -> str:
    """Return every picture that applies, drawn from the pair."""
    from pyro_vae.plots import PICTURES, NotDrawable

    drawn = []
    for name, draw in PICTURES.items():
        if name == "rate-distortion":  # compares runs
            continue
        try:
            figure = draw(run.history) if name == "curves" else draw(pair, data)
        except NotDrawable:
            continue
        drawn.append(embedded(figure, name))
    order = {"graph": 0, "curves": 1}
    drawn.sort(key=lambda part: next((rank for name, rank in order.items() if f"alt='{name}'" in part), 2))
    return "<h2>Pictures</h2>\n" + "\n".join(drawn)


def embedded(figure: "Figure", name: str) -> str:
    """Return a figure as part of the page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    picture = base64.b64encode(buffer.getvalue()).decode()
    return f"<figure><img alt='{html.escape(name)}' src='data:image/png;base64,{picture}'></figure>"


def programs(pair: Pair) -> str:
    """Return the source of model and guide."""
    shown = [
        f"<h2>{title}: {html.escape(bound.name)}</h2>\n<pre>{html.escape(_source(bound))}</pre>"
        for title, bound in (("Model", pair.bound_model), ("Guide", pair.bound_guide))
    ]
    return "\n".join(shown)


def repeat(run: Run) -> str:
    """Return the command that repeats the run, its settings, and the versions it was made with."""
    config = run.config
    settings = [(name.replace("_", " "), str(value)) for name, value in config["training"].items()]
    versions = [("pyro_vae", __version__), ("python", platform.python_version())]
    versions += [(name, version(name)) for name in ("torch", "pyro-ppl", "numpy")]
    line = command(config)
    how = (
        f"<pre>{html.escape(line)}</pre>"
        if line
        else "<p>Trained from Python, by a script that alone can build the pair or the data.</p>"
    )
    return (
        f"<h2>Again</h2>\n{how}\n<details><summary>All settings of the training</summary>{_table(settings)}</details>\n"
        f"<h2>Versions</h2>\n{_table(versions)}"
    )


def command(config: Mapping[str, Any]) -> str | None:
    """Return the ``pyro-vae train`` that repeats a run; None for one whose pair or data only a script can build."""
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


def _source(bound: Bound) -> str:
    program = bound.program
    while hasattr(program, "program"):  # under a handler
        program = program.program
    try:
        target = program if inspect.isroutine(program) else type(program)
        return inspect.getsource(target)
    except (OSError, TypeError):
        return "source not at hand"


def _table(rows: Iterable[tuple[str, str]]) -> str:
    lines = (
        f"<tr><td>{html.escape(name)}</td><td class='number'>{html.escape(value)}</td></tr>" for name, value in rows
    )
    return f"<div class='wide'><table>{''.join(lines)}</table></div>"
