"""A pair's parameters as a file, and a trained pair as a run folder."""

import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pyro_vae.program import Pair, Verbs
from pyro_vae.runs import Run, checkpoint
from pyro_vae.training import Fitted, describe, machine


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
        known = seconds if seconds is not None and math.isfinite(seconds) else None
        run.remember(known, fitted.steps, _place(fitted))
    finally:
        run.release()


def _place(fitted: Fitted) -> dict[str, Any]:
    """Return where it was trained: here, if it has no run that knows."""
    if fitted.run is not None:
        return fitted.run.machine
    parameters = iter(fitted.pair.named_parameters().values())
    return machine(next((parameter.device for parameter in parameters), "cpu"))
