"""Optimizers of training: by name, a class of torch.optim, a function, or a Pyro optimizer."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pyro.optim import PyroOptim
from pyro.optim.lr_scheduler import PyroLRScheduler
from torch import Tensor
from torch.optim import Optimizer

from pyro_vae.training.settings import SettingsError, Training, own_name

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adamax": torch.optim.Adamax,
    "sgd": torch.optim.SGD,
    "em": torch.optim.SGD,  # holds the parameters; the M step moves them
}


def optimizer(training: Training, params: Sequence[Tensor], momentum: float = 0.9) -> Optimizer:
    """Return the optimizer that the settings ask for, over these parameters.

    A named one has torch's fused update on a CPU, a third of the time, where torch has one.

    Args:
        training: the settings.
        params: what it moves.
        momentum: the first beta of Adam and its kin, where they are named.

    Raises:
        SettingsError: the user's own is none that training can use.
    """
    chosen, own = training.optimizer, not isinstance(training.optimizer, str)
    kind = OPTIMIZERS[chosen] if isinstance(chosen, str) else chosen
    options: dict[str, Any] = {"weight_decay": training.weight_decay} if training.weight_decay else {}
    takes = {} if own else inspect.signature(kind).parameters
    if "betas" in takes:
        options["betas"] = (momentum, 0.999)
    # torch's fused update takes each gradient to lie in memory as autograd leaves it; on a GPU the
    # compiled step has its own
    if "fused" in takes and all(p.device.type == "cpu" for p in params):
        options["fused"] = True
    try:
        if isinstance(kind, PyroOptim):
            made: Any = _of_pyro(kind, params)
        elif isinstance(kind, type):
            made = kind(params, lr=training.lr, **options)
        else:
            made = kind(params)
    except (TypeError, ValueError) as error:
        if not own or isinstance(error, SettingsError):
            raise
        raise SettingsError(
            f"optimizer {own_name(chosen)} cannot be made of the pair's parameters: {error}; give a class of "
            "torch.optim, a function of the parameters that returns an optimizer, or a Pyro optimizer"
        ) from error
    return _sound(made, params, own_name(chosen)) if own else made


def _of_pyro(optim: PyroOptim, params: Sequence[Tensor]) -> Optimizer:
    """Return the torch optimizer that a Pyro optimizer makes."""
    options, name = optim.pt_optim_args, own_name(optim)
    if isinstance(optim, PyroLRScheduler) or not isinstance(options, dict):
        raise SettingsError(
            f"optimizer {name} has a schedule, or options by parameter; give a function of the parameters that returns "
            "a torch optimizer as optimizer=, and the schedule as schedule="
        )
    if optim.pt_clip_args or options.get("lrd", 1.0) != 1.0:
        raise SettingsError(f"optimizer {name} clips or decays by itself; give clip= and schedule= to fit instead")
    return optim.pt_optim_constructor(params, **options)


def _sound(made: Any, params: Sequence[Tensor], name: str) -> Optimizer:
    """Return the user's own optimizer if training can use it."""
    if not isinstance(made, Optimizer):
        raise SettingsError(
            f"optimizer {name} returned a {type(made).__name__}; return a torch optimizer over the parameters it is given"
        )
    closure = inspect.signature(made.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise SettingsError(f"optimizer {name} evaluates the loss anew in each step; use one that takes gradients only")
    mine, held = set(map(id, params)), [p for group in made.param_groups for p in group["params"]]
    if not mine.issuperset(map(id, held)):
        raise SettingsError(
            f"optimizer {name} holds tensors that are no parameters of the pair; build it over those it is given"
        )
    return made


def optimizer_state(state: Mapping[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """Return an optimizer's state for this one to load, which may lie on another device and be
    fused.
    """
    groups = zip(state["param_groups"], optimizer.param_groups, strict=True)
    return {
        **state,
        "param_groups": [{**old, **({"fused": new["fused"]} if "fused" in new else {})} for old, new in groups],
    }
