"""The command that asks a model for a probability: ``query``."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyro_vae.cli.options import (
    UsageError,
    add_data,
    add_pair,
    add_run,
    build_pair,
    load,
    parser_of,
    positionals,
    rebuild_best,
)
from pyro_vae.cli.terminal import say


def query(words: Sequence[str]) -> int:
    """Print the probability of an event: ``pyro-vae query RUN|PAIR EVENT --given EVENT``."""
    named = list(positionals(words))
    if len(named) != 2 and not {"-h", "--help"} & set(words):
        raise UsageError(
            f"query takes a run or a pair, and an event, and got {len(named)} words; write "
            "`pyro-vae query RUN rain=1 --given wet=1`"
        )
    parser = parser_of("query", "P(event | given) under the model of a run, or of a pair as it begins.")
    name = named[0] if named else "latent"
    pair, data, args = _of_run(parser, words) if Path(name).is_dir() else _of_pair(parser, words, name)
    from pyro_vae.evidence import query

    one = data.batch(data.choose(), 1)
    answer = query(pair, args.event, args.given, batch=one, num_samples=args.samples, seed=args.seed)
    if args.json:
        print(json.dumps({**answer._asdict(), "ess": None if answer.exact else answer.ess}))
        return 0
    given = "" if args.given is None else f" | {args.given}"
    how = "exact: a sum over all values" if answer.exact else f"of {args.samples:,} draws, worth {answer.ess:,.0f}"
    error = "" if answer.exact else f" ± {answer.stderr:.2g}"
    say(f"P({args.event}{given}) = {answer.probability:.6f}{error}  ({how})")
    return 0


def _of_run(parser: Any, words: Sequence[str]) -> tuple[Any, Any, Any]:
    add_run(parser)
    args = _asked(parser, words)
    from pyro_vae.runs import Run

    return *rebuild_best(Run.open(args.run), args), args


def _of_pair(parser: Any, words: Sequence[str], name: str) -> tuple[Any, Any, Any]:
    options = add_pair(parser, name)
    add_data(parser)
    args = _asked(parser, words)
    from pyro_vae.runs import seeded

    data = load(args)
    with seeded(args.seed):
        return build_pair(args, name, options, data.spec), data, args


def _asked(parser: Any, words: Sequence[str]) -> Any:
    parser.add_argument("event", type=str, help="such as rain=1, or 'k=3, x[5]>0.5'")
    parser.add_argument("--given", type=str | None, default=None, help="what is known, likewise")
    parser.add_argument("--samples", type=int, default=100_000, help="draws, where it is not a sum")
    parser.add_argument("--seed", type=int, default=0, help="of the draws, and of a pair's parameters")
    return parser.parse_args(words)
