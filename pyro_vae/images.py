"""Folders of images: found, measured by their headers, then decoded straight into one array of bytes."""

import io
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pyro_vae.files import DataError, brief, memory_limit, open_file

if TYPE_CHECKING:
    from PIL.Image import Image

_PIXEL_LIMIT = 64_000_000  # of one image: 8,000 x 8,000
_FILE_LIMIT = 2**28  # bytes of one image: more than 64 million pixels of three bytes
_SUFFIXES = frozenset([".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm"])
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
_GREY = frozenset({"1", "L", "LA", "La"})


def read_image_folder(
    folder: Path, image_size: int | None, splits: Mapping[str, str]
) -> dict[str, dict[str, np.ndarray]]:
    """Return the images below ``folder`` as arrays ``x`` and, if they lie in a subfolder a class, ``y``.

    Args:
        folder: holds images, or one subfolder a class, or such folders for each split.
        image_size: height and width; None keeps the images' own, which must then be the same.
        splits: names of folders that are splits, and which split.

    Returns:
        The arrays by field for each split, or for "all".

    Raises:
        DataError: no images, a damaged one, sizes that differ, more than memory holds, classes for some only.
    """
    images = list_images(folder)
    if not images:
        raise DataError(f"{folder} holds neither .npy files nor images: check the name.")
    height, width, channels = image_shape([path for path, _ in images], image_size)
    need = len(images) * height * width * channels
    if need > memory_limit():
        raise DataError(
            f"{len(images):,} images of {height} x {width} pixels take {need / 2**30:,.3g} GiB, more than half of "
            "this machine's memory: give a smaller --image-size."
        )
    tops = {top for _, top in images}
    found: dict[str, list[tuple[Path, str | None]]] = {}
    if "train" in tops and tops <= splits.keys():
        for top in sorted(str(top) for top in tops):
            found.setdefault(splits[top], []).extend(list_images(folder / top))
    else:
        found["all"] = images
    labels = {label for listed in found.values() for _, label in listed}
    if None in labels and len(labels) > 1:
        raise DataError(
            f"{folder} holds images both inside and beside its subfolders: give every image a class, or none."
        )
    number = {label: i for i, label in enumerate(sorted(label for label in labels if label is not None))}
    parts = {}
    for part, listed in found.items():
        x = np.empty((len(listed), height, width, channels), np.uint8)
        read_images(progress([path for path, _ in listed], f"reading {folder.name}"), x)
        parts[part] = {"x": x}
        if number:
            parts[part]["y"] = np.array([number[str(label)] for _, label in listed])
    return parts


def list_images(folder: Path) -> list[tuple[Path, str | None]]:
    """Return each image file of ``folder`` with its class, the first folder on the way to it (None if directly inside)."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(place, name)
            if path.suffix.lower() in _SUFFIXES and not name.startswith("."):
                inside = path.relative_to(folder).parts
                found.append((path, inside[0] if len(inside) > 1 else None))
    return found


def image_shape(paths: Sequence[Path], image_size: int | None) -> tuple[int, int, int]:
    """Return (height, width, channels) that hold every image: one channel if all are grey, else three.

    Only the images' headers are read. With ``image_size`` None they must agree in size.
    """
    shape, first, grey = None, None, True
    for path in paths:
        with _image(path) as picture:
            size = (picture.height, picture.width)
            grey = grey and picture.mode in _GREY
        if image_size is None and shape not in (None, size):
            raise DataError(
                f"Images differ in size ({first} is {_by(shape)}, {path} is {_by(size)}): give --image-size."
            )
        shape, first = size, first or path
    height, width = (image_size, image_size) if image_size else shape or (0, 0)
    return height, width, 1 if grey else 3


def read_images(paths: Iterable[Path], into: np.ndarray, *, crop: int | None = None) -> None:
    """Fill ``into``, uint8 of (images, height, width, channels), with the decoded images.

    Args:
        paths: the image files.
        into: gets image after image; an image of another size is cut to the middle in the wanted proportions and resized.
        crop: cut this many pixels square from the middle first.
    """
    height, width, channels = into.shape[1:]
    for row, path in zip(into, paths, strict=True):
        with _image(path) as picture:
            try:
                row[...] = _decode(picture, height, width, channels, crop)
            except Exception as error:  # decoders of damaged files raise OSError, SyntaxError, IndexError, ...
                raise _unreadable(path, error) from error


def _decode(picture: "Image", height: int, width: int, channels: int, crop: int | None) -> np.ndarray:
    from PIL import Image, ImageOps

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of metadata that we do not use
        plain = picture.convert("L" if channels == 1 else "RGB")
    if crop is not None:
        left, top = (plain.width - crop) // 2, (plain.height - crop) // 2
        plain = plain.crop((left, top, left + crop, top + crop))
    if plain.size != (width, height):
        plain = ImageOps.fit(plain, (width, height), Image.Resampling.BILINEAR)
    return np.asarray(plain).reshape(height, width, channels)


def _image(path: Path) -> "Image":
    """Return the opened image, its header read and its size checked, nothing decoded yet."""
    from PIL import Image, UnidentifiedImageError

    if path.is_file() and path.stat().st_size > _FILE_LIMIT:
        raise DataError(f"{path} is larger than {_FILE_LIMIT // 2**20} MiB: make the image smaller.")
    with open_file(path) as stream:
        raw = stream.read()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the size is checked here, more strictly than Pillow warns
            picture = Image.open(io.BytesIO(raw), formats=_FORMATS)  # a file would let it allocate what headers claim
    except UnidentifiedImageError:
        raise _unreadable(path, ValueError("its beginning is that of no image")) from None
    except Exception as error:  # a damaged header raises OSError, SyntaxError, DecompressionBombError, ...
        raise _unreadable(path, error) from error
    problem = None
    if picture.width * picture.height > _PIXEL_LIMIT:
        problem = f"of {_by(picture.size[::-1])}, more than {_PIXEL_LIMIT:,} pixels: make it smaller."
    elif picture.mode.startswith(("I", "F")):
        problem = f"of more than 8 bits a channel (mode {picture.mode}): save it with 8 bits."
    if problem:
        picture.close()
        raise DataError(f"{path} is an image {problem}")
    return picture


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} is not a readable image ({brief(error)}): replace it or take it out of the folder.")


def _by(size: Iterable[int] | None) -> str:
    return " x ".join(map(str, size or ()))


def progress(items: Sequence[Path], what: str) -> Iterable[Path]:
    """Return ``items`` again, with a bar on stderr that shows how many have been taken when they are many."""
    if len(items) < 5000:
        return items
    from rich.console import Console
    from rich.progress import track

    return track(items, what, console=Console(stderr=True))  # stdout is for results
