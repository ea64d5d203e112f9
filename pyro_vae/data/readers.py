"""Arrays from untrusted files: .npy, .npz, IDX.

No reader runs code from a file or trusts its header: what the header announces is compared with
what the file holds, and with this machine's memory, before anything is allocated. Whatever is wrong
comes out as one sentence in a `DataError`.
"""

import ast
import math
import os
import re
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from pyro_vae.runs import open_regular
from pyro_vae.warning import warn

_MAX_HEADER = 10_000  # bytes; numpy's own limit for a .npy header
_MAX_RATIO = 100  # real data rarely shrink more than this; deflate reaches 1,000 on a zip bomb


class DataError(ValueError):
    """Data that cannot be used, with one sentence that says what is wrong and what to change.

    ``unused`` names the option, if it is one that can have no effect on these data.
    """

    def __init__(self, message: str, *, unused: str | None = None) -> None:
        super().__init__(message)
        self.unused = unused


class DataNote(UserWarning):
    """What was done to data on reading, in one sentence."""


def note(sentence: str) -> None:
    """Warn with a `DataNote` that points at the caller outside this package."""
    warn(sentence, DataNote)


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
    """Return the array of a .npy file, memory-mapped: it may be larger than memory.

    Raises:
        DataError: the file is missing, damaged, of Python objects, or not as long as its header
            says.
    """
    with open_file(path) as stream:
        header = _npy_header(stream, str(path))
    _check_length(path, header.length + header.size)
    if header.size == 0:
        raise DataError(f"{path} holds an empty array of shape {header.shape}: save at least one datum.")
    order = "F" if header.fortran else "C"
    return np.memmap(path, header.dtype, mode="r", offset=header.length, shape=header.shape, order=order)  # type: ignore[call-overload]


def read_npy_folder(folder: Path) -> dict[str, np.ndarray]:
    """Return the memory-mapped array of each .npy file of ``folder`` by the file's stem."""
    return {path.stem: read_npy(path) for path in sorted(folder.glob("*.npy"))}


def read_table(path: Path) -> Any:
    """Return a .csv or .tsv file with a line of names as a pandas table.

    Raises:
        DataError: the file is missing, larger than half of memory, or no table.
    """
    import pandas

    open_file(path).close()
    if path.stat().st_size > memory_limit():
        raise DataError(f"{path} is larger than half of this machine's memory: save its columns as .npy files.")
    try:
        return pandas.read_csv(path, sep="\t" if path.suffix.lower() == ".tsv" else ",", skipinitialspace=True)
    except (ValueError, pandas.errors.ParserError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is no table of columns with names: {brief(error)}.") from None


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a .npz file, read into memory.

    Raises:
        DataError: the file is missing, damaged, of Python objects, or unpacks to more than memory
            or 100 times its size (past 1 GiB).
    """
    open_file(path).close()
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_unpacked(path, sum(info.file_size for info in members))
            return dict(_read_member(archive, info, path) for info in members)
    except DataError:
        raise
    except Exception as error:  # a damaged zip raises BadZipFile, zlib.error, EOFError, struct.error, ...
        raise DataError(f"{path} is damaged and cannot be unpacked ({brief(error)}): save it again.") from error


def read_idx(path: Path, *, dims: int) -> np.ndarray:
    """Return the unsigned bytes of an IDX file (the format of MNIST) of ``dims`` dimensions.

    Raises:
        DataError: the file is missing, of another kind, or not as long as its header says.
    """
    with open_file(path) as stream:
        start = stream.read(4 + 4 * dims)
        if len(start) < 4 + 4 * dims or start[:4] != bytes((0, 0, 8, dims)):
            raise DataError(f"{path} is damaged: it does not begin as an IDX file of bytes with {dims} dimensions.")
        shape = struct.unpack(f">{dims}I", start[4:])
        _check_length(path, len(start) + math.prod(shape))
        if math.prod(shape) == 0:
            raise DataError(f"{path} is empty: its header announces the shape {shape}.")
        return np.frombuffer(stream.read(), np.uint8).reshape(shape)


def open_file(path: Path) -> BinaryIO:
    """Return ``path`` opened for reading; raise `DataError` if it is not an ordinary file."""
    try:
        return open_regular(path)
    except OSError as error:
        raise DataError(
            f"{path} cannot be opened ({error.strerror or error}): check the name and its permissions."
        ) from None


def _npy_header(stream: Any, where: str) -> _Header:
    """Read the header of the .npy format, versions 1 to 3, as a literal and nothing more."""
    # Not numpy.lib.format: it has no public reader of version 3, reads a header of 4 GiB before it
    # compares the length with its limit, and builds any dtype that a header names, however large.
    start = stream.read(8)
    if start[:6] != b"\x93NUMPY" or len(start) < 8 or start[6] not in (1, 2, 3):
        raise DataError(f"{where} is not a .npy array (it does not begin like one): save it with numpy.save.")
    count = 2 if start[6] == 1 else 4
    length = int.from_bytes(stream.read(count), "little")
    if length > _MAX_HEADER:
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
            f"{path} unpacks to {unpacked / 2**30:,.3g} GiB, more than half of this machine's memory: "
            "save each array as a .npy file in one folder, which is read piece by piece."
        )
    if unpacked > max(2**30, _MAX_RATIO * packed):
        raise DataError(
            f"{path} unpacks to {unpacked / packed:,.0f} times its size ({unpacked / 2**30:,.3g} GiB), "
            "as no honest data do: save the arrays as .npy files in one folder."
        )


def _check_length(path: Path, announced: int) -> None:
    actual = path.stat().st_size
    if actual != announced:
        how = "cut short" if actual < announced else "damaged"
        raise DataError(f"{path} is {how}: its header announces {announced:,} bytes, the file has {actual:,}.")


def brief(error: Exception) -> str:
    """Return the message of ``error`` on one line, cut to a readable length."""
    return _cut(" ".join(str(error).split()) or type(error).__name__)


def _cut(text: str, limit: int = 120) -> str:
    return text if len(text) <= limit else text[:limit] + "..."
