"""The command line: arguments in, one table or one JSON object out.

Exit status: 0 done, 2 wrong usage (one line that says what to change), 130 and 143 stopped by a signal, 1 anything else.
"""

import inspect
import io
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from pyro_vae.options import accept, kinds_of, plain, registries, shown, suggestion, unknown

USAGE = """\
usage: pyro-vae COMMAND ...

  list                        the pairs and the data sets that there are; --runs DIR: the runs in a folder
  check    [PAIR]             does the model fit the guide, and both the data?
  train    [PAIR]             train a pair (default: latent, on the bundled digits)
  resume   RUN                go on with a run that stopped
  evaluate RUN                ELBO, log p(x) and more on the test split
  diagnose RUN                is q(z | x) to be believed, and is the model? a table and report.html
  draw     RUN WHAT           pictures: samples, reconstructions, manifold, traversal, curves, graph, ...
  encode   RUN                the codes of all data as a .npz, which --data takes

PAIR is a name from `pyro-vae list`, or your own file.py:function; RUN is a folder that train made.
`pyro-vae COMMAND --help` shows the options, `pyro-vae train PAIR --help` also those of the pair.
--json prints one JSON object and nothing else on stdout."""


class UsageError(ValueError):
    """Something on the command line that cannot be; the message says what to change."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0 if words else 2
    if words[0] == "--version":
        from pyro_vae import __version__

        print(f"pyro-vae {__version__}")
        return 0
    try:
        command = COMMANDS.get(words[0])
        if command is None:
            raise UsageError(unknown("command", words[0], COMMANDS))
        return command(words[1:])
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 1
    except Exception as error:
        status = _status(error)
        if status is None:
            raise
        if status:
            print(f"pyro-vae: {_sentence(error)}", file=sys.stderr)
        return status


def _status(error: Exception) -> int | None:
    """Return the exit status of an error that the user can act on; None for a fault of ours, which shows its traceback."""
    from pyro_vae.data import DataError
    from pyro_vae.program import PairError
    from pyro_vae.runs import CheckpointError, RunError
    from pyro_vae.svi import FailedOnFirstProcess, ProcessLost
    from pyro_vae.training import Interrupted, NonFinite, SettingsError

    if isinstance(error, FailedOnFirstProcess):
        return 0  # process 0 says it, and its status counts
    if isinstance(error, Interrupted):
        return 128 + error.signum
    if isinstance(error, (UsageError, CheckpointError, DataError, PairError, RunError, SettingsError)):
        return 2
    return 1 if isinstance(error, (NonFinite, OSError, ProcessLost)) else None


def _sentence(error: Exception) -> str:
    """Return an error's message; that of a failed system call in words."""
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _parser(command: str, description: str) -> Any:
    from jsonargparse import ArgumentParser, DefaultHelpFormatter

    class Formatter(DefaultHelpFormatter):
        def _fill_text(self, text: str, width: int, indent: str) -> str:  # the epilog is a table
            return text if "\n" in text else super()._fill_text(text, width, indent)

    class Parser(ArgumentParser):
        kinds: dict[str, Any]  # annotations of options, by name
        words: list[str]

        def parse_args(self, args: Any = None, **options: Any) -> Any:
            self.words = [*_with_lists(args, self.kinds)]
            return super().parse_args(self.words, **options)

        def error(self, message: str, ex: Exception | None = None) -> NoReturn:
            raise UsageError(_reword(message, self))

    parser = Parser(prog=f"pyro-vae {command}", description=description, default_env=False, formatter_class=Formatter)
    parser.kinds = {}
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else on stdout")
    return parser


