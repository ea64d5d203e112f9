"""A model and its guide as one thing that can be trained, evaluated and stored."""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from pyro.infer import ELBO, Trace_ELBO
from pyro.nn import PyroModule
from torch import Tensor, nn

Batch = Mapping[str, Tensor]
Program = Callable[..., Any]


class PairError(ValueError):
    """A model and guide that do not fit together, or not with the data; the message says what to change.

    ``unused`` names the option, if it is one that can have no effect beside the others.
    """

    def __init__(self, message: str, *, unused: str | None = None) -> None:
        super().__init__(message)
        self.unused = unused


@dataclass(frozen=True)
class Pair:
    """A model p and a guide q, with the objective that trains them.

    Args:
        model: any Pyro callable; its parameters are named after the batch fields that it needs.
        guide: likewise; samples the model's latent sites and observes nothing.
        objective: any Pyro ELBO.
        data_plate: the name of the plate, at dim -1, that holds what belongs to one datum.
        recipe: name and options that build the pair anew, kept in run folders; pairs from ``pyro_vae.pairs`` have one.
        stepper: what makes the algorithm that trains them, see `pyro_vae.stepper.Stepper`; `SVI` by default.

    Every pair keeps a parameter store of its own, so that several pairs live in one process without
    touching each other, whatever names their ``pyro.param`` and ``pyro.module`` statements use.
    """

    model: Program
    guide: Program
    objective: ELBO = field(default_factory=Trace_ELBO)
    data_plate: str = "data"
    recipe: dict[str, Any] | None = None
    stepper: Callable[..., Any] | None = None
    store: dict[str, dict] = field(default_factory=lambda: {"params": {}, "constraints": {}}, repr=False)

    @functools.cached_property
    def bound_model(self) -> "Bound":
        """The model as a function of the batch."""
        return Bound(self.model, self.store)

    @functools.cached_property
    def bound_guide(self) -> "Bound":
        """The guide as a function of the batch."""
        return Bound(self.guide, self.store)

    @property
    def fields(self) -> tuple[str, ...]:
        """The batch fields that model or guide name."""
        return tuple(dict.fromkeys(self.bound_model.fields + self.bound_guide.fields))

    def modules(self) -> dict[str, nn.Module]:
        """The modules that model and guide run, by role; each once."""
        found: dict[str, nn.Module] = {}
        for role, program in (("model", self.model), ("guide", self.guide)):
            for name, module in modules_of(program).items():
                if all(module is not other for other in found.values()):
                    found[f"{role}.{name}" if name else role] = module
        return found

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Every trainable tensor once, by name.

        Parameters that programs create on their first run are known only after it (``check_pair`` or any
        evaluation makes one).
        """
        return _distinct(self._named("named_parameters"), lambda p: p.requires_grad)

    def named_buffers(self) -> dict[str, Tensor]:
        """Every buffer and frozen parameter once, by name."""
        frozen = _distinct(self._named("named_parameters"), lambda p: not p.requires_grad)
        return frozen | _distinct(self._named("named_buffers"), lambda b: True)

    def _named(self, kind: str) -> Iterator[tuple[str, Any]]:
        for role, module in self.modules().items():
            for name, tensor in getattr(module, kind)():
                yield f"{role}.{name}", tensor
        if kind == "named_parameters":
            for bound in (self.bound_model, self.bound_guide):
                for name, tensor in bound.store["params"].items():
                    yield f"param.{name}", tensor

    def state_dict(self) -> dict[str, Tensor]:
        """Parameters and buffers by name, detached; not copied."""
        return {name: t.detach() for name, t in (self.named_parameters() | self.named_buffers()).items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Copy in what ``state_dict`` gave.

        Raises:
            PairError: when names or shapes differ.
        """
        own = self.state_dict()
        if own.keys() != state.keys():
            odd = sorted(own.keys() ^ state.keys())
            raise PairError(
                f"the stored state does not belong to this pair: {len(odd)} names differ, first {odd[0]!r}; "
                "rebuild the pair with the options that it was trained with"
            )
        for name, tensor in own.items():
            if tensor.shape != state[name].shape:
                raise PairError(
                    f"stored parameter {name!r} has shape {tuple(state[name].shape)}, the pair's has "
                    f"{tuple(tensor.shape)}; rebuild the pair with the options that it was trained with"
                )
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(state[name])

    def to(self, device: torch.device | str) -> "Pair":
        """Move everything in place and return the pair."""
        for module in self.modules().values():
            module.to(device)
        for bound in (self.bound_model, self.bound_guide):
            for tensor in bound.store["params"].values():
                tensor.data = tensor.data.to(device)
        return self

    def train(self, mode: bool = True) -> "Pair":
        """Set train or evaluation mode (dropout) on every module and return the pair."""
        for module in self.modules().values():
            module.train(mode)
        return self

    @property
    def training(self) -> bool:
        """Whether any module is in training mode."""
        return any(module.training for module in self.modules().values())


