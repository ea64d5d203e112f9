"""The device that training runs on, and moving things there."""

from collections.abc import Mapping

import torch
from torch import Tensor

from pyro_vae.data import Data
from pyro_vae.program import Pair
from pyro_vae.svi import World
from pyro_vae.training.settings import SettingsError, Training


def resolve_device(training: Training, data: Data, world: World) -> torch.device:
    """Return the device that this process trains on.

    Raises:
        SettingsError: when there is no such device, or a batch has fewer data than there are
            processes.
    """
    size = min(training.rows(data.size("train")), data.size("train"))
    if size < world.size:
        raise SettingsError(
            f"a batch of {size} data cannot be shared by {world.size} processes; raise --batch_size or lower --devices"
        )
    return world.device or _named(training.device)


def _named(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise SettingsError(
            f"device {name!r} cannot be used: {str(error).splitlines()[0]}; use --device cpu or auto"
        ) from None
    return device


def convert(pair: Pair, device: torch.device, dtype: torch.dtype) -> None:
    """Move a pair to the device, in the float type."""
    pair.to(device)
    if dtype is torch.float64:
        for module in pair.modules().values():
            module.double()


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