DATA_OPTIONS = {
    "data_dir": (
        str | None,
        "where named data sets lie or are downloaded to (default: $PYRO_VAE_DATA or ~/.cache/pyro_vae)",
    ),
    "binarize": (str | None, "gray: values as they are; static: one binary draw; dynamic: a fresh draw each epoch"),
    "image_size": (int | None, "height and width for folders of images, omniglot and celeba"),
    "levels": (int | None, "integer x are 0 .. levels-1"),
    "valid": (float | None, "size, or below 1 fraction, of the validation split"),
    "test": (float | None, "the same for the test split of your own data"),
    "split_by": (str | None, "field whose equal values stay in one split, such as a patient's number"),
    "labels": (int | None, "training data that keep their class, equally many a class; the others' are hidden"),
    "label_seed": (int | None, "decides which data keep theirs (default: 0)"),
}


def _add_data(parser: Any) -> None:
    group = parser.add_argument_group("data")
    group.add_argument("--data", type=str, default="digits", help="a name from `pyro-vae list`, .npz, .npy or a folder")
    for name, (kind, text) in DATA_OPTIONS.items():
        group.add_argument(f"--{name}", f"--{name.replace('_', '-')}", type=kind, default=None, help=text)


def _load_data(args: Any) -> Any:
    from pyro_vae.data import load_data

    return load_data(args.data, **{name: args[name] for name in DATA_OPTIONS if args[name] is not None})


def _add_pair(parser: Any, name: str) -> list[str]:
    from pyro_vae.pairs import find

    parser.add_argument("pair", nargs="?", default="latent", help="a name from `pyro-vae list`, or file.py:function")
    build = find(name)
    description = next(iter(inspect.signature(build).parameters), None)  # what the data are is no option
    parser.kinds |= kinds_of(build)
    parser.epilog = "\n\n".join(
        "\n".join([f"--{option} takes", *(f"  {name:22}{line}" for name, line in registry.lines.items())])
        for option, registry in registries(build).items()
    )
    return parser.add_function_arguments(shown(build), skip={description}, as_group=True, fail_untyped=False)


def _build(args: Any, name: str, options: Iterable[str], spec: Any) -> Any:
    from pyro_vae.pairs import find

    return _with_options(find(name), spec, {option: args[option] for option in options})


def _with_options(build: Callable, spec: Any, options: dict[str, Any]) -> Any:
    try:
        return build(spec, **options)
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from error


def _named_pair(words: Sequence[str]) -> str:
    """Return the PAIR among the words: every option takes one value, but for --json and --help."""
    return next(_positionals(words), "latent")


def _positionals(words: Sequence[str]) -> Iterator[str]:
    rest = iter(words)
    for word in rest:
        if not word.startswith("-"):
            yield word
        elif "=" not in word and word not in ("--json", "--help", "-h"):
            next(rest, None)


def _list(words: Sequence[str]) -> int:
    parser = _parser("list", "The pairs and the data sets that there are; with --runs, the runs in a folder.")
    parser.add_argument("--runs", type=str | None, default=None, help="folder of runs, such as runs")
    args = parser.parse_args(words)
    if args.runs is not None:
        return _list_runs(args.runs, as_json=args.json)
    from pyro_vae.data import DATASETS
    from pyro_vae.pairs import PAIRS

    pairs = {name: _first_line(build) for name, build in PAIRS.items()}
    if args.json:
        print(json.dumps({"pairs": pairs, "data": DATASETS}))
        return 0
    for title, rows in (("pairs", pairs), ("data", DATASETS)):
        print(f"{title}:")
        width = max(map(len, rows))
        for name, line in rows.items():
            print(f"  {name:{width}}  {line}")
    return 0


def _list_runs(folder: str, *, as_json: bool) -> int:
    from pyro_vae.runs import runs_in

    rows = [run.summary() for run in runs_in(folder)]
    if as_json:
        print(json.dumps({"runs": rows}))
        return 0
    width = max((len(row["run"]) for row in rows), default=0)
    for row in rows:
        elbo = "" if row["elbo"] is None else f"{row['elbo']:10.2f}"
        epochs = f"{row['epochs']}/{row['planned']}"
        print(f"{row['run']:{width}}  {row['state']:8}  {epochs:>9}  {elbo:10}  {row['pair']} on {row['data']}")
    print(
        f"{len(rows)} runs; epochs done and planned, best ELBO on the validation split in nats per datum "
        "(of a guide that is a point: log p(x, z) there, no bound)",
        file=sys.stderr,
    )
    return 0


