"""What a run leaves behind: random states, and tensors that it writes in place; and how both are put back."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.compiled._torch import private


class RecordingError(RuntimeError):
    """What a program does that a recording cannot repeat; the text is one sentence that names the line."""


def memory(tensor: Tensor) -> int:
    """Return what identifies the tensor's memory; tensors that are views of one another share it."""
    return tensor.untyped_storage()._cdata if tensor.layout is torch.strided else id(tensor)


def like(tensor: Tensor, values: Tensor | None = None) -> Tensor:
    """Return the values, the tensor's own by default, in new memory with its strides (if no two elements overlap)."""
    values = tensor if values is None else values
    if private("has_internal_overlap")(tensor):
        return values.clone()
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device).copy_(values)


def surroundings() -> tuple[Any, ...] | None:
    """Return what torch is set to around a call; None inside a mode that sees, or changes, each operation.

    A default device is a mode too, and one that can be told.
    """
    devices = []
    if private("function_modes_count")() or private("dispatch_modes_count")():
        modes = [*private("function_modes")(), *private("dispatch_modes")()]
        if not all(isinstance(mode, private("DefaultDevice")) for mode in modes):
            return None
        devices = [mode.device for mode in modes]
    casts = [torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) for kind in ("cpu", "cuda")]
    return torch.get_default_dtype(), *casts, torch.distributions.Distribution._validate_args, *devices


def random_state() -> list[Tensor]:
    """Return the states of torch's generators."""
    cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if cuda else ())]


def set_random_state(state: list[Tensor]) -> None:
    """Put torch's generators back."""
    torch.set_rng_state(state[0])
    if state[1:]:
        torch.cuda.set_rng_state_all(state[1:])


def copies(tensors: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Return each tensor with a copy of it, to be put back."""
    return [(t, t.detach().clone()) for t in tensors]


def put_back(saved: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Give tensors the values of their copies, from last to first."""
    with torch.no_grad():
        for tensor, copy in reversed(saved):
            tensor.copy_(copy)


@contextmanager
def undisturbed(saved: Sequence[tuple[Tensor, Tensor]] = ()) -> Iterator[None]:
    """Leave torch's random state and the saved tensors as they were; refuse draws from other random states.

    Within the caller's autocast, weights that were cast already are cast anew: a recording must see the parameters
    themselves.
    """
    torch.clear_autocast_cache()
    state = random_state()
    others = random.getstate(), np.random.get_state(legacy=False)
    try:
        yield
    finally:
        set_random_state(state)
        numpy_drawn = not equal_states(np.random.get_state(legacy=False), others[1])
        python_drawn = random.getstate() != others[0]
        random.setstate(others[0])
        np.random.set_state(others[1])
        put_back(saved)
    if numpy_drawn or python_drawn:
        raise RecordingError(
            f"it draws from {'NumPy' if numpy_drawn else 'Python'}'s random state, and a recording would "
            "repeat the first draw; draw with torch"
        )


def generator_state(one: Any) -> Any:
    """Return the state of a generator of random numbers: Python's, NumPy's or torch's."""
    if isinstance(one, torch.Generator):
        return one.get_state()
    if isinstance(one, random.Random):
        return one.getstate()
    return (
        one.get_state(legacy=False)
        if isinstance(one, np.random.RandomState)
        else getattr(one, "bit_generator", one).state
    )


def equal_states(one: Any, other: Any) -> bool:
    """Return whether two states of one generator are the same."""
    if isinstance(one, dict):
        return all(equal_states(one[key], other[key]) for key in one)
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    return bool(np.array_equal(one, other)) if isinstance(one, np.ndarray) else bool(one == other)