class Bound:
    """A program as a function of the batch: it gets exactly the fields that it names."""

    def __init__(self, program: Program, store: dict[str, dict]) -> None:
        self.program = program
        # A PyroModule registers every net it touches under its attribute's name: ``self.net`` in both model and
        # guide would be one entry, and the model's net would never train. So each keeps its own store.
        own = isinstance(program, PyroModule)
        self.store: dict[str, dict] = {"params": {}, "constraints": {}} if own else store
        self.name = getattr(program, "__qualname__", None) or type(program).__name__
        self.fields, self.required, self.takes_all = _parameters(program)

    def arguments(self, batch: Batch) -> dict[str, Tensor]:
        """The fields that the program names.

        Raises:
            PairError: when the batch lacks one that the program cannot do without.
        """
        missing = [name for name in self.required if name not in batch]
        if missing:
            raise PairError(
                f"{self.name} needs the field {missing[0]!r}, and the data have {', '.join(map(repr, batch))}; "
                f"use data with {missing[0]!r}, or rename the program's parameter"
            )
        return dict(batch) if self.takes_all else {name: batch[name] for name in self.fields if name in batch}

    def __call__(self, batch: Batch) -> Any:
        """Run the program in the pair's own parameter store."""
        with pyro.get_param_store().scope(self.store):
            return self.program(**self.arguments(batch))


def _parameters(program: Program) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
    """Names of all parameters, of those without a default, and whether there is a ``**kwargs``."""
    call = program.forward if isinstance(program, nn.Module) else program
    parameters = inspect.signature(call).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if any(p.kind is p.POSITIONAL_ONLY for p in parameters):
        raise PairError(f"{program!r} has positional-only parameters; name them after batch fields instead")
    required = tuple(p.name for p in named if p.default is p.empty)
    return tuple(p.name for p in named), required, any(p.kind is p.VAR_KEYWORD for p in parameters)


def modules_of(program: Any) -> dict[str, nn.Module]:
    """The modules that a program can reach: itself, its ``self``, or what its closure and globals name."""
    if isinstance(program, nn.Module):
        return {"": program}
    if isinstance(program, functools.partial):
        return modules_of(program.func)
    if hasattr(program, "program"):  # bound to a batch, or under a handler
        return modules_of(program.program)
    owner = getattr(program, "__self__", None)
    if isinstance(owner, nn.Module):
        return {"": owner}
    code = getattr(program, "__code__", None)
    if code is None:
        held = vars(program) if hasattr(program, "__dict__") else {}
    else:
        cells = inspect.getclosurevars(program)
        held = {**cells.globals, **cells.nonlocals}
        if owner is not None:
            held |= vars(owner)
    return {name: value for name, value in held.items() if isinstance(value, nn.Module)}


def _distinct(named: Iterator[tuple[str, Any]], keep: Callable[[Any], bool]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    seen: set[int] = set()
    for name, tensor in named:
        if keep(tensor) and id(tensor) not in seen:
            seen.add(id(tensor))
            found[name] = tensor
    return found
