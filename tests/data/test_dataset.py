import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import some

import pyro_vae as pv
from pyro_vae.data.dataset import Data
from pyro_vae.data.load import load_data
from pyro_vae.data.readers import DataError
from pyro_vae.data.sources import DATASETS

RNG = np.random.default_rng(0)
CACHE = Path(os.environ.get("PYRO_VAE_DATA") or "~/.cache/pyro_vae").expanduser()


def numbered(n: int, **options) -> Data:
    """Return data whose field ``id`` is the row in the arrays."""
    grey = np.random.default_rng(n).integers(0, 256, (n, 3, 3), dtype=np.uint8)
    grey.reshape(n, -1)[:, :4] = np.arange(n, dtype=">u4")[:, None].view(np.uint8)  # no two alike
    return load_data({"x": grey, "id": np.arange(n)}, **options)


def ids(batches) -> list[int]:
    return torch.cat([b["id"] for b in batches]).tolist()


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# --- what the data are ---------------------------------------------------------------------------------------------


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    data = load_data("digits")
    spec = data.spec
    assert (spec.name, spec.features, spec.image, spec.support, spec.levels, spec.classes) == (
        "digits", 64, (1, 8, 8), "levels", 17, 10,
    )  # fmt: skip
    assert spec.fields == {"x": (64,), "y": ()}
    assert spec.num_data == data.size("train") == 1437
    assert data.size("valid") == data.size("test") == 180
    assert spec.description == "digits: 1,437 / 180 / 180 images 1x8x8, 17 levels"
    everything = [data.batch(split) for split in ("train", "valid", "test")]
    x, y = torch.cat([b["x"] for b in everything]), torch.cat([b["y"] for b in everything])
    bunch = load_digits()
    mine = sorted(map(tuple, torch.cat([x * 16, y[:, None].float()], 1).tolist()))
    assert mine == sorted(map(tuple, np.column_stack([bunch.data, bunch.target]).tolist()))
    assert y.dtype == torch.int64
    train = everything[0]["x"].double()
    assert torch.allclose(spec.mean.double(), train.mean(0))
    assert torch.allclose(spec.std.double(), train.std(0, correction=0))


@pytest.mark.parametrize(
    ("x", "support", "levels", "values"),
    [
        (np.array([[0, 1], [1, 0]] * 5), "binary", None, {0.0, 1.0}),
        (np.array([[False, True]] * 10), "binary", None, {0.0, 1.0}),
        (np.array([[0, 255]] * 10, np.uint8), "binary", None, {0.0, 1.0}),
        (np.array([[0, 1.0]] * 10), "binary", None, {0.0, 1.0}),
        (np.array([[0, 51, 255]] * 10, np.uint8), "levels", 256, {0.0, 0.2, 1.0}),
        (np.array([[0, 0.2, 0.6]] * 10), "levels", 6, {0.0, 0.2, 0.6}),
        (np.arange(256)[None].repeat(4, 0).astype(np.float32) / 255, "levels", 256, None),
        (RNG.random((10, 3)), "unit", None, None),
        (RNG.normal(size=(10, 3)), "real", None, None),
        (np.array([[0, 3, 700]] * 10), "real", None, {0.0, 3.0, 700.0}),
        (RNG.normal(size=(10, 3)).astype(">f8"), "real", None, None),
        (RNG.normal(size=(10, 3)).astype(np.float16), "real", None, None),
    ],
)
def test_support_is_the_narrowest_that_holds_every_value(x, support, levels, values, tmp_path):
    np.save(tmp_path / "x.npy", x)
    for data in (load_data({"x": x}), load_data(tmp_path / "x.npy")):
        assert (data.spec.support, data.spec.levels) == (support, levels)
        got = data.batch("train")["x"]
        assert got.dtype == torch.float32
        if values is not None:
            assert set(got.flatten().tolist()) == {float(np.float32(v)) for v in values}
    top = {"levels": 255, "binary": x.max()}.get(support, 1) if x.dtype == np.uint8 else 1
    every = torch.cat([data.batch(split)["x"] for split in ("train", "valid", "test")])
    assert torch.equal(every.sort(0)[0], torch.from_numpy(np.sort((x / top).astype(np.float32), axis=0)))


