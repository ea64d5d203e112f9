"""A pair's parameters as a file, and a trained pair as a run folder."""

import math
import os
from dataclasses import asdict
from pathlib import Path

from pyro_vae.program import Pair, Verbs
from pyro_vae.runs import Run, checkpoint
from pyro_vae.training import Fitted, describe


def save(used: Verbs, path: str | os.PathLike) -> None:
    """See `Verbs.save`."""
    if isinstance(used, Pair):
        checkpoint.save(Path(path), {"parameters": used.state_dict()})
    elif isinstance(used, Fitted):
        _save_run(used, path)


def _save_run(fitted: Fitted, folder: str | os.PathLike) -> None:
    best = fitted.best or {"epoch": fitted.epochs, "elbo": math.nan}
    told = {**describe(fitted.pair, fitted.data), "training": asdict(fitted.training)}
    seconds = fitted.seconds if fitted.run is None else fitted.run.seconds
    run = Run.create(folder, told)
    try:
        parameters = fitted.pair.state_dict()
        run.save_best({"parameters": parameters, "epoch": int(best["epoch"]), "elbo": best["elbo"]})
        run.write_history(fitted.history)
        if seconds is not None and math.isfinite(seconds):
            run.remember_time(seconds, fitted.steps)
    finally:
        run.release()
