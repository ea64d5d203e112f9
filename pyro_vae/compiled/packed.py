"""Packed sequences (`torch.nn.utils.rnn`), whose lengths torch reads in C++, where no mode sees it.

Lengths that may be read are constants of the recording, and packing by them is indexing.
"""

from collections.abc import Callable
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from pyro_vae.compiled._torch import unseen
from pyro_vae.compiled.refusal import refuse

_PACK, _PAD = "_pack_padded_sequence", "_pad_packed_sequence"
_NETS = ("gru", "lstm", "rnn_tanh", "rnn_relu")


def takes_packed(func: Any, args: tuple[Any, ...]) -> bool:
    """Return whether it is one of torch's functions of packed sequences."""
    name = getattr(func, "__name__", "")
    if name in _NETS:
        return isinstance(args[1], Tensor) and args[1].dtype == torch.int64
    return name in (_PACK, _PAD)


def run(func: Any, args: tuple[Any, ...], may_read: Callable[[Tensor], bool]) -> Any:
    """Call it, with what it reads as constants.

    Raises:
        RecordingError: the lengths depend on draws.
    """
    if not may_read(args[1]):
        raise refuse("it packs sequences whose lengths depend on draws")
    if func.__name__ == _PACK:
        return _pack(args[0].transpose(0, 1) if args[2] else args[0], unseen(args[1].tolist))
    out = func(*args)
    return (out[0], torch.tensor(unseen(out[1].tolist))) if func.__name__ == _PAD else out


def _pack(padded: Tensor, lengths: list[int]) -> tuple[Tensor, Tensor]:
    """Return sequences ``(time, batch, ...)``, longest first, packed, and how many there are at each time."""
    sizes = [sum(length > t for length in lengths) for t in range(lengths[0])]
    parts, start = [], 0
    for size, times in groupby(sizes):
        stop = start + len(list(times))
        parts.append(padded[start:stop, :size].flatten(0, 1))
        start = stop
    return torch.cat(parts), torch.tensor(sizes)
