"""Data in litdata's shards: the same data as in memory, orders by seed and epoch, resumed runs, and what is damaged."""

import json
import shutil
import signal
import subprocess
import sys
import time
import weakref

import numpy as np
import pytest
import torch
from faults.trying import same_run

import pyro_vae as pv
from pyro_vae.data import DataError
from pyro_vae.data.shards import AT_ONCE, Shards

litdata = pytest.importorskip("litdata.streaming.writer")

SIZE, SHARD = 250, 10
GENERATOR = np.random.default_rng(0)
X, Y = GENERATOR.normal(size=(SIZE, 6)).astype("f4"), GENERATOR.integers(0, 3, SIZE)


def write(folder, items):
    writer = litdata.BinaryWriter(str(folder), chunk_size=SHARD)
    for row, item in enumerate(items):
        writer[row] = item
    writer.done()
    writer.merge(1)
    return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("shards"), ({"x": x, "y": int(y)} for x, y in zip(X, Y, strict=True)))


def test_they_hold_what_was_written(folder):
    data = pv.load_data(folder, valid=0, test=0)
    batch = data.batch("train")
    assert torch.equal(batch["x"], torch.tensor(X))
    assert torch.equal(batch["y"], torch.tensor(Y))
    same = pv.load_data({"x": X, "y": Y}, valid=0, test=0)
    assert torch.equal(data.spec.mean, same.spec.mean)
    assert data.spec.classes == 3
    assert data.recipe["name"] == folder


