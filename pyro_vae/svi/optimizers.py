"""Optimizers as part of a recorded graph: the update in tensor operations, on the torch optimizer's own state.

The graph reads and writes `exp_avg` and the like where the optimizer keeps them, so its `state_dict()` stays true.
Settings such as betas and weight decay are constants of the graph. What changes from step to step and is the same for
all elements (learning rate, bias corrections) is computed on the host in float64 and enters as a small tensor: written
into the graph, every element would compute the powers of the step count anew. Parameters that share optimizer,
settings, learning rate and age form a cohort, and each cohort has one row of that tensor. All of it holds as long as
the optimizers keep these tensors, settings and cohorts, which `valid` asks before every step.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from pyro.optim import PyroOptim
from pyro.optim.clipped_adam import ClippedAdam
from torch import Tensor
from torch.optim import SGD, Adam, Adamax, AdamW, Optimizer
from torch.optim import optimizer as torch_optimizer

from pyro_vae.compiled import Held, Same

_FEATURES_LEFT_TO_TORCH = ("amsgrad", "maximize", "capturable", "differentiable")
_HYPERPARAMETERS = (
    *("betas", "eps", "weight_decay", "momentum", "dampening", "nesterov"),
    *("clip_norm", "centered_variance", "lrd", "decoupled_weight_decay"),
)
_STATE: dict[type[Optimizer], tuple[str, ...]] = {
    Adam: ("exp_avg", "exp_avg_sq"),
    AdamW: ("exp_avg", "exp_avg_sq"),
    ClippedAdam: ("exp_avg", "exp_avg_sq"),
    Adamax: ("exp_avg", "exp_inf"),
    SGD: ("momentum_buffer",),
}


Owned = tuple[Tensor, Optimizer, dict[str, Any]]  # a parameter, its optimizer, and its group there


class _Cohort:
    """Parameters that share their numbers.

    Attributes:
        kind: the optimizer's type.
        settings: the hyperparameters that are constants of the graph.
        first: whether SGD's momentum begins with the next step.
        members: the parameters.
        groups: their groups, each once.
    """

    def __init__(self, members: list[Owned], first: bool) -> None:
        (_, optimizer, group), *_ = self.members = members
        self.kind, self.settings, self.first = type(optimizer), _settings(group), first
        self.groups = list({id(g): g for _, _, g in members}.values())
        steps = [optimizer.state[p].get("step") for p, optimizer, _ in members]
        self._counts = [step.numpy() for step in steps if isinstance(step, Tensor)]  # the tensors' own memory

    def ages(self) -> set[int]:
        """Return how many steps the parameters have taken: more than one number where some took steps without the others."""
        if self._counts:
            return {int(count) for count in self._counts}
        return {_age(optimizer.state[p]) for p, optimizer, _ in self.members}

    def numbers(self) -> tuple[float, ...]:
        """Return what `_RULES` takes for the next step."""
        group, age = self.groups[0], min(self.ages()) + 1
        rate = float(group["lr"])
        if self.kind is SGD:  # the first momentum is the gradient itself, undamped
            return rate, 0.0 if self.first else group["momentum"], 1.0 if self.first else 1 - group["dampening"], 0.0
        beta1, beta2 = group["betas"]
        if self.kind is Adamax:
            return rate / (1 - beta1**age), 0.0, 0.0, 0.0
        correction = math.sqrt(1 - beta2**age)
        if self.kind is ClippedAdam:
            return rate * group["lrd"] * correction / (1 - beta1**age), 1.0, 0.0, 0.0
        return rate / (1 - beta1**age), 1 / correction, 1 - rate * group["weight_decay"], 0.0

    def count(self) -> None:
        """Note that a step was taken."""
        self.first = False
        if self.kind is ClippedAdam:
            for parameter, optimizer, _ in self.members:
                optimizer.state[parameter]["step"] += 1
        for count in self._counts:
            count += 1


class Update:
    """The update of some parameters by their torch optimizers: `prepare` and `count` on the host, `apply` in the graph.

    Args:
        owned: `(parameter, its optimizer, its group)` for each parameter that has a gradient.
        clip: largest norm of the gradient of all parameters together, or None.
        also: dictionaries that hold the optimizers, and must go on to.

    Attributes:
        plan: what the graph depends on; two updates of the same parameters with the same plan can share it.
        state: the optimizers' tensors, in the order in which `apply` takes them.
        numbers: `(cohorts, 4)` float64, filled by `prepare`.
    """

    def __init__(self, owned: Sequence[Owned], clip: float | None = None, also: Iterable[dict[Any, Any]] = ()) -> None:
        self.clip, self._owned = clip, list(owned)
        self._groups = list({id(group): group for *_, group in self._owned}.values())
        cohorts: dict[Any, list[Owned]] = {}
        keys = []
        for one in self._owned:
            parameter, optimizer, group = one
            fresh = _begin(parameter, optimizer, group)
            age = _age(optimizer.state[parameter])
            keys.append((type(optimizer), _settings(group), float(group["lr"]), age, fresh and type(optimizer) is SGD))
            cohorts.setdefault(keys[-1], []).append(one)
        self._cohorts = [_Cohort(members, key[-1]) for key, members in cohorts.items()]
        self._rows_of = list(map(list(cohorts).index, keys))  # for each parameter
        self.plan = [(one.kind, one.settings) for one in self._cohorts], self._rows_of
        self.state = [o.state[p][name] for p, o, group in self._owned for name in _averages(o, group)]
        self._guard(also)
        self._host = torch.zeros(len(cohorts), 4, dtype=torch.float64)
        self.numbers = self._host.to(self._owned[0][0].device)

    def _guard(self, also: Iterable[dict[Any, Any]]) -> None:
        """Note what the optimizers hold, for `valid`."""
        optimizers = list({id(o): o for _, o, _ in self._owned}.values())
        for optimizer in optimizers:
            optimizer._opt_called = True  # type: ignore[attr-defined]  # schedules ask whether a step was taken
        held = [Held(vars(o), ("state",)) for o in optimizers]  # load_state_dict's
        for p, o, _ in self._owned:
            counted = (
                ("step",) if isinstance(o.state[p].get("step"), Tensor) else ()
            )  # a number is another at each step
            held.append(Held(o.state[p], (*_STATE[type(o)], *counted)))
        names = (*_HYPERPARAMETERS, *_FEATURES_LEFT_TO_TORCH)
        held += [Held(group, names) for group in self._groups]
        held += map(Held, (*also, *(o.state for o in optimizers)))
        held += map(Held, {id(hooks): hooks for o in optimizers for hooks in _hooks(o)}.values())
        self._same = Same(held)
        self._rates_in_tensors = True  # which may change in place; found out when they are looked at

    @staticmethod
    def covers(optimizer: Optimizer, group: dict[str, Any]) -> bool:
        """Return whether the group's update can be part of a graph."""
        counts_on_device = group.get("fused") and any(p.device.type != "cpu" for p in group["params"])
        left_to_torch = any(map(group.get, _FEATURES_LEFT_TO_TORCH)) or any(_hooks(optimizer))
        return type(optimizer) in _STATE and not counts_on_device and not left_to_torch

    def valid(self) -> bool:
        """Return whether the optimizers hold the tensors and hyperparameters that the graph was made for."""
        if not self._same:
            return False
        one_rate_each = not (self._same.written or self._rates_in_tensors) or self._one_rate_each()
        return one_rate_each and all(len(cohort.ages()) == 1 for cohort in self._cohorts)

    def moves(self) -> str | None:
        """Return that betas or momentum are other numbers than when this was made, None if they are not."""
        places = [_HYPERPARAMETERS.index(name) for name in ("betas", "momentum")]
        pairs = ((_settings(group), cohort.settings) for cohort in self._cohorts for group in cohort.groups)
        moved = any(now[i] != then[i] for now, then in pairs for i in places)
        return "the optimizer's betas or momentum change between steps" if moved else None

    def _one_rate_each(self) -> bool:
        """Return whether the parameters of each cohort still have one learning rate."""
        rates = [[group["lr"] for group in cohort.groups] for cohort in self._cohorts]
        self._rates_in_tensors = any(isinstance(rate, Tensor) for row in rates for rate in row)
        return all(row.count(row[0]) == len(row) for row in rates)

    def prepare(self) -> None:
        """Compute the numbers of the next step."""
        self._host.numpy()[:] = [cohort.numbers() for cohort in self._cohorts]
        if self.numbers is not self._host:
            self.numbers.copy_(self._host, non_blocking=True)

    def count(self) -> None:
        """Note that the step was taken."""
        for group in self._groups:
            if "lrd" in group:  # ClippedAdam's rate decays
                group["lr"] *= group["lrd"]
        for cohort in self._cohorts:
            cohort.count()

    def apply(
        self,
        params: Sequence[Tensor],
        grads: Sequence[Tensor],
        state: Sequence[Tensor],
        numbers: Tensor,
        loss: Tensor,
        valid: Tensor | None,
        guarded: bool,
    ) -> Tensor:
        """Write parameters and state in place; return whether the loss (and clipped norm) is finite.

        Nothing is written where the data are not ``valid`` and, if ``guarded``, where the loss is not finite.
        """
        finite = loss.isfinite().all()
        grads = [grad.detach() for grad in grads]
        if self.clip is not None:
            norm = torch.stack([grad.norm() for grad in grads]).norm()
            finite = finite & norm.isfinite()
            factor = (self.clip / (norm + 1e-6)).clamp(max=1.0)  # as torch.nn.utils.clip_grad_norm_
            grads = [grad * factor for grad in grads]
        make = finite & valid if guarded and valid is not None else finite if guarded else valid
        slots = iter(state)
        for parameter, grad, row, (_, optimizer, group) in zip(params, grads, self._rows_of, self._owned, strict=True):
            old = [next(slots) for _ in _averages(optimizer, group)]
            new = _RULES[type(optimizer)](parameter, grad, old, numbers[row].to(parameter.dtype), group)
            for tensor, value in zip([parameter, *old], new, strict=True):
                tensor.copy_(value if make is None else torch.where(make, value, tensor))
        return finite


