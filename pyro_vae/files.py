"""Arrays and pictures from files that nobody vouches for: .npy, .npz, IDX, images.

No reader runs code from a file or trusts its header: what the header announces is compared with what the file holds, and
with this machine's memory, before anything is allocated. Whatever is wrong comes out as one sentence in a `DataError`.
"""

import ast
import math
import os
import re
import struct
import warnings
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

_HEADER_LIMIT = 10_000  # bytes; numpy's own limit for a .npy header
_RATIO_LIMIT = 100  # real data rarely shrink more than this; deflate reaches 1,000 on a zip bomb
_PIXEL_LIMIT = 64_000_000  # of one image: 8,000 x 8,000
_SUFFIXES = frozenset(".png .jpg .jpeg .bmp .gif .webp .tif .tiff .pgm .ppm".split())
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
_GREY = frozenset({"1", "L", "LA", "La"})


class DataError(ValueError):
    """Data that cannot be used, with one sentence that says what is wrong and what to change."""


class _Header(NamedTuple):
    dtype: np.dtype
    shape: tuple[int, ...]
    fortran: bool
    length: int  # bytes before the first value

    @property
    def size(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def memory_limit() -> int:
    """Return how many bytes an array read into memory may take: half of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def read_npy(path: Path) -> np.ndarray:
    """Return the array of a .npy file, memory-mapped and read-only, so it may be larger than memory.

    Raises:
        DataError: the file is missing, damaged, of Python objects, or not as long as its header says.
    """
    with _opened(path) as stream:
        header = _npy_header(stream, str(path))
    _check_length(path, header.length + header.size)
    if header.size == 0:
        raise DataError(f"{path} holds an empty array of shape {header.shape}: save at least one datum.")
    order = "F" if header.fortran else "C"
    return np.memmap(path, header.dtype, mode="r", offset=header.length, shape=header.shape, order=order)  # type: ignore[call-overload]


def read_npy_folder(folder: Path) -> dict[str, np.ndarray]:
    """Return the memory-mapped array of each .npy file of ``folder``, by the file's name without its ending."""
    return {path.stem: read_npy(path) for path in sorted(folder.glob("*.npy"))}


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a .npz file, read into memory.

    Raises:
        DataError: the file is missing, damaged, of Python objects, or unpacks to more than memory or 100 times its size
            (past 1 GiB).
    """
    _opened(path).close()
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_unpacked(path, sum(info.file_size for info in members))
            return dict(_read_member(archive, info, path) for info in members)
    except DataError:
        raise
    except Exception as error:  # a damaged zip raises BadZipFile, zlib.error, EOFError, struct.error, ...
        raise DataError(f"{path} is damaged and cannot be unpacked ({_brief(error)}): save it again.") from error


def read_idx(path: Path, *, dims: int) -> np.ndarray:
    """Return the unsigned bytes of an IDX file (the format of MNIST) of ``dims`` dimensions.

    Raises:
        DataError: the file is missing, of another kind, or not as long as its header says.
    """
    with _opened(path) as stream:
        start = stream.read(4 + 4 * dims)
        if len(start) < 4 + 4 * dims or start[:4] != bytes((0, 0, 8, dims)):
            raise DataError(f"{path} is damaged: it does not begin as an IDX file of bytes with {dims} dimensions.")
        shape = struct.unpack(f">{dims}I", start[4:])
        _check_length(path, len(start) + math.prod(shape))
        if math.prod(shape) == 0:
            raise DataError(f"{path} is empty: its header announces the shape {shape}.")
        return np.frombuffer(stream.read(), np.uint8).reshape(shape)


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
        plain = (
            ImageOps.fit(plain, (crop, crop), Image.Resampling.NEAREST)
            if min(plain.size) < crop
            else _middle(plain, crop)
        )
    if plain.size != (width, height):
        plain = ImageOps.fit(plain, (width, height), Image.Resampling.BILINEAR)
    return np.asarray(plain).reshape(height, width, channels)


def _middle(picture: "Image", crop: int) -> "Image":
    left, top = (picture.width - crop) // 2, (picture.height - crop) // 2
    return picture.crop((left, top, left + crop, top + crop))


def _image(path: Path) -> "Image":
    """Return the opened image, its header read and its size checked, nothing decoded yet."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the size is checked here, more strictly than Pillow warns
            picture = Image.open(path, formats=_FORMATS)
    except (
        Exception
    ) as error:  # a damaged header raises OSError, SyntaxError, struct.error, DecompressionBombError, ...
        raise _unreadable(path, error) from error
    if picture.width * picture.height > _PIXEL_LIMIT:
        raise DataError(
            f"{path} is an image of {_by(picture.size[::-1])}, more than {_PIXEL_LIMIT:,} pixels: make it smaller."
        )
    if picture.mode.startswith(("I", "F")):
        raise DataError(f"{path} is an image of more than 8 bits a channel (mode {picture.mode}): save it with 8 bits.")
    return picture


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} is not a readable image ({_brief(error)}): replace it or take it out of the folder.")


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(
            f"{path} cannot be opened ({error.strerror or error}): check the name and its permissions."
        ) from None