def test_levels_of_integers_are_what_the_option_says():
    x = np.array([[0, 4, 16]] * 10, np.uint8)
    data = load_data({"x": x}, levels=17)
    assert data.spec.levels == 17
    assert data.batch("train", 1)["x"].tolist() == [[0, 0.25, 1]]
    assert load_data({"x": x.astype(np.int64) * 100}, levels=1601).batch("train", 1)["x"].tolist() == [[0, 0.25, 1]]
    with pytest.raises(DataError, match=r"integers 0 \.\. 16 in x, which levels=9 \(0 \.\. 8\) cannot hold"):
        load_data({"x": x}, levels=9)


@pytest.mark.parametrize(
    ("shape", "image", "option"),
    [
        ((9, 5, 4), (1, 5, 4), None),
        ((9, 3, 6, 8), (3, 6, 8), None),
        ((9, 6, 8, 3), (3, 6, 8), None),
        ((9, 4, 4, 3), (3, 4, 4), None),
        ((9, 3, 4, 4), (3, 4, 4), None),
        ((9, 6, 8, 1), (1, 6, 8), None),
        ((9, 12), None, None),
        ((9, 12), (3, 2, 2), (3, 2, 2)),
        ((9, 2, 2, 7), (7, 2, 2), (7, 2, 2)),
    ],
)
def test_images_are_flattened_as_channels_height_width(shape, image, option, tmp_path):
    x = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    np.save(tmp_path / "x.npy", x)
    ordered = x if image is None or x.shape[1:] == image or x.ndim < 4 else x.transpose(0, 3, 1, 2)
    wanted = (ordered.reshape(9, -1).astype(np.float32) / np.float32(255)).tolist()
    for source in ({"x": x}, tmp_path / "x.npy"):
        data = load_data(source, image=option)
        assert data.spec.image == image
        assert sorted(data.batch("train")["x"].tolist() + data.batch("valid")["x"].tolist()
                      + data.batch("test")["x"].tolist()) == sorted(wanted)  # fmt: skip


def test_real_arrays_with_two_dimensions_per_datum_are_images():
    data = load_data({"x": RNG.normal(size=(20, 5, 7))})
    assert (data.spec.image, data.spec.features, data.spec.binarize) == ((1, 5, 7), 35, "gray")


def test_fields_keep_their_kind():
    n = 30
    data = load_data(
        {
            "x": torch.randn(n, 2, dtype=torch.bfloat16),
            "y": torch.arange(n) % 3,
            "mask": torch.arange(n) % 2 == 0,
            "count": np.arange(n, dtype=np.uint16),
            "context": np.ones((n, 4, 5)),
        }
    )
    assert data.spec.fields == {"x": (2,), "y": (), "mask": (), "count": (), "context": (4, 5)}
    batch = data.batch("test", 2)
    kinds = {name: value.dtype for name, value in batch.items()}
    assert kinds == {
        "x": torch.float32, "y": torch.int64, "mask": torch.bool, "count": torch.int64, "context": torch.float32,
    }  # fmt: skip
    assert data.spec.classes == 3


@pytest.mark.parametrize(
    ("y", "shape", "dtype", "classes"),
    [
        (np.arange(20) % 4, (), torch.int64, 4),
        ((np.arange(20) % 4)[:, None], (), torch.int64, 4),
        (np.arange(20) % 2 == 0, (), torch.int64, 2),
        (np.arange(20) / 7, (1,), torch.float32, None),
        (np.eye(20, 5, dtype=int), (5,), torch.float32, None),
    ],
)
def test_labels_are_classes_or_attributes(y, shape, dtype, classes):
    data = load_data({"x": RNG.normal(size=(20, 2)), "y": y})
    assert data.spec.fields["y"] == shape
    assert data.batch("train", 1)["y"].dtype == dtype
    assert data.spec.classes == classes


def test_moments_hold_far_from_zero():
    x = 1e4 + np.random.default_rng(0).normal(size=(3000, 700))  # several pieces
    data = load_data({"x": x})
    train = data.batch("train")["x"].double()
    assert torch.allclose(data.spec.std.double(), train.std(0, correction=0), rtol=1e-6)
    assert torch.allclose(data.spec.mean.double(), train.mean(0), rtol=1e-7)


