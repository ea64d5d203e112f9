"""Options that commands share: data, pairs and runs; and refusals in one sentence."""

import inspect
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pyro_vae.cli import catalogue
from pyro_vae.options import accept, kinds_of, plain, registries, shown, suggestion

SPLITS = ("train", "valid", "test")


class UsageError(ValueError):
    """Something on the command line that cannot be; the message says what to change."""


def parser_of(command: str, description: str) -> Any:
    """Return the parser of one command, which refuses in one sentence and knows ``--json``."""
    from jsonargparse import ArgumentParser, DefaultHelpFormatter

    class Formatter(DefaultHelpFormatter):
        def _fill_text(self, text: str, width: int, indent: str) -> str:  # the epilog is a table
            return text if "\n" in text else super()._fill_text(text, width, indent)

        def _expand_help(self, action: Any) -> str:  # the words to choose from stand beside the option
            return re.sub(r"type: Literal\[[^]]*\](, )?", "", super()._expand_help(action))

    class Parser(ArgumentParser):
        kinds: dict[str, Any]  # annotations of options, by name
        words: list[str]

        def parse_args(self, args: Any = None, **options: Any) -> Any:
            known = {option for action in self._actions for option in action.option_strings}
            self.words = [*_with_lists(_with_underscores(args, known), self.kinds)]
            found = super().parse_args(self.words, **options)
            _check_common(found)
            return found

        def format_help(self) -> str:
            return _with_hyphens(super().format_help())

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
    "image": (list[int] | None, "channels,height,width of x that comes as a table, or has other channels than 1 to 4"),
    "levels": (int | None, "integer x are 0 .. levels-1"),
    "valid": (float | None, "size of the validation split, or a fraction if below 1"),
    "test": (float | None, "the same for the test split of your own data"),
    "split_by": (str | None, "field whose equal values stay in one split, such as a patient's number"),
    "labels": (int | None, "training data that keep their class, equally many per class; the others' are hidden"),
    "label_seed": (int | None, "decides which data keep theirs (default: 0)"),
    "y": (str | None, "the column of a .csv or .tsv table that is y and no part of x"),
    "longest": (int | None, "steps of a sequence; longer ones are left out, which spares padding"),
    "categories": (str | None, "columns of a table that are categories though they hold numbers: class,ward"),
    "missing": (str | None, "refuse NaN in x, or mark them as missing (the default for pairs that take such data)"),
}


def add_data(parser: Any) -> None:
    """Add the options that choose data."""
    group = parser.add_argument_group("data")
    group.add_argument(
        "--data", type=str, default="digits", help="a name from `pyro-vae list`, .npz, .npy, .csv or a folder"
    )
    for name, (kind, text) in DATA_OPTIONS.items():
        group.add_argument(f"--{name}", type=kind, default=None, help=text)
    parser.kinds["image"] = DATA_OPTIONS["image"][0]  # its numbers need no brackets


def load(args: Any) -> Any:
    """Return the data that the options choose."""
    from pyro_vae.data import load_data
    from pyro_vae.pairs import MISSING

    asked = {name: args[name] for name in DATA_OPTIONS if args[name] is not None}
    if "categories" in asked:
        asked["categories"] = [name.strip() for name in asked["categories"].split(",")]
    return load_data(args.data, **({"missing": "mark"} if args["pair"] in MISSING else {}) | asked)


def add_pair(parser: Any, name: str) -> list[str]:
    """Add the pair and its options; return the names of the options."""
    parser.add_argument("pair", nargs="?", default="latent", help="a name from `pyro-vae list`, or file.py:function")
    if re.fullmatch(r"[\d.,]+", name):
        raise UsageError(f"{name!r} is no pair; several numbers of one option are joined by commas: --hidden 200,200")
    build = catalogue.builder(name) or _find(name)
    description = next(iter(inspect.signature(build).parameters), None)  # the description of the data is not an option
    parser.kinds |= kinds_of(build)
    parser.epilog = "\n\n".join(
        "\n".join([f"--{option} takes", *(f"  {name:22}{line}" for name, line in registry.lines.items())])
        for option, registry in registries(build).items()
    )
    return parser.add_function_arguments(shown(build), skip={description}, as_group=True, fail_untyped=False)


def _find(name: str) -> Callable[..., Any]:
    from pyro_vae.pairs import find

    return find(name)


def build_pair(args: Any, name: str, options: Iterable[str], spec: Any) -> Any:
    """Return the pair ``name`` for the data, with the options given."""
    return as_usage_error(lambda: _find(name)(spec, **{option: args[option] for option in options}))