def owners(optim: PyroOptim | Optimizer) -> dict[int, tuple[Optimizer, dict[str, Any]]]:
    """Return for each parameter its torch optimizer and its group there."""
    if isinstance(optim, Optimizer):
        return {id(p): (optim, group) for group in optim.param_groups for p in group["params"]}
    inner = {p: getattr(one, "optimizer", one) for p, one in optim.optim_objs.items()}  # a schedule wraps it
    return {id(p): (one, one.param_groups[0]) for p, one in inner.items()}


def _hooks(optimizer: Optimizer) -> list[Any]:
    """What is to run before and after each step: of the optimizer, and of all."""
    return [
        optimizer._optimizer_step_pre_hooks,
        optimizer._optimizer_step_post_hooks,
        torch_optimizer._global_optimizer_pre_hooks,
        torch_optimizer._global_optimizer_post_hooks,
    ]


def _settings(group: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(map(group.get, _HYPERPARAMETERS))


def _averages(optimizer: Optimizer, group: dict[str, Any]) -> list[str]:
    return [name for name in _STATE[type(optimizer)] if name != "momentum_buffer" or group["momentum"]]


def _age(state: dict[str, Any]) -> int:
    return int(state.get("step", 0))


def _begin(parameter: Tensor, optimizer: Optimizer, group: dict[str, Any]) -> bool:
    """Create the parameter's state as its optimizer would at its first step; return whether there was none."""
    state = optimizer.state[parameter]
    fresh = not state or (type(optimizer) is SGD and state.get("momentum_buffer") is None)
    if fresh:
        for name in _averages(optimizer, group):
            state[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        if type(optimizer) is ClippedAdam:
            state["step"] = 0
        elif type(optimizer) is not SGD:
            wide = torch.get_default_dtype() == torch.float64 and not group.get("fused")
            device = parameter.device if group.get("fused") else "cpu"
            state["step"] = torch.zeros((), dtype=torch.float64 if wide else torch.float32, device=device)
    return fresh


def _decayed(p: Tensor, g: Tensor, group: dict[str, Any]) -> Tensor:
    return g + group["weight_decay"] * p if group["weight_decay"] else g


def _adam(p: Tensor, g: Tensor, old: list[Tensor], n: Tensor, group: dict[str, Any]) -> list[Tensor]:
    beta1, beta2 = group["betas"]
    if "clip_norm" in group:  # Pyro's
        g = g.clamp(-group["clip_norm"], group["clip_norm"])
    if group.get("decoupled_weight_decay"):
        p = p * n[2]
    else:
        g = _decayed(p, g, group)
    mean = old[0] + (1 - beta1) * (g - old[0])
    spread = g - mean if group.get("centered_variance") else g
    square = beta2 * old[1] + (1 - beta2) * spread * spread
    return [p - n[0] * mean / (square.sqrt() * n[1] + group["eps"]), mean, square]


def _adamax(p: Tensor, g: Tensor, old: list[Tensor], n: Tensor, group: dict[str, Any]) -> list[Tensor]:
    beta1, beta2 = group["betas"]
    g = _decayed(p, g, group)
    mean = old[0] + (1 - beta1) * (g - old[0])
    largest = torch.maximum(beta2 * old[1], g.abs() + group["eps"])
    return [p - n[0] * mean / largest, mean, largest]


def _sgd(p: Tensor, g: Tensor, old: list[Tensor], n: Tensor, group: dict[str, Any]) -> list[Tensor]:
    g = _decayed(p, g, group)
    if not old:
        return [p - n[0] * g]
    momentum = n[1] * old[0] + n[2] * g
    step = g + group["momentum"] * momentum if group["nesterov"] else momentum
    return [p - n[0] * step, momentum]


_RULES = {Adam: _adam, AdamW: _adam, ClippedAdam: _adam, Adamax: _adamax, SGD: _sgd}