def _check(words: Sequence[str]) -> int:
    name = _named_pair(words)
    parser = _parser("check", "Prove that a pair keeps the contract of a program, before any training.")
    options = _add_pair(parser, name)
    _add_data(parser)
    args = parser.parse_args(words)
    from pyro_vae.program import find_problems
    from pyro_vae.training import CHECKED_BATCH

    data = _load_data(args)
    pair = _build(args, name, options, data.spec)
    problems = find_problems(pair, data.batch("train", CHECKED_BATCH))
    if args.json:
        print(json.dumps({"ok": not problems, "problems": [p._asdict() for p in problems]}))
    elif problems:
        print("\n".join(map(str, problems)))
    else:
        count = sum(p.numel() for p in pair.named_parameters().values())
        print(
            f"{name} on {data.spec.name}: model and guide fit together and the data; {count:,} parameters, all reached by gradients"
        )
    return 1 if problems else 0


def _train(words: Sequence[str]) -> int:
    from pyro_vae.training import Training

    name = _named_pair(words)
    parser = _parser("train", "Train a pair and show what it reaches.")
    options = _add_pair(parser, name)
    _add_data(parser)
    parser.add_argument("--run", type=str | None, default=None, help="folder of the run (default: runs/PAIR-DATA)")
    parser.kinds |= kinds_of(Training)
    parser.add_class_arguments(Training, as_group=True)
    args = parser.parse_args(words)
    from pyro_vae.runs import Run, next_folder, seeded
    from pyro_vae.training import check_settings, create_on_first_process, join, resolve_device

    training = _training({field: args[field] for field in Training.names()})
    data = _load_data(args)
    with seeded(training.seed):
        pair = _build(args, name, options, data.spec)
    config = {"pair": pair.recipe, "data": data.recipe, "training": asdict(training)}
    check_settings(training, pair, data)
    _refuse_problems(pair, data)
    world = join(training.devices, training.device)
    world.first(lambda: resolve_device(training, data, world))
    run = create_on_first_process(
        world, lambda: Run.create(args.run if args.run is not None else next_folder(name, args.data), config)
    )
    return _fit_and_show(pair, data, training, run, resume=False, as_json=args.json)


def _resume(words: Sequence[str]) -> int:
    parser = _parser("resume", "Go on with a run that stopped, or train a finished one for longer.")
    _add_run(parser)
    parser.add_argument("--epochs", type=int | None, default=None, help="train until this many epochs in all")
    parser.add_argument(
        "--on_nonfinite", type=str | None, default=None, help="from here on: stop, skip or rollback (see train)"
    )
    args = parser.parse_args(words)
    from pyro_vae.runs import Run
    from pyro_vae.training import Training, create_on_first_process, join, resolve_device

    def claim() -> Run:
        run = Run.open(args.run)
        run.lock()
        return run

    config = Run.open(args.run).config
    training = _checked(lambda: Training.read(config["training"]))
    changes = {name: args[name] for name in ("epochs", "on_nonfinite") if args[name] is not None}
    pair, data = _rebuild(Run.open(args.run), args.pair)
    world = join(training.devices, training.device)
    world.first(lambda: resolve_device(training, data, world))
    run = create_on_first_process(world, claim)
    if changes:
        training = _checked(lambda: replace(training, **changes))
        if args.epochs is not None:
            world.first(lambda: _refuse_fewer(run, args.epochs))
        world.first(lambda: run.update({**config, "training": asdict(training)}))
    return _fit_and_show(pair, data, training, run, resume=True, as_json=args.json)


def _refuse_fewer(run: Any, epochs: int) -> None:
    done = run.load()[0]["epoch"] if run.begun else 0
    if epochs < done:
        raise UsageError(
            f"{run} has been trained for {done} epochs already, so --epochs must be at least {done}, got {epochs}"
        )


