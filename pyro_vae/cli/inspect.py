"""Commands that look at what there is: ``list``, ``check``, ``draw``, ``explore``, ``encode``."""

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyro_vae.cli import catalogue
from pyro_vae.cli.options import (
    SPLITS,
    UsageError,
    add_data,
    add_pair,
    add_run,
    add_split,
    build_pair,
    load,
    named_pair,
    parser_of,
    positionals,
    rebuild_best,
    written_to,
)
from pyro_vae.cli.terminal import say, visible
from pyro_vae.options import unknown


def list_all(words: Sequence[str]) -> int:
    """Print the pairs and the data sets, or the runs in a folder: ``pyro-vae list``."""
    parser = parser_of("list", "The pairs and the data sets that there are; with --runs, the runs in a folder.")
    parser.add_argument("--runs", type=str | None, default=None, help="folder of runs, such as runs")
    args = parser.parse_args(words)
    if args.runs is not None:
        return _list_runs(args.runs, as_json=args.json)
    found = {"pairs": catalogue.pairs(), "data": catalogue.data_sets()}
    if args.json:
        print(json.dumps(found))
        return 0
    for title, rows in found.items():
        say(f"{title}:")
        width = max(map(len, rows))
        for name, line in rows.items():
            say(f"  {name:{width}}  {line}")
    return 0


def _list_runs(folder: str, *, as_json: bool) -> int:
    from pyro_vae.runs import runs_in

    rows = [run.summary() for run in runs_in(folder)]
    if as_json:
        print(json.dumps({"runs": rows}))
        return 0
    names = [visible(row["run"]) for row in rows]
    width = max(map(len, names), default=0)
    found = {name: _found(row["evaluation"]) for name, row in zip(names, rows, strict=True)}
    wide = max(map(len, found.values()), default=0)
    for name, row in zip(names, rows, strict=True):
        elbo = "" if row["elbo"] is None else f"{row['elbo']:10.2f}"
        epochs = f"{row['epochs']}/{row['planned']}"
        what = "" if row["state"] == "damaged" else visible(_named(row))
        say(f"{name:{width}}  {row['state']:8}  {epochs:>9}  {elbo:10}  {found[name]:{wide}}  {what}")
    say(
        f"{len(rows)} run{'' if len(rows) == 1 else 's'}; epochs done and planned, best ELBO on the validation split "
        "in nats per datum (where the guide is a point: log p(x, z) there, which is not a bound), "
        "and what `pyro-vae evaluate` found last",
        sys.stderr,
    )
    return 0


def _named(row: dict[str, Any]) -> str:
    """Return what was trained on what, and the names of its classes."""
    from pyro_vae.data import listed_classes
    from pyro_vae.runs import from_here

    pair = row["pair"] or "a pair from Python"
    classes = f" (classes {listed_classes(row['classes'], most=4)})" if row["classes"] else ""
    return f"{from_here(pair) if ':' in pair else pair} on {row['data'] or 'data from memory'}{classes}"


def _found(evaluation: dict[str, Any] | None) -> str:
    """Return what an evaluation found, for one line of a list."""
    if evaluation is None:
        return "not evaluated"
    said = visible(evaluation["reached"]).partition(" (")[0]  # without the reason for a bound
    older = ", before its last steps" if evaluation["outdated"] else ""
    return f"{said} ({visible(evaluation['split'])}{older})"


def check(words: Sequence[str]) -> int:
    """Check the contract between a pair and its data: ``pyro-vae check PAIR``."""
    name = named_pair(words)
    parser = parser_of("check", "Check that a pair keeps the contract of a program, before any training.")
    options = add_pair(parser, name)
    add_data(parser)
    args = parser.parse_args(words)
    from pyro_vae.program import find_problems
    from pyro_vae.training import CHECKED_BATCH

    data = load(args)
    pair = build_pair(args, name, options, data.spec)
    problems = find_problems(pair, data.batch("train", CHECKED_BATCH))
    if args.json:
        print(json.dumps({"ok": not problems, "problems": [p._asdict() for p in problems]}))
    elif problems:
        say("\n".join(map(str, problems)))
    else:
        count = sum(p.numel() for p in pair.named_parameters().values())
        say(
            f"{name} on {data.spec.name}: model and guide fit together and fit the data; "
            f"gradients reach all {count:,} parameters"
        )
    return 1 if problems else 0


