"""The command line: arguments in, one table or one JSON object out.

Exit status: 0 done, 2 wrong usage (one line that says what to change), 130 and 143 stopped by a
signal, 1 anything else.
"""

import errno
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from pyro_vae.cli.options import UsageError
from pyro_vae.cli.terminal import notes_on_stderr, say
from pyro_vae.options import unknown

USAGE = """\
usage: pyro-vae COMMAND ...

  list                        the pairs and the data sets that there are; --runs DIR: the runs in a folder
  check    [PAIR]             do model and guide fit together, and both the data?
  train    [PAIR]             train a pair (default: latent, on the bundled digits)
  resume   RUN                go on with a run that stopped
  evaluate RUN                ELBO, log p(x) and more on the test split
  query    RUN|PAIR EVENT     P(EVENT), or P(EVENT | GIVEN) with --given: rain=1 --given wet=1
  compare  RUN RUN ...        density, sampling, representation and cost of runs on the same data, side by side
  diagnose RUN                can q(z | x) be trusted, and the model? a table and report.html
  draw     RUN WHAT           pictures: samples, reconstructions, manifold, traversal, curves, graph, ...
  explore  RUN                a page to move z in and see x at once, for any browser
  encode   RUN                the codes of all data as a .npz, which --data takes

PAIR is a name from `pyro-vae list`, or your own file.py:function; RUN is a folder that train made.
`pyro-vae COMMAND --help` shows the options, `pyro-vae train PAIR --help` also those of the pair.
--json prints one JSON object and nothing else on stdout."""

COMMANDS = {
    "list": "inspect.list_all",
    "check": "inspect.check",
    "train": "train.train",
    "resume": "train.resume",
    "evaluate": "evaluate.evaluate",
    "query": "query.query",
    "compare": "compare.compare",
    "diagnose": "evaluate.diagnose",
    "draw": "inspect.draw",
    "explore": "inspect.explore",
    "encode": "inspect.encode",
}
"""Where each command lives in this package; its module is imported when the command runs."""


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
        with notes_on_stderr():
            return _command(words[0])(words[1:])
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 1
    except Exception as error:
        status = _status(error)
        if status is None:
            raise
        if status:
            say(f"pyro-vae: {_sentence(error)}", sys.stderr)
        return status


def _command(name: str) -> Callable[[Sequence[str]], int]:
    if name not in COMMANDS:
        raise UsageError(unknown("command", name, COMMANDS))
    module, function = COMMANDS[name].split(".")
    return getattr(import_module(f"pyro_vae.cli.{module}"), function)


def _status(error: Exception) -> int | None:
    """Return the exit status of an error that the user can act on, else None.

    An error of our own making shows its traceback.
    """
    if isinstance(error, UsageError):
        return 2
    from pyro_vae.data import DataError
    from pyro_vae.program import PairError
    from pyro_vae.runs import CheckpointError, RunError
    from pyro_vae.svi import FailedOnFirstProcess, ProcessLost
    from pyro_vae.training import Interrupted, NonFinite, SettingsError

    if isinstance(error, FailedOnFirstProcess):
        return 0  # process 0 reports it, and its status counts
    if isinstance(error, Interrupted):
        return 128 + error.signum
    if isinstance(error, (CheckpointError, DataError, PairError, RunError, SettingsError)):
        return 2
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return 2
    return 1 if isinstance(error, (NonFinite, OSError, ProcessLost)) else None


def _sentence(error: Exception) -> str:
    """Return an error's message; that of a failed system call in words."""
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)
