"""The run folder: checkpoints, lock and random state."""

from pyro_vae.runs.checkpoint import CheckpointError, check_seed, open_regular, replacing, seeded, write_whole
from pyro_vae.runs.errors import RunError, RunNote
from pyro_vae.runs.lock import Lock, taken
from pyro_vae.runs.run import Run, figures_in, next_folder, runs_in

__all__ = [
    "CheckpointError",
    "Lock",
    "Run",
    "RunError",
    "RunNote",
    "check_seed",
    "figures_in",
    "next_folder",
    "open_regular",
    "replacing",
    "runs_in",
    "seeded",
    "taken",
    "write_whole",
]
