"""``fit``: train a pair; and describe how it was built."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pyro_vae.data import Data, DataError, load_data
from pyro_vae.options import checked
from pyro_vae.program import Pair, PairError, alone
from pyro_vae.runs import Run, RunError, checkpoint
from pyro_vae.svi import World
from pyro_vae.training.bars import bar_possible
from pyro_vae.training.devices import unconverted_on_failure
from pyro_vae.training.distributed import join
from pyro_vae.training.fitted import Fitted
from pyro_vae.training.loop import Loop
from pyro_vae.training.programs import check_settings
from pyro_vae.training.progress import Callback, Observer, Progress, Silent
from pyro_vae.training.settings import Chosen, Compile, Policy, Precision, Schedule, SettingsError, Training
from pyro_vae.training.trainer import Trainer
from pyro_vae.training.validation import Validation

__all__ = ["build_from_config", "create_on_first_process", "describe", "em", "fit", "refuse_other_data"]


@checked(SettingsError)
def fit(
    pair: Pair,
    data: Any,
    *,
    epochs: int = Training.epochs,
    batch_size: int | None = Training.batch_size,
    lr: float = Training.lr,
    schedule: Schedule = Training.schedule,
    optimizer: Chosen = Training.optimizer,
    weight_decay: float = Training.weight_decay,
    ema: float = Training.ema,
    accumulate: int = Training.accumulate,
    clip: float | None = Training.clip,
    beta: float = Training.beta,
    warm_up: float = Training.warm_up,
    free_bits: float = Training.free_bits,
    dream: float = Training.dream,
    patience: int | None = Training.patience,
    seed: int = Training.seed,
    device: str = Training.device,
    precision: Precision = Training.precision,
    compile: Compile = Training.compile,
    devices: int = Training.devices,
    save_every: float = Training.save_every,
    on_nonfinite: Policy = Training.on_nonfinite,
    run: str | os.PathLike | Run | None = None,
    resume: bool = False,
    progress: Observer | bool | None = None,
    callbacks: Sequence[Callback] = (),
    config: Mapping[str, Any] | None = None,
) -> Fitted:
    """Train a pair by stochastic variational inference and return it with its history.

    The pair is checked first (see ``check_pair``). Every random number of training follows from
    ``seed``; those that the pair begins with were drawn when it was built, from torch's generator.
    The global random states are left as they were. Draws, data order and schedules do not depend on
    when checkpoints are written, so a resumed run ends with the same bits as one that was never
    stopped. Of several threads that call it, one trains at a time: Pyro has one stack of handlers.

    Args:
        pair: model and guide; trained in place, and left in evaluation mode.
        data: from ``load_data``, or what ``load_data`` takes.
        epochs: this and those down to ``on_nonfinite`` are the settings of `Training`, which says
            what each does.
        run: folder for checkpoints and history; none are written without one.
        resume: go on from the folder's last checkpoint.
        progress: True for a bar on a terminal or in a notebook and lines in a log, False for
            silence, or any `Observer`; by default the bar, and nothing in a log.
        callbacks: each is called as ``f(row, pair)`` after every epoch, with its row of the history
            and the pair in evaluation mode. What it draws changes nothing in training.
        config: how to build pair and data anew, stored in the run folder; pairs from
            ``pyro_vae.pairs`` bring theirs.

    Raises:
        PairError: when the pair breaks its contract.
        SettingsError: for a setting that is unknown, not allowed, or without effect on the pair's
            objective.
        NonFinite: when a loss or gradient is non-finite; the parameters are those before it.
        Unsaved: when a checkpoint cannot be written.
        RunError: when the folder cannot be used, or another process is writing to it.
    """
    given = locals()
    training = Training(**{name: given[name] for name in Training.names()})
    return _trained(pair, data, training, run, resume, progress, callbacks, config)


def _trained(
    pair: Pair,
    data: Any,
    training: Training,
    run: str | os.PathLike | Run | None,
    resume: bool,
    progress: Observer | bool | None,
    callbacks: Sequence[Callback],
    config: Mapping[str, Any] | None,
) -> Fitted:
    data = data if isinstance(data, Data) else load_data(data, missing="mark" if "seen" in pair.fields else None)
    if not resume:  # older runs may hold such settings
        check_settings(training, pair, data)
    world = join(training.devices, training.device)
    with alone, checkpoint.seeded(training.seed), unconverted_on_failure(pair):
        trainer = Trainer(pair, data, training, world)  # refuses what cannot be trained before there is a folder
        held = isinstance(run, Run) and run.locked  # by a caller who goes on writing
        if run is None or isinstance(run, Run):
            folder = run
        else:
            opened = partial(_open_or_create, run, resume, pair, data, training, config)
            folder = create_on_first_process(world, opened)
        try:
            if folder is not None:
                world.first(folder.lock)
            if folder is not None and resume:
                world.first(partial(refuse_other_data, folder, data))
            return Loop(trainer, data, folder, _observer(progress, trainer, data, world), callbacks).train(resume)
        finally:
            if folder is not None and not held:
                folder.release()


def _open_or_create(
    folder: str | os.PathLike,
    resume: bool,
    pair: Pair,
    data: Data,
    training: Training,
    config: Mapping[str, Any] | None,
) -> Run:
    if resume:
        return Run.open(folder)
    return Run.create(folder, {**describe(pair, data), **(config or {}), "training": training.to_dict()})


def refuse_other_data(run: Run, data: Data) -> None:
    """Refuse to go on with other data than a run was trained on: its splits are cut anew.

    Raises:
        RunError: they are others.
    """
    if run.trained_on(data.fingerprint) is False:
        raise RunError(
            f"{run} was trained on other data than {data.spec.name} holds now, and data that it was trained on "
            "may lie in the test split; restore them, or say where they are with --data; or train anew. To go on with "
            f"these all the same, remove the line `data` below `fingerprints` in {run}/config.yaml"
        )


def _observer(progress: Observer | bool | None, trainer: Trainer, data: Data, world: World) -> Observer:
    if progress is None:
        progress = bar_possible()
    if not isinstance(progress, bool):
        lacking = [name for name in ("start", "step", "epoch", "note", "stop") if not hasattr(progress, name)]
        if lacking:
            raise SettingsError(
                f"progress is True, False or an object with the methods of Observer, and lacks {lacking[0]}"
            )
        return progress
    return Progress(Validation(trainer, data).meaning()) if progress and not world.rank else Silent()


def em(pair: Pair, data: Any, iterations: int = 100, **settings: Any) -> Fitted:
    """Train a pair by expectation maximisation and return it with its history, one row a step.

    The same as ``fit(pair, data, optimizer="em", epochs=iterations)``, in double precision: all data
    in each step, or ``batch_size`` of them with expectations averaged over the steps. A row's
    ``loss`` is minus the training ELBO at the E step, which with an exact guide is log p(x), and
    ``m_step`` the ELBO that the M step then reaches under the same q. The pair is returned in the
    float type in which it came, unless ``precision`` is given.

    Args:
        pair: its parameters belong to conditionals with an M step, see `Maximizable`.
        data: from ``load_data``, or what ``load_data`` takes.
        iterations: passes over the training data.
        settings: any argument of ``fit``.

    Raises:
        PairError: no conditional owns a parameter, or the pair breaks its contract.
        SettingsError: for a setting that EM has no use for.
    """
    tensors = [*pair.named_parameters().values(), *pair.named_buffers().values()]
    single = all(tensor.dtype is torch.float32 for tensor in tensors if tensor.is_floating_point())
    fitted = fit(pair, data, **{"precision": "64", **settings, "optimizer": "em", "epochs": iterations})
    if single and "precision" not in settings:
        for module in pair.modules().values():
            module.float()
    return fitted


def create_on_first_process(world: World, action: Callable[[], Run]) -> Run:
    """Return the run that ``action`` makes or opens on process 0; other processes know its folder
    only.
    """
    made: list[Run] = []

    def first() -> str:
        made.append(action())
        return str(made[0])

    folder = world.first(first)
    return made[0] if made else Run(Path(folder))


def build_from_config(build: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    """Return what ``build`` makes of the options of a ``config.yaml``, without those that have no
    effect.

    Such options are refused today, but older runs may hold them.
    """
    try:
        return build(**options)
    except (DataError, PairError) as error:
        if error.unused not in options:
            raise
        return build_from_config(build, {name: value for name, value in options.items() if name != error.unused})


def describe(pair: Pair, data: Data) -> dict[str, Any]:
    """Return what rebuilds the pair and the data, for ``config.yaml``, and what tells them from
    others.
    """
    recipe = dict(pair.recipe) if pair.recipe else None
    source = recipe.pop("source", None) if recipe else None
    told: dict[str, Any] = {"pair": recipe, "data": data.recipe}
    if data.spec.class_names:
        told["classes"] = list(data.spec.class_names)
    if data.spec.categorical:
        told["categories"] = {column.name: list(column.categories) for column in data.spec.categorical}
    return {**told, "fingerprints": {"pair": source, "data": data.fingerprint}}
