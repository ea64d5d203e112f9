"""Batches of an epoch in blocks of many steps, each prepared while the one before is trained on."""

import math
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

MAX_STEPS = 64  # batches of a block
MAX_BYTES = 2**25  # of a block; a single batch may be larger
ALIGNMENT = 64  # bytes: where torch's own tensors begin, so that a batch's sums do not depend on its place in a block

Batch = Mapping[str, Tensor]


class Feed:
    """The batches of an epoch in order, in blocks of any size.

    A thread of its own reads and converts them a block ahead; on a GPU each block is moved there at
    once.

    Args:
        batches: from `Data.epoch`; batches of one block have one shape.
        device: where they are wanted.
        dtype: float type that they are wanted in.
    """

    def __init__(self, batches: Iterator[Batch], device: torch.device, dtype: torch.dtype) -> None:
        self._batches, self._device, self._dtype = batches, device, dtype
        self._pending: Batch | None = None  # of another shape than the block before it
        self._thread = ThreadPoolExecutor(1, "feed")
        self._next: Future[list[_Field] | None] = self._thread.submit(self._read)
        self._block: dict[str, Tensor] = {}
        self._place = self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(cancel_futures=True)

    def peek(self) -> dict[str, Tensor]:
        """Return the batches that are ready, ``(steps, batch, ...)`` per field; empty after the
        epoch.
        """
        if self._place == self._size:
            fields = self._next.result()
            if fields is None:
                return {}
            self._block = {field.name: field.on(self._device) for field in fields}
            self._place, self._size = 0, fields[0].steps
            self._next = self._thread.submit(self._read)
        return {name: values[self._place :] for name, values in self._block.items()}

    @property
    def place(self) -> int:
        """How many batches of the present block are behind."""
        return self._place

    def advance(self, steps: int) -> None:
        """Move past this many batches; back, within the block, if negative."""
        self._place += steps

    def _read(self) -> "list[_Field] | None":
        """Return the next block, on the CPU; None where there is none."""
        first = self._pending if self._pending is not None else next(self._batches, None)
        self._pending = None
        if first is None:
            return None
        read = [first]
        most = max(1, min(MAX_STEPS, MAX_BYTES // max(1, sum(t.nbytes for t in first.values()))))
        while len(read) < most and (batch := next(self._batches, None)) is not None:
            if any(batch[name].shape != value.shape for name, value in first.items()):
                self._pending = batch
                break
            read.append(batch)
        return [_Field(name, [b[name] for b in read], self._dtype, self._device) for name in first]


class _Field:
    """One field of a block: the batches side by side, each where a tensor of its own could begin."""

    def __init__(self, name: str, values: list[Tensor], dtype: torch.dtype, device: torch.device) -> None:
        first = values[0]
        self.name, self.steps, self._shape = name, len(values), first.shape
        kind = dtype if first.is_floating_point() else first.dtype
        unit = ALIGNMENT // math.gcd(ALIGNMENT, kind.itemsize)
        self._stride = -(-first.numel() // unit) * unit
        self._flat = torch.empty(self.steps * self._stride, dtype=kind, pin_memory=device.type == "cuda")
        for place, value in zip(self._stacked(self._flat).unbind(), values, strict=True):
            place.copy_(value)

    def on(self, device: torch.device) -> Tensor:
        """Return the field on the device, ``(steps, batch, ...)``, without waiting for it."""
        return self._stacked(self._flat.to(device, non_blocking=True))

    def _stacked(self, flat: Tensor) -> Tensor:
        inner = torch.empty(self._shape, device="meta").stride()
        return flat.as_strided((self.steps, *self._shape), (self._stride, *inner))
