"""The command line: arguments in, one table or one JSON object out."""

from pyro_vae.cli.commands import UsageError, main

__all__ = [
    "UsageError",
    "main",
]