# --- splits --------------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(n=st.integers(3, 200), valid=st.floats(0, 0.4), test=st.floats(0, 0.4), seed=st.integers(0, 5))
def test_splits_are_disjoint_and_cover(n, valid, test, seed):
    data = numbered(n, valid=valid, test=test, seed=seed)
    parts = {split: ids(data.batches(split, 7)) if data.size(split) else [] for split in ("train", "valid", "test")}
    assert sorted(i for part in parts.values() for i in part) == list(range(n))
    assert {split: data.size(split) for split in parts} == {split: len(part) for split, part in parts.items()}
    assert len(parts["valid"]) == (max(1, round(n * valid)) if valid else 0)
    assert sorted(ids(data.epoch(0, 1, seed=0))) == sorted(parts["train"])


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(0, 9), min_size=12, max_size=80).filter(lambda groups: len(set(groups)) > 4), st.integers(0, 9)
)
def test_groups_stay_together(groups, seed):
    who = np.array(groups)
    arrays = {"x": np.random.default_rng(0).normal(size=(len(who), 2)), "who": who}
    try:
        data = load_data(arrays, split_by="who", seed=seed)
    except DataError as error:
        assert "groups too large" in str(error)  # noqa: PT017
        return
    seen = [set(data.batch(split)["who"].tolist()) for split in ("train", "valid", "test") if data.size(split)]
    assert sum(map(len, seen)) == len(set(groups))


def test_a_few_copies_stay_together_and_many_are_honest_draws():
    x = RNG.normal(size=(1000, 3))
    x[:20] = x[500:520]
    for seed in range(5):
        data = load_data({"x": x}, seed=seed, valid=0.3, test=0.3)
        rows = [set(map(tuple, data.batch(split)["x"].tolist())) for split in ("train", "valid", "test")]
        assert sum(map(len, rows)) == 980
    few_patterns = load_data({"x": np.random.default_rng(0).integers(0, 2, (1000, 2))})
    assert few_patterns.size("valid") == few_patterns.size("test") == 100
    assert len(few_patterns.batch("train")["x"].unique(dim=0)) == 4


def test_the_split_depends_on_its_seed_only():
    assert ids(numbered(100).batches("test", 9)) == ids(numbered(100).batches("test", 4))
    assert ids(numbered(100).batches("test", 9)) != ids(numbered(100, seed=1).batches("test", 9))
    assert numbered(100, valid=13, test=0.2).size("train") == 67
    assert numbered(100, valid=0, test=0).size("valid") == 0


def test_given_splits_are_kept_and_missing_ones_cut_from_training(tmp_path):
    arrays = {
        "x_train": RNG.normal(size=(40, 3)), "y_train": np.arange(40) % 2,
        "x_test": RNG.normal(size=(7, 3)), "y_test": np.full(7, 4),
    }  # fmt: skip
    np.savez(tmp_path / "a.npz", **arrays)
    (tmp_path / "folder").mkdir()
    for name, array in arrays.items():
        np.save(tmp_path / "folder" / f"{name}.npy", array)
    for source in (arrays, tmp_path / "a.npz", str(tmp_path / "folder")):
        data = load_data(source)
        assert [data.size(split) for split in ("train", "valid", "test")] == [36, 4, 7]
        assert torch.equal(data.batch("test")["x"], torch.from_numpy(arrays["x_test"]).float())
        assert data.spec.classes == 5
    own = load_data(arrays | {"x_val": RNG.normal(size=(5, 3)), "y_val": np.zeros(5, int)})
    assert [own.size(split) for split in ("train", "valid", "test")] == [40, 5, 7]
    with pytest.raises(DataError, match="arrays has its own test split: leave test=3 out"):
        load_data(arrays, test=3)


# --- batches -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("binarize", ["gray", "static", "dynamic"])
def test_evaluation_is_fixed_whatever_the_batch_size(binarize):
    data = numbered(300, binarize=binarize)
    for split in ("train", "valid", "test"):
        whole = data.batch(split)
        for size in (1, 7, 1000):
            parts = list(data.batches(split, size))
            assert same(whole, {k: torch.cat([p[k] for p in parts]) for k in whole})
        assert same(data.batch(split, 5, start=3), {k: v[3:8] for k, v in whole.items()})
        assert same(whole, numbered(300, binarize=binarize).batch(split))


