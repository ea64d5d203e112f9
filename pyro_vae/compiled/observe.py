"""Watch an eager run: which tensors come from outside of it, and which of them it writes in place."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from pyro_vae.compiled._torch import tree_leaves
from pyro_vae.compiled.refusal import line_of_program
from pyro_vae.compiled.state import memory

_aten = torch.ops.aten
_BATCH_NORMS = ("native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm")


def written_by(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Tensor]:
    """Return the arguments that the operation writes in place."""
    if func.overloadpacket.__name__ in _BATCH_NORMS:  # its schema hides that it writes the running statistics
        return [t for t in args[3:5] if args[5] and isinstance(t, Tensor)]
    if not func._schema.is_mutable:
        return []
    found = []
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[i] if i < len(args) else kwargs.get(argument.name)
            found += [t for t in tree_leaves(value) if isinstance(t, Tensor)]
    return found


class Observe(TorchDispatchMode):
    """Watch an eager run.

    Attributes:
        outside: tensors that the run used and did not make, in order of first use; `given` is left out.
        saved: `(tensor, copy from before)` of the outside tensors that the run wrote in place, also through views of its own;
            to be put back from last to first, since tensors that share memory may have been found one after the other.
            Those given are among them, if they were written.
        given_written: the line that wrote a given tensor, or None.
    """

    def __init__(self, given: Sequence[Tensor] = ()) -> None:
        super().__init__()
        self.outside: list[Tensor] = []
        self.saved: list[tuple[Tensor, Tensor]] = []
        self._made = WeakTensorKeyDictionary()
        self.given_written: str | None = None
        self._given = list(given)
        self._known = {id(t) for t in given}
        self._in_memory: dict[int, list[Tensor]] = {}  # the given and the outside tensors in each piece of memory
        for tensor in given:
            self._in_memory.setdefault(memory(tensor), []).append(tensor)

    def made(self, tensor: Tensor) -> bool:
        """Return whether the run itself made the tensor."""
        return tensor in self._made

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not _aten.lift_fresh.default:  # its argument is a constant that Python has just made
            for tensor in tree_leaves((args, kwargs)):
                if isinstance(tensor, Tensor) and id(tensor) not in self._known and tensor not in self._made:
                    self._known.add(id(tensor))
                    self.outside.append(tensor)
                    self._in_memory.setdefault(memory(tensor), []).append(tensor)
            for written in written_by(func, args, kwargs):
                for tensor in self._in_memory.get(memory(written), ()):
                    if all(tensor is not t for t, _ in self.saved):
                        self.saved.append((tensor, tensor.detach().clone()))
                        if any(tensor is t for t in self._given):
                            self.given_written = line_of_program()
        out = func(*args, **kwargs)
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and id(tensor) not in self._known:
                self._made[tensor] = True
        return out
