"""Folders of images: found, measured by their headers, then decoded straight into one array of
bytes."""

import io
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pyro_vae.data.readers import DataError, brief, memory_limit, note, open_file

if TYPE_CHECKING:
    from PIL.Image import Image

_MAX_PIXELS = 64_000_000  # of one image: 8,000 x 8,000
_MAX_FILE = 2**28  # bytes of one image: more than 64 million pixels of three bytes
_SUFFIXES = frozenset([".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm"])
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
_GREY = frozenset({"1", "L", "LA", "La"})
_DEEP = re.compile(r"(L|LA|La|RGB|RGBA|RGBa|RGBX|CMYK);16[BLN]?")  # of Pillow's raw modes; BGR;16 has 16 bits per pixel
_ORIENTATION = 0x0112  # EXIF's tag
_ON_WHITE = "are partly transparent and were laid on white"
_UPRIGHT = "were turned upright, as their EXIF data say"


class ImageSet(NamedTuple):
    """Decoded images: arrays by field for each split (or "all"), and the class names in order."""

    parts: dict[str, dict[str, np.ndarray]]
    class_names: tuple[str, ...] | None


def read_image_folder(folder: Path, image_size: int | None, splits: Mapping[str, str]) -> ImageSet:
    """Return the images below ``folder`` as arrays ``x`` and, given one subfolder per class, ``y``.

    Transparent images are laid on white, and photographs are turned upright as their EXIF data say;
    a `DataNote` says how many. Classes are numbered in the order of their names, as numbers where
    all names are numbers.

    Args:
        folder: holds images, or one subfolder per class, or such folders for each split.
        image_size: height and width; None keeps the images' own, which must then be the same.
        splits: lower-case names of folders that are splits, and which split.

    Raises:
        DataError: no images, a damaged one, sizes that differ, more than memory holds, classes for
            some only, one split's folder beside others that are none.
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
    found = _by_split(folder, images, splits)
    labels = {label for listed in found.values() for _, label in listed}
    if None in labels and len(labels) > 1:
        raise DataError(
            f"{folder} holds images both inside and beside its subfolders: give every image a class, or none."
        )
    names = _in_order(label for label in labels if label is not None)
    number = {label: i for i, label in enumerate(names)}
    parts = {}
    changes: Counter[str] = Counter()
    for part, listed in found.items():
        x = np.empty((len(listed), height, width, channels), np.uint8)
        changes += read_images(progress([path for path, _ in listed], f"reading {folder.name}"), x)
        parts[part] = {"x": x}
        if number:
            parts[part]["y"] = np.array([number[str(label)] for _, label in listed])
    for change, count in changes.items():
        note(f"{folder}: {count:,} of {len(images):,} images {change}.")
    if any(name.isdecimal() and int(name) != i for i, name in enumerate(names)):
        note(f"{folder}: classes are numbered from 0, so they are not called by their folders' names.")
    return ImageSet(parts, names or None)


def _by_split(
    folder: Path, images: list[tuple[Path, str | None]], splits: Mapping[str, str]
) -> dict[str, list[tuple[Path, str | None]]]:
    """Return the images by split if the folders directly inside are splits, else all under
    "all"."""
    tops = {top for _, top in images}
    named = {top: splits[top.lower()] for top in tops if top is not None and top.lower() in splits}
    if not named or None in tops:
        return {"all": images}
    other = sorted(str(top) for top in tops - named.keys())
    found: dict[str, list[tuple[Path, str | None]]] = {}
    for top, split in sorted(named.items()):
        found.setdefault(split, []).extend(list_images(folder / top))
    nested = any(label is not None for listed in found.values() for _, label in listed)
    if (other and not nested) or (len(tops) == 1 and "train" not in found):
        return {"all": images}  # classes, of which some have such names
    if other or "train" not in found:
        lack = f"beside {other[0]}, which is none" if other else "and none for training"
        raise DataError(
            f"{folder} holds folders of splits ({', '.join(sorted(named))}) {lack}: "
            "name the splits train, valid and test, and put nothing beside them."
        )
    return found


def _in_order(labels: Iterable[str]) -> tuple[str, ...]:
    """Return the names sorted, as numbers where all of them are."""
    names = sorted(labels)
    if all(name.isdecimal() for name in names):
        names.sort(key=int)
    return tuple(names)


def list_images(folder: Path) -> list[tuple[Path, str | None]]:
    """Return each image file of ``folder`` with its class.

    The class is the first folder on the way to the file, None for a file directly inside.

    Links to folders are followed, each real folder once on a way down.
    """
    found = []
    for place, folders, names in os.walk(folder, followlinks=True):
        above = {os.path.realpath(parent) for parent in (place, *map(str, Path(place).parents))}
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and os.path.realpath(Path(place, name)) not in above
        )
        for name in sorted(names):
            path = Path(place, name)
            if path.suffix.lower() in _SUFFIXES and not name.startswith("."):
                inside = path.relative_to(folder).parts
                found.append((path, inside[0] if len(inside) > 1 else None))
    return found


def image_shape(paths: Sequence[Path], image_size: int | None) -> tuple[int, int, int]:
    """Return (height, width, channels) that hold every image: one channel if all are grey.

    Only the images' headers are read. With ``image_size`` None they must agree in size.
    """
    shape, first, grey = None, None, True
    for path in paths:
        with _image(path) as picture:
            size = (picture.height, picture.width)[:: -1 if _orientation(picture) >= 5 else 1]
            grey = grey and picture.mode in _GREY
        if image_size is None and shape not in (None, size):
            raise DataError(
                f"Images differ in size ({first} is {_by(shape)}, {path} is {_by(size)}): give --image-size."
            )
        shape, first = size, first or path
    height, width = (image_size, image_size) if image_size else shape or (0, 0)
    return height, width, 1 if grey else 3


def read_images(paths: Iterable[Path], into: np.ndarray, *, crop: int | None = None) -> "Counter[str]":
    """Decode the images into ``into``, uint8 of (images, height, width, channels).

    Returns what was changed, and in how many images.

    Args:
        paths: the image files.
        into: gets image after image; an image of another size is cut to the middle in the wanted
            proportions and resized.
        crop: cut this many pixels square from the middle first.
    """
    height, width, channels = into.shape[1:]
    changes: Counter[str] = Counter()
    for row, path in zip(into, paths, strict=True):
        with _image(path) as picture:
            try:
                row[...] = _decode(picture, height, width, channels, crop, changes)
            except Exception as error:  # decoders of damaged files raise OSError, SyntaxError, IndexError, ...
                raise _unreadable(path, error) from error
    return changes


def _decode(
    picture: "Image", height: int, width: int, channels: int, crop: int | None, changes: "Counter[str]"
) -> np.ndarray:
    from PIL import Image, ImageOps

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of metadata that we do not use
        if _orientation(picture) > 1:
            picture = ImageOps.exif_transpose(picture)
            changes[_UPRIGHT] += 1
        if picture.has_transparency_data:
            seen = picture.convert("RGBA")
            if seen.getextrema()[3][0] < 255:  # type: ignore
                picture = Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen)
                changes[_ON_WHITE] += 1
        plain = picture.convert("L" if channels == 1 else "RGB")
    if crop is not None:
        left, top = (plain.width - crop) // 2, (plain.height - crop) // 2
        plain = plain.crop((left, top, left + crop, top + crop))
    if plain.size != (width, height):
        plain = ImageOps.fit(plain, (width, height), Image.Resampling.BILINEAR)
    return np.asarray(plain).reshape(height, width, channels)


def _orientation(picture: "Image") -> int:
    """Return how the picture lies, as EXIF numbers it: 1 is upright, 5 to 8 lie on a side."""
    if (
        "exif" not in picture.info and picture.format != "TIFF"
    ):  # Pillow would decode all of a PNG to look behind its pixels
        return 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = picture.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged metadata say nothing
        return 1
    return found if found in range(1, 9) else 1


def _image(path: Path) -> "Image":
    """Return the opened image, its header read and its size checked, nothing decoded yet."""
    from PIL import Image, UnidentifiedImageError

    if path.is_file() and path.stat().st_size > _MAX_FILE:
        raise DataError(f"{path} is larger than {_MAX_FILE // 2**20} MiB: make the image smaller.")
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
    if picture.width * picture.height > _MAX_PIXELS:
        problem = f"of {_by(picture.size[::-1])}, more than {_MAX_PIXELS:,} pixels: make it smaller."
    elif picture.mode.startswith(("I", "F")) or _is_deep(picture):
        problem = f"of more than 8 bits per channel (mode {picture.mode}): save it with 8 bits, or its values as .npy."
    elif (frames := _frames(picture)) > 1:
        problem = f"of {frames} frames, of which only the first would be read: save each as an image of its own."
    if problem:
        picture.close()
        raise DataError(f"{path} is an image {problem}")
    return picture


def _is_deep(picture: "Image") -> bool:
    """Return whether the file has more than 8 bits per channel.

    Pillow cuts them to 8 where there are several channels.
    """
    for decoder, _, _, args in getattr(picture, "tile", ()):
        parts = args if isinstance(args, tuple) else (args,)
        if any(_DEEP.fullmatch(str(part)) for part in parts):
            return True
        if decoder.startswith("ppm") and any(isinstance(part, int) and part > 255 for part in parts):
            return True
    return False


def _frames(picture: "Image") -> int:
    try:
        return int(getattr(picture, "n_frames", 1))
    except Exception:  # a damaged file, which decoding will name
        return 1


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} is not a readable image ({brief(error)}): replace it or take it out of the folder.")


def _by(size: Iterable[int] | None) -> str:
    return " x ".join(map(str, size or ()))


def progress(items: Sequence[Path], what: str) -> Iterable[Path]:
    """Return ``items`` again; if they are many, a bar on stderr counts those taken."""
    if len(items) < 5000:
        return items
    from rich.console import Console
    from rich.progress import track

    return track(items, what, console=Console(stderr=True))  # stdout is for results