def named_pair(words: Sequence[str]) -> str:
    """Return the PAIR among the words: every option takes one value, but for --json and --help."""
    return next(positionals(words), "latent")


def positionals(words: Sequence[str]) -> Iterator[str]:
    """Return an iterator over the words that are neither options nor their values."""
    rest = iter(words)
    for word in rest:
        if not word.startswith("-"):
            yield word
        elif "=" not in word and word not in ("--json", "--help", "-h"):
            next(rest, None)


def add_run(parser: Any) -> None:
    """Add the run and the permission to run code of its own."""
    parser.add_argument("run", type=str, help="a folder that `pyro-vae train` made")
    _add_permission(parser)


def add_runs(parser: Any) -> None:
    """Add several runs and the permission to run code of their own."""
    parser.add_argument("runs", nargs="+", type=str, help="folders that `pyro-vae train` made")
    _add_permission(parser)


def _add_permission(parser: Any) -> None:
    parser.add_argument(
        "--pair",
        type=str | None,
        default=None,
        help="file.py:function, to allow running a pair from your own file",
    )
    parser.add_argument("--data", type=str | None, default=None, help="where the data of the run lie now")


def add_split(parser: Any) -> None:
    """Add the split of data that figures are of."""
    parser.add_argument(
        "--split",
        type=str | None,
        default=None,
        help="train, valid or test (default: test, or valid or train if that is empty)",
    )


def rebuild(run: Any, args: Any) -> tuple[Any, Any]:
    """Build a run's pair and data anew; code from a file runs only if the command line names it.

    ``args`` are those of `add_run`.
    """
    from pyro_vae.using import Words, rebuild

    return rebuild(run, args.pair, args.data, Words("--pair {}", "--data"))


def rebuild_best(run: Any, args: Any) -> tuple[Any, Any]:
    """Build a run's pair and data anew, with the parameters of its best epoch."""
    from pyro_vae.using import note_other_data

    pair, data = rebuild(run, args)
    note_other_data(run, data)
    pair.load_state_dict(run.load_best()["parameters"])
    return pair, data


def written_to(asked: Path | str, *endings: str) -> Path:
    """Return the file that ``--out`` names.

    Raises:
        UsageError: its name ends in none of these.
    """
    out = Path(asked)
    if out.suffix not in endings:
        *others, last = endings
        raise UsageError(f"--out must end in {', '.join(others) + ' or ' if others else ''}{last}, got {out}")
    return out


def as_usage_error(make: Callable[[], Any]) -> Any:
    """Return what ``make`` makes of the user's values; its refusal is one of the command line."""
    try:
        return make()
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from error


def _check_common(args: Any) -> None:
    """Refuse values that no command can use, before it does anything."""
    if (seed := args.get("seed")) is not None:
        from pyro_vae.runs import check_seed

        as_usage_error(lambda: check_seed(seed))
    if (split := args.get("split")) not in (None, *SPLITS):
        raise UsageError(f"--split must be train, valid or test, got {split!r}")
    for option in ("run", "data"):
        if args.get(option) == "":
            raise UsageError(f"the name of the {option} is empty; leave it out, or give one")


def _with_underscores(words: Sequence[str], known: Collection[str]) -> Iterator[str]:
    """Return the words with options named as Python names them: --batch-size as --batch_size.

    >>> [*_with_underscores(["--batch-size", "--beta", "a-b"], ["--batch_size"])]
    ['--batch_size', '--beta', 'a-b']
    """
    for word in words:
        name, equals, value = word.partition("=")
        inner = f"--{name[2:].replace('-', '_')}"
        yield inner + equals + value if name.startswith("--") and inner in known else word


def _with_hyphens(text: str) -> str:
    """Return text with options as they are written: --batch_size as --batch-size.

    >>> _with_hyphens("--batch_size BATCH_SIZE")
    '--batch-size BATCH_SIZE'
    """
    return re.sub(r"--[a-z]+(_[a-z]+)+", lambda option: option[0].replace("_", "-"), text)


def _with_lists(words: Iterable[str], kinds: dict[str, Any]) -> Iterator[str]:
    """Return the words with brackets around lists of numbers: --hidden 200,100 as --hidden
    [200,100]."""
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
        hint = f"did you mean {_with_hyphens(f'--{near}')}?" if near else f"`{parser.prog} --help` lists the options"
        return f"there is no option {word}; {hint}"
    if "ambiguous option" in text:
        return _with_hyphens(text)
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