@settings(max_examples=50, deadline=None)
@given(
    n=st.integers(4, 90),
    size=st.integers(1, 100),
    seed=st.integers(0, 3),
    epoch=st.integers(0, 3),
    world=st.integers(1, 5),
    start=st.integers(0, 4),
    binarize=st.sampled_from(["gray", "static", "dynamic"]),
)
def test_epochs_resume_and_divide_bit_for_bit(n, size, seed, epoch, world, start, binarize):
    data = numbered(n, binarize=binarize)
    whole = list(data.epoch(epoch, size, seed=seed))
    assert len(whole) == data.num_batches(size)
    wanted = min(size, data.size("train"))
    assert {len(b["x"]) for b in whole} == {wanted}
    seen = ids(whole)
    assert len(set(seen)) == len(seen) == wanted * len(whole)
    rest = list(data.epoch(epoch, size, seed=seed, start=start))
    assert all(same(a, b) for a, b in zip(rest, whole[start:], strict=True))
    shares = [list(data.epoch(epoch, size, seed=seed, rank=rank, world=world)) for rank in range(world)]
    for step, batch in enumerate(whole):
        pieces = [share[step] for share in shares]
        assert same(batch, {k: torch.cat([p[k] for p in pieces]) for k in batch})
        assert max(len(p["x"]) for p in pieces) - min(len(p["x"]) for p in pieces) <= 1


def test_order_and_noise_change_with_seed_and_epoch():
    data = numbered(400, binarize="dynamic")
    first, second, other = (ids(data.epoch(e, 360, seed=s)) for e, s in ((0, 0), (1, 0), (0, 1)))
    assert len({tuple(first), tuple(second), tuple(other)}) == 3

    def in_order(epoch: int) -> torch.Tensor:
        batch = next(data.epoch(epoch, 360, seed=0))
        return batch["x"][batch["id"].argsort()]

    assert not torch.equal(in_order(0), in_order(1))


def test_static_keeps_one_draw_and_gray_the_values():
    for mode in ("gray", "static"):
        data = numbered(60, binarize=mode)
        fixed = data.batch("train")
        row = {int(i): x for i, x in zip(fixed["id"], fixed["x"], strict=True)}
        for epoch in range(2):
            for batch in data.epoch(epoch, 10, seed=epoch):
                assert all(torch.equal(row[int(i)], x) for i, x in zip(batch["id"], batch["x"], strict=True))


@pytest.mark.parametrize("binarize", ["static", "dynamic"])
def test_binarized_data_are_binary_with_their_own_moments(binarize):
    data = load_data("digits", binarize=binarize)
    spec, gray = data.spec, load_data("digits")
    assert (spec.support, spec.levels, spec.binarize) == ("binary", None, binarize)
    draws = torch.cat([b["x"] for e in range(40) for b in data.epoch(e, 1437, seed=0)])
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    if binarize == "static":
        assert torch.allclose(spec.mean, draws.mean(0), atol=1e-6)
        assert torch.allclose(spec.std, draws.std(0, correction=0), atol=1e-6)
    assert (draws.mean(0) - gray.spec.mean).abs().max() < 5 * 0.5 / (
        1437 if binarize == "static" else len(draws)
    ) ** 0.5
    if binarize == "dynamic":
        assert torch.equal(spec.mean, gray.spec.mean)
        assert (draws.std(0, correction=0) - spec.std).abs().max() < 0.01


def test_binary_data_are_left_alone_whatever_the_option():
    x = np.random.default_rng(0).integers(0, 2, (50, 4))
    data = load_data({"x": x}, binarize="dynamic")
    assert (data.spec.support, data.spec.binarize) == ("binary", "gray")


