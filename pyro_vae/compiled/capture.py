"""The modes under which a Pyro program is watched and recorded.

Nothing in torch or Pyro is patched: the modes are torch's own, hold for one thread and end with their `with` block.

`Constants` and `Reads` lie under `make_fx` while a run is recorded. A value that depends on a draw must not be read
by Python, and must not decide a shape: both would be frozen into the recording. Values that depend on constants only
(`torch.arange(5) > 2`) may be read, since they are the same every time, and so may integers and booleans that
depend on inputs only: they are noted, to be asked for before each step (`questions`).
"""

import functools
import pkgutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from pyro_vae.compiled import packed
from pyro_vae.compiled._torch import NAMES, optional, private, tree_leaves, unseen
from pyro_vae.compiled.observe import written_by
from pyro_vae.compiled.refusal import line_of_program, refuse, remembered
from pyro_vae.compiled.state import memory

_aten = torch.ops.aten
_NO_FIXED_SHAPE = "it indexes by a boolean mask that depends on data or draws, so the result has no fixed shape"


class Constants(TorchDispatchMode):
    """Refuse, while recording, what would freeze a varying value or shape; compute constants at once.

    Args:
        inputs: tensors whose integers and booleans may be read, and of what depends on them alone.

    Attributes:
        asked: those that were read, each with the line that did.
    """

    def __init__(self, inputs: Sequence[Tensor] = ()) -> None:
        super().__init__()
        self._constant = WeakTensorKeyDictionary()
        self._overwritten: set[int] = set()
        self._foreseen = WeakTensorKeyDictionary()
        self._written: set[int] = set()
        self.asked: list[tuple[Tensor, str]] = []
        for tensor in inputs:
            self._foreseen[tensor] = True

    def constant(self, tensor: Tensor) -> bool:
        """Return whether the tensor depends neither on an input nor on a draw."""
        return tensor in self._constant and memory(tensor) not in self._overwritten

    def foreseen(self, tensor: Tensor) -> bool:
        """Return whether the tensor depends on inputs and constants alone, none of which was written in place."""
        known = tensor in self._foreseen or tensor in self._constant
        return known and memory(tensor) not in self._written

    def ask(self, tensor: Tensor) -> bool:
        """Return whether the tensor's values may be read; note that they are."""
        if self.constant(tensor):
            return True
        if tensor.is_floating_point() or tensor.is_complex() or not self.foreseen(tensor):
            return False
        if all(tensor is not known for known, _ in self.asked):
            self.asked.append((tensor, line_of_program()))
        return True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        if func is _aten.lift_fresh.default:
            constant = True
        else:
            constant = torch.Tag.nondeterministic_seeded not in func.tags and all(map(self.constant, tensors))
        foreseen = torch.Tag.nondeterministic_seeded not in func.tags and all(map(self.foreseen, tensors))
        args, computed = self._shape_is_fixed(func, args, kwargs, constant)
        out = unseen(func, *args, **kwargs) if computed else func(*args, **kwargs)
        written = set(map(memory, written_by(func, args, kwargs)))
        made = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        new = set(map(memory, made)) - set(map(memory, tensors))  # which freed tensors may have had before
        self._written = (self._written - new) | written
        self._overwritten = (self._overwritten - new) | (set() if constant else written)
        for tensor in made:
            for holds, which in ((constant, self._constant), (foreseen, self._foreseen)):
                if holds:
                    which[tensor] = True
                else:
                    which.pop(tensor, None)
        return out

    def _shape_is_fixed(self, func: Any, args: Any, kwargs: Any, constant: bool) -> tuple[Any, bool]:
        """Return the arguments to use, and whether the result is a constant to compute at once."""
        if func in (_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default):
            indices = args[1]
            masks = [i for i in indices if i is not None and i.dtype in (torch.bool, torch.uint8)]
            if not masks:
                return args, False
            if all(map(self.constant, masks)) or (func is _aten.index.Tensor and all(map(self.ask, masks))):
                return (args[0], self.positions(indices), *args[2:]), False
            if func is not _aten.index.Tensor and args[2].numel() == 1:
                return args, False
            raise refuse(_NO_FIXED_SHAPE)
        if torch.Tag.dynamic_output_shape in func.tags:
            if constant:
                return args, True
            raise refuse(f"the shape of {func.overloadpacket.__name__}'s result depends on data or draws")
        if torch.Tag.data_dependent_output in func.tags:
            if constant or (func is _aten._local_scalar_dense.default and self.ask(args[0])):
                return args, True
            raise refuse("it reads the value of a tensor, which depends on draws or is not an integer")
        return args, False

    def positions(self, indices: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Return the indices with each (constant) mask replaced by the positions at which it is true."""
        out: list[Tensor | None] = []
        for index in indices:
            mask = index is not None and index.dtype in (torch.bool, torch.uint8)
            out += unseen(torch.nonzero, index, as_tuple=True) if mask else [index]
        for tensor in out:
            if tensor is not None:
                self._constant[tensor] = True
        return out


# Places in the libraries that read a value and whose answer is known, by the code that asks.
_KNOWN = {
    "pyro.util:warn_if_nan": "warns",
    "pyro.util:warn_if_inf": "warns",
    # "is it the number zero (one)?": only saves work, and NaN is neither
    "pyro.distributions.util:is_identically_zero": "identical",
    "pyro.distributions.util:is_identically_one": "identical",
    # "are all probabilities positive?": if not, `masked_select` drops the others before a dot product
    "pyro.infer.util:Dice.compute_expectation": "dot",
    # "are all values valid?": yes, and whether they were is one of the recording's outputs
    "torch.distributions:Distribution._validate_sample": "sample",
    "torch.distributions:Distribution.__init__": "arguments",
    NAMES["validate_arguments"]: "arguments",
    # compares the scales of enumerated sites, which the eager run did with the same tensors
    "pyro.infer.traceenum_elbo:_get_common_scale.__wrapped__": "scales",
}


@functools.cache
def _known() -> dict[CodeType, str]:
    """Return what is asked, by the code that does; what another version lacks is left out, so that more is refused."""
    found: dict[CodeType, str] = {}
    for place, what in _KNOWN.items():
        with suppress(ImportError, AttributeError):
            found[pkgutil.resolve_name(place).__code__] = what
    return found


_DISTRIBUTIONS = str(Path(str(torch.distributions.__file__)).parent)
_GO_BETWEENS = {torch.overrides.__file__, torch.Tensor.backward.__code__.co_filename}
_LEAVE_TORCH = {
    torch.Tensor.numpy,
    torch.Tensor.__array__,
    torch.Tensor.tolist,
    torch.Tensor.data_ptr,
    torch.Tensor.__dlpack__,
    torch.Tensor.untyped_storage,
}

_WHOLE: dict[Any, Callable[[Tensor], Tensor]] = {
    torch.Tensor.__int__: torch.Tensor.long,
    torch.Tensor.__bool__: torch.Tensor.bool,
}  # what is read of a float


class _Selected:
    """`tensor[mask]`, which may be assigned to another tensor at the same mask; anything else needs to know the mask."""

    def __init__(self, tensor: Tensor, mask: Tensor) -> None:
        self.tensor, self.mask = tensor, mask

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # torch asks what it is
            raise AttributeError(name)
        return getattr(torch.Tensor.masked_select(self.tensor, self.mask), name)


def _caller() -> FrameType:
    """Return the frame that called the function which a mode is asked about."""
    frame = sys._getframe(2)
    while frame.f_code.co_filename in _GO_BETWEENS and frame.f_back is not None:
        frame = frame.f_back
    return frame


def _asks_for_arguments(frame: FrameType) -> bool:
    """Return whether a distribution of torch's validates its arguments, as it did in the eager run with the same ones."""
    code, one = frame.f_code, frame.f_locals.get("self")
    theirs = code.co_name == "__init__" and code.co_filename.startswith(_DISTRIBUTIONS)
    return theirs and isinstance(one, torch.distributions.Distribution) and bool(one._validate_args)


class Reads(TorchFunctionMode):
    """Answer, while recording, the reads of values whose answer is known, and give fixed shapes to what can
    have them.

    Args:
        constants: knows which tensors are constants.
        params: what to differentiate with respect to when the program calls `backward`.

    Attributes:
        grads: the accumulated gradient for each of `params`, None where none has arrived.
        valid: 0-dim bool tensors: whether values lay where torch and Pyro want them to.
    """

    def __init__(self, constants: Constants, params: Sequence[Tensor] = ()) -> None:
        super().__init__()
        self.constants, self.params = constants, list(params)
        self.grads: list[Tensor | None] = [None] * len(self.params)
        self.valid: list[Tensor] = []
        self._made: dict[int, tuple[Tensor, Any]] = {}  # masks, and what they were computed from

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        frame = _caller()
        answer = self._answer(func, args, frame)
        if answer is not NotImplemented:
            return answer
        if func is torch.Tensor.masked_select and self._is_mask(*args[:2]):
            if self.constants.ask(args[1]):
                return args[0][tuple(self.constants.positions([args[1]]))]
            raise refuse(_NO_FIXED_SHAPE)
        whole = _WHOLE.get(func)
        if whole is not None and args[0].is_floating_point() and self.constants.foreseen(args[0]):
            return func(whole(args[0]))
        if func is torch.Tensor.backward:
            return self._backward(*args, **kwargs)
        if func is optional("one_hot"):  # it reads its input to check it
            classes = kwargs.get("num_classes", args[1] if len(args) > 1 else -1)
            if classes >= 0:
                labels = args[0] if args else kwargs["input"]
                self.valid.append(((labels >= 0) & (labels < classes)).all())
                return (labels.unsqueeze(-1) == torch.arange(classes, device=labels.device)).long()
        if func is torch.Tensor.__getitem__ and self._is_mask(args[0], args[1]):
            return _Selected(args[0], args[1])
        if func is torch.Tensor.__setitem__ and self._is_mask(args[0], args[1]):
            return self._assign(*args)
        if packed.takes_packed(func, args):
            return packed.run(func, args, self.constants.ask)
        if func is torch.Tensor.tolist and self.constants.ask(args[0]):
            return unseen(func, *args)
        if func in _LEAVE_TORCH and frame.f_code is not memory.__code__ and not self.constants.constant(args[0]):
            raise refuse("it takes the value of a tensor out of torch")
        out = func(*args, **kwargs)
        if isinstance(out, Tensor) and out.dtype == torch.bool:
            self._made[id(out)] = out, (func, *map(_identity, (*args, *kwargs.items())))
        return out

    def _answer(self, func: Any, args: Any, frame: Any) -> Any:
        """Answer what Pyro and torch themselves ask of a tensor, known by who asks; NotImplemented where it is not they."""
        asks = _known().get(frame.f_code)
        if func is torch.Tensor.__bool__ and asks in ("sample", "arguments"):
            if "sample" in (asks, frame.f_back and _known().get(frame.f_back.f_code)):
                self.valid.append(args[0].detach())
            return True
        if func is torch.Tensor.__bool__ and asks in ("warns", "dot"):
            return False
        if func is torch.Tensor.__bool__ and _asks_for_arguments(frame):
            return unseen(func, *args)
        if func is torch.Tensor.item:
            return float("nan") if asks == "identical" else args[0].detach()
        if func is torch.Tensor.__float__ and asks == "scales":
            return unseen(lambda: args[0].detach().item())
        if func is torch.Tensor.masked_select and asks == "dot":
            return torch.where(args[1], args[0], torch.zeros((), dtype=args[0].dtype, device=args[0].device))
        if func is torch.Tensor.register_hook and asks == "warns":  # the same question of the gradient
            return None
        return NotImplemented

    def _backward(self, loss: Tensor, gradient: Tensor | None = None, **_: Any) -> None:
        wanted = [i for i, p in enumerate(self.params) if p.requires_grad]  # others are frozen
        if not wanted:
            return
        of = [self.params[i] for i in wanted]
        grads = torch.autograd.grad(loss, of, gradient, allow_unused=True, retain_graph=True)
        for i, grad in zip(wanted, grads, strict=True):
            old = self.grads[i]
            if grad is not None:
                self.grads[i] = grad if old is None else old + grad

    def _is_mask(self, tensor: Tensor, index: Any) -> bool:
        return (
            isinstance(index, Tensor)
            and index.dtype == torch.bool
            and index.shape == tensor.shape
            and index.dim() > 0
            and not self.constants.constant(index)
        )

    def _origin(self, mask: Tensor) -> Any:
        """Return what a mask was computed from and how: `x == -1` is the same mask wherever it is written."""
        return self._made.get(id(mask), (mask, id(mask)))[1] if mask._version == 0 else id(mask)

    def _assign(self, tensor: Tensor, mask: Tensor, value: Any) -> None:
        """`tensor[mask] = value` in a form whose shapes are fixed."""
        if isinstance(value, _Selected):
            if value.mask is not mask and self._origin(value.mask) != self._origin(mask):
                raise refuse("it assigns what one boolean mask selects at another mask")
            tensor.copy_(torch.where(mask, value.tensor, tensor))
        elif not isinstance(value, Tensor) or value.numel() == 1:
            tensor.copy_(torch.where(mask, torch.as_tensor(value, dtype=tensor.dtype), tensor))
        else:
            raise refuse("it assigns a tensor at a boolean mask, so the value has no fixed shape")


def _identity(value: Any) -> Any:
    """Return what is equal for the same tensor with the same values, or the same object, throughout a recording."""
    if isinstance(value, Tensor):
        return id(value), value._version
    return repr(value) if isinstance(value, int | float | bool | str | type(None)) else id(value)


def trace(fn: Callable[..., list[Tensor]], inputs: Sequence[Tensor]) -> GraphModule:
    """Record `fn(*inputs)` as one flat graph of ATen operations.

    Raises:
        RecordingError: the call reads varying values, or what torch could not record, as one sentence.
    """
    with remembered():
        # make_fx describes each value by a fake tensor; with one mode for all it takes half the time
        fake = private("TracingContext")(private("FakeTensorMode")(allow_fallback_kernels=True))
        with _pyros_own_validation_off(), private("tracing")(fake):
            return make_fx(fn, tracing_mode="real", record_module_stack=False)(*inputs)


@contextmanager
def _pyros_own_validation_off() -> Iterator[None]:
    """Switch off what Pyro asks of shapes and traces, which the eager run has answered, and leave that of values on."""
    distribution = torch.distributions.Distribution
    wanted = distribution._validate_args
    try:
        with pyro.validation_enabled(False):
            distribution.set_default_validate_args(wanted)
            yield
    finally:
        distribution.set_default_validate_args(wanted)