def _evaluate(words: Sequence[str]) -> int:
    parser = _parser("evaluate", "ELBO by site, importance-weighted log p(x) and more, in nats per datum.")
    _add_run(parser)
    parser.add_argument("--samples", type=int, default=5000, help="draws for each datum")
    parser.add_argument("--split", type=str, default="test", help="train, valid or test")
    parser.add_argument(
        "--proposal", type=str, default="refined", help="what they are drawn from: refined for each datum, or the guide"
    )
    args = parser.parse_args(words)
    if args.split not in ("train", "valid", "test"):
        raise UsageError(f"--split must be train, valid or test, got {args.split!r}")
    if args.samples < 1:
        raise UsageError(f"--samples must be at least 1, got {args.samples}")
    if args.proposal not in ("refined", "guide"):
        raise UsageError(unknown("proposal", args.proposal, ("refined", "guide")))
    from pyro_vae.evidence import evaluate
    from pyro_vae.runs import Run
    from pyro_vae.training import Counter

    run = Run.open(args.run)
    pair, data = _rebuild(run, args.pair)
    pair.load_state_dict(run.load_best()["parameters"])
    with Counter(data.size(args.split), "log p(x)") as counter:
        figures = evaluate(
            pair, data, split=args.split, num_samples=args.samples, proposal=args.proposal, progress=counter.add
        )
    if args.json:
        print(json.dumps(figures.to_dict()))
    else:
        _show(figures, pair, data)
    return 0


def _diagnose(words: Sequence[str]) -> int:
    from pyro_vae.diagnostics import BUDGETS, diagnose, expected_seconds

    parser = _parser("diagnose", "Is q(z | x) to be believed, and is the model? A table, report.html and posterior.nc.")
    _add_run(parser)
    parser.add_argument("--budget", type=str, default="quick", help=", ".join(BUDGETS))
    parser.add_argument("--split", type=str, default="test", help="train, valid or test")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    args = parser.parse_args(words)
    if args.budget not in BUDGETS:
        raise UsageError(unknown("budget", args.budget, BUDGETS))
    if args.split not in ("train", "valid", "test"):
        raise UsageError(f"--split must be train, valid or test, got {args.split!r}")
    from pyro_vae.diagnostics import to_datatree
    from pyro_vae.evidence import evaluate, quick_samples
    from pyro_vae.program import PairError
    from pyro_vae.report import write_run_report
    from pyro_vae.runs import Run

    run = Run.open(args.run)
    pair, data = _rebuild(run, args.pair)
    pair.load_state_dict(run.load_best()["parameters"])
    guess = expected_seconds(pair, data, args.budget, args.split)
    print(
        f"{args.budget}: about {guess:.0f} s" if guess < 120 else f"{args.budget}: about {guess / 60:.0f} minutes",
        file=sys.stderr,
    )

    def show(name: str, number: int, total: int) -> None:
        print(f"  {number + 1}/{total} {name}", file=sys.stderr)

    result = diagnose(pair, data, budget=args.budget, split=args.split, seed=args.seed, progress=show)
    try:
        result.tree = to_datatree(pair, data.batch(args.split, 20), num_samples=200, seed=args.seed, run_folder=run)
    except PairError as error:
        print(f"posterior.nc is left out: {error}", file=sys.stderr)
    figures = result.figures()
    if figures is None:
        figures = evaluate(pair, data, split=args.split, num_samples=quick_samples(data.size(args.split)))
    report = write_run_report(run, pair, data, figures, result)
    if args.json:
        print(json.dumps(result.to_json() | {"report": str(report)}))
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{result.num_data} data of the {args.split} split, nats per datum", title_justify="left")
    for column in ("check", "verdict", "what it means"):
        table.add_column(column)
    colours = {"good": "green", "fair": "yellow", "bad": "red"}
    for verdict in result.verdicts:
        colour = colours.get(verdict.verdict)
        table.add_row(verdict.check, f"[{colour}]{verdict.verdict}[/]" if colour else verdict.verdict, verdict.advice)
    Console().print(table)
    print(f"{result.seconds:.0f} s; report: {report}")
    return 0


