"""Model and guide as training runs them: scaled to nats per datum, tempered, with free bits."""

import math
from collections.abc import Callable
from contextlib import ExitStack

import torch
from torch import Tensor

from pyro_vae.data import Data
from pyro_vae.evidence import FAILURES, meaning_of, undreamable
from pyro_vae.program import (
    FreeBits,
    Pair,
    PairError,
    PerDatum,
    Tempered,
    Wrapped,
    declared,
    evaluation,
    log_weights,
)
from pyro_vae.training.expectation_maximization import owners_of
from pyro_vae.training.settings import SettingsError, Training, own_name

ROWS = 1000  # data of a batch that are looked at together


def weighted_programs(
    pair: Pair, training: Training, num_data: int, beta: Tensor, device: torch.device
) -> tuple[Callable, Callable]:
    """Return model and guide under the handlers that these settings ask for, in nats per datum.

    Args:
        pair: whose programs they are.
        training: the settings.
        num_data: size of the training split.
        beta: weight of the KL, a 0-dim tensor that a schedule may write into.
        device: where they run, for mixed precision.
    """
    plate = pair.data_plate
    tempered = training.beta != 1 or training.warm_up > 0
    mixed = training.precision == "bf16-mixed"

    def handlers() -> ExitStack:
        stack = ExitStack()
        stack.enter_context(PerDatum(num_data, plate))
        if tempered:
            stack.enter_context(Tempered(beta))
        if mixed:
            stack.enter_context(torch.autocast(device.type, torch.bfloat16))
        return stack

    model, guide = Wrapped(pair.bound_model, handlers), Wrapped(pair.bound_guide, handlers)
    if training.free_bits:
        free = FreeBits(training.free_bits)
        return free.model(model), free.guide(guide)
    return model, guide


def check_settings(training: Training, pair: Pair, data: Data) -> None:
    """Refuse settings that the pair or its objective would ignore.

    Raises:
        SettingsError: beta or warm-up without a KL in the objective; free bits where each datum is
            weighted by itself; patience where no epoch is better than another; few labels for a
            pair that reads every y.
    """
    _check_fields(pair, data)
    if training.optimizer == "em":
        _check_em(training, pair)
    if not isinstance(training.optimizer, str | type):
        _check_own(training)
    if training.accumulate > 1:
        _check_pieces(training, pair)
    name, yields = type(pair.objective).__name__, declared(pair.objective)
    for setting in ("beta", "warm_up"):
        value = getattr(training, setting)
        if not yields.has_kl and value != getattr(Training, setting):
            raise SettingsError(
                f"{setting} {value} weights the KL, and {name} has none; "
                f"leave --{setting.replace('_', '-')} out, or use another objective"
            )
    if training.free_bits and yields.per_datum:
        raise SettingsError(
            f"free_bits {training.free_bits} are of the KL over the batch, and {name} weights each datum by itself; "
            "leave --free-bits out, or use the objective elbo or analytic-kl"
        )
    if training.dream:
        _check_dream(training, pair, data)
    if training.patience is not None and not yields.figure.comparable:
        raise SettingsError(
            f"patience {training.patience} waits for a better epoch, and the {yields.figure.name} of {name} is "
            f"{'measured by a critic that learns too' if yields.figure.judged else 'unnormalised'}, which makes no "
            "epoch better than another; leave --patience out"
        )


def _check_fields(pair: Pair, data: Data) -> None:
    """Refuse data with gaps that the pair does not read where they are."""
    if "y" in pair.fields and "labelled" not in pair.fields and data.has_unlabelled:
        labels = ((data.recipe or {}).get("options") or {}).get("labels")
        hidden, change = (
            ("is unknown for some data", "leave those data out")
            if labels is None
            else (f"--labels {labels} hides", "leave --labels out")
        )
        raise SettingsError(
            f"the pair reads y, which {hidden}, and not labelled, which tells where; {change}, or use semi_supervised"
        )
    if data.has_missing and "seen" not in pair.fields:
        raise SettingsError(
            f"some entries of x of {data.spec.name} are missing, and the pair does not read seen, which tells which; "
            "use a pair that does, such as incomplete or mixture, or fill them"
        )


