"""A model and its guide as one object that can be trained, evaluated and stored."""

import functools
import inspect
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import pyro
import pyro.poutine as poutine
import torch
from pyro.infer import ELBO, Trace_ELBO
from pyro.infer.autoguide import AutoGuide
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pyro_vae.program.global_parameters import GlobalParameters
from pyro_vae.program.modes import frozen_kept, is_frozen, modes_kept
from pyro_vae.program.reachable import modules_of
from pyro_vae.program.verbs import Verbs
from pyro_vae.runs import seeded

Batch = Mapping[str, Tensor]
Program = Callable[..., Any]

ROLES = ("model", "guide", "param")  # what a pair's names of parameters and buffers begin with


def size_of(batch: Batch) -> int:
    """Return the number of data in a batch."""
    return len(next(iter(batch.values())))


class PairError(ValueError):
    """A model and guide that do not fit together or do not fit the data; the message says what to
    change.

    ``unused`` names the option that has no effect given the others, if that is the problem.
    """

    def __init__(self, message: str, *, unused: str | None = None) -> None:
        super().__init__(message.partition("Trace Shapes:")[0].rstrip())  # a trace adds a table of its sites
        self.unused = unused


@dataclass(frozen=True, repr=False)
class Pair(Verbs):
    """A model p and a guide q, with the objective that trains them.

    Args:
        model: any Pyro callable; its parameters are named after the batch fields that it needs.
        guide: likewise; samples the model's latent sites and observes nothing.
        objective: any Pyro ELBO.
        data_plate: the name of the plate, at dim -1, that holds what belongs to one datum.
        recipe: name and options that build the pair anew, kept in run folders; pairs from
            ``pyro_vae.pairs`` have one.
        stepper: what makes the algorithm that trains them, see `pyro_vae.training.Stepper`; `SVI`
            by default.
        shapes: event shape of each field of the data that it was built for, where they are known.

    Every pair keeps a parameter store of its own, so that several pairs live in one process without
    touching each other, whatever names their ``pyro.param`` and ``pyro.module`` statements use.
    What a script has trained before is shared all the same: nets because the programs hold them,
    and a ``pyro.param`` that Pyro's global store has when the pair first meets its name, because
    the pair then takes that very tensor.
    """

    model: Program
    guide: Program
    objective: ELBO = field(default_factory=Trace_ELBO)
    data_plate: str = "data"
    recipe: dict[str, Any] | None = None
    stepper: Callable[..., Any] | None = None
    shapes: Mapping[str, tuple[int, ...]] | None = None
    stores: dict[str, dict[str, dict]] = field(default_factory=lambda: defaultdict(_new_store), repr=False)
    pending: dict[str, Tensor] = field(default_factory=dict, repr=False)
    """A state that was loaded before the first run, which makes the parameters that it belongs to.
    """

    @property
    def title(self) -> str:
        """The name that it was built by, a file's without folders; "pair" where it has none."""
        name = self.recipe["name"] if self.recipe else "pair"
        return os.path.basename(name) if ":" in name else name

    def __repr__(self) -> str:
        name = f"{self.title}: " if self.recipe else ""
        count = sum(0 if is_lazy(p) else p.numel() for p in self.named_parameters().values())
        programs = f"{self.bound_model.name}, {self.bound_guide.name}"
        return f"Pair({name}{programs}, {type(self.objective).__name__}, {count:,} parameters)"

    @functools.cached_property
    def bound_model(self) -> "BatchProgram":
        """The model as a function of the batch."""
        return BatchProgram(self.model, self._store("model", self.model), self.begin)

    @functools.cached_property
    def bound_guide(self) -> "BatchProgram":
        """The guide as a function of the batch."""
        bound = BatchProgram(self.guide, self._store("guide", self.guide), self.begin)
        if isinstance(self.guide, AutoGuide):  # hands to its model whatever it gets
            model = self.bound_model
            bound.fields, bound.required, bound.takes_all = model.fields, model.required, model.takes_all
        return bound

    def _store(self, role: str, program: Program) -> dict[str, dict]:
        # A PyroModule registers every net it touches under its attribute's name: ``self.net`` in both model and
        # guide would be one entry, and the model's net would never train. So each keeps its own store.
        return self.stores[role if isinstance(program, PyroModule) else "both"]

    @property
    def fields(self) -> tuple[str, ...]:
        """The batch fields that model or guide name."""
        return tuple(dict.fromkeys(self.bound_model.fields + self.bound_guide.fields))

    def modules(self) -> dict[str, nn.Module]:
        """The modules that model and guide can reach, by role and name; each once, not those within
        another.

        They are found wherever programs hold them: in attributes, variables, globals, lists,
        dictionaries, dataclasses and other objects, and in what these hold in turn.
        """
        reached = [
            (role, path, module)
            for role, program in (("model", self.model), ("guide", self.guide))
            for path, module in modules_of(program).items()
        ]
        found: dict[str, nn.Module] = {}
        inside: set[int] = set()
        for role, path, module in sorted(reached, key=lambda one: len(one[1])):  # the nearest name is a module's own
            if id(module) not in inside:
                found[".".join((role, *path))] = module
                inside |= {id(part) for part in module.modules()}
        return found

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Every trainable tensor once, by name.

        Parameters that programs create on their first run are known only after it (``check_pair``
        or any evaluation makes one).
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
        """Parameters and buffers by name, detached; not copied. Constrained parameters are
        unconstrained values.
        """
        if self.pending:
            return dict(self.pending)
        every = self.named_parameters() | self.named_buffers()
        return {name: t if is_lazy(t) else t.detach() for name, t in every.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Copy in what ``state_dict`` gave.

        A pair whose programs make parameters on their first run (``pyro.param``, autoguides, lazy
        modules) may be loaded before it: the state is then copied in, and refused if it does not
        fit, as soon as they are run.

        Raises:
            PairError: when names or shapes differ.
        """
        state = {name: _unconstrained(value) for name, value in state.items()}
        own = self.state_dict() if not self.pending else {}
        later = own.keys() < state.keys() or any(map(is_lazy, own.values()))
        if later and _are_names_of_a_pair(state) and not (self.bound_model.ran and self.bound_guide.ran):
            self.pending.clear()
            self.pending.update({name: value.detach().clone() for name, value in state.items()})
            return
        _refuse_other(own, state)
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(state[name])

    def begin(self, batch: Batch) -> None:
        """Before the first run with a state to load: run both programs, which makes their
        parameters, and load it.
        """
        if not self.pending:
            return
        state = dict(self.pending)
        self.pending.clear()
        with seeded(0), torch.no_grad(), poutine.block(), pyro.validation_enabled(False):
            self.bound_guide(batch)
            self.bound_model(batch)
        self.load_state_dict(state)

    def to(self, device: torch.device | str) -> "Pair":
        """Move everything in place and return the pair."""
        for module in self.modules().values():
            module.to(device)
        for bound in (self.bound_model, self.bound_guide):
            for tensor in bound.store["params"].values():
                tensor.data = tensor.data.to(device)
        return self

    def train(self, mode: bool = True) -> "Pair":
        """Set train or evaluation mode (dropout) on every module and return the pair.

        A frozen part, one with parameters of which none requires a gradient, stays in evaluation
        mode if it is in it: a pretrained net keeps its running averages.
        """
        modules = self.modules().values()
        parts = [part for module in modules for part in module.modules()]
        kept = [part for part in parts if mode and not part.training and is_frozen(part)]
        with modes_kept(inner for part in kept for inner in part.modules()):
            for module in modules:
                module.train(mode)
        return self

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Switch to evaluation mode inside, and restore every module's mode afterwards."""
        modules = self.modules().values()
        with modes_kept(part for module in modules for part in module.modules()):
            for module in modules:
                module.train(False)
            yield

    @property
    def training(self) -> bool:
        """Whether any module is in training mode."""
        return any(module.training for module in self.modules().values())


class BatchProgram:
    """A program as a function of the batch: it gets exactly the fields that it names.

    Args:
        store: the parameters that its ``pyro.param`` and ``pyro.module`` statements made.
        begin: called with the batch before the first run.

    Attributes:
        ran: whether it has been run.
        shapes: event shape of each field that it was first run on.
    """

    def __init__(
        self, program: Program, store: dict[str, dict], begin: Callable[[Batch], None] = lambda _: None
    ) -> None:
        self.program = program
        self.store = store
        self.begin = begin
        self.ran = False
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.name = program_name(program)
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
        """Run the program in the pair's own parameter store; what is frozen stays so."""
        arguments = self.arguments(batch)
        if not self.ran:
            self.ran = True
            self.begin(batch)
            self.shapes.update({name: tuple(value.shape[1:]) for name, value in arguments.items()})
        store = pyro.get_param_store()
        shared = GlobalParameters(self.name, store.get_state()) if store else nullcontext()
        with store.scope(self.store), shared, frozen_kept(self.program):
            try:
                return self.program(**arguments)
            except RuntimeError as error:
                if apart := self._apart(arguments):
                    raise PairError(apart) from error
                raise

    def _apart(self, arguments: Batch) -> str:
        """Say that a field is on another device than the program's parameters; else nothing."""
        module = self.program if isinstance(self.program, nn.Module) else nn.Module()
        own = [*module.parameters(), *module.buffers(), *self.store["params"].values()]
        places = {tensor.device for tensor in own}
        for name, value in arguments.items():
            if places and value.device not in places:
                place = next(iter(places))
                return (
                    f"{name} is on {value.device} and the parameters of {self.name} are on {place}; move one of them: "
                    f"pair.to({str(value.device)!r}), or {name}.to({str(place)!r})"
                )
        return ""


def _new_store() -> dict[str, dict]:
    return {"params": {}, "constraints": {}}


def _unconstrained(value: Tensor) -> Tensor:
    """Return the unconstrained tensor behind a value of ``pyro.param``; any other tensor as it is."""
    behind = getattr(value, "unconstrained", None)
    return value if behind is None else behind()


def _are_names_of_a_pair(names: Iterable[str]) -> bool:
    return all(name.partition(".")[0] in ROLES for name in names)


def _refuse_other(own: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Refuse a state whose names or shapes are not the pair's own."""
    change = "rebuild the pair with the options that it was trained with"
    if own.keys() != state.keys():
        odd = sorted(own.keys() ^ state.keys())
        if not _are_names_of_a_pair(state):
            change = (
                "these are the names of Pyro's parameter store, whose parameters a pair takes by itself "
                "when it is built "
                "and run after they were made: pv.Pair(model, guide)"
            )
        raise PairError(
            f"the stored state does not belong to this pair: {len(odd)} names differ, first {odd[0]!r}; {change}"
        )
    for name, tensor in own.items():
        if tensor.shape != state[name].shape:
            raise PairError(
                f"stored parameter {name!r} has shape {tuple(state[name].shape)}, the pair's has "
                f"{tuple(tensor.shape)}; {change}"
            )


def program_name(program: Program) -> str:
    """Return the name by which messages call a program."""
    return getattr(program, "__qualname__", None) or type(program).__name__


@contextmanager
def evaluating(programs: Iterable[Program]) -> Iterator[None]:
    """Switch every module of the programs to evaluation mode inside, and restore the modes
    afterwards.
    """
    modules = [m for program in programs for root in modules_of(program).values() for m in root.modules()]
    with modes_kept(modules):
        for module in modules:
            module.training = False
        yield


def _parameters(program: Program) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
    """Return the names of all parameters, of those without a default, and whether there is
    ``**kwargs``.
    """
    call = program.forward if isinstance(program, nn.Module) else program
    parameters = inspect.signature(call).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if any(p.kind is p.POSITIONAL_ONLY for p in parameters):
        raise PairError(f"{program!r} has positional-only parameters; name them after batch fields instead")
    required = tuple(p.name for p in named if p.default is p.empty)
    return tuple(p.name for p in named), required, any(p.kind is p.VAR_KEYWORD for p in parameters)


def _distinct(named: Iterator[tuple[str, Any]], keep: Callable[[Any], bool]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    seen: set[int] = set()
    for name, tensor in named:
        if keep(tensor) and id(tensor) not in seen:
            seen.add(id(tensor))
            found[name] = tensor
    return found
