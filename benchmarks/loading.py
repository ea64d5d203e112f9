"""What a batch of 128 costs before its step: pyro_vae's data and torch's DataLoader, on the same images in memory."""

from collections.abc import Iterator

import numpy as np
import torch
from timing import Stepper
from torch.utils.data import DataLoader, TensorDataset

import pyro_vae as pv

BATCH, IMAGES = 128, 12_800


def loading() -> dict[str, Stepper]:
    """Return contestants whose step is one batch."""
    x = np.random.default_rng(0).integers(0, 256, (IMAGES, 784), dtype=np.uint8)
    data = {mode: pv.load_data({"x_train": x, "x_test": x[:128]}, binarize=mode) for mode in ("gray", "dynamic")}
    images = TensorDataset(torch.from_numpy(x).float() / 255)
    loader = DataLoader(images, BATCH, shuffle=True, drop_last=True)

    def ours(mode: str) -> Iterator[object]:
        epoch = 0
        while True:
            yield from data[mode].epoch(epoch, BATCH, seed=0)
            epoch += 1

    def torchs() -> Iterator[object]:
        while True:
            yield from loader

    def stepper(batches: Iterator[object]) -> Stepper:
        def steps(count: int) -> None:
            for _ in range(count):
                next(batches)

        return steps

    return {
        "pyro_vae": stepper(ours("gray")),
        "pyro_vae, binarized anew": stepper(ours("dynamic")),
        "DataLoader of a TensorDataset": stepper(torchs()),
    }
