"""The named sets, each in a small imitation of torchvision's layout; nothing is downloaded."""

import hashlib
import pickle
import struct
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_vae.data.load import load_data
from pyro_vae.data.readers import DataError

RNG = np.random.default_rng(0)


def write_idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes())


def write_mnist(folder: Path, kind: str = "MNIST", starts: tuple[str, str] = ("train", "t10k")) -> np.ndarray:
    """Return the training images of an imitation of MNIST."""
    x = RNG.integers(0, 256, (60, 28, 28), dtype=np.uint8)
    for start, part in zip(starts, (x, x[:20]), strict=True):
        write_idx(folder / kind / "raw" / f"{start}-images-idx3-ubyte", part)
        write_idx(folder / kind / "raw" / f"{start}-labels-idx1-ubyte", np.arange(len(part), dtype=np.uint8) % 10)
    return x


def gathered(data, splits=("train", "valid")) -> list[list[float]]:
    return sorted(x for split in splits for x in data.batch(split)["x"].tolist())


def floats(x: np.ndarray) -> list[list[float]]:
    return sorted((x.reshape(len(x), -1).astype(np.float32) / np.float32(255)).tolist())


@pytest.mark.parametrize(
    ("name", "kind"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST"), ("kmnist", "KMNIST")]
)
def test_idx_sets(name, kind, tmp_path, monkeypatch):
    x = write_mnist(tmp_path, kind)
    monkeypatch.setenv("PYRO_VAE_DATA", str(tmp_path))
    data = load_data(name, valid=10, binarize="gray")
    assert [data.size(split) for split in ("train", "valid", "test")] == [50, 10, 20]
    assert gathered(data) == floats(x)
    assert torch.equal(data.batch("test")["y"], torch.arange(20) % 10)
    assert data.spec.classes == 10
    default = load_data(name, valid=10).spec
    assert (default.binarize, default.support, default.image) == ("dynamic", "binary", (1, 28, 28))


def test_emnist_stands_upright(tmp_path):
    x = write_mnist(tmp_path, "EMNIST", ("emnist-balanced-train", "emnist-balanced-test"))
    data = load_data("emnist", data_dir=tmp_path, valid=10, binarize="gray")
    assert gathered(data) == floats(x.transpose(0, 2, 1))
    assert data.spec.classes == 47


def damage_cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def damage_labels(path: Path) -> None:
    labels = path.with_name("train-labels-idx1-ubyte")
    labels.write_bytes(labels.read_bytes()[:-1] + b"\xc8")


def damage_shape(path: Path) -> None:
    write_idx(path, np.zeros((60, 27, 28), np.uint8))


def damage_count(path: Path) -> None:
    write_idx(path, np.zeros((59, 28, 28), np.uint8))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            damage_cut,
            "is cut short: its header announces 47,056 bytes, the file has 47,055. Delete the file to have it",
        ),
        (damage_labels, "mnist: y holds the class 200, but there are 10 classes (0 .. 9)."),
        (damage_shape, "has images of (27, 28), not (28, 28): it is damaged."),
        (damage_count, "mnist: y_train has 60 data and x has 59"),
    ],
)
def test_damaged_idx_sets(damage, message, tmp_path):
    write_mnist(tmp_path)
    damage(tmp_path / "MNIST/raw/train-images-idx3-ubyte")
    with pytest.raises(DataError) as caught:
        load_data("mnist", data_dir=tmp_path, valid=10)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["mnist", "emnist", "omniglot", "cifar10", "svhn", "celeba"])
def test_a_failed_download_names_the_folder_and_the_option(name, tmp_path, monkeypatch):
    import urllib.request

    from torchvision.datasets import celeba

    def unreachable(*args, **kwargs):
        raise URLError("no route\nto host")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    monkeypatch.setattr(celeba, "download_file_from_google_drive", unreachable)
    with pytest.raises(DataError) as caught:
        load_data(name, data_dir=tmp_path / "cache")
    message = str(caught.value)
    assert message.startswith(f"{name} is not complete in {tmp_path / 'cache'} and could not be downloaded (")
    assert "no route to host" in message
    assert message.endswith("put its files there, or name the folder that has them with --data-dir.")
    assert "\n" not in message


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"mnist is not complete in .*file and could not be downloaded \(.*Not a dir"):
        load_data("mnist", data_dir=tmp_path / "file")


