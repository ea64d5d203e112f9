"""Commands that train: ``train`` and ``resume``."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from pyro_vae.cli import catalogue
from pyro_vae.cli.options import (
    UsageError,
    add_data,
    add_pair,
    add_run,
    as_usage_error,
    build_pair,
    load,
    named_pair,
    parser_of,
    rebuild,
)
from pyro_vae.cli.terminal import say, show_figures
from pyro_vae.options import kinds_of, shown

FIGURES = (
    "elbo",
    "reconstruction",
    "kl",
    "log_evidence",
    "log_evidence_stderr",
    "khat_share",
    "proposal",
    "codes",
    "own",
)
"""What ``--json`` prints of an evaluation."""


def train(words: Sequence[str]) -> int:
    """Train a pair from the start: ``pyro-vae train PAIR``."""
    name = named_pair(words)
    parser = parser_of("train", "Train a pair and show what it reaches.")
    options = add_pair(parser, name)
    add_data(parser)
    parser.add_argument("--run", type=str | None, default=None, help="folder of the run (default: runs/PAIR-DATA)")
    settings = catalogue.training()
    parser.kinds |= kinds_of(settings)
    parser.add_function_arguments(shown(settings), as_group=True)
    args = parser.parse_args(words)
    from pyro_vae.program import require_trainable
    from pyro_vae.runs import Run, next_folder, seeded
    from pyro_vae.training import (
        CHECKED_BATCH,
        Training,
        check_settings,
        create_on_first_process,
        describe,
        join,
        resolve_device,
    )

    training = as_usage_error(lambda: Training(**{field: args[field] for field in Training.names()}))
    data = load(args)
    with seeded(training.seed):
        pair = build_pair(args, name, options, data.spec)
    config = {**describe(pair, data), "training": training.to_dict()}
    check_settings(training, pair, data)
    require_trainable(pair, data.batch("train", CHECKED_BATCH))
    world = join(training.devices, training.device)
    world.first(lambda: resolve_device(training, data, world))
    run = create_on_first_process(
        world, lambda: Run.create(args.run if args.run is not None else next_folder(name, args.data), config)
    )
    with _discarded_if_refused(run):
        return _fit_and_show(pair, data, training, run, resume=False, as_json=args.json)


@contextmanager
def _discarded_if_refused(run: Any) -> Iterator[None]:
    """Leave no folder behind if the pair is refused after all, in its precision or device."""
    from pyro_vae.program import PairError
    from pyro_vae.training import SettingsError

    first = run.locked
    try:
        yield
    except (PairError, SettingsError):
        if first:
            run.discard()
        raise


def resume(words: Sequence[str]) -> int:
    """Go on with a run: ``pyro-vae resume RUN``."""
    args = _resume_arguments(words)
    from pyro_vae.runs import Run
    from pyro_vae.training import Training, create_on_first_process, join, refuse_other_data, resolve_device

    def claim() -> Run:
        run = Run.open(args.run)
        run.lock()
        return run

    config = Run.open(args.run).config
    training = as_usage_error(lambda: Training.read(config["training"]))
    changes = {name: args[name] for name in ("epochs", "on_nonfinite") if args[name] is not None}
    pair, data = rebuild(Run.open(args.run), args)
    refuse_other_data(Run.open(args.run), data)
    world = join(training.devices, training.device)
    world.first(lambda: resolve_device(training, data, world))
    run = create_on_first_process(world, claim)
    if changes or args.data is not None:
        training = as_usage_error(lambda: replace(training, **changes))
        if args.epochs is not None:
            world.first(lambda: _refuse_fewer(run, args.epochs))
        told = {**config, "data": {**config["data"], "name": data.recipe["name"]}, "training": training.to_dict()}
        world.first(lambda: run.update(told))
    return _fit_and_show(pair, data, training, run, resume=True, as_json=args.json)


def _resume_arguments(words: Sequence[str]) -> Any:
    parser = parser_of("resume", "Go on with a run that stopped, or train a finished one for longer.")
    add_run(parser)
    parser.add_argument("--epochs", type=int | None, default=None, help="train until this many epochs in all")
    parser.add_argument(
        "--on_nonfinite", type=str | None, default=None, help="from here on: stop, skip or rollback (see train)"
    )
    return parser.parse_args(words)


def _refuse_fewer(run: Any, epochs: int) -> None:
    done = run.load()[0]["epoch"] if run.begun else 0
    if epochs < done:
        raise UsageError(
            f"{run} has been trained for {done} epochs already, so --epochs must be at least {done}, got {epochs}"
        )


def _fit_and_show(pair: Any, data: Any, training: Any, run: Any, *, resume: bool, as_json: bool) -> int:
    from pyro_vae.evidence import evaluate, latent_sites, quick_samples
    from pyro_vae.report import write_run_report
    from pyro_vae.training import Interrupted, fit

    first = run.locked  # of several processes, the one that writes and prints
    if first and not as_json:
        say(f"{pair.title} on {data.spec.description}; run folder {run}", sys.stderr)
        if data.spec.class_names:
            say(f"classes: {data.spec.class_list}", sys.stderr)
        if data.spec.categorical:
            say(f"categories: {data.spec.category_list}", sys.stderr)
    try:
        fitted = fit(pair, data, run=run, resume=resume, progress=True, **vars(training))
        if not first:
            return 0
        for module in pair.to("cpu").modules().values():
            module.float()  # where `evaluate` has it, whose data are there and in single precision
        split = data.choose()
        sites = latent_sites(pair, data.batch(split, 2))
        figures = evaluate(pair, data, num_samples=quick_samples(data.size(split), sites))
        report = write_run_report(run, pair, data, figures)
    except Interrupted as stop:
        if first:
            say(f"pyro-vae: {stop}; go on with `pyro-vae resume {run.argument}`", sys.stderr)
        return 128 + stop.signum if first else 0
    finally:
        run.release()
    if as_json:
        told = figures.to_dict()
        print(json.dumps(_summary(run, fitted) | {key: told[key] for key in FIGURES}))
    else:
        show_figures(figures, pair, data)
        compiled = " (compiled)" if fitted.compiled else ""
        say(f"{_counted(fitted.epochs, 'epoch')}, {_counted(fitted.steps, 'step')} in {fitted.seconds:.0f} s{compiled}")
        say(f"report:   {report}, pictures in {run.figures}")
        say(f"next:     pyro-vae evaluate {run.argument}, or pyro-vae diagnose {run.argument}")
    return 0


def _summary(run: Any, fitted: Any) -> dict[str, Any]:
    return {
        "run": str(run),
        "epochs": fitted.epochs,
        "steps": fitted.steps,
        "seconds": round(fitted.seconds, 2),
        "compiled": fitted.compiled,
    }


def _counted(number: int, what: str) -> str:
    """Return a count in words.

    >>> _counted(1, "epoch"), _counted(1500, "step")
    ('1 epoch', '1,500 steps')
    """
    return f"{number:,} {what}{'' if number == 1 else 's'}"
