"""The run folder: checkpoints, lock and random state."""

from pyro_vae.runs.checkpoint import CheckpointError, open_regular, replacing, seeded, write_whole
from pyro_vae.runs.lock import Lock, taken
from pyro_vae.runs.run import Run, RunError, RunNote, figures_in, next_folder, runs_in

__all__ = [
    "CheckpointError",
    "Lock",
    "Run",
    "RunError",
    "RunNote",
    "figures_in",
    "next_folder",
    "open_regular",
    "replacing",
    "runs_in",
    "seeded",
    "taken",
    "write_whole",
]