def test_cifar10(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    x = RNG.integers(0, 256, (20, 3072), dtype=np.uint8)
    listed = {}
    for name in ("data_batch_1", "test_batch", "batches.meta"):
        content = {"label_names": list("abcdefghij")} if name == "batches.meta" else {"data": x, "labels": [3, 9] * 10}
        raw = pickle.dumps(content)
        (folder / name).write_bytes(raw)
        listed[name] = [name, hashlib.md5(raw).hexdigest()]
    monkeypatch.setattr(CIFAR10, "train_list", [listed["data_batch_1"]])
    monkeypatch.setattr(CIFAR10, "test_list", [listed["test_batch"]])
    monkeypatch.setattr(
        CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": listed["batches.meta"][1]}
    )
    data = load_data("cifar10", data_dir=tmp_path, valid=5)
    spec = data.spec
    assert (spec.image, spec.support, spec.levels, spec.binarize, spec.classes) == (
        (3, 32, 32),
        "levels",
        256,
        "gray",
        10,
    )
    assert gathered(data) == floats(x)
    assert data.batch("test", 2)["y"].tolist() == [3, 9]


def test_svhn(tmp_path, monkeypatch):
    from scipy.io import savemat
    from torchvision.datasets import SVHN

    x = RNG.integers(0, 256, (32, 32, 3, 20), dtype=np.uint8)
    sums = {}
    for part in ("train", "test"):
        path = tmp_path / f"{part}_32x32.mat"
        savemat(path, {"X": x, "y": np.arange(1, 21)[:, None] % 10 + 1})
        sums[part] = ["", path.name, hashlib.md5(path.read_bytes()).hexdigest()]
    monkeypatch.setattr(SVHN, "split_list", sums)
    data = load_data("svhn", data_dir=tmp_path, valid=5)
    assert gathered(data) == floats(x.transpose(3, 2, 0, 1))
    assert (data.spec.image, data.spec.classes) == ((3, 32, 32), 10)
    assert data.batch("test", 9)["y"].tolist() == [2, 3, 4, 5, 6, 7, 8, 9, 0]  # SVHN writes 10 for the digit 0


def test_omniglot_has_white_strokes_and_new_characters_in_its_test(tmp_path, monkeypatch):
    from torchvision.datasets import Omniglot

    monkeypatch.setattr(Omniglot, "_check_integrity", lambda self: True)
    for part, letters in (("images_background", "abc"), ("images_evaluation", "de")):
        for letter in letters:
            folder = tmp_path / "omniglot-py" / part / "Latin" / letter
            folder.mkdir(parents=True)
            for i in range(8):
                paper = np.full((105, 105), 255, np.uint8)
                paper[30:60] = 0
                Image.fromarray(paper).convert("1").save(folder / f"{i}.png")
    for _ in range(2):  # decoded, then from the file that keeps the decoded images
        data = load_data("omniglot", data_dir=tmp_path, valid=4, binarize="gray")
        assert [data.size(split) for split in ("train", "valid", "test")] == [20, 4, 16]
        image = data.batch("test", 1)["x"].reshape(28, 28)
        assert image[10].min() == 1
        assert image[20].max() == 0
        assert sorted(set(data.batch("train")["y"].tolist())) == [0, 1, 2]
        assert sorted(set(data.batch("test")["y"].tolist())) == [3, 4]
        assert data.spec.classes == 5
    assert load_data("omniglot", data_dir=tmp_path, valid=4, image_size=14).spec.image == (1, 14, 14)
    assert not list(tmp_path.rglob("*.part"))
    cached = tmp_path / "omniglot-py/pyro_vae_28_train.npy"
    np.save(cached, np.zeros((3, 28, 28, 1), np.uint8))
    with pytest.raises(DataError, match=r"has the shape \(3, 28, 28, 1\), not \(24, 28, 28, 1\): delete it to have it"):
        load_data("omniglot", data_dir=tmp_path, valid=4)
    cached.unlink()
    (tmp_path / "omniglot-py/images_background/Latin/a/0.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"a/0\.png is not a readable image"):
        load_data("omniglot", data_dir=tmp_path, valid=4)
    assert not list(tmp_path.rglob("*.part"))


def test_celeba_keeps_its_splits_and_attributes(tmp_path, monkeypatch):
    from torchvision.datasets import CelebA

    monkeypatch.setattr(CelebA, "_check_integrity", lambda self: True)
    folder = tmp_path / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    names = [f"{i:06d}.jpg" for i in range(1, 13)]
    for i, name in enumerate(names):
        Image.new("RGB", (178, 218), (20 * i, 0, 255)).save(folder / "img_align_celeba" / name, quality=95)
    splits = [0] * 6 + [1] * 2 + [2] * 4
    attributes = np.where(RNG.random((12, 40)) < 0.5, -1, 1)

    def table(name: str, rows: list, header: str = "") -> None:
        lines = [f"{n} {' '.join(map(str, np.atleast_1d(row)))}" for n, row in zip(names, rows, strict=True)]
        (folder / name).write_text("\n".join((["12", header] if header else []) + lines) + "\n")

    table("list_eval_partition.txt", splits)
    table("identity_CelebA.txt", list(range(12)))
    table("list_bbox_celeba.txt", [[0] * 4] * 12, "image_id x y w h")
    table("list_landmarks_align_celeba.txt", [[0] * 10] * 12, "a b c d e f g h i j")
    table("list_attr_celeba.txt", list(attributes), " ".join(f"a{i}" for i in range(40)))
    data = load_data("celeba", data_dir=tmp_path)
    assert [data.size(split) for split in ("train", "valid", "test")] == [6, 2, 4]
    assert (data.spec.image, data.spec.fields["y"], data.spec.classes) == ((3, 64, 64), (40,), None)
    test = data.batch("test")
    assert test["y"].tolist() == ((attributes[8:] + 1) / 2).tolist()
    assert (test["x"].reshape(4, 3, 64, 64)[:, 0, 32, 32] * 255 - torch.arange(8, 12) * 20).abs().max() < 3
    with pytest.raises(DataError, match="celeba has its own valid split"):
        load_data("celeba", data_dir=tmp_path, valid=3)
    assert load_data("celeba", data_dir=tmp_path, image_size=32).spec.image == (3, 32, 32)
