"""Arrays in files: they stay there, whatever their layout, and their pages are let go of."""

import itertools
import os

import numpy as np
import pytest

import pyro_vae as pv
from pyro_vae.data import memory_maps, schema, splits
from pyro_vae.data.memory_maps import held, is_mapped, let_go, pages_of
from pyro_vae.data.readers import read_npy

X = np.random.default_rng(0).normal(size=(400, 6))
LAYOUTS = {
    "C": lambda x: x.astype("f4"),
    "Fortran": lambda x: np.asfortranarray(x.astype("f4")),
    "float64": lambda x: x,
    "big-endian": lambda x: x.astype(">f8"),
    "int": lambda x: (x * 100).astype("i4"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_gives_what_memory_gives_and_stays_a_file(tmp_path, monkeypatch, layout):
    monkeypatch.setattr(splits, "MAX_PAGES", 1000)
    monkeypatch.setattr(schema, "MAX_PAGES", 1000)
    monkeypatch.setattr(schema, "_PIECE", 2000)
    x = LAYOUTS[layout](X)
    np.save(tmp_path / "x.npy", x)
    data, memory = pv.load_data(tmp_path / "x.npy"), pv.load_data({"x": x})
    assert is_mapped(data._split("train").arrays["x"])
    for split in ("train", "valid", "test"):
        assert np.array_equal(data.batch(split)["x"], memory.batch(split)["x"])
    one, two = (next(d.epoch(0, 50, seed=1))["x"] for d in (data, memory))
    assert np.array_equal(one, two)
    assert np.allclose(data.spec.std, memory.spec.std)


@pytest.mark.parametrize(
    "view", [lambda x: x, lambda x: x[::2], np.asarray, lambda x: x[:, ::-1], lambda x: x.T.copy().T]
)
def test_mapped_arrays_in_a_mapping_are_not_read_into_memory(tmp_path, view):
    np.save(tmp_path / "x.npy", X.astype("f4"))
    x = view(np.load(tmp_path / "x.npy", mmap_mode="r"))
    data = pv.load_data({"x": x})
    assert is_mapped(data._split("train").arrays["x"]) == is_mapped(x)
    assert np.array_equal(data.batch("valid")["x"], pv.load_data({"x": np.array(x)}).batch("valid")["x"])


def test_changes_in_a_copy_on_write_map_are_not_dropped(tmp_path):
    np.save(tmp_path / "x.npy", X)
    x = np.load(tmp_path / "x.npy", mmap_mode="c")
    x[0] = 7
    let_go(x)
    assert (x[0] == 7).all()


def test_rows_of_a_fortran_array_lie_on_many_pages():
    one, many = (pages_of(1, np.zeros((10**5, 100), "f4", order=order)) for order in "CF")
    assert many == 100 * one


@pytest.mark.parametrize("shape", [(50, 7), (50, 3, 4), (50,), (50, 2, 3, 4)])
def test_rows_are_taken_in_parts_as_at_once(tmp_path, monkeypatch, shape):
    x = np.asfortranarray(np.random.default_rng(2).normal(size=shape))
    np.save(tmp_path / "x.npy", x)
    rows = np.array([3, 3, 49, 0])
    for size in (1, 500, 2**28):
        monkeypatch.setattr(memory_maps, "MAX_PAGES", size)
        assert np.array_equal(memory_maps.take(read_npy(tmp_path / "x.npy"), rows), x[rows])


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads pages in use from /proc")
def test_pages_are_counted_and_let_go_of(tmp_path):
    np.save(tmp_path / "x.npy", np.ones(2**20))
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    before = held()
    assert x.sum() == 2**20
    assert held() - before > 0.9 * x.nbytes
    let_go(x)
    assert held() - before < 0.1 * x.nbytes


def resident() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads memory in use from /proc")
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_large_file_is_read_within_bounded_memory(tmp_path, monkeypatch, order):
    """256 MB, sparse; with pages let go of after 32 MB."""
    for module in (splits, schema, memory_maps):
        monkeypatch.setattr(module, "MAX_PAGES", 2**25)
    shape = (2**16, 1024)
    x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", "f4", shape, fortran_order=order == "F")
    x[::7, 5] = 0.25
    x.flush()
    del x
    before = resident()
    data = pv.load_data(tmp_path / "x.npy")
    loaded = resident() - before
    sizes = [resident() - before for _ in itertools.islice(data.epoch(0, 512, seed=0), 6 if order == "F" else None)]
    assert max(loaded, *sizes) < 180, (loaded, sizes)


GRIDS = [
    np.linspace(0, 1, 17),
    np.arange(256) / 255,
    np.array([0.0, 1.0]),
    np.array([0.25, 0.5]),
    np.linspace(0, 1, 1000),
]


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("grid", GRIDS, ids=len)
def test_levels_are_found_by_counting_as_by_sorting(monkeypatch, dtype, grid):
    x = np.random.default_rng(1).choice(grid, size=(500, 20)).astype(dtype)
    found = pv.load_data({"x": x}).spec
    monkeypatch.setattr(schema.Values, "_distinct", lambda self, piece: np.unique(piece))
    slowly = pv.load_data({"x": x}).spec
    assert (found.support, found.levels) == (slowly.support, slowly.levels)


BAD = [np.nan, np.inf, -np.inf, 1e39]


@pytest.mark.parametrize("value", BAD)
def test_values_that_training_cannot_hold_are_found_in_their_row(value):
    x = X.copy()
    x[123, 3] = value
    with pytest.raises(pv.DataError, match="the first in row 123"):
        pv.load_data({"x": x})