def _npy_header(stream: Any, where: str) -> _Header:
    """Read the header of the .npy format, versions 1 to 3, as a literal and nothing more."""
    start = stream.read(8)
    if start[:6] != b"\x93NUMPY" or len(start) < 8 or start[6] not in (1, 2, 3):
        raise DataError(f"{where} is not a .npy array (it does not begin like one): save it with numpy.save.")
    count = 2 if start[6] == 1 else 4
    length = int.from_bytes(stream.read(count), "little")
    if length > _HEADER_LIMIT:
        raise DataError(f"{where} is damaged: its header announces {length:,} bytes of description.")
    text = stream.read(length)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SyntaxWarning of garbage
            fields = ast.literal_eval(text.decode("utf-8" if start[6] == 3 else "latin1").strip())
        descr, fortran, shape = fields["descr"], fields["fortran_order"], fields["shape"]
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError):
        raise DataError(f"{where} is damaged: its header cannot be read; save the array again.") from None
    if isinstance(descr, str) and descr.endswith("O"):
        raise DataError(f"{where} holds Python objects, which could run code when read: save plain numbers.")
    if not isinstance(descr, str) or not re.fullmatch(r"\|b1|[<>|=](?:[iu][1248]|f[248])", descr):
        raise DataError(f"{where} holds values of the type {_cut(repr(descr))}: save integers, floats or booleans.")
    if not isinstance(shape, tuple) or not all(type(n) is int and 0 <= n < 2**62 for n in shape):
        raise DataError(f"{where} is damaged: its header announces the shape {_cut(repr(shape))}.")
    return _Header(np.dtype(descr), shape, fortran is True, 8 + count + length)


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> tuple[str, np.ndarray]:
    name = info.filename.removesuffix(".npy")
    where = f"array {_cut(name)!r} of {path}"
    with archive.open(info) as stream:
        header = _npy_header(stream, where)
        if header.length + header.size != info.file_size:
            raise DataError(
                f"The {where} is damaged: its header announces {header.size:,} bytes of shape {header.shape}, "
                f"it holds {max(info.file_size - header.length, 0):,}."
            )
        data = stream.read(header.size + 1)  # to the end, where the checksum is compared
    if len(data) != header.size:
        raise DataError(f"The {where} is cut short: {len(data):,} of {header.size:,} bytes are there.")
    order: Any = "F" if header.fortran else "C"
    return name, np.frombuffer(bytearray(data), header.dtype).reshape(header.shape, order=order)


def _check_unpacked(path: Path, unpacked: int) -> None:
    packed = path.stat().st_size
    if unpacked > memory_limit():
        raise DataError(
            f"{path} unpacks to {unpacked / 2**30:,.1f} GiB, more than half of this machine's memory: "
            "save each array as a .npy file in one folder, which is read piece by piece."
        )
    if unpacked > max(2**30, _RATIO_LIMIT * packed):
        raise DataError(
            f"{path} unpacks to {unpacked / packed:,.0f} times its size ({unpacked / 2**30:,.1f} GiB), as no honest data do: "
            "save the arrays as .npy files in one folder."
        )


def _check_length(path: Path, announced: int) -> None:
    actual = path.stat().st_size
    if actual != announced:
        how = "cut short" if actual < announced else "damaged"
        raise DataError(f"{path} is {how}: its header announces {announced:,} bytes, the file has {actual:,}.")


def _by(size: Iterable[int] | None) -> str:
    return " x ".join(map(str, size or ()))


def _brief(error: Exception) -> str:
    return _cut(" ".join(str(error).split()) or type(error).__name__)


def _cut(text: str, limit: int = 120) -> str:
    return text if len(text) <= limit else text[:limit] + "..."
