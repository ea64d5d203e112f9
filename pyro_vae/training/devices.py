"""The device that training runs on, and moving things there."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from pyro_vae.data import Data
from pyro_vae.program import Pair
from pyro_vae.svi import World
from pyro_vae.training.settings import SettingsError, Training

KINDS = ("cpu", "cuda", "mps")


def resolve_device(training: Training, data: Data, world: World) -> torch.device:
    """Return the device that this process trains on.

    Raises:
        SettingsError: when there is no such device, or a batch has fewer data than there are
            processes.
    """
    size = min(training.rows(data.size("train")), data.size("train"))
    if size < world.size:
        raise SettingsError(
            f"a batch of {size} data cannot be shared by {world.size} processes; raise --batch-size or lower --devices"
        )
    return world.device or _named(training.device)


def _named(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.partition(":")[0] not in KINDS:
        raise SettingsError(f"device must be auto, {', '.join(KINDS)}, or one of several such as cuda:1; got {name!r}")
    if name.startswith("mps") and not torch.backends.mps.is_available():
        raise SettingsError(f"device {name!r} cannot be used: this machine has none; use --device cpu or auto")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except Exception as error:  # what a device that is not there raises differs between kinds and versions
        reason = (str(error).splitlines() or [type(error).__name__])[0].partition(". ")[0][:120]
        raise SettingsError(f"device {name!r} cannot be used: {reason}; use --device cpu or auto") from None
    return device


def convert(pair: Pair, device: torch.device, dtype: torch.dtype) -> None:
    """Move a pair to the device, in the float type."""
    pair.to(device)
    if dtype is torch.float64:
        for module in pair.modules().values():
            module.double()


@contextmanager
def unconverted_on_failure(pair: Pair) -> Iterator[None]:
    """Give every tensor of the pair its float type and device back if the block raises."""
    owners = [owner for module in pair.modules().values() for owner in module.modules()]
    before = [(own, name, t.device, t.dtype) for owner in owners for own, name, t in _tensors(owner)]
    try:
        yield
    except BaseException:
        for own, name, device, dtype in before:
            tensor = own.get(name)
            if tensor is None or is_lazy(tensor) or (tensor.device, tensor.dtype) == (device, dtype):
                continue
            if isinstance(tensor, torch.nn.Parameter):
                tensor.data, tensor.grad = tensor.data.to(device, dtype), None
            else:
                own[name] = tensor.to(device, dtype)
        raise


def _tensors(owner: torch.nn.Module) -> Iterator[tuple[dict[str, Any], str, Tensor]]:
    """Return an iterator over the tensors that a module itself holds, with where they are held."""
    for own in (owner._parameters, owner._buffers):
        for name, tensor in own.items():
            if tensor is not None:
                yield own, name, tensor


def place(batch: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the batch on the device, its floats in the float type."""
    return {name: value.to(device, dtype if value.is_floating_point() else None) for name, value in batch.items()}


def generators(device: torch.device) -> list[Tensor]:
    """Return the states of the generators that programs draw from."""
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def set_generators(device: torch.device, states: list[Tensor]) -> None:
    """Put the generators back to what ``generators`` returned."""
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
