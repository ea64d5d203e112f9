"""Damaged and hostile files: one `DataError`, bounded memory, and no code run."""

import io
import os
import random
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pyro_vae.data import image_folders as images
from pyro_vae.data import readers as files
from pyro_vae.data.load import load_data
from pyro_vae.data.readers import DataError, read_idx, read_npy, read_npz

CASES = int(os.environ.get("PYRO_VAE_FUZZ", "150"))  # of each kind of file
GREY = np.random.default_rng(0).integers(0, 256, (40, 6, 6), dtype=np.uint8)


class Trap:
    """Creates a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def write_npz(path: Path) -> None:
    np.savez(path, x=GREY, y=np.arange(40) % 4)


def write_packed(path: Path) -> None:
    np.savez_compressed(path, x=GREY / 255.0, y=np.arange(40) % 4)


def write_npy(path: Path) -> None:
    np.save(path, GREY / 255.0)


def write_idx(path: Path) -> None:
    path.write_bytes(struct.pack(">4B3I", 0, 0, 8, 3, *GREY.shape) + GREY.tobytes())


def write_images(path: Path) -> None:
    path.mkdir()
    for i, ending in enumerate(["png", "jpg", "bmp", "gif", "webp", "tif", "ppm"]):
        Image.fromarray(GREY[i].repeat(3, 0).repeat(3, 1)).save(path / f"{i}.{ending}")


def damage(raw: bytes, rng: random.Random) -> bytes:
    """Cut ``raw``, flip bits, overwrite a stretch, or repeat one."""
    data = bytearray(raw)
    how = rng.randrange(4)
    start = min(rng.randrange(len(data)), rng.randrange(len(data)))  # headers more than the rest
    length = rng.randrange(1, 40)
    if how == 0:
        del data[start:]
    elif how == 1:
        for _ in range(rng.randrange(1, 8)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif how == 2:
        data[start : start + length] = rng.randbytes(length)
    else:
        data[start:start] = data[start : start + length]
    return bytes(data)


def outcome(load: Callable[[], object]) -> str:
    """Return "fine" or the message of a `DataError`; whatever else is raised fails the test, warnings included."""
    try:
        load()
    except DataError as error:
        message = str(error)
    else:
        return "fine"
    assert "\n" not in message
    assert len(message) < 700
    return message


@pytest.mark.parametrize(
    ("ending", "write"), [("a.npz", write_npz), ("b.npz", write_packed), ("a.npy", write_npy)]
)  # fmt: skip
def test_fuzzed_arrays(ending, write, tmp_path):
    path, rng = tmp_path / ending, random.Random(ending)
    write(path)
    raw = path.read_bytes()

    def load() -> None:
        data = load_data(path)
        data.batch("test")
        next(data.epoch(0, 8, seed=0))

    assert outcome(load) == "fine"
    tracemalloc.start()
    outcomes = []
    for _ in range(CASES):
        path.write_bytes(damage(raw, rng))
        outcomes.append(outcome(load))
    assert tracemalloc.get_traced_memory()[1] < 100e6  # the file has under 100 kB
    tracemalloc.stop()
    assert len(set(outcomes)) > 5
    assert outcomes.count("fine") < CASES * 0.6


def test_fuzzed_idx(tmp_path):
    path, rng = tmp_path / "train-images-idx3-ubyte", random.Random("idx")
    write_idx(path)
    raw = path.read_bytes()
    assert (read_idx(path, dims=3) == GREY).all()
    for _ in range(CASES):
        path.write_bytes(damage(raw, rng))
        outcome(lambda: read_idx(path, dims=3))


@pytest.mark.slow
def test_fuzzed_images(tmp_path):
    folder, rng = tmp_path / "images", random.Random("images")
    write_images(folder)
    paths = sorted(folder.iterdir())
    raw = [path.read_bytes() for path in paths]
    assert outcome(lambda: load_data(folder)) == "fine"
    tracemalloc.start()
    named = 0
    for _ in range(CASES):
        which = rng.randrange(len(paths))
        paths[which].write_bytes(damage(raw[which], rng))
        message = outcome(lambda: load_data(folder))
        named += str(paths[which]) in message
        paths[which].write_bytes(raw[which])
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()
    assert named > CASES / 5


def test_no_code_is_run(tmp_path):
    trap = np.array([Trap(tmp_path / "sprung")], object)
    np.save(tmp_path / "a.npy", trap, allow_pickle=True)
    np.savez(tmp_path / "a.npz", x=trap)
    for name, where in (("a.npy", "a.npy"), ("a.npz", "array 'x' of")):
        with pytest.raises(
            DataError, match="holds Python objects, which could run code when read: save plain numbers"
        ) as e:
            load_data(tmp_path / name)
        assert where in str(e.value)
    assert not (tmp_path / "sprung").exists()


def npy(descr: object, shape: object, *, body: bytes = b"", length: int | None = None) -> bytes:
    """Return a .npy file with the header given."""
    text = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) if length is None else length) + text + body


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (npy("<f8", (10**12, 784)), "is cut short: its header announces 6,272,000,000,000,0"),
        (npy("<f8", (3,), body=bytes(16)), "is cut short"),
        (npy("<f8", (3,), body=bytes(32)), "is damaged: its header announces"),
        (npy("<f8", (10**80,)), "is damaged: its header announces the shape (1000"),
        (npy("<f8", (-1,)), "is damaged: its header announces the shape (-1,)"),
        (npy("<f8", (True,)), "announces the shape (True,)"),
        (npy("<f8", 3), "announces the shape 3"),
        (npy("<f8", (0, 3)), "holds an empty array of shape (0, 3)"),
        (npy("<c16", (1,), body=bytes(16)), "holds values of the type '<c16'"),
        (npy("<U3", (1,), body=bytes(12)), "holds values of the type '<U3'"),
        (npy("<M8[s]", (1,), body=bytes(8)), "holds values of the type"),
        (npy([("a", "<f8")], (1,), body=bytes(8)), "holds values of the type [('a', '<f8')]"),
        (npy("f8,(1000000000,)f8", (1,)), "holds values of the type"),
        (npy("<f8", (1,), length=60000), "its header announces 60,000 bytes of description"),
        (b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31), "announces 2,147,483,648 bytes of description"),
        (b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"[" * 9000, "its header cannot be read"),
        (b"\x93NUMPY\x01\x00" + struct.pack("<H", 20) + b"__import__('os')    ", "its header cannot be read"),
        (b"\x93NUMPY\x09\x00", "is not a .npy array"),
        (b"x,y\n1,2\n", "is not a .npy array (it does not begin like one)"),
        (b"", "is not a .npy array"),
    ],
)
def test_headers_are_not_believed(raw, message, tmp_path):
    (tmp_path / "a.npy").write_bytes(raw)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", raw)
    tracemalloc.start()
    with pytest.raises(DataError) as caught:
        load_data(tmp_path / "a.npy")
    assert message in str(caught.value)
    with pytest.raises(DataError):
        load_data(tmp_path / "a.npz")
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_bombs_are_refused_before_they_are_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, x=np.zeros((1000, 5000)))  # 40 MB in 40 kB
    raw = path.read_bytes()
    tracemalloc.start()
    with monkeypatch.context() as patch:
        patch.setattr(files, "memory_limit", lambda: 10**7)
        with pytest.raises(
            DataError, match=r"unpacks to 0.0373 GiB, more than half of this machine's memory: save each"
        ):
            read_npz(path)
    actual, claimed = struct.pack("<I", 40_000_128), struct.pack("<I", 2**31)
    assert actual in raw
    path.write_bytes(raw.replace(actual, claimed))
    with monkeypatch.context() as patch:
        patch.setattr(files, "memory_limit", lambda: 2**40)
        with pytest.raises(DataError, match=r"unpacks to 5.,... times its size \(2 GiB\), as no honest data do"):
            read_npz(path)
    path.write_bytes(raw.replace(actual, struct.pack("<I", 1000)))
    with pytest.raises(DataError, match="is damaged"):
        read_npz(path)
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()


@pytest.mark.slow
def test_a_large_file_is_read_in_pieces(tmp_path):
    path = tmp_path / "x.npy"
    n = 300_000  # 294 MB, sparse on disk
    with path.open("wb") as stream:
        stream.write(npy("|u1", (n, 28, 35)))
        stream.seek(n * 980 - 1, io.SEEK_CUR)
        stream.write(b"\x01")
    tracemalloc.start()
    data = load_data(path)
    batch = next(data.epoch(0, 64, seed=0))
    assert tracemalloc.get_traced_memory()[1] < 100e6
    tracemalloc.stop()
    assert data.spec.image == (1, 28, 35)
    assert batch["x"].shape == (64, 980)


def test_idx_files_that_are_none(tmp_path):
    path = tmp_path / "labels"
    for raw, message in (
        (b"", "is damaged: it does not begin as an IDX file of bytes with 1 dimensions"),
        (struct.pack(">4BI", 0, 0, 13, 1, 0), "is damaged"),
        (struct.pack(">4BI", 0, 0, 8, 1, 2**32 - 1), "is cut short: its header announces 4,294,967,303 bytes, the file has 8"),
        (struct.pack(">4BI", 0, 0, 8, 1, 0), "is empty"),
        (struct.pack(">4BI", 0, 0, 8, 1, 1) + b"ab", "is damaged: its header announces 9 bytes, the file has 10"),
    ):  # fmt: skip
        path.write_bytes(raw)
        with pytest.raises(DataError) as caught:
            read_idx(path, dims=1)
        assert message in str(caught.value)


def test_files_that_cannot_be_used(tmp_path):
    (tmp_path / "a.txt").write_text("1,2")
    (tmp_path / "a.npz").write_text("no zip")
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe.npy")
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    for name, message in (
        (
            "a.txt",
            "is neither .npy, .npz, .csv, .tsv, .json nor a folder: save the arrays with numpy.savez(path, x=..., y=...).",
        ),
        ("a.npz", "is damaged and cannot be unpacked (File is not a zip file): save it again."),
        ("text.npz", "array 'readme.txt' of"),
        ("empty", "holds neither .npy files nor images: check the name."),
        ("pipe.npy", "cannot be opened (it is not an ordinary file): check the name"),
        ("gone.npy", "cannot be opened (No such file or directory)"),
    ):
        with pytest.raises(DataError) as caught:
            load_data(tmp_path / name)
        assert message in str(caught.value)
    if os.getuid() == 0:
        return  # root may read everything
    write_npy(tmp_path / "a.npy")
    (tmp_path / "a.npy").chmod(0)
    with pytest.raises(DataError, match="Permission denied"):
        read_npy(tmp_path / "a.npy")


# --- folders of images ---------------------------------------------------------------------------------------------


def picture(path: Path, size: tuple[int, int] = (8, 6), mode: str = "L", value: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode in ("L", "1", "I;16") else (value, 0, 255)).save(path)
    return path


def test_flat_grey_and_coloured_folders(tmp_path):
    for i in range(10):
        picture(tmp_path / f"{i}.png", value=i)
    data = load_data(tmp_path)
    assert (data.spec.image, data.spec.support, data.spec.levels, data.spec.classes) == ((1, 6, 8), "levels", 256, None)
    shades = sorted(v for split in ("train", "valid", "test") for v in (data.batch(split)["x"][:, 0] * 255).tolist())
    assert shades == pytest.approx(range(10))
    picture(tmp_path / "colour.bmp", mode="RGB")
    assert load_data(tmp_path).spec.image == (3, 6, 8)
    assert load_data(tmp_path, image_size=4).spec.image == (3, 4, 4)
    assert load_data(tmp_path, image_size=4, binarize="dynamic").spec.support == "binary"


def test_a_subfolder_is_a_class_or_a_split(tmp_path):
    for label, value in (("cat", 10), ("dog", 200)):
        for i in range(6):
            picture(tmp_path / "plain" / label / "deeper" / f"{i}.png", value=value + i)
            picture(tmp_path / "split" / "train" / label / f"{i}.png", value=value + i)
            picture(tmp_path / "split" / "val" / label / f"{i}.png", value=value + i)
    (tmp_path / "plain" / "notes.txt").write_text("not an image")
    (tmp_path / "plain" / ".hidden.png").write_text("not an image")
    plain, split = load_data(tmp_path / "plain"), load_data(tmp_path / "split", test=2)
    for data in (plain, split):
        batch = data.batch("train")
        assert data.spec.classes == 2
        assert ((batch["x"][:, 0] > 0.5).long() == batch["y"]).all()
    assert [split.size(s) for s in ("train", "valid", "test")] == [10, 12, 2]


def test_folders_that_cannot_be_used(tmp_path, monkeypatch):
    first = picture(tmp_path / "a.png")
    for i in range(5):
        picture(tmp_path / f"b{i}.png", value=i)
    other = picture(tmp_path / "z.png", size=(9, 9))
    with pytest.raises(
        DataError, match=f"Images differ in size .{first} is 6 x 8, {other} is 9 x 9.: give --image-size"
    ):
        load_data(tmp_path)
    assert load_data(tmp_path, image_size=6).spec.image == (1, 6, 6)
    picture(tmp_path / "cat" / "c.png")
    with pytest.raises(DataError, match="holds images both inside and beside its subfolders"):
        load_data(tmp_path, image_size=6)
    (tmp_path / "cat" / "c.png").unlink()
    other.write_bytes(first.read_bytes()[:45])
    with pytest.raises(DataError, match=f"{other} is not a readable image"):
        load_data(tmp_path)
    other.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"is not a readable image \(its beginning is that of no image\): replace it"):
        load_data(tmp_path)
    with other.open("wb") as stream:
        stream.truncate(2**28 + 1)
    with pytest.raises(DataError, match="is larger than 256 MiB: make the image smaller"):
        load_data(tmp_path)
    picture(other, mode="I;16")
    with pytest.raises(DataError, match=r"of more than 8 bits per channel \(mode I;16\): save it with 8 bits"):
        load_data(tmp_path)
    picture(other)
    monkeypatch.setattr(images, "_MAX_PIXELS", 40)
    with pytest.raises(DataError, match="is an image of 6 x 8, more than 40 pixels: make it smaller"):
        load_data(tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(images, "memory_limit", lambda: 100)
    with pytest.raises(DataError, match=r"7 images of 6 x 8 pixels take .* give a smaller --image-size"):
        load_data(tmp_path)
