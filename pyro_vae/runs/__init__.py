"""The run folder: checkpoints, lock and random state."""

from pyro_vae.runs.checkpoint import CheckpointError, check_seed, open_regular, replacing, seeded, write_whole
from pyro_vae.runs.command import from_here
from pyro_vae.runs.errors import RunError, RunNote
from pyro_vae.runs.evaluation import Evaluation, evaluation_of, keep_evaluation
from pyro_vae.runs.folders import figures_in, next_folder, runs_in
from pyro_vae.runs.lock import Lock, taken
from pyro_vae.runs.run import Run

__all__ = [
    "CheckpointError",
    "Evaluation",
    "Lock",
    "Run",
    "RunError",
    "RunNote",
    "check_seed",
    "evaluation_of",
    "figures_in",
    "from_here",
    "keep_evaluation",
    "next_folder",
    "open_regular",
    "replacing",
    "runs_in",
    "seeded",
    "taken",
    "write_whole",
]