def _draw(words: Sequence[str]) -> int:
    from pyro_vae.plots import PICTURES

    parser = _parser("draw", "Draw a picture of a trained pair.")
    _add_run(parser)
    parser.add_argument("what", type=str, help=", ".join(PICTURES))
    parser.add_argument(
        "--out", type=str | None, default=None, help=".png, .svg or .pdf (default: RUN/figures/WHAT.png)"
    )
    what = dict(enumerate(_positionals(words))).get(1, "")
    options = []
    if what in PICTURES:
        options = parser.add_function_arguments(
            PICTURES[what], skip={"pair", "data", "history", "points"}, as_group=True
        )
    if what == "rate-distortion":
        parser.add_argument("--others", type=list[str], default=[], help="further runs: '[runs/a, runs/b]'")
    elif what and what not in PICTURES:
        raise UsageError(unknown("picture", what, PICTURES))
    args = parser.parse_args(words)
    from pyro_vae.runs import Run, figures_in

    run = Run.open(args.run)
    out = Path(args.out) if args.out else figures_in(run.folder) / f"{args.what}.png"
    if out.suffix not in (".png", ".svg", ".pdf"):
        raise UsageError(f"--out must end in .png, .svg or .pdf, got {out}")
    given: tuple[Any, ...] = (run.history,)
    if what == "rate-distortion":
        given = ([_rate(Run.open(folder), args.pair) for folder in (args.run, *args.others)],)
    elif what != "curves":
        given = _rebuild(run, args.pair)
        given[0].load_state_dict(run.load_best()["parameters"])
    _save(PICTURES[what](*given, **{option: args[option] for option in options}), out)
    print(json.dumps({"figure": str(out)}) if args.json else out)
    return 0


def _encode(words: Sequence[str]) -> int:
    parser = _parser("encode", "Write the codes of all data, with their other fields, for `train --data` and NumPy.")
    _add_run(parser)
    parser.add_argument("--out", type=str | None, default=None, help=".npz (default: RUN/codes.npz)")
    parser.add_argument("--draws", type=bool, default=False, help="true: a draw of q(z | x) a datum, else its mean")
    parser.add_argument("--idle", type=bool, default=False, help="true: keep the latent dimensions that are not in use")
    parser.add_argument("--seed", type=int, default=0, help="of the draws, which a guide without a mean takes too")
    args = parser.parse_args(words)
    from pyro_vae.posterior import encode, write_codes
    from pyro_vae.runs import Run
    from pyro_vae.training import Counter

    run = Run.open(args.run)
    out = Path(args.out) if args.out else run.folder / "codes.npz"
    if out.suffix != ".npz":
        raise UsageError(f"--out must end in .npz, got {out}")
    pair, data = _rebuild(run, args.pair)
    pair.load_state_dict(run.load_best()["parameters"])
    total = sum(map(data.size, ("train", "valid", "test")))
    with Counter(total, "codes") as counter:
        arrays = encode(pair, data, draws=args.draws, idle=args.idle, seed=args.seed, progress=counter.add)
    write_codes(arrays, out)
    features = arrays["x_train"].shape[1]
    if args.json:
        print(json.dumps({"codes": str(out), "num_data": total, "latent": features}))
    else:
        print(f"{out}: codes of {total:,} data, {features} numbers each")
    return 0


def _rate(run: Any, allowed: str | None) -> dict[str, float]:
    """Return what a run's pair reaches on the test split at beta = 1, and the beta that trained it."""
    from pyro_vae.evidence import bound
    from pyro_vae.evidence.evaluation import ROWS

    pair, data = _rebuild(run, allowed)
    pair.load_state_dict(run.load_best()["parameters"])
    table = bound(pair, data.batches("test", ROWS), data.size("train"))
    return {"beta": run.config["training"]["beta"], "kl": table.kl, "reconstruction": table.reconstruction}


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "list": _list,
    "check": _check,
    "train": _train,
    "resume": _resume,
    "evaluate": _evaluate,
    "diagnose": _diagnose,
    "draw": _draw,
    "encode": _encode,
}


