"""Commands that judge a trained pair: ``evaluate`` and ``diagnose``."""

import json
import shlex
import sys
from collections.abc import Sequence
from datetime import date
from typing import Any

from pyro_vae.cli import catalogue
from pyro_vae.cli.options import UsageError, add_run, add_split, parser_of, rebuild_best
from pyro_vae.cli.terminal import say, show_figures, show_verdicts
from pyro_vae.options import unknown

CHOSEN_ON = 500  # data of the validation split that a temperature is chosen on


def evaluate(words: Sequence[str]) -> int:
    """Print the figures of a run: ``pyro-vae evaluate RUN``."""
    args = _evaluate_arguments(words)
    from pyro_vae.evidence import TEMPERATURES, evaluate
    from pyro_vae.posterior import at_temperature
    from pyro_vae.program import unnormalized
    from pyro_vae.runs import Run
    from pyro_vae.training import Counter

    run = Run.open(args.run)
    pair, data = rebuild_best(run, args)
    split = data.choose(args.split)
    temperature = _temperature(args.temperature, pair, data)
    lacks_constant = any(True for _ in unnormalized(pair))
    if args.temperatures is not None and not lacks_constant:
        raise UsageError("--temperatures anneal the log Z that a model lacks, and this one lacks none; leave it out")
    if lacks_constant and not args.json:
        print("first log Z, which is the same for all data", file=sys.stderr)
    with at_temperature(pair, temperature or 0.0), Counter(data.size(split), "log p(x)") as counter:
        figures = evaluate(
            pair,
            data,
            split=split,
            num_samples=args.samples,
            proposal=args.proposal,
            temperatures=TEMPERATURES if args.temperatures is None else args.temperatures,
            progress=counter.add,
        )
    told = figures.to_dict() | ({} if temperature is None else {"temperature": temperature})
    if args.json:
        print(json.dumps(told))
    else:
        show_figures(figures, pair, data)
        if temperature is not None:
            say(f"Codes were drawn at temperature {temperature:.3g}; training takes the nearest, temperature 0.")
    _keep(run, figures, told, shlex.join(["pyro-vae", "evaluate", *words]))
    return 0


def _keep(run: Any, figures: Any, told: dict[str, Any], command: str) -> None:
    """Write the figures into the run and its report; they have been printed if not."""
    from pyro_vae.evidence import rows
    from pyro_vae.report import show_evaluation
    from pyro_vae.runs import Evaluation, evaluation_of, keep_evaluation

    path, history = evaluation_of(run.folder), run.history
    found = Evaluation(
        reached=figures.reached,
        split=figures.split,
        num_data=figures.num_data,
        draws="" if figures.proposal in (None, "exact") else f"{figures.samples:,} draws per datum",
        table={row.label.strip(): row.value for row in rows(figures)},
        command=command,
        date=date.today().isoformat(),
        step=int(history[-1]["step"]) if history else 0,
    )
    try:
        keep_evaluation(run.folder, found, told)
        shown = show_evaluation(run)
    except OSError as error:
        say(f"the figures are not kept: {path}: {error.strerror}", sys.stderr)
    else:
        say(f"kept in {path}{f' and {shown}' if shown else ''}", sys.stderr)


