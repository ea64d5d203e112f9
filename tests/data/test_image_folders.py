"""Folders of images as strangers bring them: what changes the pixels says so in one line, what would lose something is refused."""

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_vae import load_data
from pyro_vae.data.readers import DataError, DataNote

RNG = np.random.default_rng(0)


def grey(value: int | None = None, size: tuple[int, int] = (6, 6)) -> Image.Image:
    pixels = RNG.integers(0, 256, size[::-1], dtype=np.uint8) if value is None else np.full(size[::-1], value, np.uint8)
    return Image.fromarray(pixels)


def folder(place: Path, count: int = 12, make=grey, ending: str = ".png", **options) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        make().save(place / f"{i}{ending}", **options)
    return place


def png16(path: Path, values: np.ndarray) -> None:
    """Write a PNG of 16 bits per channel, which Pillow cannot."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    colour = {1: 0, 2: 4, 3: 2, 4: 6}[values.shape[2]]
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, colour, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_per_channel_are_refused(tmp_path, channels):
    for i in range(3):
        png16(tmp_path / f"{i}.png", RNG.integers(0, 1024, (6, 6, channels)))
    with pytest.raises(DataError, match="more than 8 bits per channel"):
        load_data(tmp_path)


@pytest.mark.parametrize("top", [255, 1023])
def test_a_ppm_says_how_deep_it_is(tmp_path, top):
    for i in range(12):
        kind = ">u2" if top > 255 else "u1"
        pixels = RNG.integers(0, top, (4, 4, 3)).astype(kind).tobytes()
        (tmp_path / f"{i}.ppm").write_bytes(f"P6 4 4 {top}\n".encode() + pixels)
    if top == 255:
        assert load_data(tmp_path).spec.image == (3, 4, 4)
    else:
        with pytest.raises(DataError, match="more than 8 bits per channel"):
            load_data(tmp_path)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_ink_on_a_transparent_page_is_black_on_white(tmp_path, mode):
    def ink() -> Image.Image:
        pixels = np.zeros((6, 6, 4), np.uint8)
        pixels[2, 3, 3] = 255
        picture = Image.fromarray(pixels, "RGBA")
        if mode == "P":
            page = Image.new("P", (6, 6), 1)
            page.putpalette([0, 0, 0, 0, 0, 0])
            page.putpixel((3, 2), 0)
            page.info["transparency"] = 1
            return page
        return picture.convert(mode)

    with pytest.warns(DataNote, match="12 of 12 images are partly transparent and were laid on white"):
        data = load_data(folder(tmp_path / "ink", make=ink))
    x = data.batch("train")["x"].reshape(-1, data.spec.image[0], 6, 6)
    assert (x[:, :, 2, 3] == 0).all()
    assert x.sum() == x.numel() - x.shape[0] * x.shape[1]


def test_an_alpha_channel_that_hides_nothing_changes_nothing(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load_data(folder(tmp_path / "a", make=lambda: grey(100).convert("RGBA")))
    assert data.batch("train")["x"].unique().tolist() == pytest.approx([100 / 255])


@pytest.mark.parametrize(
    "names",
    [
        ("training", "validation", "testing"),
        ("Train", "Val", "TEST"),
        ("TRAIN", "dev", "Test"),
        ("trn", "valid", "tst"),
    ],
)
def test_splits_go_by_many_names(tmp_path, names):
    for name, count in zip(names, (10, 4, 3), strict=True):
        folder(tmp_path / name, count)
    data = load_data(tmp_path)
    assert [data.size(split) for split in ("train", "valid", "test")] == [10, 4, 3]
    assert data.spec.classes is None


def test_endings_of_arrays_mean_the_same():
    data = load_data(
        {"x_Training": RNG.random((9, 3)), "x_validation": RNG.random((4, 3)), "x_TEST": RNG.random((3, 3))}
    )
    assert [data.size(split) for split in ("train", "valid", "test")] == [9, 4, 3]


def test_a_split_beside_what_is_none_is_refused(tmp_path):
    for label in "ab":
        folder(tmp_path / "train" / label, 4)
        folder(tmp_path / "extra" / label, 4)
    with pytest.raises(DataError, match=r"splits \(train\) beside extra, which is none"):
        load_data(tmp_path)


def test_splits_without_one_for_training_are_refused(tmp_path):
    folder(tmp_path / "valid"), folder(tmp_path / "test")
    with pytest.raises(DataError, match="and none for training"):
        load_data(tmp_path)


def test_a_class_may_be_called_train(tmp_path):
    for label in ("car", "plane", "train"):
        folder(tmp_path / label, 6)
    assert load_data(tmp_path).spec.class_names == ("car", "plane", "train")


def test_linked_folders_are_followed_and_circles_are_not(tmp_path):
    folder(tmp_path / "elsewhere")
    folder(tmp_path / "data" / "a")
    (tmp_path / "data" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "a" / "again").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "a" / "self").symlink_to(tmp_path / "data" / "a")
    data = load_data(tmp_path / "data")
    assert data.spec.class_names == ("a", "b")
    assert sum(data.size(split) for split in ("train", "valid", "test")) == 24


@pytest.mark.parametrize("ending", [".tif", ".gif", ".webp", ".png"])
def test_several_frames_are_refused(tmp_path, ending):
    folder(tmp_path / "a", 3, ending=ending, save_all=True, append_images=[grey(), grey()])
    with pytest.raises(DataError, match="of 3 frames, of which only the first would be read"):
        load_data(tmp_path / "a")


def test_photographs_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    upright = np.repeat(np.linspace(0, 255, 8).astype(np.uint8)[:, None], 6, 1)  # brighter downwards, 8 high

    def lying() -> Image.Image:
        return Image.fromarray(np.rot90(upright))

    folder(tmp_path / "a", make=lying, exif=exif)
    with pytest.warns(DataNote, match="12 of 12 images were turned upright"):
        data = load_data(tmp_path / "a")
    assert data.spec.image == (1, 8, 6)
    assert torch.equal(
        (data.batch("test", 1)["x"] * 255).round().reshape(8, 6).byte(), torch.from_numpy(upright.copy())
    )


def test_classes_that_are_numbers_are_in_their_order(tmp_path):
    for label in range(12):
        folder(tmp_path / str(label), 3, make=lambda value=label: grey(value * 10))
    data = load_data(tmp_path)
    assert data.spec.class_names == tuple(map(str, range(12)))
    batch = data.batch("train")
    assert ((batch["x"][:, 0] * 25.5).round().long() == batch["y"]).all()


@pytest.mark.filterwarnings("ignore:.*whole numbers 0:pyro_vae.data.DataNote")
@pytest.mark.parametrize(
    ("x", "image"),
    [
        (2 * RNG.random((30, 3, 8, 8)) - 1, (3, 8, 8)),
        (2 * RNG.random((30, 8, 8, 3)) - 1, (3, 8, 8)),
        (RNG.integers(0, 256, (30, 8, 8)), (1, 8, 8)),
        (RNG.normal(size=(30, 8, 6)), (1, 8, 6)),
        (RNG.normal(size=(30, 6, 8, 8)), None),
        (RNG.normal(size=(30, 8)), None),
    ],
)
def test_real_and_integer_images_keep_their_shape(x, image):
    assert load_data({"x": x}).spec.image == image


def test_masked_values_are_no_data():
    x = np.ma.masked_equal(np.where(RNG.random((40, 4)) < 0.2, -999.0, 1.0), -999.0)
    with pytest.raises(DataError, match="x is masked in"):
        load_data({"x": x})
    with pytest.raises(DataError, match="y is masked in"):
        load_data({"x": RNG.random((3, 2)), "y": np.ma.masked_equal(np.array([0, 1, 1]), 0)})
    assert load_data({"x": np.ma.masked_array(RNG.random((40, 4)))}).spec.features == 4