def _add_run(parser: Any) -> None:
    parser.add_argument("run", type=str, help="a folder that `pyro-vae train` made")
    parser.add_argument(
        "--pair",
        type=str | None,
        default=None,
        help="file.py:function, to allow running a pair from your own file",
    )


def _rebuild(run: Any, allowed: str | None) -> tuple[Any, Any]:
    """Build a run's pair and data anew; code from a file runs only when the command line names it."""
    from pyro_vae.data import load_data
    from pyro_vae.pairs import PAIRS, find

    config = run.config
    recipe, source = config["pair"], config["data"]
    if recipe is None or source is None:
        raise UsageError(
            f"{run} was trained from Python with a pair or data that only that script can build; evaluate it there"
        )
    name = recipe["name"]
    if name not in PAIRS and name != allowed:
        raise UsageError(f"{run} was trained with {name}, whose code would be run; allow it with --pair {name}")
    from pyro_vae.runs import seeded
    from pyro_vae.training import Training, build_from_config

    seed = _checked(lambda: Training.read(config["training"])).seed

    def build(**options: Any) -> Any:
        # as `train` does, so that a run killed before its first checkpoint begins with the same bits
        with seeded(seed):
            return find(name)(data.spec, **options)

    try:
        data = build_from_config(partial(load_data, source["name"]), source["options"])
        return build_from_config(build, recipe["options"]), data
    except (ValueError, OSError):  # these say it themselves
        raise
    except Exception as error:  # whatever other code makes of a config.yaml that somebody changed
        reason = (str(error).splitlines() or [""])[0][:200]
        raise UsageError(
            f"{run}/config.yaml does not rebuild its pair and data: {type(error).__name__}: {reason}"
        ) from error


def _training(settings: dict[str, Any]) -> Any:
    from pyro_vae.training import Training

    return _checked(lambda: Training(**settings))


def _checked(make: Callable[[], Any]) -> Any:
    """Return what ``make`` makes of the user's values; its refusal is one of the command line."""
    try:
        return make()
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from error


def _refuse_problems(pair: Any, data: Any) -> None:
    from pyro_vae.program import require_sound
    from pyro_vae.training import CHECKED_BATCH

    require_sound(pair, data.batch("train", CHECKED_BATCH))


def _fit_and_show(pair: Any, data: Any, training: Any, run: Any, *, resume: bool, as_json: bool) -> int:
    from pyro_vae.evidence import evaluate, quick_samples
    from pyro_vae.report import write_run_report
    from pyro_vae.training import Interrupted, fit

    first = run.locked  # of several processes, the one that writes and prints
    if first and not as_json:
        print(f"{_title(pair)} on {data.spec.description}; run folder {run}", file=sys.stderr)
    try:
        fitted = fit(pair, data, run=run, resume=resume, progress=True, **asdict(training))
        if not first:
            return 0
        for module in pair.modules().values():
            module.float()  # as `evaluate` has it, whose data are in single precision
        figures = evaluate(pair, data, num_samples=quick_samples(data.size("test")))
        report = write_run_report(run, pair, data, figures)
    except Interrupted as stop:
        if first:
            print(f"pyro-vae: {stop}; go on with `pyro-vae resume {run}`", file=sys.stderr)
        return 128 + stop.signum if first else 0
    finally:
        run.release()
    summary = {
        "run": str(run),
        "epochs": fitted.epochs,
        "steps": fitted.steps,
        "seconds": round(fitted.seconds, 2),
        "compiled": fitted.compiled,
    }
    if as_json:
        print(json.dumps(summary | {key: getattr(figures, key) for key in FIGURES}))
        return 0
    _show(figures, pair, data)
    print(
        f"{fitted.epochs} epochs, {fitted.steps:,} steps in {fitted.seconds:.0f} s{' (compiled)' if fitted.compiled else ''}"
    )
    print(f"report:   {report}, pictures in {run.figures}")
    print(f"next:     pyro-vae evaluate {run}, or pyro-vae diagnose {run}")
    return 0