def _check_own(training: Training) -> None:
    """Refuse what an optimizer that is made elsewhere would not be told."""
    for setting in ("lr", "weight_decay"):
        value = getattr(training, setting)
        if value != getattr(Training, setting):
            raise SettingsError(
                f"{setting} {value} has no effect on the optimizer {own_name(training.optimizer)}, which sets its own; "
                f"give it there, or a class of torch.optim as optimizer"
            )


def _check_pieces(training: Training, pair: Pair) -> None:
    """Refuse pieces of a batch where they would train something else."""
    said, change = f"accumulate {training.accumulate} takes each batch in pieces, and", "leave --accumulate out"
    name = type(pair.objective).__name__
    if pair.stepper is not None:
        raise SettingsError(f"{said} this pair is trained by an algorithm of its own; {change}")
    if not hasattr(pair.objective, "differentiable_loss"):
        raise SettingsError(f"{said} {name} has no differentiable_loss to add up; {change}")
    if training.free_bits or declared(pair.objective).whole_batch:
        raise SettingsError(
            f"{said} {'free bits look' if training.free_bits else f'{name} looks'} at the batch as a whole; {change}"
        )


def _check_dream(training: Training, pair: Pair, data: Data) -> None:
    """Refuse dreams for a guide without a density, or one that cannot be asked about them."""
    try:
        why = undreamable(pair, meaning_of(pair, data.batch("train", 2)))
    except FAILURES:  # of a pair that cannot be run, which training says in its own words
        return
    if training.optimizer == "em":
        why = "this pair is trained by an algorithm of its own"
    if why is not None:
        raise SettingsError(
            f"dream {training.dream} weights the guide's log-probability of what the model draws, and {why}; "
            "leave --dream out"
        )


def _check_em(training: Training, pair: Pair) -> None:
    """Refuse what expectation maximisation has no use for, and a pair that it cannot train."""
    for setting in (
        *("lr", "schedule", "weight_decay", "ema", "accumulate", "clip", "beta", "warm_up", "free_bits", "devices"),
    ):
        if getattr(training, setting) != getattr(Training, setting):
            raise SettingsError(
                f"{setting} {getattr(training, setting)} has no effect on the optimizer em, whose M step is exact; "
                f"leave --{setting.replace('_', '-')} out, or use --optimizer adam"
            )
    if training.compile not in ("auto", "off") or training.precision == "bf16-mixed":
        setting = "compile" if training.compile not in ("auto", "off") else "precision"
        raise SettingsError(
            f"{setting} {getattr(training, setting)} is not for the optimizer em, whose steps run in Python at "
            f"precision 32 or 64; leave --{setting.replace('_', '-')} out, or use --optimizer adam"
        )
    owners_of(pair)


def require_possible(pair: Pair, data: Data, placed: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    """Refuse training data that have probability 0, where log p(x) is a sum over latent values.

    Args:
        pair: in the float type and on the device of training.
        data: whose training split is looked at.
        placed: moves a batch to the pair.

    Raises:
        PairError: naming the first such datum.
    """
    if "density" not in declared(pair.objective).needs:
        return
    try:
        meaning = meaning_of(pair, placed(data.batch("train", 2)))
    except FAILURES:  # of programs that leave torch: nothing is known of them
        return
    if meaning.shared or not (meaning.exact and meaning.latent):
        return
    with evaluation(pair, 0):
        for number, batch in enumerate(data.batches("train", ROWS)):
            never = log_weights(pair, placed(batch))[0] == -math.inf
            if never.any():
                row = int(never.nonzero()[0])
                x = [round(v, 4) if ok else None for v, ok in zip(*_seen(batch, row), strict=True)]
                raise PairError(
                    f"datum {number * ROWS + row} of the training data has log p = -inf: the model gives x = "
                    f"{str(x)[:200]} the probability 0; correct it or leave it out, or let no table hold a 0 there"
                )


def _seen(batch: dict[str, Tensor], row: int) -> tuple[list[float], list[bool]]:
    x = batch["x"][row].flatten()
    return x.tolist(), batch["seen"][row].flatten().tolist() if "seen" in batch else [True] * len(x)