def test_real_valued_pixels_can_be_binarized(tmp_path):
    x = np.random.default_rng(0).random((200, 6)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    inside, mapped = load_data({"x": x}, binarize="dynamic"), load_data(tmp_path / "x.npy", binarize="dynamic")
    assert inside.spec.support == mapped.spec.support == "binary"
    assert same(next(inside.epoch(0, 50, seed=0)), next(mapped.epoch(0, 50, seed=0)))


def test_memory_mapped_data_give_the_batches_of_data_in_memory(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (100, 6, 5, 3), dtype=np.uint8)
    np.save(tmp_path / "x.npy", np.asfortranarray(x))
    np.save(tmp_path / "y.npy", (np.arange(100) % 7).astype(">i2"))
    for mode in ("gray", "static", "dynamic"):
        inside = load_data({"x": x, "y": np.arange(100) % 7}, binarize=mode)
        mapped = load_data(tmp_path, binarize=mode)
        assert all(same(a, b) for a, b in zip(inside.epoch(2, 8, seed=1), mapped.epoch(2, 8, seed=1), strict=True))
        assert same(inside.batch("valid"), mapped.batch("valid"))
        assert torch.equal(inside.spec.mean, mapped.spec.mean)


def test_random_states_are_left_alone(tmp_path):
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    data = load_data("digits", binarize="dynamic")
    list(data.epoch(0, 500, seed=0))
    data.batch("test", 3)
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_the_recipe_loads_the_same_again(tmp_path, monkeypatch):
    np.savez(tmp_path / "a.npz", x=RNG.random((50, 12)))
    monkeypatch.chdir(tmp_path)
    for source, options in (
        ("digits", {}),
        ("digits", {"binarize": "static", "valid": 0.2, "test": 7, "seed": 3}),
        ("a.npz", {"image": (3, 2, 2)}),
    ):
        data = load_data(source, **options)
        assert data.recipe is not None
        with monkeypatch.context() as elsewhere:
            elsewhere.chdir("/")
            again = load_data(data.recipe["name"], **data.recipe["options"])
        assert again.recipe == data.recipe
        assert again.spec.image == data.spec.image
        assert same(again.batch("test"), data.batch("test"))
    assert load_data({"x": RNG.random((50, 12))}).recipe is None


def test_the_package_offers_it():
    assert pv.load_data is load_data
    assert set(DATASETS) == set(
        "digits mnist fashion_mnist kmnist emnist omniglot cifar10 svhn celeba sprinkler "
        "chorales phrases sketches pendulum digit_rows".split()
    )
    assert all(0 < len(line) < 110 and "\n" not in line for line in DATASETS.values())
    assert repr(load_data("digits")) == "Data(digits: 1,437 / 180 / 180 images 1x8x8, 17 levels)"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_on_a_device_are_bit_for_bit_those_of_the_cpu():
    for mode in ("gray", "dynamic"):
        data = numbered(500, binarize=mode)
        pairs = zip(data.epoch(0, 64, seed=0), data.epoch(0, 64, seed=0, device="cuda"), strict=True)
        assert all(same(a, {k: v.cpu() for k, v in b.items()}) for a, b in pairs)


# --- mistakes ------------------------------------------------------------------------------------------------------


# --- real files ----------------------------------------------------------------------------------------------------


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "folder", "mean"), some([("mnist", "MNIST", 0.1307), ("fashion_mnist", "FashionMNIST", 0.286)], 2)
)
def test_real_images(name, folder, mean):
    if not (CACHE / folder / "raw" / "train-images-idx3-ubyte").exists():
        pytest.skip(f"{folder} is not in {CACHE}")
    data = load_data(name)
    assert [data.size(split) for split in ("train", "valid", "test")] == [55_000, 5_000, 10_000]
    spec = data.spec
    assert (spec.image, spec.support, spec.binarize, spec.classes) == ((1, 28, 28), "binary", "dynamic", 10)
    assert abs(spec.mean.mean().item() - mean) < 5e-4  # of the published pixel means
    gray = load_data(name, binarize="gray")
    assert (gray.spec.support, gray.spec.levels) == ("levels", 256)
    everything = torch.cat([gray.batch(split)["y"] for split in ("train", "valid")])
    assert everything.bincount().sum() == 60_000
    assert gray.batch("test")["y"].bincount().tolist()[:3] == ([980, 1135, 1032] if name == "mnist" else [1000] * 3)