FIGURES = ("elbo", "reconstruction", "kl", "log_evidence", "log_evidence_stderr", "khat_share", "proposal")


def _title(pair: Any) -> str:
    return pair.recipe["name"] if pair.recipe else "pair"


def _save(figure: Any, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    from pyro_vae.runs import write_whole

    content = io.BytesIO()
    figure.savefig(content, format=out.suffix[1:])
    write_whole(out, content.getvalue())


def _show(figures: Any, pair: Any, data: Any) -> None:
    """Print the figures as a table, beside what PCA of the same size reaches."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from pyro_vae.evidence import baseline, remarks, rows

    pca = baseline(figures, data)
    table = Table()
    table.add_column("", no_wrap=True)
    table.add_column(_title(pair), justify="right", no_wrap=True)
    if pca:
        table.add_column(f"PCA, {figures.meaning.numbers} components", justify="right")
    for row in rows(figures, pca):
        style = "yellow" if row.doubtful else ""
        cells = [Text(cell, style) for cell in (row.label, row.value)]
        table.add_row(*cells, *([row.baseline] if pca else []))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120  # a file has room for the words beside a doubtful figure
    console.print(f"{figures.split} split, {figures.num_data:,} data, nats per datum", soft_wrap=True)
    console.print(table)
    for remark in remarks(figures, pca):
        doubted = figures.doubtful and remark.startswith(figures.meaning.evidence)
        console.print(Text(remark, "yellow" if doubted else ""), soft_wrap=True)


def _with_lists(words: Sequence[str], kinds: dict[str, Any]) -> Iterator[str]:
    """Let lists of numbers be written without brackets: --hidden 200,100 for --hidden [200,100]."""
    option = ""
    for word in words:
        name, equals, value = word.partition("=") if word.startswith("--") else (option, "", word)
        takes_list = "list[" in str(plain(kinds.get(name.lstrip("-"), str)))
        if takes_list and re.fullmatch(r"\d+(,\d+)*,?", value):
            value = f"[{value.rstrip(',')}]"
        yield f"{name}{equals}{value}" if word.startswith("--") else value
        option = word if word.startswith("--") and not equals else ""


def _reword(message: str, parser: Any) -> str:
    """Say in one line what jsonargparse says in several, and suggest the option that was meant."""
    text = " ".join(message.split())
    unrecognized = re.search(r"[Uu]nrecognized arguments: (--?[^ =]+)", text)
    if unrecognized:
        word = unrecognized[1]
        options = [o for action in parser._actions for o in action.option_strings if o.startswith("--")]
        near = suggestion(word.lstrip("-"), [o.lstrip("-") for o in options])
        hint = f"did you mean --{near}?" if near else f"`{parser.prog} --help` lists the options"
        return f"there is no option {word}; {hint}"
    option = re.search(r'Parser key "([^"]+)"', text)
    return text if option is None else _refusal(option[1], parser) or text


def _refusal(option: str, parser: Any) -> str | None:
    """Return what is wrong with the value of an option, in the sentence that Python gets too."""
    import yaml

    given = [word for before, word in zip(["", *parser.words], parser.words, strict=False) if before == f"--{option}"]
    given += [word.partition("=")[2] for word in parser.words if word.startswith(f"--{option}=")]
    if option not in parser.kinds or not given:
        return None
    try:
        value = yaml.safe_load(given[-1])
    except yaml.YAMLError:
        value = given[-1]
    for one in (given[-1], value):  # a word may be meant as one
        try:
            accept(option, one, parser.kinds[option])
        except (TypeError, ValueError) as error:
            said = str(error)
        else:
            return None
    return said


def _first_line(build: Callable) -> str:
    return (inspect.getdoc(build) or "").split("\n")[0]
