"""The command line: arguments in, one table or one JSON object out."""

from pyro_vae.cli.commands import COMMANDS, main
from pyro_vae.cli.options import UsageError

__all__ = [
    "COMMANDS",
    "UsageError",
    "main",
]