def test_splits_are_of_whole_shards_and_hold_every_datum_once(folder):
    data = pv.load_data(folder)
    found = {split: data.batch(split)["x"] for split in ("train", "valid", "test")}
    assert [len(x) for x in found.values()] == [190, 30, 30]
    place = {tuple(x.tolist()): row for row, x in enumerate(X)}
    rows = {split: [place[tuple(one.tolist())] for one in x] for split, x in found.items()}
    assert sorted(row for numbers in rows.values() for row in numbers) == list(range(SIZE))
    shards = {split: {row // SHARD for row in numbers} for split, numbers in rows.items()}
    assert not shards["train"] & shards["valid"]
    assert sum(map(len, shards.values())) == SIZE // SHARD


def rows_of(data, epoch, seed, **options):
    return torch.cat([batch["x"] for batch in data.epoch(epoch, 20, seed=seed, **options)])


def test_an_epochs_order_is_a_function_of_seed_and_epoch(folder):
    data, again = (pv.load_data(folder, valid=0, test=0) for _ in range(2))
    first = rows_of(data, 3, 7)
    assert torch.equal(rows_of(again, 3, 7), first)
    assert torch.equal(rows_of(again, 3, 7, start=5), first[100:])
    halves = [rows_of(again, 3, 7, rank=rank, world=2) for rank in (0, 1)]
    assert torch.equal(torch.stack([half.reshape(-1, 10, 6) for half in halves], 1).reshape(-1, 6), first)
    for other in (rows_of(data, 4, 7), rows_of(data, 3, 8)):
        assert not torch.equal(other, first)
    assert len(first.unique(dim=0)) == len(first)


def test_memory_holds_a_few_shards_and_each_is_read_once_an_epoch(folder, monkeypatch):
    data, read = pv.load_data(folder, valid=0, test=0), []
    shards = data._splits["train"].arrays["x"].shards
    monkeypatch.setattr(shards, "_items", lambda *rows, of=shards._items: read.append(rows[0] // SHARD) or of(*rows))
    for batch in data.epoch(0, 10, seed=0):
        assert len(batch["x"]) == 10
        assert len(shards.held()) <= AT_ONCE
    assert len(read) == len(set(read))
    assert len(read) >= SIZE // SHARD - AT_ONCE  # the others were held already


def test_memory_never_holds_more_than_a_few_shards(folder, monkeypatch):
    alive, most, shard = weakref.WeakSet(), [], Shards.shard

    class Counted(np.ndarray):
        """An array that can be referred to weakly and told from others."""

        __hash__ = object.__hash__

    def counting(self, number, **options):
        part = shard(self, number, **options)
        if not isinstance(part["x"], Counted):
            part["x"] = part["x"].view(Counted)
            alive.add(part["x"])
        most.append(len(alive))
        return part

    monkeypatch.setattr(Shards, "shard", counting)
    data = pv.load_data(folder)
    assert sum(len(batch["x"]) for batch in data.epoch(0, 10, seed=0)) == 190
    assert max(most) <= AT_ONCE + 2


def test_an_order_mixes_the_data_of_several_shards(folder):
    data = pv.load_data(folder, valid=0, test=0)
    place = {tuple(x.tolist()): row for row, x in enumerate(X)}
    first = [place[tuple(x.tolist())] // SHARD for x in rows_of(data, 0, 0)[: AT_ONCE * SHARD]]
    assert len(set(first)) == AT_ONCE
    assert len(set(first[:SHARD])) > 3


class Stop(Exception):
    pass


def train(folder, run, seed, **options):
    torch.manual_seed(seed)
    data = pv.load_data(folder)
    pair = pv.pairs.latent(data.spec, latent=2, hidden=[8])
    same = {"epochs": 3, "batch_size": 16, "save_every": 0, "compile": "off", "progress": False}
    return pv.fit(pair, data, run=run, **same, **options).pair.state_dict()


@pytest.mark.slow
def test_a_run_that_breaks_off_within_an_epoch_ends_with_the_same_bits(folder, tmp_path, monkeypatch):
    whole = train(folder, tmp_path / "whole", 0)
    taken, training = [], pv.Data._training

    def failing(self, *args):
        for batch in training(self, *args):
            taken.append(len(batch["x"]))
            if len(taken) == 17:  # of 11 an epoch
                raise Stop
            yield batch

    monkeypatch.setattr(pv.Data, "_training", failing)
    with pytest.raises(Stop):
        train(folder, tmp_path / "cut", 0)
    monkeypatch.undo()
    resumed = train(folder, tmp_path / "cut", 0, resume=True)
    assert same(whole, resumed)


@pytest.mark.slow
def test_a_killed_run_ends_with_the_bits_of_one_that_was_never_touched(folder, tmp_path):
    command = [sys.executable, "-m", "pyro_vae"]
    options = ["--data", folder, "--epochs", "6", "--batch_size", "16", "--save_every", "0", "--compile", "off"]
    small = ["--latent", "2", "--hidden", "8"]

    def start(run):
        return subprocess.Popen([*command, "train", "latent", *options, *small, "--run", run], cwd=tmp_path)

    assert start("whole").wait() == 0
    killed = start("cut")
    while not list(tmp_path.glob("cut/previous.ckpt")):
        assert killed.poll() is None
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert subprocess.run([*command, "resume", "cut"], cwd=tmp_path, check=False).returncode == 0
    same_run(tmp_path / "whole", tmp_path / "cut")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(other[name], value) for name, value in one.items())


def test_splits_of_folders_stay_splits(tmp_path):
    for name, part in (("train", X[:60]), ("val", X[60:80]), ("test", X[80:100])):
        write(tmp_path / name, ({"x": x} for x in part))
    data = pv.load_data(str(tmp_path))
    assert [data.size(split) for split in ("train", "valid", "test")] == [60, 20, 20]
    assert torch.equal(data.batch("test")["x"], torch.tensor(X[80:100]))
    shutil.rmtree(tmp_path / "train")
    with pytest.raises(DataError, match="none for train"):
        pv.load_data(str(tmp_path))


# litdata leaves closing the file before to its collection
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_from_elsewhere_they_go_through_the_cache(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("litdata.utilities.dataset_utilities._LITDATA_CACHE_DIR", str(tmp_path))
    data = pv.load_data(f"local:{folder}", valid=0, test=0)
    assert torch.equal(data.batch("train")["x"], torch.tensor(X))
    assert data.recipe["name"] == f"local:{folder}"
    assert list(tmp_path.glob("*/*/chunk-0-0.bin"))


def cut(folder):
    path = next(folder.glob("chunk-*-3.bin"))
    path.write_bytes(path.read_bytes()[:-7])


def lost(folder):
    next(folder.glob("chunk-*-3.bin")).unlink()


def garbled(folder):
    path = next(folder.glob("chunk-*-3.bin"))
    path.write_bytes(b"\xff" * path.stat().st_size)


def no_index(folder):
    (folder / "index.json").write_text('{"chunks": [{}]}')


def pickles(folder):
    index = json.loads((folder / "index.json").read_text())
    index["config"]["data_format"] = ["no_header_numpy:9", "pickle"]
    (folder / "index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut, r"chunk-0-3.bin is cut short: index.json announces .* bytes, the file has"),
        (lost, r"chunk-0-3.bin is not there, and index.json lists it"),
        (garbled, r"data 30 to 39 cannot be read"),
        (no_index, "is no index of litdata's"),
        (pickles, "holds shards of pickle, and numbers or images are needed"),
    ],
)
def test_damaged_shards_are_refused_in_a_sentence(damage, said, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "damaged")
    damage(tmp_path / "damaged")
    with pytest.raises(DataError, match=said):
        pv.load_data(str(tmp_path / "damaged"))


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ([{"image": x} for x in X[:20]], "has items of image and no x"),
        (
            [{"x": x} for x in X[:15]] + [{"x": x[:3]} for x in X[15:20]],
            "datum 15 is x float32 .3,. and the first is x float32",
        ),
        ([{"x": x * np.nan} for x in X[:20]], "x holds NaN"),
        ([{"x": x, "name": "a"} for x in X[:20]], "holds shards of str"),
    ],
)
def test_items_that_are_no_data_are_refused_in_a_sentence(items, said, tmp_path):
    with pytest.raises(DataError, match=said):
        pv.load_data(write(tmp_path / "odd", items))


def test_without_litdata_it_is_said_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "litdata", None)
    with pytest.raises(DataError, match=r"pip install 'pyro-vae\[shards\]'"):
        pv.load_data(folder)


def test_the_size_of_images_is_not_for_shards(folder):
    with pytest.raises(DataError, match="image_size=8 resizes folders of images, omniglot and celeba, not "):
        pv.load_data(folder, image_size=8)
