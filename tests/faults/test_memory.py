"""Memory stays flat over long runs and over many fits in one process."""

import gc
import os
import warnings

import pytest
import torch

import pyro_vae as pv
from pyro_vae.training import Silent

PAGE = os.sysconf("SC_PAGE_SIZE")


def resident() -> float:
    """Megabytes of this process that lie in memory."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * PAGE / 1e6


class Watch(Silent):
    """Measures memory every 500 steps."""

    def __init__(self):
        self.steps, self.sizes = 0, []

    def step(self, epoch, position, loss):
        self.steps += 1
        if self.steps % 500 == 0:
            self.sizes.append(resident())


def small(data):
    torch.manual_seed(0)
    return pv.pairs.PAIRS["latent"](data.spec, latent=2, hidden=[8])


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads memory in use from /proc")
@pytest.mark.slow
@pytest.mark.parametrize("compile", ["off", "recorded"])
def test_memory_is_flat_over_ten_thousand_steps(tmp_path, tally, compile):
    data = pv.load_data({"x": torch.rand(1000, 6).round()}, valid=100, test=100)
    watch = Watch()
    pv.fit(small(data), data, run=tmp_path / "run", epochs=100, batch_size=8, progress=watch, compile=compile)
    assert watch.steps == 10_000
    growth = watch.sizes[-1] - watch.sizes[1]
    print(f"{growth:+.1f} MB from step 1,000 to 10,000")
    assert growth < 10  # a leak of one batch or graph a step would be hundreds
    tally(f"10,000 steps, {compile}: memory flat", 1)


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads memory in use from /proc")
@pytest.mark.parametrize(("fits", "compile"), [(30, "off"), pytest.param(300, "off", marks=pytest.mark.slow),
                                               pytest.param(100, "recorded", marks=pytest.mark.slow)])  # fmt: skip
def test_memory_is_flat_over_many_fits(tmp_path, tally, fits, compile):
    data = pv.load_data({"x": torch.rand(60, 6).round()}, valid=10, test=10)
    sizes = []
    for i in range(fits):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pv.fit(small(data), data, run=tmp_path / str(i), epochs=2, batch_size=20, compile=compile)
        sizes.append(resident())
    growth = sizes[-1] - sizes[fits // 3]
    print(f"{growth:+.1f} MB from fit {fits // 3} to fit {fits}")
    assert growth < 10 + 0.05 * fits
    tally(f"fits in one process, {compile}: memory flat", fits)