def draw(words: Sequence[str]) -> int:
    """Draw a picture of a run: ``pyro-vae draw RUN WHAT``."""
    what = dict(enumerate(positionals(words))).get(1, "")
    args, options = _draw_arguments(words, what)
    from pyro_vae.plots import OF_HISTORY, PICTURES
    from pyro_vae.runs import Run, figures_in

    run = Run.open(args.run)
    out = written_to(args.out or figures_in(run.folder) / f"{args.what}.png", ".png", ".svg", ".pdf")
    given: tuple[Any, ...]
    if what == "rate-distortion":
        given = ([_rate(Run.open(folder), args) for folder in (args.run, *args.others)],)
    else:
        given = (run.history,) if what in OF_HISTORY else rebuild_best(run, args)
    _save(PICTURES[what](*given, **{option: args[option] for option in options}), out)
    say(json.dumps({"figure": str(out)}) if args.json else out)
    return 0


def _draw_arguments(words: Sequence[str], what: str) -> tuple[Any, list[str]]:
    """Return the arguments, and which of them the picture ``what`` takes as options."""
    pictures = catalogue.pictures()
    parser = parser_of("draw", "Draw a picture of a trained pair.")
    add_run(parser)
    parser.add_argument("what", type=str, help=", ".join(pictures))
    parser.add_argument(
        "--out", type=str | None, default=None, help=".png, .svg or .pdf (default: RUN/figures/WHAT.png)"
    )
    options = []
    if what in pictures:
        options = parser.add_function_arguments(
            catalogue.picture(what), skip={"pair", "data", "history", "points", "ax"}, as_group=True
        )
    if what == "rate-distortion":
        parser.add_argument("--others", type=list[str], default=[], help="further runs: '[runs/a, runs/b]'")
    elif what and what not in pictures:
        raise UsageError(unknown("picture", what, pictures))
    return parser.parse_args(words), options


def _rate(run: Any, args: Any) -> dict[str, float]:
    """Return what a run's pair reaches on the test split at beta = 1, and its beta in training."""
    from pyro_vae.evidence import bound
    from pyro_vae.evidence.evaluation import BATCH_SIZE

    pair, data = rebuild_best(run, args)
    table = bound(pair, data.batches(data.choose(), BATCH_SIZE), data.size("train"))
    return {"beta": run.config["training"]["beta"], "kl": table.kl, "reconstruction": table.reconstruction}


def _save(figure: Any, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    from pyro_vae.runs import write_whole

    content = io.BytesIO()
    figure.savefig(content, format=out.suffix[1:])
    write_whole(out, content.getvalue())


def explore(words: Sequence[str]) -> int:
    """Write a page in which z moves and x follows: ``pyro-vae explore RUN``."""
    parser = parser_of(
        "explore", "Write a page to open in a browser: move z with sliders or on a map of the codes, and see x."
    )
    add_run(parser)
    parser.add_argument("--out", type=str | None, default=None, help=".html (default: RUN/explorer.html)")
    parser.add_argument("--count", type=int, default=500, help="data whose codes are shown, at most")
    add_split(parser)
    parser.add_argument("--seed", type=int, default=0, help="of the draws from the prior")
    args = parser.parse_args(words)
    from pyro_vae.explorer import explore
    from pyro_vae.runs import Run

    run = Run.open(args.run)
    out = written_to(args.out or run.folder / "explorer.html", ".html")
    pair, data = rebuild_best(run, args)
    explore(pair, out, data, count=args.count, split=args.split, seed=args.seed)
    say(json.dumps({"explorer": str(out)}) if args.json else f"{out}: open it in a browser; it needs no other file")
    return 0


def encode(words: Sequence[str]) -> int:
    """Write the codes of all data: ``pyro-vae encode RUN``."""
    parser = parser_of("encode", "Write the codes of all data, with their other fields, for `train --data` and NumPy.")
    add_run(parser)
    parser.add_argument("--out", type=str | None, default=None, help=".npz (default: RUN/codes.npz)")
    parser.add_argument(
        "--draws", type=bool, default=False, help="true: one draw of q(z | x) per datum instead of its mean"
    )
    parser.add_argument("--idle", type=bool, default=False, help="true: keep latent dimensions that are not in use")
    parser.add_argument("--seed", type=int, default=0, help="of the draws, which a guide without a mean takes too")
    args = parser.parse_args(words)
    from pyro_vae.posterior import encode, kind_of_codes, write_codes
    from pyro_vae.runs import Run
    from pyro_vae.training import Counter

    run = Run.open(args.run)
    out = written_to(args.out or run.folder / "codes.npz", ".npz")
    pair, data = rebuild_best(run, args)
    total = sum(map(data.size, SPLITS))
    with Counter(total, "codes") as counter:
        arrays = encode(pair, data, draws=args.draws, idle=args.idle, seed=args.seed, progress=counter.add)
    write_codes(arrays, out)
    features, what = arrays["x_train"].shape[1], kind_of_codes(pair, data.batch("train", 2), draw=args.draws)
    if args.json:
        print(json.dumps({"codes": str(out), "num_data": total, "latent": features, "what": what}))
    else:
        say(f"{out}: codes of {total:,} data, {features} numbers each: {what}")
    return 0
