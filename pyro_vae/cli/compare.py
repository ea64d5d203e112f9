"""The command that sets runs side by side: ``compare``."""

import json
import sys
from collections.abc import Sequence
from typing import Any

from pyro_vae.cli.options import UsageError, add_runs, add_split, parser_of, rebuild_best, written_to
from pyro_vae.cli.terminal import say, show_comparison


def compare(words: Sequence[str]) -> int:
    """Print runs on the same data side by side: ``pyro-vae compare RUN RUN ...``."""
    args = _arguments(words)
    from pyro_vae.comparison import Entry, compare_entries, with_names
    from pyro_vae.report import write_comparison
    from pyro_vae.runs import Run

    entries = []
    for folder in args.runs:
        run = Run.open(folder)
        entries.append(Entry(run.folder.resolve().name, *rebuild_best(run, args), run.seconds))

    comparison = compare_entries(
        with_names(entries),
        split=args.split,
        num_samples=args.samples,
        draws=args.draws,
        seed=args.seed,
        progress=lambda name: say(f"  {name}", sys.stderr),
    )
    report = write_comparison(comparison, args.out)
    if args.json:
        print(json.dumps(comparison.to_dict() | {"report": str(report)}))
    else:
        show_comparison(comparison)
        say(f"report: {report}")
    return 0


def _arguments(words: Sequence[str]) -> Any:
    parser = parser_of("compare", "Density, sampling, representation and cost of runs on the same data, side by side.")
    add_runs(parser)
    add_split(parser)
    parser.add_argument(
        "--samples", type=int | None, default=None, help="draws per datum for log p(x) (default: what takes seconds)"
    )
    parser.add_argument(
        "--draws", type=int, default=1000, help="samples of each model, at most; no more than there are held-out data"
    )
    parser.add_argument("--seed", type=int, default=0, help="of all draws")
    parser.add_argument("--out", type=str, default="comparison.html", help=".html: the tables and pictures")
    args = parser.parse_args(words)
    if len(args.runs) < 2:
        raise UsageError(f"compare takes two runs or more, and got {len(args.runs)}; `pyro-vae evaluate` looks at one")
    for option in ("samples", "draws"):
        if args[option] is not None and args[option] < 1:
            raise UsageError(f"--{option} must be at least 1, got {args[option]}")
    written_to(args.out, ".html")
    return args