def _evaluate_arguments(words: Sequence[str]) -> Any:
    parser = parser_of("evaluate", "ELBO by site, importance-weighted log p(x) and more, in nats per datum.")
    add_run(parser)
    parser.add_argument("--samples", type=int | None, default=None, help="draws for each datum (5000; fewer of chains)")
    add_split(parser)
    parser.add_argument(
        "--proposal",
        type=str,
        default="refined",
        help="where draws come from: refined for each datum; the guide; or filter, which weighs a path of states step "
        "by step, and is taken by itself where the weights of whole paths spread",
    )
    parser.add_argument(
        "--temperature",
        type=str | None,
        default=None,
        help="of a q over codes, softmax(-distance^2 / temperature): a number, or auto for the best on the validation "
        "split (default: 0, the nearest code)",
    )
    parser.add_argument(
        "--temperatures",
        type=int | None,
        default=None,
        help="of annealing, for a model whose log p(x) lacks its normaliser log Z (default: 1000)",
    )
    args = parser.parse_args(words)
    if args.temperatures is not None and args.temperatures < 1:
        raise UsageError(f"--temperatures must be at least 1, got {args.temperatures}: log Z is annealed through them")
    if args.samples is not None and args.samples < 1:
        raise UsageError(f"--samples must be at least 1, got {args.samples}")
    if args.proposal not in (known := ("refined", "guide", "filter")):
        raise UsageError(unknown("proposal", args.proposal, known))
    return args


def _temperature(asked: str | None, pair: Any, data: Any) -> float | None:
    """Return the temperature of q over codes, a number or the best on the validation split.

    Raises:
        UsageError: it is neither, or there is no validation split to choose on.
    """
    from pyro_vae.evidence import best_temperature
    from pyro_vae.posterior import temperatures

    if asked is None:
        return None
    temperatures(pair, data.batch("train", 2))  # refuses a pair without codes
    if asked == "auto":
        if not data.size("valid"):
            raise UsageError(
                "--temperature auto chooses on the validation split, and these data have none; give a number"
            )
        return best_temperature(pair, data.subset("valid", CHOSEN_ON)[0])
    try:
        value = float(asked)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise UsageError(f"--temperature must be a number, 0 or more, or auto, got {asked!r}")
    return value


def diagnose(words: Sequence[str]) -> int:
    """Examine a run: ``pyro-vae diagnose RUN``."""
    args = _diagnose_arguments(words)
    from pyro_vae.diagnostics import diagnose, expected_seconds, to_datatree
    from pyro_vae.evidence import evaluate, latent_sites, quick_samples
    from pyro_vae.program import PairError
    from pyro_vae.report import write_run_report
    from pyro_vae.runs import Run
    from pyro_vae.training import Training

    run = Run.open(args.run)
    pair, data = rebuild_best(run, args)
    split = data.choose(args.split)
    guess = expected_seconds(pair, data, args.budget, split)
    length = f"{guess:.0f} s" if guess < 120 else f"{guess / 60:.0f} minutes"
    say(f"{args.budget}: about {length}", sys.stderr)

    def show(name: str, number: int, total: int) -> None:
        say(f"  {number + 1}/{total} {name}", sys.stderr)

    dream = Training.read(run.config["training"]).dream
    result = diagnose(pair, data, budget=args.budget, split=split, seed=args.seed, dream=dream, progress=show)
    try:
        result.tree = to_datatree(pair, data.batch(split, 20), num_samples=200, seed=args.seed, run_folder=run)
    except PairError as error:
        say(f"posterior.nc is left out: {error}", sys.stderr)
    figures = result.figures()
    if figures is None:
        sites = latent_sites(pair, data.batch(split, 2))
        figures = evaluate(pair, data, split=split, num_samples=quick_samples(data.size(split), sites))
    report = write_run_report(run, pair, data, figures, result)
    if args.json:
        print(json.dumps(result.to_json() | {"report": str(report)}))
    else:
        show_verdicts(result.verdicts, f"{result.num_data} data of the {split} split, nats per datum")
        say(f"{result.seconds:.0f} s; report: {report}")
    return 0


def _diagnose_arguments(words: Sequence[str]) -> Any:
    budgets = catalogue.budgets()
    parser = parser_of("diagnose", "Can q(z | x) be trusted, and the model? A table, report.html and posterior.nc.")
    add_run(parser)
    parser.add_argument("--budget", type=str, default="quick", help=", ".join(budgets))
    add_split(parser)
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    args = parser.parse_args(words)
    if args.budget not in budgets:
        raise UsageError(unknown("budget", args.budget, budgets))
    return args
